//! Where other daemons stand in the tests with peers, and the resources that every such test begins with.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use ipnet::IpNet;

use super::{Neighbour, PeerSpec, Subject, dual, node_resource};
use crate::net::Net;
use crate::node::Node;

/// Our AS number, which is the default.
pub const OUR_AS: u32 = 64512;

/// The LOCAL_PREF of nodes' routes: 2147483647 less the metric 1024.
pub const LOCAL_PREF: u32 = 2_147_482_623;

/// Pools around all blocks of the tests, without encapsulation.
pub const POOLS: &str = "\
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: four}
spec: {cidr: 10.244.0.0/16, blockSize: 26}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: 'fd00:244::/48', blockSize: 122}
";

/// No mesh.
pub const NO_MESH: &str = "\
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false}
";

/// Block `number` of the family of `like`, inside [`POOLS`].
pub fn block(number: u8, like: IpAddr) -> IpNet {
    let text = match like {
        IpAddr::V4(_) => format!("10.244.{number}.0/26"),
        IpAddr::V6(_) => format!("fd00:244:0:{number:x}::/122"),
    };
    text.parse().expect("a network is written here")
}

/// A BGPPeer for every node of ours, with further fields.
pub fn bgp_peer(name: &str, peer: IpAddr, asn: u32, more: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: {name}}}\n\
         spec: {{peerIP: '{peer}', asNumber: {asn}, {more}}}\n"
    )
}

/// A node where another daemon is to run, reachable over both families.
#[derive(Debug)]
pub struct Place<'net> {
    /// The node.
    pub node: Node<'net>,
    /// Its addresses, IPv4 first.
    pub addresses: [IpAddr; 2],
}

impl<'net> Place<'net> {
    /// A node on which nothing runs; `host` is the last part of its IPv6 address.
    ///
    /// # Errors
    /// If its namespaces cannot be made.
    pub fn new(net: &'net Net, name: &str, host: u16) -> Result<Self> {
        let node = net.node(name)?;
        let ipv6 = dual(&node, host)?;
        Ok(Self { addresses: [node.address().into(), ipv6.into()], node })
    }

    /// A daemon's BGP identifier.
    pub fn router_id(&self) -> Ipv4Addr {
        self.node.address()
    }

    /// A daemon of AS `asn` here, with a session with each address of ours.
    pub fn spec(&self, asn: u32, subjects: &[&Subject<'_>]) -> PeerSpec {
        let mut spec = PeerSpec::new(asn, self.router_id());
        for subject in subjects {
            for local in self.addresses {
                spec = spec.neighbour(Neighbour::new(local, subject.address_like(local), OUR_AS));
            }
        }
        spec
    }

    /// A Node resource for it, as if it were one of Calico's.
    pub fn resource(&self) -> String {
        let [_, ipv6] = self.addresses;
        format!("---\n{}", node_resource(&self.node, ipv6, ""))
    }
}
