//! The embedded store: one SQLite file, shared by the processes of one machine.
//!
//! A log table with revisions; compare-and-swap by revision in one `IMMEDIATE` transaction; watches
//! that read the log from where they are whenever somebody has written, in this process or another.
//! Processes in different mount namespaces may share the file by any path, as long as its directory is the
//! same one: SQLite keeps two files beside it (`-wal`, `-shm`), and we a third (`-notify`). What was written is on the disk
//! when its writer hears of it; others may see it a moment earlier.

mod file;
mod key;
mod log;
mod parts;
mod sync;
mod watch;
mod worker;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use calico_api::{Key, Kind};
use futures::StreamExt as _;
use futures::stream;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde_json::Value;

use self::log::Row;
use self::worker::{Failure, Worker};
use crate::{Backend, Changes, Entry, Error, Fault, Filter, Listing, Parts, Result, Revision, Write, value};

/// How many superseded writes are kept for watches that are behind. A process that falls further behind lists anew,
/// which costs less than the room that old blocks take.
const KEEP: u64 = 1000;

/// The embedded store.
#[derive(Clone)]
pub struct Sqlite {
    worker: Arc<Worker>,
    keep: u64,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sqlite").field(&self.worker.name()).finish()
    }
}

impl Sqlite {
    /// Opens the file, and makes it (mode 0600) if it is not there; `:memory:` is a new store of its own, without a file.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with path and cause, within two seconds if others hold the lock, within five if the file system hangs.
    pub async fn open(path: &str) -> Result<Self> {
        let worker = Worker::start(worker::describe(path), path.to_owned()).await?;
        Ok(Self { worker: Arc::new(worker), keep: KEEP })
    }

    /// A new store without a file, for tests.
    ///
    /// # Errors
    /// If no thread can be started.
    pub async fn memory() -> Result<Self> {
        Self::open(file::MEMORY).await
    }

    /// The same store, of whose history this handle's writes keep `keep` superseded values.
    #[must_use]
    pub fn keeping(self, keep: u64) -> Self {
        Self { keep, ..self }
    }

    /// Forgets all superseded values but the newest `keep`.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn compact(&self, keep: u64) -> Result<()> {
        self.worker
            .run(true, move |connection| {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                log::compact(&tx, keep)?;
                Ok(tx.commit()?)
            })
            .await
    }

    /// The present values of a kind, at most so many, and the revision of that.
    async fn rows(&self, kind: Kind, filter: &Filter, most: usize) -> Result<(Vec<Row>, i64)> {
        let wanted = filter.clone();
        self.worker.run(false, move |connection| Ok(log::list(connection, kind, &wanted, most)?)).await
    }

    /// Replaces the current value under `key` by what `change` makes of it; `None` deletes.
    async fn write<T: Send + 'static>(
        &self,
        key: Key,
        change: impl FnOnce(Option<Row>) -> Result<(Option<String>, T)> + Send + 'static,
    ) -> Result<(i64, T)> {
        let keep = self.keep;
        self.worker
            .run(true, move |connection| {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let row = log::current(&tx, &key)?;
                let previous = row.as_ref().map_or(0, |row| row.revision);
                let (value, result) = change(row)?;
                let revision = log::append(&tx, &key, previous, value.as_deref(), keep)?;
                tx.commit()?;
                Ok::<_, Failure>((revision, result))
            })
            .await
    }
}

fn revision(number: i64) -> Revision {
    Revision(number.to_string())
}

/// A row as an entry, or as a fault.
fn entry(kind: Kind, row: &Row) -> std::result::Result<Entry, Fault> {
    match key::parse(kind, &row.key) {
        Some(key) => value::read(key, &row.key, &row.value, revision(row.revision)),
        None => Err(Fault {
            kind,
            key: None,
            name: row.key.clone(),
            reason: format!("\"{}\" is not the key of a {kind}", row.key),
        }),
    }
}

/// One write of a transaction; the revision of what it wrote or deleted.
fn log_write(tx: &Transaction<'_>, write: Write, keep: u64) -> Result<Revision, Failure> {
    let row = log::current(tx, write.key())?;
    let (previous, text, key) = match write {
        Write::Create { key, .. } if row.is_some() => return Err(Error::AlreadyExists(key).into()),
        Write::Create { key, value } => (0, Some(value.to_string()), key),
        Write::Update { key, mut value, revision } => {
            let row = expect(&key, row, Some(&revision))?;
            keep_identity(key.kind(), &mut value, &row);
            (row.revision, Some(value.to_string()), key)
        }
        Write::Delete { key, revision } => (expect(&key, row, Some(&revision))?.revision, None, key),
    };
    let written = log::append(tx, &key, previous, text.as_deref(), keep)?;
    Ok(revision(if text.is_some() { written } else { previous }))
}

/// Who a resource is stays, where an update does not say it.
fn keep_identity(kind: Kind, value: &mut Value, row: &Row) {
    if !value::knows_identity(kind, value)
        && let Ok(previous) = serde_json::from_slice(&row.value)
    {
        value::keep_identity(value, &previous);
    }
}

/// The row, if it is there at the revision that the caller knows.
fn expect(key: &Key, row: Option<Row>, expected: Option<&Revision>) -> Result<Row> {
    let row = row.ok_or_else(|| Error::NotFound(key.clone()))?;
    match expected {
        Some(expected) if *expected != revision(row.revision) => Err(Error::Conflict(key.clone())),
        _ => Ok(row),
    }
}

#[async_trait]
impl Backend for Sqlite {
    fn describe(&self) -> String {
        self.worker.name().to_owned()
    }

    async fn get(&self, key: &Key) -> Result<Entry> {
        let wanted = key.clone();
        let row = self.worker.run(false, move |connection| Ok(log::current(connection, &wanted)?)).await?;
        let row = row.ok_or_else(|| Error::NotFound(key.clone()))?;
        entry(key.kind(), &row).map_err(Error::Corrupt)
    }

    async fn list(&self, kind: Kind, filter: &Filter) -> Result<Listing> {
        filter.check(kind, "list")?;
        let (rows, newest) = self.rows(kind, filter, usize::MAX).await?;
        Ok(parts::part(kind, filter, &rows, newest))
    }

    async fn parts(&self, kind: Kind, filter: &Filter) -> Result<Parts> {
        filter.check(kind, "list")?;
        // A store in memory has no second connection.
        let most = if self.worker.in_memory() { usize::MAX } else { parts::PART + 1 };
        let (rows, newest) = self.rows(kind, filter, most).await?;
        if rows.len() == most {
            return parts::parts(self.worker.clone(), kind, filter.clone());
        }
        let whole = parts::part(kind, filter, &rows, newest);
        Ok(stream::iter([Ok(whole)]).boxed())
    }

    async fn create(&self, key: &Key, mut value: Value) -> Result<Entry> {
        value::strip(&mut value);
        value::check_write(key, &value)?;
        value::give_identity(key.kind(), &mut value);
        let (text, wanted) = (value.to_string(), key.clone());
        let (number, ()) = self
            .write(key.clone(), move |row| match row {
                Some(_) => Err(Error::AlreadyExists(wanted)),
                None => Ok((Some(text), ())),
            })
            .await?;
        value::stamp(&mut value, &revision(number));
        Ok(Entry { key: key.clone(), value, revision: revision(number) })
    }

    async fn update(&self, key: &Key, mut value: Value, expected: &Revision) -> Result<Entry> {
        value::strip(&mut value);
        value::check_write(key, &value)?;
        let (wanted, expected) = (key.clone(), expected.clone());
        let (number, mut value) = self
            .write(key.clone(), move |row| {
                let row = expect(&wanted, row, Some(&expected))?;
                keep_identity(wanted.kind(), &mut value, &row);
                Ok((Some(value.to_string()), value))
            })
            .await?;
        value::stamp(&mut value, &revision(number));
        Ok(Entry { key: key.clone(), value, revision: revision(number) })
    }

    async fn delete(&self, key: &Key, expected: Option<&Revision>) -> Result<Entry> {
        let (wanted, expected) = (key.clone(), expected.cloned());
        let (_, row) = self.write(key.clone(), move |row| Ok((None, expect(&wanted, row, expected.as_ref())?))).await?;
        // What cannot be read can still be deleted.
        Ok(entry(key.kind(), &row).unwrap_or_else(|_| Entry {
            key: key.clone(),
            value: Value::Null,
            revision: revision(row.revision),
        }))
    }

    fn is_atomic(&self) -> bool {
        true
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Revision>> {
        let mut ready = Vec::with_capacity(writes.len());
        for mut write in writes {
            if let Write::Create { key, value } | Write::Update { key, value, .. } = &mut write {
                value::strip(value);
                value::check_write(key, value)?;
            }
            if let Write::Create { key, value } = &mut write {
                value::give_identity(key.kind(), value);
            }
            ready.push(write);
        }
        let keep = self.keep;
        let commit = move |connection: &mut Connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let revisions =
                ready.into_iter().map(|write| log_write(&tx, write, keep)).collect::<Result<_, Failure>>()?;
            tx.commit()?;
            Ok(revisions)
        };
        self.worker.run(true, commit).await
    }

    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        filter.check(kind, "watch")?;
        watch::watch(self.worker.clone(), kind, filter.clone(), from).await
    }
}
