//! What does Kubernetes' Node say of a node's tunnel, and of what is wrong there?

use std::sync::PoisonError;

use anyhow::{Context, Result, bail, ensure};
use integration::servers::Server;
use integration::{Net, PATIENCE, StoreKind, wait};
use serde_json::Value;

use super::bed::{all_go_by, all_reach_all, pods_in, state};

#[test]
fn the_node_has_its_tunnels_address_and_names_what_is_found() -> Result<()> {
    let net = Net::new(StoreKind::Kubernetes)?;
    let nodes = [net.node("one")?, net.node("two")?];
    nodes[0].apply(&pods_in("Never", "Always"))?;
    for node in &nodes {
        node.start("felix", &[("CALICO_NETWORKING_BACKEND", "vxlan")])?;
        node.ready("felix", 9099)?;
    }
    let pods = [nodes[0].pod("a")?, nodes[1].pod("b")?];
    all_go_by(&pods, "vxlan.calico", "vxlan.calico")?;
    all_reach_all(&pods)?;

    let Some(Server::Kubernetes(server)) = net.server() else { bail!("this store is an API server") };
    let server = server.lock().unwrap_or_else(PoisonError::into_inner);
    let get = || server.request("GET", "/api/v1/nodes/one", &Value::Null);
    // As Calico annotates it, and as the device has it.
    let said = get()?;
    let address = said["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"].as_str().map(str::to_owned);
    let address = address.with_context(|| format!("the Node has no tunnel address: {said:#}"))?;
    let device = nodes[0].run("ip", &["-o", "-4", "address", "show", "dev", "vxlan.calico"])?;
    ensure!(device.contains(&format!(" {address}/32 ")), "{address} is not on the device: {device}");

    let becomes = |status: &str, words: &str| {
        let mut last = Value::Null;
        wait::becomes(PATIENCE, &format!("OcicatDataplane is {status}: {words}"), || {
            let said = get()?;
            let mut conditions = said["status"]["conditions"].as_array().into_iter().flatten();
            let found = conditions.find(|it| it["type"] == "OcicatDataplane");
            last = found.cloned().unwrap_or_default();
            Ok(last["status"] == status && last["message"].as_str().is_some_and(|message| message.contains(words)))
        })
        .with_context(|| format!("{last:#}\n{}", state(&nodes[0])))
    };
    becomes("True", "as desired")?;
    let flannel = "ip link add flannel.1 type vxlan id 1 dstport 8472; ip link set flannel.1 up
                   ip route add 10.99.2.0/24 dev flannel.1";
    nodes[0].run("sh", &["-ec", flannel])?;
    becomes("False", "Interface/flannel.1: left by flannel")?;
    ensure!(nodes[0].calicoctl(&["node", "status"])?.contains("flannel.1"), "calicoctl node status says the same");
    nodes[0].run("ip", &["link", "delete", "flannel.1"])?;
    becomes("True", "as desired")
}
