//! How long are routes kept that an earlier life of this process left in the kernel?
//!
//! Two clocks. The restart in BGP's sense (the R bit, deferred selection) is over when every peer that can be awaited has
//! told its routes, and after a minute for certain. Leftovers in the kernel are removed then, too, unless a configured
//! peer is still down that may be who taught them: its forwarding may go on without it, so its routes are spared as
//! long as it may take to restart.

use std::time::{Duration, Instant};

use bgp_plan::passwords::NoPassword;
use bgp_proto::Event;
use tracing::info;

use super::Speaker;
use crate::kernel::Command;
use crate::peer::Peer;
use crate::status;

/// The longest that start-up's recovery lasts.
const RECOVERY: Duration = Duration::from_secs(60);
/// From then on recovery no longer waits for peers that are down, or that never say that they have told all.
const RECOVERY_WITHOUT_DOWN: Duration = Duration::from_secs(20);
/// The longest that routes are spared for a peer that is down, whatever its restart time.
const SPARING: Duration = Duration::from_secs(120);
/// How soon recovery's end is tried again if the kernel's thread was busy.
const RECOVERY_RETRY: Duration = Duration::from_millis(100);

/// The time after the start in which routes that are in the kernel already are kept, wanted or not.
#[derive(Debug)]
pub(super) enum Recovery {
    /// No session was started yet.
    Waiting,
    /// Peers are given time to tell their routes.
    Running {
        /// Since when.
        since: Instant,
    },
    /// The restart is over, but peers that are still down may have taught what is left in the kernel.
    Sparing {
        /// Since when recovery ran.
        since: Instant,
    },
    /// Over.
    Done,
}

impl Recovery {
    /// Whether we are restarting in BGP's sense.
    pub(super) fn restarting(&self) -> bool {
        matches!(self, Self::Waiting | Self::Running { .. })
    }
}

/// How long leftovers are spared for this peer, from the start, if it stays down.
fn spared_for(peer: &Peer) -> Duration {
    SPARING.min(Duration::from_secs(peer.config.restart_time.into()))
}

impl Speaker {
    /// When the next bound of recovery is reached, as of `now`.
    pub(super) fn recovery_deadline(&self, now: Instant) -> Option<Instant> {
        match self.recovery {
            Recovery::Running { since } => next_bound(since, now),
            Recovery::Sparing { since } => {
                let spared = self.peers.values().filter(|peer| self.is_spared(peer, now));
                spared.map(|peer| since + spared_for(peer)).min()
            }
            Recovery::Waiting | Recovery::Done => None,
        }
    }

    /// Whether recovery waits for this peer: what is left in the kernel may be its. This goes beyond RFC 4724 §4.1, but
    /// all that it delays is the removal of leftovers.
    pub(super) fn is_awaited(&self, peer: &Peer, now: Instant) -> bool {
        let Recovery::Running { since } = self.recovery else { return false };
        let early = now.saturating_duration_since(since) < RECOVERY_WITHOUT_DOWN;
        match peer.is_up() {
            true => !peer.is_complete() && (early || peer.sends_end_of_rib()),
            // A password that is not read yet is, in a moment.
            false => early && matches!(peer.refused(), None | Some(NoPassword::Awaited { .. })),
        }
    }

    /// Whether leftovers are spared for this peer: it is down and may come back with its routes, or it is back and has
    /// not told them all.
    pub(super) fn is_spared(&self, peer: &Peer, now: Instant) -> bool {
        let (Recovery::Running { since } | Recovery::Sparing { since }) = self.recovery else { return false };
        let awaited = !peer.is_up() || (peer.sends_end_of_rib() && !peer.is_complete());
        awaited && now.saturating_duration_since(since) < spared_for(peer)
    }

    /// Whether learned routes are not advertised before this peer has told its own (RFC 4724 §4.1). One that has just
    /// restarted itself waits for us, and one without graceful restart says nothing that could be waited for.
    fn holds_selection(&self, id: u32, peer: &Peer, now: Instant) -> bool {
        self.is_awaited(peer, now) && (!peer.is_up() || self.routing.is_awaited(id))
    }

    /// Ends recovery when every peer has told its routes, or has had its time.
    pub(super) fn recover(&mut self, now: Instant) {
        self.recover_again = None;
        if let Recovery::Running { since } = self.recovery {
            let age = now.saturating_duration_since(since);
            if age >= RECOVERY || !self.peers.iter().any(|(id, peer)| self.holds_selection(*id, peer, now)) {
                self.routing.defer(false);
            }
            if age < RECOVERY && self.peers.values().any(|peer| self.is_awaited(peer, now)) {
                return;
            }
            self.end_restart(since);
        }
        let Recovery::Sparing { since } = self.recovery else { return };
        if self.peers.values().any(|peer| self.is_spared(peer, now)) {
            return;
        }
        // What the last End-of-RIB completed goes to the kernel first, and for that its next hops must be looked up.
        let busy = self.has_commands() || self.routing.awaits_next_hops() || self.kernel.unresolved();
        if busy || self.kernel.commands.try_send(Command::Sweep).is_err() {
            self.recover_again = Some(now + RECOVERY_RETRY);
            return;
        }
        let seconds = now.saturating_duration_since(since).as_secs_f32();
        info!(seconds, "recovery is over; routes that no peer advertises are removed");
        self.recovery = Recovery::Done;
        self.metrics.recovering.set(0);
    }

    /// From now on later OPENs say that we are not restarting any more.
    fn end_restart(&mut self, since: Instant) {
        let spared: Vec<&str> = self
            .peers
            .values()
            .filter(|peer| self.is_spared(peer, Instant::now()))
            .map(|peer| peer.config.name.as_str())
            .collect();
        if !spared.is_empty() {
            info!(peers = ?spared, "kernel routes stay a while for peers that are down and may have taught them");
        }
        self.recovery = Recovery::Sparing { since };
        if let Some(identity) = &mut self.identity {
            identity.recovering = false;
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.session(id, Event::Recovered);
        }
    }

    /// What status says of it.
    pub(super) fn recovery_status(&self) -> Option<status::Recovery> {
        let (Recovery::Running { since } | Recovery::Sparing { since }) = self.recovery else { return None };
        let now = Instant::now();
        let waiting = self.peers.values().filter(|peer| self.is_awaited(peer, now) || self.is_spared(peer, now));
        let waiting: Vec<_> = waiting.collect();
        let limit = match self.recovery {
            Recovery::Running { .. } => RECOVERY,
            _ => waiting.iter().map(|peer| spared_for(peer)).max().unwrap_or_default(),
        };
        Some(status::Recovery {
            waiting_for: waiting.into_iter().map(|peer| peer.config.name.clone()).collect(),
            remaining_seconds: limit.saturating_sub(since.elapsed()).as_secs(),
            limit_seconds: limit.as_secs(),
        })
    }
}

/// When recovery's patience with some peers ends next, if that is still to come.
fn next_bound(since: Instant, now: Instant) -> Option<Instant> {
    [since + RECOVERY_WITHOUT_DOWN, since + RECOVERY].into_iter().find(|bound| *bound > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_never_wakes_for_a_bound_that_is_past() {
        let since = Instant::now();
        let seconds = |n| Duration::from_secs(n);
        assert_eq!(next_bound(since, since), Some(since + seconds(20)));
        assert_eq!(next_bound(since, since + seconds(20)), Some(since + seconds(60)));
        assert_eq!(next_bound(since, since + seconds(60)), None);
    }
}
