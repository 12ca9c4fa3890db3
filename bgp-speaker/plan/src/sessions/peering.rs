//! What does a BGPPeer ask for? It is understood once, when it arrives.
//!
//! What cannot be given a meaning is an error, and the last good version stays. What Calico tolerates is tolerated and
//! noted; the notes become warnings of the nodes that the BGPPeer is for.

use std::net::IpAddr;

use calico_api::{AsNumber, BGPPassword, BGPPeerSpec, parse_duration};
use calico_selector::Selector;

use super::{NextHopMode, RESTART_TIME, Warning};

/// The largest restart time that fits its twelve bits (RFC 4724 §3), in seconds.
const RESTART_TIME_LIMIT: u64 = 4095;

/// The nodes that a BGPPeer is for.
#[derive(Clone, Debug, PartialEq)]
pub enum LocalSide {
    /// All.
    All,
    /// The one of this name.
    Node(String),
    /// Those with these labels.
    Selected(Selector),
}

/// Whom they peer with.
#[derive(Clone, Debug, PartialEq)]
pub enum RemoteSide {
    /// An address (`peerIP`).
    Address {
        /// The address.
        address: IpAddr,
        /// The port, if one is named.
        port: Option<u16>,
        /// Its AS number, which is not 0.
        peer_as: u32,
    },
    /// Nodes (`peerSelector`).
    Nodes(Selector),
    /// Workloads on the node itself (`localWorkloadSelector`); which, felix says.
    Workloads {
        /// The selector over workload endpoints.
        selector: Selector,
        /// Their AS number, which is not 0.
        peer_as: u32,
    },
    /// Nobody: the reason.
    Nobody(String),
}

/// A BGPPeer, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Peering {
    /// The nodes that it is for.
    pub local: LocalSide,
    /// Whom they peer with.
    pub remote: RemoteSide,
    /// Whether peers that are nodes get the session from their side too.
    pub reverse: bool,
    /// Our AS number on its sessions, if not the node's.
    pub local_as: Option<u32>,
    /// Whether the node's address is dialled from.
    pub from_node_address: bool,
    /// What goes out as NEXT_HOP; `None` is `Keep` on external sessions and `Auto` on internal ones.
    pub next_hop: Option<NextHopMode>,
    /// The password, if there is one.
    pub password: Option<BGPPassword>,
    /// Restart time to offer, in seconds.
    pub restart_time: u16,
    /// Interval of keepalives in seconds.
    pub keepalive: Option<u16>,
    /// How often our AS may occur in a received path.
    pub allowed_local_as: u32,
    /// How many hops away the peer may be at most.
    pub ttl_security: Option<u8>,
    /// Gateway by which `peerIP` is reached.
    pub reachable_by: Option<IpAddr>,
    /// Names of BGPFilters, in order.
    pub filters: Vec<String>,
    notes: Vec<Note>,
}

/// Something about a BGPPeer that is tolerated.
#[derive(Clone, Debug, PartialEq)]
enum Note {
    /// A field that has no effect, or not the one that was meant.
    Ignored(&'static str, String),
    /// A duration that is none.
    Duration(&'static str, String),
}

impl Peering {
    /// Understands a resource.
    ///
    /// # Errors
    /// What is wrong with it, if that leaves it without a meaning.
    pub fn understand(spec: &BGPPeerSpec) -> Result<Self, String> {
        let mut notes = Vec::new();
        let remote = remote(spec)?;
        let is_address = matches!(remote, RemoteSide::Address { .. });
        let is_workloads = matches!(remote, RemoteSide::Workloads { .. });
        if spec.as_number.is_some() && matches!(remote, RemoteSide::Nodes(_)) {
            let reason = "has no effect beside peerSelector: nodes have their own AS numbers";
            notes.push(Note::Ignored("asNumber", reason.to_owned()));
        }
        let local_as = match spec.local_as_number {
            Some(AsNumber(0)) => return Err("localASNumber is 0, which no AS has (RFC 7607)".to_owned()),
            number => number.map(|number| number.0),
        };
        let mut peering = Self {
            local: local(spec)?,
            remote,
            reverse: !is_workloads && word(&mut notes, "reversePeering", &spec.reverse_peering, "Auto", "Manual"),
            local_as,
            from_node_address: word(&mut notes, "sourceAddress", &spec.source_address, "UseNodeIP", "None"),
            next_hop: next_hop(spec, &mut notes),
            password: spec.password.clone(),
            restart_time: restart_time(spec.max_restart_time.as_deref()).unwrap_or_else(|text| {
                notes.push(Note::Duration("maxRestartTime", text));
                RESTART_TIME
            }),
            keepalive: keepalive(spec, &mut notes),
            allowed_local_as: allowed_local_as(spec, is_address, &mut notes),
            ttl_security: spec.ttl_security.filter(|hops| *hops != 0),
            reachable_by: None,
            filters: spec.filters.iter().flatten().filter(|name| !name.is_empty()).cloned().collect(),
            notes,
        };
        if let Some(text) = filled(&spec.reachable_by) {
            peering.reach_by(text)?;
        }
        if is_workloads {
            peering.only_filters(spec);
        }
        Ok(peering)
    }

    /// The selectors over nodes that it has.
    pub fn node_selectors(&self) -> impl Iterator<Item = &Selector> {
        let local = match &self.local {
            LocalSide::Selected(selector) => Some(selector),
            _ => None,
        };
        let remote = match &self.remote {
            RemoteSide::Nodes(selector) => Some(selector),
            _ => None,
        };
        local.into_iter().chain(remote)
    }

    /// What is tolerated about it, for the BGPPeer `name`.
    pub(super) fn warnings(&self, name: &str) -> impl Iterator<Item = Warning> {
        let unused = match &self.remote {
            RemoteSide::Nobody(reason) => Some(Warning::BadPeer { name: name.to_owned(), reason: reason.clone() }),
            _ => None,
        };
        let noted = self.notes.iter().map(move |note| match note {
            Note::Ignored(field, reason) => Warning::Ignored {
                object: format!("BGPPeer {name}"),
                field: (*field).to_owned(),
                reason: reason.clone(),
            },
            Note::Duration(field, text) => {
                Warning::BadDuration { field: format!("BGPPeer {name}: {field}"), text: text.clone() }
            }
        });
        unused.into_iter().chain(noted)
    }

    fn reach_by(&mut self, text: &str) -> Result<(), String> {
        let gateway: IpAddr = text.parse().map_err(|_| format!("reachableBy is \"{text}\", expected an address"))?;
        match &self.remote {
            RemoteSide::Address { address, .. } if address.is_ipv4() != gateway.is_ipv4() => {
                let reason =
                    format!("reachableBy is {gateway}, which is not of the address family of peerIP {address}");
                self.remote = RemoteSide::Nobody(reason);
            }
            RemoteSide::Address { .. } => self.reachable_by = Some(gateway),
            _ => self.notes.push(Note::Ignored("reachableBy", "has no effect without peerIP".to_owned())),
        }
        Ok(())
    }

    /// Sessions with local workloads are plain: of the fields beside the AS numbers only the filters count.
    fn only_filters(&mut self, spec: &BGPPeerSpec) {
        let given = [
            ("password", spec.password.is_some()),
            ("keepaliveTime", spec.keepalive_time.is_some()),
            ("maxRestartTime", spec.max_restart_time.is_some()),
            ("ttlSecurity", self.ttl_security.is_some()),
            ("nextHopMode", spec.next_hop_mode.is_some()),
        ];
        for (field, _) in given.into_iter().filter(|(_, given)| *given) {
            self.notes.push(Note::Ignored(field, "has no effect on sessions with local workloads".to_owned()));
        }
        self.from_node_address = false;
        self.password = None;
        self.keepalive = None;
        self.restart_time = RESTART_TIME;
        self.ttl_security = None;
        self.next_hop = Some(NextHopMode::Auto);
    }
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn selector(field: &str, text: &str) -> Result<Selector, String> {
    Selector::parse(text).map_err(|error| format!("{field} is \"{text}\": {error}"))
}

fn local(spec: &BGPPeerSpec) -> Result<LocalSide, String> {
    match (filled(&spec.node), filled(&spec.node_selector)) {
        (Some(node), Some(_)) => Err(format!("node ({node}) and nodeSelector are both set: remove one of them")),
        (Some(node), None) => Ok(LocalSide::Node(node.to_owned())),
        (None, Some(text)) => selector("nodeSelector", text).map(LocalSide::Selected),
        (None, None) => Ok(LocalSide::All),
    }
}

fn remote(spec: &BGPPeerSpec) -> Result<RemoteSide, String> {
    let peer_as = || match spec.as_number {
        Some(number) if number != AsNumber(0) => Ok(number.0),
        _ => Err("asNumber is missing or 0; it is the AS number of the peer".to_owned()),
    };
    match (filled(&spec.peer_ip), filled(&spec.peer_selector), filled(&spec.local_workload_selector)) {
        (Some(text), None, None) => {
            let Some((address, port)) = spec.peer_address() else {
                return Err(format!("peerIP is \"{text}\", expected IP, IPv4:port or [IPv6]:port"));
            };
            if address.is_unspecified() || address.is_multicast() {
                return Err(format!("peerIP is {address}, which is nobody's address"));
            }
            Ok(RemoteSide::Address { address, port, peer_as: peer_as()? })
        }
        (None, Some(text), None) => selector("peerSelector", text).map(RemoteSide::Nodes),
        (None, None, Some(text)) => {
            Ok(RemoteSide::Workloads { selector: selector("localWorkloadSelector", text)?, peer_as: peer_as()? })
        }
        (None, None, None) => {
            Ok(RemoteSide::Nobody("it has neither peerIP, peerSelector nor localWorkloadSelector".to_owned()))
        }
        _ => Err("more than one of peerIP, peerSelector and localWorkloadSelector is set: keep one".to_owned()),
    }
}

/// Whether a field of two words has the first, which is also what any other text means.
fn word(notes: &mut Vec<Note>, field: &'static str, text: &Option<String>, yes: &str, no: &str) -> bool {
    match filled(text) {
        None => true,
        Some(text) if text == yes => true,
        Some(text) if text == no => false,
        Some(text) => {
            notes.push(Note::Ignored(field, format!("is \"{text}\", expected {yes} or {no}; {yes} is used")));
            true
        }
    }
}

fn next_hop(spec: &BGPPeerSpec, notes: &mut Vec<Note>) -> Option<NextHopMode> {
    let keep = spec.keep_original_next_hop == Some(true);
    let mode = match filled(&spec.next_hop_mode) {
        None if keep => return None,
        None | Some("Auto") => NextHopMode::Auto,
        Some("Self") => NextHopMode::Own,
        Some("Keep") => NextHopMode::Keep,
        Some(text) => {
            let reason = format!("is \"{text}\", expected Auto, Self or Keep; Auto is used");
            notes.push(Note::Ignored("nextHopMode", reason));
            NextHopMode::Auto
        }
    };
    if keep {
        notes.push(Note::Ignored("keepOriginalNextHop", "has no effect beside nextHopMode".to_owned()));
    }
    Some(mode)
}

/// A restart time in seconds; the text if it is none.
pub(super) fn restart_time(text: Option<&str>) -> Result<u16, String> {
    let Some(text) = text else { return Ok(RESTART_TIME) };
    match seconds(text) {
        Some(seconds) => Ok(u16::try_from(seconds.min(RESTART_TIME_LIMIT)).unwrap_or(RESTART_TIME)),
        None => Err(text.to_owned()),
    }
}

fn keepalive(spec: &BGPPeerSpec, notes: &mut Vec<Note>) -> Option<u16> {
    let text = spec.keepalive_time.as_deref()?;
    let seconds = seconds(text);
    if seconds.is_none() {
        notes.push(Note::Duration("keepaliveTime", text.to_owned()));
    }
    // What does not fit is beyond any hold time, a third of which the session does not exceed.
    seconds.filter(|seconds| *seconds > 0).and_then(|seconds| u16::try_from(seconds).ok())
}

fn allowed_local_as(spec: &BGPPeerSpec, is_address: bool, notes: &mut Vec<Note>) -> u32 {
    const FIELD: &str = "numAllowedLocalASNumbers";
    match spec.num_allowed_local_as_numbers {
        None | Some(0) => 0,
        Some(_) if !is_address => {
            notes.push(Note::Ignored(FIELD, "has no effect without peerIP".to_owned()));
            0
        }
        Some(number) => u32::try_from(number).unwrap_or_else(|_| {
            notes.push(Note::Ignored(FIELD, format!("is {number}, expected 0 or more; 0 is used")));
            0
        }),
    }
}

/// A duration in whole seconds, rounded.
fn seconds(text: &str) -> Option<u64> {
    let duration = parse_duration(text)?;
    Some(duration.as_secs() + u64::from(duration.subsec_millis() >= 500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: serde_json::Value, expected: Result<&[&str], &str>) {
        let spec: BGPPeerSpec = serde_json::from_value(spec).unwrap();
        match (Peering::understand(&spec), expected) {
            (Ok(peering), Ok(expected)) => {
                let warnings: Vec<_> = peering.warnings("p").map(|warning| warning.to_string()).collect();
                assert_eq!(warnings, expected, "{spec:?}");
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (got, expected) => panic!("{spec:?}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        use serde_json::json;
        check(json!({"node": "a", "nodeSelector": "all()", "peerIP": "10.0.0.1", "asNumber": 1}), Err("both set"));
        check(json!({"nodeSelector": "rack ==", "peerIP": "10.0.0.1", "asNumber": 1}), Err("nodeSelector is"));
        check(json!({"peerSelector": "has(", "nodeSelector": "all()"}), Err("peerSelector is \"has(\""));
        check(json!({"peerIP": "10.0.0.1"}), Err("asNumber is missing or 0"));
        check(json!({"peerIP": "10.0.0.1", "asNumber": 0}), Err("asNumber is missing or 0"));
        check(json!({"localWorkloadSelector": "all()"}), Err("asNumber is missing or 0"));
        check(json!({"peerIP": "10.0.0.1", "asNumber": 1, "localASNumber": 0}), Err("localASNumber is 0"));
        check(json!({"peerIP": "10.0.0", "asNumber": 1}), Err("peerIP is \"10.0.0\""));
        check(json!({"peerIP": "10.0.0.1:0", "asNumber": 1}), Err("peerIP is"));
        check(json!({"peerIP": "0.0.0.0", "asNumber": 1}), Err("nobody's address"));
        check(json!({"peerIP": "10.0.0.1", "peerSelector": "all()"}), Err("more than one of"));
        check(json!({"peerIP": "10.0.0.1", "asNumber": 1, "reachableBy": "ten"}), Err("reachableBy is \"ten\""));
    }

    #[test]
    fn what_calico_tolerates_is_tolerated_and_said() {
        use serde_json::json;
        check(json!({"peerIP": "[fd00::1]:1790", "asNumber": "65000.1", "filters": ["f"]}), Ok(&[]));
        check(
            json!({"peerIP": "10.0.0.1", "asNumber": 1, "reachableBy": "fd00::1"}),
            Ok(&[
                "BGPPeer p is not used: reachableBy is fd00::1, which is not of the address family of peerIP 10.0.0.1",
            ]),
        );
        check(json!({}), Ok(&["BGPPeer p is not used: it has neither peerIP, peerSelector nor localWorkloadSelector"]));
        check(
            json!({"peerSelector": "all()", "asNumber": 1, "numAllowedLocalASNumbers": 1, "reachableBy": "10.0.0.9",
                "nextHopMode": "Mine", "keepOriginalNextHop": true, "reversePeering": "No", "keepaliveTime": "often"}),
            Ok(&[
                "BGPPeer p: asNumber has no effect beside peerSelector: nodes have their own AS numbers",
                "BGPPeer p: reversePeering is \"No\", expected Auto or Manual; Auto is used",
                "BGPPeer p: nextHopMode is \"Mine\", expected Auto, Self or Keep; Auto is used",
                "BGPPeer p: keepOriginalNextHop has no effect beside nextHopMode",
                "BGPPeer p: keepaliveTime is \"often\", expected a duration such as 120s; the default is used",
                "BGPPeer p: numAllowedLocalASNumbers has no effect without peerIP",
                "BGPPeer p: reachableBy has no effect without peerIP",
            ]),
        );
        check(
            json!({"localWorkloadSelector": "all()", "asNumber": 1, "password": {"secretKeyRef": {"name": "s", "key": "k"}}}),
            Ok(&["BGPPeer p: password has no effect on sessions with local workloads"]),
        );
    }

    #[test]
    fn durations_are_those_of_go_rounded_to_seconds_and_cut_to_what_fits() {
        for (text, expected) in
            [("120s", Some(120)), ("1m30s", Some(90)), ("1.5s", Some(2)), ("0s", Some(0)), ("12", None), ("", None)]
        {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!(restart_time(Some("5h")), Ok(4095));
        assert_eq!(restart_time(None), Ok(120));
    }
}
