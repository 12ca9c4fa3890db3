//! What does the speaker keep of one peer? The core's session, its connections, and what status says of it.

use std::collections::BTreeMap;
use std::time::Instant;

use bgp_plan::passwords::{NoPassword, Password};
use bgp_plan::sessions::SessionConfig;
use bgp_proto::{
    Asn, Capability, ConnectionId, Families, Family, GracefulRestart, Negotiated, Reason, RouterId, Session,
    State as Fsm,
};
use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::status::{Agreement, Messages, PasswordStatus, Prefixes, SessionStatus, State, Tally};
use crate::transport::{Connection, DialId, Md5Key, Packets};
use crate::words;

/// The first dial comes so soon after a session is made: time enough for a peer that starts along with us to listen.
const CONNECT_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

/// How long faulty attributes of a peer are not complained of again.
const COMPLAINT: std::time::Duration = std::time::Duration::from_secs(10);

/// How it is about a session's password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// None is configured.
    None,
    /// It is known.
    Set(Password),
    /// One is configured and cannot be had. Departs from Calico, which goes on without the password that was asked for.
    Missing(NoPassword),
}

impl Key {
    /// Whether it takes another session to go to this one. Another reason for there being none is no change.
    pub fn is_another(&self, old: &Self) -> bool {
        match (self, old) {
            (Self::Missing(reason), Self::Missing(before)) => reason != before,
            _ => self != old,
        }
    }
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    /// How the session is configured.
    pub config: SessionConfig,
    /// Its password.
    pub key: Key,
    /// Whether the session was told to be up.
    pub started: bool,
    /// The session's state machine.
    pub session: Session,
    /// Its connections: at most one pending in each direction, or the one in use and a newcomer.
    pub connections: BTreeMap<ConnectionId, Connection>,
    /// The attempt to connect that is under way.
    pub dialling: Option<(DialId, JoinHandle<()>)>,
    /// When the session wants to be woken, as it is registered.
    pub deadline: Option<Instant>,
    /// Families whose End-of-RIB came since the session is up.
    pub complete: Families,
    /// UPDATE messages sent.
    pub updates_sent: u64,
    /// Since when it is in its state.
    since: Timestamp,
    /// When it was established last, while it is.
    up_since: Option<Timestamp>,
    /// What happened before the session was made anew, and here.
    tally: Tally,
    state: State,
    /// The error that was logged last, so that retries do not repeat it.
    logged: Option<String>,
    /// When its faulty attributes were last complained of.
    complained: Option<Instant>,
}

/// The facts of a process that all its sessions share.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Our BGP identifier.
    pub router_id: RouterId,
    /// Whether start-up's recovery lasts: the R bit.
    pub recovering: bool,
    /// Families whose forwarding outlived the last process: the F bit.
    pub preserved: Families,
}

impl Peer {
    /// A peer whose session is not started yet; `tally` is what happened to the session in whose place it is.
    pub fn new(
        config: SessionConfig,
        identity: Identity,
        key: Key,
        tally: Tally,
        now: Instant,
        clock: Timestamp,
    ) -> Self {
        let session = Session::new(core_config(&config, identity), now);
        let state = if matches!(key, Key::Missing(_)) { State::Down } else { State::Start };
        Self {
            config,
            key,
            started: false,
            session,
            connections: BTreeMap::new(),
            dialling: None,
            deadline: None,
            complete: Families::NONE,
            updates_sent: 0,
            since: clock,
            up_since: None,
            tally,
            state,
            logged: None,
            complained: None,
        }
    }

    /// Why the session is not started at all.
    pub fn refused(&self) -> Option<&NoPassword> {
        match &self.key {
            Key::Missing(reason) => Some(reason),
            Key::None | Key::Set(_) => None,
        }
    }

    /// What signs its packets.
    pub fn md5_key(&self) -> Option<Md5Key> {
        match &self.key {
            Key::Set(password) => Some(Md5Key::new(password.octets())),
            Key::None | Key::Missing(_) => None,
        }
    }

    /// What is special about its packets.
    pub fn packets(&self) -> Packets {
        Packets { ttl_security: self.config.ttl_security }
    }

    /// Takes over a configuration that needs no new session.
    pub fn change(&mut self, config: SessionConfig, identity: Identity, now: Instant) {
        self.config = config;
        self.tally.live_changes += 1;
        self.session.reconfigure(core_config(&self.config, identity), now);
    }

    /// The peer asks to be told everything again.
    pub fn was_asked_to_refresh(&mut self) {
        self.tally.refreshes += 1;
    }

    /// What happened to the session, and to those in whose place it is.
    pub fn tally(&self) -> Tally {
        let counters = self.session.counters();
        let tally = self.tally;
        Tally { established: tally.established + counters.established, faults: tally.faults + counters.faults, ..tally }
    }

    /// The family that the session carries.
    pub fn family(&self) -> Family {
        Family::of(self.config.peer.ip())
    }

    /// Whether the session is established.
    pub fn is_up(&self) -> bool {
        self.session.state() == Fsm::Established
    }

    /// BIRD's word for the session as a whole.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the peer told everything it has since it is up.
    pub fn is_complete(&self) -> bool {
        self.complete.contains(self.family())
    }

    /// Whether it sends End-of-RIB at all, as far as is known: who does not restart gracefully need not.
    pub fn sends_end_of_rib(&self) -> bool {
        self.session.negotiated().is_some_and(|negotiated| negotiated.graceful_restart.is_some())
    }

    /// The session came up.
    pub fn came_up(&mut self, clock: Timestamp) {
        self.complete = Families::NONE;
        self.up_since = Some(clock);
        self.since = clock;
        self.state = State::Up;
        self.logged = None;
    }

    /// The session went down.
    pub fn went_down(&mut self, clock: Timestamp) {
        self.complete = Families::NONE;
        self.up_since = None;
        self.tally.flaps += 1;
        self.since = clock;
        self.state = State::Start;
    }

    /// Whether an error is another than the one that was logged last.
    pub fn is_news(&mut self, error: &str) -> bool {
        let news = self.logged.as_deref() != Some(error);
        if news {
            self.logged = Some(error.to_owned());
        }
        news
    }

    /// Whether a faulty attribute is to be complained of: once in a while, for who sends one sends many.
    pub fn may_complain(&mut self, now: Instant) -> bool {
        let may = self.complained.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAINT);
        if may {
            self.complained = Some(now);
        }
        may
    }

    /// The FSM's word as BIRD shows it.
    fn fsm(&self) -> &'static str {
        match self.session.state() {
            Fsm::Idle | Fsm::Active if self.config.passive => "Passive",
            Fsm::Idle => "Idle",
            Fsm::Connect => "Connect",
            Fsm::Active => "Active",
            Fsm::OpenSent => "OpenSent",
            Fsm::OpenConfirm => "OpenConfirm",
            Fsm::Established => "Established",
        }
    }

    /// What status says of it.
    pub fn status(&self, clock: Timestamp, prefixes: Prefixes) -> SessionStatus {
        let counters = self.session.counters();
        let last_error = match &self.key {
            Key::Missing(reason) => Some(format!("Error: {reason}")),
            Key::None | Key::Set(_) => self.session.last_error().map(Reason::to_string),
        };
        let code = match self.session.last_error() {
            Some(Reason::Received(notification) | Reason::Sent(notification)) => {
                Some(format!("{}.{}", u8::from(notification.code), notification.subcode))
            }
            _ => None,
        };
        let up_for = |since: Timestamp| u64::try_from(clock.as_second() - since.as_second()).unwrap_or(0);
        SessionStatus {
            name: self.config.name.clone(),
            peer: self.config.peer,
            origin: self.config.origin,
            state: self.state,
            fsm: self.fsm(),
            since: self.since,
            uptime_seconds: self.up_since.map(up_for),
            remedy: last_error.as_deref().and_then(|error| words::remedy(error, matches!(self.key, Key::Set(_)))),
            last_error,
            last_error_code: code,
            local_as: self.config.local_as,
            peer_as: self.config.peer_as,
            passive: self.config.passive,
            client: self.config.client,
            agreement: self.session.negotiated().map(|negotiated| agreement(negotiated, &self.config)),
            prefixes,
            messages: Messages { received: counters.received, sent: counters.sent + self.updates_sent },
            source: self.config.source,
            ttl_security: self.config.ttl_security,
            filters: self.config.filters.clone(),
            password: match &self.key {
                Key::None => None,
                Key::Set(_) => Some(PasswordStatus::Set),
                Key::Missing(reason) => Some(PasswordStatus::Missing(reason.to_string())),
            },
            tally: self.tally(),
            stale: self.session.stale().contains(self.family()),
        }
    }
}

/// The core's configuration of a session.
fn core_config(config: &SessionConfig, identity: Identity) -> bgp_proto::SessionConfig {
    let family = Families::from(Family::of(config.peer.ip()));
    let (local_as, peer_as) = (Asn(config.local_as), Asn(config.peer_as));
    let restart = GracefulRestart {
        restart_time: config.restart_time,
        restarting: identity.recovering,
        preserved: identity.preserved.and(family),
        ..GracefulRestart::default()
    };
    bgp_proto::SessionConfig {
        passive: config.passive,
        keepalive: config.keepalive.map(|seconds| std::time::Duration::from_secs(seconds.into())),
        connect_delay: CONNECT_DELAY,
        families: family,
        // As Calico's speakers offer it: more than one path of a prefix, either way.
        add_path_receive: family,
        add_path_send: family,
        graceful_restart: Some(restart),
        seed: seed(config, identity.router_id),
        ..bgp_proto::SessionConfig::new(local_as, identity.router_id, config.peer.ip(), peer_as)
    }
}

/// A number that differs between the sessions of a node and between the nodes of a session.
fn seed(config: &SessionConfig, router_id: RouterId) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    (&config.name, router_id, std::process::id()).hash(&mut hasher);
    hasher.finish()
}

fn agreement(negotiated: &Negotiated, config: &SessionConfig) -> Agreement {
    let hold_time = negotiated.hold_time.seconds();
    let keepalive = config.keepalive.map_or(hold_time / 3, |keepalive| keepalive.min(hold_time / 3));
    let mut capabilities = Vec::new();
    let mut also = |present: bool, words: &str| {
        if present {
            capabilities.push(words.to_owned());
        }
    };
    let context = &negotiated.context;
    let offers = |wanted: fn(&Capability) -> bool| negotiated.received.iter().any(wanted);
    also(negotiated.route_refresh, "refresh");
    also(context.enhanced_refresh, "enhanced-refresh");
    let restart = negotiated.graceful_restart.as_ref();
    also(restart.is_some_and(|restart| restart.families.is_empty()), "restart-aware");
    also(restart.is_some_and(|restart| !restart.families.is_empty()), "restart-able");
    also(negotiated.notification_restart, "restart-notification");
    also(negotiated.long_lived_aware, "llgr-aware");
    also(context.four_octet_as && offers(|c| matches!(c, Capability::FourOctetAs(_))), "AS4");
    also(!context.add_path_receive.is_empty(), "add-path-rx");
    also(!context.add_path_send.is_empty(), "add-path-tx");
    also(context.extended_messages, "ext-messages");
    Agreement {
        router_id: negotiated.router_id.address(),
        local_address: Some(negotiated.local_address),
        hold_time,
        keepalive,
        capabilities,
        peer_restart_time: restart.map(|restart| restart.restart_time),
    }
}
