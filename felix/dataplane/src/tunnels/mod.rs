//! The tunnel devices: made when a pool wants them, kept right, and gone some time after none does.
//!
//! | file | question |
//! |---|---|
//! | `device.rs` | what have all of them in common: MTU, addresses, parameters? |
//! | `ipip.rs` | how does `tunl0` come to be, and when is it ours? |
//! | `vxlan.rs` | when must a VXLAN device be made anew? |
//! | `vteps.rs` | which neighbours and forwarding entries are needed? |
//! | `findings.rs` | what can only the operator put right? |
//!
//! A device that nobody wants any more stays for [`LINGER`], since other nodes learn of it later than we: what they still
//! send through the tunnel is understood. It stays for as long as another that is wanted instead has not come (its kernel lacks
//! a module, its port is taken), for then both sides go on as before; the time begins when that has come.

mod device;
mod findings;
mod ipip;
mod vteps;
mod vxlan;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use calico_netlink::{Error, Event, Socket};
use felix_calc::Vtep;
use tracing::info;

use crate::remotes::{Way, Ways};
use crate::underlay::Underlay;
use crate::{Applied, Finding, Settings, TunnelState};
use device::Device;
use vteps::Vteps;

/// How long a tunnel device that no pool wants any more stays up, with its address.
pub const LINGER: Duration = Duration::from_secs(120);

/// How soon is tried again what the kernel refused and only somebody else can change: a UDP port, a module.
const RETRY: Duration = Duration::from_secs(10);

/// The device of IPIP, and those of VXLAN for IPv4 and IPv6.
pub(crate) const IPIP: &str = "tunl0";
const VXLAN: &str = "vxlan.calico";
const VXLAN_V6: &str = "vxlan-v6.calico";
/// All of them.
pub(crate) const NAMES: [&str; 3] = [IPIP, VXLAN, VXLAN_V6];

/// What devices are made with and look at.
pub(crate) struct Context<'a> {
    pub(crate) socket: &'a mut Socket,
    pub(crate) underlay: &'a mut Underlay,
    pub(crate) settings: &'a Settings,
    pub(crate) now: Option<Instant>,
    pub(crate) applied: &'a mut Applied,
    /// Numbers of devices that were removed or lost their last address: their routes are gone, too.
    pub(crate) lost: BTreeSet<u32>,
    /// Numbers of devices that were switched on.
    pub(crate) fresh: BTreeSet<u32>,
}

/// The three devices and what lies behind them.
#[derive(Debug)]
pub(crate) struct Tunnels {
    ipip: Device<felix_calc::Ipip>,
    vxlan: Device<felix_calc::Vxlan>,
    vxlan_v6: Device<felix_calc::Vxlan>,
    vteps: Vteps,
    vteps_v6: Vteps,
    /// What is wanted or what is there changed since the devices were looked at.
    due: bool,
    /// What concerns no device of ours.
    findings: Vec<Finding>,
    flannel: findings::Flannel,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            ipip: Device::new(IPIP),
            vxlan: Device::new(VXLAN),
            vxlan_v6: Device::new(VXLAN_V6),
            vteps: Vteps::default(),
            vteps_v6: Vteps::default(),
            due: true,
            findings: Vec::new(),
            flannel: findings::Flannel::default(),
        }
    }
}

impl Tunnels {
    /// Takes which devices are wanted.
    pub(crate) fn change(&mut self, wanted: felix_calc::Tunnels, settings: &Settings) {
        self.ipip.wanted = wanted.ipip;
        self.vxlan.wanted = wanted.vxlan;
        self.vxlan_v6.wanted = wanted.vxlan_v6.filter(|_| settings.ipv6);
        self.due = true;
    }

    /// Takes what is wanted of a far end.
    pub(crate) fn change_vtep(&mut self, node: String, ipv6: bool, wanted: Option<Vtep>) {
        if ipv6 { self.vteps_v6.change(node, wanted) } else { self.vteps.change(node, wanted) }
    }

    /// Looks at everything again with the next apply.
    pub(crate) fn resync(&mut self) {
        self.due = true;
        self.vteps.resync();
        self.vteps_v6.resync();
        self.flannel.forget();
        self.ipip.removed.clear();
        for device in [&mut self.vxlan, &mut self.vxlan_v6] {
            device.removed.clear();
            device.port_holder = None;
        }
    }

    /// Something about the node's interfaces changed: perhaps a parent, perhaps a device of ours.
    pub(crate) fn suspect(&mut self) {
        self.due = true;
    }

    /// An interface is another than before: one that was off has lost its neighbours.
    pub(crate) fn suspect_entries(&mut self, name: &str) {
        match name {
            VXLAN => self.vteps.resync(),
            VXLAN_V6 => self.vteps_v6.resync(),
            _ => {}
        }
    }

    /// Learns of neighbours and forwarding entries.
    pub(crate) fn notice(&mut self, event: &Event) {
        self.vteps.notice(event);
        self.vteps_v6.notice(event);
    }

    /// Whether there is nothing to do at this time.
    pub(crate) fn in_sync(&self, now: Option<Instant>) -> bool {
        let written = |device: &Device<felix_calc::Vxlan>| device.index().filter(|_| device.wanted.is_some());
        !self.due
            && self.vteps.in_sync(written(&self.vxlan))
            && self.vteps_v6.in_sync(written(&self.vxlan_v6))
            && !self.is_late(now)
    }

    fn is_late(&self, now: Option<Instant>) -> bool {
        self.next_deadline().zip(now).is_some_and(|(deadline, now)| deadline <= now)
    }

    /// When there will be something to do if nothing else happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let all = [self.ipip.deadline(), self.vxlan.deadline(), self.vxlan_v6.deadline()];
        all.into_iter().flatten().min()
    }

    /// Which tunnels may be announced.
    pub(crate) fn state(&self) -> TunnelState {
        let (ipip, vxlan, vxlan_v6) = (self.ipip.taken, self.vxlan.taken, self.vxlan_v6.taken);
        TunnelState { ipip, vxlan, vxlan_v6 }
    }

    /// What the operator should know.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let devices = [
            (&self.ipip.findings, &self.ipip.removed),
            (&self.vxlan.findings, &self.vxlan.removed),
            (&self.vxlan_v6.findings, &self.vxlan_v6.removed),
        ];
        let all = devices.into_iter().flat_map(|(now, before)| now.iter().chain(before)).chain(&self.findings);
        all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The numbers of the devices whose neighbours are ours.
    pub(crate) fn vxlan_links(&self) -> BTreeSet<u32> {
        [self.vxlan.index(), self.vxlan_v6.index()].into_iter().flatten().collect()
    }

    /// The ways that the devices are, and those around them.
    pub(crate) fn ways(&self, underlay: &Underlay) -> Ways {
        let locals = [
            self.ipip.settled().and_then(|wanted| wanted.local).map(IpAddr::from),
            self.vxlan.settled().map(|wanted| wanted.local),
            self.vxlan_v6.settled().map(|wanted| wanted.local),
        ];
        let own = |local: IpAddr| Some((local, underlay.holder(local).filter(|link| !link.loopback)?.index));
        Ways {
            ipip: self.ipip.way,
            vxlan: self.vxlan.way,
            vxlan_v6: self.vxlan_v6.way,
            plain: underlay.ways(),
            own: locals.into_iter().flatten().filter_map(own).collect(),
        }
    }

    /// Makes the devices, with their addresses, what they must be.
    pub(crate) fn make(&mut self, context: &mut Context<'_>) {
        if !(self.due || self.is_late(context.now)) {
            return;
        }
        let before = context.applied.failures.len();
        ipip::make(&mut self.ipip, context);
        vxlan::make(&mut self.vxlan, context);
        vxlan::make(&mut self.vxlan_v6, context);
        let parents = [self.ipip.parent, self.vxlan.parent, self.vxlan_v6.parent];
        self.findings = findings::of_node(context, parents, &mut self.flannel);
        self.due = context.applied.failures.len() > before;
    }

    /// Writes the entries of far ends on the devices that are there. Those of a device that only lingers stay as they are: the
    /// routes that need them may be left for bgp-speaker to replace, and go with the device at the latest.
    ///
    /// # Errors
    /// If the kernel's entries cannot be listed.
    pub(crate) fn write_vteps(&mut self, socket: &mut Socket, applied: &mut Applied) -> Result<(), Error> {
        for (device, vteps) in [(&self.vxlan, &mut self.vteps), (&self.vxlan_v6, &mut self.vteps_v6)] {
            if let Some(index) = device.index().filter(|_| device.wanted.is_some()) {
                vteps.write(socket, index, device.name, applied)?;
            }
        }
        Ok(())
    }

    /// Whether a device of IPv4 that is wanted has not come: until it has, packets go as before, and other nodes go on to send
    /// as before. IPv6 has one kind alone.
    fn is_awaited(&self) -> bool {
        is_missing(&self.ipip) || is_missing(&self.vxlan)
    }

    /// Removes what nobody wants any more, after the routes that needed it: entries, then devices that lingered long enough.
    pub(crate) fn retire(&mut self, context: &mut Context<'_>) {
        for (device, vteps) in [(&self.vxlan, &mut self.vteps), (&self.vxlan_v6, &mut self.vteps_v6)] {
            if device.index().is_some() && device.wanted.is_some() {
                vteps.sweep(context.socket, device.name, context.applied);
            }
        }
        if self.is_awaited() {
            self.ipip.prolong(context.now);
            self.vxlan.prolong(context.now);
        }
        for (name, done) in [
            (IPIP, self.ipip.is_over(context.now) && ipip::remove(&mut self.ipip, context)),
            (VXLAN, self.vxlan.is_over(context.now) && vxlan::remove(&mut self.vxlan, context)),
            (VXLAN_V6, self.vxlan_v6.is_over(context.now) && vxlan::remove(&mut self.vxlan_v6, context)),
        ] {
            if done {
                info!(interface = name, "no pool has wanted the tunnel for a while, it is removed");
            }
        }
    }
}

/// Whether a device is wanted and does not take packets.
fn is_missing<W>(device: &Device<W>) -> bool {
    device.wanted.is_some() && device.way.is_none()
}

impl Way {
    fn of(link: &calico_netlink::Link) -> Option<Self> {
        link.up.then_some(Self { index: link.index, mtu: link.mtu })
    }
}
