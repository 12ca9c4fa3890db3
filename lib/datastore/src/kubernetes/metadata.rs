//! The metadata of objects in the classic group: what users gave stands in an annotation.

use calico_api::Kind;
use serde_json::{Map, Value, json};

use super::group::ApiGroup;

/// The annotation that holds the metadata as users gave it.
pub(super) const ANNOTATION: &str = "projectcalico.org/metadata";

/// The UID of the same object in the other API: its bits reversed octet by octet, but for the two octets that hold
/// version and variant. Its own inverse. What is not a UID is returned as it is.
pub(super) fn convert_uid(uid: &str) -> String {
    match uid.parse::<uuid::Uuid>() {
        Ok(uid) => {
            let mut octets = uid.into_bytes();
            for (index, octet) in octets.iter_mut().enumerate() {
                if index != 6 && index != 8 {
                    *octet = octet.reverse_bits();
                }
            }
            uuid::Uuid::from_bytes(octets).hyphenated().to_string()
        }
        Err(_) => uid.to_owned(),
    }
}

/// Labels and annotations that stay visible on the stored object.
fn stays(key: &str) -> bool {
    key.contains("projectcalico.org/") || key.contains("operator.tigera.io/")
}

/// Kinds whose name is kept in the annotation too, because the object's may differ.
fn keeps_name(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::GlobalNetworkPolicy | Kind::NetworkPolicy | Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy
    )
}

fn map_of(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// A resource as users see it, turned into an object of the classic group.
pub(super) fn to_custom_resource(kind: Kind, mut value: Value) -> Value {
    let Some(object) = value.as_object_mut() else { return value };
    let mut inner = map_of(object.remove("metadata"));
    let mut outer = Map::new();
    for field in ["name", "namespace", "resourceVersion", "uid"] {
        let keep = field == "name" && keeps_name(kind);
        let taken = if keep { inner.get(field).cloned() } else { inner.remove(field) };
        if let Some(taken) = taken {
            outer.insert(field.to_owned(), taken);
        }
    }
    if let Some(Value::String(uid)) = outer.get_mut("uid") {
        *uid = convert_uid(uid);
    }
    convert_owners(&mut inner, &["projectcalico.org/v3"], ApiGroup::Classic.api_version());
    for field in ["labels", "annotations"] {
        let visible: Map<_, _> = match inner.get(field) {
            Some(Value::Object(all)) => {
                all.iter().filter(|(key, _)| stays(key)).map(|(k, v)| (k.clone(), v.clone())).collect()
            }
            _ => Map::new(),
        };
        if !visible.is_empty() {
            outer.insert(field.to_owned(), Value::Object(visible));
        }
    }
    let annotations = outer.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(ANNOTATION.to_owned(), Value::String(Value::Object(inner).to_string()));
    }
    object.insert("apiVersion".to_owned(), json!(ApiGroup::Classic.api_version()));
    object.insert("kind".to_owned(), json!(ApiGroup::Classic.kind_name(kind)));
    object.insert("metadata".to_owned(), Value::Object(outer));
    value
}

/// An object of the classic group as users see it.
///
/// # Errors
/// If the annotation is there and cannot be read.
pub(super) fn from_custom_resource(kind: Kind, mut value: Value) -> Result<Value, String> {
    let Some(object) = value.as_object_mut() else { return Err("it is not an object".to_owned()) };
    let mut outer = map_of(object.remove("metadata"));
    if let Some(Value::String(uid)) = outer.get_mut("uid") {
        *uid = convert_uid(uid);
    }
    let stored_name = outer.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut given_name = None;
    let text = outer.get_mut("annotations").and_then(Value::as_object_mut).and_then(|all| all.remove(ANNOTATION));
    if let Some(text) = text {
        let inner: Map<String, Value> = serde_json::from_str(text.as_str().unwrap_or_default())
            .map_err(|error| format!("annotation {ANNOTATION}: {error}"))?;
        given_name = inner.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned);
        for (field, given) in inner {
            match (&*field, given) {
                (_, Value::Null) | ("name" | "namespace" | "resourceVersion" | "uid", _) => {}
                ("labels" | "annotations", Value::Object(given)) => {
                    let all = outer.entry(field).or_insert_with(|| json!({}));
                    if let Some(all) = all.as_object_mut() {
                        all.extend(given);
                    }
                }
                (_, given) => {
                    outer.insert(field, given);
                }
            }
        }
    }
    if outer.get("annotations").and_then(Value::as_object).is_some_and(Map::is_empty) {
        outer.remove("annotations");
    }
    convert_owners(&mut outer, &["projectcalico.org/v3", "crd.projectcalico.org/v1"], ApiGroup::Native.api_version());
    if keeps_name(kind) {
        let name = given_name.unwrap_or_else(|| presented_name(object, &stored_name));
        outer.insert("name".to_owned(), json!(name));
    }
    object.insert("apiVersion".to_owned(), json!(calico_api::API_VERSION));
    object.insert("kind".to_owned(), json!(kind.as_str()));
    object.insert("metadata".to_owned(), Value::Object(outer));
    Ok(value)
}

/// Policies of the default tier were once stored as `default.<name>`.
fn presented_name(object: &Map<String, Value>, stored: &str) -> String {
    let tier = object.get("spec").and_then(|spec| spec.get("tier")).and_then(Value::as_str).unwrap_or_default();
    match stored.strip_prefix("default.") {
        Some(name) if matches!(tier, "" | "default") => name.to_owned(),
        _ => stored.to_owned(),
    }
}

/// The other name under which an object of this name may be stored, of the time before policies lost their prefix.
pub(super) fn legacy_name(kind: Kind, name: &str) -> Option<String> {
    (keeps_name(kind) && !name.starts_with("default.")).then(|| format!("default.{name}"))
}

fn convert_owners(metadata: &mut Map<String, Value>, from: &[&str], to: &str) {
    let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") else { return };
    for owner in owners.iter_mut().filter_map(Value::as_object_mut) {
        let ours = owner.get("apiVersion").and_then(Value::as_str).is_some_and(|version| from.contains(&version));
        if !ours {
            continue;
        }
        owner.insert("apiVersion".to_owned(), json!(to));
        if let Some(Value::String(uid)) = owner.get_mut("uid") {
            *uid = convert_uid(uid);
        }
    }
}
