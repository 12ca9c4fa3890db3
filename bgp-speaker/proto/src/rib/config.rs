//! What the RIB is told about itself, its peers and its own routes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::{Asn, Attributes, ClusterId, Community, Context, Families, Family, LargeCommunity, Prefix, RouterId};

/// A peer, as the shell numbers them: small numbers, densely, since they index a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The configuration of a RIB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RibConfig {
    /// Our BGP identifier: what comes back with it as ORIGINATOR_ID is ours.
    pub router_id: RouterId,
    /// Most paths used at once for a prefix.
    pub multipath: usize,
    /// Whether a path counts only once [`Rib::set_next_hop`](super::Rib::set_next_hop) says that its next hop can be
    /// reached. Off for a reflector outside the network that it serves: there every next hop is as near as any other.
    pub resolve_next_hops: bool,
    /// By how many octets a peer may be behind; beyond, it is told the present state in place of the history.
    pub log_limit: usize,
    /// The metric of normal IPv4 routes: a lower one raises a route, see [`Step::Preference`](super::Step::Preference).
    pub normal_metric_v4: u32,
    /// The metric of normal IPv6 routes.
    pub normal_metric_v6: u32,
}

impl RibConfig {
    /// A RIB of a node: sixteen paths, next hops resolved, 4 MiB for peers that are behind, a normal metric of 1024.
    pub fn new(router_id: RouterId) -> Self {
        Self {
            router_id,
            multipath: 16,
            resolve_next_hops: true,
            log_limit: 4 << 20,
            normal_metric_v4: LocalRoute::NORMAL_METRIC,
            normal_metric_v6: LocalRoute::NORMAL_METRIC,
        }
    }

    /// The metric of normal routes of a family.
    pub fn normal_metric(&self, family: Family) -> u32 {
        match family {
            Family::Ipv4Unicast => self.normal_metric_v4,
            Family::Ipv6Unicast => self.normal_metric_v6,
        }
    }
}

/// What the RIB must know of a peer while its session is up.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The peer's address: last tie-breaker, and the next hop that is never sent to it.
    pub address: IpAddr,
    /// The peer's BGP identifier.
    pub router_id: RouterId,
    /// The peer's AS.
    pub peer_as: Asn,
    /// Our AS towards it.
    pub local_as: Asn,
    /// On which facts messages to it are coded; families and internal or not are among them.
    pub context: Context,
    /// It is a client of ours (RFC 4456), in the cluster `cluster_id`.
    pub client: bool,
    /// Our cluster, if we reflect: the same towards every peer, since loops are sought on every internal session.
    pub cluster_id: Option<ClusterId>,
    /// Which next hop to send.
    pub next_hop: NextHopMode,
    /// Our address as a next hop for IPv4; without one, paths that need it are not sent.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Our address as a next hop for IPv6; without one, paths that need it are not sent.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// It has just restarted: its End-of-RIB is not waited for (R bit, RFC 4724 §4.1).
    pub restarting: bool,
    /// It will end its initial advertisement with End-of-RIB: it restarts gracefully.
    pub sends_end_of_rib: bool,
    /// How often our AS may be in the AS_PATH of what it sends.
    pub allowed_local_as: u8,
    /// It understands long-lived stale paths; one that does not is told none (RFC 9494 §4.3).
    pub long_lived_aware: bool,
    /// Most paths told for one prefix with ADD-PATH, the best first; of these, it is not told those that it sent itself.
    pub paths_limit: usize,
    /// Judges what it sends; `None` accepts all.
    pub import: Option<Policy>,
    /// Judges what is sent to it; `None` accepts all. Peers that share a policy share their updates.
    pub export: Option<Policy>,
}

/// Which next hop is sent to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum NextHopMode {
    /// Unchanged to internal peers, ourselves to external ones.
    #[default]
    Auto,
    /// Always ourselves.
    Own,
    /// Unchanged wherever there is one.
    Keep,
}

/// Judges paths. Clones are one policy: peers that share it share their updates.
#[derive(Clone)]
pub struct Policy(Arc<Judge>);

type Judge = dyn Fn(&Candidate<'_>) -> Verdict + Send + Sync;

impl Policy {
    /// A policy of a function, which must be pure: the same verdict for the same path, always.
    pub fn new(judge: impl Fn(&Candidate<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// What it says of a path.
    pub fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        (self.0)(candidate)
    }

    /// Whether this is the only clone: no peer is judged by it.
    pub fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Policy {}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}

/// A path on which a [`Policy`] is asked.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// What the path is for.
    pub prefix: Prefix,
    /// Its attributes. On import as received; on export as they would be sent, but that LOCAL_PREF is always there.
    pub attributes: &'a Attributes,
    /// Where it is from.
    pub source: Source,
    /// The peer's AS.
    pub peer_as: Asn,
    /// Our AS towards the peer.
    pub local_as: Asn,
    /// The outgoing interface: of an own route, or of a learned path's next hop as far as it is known. `None` for what
    /// goes nowhere, as an own block.
    pub interface: Option<&'a str>,
}

/// Where a path is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Ourselves.
    Local(LocalKind),
    /// A peer.
    Peer {
        /// Which.
        peer: PeerId,
        /// Whether in another AS.
        external: bool,
    },
}

/// What an own route is for: policies tell them apart, and the decision process ranks them
/// ([`LocalRoute::preference`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LocalKind {
    /// A block of this node.
    #[default]
    Block,
    /// An address or a range of services.
    Service,
    /// The kernel's route to a workload endpoint on this node.
    Workload,
    /// The kernel's route to workload endpoints of another node, by a gateway or a tunnel, made by felix.
    Remote,
    /// Any other route of the kernel's main table.
    Kernel,
    /// A connected subnet.
    Direct,
}

/// What a [`Policy`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The path counts as it is.
    Accept,
    /// The path counts with these attributes.
    Replace(Box<Attributes>),
    /// An operator's rule accepts the path by name, as it is or with these attributes. On import, its LOCAL_PREF then
    /// decides among learned paths only, and does not raise it above own routes; on export it is as the above.
    AcceptExplicitly(Option<Box<Attributes>>),
    /// The path does not count.
    Reject,
}

/// A route of our own, to be advertised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRoute {
    /// What it is for.
    pub kind: LocalKind,
    /// The gateway, which internal peers are told in place of us.
    pub gateway: Option<IpAddr>,
    /// The interface by which it leaves, if it does.
    pub interface: Option<Arc<str>>,
    /// The LOCAL_PREF for internal peers.
    pub local_pref: u32,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Communities.
    pub communities: Vec<Community>,
    /// Large communities.
    pub large_communities: Vec<LargeCommunity>,
}

impl LocalRoute {
    /// The metric of Calico's normal routes.
    pub const NORMAL_METRIC: u32 = 1024;

    /// LOCAL_PREF of a route with this metric, as Calico's speakers have it since 3.32.
    pub fn local_pref(metric: u32) -> u32 {
        0x7fff_ffff_u32.saturating_sub(metric)
    }

    /// How it stands to other routes before any attribute counts, `normal` being the metric of normal routes of its
    /// family: see [`Step::Preference`](super::Step::Preference).
    pub fn preference(&self, normal: u32) -> u8 {
        match self.kind {
            LocalKind::Direct => 240,
            LocalKind::Workload if self.local_pref > Self::local_pref(normal) => 210,
            LocalKind::Block | LocalKind::Service => 200,
            LocalKind::Workload => 150,
            LocalKind::Remote | LocalKind::Kernel => 10,
        }
    }
}

/// A route of normal metric, with ourselves as the next hop.
impl Default for LocalRoute {
    fn default() -> Self {
        Self {
            kind: LocalKind::Block,
            gateway: None,
            interface: None,
            local_pref: Self::local_pref(Self::NORMAL_METRIC),
            med: None,
            communities: Vec::new(),
            large_communities: Vec::new(),
        }
    }
}

/// How a next hop can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reachability {
    /// Not at all, or only through another BGP path: paths with it are held back.
    #[default]
    Unreachable,
    /// At this distance; 0 on a connected link.
    Reachable {
        /// The kernel's metric or a coarse stand-in; the same scale on all nodes.
        metric: u32,
        /// The interface by which packets leave, if one is known: policies see it.
        interface: Option<Arc<str>>,
    },
}

impl Reachability {
    /// The interface by which packets leave.
    pub fn interface(&self) -> Option<&Arc<str>> {
        match self {
            Self::Unreachable => None,
            Self::Reachable { interface, .. } => interface.as_ref(),
        }
    }
}

impl PeerConfig {
    /// Most paths told for one prefix, as a rule: as many as a node uses at once.
    pub const PATHS_LIMIT: usize = 16;

    /// An ordinary peer: no client, next hops by the rule, no policy. `local` is our end of the session.
    pub fn new(address: IpAddr, local: IpAddr, local_as: Asn, negotiated: &crate::Negotiated) -> Self {
        let (next_hop_v4, next_hop_v6) = match local {
            IpAddr::V4(v4) => (Some(v4), None),
            IpAddr::V6(v6) => (None, Some(v6)),
        };
        Self {
            address,
            router_id: negotiated.router_id,
            peer_as: negotiated.peer_as,
            local_as,
            context: negotiated.context,
            client: false,
            cluster_id: None,
            next_hop: NextHopMode::Auto,
            next_hop_v4,
            next_hop_v6,
            restarting: negotiated.graceful_restart.as_ref().is_some_and(|restart| restart.restarting),
            sends_end_of_rib: negotiated.graceful_restart.is_some(),
            allowed_local_as: 0,
            long_lived_aware: negotiated.long_lived_aware,
            paths_limit: Self::PATHS_LIMIT,
            import: None,
            export: None,
        }
    }

    /// The families of the session.
    pub fn families(&self) -> Families {
        self.context.families
    }
}
