//! How long a node takes to be full: from `kubectl apply` of a Deployment to all of its pods running, by Ocicat and by
//! the CNI project's `bridge` with `host-local`, on the same node in the same run.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value, json};

use super::report::Check;
use super::{Progress, Show};
use crate::cluster::{Cluster, Node, PAUSE};
use crate::wait;

/// Ocicat's list of plugins on a node.
const OURS: &str = "/etc/cni/net.d/10-calico.conflist";

/// The other list: runtimes take the first by name.
const OTHERS: &str = "/etc/cni/net.d/00-bridge.conflist";

/// What the bridge is called.
const BRIDGE: &str = "lab0";

/// Within what a full node must be full, or empty again, on a busy machine.
const LIMIT: Duration = Duration::from_secs(900);

/// Who connects pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Ocicat,
    Bridge,
}

/// Each comes as early as the other, so that a machine that becomes slower is no one's advantage.
const ORDER: [Network; 4] = [Network::Ocicat, Network::Bridge, Network::Bridge, Network::Ocicat];

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::Ocicat => "Ocicat",
            Self::Bridge => "bridge with host-local",
        }
    }

    /// Where its pods' addresses are from.
    fn range(self) -> Result<IpNet> {
        Ok(match self {
            Self::Ocicat => super::ipam::POOL,
            Self::Bridge => "10.246.0.0/22",
        }
        .parse()?)
    }

    /// Makes a node's runtime use it. There must be no pods of the other.
    fn install(self, node: &Node) -> Result<()> {
        let others = node.path(OTHERS)?;
        if self == Self::Ocicat {
            if others.exists() {
                fs::remove_file(others)?;
            }
            return Ok(());
        }
        // Ours with another first plugin, so that what comes after it is the same.
        let mut list: Value = serde_json::from_str(&fs::read_to_string(node.path(OURS)?).context(OURS)?)?;
        let first = list["plugins"].get_mut(0).context("there is no plugin in the list")?;
        *first = json!({
            "type": "bridge", "bridge": BRIDGE, "isGateway": true,
            "ipam": {"type": "host-local", "subnet": self.range()?.to_string(), "routes": [{"dst": "0.0.0.0/0"}]},
        });
        list["name"] = json!("bridge");
        let unfinished = others.with_extension("new");
        fs::write(&unfinished, list.to_string())?;
        Ok(fs::rename(unfinished, others)?)
    }
}

/// Seconds until a node was full.
#[derive(Clone, Debug, Serialize)]
pub struct FullNode {
    /// How many pods that is.
    pub pods: usize,
    /// By Ocicat, each time.
    pub ocicat_seconds: Vec<f64>,
    /// By bridge with host-local, each time.
    pub bridge_seconds: Vec<f64>,
    /// The mean of the first as a part of the mean of the second.
    pub ratio: f64,
}

impl Show<'_> {
    /// Fills the first node with pods, by each network twice, and compares.
    ///
    /// # Errors
    /// If pods do not run, or get addresses of the wrong network.
    pub fn full_node(&mut self, pods: usize, progress: &mut Progress) -> Result<()> {
        let cluster = self.cluster;
        let node = cluster.nodes().first().context("there is no node")?;
        let idle = namespaces(node)?;
        let (mut ocicat, mut bridge) = (Vec::new(), Vec::new());
        for network in ORDER {
            network.install(node)?;
            progress.step(&format!("pods of {} are by {}", node.name(), network.name()), || {
                wait::becomes(LIMIT, "a new pod has an address of it", || {
                    let found = fill(cluster, node, 1)?.1;
                    empty(cluster, node, idle)?;
                    let range = network.range()?;
                    Ok(found.iter().all(|address| range.contains(address)))
                })
            })?;
            let (seconds, addresses) =
                progress.step(&format!("{pods} pods by {}", network.name()), || fill(cluster, node, pods))?;
            let range = network.range()?;
            ensure!(
                addresses.len() == pods && addresses.iter().all(|address| range.contains(address)),
                "{pods} pods by {} have these addresses: {addresses:?}",
                network.name()
            );
            progress.step("they are deleted", || empty(cluster, node, idle))?;
            if network == Network::Ocicat { &mut ocicat } else { &mut bridge }.push(seconds);
        }
        node.run(&["ip", "link", "delete", BRIDGE])?;
        let result = FullNode::new(pods, ocicat, bridge);
        self.report.checks.push(Check::new(
            format!("{pods} pods on one node run no later by Ocicat than by bridge with host-local"),
            result.ratio <= 1.0,
            format!("{:.2} of its time", result.ratio),
        ));
        self.report.full_node = Some(result);
        Ok(())
    }
}

impl FullNode {
    fn new(pods: usize, ocicat_seconds: Vec<f64>, bridge_seconds: Vec<f64>) -> Self {
        let mean = |all: &[f64]| all.iter().sum::<f64>() / f64::from(u32::try_from(all.len()).unwrap_or(u32::MAX));
        let ratio = mean(&ocicat_seconds) / mean(&bridge_seconds);
        Self { pods, ocicat_seconds, bridge_seconds, ratio }
    }
}

/// Deploys pods on a node; returns the seconds until all ran, and their addresses.
fn fill(cluster: &Cluster, node: &Node, count: usize) -> Result<(f64, Vec<IpAddr>)> {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "full"},
        "spec": {
            "replicas": count, "selector": {"matchLabels": {"app": "full"}},
            "template": {
                "metadata": {"labels": {"app": "full"}},
                "spec": {
                    "nodeSelector": {"kubernetes.io/hostname": node.name()}, "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "pause", "image": PAUSE}],
                },
            },
        },
    })
    .to_string();
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    let start = Instant::now();
    cluster.apply(&deployment)?;
    // It watches: a pod that has no probes is available as soon as it runs.
    cluster.kubectl(&["rollout", "status", "deployment/full", &limit])?;
    let seconds = start.elapsed().as_secs_f64();
    let list = cluster.get(&["pods", "--selector=app=full"])?;
    let addresses = list["items"].as_array().into_iter().flatten().filter_map(|pod| pod["status"]["podIP"].as_str());
    Ok((seconds, addresses.map(str::parse).collect::<Result<_, _>>()?))
}

/// Deletes them; returns when their sandboxes are gone as well.
fn empty(cluster: &Cluster, node: &Node, idle: usize) -> Result<()> {
    let limit = format!("--timeout={}s", LIMIT.as_secs());
    cluster.kubectl(&["delete", "deployment/full", "--cascade=foreground", &limit])?;
    wait::becomes(LIMIT, "no pod and no network of one is left", || {
        let pods = cluster.get(&["pods", "--selector=app=full"])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty) && namespaces(node)? == idle)
    })
}

/// How many network namespaces its runtime has.
fn namespaces(node: &Node) -> Result<usize> {
    Ok(node.script("ls /run/netns")?.lines().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_means() {
        let result = FullNode::new(110, vec![10.0, 20.0], vec![20.0, 40.0]);
        assert!((result.ratio - 0.5).abs() < 1e-9, "{result:?}");
    }
}
