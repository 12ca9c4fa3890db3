//! Our speaker meshed with BIRD 2, in network namespaces. Needs root and Debian's `bird2`.

mod live;
mod nodes;
mod resources;
#[path = "../support/mod.rs"]
mod support;

use calico_api::{AsNumber, BGPPeer, BGPPeerSpec, ObjectMeta};
use support::{Bench, eventually};

/// BIRD's half of a mesh session, with a block to advertise.
fn mesh(bench: &Bench, block: &str) -> String {
    let family = if bench.address.contains(':') { "ipv6" } else { "ipv4" };
    format!(
        "protocol static {{ {family}; route {block} blackhole; }}
         protocol bgp node {{
             local {peer} as 64512; neighbor {address} as 64512;
             graceful restart on; connect delay time 1; connect retry time 1; error wait time 1, 2;
             {family} {{ import all; export where source = RTS_STATIC; next hop self; }};
         }}",
        peer = bench.peer_address,
        address = bench.address,
    )
}

/// A bench with two nodes, a pool and one block each.
fn meshed(address: &'static str, peer: &'static str) -> Bench {
    let bench = Bench::new(address, peer);
    bench.create(&bench.node_resource("a", address));
    bench.create(&bench.node_resource("b", peer));
    bench.create(&bench.pool("10.244.0.0/16"));
    bench.create(&bench.block("10.244.1.0/26"));
    bench
}

#[test]
fn a_passive_node_and_bird_route_each_others_blocks_and_changes_take_effect_by_event() {
    // The peer's text is greater, so the peer dials.
    let bench = meshed("10.0.0.1", "10.0.0.2");
    let bird = bench.bird(&mesh(&bench, "10.244.7.0/26"));
    let _speaker = bench.speaker();

    let session = bench.session_becomes("Established");
    assert_eq!((&session["name"], &session["passive"]), (&"Mesh_10_0_0_2".into(), &true.into()));
    bench.bird_shows(
        "show route all 10.244.1.0/26",
        &["via 10.0.0.1", "BGP.local_pref: 2147482623", "BGP.next_hop: 10.0.0.1"],
    );
    bench.route_becomes("10.244.7.0/26 via 10.0.0.2 dev eth0 metric 1024");

    let listing = bench.dialect("bird.ctl", "show protocols");
    assert!(listing.starts_with("0001 BIRD v0.3.3+birdv1.6.8 ready.\n2002-name     proto    table    state  since       info\n1002-Mesh_10_0_0_2 BGP"), "{listing}");
    assert!(listing.contains("Established") && listing.ends_with("0000 \n"), "{listing}");
    let routes = bench.dialect("bird.ctl", "show route");
    assert!(routes.contains("10.244.7.0/26      via 10.0.0.2 on eth0 [Mesh_10_0_0_2 "), "{routes}");
    eventually("ready", || {
        let answer = bench.http("/readiness");
        if answer.starts_with("HTTP/1.0 200") { Ok(()) } else { Err(answer) }
    });
    assert!(bench.http("/metrics").contains("bgp_session_up{peer=\"10.0.0.2\",session=\"Mesh_10_0_0_2\"} 1"));

    // A deletion by somebody else is repaired without waiting for the audit.
    bench.node.ip(&["route", "del", "10.244.7.0/26"]);
    bench.route_becomes("10.244.7.0/26 via 10.0.0.2 dev eth0 metric 1024");
    // A route of somebody else is left alone.
    bench.node.ip(&["route", "add", "unreachable", "10.244.8.0/26", "proto", "static"]);

    bench.create(&bench.block("10.244.1.64/26"));
    bench.bird_shows("show route 10.244.1.64/26", &["via 10.0.0.1"]);
    bench.delete(&bench.block("10.244.1.64/26"));
    eventually("the block is withdrawn", || {
        let answer = bench.birdc("show route 10.244.1.64/26");
        if answer.contains("not found") { Ok(()) } else { Err(answer) }
    });

    // A peer that is killed keeps its routes here until it is back and has told what is left of them.
    bird.kill();
    assert_eq!(bench.session_becomes("Passive")["stale"], true);
    bench.route_becomes("10.244.7.0/26 via 10.0.0.2");
    let _bird = bench.bird(&mesh(&bench, "10.244.7.64/26"));
    bench.route_becomes("10.244.7.64/26 via 10.0.0.2");
    bench.route_goes("10.244.7.0/26");

    assert!(bench.ask("nonsense").unwrap()["error"].as_str().unwrap().contains("unknown variant"));
    bench.delete(&bench.node_resource("b", "10.0.0.2"));
    bench.route_goes("10.244.7.64/26");
    bench.bird_shows("show protocols node", &["Received: Peer de-configured"]);
    assert!(bench.node.ip(&["route"]).contains("unreachable 10.244.8.0/26"));
}

#[test]
fn a_speaker_that_dials_may_be_killed_and_stopped_without_a_gap_on_either_side() {
    // Our text is greater, so we dial.
    let bench = meshed("10.0.0.5", "10.0.0.2");
    let _bird = bench.bird(&mesh(&bench, "10.244.7.0/26"));
    let speaker = bench.speaker();
    let session = bench.session_becomes("Established");
    assert_eq!(session["passive"], false);
    bench.route_becomes("10.244.7.0/26 via 10.0.0.2");
    bench.bird_shows("show route 10.244.1.0/26", &["via 10.0.0.5"]);

    let changes = bench.record_routes();
    speaker.kill();
    bench.bird_shows("show protocols all node", &["Neighbor graceful restart active"]);
    bench.bird_shows("show route 10.244.1.0/26", &["via 10.0.0.5"]);
    // A route that nobody advertises any more when we are back.
    bench.node.ip(&["route", "add", "10.244.9.0/26", "via", "10.0.0.2", "proto", "bird", "metric", "1024"]);

    let speaker = bench.speaker();
    bench.session_becomes("Established");
    bench.bird_shows("show protocols all node", &["Established", "1 imported"]);
    bench.route_goes("10.244.9.0/26");
    bench.bird_shows("show route 10.244.1.0/26", &["via 10.0.0.5"]);
    assert!(speaker.log().contains("recovery is over"));

    assert!(speaker.terminate(), "a stop on demand is a success");
    bench.bird_shows("show protocols all node", &["Neighbor graceful restart active"]);
    bench.bird_shows("show route 10.244.1.0/26", &["via 10.0.0.5"]);
    bench.route_becomes("10.244.7.0/26 via 10.0.0.2");
    assert_eq!(changes.of("10.244.7.0/26"), Vec::<String>::new(), "the route was never touched");
}

#[test]
fn routes_of_a_peer_without_graceful_restart_are_in_the_kernel_while_recovery_lasts() {
    let bench = Bench::new("10.0.0.1", "10.0.0.2");
    bench.create(&bench.node_resource("a", "10.0.0.1"));
    let spec = BGPPeerSpec {
        peer_ip: Some("10.0.0.2".to_owned()),
        as_number: Some(AsNumber(65010)),
        ..BGPPeerSpec::default()
    };
    bench.create::<BGPPeerSpec>(&BGPPeer::new(ObjectMeta::named("router"), spec));
    let _bird = bench.bird(
        "protocol static { ipv4; route 198.51.100.0/24 blackhole; }
         protocol bgp node {
             local 10.0.0.2 as 65010; neighbor 10.0.0.1 as 64512; graceful restart off; connect retry time 1;
             ipv4 { import all; export where source = RTS_STATIC; next hop self; };
         }",
    );
    bench.node.ip(&["route", "add", "10.244.9.0/26", "via", "10.0.0.2", "proto", "bird", "metric", "1024"]);
    let _speaker = bench.speaker();
    bench.route_becomes("198.51.100.0/24 via 10.0.0.2 dev eth0");
    let status = bench.ask("status").unwrap();
    assert!(status["recovery"].is_object(), "nobody can tell yet what of the leftovers is the peer's: {status}");
    bench.route_goes("10.244.9.0/26");
}

#[test]
fn nodes_with_only_ipv6_route_over_it() {
    let bench = Bench::new("fd00::1", "fd00::2");
    bench.create(&bench.node_resource("a", "fd00::1"));
    bench.create(&bench.node_resource("b", "fd00::2"));
    bench.create(&bench.pool("fd80::/48"));
    bench.create(&bench.block("fd80::40/122"));
    let _bird = bench.bird(&mesh(&bench, "fd80::80/122"));
    let _speaker = bench.speaker();
    let session = bench.session_becomes("Established");
    assert_eq!(session["name"], "Mesh_fd00__2");
    bench.route_becomes("fd80::80/122 via fd00::2 dev eth0 metric 1024");
    bench.bird_shows("show route all fd80::40/122", &["via fd00::1", "BGP.next_hop: fd00::1"]);
    assert!(bench.dialect("bird6.ctl", "show protocols").contains("Mesh_fd00__2"));
    assert!(!bench.dialect("bird.ctl", "show protocols").contains("Mesh_"));
}

#[test]
fn what_a_peer_that_is_down_may_have_taught_stays_for_its_restart_time_and_no_longer() {
    let bench = Bench::new("10.0.0.1", "10.0.0.2");
    bench.create(&bench.node_resource("a", "10.0.0.1"));
    let spec = BGPPeerSpec {
        peer_ip: Some("10.0.0.2".to_owned()),
        as_number: Some(AsNumber(65010)),
        max_restart_time: Some("24s".to_owned()),
        ..BGPPeerSpec::default()
    };
    bench.create::<BGPPeerSpec>(&BGPPeer::new(ObjectMeta::named("router"), spec));
    bench.node.ip(&["route", "add", "10.244.9.0/26", "via", "10.0.0.2", "proto", "bird", "metric", "1024"]);
    let speaker = bench.speaker();
    bench.route_goes("10.244.9.0/26");
    let log = speaker.log();
    assert!(log.contains("kernel routes stay a while") && log.contains("are removed seconds=24."), "{log}");
}
