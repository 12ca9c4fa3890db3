//! The VXLAN devices: when must one be made anew?
//!
//! A device of our name is ours, whoever made it. What the kernel can change in place (MTU, MAC, addresses) is; if anything
//! else differs, it is removed and made again within one apply, with its entries and routes.

use std::net::IpAddr;

use calico_netlink::{Error, Link, LinkChange, Mac, Vxlan, sysctl};

use super::device::Device;
use super::{Context, VXLAN_V6, findings};
use crate::Finding;

type Wanted = felix_calc::Vxlan;

/// Octets of outer Ethernet, IP, UDP and VXLAN headers, for IPv4 and IPv6 (RFC 7348 §5).
const OVERHEAD: u32 = 50;
const OVERHEAD_V6: u32 = 70;

/// The first kernel whose checksum offload works in tunnels.
const GOOD_KERNEL: (u32, u32) = (5, 8);

/// Makes the device what is wanted.
pub(super) fn make(device: &mut Device<Wanted>, context: &mut Context<'_>) {
    let found = context.underlay.named(device.name).cloned();
    let Some(wanted) = device.begin(found.as_ref(), context.now) else { return };
    if let Err(error) = make_wanted(device, context, found, &wanted) {
        device.fail(context, error);
    }
}

fn make_wanted(
    device: &mut Device<Wanted>,
    context: &mut Context<'_>,
    found: Option<Link>,
    wanted: &Wanted,
) -> Result<(), Error> {
    let ipv6 = device.name == VXLAN_V6;
    let (overhead, configured) = match ipv6 {
        true => (OVERHEAD_V6, context.settings.vxlan_mtu_v6),
        false => (OVERHEAD, context.settings.vxlan_mtu),
    };
    let Some(parent) = context.underlay.holder(wanted.local).cloned() else {
        device.parent = None;
        device.way = None;
        if let Some(link) = found.filter(|link| link.kind.as_deref() == Some("vxlan")) {
            device.serve(&link); // as it was made, while the address is away
        }
        let text = format!(
            "no interface of this node holds {}, which its Node gives as its address; the tunnel follows as soon as one \
             does. If the address is wrong, correct the Node's spec.bgp",
            wanted.local
        );
        device.refuse(context.now, text);
        return Ok(());
    };
    device.parent = Some(parent.index);
    let mtu = device.mtu(configured, Some((&parent.name, context.underlay.mtu(&parent))), overhead, ipv6);
    let desired = Vxlan {
        vni: context.settings.vxlan_vni,
        port: context.settings.vxlan_port,
        local: Some(wanted.local),
        // Packets do not leave by a loopback that lends its address: the routes tell by which.
        parent: (!parent.loopback).then_some(parent.index),
        ..Vxlan::default()
    };
    let mac = Mac(wanted.mac);
    let link = match found {
        Some(link) if link.vxlan == Some(desired) => link,
        other => {
            device.way = None;
            if let Some(old) = other {
                tracing::info!(interface = device.name, was = ?old.vxlan, "the device is made anew with other parameters");
                delete(context, &old)?;
            }
            match create(device, context, &desired, mtu, mac)? {
                Some(link) => link,
                None => return Ok(()),
            }
        }
    };
    if ipv6 {
        let parameter = ["net", "ipv6", "conf", device.name, "disable_ipv6"];
        if sysctl::read(&parameter).is_ok_and(|value| value != "0") {
            sysctl::write(&parameter, "0")?;
        }
    }
    checksums(device, context);
    let change = LinkChange { up: Some(true), mtu: Some(mtu), mac: Some(mac), ..LinkChange::default() };
    let link = match device.set(context, &link, &change) {
        Ok(link) => link,
        Err(error) if error.errno() == Some(libc::EADDRINUSE) => {
            device.way = None;
            let found = device.port_holder.take();
            let holder = found.unwrap_or_else(|| findings::port_holder(desired.port, context.underlay, device.name));
            let text = format!(
                "UDP port {} is used by {holder}, so no VXLAN can be received; stop that, or give another vxlanPort in \
                 FelixConfiguration (the same on all nodes)",
                desired.port
            );
            device.port_holder = Some(holder);
            device.refuse(context.now, text);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    device.address(context, &link, wanted.address);
    device.serve(&link);
    Ok(())
}

/// Removes the device. Returns whether that was done.
pub(super) fn remove(device: &mut Device<Wanted>, context: &mut Context<'_>) -> bool {
    let Some(link) = device.index().and_then(|index| context.underlay.link(index)).cloned() else { return false };
    match delete(context, &link) {
        Ok(()) => device.forget(),
        Err(error) => {
            device.keep(context.now);
            device.fail(context, error);
        }
    }
    device.index().is_none()
}

fn delete(context: &mut Context<'_>, link: &Link) -> Result<(), Error> {
    match context.socket.delete_link(link.index) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    context.underlay.remove_link(link.index);
    context.lost.insert(link.index);
    Ok(())
}

/// `None` if only somebody else can help; the finding says so.
fn create(
    device: &mut Device<Wanted>,
    context: &mut Context<'_>,
    desired: &Vxlan,
    mtu: u32,
    mac: Mac,
) -> Result<Option<Link>, Error> {
    let Err(error) = context.socket.add_vxlan(device.name, desired, mtu, mac) else {
        let link = context.socket.link(device.name)?;
        if let Some(link) = &link {
            context.underlay.put_link(link);
        }
        return Ok(link);
    };
    let local = desired.local.is_some_and(|local| local.is_ipv4());
    let clashes = |link: &&Link| {
        link.vxlan.is_some_and(|other| {
            let family = other.local.or(other.remote).map(|address: IpAddr| address.is_ipv4());
            (other.vni, other.port) == (desired.vni, desired.port) && family.unwrap_or(true) == local
        })
    };
    let text = match error.errno() {
        Some(libc::EOPNOTSUPP) => {
            "the kernel has no VXLAN, which an IP pool asks for; load the module vxlan on the node \
                     (modprobe vxlan), or use IPIP in the pool"
                .to_owned()
        }
        _ if error.is_exists() => {
            let other = context.underlay.links().find(clashes).map_or("another interface", |link| link.name.as_str());
            format!(
                "{other} has VNI {} on UDP port {} already; remove it, or give another vxlanVNI or vxlanPort in \
                 FelixConfiguration (the same on all nodes)",
                desired.vni, desired.port
            )
        }
        _ => return Err(error),
    };
    device.refuse(context.now, text);
    Ok(None)
}

/// Has the kernel compute checksums itself where the offload to the device sends wrong ones (reference felix.md §2.5). Where it
/// is off by somebody else's hand, and nothing is configured, it stays so.
fn checksums(device: &mut Device<Wanted>, context: &mut Context<'_>) {
    let wanted = match context.settings.checksum_offload_broken {
        Some(broken) => !broken,
        None if is_good_kernel() => return,
        None => false,
    };
    let is = context.socket.checksum_offload(device.name);
    let result =
        is.and_then(|is| if is == wanted { Ok(()) } else { context.socket.set_checksum_offload(device.name, wanted) });
    if let Err(error) = result {
        let text = format!("checksums of what it sends may be wrong, its offload cannot be set: {error}");
        device.findings.push(Finding::interface(device.name, text));
    }
}

fn is_good_kernel() -> bool {
    let release = sysctl::read(&["kernel", "osrelease"]).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    // What names no version is newer than those that did it wrong.
    numbers.next().zip(numbers.next()).is_none_or(|version| version >= GOOD_KERNEL)
}
