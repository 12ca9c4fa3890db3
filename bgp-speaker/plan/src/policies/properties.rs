//! Policies change by difference only, and end where starting anew would.

use std::collections::BTreeMap;

use bgp_proto::{Attributes, LocalKind, LocalRoute, PeerId, Policy, Prefix};
use calico_api::BGPConfigurationSpec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::tests::{OWN_AS, World, pool};
use super::*;

/// Peers: identifier, AS, filters.
const PEERS: [(u32, u32, &[&str]); 8] = [
    (2, OWN_AS, &[]),
    (3, 65000, &[]),
    (4, OWN_AS, &["x"]),
    (5, 65000, &["x"]),
    (6, 65000, &["y"]),
    (7, 65000, &["x", "y"]),
    (8, OWN_AS, &["y", "gone"]),
    (9, OWN_AS, &["gone"]),
];

/// What filters may be: nothing, one way, both ways, other families.
fn rules(which: usize) -> Value {
    let rule = |action: &str, cidr: &str| json!([{"action": action, "cidr": cidr, "matchOperator": "In"}]);
    match which {
        0 => json!({}),
        1 => json!({"exportV4": rule("Accept", "192.0.2.0/24")}),
        2 => json!({"importV4": rule("Reject", "10.1.0.0/16")}),
        3 => json!({"importV4": rule("Reject", "10.1.0.0/16"), "exportV4": rule("Accept", "192.0.2.0/24")}),
        4 => json!({"exportV6": rule("Reject", "fd00::/16"), "importV6": rule("Reject", "fd01::/16")}),
        _ => json!({"importV4": [{"action": "Accept", "operations": [{"setPriority": {"value": 9}}]}]}),
    }
}

fn some_of<T: Clone + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = Vec<T>> {
    prop::sample::subsequence(all, 0..=all.len())
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn surroundings() -> impl Strategy<Value = Surroundings> {
    let flag = || prop::bool::weighted(0.15);
    (
        some_of(&[
            ("10.1.0.0/16", false),
            ("10.1.0.0/16", true),
            ("10.2.0.0/16", true),
            ("10.0.0.0/8", false),
            ("fd00::/16", false),
        ]),
        some_of(&["10.1.0.0/26", "10.1.0.64/26", "10.9.0.0/26", "fd00::/122"]),
        some_of(&["10.96.0.0/12", "10.96.0.1/32", "203.0.113.5/32", "10.1.0.70/32"]),
        some_of(&[("10.1.0.0/16", "1:1"), ("10.0.0.0/8", "1:1"), ("10.0.0.0/8", "1:2:3"), ("fd00::/16", "1:1")]),
        (flag(), flag(), flag(), flag()),
    )
        .prop_map(|(pools, blocks, services, marks, (reflector, normal, ipip, keeps))| {
            let marks: Vec<_> = marks.iter().map(|(cidr, mark)| json!({"cidr": cidr, "communities": [mark]})).collect();
            let global: BGPConfigurationSpec = serde_json::from_value(json!({"prefixAdvertisements": marks})).unwrap();
            Surroundings {
                pools: pools.iter().map(|(cidr, hidden)| pool(cidr, *hidden)).collect(),
                blocks: nets(&blocks).into_iter().collect(),
                services: nets(&services).into_iter().collect(),
                reflector,
                reflected_services: nets(&["198.51.100.0/24"]),
                kernel_ranges: vec![],
                communities: Communities::of(&global, None).0,
                normal_v4: if normal { 256 } else { 1024 },
                normal_v6: if normal { 256 } else { 1024 },
                felix_owns_ipip: ipip,
                only_reflectors_export_learned: keeps,
                unknown_filters: BTreeSet::new(),
            }
        })
}

fn some_filters() -> impl Strategy<Value = BTreeMap<String, BgpFilter>> {
    (prop::option::of(0..6_usize), prop::option::of(0..6_usize)).prop_map(|(x, y)| {
        let compile = |which| BgpFilter::compile(&serde_json::from_value(rules(which)).unwrap()).unwrap();
        let named = [("x", x), ("y", y)].into_iter();
        named.filter_map(|(name, which)| Some((name.to_owned(), compile(which?)))).collect()
    })
}

/// What changes in one step: the part of the surroundings with this number, or all of them; filters.
type Step = (Option<(Surroundings, usize)>, Option<BTreeMap<String, BgpFilter>>);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let surroundings = prop::option::weighted(0.7, (surroundings(), 0..8_usize));
    prop::collection::vec((surroundings, prop::option::weighted(0.4, some_filters())), 1..8)
}

fn take(
    (surroundings, filters): &mut (Surroundings, BTreeMap<String, BgpFilter>),
    (new_surroundings, new_filters): Step,
) {
    if let Some((new, part)) = new_surroundings {
        match part {
            0 => surroundings.pools = new.pools,
            1 => surroundings.blocks = new.blocks,
            2 => surroundings.services = new.services,
            3 => surroundings.communities = new.communities,
            4 => surroundings.reflector = !surroundings.reflector,
            5 => surroundings.normal_v4 = if surroundings.normal_v4 == 256 { 1024 } else { 256 },
            6 => surroundings.normal_v6 = if surroundings.normal_v6 == 256 { 1024 } else { 256 },
            _ => *surroundings = new,
        }
    }
    if let Some(new) = new_filters {
        *filters = new;
    }
}

/// Routes of every kind and origin, in and out of everything.
fn fill(world: &mut World) {
    for (text, kind, metric, interface) in [
        ("10.1.0.0/26", LocalKind::Block, 1024, None),
        ("10.1.0.64/26", LocalKind::Block, 1024, None),
        ("10.9.0.0/26", LocalKind::Block, 1024, None),
        ("fd00::/122", LocalKind::Block, 1024, None),
        ("10.1.0.1/32", LocalKind::Workload, 1024, Some("cali1")),
        ("10.1.0.2/32", LocalKind::Workload, 512, Some("cali2")),
        ("10.1.0.70/32", LocalKind::Workload, 0, Some("cali3")),
        ("fd00::1/128", LocalKind::Workload, 512, Some("cali1")),
        ("10.96.0.0/12", LocalKind::Service, 1024, None),
        ("10.96.0.1/32", LocalKind::Service, 1024, None),
        ("203.0.113.5/32", LocalKind::Service, 1024, None),
        ("10.1.1.0/26", LocalKind::Remote, 1024, Some("vxlan.calico")),
        ("10.1.9.9/32", LocalKind::Direct, 1024, Some("tunl0")),
        ("192.0.2.0/24", LocalKind::Direct, 1024, Some("eth0")),
        ("0.0.0.0/0", LocalKind::Kernel, 0, Some("eth0")),
    ] {
        world.own(text, kind, metric, interface);
    }
    for from in [2, 3, 4, 5] {
        for text in ["10.1.2.0/26", "10.2.0.0/26", "10.96.0.2/32", "198.51.100.9/32", "fd00:7::/64", "fd01::/64"] {
            world.learn(from, text, |_| {});
        }
    }
    let elevated = |attributes: &mut Attributes| attributes.local_pref = Some(LocalRoute::local_pref(512));
    world.learn(2, "10.1.0.3/32", elevated);
    world.learn(4, "10.1.0.1/32", elevated);
}

fn up(world: &mut World) {
    for (id, peer_as, filters) in PEERS {
        world.peer(id, peer_as, filters, |_| {});
    }
}

/// What everyone was told, and what is believed.
fn outcome(world: &mut World) -> (Vec<BTreeMap<Prefix, Attributes>>, BTreeMap<Prefix, String>) {
    let told = PEERS.map(|(id, ..)| world.told(id).clone());
    let prefixes: Vec<_> = world.rib.prefixes().collect();
    let believed = prefixes.into_iter().map(|prefix| {
        let mut paths: Vec<_> = world.rib.paths(prefix).iter().map(|path| format!("{path:?}")).collect();
        paths.sort_unstable();
        (prefix, paths.join("\n"))
    });
    (told.to_vec(), believed.collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Only what `within` names is judged again; yet peers hold, and the RIB believes, what a speaker would have told
    /// and believed that starts with the last state.
    #[test]
    fn exchanged_policies_end_where_a_fresh_start_ends(steps in steps()) {
        let mut world = World::new();
        up(&mut world);
        fill(&mut world);
        let mut state = (Surroundings::default(), BTreeMap::new());
        for step in steps {
            take(&mut state, step);
            let (surroundings, filters) = state.clone();
            world.set(surroundings.clone(), &filters);
            let mut fresh = World::new();
            fresh.set(surroundings.clone(), &filters);
            up(&mut fresh);
            fill(&mut fresh);
            let (now, expect) = (outcome(&mut world), outcome(&mut fresh));
            for ((told, expect), (id, ..)) in now.0.iter().zip(&expect.0).zip(PEERS) {
                prop_assert_eq!(told, expect, "to {}", id);
            }
            prop_assert_eq!(now.1, expect.1);
        }
    }

    /// After an exchange, and with new policies for all if some were split, each session has what the book gives it;
    /// and sessions share a policy exactly if their rules are the same.
    #[test]
    fn what_sessions_hold_is_what_the_book_has(steps in steps()) {
        let mut world = World::new();
        up(&mut world);
        let mut state = (Surroundings::default(), BTreeMap::new());
        let mut held: BTreeMap<u32, (Option<Policy>, Policy)> = BTreeMap::new();
        for (id, session) in &world.sessions {
            held.insert(*id, (world.book.import(session), world.book.export(session)));
        }
        for step in steps {
            let before = state.clone();
            take(&mut state, step);
            let unchanged = state == before;
            let (surroundings, filters) = state.clone();
            let exchange = world.book.set(surroundings.clone(), &filters);
            prop_assert!(!unchanged || (exchange.policies.is_empty() && !exchange.split));
            let new = |policy: &Policy| {
                let pair = exchange.policies.iter().find(|(old, _)| old == policy);
                pair.map_or_else(|| policy.clone(), |(_, new)| new.clone())
            };
            for (import, export) in held.values_mut() {
                *import = import.as_ref().map(new);
                *export = new(export);
            }
            for (id, session) in &world.sessions {
                let now = (world.book.import(session), world.book.export(session));
                prop_assert!(exchange.split || held[id] == now, "{} without being asked", id);
                held.insert(*id, now);
            }
            let exports: Vec<_> = PEERS.iter().map(|(id, _, names)| (&held[id].1, names)).collect();
            for (policy, names) in &exports {
                for (other, other_names) in &exports {
                    let rules = |names: &[&str]| {
                        let rules = names.iter().filter_map(|name| filters.get(*name));
                        let rules = rules.map(|filter| filter.rules(crate::filter::Direction::Export));
                        rules.filter(|rules| !rules.is_empty()).cloned().collect::<Vec<_>>()
                    };
                    prop_assert_eq!(policy == other, rules(names) == rules(other_names));
                }
            }
        }
    }
}

#[test]
fn only_what_a_change_touches_is_judged_again() {
    let mut world = World::new();
    let before = Surroundings { pools: vec![pool("10.1.0.0/16", false)], normal_v4: 1024, ..Surroundings::default() };
    let filter = |which| BgpFilter::compile(&serde_json::from_value(rules(which)).unwrap()).unwrap();
    let filters = BTreeMap::from([("x".to_owned(), filter(1)), ("y".to_owned(), filter(0))]);
    world.set(before.clone(), &filters);
    up(&mut world);
    let mut check =
        |surroundings: &Surroundings, filters: &BTreeMap<String, BgpFilter>, pairs: usize, expect: &[&str]| {
            let exchange = world.set(surroundings.clone(), filters);
            let within = exchange.within.unwrap_or_default();
            let within: Vec<_> = within.iter().map(ToString::to_string).collect();
            assert_eq!((exchange.policies.len(), exchange.split), (pairs, false));
            assert_eq!(within, expect);
        };
    // Exports with and without filter x; imports do not depend on surroundings.
    let mut now = Surroundings { blocks: nets(&["10.1.0.0/26"]).into_iter().collect(), ..before };
    check(&now, &filters, 2, &["10.1.0.0/26"]);
    now.kernel_ranges = nets(&["10.96.0.0/12"]);
    check(&now, &filters, 0, &[]);
    now.services = nets(&["10.96.0.0/12", "10.96.0.1/32", "203.0.113.5/32"]).into_iter().collect();
    check(&now, &filters, 2, &["10.96.0.0/12", "203.0.113.5/32"]);
    now.pools[0].disable_bgp_export = true;
    check(&now, &filters, 2, &["10.1.0.0/16"]);
    now.normal_v4 = 512;
    check(&now, &filters, 2, &["10.1.0.0/26"]);
    // Of x the exports change, for the sessions that use it only.
    let accept_all = json!({"exportV4": [{"action": "Accept"}]});
    let accept_all = BgpFilter::compile(&serde_json::from_value(accept_all).unwrap()).unwrap();
    let mut other = BTreeMap::from([("x".to_owned(), accept_all), ("y".to_owned(), filter(0))]);
    check(&now, &other, 1, &["0.0.0.0/0"]);
    check(&now, &other, 0, &[]);
    // What was as good as no filter becomes one of its own.
    other.insert("y".to_owned(), filter(4));
    assert!(world.set(now, &other).split);
}

#[test]
fn a_policy_that_nobody_holds_is_forgotten() {
    let mut world = World::new();
    up(&mut world);
    let filters = BTreeMap::new();
    world.set(Surroundings { pools: vec![pool("10.0.0.0/8", false)], ..Surroundings::default() }, &filters);
    let held = world.book.held();
    for (id, ..) in PEERS {
        world.rib.remove_peer(PeerId(id));
    }
    world.set(Surroundings::default(), &filters);
    assert!(held > 0);
    assert_eq!(world.book.held(), 0);
}
