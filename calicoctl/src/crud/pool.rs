//! Pools beside each other, pools that change, pools that go.

use std::time::Duration;

use anyhow::Result;
use calico_api::validate::{validate_pool_among, validate_pool_blocks};
use calico_api::{BlockAffinitySpec, IPAMBlockSpec, IPPool, IPPoolSpec, Key, ValidationError};
use calico_datastore::{Error, Filter, Revision, Store};

/// How long nodes are given to notice that a pool is disabled, before its blocks are taken from them.
const NOTICE: Duration = Duration::from_millis(500);

/// Refuses a new pool that overlaps another, or that has blocks of another size inside it.
///
/// # Errors
/// Naming both.
pub(crate) async fn check(store: &Store, new: &IPPool) -> Result<()> {
    let pools = store.list::<IPPoolSpec>(&Filter::All).await?;
    ValidationError::check(validate_pool_among(new, &pools.items))?;
    let blocks = store.list::<IPAMBlockSpec>(&Filter::All).await?;
    ValidationError::check(validate_pool_blocks(new, blocks.items.iter().map(|block| block.spec.cidr)))?;
    Ok(())
}

/// Deletes a pool: no new addresses, then its blocks are taken from their nodes, then it goes.
/// Addresses that are in use stay so, in blocks that nobody owns.
///
/// # Errors
/// The store's; [`Error::Conflict`] if `revision` is not the present one.
pub(crate) async fn delete(store: &Store, key: &Key, revision: Option<&Revision>) -> Result<()> {
    let mut pool = store.get::<IPPoolSpec>(key).await?;
    if let Some(revision) = revision
        && pool.metadata.resource_version.as_deref() != Some(revision.0.as_str())
    {
        return Err(Error::Conflict(key.clone()).into());
    }
    if pool.spec.disabled != Some(true) {
        pool.spec.disabled = Some(true);
        store.update(&pool).await?;
        tokio::time::sleep(NOTICE).await;
    }
    if let Some(cidr) = pool.spec.cidr() {
        let mut affinities = store.list::<BlockAffinitySpec>(&Filter::All).await?.items;
        affinities.retain(|affinity| cidr.contains(&affinity.spec.cidr));
        super::delete::give_up(store, &affinities).await?;
    }
    store.delete_key(key).await?;
    Ok(())
}
