//! `tunl0`, the kernel's own IPIP device: how does it come to be, and when is it ours?
//!
//! It cannot be removed, for it is there as long as the module is, and others may use it. So what we switch on carries a mark
//! (its alias), and only what carries it is switched off after a restart.

use std::net::IpAddr;

use calico_netlink::{Link, LinkChange};
use felix_calc::Ipip;

use super::device::Device;
use super::{Context, IPIP};
use crate::Finding;

/// The mark. Of a device that is in use with it, Felix is the user.
const MARK: &str = "felix";

/// Octets of the outer header (RFC 2003).
const OVERHEAD: u32 = 20;

/// Makes the device what is wanted.
pub(super) fn make(device: &mut Device<Ipip>, context: &mut Context<'_>) {
    let found = context.underlay.named(IPIP).cloned();
    // What only has the name is nobody's to switch off.
    let ours = |link: &&Link| is_ipip(link) && (link.alias.as_deref() == Some(MARK) || device.settled().is_some());
    let known = found.as_ref().filter(ours).cloned();
    let Some(wanted) = device.begin(known.as_ref(), context.now) else {
        if let Some(link) = found.filter(|link| link.up && known.is_none()) {
            leftover(device, context, &link);
        }
        return;
    };
    let link = match found {
        Some(link) => link,
        None => match create(device, context) {
            Some(link) => link,
            None => return,
        },
    };
    if !is_ipip(&link) {
        device.way = None;
        let kind = link.kind.as_deref().unwrap_or("another");
        let text = format!("it is of kind {kind}, not ipip, so no IPIP can be used; rename or remove it");
        return device.refuse(context.now, text);
    }
    let parent = wanted.local.and_then(|local| context.underlay.holder(local.into())).cloned();
    device.parent = parent.as_ref().map(|link| link.index);
    let carried = parent.as_ref().map(|link| (link.name.as_str(), context.underlay.mtu(link)));
    let mtu = device.mtu(context.settings.ipip_mtu, carried, OVERHEAD, false);
    let change = LinkChange { up: Some(true), mtu: Some(mtu), alias: Some(MARK), ..LinkChange::default() };
    match device.set(context, &link, &change) {
        Ok(link) => {
            device.address(context, &link, wanted.address.map(IpAddr::from));
            device.serve(&link);
        }
        Err(error) => device.fail(context, error),
    }
}

fn is_ipip(link: &Link) -> bool {
    link.kind.as_deref() == Some("ipip")
}

/// Switches it off and takes its addresses. Returns whether that was done.
pub(super) fn remove(device: &mut Device<Ipip>, context: &mut Context<'_>) -> bool {
    let Some(link) = device.index().and_then(|index| context.underlay.link(index)).cloned() else { return false };
    let networks: Vec<_> = context.underlay.addresses_of(link.index).copied().collect();
    for network in networks {
        let address = calico_netlink::Address::new(link.index, network);
        match context.socket.delete_address(&address) {
            Err(error) if !error.is_not_found() => context.applied.fail(IPIP, error),
            _ => {
                context.underlay.remove(&address);
            }
        }
    }
    let change = LinkChange { up: Some(false), alias: Some(""), ..LinkChange::default() };
    match context.socket.change_link(link.index, &change) {
        Err(error) if !error.is_not_found() => {
            context.applied.fail(IPIP, error);
            device.keep(context.now);
            return false;
        }
        _ => {}
    }
    context.underlay.put_link(&Link { up: false, alias: None, ..link.clone() });
    context.lost.insert(link.index);
    device.forget();
    true
}

fn create(device: &mut Device<Ipip>, context: &mut Context<'_>) -> Option<Link> {
    device.way = None;
    let link = match context.socket.add_link(IPIP, "ipip") {
        // The request loads the module, and that makes the device.
        Err(error) if !error.is_exists() => {
            match error.errno() {
                Some(libc::EOPNOTSUPP) => device.refuse(
                    context.now,
                    "the kernel has no IPIP, which an IP pool asks for; load the module ipip on the node (modprobe ipip), \
                     or use VXLAN in the pool",
                ),
                _ => device.fail(context, error),
            }
            return None;
        }
        _ => context.socket.link(IPIP),
    };
    match link {
        Ok(link) => {
            if let Some(link) = &link {
                context.underlay.put_link(link);
            }
            link
        }
        Err(error) => {
            device.fail(context, error);
            None
        }
    }
}

/// Says that somebody else's device is up, which looks like a leftover.
fn leftover(device: &mut Device<Ipip>, context: &Context<'_>, link: &Link) {
    let addresses: Vec<String> = context.underlay.addresses_of(link.index).map(ToString::to_string).collect();
    if !addresses.is_empty() {
        let text = format!(
            "it is up with {}, though no pool of this node uses IPIP and it was not Felix that switched it on; if it is \
             left over, ip address flush dev {IPIP} and ip link set {IPIP} down",
            addresses.join(", ")
        );
        device.findings.push(Finding::interface(IPIP, text));
    }
}
