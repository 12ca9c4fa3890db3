//! What each message means in each state (RFC 4271 §8.2.2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::{Connection, Phase, Received};
use super::{Action, ConnectionId, Direction, Negotiated, Reason, Session, collision};
use crate::iana::ErrorCode;
use crate::{DecodeError, Message, Notification, RefreshKind};

/// A connection that comes so soon after the session was up was dialled before its end knew of the session.
const CROSSING: Duration = Duration::from_secs(5);

impl Session {
    pub(super) fn received(&mut self, id: ConnectionId, chunk: Bytes, now: Instant) {
        let Some(mut connection) = self.take(id) else { return };
        let mut octets = connection.gather(chunk);
        loop {
            match connection.next(&mut octets) {
                None => break self.put(connection),
                Some(Err(error)) => {
                    self.counters.received += 1;
                    break self.fail(connection, error.into(), now);
                }
                Some(Ok(message)) => {
                    self.counters.received += 1;
                    let Some(still) = self.message(connection, message, now) else { break };
                    self.put(still);
                    self.note_state(now);
                    let Some(again) = self.take(id) else { break };
                    connection = again;
                }
            }
        }
    }

    /// Takes one message; gives the connection back if it survives.
    fn message(&mut self, mut connection: Connection, (message, faults): Received, now: Instant) -> Option<Connection> {
        match (connection.phase.clone(), message) {
            (phase, Message::Notification(notification)) => {
                let graceful = match phase {
                    Phase::Established(negotiated) => negotiated.notification_restart && !notification.is_hard_reset(),
                    Phase::OpenSent | Phase::OpenConfirm(_) => false,
                };
                self.actions.push_back(Action::Close(connection.id));
                self.lost(connection, Reason::Received(notification), graceful, now);
                None
            }
            (Phase::OpenSent, Message::Open(open)) => {
                let sent = connection.sent.clone();
                match self.config.negotiate(sent, open, connection.local, connection.direction) {
                    Ok(negotiated) => self.opened(connection, negotiated, now),
                    Err(refusal) => {
                        self.fail(connection, DecodeError::from(refusal).into(), now);
                        None
                    }
                }
            }
            (Phase::OpenSent, _) => {
                self.fail(connection, Notification::new(ErrorCode::FiniteStateMachine, 1), now);
                None
            }
            (Phase::OpenConfirm(negotiated), Message::Keepalive) => {
                self.restart_hold(&mut connection, now);
                Some(self.establish(connection, negotiated, now))
            }
            // A KEEPALIVE is implied by what may only follow it, as BIRD has it.
            (Phase::OpenConfirm(negotiated), message @ (Message::Update(_) | Message::EndOfRib(_))) => {
                let mut connection = self.establish(connection, negotiated, now);
                self.restart_hold(&mut connection, now);
                self.update(message, faults);
                Some(connection)
            }
            // The same OPEN twice changes nothing (RFC 4271 §8.2.2: only a collision is looked for). OpenBGPD sends what
            // a connection that failed had left to send on the next one, and would lose our paths to a NOTIFICATION.
            (Phase::OpenConfirm(negotiated), Message::Open(open))
                if self
                    .config
                    .negotiate(connection.sent.clone(), open.clone(), connection.local, connection.direction)
                    .is_ok_and(|again| again == *negotiated) =>
            {
                Some(connection)
            }
            (Phase::OpenConfirm(_), _) => {
                self.fail(connection, Notification::new(ErrorCode::FiniteStateMachine, 2), now);
                None
            }
            (Phase::Established(_), Message::Keepalive) => {
                self.restart_hold(&mut connection, now);
                Some(connection)
            }
            (Phase::Established(_), message @ (Message::Update(_) | Message::EndOfRib(_))) => {
                self.restart_hold(&mut connection, now);
                self.update(message, faults);
                Some(connection)
            }
            (Phase::Established(negotiated), Message::RouteRefresh(refresh)) => {
                let family = refresh.family().filter(|family| negotiated.families().contains(*family));
                match (family, refresh.kind) {
                    (Some(family), RefreshKind::Request) => self.actions.push_back(Action::RefreshRequested(family)),
                    (Some(family), RefreshKind::Begin) if negotiated.context.enhanced_refresh => {
                        self.refresh_begins(family, now);
                    }
                    (Some(family), RefreshKind::End) if negotiated.context.enhanced_refresh => {
                        self.sweep(family.into())
                    }
                    _ => {} // RFC 2918 §4, RFC 7313 §5: ignored
                }
                Some(connection)
            }
            (Phase::Established(_), Message::Open(_)) => {
                self.fail(connection, Notification::new(ErrorCode::FiniteStateMachine, 3), now);
                None
            }
        }
    }

    /// The peer's OPEN is accepted: resolves a collision, then waits for the KEEPALIVE.
    fn opened(&mut self, mut connection: Connection, negotiated: Negotiated, now: Instant) -> Option<Connection> {
        if let Some(old) = self.established.take() {
            let restarts = old.negotiated().is_some_and(|n| n.graceful_restart.is_some());
            let anew = negotiated.graceful_restart.as_ref();
            // RFC 4271 §6.8: the established one stays. A peer that restarted as soon says so (R bit), or tries again.
            let crossing = now.saturating_duration_since(self.since) < CROSSING;
            if !(restarts && anew.is_some_and(|anew| anew.restarting || !crossing)) {
                self.established = Some(old);
                self.discard(connection, Notification::COLLISION);
                return None;
            }
            // RFC 4724 §4.2: the peer restarted and we did not notice; the old connection ends without NOTIFICATION.
            self.actions.push_back(Action::Close(old.id));
            self.down(&old, Reason::PeerRestarted, true, now);
        }
        let other = match connection.direction {
            Direction::Incoming => &mut self.outgoing,
            Direction::Outgoing => &mut self.incoming,
        };
        if let Some(other) = other.take_if(|other| matches!(other.phase, Phase::OpenConfirm(_))) {
            let local = (self.config.router_id, self.config.local_as);
            let survivor = collision::survivor(local, (negotiated.router_id, negotiated.peer_as));
            if survivor != connection.direction {
                self.put(other);
                self.discard(connection, Notification::COLLISION);
                return None;
            }
            self.discard(other, Notification::COLLISION);
        }
        self.send(&mut connection, &Message::Keepalive);
        connection.phase = Phase::OpenConfirm(Arc::new(negotiated));
        self.restart_hold(&mut connection, now);
        self.restart_keepalive(&mut connection, now);
        Some(connection)
    }

    fn establish(&mut self, mut connection: Connection, negotiated: Arc<Negotiated>, now: Instant) -> Connection {
        for rival in [self.incoming.take(), self.outgoing.take()].into_iter().flatten() {
            self.discard(rival, Notification::COLLISION);
        }
        self.hang_up();
        connection.phase = Phase::Established(Arc::clone(&negotiated));
        self.was_up = true;
        self.last_error = None;
        self.cause = None;
        self.counters.established += 1;
        self.actions.push_back(Action::Up { connection: connection.id, negotiated: Arc::clone(&negotiated) });
        self.peer_is_back(&negotiated, now);
        connection
    }

    fn update(&mut self, message: Message, faults: Vec<crate::AttributeFault>) {
        self.counters.updates_received += 1;
        self.counters.faults += faults.len() as u64;
        if !faults.is_empty() {
            self.actions.push_back(Action::Faults(faults));
        }
        match message {
            Message::Update(update) => self.actions.push_back(Action::Update(update)),
            Message::EndOfRib(family) => {
                self.actions.push_back(Action::EndOfRib(family));
                self.sweep(family.into());
            }
            _ => {}
        }
    }
}
