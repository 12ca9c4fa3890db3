//! What do lists hold that are long, filtered, or partly unreadable?

use super::*;

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
    let parts = store.backend().parts(Kind::IPAMHandle, &Filter::All).await.unwrap();
    let parts: Vec<_> = parts.map(Result::unwrap).collect().await;
    assert_eq!(parts.iter().map(|part| part.entries.len()).collect::<Vec<_>>(), [500, 20]);
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
