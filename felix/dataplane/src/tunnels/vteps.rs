//! The far ends of VXLAN: a neighbour and a forwarding entry for each, and no others.
//!
//! All permanent neighbours and all forwarding entries of our devices are ours, whoever made them: nothing else can be
//! reached through them.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;

use calico_delta::Delta;
use calico_netlink::{Batch, Error, Event, Forwarding, Mac, Neighbour, Socket};
use felix_calc::Vtep;

use crate::Applied;

/// So many entries are encoded at a time.
const PORTION: usize = 1_000;
/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;

/// The far ends of one device.
#[derive(Debug)]
pub(crate) struct Vteps {
    wanted: BTreeMap<String, Vtep>,
    /// Addresses and MACs of which something changed since the deltas were told.
    touched: (BTreeSet<IpAddr>, BTreeSet<Mac>),
    /// The device's number.
    index: Option<u32>,
    /// The kernel's entries must be listed.
    stale: bool,
    neighbours: Delta<IpAddr, Mac>,
    /// Where frames go, and whether for ever.
    forwarding: Delta<Mac, (IpAddr, bool)>,
}

impl Default for Vteps {
    fn default() -> Self {
        let (neighbours, forwarding) = (Delta::new(), Delta::new());
        let touched = (BTreeSet::new(), BTreeSet::new());
        Self { wanted: BTreeMap::new(), touched, index: None, stale: true, neighbours, forwarding }
    }
}

impl Vteps {
    /// Takes what is wanted of a node.
    pub(crate) fn change(&mut self, node: String, wanted: Option<Vtep>) {
        let before = match wanted {
            Some(vtep) => self.wanted.insert(node, vtep),
            None => self.wanted.remove(&node),
        };
        for vtep in before.into_iter().chain(wanted) {
            self.touched.0.insert(vtep.tunnel);
            self.touched.1.insert(Mac(vtep.mac));
        }
    }

    /// Looks at the kernel's entries again with the next write.
    pub(crate) fn resync(&mut self) {
        self.stale = true;
    }

    /// Whether there is nothing to look at and nothing to write, given the device's number.
    pub(crate) fn in_sync(&self, index: Option<u32>) -> bool {
        index.is_none()
            || (index == self.index
                && !self.stale
                && self.touched.0.is_empty()
                && self.neighbours.in_sync()
                && self.forwarding.in_sync())
    }

    /// Learns what anybody changed.
    pub(crate) fn notice(&mut self, event: &Event) {
        let here = |index: u32| Some(index) == self.index;
        match event {
            Event::Neighbour(neighbour) if here(neighbour.index) => match permanent(neighbour) {
                Some((address, mac)) => self.neighbours.seen(address, mac),
                None => {
                    self.neighbours.gone(&neighbour.address);
                }
            },
            Event::NeighbourGone(neighbour) if here(neighbour.index) => {
                self.neighbours.gone(&neighbour.address);
            }
            Event::Forwarding(entry) if here(entry.index) => {
                self.forwarding.seen(entry.mac, (entry.destination, entry.permanent));
            }
            Event::ForwardingGone(entry) if here(entry.index) => {
                self.forwarding.gone(&entry.mac);
            }
            _ => {}
        }
    }

    /// Writes the entries that are wanted, on the device of this number. One failure does not stop the others.
    ///
    /// # Errors
    /// If the kernel's entries cannot be listed.
    pub(crate) fn write(
        &mut self,
        socket: &mut Socket,
        index: u32,
        name: &str,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        if self.index != Some(index) || self.stale {
            self.list(socket, index)?;
        }
        if !self.touched.0.is_empty() {
            self.desire();
        }
        let entries = self.forwarding.plan().upserts;
        let replace = |batch: &mut Batch, (mac, (host, _)): &(Mac, (IpAddr, bool))| {
            batch.replace_forwarding(&Forwarding::permanent(index, *mac, *host));
        };
        for (mac, value) in make(socket, entries, replace, name, applied) {
            self.forwarding.seen(mac, value);
        }
        let entries = self.neighbours.plan().upserts;
        let replace = |batch: &mut Batch, (address, mac): &(IpAddr, Mac)| {
            batch.replace_neighbour(&Neighbour::permanent(index, *address, *mac));
        };
        for (address, mac) in make(socket, entries, replace, name, applied) {
            self.neighbours.seen(address, mac);
        }
        Ok(())
    }

    /// Removes the entries that nobody wants, after the routes that needed them.
    pub(crate) fn sweep(&mut self, socket: &mut Socket, name: &str, applied: &mut Applied) {
        let Some(index) = self.index else { return };
        let host = |mac: &Mac| self.forwarding.actual().get(mac).map_or(IpAddr::from([0; 4]), |(host, _)| *host);
        let entries = self.forwarding.plan().deletes.into_iter().map(|mac| (mac, host(&mac))).collect();
        let delete = |batch: &mut Batch, (mac, host): &(Mac, IpAddr)| {
            batch.delete_forwarding(&Forwarding::permanent(index, *mac, *host));
        };
        for (mac, _) in make(socket, entries, delete, name, applied) {
            self.forwarding.gone(&mac);
        }
        let entries = self.neighbours.plan().deletes;
        let delete = |batch: &mut Batch, address: &IpAddr| {
            batch.delete_neighbour(&Neighbour { mac: None, ..Neighbour::permanent(index, *address, Mac::default()) });
        };
        for address in make(socket, entries, delete, name, applied) {
            self.neighbours.gone(&address);
        }
    }

    fn list(&mut self, socket: &mut Socket, index: u32) -> Result<(), Error> {
        let neighbours = socket.neighbours_on(index)?;
        let forwarding = socket.forwarding(index)?;
        self.neighbours.resync(neighbours.iter().filter_map(permanent));
        self.forwarding.resync(forwarding.iter().map(|entry| (entry.mac, (entry.destination, entry.permanent))));
        (self.index, self.stale) = (Some(index), false);
        Ok(())
    }

    /// Tells the deltas what is wanted where something changed. Of two nodes that claim one address or MAC, the lexically first
    /// has it.
    fn desire(&mut self) {
        let (addresses, macs) = mem::take(&mut self.touched);
        let mut neighbours: BTreeMap<IpAddr, Option<Mac>> = addresses.into_iter().map(|key| (key, None)).collect();
        let mut forwarding: BTreeMap<Mac, Option<_>> = macs.into_iter().map(|key| (key, None)).collect();
        for vtep in self.wanted.values() {
            let mac = Mac(vtep.mac);
            if let Some(first) = neighbours.get_mut(&vtep.tunnel) {
                first.get_or_insert(mac);
            }
            if let Some(first) = forwarding.get_mut(&mac) {
                first.get_or_insert((vtep.host, true));
            }
        }
        tell(&mut self.neighbours, neighbours);
        tell(&mut self.forwarding, forwarding);
    }
}

/// Makes a delta want this.
fn tell<K: Ord + Clone, V: PartialEq>(delta: &mut Delta<K, V>, wanted: BTreeMap<K, Option<V>>) {
    for (key, value) in wanted {
        match value {
            Some(value) if delta.desired().get(&key) == Some(&value) => {}
            Some(value) => delta.want(key, value),
            None => drop(delta.unwant(&key)),
        }
    }
}

fn permanent(neighbour: &Neighbour) -> Option<(IpAddr, Mac)> {
    let mac = neighbour.mac.filter(|_| neighbour.state & PERMANENT != 0)?;
    Some((neighbour.address, mac))
}

/// Makes changes, so many at a time; returns those that were made. What was to be removed and is not there counts as removed.
fn make<T>(
    socket: &mut Socket,
    changes: Vec<T>,
    push: impl Fn(&mut Batch, &T),
    name: &str,
    applied: &mut Applied,
) -> Vec<T> {
    let mut made = Vec::with_capacity(changes.len());
    let mut changes = changes.into_iter();
    loop {
        let portion: Vec<T> = changes.by_ref().take(PORTION).collect();
        if portion.is_empty() {
            return made;
        }
        let mut batch = Batch::new();
        portion.iter().for_each(|change| push(&mut batch, change));
        let mut failed = BTreeSet::new();
        for (place, error) in socket.execute_all(batch).into_iter().filter(|(_, error)| !error.is_not_found()) {
            failed.insert(place);
            applied.fail(name, error);
        }
        made.extend(portion.into_iter().enumerate().filter(|(place, _)| !failed.contains(place)).map(|(_, done)| done));
    }
}
