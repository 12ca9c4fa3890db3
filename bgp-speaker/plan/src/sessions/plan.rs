//! How do sessions follow from the resources? Mesh and explicit peers, and what happens where they meet.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use calico_api::BGPConfigurationSpec;

use super::cluster::{Between, Cluster, Member, Side};
use super::config::{session_name, session_name_of_text};
use super::peering::restart_time;
use super::{
    Field, Listen, LocalSide, NextHopMode, Origin, Peering, Plan, RESTART_TIME, RemoteSide, SessionConfig, Warning,
};
use crate::inputs::Inputs;

/// The plan of `node`. Who needs those of many nodes makes a [`Cluster`] once.
pub fn plan(inputs: &Inputs, node: &str) -> Plan {
    Cluster::new(inputs).plan(node)
}

/// Whether we wait for the peer to dial: byte comparison of the printed addresses, as Calico does it.
pub fn waits_for(own: IpAddr, peer: IpAddr) -> bool {
    peer.to_string() > own.to_string()
}

pub(super) fn of(cluster: &Cluster<'_>, node: &str) -> Plan {
    let index = cluster.find(node);
    let me = index.and_then(|index| Some((index, cluster.members.get(index)?)));
    let Some((index, me)) = me.filter(|(_, me)| !me.addresses.is_empty()) else {
        return Plan { warnings: vec![Warning::NoAddress(node.to_owned())], ..Plan::default() };
    };
    let mut planner = Planner {
        cluster,
        index,
        me,
        table: BTreeMap::new(),
        collisions: BTreeMap::new(),
        warnings: Vec::new(),
        silent: false,
    };
    planner.explicit();
    planner.workloads();
    planner.check_explicit();
    planner.mesh();
    planner.check();
    let mut sessions: Vec<_> = planner.table.into_values().map(|entry| entry.session).collect();
    sessions.sort_by(|a, b| a.name.cmp(&b.name));
    Plan {
        local: Some(me.facts.clone()),
        local_as: me.as_number,
        listen: listen(cluster.inputs, me),
        sessions,
        warnings: planner.warnings,
    }
}

fn listen(inputs: &Inputs, me: &Member<'_>) -> Listen {
    let port = me.port.unwrap_or(BGPConfigurationSpec::DEFAULT_PORT);
    let own_only = inputs.global.bind_mode.as_deref() == Some("NodeIP");
    let bind = |address: IpAddr| {
        let any = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        SocketAddr::new(if own_only { address } else { any }, port)
    };
    Listen {
        ipv4: me.facts.ipv4.map(|net| bind(net.addr().into())),
        ipv6: me.facts.ipv6.map(|net| bind(net.addr().into())),
    }
}

/// Which half of a BGPPeer a session follows from. Earlier ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Half {
    /// The node is on the local side.
    Forward,
    /// The node is the peer.
    Reverse,
    /// A workload of the node is the peer.
    Workload,
    /// None: the mesh.
    Mesh,
}

struct Entry {
    session: SessionConfig,
    half: Half,
    /// The index of the BGPPeer.
    by: usize,
}

/// The other end of a session.
struct Remote {
    address: IpAddr,
    /// The port, if one is configured.
    port: Option<u16>,
    peer_as: u32,
    /// The index of the node, if it is one.
    node: Option<usize>,
    /// Its cluster ID, where Calico knows it.
    cluster_id: Option<Ipv4Addr>,
}

struct Planner<'a> {
    cluster: &'a Cluster<'a>,
    index: usize,
    me: &'a Member<'a>,
    /// Sessions by the peer's address and port.
    table: BTreeMap<(IpAddr, u16), Box<Entry>>,
    /// BGPPeers that configure the same peers differently, by winner and loser: the peers and the fields.
    collisions: BTreeMap<(usize, usize), (Vec<String>, BTreeSet<Field>)>,
    warnings: Vec<Warning>,
    /// Whether nobody reads the warnings, so that none are made.
    silent: bool,
}

impl<'a> Planner<'a> {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.table.values().map(Box::as_ref)
    }

    fn explicit(&mut self) {
        let cluster = self.cluster;
        for origin in [Origin::Global, Origin::Node] {
            for (by, between) in cluster.peerings.iter().enumerate() {
                let is_global = matches!(between.peering.local, LocalSide::All);
                if is_global == (origin == Origin::Global) && cluster.is_local(between, self.index) {
                    self.forward(by, between, origin);
                }
            }
        }
        for (by, between) in cluster.peerings.iter().enumerate() {
            if between.peering.reverse && cluster.is_remote(between, self.index) {
                self.reverse(by, between);
            }
        }
    }

    /// What a BGPPeer makes of the node as one of its local side.
    fn forward(&mut self, by: usize, between: &Between<'_>, origin: Origin) {
        if !self.silent {
            self.warnings.extend(between.peering.warnings(between.name));
        }
        let cluster = self.cluster;
        match &between.peering.remote {
            RemoteSide::Address { address, port, peer_as } => {
                // Of several nodes with the address, the one of that AS; only its port is that of a resource without.
                let remote = cluster.remote(between);
                let member = |index: &usize| cluster.members.get(*index);
                let of_that_as = |index: &&usize| member(index).is_some_and(|there| there.as_number == *peer_as);
                let like = remote.iter().find(of_that_as);
                let port = port.or(like.and_then(member).and_then(|there| there.port));
                let node = like.or(remote.first()).copied();
                // Calico does not know the cluster ID of a peer that is configured by its address: in our AS, it is a client.
                let remote = Remote { address: *address, port, peer_as: *peer_as, node, cluster_id: None };
                self.offer(by, between, Half::Forward, origin, remote);
            }
            RemoteSide::Nodes(selector) => {
                let mutual = cluster.is_remote(between, self.index);
                let remote = cluster.remote(between);
                for index in remote {
                    let Some(there) = cluster.members.get(*index) else { continue };
                    // Who is on both sides, as we are, speaks with the resource's AS number as we do.
                    let speaks_as = between.peering.local_as.filter(|_| mutual && cluster.is_local(between, *index));
                    let peer_as = speaks_as.unwrap_or(there.as_number);
                    self.towards(by, between, Half::Forward, origin, *index, peer_as);
                }
                if remote.is_empty() && !self.silent {
                    let (peer, selector) = (between.name.to_owned(), selector.to_string());
                    self.warnings.push(Warning::NoRemote { peer, selector });
                }
            }
            RemoteSide::Workloads { .. } | RemoteSide::Nobody(_) => {}
        }
    }

    /// What a BGPPeer makes of the node as the peer: sessions back.
    fn reverse(&mut self, by: usize, between: &Between<'_>) {
        if let RemoteSide::Address { peer_as, .. } = &between.peering.remote
            && *peer_as != self.me.as_number
        {
            return; // they would refuse us; both ends are told
        }
        let back = |planner: &mut Self, index: usize| {
            let Some(there) = planner.cluster.members.get(index) else { return };
            // Departs from Calico, which expects the node's AS here although the other end speaks with this one.
            let peer_as = between.peering.local_as.unwrap_or(there.as_number);
            planner.towards(by, between, Half::Reverse, Origin::Node, index, peer_as);
        };
        let cluster = self.cluster;
        match cluster.local(between) {
            Side::All => (0..cluster.members.len()).for_each(|index| back(self, index)),
            Side::Some(members) => members.iter().for_each(|index| back(self, *index)),
        }
    }

    /// Sessions with a node, one of each family that both have.
    fn towards(&mut self, by: usize, between: &Between<'_>, half: Half, origin: Origin, index: usize, peer_as: u32) {
        let Some(there) = self.cluster.members.get(index).filter(|_| index != self.index) else { return };
        let only = match (half, &between.peering.remote) {
            (Half::Reverse, RemoteSide::Address { address, .. }) => Some(address.is_ipv4()),
            _ => None,
        };
        for (address, _) in &there.addresses {
            if only.is_none_or(|v4| address.is_ipv4() == v4) {
                let remote = Remote {
                    address: *address,
                    port: there.port,
                    peer_as,
                    node: Some(index),
                    cluster_id: there.facts.cluster_id,
                };
                self.offer(by, between, half, origin, remote);
            }
        }
    }

    /// Takes a session into the table, unless there is one with that peer.
    fn offer(&mut self, by: usize, between: &Between<'_>, half: Half, origin: Origin, remote: Remote) {
        let own = self.me.facts.address_like(remote.address).filter(|own| *own != remote.address);
        let Some(own) = own else { return };
        let key = (remote.address, remote.port.unwrap_or(BGPConfigurationSpec::DEFAULT_PORT));
        match self.table.get(&key) {
            None => {
                let session = self.session(between, half, origin, own, &remote);
                self.table.insert(key, Box::new(Entry { session, half, by }));
            }
            // A session that is only the other end of one gives way to what is written for this end.
            Some(winner) if winner.by == by || winner.half < half || self.silent => {}
            Some(winner) => {
                let loser = self.session(between, half, origin, own, &remote);
                let differs = winner.session.changes_to(&loser).into_iter().map(|change| change.field);
                let told = |field: &Field| {
                    !matches!(
                        field,
                        Field::Name | Field::Origin | Field::Resource | Field::Remote | Field::Passive | Field::Client
                    )
                };
                let differs: Vec<_> = differs.filter(told).collect();
                if !differs.is_empty() {
                    let (peers, fields) = self.collisions.entry((winner.by, by)).or_default();
                    peers.push(winner.session.peer.ip().to_string());
                    fields.extend(differs);
                }
            }
        }
    }

    fn session(
        &self,
        between: &Between<'_>,
        half: Half,
        origin: Origin,
        own: IpAddr,
        remote: &Remote,
    ) -> SessionConfig {
        let peering = between.peering;
        // Departs from Calico, which ignores localASNumber beside peerSelector.
        let local_as = peering.local_as.filter(|_| half != Half::Reverse).unwrap_or(self.me.as_number);
        let internal = local_as == remote.peer_as;
        let cluster_id = self.me.facts.cluster_id;
        let by_address = matches!(peering.remote, RemoteSide::Address { .. });
        let peer = SocketAddr::new(remote.address, remote.port.unwrap_or(BGPConfigurationSpec::DEFAULT_PORT));
        let name = session_name(origin, remote.address, remote.port);
        SessionConfig {
            resource: Some(between.name.to_owned()),
            remote: remote.node.and_then(|index| self.cluster.members.get(index)).map(|there| there.name.to_owned()),
            source: peering.from_node_address.then_some(own),
            // The one explicit form whose peer Calico knows to be a node, so that one side alone dials. Departs from Calico
            // where the port is not the node's: behind it is another speaker, which need not dial.
            passive: origin == Origin::Global && by_address && remote.node.is_some() && self.waits_for(remote.address),
            cluster_id,
            // A peer known only by its address is a client even if it reflects itself: topologies rely on it.
            client: cluster_id.is_some() && internal && remote.cluster_id != cluster_id,
            restart_time: peering.restart_time,
            keepalive: peering.keepalive,
            ttl_security: peering.ttl_security,
            next_hop: next_hop(peering, internal),
            allowed_local_as: if half == Half::Forward { peering.allowed_local_as } else { 0 },
            // Departs from Calico, which gives it to the other end too; but it is a gateway on our link, not on theirs.
            reachable_by: peering.reachable_by.filter(|_| half == Half::Forward),
            password: peering.password.clone(),
            filters: peering.filters.clone(),
            ..SessionConfig::named(name, origin, peer, local_as, remote.peer_as)
        }
    }

    /// Whether we wait for this peer, without printing our own address anew.
    fn waits_for(&self, address: IpAddr) -> bool {
        let own = self.me.addresses.iter().find(|(own, _)| own.is_ipv4() == address.is_ipv4());
        own.is_some_and(|(_, own)| address.to_string() > *own)
    }

    /// Local workloads that felix says are peers.
    fn workloads(&mut self) {
        let cluster = self.cluster;
        for workload in cluster.inputs.local_workloads.values() {
            let found = cluster.peerings.iter().enumerate().find(|(_, between)| between.name == workload.peer);
            let Some((by, between)) = found else { continue };
            let RemoteSide::Workloads { peer_as, .. } = &between.peering.remote else { continue };
            if !cluster.is_local(between, self.index) {
                continue;
            }
            let addresses = [workload.ipv4.map(IpAddr::from), workload.ipv6.map(IpAddr::from)];
            for address in addresses.into_iter().flatten() {
                let Some(own) = self.me.facts.address_like(address) else { continue };
                let remote = Remote { address, port: None, peer_as: *peer_as, node: None, cluster_id: None };
                let session = SessionConfig {
                    passive: true,
                    client: false,
                    ..self.session(between, Half::Workload, Origin::LocalWorkload, own, &remote)
                };
                self.table
                    .entry((address, BGPConfigurationSpec::DEFAULT_PORT))
                    .or_insert_with(|| Box::new(Entry { session, half: Half::Workload, by }));
            }
        }
    }

    fn meshes(&self) -> bool {
        self.me.facts.cluster_id.is_none() && self.cluster.inputs.global.node_to_node_mesh_enabled != Some(false)
    }

    fn mesh(&mut self) {
        if !self.meshes() {
            return;
        }
        let global = &self.cluster.inputs.global;
        let restart_time = restart_time(global.node_mesh_max_restart_time.as_deref()).unwrap_or_else(|text| {
            let field = "BGPConfiguration default: nodeMeshMaxRestartTime".to_owned();
            self.warnings.push(Warning::BadDuration { field, text });
            RESTART_TIME
        });
        let explicit: BTreeSet<IpAddr> = self.table.keys().map(|(address, _)| *address).collect();
        let mut suppressed: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (index, there) in self.cluster.members.iter().enumerate() {
            if index == self.index || there.facts.cluster_id.is_some() {
                continue;
            }
            for (address, text) in &there.addresses {
                let own = self.me.addresses.iter().find(|(own, _)| own.is_ipv4() == address.is_ipv4());
                let Some((own, own_text)) = own.filter(|(own, _)| own != address) else { continue };
                // Of several nodes with one address, the first by name; the others are stale.
                let first = self.cluster.at(*address).iter().find(|other| {
                    self.cluster.members.get(**other).is_some_and(|other| other.facts.cluster_id.is_none())
                });
                if first.is_some_and(|first| *first != index) {
                    continue;
                }
                let port = there.port.unwrap_or(BGPConfigurationSpec::DEFAULT_PORT);
                let is_alone = !explicit.contains(address);
                // Departs from Calico, where the second session with a peer waits for ever: explicit beats mesh, so
                // that its password and filters count.
                if !is_alone && let Some(by) = self.explicit_with(*address, port, there.name) {
                    suppressed.entry(by).or_default().push(session_name_of_text(Origin::Mesh, text));
                    continue;
                }
                // Departs from Calico since December 2025, which takes this node's own AS for that of a node without.
                let peer = SocketAddr::new(*address, port);
                let name = session_name_of_text(Origin::Mesh, text);
                let session = SessionConfig::named(name, Origin::Mesh, peer, self.me.as_number, there.as_number);
                let session = SessionConfig {
                    remote: Some(there.name.to_owned()),
                    source: Some(*own),
                    // Beside another speaker with that address, who dials us is taken for that one: then we dial too.
                    passive: text > own_text && is_alone,
                    restart_time,
                    password: global.node_mesh_password.clone(),
                    ..session
                };
                let entry = Entry { session, half: Half::Mesh, by: usize::MAX };
                self.table.insert((*address, port), Box::new(entry));
            }
        }
        for (by, mesh) in suppressed {
            let peer = self.peering_name(by);
            self.warnings.push(Warning::Suppressed { peer, mesh });
        }
    }

    /// The BGPPeer that gives us a session with this node, or with whatever listens on its port. (Another speaker may be
    /// behind another port.)
    fn explicit_with(&self, address: IpAddr, port: u16, node: &str) -> Option<usize> {
        let is_it = |other: u16, entry: &Entry| other == port || entry.session.remote.as_deref() == Some(node);
        let mut there = self.table.range((address, 0)..=(address, u16::MAX));
        there.find(|((_, port), entry)| is_it(*port, entry)).map(|(_, entry)| entry.by)
    }

    fn peering_name(&self, by: usize) -> String {
        self.cluster.peerings.get(by).map_or_else(String::new, |between| between.name.to_owned())
    }
}

fn next_hop(peering: &Peering, internal: bool) -> NextHopMode {
    match peering.next_hop {
        Some(mode) => mode,
        None if internal => NextHopMode::Auto,
        None => NextHopMode::Keep,
    }
}
