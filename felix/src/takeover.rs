//! What becomes of the addresses that `host-local` gave, when a node changes over to Calico's IPAM (reference
//! ipam-cni-datastore.md §4.17)?
//!
//! They are written into IPAM under their containers' handles, before the agent serves its first request: no pod can be
//! given an address that another one has. Then `host-local`'s folder goes. It is done only where `UPGRADE_HOST_LOCAL` asks for
//! it: the folder may be in use as well, by a network whose configuration has `host-local` as IPAM and means to keep it.
//!
//! Departs from Calico, where an init container does it (`calico-ipam -upgrade`), sets the whole cluster's `datastoreReady`
//! to false meanwhile and deletes the plugins: here the plugins hold no credential and get no address without the agent,
//! which is what does this.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use calico_api::{Kind, PoolUse, WorkloadEndpointSpec};
use calico_datastore::Filter;
use ipam::host_local::Lease;
use ipam::{AssignError, AssignRequest};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::agent::Agent;
use crate::allocator::IpamError;

/// `host-local`'s folder of Calico's network.
pub(crate) const FOLDER: &str = "/var/lib/cni/networks/k8s-pod-network";
/// The network, which begins the handles.
const NETWORK: &str = "k8s-pod-network";
/// The pauses between attempts at a store that does not answer: from the first, doubling, to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// Whether the node is to change over.
pub(crate) fn is_wanted(get: impl Fn(&str) -> Option<String>) -> bool {
    let text = get("UPGRADE_HOST_LOCAL").unwrap_or_default();
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => true,
        "" | "false" | "f" | "0" => false,
        text => {
            warn!(text, "UPGRADE_HOST_LOCAL is neither true nor false; the addresses of host-local are left alone");
            false
        }
    }
}

/// Takes over what is in the folder; returns when no address is left that IPAM could still be told of.
pub(crate) async fn run(agent: &Agent, folder: &Path) {
    let leases = match read(folder) {
        Ok(Some(leases)) => leases,
        Ok(None) => return,
        Err(error) => {
            let folder = folder.display();
            warn!(%folder, %error, "addresses of host-local are not taken over: new pods may be given one that is in use");
            return;
        }
    };
    info!(addresses = leases.len(), "the addresses of host-local are taken over");
    // Another plugin that is just at it ends first, and later ones are kept out until this is done.
    let lock = lock(folder).await;
    let pods = pods(agent).await;
    let mut left = 0_usize;
    for (file, lease) in leases {
        match take(agent, &lease, pods.get(&lease.address)).await {
            Ok(()) => {
                if let Err(error) = fs::remove_file(&file) {
                    warn!(file = %file.display(), %error, "an address that is taken over is still host-local's, too");
                    left += 1;
                }
            }
            Err(error) => {
                warn!(address = %lease.address, container = lease.container_id, %error, "an address of host-local stays its own");
                left += 1;
            }
        }
    }
    drop(lock);
    if left == 0
        && let Err(error) = fs::remove_dir_all(folder)
    {
        warn!(folder = %folder.display(), %error, "the folder of host-local is empty and stays");
    }
    info!(left, "the addresses of host-local are taken over, but for those left");
}

/// The folder's leases with their files; `None` if there is no folder.
fn read(folder: &Path) -> io::Result<Option<Vec<(PathBuf, Lease)>>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut leases = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if !path.is_file() {
            continue;
        }
        match Lease::read(&name, &fs::read(&path)?) {
            Ok(Some(lease)) => leases.push((path, lease)),
            Ok(None) => {}
            Err(reason) => warn!(file = %path.display(), reason, "a file of host-local is passed over"),
        }
    }
    leases.sort_by_key(|(_, lease)| lease.address);
    Ok(Some(leases))
}

/// `host-local`'s own lock.
async fn lock(folder: &Path) -> Option<File> {
    let path = folder.join("lock");
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.lock().map(|()| file)
    });
    match locked.await {
        Ok(Ok(file)) => Some(file),
        Ok(Err(error)) => {
            warn!(%error, "host-local's lock cannot be taken");
            None
        }
        Err(_) => None,
    }
}

/// The namespaces and names of this node's pods, by address: so far as the store shows any.
async fn pods(agent: &Agent) -> BTreeMap<IpAddr, (String, String)> {
    let mut pods = BTreeMap::new();
    match agent.bounded(agent.store.list::<WorkloadEndpointSpec>(&Filter::default())).await {
        Ok(list) => {
            for endpoint in list.items.into_iter().filter(|endpoint| endpoint.spec.node == agent.node) {
                let namespace = endpoint.metadata.namespace.clone().unwrap_or_default();
                let networks = endpoint.spec.ip_networks.iter().filter_map(|text| text.parse::<IpNet>().ok());
                pods.extend(networks.map(|network| (network.addr(), (namespace.clone(), endpoint.spec.pod.clone()))));
            }
        }
        Err(error) => warn!(%error, kind = %Kind::WorkloadEndpoint, "taken-over addresses will not name their pods"),
    }
    pods
}

/// Writes one address into IPAM, however long the store takes to answer.
async fn take(agent: &Agent, lease: &Lease, pod: Option<&(String, String)>) -> Result<(), IpamError> {
    let mut attributes = BTreeMap::from([
        ("node".to_owned(), agent.node.clone()),
        ("timestamp".to_owned(), ipam::block::attribute_time(Timestamp::now())),
    ]);
    if let Some((namespace, name)) = pod {
        attributes.extend([("namespace".to_owned(), namespace.clone()), ("pod".to_owned(), name.clone())]);
    }
    let request = AssignRequest {
        ipv4: lease.address.is_ipv4(),
        ipv6: lease.address.is_ipv6(),
        addresses: vec![lease.address],
        pool_use: PoolUse::Workload,
        attributes,
        ..AssignRequest::ipv4(format!("{NETWORK}.{}", lease.container_id))
    };
    let mut pause = PAUSES.0;
    loop {
        let assigned = async { agent.addresses.assign(request.clone(), None).await?.settled().await };
        match assigned.await {
            Ok(_) => return Ok(()),
            // Written to the store or not, asked for again under the same handle it is given again.
            Err(
                error @ (IpamError::Silent
                | IpamError::Assign(AssignError::Datastore { .. } | AssignError::Contended { .. })),
            ) => {
                warn!(address = %lease.address, %error, "an address of host-local is not taken over yet; trying again");
            }
            Err(error) => return Err(error),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}
