//! Values that cannot be read.

use calico_api::{IPAMBlockSpec, Kind};
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Error, Filter};

use super::Subject;
use super::samples::sample;
use super::watches::{plain_update_of, until_in_sync};

/// One spoilt block does not hide the others, and can be removed.
pub async fn an_unreadable_value_is_reported_and_its_neighbours_work(subject: &impl Subject) {
    let (store, backend) = (subject.store(), subject.store().backend());
    let [good, bad, other] = [1, 2, 3].map(|number| sample(Kind::IPAMBlock, "spoilt", number));
    for sample in [&good, &bad, &other] {
        backend.create(&sample.key, sample.first.clone()).await.unwrap();
    }
    subject.spoil(&bad.key).await.unwrap();

    match store.get::<IPAMBlockSpec>(&bad.key).await {
        Err(Error::Corrupt(fault)) => {
            assert_eq!((fault.kind, fault.key.as_ref()), (Kind::IPAMBlock, Some(&bad.key)));
            assert!(!fault.name.is_empty() && !fault.reason.is_empty());
        }
        result => panic!("{result:?}"),
    }
    let list = store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap();
    let listed = |key| list.items.iter().any(|block| block.key() == key);
    assert!(listed(good.key.clone()) && listed(other.key.clone()) && !listed(bad.key.clone()));
    assert!(list.faults.iter().any(|fault| fault.key.as_ref() == Some(&bad.key)), "{:?}", list.faults);

    let neighbour = backend.get(&good.key).await.unwrap();
    backend.update(&good.key, good.second.clone(), &neighbour.revision).await.unwrap();
    backend.delete(&bad.key, None).await.unwrap();
    assert!(matches!(backend.get(&bad.key).await, Err(Error::NotFound(_))));
    backend.create(&bad.key, bad.first.clone()).await.unwrap();
    for sample in [&good, &bad, &other] {
        backend.delete(&sample.key, None).await.unwrap();
    }
}

/// A watcher is told of the fault, not of a deletion; then of what becomes of it.
pub async fn a_watcher_keeps_what_became_unreadable(subject: &impl Subject) {
    let backend = subject.store().backend();
    let [good, bad] = [1, 2].map(|number| sample(Kind::IPAMBlock, "kept", number));
    let keys = [good.key.clone(), bad.key.clone()];
    let neighbour = backend.create(&good.key, good.first.clone()).await.unwrap();
    backend.create(&bad.key, bad.first.clone()).await.unwrap();
    let mut updates = watch(subject.store(), vec![(Kind::IPAMBlock, Filter::All)]);
    assert_eq!(until_in_sync(&mut updates, &keys).await.len(), 2);

    subject.spoil(&bad.key).await.unwrap();
    match plain_update_of(&mut updates, &keys).await {
        Update::Fault(fault) => assert_eq!(fault.key.as_ref(), Some(&bad.key)),
        // What only the type tells apart is told by decoding.
        Update::Put(entry) => {
            assert_eq!(entry.key, bad.key);
            let decoded = calico_datastore::decode::<IPAMBlockSpec>(entry);
            assert!(matches!(decoded, Err(Error::Corrupt(_))), "{decoded:?}");
        }
        update => panic!("{update:?}"),
    }
    let changed = backend.update(&good.key, good.second.clone(), &neighbour.revision).await.unwrap();
    let update = plain_update_of(&mut updates, &keys).await;
    assert!(matches!(&update, Update::Put(entry) if entry.revision == changed.revision), "{update:?}");

    // Somebody who comes later hears of it too, and is in sync nevertheless.
    let mut late = watch(subject.store(), vec![(Kind::IPAMBlock, Filter::All)]);
    let seen = until_in_sync(&mut late, &keys).await;
    assert_eq!(seen.len(), 2, "{seen:?}");

    backend.delete(&bad.key, None).await.unwrap();
    assert_eq!(plain_update_of(&mut updates, &keys).await, Update::Delete(bad.key.clone()));
    let mended = backend.create(&bad.key, bad.first.clone()).await.unwrap();
    let update = plain_update_of(&mut updates, &keys).await;
    assert!(matches!(&update, Update::Put(entry) if entry.revision == mended.revision), "{update:?}");
    for key in &keys {
        backend.delete(key, None).await.unwrap();
    }
}
