//! What resources say, the speaker does, while its sessions stay.

use calico_api::Kind;
use serde_json::json;

use super::support::{Bench, Process, eventually};

/// A node `a` with a pool and a block, and its BGPPeer `router`, a BIRD in AS 65010.
pub(super) fn routed(peer: serde_json::Value) -> Bench {
    let bench = Bench::new("10.0.0.1", "10.0.0.2");
    bench.create(&bench.node_resource("a", "10.0.0.1"));
    bench.create(&bench.pool("10.244.0.0/16"));
    bench.create(&bench.block("10.244.1.0/26"));
    let mut spec = json!({ "peerIP": "10.0.0.2", "asNumber": 65010 });
    for (field, value) in peer.as_object().unwrap() {
        spec[field] = value.clone();
    }
    bench.put(Kind::BGPPeer, "router", json!({ "spec": spec }));
    bench
}

/// BIRD as that router, with these lines in its session and its channel.
pub(super) fn router(bench: &Bench, session: &str, channel: &str) -> Process {
    bench.bird(&format!(
        "protocol static {{ ipv4; route 198.51.100.0/24 blackhole; route 203.0.113.0/24 blackhole; }}
         protocol bgp node {{
             local 10.0.0.2 as 65010; neighbor 10.0.0.1 as 64512;
             connect delay time 1; connect retry time 1; error wait time 1, 2; {session}
             ipv4 {{ import all; export where source = RTS_STATIC; next hop self; {channel} }};
         }}"
    ))
}

#[test]
fn a_changed_filter_is_applied_both_ways_while_the_session_stays() {
    let bench = routed(json!({ "filters": ["f"] }));
    let reject = |import: &str, export: &str| {
        let rule = |cidr: &str| json!([{ "action": "Reject", "matchOperator": "Equal", "cidr": cidr }]);
        bench.put(Kind::BGPFilter, "f", json!({ "spec": { "importV4": rule(import), "exportV4": rule(export) } }));
    };
    reject("198.51.100.0/24", "10.244.9.0/26");
    let _bird = router(&bench, "", "");
    let _speaker = bench.speaker();
    bench.session_becomes("Established");
    bench.route_becomes("203.0.113.0/24 via 10.0.0.2");
    bench.bird_shows("show route 10.244.1.0/26", &["via 10.0.0.1"]);
    assert!(!bench.routes().contains("198.51.100.0/24"), "{}", bench.routes());
    let rejected = bench.paths("198.51.100.0/24");
    assert_eq!(rejected[0]["standing"], "excluded: rejected by import filter");
    let since = bench.bird_session();

    reject("203.0.113.0/24", "10.244.1.0/26");
    bench.route_becomes("198.51.100.0/24 via 10.0.0.2");
    bench.route_goes("203.0.113.0/24");
    bench.bird_forgets("show route", "10.244.1.0/26");
    let why = &bench.paths("10.244.1.0/26")[0]["not_advertised_to"]["Global_10_0_0_2"];
    assert!(why.as_str().unwrap().starts_with("filters [f] reject it"), "{why}");
    // What is not understood leaves the last good version in force, and is said.
    bench.put(Kind::BGPFilter, "f", json!({ "spec": { "importV4": [{ "action": "Reject", "cidr": "ten" }] } }));
    eventually("the fault is a warning", || {
        let status = bench.ask("status")?;
        let warnings = status["warnings"].to_string();
        if warnings.contains("BGPFilter f") { Ok(()) } else { Err(warnings) }
    });
    assert!(!bench.routes().contains("203.0.113.0/24"), "{}", bench.routes());
    assert_eq!(bench.bird_session(), since, "the session was never touched");
    let session = bench.session_becomes("Established");
    assert_eq!((&session["resets"], &session["flaps"]), (&0.into(), &0.into()));
}

#[test]
fn a_session_without_its_password_is_down_until_it_is_right_and_never_runs_without() {
    let bench = routed(json!({ "password": { "secretKeyRef": { "name": "bgp", "key": "router" } } }));
    let _bird = router(&bench, "password \"sesame\";", "");
    let _speaker = bench.speaker();
    let down = |words: &str| {
        eventually(&format!("the session is down: {words}"), || {
            let session = bench.ask("sessions")?["sessions"][0].clone();
            let error = session["last_error"].as_str().unwrap_or_default();
            if session["state"] == "down" && error.contains(words) { Ok(()) } else { Err(session.to_string()) }
        });
    };
    let secret = |password: &str| bench.put(Kind::Secret, "bgp", json!({ "stringData": { "router": password } }));
    down("Secret kube-system/bgp does not exist");
    bench.put(Kind::Secret, "bgp", json!({ "stringData": { "other": "sesame" } }));
    down("has no key \"router\"");
    secret("wrong");
    eventually("it is tried with the wrong password", || {
        let session = bench.ask("neighbors")?["neighbors"][0].clone();
        let up = session["fsm"] == "Established";
        assert!(!up, "{session}");
        if session["state"] == "start" && session["password"] == "set" { Ok(()) } else { Err(session.to_string()) }
    });
    secret("sesame");
    bench.session_becomes("Established");
    bench.route_becomes("198.51.100.0/24 via 10.0.0.2");
    secret("changed");
    eventually("the session is reset", || {
        let answer = bench.birdc("show protocols node");
        if answer.contains("Established") { Err(answer) } else { Ok(()) }
    });
    assert!(!bench.ask("sessions").unwrap().to_string().contains("sesame"));
    secret("sesame");
    bench.session_becomes("Established");
}

#[test]
fn labels_make_a_reflector_with_clients_and_take_its_sessions_away_again() {
    let bench = Bench::new("10.0.0.1", "10.0.0.2");
    let node = |labels: serde_json::Value| {
        let bgp = json!({ "ipv4Address": "10.0.0.1/24", "routeReflectorClusterID": "244.0.0.1" });
        bench.put(Kind::Node, "a", json!({ "labels": labels, "spec": { "bgp": bgp } }));
    };
    node(json!({ "rr": "true" }));
    bench.create(&bench.node_resource("b", "10.0.0.2"));
    bench.put(Kind::BGPConfiguration, "default", json!({ "spec": { "nodeToNodeMeshEnabled": false } }));
    let spec = json!({ "nodeSelector": "!has(rr)", "peerSelector": "rr == 'true'" });
    bench.put(Kind::BGPPeer, "to-reflectors", json!({ "spec": spec }));
    let _bird = bench.bird(
        "protocol static { ipv4; route 10.244.7.0/26 blackhole; }
         protocol bgp node {
             local 10.0.0.2 as 64512; neighbor 10.0.0.1 as 64512; connect retry time 1; error wait time 1, 2;
             ipv4 { import all; export where source = RTS_STATIC; next hop self; add paths on; };
         }",
    );
    let _speaker = bench.speaker();
    let session = bench.session_becomes("Established");
    assert_eq!((&session["name"], &session["client"]), (&"Node_10_0_0_2".into(), &true.into()));
    let capabilities = session["agreement"]["capabilities"].to_string();
    assert!(capabilities.contains("add-path-rx") && capabilities.contains("add-path-tx"), "{capabilities}");
    bench.route_becomes("10.244.7.0/26 via 10.0.0.2");
    node(json!({}));
    bench.bird_shows("show protocols node", &["Received: Peer de-configured"]);
    bench.route_goes("10.244.7.0/26");
    node(json!({ "rr": "true" }));
    bench.session_becomes("Established");
}

#[test]
fn service_addresses_are_advertised_while_their_endpoints_are_here_and_ready_and_never_in_the_kernel() {
    let bench = routed(json!({}));
    let _bird = router(&bench, "", "");
    let _speaker = bench.speaker();
    bench.session_becomes("Established");
    let service = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"], "ipFamilies": ["IPv4"],
        "externalTrafficPolicy": "Local",
    });
    bench.put(Kind::Service, "web", json!({ "spec": service }));
    let endpoint = |node: &str, ready: bool| {
        let endpoint = json!({ "addresses": ["10.244.1.2"], "conditions": { "ready": ready }, "nodeName": node });
        let labels = json!({ "kubernetes.io/service-name": "web" });
        let slice = json!({ "labels": labels, "addressType": "IPv4", "endpoints": [endpoint] });
        bench.put(Kind::EndpointSlice, "web-1", slice);
    };
    endpoint("a", true);
    let configuration = |spec: serde_json::Value| bench.put(Kind::BGPConfiguration, "default", json!({ "spec": spec }));
    configuration(json!({ "serviceClusterIPs": [{ "cidr": "10.96.0.0/12" }] }));
    bench.bird_shows("show route", &["10.96.0.0/12", "10.96.7.7/32"]);
    let since = bench.bird_session();
    let [path] = bench.paths("10.96.7.7/32").try_into().unwrap();
    assert_eq!((&path["kind"], &path["advertised_to"][0]), (&"service".into(), &"Global_10_0_0_2".into()));
    assert!(!bench.node.ip(&["route"]).contains("10.96."), "services are nothing to the kernel");
    endpoint("a", false);
    bench.bird_forgets("show route", "10.96.7.7/32");
    let services = bench.question(&json!({ "show": "routes", "prefix": "10.96.7.7" })).unwrap()["services"][0].clone();
    assert_eq!((&services["service"], &services["advertised"]), (&"kube-system/web".into(), &false.into()));
    assert!(services["reason"].as_str().unwrap().contains("no endpoint on this node"), "{services}");
    endpoint("b", true);
    endpoint("a", true);
    bench.bird_shows("show route", &["10.96.7.7/32"]);
    configuration(json!({}));
    bench.bird_forgets("show route", "10.96.");
    assert_eq!(bench.bird_session(), since, "the session was never touched");
}

#[test]
fn a_borrowed_address_goes_out_as_a_host_route_and_comes_back_when_its_pod_goes() {
    let bench = routed(json!({}));
    let _bird = router(&bench, "", "add paths on;");
    bench.node.ip(&["link", "add", "cali7", "type", "veth", "peer", "name", "pod7"]);
    bench.node.ip(&["link", "set", "cali7", "up"]);
    bench.node.ip(&["link", "set", "pod7", "up"]);
    // The one was there before the speaker, the other comes later; one of the own block stays inside.
    bench.node.ip(&["route", "add", "10.244.9.7/32", "dev", "cali7", "proto", "80", "scope", "link", "metric", "1024"]);
    bench.node.ip(&["route", "add", "10.244.1.9/32", "dev", "cali7", "proto", "80", "scope", "link", "metric", "1024"]);
    let _speaker = bench.speaker();
    bench.bird_shows("show route", &["10.244.9.7/32", "10.244.1.0/26"]);
    let since = bench.bird_session();
    bench.node.ip(&["route", "add", "10.244.9.8/32", "dev", "cali7", "proto", "80", "scope", "link", "metric", "1024"]);
    bench.bird_shows("show route", &["10.244.9.8/32"]);
    bench.node.ip(&["route", "del", "10.244.9.7/32", "dev", "cali7"]);
    bench.bird_forgets("show route", "10.244.9.7/32");
    let answer = bench.birdc("show route");
    assert!(!answer.contains("10.244.1.9/32"), "inside the own block: {answer}");
    let why = |prefix: &str| bench.paths(prefix)[0]["not_advertised_to"]["Global_10_0_0_2"].clone();
    assert_eq!(why("10.244.1.9/32"), "it is inside this node's block 10.244.1.0/26, which is advertised as a whole");
    assert_eq!(why("10.0.0.0/24"), "it is outside of all pools and service ranges");
    assert!(bench.dialect("bird.ctl", "show route").contains("dev cali7 [kernel1 "));
    assert_eq!(bench.bird_session(), since, "the session was never touched");
}

#[test]
fn a_reflector_outside_of_any_cluster_lives_on_a_file_and_leaves_the_kernel_alone() {
    let bench = Bench::new("10.0.0.1", "10.0.0.2");
    let file = bench.file("resources.yaml");
    let document = |asn: u32| {
        format!(
            "apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: a}}
spec: {{bgp: {{ipv4Address: 10.0.0.1/24, routeReflectorClusterID: 244.0.0.1}}}}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {{name: default}}
spec: {{logSeverityScreen: Debug}}
---
apiVersion: v1
kind: Secret
metadata: {{name: bgp, namespace: kube-system}}
stringData: {{router: sesame}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: router}}
spec: {{peerIP: 10.0.0.2, asNumber: {asn}, password: {{secretKeyRef: {{name: bgp, key: router}}}}}}
"
        )
    };
    std::fs::write(&file, document(65010)).unwrap();
    let _bird = router(&bench, "password \"sesame\";", "");
    let speaker = bench.speaker_with(&["--resources", &file.display().to_string(), "--kernel", "none"]);
    bench.session_becomes("Established");
    eventually("the route is in the RIB though nobody looked for its next hop", || {
        let paths = bench.paths("198.51.100.0/24");
        if paths.iter().any(|path| path["standing"] == "best") { Ok(()) } else { Err(format!("{paths:?}")) }
    });
    assert_eq!(bench.routes(), "");
    assert!(speaker.log().contains("DEBUG"), "the level is BGPConfiguration's: {}", speaker.log());
    let since = bench.bird_session();
    std::fs::write(&file, "kind: [").unwrap();
    eventually("the fault is said", || {
        let status = bench.ask("status")?;
        if status["datastore_trouble"].is_string() { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(bench.bird_session(), since, "and the session stays");
    std::fs::write(&file, document(65011)).unwrap();
    bench.bird_shows("show protocols node", &["Received: "]);
}

#[test]
fn a_local_workload_is_a_peer_while_felix_says_so_and_its_status_is_in_the_datastore() {
    let bench = Bench::new("10.0.0.1", "10.0.0.2");
    bench.create(&bench.node_resource("a", "10.0.0.1"));
    bench.create(&bench.pool("10.244.0.0/16"));
    let spec = json!({ "localWorkloadSelector": "app == 'router'", "asNumber": 65100, "localASNumber": 65200 });
    bench.put(Kind::BGPPeer, "lw", json!({ "spec": spec }));
    let classes = json!(["Agent", "BGP", "Routes"]);
    let request = json!({ "node": "a", "classes": classes, "updatePeriodSeconds": 1 });
    bench.put(Kind::CalicoNodeStatus, "status", json!({ "spec": request }));
    let _bird = bench.bird(
        "protocol static { ipv4; route 10.244.7.0/26 blackhole; }
         protocol bgp node {
             local 10.0.0.2 as 65100; neighbor 10.0.0.1 as 65200; connect delay time 1; connect retry time 1;
             ipv4 { import all; export where source = RTS_STATIC; next hop self; };
         }",
    );
    let _speaker = bench.speaker();
    let folder = bench.file("calico/endpoint-status");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("default%2Frouter");
    let text = r#"{"ifaceName":"cali1","ipv4Nets":["10.0.0.2/32"],"bgpPeerName":"lw"}"#;
    std::fs::write(&file, text).unwrap();
    let session = bench.session_becomes("Established");
    assert_eq!((&session["name"], &session["passive"]), (&"Local_Workload_10_0_0_2".into(), &true.into()));
    bench.route_becomes("10.244.7.0/26 via 10.0.0.2");
    eventually("the status is in the datastore", || {
        let status = bench.get(Kind::CalicoNodeStatus, "status")["status"].clone();
        let peer = &status["bgp"]["peersV4"][0];
        let routes = status["routes"]["routesV4"].as_array().cloned().unwrap_or_default();
        let learned = routes.iter().find(|route| route["destination"] == "10.244.7.0/26");
        let complete = peer["state"] == "Established"
            && peer["type"] == "LocalWorkload"
            && learned
                .is_some_and(|route| route["gateway"] == "10.0.0.2" && route["learnedFrom"]["peerIP"] == "10.0.0.2")
            && status["agent"]["birdV4"]["state"] == "Ready";
        if complete { Ok(()) } else { Err(status.to_string()) }
    });
    std::fs::remove_file(&file).unwrap();
    bench.route_goes("10.244.7.0/26");
    bench.bird_shows("show protocols node", &["Received: Peer de-configured"]);
}

#[test]
fn a_resource_that_is_broken_at_a_restart_is_in_force_as_it_was() {
    let bench = routed(json!({}));
    let _bird = router(&bench, "graceful restart on;", "");
    let speaker = bench.speaker();
    bench.session_becomes("Established");
    bench.put(Kind::BGPPeer, "router", json!({ "spec": { "peerIP": "ten", "asNumber": 65010 } }));
    let fault = || {
        eventually("the fault is a warning", || {
            let warnings = bench.ask("status")?["warnings"].to_string();
            if warnings.contains("BGPPeer router") { Ok(()) } else { Err(warnings) }
        });
    };
    fault();
    speaker.kill();
    let _speaker = bench.speaker();
    bench.session_becomes("Established");
    fault();
    bench.route_becomes("198.51.100.0/24 via 10.0.0.2");
    bench.put(Kind::BGPPeer, "router", json!({ "spec": { "peerIP": "10.0.0.2", "asNumber": 65010 } }));
    eventually("the file is gone", || {
        let file = bench.file("last-good.json");
        if file.exists() { Err(std::fs::read_to_string(file).unwrap_or_default()) } else { Ok(()) }
    });
}

#[test]
fn a_peer_behind_a_gateway_is_reached_by_a_route_of_its_own_and_its_routes_through_it() {
    let bench = routed(json!({ "peerIP": "192.0.2.9", "reachableBy": "10.0.0.2" }));
    bench.peer.ip(&["addr", "add", "192.0.2.9/32", "dev", "lo"]);
    let _bird = bench.bird(
        "protocol static { ipv4; route 198.51.100.0/24 blackhole; }
         protocol bgp node {
             local 192.0.2.9 as 65010; neighbor 10.0.0.1 as 64512; multihop;
             connect delay time 1; connect retry time 1; error wait time 1, 2;
             ipv4 { import all; export where source = RTS_STATIC; next hop self; };
         }",
    );
    let _speaker = bench.speaker();
    bench.route_becomes("192.0.2.9 via 10.0.0.2 dev eth0");
    bench.session_becomes("Established");
    bench.route_becomes("198.51.100.0/24 via 10.0.0.2 dev eth0");
    let [path] = bench.paths("198.51.100.0/24").try_into().unwrap();
    assert_eq!((&path["next_hop"], &path["via"]["gateway"]), (&"192.0.2.9".into(), &"10.0.0.2".into()));
    let spec = json!({ "peerIP": "192.0.2.9", "asNumber": 65010 });
    bench.put(Kind::BGPPeer, "router", json!({ "spec": spec }));
    bench.route_goes("192.0.2.9");
    bench.route_goes("198.51.100.0/24");
    let [path] = bench.paths("198.51.100.0/24").try_into().unwrap();
    assert_eq!(path["standing"], "excluded: next hop unreachable");
}
