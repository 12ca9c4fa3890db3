//! What is applied to sessions that are up, or on their way up; and how little is done for changes that mean nothing.

use calico_api::Kind;
use serde_json::{Value, json};

use super::resources::{routed, router};
use super::support::{Bench, eventually, run};

/// The BGPPeer `router` with these fields.
fn peer(bench: &Bench, fields: &Value) {
    let mut spec = json!({ "peerIP": "10.0.0.2", "asNumber": 65010 });
    for (field, value) in fields.as_object().unwrap() {
        spec[field] = value.clone();
    }
    bench.put(Kind::BGPPeer, "router", json!({ "spec": spec }));
}

/// `nft` in the peer's namespace.
fn nft(bench: &Bench, rules: &str) -> String {
    run("ip", &[&["netns", "exec", &bench.peer.0, "nft"], rules.split(' ').collect::<Vec<_>>().as_slice()].concat())
}

#[test]
fn what_needs_no_new_session_is_applied_to_the_one_that_is_up() {
    let bench = routed(json!({}));
    let _bird = bench.bird(
        "protocol static { ipv4; route 198.51.100.0/24 blackhole; route 203.0.113.0/24 blackhole; }
         template bgp any { connect delay time 1; connect retry time 1; error wait time 1, 2; multihop; }
         protocol bgp node from any {
             local 10.0.0.2 as 65010; neighbor 10.0.0.1 as 64512;
             ipv4 { import all; next hop self; export filter {
                 if source != RTS_STATIC then reject;
                 if net = 203.0.113.0/24 then bgp_path.prepend(64512);
                 accept;
             }; };
         }",
    );
    let _speaker = bench.speaker();
    bench.session_is_up("Global_10_0_0_2");
    let since = bench.bird_session();

    // What is believed: a path with our own AS.
    let [path] = bench.paths("203.0.113.0/24").try_into().unwrap();
    assert!(path["standing"].as_str().unwrap().starts_with("excluded"), "{path}");
    peer(&bench, &json!({ "numAllowedLocalASNumbers": 1 }));
    bench.route_becomes("203.0.113.0/24 via 10.0.0.2");
    peer(&bench, &json!({}));
    bench.route_goes("203.0.113.0/24");

    // Packets: from now on they leave with a TTL of 255, and what comes with less is not heard.
    nft(&bench, "add table inet t");
    nft(&bench, "add chain inet t input { type filter hook input priority 0 ; }");
    nft(&bench, "add rule inet t input ip saddr 10.0.0.1 ip daddr 10.0.0.2 ip ttl 255 tcp flags & syn == 0 counter");
    peer(&bench, &json!({ "ttlSecurity": 1, "keepaliveTime": "1s", "maxRestartTime": "77s" }));
    eventually("packets have the TTL", || {
        let rules = nft(&bench, "list table inet t");
        if rules.contains("packets 0 ") { Err(rules) } else { Ok(()) }
    });
    peer(&bench, &json!({ "keepaliveTime": "1s", "maxRestartTime": "77s" }));

    // Keepalives: one each second, where there was one in eighty.
    let sent = || bench.session_is_up("Global_10_0_0_2")["messages"]["sent"].as_u64().unwrap();
    let before = sent();
    eventually("keepalives", || if sent() >= before + 3 { Ok(()) } else { Err(sent().to_string()) });

    let session = bench.session_is_up("Global_10_0_0_2");
    assert_eq!(
        (&session["resets"], &session["flaps"], &session["agreement"]["keepalive"]),
        (&json!(0), &json!(0), &json!(1))
    );
    assert_eq!(bench.bird_session(), since, "the session was never touched");
    // The restart time counts from the next OPEN.
    bench.birdc("restart node");
    bench.bird_shows("show protocols all node", &["Established", "Restart time: 77"]);
}

#[test]
fn what_changes_while_a_session_is_dialled_counts_for_the_connection_that_is_made() {
    let bench = routed(json!({}));
    nft(&bench, "add table inet t");
    nft(&bench, "add chain inet t input { type filter hook input priority 0 ; }");
    nft(&bench, "add rule inet t input tcp dport 179 drop");
    // It is passive, and hears nothing that comes from more than no hop away.
    let _bird = router(&bench, "ttl security on; passive;", "");
    let speaker = bench.speaker();
    bench.session_becomes("Connect");
    peer(&bench, &json!({ "ttlSecurity": 1 }));
    eventually("the change is taken", || {
        let session = bench.ask("sessions")?["sessions"][0].clone();
        if session["ttl_security"] == 1 { Ok(()) } else { Err(session.to_string()) }
    });
    nft(&bench, "delete table inet t");
    bench.session_becomes("Established");
    assert_eq!(speaker.log().matches("session added").count(), 1, "the dial that was under way was not given up");
}

#[test]
fn a_storm_of_changes_that_mean_nothing_to_peers_is_nothing_to_them() {
    let bench = routed(json!({}));
    let _bird = router(&bench, "", "");
    bench.put(
        Kind::BGPConfiguration,
        "default",
        json!({ "spec": { "serviceLoadBalancerIPs": [{ "cidr": "192.0.2.0/24" }] } }),
    );
    let _speaker = bench.speaker();
    bench.session_becomes("Established");
    bench.bird_shows("show route", &["192.0.2.0/24", "10.244.1.0/26"]);
    let exchanges = || bench.ask("status").unwrap()["policy_exchanges"].clone();
    let updates = || {
        let answer = bench.birdc("show protocols all node");
        answer.lines().find(|line| line.contains("Import updates")).map(str::to_owned).unwrap_or(answer)
    };
    let before = (exchanges(), updates(), bench.bird_session());
    let service = |number: usize, ports: usize, address: Option<&str>| {
        let ingress: Vec<_> = address.into_iter().map(|ip| json!({ "ip": ip })).collect();
        let ports = json!([{ "port": ports }]);
        let fields = json!({
            "spec": { "type": "LoadBalancer", "clusterIP": "10.96.7.7", "ports": ports, "externalTrafficPolicy": "Local" },
            "status": { "loadBalancer": { "ingress": ingress } },
        });
        bench.put(Kind::Service, &format!("s{number}"), fields);
    };
    // 200 Services, five changes of each; and blocks that come and go while they are not confirmed yet.
    for ports in 1..=5 {
        (0..200).for_each(|number| service(number, ports, None));
    }
    // The last one means something, so that all before it has been heard.
    let endpoint = json!({ "addresses": ["10.244.1.2"], "conditions": { "ready": true }, "nodeName": "a" });
    let labels = json!({ "kubernetes.io/service-name": "s1000" });
    bench.put(
        Kind::EndpointSlice,
        "s1000",
        json!({ "labels": labels, "addressType": "IPv4", "endpoints": [endpoint] }),
    );
    let marked = |address: &str| {
        service(1000, 1, Some(address));
        bench.bird_shows("show route", &[&format!("{address}/32")]);
    };
    marked("192.0.2.9");
    let after = (exchanges(), updates(), bench.bird_session());
    let numbers = |line: &str| -> Vec<u64> { line.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    assert_eq!(numbers(&after.1)[0], numbers(&before.1)[0] + 1, "one update: {} → {}", before.1, after.1);
    let number = |value: &Value| value.as_u64().unwrap();
    assert!(
        number(&after.0) <= number(&before.0) + 1,
        "policies were exchanged for nothing: {} → {}",
        before.0,
        after.0
    );
    assert_eq!(after.2, before.2, "the session was never touched");
}

#[test]
fn a_signed_external_session_outlives_a_kill_on_both_sides() {
    let bench = routed(json!({ "password": { "secretKeyRef": { "name": "bgp", "key": "router" } } }));
    bench.put(Kind::Secret, "bgp", json!({ "stringData": { "router": "sesame" } }));
    // A reflector passes learned routes on, so it holds back its End-of-RIB until it has learned them anew.
    let bgp = json!({ "ipv4Address": "10.0.0.1/24", "routeReflectorClusterID": "244.0.0.1" });
    bench.put(Kind::Node, "a", json!({ "spec": { "bgp": bgp } }));
    let _bird = router(&bench, "password \"sesame\"; graceful restart on;", "");
    let speaker = bench.speaker();
    bench.session_becomes("Established");
    bench.route_becomes("198.51.100.0/24 via 10.0.0.2");
    bench.bird_shows("show route 10.244.1.0/26", &["via 10.0.0.1"]);
    let changes = bench.record_routes();
    speaker.kill();
    bench.bird_shows("show protocols all node", &["Neighbor graceful restart active"]);
    bench.node.ip(&["route", "add", "10.244.9.0/26", "via", "10.0.0.2", "proto", "bird", "metric", "1024"]);
    let speaker = bench.speaker();
    bench.route_goes("10.244.9.0/26");
    bench.bird_shows("show route 10.244.1.0/26", &["via 10.0.0.1"]);
    eventually("End-of-RIB ends the restart at the peer", || {
        let answer = bench.birdc("show protocols all node");
        if answer.contains("restart active") || !answer.contains("Established") { Err(answer) } else { Ok(()) }
    });
    assert!(!bench.birdc("show route all 10.244.1.0/26").contains("stale"));
    assert_eq!(changes.of("198.51.100.0/24"), Vec::<String>::new(), "the route was never touched");
    let log = speaker.log();
    assert!(log.contains("recovery is over") && !log.contains("sesame"), "{log}");
}

#[test]
fn a_file_of_resources_that_is_missing_at_the_start_is_waited_for() {
    let bench = routed(json!({}));
    let _bird = router(&bench, "", "");
    let file = bench.file("late.yaml");
    let speaker = bench.speaker_with(&["--resources", &file.display().to_string()]);
    eventually("status says what is missing", || {
        let status = bench.ask("status")?;
        let trouble = status["datastore_trouble"].as_str().unwrap_or_default();
        let named = trouble.contains("late.yaml") && status["datastore_in_sync"] == false;
        if named { Ok(()) } else { Err(status.to_string()) }
    });
    let text = "apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: router}
spec: {peerIP: 10.0.0.2, asNumber: 65010}
";
    std::fs::write(&file, text).unwrap();
    bench.session_becomes("Established");
    std::fs::remove_file(&file).unwrap();
    eventually("its end is said", || {
        let status = bench.ask("status")?;
        if status["datastore_trouble"].is_string() { Ok(()) } else { Err(status.to_string()) }
    });
    bench.session_becomes("Established");
    assert!(speaker.log().matches("datastore does not answer").count() <= 4, "{}", speaker.log());
}
