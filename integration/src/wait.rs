//! Waiting for something to become true, or to stay so. Nothing here sleeps for a guessed time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);

/// Looks until `condition` gives a value.
///
/// # Errors
/// If there is none by the deadline; the text has `what` and the condition's last error.
pub fn until<T>(patience: Duration, what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = condition();
        if let Ok(Some(value)) = last {
            return Ok(value);
        }
        if start.elapsed() >= patience {
            let because = last.err().map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("waited {} s in vain until {what}{because}", patience.as_secs_f32());
        }
        thread::sleep(STEP);
    }
}

/// Looks until `condition` holds.
///
/// # Errors
/// As [`until`].
pub fn becomes(patience: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    until(patience, what, || Ok(condition()?.then_some(())))
}

/// Looks whether `condition` holds all the time.
///
/// # Errors
/// As soon as it does not.
pub fn stays(time: Duration, what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        if !condition()? {
            bail!("after {} ms it was no longer so that {what}", start.elapsed().as_millis());
        }
        thread::sleep(STEP);
    }
    Ok(())
}
