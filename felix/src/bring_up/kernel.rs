//! What bring-up asks of the kernel: interfaces, parameters that can be written, forwarding.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use calico_netlink::{Error, Socket, sysctl};
use ipnet::IpNet;

use super::autodetect::{Address, Interface, is_global};

/// Where a container finds the node's parameters in a form that it may write.
const MOUNTED: &str = "/host/proc/sys/net";
/// Where everybody finds them.
const USUAL: &str = "/proc/sys/net";

/// The kernel's network parameters cannot be written, as pods' interfaces need.
#[derive(Debug, thiserror::Error)]
#[error(
    "the kernel's network parameters cannot be written ({}); give the container felix the node's /proc/sys/net as a \
     volume (hostPath /proc/sys/net, not read-only) at {MOUNTED}, or say with FELIX_PROCSYSNET where it is",
    .tried.iter().map(|(file, error)| format!("{}: {error}", file.display())).collect::<Vec<_>>().join("; ")
)]
pub(crate) struct ReadOnly {
    tried: Vec<(PathBuf, io::Error)>,
}

/// Finds where the kernel's network parameters can be written, for the whole process.
///
/// procfs shows the network namespace of whoever opens a file, so the node's mount is as good as our own.
///
/// # Errors
/// If they can be written nowhere.
pub(crate) fn find_parameters(configured: Option<&Path>) -> Result<PathBuf, ReadOnly> {
    let candidates = match configured {
        Some(configured) => vec![configured.to_owned()],
        None => [MOUNTED, USUAL].map(PathBuf::from).to_vec(),
    };
    let mut tried = Vec::new();
    for folder in candidates {
        let file = folder.join("ipv4/ip_forward");
        // Opened only: nothing is written, and a mount that is read-only says so here.
        match OpenOptions::new().write(true).open(&file) {
            Ok(_) => {
                sysctl::use_net(&folder);
                return Ok(folder);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && configured.is_none() => {}
            Err(error) => tried.push((file, error)),
        }
    }
    Err(ReadOnly { tried })
}

/// The node's interfaces with their addresses, in the kernel's order.
///
/// # Errors
/// The kernel's.
pub(crate) fn interfaces() -> Result<Vec<Interface>, Error> {
    let mut socket = Socket::open()?;
    let mut addresses: BTreeMap<u32, Vec<Address>> = BTreeMap::new();
    for found in socket.addresses()?.into_iter().filter(|found| found.network.addr().is_ipv4() || found.is_usable()) {
        // For IPv6 the same flag means "temporary": an address to go out with, not one to be known by.
        let address = Address { network: found.network, secondary: found.is_secondary() };
        addresses.entry(found.index).or_default().push(address);
    }
    let links = socket.links()?.into_iter().map(|link| Interface {
        addresses: addresses.remove(&link.index).unwrap_or_default(),
        index: link.index,
        name: link.name,
        up: link.up,
        mtu: link.mtu,
    });
    Ok(links.collect())
}

/// The subnets of the node's interfaces, each as address and length; not those of workloads (by the beginnings of their
/// names), nor what has no neighbours.
///
/// # Errors
/// The kernel's.
pub(crate) fn subnets(prefixes: &[String]) -> Result<Vec<IpNet>, Error> {
    let is_workload = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let outward = interfaces()?.into_iter().filter(|interface| interface.name != "lo" && !is_workload(&interface.name));
    let networks = outward.flat_map(|interface| interface.addresses).map(|held| held.network);
    Ok(networks
        .filter(|network| network.prefix_len() < network.max_prefix_len() && is_global(network.addr()))
        .collect())
}

/// Whether an interface of this name is there and has an address.
///
/// # Errors
/// The kernel's.
pub(crate) fn holds(name: &str, address: IpAddr) -> Result<bool, Error> {
    let mut socket = Socket::open()?;
    let Some(link) = socket.link(name)? else { return Ok(false) };
    Ok(socket.addresses()?.iter().any(|held| held.index == link.index && held.network.addr() == address))
}

/// Makes the node forward packets, as pods' traffic needs.
///
/// # Errors
/// If a parameter cannot be written.
pub(crate) fn forward(ipv6: bool) -> Result<(), Error> {
    ensure(&["net", "ipv4", "ip_forward"], "1")?;
    if ipv6 && has_ipv6() {
        ensure(&["net", "ipv6", "conf", "all", "forwarding"], "1")?;
    }
    Ok(())
}

/// Whether the kernel knows IPv6.
pub(crate) fn has_ipv6() -> bool {
    sysctl::file(&["net", "ipv6"]).is_ok_and(|folder| folder.exists())
}

fn ensure(parts: &[&str], value: &str) -> Result<(), Error> {
    if sysctl::read(parts)? == value { Ok(()) } else { sysctl::write(parts, value) }
}
