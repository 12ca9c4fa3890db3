//! What is done inside a pod's network namespace?
//!
//! The pod's end of the veth pair is born there under its final name, so nothing is moved or renamed. Its addresses are
//! single ones (/32, /128); everything goes to the node: IPv4 through 169.254.1.1, which nobody has, IPv6 through the
//! link-local address that follows from the node end's fixed Ethernet address.
//! The node's end is left off: the agent sets its parameters and routes before it lets packets through.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use calico_netlink::{
    Address, Batch, LinkChange, Mac, Neighbour, NextHop, Route, RouteFilter, Socket, TABLE_MAIN, Veth, namespace,
    sysctl,
};
use ipnet::IpNet;

use crate::error::{Code, Error};

/// Ethernet address of every node's end.
const NODE_MAC: Mac = Mac([0xee; 6]);
/// The router of every pod: on no interface; the node answers for it by proxy ARP if it is asked.
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The link-local address that the kernel makes of [`NODE_MAC`] (RFC 4291 appendix A).
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// `RTPROT_BOOT`: the mark of routes that were set by hand or script.
const PROTOCOL: u8 = 3;

/// A pod's network namespace, opened.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

/// The interface to be made.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Name of the node's end.
    pub host_name: &'a str,
    /// Name of the pod's end.
    pub name: &'a str,
    /// MTU of both, in octets; the kernel's if `None`.
    pub mtu: Option<u32>,
    /// Queues of each end.
    pub queues: u32,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether the pod may route.
    pub forwarding: bool,
    /// Ethernet address of the pod's end; random if `None`.
    pub mac: Option<Mac>,
    /// Where the pod's packets may go; everywhere if there are none.
    pub routes: Vec<IpNet>,
}

/// What an interface must be like.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// Name of the pod's end.
    pub name: &'a str,
    /// Its Ethernet address; any if `None`.
    pub mac: Option<Mac>,
    /// Its MTU, in octets; any if `None`.
    pub mtu: Option<u32>,
    /// Number of the node's end, on the node.
    pub peer: u32,
    /// Addresses that it must have; it may have others.
    pub addresses: &'a [IpAddr],
    /// As in [`Wanted`].
    pub routes: Vec<IpNet>,
}

/// The node's side while an interface is made: what is needed to remove it again.
#[derive(Debug)]
pub struct Node {
    socket: Socket,
    /// Number of the node's end that we made, once it is known.
    made: Option<u32>,
}

impl Node {
    /// Opens a socket on the node. To be called before the thread enters a pod's namespace.
    ///
    /// # Errors
    /// Code 999.
    pub fn open() -> Result<Self, Error> {
        let failed =
            |error: calico_netlink::Error| Error::new(Code::Other, "could not talk to the kernel", error.to_string());
        Ok(Self { socket: Socket::open().map_err(failed)?, made: None })
    }
}

/// The interface that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Ethernet address of the pod's end.
    pub mac: Mac,
    /// Number of the node's end, on the node.
    pub host_index: u32,
}

impl Namespace {
    /// Opens the namespace of a path; `None` if there is nothing.
    ///
    /// # Errors
    /// Code 8 if it cannot be opened or is the one we are in: what is meant for a pod must not happen to the node.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let fail = |error: io::Error| {
            let details = format!("{}: {error}", path.display());
            Error::new(Code::InvalidNamespace, "could not open the network namespace in CNI_NETNS", details)
        };
        let file = match namespace::open(path) {
            Ok(file) => File::from(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let (theirs, ours) = (file.metadata().map_err(fail)?, fs::metadata("/proc/thread-self/ns/net").map_err(fail)?);
        if (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()) {
            let details = format!("{} is the namespace that the plugin itself runs in", path.display());
            return Err(Error::new(Code::InvalidNamespace, "CNI_NETNS is not a pod's network namespace", details));
        }
        Ok(Some(Self { file, path: path.to_owned() }))
    }

    /// As [`Namespace::open`], if there must be one.
    ///
    /// # Errors
    /// Code 8.
    pub fn require(path: &Path) -> Result<Self, Error> {
        let details = || format!("{}: there is no such file; the pod may be gone already", path.display());
        let missing =
            || Error::new(Code::InvalidNamespace, "could not open the network namespace in CNI_NETNS", details());
        Self::open(path)?.ok_or_else(missing)
    }

    /// Moves the calling thread into the namespace, for ever.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` if it is no network namespace.
    fn enter(&self) -> io::Result<()> {
        namespace::enter(self.file.as_fd())
    }

    /// [`Namespace::enter`] with an error for the runtime.
    ///
    /// # Errors
    /// Code 8.
    fn enter_or_explain(&self) -> Result<(), Error> {
        self.enter().map_err(|error| {
            let details = format!("{}: {error}", self.path.display());
            Error::new(Code::InvalidNamespace, "could not enter the network namespace in CNI_NETNS", details)
        })
    }
}

/// Makes the veth pair, enters the pod's namespace and configures the pod's end.
///
/// On failure the pair may be there: remove it by [`remove`].
///
/// # Errors
/// Code 8 or 999, saying which step failed.
pub fn attach(node: &mut Node, namespace: &Namespace, wanted: &Wanted<'_>) -> Result<Made, Error> {
    let mac = wanted.mac.unwrap_or_else(random_mac);
    let veth = Veth {
        name: wanted.host_name,
        peer_name: wanted.name,
        peer_netns: Some(namespace.file.as_fd()),
        mtu: wanted.mtu,
        mac: Some(NODE_MAC),
        peer_mac: Some(mac),
        queues: Some(wanted.queues),
    };
    let added = node.socket.add_veth(&veth);
    namespace.enter_or_explain()?;
    let mut inside = Socket::open().map_err(failed)?;
    match added {
        Err(error) if error.is_exists() => {
            // What an earlier ADD of this pod left, on either side.
            remove_veth(&mut node.socket, wanted.host_name)?;
            remove_veth(&mut inside, wanted.name)?;
            node.socket.add_veth(&veth).map_err(failed)?;
        }
        other => other.map_err(failed)?,
    }
    let host = node.socket.link(wanted.host_name).map_err(failed)?;
    node.made = host.as_ref().map(|host| host.index);
    let (host_index, index) = host.and_then(|host| Some((host.index, host.peer?))).ok_or_else(|| {
        let details = format!("{} is not there though it was just made", wanted.host_name);
        Error::new(Code::Other, "could not set up the pod's interface", details)
    })?;
    set_parameters(wanted)?;
    inside.execute(configuration(index, wanted)).map_err(failed)?;
    Ok(Made { mac, host_index })
}

/// Everything that the pod's end gets, in one batch.
fn configuration(index: u32, wanted: &Wanted<'_>) -> Batch {
    let mut batch = Batch::new();
    for address in &wanted.addresses {
        batch.add_address(&Address::new(index, IpNet::from(*address)).without_duplicate_detection());
    }
    // Routes need an interface that is on.
    batch.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() });
    let dev = NextHop::dev(index);
    let through = |gateway: IpAddr| NextHop::via(gateway).on(index);
    // Departs from Calico, whose pods ask who has the gateway. The answer is known, and giving it here spares the first
    // packet a round that the node may delay (neigh/proxy_delay) and only answers if it has a default route itself.
    let neighbour = |gateway: IpAddr| Neighbour::permanent(index, gateway, NODE_MAC);
    if wanted.addresses.iter().any(IpAddr::is_ipv4) {
        batch.replace_neighbour(&neighbour(GATEWAY_V4.into()));
        batch.add_route(&Route::unicast(IpNet::from(IpAddr::from(GATEWAY_V4)), [dev], PROTOCOL));
    }
    if wanted.addresses.iter().any(IpAddr::is_ipv6) {
        batch.replace_neighbour(&neighbour(GATEWAY_V6.into()));
    }
    for (destination, gateway) in routes(&wanted.routes, &wanted.addresses) {
        batch.add_route(&Route::unicast(destination, [through(gateway)], PROTOCOL));
    }
    batch
}

/// The pod's routes through its routers: to everywhere, unless there is a choice; only of families it has an address of.
fn routes(chosen: &[IpNet], addresses: &[IpAddr]) -> Vec<(IpNet, IpAddr)> {
    let everywhere = [IpNet::V4(ipnet::Ipv4Net::default()), IpNet::V6(ipnet::Ipv6Net::default())];
    let destinations = if chosen.is_empty() { &everywhere[..] } else { chosen };
    let gateway = |destination: &IpNet| match destination {
        IpNet::V4(_) => IpAddr::V4(GATEWAY_V4),
        IpNet::V6(_) => IpAddr::V6(GATEWAY_V6),
    };
    let is_ours = |destination: &&IpNet| addresses.iter().any(|one| one.is_ipv4() == destination.addr().is_ipv4());
    destinations.iter().filter(is_ours).map(|destination| (*destination, gateway(destination))).collect()
}

/// The kernel parameters of the pod's namespace and interface; before the interface is on.
fn set_parameters(wanted: &Wanted<'_>) -> Result<(), Error> {
    let forwarding = if wanted.forwarding { "1" } else { "0" };
    let mut set = Vec::with_capacity(4);
    if wanted.addresses.iter().any(IpAddr::is_ipv4) {
        set.push((["net", "ipv4", "conf", "all", "forwarding"], forwarding));
    }
    if wanted.addresses.iter().any(IpAddr::is_ipv6) {
        // For all that are there and for those that come: some runtimes switch IPv6 off in new namespaces.
        set.push((["net", "ipv6", "conf", "all", "disable_ipv6"], "0"));
        set.push((["net", "ipv6", "conf", wanted.name, "accept_dad"], "0"));
        set.push((["net", "ipv6", "conf", "all", "forwarding"], forwarding));
    }
    set.into_iter().try_for_each(|(name, value)| sysctl::write(&name, value).map_err(failed))
}

/// Removes the node's end that [`attach`] made, and with it the pod's, wherever the calling thread is. Not finding it is
/// a success; the same name with another number is the work of a later ADD of this pod, and stays.
///
/// # Errors
/// Code 999.
pub fn remove(node: &mut Node, host_name: &str) -> Result<(), Error> {
    let Some(made) = node.made else { return Ok(()) };
    match node.socket.link(host_name) {
        Ok(Some(link)) if link.index == made => gone(node.socket.delete_link(made)),
        Ok(_) => Ok(()),
        Err(error) => gone(Err(error)),
    }
}

/// Enters the namespace and removes the pod's interface. Not finding it, or finding that what is at the path is a
/// namespace no more, is a success.
///
/// # Errors
/// Code 999.
pub fn detach(namespace: &Namespace, name: &str) -> Result<(), Error> {
    match namespace.enter() {
        Ok(()) => {}
        // The file on which a namespace was mounted stays when the namespace goes.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(()),
        Err(_) => namespace.enter_or_explain()?,
    }
    let mut inside = Socket::open().map_err(failed)?;
    gone(inside.delete_link_by_name(name))
}

/// Sees whether the pod's interface is as it was made; enters the namespace.
///
/// # Errors
/// Code 8 or 999, saying what is missing.
pub fn check(namespace: &Namespace, expected: &Expected<'_>) -> Result<(), Error> {
    namespace.enter_or_explain()?;
    let name = expected.name;
    let mut inside = Socket::open().map_err(failed)?;
    let Some(link) = inside.link(name).map_err(failed)? else {
        return Err(different(format!("{name} is not there")));
    };
    if !link.up {
        return Err(different(format!("{name} is switched off")));
    }
    if link.peer != Some(expected.peer) {
        return Err(different(format!("{name} is not the other end of the node's side")));
    }
    if let (Some(expected), Some(found)) = (expected.mac, link.mac)
        && expected != found
    {
        return Err(different(format!("{name} has the Ethernet address {found} instead of {expected}")));
    }
    if let Some(mtu) = expected.mtu
        && mtu != link.mtu
    {
        return Err(different(format!("{name} has the MTU {} instead of {mtu}", link.mtu)));
    }
    let found = inside.addresses().map_err(failed)?;
    let has = |address: &&IpAddr| found.iter().any(|one| one.index == link.index && one.network.addr() == **address);
    if let Some(lost) = expected.addresses.iter().find(|address| !has(address)) {
        return Err(different(format!("{name} lacks the address {lost}")));
    }
    let found = inside.routes(&RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() }).map_err(failed)?;
    let hop = |route: &Route, gateway| {
        route.next_hops.iter().any(|hop| hop.gateway == Some(gateway) && hop.interface == Some(link.index))
    };
    let wanted = routes(&expected.routes, expected.addresses);
    let lost = wanted.iter().find(|(destination, gateway)| {
        !found.iter().any(|route| route.destination == *destination && hop(route, *gateway))
    });
    match lost {
        Some((destination, gateway)) => {
            Err(different(format!("the pod has no route to {destination} through {gateway} and {name}")))
        }
        None => Ok(()),
    }
}

/// Something of a pod's interface is not as ADD made it.
pub fn different(details: String) -> Error {
    let details = format!("{details}; have the runtime make the sandbox anew");
    Error::new(Code::Other, "the pod's interface is not as it was made", details)
}

/// Removes the interface of a name if it is one end of a veth pair; another is somebody else's.
fn remove_veth(socket: &mut Socket, name: &str) -> Result<(), Error> {
    match socket.link(name).map_err(failed)? {
        Some(link) if link.kind.as_deref() == Some("veth") => gone(socket.delete_link(link.index)),
        _ => Ok(()),
    }
}

fn gone(deleted: calico_netlink::Result<()>) -> Result<(), Error> {
    match deleted {
        Err(error) if !error.is_not_found() => {
            Err(Error::new(Code::Other, "could not remove the pod's interface", error.to_string()))
        }
        _ => Ok(()),
    }
}

fn failed(error: calico_netlink::Error) -> Error {
    Error::new(Code::Other, "could not set up the pod's interface", error.to_string())
}

/// A random Ethernet address: unicast, locally administered.
fn random_mac() -> Mac {
    // The standard library seeds its hashes from the kernel's random numbers.
    let [first, b, c, d, e, f, ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    Mac([first & 0xfc | 0x02, b, c, d, e, f])
}
