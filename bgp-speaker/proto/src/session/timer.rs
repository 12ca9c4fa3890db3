//! How far a timer strays: 75 to 100 % of its value (RFC 4271 §10), so that nodes started together do not stay in step.

use std::time::Duration;

/// A sequence of numbers that is random enough for timers, and the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Between three quarters of `duration` and all of it.
    pub(super) fn apply(&mut self, duration: Duration) -> Duration {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = (number ^ number >> 31) >> 54; // 0 to 1023
        duration - duration / 4096 * u32::try_from(share).expect("ten bits are left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_quarter_and_uses_all_of_it() {
        let (mut jitter, second) = (Jitter::new(7), Duration::from_secs(1));
        let drawn: Vec<_> = (0..10_000).map(|_| jitter.apply(second)).collect();
        assert!(drawn.iter().all(|d| *d <= second && *d >= second * 3 / 4));
        assert!(*drawn.iter().min().unwrap() < second * 76 / 100 && *drawn.iter().max().unwrap() > second * 99 / 100);
    }
}
