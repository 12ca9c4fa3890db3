//! What pods and namespaces ask of their network in annotations, and what is written to pods: with a real kube-apiserver.

use std::net::IpAddr;
use std::sync::PoisonError;

use anyhow::{Context, Result, ensure};
use integration::servers::Server;
use integration::servers::kubernetes::ApiServer;
use integration::{Net, Node, PATIENCE, Pod, StoreKind, wait};
use serde_json::{Value, json};

const POOLS: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.244.0.0/16, namespaceSelector: \"kubernetes.io/metadata.name == 'default'\"}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: special}
spec: {cidr: 10.245.0.0/24, nodeSelector: '!all()'}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: elsewhere}
spec: {cidr: 10.243.0.0/24, namespaceSelector: \"kubernetes.io/metadata.name == 'other'\"}
";

/// Does something with the API server.
fn server<T>(net: &Net, work: impl FnOnce(&ApiServer) -> Result<T>) -> Result<T> {
    match net.server() {
        Some(Server::Kubernetes(server)) => work(&server.lock().unwrap_or_else(PoisonError::into_inner)),
        other => anyhow::bail!("no API server but {other:?}"),
    }
}

fn patch(net: &Net, path: &str, annotations: &Value) -> Result<()> {
    server(net, |server| {
        let mut object = server.request("GET", path, &Value::Null)?;
        for (name, text) in annotations.as_object().into_iter().flatten() {
            object["metadata"]["annotations"][format!("cni.projectcalico.org/{name}")] = text.clone();
        }
        server.request("PUT", path, &object).map(drop)
    })
}

/// The annotations of a pod.
fn annotation(net: &Net, pod: &str, name: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/default/pods/{pod}");
    let object = server(net, |server| server.request("GET", &path, &Value::Null))?;
    let text = object["metadata"]["annotations"][format!("cni.projectcalico.org/{name}")].as_str();
    Ok(text.unwrap_or("(none)").to_owned())
}

/// A pod with annotations that no plugin was called for.
fn sandbox<'node, 'net>(node: &'node Node<'net>, name: &str, annotations: Value) -> Result<Pod<'node, 'net>> {
    let pod = Pod::sandbox(node, name)?;
    patch(node.net(), &format!("/api/v1/namespaces/default/pods/{name}"), &annotations)?;
    Ok(pod)
}

fn is_assigned(node: &Node<'_>, address: &str) -> Result<bool> {
    Ok(!node.calicoctl(&["ipam", "show", "--ip", address])?.contains("is not assigned"))
}

#[test]
fn pods_get_the_addresses_that_annotations_ask_for_and_show_them() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    node.apply(POOLS)?;
    node.start_felix()?;
    let within = |pod: &Pod<'_, '_>, start: &str| -> Result<()> {
        let address = pod.address()?.to_string();
        ensure!(address.starts_with(start), "pod {} has {address}", pod.name());
        pod.ping(node.address().into()).map(drop)
    };
    // Nothing is asked for: the pool of the pod's namespace, and what Calico writes.
    let plain = node.pod("plain")?;
    within(&plain, "10.244.")?;
    let written = format!("{}/32", plain.address()?);
    for name in ["podIP", "podIPs"] {
        ensure!(annotation(&net, "plain", name)? == written);
    }
    ensure!(annotation(&net, "plain", "containerID")? == plain.container());
    plain.del()?;
    wait::becomes(PATIENCE, "podIP is cleared, not removed", || Ok(annotation(&net, "plain", "podIP")?.is_empty()))?;

    // Its own pool and Ethernet address; then its namespace's pool, which its own overrides.
    let wishes = json!({ "ipv4pools": "[\"10.245.0.0/24\"]", "hwAddr": "0a:58:0a:f4:00:05" });
    let chosen = sandbox(&node, "chosen", wishes)?;
    chosen.add()?;
    within(&chosen, "10.245.0.")?;
    ensure!(chosen.run("ip", &["link", "show", "dev", "eth0"])?.contains("0a:58:0a:f4:00:05"));
    patch(&net, "/api/v1/namespaces/default", &json!({ "ipv4pools": "[\"special\"]" }))?;
    let led = node.pod("led")?;
    within(&led, "10.245.0.")?;
    let own = sandbox(&node, "own", json!({ "ipv4pools": "[\"pods\"]" }))?;
    own.add()?;
    within(&own, "10.244.")?;

    // Exactly this address; its next sandbox has it while the old one's DEL has not come.
    let fixed = sandbox(&node, "fixed", json!({ "ipAddrs": "[\"10.244.7.9\"]" }))?;
    fixed.add()?;
    ensure!(fixed.address()? == "10.244.7.9".parse::<IpAddr>()?);
    fixed.ping(node.address().into())?;
    let anew = renewed(&fixed)?;
    let result = anew.call("ADD")?.map_err(anyhow::Error::msg)?;
    ensure!(result.contains("10.244.7.9/32"), "{result}");
    fixed.del()?;
    ensure!(is_assigned(&node, "10.244.7.9")?, "the old sandbox's DEL took the new one's address");
    ensure!(annotation(&net, "fixed", "containerID")? == anew.container);
    anew.call("DEL")?.map_err(anyhow::Error::msg)?;
    wait::becomes(PATIENCE, "the address is free", || Ok(!is_assigned(&node, "10.244.7.9")?))?;
    node.check()
}

#[test]
fn limits_and_foreign_sources_stand_in_the_endpoint_and_only_sources_can_keep_a_pod_from_starting() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    node.apply(POOLS)?;
    node.start_felix()?;
    let pod = sandbox(&node, "limited", json!({ "allowedSourcePrefixes": "[\"10.9.0.0/16\", \"192.0.2.7\"]" }))?;
    let path = "/api/v1/namespaces/default/pods/limited";
    server(&net, |server| {
        let mut object = server.request("GET", path, &Value::Null)?;
        let annotations = &mut object["metadata"]["annotations"];
        annotations["qos.projectcalico.org/ingressBandwidth"] = json!("10M");
        annotations["qos.projectcalico.org/egressPacketRate"] = json!("1M");
        annotations["kubernetes.io/egress-bandwidth"] = json!("as much as you can");
        server.request("PUT", path, &object).map(drop)
    })?;
    pod.add()?;
    pod.ping(node.address().into())?;
    let text = node.calicoctl(&["get", "workloadendpoint", "--namespace", "default", "--output", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    let endpoint = list["items"].as_array().and_then(|items| items.iter().find(|one| one["spec"]["pod"] == "limited"));
    let spec = &endpoint.context("no endpoint")?["spec"];
    ensure!(spec["allowSpoofedSourcePrefixes"] == json!(["10.9.0.0/16", "192.0.2.7/32"]), "{spec:#}");
    let limits = json!({ "ingressBandwidth": 10_000_000, "ingressBurst": 4_294_967_296_u64,
        "egressPacketRate": 10_000, "egressPacketBurst": 5 });
    ensure!(spec["qosControls"] == limits, "{spec:#}");
    let log = node.last_lines("felix");
    ensure!(log.contains("as much as you can") && log.contains("counts as 10000"), "{log}");

    let wrong = sandbox(&node, "wrong", json!({ "allowedSourcePrefixes": "10.9.0.0/16" }))?;
    let error = wrong.add().err().context("ADD was to fail")?.to_string();
    ensure!(error.contains("allowedSourcePrefixes") && error.contains("JSON list"), "{error}");
    node.check()
}

#[test]
fn gc_clears_the_annotations_of_a_pod_whose_sandbox_is_forgotten_and_of_no_other() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    node.apply(POOLS)?;
    node.start_felix()?;
    let (kept, lost) = (node.pod("kept")?, node.pod("lost")?);
    let address = lost.address()?.to_string();
    node.run("ip", &["netns", "del", "cni-lost"])?;
    wait::becomes(PATIENCE, "the interface has gone with its namespace, and its route with it", || {
        Ok(!node.run("ip", &["route"])?.lines().any(|route| route.starts_with(&format!("{address} "))))
    })?;
    ensure!(is_assigned(&node, &address)?);
    let netconf = json!({ "cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "calico",
        "ipam": { "type": "calico-ipam" },
        "cni.dev/valid-attachments": [{ "containerID": kept.container(), "ifname": "eth0" }] });
    for _ in 0..2 {
        let output = kept.exec_raw("calico", "GC", netconf.to_string().as_bytes())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        ensure!(!is_assigned(&node, &address)? && annotation(&net, "lost", "podIP")?.is_empty());
        ensure!(annotation(&net, "kept", "podIP")? == format!("{}/32", kept.address()?));
    }
    kept.ping(node.address().into())?;
    node.check()
}

/// A second sandbox of a pod.
struct Renewed<'a> {
    pod: &'a Pod<'a, 'a>,
    container: String,
}

fn renewed<'a>(pod: &'a Pod<'a, 'a>) -> Result<Renewed<'a>> {
    pod.node().run("ip", &["netns", "add", "cni-renewed"])?;
    Ok(Renewed { pod, container: format!("new{}", pod.container()) })
}

impl Renewed<'_> {
    fn call(&self, verb: &str) -> Result<Result<String, String>> {
        let netconf = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
            "ipam": { "type": "calico-ipam" } });
        let arguments = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", self.pod.name());
        let script = format!(
            "echo '{netconf}' | CNI_COMMAND={verb} CNI_CONTAINERID={} CNI_IFNAME=eth0 CNI_NETNS=/run/netns/cni-renewed \
             CNI_PATH=/opt/cni/bin CNI_ARGS='{arguments}' /opt/cni/bin/calico",
            self.container
        );
        let output = self.pod.node().command("sh").args(["-c", &script]).output().context("sh")?;
        let text = String::from_utf8(output.stdout)?;
        Ok(if output.status.success() { Ok(text) } else { Err(text) })
    }
}

#[test]
fn an_annotation_that_cannot_be_fulfilled_fails_the_pod_with_its_name_and_leaves_nothing() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let node = net.node("east")?;
    node.apply(POOLS)?;
    node.start_felix()?;
    for (number, (annotations, text)) in [
        (json!({ "ipv4pools": "special" }), "cni.projectcalico.org/ipv4pools"),
        (json!({ "ipv4pools": "[\"nowhere\"]" }), "nowhere"),
        (json!({ "ipAddrs": "[\"192.0.2.1\"]" }), "192.0.2.1"),
        (json!({ "ipAddrs": "[\"10.244.1.1\",\"10.244.1.2\"]" }), "at most one IPv4"),
        (json!({ "ipAddrsNoIpam": "[\"192.0.2.1\"]" }), "feature_control.ip_addrs_no_ipam"),
        (json!({ "hwAddr": "x" }), "cni.projectcalico.org/hwAddr"),
        (json!({ "ipFamilies": "[\"IPv6\"]" }), "IPv6"),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = sandbox(&node, &format!("bad{number}"), annotations)?;
        let error = pod.add().err().context("it was to fail")?.to_string();
        ensure!(error.contains(text), "{text}: {error}");
        ensure!(annotation(&net, pod.name(), "containerID")? == "(none)");
        pod.del()?;
    }
    // The pod is not there at all.
    let gone = ghost(&node)?;
    ensure!(gone.contains("there is no such pod on node east"), "{gone}");
    let blocks = node.calicoctl(&["ipam", "show", "--show-blocks"])?;
    ensure!(blocks.contains("IP Pool") && !blocks.contains("Block"), "{blocks}");
    node.check()
}

/// What ADD says for a pod that is not there.
fn ghost(node: &Node<'_>) -> Result<String> {
    let pod = Pod::sandbox(node, "ghost")?;
    server(node.net(), |server| server.delete_pod("default", "ghost"))?;
    Ok(pod.add().err().context("it was to fail")?.to_string())
}
