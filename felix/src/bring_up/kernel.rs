//! What bring-up asks of the kernel: interfaces and forwarding.

use std::collections::BTreeMap;
use std::path::Path;

use calico_netlink::{Error, Socket, sysctl};

use super::autodetect::{Address, Interface};

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
    Path::new("/proc/sys/net/ipv6").exists()
}

fn ensure(parts: &[&str], value: &str) -> Result<(), Error> {
    if sysctl::read(parts)? == value { Ok(()) } else { sysctl::write(parts, value) }
}
