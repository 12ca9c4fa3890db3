//! How do the routes of one owner come to be as desired, and everybody else's stay as they are?
//!
//! Which routes are ours is told by the kernel itself (a protocol number, an interface), through the predicate that a
//! [`RouteTable`] is made with, so a restarted process knows its own again: it resyncs, wants what it wants, and
//! writes only the difference.
//!
//! A route is replaced in one step, never removed first. The kernel's *replace* does not ask whose route it replaces,
//! so a route is added with *exclusive* when none of ours is known in its place, and before a replacement, and when an
//! addition is refused, what is there is looked at. A foreign route in our place is an error for that key, repeated
//! until it is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use calico_delta::Delta;
use ipnet::IpNet;

use crate::error::{Cause, Error, Result};
use crate::monitor::Event;
use crate::route::{NextHop, Route, RouteKey, RouteKind};
use crate::routes::RouteFilter;
use crate::socket::Socket;

/// So many keys are looked up one by one; for more, their tables are listed.
const SINGLE_LOOKS: usize = 32;

type Predicate = dyn Fn(&Route) -> bool + Send + Sync;

/// The desired routes of one owner against the kernel's.
pub struct RouteTable {
    ours: Box<Predicate>,
    filter: RouteFilter,
    delta: Delta<RouteKey, Route>,
    /// Routes of ours beyond the first of a key, as found by the last resync.
    surplus: Vec<Route>,
    /// Interfaces that are off or gone, as far as we were told.
    down: BTreeSet<u32>,
    held: BTreeSet<RouteKey>,
    /// Keys whose routes may be removed though nothing else may.
    released: BTreeSet<RouteKey>,
    /// Destinations whose routes of ours are not removed.
    left: BTreeSet<IpNet>,
    /// What stands in the place of a desired route is ours.
    claims: Option<Box<Predicate>>,
    stale: bool,
    sweep: bool,
}

impl RouteTable {
    /// A table of the routes for which `ours` holds, of all families and tables. Nothing is known about the kernel's
    /// routes before [`RouteTable::resync`], and nothing is removed before [`RouteTable::set_sweep`].
    pub fn new(ours: impl Fn(&Route) -> bool + Send + Sync + 'static) -> Self {
        let delta = Delta::with_comparison(Route::is_met_by);
        let filter = RouteFilter::default();
        Self {
            ours: Box::new(ours),
            filter,
            delta,
            surplus: Vec::new(),
            down: BTreeSet::new(),
            held: BTreeSet::new(),
            released: BTreeSet::new(),
            left: BTreeSet::new(),
            claims: None,
            stale: true,
            sweep: false,
        }
    }

    /// The same, which takes the place of a desired route from whoever holds it, in one step.
    pub fn claiming_places(self) -> Self {
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
        self.delta.want(route.key(), route);
    }

    /// Desires no route under this key.
    pub fn unwant(&mut self, key: &RouteKey) {
        self.delta.unwant(key);
        // What was ours by its place alone is so no longer.
        if self.delta.actual().get(key).is_some_and(|route| !self.is_ours(route)) {
            self.delta.gone(key);
        }
    }

    /// Leaves what stands at a destination that is not desired where it is, though it be ours: whoever is to have it replaces
    /// it. Black holes are no way for anybody, so they go.
    pub fn leave(&mut self, destination: IpNet) {
        self.left.insert(destination.trunc());
    }

    /// Takes [`RouteTable::leave`] back.
    pub fn cease_to_leave(&mut self, destination: &IpNet) {
        self.left.remove(&destination.trunc());
    }

    fn is_ours(&self, route: &Route) -> bool {
        let claims = |route| self.claims.as_ref().is_some_and(|claims| claims(route));
        (self.ours)(route) || (self.delta.desired().contains_key(&route.key()) && claims(route))
    }

    /// Whether this route of ours that is not desired stays.
    fn is_left(&self, route: &Route) -> bool {
        route.kind == RouteKind::Unicast && self.left.contains(&route.destination)
    }

    /// Desires no route under this key, and lets the one that is there be removed even before [`RouteTable::set_sweep`]:
    /// whoever wanted it says that it is over.
    pub fn release(&mut self, key: &RouteKey) {
        self.delta.unwant(key);
        if !self.sweep {
            self.released.insert(*key);
        }
    }

    /// The desired routes, in the order of their keys.
    pub fn desired(&self) -> impl Iterator<Item = &Route> {
        self.delta.desired().values()
    }

    /// Our routes in the kernel, as far as we know.
    pub fn actual(&self) -> impl Iterator<Item = &Route> {
        self.delta.actual().values()
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
            Event::Route(route) if self.is_ours(route) => self.delta.seen(route.key(), route.clone()),
            Event::Route(route) => {
                // Somebody's route came to the place of ours, and took it or stands beside it: see when applying.
                self.delta.gone(&route.key());
            }
            Event::RouteGone(route) if self.is_ours(route) => self.notice_gone(route),
            Event::Link(link) if link.up => {
                self.down.remove(&link.index);
            }
            Event::Link(link) | Event::LinkGone(link) => self.notice_down(link.index),
            Event::AddressGone(address) => {
                let source = Some(address.network.addr());
                self.forget(|route| route.source == source);
            }
            Event::Overrun => self.stale = true,
            Event::RouteGone(_)
            | Event::Address(_)
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
        let mut actual: BTreeMap<RouteKey, Route> = BTreeMap::new();
        let mut surplus = Vec::new();
        for route in socket.routes(&self.filter)?.into_iter().filter(|route| self.is_ours(route)) {
            match actual.entry(route.key()) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(route);
                }
                std::collections::btree_map::Entry::Occupied(_) => surplus.push(route),
            }
        }
        self.delta.resync(actual);
        self.surplus = surplus;
        self.stale = false;
        Ok(())
    }

    /// Whether [`RouteTable::resync`] is needed before [`RouteTable::apply`] can be right.
    pub fn needs_resync(&self) -> bool {
        self.stale
    }

    /// Whether there is nothing to look at, nothing to write and nothing that may be removed.
    pub fn in_sync(&self) -> bool {
        let desired = self.delta.desired();
        let removable = self.sweep && self.surplus.iter().any(|route| !self.is_left(route));
        let mut dirty = self.delta.dirty().filter(|key| !self.held.contains(key));
        let pending = dirty.any(|key| desired.contains_key(key) || self.may_remove(key));
        !(self.stale || removable || pending)
    }

    /// Changes the kernel's routes to the desired ones: additions and replacements first, then removals. One failure
    /// does not stop the others, and what failed is tried again the next time. Writes nothing when nothing differs.
    pub fn apply(&mut self, socket: &mut Socket) -> Vec<(RouteKey, Error)> {
        let mut plan = self.delta.plan();
        plan.upserts.retain(|(key, _)| !self.held.contains(key));
        plan.deletes.retain(|key| !self.held.contains(key));
        let mut failures = Vec::new();
        let (replacements, additions): (Vec<_>, Vec<_>) =
            plan.upserts.into_iter().partition(|(key, _)| self.delta.actual().contains_key(key));
        let additions = additions.into_iter().map(|(_, route)| route).collect();
        let mut contested: Vec<Route> = replacements.into_iter().map(|(_, route)| route).collect();
        for (route, error) in self.write(socket, "add", additions, Route::add) {
            if error.is_exists() {
                contested.push(route);
            } else {
                failures.push((route.key(), error));
            }
        }
        self.replace(socket, contested, &mut failures);
        plan.deletes.retain(|key| self.may_remove(key));
        self.remove(socket, plan.deletes, &mut failures);
        self.released.retain(|key| self.delta.actual().contains_key(key));
        failures
    }

    /// Whether the route of this key, which is not desired, is to be removed now.
    fn may_remove(&self, key: &RouteKey) -> bool {
        (self.sweep || self.released.contains(key)) && !self.delta.actual().get(key).is_some_and(|r| self.is_left(r))
    }

    /// Sends changes; those that succeeded count as seen, those that failed are returned.
    ///
    /// Routes of one next hop go together: the kernel looks for one that it knows among all through the same interface, one by
    /// one and the youngest first. With thousands of gateways that is all the time it takes.
    fn write(
        &mut self,
        socket: &mut Socket,
        verb: &str,
        mut routes: Vec<Route>,
        request: impl Fn(&Route) -> crate::message::Request,
    ) -> Vec<(Route, Error)> {
        routes.sort_by(|one, other| one.next_hops.cmp(&other.next_hops));
        let mut failures = socket.change_routes(verb, &routes, request).into_iter().peekable();
        let mut failed = Vec::new();
        for (index, route) in routes.into_iter().enumerate() {
            match failures.next_if(|(place, _)| *place == index) {
                Some((_, error)) => failed.push((route, error)),
                None => self.delta.seen(route.key(), route),
            }
        }
        failed
    }

    /// Writes routes in whose place there is or may be another, unless it is foreign.
    fn replace(&mut self, socket: &mut Socket, routes: Vec<Route>, failures: &mut Vec<(RouteKey, Error)>) {
        if routes.is_empty() {
            return;
        }
        let holders = match self.look(socket, &routes) {
            Ok(holders) => holders,
            Err(error) => {
                let text = error.to_string();
                let explain = |route: &Route| {
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
                self.delta.gone(&key);
                let cause = Cause::Foreign { protocol: foreign.protocol };
                failures.push((key, Error::new(format_args!("add route {route}"), cause)));
                continue;
            }
            match holder {
                [only] if route.is_met_by(only) => self.delta.seen(key, only.clone()),
                _ => writable.push(route),
            }
        }
        let failed = self.write(socket, "replace", writable, Route::replace);
        failures.extend(failed.into_iter().map(|(route, error)| (route.key(), error)));
    }

    /// What the kernel holds in the places of these routes.
    fn look(&self, socket: &mut Socket, routes: &[Route]) -> Result<BTreeMap<RouteKey, Vec<Route>>> {
        let mut holders: BTreeMap<RouteKey, Vec<Route>> = BTreeMap::new();
        let mut unknown: BTreeSet<RouteKey> = routes.iter().map(Route::key).collect();
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
            let filter = RouteFilter { ipv4: Some(ipv4), table: Some(table), protocol: None };
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
        let bare = |route: &Route| Route { next_hops: Vec::new(), source: None, ..route.clone() };
        let routes: Vec<Route> = keys.iter().filter_map(|key| self.delta.actual().get(key)).map(bare).collect();
        let mut refused = socket.change_routes("delete", &routes, Route::delete).into_iter().peekable();
        for (index, route) in routes.iter().enumerate() {
            match refused.next_if(|(place, _)| *place == index) {
                Some((_, error)) if !error.is_not_found() => failures.push((route.key(), error)),
                _ => {
                    self.delta.gone(&route.key());
                }
            }
        }
        let mut surplus = if self.sweep { std::mem::take(&mut self.surplus) } else { Vec::new() };
        self.surplus = surplus.extract_if(.., |route| self.is_left(route)).collect();
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
        let siblings = RouteKey { metric: 1, ..*key }..=RouteKey { metric: u32::MAX, ..*key };
        if key.metric != 0 || self.delta.actual().range(siblings).next().is_none() {
            return false;
        }
        let Some(route) = self.delta.actual().get(key).cloned() else { return true };
        let there = |holders: BTreeMap<_, Vec<Route>>| {
            holders.get(key).is_some_and(|all| all.iter().any(|route| self.is_ours(route)))
        };
        // If it cannot be known now, the next pass will do.
        let gone = self.look(socket, &[route]).is_ok_and(|holders| !there(holders));
        if gone {
            self.delta.gone(key);
        }
        gone
    }

    /// One of ours is gone, or of an IPv6 route some next hops.
    fn notice_gone(&mut self, gone: &Route) {
        let key = gone.key();
        let Some(actual) = self.delta.actual().get(&key) else { return };
        let mut rest = actual.clone();
        rest.next_hops.retain(|hop| !gone.next_hops.contains(hop));
        let partial = key.destination.addr().is_ipv6() && !rest.next_hops.is_empty();
        if partial && rest.next_hops.len() < actual.next_hops.len() {
            self.delta.seen(key, rest);
        } else {
            // If it was an older one, the addition will find the newer in its place.
            self.delta.gone(&key);
        }
    }

    /// An interface is off. The kernel removes an IPv4 route whose last next hop is dead and says nothing; of IPv6 it
    /// tells.
    fn notice_down(&mut self, interface: u32) {
        if !self.down.insert(interface) {
            return;
        }
        let down = std::mem::take(&mut self.down);
        let ipv4 = |route: &&Route| route.destination.addr().is_ipv4();
        // Where we left the interface to the kernel and were not yet told which it took, anything may have happened.
        let unknown = self.actual().filter(ipv4).flat_map(|route| &route.next_hops).any(|hop| hop.interface.is_none());
        self.stale |= unknown;
        let dead = |hop: &NextHop| hop.interface.is_some_and(|interface| down.contains(&interface));
        self.forget(|route| ipv4(&route) && !route.next_hops.is_empty() && route.next_hops.iter().all(dead));
        self.down = down;
    }

    fn forget(&mut self, lost: impl Fn(&Route) -> bool) {
        let keys: Vec<RouteKey> = self.delta.actual().iter().filter(|(_, r)| lost(r)).map(|(key, _)| *key).collect();
        for key in keys {
            self.delta.gone(&key);
        }
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("desired", &self.delta.desired().len())
            .field("actual", &self.delta.actual().len())
            .field("stale", &self.stale)
            .field("sweep", &self.sweep)
            .finish_non_exhaustive()
    }
}
