//! How do sessions follow from the resources? Mesh and explicit peers, and what happens where they meet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use calico_api::{BGPConfigurationSpec, BGPPeerSpec};

use super::{Listen, NextHopMode, Origin, Plan, RESTART_TIME, RESTART_TIME_LIMIT, SessionConfig, Warning};
use crate::inputs::{Inputs, NodeFacts};

/// The plan of `node`.
pub fn plan(inputs: &Inputs, node: &str) -> Plan {
    let local = inputs.nodes.get(node).filter(|facts| facts.addresses().next().is_some());
    let Some(local) = local else {
        return Plan { warnings: vec![Warning::NoAddress(node.to_owned())], ..Plan::default() };
    };
    let mut planner = Planner { inputs, node, local, local_as: inputs.as_number(local), warnings: Vec::new() };
    let mut by_address: BTreeMap<IpAddr, Vec<SessionConfig>> = BTreeMap::new();
    for session in planner.explicit() {
        by_address.entry(session.peer.ip()).or_default().push(session);
    }
    for session in planner.mesh() {
        match by_address.get(&session.peer.ip()).and_then(|sessions| sessions.first()) {
            // Departs from Calico, where the second session waits for ever: explicit beats mesh, so that its password and filters count.
            Some(kept) => {
                let (kept, suppressed) = (kept.name.clone(), session.name);
                planner.warnings.push(Warning::Suppressed { kept, suppressed });
            }
            None => {
                by_address.insert(session.peer.ip(), vec![session]);
            }
        }
    }
    let mut sessions: Vec<_> = by_address.into_values().flatten().collect();
    sessions.sort_by(|a, b| a.name.cmp(&b.name));
    Plan {
        local: Some(local.clone()),
        local_as: planner.local_as,
        listen: planner.listen(),
        sessions,
        warnings: planner.warnings,
    }
}

/// Whether we wait for the peer to dial: byte comparison of the printed addresses, as Calico does it.
pub fn waits_for(own: IpAddr, peer: IpAddr) -> bool {
    peer.to_string() > own.to_string()
}

/// The name of a session.
fn session_name(origin: Origin, address: IpAddr, port: Option<u16>) -> String {
    let mut name = format!("{}{}", origin.prefix(), address.to_string().replace(['.', ':'], "_"));
    if let Some(port) = port {
        name.push_str(&format!("_port_{port}"));
    }
    name
}

struct Planner<'a> {
    inputs: &'a Inputs,
    node: &'a str,
    local: &'a NodeFacts,
    local_as: u32,
    warnings: Vec<Warning>,
}

impl Planner<'_> {
    fn listen(&self) -> Listen {
        let port = self.inputs.listen_port(self.node);
        let own_only = self.inputs.global.bind_mode.as_deref() == Some("NodeIP");
        let bind = |address: IpAddr| {
            let any = if address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
            SocketAddr::new(if own_only { address } else { any }, port)
        };
        Listen {
            ipv4: self.local.ipv4.map(|net| bind(net.addr().into())),
            ipv6: self.local.ipv6.map(|net| bind(net.addr().into())),
        }
    }

    /// A session with the defaults of all fields.
    fn session(&self, origin: Origin, peer: SocketAddr, own: IpAddr, name: String) -> SessionConfig {
        SessionConfig {
            name,
            origin,
            peer,
            source: Some(own),
            local_as: self.local_as,
            peer_as: 0,
            passive: false,
            cluster_id: self.local.cluster_id,
            client: false,
            restart_time: RESTART_TIME,
            keepalive: None,
            ttl_security: None,
            next_hop: NextHopMode::Auto,
            allowed_local_as: 0,
            password: None,
            filters: Vec::new(),
        }
    }

    fn mesh(&mut self) -> Vec<SessionConfig> {
        let global = &self.inputs.global;
        if self.local.cluster_id.is_some() || global.node_to_node_mesh_enabled == Some(false) {
            return Vec::new();
        }
        let field = "BGPConfiguration default: nodeMeshMaxRestartTime";
        let restart_time = self.restart_time(field.to_owned(), global.node_mesh_max_restart_time.as_deref());
        let mut by_address: BTreeMap<IpAddr, (&str, SessionConfig)> = BTreeMap::new();
        for (name, facts) in &self.inputs.nodes {
            if name == self.node || facts.cluster_id.is_some() {
                continue;
            }
            for address in facts.addresses() {
                let Some(own) = self.local.address_like(address) else { continue };
                if address == own {
                    self.warnings.push(Warning::OwnAddress { address, other: name.clone() });
                } else if let Some((first, _)) = by_address.get(&address) {
                    let (first, second) = ((*first).to_owned(), name.clone());
                    self.warnings.push(Warning::SharedAddress { address, first, second });
                } else {
                    let peer = SocketAddr::new(address, self.inputs.listen_port(name));
                    let session_name = session_name(Origin::Mesh, address, None);
                    let session = SessionConfig {
                        // Departs from Calico since December 2025, which falls back to this node's own AS.
                        peer_as: self.inputs.as_number(facts),
                        passive: waits_for(own, address),
                        restart_time,
                        password: global.node_mesh_password.clone(),
                        ..self.session(Origin::Mesh, peer, own, session_name)
                    };
                    by_address.insert(address, (name, session));
                }
            }
        }
        by_address.into_values().map(|(_, session)| session).collect()
    }

    fn explicit(&mut self) -> Vec<SessionConfig> {
        // By address and port; the name of the BGPPeer beside the session, for the warnings.
        let mut table: BTreeMap<(IpAddr, u16), (&str, SessionConfig)> = BTreeMap::new();
        for origin in [Origin::Global, Origin::Node] {
            for (name, spec) in &self.inputs.peers {
                match self.peering(name, spec) {
                    Ok(Some(session)) if session.origin == origin => {
                        let key = (session.peer.ip(), session.peer.port());
                        match table.get(&key) {
                            Some((winner, _)) => {
                                let (winner, loser) = ((*winner).to_owned(), name.clone());
                                self.warnings.push(Warning::Collision { winner, loser });
                            }
                            None => {
                                table.insert(key, (name, session));
                            }
                        }
                    }
                    Ok(_) => {}
                    Err(reason) if origin == Origin::Global => {
                        self.warnings.push(Warning::BadPeer { name: name.clone(), reason });
                    }
                    Err(_) => {} // said in the first round
                }
            }
        }
        table.into_values().map(|(_, session)| session).collect()
    }

    /// The session that a BGPPeer gives this node, if any.
    fn peering(&mut self, name: &str, spec: &BGPPeerSpec) -> Result<Option<SessionConfig>, String> {
        let present = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        for (field, value) in [
            ("nodeSelector", &spec.node_selector),
            ("peerSelector", &spec.peer_selector),
            ("localWorkloadSelector", &spec.local_workload_selector),
            ("reachableBy", &spec.reachable_by),
        ] {
            if present(value) {
                return Err(format!("this version does not know {field} yet"));
            }
        }
        let Some(peer_ip) = spec.peer_ip.as_deref().filter(|text| !text.is_empty()) else {
            return Err("it has neither peerIP nor a selector of peers".to_owned());
        };
        let (address, port) = peer_address(peer_ip)
            .ok_or_else(|| format!("peerIP is \"{peer_ip}\", expected IP, IPv4:port or [IPv6]:port"))?;
        let Some(peer_as) = spec.as_number.map(|number| number.0).filter(|number| *number != 0) else {
            return Err("asNumber is missing or 0".to_owned());
        };
        let origin = match spec.node.as_deref().filter(|node| !node.is_empty()) {
            None => Origin::Global,
            Some(node) if node == self.node => Origin::Node,
            Some(_) => return Ok(None),
        };
        let Some(own) = self.local.address_like(address).filter(|own| *own != address) else { return Ok(None) };

        let inputs = self.inputs;
        let node = inputs.nodes.iter().find(|(_, facts)| facts.addresses().any(|other| other == address));
        let node_port = node.filter(|(_, facts)| inputs.as_number(facts) == peer_as).and_then(|(name, _)| {
            let own = inputs.per_node.get(name).and_then(|configuration| configuration.listen_port);
            own.or(inputs.global.listen_port)
        });
        let port = port.or(node_port);
        let local_as = spec.local_as_number.map_or(self.local_as, |number| number.0);
        let restart_time =
            self.restart_time(format!("BGPPeer {name}: maxRestartTime"), spec.max_restart_time.as_deref());
        let keepalive = match spec.keepalive_time.as_deref() {
            None => None,
            Some(text) => match seconds(text) {
                Some(seconds) => u16::try_from(seconds).ok().filter(|seconds| *seconds > 0),
                None => {
                    let field = format!("BGPPeer {name}: keepaliveTime");
                    self.warnings.push(Warning::BadDuration { field, text: text.to_owned() });
                    None
                }
            },
        };
        let next_hop = match spec.next_hop_mode.as_deref() {
            Some("Self") => NextHopMode::Own,
            Some("Keep") => NextHopMode::Keep,
            None if spec.keep_original_next_hop == Some(true) && local_as != peer_as => NextHopMode::Keep,
            _ => NextHopMode::Auto,
        };
        let peer = SocketAddr::new(address, port.unwrap_or(BGPConfigurationSpec::DEFAULT_PORT));
        Ok(Some(SessionConfig {
            source: (spec.source_address.as_deref() != Some("None")).then_some(own),
            local_as,
            peer_as,
            // The one explicit form whose peer Calico knows to be a node, so that one side alone dials.
            passive: origin == Origin::Global && node.is_some() && waits_for(own, address),
            // A peer known only by its address is a client, even if it reflects itself: topologies rely on it.
            client: self.local.cluster_id.is_some() && local_as == peer_as,
            restart_time,
            keepalive,
            ttl_security: spec.ttl_security.filter(|hops| *hops != 0),
            next_hop,
            allowed_local_as: spec.num_allowed_local_as_numbers.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            password: spec.password.clone(),
            filters: spec.filters.clone().unwrap_or_default(),
            ..self.session(origin, peer, own, session_name(origin, address, port))
        }))
    }

    fn restart_time(&mut self, field: String, text: Option<&str>) -> u16 {
        let Some(text) = text else { return RESTART_TIME };
        match seconds(text) {
            Some(seconds) => u16::try_from(seconds.min(RESTART_TIME_LIMIT)).unwrap_or(RESTART_TIME),
            None => {
                self.warnings.push(Warning::BadDuration { field, text: text.to_owned() });
                RESTART_TIME
            }
        }
    }
}

/// `IP`, `IPv4:port` or `[IPv6]:port`.
fn peer_address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, None));
    }
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0)?;
    Some((address.ip(), Some(address.port())))
}

/// A duration as Go prints it (`1m30s`, `120s`, `1.5s`, `500ms`), rounded to whole seconds.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(())?;
    Some(total.as_secs() + u64::from(total.subsec_millis() >= 500))
}
