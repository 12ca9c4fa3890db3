//! `calicoctl delete`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use calico_api::{
    BlockAffinity, BlockAffinitySpec, IPAMBlockSpec, Key, Kind, NodeSpec, TierSpec, WorkloadEndpointSpec,
};
use calico_datastore::{Error, Filter, Revision, Store};
use ipam::ReleaseAffinityError;

use super::{Verb, pool, rules};
use crate::arguments::{Delete, Globals};
use crate::files::Written;
use crate::resource_type::ResourceType;
use crate::{client, files, output};

/// What is to be deleted.
struct Doomed {
    key: Key,
    revision: Option<Revision>,
}

/// Runs it.
pub(crate) async fn delete(flags: &Delete, globals: &Globals) -> Result<ExitCode> {
    let doomed = doomed(flags)?;
    if doomed.is_empty() {
        output::print("No resources specified\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let store = client::open_gated(globals).await?;
    let (mut done, mut failures) = (0usize, String::new());
    for one in &doomed {
        match remove(&store, one).await {
            Ok(()) => done += 1,
            Err(error) if flags.skip_not_exists && matches!(error.downcast_ref(), Some(Error::NotFound(_))) => {
                done += 1
            }
            Err(error) => failures += &format!("Failed to delete '{}' resource: [{error:#}]\n", one.key.kind()),
        }
    }
    let first = doomed.first().map(|one| one.key.kind());
    let kind = match first {
        Some(kind) if doomed.iter().all(|one| one.key.kind() == kind) => format!("'{kind}' "),
        _ => String::new(),
    };
    if done > 0 {
        output::print(&format!("Successfully deleted {done} {kind}resource(s)\n"))?;
    }
    output::errors(&failures)?;
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn doomed(flags: &Delete) -> Result<Vec<Doomed>> {
    let namespace = flags.files.namespace.as_deref();
    let Some(kind) = &flags.kind else {
        if flags.files.filename.is_none() {
            bail!("name a kind and what to delete of it, or a file with -f");
        }
        let resources = files::read(&flags.files)?;
        return resources
            .into_iter()
            .map(|Written { mut resource, .. }| {
                rules::place(&mut resource, namespace)?;
                let revision = resource.metadata().resource_version.clone().filter(|revision| !revision.is_empty());
                Ok(Doomed { key: resource.key(), revision: revision.map(Revision) })
            })
            .collect();
    };
    let it = ResourceType::called(kind).ok_or_else(|| anyhow!("resource type '{kind}' is not supported"))?;
    if flags.names.is_empty() {
        bail!("resource name may not be empty: say which {} to delete", it.kind);
    }
    if !it.kind.namespaced() && namespace.is_some() {
        bail!("{} is not namespaced", it.kind);
    }
    let namespace = it.kind.namespaced().then(|| namespace.unwrap_or("default").to_owned());
    let key = |name: &String| Key::Named { kind: it.kind, namespace: namespace.clone(), name: name.clone() };
    Ok(flags.names.iter().map(|name| Doomed { key: key(name), revision: None }).collect())
}

async fn remove(store: &Store, doomed: &Doomed) -> Result<()> {
    let Doomed { key, revision } = doomed;
    rules::allowed(Verb::Delete, key.kind(), &key.name())?;
    rules::ours(store, key.kind())?;
    match key.kind() {
        Kind::IPPool => return pool::delete(store, key, revision.as_ref()).await,
        Kind::Node => clean_up_node(store, key).await?,
        Kind::Tier => refuse_full_tier(store, key).await?,
        _ => {}
    }
    store.backend().delete(key, revision.as_ref()).await?;
    Ok(())
}

/// Releases what a node holds, where the store lets nodes be deleted at all.
async fn clean_up_node(store: &Store, key: &Key) -> Result<()> {
    let node = store.get::<NodeSpec>(key).await?;
    if node.spec.orch_refs.iter().any(|it| it.orchestrator == "k8s")
        && store.backend().describe().starts_with("kubernetes")
    {
        // Kubernetes deletes its nodes itself; the store's refusal says so.
        return Ok(());
    }
    let name = key.name();
    release_addresses(store, &name).await?;
    let endpoints = store.list::<WorkloadEndpointSpec>(&Filter::Node(name.clone())).await?;
    for endpoint in &endpoints.items {
        store.delete_key(&endpoint.key()).await?;
    }
    let affinities = store.list::<BlockAffinitySpec>(&Filter::Node(name.clone())).await?;
    give_up(store, &affinities.items).await?;
    for kind in [Kind::BGPConfiguration, Kind::FelixConfiguration] {
        match store.delete_key(&Key::named(kind, format!("node.{name}"))).await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Releases what was taken for a node: its pods' addresses, of whatever network, and its tunnels'.
async fn release_addresses(store: &Store, node: &str) -> Result<()> {
    let blocks = store.list::<IPAMBlockSpec>(&Filter::All).await?;
    let attributes = blocks.items.iter().flat_map(|block| &block.spec.attributes);
    let of_node = attributes.filter(|attribute| {
        let told = attribute.secondary.as_ref().and_then(|map| map.get("node"));
        told.is_some_and(|told| told.as_deref() == Some(node))
    });
    let handles: BTreeSet<&str> = of_node.filter_map(|attribute| attribute.handle_id.as_deref()).collect();
    let mut allocator = ipam::Allocator::new(store.clone(), node.to_owned());
    for handle in handles {
        let released = allocator.release_by_handle(handle, jiff::Timestamp::now()).await;
        released.with_context(|| format!("addresses of handle {handle}"))?;
    }
    Ok(())
}

/// Takes blocks from their owners. One that cannot be taken does not keep the others; those are told at the end.
pub(super) async fn give_up(store: &Store, affinities: &[BlockAffinity]) -> Result<()> {
    let mut failures = Vec::new();
    for affinity in affinities {
        let (owner, cidr) = (affinity.spec.owner(), affinity.spec.cidr);
        match ipam::release_affinity(store, &owner, cidr, false).await {
            // The affinity was a leftover, and is gone now.
            Ok(()) | Err(ReleaseAffinityError::NotOwner { .. }) => {}
            Err(error) => failures.push(format!("{:#}", anyhow!(error).context(format!("{cidr} of {owner}")))),
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        bail!("blocks could not be taken from their owners: {}", failures.join("; "))
    }
}

async fn refuse_full_tier(store: &Store, key: &Key) -> Result<()> {
    store.get::<TierSpec>(key).await?;
    let kinds =
        [Kind::NetworkPolicy, Kind::GlobalNetworkPolicy, Kind::StagedNetworkPolicy, Kind::StagedGlobalNetworkPolicy];
    for kind in kinds {
        let listing = store.backend().list(kind, &Filter::All).await?;
        let tier = key.name();
        let inside = |value: &serde_json::Value| value.pointer("/spec/tier").and_then(|it| it.as_str()) == Some(&tier);
        if let Some(entry) = listing.entries.iter().find(|entry| inside(&entry.value)) {
            bail!("Cannot delete a non-empty tier: {} is in it", entry.key);
        }
    }
    Ok(())
}
