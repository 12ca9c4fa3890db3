//! The Kubernetes back end against a real kube-apiserver, in both API groups.
//!
//! One server serves all tests of this file, started by the first; the one that kills its server has its own.

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

/// The UID in the other API, bit by bit.
fn mirrored(uid: &str) -> String {
    let digits: String = uid.chars().filter(|digit| *digit != '-').collect();
    let mut octets: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    for (index, octet) in octets.iter_mut().enumerate().filter(|(index, _)| ![6, 8].contains(index)) {
        let _ = index;
        *octet = (0..8).fold(0, |mirrored, bit| mirrored | ((*octet >> bit & 1) << (7 - bit)));
    }
    let text: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// One API group of the server of this file, as a store that must do what every store does.
struct Subject {
    server: Mutex<MutexGuard<'static, ApiServer>>,
    group: Group,
    store: Store,
}

impl Subject {
    async fn new(group: Group) -> Self {
        let server = server().await;
        server.create_namespace(integration::conformance::NAMESPACE).unwrap();
        let store = open(&server, group).await;
        // A server that an earlier check restarted fills its caches at the first watch of a kind, and knows nothing of
        // what was before that: a check that lists, writes and then watches would be told so.
        for kind in [Kind::IPPool, Kind::BGPPeer, Kind::NetworkSet, Kind::IPAMBlock, Kind::BlockAffinity] {
            let from_whenever = Revision("0".to_owned());
            store.backend().watch(kind, &Filter::All, &from_whenever).await.map(drop).unwrap();
        }
        Self { server: Mutex::new(server), group, store }
    }
}

impl integration::conformance::Subject for Subject {
    fn store(&self) -> &Store {
        &self.store
    }

    fn makes(&self, kind: Kind) -> bool {
        !matches!(kind, Kind::Node | Kind::Profile | Kind::WorkloadEndpoint) && !kind.is_core()
    }

    fn watches(&self, kind: Kind) -> bool {
        kind != Kind::IPAMHandle
    }

    async fn spoil(&self, block: &Key) -> anyhow::Result<()> {
        let server = self.server.lock().await;
        let path = path(self.group, "ipamblocks", &block.name());
        let mut object = server.request("GET", &path, &Value::Null)?;
        object["spec"]["unallocated"] = json!([-1]);
        server.request("PUT", &path, &object).map(drop)
    }

    /// A server that has just been started remembers nothing of what was before.
    async fn compact(&self) -> anyhow::Result<()> {
        let mut server = self.server.lock().await;
        server.kill()?;
        server.restart()
    }

    async fn take_away(&self) -> anyhow::Result<()> {
        self.server.lock().await.kill()
    }

    async fn give_back(&self) -> anyhow::Result<()> {
        self.server.lock().await.restart()
    }
}

mod classic {
    integration::conformance!(super::Subject::new(super::Group::Classic));
}

mod native {
    integration::conformance!(super::Subject::new(super::Group::Native));
}

#[tokio::test]
async fn ipam_records_are_stored_as_calico_stores_them() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let stored = store.create(&block("10.1.0.0/26", "node-1")).await.unwrap();
        assert_eq!(stored.spec, block("10.1.0.0/26", "node-1").spec, "64-bit numbers and all");
        store.create(&affinity("10.1.0.0/26", "node-1")).await.unwrap();
        let claimed = store.create(&handle("K8s-Pod-Network.4F1C")).await.unwrap();
        assert_eq!(claimed.spec.handle_id, "K8s-Pod-Network.4F1C");
        let key = Key::named(Kind::IPAMConfiguration, "default");
        let settings = IPAMConfiguration::new(ObjectMeta::named("default"), IPAMConfigurationSpec::default());
        assert_eq!(store.create(&settings).await.unwrap().key(), key);

        let affinity = raw(server, &path(group, "blockaffinities", "node-1-10-1-0-0-26"));
        assert_eq!(affinity["spec"]["deleted"], if group == Group::Classic { json!("false") } else { json!(false) });
        assert_eq!(
            affinity["metadata"]["labels"],
            json!({
                "projectcalico.org/hostname-hash": "A3XPYDATRKB7Q4SM2O5FN4RXIHBFIL2PITFX26BAIP5XAB2X74CA",
                "projectcalico.org/affinity-type": "host", "projectcalico.org/ip-version": "4",
            })
        );
        assert!(exists(server, &path(group, "ipamblocks", "10-1-0-0-26")));
        assert!(exists(server, &path(group, "ipamhandles", "k8s-pod-network.4f1c")));
        let plural = if group == Group::Classic { "ipamconfigs" } else { "ipamconfigurations" };
        assert!(exists(server, &path(group, plural, "default")));

        for key in [
            Key::Block(cidr("10.1.0.0/26")),
            Key::Affinity { owner: Owner::Host("node-1".to_owned()), cidr: cidr("10.1.0.0/26") },
            Key::Handle("K8s-Pod-Network.4F1C".to_owned()),
            key,
        ] {
            assert_eq!(store.backend().get(&key).await.unwrap().key, key);
            store.delete_key(&key).await.unwrap();
            assert!(matches!(store.backend().get(&key).await, Err(Error::NotFound(_))), "{key}");
        }
        assert!(
            !exists(server, &path(group, "ipamblocks", "10-1-0-0-26")),
            "the second step of the delete was done too"
        );
    }
}

#[tokio::test]
async fn a_tombstone_that_was_left_behind_is_absent_and_in_nobodys_way() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let backend = store.backend();
        let block = block("10.2.0.0/26", "node-2");
        let affinity = affinity("10.2.0.0/26", "node-2");
        let handle = handle("left-behind");
        let cases = [
            (block.key(), serde_json::to_value(&block).unwrap(), "ipamblocks"),
            (affinity.key(), serde_json::to_value(&affinity).unwrap(), "blockaffinities"),
            (handle.key(), serde_json::to_value(&handle).unwrap(), "ipamhandles"),
        ];
        for (key, value, plural) in cases {
            let path = path(group, plural, &key.name());
            // What is left by a crash between the two steps of a delete.
            let bury = async || {
                backend.create(&key, value.clone()).await.unwrap();
                let mut object = raw(server, &path);
                let text = group == Group::Classic && plural == "blockaffinities";
                object["spec"]["deleted"] = if text { json!("true") } else { json!(true) };
                server.request("PUT", &path, &object).unwrap()
            };
            let mut updates = (plural != "ipamhandles").then(|| watch(&store, vec![(key.kind(), Filter::All)]));
            if let Some(updates) = &mut updates {
                in_sync(updates).await;
            }
            bury().await;
            if let Some(updates) = &mut updates {
                until(updates, "the record", |update| put(update, &key)).await;
                until(updates, "its tombstone", |update| deleted(update, &key)).await;
            }
            let listing = backend.list(key.kind(), &Filter::All).await.unwrap();
            assert!(listing.entries.iter().all(|entry| entry.key != key), "{key} is listed");
            assert!(matches!(backend.get(&key).await, Err(Error::NotFound(_))), "{key} is returned");
            assert!(!exists(server, &path), "{key}: who finds it finishes it");

            let tombstone = bury().await;
            let revision = Revision(tombstone["metadata"]["resourceVersion"].as_str().unwrap().to_owned());
            assert!(matches!(backend.delete(&key, Some(&revision)).await, Err(Error::NotFound(_))));

            bury().await;
            let created = backend.create(&key, value.clone()).await.unwrap();
            assert!(matches!(backend.create(&key, value.clone()).await, Err(Error::AlreadyExists(_))));
            backend.delete(&key, Some(&created.revision)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_record_is_deleted_only_at_the_version_that_was_read() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let old = store.create(&block("10.3.0.0/26", "node-3")).await.unwrap();
        let mut new = old.clone();
        new.spec.affinity = None;
        let new = store.update(&new).await.unwrap();
        assert!(matches!(store.delete(&old).await, Err(Error::Conflict(_))));
        assert!(matches!(store.update(&old).await, Err(Error::Conflict(_))));
        store.delete(&new).await.unwrap();
        assert!(matches!(store.delete(&new).await, Err(Error::NotFound(_))));
        assert!(matches!(store.update(&new).await, Err(Error::NotFound(_))));
    }
}

#[tokio::test]
async fn of_many_who_write_one_version_one_wins() {
    let server = &*server().await;
    let store = open(server, Group::Classic).await;
    let mut current = store.create(&block("10.4.0.0/26", "node-4")).await.unwrap();
    for round in 0..5 {
        let writers = (0..8_u64).map(|writer| {
            let (store, mut block) = (store.clone(), current.clone());
            tokio::spawn(async move {
                block.spec.sequence_number += writer + 1;
                store.update(&block).await
            })
        });
        let mut won = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                Ok(block) => won.push(block),
                Err(error) => assert!(matches!(error, Error::Conflict(_)), "{error}"),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        current = won.remove(0);
    }
    store.delete(&current).await.unwrap();
}

#[tokio::test]
async fn a_users_labels_are_in_the_annotation_of_the_classic_group_and_plain_in_the_native_one() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let mut pool = IPPool::new(ObjectMeta::named("labelled"), IPPoolSpec::new("10.5.0.0/16"));
        pool.metadata.labels = [("rack", "a"), ("projectcalico.org/kept", "b")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        pool.metadata.annotations = [("note".to_owned(), "c".to_owned())].into();
        let mut created = store.create(&pool).await.unwrap();
        assert_eq!(
            (&created.metadata.labels, &created.metadata.annotations),
            (&pool.metadata.labels, &pool.metadata.annotations)
        );
        assert!(created.metadata.creation_timestamp.is_some());

        let object = raw(server, &path(group, "ippools", "labelled"));
        let (uid, real) = (created.metadata.uid.clone().unwrap(), object["metadata"]["uid"].as_str().unwrap());
        if group == Group::Classic {
            assert_eq!(object["metadata"]["labels"], json!({"projectcalico.org/kept": "b"}));
            let text = object["metadata"]["annotations"]["projectcalico.org/metadata"].as_str().unwrap();
            let inner: Value = serde_json::from_str(text).unwrap();
            assert_eq!(inner["labels"], json!(pool.metadata.labels));
            assert_eq!(inner["annotations"], json!({"note": "c"}));
            assert_eq!(uid, mirrored(real));
            assert_ne!(uid, real);
        } else {
            assert_eq!(object["metadata"]["labels"], json!(pool.metadata.labels));
            assert_eq!(object["metadata"]["annotations"], json!({"note": "c"}));
            assert_eq!(uid, real);
        }

        created.metadata.labels.remove("rack");
        created.spec.disabled = Some(true);
        let updated = store.update(&created).await.unwrap();
        assert_eq!(updated.metadata.labels.keys().collect::<Vec<_>>(), ["projectcalico.org/kept"]);
        assert_eq!((updated.spec.disabled, &updated.metadata.uid), (Some(true), &created.metadata.uid));

        // What kubectl writes has no annotation.
        let mut plain = json!({"apiVersion": group.api_version(), "kind": "IPPool", "metadata": {"name": "plain", "labels": {"rack": "b"}}});
        plain["spec"] = json!({"cidr": "10.6.0.0/16", "ipipMode": "CrossSubnet"});
        server.request("POST", &path(group, "ippools", ""), &plain).unwrap();
        let read: IPPool = store.get(&Key::named(Kind::IPPool, "plain")).await.unwrap();
        assert_eq!(read.metadata.labels["rack"], "b");
        for name in ["labelled", "plain"] {
            store.delete_key(&Key::named(Kind::IPPool, name)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_status_is_written_apart_from_the_spec() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let mut pool =
            store.create(&IPPool::new(ObjectMeta::named("status"), IPPoolSpec::new("10.7.0.0/16"))).await.unwrap();
        let condition = json!({"type": "Allocatable", "status": "True", "reason": "OK", "message": "", "lastTransitionTime": "2026-08-22T13:00:00Z"});
        pool.status = Some(serde_json::from_value(json!({"conditions": [condition]})).unwrap());
        pool.spec.disabled = Some(true);
        let written = store.update_status(&pool).await.unwrap();
        assert_eq!(written.status, pool.status);
        assert_eq!(written.spec.disabled, None, "the spec was not written");
        store.delete(&written).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_goes_round_through_its_annotations() {
    let server = &*server().await;
    let store = open(server, Group::Classic).await;
    server.create_node("round").unwrap();
    let key = Key::named(Kind::Node, "round");
    let mut updates = watch(&store, vec![(Kind::Node, Filter::All)]);
    in_sync(&mut updates).await;
    let mut node: Node = store.get(&key).await.unwrap();
    assert_eq!(node.spec.bgp, None);
    assert_eq!(node.spec.orch_refs[0].orchestrator, "k8s");
    assert_eq!(node.metadata.labels["kubernetes.io/hostname"], "round");

    let before = node.clone();
    node.spec.bgp = serde_json::from_value(json!({"ipv4Address": "192.0.2.1/24", "asNumber": 64513})).unwrap();
    node.spec.vxlan_tunnel_mac_addr = Some("66:0b:4c:00:00:01".to_owned());
    node.metadata.labels.insert("rack".to_owned(), "r1".to_owned());
    let written = store.update(&node).await.unwrap();
    assert_eq!(written.spec.bgp, node.spec.bgp);
    assert_eq!(written.metadata.labels, node.metadata.labels);
    let seen = until(&mut updates, "the change", |update| {
        put(update, &key).filter(|value| value["spec"]["bgp"]["ipv4Address"] == "192.0.2.1/24")
    });
    seen.await;
    let annotations = raw(server, "/api/v1/nodes/round")["metadata"]["annotations"].clone();
    assert_eq!(
        annotations,
        json!({
            "projectcalico.org/IPv4Address": "192.0.2.1/24", "projectcalico.org/ASNumber": "64513",
            "projectcalico.org/VXLANTunnelMACAddr": "66:0b:4c:00:00:01", "projectcalico.org/labels": "{\"rack\":\"r1\"}",
        }),
        "nothing else, above all not Kubernetes' own labels"
    );

    assert!(matches!(store.update(&before).await, Err(Error::Conflict(_))), "of an old version");
    let mut bare = written;
    bare.spec.bgp = None;
    store.update(&bare).await.unwrap();
    let annotations = raw(server, "/api/v1/nodes/round")["metadata"]["annotations"].clone();
    assert_eq!(annotations.get("projectcalico.org/IPv4Address"), None);
    assert_eq!(annotations["projectcalico.org/VXLANTunnelMACAddr"], "66:0b:4c:00:00:01");

    assert!(matches!(store.create(&bare).await, Err(Error::NotSupported { .. })));
    assert!(matches!(store.delete_key(&key).await, Err(Error::NotSupported { .. })));
    server.delete_node("round").unwrap();
    until(&mut updates, "the end of the node", |update| deleted(update, &key)).await;
}

#[tokio::test]
async fn a_pod_lives_as_a_workload_endpoint() {
    let server = &*server().await;
    let store = open(server, Group::Native).await;
    let (pod, other) = ("/api/v1/namespaces/default/pods/web-0", "elsewhere");
    let key = Key::namespaced(Kind::WorkloadEndpoint, "default", "node--1-k8s-web--0-eth0");
    let mut updates = watch(&store, vec![(Kind::WorkloadEndpoint, Filter::Node("node-1".to_owned()))]);
    in_sync(&mut updates).await;
    server.create_pod("default", other, "node-2").unwrap();
    server.create_pod("default", "web-0", "node-1").unwrap();
    let bound = until(&mut updates, "the pod", |update| match update {
        Update::Put(entry) => Some(entry.clone()),
        _ => None,
    });
    assert_eq!(bound.await.key, key, "only pods of the node are watched");

    let mut endpoint = WorkloadEndpoint::new(ObjectMeta::named(key.name()), WorkloadEndpointSpec::default());
    endpoint.metadata.namespace = Some("default".to_owned());
    endpoint.spec.ip_networks = vec!["10.244.0.2/32".to_owned(), "fd00::2/128".to_owned()];
    endpoint.spec.container_id = "4f1c0e".to_owned();
    let written = store.create(&endpoint).await.unwrap();
    assert_eq!(written.spec.ip_networks, endpoint.spec.ip_networks);
    assert_eq!(written.spec.interface_name, "cali0d7763386da");
    let annotations = raw(server, pod)["metadata"]["annotations"].clone();
    assert_eq!(
        annotations,
        json!({
            "cni.projectcalico.org/podIP": "10.244.0.2/32",
            "cni.projectcalico.org/podIPs": "10.244.0.2/32,fd00::2/128",
            "cni.projectcalico.org/containerID": "4f1c0e",
        })
    );
    let addressed = |value: &Value| value["spec"]["ipNetworks"][0] == "10.244.0.2/32";
    until(&mut updates, "the addresses", |update| put(update, &key).filter(addressed)).await;

    server.terminate_pod("default", "web-0").unwrap();
    let terminating = until(&mut updates, "the terminating pod", |update| put(update, &key)).await;
    assert!(addressed(&terminating), "a terminating pod keeps its connections");
    assert!(matches!(store.delete(&written).await, Err(Error::Conflict(_))), "of an old version");
    store.delete_key(&key).await.unwrap();
    let annotations = raw(server, pod)["metadata"]["annotations"].clone();
    assert_eq!(
        (&annotations["cni.projectcalico.org/podIP"], &annotations["cni.projectcalico.org/podIPs"]),
        (&json!(""), &json!(""))
    );
    assert_eq!(annotations["cni.projectcalico.org/containerID"], "4f1c0e");
    let cleared = until(&mut updates, "the cleared endpoint", |update| put(update, &key)).await;
    assert_eq!(cleared["spec"].get("ipNetworks"), None);

    server.delete_pod("default", "web-0").unwrap();
    until(&mut updates, "the end of the pod", |update| deleted(update, &key)).await;
    assert!(matches!(store.create(&endpoint).await, Err(Error::NotFound(_))), "there is no pod to write to");
    let key = Key::namespaced(Kind::WorkloadEndpoint, "default", "node--1-k8s-elsewhere-eth0");
    assert!(matches!(store.get::<WorkloadEndpointSpec>(&key).await, Err(Error::NotFound(_))), "it is on another node");
    server.delete_pod("default", other).unwrap();
}

#[tokio::test]
async fn namespaces_and_service_accounts_are_profiles() {
    let server = &*server().await;
    let store = open(server, Group::Classic).await;
    let backend = store.backend();
    let mut updates = watch(&store, vec![(Kind::Profile, Filter::All)]);
    let builtin = Key::named(Kind::Profile, "projectcalico-default-allow");
    until(&mut updates, "the built-in profile", |update| put(update, &builtin)).await;
    in_sync(&mut updates).await;

    server.create_namespace("shop").unwrap();
    let namespace = Key::named(Kind::Profile, "kns.shop");
    let value = until(&mut updates, "the namespace", |update| put(update, &namespace)).await;
    assert_eq!(value["spec"]["labelsToApply"]["pcns.projectcalico.org/name"], "shop");
    let uid = raw(server, "/api/v1/namespaces/shop")["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(value["metadata"]["uid"].as_str(), Some(&*mirrored(&uid)));
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "till", "labels": {"team": "a"}}});
    server.request("POST", "/api/v1/namespaces/shop/serviceaccounts", &account).unwrap();
    let account = Key::named(Kind::Profile, "ksa.shop.till");
    let value = until(&mut updates, "the service account", |update| put(update, &account)).await;
    assert_eq!(value["spec"]["labelsToApply"]["pcsa.team"], "a");
    let listing = backend.list(Kind::Profile, &Filter::All).await.unwrap();
    for key in [&builtin, &namespace, &account] {
        assert!(listing.entries.iter().any(|entry| entry.key == *key), "{key}");
        assert_eq!(backend.get(key).await.unwrap().key, *key);
    }
    assert!(matches!(backend.update(&account, value, &Revision::default()).await, Err(Error::NotSupported { .. })));
    server.request("DELETE", "/api/v1/namespaces/shop/serviceaccounts/till", &Value::Null).unwrap();
    until(&mut updates, "the end of the service account", |update| deleted(update, &account)).await;
    assert!(matches!(backend.get(&account).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_nodes_affinities_are_found_with_and_without_their_labels() {
    let server = &*server().await;
    for group in GROUPS {
        let store = open(server, group).await;
        let old = Key::Affinity { owner: Owner::Host("node-8".to_owned()), cidr: cidr("10.8.0.0/26") };
        let mine = Filter::Node("node-8".to_owned());
        // As Calico wrote them before it had labels.
        let deleted_field = if group == Group::Classic { json!("false") } else { json!(false) };
        for (network, node) in [("10.8.0.0/26", "node-8"), ("10.8.1.0/26", "node-9")] {
            let name = format!("{node}-{}", calico_api::cidr_name(&cidr(network)));
            let object = json!({"apiVersion": group.api_version(), "kind": "BlockAffinity", "metadata": {"name": name},
                "spec": {"cidr": network, "node": node, "state": "confirmed", "deleted": deleted_field}});
            server.request("POST", &path(group, "blockaffinities", ""), &object).unwrap();
        }
        store.create(&affinity("10.8.2.0/26", "node-8")).await.unwrap();
        store.create(&affinity("10.8.3.0/26", "node-9")).await.unwrap();
        let found = async || {
            let list = store.list::<BlockAffinitySpec>(&mine).await.unwrap();
            let mut networks: Vec<_> = list.items.iter().map(|item| item.spec.cidr.to_string()).collect();
            networks.sort();
            networks
        };
        assert_eq!(found().await, ["10.8.0.0/26", "10.8.2.0/26"]);

        let mut updates = watch(&store, vec![(Kind::BlockAffinity, mine.clone())]);
        in_sync(&mut updates).await;
        let mut upgraded = store.get::<BlockAffinitySpec>(&old).await.unwrap();
        assert!(upgraded.metadata.labels.is_empty());
        upgraded.spec.state = AffinityState::PendingDeletion;
        let upgraded = store.update(&upgraded).await.unwrap();
        assert_eq!(upgraded.metadata.labels["projectcalico.org/ip-version"], "4", "written back, it has its labels");
        until(&mut updates, "the labelled affinity", |update| {
            assert_ne!(*update, Update::Delete(old.clone()), "it only got its labels");
            put(update, &old).filter(|value| value["spec"]["state"] == "pendingDeletion")
        })
        .await;
        assert_eq!(found().await, ["10.8.0.0/26", "10.8.2.0/26"]);
        store.delete(&upgraded).await.unwrap();
        until(&mut updates, "its end", |update| deleted(update, &old)).await;
        for (network, node) in [("10.8.1.0/26", "node-9"), ("10.8.2.0/26", "node-8"), ("10.8.3.0/26", "node-9")] {
            let key = Key::Affinity { owner: Owner::Host(node.to_owned()), cidr: cidr(network) };
            store.delete_key(&key).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_list_of_more_than_one_page_is_whole() {
    let server = &*server().await;
    let store = open(server, Group::Native).await;
    let many: Vec<_> = (0..520).map(|number| handle(&format!("many-{number:03}"))).collect();
    for some in many.chunks(40) {
        let tasks = some.iter().cloned().map(|handle| {
            let store = store.clone();
            tokio::spawn(async move { store.create(&handle).await.map(drop) })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap().unwrap();
        }
    }
    let list = store.list::<IPAMHandleSpec>(&Filter::All).await.unwrap();
    let mut found: Vec<_> = list.items.iter().map(|item| item.spec.handle_id.clone()).collect();
    found.sort();
    assert_eq!(found, many.iter().map(|handle| handle.spec.handle_id.clone()).collect::<Vec<_>>());
    let error = store.backend().watch(Kind::IPAMHandle, &Filter::All, &list.revision).await.err().expect("an error");
    assert!(matches!(error, Error::NotSupported { .. }), "{error}");
    server.request("DELETE", &path(Group::Native, "ipamhandles", ""), &Value::Null).unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_reported_and_hides_nothing() {
    let server = &*server().await;
    let store = open(server, Group::Classic).await;
    let good = store.create(&block("10.9.0.0/26", "node-9")).await.unwrap();
    let spoilt = json!({"apiVersion": Group::Classic.api_version(), "kind": "IPAMBlock", "metadata": {"name": "10-9-1-0-26"},
        "spec": {"cidr": "not a network", "allocations": [], "unallocated": [], "attributes": [], "strictAffinity": false}});
    server.request("POST", &path(Group::Classic, "ipamblocks", ""), &spoilt).unwrap();
    let key = Key::Block(cidr("10.9.1.0/26"));
    let list = store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap();
    assert!(list.items.contains(&good));
    assert!(list.faults.iter().any(|fault| fault.key == Some(key.clone())), "{:?}", list.faults);
    let error = store.get::<IPAMBlockSpec>(&key).await.unwrap_err();
    assert!(error.to_string().contains("IPAMBlock 10-9-1-0-26 in the datastore is corrupt"), "{error}");
    let mut updates = watch(&store, vec![(Kind::IPAMBlock, Filter::All)]);
    until(&mut updates, "the fault", |update| match update {
        Update::Fault(fault) => (fault.key == Some(key.clone())).then_some(()),
        _ => None,
    })
    .await;
    server.request("DELETE", &path(Group::Classic, "ipamblocks", "10-9-1-0-26"), &Value::Null).unwrap();
    until(&mut updates, "the end of the fault", |update| deleted(update, &key)).await;
    store.delete(&good).await.unwrap();
}

#[tokio::test]
async fn errors_say_what_is_wrong() {
    let server = &*server().await;
    let store = open(server, Group::Native).await;
    let backend = store.backend();
    let mut bad = serde_json::to_value(IPPool::new(ObjectMeta::named("bad"), IPPoolSpec::new("10.10.0.0/16"))).unwrap();
    bad["spec"]["ipipMode"] = json!("Sometimes");
    let error = backend.create(&Key::named(Kind::IPPool, "bad"), bad).await.unwrap_err();
    assert!(matches!(&error, Error::Rejected { reason, .. } if reason.contains("ipipMode")), "{error}");

    let error = backend.watch(Kind::IPPool, &Filter::All, &Revision("1".to_owned())).await;
    let error = match error {
        Err(error) => error,
        Ok(mut changes) => next(&mut changes).await.unwrap_err(),
    };
    assert!(matches!(error, Error::Compacted(_)), "{error}");

    let nobody = KubernetesConfig {
        api_token: Some("nobody".to_owned()),
        api_endpoint: Some(server.url()),
        insecure_skip_tls_verify: true,
        calico_api_group: Some(Group::Native.api_version().to_owned()),
        ..KubernetesConfig::default()
    };
    let nobody = Kubernetes::connect(&nobody).await.unwrap();
    let error = nobody.list(Kind::IPPool, &Filter::All).await.unwrap_err();
    assert!(error.to_string().starts_with("connection is unauthorized: "), "{error}");
}

async fn next(changes: &mut calico_datastore::Changes) -> calico_datastore::Result<calico_datastore::Change> {
    changes.next().await.expect("the watch says why it ends")
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_named_within_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // accepts by itself, and never says a word
    let url = format!("https://{}", silent.local_addr().unwrap());
    let config = KubernetesConfig {
        api_endpoint: Some(url.clone()),
        insecure_skip_tls_verify: true,
        ..KubernetesConfig::default()
    };
    let start = Instant::now();
    let error = Kubernetes::connect(&config).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(matches!(&error, Error::Unavailable { .. }) && error.to_string().contains(&url), "{error}");
    drop(silent);
    let error = Kubernetes::connect(&config).await.unwrap_err();
    assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_killed_server_is_missed_and_taken_up_again_without_a_repetition() {
    let mut server = start();
    let undecided = Kubernetes::connect(&config(&server, None)).await.unwrap();
    let error = undecided.list(Kind::IPPool, &Filter::All).await.unwrap_err();
    assert!(error.to_string().contains("manifests/crds"), "what to do is said: {error}");

    server.apply_crds(Group::Native).unwrap();
    let error = undecided.check_group().await.unwrap_err();
    assert!(error.to_string().contains("projectcalico.org/v3") && error.to_string().contains("restart"), "{error}");
    let native = Kubernetes::connect(&config(&server, None)).await.unwrap();
    assert_eq!(native.group().api_version(), Group::Native.api_version(), "it alone is served");

    let store = Store::new(native);
    let pool = |name: &str, range: &str| IPPool::new(ObjectMeta::named(name), IPPoolSpec::new(range));
    let key = |name: &str| Key::named(Kind::IPPool, name);
    store.create(&pool("first", "10.11.0.0/16")).await.unwrap();
    store.create(&pool("second", "10.12.0.0/16")).await.unwrap();
    let mut updates = watch(&store, vec![(Kind::IPPool, Filter::All)]);
    in_sync(&mut updates).await;

    server.kill().unwrap();
    let reason = until(&mut updates, "the loss", |update| match update {
        Update::Trouble(Some(reason)) => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.await.contains(&server.url()));
    let start = Instant::now();
    let error = store.get::<IPPoolSpec>(&key("first")).await.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains(&server.url()), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    server.restart().unwrap();
    store.delete_key(&key("second")).await.unwrap();
    store.create(&pool("third", "10.13.0.0/16")).await.unwrap();
    let mut seen = Vec::new();
    until(&mut updates, "what happened since", |update| {
        match update {
            Update::Put(entry) => seen.push(format!("put {}", entry.key.name())),
            Update::Delete(key) => seen.push(format!("delete {}", key.name())),
            _ => {}
        }
        (seen.len() == 2).then_some(())
    })
    .await;
    seen.sort();
    assert_eq!(seen, ["delete second", "put third"], "only differences");

    server.apply_crds(Group::Classic).unwrap();
    let both = Kubernetes::connect(&config(&server, None)).await.unwrap();
    assert_eq!(both.group().api_version(), Group::Classic.api_version(), "during a migration it still counts");
}

#[tokio::test]
async fn with_pod_cidrs_there_are_no_records_of_ipam() {
    let server = &*server().await;
    let config = KubernetesConfig { use_pod_cidr: true, ..config(server, Some(Group::Classic)) };
    let backend = Kubernetes::connect(&config).await.unwrap();
    let error = backend.list(Kind::IPAMBlock, &Filter::All).await.unwrap_err();
    assert!(matches!(&error, Error::NotSupported { .. }) && error.to_string().contains("usePodCIDR"), "{error}");
    backend.list(Kind::IPPool, &Filter::All).await.unwrap();
}

#[test]
fn a_server_in_a_network_namespace_is_reached_from_there_and_driven_from_here() {
    let script = "ip link add seg0 type bridge\nip addr add 10.0.0.1/16 dev seg0\nip link set seg0 up";
    let holder = Holder::new("the segment", script).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let listen = Listen { address: "10.0.0.1".parse().unwrap(), port: Some(6443) };
    let server = ApiServer::start(listen, Some(&holder), Some(directory.path())).unwrap();
    assert_eq!(server.url(), "https://10.0.0.1:6443");
    server.create_node("node-1").unwrap();
    server.create_pod("default", "web-0", "node-1").unwrap();

    let inside = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(&server, Group::Classic).await;
            let node = store.get::<calico_api::NodeSpec>(&Key::named(Kind::Node, "node-1")).await.unwrap();
            let mine = Filter::Node("node-1".to_owned());
            (node.name().to_owned(), store.list::<WorkloadEndpointSpec>(&mine).await.unwrap().items.len())
        })
    };
    let seen = calico_sys::namespace::inside(holder.network().unwrap(), inside).unwrap();
    assert_eq!(seen, ("node-1".to_owned(), 1));
}

/// Makes an object of Kubernetes' own, behind the store's back.
fn make(server: &ApiServer, path: &str, object: &Value) {
    server.request("POST", path, object).unwrap();
}

#[tokio::test]
async fn kubernetes_own_kinds_are_read_and_watched_and_not_written() {
    let server = &*server().await;
    server.create_namespace("default").unwrap();
    let store = open(server, Group::Classic).await;
    let kinds = [Kind::Secret, Kind::Service, Kind::EndpointSlice];
    let mut updates = watch(&store, kinds.map(|kind| (kind, Filter::All)).to_vec());
    in_sync(&mut updates).await;
    let metadata = |name: &str| json!({"name": name, "namespace": "default"});
    make(
        server,
        "/api/v1/namespaces/default/services",
        &json!({"metadata": metadata("web"), "spec":
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.8"], "ports": [{"port": 80}]}}),
    );
    let mut slice = json!({"metadata": metadata("web-1"), "addressType": "IPv4", "ports": [],
        "endpoints": [{"addresses": ["10.244.0.1"], "conditions": {"ready": true}, "nodeName": "node-1"}]});
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
    make(server, "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice);
    let mut secret = json!({"metadata": metadata("bgp"), "stringData": {"rack": "hunter2"}});
    let copy = json!({"kubectl.kubernetes.io/last-applied-configuration": "{\"stringData\":{\"rack\":\"hunter2\"}}"});
    secret["metadata"]["annotations"] = copy;
    make(server, "/api/v1/namespaces/default/secrets", &secret);

    let key = |kind: Kind, name: &str| Key::namespaced(kind, "default", name);
    let keys = [key(Kind::Secret, "bgp"), key(Kind::Service, "web"), key(Kind::EndpointSlice, "web-1")];
    let mut missing = keys.to_vec();
    until(&mut updates, "the three objects", |update| {
        missing.retain(|key| put(update, key).is_none());
        missing.is_empty().then_some(())
    })
    .await;

    let service = store.get::<calico_api::ServiceSpec>(&keys[1]).await.unwrap();
    assert!(service.spec.cluster_addresses().next().is_some_and(|address| address.starts_with("10.96.")));
    assert_eq!(
        (service.spec.external_traffic_policy.as_deref(), &*service.spec.external_ips),
        (Some("Local"), &["192.0.2.8".to_owned()][..])
    );
    let mut object = raw(server, "/api/v1/namespaces/default/services/web");
    object["status"]["loadBalancer"] = json!({"ingress": [{"ip": "192.0.2.9"}]});
    server.request("PUT", "/api/v1/namespaces/default/services/web/status", &object).unwrap();
    let balanced = until(&mut updates, "the balancer's address", |update| {
        put(update, &keys[1]).filter(|value| value["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.9")
    });
    balanced.await;
    let slices = store.list::<calico_api::EndpointSliceSpec>(&Filter::Namespace("default".to_owned())).await.unwrap();
    let slice = slices.items.iter().find(|slice| slice.name() == "web-1").unwrap();
    assert_eq!((slice.service_name(), slice.spec.endpoints[0].node_name.as_deref()), (Some("web"), Some("node-1")));
    let secret = store.get::<calico_api::SecretSpec>(&keys[0]).await.unwrap();
    assert_eq!(secret.spec.value("rack"), Ok(Some(b"hunter2".to_vec())));
    let entry = store.backend().get(&keys[0]).await.unwrap();
    assert!(!entry.value["metadata"].to_string().contains("hunter2") && !format!("{entry:?}").contains("aHVu"));

    for (key, word) in keys.iter().zip(["secrets", "services", "endpointslices"]) {
        let value = store.backend().get(key).await.unwrap();
        let refused = [
            store.backend().create(key, value.value.clone()).await,
            store.backend().update(key, value.value.clone(), &value.revision).await,
            store.backend().delete(key, None).await,
        ];
        for refusal in refused {
            let text = refusal.unwrap_err().to_string();
            assert!(text.contains("kubectl") && text.contains(word), "{text}");
        }
        assert!(!store.backend().list(key.kind(), &Filter::named(key)).await.unwrap().entries.is_empty());
    }
    server.request("DELETE", "/api/v1/namespaces/default/secrets/bgp", &Value::Null).unwrap();
    until(&mut updates, "the secret's end", |update| deleted(update, &keys[0])).await;
}

#[tokio::test]
async fn a_role_for_one_secret_is_enough_to_follow_it() {
    let server = &*server().await;
    server.create_namespace("kube-system").unwrap();
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["bgp-rack"], "verbs": ["get", "list", "watch"]}]);
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system";
    make(server, &format!("{roles}/roles"), &json!({"metadata": {"name": "one-secret"}, "rules": rules}));
    let binding = json!({"metadata": {"name": "one-secret"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "one-secret"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "speaker"}]});
    make(server, &format!("{roles}/rolebindings"), &binding);

    let kubeconfig = std::fs::read_to_string(server.kubeconfig()).unwrap();
    let config = KubernetesConfig {
        kubeconfig_inline: Some(kubeconfig.replace("  user:\n    client", "  user:\n    as: speaker\n    client")),
        ..config(server, Some(Group::Classic))
    };
    let store = Store::new(Kubernetes::connect(&config).await.unwrap());
    let all = store.backend().list(Kind::Secret, &Filter::Namespace("kube-system".to_owned())).await;
    assert!(matches!(all, Err(Error::Unauthorized(_))), "the role is as narrow as it is meant to be: {all:?}");

    let key = Key::namespaced(Kind::Secret, "kube-system", "bgp-rack");
    let mut updates = watch(&store, vec![(Kind::Secret, Filter::named(&key))]);
    // A role may take a moment to be known to the server; until then it is a trouble.
    in_sync(&mut updates).await;
    let path = "/api/v1/namespaces/kube-system/secrets";
    make(server, path, &json!({"metadata": {"name": "bgp-other"}, "stringData": {"rack": "no"}}));
    make(server, path, &json!({"metadata": {"name": "bgp-rack"}, "stringData": {"rack": "hunter2"}}));
    let value = until(&mut updates, "the secret", |update| put(update, &key)).await;
    assert_eq!(value["data"]["rack"], json!("aHVudGVyMg=="));
    server.request("DELETE", &format!("{path}/bgp-rack"), &Value::Null).unwrap();
    until(&mut updates, "its end", |update| deleted(update, &key)).await;
}

/// Removes the definition of a kind, and waits until it is gone.
async fn undefine(server: &ApiServer, plural: &str) {
    let definition = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.crd.projectcalico.org");
    server.request("DELETE", &definition, &Value::Null).unwrap();
    let end = Instant::now() + PATIENCE;
    while exists(server, &definition) || exists(server, &format!("/apis/crd.projectcalico.org/v1/{plural}")) {
        assert!(Instant::now() < end, "{plural} is still defined");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_kind_that_the_cluster_lacks_is_empty_and_what_leaves_for_the_other_group_is_not_deleted() {
    let server = start();
    server.apply_crds(Group::Classic).unwrap();
    undefine(&server, "bgpfilters").await;
    let store = Store::new(Kubernetes::connect(&config(&server, None)).await.unwrap());
    let error = store.backend().list(Kind::BGPFilter, &Filter::All).await.unwrap_err();
    assert!(matches!(&error, Error::NotServed { .. }) && error.is_temporary(), "{error:?}");
    in_sync(&mut watch(&store, vec![(Kind::BGPFilter, Filter::All), (Kind::IPPool, Filter::All)])).await;
    let pool = IPPool::new(ObjectMeta::named("first"), IPPoolSpec::new("10.11.0.0/16"));
    store.create(&pool).await.unwrap();

    // The cluster migrates: both groups are served, and everything is copied.
    server.apply_crds(Group::Native).unwrap();
    let copy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "first" },
        "spec": { "cidr": "10.11.0.0/16" },
    });
    server.request("POST", "/apis/projectcalico.org/v3/ippools", &copy).unwrap();
    let store = Store::new(Kubernetes::connect(&config(&server, None)).await.unwrap());
    let mut updates = watch(&store, vec![(Kind::IPPool, Filter::All)]);
    in_sync(&mut updates).await;
    undefine(&server, "ippools").await;
    let mut deleted = false;
    let mut trouble = async |words: &str| {
        until(&mut updates, words, |update| {
            deleted |= matches!(update, Update::Delete(_));
            matches!(update, Update::Trouble(Some(reason)) if reason.contains(words)).then_some(())
        })
        .await;
    };
    trouble("restart this process").await;
    trouble("serves no ippools").await;
    assert!(!deleted, "the end of the definition is not the end of the pools");
}
