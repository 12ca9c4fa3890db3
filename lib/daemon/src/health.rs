//! Whether the process is alive and ready, as its parts report it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The reports of all parts; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    // Reports come from several tasks and are read by the HTTP server; nothing waits while it is held.
    parts: Arc<Mutex<BTreeMap<&'static str, Part>>>,
}

#[derive(Clone, Debug)]
struct Part {
    timeout: Option<Duration>,
    last: Instant,
    live: bool,
    ready: bool,
    detail: String,
}

/// One part's way to report.
#[derive(Clone, Debug)]
pub struct Reporter {
    health: Health,
    name: &'static str,
}

/// What the parts' reports amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all is well.
    pub good: bool,
    /// A line for each part.
    pub text: String,
}

impl Health {
    /// Adds a part. It is live and not ready until it reports; with a timeout it must report at least that often.
    pub fn reporter(&self, name: &'static str, timeout: Option<Duration>) -> Reporter {
        let part = Part { timeout, last: Instant::now(), live: true, ready: false, detail: "starting".to_owned() };
        self.with(|parts| parts.insert(name, part));
        Reporter { health: self.clone(), name }
    }

    /// Whether every part is live at `now`.
    pub fn live(&self, now: Instant) -> Verdict {
        self.verdict(now, |part| part.live)
    }

    /// Whether every part is live and ready at `now`.
    pub fn ready(&self, now: Instant) -> Verdict {
        self.verdict(now, |part| part.live && part.ready)
    }

    fn verdict(&self, now: Instant, good: impl Fn(&Part) -> bool) -> Verdict {
        let mut verdict = Verdict { good: true, text: String::new() };
        self.with(|parts| {
            for (name, part) in parts.iter() {
                let silent = part.timeout.is_some_and(|timeout| now.saturating_duration_since(part.last) > timeout);
                let well = good(part) && !silent;
                verdict.good &= well;
                let detail = if silent { "has not reported in time" } else { part.detail.as_str() };
                let _ = writeln!(verdict.text, "{name:<28} {} {detail}", if well { "ok " } else { "NOT" });
            }
        });
        verdict
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<&'static str, Part>) -> T) -> T {
        // A panic elsewhere leaves the map whole: every change of it is a single assignment.
        f(&mut self.parts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reporter {
    /// Says how the part is.
    pub fn report(&self, live: bool, ready: bool, detail: impl Into<String>) {
        let detail = detail.into();
        self.health.with(|parts| {
            if let Some(part) = parts.get_mut(self.name) {
                (part.live, part.ready, part.detail, part.last) = (live, ready, detail, Instant::now());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_not_ready_before_it_says_so() {
        let health = Health::default();
        let part = health.reporter("Calc", None);
        let now = Instant::now();
        assert!(health.live(now).good && !health.ready(now).good);
        part.report(true, true, "in sync");
        assert!(health.ready(Instant::now()).good);
        assert!(health.ready(Instant::now()).text.contains("in sync"));
    }

    #[test]
    fn a_part_that_falls_silent_is_neither_live_nor_ready() {
        let health = Health::default();
        health.reporter("Loop", Some(Duration::from_secs(90))).report(true, true, "");
        let later = Instant::now() + Duration::from_secs(91);
        assert!(!health.live(later).good);
        assert!(health.live(later).text.contains("has not reported in time"));
    }
}
