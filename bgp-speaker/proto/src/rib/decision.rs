//! Which path is best (RFC 4271 §9.1.2.2, RFC 4456 §9).

/// A step of the decision process; a path falls at the first at which another is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Own routes before learned ones, but for those that their LOCAL_PREF raises.
    Preference,
    /// Not long-lived stale before long-lived stale (RFC 9494 §4.3).
    LongLivedStale,
    /// Higher LOCAL_PREF (RFC 4271 §9.1.1).
    LocalPref,
    /// Shorter AS_PATH (a).
    AsPath,
    /// Lower ORIGIN (b).
    Origin,
    /// Lower MULTI_EXIT_DISC among paths of one neighbouring AS (c).
    Med,
    /// External before internal (d).
    External,
    /// Nearer next hop (e).
    NextHopMetric,
    /// Lower ORIGINATOR_ID or, without one, BGP identifier of the peer (f, RFC 4456 §9).
    RouterId,
    /// Shorter CLUSTER_LIST (RFC 4456 §9).
    ClusterList,
    /// Lower address of the peer (g).
    PeerAddress,
    /// Lower path identifier (RFC 7911).
    PathId,
}
