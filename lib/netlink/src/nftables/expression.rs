//! What does a rule do, step by step?
//!
//! A rule is a list of expressions. Each loads something into a register, compares a register (the rule ends here for a
//! packet that differs), or acts on the packet.

use super::Family;
use super::wire::expression as attribute;
use crate::message::Request;

/// One of the sixteen registers of 32 bits. A value longer than that goes on in the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u8);

impl Register {
    /// The register of a number below 16; the higher ones are 16 of themselves again.
    pub const fn word(number: u8) -> Self {
        Self(number % 16)
    }

    /// `NFT_REG_1`… where four words begin, `NFT_REG32_01`… elsewhere: as `nft` writes and prints them.
    const fn number(self) -> u32 {
        match self.0 % 4 {
            0 => self.0 as u32 / 4 + 1,
            _ => self.0 as u32 + 8,
        }
    }
}

/// From where a place in a packet is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The Ethernet header.
    Link = 0,
    /// The IP header.
    Network = 1,
    /// The TCP, UDP, … header.
    Transport = 2,
}

/// A property of a packet that is not in it (`NFT_META_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The mark, 32 bits in the node's order.
    Mark = 3,
    /// Name of the interface it came by, 16 octets.
    InputName = 6,
    /// Name of the interface it leaves by, 16 octets.
    OutputName = 7,
    /// Number of the transport protocol, one octet.
    Protocol = 16,
}

/// What connection tracking knows (`NFT_CT_…`), 32 bits in the node's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// `NF_CT_STATE_…`: 1 invalid, 2 established, 4 related, 8 new, 64 untracked.
    State = 0,
    /// `IPS_…`: 0x10 source address changed, 0x20 destination address changed.
    Status = 2,
}

/// How a register is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`.
    Equal = 0,
    /// `!=`.
    Unequal = 1,
}

/// What a routing table is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fib {
    /// The source address is looked up, not the destination's.
    pub source: bool,
    /// Only with the packet's mark.
    pub mark: bool,
    /// Only as seen from the interface it came by.
    pub input: bool,
    /// Only as seen from the interface it leaves by.
    pub output: bool,
    /// What is wanted.
    pub result: FibResult,
}

/// What a routing table answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibResult {
    /// Number of the interface, 0 if there is no route.
    Interface = 1,
    /// `RTN_…`, 32 bits in the node's order: 2 local, 3 broadcast, 5 multicast.
    AddressType = 3,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It leaves this base chain; later ones see it still.
    Accept,
    /// It is gone.
    Drop,
    /// On with the chain that jumped here, or with the base chain's policy.
    Return,
    /// To another chain of the table, and back.
    Jump(String),
    /// To another chain of the table, without coming back.
    Goto(String),
}

impl Verdict {
    /// `NF_…` or `NFT_…`.
    const fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    /// Writes `struct nft_data` with the verdict in it.
    pub(super) fn encode(&self, request: &mut Request, kind: u16) {
        request.nest(kind, |request| {
            request.nest(attribute::VERDICT, |request| {
                request.wide(attribute::VERDICT_CODE, self.code() as u32);
                if let Self::Jump(chain) | Self::Goto(chain) = self {
                    request.text(attribute::VERDICT_CHAIN, chain);
                }
            });
        });
    }

    /// Reads what [`Self::encode`] writes; `None` for verdicts that are never ours.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        use super::wire::{find, wide};
        let verdict = find(data, attribute::VERDICT)?;
        let chain = || find(verdict, attribute::VERDICT_CHAIN).map(crate::message::string);
        Some(match wide(find(verdict, attribute::VERDICT_CODE)?)? as i32 {
            0 => Self::Drop,
            1 => Self::Accept,
            -3 => Self::Jump(chain()?),
            -4 => Self::Goto(chain()?),
            -5 => Self::Return,
            _ => return None,
        })
    }
}

/// A range of ports for address translation: the registers with the first and the last, network order.
pub type Ports = (Register, Register);

/// A step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Octets of the packet, into a register.
    Payload {
        /// Counted from here.
        header: Header,
        /// The first octet.
        offset: u32,
        /// How many.
        length: u32,
        /// Where to.
        to: Register,
    },
    /// A property of the packet, into a register.
    Meta(Meta, Register),
    /// A register, into a property of the packet.
    SetMeta(Meta, Register),
    /// What connection tracking knows, into a register.
    Track(Track, Register),
    /// What the routing tables know, into a register.
    Fib(Fib, Register),
    /// A register, ANDed with the one and XORed with the other, in its place.
    Bitwise {
        /// The register.
        register: Register,
        /// ANDed.
        mask: Vec<u8>,
        /// Then XORed, of the same length.
        xor: Vec<u8>,
    },
    /// Goes on only if the register's first octets compare so.
    Compare(Register, Comparison, Vec<u8>),
    /// Goes on only if the register's value is in the set, or is not.
    Lookup {
        /// The set's name.
        set: String,
        /// Where the key is.
        key: Register,
        /// Goes on if it is not in it.
        inverted: bool,
    },
    /// Does what the verdict map says of the register's value; goes on if it says nothing.
    VerdictMap {
        /// The map's name.
        map: String,
        /// Where the key is.
        key: Register,
    },
    /// A value, into a register.
    Immediate(Register, Vec<u8>),
    /// Ends the rule.
    Verdict(Verdict),
    /// The source becomes the address of the interface by which the packet leaves.
    Masquerade {
        /// Source ports are taken from this range.
        ports: Option<Ports>,
        /// Source ports are chosen at random (`fully-random`), so that two processors do not choose the same.
        random: bool,
    },
    /// The source becomes the address in a register.
    SourceNat {
        /// Of the address.
        family: Family,
        /// Where it is.
        address: Register,
        /// As in [`Self::Masquerade`].
        ports: Option<Ports>,
        /// As in [`Self::Masquerade`].
        random: bool,
    },
    /// Counts packets and octets, from zero.
    Counter,
    /// Connection tracking does not look at the packet.
    NoTrack,
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED` and `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const fn nat_flags(ports: &Option<Ports>, random: bool) -> u32 {
    (if ports.is_some() { 0x2 } else { 0 }) | (if random { 0x10 } else { 0 })
}

impl Expression {
    /// The kernel's name of it, and its attributes.
    fn encode(&self, request: &mut Request) {
        let name = match self {
            Self::Payload { .. } => "payload",
            Self::Meta(..) | Self::SetMeta(..) => "meta",
            Self::Track(..) => "ct",
            Self::Fib(..) => "fib",
            Self::Bitwise { .. } => "bitwise",
            Self::Compare(..) => "cmp",
            Self::Lookup { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Immediate(..) | Self::Verdict(_) => "immediate",
            Self::Masquerade { .. } => "masq",
            Self::SourceNat { .. } => "nat",
            Self::Counter => "counter",
            Self::NoTrack => "notrack",
        };
        request.text(attribute::NAME, name);
        request.nest(attribute::DATA, |request| self.encode_data(request));
    }

    fn encode_data(&self, request: &mut Request) {
        let value = |request: &mut Request, kind: u16, octets: &[u8]| {
            request.nest(kind, |request| request.attribute(attribute::VALUE, octets));
        };
        match self {
            // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
            Self::Payload { header, offset, length, to } => {
                request.wide(1, to.number());
                request.wide(2, *header as u32);
                request.wide(3, *offset);
                request.wide(4, *length);
            }
            // NFTA_META_KEY, _DREG, _SREG
            Self::Meta(key, to) => {
                request.wide(2, *key as u32);
                request.wide(1, to.number());
            }
            Self::SetMeta(key, from) => {
                request.wide(2, *key as u32);
                request.wide(3, from.number());
            }
            // NFTA_CT_KEY, _DREG
            Self::Track(key, to) => {
                request.wide(2, *key as u32);
                request.wide(1, to.number());
            }
            // NFTA_FIB_FLAGS, _RESULT, _DREG
            Self::Fib(fib, to) => {
                let flag = |condition: bool, bit: u32| if condition { 1 << bit } else { 0 };
                let address = if fib.source { 1 } else { 2 };
                request.wide(3, address | flag(fib.mark, 2) | flag(fib.input, 3) | flag(fib.output, 4));
                request.wide(2, fib.result as u32);
                request.wide(1, to.number());
            }
            // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
            Self::Bitwise { register, mask, xor } => {
                request.wide(1, register.number());
                request.wide(2, register.number());
                request.wide(3, mask.len() as u32);
                value(request, 4, mask);
                value(request, 5, xor);
            }
            // NFTA_CMP_SREG, _OP, _DATA
            Self::Compare(register, comparison, octets) => {
                request.wide(1, register.number());
                request.wide(2, *comparison as u32);
                value(request, 3, octets);
            }
            // NFTA_LOOKUP_SET, _SREG, _FLAGS (1: NFT_LOOKUP_F_INV)
            Self::Lookup { set, key, inverted } => {
                request.text(1, set);
                request.wide(2, key.number());
                if *inverted {
                    request.wide(5, 1);
                }
            }
            // NFTA_LOOKUP_DREG: 0 is NFT_REG_VERDICT
            Self::VerdictMap { map, key } => {
                request.text(1, map);
                request.wide(2, key.number());
                request.wide(3, 0);
            }
            // NFTA_IMMEDIATE_DREG, _DATA
            Self::Immediate(to, octets) => {
                request.wide(1, to.number());
                value(request, 2, octets);
            }
            Self::Verdict(verdict) => {
                request.wide(1, 0);
                verdict.encode(request, 2);
            }
            // NFTA_MASQ_FLAGS, _REG_PROTO_MIN, _REG_PROTO_MAX
            Self::Masquerade { ports, random } => {
                let flags = nat_flags(ports, *random);
                if flags != 0 {
                    request.wide(1, flags);
                }
                if let Some((first, last)) = ports {
                    request.wide(2, first.number());
                    request.wide(3, last.number());
                }
            }
            // NFTA_NAT_TYPE (0: NFT_NAT_SNAT), _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN, _REG_PROTO_MAX, _FLAGS
            Self::SourceNat { family, address, ports, random } => {
                request.wide(1, 0);
                request.wide(2, u32::from(family.number()));
                request.wide(3, address.number());
                if let Some((first, last)) = ports {
                    request.wide(5, first.number());
                    request.wide(6, last.number());
                }
                let flags = nat_flags(ports, *random);
                if flags != 0 {
                    request.wide(7, flags);
                }
            }
            Self::Counter | Self::NoTrack => {}
        }
    }
}

/// Writes expressions as a list.
pub(super) fn encode(expressions: &[Expression], request: &mut Request, kind: u16) {
    request.nest(kind, |request| {
        for expression in expressions {
            request.nest(super::wire::ITEM, |request| expression.encode(request));
        }
    });
}
