//! How are IPAM's records stored, and deleted?

use super::*;

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
async fn with_pod_cidrs_there_are_no_records_of_ipam() {
    let server = &*server().await;
    let config = KubernetesConfig { use_pod_cidr: true, ..config(server, Some(Group::Classic)) };
    let backend = Kubernetes::connect(&config).await.unwrap();
    let error = backend.list(Kind::IPAMBlock, &Filter::All).await.unwrap_err();
    assert!(matches!(&error, Error::NotSupported { .. }) && error.to_string().contains("usePodCIDR"), "{error}");
    backend.list(Kind::IPPool, &Filter::All).await.unwrap();
}
