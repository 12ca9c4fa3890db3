//! Kubernetes' own kinds that BGP reads, as they are: Secret, Service, EndpointSlice.

use calico_api::{Key, Kind};
use http::Method;
use serde_json::{Value, json};

use super::Kubernetes;
use super::client::{Failure, JSON, MERGE_PATCH};
use super::codec::{Seen, revision_of};
use super::group::is_segment;
use crate::{Entry, Error, Fault, Result};

impl Kubernetes {
    pub(super) async fn get_core(&self, key: &Key) -> Result<Entry> {
        let (name, namespace) = (key.name(), key.namespace().unwrap_or_default());
        if !is_segment(&name) || !is_segment(namespace) {
            return Err(Error::NotFound(key.clone()));
        }
        let path = format!("{}/{name}", collection(key.kind(), Some(namespace)));
        let object = self.client.get(&path).await.map_err(|failure| self.failed(key, failure))?;
        match decode(key.kind(), object) {
            Seen::Entry(entry) if entry.key == *key => Ok(entry),
            Seen::Fault(fault) => Err(Error::Corrupt(fault)),
            _ => Err(Error::NotFound(key.clone())),
        }
    }

    /// A request about an object that is no resource of ours, such as a Lease: HTTP's code, and the object or the
    /// server's `Status`. `body` is sent, as JSON or as a merge patch, unless it is null.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the server does not answer.
    pub async fn object(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let answer = match (method, body) {
            ("PATCH", body) => self.client.send(Method::PATCH, path, MERGE_PATCH, body).await,
            ("POST", body) => self.client.send(Method::POST, path, JSON, body).await,
            ("PUT", body) => self.client.send(Method::PUT, path, JSON, body).await,
            _ => self.client.get(path).await,
        };
        match answer {
            Ok(object) => Ok((200, object)),
            Err(Failure::Refused(status)) => {
                Ok((status.code, json!({"message": status.message, "reason": status.reason})))
            }
            Err(Failure::Unreachable(reason)) => Err(self.unavailable(reason)),
        }
    }
}

/// The path of all objects of a core kind, or of those in a namespace.
pub(super) fn collection(kind: Kind, namespace: Option<&str>) -> String {
    let version = kind.api_version();
    let root = if version.contains('/') { "apis" } else { "api" };
    match namespace {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{}", kind.plural()),
        None => format!("/{root}/{version}/{}", kind.plural()),
    }
}

/// What an object is to us: itself, without the bookkeeping that can be larger than the rest.
pub(super) fn decode(kind: Kind, mut object: Value) -> Seen {
    let revision = revision_of(&object);
    if let Some(fields) = object.as_object_mut() {
        // The items of a list do not say what they are.
        fields.insert("apiVersion".to_owned(), json!(kind.api_version()));
        fields.insert("kind".to_owned(), json!(kind.as_str()));
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            // `kubectl apply` leaves a copy of all values in one of these.
            if kind == Kind::Secret {
                metadata.remove("annotations");
            }
        }
    }
    match Key::of_value(kind, &object) {
        Ok(key) => Seen::Entry(Entry { key, value: object, revision }),
        Err(error) => {
            let name = super::codec::metadata_of(&object, "name").to_owned();
            Seen::Fault(Fault { kind, key: None, name, reason: error.to_string() })
        }
    }
}
