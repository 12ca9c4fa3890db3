//! `calicoctl node status`: whether the agent runs, and the BGP sessions of both families.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::bird::{self, Peer};
use crate::output::{self, Align, boxed};

/// Where control sockets are, in the order in which they are tried.
const FOLDERS: [&str; 2] = ["/var/run/calico", "/var/run/bird"];

/// Runs it.
pub(crate) fn run() -> Result<ExitCode> {
    if !is_root()? {
        output::print("Need super user privileges: Operation not permitted\n")?;
        return Ok(ExitCode::FAILURE);
    }
    if !agent_runs() {
        bail!("Calico process is not running.");
    }
    let text = format!("Calico process is running.\n{}\n", families(peers("bird.ctl"), peers("bird6.ctl")));
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn is_root() -> io::Result<bool> {
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

fn peers(socket: &str) -> io::Result<Vec<Peer>> {
    let paths = FOLDERS.map(|folder| PathBuf::from(folder).join(socket));
    // The first that exists is the one whose error is told.
    let path = paths.iter().find(|path| path.exists()).unwrap_or(&paths[0]);
    bird::peers(path)
}

/// What is said of the sessions of both families.
fn families(v4: io::Result<Vec<Peer>>, v6: io::Result<Vec<Peer>>) -> String {
    let absent = |peers: &io::Result<Vec<Peer>>| {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        peers.as_ref().is_err_and(|error| matches!(error.kind(), NotFound | ConnectionRefused))
    };
    if absent(&v4) && absent(&v6) {
        return "\nThe BGP backend process (BIRD) is not running.\n".to_owned();
    }
    let family = |number, suffix, peers: io::Result<Vec<Peer>>| match peers {
        peers if absent(&peers) => format!("\nINFO: BIRDv{number} process: 'bird{suffix}' is not running.\n"),
        Err(error) => format!(
            "\nIPv{number} BGP status\nError querying BIRD: unable to connect to BIRDv{number} socket: {error}\n"
        ),
        Ok(peers) if peers.is_empty() => format!("\nIPv{number} BGP status\nNo IPv{number} peers found.\n"),
        Ok(peers) => format!("\nIPv{number} BGP status\n{}", table(&peers)),
    };
    family(4, "", v4) + &family(6, "6", v6)
}

fn table(peers: &[Peer]) -> String {
    let header = ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"].map(|name| (name, Align::Left));
    let row = |peer: &Peer| {
        vec![peer.address.clone(), peer.peer_type.to_owned(), peer.state.clone(), peer.since.clone(), peer.info.clone()]
    };
    boxed(&header, &peers.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_family_without_a_daemon_is_said_so() {
        let peer = Peer {
            address: "10.0.0.12".into(),
            peer_type: "node-to-node mesh",
            state: "up".into(),
            since: "2026-08-20".into(),
            info: "Established".into(),
        };
        let expected = "
IPv4 BGP status
+--------------+-------------------+-------+------------+-------------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE      | INFO        |
+--------------+-------------------+-------+------------+-------------+
| 10.0.0.12    | node-to-node mesh | up    | 2026-08-20 | Established |
+--------------+-------------------+-------+------------+-------------+

INFO: BIRDv6 process: 'bird6' is not running.
";
        assert_eq!(families(Ok(vec![peer]), Err(io::ErrorKind::NotFound.into())), expected);
    }

    #[test]
    fn no_daemon_at_all_is_said_once() {
        let text = families(Err(io::ErrorKind::NotFound.into()), Err(io::ErrorKind::ConnectionRefused.into()));
        assert_eq!(text, "\nThe BGP backend process (BIRD) is not running.\n");
        assert!(families(Ok(vec![]), Ok(vec![])).contains("No IPv6 peers found."));
    }
}
