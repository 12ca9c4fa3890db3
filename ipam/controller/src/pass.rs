//! One look at everything: what may be a leftover, and what is to be done about what has been one for long enough.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use calico_api::{AffinityState, IPAMBlock, IPAMHandle, Key, Node, Owner};
use ipam::Assignment;
use ipam::block::{self, WINDOWS_HANDLE, clean_handle};
use ipam::network::Family;
use ipnet::IpNet;

use crate::allocation::{Allocation, Holder, allocations};
use crate::collector::{Memory, Moment, Patience, Suspect};
use crate::image::{Image, Mode, kube_name};
use crate::judge::{Verdict, Why, judge, other_node};
use crate::labels;

/// The most addresses that one pass releases.
const MOST: usize = 10_000;

/// What is to be done. Each is tried by compare-and-swap, after another look at the store.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Release all addresses of a handle.
    Release {
        /// The handle.
        handle: String,
        /// Its addresses, and why each has no user.
        leaks: Vec<(Allocation, Why)>,
    },
    /// Take an empty block from its owner, and delete it.
    GiveUpBlock {
        /// The owner.
        owner: Owner,
        /// The block.
        cidr: IpNet,
        /// Whether the owner is a node that has gone; else it keeps other blocks.
        gone: bool,
    },
    /// Delete an empty block to which nobody has an affinity.
    DeleteBlock {
        /// The block.
        cidr: IpNet,
        /// Its owner as it says itself.
        owner: Option<Owner>,
    },
    /// Delete an affinity to a block that does not exist or is another's.
    DeleteAffinity {
        /// Whose affinity.
        owner: Owner,
        /// To which block.
        cidr: IpNet,
        /// At which revision.
        revision: String,
    },
    /// Delete a handle without addresses.
    DeleteHandle {
        /// Its id.
        id: String,
        /// At which revision.
        revision: String,
    },
    /// Free the addresses of a block that have cooled down.
    CollectCold {
        /// The block.
        cidr: IpNet,
    },
    /// Delete an endpoint whose pod or node is gone.
    DeleteEndpoint {
        /// Its key.
        key: Key,
        /// Its node, by the name that it has where the truth is.
        node: String,
        /// At which revision.
        revision: String,
    },
    /// Delete a node of Calico's whose node in Kubernetes is gone.
    DeleteNode {
        /// Its name.
        name: String,
        /// Its name in Kubernetes.
        kube_name: String,
    },
    /// Write a node that has Kubernetes' labels now.
    WriteNode(Box<Node>),
}

/// An address that seems leaked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub allocation: Allocation,
    /// Why.
    pub why: Why,
}

/// Something that an operator should know of, and that is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Oddity {
    /// An address whose allocation names another node than its pod's.
    OtherNode {
        /// The address.
        address: IpAddr,
        /// The node that the allocation names.
        named: String,
        /// Where the pod runs.
        actual: String,
    },
    /// A block that cannot be read or is not sound: whatever it may have to do with is left alone.
    TornBlock(Option<IpNet>),
    /// A deleted node that still has addresses in use, or such as nobody can judge.
    OccupiedNode(String),
}

/// What is counted of a pool on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Addresses in use, also those that seem leaked.
    pub in_use: u64,
    /// Those of them in a block of another node.
    pub borrowed: u64,
    /// Blocks.
    pub blocks: u64,
    /// Addresses that seem leaked.
    pub candidates: u64,
}

/// Counts by pool (or `no_ippool`) and node (or `unknown_node`).
pub type Census = BTreeMap<(String, String), Count>;

/// The outcome of a pass.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// What is to be done, in this order.
    pub actions: Vec<Action>,
    /// What seems leaked, also where nothing is to be done about it yet.
    pub candidates: Vec<Candidate>,
    /// What an operator should know of.
    pub oddities: Vec<Oddity>,
    /// What is counted.
    pub census: Census,
    /// Nodes that are gone.
    pub gone: BTreeSet<String>,
    /// After what time the next pass may find more to do, earlier than usual: something of a deleted node waits.
    pub again: Option<Duration>,
}

/// Where to put blocks of no pool, in Calico's words.
pub(crate) const NO_POOL: &str = "no_ippool";
/// The same for nodes.
pub(crate) const NO_NODE: &str = "unknown_node";

/// A pass while it runs.
pub(crate) struct Survey<'a, 'b> {
    image: &'a Image,
    patience: Patience,
    now: Moment,
    memory: &'a mut Memory<'b>,
    /// Nodes that are gone; whether they were so for long enough.
    gone: BTreeMap<String, bool>,
    /// Nodes on which something is in use, or may be.
    occupied: BTreeSet<String>,
    done: Pass,
}

impl<'a, 'b> Survey<'a, 'b> {
    pub(crate) fn new(image: &'a Image, patience: Patience, now: Moment, memory: &'a mut Memory<'b>) -> Self {
        let (gone, occupied, done) = (BTreeMap::new(), BTreeSet::new(), Pass::default());
        Self { image, patience, now, memory, gone, occupied, done }
    }

    pub(crate) fn run(mut self, handles: Option<&[IPAMHandle]>) -> Pass {
        if !self.image.is_ready() {
            return self.done;
        }
        for torn in &self.image.torn_blocks {
            self.done.oddities.push(Oddity::TornBlock(*torn));
        }
        let all: Vec<Allocation> = self.image.blocks.values().flat_map(|block| allocations(&block.spec)).collect();
        self.find_gone(&all);
        let known: HashSet<String> =
            all.iter().filter_map(|allocation| allocation.handle.as_deref()).map(str::to_lowercase).collect();
        self.addresses(all);
        self.blocks();
        self.affinities();
        if let Some(handles) = handles {
            self.handles(handles, &known);
        }
        self.records();
        self.calico_nodes();
        let of_nodes = self.gone.iter().filter(|(_, settled)| !**settled).count();
        if of_nodes > 0 || (self.gone.values().any(|settled| *settled) && !self.done.actions.is_empty()) {
            self.done.again = Some(self.patience.settle);
        }
        self.done.gone = self.gone.into_keys().collect();
        self.done
    }

    /// Whether a node is gone, and whether long enough.
    fn is_gone(&self, node: &str) -> Option<bool> {
        self.gone.get(node).copied()
    }

    fn find_gone(&mut self, all: &[Allocation]) {
        let owner = |owner: &Owner| match owner {
            Owner::Host(node) => Some(node.clone()),
            Owner::Virtual(_) => None,
        };
        let mut names: BTreeSet<String> = all
            .iter()
            .filter(|allocation| matches!(allocation.holder, Holder::Pod { .. } | Holder::Tunnel))
            .filter_map(|allocation| allocation.node.clone())
            .collect();
        names.extend(self.image.affinities.keys().filter_map(|(of, _)| owner(of)));
        names.extend(self.image.blocks.values().filter_map(|block| block.spec.owner()).filter_map(|of| owner(&of)));
        for name in names.into_iter().filter(|name| self.image.is_gone(name)) {
            let settled = self.memory.confirms(Suspect::Node(name.clone()), Some(self.patience.settle));
            self.gone.insert(name, settled);
        }
    }

    fn addresses(&mut self, all: Vec<Allocation>) {
        let mut handles: BTreeMap<String, Vec<(Allocation, Verdict)>> = BTreeMap::new();
        for allocation in all {
            let verdict = judge(&allocation, &self.image.pods);
            let named = allocation.node.clone().unwrap_or_default();
            if let Some(actual) = other_node(&allocation, self.in_kubernetes(&named), &self.image.pods) {
                let address = allocation.assignment.address;
                self.done.oddities.push(Oddity::OtherNode { address, named, actual: actual.to_owned() });
            }
            if matches!(verdict, Verdict::InUse | Verdict::Unknowable)
                && let Some(node) = &allocation.node
            {
                self.occupied.insert(node.clone());
            }
            self.count(&allocation, verdict);
            if let Some(handle) = allocation.handle.clone().filter(|_| verdict != Verdict::Ignored) {
                handles.entry(handle).or_default().push((allocation, verdict));
            }
        }
        for node in self.gone.keys().filter(|node| self.occupied.contains(*node)) {
            self.done.oddities.push(Oddity::OccupiedNode(node.clone()));
        }
        let mut released = 0;
        for (handle, members) in handles {
            let leaks: Vec<Option<(Allocation, Why)>> = members
                .into_iter()
                .map(|(allocation, verdict)| Some((allocation.clone(), self.why(&allocation, verdict)?)))
                .collect();
            let mut all_confirmed = true;
            for leak in &leaks {
                let Some((allocation, why)) = leak else {
                    all_confirmed = false;
                    continue;
                };
                all_confirmed &= self.suspect_address(allocation);
                self.done.candidates.push(Candidate { allocation: allocation.clone(), why: *why });
            }
            let leaks: Vec<_> = leaks.into_iter().flatten().collect();
            if all_confirmed && released + leaks.len() <= MOST {
                released += leaks.len();
                self.done.actions.push(Action::Release { handle, leaks });
            }
        }
        let candidates: Vec<Allocation> = self.done.candidates.iter().map(|it| it.allocation.clone()).collect();
        for allocation in candidates {
            self.place(&allocation).candidates += 1;
        }
    }

    /// Why nobody has it, if so.
    fn why(&self, allocation: &Allocation, verdict: Verdict) -> Option<Why> {
        match verdict {
            Verdict::Leak(why) => Some(why),
            Verdict::OfNode => {
                let node = allocation.node.as_deref()?;
                (self.is_gone(node).is_some() && !self.occupied.contains(node)).then_some(Why::NodeGone)
            }
            Verdict::InUse | Verdict::Unknowable | Verdict::Ignored => None,
        }
    }

    fn suspect_address(&mut self, allocation: &Allocation) -> bool {
        let Assignment { block, address, sequence_number } = allocation.assignment.clone();
        // Pods that outlive their Node may still get a new sandbox there, whose address they do not show yet.
        let empty = |node: &&str| !self.occupied.contains(*node);
        let wait = match allocation.node.as_deref().filter(empty).and_then(|node| self.is_gone(node)) {
            Some(true) => Some(Duration::ZERO),
            Some(false) => None,
            None => self.patience.grace,
        };
        self.memory.confirms(Suspect::Address(block, address, sequence_number), wait)
    }

    fn blocks(&mut self) {
        // Of every node and family: what is empty, and whether anything is not.
        let mut empty: BTreeMap<(String, Family), Vec<&IPAMBlock>> = BTreeMap::new();
        let mut used: BTreeSet<(String, Family)> = BTreeSet::new();
        for (cidr, block) in &self.image.blocks {
            let node = match block.spec.owner() {
                Some(Owner::Host(node)) => node,
                Some(Owner::Virtual(name)) => name,
                None => NO_NODE.to_owned(),
            };
            let pool = self.image.pool_of(cidr).unwrap_or(NO_POOL).to_owned();
            self.done.census.entry((pool, node)).or_default().blocks += 1;
            let mut thawed = block.spec.clone();
            if block::collect_cold(&mut thawed, ipam::plan::cooldown(&self.image.config), self.now.wall) > 0 {
                self.done.actions.push(Action::CollectCold { cidr: *cidr });
                continue;
            }
            let (owner, is_empty) = (block.spec.owner(), block::is_empty(&block.spec));
            match owner {
                Some(Owner::Virtual(_)) => {}
                Some(Owner::Host(node)) => match (self.is_gone(&node), is_empty) {
                    (Some(true), true) if !self.occupied.contains(&node) => {
                        self.give_up(Owner::Host(node), *cidr, true)
                    }
                    (Some(_), _) => {}
                    (None, true) => empty.entry((node, Family::of_net(cidr))).or_default().push(block),
                    (None, false) => drop(used.insert((node, Family::of_net(cidr)))),
                },
                None if is_empty => {
                    let suspect = Suspect::Block(*cidr, block.spec.sequence_number);
                    if self.memory.confirms(suspect, self.patience.grace) {
                        self.done.actions.push(Action::DeleteBlock { cidr: *cidr, owner: None });
                    }
                }
                None => {}
            }
        }
        for ((node, family), blocks) in empty {
            let mut keeps_one = !used.contains(&(node.clone(), family));
            for block in blocks {
                let cidr = block.spec.cidr;
                // In no pool it is of no use, not even as the last.
                if keeps_one && self.image.pool_of(&cidr).is_some() {
                    keeps_one = false;
                    continue;
                }
                if self.memory.confirms(Suspect::Block(cidr, block.spec.sequence_number), self.patience.grace) {
                    self.give_up(Owner::Host(node.clone()), cidr, false);
                }
            }
        }
    }

    fn give_up(&mut self, owner: Owner, cidr: IpNet, gone: bool) {
        self.done.actions.push(match self.image.affinities.contains_key(&(owner.clone(), cidr)) {
            true => Action::GiveUpBlock { owner, cidr, gone },
            false => Action::DeleteBlock { cidr, owner: Some(owner) },
        });
    }

    fn affinities(&mut self) {
        for ((owner, cidr), affinity) in &self.image.affinities {
            let Owner::Host(node) = owner else { continue };
            if self.image.torn_blocks.contains(&Some(*cidr)) || self.image.torn_blocks.contains(&None) {
                continue;
            }
            let revision = affinity.metadata.resource_version.clone().unwrap_or_default();
            let block = self.image.blocks.get(cidr);
            let wait = match self.is_gone(node) {
                Some(true) => Some(Duration::ZERO),
                Some(false) => None,
                None => self.patience.grace,
            };
            let leads_nowhere = match block {
                // A confirmed one of a node that is there: its node makes the block anew when it needs it.
                None => affinity.spec.state != AffinityState::Confirmed || self.is_gone(node).is_some(),
                Some(block) => block.spec.owner().as_ref() != Some(owner),
            };
            let half_given_up = !leads_nowhere
                && affinity.spec.state == AffinityState::PendingDeletion
                && block.is_some_and(|block| block::is_empty(&block.spec));
            if !leads_nowhere && !half_given_up {
                continue;
            }
            let suspect = Suspect::Affinity(owner.clone(), *cidr, revision.clone());
            if !self.memory.confirms(suspect, wait) {
                continue;
            }
            let (owner, cidr) = (owner.clone(), *cidr);
            let given_up = Action::GiveUpBlock { owner: owner.clone(), cidr, gone: self.is_gone(node).is_some() };
            if leads_nowhere {
                self.done.actions.push(Action::DeleteAffinity { owner, cidr, revision });
            } else if !self.done.actions.contains(&given_up) {
                self.done.actions.push(given_up);
            }
        }
    }

    fn handles(&mut self, handles: &[IPAMHandle], known: &HashSet<String>) {
        if self.image.torn_blocks.contains(&None) {
            return;
        }
        for handle in handles {
            let id = &handle.spec.handle_id;
            let revision = handle.metadata.resource_version.clone().unwrap_or_default();
            let in_torn = handle.spec.block.keys().any(|text| {
                text.parse::<IpNet>().is_ok_and(|cidr| self.image.torn_blocks.contains(&Some(cidr.trunc())))
            });
            if in_torn || clean_handle(id) == WINDOWS_HANDLE || known.contains(&clean_handle(id).to_lowercase()) {
                continue;
            }
            if self.memory.confirms(Suspect::Handle(id.clone(), revision.clone()), self.patience.grace) {
                self.done.actions.push(Action::DeleteHandle { id: id.clone(), revision });
            }
        }
    }

    /// Endpoints that are objects of their own, and outlive what they stand for.
    fn records(&mut self) {
        for (key, endpoint) in &self.image.records {
            let spec = &endpoint.spec;
            let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
            let stale = match self.image.mode {
                Mode::Kubernetes => false,
                Mode::Alone => self.image.is_gone(&spec.node),
                Mode::Beside => {
                    let mut namesakes = self.image.pods.named(namespace, &spec.pod);
                    spec.orchestrator == "k8s"
                        && !spec.pod.is_empty()
                        && !self.image.pods.may_be_torn(&spec.pod)
                        && !namesakes.any(|pod| pod.node == self.in_kubernetes(&spec.node) && !pod.finished)
                }
            };
            if stale && self.memory.confirms(Suspect::Endpoint(key.clone()), self.patience.grace) {
                let revision = endpoint.metadata.resource_version.clone().unwrap_or_default();
                let node = match self.image.mode {
                    Mode::Beside => self.in_kubernetes(&spec.node).to_owned(),
                    Mode::Kubernetes | Mode::Alone => spec.node.clone(),
                };
                self.done.actions.push(Action::DeleteEndpoint { key: key.clone(), node, revision });
            }
        }
    }

    /// What Kubernetes calls a node of Calico's.
    fn in_kubernetes<'n>(&self, node: &'n str) -> &'n str
    where
        'a: 'n,
    {
        self.image.nodes.get(node).and_then(kube_name).unwrap_or(node)
    }

    /// Calico's nodes follow Kubernetes', where both exist.
    fn calico_nodes(&mut self) {
        if self.image.mode != Mode::Beside {
            return;
        }
        for (name, node) in &self.image.nodes {
            let Some(kube_name) = kube_name(node) else { continue };
            match self.image.kube_nodes.get(kube_name) {
                Some(kube_labels) => {
                    if let Some(copied) = labels::copied(node, kube_labels) {
                        self.done.actions.push(Action::WriteNode(Box::new(copied)));
                    }
                }
                None => {
                    if self.memory.confirms(Suspect::CalicoNode(name.clone()), Some(self.patience.settle)) {
                        let (name, kube_name) = (name.clone(), kube_name.to_owned());
                        self.done.actions.push(Action::DeleteNode { name, kube_name });
                    }
                    self.done.again = Some(self.patience.settle);
                }
            }
        }
    }

    fn count(&mut self, allocation: &Allocation, verdict: Verdict) {
        if verdict == Verdict::Ignored {
            return;
        }
        let block = self.image.blocks.get(&allocation.assignment.block);
        let owner = block.and_then(|block| block.spec.owner());
        let borrowed = match (&owner, &allocation.node) {
            (Some(Owner::Host(owner)), Some(node)) => owner != node,
            (None, Some(_)) => true,
            _ => false,
        };
        let count = self.place(allocation);
        count.in_use += 1;
        count.borrowed += u64::from(borrowed);
    }

    fn place(&mut self, allocation: &Allocation) -> &mut Count {
        let pool = self.image.pool_of(&allocation.assignment.block).unwrap_or(NO_POOL).to_owned();
        let node = allocation.node.clone().unwrap_or_else(|| NO_NODE.to_owned());
        self.done.census.entry((pool, node)).or_default()
    }
}
