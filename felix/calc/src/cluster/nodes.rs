//! What does felix know of nodes?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_api::{Node, NodeSpec};
use ipnet::IpNet;

use super::blocks::Name;
use super::wanted::{Vtep, mac_of};
use crate::endpoint::Unusable;

/// One family of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Family {
    /// The node's own address, with the length of its subnet if that is said.
    pub(super) host: Option<IpNet>,
    /// The address of its IPIP device, which only IPv4 has.
    pub(super) ipip: Option<IpAddr>,
    /// The address of its VXLAN device.
    pub(super) vxlan: Option<IpAddr>,
    /// The MAC of that.
    pub(super) mac: [u8; 6],
}

impl Family {
    /// The addresses of its tunnels.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = IpAddr> {
        self.ipip.into_iter().chain(self.vxlan)
    }

    /// All addresses.
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.host.map(|host| host.addr()).into_iter().chain(self.tunnels())
    }
}

/// What felix knows of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) v4: Family,
    pub(super) v6: Family,
}

impl NodeFacts {
    /// One family of it.
    pub(super) fn family(&self, ipv6: bool) -> &Family {
        if ipv6 { &self.v6 } else { &self.v4 }
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.addresses().chain(self.v6.addresses())
    }

    fn of(node: &Node) -> Result<Self, Unusable> {
        let (name, spec, bgp) = (node.metadata.name(), &node.spec, node.spec.bgp.as_ref());
        let host = |field, text: Option<&String>, ipv6| match filled(text) {
            Some(text) => network(field, text, ipv6).map(Some),
            None => Ok(internal(spec, ipv6)),
        };
        let tunnel = |field, text: Option<&String>, ipv6| {
            let network = filled(text).map(|text| network(field, text, ipv6)).transpose()?;
            Ok::<_, Unusable>(network.map(|network| network.addr()))
        };
        let mac = |field, text: Option<&String>, ipv6| match filled(text) {
            Some(text) => parse_mac(text).ok_or_else(|| Unusable::Node { field, value: text.to_owned() }),
            None => Ok(mac_of(name, ipv6)),
        };
        let ipip = bgp.and_then(|bgp| bgp.ipv4_ipip_tunnel_addr.as_ref());
        Ok(Self {
            v4: Family {
                host: host("bgp.ipv4Address", bgp.and_then(|bgp| bgp.ipv4_address.as_ref()), false)?,
                ipip: tunnel("bgp.ipv4IPIPTunnelAddr", ipip, false)?,
                vxlan: tunnel("ipv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr.as_ref(), false)?,
                mac: mac("vxlanTunnelMACAddr", spec.vxlan_tunnel_mac_addr.as_ref(), false)?,
            },
            v6: Family {
                host: host("bgp.ipv6Address", bgp.and_then(|bgp| bgp.ipv6_address.as_ref()), true)?,
                ipip: None,
                vxlan: tunnel("ipv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr.as_ref(), true)?,
                mac: mac("vxlanTunnelMACAddrV6", spec.vxlan_tunnel_mac_addr_v6.as_ref(), true)?,
            },
        })
    }
}

fn filled(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

fn network(field: &'static str, text: &str, ipv6: bool) -> Result<IpNet, Unusable> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let of_family = network.filter(|network| network.addr().is_ipv6() == ipv6);
    of_family.ok_or_else(|| Unusable::Node { field, value: text.to_owned() })
}

/// Where BGP has no address of a node, one that the orchestrator knows: an internal one, else an external one.
fn internal(spec: &NodeSpec, ipv6: bool) -> Option<IpNet> {
    let of_type = |wanted: &str| {
        let all = spec.addresses.iter().filter(|address| address.address_type.as_deref() == Some(wanted));
        all.filter_map(|address| network("addresses", &address.address, ipv6).ok()).next()
    };
    of_type("InternalIP").or_else(|| of_type("ExternalIP"))
}

/// `66:f9:37:c3:7e:94`.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut octets = text.split(':').map(|octet| match octet.len() {
        1 | 2 => u8::from_str_radix(octet, 16).ok(),
        _ => None,
    });
    let mut mac = [0; 6];
    for octet in &mut mac {
        *octet = octets.next()??;
    }
    octets.next().is_none().then_some(mac)
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    own: Name,
    nodes: BTreeMap<Name, NodeFacts>,
    /// Addresses of nodes and of their tunnels, and who says to have them.
    claims: BTreeMap<IpAddr, BTreeSet<Name>>,
    /// Those that more than one says to have.
    contested: BTreeSet<IpAddr>,
}

impl Nodes {
    pub(super) fn new(own: Name) -> Self {
        Self { own, nodes: BTreeMap::new(), claims: BTreeMap::new(), contested: BTreeSet::new() }
    }

    /// Takes a node; returns those for which something may be different, and the addresses that it had or has.
    ///
    /// # Errors
    /// If a field cannot be understood; the last good version stays.
    pub(super) fn put(
        &mut self,
        node: &Node,
        name: impl FnOnce(&str) -> Name,
    ) -> Result<(BTreeSet<Name>, BTreeSet<IpAddr>), Unusable> {
        let facts = NodeFacts::of(node)?;
        Ok(self.set(name(node.metadata.name()), Some(facts)))
    }

    /// Forgets a node; the same.
    pub(super) fn delete(&mut self, name: Name) -> (BTreeSet<Name>, BTreeSet<IpAddr>) {
        self.set(name, None)
    }

    fn set(&mut self, name: Name, facts: Option<NodeFacts>) -> (BTreeSet<Name>, BTreeSet<IpAddr>) {
        let before = match facts {
            Some(facts) => self.nodes.insert(name.clone(), facts),
            None => self.nodes.remove(&name),
        };
        if before == facts {
            return Default::default();
        }
        let mut touched = BTreeSet::from([name.clone()]);
        let addresses: BTreeSet<IpAddr> = before.iter().chain(&facts).flat_map(NodeFacts::addresses).collect();
        for address in &addresses {
            let claims = self.claims.entry(*address).or_default();
            // Whoever else has it may have won or lost it.
            touched.extend(claims.iter().cloned());
            if facts.is_some_and(|facts| facts.addresses().any(|its| its == *address)) {
                claims.insert(name.clone());
            } else {
                claims.remove(&name);
            }
            if claims.len() > 1 {
                self.contested.insert(*address);
            } else {
                self.contested.remove(address);
            }
            if claims.is_empty() {
                self.claims.remove(address);
            }
        }
        (touched, addresses)
    }

    /// What this node's own Node says.
    pub(super) fn own(&self) -> Option<&NodeFacts> {
        self.nodes.get(&self.own)
    }

    /// What is known of a node.
    pub(super) fn get(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// All nodes.
    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.nodes.keys()
    }

    /// Who has an address: this node itself if it says so, for nothing can be sent to itself; else the lexically first.
    pub(super) fn holder(&self, address: IpAddr) -> Option<&Name> {
        let claims = self.claims.get(&address)?;
        claims.get(&self.own).or_else(|| claims.first())
    }

    /// The same of a node's own address, if it is the node's.
    pub(super) fn host(&self, name: &str, ipv6: bool) -> Option<IpAddr> {
        self.held(name, self.get(name)?.family(ipv6).host?.addr())
    }

    /// An address, if it is the node's.
    pub(super) fn held(&self, name: &str, address: IpAddr) -> Option<IpAddr> {
        self.holder(address).filter(|holder| &***holder == name).map(|_| address)
    }

    /// What is to be known to send VXLAN to a node, if all of it is known.
    pub(super) fn vtep(&self, name: &str, ipv6: bool) -> Option<Vtep> {
        let family = self.get(name)?.family(ipv6);
        let (tunnel, host) = (self.held(name, family.vxlan?)?, self.host(name, ipv6)?);
        Some(Vtep { tunnel, mac: family.mac, host })
    }

    /// Addresses that more than one node says to have, with who counts and who else.
    pub(super) fn contested(&self) -> impl Iterator<Item = (IpAddr, &Name, &BTreeSet<Name>)> {
        self.contested.iter().filter_map(|address| {
            let claims = self.claims.get(address)?;
            Some((*address, self.holder(*address)?, claims))
        })
    }

    /// Addresses of tunnels, and who has them.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.values().flat_map(|facts| facts.v4.tunnels().chain(facts.v6.tunnels()))
    }

    /// Whether an address is that of a tunnel of the node that has it, rather than its own.
    pub(super) fn tunnel_holder(&self, address: IpAddr) -> Option<&Name> {
        let holder = self.holder(address)?;
        let family = self.nodes.get(holder)?.family(address.is_ipv6());
        family.tunnels().any(|tunnel| tunnel == address).then_some(holder)
    }

    /// Addresses inside a network, of nodes and of tunnels.
    pub(super) fn inside(&self, net: &IpNet) -> impl Iterator<Item = IpAddr> {
        self.claims.range(net.network()..=net.broadcast()).map(|(address, _)| *address)
    }

    /// All own addresses of nodes.
    pub(super) fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        let families = self.nodes.values().flat_map(|facts| [facts.v4.host, facts.v6.host]);
        families.flatten().map(|host| host.addr())
    }

    /// Whether another node than this one has this as its own address, and `sends` VXLAN or has a device for it.
    pub(super) fn is_sender(&self, address: IpAddr, sends: bool) -> bool {
        let claims = self.claims.get(&address).into_iter().flatten().filter(|name| **name != self.own);
        let family = |name: &Name| Some(self.nodes.get(name)?.family(address.is_ipv6()));
        let mut families = claims.filter_map(family);
        families
            .any(|family| family.host.is_some_and(|host| host.addr() == address) && (sends || family.vxlan.is_some()))
    }

    /// Whether a node has this as its own address.
    pub(super) fn is_host(&self, address: IpAddr) -> bool {
        let claims = self.claims.get(&address).into_iter().flatten();
        let host = |name: &Name| Some(self.nodes.get(name)?.family(address.is_ipv6()).host?.addr());
        claims.into_iter().any(|name| host(name) == Some(address))
    }
}
