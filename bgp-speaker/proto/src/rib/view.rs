//! What the RIB tells: changes for the kernel, and paths for operators.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Source, Step};
use crate::{Attributes, Prefix};

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
