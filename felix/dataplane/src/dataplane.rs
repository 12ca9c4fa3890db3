//! The one owner of this node's routes, of its workloads' interfaces and of its tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use calico_netlink::{
    Address, Error, Event, Link, Monitor, Route, RouteFilter, RouteKey, RouteTable, Socket, TABLE_MAIN,
};
use felix_calc::{Change, Interface, Set};
use ipnet::IpNet;

use crate::addresses::Addresses;
use crate::ownership::Ownership;
use crate::remotes::Remotes;
use crate::tunnels::{Context, Tunnels};
use crate::underlay::Underlay;
use crate::workloads::{is_workload, needs_ipv6};
use crate::{Applied, Failure, Finding, Settings, TunnelState};

/// So many routes are written before notifications are read.
const PORTION: usize = 4_000;

/// The kernel's side of this node.
pub struct Dataplane {
    pub(crate) settings: Settings,
    pub(crate) socket: Socket,
    monitor: Monitor,
    /// How often the monitor was replaced.
    generation: u64,
    pub(crate) table: RouteTable,
    pub(crate) ownership: Ownership,
    /// The workloads' interfaces that are there, by index.
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) wanted: BTreeMap<String, Interface>,
    /// The node's own addresses on workloads' interfaces, as they are.
    pub(crate) addresses: Addresses,
    /// It is known which workloads are BGP peers: addresses may be made and removed.
    pub(crate) peers_known: bool,
    /// What the last apply could not do, by [`Failure::what`].
    pub(crate) failed: BTreeSet<String>,
    pub(crate) black_holes: BTreeSet<IpNet>,
    /// The routes of this node's own workloads and blocks that are desired.
    pub(crate) local_routes: BTreeMap<RouteKey, Route>,
    /// Those to other nodes.
    pub(crate) remotes: Remotes,
    pub(crate) tunnels: Tunnels,
    /// The node's other interfaces.
    pub(crate) underlay: Underlay,
    /// The interfaces of whose neighbours the monitor tells.
    watched: BTreeSet<u32>,
    /// The time, as far as we were told.
    now: Option<Instant>,
    /// Interfaces whose parameters are set, since they are up.
    pub(crate) configured: BTreeSet<u32>,
    /// Those of them whose parameters are to be looked at again.
    pub(crate) recheck: BTreeSet<u32>,
    /// Interfaces that were switched on since notifications were read: what is told of the time before is old.
    fresh: BTreeSet<u32>,
    in_sync: bool,
    /// Interfaces must be listed again.
    stale: bool,
    /// Something desired or some interface changed since the last apply.
    pub(crate) changed: bool,
}

impl Dataplane {
    /// Opens the kernel's sockets in the network namespace of the calling thread. Nothing is changed yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let ownership = Ownership::default();
        let predicate = ownership.clone();
        let filter = RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() };
        let table =
            RouteTable::new(move |route: &Route| predicate.is_ours(route)).with_filter(filter).claiming_places();
        let mut dataplane = Self {
            settings,
            // The monitor first: what changes while we look is told.
            monitor: Monitor::open()?,
            generation: 0,
            socket: Socket::open()?,
            table,
            ownership,
            links: BTreeMap::new(),
            wanted: BTreeMap::new(),
            addresses: Addresses::default(),
            peers_known: false,
            failed: BTreeSet::new(),
            black_holes: BTreeSet::new(),
            local_routes: BTreeMap::new(),
            remotes: Remotes::default(),
            tunnels: Tunnels::default(),
            underlay: Underlay::default(),
            watched: BTreeSet::new(),
            now: None,
            configured: BTreeSet::new(),
            recheck: BTreeSet::new(),
            fresh: BTreeSet::new(),
            in_sync: false,
            stale: true,
            changed: true,
        };
        dataplane.list()?; // for who asks for the subnets before anything is applied
        Ok(dataplane)
    }

    /// The descriptor that becomes readable when the kernel has told something; then call [`Self::notice`]. It is another
    /// whenever [`Self::generation`] is.
    pub fn notifications(&self) -> BorrowedFd<'_> {
        self.monitor.as_fd()
    }

    /// Counts the descriptors that [`Self::notifications`] was: one that breaks is replaced.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a change of the desired state; the kernel is not touched.
    pub fn change(&mut self, change: Change) {
        self.changed = true;
        match change {
            Change::Interface { name, wanted: Some(interface) } => {
                let ipv6 = needs_ipv6(&interface);
                let before = self.wanted.insert(name.clone(), *interface);
                if before.is_none_or(|before| needs_ipv6(&before) != ipv6) {
                    let links = &self.links;
                    self.configured.retain(|index| links.get(index).is_none_or(|link| link.name != name));
                }
            }
            Change::Interface { name, wanted: None } => {
                self.wanted.remove(&name);
            }
            Change::BlackHole { network, wanted: true } => {
                self.black_holes.insert(network);
            }
            Change::BlackHole { network, wanted: false } => {
                self.black_holes.remove(&network);
            }
            Change::Remote { destination, wanted } => self.remotes.change(destination, wanted),
            Change::Vtep { node, ipv6, wanted } => self.tunnels.change_vtep(node, ipv6, wanted),
            Change::Tunnels(wanted) => self.tunnels.change(wanted, &self.settings),
            Change::Member { set: Set::Pools, member, wanted } if self.settings.sweep_bird => {
                self.ownership.set_swept(member, wanted);
                // Whose routes stand there must be found out anew.
                self.stale = true;
            }
            Change::InSync => {
                self.in_sync = true;
                self.table.set_sweep(true);
            }
            Change::PeersKnown => self.peers_known = true,
            Change::Member { .. } | Change::Ignored { .. } | Change::Notice(_) => {}
        }
    }

    /// Says what time it is: call it before [`Self::apply`]. What is only done after a while is not done before.
    pub fn at(&mut self, now: Instant) {
        self.now = Some(now);
    }

    /// When an [`Self::apply`] is due though nothing else happens; `None` is never.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.in_sync { self.tunnels.next_deadline() } else { None }
    }

    /// Learns what anybody changed in the kernel; [`Self::is_due`] tells whether an [`Self::apply`] has something to do then.
    ///
    /// # Errors
    /// Of the notification socket, which is opened anew: look at everything again.
    pub fn notice(&mut self) -> Result<(), Error> {
        let events = match self.monitor.receive() {
            Ok(events) => events,
            Err(error) => {
                self.monitor = Monitor::open()?;
                self.generation += 1;
                self.watched.clear();
                self.resync();
                return Err(error);
            }
        };
        let fresh = std::mem::take(&mut self.fresh);
        // What such a device is in the end counts; before, it was off because we had not switched it on.
        let mut ends_up = BTreeMap::new();
        let links = events.iter().filter_map(|event| if let Event::Link(link) = event { Some(link) } else { None });
        ends_up.extend(links.filter(|link| fresh.contains(&link.index)).map(|link| (link.index, link.up)));
        let is_old = |link: &Link| !link.up && ends_up.get(&link.index) == Some(&true);
        for event in events {
            match &event {
                Event::Link(link) if is_old(link) => continue,
                Event::Link(link) if is_workload(&self.settings, &link.name) => {
                    self.forget_link(link.index); // renamed, perhaps
                    self.notice_workload(link);
                }
                Event::Link(link) => {
                    self.forget_workload(link.index); // renamed away, perhaps
                    let news = self.underlay.put_link(link);
                    if news {
                        self.suspect(news, link.index);
                        self.tunnels.suspect_entries(&link.name);
                    }
                }
                Event::LinkGone(link) => {
                    self.forget_workload(link.index);
                    self.forget_link(link.index);
                }
                Event::Address(address) if self.links.contains_key(&address.index) => {
                    self.changed |= self.addresses.put(address);
                }
                Event::Address(address) => {
                    let news = self.underlay.put(address);
                    self.suspect(news, address.index);
                }
                Event::AddressGone(address) => self.forget_address(address),
                Event::Overrun => {
                    self.stale = true;
                    self.tunnels.resync();
                }
                _ => self.tunnels.notice(&event),
            }
            self.table.notice(&event);
        }
        Ok(())
    }

    /// Whether an [`Self::apply`] has something to do.
    pub fn is_due(&self) -> bool {
        self.in_sync
            && (self.changed
                || self.stale
                || self.table.needs_resync()
                || !self.table.in_sync()
                || !self.tunnels.in_sync(self.now))
    }

    /// Makes the next [`Self::apply`] look at everything: what notifications missed is found, and interfaces'
    /// parameters, of which there are none. Workloads that are connected stay so, whatever that comes to.
    pub fn resync(&mut self) {
        self.stale = true;
        self.recheck.clone_from(&self.configured);
        self.tunnels.resync();
    }

    /// Writes the difference between the desired and the actual state: devices, addresses, what lies behind tunnels, routes,
    /// and then what is to be removed. Before [`Change::InSync`] nothing is written, since what is desired is not known yet.
    ///
    /// # Errors
    /// If the kernel cannot even be read.
    pub fn apply(&mut self) -> Result<Applied, Error> {
        if !self.in_sync {
            return Ok(Applied::default());
        }
        let mut applied = Applied::default();
        // What comes from now on is for the next time.
        self.changed = false;
        let stale = std::mem::take(&mut self.stale);
        let written = self.write(stale, &mut applied);
        // What failed is tried again: a route by its table, an interface because it is not configured.
        self.changed |= !applied.failures.is_empty() || written.is_err();
        self.stale |= stale && written.is_err();
        written?;
        self.failed = applied.failures.iter().map(|failure| failure.what.clone()).collect();
        Ok(applied)
    }

    /// The kernel tells us of each of our own changes: that is read in between, so that there never is more than it can keep.
    fn write(&mut self, stale: bool, applied: &mut Applied) -> Result<(), Error> {
        if stale {
            self.list()?;
        }
        self.configure(applied);
        self.address(applied);
        self.with_tunnels(applied, Tunnels::make);
        self.watch()?;
        if !self.fresh.is_empty() {
            self.notice()?;
        }
        self.tunnels.write_vteps(&mut self.socket, applied)?;
        self.desire_routes();
        if stale || self.table.needs_resync() {
            self.table.resync(&mut self.socket)?;
        }
        let mut changes = self.table.changes();
        while !changes.is_made() {
            // An interface that vanished between its notification and now takes its route with it: the next notification tells.
            let failures = self.table.make(&mut self.socket, &mut changes, PORTION);
            let named = |(key, error): (RouteKey, Error)| Failure { what: key.destination.to_string(), error };
            applied.failures.extend(failures.into_iter().map(named));
            if !changes.is_made() {
                self.notice()?;
            }
        }
        self.with_tunnels(applied, Tunnels::retire);
        Ok(())
    }

    /// Takes as little room as it can: call it when the first state of a large cluster is applied.
    pub fn pack(&mut self) {
        self.remotes.pack();
        self.table.pack();
    }

    /// How many of our routes the kernel holds.
    pub fn route_count(&self) -> usize {
        self.table.actual_count()
    }

    /// The addresses of this node with their subnets, as far as the kernel has told, but those of workloads and tunnels.
    pub fn subnets(&self) -> Vec<IpNet> {
        self.underlay.subnets()
    }

    /// Which tunnels take packets, as of the last [`Self::apply`], and so may be announced to other nodes. A tunnel that did does
    /// so until it is removed for good.
    pub fn tunnel_state(&self) -> TunnelState {
        self.tunnels.state()
    }

    /// What the operator should know, as of the last [`Self::apply`].
    pub fn findings(&self) -> Vec<Finding> {
        self.tunnels.findings()
    }

    /// Lists interfaces and addresses.
    fn list(&mut self) -> Result<(), Error> {
        let (links, addresses) = (self.socket.links()?, self.socket.addresses()?);
        let settings = &self.settings;
        self.underlay.replace(&links, &addresses, |name| is_workload(settings, name));
        self.tunnels.resync();
        let workloads = links.into_iter().filter(|link| is_workload(settings, &link.name));
        self.links = workloads.map(|link| (link.index, link)).collect();
        let links = &self.links;
        self.configured.retain(|index| links.get(index).is_some_and(|link| link.up));
        self.addresses.replace(addresses, |index| links.contains_key(&index));
        self.ownership.set_workload_links(self.links.keys().copied().collect());
        Ok(())
    }

    fn forget_link(&mut self, index: u32) {
        if let Some(link) = self.underlay.remove_link(index) {
            self.changed = true;
            self.tunnels.suspect();
            self.tunnels.suspect_entries(&link.name);
        }
    }

    /// One of the node's own interfaces is another than before, if it is `news`.
    fn suspect(&mut self, news: bool, index: u32) {
        if news && self.underlay.link(index).is_some() {
            self.changed = true;
            self.tunnels.suspect();
        }
    }

    fn forget_address(&mut self, address: &Address) {
        let known = if self.links.contains_key(&address.index) {
            let known = self.addresses.remove(address);
            self.changed |= known;
            known
        } else {
            let known = self.underlay.remove(address);
            self.suspect(known, address.index);
            known
        };
        if known {
            self.suspect_routes(address.index, &address.network);
        }
    }

    /// Lets the tunnels do something with the kernel.
    fn with_tunnels(&mut self, applied: &mut Applied, work: impl FnOnce(&mut Tunnels, &mut Context<'_>)) {
        let mut context = Context {
            socket: &mut self.socket,
            underlay: &mut self.underlay,
            settings: &self.settings,
            now: self.now,
            applied,
            lost: BTreeSet::new(),
            fresh: BTreeSet::new(),
        };
        work(&mut self.tunnels, &mut context);
        let Context { lost, fresh, .. } = context;
        lost.into_iter().for_each(|index| self.table.forget(index, |_| true));
        self.fresh.extend(fresh);
    }

    /// Has the monitor tell of the neighbours of our VXLAN devices.
    fn watch(&mut self) -> Result<(), Error> {
        let links = self.tunnels.vxlan_links();
        if self.watched != links {
            self.monitor.watch_neighbours(&links.iter().copied().collect::<Vec<_>>())?;
            self.ownership.set_vxlan_links(links.clone());
            self.watched = links;
        }
        Ok(())
    }
}

impl fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataplane")
            .field("table", &self.table)
            .field("links", &self.links.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_netlink::{Veth, namespace};
    use felix_calc::{Path, Remote};

    #[test]
    fn what_the_kernel_tells_of_our_own_writes_never_is_more_than_it_keeps() {
        namespace::inside(namespace::create().expect("root makes namespaces"), || {
            let mut socket = Socket::open().unwrap();
            let veth = Veth { name: "eth0", peer_name: "peer", queues: Some(1), ..Veth::default() };
            socket.add_veth(&veth).unwrap();
            let up = calico_netlink::LinkChange { up: Some(true), ..calico_netlink::LinkChange::default() };
            for name in ["eth0", "peer"] {
                let index = socket.link(name).unwrap().unwrap().index;
                socket.change_link(index, &up).unwrap();
            }
            let index = socket.link("eth0").unwrap().unwrap().index;
            socket.add_address(&Address::new(index, "192.0.2.1/24".parse().unwrap())).unwrap();
            let mut dataplane = Dataplane::open(Settings::default()).unwrap();
            let mut witness = Monitor::open().unwrap();
            let gateway = "192.0.2.9".parse().unwrap();
            for number in 0..40_000_u32 {
                let destination = IpNet::new(std::net::Ipv4Addr::from(0x0a40_0000 + number * 64).into(), 26).unwrap();
                let wanted = Some(Remote::By(Path::Plain { gateway }));
                dataplane.change(Change::Remote { destination, wanted });
            }
            dataplane.change(Change::InSync);
            assert_eq!(dataplane.apply().unwrap().failures.len(), 0);
            dataplane.notice().unwrap();
            assert!(!dataplane.stale && !dataplane.table.needs_resync() && !dataplane.is_due());
            assert_eq!(dataplane.route_count(), 40_000);
            // Whoever does not read meanwhile loses some.
            assert!(witness.receive().unwrap().contains(&Event::Overrun));
        })
        .unwrap();
    }
}
