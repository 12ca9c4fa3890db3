//! RFC 4271 leaves no room for history to matter, and neither do we: any two ways to the same paths end the same.

use proptest::prelude::*;

use super::*;
use crate::Origin;

/// One path as a peer tells it.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    peer: u32,
    path_id: u32,
    hop: u8,
    /// 0 is none; else our neighbour's AS, and how long the path is.
    neighbor: u32,
    length: u32,
    med: Option<u32>,
    local_pref: u32,
    origin: bool,
    stale: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Tell(Told),
    Withdraw { peer: u32, path_id: u32 },
    Originate(LocalKind, u32),
    WithdrawLocal,
    NextHop { hop: u8, metric: Option<u32> },
}

const PEERS: std::ops::Range<u32> = 2..8;
const HOPS: std::ops::Range<u8> = 1..7;
const PREFIX: &str = "10.65.0.0/26";

fn told() -> impl Strategy<Value = Told> {
    let numbers = (PEERS, 0..2_u32, HOPS, 0..4_u32, 1..3_u32);
    let local_pref = prop_oneof![6 => Just(100), 1 => Just(200), 1 => Just(LocalRoute::local_pref(512))];
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (numbers, prop::option::of(0..3_u32), local_pref, flags).prop_map(
        |((peer, path_id, hop, neighbor, length), med, local_pref, (origin, stale))| {
            // An external peer has one AS, and it is in front.
            let neighbor = if external(peer) { peer % 2 + 1 } else { neighbor };
            Told { peer, path_id, hop, neighbor, length, med, local_pref, origin, stale }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![Just(LocalKind::Block), Just(LocalKind::Workload), Just(LocalKind::Kernel)];
    prop_oneof![
        8 => told().prop_map(Step::Tell),
        4 => (PEERS, 0..2_u32).prop_map(|(peer, path_id)| Step::Withdraw { peer, path_id }),
        1 => (kind, prop_oneof![Just(512), Just(1024)]).prop_map(|(kind, metric)| Step::Originate(kind, metric)),
        1 => Just(Step::WithdrawLocal),
        2 => (HOPS, prop::option::weighted(0.8, 0..2_u32)).prop_map(|(hop, metric)| Step::NextHop { hop, metric }),
    ]
}

/// 2 to 4 are internal peers, 5 to 7 external ones of two ASes.
fn external(peer: u32) -> bool {
    peer >= 5
}

fn world() -> Rib {
    let mut rib = Rib::new(RibConfig { multipath: 3, ..RibConfig::new(router_id(1)) });
    for id in PEERS {
        // Pairs share their identifier, so that steps after it decide, too.
        let asn = if external(id) { 65000 + id % 2 + 1 } else { 64512 };
        let config = PeerConfig { router_id: router_id(id as u8 / 2), ..peer(id as u8, asn) };
        rib.peer_up(PeerId(id), config);
    }
    rib
}

fn apply(rib: &mut Rib, step: &Step) {
    match step {
        Step::Tell(told) => {
            let attributes = Attributes {
                as_path: match told.neighbor {
                    0 => AsPath::default(),
                    neighbor => AsPath::sequence((0..told.length).map(|hop| Asn(65000 + neighbor + hop * 1000))),
                },
                med: told.med,
                local_pref: Some(told.local_pref),
                origin: if told.origin { Origin::Incomplete } else { Origin::Igp },
                communities: told.stale.then_some(Community::LLGR_STALE).into_iter().collect(),
                ..Attributes::new(address(told.hop).into())
            };
            let nlri = vec![Nlri { prefix: prefix(PREFIX), path_id: told.path_id }];
            let advertised = vec![Advertisement { attributes: Arc::new(attributes), nlri }];
            rib.update(PeerId(told.peer), &Update { withdrawn: vec![], advertised });
        }
        Step::Withdraw { peer, path_id } => {
            let withdrawn = vec![Nlri { prefix: prefix(PREFIX), path_id: *path_id }];
            rib.update(PeerId(*peer), &Update { withdrawn, advertised: vec![] });
        }
        Step::Originate(kind, metric) => {
            let local_pref = LocalRoute::local_pref(*metric);
            rib.originate(prefix(PREFIX), LocalRoute { kind: *kind, local_pref, ..LocalRoute::default() });
        }
        Step::WithdrawLocal => {
            rib.withdraw_local(prefix(PREFIX));
        }
        Step::NextHop { hop, metric } => {
            let reachability =
                metric.map_or(Reachability::Unreachable, |metric| Reachability::Reachable { metric, interface: None });
            rib.set_next_hop(address(*hop).into(), reachability);
        }
    }
}

/// Which of the last steps each made the state what it is, in the order of their first subjects.
fn essence(steps: &[Step]) -> Vec<Step> {
    let mut last: BTreeMap<(u8, u32, u32), &Step> = BTreeMap::new();
    for step in steps {
        let subject = match step {
            Step::Tell(Told { peer, path_id, .. }) | Step::Withdraw { peer, path_id } => (0, *peer, *path_id),
            Step::Originate(..) | Step::WithdrawLocal => (1, 0, 0),
            Step::NextHop { hop, .. } => (2, (*hop).into(), 0),
        };
        last.insert(subject, step);
    }
    last.into_values().cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// MED of several neighbouring ASes, withdrawals and replacements in between, own routes, next hops that come, go and
    /// move: the best path, those used with it, and why each other is not, follow from what there is in the end.
    #[test]
    fn best_multipath_and_every_losing_step_follow_from_the_present_alone(
        steps in prop::collection::vec(step(), 1..40),
        shuffled in Just(()).prop_perturb(|(), mut rng| rng.random::<u64>()),
    ) {
        // The long way: everything in order; next hops are known from the beginning.
        let mut long = world();
        let mut hops = BTreeMap::new();
        let know = |rib: &mut Rib, hops: &BTreeMap<u8, Option<u32>>| {
            for hop in HOPS {
                apply(rib, &Step::NextHop { hop, metric: hops.get(&hop).copied().unwrap_or(Some(0)) });
            }
        };
        for step in &steps {
            apply(&mut long, step);
            if let Step::NextHop { hop, metric } = step {
                hops.insert(*hop, *metric);
            }
            know(&mut long, &hops);
        }
        // The short way: only what is left in the end, in another order, next hops last.
        let mut short = world();
        let mut left = essence(&steps);
        let mut seed = shuffled;
        left.sort_by_cached_key(|step| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (matches!(step, Step::NextHop { .. }), seed >> 33)
        });
        left.iter().for_each(|step| apply(&mut short, step));
        know(&mut short, &hops);
        prop_assert_eq!(long.best(prefix(PREFIX)), short.best(prefix(PREFIX)));
        prop_assert_eq!(long.paths(prefix(PREFIX)), short.paths(prefix(PREFIX)));

        // What RFC 4271 §9.1.2.2 c says of the outcome: nobody chosen has a comparable one with less MED beside it.
        let views = long.paths(prefix(PREFIX));
        let is_chosen = |view: &&PathView| matches!(view.standing, Standing::Best | Standing::Multipath);
        for chosen in views.iter().filter(is_chosen) {
            let same = |a: &Attributes, b: &Attributes| {
                a.as_path.neighbor() == b.as_path.neighbor()
                    && a.as_path.length() == b.as_path.length()
                    && (a.origin, a.effective_local_pref(), &a.communities)
                        == (b.origin, b.effective_local_pref(), &b.communities)
            };
            let lower = views.iter().filter(|other| !matches!(other.standing, Standing::Excluded(_)));
            let lower = lower.filter(|other| matches!(other.source, Source::Peer { .. }));
            for other in lower.filter(|other| same(&other.attributes, &chosen.attributes)) {
                prop_assert!(other.attributes.med.unwrap_or(0) >= chosen.attributes.med.unwrap_or(0), "{:?}", views);
            }
        }
        let best: Option<Best> = long.best(prefix(PREFIX));
        if let Some(best) = best {
            prop_assert!(best.next_hops.is_sorted() && best.next_hops.len() <= 3);
            let several = views.iter().filter(is_chosen).count();
            prop_assert!(several == 1 || matches!(best.source, Source::Peer { .. }), "own routes are used alone");
        } else {
            prop_assert!(views.iter().all(|view| matches!(view.standing, Standing::Excluded(_))));
        }
    }
}
