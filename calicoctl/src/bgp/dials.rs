//! Who dials a session? That depends on both its ends.

use std::collections::HashSet;
use std::net::IpAddr;

use bgp_plan::sessions::{Origin, Plan, SessionConfig};

/// The ends of explicit sessions that wait for the other end.
#[derive(Debug, Default)]
pub(super) struct Waiting(HashSet<(String, IpAddr)>);

impl Waiting {
    /// Takes the sessions of a node.
    pub(super) fn add(&mut self, node: &str, plan: &Plan) {
        // In the mesh, of two ends always one waits.
        let waiting = plan.sessions.iter().filter(|session| session.passive && session.origin != Origin::Mesh);
        self.0.extend(waiting.map(|session| (node.to_owned(), session.peer.ip())));
    }

    /// Who dials a session of a node with this plan: `active` is the node alone, `passive` its peer alone, `both` both.
    pub(super) fn word(&self, plan: &Plan, session: &SessionConfig) -> &'static str {
        if session.passive {
            return "passive";
        }
        let own = plan.local.as_ref().and_then(|local| local.address_like(session.peer.ip()));
        let there = session.remote.as_ref().zip(own);
        let waits = there.is_some_and(|(remote, own)| self.0.contains(&(remote.clone(), own)));
        if session.origin == Origin::Mesh || waits { "active" } else { "both" }
    }
}
