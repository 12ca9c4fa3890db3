//! The log: one row a revision, and the statements on it.
//!
//! A row is one write of one key. The newest write of a key is `current` unless it is a deletion;
//! everything else is history, kept so that a watch can continue, and forgotten oldest first.

use calico_api::{Key, Kind};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::key;
use crate::Filter;

/// How many rows one step of a watch reads.
const BATCH: usize = 256;

/// Old rows are looked for at every revision that divides by this.
const COMPACT_EVERY: i64 = 256;

/// `PRAGMA user_version` of this layout.
pub(super) const VERSION: i64 = 1;

/// The layout. AUTOINCREMENT, since a revision must not come back when the newest row is forgotten.
/// `forgotten` has the newest revision of each kind that is no longer there to be watched from.
pub(super) const SCHEMA: &str = "
    CREATE TABLE log (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        kind     TEXT    NOT NULL,
        key      TEXT    NOT NULL,
        previous INTEGER NOT NULL,
        deleted  INTEGER NOT NULL,
        current  INTEGER NOT NULL,
        value    TEXT    NOT NULL
    );
    CREATE UNIQUE INDEX log_current ON log (kind, key) WHERE current = 1;
    CREATE INDEX log_history ON log (revision) WHERE current = 0;
    CREATE INDEX log_kind ON log (kind, revision);
    CREATE TABLE forgotten (kind TEXT PRIMARY KEY, revision INTEGER NOT NULL) WITHOUT ROWID;
";

/// Starts the revisions of a new store at `first`.
pub(super) fn start_at(tx: &Transaction<'_>, first: i64) -> rusqlite::Result<()> {
    tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('log', ?1)", [first])?;
    tx.execute("INSERT INTO forgotten (kind, revision) VALUES ('', ?1)", [first])?;
    Ok(())
}

/// A write as it stands in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) revision: i64,
    pub(super) key: String,
    pub(super) deleted: bool,
    pub(super) value: Vec<u8>,
}

impl Row {
    fn from_sql(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            revision: row.get(0)?,
            key: row.get(1)?,
            deleted: row.get(2)?,
            // Foreign hands may have stored a blob or a number: whatever it is, its octets are judged later.
            value: match row.get_ref(3)? {
                rusqlite::types::ValueRef::Text(octets) | rusqlite::types::ValueRef::Blob(octets) => octets.to_vec(),
                _ => Vec::new(),
            },
        })
    }
}

/// The newest revision of all.
pub(super) fn newest(conn: &Connection) -> rusqlite::Result<i64> {
    conn.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'log'")?.query_row([], |row| row.get(0))
}

/// The present value under a key.
pub(super) fn current(conn: &Connection, key: &Key) -> rusqlite::Result<Option<Row>> {
    conn.prepare_cached("SELECT revision, key, deleted, value FROM log WHERE kind = ?1 AND key = ?2 AND current = 1")?
        .query_row(params![key.kind().as_str(), key::text(key)], Row::from_sql)
        .optional()
}

/// The present values of a kind whose keys begin as the filter wants, at most so many, and the revision of that.
pub(super) fn list(
    conn: &mut Connection,
    kind: Kind,
    filter: &Filter,
    most: usize,
) -> rusqlite::Result<(Vec<Row>, i64)> {
    let tx = conn.transaction()?;
    let prefix = key::prefix(kind, filter);
    let mut statement = tx.prepare_cached(PRESENT)?;
    let rows = statement.query_map(params![kind.as_str(), prefix], Row::from_sql)?;
    let rows = of_prefix(rows, &prefix).take(most).collect::<rusqlite::Result<_>>()?;
    Ok((rows, newest(&tx)?))
}

/// The same, all of them, in parts of so many rows, which are shown with the revision of the whole until one is not wanted.
pub(super) fn each(
    conn: &mut Connection,
    kind: Kind,
    filter: &Filter,
    size: usize,
    mut show: impl FnMut(&[Row], i64) -> bool,
) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    let newest = newest(&tx)?;
    let prefix = key::prefix(kind, filter);
    let mut statement = tx.prepare_cached(PRESENT)?;
    let mut rows = of_prefix(statement.query_map(params![kind.as_str(), prefix], Row::from_sql)?, &prefix);
    loop {
        let part: Vec<Row> = rows.by_ref().take(size).collect::<rusqlite::Result<_>>()?;
        let last = part.len() < size;
        if !show(&part, newest) || last {
            return Ok(());
        }
    }
}

const PRESENT: &str =
    "SELECT revision, key, deleted, value FROM log WHERE kind = ?1 AND current = 1 AND key >= ?2 ORDER BY key";

fn of_prefix(
    rows: impl Iterator<Item = rusqlite::Result<Row>>,
    prefix: &str,
) -> impl Iterator<Item = rusqlite::Result<Row>> {
    rows.take_while(move |row| row.as_ref().map_or(true, |row| row.key.starts_with(prefix)))
}

/// Appends a write to the log and returns its revision. `previous` is the row that it replaces, 0 for none.
pub(super) fn append(
    tx: &Transaction<'_>,
    key: &Key,
    previous: i64,
    value: Option<&str>,
    keep: u64,
) -> rusqlite::Result<i64> {
    if previous != 0 {
        tx.prepare_cached("UPDATE log SET current = 0 WHERE revision = ?1")?.execute([previous])?;
    }
    tx.prepare_cached(
        "INSERT INTO log (kind, key, previous, deleted, current, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        key.kind().as_str(),
        key::text(key),
        previous,
        value.is_none(),
        value.is_some(),
        value.unwrap_or_default()
    ])?;
    let revision = tx.last_insert_rowid();
    if revision % COMPACT_EVERY == 0 {
        compact(tx, keep)?;
    }
    Ok(revision)
}

/// Forgets all of the history but its newest `keep` rows.
pub(super) fn compact(tx: &Transaction<'_>, keep: u64) -> rusqlite::Result<()> {
    let horizon: Option<i64> = tx
        .prepare_cached("SELECT revision FROM log WHERE current = 0 ORDER BY revision DESC LIMIT 1 OFFSET ?1")?
        .query_row([i64::try_from(keep).unwrap_or(i64::MAX)], |row| row.get(0))
        .optional()?;
    let Some(horizon) = horizon else { return Ok(()) };
    tx.execute(
        "INSERT INTO forgotten (kind, revision)
         SELECT kind, max(revision) FROM log WHERE current = 0 AND revision <= ?1 GROUP BY kind
         ON CONFLICT (kind) DO UPDATE SET revision = max(revision, excluded.revision)",
        [horizon],
    )?;
    tx.execute("DELETE FROM log WHERE current = 0 AND revision <= ?1", [horizon])?;
    Ok(())
}

/// One step of a watch.
pub(super) enum Step {
    /// The writes, the revision from which to go on, and whether there are more.
    Rows { rows: Vec<Row>, upto: i64, more: bool },
    /// What came after the revision is no longer, or never was, in this store.
    Forgotten,
}

/// The writes of a kind after `from`.
pub(super) fn since(conn: &mut Connection, kind: Kind, from: i64) -> rusqlite::Result<Step> {
    let tx = conn.transaction()?;
    let newest = newest(&tx)?;
    let forgotten: i64 = tx
        .prepare_cached("SELECT max(revision) FROM forgotten WHERE kind IN ('', ?1)")?
        .query_row([kind.as_str()], |row| row.get(0))?;
    if from < forgotten || from > newest {
        return Ok(Step::Forgotten);
    }
    let rows: Vec<Row> = tx
        .prepare_cached(
            "SELECT revision, key, deleted, value FROM log WHERE kind = ?1 AND revision > ?2 ORDER BY revision LIMIT ?3",
        )?
        .query_map(params![kind.as_str(), from, BATCH as i64], Row::from_sql)?
        .collect::<rusqlite::Result<_>>()?;
    let more = rows.len() == BATCH;
    let upto = match rows.last() {
        Some(last) if more => last.revision,
        _ => newest,
    };
    Ok(Step::Rows { rows, upto, more })
}

/// The kinds that were written after `from`, and the newest revision.
pub(super) fn touched(conn: &mut Connection, from: i64) -> rusqlite::Result<(Vec<String>, i64)> {
    let tx = conn.transaction()?;
    let kinds = tx
        // What was forgotten meanwhile was written, too: whoever watches it must relist.
        .prepare_cached(
            "SELECT kind FROM log WHERE revision > ?1 UNION SELECT kind FROM forgotten WHERE revision > ?1 AND kind <> ''",
        )?
        .query_map([from], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok((kinds, newest(&tx)?))
}
