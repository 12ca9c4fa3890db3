//! How do the RIB's words become the shell's? Prefixes, own blocks, export policy, and what the kernel is to learn.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_proto::{
    Asn, BestChange, Candidate, ClusterId, Families, Family, LocalKind, LocalRoute, Negotiated, PathView, PeerConfig,
    PeerId, Policy, Prefix, Reachability, Rib, RibConfig, RouterId, Source, Standing, Update, Verdict,
};
use bytes::Bytes;
use ipnet::IpNet;

use crate::fib::Learned;
use crate::kernel::Reachable;
use crate::status::{PathStatus, Prefixes};
use bgp_plan::inputs::Pool;
use bgp_plan::sessions::{NextHopMode, SessionConfig};

/// How much is encoded for a peer at once, in octets.
const PIECE: usize = 16 * 1024;

/// The RIB, and what it is told beside the peers' updates. Without a router ID there is no RIB, and nothing to tell.
#[derive(Debug, Default)]
pub struct Routing {
    rib: Option<Rib>,
    router_id: Option<RouterId>,
    originated: BTreeMap<IpNet, u32>,
    pools: Vec<Pool>,
    export: Option<Policy>,
    up: BTreeSet<PeerId>,
    /// For the kernel: each prefix once, as it is now.
    changes: BTreeMap<IpNet, Option<Learned>>,
    reachable: Reachable,
    /// Next hops whose reachability was asked for.
    asked: BTreeSet<IpAddr>,
    deferred: bool,
}

impl Routing {
    /// Starts a RIB under this identifier; one under another is forgotten with all it had.
    pub fn identify(&mut self, router_id: RouterId) {
        if self.router_id == Some(router_id) {
            return;
        }
        self.collect();
        self.router_id = Some(router_id);
        let mut rib = Rib::new(RibConfig::new(router_id));
        rib.set_deferral(self.deferred);
        self.rib = Some(rib);
        self.up.clear();
        for (prefix, local_pref) in std::mem::take(&mut self.originated) {
            self.originate_one(prefix, local_pref);
        }
        let known: Vec<_> =
            self.reachable.iter().map(|(next_hop, metric)| (*next_hop, reachability(*metric))).collect();
        self.with(|rib| rib.set_next_hops(known));
    }

    /// Advertises exactly these blocks, with these LOCAL_PREFs.
    pub fn originate(&mut self, blocks: BTreeMap<IpNet, u32>) {
        let gone: Vec<_> = self.originated.keys().filter(|prefix| !blocks.contains_key(prefix)).copied().collect();
        for prefix in gone {
            self.originated.remove(&prefix);
            if let Some(rib) = &mut self.rib {
                rib.withdraw_local(Prefix::from(prefix));
            }
        }
        for (prefix, local_pref) in blocks {
            if self.originated.get(&prefix) != Some(&local_pref) {
                self.originate_one(prefix, local_pref);
            }
        }
    }

    fn originate_one(&mut self, prefix: IpNet, local_pref: u32) {
        self.originated.insert(prefix, local_pref);
        if let Some(rib) = &mut self.rib {
            let route = LocalRoute { kind: LocalKind::Block, local_pref, ..LocalRoute::default() };
            rib.originate(Prefix::from(prefix), route);
        }
    }

    /// The blocks that are advertised.
    pub fn blocks(&self) -> Vec<IpNet> {
        self.originated.keys().copied().collect()
    }

    /// Exports by these pools from now on.
    pub fn set_pools(&mut self, pools: &[Pool]) {
        if self.export.is_some() && self.pools == pools {
            return;
        }
        self.pools = pools.to_vec();
        let policy = export_policy(pools.to_vec());
        if let Some(rib) = &mut self.rib {
            self.up.iter().for_each(|peer| rib.set_policies(*peer, None, Some(policy.clone())));
        }
        self.export = Some(policy);
    }

    /// Holds back what peers are told until they have told their routes, or no longer (RFC 4724 §4.1).
    pub fn defer(&mut self, deferred: bool) {
        if self.deferred != deferred {
            self.deferred = deferred;
            if let Some(rib) = &mut self.rib {
                rib.set_deferral(deferred);
            }
        }
    }

    /// Whether a peer is up and bound to send an End-of-RIB that has not come: it restarts gracefully, and did not just
    /// restart itself.
    pub fn is_awaited(&self, id: u32) -> bool {
        self.rib.as_ref().is_some_and(|rib| rib.is_awaited(PeerId(id)))
    }

    /// A session is up; `local` is our address on it.
    pub fn peer_up(&mut self, id: u32, config: &SessionConfig, negotiated: &Negotiated) {
        let local = config.source.unwrap_or(negotiated.local_address);
        let peer = PeerConfig {
            client: config.client,
            cluster_id: config.cluster_id.map(ClusterId),
            next_hop: match config.next_hop {
                NextHopMode::Auto => bgp_proto::NextHopMode::Auto,
                NextHopMode::Own => bgp_proto::NextHopMode::Own,
                NextHopMode::Keep => bgp_proto::NextHopMode::Keep,
            },
            allowed_local_as: u8::try_from(config.allowed_local_as).unwrap_or(u8::MAX),
            export: self.export.clone(),
            ..PeerConfig::new(config.peer.ip(), local, Asn(config.local_as), negotiated)
        };
        self.up.insert(PeerId(id));
        self.with(|rib| rib.peer_up(PeerId(id), peer));
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
        let changes = self.rib.as_mut().map(Rib::take_next_hops).unwrap_or_default();
        let mut known = Vec::new();
        for (next_hop, used) in &changes {
            if *used {
                self.asked.insert(*next_hop)
            } else {
                self.asked.remove(next_hop)
            };
            // The RIB forgets a next hop that it ceases to use; the kernel's thread, that watches it still or again,
            // has nothing new to tell.
            if let Some(metric) = self.reachable.get(next_hop).filter(|_| *used) {
                known.push((*next_hop, reachability(*metric)));
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
        let news = reachable.iter().filter(|(next_hop, metric)| known.get(next_hop) != Some(metric));
        let news: Vec<_> = news.map(|(next_hop, metric)| (*next_hop, reachability(*metric))).collect();
        self.with(|rib| rib.set_next_hops(news));
    }

    /// Moves the RIB's changes to those for the kernel, and says whether there are any.
    pub fn collect(&mut self) -> bool {
        if let Some(rib) = &mut self.rib {
            for BestChange { prefix, best } in rib.take_best_changes() {
                let learned = best.filter(|best| matches!(best.source, Source::Peer { .. }));
                let learned =
                    learned.map(|best| Learned { next_hops: best.next_hops, local_pref: best.attributes.local_pref });
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

    /// How many prefixes there are.
    pub fn size(&self) -> usize {
        self.rib.as_ref().map_or(0, |rib| rib.prefixes().count())
    }

    /// All paths, by prefix, the best first. `name` gives a peer's session and address.
    pub fn paths(&self, name: impl Fn(u32) -> Option<(String, IpAddr)>) -> Vec<PathStatus> {
        let Some(rib) = &self.rib else { return Vec::new() };
        let mut prefixes: Vec<Prefix> = rib.prefixes().collect();
        prefixes.sort_unstable();
        let views = prefixes.into_iter().flat_map(|prefix| {
            let views = rib.paths(prefix);
            views.into_iter().map(move |view| (prefix, view))
        });
        views.map(|(prefix, view)| path_status(prefix, &view, &name)).collect()
    }
}

fn reachability(metric: Option<u32>) -> Reachability {
    match metric {
        Some(metric) => Reachability::Reachable { metric, interface: None },
        None => Reachability::Unreachable,
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

/// What leaves the node (`bgp.md` §2.3 E4–E12): own blocks and what is inside a pool, but nothing of a pool that is not
/// exported.
fn export_policy(pools: Vec<Pool>) -> Policy {
    Policy::new(move |candidate: &Candidate<'_>| {
        let prefix = IpNet::from(candidate.prefix);
        let mut inside = pools.iter().filter(|pool| pool.cidr.contains(&prefix)).peekable();
        let in_pool = inside.peek().is_some();
        let hidden = inside.any(|pool| pool.disable_bgp_export);
        let own = candidate.source == Source::Local(LocalKind::Block);
        if !hidden && (own || in_pool) { Verdict::Accept } else { Verdict::Reject }
    })
}

fn path_status(prefix: Prefix, view: &PathView, name: &impl Fn(u32) -> Option<(String, IpAddr)>) -> PathStatus {
    let attributes = &view.attributes;
    let (source, peer) = match view.source {
        Source::Local(_) => ("static".to_owned(), None),
        Source::Peer { peer, .. } => match name(peer.0) {
            Some((name, address)) => (name, Some(address)),
            None => (format!("peer {peer}"), Some(attributes.next_hop)),
        },
    };
    let communities = attributes.communities.iter().map(ToString::to_string);
    let standing = match view.standing {
        Standing::Best => "best".to_owned(),
        Standing::Multipath => "multipath".to_owned(),
        Standing::Lost(step) => format!("lost: {step:?}"),
        Standing::Excluded(exclusion) => format!("excluded: {exclusion:?}"),
    };
    PathStatus {
        prefix: IpNet::from(prefix),
        source,
        peer,
        best: matches!(view.standing, Standing::Best | Standing::Multipath),
        standing,
        next_hop: peer.is_some().then_some(attributes.next_hop),
        via: None,
        installed: false,
        stale: view.stale,
        local_pref: attributes.local_pref,
        med: attributes.med,
        as_path: attributes.as_path.to_string(),
        origin: match attributes.origin {
            bgp_proto::Origin::Igp => "IGP",
            bgp_proto::Origin::Egp => "EGP",
            bgp_proto::Origin::Incomplete => "INCOMPLETE",
        },
        communities: communities.chain(attributes.large_communities.iter().map(ToString::to_string)).collect(),
        originator: attributes.originator_id.map(RouterId::address),
    }
}

#[cfg(test)]
mod tests {
    use bgp_proto::Attributes;

    use super::*;
    use bgp_plan::inputs::Encap;

    #[test]
    fn own_blocks_and_what_is_inside_pools_leave_the_node_but_nothing_of_a_hidden_pool() {
        let pool = |cidr: &str, disable_bgp_export| Pool {
            cidr: cidr.parse().unwrap(),
            encap: Encap::None,
            disable_bgp_export,
        };
        let policy = export_policy(vec![pool("10.244.0.0/16", false), pool("10.245.0.0/16", true)]);
        let attributes = Attributes::new([10, 0, 0, 2].into());
        let (own, learned) = (Source::Local(LocalKind::Block), Source::Peer { peer: PeerId(1), external: false });
        for (prefix, source, leaves) in [
            ("10.244.1.0/26", own, true),
            ("10.244.2.0/26", learned, true),
            ("198.51.100.0/26", own, true),
            ("198.51.100.64/26", learned, false),
            ("0.0.0.0/0", learned, false),
            ("10.245.0.0/26", own, false),
            ("10.245.1.0/26", learned, false),
        ] {
            let (prefix, attributes) = (prefix.parse().unwrap(), &attributes);
            let (peer_as, local_as) = (Asn(64512), Asn(64512));
            let candidate = Candidate { prefix, attributes, source, peer_as, local_as, interface: None };
            let verdict = policy.judge(&candidate);
            assert_eq!(verdict == Verdict::Accept, leaves, "{prefix} from {source:?}");
        }
    }

    #[test]
    fn a_next_hop_that_is_dropped_and_used_again_is_still_reachable() {
        let (router_id, peer) = (std::net::Ipv4Addr::new(10, 0, 0, 1), IpAddr::from([10, 0, 0, 2]));
        let mut rib = Rib::new(RibConfig::new(RouterId::try_from(router_id).unwrap()));
        let config = PeerConfig {
            address: peer,
            router_id: RouterId::try_from(std::net::Ipv4Addr::new(10, 0, 0, 2)).unwrap(),
            peer_as: Asn(64512),
            local_as: Asn(64512),
            context: bgp_proto::Context { families: Family::Ipv4Unicast.into(), internal: true, ..Default::default() },
            client: false,
            cluster_id: None,
            next_hop: bgp_proto::NextHopMode::Auto,
            next_hop_v4: Some(router_id),
            next_hop_v6: None,
            allowed_local_as: 0,
            long_lived_aware: true,
            paths_limit: PeerConfig::PATHS_LIMIT,
            import: None,
            export: None,
            restarting: false,
            sends_end_of_rib: true,
        };
        rib.peer_up(PeerId(0), config);
        let mut routing = Routing { rib: Some(rib), ..Routing::default() };
        let (old, new): (Prefix, Prefix) = ("10.244.1.0/26".parse().unwrap(), "10.244.2.0/26".parse().unwrap());
        let advertise = |prefix: Prefix| {
            let attributes = std::sync::Arc::new(Attributes::new(peer));
            Update {
                advertised: vec![bgp_proto::Advertisement { attributes, nlri: vec![prefix.into()] }],
                ..Update::default()
            }
        };
        routing.update(0, &advertise(old));
        assert_eq!(routing.take_next_hops(), [(peer, true)]);
        assert!(routing.awaits_next_hops());
        routing.reachable(&Reachable::from([(peer, Some(0))]));
        assert!(!routing.awaits_next_hops() && routing.collect());

        // Within one batch, so that the kernel's thread sees no difference.
        routing.update(0, &Update { withdrawn: vec![old.into()], ..Update::default() });
        routing.update(0, &advertise(new));
        routing.take_next_hops();
        routing.collect();
        let learned: Vec<_> = routing.take_changes().into_iter().filter(|(_, learned)| learned.is_some()).collect();
        assert_eq!(learned.len(), 1, "{learned:?}");
        assert_eq!(learned[0].0, IpNet::from(new));
    }

    #[test]
    fn own_blocks_are_nothing_to_the_kernel_and_survive_a_new_identity() {
        let mut routing = Routing::default();
        let block: IpNet = "10.244.1.0/26".parse().unwrap();
        routing.originate(BTreeMap::from([(block, 2_147_482_623)]));
        for id in [[10, 0, 0, 1], [10, 0, 0, 9]] {
            routing.identify(RouterId::try_from(std::net::Ipv4Addr::from(id)).unwrap());
            routing.collect();
            assert!(routing.take_changes().iter().all(|(prefix, learned)| *prefix == block && learned.is_none()));
            let paths = routing.paths(|_| None);
            assert_eq!((paths.len(), paths[0].source.as_str(), paths[0].best), (1, "static", true));
        }
        routing.originate(BTreeMap::new());
        assert!(routing.paths(|_| None).is_empty() && routing.blocks().is_empty());
    }
}
