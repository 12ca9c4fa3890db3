//! Is a pod's interface still as ADD made it?
//!
//! What ADD answered (`prevResult`) is compared with the kernel on both sides and, by the agent, with what is stored.
//! Several plugins may have written to `prevResult` since: what is another interface's is theirs to check.

use std::net::IpAddr;

use calico_agent::Check;
use calico_netlink::{RouteFilter, RouteKind, Socket, TABLE_MAIN};
use ipnet::IpNet;

use crate::conversation;
use crate::environment::Environment;
use crate::error::{Code, Error};
use crate::netconf::Netconf;
use crate::pod::{self, Expected, Namespace};
use crate::result::{Interface, Received};

/// What ADD answered.
///
/// # Errors
/// Code 7 if it is missing or no result.
pub fn previous(netconf: &Netconf) -> Result<Received, Error> {
    let previous = netconf.previous.as_ref().ok_or_else(|| {
        let details = "prevResult is missing in the network configuration; the runtime must keep what ADD answered";
        Error::configuration("CHECK needs the result of ADD", details)
    })?;
    Received::read(previous).map_err(|wrong| Error::configuration("prevResult is no result of ADD", wrong))
}

/// That the pod's interface, its addresses and its routes are there on both sides, and that its endpoint and its
/// addresses are stored. `assigned` says whether the addresses are of our own IPAM.
///
/// # Errors
/// Code 7 for a `prevResult` that is none, 8 if the pod's namespace is gone, 11 if the agent does not answer, otherwise
/// 999 naming the difference.
pub fn interface(netconf: &Netconf, environment: &Environment, assigned: bool) -> Result<(), Error> {
    let previous = previous(netconf)?;
    let namespace = Namespace::require(environment.namespace.as_deref().unwrap_or("".as_ref()))?;
    let name = environment.interface.as_str();
    let inside = previous.interfaces.iter().find(|one| one.sandbox.is_some() && one.name == name);
    let host = previous.interfaces.iter().find(|one| one.sandbox.is_none());
    let (Some(inside), Some(host)) = (inside, host) else {
        let details = format!("prevResult does not name {name} and the node's side of it");
        return Err(Error::configuration("prevResult is no result of this plugin's ADD", details));
    };
    let addresses: Vec<IpAddr> = previous.of_interface(name).collect();
    let host_index = node_side(host, &addresses)?;
    let sandbox = environment.sandbox(&netconf.name);
    let host_interface = Some(host.name.clone());
    conversation::check(netconf, Check { sandbox, addresses: addresses.clone(), assigned, host_interface })?;
    let routes = netconf.ipam.as_ref().map(|ipam| ipam.routes.clone()).unwrap_or_default();
    let mtu = inside.mtu.or(netconf.mtu);
    pod::check(&namespace, &Expected { name, mac: inside.mac, mtu, peer: host_index, addresses: &addresses, routes })
}

/// The node's side: there, on, and with a route to each address. Returns its number.
fn node_side(host: &Interface, addresses: &[IpAddr]) -> Result<u32, Error> {
    let failed = |error: calico_netlink::Error| {
        Error::new(Code::Other, "could not talk to the kernel", format!("{error}; the plugin needs CAP_NET_ADMIN"))
    };
    let mut node = Socket::open().map_err(failed)?;
    let name = &host.name;
    let Some(link) = node.link(name).map_err(failed)? else {
        return Err(pod::different(format!("{name}, the node's side of it, is not there")));
    };
    if !link.up {
        return Err(pod::different(format!("{name}, the node's side of it, is switched off")));
    }
    let filter = RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() };
    let routes = node.routes(&filter).map_err(failed)?;
    for address in addresses {
        let whole = IpNet::from(*address);
        let mut to_it = routes.iter().filter(|route| route.destination == whole && route.kind == RouteKind::Unicast);
        let leads = |hops: &[calico_netlink::NextHop]| hops.iter().any(|hop| hop.interface == Some(link.index));
        if !to_it.any(|route| leads(&route.next_hops)) {
            let details = format!("the node has no route to {address} through {name}; felix's log tells why");
            return Err(pod::different(details));
        }
    }
    Ok(link.index)
}
