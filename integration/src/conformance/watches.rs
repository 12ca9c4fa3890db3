//! Watches: raw ones of one connection, and watchers that outlive it.

use calico_api::{Key, Kind, Owner};
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Change, Changes, Entry, Error, Filter, Revision};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::samples::{affinity, cidr, sample};
use super::{PATIENCE, Subject};

/// The next change of one of `keys`.
async fn change_of(changes: &mut Changes, keys: &[Key]) -> Change {
    let wanted = async {
        loop {
            let change = changes.next().await.expect("the watch goes on").expect("the watch works");
            let ours = match &change {
                Change::Put(entry) => keys.contains(&entry.key),
                Change::Delete { key, .. } => keys.contains(key),
                Change::Fault(_) | Change::Bookmark(_) => false,
            };
            if ours {
                return change;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wanted).await.expect("the change is seen in time")
}

/// The next update that concerns one of `keys`, or everything.
async fn update_of(updates: &mut mpsc::Receiver<Update>, keys: &[Key]) -> Update {
    let wanted = async {
        loop {
            let update = updates.recv().await.expect("the watcher goes on");
            let ours = match &update {
                Update::Put(entry) => keys.contains(&entry.key),
                Update::Delete(key) => keys.contains(key),
                Update::Fault(fault) => fault.key.as_ref().is_some_and(|key| keys.contains(key)),
                Update::InSync | Update::Trouble(_) => true,
            };
            if ours {
                return update;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wanted).await.expect("the update is seen in time")
}

/// As [`update_of`], which the other checks use too, without what concerns everything.
pub(super) async fn plain_update_of(updates: &mut mpsc::Receiver<Update>, keys: &[Key]) -> Update {
    loop {
        match update_of(updates, keys).await {
            Update::InSync | Update::Trouble(_) => {}
            update => return update,
        }
    }
}

/// Waits until a watcher has all there was.
pub(super) async fn until_in_sync(updates: &mut mpsc::Receiver<Update>, keys: &[Key]) -> Vec<Update> {
    let mut seen = Vec::new();
    loop {
        match update_of(updates, keys).await {
            Update::InSync => return seen,
            update => seen.push(update),
        }
    }
}

#[track_caller]
fn assert_put(change: &Change, entry: &Entry) {
    match change {
        Change::Put(put) => {
            assert_eq!((&put.key, &put.revision), (&entry.key, &entry.revision));
            assert_eq!(put.value["spec"], entry.value["spec"]);
        }
        other => panic!("{other:?}"),
    }
}

/// One object's life, as a watch shows it, for each sort of key.
pub async fn a_watch_shows_creation_update_and_deletion_in_order(subject: &impl Subject) {
    let backend = subject.store().backend();
    let kinds = [Kind::IPPool, Kind::NetworkSet, Kind::IPAMBlock, Kind::BlockAffinity, Kind::IPAMHandle];
    for kind in kinds.into_iter().filter(|kind| subject.watches(*kind)) {
        let sample = sample(kind, "order", 1);
        let keys = [sample.key.clone()];
        let from = backend.list(kind, &Filter::All).await.unwrap().revision;
        let mut live = backend.watch(kind, &Filter::All, &from).await.unwrap();

        let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
        assert_put(&change_of(&mut live, &keys).await, &created);
        let updated = backend.update(&sample.key, sample.second.clone(), &created.revision).await.unwrap();
        assert_put(&change_of(&mut live, &keys).await, &updated);
        backend.delete(&sample.key, Some(&updated.revision)).await.unwrap();

        // A compare-and-delete may show as an update first, where it takes two writes; never as anything else.
        let gone = |change: &Change| matches!(change, Change::Delete { key, .. } if *key == sample.key);
        assert!(gone(&change_of(&mut live, &keys).await), "{kind}");

        // Somebody who comes later sees the same.
        let mut late = backend.watch(kind, &Filter::All, &from).await.unwrap();
        assert_put(&change_of(&mut late, &keys).await, &created);
        assert_put(&change_of(&mut late, &keys).await, &updated);
        assert!(gone(&change_of(&mut late, &keys).await), "{kind}");
    }
}

/// Where one watch ended, the next begins.
pub async fn a_watch_continues_from_the_revision_of_any_change(subject: &impl Subject) {
    let backend = subject.store().backend();
    let sample = sample(Kind::IPPool, "continue", 1);
    let keys = [sample.key.clone()];
    let from = backend.list(Kind::IPPool, &Filter::All).await.unwrap().revision;
    let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
    let updated = backend.update(&sample.key, sample.second.clone(), &created.revision).await.unwrap();
    backend.delete(&sample.key, Some(&updated.revision)).await.unwrap();
    let again = backend.create(&sample.key, sample.first.clone()).await.unwrap();

    let mut revisions: Vec<Revision> = Vec::new();
    let mut changes = backend.watch(Kind::IPPool, &Filter::All, &from).await.unwrap();
    for _ in 0..4 {
        revisions.push(match change_of(&mut changes, &keys).await {
            Change::Put(entry) => entry.revision,
            Change::Delete { revision, .. } => revision,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(revisions[0], created.revision);
    assert_eq!(revisions[3], again.revision);

    let mut after_creation = backend.watch(Kind::IPPool, &Filter::All, &revisions[0]).await.unwrap();
    assert_put(&change_of(&mut after_creation, &keys).await, &updated);
    let mut after_deletion = backend.watch(Kind::IPPool, &Filter::All, &revisions[2]).await.unwrap();
    assert_put(&change_of(&mut after_deletion, &keys).await, &again);
    backend.delete(&sample.key, None).await.unwrap();
}

/// A node sees its own affinities, and not those of a node whose name begins alike.
pub async fn a_watch_is_filtered_as_a_list_is(subject: &impl Subject) {
    let backend = subject.store().backend();
    let filter = Filter::Node("sieve-1".to_owned());
    let from = backend.list(Kind::BlockAffinity, &filter).await.unwrap().revision;
    let mut changes = backend.watch(Kind::BlockAffinity, &filter, &from).await.unwrap();
    let mut keys = Vec::new();
    for (number, node) in ["sieve-10", "sieve", "sieve-1"].into_iter().enumerate() {
        let cidr = cidr("sieve", u8::try_from(number).expect("three"));
        let (key, value) = affinity(Owner::Host(node.to_owned()), cidr, "pending");
        backend.create(&key, value).await.unwrap();
        keys.push(key);
    }
    let seen = change_of(&mut changes, &keys).await;
    assert!(matches!(&seen, Change::Put(entry) if entry.key == keys[2]), "{seen:?}");
    for key in &keys {
        backend.delete(key, None).await.unwrap();
    }
    let seen = change_of(&mut changes, &keys).await;
    assert!(matches!(&seen, Change::Delete { key, .. } if *key == keys[2]), "{seen:?}");
}

/// A watcher of one name is in sync although it is not there, and hears of no other.
pub async fn a_watch_of_one_name_sees_no_other(subject: &impl Subject) {
    let backend = subject.store().backend();
    let kinds = [Kind::BGPPeer, Kind::NetworkSet, Kind::GlobalNetworkPolicy, Kind::Secret];
    for kind in kinds.into_iter().filter(|kind| subject.makes(*kind)) {
        let [one, other] = [1, 10].map(|number| sample(kind, "only", number));
        let keys = [one.key.clone(), other.key.clone()];
        let mut updates = watch(subject.store(), vec![(kind, Filter::named(&one.key))]);
        assert_eq!(until_in_sync(&mut updates, &keys).await, []);
        backend.create(&other.key, other.first).await.unwrap();
        let created = backend.create(&one.key, one.first).await.unwrap();
        let update = update_of(&mut updates, &keys).await;
        assert!(matches!(&update, Update::Put(entry) if entry.key == one.key), "{update:?}");
        backend.delete(&other.key, None).await.unwrap();
        backend.delete(&one.key, Some(&created.revision)).await.unwrap();
        assert_eq!(update_of(&mut updates, &keys).await, Update::Delete(one.key));
    }
}

/// A snapshot of several kinds, in sync once, then what happens.
pub async fn a_watcher_is_in_sync_once_and_then_sees_changes(subject: &impl Subject) {
    let backend = subject.store().backend();
    let (pool, peer, later) =
        (sample(Kind::IPPool, "sync", 1), sample(Kind::BGPPeer, "sync", 1), sample(Kind::BGPPeer, "sync", 2));
    let keys = [pool.key.clone(), peer.key.clone(), later.key.clone()];
    let there = backend.create(&pool.key, pool.first.clone()).await.unwrap();
    let peer = backend.create(&peer.key, peer.first.clone()).await.unwrap();

    let kinds = [Kind::IPPool, Kind::BGPPeer, Kind::BGPFilter];
    let mut updates = watch(subject.store(), kinds.map(|kind| (kind, Filter::All)).to_vec());
    let mut seen = Vec::new();
    for update in until_in_sync(&mut updates, &keys).await {
        match update {
            Update::Put(entry) => seen.push((entry.key, entry.revision)),
            other => panic!("{other:?}"),
        }
    }
    seen.sort_by_key(|(key, _)| key.kind());
    assert_eq!(seen, [(peer.key.clone(), peer.revision.clone()), (there.key.clone(), there.revision.clone())]);

    let updated = backend.update(&there.key, pool.second, &there.revision).await.unwrap();
    let update = update_of(&mut updates, &keys).await;
    assert!(matches!(&update, Update::Put(entry) if entry.revision == updated.revision), "{update:?}");
    let created = backend.create(&later.key, later.first).await.unwrap();
    let update = update_of(&mut updates, &keys).await;
    assert!(matches!(&update, Update::Put(entry) if entry.revision == created.revision), "{update:?}");
    for key in [peer.key, there.key, later.key] {
        backend.delete(&key, None).await.unwrap();
        assert_eq!(update_of(&mut updates, &keys).await, Update::Delete(key));
    }
}

/// What is forgotten is not passed over in silence.
pub async fn a_watch_from_before_a_compaction_is_refused(subject: &impl Subject) {
    let backend = subject.store().backend();
    let sample = sample(Kind::IPPool, "compact", 1);
    let from = backend.list(Kind::IPPool, &Filter::All).await.unwrap().revision;
    let created = backend.create(&sample.key, sample.first.clone()).await.unwrap();
    backend.update(&sample.key, sample.second.clone(), &created.revision).await.unwrap();
    backend.delete(&sample.key, None).await.unwrap();
    subject.compact().await.unwrap();
    let refusal = async {
        let mut changes = backend.watch(Kind::IPPool, &Filter::All, &from).await?;
        loop {
            match changes.next().await {
                Some(Ok(Change::Bookmark(_))) => {}
                Some(Ok(change)) => panic!("{change:?}"),
                Some(Err(error)) => return Err::<(), _>(error),
                None => panic!("the watch ended without a reason"),
            }
        }
    };
    let refusal = tokio::time::timeout(PATIENCE, refusal).await.expect("the refusal comes in time");
    assert!(matches!(refusal, Err(Error::Compacted(_))), "{refusal:?}");
    // The present can be watched.
    let now = backend.list(Kind::IPPool, &Filter::All).await.unwrap().revision;
    backend.watch(Kind::IPPool, &Filter::All, &now).await.map(drop).unwrap();
}

/// Trouble is told, and after it the differences, each once.
pub async fn a_watcher_whose_store_was_away_sees_only_what_changed(subject: &impl Subject) {
    let backend = subject.store().backend();
    let [stays, changes, goes, comes, last] = [1, 2, 3, 4, 5].map(|number| sample(Kind::BGPPeer, "away", number));
    let keys = [&stays, &changes, &goes, &comes, &last].map(|sample| sample.key.clone());
    let mut entries = Vec::new();
    for sample in [&stays, &changes, &goes] {
        entries.push(backend.create(&sample.key, sample.first.clone()).await.unwrap());
    }
    let mut updates = watch(subject.store(), vec![(Kind::BGPPeer, Filter::All)]);
    assert_eq!(until_in_sync(&mut updates, &keys).await.len(), 3);

    subject.take_away().await.unwrap();
    let trouble = update_of(&mut updates, &keys).await;
    assert!(matches!(&trouble, Update::Trouble(Some(_))), "{trouble:?}");
    let down = tokio::time::timeout(PATIENCE, backend.get(&stays.key)).await.expect("an answer comes in time");
    match down {
        Err(error @ Error::Unavailable { .. }) => {
            assert!(error.to_string().starts_with(&backend.describe()), "{error}")
        }
        other => panic!("{other:?}"),
    }
    subject.give_back().await.unwrap();
    // The first operations may still meet the old connection.
    let back = async {
        while backend.get(&stays.key).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("the store works again in time");
    let changed = backend.update(&changes.key, changes.second.clone(), &entries[1].revision).await.unwrap();
    backend.delete(&goes.key, None).await.unwrap();
    let come = backend.create(&comes.key, comes.first.clone()).await.unwrap();
    subject.compact().await.unwrap();

    let (mut well, mut seen) = (false, Vec::new());
    while !well || seen.len() < 3 {
        match update_of(&mut updates, &keys).await {
            // Further attempts may fail, in other words, before one succeeds.
            Update::Trouble(trouble) => well = trouble.is_none(),
            update => seen.push(update),
        }
    }
    let has = |wanted: &Entry| {
        seen.iter().any(|update| matches!(update, Update::Put(entry) if entry.revision == wanted.revision))
    };
    assert!(has(&changed) && has(&come) && seen.contains(&Update::Delete(goes.key.clone())), "{seen:?}");
    // Nothing more was to be told.
    let end = backend.create(&last.key, last.first.clone()).await.unwrap();
    let update = plain_update_of(&mut updates, &keys).await;
    assert!(matches!(&update, Update::Put(entry) if entry.revision == end.revision), "{update:?}");
    for key in [stays.key, changes.key, comes.key, last.key] {
        backend.delete(&key, None).await.unwrap();
    }
}
