//! What the scenario prints: how many packets each change cost.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Mode;
use crate::traffic::Loss;

/// Packets while nothing changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baseline {
    /// On which kernel.
    pub kernel: String,
    /// For what they are the baseline.
    pub what: String,
    /// Packets a second between every two nodes, as they were asked for.
    pub wanted: u32,
    /// And as the kernel and the CPUs can.
    pub rate: u32,
    /// How many pairs.
    pub pairs: usize,
    /// What became of them.
    pub loss: Loss,
}

/// A change of mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Switch {
    /// From this mode.
    pub from: Mode,
    /// To this one.
    pub to: Mode,
    /// On which kernel.
    pub kernel: String,
    /// Seconds from `calicoctl apply` until every node's way was the new one.
    pub seconds: f64,
    /// Packets a second of each pair.
    pub rate: f64,
    /// The largest packet, in octets, that passes unfragmented to all nodes afterwards.
    pub largest: u32,
    /// What was not as it should be, besides lost packets.
    pub wrong: Vec<String>,
    /// What became of the packets.
    pub loss: Loss,
}

/// A step of the sequence of users.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// On which kernel.
    pub kernel: String,
    /// Seconds until all nodes had done it.
    pub seconds: f64,
    /// Packets a second of each pair.
    pub rate: f64,
    /// What became of the packets.
    pub loss: Loss,
}

/// What the scenario saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModesReport {
    /// While nothing changed.
    pub baselines: Vec<Baseline>,
    /// Every change.
    pub switches: Vec<Switch>,
    /// The sequence of users.
    pub sequence: Vec<Step>,
}

impl ModesReport {
    /// Whether all is as it should be: no packet lost, every way as the mode has it, the largest packets passed.
    pub fn good(&self) -> bool {
        let switches = self.switches.iter().all(|switch| switch.loss.lost == 0 && switch.wrong.is_empty());
        switches && self.sequence.iter().all(|step| step.loss.lost == 0)
    }

    /// Adds what was seen elsewhere.
    pub(super) fn extend(&mut self, other: Self) {
        self.baselines.extend(other.baselines);
        self.switches.extend(other.switches);
        self.sequence.extend(other.sequence);
    }
}

impl fmt::Display for ModesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for base in &self.baselines {
            let Baseline { kernel, what, wanted, rate, pairs, loss } = base;
            writeln!(
                f,
                "{kernel} ({what}): {pairs} streams of {:.0} packets a second; {} lost of {} while nothing changed",
                loss.rate, loss.lost, loss.sent
            )?;
            if rate < wanted {
                writeln!(f, "  ({wanted} were asked for; the CPUs do not carry them here)")?;
            }
        }
        if !self.switches.is_empty() {
            let kernel = self.switches.iter().map(|switch| switch.kernel.len()).max().unwrap_or(6).max(6);
            writeln!(
                f,
                "\n{:<18} {:<18} {:<kernel$} {:>6} {:>8} {:>6} {:>10} {:>10} {:>8}",
                "from", "to", "kernel", "pps", "sent", "lost", "longest ms", "switched s", "largest"
            )?;
        }
        for switch in &self.switches {
            let kernel = self.switches.iter().map(|switch| switch.kernel.len()).max().unwrap_or(6).max(6);
            let Switch { from, to, seconds, rate, largest, loss, wrong, .. } = switch;
            writeln!(
                f,
                "{:<18} {:<18} {:<kernel$} {rate:>6.0} {:>8} {:>6} {:>10.0} {seconds:>10.2} {largest:>8}",
                from.name(),
                to.name(),
                switch.kernel,
                loss.sent,
                loss.lost,
                loss.longest
            )?;
            for wrong in wrong {
                writeln!(f, "  WRONG: {wrong}")?;
            }
        }
        if !self.sequence.is_empty() {
            writeln!(f, "\nThe sequence of users, {}:", self.sequence.first().map_or("", |step| &step.kernel))?;
        }
        for Step { what, seconds, rate, loss, .. } in &self.sequence {
            writeln!(
                f,
                "  {what:<60} {rate:>6.0} pps {:>8} sent {:>6} lost {:>6.0} ms longest {seconds:>8.2} s",
                loss.sent, loss.lost, loss.longest
            )?;
        }
        let lost: u64 =
            self.switches.iter().map(|one| one.loss.lost).chain(self.sequence.iter().map(|one| one.loss.lost)).sum();
        let sent: u64 =
            self.switches.iter().map(|one| one.loss.sent).chain(self.sequence.iter().map(|one| one.loss.sent)).sum();
        write!(
            f,
            "\n{lost} of {sent} packets lost in {} changes of mode and {} steps.",
            self.switches.len(),
            self.sequence.len()
        )
    }
}
