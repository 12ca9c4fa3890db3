//! What all tunnel devices have in common.

use std::net::IpAddr;
use std::time::Instant;

use calico_netlink::{Address, Error, Link, LinkChange, sysctl};
use ipnet::IpNet;
use tracing::{info, warn};

use super::{Context, LINGER, RETRY};
use crate::Finding;
use crate::remotes::Way;

/// `IFA_F_NOPREFIXROUTE`: no route in the main table beside the one in the table `local`.
const NO_PREFIX_ROUTE: u32 = 0x200;

/// The least MTU of an interface that has IPv6 (RFC 8200 §5); below it the kernel takes IPv6 away.
const LEAST_IPV6: u32 = 1280;
/// The least of IPv4 (RFC 791 §3.2).
const LEAST_IPV4: u32 = 68;

/// A tunnel device, of which `W` is wanted.
#[derive(Debug)]
pub(super) struct Device<W> {
    pub(super) name: &'static str,
    pub(super) wanted: Option<W>,
    /// What was wanted last.
    last: Option<W>,
    /// When it goes, if it is not wanted again before.
    over: Option<Instant>,
    /// When to try again what was refused.
    pub(super) retry: Option<Instant>,
    /// It took packets, and has not been removed since.
    pub(super) taken: bool,
    /// It takes packets.
    pub(super) way: Option<Way>,
    /// Its number, if it is there and ours.
    index: Option<u32>,
    /// The number of the interface that outer packets leave by.
    pub(super) parent: Option<u32>,
    /// The address that we gave it last.
    address: Option<IpNet>,
    pub(super) findings: Vec<Finding>,
    /// Who holds its UDP port, as was found when that was refused first: to find it takes long.
    pub(super) port_holder: Option<String>,
    /// What others did that was undone since the last audit.
    pub(super) removed: Vec<Finding>,
}

impl<W: Clone> Device<W> {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            wanted: None,
            last: None,
            over: None,
            retry: None,
            taken: false,
            way: None,
            index: None,
            parent: None,
            address: None,
            findings: Vec::new(),
            port_holder: None,
            removed: Vec::new(),
        }
    }

    pub(super) fn index(&self) -> Option<u32> {
        self.index
    }

    /// What it is to be: as wanted, or as last wanted while it lingers.
    pub(super) fn settled(&self) -> Option<&W> {
        self.wanted.as_ref().or(self.last.as_ref())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.over, self.retry].into_iter().flatten().min()
    }

    /// Whether it has lingered long enough.
    pub(super) fn is_over(&self, now: Option<Instant>) -> bool {
        self.over.zip(now).is_some_and(|(over, now)| over <= now)
    }

    /// Lets it linger from now on, if it does.
    pub(super) fn prolong(&mut self, now: Option<Instant>) {
        if let (Some(over), Some(now)) = (&mut self.over, now) {
            *over = now + LINGER;
        }
    }

    /// Could not be removed: that is tried again.
    pub(super) fn keep(&mut self, now: Option<Instant>) {
        self.over = now.map(|now| now + RETRY);
    }

    /// Begins to look at the device, which is there if `ours` says so. Returns what it is to be, if anything.
    pub(super) fn begin(&mut self, ours: Option<&Link>, now: Option<Instant>) -> Option<W> {
        self.findings.clear();
        self.retry = None;
        self.index = ours.map(|link| link.index);
        if let Some(wanted) = &self.wanted {
            self.over = None;
            self.last = Some(wanted.clone());
            return Some(wanted.clone());
        }
        if ours.is_none() {
            // Nobody wants it, it is not there: that others removed it is as well.
            self.forget();
            return None;
        }
        if let (None, Some(now)) = (self.over, now) {
            info!(interface = self.name, stays = ?LINGER, "no pool wants the tunnel any more");
            self.over = Some(now + LINGER);
        }
        self.way = ours.and_then(Way::of);
        self.taken |= self.way.is_some();
        self.last.clone()
    }

    /// It is gone for good.
    pub(super) fn forget(&mut self) {
        (self.over, self.last, self.way, self.index, self.parent) = (None, None, None, None, None);
        (self.taken, self.address) = (false, None);
    }

    /// It is not there, or does not take packets, for this reason.
    pub(super) fn refuse(&mut self, now: Option<Instant>, text: impl Into<String>) {
        let finding = Finding::interface(self.name, text);
        warn!(interface = self.name, reason = finding.text, "the tunnel is not as it should be");
        self.findings.push(finding);
        self.retry = now.map(|now| now + RETRY);
    }

    /// The kernel failed at it.
    pub(super) fn fail(&mut self, context: &mut Context<'_>, error: Error) {
        self.way = None;
        context.applied.fail(self.name, error);
    }

    /// The MTU that it is to have: `configured`, or if that is 0 what the parent leaves.
    pub(super) fn mtu(&mut self, configured: u32, parent: Option<(&str, u32)>, overhead: u32, ipv6: bool) -> u32 {
        let least = if ipv6 { LEAST_IPV6 } else { LEAST_IPV4 };
        let Some((parent, mtu)) = parent else {
            return if configured == 0 { least.max(1500 - overhead) } else { configured };
        };
        let most = mtu.saturating_sub(overhead);
        if most < least {
            let text = format!(
                "the MTU {mtu} of {parent} leaves less than the {least} octets that a packet may need; raise it to {} or more",
                least + overhead
            );
            self.findings.push(Finding::interface(self.name, text));
        } else if configured > most {
            let text = format!(
                "the configured MTU {configured} is more than {parent} can carry, whose own is {mtu} and of which the tunnel \
                 takes {overhead}; {most} is used. Correct FelixConfiguration, or raise the MTU of {parent}"
            );
            self.findings.push(Finding::interface(self.name, text));
        }
        if configured == 0 { most.max(least) } else { configured.min(most).max(least) }
    }

    /// Changes of the device what differs, takes note of how it is then, and gives it its parameters.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn set(
        &mut self,
        context: &mut Context<'_>,
        link: &Link,
        change: &LinkChange<'_>,
    ) -> Result<Link, Error> {
        let addressed = context.underlay.addresses_of(link.index).any(|network| network.addr().is_ipv4());
        self.loosen(addressed);
        let is = |wanted: Option<bool>| wanted.is_none_or(|wanted| wanted == link.up);
        let same = is(change.up)
            && change.mtu.is_none_or(|mtu| mtu == link.mtu)
            && change.mac.is_none_or(|mac| Some(mac) == link.mac)
            && change.alias.is_none_or(|alias| Some(alias) == link.alias.as_deref());
        if same {
            self.index = Some(link.index);
            return Ok(link.clone());
        }
        // The MTU by itself: a device that is up already takes it, and one that cannot go up has it.
        context.socket.change_link(link.index, change)?;
        let found = context.socket.link_by_index(link.index)?;
        let link = found.unwrap_or_else(|| Link { up: change.up.unwrap_or(link.up), ..link.clone() });
        context.underlay.put_link(&link);
        if link.up {
            context.fresh.insert(link.index);
        }
        self.index = Some(link.index);
        Ok(link)
    }

    /// Asymmetric paths are the rule while nodes change their ways one after the other, so the reverse path filter is loose. On
    /// a device without an address the kernel drops even then what it would answer by another device
    /// (`__fib_validate_source`), and others send before we have ours: until then there is no filter.
    fn loosen(&mut self, addressed: bool) {
        let rp_filter = ["net", "ipv4", "conf", self.name, "rp_filter"];
        let wanted = if addressed { "2" } else { "0" };
        if sysctl::read(&rp_filter).is_ok_and(|value| value != wanted)
            && let Err(error) = sysctl::write(&rp_filter, wanted)
        {
            self.findings.push(Finding::interface(
                self.name,
                format!("its reverse path filter cannot be made loose, packets are lost while nodes change encapsulation: {error}"),
            ));
        }
    }

    /// Makes the address of the device the one that is wanted, and the only one. None is wanted before it is known.
    pub(super) fn address(&mut self, context: &mut Context<'_>, link: &Link, wanted: Option<IpAddr>) {
        let Some(wanted) = wanted.map(IpNet::from) else { return };
        let actual: Vec<IpNet> = context.underlay.addresses_of(link.index).copied().collect();
        let make = |network| {
            let mut address = Address::new(link.index, network).without_duplicate_detection();
            address.flags |= NO_PREFIX_ROUTE;
            address
        };
        if !actual.contains(&wanted) {
            match context.socket.add_address(&make(wanted)) {
                Err(error) if !error.is_exists() => {
                    context.applied.fail(self.name, error);
                    return;
                }
                _ => {
                    info!(interface = self.name, address = %wanted, "the tunnel has its address");
                    context.underlay.put(&make(wanted));
                    self.loosen(wanted.addr().is_ipv4());
                }
            }
        }
        for network in actual.into_iter().filter(|network| *network != wanted) {
            match context.socket.delete_address(&make(network)) {
                Err(error) if !error.is_not_found() => {
                    let text = format!("the address {network} is not the node's and cannot be removed: {error}");
                    self.findings.push(Finding::interface(self.name, text));
                }
                _ => {
                    context.underlay.remove(&make(network));
                    if self.address == Some(network) {
                        info!(interface = self.name, address = %network, "the tunnel has another address now");
                        continue;
                    }
                    warn!(interface = self.name, address = %network, "a foreign address was on the tunnel and is removed");
                    let text = format!(
                        "the address {network}, which is not that of this node's tunnel, was there and has been removed; \
                         if it comes back, find out who sets it"
                    );
                    self.removed.push(Finding::interface(self.name, text));
                    self.removed.dedup();
                }
            }
        }
        self.address = Some(wanted);
    }

    /// It is there and up: packets may come.
    pub(super) fn serve(&mut self, link: &Link) {
        self.way = Way::of(link);
        self.port_holder = None;
        if self.way.is_some() && !std::mem::replace(&mut self.taken, true) {
            info!(interface = self.name, mtu = link.mtu, "the tunnel is up");
        }
    }
}
