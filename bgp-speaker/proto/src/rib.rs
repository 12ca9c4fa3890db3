//! Which paths there are, which is best, and what each peer is told: Adj-RIB-In, Loc-RIB, Adj-RIB-Out (RFC 4271 §3.2).

mod config;
mod decision;
mod view;

use std::net::IpAddr;

use bytes::Bytes;

pub use self::config::{
    Candidate, LocalKind, LocalRoute, NextHopMode, PeerConfig, PeerId, Policy, Reachability, RibConfig, Source, Verdict,
};
pub use self::decision::Step;
pub use self::view::{Best, BestChange, Exclusion, PathView, PeerCounts, Standing};
use crate::{Families, Family, Prefix, Update};

/// All RIBs of a speaker.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    changes: Vec<BestChange>,
}

impl Rib {
    /// An empty RIB.
    pub fn new(config: RibConfig) -> Self {
        Self { config, changes: Vec::new() }
    }

    /// A session is up: the peer is sent everything that is for it, then End-of-RIB of each family. Stale paths stay.
    pub fn peer_up(&mut self, peer: PeerId, config: PeerConfig) {}

    /// A session is down: paths of families in `keep` become stale (those stale already go), others go.
    pub fn peer_down(&mut self, peer: PeerId, keep: Families) {}

    /// The peer is no longer configured: everything of it goes.
    pub fn remove_peer(&mut self, peer: PeerId) {}

    /// Takes what a peer advertises and withdraws.
    pub fn update(&mut self, peer: PeerId, update: &Update) {}

    /// The peer has told all its paths of `family`; matters while selection is deferred.
    pub fn end_of_rib(&mut self, peer: PeerId, family: Family) {}

    /// Marks all paths of the peer and family stale (RFC 7313 §4).
    pub fn mark_stale(&mut self, peer: PeerId, family: Family) {}

    /// Removes the paths of the peer and family that are still stale.
    pub fn sweep_stale(&mut self, peer: PeerId, family: Family) {}

    /// Sends the peer everything of `family` again (RFC 2918), marked off if that was negotiated (RFC 7313).
    pub fn refresh(&mut self, peer: PeerId, family: Family) {}

    /// Replaces a peer's policies: its paths are judged anew, and it is told the difference.
    pub fn set_policies(&mut self, peer: PeerId, import: Option<Policy>, export: Option<Policy>) {}

    /// Advertises an own route; replaces one of the same prefix.
    pub fn originate(&mut self, prefix: Prefix, route: LocalRoute) {}

    /// Withdraws an own route; whether there was one.
    pub fn withdraw_local(&mut self, prefix: Prefix) -> bool {
        false
    }

    /// Tells how a next hop can be reached now.
    pub fn set_next_hop(&mut self, next_hop: IpAddr, reachability: Reachability) {}

    /// Next hops that paths began (`true`) or ceased (`false`) to use since last asked: the shell watches these.
    pub fn take_next_hops(&mut self) -> Vec<(IpAddr, bool)> {
        Vec::new()
    }

    /// Defers (RFC 4724 §4.1) or resumes selection: while deferred, only own routes are advertised, no End-of-RIB is
    /// sent and no change is told; on resuming, all at once.
    pub fn set_deferral(&mut self, deferred: bool) {}

    /// Whether a peer that is up, and has not itself just restarted, still owes an End-of-RIB.
    pub fn awaits_end_of_rib(&self) -> bool {
        false
    }

    /// What changed for the kernel since last asked: each prefix once, as it is now.
    pub fn take_best_changes(&mut self) -> Vec<BestChange> {
        std::mem::take(&mut self.changes)
    }

    /// Peers for which there is output.
    pub fn peers_with_output(&self) -> Vec<PeerId> {
        Vec::new()
    }

    /// The next octets for a peer: whole messages, of about `octets` at most but at least one message.
    pub fn poll_output(&mut self, peer: PeerId, octets: usize) -> Option<Bytes> {
        None
    }

    /// All paths of a prefix, the best first, and why each other is not.
    pub fn paths(&self, prefix: Prefix) -> Vec<PathView> {
        Vec::new()
    }

    /// Every prefix with a path, in no order.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        std::iter::empty()
    }

    /// How the best path of a prefix is now.
    pub fn best(&self, prefix: Prefix) -> Option<Best> {
        None
    }

    /// What a peer has to do with.
    pub fn counts(&self, peer: PeerId) -> PeerCounts {
        PeerCounts::default()
    }
}
