//! What should the operator know?

use std::net::IpAddr;

use calico_api::Key;

/// Something that the operator should know; as a text, the cause and the next step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Notice {
    /// Workloads of this node are peers, and there is no address for them to dial.
    #[error(
        "BGPPeer {peer} selects workloads of this node, but there is no address of the node for them to dial; set {field} \
         in BGPConfiguration default"
    )]
    NoPeeringAddress {
        /// The BGPPeer that selects them.
        peer: String,
        /// The field of the BGPConfiguration `default` to set.
        field: &'static str,
    },
    /// Several BGPPeers select one workload.
    #[error(
        "several BGPPeers select {endpoint}; {peer} is used, which is lexically first, and not {}; narrow a \
         localWorkloadSelector",
        suppressed.join(", ")
    )]
    Overlap {
        /// Its endpoint.
        endpoint: Key,
        /// The BGPPeer in force, whose name is lexically first.
        peer: String,
        /// The others.
        suppressed: Vec<String>,
    },
    /// The two `programClusterRoutes` give a class of routes to both daemons, or to none.
    #[error("{warning}")]
    Owners {
        /// What is wrong and what holds instead, as [`bgp_plan::owners::classes`] says it.
        warning: String,
    },
    /// A pool asks for what cannot be.
    #[error("IPPool {pool}: {fault}; its last good version, if there is one, stays in force")]
    BadPool {
        /// The pool.
        pool: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Routes without encapsulation are felix's, and nodes are not on this node's link.
    #[error(
        "plain routes need a gateway on this node's link, and in no subnet of this node is {}; no route leads to the pods \
         there; encapsulate their pools (CrossSubnet is enough), or let BGP program the routes (programClusterRoutes)",
        named(*count, first)
    )]
    NotOnLink {
        /// This node.
        node: String,
        /// How many nodes there are; one with addresses of both families counts twice.
        count: usize,
        /// The first of them by name, and their addresses.
        first: Vec<(String, IpAddr)>,
    },
    /// It is not known who is on this node's link, though routes depend on it.
    #[error(
        "this node's address {address} has no prefix length, and no interface holds it with one, so no node counts as being \
         in its subnet; write the length into the Node's spec.bgp, as 10.0.0.1/24"
    )]
    NoSubnet {
        /// This node.
        node: String,
        /// Its address.
        address: IpAddr,
    },
    /// Two nodes have one address.
    #[error(
        "nodes {node} and {other} both have the address {address}; what {node} has is used; correct the other's Node"
    )]
    SameAddress {
        /// The address: of the node, or of its tunnel.
        address: IpAddr,
        /// Whose it counts as: the name that is lexically first.
        node: String,
        /// The other.
        other: String,
    },
}

/// `far (10.0.9.3), farther (10.0.9.4) and 7 more`
fn named(count: usize, first: &[(String, IpAddr)]) -> String {
    let names: Vec<_> = first.iter().map(|(node, address)| format!("{node} ({address})")).collect();
    match count.saturating_sub(first.len()) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

impl Notice {
    /// What it is about, as `BGPPeer/name`.
    pub fn object(&self) -> String {
        match self {
            Self::NoPeeringAddress { peer, .. } | Self::Overlap { peer, .. } => format!("BGPPeer/{peer}"),
            Self::Owners { .. } => "FelixConfiguration/default".to_owned(),
            Self::BadPool { pool, .. } => format!("IPPool/{pool}"),
            Self::NotOnLink { node, .. } | Self::NoSubnet { node, .. } | Self::SameAddress { other: node, .. } => {
                format!("Node/{node}")
            }
        }
    }
}
