//! How a session begins: the OPEN message (RFC 4271 §4.2) with its capabilities (RFC 5492, RFC 9072).

use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};

use crate::iana::ErrorCode;
use crate::octets::Reader;
use crate::{Asn, Capability, HoldTime, Notification, RouterId};

/// The body of an OPEN message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS as the two-octet field has it: [`Asn::TRANS`] if it needs four.
    pub my_as: u16,
    /// The hold time that the sender proposes.
    pub hold_time: HoldTime,
    /// The sender's identifier.
    pub router_id: RouterId,
    /// What the sender can do, in its own order.
    pub capabilities: Vec<Capability>,
}

/// Why an OPEN cannot be accepted (RFC 4271 §6.2).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A length in it does not fit the message.
    #[error("the OPEN message is truncated or has trailing octets")]
    Malformed,
    /// Any version but 4.
    #[error("the peer speaks BGP version {0}, not 4")]
    Version(u8),
    /// A hold time of one or two seconds.
    #[error("the peer proposes a hold time of {0} s; it must be 0 or at least 3")]
    HoldTime(u16),
    /// The identifier is zero, or ours.
    #[error("the peer's BGP identifier {0} is zero or our own")]
    Identifier(Ipv4Addr),
    /// The AS is not the one configured.
    #[error("the peer is in AS {got}, and AS {expected} is configured")]
    PeerAs {
        /// As configured.
        expected: Asn,
        /// As the OPEN says.
        got: Asn,
    },
    /// An optional parameter other than capabilities.
    #[error("the peer sends the unknown optional parameter {}", parameter.first().copied().unwrap_or_default())]
    Parameter {
        /// The parameter as it came, with type and length.
        parameter: Bytes,
    },
    /// No family in common, or a capability that our configuration requires is missing.
    #[error("the peer lacks a capability that this session requires")]
    MissingCapability {
        /// What is required, in the format of the capabilities parameter.
        required: Bytes,
    },
}

impl From<OpenError> for Notification {
    fn from(error: OpenError) -> Self {
        let open = |subcode| Self::new(ErrorCode::OpenMessage, subcode);
        match error {
            OpenError::Malformed => open(0),
            OpenError::Version(_) => open(1).with_data(&[0, 4][..]), // the largest version we support
            OpenError::PeerAs { got, .. } => open(2).with_data(got.0.to_be_bytes().to_vec()),
            OpenError::Identifier(_) => open(3),
            OpenError::Parameter { parameter } => open(4).with_data(parameter),
            OpenError::HoldTime(_) => open(6),
            OpenError::MissingCapability { required } => open(7).with_data(required),
        }
    }
}

const CAPABILITIES: u8 = 2; // optional parameter type (RFC 5492 §4)
const EXTENDED: u8 = 255; // in place of length and type of the first parameter (RFC 9072 §2)

impl Open {
    /// The sender's AS: from the four-octet capability if there is one, else the two-octet field.
    pub fn asn(&self) -> Asn {
        let wide = self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctetAs(asn) => Some(*asn),
            _ => None,
        });
        wide.unwrap_or(Asn(self.my_as.into()))
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, OpenError> {
        let mut octets = Reader::new(body);
        let version = octets.u8().ok_or(OpenError::Malformed)?;
        if version != 4 {
            return Err(OpenError::Version(version));
        }
        let mut fixed = || Some((octets.u16()?, octets.u16()?, octets.u32()?));
        let (my_as, hold_time, id) = fixed().ok_or(OpenError::Malformed)?;
        let capabilities = Self::parameters(octets)?;
        let hold_time = HoldTime::try_from(hold_time).map_err(|error| OpenError::HoldTime(error.0))?;
        let id = Ipv4Addr::from(id);
        let router_id = RouterId::try_from(id).map_err(|_| OpenError::Identifier(id))?;
        Ok(Self { my_as, hold_time, router_id, capabilities })
    }

    fn parameters(mut octets: Reader<'_>) -> Result<Vec<Capability>, OpenError> {
        let mut ahead = octets;
        let extended = matches!((ahead.u8(), ahead.u8()), (Some(length), Some(EXTENDED)) if length != 0);
        if extended {
            octets = ahead;
        }
        let list = if extended { octets.part_u16() } else { octets.part_u8() };
        let mut list = list.filter(|_| octets.is_empty()).ok_or(OpenError::Malformed)?;
        let mut capabilities = Vec::new();
        while !list.is_empty() {
            let start = list;
            let kind = list.u8().ok_or(OpenError::Malformed)?;
            let value = if extended { list.part_u16() } else { list.part_u8() }.ok_or(OpenError::Malformed)?;
            if kind != CAPABILITIES {
                let whole = start.rest().get(..start.len() - list.len()).unwrap_or_default();
                return Err(OpenError::Parameter { parameter: Bytes::copy_from_slice(whole) });
            }
            Capability::read_all(value, &mut capabilities).ok_or(OpenError::Malformed)?;
        }
        Ok(capabilities)
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(4);
        out.put_u16(self.my_as);
        out.put_u16(self.hold_time.seconds());
        out.put_u32(self.router_id.number());
        let mut list = BytesMut::new();
        self.capabilities.iter().for_each(|capability| capability.write(&mut list));
        match (list.len(), u8::try_from(list.len() + 2)) {
            (0, _) => out.put_u8(0),
            // One parameter with every capability, as BIRD does; RFC 5492 §4 allows one each as well.
            (length, Ok(total)) if total < EXTENDED => {
                out.put_slice(&[total, CAPABILITIES, length as u8]);
                out.put_slice(&list);
            }
            (length, _) => {
                out.put_slice(&[EXTENDED, EXTENDED]);
                out.put_u16(length as u16 + 3);
                out.put_u8(CAPABILITIES);
                out.put_u16(length as u16);
                out.put_slice(&list);
            }
        }
    }
}
