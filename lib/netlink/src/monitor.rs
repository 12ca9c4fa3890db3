//! What does anybody change in the kernel?

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::address::Address;
use crate::error::{Cause, Error, Result};
use crate::link::{Link, is_link};
use crate::message::{Message, messages};
use crate::route::Route;
use crate::socket::receive;

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `RTNLGRP_IPV4_IFADDR`, `_IPV6_IFADDR`.
const ADDRESSES: [u32; 2] = [5, 9];
/// Room for what happens while we are busy, in octets: some ten thousand routes.
const BUFFER: usize = 8 << 20;

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
    /// Changes were lost because they were too many: look at everything again.
    Overrun,
}

/// A socket on which the kernel tells changes of links, addresses and routes of both families.
///
/// It does not block; its descriptor becomes readable when there is something. It belongs to the network namespace of
/// the thread that opens it.
#[derive(Debug)]
pub struct Monitor {
    inner: netlink_sys::Socket,
    buffer: Vec<u8>,
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
        let open = || {
            let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            // Not allowed without CAP_NET_ADMIN; then overruns are only more likely.
            let _ = calico_sys::socket::set_receive_buffer(&socket, BUFFER);
            socket.bind_auto()?;
            for group in groups {
                socket.add_membership(*group)?;
            }
            Ok(socket)
        };
        let inner = open().map_err(|error: io::Error| Error::new("open a netlink monitor", error))?;
        Ok(Self { inner, buffer: Vec::new() })
    }

    /// All that happened since the last call, in order; empty if nothing did. Reads until nothing is left, as
    /// edge-triggered polling needs.
    ///
    /// # Errors
    /// The socket's, which are final: open a new monitor and look at everything again.
    pub fn receive(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            match receive(&self.inner, &mut self.buffer) {
                Ok(()) => events.extend(messages(&self.buffer).filter_map(event)),
                Err(Cause::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(Cause::Io(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => events.push(Event::Overrun),
                Err(Cause::Protocol(_)) => events.push(Event::Overrun),
                Err(cause) => return Err(Error::new("read from the netlink monitor", cause)),
            }
        }
    }
}

fn event(message: Message<'_>) -> Option<Event> {
    match message.kind {
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
        self.inner.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}
