//! What `cargo xtask lab --cluster` prints.

use std::fmt;

use serde::Serialize;

use super::FullNode;
use crate::cluster::{Outcome, Pings};

/// Something that must be so, and whether it is.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What must be so.
    pub what: String,
    /// Whether it is.
    pub good: bool,
    /// What was found.
    pub found: String,
}

impl Check {
    pub(super) fn new(what: impl Into<String>, good: bool, found: impl Into<String>) -> Self {
        Self { what: what.into(), good, found: found.into() }
    }
}

/// What a program printed.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// What a person would type for it.
    pub command: String,
    /// What it printed.
    pub text: String,
}

/// Packets between two nodes' pods while something happened to the nodes.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// From which node to which.
    pub pair: String,
    /// How many were sent.
    pub sent: u64,
    /// How many of them did not arrive.
    pub lost: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClusterReport {
    /// Ocicat's version and commit.
    pub version: String,
    /// What the cluster is made of.
    pub cluster: String,
    /// What the programs said.
    pub shown: Vec<Shown>,
    /// All pods' pings of each other.
    pub pings: Option<Pings>,
    /// What was lost while the DaemonSet was rolled.
    pub rolled: Vec<Load>,
    /// How long a node took to be full.
    pub full_node: Option<FullNode>,
    /// Kubernetes' end-to-end tests.
    pub e2e: Option<Outcome>,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// The phases and how many seconds each took.
    pub phases: Vec<(String, f64)>,
}

impl ClusterReport {
    /// Whether everything was as it must be.
    pub fn good(&self) -> bool {
        self.checks.iter().all(|check| check.good)
    }
}

impl fmt::Display for ClusterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Ocicat {} on {}\n", self.version, self.cluster)?;
        for shown in &self.shown {
            writeln!(f, "$ {}\n{}\n", shown.command, shown.text.trim_end())?;
        }
        if let Some(pings) = &self.pings {
            for lost in &pings.lost {
                writeln!(f, "LOST ping from {lost}")?;
            }
        }
        if !self.rolled.is_empty() {
            writeln!(f, "Packets while the DaemonSet was rolled:")?;
            for load in &self.rolled {
                writeln!(f, "  {:<16} {:>8} sent {:>8} lost", load.pair, load.sent, load.lost)?;
            }
            writeln!(f)?;
        }
        if let Some(full) = &self.full_node {
            let list = |all: &[f64]| all.iter().map(|one| format!("{one:>7.2} s")).collect::<String>();
            writeln!(f, "{} pods on one node, from kubectl apply to all Running:", full.pods)?;
            writeln!(f, "  Ocicat                 {}", list(&full.ocicat_seconds))?;
            writeln!(f, "  bridge with host-local {}", list(&full.bridge_seconds))?;
            writeln!(f, "  ratio of the means     {:>7.2}\n", full.ratio)?;
        }
        if let Some(outcome) = &self.e2e {
            for failure in &outcome.failed {
                let first = failure.message.lines().next().unwrap_or_default();
                writeln!(f, "FAILED {}\n       {first}", failure.name)?;
            }
        }
        writeln!(f, "Checks:")?;
        for check in &self.checks {
            writeln!(f, "  {:<5} {}: {}", if check.good { "ok" } else { "WRONG" }, check.what, check.found)?;
        }
        writeln!(f, "\nPhases:")?;
        for (phase, seconds) in &self.phases {
            writeln!(f, "  {phase:<60} {seconds:>7.2} s")?;
        }
        let wrong = self.checks.iter().filter(|check| !check.good).count();
        let total: f64 = self.phases.iter().map(|(_, seconds)| seconds).sum();
        writeln!(
            f,
            "\n{} of {} checks are as they must be; {total:.0} s.",
            self.checks.len() - wrong,
            self.checks.len()
        )
    }
}
