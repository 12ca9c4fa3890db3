//! What do the sessions of a cluster follow from? The resources of a store, read once, and what they mean.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use bgp_plan::inputs::{Change, Inputs};
use bgp_plan::sessions::{Cluster, Plan};
use bgp_plan::workloads::{EndpointLabels, LocalWorkload, Selecting, choose};
use calico_api::{AnyResource, BGPPeerSpec, Key, Kind, Profile, ProfileSpec, WorkloadEndpoint, WorkloadEndpointSpec};
use calico_datastore::{Fault, Filter, Store};
use ipnet::IpNet;
use serde_json::Value;

/// Kinds that sessions always follow from.
const ALWAYS: [Kind; 4] = [Kind::Node, Kind::BGPConfiguration, Kind::BGPPeer, Kind::BGPFilter];

/// Kinds that they follow from where local workloads are peers. On Kubernetes these are all pods and namespaces, so
/// they are read only then.
const FOR_WORKLOADS: [Kind; 2] = [Kind::WorkloadEndpoint, Kind::Profile];

/// The resources that sessions follow from.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) resources: BTreeMap<Key, Value>,
    faults: Vec<Fault>,
    /// Whether labels of nodes are those of Kubernetes' nodes, too.
    pub(super) kubernetes: bool,
}

impl Snapshot {
    /// Reads them; `more` are resources that are to be looked at beside those of the store.
    ///
    /// # Errors
    /// If the store does not answer.
    pub(super) async fn read(store: &Store, more: &[AnyResource]) -> Result<Self> {
        let kubernetes = store.backend().cluster_type() == "kdd";
        let mut snapshot = Self { kubernetes, ..Self::default() };
        for kind in ALWAYS {
            snapshot.list(store, kind).await?;
        }
        let selects = |value: &Value| value.pointer("/spec/localWorkloadSelector").is_some();
        if snapshot.resources.values().any(selects) || more.iter().any(|resource| selects(&resource.to_value())) {
            for kind in FOR_WORKLOADS {
                snapshot.list(store, kind).await?;
            }
        }
        Ok(snapshot)
    }

    async fn list(&mut self, store: &Store, kind: Kind) -> Result<()> {
        let listing = store.backend().list(kind, &Filter::All).await;
        let listing = listing.with_context(|| format!("cannot list {}", kind.plural()))?;
        self.faults.extend(listing.faults);
        self.resources.extend(listing.entries.into_iter().map(|entry| (entry.key, entry.value)));
        Ok(())
    }

    /// Whether sessions follow from resources of a kind.
    pub(super) fn concerns(kind: Kind) -> bool {
        ALWAYS.contains(&kind) || FOR_WORKLOADS.contains(&kind)
    }

    /// What they mean.
    pub(super) fn meaning(&self) -> Meaning {
        let mut inputs = Inputs::default();
        let mut workloads = Workloads::default();
        for fault in &self.faults {
            let name = fault.key.as_ref().map_or_else(|| fault.name.clone(), Key::name);
            // It is remembered there.
            let _ = inputs.apply("", Change::Fault { kind: fault.kind, name, reason: fault.reason.clone() });
        }
        for (key, value) in &self.resources {
            workloads.take(key, value);
            let _ = inputs.apply("", Change::Put { key: key.clone(), value: value.clone() });
        }
        let workloads = workloads.peers(&inputs);
        Meaning { inputs, workloads }
    }
}

/// What the resources mean.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) inputs: Inputs,
    /// Workloads that are peers, by node and endpoint.
    workloads: BTreeMap<String, BTreeMap<String, LocalWorkload>>,
}

impl Meaning {
    /// Whether a node of this name is there.
    pub(super) fn has(&self, node: &str) -> bool {
        self.inputs.nodes.contains_key(node)
    }

    /// Whether workloads of a node are peers of it.
    pub(super) fn has_workloads(&self, node: &str) -> bool {
        self.workloads.contains_key(node)
    }

    /// The plan of a node of the cluster that `inputs` are indexed as; empty if there is no such node.
    pub(super) fn plan(&self, cluster: &Cluster<'_>, node: &str) -> Plan {
        match self.workloads.get(node) {
            _ if !self.has(node) => Plan::default(),
            None => cluster.plan(node),
            Some(workloads) => {
                let mut inputs = self.inputs.clone();
                inputs.local_workloads.clone_from(workloads);
                bgp_plan::sessions::plan(&inputs, node)
            }
        }
    }

    /// Resources that are not understood.
    pub(super) fn faults(&self) -> Vec<String> {
        let fault = |bad: &bgp_plan::inputs::BadInput| {
            format!(
                "{} {}: {}; it is not in force, but an earlier version that was good may be",
                bad.kind, bad.name, bad.reason
            )
        };
        self.inputs.faults.values().map(fault).collect()
    }
}

/// What decides which workloads are peers.
#[derive(Debug, Default)]
struct Workloads {
    selecting: BTreeMap<String, Selecting>,
    endpoints: Vec<WorkloadEndpoint>,
    profiles: BTreeMap<String, BTreeMap<String, String>>,
}

impl Workloads {
    /// Takes a resource; one that is not understood counts for nothing here, and is a fault of the inputs.
    fn take(&mut self, key: &Key, value: &Value) {
        match key.kind() {
            Kind::BGPPeer => {
                let peer = serde_json::from_value::<calico_api::Resource<BGPPeerSpec>>(value.clone()).ok();
                if let Some(selecting) = peer.and_then(|peer| Selecting::parse(&peer.spec).ok().flatten()) {
                    self.selecting.insert(key.name(), selecting);
                }
            }
            Kind::WorkloadEndpoint => {
                self.endpoints
                    .extend(serde_json::from_value::<calico_api::Resource<WorkloadEndpointSpec>>(value.clone()));
            }
            Kind::Profile => {
                if let Ok(profile) = serde_json::from_value::<calico_api::Resource<ProfileSpec>>(value.clone()) {
                    let profile: Profile = profile;
                    self.profiles.insert(key.name(), profile.spec.labels_to_apply.unwrap_or_default());
                }
            }
            _ => {}
        }
    }

    fn peers(&self, inputs: &Inputs) -> BTreeMap<String, BTreeMap<String, LocalWorkload>> {
        let mut by_node: BTreeMap<&str, BTreeMap<String, &WorkloadEndpoint>> = BTreeMap::new();
        if !self.selecting.is_empty() {
            for endpoint in &self.endpoints {
                by_node.entry(&endpoint.spec.node).or_default().insert(endpoint.key().to_string(), endpoint);
            }
        }
        let mut peers = BTreeMap::new();
        for (node, endpoints) in by_node {
            let Some(facts) = inputs.nodes.get(node) else { continue };
            let labelled = endpoints.iter().map(|(id, endpoint)| {
                let labels = EndpointLabels::new(&endpoint.metadata.labels, &endpoint.spec.profiles, &self.profiles);
                (id.clone(), labels)
            });
            let selecting = self.selecting.iter().map(|(name, selecting)| (name.as_str(), selecting));
            let chosen = choose(node, &facts.labels, selecting, labelled);
            let found = chosen.into_iter().filter_map(|(id, chosen)| {
                let workload = workload(endpoints.get(&id)?, chosen.peer)?;
                Some((id, workload))
            });
            let found: BTreeMap<_, _> = found.collect();
            if !found.is_empty() {
                peers.insert(node.to_owned(), found);
            }
        }
        peers
    }
}

/// An endpoint as a peer; `None` if it has no address.
fn workload(endpoint: &WorkloadEndpoint, peer: String) -> Option<LocalWorkload> {
    let nets: Vec<IpNet> = endpoint.spec.ip_networks.iter().filter_map(|text| text.parse().ok()).collect();
    let ipv4 = nets.iter().find_map(|net| if let IpNet::V4(net) = net { Some(net.addr()) } else { None });
    let ipv6 = nets.iter().find_map(|net| if let IpNet::V6(net) = net { Some(net.addr()) } else { None });
    (ipv4.is_some() || ipv6.is_some()).then_some(LocalWorkload { ipv4, ipv6, peer })
}
