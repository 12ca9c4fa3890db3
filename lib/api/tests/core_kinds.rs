//! Kubernetes' own kinds, as `kubectl get -o yaml` prints them and as people write them.

use calico_api::{
    AnyResource, EndpointSlice, Key, Kind, Secret, Service, documents, placed_documents, to_yaml, validate,
};
use serde_json::json;

/// What kubectl prints of two objects, with fields that we do not know and lists that are null.
const PRINTED: &str = r#"
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Service
  metadata:
    name: web
    namespace: shop
    managedFields: [{manager: kubectl, operation: Update}]
  spec:
    clusterIP: 10.96.4.1
    clusterIPs: [10.96.4.1, 'fd00:96::1']
    externalIPs: null
    externalTrafficPolicy: Local
    internalTrafficPolicy: Cluster
    ipFamilies: [IPv4, IPv6]
    ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
    selector: {app: web}
    type: LoadBalancer
  status:
    conditions: []
    loadBalancer: {ingress: [{ip: 192.0.2.9, ipMode: VIP}, {hostname: a.example}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata:
    name: web-x7
    namespace: shop
    labels: {kubernetes.io/service-name: web}
  addressType: IPv4
  endpoints:
  - addresses: [10.244.1.7]
    conditions: {ready: false, serving: true, terminating: true}
    nodeName: node-1
    targetRef: {kind: Pod, name: web-0}
    zone: west
  - addresses: [10.244.2.7]
    conditions: {}
  ports: [{name: http, port: 8080, protocol: TCP}]
"#;

#[test]
fn what_kubectl_prints_is_read_and_what_we_write_is_read_again() {
    let read = documents(PRINTED).unwrap();
    assert_eq!(
        read.iter().map(AnyResource::key).collect::<Vec<_>>(),
        [Key::namespaced(Kind::Service, "shop", "web"), Key::namespaced(Kind::EndpointSlice, "shop", "web-x7"),]
    );
    assert!(read.iter().all(|resource| validate(resource).is_empty()));
    let service: Service = read[0].clone().into_typed().unwrap();
    assert_eq!(service.spec.cluster_addresses().collect::<Vec<_>>(), ["10.96.4.1", "fd00:96::1"]);
    assert_eq!(service.ingress_addresses().collect::<Vec<_>>(), ["192.0.2.9"]);
    let slice: EndpointSlice = read[1].clone().into_typed().unwrap();
    assert_eq!(slice.service_name(), Some("web"));
    let conditions = slice.spec.endpoints.iter().map(|endpoint| endpoint.conditions);
    let states: Vec<_> = conditions.map(|it| (it.is_ready(), it.is_serving(), it.is_terminating())).collect();
    assert_eq!(states, [(false, true, true), (true, true, false)]);

    let written: String = read.iter().map(|resource| format!("---\n{}\n", to_yaml(&resource.to_value()))).collect();
    let again: Vec<_> = documents(&written).unwrap().iter().map(AnyResource::to_value).collect();
    assert_eq!(again, read.iter().map(AnyResource::to_value).collect::<Vec<_>>());
    assert_eq!(read[1].to_value()["endpoints"][0]["nodeName"], json!("node-1"));
    let again = placed_documents(&written).unwrap();
    assert_eq!(again.iter().map(|placed| (placed.document, placed.line)).collect::<Vec<_>>(), [(1, 1), (2, 22)]);
}

#[test]
fn a_headless_service_has_no_cluster_address() {
    let service = |spec: serde_json::Value| -> Service {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec}))
            .unwrap()
    };
    for spec in [
        json!({}),
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"clusterIP": ""}),
        json!({"clusterIPs": null}),
    ] {
        let service = service(spec);
        assert!(service.spec.is_headless() && service.spec.cluster_addresses().next().is_none());
    }
    let old = service(json!({"clusterIP": "10.96.0.1"}));
    assert_eq!(old.spec.cluster_addresses().collect::<Vec<_>>(), ["10.96.0.1"]);
}

#[test]
fn a_core_kind_is_known_by_its_own_version_and_a_fault_by_its_place() {
    let error = |text: &str| documents(text).unwrap_err().to_string();
    assert_eq!(
        error("apiVersion: projectcalico.org/v3\nkind: Secret\nmetadata: {name: a}\n"),
        "unknown resource type (Secret) and/or version (projectcalico.org/v3) (document 1, from line 1)"
    );
    assert!(error("apiVersion: v1\nkind: EndpointSlice\nmetadata: {name: a}\n").starts_with("unknown resource type"));
    let wrong =
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a}\nendpoints: [{nodeName: [x]}]\n";
    assert_eq!(
        error(wrong),
        "EndpointSlice(a): endpoints[0].nodeName: invalid type: sequence, expected a string (document 1, from line 1)"
    );
    let value = json!({"kind": "Secret", "metadata": {"name": "a", "namespace": "b"}, "data": null});
    let Ok(AnyResource::Secret(secret)) = AnyResource::from_value(value) else { panic!("a store may leave it out") };
    assert_eq!(*secret, Secret { metadata: secret.metadata.clone(), spec: Default::default(), status: None });
    assert!(!Kind::ALL.iter().any(|kind| kind.is_core()) && Kind::CORE.iter().all(|kind| kind.namespaced()));
    assert!(Kind::every().all(|kind| Kind::from_name(kind.as_str()) == Some(kind)));
}

#[test]
fn core_kinds_are_checked_without_showing_what_is_secret() {
    let faults = |text: &str| -> Vec<String> {
        let read = documents(text).unwrap();
        read.iter().flat_map(validate).map(|fault| fault.to_string()).collect()
    };
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b}\ndata: {k: 'hunter2!'}\n";
    assert_eq!(faults(secret), ["Data[k] = '…' (is not base64; encode it, or put it into stringData)"]);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: b}\n\
                   spec: {type: Balanced, externalTrafficPolicy: local, clusterIP: None, externalIPs: [x]}\n";
    let found = faults(service);
    assert_eq!(found.len(), 3, "{found:?}");
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a, namespace: b}\n\
                 addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]\n";
    assert_eq!(faults(slice), ["Endpoints[].Addresses = 'fd00::1' (must be an IPv4 address)"]);
}
