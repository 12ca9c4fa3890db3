//! What travels on a session: the header that frames a message (RFC 4271 §4.1), and the kinds of message.

use bytes::{BufMut, Bytes, BytesMut};

use crate::attribute::AttributeFault;
use crate::iana::{ErrorCode, MessageType};
use crate::octets::Reader;
use crate::update::{self, EncodeError, UpdateError};
use crate::{Families, Family, Notification, Open, OpenError, RefreshKind, RouteRefresh, Update};

/// Octets of a message's header.
pub const HEADER: usize = 19;
/// The longest message without extended messages (RFC 4271 §4.1).
pub const MAXIMUM: usize = 4096;
/// The longest message with them (RFC 8654).
pub const MAXIMUM_EXTENDED: usize = 65535;

/// A message, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Begins a session.
    Open(Open),
    /// Advertises and withdraws.
    Update(Update),
    /// An UPDATE that says only: the initial advertisement of this family is complete (RFC 4724 §2).
    EndOfRib(Family),
    /// Ends a session, with the reason.
    Notification(Notification),
    /// Says that the sender lives.
    Keepalive,
    /// Asks for, or marks off, an advertisement of everything.
    RouteRefresh(RouteRefresh),
}

/// The negotiated facts on which the octets of a message depend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Context {
    /// AS numbers in AS_PATH and AGGREGATOR have four octets (RFC 6793).
    pub four_octet_as: bool,
    /// The peer is in our AS.
    pub internal: bool,
    /// The families negotiated; NLRI of others are ignored.
    pub families: Families,
    /// Families in which the peer sends path identifiers (RFC 7911).
    pub add_path_receive: Families,
    /// Families in which we send path identifiers.
    pub add_path_send: Families,
    /// UPDATE, NOTIFICATION and ROUTE-REFRESH may have up to 65535 octets (RFC 8654).
    pub extended_messages: bool,
    /// ROUTE-REFRESH has subtypes (RFC 7313).
    pub enhanced_refresh: bool,
}

impl Context {
    /// The longest message allowed.
    pub fn maximum(&self) -> usize {
        if self.extended_messages { MAXIMUM_EXTENDED } else { MAXIMUM }
    }
}

/// Why a header cannot be trusted, so that nothing after it can (RFC 4271 §6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The marker is not all ones.
    #[error("a message does not begin with sixteen octets of ones")]
    Marker,
    /// A length that no message, or none of this type, can have.
    #[error("a message of type {kind} claims a length of {length} octets")]
    Length {
        /// As claimed.
        length: u16,
        /// The message's type.
        kind: u8,
    },
    /// A type that is not in the registry.
    #[error("a message has the unknown type {0}")]
    Type(u8),
}

/// Why a message ends the session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The header is wrong.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// An OPEN that cannot be accepted.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An UPDATE in which not even the prefixes can be found (RFC 7606 §3).
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// A ROUTE-REFRESH of a wrong length (RFC 7313 §5).
    #[error("a ROUTE-REFRESH message has a wrong length")]
    RouteRefresh(Bytes),
}

impl From<HeaderError> for Notification {
    fn from(error: HeaderError) -> Self {
        let header = |subcode| Self::new(ErrorCode::MessageHeader, subcode);
        match error {
            HeaderError::Marker => header(1),
            HeaderError::Length { length, .. } => header(2).with_data(length.to_be_bytes().to_vec()),
            HeaderError::Type(kind) => header(3).with_data(vec![kind]),
        }
    }
}

/// The one place where the codes that answer a bad message are chosen.
impl From<DecodeError> for Notification {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Header(error) => error.into(),
            DecodeError::Open(error) => error.into(),
            DecodeError::Update(error) => error.into(),
            DecodeError::RouteRefresh(message) => Self::new(ErrorCode::RouteRefreshMessage, 1).with_data(message),
        }
    }
}

/// The length of the message that `buffer` begins with, once all of it is there; `None` if octets are missing.
///
/// `maximum` is [`Context::maximum`].
///
/// # Errors
/// As soon as the octets there cannot be the beginning of a message.
pub fn frame(buffer: &[u8], maximum: usize) -> Result<Option<usize>, HeaderError> {
    if buffer.iter().take(16).any(|octet| *octet != 0xff) {
        return Err(HeaderError::Marker);
    }
    let mut octets = Reader::new(buffer);
    let mut header = || Some((octets.take(16)?, octets.u16()?, octets.u8()?));
    let Some((_, length, kind)) = header() else { return Ok(None) };
    let wrong = HeaderError::Length { length, kind };
    let (least, most) = match MessageType::from(kind) {
        MessageType::Open => (29, MAXIMUM), // RFC 8654 §3: neither OPEN nor KEEPALIVE is ever extended
        MessageType::Update => (23, maximum),
        MessageType::Notification => (21, maximum),
        MessageType::Keepalive => (HEADER, HEADER),
        MessageType::RouteRefresh => (HEADER, maximum), // its length has an error of its own
        MessageType::Unknown(_) if !(HEADER..=maximum).contains(&length.into()) => return Err(wrong),
        MessageType::Unknown(kind) => return Err(HeaderError::Type(kind)),
    };
    let length = usize::from(length);
    if length < least || length > most {
        return Err(wrong);
    }
    Ok((buffer.len() >= length).then_some(length))
}

impl Message {
    /// Decodes one message with its header, as [`frame`] delimits it.
    ///
    /// Faults in path attributes do not end a session (RFC 7606): where one means *treat as withdraw*, the update
    /// returned has its prefixes among the withdrawn already, so that the faults are only to be reported.
    ///
    /// # Errors
    /// What ends the session; `Notification::from` makes of it what to tell the peer.
    pub fn decode(octets: &[u8], cx: &Context) -> Result<(Self, Vec<AttributeFault>), DecodeError> {
        let kind = octets.get(18).copied().unwrap_or_default();
        let short = || HeaderError::Length { length: u16::try_from(octets.len()).unwrap_or(u16::MAX), kind };
        if frame(octets, cx.maximum())? != Some(octets.len()) {
            return Err(short().into());
        }
        let body = octets.get(HEADER..).ok_or_else(short)?;
        let message = match MessageType::from(kind) {
            MessageType::Open => Self::Open(Open::decode(body)?),
            MessageType::Update => return Ok(update::decode(body, cx)?),
            MessageType::Notification => Self::Notification(Notification::decode(body).ok_or_else(short)?),
            MessageType::Keepalive => Self::Keepalive,
            MessageType::RouteRefresh => Self::RouteRefresh(
                RouteRefresh::decode(body).ok_or_else(|| DecodeError::RouteRefresh(Bytes::copy_from_slice(octets)))?,
            ),
            MessageType::Unknown(kind) => return Err(HeaderError::Type(kind).into()),
        };
        Ok((message, Vec::new()))
    }

    /// Appends the message to `out`; an update in as many messages as it needs.
    ///
    /// # Errors
    /// If attributes alone exceed a message; `out` then has nothing of these attributes' prefixes.
    pub fn encode(&self, cx: &Context, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self {
            Self::Update(update) => update.encode(cx, out),
            Self::EndOfRib(family) => {
                update::encode_end_of_rib(*family, out);
                Ok(())
            }
            Self::Open(open) => {
                framed(MessageType::Open, out, |out| open.encode(out));
                Ok(())
            }
            Self::Notification(notification) => {
                framed(MessageType::Notification, out, |out| notification.encode(out));
                Ok(())
            }
            Self::Keepalive => {
                framed(MessageType::Keepalive, out, |_| ());
                Ok(())
            }
            Self::RouteRefresh(refresh) => {
                framed(MessageType::RouteRefresh, out, |out| refresh.encode(out));
                Ok(())
            }
        }
    }

    /// The octets that mark off a refresh of `family`, or ask for one.
    pub fn refresh(family: Family, kind: RefreshKind) -> Self {
        Self::RouteRefresh(RouteRefresh::new(family, kind))
    }
}

/// Appends a message of type `kind` whose body `write` appends.
pub(crate) fn framed(kind: MessageType, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_bytes(0xff, 16);
    out.put_u16(0);
    out.put_u8(kind.into());
    write(out);
    let length = u16::try_from(out.len() - start).expect("bodies are kept below 65535 octets by who writes them");
    if let Some(field) = out.get_mut(start + 16..start + 18) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}
