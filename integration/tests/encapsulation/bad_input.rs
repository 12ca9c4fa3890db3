//! What cannot be is refused with its field named; what is in the store all the same changes nothing.

use anyhow::{Context, Result, ensure};
use integration::{Net, Node, PATIENCE, StoreKind, sqlite, wait};
use serde_json::Value;

use crate::bed::{
    POOL, all_go_by, all_reach_all, device, felix_configuration, pods_in, pool, reaches, state, without_loss,
};

#[test]
fn calicoctl_refuses_what_cannot_be_and_names_the_field() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("one")?;
    let cases = [
        (pods_in("Always", "Always"), "Mode"),
        (pods_in("CrossSubnet", "Always"), "Mode"),
        (pods_in("Sometimes", "Never"), "ipipMode"),
        (pool("six", "fd00:244::/48", "ipipMode: Always"), "ipipMode"),
        (pool("small", "10.244.0.0/27", ""), "cidr"),
        (felix_configuration("vxlanVNI: 16777216"), "vxlanVNI"),
        (felix_configuration("vxlanPort: 0"), "vxlanPort"),
        (felix_configuration("vxlanPort: 70000"), "vxlanPort"),
        (felix_configuration("vxlanMTUV6: 1000"), "vxlanMTUV6"),
        (felix_configuration("programClusterRoutes: Perhaps"), "programClusterRoutes"),
    ];
    let mut wrong = Vec::new();
    for (yaml, field) in cases {
        match node.apply(&yaml) {
            Ok(_) => wrong.push(format!("{field}: it was taken:\n{yaml}")),
            // Named as Calico names it there: `VXLANPort`.
            Err(error) if !format!("{error:#}").to_lowercase().contains(&field.to_lowercase()) => {
                wrong.push(format!("{field} is not named in {error:#}"))
            }
            Err(_) => {}
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(node.apply(&pods_in("Never", "Always"))?.contains("1"), "what can be is taken");
    Ok(())
}

#[test]
fn a_pool_that_cannot_be_keeps_its_last_good_version_and_is_told() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let nodes = [net.node("one")?, net.node("two")?];
    nodes[0].apply(&pods_in("Never", "Always"))?;
    for node in &nodes {
        node.start("felix", &[("CALICO_NETWORKING_BACKEND", "vxlan")])?;
        node.ready("felix", 9099)?;
    }
    let pods = [nodes[0].pod("a")?, nodes[1].pod("b")?];
    all_go_by(&pods, "vxlan.calico", "vxlan.calico")?;

    spoil(&net, "IPPool", "pods", &|spec| spec["ipipMode"] = "Always".into())?;
    told(&nodes[0], true)?;
    // What comes later is heeded, so what came before was seen; it changed nothing.
    nodes[0].apply(&pool("more", "10.246.0.0/24", "vxlanMode: Always"))?;
    let of_pool = "sed -i 's/\"type\": \"calico-ipam\"/\"type\": \"calico-ipam\", \"ipv4_pools\": [\"more\"]/' /etc/cni/net.d/10-calico.conflist";
    nodes[1].run("sh", &["-ec", of_pool])?;
    let later = nodes[1].pod("c")?;
    reaches(&pods[0], later.address()?)?;
    for (from, to) in [(&nodes[0], &pods[1]), (&nodes[1], &pods[0]), (&nodes[0], &later)] {
        let by = device(from, to)?;
        ensure!(by == "vxlan.calico", "{} reaches {} by {by}\n{}", from.name(), to.name(), state(from));
    }
    // A node that starts now knows no good version; those that run are not disturbed.
    let third = net.node("three")?;
    without_loss(&pods, 50, || {
        third.start("felix", &[("CALICO_NETWORKING_BACKEND", "vxlan")])?;
        third.ready("felix", 9099)?;
        told(&third, true)
    })?;
    all_reach_all(&pods)?;
    // Repaired, all is forgotten.
    nodes[0].apply(&pool("pods", POOL, "vxlanMode: Always, ipipMode: Never"))?;
    for node in nodes.iter().chain([&third]) {
        told(node, false)?;
    }
    all_reach_all(&pods)
}

/// Changes a resource in the store as an older tool, or a hand, may: nobody checks it.
fn spoil(net: &Net, kind: &str, name: &str, change: &dyn Fn(&mut Value)) -> Result<()> {
    let mut connection = rusqlite::Connection::open(net.directory().join("ocicat.db"))?;
    let keys = sqlite::keys(&connection, kind)?;
    let key = keys.iter().find(|key| key.ends_with(name)).with_context(|| format!("{kind} {name} of {keys:?}"))?;
    let find = "SELECT value FROM log WHERE kind = ?1 AND key = ?2 AND current = 1";
    let stored: String = connection.query_row(find, [kind, key], |row| row.get(0))?;
    let mut value: Value = serde_json::from_str(&stored)?;
    change(&mut value["spec"]);
    sqlite::spoil(&mut connection, kind, key, &value.to_string())
}

/// Waits until a node says, or says no more, that the pool's modes cannot be.
fn told(node: &Node<'_>, wanted: bool) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{} tells of the pool's modes: {wanted}", node.name()), || {
        let status = node.calicoctl(&["node", "status"])?;
        Ok(status.lines().any(|line| line.contains("pods") && line.contains("Mode")) == wanted)
    })
    .with_context(|| state(node))
}
