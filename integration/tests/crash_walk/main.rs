//! `kill -9` at every step of ADD and DEL, walked and not sampled: of the plugin, of felix, of the API server. Then what
//! the runtime does: DEL, and the pod once more in another sandbox. No address is two pods', none is nobody's.
//! Needs Debian's `strace`.

#[path = "../credentials/account.rs"]
#[expect(dead_code, reason = "its own test uses the rest")]
mod account;
mod bed;
mod gate;
#[path = "../credentials/proxy.rs"]
#[expect(dead_code, reason = "its own test uses the rest")]
mod proxy;
mod sandbox;
mod server;
mod steps;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::{Net, PATIENCE, StoreKind, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use bed::Bed;
use sandbox::{End, Sandbox};
use steps::{Trap, names, recording, walk};

/// After a broken ADD: DEL for the same sandbox, then another sandbox for the same pod, which lives, and goes.
fn again(bed: &Bed<'_>, mut broken: Sandbox) -> Result<()> {
    let node = &bed.node;
    broken.del(node)?;
    let mut next = Sandbox::new(node, &format!("{}-next", broken.container), &broken.pod, broken.pool)?;
    next.add(node)?;
    // What the runtime repeats for the old one does not touch it.
    ensure!(matches!(broken.call(node, "DEL")?, End::Done), "DEL is to be repeatable");
    bed.settles("the next sandbox lives", &[&next])?;
    next.del(node)?;
    bed.settles("nothing is left", &[])
}

#[test]
fn the_plugin_is_killed_at_each_step_of_add() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let bed = Bed::new(&net)?;
    let file = net.directory().join("steps");
    let mut number = 1;
    let mut attempt = |arguments: &[String]| {
        let mut sandbox = Sandbox::new(&bed.node, &format!("add-{number}"), "web-0", number)?;
        number += 1;
        let killed = match sandbox.call_traced(&bed.node, "ADD", arguments)? {
            End::Killed => true,
            End::Done => false,
            End::Failed(error) => bail!("it was not killed, and failed: {error}"),
        };
        if !killed {
            bed.settles("the unbroken one lives", &[&sandbox])?;
        }
        again(&bed, sandbox)?;
        Ok(killed)
    };
    ensure!(!attempt(&recording(&file))?);
    let killed = walk(names(&file, 9)?, |step| attempt(&step.arguments()))?;
    ensure!(killed >= 9, "killed only {killed} times");
    bed.node.check()
}

#[test]
fn the_plugin_is_killed_at_each_step_of_del() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let bed = Bed::new(&net)?;
    let file = net.directory().join("steps");
    let mut number = 0;
    let mut attempt = |arguments: &[String]| {
        let mut sandbox = Sandbox::new(&bed.node, &format!("del-{number}"), "web-0", 0)?;
        number += 1;
        sandbox.add(&bed.node)?;
        let killed = match sandbox.call_traced(&bed.node, "DEL", arguments)? {
            End::Killed => true,
            End::Done => false,
            End::Failed(error) => bail!("it was not killed, and failed: {error}"),
        };
        sandbox.del(&bed.node)?;
        bed.settles("nothing is left", &[])?;
        Ok(killed)
    };
    ensure!(!attempt(&recording(&file))?);
    // It connects and asks; the rest is the agent's.
    let killed = walk(names(&file, 2)?, |step| attempt(&step.arguments()))?;
    ensure!(killed >= 2, "killed only {killed} times");
    bed.node.check()
}

/// Walks ADD or DEL of one pod after another, with felix killed at each step of one of its threads.
fn walk_felix(thread: &str, verb: &str, at_least: usize) -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let bed = Bed::new(&net)?;
    let file = net.directory().join("steps");
    let mut number = 1;
    let mut attempt = |arguments: &[String]| {
        let mut sandbox = Sandbox::new(&bed.node, &format!("{verb}-{number}").to_lowercase(), "web-0", number)?;
        // The runtime may try again before felix is back, or after.
        let early = number % 2 == 0;
        number += 1;
        if verb == "DEL" {
            sandbox.add(&bed.node)?;
        }
        let trap = Trap::set(bed.thread(thread)?, arguments)?;
        let end = sandbox.call(&bed.node, verb)?;
        if verb == "DEL" {
            // It is answered before all is done.
            wait::becomes(PATIENCE, "DEL is done, or felix is dead", || Ok(bed.felix_died()? || bed.is_settled(&[])?))?;
        }
        trap.spring()?;
        let died = bed.felix_died()?;
        let told = format!("{verb} ended so: {end:?}");
        match (verb, &end) {
            (_, End::Killed) => bail!("the plugin is not to be killed"),
            ("ADD", End::Done) => {
                if died {
                    bed.revive_felix().with_context(|| told.clone())?;
                }
                bed.settles("what was told to be connected is", &[&sandbox]).with_context(|| told.clone())?;
            }
            _ if died && early => {
                let end = sandbox.call(&bed.node, "DEL")?;
                ensure!(matches!(end, End::Done), "DEL without felix is remembered: {end:?}");
                bed.revive_felix().with_context(|| told.clone())?;
            }
            _ if died => bed.revive_felix().with_context(|| told.clone())?,
            (_, End::Failed(error)) => bail!("felix lives, but {error}"),
            (_, End::Done) => {}
        }
        if verb == "ADD" {
            again(&bed, sandbox).with_context(|| told.clone())?;
        } else {
            sandbox.del(&bed.node)?;
            bed.settles("nothing is left", &[]).with_context(|| told.clone())?;
        }
        Ok(died)
    };
    ensure!(!attempt(&recording(&file))?);
    let killed = walk(names(&file, at_least)?, |step| attempt(&step.arguments()))?;
    ensure!(killed as usize >= at_least, "killed only {killed} times");
    bed.node.check()
}

#[test]
fn felix_is_killed_at_each_step_of_add() -> Result<()> {
    walk_felix("felix", "ADD", 10)
}

#[test]
fn felix_is_killed_at_each_step_of_del() -> Result<()> {
    walk_felix("felix", "DEL", 5)
}

#[test]
fn felix_is_killed_at_each_write_of_its_store_in_add() -> Result<()> {
    walk_felix("sqlite", "ADD", 10)
}

#[test]
fn felix_is_killed_at_each_write_of_its_store_in_del() -> Result<()> {
    walk_felix("sqlite", "DEL", 5)
}

/// How long an old sandbox's DEL may work while the new one's ADD stands still; it may have to wait for that.
const MEANWHILE: Duration = Duration::from_millis(300);

#[test]
fn del_of_the_old_sandbox_comes_at_each_step_of_the_new_ones_add_and_does_not_touch_it() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let bed = Bed::new(&net)?;
    let (node, file) = (&bed.node, net.directory().join("steps"));
    let mut number = 1;
    let mut attempt = |arguments: &[String]| {
        let name = |age: &str| format!("{age}-{number}");
        let mut old = Sandbox::new(node, &name("old"), "web-0", number)?;
        old.add(node)?;
        node.run("ip", &["netns", "del", &old.container])?;
        let mut new = Sandbox::new(node, &name("new"), "web-0", number)?;
        number += 1;
        let mut add = new.start_traced(node, "ADD", arguments)?;
        let stopped = wait::until(PATIENCE, "ADD stands still or has ended", || {
            if std::fs::read_to_string(&file).is_ok_and(|text| text.contains("stopped by SIGSTOP")) {
                return Ok(Some(true));
            }
            Ok(add.try_wait()?.map(|_| false))
        })?;
        let mut del = old.start(&mut node.command("/opt/cni/bin/calico"), "DEL")?;
        if stopped {
            let start = Instant::now();
            wait::becomes(PATIENCE, "DEL is done, or waits", || {
                Ok(del.try_wait()?.is_some() || start.elapsed() > MEANWHILE)
            })?;
            // strace's only child is the plugin.
            let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", add.id()))?;
            kill(Pid::from_raw(children.trim().parse()?), Signal::SIGCONT)?;
        }
        let ends = (new.end(add, "ADD")?, old.end(del, "DEL")?);
        ensure!(matches!(ends, (End::Done, End::Done)), "ADD and DEL: {ends:?}");
        bed.settles("the new sandbox lives", &[&new])?;
        new.del(node)?;
        bed.settles("nothing is left", &[])?;
        Ok(stopped)
    };
    ensure!(!attempt(&recording(&file))?);
    let steps = names(&file, 9)?;
    let stopped = walk(steps, |step| {
        std::fs::remove_file(&file)?;
        attempt(&step.stopping(&file))
    })?;
    ensure!(stopped >= 9, "stopped only {stopped} times");
    bed.node.check()
}
