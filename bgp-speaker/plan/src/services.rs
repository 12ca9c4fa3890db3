//! Which addresses of Services does this node originate, and which never go to the kernel? (`bgp.md` §2.5)

use std::collections::BTreeSet;

use calico_api::{BGPConfigurationSpec, Key};
use ipnet::IpNet;
use serde_json::Value;

/// Services and where their endpoints are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Services {}

impl Services {
    /// Takes a Service or an EndpointSlice; says whether anything that matters changed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn put(&mut self, _key: &Key, _value: &Value) -> Result<bool, String> {
        Ok(false)
    }

    /// Forgets a Service or an EndpointSlice; says whether anything that matters changed.
    pub fn delete(&mut self, _key: &Key) -> bool {
        false
    }
}

/// What BGPConfiguration `default` says of Services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSettings {
    /// `serviceClusterIPs`.
    pub cluster: Vec<IpNet>,
    /// `serviceExternalIPs`.
    pub external: Vec<IpNet>,
    /// `serviceLoadBalancerIPs`.
    pub load_balancer: Vec<IpNet>,
    /// `serviceLoadBalancerAggregation`: ranges go out as a whole.
    pub aggregate: bool,
}

impl ServiceSettings {
    /// From the resource; `cluster` replaces `serviceClusterIPs` (`CALICO_ADVERTISE_CLUSTER_IPS`).
    pub fn new(_global: &BGPConfigurationSpec, _cluster: Option<&[IpNet]>) -> Self {
        Self::default()
    }

    /// Whether Services are advertised at all.
    pub fn is_on(&self) -> bool {
        !(self.cluster.is_empty() && self.external.is_empty() && self.load_balancer.is_empty())
    }

    /// Learned prefixes inside these never go to the kernel.
    pub fn kernel_ranges(&self) -> Vec<IpNet> {
        Vec::new()
    }
}

impl Services {
    /// What `node` originates now; `excluded` by its label `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub fn originated(&self, _settings: &ServiceSettings, _node: &str, _excluded: bool) -> BTreeSet<IpNet> {
        BTreeSet::new()
    }
}
