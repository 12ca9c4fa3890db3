//! The store as a whole, on real files; what all stores must do is in `integration`'s conformance suite.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;

use super::*;
use crate::Change;

const LIMIT: Duration = Duration::from_secs(5);

fn pool(name: &str) -> (Key, Value) {
    let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": "10.244.0.0/16"}});
    (Key::named(Kind::IPPool, name), value)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("it comes within the limit")
}

async fn next(changes: &mut Changes) -> Change {
    within(changes.next()).await.expect("the watch goes on").expect("the watch works")
}

#[tokio::test]
async fn a_second_store_on_the_same_file_sees_each_write_as_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db").to_string_lossy().into_owned();
    let (one, two) = (Sqlite::open(&path).await.unwrap(), Sqlite::open(&path).await.unwrap());
    let from = one.list(Kind::IPPool, &Filter::All).await.unwrap().revision;
    let mut changes = two.watch(Kind::IPPool, &Filter::All, &from).await.unwrap();

    let (key, value) = pool("a");
    let created = one.create(&key, value).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Put(created.clone()));
    let updated = one.update(&key, created.value, &created.revision).await.unwrap();
    assert_eq!(next(&mut changes).await, Change::Put(updated.clone()));
    one.delete(&key, Some(&updated.revision)).await.unwrap();
    assert!(matches!(next(&mut changes).await, Change::Delete { key: gone, .. } if gone == key));
}

#[tokio::test]
async fn a_large_listing_comes_in_parts_of_one_revision_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db").to_string_lossy().into_owned();
    let store = Sqlite::open(&path).await.unwrap();
    let count = parts::PART * 4 + 1;
    let writes = (0..count).map(|number| {
        let (key, value) = pool(&format!("p{number:05}"));
        Write::Create { key, value }
    });
    for some in writes.collect::<Vec<_>>().chunks(crate::COMMIT_LIMIT) {
        store.commit(some.to_vec()).await.unwrap();
    }
    let whole = store.list(Kind::IPPool, &Filter::All).await.unwrap();
    let mut listing = store.parts(Kind::IPPool, &Filter::All).await.unwrap();
    let first = within(listing.next()).await.unwrap().unwrap();
    // What is written now belongs to no part; and neither waits for the other.
    let (key, value) = pool("p99999");
    store.create(&key, value).await.unwrap();
    store.delete(&pool("p01000").0, None).await.unwrap();
    let mut entries = first.entries;
    assert_eq!(entries.len(), parts::PART);
    while let Some(part) = within(listing.next()).await {
        let part = part.unwrap();
        assert_eq!(part.revision, whole.revision);
        assert!(part.entries.len() <= parts::PART);
        entries.extend(part.entries);
    }
    assert_eq!(entries, whole.entries);
    // And a reader who has enough need not read to the end.
    let mut listing = store.parts(Kind::IPPool, &Filter::All).await.unwrap();
    within(listing.next()).await.unwrap().unwrap();
    drop(listing);
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert!(matches!(store.parts(Kind::IPPool, &Filter::All).await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_watch_from_a_forgotten_revision_is_refused_and_one_of_a_quiet_kind_is_not() {
    let store = Sqlite::memory().await.unwrap();
    let from = store.list(Kind::IPPool, &Filter::All).await.unwrap().revision;
    for name in ["a", "b"] {
        let (key, value) = pool(name);
        store.create(&key, value).await.unwrap();
        store.delete(&key, None).await.unwrap();
    }
    store.compact(1).await.unwrap();
    let watch = store.watch(Kind::IPPool, &Filter::All, &from).await;
    assert!(matches!(watch, Err(Error::Compacted(at)) if at == from.0));
    store.watch(Kind::Node, &Filter::All, &from).await.map(drop).unwrap();
    for foreign in ["", "7", "9999999999999999", "k8s"] {
        let watch = store.watch(Kind::Node, &Filter::All, &Revision(foreign.to_owned())).await;
        assert!(matches!(watch, Err(Error::Compacted(_))), "{foreign}");
    }
}

#[tokio::test]
async fn what_was_forgotten_once_stays_forgotten() {
    let store = Sqlite::memory().await.unwrap();
    let (old, value) = pool("old");
    let first = store.create(&old, value).await.unwrap();
    let (gone, value) = pool("gone");
    let from = store.create(&gone, value).await.unwrap().revision;
    store.delete(&gone, None).await.unwrap();
    store.compact(0).await.unwrap();
    // Superseded only now: the row that is forgotten next is older than the deletion.
    store.update(&old, first.value, &first.revision).await.unwrap();
    store.compact(0).await.unwrap();
    let watch = store.watch(Kind::IPPool, &Filter::All, &from).await;
    assert!(matches!(watch, Err(Error::Compacted(_))), "the deletion would never be told");
}

#[tokio::test]
async fn history_stays_bounded_while_writes_go_on() {
    let store = Sqlite::memory().await.unwrap().keeping(10);
    let (key, value) = pool("a");
    let mut entry = store.create(&key, value).await.unwrap();
    for _ in 0..600 {
        entry = store.update(&key, entry.value, &entry.revision).await.unwrap();
    }
    let rows = store
        .worker
        .run(false, |connection| Ok(connection.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0))?));
    assert!(rows.await.unwrap() <= 10 + 256 + 1);
    assert_eq!(store.get(&key).await.unwrap(), entry);
}

#[tokio::test]
async fn a_file_that_is_moved_away_is_reported_at_once_and_used_again_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let (home, away) = (dir.path().join("home"), dir.path().join("away"));
    std::fs::create_dir(&home).unwrap();
    let path = home.join("store.db").to_string_lossy().into_owned();
    let store = Sqlite::open(&path).await.unwrap();
    let (key, value) = pool("a");
    let entry = store.create(&key, value.clone()).await.unwrap();
    let mut changes = store.watch(Kind::IPPool, &Filter::All, &entry.revision).await.unwrap();

    std::fs::rename(&home, &away).unwrap();
    let error = store.get(&key).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("sqlite {path} did not answer: the directory {} does not exist", home.display())
    );
    assert!(matches!(within(changes.next()).await, Some(Err(Error::Unavailable { .. }))), "watchers are told too");
    assert!(matches!(Sqlite::open(&path).await, Err(Error::Unavailable { .. })), "no directory is made");

    std::fs::rename(&away, &home).unwrap();
    assert_eq!(store.get(&key).await.unwrap(), entry);
    store.watch(Kind::IPPool, &Filter::All, &entry.revision).await.map(drop).unwrap();
}

#[tokio::test]
async fn another_file_under_the_same_path_is_another_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db").to_string_lossy().into_owned();
    let store = Sqlite::open(&path).await.unwrap();
    let (key, value) = pool("a");
    let entry = store.create(&key, value).await.unwrap();
    let mut changes = store.watch(Kind::IPPool, &Filter::All, &entry.revision).await.unwrap();

    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{path}{suffix}")).unwrap();
    }
    let _new = Sqlite::open(&path).await.unwrap();
    assert!(matches!(store.get(&key).await, Err(Error::NotFound(_))));
    assert!(matches!(within(changes.next()).await, Some(Err(Error::Compacted(_) | Error::Unavailable { .. }))));
    let watch = store.watch(Kind::IPPool, &Filter::All, &entry.revision).await;
    assert!(matches!(watch, Err(Error::Compacted(_))));
}

#[tokio::test]
async fn a_file_that_is_locked_for_long_is_reported_within_two_seconds_and_nothing_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db").to_string_lossy().into_owned();
    let store = Sqlite::open(&path).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();

    let ((one, first), (two, second)) = (pool("a"), pool("b"));
    let began = std::time::Instant::now();
    let (one, two) = tokio::join!(store.create(&one, first), store.create(&two, second));
    assert!(began.elapsed() < Duration::from_secs(2));
    for result in [one, two] {
        assert!(matches!(result, Err(Error::Unavailable { .. })));
    }
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(store.list(Kind::IPPool, &Filter::All).await.unwrap().entries, []);
    let (key, value) = pool("c");
    store.create(&key, value).await.unwrap();
}

#[tokio::test]
async fn a_file_of_something_else_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("photos.db").to_string_lossy().into_owned();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE photos (name TEXT)").unwrap();
    let error = Sqlite::open(&path).await.unwrap_err().to_string();
    assert!(error.contains(&path) && error.contains("something else"), "{error}");
    std::fs::write(&path, "x".repeat(4096)).unwrap();
    let error = Sqlite::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("not a database"), "{error}");
}

#[tokio::test]
async fn many_writers_of_one_value_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db").to_string_lossy().into_owned();
    let (key, value) = pool("a");
    Sqlite::open(&path).await.unwrap().create(&key, value).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (key, store) = (key.clone(), Sqlite::open(&path).await.unwrap());
        writers.spawn(async move {
            let mut left = 25;
            while left > 0 {
                let mut entry = store.get(&key).await.unwrap();
                let count = entry.value["spec"]["count"].as_u64().unwrap_or(0);
                entry.value["spec"]["count"] = json!(count + 1);
                match store.update(&key, entry.value, &entry.revision).await {
                    Ok(_) => left -= 1,
                    Err(Error::Conflict(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    writers.join_all().await;
    let store = Sqlite::open(&path).await.unwrap();
    assert_eq!(store.get(&key).await.unwrap().value["spec"]["count"], json!(100));
}
