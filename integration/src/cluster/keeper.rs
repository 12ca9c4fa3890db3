//! What holds a cluster's namespaces and removes everything at their end, however that comes.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::process;
use crate::wait;

/// Where a cluster keeps its files while it is up; there is at most one on a machine.
pub const STATE: &str = "/var/tmp/ocicat-lab";
/// What only one cluster's keeper can hold.
const LOCK: &str = "/run/lock/ocicat-lab";
/// How `flock` says that somebody else holds it.
const TAKEN: i32 = 75;
/// What the first process of the PID namespace is called.
const INIT: &str = "ocicat-lab";
/// The keeper's script; it says what it does.
const SCRIPT: &str = include_str!("../../cluster/keeper.sh");
/// Within what everything must be gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The keeper: a shell in a session of its own, which outlives us and ends the cluster when we end.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    pipe: Option<ChildStdin>,
    init: u32,
}

impl Keeper {
    /// Removes what an earlier cluster left, and makes the namespaces.
    pub(super) fn start(log: &Path) -> Result<Self> {
        let stderr = File::create(log).with_context(|| log.display().to_string())?;
        let mut child = Command::new("setsid")
            .args(["flock", "--nonblock", "--no-fork", "--conflict-exit-code", &TAKEN.to_string(), LOCK])
            .args(["bash", "-c", SCRIPT, "ocicat-lab-keeper", STATE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .context("cannot start setsid and flock (package util-linux)")?;
        let pipe = child.stdin.take();
        let stdout = child.stdout.take().context("its output was to be read")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            drop(pipe);
            let status = child.wait()?;
            if status.code() == Some(TAKEN) {
                bail!(
                    "a cluster is up on this machine already{}; there can be one at a time. \
                     `cargo xtask lab --cluster --down` takes it down",
                    of_whom()
                );
            }
            bail!("the cluster's namespaces could not be made ({status}): {}", process::last_lines(log, 10));
        }
        let holder = descendant(child.id(), 1)?;
        let init = descendant(holder, 1)?;
        let file = pid_file();
        fs::write(&file, init.to_string()).with_context(|| file.display().to_string())?;
        Ok(Self { child, pipe, init })
    }

    /// The first process of the cluster's namespaces, as this machine counts processes.
    pub(super) fn init(&self) -> u32 {
        self.init
    }

    /// Lets the cluster outlive this process.
    pub(super) fn keep(mut self) -> Result<()> {
        let mut pipe = self.pipe.take().context("the keeper was let go already")?;
        pipe.write_all(b"keep\n").context("the keeper is gone")?;
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Ends the cluster, unless it was asked to keep it; a keeper that is to stay is not waited for.
        if let Some(pipe) = self.pipe.take() {
            drop(pipe);
            let _ = self.child.wait();
        }
    }
}

/// Takes down a cluster that was kept, or what is left of one; says whether one was up.
///
/// # Errors
/// If it does not go.
pub fn down() -> Result<bool> {
    let up = !lock(&["--nonblock"])?;
    if up {
        let pid: i32 = fs::read_to_string(pid_file())
            .with_context(|| format!("a cluster is being made or removed just now: {}", pid_file().display()))?
            .trim()
            .parse()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).trim_end_matches('\0').ends_with(INIT) {
            signal::kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        }
        if !lock(&["--wait", &PATIENCE.as_secs().to_string()])? {
            bail!("the cluster's keeper still runs after {} s; it holds {LOCK}", PATIENCE.as_secs());
        }
    }
    if Path::new(STATE).exists() {
        // Its keeper was killed with it; the next one begins by removing what is left, and ends at once.
        drop(Keeper::start(Path::new("/dev/null"))?);
    }
    Ok(up)
}

/// The children of a process, and theirs, `depth` generations down; where there is one child only.
pub(super) fn descendant(pid: u32, depth: u32) -> Result<u32> {
    (0..depth).try_fold(pid, |pid, _| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        wait::until(Duration::from_secs(10), &format!("process {pid} has a child"), || {
            let children = fs::read_to_string(&path).with_context(|| path.clone())?;
            Ok(children.split_whitespace().next().map(str::parse).transpose()?)
        })
    })
}

fn pid_file() -> PathBuf {
    Path::new(STATE).join("init.pid")
}

/// Whether the lock is to be had; it is let go at once.
fn lock(how: &[&str]) -> Result<bool> {
    let status = Command::new("flock").args(how).args([LOCK, "true"]).status();
    Ok(status.context("cannot start flock (package util-linux)")?.success())
}

fn of_whom() -> String {
    match fs::read_to_string(pid_file()) {
        Ok(pid) => format!(" (process {})", pid.trim()),
        Err(_) => String::new(),
    }
}
