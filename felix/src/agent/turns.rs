//! One at a time for each endpoint: whose turn is it?
//!
//! An orchestrator may kill a plugin and connect the same pod anew, or disconnect it, while the agent still works for the
//! killed one. Both write one endpoint and one interface: what the first still does, or undoes, must not come after the
//! second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use calico_api::Key;
use tokio::sync::OwnedMutexGuard;

/// The turns that are taken or waited for.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<Key, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    /// Waits for the turn at an endpoint, in the order of coming; it lasts as long as what is returned.
    pub(crate) async fn wait(&self, endpoint: &Key) -> OwnedMutexGuard<()> {
        self.of(endpoint).lock_owned().await
    }

    /// Takes the turn at an endpoint if nobody has it.
    pub(crate) fn take(&self, endpoint: &Key) -> Option<OwnedMutexGuard<()>> {
        self.of(endpoint).try_lock_owned().ok()
    }

    fn of(&self, endpoint: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // No more are kept than there are conversations.
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(endpoint).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(endpoint.clone(), Arc::downgrade(&turn));
        turn
    }
}
