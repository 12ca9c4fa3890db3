//! The Kubernetes back end against a real kube-apiserver, in both API groups.
//!
//! One server serves all tests of this file, started by the first; the one that kills its server has its own.

mod conformance;
mod core;
mod faults;
mod groups;
mod lists;
mod metadata;
mod reach;
mod records;
mod views;

use std::net::TcpListener;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use calico_api::{
    AffinityState, BlockAffinity, BlockAffinitySpec, IPAMBlock, IPAMBlockSpec, IPAMConfiguration,
    IPAMConfigurationSpec, IPAMHandle, IPAMHandleSpec, IPPool, IPPoolSpec, Key, Kind, Node, ObjectMeta, Owner,
    WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_datastore::kubernetes::Kubernetes;
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Backend, Error, Filter, KubernetesConfig, Revision, Store};
use futures::StreamExt;
use integration::holder::Holder;
use integration::servers::kubernetes::{ApiServer, Group, Listen};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

/// Within what a change must have reached a watcher.
const PATIENCE: Duration = Duration::from_secs(30);
const GROUPS: [Group; 2] = [Group::Classic, Group::Native];

/// The server of this file. Who holds it is alone with it.
async fn server() -> MutexGuard<'static, ApiServer> {
    static SERVER: OnceLock<Mutex<ApiServer>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        let server = start();
        for group in GROUPS {
            server.apply_crds(group).unwrap();
        }
        Mutex::new(server)
    });
    server.lock().await
}

fn start() -> ApiServer {
    ApiServer::start(Listen::LOOPBACK, None, None).expect("kube-apiserver starts")
}

fn config(server: &ApiServer, group: Option<Group>) -> KubernetesConfig {
    KubernetesConfig {
        kubeconfig: Some(server.kubeconfig().display().to_string()),
        calico_api_group: group.map(|group| group.api_version().to_owned()),
        ..KubernetesConfig::default()
    }
}

async fn open(server: &ApiServer, group: Group) -> Store {
    Store::new(Kubernetes::connect(&config(server, Some(group))).await.unwrap())
}

/// The path of an object of ours.
fn path(group: Group, plural: &str, name: &str) -> String {
    format!("/apis/{}/{plural}/{name}", group.api_version())
}

fn raw(server: &ApiServer, path: &str) -> Value {
    server.request("GET", path, &Value::Null).unwrap()
}

fn exists(server: &ApiServer, path: &str) -> bool {
    server.request("GET", path, &Value::Null).is_ok()
}

/// Waits for the first update that `wanted` makes something of.
async fn until<T>(updates: &mut Receiver<Update>, what: &str, mut wanted: impl FnMut(&Update) -> Option<T>) -> T {
    let seen = async {
        loop {
            let update = updates.recv().await.expect("a watch lives as long as its receiver");
            if let Some(found) = wanted(&update) {
                return found;
            }
        }
    };
    timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

async fn in_sync(updates: &mut Receiver<Update>) {
    until(updates, "in sync", |update| (*update == Update::InSync).then_some(())).await;
}

fn put(update: &Update, key: &Key) -> Option<Value> {
    match update {
        Update::Put(entry) if entry.key == *key => Some(entry.value.clone()),
        _ => None,
    }
}

fn deleted(update: &Update, key: &Key) -> Option<()> {
    (*update == Update::Delete(key.clone())).then_some(())
}

fn cidr(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn block(network: &str, node: &str) -> IPAMBlock {
    IPAMBlock::new(
        ObjectMeta::default(),
        IPAMBlockSpec {
            cidr: cidr(network),
            affinity: Some(format!("host:{node}")),
            affinity_claim_time: Some("2026-08-22T13:00:00Z".to_owned()),
            allocations: vec![None; 64],
            unallocated: (0..64).collect(),
            attributes: Vec::new(),
            sequence_number: 1_787_403_600_000_000_007,
            sequence_number_for_allocation: [("0".to_owned(), 1_787_403_600_000_000_001)].into(),
            deleted: false,
            strict_affinity: false,
        },
    )
}

fn affinity(network: &str, node: &str) -> BlockAffinity {
    BlockAffinity::new(
        ObjectMeta::default(),
        BlockAffinitySpec {
            state: AffinityState::Pending,
            node: node.to_owned(),
            owner_type: Some("host".to_owned()),
            cidr: cidr(network),
            deleted: false,
        },
    )
}

fn handle(id: &str) -> IPAMHandle {
    let spec =
        IPAMHandleSpec { handle_id: id.to_owned(), block: [("10.244.0.0/26".to_owned(), 1)].into(), deleted: false };
    IPAMHandle::new(ObjectMeta::default(), spec)
}

/// Makes an object of Kubernetes' own, behind the store's back.
fn make(server: &ApiServer, path: &str, object: &Value) {
    server.request("POST", path, object).unwrap();
}
