//! Which sessions does this node have? One function of the resources, without memory of what was before.
//!
//! Families are independent: a session carries one family, over that family's transport. Addresses are compared
//! as text where Calico does (the passive rule), since both ends of a session must come to the same answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use calico_api::{BGPConfigurationSpec, BGPPassword, BGPPeerSpec};

use crate::inputs::{Inputs, NodeFacts};

/// Restart time that we offer where none is configured, in seconds.
pub const RESTART_TIME: u16 = 120;
/// The largest restart time that fits its twelve bits (RFC 4724 §3), in seconds.
const RESTART_TIME_LIMIT: u64 = 4095;

/// Where a session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The full mesh of nodes.
    Mesh,
    /// A BGPPeer for every node.
    Global,
    /// A BGPPeer for this node among others.
    Node,
    /// A BGPPeer that selects workloads of this node.
    LocalWorkload,
}

impl Origin {
    /// How names of such sessions begin.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh_",
            Self::Global => "Global_",
            Self::Node => "Node_",
            Self::LocalWorkload => "Local_Workload_",
        }
    }

    /// In words, as `calicoctl node status` prints them.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Mesh => "node-to-node mesh",
            Self::Global => "global",
            Self::Node => "node specific",
            Self::LocalWorkload => "local workload",
        }
    }
}

/// What a session sends as NEXT_HOP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextHopMode {
    /// BGP's own rules.
    #[default]
    Auto,
    /// Always our address.
    Own,
    /// What was received.
    Keep,
}

/// Everything that makes a session; a change of any field but the filters resets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Its name in status: `Mesh_10_0_0_2`.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// The address that we dial from; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Our AS number on this session.
    pub local_as: u32,
    /// The peer's AS number.
    pub peer_as: u32,
    /// Whether the peer dials and we do not.
    pub passive: bool,
    /// Our cluster ID, if we are a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Whether the peer is a client of ours as a route reflector.
    pub client: bool,
    /// Restart time that we offer, in seconds.
    pub restart_time: u16,
    /// Interval of keepalives in seconds; `None` is a third of the hold time.
    pub keepalive: Option<u16>,
    /// How many hops away the peer may be at most.
    pub ttl_security: Option<u8>,
    /// What goes out as NEXT_HOP.
    pub next_hop: NextHopMode,
    /// How often our AS may occur in a received path.
    pub allowed_local_as: u32,
    /// Whether a TCP MD5 password is asked for.
    pub password: Option<BGPPassword>,
    /// Names of BGPFilters, in order.
    pub filters: Vec<String>,
}

impl SessionConfig {
    /// Whether the session is internal (RFC 4271 §1.1).
    pub fn is_internal(&self) -> bool {
        self.local_as == self.peer_as
    }

    /// Whether going from `self` to `other` needs a new session.
    pub fn resets_to(&self, other: &Self) -> bool {
        let without_filters = |config: &Self| Self { filters: Vec::new(), ..config.clone() };
        without_filters(self) != without_filters(other)
    }
}

/// A thing that an operator should know, though the speaker goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Warning {
    /// This node is not in the datastore, or has no BGP address there.
    #[error("node {0} has no BGP address in the datastore, so it has no session; felix writes it at its start")]
    NoAddress(String),
    /// Two nodes have one address: one of the objects is stale.
    #[error(
        "nodes {first} and {second} both have the address {address}; peering with it as {first}; delete the stale Node"
    )]
    SharedAddress {
        /// The address.
        address: IpAddr,
        /// The node whose AS and port are used.
        first: String,
        /// The other.
        second: String,
    },
    /// Another node claims our own address.
    #[error("node {other} has this node's own address {address}; delete the stale Node, or correct one of them")]
    OwnAddress {
        /// The address.
        address: IpAddr,
        /// The other node.
        other: String,
    },
    /// Two configurations ask for a session with one address.
    #[error("{kept} and {suppressed} are sessions with one peer; only {kept} is made")]
    Suppressed {
        /// The session that is made.
        kept: String,
        /// The one that is not.
        suppressed: String,
    },
    /// A BGPPeer loses against another.
    #[error("BGPPeer {loser} is not used: BGPPeer {winner} configures the same peer and comes first")]
    Collision {
        /// The one in force.
        winner: String,
        /// The one that is not.
        loser: String,
    },
    /// A BGPPeer cannot be used.
    #[error("BGPPeer {name} is not used: {reason}")]
    BadPeer {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A duration in a resource cannot be read.
    #[error("{field} is \"{text}\", expected a duration such as 120s; the default is used")]
    BadDuration {
        /// Where it stands.
        field: String,
        /// What stands there.
        text: String,
    },
}

/// The addresses and the port that the node listens on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// The address for IPv4 sessions; unspecified is any, `None` is no listener.
    pub ipv4: Option<SocketAddr>,
    /// The same for IPv6.
    pub ipv6: Option<SocketAddr>,
}

/// What this node is to do about BGP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// This node's facts; `None` as long as it has no address.
    pub local: Option<NodeFacts>,
    /// This node's AS number.
    pub local_as: u32,
    /// Where it listens.
    pub listen: Listen,
    /// Its sessions, by name.
    pub sessions: Vec<SessionConfig>,
    /// What an operator should know.
    pub warnings: Vec<Warning>,
}

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
fn seconds(text: &str) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use calico_api::AsNumber;

    use super::*;

    /// The resources of the vectors: `name=address[+address][ AS n]`.
    fn nodes(list: &[&str]) -> Inputs {
        let mut inputs = Inputs::default();
        for item in list {
            let (name, rest) = item.split_once('=').unwrap();
            let (addresses, as_number) = rest.split_once(" AS ").map_or((rest, None), |(a, n)| (a, Some(n)));
            let mut facts = NodeFacts { as_number: as_number.map(|n| n.parse().unwrap()), ..NodeFacts::default() };
            for address in addresses.split('+') {
                match address.parse().unwrap() {
                    IpAddr::V4(address) => facts.ipv4 = Some(ipnet::Ipv4Net::new(address, 24).unwrap()),
                    IpAddr::V6(address) => facts.ipv6 = Some(ipnet::Ipv6Net::new(address, 64).unwrap()),
                }
            }
            inputs.nodes.insert(name.to_owned(), facts);
        }
        inputs
    }

    /// Each session as the vectors write it: `address:port [Origin P|A, AS l→r]`.
    #[track_caller]
    fn check(inputs: &Inputs, node: &str, expected: &[&str]) -> Plan {
        let plan = plan(inputs, node);
        let mut got: Vec<_> = plan
            .sessions
            .iter()
            .map(|s| {
                let flag = if s.passive { "P" } else { "A" };
                let client = if s.client { " C" } else { "" };
                format!("{} [{:?} {flag}{client}, {}→{}]", s.peer, s.origin, s.local_as, s.peer_as)
            })
            .collect();
        let mut expected: Vec<_> = expected.iter().map(|line| (*line).to_owned()).collect();
        got.sort();
        expected.sort();
        assert_eq!(got, expected, "sessions of {node}");
        plan
    }

    #[test]
    fn s1_who_dials_is_decided_by_the_text_of_the_addresses() {
        let inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
        let plan = check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 64512→64512]", "10.0.0.10:179 [Mesh P, 64512→64512]"]);
        assert_eq!(plan.sessions[0].name, "Mesh_10_0_0_10");
        assert_eq!(plan.sessions[0].source, Some("10.0.0.1".parse().unwrap()));
        check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]", "10.0.0.10:179 [Mesh A, 64512→64512]"]);
        check(&inputs, "c", &["10.0.0.1:179 [Mesh A, 64512→64512]", "10.0.0.2:179 [Mesh P, 64512→64512]"]);
    }

    #[test]
    fn s2_each_family_has_its_own_mesh() {
        let inputs = nodes(&["a=10.0.0.1+fd00::1", "b=10.0.0.2", "c=10.0.0.9+fd00::a"]);
        let a = check(
            &inputs,
            "a",
            &[
                "10.0.0.2:179 [Mesh P, 64512→64512]",
                "10.0.0.9:179 [Mesh P, 64512→64512]",
                "[fd00::a]:179 [Mesh P, 64512→64512]",
            ],
        );
        assert!(a.sessions.iter().any(|session| session.name == "Mesh_fd00__a"));
        check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]", "10.0.0.9:179 [Mesh P, 64512→64512]"]);
        let c = check(
            &inputs,
            "c",
            &[
                "10.0.0.1:179 [Mesh A, 64512→64512]",
                "10.0.0.2:179 [Mesh A, 64512→64512]",
                "[fd00::1]:179 [Mesh A, 64512→64512]",
            ],
        );
        assert_eq!(c.listen.ipv6, Some("[::]:179".parse().unwrap()));
        assert_eq!(plan(&inputs, "b").listen.ipv6, None);
    }

    #[test]
    fn s3_a_node_without_as_number_has_the_global_one_also_in_the_eyes_of_those_that_have_their_own() {
        let inputs = nodes(&["a=10.0.0.1 AS 65001", "b=10.0.0.2", "c=10.0.0.3"]);
        check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 65001→64512]", "10.0.0.3:179 [Mesh P, 65001→64512]"]);
        check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→65001]", "10.0.0.3:179 [Mesh P, 64512→64512]"]);
    }

    #[test]
    fn s4_without_mesh_a_global_peer_is_every_nodes() {
        let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
        inputs.global.node_to_node_mesh_enabled = Some(false);
        inputs.global.as_number = Some(AsNumber(64600));
        inputs.peers.insert("tor".to_owned(), peer("10.0.0.254", 65000));
        for node in ["a", "b", "c"] {
            let plan = check(&inputs, node, &["10.0.0.254:179 [Global A, 64600→65000]"]);
            assert_eq!(plan.sessions[0].name, "Global_10_0_0_254");
        }
    }

    #[test]
    fn s9_an_explicit_peering_takes_the_place_of_the_mesh_session_and_this_is_said() {
        let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
        inputs.peers.insert("p".to_owned(), peer("10.0.0.2", 64512));
        let plan =
            check(&inputs, "a", &["10.0.0.2:179 [Global P, 64512→64512]", "10.0.0.10:179 [Mesh P, 64512→64512]"]);
        let warning = plan.warnings[0].to_string();
        assert_eq!(
            warning,
            "Global_10_0_0_2 and Mesh_10_0_0_2 are sessions with one peer; only Global_10_0_0_2 is made"
        );
    }

    #[test]
    fn s10_a_global_peering_beats_one_of_the_node_with_the_same_address() {
        let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2"]);
        inputs.global.node_to_node_mesh_enabled = Some(false);
        inputs.peers.insert("z-global".to_owned(), peer("10.0.0.254", 65000));
        let own = BGPPeerSpec { node: Some("a".to_owned()), ..peer("10.0.0.254", 65001) };
        inputs.peers.insert("a-node".to_owned(), own);
        let plan = check(&inputs, "a", &["10.0.0.254:179 [Global A, 64512→65000]"]);
        assert_eq!(plan.warnings.len(), 1);
        check(&inputs, "b", &["10.0.0.254:179 [Global A, 64512→65000]"]);
    }

    #[test]
    fn s11_ports_are_those_of_the_node_that_listens() {
        let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.10"]);
        inputs.global.listen_port = Some(1790);
        let own = BGPConfigurationSpec { listen_port: Some(1179), ..BGPConfigurationSpec::default() };
        inputs.per_node.insert("b".to_owned(), own);
        let a = check(&inputs, "a", &["10.0.0.2:1179 [Mesh P, 64512→64512]", "10.0.0.10:1790 [Mesh P, 64512→64512]"]);
        assert_eq!(a.listen.ipv4.unwrap().port(), 1790);
        let b = check(&inputs, "b", &["10.0.0.1:1790 [Mesh A, 64512→64512]", "10.0.0.10:1790 [Mesh A, 64512→64512]"]);
        assert_eq!(b.listen.ipv4.unwrap().port(), 1179);
        assert_eq!(b.sessions[0].name, "Mesh_10_0_0_1", "names of the mesh carry no port");
    }

    #[test]
    fn s12_ports_make_sessions_of_their_own_and_the_default_port_is_no_port() {
        let mut inputs = nodes(&["a=10.0.0.1"]);
        for (name, address) in [("t1", "192.0.2.1:1790"), ("t2", "192.0.2.1"), ("t3", "192.0.2.1:179")] {
            inputs.peers.insert(name.to_owned(), peer(address, 65000));
        }
        let plan =
            check(&inputs, "a", &["192.0.2.1:179 [Global A, 64512→65000]", "192.0.2.1:1790 [Global A, 64512→65000]"]);
        let names: Vec<_> = plan.sessions.iter().map(|session| session.name.as_str()).collect();
        assert_eq!(names, ["Global_192_0_2_1", "Global_192_0_2_1_port_1790"]);
        assert_eq!(plan.warnings, [Warning::Collision { winner: "t2".to_owned(), loser: "t3".to_owned() }]);
    }

    #[test]
    fn s20_a_stale_node_with_a_used_address_makes_no_second_session_and_is_named() {
        let inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "z=10.0.0.1"]);
        let b = check(&inputs, "b", &["10.0.0.1:179 [Mesh A, 64512→64512]"]);
        let warning = b.warnings[0].to_string();
        assert!(warning.starts_with("nodes a and z both have the address 10.0.0.1"), "{warning}");
        let a = check(&inputs, "a", &["10.0.0.2:179 [Mesh P, 64512→64512]"]);
        assert!(matches!(&a.warnings[..], [Warning::OwnAddress { other, .. }] if other == "z"));
    }

    #[test]
    fn s21_nodes_with_only_ipv6_mesh_over_it() {
        let inputs = nodes(&["a=fd00::1", "b=fd00::2"]);
        let a = check(&inputs, "a", &["[fd00::2]:179 [Mesh P, 64512→64512]"]);
        assert_eq!(a.listen.ipv4, None);
        check(&inputs, "b", &["[fd00::1]:179 [Mesh A, 64512→64512]"]);
    }

    #[test]
    fn a_reflector_leaves_the_mesh_of_everyone() {
        let mut inputs = nodes(&["a=10.0.0.1", "b=10.0.0.2", "c=10.0.0.3"]);
        inputs.nodes.get_mut("a").unwrap().cluster_id = Some("244.0.0.1".parse().unwrap());
        check(&inputs, "a", &[]);
        check(&inputs, "b", &["10.0.0.3:179 [Mesh P, 64512→64512]"]);
        let spec = BGPPeerSpec { node: Some("a".to_owned()), ..peer("10.0.0.2", 64512) };
        inputs.peers.insert("p".to_owned(), spec);
        check(&inputs, "a", &["10.0.0.2:179 [Node A C, 64512→64512]"]);
    }

    #[test]
    fn a_node_without_address_has_no_session_and_what_is_wrong_with_a_peering_is_said() {
        let mut inputs = nodes(&["a=10.0.0.1"]);
        assert_eq!(plan(&inputs, "x").warnings, [Warning::NoAddress("x".to_owned())]);
        inputs.peers.insert("odd".to_owned(), peer("10.0.0", 65000));
        inputs.peers.insert("zero".to_owned(), peer("10.0.0.9", 0));
        let texts: Vec<_> = plan(&inputs, "a").warnings.iter().map(ToString::to_string).collect();
        assert!(texts[0].contains("BGPPeer odd is not used: peerIP is \"10.0.0\""), "{texts:?}");
        assert!(texts[1].contains("asNumber is missing or 0"), "{texts:?}");
        assert_eq!(texts.len(), 2);
    }

    #[test]
    fn durations_are_those_of_go_rounded_to_seconds() {
        for (text, expected) in
            [("120s", Some(120)), ("1m30s", Some(90)), ("1.5s", Some(2)), ("0s", Some(0)), ("12", None), ("", None)]
        {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    fn peer(address: &str, as_number: u32) -> BGPPeerSpec {
        BGPPeerSpec {
            peer_ip: Some(address.to_owned()),
            as_number: Some(AsNumber(as_number)),
            ..BGPPeerSpec::default()
        }
    }
}
