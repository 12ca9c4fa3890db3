//! Resources in, what is wrong with the sessions out.

use calico_api::BGPPeerSpec;
use serde_json::json;

use super::*;
use crate::inputs::{Inputs, NodeFacts};
use crate::sessions::{Cluster, Peering};

/// Nodes: `name=address[ AS n][ RR id]`, all with the label `name`.
fn nodes<S: AsRef<str>>(list: &[S]) -> Inputs {
    let mut inputs = Inputs::default();
    for item in list {
        let (name, rest) = item.as_ref().split_once('=').unwrap();
        let mut words = rest.split(' ');
        let address: IpAddr = words.next().unwrap().parse().unwrap();
        let mut facts = NodeFacts { labels: [("name", name)].into_iter().collect(), ..NodeFacts::default() };
        match address {
            IpAddr::V4(address) => facts.ipv4 = Some(ipnet::Ipv4Net::new(address, 24).unwrap()),
            IpAddr::V6(address) => facts.ipv6 = Some(ipnet::Ipv6Net::new(address, 64).unwrap()),
        }
        while let Some(word) = words.next() {
            let value = words.next().unwrap();
            match word {
                "AS" => facts.as_number = Some(value.parse().unwrap()),
                _ => facts.cluster_id = Some(value.parse().unwrap()),
            }
        }
        inputs.nodes.insert(name.to_owned(), facts);
    }
    inputs
}

fn with_peer(inputs: &mut Inputs, name: &str, spec: serde_json::Value) {
    let spec: BGPPeerSpec = serde_json::from_value(spec).unwrap();
    inputs.peers.insert(name.to_owned(), Peering::understand(&spec).unwrap());
}

fn without_mesh<S: AsRef<str>>(list: &[S]) -> Inputs {
    let mut inputs = nodes(list);
    inputs.global.node_to_node_mesh_enabled = Some(false);
    inputs
}

#[track_caller]
fn check(inputs: &Inputs, expected: &[&str]) {
    let plans = Cluster::new(inputs).plans().map(|(node, plan)| (node.to_owned(), plan)).collect();
    let found: Vec<_> = super::check(&plans).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_mesh_reaches_all_in_each_family() {
    check(&nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]), &[]);
    check(&nodes(&["a=10.0.0.1 AS 1", "b=10.0.0.2 AS 2", "c=10.0.0.10"]), &[]);
    check(&nodes(&["a=10.0.0.1", "b=fd00::1", "c=fd00::2"]), &[]);
}

#[test]
fn a_reflector_without_peering_is_isolated_from_a_mesh_that_goes_on_without_it() {
    let inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "r=10.0.0.3 RR 244.0.0.1"]);
    check(&inputs, &["node r has no IPv4 session"]);
}

#[test]
fn reflectors_reach_all_if_every_node_has_a_session_with_each_cluster() {
    let list = ["r1=10.0.0.1 RR 244.0.0.1", "r2=10.0.0.2 RR 244.0.0.1", "v=10.0.0.3", "w=10.0.0.4"];
    let mut inputs = without_mesh(&list);
    with_peer(&mut inputs, "rr", json!({"nodeSelector": "all()", "peerSelector": "name starts with 'r'"}));
    check(&inputs, &[]);

    // Nodes at disjoint reflectors of one cluster do not reach each other: the reflectors drop what the other reflects.
    let mut inputs = without_mesh(&list);
    with_peer(&mut inputs, "rr", json!({"node": "r1", "peerSelector": "name == 'r2'"}));
    with_peer(&mut inputs, "v", json!({"node": "v", "peerSelector": "name == 'r1'"}));
    with_peer(&mut inputs, "w", json!({"node": "w", "peerSelector": "name == 'r2'"}));
    check(&inputs, &["nodes r2, w have no IPv4 path to v", "nodes r1, v have no IPv4 path to w"]);
    // With two clusters they do.
    inputs.nodes.get_mut("r2").unwrap().cluster_id = Some("244.0.0.2".parse().unwrap());
    check(&inputs, &[]);
}

#[test]
fn who_does_not_reflect_passes_nothing_on_inside_and_all_outside() {
    let chain = |numbers: [&str; 3]| {
        let mut inputs = without_mesh(&[
            format!("a=10.0.0.1 AS {}", numbers[0]),
            format!("b=10.0.0.2 AS {}", numbers[1]),
            format!("c=10.0.0.3 AS {}", numbers[2]),
        ]);
        with_peer(&mut inputs, "p", json!({"node": "b", "peerSelector": "name in {'a', 'c'}"}));
        inputs
    };
    check(
        &chain(["1", "1", "1"]),
        &[
            "node c has no IPv4 path to a; the only session is with b",
            "node a has no IPv4 path to c; the only session is with b",
        ],
    );
    check(&chain(["1", "1", "2"]), &[]);
    check(&chain(["1", "2", "3"]), &[]);
    // The outer two are one AS, and each finds its own number in the path.
    check(
        &chain(["1", "2", "1"]),
        &[
            "node c has no IPv4 path to a; the only session is with b",
            "node a has no IPv4 path to c; the only session is with b",
        ],
    );
}

#[test]
fn what_is_outside_the_cluster_is_trusted_to_pass_on() {
    let mut inputs = without_mesh(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"]);
    with_peer(
        &mut inputs,
        "tor",
        json!({"nodeSelector": "name in {'a', 'b'}", "peerIP": "10.0.0.254", "asNumber": 65000}),
    );
    check(&inputs, &["node c has no IPv4 session"]);
    with_peer(&mut inputs, "bc", json!({"node": "b", "peerSelector": "name == 'c'"}));
    check(&inputs, &[]);
}

#[test]
fn sessions_of_one_end_only_and_ends_that_disagree_are_named() {
    let mut inputs = without_mesh(&["a=10.0.0.1 AS 1", "b=10.0.0.2 AS 2"]);
    with_peer(&mut inputs, "p", json!({"node": "a", "peerSelector": "name == 'b'", "reversePeering": "Manual"}));
    check(&inputs, &["a has a session with b (Node_10_0_0_2), b has none with a", "nodes a, b have no IPv4 session"]);
    with_peer(&mut inputs, "q", json!({"node": "b", "peerIP": "10.0.0.1", "asNumber": 3}));
    check(
        &inputs,
        &[
            "the session of a with b (Node_10_0_0_2) cannot be established: one end is AS 1 and expects AS 2, the other is AS 2 and expects AS 3",
            "nodes a, b have no IPv4 session",
        ],
    );
    let spec = json!({"node": "b", "peerIP": "10.0.0.1", "asNumber": 1, "password": {"secretKeyRef": {"name": "s", "key": "k"}}});
    with_peer(&mut inputs, "q", spec);
    check(
        &inputs,
        &[
            "the session of a with b (Node_10_0_0_2) cannot be established: only one end has a password",
            "nodes a, b have no IPv4 session",
        ],
    );
}

#[test]
fn one_cause_is_one_entry_however_many_nodes_it_hits() {
    let list: Vec<_> = (0..150).map(|index| format!("n{index:03}=10.0.0.{}", index + 1)).collect();
    let mut inputs = nodes(&list);
    check(&inputs, &[]);
    // Two parts, each a mesh of its own.
    let half = |name: &str| json!({"nodeSelector": name, "peerSelector": name});
    inputs.global.node_to_node_mesh_enabled = Some(false);
    with_peer(&mut inputs, "low", half("name starts with 'n0'"));
    with_peer(&mut inputs, "high", half("!name starts with 'n0'"));
    check(
        &inputs,
        &[
            "nodes n100, n101, n102, n103, n104 and 45 others have no IPv4 path to 100 others: n000, n001, n002, n003, n004 and 95 others",
            "nodes n000, n001, n002, n003, n004 and 95 others have no IPv4 path to 50 others: n100, n101, n102, n103, n104 and 45 others",
        ],
    );
}
