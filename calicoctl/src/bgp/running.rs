//! In what does the running speaker of this node differ from the plan?

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use bgp_plan::sessions::Plan;

use super::words;
use crate::speaker::{self, Password, Session};

/// The speaker that runs on this node.
#[derive(Debug)]
pub(super) struct Running {
    /// The node whose speaker it is.
    pub(super) node: String,
    sessions: Vec<Session>,
}

impl Running {
    /// The one that answers on the socket. None is no error: the plan follows from the datastore alone.
    pub(super) fn here(socket: &Path) -> Option<Self> {
        let answer = speaker::neighbors(socket).ok()?;
        let sessions = speaker::typed(&answer.neighbors).ok()?;
        Some(Self { node: answer.status.node, sessions })
    }

    /// In what its sessions are not those of the plan, and which of them cannot run.
    pub(super) fn differences(&self, plan: &Plan) -> Vec<String> {
        let mut running: BTreeMap<Option<SocketAddr>, &Session> =
            self.sessions.iter().map(|session| (session.peer.parse().ok(), session)).collect();
        let mut found = Vec::new();
        for planned in &plan.sessions {
            let Some(session) = running.remove(&Some(planned.peer)) else {
                found.push(format!("{} is planned, but the speaker does not have it", planned.name));
                continue;
            };
            let mut field = |name: &str, plan: String, running: String| {
                if plan != running {
                    found.push(format!("{}: {name} is {running} in the speaker, {plan} in the plan", planned.name));
                }
            };
            field("its name", planned.name.clone(), session.name.clone());
            field("localASNumber", planned.local_as.to_string(), session.local_as.to_string());
            field("asNumber", planned.peer_as.to_string(), session.peer_as.to_string());
            field("passive", planned.passive.to_string(), session.passive.to_string());
            field("reflector client", words::yes(planned.client), words::yes(session.client));
            field("sourceAddress", words::or_dash(planned.source), words::or_dash(session.source.as_ref()));
            field("ttlSecurity", words::or_dash(planned.ttl_security), words::or_dash(session.ttl_security));
            field("filters", words::list(&planned.filters), words::list(&session.filters));
            field("a password", words::yes(planned.password.is_some()), words::yes(session.password.is_some()));
            if let Some(Password::Missing(reason)) = &session.password {
                found.push(format!("{}: password missing, so it is down: {reason}", planned.name));
            }
        }
        let left = running.into_values();
        found.extend(left.map(|session| format!("{} runs, but is not planned", session.name)));
        found
    }
}

#[cfg(test)]
mod tests {
    use bgp_plan::sessions::{Origin, SessionConfig};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_runs_otherwise_than_planned_is_named() {
        let planned = |peer: &str| SessionConfig::new(Origin::Node, peer.parse().unwrap(), 64512, 64512);
        let password: calico_api::BGPPassword =
            serde_json::from_value(json!({"secretKeyRef": {"name": "bgp", "key": "rr"}})).unwrap();
        let plan = Plan {
            sessions: vec![
                planned("10.0.0.2:179"),
                SessionConfig { filters: vec!["a".to_owned()], ..planned("10.0.0.3:179") },
                SessionConfig { password: Some(password), ..planned("10.0.0.4:179") },
                planned("10.0.0.5:179"),
            ],
            ..Plan::default()
        };
        let session = |peer: &str, name: &str, more: serde_json::Value| {
            let mut value = json!({"name": name, "peer": peer, "local_as": 64512, "peer_as": 64512});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            value
        };
        let sessions = [
            session("10.0.0.2:179", "Node_10_0_0_2", json!({})),
            session("10.0.0.3:179", "Node_10_0_0_3", json!({"peer_as": 65001})),
            session("10.0.0.4:179", "Node_10_0_0_4", json!({"password": {"missing": "no Secret kube-system/bgp"}})),
            session("10.0.0.9:179", "Mesh_10_0_0_9", json!({})),
        ];
        let running = Running { node: "a".to_owned(), sessions: speaker::typed(&sessions).unwrap() };
        assert_eq!(
            running.differences(&plan),
            [
                "Node_10_0_0_3: asNumber is 65001 in the speaker, 64512 in the plan",
                "Node_10_0_0_3: filters is - in the speaker, a in the plan",
                "Node_10_0_0_4: password missing, so it is down: no Secret kube-system/bgp",
                "Node_10_0_0_5 is planned, but the speaker does not have it",
                "Mesh_10_0_0_9 runs, but is not planned",
            ]
        );
    }
}
