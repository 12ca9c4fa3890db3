//! How bring-up waits: as long as it takes, alive, and saying what for.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use calico_daemon::Reporter;
use calico_datastore::{Error, Store};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How long an answer of the store may take before it counts as none.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first and the longest wait before another attempt.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// How often the same reason is logged again.
const REMIND: Duration = Duration::from_secs(60);

/// Waits, and tells the log and the health port why. Felix stays live meanwhile, and is not ready.
pub(crate) struct Patience<'a> {
    startup: &'a Reporter,
    wait: Duration,
    said: Option<(String, Instant)>,
}

impl<'a> Patience<'a> {
    /// `startup` is told of every reason.
    pub(crate) fn new(startup: &'a Reporter) -> Self {
        Self { startup, wait: FIRST, said: None }
    }

    /// What is being done.
    pub(crate) fn progress(&self, what: &str) {
        self.startup.report(true, false, what);
    }

    /// Waits before another attempt, longer each time.
    pub(crate) async fn pause(&mut self, what: &str, reason: &impl Display) {
        let reason = reason.to_string();
        let now = Instant::now();
        if self.said.as_ref().is_none_or(|(said, at)| *said != reason || now.duration_since(*at) >= REMIND) {
            warn!(what, reason, "Felix waits");
            self.startup.report(true, false, format!("waiting to {what}: {reason}"));
            self.said = Some((reason, now));
        }
        sleep(self.wait).await;
        self.wait = (self.wait * 2).min(LONGEST);
    }

    /// What was waited for is there.
    pub(crate) fn rest(&mut self) {
        if self.said.take().is_some() {
            info!("Felix goes on");
        }
        self.wait = FIRST;
    }

    /// Repeats an operation on the store until it is answered, whatever the answer is.
    pub(crate) async fn until_answered<T, F>(&mut self, what: &str, operation: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        loop {
            match timeout(PATIENCE, operation()).await {
                Ok(Err(error)) if error.may_pass() => self.pause(what, &error).await,
                Err(_) => self.pause(what, &silent()).await,
                Ok(result) => {
                    self.rest();
                    return result;
                }
            }
        }
    }
}

fn silent() -> String {
    format!("the datastore has not answered for {} s", PATIENCE.as_secs())
}

/// One attempt of an operation; a store that is silent is one that is not there.
pub(crate) async fn bounded<T>(store: &Store, operation: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let unavailable = || Error::Unavailable { store: store.backend().describe(), reason: silent() };
    timeout(PATIENCE, operation).await.unwrap_or_else(|_| Err(unavailable()))
}
