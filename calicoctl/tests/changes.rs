//! patch and label: texts, exit codes, and what they leave in the store.

mod support;

use support::Cluster;

const RESOURCES: &str = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: worker-1, labels: {rack: a}}
spec: {bgp: {ipv4Address: 10.0.0.11/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.9.1, asNumber: 65001, nodeSelector: rack == \"a\"}
---
apiVersion: projectcalico.org/v3
kind: NetworkSet
metadata: {name: office, namespace: shop}
spec: {nets: [192.0.2.0/24, 198.51.100.0/24]}
";

fn json(cluster: &Cluster, words: &str) -> serde_json::Value {
    serde_json::from_str(&cluster.run(&format!("get {words} -o json")).out).unwrap()
}

#[test]
fn a_node_becomes_a_reflector_as_the_documents_say() {
    let cluster = Cluster::with(RESOURCES);
    cluster
        .run(r#"patch node worker-1 -p {"spec":{"bgp":{"routeReflectorClusterID":"244.0.0.1"}}}"#)
        .prints("Successfully patched 1 'Node' resource\n");
    cluster
        .run("label nodes worker-1 route-reflector=true")
        .prints("Successfully set label route-reflector on nodes worker-1\n");
    let node = json(&cluster, "node worker-1");
    assert_eq!(node["spec"]["bgp"]["routeReflectorClusterID"], "244.0.0.1");
    assert_eq!(node["spec"]["bgp"]["ipv4Address"], "10.0.0.11/24", "the rest stays");
    assert_eq!(node["metadata"]["labels"], serde_json::json!({"rack": "a", "route-reflector": "true"}));
}

#[test]
fn every_type_of_patch_does_what_its_rfc_says() {
    let cluster = Cluster::with(RESOURCES);
    let patch = |words: &str| cluster.run(&format!("patch {words}"));
    patch(r#"netset office -n shop -p {"spec":{"nets":["203.0.113.0/24"]}}"#)
        .prints("Successfully patched 1 'NetworkSet' resource\n");
    assert_eq!(json(&cluster, "netset office -n shop")["spec"]["nets"], serde_json::json!(["203.0.113.0/24"]));
    patch(r#"bgppeer tor --type merge --patch {"spec":{"nodeSelector":null,"node":"worker-1"}}"#)
        .prints("Successfully patched 1 'BGPPeer' resource\n");
    let peer = json(&cluster, "bgppeer tor");
    assert_eq!((&peer["spec"]["node"], peer["spec"].get("nodeSelector")), (&"worker-1".into(), None));
    patch(r#"bgppeer tor -t json -p [{"op":"test","path":"/spec/asNumber","value":65001},{"op":"replace","path":"/spec/asNumber","value":65002}]"#)
        .prints("Successfully patched 1 'BGPPeer' resource\n");
    let revision = |cluster: &Cluster| json(cluster, "bgppeer tor")["metadata"]["resourceVersion"].clone();
    let before = revision(&cluster);
    patch(r#"bgppeer tor -p {"spec":{"asNumber":65002}}"#).prints("Successfully patched 1 'BGPPeer' resource\n");
    assert_eq!(revision(&cluster), before, "what is so already is not written");

    for (words, said) in [
        (
            r#"bgppeer tor -t json -p [{"op":"test","path":"/spec/asNumber","value":1}]"#,
            "hit error: operation 1 of the patch: /spec/asNumber is 65002, not 1",
        ),
        (r#"bgppeer tor -p {"spec":{"peerIPP":"10.0.0.1"}}"#, "peerIPP"),
        (r#"bgppeer tor -p {"spec":{"peerIP":"nowhere"}}"#, "error with field PeerIP = 'nowhere'"),
        (r#"bgppeer tor -p {"spec":{"filters":["none"]}}"#, "BGPFilter(s) not found: none"),
        (r#"bgppeer tor -p {"metadata":{"name":"other"}}"#, "a patch cannot change kind, name or namespace"),
        (r#"bgppeer tor -p [1]"#, "the patch must be an object"),
        (r#"bgppeer tor -p {"#, "the patch is neither JSON nor YAML"),
        (r#"bgppeer tor-9 -p {"spec":{}}"#, "hit error: resource does not exist: BGPPeer(tor-9) with error: "),
        (r#"bgppear tor -p {}"#, "resource type 'bgppear' is not supported"),
        (
            r#"clusterinformation default -p {"spec":{"clusterType":"x"}}"#,
            "is not supported on ClusterInformation(default)",
        ),
        (r#"bgppeer tor -t apply -p {}"#, "apply"),
        ("bgppeer tor", "--patch"),
    ] {
        patch(words).fails_with(&[said]);
    }
    assert_eq!(revision(&cluster), before);
}

#[test]
fn a_label_is_set_updated_and_removed_in_the_words_of_calico() {
    let cluster = Cluster::with(RESOURCES);
    let label = |words: &str| cluster.run(&format!("label {words}"));
    label("nodes worker-1 rack=a").prints("Successfully set label rack on nodes worker-1\n");
    label("nodes worker-1 rack=b").fails(
        "failed to update label on nodes worker-1, key rack is already present. please use '--overwrite' to set a new value.\n",
    );
    label("node worker-1 rack=b --overwrite").prints("Successfully updated label rack on node worker-1\n");
    label("nodes worker-1 rack --remove").prints("Successfully removed label rack from nodes worker-1\n");
    label("nodes worker-1 rack --remove").fails("can not remove label from nodes worker-1, key rack does not exist.\n");
    assert_eq!(json(&cluster, "node worker-1")["metadata"].get("labels"), None);
    label("netset office -n shop team=x").prints("Successfully set label team on netset office\n");
    label("nodes worker-1 rack").fails_with(&["invalid label rack"]);
    label("nodes worker-1 ra/ck/=b").fails_with(&["error with field"]);
    label("nodes worker-9 rack=b").fails_with(&["resource does not exist: Node(worker-9)"]);
    label("nodes worker-1 rack=b --overwrite --remove").fails_with(&["--overwrite", "--remove"]);
    assert_eq!(label("nodes worker-1").code, Some(1));
}
