//! What is told to a peer, and what is believed of it? (`bgp.md` §2.3, §2.9)

use std::collections::{BTreeMap, BTreeSet};

use bgp_proto::Policy;
use ipnet::IpNet;

use crate::filter::BgpFilter;
use crate::inputs::{Inputs, Pool};
use crate::sessions::SessionConfig;

/// What the process was told on its command line and in its environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `CALICO_ADVERTISE_CLUSTER_IPS`: replaces `serviceClusterIPs`.
    pub cluster_ips: Option<Vec<IpNet>>,
    /// Host-local IPAM (`USE_POD_CIDR`): the node's podCIDRs are its blocks.
    pub use_pod_cidr: bool,
    /// Only reflectors tell external peers what they have learned (`BGP_EXPORT_LEARNED=reflectors`).
    pub only_reflectors_export_learned: bool,
    /// The name under which endpoints name this node (`CALICO_K8S_NODE_REF`), if another.
    pub kubernetes_node: Option<String>,
}

/// All that policies depend on beside the session itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// All pools.
    pub pools: Vec<Pool>,
    /// This node's own blocks.
    pub blocks: BTreeSet<IpNet>,
    /// Service prefixes that this node originates.
    pub services: BTreeSet<IpNet>,
    /// This node reflects routes.
    pub reflector: bool,
    /// `serviceLoadBalancerIPs` and `serviceExternalIPs`, which a reflector passes on.
    pub reflected_services: Vec<IpNet>,
    /// Learned prefixes inside these never go to the kernel.
    pub kernel_ranges: Vec<IpNet>,
    /// Kernel metric of a normal IPv4 route.
    pub normal_v4: u32,
    /// Kernel metric of a normal IPv6 route.
    pub normal_v6: u32,
    /// Whether felix programs IPIP routes, so that routes through `tunl0` stay from internal peers.
    pub felix_owns_ipip: bool,
    /// Only reflectors tell external peers what they have learned.
    pub only_reflectors_export_learned: bool,
}

impl Surroundings {
    /// Those of `node`.
    pub fn of(_inputs: &Inputs, _node: &str, _settings: &Settings) -> Self {
        Self::default()
    }
}

/// Policies that took the place of others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// Old and new.
    pub policies: Vec<(Policy, Policy)>,
    /// Their verdicts differ only for prefixes equal to or inside one of these; `None` is all.
    pub within: Option<Vec<IpNet>>,
}

/// The policies in force. Sessions that are treated alike get the same [`Policy`], so that they share their updates.
#[derive(Debug, Default)]
pub struct PolicyBook {}

impl PolicyBook {
    /// Takes over what policies depend on; says which policies in use take the place of which, and for which prefixes.
    pub fn set(&mut self, _surroundings: Surroundings, _filters: &BTreeMap<String, BgpFilter>) -> Exchange {
        Exchange::default()
    }

    /// Judges what the peer of this session tells; `None` believes all.
    pub fn import(&mut self, _session: &SessionConfig) -> Option<Policy> {
        None
    }

    /// Judges what the peer of this session is told.
    pub fn export(&mut self, _session: &SessionConfig) -> Policy {
        Policy::new(|_| bgp_proto::Verdict::Accept)
    }
}
