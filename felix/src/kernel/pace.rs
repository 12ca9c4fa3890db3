//! When may what is due be written? Not so often that somebody who undoes it keeps a processor busy, and not at once after a failure.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

/// How long after a failed apply the next one comes.
const RETRY: Duration = Duration::from_secs(1);

/// The pace of one writer.
#[derive(Debug)]
pub(super) struct Pace {
    /// What is written, for people.
    what: &'static str,
    throttle: Throttle,
    /// What failed last.
    failing: Option<String>,
    /// Not before then: the kernel refused something, or others rewrite what we write.
    not_before: Option<Instant>,
    /// When the last write began.
    begun: Instant,
}

impl Pace {
    /// Nothing written yet of `what`.
    pub(super) fn new(what: &'static str) -> Self {
        let now = Instant::now();
        Self { what, throttle: Throttle::new(now), failing: None, not_before: None, begun: now }
    }

    /// Whether it may be written now; if not, [`Self::later`] says when.
    pub(super) fn may(&mut self, now: Instant) -> bool {
        if self.not_before.is_some_and(|later| now < later) {
            return false;
        }
        self.not_before = self.throttle.take(now).err();
        self.begun = now;
        self.not_before.is_none()
    }

    /// When what was put off may be written.
    pub(super) fn later(&self) -> Option<Instant> {
        self.not_before
    }

    /// That time has come.
    pub(super) fn rested(&mut self, now: Instant) {
        if self.not_before.is_some_and(|later| later <= now) {
            self.not_before = None;
        }
    }

    /// How a write ended. Of failures only another one is told.
    pub(super) fn ended(&mut self, failure: Option<String>) {
        let now = Instant::now();
        self.throttle.took(now.duration_since(self.begun));
        if let Some(failures) = &failure {
            self.not_before = Some(now + RETRY);
            if self.failing.as_ref() != Some(failures) {
                warn!(failures, again_in = ?RETRY, "{} not as desired", self.what);
            }
        } else if self.failing.is_some() {
            info!("{} as desired again", self.what);
        }
        self.failing = failure;
    }

    /// What failed last.
    pub(super) fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }
}

/// Ten applies at once, then so many that they take a twentieth of the time, and ten a second at least: somebody who undoes
/// each of our writes at once must not keep a processor busy.
///
/// Departs from Calico, which applies ten times a second at most (reference felix.md §1.5): one route among many is written in
/// a millisecond, and in a large cluster more than ten a second come.
#[derive(Debug)]
struct Throttle {
    tokens: u32,
    /// When the last token came.
    last: Instant,
    /// How long the next takes to come.
    period: Duration,
}

impl Throttle {
    const BURST: u32 = 10;
    const SHORTEST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(100);
    const SHARE: u32 = 20;

    fn new(now: Instant) -> Self {
        Self { tokens: Self::BURST, last: now, period: Self::LONGEST }
    }

    /// Takes a token, or says when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.tokens < Self::BURST && self.last + self.period <= now {
            self.last += self.period;
            self.tokens += 1;
        }
        if self.tokens == Self::BURST {
            self.last = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(self.last + self.period),
        }
    }

    /// The last apply took so long.
    fn took(&mut self, time: Duration) {
        self.period = (time * Self::SHARE).clamp(Self::SHORTEST, Self::LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throttle_lets_a_burst_through_and_then_a_twentieth_of_the_time_be_used() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        for (took, period) in [(ms(0), ms(5)), (ms(1), ms(20)), (ms(5), ms(100)), (ms(3000), ms(100))] {
            let mut throttle = Throttle::new(start);
            throttle.took(took);
            for _ in 0..Throttle::BURST {
                assert_eq!(throttle.take(start), Ok(()));
            }
            let next = start + period;
            assert_eq!(throttle.take(start), Err(next));
            assert_eq!(throttle.take(next), Ok(()));
            assert_eq!(throttle.take(next), Err(next + period));
            let much_later = next + Duration::from_secs(3600);
            let taken = (0..100).filter(|_| throttle.take(much_later).is_ok()).count();
            assert_eq!(taken, Throttle::BURST as usize);
        }
    }
}
