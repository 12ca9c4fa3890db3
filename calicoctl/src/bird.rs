//! The control socket of a BGP daemon, in BIRD's dialect: ours serves it, and so does BIRD itself.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that is read of an answer, in octets: far more than 10,000 peers.
const LIMIT: u64 = 4 * 1024 * 1024;

/// A peer, as `show protocols` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its address, with a port where the session has one of its own.
    pub(crate) address: String,
    /// `node-to-node mesh`, `node specific`, `global` or `local workload`.
    pub(crate) peer_type: &'static str,
    /// BIRD's word: up, start, wait, …
    pub(crate) state: String,
    /// A time today, or a date.
    pub(crate) since: String,
    /// The FSM's state and the last error.
    pub(crate) info: String,
}

/// The peers that the daemon behind a socket knows.
pub(crate) fn peers(socket: &Path) -> io::Result<Vec<Peer>> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(io::Read::take(stream, LIMIT));
    let mut greeting = String::new();
    reader.read_line(&mut greeting)?;
    if !greeting.starts_with("0001 ") {
        return Err(io::Error::other(format!("it does not greet as BIRD does: {}", greeting.trim())));
    }
    reader.get_mut().get_mut().write_all(b"show protocols\n")?;
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = line.starts_with("0000");
        lines.push(line);
        if end {
            return parse(&lines).map_err(io::Error::other);
        }
    }
}

/// Reads the answer to `show protocols`.
fn parse(lines: &[String]) -> Result<Vec<Peer>, String> {
    let mut peers = Vec::new();
    for line in lines {
        let line = line.trim_end_matches(['\r', '\n']);
        match line.get(..5) {
            Some("2002-") => {
                let heading: Vec<&str> = line.get(5..).unwrap_or_default().split_whitespace().collect();
                if heading != ["name", "proto", "table", "state", "since", "info"] {
                    return Err(format!("unknown heading: {line}"));
                }
            }
            Some("1002-" | "1002 ") => peers.extend(row(line.get(5..).unwrap_or_default())),
            Some("0000 ") => {}
            _ if line == "0000" => {}
            _ if line.starts_with(' ') => peers.extend(row(line)),
            _ => return Err(format!("unexpected line: {line}")),
        }
    }
    Ok(peers)
}

/// One row, if it is a peer of a kind that we name.
fn row(line: &str) -> Option<Peer> {
    let mut words = line.split_whitespace();
    let (name, proto, _table) = (words.next()?, words.next()?, words.next()?);
    let (state, since) = (words.next()?, words.next()?);
    let info = words.collect::<Vec<_>>().join(" ");
    let (peer_type, address) = [
        ("Mesh_", "node-to-node mesh"),
        ("Node_", "node specific"),
        ("Global_", "global"),
        ("Local_Workload_", "local workload"),
    ]
    .into_iter()
    .find_map(|(prefix, peer_type)| Some((peer_type, name.strip_prefix(prefix)?)))?;
    (proto == "BGP").then(|| Peer {
        address: address_of(address),
        peer_type,
        state: state.to_owned(),
        since: since.to_owned(),
        info,
    })
}

/// `10_0_0_1` is 10.0.0.1, `fd00__1` fd00::1; `…_port_1790` is a port.
fn address_of(name: &str) -> String {
    let (address, port) = match name.split_once("_port_") {
        Some((address, port)) => (address, Some(port)),
        None => (name, None),
    };
    let v4 = address.replace('_', ".");
    let address = if v4.parse::<IpAddr>().is_ok() { v4 } else { address.replace('_', ":") };
    match port {
        None => address,
        Some(port) if address.contains(':') => format!("[{address}]:{port}"),
        Some(port) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn peers_are_read_and_other_protocols_passed_over() {
        let answer = "\
2002-name     proto    table    state  since       info
1002-static1  Static   master   up     07:14:52    
 Mesh_10_20_0_11 BGP      master   up     07:14:52    Established   
 Node_10_20_0_13_port_1790 BGP      master   start  2026-03-02  Active        Socket: Connection refused
 Global_fd00__1 BGP      master   start  07:30:58    Passive       
0000 
";
        let peers = parse(&lines(answer)).unwrap();
        let seen: Vec<_> =
            peers.iter().map(|peer| (peer.address.as_str(), peer.peer_type, peer.info.as_str())).collect();
        assert_eq!(
            seen,
            [
                ("10.20.0.11", "node-to-node mesh", "Established"),
                ("10.20.0.13:1790", "node specific", "Active Socket: Connection refused"),
                ("fd00::1", "global", "Passive"),
            ]
        );
        assert_eq!(peers.iter().map(|peer| peer.state.as_str()).collect::<Vec<_>>(), ["up", "start", "start"]);
    }

    #[test]
    fn another_language_is_refused() {
        assert!(parse(&lines("2002-name state\n0000 \n")).is_err());
        assert!(parse(&lines("9001 syntax error\n")).is_err());
    }
}
