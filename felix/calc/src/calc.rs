//! The calculation: resources in, changes of the desired state out.

use std::collections::{BTreeMap, BTreeSet};

use bgp_plan::workloads::Chosen;
use calico_api::{Key, Kind, WorkloadEndpoint};
use ipnet::IpNet;

use crate::block::black_hole;
use crate::changes::Change;
use crate::cluster::Cluster;
use crate::endpoint::{EndpointId, Interface, Local, Unusable, local};
use crate::inputs::{Claim, Settings, Update};
use crate::notice::Notice;
use crate::peering::{DEFAULT, Peering};

/// An endpoint in each of its versions.
#[derive(Debug, Default)]
struct Known {
    /// As the watch last told it, if it could be used.
    stored: Option<Local>,
    /// The agent's word, until it is confirmed.
    claim: Option<Word>,
}

/// A claim and its age.
#[derive(Debug)]
struct Word {
    container: String,
    wanted: Option<Local>,
    /// Whether it has been through one [`Calc::age`].
    old: bool,
}

impl Known {
    fn in_force(&self) -> Option<&Local> {
        match &self.claim {
            Some(word) => word.wanted.as_ref(),
            None => self.stored.as_ref(),
        }
    }
}

/// The calculation's state: this node's endpoints, nobody else's, what makes endpoints BGP peers, and what is to be known of
/// other nodes.
#[derive(Debug)]
pub struct Calc {
    settings: Settings,
    endpoints: BTreeMap<Key, Known>,
    /// Interface name to those that want it, the first being the winner.
    candidates: BTreeMap<String, BTreeSet<EndpointId>>,
    /// What was last told of each interface.
    told: BTreeMap<String, Interface>,
    peering: Peering,
    /// Those that are BGP peers.
    chosen: BTreeMap<Key, Chosen>,
    /// Notices that were given and still hold.
    notices: BTreeSet<Notice>,
    black_holes: BTreeSet<IpNet>,
    cluster: Cluster,
    in_sync: bool,
    peers_known: bool,
}

impl Calc {
    /// Knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            cluster: Cluster::new(&settings),
            settings,
            endpoints: BTreeMap::new(),
            candidates: BTreeMap::new(),
            told: BTreeMap::new(),
            peering: Peering::default(),
            chosen: BTreeMap::new(),
            notices: BTreeSet::new(),
            black_holes: BTreeSet::new(),
            in_sync: false,
            peers_known: false,
        }
    }

    /// Takes one update from the watch.
    pub fn update(&mut self, update: Update) -> Vec<Change> {
        match update {
            Update::Endpoint(endpoint) => self.stored(&endpoint),
            Update::Block(block) => {
                let network = block.spec.cidr.trunc();
                let mut changes = self.set_black_hole(network, black_hole(&block, &self.settings.node).is_some());
                changes.extend(self.cluster.put_block(&block));
                changes
            }
            Update::Peer(peer) => match self.peering.put_peer(&peer) {
                Ok(changed) => self.choose_if(changed),
                Err(reason) => vec![Change::Ignored { key: Some(peer.key()), reason: reason.into() }],
            },
            Update::Configuration(configuration) => match self.peering.put_configuration(&configuration) {
                Ok(changed) => self.choose_if(changed),
                Err(reason) => vec![Change::Ignored { key: Some(configuration.key()), reason }],
            },
            Update::Programs(written) => self.cluster.set_bgp_programs(written.as_deref()),
            Update::FelixPrograms(written) => self.cluster.set_felix_programs(written),
            Update::Node(node) => {
                let mut changes = match self.cluster.put_node(&node) {
                    Ok(changes) => changes,
                    Err(reason) => vec![Change::Ignored { key: Some(node.key()), reason }],
                };
                let ours = node.metadata.name() == self.settings.node;
                let changed = ours && self.peering.set_node_labels(node.metadata.labels);
                changes.extend(self.choose_if(changed));
                changes
            }
            Update::Pool(pool) => self.cluster.put_pool(&pool),
            Update::Subnets(held) => self.cluster.set_held(held),
            Update::Profile(profile) => {
                let changed = self.peering.put_profile(*profile);
                self.choose_if(changed)
            }
            Update::ProfilesInSync => {
                let changed = self.peering.profiles_in_sync();
                self.choose_if(changed)
            }
            Update::ProfilesUnwatched => {
                self.peering.forget_profiles();
                Vec::new()
            }
            Update::Deleted(Key::Block(network)) => {
                let mut changes = self.set_black_hole(network.trunc(), false);
                changes.extend(self.cluster.delete_block(&network.trunc()));
                changes
            }
            Update::Deleted(key) if key.kind() == Kind::WorkloadEndpoint => self.deleted(&key),
            Update::Deleted(key) => {
                let mut changes = match key.kind() {
                    Kind::IPPool => self.cluster.delete_pool(&key.name()),
                    Kind::Node => self.cluster.delete_node(&key.name()),
                    Kind::BGPConfiguration if key.name() == DEFAULT => self.cluster.set_bgp_programs(None),
                    _ => Vec::new(),
                };
                let changed = self.peering.delete(&key, &self.settings.node);
                changes.extend(self.choose_if(changed));
                changes
            }
            Update::Fault { key, reason } => vec![Change::Ignored { key, reason: Unusable::Corrupt(reason) }],
            Update::InSync if self.in_sync => Vec::new(),
            Update::InSync => {
                self.in_sync = true;
                let mut changes = self.cluster.in_sync();
                let others = self.choose_if(true);
                changes.reserve_exact(1 + others.len());
                changes.push(Change::InSync);
                changes.extend(others);
                changes
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
            Claim::Present(endpoint) => match local(endpoint, &self.settings.prefixes) {
                Ok(wanted) => (endpoint.spec.container_id.clone(), wanted),
                Err(reason) => return vec![Change::Ignored { key: Some(key.clone()), reason }],
            },
        };
        let present = self.endpoints.get(key).and_then(Known::in_force);
        if matches!(claim, Claim::Gone { .. }) && present.is_none_or(|local| local.interface.container != container) {
            return Vec::new(); // it belongs to a newer container, or was never here
        }
        self.change(key, |known| known.claim = Some(Word { container, wanted, old: false }))
    }

    /// The interface that was made for a container, as long as its endpoint has it.
    pub fn interface_of(&self, key: &Key, container: &str) -> Option<&str> {
        let local = self.endpoints.get(key)?.in_force()?;
        let told = self.told.get(&local.name)?;
        (local.interface.container == container && told.endpoint.key == *key).then_some(local.name.as_str())
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

    /// What the operator should know, as far as it was told and still holds.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.iter().chain(self.cluster.notices())
    }

    /// Destinations whose nodes do not take packets yet by what their pools want. They are sent to by another way that both
    /// ends understand, or as before; what is not among them follows from the present alone.
    pub fn awaited(&self) -> impl Iterator<Item = &IpNet> {
        self.cluster.awaited()
    }

    /// Takes as little room as it can: call it when the first state of a large cluster has been told.
    pub fn pack(&mut self) {
        self.cluster.pack();
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
        match local(endpoint, &self.settings.prefixes) {
            Ok(wanted) => self.change(&key, |known| {
                // The same container with other addresses is no confirmation: a Pod's status may still show
                // those of its last sandbox.
                let settled = known.claim.as_ref().is_some_and(|word| match &word.wanted {
                    Some(claimed) => {
                        let same = |local: &Local| local.interface.has_addresses_of(&claimed.interface);
                        word.container == *container && wanted.as_ref().is_none_or(same)
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
        let mut touched = BTreeSet::new();
        if let Some(Local { name, interface, .. }) = before {
            let left = self.candidates.get_mut(&name).is_none_or(|all| {
                all.remove(&interface.endpoint);
                all.is_empty()
            });
            if left {
                self.candidates.remove(&name);
            }
            touched.insert(name);
        }
        if let Some(Local { name, interface, .. }) = after {
            self.candidates.entry(name.clone()).or_default().insert(interface.endpoint);
            touched.insert(name);
        }
        self.choose_one(key);
        self.tell(touched)
    }

    /// Whether profiles must be watched: a BGPPeer selects workloads of this node by their labels, and those may be
    /// inherited.
    pub fn needs_profiles(&self) -> bool {
        self.in_sync && self.peering.concerns(&self.settings.node)
    }

    /// Whether [`Change::PeersKnown`] has come.
    pub fn are_peers_known(&self) -> bool {
        self.peers_known
    }

    /// Chooses the peers anew if something they follow from has changed, and all of that is known.
    ///
    /// While the profiles are not known the last choice stays: a restart, or the first BGPPeer of its sort, must not
    /// take a session away for a moment.
    fn choose_if(&mut self, changed: bool) -> Vec<Change> {
        if !changed || !self.in_sync || !self.peering.is_known(&self.settings.node) {
            return Vec::new();
        }
        let local = self.endpoints.iter().filter_map(|(key, known)| Some((key, known.in_force()?)));
        self.chosen = self.peering.choose(&self.settings.node, local);
        let names = self.candidates.keys().cloned().collect();
        let mut changes = self.tell(names);
        if !std::mem::replace(&mut self.peers_known, true) {
            changes.push(Change::PeersKnown);
        }
        changes
    }

    /// The same for one endpoint, that has changed itself.
    fn choose_one(&mut self, key: &Key) {
        let Some(local) = self.endpoints.get(key).and_then(Known::in_force) else {
            self.chosen.remove(key);
            return;
        };
        if self.peers_known && self.peering.is_known(&self.settings.node) {
            let chosen = self.peering.choose(&self.settings.node, [(key, local)]);
            self.chosen.remove(key);
            self.chosen.extend(chosen);
        }
    }

    /// What is different now of these interfaces, and what the operator should know.
    fn tell(&mut self, names: BTreeSet<String>) -> Vec<Change> {
        let mut changes = Vec::new();
        for name in names {
            let wanted = self.wanted(&name);
            if wanted.as_ref() == self.told.get(&name) {
                continue;
            }
            match &wanted {
                Some(wanted) => self.told.insert(name.clone(), wanted.clone()),
                None => self.told.remove(&name),
            };
            changes.push(Change::Interface { name, wanted: wanted.map(Box::new) });
        }
        let interfaces = self.told.values().filter_map(|interface| {
            let chosen = self.chosen.get(&interface.endpoint.key)?;
            Some((interface, chosen))
        });
        let notices: BTreeSet<Notice> =
            if self.chosen.is_empty() { BTreeSet::new() } else { self.peering.notices(interfaces) };
        changes.extend(notices.difference(&self.notices).cloned().map(Change::Notice));
        self.notices = notices;
        changes
    }

    /// What is wanted of an interface: what its winner wants, and the node's part in its peering.
    fn wanted(&self, name: &str) -> Option<Interface> {
        let winner = self.candidates.get(name)?.first()?;
        let mut interface = self.endpoints.get(&winner.key)?.in_force()?.interface.clone();
        if let Some(chosen) = self.chosen.get(&winner.key) {
            interface.peer = Some(chosen.peer.clone());
            interface.node_addresses = self.peering.node_addresses(&interface.addresses);
        }
        Some(interface)
    }

    fn set_black_hole(&mut self, network: IpNet, wanted: bool) -> Vec<Change> {
        let changed = if wanted { self.black_holes.insert(network) } else { self.black_holes.remove(&network) };
        if changed { vec![Change::BlackHole { network, wanted }] } else { Vec::new() }
    }
}
