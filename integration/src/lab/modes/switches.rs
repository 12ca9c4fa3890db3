//! A walk through changes of mode.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::bed::{self, Behind, is_behind};
use super::report::Switch;
use super::{Mode, ModesOptions, ModesReport, calibrated, ground, kernel, tell};
use crate::lab::Progress;
use crate::lab::scenario::{established, start_pods};
use crate::node::Node;
use crate::pod::Pod;
use crate::traffic::Traffic;

/// How long packets flow after every node has switched: what was withdrawn too early would be missed by then.
const AFTER: Duration = Duration::from_secs(2);

/// Plays it.
///
/// # Errors
/// If a step fails.
pub(super) fn play(
    walk: &[Mode],
    options: &ModesOptions,
    report: &mut ModesReport,
    progress: &mut Progress,
) -> Result<()> {
    let start = *walk.first().context("a walk has a start")?;
    let net = ground(progress)?;
    let mut behind = progress.step("a second subnet and its router, BIRD", || Behind::new(&net))?;
    let nodes = progress.step(&format!("{} nodes, half of them behind the router", options.nodes), || {
        let first = options.nodes / 2;
        let node = |number: u8| {
            let name = format!("node{number}");
            if number <= first {
                let node = net.node(&name)?;
                behind.show_way(&node)?;
                Ok(node)
            } else {
                behind.node(&net, &name, u32::from(number) + 10)
            }
        };
        (1..=options.nodes).map(node).collect::<Result<Vec<_>>>()
    })?;
    let first = nodes.first().context("a lab needs a node")?;
    progress.step(&format!("the pool, {}, and felix on every node", start.name()), || {
        first.apply(&start.pool())?;
        nodes.iter().try_for_each(|node| node.start("felix", &[]))?;
        nodes.iter().try_for_each(|node| node.ready("felix", 9099))
    })?;
    progress.step("bgp-speaker on every node, in a mesh and with the router", || {
        bed::peer_with_router(&nodes.iter().collect::<Vec<_>>())?;
        nodes.iter().try_for_each(Node::start_speaker)
    })?;
    let pods = progress.step("a pod a node", || start_pods(&nodes, 1))?;
    let pods: Vec<&Pod<'_, '_>> = pods.iter().collect();
    progress.step("BGP sessions with all nodes and the router", || {
        nodes.iter().try_for_each(|node| established(node, nodes.len()))
    })?;
    progress.step(&format!("every node's way is that of {}", start.name()), || {
        bed::taken(start, &pods).with_context(|| format!("the router's routes:\n{}", behind.routes()))?;
        reached(&pods)
    })?;
    let traffic = calibrated(&pods, options.rate, "changes", report, progress)?;
    for pair in walk.windows(2) {
        let [from, to] = pair else { continue };
        let what = format!("{} → {}", from.name(), to.name());
        let done = progress.step(&what, || change(*from, *to, &pods, &traffic))?;
        tell(&what, &done.loss, done.seconds);
        report.switches.push(done);
    }
    progress.step("all daemons still run", || {
        behind.check()?;
        nodes.iter().try_for_each(Node::check)
    })
}

/// Waits until every pod reaches every other: the router may learn a block later than the nodes do.
pub(super) fn reached(pods: &[&Pod<'_, '_>]) -> Result<()> {
    for from in pods {
        for to in pods {
            let address = to.address()?;
            crate::wait::becomes(crate::PATIENCE, &format!("{} reaches {}", from.name(), to.name()), || {
                from.ping(address).map(|_| true)
            })?;
        }
    }
    Ok(())
}

fn change(from: Mode, to: Mode, pods: &[&Pod<'_, '_>], traffic: &Traffic) -> Result<Switch> {
    let begin = traffic.moment();
    let start = Instant::now();
    let first = pods.first().context("a lab needs a pod")?;
    first.node().apply(&to.pool())?;
    bed::taken(to, pods)?;
    let seconds = start.elapsed().as_secs_f64();

    let before = pods.iter().map(|pod| bed::sent(pod.node())).collect::<Result<Vec<_>>>()?;
    let counted = traffic.moment();
    traffic.flow(AFTER)?;
    let end = traffic.moment();
    let mut wrong = Vec::new();
    for (pod, before) in pods.iter().zip(before) {
        wrong.extend(by_counters(to, pod, pods, &before, traffic, counted, end)?);
    }
    // Measured before the pings, which are packets too.
    let loss = traffic.loss(begin, end)?;
    let mut smallest = u32::MAX;
    for other in pods.iter().skip(1) {
        match bed::largest(to, first, other) {
            Ok((size, path)) => {
                smallest = smallest.min(size);
                if size < path {
                    wrong.push(format!("only {size} octets of {path} pass from {} to {}", first.name(), other.name()));
                }
            }
            Err(error) => wrong.push(format!("{error:#}")),
        }
    }
    let rate = loss.rate;
    Ok(Switch { from, to, kernel: kernel(), seconds, rate, largest: smallest, wrong, loss })
}

/// Whether a node's devices carried what the mode says: the packets went the way that the routes told.
fn by_counters(
    mode: Mode,
    from: &Pod<'_, '_>,
    pods: &[&Pod<'_, '_>],
    before: &std::collections::BTreeMap<String, u64>,
    traffic: &Traffic,
    counted: crate::traffic::Moment,
    end: crate::traffic::Moment,
) -> Result<Option<String>> {
    let after = bed::sent(from.node())?;
    let rounds = traffic.rounds(counted, end);
    for device in ["tunl0", "vxlan.calico"] {
        let count = |counts: &std::collections::BTreeMap<String, u64>| counts.get(device).copied().unwrap_or(0);
        let carried = count(&after).saturating_sub(count(before));
        let through = pods
            .iter()
            .filter(|to| to.node().name() != from.node().name())
            .filter(|to| mode.device(is_behind(from.node()) != is_behind(to.node())) == device);
        let expected = rounds * u64::try_from(through.count())?;
        // The readings are not taken at one instant, and a tunnel that lingers may carry what a late node still answers.
        let good = if expected == 0 { carried < rounds / 2 } else { carried >= expected / 2 };
        if !good {
            let node = from.node().name();
            return Ok(Some(format!("{device} of {node} sent {carried} packets where {expected} were to be expected")));
        }
    }
    Ok(None)
}
