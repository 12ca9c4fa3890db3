//! One RIB and what its peers hold, under any sequence of anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use proptest::prelude::*;

use super::export::View;
use super::table::Path;
use super::tests::{Mirror, V4, address, advertise, client, context, drain, peer, router_id, withdraw};
use super::*;
use crate::{AsPath, Asn, Community, Context};

#[derive(Clone, Debug)]
enum Op {
    Advertise { peer: u32, prefix: u8, local_pref: u32, med: u32, hop: u8 },
    Withdraw { peer: u32, prefix: u8 },
    Down { peer: u32, keep: bool },
    Up { peer: u32 },
    Originate { prefix: u8, kind: LocalKind, interface: Option<u8> },
    WithdrawLocal { prefix: u8 },
    NextHop { hop: u8, reachable: bool, interface: Option<u8> },
    Drain { peer: u32 },
    Read { peer: u32 },
    Refresh { peer: u32 },
    Policy { peer: u32, import: usize, export: usize },
    Exchange { from: usize, to: usize, everywhere: bool },
    Defer(bool),
    Sweep { peer: u32 },
}

const PEERS: u32 = 7;
const POLICIES: usize = 5;

fn op() -> impl Strategy<Value = Op> {
    let (peer, prefix, hop) = (|| 2..2 + PEERS, || 0..5_u8, || 1..12_u8);
    let (policy, interface) = (|| 0..POLICIES, || prop::option::of(0..2_u8));
    let kind = prop_oneof![Just(LocalKind::Block), Just(LocalKind::Workload), Just(LocalKind::Kernel)];
    prop_oneof![
        8 => (peer(), prefix(), 0..3_u32, 0..2_u32, hop())
            .prop_map(|(peer, prefix, local_pref, med, hop)| Op::Advertise { peer, prefix, local_pref, med, hop }),
        4 => (peer(), prefix()).prop_map(|(peer, prefix)| Op::Withdraw { peer, prefix }),
        1 => (peer(), any::<bool>()).prop_map(|(peer, keep)| Op::Down { peer, keep }),
        2 => peer().prop_map(|peer| Op::Up { peer }),
        2 => (prefix(), kind, interface())
            .prop_map(|(prefix, kind, interface)| Op::Originate { prefix, kind, interface }),
        1 => prefix().prop_map(|prefix| Op::WithdrawLocal { prefix }),
        2 => (hop(), prop::bool::weighted(0.8), interface())
            .prop_map(|(hop, reachable, interface)| Op::NextHop { hop, reachable, interface }),
        4 => peer().prop_map(|peer| Op::Drain { peer }),
        4 => peer().prop_map(|peer| Op::Read { peer }),
        1 => peer().prop_map(|peer| Op::Refresh { peer }),
        2 => (peer(), policy(), policy()).prop_map(|(peer, import, export)| Op::Policy { peer, import, export }),
        2 => (1..POLICIES, 1..POLICIES, any::<bool>())
            .prop_map(|(from, to, everywhere)| Op::Exchange { from, to, everywhere }),
        1 => any::<bool>().prop_map(Op::Defer),
        1 => peer().prop_map(|peer| Op::Sweep { peer }),
    ]
}

/// 2, 3 clients; 4, 5 ordinary; 6, 7 external; 8 a client with ADD-PATH.
fn config(id: u32) -> PeerConfig {
    let last = id as u8;
    match id {
        2 | 3 => client(last),
        4 | 5 => peer(last, 64512),
        6 | 7 => peer(last, 65000 + id),
        _ => PeerConfig { context: Context { add_path_send: Families::ALL, ..context(true) }, ..client(last) },
    }
}

fn nth(n: u8) -> Prefix {
    Prefix::new(Ipv4Addr::new(10, n, 0, 0).into(), 16).unwrap()
}

fn name(interface: u8) -> Arc<str> {
    format!("eth{interface}").into()
}

/// A world of one RIB and what its peers hold.
struct World {
    rib: Rib,
    up: BTreeSet<u32>,
    mirrors: BTreeMap<u32, Mirror>,
    policies: [Option<Policy>; POLICIES],
    /// Which of these each peer has, for import and export.
    chosen: BTreeMap<u32, (usize, usize)>,
}

impl World {
    fn new(log_limit: usize) -> Self {
        let even = Policy::new(|candidate| match candidate.prefix.address() {
            IpAddr::V4(address) if address.octets()[1] % 2 == 0 => Verdict::Reject,
            _ => Verdict::Accept,
        });
        let mark = Policy::new(|candidate| {
            let mut attributes = candidate.attributes.clone();
            attributes.communities.push(Community::new(1, 1));
            Verdict::Replace(Box::new(attributes))
        });
        // Differs from the next only for what lies in 10.2.0.0/16 (and not at all for those outside).
        let without = |excluded: Option<Prefix>| {
            Policy::new(move |candidate| match excluded.is_some_and(|area| area.contains(&candidate.prefix)) {
                true => Verdict::Reject,
                false if candidate.interface == Some("eth1") => Verdict::Reject,
                false => Verdict::AcceptExplicitly(None),
            })
        };
        let rib = Rib::new(RibConfig { log_limit, ..RibConfig::new(router_id(1)) });
        let policies = [None, Some(even), Some(mark), Some(without(None)), Some(without(Some(nth(2))))];
        Self { rib, up: BTreeSet::new(), mirrors: BTreeMap::new(), policies, chosen: BTreeMap::new() }
    }

    fn policies_of(&self, peer: u32) -> (Option<Policy>, Option<Policy>) {
        let (import, export) = self.chosen.get(&peer).copied().unwrap_or_default();
        (self.policies[import].clone(), self.policies[export].clone())
    }

    fn apply(&mut self, op: Op) {
        let rib = &mut self.rib;
        match op {
            Op::Advertise { peer, prefix, local_pref, med, hop } if self.up.contains(&peer) => {
                let text = nth(prefix).to_string();
                let internal = config(peer).context.internal;
                rib.update(
                    PeerId(peer),
                    &advertise(&[&text], |attributes| {
                        attributes.next_hop = address(hop).into();
                        attributes.med = med.checked_sub(1);
                        attributes.local_pref = internal.then_some(local_pref).and_then(|pref| pref.checked_sub(1));
                        if !internal {
                            attributes.as_path = AsPath::sequence([Asn(65000 + peer)]);
                        }
                    }),
                );
            }
            Op::Withdraw { peer, prefix } if self.up.contains(&peer) => {
                rib.update(PeerId(peer), &withdraw(&[&nth(prefix).to_string()]));
            }
            Op::Down { peer, keep } if self.up.remove(&peer) => {
                rib.peer_down(PeerId(peer), if keep { Families::ALL } else { Families::NONE });
                self.mirrors.remove(&peer);
            }
            Op::Up { peer } if self.up.insert(peer) => {
                let (import, export) = self.policies_of(peer);
                self.rib.peer_up(PeerId(peer), PeerConfig { import, export, ..config(peer) });
                self.mirrors.insert(peer, Mirror::default());
            }
            Op::Originate { prefix, kind, interface } => {
                let interface = interface.map(name);
                rib.originate(nth(prefix), LocalRoute { kind, interface, ..LocalRoute::default() });
            }
            Op::WithdrawLocal { prefix } => {
                rib.withdraw_local(nth(prefix));
            }
            Op::NextHop { hop, reachable, interface } => {
                let reachability = if reachable {
                    Reachability::Reachable { metric: (hop % 2).into(), interface: interface.map(name) }
                } else {
                    Reachability::Unreachable
                };
                rib.set_next_hop(address(hop).into(), reachability);
            }
            Op::Drain { peer } => {
                if let Some(mirror) = self.mirrors.get_mut(&peer) {
                    drain(rib, peer, mirror);
                }
            }
            Op::Read { peer } => {
                let octets = rib.poll_output(PeerId(peer), 1);
                if let Some((octets, mirror)) = octets.zip(self.mirrors.get_mut(&peer)) {
                    mirror.take(&octets, &config(peer).context);
                }
            }
            Op::Refresh { peer } => rib.refresh(PeerId(peer), V4),
            // A peer that is down is given its policies when it is up; until then its stale paths are judged as before.
            Op::Policy { peer, import, export } if self.up.contains(&peer) => {
                self.chosen.insert(peer, (import, export));
                let (import, export) = self.policies_of(peer);
                self.rib.set_policies(PeerId(peer), import, export);
            }
            Op::Exchange { from, to, everywhere } => {
                let within = [nth(2), nth(9)];
                let within = (!everywhere && from.min(to) == 3).then_some(&within[..]);
                let pair = (self.policies[from].clone().unwrap(), self.policies[to].clone().unwrap());
                rib.exchange_policies(&[pair], within);
                for (import, export) in self.chosen.values_mut() {
                    *import = if *import == from { to } else { *import };
                    *export = if *export == from { to } else { *export };
                }
            }
            Op::Defer(deferred) => rib.set_deferral(deferred),
            Op::Sweep { peer } => rib.sweep_stale(PeerId(peer), V4),
            _ => {}
        }
    }

    /// Whether a path is as if it were received now.
    fn is_as_admitted(&mut self, prefix: Prefix, path: &Path) -> bool {
        let rib = &mut self.rib;
        let Some(peer) = rib.books.peer(path.peer) else { return path.peer == LOCAL };
        let admitted = import::admit(&peer.config, router_id(1), path.as_received(), &mut rib.interner);
        let interface = rib.books.interface_to(admitted.attributes.next_hop);
        let now = admitted.judge(path.peer, &peer.config, prefix, interface, &mut rib.interner);
        let as_received = now.received.unwrap_or(Arc::clone(&now.attributes));
        (now.attributes, as_received, now.excluded, now.explicit)
            == (Arc::clone(&path.attributes), Arc::clone(path.as_received()), path.excluded, path.explicit)
    }

    /// What a peer that comes up now, alone, would be told.
    fn expected(&self, id: u32) -> BTreeMap<Nlri, Attributes> {
        let config = &self.rib.books.peer(PeerId(id)).unwrap().config;
        let view = View::new(config, router_id(1));
        let mut expect = BTreeMap::new();
        for (prefix, entry) in &self.rib.table {
            let several = view.context.add_path_send.contains(V4);
            let usable = |path: &&Path| path.usable(&self.rib.books.next_hops, &self.rib.config).is_some();
            let paths: Vec<_> =
                if several { entry.paths.iter().filter(usable).collect() } else { entry.best().into_iter().collect() };
            for path in paths {
                let Some(attributes) = view.rewrite(V4, path, self.rib.books.origination(path.peer)) else { continue };
                let source = self.rib.books.source(*prefix, path);
                let (peer_as, local_as) = (config.peer_as, config.local_as);
                let judged = view.policy.as_ref().map_or(Verdict::Accept, |policy| {
                    let (prefix, attributes) = (*prefix, &attributes);
                    let interface = self.rib.books.interface(prefix, path);
                    policy.judge(&Candidate { prefix, attributes, source, peer_as, local_as, interface })
                });
                let attributes = match judged {
                    Verdict::Accept | Verdict::AcceptExplicitly(None) => view.strip(attributes),
                    Verdict::Replace(attributes) | Verdict::AcceptExplicitly(Some(attributes)) => {
                        view.strip(*attributes)
                    }
                    Verdict::Reject => continue,
                };
                if path.peer == PeerId(id) || attributes.next_hop == config.address {
                    continue;
                }
                let path_id = if several { self.rib.path_ids.get(path.peer, path.path_id).unwrap() } else { 0 };
                expect.insert(Nlri { prefix: *prefix, path_id }, attributes);
            }
        }
        expect
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happened and however far each peer was behind, once all is read each holds exactly what it should.
    #[test]
    fn in_the_end_every_peer_holds_what_it_should(
        ops in prop::collection::vec(op(), 1..120),
        log_limit in prop_oneof![Just(4 << 20), Just(200_usize)],
    ) {
        let mut world = World::new(log_limit);
        let mut kernel: BTreeMap<Prefix, Best> = BTreeMap::new();
        for op in ops {
            world.apply(op);
            for BestChange { prefix, best } in world.rib.take_best_changes() {
                match best {
                    Some(best) => kernel.insert(prefix, best),
                    None => kernel.remove(&prefix),
                };
            }
        }
        world.rib.set_deferral(false);
        for BestChange { prefix, best } in world.rib.take_best_changes() {
            match best {
                Some(best) => kernel.insert(prefix, best),
                None => kernel.remove(&prefix),
            };
        }
        let bests: BTreeMap<_, _> =
            world.rib.prefixes().filter_map(|prefix| Some((prefix, world.rib.best(prefix)?))).collect();
        prop_assert_eq!(kernel, bests, "the kernel was told of every change");
        let up: Vec<_> = world.up.iter().copied().collect();
        for id in up {
            world.apply(Op::Drain { peer: id });
            let expect = world.expected(id);
            prop_assert_eq!(&world.mirrors[&id].paths, &expect, "peer {}", id);
            prop_assert_eq!(world.rib.counts(PeerId(id), V4).advertised, expect.len());
            let counted = world.rib.table.values().flat_map(|entry| &entry.paths).filter(|path| path.peer == PeerId(id));
            prop_assert_eq!(world.rib.counts(PeerId(id), V4).received, counted.count());
        }
        let paths: Vec<_> = world.rib.table.iter().flat_map(|(prefix, entry)| {
            entry.paths.iter().map(|path| (*prefix, path.clone())).collect::<Vec<_>>()
        }).collect();
        for (prefix, path) in paths {
            prop_assert!(world.is_as_admitted(prefix, &path), "{} {:?}", prefix, path);
        }
        prop_assert_eq!(world.rib.peers_with_output(), vec![]);
        let views: Vec<_> = world.rib.groups.iter().flatten().map(|group| &group.view).collect();
        let distinct = views.iter().enumerate().all(|(at, view)| !views[..at].contains(view));
        prop_assert!(distinct, "peers with one view are one group");
        prop_assert!(world.rib.groups.iter().flatten().all(|group| group.holds() == 0), "logs that nobody reads are empty");
    }
}
