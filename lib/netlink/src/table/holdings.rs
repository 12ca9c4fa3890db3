//! Which routes of ours are there, which are desired, and which of them go through an interface?

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use calico_delta::Delta;
use ipnet::IpNet;

use crate::route::{Route, RouteKey, RouteKind};

/// Desired and actual routes. What is desired and there is held once, for there may be sixty thousand of each.
#[derive(Debug)]
pub(super) struct Holdings {
    delta: Delta<RouteKey, Arc<Route>>,
    /// Destinations whose routes of ours are not removed.
    left: BTreeSet<IpNet>,
    /// Routes that are there, not desired, and left: nothing is to be done about them, however many they are.
    parked: BTreeMap<RouteKey, Arc<Route>>,
    /// The routes that are there, by the interfaces of their next hops.
    through: BTreeMap<Option<u32>, BTreeSet<RouteKey>>,
    /// How many of them have a source address.
    sourced: usize,
}

impl Holdings {
    pub(super) fn new() -> Self {
        Self {
            delta: Delta::with_comparison(|desired, actual| desired.is_met_by(actual)),
            left: BTreeSet::new(),
            parked: BTreeMap::new(),
            through: BTreeMap::new(),
            sourced: 0,
        }
    }

    /// Takes as little room as it can, after much has come in order.
    pub(super) fn pack(&mut self) {
        self.delta.pack();
        for keys in self.through.values_mut() {
            *keys = mem::take(keys).into_iter().collect();
        }
    }

    pub(super) fn desired(&self) -> &BTreeMap<RouteKey, Arc<Route>> {
        self.delta.desired()
    }

    /// The route of a key that is there.
    pub(super) fn actual(&self, key: &RouteKey) -> Option<&Arc<Route>> {
        self.delta.actual().get(key).or_else(|| self.parked.get(key))
    }

    /// All that are there.
    pub(super) fn all(&self) -> impl Iterator<Item = (&RouteKey, &Arc<Route>)> {
        self.delta.actual().iter().chain(&self.parked)
    }

    /// How many are there.
    pub(super) fn len(&self) -> usize {
        self.delta.actual().len() + self.parked.len()
    }

    /// The keys of those at a destination.
    pub(super) fn keys_at(&self, destination: IpNet) -> impl Iterator<Item = RouteKey> {
        let keys = self.delta.actual().range(of(destination)).chain(self.parked.range(of(destination)));
        keys.map(|(key, _)| *key)
    }

    /// Keys under which something is to be changed, if it may.
    pub(super) fn dirty(&self) -> impl Iterator<Item = &RouteKey> {
        self.delta.dirty()
    }

    /// The desired route of a key, unless it is there.
    pub(super) fn missing(&self, key: &RouteKey) -> Option<&Arc<Route>> {
        let met = |desired: &Route| self.delta.actual().get(key).is_some_and(|actual| desired.is_met_by(actual));
        self.delta.desired().get(key).filter(|desired| !met(desired))
    }

    /// The route of a key that is there and is to go.
    pub(super) fn superfluous(&self, key: &RouteKey) -> Option<&Arc<Route>> {
        self.delta.actual().get(key).filter(|_| !self.delta.desired().contains_key(key))
    }

    /// Whether a route of another metric is there.
    pub(super) fn has_sibling(&self, key: &RouteKey) -> bool {
        let others = RouteKey { metric: 1, ..*key }..=RouteKey { metric: u32::MAX, ..*key };
        self.delta.actual().range(others.clone()).next().is_some() || self.parked.range(others).next().is_some()
    }

    /// The keys of what is there through an interface; `None` are those where the kernel has not told which it took.
    pub(super) fn through(&self, interface: Option<u32>) -> impl Iterator<Item = &RouteKey> {
        self.through.get(&interface).into_iter().flatten()
    }

    /// Whether anything that is there has a source address.
    pub(super) fn has_sources(&self) -> bool {
        self.sourced > 0
    }

    pub(super) fn want(&mut self, route: Route) {
        let key = route.key();
        if let Some(parked) = self.parked.remove(&key) {
            self.delta.seen(key, parked);
        }
        let route = self.shared(&key, route);
        self.delta.want(key, route);
    }

    pub(super) fn unwant(&mut self, key: &RouteKey) {
        self.delta.unwant(key);
        self.park(key);
    }

    pub(super) fn leave(&mut self, destination: IpNet) {
        if self.left.insert(destination) {
            let keys: Vec<RouteKey> = self.delta.actual().range(of(destination)).map(|(key, _)| *key).collect();
            keys.iter().for_each(|key| self.park(key));
        }
    }

    pub(super) fn cease_to_leave(&mut self, destination: IpNet) {
        if self.left.remove(&destination) {
            let keys: Vec<RouteKey> = self.parked.range(of(destination)).map(|(key, _)| *key).collect();
            for key in keys {
                if let Some(route) = self.parked.remove(&key) {
                    self.delta.seen(key, route);
                }
            }
        }
    }

    /// Whether a route, which is there, stays though it is not desired.
    pub(super) fn is_left(&self, route: &Route) -> bool {
        route.kind == RouteKind::Unicast && self.left.contains(&route.destination)
    }

    fn park(&mut self, key: &RouteKey) {
        if self.superfluous(key).is_some_and(|route| self.is_left(route))
            && let Some(route) = self.delta.gone(key)
        {
            self.parked.insert(*key, route);
        }
    }

    /// The route is there.
    pub(super) fn seen(&mut self, route: Route) {
        let key = route.key();
        let route = self.shared(&key, route);
        self.put(route);
    }

    /// The same of a route as it is desired.
    pub(super) fn put(&mut self, route: Arc<Route>) {
        let key = route.key();
        if self.actual(&key).is_some_and(|before| Arc::ptr_eq(before, &route)) {
            return;
        }
        self.gone(&key);
        self.sourced += usize::from(route.source.is_some());
        for hop in &route.next_hops {
            self.through.entry(hop.interface).or_default().insert(key);
        }
        self.delta.seen(key, route);
        self.park(&key);
    }

    /// No route of this key is there any more.
    pub(super) fn gone(&mut self, key: &RouteKey) {
        let Some(route) = self.delta.gone(key).or_else(|| self.parked.remove(key)) else { return };
        self.sourced -= usize::from(route.source.is_some());
        for hop in &route.next_hops {
            if let Some(keys) = self.through.get_mut(&hop.interface) {
                keys.remove(key);
                if keys.is_empty() {
                    self.through.remove(&hop.interface);
                }
            }
        }
    }

    /// Exactly these are there; returns those beyond the first of a key.
    pub(super) fn resync(&mut self, found: impl Iterator<Item = Route>) -> Vec<Route> {
        let mut surplus = Vec::new();
        let mut keys = BTreeSet::new();
        for route in found {
            match keys.insert(route.key()) {
                true => self.seen(route),
                false => surplus.push(route),
            }
        }
        let lost: Vec<RouteKey> = self.all().map(|(key, _)| *key).filter(|key| !keys.contains(key)).collect();
        lost.iter().for_each(|key| self.gone(key));
        surplus
    }

    /// The route as it is held already, if it is.
    fn shared(&self, key: &RouteKey, route: Route) -> Arc<Route> {
        let known = [self.actual(key), self.delta.desired().get(key)];
        let same = known.into_iter().flatten().find(|known| ***known == route);
        same.cloned().unwrap_or_else(|| Arc::new(route))
    }
}

/// All keys of a destination.
fn of(destination: IpNet) -> std::ops::RangeInclusive<RouteKey> {
    let key = |number| RouteKey { destination, table: number, metric: number };
    key(0)..=key(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::NextHop;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Want(Route),
        Unwant(RouteKey),
        Seen(Route),
        Gone(RouteKey),
        Leave(IpNet),
        CeaseToLeave(IpNet),
        Resync(Vec<Route>),
        Pack,
    }

    fn route() -> impl Strategy<Value = Route> {
        let hops = prop::collection::vec(prop_oneof![Just(None), (1..4_u32).prop_map(Some)], 0..3);
        (0..4_u8, 0..2_u32, hops, any::<bool>()).prop_map(|(last, metric, hops, sourced)| {
            let destination = IpNet::new([10, 0, 0, last].into(), 32).unwrap();
            let hops: Vec<NextHop> = hops
                .into_iter()
                .map(|interface| NextHop { interface, ..NextHop::via([192, 0, 2, 1].into()) })
                .collect();
            let route =
                if hops.is_empty() { Route::blackhole(destination, 80) } else { Route::unicast(destination, hops, 80) };
            Route { source: sourced.then(|| [192, 0, 2, 9].into()), ..route }.with_metric(metric).normalized()
        })
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            route().prop_map(Op::Want),
            route().prop_map(|route| Op::Unwant(route.key())),
            route().prop_map(Op::Seen),
            route().prop_map(|route| Op::Gone(route.key())),
            route().prop_map(|route| Op::Leave(route.destination)),
            route().prop_map(|route| Op::CeaseToLeave(route.destination)),
            prop::collection::vec(route(), 0..6).prop_map(Op::Resync),
            Just(Op::Pack),
        ]
    }

    proptest! {
        /// Against three plain maps.
        #[test]
        fn what_is_there_and_what_is_to_be_done_is_known_however_it_came_about(ops in prop::collection::vec(op(), 0..60)) {
            let mut holdings = Holdings::new();
            let (mut desired, mut actual) = (BTreeMap::new(), BTreeMap::new());
            let mut left = BTreeSet::new();
            for op in ops {
                match op {
                    Op::Want(route) => { desired.insert(route.key(), route.clone()); holdings.want(route); }
                    Op::Unwant(key) => { desired.remove(&key); holdings.unwant(&key); }
                    Op::Seen(route) => { actual.insert(route.key(), route.clone()); holdings.seen(route); }
                    Op::Gone(key) => { actual.remove(&key); holdings.gone(&key); }
                    Op::Pack => holdings.pack(),
                    Op::Leave(to) => { left.insert(to); holdings.leave(to); }
                    Op::CeaseToLeave(to) => { left.remove(&to); holdings.cease_to_leave(to); }
                    Op::Resync(routes) => {
                        let count = routes.len();
                        actual.clear();
                        for route in &routes {
                            actual.entry(route.key()).or_insert_with(|| route.clone());
                        }
                        prop_assert_eq!(holdings.resync(routes.into_iter()).len(), count - actual.len());
                    }
                }
                let there: BTreeMap<RouteKey, Route> =
                    holdings.all().map(|(key, route)| (*key, (**route).clone())).collect();
                prop_assert_eq!(&there, &actual);
                prop_assert_eq!(holdings.len(), actual.len());
                let keys: BTreeSet<RouteKey> = desired.keys().chain(actual.keys()).copied().collect();
                let is_dirty = |key: &RouteKey| match (desired.get(key), actual.get(key)) {
                    (Some(desired), actual) => !actual.is_some_and(|actual| desired.is_met_by(actual)),
                    (None, Some(actual)) => !(actual.kind == RouteKind::Unicast && left.contains(&actual.destination)),
                    (None, None) => false,
                };
                let dirty: Vec<RouteKey> = keys.iter().copied().filter(is_dirty).collect();
                prop_assert_eq!(holdings.dirty().copied().collect::<Vec<_>>(), dirty);
                for interface in [None, Some(1), Some(2), Some(3)] {
                    let through = |route: &Route| route.next_hops.iter().any(|hop| hop.interface == interface);
                    let expected: Vec<RouteKey> = actual.values().filter(|route| through(route)).map(Route::key).collect();
                    prop_assert_eq!(holdings.through(interface).copied().collect::<Vec<_>>(), expected);
                }
                prop_assert_eq!(holdings.has_sources(), actual.values().any(|route| route.source.is_some()));
            }
        }
    }
}
