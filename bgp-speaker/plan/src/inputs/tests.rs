//! Changes in, image and what they touch out.

use serde_json::json;

use super::*;

fn put(inputs: &mut Inputs, kind: Kind, value: Value) -> Result<Touched, BadInput> {
    let key = Key::of_value(kind, &value).unwrap();
    inputs.apply("a", Change::Put { key, value })
}

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

const NOTHING: Touched = Touched {
    sessions: false,
    blocks: false,
    pools: false,
    filters: false,
    services: false,
    surroundings: false,
    log: false,
};
const SESSIONS: Touched = Touched { sessions: true, ..NOTHING };

#[test]
fn a_bad_node_keeps_its_last_good_version_and_is_remembered_until_corrected() {
    let mut inputs = Inputs::default();
    let node = |address: &str| named("b", json!({"bgp": {"ipv4Address": address}}));
    assert!(put(&mut inputs, Kind::Node, node("10.0.0.2/24")).unwrap().sessions);
    assert_eq!(put(&mut inputs, Kind::Node, node("10.0.0.2/24")).unwrap(), NOTHING, "nothing changed");

    let error = put(&mut inputs, Kind::Node, node("ten")).unwrap_err();
    assert!(error.to_string().contains("Node b: spec.bgp.ipv4Address is \"ten\""), "{error}");
    assert_eq!(inputs.nodes["b"].ipv4, Some("10.0.0.2/24".parse().unwrap()));
    assert_eq!(inputs.faults.len(), 1);

    assert!(put(&mut inputs, Kind::Node, node("10.0.0.3")).unwrap().sessions);
    assert!(inputs.faults.is_empty());
    let gone = inputs.apply("a", Change::Delete(Key::named(Kind::Node, "b"))).unwrap();
    assert!(gone.sessions && inputs.nodes.is_empty());
}

#[test]
fn blocks_are_advertised_while_confirmed_or_pending_deletion_and_only_if_a_node_owns_them() {
    let mut inputs = Inputs::default();
    let affinity = |cidr: &str, spec: Value| {
        let mut value = named("x", json!({"cidr": cidr, "node": "a"}));
        value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        value
    };
    for (cidr, spec, advertised) in [
        ("10.244.0.0/26", json!({"state": "confirmed"}), true),
        ("10.244.0.64/26", json!({"state": "pending"}), false),
        ("10.244.0.128/26", json!({"state": "pendingDeletion"}), true),
    ] {
        put(&mut inputs, Kind::BlockAffinity, affinity(cidr, spec)).unwrap();
        assert_eq!(super::advertised(inputs.blocks[&cidr.parse().unwrap()]), advertised, "{cidr}");
    }
    let of_nobody = affinity("10.9.0.0/26", json!({"state": "confirmed", "type": "virtual"}));
    put(&mut inputs, Kind::BlockAffinity, of_nobody).unwrap();
    assert!(!inputs.blocks.contains_key(&"10.9.0.0/26".parse().unwrap()));

    let key =
        |owner: &str| Key::Affinity { owner: Owner::Host(owner.to_owned()), cidr: "10.244.0.0/26".parse().unwrap() };
    assert!(!inputs.apply("a", Change::Delete(key("b"))).unwrap().blocks, "another node's claim to the block");
    assert!(inputs.apply("a", Change::Delete(key("a"))).unwrap().blocks);
    assert_eq!(inputs.blocks.len(), 2);
}

#[test]
fn pools_tell_how_their_packets_travel() {
    let mut inputs = Inputs::default();
    for (name, spec, encap) in [
        ("plain", json!({"cidr": "10.1.0.0/16"}), Encap::None),
        ("ipip", json!({"cidr": "10.2.0.0/16", "ipipMode": "CrossSubnet"}), Encap::Ipip { cross_subnet: true }),
        ("vxlan", json!({"cidr": "10.3.0.0/16", "vxlanMode": "Always"}), Encap::Vxlan { cross_subnet: false }),
    ] {
        put(&mut inputs, Kind::IPPool, named(name, spec)).unwrap();
        assert_eq!(inputs.pools[name].encap, encap);
    }
    for (spec, said) in [
        (json!({"cidr": "10"}), "spec.cidr is \"10\""),
        (json!({"cidr": "10.1.0.0/16", "ipipMode": "Always", "vxlanMode": "CrossSubnet"}), "both in use"),
        (json!({"cidr": "fd00:10::/64", "ipipMode": "Always"}), "IPIP carries no IPv6"),
        (json!({"cidr": "10.1.0.0/28"}), "no room for a block of spec.blockSize 26; set blockSize to 28 or more"),
        (json!({"cidr": "fd00:10::/122", "blockSize": 121}), "no room for a block of spec.blockSize 121"),
    ] {
        let error = put(&mut inputs, Kind::IPPool, named("ipip", spec)).unwrap_err().to_string();
        assert!(error.contains("IPPool ipip: ") && error.contains(said), "{error}");
        assert_eq!(inputs.pools["ipip"].encap, Encap::Ipip { cross_subnet: true }, "the last good version stays");
    }
    assert_eq!(inputs.pools.len(), 3);
}

#[test]
fn a_nodes_readiness_for_ipip_touches_the_routes_of_who_programs_ipip() {
    let programs = |word: &str| Some(word.to_owned());
    let (felix_programs, bgp_programs) = (programs("EnabledNoEncapOnly"), programs("EnabledIPIPOnly"));
    let mut inputs = Inputs { felix_programs, bgp_programs, ..Inputs::default() };
    let node = |tunnel: Option<&str>| {
        let bgp = json!({"ipv4Address": "10.0.0.2/24", "ipv4IPIPTunnelAddr": tunnel});
        json!({"metadata": {"name": "b"}, "spec": {"bgp": bgp}})
    };
    put(&mut inputs, Kind::Node, node(None)).unwrap();
    assert!(!inputs.nodes["b"].ipip);
    let touched = put(&mut inputs, Kind::Node, node(Some("10.9.0.1"))).unwrap();
    assert_eq!(touched, Touched { surroundings: true, ..NOTHING });
    assert!(inputs.nodes["b"].ipip);
    assert_eq!(put(&mut inputs, Kind::Node, node(Some("10.9.0.2"))).unwrap(), NOTHING, "which one does not matter");
}

/// What it touches that node `name` goes from one version to another, while a BGPPeer has the selector `rack == 'r1'`.
#[track_caller]
fn check_node(name: &str, from: Value, to: Value, expected: Touched) {
    let mut inputs = Inputs::default();
    let rack = json!({"nodeSelector": "rack == 'r1'", "peerIP": "10.9.9.9", "asNumber": 65000});
    put(&mut inputs, Kind::BGPPeer, named("tor", rack)).unwrap();
    let version = |fields: Value| {
        let mut value = json!({"metadata": {"name": name}, "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}});
        for (pointer, field) in fields.as_object().unwrap() {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            if value.pointer(parent).is_none() {
                value[parent.trim_start_matches('/')] = json!({});
            }
            value.pointer_mut(parent).unwrap()[last] = field.clone();
        }
        value
    };
    put(&mut inputs, Kind::Node, version(from)).unwrap();
    assert_eq!(put(&mut inputs, Kind::Node, version(to)).unwrap(), expected);
}

#[test]
fn a_node_touches_only_what_follows_from_what_changed() {
    let labels = |labels: Value| json!({"/metadata/labels": labels});
    let surroundings = Touched { surroundings: true, ..NOTHING };
    check_node("b", labels(json!({"rack": "r2"})), labels(json!({"rack": "r3", "zone": "z"})), NOTHING);
    check_node("b", labels(json!({"rack": "r2"})), labels(json!({"rack": "r1"})), SESSIONS);
    let excluded = labels(json!({"node.kubernetes.io/exclude-from-external-load-balancers": "true"}));
    check_node("a", labels(json!({})), excluded.clone(), Touched { services: true, ..NOTHING });
    check_node("b", labels(json!({})), excluded, NOTHING);
    check_node("b", json!({}), json!({"/spec/bgp/asNumber": 65001}), SESSIONS);
    check_node("a", json!({}), json!({"/spec/bgp/asNumber": 65001}), Touched { surroundings: true, ..SESSIONS });
    check_node("b", json!({}), json!({"/spec/bgp/ipv4Address": "10.0.0.1/16"}), NOTHING);
    let wider = Touched { surroundings: true, ..SESSIONS };
    check_node("a", json!({}), json!({"/spec/bgp/ipv4Address": "10.0.0.1/16"}), wider);
    check_node("b", json!({}), json!({"/status/podCIDRs": ["10.1.0.0/24"]}), NOTHING);
    check_node("a", json!({}), json!({"/status/podCIDRs": ["10.1.0.0/24"]}), Touched { blocks: true, ..NOTHING });
    check_node("b", json!({}), json!({"/status/wireguardPublicKey": "k"}), surroundings);
    check_node("b", json!({}), json!({"/spec/bgp/ipv4IPIPTunnelAddr": "10.9.0.1"}), NOTHING);
    check_node("b", json!({}), json!({"/spec/ipv4VXLANTunnelAddr": "10.244.0.1"}), NOTHING);
}

#[test]
fn a_configuration_touches_only_what_follows_from_what_changed() {
    for (name, spec, expected) in [
        ("default", json!({"listenPort": 1790}), SESSIONS),
        ("default", json!({"logSeverityScreen": "Debug"}), Touched { log: true, ..NOTHING }),
        ("default", json!({"programClusterRoutes": "Enabled"}), Touched { surroundings: true, ..SESSIONS }),
        (
            "default",
            json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": ""}]}),
            Touched { services: true, surroundings: true, ..NOTHING },
        ),
        ("node.b", json!({"listenPort": 1790}), SESSIONS),
        ("node.b", json!({"nodeToNodeMeshEnabled": false, "logSeverityScreen": "Debug"}), NOTHING),
        (
            "node.a",
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["65000:1"]}]}),
            Touched { surroundings: true, ..NOTHING },
        ),
    ] {
        let mut inputs = Inputs::default();
        assert_eq!(put(&mut inputs, Kind::BGPConfiguration, named(name, spec.clone())).unwrap(), expected, "{spec}");
        assert_eq!(put(&mut inputs, Kind::BGPConfiguration, named(name, spec.clone())).unwrap(), NOTHING, "{spec}");
        let key = Key::named(Kind::BGPConfiguration, name);
        assert_eq!(inputs.apply("a", Change::Delete(key)).unwrap(), expected, "{spec}");
        assert_eq!(inputs, Inputs::default());
    }
    let mut inputs = Inputs::default();
    assert_eq!(put(&mut inputs, Kind::BGPConfiguration, named("mine", json!({}))).unwrap(), SESSIONS);
    assert!(inputs.faults.is_empty() && inputs.unread.contains("mine"));
    let felix = named("default", json!({"programClusterRoutes": "Disabled", "ipipMTU": "not a number"}));
    assert!(put(&mut inputs, Kind::FelixConfiguration, felix).unwrap().surroundings);
    assert_eq!(inputs.felix_programs.as_deref(), Some("Disabled"));
}

#[test]
fn who_programs_routes_follows_from_the_newest_version_even_if_it_is_not_understood() {
    let mut inputs = Inputs::default();
    let configuration = |spec: Value| named("default", spec);
    put(&mut inputs, Kind::FelixConfiguration, configuration(json!({"programClusterRoutes": "Enabled"}))).unwrap();
    put(&mut inputs, Kind::BGPConfiguration, configuration(json!({"asNumber": 65001}))).unwrap();
    assert!(inputs.classes().0.plain && inputs.classes().1.is_some(), "both claim plain routes");
    // Changed together with something that is not understood, in its type or in its meaning.
    for bad in [
        json!({"programClusterRoutes": "Disabled", "asNumber": 0}),
        json!({"programClusterRoutes": "Enabled", "listenPort": "none"}),
        json!({"programClusterRoutes": "Disabled", "listenPort": "none"}),
    ] {
        let fault = put(&mut inputs, Kind::BGPConfiguration, configuration(bad.clone())).unwrap_err();
        assert!(fault.touched.surroundings && fault.touched.sessions, "{bad}");
        assert_eq!(inputs.bgp_programs.as_deref(), bad["programClusterRoutes"].as_str());
        assert_eq!(inputs.global.as_number, Some(AsNumber(65001)), "of all else the last good version stays");
        assert!(!put(&mut inputs, Kind::BGPConfiguration, configuration(bad)).unwrap_err().touched.any());
    }
    assert_eq!(inputs.classes(), (Classes::FELIXS, None));
    // The last good version of an earlier life has no say in it.
    let mut after = Inputs::default();
    after.preload(
        Key::named(Kind::BGPConfiguration, "default"),
        configuration(json!({"programClusterRoutes": "Enabled"})),
    );
    put(&mut after, Kind::BGPConfiguration, configuration(json!({"programClusterRoutes": "Disabled", "asNumber": 0})))
        .unwrap_err();
    assert_eq!(after.bgp_programs.as_deref(), Some("Disabled"));
}

#[test]
fn what_has_no_meaning_is_a_fault_and_what_calico_tolerates_is_none() {
    let mut inputs = Inputs::default();
    for (kind, name, spec, expected) in [
        (Kind::BGPConfiguration, "default", json!({"asNumber": 0}), Err("asNumber is 0")),
        (Kind::BGPConfiguration, "node.a", json!({"listenPort": 0}), Err("listenPort is 0")),
        (Kind::BGPConfiguration, "default", json!({"listenPort": 70000}), Err("invalid value")),
        (Kind::BGPConfiguration, "default", json!({"serviceClusterIPs": [{"cidr": "ten"}]}), Err("'ten'")),
        (
            Kind::BGPConfiguration,
            "default",
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["65000:70000"]}]}),
            Err("'65000:70000'"),
        ),
        (
            Kind::BGPConfiguration,
            "default",
            json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["nobody"]}]}),
            Ok(()),
        ),
        (Kind::BGPConfiguration, "node.a", json!({"asNumber": 0, "serviceClusterIPs": [{"cidr": "ten"}]}), Ok(())),
        (Kind::BGPConfiguration, "default", json!({"bindMode": "Everywhere"}), Ok(())),
        (Kind::BGPConfiguration, "default", json!({"nodeMeshMaxRestartTime": "soon"}), Ok(())),
        (Kind::BGPPeer, "p", json!({"node": "a", "nodeSelector": "all()", "peerSelector": "all()"}), Err("both set")),
        (Kind::BGPPeer, "p", json!({"peerIP": "10.0.0.1", "asNumber": 1, "ttlSecurity": 256}), Err("256")),
        (Kind::BGPPeer, "p", json!({}), Ok(())),
        (Kind::Node, "n", json!({"bgp": {"asNumber": 0}}), Err("asNumber is 0")),
        (Kind::Node, "n", json!({"bgp": {"routeReflectorClusterID": "one"}}), Err("routeReflectorClusterID")),
    ] {
        match (put(&mut inputs, kind, named(name, spec.clone())), expected) {
            (Ok(_), Ok(())) => assert!(!inputs.faults.contains_key(&(kind, name.to_owned()))),
            (Err(bad), Err(expected)) => {
                assert!(bad.reason.contains(expected), "{spec}: {bad}");
                assert_eq!(inputs.faults[&(kind, name.to_owned())], bad);
            }
            (got, _) => panic!("{spec}: {got:?}"),
        }
    }
}

#[test]
fn the_last_good_version_outlives_a_restart_but_not_its_object() {
    let mut before = Inputs::default();
    let good = [
        (
            Kind::Node,
            json!({"metadata": {"name": "b", "labels": {"rack": "r1"}},
            "spec": {"bgp": {"ipv4Address": "10.0.0.2/24", "asNumber": 65001, "routeReflectorClusterID": "244.0.0.1"}},
            "status": {"podCIDRs": ["10.1.0.0/24"], "wireguardPublicKey": "k"}}),
        ),
        (Kind::BGPPeer, named("tor", json!({"peerIP": "10.9.9.9", "asNumber": 65000}))),
        (Kind::IPPool, named("pool", json!({"cidr": "10.244.0.0/16"}))),
    ];
    for (kind, value) in good {
        put(&mut before, kind, value).unwrap();
    }
    assert_eq!(before.last_good().count(), 0, "nothing is in fault");
    let bad = [
        (Kind::Node, named("b", json!({"bgp": {"asNumber": 0}}))),
        (Kind::BGPPeer, named("tor", json!({"peerIP": "10.9.9.9", "asNumber": 0}))),
    ];
    for (kind, value) in bad.clone() {
        put(&mut before, kind, value).unwrap_err();
    }

    let mut after = Inputs::default();
    for (key, value) in before.last_good() {
        after.preload(key, value);
    }
    assert!(after.nodes.is_empty() && after.peers.is_empty(), "nobody knows yet whether they are needed");
    for (kind, value) in bad.clone() {
        let bad = put(&mut after, kind, value).unwrap_err();
        assert!(bad.touched.sessions, "the version of the earlier life came into force");
    }
    assert_eq!((&after.nodes, &after.peers), (&before.nodes, &before.peers));
    assert_eq!(after.last_good().count(), 2, "and it is kept on");

    let key = Key::named(Kind::BGPPeer, "tor");
    after.apply("a", Change::Delete(key)).unwrap();
    assert!(after.peers.is_empty());
    put(&mut after, Kind::BGPPeer, bad[1].1.clone()).unwrap_err();
    assert!(after.peers.is_empty(), "another object of the same name has no last good version");
    put(&mut after, Kind::Node, named("b", json!({"bgp": {"ipv4Address": "10.0.0.7/24"}}))).unwrap();
    assert_eq!(after.last_good().count(), 0);

    let mut good_again = Inputs::default();
    good_again.preload(Key::named(Kind::BGPPeer, "tor"), named("tor", json!({"peerIP": "10.9.9.9", "asNumber": 1})));
    put(&mut good_again, Kind::BGPPeer, named("tor", json!({"peerIP": "10.9.9.8", "asNumber": 1}))).unwrap();
    put(&mut good_again, Kind::BGPPeer, named("tor", json!({"peerIP": "10.9.9.8", "asNumber": 0}))).unwrap_err();
    let (_, kept) = good_again.last_good().next().unwrap();
    assert_eq!(kept["spec"]["peerIP"], "10.9.9.8", "the datastore's good version, not that of the earlier life");
}

#[test]
fn what_the_first_snapshot_does_not_have_has_no_earlier_life() {
    let mut inputs = Inputs::default();
    inputs.preload(Key::named(Kind::BGPPeer, "tor"), named("tor", json!({"peerIP": "10.9.9.9", "asNumber": 1})));
    inputs.in_sync();
    put(&mut inputs, Kind::BGPPeer, named("tor", json!({"peerIP": "10.9.9.8", "asNumber": 0}))).unwrap_err();
    assert!(inputs.peers.is_empty(), "it was made after the one that was remembered was deleted");
}

#[test]
fn of_the_clusters_configuration_counts_what_is_understood_while_no_version_is_good() {
    let mut inputs = Inputs::default();
    let spec = |as_number: u32, community: &str| {
        let secret = json!({"secretKeyRef": {"name": "s", "key": "k"}});
        let advertised = json!([{"cidr": "10.0.0.0/8", "communities": [community]}]);
        named("default", json!({"asNumber": as_number, "nodeMeshPassword": secret, "prefixAdvertisements": advertised}))
    };
    let bad = put(&mut inputs, Kind::BGPConfiguration, spec(65001, "1:70000")).unwrap_err();
    assert!(bad.touched.sessions && inputs.faults.len() == 1);
    assert_eq!(inputs.global.as_number, Some(AsNumber(65001)));
    assert!(inputs.global.node_mesh_password.is_some(), "no session of the mesh without its password");
    put(&mut inputs, Kind::BGPConfiguration, spec(0, "1:7")).unwrap_err();
    assert_eq!((inputs.global.as_number, inputs.last_good().count()), (None, 0));
    put(&mut inputs, Kind::BGPConfiguration, spec(65002, "1:7")).unwrap();
    put(&mut inputs, Kind::BGPConfiguration, spec(65003, "1:70000")).unwrap_err();
    assert_eq!(inputs.global.as_number, Some(AsNumber(65002)), "the last good version stays");
    inputs.apply("a", Change::Delete(Key::named(Kind::BGPConfiguration, "default"))).unwrap();
    assert_eq!(inputs, Inputs::default());
}

#[test]
fn a_fault_of_a_kind_with_namespaces_goes_with_its_cause_or_when_nobody_watches() {
    let mut inputs = Inputs::default();
    let service = |address: &str| {
        let spec = json!({"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address]});
        json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})
    };
    let bad = put(&mut inputs, Kind::Service, service("ten")).unwrap_err();
    assert_eq!(bad.name, "shop/web");
    put(&mut inputs, Kind::Service, service("10.96.0.1")).unwrap();
    let fault = Change::Fault { kind: Kind::Service, name: bad.name, reason: "is no JSON".to_owned() };
    inputs.apply("a", fault.clone()).unwrap_err();
    assert_eq!(inputs.faults.len(), 1);
    put(&mut inputs, Kind::Service, service("10.96.0.1")).unwrap();
    assert!(inputs.faults.is_empty());
    inputs.apply("a", fault).unwrap_err();
    put(&mut inputs, Kind::BGPPeer, named("tor", json!({"peerIP": "ten"}))).unwrap_err();
    inputs.forget_services();
    assert_eq!(inputs.faults.keys().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Kind::BGPPeer]);
    assert_eq!(inputs.services.with_address([10, 96, 0, 1].into()).count(), 0);
}

#[test]
fn a_filter_that_was_never_understood_is_told_apart_from_one_that_does_not_exist() {
    let mut inputs = Inputs::default();
    let bad = named("f", json!({"exportV4": [{"action": "Perhaps"}]}));
    let fault = put(&mut inputs, Kind::BGPFilter, bad.clone()).unwrap_err();
    assert!(fault.touched.filters && inputs.filter_unknown("f") && !inputs.filter_unknown("g"));
    assert!(!put(&mut inputs, Kind::BGPFilter, bad.clone()).unwrap_err().touched.any(), "nothing new");
    let gone = inputs.apply("a", Change::Delete(Key::named(Kind::BGPFilter, "f"))).unwrap();
    assert!(gone.filters && !inputs.filter_unknown("f"));
    put(&mut inputs, Kind::BGPFilter, named("f", json!({"exportV4": [{"action": "Reject"}]}))).unwrap();
    put(&mut inputs, Kind::BGPFilter, bad).unwrap_err();
    assert!(!inputs.filter_unknown("f"), "its last good version stays");
}

#[test]
fn labels_of_many_nodes_share_their_texts() {
    let mut inputs = Inputs::default();
    for index in 0..100 {
        let name = format!("n{index}");
        let labels = json!({"kubernetes.io/os": "linux", "kubernetes.io/hostname": name});
        let value = json!({"metadata": {"name": name, "labels": labels}});
        put(&mut inputs, Kind::Node, value).unwrap();
    }
    let address = |name: &str| inputs.nodes[name].labels.get("kubernetes.io/os").unwrap().as_ptr();
    assert_eq!(address("n1"), address("n99"));
    assert_eq!(inputs.nodes["n7"].labels.get("kubernetes.io/hostname"), Some("n7"));
}
