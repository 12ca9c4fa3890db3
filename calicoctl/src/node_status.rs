//! `calicoctl node status`: whether the agent runs, the BGP sessions of both families, and how the dataplane is.

mod dataplane;
mod families;
mod remote;

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use calico_api::to_json;
use serde_json::json;

use self::families::Answer;
use crate::arguments::{Globals, NodeStatus, StatusForm};
use crate::{bird, output};

/// Where control sockets are, in the order in which they are tried.
const FOLDERS: [&str; 2] = ["/var/run/calico", "/var/run/bird"];

/// Runs it.
pub(crate) async fn run(flags: &NodeStatus, globals: &Globals) -> Result<ExitCode> {
    match &flags.node {
        Some(node) => remote::run(node, flags, globals).await,
        None => here(flags.output),
    }
}

/// The node that this runs on.
fn here(form: StatusForm) -> Result<ExitCode> {
    if !is_root()? {
        output::print("Need super user privileges: Operation not permitted\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let agent = agent_runs();
    let (v4, v6) = (peers("bird.ctl"), peers("bird6.ctl"));
    if !agent && v4.is_err() && v6.is_err() {
        bail!("Calico process is not running.");
    }
    // A speaker that runs alone, as a route reflector does, has sessions worth showing; that the agent is not there is
    // told all the same, and by the exit code too.
    let not = if agent { "" } else { "not " };
    let dataplane = if agent { dataplane::ask() } else { None };
    output::print(&match form {
        StatusForm::Ps => {
            let more = dataplane.as_ref().map(dataplane::text).unwrap_or_default();
            format!("Calico process is {not}running.\n{}\n{}", families::text(&v4, &v6), more.trim_start_matches('\n'))
        }
        StatusForm::Json => {
            let status = json!({
                "agent": {"running": agent},
                "ipv4": families::json(&v4),
                "ipv6": families::json(&v6),
                "dataplane": dataplane::json(dataplane.as_ref()),
            });
            to_json(&status) + "\n"
        }
    })?;
    Ok(if agent { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether we may do what only root may.
pub(crate) fn is_root() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own entry is our effective user.
    Ok(fs::metadata("/proc/self")?.uid() == 0)
}

/// Whether felix answers on its socket; or, beside Calico's own programs, whether a process is called as theirs is.
fn agent_runs() -> bool {
    if UnixStream::connect(calico_agent::SOCKET).is_ok() {
        return true;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|octet| *octet == 0).map(String::from_utf8_lossy).collect();
        let program = words.first().map(|word| word.rsplit('/').next().unwrap_or_default().to_owned());
        match program.as_deref() {
            Some("calico-felix") => true,
            Some("calico-node" | "calico") => words.iter().any(|word| matches!(word.as_ref(), "-felix" | "felix")),
            _ => false,
        }
    })
}

fn peers(socket: &str) -> Answer {
    let paths = FOLDERS.map(|folder| PathBuf::from(folder).join(socket));
    // The first that exists is the one whose error is told.
    let path = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
    bird::peers(path)
}
