//! What an endpoint asks of the kernel, and whether it can be had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_plan::workloads::BadSelecting;
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
    /// The workload's MAC; empty if nobody said.
    pub mac: String,
    /// The addresses behind it, each of full length and once, in the endpoint's order.
    pub addresses: Vec<IpNet>,
    /// The BGPPeer that selects the workload as a peer of this node.
    pub peer: Option<String>,
    /// The addresses that the node has on this interface for such a peer to dial.
    pub node_addresses: BTreeSet<IpAddr>,
}

impl Interface {
    /// Whether the same addresses are behind another, in whatever order.
    pub(crate) fn has_addresses_of(&self, other: &Self) -> bool {
        let sorted = |addresses: &[IpNet]| addresses.iter().copied().collect::<BTreeSet<_>>();
        sorted(&self.addresses) == sorted(&other.addresses)
    }
}

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    /// The name of its interface.
    pub(crate) name: String,
    /// What is wanted of that, as far as the endpoint alone says.
    pub(crate) interface: Interface,
    /// Its own labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its profiles, in order.
    pub(crate) profiles: Vec<String>,
}

/// Why something cannot be used as it stands; its last good version stays in force.
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
    /// A BGPPeer whose choice of workloads contradicts itself.
    #[error(transparent)]
    Peer(#[from] BadSelecting),
    /// A field of a Node.
    #[error("spec.{field} is \"{value}\", which is not what belongs there; correct the Node")]
    Node {
        /// Which.
        field: &'static str,
        /// What is written there.
        value: String,
    },
    /// A BGPConfiguration with an address that is none.
    #[error("{field} is \"{value}\", which is no address of that family")]
    PeeringAddress {
        /// Which.
        field: &'static str,
        /// What is written there.
        value: String,
    },
}

/// The endpoint as this node has it.
///
/// `None` if nothing is wanted of its interface: an endpoint without addresses is one whose workload has finished.
pub(crate) fn local(endpoint: &WorkloadEndpoint, prefixes: &[String]) -> Result<Option<Local>, Unusable> {
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
    let mut addresses = Vec::with_capacity(spec.ip_networks.len());
    for text in &spec.ip_networks {
        let address = address(text)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let key = endpoint.key();
    let workload = match (key.namespace(), spec.pod.as_str(), spec.workload.as_str()) {
        (Some(namespace), pod, "") => format!("{namespace}/{pod}"),
        (_, _, workload) => workload.to_owned(),
    };
    let id = EndpointId { orchestrator: spec.orchestrator.clone(), workload, endpoint: spec.endpoint.clone(), key };
    let interface = Interface {
        endpoint: id,
        container: spec.container_id.clone(),
        mac: spec.mac.clone(),
        addresses,
        peer: None,
        node_addresses: BTreeSet::new(),
    };
    let (labels, profiles) = (endpoint.metadata.labels.clone(), spec.profiles.clone());
    Ok(Some(Local { name: name.clone(), interface, labels, profiles }))
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
