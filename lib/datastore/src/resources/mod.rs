//! A file of resources as a store: what a reflector outside of any cluster runs on.
//!
//! The file holds documents as `calicoctl apply` takes them, of any kind, and is read again whenever it changes.
//! What it says is in force as a whole or not at all: a file that cannot be read, that has a document that `calicoctl`
//! would refuse, or the same resource twice, is a trouble that names the place, and what it said before stays.
//! So does a file that is gone or empty: it is waited for, and never means that everything was deleted.
//! The store is read-only.

mod content;
mod follow;

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use calico_api::{Key, Kind};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch::Receiver;

use self::content::{Content, Item};
use self::follow::Follower;
use crate::{Backend, Change, Changes, Entry, Error, Filter, Listing, Result, Revision, Store};

/// Opens a file of resources. That it is missing or cannot be understood is no error here: it is told to who lists or
/// watches, until the file is there and in order.
///
/// # Errors
/// [`Error::Unavailable`] if the file cannot be followed at all, because the kernel has no descriptor or thread left.
pub fn open(path: impl AsRef<Path>) -> Result<Store> {
    Ok(Store::new(Resources::open(path.as_ref())?))
}

/// Reads a text as such a file is read: for those who throw anything at the reader.
///
/// # Errors
/// What is wrong with it.
#[doc(hidden)]
pub fn read_anything(text: &str) -> std::result::Result<std::collections::BTreeMap<Key, Value>, String> {
    content::read(text)
}

/// A file of resources.
pub struct Resources {
    name: String,
    state: Receiver<State>,
    /// Reads the file again when it changes, as long as this lives.
    _follower: Follower,
}

/// What is known of the file.
#[derive(Debug, Default)]
struct State {
    /// The last content that was in order, if there was any.
    content: Option<Content>,
    /// What is wrong with the file as it is.
    trouble: Option<String>,
}

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resources").field(&self.name).finish()
    }
}

fn revision(number: u64) -> Revision {
    Revision(number.to_string())
}

impl Resources {
    fn open(path: &Path) -> Result<Self> {
        let name = format!("resources {}", path.display());
        let (follower, state) =
            Follower::start(path.to_owned()).map_err(|reason| Error::Unavailable { store: name.clone(), reason })?;
        Ok(Self { name, state, _follower: follower })
    }

    fn unreadable(&self, reason: &str) -> Error {
        Error::Unreadable { store: self.name.clone(), reason: reason.to_owned() }
    }

    /// Looks at the last good content.
    fn with<T>(&self, look: impl FnOnce(&Content) -> T) -> Result<T> {
        let state = self.state.borrow();
        match (&state.content, &state.trouble) {
            (Some(content), _) => Ok(look(content)),
            (None, trouble) => Err(self.unreadable(trouble.as_deref().unwrap_or("it has not been read yet"))),
        }
    }

    fn read_only(&self, operation: &'static str, kind: Kind) -> Error {
        Error::NotSupported { operation, kind, reason: format!("{} is read-only; edit the file", self.name) }
    }
}

#[async_trait]
impl Backend for Resources {
    fn describe(&self) -> String {
        self.name.clone()
    }

    async fn get(&self, key: &Key) -> Result<Entry> {
        self.with(|content| content.get(key))?.ok_or_else(|| Error::NotFound(key.clone()))
    }

    async fn list(&self, kind: Kind, filter: &Filter) -> Result<Listing> {
        filter.check(kind, "list")?;
        self.with(|content| Listing {
            entries: content.of_kind(kind).filter(|entry| filter.admits(&entry.key)).cloned().collect(),
            faults: Vec::new(),
            revision: revision(content.revision()),
        })
    }

    async fn create(&self, key: &Key, _: Value) -> Result<Entry> {
        Err(self.read_only("create", key.kind()))
    }

    async fn update(&self, key: &Key, _: Value, _: &Revision) -> Result<Entry> {
        Err(self.read_only("update", key.kind()))
    }

    async fn delete(&self, key: &Key, _: Option<&Revision>) -> Result<Entry> {
        Err(self.read_only("delete", key.kind()))
    }

    fn stirred(&self) -> BoxFuture<'static, ()> {
        let mut state = self.state.clone();
        state.mark_unchanged();
        Box::pin(async move {
            if state.changed().await.is_err() {
                futures::future::pending::<()>().await;
            }
        })
    }

    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        filter.check(kind, "watch")?;
        let at: u64 = from.0.parse().map_err(|_| Error::Compacted(from.0.clone()))?;
        if let Some(trouble) = &self.state.borrow().trouble {
            return Err(self.unreadable(trouble));
        }
        // A revision of an earlier life of the process.
        if self.with(Content::revision)? < at {
            return Err(Error::Compacted(from.0.clone()));
        }
        let watch = Watch { name: self.name.clone(), state: self.state.clone(), kind, filter: filter.clone(), at };
        Ok(futures::stream::unfold(Some(watch), |watch| async {
            let mut watch = watch?;
            match watch.next().await? {
                Ok(changes) => Some((changes.into_iter().map(Ok).collect::<Vec<_>>(), Some(watch))),
                Err(error) => Some((vec![Err(error)], None)),
            }
        })
        .flat_map(futures::stream::iter)
        .boxed())
    }
}

/// A watch of one kind: the last revision that was told.
struct Watch {
    name: String,
    state: Receiver<State>,
    kind: Kind,
    filter: Filter,
    at: u64,
}

impl Watch {
    /// What changed, once something has; `None` when the store is gone.
    async fn next(&mut self) -> Option<Result<Vec<Change>>> {
        loop {
            let (changes, upto) = {
                let state = self.state.borrow_and_update();
                if let Some(trouble) = &state.trouble {
                    return Some(Err(Error::Unreadable { store: self.name.clone(), reason: trouble.clone() }));
                }
                let Some(content) = &state.content else { return None };
                (content.since(self.at, self.kind, &self.filter), content.revision())
            };
            self.at = upto;
            if !changes.is_empty() {
                return Some(Ok(changes));
            }
            self.state.changed().await.ok()?;
        }
    }
}

impl Content {
    /// What is under a key.
    fn get(&self, key: &Key) -> Option<Entry> {
        match self.items.get(key) {
            Some(Item::There(entry)) => Some(entry.clone()),
            _ => None,
        }
    }

    /// All of a kind.
    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.items.values().filter_map(move |item| match item {
            Item::There(entry) if entry.key.kind() == kind => Some(entry),
            _ => None,
        })
    }

    /// What happened to a kind after a revision, deletions last.
    fn since(&self, at: u64, kind: Kind, filter: &Filter) -> Vec<Change> {
        let newer = |(key, item): &(&Key, &Item)| key.kind() == kind && item.revision() > at && filter.admits(key);
        let (there, gone): (Vec<_>, Vec<_>) =
            self.items.iter().filter(newer).partition(|(_, item)| matches!(item, Item::There(_)));
        // All of it is one step: where it ended is where a watch continues.
        let end = || revision(self.revision());
        let changes = there.into_iter().chain(gone).map(|(key, item)| match item {
            Item::There(entry) => Change::Put(entry.clone()),
            Item::Gone(_) => Change::Delete { key: key.clone(), revision: end() },
        });
        let mut changes: Vec<_> = changes.collect();
        if !changes.is_empty() {
            changes.push(Change::Bookmark(end()));
        }
        changes
    }
}

#[cfg(test)]
mod tests;
