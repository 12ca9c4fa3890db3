//! What is in a table?

use ipnet::IpNet;

use super::Family;
use super::expression::{Expression, Verdict, encode};
use super::wire::set as wire;
use crate::message::Request;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// What packets it sees.
    pub family: Family,
    /// Its name.
    pub name: String,
}

impl Table {
    /// A table's name.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

impl std::fmt::Display for Table {
    /// As `nft` writes it: `ip calico`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family.as_str(), self.name)
    }
}

/// A place where the kernel shows packets (`NF_INET_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// All that come in.
    Prerouting = 0,
    /// Those for this node.
    Input = 1,
    /// Those for others.
    Forward = 2,
    /// Those of this node.
    Output = 3,
    /// All that go out.
    Postrouting = 4,
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Let pass or not.
    Filter,
    /// Change addresses; sees a connection's first packet only.
    Nat,
    /// Change what routing depends on, of what this node sends.
    Route,
}

impl ChainKind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }
}

/// What makes a chain a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: ChainKind,
    /// Where it hangs.
    pub hook: Hook,
    /// Chains of smaller numbers come earlier.
    pub priority: i32,
    /// What its end does: drop, or accept.
    pub drop: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it does.
    pub expressions: Vec<Expression>,
    /// What `nft` shows as its comment and a restarted process knows it by; at most 128 octets.
    pub comment: String,
}

impl Rule {
    /// The expressions as the kernel gets them: what a rule's identity can be made of.
    pub fn encoded(&self) -> Vec<u8> {
        let mut request = Request::new(0, 0, &[]);
        encode(&self.expressions, &mut request, super::wire::rule::EXPRESSIONS);
        request.octets().to_vec()
    }
}

/// What a key, or a part of it, is. The numbers are those by which `nft` knows how to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyType {
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// The number of a transport protocol.
    Protocol,
    /// A port, in the network's order.
    Port,
    /// A packet's mark, in the node's order.
    Mark,
    /// An interface's name, 16 octets.
    InterfaceName,
}

impl KeyType {
    /// `TYPE_…` of `nft`.
    const fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::InterfaceName => 41,
        }
    }

    /// Octets of it.
    const fn length(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Mark => 4,
            Self::Ipv6 | Self::InterfaceName => 16,
            Self::Protocol => 1,
            Self::Port => 2,
        }
    }
}

/// What the kernel keeps of a set's kind, to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    pub(super) data_type: u32,
}

impl Shape {
    /// Its elements are told as a key that begins an interval and one that ends it.
    pub(super) const fn has_ends(self) -> bool {
        self.flags & wire::INTERVAL != 0 && self.flags & wire::CONCATENATED == 0
    }
}

/// A set, or a map from keys to verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// The type of its keys; several are concatenated, each padded to four octets.
    pub key: Vec<KeyType>,
    /// Its elements are intervals, which must not overlap (each field of a concatenation is one).
    pub interval: bool,
    /// It is a map to verdicts.
    pub verdicts: bool,
}

impl Set {
    /// A set of networks.
    pub fn of_networks(name: impl Into<String>, family: Family) -> Self {
        let key = match family {
            Family::Ip => KeyType::Ipv4,
            Family::Ip6 => KeyType::Ipv6,
        };
        Self { name: name.into(), key: vec![key], interval: true, verdicts: false }
    }

    /// What the kernel will say of it.
    pub fn shape(&self) -> Shape {
        let single = self.key.len() == 1;
        let flag = |condition: bool, flag: u32| if condition { flag } else { 0 };
        Shape {
            flags: flag(self.interval, wire::INTERVAL)
                | flag(self.verdicts, wire::MAP)
                | flag(self.interval && !single, wire::CONCATENATED),
            key_type: self.key.iter().fold(0, |number, key| number << 6 | key.number()),
            key_length: match self.key.as_slice() {
                [key] => key.length(),
                keys => keys.iter().map(|key| key.length().next_multiple_of(4)).sum(),
            },
            data_type: flag(self.verdicts, wire::VERDICT_TYPE),
        }
    }

    /// Lengths of the fields of a concatenation.
    pub(super) fn fields(&self) -> impl Iterator<Item = u32> {
        self.key.iter().map(|key| key.length())
    }

    /// 1 if keys are in the node's order, 2 if in the network's: what `nft` must know to print them.
    pub(super) fn key_order(&self) -> u32 {
        match self.key.as_slice() {
            [KeyType::Mark | KeyType::InterfaceName] => 1,
            _ => 2,
        }
    }
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key, or the first of the interval.
    pub first: Vec<u8>,
    /// The last key of the interval, in a set of intervals.
    pub last: Option<Vec<u8>>,
    /// What the map says of it.
    pub verdict: Option<Verdict>,
}

impl Element {
    /// A single key.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { first: key.into(), last: None, verdict: None }
    }

    /// The addresses of a network, for a set of intervals.
    pub fn network(network: IpNet) -> Self {
        use crate::message::ip_octets;
        Self { first: ip_octets(network.network()), last: Some(ip_octets(network.broadcast())), verdict: None }
    }

    /// Says what the map makes of it.
    #[must_use]
    pub fn with_verdict(self, verdict: Verdict) -> Self {
        Self { verdict: Some(verdict), ..self }
    }
}

/// The key after this one; `None` after the last.
pub(super) fn successor(key: &[u8]) -> Option<Vec<u8>> {
    carry(key, |octet| octet.overflowing_add(1))
}

/// The key before this one; `None` before the first.
pub(super) fn predecessor(key: &[u8]) -> Option<Vec<u8>> {
    carry(key, |octet| octet.overflowing_sub(1))
}

fn carry(key: &[u8], step: impl Fn(u8) -> (u8, bool)) -> Option<Vec<u8>> {
    let mut key = key.to_vec();
    for octet in key.iter_mut().rev() {
        let (next, on) = step(*octet);
        *octet = next;
        if !on {
            return Some(key);
        }
    }
    None
}
