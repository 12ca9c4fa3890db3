//! The calculation: resources in, changes of the desired state out.

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{IPAMBlock, Key, WorkloadEndpoint};
use ipnet::IpNet;

use crate::block::black_hole;
use crate::endpoint::{EndpointId, Interface, Unusable, interface};

/// What the calculation must know beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// With what the names of workloads' interfaces begin (`InterfacePrefix`).
    pub prefixes: Vec<String>,
}

/// What the datastore's watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// An endpoint was created or changed.
    Endpoint(Box<WorkloadEndpoint>),
    /// A block was created or changed.
    Block(Box<IPAMBlock>),
    /// Something is gone. Unknown keys are no error.
    Deleted(Key),
    /// Something changed to what cannot be read: its last good version stays in force.
    Fault {
        /// Its key, if that much could be read.
        key: Option<Key>,
        /// What is wrong.
        reason: String,
    },
    /// Everything that was in the store at the start has been told.
    InSync,
}

/// What the agent knows of an endpoint before the watch does.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// It was just attached.
    Present(Box<WorkloadEndpoint>),
    /// The container it was made for is gone.
    Gone {
        /// That container.
        container: String,
    },
}

/// How the desired state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What is wanted of an interface; `None`: it is no longer ours.
    Interface {
        /// Its name.
        name: String,
        /// What is wanted.
        wanted: Option<Interface>,
    },
    /// Whether a network is black-holed.
    BlackHole {
        /// The network.
        network: IpNet,
        /// Whether it is.
        wanted: bool,
    },
    /// An endpoint is not programmed as it stands in the store.
    Ignored {
        /// Which.
        key: Option<Key>,
        /// Why.
        reason: Unusable,
    },
    /// The desired state is complete: from now on what is not in it may be removed. Once.
    InSync,
}

/// An endpoint in each of its versions.
#[derive(Debug, Default)]
struct Known {
    /// As the watch last told it, if it could be used.
    stored: Option<(String, Interface)>,
    /// The agent's word, until it is confirmed.
    claim: Option<Word>,
}

/// A claim and its age.
#[derive(Debug)]
struct Word {
    container: String,
    wanted: Option<(String, Interface)>,
    /// Whether it has been through one [`Calc::age`].
    old: bool,
}

impl Known {
    fn in_force(&self) -> Option<&(String, Interface)> {
        match &self.claim {
            Some(word) => word.wanted.as_ref(),
            None => self.stored.as_ref(),
        }
    }
}

/// The calculation's state: this node's endpoints and blocks, nobody else's.
#[derive(Debug)]
pub struct Calc {
    settings: Settings,
    endpoints: BTreeMap<Key, Known>,
    /// Interface name to those that want it, the first being the winner.
    candidates: BTreeMap<String, BTreeMap<EndpointId, Interface>>,
    black_holes: BTreeSet<IpNet>,
    in_sync: bool,
}

impl Calc {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            endpoints: BTreeMap::new(),
            candidates: BTreeMap::new(),
            black_holes: BTreeSet::new(),
            in_sync: false,
        }
    }

    /// Takes one update from the watch.
    pub fn update(&mut self, update: Update) -> Vec<Change> {
        match update {
            Update::Endpoint(endpoint) => self.stored(&endpoint),
            Update::Block(block) => {
                let network = block.spec.cidr.trunc();
                self.set_black_hole(network, black_hole(&block, &self.settings.node).is_some())
            }
            Update::Deleted(Key::Block(network)) => self.set_black_hole(network.trunc(), false),
            Update::Deleted(key) => self.deleted(&key),
            Update::Fault { key, reason } => vec![Change::Ignored { key, reason: Unusable::Corrupt(reason) }],
            Update::InSync if self.in_sync => Vec::new(),
            Update::InSync => {
                self.in_sync = true;
                vec![Change::InSync]
            }
        }
    }

    /// Takes the agent's word for an endpoint. It holds until the watch tells of the same container with the same
    /// addresses, or, for [`Claim::Gone`], of another container or of none; at the longest until the second
    /// [`Self::age`] from now.
    ///
    /// Without this, a route to a new pod would wait for the watch to come round, and a watch that lags would
    /// bring back for a moment what the agent has just replaced.
    pub fn claim(&mut self, key: &Key, claim: Claim) -> Vec<Change> {
        let (container, wanted) = match &claim {
            Claim::Gone { container } => (container.clone(), None),
            Claim::Present(endpoint) => match interface(endpoint, &self.settings.prefixes) {
                Ok(wanted) => (endpoint.spec.container_id.clone(), wanted),
                Err(reason) => return vec![Change::Ignored { key: Some(key.clone()), reason }],
            },
        };
        let present = self.endpoints.get(key).and_then(Known::in_force);
        if matches!(claim, Claim::Gone { .. }) && present.is_none_or(|(_, wanted)| wanted.container != container) {
            return Vec::new(); // it belongs to a newer container, or was never here
        }
        self.change(key, |known| known.claim = Some(Word { container, wanted, old: false }))
    }

    /// Lets go of the claims that have been through this once already. To be called now and then while the watch works:
    /// it bounds the life of a claim that the watch never confirms, because a relist skipped that version.
    pub fn age(&mut self) -> Vec<Change> {
        let claimed = self.endpoints.iter().filter(|(_, known)| known.claim.is_some());
        let keys: Vec<Key> = claimed.map(|(key, _)| key.clone()).collect();
        let mut changes = Vec::new();
        for key in keys {
            changes.extend(self.change(&key, |known| match &mut known.claim {
                Some(word) if !word.old => word.old = true,
                _ => known.claim = None,
            }));
        }
        changes
    }

    /// How many endpoints of this node are programmed or ready to be.
    pub fn local_endpoints(&self) -> usize {
        self.endpoints.values().filter(|known| known.in_force().is_some()).count()
    }

    /// Whether [`Update::InSync`] has come.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    fn stored(&mut self, endpoint: &WorkloadEndpoint) -> Vec<Change> {
        let key = endpoint.key();
        if endpoint.spec.node != self.settings.node {
            return self.deleted(&key); // elsewhere, or moved there
        }
        let container = &endpoint.spec.container_id;
        match interface(endpoint, &self.settings.prefixes) {
            Ok(wanted) => self.change(&key, |known| {
                // The same container with other addresses is no confirmation: a Pod's status may still show
                // those of its last sandbox.
                let addresses = wanted.as_ref().map(|(_, wanted)| &wanted.addresses);
                let settled = known.claim.as_ref().is_some_and(|word| match &word.wanted {
                    Some((_, claimed)) => {
                        word.container == *container
                            && addresses.is_none_or(|addresses| *addresses == claimed.addresses)
                    }
                    None => word.container != *container || wanted.is_none(),
                });
                if settled {
                    known.claim = None;
                }
                known.stored = wanted;
            }),
            Err(reason) => vec![Change::Ignored { key: Some(key), reason }],
        }
    }

    fn deleted(&mut self, key: &Key) -> Vec<Change> {
        self.change(key, |known| {
            known.stored = None;
            if known.claim.as_ref().is_some_and(|word| word.wanted.is_none()) {
                known.claim = None;
            }
        })
    }

    /// Lets `edit` change what is known of an endpoint, and tells what that changed.
    fn change(&mut self, key: &Key, edit: impl FnOnce(&mut Known)) -> Vec<Change> {
        let known = self.endpoints.entry(key.clone()).or_default();
        let before = known.in_force().cloned();
        edit(known);
        let after = known.in_force().cloned();
        if known.stored.is_none() && known.claim.is_none() {
            self.endpoints.remove(key);
        }
        if before == after {
            return Vec::new();
        }
        let mut touched: BTreeMap<String, Option<Interface>> = BTreeMap::new();
        for (name, _) in before.iter().chain(&after) {
            touched.entry(name.clone()).or_insert_with(|| self.winner(name).cloned());
        }
        if let Some((name, wanted)) = before {
            let left = self.candidates.get_mut(&name).is_none_or(|all| {
                all.remove(&wanted.endpoint);
                all.is_empty()
            });
            if left {
                self.candidates.remove(&name);
            }
        }
        if let Some((name, wanted)) = after {
            self.candidates.entry(name).or_default().insert(wanted.endpoint.clone(), wanted);
        }
        let differs = touched.into_iter().filter(|(name, was)| self.winner(name) != was.as_ref());
        differs.map(|(name, _)| Change::Interface { wanted: self.winner(&name).cloned(), name }).collect()
    }

    fn winner(&self, name: &str) -> Option<&Interface> {
        self.candidates.get(name)?.values().next()
    }

    fn set_black_hole(&mut self, network: IpNet, wanted: bool) -> Vec<Change> {
        let changed = if wanted { self.black_holes.insert(network) } else { self.black_holes.remove(&network) };
        if changed { vec![Change::BlackHole { network, wanted }] } else { Vec::new() }
    }
}
