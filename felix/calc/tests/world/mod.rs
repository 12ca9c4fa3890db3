//! A calculation, what is put into it, and what a receiver of its changes knows.
#![allow(dead_code, reason = "each test uses what it needs")]

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{
    AllocationAttribute, EncapMode, IPAMBlock, IPAMBlockSpec, IPPool, IPPoolSpec, Key, Kind, Node, NodeAddress,
    NodeBGPSpec, NodeSpec, ObjectMeta, PoolUse,
};
use felix_calc::{Calc, Change, Notice, Path, Remote, Routing, Set, Settings, Tunnels, Unusable, Update, Vtep};
use ipnet::IpNet;

pub(crate) struct TestNode(pub(crate) Node);

/// A node with an address.
pub(crate) fn node(address: Option<&str>, name: &str) -> TestNode {
    let bgp = address.map(|text| NodeBGPSpec { ipv4_address: Some(text.to_owned()), ..NodeBGPSpec::default() });
    TestNode(Node::new(ObjectMeta::named(name), NodeSpec { bgp, ..NodeSpec::default() }))
}

impl TestNode {
    pub(crate) fn ipip(mut self, address: &str) -> Self {
        self.0.spec.bgp.get_or_insert_default().ipv4_ipip_tunnel_addr = Some(address.to_owned());
        self
    }

    pub(crate) fn vxlan(mut self, address: &str) -> Self {
        self.0.spec.ipv4_vxlan_tunnel_addr = Some(address.to_owned());
        self
    }

    /// Both tunnels, with the first and the last address of a network of 64.
    pub(crate) fn ready(self, network: &str) -> Self {
        self.ipip(&format!("{network}.1")).vxlan(&format!("{network}.62"))
    }

    /// Both tunnels, with two addresses that no other place has.
    pub(crate) fn ready_at(self, network: &str, place: usize) -> Self {
        self.ipip(&format!("{network}.{place}")).vxlan(&format!("{network}.{}", place + 16))
    }

    pub(crate) fn update(self) -> Update {
        Update::Node(Box::new(self.0))
    }
}

pub(crate) fn address(address_type: &str, address: &str) -> NodeAddress {
    NodeAddress { address: address.to_owned(), address_type: Some(address_type.to_owned()) }
}

/// A block of an owner, some of whose addresses are used on these nodes.
pub(crate) fn block(network: &str, owner: &str, used: &[(usize, &str)]) -> Update {
    let cidr: IpNet = network.parse().unwrap();
    let size = 1usize << (cidr.max_prefix_len() - cidr.prefix_len());
    let mut allocations = vec![None; size];
    let mut attributes = Vec::new();
    for (ordinal, node) in used.iter().filter(|(ordinal, _)| *ordinal < size) {
        allocations[*ordinal] = Some(u32::try_from(attributes.len()).unwrap());
        let secondary = BTreeMap::from([("node".to_owned(), Some((*node).to_owned()))]);
        attributes.push(AllocationAttribute { secondary: Some(secondary), ..AllocationAttribute::default() });
    }
    let spec = IPAMBlockSpec {
        cidr,
        affinity: (!owner.is_empty()).then(|| owner.to_owned()),
        affinity_claim_time: None,
        allocations,
        unallocated: Vec::new(),
        attributes,
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
        strict_affinity: false,
    };
    Update::Block(Box::new(IPAMBlock::new(ObjectMeta::default(), spec)))
}

pub(crate) fn pool(name: &str, cidr: &str, ipip: Option<EncapMode>, vxlan: Option<EncapMode>) -> Update {
    let spec = IPPoolSpec { ipip_mode: ipip, vxlan_mode: vxlan, ..IPPoolSpec::new(cidr) };
    Update::Pool(Box::new(IPPool::new(ObjectMeta::named(name), spec)))
}

fn edited(mut update: Update, edit: impl FnOnce(&mut IPPoolSpec)) -> Update {
    let Update::Pool(pool) = &mut update else { panic!("no pool: {update:?}") };
    edit(&mut pool.spec);
    update
}

pub(crate) fn disabled(pool: Update) -> Update {
    edited(pool, |spec| spec.disabled = Some(true))
}

pub(crate) fn for_balancers(pool: Update) -> Update {
    edited(pool, |spec| spec.allowed_uses = Some(vec![PoolUse::LoadBalancer]))
}

pub(crate) fn with_nat(pool: Update) -> Update {
    edited(pool, |spec| spec.nat_outgoing = Some(true))
}

/// What BGPConfiguration `default` says in `programClusterRoutes`.
pub(crate) fn configuration(programs: Option<&str>) -> Update {
    Update::Programs(programs.map(str::to_owned))
}

pub(crate) fn subnets(held: &[&str]) -> Update {
    Update::Subnets(held.iter().map(|text| text.parse().unwrap()).collect())
}

pub(crate) fn gone(kind: Kind, name: &str) -> Update {
    Update::Deleted(Key::named(kind, name))
}

/// The calculation of node `east`.
pub(crate) struct World {
    pub(crate) calc: Calc,
    routes: BTreeMap<IpNet, Remote>,
    vteps: BTreeMap<(String, bool), Vtep>,
    tunnels: Tunnels,
    members: BTreeSet<(Set, IpNet)>,
    holes: BTreeSet<IpNet>,
    notices: Vec<Notice>,
    pub(crate) ignored: Vec<Unusable>,
    in_sync: bool,
    own: bool,
}

impl World {
    pub(crate) fn new(routing: Routing, felix_programs: Option<&str>) -> Self {
        let settings = Settings {
            node: "east".to_owned(),
            prefixes: vec!["cali".to_owned()],
            routing,
            felix_programs: felix_programs.map(str::to_owned),
            external_nodes: vec!["198.51.100.0/24".parse().unwrap()],
        };
        Self {
            calc: Calc::new(settings),
            routes: BTreeMap::new(),
            vteps: BTreeMap::new(),
            tunnels: Tunnels::default(),
            members: BTreeSet::new(),
            holes: BTreeSet::new(),
            notices: Vec::new(),
            ignored: Vec::new(),
            in_sync: false,
            own: false,
        }
    }

    pub(crate) fn take_all(&mut self, updates: impl IntoIterator<Item = Update>) {
        updates.into_iter().for_each(|update| drop(self.take(update)));
    }

    /// Takes an update and what follows from it; each change must be one, and find what it needs.
    #[track_caller]
    pub(crate) fn take(&mut self, update: Update) -> Vec<Change> {
        match &update {
            Update::Node(node) if node.metadata.name() == "east" => self.own = true,
            Update::Deleted(key) if *key == Key::named(Kind::Node, "east") => self.own = false,
            _ => {}
        }
        let changes = self.calc.update(update);
        for change in &changes {
            match change {
                Change::Remote { destination, wanted: Some(remote) } => {
                    assert_ne!(self.routes.insert(*destination, *remote), Some(*remote), "{change:?}");
                    self.find_needs(destination, remote);
                }
                Change::Remote { destination, wanted: None } => {
                    assert!(self.in_sync && self.routes.remove(destination).is_some(), "{change:?}");
                }
                Change::Vtep { node, ipv6, wanted } => {
                    let key = (node.clone(), *ipv6);
                    let before = match wanted {
                        Some(vtep) => self.vteps.insert(key, *vtep),
                        None => self.vteps.remove(&key),
                    };
                    assert_ne!(before, *wanted, "{change:?}");
                }
                Change::Tunnels(tunnels) => {
                    assert_ne!(&self.tunnels, tunnels);
                    self.tunnels = tunnels.clone();
                }
                Change::Member { set, member, wanted: true } => assert!(self.members.insert((*set, *member))),
                Change::Member { set, member, wanted: false } => assert!(self.members.remove(&(*set, *member))),
                Change::BlackHole { network, wanted: true } => drop(self.holes.insert(*network)),
                Change::BlackHole { network, wanted: false } => drop(self.holes.remove(network)),
                Change::Notice(notice) => self.notices.push(notice.clone()),
                Change::Ignored { reason, .. } => self.ignored.push(reason.clone()),
                Change::InSync => self.in_sync = true,
                Change::PeersKnown => {}
                Change::Interface { .. } => panic!("unexpected: {change:?}"),
            }
        }
        // Nothing of the cluster is told before it is known, and everything with it.
        let told = !self.routes.is_empty() || !self.members.is_empty() || !self.vteps.is_empty();
        assert!(self.in_sync || !told, "told before in sync");
        for (destination, remote) in &self.routes {
            self.find_needs(destination, remote);
        }
        changes
    }

    #[track_caller]
    fn find_needs(&self, destination: &IpNet, remote: &Remote) {
        let found = match remote {
            Remote::By(Path::Ipip { .. }) => self.tunnels.ipip.is_some(),
            Remote::By(Path::Vxlan { gateway }) => self.vteps.values().any(|vtep| vtep.tunnel == *gateway),
            _ => true,
        };
        assert!(found, "{destination} {remote:?} among {:?} and {:?}", self.tunnels, self.vteps);
    }

    /// Destinations whose nodes do not take packets by what their pools want.
    pub(crate) fn awaited(&self) -> Vec<String> {
        self.calc.awaited().map(ToString::to_string).collect()
    }

    pub(crate) fn route_map(&self) -> BTreeMap<String, String> {
        self.routes().into_iter().collect()
    }

    /// Destinations and paths, in order.
    pub(crate) fn routes(&self) -> Vec<(String, String)> {
        self.routes.iter().map(|(destination, remote)| (destination.to_string(), words(remote))).collect()
    }

    #[track_caller]
    pub(crate) fn check(&self, expected: &[&str]) {
        let lines: Vec<String> = self.routes().into_iter().map(|(to, path)| format!("{to} {path}")).collect();
        assert_eq!(lines, expected);
    }

    pub(crate) fn vteps(&self) -> Vec<String> {
        let line = |((node, _), vtep): (&(String, bool), &Vtep)| format!("{node} {} at {}", vtep.tunnel, vtep.host);
        self.vteps.iter().map(line).collect()
    }

    pub(crate) fn vtep_macs(&self) -> Vec<[u8; 6]> {
        self.vteps.values().map(|vtep| vtep.mac).collect()
    }

    pub(crate) fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Whether this node's own Node is known.
    pub(crate) fn knows_own(&self) -> bool {
        self.own
    }

    pub(crate) fn members(&self, wanted: Set) -> Vec<String> {
        self.members.iter().filter(|(set, _)| *set == wanted).map(|(_, member)| member.to_string()).collect()
    }

    pub(crate) fn all_members(&self) -> &BTreeSet<(Set, IpNet)> {
        &self.members
    }

    pub(crate) fn holes(&self) -> Vec<String> {
        self.holes.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn notices(&self) -> &[Notice] {
        &self.notices
    }

    pub(crate) fn route_count(&self) -> usize {
        self.routes.len()
    }
}

fn words(remote: &Remote) -> String {
    match remote {
        Remote::Leave => "leave".to_owned(),
        Remote::By(Path::Plain { gateway }) => format!("plain {gateway}"),
        Remote::By(Path::Ipip { gateway }) => format!("ipip {gateway}"),
        Remote::By(Path::Vxlan { gateway }) => format!("vxlan {gateway}"),
        Remote::By(Path::VxlanLink) => "link".to_owned(),
    }
}
