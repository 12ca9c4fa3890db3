//! The worked examples: resources in, sessions out, by the numbers of the reference.

use std::net::IpAddr;

use calico_api::{AsNumber, BGPConfigurationSpec, BGPPeerSpec};
use serde_json::json;

use super::*;
use crate::inputs::{Inputs, NodeFacts};

/// The resources of the vectors: `name=address[+address][ AS n]`.
fn nodes(list: &[&str]) -> Inputs {
    let mut inputs = Inputs::default();
    for item in list {
        let (name, rest) = item.split_once('=').unwrap();
        let (addresses, as_number) = rest.split_once(" AS ").map_or((rest, None), |(a, n)| (a, Some(n)));
        let mut facts = NodeFacts { as_number: as_number.map(|n| n.parse().unwrap()), ..NodeFacts::default() };
        for address in addresses.split('+') {
            match address.parse().unwrap() {
                IpAddr::V4(address) => facts.ipv4 = Some(ipnet::Ipv4Net::new(address, 24).unwrap()),
                IpAddr::V6(address) => facts.ipv6 = Some(ipnet::Ipv6Net::new(address, 64).unwrap()),
            }
        }
        inputs.nodes.insert(name.to_owned(), facts);
    }
    inputs
}

/// Each session as the vectors write it: `address:port [Origin P|A, AS l→r]`.
#[track_caller]
fn check(inputs: &Inputs, node: &str, expected: &[&str]) -> Plan {
    let plan = plan(inputs, node);
    let mut got: Vec<_> = plan
        .sessions
        .iter()
        .map(|s| {
            let flag = if s.passive { "P" } else { "A" };
            let client = if s.client { " C" } else { "" };
            format!("{} [{:?} {flag}{client}, {}→{}]", s.peer, s.origin, s.local_as, s.peer_as)
        })
        .collect();
    let mut expected: Vec<_> = expected.iter().map(|line| (*line).to_owned()).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected, "sessions of {node}");
    plan
}

/// A BGPPeer from its spec.
fn with_peer(inputs: &mut Inputs, name: &str, spec: serde_json::Value) {
    let spec: BGPPeerSpec = serde_json::from_value(spec).unwrap();
    inputs.peers.insert(name.to_owned(), Peering::understand(&spec).unwrap());
}

fn with_labels(inputs: &mut Inputs, node: &str, labels: &[(&str, &str)]) {
    inputs.nodes.get_mut(node).unwrap().labels = labels.iter().copied().collect();
}

/// Makes a node a reflector with the label `rr`.
fn with_cluster_id(inputs: &mut Inputs, node: &str, id: &str) {
    with_labels(inputs, node, &[("rr", "")]);
    inputs.nodes.get_mut(node).unwrap().cluster_id = Some(id.parse().unwrap());
}

fn without_mesh(list: &[&str]) -> Inputs {
    let mut inputs = nodes(list);
    inputs.global.node_to_node_mesh_enabled = Some(false);
    inputs
}

fn texts(plan: &Plan) -> Vec<String> {
    plan.warnings.iter().map(ToString::to_string).collect()
}

const ABC: [&str; 3] = ["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"];

#[test]
fn s1_who_dials_is_decided_by_the_text_of_the_addresses() {
    let inputs = nodes(&ABC);
    let plan = check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 64512→64512]", "10.0.0.10:179 [Mesh P, 64512→64512]"]);
    assert_eq!(plan.sessions[0].name, "Mesh_10_0_0_10");
    assert_eq!(plan.sessions[0].source, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(plan.sessions[0].remote.as_deref(), Some("c"));
    assert_eq!(plan.warnings, []);
    check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]", "10.0.0.10:179 [Mesh A, 64512→64512]"]);
    check(&inputs, "c", &["10.0.0.1:179 [Mesh A, 64512→64512]", "10.0.0.2:179 [Mesh P, 64512→64512]"]);
}

#[test]
fn s2_each_family_has_its_own_mesh() {
    let inputs = nodes(&["a=10.0.0.1+fd00::1", "b=10.0.0.2", "c=10.0.0.9+fd00::a"]);
    let a = check(
        &inputs,
        "a",
        &[
            "10.0.0.2:179 [Mesh P, 64512→64512]",
            "10.0.0.9:179 [Mesh P, 64512→64512]",
            "[fd00::a]:179 [Mesh P, 64512→64512]",
        ],
    );
    assert!(a.sessions.iter().any(|session| session.name == "Mesh_fd00__a"));
    check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]", "10.0.0.9:179 [Mesh P, 64512→64512]"]);
    let c = check(
        &inputs,
        "c",
        &[
            "10.0.0.1:179 [Mesh A, 64512→64512]",
            "10.0.0.2:179 [Mesh A, 64512→64512]",
            "[fd00::1]:179 [Mesh A, 64512→64512]",
        ],
    );
    assert_eq!(c.listen.ipv6, Some("[::]:179".parse().unwrap()));
    assert_eq!(plan(&inputs, "b").listen.ipv6, None);
}

#[test]
fn s3_a_node_without_as_number_has_the_global_one_also_in_the_eyes_of_those_that_have_their_own() {
    let inputs = nodes(&["a=10.0.0.1 AS 65001", "b=10.0.0.2", "c=10.0.0.3"]);
    check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 65001→64512]", "10.0.0.3:179 [Mesh P, 65001→64512]"]);
    check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→65001]", "10.0.0.3:179 [Mesh P, 64512→64512]"]);
    check(&inputs, "c", &["10.0.0.1:179 [Mesh A, 64512→65001]", "10.0.0.2:179 [Mesh A, 64512→64512]"]);
}

#[test]
fn s4_without_mesh_a_global_peer_is_every_nodes() {
    let mut inputs = without_mesh(&ABC);
    inputs.global.as_number = Some(AsNumber(64600));
    with_peer(&mut inputs, "tor", json!({"peerIP": "10.0.0.254", "asNumber": 65000}));
    for node in ["a", "b", "c"] {
        let plan = check(&inputs, node, &["10.0.0.254:179 [Global A, 64600→65000]"]);
        assert_eq!(plan.sessions[0].name, "Global_10_0_0_254");
        assert_eq!(plan.sessions[0].resource.as_deref(), Some("tor"));
        assert_eq!(plan.warnings, []);
    }
}

#[test]
fn s5_a_reflector_leaves_the_mesh_and_its_clients_come_by_the_other_end_of_a_peering() {
    let mut inputs = nodes(&ABC);
    with_cluster_id(&mut inputs, "a", "244.0.0.1");
    with_peer(&mut inputs, "rr", json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"}));
    check(&inputs, "a", &["10.0.0.2:179 [Node A C, 64512→64512]", "10.0.0.10:179 [Node A C, 64512→64512]"]);
    let b = check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→64512]", "10.0.0.10:179 [Mesh A, 64512→64512]"]);
    assert_eq!(b.warnings, [], "the mesh is partial, but all reach all");
    check(&inputs, "c", &["10.0.0.1:179 [Node A, 64512→64512]", "10.0.0.2:179 [Mesh P, 64512→64512]"]);
}

#[test]
fn s6_s7_reflectors_of_one_cluster_are_no_clients_of_each_other_those_of_two_are() {
    let mut inputs = without_mesh(&["r1=10.0.0.1", "r2=10.0.0.2", "w=10.0.0.10"]);
    with_cluster_id(&mut inputs, "r1", "244.0.0.1");
    with_cluster_id(&mut inputs, "r2", "244.0.0.1");
    with_peer(&mut inputs, "rr", json!({"nodeSelector": "all()", "peerSelector": "has(rr)"}));
    check(&inputs, "r1", &["10.0.0.2:179 [Node A, 64512→64512]", "10.0.0.10:179 [Node A C, 64512→64512]"]);
    check(&inputs, "r2", &["10.0.0.1:179 [Node A, 64512→64512]", "10.0.0.10:179 [Node A C, 64512→64512]"]);
    let w = ["10.0.0.1:179 [Node A, 64512→64512]", "10.0.0.2:179 [Node A, 64512→64512]"];
    assert_eq!(check(&inputs, "w", &w).warnings, []);

    with_cluster_id(&mut inputs, "r2", "244.0.0.2");
    check(&inputs, "r1", &["10.0.0.2:179 [Node A C, 64512→64512]", "10.0.0.10:179 [Node A C, 64512→64512]"]);
    check(&inputs, "r2", &["10.0.0.1:179 [Node A C, 64512→64512]", "10.0.0.10:179 [Node A C, 64512→64512]"]);
    check(&inputs, "w", &w);
}

#[test]
fn s8_a_global_peering_with_a_node_by_address_has_one_end_that_dials() {
    let mut inputs = without_mesh(&ABC);
    with_peer(&mut inputs, "p", json!({"peerIP": "10.0.0.2", "asNumber": 64512}));
    check(&inputs, "a", &["10.0.0.2:179 [Global P, 64512→64512]"]);
    check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→64512]", "10.0.0.10:179 [Node A, 64512→64512]"]);
    check(&inputs, "c", &["10.0.0.2:179 [Global P, 64512→64512]"]);
    // What listens on another port than the node's is another speaker, which need not dial.
    with_peer(&mut inputs, "p", json!({"peerIP": "10.0.0.2:1790", "asNumber": 64512}));
    check(&inputs, "a", &["10.0.0.2:1790 [Global A, 64512→64512]"]);
    check(&inputs, "b", &[]);
}

#[test]
fn s9_an_explicit_peering_takes_the_place_of_the_mesh_session_and_this_is_said() {
    let mut inputs = nodes(&ABC);
    with_peer(&mut inputs, "p", json!({"peerIP": "10.0.0.2", "asNumber": 64512}));
    let plan = check(&inputs, "a", &["10.0.0.2:179 [Global P, 64512→64512]", "10.0.0.10:179 [Mesh P, 64512→64512]"]);
    assert_eq!(texts(&plan), ["BGPPeer p takes the place of the mesh for Mesh_10_0_0_2"]);
    let b = check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→64512]", "10.0.0.10:179 [Node A, 64512→64512]"]);
    assert_eq!(texts(&b), ["BGPPeer p takes the place of the mesh for Mesh_10_0_0_1, Mesh_10_0_0_10"]);
}

#[test]
fn s10_a_global_peering_beats_one_of_the_node_with_the_same_address() {
    let mut inputs = without_mesh(&["a=10.0.0.1", "b=10.0.0.2"]);
    with_peer(&mut inputs, "z-global", json!({"peerIP": "10.0.0.254", "asNumber": 65000}));
    with_peer(&mut inputs, "a-node", json!({"node": "a", "peerIP": "10.0.0.254", "asNumber": 65001}));
    let plan = check(&inputs, "a", &["10.0.0.254:179 [Global A, 64512→65000]"]);
    assert_eq!(
        texts(&plan),
        [
            "BGPPeer a-node is not used for 10.0.0.254: BGPPeer z-global configures the same peer, with another asNumber, and comes first"
        ]
    );
    assert_eq!(check(&inputs, "b", &["10.0.0.254:179 [Global A, 64512→65000]"]).warnings, []);
}

#[test]
fn s11_ports_are_those_of_the_node_that_listens() {
    let mut inputs = nodes(&ABC);
    inputs.global.listen_port = Some(1790);
    let own = BGPConfigurationSpec { listen_port: Some(1179), ..BGPConfigurationSpec::default() };
    inputs.per_node.insert("b".to_owned(), own);
    let a = check(&inputs, "a", &["10.0.0.2:1179 [Mesh P, 64512→64512]", "10.0.0.10:1790 [Mesh P, 64512→64512]"]);
    assert_eq!(a.listen.ipv4.unwrap().port(), 1790);
    let b = check(&inputs, "b", &["10.0.0.1:1790 [Mesh A, 64512→64512]", "10.0.0.10:1790 [Mesh A, 64512→64512]"]);
    assert_eq!(b.listen.ipv4.unwrap().port(), 1179);
    assert_eq!(b.sessions[0].name, "Mesh_10_0_0_1", "names of the mesh carry no port");
    inputs.global.node_to_node_mesh_enabled = Some(false);
    with_peer(&mut inputs, "p", json!({"node": "a", "peerSelector": "all()"}));
    let a = check(&inputs, "a", &["10.0.0.2:1179 [Node A, 64512→64512]", "10.0.0.10:1790 [Node A, 64512→64512]"]);
    assert_eq!(a.sessions[1].name, "Node_10_0_0_2_port_1179");
}

#[test]
fn s12_ports_make_sessions_of_their_own_and_the_default_port_is_no_port() {
    let mut inputs = without_mesh(&["a=10.0.0.1"]);
    for (name, address) in [("t1", "192.0.2.1:1790"), ("t2", "192.0.2.1"), ("t3", "192.0.2.1:179")] {
        with_peer(&mut inputs, name, json!({"peerIP": address, "asNumber": 65000}));
    }
    let expected = ["192.0.2.1:179 [Global A, 64512→65000]", "192.0.2.1:1790 [Global A, 64512→65000]"];
    let plan = check(&inputs, "a", &expected);
    let names: Vec<_> = plan.sessions.iter().map(|session| session.name.as_str()).collect();
    assert_eq!(names, ["Global_192_0_2_1", "Global_192_0_2_1_port_1790"]);
    assert_eq!(plan.warnings, [], "what loses asks for nothing else");
    with_peer(&mut inputs, "t3", json!({"peerIP": "192.0.2.1:179", "asNumber": 65000, "ttlSecurity": 1}));
    assert!(texts(&check(&inputs, "a", &expected))[0].starts_with("BGPPeer t3 is not used for 192.0.2.1"));
}

#[test]
fn s13_without_reverse_peering_only_one_end_has_the_session() {
    let mut inputs = without_mesh(&["r=10.0.0.1", "w=10.0.0.2"]);
    with_labels(&mut inputs, "r", &[("rr", "")]);
    let spec = json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)", "reversePeering": "Manual"});
    with_peer(&mut inputs, "p", spec);
    check(&inputs, "w", &["10.0.0.1:179 [Node A, 64512→64512]"]);
    check(&inputs, "r", &[]);
}

#[test]
fn s14_what_is_written_for_an_end_beats_what_follows_from_the_other() {
    let mut inputs = without_mesh(&["r=10.0.0.1", "w=10.0.0.2"]);
    with_labels(&mut inputs, "r", &[("rr", "")]);
    with_peer(&mut inputs, "p", json!({"nodeSelector": "!has(rr)", "peerSelector": "has(rr)"}));
    let spec = json!({"node": "r", "peerIP": "10.0.0.2", "asNumber": 64512, "sourceAddress": "None"});
    with_peer(&mut inputs, "q", spec);
    let w = check(&inputs, "w", &["10.0.0.1:179 [Node A, 64512→64512]"]);
    assert_eq!(w.sessions[0].source, Some("10.0.0.2".parse().unwrap()));
    let r = check(&inputs, "r", &["10.0.0.2:179 [Node A, 64512→64512]"]);
    assert_eq!((r.sessions[0].source, r.sessions[0].resource.as_deref()), (None, Some("q")));
    assert_eq!((w.warnings, r.warnings), (vec![], vec![]));
}

#[test]
fn s15_another_local_as_number_is_that_of_its_sessions_only() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2"]);
    let spec = json!({"node": "a", "peerIP": "10.0.0.254", "asNumber": 65000, "localASNumber": 65010});
    with_peer(&mut inputs, "t", spec);
    check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 64512→64512]", "10.0.0.254:179 [Node A, 65010→65000]"]);
    check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]"]);
}

#[test]
fn a_local_as_number_counts_beside_a_peer_selector_too_and_the_other_end_expects_it() {
    let mut inputs = without_mesh(&["a=10.0.0.1", "b=10.0.0.2"]);
    with_peer(&mut inputs, "p", json!({"node": "a", "peerSelector": "all()", "localASNumber": 65010}));
    check(&inputs, "a", &["10.0.0.2:179 [Node A, 65010→64512]"]);
    check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→65010]"]);
}

#[test]
fn who_is_on_both_sides_speaks_with_the_same_local_as_number_on_both() {
    let mut inputs = without_mesh(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"]);
    with_labels(&mut inputs, "a", &[("rack", "1")]);
    with_labels(&mut inputs, "b", &[("rack", "1")]);
    let spec = json!({"nodeSelector": "rack == '1'", "peerSelector": "all()", "localASNumber": 65010});
    with_peer(&mut inputs, "p", spec);
    check(&inputs, "a", &["10.0.0.2:179 [Node A, 65010→65010]", "10.0.0.3:179 [Node A, 65010→64512]"]);
    check(&inputs, "b", &["10.0.0.1:179 [Node A, 65010→65010]", "10.0.0.3:179 [Node A, 65010→64512]"]);
    check(&inputs, "c", &["10.0.0.1:179 [Node A, 64512→65010]", "10.0.0.2:179 [Node A, 64512→65010]"]);
}

#[test]
fn another_speaker_behind_a_nodes_address_does_not_take_the_place_of_the_mesh() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2"]);
    with_peer(&mut inputs, "other", json!({"node": "a", "peerIP": "10.0.0.2:1790", "asNumber": 65000}));
    // The mesh session dials on both ends: what comes from b may be taken for the other speaker's.
    let sessions = ["10.0.0.2:179 [Mesh A, 64512→64512]", "10.0.0.2:1790 [Node A, 64512→65000]"];
    assert_eq!(check(&inputs, "a", &sessions).warnings, []);
    check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]"]);
    // On its own port it is the node itself, also where that is not the usual one.
    inputs.global.listen_port = Some(1790);
    with_peer(&mut inputs, "other", json!({"node": "a", "peerIP": "10.0.0.2", "asNumber": 64512}));
    check(&inputs, "a", &["10.0.0.2:1790 [Node A, 64512→64512]"]);
    check(&inputs, "b", &["10.0.0.1:1790 [Node A, 64512→64512]"]);
}

#[test]
fn of_nodes_with_one_address_a_peering_means_the_one_of_its_as_number() {
    let mut inputs = without_mesh(&["a=10.0.0.1", "b=10.0.0.1 AS 65001", "w=10.0.0.2"]);
    let own = BGPConfigurationSpec { listen_port: Some(1179), ..BGPConfigurationSpec::default() };
    inputs.per_node.insert("b".to_owned(), own);
    with_peer(&mut inputs, "p", json!({"node": "w", "peerIP": "10.0.0.1", "asNumber": 65001}));
    let w = check(&inputs, "w", &["10.0.0.1:1179 [Node A, 64512→65001]"]);
    assert_eq!(w.sessions[0].remote.as_deref(), Some("b"));
    check(&inputs, "b", &["10.0.0.2:179 [Node A, 65001→64512]"]);
    check(&inputs, "a", &[]);
}

#[test]
fn s16_local_workloads_are_waited_for_and_have_only_filters() {
    let mut inputs = without_mesh(&ABC);
    let spec = json!({
        "localWorkloadSelector": "app == 'r'", "asNumber": 65100, "localASNumber": 65200, "filters": ["f"],
        "keepaliveTime": "5s", "ttlSecurity": 1,
    });
    with_peer(&mut inputs, "lw", spec);
    let workload = crate::workloads::LocalWorkload {
        ipv4: Some("192.168.1.5".parse().unwrap()),
        ipv6: Some("fd01::5".parse().unwrap()),
        peer: "lw".to_owned(),
    };
    assert_eq!(plan(&inputs, "b").sessions, []);
    inputs.local_workloads.insert("w".to_owned(), workload);
    let plan = check(&inputs, "a", &["192.168.1.5:179 [LocalWorkload P, 65200→65100]"]);
    let session = &plan.sessions[0];
    assert_eq!(session.name, "Local_Workload_192_168_1_5");
    assert_eq!((session.source, session.keepalive, session.ttl_security), (None, None, None));
    assert_eq!(session.filters, ["f"]);
    assert_eq!(plan.warnings.len(), 3, "two fields without effect, and a filter that does not exist");
}

#[test]
fn s17_the_other_end_of_a_peering_needs_the_right_as_number_and_else_this_is_said_on_both_nodes() {
    let mut inputs = without_mesh(&["a=10.0.0.1 AS 65001", "b=10.0.0.2"]);
    with_peer(&mut inputs, "p", json!({"node": "b", "peerIP": "10.0.0.1", "asNumber": 64512}));
    let b = check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→64512]"]);
    let a = check(&inputs, "a", &[]);
    assert_eq!(a.warnings, b.warnings);
    let text = "BGPPeer p gives 10.0.0.1 the AS number 64512, but that is node a with AS 65001:";
    assert!(texts(&a)[0].starts_with(text), "{a:?}");

    // It is in order if a second BGPPeer makes the node speak with that number.
    let back = json!({"node": "a", "peerIP": "10.0.0.2", "asNumber": 64512, "localASNumber": 64512});
    with_peer(&mut inputs, "q", back);
    assert_eq!(check(&inputs, "a", &["10.0.0.2:179 [Node A, 64512→64512]"]).warnings, []);
    assert_eq!(check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→64512]"]).warnings, []);
    inputs.peers.remove("q");

    with_peer(&mut inputs, "p", json!({"node": "b", "peerIP": "10.0.0.1", "asNumber": 65001}));
    assert_eq!(check(&inputs, "a", &["10.0.0.2:179 [Node A, 65001→64512]"]).warnings, []);
    check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→65001]"]);
}

#[test]
fn s18_the_other_end_of_a_peering_with_a_port_listens_there_whatever_the_global_port() {
    let mut inputs = without_mesh(&ABC);
    inputs.global.listen_port = Some(1790);
    let own = BGPConfigurationSpec { listen_port: Some(1179), ..BGPConfigurationSpec::default() };
    inputs.per_node.insert("b".to_owned(), own);
    with_peer(&mut inputs, "p", json!({"node": "a", "peerIP": "10.0.0.2:1179", "asNumber": 64512}));
    check(&inputs, "a", &["10.0.0.2:1179 [Node A, 64512→64512]"]);
    check(&inputs, "b", &["10.0.0.1:1790 [Node A, 64512→64512]"]);
    // Behind another port is another speaker, which is none of ours.
    with_peer(&mut inputs, "p", json!({"node": "a", "peerIP": "10.0.0.2:2179", "asNumber": 64512}));
    assert_eq!(check(&inputs, "a", &["10.0.0.2:2179 [Node A, 64512→64512]"]).sessions[0].remote, None);
    check(&inputs, "b", &[]);
}

#[test]
fn s19_racks_peer_with_their_own_routers() {
    let mut inputs = without_mesh(&["x=10.1.0.11 AS 65101", "y=10.1.0.12 AS 65101", "z=10.2.0.11 AS 65102"]);
    for (node, rack) in [("x", "1"), ("y", "1"), ("z", "2")] {
        with_labels(&mut inputs, node, &[("rack", rack)]);
    }
    with_peer(&mut inputs, "tor1", json!({"nodeSelector": "rack=='1'", "peerIP": "10.1.0.1", "asNumber": 65001}));
    with_peer(&mut inputs, "tor2", json!({"nodeSelector": "rack=='2'", "peerIP": "10.2.0.1", "asNumber": 65002}));
    check(&inputs, "x", &["10.1.0.1:179 [Node A, 65101→65001]"]);
    check(&inputs, "y", &["10.1.0.1:179 [Node A, 65101→65001]"]);
    check(&inputs, "z", &["10.2.0.1:179 [Node A, 65102→65002]"]);
}

#[test]
fn s20_a_stale_node_with_a_used_address_makes_no_second_session_and_is_named() {
    let inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "z=10.0.0.1"]);
    let b = check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]"]);
    assert!(texts(&b)[0].starts_with("nodes a and z both have the address 10.0.0.1"), "{b:?}");
    let a = check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 64512→64512]"]);
    assert!(matches!(&a.warnings[..], [Warning::OwnAddress { other, .. }] if other == "z"));
}

#[test]
fn s21_nodes_with_only_ipv6_mesh_over_it() {
    let inputs = nodes(&["a=fd00::1", "b=fd00::2"]);
    let a = check(&inputs, "a", &["[fd00::2]:179 [Mesh P, 64512→64512]"]);
    assert_eq!(a.listen.ipv4, None);
    check(&inputs, "b", &["[fd00::1]:179 [Mesh A, 64512→64512]"]);
}

#[test]
fn s22_nodes_without_a_speaker_stay_in_the_mesh_of_the_others() {
    // That c runs the backend `vxlan` is known on c alone, where then no speaker is started.
    let inputs = nodes(&ABC);
    check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 64512→64512]", "10.0.0.10:179 [Mesh P, 64512→64512]"]);
    check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]", "10.0.0.10:179 [Mesh A, 64512→64512]"]);
}

#[test]
fn the_other_end_of_a_peering_has_the_same_values_but_for_what_is_of_one_end_only() {
    let mut inputs = without_mesh(&["a=10.0.0.1+fd00::1", "b=10.0.0.2+fd00::2"]);
    let spec = json!({
        "node": "a", "peerIP": "10.0.0.2", "asNumber": 64512, "filters": ["f"], "ttlSecurity": 1, "keepaliveTime": "5s",
        "maxRestartTime": "60s", "nextHopMode": "Self", "numAllowedLocalASNumbers": 2, "reachableBy": "10.0.0.9",
        "password": {"secretKeyRef": {"name": "s", "key": "k"}},
    });
    with_peer(&mut inputs, "p", spec);
    let a = check(&inputs, "a", &["10.0.0.2:179 [Node A, 64512→64512]"]).sessions.remove(0);
    let b = check(&inputs, "b", &["10.0.0.1:179 [Node A, 64512→64512]"]).sessions.remove(0);
    assert_eq!((a.allowed_local_as, a.reachable_by), (2, Some("10.0.0.9".parse().unwrap())));
    let mirrored = SessionConfig {
        name: "Node_10_0_0_1".to_owned(),
        peer: "10.0.0.1:179".parse().unwrap(),
        remote: Some("a".to_owned()),
        source: Some("10.0.0.2".parse().unwrap()),
        allowed_local_as: 0,
        reachable_by: None,
        ..a
    };
    assert_eq!(b, mirrored);
}

#[test]
fn the_received_next_hop_is_kept_by_the_old_field_on_external_sessions_only() {
    let mut inputs = without_mesh(&["a=10.0.0.1", "b=10.0.0.2 AS 65001", "c=10.0.0.3"]);
    with_peer(&mut inputs, "p", json!({"node": "a", "peerSelector": "all()", "keepOriginalNextHop": true}));
    let modes: Vec<_> = plan(&inputs, "a").sessions.iter().map(|session| session.next_hop).collect();
    assert_eq!(modes, [NextHopMode::Keep, NextHopMode::Auto]);
}

#[test]
fn the_mesh_has_its_own_password_and_restart_time_and_listens_where_it_is_told() {
    let mut inputs = nodes(&["a=10.0.0.1+fd00::1", "b=10.0.0.2"]);
    inputs.global = serde_json::from_value(json!({
        "nodeMeshPassword": {"secretKeyRef": {"name": "s", "key": "k"}}, "nodeMeshMaxRestartTime": "5m",
        "bindMode": "NodeIP", "listenPort": 1790,
    }))
    .unwrap();
    let plan = plan(&inputs, "a");
    assert_eq!(plan.sessions[0].restart_time, 300);
    assert_eq!(plan.sessions[0].password, inputs.global.node_mesh_password);
    assert_eq!(plan.listen.ipv4, Some("10.0.0.1:1790".parse().unwrap()));
    assert_eq!(plan.listen.ipv6, Some("[fd00::1]:1790".parse().unwrap()));
}

#[test]
fn what_leads_nowhere_is_said() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"]);
    with_cluster_id(&mut inputs, "a", "244.0.0.1");
    let a = check(&inputs, "a", &[]);
    assert_eq!(a.warnings, [Warning::LoneReflector("a".to_owned())]);
    let b = check(&inputs, "b", &["10.0.0.3:179 [Mesh P, 64512→64512]"]);
    assert_eq!(b.warnings, [Warning::NoReflector { reflectors: vec!["a".to_owned()] }]);

    with_peer(&mut inputs, "p", json!({"nodeSelector": "rack == '9'", "peerSelector": "has(rr)"}));
    with_peer(&mut inputs, "q", json!({"node": "x", "peerIP": "10.9.9.9", "asNumber": 1}));
    with_peer(&mut inputs, "r", json!({"node": "b", "peerSelector": "rack == '9'"}));
    let warnings: Vec<_> = Cluster::new(&inputs).warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "BGPPeer p is for no node: nodeSelector matches none: rack == \"9\"",
            "BGPPeer q is for no node: there is no node x",
        ]
    );
    assert_eq!(texts(&plan(&inputs, "b"))[0], "peerSelector of BGPPeer r matches no node: rack == \"9\"");
    assert_eq!(plan(&inputs, "x").warnings, [Warning::NoAddress("x".to_owned())]);
}
