//! What is wanted of the kernel for the sake of other nodes.

use std::net::{IpAddr, Ipv4Addr};

use sha1::{Digest, Sha1};

/// What is to be done about the route to a destination that another node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Remote {
    /// Have this one, in the place of whatever else has its key.
    By(Path),
    /// Neither write nor remove what stands there: the route is somebody else's, or the new path is not ready.
    Leave,
}

/// How packets get to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// As they are, to the node itself, which is on this node's link.
    Plain {
        /// The node's address.
        gateway: IpAddr,
    },
    /// In IPIP.
    Ipip {
        /// The node's address.
        gateway: Ipv4Addr,
    },
    /// In VXLAN, to what lies behind the node's device.
    Vxlan {
        /// The address of the node's VXLAN device.
        gateway: IpAddr,
    },
    /// In VXLAN, to the node's device itself: the destination is on its link.
    VxlanLink,
}

/// The far end of VXLAN: whose neighbour and forwarding entries are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vtep {
    /// The address of the node's VXLAN device.
    pub tunnel: IpAddr,
    /// That device's MAC.
    pub mac: [u8; 6],
    /// The node's own address, to which packets are sent.
    pub host: IpAddr,
}

/// The tunnel devices that some pool wants on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// `tunl0`.
    pub ipip: Option<Ipip>,
    /// `vxlan.calico`.
    pub vxlan: Option<Vxlan>,
    /// `vxlan-v6.calico`.
    pub vxlan_v6: Option<Vxlan>,
}

/// The IPIP device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipip {
    /// Its address, as this node's Node says. That is written after the device is up: who allocates one knows it before.
    pub address: Option<Ipv4Addr>,
    /// This node's own address, if it is known.
    pub local: Option<Ipv4Addr>,
}

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// This node's own address, which packets come from.
    pub local: IpAddr,
    /// Its MAC.
    pub mac: [u8; 6],
    /// Its address, as this node's Node says, like that of IPIP.
    pub address: Option<IpAddr>,
}

/// A set of networks that packet rules look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    /// Pools, but those for load balancers alone (`network-ip-pools`).
    Pools,
    /// Pools whose packets to the outside get the node's address (`masq-ipam-pools`).
    MasqueradedPools,
    /// All nodes, this one included, and what `ExternalNodesCIDRList` adds (`all-hosts-net`).
    Hosts,
    /// The other nodes that send VXLAN, and what `ExternalNodesCIDRList` adds (`all-vxlan-net`).
    VxlanHosts,
}

/// The MAC of a node's VXLAN device where its Node does not say another (reference felix.md §2.5).
pub fn mac_of(node: &str, ipv6: bool) -> [u8; 6] {
    let mut hash = Sha1::new();
    hash.update(node);
    if ipv6 {
        hash.update("-v6");
    }
    let mut mac = [0x66; 6];
    for (octet, of_hash) in mac.iter_mut().skip(1).zip(hash.finalize()) {
        *octet = of_hash;
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_those_that_calico_gives() {
        assert_eq!(mac_of("node1", false), [0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);
        assert_eq!(mac_of("node1", true), [0x66, 0x0f, 0x35, 0xf2, 0x60, 0xdf]);
    }
}
