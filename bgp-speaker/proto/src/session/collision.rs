//! Which of two connections to one peer survives (RFC 4271 §6.8, RFC 6286 §2.3).

use super::Direction;
use crate::{Asn, RouterId};

/// The connection that both ends keep: the one that the speaker with the higher identifier opened, or, for equal
/// identifiers (which then are in different ASes), the one with the higher AS number.
pub(super) fn survivor(local: (RouterId, Asn), remote: (RouterId, Asn)) -> Direction {
    if local > remote { Direction::Outgoing } else { Direction::Incoming }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn both_ends_keep_the_connection_of_the_higher_identifier_then_of_the_higher_as() {
        #[track_caller]
        fn check(local: (&str, u32), remote: (&str, u32), expect: Direction) {
            let end = |(id, asn): (&str, u32)| (RouterId::try_from(id.parse::<Ipv4Addr>().unwrap()).unwrap(), Asn(asn));
            assert_eq!(survivor(end(local), end(remote)), expect);
            // The other end sees the same connection from the other side.
            let other = if expect == Direction::Outgoing { Direction::Incoming } else { Direction::Outgoing };
            assert_eq!(survivor(end(remote), end(local)), other);
        }
        check(("10.0.0.2", 64512), ("10.0.0.1", 64512), Direction::Outgoing);
        check(("10.0.0.9", 64512), ("10.0.0.10", 64512), Direction::Incoming); // as numbers, not as text
        check(("10.0.0.1", 65000), ("10.0.0.2", 64512), Direction::Incoming); // the identifier first
        check(("128.0.0.1", 1), ("127.255.255.255", 1), Direction::Outgoing); // unsigned
        check(("10.0.0.1", 64513), ("10.0.0.1", 64512), Direction::Outgoing);
        check(("10.0.0.1", 4_200_000_000), ("10.0.0.1", 4_199_999_999), Direction::Outgoing);
    }
}
