//! The one owner of this node's routes and of its workloads' interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use calico_netlink::{
    Address, Error, Event, Link, LinkChange, Monitor, Route, RouteFilter, RouteKey, RouteTable, Socket, TABLE_MAIN,
};
use felix_calc::{Change, Interface, Key};
use ipnet::IpNet;
use tracing::debug;

use crate::addresses::Addresses;
use crate::interface::{LEAVING, ensure_link_local, set_parameters, switch_on};
use crate::ownership::Ownership;
use crate::{Settings, routes};

/// Something that is not as desired; it is tried again with the next [`Dataplane::apply`].
#[derive(Debug)]
pub struct Failure {
    /// A route's destination or an interface's name.
    pub what: String,
    /// What the kernel says.
    pub error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.error)
    }
}

/// What an [`Dataplane::apply`] came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// What is not as desired.
    pub failures: Vec<Failure>,
}

/// Why a workload's interface is not connected.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It is not there.
    #[error(
        "interface {name} (number {index}) is not in the node's network namespace; the plugin must run on the node whose agent it asks"
    )]
    NotThere {
        /// Its name.
        name: String,
        /// Its number as the plugin saw it.
        index: u32,
    },
    /// Another endpoint has the interface.
    #[error("interface {name} belongs to {holder}, whose id is smaller; delete that endpoint if it is stale")]
    Taken {
        /// Its name.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// The kernel refused.
    #[error("interface {name} could not be set up: {error}")]
    Kernel {
        /// Its name.
        name: String,
        /// What it says.
        error: Error,
    },
}

/// The kernel's side of this node.
pub struct Dataplane {
    settings: Settings,
    socket: Socket,
    monitor: Monitor,
    /// How often the monitor was replaced.
    generation: u64,
    table: RouteTable,
    ownership: Ownership,
    /// The workloads' interfaces that are there, by index.
    links: BTreeMap<u32, Link>,
    wanted: BTreeMap<String, Interface>,
    /// The node's own addresses on workloads' interfaces, as they are.
    addresses: Addresses,
    /// It is known which workloads are BGP peers: addresses may be made and removed.
    peers_known: bool,
    /// What the last apply could not do, by [`Failure::what`].
    failed: BTreeSet<String>,
    black_holes: BTreeSet<IpNet>,
    /// Interfaces whose parameters are set, since they are up.
    configured: BTreeSet<u32>,
    /// Those of them whose parameters are to be looked at again.
    recheck: BTreeSet<u32>,
    in_sync: bool,
    /// Interfaces must be listed again.
    stale: bool,
    /// Something desired or some interface changed since the last apply.
    changed: bool,
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
        let table = RouteTable::new(move |route: &Route| predicate.is_ours(route)).with_filter(filter);
        Ok(Self {
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
            configured: BTreeSet::new(),
            recheck: BTreeSet::new(),
            in_sync: false,
            stale: true,
            changed: true,
        })
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
                let before = self.wanted.insert(name.clone(), interface);
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
            Change::InSync => {
                self.in_sync = true;
                self.table.set_sweep(true);
            }
            Change::PeersKnown => self.peers_known = true,
            Change::Ignored { .. }
            | Change::Notice(_)
            | Change::Remote { .. }
            | Change::Vtep { .. }
            | Change::Tunnels(_)
            | Change::Member { .. } => {}
        }
    }

    /// Learns what anybody changed in the kernel; returns whether an [`Self::apply`] is due.
    ///
    /// # Errors
    /// Of the notification socket, which is opened anew: look at everything again.
    pub fn notice(&mut self) -> Result<bool, Error> {
        let events = match self.monitor.receive() {
            Ok(events) => events,
            Err(error) => {
                self.monitor = Monitor::open()?;
                self.generation += 1;
                self.resync();
                return Err(error);
            }
        };
        for event in events {
            match &event {
                Event::Link(link) => self.notice_link(link),
                Event::LinkGone(link) => self.forget_link(link.index),
                Event::Address(address) if self.links.contains_key(&address.index) => {
                    self.changed |= self.addresses.put(address);
                }
                Event::AddressGone(address) => self.forget_address(address),
                Event::Overrun => self.stale = true,
                _ => {}
            }
            self.table.notice(&event);
        }
        Ok(self.is_due())
    }

    /// Whether an [`Self::apply`] has something to do.
    pub fn is_due(&self) -> bool {
        self.in_sync && (self.changed || self.stale || self.table.needs_resync() || !self.table.in_sync())
    }

    /// Makes the next [`Self::apply`] look at everything: what notifications missed is found, and interfaces'
    /// parameters, of which there are none. Workloads that are connected stay so, whatever that comes to.
    pub fn resync(&mut self) {
        self.stale = true;
        self.recheck.clone_from(&self.configured);
    }

    /// Writes the difference between the desired and the actual state. Before [`Change::InSync`] nothing is written,
    /// since what is desired is not known yet.
    ///
    /// # Errors
    /// If the kernel cannot even be read.
    pub fn apply(&mut self) -> Result<Applied, Error> {
        if !self.in_sync {
            return Ok(Applied::default());
        }
        let mut applied = Applied::default();
        if self.stale {
            self.list_links()?;
            let links = &self.links;
            self.addresses.replace(self.socket.addresses()?, |index| links.contains_key(&index));
        }
        self.configure(&mut applied);
        self.address(&mut applied);
        self.desire_routes();
        if self.stale || self.table.needs_resync() {
            self.table.resync(&mut self.socket)?;
            self.stale = false;
        }
        // An interface that vanished between its notification and now takes its route with it: the next notification tells.
        let failures = self.table.apply(&mut self.socket);
        applied.failures.extend(failures.into_iter().map(|(key, error)| Failure { what: route_name(&key), error }));
        // What failed is tried again: a route by its table, an interface because it is not configured.
        self.changed = !applied.failures.is_empty();
        self.failed = applied.failures.iter().map(|failure| failure.what.clone()).collect();
        Ok(applied)
    }

    /// The workloads that are connected as of the last [`Self::apply`], by interface: it is there, up and set up, and the
    /// kernel refused nothing of what is wanted of it.
    pub fn connected(&self) -> impl Iterator<Item = (&str, &Interface)> {
        let up = self.links.values().filter(|link| link.up && self.configured.contains(&link.index));
        up.filter_map(|link| {
            let interface = self.wanted.get(&link.name)?;
            let refused = !self.failed.is_empty()
                && (self.failed.contains(&link.name)
                    || interface.addresses.iter().any(|address| self.failed.contains(&address.to_string())));
            (!refused).then_some((link.name.as_str(), interface))
        })
    }

    /// The interface of that name and number; number 0 is any.
    ///
    /// # Errors
    /// If it is not there, or another now has the name.
    pub fn find(&mut self, name: &str, index: u32) -> Result<Link, AttachError> {
        let found = self.socket.link(name);
        let found = found.map_err(|error| AttachError::Kernel { name: name.to_owned(), error })?;
        found
            .filter(|link| index == 0 || link.index == index)
            .ok_or_else(|| AttachError::NotThere { name: name.to_owned(), index })
    }

    /// Connects a workload whose interface was just made: parameters, MAC, up, routes. On return packets flow.
    ///
    /// What is wanted of the interface must have come by [`Self::change`] before.
    ///
    /// # Errors
    /// If the interface is not there or cannot be set up; then [`Self::apply`] goes on trying.
    pub fn attach(&mut self, endpoint: &Key, name: &str, index: u32) -> Result<(), AttachError> {
        let link = self.find(name, index)?;
        self.attach_found(endpoint, &link)
    }

    /// As [`Self::attach`], of an interface as [`Self::find`] has just found it.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_found(&mut self, endpoint: &Key, link: &Link) -> Result<(), AttachError> {
        let name = link.name.as_str();
        let kernel = |error| AttachError::Kernel { name: name.to_owned(), error };
        let wanted = match self.wanted.get(name) {
            Some(wanted) if wanted.endpoint.key == *endpoint => wanted,
            other => {
                let holder = other.map_or("nobody".to_owned(), |other| other.endpoint.key.to_string());
                return Err(AttachError::Taken { name: name.to_owned(), holder });
            }
        };
        let ipv6 = self.settings.ipv6 && needs_ipv6(wanted);
        let addresses = wanted.addresses.clone();
        set_parameters(name, ipv6, !link.up).map_err(kernel)?;
        switch_on(&mut self.socket, link).map_err(kernel)?;
        if ipv6 {
            ensure_link_local(&mut self.socket, link.index).map_err(kernel)?;
        }
        debug!(interface = name, index = link.index, "workload's interface is set up");
        // Our own changes of it, before they are taken for somebody's.
        self.notice().map_err(kernel)?;
        self.notice_link(&Link { up: true, ..link.clone() });
        self.configured.insert(link.index);
        self.recheck.remove(&link.index);
        let applied = self.apply().map_err(kernel)?;
        let ours = |failure: &Failure| {
            failure.what == name || addresses.iter().any(|address| failure.what == address.to_string())
        };
        match applied.failures.into_iter().find(ours) {
            Some(failure) => Err(kernel(failure.error)),
            None => Ok(()),
        }
    }

    /// Switches a workload's interface off for good and puts it into the group of those that [`remove_leaving`] removes: with
    /// it go its routes, and nothing of the workload reaches the node any more. One that is not there is gone already.
    ///
    /// [`remove_leaving`]: crate::remove_leaving
    ///
    /// # Errors
    /// The kernel's.
    pub fn dismiss(&mut self, name: &str) -> Result<(), Error> {
        let Some(link) = self.socket.link(name)? else { return Ok(()) };
        let change = LinkChange { up: Some(false), group: Some(LEAVING), ..LinkChange::default() };
        match self.socket.change_link(link.index, &change) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        self.notice_link(&Link { up: false, ..link });
        Ok(())
    }

    /// How many of our routes the kernel holds.
    pub fn route_count(&self) -> usize {
        self.table.actual().count()
    }

    /// How many workloads' interfaces are there.
    pub fn interface_count(&self) -> usize {
        self.links.len()
    }

    fn list_links(&mut self) -> Result<(), Error> {
        let mut found: BTreeMap<u32, Link> = BTreeMap::new();
        for link in self.socket.links()?.into_iter().filter(|link| is_workload(&self.settings, &link.name)) {
            found.insert(link.index, link);
        }
        self.configured.retain(|index| found.get(index).is_some_and(|link| link.up));
        self.links = found;
        self.ownership.set_workload_links(self.links.keys().copied().collect());
        Ok(())
    }

    fn notice_link(&mut self, link: &Link) {
        if !is_workload(&self.settings, &link.name) {
            return self.forget_link(link.index); // renamed away, perhaps
        }
        let before = self.links.insert(link.index, link.clone());
        if !link.up {
            self.configured.remove(&link.index);
        }
        let same = before.as_ref().is_some_and(|before| before.name == link.name && before.up == link.up);
        if !same {
            debug!(interface = link.name, index = link.index, up = link.up, "workload interface");
            self.changed = true;
            self.ownership.set_workload_links(self.links.keys().copied().collect());
        }
    }

    fn forget_link(&mut self, index: u32) {
        self.configured.remove(&index);
        self.addresses.forget(index);
        if let Some(link) = self.links.remove(&index) {
            debug!(interface = link.name, index, "workload interface gone");
            self.changed = true;
            self.ownership.set_workload_links(self.links.keys().copied().collect());
        }
    }

    fn forget_address(&mut self, address: &Address) {
        if self.links.contains_key(&address.index) && self.addresses.remove(address) {
            self.changed = true;
            self.suspect_routes(address.index, &address.network);
        }
    }

    /// Sets the parameters of wanted interfaces that came up.
    fn configure(&mut self, applied: &mut Applied) {
        for (index, link) in &self.links {
            let Some(wanted) = self.wanted.get(&link.name) else { continue };
            if !link.up || (self.configured.contains(index) && !self.recheck.contains(index)) {
                continue;
            }
            let ipv6 = self.settings.ipv6 && needs_ipv6(wanted);
            let set = set_parameters(&link.name, ipv6, false).and_then(|()| match ipv6 {
                true => ensure_link_local(&mut self.socket, *index),
                false => Ok(()),
            });
            match set {
                Ok(()) => {
                    self.configured.insert(*index);
                    self.recheck.remove(index);
                }
                Err(error) if error.is_not_found() => {} // gone meanwhile: the notification is under way
                Err(error) => applied.failures.push(Failure { what: link.name.clone(), error }),
            }
        }
    }

    /// Gives interfaces that are set up the addresses that BGP peers behind them dial, and takes away those that nobody
    /// dials any more.
    fn address(&mut self, applied: &mut Applied) {
        if !self.peers_known {
            return;
        }
        let mut removed = Vec::new();
        for link in self.links.values().filter(|link| link.up && self.configured.contains(&link.index)) {
            let Some(interface) = self.wanted.get(&link.name) else { continue };
            let supported = |address: &&IpAddr| self.settings.ipv6 || address.is_ipv4();
            let desired = interface.node_addresses.iter().filter(supported).copied().map(IpNet::from).collect();
            match self.addresses.make(&mut self.socket, link, &desired) {
                Ok(networks) => removed.extend(networks.into_iter().map(|network| (link.index, network))),
                Err(error) if error.is_not_found() => {} // gone meanwhile: the notification is under way
                Err(error) => applied.failures.push(Failure { what: link.name.clone(), error }),
            }
        }
        for (index, network) in removed {
            self.suspect_routes(index, &network);
        }
    }

    /// Takes it that the IPv4 routes through an interface are gone, which has lost this address: with its last IPv4
    /// address the kernel removes them and says nothing. Those that are still there are found when they are added again.
    fn suspect_routes(&mut self, index: u32, lost: &IpNet) {
        if lost.addr().is_ipv6() {
            return;
        }
        let through = |route: &&Route| {
            route.destination.addr().is_ipv4() && route.next_hops.iter().any(|hop| hop.interface == Some(index))
        };
        let routes: Vec<Route> = self.table.actual().filter(through).cloned().collect();
        for route in routes {
            self.table.notice(&Event::RouteGone(route));
        }
    }

    /// Tells the route table what is desired now.
    fn desire_routes(&mut self) {
        let up = self.links.values().filter(|link| link.up && self.configured.contains(&link.index));
        let ready: BTreeMap<String, u32> = up.map(|link| (link.name.clone(), link.index)).collect();
        let desired = routes::desired(&self.settings, &self.wanted, &ready, &self.black_holes);
        let desired: BTreeMap<RouteKey, Route> =
            desired.into_iter().map(Route::normalized).map(|route| (route.key(), route)).collect();
        let (mut old, mut same) = (Vec::new(), BTreeSet::new());
        for route in self.table.desired() {
            let key = route.key();
            match desired.get(&key) {
                None => old.push(key),
                Some(wanted) if wanted == route => {
                    same.insert(key);
                }
                Some(_) => {}
            }
        }
        let keys = desired.keys().copied().collect();
        for key in old {
            self.table.unwant(&key);
        }
        for (_, route) in desired.into_iter().filter(|(key, _)| !same.contains(key)) {
            self.table.want(route);
        }
        self.ownership.set_desired(keys);
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

fn needs_ipv6(interface: &Interface) -> bool {
    interface.addresses.iter().any(|address| address.addr().is_ipv6())
}

fn is_workload(settings: &Settings, name: &str) -> bool {
    settings.prefixes.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix.as_str()))
}

/// The destination alone, as an endpoint has it.
fn route_name(key: &RouteKey) -> String {
    key.destination.to_string()
}
