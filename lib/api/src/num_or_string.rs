//! Protocols and ports: values that users write as a number or as a text.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as DeError, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IP protocol, by its number or by its name as the user spelled it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// The number, 1 to 255.
    Number(u8),
    /// `TCP`, `UDP`, `ICMP`, `ICMPv6`, `SCTP` or `UDPLite`; case does not matter.
    Name(String),
}

impl Protocol {
    /// The names there are, with the numbers of the IANA registry "Assigned Internet Protocol Numbers".
    pub const NAMES: [(&str, u8); 6] =
        [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)];

    /// The number, or `None` if the name is not known.
    pub fn number(&self) -> Option<u8> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(name) => {
                Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number)
            }
        }
    }

    /// Whether the protocol has ports that a rule may match.
    pub fn has_ports(&self) -> bool {
        matches!(self.number(), Some(6 | 17 | 132))
    }
}

impl Default for Protocol {
    /// TCP.
    fn default() -> Self {
        Self::from("TCP")
    }
}

impl From<&str> for Protocol {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u8(*number),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Protocol;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol, by name or by number from 1 to 255")
            }
            fn visit_u64<E: DeError>(self, number: u64) -> Result<Protocol, E> {
                let small = u8::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
                Ok(Protocol::Number(small))
            }
            fn visit_i64<E: DeError>(self, number: i64) -> Result<Protocol, E> {
                let small = u8::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
                Ok(Protocol::Number(small))
            }
            fn visit_str<E: DeError>(self, text: &str) -> Result<Protocol, E> {
                Ok(text.parse().map_or_else(|_| Protocol::Name(text.to_owned()), Protocol::Number))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// One port, a range of ports, or the name of a port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// One port.
    Number(u16),
    /// From the first to the second, both included; written `1000:2000`.
    Range(u16, u16),
    /// A name that endpoints give to their ports.
    Name(String),
}

/// The text is neither a port, nor a range, nor a name of a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// A number beyond 65535.
    #[error("port \"{0}\" is beyond 65535")]
    TooLarge(String),
    /// The range ends before it begins.
    #[error("port range \"{0}\" ends before it begins")]
    Reversed(String),
    /// A character that a name may not have, or too many or none.
    #[error("\"{0}\" is not a port, a range first:last, or a name of up to 128 letters, digits, '_', '.' and '-'")]
    Name(String),
}

impl FromStr for Port {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        let number = |part: &str| part.parse::<u16>().map_err(|_| PortError::TooLarge(text.to_owned()));
        if digits(text) {
            return number(text).map(Self::Number);
        }
        if let Some((first, last)) = text.split_once(':')
            && digits(first)
            && digits(last)
        {
            let (first, last) = (number(first)?, number(last)?);
            return if first <= last {
                Ok(Self::Range(first, last))
            } else {
                Err(PortError::Reversed(text.to_owned()))
            };
        }
        let of_a_name = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'.' | b'-');
        if (1..=128).contains(&text.len()) && text.bytes().all(of_a_name) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(PortError::Name(text.to_owned()))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Range(first, last) => write!(f, "{first}:{last}"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u16(*number),
            other => serializer.collect_str(other),
        }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Port;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 0 to 65535, a range such as \"1000:2000\", or the name of a port")
            }
            fn visit_u64<E: DeError>(self, number: u64) -> Result<Port, E> {
                let port = u16::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))?;
                Ok(Port::Number(port))
            }
            fn visit_i64<E: DeError>(self, number: i64) -> Result<Port, E> {
                let port = u16::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))?;
                Ok(Port::Number(port))
            }
            fn visit_str<E: DeError>(self, text: &str) -> Result<Port, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_port(written: &str, expected: Option<Port>) {
        assert_eq!(serde_json::from_str(written).ok(), expected, "{written}");
    }

    #[test]
    fn ports_are_numbers_ranges_and_names() {
        check_port("80", Some(Port::Number(80)));
        check_port("\"80\"", Some(Port::Number(80)));
        check_port("\"80:90\"", Some(Port::Range(80, 90)));
        check_port("\"http-alt\"", Some(Port::Name("http-alt".into())));
        check_port("65536", None);
        check_port("\"65536\"", None);
        check_port("-1", None);
        check_port("\"90:80\"", None);
        check_port("\"80:\"", None);
        check_port("\"\"", None);
        assert_eq!(serde_json::to_string(&[Port::Number(1), Port::Range(1, 2)]).unwrap(), "[1,\"1:2\"]");
    }

    #[test]
    fn protocols_have_numbers_whatever_their_case() {
        assert_eq!(Protocol::from("tcp").number(), Some(6));
        assert_eq!(serde_json::from_str::<Protocol>("58").unwrap().number(), Some(58));
        assert_eq!(Protocol::from("quic").number(), None);
        assert!(serde_json::from_str::<Protocol>("256").is_err());
    }
}
