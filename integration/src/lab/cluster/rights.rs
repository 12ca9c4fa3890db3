//! Whether every right that the manifests grant is used in a cluster's life, and nothing is refused: by the API server's
//! audit log of the whole run.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::Check;
use super::{Progress, Show};
use crate::cluster::rights::{Right, deeds, granted};
use crate::cluster::{Cluster, Node, PATIENCE, PAUSE};
use crate::wait;

/// Ocicat's accounts, and the programs that have them.
const ACCOUNTS: &[(&str, &str)] = &[("calico-node", "felix, bgp-speaker"), ("ipam-controller", "ipam-controller")];

/// What gives every part of the daemons something to do: Services to advertise, pods that are BGP peers, a status to fill
/// in, and a pool with small blocks.
const RESOURCES: &str = "
apiVersion: crd.projectcalico.org/v1
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/16}]}
---
apiVersion: crd.projectcalico.org/v1
kind: BGPPeer
metadata: {name: speakers}
spec: {localWorkloadSelector: \"speaks == 'bgp'\", asNumber: 64601}
---
apiVersion: crd.projectcalico.org/v1
kind: CalicoNodeStatus
metadata: {name: node1}
spec: {node: node1, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: errands}
spec: {cidr: 10.245.0.0/28, blockSize: 30, nodeSelector: '!all()'}
";

/// A claim of node1 that was begun for a block that node2 got meanwhile.
const BEGUN: &str = r#"
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata: {name: 10-245-0-0-30}
spec: {cidr: 10.245.0.0/30, affinity: "host:node2", allocations: [null, null, null, null], unallocated: [0, 1, 2, 3], attributes: [], strictAffinity: false, deleted: false}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: node2-10-245-0-0-30}
spec: {state: confirmed, node: node2, type: host, cidr: 10.245.0.0/30, deleted: "false"}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: node1-10-245-0-0-30}
spec: {state: pending, node: node1, type: host, cidr: 10.245.0.0/30, deleted: "false"}
"#;

/// What leaks is collected at once.
const IMPATIENT: &str = "
apiVersion: crd.projectcalico.org/v1
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {leakGracePeriod: 1s}}}
";

/// What one of the accounts may do here.
#[derive(Debug)]
pub(super) struct Grant {
    account: &'static str,
    programs: &'static str,
    rights: BTreeSet<Right>,
    /// How many more are of API groups that this cluster does not have.
    elsewhere: usize,
}

impl Grant {
    /// What the API server has of all accounts.
    fn all(cluster: &Cluster) -> Result<Vec<Self>> {
        let versions = cluster.kubectl(&["api-versions"])?;
        let groups: BTreeSet<&str> =
            versions.lines().map(|line| line.split_once('/').map_or("", |(group, _)| group)).collect();
        let list =
            cluster.get(&["clusterroles,clusterrolebindings,roles,rolebindings", "--all-namespaces"])?["items"].take();
        let objects = list.as_array().context("a list of roles has no items")?;
        ACCOUNTS
            .iter()
            .map(|(account, programs)| {
                let (rights, elsewhere): (BTreeSet<Right>, BTreeSet<Right>) =
                    granted(objects, account)?.into_iter().partition(|right| groups.contains(&*right.group));
                Ok(Self { account, programs, rights, elsewhere: elsewhere.len() })
            })
            .collect()
    }

    /// Which of them were not used yet.
    fn unused(&self, cluster: &Cluster) -> Result<Vec<String>> {
        Ok(deeds(&cluster.audit_log(), self.account)?.unused(&self.rights).map(ToString::to_string).collect())
    }

    /// What the audit log says in the end.
    fn judge(&self, cluster: &Cluster) -> Result<[Check; 2]> {
        let unused = self.unused(cluster)?;
        let refused = deeds(&cluster.audit_log(), self.account)?.refused;
        let (account, programs) = (self.account, self.programs);
        let count = format!("all {}; {} more are of API groups that are not here", self.rights.len(), self.elsewhere);
        let refusals: Vec<&str> = refused.iter().map(String::as_str).collect();
        Ok([
            Check::new(
                format!("{account} ({programs}) used every right that it is granted"),
                unused.is_empty() && !self.rights.is_empty(),
                if unused.is_empty() { count } else { format!("not used: {}", unused.join(", ")) },
            ),
            Check::new(
                format!("nothing was refused to {account} ({programs})"),
                refused.is_empty(),
                if refused.is_empty() { "nothing".to_owned() } else { refusals.join(", ") },
            ),
        ])
    }
}

impl Show<'_> {
    /// What happens in a cluster's life beside pods and rolls, so that no right stays unused: settings change, a claim of
    /// a block fails, a node is gone for good and comes back. Then waits until the audit log has every right; what it
    /// has not is told by [`Self::rights`].
    ///
    /// # Errors
    /// If something of this does not happen.
    pub fn errands(&mut self, progress: &mut Progress) -> Result<()> {
        let cluster = self.cluster;
        let [first, .., last] = cluster.nodes() else { return Ok(()) };
        self.grants = progress.step("settings and blocks that make work", || {
            let grants = Grant::all(cluster)?;
            cluster.apply(RESOURCES)?;
            small_blocks(cluster, first)?;
            Ok(grants)
        })?;
        let dead =
            progress.step(&format!("{} is gone, and its addresses with it", last.name()), || leave(cluster, last))?;
        progress.step(&format!("{} comes back", last.name()), || {
            let changed = r#"{"spec":{"clusterType":null}}"#;
            let information = "clusterinformations.crd.projectcalico.org";
            cluster.kubectl(&["patch", information, "default", "--type=merge", "--patch", changed])?;
            last.boot()?;
            cluster.ready()?;
            cluster.rolled_out("daemonset/calico-node")?;
            cluster.rolled_out("deployment/ipam-controller")?;
            // Its kubelet looks once a minute for sandboxes whose pods are gone.
            wait::becomes(PATIENCE, "the runtime has had DEL for the sandboxes from before", || {
                Ok(results(last)?.is_disjoint(&dead))
            })?;
            let used = wait::becomes(PATIENCE, "every right is used", || {
                self.grants.iter().try_fold(true, |all, grant| Ok(all && grant.unused(cluster)?.is_empty()))
            });
            // Which are not is said in the end.
            drop(used);
            Ok(())
        })
    }

    /// Judges the audit log of the whole run, after [`Self::errands`].
    ///
    /// # Errors
    /// If there is none.
    pub fn rights(&mut self) -> Result<()> {
        for grant in &self.grants {
            self.report.checks.extend(grant.judge(self.cluster)?);
        }
        Ok(())
    }
}

/// A pod in small blocks: its node finds that a claim was in vain, and later that its block is nobody's.
fn small_blocks(cluster: &Cluster, node: &Node) -> Result<()> {
    cluster.apply(BEGUN)?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "errand", "annotations": {"cni.projectcalico.org/ipv4pools": "[\"errands\"]"}},
        "spec": {
            "nodeName": node.name(), "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pause", "image": PAUSE}],
        },
    });
    cluster.apply(&pod.to_string())?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/errand", &format!("--timeout={}s", PATIENCE.as_secs())])?;
    let blocks = cluster.get(&["ipamblocks"])?;
    let ours = |block: &&Value| {
        block["spec"]["cidr"].as_str().is_some_and(|cidr| cidr.starts_with("10.245.0."))
            && block["spec"]["affinity"] == format!("host:{}", node.name())
    };
    let block = blocks["items"].as_array().into_iter().flatten().find(ours);
    let name = block.context("the pod's block is not there")?["metadata"]["name"].as_str().unwrap_or_default();
    // As an administrator does who takes a node's blocks from it.
    let patch = r#"[{"op":"remove","path":"/spec/affinity"}]"#;
    cluster.kubectl(&["patch", "ipamblock", name, "--type=json", "--patch", patch])?;
    cluster.kubectl(&["delete", "blockaffinity", &format!("{}-{name}", node.name())])?;
    cluster.kubectl(&["delete", "pod", "errand", "--timeout=60s"])?;
    wait::becomes(PATIENCE, "the block that is nobody's is deleted", || {
        Ok(!cluster.kubectl(&["get", "ipamblocks", "--output=name"])?.contains(&format!("/{name}\n")))
    })
}

/// A node and its pods are gone without a word; what they had is collected. Returns the results of ADD on its disk.
fn leave(cluster: &Cluster, node: &Node) -> Result<BTreeSet<OsString>> {
    let dead = results(node)?;
    node.power_off()?;
    cluster.kubectl(&["delete", "node", node.name()])?;
    let on_it = format!("--field-selector=spec.nodeName={}", node.name());
    cluster.kubectl(&["delete", "pods", "--namespace=default", &on_it, "--force", "--grace-period=0"])?;
    cluster.kubectl(&["delete", "pods", "--namespace=kube-system", &on_it, "--force", "--grace-period=0"])?;
    cluster.apply(IMPATIENT)?;
    wait::becomes(PATIENCE, &format!("no block and no affinity is {}'s", node.name()), || {
        let has = |kind: &str, field: &str, name: &str| {
            let list = cluster.get(&[kind])?;
            anyhow::Ok(list["items"].as_array().into_iter().flatten().any(|one| one["spec"][field] == name))
        };
        let owner = format!("host:{}", node.name());
        Ok(!has("ipamblocks", "affinity", &owner)? && !has("blockaffinities", "node", node.name())?)
    })
    .with_context(|| cluster.diagnosis("deployment/ipam-controller"))?;
    Ok(dead)
}

/// What a node's runtime keeps of each ADD until DEL.
fn results(node: &Node) -> Result<BTreeSet<OsString>> {
    let folder = node.path("/var/lib/cni/results")?;
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    Ok(entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?)
}
