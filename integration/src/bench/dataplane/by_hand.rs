//! The same path as ours, by nothing but `ip`: what it costs at least.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::End;
use crate::lab::Mode;
use crate::node::Node;

/// Two nodes with a pod each that no program of ours has touched.
pub(super) struct ByHand<'a, 'net> {
    nodes: [&'a Node<'net>; 2],
}

/// The pod of a node.
fn pod(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 243, u8::from(number == 1), 2)
}

/// A VTEP's address on its link.
const MACS: [&str; 2] = ["66:00:00:00:00:01", "66:00:00:00:00:02"];

impl<'a, 'net> ByHand<'a, 'net> {
    /// Builds it.
    ///
    /// # Errors
    /// If `ip` fails.
    pub(super) fn new(nodes: [&'a Node<'net>; 2], mode: Mode) -> Result<Self> {
        for (number, node) in nodes.iter().enumerate() {
            let (other, mac, far) = (nodes[1 - number].address(), MACS[number], MACS[1 - number]);
            let (own, block) = (pod(number), format!("10.243.{}.0/26", 1 - number));
            let (here, there) = (format!("10.243.{number}.1"), format!("10.243.{}.1", 1 - number));
            let local = node.address();
            let device = mode.device(false);
            let (mtu, way) = match device {
                "tunl0" => (
                    1480,
                    format!(
                        "ip addr add {here}/32 dev tunl0; ip link set tunl0 up mtu 1480
                         ip route add {block} via {other} dev tunl0 onlink mtu 1480"
                    ),
                ),
                "vxlan.calico" => (
                    1450,
                    format!(
                        "ip link add hand type vxlan id 77 dstport 4789 local {local} dev eth0 nolearning
                         ip link set hand address {mac} mtu 1450 up; ip addr add {here}/32 dev hand
                         bridge fdb append {far} dev hand dst {other} self permanent
                         ip neigh replace {there} lladdr {far} dev hand nud permanent
                         ip route add {block} via {there} dev hand onlink mtu 1450"
                    ),
                ),
                _ => (1500, format!("ip route add {block} via {other} dev eth0")),
            };
            let script = format!(
                "echo 1 > /proc/sys/net/ipv4/ip_forward
                 ip netns add hand; ip link add pod mtu {mtu} type veth peer name eth0 mtu {mtu} netns hand
                 ip link set pod address ee:ee:ee:ee:ee:ee up
                 ip -n hand link set lo up; ip -n hand link set eth0 up; ip -n hand addr add {own}/32 dev eth0
                 ip -n hand neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent
                 ip -n hand route add 169.254.1.1 dev eth0; ip -n hand route add default via 169.254.1.1 dev eth0
                 ip route add {own} dev pod
                 {way}"
            );
            node.run("sh", &["-ec", &script])?;
        }
        Ok(Self { nodes })
    }

    /// Builds it on nodes that track connections, but not those of the tunnel's outer packets, which ours do not track either.
    ///
    /// # Errors
    /// If `ip` or `nft` fails.
    pub(super) fn tracking(nodes: [&'a Node<'net>; 2], mode: Mode) -> Result<Self> {
        let hand = Self::new(nodes, mode)?;
        for node in nodes {
            let rules = "table ip hand {
                chain received { type filter hook prerouting priority raw; udp dport 4789 notrack; ip protocol 4 notrack; }
                chain sent { type filter hook output priority raw; udp dport 4789 notrack; ip protocol 4 notrack; }
                chain forward { type filter hook forward priority filter; ct state invalid drop; }
            }";
            node.run("nft", &[rules])?;
        }
        Ok(hand)
    }

    /// The pod of a node.
    ///
    /// # Errors
    /// If its namespace is gone.
    pub(super) fn end(&self, number: usize) -> Result<End> {
        let path = self.nodes[number].holder().inside("/run/netns/hand");
        Ok(End { network: calico_sys::namespace::open(&path)?, address: IpAddr::V4(pod(number)) })
    }
}
