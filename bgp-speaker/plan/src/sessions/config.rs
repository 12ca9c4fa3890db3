//! What makes a session, and what a node's plan holds beside its sessions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use calico_api::BGPPassword;
use serde::{Serialize, Serializer};

use super::Warning;
use crate::inputs::NodeFacts;

/// Restart time that we offer where none is configured, in seconds.
pub const RESTART_TIME: u16 = 120;

/// Where a session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Origin {
    /// The full mesh of nodes.
    Mesh,
    /// A BGPPeer for every node.
    Global,
    /// A BGPPeer for this node among others, or the other end of one.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum NextHopMode {
    /// BGP's own rules.
    #[default]
    Auto,
    /// Always our address; `Self` in resources.
    #[serde(rename = "Self")]
    Own,
    /// What was received.
    Keep,
}

/// Everything that makes a session. What a change of a field takes, [`changes_to`](Self::changes_to) says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionConfig {
    /// Its name in status: `Mesh_10_0_0_2`.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
    /// The BGPPeer that it follows from; `None` for the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// The node that the peer is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The address that we dial from; `None` leaves it to the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Our AS number on this session.
    #[serde(rename = "localASNumber")]
    pub local_as: u32,
    /// The peer's AS number.
    #[serde(rename = "asNumber")]
    pub peer_as: u32,
    /// Whether the peer dials and we do not.
    pub passive: bool,
    /// Our cluster ID, if we are a route reflector.
    #[serde(rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<Ipv4Addr>,
    /// Whether the peer is a client of ours as a route reflector.
    pub client: bool,
    /// Restart time that we offer, in seconds.
    #[serde(rename = "maxRestartTime")]
    pub restart_time: u16,
    /// Interval of keepalives in seconds; `None` is a third of the hold time, which the session never exceeds.
    #[serde(rename = "keepaliveTime", skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<u16>,
    /// How many hops away the peer may be at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// What goes out as NEXT_HOP.
    #[serde(rename = "nextHopMode")]
    pub next_hop: NextHopMode,
    /// How often our AS may occur in a received path.
    #[serde(rename = "numAllowedLocalASNumbers")]
    pub allowed_local_as: u32,
    /// Gateway by which the peer is reached, of the peer's family: a host route that the speaker installs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<IpAddr>,
    /// Whether a TCP MD5 password is asked for, and where it is kept.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "reference")]
    pub password: Option<BGPPassword>,
    /// Names of BGPFilters, in order.
    pub filters: Vec<String>,
}

/// `secret/key`: where a password is kept.
fn reference<S: Serializer>(password: &Option<BGPPassword>, serializer: S) -> Result<S::Ok, S::Error> {
    let reference = password.as_ref().and_then(|password| password.secret_key_ref.as_ref());
    let (name, key) = reference.map_or(("", ""), |reference| (&reference.name, &reference.key));
    serializer.collect_str(&format_args!("{name}/{key}"))
}

impl SessionConfig {
    /// A session with the defaults of all fields: both ends dial, no source, no password, no filters.
    pub fn new(origin: Origin, peer: SocketAddr, local_as: u32, peer_as: u32) -> Self {
        Self::named(session_name(origin, peer.ip(), None), origin, peer, local_as, peer_as)
    }

    pub(super) fn named(name: String, origin: Origin, peer: SocketAddr, local_as: u32, peer_as: u32) -> Self {
        Self {
            name,
            origin,
            resource: None,
            peer,
            remote: None,
            source: None,
            local_as,
            peer_as,
            passive: false,
            cluster_id: None,
            client: false,
            restart_time: RESTART_TIME,
            keepalive: None,
            ttl_security: None,
            next_hop: NextHopMode::Auto,
            allowed_local_as: 0,
            reachable_by: None,
            password: None,
            filters: Vec::new(),
        }
    }

    /// Whether the session is internal (RFC 4271 §1.1).
    pub fn is_internal(&self) -> bool {
        self.local_as == self.peer_as
    }
}

/// The name of a session; `port` is that of the resource, if it names one.
pub(super) fn session_name(origin: Origin, address: IpAddr, port: Option<u16>) -> String {
    let mut name = session_name_of_text(origin, &address.to_string());
    if let Some(port) = port {
        name.push_str(&format!("_port_{port}"));
    }
    name
}

/// The name of a session without a port, with an address that is printed already.
pub(super) fn session_name_of_text(origin: Origin, address: &str) -> String {
    let mut name = String::with_capacity(origin.prefix().len() + address.len());
    name.push_str(origin.prefix());
    name.extend(address.chars().map(|c| if matches!(c, '.' | ':') { '_' } else { c }));
    name
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
