//! How a connection ends, and what that means for the session (RFC 4271 §6, §8.2.2).

use std::sync::Arc;
use std::time::Instant;

use super::connection::{Connection, Phase};
use super::{Action, Dial, Effort, Reason, Session};
use crate::iana::ErrorCode;
use crate::{Families, Message, Notification};

impl Session {
    /// Ends a connection that is not wanted, without consequences for the session.
    pub(super) fn discard(&mut self, mut connection: Connection, notification: Notification) {
        self.send(&mut connection, &Message::Notification(notification));
        self.actions.push_back(Action::Close(connection.id));
    }

    /// Ends a connection on which something is wrong.
    pub(super) fn fail(&mut self, mut connection: Connection, notification: Notification, now: Instant) {
        let graceful = matches!(&connection.phase, Phase::Established(negotiated) if negotiated.notification_restart);
        self.send(&mut connection, &Message::Notification(notification.clone()));
        self.actions.push_back(Action::Close(connection.id));
        self.lost(connection, Reason::Sent(notification), graceful, now);
    }

    /// A connection is gone: the session goes down if it was the established one, and the next attempt is planned.
    pub(super) fn lost(&mut self, connection: Connection, reason: Reason, graceful: bool, now: Instant) {
        if self.established.is_some() {
            return; // it was a pending one beside the session
        }
        if let Phase::Established(_) = connection.phase {
            self.down(&connection, reason.clone(), graceful, now);
        }
        self.note_error(reason.clone());
        if self.incoming.is_some() || self.outgoing.is_some() {
            return; // the other one may still succeed
        }
        let error = match &reason {
            Reason::Received(notification) | Reason::Sent(notification) => notification.code != ErrorCode::Cease,
            Reason::Socket(_) | Reason::PeerRestarted | Reason::Restart => false,
        };
        if error {
            self.pause_after_error(now);
        } else if self.dial == Dial::No {
            let was_up = matches!(connection.phase, Phase::Established(_));
            let delay = if was_up { self.config.connect_delay } else { self.config.connect_retry };
            self.dial_after(delay, now);
        }
    }

    pub(super) fn down(&mut self, connection: &Connection, reason: Reason, graceful: bool, now: Instant) {
        let keep = match connection.negotiated() {
            Some(negotiated) if graceful => negotiated.restart_families(),
            _ => Families::NONE,
        };
        self.actions.push_back(Action::Down { keep, reason: reason.clone() });
        self.note_error(reason);
        if let Some(negotiated) = connection.negotiated() {
            self.peer_is_away(keep, &Arc::clone(negotiated), now);
        }
    }

    fn pause_after_error(&mut self, now: Instant) {
        let (shortest, longest) = self.config.error_pause;
        let forgotten = self.erred.is_none_or(|at| now.saturating_duration_since(at) >= self.config.error_forget);
        self.pause = if forgotten { shortest } else { (self.pause * 2).min(longest) };
        self.erred = Some(now);
        self.hang_up();
        self.effort = Effort::Pausing(now + self.jitter.apply(self.pause));
    }

    pub(super) fn note_error(&mut self, reason: Reason) {
        self.cause = Some(reason.clone());
        self.last_error = Some(reason);
    }
}
