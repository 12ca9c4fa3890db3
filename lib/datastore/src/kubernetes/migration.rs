//! Does the cluster still keep its resources where this process looks for them?
//!
//! A cluster may move from one API group to the other. A process that began with the one goes on with it until it is
//! restarted; what it must not do is take the end of the old group for the end of all resources.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use calico_api::{Key, Kind};
use tokio::time::Instant;
use tracing::debug;

use super::client::Client;
use super::group::{self, ApiGroup, Discovered};
use crate::{Error, Result};

/// How often a process looks whether the cluster has moved to the other API group.
const GROUP_CHECK: Duration = Duration::from_secs(60);

/// Where resources were found, and what became of that.
pub(super) struct Migration {
    client: Arc<Client>,
    /// How the store is called.
    store: String,
    group: ApiGroup,
    /// Whether the group was found by looking, so that it may prove wrong later.
    discovered: bool,
    checked: Mutex<Instant>,
    /// Whether the other group was served too when that was last looked at: the cluster may be migrating.
    both: AtomicBool,
}

impl Migration {
    pub(super) fn new(client: Arc<Client>, store: String, found: Discovered, discovered: bool) -> Self {
        let (checked, both) = (Mutex::new(Instant::now()), AtomicBool::new(found.both));
        Self { client, store, group: found.group, discovered, checked, both }
    }

    /// Looks whether the group is still the one to use.
    pub(super) async fn check(&self) -> Result<()> {
        if !self.discovered {
            return Ok(());
        }
        *self.checked.lock().expect("nobody panics while holding it") = Instant::now();
        match group::discover(&self.client).await {
            Ok(found) if found.group != self.group => Err(self.unavailable(format!(
                "Calico's resources are in {} now, and this process began with {}; restart it",
                found.group.api_version(),
                self.group.api_version()
            ))),
            Ok(found) => {
                self.both.store(found.both, Ordering::Relaxed);
                Ok(())
            }
            Err(failure) => {
                debug!(?failure, "API groups not checked");
                Ok(())
            }
        }
    }

    /// As [`Self::check`], if that was long ago.
    pub(super) async fn check_sometimes(&self) -> Result<()> {
        let due = self.checked.lock().expect("nobody panics while holding it").elapsed() >= GROUP_CHECK;
        if due { self.check().await } else { Ok(()) }
    }

    /// Looks whether an object that is reported as deleted went to the other API group, as it does when the classic
    /// definitions are removed at the end of a migration, and their objects with them.
    pub(super) async fn check_deletion(&self, key: &Key) -> Result<()> {
        if !self.discovered || key.kind().is_core() {
            return Ok(());
        }
        self.check_sometimes().await?;
        let other = self.group.other();
        let Some(path) = other.object(key, &key.name()).filter(|_| self.both.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        match self.client.get(&path).await {
            Ok(_) => Err(self.unavailable(format!(
                "Calico's resources are going to {}, and {key} is there already; restart this process when all are",
                other.api_version()
            ))),
            Err(_) => Ok(()),
        }
    }

    /// Whether the cluster lacks this kind of ours and has others: it was installed by a version that did not know it.
    ///
    /// Without any of our kinds it is not installed yet, and a kind that only the other group has is on its way there.
    pub(super) async fn lacks(&self, kind: Kind) -> bool {
        if kind.is_core() || self.group.has(&self.client, kind).await != Ok(Some(false)) {
            return false;
        }
        matches!(self.group.other().has(&self.client, kind).await, Ok(None | Some(false)))
    }

    fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable { store: self.store.clone(), reason }
    }
}
