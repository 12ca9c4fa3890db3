//! A node's allocator: its cache, and what callers see. How it assigns is in [`assign`], how it releases in [`release`].

mod assign;
mod cache;
mod release;

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_api::{IPAMBlock, Owner, PoolUse};
use calico_datastore::Store;
use calico_datastore::watch::Update;
use ipnet::IpNet;

use crate::pool::Labels;
pub use assign::{Settled, Tell};
use cache::Cache;
pub use release::{Apart, Release};

/// Assigns and releases addresses for one node.
///
/// It is owned by one task. Fed with a watch ([`Self::observe`]) it reads nothing from the store while assigning from
/// an own block: one write of the handle, one of the block. Without a watch it reads everything anew at each call,
/// which is for tools.
#[derive(Debug)]
pub struct Allocator {
    store: Store,
    owner: Owner,
    cache: Cache,
    /// Whether events keep the cache up to date.
    watched: bool,
}

/// What a workload wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignRequest {
    /// Under which handle; one that nothing but this workload uses.
    pub handle: String,
    /// Whether it wants an IPv4 address. One given in `addresses` counts.
    pub ipv4: bool,
    /// Whether it wants an IPv6 address. One given in `addresses` counts.
    pub ipv6: bool,
    /// Names or CIDRs of the pools to use, in this order; empty leaves it to the pools' selectors.
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    pub ipv6_pools: Vec<String>,
    /// Exactly these addresses. Asked for again under the same handle, they are given again.
    pub addresses: Vec<IpAddr>,
    /// What for.
    pub pool_use: PoolUse,
    /// What the block says of the holder: `pod`, `namespace`, `node`, `timestamp` (as [`crate::block::attribute_time`]).
    pub attributes: BTreeMap<String, String>,
}

impl AssignRequest {
    /// A workload's request for one IPv4 address, of any pool.
    pub fn ipv4(handle: impl Into<String>) -> Self {
        Self {
            handle: handle.into(),
            ipv4: true,
            ipv6: false,
            ipv4_pools: Vec::new(),
            ipv6_pools: Vec::new(),
            addresses: Vec::new(),
            pool_use: PoolUse::Workload,
            attributes: BTreeMap::new(),
        }
    }
}

/// An address, and the block it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: IpNet,
}

impl Allocator {
    /// An allocator for a node that knows nothing yet.
    pub fn new(store: Store, node: String) -> Self {
        Self { store, owner: Owner::Host(node), cache: Cache::default(), watched: false }
    }

    /// Takes in an event of a watch on IPPool, IPAMBlock, BlockAffinity (of this node or all), IPAMConfiguration,
    /// IPReservation and Node; other kinds are passed over. From [`Update::InSync`] on the cache is trusted.
    ///
    /// Events may come later than own writes of the same object; the newer one stays.
    pub fn observe(&mut self, update: &Update) {
        match update {
            Update::Put(entry) => self.cache.put(&self.owner, entry),
            Update::Delete(key) => self.cache.delete(&self.owner, key),
            Update::Fault(fault) => self.cache.fault(fault.key.as_ref(), &fault.reason),
            Update::InSync => self.watched = true,
            Update::Trouble(_) => {}
        }
    }

    /// Takes in the labels of a namespace, for pools with a namespaceSelector; `None` when it is gone.
    pub fn observe_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => drop(self.cache.namespaces.insert(name.to_owned(), labels)),
            None => drop(self.cache.namespaces.remove(name)),
        }
    }

    /// Reads everything from the store, as each call does that is not helped by a watch.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(&mut self) -> calico_datastore::Result<()> {
        self.cache.load(&self.store, &self.owner).await
    }

    /// The node's blocks, as far as is known.
    pub fn own_blocks(&self) -> impl Iterator<Item = &IPAMBlock> {
        self.cache.own.values()
    }

    /// The node.
    pub fn node(&self) -> &str {
        self.owner.name()
    }
}
