//! What is desired of the route table: routes of this node's own workloads and blocks, and to other nodes'.

use std::collections::BTreeMap;

use calico_netlink::{Route, RouteKey, TABLE_MAIN};
use ipnet::IpNet;

use crate::remotes::{Place, metric};
use crate::{Dataplane, routes};

impl Dataplane {
    /// Tells the route table what is desired now. A route of this node's own goes before one to another node in the same
    /// place (reference felix.md §2.3).
    pub(crate) fn desire_routes(&mut self) {
        let up = self.links.values().filter(|link| link.up && self.configured.contains(&link.index));
        let ready: BTreeMap<String, u32> = up.map(|link| (link.name.clone(), link.index)).collect();
        let desired = routes::desired(&self.settings, &self.wanted, &ready, &self.black_holes);
        let desired: BTreeMap<RouteKey, Route> =
            desired.into_iter().map(Route::normalized).map(|route| (route.key(), route)).collect();
        let before = std::mem::take(&mut self.local_routes);
        for key in before.keys().filter(|key| !desired.contains_key(key)) {
            self.table.unwant(key);
            self.remotes.touch(key.destination);
        }
        for (key, route) in desired.iter().filter(|(key, route)| before.get(key) != Some(route)) {
            self.table.cease_to_leave(&key.destination);
            self.table.want(route.clone());
        }
        self.local_routes = desired;

        self.remotes.set_ways(self.tunnels.ways(&self.underlay));
        let ipv6 = self.settings.ipv6;
        // One by one: sixty thousand routes that are made before any is kept would be there twice.
        for destination in self.remotes.drain().into_iter().filter(|destination| ipv6 || destination.addr().is_ipv4()) {
            let place = self.remotes.place(destination, &self.settings);
            let metric = metric(&self.settings, &destination);
            let key = RouteKey { destination, table: TABLE_MAIN, metric };
            let is_local = self.local_routes.contains_key(&key);
            match place {
                Place::Leave => self.table.leave(destination),
                Place::Want(_) | Place::Empty => self.table.cease_to_leave(&destination),
            }
            match place {
                _ if is_local => {}
                Place::Want(route) => self.table.want(*route),
                Place::Leave | Place::Empty => self.table.unwant(&key),
            }
        }
    }

    /// Takes it that the IPv4 routes through an interface are gone, which has lost this address: with its last IPv4
    /// address the kernel removes them and says nothing. Those that are still there are found when they are added again.
    pub(crate) fn suspect_routes(&mut self, index: u32, lost: &IpNet) {
        if lost.addr().is_ipv4() {
            self.table.forget(index, |route| route.destination.addr().is_ipv4());
        }
    }
}
