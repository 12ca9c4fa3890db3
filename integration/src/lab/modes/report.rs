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

/// What became of a change or a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Seconds until every node had made it, or until it was given up.
    pub seconds: f64,
    /// The largest packet, in octets, that passes unfragmented to all nodes afterwards; none if none does.
    pub largest: Option<u32>,
    /// What was not as it should be, besides lost packets.
    pub wrong: Vec<String>,
    /// What became of the packets.
    pub loss: Loss,
}

impl Outcome {
    /// With what packets tell; `usual` is how many a second there are while nothing changes.
    pub(super) fn new(seconds: f64, loss: Loss, usual: f64) -> Self {
        // What a change itself costs is missing to those who send, and in a machine there is one CPU for all nodes.
        let few = loss.sent == 0 || loss.rate < usual / 4.0;
        let wrong = few.then(|| {
            format!(
                "only {:.0} packets a second of the usual {usual:.0} were sent: too few to tell anything",
                loss.rate
            )
        });
        Self { seconds, largest: None, wrong: wrong.into_iter().collect(), loss }
    }

    /// Whether nothing was lost and nothing wrong.
    pub fn good(&self) -> bool {
        self.loss.lost == 0 && self.wrong.is_empty()
    }
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
    /// What became of it; its time is that from `calicoctl apply` until every node's way was the new one.
    pub outcome: Outcome,
}

/// A step of the sequence of users.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// On which kernel.
    pub kernel: String,
    /// What became of it.
    pub outcome: Outcome,
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
    /// What ended a part of the scenario before its time.
    pub failed: Vec<String>,
}

impl ModesReport {
    /// Whether something was seen and all of it is as it should be: no packet lost of enough, every way as the mode
    /// has it, the largest packets passed.
    pub fn good(&self) -> bool {
        let mut outcomes = self.outcomes().peekable();
        let baselines = self.baselines.iter().all(|base| base.loss.sent > 0 && base.loss.lost == 0);
        self.failed.is_empty() && baselines && outcomes.peek().is_some() && outcomes.all(Outcome::good)
    }

    fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        let switches = self.switches.iter().map(|switch| &switch.outcome);
        switches.chain(self.sequence.iter().map(|step| &step.outcome))
    }

    /// Adds what was seen elsewhere.
    pub(super) fn extend(&mut self, other: Self) {
        self.baselines.extend(other.baselines);
        self.switches.extend(other.switches);
        self.sequence.extend(other.sequence);
        self.failed.extend(other.failed);
    }
}

/// The width of the columns `from` and `to`.
const MODE: usize = 18;

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
        let kernel = self.switches.iter().map(|switch| switch.kernel.len()).max().unwrap_or(6).max(6);
        let numbers = |outcome: &Outcome| {
            let Outcome { seconds, largest, loss, .. } = outcome;
            let largest = largest.map_or("-".to_owned(), |octets| octets.to_string());
            let Loss { sent, lost, rate, longest, .. } = loss;
            format!("{rate:>6.0} {sent:>8} {lost:>6} {longest:>10.0} {seconds:>10.2} {largest:>8}")
        };
        let head = format!(
            "{:>6} {:>8} {:>6} {:>10} {:>10} {:>8}",
            "pps", "sent", "lost", "longest ms", "done in s", "largest"
        );
        if !self.switches.is_empty() {
            writeln!(f, "\n{:<MODE$} {:<MODE$} {:<kernel$} {head}", "from", "to", "kernel")?;
        }
        for switch in &self.switches {
            let (from, to) = (switch.from.name(), switch.to.name());
            writeln!(f, "{from:<MODE$} {to:<MODE$} {:<kernel$} {}", switch.kernel, numbers(&switch.outcome))?;
            wrong(f, &switch.outcome)?;
        }
        if let Some(first) = self.sequence.first() {
            let width = self.sequence.iter().map(|step| step.what.chars().count()).max().unwrap_or(0);
            writeln!(f, "\n{:<width$} {head}", format!("The sequence of users, {}:", first.kernel))?;
            for step in &self.sequence {
                writeln!(f, "{:<width$} {}", step.what, numbers(&step.outcome))?;
                wrong(f, &step.outcome)?;
            }
        }
        for failed in &self.failed {
            writeln!(f, "\nFAILED: {failed}")?;
        }
        let lost: u64 = self.outcomes().map(|outcome| outcome.loss.lost).sum();
        let sent: u64 = self.outcomes().map(|outcome| outcome.loss.sent).sum();
        write!(
            f,
            "\n{lost} of {sent} packets lost in {} changes of mode and {} steps.",
            self.switches.len(),
            self.sequence.len()
        )?;
        let slower = self.baselines.iter().filter(|base| base.rate < base.wanted).map(|base| base.wanted).max();
        slower
            .map_or(Ok(()), |wanted| write!(f, " Not all of it at the {wanted} packets a second that were asked for."))
    }
}

fn wrong(f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    outcome.wrong.iter().try_for_each(|wrong| writeln!(f, "  WRONG: {wrong}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(sent: u64, lost: u64, rate: f64) -> Loss {
        Loss { sent, lost, rate, ..Loss::default() }
    }

    fn report(outcome: Outcome) -> ModesReport {
        let step = Step { what: "a step".into(), kernel: "this kernel".into(), outcome };
        ModesReport { sequence: vec![step], ..ModesReport::default() }
    }

    #[test]
    fn a_report_is_good_only_if_packets_were_sent_and_none_was_lost() {
        assert!(!ModesReport::default().good(), "nothing was seen");
        let good = report(Outcome::new(1.0, loss(3000, 0, 990.0), 1000.0));
        assert!(good.good(), "{good}");
        for (what, outcome) in [
            ("a lost packet", Outcome::new(1.0, loss(3000, 1, 990.0), 1000.0)),
            ("few packets", Outcome::new(1.0, loss(700, 0, 240.0), 1000.0)),
            ("none", Outcome::new(1.0, loss(0, 0, 0.0), 0.0)),
            ("a wrong way", Outcome { wrong: vec!["x".into()], ..Outcome::new(1.0, loss(3000, 0, 990.0), 1000.0) }),
        ] {
            assert!(!report(outcome).good(), "{what}");
        }
        let mut failed = good.clone();
        failed.failed.push("the router ended".into());
        assert!(!failed.good() && failed.to_string().contains("FAILED: the router ended"), "{failed}");
        let mut lossy = good;
        let base = Baseline {
            kernel: "this kernel".into(),
            what: "changes".into(),
            wanted: 1000,
            rate: 7,
            pairs: 30,
            loss: loss(630, 2, 7.0),
        };
        lossy.baselines.push(base);
        assert!(!lossy.good() && lossy.to_string().contains("Not all of it at the 1000 packets"), "{lossy}");
    }
}
