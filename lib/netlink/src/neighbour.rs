//! Neighbours: which Ethernet address has an IP address on a link (ARP, NDP)?

use std::net::IpAddr;

use crate::error::Result;
use crate::link::Mac;
use crate::message::{Message, Request, attributes, family, field, ip, ip_octets};
use crate::socket::{Batch, Socket};

/// `NDA_IFINDEX`.
const NDA_IFINDEX: u16 = 8;

/// An entry of the neighbour table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Neighbour {
    /// The interface's number.
    pub index: u32,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its Ethernet address, if it is known.
    pub mac: Option<Mac>,
    /// `NUD_…`: 0x80 is permanent.
    pub state: u16,
    /// `NTF_…`.
    pub flags: u8,
}

impl Neighbour {
    /// An entry that never ages.
    pub fn permanent(index: u32, address: IpAddr, mac: Mac) -> Self {
        Self { index, address, mac: Some(mac), state: libc::NUD_PERMANENT, flags: 0 }
    }

    /// Reads `RTM_NEWNEIGH` or `RTM_DELNEIGH`.
    pub(crate) fn parse(message: Message<'_>) -> Option<Self> {
        let index = u32::from_ne_bytes(field(message.body, 4)?);
        let state = u16::from_ne_bytes(field(message.body, 8)?);
        let [flags] = field(message.body, 10)?;
        if message.body.first() == Some(&(libc::AF_BRIDGE as u8)) {
            return None; // no neighbour but a forwarding entry, see fdb.rs
        }
        let (mut address, mut mac) = (None, None);
        for (kind, value) in attributes(message.body.get(12..)?) {
            match kind {
                libc::NDA_DST => address = ip(value),
                libc::NDA_LLADDR if value.len() == 6 => mac = field(value, 0).map(Mac),
                _ => {}
            }
        }
        Some(Self { index, address: address?, mac, state, flags })
    }

    fn request(&self, kind: u16, flags: i32) -> Request {
        let mut fixed = [0; 12];
        fixed[0] = family(self.address);
        fixed[4..8].copy_from_slice(&self.index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&self.state.to_ne_bytes());
        fixed[10] = self.flags;
        let mut request = Request::new(kind, flags, &fixed);
        request.attribute(libc::NDA_DST, &ip_octets(self.address));
        if let Some(mac) = self.mac {
            request.attribute(libc::NDA_LLADDR, &mac.0);
        }
        request
    }
}

impl Socket {
    /// All neighbours of both families.
    ///
    /// # Errors
    /// The kernel's.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let request = Request::new(libc::RTM_GETNEIGH, 0, &[0; 12]);
        self.dump(request, "list neighbours", Neighbour::parse)
    }

    /// The neighbours of both families on one interface; the kernel does the filtering.
    ///
    /// # Errors
    /// The kernel's.
    pub fn neighbours_on(&mut self, index: u32) -> Result<Vec<Neighbour>> {
        let mut request = Request::new(libc::RTM_GETNEIGH, 0, &[0; 12]);
        request.number(NDA_IFINDEX, index);
        let here = |message: Message<'_>| Neighbour::parse(message).filter(|found| found.index == index);
        self.dump(request, format_args!("list neighbours on interface {index}"), here)
    }

    /// Makes an entry, or changes it if there is one for the address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        let request = neighbour.request(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        let (address, index) = (neighbour.address, neighbour.index);
        self.change(request, format_args!("set neighbour {address} on interface {index}"))
    }

    /// Removes an entry.
    ///
    /// # Errors
    /// [`is_not_found`](crate::Error::is_not_found) if there is none.
    pub fn delete_neighbour(&mut self, neighbour: &Neighbour) -> Result<()> {
        let request = neighbour.request(libc::RTM_DELNEIGH, 0);
        let (address, index) = (neighbour.address, neighbour.index);
        self.change(request, format_args!("delete neighbour {address} from interface {index}"))
    }
}

impl Batch {
    /// As [`Socket::replace_neighbour`].
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) {
        let request = neighbour.request(libc::RTM_NEWNEIGH, libc::NLM_F_CREATE | libc::NLM_F_REPLACE);
        let (address, index) = (neighbour.address, neighbour.index);
        self.push(request, format_args!("set neighbour {address} on interface {index}"));
    }

    /// As [`Socket::delete_neighbour`].
    pub fn delete_neighbour(&mut self, neighbour: &Neighbour) {
        let request = neighbour.request(libc::RTM_DELNEIGH, 0);
        let (address, index) = (neighbour.address, neighbour.index);
        self.push(request, format_args!("delete neighbour {address} from interface {index}"));
    }
}
