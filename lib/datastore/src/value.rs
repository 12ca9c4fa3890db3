//! What every back end does to a value at its border: identity, revision, and whether it belongs where it is stored.

use calico_api::{Key, Kind};
use serde_json::{Map, Value, json};

use crate::{Entry, Error, Fault, Result, Revision};

/// Metadata that is the store's, not the writer's.
const STORE_OWNED: &[&str] = &["resourceVersion", "managedFields", "selfLink"];

/// Whether resources of the kind have an identity and a time of birth. IPAM's records have neither in Calico.
fn has_identity(kind: Kind) -> bool {
    !matches!(kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle)
}

fn metadata(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()?.entry("metadata").or_insert_with(|| json!({})).as_object_mut()
}

/// Sets the revision in `metadata.resourceVersion`.
pub(crate) fn stamp(value: &mut Value, revision: &Revision) {
    if let Some(metadata) = metadata(value) {
        metadata.insert("resourceVersion".to_owned(), Value::String(revision.0.clone()));
    }
}

/// Removes what is the store's from a value that is to be written.
pub(crate) fn strip(value: &mut Value) {
    if let Some(metadata) = metadata(value) {
        for field in STORE_OWNED {
            metadata.remove(*field);
        }
    }
}

/// Gives a value that is created a random `uid` and a `creationTimestamp`, where they are absent.
pub(crate) fn give_identity(kind: Kind, value: &mut Value) {
    if let Some(metadata) = metadata(value).filter(|_| has_identity(kind)) {
        metadata.entry("uid").or_insert_with(|| json!(uuid::Uuid::new_v4().to_string()));
        metadata
            .entry("creationTimestamp")
            .or_insert_with(|| json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()));
    }
}

/// Whether an update says itself who the resource is, so that [`keep_identity`] has nothing to do.
pub(crate) fn knows_identity(kind: Kind, value: &Value) -> bool {
    !has_identity(kind)
        || ["uid", "creationTimestamp"].iter().all(|field| value.pointer(&format!("/metadata/{field}")).is_some())
}

/// Takes `uid` and `creationTimestamp` from the value that is replaced, where the writer did not give them.
pub(crate) fn keep_identity(value: &mut Value, previous: &Value) {
    for field in ["uid", "creationTimestamp"] {
        if let Some(before) = previous.pointer(&format!("/metadata/{field}"))
            && let Some(metadata) = metadata(value)
        {
            metadata.entry(field).or_insert_with(|| before.clone());
        }
    }
}

/// Whether `value` may be written under `key`.
pub(crate) fn check_write(key: &Key, value: &Value) -> Result<()> {
    let encode = |reason: String| Error::Encode { key: key.clone(), reason };
    let kind = key.kind();
    if let Key::Named { namespace, name, .. } = key {
        match (kind.namespaced(), namespace.as_deref().unwrap_or_default()) {
            (true, "") => return Err(encode("it needs a namespace".to_owned())),
            (false, namespace) if !namespace.is_empty() => {
                return Err(encode("its kind has no namespaces".to_owned()));
            }
            _ => {}
        }
        if name.is_empty() || name.contains('/') {
            return Err(encode("its name is empty or has a slash".to_owned()));
        }
    }
    check_stored(key, value).map_err(encode)
}

/// Whether `value` is what should be stored under `key`, as far as that can be told without its type.
pub(crate) fn check_stored(key: &Key, value: &Value) -> std::result::Result<(), String> {
    let Some(object) = value.as_object() else { return Err("it is not an object".to_owned()) };
    let kind = key.kind();
    for (field, expected) in [("kind", kind.as_str()), ("apiVersion", kind.api_version())] {
        match object.get(field) {
            Some(Value::String(found)) if found == expected => {}
            found => return Err(format!("{field} is {}, expected \"{expected}\"", found.unwrap_or(&Value::Null))),
        }
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let is_cidr =
        |cidr: &ipnet::IpNet| text("/spec/cidr").parse().is_ok_and(|found: ipnet::IpNet| found.trunc() == *cidr);
    let (field, fits) = match key {
        Key::Named { namespace, name, .. } => {
            let namespace = namespace.as_deref().unwrap_or_default();
            ("metadata.name", text("/metadata/name") == name && text("/metadata/namespace") == namespace)
        }
        Key::Block(cidr) => ("spec.cidr", is_cidr(cidr)),
        Key::Affinity { owner, cidr } => {
            ("spec.node or spec.cidr", is_cidr(cidr) && text("/spec/node") == owner.name())
        }
        Key::Handle(id) => ("spec.handleID", text("/spec/handleID") == id),
    };
    if fits { Ok(()) } else { Err(format!("{field} does not fit what it is stored under, {key}")) }
}

/// What was stored under `key` as an entry, or as a fault if it cannot be that.
pub(crate) fn read(key: Key, name: &str, text: &[u8], revision: Revision) -> std::result::Result<Entry, Fault> {
    let parsed = match serde_json::from_slice::<Value>(text) {
        Ok(value) => check_stored(&key, &value).map(|()| value),
        Err(error) => Err(format!("it is not JSON: {error}")),
    };
    match parsed {
        Ok(mut value) => {
            stamp(&mut value, &revision);
            Ok(Entry { key, value, revision })
        }
        Err(reason) => Err(Fault { kind: key.kind(), name: name.to_owned(), key: Some(key), reason }),
    }
}
