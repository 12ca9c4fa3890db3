//! What must be true of a node before it can serve: it has a name and an address, the datastore knows it,
//! there are pools, the pods' MTU is known, the kernel forwards.
//!
//! Every step may be repeated: a restart finds its own work done and writes nothing.

pub(crate) mod autodetect;
mod kernel;
pub(crate) mod name;
mod node;
mod pools;

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use calico_api::{
    BGPConfiguration, BGPConfigurationSpec, IPAMConfiguration, IPAMConfigurationSpec, IPPool, IPPoolSpec, Key, Kind,
    Node, NodeSpec, ObjectMeta, Resource, Spec,
};
use calico_daemon::Reporter;
use calico_datastore::{Error, Filter, Store, ensure_initialized};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::{Backend, Config};
use autodetect::Interface;
pub(crate) use kernel::interfaces;
use node::Addresses;
pub(crate) use pools::pod_mtu;

/// How long an answer of the store may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an address may take to appear after boot.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(30);

/// The MTU of a node none of whose interfaces says one (Calico).
const DEFAULT_MTU: u32 = 1460;

/// What bring-up found out.
#[derive(Clone, Debug)]
pub(crate) struct BroughtUp {
    /// The node's own MTU, before anything is wrapped.
    pub(crate) node_mtu: u32,
}

/// Brings the node up.
///
/// # Errors
/// What somebody must act upon: no address, an address that another node has, a store that refuses.
pub(crate) async fn bring_up(
    config: &Config,
    name: &str,
    store: &Store,
    startup: &Reporter,
) -> anyhow::Result<BroughtUp> {
    let progress = |text: &str| startup.report(true, false, text.to_owned());
    if config.forwarding {
        kernel::forward(config.ipv6).context("forwarding could not be turned on; Felix needs a writable /proc/sys")?;
    }

    progress("writing the node");
    let (addresses, interfaces) = register(config, name, store).await?;

    progress("preparing the datastore");
    patiently("prepare the datastore", || ensure_initialized(store))
        .await
        .context("could not prepare the datastore")?;
    let pools = default_pools(config, store, &interfaces).await?;
    default_resources(store).await?;
    // Only now: its presence tells the CNI plugins that the name in it is good.
    name::remember(&config.node.name_file, name)?;

    let node_mtu = node_mtu(config, &addresses, &interfaces);
    write_mtu(&config.mtu_file, pod_mtu(node_mtu, pools.iter().map(|pool| &pool.spec)))?;
    Ok(BroughtUp { node_mtu })
}

/// Writes the pods' MTU where the CNI plugins look.
///
/// # Errors
/// The file system's, with the path.
pub(crate) fn write_mtu(file: &Path, mtu: u32) -> anyhow::Result<()> {
    let text = mtu.to_string();
    if std::fs::read_to_string(file).is_ok_and(|before| before == text) {
        return Ok(());
    }
    info!(mtu, file = %file.display(), "pod MTU");
    write_whole(file, &text).with_context(|| format!("could not write the pods' MTU to {}", file.display()))
}

/// Detects the node's addresses and writes the Node, unless it says so already.
async fn register(config: &Config, name: &str, store: &Store) -> anyhow::Result<(Addresses, Vec<Interface>)> {
    let key = Key::named(Kind::Node, name);
    let deadline = Instant::now() + ADDRESS_PATIENCE;
    loop {
        let stored = match patiently("read the node", || store.get::<NodeSpec>(&key)).await {
            Ok(node) => Some(node),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error).with_context(|| format!("could not read {key}")),
        };
        let interfaces = interfaces().context("could not list the node's interfaces")?;
        let addresses = match node::addresses(&config.node, &interfaces, stored.as_ref(), &autodetect::reach) {
            Ok(addresses) => addresses,
            Err(error) if Instant::now() < deadline => {
                warn!(%error, "waiting for an address");
                sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let wanted = node::merged(name, stored.as_ref(), &config.node, &addresses, &interfaces);
        if stored.as_ref() == Some(&wanted) {
            info!(node = name, "node is as stored");
            return Ok((addresses, interfaces));
        }
        if config.node.check_conflicts && config.node.backend != Backend::None {
            let nodes = patiently("list the nodes", || store.list::<NodeSpec>(&Filter::All)).await;
            let nodes = nodes.context("could not list the nodes")?;
            if let Some((other, address)) = node::conflict(name, &addresses, &nodes.items) {
                bail!(
                    "node {other} has the address {address} too: give one of them another (IP, IP6), delete {other} if it \
                     is gone, or set DISABLE_NODE_IP_CHECK=true"
                );
            }
        }
        let written = match &stored {
            Some(_) => patiently("update the node", || store.update(&wanted)).await,
            None => patiently("create the node", || store.create(&wanted)).await,
        };
        match written {
            Ok(node) => {
                warn_of_change(stored.as_ref(), &node);
                let text = |network: Option<ipnet::IpNet>| network.map(|network| network.to_string());
                info!(node = name, ipv4 = text(addresses.ipv4), ipv6 = text(addresses.ipv6), "node written");
                return Ok((addresses, interfaces));
            }
            Err(Error::Conflict(_) | Error::AlreadyExists(_) | Error::NotFound(_)) => {} // somebody was faster: look again
            Err(Error::NotSupported { reason, .. }) => bail!(
                "there is no node {name} in the datastore, and it cannot be created ({reason}): set NODENAME to the \
                 name that Kubernetes has for this machine"
            ),
            Err(error) => return Err(error).with_context(|| format!("could not write {key}")),
        }
    }
}

fn warn_of_change(before: Option<&Node>, after: &Node) {
    let bgp = |node: &Node| node.spec.bgp.clone().unwrap_or_default();
    let Some(before) = before.map(bgp) else { return };
    let after = bgp(after);
    for (was, is) in [(before.ipv4_address, after.ipv4_address), (before.ipv6_address, after.ipv6_address)] {
        if was.is_some() && was != is {
            warn!(was, is, "the node's address changed; its peers must learn of it");
        }
    }
}

/// Makes the default pools of families that have none; returns all pools.
async fn default_pools(config: &Config, store: &Store, interfaces: &[Interface]) -> anyhow::Result<Vec<IPPool>> {
    let list = || store.list::<IPPoolSpec>(&Filter::All);
    let listed = patiently("list the pools", list).await.context("could not list the pools")?;
    for fault in &listed.faults {
        warn!(pool = fault.name, reason = fault.reason, "pool cannot be read and is passed over");
    }
    let mut pools = listed.items;
    let Some(choices) = &config.node.pools else { return Ok(pools) };
    if !listed.faults.is_empty() {
        return Ok(pools); // of which family the unreadable one is, nobody knows
    }
    let families: BTreeSet<bool> = pools.iter().filter_map(|pool| Some(pool.spec.cidr()?.addr().is_ipv4())).collect();
    let locals: Vec<IpAddr> = interfaces.iter().flat_map(|i| &i.addresses).map(|held| held.network.addr()).collect();
    for (choice, ipv4) in choices.iter().zip([true, false]) {
        let supported = ipv4 || (config.ipv6 && kernel::has_ipv6());
        if families.contains(&ipv4) || !supported {
            continue;
        }
        if let Some(pool) = pools::default_pool(choice, ipv4, &locals).context("could not choose a range for a pool")? {
            info!(pool = pool.name(), cidr = pool.spec.cidr, "default pool made");
            create_unless_there(store, &pool).await?;
            pools.push(pool);
        }
    }
    Ok(pools)
}

/// Makes the resources that hold cluster-wide settings, where they are missing.
async fn default_resources(store: &Store) -> anyhow::Result<()> {
    let name = || ObjectMeta::named("default");
    create_unless_there(store, &BGPConfiguration::new(name(), BGPConfigurationSpec::default())).await?;
    create_unless_there(store, &IPAMConfiguration::new(name(), IPAMConfigurationSpec::default())).await
}

async fn create_unless_there<S: Spec>(store: &Store, resource: &Resource<S>) -> anyhow::Result<()> {
    let key = resource.key();
    // Looked for first: on a restart it is there, and reading needs fewer rights than writing.
    match patiently("read a default", || store.get::<S>(&key)).await {
        Err(Error::NotFound(_)) => {}
        Ok(_) | Err(Error::Corrupt(_)) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("could not read {key}")),
    }
    match patiently("create a default", || store.create(resource)).await {
        Ok(_) | Err(Error::AlreadyExists(_)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("could not create {key}")),
    }
}

/// Repeats an operation until the store answers, whatever it answers.
pub(crate) async fn patiently<T, F>(what: &'static str, operation: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut wait = Duration::from_millis(100);
    loop {
        match timeout(PATIENCE, operation()).await {
            Ok(Err(error)) if error.may_pass() => {
                warn!(what, %error, again_in = ?wait, "waiting for the datastore")
            }
            Ok(result) => return result,
            Err(_) => warn!(what, silent_for = ?PATIENCE, again_in = ?wait, "waiting for the datastore"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

/// The smallest MTU of the interfaces that lead out of the node.
fn node_mtu(config: &Config, addresses: &Addresses, interfaces: &[Interface]) -> u32 {
    let up = || interfaces.iter().filter(|interface| interface.up);
    let matching =
        up().filter(|interface| config.mtu_interfaces.is_match(&interface.name)).map(|found| found.mtu).min();
    // Departs from Calico: a bond or bridge that the pattern misses is found by the node's own address.
    let own = || {
        let held = |interface: &&Interface| {
            let mut networks = interface.addresses.iter().map(|held| Some(held.network.addr()));
            networks.any(|address| {
                address == addresses.ipv4.map(|ipv4| ipv4.addr()) || address == addresses.ipv6.map(|ipv6| ipv6.addr())
            })
        };
        up().filter(held).map(|found| found.mtu).min()
    };
    matching.or_else(own).unwrap_or(DEFAULT_MTU)
}

/// Writes a file so that a reader sees all of it or what was there before.
pub(crate) fn write_whole(file: &Path, text: &str) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = directory.join(format!(".{name}.{}", std::process::id()));
    let mut out = std::fs::File::create(&draft)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&draft, file)
}
