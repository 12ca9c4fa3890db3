//! In which order a node tries the blocks of a pool that nobody has.
//!
//! From a place that depends on the node's name, then one after the other, round to where it began.
//! A stable start keeps nodes out of each other's way, and two processes of one node on the same block.

use ipnet::IpNet;

use crate::network::{Family, NetSet, address, containing, range};
use crate::reservation::Reservations;

/// The free blocks of a pool for a node, in its order.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    pool: IpNet,
    block_size: u8,
    taken: &'a NetSet,
    reservations: &'a Reservations,
    /// The next index, and the first one beyond: first from the node's start to the end, then up to the start.
    next: u128,
    end: u128,
    start: u128,
    wrapped: bool,
}

/// The blocks of `pool` that meet no taken network of any size and are not wholly reserved.
///
/// Nothing, if the pool cannot have blocks of this size. The steps it takes to the next one are at most as many as there
/// are taken networks and reservations in the pool, however large the pool.
pub fn candidates<'a>(
    pool: IpNet,
    block_size: u8,
    node: &str,
    taken: &'a NetSet,
    reservations: &'a Reservations,
) -> Candidates<'a> {
    let family = Family::of_net(&pool);
    let fits = block_size <= family.bits() && block_size >= pool.prefix_len();
    // Shifts of 128 are those of ::/0 in blocks of one address, which has one block too few then.
    let count = match fits {
        true => 1_u128.checked_shl((block_size - pool.prefix_len()).into()).unwrap_or(u128::MAX),
        false => 0,
    };
    let start = u128::from(fnv1(node.as_bytes())).checked_rem(count).unwrap_or_default();
    Candidates { pool: pool.trunc(), block_size, taken, reservations, next: start, end: count, start, wrapped: false }
}

impl Candidates<'_> {
    fn at(&self, index: u128) -> Option<IpNet> {
        let family = Family::of_net(&self.pool);
        let step = 1_u128.checked_shl((family.bits() - self.block_size).into()).unwrap_or_default();
        let number = range(&self.pool).0.checked_add(index.checked_mul(step)?)?;
        containing(address(family, number)?, self.block_size)
    }

    /// The first index whose block begins after `net`.
    fn index_after(&self, net: &IpNet) -> u128 {
        let family = Family::of_net(&self.pool);
        let last = range(net).1.saturating_sub(range(&self.pool).0);
        last.checked_shr((family.bits() - self.block_size).into()).unwrap_or_default().saturating_add(1)
    }
}

impl Iterator for Candidates<'_> {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        loop {
            if self.next >= self.end {
                if self.wrapped {
                    return None;
                }
                (self.wrapped, self.next, self.end) = (true, 0, self.start);
                continue;
            }
            let candidate = self.at(self.next)?;
            match self.taken.meeting(&candidate).or_else(|| self.reservations.covering(&candidate)) {
                Some(obstacle) => self.next = self.index_after(&obstacle).max(self.next.saturating_add(1)),
                None => {
                    self.next = self.next.saturating_add(1);
                    return Some(candidate);
                }
            }
        }
    }
}

/// 32-bit FNV-1: <https://www.rfc-editor.org/rfc/rfc9923>, §2.
fn fnv1(octets: &[u8]) -> u32 {
    octets.iter().fold(0x811c_9dc5, |hash: u32, octet| hash.wrapping_mul(0x0100_0193) ^ u32::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn all(pool: &str, size: u8, node: &str, taken: &[&str], reserved: &[&str]) -> Vec<String> {
        let taken = nets(taken).iter().collect();
        let reserved = nets(reserved).into_iter().collect();
        candidates(pool.parse().unwrap(), size, node, &taken, &reserved).take(100).map(|net| net.to_string()).collect()
    }

    #[test]
    fn every_block_comes_once_from_a_start_of_the_nodes_own() {
        assert_eq!([fnv1(b""), fnv1(b"a"), fnv1(b"foobar")], [0x811c_9dc5, 0x050c_5d7e, 0x31f0_b262]);
        let of_a = all("10.0.0.0/24", 26, "node-a", &[], &[]);
        assert_eq!(of_a, all("10.0.0.0/24", 26, "node-a", &[], &[]), "stable");
        let mut sorted = of_a.clone();
        sorted.sort();
        assert_eq!(sorted, ["10.0.0.0/26", "10.0.0.128/26", "10.0.0.192/26", "10.0.0.64/26"]);
        let starts: std::collections::BTreeSet<_> =
            (0..20).map(|n| all("10.0.0.0/16", 26, &format!("node-{n}"), &[], &[]).remove(0)).collect();
        assert!(starts.len() > 15, "{starts:?}");
        assert_eq!(all("10.0.0.0/26", 26, "x", &[], &[]), ["10.0.0.0/26"]);
        assert!(all("10.0.0.0/26", 24, "x", &[], &[]).is_empty(), "no block is larger than its pool");
        assert_eq!(all("255.255.255.0/24", 26, "x", &[], &[]).len(), 4);
        assert_eq!(all("::/0", 128, "x", &[], &[]).len(), 100);
    }

    #[test]
    fn taken_networks_of_any_size_and_reserved_blocks_are_passed_over() {
        let left = |taken: &[&str], reserved: &[&str]| {
            let mut left = all("10.0.0.0/24", 26, "node-a", taken, reserved);
            left.sort();
            left
        };
        assert_eq!(left(&["10.0.0.0/25"], &[]), ["10.0.0.128/26", "10.0.0.192/26"]);
        assert_eq!(left(&["10.0.0.65/32", "10.0.0.0/26", "10.0.0.128/27"], &[]), ["10.0.0.192/26"]);
        assert_eq!(left(&[], &["10.0.0.0/25", "10.0.0.128/27"]), ["10.0.0.128/26", "10.0.0.192/26"]);
        assert!(left(&["10.0.0.0/8"], &[]).is_empty());
        let last = all("fd00::/48", 122, "x", &[], &["fd00::/49", "fd00:0:0:8000::/50", "fd00:0:0:c000::/51"]);
        assert!(last.iter().all(|net| net.starts_with("fd00:0:0:e") || net.starts_with("fd00:0:0:f")), "{last:?}");
    }
}
