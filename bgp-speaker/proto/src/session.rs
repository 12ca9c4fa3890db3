//! How a session comes up, stays up and goes down: the state machine of RFC 4271 §8, without sockets or clocks.
//!
//! RFC 4271 has one machine per connection. Here a [`Session`] is all of a peer: it dials, it holds at most one pending
//! connection per direction beside the established one, and it resolves their collision. [`Session::state`] is the state
//! of the connection that got furthest, as operators know it from other speakers.

mod collision;
mod config;
mod connection;
mod ending;
mod event;
mod negotiate;
#[cfg(test)]
mod pair;
mod receive;
mod restart;
#[cfg(test)]
mod tests;
mod timer;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

pub use self::config::{GracefulRestart, SessionConfig};
use self::connection::{Connection, Phase};
pub use self::event::{Action, ConnectionId, Counters, Direction, Event, Reason, StopReason};
pub use self::negotiate::Negotiated;
use self::restart::Stale;
use self::timer::Jitter;
use crate::{Families, Family, Message, Notification, RefreshKind};

/// At least a moment, or a retry of zero would dial for ever within one call.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);

/// The states of RFC 4271 §8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Stopped, or pausing after an error.
    Idle,
    /// Dialling.
    Connect,
    /// Waiting: for the peer to connect, or for the time to dial.
    Active,
    /// Connected, our OPEN is sent.
    OpenSent,
    /// The peer's OPEN is accepted.
    OpenConfirm,
    /// Up.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// When to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dial {
    /// Not: passive, connected or stopped.
    No,
    /// At this instant.
    At(Instant),
    /// Dialled; given up at this instant.
    Until(Instant),
}

/// What is tried at the moment, apart from connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// Nothing: stopped by the operator.
    Stopped,
    /// Nothing until this instant: pausing after an error.
    Pausing(Instant),
    /// To be up.
    Running,
}

/// A session with one peer.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    effort: Effort,
    dial: Dial,
    incoming: Option<Connection>,
    outgoing: Option<Connection>,
    established: Option<Connection>,
    stale: Option<Stale>,
    was_up: bool,
    /// The pause that the next error costs, and when the last one was.
    pause: Duration,
    erred: Option<Instant>,
    jitter: Jitter,
    state: State,
    since: Instant,
    last_error: Option<Reason>,
    /// Why the state is about to change, for the transition.
    cause: Option<Reason>,
    counters: Counters,
    actions: VecDeque<Action>,
}

impl Session {
    /// A session that does nothing until [`Event::Start`].
    pub fn new(config: SessionConfig, now: Instant) -> Self {
        Self {
            effort: Effort::Stopped,
            dial: Dial::No,
            incoming: None,
            outgoing: None,
            established: None,
            stale: None,
            was_up: false,
            pause: config.error_pause.0,
            erred: None,
            jitter: Jitter::new(config.seed),
            state: State::Idle,
            since: now,
            last_error: None,
            cause: None,
            counters: Counters::default(),
            actions: VecDeque::new(),
            config,
        }
    }

    /// Takes one event at `now`; what must be done about it is then read with [`poll`](Self::poll).
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Start => self.start(now),
            Event::Stop(reason) => self.stop(&reason),
            Event::Connected { connection, direction, local } => self.connected(connection, direction, local, now),
            Event::ConnectFailed(text) => self.connect_failed(text, now),
            Event::Closed { connection, error } => {
                if let Some(closed) = self.take(connection) {
                    let text = error.unwrap_or_else(|| "Connection closed".to_owned());
                    self.lost(closed, Reason::Socket(text), true, now);
                }
            }
            Event::Received { connection, octets } => self.received(connection, octets, now),
            Event::Timeout => {}
            Event::Refresh(family) => self.refresh(family),
            Event::Recovered => {
                if let Some(restart) = &mut self.config.graceful_restart {
                    restart.restarting = false;
                }
            }
        }
        self.timers(now);
        self.note_state(now);
    }

    /// Takes over another configuration of the same session: who dials and how often keepalives go, from now on; what is
    /// offered, with the next OPEN. What both ends have agreed on stays: AS numbers, identifiers, addresses and
    /// families must be what they were.
    pub fn reconfigure(&mut self, config: SessionConfig, now: Instant) {
        let old = std::mem::replace(&mut self.config, config);
        if old.keepalive != self.config.keepalive
            && let Some(mut connection) = self.established.take()
        {
            let due = connection.keepalive;
            self.restart_keepalive(&mut connection, now);
            connection.keepalive = connection.keepalive.min(due); // never later than was promised
            self.established = Some(connection);
        }
        match (old.passive, self.config.passive) {
            (false, true) => self.hang_up(),
            (true, false) if self.incoming.is_none() => self.dial_after(self.config.connect_delay, now),
            _ => {}
        }
        self.note_state(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call again with [`Event::Timeout`] if nothing else happens; `None` is never.
    pub fn deadline(&self) -> Option<Instant> {
        let effort = match self.effort {
            Effort::Pausing(until) => Some(until),
            Effort::Stopped | Effort::Running => None,
        };
        let dial = match self.dial {
            Dial::No => None,
            Dial::At(at) | Dial::Until(at) => Some(at),
        };
        let connections = self.connections().flat_map(|connection| [connection.hold, connection.keepalive]);
        let stale = self.stale.as_ref().map(|stale| stale.until);
        connections.chain([effort, dial, stale]).flatten().min()
    }

    /// The state of the connection that got furthest.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when [`state`](Self::state) is what it is.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What was agreed with the peer, while Established.
    pub fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        self.established.as_ref()?.negotiated()
    }

    /// The connection in use, while Established.
    pub fn connection(&self) -> Option<ConnectionId> {
        self.established.as_ref().map(|connection| connection.id)
    }

    /// Why the last attempt failed; none once Established.
    pub fn last_error(&self) -> Option<&Reason> {
        self.last_error.as_ref()
    }

    /// The families whose paths are stale: the peer is away, or is back and has not told them all again.
    pub fn stale(&self) -> Families {
        self.stale.as_ref().map(|stale| stale.families).unwrap_or_default()
    }

    /// What was counted since the session was made.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How the session is configured.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// State and last error as Calico's status shows them, such as `Active Socket: Connection refused` or `Passive`.
    pub fn info(&self) -> String {
        let idle = matches!(self.state, State::Idle | State::Active) && self.effort != Effort::Stopped;
        let state = if idle && self.config.passive { "Passive".to_owned() } else { self.state.to_string() };
        match &self.last_error {
            Some(reason) => format!("{state} {reason}"),
            None => state,
        }
    }

    // --- administrative ---

    fn start(&mut self, now: Instant) {
        if self.effort == Effort::Stopped {
            self.effort = Effort::Running;
            self.pause = self.config.error_pause.0;
            self.dial_after(self.config.connect_delay, now);
        }
    }

    fn stop(&mut self, reason: &StopReason) {
        let hard = self.negotiated().is_some_and(|negotiated| negotiated.notification_restart);
        let notification = reason.notification(hard);
        let told = notification.clone().map_or(Reason::Restart, Reason::Sent);
        for mut connection in
            [self.incoming.take(), self.outgoing.take(), self.established.take()].into_iter().flatten()
        {
            if let Some(notification) = &notification {
                self.send(&mut connection, &Message::Notification(notification.clone()));
            }
            self.actions.push_back(Action::Close(connection.id));
            if let Phase::Established(_) = connection.phase {
                self.actions.push_back(Action::Down { keep: Families::NONE, reason: told.clone() });
            }
        }
        if self.effort != Effort::Stopped {
            self.cause = Some(told.clone());
            self.last_error = Some(told);
        }
        self.sweep(Families::ALL);
        self.hang_up();
        self.effort = Effort::Stopped;
    }

    fn refresh(&mut self, family: Family) {
        if let Some(mut connection) = self.established.take() {
            let able = |n: &Arc<Negotiated>| n.route_refresh && n.families().contains(family);
            if connection.negotiated().is_some_and(able) {
                self.send(&mut connection, &Message::refresh(family, RefreshKind::Request));
            }
            self.established = Some(connection);
        }
    }

    // --- connecting ---

    fn dial_after(&mut self, delay: Duration, now: Instant) {
        if !self.config.passive
            && self.effort == Effort::Running
            && self.established.is_none()
            && self.outgoing.is_none()
        {
            self.dial = Dial::At(now + self.jitter.apply(delay));
        }
    }

    fn hang_up(&mut self) {
        if let Dial::Until(_) = self.dial {
            self.actions.push_back(Action::Abandon);
        }
        self.dial = Dial::No;
    }

    fn connect_failed(&mut self, text: String, now: Instant) {
        if let Dial::Until(_) = self.dial {
            self.dial = Dial::No;
            self.note_error(Reason::Socket(text));
            self.dial_after(self.config.connect_retry, now);
        }
    }

    fn connected(&mut self, id: ConnectionId, direction: Direction, local: std::net::IpAddr, now: Instant) {
        let wanted = match direction {
            Direction::Outgoing => matches!(self.dial, Dial::Until(_)),
            // A second connection of the peer, while its first is not yet decided, is closed without a word, as BIRD
            // does; unless that one is mute: its peer vanished without a sign that got here, and nothing but the hold
            // time would end it. One beside an established session may be of a peer that restarted: its OPEN will tell.
            Direction::Incoming => {
                let free = self.incoming.as_ref().is_none_or(|first| first.is_mute(now));
                self.effort == Effort::Running && free
            }
        };
        if !wanted {
            self.actions.push_back(Action::Close(id));
            return;
        }
        if let Some(mute) = self.pending(direction).take() {
            self.actions.push_back(Action::Close(mute.id));
        }
        let offer = self.config.open(self.was_up);
        let mut connection = Connection::new((id, direction), local, offer.capabilities.clone(), now);
        self.send(&mut connection, &Message::Open(offer));
        self.restart_hold(&mut connection, now);
        if direction == Direction::Outgoing {
            self.dial = Dial::No;
        }
        *self.pending(direction) = Some(connection);
    }

    // --- timers ---

    fn timers(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for id in self.connections().map(|connection| connection.id).collect::<Vec<_>>() {
            let Some(mut connection) = self.take(id) else { continue };
            if due(connection.hold) {
                self.fail(connection, Notification::HOLD_TIMER_EXPIRED, now); // RFC 4271 §6.5
                continue;
            }
            if due(connection.keepalive) {
                self.send(&mut connection, &Message::Keepalive);
                self.restart_keepalive(&mut connection, now);
            }
            self.put(connection);
        }
        if self.stale.as_ref().is_some_and(|stale| stale.until <= now) {
            self.sweep(Families::ALL);
        }
        if matches!(self.effort, Effort::Pausing(until) if until <= now) {
            self.effort = Effort::Running;
            self.dial_after(Duration::ZERO, now);
        }
        match self.dial {
            // The peer's own connection is about to be the session: a second one would only have to be resolved.
            Dial::At(at) if at <= now && self.incoming.as_ref().is_some_and(|other| other.negotiated().is_some()) => {
                self.dial = Dial::At(now + self.jitter.apply(self.config.connect_retry.max(SHORTEST_RETRY)));
            }
            Dial::At(at) if at <= now => self.call(now),
            Dial::Until(until) if until <= now => {
                self.hang_up(); // RFC 4271 §8.2.2, Connect: ConnectRetryTimer_Expires
                self.note_error(Reason::Socket("Connection timed out".to_owned()));
                self.call(now);
            }
            _ => {}
        }
    }

    fn call(&mut self, now: Instant) {
        self.actions.push_back(Action::Connect);
        let patience = self.jitter.apply(self.config.connect_retry.max(SHORTEST_RETRY));
        self.dial = Dial::Until(now + patience);
    }

    fn restart_hold(&mut self, connection: &mut Connection, now: Instant) {
        // Departs from BIRD: no jitter, a peer relies on the hold time (RFC 4271 §10 exempts it).
        connection.hold = connection.hold_time(self.config.hold_time.duration()).map(|time| now + time);
    }

    fn restart_keepalive(&mut self, connection: &mut Connection, now: Instant) {
        let hold = connection.negotiated().and_then(|negotiated| negotiated.hold_time.duration());
        connection.keepalive = hold.map(|hold| {
            let third = hold / 3;
            let interval = self.config.keepalive.map_or(third, |wish| wish.clamp(Duration::from_millis(100), third));
            now + self.jitter.apply(interval)
        });
    }

    // --- connections ---

    fn connections(&self) -> impl Iterator<Item = &Connection> {
        [&self.established, &self.incoming, &self.outgoing].into_iter().flatten()
    }

    fn pending(&mut self, direction: Direction) -> &mut Option<Connection> {
        match direction {
            Direction::Incoming => &mut self.incoming,
            Direction::Outgoing => &mut self.outgoing,
        }
    }

    fn take(&mut self, id: ConnectionId) -> Option<Connection> {
        let slots = [&mut self.established, &mut self.incoming, &mut self.outgoing];
        slots.into_iter().find_map(|slot| slot.take_if(|connection| connection.id == id))
    }

    fn put(&mut self, connection: Connection) {
        match connection.phase {
            Phase::Established(_) => self.established = Some(connection),
            Phase::OpenSent | Phase::OpenConfirm(_) => {
                let direction = connection.direction;
                *self.pending(direction) = Some(connection);
            }
        }
    }

    fn send(&mut self, connection: &mut Connection, message: &Message) {
        let mut octets = BytesMut::new();
        message.encode(&connection.context(), &mut octets).expect("only an UPDATE can be too long");
        self.counters.sent += 1;
        self.actions.push_back(Action::Send(connection.id, octets.freeze()));
    }

    /// Tells of a change of state, once it has happened.
    fn note_state(&mut self, now: Instant) {
        let furthest = self.connections().map(|connection| match connection.phase {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm(_) => State::OpenConfirm,
            Phase::Established(_) => State::Established,
        });
        let to = furthest.max().unwrap_or(match (self.effort, self.dial) {
            (Effort::Stopped | Effort::Pausing(_), _) => State::Idle,
            (Effort::Running, Dial::Until(_)) => State::Connect,
            (Effort::Running, Dial::No | Dial::At(_)) => State::Active,
        });
        let reason = self.cause.take();
        if to != self.state {
            let from = std::mem::replace(&mut self.state, to);
            self.since = now;
            self.actions.push_back(Action::Transition { from, to, reason });
        }
    }
}

impl StopReason {
    /// What to tell the peer; `None` is nothing. `hard` is whether the peer would otherwise keep the routes (RFC 8538 §5).
    fn notification(&self, hard: bool) -> Option<Notification> {
        let (notification, forget) = match self {
            Self::Restart => return None,
            Self::Shutdown(None) => (Notification::ADMINISTRATIVE_SHUTDOWN, true),
            Self::Shutdown(Some(words)) => (Notification::shutdown(words), true),
            Self::Reset => (Notification::ADMINISTRATIVE_RESET, false),
            Self::Deconfigured => (Notification::PEER_DECONFIGURED, true),
            Self::ConfigurationChange => (Notification::CONFIGURATION_CHANGE, false),
            Self::TooManyPrefixes => (Notification::MAXIMUM_PREFIXES, true),
        };
        Some(if hard && forget { notification.into_hard_reset() } else { notification })
    }
}
