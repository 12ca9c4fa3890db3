//! What the watches tell of pods and namespaces, for those who would otherwise ask the API server for each pod that starts.
//!
//! Only where the store shows an orchestrator's pods. Kept is what an ADD needs, no more: namespaces are as many as the cluster has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use calico_api::{Key, Kind, ProfileSpec};
use calico_datastore::watch::Update;
use calico_datastore::{Entry, decode};
use ipam::pool::Labels;
use serde_json::Value;
use tracing::warn;

/// Annotations of a pod or a namespace.
pub(crate) type Annotations = BTreeMap<String, String>;

/// What is known; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// This node's pods, by endpoint.
    pods: BTreeMap<Key, Pod>,
    /// The cluster's namespaces.
    namespaces: BTreeMap<String, Namespace>,
    /// Whether all namespaces are there and are kept up to date.
    is_current: bool,
}

#[derive(Debug)]
struct Pod {
    uid: Box<str>,
    annotations: Annotations,
}

/// What a namespace says about its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// Its annotations that are about the network.
    pub(crate) annotations: Annotations,
    /// Its labels, for pools that select by them.
    pub(crate) labels: Labels,
}

impl Namespace {
    /// Of the profile that stands for it.
    pub(crate) fn of(metadata: calico_api::ObjectMeta, spec: ProfileSpec) -> Self {
        let labels = spec.labels_to_apply.into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.strip_prefix("pcns.")?.to_owned(), value)));
        Self { annotations: metadata.annotations, labels: labels.collect() }
    }
}

impl Known {
    /// The annotations of the very pod of this uid.
    pub(crate) fn pod(&self, endpoint: &Key, uid: &str) -> Option<Annotations> {
        let inner = self.inner();
        inner.pods.get(endpoint).filter(|pod| *pod.uid == *uid).map(|pod| pod.annotations.clone())
    }

    /// A namespace, if the watch on them works.
    pub(crate) fn namespace(&self, name: &str) -> Option<Namespace> {
        let inner = self.inner();
        inner.namespaces.get(name).filter(|_| inner.is_current).cloned()
    }

    /// Takes in what concerns pods of the watch on endpoints.
    pub(crate) fn learn_pods(&self, update: &Update) {
        match update {
            Update::Put(entry) if entry.key.kind() == Kind::WorkloadEndpoint => {
                if let Some(pod) = pod(entry) {
                    self.inner().pods.insert(entry.key.clone(), pod);
                }
            }
            Update::Delete(key) if key.kind() == Kind::WorkloadEndpoint => drop(self.inner().pods.remove(key)),
            _ => {}
        }
    }

    /// Takes in the watch on namespaces' profiles.
    pub(crate) fn learn_namespaces(&self, update: Update) {
        let name = |key: &Key| key.name().strip_prefix("kns.").map(str::to_owned);
        match update {
            Update::Put(entry) => {
                if let (Some(name), Ok(profile)) = (name(&entry.key), decode::<ProfileSpec>(entry)) {
                    self.inner().namespaces.insert(name, Namespace::of(profile.metadata, profile.spec));
                }
            }
            Update::Delete(key) => {
                if let Some(name) = name(&key) {
                    self.inner().namespaces.remove(&name);
                }
            }
            Update::Fault(fault) => {
                if let Some(name) = fault.key.as_ref().and_then(name) {
                    self.inner().namespaces.remove(&name);
                }
            }
            Update::InSync | Update::Trouble(None) => self.inner().is_current = true,
            Update::Trouble(Some(reason)) => {
                warn!(reason, "namespaces cannot be watched, they are asked for with each pod");
                self.inner().is_current = false;
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pod(entry: &Entry) -> Option<Pod> {
    let metadata = entry.value.get("metadata")?;
    let annotations = metadata.get("annotations").and_then(Value::as_object).into_iter().flatten();
    let annotations = annotations.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned())));
    Some(Pod { uid: metadata.get("uid")?.as_str()?.into(), annotations: annotations.collect() })
}

#[cfg(test)]
mod tests {
    use calico_datastore::Revision;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_very_pod_is_known_and_namespaces_only_while_they_are_watched() {
        let known = Known::default();
        let key = Key::namespaced(Kind::WorkloadEndpoint, "shop", "east-k8s-web-eth0");
        let note = ("cni.projectcalico.org/ipv4pools", "[\"a\"]");
        let put = |key: &Key, value: Value| {
            Update::Put(Entry { key: key.clone(), value, revision: Revision("1".to_owned()) })
        };
        let metadata = json!({"name": key.name(), "namespace": "shop", "uid": "u1", "annotations": {note.0: note.1}});
        known.learn_pods(&put(&key, json!({"metadata": metadata, "spec": {}})));
        let expected = Annotations::from([(note.0.to_owned(), note.1.to_owned())]);
        assert_eq!(known.pod(&key, "u1"), Some(expected.clone()));
        assert_eq!(known.pod(&key, "u2"), None, "its successor of the same name");
        known.learn_pods(&Update::Delete(key.clone()));
        assert_eq!(known.pod(&key, "u1"), None);

        let profile = Key::named(Kind::Profile, "kns.shop");
        let value = json!({"apiVersion": "projectcalico.org/v3", "kind": "Profile",
            "metadata": {"name": "kns.shop", "annotations": {note.0: note.1}},
            "spec": {"labelsToApply": {"pcns.team": "a", "other": "b"}}});
        known.learn_namespaces(put(&profile, value));
        assert_eq!(known.namespace("shop"), None, "not all are there yet");
        known.learn_namespaces(Update::InSync);
        let labels = Labels::from([("team".to_owned(), "a".to_owned())]);
        assert_eq!(known.namespace("shop"), Some(Namespace { annotations: expected, labels }));
        known.learn_namespaces(Update::Trouble(Some("refused".to_owned())));
        assert_eq!(known.namespace("shop"), None);
        known.learn_namespaces(Update::Trouble(None));
        assert!(known.namespace("shop").is_some());
        known.learn_namespaces(Update::Delete(profile));
        assert_eq!(known.namespace("shop"), None);
    }
}
