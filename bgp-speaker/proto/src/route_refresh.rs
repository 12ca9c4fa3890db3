//! How a peer asks for everything again (RFC 2918), and how the answer is marked off (RFC 7313).

use bytes::{BufMut, BytesMut};

use crate::Family;
use crate::octets::Reader;

/// The body of a ROUTE-REFRESH message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// What is said about the family.
    pub kind: RefreshKind,
}

/// The message subtype (RFC 7313 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefreshKind {
    /// 0: please send your Adj-RIB-Out again.
    Request,
    /// 1, BoRR: what follows is all there is.
    Begin,
    /// 2, EoRR: that was all.
    End,
    /// Any other; to be ignored.
    Unknown(u8),
}

impl RouteRefresh {
    /// A message about `family`.
    pub fn new(family: Family, kind: RefreshKind) -> Self {
        Self { afi: family.afi(), safi: family.safi(), kind }
    }

    /// The family meant, if it is one of ours.
    pub fn family(&self) -> Option<Family> {
        Family::from_codes(self.afi, self.safi)
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut octets = Reader::new(body);
        let (afi, kind, safi) = (octets.u16()?, octets.u8()?, octets.u8()?);
        let kind = match kind {
            0 => RefreshKind::Request,
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            other => RefreshKind::Unknown(other),
        };
        octets.is_empty().then_some(Self { afi, safi, kind })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u16(self.afi);
        out.put_u8(match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
            RefreshKind::Unknown(other) => other,
        });
        out.put_u8(self.safi);
    }
}
