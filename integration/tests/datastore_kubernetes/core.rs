//! What is read of Kubernetes' own kinds, and with which rights?

use super::*;

#[tokio::test]
async fn kubernetes_own_kinds_are_read_and_watched_and_not_written() {
    let server = &*server().await;
    server.create_namespace("default").unwrap();
    let store = open(server, Group::Classic).await;
    let kinds = [Kind::Secret, Kind::Service, Kind::EndpointSlice];
    let mut updates = watch(&store, kinds.map(|kind| (kind, Filter::All)).to_vec());
    in_sync(&mut updates).await;
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    make(
        server,
        "/api/v1/namespaces/default/services",
        &json!({"metadata": metadata("web"), "spec":
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.8"], "ports": [{"port": 80}]}}),
    );
    let mut slice = json!({"metadata": metadata("web-1"), "addressType": "IPv4", "ports": [],
        "endpoints": [{"addresses": ["10.244.0.1"], "conditions": {"ready": true}, "nodeName": "node-1"}]});
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
    make(server, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice);
    let mut secret = json!({"metadata": metadata("bgp"), "stringData": {"rack": "hunter2"}});
    let copy = json!({"kubectl.kubernetes.io/last-applied-configuration": "{\"stringData\":{\"rack\":\"hunter2\"}}"});
    secret["metadata"]["annotations"] = copy;
    make(server, "/api/v1/namespaces/default/secrets", &secret);

    let key = |kind: Kind, name: &str| Key::namespaced(kind, "default", name);
    let keys = [key(Kind::Secret, "bgp"), key(Kind::Service, "web"), key(Kind::EndpointSlice, "web-1")];
    let mut missing = keys.to_vec();
    until(&mut updates, "the three objects", |update| {
        missing.retain(|key| put(update, key).is_none());
        missing.is_empty().then_some(())
    })
    .await;

    let service = store.get::<calico_api::ServiceSpec>(&keys[1]).await.unwrap();
    assert!(service.spec.cluster_addresses().next().is_some_and(|address| address.starts_with("10.96.")));
    assert_eq!(
        (service.spec.external_traffic_policy.as_deref(), &*service.spec.external_ips),
        (Some("Local"), &["192.0.2.8".to_owned()][..])
    );
    let mut object = raw(server, "/api/v1/namespaces/default/services/web");
    object["status"]["loadBalancer"] = json!({"ingress": [{"ip": "192.0.2.9"}]});
    server.request("PUT", "/api/v1/namespaces/default/services/web/status", &object).unwrap();
    let balanced = until(&mut updates, "the balancer's address", |update| {
        put(update, &keys[1]).filter(|value| value["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.9")
    });
    balanced.await;
    let slices = store.list::<calico_api::EndpointSliceSpec>(&Filter::Namespace("default".to_owned())).await.unwrap();
    let slice = slices.items.iter().find(|slice| slice.name() == "web-1").unwrap();
    assert_eq!((slice.service_name(), slice.spec.endpoints[0].node_name.as_deref()), (Some("web"), Some("node-1")));
    let secret = store.get::<calico_api::SecretSpec>(&keys[0]).await.unwrap();
    assert_eq!(secret.spec.value("rack"), Ok(Some(b"hunter2".to_vec())));
    let entry = store.backend().get(&keys[0]).await.unwrap();
    assert!(!entry.value["metadata"].to_string().contains("hunter2") && !format!("{entry:?}").contains("aHVu"));

    for (key, word) in keys.iter().zip(["secrets", "services", "endpointslices"]) {
        let value = store.backend().get(key).await.unwrap();
        let refused = [
            store.backend().create(key, value.value.clone()).await,
            store.backend().update(key, value.value.clone(), &value.revision).await,
            store.backend().delete(key, None).await,
        ];
        for refusal in refused {
            let text = refusal.unwrap_err().to_string();
            assert!(text.contains("kubectl") && text.contains(word), "{text}");
        }
        assert!(!store.backend().list(key.kind(), &Filter::named(key)).await.unwrap().entries.is_empty());
    }
    server.request("DELETE", "/api/v1/namespaces/default/secrets/bgp", &Value::Null).unwrap();
    until(&mut updates, "the secret's end", |update| deleted(update, &keys[0])).await;
}

#[tokio::test]
async fn a_role_for_one_secret_is_enough_to_follow_it() {
    let server = &*server().await;
    server.create_namespace("kube-system").unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["bgp-rack"], "verbs": ["get", "list", "watch"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system";
    make(server, &format!("{roles}/roles"), &json!({"metadata": {"name": "one-secret"}, "rules": rules}));
    let binding = json!({"metadata": {"name": "one-secret"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "one-secret"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "speaker"}]});
    make(server, &format!("{roles}/rolebindings"), &binding);

    let kubeconfig = std::fs::read_to_string(server.kubeconfig()).unwrap();
    let config = KubernetesConfig {
        kubeconfig_inline: Some(kubeconfig.replace("  user:\n    client", "  user:\n    as: speaker\n    client")),
        ..config(server, Some(Group::Classic))
    };
    let store = Store::new(Kubernetes::connect(&config).await.unwrap());
    let all = store.backend().list(Kind::Secret, &Filter::Namespace("kube-system".to_owned())).await;
    assert!(matches!(all, Err(Error::Unauthorized(_))), "the role is as narrow as it is meant to be: {all:?}");

    let key = Key::namespaced(Kind::Secret, "kube-system", "bgp-rack");
    let mut updates = watch(&store, vec![(Kind::Secret, Filter::named(&key))]);
    // A role may take a moment to be known to the server; until then it is a trouble.
    in_sync(&mut updates).await;
    let path = "/api/v1/namespaces/kube-system/secrets";
    make(server, path, &json!({"metadata": {"name": "bgp-other"}, "stringData": {"rack": "no"}}));
    make(server, path, &json!({"metadata": {"name": "bgp-rack"}, "stringData": {"rack": "hunter2"}}));
    let value = until(&mut updates, "the secret", |update| put(update, &key)).await;
    assert_eq!(value["data"]["rack"], json!("aHVudGVyMg=="));
    server.request("DELETE", &format!("{path}/bgp-rack"), &Value::Null).unwrap();
    until(&mut updates, "its end", |update| deleted(update, &key)).await;
}
