//! A node is rebooted: no namespace, no interface, no route, no `/run` is left of before; the disk and the store are.

use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration::{Net, Node, PATIENCE, Pod, StoreKind, wait};
use serde_json::json;

const POOL: &str =
    "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\nspec: {cidr: 10.244.0.0/16}\n";

/// The runtime's DEL for a sandbox of before: its namespace is gone.
fn del(node: &Node<'_>, container: &str, pod: &str) -> Result<()> {
    let netconf = json!({"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
        "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}});
    let mut child = node
        .command("/opt/cni/bin/calico")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("CNI_COMMAND", "DEL")
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", format!("/run/netns/cni-{pod}-of-before"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/opt/cni/bin")
        .env("CNI_ARGS", format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Of one that ends before it has read, the output says why.
    let _ = child.stdin.take().context("its input was to be written")?.write_all(netconf.to_string().as_bytes());
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "DEL of {pod}: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn is_assigned(node: &Node<'_>, address: IpAddr) -> Result<bool> {
    Ok(!node.calicoctl(&["ipam", "show", "--ip", &address.to_string()])?.contains("is not assigned"))
}

/// The pod addresses that the node routes alone.
fn routed(node: &Node<'_>) -> Result<Vec<String>> {
    let pods = |destination: &&str| destination.starts_with("10.244.") && !destination.contains('/');
    let routes = node.routes()?;
    let destinations = routes.iter().filter(|route| route["type"].is_null()).filter_map(|route| route["dst"].as_str());
    Ok(destinations.filter(pods).map(ToOwned::to_owned).collect())
}

#[test]
fn addresses_are_kept_and_sandboxes_of_before_are_released_one_by_one() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let disk = net.directory().join("disk");
    let library = "/var/lib/calico";
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        std::process::Command::new("cp").arg("-aT").arg(from).arg(to).status().map(|status| status.success())
    };
    let mut of_before = Vec::new();
    {
        let node = net.node("east")?;
        node.apply(POOL)?;
        node.start_felix()?;
        for name in ["again", "leaked", "remembered"] {
            let pod = node.pod(name)?;
            of_before.push((pod.container().to_owned(), pod.address()?));
            if name == "remembered" {
                node.kill("felix")?;
                pod.del()?;
            }
        }
        ensure!(copy(&node.holder().inside(library), &disk)?, "the disk was not kept");
    }
    let [(again, old), (_, leaked), (_, remembered)] = of_before.try_into().ok().context("three pods")?;

    let node = net.node("east")?;
    ensure!(copy(&disk, &node.holder().inside(library))?, "the disk was not kept");
    node.start_felix()?;
    wait::becomes(PATIENCE, "what was remembered before is released", || Ok(!is_assigned(&node, remembered)?))?;
    ensure!(is_assigned(&node, old)? && is_assigned(&node, leaked)?, "addresses were given away at the start");
    ensure!(routed(&node)?.is_empty(), "there are routes to pods without interfaces: {:?}", routed(&node)?);
    let blackhole = node.routes()?.iter().any(|route| route["type"] == "blackhole");
    ensure!(blackhole, "the node's block has no black hole");

    // The kubelet makes the pod's next sandbox, and tells of the end of the last one in whatever order.
    let next = node.pod("again")?;
    ensure!(![old, leaked].contains(&next.address()?), "an address of before was given out again");
    for _ in 0..2 {
        del(&node, &again, "again")?;
        wait::becomes(PATIENCE, "the old sandbox's address is released", || Ok(!is_assigned(&node, old)?))?;
        ensure!(is_assigned(&node, next.address()?)? && routed(&node)? == [next.address()?.to_string()]);
        next.ping(node.address().into())?;
    }
    // Nobody tells of this one: it is left for ipam-controller, and in nobody's way.
    ensure!(is_assigned(&node, leaked)?);
    let other = Pod::sandbox(&node, "other")?;
    other.add()?;
    next.ping(other.address()?)?;
    next.remove()?;
    other.remove()?;
    node.check()
}
