//! What would the store hold if the resources in these files were applied, or deleted?

use anyhow::{Result, anyhow, bail};
use calico_api::{AnyResource, Key, Kind, ValidationError, default_on_write, validate};
use serde_json::Value;

use super::cluster::Snapshot;
use crate::crud::rules;
use crate::files::Written;

/// The snapshot with the resources in the place of those of the same name, or without these.
///
/// # Errors
/// If `calicoctl apply` (or `delete`) would refuse one of them; all faults are told.
pub(super) fn preview(snapshot: &Snapshot, written: Vec<Written>, delete: bool) -> Result<Snapshot> {
    let mut after = snapshot.clone();
    let mut faults = Vec::new();
    let mut placed = Vec::new();
    for Written { mut resource, place } in written {
        let checked =
            rules::place(&mut resource, None).and_then(|()| if delete { Ok(()) } else { check(&mut resource) });
        match checked {
            Ok(()) => placed.push((resource, place)),
            Err(fault) => faults.push(format!("{}, {place}: {fault:#}", resource.key())),
        }
    }
    for (resource, place) in &placed {
        let key = resource.key();
        if !Snapshot::concerns(key.kind()) {
            continue;
        }
        if !delete {
            put(&mut after, key, resource.to_value());
        } else if after.resources.remove(&key).is_none() {
            faults.push(format!("{key}, {place}: it does not exist, so it cannot be deleted"));
        }
    }
    if !delete {
        for (resource, place) in &placed {
            faults
                .extend(missing_filters(&after, resource).map(|fault| format!("{}, {place}: {fault}", resource.key())));
        }
    }
    if faults.is_empty() { Ok(after) } else { bail!("{}", faults.join("\n")) }
}

fn check(resource: &mut AnyResource) -> Result<()> {
    if resource.name().is_empty() {
        bail!("resource name may not be empty");
    }
    default_on_write(resource);
    ValidationError::check(validate(resource)).map_err(|error| anyhow!(error))
}

fn put(after: &mut Snapshot, key: Key, mut value: Value) {
    // Kubernetes' own labels of a node, and what it alone says of it, stay whatever is applied.
    let old = after.resources.get(&key).filter(|_| key.kind() == Kind::Node);
    if let (Some(old), Some(fields)) = (old, value.as_object_mut()) {
        if let Some(status) = old.get("status") {
            fields.insert("status".to_owned(), status.clone());
        }
        let labels = old.pointer("/metadata/labels").and_then(Value::as_object).filter(|_| after.kubernetes);
        let metadata = fields.get_mut("metadata").and_then(Value::as_object_mut);
        if let (Some(old), Some(metadata)) = (labels, metadata) {
            let new = metadata.entry("labels").or_insert_with(|| Value::Object(serde_json::Map::new()));
            for (label, text) in old {
                if let Some(new) = new.as_object_mut() {
                    new.entry(label).or_insert_with(|| text.clone());
                }
            }
        }
    }
    after.resources.insert(key, value);
}

fn missing_filters(after: &Snapshot, resource: &AnyResource) -> Option<String> {
    let AnyResource::BGPPeer(peer) = resource else { return None };
    let there = |name: &&String| after.resources.contains_key(&Key::named(Kind::BGPFilter, name.as_str()));
    let names = peer.spec.filters.iter().flatten();
    let missing: Vec<&str> = names.filter(|name| !there(name)).map(String::as_str).collect();
    (!missing.is_empty()).then(|| format!("BGPFilter(s) not found: {}", missing.join(", ")))
}
