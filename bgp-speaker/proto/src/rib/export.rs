//! What of a path a peer is told: who may know it, and what is rewritten (RFC 4271 §9.1.3, RFC 4456).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::table::{LOCAL, Path, originator};
use super::{LocalKind, NextHopMode, PeerConfig, Policy, Source};
use crate::{Asn, Attributes, ClusterId, Community, Context, Family, Prefix, RouterId};

/// All on which it depends what a peer is told. Peers with equal views share one Adj-RIB-Out and one log of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) context: Context,
    pub(super) peer_as: Asn,
    pub(super) local_as: Asn,
    pub(super) client: bool,
    pub(super) cluster_id: ClusterId,
    pub(super) next_hop: NextHopMode,
    pub(super) next_hop_v4: Option<Ipv4Addr>,
    pub(super) next_hop_v6: Option<Ipv6Addr>,
    pub(super) long_lived_aware: bool,
    pub(super) paths_limit: usize,
    pub(super) policy: Option<Policy>,
}

/// What must be known of the peer that a path is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origination {
    pub(super) external: bool,
    pub(super) client: bool,
    pub(super) router_id: RouterId,
}

impl View {
    pub(super) fn new(peer: &PeerConfig, router_id: RouterId) -> Self {
        let internal = peer.context.internal;
        Self {
            // What the peer sends does not matter here.
            context: Context { add_path_receive: crate::Families::NONE, ..peer.context },
            peer_as: peer.peer_as,
            local_as: peer.local_as,
            client: peer.client && internal,
            cluster_id: peer.cluster_id.unwrap_or(ClusterId(router_id.address())),
            next_hop: peer.next_hop,
            next_hop_v4: peer.next_hop_v4,
            next_hop_v6: peer.next_hop_v6,
            long_lived_aware: peer.long_lived_aware,
            paths_limit: peer.paths_limit,
            policy: peer.export.clone(),
        }
    }

    /// The attributes with which a path of `family` is told, before policy; `None` if it is not told.
    /// `from` is the peer it is from, `None` for an own route.
    pub(super) fn rewrite(&self, family: Family, path: &Path, from: Option<Origination>) -> Option<Attributes> {
        if !self.context.families.contains(family) {
            return None;
        }
        let external = !self.context.internal;
        let learned = &path.attributes;
        let carries = |community| learned.communities.contains(&community);
        if from.is_some() {
            let stays = carries(Community::NO_EXPORT) || carries(Community::NO_EXPORT_SUBCONFED);
            let unaware = carries(Community::LLGR_STALE) && !self.long_lived_aware;
            if carries(Community::NO_ADVERTISE) || external && stays || unaware {
                return None;
            }
        }
        let reflected = match from {
            Some(from) => !external && !from.external,
            None => false,
        };
        if reflected && !self.client && !from.is_some_and(|from| from.client) {
            return None; // RFC 4456 §6: between non-clients, paths are not reflected
        }
        let mut attributes = Attributes::clone(learned);
        attributes.link_local = None; // sessions are multihop: a link-local next hop means nothing to the peer
        attributes.next_hop = self.next_hop(family, learned.next_hop, from.is_some())?;
        attributes.local_pref = Some(learned.effective_local_pref());
        if external {
            attributes.as_path.prepend(self.local_as);
            attributes.originator_id = None;
            attributes.cluster_list.clear();
            attributes.extended_communities.retain(|community| community.is_transitive());
            if from.is_some() && attributes.med.is_some() {
                attributes.med = Some(0);
            }
        } else if let Some(from) = from.filter(|_| reflected) {
            attributes.originator_id = Some(originator(path, from.router_id));
            attributes.cluster_list.insert(0, self.cluster_id);
        }
        Some(attributes)
    }

    /// What remains to be done after policy, which may have spoken of what the peer is not told.
    pub(super) fn strip(&self, mut attributes: Attributes) -> Attributes {
        if !self.context.internal {
            attributes.local_pref = None;
        }
        attributes.communities.sort_unstable();
        attributes.communities.dedup();
        attributes.extended_communities.sort_unstable();
        attributes.extended_communities.dedup();
        attributes.large_communities.sort_unstable();
        attributes.large_communities.dedup();
        attributes
    }

    fn next_hop(&self, family: Family, received: IpAddr, learned: bool) -> Option<IpAddr> {
        let own = match family {
            Family::Ipv4Unicast => self.next_hop_v4.map(IpAddr::from),
            Family::Ipv6Unicast => self.next_hop_v6.map(IpAddr::from),
        };
        // What is link-local is somebody else's link for the peer. (IPv4 routers do tell such addresses, and are believed.)
        let meaningful = match received {
            IpAddr::V4(v4) => !v4.is_unspecified() && (learned || !v4.is_link_local()),
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_unicast_link_local(),
        };
        let unchanged = match self.next_hop {
            NextHopMode::Own => false,
            NextHopMode::Keep => true,
            NextHopMode::Auto => self.context.internal,
        };
        let of_family = Family::of(received) == family;
        if unchanged && meaningful && of_family { Some(received) } else { own }
    }
}

impl Path {
    /// Where the path is from, as policies and operators are told.
    pub(super) fn source(&self, kind: LocalKind, external: bool) -> Source {
        if self.peer == LOCAL { Source::Local(kind) } else { Source::Peer { peer: self.peer, external } }
    }
}

/// The next hop that stands for ourselves in an own route without gateway.
pub(super) fn unspecified(prefix: &Prefix) -> IpAddr {
    match prefix.family() {
        Family::Ipv4Unicast => Ipv4Addr::UNSPECIFIED.into(),
        Family::Ipv6Unicast => Ipv6Addr::UNSPECIFIED.into(),
    }
}
