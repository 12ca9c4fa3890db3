//! What the store holds, as far as the watch has told.

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{
    BlockAffinity, BlockAffinitySpec, ClusterInformationSpec, IPAMBlock, IPAMBlockSpec, IPAMConfigurationSpec,
    IPAMHandle, IPPoolSpec, IPReservationSpec, Key, Kind, Node, NodeSpec, Owner, WorkloadEndpoint,
    WorkloadEndpointSpec,
};
use calico_datastore::watch::Update;
use calico_datastore::{Entry, decode};
use ipam::Reservations;
use ipnet::IpNet;

use crate::pods::Pods;

/// Where the truth about pods and nodes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The store is Kubernetes: endpoints and nodes are views of its own pods and nodes.
    Kubernetes,
    /// The store is another, and Kubernetes is beside it: pods and nodes are asked of Kubernetes, and what the store has
    /// of them follows.
    Beside,
    /// There is no Kubernetes: what the store has is all there is.
    Alone,
}

/// Where an update comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store.
    Store,
    /// Kubernetes, beside the store.
    Kubernetes,
}

/// What the store holds.
#[derive(Debug)]
pub struct Image {
    pub(crate) mode: Mode,
    /// The truth about pods.
    pub(crate) pods: Pods,
    /// Endpoints that are objects of their own, which somebody has to remove.
    pub(crate) records: BTreeMap<Key, WorkloadEndpoint>,
    pub(crate) nodes: BTreeMap<String, Node>,
    /// Kubernetes' nodes and their labels, in [`Mode::Beside`].
    pub(crate) kube_nodes: BTreeMap<String, BTreeMap<String, String>>,
    /// Nodes that cannot be read: they are there. An empty name is one of which not even the name can be read.
    pub(crate) torn_nodes: BTreeSet<String>,
    pub(crate) blocks: BTreeMap<IpNet, IPAMBlock>,
    /// Blocks that cannot be read, or are not sound; `None` is one of which not even the range can be read.
    pub(crate) torn_blocks: BTreeSet<Option<IpNet>>,
    pub(crate) affinities: BTreeMap<(Owner, IpNet), BlockAffinity>,
    /// The handles as last listed, and not yet looked at.
    pub(crate) handles: Option<Vec<IPAMHandle>>,
    pub(crate) pools: BTreeMap<String, IpNet>,
    reserved: BTreeMap<String, Vec<IpNet>>,
    pub(crate) config: IPAMConfigurationSpec,
    ready: bool,
}

impl Image {
    /// An image of nothing.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            pods: Pods::default(),
            records: BTreeMap::new(),
            nodes: BTreeMap::new(),
            kube_nodes: BTreeMap::new(),
            torn_nodes: BTreeSet::new(),
            blocks: BTreeMap::new(),
            torn_blocks: BTreeSet::new(),
            affinities: BTreeMap::new(),
            handles: None,
            pools: BTreeMap::new(),
            reserved: BTreeMap::new(),
            config: IPAMConfigurationSpec::default(),
            ready: true,
        }
    }

    /// What is to be watched in the store.
    pub fn kinds() -> Vec<Kind> {
        vec![
            Kind::IPAMBlock,
            Kind::BlockAffinity,
            Kind::Node,
            Kind::WorkloadEndpoint,
            Kind::IPPool,
            Kind::IPReservation,
            Kind::IPAMConfiguration,
            Kind::ClusterInformation,
        ]
    }

    /// Where the truth about pods and nodes is.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the store is not locked for a migration (`datastoreReady`).
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// IPAM's settings.
    pub fn config(&self) -> &IPAMConfigurationSpec {
        &self.config
    }

    /// The addresses that IPReservations keep.
    pub fn reservations(&self) -> Reservations {
        self.reserved.values().flatten().copied().collect()
    }

    /// Takes in an update; whether a node has gone.
    pub fn observe(&mut self, source: Source, update: &Update) -> bool {
        match update {
            Update::Put(entry) => self.put(source, entry),
            Update::Delete(key) => return self.delete(source, key),
            Update::Fault(fault) => self.tear(source, fault.kind, fault.key.as_ref(), &fault.name),
            Update::InSync | Update::Trouble(_) => {}
        }
        false
    }

    /// Takes in a listing of all handles, to be looked at by the next pass.
    pub fn set_handles(&mut self, handles: Vec<IPAMHandle>) {
        self.handles = Some(handles);
    }

    fn tear(&mut self, source: Source, kind: Kind, key: Option<&Key>, name: &str) {
        match (kind, key) {
            (Kind::IPAMBlock, key) => {
                let cidr = match key {
                    Some(Key::Block(cidr)) => Some(*cidr),
                    _ => None,
                };
                self.blocks.retain(|held, _| Some(*held) != cidr);
                self.torn_blocks.insert(cidr);
            }
            (Kind::Node, key) => {
                self.torn_nodes.insert(key.map(Key::name).unwrap_or_default());
            }
            (Kind::WorkloadEndpoint, key) if self.is_truth(source) => {
                self.pods.tear(name);
                if let Some(key) = key {
                    self.records.remove(key);
                }
            }
            _ => {}
        }
    }

    /// Whether pods and nodes of this source are the truth.
    fn is_truth(&self, source: Source) -> bool {
        (self.mode == Mode::Beside) == (source == Source::Kubernetes)
    }

    fn put(&mut self, source: Source, entry: &Entry) {
        // What decodes to nothing good is as what cannot be read at all.
        if self.take(source, entry).is_none() {
            self.tear(source, entry.key.kind(), Some(&entry.key), &entry.key.name());
        }
    }

    fn take(&mut self, source: Source, entry: &Entry) -> Option<()> {
        fn typed<S: calico_api::Spec>(entry: &Entry) -> Option<calico_api::Resource<S>> {
            decode(entry.clone()).ok()
        }
        let name = || entry.key.name();
        match (entry.key.kind(), source) {
            (Kind::WorkloadEndpoint, source) => {
                let endpoint = typed::<WorkloadEndpointSpec>(entry)?;
                if self.is_truth(source) {
                    self.pods.put(&endpoint);
                }
                if source == Source::Store && self.mode != Mode::Kubernetes {
                    self.records.insert(entry.key.clone(), endpoint);
                }
            }
            (Kind::Node, Source::Kubernetes) => {
                let node = typed::<NodeSpec>(entry)?;
                self.kube_nodes.insert(name(), node.metadata.labels);
            }
            (Kind::Node, Source::Store) => {
                let node = typed::<NodeSpec>(entry)?;
                self.torn_nodes.remove(node.name());
                self.nodes.insert(name(), node);
            }
            (_, Source::Kubernetes) => {}
            (Kind::IPAMBlock, _) => {
                let block = typed::<IPAMBlockSpec>(entry)?;
                ipam::block::check_usable(&block.spec).ok()?;
                let cidr = block.spec.cidr;
                self.torn_blocks.remove(&Some(cidr));
                self.blocks.insert(cidr, block);
            }
            (Kind::BlockAffinity, _) => {
                let affinity = typed::<BlockAffinitySpec>(entry)?;
                self.affinities.insert((affinity.spec.owner(), affinity.spec.cidr.trunc()), affinity);
            }
            (Kind::IPPool, _) => {
                let pool = typed::<IPPoolSpec>(entry)?;
                match pool.spec.cidr() {
                    Some(cidr) => drop(self.pools.insert(name(), cidr.trunc())),
                    None => drop(self.pools.remove(&name())),
                }
            }
            (Kind::IPReservation, _) => {
                let reservation = typed::<IPReservationSpec>(entry)?;
                let texts = reservation.spec.reserved_cidrs.into_iter().flatten();
                let net =
                    |text: String| text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
                self.reserved.insert(name(), texts.filter_map(net).collect());
            }
            (Kind::IPAMConfiguration, _) if name() == "default" => {
                self.config = typed::<IPAMConfigurationSpec>(entry)?.spec;
            }
            (Kind::ClusterInformation, _) if name() == "default" => {
                self.ready = typed::<ClusterInformationSpec>(entry)?.spec.datastore_ready != Some(false);
            }
            _ => {}
        }
        Some(())
    }

    fn delete(&mut self, source: Source, key: &Key) -> bool {
        match (key, key.kind(), source) {
            (Key::Block(cidr), ..) => {
                self.blocks.remove(cidr);
                self.torn_blocks.remove(&Some(*cidr));
            }
            (Key::Affinity { owner, cidr }, ..) => drop(self.affinities.remove(&(owner.clone(), *cidr))),
            (_, Kind::WorkloadEndpoint, source) => {
                if self.is_truth(source) {
                    self.pods.delete(key);
                }
                if source == Source::Store {
                    self.records.remove(key);
                }
            }
            (_, Kind::Node, Source::Kubernetes) => return self.kube_nodes.remove(&key.name()).is_some(),
            (_, Kind::Node, Source::Store) => {
                self.torn_nodes.remove(&key.name());
                return self.nodes.remove(&key.name()).is_some();
            }
            (_, Kind::IPPool, _) => drop(self.pools.remove(&key.name())),
            (_, Kind::IPReservation, _) => drop(self.reserved.remove(&key.name())),
            (_, Kind::IPAMConfiguration, _) => self.config = IPAMConfigurationSpec::default(),
            _ => {}
        }
        false
    }

    /// Whether there is no node of this name. While there is one whose name cannot be read, no node counts as gone.
    pub(crate) fn is_gone(&self, node: &str) -> bool {
        !self.nodes.contains_key(node) && !self.torn_nodes.contains(node) && !self.torn_nodes.contains("")
    }

    /// The pool that a network is in.
    pub(crate) fn pool_of(&self, net: &IpNet) -> Option<&str> {
        self.pools.iter().find(|(_, cidr)| cidr.contains(net)).map(|(name, _)| &**name)
    }
}

/// What a node is called in Kubernetes.
pub(crate) fn kube_name(node: &Node) -> Option<&str> {
    node.spec.orch_refs.iter().find(|orchestrator| orchestrator.orchestrator == "k8s")?.node_name.as_deref()
}
