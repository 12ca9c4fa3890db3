//! What does the calculation tell?

use calico_api::Key;
use ipnet::IpNet;

use crate::cluster::{Remote, Set, Tunnels, Vtep};
use crate::endpoint::{Interface, Unusable};
use crate::notice::Notice;

/// How the desired state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What is wanted of an interface; `None`: it is no longer ours.
    Interface {
        /// Its name.
        name: String,
        /// What is wanted; in a box, for of the other changes there may be tens of thousands at once.
        wanted: Option<Box<Interface>>,
    },
    /// Whether a network is black-holed.
    BlackHole {
        /// The network.
        network: IpNet,
        /// Whether it is.
        wanted: bool,
    },
    /// What is to be done about a route to a destination that another node has. `None`: nobody is to have one; one of
    /// ours goes.
    Remote {
        /// The destination: a block, or a single address.
        destination: IpNet,
        /// What is to be done.
        wanted: Option<Remote>,
    },
    /// A far end of VXLAN. It is told before the routes that need it, and is gone after them.
    Vtep {
        /// The node.
        node: String,
        /// Whether of IPv6.
        ipv6: bool,
        /// What is wanted.
        wanted: Option<Vtep>,
    },
    /// The tunnel devices that are wanted, all of them.
    Tunnels(Tunnels),
    /// Whether a network is in a set of packet rules.
    Member {
        /// Which.
        set: Set,
        /// The network.
        member: IpNet,
        /// Whether it is.
        wanted: bool,
    },
    /// Something is not in force as it stands in the store; its last good version stays.
    Ignored {
        /// Which.
        key: Option<Key>,
        /// Why.
        reason: Unusable,
    },
    /// The desired state is complete: from now on what is not in it may be removed. Once.
    InSync,
    /// Which workloads are BGP peers is known, too: from now on their addresses and files may be made and removed. Once.
    PeersKnown,
    /// Something that the operator should know.
    Notice(Notice),
}

// Sixty thousand of them are told when a large cluster is in sync.
const _: () = assert!(size_of::<Change>() <= 128);
