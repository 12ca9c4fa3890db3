//! What a speaker can do beyond RFC 4271, as its OPEN says (RFC 5492).

use bytes::{BufMut, Bytes, BytesMut};

use crate::iana::CapabilityCode;
use crate::octets::Reader;
use crate::{Asn, Family};

/// One capability of an OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Speaks this family (RFC 4760 §8): AFI and SAFI, of which the peer may know more than we do.
    Multiprotocol {
        /// Address family identifier.
        afi: u16,
        /// Subsequent address family identifier.
        safi: u8,
    },
    /// Answers ROUTE-REFRESH (RFC 2918).
    RouteRefresh,
    /// Takes messages of up to 65535 octets (RFC 8654).
    ExtendedMessage,
    /// Restarts gracefully (RFC 4724).
    GracefulRestart(GracefulRestart),
    /// Has four-octet AS numbers, and which is its own (RFC 6793).
    FourOctetAs(Asn),
    /// Sends or receives several paths for a prefix (RFC 7911).
    AddPath(Vec<AddPath>),
    /// Marks begin and end of a refresh (RFC 7313).
    EnhancedRouteRefresh,
    /// Knows of long-lived stale paths (RFC 9494); its content, empty for "aware only", is kept as octets.
    LongLivedGracefulRestart(Bytes),
    /// Any other, or one of the above with a length that is not its own.
    Unknown {
        /// The capability's code.
        code: u8,
        /// Its value.
        value: Bytes,
    },
}

/// The graceful restart capability (RFC 4724 §3, RFC 8538 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R bit: the sender restarted, and the receiver must not wait for its End-of-RIB.
    pub restarting: bool,
    /// N bit: graceful restart also after a NOTIFICATION or an expired hold timer (RFC 8538).
    pub notification: bool,
    /// How long the sender may take to be back: seconds, below 4096.
    pub restart_time: u16,
    /// The families whose forwarding outlives a restart, with what the F bit says about the last one.
    pub families: Vec<RestartFamily>,
}

/// One family of a graceful restart capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartFamily {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// F bit: forwarding state was preserved over the restart that led to this OPEN.
    pub preserved: bool,
}

impl GracefulRestart {
    /// What it says about `family`: `None` if nothing, else whether forwarding state was preserved.
    pub fn family(&self, family: Family) -> Option<bool> {
        let mine = |entry: &&RestartFamily| (entry.afi, entry.safi) == (family.afi(), family.safi());
        self.families.iter().find(mine).map(|entry| entry.preserved)
    }
}

/// One family of an ADD-PATH capability (RFC 7911 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddPath {
    /// Address family identifier.
    pub afi: u16,
    /// Subsequent address family identifier.
    pub safi: u8,
    /// The sender can receive several paths.
    pub receive: bool,
    /// The sender can send several paths.
    pub send: bool,
}

impl Capability {
    /// The multiprotocol capability for `family`.
    pub fn multiprotocol(family: Family) -> Self {
        Self::Multiprotocol { afi: family.afi(), safi: family.safi() }
    }

    /// The capability's code.
    pub fn code(&self) -> CapabilityCode {
        match self {
            Self::Multiprotocol { .. } => CapabilityCode::Multiprotocol,
            Self::RouteRefresh => CapabilityCode::RouteRefresh,
            Self::ExtendedMessage => CapabilityCode::ExtendedMessage,
            Self::GracefulRestart(_) => CapabilityCode::GracefulRestart,
            Self::FourOctetAs(_) => CapabilityCode::FourOctetAs,
            Self::AddPath(_) => CapabilityCode::AddPath,
            Self::EnhancedRouteRefresh => CapabilityCode::EnhancedRouteRefresh,
            Self::LongLivedGracefulRestart(_) => CapabilityCode::LongLivedGracefulRestart,
            Self::Unknown { code, .. } => (*code).into(),
        }
    }

    /// Reads the capabilities of one optional parameter; `None` if a length overruns it.
    pub(crate) fn read_all(mut octets: Reader<'_>, into: &mut Vec<Self>) -> Option<()> {
        while !octets.is_empty() {
            let code = octets.u8()?;
            let value = octets.part_u8()?;
            // A capability whose value makes no sense is as good as unknown: it is not negotiated, and no error.
            let known = Self::known(code.into(), value)
                .unwrap_or_else(|| Self::Unknown { code, value: Bytes::copy_from_slice(value.rest()) });
            into.push(known);
        }
        Some(())
    }

    fn known(code: CapabilityCode, mut value: Reader<'_>) -> Option<Self> {
        let capability = match code {
            CapabilityCode::Multiprotocol => {
                let (afi, _reserved, safi) = (value.u16()?, value.u8()?, value.u8()?);
                Self::Multiprotocol { afi, safi }
            }
            CapabilityCode::RouteRefresh => Self::RouteRefresh,
            CapabilityCode::ExtendedMessage => Self::ExtendedMessage,
            CapabilityCode::EnhancedRouteRefresh => Self::EnhancedRouteRefresh,
            CapabilityCode::FourOctetAs => Self::FourOctetAs(Asn(value.u32()?)),
            CapabilityCode::GracefulRestart => {
                let head = value.u16()?;
                let mut families = Vec::new();
                while !value.is_empty() {
                    let (afi, safi, flags) = (value.u16()?, value.u8()?, value.u8()?);
                    families.push(RestartFamily { afi, safi, preserved: flags & 0x80 != 0 });
                }
                Self::GracefulRestart(GracefulRestart {
                    restarting: head & 0x8000 != 0,
                    notification: head & 0x4000 != 0,
                    restart_time: head & 0x0fff,
                    families,
                })
            }
            CapabilityCode::AddPath => {
                let mut families = Vec::new();
                while !value.is_empty() {
                    let (afi, safi, mode) = (value.u16()?, value.u8()?, value.u8()?);
                    // RFC 7911 §4: any other mode is ignored.
                    if matches!(mode, 1..=3) {
                        families.push(AddPath { afi, safi, receive: mode & 1 != 0, send: mode & 2 != 0 });
                    }
                }
                Self::AddPath(families)
            }
            CapabilityCode::LongLivedGracefulRestart => {
                let content = Bytes::copy_from_slice(value.take(value.len())?);
                Self::LongLivedGracefulRestart(content)
            }
            _ => return None,
        };
        value.is_empty().then_some(capability)
    }

    /// Appends code, length and value; a value beyond 255 octets cannot be said and is left out.
    pub(crate) fn write(&self, out: &mut BytesMut) {
        let mut value = BytesMut::new();
        match self {
            Self::Multiprotocol { afi, safi } => {
                value.put_u16(*afi);
                value.put_u8(0);
                value.put_u8(*safi);
            }
            Self::RouteRefresh | Self::ExtendedMessage | Self::EnhancedRouteRefresh => {}
            Self::FourOctetAs(asn) => value.put_u32(asn.0),
            Self::GracefulRestart(restart) => {
                let flags = u16::from(restart.restarting) << 15 | u16::from(restart.notification) << 14;
                value.put_u16(flags | restart.restart_time & 0x0fff);
                for family in &restart.families {
                    value.put_u16(family.afi);
                    value.put_u8(family.safi);
                    value.put_u8(u8::from(family.preserved) << 7);
                }
            }
            Self::AddPath(families) => {
                for family in families {
                    value.put_u16(family.afi);
                    value.put_u8(family.safi);
                    value.put_u8(u8::from(family.receive) | u8::from(family.send) << 1);
                }
            }
            Self::LongLivedGracefulRestart(content) => value.put_slice(content),
            Self::Unknown { value: content, .. } => value.put_slice(content),
        }
        if let Ok(length) = u8::try_from(value.len()) {
            out.put_u8(self.code().into());
            out.put_u8(length);
            out.put_slice(&value);
        }
    }
}
