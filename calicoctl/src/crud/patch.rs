//! `calicoctl patch`.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use calico_api::{AnyResource, Key, ValidationError, default_on_write, validate, yaml};
use calico_datastore::{Error, Store};
use serde_json::Value;

use super::write::{TRIES, update};
use super::{Verb, merge, operations, rules};
use crate::arguments::{Globals, Patch, PatchType};
use crate::resource_type::ResourceType;
use crate::{client, output};

/// Runs it.
pub(crate) async fn patch(flags: &Patch, globals: &Globals) -> Result<ExitCode> {
    let key = key(&flags.kind, &flags.name, flags.namespace.as_deref())?;
    let patch = yaml::parse(&flags.patch).map_err(|error| anyhow!("the patch is neither JSON nor YAML: {error}"))?;
    let store = client::open_gated(globals).await?;
    match change(&store, &key, |value| apply(value, &patch, flags.patch_type)).await {
        Ok(()) => {
            output::print(&format!("Successfully patched 1 '{}' resource\n", key.kind()))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(anyhow!("hit error: {error:#}")),
    }
}

/// The key of what was named on the command line.
///
/// # Errors
/// If there is no such kind, or the name or the namespace does not go with it.
pub(super) fn key(kind: &str, name: &str, namespace: Option<&str>) -> Result<Key> {
    let it = ResourceType::called(kind).ok_or_else(|| anyhow!("resource type '{kind}' is not supported"))?;
    if name.is_empty() {
        bail!("resource name may not be empty");
    }
    if !it.kind.namespaced() && namespace.is_some() {
        bail!("{} is not namespaced", it.kind);
    }
    let namespace = it.kind.namespaced().then(|| namespace.unwrap_or("default").to_owned());
    Ok(Key::Named { kind: it.kind, namespace, name: name.to_owned() })
}

/// Changes what is stored under a key, again if others write meanwhile.
///
/// # Errors
/// If the change fails, or what it makes is no resource or must not be.
pub(super) async fn change(store: &Store, key: &Key, change: impl Fn(&mut Value) -> Result<()>) -> Result<()> {
    rules::allowed(Verb::Replace, key.kind(), &key.name())?;
    rules::ours(store, key.kind())?;
    let mut attempt = 1;
    loop {
        let there = store.backend().get(key).await?;
        // As we understand it: what the patch adds may then be told from what a newer release has put there.
        let mut value = AnyResource::from_value(there.value.clone())?.to_value();
        let before = value.clone();
        change(&mut value)?;
        let mut resource = AnyResource::strict_from_value(value).context("the patched resource")?;
        if resource.key() != *key {
            bail!("a patch cannot change kind, name or namespace: {key} would become {}", resource.key());
        }
        if resource.to_value() == before {
            return Ok(()); // as it is
        }
        default_on_write(&mut resource);
        ValidationError::check(validate(&resource))?;
        match update(store, &resource, there).await {
            Err(error) if attempt < TRIES && matches!(error.downcast_ref(), Some(Error::Conflict(_))) => attempt += 1,
            other => return other,
        }
    }
}

fn apply(value: &mut Value, patch: &Value, patch_type: PatchType) -> Result<()> {
    match patch_type {
        PatchType::Json => operations::apply(value, patch),
        // Calico's resources name no keys by which lists could be merged, so lists are replaced by both.
        PatchType::Strategic | PatchType::Merge if !patch.is_object() => {
            bail!("the patch must be an object, such as {{\"spec\": …}}; for a list of operations there is --type json")
        }
        PatchType::Strategic => merge::strategic(value, patch),
        PatchType::Merge => {
            merge::merge(value, patch);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_api::Kind;

    #[test]
    fn what_is_named_is_a_key_or_an_error() {
        let node = key("nodes", "node-1", None).unwrap();
        assert_eq!(node, Key::named(Kind::Node, "node-1"));
        assert_eq!(key("netset", "a", None).unwrap().namespace(), Some("default"));
        for (kind, name, namespace, part) in [
            ("nodes", "", None, "may not be empty"),
            ("noodles", "a", None, "resource type 'noodles' is not supported"),
            ("nodes", "a", Some("shop"), "Node is not namespaced"),
        ] {
            let error = key(kind, name, namespace).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
