//! Services, EndpointSlices and Secrets, where no Kubernetes keeps them.

mod support;

use support::Cluster;

const RESOURCES: &str = "
apiVersion: v1
kind: Secret
metadata: {name: bgp, namespace: kube-system}
type: Opaque
data: {rr: c2VzYW1l}
stringData: {tor: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {type: LoadBalancer, clusterIP: 10.96.0.10, externalIPs: [192.0.2.10, 192.0.2.11], externalTrafficPolicy: Local, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.5], nodeName: worker-1}, {addresses: [10.244.1.5], nodeName: worker-2}]
";

#[test]
fn they_are_applied_shown_and_deleted() {
    let cluster = Cluster::with(RESOURCES);
    cluster.run("get svc -n shop -o wide").prints(
        "\
NAMESPACE   NAME   TYPE           CLUSTERIP    EXTERNALIPS             TRAFFICPOLICY   
shop        web    LoadBalancer   10.96.0.10   192.0.2.10,192.0.2.11   Local           

",
    );
    cluster.run("get endpointslices -n shop -o wide").prints(
        "\
NAMESPACE   NAME    SERVICE   ADDRESSTYPE   ENDPOINTS   
shop        web-1   web       IPv4          2           

",
    );
    let yaml = cluster.run("get service web -n shop -o yaml --export").out;
    cluster
        .feed("apply -f -", &yaml.replace("name: web", "name: web-2"))
        .prints("Successfully applied 1 'Service' resource(s)\n");
    cluster.run("label svc web -n shop a=b").prints("Successfully set label a on svc web\n");
    cluster.run("delete service web -n shop").prints("Successfully deleted 1 'Service' resource(s)\n");
    cluster.run("get services -A -o json").says_nothing_of("\"web\"");
}

#[test]
fn no_table_shows_a_secrets_value_and_documents_do() {
    let cluster = Cluster::with(RESOURCES);
    cluster.run("get secrets -A").prints("NAMESPACE     NAME   KEYS     \nkube-system   bgp    rr,tor   \n\n");
    cluster
        .run("get secret bgp -n kube-system -o wide")
        .prints("NAMESPACE     NAME   TYPE     KEYS     \nkube-system   bgp    Opaque   rr,tor   \n\n");
    let yaml = cluster.run("get secret bgp -n kube-system -o yaml");
    assert!(yaml.out.contains("rr: c2VzYW1l") && yaml.out.contains("tor: hunter2"), "{yaml:?}");
    assert_eq!(cluster.run("get secret -A -o custom-columns=DATA").code, Some(1));
    let wrong = RESOURCES.split("---").next().unwrap().replace("c2VzYW1l", "'%%sesame'");
    let ran = cluster.feed("apply -f -", &wrong);
    ran.fails_with(&["Data[rr]", "is not base64"]);
    assert!(!ran.err.contains("sesame"), "{ran:?}");
}
