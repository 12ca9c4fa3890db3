//! A watch of one kind: a place in the log that moves on whenever the kind's signal is raised.

use std::collections::VecDeque;
use std::sync::Arc;

use calico_api::Kind;
use futures::StreamExt;
use tokio::sync::watch::Receiver;

use super::log::{self, Row, Step};
use super::worker::Worker;
use super::{entry, key, revision};
use crate::{Change, Changes, Error, Filter, Result, Revision};

struct Watch {
    worker: Arc<Worker>,
    kind: Kind,
    filter: Filter,
    at: i64,
    signal: Receiver<u64>,
    /// Read, and not yet taken.
    ready: VecDeque<Change>,
    /// Whether the log may hold more than was read.
    more: bool,
    ended: bool,
}

/// The changes of a kind after `from`.
pub(super) async fn watch(worker: Arc<Worker>, kind: Kind, filter: Filter, from: &Revision) -> Result<Changes> {
    let at = from.0.parse().map_err(|_| Error::Compacted(from.0.clone()))?;
    let signal = worker.signal(kind).await?;
    let mut watch = Watch { worker, kind, filter, at, signal, ready: VecDeque::new(), more: true, ended: false };
    // The first read here, so that a revision that is gone is refused at once.
    watch.read().await?;
    Ok(futures::stream::unfold(watch, |mut watch| async {
        let change = watch.next().await?;
        Some((change, watch))
    })
    .boxed())
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Change>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            if self.ended {
                return None;
            }
            if !self.more && self.signal.changed().await.is_err() {
                return None;
            }
            if let Err(error) = self.read().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        self.signal.mark_unchanged();
        let (kind, from) = (self.kind, self.at);
        match self.worker.run(false, move |connection| Ok(log::since(connection, kind, from)?)).await? {
            Step::Forgotten => Err(Error::Compacted(from.to_string())),
            Step::Rows { rows, upto, more } => {
                let changes: Vec<_> = rows.iter().filter_map(|row| self.change(row)).collect();
                self.ready.extend(changes);
                if self.ready.is_empty() && upto != self.at {
                    self.ready.push_back(Change::Bookmark(revision(upto)));
                }
                self.at = upto;
                self.more = more;
                Ok(())
            }
        }
    }

    fn change(&self, row: &Row) -> Option<Change> {
        let key = key::parse(self.kind, &row.key);
        if key.as_ref().is_some_and(|key| !self.filter.admits(key)) {
            return None;
        }
        if row.deleted {
            return Some(Change::Delete { key: key?, revision: revision(row.revision) });
        }
        Some(match entry(self.kind, row) {
            Ok(entry) => Change::Put(entry),
            Err(fault) => Change::Fault(fault),
        })
    }
}
