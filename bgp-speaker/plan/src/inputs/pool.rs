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
    /// In VXLAN, always or between subnets.
    Vxlan,
}

/// Whether a block in this state is advertised: one that is given back may still hold pods.
pub fn advertised(state: AffinityState) -> bool {
    state != AffinityState::Pending
}

pub(super) fn pool(spec: &IPPoolSpec) -> Result<Pool, String> {
    let Some(cidr) = spec.cidr() else {
        return Err(format!("spec.cidr is \"{}\", expected a range such as 10.244.0.0/16", spec.cidr));
    };
    let on = |mode: Option<EncapMode>| mode.unwrap_or_default() != EncapMode::Never;
    let encap = match (on(spec.vxlan_mode), on(spec.ipip_mode)) {
        (true, _) => Encap::Vxlan,
        (false, true) => Encap::Ipip { cross_subnet: spec.ipip_mode == Some(EncapMode::CrossSubnet) },
        (false, false) => Encap::None,
    };
    Ok(Pool { cidr: cidr.trunc(), encap, disable_bgp_export: spec.disable_bgp_export.unwrap_or_default() })
}
