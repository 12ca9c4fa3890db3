//! Create, read, update, delete, and who wins.

use calico_api::{CalicoNodeStatusSpec, IPPool, IPPoolSpec, Key, Kind, ObjectMeta, Owner, TierSpec};
use calico_datastore::{Entry, Error, Filter, Revision, Write, ensure_initialized};
use serde_json::{Value, json};

use super::Subject;
use super::samples::{NAMESPACE, affinity, cidr, sample};

/// Whether everything in `written` is in `read` too; a server may have filled in defaults.
#[track_caller]
fn assert_holds(read: &Value, written: &Value) {
    fn holds(read: &Value, written: &Value) -> bool {
        match (read, written) {
            (Value::Object(read), Value::Object(written)) => {
                written.iter().all(|(field, value)| read.get(field).is_some_and(|found| holds(found, value)))
            }
            // A schema may make a float of an integer.
            (Value::Number(read), Value::Number(written)) => read == written || read.as_f64() == written.as_f64(),
            (read, written) => read == written,
        }
    }
    for (part, written) in written.as_object().expect("a resource").iter().filter(|(part, _)| *part != "metadata") {
        assert!(holds(&read[part], written), "{part}\n read    {}\n written {written}", read[part]);
    }
    assert_eq!(read["metadata"]["name"], written["metadata"]["name"]);
    assert_eq!(read["metadata"]["namespace"], written["metadata"]["namespace"]);
}

#[track_caller]
fn assert_stamped(entry: &Entry) {
    assert!(!entry.revision.0.is_empty());
    assert_eq!(entry.value["metadata"]["resourceVersion"], json!(entry.revision.0));
}

/// Removes what an earlier check, or the store's own beginning, left under a key.
async fn clear(subject: &impl Subject, key: &Key) {
    match subject.store().backend().delete(key, None).await {
        Ok(_) | Err(Error::NotFound(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The whole life of a resource of each kind.
pub async fn every_kind_is_created_read_listed_updated_and_deleted(subject: &impl Subject) {
    let backend = subject.store().backend();
    for kind in Kind::every().filter(|kind| subject.makes(*kind)) {
        let sample = sample(kind, "crud", 1);
        clear(subject, &sample.key).await;

        let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
        assert_holds(&created.value, &sample.first);
        assert_stamped(&created);
        let read = backend.get(&sample.key).await.unwrap();
        assert_eq!(read.revision, created.revision, "{kind}");
        assert_holds(&read.value, &sample.first);

        let listing = backend.list(kind, &Filter::All).await.unwrap();
        let listed = listing.entries.iter().find(|entry| entry.key == sample.key);
        assert_eq!(listed, Some(&read), "{kind}");
        assert_eq!(listing.faults, []);

        let updated = backend.update(&sample.key, sample.second.clone(), &read.revision).await.unwrap();
        assert_ne!(updated.revision, created.revision, "{kind}");
        assert_stamped(&updated);
        let read = backend.get(&sample.key).await.unwrap();
        assert_holds(&read.value, &sample.second);
        assert_eq!(read.revision, updated.revision, "{kind}");
        for field in ["uid", "creationTimestamp"] {
            assert_eq!(read.value["metadata"][field], created.value["metadata"][field], "{kind}: {field}");
        }

        let deleted = backend.delete(&sample.key, Some(&updated.revision)).await.unwrap();
        assert_eq!(deleted.key, sample.key);
        assert!(matches!(backend.get(&sample.key).await, Err(Error::NotFound(key)) if key == sample.key));
        let listing = backend.list(kind, &Filter::All).await.unwrap();
        assert!(listing.entries.iter().all(|entry| entry.key != sample.key), "{kind}");

        // What was deleted leaves no trace that hinders.
        let again = backend.create(&sample.key, sample.first.clone()).await.unwrap();
        assert_ne!(again.revision, created.revision);
        backend.delete(&sample.key, None).await.unwrap();
    }
}

/// Creation is exclusive.
pub async fn what_exists_is_not_created_again(subject: &impl Subject) {
    let backend = subject.store().backend();
    for kind in [Kind::IPPool, Kind::IPAMBlock, Kind::BlockAffinity, Kind::IPAMHandle, Kind::NetworkSet] {
        let sample = sample(kind, "twice", 1);
        let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
        let again = backend.create(&sample.key, sample.second.clone()).await;
        assert!(matches!(again, Err(Error::AlreadyExists(key)) if key == sample.key), "{kind}");
        assert_eq!(backend.get(&sample.key).await.unwrap().revision, created.revision);
        backend.delete(&sample.key, None).await.unwrap();
    }
}

/// Writes that belong together are made together: where the store can, all or none; elsewhere in their order.
pub async fn a_commit_makes_its_writes_and_names_the_one_that_fails(subject: &impl Subject) {
    let backend = subject.store().backend();
    let kinds = [Kind::IPAMHandle, Kind::IPAMBlock, Kind::IPPool];
    let [handle, block, pool] = kinds.map(|kind| sample(kind, "commit", 1));
    for sample in [&handle, &block, &pool] {
        clear(subject, &sample.key).await;
    }
    let create = |sample: &super::Sample| Write::Create { key: sample.key.clone(), value: sample.first.clone() };
    let revisions = backend.commit(vec![create(&block), create(&pool)]).await.unwrap();
    for (sample, revision) in [&block, &pool].into_iter().zip(&revisions) {
        let read = backend.get(&sample.key).await.unwrap();
        assert_holds(&read.value, &sample.first);
        assert_eq!(read.revision, *revision);
    }

    let update = |sample: &super::Sample, revision: &Revision| Write::Update {
        key: sample.key.clone(),
        value: sample.second.clone(),
        revision: revision.clone(),
    };
    let delete = |key: &Key, revision: &Revision| Write::Delete { key: key.clone(), revision: revision.clone() };
    // A creation, a replacement and a deletion; the middle one at a revision that is not its own.
    let stale = vec![create(&handle), update(&block, &Revision("1".to_owned())), delete(&pool.key, &revisions[1])];
    let failed = backend.commit(stale).await.unwrap_err();
    assert!(matches!(&failed, Error::Conflict(key) if *key == block.key), "{failed}");
    assert_eq!(backend.get(&block.key).await.unwrap().revision, revisions[0], "the one that failed");
    assert_eq!(backend.get(&pool.key).await.unwrap().revision, revisions[1], "what comes after it");
    match backend.get(&handle.key).await {
        Err(Error::NotFound(_)) => {}
        Ok(_) if !backend.is_atomic() => clear(subject, &handle.key).await,
        other => panic!("all or none: {other:?}"),
    }
    let good = vec![create(&handle), update(&block, &revisions[0]), delete(&pool.key, &revisions[1])];
    let done = backend.commit(good).await.unwrap();
    assert_eq!(done[2], revisions[1], "what was deleted");
    let read = backend.get(&block.key).await.unwrap();
    assert_eq!(read.revision, done[1]);
    assert_holds(&read.value, &block.second);
    assert_eq!(backend.get(&handle.key).await.unwrap().revision, done[0]);

    let again = backend.commit(vec![update(&block, &done[1]), create(&handle)]).await.unwrap_err();
    assert!(matches!(&again, Error::AlreadyExists(key) if *key == handle.key), "{again}");
    let absent = backend.commit(vec![delete(&pool.key, &revisions[1])]).await.unwrap_err();
    assert!(matches!(&absent, Error::NotFound(key) if *key == pool.key), "{absent}");
    assert_eq!(backend.commit(Vec::new()).await.unwrap(), []);
    clear(subject, &handle.key).await;
    clear(subject, &block.key).await;
}

/// Every operation says that there is nothing.
pub async fn what_is_absent_is_neither_read_updated_nor_deleted(subject: &impl Subject) {
    let backend = subject.store().backend();
    for kind in [Kind::IPPool, Kind::IPAMBlock, Kind::BlockAffinity, Kind::IPAMHandle, Kind::NetworkSet] {
        let sample = sample(kind, "absent", 1);
        let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
        backend.delete(&sample.key, Some(&created.revision)).await.unwrap();

        let expected = |error: Error| matches!(error, Error::NotFound(key) if key == sample.key);
        assert!(expected(backend.get(&sample.key).await.unwrap_err()), "{kind}");
        let update = backend.update(&sample.key, sample.second.clone(), &created.revision).await;
        assert!(expected(update.unwrap_err()), "{kind}");
        assert!(expected(backend.delete(&sample.key, None).await.unwrap_err()), "{kind}");
        assert!(expected(backend.delete(&sample.key, Some(&created.revision)).await.unwrap_err()), "{kind}");
    }
}

/// Compare and swap: of updates to one revision exactly one happens, the others conflict.
pub async fn of_several_writers_of_one_revision_one_wins(subject: &impl Subject) {
    const WRITERS: u64 = 8;
    let backend = subject.store().backend();
    let sample = sample(Kind::IPAMBlock, "race", 1);
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (backend, sample) = (backend.clone(), sample.clone());
        writers.spawn(async move { backend.create(&sample.key, sample.first).await });
    }
    let created = winner(writers.join_all().await, |error| matches!(error, Error::AlreadyExists(_)));

    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (backend, key, mut value) = (backend.clone(), sample.key.clone(), sample.second.clone());
        let revision = created.revision.clone();
        value["spec"]["sequenceNumber"] = json!(100 + writer);
        writers.spawn(async move { backend.update(&key, value, &revision).await });
    }
    let updated = winner(writers.join_all().await, |error| matches!(error, Error::Conflict(_)));
    let read = backend.get(&sample.key).await.unwrap();
    assert_eq!(read.revision, updated.revision);
    assert_eq!(read.value["spec"]["sequenceNumber"], updated.value["spec"]["sequenceNumber"]);
    let stale = backend.update(&sample.key, sample.second.clone(), &Revision("1".to_owned())).await;
    assert!(matches!(stale, Err(Error::Conflict(_))), "a revision that never was");
    backend.delete(&sample.key, None).await.unwrap();
}

/// The one that succeeded; all others must have failed as `expected`.
fn winner(results: Vec<Result<Entry, Error>>, expected: impl Fn(&Error) -> bool) -> Entry {
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    for error in lost.into_iter().filter_map(Result::err) {
        assert!(expected(&error), "{error}");
    }
    let mut won: Vec<_> = won.into_iter().flatten().collect();
    assert_eq!(won.len(), 1, "one wins");
    won.remove(0)
}

/// Compare and delete.
pub async fn a_delete_of_an_old_revision_deletes_nothing(subject: &impl Subject) {
    let backend = subject.store().backend();
    for kind in [Kind::IPPool, Kind::IPAMBlock, Kind::BlockAffinity, Kind::IPAMHandle] {
        let sample = sample(kind, "stale", 1);
        let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
        let updated = backend.update(&sample.key, sample.second.clone(), &created.revision).await.unwrap();
        let stale = backend.delete(&sample.key, Some(&created.revision)).await;
        assert!(matches!(stale, Err(Error::Conflict(key)) if key == sample.key), "{kind}");
        let read = backend.get(&sample.key).await.unwrap();
        assert_eq!(read.revision, updated.revision, "{kind}");
        assert_holds(&read.value, &sample.second);
        backend.delete(&sample.key, Some(&updated.revision)).await.unwrap();
    }
}

/// The status arrives, and takes nothing of the spec with it.
pub async fn a_status_is_written_beside_the_spec(subject: &impl Subject) {
    let backend = subject.store().backend();
    let sample = sample(Kind::CalicoNodeStatus, "status", 1);
    let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
    let status = json!({
        "lastUpdated": "2026-08-22T13:00:00Z",
        "agent": {
            "birdV4": {"state": "Ready", "version": "v1", "routerID": "192.0.2.1",
                "lastBootTime": "2026-08-22 12:00:00", "lastReconfigurationTime": "2026-08-22 12:30:00"},
            "birdV6": {"state": "NotReady"},
        },
        "bgp": {
            "numberEstablishedV4": 1, "numberNotEstablishedV4": 0, "numberEstablishedV6": 0, "numberNotEstablishedV6": 1,
            "peersV4": [{"peerIP": "192.0.2.2", "type": "NodeMesh", "state": "Established", "since": "12:00:07"}],
            "peersV6": [{"peerIP": "fd00::2", "type": "GlobalPeer", "since": "2026-08-20"}],
        },
        "routes": {
            "routesV4": [{"type": "FIB", "destination": "10.244.1.0/26", "gateway": "192.0.2.2", "interface": "eth0",
                "learnedFrom": {"sourceType": "NodeMesh", "peerIP": "192.0.2.2"}}],
            "routesV6": [{"type": "RIB", "destination": "fd00:1::/122", "gateway": "N/A", "interface": "blackhole",
                "learnedFrom": {"sourceType": "Static"}}],
        },
        // Ours alone.
        "conditions": [{"type": "ResourcesValid", "status": "False", "reason": "BadFilter", "message": "no such word",
            "lastTransitionTime": "2026-08-22T13:00:00Z"}],
    });
    let mut resource = subject.store().get::<CalicoNodeStatusSpec>(&sample.key).await.unwrap();
    resource.status = Some(serde_json::from_value(status.clone()).unwrap());
    let written = subject.store().update_status(&resource).await.unwrap();
    assert_ne!(written.metadata.resource_version, Some(created.revision.0));
    let read = backend.get(&sample.key).await.unwrap();
    assert_eq!(read.value["status"], status, "all of it, our own field too");
    assert_holds(&read.value, &sample.first);
    // A second report replaces the first.
    let mut written = written;
    written.status.as_mut().unwrap().conditions.clear();
    let written = subject.store().update_status(&written).await.unwrap();
    assert_eq!(written.status.unwrap().conditions, []);
    backend.delete(&sample.key, None).await.unwrap();
}

/// Types in, types out.
pub async fn typed_resources_come_back_as_they_were(subject: &impl Subject) {
    let store = subject.store();
    let sample = sample(Kind::IPPool, "typed", 1);
    let spec: IPPoolSpec = serde_json::from_value(sample.first["spec"].clone()).unwrap();
    let metadata = ObjectMeta {
        labels: [("team".to_owned(), "red".to_owned())].into(),
        annotations: [("note".to_owned(), "two\nlines".to_owned())].into(),
        ..ObjectMeta::named(sample.key.name())
    };
    let mut pool = store.create(&IPPool::new(metadata.clone(), spec)).await.unwrap();
    assert_eq!(pool.metadata.labels, metadata.labels);
    assert_eq!(pool.metadata.annotations, metadata.annotations);
    assert_eq!(store.get::<IPPoolSpec>(&sample.key).await.unwrap(), pool);
    pool.metadata.labels.insert("team".to_owned(), "blue".to_owned());
    let updated = store.update(&pool).await.unwrap();
    assert_eq!(updated.metadata.labels.get("team").map(String::as_str), Some("blue"));
    assert!(matches!(store.update(&pool).await, Err(Error::Conflict(_))));
    let listed = store.list::<IPPoolSpec>(&Filter::All).await.unwrap().items;
    assert!(listed.contains(&updated));
    assert!(matches!(store.delete(&pool).await, Err(Error::Conflict(_))));
    store.delete(&updated).await.unwrap();
}

/// A node's affinities are its own, whatever other nodes are called.
pub async fn lists_are_filtered_by_node_and_by_namespace(subject: &impl Subject) {
    let backend = subject.store().backend();
    let owners = ["filter-1", "filter", "filter-10"].map(|node| Owner::Host(node.to_owned()));
    let mut keys = Vec::new();
    for (number, owner) in owners.into_iter().chain([Owner::Virtual("filter-lb".to_owned())]).enumerate() {
        let (key, value) = affinity(owner, cidr("filter", u8::try_from(number).expect("four")), "confirmed");
        backend.create(&key, value).await.unwrap();
        keys.push(key);
    }
    let list = async |filter: Filter| -> Vec<Key> {
        let listing = backend.list(Kind::BlockAffinity, &filter).await.unwrap();
        listing.entries.into_iter().map(|entry| entry.key).filter(|key| keys.contains(key)).collect()
    };
    assert_eq!(list(Filter::Node("filter-1".to_owned())).await, keys[0..1]);
    assert_eq!(list(Filter::Node("filter".to_owned())).await, keys[1..2]);
    assert_eq!(list(Filter::Node("filter-lb".to_owned())).await, [], "a virtual owner is no node");
    assert_eq!(list(Filter::All).await.len(), 4);
    for key in &keys {
        backend.delete(key, None).await.unwrap();
    }

    let set = sample(Kind::NetworkSet, "filter", 1);
    backend.create(&set.key, set.first).await.unwrap();
    let here = backend.list(Kind::NetworkSet, &Filter::Namespace(NAMESPACE.to_owned())).await.unwrap();
    assert!(here.entries.iter().any(|entry| entry.key == set.key));
    let elsewhere = backend.list(Kind::NetworkSet, &Filter::Namespace("kube-system".to_owned())).await.unwrap();
    assert!(elsewhere.entries.iter().all(|entry| entry.key != set.key));
    backend.delete(&set.key, None).await.unwrap();
    let senseless = backend.list(Kind::IPPool, &Filter::Namespace(NAMESPACE.to_owned())).await;
    assert!(matches!(senseless, Err(Error::NotSupported { .. })));
}

/// One name is one resource, whatever others are called.
pub async fn a_list_of_one_name_has_no_other(subject: &impl Subject) {
    let backend = subject.store().backend();
    let kinds = [Kind::BGPPeer, Kind::NetworkSet, Kind::GlobalNetworkPolicy, Kind::Secret];
    for kind in kinds.into_iter().filter(|kind| subject.makes(*kind)) {
        // "named-1" is how "named-10" begins.
        let samples = [1, 10].map(|number| sample(kind, "named", number));
        for sample in &samples {
            backend.create(&sample.key, sample.first.clone()).await.unwrap();
        }
        let filter = Filter::named(&samples[0].key);
        let listing = backend.list(kind, &filter).await.unwrap();
        assert_eq!(listing.entries.iter().map(|entry| &entry.key).collect::<Vec<_>>(), [&samples[0].key], "{kind}");
        for sample in &samples {
            backend.delete(&sample.key, None).await.unwrap();
        }
        assert_eq!(backend.list(kind, &filter).await.unwrap().entries, [], "{kind}");
    }
    let senseless = [(Kind::IPAMBlock, None), (Kind::BGPPeer, Some(NAMESPACE.to_owned())), (Kind::Secret, None)];
    for (kind, namespace) in senseless {
        let filter = Filter::Named { namespace, name: "a".to_owned() };
        assert!(matches!(backend.list(kind, &filter).await, Err(Error::NotSupported { .. })), "{kind}");
    }
}

/// Initialization is idempotent.
pub async fn an_initialized_store_stays_as_it_is(subject: &impl Subject) {
    let store = subject.store();
    ensure_initialized(store).await.unwrap();
    let key = Key::named(Kind::ClusterInformation, "default");
    let first = store.backend().get(&key).await.unwrap();
    assert_eq!(first.value["spec"]["datastoreReady"], json!(true));
    assert_eq!(first.value["spec"]["clusterGUID"].as_str().map(str::len), Some(32));
    let tiers = async || {
        let list = store.list::<TierSpec>(&Filter::All).await.unwrap();
        list.items
            .into_iter()
            .filter(|tier| TierSpec::BUILT_IN.iter().any(|built_in| built_in.0 == tier.name()))
            .collect::<Vec<_>>()
    };
    let before = tiers().await;
    for (name, order, action) in TierSpec::BUILT_IN {
        let tier = before.iter().find(|tier| tier.name() == name).expect("it is there");
        assert_eq!((tier.spec.order, tier.spec.default_action), (Some(order), Some(action)));
    }
    ensure_initialized(store).await.unwrap();
    assert_eq!(store.backend().get(&key).await.unwrap(), first);
    assert_eq!(tiers().await, before);
}
