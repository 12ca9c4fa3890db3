//! How are routes listed and changed, one by one?

use std::borrow::Borrow;
use std::net::IpAddr;

use crate::error::{Cause, Error, Result};
use crate::message::{Request, family, ip_octets};
use crate::route::Route;
use crate::socket::{Batch, Socket};

/// `RTM_F_FIB_MATCH`: answer with the route, not with what follows from it.
const FIB_MATCH: u32 = 0x2000;

/// Which routes to list; `None` is any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteFilter {
    /// Only IPv4 or only IPv6.
    pub ipv4: Option<bool>,
    /// Only of this table.
    pub table: Option<u32>,
    /// Only of this protocol.
    pub protocol: Option<u8>,
}

impl RouteFilter {
    fn admits(&self, route: &Route) -> bool {
        self.ipv4.is_none_or(|ipv4| route.destination.addr().is_ipv4() == ipv4)
            && self.table.is_none_or(|table| route.table == table)
            && self.protocol.is_none_or(|protocol| route.protocol == protocol)
    }
}

impl Socket {
    /// The routes that pass a filter; the kernel does the filtering. Routes chosen by source or type of service, which
    /// nobody here makes, are left out.
    ///
    /// # Errors
    /// The kernel's; a table that does not exist is empty.
    pub fn routes(&mut self, filter: &RouteFilter) -> Result<Vec<Route>> {
        self.list_routes(filter, None)
    }

    /// The same, of those through one interface alone.
    ///
    /// # Errors
    /// The kernel's, above all if there is no such interface.
    pub fn routes_through(&mut self, interface: u32, filter: &RouteFilter) -> Result<Vec<Route>> {
        self.list_routes(filter, Some(interface))
    }

    fn list_routes(&mut self, filter: &RouteFilter, interface: Option<u32>) -> Result<Vec<Route>> {
        let through = |route: &Route| {
            interface.is_none_or(|index| route.next_hops.iter().any(|hop| hop.interface == Some(index)))
        };
        let mut found = Vec::new();
        let families = [(true, libc::AF_INET), (false, libc::AF_INET6)];
        for (_, family) in families.into_iter().filter(|(ipv4, _)| filter.ipv4.is_none_or(|only| only == *ipv4)) {
            let mut fixed = [0; 12];
            fixed[0] = family as u8;
            fixed[5] = filter.protocol.unwrap_or(0);
            let mut request = Request::new(libc::RTM_GETROUTE, 0, &fixed);
            if let Some(table) = filter.table {
                request.number(libc::RTA_TABLE, table);
            }
            if let Some(interface) = interface {
                request.number(libc::RTA_OIF, interface);
            }
            let wanted = |route: &Route| filter.admits(route) && through(route);
            match self.dump(request, "list routes", |message| Route::parse(message).filter(wanted)) {
                Ok(routes) => found.extend(routes),
                Err(error) if filter.table.is_some() && error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`is_exists`](crate::Error::is_exists) if there is one of the same [`RouteKey`](crate::RouteKey), whatever it says.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        self.change(route.add(), format_args!("add route {route}"))
    }

    /// Adds a route or puts it in the place of that of the same [`RouteKey`](crate::RouteKey), in one step: **whoever made that**.
    /// [`RouteTable`](crate::RouteTable) looks first.
    ///
    /// # Errors
    /// The kernel's.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        self.change(route.replace(), format_args!("replace route {route}"))
    }

    /// Removes the route that agrees in all that `route` says; without next hops, any of its key, kind and protocol.
    /// To the kernel, IPv4 metric 0 says nothing: of several metrics the smallest goes.
    ///
    /// # Errors
    /// [`is_not_found`](crate::Error::is_not_found) if there is none.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        self.change(route.delete(), format_args!("delete route {route}"))
    }

    /// The route that the node's own packets to `destination` take (longest prefix, smallest metric, all rules).
    ///
    /// # Errors
    /// The kernel's, but not that there is none.
    pub fn route_to(&mut self, destination: IpAddr) -> Result<Option<Route>> {
        let length = if destination.is_ipv4() { 32 } else { 128 };
        let mut fixed = [0; 12];
        fixed[..2].copy_from_slice(&[family(destination), length]);
        fixed[8..].copy_from_slice(&FIB_MATCH.to_ne_bytes());
        let mut request = Request::new(libc::RTM_GETROUTE, 0, &fixed);
        request.attribute(libc::RTA_DST, &ip_octets(destination));
        let asked = format_args!("get the route to {destination}");
        match self.get(request, asked, |message| Some(Route::parse(message))) {
            Ok(route) => Ok(route),
            // "Unreachable" is how the kernel says none; the others are the answers of prohibit and black hole.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ESRCH)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes many changes to routes; each failure comes with the index of its route.
    pub(crate) fn change_routes(
        &mut self,
        verb: &str,
        routes: &[impl Borrow<Route>],
        request: impl Fn(&Route) -> Request,
    ) -> Vec<(usize, Error)> {
        let requests = routes.iter().map(|route| request(route.borrow()));
        let explain = |(index, cause): (usize, Cause)| {
            let route = routes.get(index).map(|route| route.borrow().to_string()).unwrap_or_default();
            (index, Error::new(format_args!("{verb} route {route}"), cause))
        };
        self.change_all(requests).into_iter().map(explain).collect()
    }
}

impl Batch {
    /// As [`Socket::add_route`].
    pub fn add_route(&mut self, route: &Route) {
        self.push(route.add(), format_args!("add route {route}"));
    }
}
