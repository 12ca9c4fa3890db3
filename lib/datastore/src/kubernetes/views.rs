//! The operations on one Node, WorkloadEndpoint or Profile: on the core object that it is a view of.

use calico_api::Key;
use http::Method;
use serde_json::Value;

use super::client::{MERGE_PATCH, STRATEGIC_PATCH};
use super::codec::{Seen, revision_of};
use super::group::is_segment;
use super::profile::Source;
use super::{Kubernetes, node, pod, profile};
use crate::{Entry, Error, Result, Revision};

/// How often a pod's annotations are cleared anew because others wrote to the pod in between.
const CLEAR_TRIES: u32 = 6;

impl Kubernetes {
    pub(super) async fn get_node(&self, key: &Key) -> Result<Entry> {
        let object = self.core(key, node_path(key)?).await?;
        shown(key, node::decode(object, self.use_pod_cidr))
    }

    pub(super) async fn update_node(&self, key: &Key, value: Value, revision: &Revision) -> Result<Entry> {
        let path = node_path(key)?;
        let current = self.core(key, path.clone()).await?;
        if revision_of(&current) != *revision {
            return Err(Error::Conflict(key.clone()));
        }
        let patch = node::patch(&current, value, self.use_pod_cidr)
            .map_err(|reason| Error::Encode { key: key.clone(), reason })?;
        let patched = self.client.send(Method::PATCH, &format!("{path}/status"), MERGE_PATCH, &patch).await;
        shown(key, node::decode(patched.map_err(|failure| self.failed(key, failure))?, self.use_pod_cidr))
    }

    pub(super) async fn get_endpoint(&self, key: &Key) -> Result<Entry> {
        let object = self.core(key, pod_path(key)?).await?;
        shown(key, pod::decode(object, &self.interface_prefix))
    }

    /// Creates or updates, which is one thing here: the pod is there, and its annotations are set.
    ///
    /// No version is compared: kubelet writes to the pod all the time, and of the annotations there is one writer.
    pub(super) async fn write_endpoint(&self, key: &Key, value: Value) -> Result<Entry> {
        let path = format!("{}/status", pod_path(key)?);
        let patch = pod::patch(value).map_err(|reason| Error::Encode { key: key.clone(), reason })?;
        let patched = self.client.send(Method::PATCH, &path, STRATEGIC_PATCH, &patch).await;
        shown(key, pod::decode(patched.map_err(|failure| self.failed(key, failure))?, &self.interface_prefix))
    }

    /// Clears the addresses in the pod's annotations; the endpoint itself goes with the pod.
    pub(super) async fn delete_endpoint(&self, key: &Key, revision: Option<&Revision>) -> Result<Entry> {
        let path = pod_path(key)?;
        for _ in 0..CLEAR_TRIES {
            let object = self.core(key, path.clone()).await?;
            let version = revision_of(&object);
            let patch = pod::clearing_patch(&object);
            let entry = shown(key, pod::decode(object, &self.interface_prefix))?;
            if revision.is_some_and(|revision| *revision != version) {
                return Err(Error::Conflict(key.clone()));
            }
            let patched = self.client.send(Method::PATCH, &format!("{path}/status"), STRATEGIC_PATCH, &patch).await;
            match patched.map_err(|failure| self.failed(key, failure)) {
                Ok(_) => return Ok(entry),
                Err(Error::Conflict(_)) if revision.is_none() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict(key.clone()))
    }

    pub(super) async fn get_profile(&self, key: &Key) -> Result<Entry> {
        let absent = || Error::NotFound(key.clone());
        match Source::parse(&key.name()).ok_or_else(absent)? {
            Source::BuiltIn => Ok(profile::built_in()),
            Source::Namespace(name) if is_segment(&name) => {
                let object = self.core(key, format!("/api/v1/namespaces/{name}")).await?;
                shown(key, profile::of_namespace(&object))
            }
            Source::ServiceAccount(namespace, name) if is_segment(&namespace) && is_segment(&name) => {
                let object = self.core(key, format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}")).await?;
                shown(key, profile::of_service_account(&object))
            }
            _ => Err(absent()),
        }
    }

    /// A core object; that its namespace is not there means that it is not either.
    async fn core(&self, key: &Key, path: String) -> Result<Value> {
        self.client.get(&path).await.map_err(|failure| self.failed(key, failure))
    }
}

fn node_path(key: &Key) -> Result<String> {
    let name = key.name();
    if is_segment(&name) { Ok(format!("/api/v1/nodes/{name}")) } else { Err(Error::NotFound(key.clone())) }
}

fn pod_path(key: &Key) -> Result<String> {
    let name = pod::parse_name(&key.name()).map(|(_, pod)| pod);
    match (key.namespace(), name) {
        (Some(namespace), Some(pod)) if is_segment(namespace) && is_segment(&pod) => {
            Ok(format!("/api/v1/namespaces/{namespace}/pods/{pod}"))
        }
        _ => Err(Error::NotFound(key.clone())),
    }
}

/// The resource that a core object shows, which must be the one asked for: a pod may be on another node by now.
fn shown(key: &Key, seen: Seen) -> Result<Entry> {
    match seen {
        Seen::Entry(entry) if entry.key == *key => Ok(entry),
        Seen::Entry(_) | Seen::Tombstone(_) | Seen::Nothing => Err(Error::NotFound(key.clone())),
        Seen::Fault(fault) => Err(Error::Corrupt(fault)),
    }
}
