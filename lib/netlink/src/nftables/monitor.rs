//! Who else changes our tables?

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::Table;
use super::read::is_of_table;
use super::wire::{GENERATION, SUBSYSTEM, body, find, kind, wide};
use crate::error::{Error, Result};
use crate::listener::Listener;
use crate::message::{Message, messages_with_port};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody else changed something in one of the tables.
    Touched(Table),
    /// A transaction of anybody, us included, ended; the generation has this number now.
    Generation(u32),
    /// Changes were lost because they were too many: look at everything again.
    Overrun,
}

/// A socket on which the kernel tells changes of some tables.
///
/// It does not block; its descriptor becomes readable when there is something. It belongs to the network namespace of
/// the thread that opens it.
#[derive(Debug)]
pub struct Monitor {
    inner: Listener,
    /// Whose changes are not told.
    port: u32,
    tables: Vec<Table>,
}

impl Monitor {
    /// Opens a monitor of these tables that leaves out what is changed over the socket of a number
    /// ([`super::Socket::port`]).
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(tables: Vec<Table>, port: u32) -> Result<Self> {
        let inner = Listener::open(NETLINK_NETFILTER, &[GROUP]);
        let inner = inner.map_err(|error| Error::new("open a monitor of nf_tables", error))?;
        Ok(Self { inner, port, tables })
    }

    /// All that happened since the last call, in order; empty if nothing did. Reads until nothing is left, as
    /// edge-triggered polling needs.
    ///
    /// # Errors
    /// The socket's, which are final: open a new monitor and look at everything again.
    pub fn receive(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let Self { inner, port: own, tables } = self;
        let take = |datagram: Option<&[u8]>| {
            let Some(datagram) = datagram else { return events.push(Event::Overrun) };
            let messages = messages_with_port(datagram);
            for event in messages.filter_map(|(message, port)| event(&message, u32::from(port == *own), tables)) {
                // A table flushed is thousands of messages, and one thing to know.
                if events.last() != Some(&event) {
                    events.push(event);
                }
            }
        };
        let read = inner.drain(take);
        read.map(|()| events).map_err(|cause| Error::new("read from the monitor of nf_tables", cause))
    }
}

/// What a message tells; `own` is not zero if it tells of a change of ours.
pub(super) fn event(message: &Message<'_>, own: u32, tables: &[Table]) -> Option<Event> {
    if message.kind >> 8 != SUBSYSTEM {
        return None;
    }
    if message.kind == kind::NEW_GENERATION {
        let (_, attributes) = body(message.body)?;
        return find(attributes, GENERATION).and_then(wide).map(Event::Generation);
    }
    if own != 0 {
        return None;
    }
    tables.iter().find(|table| is_of_table(message, table)).cloned().map(Event::Touched)
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.inner.as_fd()
    }
}
