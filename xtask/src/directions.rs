//! Which crate may use which, and which crates stay free of the outside world.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, output};

/// A crate of ours and what of ours it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    // Pure: values in, values out.
    ("calico-selector", &[]),
    ("calico-delta", &[]),
    ("bgp-proto", &[]),
    ("bgp-plan", &["bgp-proto", "calico-api", "calico-selector"]),
    ("calico-version", &[]),
    ("calico-api", &["calico-selector"]),
    ("felix-calc", &["bgp-plan", "calico-api", "calico-selector"]),
    // Edges: each speaks with one thing outside.
    ("calico-sys", &[]),
    ("calico-agent", &[]),
    ("calico-daemon", &["calico-sys", "calico-version"]),
    ("calico-probe", &[]),
    ("calico-datastore", &["calico-api", "calico-version"]),
    ("calico-netlink", &["calico-delta", "calico-sys"]),
    ("ipam", &["calico-api", "calico-datastore", "calico-selector"]),
    ("felix-dataplane", &["calico-delta", "calico-netlink", "felix-calc"]),
    // Programs.
    (
        "felix",
        &[
            "bgp-plan",
            "calico-agent",
            "calico-api",
            "calico-daemon",
            "calico-datastore",
            "calico-netlink",
            "calico-selector",
            "calico-version",
            "felix-calc",
            "felix-dataplane",
            "ipam",
        ],
    ),
    (
        "bgp-speaker",
        &[
            "bgp-plan",
            "bgp-proto",
            "calico-api",
            "calico-daemon",
            "calico-datastore",
            "calico-netlink",
            "calico-selector",
            "calico-sys",
            "calico-version",
        ],
    ),
    (
        "ipam-controller",
        &["calico-api", "calico-daemon", "calico-datastore", "calico-selector", "calico-version", "ipam"],
    ),
    ("cni", &["calico-agent", "calico-api", "calico-netlink", "calico-probe", "calico-sys", "calico-version"]),
    (
        "calicoctl",
        &[
            "bgp-plan",
            "calico-agent",
            "calico-api",
            "calico-datastore",
            "calico-netlink",
            "calico-selector",
            "calico-version",
            "ipam",
        ],
    ),
    ("calico-node", &["calico-api", "calico-probe", "calico-version"]),
    ("xtask", &["calico-api"]),
];

/// May use anything, and nothing may use it.
const TESTS: &str = "integration";

/// Crates that compute and do nothing else.
const PURE: &[&str] = &["calico-api", "calico-selector", "calico-delta", "bgp-proto", "bgp-plan", "felix-calc"];

/// What a pure crate must not even reach through others.
const IMPURE: &[&str] =
    &["tokio", "kube-client", "netlink-sys", "netlink-packet-core", "nix", "socket2", "rusqlite", "etcd-client"];

/// Compares what is with what may be.
pub(crate) fn check() -> Result<()> {
    let metadata = output(cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
    let ours: BTreeMap<&str, BTreeSet<&str>> = packages(&metadata)?;
    let mut faults = Vec::new();
    for (name, uses) in &ours {
        if *name == TESTS {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| crate_name == name) else {
            faults.push(format!("{name} is not in the list of directions (xtask/src/directions.rs)"));
            continue;
        };
        let forbidden = uses.iter().filter(|used| ours.contains_key(*used) && !allowed.contains(used));
        faults.extend(forbidden.map(|used| format!("{name} must not use {used}")));
    }
    for name in PURE {
        let tree =
            output(cargo().args(["tree", "--edges=normal", "--prefix=none", "--format={p}", "--package", name]))?;
        let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        faults.extend(
            IMPURE
                .iter()
                .filter(|name| reached.contains(*name))
                .map(|found| format!("{name} is to be pure, but reaches {found}")),
        );
    }
    if !faults.is_empty() {
        bail!("directions between crates:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

/// Every package of the workspace and the names it depends on, not counting those for its tests.
fn packages(metadata: &Value) -> Result<BTreeMap<&str, BTreeSet<&str>>> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().context("a package has no name")?;
            let dependencies = package["dependencies"].as_array().context("a package lists no dependencies")?;
            let normal = dependencies.iter().filter(|dependency| dependency["kind"] != "dev");
            Ok((name, normal.filter_map(|dependency| dependency["name"].as_str()).collect()))
        })
        .collect()
}
