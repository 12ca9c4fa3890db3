//! How the node's side of a workload's interface must be set (reference felix.md §2.1, ipam-cni-datastore.md §5.6).
//!
//! Every parameter is read first and written only where it differs: a restart changes nothing.

use calico_netlink::{Address, Error, Link, LinkChange, Mac, Socket, sysctl};
use ipnet::{IpNet, Ipv6Net};
use tracing::warn;

/// The MAC of every node's side; the gateway that pods know is the IPv6 link-local address made of it.
pub const HOST_MAC: Mac = Mac([0xee; 6]);

/// `fe80::ecee:eeff:feee:eeee/64`, made of [`HOST_MAC`] (RFC 4291 appendix A).
const HOST_LINK_LOCAL: [u16; 8] = [0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee];

/// The group of interfaces whose workloads are gone: a number that nobody is likely to use for something else.
pub(crate) const LEAVING: u32 = 0x0c1c_a700;

/// Removes the interfaces that were switched off by [`Dataplane::dismiss`](crate::Dataplane::dismiss), all at once. It takes
/// some 20 ms, in which the kernel can do other things: not on the thread that serves pods.
///
/// # Errors
/// The kernel's, but not that there are none.
pub fn remove_leaving(socket: &mut Socket) -> Result<(), Error> {
    match socket.delete_group(LEAVING) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Sets the parameters of an interface. `ipv6`: whether the workload has an IPv6 address. `new`: it was just made, so that
/// there is no use in looking how they are.
///
/// # Errors
/// A parameter without which the workload has no connection.
pub(crate) fn set_parameters(name: &str, ipv6: bool, new: bool) -> Result<(), Error> {
    let ensure = |parts: &[&str], value| match new && sysctl::write(parts, value).is_ok() {
        true => Ok(()),
        // Perhaps it may not be written here, but is as it should be.
        false => ensure(parts, value),
    };
    for (parameter, value) in [("route_localnet", "1"), ("proxy_arp", "1"), ("forwarding", "1")] {
        ensure(&["net", "ipv4", "conf", name, parameter], value)?;
    }
    // Only a delay of ARP's answers: worth a warning, no more.
    if let Err(error) = ensure(&["net", "ipv4", "neigh", name, "proxy_delay"], "0") {
        warn!(interface = name, %error, "answers to ARP stay delayed");
    }
    let conf = |parameter| ["net", "ipv6", "conf", name, parameter];
    if let Err(error) = ensure(&conf("accept_ra"), "0")
        && !error.is_not_found()
    {
        warn!(interface = name, %error, "router advertisements of the workload are not refused");
    }
    if ipv6 {
        // Before the interface goes up: the link-local address is made of the MAC and not checked for duplicates.
        // accept_dad has to come before disable_ipv6, whose change to 0 makes the address.
        for (parameter, value) in [
            ("addr_gen_mode", "0"),
            ("accept_dad", "0"),
            ("disable_ipv6", "0"),
            ("proxy_ndp", "1"),
            ("forwarding", "1"),
        ] {
            ensure(&conf(parameter), value)?;
        }
    }
    Ok(())
}

/// Gives the interface the node's MAC, where the kernel lets us, and switches it on.
///
/// # Errors
/// If it cannot be switched on.
pub(crate) fn switch_on(socket: &mut Socket, link: &Link) -> Result<(), Error> {
    if link.mac != Some(HOST_MAC) {
        let change = LinkChange { mac: Some(HOST_MAC), ..LinkChange::default() };
        if let Err(error) = socket.change_link(link.index, &change) {
            warn!(interface = link.name, %error, "the interface keeps its own MAC");
        }
    }
    if link.up {
        return Ok(());
    }
    socket.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })
}

/// Makes sure of the link-local address that the workload has as its gateway. The kernel makes it by itself,
/// unless somebody told it not to, or it went up before it had its MAC.
///
/// # Errors
/// If the kernel refuses it.
pub(crate) fn ensure_link_local(socket: &mut Socket, index: u32) -> Result<(), Error> {
    let network = IpNet::V6(Ipv6Net::new_assert(HOST_LINK_LOCAL.into(), 64));
    let address = Address { scope: 253, ..Address::new(index, network) }.without_duplicate_detection();
    match socket.add_address(&address) {
        Err(error) if !error.is_exists() => Err(error),
        _ => Ok(()),
    }
}

fn ensure(parts: &[&str], value: &str) -> Result<(), Error> {
    if sysctl::read(parts)? == value { Ok(()) } else { sysctl::write(parts, value) }
}
