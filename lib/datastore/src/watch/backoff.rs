//! How long to wait before the next attempt.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double from 100 ms to 5 s, each shortened by up to half at random, so that a cluster's nodes do not
/// come back at the same moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait; `random` decides how much shorter it is.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let full = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LONGEST);
        self.failures = (self.failures + 1).min(16);
        full - full / 2 * u32::try_from(random % 1000).unwrap_or_default() / 1000
    }

    /// The next wait is the shortest again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random number: the keys of a fresh [`RandomState`] are what the standard library has of them.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert!((0..100).all(|_| backoff.next(random()) >= LONGEST / 2));
        backoff.reset();
        assert!(backoff.next(999) < Duration::from_millis(60));
    }
}
