//! What does the speaker hear of the world beside its peers, and how do such news become [`Change`]s?
//!
//! The main watch lasts as long as the process. Services and Secrets are heard of only while they are wanted: they are
//! many, and the right to read them is not given to everybody. Every source is a task that sends into one channel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bgp_plan::inputs::{self, Change};
use bgp_plan::workloads::LocalWorkload;
use calico_api::Kind;
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Filter, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::endpoints;

/// How many news may wait for the speaker; more stay with their sources.
const CAPACITY: usize = 256;

/// What was heard.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// The main watch.
    Main(Update),
    /// The watch of Services and EndpointSlices; the number is that of [`Sources::want_services`].
    Services(u64, Update),
    /// The Secret of this name; the number is that of its watch, as [`Sources::is_present`] knows it.
    Secret(String, u64, Update),
    /// All local workloads that are peers.
    Workloads(BTreeMap<String, LocalWorkload>),
    /// The main watch has ended.
    Ended,
}

/// What tells the speaker of the world.
#[derive(Debug)]
pub struct Sources {
    /// Where Services and Secrets are: with Calico's etcd and SQLite perhaps in a cluster of which these know nothing.
    core: Store,
    namespace: String,
    out: mpsc::Sender<Heard>,
    services: Option<(u64, JoinHandle<()>)>,
    /// The number of the last watch that was begun.
    generation: u64,
    secrets: BTreeMap<String, (u64, JoinHandle<()>)>,
}

/// What the speaker of `node` watches all the time.
fn watched(node: &str) -> Vec<(Kind, Filter)> {
    let all = |kind| (kind, Filter::All);
    vec![
        all(Kind::Node),
        all(Kind::BGPConfiguration),
        all(Kind::BGPPeer),
        all(Kind::BGPFilter),
        all(Kind::FelixConfiguration),
        all(Kind::IPPool),
        (Kind::BlockAffinity, Filter::Node(node.to_owned())),
    ]
}

impl Sources {
    /// Starts the main watch and that of the folder of endpoint status files, if there is one.
    pub fn start(
        store: &Store,
        core: Store,
        node: &str,
        namespace: String,
        endpoint_folder: Option<PathBuf>,
    ) -> (Self, mpsc::Receiver<Heard>) {
        let (out, heard) = mpsc::channel(CAPACITY);
        let mut updates = watch(store, watched(node));
        let to = out.clone();
        tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                if to.send(Heard::Main(update)).await.is_err() {
                    return;
                }
            }
            let _ = to.send(Heard::Ended).await;
        });
        if let Some(folder) = endpoint_folder {
            let to = out.clone();
            tokio::spawn(async move {
                let mut workloads = endpoints::follow(folder);
                while let Some(now) = workloads.recv().await {
                    if to.send(Heard::Workloads(now)).await.is_err() {
                        return;
                    }
                }
            });
        }
        let secrets = BTreeMap::new();
        (Self { core, namespace, out, services: None, generation: 0, secrets }, heard)
    }

    /// The namespace of Secrets.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Watches Services and EndpointSlices from now on, or no longer; says whether that is new. What an earlier watch
    /// has still to say has an earlier number, of which [`Self::is_services`] knows nothing.
    pub fn want_services(&mut self, wanted: bool) -> bool {
        if self.services.is_some() == wanted {
            return false;
        }
        if let Some((_, task)) = self.services.take() {
            task.abort();
        }
        if wanted {
            self.generation += 1;
            let number = self.generation;
            let kinds = vec![(Kind::Service, Filter::All), (Kind::EndpointSlice, Filter::All)];
            self.services = Some((number, self.follow(kinds, move |update| Heard::Services(number, update))));
        }
        true
    }

    /// Whether this is the number of the present watch of Services.
    pub fn is_services(&self, number: u64) -> bool {
        self.services.as_ref().is_some_and(|(present, _)| *present == number)
    }

    /// Whether this is the number of the present watch of this Secret.
    pub fn is_present(&self, secret: &str, number: u64) -> bool {
        self.secrets.get(secret).is_some_and(|(present, _)| *present == number)
    }

    /// Watches exactly these Secrets; returns those that are no longer watched.
    pub fn want_secrets(&mut self, wanted: &BTreeSet<String>) -> Vec<String> {
        let gone: Vec<String> = self.secrets.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in &gone {
            if let Some((_, task)) = self.secrets.remove(name) {
                task.abort();
            }
        }
        for name in wanted {
            if !self.secrets.contains_key(name) {
                // By name, so that a role with `resourceNames` is enough.
                let filter = Filter::Named { namespace: Some(self.namespace.clone()), name: name.clone() };
                self.generation += 1;
                let (secret, number) = (name.clone(), self.generation);
                let heard = move |update| Heard::Secret(secret.clone(), number, update);
                let task = self.follow(vec![(Kind::Secret, filter)], heard);
                self.secrets.insert(name.clone(), (number, task));
            }
        }
        gone
    }

    fn follow(
        &self,
        kinds: Vec<(Kind, Filter)>,
        heard: impl Fn(Update) -> Heard + Send + Sync + 'static,
    ) -> JoinHandle<()> {
        let (core, out) = (self.core.clone(), self.out.clone());
        tokio::spawn(async move {
            let mut updates = watch(&core, kinds);
            while let Some(update) = updates.recv().await {
                if out.send(heard(update)).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// The change that an update brings, if it brings one.
pub fn change(update: Update) -> Option<Change> {
    match update {
        Update::Put(entry) => Some(Change::Put { key: entry.key, value: entry.value }),
        Update::Delete(key) => Some(Change::Delete(key)),
        Update::Fault(fault) => {
            // As the inputs call it, with its namespace, so that the fault goes when its cause does.
            let name = fault.key.as_ref().map_or(fault.name, |key| inputs::id(key).1);
            Some(Change::Fault { kind: fault.kind, name, reason: fault.reason })
        }
        Update::InSync | Update::Trouble(_) => None,
    }
}
