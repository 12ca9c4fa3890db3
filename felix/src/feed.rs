//! One watch on the datastore, told to everyone concerned: the calculation, the allocator, the state.

use std::collections::BTreeMap;
use std::path::PathBuf;

use calico_api::{ClusterInformationSpec, IPAMBlockSpec, IPPoolSpec, Key, Kind, Spec, WorkloadEndpointSpec};
use calico_datastore::watch::Update;
use calico_datastore::{Entry, Error, Filter, Store, decode, watch};
use felix_calc as calc;
use tokio::sync::{mpsc, watch as state_channel};
use tracing::{error, info, warn};

use crate::bring_up::{pod_mtu, write_mtu};
use crate::state::State;

/// The kinds that Felix watches on `node`.
pub(crate) fn kinds(node: &str) -> Vec<(Kind, Filter)> {
    let own = || Filter::Node(node.to_owned());
    vec![
        (Kind::WorkloadEndpoint, own()),
        (Kind::IPAMBlock, Filter::All),
        (Kind::BlockAffinity, own()),
        (Kind::IPPool, Filter::All),
        (Kind::IPReservation, Filter::All),
        (Kind::IPAMConfiguration, Filter::All),
        (Kind::ClusterInformation, Filter::All),
        (Kind::Node, own()),
    ]
}

/// Everyone who is told.
pub(crate) struct Feed {
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
}

impl Feed {
    /// Tells until the watch or a receiver ends.
    pub(crate) async fn run(mut self, store: Store, node: String) {
        let mut updates = watch::watch(&store, kinds(&node));
        while let Some(update) = updates.recv().await {
            self.note(&update);
            if let Some(update) = for_calc(&update)
                && self.calc.send(update).await.is_err()
            {
                return;
            }
            if self.allocator.send(update).await.is_err() {
                return;
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

/// What concerns the calculation.
fn for_calc(update: &Update) -> Option<calc::Update> {
    fn typed<S: Spec>(entry: &Entry, made: impl FnOnce(Box<calico_api::Resource<S>>) -> calc::Update) -> calc::Update {
        match decode::<S>(entry.clone()) {
            Ok(resource) => made(Box::new(resource)),
            Err(Error::Corrupt(fault)) => calc::Update::Fault { key: fault.key, reason: fault.reason },
            Err(other) => calc::Update::Fault { key: Some(entry.key.clone()), reason: other.to_string() },
        }
    }
    match update {
        Update::Put(entry) => match entry.key.kind() {
            Kind::WorkloadEndpoint => Some(typed::<WorkloadEndpointSpec>(entry, calc::Update::Endpoint)),
            Kind::IPAMBlock => Some(typed::<IPAMBlockSpec>(entry, calc::Update::Block)),
            _ => None,
        },
        Update::Delete(key) if matches!(key.kind(), Kind::WorkloadEndpoint | Kind::IPAMBlock) => {
            Some(calc::Update::Deleted(key.clone()))
        }
        Update::Fault(fault) if matches!(fault.kind, Kind::WorkloadEndpoint | Kind::IPAMBlock) => {
            Some(calc::Update::Fault { key: fault.key.clone(), reason: fault.reason.clone() })
        }
        Update::InSync => Some(calc::Update::InSync),
        Update::Delete(_) | Update::Fault(_) | Update::Trouble(_) => None,
    }
}
