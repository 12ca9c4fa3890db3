//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::error::Result;
use crate::message::{Message, Request, attributes, family, field, ip, ip_octets, number};
use crate::socket::{Batch, Socket};

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The interface's number.
    pub index: u32,
    /// The address itself with the length of its network's prefix; host bits are kept.
    pub network: IpNet,
    /// `RT_SCOPE_…`: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// `IFA_F_…`.
    pub flags: u32,
}

impl Address {
    /// An address of global scope.
    pub fn new(index: u32, network: IpNet) -> Self {
        Self { index, network, scope: libc::RT_SCOPE_UNIVERSE, flags: 0 }
    }

    /// The same, not checked for duplicates on the link (IPv6; RFC 4862 §5.4): it can be used at once.
    pub fn without_duplicate_detection(mut self) -> Self {
        self.flags |= libc::IFA_F_NODAD;
        self
    }

    /// Whether an older address of the same network goes first (IPv4), or it is temporary (IPv6).
    pub fn is_secondary(&self) -> bool {
        self.flags & libc::IFA_F_SECONDARY != 0
    }

    /// Whether it may be used: neither being checked for duplicates nor found to be one.
    pub fn is_usable(&self) -> bool {
        self.flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) == 0
    }

    /// Reads `RTM_NEWADDR` or `RTM_DELADDR`.
    pub(crate) fn parse(message: Message<'_>) -> Option<Self> {
        let [_, length, flags, scope] = field(message.body, 0)?;
        let index = u32::from_ne_bytes(field(message.body, 4)?);
        let mut flags = u32::from(flags);
        let (mut local, mut address): (Option<IpAddr>, Option<IpAddr>) = (None, None);
        for (kind, value) in attributes(message.body.get(8..)?) {
            match kind {
                libc::IFA_LOCAL => local = ip(value),
                libc::IFA_ADDRESS => address = ip(value),
                libc::IFA_FLAGS => flags = number(value)?,
                _ => {}
            }
        }
        // On a point-to-point link the one is ours and the other is the peer's; elsewhere IPv6 has only the second.
        let network = IpNet::new(local.or(address)?, length).ok()?;
        Some(Self { index, network, scope, flags })
    }

    fn request(&self, kind: u16, flags: i32) -> Request {
        let address = self.network.addr();
        let mut fixed = [0; 8];
        fixed[..4].copy_from_slice(&[family(address), self.network.prefix_len(), 0, self.scope]);
        fixed[4..].copy_from_slice(&self.index.to_ne_bytes());
        let mut request = Request::new(kind, flags, &fixed);
        request.attribute(libc::IFA_LOCAL, &ip_octets(address));
        request.attribute(libc::IFA_ADDRESS, &ip_octets(address));
        if self.flags != 0 && kind == libc::RTM_NEWADDR {
            request.number(libc::IFA_FLAGS, self.flags);
        }
        request
    }
}

impl Socket {
    /// All addresses of both families.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self) -> Result<Vec<Address>> {
        let request = Request::new(libc::RTM_GETADDR, 0, &[0; 8]);
        self.dump(request, "list addresses", Address::parse)
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// [`is_exists`](crate::Error::is_exists) if it has it.
    pub fn add_address(&mut self, address: &Address) -> Result<()> {
        let request = address.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        self.change(request, format_args!("add address {} to interface {}", address.network, address.index))
    }

    /// Takes an address from an interface.
    ///
    /// # Errors
    /// [`is_not_found`](crate::Error::is_not_found) if it does not have it.
    pub fn delete_address(&mut self, address: &Address) -> Result<()> {
        let request = address.request(libc::RTM_DELADDR, 0);
        self.change(request, format_args!("delete address {} from interface {}", address.network, address.index))
    }
}

impl Batch {
    /// As [`Socket::add_address`].
    pub fn add_address(&mut self, address: &Address) {
        let request = address.request(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        self.push(request, format_args!("add address {} to interface {}", address.network, address.index));
    }
}
