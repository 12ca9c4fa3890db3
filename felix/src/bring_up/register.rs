//! The node says where it is: one attempt to detect its addresses and to store them in its Node.
//!
//! Bring-up repeats it until it succeeds; later it is repeated now and then, in case an address has changed.

use std::net::IpAddr;
use std::time::Duration;

use calico_api::{Key, Kind, Node, NodeSpec};
use calico_datastore::{Error, Filter};
use tokio::time::timeout;
use tracing::{info, warn};

use super::Site;
use super::autodetect::{Interface, reach};
use super::kernel::interfaces;
use super::node::{self, AddressError, Addresses, Note, Occasion};
use super::patience::bounded;
use crate::config::{AddressSetting, Backend, FamilySetting, Method};

/// How long a name server and the routing table may take to tell from where a destination is reached.
const REACH: Duration = Duration::from_secs(5);

/// How often somebody else may write the Node between our reading and our writing.
const TRIES: usize = 5;

/// Why the node is not registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    /// It does not know where it is.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Somebody else is there.
    #[error(
        "node {other} has the address {address} too: give one of them another (IP, IP6), delete {other} if it is gone, or \
         set DISABLE_NODE_IP_CHECK=true"
    )]
    Conflict {
        /// The other node.
        other: String,
        /// The address of both.
        address: IpAddr,
    },
    /// The store does not know it and lets nobody make it.
    #[error(
        "there is no node {name} in the datastore, and it cannot be created ({reason}): set NODENAME to the name that \
         Kubernetes has for this machine (kubectl get nodes)"
    )]
    NoNode {
        /// Its name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// It was deleted while it runs.
    #[error("node {0} is gone from the datastore; a restart of Felix registers it anew")]
    Gone(String),
    /// The kernel does not tell.
    #[error("could not list the node's interfaces: {0}")]
    Interfaces(calico_netlink::Error),
    /// The store does not answer, or refuses.
    #[error("could not {what}: {error}")]
    Store {
        /// What was attempted.
        what: &'static str,
        /// The store's words.
        error: Error,
    },
    /// Others kept writing.
    #[error("the node was changed by others {TRIES} times while it was written")]
    Contended,
}

impl RegisterError {
    /// Whether another attempt may succeed though this process stays the same.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            // Nothing is detected, whatever comes up.
            Self::Address(AddressError::None) | Self::Conflict { .. } => false,
            Self::Address(AddressError::Undetected { .. })
            | Self::NoNode { .. }
            | Self::Gone(_)
            | Self::Interfaces(_)
            | Self::Contended => true,
            Self::Store { error, .. } => error.may_pass(),
        }
    }
}

/// The node is registered.
#[derive(Clone, Debug)]
pub(crate) struct Registered {
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// Its interfaces.
    pub(crate) interfaces: Vec<Interface>,
    /// What the operator may want to know of how the addresses came about.
    pub(crate) notes: Vec<Note>,
}

/// Detects the node's addresses and writes the Node, unless it says so already.
///
/// At the start a Node that is not there is made, where the store lets us; later that is left to another start.
///
/// `known` is the Node as a watch last showed it, so that it need not be read where nothing has changed.
///
/// # Errors
/// See [`RegisterError`].
pub(crate) async fn register(
    site: &Site,
    occasion: Occasion,
    mut known: Option<Node>,
) -> Result<Registered, RegisterError> {
    let key = Key::named(Kind::Node, &site.name);
    let settings = &site.config.node;
    let failed = |what| move |error| RegisterError::Store { what, error };
    let reached = [reached(&settings.ipv4, true).await, reached(&settings.ipv6, false).await];
    for _ in 0..TRIES {
        let stored = match known.take() {
            Some(node) => Some(node),
            None => match bounded(&site.store, site.store.get::<NodeSpec>(&key)).await {
                Ok(node) => Some(node),
                // Before anything is detected: kubectl is where it has to be looked at.
                Err(Error::NotFound(_)) if occasion == Occasion::Start && site.in_kubernetes() => {
                    let reason = "Kubernetes makes its nodes itself, when their kubelets register".to_owned();
                    return Err(RegisterError::NoNode { name: site.name.clone(), reason });
                }
                Err(Error::NotFound(_)) if occasion == Occasion::Start => None,
                Err(Error::NotFound(_)) => return Err(RegisterError::Gone(site.name.clone())),
                Err(error) => return Err(failed("read the node")(error)),
            },
        };
        let internal = internal_addresses(site, stored.as_ref()).await.map_err(failed("read the Kubernetes node"))?;
        let interfaces = interfaces().map_err(RegisterError::Interfaces)?;
        let reach = |destination: &str, ipv4: bool| {
            let [v4, v6] = &reached;
            let answer = if ipv4 { v4 } else { v6 };
            answer.clone().unwrap_or_else(|| Err(format!("{destination} was not asked for")))
        };
        let (addresses, notes) = node::addresses(settings, &interfaces, stored.as_ref(), &internal, &reach, occasion)?;
        let surroundings = node::Surroundings {
            interfaces: &interfaces,
            prefixes: &site.config.interface_prefixes,
            in_kubernetes: site.in_kubernetes(),
        };
        let wanted = node::merged(&site.name, stored.as_ref(), settings, &addresses, &surroundings);
        if stored.as_ref() == Some(&wanted) {
            return Ok(Registered { addresses, interfaces, notes });
        }
        if settings.check_conflicts && settings.backend != Backend::None {
            let listed = bounded(&site.store, site.store.list::<NodeSpec>(&Filter::All)).await;
            let nodes = listed.map_err(failed("list the nodes"))?;
            if let Some((other, address)) = node::conflict(&site.name, &addresses, &nodes.items) {
                return Err(RegisterError::Conflict { other, address });
            }
        }
        let written = match &stored {
            Some(_) => bounded(&site.store, site.store.update(&wanted)).await,
            None => bounded(&site.store, site.store.create(&wanted)).await,
        };
        match written {
            Ok(node) => {
                warn_of_change(stored.as_ref(), &node);
                let text = |network: Option<ipnet::IpNet>| network.map(|network| network.to_string());
                info!(node = site.name, ipv4 = text(addresses.ipv4), ipv6 = text(addresses.ipv6), "node written");
                return Ok(Registered { addresses, interfaces, notes });
            }
            Err(Error::Conflict(_) | Error::AlreadyExists(_) | Error::NotFound(_)) => {} // somebody was faster: look again
            Err(Error::NotSupported { reason, .. }) => {
                return Err(RegisterError::NoNode { name: site.name.clone(), reason });
            }
            Err(error) => return Err(failed("write the node")(error)),
        }
    }
    Err(RegisterError::Contended)
}

/// From which address the destination of can-reach is reached. Names are looked up in a thread of its own: a name server
/// that does not answer must not keep the health port waiting.
async fn reached(setting: &FamilySetting, ipv4: bool) -> Option<Result<IpAddr, String>> {
    let Method::CanReach(destination) = &setting.method else { return None };
    if !matches!(setting.address, AddressSetting::Autodetect | AddressSetting::Unset) {
        return None;
    }
    let destination = destination.clone();
    let asked = tokio::task::spawn_blocking(move || reach(&destination, ipv4));
    Some(match timeout(REACH, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("its name was not resolved within {} s", REACH.as_secs())),
    })
}

/// What Kubernetes has as the node's addresses, if a method asks for them.
async fn internal_addresses(site: &Site, stored: Option<&Node>) -> Result<Vec<IpAddr>, Error> {
    let settings = &site.config.node;
    let asked =
        [&settings.ipv4, &settings.ipv6].iter().any(|family| matches!(family.method, Method::KubernetesInternalIp));
    if !asked {
        return Ok(Vec::new());
    }
    if site.in_kubernetes() {
        return Ok(stored.map(node::internal_addresses).unwrap_or_default());
    }
    let Some(kubernetes) = &site.kubernetes else {
        warn!("kubernetes-internal-ip needs Kubernetes' API: set KUBECONFIG or K8S_API_ENDPOINT");
        return Ok(Vec::new());
    };
    let key = Key::named(Kind::Node, site.kubernetes_node());
    match bounded(kubernetes, kubernetes.get::<NodeSpec>(&key)).await {
        Ok(node) => Ok(node::internal_addresses(&node)),
        Err(Error::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn warn_of_change(before: Option<&Node>, after: &Node) {
    let bgp = |node: &Node| node.spec.bgp.clone().unwrap_or_default();
    let Some(before) = before.map(bgp) else { return };
    let after = bgp(after);
    for (was, is) in [(before.ipv4_address, after.ipv4_address), (before.ipv6_address, after.ipv6_address)] {
        if was.is_some() && was != is {
            warn!(was, is, "the node's address changed; its peers must learn of it");
        }
    }
}
