//! What of other nodes this node must know to reach their pods: routes, far ends of VXLAN, tunnels, sets of packet rules.
//!
//! | file | question |
//! |---|---|
//! | `wanted.rs` | what can be wanted of the kernel? |
//! | `pools.rs`, `blocks.rs`, `nodes.rs` | what does felix know of them? Facts, not resources: there are thousands |
//! | `nets.rs` | which networks cover another, and which lie inside of it? |
//! | `paths.rs` | how do packets get to a destination? |
//! | `settle.rs` | what is different now? |
//! | `told.rs` | what has been told, so that only differences are? |
//!
//! A change of a node, a block or a pool marks what lies below it ([`Touched`]), and only that is calculated again. Before
//! everything is known nothing is told: then there is no route that would be taken back.

mod blocks;
mod nets;
mod nodes;
mod paths;
mod pools;
mod settle;
mod told;
mod wanted;

use std::collections::BTreeSet;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use bgp_plan::owners::{self, Classes};
use bgp_plan::subnet;
use calico_api::{IPAMBlock, IPPool, Node};
use ipnet::IpNet;

use self::blocks::{Blocks, Name};
use self::nodes::Nodes;
use self::pools::Pools;
use self::told::Told;
pub use self::wanted::{Ipip, Path, Remote, Set, Tunnels, Vtep, Vxlan, mac_of};
use crate::changes::Change;
use crate::endpoint::Unusable;
use crate::inputs::{Routing, Settings};
use crate::notice::Notice;

/// What is to be calculated again.
#[derive(Debug, Default)]
struct Touched {
    destinations: BTreeSet<IpNet>,
    nodes: BTreeSet<Name>,
    members: BTreeSet<(Set, IpNet)>,
    notices: bool,
}

/// Which tunnels pools want, or a node announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Modes {
    ipip: bool,
    vxlan: bool,
    vxlan_v6: bool,
}

impl Modes {
    fn vxlan(self, ipv6: bool) -> bool {
        if ipv6 { self.vxlan_v6 } else { self.vxlan }
    }
}

/// The calculation's state as far as other nodes go.
#[derive(Debug)]
pub(crate) struct Cluster {
    own: Name,
    routing: Routing,
    felix_programs: Option<String>,
    bgp_programs: Option<String>,
    /// What of the classes is the BGP speaker's.
    speakers: Classes,
    external: BTreeSet<IpNet>,
    /// Addresses of this node's interfaces.
    held: Vec<IpNet>,
    /// This node's subnets, IPv4 and IPv6.
    subnets: (Option<IpNet>, Option<IpNet>),
    /// The tunnels that this node's own Node announces.
    announced: Modes,
    modes: Modes,
    /// Names of nodes, each kept once; at some size those are dropped that nobody has any more.
    names: BTreeSet<Name>,
    sweep_names_at: usize,
    pools: Pools,
    blocks: Blocks,
    nodes: Nodes,
    told: Told,
    in_sync: bool,
}

impl Cluster {
    pub(crate) fn new(settings: &Settings) -> Self {
        let own: Name = settings.node.as_str().into();
        let mut cluster = Self {
            own: own.clone(),
            routing: settings.routing,
            felix_programs: settings.felix_programs.clone(),
            bgp_programs: None,
            speakers: Classes::FELIXS,
            external: settings.external_nodes.iter().map(IpNet::trunc).collect(),
            held: Vec::new(),
            subnets: (None, None),
            announced: Modes::default(),
            modes: Modes::default(),
            names: BTreeSet::from([own.clone()]),
            sweep_names_at: 1024,
            pools: Pools::default(),
            blocks: Blocks::default(),
            nodes: Nodes::new(own),
            told: Told::default(),
            in_sync: false,
        };
        cluster.speakers = cluster.classes().0;
        cluster
    }

    /// Takes a pool.
    pub(crate) fn put_pool(&mut self, pool: &IPPool) -> Vec<Change> {
        let cidrs = self.pools.put(pool.metadata.name(), &pool.spec);
        self.pools_changed(&cidrs)
    }

    /// Forgets a pool.
    pub(crate) fn delete_pool(&mut self, name: &str) -> Vec<Change> {
        let cidrs = self.pools.delete(name);
        self.pools_changed(&cidrs)
    }

    fn pools_changed(&mut self, cidrs: &BTreeSet<IpNet>) -> Vec<Change> {
        let mut touched = Touched { notices: true, ..Touched::default() };
        for cidr in cidrs {
            touched.destinations.extend(self.blocks.inside(cidr));
            touched.destinations.extend(self.nodes.inside(cidr).map(IpNet::from));
            touched.members.extend([(Set::Pools, *cidr), (Set::MasqueradedPools, *cidr)]);
        }
        let of_family = |ipv6: bool| self.pools.all().any(|pool| pool.vxlan && pool.cidr.addr().is_ipv6() == ipv6);
        let ipip = self.pools.all().any(|pool| pool.ipip);
        let modes = Modes { ipip, vxlan: of_family(false), vxlan_v6: of_family(true) };
        if mem::replace(&mut self.modes, modes) != modes {
            touched.nodes.extend(self.nodes.names().cloned());
            touched.destinations.extend(self.nodes.tunnels().map(IpNet::from));
            touched.members.extend(self.nodes.hosts().map(|host| (Set::VxlanHosts, IpNet::from(host))));
        }
        self.settle(touched)
    }

    /// Takes a block.
    pub(crate) fn put_block(&mut self, block: &IPAMBlock) -> Vec<Change> {
        let names = &mut self.names;
        let destinations = self.blocks.put(&block.spec, |text| name_in(names, text));
        self.blocks_changed(destinations)
    }

    /// Forgets a block.
    pub(crate) fn delete_block(&mut self, network: &IpNet) -> Vec<Change> {
        let destinations = self.blocks.delete(network);
        self.blocks_changed(destinations)
    }

    fn blocks_changed(&mut self, mut destinations: BTreeSet<IpNet>) -> Vec<Change> {
        // Tunnels' addresses may have routes of their own, or be covered by a block's.
        let tunnels: Vec<IpAddr> = destinations.iter().flat_map(|network| self.nodes.inside(network)).collect();
        destinations.extend(tunnels.into_iter().map(IpNet::from));
        self.settle(Touched { destinations, ..Touched::default() })
    }

    /// Takes a node.
    ///
    /// # Errors
    /// If a field cannot be understood; the last good version stays.
    pub(crate) fn put_node(&mut self, node: &Node) -> Result<Vec<Change>, Unusable> {
        let names = &mut self.names;
        let changed = self.nodes.put(node, |text| name_in(names, text))?;
        Ok(self.nodes_changed(changed))
    }

    /// Forgets a node.
    pub(crate) fn delete_node(&mut self, name: &str) -> Vec<Change> {
        let name = name_in(&mut self.names, name);
        let changed = self.nodes.delete(name);
        self.nodes_changed(changed)
    }

    fn nodes_changed(&mut self, (nodes, addresses): (BTreeSet<Name>, BTreeSet<IpAddr>)) -> Vec<Change> {
        if nodes.is_empty() {
            return Vec::new();
        }
        if self.names.len() > self.sweep_names_at {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_names_at = 2 * self.names.len() + 1024;
        }
        let contested = self.nodes.contested().next().is_some();
        let mut touched = Touched { notices: contested || self.told.has_same_address(), ..Touched::default() };
        touched.destinations.extend(addresses.iter().copied().map(IpNet::from));
        for node in &nodes {
            touched.destinations.extend(self.blocks.of_node(node));
            let facts = self.nodes.get(node);
            for family in facts.into_iter().flat_map(|facts| [&facts.v4, &facts.v6]) {
                touched.destinations.extend(family.tunnels().map(IpNet::from));
                touched.members.extend(family.host.map(|host| (Set::VxlanHosts, IpNet::from(host.addr()))));
            }
        }
        for address in addresses {
            touched.members.extend([Set::Hosts, Set::VxlanHosts].map(|set| (set, IpNet::from(address))));
        }
        if nodes.contains(&self.own) {
            touched.notices = true;
            self.look_at_own(&mut touched);
        }
        touched.nodes = nodes;
        self.settle(touched)
    }

    /// Takes the addresses that this node's interfaces hold.
    pub(crate) fn set_held(&mut self, held: Vec<IpNet>) -> Vec<Change> {
        self.held = held;
        let mut touched = Touched { notices: true, ..Touched::default() };
        self.look_at_own(&mut touched);
        self.settle(touched)
    }

    /// Looks at what of this node itself all routes depend on.
    fn look_at_own(&mut self, touched: &mut Touched) {
        let own = self.nodes.own();
        let subnet = |ipv6| subnet::of(own?.family(ipv6).host?, &self.held);
        let subnets = (subnet(false), subnet(true));
        let announced = own.map_or(Modes::default(), |own| Modes {
            ipip: own.v4.ipip.is_some(),
            vxlan: own.v4.vxlan.is_some(),
            vxlan_v6: own.v6.vxlan.is_some(),
        });
        let before = (mem::replace(&mut self.subnets, subnets), mem::replace(&mut self.announced, announced));
        if before != (subnets, announced) {
            self.touch_destinations(touched);
        }
    }

    /// Takes BGPConfiguration's `programClusterRoutes`.
    pub(crate) fn set_bgp_programs(&mut self, programs: Option<&str>) -> Vec<Change> {
        if self.bgp_programs.as_deref() == programs {
            return Vec::new();
        }
        self.bgp_programs = programs.map(str::to_owned);
        self.programs_changed()
    }

    /// Takes FelixConfiguration's `programClusterRoutes`.
    pub(crate) fn set_felix_programs(&mut self, programs: Option<String>) -> Vec<Change> {
        if self.felix_programs == programs {
            return Vec::new();
        }
        self.felix_programs = programs;
        self.programs_changed()
    }

    fn programs_changed(&mut self) -> Vec<Change> {
        let mut touched = Touched { notices: true, ..Touched::default() };
        let speakers = self.classes().0;
        if mem::replace(&mut self.speakers, speakers) != speakers {
            self.touch_destinations(&mut touched);
        }
        self.settle(touched)
    }

    /// Everything has been told: now is the time to tell.
    pub(crate) fn in_sync(&mut self) -> Vec<Change> {
        self.in_sync = true;
        let mut touched = Touched { notices: true, ..Touched::default() };
        self.touch_destinations(&mut touched);
        touched.nodes.extend(self.nodes.names().cloned());
        let pools = self.pools.cidrs().flat_map(|cidr| [(Set::Pools, *cidr), (Set::MasqueradedPools, *cidr)]);
        let hosts = self.external.iter().copied().chain(self.nodes.hosts().map(IpNet::from));
        let hosts = hosts.flat_map(|host| [(Set::Hosts, host), (Set::VxlanHosts, host)]);
        touched.members.extend(pools.chain(hosts));
        self.settle(touched)
    }

    /// Takes as little room as it can: what came in order left the maps' nodes half empty.
    pub(crate) fn pack(&mut self) {
        self.blocks.pack();
        let routes = &mut self.told.routes;
        *routes = mem::take(routes).into_iter().collect();
    }

    /// What the operator should know, and what still holds.
    pub(crate) fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.told.notices.iter()
    }

    /// Destinations whose nodes do not take packets by what their pools want.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &IpNet> {
        self.told.awaited()
    }

    fn touch_destinations(&self, touched: &mut Touched) {
        touched.destinations.extend(self.blocks.destinations());
        touched.destinations.extend(self.nodes.tunnels().map(IpNet::from));
    }

    /// What of the classes is the BGP speaker's, and what is wrong with how that is configured.
    fn classes(&self) -> (Classes, Option<String>) {
        match self.routing {
            Routing::Bgp => owners::classes(self.bgp_programs.as_deref(), self.felix_programs.as_deref()),
            Routing::WithoutBgp | Routing::Off => (Classes::FELIXS, None),
        }
    }
}

fn name_in(names: &mut BTreeSet<Name>, text: &str) -> Name {
    if let Some(name) = names.get(text) {
        return name.clone();
    }
    let name: Name = text.into();
    names.insert(name.clone());
    name
}
