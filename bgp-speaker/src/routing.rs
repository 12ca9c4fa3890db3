//! How do the RIB's words become the shell's? Prefixes, own routes, policies, and what the kernel is to learn.

mod own;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_plan::policies::Exchange;
use bgp_plan::sessions::{NextHopMode, SessionConfig};
use bgp_proto::{
    Asn, BestChange, ClusterId, Families, Family, Negotiated, PeerConfig, PeerId, Policy, Prefix, Reachability, Rib,
    RibConfig, RouterId, Source, Update,
};
use bytes::Bytes;
use ipnet::IpNet;

use self::own::Own;
pub use self::own::{KernelChange, Originated};
pub use self::view::{REJECTED, SessionView};
use crate::fib::Learned;
use crate::kernel::{Reach, Reachable};
use crate::status::Prefixes;

/// How much is encoded for a peer at once, in octets.
const PIECE: usize = 16 * 1024;

/// What the peer of a session is told, and what is believed of it.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// Judges what it tells; `None` believes all.
    pub import: Option<Policy>,
    /// Judges what it is told.
    pub export: Option<Policy>,
}

/// The RIB, and what it is told beside the peers' updates. Without a router ID there is no RIB, and nothing to tell.
#[derive(Debug, Default)]
pub struct Routing {
    rib: Option<Rib>,
    router_id: Option<RouterId>,
    /// This process programs no kernel: every next hop is as good as any other.
    unresolved: bool,
    own: Own,
    up: BTreeSet<PeerId>,
    /// For the kernel: each prefix once, as it is now.
    changes: BTreeMap<IpNet, Option<Learned>>,
    reachable: Reachable,
    /// Next hops whose reachability was asked for.
    asked: BTreeSet<IpAddr>,
    /// What an earlier RIB asked for and ceased to use.
    left: Vec<(IpAddr, bool)>,
    deferred: bool,
    exchanges: u64,
}

impl Routing {
    /// A RIB that asks nobody whether next hops can be reached, if `unresolved`.
    pub fn new(unresolved: bool) -> Self {
        Self { unresolved, ..Self::default() }
    }

    /// Starts a RIB under this identifier; one under another is forgotten with all it had.
    pub fn identify(&mut self, router_id: RouterId) {
        if self.router_id == Some(router_id) {
            return;
        }
        self.collect();
        let left = self.take_next_hops();
        self.left.extend(left);
        self.router_id = Some(router_id);
        let (normal_metric_v4, normal_metric_v6) = self.own.normal();
        let resolve_next_hops = !self.unresolved;
        let config = RibConfig { resolve_next_hops, normal_metric_v4, normal_metric_v6, ..RibConfig::new(router_id) };
        let mut rib = Rib::new(config);
        rib.set_deferral(self.deferred);
        for (prefix, route) in self.own.all() {
            rib.originate(Prefix::from(prefix), route);
        }
        self.rib = Some(rib);
        self.up.clear();
        let known: Vec<_> = self.reachable.iter().map(|(hop, reach)| (*hop, reachability(reach.as_ref()))).collect();
        self.with(|rib| rib.set_next_hops(known));
    }

    /// Advertises exactly these blocks and services.
    pub fn originate(&mut self, originated: Originated) {
        let changed = self.own.originate(originated);
        let (v4, v6) = self.own.normal();
        self.with(|rib| rib.set_normal_metrics(v4, v6));
        self.advertise(changed);
    }

    /// Takes what changed of the kernel's routes that are not ours.
    pub fn kernel_routes(&mut self, changes: Vec<KernelChange>) {
        let changed = self.own.kernel_routes(changes);
        self.advertise(changed);
    }

    fn advertise(&mut self, changed: BTreeSet<IpNet>) {
        let Some(rib) = &mut self.rib else { return };
        for prefix in changed {
            match self.own.route(&prefix) {
                Some(route) => rib.originate(Prefix::from(prefix), route),
                None => drop(rib.withdraw_local(Prefix::from(prefix))),
            }
        }
    }

    /// What this node originates: its blocks and service prefixes.
    pub fn originated(&self) -> &Originated {
        self.own.originated()
    }

    /// Puts policies in the place of others while the sessions stay.
    pub fn exchange(&mut self, exchange: &Exchange) {
        if exchange.policies.is_empty() {
            return;
        }
        self.exchanges += 1;
        let within: Option<Vec<Prefix>> =
            exchange.within.as_ref().map(|within| within.iter().map(|net| Prefix::from(*net)).collect());
        self.with(|rib| rib.exchange_policies(&exchange.policies, within.as_deref()));
    }

    /// How often policies were exchanged.
    pub fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// Holds back what peers are told until they have told their routes, or no longer (RFC 4724 §4.1).
    pub fn defer(&mut self, deferred: bool) {
        if self.deferred != deferred {
            self.deferred = deferred;
            self.with(|rib| rib.set_deferral(deferred));
        }
    }

    /// Whether what peers are told is held back.
    pub fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Whether a peer is up and bound to send an End-of-RIB that has not come: it restarts gracefully, and did not just
    /// restart itself.
    pub fn is_awaited(&self, id: u32) -> bool {
        self.rib.as_ref().is_some_and(|rib| rib.is_awaited(PeerId(id)))
    }

    /// A session is up.
    pub fn peer_up(&mut self, id: u32, config: &SessionConfig, negotiated: &Negotiated, policies: Policies) {
        self.up.insert(PeerId(id));
        let peer = peer_config(config, negotiated, policies);
        self.with(|rib| rib.peer_up(PeerId(id), peer));
    }

    /// The configuration of a session changed in a way that leaves it up.
    pub fn peer_changed(&mut self, id: u32, config: &SessionConfig, negotiated: &Negotiated, policies: Policies) {
        let peer = peer_config(config, negotiated, policies);
        self.with(|rib| rib.set_peer_config(PeerId(id), peer));
    }

    /// Judges what a peer tells, and is told, by these policies from now on.
    pub fn set_policies(&mut self, id: u32, policies: Policies) {
        self.with(|rib| rib.set_policies(PeerId(id), policies.import, policies.export));
    }

    /// A session is down; paths of these families are kept as stale.
    pub fn peer_down(&mut self, id: u32, keep: Families) {
        self.up.remove(&PeerId(id));
        self.with(|rib| rib.peer_down(PeerId(id), keep));
    }

    /// A peer is no longer configured.
    pub fn remove(&mut self, id: u32) {
        self.up.remove(&PeerId(id));
        self.with(|rib| rib.remove_peer(PeerId(id)));
    }

    /// What a peer advertises and withdraws.
    pub fn update(&mut self, id: u32, update: &Update) {
        self.with(|rib| rib.update(PeerId(id), update));
    }

    /// A peer has told all it has.
    pub fn end_of_rib(&mut self, id: u32, family: Family) {
        self.with(|rib| rib.end_of_rib(PeerId(id), family));
    }

    /// A peer wants to be told everything again.
    pub fn refresh(&mut self, id: u32, family: Family) {
        self.with(|rib| rib.refresh(PeerId(id), family));
    }

    /// A peer begins to tell everything again.
    pub fn mark_stale(&mut self, id: u32, family: Family) {
        self.with(|rib| rib.mark_stale(PeerId(id), family));
    }

    /// What a peer has not told again goes.
    pub fn sweep(&mut self, id: u32, family: Family) {
        self.with(|rib| rib.sweep_stale(PeerId(id), family));
    }

    fn with(&mut self, work: impl FnOnce(&mut Rib)) {
        if let Some(rib) = &mut self.rib {
            work(rib);
        }
    }

    /// Peers for whom there is something to send.
    pub fn peers_with_output(&self) -> Vec<u32> {
        self.rib
            .as_ref()
            .map(|rib| rib.peers_with_output().into_iter().map(|peer| peer.0).collect())
            .unwrap_or_default()
    }

    /// The next messages for a peer.
    pub fn next_output(&mut self, id: u32) -> Option<Bytes> {
        self.rib.as_mut()?.poll_output(PeerId(id), PIECE)
    }

    /// Next hops that are to be watched from now on (`true`) or no longer.
    pub fn take_next_hops(&mut self) -> Vec<(IpAddr, bool)> {
        let mut changes = std::mem::take(&mut self.left);
        changes.extend(self.rib.as_mut().map(Rib::take_next_hops).unwrap_or_default());
        if self.unresolved {
            return Vec::new();
        }
        let mut known = Vec::new();
        for (next_hop, used) in &changes {
            if *used {
                self.asked.insert(*next_hop)
            } else {
                self.asked.remove(next_hop)
            };
            // The RIB forgets a next hop that it ceases to use; the kernel's thread, that watches it still or again,
            // has nothing new to tell.
            if let Some(reach) = self.reachable.get(next_hop).filter(|_| *used) {
                known.push((*next_hop, reachability(reach.as_ref())));
            }
        }
        self.with(|rib| rib.set_next_hops(known));
        changes
    }

    /// Whether there are next hops of which the kernel's thread has not spoken yet.
    pub fn awaits_next_hops(&self) -> bool {
        self.asked.iter().any(|next_hop| !self.reachable.contains_key(next_hop))
    }

    /// Takes what the kernel's thread found out about next hops.
    pub fn reachable(&mut self, reachable: &Reachable) {
        let known = std::mem::replace(&mut self.reachable, reachable.clone());
        let news = reachable.iter().filter(|(next_hop, reach)| known.get(next_hop) != Some(reach));
        let news: Vec<_> = news.map(|(next_hop, reach)| (*next_hop, reachability(reach.as_ref()))).collect();
        self.with(|rib| rib.set_next_hops(news));
    }

    /// Moves the RIB's changes to those for the kernel, and says whether there are any.
    pub fn collect(&mut self) -> bool {
        if let Some(rib) = &mut self.rib {
            for BestChange { prefix, best } in rib.take_best_changes() {
                let learned = best.and_then(|best| {
                    let Source::Peer { peer, .. } = best.source else { return None };
                    let peer = rib.peer_config(peer).map(|config| config.address);
                    Some(Learned { next_hops: best.next_hops, local_pref: best.attributes.local_pref, peer })
                });
                self.changes.insert(IpNet::from(prefix), learned);
            }
        }
        !self.changes.is_empty()
    }

    /// What the kernel is to learn; each prefix once, as it is now.
    pub fn take_changes(&mut self) -> Vec<(IpNet, Option<Learned>)> {
        std::mem::take(&mut self.changes).into_iter().collect()
    }

    /// What a peer has to do with.
    pub fn prefixes(&self, id: u32, family: Family) -> Prefixes {
        let Some(rib) = &self.rib else { return Prefixes::default() };
        let counts = rib.counts(PeerId(id), family);
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        Prefixes {
            received: number(counts.received),
            accepted: number(counts.accepted),
            stale: number(counts.stale),
            advertised: number(counts.advertised),
        }
    }

    /// How many prefixes there are, IPv4 and IPv6.
    pub fn sizes(&self) -> (usize, usize) {
        let Some(rib) = &self.rib else { return (0, 0) };
        let (mut v4, mut v6) = (0, 0);
        rib.prefixes().for_each(|prefix| *if prefix.address().is_ipv4() { &mut v4 } else { &mut v6 } += 1);
        (v4, v6)
    }
}

fn reachability(reach: Option<&Reach>) -> Reachability {
    match reach {
        Some(reach) => Reachability::Reachable { metric: reach.metric, interface: reach.interface.clone() },
        None => Reachability::Unreachable,
    }
}

/// What the RIB must know of a session that is up.
fn peer_config(config: &SessionConfig, negotiated: &Negotiated, policies: Policies) -> PeerConfig {
    let local = config.source.unwrap_or(negotiated.local_address);
    PeerConfig {
        client: config.client,
        cluster_id: config.cluster_id.map(ClusterId),
        next_hop: match config.next_hop {
            NextHopMode::Auto => bgp_proto::NextHopMode::Auto,
            NextHopMode::Own => bgp_proto::NextHopMode::Own,
            NextHopMode::Keep => bgp_proto::NextHopMode::Keep,
        },
        allowed_local_as: u8::try_from(config.allowed_local_as).unwrap_or(u8::MAX),
        import: policies.import,
        export: policies.export,
        ..PeerConfig::new(config.peer.ip(), local, Asn(config.local_as), negotiated)
    }
}

/// How many messages these octets are.
pub fn messages_in(octets: &[u8]) -> u64 {
    let mut rest = octets;
    let mut count = 0;
    while let Ok(Some(length)) = bgp_proto::frame(rest, bgp_proto::message::MAXIMUM_EXTENDED) {
        count += 1;
        rest = rest.get(length..).unwrap_or_default();
    }
    count
}

#[cfg(test)]
mod tests;
