//! BGP without sockets, clocks or a datastore: what octets mean, how a session lives, which path is best, whom to tell.
//!
//! Three layers, each usable without the next:
//!
//! - **codec**: [`frame`], [`Message::decode`], [`Message::encode`] under a [`Context`] of negotiated facts. Errors are in the
//!   signature as RFC 7606 classes them: `Err` resets the session ([`Notification::from`]), an [`AttributeFault`] does not.
//! - **session**: [`Session::handle`] takes an [`Event`] at an instant; [`Session::poll`] yields each [`Action`] to perform;
//!   [`Session::deadline`] says when to come back with [`Event::Timeout`]. Octets go in as TCP delivers them.
//! - **rib**: [`Rib`] takes updates from peers and own routes; it yields changes of best paths for the kernel
//!   ([`Rib::take_best_changes`]) and encoded messages for each peer ([`Rib::poll_output`]).
//!
//! A shell connects them:
//!
//! | [`Action`] | what the shell does |
//! |---|---|
//! | `Connect`, `Abandon`, `Send`, `Close` | to its sockets |
//! | `Up` | [`Rib::peer_up`], remembers the connection for the RIB's output |
//! | `Down` | [`Rib::peer_down`] with `keep` |
//! | `Update` | [`Rib::update`] |
//! | `EndOfRib` | [`Rib::end_of_rib`] |
//! | `RefreshRequested` | [`Rib::refresh`] |
//! | `RefreshBegins` | [`Rib::mark_stale`] |
//! | `Sweep` | [`Rib::sweep_stale`] |
//! | `Faults`, `Transition` | log, count |
//!
//! After each batch of events: [`Rib::take_best_changes`] to the kernel, [`Rib::take_next_hops`] to the resolver (which
//! answers by [`Rib::set_next_hops`]), and for each of [`Rib::peers_with_output`], while its socket takes more,
//! [`Rib::poll_output`]. After a restart, [`Rib::set_deferral`] until [`Rib::awaited`] is empty or patience ends, then
//! [`Event::Recovered`] to the sessions. `examples/speaker.rs` is all of it with one blocking socket.
#![forbid(unsafe_code)]

mod attribute;
mod capability;
pub mod iana;
pub mod message;
mod notification;
mod number;
mod octets;
mod open;
mod prefix;
pub mod rib;
mod route_refresh;
pub mod session;
mod update;

pub use self::attribute::*;
pub use self::capability::{AddPath, Capability, GracefulRestart as GracefulRestartCapability, RestartFamily};
pub use self::message::{Context, DecodeError, HeaderError, Message, frame};
pub use self::notification::Notification;
pub use self::number::{Asn, ClusterId, Families, Family, HoldTime, RouterId, UnacceptableHoldTime, ZeroRouterId};
pub use self::open::{Open, OpenError};
pub use self::prefix::{Nlri, Prefix};
pub use self::rib::{
    Best, BestChange, Candidate, Exclusion, LocalKind, LocalRoute, NextHopMode, PathView, PeerConfig, PeerCounts,
    PeerId, Policy, Reachability, Rib, RibConfig, Source, Standing, Step, Verdict,
};
pub use self::route_refresh::{RefreshKind, RouteRefresh};
pub use self::session::{
    Action, ConnectionId, Counters, Direction, Event, GracefulRestart, Negotiated, Reason, Session, SessionConfig,
    State, StopReason,
};
pub use self::update::{Advertisement, EncodeError, Update, UpdateError};
