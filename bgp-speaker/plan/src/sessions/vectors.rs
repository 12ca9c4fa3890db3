//! The worked examples: resources in, sessions out, by the numbers of the reference.

use calico_api::{AsNumber, BGPConfigurationSpec, BGPPeerSpec};

use super::plan::seconds;
use super::*;
use crate::inputs::Inputs;

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

#[test]
fn s1_who_dials_is_decided_by_the_text_of_the_addresses() {
    let inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
    let plan = check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 64512→64512]", "10.0.0.10:179 [Mesh P, 64512→64512]"]);
    assert_eq!(plan.sessions[0].name, "Mesh_10_0_0_10");
    assert_eq!(plan.sessions[0].source, Some("10.0.0.1".parse().unwrap()));
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
}

#[test]
fn s4_without_mesh_a_global_peer_is_every_nodes() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
    inputs.global.node_to_node_mesh_enabled = Some(false);
    inputs.global.as_number = Some(AsNumber(64600));
    inputs.peers.insert("tor".to_owned(), peer("10.0.0.254", 65000));
    for node in ["a", "b", "c"] {
        let plan = check(&inputs, node, &["10.0.0.254:179 [Global A, 64600→65000]"]);
        assert_eq!(plan.sessions[0].name, "Global_10_0_0_254");
    }
}

#[test]
fn s9_an_explicit_peering_takes_the_place_of_the_mesh_session_and_this_is_said() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
    inputs.peers.insert("p".to_owned(), peer("10.0.0.2", 64512));
    let plan = check(&inputs, "a", &["10.0.0.2:179 [Global P, 64512→64512]", "10.0.0.10:179 [Mesh P, 64512→64512]"]);
    let warning = plan.warnings[0].to_string();
    assert_eq!(warning, "Global_10_0_0_2 and Mesh_10_0_0_2 are sessions with one peer; only Global_10_0_0_2 is made");
}

#[test]
fn s10_a_global_peering_beats_one_of_the_node_with_the_same_address() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2"]);
    inputs.global.node_to_node_mesh_enabled = Some(false);
    inputs.peers.insert("z-global".to_owned(), peer("10.0.0.254", 65000));
    let own = BGPPeerSpec { node: Some("a".to_owned()), ..peer("10.0.0.254", 65001) };
    inputs.peers.insert("a-node".to_owned(), own);
    let plan = check(&inputs, "a", &["10.0.0.254:179 [Global A, 64512→65000]"]);
    assert_eq!(plan.warnings.len(), 1);
    check(&inputs, "b", &["10.0.0.254:179 [Global A, 64512→65000]"]);
}

#[test]
fn s11_ports_are_those_of_the_node_that_listens() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
    inputs.global.listen_port = Some(1790);
    let own = BGPConfigurationSpec { listen_port: Some(1179), ..BGPConfigurationSpec::default() };
    inputs.per_node.insert("b".to_owned(), own);
    let a = check(&inputs, "a", &["10.0.0.2:1179 [Mesh P, 64512→64512]", "10.0.0.10:1790 [Mesh P, 64512→64512]"]);
    assert_eq!(a.listen.ipv4.unwrap().port(), 1790);
    let b = check(&inputs, "b", &["10.0.0.1:1790 [Mesh A, 64512→64512]", "10.0.0.10:1790 [Mesh A, 64512→64512]"]);
    assert_eq!(b.listen.ipv4.unwrap().port(), 1179);
    assert_eq!(b.sessions[0].name, "Mesh_10_0_0_1", "names of the mesh carry no port");
}

#[test]
fn s12_ports_make_sessions_of_their_own_and_the_default_port_is_no_port() {
    let mut inputs = nodes(&["a=10.0.0.1"]);
    for (name, address) in [("t1", "192.0.2.1:1790"), ("t2", "192.0.2.1"), ("t3", "192.0.2.1:179")] {
        inputs.peers.insert(name.to_owned(), peer(address, 65000));
    }
    let plan =
        check(&inputs, "a", &["192.0.2.1:179 [Global A, 64512→65000]", "192.0.2.1:1790 [Global A, 64512→65000]"]);
    let names: Vec<_> = plan.sessions.iter().map(|session| session.name.as_str()).collect();
    assert_eq!(names, ["Global_192_0_2_1", "Global_192_0_2_1_port_1790"]);
    assert_eq!(plan.warnings, [Warning::Collision { winner: "t2".to_owned(), loser: "t3".to_owned() }]);
}

#[test]
fn s20_a_stale_node_with_a_used_address_makes_no_second_session_and_is_named() {
    let inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "z=10.0.0.1"]);
    let b = check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]"]);
    let warning = b.warnings[0].to_string();
    assert!(warning.starts_with("nodes a and z both have the address 10.0.0.1"), "{warning}");
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
fn a_reflector_leaves_the_mesh_of_everyone() {
    let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"]);
    inputs.nodes.get_mut("a").unwrap().cluster_id = Some("244.0.0.1".parse().unwrap());
    check(&inputs, "a", &[]);
    check(&inputs, "b", &["10.0.0.3:179 [Mesh P, 64512→64512]"]);
    let spec = BGPPeerSpec { node: Some("a".to_owned()), ..peer("10.0.0.2", 64512) };
    inputs.peers.insert("p".to_owned(), spec);
    check(&inputs, "a", &["10.0.0.2:179 [Node A C, 64512→64512]"]);
}

#[test]
fn a_node_without_address_has_no_session_and_what_is_wrong_with_a_peering_is_said() {
    let mut inputs = nodes(&["a=10.0.0.1"]);
    assert_eq!(plan(&inputs, "x").warnings, [Warning::NoAddress("x".to_owned())]);
    inputs.peers.insert("odd".to_owned(), peer("10.0.0", 65000));
    inputs.peers.insert("zero".to_owned(), peer("10.0.0.9", 0));
    let texts: Vec<_> = plan(&inputs, "a").warnings.iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("BGPPeer odd is not used: peerIP is \"10.0.0\""), "{texts:?}");
    assert!(texts[1].contains("asNumber is missing or 0"), "{texts:?}");
    assert_eq!(texts.len(), 2);
}

#[test]
fn durations_are_those_of_go_rounded_to_seconds() {
    for (text, expected) in
        [("120s", Some(120)), ("1m30s", Some(90)), ("1.5s", Some(2)), ("0s", Some(0)), ("12", None), ("", None)]
    {
        assert_eq!(seconds(text), expected, "{text}");
    }
}

fn peer(address: &str, as_number: u32) -> BGPPeerSpec {
    BGPPeerSpec { peer_ip: Some(address.to_owned()), as_number: Some(AsNumber(as_number)), ..BGPPeerSpec::default() }
}
