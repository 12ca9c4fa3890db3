//! Pods that ask for what cannot be: their events say why, and nothing else takes notice.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::Check;
use super::{Progress, Show};
use crate::cluster::{Cluster, PATIENCE, PAUSE};
use crate::wait;

/// A pod that cannot start: its name, what its annotation for addresses is, and what the event must say of it.
const BAD: &[(&str, &str, &[&str])] = &[
    ("not-json", "ten dot something", &["cni.projectcalico.org/ipAddrs", "ten dot something", "JSON list"]),
    ("of-no-pool", "[\"192.0.2.1\"]", &["192.0.2.1 is not in a configured pool", "add a pool"]),
];

impl Show<'_> {
    /// Annotations that nobody can follow come to the pod's event in our words, and restart no container of ours.
    ///
    /// # Errors
    /// If pods cannot be made. What is not said as it must be is in the report.
    pub fn bad_input(&mut self, progress: &mut Progress) -> Result<()> {
        let cluster = self.cluster;
        let checks = progress.step("pods whose annotations cannot be followed", || {
            let before = containers(cluster)?;
            for (name, annotation, _) in BAD {
                let pod = json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "annotations": {"cni.projectcalico.org/ipAddrs": annotation}},
                    "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "pause", "image": PAUSE}]},
                });
                cluster.apply(&pod.to_string())?;
            }
            let mut checks = Vec::new();
            for (name, annotation, words) in BAD {
                let mut said = "no event".to_owned();
                let told = wait::becomes(PATIENCE, "the event says why", || {
                    let Some(message) = event(cluster, name)? else { return Ok(false) };
                    // What comes before is the runtime's.
                    said = message.split_once("failed (add): ").map_or(&*message, |(_, ours)| ours).to_owned();
                    Ok(words.iter().all(|word| said.contains(word)))
                });
                let what = format!("the event of a pod with ipAddrs {annotation:?} says why it cannot start");
                checks.push(Check::new(what, told.is_ok(), said));
            }
            let after = containers(cluster)?;
            let other = before.symmetric_difference(&after).cloned().collect::<Vec<_>>();
            checks.push(Check::new(
                "no container of ours ended by that",
                other.is_empty() && !after.is_empty(),
                if other.is_empty() { format!("{} run as before", after.len()) } else { other.join(", ") },
            ));
            let mut delete = vec!["delete", "pod", "--timeout=60s"];
            delete.extend(BAD.iter().map(|(name, ..)| *name));
            cluster.kubectl(&delete)?;
            Ok(checks)
        })?;
        self.report.checks.extend(checks);
        Ok(())
    }
}

/// Why a pod's sandbox was not made, as its newest event has it.
fn event(cluster: &Cluster, pod: &str) -> Result<Option<String>> {
    let selector = format!("--field-selector=involvedObject.name={pod},reason=FailedCreatePodSandBox");
    let list = cluster.get(&["events", "--namespace=default", &selector])?;
    let last = list["items"].as_array().and_then(|items| items.last());
    Ok(last.and_then(|event| event["message"].as_str()).map(str::to_owned))
}

/// The containers of Ocicat's pods, with how often each was started.
fn containers(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let label = "--selector=k8s-app in (calico-node, ipam-controller)";
    let pods = cluster.get(&["pods", "--namespace=kube-system", label])?;
    let mut found = BTreeSet::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().context("a pod has no name")?;
        for container in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let text = |field: &str| container[field].as_str().unwrap_or_default().to_owned();
            let restarts = container["restartCount"].as_u64().unwrap_or_default();
            let state: Vec<&str> = match &container["state"] {
                Value::Object(state) => state.keys().map(String::as_str).collect(),
                _ => Vec::new(),
            };
            found.insert(format!(
                "{} of {name} ({}, {}, restarted {restarts} times)",
                text("name"),
                text("containerID").chars().take(25).collect::<String>(),
                state.join(" "),
            ));
        }
    }
    Ok(found)
}
