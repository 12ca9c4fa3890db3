//! Why a session ends, as its two ends tell each other (RFC 4271 §4.5), and the words operators read for it.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::iana::ErrorCode;
use crate::octets::Reader;

/// The body of a NOTIFICATION message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Error code (RFC 4271 §4.5).
    pub code: ErrorCode,
    /// Error subcode; its meaning depends on the code.
    pub subcode: u8,
    /// What the codes are about, in a format of their own.
    pub data: Bytes,
}

impl Notification {
    /// Code 4: the peer was silent for the whole hold time (RFC 4271 §6.5).
    pub const HOLD_TIMER_EXPIRED: Self = Self::new(ErrorCode::HoldTimerExpired, 0);
    /// Code 6/1 (RFC 4486).
    pub const MAXIMUM_PREFIXES: Self = Self::new(ErrorCode::Cease, 1);
    /// Code 6/2 (RFC 4486); with words: [`Notification::shutdown`].
    pub const ADMINISTRATIVE_SHUTDOWN: Self = Self::new(ErrorCode::Cease, 2);
    /// Code 6/3 (RFC 4486).
    pub const PEER_DECONFIGURED: Self = Self::new(ErrorCode::Cease, 3);
    /// Code 6/4 (RFC 4486).
    pub const ADMINISTRATIVE_RESET: Self = Self::new(ErrorCode::Cease, 4);
    /// Code 6/5 (RFC 4486).
    pub const CONNECTION_REJECTED: Self = Self::new(ErrorCode::Cease, 5);
    /// Code 6/6 (RFC 4486).
    pub const CONFIGURATION_CHANGE: Self = Self::new(ErrorCode::Cease, 6);
    /// Code 6/7 (RFC 4271 §6.8, RFC 4486).
    pub const COLLISION: Self = Self::new(ErrorCode::Cease, 7);
    /// Code 6/8 (RFC 4486).
    pub const OUT_OF_RESOURCES: Self = Self::new(ErrorCode::Cease, 8);

    /// The subcode of Cease that asks for a reset without graceful restart (RFC 8538 §3).
    const HARD_RESET: u8 = 9;

    /// A NOTIFICATION without data.
    pub const fn new(code: ErrorCode, subcode: u8) -> Self {
        Self { code, subcode, data: Bytes::new() }
    }

    /// The same NOTIFICATION with `data`.
    #[must_use]
    pub fn with_data(self, data: impl Into<Bytes>) -> Self {
        Self { data: data.into(), ..self }
    }

    /// Administrative shutdown (6/2) with a message for the peer's operator, cut to 255 octets of UTF-8 (RFC 9003 §2).
    pub fn shutdown(communication: &str) -> Self {
        let mut end = communication.len().min(255);
        while !communication.is_char_boundary(end) {
            end -= 1;
        }
        let text = communication.get(..end).unwrap_or_default().as_bytes();
        let mut data = BytesMut::with_capacity(text.len() + 1);
        data.put_u8(u8::try_from(text.len()).expect("the text was cut to 255 octets"));
        data.put_slice(text);
        Self::ADMINISTRATIVE_SHUTDOWN.with_data(data.freeze())
    }

    /// What the peer's operator wrote with a shutdown or reset, if anything legible (RFC 9003 §2).
    pub fn communication(&self) -> Option<&str> {
        if self.code != ErrorCode::Cease || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let text = Reader::new(&self.data).part_u8()?.rest();
        std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
    }

    /// This NOTIFICATION wrapped so that the peer keeps no routes for it (RFC 8538 §3.1).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = BytesMut::with_capacity(2 + self.data.len());
        data.put_u8(self.code.into());
        data.put_u8(self.subcode);
        data.put_slice(&self.data);
        Self::new(ErrorCode::Cease, Self::HARD_RESET).with_data(data.freeze())
    }

    /// Whether the sender asks for its routes to be dropped, graceful restart or not (RFC 8538 §3.1).
    pub fn is_hard_reset(&self) -> bool {
        self.code == ErrorCode::Cease && self.subcode == Self::HARD_RESET
    }

    /// What is wrapped in a Hard Reset; itself if it is none.
    pub fn inner(&self) -> Self {
        match (self.is_hard_reset(), self.data.first(), self.data.get(1)) {
            (true, Some(code), Some(subcode)) => {
                Self { code: (*code).into(), subcode: *subcode, data: self.data.slice(2..) }
            }
            _ => self.clone(),
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut octets = Reader::new(body);
        let (code, subcode) = (octets.u8()?.into(), octets.u8()?);
        Some(Self { code, subcode, data: Bytes::copy_from_slice(octets.rest()) })
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.code.into());
        out.put_u8(self.subcode);
        // A NOTIFICATION never exceeds 4096 octets; what does not fit is only an explanation.
        out.put_slice(self.data.get(..4096 - 21).unwrap_or(&self.data));
    }
}

/// The words that Calico's status shows for a pair of codes.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = u8::from(self.code);
        let text = match (code, self.subcode) {
            (1, 0) => "Invalid message header",
            (1, 1) => "Connection not synchronized",
            (1, 2) => "Bad message length",
            (1, 3) => "Bad message type",
            (2, 0) => "Invalid OPEN message",
            (2, 1) => "Unsupported version number",
            (2, 2) => "Bad peer AS",
            (2, 3) => "Bad BGP identifier",
            (2, 4) => "Unsupported optional parameter",
            (2, 5) => "Authentication failure",
            (2, 6) => "Unacceptable hold time",
            (2, 7) => "Required capability missing",
            (2, 8) => "No supported AFI/SAFI",
            (3, 0) => "Invalid UPDATE message",
            (3, 1) => "Malformed attribute list",
            (3, 2) => "Unrecognized well-known attribute",
            (3, 3) => "Missing mandatory attribute",
            (3, 4) => "Invalid attribute flags",
            (3, 5) => "Invalid attribute length",
            (3, 6) => "Invalid ORIGIN attribute",
            (3, 7) => "AS routing loop",
            (3, 8) => "Invalid NEXT_HOP attribute",
            (3, 9) => "Optional attribute error",
            (3, 10) => "Invalid network field",
            (3, 11) => "Malformed AS_PATH",
            (4, 0) => "Hold timer expired",
            (5, 0) => "Finite state machine error",
            (5, 1) => "Unexpected message in OpenSent state",
            (5, 2) => "Unexpected message in OpenConfirm state",
            (5, 3) => "Unexpected message in Established state",
            (6, 0) => "Cease",
            (6, 1) => "Maximum number of prefixes reached",
            (6, 2) => "Administrative shutdown",
            (6, 3) => "Peer de-configured",
            (6, 4) => "Administrative reset",
            (6, 5) => "Connection rejected",
            (6, 6) => "Other configuration change",
            (6, 7) => "Connection collision resolution",
            (6, 8) => "Out of Resources",
            (6, 9) => "Hard reset",
            (6, 10) => "BFD session down",
            (7, 0) => "Invalid ROUTE-REFRESH message",
            (7, 1) => "Invalid ROUTE-REFRESH message length",
            (code, subcode) => return write!(f, "Unknown error {code}.{subcode}"),
        };
        f.write_str(text)?;
        match self.is_hard_reset() && self.data.len() >= 2 {
            true => write!(f, ": {}", self.inner()),
            false => match self.communication() {
                Some(words) => write!(f, ": {}", words.escape_debug()),
                None => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_carries_words_cut_at_a_character() {
        let long = "ä".repeat(200);
        let sent = Notification::shutdown(&long);
        assert_eq!(sent.data.len(), 255, "a length octet and 127 characters of two octets");
        assert_eq!(sent.communication(), Some("ä".repeat(127).as_str()));
        assert_eq!(Notification::shutdown("moving\u{1b}").to_string(), "Administrative shutdown: moving\\u{1b}");
        assert_eq!(Notification::ADMINISTRATIVE_SHUTDOWN.to_string(), "Administrative shutdown");
    }

    #[test]
    fn a_hard_reset_wraps_what_it_is_for() {
        let inner = Notification::shutdown("drain");
        let hard = inner.clone().into_hard_reset();
        assert!(hard.is_hard_reset() && !inner.is_hard_reset());
        assert_eq!(hard.inner(), inner);
        assert_eq!(hard.to_string(), "Hard reset: Administrative shutdown: drain");
        let nested = (0..100).fold(hard, |hard, _| hard.into_hard_reset());
        assert!(nested.to_string().starts_with("Hard reset: Hard reset"));
        assert_eq!(Notification::new(ErrorCode::Unknown(9), 7).to_string(), "Unknown error 9.7");
    }
}
