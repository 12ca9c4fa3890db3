//! What a node knows of pools and blocks, kept by watch events and by its own writes.

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{
    AffinityState, BlockAffinitySpec, IPAMBlock, IPAMBlockSpec, IPAMConfigurationSpec, IPAMHandle, IPPool, IPPoolSpec,
    Key, Kind, NodeSpec, Owner, Resource, Spec,
};
use calico_datastore::{Entry, Filter, Store};
use ipnet::IpNet;
use serde::Deserialize;

use crate::claim::{fault_of, found};
use crate::network::NetSet;
use crate::pool::Labels;
use crate::release::After;
use crate::reservation::Reservations;

/// What a node knows. Anything in it may be outdated; every write is held to the store's revision.
#[derive(Debug, Default)]
pub(super) struct Cache {
    pub(super) pools: BTreeMap<String, IPPool>,
    pub(super) config: IPAMConfigurationSpec,
    pub(super) reservations: Reservations,
    reserved_by: BTreeMap<String, Vec<IpNet>>,
    pub(super) node_labels: Option<Labels>,
    pub(super) namespaces: BTreeMap<String, Labels>,
    /// Own blocks that are sound.
    pub(super) own: BTreeMap<IpNet, IPAMBlock>,
    /// Own blocks that must be read again before they are used.
    pub(super) doubtful: BTreeSet<IpNet>,
    pub(super) affinities: BTreeMap<IpNet, AffinityState>,
    /// Handles as this allocator wrote them last, so that they need not be read before they are released.
    pub(super) handles: BTreeMap<String, IPAMHandle>,
    /// All blocks of the cluster, sound or not.
    pub(super) taken: NetSet,
    /// Blocks that are not sound, and why.
    pub(super) faults: BTreeMap<IpNet, String>,
}

/// The one field of an IPReservation that matters here. A range may be written as a bare address.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReservationSpec {
    #[serde(default, rename = "reservedCIDRs")]
    reserved_cidrs: Vec<String>,
}

impl Cache {
    /// Everything, read from the store.
    pub(super) async fn load(&mut self, store: &Store, owner: &Owner) -> calico_datastore::Result<()> {
        let mut new = Self { namespaces: std::mem::take(&mut self.namespaces), ..Self::default() };
        let node = owner.name().to_owned();
        let backend = store.backend();
        for kind in [Kind::IPPool, Kind::IPReservation, Kind::BlockAffinity, Kind::IPAMBlock] {
            let filter = match kind {
                Kind::BlockAffinity => Filter::Node(node.clone()),
                _ => Filter::All,
            };
            let listing = backend.list(kind, &filter).await?;
            listing.entries.iter().for_each(|entry| new.put(owner, entry));
            listing.faults.iter().for_each(|fault| new.fault(fault.key.as_ref(), &fault.reason));
        }
        for key in [Key::named(Kind::IPAMConfiguration, "default"), Key::named(Kind::Node, node)] {
            if let Some(entry) = found(backend.get(&key).await)? {
                new.put(owner, &entry);
            }
        }
        *self = new;
        Ok(())
    }

    /// Something was created or updated, perhaps before our own last write of it.
    pub(super) fn put(&mut self, owner: &Owner, entry: &Entry) {
        match entry.key.kind() {
            Kind::IPAMBlock if self.is_known(entry) => {}
            Kind::IPAMBlock => match read::<IPAMBlockSpec>(entry) {
                Ok(block) => self.block(owner, block, false),
                Err(reason) => self.fault(Some(&entry.key), &reason),
            },
            Kind::BlockAffinity => {
                if let Ok(affinity) = read::<BlockAffinitySpec>(entry)
                    && affinity.spec.owner() == *owner
                {
                    self.affinities.insert(affinity.spec.cidr.trunc(), affinity.spec.state);
                }
            }
            Kind::IPPool => match read::<IPPoolSpec>(entry) {
                Ok(pool) => drop(self.pools.insert(pool.name().to_owned(), pool)),
                Err(reason) => tracing::warn!(pool = %entry.key, reason, "keeping the last readable version of a pool"),
            },
            Kind::IPAMConfiguration => match read::<IPAMConfigurationSpec>(entry) {
                Ok(config) if config.name() == "default" => self.config = config.spec,
                Ok(_) => {}
                Err(reason) => tracing::warn!(reason, "keeping the last readable version of the IPAM configuration"),
            },
            Kind::IPReservation => {
                let spec = entry.value.get("spec").cloned().unwrap_or_default();
                match serde_json::from_value::<ReservationSpec>(spec) {
                    Ok(spec) => {
                        let nets = spec.reserved_cidrs.iter().filter_map(|text| net_or_address(text)).collect();
                        self.reserved_by.insert(entry.key.name(), nets);
                        self.reservations = self.reserved_by.values().flatten().copied().collect();
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        tracing::warn!(reservation = %entry.key, reason, "keeping the last readable version of a reservation");
                    }
                }
            }
            Kind::Node if entry.key.name() == owner.name() => match read::<NodeSpec>(entry) {
                Ok(node) => self.node_labels = Some(node.metadata.labels),
                Err(reason) => {
                    tracing::warn!(node = %entry.key, reason, "keeping the last readable labels of the node")
                }
            },
            _ => {}
        }
    }

    /// Whether it is an own block as it is known already: what was written here comes back by the watch.
    fn is_known(&self, entry: &Entry) -> bool {
        let Key::Block(cidr) = &entry.key else { return false };
        let own = self.own.get(cidr).filter(|_| !self.doubtful.contains(cidr));
        own.is_some_and(|own| own.metadata.resource_version.as_ref() == Some(&entry.revision.0))
    }

    /// Something was deleted, perhaps before our own last write of it.
    pub(super) fn delete(&mut self, owner: &Owner, key: &Key) {
        match key {
            Key::Block(cidr) if self.own.contains_key(cidr) => drop(self.doubtful.insert(*cidr)),
            Key::Block(cidr) => self.gone(cidr),
            Key::Affinity { owner: whose, cidr } if whose == owner => drop(self.affinities.remove(cidr)),
            Key::Named { kind: Kind::IPPool, name, .. } => drop(self.pools.remove(name)),
            Key::Named { kind: Kind::IPReservation, name, .. } => {
                self.reserved_by.remove(name);
                self.reservations = self.reserved_by.values().flatten().copied().collect();
            }
            Key::Named { kind: Kind::IPAMConfiguration, name, .. } if name == "default" => {
                self.config = IPAMConfigurationSpec::default();
            }
            Key::Named { kind: Kind::Node, name, .. } if name == owner.name() => self.node_labels = None,
            _ => {}
        }
    }

    /// Something cannot be read. A block is neither used nor overlapped until it can be; anything else stays as it was.
    pub(super) fn fault(&mut self, key: Option<&Key>, reason: &str) {
        if let Some(Key::Block(cidr)) = key {
            tracing::error!(block = %cidr, reason, "a block is corrupt and is not used; correct or delete it");
            self.own.remove(cidr);
            self.doubtful.remove(cidr);
            self.taken.insert(cidr);
            self.faults.insert(*cidr, reason.to_owned());
        }
    }

    /// A block as it is in the store now (`fresh`) or was when an event was sent.
    pub(super) fn block(&mut self, owner: &Owner, block: IPAMBlock, fresh: bool) {
        let cidr = block.spec.cidr.trunc();
        let newer = |own: &IPAMBlock| own.spec.sequence_number > block.spec.sequence_number;
        if !fresh && self.own.get(&cidr).is_some_and(newer) {
            return;
        }
        if let Some(fault) = fault_of(&block) {
            return self.fault(Some(&Key::Block(cidr)), &fault);
        }
        self.faults.remove(&cidr);
        self.doubtful.remove(&cidr);
        self.taken.insert(&cidr);
        if block.spec.owner().as_ref() == Some(owner) {
            self.own.insert(cidr, block);
        } else {
            self.own.remove(&cidr);
        }
    }

    /// The block does not exist.
    pub(super) fn gone(&mut self, cidr: &IpNet) {
        self.own.remove(cidr);
        self.doubtful.remove(cidr);
        self.faults.remove(cidr);
        self.taken.remove(cidr);
    }

    /// What an own write has made of a block.
    pub(super) fn after(&mut self, owner: &Owner, cidr: &IpNet, after: After) {
        match after {
            After::Is(block) => self.block(owner, *block, true),
            After::Gone => self.gone(cidr),
            After::Unknown if self.own.contains_key(cidr) => drop(self.doubtful.insert(*cidr)),
            After::Unknown => {}
        }
    }
}

fn read<S: Spec>(entry: &Entry) -> Result<Resource<S>, String> {
    let mut resource = Resource::<S>::deserialize(&entry.value).map_err(|error| error.to_string())?;
    resource.metadata.resource_version = Some(entry.revision.0.clone());
    Ok(resource)
}

fn net_or_address(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address)))
}
