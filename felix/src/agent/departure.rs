//! What is done of a DEL after it is answered: interfaces are removed and addresses released, many at once.
//!
//! The kernel takes some 20 ms to remove an interface, most of it waiting for its processors, and as long to remove a hundred.
//! So DEL only switches the interface off, which takes its routes with it, and notes the release on disk; then it is
//! answered. What follows is one deletion of a group and one transaction for all that came meanwhile. Until then the sandbox has
//! its turn at its endpoint: an ADD for the same pod waits for it. Addresses are released only when their interfaces
//! are gone.

use std::path::PathBuf;
use std::sync::Arc;

use calico_agent::Sandbox;
use calico_api::WorkloadEndpointSpec;
use calico_datastore::{Error, Write};
use calico_netlink::Socket;
use futures::future::join_all;
use ipam::{Apart, Release};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tracing::{debug, warn};

use super::Agent;
use super::endpoint::Identity;
use super::work::UndoError;

/// The most departures done together: a handle and an endpoint each, and blocks, fit in one transaction.
const BATCH: usize = 48;

/// A sandbox whose DEL is answered.
#[derive(Debug)]
pub(crate) struct Departure {
    pub(crate) identity: Identity,
    pub(crate) sandbox: Sandbox,
    /// Where it is noted that it is still to be released.
    pub(crate) note: PathBuf,
    /// Nobody else does anything at its endpoint until this is dropped.
    pub(crate) _turn: OwnedMutexGuard<()>,
}

/// What the task is told.
#[derive(Debug)]
pub(crate) enum Leaving {
    /// One more.
    One(Box<Departure>),
    /// Who wants to know when all that came before is done.
    Flush(oneshot::Sender<()>),
}

/// Does what is left of departures, for ever.
pub(crate) async fn see_off(agent: Arc<Agent>, mut leaving: mpsc::Receiver<Leaving>) {
    while let Some(first) = leaving.recv().await {
        let (mut batch, mut waiting) = (Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(one) = next {
            match one {
                Leaving::One(departure) => batch.push(*departure),
                Leaving::Flush(done) => waiting.push(done),
            }
            next = if batch.len() < BATCH { leaving.try_recv().ok() } else { None };
        }
        match agent.remove_leaving().await {
            Ok(()) => agent.release_departed(batch).await,
            Err(error) => warn!(%error, sandboxes = batch.len(), "interfaces are not removed, they are tried again"),
        }
        for done in waiting {
            let _ = done.send(());
        }
    }
}

impl Agent {
    /// Removes the interfaces that are switched off for good; on return they are gone.
    ///
    /// # Errors
    /// The kernel's words.
    pub(crate) async fn remove_leaving(&self) -> Result<(), String> {
        // The kernel holds the thread for as long as it takes.
        let work = || felix_dataplane::remove_leaving(&mut Socket::open()?);
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until every departure that was answered by now is done, or given up for the moment.
    pub(crate) async fn flush(&self) {
        let (done, answer) = oneshot::channel();
        if self.departures.send(Leaving::Flush(done)).await.is_ok() {
            let _ = tokio::time::timeout(super::PATIENCE, answer).await;
        }
    }

    /// Deletes the endpoints of sandboxes that have no interface any more and releases their addresses: together, or, where
    /// that does not go smoothly, one by one. What is not done stays noted.
    async fn release_departed(&self, batch: Vec<Departure>) {
        if let Some(trouble) = &self.state.borrow().trouble {
            return warn!(trouble, sandboxes = batch.len(), "releases are remembered and done later");
        }
        let all = batch.iter().map(async |departure| {
            let Departure { identity, sandbox, .. } = departure;
            let also = if self.store.backend().is_atomic() {
                self.bounded(self.endpoint_of(identity, sandbox)).await.map(|write| write.into_iter().collect())
            } else {
                self.bounded(self.delete_endpoint(identity, sandbox)).await.map(|()| Vec::new())
            };
            also.map(|also| Release { handle: identity.handle.clone(), older: identity.legacy_handle.clone(), also })
        });
        let releases: Result<Vec<Release>, _> = join_all(all).await.into_iter().collect();
        let together = match releases {
            Ok(releases) => self.addresses.release_together(releases).await,
            Err(error) => {
                debug!(%error, "an endpoint cannot be deleted with the others");
                Err(Apart::Needed)
            }
        };
        match together {
            Ok(()) => batch.iter().for_each(forget),
            Err(Apart::Datastore(error)) if error.is_temporary() => {
                warn!(%error, sandboxes = batch.len(), "releases are remembered and done later");
            }
            Err(reason) => {
                debug!(%reason, "sandboxes are released one by one");
                self.release_one_by_one(batch).await;
            }
        }
    }

    async fn release_one_by_one(&self, batch: Vec<Departure>) {
        for departure in batch {
            match self.undo(&departure.identity, &departure.sandbox).await {
                Ok(()) => forget(&departure),
                Err(error) => {
                    warn!(container = departure.sandbox.container_id, %error, "the release is remembered and done later");
                    if UndoError::is_silence(&error) {
                        return;
                    }
                }
            }
        }
    }

    /// The deletion of the sandbox's endpoint, if it is still its own.
    async fn endpoint_of(&self, identity: &Identity, sandbox: &Sandbox) -> Result<Option<Write>, Error> {
        match self.store.get::<WorkloadEndpointSpec>(&identity.key).await {
            Ok(stored) if stored.spec.container_id == sandbox.container_id => Write::delete(&stored).map(Some),
            Ok(_) | Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A release that is done need not be remembered any more.
fn forget(departure: &Departure) {
    debug!(container = departure.sandbox.container_id, "released");
    if let Err(error) = std::fs::remove_file(&departure.note) {
        warn!(file = %departure.note.display(), %error, "a release that is done is still remembered");
    }
}
