//! Packet rules beside everything else: with notifications, a pace and failures of their own.

use std::os::fd::OwnedFd;

use calico_agent::Finding;
use felix_calc::Change;
use felix_dataplane::TunnelState;
use felix_dataplane::nft::PacketRules;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tracing::{error, info_span, warn};

use super::pace::Pace;
use super::{described, watched};

/// The packet rules, and what is needed to keep them.
pub(crate) struct Rules {
    rules: PacketRules,
    notifications: AsyncFd<OwnedFd>,
    /// Which of the rules' descriptors that is.
    generation: u64,
    pace: Pace,
}

impl Rules {
    /// Around rules that are open.
    ///
    /// # Errors
    /// If their notifications cannot be waited for.
    pub(crate) fn new(rules: PacketRules) -> std::io::Result<Self> {
        let notifications = watched(rules.notifications())?;
        let generation = rules.generation();
        Ok(Self { rules, notifications, generation, pace: Pace::new("packet rules are") })
    }

    pub(super) async fn readable(&self) {
        if let Ok(mut ready) = self.notifications.readable().await {
            ready.clear_ready();
        }
    }

    pub(super) fn notice(&mut self) {
        if let Err(error) = self.rules.notice() {
            warn!(%error, "notifications about packet rules were lost, all of them are looked at");
        }
    }

    pub(super) fn resync(&mut self) {
        self.rules.resync();
    }

    pub(super) fn change(&mut self, change: &Change) {
        self.rules.change(change);
    }

    /// Writes what is due and may be written; returns whether that was anything.
    pub(super) fn apply(&mut self, now: Instant) -> bool {
        self.pace.rested(now);
        if !self.rules.is_due() || !self.pace.may(now) {
            return false;
        }
        let _span = info_span!("packet rules").entered();
        let failure = match self.rules.apply() {
            Ok(applied) => described(&applied.failures),
            Err(error) => Some(error.to_string()),
        };
        self.pace.ended(failure);
        true
    }

    /// When to look again though nothing happens.
    pub(super) fn later(&self) -> Option<Instant> {
        self.rules.is_due().then(|| self.pace.later().unwrap_or_else(Instant::now))
    }

    pub(super) fn failing(&self) -> Option<&str> {
        self.pace.failing()
    }

    /// Waits for another descriptor if the rules have replaced theirs.
    pub(super) fn follow(&mut self) {
        let generation = self.rules.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        match watched(self.rules.notifications()) {
            Ok(notifications) => self.notifications = notifications,
            Err(error) => error!(%error, "packet rules cannot be watched, only audits are left"),
        }
    }

    /// Which tunnels take packets now.
    pub(super) fn tunnels(&mut self, state: TunnelState) {
        self.rules.tunnels(state);
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.rules.findings().iter().map(|found| Finding { object: found.object.clone(), text: found.text.clone() })
    }
}
