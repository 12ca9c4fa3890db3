//! What does BGP know of pools and blocks?

use calico_api::{AffinityState, EncapMode, IPPoolSpec};
use ipnet::IpNet;

/// What BGP knows of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The range.
    pub cidr: IpNet,
    /// How its packets travel between nodes.
    pub encap: Encap,
    /// Whether nothing of it is advertised.
    pub disable_bgp_export: bool,
}

/// How packets of a pool travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    /// As they are.
    None,
    /// In IPIP.
    Ipip {
        /// Only where the next hop is outside the node's subnet.
        cross_subnet: bool,
    },
    /// In VXLAN.
    Vxlan {
        /// Only where the other node is outside the node's subnet.
        cross_subnet: bool,
    },
}

/// Whether a block in this state is advertised: one that is given back may still hold pods.
pub fn advertised(state: AffinityState) -> bool {
    state != AffinityState::Pending
}

impl Pool {
    /// What follows from the specification of a pool.
    ///
    /// # Errors
    /// What is wrong with it, if it asks for what cannot be: no range, one without room for a block, IPIP and VXLAN at once, or
    /// IPIP around IPv6.
    ///
    /// Departs from Calico, where VXLAN beats IPIP and IPIP means nothing to IPv6: who writes such a pool means
    /// something else than that, and its traffic would change its ways.
    pub fn understand(spec: &IPPoolSpec) -> Result<Self, String> {
        let Some(cidr) = spec.cidr() else {
            return Err(format!("spec.cidr is \"{}\", expected a range such as 10.244.0.0/16", spec.cidr));
        };
        let size = spec.block_size_for(&cidr);
        if cidr.prefix_len() > size && spec.disabled != Some(true) {
            return Err(format!(
                "spec.cidr {cidr} has no room for a block of spec.blockSize {size}; set blockSize to {} or more, or make \
                 another, larger pool",
                cidr.prefix_len()
            ));
        }
        let mode = |mode: Option<EncapMode>| match mode.unwrap_or_default() {
            EncapMode::Never => None,
            EncapMode::Always => Some(false),
            EncapMode::CrossSubnet => Some(true),
        };
        let encap = match (mode(spec.vxlan_mode), mode(spec.ipip_mode)) {
            (Some(_), Some(_)) => {
                return Err("spec.ipipMode and spec.vxlanMode are both in use; set one of them to Never".to_owned());
            }
            (None, Some(_)) if cidr.addr().is_ipv6() => {
                return Err("spec.ipipMode is in use, and IPIP carries no IPv6; use vxlanMode, or Never".to_owned());
            }
            (Some(cross_subnet), None) => Encap::Vxlan { cross_subnet },
            (None, Some(cross_subnet)) => Encap::Ipip { cross_subnet },
            (None, None) => Encap::None,
        };
        Ok(Self { cidr: cidr.trunc(), encap, disable_bgp_export: spec.disable_bgp_export.unwrap_or_default() })
    }
}
