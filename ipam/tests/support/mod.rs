//! A back end in front of a real store: it writes down what is asked of it, and can hold every write at a gate.

#![allow(dead_code, unreachable_pub)] // each test file uses a part of it

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use calico_api::{IPPool, IPPoolSpec, Key, Kind, ObjectMeta};
use calico_datastore::watch::Update;
use calico_datastore::{Backend, Changes, Entry, Error, Filter, Listing, Result, Revision, Store, Write};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{Notify, oneshot};

/// What becomes of a write at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Pass,
    /// It is made, and the writer never hears of it.
    PassUnheard,
    /// It is made, and the writer hears that the store does not answer.
    PassUnsaid,
    /// It is not made, and the writer hears that the store does not answer.
    Lose,
}

/// A gate for the writes of several nodes.
#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Writes that wait, with their node, in the order in which they came.
    waiting: Vec<(usize, String, oneshot::Sender<Verdict>)>,
    /// How many operations of a node are in the store at the moment.
    busy: BTreeMap<usize, usize>,
    /// What was asked for, in order; writes as they are made.
    log: Vec<String>,
    /// What every watch would have seen.
    events: Vec<Update>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until something has changed since the last wait.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Says that something has changed.
    pub fn touch(&self) {
        self.changed.notify_one();
    }

    /// Whether a node does nothing but wait at the gate.
    pub fn is_held(&self, node: usize) -> bool {
        let state = self.state();
        state.busy.get(&node).is_none_or(|busy| *busy == 0) && state.waiting.iter().any(|(of, ..)| *of == node)
    }

    /// Whether a node has an operation in the store.
    pub fn is_busy(&self, node: usize) -> bool {
        self.state().busy.get(&node).is_some_and(|busy| *busy > 0)
    }

    /// Decides on one of a node's waiting writes; the description of it, if there was one.
    pub fn decide(&self, node: usize, choice: usize, verdict: Verdict) -> Option<String> {
        let mut state = self.state();
        let places: Vec<usize> = (0..state.waiting.len()).filter(|i| state.waiting[*i].0 == node).collect();
        let place = *places.get(choice.checked_rem(places.len())?)?;
        let (_, what, decided) = state.waiting.remove(place);
        if decided.send(verdict).is_ok() && verdict != Verdict::Lose {
            // Busy from now on, not only when the writer wakes.
            *state.busy.entry(node).or_default() += 1;
        }
        Some(what)
    }

    /// Forgets the waiting writes of a node that is no more.
    pub fn forget(&self, node: usize) {
        let mut state = self.state();
        state.waiting.retain(|(of, ..)| *of != node);
        state.busy.remove(&node);
    }

    /// What was asked for since the last call.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// The events from a place on.
    pub fn events_from(&self, place: usize) -> Vec<Update> {
        self.state().events[place..].to_vec()
    }

    /// How many events there were.
    pub fn events(&self) -> usize {
        self.state().events.len()
    }
}

/// A node's way to the store.
#[derive(Clone, Debug)]
pub struct Way {
    pub inner: Arc<dyn Backend>,
    pub gate: Arc<Gate>,
    pub node: usize,
    /// Whether writes wait for a verdict.
    pub gated: bool,
    /// Whether several writes can be made in one transaction.
    pub atomic: bool,
}

/// Counts down when it is dropped, whether the operation ended or was given up.
struct Busy<'a>(&'a Way);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if let Some(busy) = self.0.gate.state().busy.get_mut(&self.0.node) {
            *busy = busy.saturating_sub(1);
        }
        self.0.gate.touch();
    }
}

impl Way {
    fn read(&self, what: String) -> Busy<'_> {
        let mut state = self.gate.state();
        state.log.push(what);
        *state.busy.entry(self.node).or_default() += 1;
        Busy(self)
    }

    async fn write<T>(
        &self,
        what: String,
        write: impl Future<Output = Result<T>>,
        event: impl Fn(&T) -> Vec<Update>,
    ) -> Result<T> {
        let mut verdict = Verdict::Pass;
        if self.gated {
            let (decide, decided) = oneshot::channel();
            self.gate.state().waiting.push((self.node, what.clone(), decide));
            self.gate.touch();
            match decided.await {
                Ok(decision) => verdict = decision,
                Err(_) => std::future::pending().await,
            }
        } else {
            *self.gate.state().busy.entry(self.node).or_default() += 1;
        }
        let silence = || Error::Unavailable { store: "the gate".to_owned(), reason: "it was told so".to_owned() };
        if verdict == Verdict::Lose {
            self.gate.touch();
            return Err(silence());
        }
        let busy = Busy(self);
        let result = write.await;
        if let Ok(value) = &result {
            let mut state = self.gate.state();
            state.log.push(what);
            state.events.extend(event(value));
        }
        drop(busy);
        match verdict {
            Verdict::Pass | Verdict::Lose => result,
            Verdict::PassUnsaid => Err(silence()),
            Verdict::PassUnheard => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Backend for Way {
    fn describe(&self) -> String {
        format!("gate of {}", self.inner.describe())
    }

    async fn get(&self, key: &Key) -> Result<Entry> {
        let _busy = self.read(format!("GET {key}"));
        self.inner.get(key).await
    }

    async fn list(&self, kind: Kind, filter: &Filter) -> Result<Listing> {
        let _busy = self.read(format!("LIST {kind}"));
        self.inner.list(kind, filter).await
    }

    async fn create(&self, key: &Key, value: Value) -> Result<Entry> {
        let what = format!("POST {key}{}", state_of(&value));
        self.write(what, self.inner.create(key, value), |entry| vec![Update::Put(entry.clone())]).await
    }

    async fn update(&self, key: &Key, value: Value, revision: &Revision) -> Result<Entry> {
        let what = format!("PUT {key}{}", state_of(&value));
        self.write(what, self.inner.update(key, value, revision), |entry| vec![Update::Put(entry.clone())]).await
    }

    async fn delete(&self, key: &Key, revision: Option<&Revision>) -> Result<Entry> {
        let what = format!("DELETE {key}");
        self.write(what, self.inner.delete(key, revision), |entry| vec![Update::Delete(entry.key.clone())]).await
    }

    fn is_atomic(&self) -> bool {
        self.atomic
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Revision>> {
        assert!(self.atomic, "only asked of stores that have transactions");
        let what = |write: &Write| match write {
            Write::Create { key, value } => format!("POST {key}{}", state_of(value)),
            Write::Update { key, value, .. } => format!("PUT {key}{}", state_of(value)),
            Write::Delete { key, .. } => format!("DELETE {key}"),
        };
        let text = writes.iter().map(what).collect::<Vec<_>>().join(", ");
        let event = |(write, revision): (&Write, &Revision)| match write.clone() {
            Write::Create { key, mut value } | Write::Update { key, mut value, .. } => {
                value["metadata"]["resourceVersion"] = Value::from(revision.0.clone());
                Update::Put(Entry { key, value, revision: revision.clone() })
            }
            Write::Delete { key, .. } => Update::Delete(key),
        };
        let events = |revisions: &Vec<Revision>| writes.iter().zip(revisions).map(event).collect();
        self.write(text, self.inner.commit(writes.clone()), events).await
    }

    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        self.inner.watch(kind, filter, from).await
    }
}

fn state_of(value: &Value) -> String {
    value.pointer("/spec/state").and_then(Value::as_str).map(|state| format!(" {state}")).unwrap_or_default()
}

/// An empty store in memory.
pub async fn memory() -> Arc<dyn Backend> {
    let config = calico_datastore::Config::Sqlite { path: ":memory:".to_owned() };
    calico_datastore::connect(&config).await.unwrap().backend().clone()
}

/// A typed store over any back end.
pub fn typed(way: &Way) -> Store {
    Store::new(way.clone())
}

/// Stores a pool.
pub async fn add_pool(store: &Store, name: &str, cidr: &str, block_size: u8) {
    let spec = IPPoolSpec { block_size: Some(block_size), ..IPPoolSpec::new(cidr) };
    store.create(&IPPool::new(ObjectMeta::named(name), spec)).await.unwrap();
}

/// A time, in milliseconds from a fixed one.
pub fn at(millisecond: i64) -> Timestamp {
    Timestamp::from_millisecond(1_787_403_600_000 + millisecond).unwrap()
}
