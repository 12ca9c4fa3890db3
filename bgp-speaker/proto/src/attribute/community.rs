//! What a path is marked with: communities of four, eight and twelve octets.

use std::fmt;
use std::str::FromStr;

/// A community (RFC 1997): the upper half is by custom an AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// Not beyond the AS (RFC 1997).
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// To nobody (RFC 1997).
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// Not beyond the confederation's member AS, which for us is the AS (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);
    /// About to go away (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// From a session long gone (RFC 9494).
    pub const LLGR_STALE: Self = Self(0xffff_0006);
    /// Not to be kept over a long absence (RFC 9494).
    pub const NO_LLGR: Self = Self(0xffff_0007);

    /// The community written `high:low`.
    pub fn new(high: u16, low: u16) -> Self {
        Self(u32::from(high) << 16 | u32::from(low))
    }
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// An extended community (RFC 4360), carried as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity(pub u64);

impl ExtendedCommunity {
    /// Whether it goes beyond the AS: the second bit of its type is zero (RFC 4360 §2).
    pub fn is_transitive(self) -> bool {
        self.0 & 0x4000_0000_0000_0000 == 0
    }
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:016x}", self.0)
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Whose it is: an AS.
    pub global: u32,
    /// First part of the meaning.
    pub local_1: u32,
    /// Second part of the meaning.
    pub local_2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.global, self.local_1, self.local_2)
    }
}

/// Text that is not a community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a community: expected two numbers below 65536, or three below 4294967296, with colons between")]
pub struct CommunityError(String);

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parse = || {
            let (high, low) = text.split_once(':')?;
            Some(Self::new(high.parse().ok()?, low.parse().ok()?))
        };
        parse().ok_or_else(|| CommunityError(text.to_owned()))
    }
}

impl FromStr for LargeCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parse = || {
            let mut parts = text.split(':').map(|part| part.parse().ok());
            let (global, local_1, local_2) = (parts.next()??, parts.next()??, parts.next()??);
            parts.next().is_none().then_some(Self { global, local_1, local_2 })
        };
        parse().ok_or_else(|| CommunityError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_print_as_they_parse() {
        assert_eq!("65535:65281".parse(), Ok(Community::NO_EXPORT));
        assert_eq!(Community::new(64512, 7).to_string(), "64512:7");
        assert_eq!("1:2:4294967295".parse::<LargeCommunity>().unwrap().to_string(), "1:2:4294967295");
        for bad in ["", "1", "65536:1", "1:2:3", "a:1"] {
            assert!(bad.parse::<Community>().is_err(), "{bad}");
        }
        for bad in ["1:2", "1:2:3:4", "1:2:4294967296"] {
            assert!(bad.parse::<LargeCommunity>().is_err(), "{bad}");
        }
    }
}
