//! Which addresses a network holds, and which networks meet; for both families, without overflow.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a network.
    pub fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// Bits of an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of a family with this number, if there is one.
pub(crate) fn address(family: Family, number: u128) -> Option<IpAddr> {
    match family {
        Family::V4 => u32::try_from(number).ok().map(|number| Ipv4Addr::from(number).into()),
        Family::V6 => Some(Ipv6Addr::from(number).into()),
    }
}

/// The first and the last address of a network, as numbers.
pub(crate) fn range(net: &IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// How many addresses a network has; `::/0` counts one too few, since its size is no `u128`.
pub fn size(net: &IpNet) -> u128 {
    let host_bits = Family::of_net(net).bits() - net.prefix_len();
    1_u128.checked_shl(host_bits.into()).unwrap_or(u128::MAX)
}

/// The address that is `ordinal` places after the first of `net`, if it is inside.
pub fn address_at(net: &IpNet, ordinal: u32) -> Option<IpAddr> {
    let (first, last) = range(net);
    let number = first.checked_add(ordinal.into()).filter(|number| *number <= last)?;
    address(Family::of_net(net), number)
}

/// How many places after the first of `net` the address is, if it is inside and that is a `u32`.
pub fn ordinal_of(net: &IpNet, address: IpAddr) -> Option<u32> {
    if !net.contains(&address) {
        return None;
    }
    let (first, _) = range(net);
    u32::try_from(number(address).checked_sub(first)?).ok()
}

/// The network of this prefix length that an address is in.
pub fn containing(address: IpAddr, prefix_len: u8) -> Option<IpNet> {
    IpNet::new(address, prefix_len).ok().map(|net| net.trunc())
}

/// Whether two networks have an address in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// A set of networks that answers quickly which of them meets another network.
#[derive(Clone, Debug, Default)]
pub struct NetSet {
    nets: BTreeSet<(Family, u128, u8)>,
    /// How many networks there are of each length, so that only those are looked for.
    lengths: BTreeMap<(Family, u8), usize>,
}

impl NetSet {
    /// Adds a network; true if it was not there.
    pub fn insert(&mut self, net: &IpNet) -> bool {
        let family = Family::of_net(net);
        let added = self.nets.insert((family, range(net).0, net.prefix_len()));
        if added {
            *self.lengths.entry((family, net.prefix_len())).or_default() += 1;
        }
        added
    }

    /// Removes exactly this network; true if it was there.
    pub fn remove(&mut self, net: &IpNet) -> bool {
        let family = Family::of_net(net);
        let removed = self.nets.remove(&(family, range(net).0, net.prefix_len()));
        if removed && let Some(count) = self.lengths.get_mut(&(family, net.prefix_len())) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&(family, net.prefix_len()));
            }
        }
        removed
    }

    /// A network of the set that has an address in common with `net`; one that covers it, if there is one.
    pub fn meeting(&self, net: &IpNet) -> Option<IpNet> {
        let family = Family::of_net(net);
        let (first, last) = range(net);
        let restore = |number, length| address(family, number).and_then(|address| containing(address, length));
        for (_, length) in self.lengths.range((family, 0)..=(family, net.prefix_len())).map(|(key, _)| *key) {
            let covering = containing(net.network(), length)?;
            if self.nets.contains(&(family, range(&covering).0, length)) {
                return Some(covering);
            }
        }
        let (_, number, length) = *self.nets.range((family, first, 0)..=(family, last, u8::MAX)).next()?;
        restore(number, length)
    }
}

impl<'a> FromIterator<&'a IpNet> for NetSet {
    fn from_iter<I: IntoIterator<Item = &'a IpNet>>(nets: I) -> Self {
        let mut set = Self::default();
        for net in nets {
            set.insert(net);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn ordinals_and_addresses_are_inverse_up_to_the_last_address_there_is() {
        #[track_caller]
        fn check(block: &str, ordinal: u32, expected: Option<&str>) {
            let expected = expected.map(|text| text.parse::<IpAddr>().unwrap());
            assert_eq!(address_at(&net(block), ordinal), expected);
            if let Some(address) = expected {
                assert_eq!(ordinal_of(&net(block), address), Some(ordinal));
            }
        }
        check("10.244.0.64/26", 0, Some("10.244.0.64"));
        check("10.244.0.64/26", 63, Some("10.244.0.127"));
        check("10.244.0.64/26", 64, None);
        check("255.255.255.192/26", 63, Some("255.255.255.255"));
        check("255.255.255.255/32", 0, Some("255.255.255.255"));
        check("255.255.255.192/26", u32::MAX, None);
        check("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0/122", 63, Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        check("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffc0/122", 64, None);
        check("fd00::/116", 4095, Some("fd00::fff"));
        assert_eq!(ordinal_of(&net("10.244.0.64/26"), "10.244.0.63".parse().unwrap()), None);
        assert_eq!(ordinal_of(&net("fd00::/64"), "fd00::1:0:0".parse().unwrap()), None, "too far for an ordinal");
        assert_eq!((size(&net("0.0.0.0/0")), size(&net("::/0"))), (1 << 32, u128::MAX));
    }

    #[test]
    fn a_set_of_networks_finds_larger_smaller_and_equal_ones() {
        let set: NetSet = [net("10.0.0.0/24"), net("10.0.2.64/27"), net("fd00::/122")].iter().collect();
        #[track_caller]
        fn check(set: &NetSet, wanted: &str, expected: Option<&str>) {
            assert_eq!(set.meeting(&net(wanted)), expected.map(net));
        }
        check(&set, "10.0.0.64/26", Some("10.0.0.0/24"));
        check(&set, "10.0.0.0/24", Some("10.0.0.0/24"));
        check(&set, "10.0.2.64/26", Some("10.0.2.64/27"));
        check(&set, "10.0.2.0/26", None);
        check(&set, "10.0.1.0/24", None);
        check(&set, "0.0.0.0/0", Some("10.0.0.0/24"));
        check(&set, "fd00::20/124", Some("fd00::/122"));
        check(&set, "fd00::40/122", None);
    }
}
