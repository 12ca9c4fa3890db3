//! Programs that run for a while: started, watched, killed, their last words kept.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::wait;

/// A running program, killed when dropped. Its output goes to a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, which `name` stands for in messages; its output is appended to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: impl Into<String>, command: &mut Command, log: PathBuf) -> Result<Self> {
        let name = name.into();
        let output = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?})"))?;
        Ok(Self { name, child, log })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with the program's last words, if it has ended.
    ///
    /// # Errors
    /// If it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}); its last lines:\n{}", self.name, self.last_lines(15)),
        }
    }

    /// The end of its output.
    pub fn last_lines(&self, count: usize) -> String {
        last_lines(&self.log, count)
    }

    /// All of its output.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn output(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// If it does not end within ten seconds; it is killed then.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        signal::kill(Pid::from_raw(i32::try_from(self.pid())?), Signal::SIGTERM)?;
        let ended = wait::until(Duration::from_secs(10), &format!("{} ends after SIGTERM", self.name), || {
            Ok(self.child.try_wait()?)
        });
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago; both fail then, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of a file, or a line that says why there is none.
pub fn last_lines(path: &Path, count: usize) -> String {
    match fs::read(path) {
        Ok(octets) => {
            let text = String::from_utf8_lossy(&octets);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(count)..].join("\n")
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => "(it wrote nothing)".to_owned(),
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// Runs a command to its end and returns its output.
///
/// # Errors
/// If it cannot be started or fails; the text has the command, its status and what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{} ({})\n{}{text}", shown(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// The command as somebody would type it, without the part that enters a namespace.
pub fn shown(command: &Command) -> String {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match words.iter().rposition(|word| word == "--") {
        Some(at) => words[at + 1..].join(" "),
        None => words.join(" "),
    }
}
