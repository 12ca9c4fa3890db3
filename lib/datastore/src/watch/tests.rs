//! The whole of it, on a real store.

use std::time::Duration;

use async_trait::async_trait;
use calico_api::Kind;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch as state;

use super::*;
use crate::sqlite::Sqlite;
use crate::{Backend, Changes, Error, Listing, Result, Revision};

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

/// A store of a cluster whose definitions come and go.
#[derive(Debug)]
struct Partial {
    inner: Sqlite,
    served: state::Receiver<bool>,
}

impl Partial {
    fn look(&self) -> Result<()> {
        let (store, reason) = (self.describe(), "it serves no ippools".to_owned());
        if *self.served.borrow() { Ok(()) } else { Err(Error::NotServed { store, reason }) }
    }
}

#[async_trait]
impl Backend for Partial {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn get(&self, key: &Key) -> Result<Entry> {
        self.inner.get(key).await
    }

    async fn list(&self, kind: Kind, filter: &Filter) -> Result<Listing> {
        self.look()?;
        self.inner.list(kind, filter).await
    }

    async fn create(&self, key: &Key, value: Value) -> Result<Entry> {
        self.inner.create(key, value).await
    }

    async fn update(&self, key: &Key, value: Value, revision: &Revision) -> Result<Entry> {
        self.inner.update(key, value, revision).await
    }

    async fn delete(&self, key: &Key, revision: Option<&Revision>) -> Result<Entry> {
        self.inner.delete(key, revision).await
    }

    fn stirred(&self) -> BoxFuture<'static, ()> {
        let mut served = self.served.clone();
        served.mark_unchanged();
        Box::pin(async move { drop(served.changed().await) })
    }

    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        self.look()?;
        // It ends when the definition goes, as the API server ends it.
        let mut served = self.served.clone();
        let gone = async move { drop(served.wait_for(|served| !served).await) };
        Ok(self.inner.watch(kind, filter, from).await?.take_until(Box::pin(gone)).boxed())
    }
}

#[tokio::test]
async fn a_kind_that_the_store_never_had_is_empty_until_it_has_it_and_one_that_it_had_is_in_trouble() {
    let (serve, served) = state::channel(false);
    let store = Store::new(Partial { inner: Sqlite::memory().await.unwrap(), served });
    let mut updates = watch(&store, vec![(Kind::IPPool, Filter::All)]);
    assert_eq!(next(&mut updates).await, Update::InSync, "there is none of it");
    let a = create(&store, "a").await;
    serve.send(true).unwrap();
    assert_eq!(next(&mut updates).await, Update::Put(a.clone()), "it was looked for again");

    serve.send(false).unwrap();
    let Update::Trouble(Some(reason)) = next(&mut updates).await else { panic!("that is no deletion") };
    assert!(reason.contains("serves no ippools"), "{reason}");
    store.backend().delete(&a.key, None).await.unwrap();
    serve.send(true).unwrap();
    let mut seen = vec![next(&mut updates).await, next(&mut updates).await];
    seen.sort_by_key(|update| matches!(update, Update::Trouble(_)));
    assert_eq!(seen, [Update::Delete(a.key), Update::Trouble(None)]);
}
