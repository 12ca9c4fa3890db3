//! Ocicat on a real cluster, from its manifests to its removal: what `cargo xtask lab --cluster` plays.

mod bad_input;
mod full_node;
mod ipam;
mod report;
mod rights;

use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use self::full_node::FullNode;
pub use self::report::{Check, ClusterReport, Load, Shown};

use super::Progress;
use crate::cluster::{Cluster, Cni, Containerd, Options, PATIENCE, PAUSE, Pod, Proxy, Traces, ping_all};
use crate::stream::Stream;
use crate::wait;

/// What the cluster's DNS is made of.
const DNS: &str = include_str!("../../../cluster/dns.yaml");

/// Packets a second and pair while the DaemonSet is rolled.
const RATE: u32 = 200;

/// Sessions per node: each other node, and the rack's router.
fn sessions(cluster: &Cluster) -> usize {
    cluster.nodes().len()
}

/// A cluster on which something is shown.
#[derive(Debug)]
pub struct Show<'a> {
    cluster: &'a Cluster,
    before: Vec<Traces>,
    /// What the accounts may do, once that is to be judged.
    grants: Vec<rights::Grant>,
    report: ClusterReport,
}

impl<'a> Show<'a> {
    /// Remembers how the nodes are before anything is installed.
    ///
    /// # Errors
    /// If a node is switched off.
    pub fn begin(cluster: &'a Cluster, options: &Options) -> Result<Self> {
        let before = cluster.nodes().iter().map(Traces::of).collect::<Result<_>>()?;
        let version = cluster.kubectl(&["version", "--output=json"])?;
        let version: serde_json::Value = serde_json::from_str(&version)?;
        let proxy = match options.proxy {
            Proxy::Nftables => "kube-proxy with nftables",
            Proxy::Iptables => "kube-proxy with iptables",
            Proxy::None => "no kube-proxy",
        };
        let report = ClusterReport {
            version: calico_version::LONG.to_owned(),
            cluster: format!(
                "Kubernetes {}, {} nodes, containerd {}, {proxy}{}",
                version["serverVersion"]["gitVersion"].as_str().unwrap_or("?"),
                cluster.nodes().len(),
                if options.containerd == Containerd::Debian { "1" } else { "2" },
                if options.cni == Cni::Ptp { ", network by ptp and host-local" } else { "" },
            ),
            ..ClusterReport::default()
        };
        Ok(Self { cluster, before, grants: Vec::new(), report })
    }

    /// The report, with the phases that it took.
    pub fn end(mut self, progress: &Progress) -> ClusterReport {
        self.report.phases = progress.phases().to_vec();
        self.report
    }

    /// CoreDNS, by the name that every pod asks.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn dns(&self, progress: &mut Progress) -> Result<()> {
        progress.step("CoreDNS", || {
            self.cluster.apply(DNS)?;
            self.cluster.rolled_out("deployment/coredns")
        })
    }

    /// A Deployment of pods that ping each other, and what the API says of their addresses.
    ///
    /// # Errors
    /// If it does not run. What is not as it must be is in the report.
    pub fn pods(&mut self, count: usize, progress: &mut Progress) -> Result<Vec<Pod>> {
        let cluster = self.cluster;
        let pods = progress.step(&format!("a Deployment of {count} pods"), || deploy(cluster, count))?;
        let pings = progress.step("every pod pings every other", || ping_all(&pods))?;
        self.report.checks.push(Check::new(
            format!("all {} pings between {count} pods are answered", pings.sent),
            pings.lost.is_empty() && pings.sent == count * count.saturating_sub(1),
            format!(
                "{} lost; median {:.2} ms, longest {:.1} ms",
                pings.lost.len(),
                pings.median_milliseconds,
                pings.longest_milliseconds
            ),
        ));
        self.report.pings = Some(pings);
        Ok(pods)
    }

    /// What the API and calicoctl say of Ocicat, and whether it is as it must be.
    ///
    /// # Errors
    /// If they do not answer.
    pub fn state(&mut self, progress: &mut Progress) -> Result<()> {
        let cluster = self.cluster;
        let (shown, checks) = progress.step("what kubectl and calicoctl say", || {
            let mut shown = Vec::new();
            for words in
                ["get nodes -o wide", "get ippools,blockaffinities,ipamblocks", "-n kube-system get pods -o wide"]
            {
                let arguments: Vec<&str> = words.split(' ').collect();
                shown.push(Shown { command: format!("kubectl {words}"), text: cluster.kubectl(&arguments)? });
            }
            let mut checks = ipam::check(cluster)?;
            for node in cluster.nodes() {
                let status = node_status(cluster, node.name())?;
                let up = established(&status);
                checks.push(Check::new(
                    format!("calicoctl node status on {}: {} sessions are Established", node.name(), sessions(cluster)),
                    up == sessions(cluster),
                    format!("{up}"),
                ));
                shown.push(Shown { command: format!("calicoctl node status    # on {}", node.name()), text: status });
            }
            shown.push(Shown {
                command: "birdc show route    # the rack's router".to_owned(),
                text: cluster.router(&["show", "route"])?,
            });
            Ok((shown, checks))
        })?;
        self.report.shown.extend(shown);
        self.report.checks.extend(checks);
        Ok(())
    }

    /// Whether the addresses that are taken in blocks are those of the running pods, and everything is with whom it must be.
    ///
    /// # Errors
    /// If the API does not answer; if not, with what is wrong.
    pub fn addresses_are_those_of_pods(&self) -> Result<bool> {
        let wrong: Vec<String> = ipam::check(self.cluster)?
            .into_iter()
            .filter(|check| !check.good)
            .map(|check| format!("{}: {}", check.what, check.found))
            .collect();
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(true)
    }

    /// The DaemonSet is replaced while packets flow between all pairs of nodes.
    ///
    /// # Errors
    /// If the new pods do not become ready.
    pub fn roll(&mut self, pods: &[Pod], progress: &mut Progress) -> Result<()> {
        let cluster = self.cluster;
        let loads = progress.step(&format!("the DaemonSet rolled under {RATE} packets a second and pair"), || {
            let streams = streams(cluster, pods)?;
            cluster.roll_ocicat("rolled")?;
            // Sessions of the last node's new speaker come up, too, while packets flow.
            for node in cluster.nodes() {
                wait::becomes(PATIENCE, &format!("the sessions of {} are up again", node.name()), || {
                    Ok(established(&node_status(cluster, node.name())?) == sessions(cluster))
                })?;
            }
            streams
                .into_iter()
                .map(|(pair, stream)| {
                    let count = stream.stop()?;
                    Ok(Load { pair, sent: count.sent, lost: count.lost })
                })
                .collect::<Result<Vec<_>>>()
        })?;
        let (sent, lost) = loads.iter().fold((0, 0), |(sent, lost), load| (sent + load.sent, lost + load.lost));
        self.report.checks.push(Check::new(
            "no packet is lost while the DaemonSet is rolled",
            lost == 0 && sent > 0,
            format!("{lost} of {sent} lost"),
        ));
        self.report.rolled = loads;
        Ok(())
    }

    /// Everything is deleted, Ocicat uninstalled, and each node searched for what is left.
    ///
    /// # Errors
    /// If something cannot be deleted.
    pub fn remove(&mut self, progress: &mut Progress) -> Result<()> {
        let cluster = self.cluster;
        progress.step("everything that has an address is deleted", || {
            cluster.kubectl(&["delete", "deployment", "--all", "--timeout=120s"])?;
            cluster.kubectl(&[
                "delete",
                "--ignore-not-found",
                "--timeout=120s",
                "-n=kube-system",
                "deployment/coredns",
            ])?;
            wait::becomes(PATIENCE, "no pod has an address of the pool", || {
                let pods = cluster.get(&["pods", "--all-namespaces"])?;
                let pods = pods["items"].as_array().cloned().unwrap_or_default();
                Ok(pods.iter().all(|pod| {
                    pod["spec"]["hostNetwork"] == true || pod["metadata"]["labels"]["k8s-app"] == "ipam-controller"
                }))
            })
        })?;
        let said = progress.step("Ocicat uninstalled", || cluster.uninstall_ocicat())?;
        self.report.shown.push(Shown {
            command: "kubectl -n kube-system logs -l k8s-app=ocicat-uninstall -c cleanup --prefix".to_owned(),
            text: said,
        });
        let left = progress.step("each node searched", || {
            let mut left = Vec::new();
            for (node, before) in cluster.nodes().iter().zip(&self.before) {
                let mut found = Vec::new();
                // The kernel takes a moment to remove the links of a namespace that is gone.
                let clean = wait::becomes(Duration::from_secs(10), "nothing is left", || {
                    found = Traces::of(node)?.since(before);
                    Ok(found.is_empty())
                });
                if clean.is_err() && found.is_empty() {
                    bail!("{} could not be searched", node.name());
                }
                left.push((node.name().to_owned(), found));
            }
            Ok(left)
        })?;
        for (node, found) in left {
            self.report.checks.push(Check::new(
                format!("no route, rule, link, table, file or process of ours is left on {node}"),
                found.is_empty(),
                if found.is_empty() { "none".to_owned() } else { format!("\n        {}", found.join("\n        ")) },
            ));
        }
        let resources = cluster.kubectl(&["api-resources", "--output=name"])?;
        let ours: Vec<&str> = resources.lines().filter(|name| name.contains("projectcalico")).collect();
        let objects = cluster.kubectl(&[
            "get",
            "clusterroles,clusterrolebindings,serviceaccounts,configmaps,daemonsets,deployments,leases",
            "--all-namespaces",
            "--output=name",
        ])?;
        let ours = ours.into_iter().chain(
            objects
                .lines()
                .filter(|name| ["calico", "ocicat", "ipam-controller"].iter().any(|word| name.contains(word))),
        );
        let ours: Vec<&str> = ours.collect();
        self.report.checks.push(Check::new(
            "no definition and no object of ours is left in the API",
            ours.is_empty(),
            if ours.is_empty() { "none".to_owned() } else { ours.join(", ") },
        ));
        Ok(())
    }

    /// Kubernetes' end-to-end tests whose names match `focus`; if a count is given, so many must pass.
    ///
    /// # Errors
    /// If they cannot be run. A spec that fails is in the report.
    pub fn e2e(&mut self, focus: &str, count: Option<usize>, progress: &mut Progress) -> Result<()> {
        let outcome = progress.step(&format!("end-to-end tests: {focus}"), || self.cluster.e2e(focus, None, false))?;
        let what = match count {
            Some(count) => format!("{count} of Kubernetes' end-to-end tests are chosen and pass"),
            None => "all of Kubernetes' end-to-end tests that were chosen pass".to_owned(),
        };
        self.report.checks.push(Check::new(
            what,
            outcome.good(count),
            format!(
                "{} passed, {} failed, {} skipped in {:.0} s",
                outcome.passed,
                outcome.failed.len(),
                outcome.skipped,
                outcome.seconds
            ),
        ));
        self.report.e2e = Some(outcome);
        Ok(())
    }
}

/// A Deployment of pods that do nothing, spread over the nodes; returns them when all run.
fn deploy(cluster: &Cluster, count: usize) -> Result<Vec<Pod>> {
    cluster.apply(&format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: lab}}, spec: {{replicas: {count}, \
         selector: {{matchLabels: {{app: lab}}}}, template: {{metadata: {{labels: {{app: lab}}}}, spec: {{\
         terminationGracePeriodSeconds: 0, containers: [{{name: pause, image: \"{PAUSE}\"}}], \
         topologySpreadConstraints: [{{maxSkew: 1, topologyKey: kubernetes.io/hostname, \
         whenUnsatisfiable: DoNotSchedule, labelSelector: {{matchLabels: {{app: lab}}}}}}]}}}}}}}}"
    ))?;
    cluster.deployed("lab", count)
}

/// A stream between one pod of each node and one of each other.
fn streams(cluster: &Cluster, pods: &[Pod]) -> Result<Vec<(String, Stream)>> {
    let mut streams = Vec::new();
    let mut port = 7000;
    for from in cluster.nodes() {
        for to in cluster.nodes().iter().filter(|to| to.name() != from.name()) {
            let of = |name: &str| {
                pods.iter().find(|pod| pod.node == name).with_context(|| format!("{name} has none of the pods"))
            };
            let (source, target) = (of(from.name())?, of(to.name())?);
            port += 1;
            let ends = ((source.network()?, source.address), (target.network()?, target.address));
            streams.push((format!("{} to {}", from.name(), to.name()), Stream::between(ends.0, ends.1, port, RATE)?));
        }
    }
    Ok(streams)
}

/// `calicoctl node status` in the pod of the DaemonSet on this node.
fn node_status(cluster: &Cluster, node: &str) -> Result<String> {
    let pods = cluster.get(&[
        "pods",
        "--namespace=kube-system",
        "--selector=k8s-app=calico-node",
        &format!("--field-selector=spec.nodeName={node},status.phase=Running"),
    ])?;
    let pod =
        pods["items"][0]["metadata"]["name"].as_str().with_context(|| format!("{node} has no pod calico-node"))?;
    cluster.kubectl(&["--namespace=kube-system", "exec", pod, "-c=bgp-speaker", "--", "calicoctl", "node", "status"])
}

fn established(status: &str) -> usize {
    status.lines().filter(|line| line.starts_with('|') && line.contains("Established")).count()
}
