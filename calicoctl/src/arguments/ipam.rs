//! `calicoctl ipam …`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct Ipam {
    #[command(subcommand)]
    pub(crate) command: IpamCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    /// Show how full the pools are, or who holds an address.
    Show(IpamShow),
    /// Compare what IPAM holds with what is in use, and look whether its records are sound. Changes nothing.
    Check(IpamCheck),
    /// Release an address, or what reports of `ipam check` say is leaked.
    ///
    /// An address that is in use must not be released: it would be given to another. The controller ipam-controller
    /// releases leaked addresses by itself.
    Release(IpamRelease),
    /// Change the settings of address management.
    Configure(IpamConfigure),
}

#[derive(Debug, Args)]
pub(crate) struct IpamShow {
    /// Who holds this address.
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<String>,
    /// The blocks of each pool, too.
    #[arg(long)]
    pub(crate) show_blocks: bool,
    /// The settings of address management.
    #[arg(long)]
    pub(crate) show_configuration: bool,
}

#[derive(Debug, Args)]
pub(crate) struct IpamCheck {
    /// Print every address, and problems too.
    #[arg(long)]
    pub(crate) show_all_ips: bool,
    /// Print the addresses that have problems.
    #[arg(long)]
    pub(crate) show_problem_ips: bool,
    /// Write a report that `ipam release --from-report` reads.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// End with code 1 if there are problems.
    #[arg(long)]
    pub(crate) exit_code: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["ip", "from_report"])))]
pub(crate) struct IpamRelease {
    /// This address.
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<String>,
    /// What is leaked in this report; in all of them, if the flag is given more than once.
    #[arg(long, value_name = "FILE")]
    pub(crate) from_report: Vec<PathBuf>,
    /// With --from-report: even if the datastore is not locked, or the report was made by another version.
    #[arg(long, requires = "from_report")]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("setting").required(true).multiple(true)
    .args(["strictaffinity", "max_blocks_per_host", "kubevirt_ip_persistence", "ip_cooldown_seconds"])))]
pub(crate) struct IpamConfigure {
    /// Whether a node may only use its own blocks.
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    pub(crate) strictaffinity: Option<bool>,
    /// How many blocks a node may own; 0 is the default, 20.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) max_blocks_per_host: Option<u32>,
    /// Whether virtual machines keep their addresses.
    #[arg(long, value_name = "Enabled|Disabled", value_parser = ["Enabled", "Disabled"])]
    pub(crate) kubevirt_ip_persistence: Option<String>,
    /// For how long a released address is not given to another, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=1200))]
    pub(crate) ip_cooldown_seconds: Option<u32>,
}
