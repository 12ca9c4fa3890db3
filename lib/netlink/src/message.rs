//! How are requests written and answers read, octet by octet?
//!
//! A netlink message is a header of 16 octets, a fixed header that depends on its type, and attributes: length (2),
//! kind (2), value, padding to 4. All numbers are in the host's order. Reading never panics: what does not fit in the
//! octets there are is not there.

use crate::error::Cause;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLM_F_CAPPED` and `NLM_F_ACK_TLVS`: what an error message leaves out, and that attributes follow.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;

/// A request being written.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    octets: Vec<u8>,
    /// An attribute did not fit its 16-bit length.
    overflow: bool,
}

impl Request {
    /// A request of a type (`RTM_…`), with flags beside `NLM_F_REQUEST`, and the fixed header of its type.
    pub(crate) fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let mut octets = Vec::with_capacity(256);
        octets.extend_from_slice(&0_u32.to_ne_bytes());
        octets.extend_from_slice(&kind.to_ne_bytes());
        let flags = (flags | libc::NLM_F_REQUEST) as u16;
        octets.extend_from_slice(&flags.to_ne_bytes());
        octets.extend_from_slice(&[0; 8]);
        octets.extend_from_slice(fixed);
        let mut request = Self { octets, overflow: false };
        request.pad();
        request
    }

    /// Appends an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |request| request.octets.extend_from_slice(value));
    }

    /// Appends a number of 32 bits.
    pub(crate) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    /// Appends a text with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.nested(kind, |request| {
            request.octets.extend_from_slice(value.as_bytes());
            request.octets.push(0);
        });
    }

    /// Appends an attribute whose value `content` writes.
    pub(crate) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.octets.len();
        self.octets.extend_from_slice(&[0; 2]);
        self.octets.extend_from_slice(&kind.to_ne_bytes());
        content(self);
        self.close(start);
    }

    /// Appends octets that are no attribute: the fixed header inside a nested one.
    pub(crate) fn raw(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// Appends a structure that begins with its own length, 16 bits, as `struct rtnexthop` does.
    pub(crate) fn sized(&mut self, rest: &[u8], content: impl FnOnce(&mut Self)) {
        let start = self.octets.len();
        self.octets.extend_from_slice(&[0; 2]);
        self.octets.extend_from_slice(rest);
        content(self);
        self.close(start);
    }

    /// Writes the length of what began at `start`, and pads.
    fn close(&mut self, start: usize) {
        match u16::try_from(self.octets.len() - start) {
            Ok(length) => self.octets[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        self.pad();
    }

    fn pad(&mut self) {
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
    }

    /// What was written so far, without the message's own header.
    pub(crate) fn octets(&self) -> &[u8] {
        self.octets.get(HEADER..).unwrap_or_default()
    }

    /// The finished request.
    pub(crate) fn finish(&mut self, sequence: u32, more_flags: i32) -> Result<&[u8], Cause> {
        let length = u32::try_from(self.octets.len()).ok().filter(|_| !self.overflow);
        let length = length.ok_or(Cause::Protocol("the request is too long for netlink"))?;
        let flags = u16::from_ne_bytes([self.octets[6], self.octets[7]]) | more_flags as u16;
        self.octets[..4].copy_from_slice(&length.to_ne_bytes());
        self.octets[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.octets[8..12].copy_from_slice(&sequence.to_ne_bytes());
        Ok(&self.octets)
    }
}

/// One message of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// What follows the netlink header.
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// The number and text of an error message (or of the end of a dump); number 0 is success.
    pub(crate) fn error(&self) -> (i32, String) {
        let errno = field(self.body, 0).map_or(0, i32::from_ne_bytes).saturating_neg();
        if self.flags & ACK_TLVS == 0 {
            return (errno, String::new());
        }
        // An error quotes the request: its header only, or all of it if it is not capped. The end of a dump does not.
        let quoted = match (i32::from(self.kind) == libc::NLMSG_ERROR, self.flags & CAPPED == 0) {
            (true, true) => field(self.body, 4).map_or(HEADER, |length| u32::from_ne_bytes(length) as usize),
            (true, false) => HEADER,
            (false, _) => 0,
        };
        let rest = quoted.checked_next_multiple_of(4).and_then(|quoted| self.body.get(quoted.checked_add(4)?..));
        let text = attributes(rest.unwrap_or_default()).find(|(kind, _)| *kind == ERROR_TEXT);
        (errno, text.map_or_else(String::new, |(_, value)| string(value)))
    }
}

/// The messages of a datagram.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(field(rest, 0)?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(field(rest, 4)?),
            flags: u16::from_ne_bytes(field(rest, 6)?),
            sequence: u32::from_ne_bytes(field(rest, 8)?),
            body: rest.get(HEADER..length)?,
        };
        rest = rest.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
        Some(message)
    })
}

/// The messages of a datagram, each with the number of the socket that caused it.
pub(crate) fn messages_with_port(datagram: &[u8]) -> impl Iterator<Item = (Message<'_>, u32)> {
    let mut rest = datagram;
    messages(datagram).map(move |message| {
        let port = field(rest, 12).map_or(0, u32::from_ne_bytes);
        let length = (HEADER + message.body.len()).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        (message, port)
    })
}

/// The attributes in `octets`, kind and value.
pub(crate) fn attributes(octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(field(rest, 0)?));
        // The two highest bits say "nested" and "network order".
        let kind = u16::from_ne_bytes(field(rest, 2)?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// `N` octets at a place, if there are so many.
pub(crate) fn field<const N: usize>(octets: &[u8], at: usize) -> Option<[u8; N]> {
    octets.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A number of 32 bits that an attribute holds.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    field(value, 0).map(u32::from_ne_bytes)
}

/// A text that an attribute holds, to its first zero.
pub(crate) fn string(value: &[u8]) -> String {
    let text = value.split(|octet| *octet == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// An address that an attribute holds.
pub(crate) fn ip(value: &[u8]) -> Option<std::net::IpAddr> {
    match value.len() {
        4 => field::<4>(value, 0).map(Into::into),
        16 => field::<16>(value, 0).map(Into::into),
        _ => None,
    }
}

/// Octets of an address.
pub(crate) fn ip_octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6`.
pub(crate) fn family(address: std::net::IpAddr) -> u8 {
    (if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u8
}

/// Reads octets as everything that the kernel could mean by them: what fuzzing calls.
#[doc(hidden)]
pub fn read_anything(octets: &[u8]) {
    use crate::{Address, Forwarding, Link, Neighbour, Route};
    for message in messages(octets).chain([Message { kind: 0, flags: 0, sequence: 0, body: octets }]) {
        let _ = (Link::parse(message), Address::parse(message), message.error());
        let _ = (Neighbour::parse(message), Forwarding::parse(message));
        if let Some(route) = Route::parse(message) {
            assert_eq!(route.clone().normalized(), route, "a route is read in its normal form");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Octets that are likely to look like a message: small lengths, kinds that mean something.
    fn datagram() -> impl Strategy<Value = Vec<u8>> {
        let attribute = (0..24_u16, 0..35_u16, prop::collection::vec(any::<u8>(), 0..24))
            .prop_map(|(length, kind, value)| [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat());
        let fixed = prop::collection::vec(prop_oneof![Just(0_u8), Just(2), Just(10), any::<u8>()], 0..24);
        let message = (0..96_u32, 0..30_u16, any::<u16>(), fixed, prop::collection::vec(attribute, 0..5)).prop_map(
            |(length, kind, flags, fixed, attributes)| {
                [
                    &length.to_ne_bytes()[..],
                    &kind.to_ne_bytes(),
                    &flags.to_ne_bytes(),
                    &[0; 8],
                    &fixed,
                    &attributes.concat(),
                ]
                .concat()
            },
        );
        prop_oneof![
            prop::collection::vec(message, 0..4).prop_map(|messages| messages.concat()),
            prop::collection::vec(any::<u8>(), 0..200),
        ]
    }

    proptest! {
        #[test]
        fn reading_octets_never_panics_and_ends(octets in datagram()) {
            read_anything(&octets);
        }
    }

    #[test]
    fn an_error_with_its_text_is_read() {
        let mut body = (-101_i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER]);
        body.extend_from_slice(&[8, 0, 1, 0, b'n', b'o', b'!', 0]);
        let message = Message { kind: libc::NLMSG_ERROR as u16, flags: CAPPED | ACK_TLVS, sequence: 1, body: &body };
        assert_eq!(message.error(), (101, "no!".to_owned()));
    }

    #[test]
    fn a_request_that_does_not_fit_is_refused() {
        let mut request = Request::new(libc::RTM_NEWROUTE, 0, &[0; 12]);
        request.attribute(libc::RTA_DST, &[0; 70_000]);
        assert!(request.finish(1, 0).is_err());
    }
}
