//! What a cluster holds before anybody configures it: pools, and the resources of settings.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context;
use calico_api::{
    BGPConfiguration, BGPConfigurationSpec, IPAMConfiguration, IPAMConfigurationSpec, IPPool, IPPoolSpec, ObjectMeta,
    Resource, Spec,
};
use calico_datastore::{Error, Filter, Store};
use tracing::{info, warn};

use super::Site;
use super::autodetect::Interface;
use super::patience::Patience;
use super::{kernel, pools};

/// Makes the default pools of families that have none; returns all pools. `pod_subnets` are those of the installer.
pub(super) async fn default_pools(
    site: &Site,
    interfaces: &[Interface],
    pod_subnets: &[ipnet::IpNet],
    patience: &mut Patience<'_>,
) -> anyhow::Result<Vec<IPPool>> {
    let list = || site.store.list::<IPPoolSpec>(&Filter::All);
    let listed = patience.until_answered("list the pools", list).await.context("could not list the pools")?;
    for fault in &listed.faults {
        warn!(pool = fault.name, reason = fault.reason, "pool cannot be read and is passed over");
    }
    let mut pools = listed.items;
    let Some(choices) = &site.config.node.pools else { return Ok(pools) };
    if !listed.faults.is_empty() {
        return Ok(pools); // of which family the unreadable one is, nobody knows
    }
    let families: BTreeSet<bool> = pools.iter().filter_map(|pool| Some(pool.spec.cidr()?.addr().is_ipv4())).collect();
    let locals: Vec<IpAddr> = interfaces.iter().flat_map(|i| &i.addresses).map(|held| held.network.addr()).collect();
    for (choice, ipv4) in choices.iter().zip([true, false]) {
        let supported = ipv4 || (site.config.ipv6 && kernel::has_ipv6());
        if families.contains(&ipv4) || !supported {
            continue;
        }
        let pool =
            pools::default_pool(choice, ipv4, pod_subnets, &locals).context("could not choose a range for a pool")?;
        if let Some(pool) = pool {
            info!(pool = pool.name(), cidr = pool.spec.cidr, "default pool made");
            create_unless_there(&site.store, &pool, patience).await?;
            pools.push(pool);
        }
    }
    Ok(pools)
}

/// Makes the resources that hold cluster-wide settings, where they are missing.
pub(super) async fn default_resources(site: &Site, patience: &mut Patience<'_>) -> anyhow::Result<()> {
    let name = || ObjectMeta::named("default");
    create_unless_there(&site.store, &crate::settings::default_resource(), patience).await?;
    let bgp = BGPConfiguration::new(name(), BGPConfigurationSpec::default());
    create_unless_there(&site.store, &bgp, patience).await?;
    // With host-local IPAM there are no records of ours, nor settings of them.
    if site.use_pod_cidr {
        return Ok(());
    }
    create_unless_there(&site.store, &IPAMConfiguration::new(name(), IPAMConfigurationSpec::default()), patience).await
}

async fn create_unless_there<S: Spec>(
    store: &Store,
    resource: &Resource<S>,
    patience: &mut Patience<'_>,
) -> anyhow::Result<()> {
    let key = resource.key();
    // Looked for first: on a restart it is there, and reading needs fewer rights than writing.
    match patience.until_answered(&format!("read {key}"), || store.get::<S>(&key)).await {
        Err(Error::NotFound(_)) => {}
        Ok(_) | Err(Error::Corrupt(_)) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("could not read {key}")),
    }
    match patience.until_answered(&format!("create {key}"), || store.create(resource)).await {
        Ok(_) | Err(Error::AlreadyExists(_)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("could not create {key}")),
    }
}
