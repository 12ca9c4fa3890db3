//! What users do to a cluster over the years, on one that runs, without touching a pod.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use super::bed::{self, Behind};
use super::report::{Outcome, Step};
use super::switches::{largest, reached};
use super::{Flow, Mode, Play, kernel, tell};
use crate::lab::resources::{apply, node_with, resource};
use crate::lab::scenario::{established, start_pods};
use crate::node::Node;
use crate::pod::Pod;

/// How long packets flow after a step.
const AFTER: Duration = Duration::from_secs(2);
/// How many nodes reflect.
const REFLECTORS: usize = 2;

/// Plays it.
///
/// # Errors
/// If it cannot be begun or gone on with.
pub(super) fn play(play: &mut Play<'_>) -> Result<()> {
    eprintln!("\n  The sequence of users, on another lab:");
    let net = play.ground()?;
    let late = usize::from(play.options.nodes / 3).max(1);
    let early = usize::from(play.options.nodes) - late;
    let old = play.progress.step(&format!("{early} nodes in one subnet, IPIP Always, a mesh"), || {
        let nodes = (1..=early).map(|number| net.node(&format!("node{number}"))).collect::<Result<Vec<_>>>()?;
        nodes.first().context("a lab needs a node")?.apply(&Mode::Ipip.pool())?;
        begin(&nodes)?;
        Ok(nodes)
    })?;
    let first = old.first().context("a lab needs a node")?;
    let old_pods = play.progress.step("a pod a node", || start_pods(&old, 1))?;
    let old_pods: Vec<&Pod<'_, '_>> = old_pods.iter().collect();
    play.progress.step("BGP sessions, and ways by IPIP", || {
        old.iter().try_for_each(|node| established(node, old.len() - 1))?;
        bed::taken(Mode::Ipip, &old_pods)?;
        reached(&old_pods)
    })?;
    let flow = play.calibrated(&old_pods, "sequence")?;

    step("IPIP Always → Never", play, &flow, Mode::Never, &old_pods, || switch(first, Mode::Never, &old_pods))?;
    step("mesh → two route reflectors", play, &flow, Mode::Never, &old_pods, || {
        reflect(&old)?;
        let clients = old.len() - REFLECTORS;
        for (number, node) in old.iter().enumerate() {
            established(node, if number < clients { REFLECTORS } else { old.len() - 1 })?;
        }
        bed::taken(Mode::Never, &old_pods)
    })?;
    let mut behind = None;
    let mut new = Vec::new();
    step(&format!("{late} nodes behind a router join"), play, &flow, Mode::Never, &old_pods, || {
        let made = Behind::new(&net)?;
        for number in 0..late {
            let host = u32::try_from(number)? + 11;
            new.push(made.node(&net, &format!("node{}", early + number + 1), host)?);
        }
        old.iter().try_for_each(|node| made.show_way(node))?;
        behind = Some(made);
        begin(&new)?;
        bed::peer_with_router(&old.iter().chain(&new).collect::<Vec<_>>())?;
        // The reflectors and the router.
        new.iter().try_for_each(|node| established(node, REFLECTORS + 1))?;
        bed::taken(Mode::Never, &old_pods)
    })?;
    let new_pods = play.progress.step("a pod on each of them", || start_pods(&new, 1))?;
    let all: Vec<&Pod<'_, '_>> = old_pods.iter().copied().chain(&new_pods).collect();
    play.progress.step("plain ways through the router, which knows all blocks", || {
        bed::taken(Mode::Never, &all)?;
        reached(&all)
    })?;
    drop(flow);
    let flow = play.calibrated(&all, "sequence, with the new nodes")?;
    for (what, mode) in [
        ("Never → IPIP CrossSubnet", Mode::IpipCrosssubnet),
        ("IPIP CrossSubnet → VXLAN Always", Mode::Vxlan),
        ("VXLAN Always → IPIP Always", Mode::Ipip),
    ] {
        step(what, play, &flow, mode, &all, || switch(first, mode, &all))?;
    }
    play.progress.step("all daemons still run", || {
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
        resources.push(node_with(node, &label, &json!({"routeReflectorClusterID": "244.0.0.1"})));
    }
    let off = json!({"nodeToNodeMeshEnabled": false, "asNumber": 64512});
    resources.push(resource("BGPConfiguration", "default", off));
    apply(first, &resources)
}

/// Does one step under packets between these pods, after which they are in this mode.
///
/// # Errors
/// If the step failed, which is in the report then, or packets cannot be sent.
fn step(
    what: &str,
    play: &mut Play<'_>,
    flow: &Flow,
    mode: Mode,
    pods: &[&Pod<'_, '_>],
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (outcome, done) = play.progress.step(what, || {
        let begin = flow.traffic.moment();
        let start = Instant::now();
        let done = work();
        let seconds = start.elapsed().as_secs_f64();
        flow.traffic.flow(AFTER)?;
        let mut outcome = Outcome::new(seconds, flow.traffic.loss(begin, flow.traffic.moment())?, flow.usual);
        match &done {
            Ok(()) => largest(mode, pods, &mut outcome),
            Err(error) => outcome.wrong.push(format!("{error:#}")),
        }
        Ok((outcome, done))
    })?;
    tell(what, &outcome);
    play.report.sequence.push(Step { what: what.to_owned(), kernel: kernel(), outcome });
    play.keep()?;
    done.map_err(|_| anyhow!("the sequence of users ended at its step \"{what}\""))
}
