//! Pods of a running cluster, and packets between them.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Cluster, PATIENCE};
use crate::{process, wait};

/// A pod that has its network.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its node's name.
    pub node: String,
    /// Its address.
    pub address: IpAddr,
    /// Its network namespace, as this machine sees it.
    pub namespace: PathBuf,
}

impl Pod {
    /// Its network namespace.
    ///
    /// # Errors
    /// If it is gone.
    pub fn network(&self) -> Result<OwnedFd> {
        calico_sys::namespace::open(&self.namespace).with_context(|| self.namespace.display().to_string())
    }
}

/// What became of pings.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Pings {
    /// How many pairs, each once in either direction.
    pub sent: usize,
    /// Those that were not answered: from whom to whom.
    pub lost: Vec<String>,
    /// The median round trip in milliseconds.
    pub median_milliseconds: f64,
    /// The longest.
    pub longest_milliseconds: f64,
}

impl Cluster {
    /// The running pods with these labels that are not in their node's network.
    ///
    /// # Errors
    /// If one has no address, or no network namespace has it.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let list = self.get(&[
            "pods",
            "--namespace",
            namespace,
            "--selector",
            selector,
            "--field-selector=status.phase=Running",
        ])?;
        let mut networks = Vec::new();
        for node in self.nodes() {
            let script = "for n in /run/netns/*; do [ -e \"$n\" ] || continue; \
                          for a in $(nsenter --net=\"$n\" ip -o address show scope global | awk '{print $4}'); \
                          do echo \"$n ${a%/*}\"; done; done";
            for line in node.script(script)?.lines() {
                let (path, address) = line.split_once(' ').context("a line has two words")?;
                let path = PathBuf::from(format!("/proc/{}/root{path}", node.pid()?));
                networks.push((node.name(), address.parse::<IpAddr>()?, path));
            }
        }
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .filter(|pod| pod["spec"]["hostNetwork"] != true)
            .map(|pod| {
                let name = pod["metadata"]["name"].as_str().context("a pod has no name")?;
                let node = pod["spec"]["nodeName"].as_str().with_context(|| format!("{name} has no node"))?;
                let address: IpAddr =
                    pod["status"]["podIP"].as_str().with_context(|| format!("{name} has no address"))?.parse()?;
                let found = networks.iter().find(|(of, its, _)| *of == node && *its == address);
                let (_, _, path) = found.with_context(|| format!("no network on {node} has {name}'s {address}"))?;
                Ok(Pod { name: name.to_owned(), node: node.to_owned(), address, namespace: path.clone() })
            })
            .collect()
    }

    /// Waits until a Deployment in the namespace `default` runs, and returns its pods.
    ///
    /// # Errors
    /// If they do not run in time, with the newest events.
    pub fn deployed(&self, name: &str, replicas: usize) -> Result<Vec<Pod>> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["rollout", "status", &format!("deployment/{name}"), &limit]).with_context(|| {
            let events = self.kubectl(&["get", "events", "--sort-by=.lastTimestamp", "--field-selector=type!=Normal"]);
            let events = events.unwrap_or_default();
            let lines: Vec<&str> = events.lines().collect();
            lines[lines.len().saturating_sub(10)..].join("\n")
        })?;
        wait::until(PATIENCE, &format!("{name} has {replicas} pods"), || {
            let pods = self.pods("default", &format!("app={name}"))?;
            Ok((pods.len() == replicas).then_some(pods))
        })
    }
}

/// Has every pod ping every other once, all pods at the same time.
///
/// # Errors
/// If `ping` cannot be started.
pub fn ping_all(pods: &[Pod]) -> Result<Pings> {
    let rows = thread::scope(|scope| {
        let rows: Vec<_> = pods.iter().map(|from| scope.spawn(move || row(from, pods))).collect();
        rows.into_iter()
            .map(|row| row.join().unwrap_or_else(|_| bail!("the thread panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    let mut pings = Pings::default();
    let mut times = Vec::new();
    for (from, to, time) in rows.into_iter().flatten() {
        pings.sent += 1;
        match time {
            Some(time) => times.push(time),
            None => pings.lost.push(format!("{from} to {to}")),
        }
    }
    times.sort_by(f64::total_cmp);
    pings.median_milliseconds = times.get(times.len() / 2).copied().unwrap_or_default();
    pings.longest_milliseconds = times.last().copied().unwrap_or_default();
    Ok(pings)
}

/// One pod's pings: names, and milliseconds if it was answered.
fn row(from: &Pod, pods: &[Pod]) -> Result<Vec<(String, String, Option<f64>)>> {
    let others: Vec<&Pod> = pods.iter().filter(|to| to.name != from.name).collect();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", from.namespace.display()));
    let script =
        "for to; do echo \"$to $(ping -n -q -c 1 -W 2 \"$to\" | sed -n 's#^rtt .* = \\([0-9.]*\\)/.*#\\1#p')\"; done";
    command.args(["--", "sh", "-c", script, "ping"]).args(others.iter().map(|to| to.address.to_string()));
    let text = process::run(&mut command)?;
    let answers = others.iter().zip(text.lines()).map(|(to, line)| {
        let time = line.split_once(' ').and_then(|(_, time)| time.trim().parse().ok());
        (from.name.clone(), to.name.clone(), time)
    });
    Ok(answers.collect())
}
