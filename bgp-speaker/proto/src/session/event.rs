//! What a session is told, and what it answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::{Negotiated, State};
use crate::{AttributeFault, Families, Family, Notification, Update};

/// A TCP connection, as the shell numbers them: never the same number twice for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer did, and we accepted.
    Incoming,
    /// We dialled.
    Outgoing,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Administrative: try to be up from now on.
    Start,
    /// Administrative: be down from now on.
    Stop(StopReason),
    /// A connection is there: accepted from the peer's address, or the outcome of [`Action::Connect`].
    Connected {
        /// Its number, new.
        connection: ConnectionId,
        /// Who opened it.
        direction: Direction,
        /// Our end's address: the next hop to send, unless one is configured.
        local: IpAddr,
    },
    /// What [`Action::Connect`] asked for failed; the text is the system's, such as `Connection refused`.
    ConnectFailed(String),
    /// The peer closed a connection (`None`), or it broke, with the system's text. Not told after [`Action::Close`].
    Closed {
        /// Which.
        connection: ConnectionId,
        /// The system's text, if it was an error.
        error: Option<String>,
    },
    /// Octets arrived, cut wherever they were: the session finds the messages.
    Received {
        /// On which connection.
        connection: ConnectionId,
        /// The octets.
        octets: Bytes,
    },
    /// The instant of [`Session::deadline`](super::Session::deadline) is reached.
    Timeout,
    /// Ask the peer for all its paths of this family again: import policy changed. Nothing if it cannot.
    Refresh(Family),
    /// The process has recovered from its restart: later OPENs have no R bit.
    Recovered,
}

/// Why a session is stopped, which decides what the peer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// We end and will be back: connections are closed without a word, so that the peer keeps the routes.
    Restart,
    /// An operator says so, perhaps with words for the peer's (Cease 6/2, RFC 9003).
    Shutdown(Option<String>),
    /// An operator wants it anew (Cease 6/4).
    Reset,
    /// The peer is no longer configured (Cease 6/3).
    Deconfigured,
    /// Its configuration changed so much that a new session takes over (Cease 6/6).
    ConfigurationChange,
    /// It sends more prefixes than it may (Cease 6/1).
    TooManyPrefixes,
}

/// What must be done now, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial the peer, and tell the outcome: [`Event::Connected`] or [`Event::ConnectFailed`].
    Connect,
    /// Give up dialling; an outcome that comes all the same is ignored (a connection is closed).
    Abandon,
    /// Write these octets.
    Send(ConnectionId, Bytes),
    /// Close the connection once what was to be written before is written. Nothing more is told about it.
    Close(ConnectionId),
    /// The session is up: the RIB may send to it on this connection.
    Up {
        /// The connection that won.
        connection: ConnectionId,
        /// What was agreed.
        negotiated: Arc<Negotiated>,
    },
    /// The session is down. Paths of the families in `keep` become stale, those of others go.
    Down {
        /// The families whose paths are kept as stale (RFC 4724 §4.2).
        keep: Families,
        /// Why.
        reason: Reason,
    },
    /// The peer advertises and withdraws.
    Update(Update),
    /// Attributes of the next update were faulty; for the log and the counters, what they cost is done already.
    Faults(Vec<AttributeFault>),
    /// The peer's initial advertisement of this family is complete. What is stale goes by [`Action::Sweep`].
    EndOfRib(Family),
    /// The peer asks for all our paths of this family again (RFC 2918).
    RefreshRequested(Family),
    /// The peer begins to send all its paths of this family again: mark them stale (RFC 7313 §4, BoRR).
    RefreshBegins(Family),
    /// Paths of this family that are still stale go: the peer has sent all it has, or was away for too long.
    Sweep(Family),
    /// The state changed.
    Transition {
        /// From this one.
        from: State,
        /// To this one.
        to: State,
        /// Why, if by an error.
        reason: Option<Reason>,
    },
}

/// Why a session, or an attempt at one, ended. Its text is what Calico's status shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The connection could not be made or broke; the system's text, or `Connection closed`.
    Socket(String),
    /// The peer sent this.
    Received(Notification),
    /// We sent this.
    Sent(Notification),
    /// The peer connected anew while we thought it connected: it restarted.
    PeerRestarted,
    /// We stopped without a word.
    Restart,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(text) => write!(f, "Socket: {text}"),
            Self::Received(notification) => write!(f, "Received: {notification}"),
            Self::Sent(notification) => write!(f, "BGP Error: {notification}"),
            Self::PeerRestarted => f.write_str("Error: Graceful restart"),
            Self::Restart => f.write_str("Error: Restart"),
        }
    }
}

/// What a session counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times the session came up.
    pub established: u64,
    /// Messages received, of any kind.
    pub received: u64,
    /// UPDATE messages received.
    pub updates_received: u64,
    /// Messages sent by the session itself: all but UPDATEs, which the RIB sends.
    pub sent: u64,
    /// Path attributes that were faulty (RFC 7606).
    pub faults: u64,
}
