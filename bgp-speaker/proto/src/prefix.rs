//! What a path is for: a prefix of either family, small enough to be copied and hashed a million times.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Family;
use crate::octets::Reader;

/// A prefix: an address with its host bits zero, and a length in bits.
///
/// Eighteen octets without padding, against 32 for a pair of `u128` and length, since a RIB holds little else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix(Bits);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bits {
    V4 { address: [u8; 4], length: u8 },
    V6 { address: [u8; 16], length: u8 },
}

impl Prefix {
    /// The prefix of `length` bits that `address` is in; `None` if the length is beyond the address.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        IpNet::new(address, length).ok().map(Self::from)
    }

    /// The lowest address in the prefix.
    pub fn address(&self) -> IpAddr {
        match self.0 {
            Bits::V4 { address, .. } => Ipv4Addr::from(address).into(),
            Bits::V6 { address, .. } => Ipv6Addr::from(address).into(),
        }
    }

    /// Length in bits.
    pub fn length(&self) -> u8 {
        match self.0 {
            Bits::V4 { length, .. } | Bits::V6 { length, .. } => length,
        }
    }

    /// The family that carries this prefix.
    pub fn family(&self) -> Family {
        match self.0 {
            Bits::V4 { .. } => Family::Ipv4Unicast,
            Bits::V6 { .. } => Family::Ipv6Unicast,
        }
    }

    /// Whether `other` is this prefix or lies in it.
    pub fn contains(&self, other: &Self) -> bool {
        match (self.0, other.0) {
            (Bits::V4 { address, length }, Bits::V4 { address: inner, length: longer }) => {
                let differing = u32::from_be_bytes(address) ^ u32::from_be_bytes(inner);
                longer >= length && differing.leading_zeros() >= length.into()
            }
            (Bits::V6 { address, length }, Bits::V6 { address: inner, length: longer }) => {
                let differing = u128::from_be_bytes(address) ^ u128::from_be_bytes(inner);
                longer >= length && differing.leading_zeros() >= length.into()
            }
            _ => false,
        }
    }

    /// The prefix of `length` bits in which this one lies; `None` if this one is shorter.
    pub fn shortened(&self, length: u8) -> Option<Self> {
        if length > self.length() {
            return None;
        }
        Some(Self(match self.0 {
            Bits::V4 { address, .. } => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Bits::V4 { address: (u32::from_be_bytes(address) & mask).to_be_bytes(), length }
            }
            Bits::V6 { address, .. } => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Bits::V6 { address: (u128::from_be_bytes(address) & mask).to_be_bytes(), length }
            }
        }))
    }

    /// Whether it is a single address.
    pub fn is_host(&self) -> bool {
        matches!(self.0, Bits::V4 { length: 32, .. } | Bits::V6 { length: 128, .. })
    }

    /// The octets that the wire carries: as many of the address as the length needs (RFC 4271 §4.3).
    pub(crate) fn significant(&self) -> &[u8] {
        let (address, length): (&[u8], u8) = match &self.0 {
            Bits::V4 { address, length } => (address, *length),
            Bits::V6 { address, length } => (address, *length),
        };
        address.get(..usize::from(length.div_ceil(8))).unwrap_or(address)
    }

    /// Reads one prefix as NLRI hold them; `None` if it is too long for its family or for the octets left.
    ///
    /// Bits beyond the length are irrelevant and become zero (RFC 4271 §4.3).
    pub(crate) fn read(octets: &mut Reader<'_>, family: Family) -> Option<Self> {
        let length = octets.u8()?;
        let significant = octets.take(usize::from(length).div_ceil(8))?;
        match family {
            Family::Ipv4Unicast => {
                let mut address = [0; 4];
                address.get_mut(..significant.len())?.copy_from_slice(significant);
                if length > 32 {
                    return None;
                }
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                let address = (u32::from_be_bytes(address) & mask).to_be_bytes();
                Some(Self(Bits::V4 { address, length }))
            }
            Family::Ipv6Unicast => {
                let mut address = [0; 16];
                address.get_mut(..significant.len())?.copy_from_slice(significant);
                if length > 128 {
                    return None;
                }
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                let address = (u128::from_be_bytes(address) & mask).to_be_bytes();
                Some(Self(Bits::V6 { address, length }))
            }
        }
    }
}

impl Hash for Prefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // One or three words, where the derived form would feed octet by octet.
        match self.0 {
            Bits::V4 { address, length } => {
                state.write_u64(u64::from(u32::from_be_bytes(address)) << 8 | u64::from(length));
            }
            Bits::V6 { address, length } => {
                state.write_u128(u128::from_be_bytes(address));
                state.write_u8(length);
            }
        }
    }
}

impl From<IpNet> for Prefix {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => net.into(),
            IpNet::V6(net) => net.into(),
        }
    }
}

impl From<Ipv4Net> for Prefix {
    fn from(net: Ipv4Net) -> Self {
        Self(Bits::V4 { address: net.network().octets(), length: net.prefix_len() })
    }
}

impl From<Ipv6Net> for Prefix {
    fn from(net: Ipv6Net) -> Self {
        Self(Bits::V6 { address: net.network().octets(), length: net.prefix_len() })
    }
}

impl From<Prefix> for IpNet {
    fn from(prefix: Prefix) -> Self {
        Self::new(prefix.address(), prefix.length()).expect("a prefix's length is within its address")
    }
}

impl FromStr for Prefix {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<IpNet>().map(Self::from)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address(), self.length())
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Network layer reachability information: a prefix, and which of a peer's paths for it is meant (RFC 7911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix.
    pub prefix: Prefix,
    /// The path identifier; 0 where ADD-PATH was not negotiated.
    pub path_id: u32,
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self { prefix, path_id: 0 }
    }
}

impl fmt::Display for Nlri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path_id {
            0 => self.prefix.fmt(f),
            id => write!(f, "{} (path {id})", self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_eighteen_octets_and_drops_its_host_bits() {
        assert_eq!(size_of::<Prefix>(), 18);
        let prefix: Prefix = "10.1.2.3/23".parse().unwrap();
        assert_eq!(prefix.to_string(), "10.1.2.0/23");
        assert_eq!(prefix.significant(), [10, 1, 2]);
        assert_eq!(Prefix::read(&mut Reader::new(&[23, 10, 1, 3]), Family::Ipv4Unicast), Some(prefix));
    }

    #[test]
    fn containment_and_shortening_agree_with_arithmetic_of_networks() {
        let texts = [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.1.2.0/23",
            "10.1.3.0/24",
            "10.1.3.7/32",
            "10.1.4.0/23",
            "::/0",
            "2001:db8::/32",
            "2001:db8:8000::/33",
            "2001:db8::1/128",
        ];
        for outer in texts {
            for inner in texts {
                let nets: [IpNet; 2] = [outer, inner].map(|text| text.parse().unwrap());
                let [a, b] = nets.map(Prefix::from);
                let expect = nets[0].contains(&nets[1]);
                assert_eq!(a.contains(&b), expect, "{outer} contains {inner}");
                let shortened = b.shortened(a.length());
                assert_eq!(shortened.is_some(), a.length() <= b.length());
                assert_eq!(shortened == Some(a), expect, "{inner} shortened to that of {outer}");
            }
        }
    }

    #[test]
    fn a_length_beyond_the_family_or_the_octets_is_refused() {
        let read = |octets: &[u8], family| Prefix::read(&mut Reader::new(octets), family);
        assert_eq!(read(&[33, 10, 0, 0, 0, 0], Family::Ipv4Unicast), None);
        assert_eq!(read(&[24, 10, 0], Family::Ipv4Unicast), None);
        assert_eq!(read(&[129; 18], Family::Ipv6Unicast), None);
        assert_eq!(read(&[], Family::Ipv4Unicast), None);
        assert_eq!(read(&[0], Family::Ipv6Unicast), Some("::/0".parse().unwrap()));
        assert_eq!(read(&[0], Family::Ipv4Unicast), Some("0.0.0.0/0".parse().unwrap()));
    }
}
