//! BGP peers that users configure.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{AsNumber, BGPPassword, Kind, NoStatus, Resource, Spec};

/// A peering of one, some or all nodes.
pub type BGPPeer = Resource<BGPPeerSpec>;

/// Who peers with whom, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPPeerSpec {
    /// The local node; excludes `nodeSelector`. Neither means every node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Which nodes are local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// The peer: `IP`, `IP:port` or `[IPv6]:port`; excludes `peerSelector`.
    #[serde(skip_serializing_if = "Option::is_none", rename = "peerIP")]
    pub peer_ip: Option<String>,
    /// Which nodes are peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_selector: Option<String>,
    /// Which local workloads are peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_workload_selector: Option<String>,
    /// The peer's AS number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Our AS number towards this peer.
    #[serde(skip_serializing_if = "Option::is_none", rename = "localASNumber")]
    pub local_as_number: Option<AsNumber>,
    /// Deprecated spelling of `nextHopMode: Keep` for external peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_original_next_hop: Option<bool>,
    /// `Auto`, `Self` or `Keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<String>,
    /// Password of the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<BGPPassword>,
    /// `UseNodeIP` (the default) or `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_address: Option<String>,
    /// Restart time that we offer, a duration such as `120s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<String>,
    /// Interval of keepalives, a duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<String>,
    /// How often our own AS may occur in a received path.
    #[serde(skip_serializing_if = "Option::is_none", rename = "numAllowedLocalASNumbers")]
    pub num_allowed_local_as_numbers: Option<i32>,
    /// How many hops away the peer may be at most; absent or 0 is unchecked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// Gateway through which `peerIP` is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reachable_by: Option<String>,
    /// Names of BGPFilters, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filters: Option<Vec<String>>,
    /// Whether peers that are nodes get the session from their side too: `Auto` (the default) or `Manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<String>,
}

impl Spec for BGPPeerSpec {
    const KIND: Kind = Kind::BGPPeer;
    type Status = NoStatus;
}

impl BGPPeerSpec {
    /// The peer's address and its port, if one is written; `None` if `peerIP` is absent or cannot be read.
    pub fn peer_address(&self) -> Option<(IpAddr, Option<u16>)> {
        let text = self.peer_ip.as_deref()?;
        if let Ok(address) = text.parse() {
            return Some((address, None));
        }
        let socket: SocketAddr = text.parse().ok()?;
        let scoped = matches!(socket, SocketAddr::V6(v6) if v6.scope_id() != 0) || text.contains('%');
        (socket.port() != 0 && !scoped).then(|| (socket.ip(), Some(socket.port())))
    }
}
