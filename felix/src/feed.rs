//! One watch on the datastore, told to everyone concerned: the calculation, the allocator, the state.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bgp_plan::inputs::{Encap, Pool};
use bgp_plan::owners;
use calico_agent::Finding;
use calico_api::{
    BGPConfigurationSpec, BGPPeerSpec, ClusterInformationSpec, IPAMBlockSpec, IPAMConfigurationSpec, IPPool,
    IPPoolSpec, IPReservationSpec, Key, Kind, NodeSpec, ProfileSpec, Spec, WorkloadEndpointSpec,
};
use calico_datastore::watch::Update;
use calico_datastore::{Entry, Error, Filter, Store, decode, watch};
use felix_calc as calc;
use ipnet::IpNet;
use tokio::sync::{mpsc, watch as state_channel};
use tracing::{error, info, warn};

use crate::bring_up::{pod_mtu, subnets, write_mtu};
use crate::config::Mtus;
use crate::findings::{Findings, Source};
use crate::kernel::Forbidden;
use crate::known::Known;
use crate::state::State;
use crate::told::{Told, owner_alone};

/// How many of the resources that cannot be read are named to the operator; where all of a kind cannot be, that may be tens
/// of thousands, and all are told at each that comes.
const NAMED: usize = 100;

/// Pools as they are in force, by key; cheap to hand on.
pub(crate) type Pools = Arc<BTreeMap<Key, IPPool>>;

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
        (Kind::Node, Filter::All),
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
    /// The MTUs of the node and of its tunnels.
    pub(crate) mtus: Mtus,
    /// The tunnels that there must not be.
    pub(crate) forbidden: Forbidden,
    /// Where the pods' is written.
    pub(crate) mtu_file: PathBuf,
    /// The pools in force, for whoever gives tunnels their addresses.
    pub(crate) pools: state_channel::Sender<Pools>,
    /// With what the names of workloads' interfaces begin.
    pub(crate) prefixes: Vec<String>,
    /// What is found that is not as it should be.
    pub(crate) findings: Findings,
    /// What cannot be read in the store, by kind and name.
    pub(crate) faults: BTreeMap<(Kind, String), String>,
    /// Whether pods have addresses of their node's pod CIDR, and there are no records of IPAM.
    pub(crate) use_pod_cidr: bool,
    /// This node's Node, for whoever looks after it.
    pub(crate) node: state_channel::Sender<Option<Entry>>,
}

impl Feed {
    /// Tells until the watch or a receiver ends.
    pub(crate) async fn run(mut self, store: Store, node: String) {
        let mut updates = watch::watch(&store, kinds(&node, self.use_pod_cidr));
        let mut told = Told::new(&node);
        let watched = |_: &Known| watch::watch(&store, vec![(Kind::Profile, Filter::Namespaces)]);
        let mut namespaces: Option<mpsc::Receiver<Update>> = self.known.as_ref().map(watched);
        let mut profiles: Option<mpsc::Receiver<Update>> = None;
        let mut state = self.state.subscribe();
        // Where a Node has no mask, the calculation asks the interfaces; later changes come from `redetect`.
        if let Some(held) = held(&self.prefixes)
            && self.calc.send(calc::Update::Subnets(held)).await.is_err()
        {
            return;
        }
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
                    let understood = self.note(&update, &node);
                    // Before the rest, which may be unreadable.
                    if let Some(programs) = programs(&update)
                        && self.calc.send(calc::Update::Programs(programs)).await.is_err()
                    {
                        return;
                    }
                    if let Some(known) = &self.known {
                        known.learn_pods(&update);
                    }
                    if !told.is_told(&update)
                        && let Some(update) = for_calc(&update)
                    {
                        if let calc::Update::Fault { key: Some(key), .. } = &update {
                            told.forget(key);
                        }
                        if self.calc.send(update).await.is_err() {
                            return;
                        }
                    }
                    if understood && for_allocator(&update, &node) && self.allocator.send(update).await.is_err() {
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

    /// What concerns the state of the whole. Says whether it may take the place of what was before.
    fn note(&mut self, update: &Update, own: &str) -> bool {
        match update {
            Update::Put(entry) => match unreadable(entry) {
                Some(reason) => self.fault(entry.key.kind(), entry.key.name(), reason),
                None => self.mend(&entry.key),
            },
            Update::Delete(key) => self.mend(key),
            _ => {}
        }
        let is_own = |key: &Key| key.kind() == Kind::Node && key.name() == own;
        match update {
            Update::Put(entry) if entry.key.kind() == Kind::ClusterInformation => {
                let ready = decode::<ClusterInformationSpec>(entry.clone()).map(|found| found.spec.datastore_ready);
                if let Ok(ready) = ready {
                    self.set_ready(Some(ready.unwrap_or(false)));
                }
            }
            Update::Delete(key) if key.kind() == Kind::ClusterInformation => self.set_ready(None),
            Update::Put(entry) if is_own(&entry.key) => drop(self.node.send_replace(Some(entry.clone()))),
            Update::Delete(key) if is_own(key) => drop(self.node.send_replace(None)),
            Update::Put(entry) if entry.key.kind() == Kind::IPPool => {
                // Of a pool that cannot be the last good version stays, for everybody; the calculation says so. Where there is
                // none, it is for the allocator to see what it can make of it.
                match decode::<IPPoolSpec>(entry.clone()) {
                    Ok(pool) if Pool::understand(&pool.spec).is_ok() => {
                        self.change_pools(|pools| drop(pools.insert(entry.key.clone(), pool)));
                    }
                    _ => return !self.pools.borrow().contains_key(&entry.key),
                }
            }
            Update::Delete(key) if key.kind() == Kind::IPPool => self.change_pools(|pools| drop(pools.remove(key))),
            Update::Fault(fault) => self.fault(fault.kind, fault.name.clone(), fault.reason.clone()),
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
        true
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

    /// Something cannot be read.
    fn fault(&mut self, kind: Kind, name: String, reason: String) {
        error!(%kind, name, reason, "resource cannot be read, its last good version stays in force");
        self.faults.insert((kind, name), reason);
        self.tell_faults();
    }

    /// What could not be read can be, or is gone.
    fn mend(&mut self, key: &Key) {
        if !self.faults.is_empty() && self.faults.remove(&(key.kind(), key.name())).is_some() {
            self.tell_faults();
        }
    }

    fn tell_faults(&self) {
        let finding = |((kind, name), reason): (&(Kind, String), &String)| Finding {
            object: format!("{kind}/{name}"),
            text: format!("it cannot be read, its last good version stays in force: {reason}; correct it"),
        };
        let pools = self.pools.borrow();
        let refused = pools.values().filter_map(|pool| refused(pool, self.forbidden));
        let more = self.faults.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| Finding {
            object: "datastore".to_owned(),
            text: format!("{more} more resources cannot be read; the log names each of them, correct them"),
        });
        let faults = self.faults.iter().take(NAMED).map(finding);
        self.findings.tell(Source::Datastore, faults.chain(more).chain(refused).collect());
    }

    fn change_pools(&self, change: impl FnOnce(&mut BTreeMap<Key, IPPool>)) {
        self.pools.send_modify(|pools| change(Arc::make_mut(pools)));
        self.set_mtu();
        if self.forbidden != Forbidden::default() {
            self.tell_faults();
        }
    }

    /// Pods that exist keep their MTU; new ones get what the pools of now leave.
    fn set_mtu(&self) {
        let mtu = pod_mtu(&self.mtus, self.pools.borrow().values().map(|pool| &pool.spec));
        let changed = self.state.send_if_modified(|state| std::mem::replace(&mut state.pod_mtu, mtu) != mtu);
        if changed && let Err(error) = write_mtu(&self.mtu_file, mtu) {
            warn!(error = format!("{error:#}"), "the pods' MTU is not written");
        }
    }
}

/// What is to be said of a pool that asks for a tunnel which there must not be. Its routes stay felix' all the same: who else
/// would program them cannot know that.
fn refused(pool: &IPPool, forbidden: Forbidden) -> Option<Finding> {
    let (tunnel, field) = match Pool::understand(&pool.spec).ok()?.encap {
        Encap::Ipip { .. } if forbidden.ipip => ("IPIP", "ipipEnabled"),
        Encap::Vxlan { .. } if forbidden.vxlan => ("VXLAN", "vxlanEnabled"),
        _ => return None,
    };
    Some(Finding {
        object: format!("IPPool/{}", pool.name()),
        text: format!(
            "it asks for {tunnel}, which {field}: false in felix' configuration forbids on this node, so packets of it to \
             and from other nodes go nowhere; remove {field}, or change the pool's mode"
        ),
    })
}

/// The subnets of the node's interfaces; `None` if they cannot be listed: then what is known of them is not less true.
pub(crate) fn held(prefixes: &[String]) -> Option<Vec<IpNet>> {
    let listed = subnets(prefixes);
    listed.inspect_err(|error| warn!(%error, "the addresses of the node's interfaces cannot be listed")).ok()
}

/// What an update says of who programs which routes, if it is about BGPConfiguration `default`.
fn programs(update: &Update) -> Option<Option<String>> {
    let is_default = |key: &Key| key.kind() == Kind::BGPConfiguration && key.name() == "default";
    match update {
        Update::Put(entry) if is_default(&entry.key) => Some(owners::written(&entry.value).map(str::to_owned)),
        _ => None,
    }
}

/// What is wrong with a resource that nobody reads who says so: others are the calculation's.
fn unreadable(entry: &Entry) -> Option<String> {
    fn reason<S: Spec>(entry: &Entry) -> Option<String> {
        decode::<S>(entry.clone()).err().map(|error| match error {
            Error::Corrupt(fault) => fault.reason,
            other => other.to_string(),
        })
    }
    match entry.key.kind() {
        Kind::ClusterInformation => reason::<ClusterInformationSpec>(entry),
        Kind::IPReservation => reason::<IPReservationSpec>(entry),
        Kind::IPAMConfiguration => reason::<IPAMConfigurationSpec>(entry),
        _ => None,
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
fn for_allocator(update: &Update, own: &str) -> bool {
    let peering = |kind| matches!(kind, Kind::BGPPeer | Kind::BGPConfiguration);
    let concerns = |key: &Key| !peering(key.kind()) && (key.kind() != Kind::Node || key.name() == own);
    match update {
        Update::Put(entry) => concerns(&entry.key),
        Update::Delete(key) => concerns(key),
        Update::Fault(fault) => !peering(fault.kind),
        Update::InSync | Update::Trouble(_) => true,
    }
}

/// A block, as little of it as will do: there are tens of thousands.
fn block(entry: &Entry) -> calc::Update {
    match owner_alone(&entry.value) {
        Some(block) => calc::Update::Block(Box::new(block)),
        None => typed::<IPAMBlockSpec>(entry, calc::Update::Block),
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
            Kind::IPAMBlock => Some(block(entry)),
            Kind::IPPool => Some(typed::<IPPoolSpec>(entry, calc::Update::Pool)),
            Kind::BGPPeer => Some(typed::<BGPPeerSpec>(entry, calc::Update::Peer)),
            Kind::BGPConfiguration => Some(typed::<BGPConfigurationSpec>(entry, calc::Update::Configuration)),
            Kind::Node => Some(typed::<NodeSpec>(entry, calc::Update::Node)),
            _ => None,
        },
        Update::Delete(key)
            if matches!(
                key.kind(),
                Kind::WorkloadEndpoint
                    | Kind::IPAMBlock
                    | Kind::IPPool
                    | Kind::BGPPeer
                    | Kind::BGPConfiguration
                    | Kind::Node
            ) =>
        {
            Some(calc::Update::Deleted(key.clone()))
        }
        Update::InSync => Some(calc::Update::InSync),
        Update::Delete(_) | Update::Fault(_) | Update::Trouble(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: Key, value: serde_json::Value) -> Update {
        Update::Put(Entry { key, value, revision: calico_datastore::Revision("1".to_owned()) })
    }

    #[test]
    fn who_programs_which_routes_is_heard_from_a_version_that_cannot_be_read_otherwise() {
        let key = |name: &str| Key::named(Kind::BGPConfiguration, name);
        let spec = serde_json::json!({"programClusterRoutes": "Disabled", "listenPort": "none"});
        let value = serde_json::json!({"metadata": {"name": "default"}, "spec": spec});
        let bad = entry(key("default"), value.clone());
        assert!(matches!(for_calc(&bad), Some(calc::Update::Fault { .. })));
        assert_eq!(programs(&bad), Some(Some("Disabled".to_owned())));
        assert_eq!(programs(&entry(key("default"), serde_json::json!({"spec": {}}))), Some(None));
        assert_eq!(programs(&entry(key("node.east"), value)), None);
        assert_eq!(programs(&Update::Delete(key("default"))), None, "the calculation hears of that itself");
    }

    #[test]
    fn a_pool_whose_tunnel_is_forbidden_is_named_and_stays_what_it_is() {
        let named = |ipip: &str, vxlan: &str, forbidden| {
            let spec = serde_json::json!({"cidr": "10.0.0.0/16", "ipipMode": ipip, "vxlanMode": vxlan});
            let spec: IPPoolSpec = serde_json::from_value(spec).unwrap();
            refused(&IPPool::new(calico_api::ObjectMeta::named("p"), spec), forbidden)
        };
        let (ipip, vxlan) = (Forbidden { ipip: true, vxlan: false }, Forbidden { ipip: false, vxlan: true });
        let finding = named("CrossSubnet", "Never", ipip).unwrap();
        assert!(finding.object == "IPPool/p" && finding.text.contains("ipipEnabled: false"), "{finding:?}");
        assert!(named("Never", "Always", vxlan).unwrap().text.contains("vxlanEnabled: false"));
        for (ipip_mode, vxlan_mode, forbidden) in [
            ("Always", "Never", vxlan),
            ("Never", "Always", ipip),
            ("Never", "Never", ipip),
            ("Always", "Always", ipip),
        ] {
            assert_eq!(named(ipip_mode, vxlan_mode, forbidden), None, "{ipip_mode} {vxlan_mode}");
        }
    }

    #[test]
    fn what_only_others_decode_is_looked_at_here() {
        let put = |kind, spec| match entry(Key::named(kind, "default"), serde_json::json!({"spec": spec})) {
            Update::Put(entry) => unreadable(&entry),
            _ => None,
        };
        let reason = put(Kind::ClusterInformation, serde_json::json!({"datastoreReady": "perhaps"}));
        assert!(reason.as_ref().is_some_and(|reason| reason.contains("datastoreReady")), "{reason:?}");
        assert!(put(Kind::IPReservation, serde_json::json!({"reservedCIDRs": 7})).is_some());
        assert_eq!(put(Kind::ClusterInformation, serde_json::json!({"datastoreReady": true})), None);
        assert_eq!(put(Kind::IPPool, serde_json::json!({"cidr": 7})), None, "the calculation says so");
    }
}
