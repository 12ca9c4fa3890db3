//! A node changes over from host-local to Calico's IPAM while its pods run: their addresses stay theirs.

use std::fs;

use anyhow::{Result, ensure};
use integration::{Net, Node, PATIENCE, StoreKind, wait};
use serde_json::json;

/// Small enough to be used up: 16 addresses, one block.
const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pods}\n\
                    spec: {cidr: 10.244.1.0/28, blockSize: 28}\n";
const FOLDER: &str = "/var/lib/cni/networks/k8s-pod-network";

fn holder(node: &Node<'_>, address: &str) -> Result<String> {
    node.calicoctl(&["ipam", "show", "--ip", address])
}

/// Felix, told to take over.
fn start(node: &Node<'_>) -> Result<()> {
    node.start("felix", &[("UPGRADE_HOST_LOCAL", "true")])?;
    node.ready("felix", 9099)
}

#[test]
fn the_addresses_of_host_local_are_its_pods_when_the_first_new_pod_comes() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    node.apply(POOL)?;
    let folder = node.holder().inside(FOLDER);
    fs::create_dir_all(&folder)?;
    // As host-local writes them; the last is of a range that is in no pool, and one file is broken.
    for address in ["10.244.1.0", "10.244.1.1", "10.244.1.2", "192.168.7.7"] {
        fs::write(folder.join(address), format!("old-{}\r\neth0", address.replace('.', "-")))?;
    }
    for (name, content) in [("lock", ""), ("last_reserved_ip.0", "10.244.1.2"), ("10.244.1.3", "")] {
        fs::write(folder.join(name), content)?;
    }
    // It may be in use: without being told felix leaves it alone.
    node.start_felix()?;
    ensure!(holder(&node, "10.244.1.1")?.contains("is not assigned") && folder.join("10.244.1.1").exists());
    node.terminate("felix")?;
    start(&node)?;
    // Twelve of sixteen are left, that of the broken file among them; none of the three is given again.
    let pod = node.pod("new")?;
    ensure!(!["10.244.1.0", "10.244.1.1", "10.244.1.2"].contains(&pod.address()?.to_string().as_str()));
    for address in ["10.244.1.0", "10.244.1.1", "10.244.1.2"] {
        ensure!(!holder(&node, address)?.contains("is not assigned"), "{address}");
        ensure!(!folder.join(address).exists());
    }
    ensure!(folder.join("192.168.7.7").exists(), "an address that IPAM does not know of stays host-local's");
    let felix = node.last_lines("felix");
    let mut pods = Vec::new();
    for number in 0..12 {
        pods.push(node.pod(&format!("pod-{number}")).map(|pod| pod.address()));
    }
    ensure!(pods.iter().filter(|pod| pod.is_ok()).count() == 12, "{pods:?}\n{felix}");
    ensure!(node.pod("one-too-many").is_err(), "thirteen new pods and three old ones have sixteen addresses");

    // An old container's DEL gives its address back, as of any other.
    let netconf = json!({ "cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
        "ipam": { "type": "calico-ipam" } });
    let mut command = node.command("sh");
    let script = format!("echo '{netconf}' | /opt/cni/bin/calico");
    command.args(["-c", &script]).env("CNI_COMMAND", "DEL").env("CNI_CONTAINERID", "old-10-244-1-1");
    command.env("CNI_IFNAME", "eth0").env("CNI_PATH", "/opt/cni/bin");
    let output = command.output()?;
    ensure!(output.status.success(), "{output:?}");
    wait::becomes(PATIENCE, "the old container's address is free", || {
        Ok(holder(&node, "10.244.1.1")?.contains("is not assigned"))
    })?;

    // With nothing left that IPAM does not know of the folder goes.
    node.terminate("felix")?;
    fs::remove_file(folder.join("192.168.7.7"))?;
    start(&node)?;
    wait::becomes(PATIENCE, "host-local's folder is gone", || Ok(!folder.exists()))?;
    node.check()
}
