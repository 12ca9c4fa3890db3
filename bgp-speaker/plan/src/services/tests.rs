//! The table V1 to V9, what an image of services knows after changes, and what it costs.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const NODE: &str = "a";

fn settings(change: impl FnOnce(&mut BGPConfigurationSpec)) -> ServiceSettings {
    let block = |cidr: &str| vec![ServiceBlock { cidr: cidr.to_owned() }];
    let mut global = BGPConfigurationSpec {
        service_cluster_ips: Some([block("10.96.0.0/12"), block("fd96::/108")].concat()),
        service_external_ips: Some([block("203.0.113.0/24"), block("192.0.2.7/32")].concat()),
        service_load_balancer_ips: Some([block("198.51.100.0/24"), block("192.0.2.9/32")].concat()),
        ..BGPConfigurationSpec::default()
    };
    change(&mut global);
    ServiceSettings::new(&global, None)
}

fn without_aggregation() -> ServiceSettings {
    settings(|global| global.service_load_balancer_aggregation = Some("Disabled".to_owned()))
}

fn key(kind: Kind, name: &str) -> Key {
    Key::namespaced(kind, "shop", name)
}

/// A Service of policy Local with the cluster address 10.96.7.7, changed by `spec`.
fn service(spec: Value, ingress: &[&str]) -> Value {
    let mut value = json!({
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.96.7.7", "clusterIPs": ["10.96.7.7"], "ipFamilies": ["IPv4"],
            "externalTrafficPolicy": "Local", "sessionAffinity": "None", "ports": [{"port": 80}], "externalIPs": null,
        },
        "status": {"loadBalancer": {"ingress": ingress.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()}},
    });
    value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    value
}

fn slice(name: &str, family: &str, endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": family, "endpoints": endpoints, "ports": null,
    })
}

/// What the node originates beside aggregates, and the step that decided about the first address.
#[track_caller]
fn check(
    service: Value,
    slices: &[Value],
    settings: &ServiceSettings,
    excluded: bool,
    expect: (Option<Step>, &[&str]),
) {
    let mut services = Services::default();
    services.put(&key(Kind::Service, "web"), &service).unwrap();
    for (index, slice) in slices.iter().enumerate() {
        services.put(&key(Kind::EndpointSlice, &format!("web-{index}")), slice).unwrap();
    }
    let none = Services::default().originated(settings, NODE, excluded);
    let routes = services.originated(settings, NODE, excluded);
    let own: Vec<_> = routes.difference(&none).map(|net| net.addr().to_string()).collect();
    let standings = services.advertised_from(("shop", "web"), settings, NODE, excluded).unwrap();
    assert_eq!(
        (standings.first().map(|standing| standing.step), own.iter().map(String::as_str).collect()),
        (expect.0, expect.1.to_vec())
    );
    services.refresh(settings, NODE, excluded);
    assert_eq!(services.originated(settings, NODE, excluded), routes, "remembered");
}

#[test]
fn the_table_of_service_advertisement() {
    let (on, off) = (settings(|_| {}), without_aggregation());
    let here = || vec![slice("x", "IPv4", json!([{"addresses": ["10.244.0.5"], "nodeName": "a"}]))];
    let there = || {
        vec![slice("x", "IPv4", json!([{"addresses": ["10.244.1.5"], "nodeName": "b", "conditions": {"ready": true}}]))]
    };
    let local = |spec: Value| service(spec, &[]);
    let cluster = |mut spec: Value, ingress: &[&str]| {
        spec["externalTrafficPolicy"] = json!("Cluster");
        service(spec, ingress)
    };
    // V1
    check(local(json!({})), &here(), &on, true, (Some(Step::NodeExcluded), &[]));
    // V2
    check(local(json!({"type": "ExternalName"})), &here(), &on, false, (Some(Step::NoAddresses), &[]));
    // V3
    check(
        local(json!({"clusterIP": "None", "clusterIPs": ["None"], "externalIPs": ["203.0.113.5"]})),
        &here(),
        &on,
        false,
        (Some(Step::Headless), &[]),
    );
    // V4: an entry of one address, as ingress or as wanted, even without an endpoint; the whole set goes out
    let balancer = json!({"type": "LoadBalancer"});
    let single = Some(Step::SingleLoadBalancerAddress);
    check(cluster(balancer.clone(), &["192.0.2.9"]), &[], &on, false, (single, &["10.96.7.7", "192.0.2.9"]));
    let wanted = json!({"type": "LoadBalancer", "loadBalancerIP": "192.0.2.9"});
    check(cluster(wanted, &["198.51.100.3"]), &[], &on, false, (single, &["10.96.7.7", "198.51.100.3"]));
    check(cluster(json!({}), &["192.0.2.9"]), &here(), &on, false, (Some(Step::Aggregated), &[]));
    check(service(balancer.clone(), &["192.0.2.9"]), &[], &on, false, (Some(Step::NoSlices), &[]));
    // V5
    let external = json!({"externalIPs": ["192.0.2.7", "203.0.113.9", "8.8.8.8"]});
    let routes: &[&str] = &["10.96.7.7", "192.0.2.7", "203.0.113.9"];
    check(cluster(external.clone(), &[]), &[], &on, false, (Some(Step::SingleExternalAddress), routes));
    check(local(external), &here(), &on, false, (Some(Step::AnswersHere), routes));
    // V6, also for what has no policy
    check(cluster(json!({}), &[]), &here(), &on, false, (Some(Step::Aggregated), &[]));
    check(local(json!({"externalTrafficPolicy": null})), &here(), &on, false, (Some(Step::Aggregated), &[]));
    // V7
    check(local(json!({})), &[], &on, false, (Some(Step::NoSlices), &[]));
    // V8
    check(local(json!({})), &here(), &on, false, (Some(Step::AnswersHere), &["10.96.7.7"]));
    check(cluster(json!({}), &[]), &there(), &off, false, (Some(Step::AnswersAnywhere), &["10.96.7.7"]));
    check(
        local(json!({"externalTrafficPolicy": null})),
        &there(),
        &off,
        false,
        (Some(Step::AnswersAnywhere), &["10.96.7.7"]),
    );
    // V9
    check(local(json!({})), &there(), &on, false, (Some(Step::SilentHere), &[]));
    check(
        cluster(json!({}), &[]),
        &[slice("x", "IPv4", json!(null))],
        &off,
        false,
        (Some(Step::SilentEverywhere), &[]),
    );
    check(
        local(json!({})),
        &[slice("x", "FQDN", json!([{"nodeName": "a"}]))],
        &on,
        false,
        (Some(Step::SilentHere), &[]),
    );
}

#[test]
fn an_endpoint_answers_while_ready_or_unknown_or_serving_until_it_ends() {
    for (conditions, answers) in [
        (json!(null), true),
        (json!({"ready": true}), true),
        (json!({"ready": null}), true),
        (json!({"ready": false}), false),
        (json!({"ready": false, "serving": true, "terminating": true}), true),
        (json!({"ready": false, "serving": false, "terminating": true}), false),
        (json!({"ready": false, "serving": true}), false),
    ] {
        let slices = [
            slice("x", "IPv4", json!([{"nodeName": "b"}])),
            slice("y", "IPv4", json!([{"nodeName": "a", "conditions": conditions}])),
        ];
        let expect = match answers {
            true => (Some(Step::AnswersHere), ["10.96.7.7"].as_slice()),
            false => (Some(Step::SilentHere), [].as_slice()),
        };
        check(service(json!({}), &[]), &slices, &settings(|_| {}), false, expect);
    }
}

#[test]
fn each_family_is_advertised_for_its_own_endpoints() {
    let mut services = Services::default();
    let dual = json!({"clusterIPs": ["10.96.7.7", "fd96::7"], "ipFamilies": ["IPv4", "IPv6"]});
    services.put(&key(Kind::Service, "web"), &service(dual, &[])).unwrap();
    let at = |node: &str| json!([{"nodeName": node}]);
    services.put(&key(Kind::EndpointSlice, "web-4"), &slice("web-4", "IPv4", at("b"))).unwrap();
    services.put(&key(Kind::EndpointSlice, "web-6"), &slice("web-6", "IPv6", at("a"))).unwrap();
    let settings = settings(|_| {});
    let standings = services.advertised_from(("shop", "web"), &settings, NODE, false).unwrap();
    let steps: Vec<_> = standings.iter().map(|standing| (standing.address.to_string(), standing.step)).collect();
    assert_eq!(steps, [("10.96.7.7/32".to_owned(), Step::SilentHere), ("fd96::7/128".to_owned(), Step::AnswersHere),]);
    assert_eq!(services.with_address("fd96::7".parse().unwrap()).collect::<Vec<_>>(), [("shop", "web")]);
    assert_eq!(Step::SilentHere.to_string(), "its traffic policy is Local and no endpoint on this node answers");
}

#[test]
fn aggregates_go_out_and_no_range_goes_to_the_kernel() {
    let texts = |settings: &ServiceSettings, excluded| {
        let routes = Services::default().originated(settings, NODE, excluded);
        routes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (on, off) = (settings(|_| {}), without_aggregation());
    assert_eq!(texts(&on, false), ["10.96.0.0/12", "198.51.100.0/24", "203.0.113.0/24", "fd96::/108"]);
    assert_eq!(texts(&off, false), ["10.96.0.0/12", "203.0.113.0/24", "fd96::/108"]);
    assert_eq!(texts(&on, true), Vec::<String>::new());
    assert_eq!((on.kernel_ranges().len(), off.kernel_ranges().len()), (6, 6));
    let replaced = ServiceSettings::new(&BGPConfigurationSpec::default(), Some(&["10.0.0.1/8".parse().unwrap()]));
    assert_eq!(texts(&replaced, false), ["10.0.0.0/8"]);
    assert!(replaced.is_on() && !ServiceSettings::default().is_on());
    let bad = settings(|global| global.service_external_ips.as_mut().unwrap()[1].cidr = "ten".to_owned());
    assert_eq!(bad.external.len(), 1);
    for (label, excludes) in [(None, false), (Some("true"), true), (Some(""), true), (Some("false"), false)] {
        assert_eq!(Services::excludes(label), excludes, "{label:?}");
    }
}

#[test]
fn an_address_of_two_services_stays_until_both_are_gone() {
    let mut services = Services::default();
    let settings = settings(|_| {});
    let shared =
        service(json!({"clusterIP": "10.1.1.1", "clusterIPs": ["10.1.1.1"], "externalIPs": ["203.0.113.5"]}), &[]);
    for name in ["web", "shop"] {
        services.put(&key(Kind::Service, name), &shared).unwrap();
        let mut slice = slice(name, "IPv4", json!([{"nodeName": "a"}]));
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(name);
        services.put(&key(Kind::EndpointSlice, name), &slice).unwrap();
    }
    assert!(services.refresh(&settings, NODE, false));
    assert!(!services.refresh(&settings, NODE, false));
    let address = "203.0.113.5/32".parse().unwrap();
    assert_eq!(services.strays(&settings, NODE, false), ["10.1.1.1/32".parse::<IpNet>().unwrap()]);
    assert!(services.delete(&key(Kind::EndpointSlice, "web")));
    assert!(!services.refresh(&settings, NODE, false), "the other service still has it");
    assert!(services.originated(&settings, NODE, false).contains(&address));
    assert!(services.delete(&key(Kind::EndpointSlice, "shop")));
    assert!(services.refresh(&settings, NODE, false));
    assert!(!services.originated(&settings, NODE, false).contains(&address));
    assert!(!services.delete(&key(Kind::EndpointSlice, "shop")));
    assert!(!services.put(&key(Kind::Service, "web"), &shared).unwrap(), "nothing changed");
    let bad = service(json!({"externalIPs": ["ten"]}), &[]);
    assert_eq!(
        services.put(&key(Kind::Service, "web"), &bad).unwrap_err(),
        "spec.externalIPs is \"ten\", expected an address"
    );
    assert_eq!(services.with_address("203.0.113.5".parse().unwrap()).count(), 2, "the last good version stays");
}

#[derive(Clone, Debug)]
enum Op {
    Service { name: u8, address: u8, local: bool },
    Slice { name: u8, of: u8, node: u8, ready: bool, v4: bool },
    DropService(u8),
    DropSlice(u8),
    Refresh { node: u8, aggregate: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(name, address, local)| Op::Service { name, address, local }),
        (0..4_u8, 0..3_u8, 0..2_u8, any::<bool>(), any::<bool>()).prop_map(|(name, of, node, ready, v4)| Op::Slice {
            name,
            of,
            node,
            ready,
            v4
        }),
        (0..3_u8).prop_map(Op::DropService),
        (0..4_u8).prop_map(Op::DropSlice),
        (0..2_u8, any::<bool>()).prop_map(|(node, aggregate)| Op::Refresh { node, aggregate }),
    ]
}

proptest! {
    #[test]
    fn what_is_remembered_is_what_a_fresh_image_says(ops in prop::collection::vec(op(), 1..40)) {
        let mut services = Services::default();
        let mut last = BTreeSet::new();
        for op in ops {
            match op {
                Op::Service { name, address, local } => {
                    let policy = if local { "Local" } else { "Cluster" };
                    let address = format!("10.96.0.{address}");
                    let spec = json!({"clusterIP": address, "clusterIPs": [address], "externalTrafficPolicy": policy});
                    services.put(&key(Kind::Service, &name.to_string()), &service(spec, &[])).unwrap();
                }
                Op::Slice { name, of, node, ready, v4 } => {
                    let endpoints = json!([{"nodeName": node.to_string(), "conditions": {"ready": ready}}]);
                    let mut value = slice("x", if v4 { "IPv4" } else { "IPv6" }, endpoints);
                    value["metadata"]["labels"]["kubernetes.io/service-name"] = json!(of.to_string());
                    services.put(&key(Kind::EndpointSlice, &name.to_string()), &value).unwrap();
                }
                Op::DropService(name) => {
                    services.delete(&key(Kind::Service, &name.to_string()));
                }
                Op::DropSlice(name) => {
                    services.delete(&key(Kind::EndpointSlice, &name.to_string()));
                }
                Op::Refresh { node, aggregate } => {
                    let settings = if aggregate { settings(|_| {}) } else { without_aggregation() };
                    let node = node.to_string();
                    let changed = services.refresh(&settings, &node, false);
                    let now = services.originated(&settings, &node, false);
                    prop_assert!(changed || now == last, "a change is told");
                    let fresh = Services { view: None, ..services.clone() };
                    prop_assert_eq!(&now, &fresh.originated(&settings, &node, false));
                    prop_assert_eq!(&fresh, &services);
                    last = now;
                }
            }
        }
    }
}
