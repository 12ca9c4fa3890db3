//! What the RIB tells: changes for the kernel, and paths for operators.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::table::Path;
use super::{PeerConfig, PeerId, Rib, Source, Step, decision};
use crate::{Attributes, Families, Family, Nlri, Prefix};

/// How a prefix is reached now; what it was before does not matter any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestChange {
    /// Which prefix.
    pub prefix: Prefix,
    /// The best path, if any.
    pub best: Option<Best>,
}

/// The best path of a prefix, with those as good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Where the best path is from. [`Source::Local`] is for ourselves: nothing to be routed elsewhere.
    pub source: Source,
    /// The next hops of the best path and of those as good, sorted, each once. Empty for a local route without gateway.
    pub next_hops: Vec<IpAddr>,
    /// The best path's attributes.
    pub attributes: Arc<Attributes>,
}

/// One path of a prefix, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// Where it is from.
    pub source: Source,
    /// Its path identifier; 0 without ADD-PATH.
    pub path_id: u32,
    /// Its attributes, after import policy.
    pub attributes: Arc<Attributes>,
    /// What became of it.
    pub standing: Standing,
    /// Its peer is away, or back and has not told it again.
    pub stale: bool,
}

/// What became of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It is the best.
    Best,
    /// It is as good as the best but for the last tie-breakers, and used beside it.
    Multipath,
    /// It lost at this step.
    Lost(Step),
    /// It does not take part.
    Excluded(Exclusion),
}

/// Why a path does not take part in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exclusion {
    /// Our AS is in its AS_PATH too often.
    AsLoop,
    /// Its ORIGINATOR_ID is ours.
    OwnOriginator,
    /// Our cluster is in its CLUSTER_LIST.
    ClusterLoop,
    /// The import policy rejects it.
    Policy,
    /// Its next hop cannot be reached.
    NextHop,
}

/// As operators read it: `lost: LOCAL_PREF`.
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Multipath => f.write_str("multipath"),
            Self::Lost(step) => write!(f, "lost: {step}"),
            Self::Excluded(exclusion) => write!(f, "excluded: {exclusion}"),
        }
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsLoop => "our AS is in its AS_PATH",
            Self::OwnOriginator => "its ORIGINATOR_ID is ours",
            Self::ClusterLoop => "our cluster is in its CLUSTER_LIST",
            Self::Policy => "rejected by import filter",
            Self::NextHop => "next hop unreachable",
        })
    }
}

/// How many prefixes, or with ADD-PATH paths, a peer has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// It has advertised.
    pub received: usize,
    /// Of these, are accepted by loop checks and import policy.
    pub accepted: usize,
    /// Of these, are stale.
    pub stale: usize,
    /// We have advertised to it, or are about to.
    pub advertised: usize,
}

impl Rib {
    /// All paths of a prefix, the best first, and why each other is not.
    pub fn paths(&self, prefix: Prefix) -> Vec<PathView> {
        let Some(entry) = self.table.get(&prefix) else { return Vec::new() };
        let decision = decision::decide(entry.contenders(prefix, &self.books, &self.config));
        let view = |(index, path): (usize, &Path)| {
            let lost = decision.fell.iter().find(|(fell, _)| *fell == index).map(|(_, step)| *step);
            let standing = match (path.excluded, lost) {
                (Some(exclusion), _) => Standing::Excluded(exclusion),
                _ if index == 0 && entry.chosen > 0 => Standing::Best,
                _ if index < entry.chosen => Standing::Multipath,
                (None, Some(step)) => Standing::Lost(step),
                (None, None) => Standing::Excluded(Exclusion::NextHop),
            };
            PathView {
                source: self.books.source(prefix, path),
                path_id: path.path_id,
                attributes: Arc::clone(&path.attributes),
                standing,
                stale: path.stale,
            }
        };
        entry.paths.iter().enumerate().map(view).collect()
    }

    /// Every prefix with a path, in no order.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.table.keys().copied()
    }

    /// How a prefix is reached now.
    pub fn best(&self, prefix: Prefix) -> Option<Best> {
        let entry = self.table.get(&prefix)?;
        let path = entry.best()?;
        let (source, attributes) = (self.books.source(prefix, path), Arc::clone(&path.attributes));
        Some(Best { source, next_hops: entry.next_hops(), attributes })
    }

    /// What a peer has to do with, in a family.
    pub fn counts(&self, id: PeerId, family: Family) -> PeerCounts {
        let Some(peer) = self.books.peer(id) else { return PeerCounts::default() };
        let counts = peer.counts.get(family.index()).copied().unwrap_or_default();
        let group = peer.output.as_ref().and_then(|output| self.groups.get(output.group)?.as_ref());
        let advertised =
            group.map_or(0, |group| group.sent(family.into()).filter(|(_, sent)| sent.is_for(peer.reader(id))).count());
        PeerCounts { advertised, ..counts }
    }

    /// How a peer is configured now, its policies too.
    pub fn peer_config(&self, id: PeerId) -> Option<&PeerConfig> {
        self.books.peer(id).map(|peer| &peer.config)
    }

    /// What a peer was told, or is about to be, in no order. Changes not yet [polled](Self::poll_output) by any peer
    /// of the same view are not in it.
    pub fn advertised(&self, id: PeerId) -> Vec<(Nlri, Arc<Attributes>)> {
        let Some(peer) = self.books.peer(id) else { return Vec::new() };
        let group = peer.output.as_ref().and_then(|output| self.groups.get(output.group)?.as_ref());
        let Some(group) = group else { return Vec::new() };
        let sent = group.sent(Families::ALL).filter(|(_, sent)| sent.is_for(peer.reader(id)));
        sent.map(|(nlri, sent)| (nlri, Arc::clone(&sent.attributes))).collect()
    }
}
