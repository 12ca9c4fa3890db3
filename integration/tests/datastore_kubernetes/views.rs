//! What is made of nodes, pods, namespaces and service accounts?

use super::metadata::mirrored;
use super::*;

#[tokio::test]
async fn a_node_goes_round_through_its_annotations() {
    let server = &*server().await;
    let store = open(server, Group::Classic).await;
    server.create_node("round").unwrap();
    let key = Key::named(Kind::Node, "round");
    let mut updates = watch(&store, vec![(Kind::Node, Filter::All)]);
    in_sync(&mut updates).await;
    let mut node: Node = store.get(&key).await.unwrap();
    assert_eq!(node.spec.bgp, None);
    assert_eq!(node.spec.orch_refs[0].orchestrator, "k8s");
    assert_eq!(node.metadata.labels["kubernetes.io/hostname"], "round");

    let before = node.clone();
    node.spec.bgp = serde_json::from_value(json!({"ipv4Address": "192.0.2.1/24", "asNumber": 64513})).unwrap();
    node.spec.vxlan_tunnel_mac_addr = Some("66:0b:4c:00:00:01".to_owned());
    node.metadata.labels.insert("rack".to_owned(), "r1".to_owned());
    let written = store.update(&node).await.unwrap();
    assert_eq!(written.spec.bgp, node.spec.bgp);
    assert_eq!(written.metadata.labels, node.metadata.labels);
    let seen = until(&mut updates, "the change", |update| {
        put(update, &key).filter(|value| value["spec"]["bgp"]["ipv4Address"] == "192.0.2.1/24")
    });
    seen.await;
    let annotations = raw(server, "/api/v1/nodes/round")["metadata"]["annotations"].clone();
    assert_eq!(
        annotations,
        json!({
            "projectcalico.org/IPv4Address": "192.0.2.1/24", "projectcalico.org/ASNumber": "64513",
            "projectcalico.org/VXLANTunnelMACAddr": "66:0b:4c:00:00:01", "projectcalico.org/labels": "{\"rack\":\"r1\"}",
        }),
        "nothing else, above all not Kubernetes' own labels"
    );

    assert!(matches!(store.update(&before).await, Err(Error::Conflict(_))), "of an old version");
    let mut bare = written;
    bare.spec.bgp = None;
    store.update(&bare).await.unwrap();
    let annotations = raw(server, "/api/v1/nodes/round")["metadata"]["annotations"].clone();
    assert_eq!(annotations.get("projectcalico.org/IPv4Address"), None);
    assert_eq!(annotations["projectcalico.org/VXLANTunnelMACAddr"], "66:0b:4c:00:00:01");

    assert!(matches!(store.create(&bare).await, Err(Error::NotSupported { .. })));
    assert!(matches!(store.delete_key(&key).await, Err(Error::NotSupported { .. })));
    server.delete_node("round").unwrap();
    until(&mut updates, "the end of the node", |update| deleted(update, &key)).await;
}

#[tokio::test]
async fn a_pod_lives_as_a_workload_endpoint() {
    let server = &*server().await;
    let store = open(server, Group::Native).await;
    let (pod, other) = ("/api/v1/namespaces/default/pods/web-0", "elsewhere");
    let key = Key::namespaced(Kind::WorkloadEndpoint, "default", "node--1-k8s-web--0-eth0");
    let mut updates = watch(&store, vec![(Kind::WorkloadEndpoint, Filter::Node("node-1".to_owned()))]);
    in_sync(&mut updates).await;
    server.create_pod("default", other, "node-2").unwrap();
    server.create_pod("default", "web-0", "node-1").unwrap();
    let bound = until(&mut updates, "the pod", |update| match update {
        Update::Put(entry) => Some(entry.clone()),
        _ => None,
    });
    assert_eq!(bound.await.key, key, "only pods of the node are watched");

    let mut endpoint = WorkloadEndpoint::new(ObjectMeta::named(key.name()), WorkloadEndpointSpec::default());
    endpoint.metadata.namespace = Some("default".to_owned());
    endpoint.spec.ip_networks = vec!["10.244.0.2/32".to_owned(), "fd00::2/128".to_owned()];
    endpoint.spec.container_id = "4f1c0e".to_owned();
    let written = store.create(&endpoint).await.unwrap();
    assert_eq!(written.spec.ip_networks, endpoint.spec.ip_networks);
    assert_eq!(written.spec.interface_name, "cali0d7763386da");
    let annotations = raw(server, pod)["metadata"]["annotations"].clone();
    assert_eq!(
        annotations,
        json!({
            "cni.projectcalico.org/podIP": "10.244.0.2/32",
            "cni.projectcalico.org/podIPs": "10.244.0.2/32,fd00::2/128",
            "cni.projectcalico.org/containerID": "4f1c0e",
        })
    );
    let addressed = |value: &Value| value["spec"]["ipNetworks"][0] == "10.244.0.2/32";
    until(&mut updates, "the addresses", |update| put(update, &key).filter(addressed)).await;

    server.terminate_pod("default", "web-0").unwrap();
    let terminating = until(&mut updates, "the terminating pod", |update| put(update, &key)).await;
    assert!(addressed(&terminating), "a terminating pod keeps its connections");
    assert!(matches!(store.delete(&written).await, Err(Error::Conflict(_))), "of an old version");
    store.delete_key(&key).await.unwrap();
    let annotations = raw(server, pod)["metadata"]["annotations"].clone();
    assert_eq!(
        (&annotations["cni.projectcalico.org/podIP"], &annotations["cni.projectcalico.org/podIPs"]),
        (&json!(""), &json!(""))
    );
    assert_eq!(annotations["cni.projectcalico.org/containerID"], "4f1c0e");
    let cleared = until(&mut updates, "the cleared endpoint", |update| put(update, &key)).await;
    assert_eq!(cleared["spec"].get("ipNetworks"), None);

    server.delete_pod("default", "web-0").unwrap();
    until(&mut updates, "the end of the pod", |update| deleted(update, &key)).await;
    assert!(matches!(store.create(&endpoint).await, Err(Error::NotFound(_))), "there is no pod to write to");
    let key = Key::namespaced(Kind::WorkloadEndpoint, "default", "node--1-k8s-elsewhere-eth0");
    assert!(matches!(store.get::<WorkloadEndpointSpec>(&key).await, Err(Error::NotFound(_))), "it is on another node");
    server.delete_pod("default", other).unwrap();
}

#[tokio::test]
async fn namespaces_and_service_accounts_are_profiles() {
    let server = &*server().await;
    let store = open(server, Group::Classic).await;
    let backend = store.backend();
    let mut updates = watch(&store, vec![(Kind::Profile, Filter::All)]);
    let builtin = Key::named(Kind::Profile, "projectcalico-default-allow");
    until(&mut updates, "the built-in profile", |update| put(update, &builtin)).await;
    in_sync(&mut updates).await;

    server.create_namespace("shop").unwrap();
    let namespace = Key::named(Kind::Profile, "kns.shop");
    let value = until(&mut updates, "the namespace", |update| put(update, &namespace)).await;
    assert_eq!(value["spec"]["labelsToApply"]["pcns.projectcalico.org/name"], "shop");
    let uid = raw(server, "/api/v1/namespaces/shop")["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(value["metadata"]["uid"].as_str(), Some(&*mirrored(&uid)));
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "till", "labels": {"team": "a"}}});
    server.request("POST", "/api/v1/namespaces/shop/serviceaccounts", &account).unwrap();
    let account = Key::named(Kind::Profile, "ksa.shop.till");
    let value = until(&mut updates, "the service account", |update| put(update, &account)).await;
    assert_eq!(value["spec"]["labelsToApply"]["pcsa.team"], "a");
    let listing = backend.list(Kind::Profile, &Filter::All).await.unwrap();
    for key in [&builtin, &namespace, &account] {
        assert!(listing.entries.iter().any(|entry| entry.key == *key), "{key}");
        assert_eq!(backend.get(key).await.unwrap().key, *key);
    }
    assert!(matches!(backend.update(&account, value, &Revision::default()).await, Err(Error::NotSupported { .. })));
    server.request("DELETE", "/api/v1/namespaces/shop/serviceaccounts/till", &Value::Null).unwrap();
    until(&mut updates, "the end of the service account", |update| deleted(update, &account)).await;
    assert!(matches!(backend.get(&account).await, Err(Error::NotFound(_))));
}
