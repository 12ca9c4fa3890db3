//! Programs that live in the cluster's namespaces, and end with these and not with whoever started them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::keeper::descendant;
use crate::process;

/// A program in the cluster. Dropping it does nothing: the cluster's end is its end.
#[derive(Debug)]
pub(super) struct Inhabitant {
    name: String,
    /// `nsenter`, which waits for the program outside of the PID namespace.
    outside: Child,
    log: PathBuf,
}

impl Inhabitant {
    /// Starts a program in the namespaces (options of nsenter) of `init`; its output is appended to `log`.
    pub(super) fn start(
        name: &str,
        init: u32,
        namespaces: &[&str],
        program: &mut Command,
        log: PathBuf,
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new("setsid");
        command.args(["nsenter", "--target", &init.to_string()]).args(namespaces).arg("--");
        command.arg(program.get_program()).args(program.get_args());
        for (key, value) in program.get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        let outside = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?})"))?;
        Ok(Self { name: name.to_owned(), outside, log })
    }

    /// The program's process, or the one `depth` generations below, as this machine counts processes.
    pub(super) fn pid(&self, depth: u32) -> Result<u32> {
        descendant(self.outside.id(), 1 + depth).with_context(|| self.words())
    }

    /// Fails, with the program's last words, if it has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.outside.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}); {}", self.name, self.words()),
        }
    }

    /// `kill -9` of the process `depth` generations below, and waits until all is gone.
    pub(super) fn kill(&mut self, depth: u32) -> Result<()> {
        if self.outside.try_wait()?.is_none() {
            signal::kill(Pid::from_raw(i32::try_from(self.pid(depth)?)?), Signal::SIGKILL)?;
            self.outside.wait()?;
        }
        Ok(())
    }

    /// The end of its output.
    pub(super) fn words(&self) -> String {
        format!("last lines of {}:\n{}", self.name, process::last_lines(&self.log, 20))
    }
}

/// A path as an argument.
pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}
