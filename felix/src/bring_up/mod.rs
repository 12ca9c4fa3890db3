//! What must be true of a node before it can serve: it has a name and an address, the datastore knows it,
//! there are pools, the pods' MTU is known, the kernel forwards.
//!
//! Every step may be repeated: a restart finds its own work done and writes nothing. What may pass is waited for, in the
//! same process and for as long as it takes; only what somebody must change about this process ends it.

pub(crate) mod autodetect;
mod cluster;
mod defaults;
mod kernel;
pub(crate) mod name;
mod node;
mod patience;
mod pools;
mod register;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use calico_datastore::{Store, ensure_initialized_as};
use tracing::info;

use crate::config::Config;
use autodetect::Interface;
pub(crate) use kernel::{find_parameters, holds, subnets};
use node::Addresses;
pub(crate) use node::{Note, Occasion};
pub(crate) use patience::Patience;
pub(crate) use pools::pod_mtu;
use register::Registered;
pub(crate) use register::register;

/// The MTU of a node none of whose interfaces says one (Calico).
const DEFAULT_MTU: u32 = 1460;

/// The node, its settings and its stores.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// What was meant.
    pub(crate) config: Arc<Config>,
    /// The node's name.
    pub(crate) name: String,
    /// Where Calico's resources are.
    pub(crate) store: Store,
    /// Whether pods have addresses of their node's pod CIDR (`USE_POD_CIDR`), and there are no records of IPAM.
    pub(crate) use_pod_cidr: bool,
    /// Kubernetes' API, if there is one: the same store, or another beside it.
    pub(crate) kubernetes: Option<Store>,
}

impl Site {
    /// Whether Calico's resources are in Kubernetes' API, where a Node is Kubernetes' own.
    pub(crate) fn in_kubernetes(&self) -> bool {
        self.store.backend().cluster_type() == "kdd"
    }

    /// What Kubernetes calls this node.
    pub(crate) fn kubernetes_node(&self) -> &str {
        self.config.node.kubernetes_node.as_deref().unwrap_or(&self.name)
    }
}

/// What bring-up found out.
#[derive(Clone, Debug)]
pub(crate) struct BroughtUp {
    /// The node's own MTU, before anything is wrapped.
    pub(crate) node_mtu: u32,
}

/// Brings the node up.
///
/// # Errors
/// What somebody must act upon: an address that another node has, a pool that cannot be, a store that refuses.
pub(crate) async fn bring_up(site: &Site, patience: &mut Patience<'_>) -> anyhow::Result<BroughtUp> {
    let config = &site.config;
    if config.forwarding {
        kernel::forward(config.ipv6).context("forwarding could not be turned on")?;
    }

    patience.progress("writing the node");
    let Registered { addresses, interfaces, notes } = loop {
        match register(site, Occasion::Start, None).await {
            Ok(registered) => break registered,
            Err(error) if error.may_pass() => patience.pause("register the node", &error).await,
            Err(error) => return Err(error.into()),
        }
    };
    patience.rest();
    notes.iter().for_each(Note::log);

    patience.progress("preparing the datastore");
    let installer = cluster::installer(site, patience).await?;
    let mut words = config.node.cluster_type.clone();
    words.extend(installer.word.map(str::to_owned));
    patience
        .until_answered("prepare the datastore", || ensure_initialized_as(&site.store, &words))
        .await
        .context("could not prepare the datastore")?;
    let pools = defaults::default_pools(site, &interfaces, &installer.pod_subnets, patience).await?;
    defaults::default_resources(site, patience).await?;
    // Departs from Calico, which gives tunnel devices their addresses here, before they are there, and does not start without:
    // others use a tunnel as soon as they know its address, so it is written when the device is up (`tunnels`).

    // Only now: its presence tells the CNI plugins that the name in it is good.
    name::remember(&config.node.name_file, &site.name)?;

    let node_mtu = node_mtu(config, &addresses, &interfaces);
    write_mtu(&config.mtu_file, pod_mtu(&config.tunnels.mtus(node_mtu), pools.iter().map(|pool| &pool.spec)))?;
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
