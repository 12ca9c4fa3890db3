//! Which local workloads are BGP peers, and of which BGPPeer?

use std::net::{Ipv4Addr, Ipv6Addr};

/// A workload of this node that is a peer, as felix writes it to the endpoint status files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalWorkload {
    /// Its first IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its first IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The BGPPeer that selects it.
    pub peer: String,
}
