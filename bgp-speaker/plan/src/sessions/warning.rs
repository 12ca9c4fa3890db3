//! What should an operator know about the sessions, though the speaker goes on?

use std::net::IpAddr;

use crate::listing::Listing;

/// A thing that an operator should know, though the speaker goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
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
    /// A BGPPeer asks for sessions that the mesh has already.
    #[error("BGPPeer {peer} takes the place of the mesh for {}", Listing(mesh))]
    Suppressed {
        /// The BGPPeer.
        peer: String,
        /// The sessions of the mesh that are not made.
        mesh: Vec<String>,
    },
    /// A BGPPeer loses against another.
    #[error(
        "BGPPeer {loser} is not used for {}: BGPPeer {winner} configures the same peer, with another {differs}, and comes first",
        Listing(addresses)
    )]
    Collision {
        /// The one in force.
        winner: String,
        /// The one that is not.
        loser: String,
        /// For which peers.
        addresses: Vec<String>,
        /// In which fields the two differ.
        differs: String,
    },
    /// A BGPPeer cannot be used.
    #[error("BGPPeer {name} is not used: {reason}")]
    BadPeer {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A field has no effect, or not the one that was meant.
    #[error("{object}: {field} {reason}")]
    Ignored {
        /// The resource.
        object: String,
        /// The field.
        field: String,
        /// What becomes of it.
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
    /// A BGPFilter is named that does not exist.
    #[error("BGPPeer {peer} names BGPFilter {filter}, which does not exist; its sessions do without")]
    NoFilter {
        /// The BGPPeer.
        peer: String,
        /// The BGPFilter.
        filter: String,
    },
    /// A BGPFilter is named that was never understood.
    #[error(
        "BGPFilter {filter} is not understood, so the sessions of BGPPeer {peer} accept and advertise nothing until it is corrected"
    )]
    UnknownFilter {
        /// The BGPPeer.
        peer: String,
        /// The BGPFilter.
        filter: String,
    },
    /// The selector of a BGPPeer's remote side selects no node.
    #[error("peerSelector of BGPPeer {peer} matches no node: {selector}")]
    NoRemote {
        /// The BGPPeer.
        peer: String,
        /// The selector.
        selector: String,
    },
    /// No node is on the local side of a BGPPeer.
    #[error("BGPPeer {peer} is for no node: {reason}")]
    NoLocal {
        /// The BGPPeer.
        peer: String,
        /// Why.
        reason: String,
    },
    /// A BGPPeer names a node's address with an AS number that is not the node's.
    #[error(
        "BGPPeer {peer} gives {address} the AS number {stated}, but that is node {node} with AS {actual}: it makes no session back, and would refuse this one; correct asNumber of the BGPPeer or the Node"
    )]
    AsMismatch {
        /// The BGPPeer.
        peer: String,
        /// The address.
        address: IpAddr,
        /// The node with that address.
        node: String,
        /// What the BGPPeer says.
        stated: u32,
        /// What the node has.
        actual: u32,
    },
    /// A route reflector without any session.
    #[error(
        "node {0} is a route reflector, which takes it out of the mesh, and no BGPPeer gives it a session: it is isolated; add a BGPPeer whose peerSelector matches it"
    )]
    LoneReflector(String),
    /// The mesh leaves the reflectors out, and nothing else leads to them.
    #[error(
        "the mesh leaves out route reflectors, and this node has no session with any of them ({}), so it does not learn what they tell; add a BGPPeer whose peerSelector matches them",
        Listing(reflectors)
    )]
    NoReflector {
        /// The reflectors.
        reflectors: Vec<String>,
    },
    /// A BGPConfiguration that nothing reads.
    #[error("BGPConfiguration {0} has no effect: only \"default\" and \"node.<name>\" are read")]
    UnreadConfiguration(String),
}
