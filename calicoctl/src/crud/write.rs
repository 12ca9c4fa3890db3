//! `calicoctl create`, `apply` and `replace`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use calico_api::validate::{validate_metadata_for_create, validate_pool_update};
use calico_api::{
    AnyResource, BGPFilterSpec, BGPPeer, IPPool, IPPoolSpec, Kind, ObjectMeta, ValidationError, default_on_write,
    validate,
};
use calico_datastore::{Entry, Error, Filter, Store, ensure_initialized};

use super::outcome::Outcome;
use super::{pool, rules};
use crate::arguments::{Files, Globals};
use crate::files::Written;
use crate::{client, files, output};

/// What is done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Create,
    Apply,
    Replace,
    Delete,
}

/// How often an update without a revision is tried against others' writes.
pub(super) const TRIES: usize = 5;

/// Runs one of the three.
pub(crate) async fn write(verb: Verb, skip_exists: bool, flags: &Files, globals: &Globals) -> Result<ExitCode> {
    let (word, past) = match verb {
        Verb::Create => ("create", "created"),
        Verb::Apply => ("apply", "applied"),
        Verb::Replace | Verb::Delete => ("replace", "replaced"),
    };
    let mut resources = files::read(flags)?;
    if resources.is_empty() {
        output::print("No resources specified\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let kinds = resources.iter().map(|written| written.resource.kind()).collect();
    // A BGPPeer may name a BGPFilter that stands further down: no session runs without it even for a moment.
    resources.sort_by_key(|written| written.resource.kind() != Kind::BGPFilter);
    let store = client::open_gated(globals).await?;
    // Only a convenience for the very first command on a new datastore: what really needs it fails by itself.
    let _ = ensure_initialized(&store).await;
    let mut outcome = Outcome::new(word, past, kinds);
    for Written { resource, place } in resources {
        let key = resource.key();
        let done = one(&store, verb, resource, flags.namespace.as_deref()).await;
        let done = done.map_err(|error| match error.downcast_ref::<ValidationError>() {
            Some(fault) => {
                // Several fields have a line each.
                let blank = if fault.fields().len() > 1 { '\n' } else { ' ' };
                anyhow!("{fault}{blank}in {key}, {place}")
            }
            None => error,
        });
        let existed = done.as_ref().err().and_then(|error| error.downcast_ref::<Error>());
        let skipped = skip_exists && matches!(existed, Some(Error::AlreadyExists(_)));
        outcome.add(if skipped { Ok(()) } else { done });
    }
    outcome.tell()
}

async fn one(store: &Store, verb: Verb, mut resource: AnyResource, namespace: Option<&str>) -> Result<()> {
    rules::place(&mut resource, namespace)?;
    rules::allowed(verb, resource.kind(), resource.name())?;
    rules::ours(store, resource.kind())?;
    default_on_write(&mut resource);
    ValidationError::check(validate(&resource))?;
    match verb {
        Verb::Create => create(store, &resource).await,
        Verb::Replace | Verb::Delete => replace(store, &resource).await,
        Verb::Apply => {
            let mut fresh = resource.clone();
            fresh.metadata_mut().resource_version = None;
            match create(store, &fresh).await {
                Err(error) if is_there(&error) => replace(store, &resource).await,
                other => other,
            }
        }
    }
}

fn is_there(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Error>(), Some(Error::AlreadyExists(_) | Error::NotSupported { .. }))
}

async fn create(store: &Store, resource: &AnyResource) -> Result<()> {
    let given = resource.metadata();
    ValidationError::check(validate_metadata_for_create(resource.metadata()))?;
    let mut resource = resource.clone();
    *resource.metadata_mut() = ObjectMeta {
        name: given.name.clone(),
        namespace: given.namespace.clone(),
        labels: given.labels.clone(),
        annotations: given.annotations.clone(),
        uid: Some(uuid::Uuid::new_v4().to_string()),
        creation_timestamp: Some(ipam::block::whole_seconds(jiff::Timestamp::now())),
        ..ObjectMeta::default()
    };
    match &resource {
        AnyResource::IPPool(pool) => check_pool(store, pool).await?,
        AnyResource::BGPPeer(peer) => check_filters(store, peer).await?,
        _ => {}
    }
    store.backend().create(&resource.key(), resource.to_value()).await?;
    Ok(())
}

/// A new pool against those that exist, and against the blocks inside it.
async fn check_pool(store: &Store, new: &IPPool) -> Result<()> {
    let key = AnyResource::from(new.clone()).key();
    match store.get::<IPPoolSpec>(&key).await {
        Ok(_) => return Err(Error::AlreadyExists(key).into()),
        Err(Error::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    pool::check(store, new).await
}

async fn check_filters(store: &Store, peer: &BGPPeer) -> Result<()> {
    let Some(names) = peer.spec.filters.as_ref().filter(|names| !names.is_empty()) else {
        return Ok(());
    };
    let there = store.list::<BGPFilterSpec>(&Filter::All).await?;
    let missing: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| there.items.iter().all(|filter| filter.name() != *name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("BGPFilter(s) not found: {}; create them before the BGPPeer that names them", missing.join(", "))
}

async fn replace(store: &Store, resource: &AnyResource) -> Result<()> {
    let key = resource.key();
    let given = resource.metadata().resource_version.clone().filter(|revision| !revision.is_empty());
    for _ in 1..TRIES {
        match replace_once(store, resource, given.as_deref()).await {
            Err(error) if given.is_none() && matches!(error.downcast_ref(), Some(Error::Conflict(_))) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            other => return other,
        }
    }
    match replace_once(store, resource, given.as_deref()).await {
        Err(error) => Err(error.context(format!("{key} was changed by others at each of {TRIES} tries"))),
        Ok(()) => Ok(()),
    }
}

async fn replace_once(store: &Store, resource: &AnyResource, given: Option<&str>) -> Result<()> {
    let key = resource.key();
    let there = store.backend().get(&key).await?;
    if let Some(given) = given
        && given != there.revision.0
    {
        bail!(
            "{}: resourceVersion {given} is out of date, the latest is {}; get it again and redo the change",
            Error::Conflict(key),
            there.revision
        );
    }
    update(store, resource, there).await
}

/// Puts a resource in the place of what is there, if that is still there. Metadata stay, but for labels and annotations.
///
/// # Errors
/// [`Error::Conflict`] if others wrote meanwhile; [`ValidationError`] if something changes that must not.
pub(super) async fn update(store: &Store, resource: &AnyResource, there: Entry) -> Result<()> {
    let Entry { key, value: there, revision } = there;
    let there = AnyResource::from_value(there)?;
    if let (AnyResource::IPPool(old), AnyResource::IPPool(new)) = (&there, resource) {
        ValidationError::check(validate_pool_update(new, old))?;
    }
    if let AnyResource::BGPPeer(peer) = resource {
        check_filters(store, peer).await?;
    }
    let mut new = resource.clone();
    *new.metadata_mut() = ObjectMeta {
        labels: resource.metadata().labels.clone(),
        annotations: resource.metadata().annotations.clone(),
        ..there.metadata().clone()
    };
    let mut value = new.to_value();
    // The status is what observers say, not what the file remembers of it.
    if let (Some(status), Some(value)) = (there.to_value().get("status"), value.as_object_mut()) {
        value.insert("status".to_owned(), status.clone());
    }
    store.backend().update(&key, value, &revision).await?;
    Ok(())
}
