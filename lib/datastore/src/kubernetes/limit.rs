//! How many requests a second may be sent, where a configuration limits them.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// A bucket of `burst` requests that fills at `rate` a second.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: f64,
    burst: f64,
    /// What is in the bucket (below zero: promised already), and when that was so.
    bucket: Mutex<(f64, Instant)>,
}

impl Limiter {
    /// Burst of clients that configure only a rate.
    const BURST: u32 = 100;

    /// No limit, if the rate is not above zero.
    pub(super) fn new(rate: f64, burst: Option<u32>) -> Option<Self> {
        let burst = f64::from(burst.unwrap_or(Self::BURST).max(1));
        (rate > 0.0).then(|| Self { rate, burst, bucket: Mutex::new((burst, Instant::now())) })
    }

    /// Returns when the next request may be sent; in the order of the calls.
    pub(super) async fn pass(&self) {
        let wait = {
            let mut bucket = self.bucket.lock().await;
            let now = Instant::now();
            let filled = now.duration_since(bucket.1).as_secs_f64() * self.rate;
            *bucket = ((bucket.0 + filled).min(self.burst) - 1.0, now);
            if bucket.0 >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-bucket.0 / self.rate) }
        };
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_the_burst_requests_pass_at_the_rate() {
        let limiter = Limiter::new(10.0, Some(5)).unwrap();
        let start = Instant::now();
        for _ in 0..5 {
            limiter.pass().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            limiter.pass().await;
        }
        let took = start.elapsed().as_millis();
        assert!((1990..2100).contains(&took), "20 requests at 10 a second took {took} ms");
        assert!(Limiter::new(0.0, None).is_none());
    }
}
