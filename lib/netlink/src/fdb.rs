//! Forwarding entries: behind which node is an Ethernet address? (the FDB of a VXLAN interface)

use std::net::IpAddr;

use crate::error::Result;
use crate::link::Mac;
use crate::message::{Message, Request, attributes, field, ip, ip_octets};
use crate::socket::{Batch, Socket};

/// `NTF_SELF`: in the table of the interface itself, not of a bridge above it.
const SELF: u8 = 2;

/// An entry of an interface's forwarding table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forwarding {
    /// The interface's number.
    pub index: u32,
    /// Frames to this address …
    pub mac: Mac,
    /// … go to this node.
    pub destination: IpAddr,
    /// Whether it never ages.
    pub permanent: bool,
}

impl Forwarding {
    /// An entry that never ages.
    pub fn permanent(index: u32, mac: Mac, destination: IpAddr) -> Self {
        Self { index, mac, destination, permanent: true }
    }

    /// Reads `RTM_NEWNEIGH` or `RTM_DELNEIGH`. `None` for what leads to no node: entries of bridges, neighbours.
    pub(crate) fn parse(message: Message<'_>) -> Option<Self> {
        let [family] = field(message.body, 0)?;
        let index = u32::from_ne_bytes(field(message.body, 4)?);
        let state = u16::from_ne_bytes(field(message.body, 8)?);
        if i32::from(family) != libc::AF_BRIDGE {
            return None;
        }
        let (mut mac, mut destination) = (None, None);
        for (kind, value) in attributes(message.body.get(12..)?) {
            match kind {
                libc::NDA_DST => destination = ip(value),
                libc::NDA_LLADDR if value.len() == 6 => mac = field(value, 0).map(Mac),
                _ => {}
            }
        }
        Some(Self { index, mac: mac?, destination: destination?, permanent: state & libc::NUD_PERMANENT != 0 })
    }

    fn header(index: u32, state: u16, flags: u8) -> [u8; 12] {
        let mut fixed = [0; 12];
        fixed[0] = libc::AF_BRIDGE as u8;
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&state.to_ne_bytes());
        fixed[10] = flags;
        fixed
    }

    fn replace(&self) -> Request {
        let state = if self.permanent { libc::NUD_PERMANENT } else { libc::NUD_REACHABLE };
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Request::new(libc::RTM_NEWNEIGH, flags, &Self::header(self.index, state, SELF));
        request.attribute(libc::NDA_LLADDR, &self.mac.0);
        request.attribute(libc::NDA_DST, &ip_octets(self.destination));
        request
    }

    /// Whatever node it leads to.
    fn delete(&self) -> Request {
        let header = Self::header(self.index, libc::NUD_PERMANENT, SELF);
        let mut request = Request::new(libc::RTM_DELNEIGH, 0, &header);
        request.attribute(libc::NDA_LLADDR, &self.mac.0);
        request
    }
}

impl Socket {
    /// The forwarding entries of one interface; the kernel does the filtering.
    ///
    /// # Errors
    /// The kernel's.
    pub fn forwarding(&mut self, index: u32) -> Result<Vec<Forwarding>> {
        let request = Request::new(libc::RTM_GETNEIGH, 0, &Forwarding::header(index, 0, 0));
        let here = |message: Message<'_>| Forwarding::parse(message).filter(|found| found.index == index);
        self.dump(request, format_args!("list forwarding entries of interface {index}"), here)
    }
}

impl Batch {
    /// Makes an entry, or changes the one of the Ethernet address.
    pub fn replace_forwarding(&mut self, entry: &Forwarding) {
        let Forwarding { index, mac, destination, .. } = entry;
        self.push(entry.replace(), format_args!("forward {mac} to {destination} on interface {index}"));
    }

    /// Removes the entry of the Ethernet address, wherever it leads.
    pub fn delete_forwarding(&mut self, entry: &Forwarding) {
        self.push(entry.delete(), format_args!("delete forwarding of {} on interface {}", entry.mac, entry.index));
    }
}
