//! The three tunnels: what each is called in the kernel, in IPAM and on the Node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_api::{EncapMode, IPPool, IPPoolSpec, NodeSpec, PoolUse};
use calico_selector::Selector;
use ipnet::IpNet;

/// A sort of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// IPIP.
    Ipip,
    /// VXLAN over IPv4.
    Vxlan,
    /// VXLAN over IPv6.
    VxlanV6,
}

impl Tunnel {
    /// All, in Calico's order.
    pub(crate) const ALL: [Self; 3] = [Self::Ipip, Self::Vxlan, Self::VxlanV6];

    /// The device's name.
    pub(crate) fn device(self) -> &'static str {
        match self {
            Self::Ipip => "tunl0",
            Self::Vxlan => "vxlan.calico",
            Self::VxlanV6 => "vxlan-v6.calico",
        }
    }

    /// What findings call the device.
    pub(super) fn object(self) -> String {
        format!("Interface/{}", self.device())
    }

    /// Whether it is of IPv6.
    pub(super) fn is_ipv6(self) -> bool {
        self == Self::VxlanV6
    }

    /// Under which handle its address is taken (Calico's).
    pub(super) fn handle(self, node: &str) -> String {
        match self {
            Self::Ipip => format!("ipip-tunnel-addr-{node}"),
            Self::Vxlan => format!("vxlan-tunnel-addr-{node}"),
            Self::VxlanV6 => format!("vxlan-v6-tunnel-addr-{node}"),
        }
    }

    /// What the block says of the holder (Calico's).
    pub(super) fn attributes(self, node: &str) -> BTreeMap<String, String> {
        let words = match self {
            Self::Ipip => "ipipTunnelAddress",
            Self::Vxlan => "vxlanTunnelAddress",
            Self::VxlanV6 => "vxlanV6TunnelAddress",
        };
        [("node", node), ("type", words)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// The field of the Node.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Ipip => "spec.bgp.ipv4IPIPTunnelAddr",
            Self::Vxlan => "spec.ipv4VXLANTunnelAddr",
            Self::VxlanV6 => "spec.ipv6VXLANTunnelAddr",
        }
    }

    /// What the Node has there.
    pub(super) fn of(self, node: &NodeSpec) -> Option<&str> {
        let text = match self {
            Self::Ipip => node.bgp.as_ref()?.ipv4_ipip_tunnel_addr.as_deref(),
            Self::Vxlan => node.ipv4_vxlan_tunnel_addr.as_deref(),
            Self::VxlanV6 => node.ipv6_vxlan_tunnel_addr.as_deref(),
        };
        text.filter(|text| !text.is_empty())
    }

    /// Writes that.
    pub(super) fn set(self, node: &mut NodeSpec, address: Option<IpAddr>) {
        let text = address.map(|address| address.to_string());
        match self {
            Self::Ipip if text.is_none() && node.bgp.is_none() => {}
            Self::Ipip => node.bgp.get_or_insert_default().ipv4_ipip_tunnel_addr = text,
            Self::Vxlan => node.ipv4_vxlan_tunnel_addr = text,
            Self::VxlanV6 => node.ipv6_vxlan_tunnel_addr = text,
        }
    }

    /// Whether packets of such a pool may go through it.
    fn wraps(self, pool: &IPPoolSpec) -> bool {
        let mode = match (self, pool.cidr()) {
            (Self::Ipip, Some(IpNet::V4(_))) => pool.ipip_mode,
            (Self::Vxlan, Some(IpNet::V4(_))) | (Self::VxlanV6, Some(IpNet::V6(_))) => pool.vxlan_mode,
            _ => None,
        };
        mode.is_some_and(|mode| mode != EncapMode::Never)
    }

    /// Whether the device may have its address of a pool, on a node with these labels: the pool is in use, for tunnels, and
    /// for the node. What is not for the node's pods is for its tunnel neither.
    pub(super) fn may_use(self, pool: &IPPool, labels: &BTreeMap<String, String>) -> bool {
        let selector = pool.spec.node_selector.as_deref().map(str::trim).filter(|text| !text.is_empty());
        let selects = || selector.is_none_or(|text| Selector::parse(text).is_ok_and(|parsed| parsed.matches(labels)));
        self.wraps(&pool.spec) && ipam::pool::is_enabled(pool) && pool.spec.allows(PoolUse::Tunnel) && selects()
    }
}

#[cfg(test)]
mod tests {
    use calico_api::ObjectMeta;

    use super::*;

    #[test]
    fn a_pool_is_for_a_tunnel_by_mode_family_use_and_node() {
        let labels = BTreeMap::from([("rack".to_owned(), "a".to_owned())]);
        let which = |cidr: &str, change: &dyn Fn(&mut IPPoolSpec)| {
            let mut spec = IPPoolSpec::new(cidr);
            change(&mut spec);
            let pool = IPPool::new(ObjectMeta::named("p"), spec);
            Tunnel::ALL.into_iter().filter(|tunnel| tunnel.may_use(&pool, &labels)).collect::<Vec<_>>()
        };
        let (always, cross) = (Some(EncapMode::Always), Some(EncapMode::CrossSubnet));
        assert_eq!(which("10.0.0.0/16", &|_| {}), []);
        assert_eq!(which("10.0.0.0/16", &|pool| pool.ipip_mode = always), [Tunnel::Ipip]);
        assert_eq!(which("10.0.0.0/16", &|pool| pool.vxlan_mode = cross), [Tunnel::Vxlan]);
        assert_eq!(which("fd00::/48", &|pool| pool.vxlan_mode = always), [Tunnel::VxlanV6]);
        assert_eq!(which("fd00::/48", &|pool| pool.ipip_mode = always), []);
        for (selector, expected) in [("rack == 'a'", [Tunnel::Vxlan].as_slice()), ("rack == 'b'", &[]), ("rack =", &[])]
        {
            let found = which("10.0.0.0/16", &|pool| {
                pool.vxlan_mode = always;
                pool.node_selector = Some(selector.to_owned());
            });
            assert_eq!(found, expected, "{selector}");
        }
        let used = |uses: &[PoolUse]| {
            which("10.0.0.0/16", &|pool| {
                pool.vxlan_mode = always;
                pool.allowed_uses = Some(uses.to_vec());
            })
        };
        assert_eq!(used(&[PoolUse::Workload]), []);
        assert_eq!(used(&[PoolUse::Tunnel]), [Tunnel::Vxlan]);
        let disabled = which("10.0.0.0/16", &|pool| {
            pool.vxlan_mode = always;
            pool.disabled = Some(true);
        });
        assert_eq!(disabled, []);
    }

    #[test]
    fn handles_and_attributes_are_calicos() {
        let attributes = |tunnel: Tunnel| tunnel.attributes("n-1")["type"].clone();
        assert_eq!(
            Tunnel::ALL.map(|tunnel| tunnel.handle("n-1")),
            ["ipip-tunnel-addr-n-1", "vxlan-tunnel-addr-n-1", "vxlan-v6-tunnel-addr-n-1"]
        );
        assert_eq!(Tunnel::ALL.map(attributes), ["ipipTunnelAddress", "vxlanTunnelAddress", "vxlanV6TunnelAddress"]);
    }
}
