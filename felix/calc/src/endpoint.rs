//! What an endpoint asks of the kernel, and whether it can be had.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_api::{Key, WorkloadEndpoint};
use ipnet::IpNet;

/// The longest name of an interface, in octets (`IFNAMSIZ` less the final zero).
const NAME_LIMIT: usize = 15;

/// Who an endpoint is, in the order that decides between two on one interface: the smaller wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointId {
    /// `k8s`, `cni`.
    pub orchestrator: String,
    /// `<namespace>/<pod>`, or the container.
    pub workload: String,
    /// `eth0`.
    pub endpoint: String,
    /// What it is stored under; decides last.
    pub key: Key,
}

/// The node's side of a workload's interface, as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Whose it is.
    pub endpoint: EndpointId,
    /// The container it was made for; empty if nobody said.
    pub container: String,
    /// The addresses behind it, each of full length.
    pub addresses: BTreeSet<IpNet>,
}

/// Why an endpoint cannot be programmed as it stands; its last good version stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// One of its networks cannot be read.
    #[error("ipNetworks holds \"{0}\", which is not an address or an address with a prefix length")]
    Network(String),
    /// One of its networks is more than an address.
    #[error("ipNetworks holds {0}; a workload has single addresses, /32 or /128")]
    Length(IpNet),
    /// Its interface has a name that cannot be that of a workload's interface.
    #[error("interfaceName is \"{0}\", which is no name of 1 to 15 characters beginning with an interfacePrefix")]
    Name(String),
    /// The store itself could not read it.
    #[error("the stored value cannot be read: {0}")]
    Corrupt(String),
}

/// The name of the endpoint's interface and what is wanted of it.
///
/// `None` if nothing is: an endpoint without addresses is one whose workload has finished.
pub(crate) fn interface(
    endpoint: &WorkloadEndpoint,
    prefixes: &[String],
) -> Result<Option<(String, Interface)>, Unusable> {
    let spec = &endpoint.spec;
    if spec.ip_networks.is_empty() {
        return Ok(None);
    }
    let name = &spec.interface_name;
    let plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    let known = prefixes.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix.as_str()));
    if !known || name.len() > NAME_LIMIT || !name.chars().all(plain) {
        return Err(Unusable::Name(name.clone()));
    }
    let addresses = spec.ip_networks.iter().map(|text| address(text)).collect::<Result<_, _>>()?;
    let key = endpoint.key();
    let workload = match (key.namespace(), spec.pod.as_str(), spec.workload.as_str()) {
        (Some(namespace), pod, "") => format!("{namespace}/{pod}"),
        (_, _, workload) => workload.to_owned(),
    };
    let endpoint =
        EndpointId { orchestrator: spec.orchestrator.clone(), workload, endpoint: spec.endpoint.clone(), key };
    Ok(Some((name.clone(), Interface { endpoint, container: spec.container_id.clone(), addresses })))
}

/// `10.244.0.2` or `10.244.0.2/32`.
fn address(text: &str) -> Result<IpNet, Unusable> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| Unusable::Network(text.to_owned()))?,
    };
    if network.prefix_len() != network.max_prefix_len() {
        return Err(Unusable::Length(network));
    }
    Ok(network)
}
