//! What becomes of a peer's paths while it is away (RFC 4724 §4.2, RFC 8538 §4).

use std::time::{Duration, Instant};

use super::{Action, Negotiated, Session};
use crate::{Families, Family};

/// Families in which paths of the peer are stale.
#[derive(Debug)]
pub(super) struct Stale {
    pub(super) families: Families,
    /// When the patience ends: first for the peer to be back, then for its End-of-RIB.
    pub(super) until: Instant,
}

impl Session {
    /// The session went down; the RIB keeps the paths of `keep`.
    pub(super) fn peer_is_away(&mut self, keep: Families, negotiated: &Negotiated, now: Instant) {
        // The RIB drops the first generation of stale paths at the second failure, and the families not kept at once.
        self.stale = None;
        if let Some(restart) = negotiated.graceful_restart.as_ref().filter(|_| !keep.is_empty()) {
            let until = now + Duration::from_secs(restart.restart_time.into());
            self.stale = Some(Stale { families: keep, until });
        }
    }

    /// The session is up again: families whose forwarding the peer did not preserve go at once, the others wait for
    /// its End-of-RIB.
    pub(super) fn peer_is_back(&mut self, negotiated: &Negotiated, now: Instant) {
        let Some(stale) = &mut self.stale else { return };
        let restart = negotiated.graceful_restart.as_ref();
        let preserved = |family: &Family| restart.and_then(|restart| restart.family(*family)) == Some(true);
        let kept = stale.families.and(negotiated.families()).iter().filter(preserved).collect::<Families>();
        stale.until = now + self.config.graceful_restart.map_or(Duration::ZERO, |restart| restart.stale_time);
        let gone = stale.families.iter().filter(|family| !kept.contains(*family)).collect();
        self.sweep(gone);
    }

    /// The peer begins to send everything of `family` again (RFC 7313 §4).
    pub(super) fn refresh_begins(&mut self, family: Family, now: Instant) {
        let patience = self.config.graceful_restart.unwrap_or_default().stale_time;
        let stale = self.stale.get_or_insert(Stale { families: Families::NONE, until: now + patience });
        stale.families.insert(family);
        self.actions.push_back(Action::RefreshBegins(family));
    }

    /// What is still stale in these families goes.
    pub(super) fn sweep(&mut self, families: Families) {
        let Some(stale) = &mut self.stale else { return };
        for family in families.iter() {
            if stale.families.remove(family) {
                self.actions.push_back(Action::Sweep(family));
            }
        }
        if stale.families.is_empty() {
            self.stale = None;
        }
    }
}
