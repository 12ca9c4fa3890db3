//! One kind's way through list, watch, failure and back.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use calico_api::Kind;
use futures::StreamExt;
use futures::future::BoxFuture;
use tracing::{info, warn};

use super::Update;
use super::backoff::{Backoff, random};
use super::snapshot::Snapshot;
use crate::{Backend, Changes, Error, Filter, Parts, Revision};

/// A watch that lasted so long was a good one.
const LASTING: Duration = Duration::from_secs(5);

/// After how long a kind that the store does not have is looked for again.
const ABSENT: Duration = Duration::from_secs(30);

/// What a source says.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// Something for the watcher.
    Update(Update),
    /// The first snapshot is complete.
    Synced,
    /// An attempt failed; others follow.
    Failed(String),
    /// The store answers.
    Well,
}

/// The watch of one kind.
pub(super) struct Source {
    backend: Arc<dyn Backend>,
    kind: Kind,
    filter: Filter,
    snapshot: Snapshot,
    synced: bool,
    /// Whether there was ever a listing.
    listed: bool,
    /// Whether the store does not have this kind, and never had as far as is known: then there is nothing of it.
    absent: bool,
    failing: bool,
    /// The listing that is under way, and the revision of its last part.
    parts: Option<(Parts, Revision)>,
    changes: Option<(Changes, Instant)>,
    backoff: Backoff,
    /// How long to wait before the next attempt.
    wait: Option<Duration>,
    /// What ends that wait early.
    stirred: Option<BoxFuture<'static, ()>>,
    ready: VecDeque<Event>,
}

impl Source {
    /// A source that has not begun.
    pub(super) fn new(backend: Arc<dyn Backend>, kind: Kind, filter: Filter) -> Self {
        Self {
            backend,
            kind,
            filter,
            snapshot: Snapshot::default(),
            synced: false,
            listed: false,
            absent: false,
            failing: false,
            parts: None,
            changes: None,
            backoff: Backoff::default(),
            wait: None,
            stirred: None,
            ready: VecDeque::new(),
        }
    }

    /// What it says next; there is always something, sooner or later.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            if let Some(wait) = self.wait.take() {
                let stirred = self.stirred.take().unwrap_or_else(|| self.backend.stirred());
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = stirred => {}
                }
            }
            // Before the attempt, so that nothing is missed that happens during it.
            self.stirred = self.changes.is_none().then(|| self.backend.stirred());
            if let Err(error) = self.step().await {
                self.fail(&error);
            }
        }
    }

    /// Does the one thing that comes next.
    async fn step(&mut self) -> Result<(), Error> {
        if let Some((changes, _)) = &mut self.changes {
            match changes.next().await {
                Some(change) => {
                    let update = self.snapshot.change(change?);
                    self.backoff.reset();
                    self.ready.extend(update.map(Event::Update));
                }
                None => self.close(),
            }
            return Ok(());
        }
        let Some(at) = self.snapshot.at().cloned() else { return self.list().await };
        let changes = self.backend.watch(self.kind, &self.filter, &at).await?;
        self.changes = Some((changes, Instant::now()));
        if mem::take(&mut self.failing) {
            self.ready.push_back(Event::Well);
        }
        Ok(())
    }

    /// Takes the next part of a listing.
    async fn list(&mut self) -> Result<(), Error> {
        let (parts, last) = match &mut self.parts {
            Some(parts) => parts,
            none => {
                let parts = self.backend.parts(self.kind, &self.filter).await?;
                self.snapshot.begin();
                none.insert((parts, Revision::default()))
            }
        };
        let Some(part) = parts.next().await.transpose()? else {
            let revision = mem::take(last);
            self.parts = None;
            self.ready.extend(self.snapshot.end(revision).into_iter().map(Event::Update));
            if !mem::replace(&mut self.synced, true) {
                self.ready.push_back(Event::Synced);
            }
            return Ok(());
        };
        last.clone_from(&part.revision);
        if mem::take(&mut self.absent) {
            info!(kind = %self.kind, "the store has this kind now");
        }
        self.listed = true;
        self.ready.extend(self.snapshot.part(part).into_iter().map(Event::Update));
        Ok(())
    }

    /// Gives up the present watch or listing, and waits before the next.
    fn close(&mut self) {
        self.parts = None;
        if self.changes.take().is_some_and(|(_, since)| since.elapsed() >= LASTING) {
            self.backoff.reset();
        }
        self.wait = Some(self.backoff.next(random()));
    }

    /// Goes on without a kind that the store does not have: that is the same as having none of it. But what was once
    /// there is not gone with its kind: then something is wrong with the store.
    fn do_without(&mut self, reason: &str) {
        if !mem::replace(&mut self.absent, true) {
            warn!(kind = %self.kind, reason, "the store does not have this kind: going on as if there were none of it");
        }
        if !mem::replace(&mut self.synced, true) {
            self.ready.push_back(Event::Synced);
        }
        if mem::take(&mut self.failing) {
            self.ready.push_back(Event::Well);
        }
        self.wait = Some(ABSENT - ABSENT / 4 * u32::try_from(random() % 1000).unwrap_or_default() / 1000);
    }

    fn fail(&mut self, error: &Error) {
        self.close();
        if let (Error::NotServed { reason, .. }, false) = (error, self.listed) {
            return self.do_without(reason);
        }
        if matches!(error, Error::Compacted(_)) {
            self.snapshot.lose();
        } else {
            self.failing = true;
            self.ready.push_back(Event::Failed(error.to_string()));
        }
    }
}
