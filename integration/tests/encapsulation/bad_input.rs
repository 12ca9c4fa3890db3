//! What cannot be is refused with its field named; what is in the store all the same changes nothing.

use anyhow::{Context, Result, ensure};
use integration::{Net, PATIENCE, StoreKind, sqlite, wait};

use crate::bed::{POOL, all_go_by, all_reach_all, felix_configuration, pods_in, pool, state};

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

    // As an older tool, or a hand, may have written it.
    let path = net.directory().join("ocicat.db");
    let mut connection = rusqlite::Connection::open(path)?;
    let keys = sqlite::keys(&connection, "IPPool")?;
    let key = keys.first().context("the pool is in the store")?.clone();
    let find = "SELECT value FROM log WHERE kind = 'IPPool' AND key = ?1 AND current = 1";
    let stored: String = connection.query_row(find, [&key], |row| row.get(0))?;
    let mut value: serde_json::Value = serde_json::from_str(&stored)?;
    value["spec"]["ipipMode"] = "Always".into();
    sqlite::spoil(&mut connection, "IPPool", &key, &value.to_string())?;

    let status = wait::until(PATIENCE, "felix says that the pool cannot be", || {
        let status = nodes[0].calicoctl(&["node", "status"])?;
        Ok(status.lines().any(|line| line.contains("pods") && line.contains("Mode")).then_some(status))
    });
    status.with_context(|| state(&nodes[0]))?;
    all_go_by(&pods, "vxlan.calico", "vxlan.calico")?;
    all_reach_all(&pods)?;
    // A node that starts now knows no good version; those that run are not disturbed by it. Repaired, all is forgotten.
    nodes[0].apply(&pool("pods", POOL, "vxlanMode: Always, ipipMode: Never"))?;
    wait::becomes(PATIENCE, "the finding is gone", || {
        let status = nodes[0].calicoctl(&["node", "status"])?;
        Ok(!status.lines().any(|line| line.contains("pods") && line.contains("Mode")))
    })?;
    all_reach_all(&pods)
}
