//! Resources that are objects of their own: the operations on one of them.
//!
//! IPAM's records are deleted only at the version that was read, which the API server's DELETE cannot be trusted with
//! where Calico's nodes write too: the object is first marked (`spec.deleted`) at that version, then deleted. A marked
//! object is a tombstone. Whoever comes across one finishes it, so that a crash between the two steps blocks nobody.

use calico_api::{Key, Kind};
use http::Method;
use serde_json::{Value, json};
use tracing::{debug, info};

use super::Kubernetes;
use super::client::{Failure, JSON};
use super::codec::{self, Seen, has_tombstones, is_tombstone, metadata_of, revision_of};
use super::group::ApiGroup;
use super::metadata::legacy_name;
use crate::{Entry, Error, Result, Revision};

/// How often an operation begins anew because others got in between.
const TRIES: u32 = 10;

impl Kubernetes {
    pub(super) async fn get_custom(&self, key: &Key) -> Result<Entry> {
        let object = self.stored(key).await?;
        if is_tombstone(key.kind(), &object) {
            self.finish(key, &object).await;
            return Err(Error::NotFound(key.clone()));
        }
        self.entry(key, object)
    }

    pub(super) async fn create_custom(&self, key: &Key, value: Value) -> Result<Entry> {
        let object = codec::encode(self.group, key, value, None)?;
        let path = self.group.collection(key.kind(), key.namespace());
        for _ in 0..TRIES {
            match self
                .client
                .send(Method::POST, &path, JSON, &object)
                .await
                .map_err(|failure| self.failed(key, failure))
            {
                Ok(stored) => return self.entry(key, stored),
                Err(error @ Error::AlreadyExists(_)) if has_tombstones(key.kind()) => match self.stored(key).await {
                    Ok(old) if is_tombstone(key.kind(), &old) => self.finish(key, &old).await,
                    Ok(_) => return Err(error),
                    Err(Error::NotFound(_)) => {} // gone in between
                    Err(other) => return Err(other),
                },
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict(key.clone()))
    }

    /// Replaces the object, or with `status` only that part of it.
    pub(super) async fn update_custom(
        &self,
        key: &Key,
        value: Value,
        revision: &Revision,
        status: bool,
    ) -> Result<Entry> {
        let mut object = codec::encode(self.group, key, value, Some(revision))?;
        let mut absent = Error::NotFound(key.clone());
        for name in self.names(key) {
            let Some(path) = self.group.object(key, &name) else { break };
            let path = if status { format!("{path}/status") } else { path };
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("name".to_owned(), json!(name));
            }
            match self.client.send(Method::PUT, &path, JSON, &object).await.map_err(|failure| self.failed(key, failure))
            {
                Ok(stored) => return self.entry(key, stored),
                Err(error @ Error::NotFound(_)) => absent = error,
                Err(error) => return Err(error),
            }
        }
        Err(absent)
    }

    pub(super) async fn delete_custom(&self, key: &Key, revision: Option<&Revision>) -> Result<Entry> {
        for _ in 0..TRIES {
            let object = self.stored(key).await?;
            if is_tombstone(key.kind(), &object) {
                self.finish(key, &object).await;
                return Err(Error::NotFound(key.clone()));
            }
            if revision.is_some_and(|revision| *revision != revision_of(&object)) {
                return Err(Error::Conflict(key.clone()));
            }
            let deleted = if has_tombstones(key.kind()) {
                self.mark_and_delete(key, &object).await
            } else {
                self.delete_at(key, &object).await
            };
            match deleted {
                Ok(()) => {
                    let revision = revision_of(&object);
                    // Unreadable things can be deleted too.
                    return self.entry(key, object.clone()).or(Ok(Entry { key: key.clone(), value: object, revision }));
                }
                Err(Error::Conflict(_)) if revision.is_none() => {} // somebody wrote in between: any version will do
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict(key.clone()))
    }

    /// Deletes the very version that was read.
    async fn delete_at(&self, key: &Key, object: &Value) -> Result<()> {
        let preconditions =
            json!({"uid": metadata_of(object, "uid"), "resourceVersion": metadata_of(object, "resourceVersion")});
        self.send_delete(key, object, preconditions).await.map_err(|failure| self.failed(key, failure))
    }

    /// Marks the very version that was read, and deletes what was marked.
    async fn mark_and_delete(&self, key: &Key, object: &Value) -> Result<()> {
        let mut marked = object.clone();
        if let Some(metadata) = marked.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        if let Some(spec) = marked.get_mut("spec").and_then(Value::as_object_mut) {
            codec::mark(self.group, key.kind(), spec, true);
        }
        let path = self.path_of(key, object)?;
        let failed = |failure| self.failed(key, failure);
        let marked = self.client.send(Method::PUT, &path, JSON, &marked).await.map_err(failed)?;
        // From here on it counts as deleted, whatever becomes of the second step.
        self.finish(key, &marked).await;
        Ok(())
    }

    /// Deletes a tombstone. If that fails, whoever comes next does it.
    pub(super) async fn finish(&self, key: &Key, tombstone: &Value) {
        match self.send_delete(key, tombstone, json!({"uid": metadata_of(tombstone, "uid")})).await {
            Ok(()) => debug!(%key, "tombstone deleted"),
            Err(Failure::Refused(status)) if matches!(status.code, 404 | 409) => {
                debug!(%key, "tombstone deleted by another")
            }
            Err(failure) => info!(%key, ?failure, "tombstone left for the next who finds it"),
        }
    }

    async fn send_delete(&self, key: &Key, object: &Value, preconditions: Value) -> Result<(), Failure> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
        let path = self.path_of(key, object).map_err(|error| Failure::Unreachable(error.to_string()))?;
        self.client.send(Method::DELETE, &path, JSON, &options).await.map(drop)
    }

    /// The object as it is stored, under whichever name.
    async fn stored(&self, key: &Key) -> Result<Value> {
        for name in self.names(key) {
            let Some(path) = self.group.object(key, &name) else { break };
            match self.client.get(&path).await.map_err(|failure| self.failed(key, failure)) {
                Err(Error::NotFound(_)) => {}
                other => return other,
            }
        }
        Err(Error::NotFound(key.clone()))
    }

    /// The names under which an object may be stored, the usual one first.
    fn names(&self, key: &Key) -> Vec<String> {
        let name = key.name();
        let legacy = if self.group == ApiGroup::Classic { legacy_name(key.kind(), &name) } else { None };
        std::iter::once(name).chain(legacy).collect()
    }

    fn path_of(&self, key: &Key, object: &Value) -> Result<String> {
        self.group.object(key, metadata_of(object, "name")).ok_or_else(|| Error::NotFound(key.clone()))
    }

    /// The resource that an object is, which must be the one asked for.
    fn entry(&self, key: &Key, object: Value) -> Result<Entry> {
        let name = metadata_of(&object, "name").to_owned();
        match codec::decode(self.group, key.kind(), object) {
            Seen::Entry(entry) if entry.key == *key => Ok(entry),
            Seen::Entry(entry) => Err(Error::Corrupt(crate::Fault {
                kind: key.kind(),
                key: Some(key.clone()),
                reason: format!("its content is that of {}", entry.key),
                name,
            })),
            Seen::Fault(fault) => Err(Error::Corrupt(crate::Fault { key: Some(key.clone()), ..fault })),
            Seen::Tombstone(_) | Seen::Nothing => Err(Error::NotFound(key.clone())),
        }
    }

    /// The kinds whose objects a watch cannot follow: there are too many handles, and nobody needs them all.
    pub(super) const fn is_watchable(kind: Kind) -> bool {
        !matches!(kind, Kind::IPAMHandle)
    }
}
