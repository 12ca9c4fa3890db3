//! A walk through changes of mode.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::bed::{self, Behind, is_behind};
use super::report::{Outcome, Switch};
use super::{Flow, Mode, Play, kernel, tell};
use crate::lab::scenario::{established, start_pods};
use crate::node::Node;
use crate::pod::Pod;
use crate::traffic::Traffic;

/// How long packets flow after every node has switched: what was withdrawn too early would be missed by then.
const AFTER: Duration = Duration::from_secs(2);

/// Plays it.
///
/// # Errors
/// If it cannot be begun, packets cannot be sent any more, or a daemon has ended.
pub(super) fn play(walk: &[Mode], play: &mut Play<'_>) -> Result<()> {
    let start = *walk.first().context("a walk has a start")?;
    let (options, net) = (play.options, play.ground()?);
    let mut behind = play.progress.step("a second subnet and its router, BIRD", || Behind::new(&net))?;
    let nodes = play.progress.step(&format!("{} nodes, half of them behind the router", options.nodes), || {
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
    play.progress.step(&format!("the pool, {}, and felix on every node", start.name()), || {
        first.apply(&start.pool())?;
        nodes.iter().try_for_each(|node| node.start("felix", &[]))?;
        nodes.iter().try_for_each(|node| node.ready("felix", 9099))
    })?;
    play.progress.step("bgp-speaker on every node, in a mesh and with the router", || {
        bed::peer_with_router(&nodes.iter().collect::<Vec<_>>())?;
        nodes.iter().try_for_each(Node::start_speaker)
    })?;
    let pods = play.progress.step("a pod a node", || start_pods(&nodes, 1))?;
    let pods: Vec<&Pod<'_, '_>> = pods.iter().collect();
    play.progress.step("BGP sessions with all nodes and the router", || {
        nodes.iter().try_for_each(|node| established(node, nodes.len()))
    })?;
    play.progress.step(&format!("every node's way is that of {}", start.name()), || {
        bed::taken(start, &pods).with_context(|| format!("the router's routes:\n{}", behind.routes()))?;
        reached(&pods)
    })?;
    let flow = play.calibrated(&pods, "changes")?;
    for pair in walk.windows(2) {
        let [from, to] = pair else { continue };
        let what = format!("{} → {}", from.name(), to.name());
        let outcome = play.progress.step(&what, || change(*to, &pods, &flow))?;
        tell(&what, &outcome);
        play.report.switches.push(Switch { from: *from, to: *to, kernel: kernel(), outcome });
        play.keep()?;
    }
    play.progress.step("all daemons still run", || {
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

/// One change; what fails in it is in what is returned.
fn change(to: Mode, pods: &[&Pod<'_, '_>], flow: &Flow) -> Result<Outcome> {
    let traffic = &flow.traffic;
    let begin = traffic.moment();
    let start = Instant::now();
    let first = pods.first().context("a lab needs a pod")?;
    let done = first.node().apply(&to.pool()).and_then(|_| bed::taken(to, pods));
    let seconds = start.elapsed().as_secs_f64();

    let before = pods.iter().map(|pod| bed::sent(pod.node())).collect::<Result<Vec<_>>>()?;
    let counted = traffic.moment();
    traffic.flow(AFTER)?;
    let end = traffic.moment();
    let mut wrong: Vec<String> = done.err().map(|error| format!("{error:#}")).into_iter().collect();
    for (pod, before) in pods.iter().zip(before) {
        wrong.extend(by_counters(to, pod, pods, &before, traffic, counted, end)?);
    }
    // Measured before the pings, which are packets too.
    let mut outcome = Outcome::new(seconds, traffic.loss(begin, end)?, flow.usual);
    outcome.wrong.extend(wrong);
    largest(to, pods, &mut outcome);
    Ok(outcome)
}

/// Finds the largest packet that passes from the first pod to all others.
pub(super) fn largest(mode: Mode, pods: &[&Pod<'_, '_>], outcome: &mut Outcome) {
    let Some((first, others)) = pods.split_first() else { return };
    for other in others {
        match bed::largest(mode, first, other) {
            Ok((size, path)) => {
                outcome.largest = Some(outcome.largest.map_or(size, |largest| largest.min(size)));
                if size < path {
                    let names = (first.name(), other.name());
                    outcome.wrong.push(format!("only {size} octets of {path} pass from {} to {}", names.0, names.1));
                }
            }
            Err(error) => outcome.wrong.push(format!("{error:#}")),
        }
    }
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
