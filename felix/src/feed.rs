//! One watch on the datastore, told to everyone concerned: the calculation, the allocator, the state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use calico_api::{
    BGPConfigurationSpec, BGPPeerSpec, ClusterInformationSpec, IPAMBlockSpec, IPPoolSpec, Key, Kind, NodeSpec,
    ProfileSpec, Spec, WorkloadEndpointSpec,
};
use calico_datastore::watch::Update;
use calico_datastore::{Entry, Error, Filter, Store, decode, watch};
use felix_calc as calc;
use tokio::sync::{mpsc, watch as state_channel};
use tracing::{error, info, warn};

use crate::bring_up::{pod_mtu, write_mtu};
use crate::known::Known;
use crate::state::State;

/// The kinds that Felix watches on `node`; without IPAM's own where pods have addresses of their node's pod CIDR.
pub(crate) fn kinds(node: &str, use_pod_cidr: bool) -> Vec<(Kind, Filter)> {
    let own = || Filter::Node(node.to_owned());
    let mut kinds = vec![
        (Kind::WorkloadEndpoint, own()),
        (Kind::IPAMBlock, Filter::All),
        (Kind::BlockAffinity, own()),
        (Kind::IPPool, Filter::All),
        (Kind::IPReservation, Filter::All),
        (Kind::IPAMConfiguration, Filter::All),
        (Kind::ClusterInformation, Filter::All),
        (Kind::Node, own()),
        (Kind::BGPPeer, Filter::All),
        (Kind::BGPConfiguration, Filter::All),
    ];
    let absent = [Kind::IPAMBlock, Kind::BlockAffinity, Kind::IPAMConfiguration];
    kinds.retain(|(kind, _)| !use_pod_cidr || !absent.contains(kind));
    kinds
}

/// Everyone who is told.
pub(crate) struct Feed {
    /// What is known of pods and namespaces, where there are pods.
    pub(crate) known: Option<Known>,
    /// The calculation.
    pub(crate) calc: mpsc::Sender<calc::Update>,
    /// The allocator.
    pub(crate) allocator: mpsc::Sender<Update>,
    /// The state of the whole.
    pub(crate) state: state_channel::Sender<State>,
    /// The node's own MTU.
    pub(crate) node_mtu: u32,
    /// Where the pods' is written.
    pub(crate) mtu_file: PathBuf,
    /// The pools, for the MTU.
    pub(crate) pools: BTreeMap<Key, IPPoolSpec>,
    /// Whether pods have addresses of their node's pod CIDR, and there are no records of IPAM.
    pub(crate) use_pod_cidr: bool,
    /// This node's Node, for whoever looks after it.
    pub(crate) node: state_channel::Sender<Option<Entry>>,
}

impl Feed {
    /// Tells until the watch or a receiver ends.
    pub(crate) async fn run(mut self, store: Store, node: String) {
        let mut updates = watch::watch(&store, kinds(&node, self.use_pod_cidr));
        let mut own = OwnBlocks::new(&node);
        let watched = |_: &Known| watch::watch(&store, vec![(Kind::Profile, Filter::Namespaces)]);
        let mut namespaces: Option<mpsc::Receiver<Update>> = self.known.as_ref().map(watched);
        let mut profiles: Option<mpsc::Receiver<Update>> = None;
        let mut state = self.state.subscribe();
        loop {
            // Profiles follow from all namespaces and service accounts of a cluster. Only a node whose workloads may be BGP
            // peers watches them, and nothing but the peers waits for them.
            let needed = state.borrow_and_update().needs_profiles;
            if needed && profiles.is_none() {
                profiles = Some(watch::watch(&store, vec![(Kind::Profile, Filter::All)]));
            }
            if !needed && profiles.take().is_some() && self.calc.send(calc::Update::ProfilesUnwatched).await.is_err() {
                return;
            }
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    self.note(&update);
                    if let Some(known) = &self.known {
                        known.learn_pods(&update);
                    }
                    if !own.is_told(&update)
                        && let Some(update) = for_calc(&update)
                    {
                        if let calc::Update::Fault { key: Some(key), .. } = &update {
                            own.told.remove(key);
                        }
                        if self.calc.send(update).await.is_err() {
                            return;
                        }
                    }
                    if for_allocator(&update) && self.allocator.send(update).await.is_err() {
                        return;
                    }
                }
                update = next(&mut namespaces) => match (&self.known, update) {
                    (Some(known), Some(update)) => known.learn_namespaces(update),
                    _ => namespaces = None,
                },
                update = next(&mut profiles) => {
                    if let Some(update) = profile_for_calc(update)
                        && self.calc.send(update).await.is_err()
                    {
                        return;
                    }
                }
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// What concerns the state of the whole.
    fn note(&mut self, update: &Update) {
        match update {
            Update::Put(entry) if entry.key.kind() == Kind::ClusterInformation => {
                let ready = decode::<ClusterInformationSpec>(entry.clone()).map(|found| found.spec.datastore_ready);
                if let Ok(ready) = ready {
                    self.set_ready(Some(ready.unwrap_or(false)));
                }
            }
            Update::Delete(key) if key.kind() == Kind::ClusterInformation => self.set_ready(None),
            Update::Put(entry) if entry.key.kind() == Kind::Node => drop(self.node.send_replace(Some(entry.clone()))),
            Update::Delete(key) if key.kind() == Kind::Node => drop(self.node.send_replace(None)),
            Update::Put(entry) if entry.key.kind() == Kind::IPPool => {
                if let Ok(pool) = decode::<IPPoolSpec>(entry.clone()) {
                    self.pools.insert(entry.key.clone(), pool.spec);
                    self.set_mtu();
                }
            }
            Update::Delete(key) if key.kind() == Kind::IPPool => {
                self.pools.remove(key);
                self.set_mtu();
            }
            Update::Fault(fault) => {
                error!(kind = %fault.kind, name = fault.name, reason = fault.reason, "resource cannot be read, its last good version stays in force");
            }
            Update::Trouble(Some(reason)) => {
                warn!(reason, "the datastore does not answer, the kernel stays as it is");
                self.state.send_modify(|state| state.trouble = Some(reason.clone()));
            }
            Update::Trouble(None) => {
                info!("the datastore answers");
                self.state.send_modify(|state| state.trouble = None);
            }
            Update::Put(_) | Update::Delete(_) | Update::InSync => {}
        }
    }

    fn set_ready(&self, ready: Option<bool>) {
        let changed = self.state.send_if_modified(|state| {
            let before = std::mem::replace(&mut state.datastore_ready, ready);
            before != ready
        });
        if changed && ready != Some(true) {
            warn!(datastore_ready = ready, "the datastore is locked (ClusterInformation), pods are not served");
        }
    }

    /// Pods that exist keep their MTU; new ones get what the pools of now leave.
    fn set_mtu(&self) {
        let mtu = pod_mtu(self.node_mtu, self.pools.values());
        let changed = self.state.send_if_modified(|state| std::mem::replace(&mut state.pod_mtu, mtu) != mtu);
        if changed && let Err(error) = write_mtu(&self.mtu_file, mtu) {
            warn!(error = format!("{error:#}"), "the pods' MTU is not written");
        }
    }
}

/// The node's own blocks of which the calculation knows: it wants nothing else of them, and they change with every pod.
struct OwnBlocks {
    affinity: String,
    told: BTreeSet<Key>,
}

impl OwnBlocks {
    fn new(node: &str) -> Self {
        Self { affinity: format!("host:{node}"), told: BTreeSet::new() }
    }

    /// Whether the calculation has been told already that a block is the node's, and it still is.
    fn is_told(&mut self, update: &Update) -> bool {
        match update {
            Update::Put(entry) if entry.key.kind() == Kind::IPAMBlock => {
                let spec = entry.value.get("spec");
                let field = |name: &str| spec.and_then(|spec| spec.get(name));
                let affinity = field("affinity").and_then(serde_json::Value::as_str);
                let deleted = field("deleted").and_then(serde_json::Value::as_bool).unwrap_or(false);
                if affinity == Some(&self.affinity) && !deleted {
                    return !self.told.insert(entry.key.clone());
                }
                self.told.remove(&entry.key);
            }
            Update::Delete(key) => drop(self.told.remove(key)),
            Update::Fault(fault) => {
                if let Some(key) = &fault.key {
                    self.told.remove(key);
                }
            }
            _ => {}
        }
        false
    }
}

/// The next update of a watch that may not be there.
async fn next(watch: &mut Option<mpsc::Receiver<Update>>) -> Option<Update> {
    match watch {
        Some(updates) => updates.recv().await,
        None => std::future::pending().await,
    }
}

/// Whether it concerns the allocator.
fn for_allocator(update: &Update) -> bool {
    let peering = |kind| matches!(kind, Kind::BGPPeer | Kind::BGPConfiguration);
    match update {
        Update::Put(entry) => !peering(entry.key.kind()),
        Update::Delete(key) => !peering(key.kind()),
        Update::Fault(fault) => !peering(fault.kind),
        Update::InSync | Update::Trouble(_) => true,
    }
}

fn typed<S: Spec>(entry: &Entry, made: impl FnOnce(Box<calico_api::Resource<S>>) -> calc::Update) -> calc::Update {
    match decode::<S>(entry.clone()) {
        Ok(resource) => made(Box::new(resource)),
        Err(Error::Corrupt(fault)) => calc::Update::Fault { key: fault.key, reason: fault.reason },
        Err(other) => calc::Update::Fault { key: Some(entry.key.clone()), reason: other.to_string() },
    }
}

/// What the watch on profiles says to the calculation.
fn profile_for_calc(update: Option<Update>) -> Option<calc::Update> {
    match update? {
        Update::Put(entry) => Some(typed::<ProfileSpec>(&entry, calc::Update::Profile)),
        Update::Delete(key) => Some(calc::Update::Deleted(key)),
        Update::Fault(fault) => Some(calc::Update::Fault { key: fault.key, reason: fault.reason }),
        Update::InSync => Some(calc::Update::ProfilesInSync),
        Update::Trouble(Some(reason)) => {
            warn!(reason, "profiles cannot be watched, local workloads that are BGP peers stay as they are");
            None
        }
        Update::Trouble(None) => {
            info!("profiles are watched again");
            None
        }
    }
}

/// What concerns the calculation.
fn for_calc(update: &Update) -> Option<calc::Update> {
    match update {
        Update::Put(entry) => match entry.key.kind() {
            Kind::WorkloadEndpoint => Some(typed::<WorkloadEndpointSpec>(entry, calc::Update::Endpoint)),
            Kind::IPAMBlock => Some(typed::<IPAMBlockSpec>(entry, calc::Update::Block)),
            Kind::BGPPeer => Some(typed::<BGPPeerSpec>(entry, calc::Update::Peer)),
            Kind::BGPConfiguration => Some(typed::<BGPConfigurationSpec>(entry, calc::Update::Configuration)),
            Kind::Node => Some(typed::<NodeSpec>(entry, calc::Update::Node)),
            _ => None,
        },
        Update::Delete(key)
            if matches!(
                key.kind(),
                Kind::WorkloadEndpoint | Kind::IPAMBlock | Kind::BGPPeer | Kind::BGPConfiguration | Kind::Node
            ) =>
        {
            Some(calc::Update::Deleted(key.clone()))
        }
        Update::Fault(fault) if matches!(fault.kind, Kind::WorkloadEndpoint | Kind::IPAMBlock) => {
            Some(calc::Update::Fault { key: fault.key.clone(), reason: fault.reason.clone() })
        }
        Update::InSync => Some(calc::Update::InSync),
        Update::Delete(_) | Update::Fault(_) | Update::Trouble(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use calico_datastore::Revision;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_calculation_hears_of_an_own_block_when_its_owner_changes() {
        let key = Key::Block("10.0.0.0/26".parse().unwrap());
        let put = |affinity: &str| {
            let value = json!({"spec": {"cidr": "10.0.0.0/26", "affinity": affinity}});
            Update::Put(Entry { key: key.clone(), value, revision: Revision("1".to_owned()) })
        };
        let mut own = OwnBlocks::new("east");
        for (update, told) in [
            (put("host:east"), false),
            (put("host:east"), true),
            (put("host:west"), false),
            (put("host:west"), false),
            (put("host:east"), false),
            (put("host:east"), true),
            (Update::Delete(key.clone()), false),
            (put("host:east"), false),
        ] {
            assert_eq!(own.is_told(&update), told, "{update:?}");
        }
    }
}
