//! The steps of the main job.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Matrix, NodeReport, PodReport, Report};
use crate::net::{Net, StoreKind};
use crate::node::{Node, PATIENCE};
use crate::pod::Pod;
use crate::wait;

/// What is to be played.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many nodes.
    pub nodes: u8,
    /// How many pods on each.
    pub pods: u16,
    /// Which store.
    pub store: StoreKind,
}

/// The pool that the lab's pods live in.
pub(super) const POOL: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: default-ipv4-ippool
spec:
  cidr: 10.244.0.0/16
  blockSize: 26
  nodeSelector: all()
";

/// Tells a person what happens, and remembers how long each step took.
#[derive(Debug, Default)]
pub struct Progress {
    quiet: bool,
    phases: Vec<(String, f64)>,
}

impl Progress {
    /// One that tells nobody.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::default() }
    }

    /// The steps and how many seconds each took.
    pub fn phases(&self) -> &[(String, f64)] {
        &self.phases
    }

    /// Does one step; a failure names it.
    ///
    /// # Errors
    /// Those of the step.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.quiet {
            eprint!("  {name} … ");
            let _ = std::io::stderr().flush();
        }
        let start = Instant::now();
        let done = work();
        let took = start.elapsed();
        if !self.quiet {
            eprintln!("{}", if done.is_ok() { format!("{:.2} s", took.as_secs_f64()) } else { "FAILED".to_owned() });
        }
        self.phases.push((name.to_owned(), took.as_secs_f64()));
        done.with_context(|| format!("the lab failed at the step \"{name}\""))
    }
}

/// A running lab: its nodes serve, its pods are there.
#[derive(Debug)]
pub struct Lab<'net> {
    nodes: &'net [Node<'net>],
    pods: Vec<Pod<'net, 'net>>,
}

impl<'net> Lab<'net> {
    /// Makes the nodes and starts our daemons on them, with one pool in the store.
    ///
    /// # Errors
    /// If a step fails.
    pub fn nodes(net: &'net Net, options: Options, progress: &mut Progress) -> Result<Vec<Node<'net>>> {
        let nodes = progress.step(&format!("{} nodes on one segment", options.nodes), || {
            (1..=options.nodes).map(|number| net.node(&format!("node{number}"))).collect::<Result<Vec<_>>>()
        })?;
        let first = nodes.first().context("a lab needs a node")?;
        progress.step("the pool 10.244.0.0/16, by calicoctl", || first.apply(POOL))?;
        progress.step("felix on every node", || {
            nodes.iter().try_for_each(|node| node.start("felix", &[]))?;
            nodes.iter().try_for_each(|node| node.ready("felix", 9099))
        })?;
        progress.step("bgp-speaker on every node", || nodes.iter().try_for_each(Node::start_speaker))?;
        Ok(nodes)
    }

    /// Starts the pods and waits until every node knows the way to every block.
    ///
    /// # Errors
    /// If a step fails.
    pub fn start(nodes: &'net [Node<'net>], options: Options, progress: &mut Progress) -> Result<Self> {
        let pods = progress
            .step(&format!("{} pods a node, by the calico plugin", options.pods), || start_pods(nodes, options.pods))?;
        progress.step("BGP sessions", || nodes.iter().try_for_each(|node| established(node, nodes.len() - 1)))?;
        let blocks = nodes.len().saturating_sub(1);
        progress.step("routes to the other nodes' blocks", || {
            nodes.iter().try_for_each(|node| if options.pods == 0 { Ok(()) } else { routed(node, blocks) })
        })?;
        Ok(Self { nodes, pods })
    }

    /// The pods.
    pub fn pods(&self) -> &[Pod<'net, 'net>] {
        &self.pods
    }

    /// Pings, and asks the programs what they see.
    ///
    /// # Errors
    /// If a program fails. A lost ping is not a failure here, but in the report.
    pub fn report(&self, net: &Net, progress: &mut Progress) -> Result<Report> {
        let pings = progress.step("every pod pings every other", || Ok(Matrix::of(&self.pods)))?;
        let first = self.nodes.first().context("a lab needs a node")?;
        let mut report = progress.step("what the programs say", || {
            Ok(Report {
                version: calico_version::LONG.to_owned(),
                datastore: net.datastore().name().to_owned(),
                nodes_table: first.calicoctl(&["get", "nodes", "-o", "wide"])?,
                pools_table: first.calicoctl(&["get", "ippool", "-o", "wide"])?,
                ipam_table: first.calicoctl(&["ipam", "show", "--show-blocks"])?,
                nodes: self.nodes.iter().map(node_report).collect::<Result<_>>()?,
                pods: self.pods.iter().map(pod_report).collect::<Result<_>>()?,
                pings,
                phases: Vec::new(),
            })
        })?;
        progress.step("all daemons still run", || self.nodes.iter().try_for_each(Node::check))?;
        report.phases.clone_from(&progress.phases);
        Ok(report)
    }
}

pub(super) fn start_pods<'net>(nodes: &'net [Node<'net>], each: u16) -> Result<Vec<Pod<'net, 'net>>> {
    let started = std::thread::scope(|scope| {
        let started: Vec<_> = nodes
            .iter()
            .map(|node| {
                scope.spawn(move || {
                    let name = |number| format!("{}-pod{number}", node.name());
                    (1..=each).map(|number| node.pod(&name(number))).collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let mut pods = Vec::new();
    for (node, result) in nodes.iter().zip(started) {
        let result = result.map_err(|_| anyhow::anyhow!("the thread panicked"));
        pods.extend(result.flatten().with_context(|| {
            format!("pods of {}; last lines of its felix:\n{}", node.name(), node.last_lines("felix"))
        })?);
    }
    Ok(pods)
}

/// Waits until this many of a node's sessions are up, as `calicoctl node status` shows them.
///
/// # Errors
/// If they are not in time; with the last status and the speaker's last lines.
pub fn established(node: &Node<'_>, count: usize) -> Result<()> {
    let mut status = String::new();
    wait::becomes(PATIENCE, &format!("{count} sessions of {} are Established", node.name()), || {
        node.daemon("bgp-speaker", |process| process.check())?;
        status = node.calicoctl(&["node", "status"])?;
        Ok(rows_established(&status) >= count)
    })
    .with_context(|| format!("{status}last lines of its bgp-speaker:\n{}", node.last_lines("bgp-speaker")))
}

/// Waits until a node has this many routes learned by BGP.
///
/// # Errors
/// If it has not in time.
pub fn routed(node: &Node<'_>, count: usize) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{} has {count} routes by BGP", node.name()), || {
        let routes = node.routes()?;
        Ok(routes.iter().filter(|route| route["protocol"] == "bird").count() >= count)
    })
    .with_context(|| format!("last lines of its bgp-speaker:\n{}", node.last_lines("bgp-speaker")))
}

fn rows_established(status: &str) -> usize {
    status.lines().filter(|line| line.starts_with('|') && line.contains("Established")).count()
}

fn node_report(node: &Node<'_>) -> Result<NodeReport> {
    let status = node.calicoctl(&["node", "status"])?;
    Ok(NodeReport {
        name: node.name().to_owned(),
        address: node.address().to_string(),
        established: rows_established(&status),
        status,
        routes: node.run("ip", &["route"])?,
    })
}

fn pod_report(pod: &Pod<'_, '_>) -> Result<PodReport> {
    Ok(PodReport {
        name: pod.name().to_owned(),
        node: pod.node().name().to_owned(),
        address: pod.address()?.to_string(),
        add_milliseconds: milliseconds(pod.took()),
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
