//! Two nodes of one cluster, each with our speaker: a mesh as it runs.

use calico_api::Kind;
use serde_json::json;

use super::support::{Bench, eventually, run};

/// Waits until a namespace has this route of ours.
fn has_route(namespace: &str, family: &str, route: &str) {
    eventually(&format!("{route} in {namespace}"), || {
        let routes = run("ip", &["-n", namespace, family, "route", "show", "proto", "bird"]);
        if routes.lines().any(|line| line.starts_with(route)) { Ok(()) } else { Err(routes) }
    });
}

#[test]
fn nodes_with_only_ipv6_reach_each_others_pods_and_an_explicit_peer_takes_the_meshs_place_while_it_is_up() {
    let bench = Bench::new("fd00::1", "fd00::2");
    bench.create(&bench.node_resource("a", "fd00::1"));
    bench.create(&bench.node_resource("b", "fd00::2"));
    bench.create(&bench.pool("fd80::/48"));
    bench.create(&bench.block_of("a", "fd80::40/122"));
    bench.create(&bench.block_of("b", "fd80::80/122"));
    // A pod on each node; its route is what felix makes.
    for (namespace, address) in [(&bench.node, "fd80::41"), (&bench.peer, "fd80::81")] {
        namespace.ip(&["addr", "add", &format!("{address}/128"), "dev", "lo"]);
    }
    let _a = bench.speaker();
    let b = bench.speaker_of_peer();
    let session = bench.session_is_up("Mesh_fd00__2");
    has_route(&bench.node.0, "-6", "fd80::80/122 via fd00::2 dev eth0");
    has_route(&bench.peer.0, "-6", "fd80::40/122 via fd00::1 dev eth0");
    run("ip", &["netns", "exec", &bench.node.0, "ping", "-6", "-c", "1", "-W", "5", "-I", "fd80::41", "fd80::81"]);
    // Without an IPv4 address the router ID comes of the name, and the two differ.
    let (ours, theirs) = (bench.ask("status").unwrap()["router_id"].clone(), &session["agreement"]["router_id"]);
    assert!(ours.is_string() && theirs.is_string() && ours != *theirs, "{ours} {theirs}");
    assert_eq!(session["agreement"]["local_address"], "fd00::1");

    let spec = json!({ "node": "a", "peerIP": "fd00::2", "asNumber": 64512 });
    bench.put(Kind::BGPPeer, "b", json!({ "spec": spec }));
    let session = bench.session_is_up("Node_fd00__2");
    assert_eq!((&session["established"], &session["flaps"], &session["resets"]), (&json!(1), &json!(0), &json!(0)));
    assert!(!bench.http("/metrics").contains("Mesh_fd00__2"), "the old name is forgotten");

    b.kill();
    run("ip", &["netns", "exec", &bench.node.0, "ping", "-6", "-c", "1", "-W", "5", "-I", "fd80::41", "fd80::81"]);
    let _b = bench.speaker_of_peer();
    bench.session_is_up("Node_fd00__2");
    has_route(&bench.node.0, "-6", "fd80::80/122 via fd00::2 dev eth0");
}

#[test]
fn nodes_with_both_families_have_a_session_of_each_and_one_goes_without_the_other() {
    let bench = Bench::new("10.0.0.1", "10.0.0.2");
    bench.node.ip(&["addr", "add", "fd00::1/64", "dev", "eth0", "nodad"]);
    bench.peer.ip(&["addr", "add", "fd00::2/64", "dev", "eth0", "nodad"]);
    let node = |name: &str, number: u8, both: bool| {
        let mut bgp = json!({ "ipv4Address": format!("10.0.0.{number}/24") });
        if both {
            bgp["ipv6Address"] = json!(format!("fd00::{number}/64"));
        }
        bench.put(Kind::Node, name, json!({ "spec": { "bgp": bgp } }));
    };
    node("a", 1, true);
    node("b", 2, true);
    for (name, cidr) in [("v4", "10.244.0.0/16"), ("v6", "fd80::/48")] {
        bench.put(Kind::IPPool, name, json!({ "spec": { "cidr": cidr } }));
    }
    for (node, block) in [("a", "10.244.1.0/26"), ("a", "fd80::40/122"), ("b", "10.244.2.0/26"), ("b", "fd80::80/122")]
    {
        bench.create(&bench.block_of(node, block));
    }
    let _speakers = (bench.speaker(), bench.speaker_of_peer());
    bench.session_is_up("Mesh_10_0_0_2");
    bench.session_is_up("Mesh_fd00__2");
    has_route(&bench.node.0, "-4", "10.244.2.0/26 via 10.0.0.2 dev eth0");
    has_route(&bench.node.0, "-6", "fd80::80/122 via fd00::2 dev eth0");
    has_route(&bench.peer.0, "-4", "10.244.1.0/26 via 10.0.0.1 dev eth0");
    has_route(&bench.peer.0, "-6", "fd80::40/122 via fd00::1 dev eth0");

    // BIRD's own client reads both sockets, and each shows its family.
    for (socket, session, block) in
        [("bird.ctl", "Mesh_10_0_0_2", "10.244.2.0/26"), ("bird6.ctl", "Mesh_fd00__2", "fd80::80/122")]
    {
        let socket = bench.file("calico").join(socket).display().to_string();
        let ask = |question: &[&str]| run("birdc", &[&["-s", &socket], question].concat());
        let status = ask(&["show", "status"]);
        assert!(
            status.contains("BIRD v0.3.3+birdv1.6.8 ready.") && status.contains("Daemon is up and running"),
            "{status}"
        );
        let protocols = ask(&["show", "protocols", "all", session]);
        assert!(protocols.contains("Established") && protocols.contains("BGP state:"), "{protocols}");
        let routes = ask(&["show", "route"]);
        assert!(routes.contains(block) && !routes.contains("syntax error"), "{routes}");
        assert_eq!(ask(&["show", "protocols"]).matches("Mesh_").count(), 1);
    }

    let before = bench.session_is_up("Mesh_10_0_0_2");
    node("b", 2, false);
    eventually("the IPv6 session is gone", || {
        let answer = bench.ask("sessions")?.to_string();
        if answer.contains("Mesh_fd00__2") { Err(answer) } else { Ok(()) }
    });
    let after = bench.session_is_up("Mesh_10_0_0_2");
    assert_eq!(after["since"], before["since"], "the IPv4 session was never touched");
}
