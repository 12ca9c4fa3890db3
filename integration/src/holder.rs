//! A set of namespaces, held by a process that does nothing else and dies with us.

use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Namespaces of network, mounts and host name. They vanish, with what is in them, when this is dropped
/// or when we die however we die.
#[derive(Debug)]
pub struct Holder {
    child: Child,
}

impl Holder {
    /// Makes the namespaces and runs a shell script in them, as their first inhabitant.
    ///
    /// # Errors
    /// If the script fails, with what it said.
    pub fn new(what: &str, script: &str) -> Result<Self> {
        let script = format!("set -e\nip link set lo up\n{script}\necho ready\nexec sleep infinity");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--uts", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot make the namespaces of {what} (setpriv, unshare: package util-linux)"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output was to be read")?;
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != "ready" {
            let output = child.wait_with_output()?;
            bail!(
                "the namespaces of {what} could not be made: {line}{}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(Self { child })
    }

    /// The process whose namespaces they are.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A command that will run inside. It dies with the thread that starts it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        let pid = self.pid().to_string();
        command.args(["--pdeathsig", "KILL", "nsenter", "--target", &pid, "--mount", "--net", "--uts", "--wd=/"]);
        command.args(["--", program]);
        command
    }

    /// How a person gets inside.
    pub fn door(&self) -> String {
        format!("nsenter --target {} --mount --net --uts --wd=/", self.pid())
    }

    /// The network namespace.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn network(&self) -> Result<OwnedFd> {
        let path = PathBuf::from(format!("/proc/{}/ns/net", self.pid()));
        calico_sys::namespace::open(&path).with_context(|| path.display().to_string())
    }

    /// The path by which we see `path` of theirs.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and our own death would do the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
