//! Times, and what is quoted of them.

use std::time::Duration;

/// Times of the same thing.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample(Vec<Duration>);

impl Sample {
    /// One more.
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of all did not exceed, in milliseconds.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut times = self.0.clone();
        times.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_seen() {
        let mut sample = Sample::default();
        (1..=100).rev().for_each(|number| sample.add(Duration::from_millis(number)));
        assert!((sample.quantile(0.5) - 50.0).abs() < 1e-9);
        assert!((sample.quantile(0.99) - 99.0).abs() < 1e-9);
        assert!((sample.quantile(1.0) - 100.0).abs() < 1e-9);
    }
}
