//! A pod's start and stop: our plugin and agent against the reference plugins, turn by turn in one run.
//!
//! The times are from exec to exit of a plugin that a runtime would call, with its input and output in files. What the
//! kernel and the exec alone cost stands beside them ([`floor`]), and what a server behind the store was asked ([`calls`]).

mod aims;
mod caller;
mod calls;
mod floor;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use self::aims::{Aim, aims};
use self::caller::{Caller, Contender, Crowd};
use super::sample::Sample;
use crate::lab::{Lab, Options, Progress};
use crate::net::{Net, StoreKind};
use crate::wait;

/// How many DELs are timed together, until nothing is left of their pods.
const LEAVING: u32 = 100;

/// Within what nothing may be left after the last DEL.
const LEFT: Duration = Duration::from_secs(60);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where our plugin's agent keeps its records.
    pub store: StoreKind,
    /// How many pods each plugin is measured with, for each setting.
    pub count: u32,
    /// In how many turns.
    pub rounds: u32,
    /// How many pods are there already.
    pub kept: Vec<u32>,
    /// How many callers there are at once.
    pub at_once: Vec<u32>,
}

/// One plugin's times at one setting.
#[derive(Default)]
struct Times {
    add: Sample,
    del: Sample,
    /// Wall time of all ADDs and of all DELs.
    adding: Duration,
    deleting: Duration,
    /// Processor time of an operation: the plugin's processes and the agent, in milliseconds.
    cpu: f64,
}

/// Measures a plan.
///
/// # Errors
/// If a plugin fails.
pub fn cni(plan: &Plan) -> Result<String> {
    let options = Options { nodes: 1, pods: 0, store: plan.store };
    let mut progress = Progress::default();
    let net = Net::new(plan.store)?;
    let nodes = Lab::nodes(&net, options, &mut progress)?;
    let node = nodes.first().context("a node was asked for")?;
    let caller = Caller::of(node)?;
    let contenders = [Contender::ours(), Contender::reference()];
    let mut text = floor::measure(&caller, plan.count)?;
    writeln!(
        text,
        "\n{:<6} {:<8} {:<18} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "kept", "at once", "plugin", "ADD p50", "ADD p99", "ADD/s", "DEL p50", "DEL p99", "DEL/s", "cpu"
    )?;
    for kept in &plan.kept {
        for at_once in &plan.at_once {
            for contender in &contenders {
                (0..*kept).try_for_each(|number| caller.add(contender, &format!("kept-{number}")).map(drop))?;
            }
            let mut times: [Times; 2] = Default::default();
            // The first round warms everything up.
            for round in 0..=plan.rounds {
                for (contender, times) in contenders.iter().zip(&mut times) {
                    let mut unheard = Times::default();
                    let times = if round == 0 { &mut unheard } else { times };
                    let count = if round == 0 { *at_once } else { plan.count.div_ceil(plan.rounds) };
                    play(&caller, contender, &format!("r{round}"), count, *at_once, times)?;
                    gone(&caller, contender, *kept)?;
                }
            }
            rows(&mut text, plan.store, (*kept, *at_once), &contenders, &times)?;
            for contender in &contenders {
                (0..*kept).try_for_each(|number| caller.del(contender, &format!("kept-{number}")).map(drop))?;
                gone(&caller, contender, 0)?;
            }
        }
    }
    text += &leaving(&caller, &contenders)?;
    text += &calls::measure(&net, &caller, &contenders[0], plan.count)?;
    text += "Milliseconds from exec to exit of the plugin, by turns in one run; cpu is processor time of an ADD and its DEL.\n";
    Ok(text)
}

/// A round of one plugin: as `nlbench cniexec` has it, ADD and DEL in turn, or all ADDs and then all DELs by a crowd.
fn play(
    caller: &Caller,
    contender: &Contender,
    round: &str,
    count: u32,
    at_once: u32,
    times: &mut Times,
) -> Result<()> {
    let names: Vec<String> = (0..count).map(|number| format!("{round}-{number}")).collect();
    let before = caller.cpu(contender)?;
    if at_once == 1 {
        for name in &names {
            caller.prepare(contender, name)?;
            let add = caller.exec(contender, "ADD", name)?;
            let del = caller.exec(contender, "DEL", name)?;
            times.add.add(add);
            times.del.add(del);
            times.adding += add;
            times.deleting += del;
            caller.clear(contender, name)?;
        }
    } else {
        names.iter().try_for_each(|name| caller.prepare(contender, name))?;
        for (verb, sample, whole) in
            [("ADD", &mut times.add, &mut times.adding), ("DEL", &mut times.del, &mut times.deleting)]
        {
            let Crowd { each, took } = caller.crowd(contender, verb, &names, at_once)?;
            each.into_iter().for_each(|time| sample.add(time));
            *whole += took;
        }
        names.iter().try_for_each(|name| caller.clear(contender, name))?;
    }
    times.cpu += caller.cpu(contender)? - before;
    Ok(())
}

/// Waits until only so many pods are left of a plugin.
fn gone(caller: &Caller, contender: &Contender, kept: u32) -> Result<()> {
    wait::becomes(LEFT, &format!("{kept} pods of {} are left", contender.name), || Ok(caller.left(contender)? <= kept))
}

fn rows(
    text: &mut String,
    store: StoreKind,
    (kept, at_once): (u32, u32),
    contenders: &[Contender; 2],
    times: &[Times; 2],
) -> Result<()> {
    let mut figures = Vec::new();
    for (contender, times) in contenders.iter().zip(times) {
        let count = f64::from(u32::try_from(times.add.len())?);
        let row = [
            times.add.quantile(0.5),
            times.add.quantile(0.99),
            count / times.adding.as_secs_f64(),
            times.del.quantile(0.5),
            times.del.quantile(0.99),
            count / times.deleting.as_secs_f64(),
            times.cpu / count,
        ];
        line(text, kept, at_once, contender.name, row, 2)?;
        figures.push(row);
    }
    if let [ours, theirs] = figures.as_slice() {
        let mut ratio = [0.0; 7];
        for (ratio, (ours, theirs)) in ratio.iter_mut().zip(ours.iter().zip(theirs)) {
            *ratio = ours / theirs;
        }
        line(text, kept, at_once, "ratio", ratio, 3)?;
        for aim in aims(store, at_once, ours, &ratio) {
            writeln!(text, "{kept:<6} {at_once:<8} aim: {aim}")?;
        }
    }
    Ok(())
}

fn line(text: &mut String, kept: u32, at_once: u32, name: &str, row: [f64; 7], places: usize) -> Result<()> {
    write!(text, "{kept:<6} {at_once:<8} {name:<18}")?;
    row.iter().try_for_each(|figure| write!(text, " {figure:>8.places$}"))?;
    Ok(writeln!(text)?)
}

/// How long it takes from the first of many DELs, one after the other, until nothing is left.
fn leaving(caller: &Caller, contenders: &[Contender; 2]) -> Result<String> {
    let mut took = Vec::new();
    let mut text = String::new();
    for contender in contenders {
        let names: Vec<String> = (0..LEAVING).map(|number| format!("leaving-{number}")).collect();
        names.iter().try_for_each(|name| caller.add(contender, name).map(drop))?;
        let start = Instant::now();
        names.iter().try_for_each(|name| caller.exec(contender, "DEL", name).map(drop))?;
        let said = start.elapsed();
        while caller.left(contender)? > 0 {
            if start.elapsed() > LEFT {
                bail!("{} has left interfaces or releases", contender.name);
            }
            std::thread::yield_now();
        }
        let all = start.elapsed();
        let [said, all] = [said, all].map(|time| time.as_secs_f64() * 1000.0);
        writeln!(
            text,
            "{LEAVING} DELs of {:<18} answered after {said:>9.1} ms, nothing left after {all:>9.1} ms",
            contender.name
        )?;
        took.push(all);
        names.iter().try_for_each(|name| caller.clear(contender, name))?;
    }
    if let [ours, theirs] = took.as_slice() {
        writeln!(text, "{LEAVING} DELs, {}", Aim::leaving(ours / theirs))?;
    }
    Ok(text)
}

impl Contender {
    fn ours() -> Self {
        Self {
            name: "calico",
            program: "/opt/cni/bin/calico",
            netconf: json!({"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico",
                "log_level": "info", "log_file_path": "/var/log/calico/cni/cni.log", "ipam": {"type": "calico-ipam"}}),
            interfaces: "cali",
            pending: "/var/lib/calico/pending-releases",
            agent: Some("felix"),
        }
    }

    fn reference() -> Self {
        Self {
            name: "ptp + host-local",
            program: "/usr/lib/cni/ptp",
            netconf: json!({"cniVersion": "1.0.0", "name": "reference", "type": "ptp", "ipMasq": false,
                "ipam": {"type": "host-local", "subnet": "10.245.0.0/16", "dataDir": "/run/host-local"}}),
            interfaces: "veth",
            pending: "/run/none",
            agent: None,
        }
    }
}
