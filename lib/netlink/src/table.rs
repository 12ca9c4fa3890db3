//! How do the routes of one owner come to be as desired, and everybody else's stay as they are?
//!
//! Which routes are ours is told by the kernel itself (a protocol number, an interface), through the predicate that a
//! [`RouteTable`] is made with, so a restarted process knows its own again: it resyncs, wants what it wants, and
//! writes only the difference.
//!
//! A route is replaced in one step, never removed first. The kernel's *replace* does not ask whose route it replaces,
//! so a route is added with *exclusive* when none of ours is known in its place, and before a replacement, and when an
//! addition is refused, what is there is looked at. A foreign route in our place is an error for that key, repeated
//! until it is gone. An owner to whom all places belong spares itself the look: it replaces whatever is there.

mod holdings;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use crate::error::{Cause, Error, Result};
use crate::monitor::Event;
use crate::route::{NextHop, Route, RouteKey};
use crate::routes::RouteFilter;
use crate::socket::Socket;
use holdings::Holdings;

/// So many keys are looked up one by one; for more, their tables are listed.
const SINGLE_LOOKS: usize = 32;

type Predicate = dyn Fn(&Route) -> bool + Send + Sync;

/// The desired routes of one owner against the kernel's.
pub struct RouteTable {
    ours: Box<Predicate>,
    filter: RouteFilter,
    holdings: Holdings,
    /// Routes of ours beyond the first of a key, as found by the last resync.
    surplus: Vec<Route>,
    /// Interfaces that are off or gone, as far as we were told, through which routes with other ways still go.
    down: BTreeSet<u32>,
    held: BTreeSet<RouteKey>,
    /// Keys whose routes may be removed though nothing else may.
    released: BTreeSet<RouteKey>,
    /// What stands in the place of a desired route is ours.
    claims: Option<Box<Predicate>>,
    /// Whoever made it.
    claims_all: bool,
    stale: bool,
    sweep: bool,
}

impl RouteTable {
    /// A table of the routes for which `ours` holds, of all families and tables. Nothing is known about the kernel's
    /// routes before [`RouteTable::resync`], and nothing is removed before [`RouteTable::set_sweep`].
    pub fn new(ours: impl Fn(&Route) -> bool + Send + Sync + 'static) -> Self {
        Self {
            ours: Box::new(ours),
            filter: RouteFilter::default(),
            holdings: Holdings::new(),
            surplus: Vec::new(),
            down: BTreeSet::new(),
            held: BTreeSet::new(),
            released: BTreeSet::new(),
            claims: None,
            claims_all: false,
            stale: true,
            sweep: false,
        }
    }

    /// The same, which takes the place of a desired route from whoever holds it, in one step.
    pub fn claiming_places(mut self) -> Self {
        self.claims_all = true;
        self.claiming_places_of(|_| true)
    }

    /// The same, but only from those for whose routes `others` holds.
    pub fn claiming_places_of(mut self, others: impl Fn(&Route) -> bool + Send + Sync + 'static) -> Self {
        self.claims = Some(Box::new(others));
        self
    }

    /// The same, reading only routes that pass `filter`: all of ours must.
    pub fn with_filter(mut self, filter: RouteFilter) -> Self {
        self.filter = filter;
        self
    }

    /// Desires a route, instead of what was desired under its key.
    pub fn want(&mut self, route: Route) {
        let route = route.normalized();
        self.released.remove(&route.key());
        self.holdings.want(route);
    }

    /// Desires no route under this key.
    pub fn unwant(&mut self, key: &RouteKey) {
        self.holdings.unwant(key);
        // What was ours by its place alone is so no longer.
        if self.holdings.actual(key).is_some_and(|route| !self.is_ours(route)) {
            self.holdings.gone(key);
        }
    }

    /// Leaves what stands at a destination that is not desired where it is, though it be ours: whoever is to have it replaces
    /// it. Black holes are no way for anybody, so they go.
    pub fn leave(&mut self, destination: IpNet) {
        self.holdings.leave(destination.trunc());
    }

    /// Takes [`RouteTable::leave`] back.
    pub fn cease_to_leave(&mut self, destination: &IpNet) {
        self.holdings.cease_to_leave(destination.trunc());
    }

    fn is_ours(&self, route: &Route) -> bool {
        let claims = |route| self.claims.as_ref().is_some_and(|claims| claims(route));
        (self.ours)(route) || (self.holdings.desired().contains_key(&route.key()) && claims(route))
    }

    /// Desires no route under this key, and lets the one that is there be removed even before [`RouteTable::set_sweep`]:
    /// whoever wanted it says that it is over.
    pub fn release(&mut self, key: &RouteKey) {
        self.holdings.unwant(key);
        if !self.sweep {
            self.released.insert(*key);
        }
    }

    /// The same of all routes to exactly this destination.
    pub fn release_at(&mut self, destination: &IpNet) {
        let keys: Vec<RouteKey> = self.holdings.keys_at(*destination).collect();
        keys.iter().for_each(|key| self.release(key));
    }

    /// The desired routes, in the order of their keys.
    pub fn desired(&self) -> impl Iterator<Item = &Route> {
        self.holdings.desired().values().map(Arc::as_ref)
    }

    /// Our routes in the kernel, as far as we know.
    pub fn actual(&self) -> impl Iterator<Item = &Route> {
        self.holdings.all().map(|(_, route)| route.as_ref())
    }

    /// How many they are.
    pub fn actual_count(&self) -> usize {
        self.holdings.len()
    }

    /// Takes as little room as it can: call it when many routes have come, which from now on change one by one.
    pub fn pack(&mut self) {
        self.holdings.pack();
    }

    /// Whether our routes may be removed that are not desired. Off at the start: what is desired is not known before
    /// every source of it has spoken.
    pub fn set_sweep(&mut self, sweep: bool) {
        self.sweep = sweep;
        if sweep {
            self.released.clear();
        }
    }

    /// Leaves these keys as they are until told otherwise, and counts them as in sync: the kernel refused them a short
    /// while ago, and the others need not wait for them.
    pub fn set_held(&mut self, held: BTreeSet<RouteKey>) {
        self.held = held;
    }

    /// Learns from a change in the kernel, ours or foreign.
    pub fn notice(&mut self, event: &Event) {
        match event {
            Event::Route(route) if self.is_ours(route) => self.holdings.seen(route.clone()),
            Event::Route(route) => {
                // Somebody's route came to the place of ours, and took it or stands beside it: see when applying.
                self.holdings.gone(&route.key());
            }
            Event::RouteGone(route) if self.is_ours(route) => self.notice_gone(route),
            Event::Link(link) if link.up => {
                self.down.remove(&link.index);
            }
            Event::Link(link) | Event::LinkGone(link) => self.notice_down(link.index),
            Event::AddressGone(address) if self.holdings.has_sources() => {
                let source = Some(address.network.addr());
                let lost = self.holdings.all().filter(|(_, route)| route.source == source).map(|(key, _)| *key);
                let lost: Vec<RouteKey> = lost.collect();
                lost.iter().for_each(|key| self.holdings.gone(key));
            }
            Event::Overrun => self.stale = true,
            Event::RouteGone(_)
            | Event::Address(_)
            | Event::AddressGone(_)
            | Event::Neighbour(_)
            | Event::NeighbourGone(_)
            | Event::Forwarding(_)
            | Event::ForwardingGone(_) => {}
        }
    }

    /// Looks at all routes. Needed at the start, after [`Event::Overrun`], and now and then to be sure.
    ///
    /// # Errors
    /// The kernel's; then what was known stays.
    pub fn resync(&mut self, socket: &mut Socket) -> Result<()> {
        let found = socket.routes(&self.filter)?;
        // Whose they are is asked of what is desired, and so before what is there changes.
        let ours: Vec<Route> = found.into_iter().filter(|route| self.is_ours(route)).collect();
        self.surplus = self.holdings.resync(ours.into_iter());
        let holdings = &self.holdings;
        self.down.retain(|interface| holdings.through(Some(*interface)).next().is_some());
        self.stale = false;
        Ok(())
    }

    /// Whether [`RouteTable::resync`] is needed before [`RouteTable::apply`] can be right.
    pub fn needs_resync(&self) -> bool {
        self.stale
    }

    /// Whether there is nothing to look at, nothing to write and nothing that may be removed.
    pub fn in_sync(&self) -> bool {
        let desired = self.holdings.desired();
        let removable = self.sweep && self.surplus.iter().any(|route| !self.holdings.is_left(route));
        let mut dirty = self.holdings.dirty().filter(|key| !self.held.contains(key));
        let pending = dirty.any(|key| desired.contains_key(key) || self.may_remove(key));
        !(self.stale || removable || pending)
    }

    /// Changes the kernel's routes to the desired ones: additions and replacements first, then removals. One failure
    /// does not stop the others, and what failed is tried again the next time. Writes nothing when nothing differs.
    pub fn apply(&mut self, socket: &mut Socket) -> Vec<(RouteKey, Error)> {
        let mut changes = self.changes();
        let mut failures = Vec::new();
        while !changes.is_made() {
            failures.extend(self.make(socket, &mut changes, usize::MAX));
        }
        failures
    }

    /// What [`RouteTable::apply`] would change, to be made portion by portion with [`RouteTable::make`].
    pub fn changes(&self) -> Changes {
        // Routes of one next hop go together: the kernel looks for one that it knows among all through the same interface, one
        // by one and the youngest first. With thousands of gateways that is all the time it takes.
        let mut upserts: Vec<(Option<NextHop>, RouteKey)> = Vec::new();
        let mut removals = Vec::new();
        for key in self.holdings.dirty().filter(|key| !self.held.contains(key)) {
            match self.holdings.desired().get(key) {
                Some(route) => upserts.push((route.next_hops.first().copied(), *key)),
                None if self.may_remove(key) => removals.push(*key),
                None => {}
            }
        }
        upserts.sort_unstable();
        let upserts: Vec<RouteKey> = upserts.into_iter().map(|(_, key)| key).collect();
        Changes { upserts: upserts.into_iter(), removals: removals.into_iter(), made: false }
    }

    /// Makes at most `most` more of the changes, as far as they are still needed; each failure comes with its key.
    pub fn make(&mut self, socket: &mut Socket, changes: &mut Changes, most: usize) -> Vec<(RouteKey, Error)> {
        let mut failures = Vec::new();
        let upserts = changes.upserts.by_ref().take(most);
        let upserts: Vec<Arc<Route>> = upserts.filter_map(|key| self.holdings.missing(&key).cloned()).collect();
        self.upsert(socket, upserts, &mut failures);
        if !changes.upserts.as_slice().is_empty() {
            return failures;
        }
        let removals: Vec<RouteKey> = changes.removals.by_ref().take(most).collect();
        self.remove(socket, removals, &mut failures);
        if changes.removals.as_slice().is_empty() {
            self.remove_surplus(socket, &mut failures);
            let holdings = &self.holdings;
            self.released.retain(|key| holdings.actual(key).is_some());
            changes.made = true;
        }
        failures
    }

    /// Whether the route of this key, which is not desired, is to be removed now.
    fn may_remove(&self, key: &RouteKey) -> bool {
        self.sweep || self.released.contains(key)
    }

    fn upsert(&mut self, socket: &mut Socket, routes: Vec<Arc<Route>>, failures: &mut Vec<(RouteKey, Error)>) {
        if self.claims_all {
            let failed = self.write(socket, "set", routes, Route::replace);
            failures.extend(failed.into_iter().map(|(route, error)| (route.key(), error)));
            return;
        }
        let is_known = |route: &Arc<Route>| self.holdings.actual(&route.key()).is_some();
        let (mut contested, additions): (Vec<_>, Vec<_>) = routes.into_iter().partition(is_known);
        for (route, error) in self.write(socket, "add", additions, Route::add) {
            if error.is_exists() {
                contested.push(route);
            } else {
                failures.push((route.key(), error));
            }
        }
        self.replace(socket, contested, failures);
    }

    /// Sends changes; those that succeeded count as seen, those that failed are returned.
    fn write(
        &mut self,
        socket: &mut Socket,
        verb: &str,
        routes: Vec<Arc<Route>>,
        request: impl Fn(&Route) -> crate::message::Request,
    ) -> Vec<(Arc<Route>, Error)> {
        let mut failures = socket.change_routes(verb, &routes, request).into_iter().peekable();
        let mut failed = Vec::new();
        for (index, route) in routes.into_iter().enumerate() {
            match failures.next_if(|(place, _)| *place == index) {
                Some((_, error)) => failed.push((route, error)),
                None => self.holdings.put(route),
            }
        }
        failed
    }

    /// Writes routes in whose place there is or may be another, unless it is foreign.
    fn replace(&mut self, socket: &mut Socket, routes: Vec<Arc<Route>>, failures: &mut Vec<(RouteKey, Error)>) {
        if routes.is_empty() {
            return;
        }
        let holders = match self.look(socket, &routes) {
            Ok(holders) => holders,
            Err(error) => {
                let text = error.to_string();
                let explain = |route: &Arc<Route>| {
                    let cause = Cause::Io(std::io::Error::other(text.clone()));
                    (route.key(), Error::new(format_args!("replace route {route}"), cause))
                };
                failures.extend(routes.iter().map(explain));
                return;
            }
        };
        let mut writable = Vec::new();
        for route in routes {
            let key = route.key();
            let holder = holders.get(&key).map(Vec::as_slice).unwrap_or_default();
            if let Some(foreign) = holder.iter().find(|holder| !self.is_ours(holder)) {
                self.holdings.gone(&key);
                let cause = Cause::Foreign { protocol: foreign.protocol };
                failures.push((key, Error::new(format_args!("add route {route}"), cause)));
                continue;
            }
            match holder {
                [only] if route.is_met_by(only) => self.holdings.seen(only.clone()),
                _ => writable.push(route),
            }
        }
        let failed = self.write(socket, "replace", writable, Route::replace);
        failures.extend(failed.into_iter().map(|(route, error)| (route.key(), error)));
    }

    /// What the kernel holds in the places of these routes.
    fn look(&self, socket: &mut Socket, routes: &[Arc<Route>]) -> Result<BTreeMap<RouteKey, Vec<Route>>> {
        let mut holders: BTreeMap<RouteKey, Vec<Route>> = BTreeMap::new();
        let mut unknown: BTreeSet<RouteKey> = routes.iter().map(|route| route.key()).collect();
        if unknown.len() <= SINGLE_LOOKS {
            for route in routes {
                // Tells only the best route to one address, so another than ours proves nothing.
                let found = socket.route_to(route.destination.network())?;
                if let Some(found) = found.filter(|found| found.key() == route.key()) {
                    unknown.remove(&found.key());
                    holders.entry(found.key()).or_default().push(found);
                }
            }
        }
        let tables: BTreeSet<(bool, u32)> =
            unknown.iter().map(|key| (key.destination.addr().is_ipv4(), key.table)).collect();
        for (ipv4, table) in tables {
            let filter = RouteFilter { ipv4: Some(ipv4), table: Some(table), ..RouteFilter::default() };
            for route in socket.routes(&filter)? {
                if unknown.contains(&route.key()) {
                    holders.entry(route.key()).or_default().push(route);
                }
            }
        }
        Ok(holders)
    }

    fn remove(&mut self, socket: &mut Socket, keys: Vec<RouteKey>, failures: &mut Vec<(RouteKey, Error)>) {
        let keys: Vec<RouteKey> = keys.into_iter().filter(|key| !self.is_gone_beside_another(socket, key)).collect();
        // Without next hops: whatever became of them, of this key, kind and protocol there is one to remove.
        let bare = |route: &Arc<Route>| Route { next_hops: Vec::new(), source: None, ..Route::clone(route) };
        let superfluous =
            keys.iter().filter(|key| self.may_remove(key)).filter_map(|key| self.holdings.superfluous(key));
        let routes: Vec<Route> = superfluous.map(bare).collect();
        let mut refused = socket.change_routes("delete", &routes, Route::delete).into_iter().peekable();
        for (index, route) in routes.iter().enumerate() {
            match refused.next_if(|(place, _)| *place == index) {
                Some((_, error)) if !error.is_not_found() => failures.push((route.key(), error)),
                _ => self.holdings.gone(&route.key()),
            }
        }
    }

    fn remove_surplus(&mut self, socket: &mut Socket, failures: &mut Vec<(RouteKey, Error)>) {
        if !self.sweep {
            return;
        }
        let surplus = std::mem::take(&mut self.surplus);
        let (left, surplus): (Vec<_>, Vec<_>) = surplus.into_iter().partition(|route| self.holdings.is_left(route));
        self.surplus = left;
        let refused = socket.change_routes("delete", &surplus, Route::delete);
        for (index, error) in refused.into_iter().filter(|(_, error)| !error.is_not_found()) {
            if let Some(route) = surplus.get(index) {
                failures.push((route.key(), error));
                self.surplus.push(route.clone());
            }
        }
    }

    /// To the kernel, a removal without an IPv4 metric is one of any metric. So where ours has siblings, as after an
    /// upgrade that changed the metric, we look whether it is still there before we ask to remove it.
    fn is_gone_beside_another(&mut self, socket: &mut Socket, key: &RouteKey) -> bool {
        if key.metric != 0 || !self.holdings.has_sibling(key) {
            return false;
        }
        let Some(route) = self.holdings.actual(key).cloned() else { return true };
        let there = |holders: BTreeMap<_, Vec<Route>>| {
            holders.get(key).is_some_and(|all| all.iter().any(|route| self.is_ours(route)))
        };
        // If it cannot be known now, the next pass will do.
        let gone = self.look(socket, &[route]).is_ok_and(|holders| !there(holders));
        if gone {
            self.holdings.gone(key);
        }
        gone
    }

    /// One of ours is gone, or of an IPv6 route some next hops.
    fn notice_gone(&mut self, gone: &Route) {
        let key = gone.key();
        let Some(actual) = self.holdings.actual(&key) else { return };
        let rest = || actual.next_hops.iter().filter(|hop| !gone.next_hops.contains(hop)).copied().collect::<Vec<_>>();
        let rest = if key.destination.addr().is_ipv6() { rest() } else { Vec::new() };
        if !rest.is_empty() && rest.len() < actual.next_hops.len() {
            let route = Route { next_hops: rest, ..Route::clone(actual) };
            self.holdings.seen(route);
        } else {
            // If it was an older one, the addition will find the newer in its place.
            self.holdings.gone(&key);
        }
    }

    /// An interface is off. The kernel removes an IPv4 route whose last next hop is dead and says nothing; of IPv6 it
    /// tells.
    fn notice_down(&mut self, interface: u32) {
        if !self.down.insert(interface) {
            return;
        }
        let ipv4 = |key: &&RouteKey| key.destination.addr().is_ipv4();
        // Where we left the interface to the kernel and were not yet told which it took, anything may have happened.
        self.stale |= self.holdings.through(None).any(|key| ipv4(&key));
        let down = std::mem::take(&mut self.down);
        let is_dead = |hop: &NextHop| hop.interface.is_some_and(|interface| down.contains(&interface));
        self.forget(interface, |route| route.destination.addr().is_ipv4() && route.next_hops.iter().all(is_dead));
        self.down = down;
        if self.holdings.through(Some(interface)).next().is_none() {
            // Numbers of interfaces do not come again, so what is not needed is not kept.
            self.down.remove(&interface);
        }
    }

    /// Takes it that routes through an interface are gone, those for which `lost` holds.
    pub fn forget(&mut self, interface: u32, lost: impl Fn(&Route) -> bool) {
        let is_lost = |key: &&RouteKey| self.holdings.actual(key).is_some_and(|route| lost(route));
        let keys: Vec<RouteKey> = self.holdings.through(Some(interface)).filter(is_lost).copied().collect();
        keys.iter().for_each(|key| self.holdings.gone(key));
    }
}

/// Changes of routes that are still to be made, see [`RouteTable::changes`].
#[derive(Debug)]
pub struct Changes {
    upserts: std::vec::IntoIter<RouteKey>,
    removals: std::vec::IntoIter<RouteKey>,
    made: bool,
}

impl Changes {
    /// Whether none is left.
    pub fn is_made(&self) -> bool {
        self.made
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("desired", &self.holdings.desired().len())
            .field("actual", &self.holdings.len())
            .field("stale", &self.stale)
            .field("sweep", &self.sweep)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Link, Veth, namespace};

    const OURS: u8 = 80;

    fn link(index: u32, up: bool) -> Link {
        Link { index, up, ..Link::default() }
    }

    #[test]
    fn of_interfaces_that_are_gone_nothing_is_kept() {
        let mut table = RouteTable::new(|route| route.protocol == OURS);
        let to = |last: u8, hops: Vec<NextHop>| {
            Route::unicast(IpNet::from(std::net::IpAddr::from([10, 0, 0, last])), hops, OURS)
        };
        let through = |interfaces: &[u32]| interfaces.iter().map(|index| NextHop::dev(*index)).collect::<Vec<_>>();
        for (last, interfaces) in [(1, &[7][..]), (2, &[7, 8]), (3, &[9])] {
            table.notice(&Event::Route(to(last, through(interfaces)).normalized()));
        }
        for index in [7, 100, 101] {
            table.notice(&Event::Link(link(index, false)));
            table.notice(&Event::LinkGone(link(index, false)));
        }
        // One has another way, for as long as that is up.
        assert_eq!((table.actual_count(), &table.down), (2, &BTreeSet::from([7])));
        table.notice(&Event::LinkGone(link(8, true)));
        assert_eq!(
            (table.actual_count(), table.stale),
            (1, true),
            "before the first look everything is to be looked at"
        );
        table.notice(&Event::Link(link(9, false)));
        assert_eq!(table.actual_count(), 0);
        assert!(!table.down.contains(&9) && !table.down.contains(&8));
    }

    #[test]
    fn whoever_claims_all_places_writes_once_and_looks_at_none() {
        namespace::inside(namespace::create().expect("root makes namespaces"), || {
            let mut socket = Socket::open().unwrap();
            let veth = Veth { name: "east", peer_name: "west", queues: Some(1), ..Veth::default() };
            socket.add_veth(&veth).unwrap();
            let east = socket.link("east").unwrap().unwrap().index;
            socket.change_link(east, &crate::LinkChange { up: Some(true), ..crate::LinkChange::default() }).unwrap();
            let route = |last: u8, protocol| {
                let destination = IpNet::from(std::net::IpAddr::from([10, 0, 0, last]));
                Route::unicast(destination, [NextHop::dev(east)], protocol).with_metric(5)
            };
            let mut table = RouteTable::new(|route| route.protocol == OURS).claiming_places();
            table.resync(&mut socket).unwrap();
            // Others' for the most part.
            (0..100).for_each(|last| socket.add_route(&route(last, 12)).unwrap());
            (0..120).for_each(|last| table.want(route(last, OURS)));
            let before = socket.sequence;
            assert!(table.apply(&mut socket).is_empty());
            assert_eq!(socket.sequence - before, 120);
            let all = socket.routes(&RouteFilter::default()).unwrap();
            let of = |protocol| all.iter().filter(|route| route.protocol == protocol).count();
            assert_eq!((of(OURS), of(12), table.in_sync()), (120, 0, true));
        })
        .unwrap();
    }
}
