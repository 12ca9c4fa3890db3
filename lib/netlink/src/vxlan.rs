//! VXLAN interfaces (RFC 7348): how are they made, and how do we know that one is as it should be?

use std::net::IpAddr;

use crate::error::Result;
use crate::link::{Mac, header};
use crate::message::{Request, attributes, field, ip, ip_octets, number};
use crate::socket::Socket;

/// `IFLA_VXLAN_…` of `linux/if_link.h`.
const ID: u16 = 1;
const GROUP: u16 = 2;
const LINK: u16 = 3;
const LOCAL: u16 = 4;
const LEARNING: u16 = 7;
const PORT: u16 = 15;
const GROUP6: u16 = 16;
const LOCAL6: u16 = 17;
const COLLECT_METADATA: u16 = 25;

/// The parameters of a VXLAN interface that cannot be changed while it lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of all ends.
    pub port: u16,
    /// The address that outer packets come from.
    pub local: Option<IpAddr>,
    /// Number of the interface that they leave by.
    pub parent: Option<u32>,
    /// Where frames to unknown addresses go; `None`: nowhere.
    pub remote: Option<IpAddr>,
    /// Whether it takes the way back from what it receives.
    pub learning: bool,
    /// Whether somebody else gives the outer addresses for each packet (`external`).
    pub external: bool,
}

impl Vxlan {
    /// Reads `IFLA_INFO_DATA`.
    pub(crate) fn parse(data: &[u8]) -> Self {
        let mut vxlan = Self::default();
        let specified = |value| ip(value).filter(|address| !address.is_unspecified());
        for (kind, value) in attributes(data) {
            match kind {
                ID => vxlan.vni = number(value).unwrap_or(0),
                GROUP | GROUP6 => vxlan.remote = specified(value),
                LINK => vxlan.parent = number(value).filter(|index| *index != 0),
                LOCAL | LOCAL6 => vxlan.local = specified(value),
                LEARNING => vxlan.learning = value.first() != Some(&0),
                PORT => vxlan.port = field(value, 0).map_or(0, u16::from_be_bytes),
                COLLECT_METADATA => vxlan.external = value.first() != Some(&0),
                _ => {}
            }
        }
        vxlan
    }

    fn write(&self, data: &mut Request) {
        data.number(ID, self.vni);
        data.attribute(PORT, &self.port.to_be_bytes());
        data.attribute(LEARNING, &[self.learning.into()]);
        if let Some(local) = self.local {
            data.attribute(if local.is_ipv4() { LOCAL } else { LOCAL6 }, &ip_octets(local));
        }
        if let Some(remote) = self.remote {
            data.attribute(if remote.is_ipv4() { GROUP } else { GROUP6 }, &ip_octets(remote));
        }
        if let Some(parent) = self.parent {
            data.number(LINK, parent);
        }
        if self.external {
            data.attribute(COLLECT_METADATA, &[1]);
        }
    }
}

impl Socket {
    /// Makes a VXLAN interface; it is off. The kernel takes the UDP port only when it is switched on.
    ///
    /// # Errors
    /// [`is_exists`](crate::Error::is_exists) if the name is taken, or there is another with this VNI and port;
    /// `EOPNOTSUPP` if the kernel does not have the kind.
    pub fn add_vxlan(&mut self, name: &str, vxlan: &Vxlan, mtu: u32, mac: Mac) -> Result<()> {
        let mut request = Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &header(0, 0, 0));
        request.text(libc::IFLA_IFNAME, name);
        request.attribute(libc::IFLA_ADDRESS, &mac.0);
        request.number(libc::IFLA_MTU, mtu);
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "vxlan");
            info.nested(libc::IFLA_INFO_DATA, |data| vxlan.write(data));
        });
        self.change(request, format_args!("add vxlan interface {name}"))
    }
}
