//! A snapshot, *in sync*, and then only differences, across lost connections.
//!
//! One task owns a `Source` per kind (list, watch, back off, again) and merges what they say;
//! what is a difference is decided by `Snapshot`, which does no I/O.

mod backoff;
mod snapshot;
mod source;

use std::collections::BTreeSet;

use calico_api::{Key, Kind};
use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use tokio::sync::mpsc;

use self::source::{Event, Source};
use crate::{Entry, Fault, Filter, Store};

/// How many updates may wait for the receiver; more stay with the back end.
const CAPACITY: usize = 128;

/// One step of what a watcher sees.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// Created or updated; the same revision twice only if a [`Self::Fault`] came between.
    Put(Entry),
    /// Gone; also said of what was only ever known as a fault.
    Delete(Key),
    /// In the store, but unreadable: keep the last good version, and tell somebody.
    Fault(Fault),
    /// Everything that was in the store at the start has been delivered. Once.
    InSync,
    /// The store stopped answering (`Some` says why) or answers again (`None`).
    Trouble(Option<String>),
}

/// Watches several kinds at once, in a task that lives as long as the receiver.
///
/// Changes of one kind come in the store's order; between kinds there is no order.
/// A lost watch is taken up again from its last revision, or by a relist that yields only differences;
/// waits between attempts grow from 100 ms to 5 s.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn watch(store: &Store, kinds: Vec<(Kind, Filter)>) -> mpsc::Receiver<Update> {
    let (out, updates) = mpsc::channel(CAPACITY);
    let sources: Vec<_> =
        kinds.into_iter().map(|(kind, filter)| Source::new(store.backend().clone(), kind, filter)).collect();
    tokio::spawn(async move {
        tokio::select! {
            () = out.closed() => {}
            () = merge(sources, &out) => {}
        }
    });
    updates
}

/// Sends what the sources say, until the receiver is gone.
async fn merge(sources: Vec<Source>, out: &mpsc::Sender<Update>) {
    let mut state = State { waiting: sources.len(), ..State::default() };
    let streams = sources.into_iter().enumerate().map(|(index, source)| {
        futures::stream::unfold(source, |mut source| async {
            let event = source.next().await;
            Some((event, source))
        })
        .map(move |event| (index, event))
        .boxed()
    });
    let mut events: futures::stream::SelectAll<BoxStream<'_, (usize, Event)>> = select_all(streams);
    if state.waiting == 0 && out.send(Update::InSync).await.is_err() {
        return;
    }
    while let Some((index, event)) = events.next().await {
        if let Some(update) = state.update(index, event)
            && out.send(update).await.is_err()
        {
            return;
        }
    }
}

/// What is known of the sources together.
#[derive(Default)]
struct State {
    /// How many have not delivered their first snapshot.
    waiting: usize,
    failing: BTreeSet<usize>,
    /// The reasons that were told since all was well; none is told twice.
    told: BTreeSet<String>,
}

impl State {
    /// What an event of a source means to the watcher.
    fn update(&mut self, index: usize, event: Event) -> Option<Update> {
        match event {
            Event::Update(update) => Some(update),
            Event::Synced => {
                self.waiting -= 1;
                (self.waiting == 0).then_some(Update::InSync)
            }
            Event::Failed(reason) => {
                self.failing.insert(index);
                self.told.insert(reason.clone()).then_some(Update::Trouble(Some(reason)))
            }
            Event::Well => {
                if !self.failing.remove(&index) || !self.failing.is_empty() {
                    return None;
                }
                self.told.clear();
                Some(Update::Trouble(None))
            }
        }
    }
}

#[cfg(test)]
mod tests;
