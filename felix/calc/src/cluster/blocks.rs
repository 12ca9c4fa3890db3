//! Who has which addresses?

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use calico_api::{IPAMBlockSpec, Owner};
use ipnet::IpNet;

use super::nets::{Lengths, around};

/// Under which name IPAM writes the node that an address is used on.
const NODE: &str = "node";

/// A node's name.
pub(super) type Name = Arc<str>;

/// What felix knows of a block.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The node that owns it; a block of a virtual owner, or of nobody, is on no node.
    owner: Option<Name>,
    /// Its addresses that are used on another node than the owner.
    lent: Box<[(IpAddr, Name)]>,
}

/// All blocks, this node's included.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    blocks: BTreeMap<IpNet, Block>,
    lengths: Lengths,
    lent: BTreeMap<IpAddr, Name>,
    /// The destinations of each node.
    of_node: BTreeMap<Name, BTreeSet<IpNet>>,
}

impl Blocks {
    /// Takes a block; returns the destinations that another may have now. `name` makes one text of equal names.
    pub(super) fn put(&mut self, spec: &IPAMBlockSpec, mut name: impl FnMut(&str) -> Name) -> BTreeSet<IpNet> {
        let network = spec.cidr.trunc();
        if spec.deleted {
            return self.delete(&network);
        }
        let owner = match spec.owner() {
            Some(Owner::Host(owner)) => Some(owner),
            _ => None,
        };
        // Each index once: a block has a hundred addresses and few holders.
        let holder = |attribute: u32| {
            let attribute = spec.attributes.get(usize::try_from(attribute).ok()?)?;
            let node = attribute.secondary.as_ref()?.get(NODE)?.as_deref()?;
            (attribute.released_at.is_none() && !node.is_empty() && Some(node) != owner.as_deref()).then_some(node)
        };
        let lent: Vec<_> = spec
            .allocations
            .iter()
            .enumerate()
            .filter_map(|(ordinal, attribute)| Some((nth(&network, ordinal)?, name(holder((*attribute)?)?))))
            .collect();
        let block = Block { owner: owner.as_deref().map(name), lent: lent.into() };
        if self.blocks.get(&network) == Some(&block) {
            return BTreeSet::new();
        }
        let mut touched = self.delete(&network);
        touched.insert(network);
        for (address, node) in &block.lent {
            self.lent.insert(*address, node.clone());
            self.of_node.entry(node.clone()).or_default().insert(IpNet::from(*address));
            touched.insert(IpNet::from(*address));
        }
        if let Some(owner) = &block.owner {
            self.of_node.entry(owner.clone()).or_default().insert(network);
        }
        self.lengths.add(&network);
        self.blocks.insert(network, block);
        touched
    }

    /// Forgets a block; returns the destinations that nobody may have now.
    pub(super) fn delete(&mut self, network: &IpNet) -> BTreeSet<IpNet> {
        let Some(block) = self.blocks.remove(network) else { return BTreeSet::new() };
        self.lengths.remove(network);
        let mut touched = BTreeSet::from([*network]);
        if let Some(owner) = &block.owner {
            self.forget(owner, network);
        }
        for (address, node) in block.lent {
            self.lent.remove(&address);
            self.forget(&node, &IpNet::from(address));
            touched.insert(IpNet::from(address));
        }
        touched
    }

    /// Takes as little room as it can.
    pub(super) fn pack(&mut self) {
        self.blocks = mem::take(&mut self.blocks).into_iter().collect();
        self.lent = mem::take(&mut self.lent).into_iter().collect();
    }

    fn forget(&mut self, node: &Name, destination: &IpNet) {
        let left = self.of_node.get_mut(node).is_some_and(|destinations| {
            destinations.remove(destination);
            destinations.is_empty()
        });
        if left {
            self.of_node.remove(node);
        }
    }

    /// The node that has a destination by IPAM: that uses the address, or owns the block.
    pub(super) fn holder(&self, destination: &IpNet) -> Option<&Name> {
        let host = destination.prefix_len() == destination.max_prefix_len();
        let lent = host.then(|| self.lent.get(&destination.addr())).flatten();
        lent.or_else(|| self.blocks.get(destination)?.owner.as_ref())
    }

    /// Whether an address is in a block of a node, so that the route for that leads to it.
    pub(super) fn covers(&self, node: &str, address: IpAddr) -> bool {
        let outer = self.lengths.covering(&IpNet::from(address)).find_map(|outer| self.blocks.get(&outer));
        outer.is_some_and(|block| block.owner.as_deref() == Some(node))
    }

    /// The destinations of a node.
    pub(super) fn of_node(&self, node: &str) -> impl Iterator<Item = IpNet> {
        self.of_node.get(node).into_iter().flatten().copied()
    }

    /// All destinations.
    pub(super) fn destinations(&self) -> impl Iterator<Item = IpNet> {
        self.blocks.keys().copied().chain(self.lent.keys().map(|address| IpNet::from(*address)))
    }

    /// Those inside a network.
    pub(super) fn inside(&self, net: &IpNet) -> impl Iterator<Item = IpNet> {
        let blocks = self.blocks.range(around(net)).map(|(block, _)| *block);
        let lent = self.lent.range(net.network()..=net.broadcast()).map(|(address, _)| IpNet::from(*address));
        blocks.filter(|block| net.contains(block)).chain(lent)
    }
}

/// The address of that ordinal in a network.
fn nth(network: &IpNet, ordinal: usize) -> Option<IpAddr> {
    let address = match network.network() {
        IpAddr::V4(v4) => IpAddr::from(u32::from(v4).checked_add(u32::try_from(ordinal).ok()?)?.to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from(u128::from(v6).checked_add(u128::try_from(ordinal).ok()?)?.to_be_bytes()),
    };
    network.contains(&address).then_some(address)
}
