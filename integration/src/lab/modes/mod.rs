//! Every change of a pool's mode, on nodes that run, under packets between all of them.

mod bed;
mod mode;
mod report;
mod sequence;
mod switches;

use std::ffi::OsString;
use std::io::stderr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use mode::Mode;
pub use report::{Baseline, ModesReport, Step, Switch};

use super::Progress;
use crate::machine::{self, Machine, Shared};
use crate::net::{Net, StoreKind};
use crate::pod::Pod;
use crate::traffic::{Loss, Traffic};

/// What is to be played.
#[derive(Clone, Debug)]
pub struct ModesOptions {
    /// Changes between which modes.
    pub modes: Vec<Mode>,
    /// Packets a second between every two nodes.
    pub rate: u32,
    /// How many nodes, half of them in each subnet.
    pub nodes: u8,
    /// Whether the sequence of users is played too.
    pub sequence: bool,
    /// Only changes from or to IPIP (what the machine does for the host).
    pub only_ipip: bool,
}

/// Plays all of it: here what this kernel can, the rest in a machine.
///
/// # Errors
/// If a step fails. A packet that is lost is not a failure here, but in the report.
pub fn modes(options: &ModesOptions, progress: &mut Progress) -> Result<ModesReport> {
    ensure!(options.nodes >= 4, "two subnets need four nodes at least: --nodes 6");
    let ipip_here = machine::has_ipip();
    let all = mode::changes(&options.modes);
    let (ipip, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(from, to)| from.is_ipip() || to.is_ipip());
    let here = match (ipip_here, options.only_ipip) {
        (_, true) => ipip.clone(),
        (true, false) => ipip.iter().chain(&others).copied().collect(),
        (false, false) => others,
    };
    let mut report = ModesReport::default();
    if !here.is_empty() {
        switches::play(&mode::walk(&here), options, &mut report, progress)?;
    }
    if options.sequence && ipip_here {
        sequence::play(options, &mut report, progress)?;
    }
    if !ipip_here && (!ipip.is_empty() || options.sequence) {
        ensure!(!options.only_ipip, "this kernel has no ipip");
        report.extend(elsewhere(options, !ipip.is_empty())?);
    }
    Ok(report)
}

/// What the host's kernel cannot, in a machine.
fn elsewhere(options: &ModesOptions, switches: bool) -> Result<ModesReport> {
    eprintln!(
        "  this kernel has no ipip: what needs it runs in user-mode Linux, on one CPU, with as many packets as that can"
    );
    let shared = Shared::new()?;
    let names = options.modes.iter().filter_map(clap::ValueEnum::to_possible_value);
    let names: Vec<_> = names.map(|name| name.get_name().to_owned()).collect();
    // Without a change to make, only the sequence is left.
    let modes = if switches { names.join(",") } else { "never".to_owned() };
    let mut command = vec![std::env::current_exe()?.into_os_string()];
    let report = shared.inside("report.json");
    let (rate, nodes) = (options.rate.to_string(), options.nodes.to_string());
    let words =
        ["--scenario", "modes", "--modes", &modes, "--rate", &rate, "--nodes", &nodes, "--only-ipip", "--report"];
    command.extend(words.map(OsString::from));
    command.push(report.into());
    if !options.sequence {
        command.push("--no-sequence".into());
    }
    let limit = Duration::from_secs(3600);
    let status = Machine { limit, ..Machine::default() }.run(&shared, &command, &mut stderr())?;
    let text = std::fs::read_to_string(shared.path().join("report.json"));
    let text = text.with_context(|| format!("the lab in the machine ended with {status} and made no report"))?;
    serde_json::from_str(&text).context("the machine's report")
}

/// Where this runs, as a person reads it.
fn kernel() -> String {
    if machine::is_inside() { "user-mode Linux".to_owned() } else { "this kernel".to_owned() }
}

/// The topology's ground: a segment and a store.
fn ground(progress: &mut Progress) -> Result<Net> {
    progress.step("a segment and the SQLite store", || Net::new(StoreKind::Sqlite))
}

/// Starts packets at the highest rate, up to the wanted one, at which none is lost while nothing changes.
///
/// # Errors
/// If they cannot be sent.
fn calibrated(
    pods: &[&Pod<'_, '_>],
    wanted: u32,
    what: &str,
    report: &mut ModesReport,
    progress: &mut Progress,
) -> Result<Traffic> {
    let mut rate = wanted;
    loop {
        let (traffic, loss) =
            progress.step(&format!("{rate} packets a second between every two nodes, nothing changes"), || {
                let traffic = Traffic::start(pods, rate)?;
                traffic.flow(Duration::from_secs(1))?;
                let from = traffic.moment();
                traffic.flow(Duration::from_secs(3))?;
                let loss = traffic.loss(from, traffic.moment())?;
                Ok((traffic, loss))
            })?;
        let slow = loss.rate < 0.8 * f64::from(rate);
        if (loss.lost > 0 || slow) && rate > 10 {
            eprintln!("    {} lost of {}, {:.0} a second: fewer", loss.lost, loss.sent, loss.rate);
            rate /= 2;
            continue;
        }
        let pairs = traffic.pairs();
        report.baselines.push(Baseline { kernel: kernel(), what: what.to_owned(), wanted, rate, pairs, loss });
        return Ok(traffic);
    }
}

/// One line for the person who looks on.
fn tell(what: &str, loss: &Loss, seconds: f64) {
    eprintln!("    {what}: {} lost of {}, {seconds:.2} s until all nodes had switched", loss.lost, loss.sent);
    for (from, to, lost) in loss.pairs.iter().take(6) {
        eprintln!("      {lost} from {from} to {to}");
    }
}
