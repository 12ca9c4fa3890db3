//! `--scenario modes`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use integration::lab::{Mode, ModesOptions, Progress, modes};

/// What only this scenario is told.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Scenario modes")]
pub(crate) struct ModesArguments {
    /// Changes between these modes only.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Mode::ALL)]
    modes: Vec<Mode>,
    /// Packets a second between every two nodes; fewer if the CPUs lose some while nothing changes.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
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

/// Plays it.
pub(crate) fn play(arguments: &ModesArguments, nodes: Option<u8>, json: bool) -> Result<bool> {
    let options = ModesOptions {
        modes: arguments.modes.clone(),
        rate: arguments.rate,
        nodes: nodes.unwrap_or(6),
        sequence: !arguments.no_sequence,
        only_ipip: arguments.only_ipip,
    };
    let report = modes(&options, &mut Progress::default())?;
    match &arguments.report {
        Some(path) => {
            std::fs::write(path, serde_json::to_vec(&report)?).with_context(|| path.display().to_string())?;
        }
        None => crate::print(&report, json)?,
    }
    Ok(report.good())
}
