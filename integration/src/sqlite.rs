//! Damage to an SQLite store, as a failing disk or a careless hand would do it.

use anyhow::{Result, ensure};
use rusqlite::Connection;

/// The keys of a kind that hold a value.
///
/// # Errors
/// SQLite's.
pub fn keys(connection: &Connection, kind: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT key FROM log WHERE kind = ?1 AND current = 1 AND deleted = 0")?;
    let rows = statement.query_map([kind], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes something under a key that is no value.
///
/// # Errors
/// SQLite's.
pub fn spoil(connection: &mut Connection, kind: &str, key: &str, value: &str) -> Result<()> {
    let tx = connection.transaction()?;
    let find = "SELECT revision FROM log WHERE kind = ?1 AND key = ?2 AND current = 1";
    let previous: i64 = tx.query_row(find, [kind, key], |row| row.get(0))?;
    ensure!(
        tx.execute("UPDATE log SET current = 0 WHERE revision = ?1", [previous])? == 1,
        "{kind} {key} is not there"
    );
    tx.execute(
        "INSERT INTO log (kind, key, previous, deleted, current, value) VALUES (?1, ?2, ?3, 0, 1, ?4)",
        (kind, key, previous, value),
    )?;
    tx.commit()?;
    Ok(())
}
