//! What does the speaker hear of the world beside its peers, and how do such news become [`Change`]s?
//!
//! The main watch lasts as long as the process. Services and Secrets are heard of only while they are wanted: they are
//! many, and the right to read them is not given to everybody. Every source is a task that sends into one channel.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bgp_plan::inputs::Change;
use bgp_plan::passwords::{Password, Secret};
use bgp_plan::workloads::LocalWorkload;
use calico_api::{Key, Kind, Resource, SecretSpec};
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
    /// The Secret of this name.
    Secret(String, Update),
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
    services: Option<JoinHandle<()>>,
    generation: u64,
    secrets: BTreeMap<String, JoinHandle<()>>,
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
    /// has still to say has an earlier number than [`Self::generation`].
    pub fn want_services(&mut self, wanted: bool) -> bool {
        if self.services.is_some() == wanted {
            return false;
        }
        self.generation += 1;
        if let Some(task) = self.services.take() {
            task.abort();
        }
        if wanted {
            let generation = self.generation;
            let kinds = vec![(Kind::Service, Filter::All), (Kind::EndpointSlice, Filter::All)];
            self.services = Some(self.follow(kinds, move |update| Heard::Services(generation, update)));
        }
        true
    }

    /// The number of the present watch of Services.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Watches exactly these Secrets; returns those that are no longer watched.
    pub fn want_secrets(&mut self, wanted: &BTreeSet<String>) -> Vec<String> {
        let gone: Vec<String> = self.secrets.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
        for name in &gone {
            if let Some(task) = self.secrets.remove(name) {
                task.abort();
            }
        }
        for name in wanted {
            if !self.secrets.contains_key(name) {
                // By name, so that a role with `resourceNames` is enough.
                let filter = Filter::Named { namespace: Some(self.namespace.clone()), name: name.clone() };
                let secret = name.clone();
                let task =
                    self.follow(vec![(Kind::Secret, filter)], move |update| Heard::Secret(secret.clone(), update));
                self.secrets.insert(name.clone(), task);
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
            let name = fault.key.as_ref().map_or(fault.name, Key::name);
            Some(Change::Fault { kind: fault.kind, name, reason: fault.reason })
        }
        Update::InSync | Update::Trouble(_) => None,
    }
}

/// What is known of a Secret after an update; `None` if that is what was known before.
pub fn secret(known: &Secret, update: Update) -> Option<Secret> {
    let has_value = matches!(known, Secret::Known(_));
    let now = match update {
        Update::Put(entry) => match serde_json::from_value::<Resource<SecretSpec>>(entry.value) {
            Ok(secret) => keys(&secret.spec),
            Err(error) => Secret::Unreadable(error.to_string()),
        },
        Update::Delete(_) => Secret::Missing,
        // The snapshot is complete, and it was not in it.
        Update::InSync if *known == Secret::Awaited => Secret::Missing,
        // As with everything, the last good version stays.
        Update::Fault(_) | Update::Trouble(Some(_)) if has_value => return None,
        Update::Fault(fault) => Secret::Unreadable(fault.reason),
        Update::Trouble(Some(reason)) => Secret::Unreadable(reason),
        Update::InSync | Update::Trouble(None) => return None,
    };
    (now != *known).then_some(now)
}

fn keys(spec: &SecretSpec) -> Secret {
    let mut known = BTreeMap::new();
    for key in spec.data.keys().chain(spec.string_data.keys()) {
        match spec.value(key) {
            Ok(Some(octets)) => drop(known.insert(key.clone(), Password::from(octets))),
            Ok(None) => {}
            Err(error) => return Secret::Unreadable(error.to_string()),
        }
    }
    Secret::Known(known)
}

#[cfg(test)]
mod tests {
    use calico_datastore::{Entry, Revision};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_is_missing_only_when_the_snapshot_says_so_and_its_last_good_value_stays() {
        let put = |data: serde_json::Value| {
            let value = json!({"metadata": {"name": "bgp", "namespace": "kube-system"}, "data": data});
            let key = Key::of_value(Kind::Secret, &value).unwrap();
            Update::Put(Entry { key, value, revision: Revision("1".to_owned()) })
        };
        let awaited = Secret::Awaited;
        assert_eq!(secret(&awaited, Update::InSync), Some(Secret::Missing));
        let forbidden = secret(&awaited, Update::Trouble(Some("forbidden".to_owned()))).unwrap();
        assert_eq!(forbidden, Secret::Unreadable("forbidden".to_owned()));
        let known = secret(&forbidden, put(json!({"rr": "c2VzYW1l"}))).unwrap();
        let Secret::Known(keys) = &known else { panic!("{known:?}") };
        assert_eq!(keys["rr"].octets(), b"sesame");
        assert_eq!(secret(&known, Update::InSync), None);
        assert_eq!(secret(&known, Update::Trouble(Some("away".to_owned()))), None);
        assert!(matches!(secret(&known, put(json!({"rr": "*"}))), Some(Secret::Unreadable(_))));
        let key =
            Key::of_value(Kind::Secret, &json!({"metadata": {"name": "bgp", "namespace": "kube-system"}})).unwrap();
        assert_eq!(secret(&known, Update::Delete(key)), Some(Secret::Missing));
    }
}
