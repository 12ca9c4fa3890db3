//! What users do to a cluster over the years, on one that runs, without touching a pod.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::bed::{self, Behind};
use super::report::Step;
use super::switches::reached;
use super::{Mode, ModesOptions, ModesReport, calibrated, ground, kernel, tell};
use crate::lab::Progress;
use crate::lab::resources::{apply, node_with, resource};
use crate::lab::scenario::{established, start_pods};
use crate::node::Node;
use crate::pod::Pod;
use crate::traffic::Traffic;

/// How long packets flow after a step.
const AFTER: Duration = Duration::from_secs(2);
/// How many nodes reflect.
const REFLECTORS: usize = 2;

/// Plays it.
///
/// # Errors
/// If a step fails.
pub(super) fn play(options: &ModesOptions, report: &mut ModesReport, progress: &mut Progress) -> Result<()> {
    eprintln!("\n  The sequence of users, on another lab:");
    let net = ground(progress)?;
    let late = usize::from(options.nodes / 3).max(1);
    let early = usize::from(options.nodes) - late;
    let old = progress.step(&format!("{early} nodes in one subnet, IPIP Always, a mesh"), || {
        let nodes = (1..=early).map(|number| net.node(&format!("node{number}"))).collect::<Result<Vec<_>>>()?;
        nodes.first().context("a lab needs a node")?.apply(&Mode::Ipip.pool())?;
        begin(&nodes)?;
        Ok(nodes)
    })?;
    let first = old.first().context("a lab needs a node")?;
    let old_pods = progress.step("a pod a node", || start_pods(&old, 1))?;
    let old_pods: Vec<&Pod<'_, '_>> = old_pods.iter().collect();
    progress.step("BGP sessions, and ways by IPIP", || {
        old.iter().try_for_each(|node| established(node, old.len() - 1))?;
        bed::taken(Mode::Ipip, &old_pods)?;
        reached(&old_pods)
    })?;
    let traffic = calibrated(&old_pods, options.rate, "sequence", report, progress)?;

    step("IPIP Always → Never", report, progress, &traffic, || switch(first, Mode::Never, &old_pods))?;
    step("mesh → two route reflectors", report, progress, &traffic, || {
        reflect(&old)?;
        let clients = old.len() - REFLECTORS;
        for (number, node) in old.iter().enumerate() {
            established(node, if number < clients { REFLECTORS } else { old.len() - 1 })?;
        }
        bed::taken(Mode::Never, &old_pods)
    })?;
    let mut behind = None;
    let mut new = Vec::new();
    step(
        &format!("{late} nodes behind a router join; Never → IPIP CrossSubnet"),
        report,
        progress,
        &traffic,
        || {
            let made = Behind::new(&net)?;
            for number in 0..late {
                let host = u32::try_from(number)? + 11;
                new.push(made.node(&net, &format!("node{}", early + number + 1), host)?);
            }
            old.iter().try_for_each(|node| made.show_way(node))?;
            behind = Some(made);
            begin(&new)?;
            bed::peer_with_router(&old.iter().chain(&new).collect::<Vec<_>>())?;
            switch(first, Mode::IpipCrosssubnet, &old_pods)
        },
    )?;
    let new_pods = progress.step("a pod on each of them", || start_pods(&new, 1))?;
    let all: Vec<&Pod<'_, '_>> = old_pods.iter().copied().chain(&new_pods).collect();
    progress.step("ways by IPIP behind the router, plain in front of it", || {
        bed::taken(Mode::IpipCrosssubnet, &all)?;
        reached(&all)
    })?;
    drop(traffic);
    let traffic = calibrated(&all, options.rate, "sequence, with the new nodes", report, progress)?;
    step("IPIP CrossSubnet → VXLAN Always", report, progress, &traffic, || switch(first, Mode::Vxlan, &all))?;
    step("VXLAN Always → IPIP Always", report, progress, &traffic, || switch(first, Mode::Ipip, &all))?;
    progress.step("all daemons still run", || {
        behind.iter_mut().try_for_each(Behind::check)?;
        old.iter().chain(&new).try_for_each(Node::check)
    })
}

fn begin(nodes: &[Node<'_>]) -> Result<()> {
    nodes.iter().try_for_each(|node| node.start("felix", &[]))?;
    nodes.iter().try_for_each(|node| node.ready("felix", 9099))?;
    nodes.iter().try_for_each(Node::start_speaker)
}

fn switch(node: &Node<'_>, mode: Mode, pods: &[&Pod<'_, '_>]) -> Result<()> {
    node.apply(&mode.pool())?;
    bed::taken(mode, pods)
}

/// The last nodes become reflectors. Their peers come first and the mesh goes last, so that no node is ever without a session.
fn reflect(nodes: &[Node<'_>]) -> Result<()> {
    let first = nodes.first().context("a lab needs a node")?;
    let label = [("route-reflector", "true")];
    let peers = json!({"nodeSelector": "all()", "peerSelector": "route-reflector == 'true'"});
    let mut resources = vec![resource("BGPPeer", "peer-with-route-reflectors", peers)];
    for node in nodes.iter().rev().take(REFLECTORS) {
        resources.push(node_with(node, &label, &json!({"routeReflectorClusterID": "244.0.0.1"}))?);
    }
    let off = json!({"nodeToNodeMeshEnabled": false, "asNumber": 64512});
    resources.push(resource("BGPConfiguration", "default", off));
    apply(first, &resources)
}

fn step(
    what: &str,
    report: &mut ModesReport,
    progress: &mut Progress,
    traffic: &Traffic,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (loss, seconds) = progress.step(what, || {
        let begin = traffic.moment();
        let start = Instant::now();
        work()?;
        let seconds = start.elapsed().as_secs_f64();
        traffic.flow(AFTER)?;
        Ok((traffic.loss(begin, traffic.moment())?, seconds))
    })?;
    tell(what, &loss, seconds);
    report.sequence.push(Step { what: what.to_owned(), kernel: kernel(), seconds, rate: loss.rate, loss });
    Ok(())
}
