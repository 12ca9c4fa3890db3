//! Autonomous system numbers as users write them.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An AS number of four octets; read as a number, `"64512"` or `"1.10"` (RFC 5396 asdot), printed plain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsNumber(pub u32);

/// The text is not an AS number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an AS number: write 0 to 4294967295, or high.low with halves of 0 to 65535")]
pub struct AsNumberError(String);

impl FromStr for AsNumber {
    type Err = AsNumberError;

    fn from_str(text: &str) -> Result<Self, AsNumberError> {
        let error = || AsNumberError(text.to_owned());
        match text.split_once('.') {
            None => text.parse().map(Self).map_err(|_| error()),
            Some((high, low)) => {
                let high: u16 = high.parse().map_err(|_| error())?;
                let low: u16 = low.parse().map_err(|_| error())?;
                Ok(Self(u32::from(high) << 16 | u32::from(low)))
            }
        }
    }
}

impl fmt::Display for AsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for AsNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = AsNumber;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AS number")
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<AsNumber, E> {
                let number =
                    u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
                Ok(AsNumber(number))
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<AsNumber, E> {
                let number = u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
                Ok(AsNumber(number))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<AsNumber, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<AsNumber, E> {
                // YAML reads an unquoted 1.10 as a float, whose digits no longer tell 1.1 from 1.10.
                Err(E::custom(format!("AS number {number} must be quoted: write \"1.10\"")))
            }
        }
        deserializer.deserialize_any(Visitor).map_err(D::Error::custom)
    }
}
