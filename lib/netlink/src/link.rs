//! Network interfaces: which are there, and how is one made, changed or removed?

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::str::FromStr;

use crate::error::Result;
use crate::message::{Message, Request, attributes, field, number, string};
use crate::socket::{Batch, Socket};
use crate::vxlan::Vxlan;

/// `IFLA_EXT_MASK` with `RTEXT_FILTER_SKIP_STATS`: counters are most of an answer, and nobody here reads them.
const SKIP_STATS: u32 = 1 << 3;
/// `VETH_INFO_PEER`.
const VETH_INFO_PEER: u16 = 1;
/// `IFLA_GROUP`.
const IFLA_GROUP: u16 = 27;
/// `IFLA_IFALIAS`.
const IFLA_IFALIAS: u16 = 20;
/// The longest name of an interface, without the final zero.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no Ethernet address; one looks like 0a:58:0a:f4:00:05")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let octet = |part: &str| {
            let plain = part.len() == 2 && part.bytes().all(|octet| octet.is_ascii_hexdigit());
            plain.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
        octets.and_then(|octets| octets.try_into().ok()).map(Self).ok_or_else(|| MacError(text.to_owned()))
    }
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What it is (`veth`, `vxlan`, `dummy`, …); `None` for hardware and the loopback.
    pub kind: Option<String>,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Largest packet, in octets.
    pub mtu: u32,
    /// Whether it is switched on (`IFF_UP`).
    pub up: bool,
    /// Whether it is on and has a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// Whether it is a loopback.
    pub loopback: bool,
    /// The other end (veth) or the interface below (vlan, vxlan), in the namespace where that is.
    pub peer: Option<u32>,
    /// The bridge, bond or VRF it belongs to.
    pub master: Option<u32>,
    /// What somebody wrote on it (`ip link set … alias`): a mark that outlives who wrote it.
    pub alias: Option<String>,
    /// Its parameters if it is of kind `vxlan`.
    pub vxlan: Option<Vxlan>,
}

/// A pair of virtual Ethernet interfaces to be made.
#[derive(Clone, Debug, Default)]
pub struct Veth<'a> {
    /// Name of the end in the socket's namespace.
    pub name: &'a str,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// The namespace in which the other end is born; the socket's own if `None`.
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// MTU of both ends in octets; the kernel's 1500 if `None`.
    pub mtu: Option<u32>,
    /// Address of this end; random if `None`.
    pub mac: Option<Mac>,
    /// Address of the other end; random if `None`.
    pub peer_mac: Option<Mac>,
    /// Transmit and receive queues of each end; the kernel's choice (one for each processor) if `None`.
    pub queues: Option<u32>,
}

/// What to change of an interface; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct LinkChange<'a> {
    /// Switch it on or off.
    pub up: Option<bool>,
    /// Its MTU, in octets.
    pub mtu: Option<u32>,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// Move it into this network namespace.
    pub netns: Option<BorrowedFd<'a>>,
    /// Its name.
    pub name: Option<&'a str>,
    /// The bridge, bond or VRF it shall belong to; 0 is none.
    pub master: Option<u32>,
    /// Its group (`ip link set … group`): a number by which several are addressed at once.
    pub group: Option<u32>,
    /// What to write on it, see [`Link::alias`]; an empty text removes it.
    pub alias: Option<&'a str>,
}

impl Socket {
    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut request = Request::new(libc::RTM_GETLINK, 0, &header(0, 0, 0));
        request.number(libc::IFLA_EXT_MASK, SKIP_STATS);
        self.dump(request, "list interfaces", |message| Link::parse(message).filter(|_| is_link(message)))
    }

    /// The interface of a name.
    ///
    /// # Errors
    /// The kernel's, but not that there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Ok(None);
        }
        let mut request = Request::new(libc::RTM_GETLINK, 0, &header(0, 0, 0));
        request.number(libc::IFLA_EXT_MASK, SKIP_STATS);
        request.text(libc::IFLA_IFNAME, name);
        found(self.get(request, format_args!("get interface {name}"), Link::parse))
    }

    /// The interface of a number.
    ///
    /// # Errors
    /// The kernel's, but not that there is none.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>> {
        if index == 0 {
            return Ok(None);
        }
        let mut request = Request::new(libc::RTM_GETLINK, 0, &header(index, 0, 0));
        request.number(libc::IFLA_EXT_MASK, SKIP_STATS);
        found(self.get(request, format_args!("get interface {index}"), Link::parse))
    }

    /// Makes a pair of virtual Ethernet interfaces; both are off.
    ///
    /// # Errors
    /// [`is_exists`](crate::Error::is_exists) if either name is taken.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<()> {
        let asked = format_args!("add veth pair {} and {}", veth.name, veth.peer_name);
        self.change(add_veth(veth), asked)
    }

    /// Makes an interface of a kind that needs no parameters (`dummy`, `bridge`, `ifb`); it is off.
    ///
    /// # Errors
    /// [`is_exists`](crate::Error::is_exists) if the name is taken; `EOPNOTSUPP` if the kernel does not have the kind.
    pub fn add_link(&mut self, name: &str, kind: &str) -> Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &header(0, 0, 0));
        request.text(libc::IFLA_IFNAME, name);
        request.nested(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, kind));
        self.change(request, format_args!("add {kind} interface {name}"))
    }

    /// Changes an interface, all in one step.
    ///
    /// # Errors
    /// [`is_not_found`](crate::Error::is_not_found) if it is not there.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<()> {
        self.change(change_link(index, change), format_args!("change interface {index}"))
    }

    /// Removes an interface, and a veth's other end with it.
    ///
    /// # Errors
    /// [`is_not_found`](crate::Error::is_not_found) if it is not there.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let request = Request::new(libc::RTM_DELLINK, 0, &header(index, 0, 0));
        self.change(request, format_args!("delete interface {index}"))
    }

    /// Removes all interfaces of a group in the socket's namespace, and veths' other ends with them. The kernel waits once for
    /// all of them until nobody uses them any more, some 20 ms, as it does for a single one.
    ///
    /// # Errors
    /// [`is_not_found`](crate::Error::is_not_found) if there is none.
    pub fn delete_group(&mut self, group: u32) -> Result<()> {
        let mut request = Request::new(libc::RTM_DELLINK, 0, &header(0, 0, 0));
        request.number(IFLA_GROUP, group);
        self.change(request, format_args!("delete the interfaces of group {group}"))
    }

    /// Removes the interface of a name, in one step.
    ///
    /// # Errors
    /// [`is_not_found`](crate::Error::is_not_found) if it is not there.
    pub fn delete_link_by_name(&mut self, name: &str) -> Result<()> {
        let mut request = Request::new(libc::RTM_DELLINK, 0, &header(0, 0, 0));
        request.text(libc::IFLA_IFNAME, name);
        self.change(request, format_args!("delete interface {name}"))
    }
}

impl Batch {
    /// As [`Socket::change_link`].
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) {
        self.push(change_link(index, change), format_args!("change interface {index}"));
    }
}

impl Link {
    /// Reads `RTM_NEWLINK` or `RTM_DELLINK`.
    pub(crate) fn parse(message: Message<'_>) -> Option<Self> {
        let flags = i32::from_ne_bytes(field(message.body, 8)?);
        let mut link = Self {
            index: u32::from_ne_bytes(field(message.body, 4)?),
            up: flags & libc::IFF_UP != 0,
            running: flags & libc::IFF_RUNNING != 0,
            loopback: flags & libc::IFF_LOOPBACK != 0,
            ..Self::default()
        };
        for (kind, value) in attributes(message.body.get(16..)?) {
            match kind {
                libc::IFLA_IFNAME => link.name = string(value),
                libc::IFLA_MTU => link.mtu = number(value)?,
                libc::IFLA_ADDRESS if value.len() == 6 => link.mac = field(value, 0).map(Mac),
                libc::IFLA_LINK => link.peer = number(value).filter(|index| *index != 0),
                libc::IFLA_MASTER => link.master = number(value).filter(|index| *index != 0),
                IFLA_IFALIAS => link.alias = Some(string(value)).filter(|alias| !alias.is_empty()),
                libc::IFLA_LINKINFO => {
                    let find = |wanted| attributes(value).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
                    link.kind = find(libc::IFLA_INFO_KIND).map(string);
                    let data = find(libc::IFLA_INFO_DATA).filter(|_| link.kind.as_deref() == Some("vxlan"));
                    link.vxlan = data.map(Vxlan::parse);
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// Whether the message is about an interface, not about a bridge's port or an address family's parameters.
pub(crate) fn is_link(message: Message<'_>) -> bool {
    message.body.first() == Some(&(libc::AF_UNSPEC as u8))
}

fn found(result: Result<Link>) -> Result<Option<Link>> {
    match result {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn add_veth(veth: &Veth<'_>) -> Request {
    let end = |request: &mut Request, name: &str, mac: Option<Mac>| {
        request.text(libc::IFLA_IFNAME, name);
        if let Some(mac) = mac {
            request.attribute(libc::IFLA_ADDRESS, &mac.0);
        }
        if let Some(mtu) = veth.mtu {
            request.number(libc::IFLA_MTU, mtu);
        }
        if let Some(queues) = veth.queues {
            request.number(libc::IFLA_NUM_TX_QUEUES, queues);
            request.number(libc::IFLA_NUM_RX_QUEUES, queues);
        }
    };
    let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &header(0, 0, 0));
    end(&mut request, veth.name, veth.mac);
    request.nested(libc::IFLA_LINKINFO, |info| {
        info.text(libc::IFLA_INFO_KIND, "veth");
        info.nested(libc::IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |peer| {
                peer.raw(&header(0, 0, 0));
                end(peer, veth.peer_name, veth.peer_mac);
                if let Some(namespace) = veth.peer_netns {
                    peer.attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                }
            });
        });
    });
    request
}

fn change_link(index: u32, change: &LinkChange<'_>) -> Request {
    let up = libc::IFF_UP as u32;
    let (flags, mask) = change.up.map_or((0, 0), |on| (if on { up } else { 0 }, up));
    let mut request = Request::new(libc::RTM_NEWLINK, 0, &header(index, flags, mask));
    if let Some(namespace) = change.netns {
        request.attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
    }
    if let Some(name) = change.name {
        request.text(libc::IFLA_IFNAME, name);
    }
    if let Some(mac) = change.mac {
        request.attribute(libc::IFLA_ADDRESS, &mac.0);
    }
    if let Some(mtu) = change.mtu {
        request.number(libc::IFLA_MTU, mtu);
    }
    if let Some(master) = change.master {
        request.number(libc::IFLA_MASTER, master);
    }
    if let Some(group) = change.group {
        request.number(IFLA_GROUP, group);
    }
    if let Some(alias) = change.alias {
        // Without a final zero: the kernel counts it, and none is how an alias is removed.
        request.attribute(IFLA_IFALIAS, alias.as_bytes());
    }
    request
}

/// `struct ifinfomsg`.
pub(crate) fn header(index: u32, flags: u32, mask: u32) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[4..8].copy_from_slice(&index.to_ne_bytes());
    octets[8..12].copy_from_slice(&flags.to_ne_bytes());
    octets[12..16].copy_from_slice(&mask.to_ne_bytes());
    octets
}
