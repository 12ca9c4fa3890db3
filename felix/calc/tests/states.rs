//! States: what a set of resources should give, reached in any order, through any detour.

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{IPAMBlock, IPAMBlockSpec, Key, Kind, ObjectMeta, WorkloadEndpoint, WorkloadEndpointSpec};
use felix_calc::{Calc, Change, Claim, Routing, Settings, Unusable, Update};
use ipnet::IpNet;
use proptest::prelude::*;

fn calc() -> Calc {
    Calc::new(Settings {
        node: "east".to_owned(),
        prefixes: vec!["cali".to_owned()],
        routing: Routing::Bgp,
        felix_programs: None,
        external_nodes: Vec::new(),
    })
}

fn endpoint(name: &str, node: &str, interface: &str, container: &str, networks: &[&str]) -> WorkloadEndpoint {
    let metadata = ObjectMeta { namespace: Some("default".to_owned()), ..ObjectMeta::named(name) };
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: node.to_owned(),
        pod: name.to_owned(),
        endpoint: "eth0".to_owned(),
        interface_name: interface.to_owned(),
        container_id: container.to_owned(),
        ip_networks: networks.iter().map(ToString::to_string).collect(),
        ..WorkloadEndpointSpec::default()
    };
    WorkloadEndpoint::new(metadata, spec)
}

fn block(network: &str, owner: Option<&str>) -> IPAMBlock {
    let spec = IPAMBlockSpec {
        cidr: network.parse().unwrap(),
        affinity: owner.map(str::to_owned),
        affinity_claim_time: None,
        allocations: Vec::new(),
        unallocated: Vec::new(),
        attributes: Vec::new(),
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: false,
        strict_affinity: false,
    };
    IPAMBlock::new(ObjectMeta::default(), spec)
}

/// The state that a receiver of the changes ends up with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Desired {
    routes: BTreeMap<String, BTreeSet<String>>,
    holes: BTreeSet<IpNet>,
}

impl Desired {
    fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Interface { name, wanted: Some(wanted) } => {
                    let routes = wanted.addresses.iter().map(ToString::to_string).collect();
                    self.routes.insert(name, routes);
                }
                Change::Interface { name, wanted: None } => assert!(self.routes.remove(&name).is_some()),
                Change::BlackHole { network, wanted: true } => assert!(self.holes.insert(network)),
                Change::BlackHole { network, wanted: false } => assert!(self.holes.remove(&network)),
                _ => {} // of the cluster, which is not the matter here
            }
        }
    }

    fn of(routes: &[(&str, &[&str])], holes: &[&str]) -> Self {
        let names = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        Self {
            routes: routes.iter().map(|(name, all)| ((*name).to_owned(), names(all))).collect(),
            holes: holes.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }
}

fn put(endpoint: &WorkloadEndpoint) -> Update {
    Update::Endpoint(Box::new(endpoint.clone()))
}

fn put_block(network: &str, owner: Option<&str>) -> Update {
    Update::Block(Box::new(block(network, owner)))
}

/// Feeds `updates` and checks what is desired in the end.
#[track_caller]
fn check(updates: Vec<Update>, expected: &Desired) {
    let (mut calc, mut desired) = (calc(), Desired::default());
    for update in updates {
        desired.take(calc.update(update));
    }
    assert_eq!(&desired, expected);
}

/// Each state is one moment of a cluster's life: the resources, and what this node should then hold.
fn states() -> Vec<(Vec<Update>, Desired)> {
    let a = endpoint("a", "east", "cali-a", "c1", &["10.244.0.1/32", "fd00::1/128"]);
    let b = endpoint("b", "east", "cali-b", "c2", &["10.244.0.2"]);
    let a_moved = endpoint("a", "west", "cali-a", "c3", &["10.244.1.1/32"]);
    let a_again = endpoint("a", "east", "cali-a", "c4", &["10.244.0.9/32"]);
    let b_done = endpoint("b", "east", "cali-b", "c2", &[]);
    let rival = endpoint("aa", "east", "cali-b", "c5", &["10.244.0.5/32"]);
    let ours = put_block("10.244.0.0/26", Some("host:east"));
    vec![
        (vec![], Desired::default()),
        (
            vec![put(&a), put(&b), ours.clone()],
            Desired::of(
                &[("cali-a", &["10.244.0.1/32", "fd00::1/128"]), ("cali-b", &["10.244.0.2/32"])],
                &["10.244.0.0/26"],
            ),
        ),
        (vec![put(&a_moved), put(&b)], Desired::of(&[("cali-b", &["10.244.0.2/32"])], &[])),
        (
            vec![put(&a_again), put(&b_done), put_block("10.244.0.0/26", Some("host:west"))],
            Desired::of(&[("cali-a", &["10.244.0.9/32"])], &[]),
        ),
        // Two on one interface: the smaller id is in force, the other waits.
        (vec![put(&b), put(&rival), ours], Desired::of(&[("cali-b", &["10.244.0.5/32"])], &["10.244.0.0/26"])),
        // No black hole for single addresses, load balancers' blocks, blocks without an owner.
        (
            vec![
                put_block("10.244.0.0/26", None),
                put_block("10.244.0.64/32", Some("host:east")),
                put_block("fd00::/128", Some("host:east")),
                put_block("10.244.0.128/26", Some("virtual:east")),
                put_block("fd00::/122", Some("host:east")),
            ],
            Desired::of(&[], &["fd00::/122"]),
        ),
    ]
}

fn keys() -> Vec<Key> {
    let of = |update: &Update| match update {
        Update::Endpoint(endpoint) => endpoint.key(),
        Update::Block(block) => block.key(),
        _ => unreachable!("states hold endpoints and blocks only"),
    };
    states().iter().flat_map(|(updates, _)| updates.iter().map(of).collect::<Vec<_>>()).collect()
}

/// What brings a calculation from anywhere to `state`: its resources, and the deletion of all others.
fn steps_to(state: &[Update]) -> Vec<Update> {
    let there: BTreeSet<Key> = state
        .iter()
        .filter_map(|update| match update {
            Update::Endpoint(endpoint) => Some(endpoint.key()),
            Update::Block(block) => Some(block.key()),
            _ => None,
        })
        .collect();
    let gone = keys().into_iter().filter(|key| !there.contains(key)).collect::<BTreeSet<_>>();
    state.iter().cloned().chain(gone.into_iter().map(Update::Deleted)).collect()
}

proptest! {
    #[test]
    fn every_walk_through_the_states_gives_what_each_state_says(
        walk in prop::collection::vec((0..states().len(), any::<prop::sample::Index>(), any::<u64>()), 1..8),
        repeated in any::<bool>(),
    ) {
        let states = states();
        let (mut calc, mut desired) = (calc(), Desired::default());
        for (which, rotation, seed) in walk {
            let (resources, expected) = &states[which];
            let mut steps = steps_to(resources);
            let turn = rotation.index(steps.len());
            steps.rotate_left(turn);
            steps.sort_by_key(|step| (seed ^ format!("{step:?}").len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            for step in steps {
                if repeated {
                    desired.take(calc.update(step.clone()));
                }
                desired.take(calc.update(step));
            }
            prop_assert_eq!(&desired, expected);
            prop_assert!(calc.local_endpoints() >= expected.routes.len());
        }
    }
}

#[test]
fn an_unreadable_version_leaves_the_last_good_one_in_force() {
    let good = endpoint("a", "east", "cali-a", "c1", &["10.244.0.1/32"]);
    let (mut calc, mut desired) = (calc(), Desired::default());
    desired.take(calc.update(put(&good)));
    desired.take(calc.update(put_block("10.244.0.0/26", Some("host:east"))));
    for (bad, reason) in [
        (endpoint("a", "east", "cali-a", "c1", &["10.244.0.1/3x"]), Unusable::Network("10.244.0.1/3x".to_owned())),
        (endpoint("a", "east", "cali-a", "c1", &["10.244.0.0/24"]), Unusable::Length("10.244.0.0/24".parse().unwrap())),
        (endpoint("a", "east", "eth0", "c1", &["10.244.0.1"]), Unusable::Name("eth0".to_owned())),
        (endpoint("a", "east", "cali", "c1", &["10.244.0.1"]), Unusable::Name("cali".to_owned())),
        (endpoint("a", "east", "cali/../../../x", "c1", &["10.244.0.1"]), Unusable::Name("cali/../../../x".to_owned())),
    ] {
        assert_eq!(calc.update(put(&bad)), [Change::Ignored { key: Some(good.key()), reason }]);
    }
    for key in [Some(Key::Block("10.244.0.0/26".parse().unwrap())), Some(good.key()), None] {
        desired.take(calc.update(Update::Fault { key, reason: "not JSON".to_owned() }));
    }
    assert_eq!(desired, Desired::of(&[("cali-a", &["10.244.0.1/32"])], &["10.244.0.0/26"]));
    assert_eq!(calc.update(Update::InSync), [Change::InSync, Change::PeersKnown]);
    assert_eq!(calc.update(Update::InSync), []);
}

#[test]
fn the_agents_word_holds_against_a_watch_that_lags() {
    let old = endpoint("web", "east", "cali-web", "c1", &["10.244.0.1/32"]);
    let new = endpoint("web", "east", "cali-web", "c2", &["10.244.0.2/32"]);
    let is_new = Desired::of(&[("cali-web", &["10.244.0.2/32"])], &[]);
    let (mut calc, mut desired) = (calc(), Desired::default());
    desired.take(calc.claim(&new.key(), Claim::Present(Box::new(new.clone()))));
    assert_eq!(desired, is_new);
    let half = endpoint("web", "east", "cali-web", "c2", &["10.244.0.1/32"]);
    for late in [put(&old), Update::Deleted(old.key()), put(&half), put(&new)] {
        desired.take(calc.update(late));
        assert_eq!(desired, is_new);
    }
    // The old sandbox's DEL comes last and is none of the new one's business.
    desired.take(calc.claim(&new.key(), Claim::Gone { container: "c1".to_owned() }));
    assert_eq!(desired, is_new);
    // Confirmed, so the watch has its say again.
    desired.take(calc.update(Update::Deleted(new.key())));
    assert_eq!(desired, Desired::default());
}

#[test]
fn what_the_agent_removed_does_not_come_back_with_a_late_update() {
    let pod = endpoint("web", "east", "cali-web", "c1", &["10.244.0.1/32"]);
    let (mut calc, mut desired) = (calc(), Desired::default());
    desired.take(calc.update(put(&pod)));
    desired.take(calc.claim(&pod.key(), Claim::Gone { container: "c1".to_owned() }));
    assert_eq!(desired, Desired::default());
    desired.take(calc.update(put(&pod)));
    assert_eq!(desired, Desired::default());
    desired.take(calc.update(Update::Deleted(pod.key())));
    desired.take(calc.update(put(&pod)));
    assert_eq!(desired, Desired::of(&[("cali-web", &["10.244.0.1/32"])], &[]));
}

#[test]
fn a_claim_that_nobody_confirms_ends_with_the_second_age() {
    let pod = endpoint("web", "east", "cali-web", "c1", &["10.244.0.1/32"]);
    let (mut calc, mut desired) = (calc(), Desired::default());
    desired.take(calc.claim(&pod.key(), Claim::Present(Box::new(pod.clone()))));
    desired.take(calc.age());
    assert_eq!(desired, Desired::of(&[("cali-web", &["10.244.0.1/32"])], &[]));
    desired.take(calc.age());
    assert_eq!(desired, Desired::default());
    assert_eq!(calc.local_endpoints(), 0);
}

#[test]
fn two_on_one_interface_take_turns_by_the_smaller_id() {
    let first = endpoint("a", "east", "cali-x", "c1", &["10.244.0.1/32"]);
    let second = endpoint("b", "east", "cali-x", "c2", &["10.244.0.2/32"]);
    let one = Desired::of(&[("cali-x", &["10.244.0.1/32"])], &[]);
    check(vec![put(&first), put(&second)], &one);
    check(vec![put(&second), put(&first)], &one);
    let two = Desired::of(&[("cali-x", &["10.244.0.2/32"])], &[]);
    check(vec![put(&first), put(&second), Update::Deleted(first.key())], &two);
    let other = Key::named(Kind::IPPool, "a");
    check(vec![put(&second), Update::Deleted(other), Update::InSync], &two);
}
