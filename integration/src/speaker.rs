//! A bgp-speaker that is started with options of its own, and what it says of itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::node::{Node, PATIENCE};
use crate::process::Process;
use crate::wait;

/// A running speaker. It is killed when this is dropped.
#[derive(Debug)]
pub struct Speaker<'node, 'net> {
    node: &'node Node<'net>,
    options: Vec<String>,
    process: Process,
}

impl<'node, 'net> Speaker<'node, 'net> {
    /// Starts `bgp-speaker` with exactly these options, and nothing but the node's name in its environment.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(node: &'node Node<'net>, options: &[&str]) -> Result<Self> {
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let process = launch(node, &options)?;
        Ok(Self { node, options, process })
    }

    /// The node that it runs on.
    pub fn node(&self) -> &'node Node<'net> {
        self.node
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again, after [`Self::kill`].
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = launch(self.node, &self.options)?;
        Ok(())
    }

    /// Asks its status socket; fails if the speaker has ended.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&mut self, what: &str) -> Result<Value> {
        self.process.check()?;
        ask(self.node, &format!("{{\"show\":\"{what}\"}}"))
    }

    /// All its sessions.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn sessions(&mut self) -> Result<Vec<Value>> {
        Ok(self.ask("sessions")?["sessions"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until exactly these peers are there and Established.
    ///
    /// # Errors
    /// If that is not so in time; with what it says and its last words.
    pub fn peers_with(&mut self, peers: &[SocketAddr]) -> Result<()> {
        let mut wanted: Vec<String> = peers.iter().map(ToString::to_string).collect();
        wanted.sort();
        let mut last = Vec::new();
        let what = format!("{} is Established with {wanted:?} and nobody else", self.node.name());
        wait::becomes(PATIENCE, &what, || {
            last = self.sessions()?;
            let mut up: Vec<_> = last.iter().filter(|one| one["fsm"] == "Established").collect();
            up.sort_by_key(|one| one["peer"].to_string());
            Ok(last.len() == up.len() && up.iter().map(|one| &one["peer"]).eq(wanted.iter()))
        })
        .with_context(|| format!("{last:#?}\n{}", self.last_lines()))
    }

    /// The end of its log.
    pub fn last_lines(&self) -> String {
        self.process.last_lines(15)
    }
}

fn launch(node: &Node<'_>, options: &[String]) -> Result<Process> {
    let mut command = node.command("/usr/local/bin/bgp-speaker");
    command.args(options).env("NODENAME", node.name()).env_remove("RUST_BACKTRACE");
    let log = node.net().log(&format!("{}-bgp-speaker", node.name()));
    Process::start(format!("bgp-speaker on {}", node.name()), &mut command, log)
}

/// Sends one line to the status socket of a node's speaker; returns the document that comes back.
///
/// # Errors
/// If it does not answer.
pub fn ask(node: &Node<'_>, line: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(node.holder().inside("/run/ocicat/bgp.sock"))?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    serde_json::from_str(&answer).with_context(|| answer)
}

/// Whether two statuses are of one session that never went down or was reset between them.
///
/// # Errors
/// If not; with both.
pub fn same_life(before: &Value, after: &Value) -> Result<()> {
    for field in ["name", "fsm", "since", "established", "flaps", "resets"] {
        ensure!(
            before[field] == after[field] && !before[field].is_null(),
            "{field} is not the same:\n{before:#}\n{after:#}"
        );
    }
    Ok(())
}
