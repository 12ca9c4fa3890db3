//! What does the speaker say of itself? The values behind the status sockets and the log.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use bgp_plan::sessions::Origin;

/// BIRD's word for a session as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Cannot run as configured.
    Down,
    /// Not established.
    Start,
    /// Established, but routes are held until restart recovery ends.
    Wait,
    /// Established.
    Up,
}

impl State {
    /// All of them, for gauges that show zeroes too.
    pub const ALL: [Self; 4] = [Self::Down, Self::Start, Self::Wait, Self::Up];

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Start => "start",
            Self::Wait => "wait",
            Self::Up => "up",
        }
    }
}

/// How many prefixes went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Prefixes {
    /// Paths that the peer advertises now.
    pub received: u64,
    /// Of those, the ones that passed import.
    pub accepted: u64,
    /// Of those, the ones from before its restart.
    pub stale: u64,
    /// Prefixes that we advertise to the peer now.
    pub advertised: u64,
}

/// How many messages went which way since the speaker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Messages {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// What is agreed with an established peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Our address on the connection.
    pub local_address: Option<IpAddr>,
    /// Seconds of silence after which the session is lost; 0 is never.
    pub hold_time: u16,
    /// Seconds between keepalives; 0 is never.
    pub keepalive: u16,
    /// Capabilities that both sides have, in BIRD's words.
    pub capabilities: Vec<String>,
    /// The peer's restart time in seconds, if it can restart gracefully.
    pub peer_restart_time: Option<u16>,
}

/// How it is about the password of a session that has one configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordStatus {
    /// It is known and in use.
    Set,
    /// It cannot be had, so the session is down: why.
    Missing(String),
}

/// What happened to a session since the speaker started, resets by its configuration included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Times it came up.
    pub established: u64,
    /// Times it was lost.
    pub flaps: u64,
    /// Times that a change of the configuration or of the password made us reset it.
    pub resets: u64,
    /// Times that a change of filters or attributes was applied while it stayed.
    pub live_changes: u64,
    /// Times that the peer asked to be told everything again.
    pub refreshes: u64,
    /// Faulty path attributes that were received (RFC 7606).
    pub faults: u64,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionStatus {
    /// Its name.
    pub name: String,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// Where it comes from, in words.
    #[serde(rename = "type", serialize_with = "origin_words")]
    pub origin: Origin,
    /// BIRD's word for it as a whole.
    pub state: State,
    /// The state of its FSM, or `Passive`.
    pub fsm: &'static str,
    /// Since when it is in this state.
    pub since: Timestamp,
    /// For how many seconds it is established.
    pub uptime_seconds: Option<u64>,
    /// The last error, kept until the session is next established.
    pub last_error: Option<String>,
    /// What may help.
    pub remedy: Option<&'static str>,
    /// Code and subcode of the last NOTIFICATION, sent or received, as `2.2`; `None` for other errors.
    pub last_error_code: Option<String>,
    /// Our AS number.
    pub local_as: u32,
    /// The peer's AS number.
    pub peer_as: u32,
    /// Whether we wait for the peer to dial.
    pub passive: bool,
    /// Whether the peer is a client of ours as a route reflector.
    pub client: bool,
    /// What is agreed, while established.
    pub agreement: Option<Agreement>,
    /// Prefixes.
    pub prefixes: Prefixes,
    /// Messages.
    pub messages: Messages,
    /// The address that we dial from, if one is set.
    pub source: Option<IpAddr>,
    /// Hops that the peer may be away, where TTL security is on.
    pub ttl_security: Option<u8>,
    /// The BGPFilters in force, in order.
    pub filters: Vec<String>,
    /// How it is about the password, where one is configured.
    pub password: Option<PasswordStatus>,
    /// What happened to it since the speaker started.
    #[serde(flatten)]
    pub tally: Tally,
    /// Whether its paths are kept, stale, while the peer restarts.
    pub stale: bool,
}

impl SessionStatus {
    /// The INFO column: the FSM's word and, until the next success, the last error.
    pub fn info(&self) -> String {
        let error = self.last_error.as_deref().unwrap_or_default();
        match self.state {
            State::Down => error.to_owned(),
            _ => format!("{:<14}{error}", self.fsm),
        }
    }
}

fn origin_words<S: serde::Serializer>(origin: &Origin, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(origin.words())
}

/// How far start-up's recovery has come (RFC 4724 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// Sessions whose End-of-RIB is awaited.
    pub waiting_for: Vec<String>,
    /// Seconds until it ends anyway.
    pub remaining_seconds: u64,
    /// Seconds it may take at most.
    pub limit_seconds: u64,
}

/// The kernel's side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelStatus {
    /// Routes of ours that the kernel holds.
    pub installed: usize,
    /// Prefixes whose next hop cannot be resolved, so that they are held back.
    pub held_back: usize,
    /// Prefixes that somebody else routes on this node.
    pub elsewhere: usize,
    /// Routes that the kernel refuses; they are tried again and again.
    pub refused: usize,
    /// Whether the kernel holds what it should, but for single routes that it refuses.
    pub in_sync: bool,
    /// What the kernel said last, if it refuses.
    pub error: Option<String>,
}

/// The speaker as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// The node's name.
    pub node: String,
    /// Our version and commit.
    pub version: &'static str,
    /// BGP identifier, once it is known.
    pub router_id: Option<Ipv4Addr>,
    /// AS number.
    pub local_as: u32,
    /// Now.
    pub now: Timestamp,
    /// When the speaker started.
    pub started: Timestamp,
    /// When sessions were last changed by configuration.
    pub reconfigured: Timestamp,
    /// Whether the datastore's snapshot is complete.
    pub datastore_in_sync: bool,
    /// Why the datastore does not answer, if it does not.
    pub datastore_trouble: Option<String>,
    /// Listeners.
    pub listening: Vec<SocketAddr>,
    /// Start-up's recovery, while it lasts.
    pub recovery: Option<Recovery>,
    /// The kernel's side.
    pub kernel: KernelStatus,
    /// This node's advertised blocks.
    pub blocks: Vec<IpNet>,
    /// The service prefixes that this node originates.
    pub services: Vec<IpNet>,
    /// How often policies were exchanged while sessions stayed, since the start.
    pub policy_exchanges: u64,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

impl Overview {
    /// What can be said before the datastore was reached: that, and why.
    pub fn without_datastore(node: &str, trouble: Option<String>) -> Self {
        let now = Timestamp::now();
        let reason = trouble.as_deref().unwrap_or("connecting");
        Self {
            node: node.to_owned(),
            version: calico_version::LONG,
            router_id: None,
            local_as: 0,
            now,
            started: now,
            reconfigured: now,
            datastore_in_sync: false,
            warnings: vec![format!("waiting for the datastore: {reason}")],
            datastore_trouble: trouble,
            listening: Vec::new(),
            recovery: None,
            kernel: KernelStatus::default(),
            blocks: Vec::new(),
            services: Vec::new(),
            policy_exchanges: 0,
        }
    }
}

/// One path of one prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathStatus {
    /// The prefix.
    pub prefix: IpNet,
    /// Name of the session it came by; for our own BIRD's names `static1`, `kernel1`, `direct1`.
    pub source: String,
    /// What an own route is for: block, service, workload, remote, kernel or direct.
    pub kind: Option<&'static str>,
    /// The peer's address; `None` for our own.
    pub peer: Option<IpAddr>,
    /// Its path identifier (RFC 7911); 0 without ADD-PATH.
    pub path_id: u32,
    /// Whether it is the best, or used beside it.
    pub best: bool,
    /// What became of it in the decision, in words.
    pub standing: String,
    /// The advertised next hop; `None` for our own.
    pub next_hop: Option<IpAddr>,
    /// How the kernel reaches it; `None` if it does not.
    pub via: Option<Via>,
    /// The outgoing interface of an own route that has one.
    pub interface: Option<String>,
    /// Whether the kernel holds a route for it.
    pub installed: bool,
    /// Why the kernel holds none, though the path is the best.
    pub not_installed: Option<String>,
    /// Whether the peer is restarting and this is from before.
    pub stale: bool,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// The AS_PATH as text.
    pub as_path: String,
    /// `IGP`, `EGP` or `INCOMPLETE`.
    pub origin: &'static str,
    /// Communities of all kinds as text.
    pub communities: Vec<String>,
    /// ORIGINATOR_ID.
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST, the nearest reflector first.
    pub cluster_list: Vec<Ipv4Addr>,
    /// Names of the sessions on which it is advertised.
    pub advertised_to: Vec<String>,
    /// For our own: sessions of its family on which it is not advertised, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub not_advertised_to: BTreeMap<String, String>,
}

/// What becomes of one address of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    /// Namespace and name, with a slash between them.
    pub service: String,
    /// The address.
    pub address: IpNet,
    /// Whether this node originates it.
    pub advertised: bool,
    /// What decided that, in words.
    pub reason: String,
}

/// A gateway and the interface towards it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Via {
    /// The gateway.
    pub gateway: IpAddr,
    /// The interface.
    pub interface: String,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The overview alone.
    Status,
    /// And the sessions.
    Sessions,
    /// And the paths that are selected.
    Routes(Selection),
}

/// Which paths are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only of the prefixes equal to or inside this; `None` is all.
    pub prefix: Option<IpNet>,
    /// Of the prefixes equal to or around `prefix` instead.
    pub around: bool,
    /// Also to whom they are advertised.
    pub audience: bool,
}

impl Selection {
    /// All paths, without their audience.
    pub const ALL: Self = Self { prefix: None, around: false, audience: false };

    /// Whether the paths of a prefix are asked for.
    pub fn admits(&self, prefix: &IpNet) -> bool {
        self.prefix.is_none_or(|wanted| match self.around {
            true => prefix.contains(&wanted),
            false => wanted.contains(prefix),
        })
    }
}

/// The answer to a [`Question`]; what was not asked is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The overview.
    pub overview: Overview,
    /// The sessions, by name.
    pub sessions: Vec<SessionStatus>,
    /// The paths, by prefix, the best first.
    pub paths: Vec<PathStatus>,
    /// The services that have the selected address, if a single one is.
    pub services: Vec<ServiceStatus>,
}
