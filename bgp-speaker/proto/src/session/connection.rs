//! What is known of one TCP connection: how far its OPENs got, and its own timers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::{ConnectionId, Direction, Negotiated};
use crate::{Capability, Context, DecodeError, Message, message};

/// How long a peer that connected may keep its OPEN or KEEPALIVE to itself before its next connection takes the place.
const MUTE: Duration = Duration::from_secs(5);

/// A connection on which our OPEN was sent.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) direction: Direction,
    pub(super) local: IpAddr,
    /// Since when there is this connection.
    since: Instant,
    /// What our OPEN offered.
    pub(super) sent: Vec<Capability>,
    pub(super) phase: Phase,
    /// When silence becomes an error.
    pub(super) hold: Option<Instant>,
    /// When the next KEEPALIVE is due, from the moment that the peer's OPEN is accepted.
    pub(super) keepalive: Option<Instant>,
    /// The beginning of a message whose end is still to come.
    buffer: BytesMut,
}

/// How far a connection got; each phase owns what is only true in it.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    OpenSent,
    OpenConfirm(Arc<Negotiated>),
    Established(Arc<Negotiated>),
}

impl Connection {
    pub(super) fn new(
        (id, direction): (ConnectionId, Direction),
        local: IpAddr,
        sent: Vec<Capability>,
        since: Instant,
    ) -> Self {
        let (phase, buffer) = (Phase::OpenSent, BytesMut::new());
        Self { id, direction, local, since, sent, phase, hold: None, keepalive: None, buffer }
    }

    /// Whether the peer connected and did not come to its KEEPALIVE, for so long that it can hardly be there any more.
    pub(super) fn is_mute(&self, now: Instant) -> bool {
        let undecided = matches!(self.phase, Phase::OpenSent | Phase::OpenConfirm(_));
        undecided && now.saturating_duration_since(self.since) >= MUTE
    }

    pub(super) fn negotiated(&self) -> Option<&Arc<Negotiated>> {
        match &self.phase {
            Phase::OpenSent => None,
            Phase::OpenConfirm(negotiated) | Phase::Established(negotiated) => Some(negotiated),
        }
    }

    pub(super) fn context(&self) -> Context {
        self.negotiated().map(|negotiated| negotiated.context).unwrap_or_default()
    }

    /// How long silence is borne: as negotiated, before that as `proposed`, and never for ever before the OPEN.
    pub(super) fn hold_time(&self, proposed: Option<Duration>) -> Option<Duration> {
        match self.negotiated() {
            Some(negotiated) => negotiated.hold_time.duration(),
            None => Some(proposed.unwrap_or(Duration::from_secs(240))), // RFC 4271 §8.2.2: a large value
        }
    }

    /// Puts what was kept of an earlier chunk in front of this one.
    pub(super) fn gather(&mut self, chunk: Bytes) -> Bytes {
        if self.buffer.is_empty() {
            return chunk;
        }
        self.buffer.extend_from_slice(&chunk);
        self.buffer.split().freeze()
    }

    /// Takes the next whole message off `octets`; without one, keeps the rest for later.
    pub(super) fn next(&mut self, octets: &mut Bytes) -> Option<Result<Received, DecodeError>> {
        let context = self.context();
        match message::frame(octets, context.maximum()) {
            Ok(Some(length)) => {
                let decoded = octets.get(..length).map(|message| Message::decode(message, &context));
                octets.advance(length);
                decoded
            }
            Ok(None) => {
                self.buffer.extend_from_slice(octets);
                octets.clear();
                None
            }
            Err(error) => Some(Err(error.into())),
        }
    }
}

/// A message with the faults of its attributes.
pub(super) type Received = (Message, Vec<crate::AttributeFault>);
