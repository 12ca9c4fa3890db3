//! The steps of an operation: system calls by which a program changes something outside of itself, or tells somebody
//! something. `strace` records which there are, and kills the program as it begins with one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use integration::{PATIENCE, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// All such calls that are known here.
const CHANGES: &str = "connect,sendto,sendmsg,write,writev,pwrite64,setns,rename,renameat,renameat2,fsync,fdatasync,\
     ftruncate,unlink,unlinkat,mkdir,mkdirat,bind,kill";

/// More than any operation has of one call.
const MOST: u32 = 200;

/// The `number`-th call of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    name: String,
    number: u32,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} number {}", self.name, self.number)
    }
}

impl Step {
    /// What `strace` is told, to kill at this step.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { name, number } = self;
        ["-qqq", "-o", "/dev/null", "-e", "signal=none"]
            .map(str::to_owned)
            .into_iter()
            .chain(["-e".to_owned(), format!("trace={name}")])
            .chain(["-e".to_owned(), format!("inject={name}:signal=KILL:when={number}")])
            .collect()
    }

    /// What `strace` is told, to stop the program at this step; it writes to a file when that has happened.
    pub(crate) fn stopping(&self, file: &Path) -> Vec<String> {
        let Self { name, number } = self;
        let inject = format!("inject={name}:signal=STOP:when={number}");
        ["-qqq", "-o", &file.display().to_string(), "-e", &format!("trace={name}"), "-e", &inject]
            .map(str::to_owned)
            .to_vec()
    }
}

/// What `strace` is told, to write down all steps.
pub(crate) fn recording(file: &Path) -> Vec<String> {
    let words = ["-qqq", "-o", &file.display().to_string(), "-e", "signal=none", "-e", &format!("trace={CHANGES}")];
    words.map(str::to_owned).to_vec()
}

/// The names of the calls in a recording, of which there must be so many at least.
pub(crate) fn names(file: &Path, at_least: usize) -> Result<BTreeSet<String>> {
    Ok(steps(file, at_least)?.into_iter().map(|step| step.name).collect())
}

/// The steps of a recording, of which there must be so many at least: each thread's calls are counted by themselves.
pub(crate) fn steps(file: &Path, at_least: usize) -> Result<Vec<Step>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut counts = BTreeMap::<(&str, &str), u32>::new();
    for call in text.lines().filter_map(|line| line.split_once('(')) {
        let (thread, name) = call.0.trim().rsplit_once(' ').unwrap_or(("", call.0));
        if CHANGES.split(',').any(|change| change == name) {
            *counts.entry((thread.trim(), name)).or_default() += 1;
        }
    }
    let calls: u32 = counts.values().sum();
    ensure!(calls as usize >= at_least, "of {at_least} steps at least only these were recorded:\n{text}");
    let mut most = BTreeMap::<&str, u32>::new();
    for ((_, name), count) in counts {
        let known = most.entry(name).or_default();
        *known = (*known).max(count);
    }
    let each = most.iter().flat_map(|(name, count)| (1..=*count).map(move |number| (name, number)));
    Ok(each.map(|(name, number)| Step { name: (*name).to_owned(), number }).collect())
}

/// Does `attempt` with one step after the other of each name, until it says that nothing was killed. Returns how often
/// something was.
pub(crate) fn walk(names: BTreeSet<String>, mut attempt: impl FnMut(&Step) -> Result<bool>) -> Result<u32> {
    let mut killed = 0;
    for name in names {
        let mut number = 1;
        loop {
            ensure!(number < MOST, "there is no end of calls of {name}");
            let step = Step { name: name.clone(), number };
            if !attempt(&step).with_context(|| format!("killed at {step}"))? {
                break;
            }
            (number, killed) = (number + 1, killed + 1);
        }
    }
    Ok(killed)
}

/// `strace` on a thread that runs already.
pub(crate) struct Trap(Child);

impl Trap {
    /// Attaches to the thread.
    pub(crate) fn set(thread: u32, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "strace"]).args(arguments).args(["-p", &thread.to_string()]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start strace: `cargo xtask setup` installs it")?;
        let attached = wait::becomes(PATIENCE, "strace is attached", || {
            if child.try_wait()?.is_some() {
                bail!("strace ended at once");
            }
            let status = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
            Ok(status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")))
        });
        let trap = Self(child);
        attached.map(|()| trap)
    }

    /// Lets go of the thread.
    pub(crate) fn spring(mut self) -> Result<()> {
        // It has ended, if it has killed.
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id())?), Signal::SIGINT);
        self.0.wait()?;
        Ok(())
    }
}
