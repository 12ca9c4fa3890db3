//! What does the speaker keep of one peer? The core's session, its connections, and what status says of it.

use std::collections::BTreeMap;
use std::time::Instant;

use bgp_proto::{
    Asn, Capability, ConnectionId, Families, Family, GracefulRestart, Negotiated, Reason, RouterId, Session,
    State as Fsm,
};
use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::status::{Agreement, Messages, Prefixes, SessionStatus, State};
use crate::transport::{Connection, DialId};
use crate::words;
use bgp_plan::sessions::SessionConfig;

/// The first dial comes so soon after a session is made: time enough for a peer that starts along with us to listen.
const CONNECT_DELAY: std::time::Duration = std::time::Duration::from_millis(500);

/// One peer.
#[derive(Debug)]
pub struct Peer {
    /// How the session is configured.
    pub config: SessionConfig,
    /// The session's state machine.
    pub session: Session,
    /// Its connections: at most one pending in each direction, or the one in use and a newcomer.
    pub connections: BTreeMap<ConnectionId, Connection>,
    /// The attempt to connect that is under way.
    pub dialling: Option<(DialId, JoinHandle<()>)>,
    /// When the session wants to be woken, as it is registered.
    pub deadline: Option<Instant>,
    /// Why it is not started at all.
    pub refused: Option<String>,
    /// Families whose End-of-RIB came since the session is up.
    pub complete: Families,
    /// Octets that wait for room in the writer.
    pub waiting: bool,
    /// UPDATE messages sent.
    pub updates_sent: u64,
    /// Since when it is in its state.
    since: Timestamp,
    /// When it was established last, while it is.
    up_since: Option<Timestamp>,
    flaps: u64,
    state: State,
    /// The error that was logged last, so that retries do not repeat it.
    logged: Option<String>,
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
    /// A peer whose session is not started yet.
    pub fn new(config: SessionConfig, identity: Identity, now: Instant, clock: Timestamp) -> Self {
        let session = Session::new(core_config(&config, identity), now);
        let refused = config.password.is_some().then(|| {
            // Departs from Calico, which goes on without the password that was asked for.
            "Error: Password is configured and this version cannot read it".to_owned()
        });
        let state = if refused.is_some() { State::Down } else { State::Start };
        Self {
            config,
            session,
            connections: BTreeMap::new(),
            dialling: None,
            deadline: None,
            refused,
            complete: Families::NONE,
            waiting: false,
            updates_sent: 0,
            since: clock,
            up_since: None,
            flaps: 0,
            state,
            logged: None,
        }
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
        self.waiting = false;
        self.up_since = None;
        self.flaps += 1;
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
        let last_error = self.refused.clone().or_else(|| self.session.last_error().map(Reason::to_string));
        let up_for = |since: Timestamp| u64::try_from(clock.as_second() - since.as_second()).unwrap_or(0);
        SessionStatus {
            name: self.config.name.clone(),
            peer: self.config.peer,
            origin: self.config.origin,
            state: self.state,
            fsm: self.fsm(),
            since: self.since,
            uptime_seconds: self.up_since.map(up_for),
            remedy: last_error.as_deref().and_then(words::remedy),
            last_error,
            local_as: self.config.local_as,
            peer_as: self.config.peer_as,
            passive: self.config.passive,
            client: self.config.client,
            agreement: self.session.negotiated().map(|negotiated| agreement(negotiated, &self.config)),
            prefixes,
            messages: Messages { received: counters.received, sent: counters.sent + self.updates_sent },
            flaps: self.flaps,
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
