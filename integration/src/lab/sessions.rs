//! The sessions of a node as its programs show them, so that two of them can be compared.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::node::{Node, PATIENCE};
use crate::wait;

/// A session: the peer's address, and what kind of peer it is in `calicoctl node status`'s words.
pub type Sessions = BTreeMap<String, String>;

/// The established sessions that `calicoctl node status` shows on a node.
///
/// # Errors
/// If `calicoctl` fails.
pub fn running(node: &Node<'_>) -> Result<Sessions> {
    let status = node.calicoctl(&["node", "status"])?;
    let mut sessions = Sessions::new();
    for line in status.lines().filter(|line| line.starts_with('|') && line.contains("Established")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [peer, kind, ..] = cells.as_slice() else { bail!("not a row of node status: {line}") };
        sessions.insert((*peer).to_owned(), (*kind).to_owned());
    }
    Ok(sessions)
}

/// The sessions that `calicoctl bgp sessions` makes of the resources for a node.
///
/// # Errors
/// If `calicoctl` fails, or prints something else.
pub fn planned(node: &Node<'_>) -> Result<Sessions> {
    let text = node.calicoctl(&["bgp", "sessions", "--node", node.name(), "-o", "json"])?;
    let nodes: Value = serde_json::from_str(&text).context("calicoctl bgp sessions -o json")?;
    let mut sessions = Sessions::new();
    for session in nodes[0]["sessions"].as_array().context("calicoctl bgp sessions has no sessions")? {
        let peer = session["peer"].as_str().context("a session without peer")?;
        let peer = peer.strip_suffix(":179").unwrap_or(peer);
        sessions.insert(peer.to_owned(), session["type"].as_str().context("a session without type")?.to_owned());
    }
    Ok(sessions)
}

/// Waits until a node's established sessions are exactly these.
///
/// # Errors
/// If they are not in time; with what they are.
pub fn become_exactly(node: &Node<'_>, expected: &Sessions) -> Result<()> {
    let mut last = Sessions::new();
    wait::becomes(PATIENCE, &format!("the sessions of {} are as expected", node.name()), || {
        last = running(node)?;
        Ok(last == *expected)
    })
    .with_context(|| {
        let log = node.last_lines("bgp-speaker");
        format!("expected {expected:?}\nthere is {last:?}\nlast lines of its bgp-speaker:\n{log}")
    })
}
