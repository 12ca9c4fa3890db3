//! Packets and octets a second from pod to pod over two nodes, against the same path built by hand.

mod by_hand;
mod load;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::stderr;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result};

use self::by_hand::ByHand;
use self::load::{Load, Turns};
use crate::lab::Mode;
use crate::machine::{self, Machine, Shared};
use crate::net::{Net, StoreKind};
use crate::node::{Node, PATIENCE};
use crate::wait;

/// What is measured.
#[derive(Clone, Debug)]
pub struct DataplanePlan {
    /// In which modes.
    pub modes: Vec<Mode>,
    /// How often each path is measured; the median counts.
    pub rounds: u32,
    /// Seconds of each measurement.
    pub seconds: u32,
}

/// Measures; IPIP in a machine if this kernel has none.
///
/// # Errors
/// If a path cannot be made.
pub fn dataplane(plan: &DataplanePlan) -> Result<String> {
    let ipip_here = machine::has_ipip();
    let (here, there): (Vec<Mode>, Vec<Mode>) = plan.modes.iter().partition(|mode| ipip_here || !mode.is_ipip());
    let mut text = String::new();
    let kernel = if machine::is_inside() { "user-mode Linux, one CPU" } else { "this kernel" };
    if !here.is_empty() {
        writeln!(
            text,
            "\nMedians; ratios are of paths measured one after the other. In a tunnel our packets between pods are tracked (address \
             translation), those by hand are not: what that costs is part of the ratio. The ratios named \"tracked\" are to a path \
             by hand on nodes that track connections, as they do with kube-proxy.\n{:<18} {:>12} {:>12} {:>6} {:>8}   {:>9} {:>9} {:>6} {:>8}   on {kernel}",
            "mode", "UDP pkt/s", "by hand", "ratio", "tracked", "TCP Gb/s", "by hand", "ratio", "tracked"
        )?;
    }
    for mode in here {
        eprintln!("  {} …", mode.name());
        let turns = compare(mode, plan)?;
        let (ours, hand) = (Load::median(&turns.ours), Load::median(&turns.by_hand));
        let (ratio, tracked) = (turns.ratio(&turns.by_hand), turns.ratio(&turns.tracked));
        writeln!(
            text,
            "{:<18} {:>12.0} {:>12.0} {:>6.3} {:>8}   {:>9.2} {:>9.2} {:>6.3} {:>8}",
            mode.name(),
            ours.packets,
            hand.packets,
            ratio.packets,
            if_any(tracked.packets),
            ours.gigabits,
            hand.gigabits,
            ratio.gigabits,
            if_any(tracked.gigabits)
        )?;
    }
    if !there.is_empty() {
        eprintln!("  this kernel has no ipip: that is measured in user-mode Linux");
        let mut command = vec![std::env::current_exe()?.into_os_string()];
        let (rounds, seconds) = (plan.rounds.to_string(), plan.seconds.to_string());
        command.extend(["dataplane", "--rounds", &rounds, "--seconds", &seconds].map(OsString::from));
        for mode in there {
            let name = clap::ValueEnum::to_possible_value(&mode).context("every mode has a name")?;
            command.extend(["--modes".into(), OsString::from(name.get_name())]);
        }
        let measurements = plan.modes.len() * 6 * plan.rounds.max(1) as usize;
        let machine = Machine::default();
        let limit = machine.limit + Duration::from_secs(plan.seconds.into()) * u32::try_from(measurements)?;
        let status = Machine { limit, ..machine }.run(&Shared::new()?, &command, &mut stderr())?;
        anyhow::ensure!(status == 0, "the bench in the machine ended with {status}");
    }
    Ok(text)
}

fn if_any(ratio: f64) -> String {
    if ratio.is_nan() { "-".to_owned() } else { format!("{ratio:.3}") }
}

/// One end of a path.
pub(super) struct End {
    pub(super) network: OwnedFd,
    pub(super) address: IpAddr,
}

fn compare(mode: Mode, plan: &DataplanePlan) -> Result<Turns> {
    let net = Net::new(StoreKind::Sqlite)?;
    let nodes = [net.node("one")?, net.node("two")?];
    nodes[0].apply(&mode.pool())?;
    nodes.iter().try_for_each(|node| node.start("felix", &[]))?;
    nodes.iter().try_for_each(|node| node.ready("felix", 9099))?;
    nodes.iter().try_for_each(Node::start_speaker)?;
    let pods = [nodes[0].pod("a")?, nodes[1].pod("b")?];
    let device = mode.device(false);
    for (node, pod) in nodes.iter().zip(pods.iter().rev()) {
        let address = pod.address()?.to_string();
        wait::becomes(PATIENCE, &format!("{} reaches {address} by {device}", node.name()), || {
            Ok(node.run("ip", &["-o", "route", "get", &address])?.contains(&format!("dev {device} ")))
        })?;
    }
    let others = [net.node("hand1")?, net.node("hand2")?, net.node("hand3")?, net.node("hand4")?];
    let [first, second, third, fourth] = &others;
    let hand = ByHand::new([first, second], mode)?;
    // A plain path of ours is not tracked, and a machine's kernel has no packet rules.
    let tracking = (mode != Mode::Never && !machine::is_inside()).then(|| ByHand::tracking([third, fourth], mode));
    let tracking = tracking.transpose()?;

    let end = |number: usize| -> Result<End> {
        Ok(End { network: pods[number].network()?, address: pods[number].address()? })
    };
    let mut turns = Turns::default();
    let time = Duration::from_secs(plan.seconds.into());
    for round in 0..plan.rounds.max(1) {
        // In turns, so that what else the machine does falls on all, and on none more because it is the first.
        for turn in (0..3).map(|turn| (turn + round) % 3) {
            match (turn, &tracking) {
                (0, _) => turns.ours.push(load::measure(&end(0)?, &end(1)?, time)?),
                (1, _) => turns.by_hand.push(load::measure(&hand.end(0)?, &hand.end(1)?, time)?),
                (_, Some(hand)) => turns.tracked.push(load::measure(&hand.end(0)?, &hand.end(1)?, time)?),
                (_, None) => {}
            }
        }
    }
    Ok(turns)
}
