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
use self::load::{Load, Pairs};
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
            "\nMedians; ratios are of pairs measured one after the other. In a tunnel our packets between pods are tracked (address \
             translation), those by hand are not: what that costs is part of the ratio.\n{:<18} {:>12} {:>12} {:>6}   {:>9} {:>9} {:>6}   on {kernel}",
            "mode", "UDP pkt/s", "by hand", "ratio", "TCP Gb/s", "by hand", "ratio"
        )?;
    }
    for mode in here {
        eprintln!("  {} …", mode.name());
        let pairs = compare(mode, plan)?;
        let (ours, hand, ratio) = (Load::median(&pairs.ours), Load::median(&pairs.by_hand), pairs.ratio());
        writeln!(
            text,
            "{:<18} {:>12.0} {:>12.0} {:>6.3}   {:>9.2} {:>9.2} {:>6.3}",
            mode.name(),
            ours.packets,
            hand.packets,
            ratio.packets,
            ours.gigabits,
            hand.gigabits,
            ratio.gigabits
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
        let measurements = plan.modes.len() * 4 * plan.rounds.max(1) as usize;
        let machine = Machine::default();
        let limit = machine.limit + Duration::from_secs(plan.seconds.into()) * u32::try_from(measurements)?;
        let status = Machine { limit, ..machine }.run(&Shared::new()?, &command, &mut stderr())?;
        anyhow::ensure!(status == 0, "the bench in the machine ended with {status}");
    }
    Ok(text)
}

/// One end of a path.
pub(super) struct End {
    pub(super) network: OwnedFd,
    pub(super) address: IpAddr,
}

fn compare(mode: Mode, plan: &DataplanePlan) -> Result<Pairs> {
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
    let others = [net.node("hand1")?, net.node("hand2")?];
    let hand = ByHand::new([&others[0], &others[1]], mode)?;

    let end = |number: usize| -> Result<End> {
        Ok(End { network: pods[number].network()?, address: pods[number].address()? })
    };
    let mut pairs = Pairs::default();
    let time = Duration::from_secs(plan.seconds.into());
    for round in 0..plan.rounds.max(1) {
        // In turns, so that what else the machine does falls on both, and on neither more because it is the first.
        for ours in [round % 2 == 0, round % 2 == 1] {
            if ours {
                pairs.ours.push(load::measure(&end(0)?, &end(1)?, time)?);
            } else {
                pairs.by_hand.push(load::measure(&hand.end(0)?, &hand.end(1)?, time)?);
            }
        }
    }
    Ok(pairs)
}
