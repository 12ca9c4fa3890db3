//! Every change of a pool's mode, on nodes that run, under packets between all of them.

mod bed;
mod mode;
mod report;
mod sequence;
mod switches;

use std::ffi::OsString;
use std::io::stderr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use mode::Mode;
pub use report::{Baseline, ModesReport, Outcome, Step, Switch};

use super::Progress;
use crate::machine::{self, Machine, Shared};
use crate::net::{Net, StoreKind};
use crate::pod::Pod;
use crate::traffic::{Loss, Traffic};

/// How long the machine may take: five modes with six nodes are twenty changes and the sequence.
const MACHINE: Duration = Duration::from_secs(3600);

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
    /// Where the report is kept as JSON, as far as it goes.
    pub report: Option<PathBuf>,
}

/// Plays all of it: here what this kernel can, the rest in a machine. `announce` is told of every temporary folder.
///
/// # Errors
/// If it cannot be begun. What is lost or fails later, and all that was seen before, is in the report.
pub fn modes(options: &ModesOptions, progress: &mut Progress, announce: &dyn Fn(&Path)) -> Result<ModesReport> {
    ensure!(options.nodes >= 4, "two subnets need four nodes at least: --nodes 6");
    let ipip_here = machine::has_ipip();
    let all = mode::changes(&options.modes);
    ensure!(options.sequence || !all.is_empty(), "there is nothing to play: a change is between two modes");
    let (ipip, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(from, to)| from.is_ipip() || to.is_ipip());
    let here = match (ipip_here, options.only_ipip) {
        (_, true) => ipip.clone(),
        (true, false) => ipip.iter().chain(&others).copied().collect(),
        (false, false) => others,
    };
    let elsewhere = !ipip_here && (!ipip.is_empty() || options.sequence);
    if elsewhere {
        ensure!(!options.only_ipip, "this kernel has no ipip");
        Machine::default().check()?;
    }
    let mut play = Play { options, announce, report: ModesReport::default(), progress };
    if !here.is_empty() {
        let done = switches::play(&mode::walk(&here), &mut play);
        play.note(done)?;
    }
    if options.sequence && ipip_here {
        let done = sequence::play(&mut play);
        play.note(done)?;
    }
    if elsewhere {
        let done = play.elsewhere(!ipip.is_empty());
        play.note(done)?;
    }
    Ok(play.report)
}

/// What the parts of the scenario share.
struct Play<'a> {
    options: &'a ModesOptions,
    announce: &'a dyn Fn(&Path),
    report: ModesReport,
    progress: &'a mut Progress,
}

/// Packets under way, and how many of them there are while nothing changes.
struct Flow {
    traffic: Traffic,
    usual: f64,
}

impl Play<'_> {
    /// Remembers what ended a part: what was seen before counts all the same.
    fn note(&mut self, done: Result<()>) -> Result<()> {
        if let Err(error) = done {
            self.report.failed.push(format!("{error:#}"));
        }
        self.keep()
    }

    /// Keeps what is known by now: the time or the machine may end before the scenario does.
    fn keep(&self) -> Result<()> {
        let Some(path) = &self.options.report else { return Ok(()) };
        let new = path.with_extension("new");
        let written = std::fs::write(&new, serde_json::to_vec(&self.report)?);
        written.and_then(|()| std::fs::rename(&new, path)).with_context(|| path.display().to_string())
    }

    /// The topology's ground: a segment and a store.
    fn ground(&mut self) -> Result<Net> {
        self.progress.step("a segment and the SQLite store", || Net::announced(StoreKind::Sqlite, self.announce))
    }

    /// Starts packets at the highest rate, up to the wanted one, at which none is lost while nothing changes.
    ///
    /// # Errors
    /// If they cannot be sent.
    fn calibrated(&mut self, pods: &[&Pod<'_, '_>], what: &str) -> Result<Flow> {
        let wanted = self.options.rate;
        let mut rate = wanted;
        loop {
            let name = format!("{rate} packets a second between every two nodes, nothing changes");
            let (traffic, loss) = self.progress.step(&name, || {
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
            let (pairs, usual) = (traffic.pairs(), loss.rate);
            let what = what.to_owned();
            self.report.baselines.push(Baseline { kernel: kernel(), what, wanted, rate, pairs, loss });
            self.keep()?;
            return Ok(Flow { traffic, usual });
        }
    }

    /// What the host's kernel cannot, in a machine.
    fn elsewhere(&mut self, switches: bool) -> Result<()> {
        eprintln!(
            "  this kernel has no ipip: what needs it runs in user-mode Linux, on one CPU, with as many packets as that can, \
             and without packet rules, which that kernel has not"
        );
        let options = self.options;
        let shared = Shared::announced(self.announce)?;
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
        let ended = Machine { limit: MACHINE, ..Machine::default() }.run(&shared, &command, &mut stderr());
        // However it ended: what it had seen by then counts.
        let text = std::fs::read_to_string(shared.path().join("report.json"));
        let seen: Option<ModesReport> = text.ok().map(|text| serde_json::from_str(&text)).transpose()?;
        let good = seen.as_ref().map(ModesReport::good);
        self.report.extend(seen.unwrap_or_default());
        match (ended?, good) {
            (status, None) => anyhow::bail!("the lab in the machine ended with {status} and made no report"),
            (status, Some(true)) if status != 0 => {
                anyhow::bail!("the lab in the machine ended with {status}, though its report is good")
            }
            _ => Ok(()),
        }
    }
}

/// Where this runs, as a person reads it.
fn kernel() -> String {
    if machine::is_inside() { "user-mode Linux, no packet rules".to_owned() } else { "this kernel".to_owned() }
}

/// One line for the person who looks on, and one for all that was wrong.
fn tell(what: &str, outcome: &Outcome) {
    let Outcome { loss: Loss { lost, sent, pairs, .. }, seconds, wrong, .. } = outcome;
    eprintln!("    {what}: {lost} lost of {sent}, {seconds:.2} s until all nodes had switched");
    for (from, to, lost) in pairs.iter().take(6) {
        eprintln!("      {lost} from {from} to {to}");
    }
    for wrong in wrong {
        eprintln!("      {wrong}");
    }
}
