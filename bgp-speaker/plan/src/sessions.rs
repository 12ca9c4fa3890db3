//! Which sessions does this node have? One function of the resources, without memory of what was before.
//!
//! Families are independent: a session carries one family, over that family's transport. Addresses are compared
//! as text where Calico does (the passive rule), since both ends of a session must come to the same answer.

mod plan;
#[cfg(test)]
mod vectors;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use calico_api::BGPPassword;

pub use self::plan::{plan, waits_for};
use crate::inputs::NodeFacts;

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
