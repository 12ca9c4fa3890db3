//! What does anybody change in the kernel?

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::fdb::Forwarding;
use crate::link::{Link, is_link};
use crate::listener::Listener;
use crate::message::{Message, messages};
use crate::neighbour::Neighbour;
use crate::route::Route;

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `RTNLGRP_IPV4_IFADDR`, `_IPV6_IFADDR`.
const ADDRESSES: [u32; 2] = [5, 9];
/// `RTNLGRP_NEIGH`.
const NEIGHBOURS: u32 = 3;

/// A change, made by whomever, us included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is there or has changed.
    Link(Link),
    /// An interface is gone.
    LinkGone(Link),
    /// An address is there or has changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is there, perhaps in the place of another of its key.
    Route(Route),
    /// A route is gone; of an IPv6 route with several next hops, perhaps only the ones shown.
    /// The kernel does not tell this of IPv4 routes that vanish with their interface or source address.
    RouteGone(Route),
    /// A neighbour is there or has changed, see [`Monitor::watch_neighbours`].
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// A forwarding entry is there or has changed, see [`Monitor::watch_neighbours`].
    Forwarding(Forwarding),
    /// A forwarding entry is gone.
    ForwardingGone(Forwarding),
    /// Changes were lost because they were too many: look at everything again.
    Overrun,
}

/// A socket on which the kernel tells changes of links, addresses and routes of both families.
///
/// It does not block; its descriptor becomes readable when there is something. It belongs to the network namespace of
/// the thread that opens it.
#[derive(Debug)]
pub struct Monitor {
    inner: Listener,
}

impl Monitor {
    /// Opens a monitor; what happens from now on will be told.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self> {
        Self::of(&GROUPS)
    }

    /// Opens a monitor that is told of addresses alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of_addresses() -> Result<Self> {
        Self::of(&ADDRESSES)
    }

    fn of(groups: &[u32]) -> Result<Self> {
        let inner = Listener::open(netlink_sys::protocols::NETLINK_ROUTE, groups);
        inner.map(|inner| Self { inner }).map_err(|error| Error::new("open a netlink monitor", error))
    }

    /// Tells, from now on, of neighbours and forwarding entries of these interfaces too, and no longer of others'. The kernel
    /// does the filtering: what ARP and NDP learn elsewhere wakes nobody.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch_neighbours(&mut self, interfaces: &[u32]) -> Result<()> {
        calico_sys::socket::set_filter(&self.inner.inner, &filter(interfaces))
            .and_then(|()| self.inner.inner.add_membership(NEIGHBOURS))
            .map_err(|error| Error::new("watch neighbours", error))
    }

    /// All that happened since the last call, in order; empty if nothing did. Reads until nothing is left, as
    /// edge-triggered polling needs.
    ///
    /// # Errors
    /// The socket's, which are final: open a new monitor and look at everything again.
    pub fn receive(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let take = |datagram: Option<&[u8]>| match datagram {
            Some(datagram) => events.extend(messages(datagram).filter_map(event)),
            None => events.push(Event::Overrun),
        };
        let read = self.inner.drain(take);
        read.map(|()| events).map_err(|cause| Error::new("read from the netlink monitor", cause))
    }
}

/// Lets all messages pass but those about neighbours of other interfaces. Numbers are loaded as if in network order.
fn filter(interfaces: &[u32]) -> Vec<calico_sys::socket::Instruction> {
    /// `BPF_LD|BPF_H|BPF_ABS`.
    const LOAD_HALF: u16 = 0x28;
    /// `BPF_LD|BPF_W|BPF_ABS`.
    const LOAD_WORD: u16 = 0x20;
    /// `BPF_JMP|BPF_JEQ|BPF_K`.
    const JUMP_IF_EQUAL: u16 = 0x15;
    /// `BPF_RET|BPF_K`.
    const RETURN: u16 = 0x06;
    let kind = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let mut program = vec![
        (LOAD_HALF, 0, 0, 4), // nlmsghdr.nlmsg_type
        (JUMP_IF_EQUAL, 2, 0, kind(libc::RTM_NEWNEIGH)),
        (JUMP_IF_EQUAL, 1, 0, kind(libc::RTM_DELNEIGH)),
        (RETURN, 0, 0, u32::MAX),
        (LOAD_WORD, 0, 0, 20), // ndmsg.ndm_ifindex
    ];
    for index in interfaces {
        program.push((JUMP_IF_EQUAL, 0, 1, u32::from_be_bytes(index.to_ne_bytes())));
        program.push((RETURN, 0, 0, u32::MAX));
    }
    program.push((RETURN, 0, 0, 0));
    program
}

/// What a message about a neighbour or a forwarding entry says.
fn neighbour(
    message: Message<'_>,
    neighbour: impl Fn(Neighbour) -> Event,
    forwarding: impl Fn(Forwarding) -> Event,
) -> Option<Event> {
    let entry = Neighbour::parse(message).map(neighbour);
    entry.or_else(|| Forwarding::parse(message).map(forwarding))
}

fn event(message: Message<'_>) -> Option<Event> {
    match message.kind {
        libc::RTM_NEWNEIGH => neighbour(message, Event::Neighbour, Event::Forwarding),
        libc::RTM_DELNEIGH => neighbour(message, Event::NeighbourGone, Event::ForwardingGone),
        libc::RTM_NEWLINK if is_link(message) => Link::parse(message).map(Event::Link),
        libc::RTM_DELLINK if is_link(message) => Link::parse(message).map(Event::LinkGone),
        libc::RTM_NEWADDR => Address::parse(message).map(Event::Address),
        libc::RTM_DELADDR => Address::parse(message).map(Event::AddressGone),
        libc::RTM_NEWROUTE => Route::parse(message).map(Event::Route),
        libc::RTM_DELROUTE => Route::parse(message).map(Event::RouteGone),
        _ => None,
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.inner.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.inner.as_raw_fd()
    }
}
