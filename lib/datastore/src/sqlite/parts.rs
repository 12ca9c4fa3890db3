//! A large listing, read by a thread of its own on a connection of its own: one consistent look at the file, of which
//! nobody holds more than a few hundred rows, and which keeps no other operation waiting.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use calico_api::Kind;
use futures::StreamExt as _;
use futures::stream;
use rusqlite::Connection;
use tokio::sync::mpsc;

use super::file::File;
use super::log::{self, Row};
use super::worker::{Failure, GRACE, PATIENCE, STACK, Worker, describe};
use super::{entry, revision};
use crate::{Error, Filter, Listing, Parts, Result};

/// How many rows make a part. What has fewer is read with the rest of the operations.
pub(super) const PART: usize = 256;

/// What the thread says: a part, or that there are no more.
type Said = Result<Option<Listing>, Failure>;

/// Rows as a part of a listing.
pub(super) fn part(kind: Kind, filter: &Filter, rows: &[Row], newest: i64) -> Listing {
    let mut listing = Listing { revision: revision(newest), ..Listing::default() };
    for row in rows {
        match entry(kind, row) {
            Ok(entry) if filter.admits(&entry.key) => listing.entries.push(entry),
            Err(fault) if fault.key.as_ref().is_none_or(|key| filter.admits(key)) => listing.faults.push(fault),
            _ => {}
        }
    }
    listing
}

/// Lists in parts.
pub(super) fn parts(worker: Arc<Worker>, kind: Kind, filter: Filter) -> Result<Parts> {
    // One part waits while another is being read.
    let (sender, receiver) = mpsc::channel(1);
    let path = worker.path().to_owned();
    std::thread::Builder::new()
        .name("sqlite-list".to_owned())
        .stack_size(STACK)
        .spawn(move || {
            let end = read(&path, kind, &filter, &sender).map(|()| None);
            let _ = sender.blocking_send(end);
        })
        .map_err(|error| worker.unavailable(format!("cannot start a thread: {error}")))?;
    let parts = stream::unfold(Some((receiver, worker)), |state| async {
        let (mut receiver, worker) = state?;
        let said = match tokio::time::timeout(PATIENCE + GRACE, receiver.recv()).await {
            Ok(Some(said)) => said.map_err(|failure| worker.explain(failure)),
            Ok(None) => Err(worker.unavailable("the thread that lists has ended")),
            Err(_) => Err(worker.unavailable("the file system does not answer")),
        };
        match said {
            Ok(None) => None,
            Ok(Some(part)) => Some((Ok(part), Some((receiver, worker)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(parts.boxed())
}

/// Reads until the end, or until nobody wants more.
fn read(path: &Path, kind: Kind, filter: &Filter, to: &mpsc::Sender<Said>) -> Result<(), Failure> {
    let mut file = File::at(path);
    let connection: &mut Connection = file
        .connection(Instant::now() + PATIENCE)
        .map_err(|reason| Failure::Told(Error::Unavailable { store: describe(&path.to_string_lossy()), reason }))?;
    log::each(connection, kind, filter, PART, |rows, newest| {
        to.blocking_send(Ok(Some(part(kind, filter, rows, newest)))).is_ok()
    })?;
    Ok(())
}
