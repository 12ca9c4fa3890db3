//! The whole of it, on a real store.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::sqlite::Sqlite;

async fn next(updates: &mut mpsc::Receiver<Update>) -> Update {
    tokio::time::timeout(Duration::from_secs(10), updates.recv()).await.expect("it comes in time").expect("it goes on")
}

async fn create(store: &Store, name: &str) -> Entry {
    let key = Key::named(Kind::IPPool, name);
    let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": "10.244.0.0/16"}});
    store.backend().create(&key, value).await.unwrap()
}

#[tokio::test]
async fn what_changed_while_the_store_was_away_is_told_when_it_is_back_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (home, away) = (dir.path().join("home"), dir.path().join("away"));
    std::fs::create_dir(&home).unwrap();
    let open = async |dir: &std::path::Path| {
        Store::new(Sqlite::open(&dir.join("store.db").to_string_lossy()).await.unwrap().keeping(0))
    };
    let store = open(&home).await;
    let (a, b) = (create(&store, "a").await, create(&store, "b").await);

    let mut updates = watch(&store, vec![(Kind::IPPool, Filter::All), (Kind::Node, Filter::All)]);
    assert_eq!(next(&mut updates).await, Update::Put(a.clone()));
    assert_eq!(next(&mut updates).await, Update::Put(b.clone()));
    assert_eq!(next(&mut updates).await, Update::InSync);

    std::fs::rename(&home, &away).unwrap();
    let Update::Trouble(Some(reason)) = next(&mut updates).await else { panic!("the trouble is told") };
    assert!(reason.contains("does not exist"), "{reason}");

    let other = open(&away).await;
    other.backend().delete(&a.key, None).await.unwrap();
    let c = create(&other, "c").await;
    drop(other);
    std::fs::rename(&away, &home).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match next(&mut updates).await {
            // Further attempts may fail in other words.
            Update::Trouble(Some(_)) => {}
            update => seen.push(update),
        }
    }
    for expected in [Update::Delete(a.key), Update::Put(c), Update::Trouble(None)] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }

    let b = store.backend().update(&b.key, b.value, &b.revision).await.unwrap();
    assert_eq!(next(&mut updates).await, Update::Put(b));
}

#[tokio::test]
async fn nothing_to_watch_is_in_sync_at_once() {
    let store = Store::new(Sqlite::memory().await.unwrap());
    assert_eq!(next(&mut watch(&store, vec![])).await, Update::InSync);
}

#[test]
fn a_trouble_of_several_kinds_is_told_once_and_ends_once() {
    let mut state = State { waiting: 2, ..State::default() };
    let failed = || Event::Failed("gone".to_owned());
    let told = Some(Update::Trouble(Some("gone".to_owned())));
    assert_eq!(state.update(0, failed()), told);
    assert_eq!(state.update(1, failed()), None);
    assert_eq!(state.update(0, Event::Well), None);
    assert_eq!(state.update(1, Event::Well), Some(Update::Trouble(None)));
    assert_eq!(state.update(0, failed()), told);
    assert_eq!(state.update(0, Event::Synced), None);
    assert_eq!(state.update(1, Event::Synced), Some(Update::InSync));
}
