//! GC: what is left of sandboxes that the runtime has forgotten?
//!
//! A sandbox whose DEL never came leaves an endpoint and addresses. The runtime lists the attachments that it knows;
//! what else there is of the network on this node is given back, as a DEL would do it.
//! Only what nobody can use any more: an address that is routed to an interface, or an endpoint whose interface is
//! there, is left, listed or not. It is another runtime's, or its namespace is kept by somebody; it is collected when
//! that is gone. Interfaces go with their namespaces, which are the runtime's to remove.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_agent::{Failure, Gc, Pod, Sandbox};
use calico_api::{IPAMBlockSpec, WorkloadEndpointSpec};
use calico_datastore::{Error, Filter};
use calico_netlink::{RouteFilter, RouteKind, Socket};
use ipnet::IpNet;
use tracing::{info, warn};

use super::conversation::identity;
use super::endpoint::Identity;
use super::work::UndoError;
use super::{Agent, code};

/// What is left of a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Leftover {
    /// `CNI_IFNAME`, as far as an endpoint tells it.
    interface: Option<String>,
    /// Whose it was.
    pod: Option<Pod>,
    /// The addresses that are taken for it or that its endpoint has.
    addresses: BTreeSet<IpAddr>,
}

impl Agent {
    /// Gives back what belongs to none of the attachments that are listed and is not used.
    ///
    /// # Errors
    /// Code 11 if the store does not answer or some of it could not be given back; a repetition does the rest.
    pub(crate) async fn collect(&self, gc: &Gc) -> Result<(), Failure> {
        self.ready().await?;
        let later = |details: String| Failure {
            code: code::LATER,
            message: "leftovers of the network could not all be collected".to_owned(),
            details,
        };
        let found = self.bounded(self.leftovers(gc)).await;
        let found = found.map_err(|reason| later(format!("{reason}; check the datastore, then try again")))?;
        let mut failed = Vec::new();
        for (container, leftover) in found {
            let sandbox = Sandbox {
                interface: leftover.interface.clone().unwrap_or_else(|| "eth0".to_owned()),
                network: gc.network.clone(),
                pod: leftover.pod.clone(),
                container_id: container,
            };
            // The old handle is the pod's, whatever its sandbox: not to be touched for one of several.
            let Ok(identity) = identity(self, &sandbox).map(|found| Identity { legacy_handle: None, ..found }) else {
                continue;
            };
            // Somebody adds or deletes just that: it is not left over.
            let Some(_turn) = self.turns.take(&identity.key) else { continue };
            match self.is_used(&identity, &sandbox, &leftover, gc.endpoints).await {
                Ok(false) => {}
                Ok(true) => {
                    let addresses = &leftover.addresses;
                    warn!(
                        container = sandbox.container_id,
                        ?addresses,
                        "an attachment that is not listed is in use and stays"
                    );
                    continue;
                }
                Err(reason) => {
                    failed.push(format!("{}: {reason}", sandbox.container_id));
                    continue;
                }
            }
            if gc.endpoints {
                self.detach(&identity, &sandbox).await;
            }
            let undone =
                if gc.endpoints { self.undo(&identity, &sandbox).await } else { self.release(&identity).await };
            match undone {
                Ok(()) => {
                    info!(container = sandbox.container_id, addresses = ?leftover.addresses, "a leftover is collected");
                }
                Err(error) => {
                    let silent = UndoError::is_silence(&error);
                    failed.push(format!("{}: {error}", sandbox.container_id));
                    if silent {
                        break;
                    }
                }
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(later(failed.join("; "))) }
    }

    /// What is stored of sandboxes of the network on this node that are not listed, by container.
    async fn leftovers(&self, gc: &Gc) -> Result<BTreeMap<String, Leftover>, Error> {
        let listed: BTreeSet<&str> = gc.valid.iter().map(|one| one.container_id.as_str()).collect();
        let blocks = self.store.list::<IPAMBlockSpec>(&Filter::All).await?.items;
        let mut found: BTreeMap<String, Leftover> = BTreeMap::new();
        let mut foreign = BTreeSet::new();
        for block in &blocks {
            for (address, handle, pod) in taken(&block.spec, &self.node) {
                match container(&handle, &gc.network) {
                    Some(container) if listed.contains(container) => {}
                    Some(container) => {
                        let leftover = found.entry(container.to_owned()).or_default();
                        leftover.addresses.insert(address);
                        leftover.pod = leftover.pod.take().or(pod);
                    }
                    None => drop(foreign.insert(address)),
                }
            }
        }
        if !gc.endpoints {
            return Ok(found);
        }
        let endpoints = self.store.list::<WorkloadEndpointSpec>(&Filter::Node(self.node.clone())).await?.items;
        for endpoint in endpoints {
            let spec = endpoint.spec;
            let attachment = |one: &calico_agent::Attachment| {
                one.container_id == spec.container_id && (!spec.pod.is_empty() || one.interface == spec.endpoint)
            };
            let addresses: BTreeSet<IpAddr> = networks(&spec).map(|network| network.addr()).collect();
            let of_other_network = addresses.iter().any(|address| foreign.contains(address))
                || (spec.orchestrator == "cni" && !spec.profiles.contains(&gc.network));
            // A pod's object outlives its network, and then has no address.
            let is_done = self.has_pods && addresses.is_empty();
            if is_done || spec.container_id.is_empty() || gc.valid.iter().any(attachment) || of_other_network {
                continue;
            }
            let leftover = found.entry(spec.container_id).or_default();
            leftover.addresses.extend(addresses);
            leftover.interface = Some(spec.endpoint);
            if !spec.pod.is_empty() {
                let namespace = endpoint.metadata.namespace.unwrap_or_default();
                leftover.pod = Some(Pod { namespace, name: spec.pod });
            }
        }
        Ok(found)
    }

    /// Whether somebody may still use what is left: its interface is there, or an address of it is routed to one.
    async fn is_used(
        &self,
        identity: &Identity,
        sandbox: &Sandbox,
        leftover: &Leftover,
        endpoints: bool,
    ) -> Result<bool, String> {
        let (routed, there) = kernel(&identity.interface, &leftover.addresses).map_err(|error| error.to_string())?;
        if routed || !endpoints || !there {
            return Ok(routed);
        }
        // The interface is named after the pod: it may be that of its next sandbox.
        let stored = async {
            match self.store.get::<WorkloadEndpointSpec>(&identity.key).await {
                Ok(stored) => Ok(Some(stored.spec.container_id)),
                Err(Error::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let owner = self.bounded(stored).await.map_err(|error| error.to_string())?;
        Ok(owner.is_none_or(|owner| owner.is_empty() || owner == sandbox.container_id))
    }
}

/// Whether the kernel routes one of the addresses alone to an interface, and whether there is an interface of this name.
fn kernel(interface: &str, addresses: &BTreeSet<IpAddr>) -> calico_netlink::Result<(bool, bool)> {
    let mut socket = Socket::open()?;
    let there = socket.link(interface)?.is_some();
    let whole: BTreeSet<IpNet> = addresses.iter().map(|address| IpNet::from(*address)).collect();
    let routes = socket.routes(&RouteFilter::default())?;
    let routed = routes.iter().any(|route| {
        route.kind == RouteKind::Unicast && !route.next_hops.is_empty() && whole.contains(&route.destination)
    });
    Ok((routed, there))
}

/// The container of a handle, if it is one of this network. Ids with a dot cannot be told from networks with one.
fn container<'a>(handle: &'a str, network: &str) -> Option<&'a str> {
    let container = handle.strip_prefix(network)?.strip_prefix('.')?;
    (!container.is_empty() && !container.contains('.')).then_some(container)
}

/// The addresses of a block that are taken for workloads of a node: each with its handle and its pod.
fn taken<'a>(block: &'a IPAMBlockSpec, node: &'a str) -> impl Iterator<Item = (IpAddr, String, Option<Pod>)> + 'a {
    let held = block.attributes.iter().filter(|attribute| attribute.released_at.is_none());
    held.filter_map(move |attribute| {
        let text = |name: &str| attribute.secondary.as_ref()?.get(name)?.clone();
        if text("node").as_deref() != Some(node) {
            return None;
        }
        let pod = text("namespace").zip(text("pod")).map(|(namespace, name)| Pod { namespace, name });
        let handle = attribute.handle_id.as_deref()?;
        Some(
            ipam::block::addresses_of(block, handle)
                .map(move |address| (address, ipam::block::clean_handle(handle).to_owned(), pod.clone())),
        )
    })
    .flatten()
}

fn networks(endpoint: &WorkloadEndpointSpec) -> impl Iterator<Item = IpNet> {
    endpoint.ip_networks.iter().filter_map(|text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use calico_api::Owner;
    use ipam::{Reservations, block};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_handle_is_of_a_network_only_if_nothing_but_a_container_follows_its_name() {
        assert_eq!(container("k8s-pod-network.c0ffee", "k8s-pod-network"), Some("c0ffee"));
        for (handle, network) in [
            ("k8s-pod-network.c0ffee", "k8s"),
            ("a.b.c", "a"),
            ("net.", "net"),
            ("net", "net"),
            ("k8s-pod-network.vmi.default.vm-1", "k8s-pod-network"),
            ("vxlan-tunnel-addr-node-1", "vxlan-tunnel-addr-node-1"),
        ] {
            assert_eq!(container(handle, network), None, "{handle} {network}");
        }
        assert_eq!(container("a.b.c", "a.b"), Some("c"));
    }

    #[test]
    fn only_what_is_taken_for_workloads_of_the_node_counts() {
        let now = Timestamp::UNIX_EPOCH;
        let mut spec = block::new("10.0.0.0/29".parse().unwrap(), &Owner::Host("east".to_owned()), now).unwrap();
        for (handle, node) in [("net.a", "east"), ("net.b", "west"), ("net.c", "east")] {
            let attributes = BTreeMap::from([("node", node), ("pod", "web"), ("namespace", "shop")])
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect::<BTreeMap<_, _>>();
            block::assign(&mut spec, &block::holder(handle, &attributes), 1, &Reservations::default());
        }
        block::release_handle(&mut spec, "net.c", now);
        let found: Vec<_> = taken(&spec, "east").collect();
        let pod = Pod { namespace: "shop".to_owned(), name: "web".to_owned() };
        assert_eq!(found, [("10.0.0.0".parse().unwrap(), "net.a".to_owned(), Some(pod))]);
    }
}
