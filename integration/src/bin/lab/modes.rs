//! `--scenario modes`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use integration::lab::{Mode, ModesOptions, Progress, modes};

/// What only this scenario is told.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario modes")]
pub(crate) struct ModesArguments {
    /// Changes between these modes only. [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    modes: Vec<Mode>,
    /// Packets a second between every two nodes; fewer if the CPUs lose some while nothing changes. [default: 1000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: Option<u32>,
    /// Without the sequence of users: IPIP, Never, reflectors, a second subnet with CrossSubnet, VXLAN, IPIP again.
    #[arg(long)]
    no_sequence: bool,
    /// Only changes from or to IPIP.
    #[arg(long, hide = true)]
    only_ipip: bool,
    /// Write the report as JSON to this file too.
    #[arg(long, hide = true)]
    report: Option<PathBuf>,
}

impl ModesArguments {
    /// Whether any of it is said.
    pub(crate) fn given(&self) -> bool {
        !self.modes.is_empty() || self.rate.is_some() || self.no_sequence || self.only_ipip || self.report.is_some()
    }
}

/// Plays it.
pub(crate) fn play(
    arguments: &ModesArguments,
    nodes: Option<u8>,
    json: bool,
    announce: &dyn Fn(&Path),
) -> Result<bool> {
    let options = ModesOptions {
        modes: if arguments.modes.is_empty() { Mode::ALL.to_vec() } else { arguments.modes.clone() },
        rate: arguments.rate.unwrap_or(1000),
        nodes: nodes.unwrap_or(6),
        sequence: !arguments.no_sequence,
        only_ipip: arguments.only_ipip,
        report: arguments.report.clone(),
    };
    let report = modes(&options, &mut Progress::default(), announce)?;
    if options.report.is_none() {
        crate::print(&report, json)?;
    }
    Ok(report.good())
}
