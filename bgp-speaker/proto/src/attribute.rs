//! What a path is like: its attributes (RFC 4271 §5), decoded, encoded and shared.

mod as_path;
mod community;
mod decode;
mod encode;
mod fault;
mod intern;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

pub use self::as_path::{AsPath, Segment, SegmentKind};
pub use self::community::{Community, ExtendedCommunity, LargeCommunity};
pub(crate) use self::decode::{Decoded, Reach, decode};
pub(crate) use self::encode::encode;
pub use self::fault::{AttributeFault, FaultKind, Treatment};
pub use self::intern::Interner;
use crate::{Asn, ClusterId, RouterId};

/// ORIGIN (RFC 4271 §5.1.1); the lesser is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// 0: interior to the originating AS.
    #[default]
    Igp,
    /// 1: learned by EGP.
    Egp,
    /// 2: by other means.
    Incomplete,
}

/// AGGREGATOR (RFC 4271 §5.1.7): who made one route of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// Its AS.
    pub asn: Asn,
    /// Its address.
    pub address: Ipv4Addr,
}

/// An attribute that this speaker does not know but must pass on (RFC 4271 §9): optional and transitive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// Its type.
    pub code: u8,
    /// Whether some speaker on the way did not know it. Always so for what this speaker has received.
    pub partial: bool,
    /// Its value.
    pub value: Bytes,
}

/// The attributes of a path. Paths with equal attributes share one value, see [`Interner`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, with AS4_PATH merged into it (RFC 6793 §4.2.3).
    pub as_path: AsPath,
    /// The next hop, from NEXT_HOP or MP_REACH_NLRI. Unspecified (0.0.0.0, ::) in a path that we originate, meaning ourselves.
    pub next_hop: IpAddr,
    /// The link-local next hop that came beside a global one (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; never from or to an external peer.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// COMMUNITIES (RFC 1997), sorted, each once.
    pub communities: Vec<Community>,
    /// EXTENDED COMMUNITIES (RFC 4360), sorted, each once.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// LARGE_COMMUNITY (RFC 8092), sorted, each once.
    pub large_communities: Vec<LargeCommunity>,
    /// ORIGINATOR_ID (RFC 4456 §8).
    pub originator_id: Option<RouterId>,
    /// CLUSTER_LIST (RFC 4456 §8), the nearest reflector first.
    pub cluster_list: Vec<ClusterId>,
    /// What we do not know but pass on, by type.
    pub unknown: Vec<UnknownAttribute>,
}

impl Attributes {
    /// The LOCAL_PREF of a path that has none (RFC 4271 leaves it open; 100 is what everyone takes).
    pub const DEFAULT_LOCAL_PREF: u32 = 100;

    /// Plain attributes: ORIGIN IGP, an empty AS_PATH, this next hop.
    pub fn new(next_hop: IpAddr) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            link_local: None,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            extended_communities: Vec::new(),
            large_communities: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// LOCAL_PREF as the decision process takes it.
    pub fn effective_local_pref(&self) -> u32 {
        self.local_pref.unwrap_or(Self::DEFAULT_LOCAL_PREF)
    }
}
