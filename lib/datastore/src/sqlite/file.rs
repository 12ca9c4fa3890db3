//! The file: opened, checked, opened again when it has been replaced or was away.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::log;

/// What a store in memory is called.
pub(super) const MEMORY: &str = ":memory:";

/// The connection to the file, as long as the file is there.
pub(super) struct File {
    path: PathBuf,
    open: Option<Open>,
    /// How often another file was found under the path; the first does not count.
    replaced: u64,
    last_inode: Option<(u64, u64)>,
}

struct Open {
    connection: Connection,
    inode: Option<(u64, u64)>,
    notify: Option<std::fs::File>,
}

impl File {
    /// Opens the file; makes it if it is not there.
    pub(super) fn create(path: &str, deadline: Instant) -> Result<Self, String> {
        let mut file = Self::at(Path::new(path));
        if !file.in_memory() {
            make(&file.path)?;
        }
        file.connection(deadline)?;
        Ok(file)
    }

    /// The file that is there, not open yet.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, replaced: 0, last_inode: None }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is no file at all.
    pub(super) fn in_memory(&self) -> bool {
        self.path.as_os_str() == MEMORY
    }

    /// The file that every writer touches after a commit.
    pub(super) fn notify_path(&self) -> PathBuf {
        self.beside("-notify")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(suffix);
        path.into()
    }

    /// What was written and is not yet in the file itself.
    pub(super) fn wal_path(&self) -> PathBuf {
        self.beside("-wal")
    }

    /// How often the file was replaced by another since the start.
    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// A connection to the file that is under the path now, willing to wait for locks until `deadline`.
    pub(super) fn connection(&mut self, deadline: Instant) -> Result<&mut Connection, String> {
        let inode = if self.in_memory() { None } else { Some(inode(&self.path)?) };
        if self.open.as_ref().is_some_and(|open| open.inode != inode) {
            self.open = None;
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => {
                let connection = open(&self.path, deadline)?;
                let notify = if self.in_memory() { None } else { open_notify(&self.notify_path()).ok() };
                if self.last_inode.is_some() && self.last_inode != inode {
                    self.replaced += 1;
                }
                self.last_inode = inode;
                Open { connection, inode, notify }
            }
        };
        let open = self.open.insert(open);
        wait_for_locks(&mut open.connection, deadline).map_err(|error| error.to_string())?;
        Ok(&mut open.connection)
    }

    /// Tells the other processes that there is something new.
    pub(super) fn ring(&mut self) {
        let notify_path = self.notify_path();
        let Some(open) = &mut self.open else { return };
        if open.inode.is_none() {
            return;
        }
        // Somebody may have deleted it: nobody watches a file without a name.
        let named = open.notify.as_ref().and_then(|file| file.metadata().ok()).is_some_and(|meta| meta.nlink() > 0);
        if !named {
            open.notify = open_notify(&notify_path).ok();
        }
        // Without it the others find out by their slow poll.
        let _ = open.notify.as_ref().map(|file| file.write_all_at(b"\n", 0));
    }

    /// Folds the log into the file as far as no reader needs it; a failure only leaves it for later.
    pub(super) fn fold(&mut self) {
        if let Some(open) = &mut self.open {
            let _ = open.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        }
    }

    /// Makes the next use open the file anew, after a failure that a fresh connection may not have.
    pub(super) fn close(&mut self) {
        if !self.in_memory() {
            self.open = None;
        }
    }
}

fn inode(path: &Path) -> Result<(u64, u64), String> {
    let meta = std::fs::metadata(path).map_err(|error| missing(path, &error))?;
    Ok((meta.dev(), meta.ino()))
}

/// What to say when the file cannot be looked at.
fn missing(path: &Path, error: &io::Error) -> String {
    match path.parent() {
        Some(parent)
            if error.kind() == io::ErrorKind::NotFound && !parent.as_os_str().is_empty() && !parent.is_dir() =>
        {
            format!("the directory {} does not exist", parent.display())
        }
        _ if error.kind() == io::ErrorKind::NotFound => "the file does not exist".to_owned(),
        _ => error.to_string(),
    }
}

/// Makes an empty file that only its owner may read, if there is none.
///
/// An existing file is not opened here: closing it would drop the locks that SQLite, in this process, may hold on it.
fn make(path: &Path) -> Result<(), String> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(missing(path, &error)),
    }
}

fn open_notify(path: &Path) -> io::Result<std::fs::File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Opens an existing file and brings it to our layout. Others may be doing the same at this moment.
fn open(path: &Path, deadline: Instant) -> Result<Connection, String> {
    loop {
        match try_open(path, deadline) {
            Ok(connection) => return Ok(connection),
            // The change to WAL does not wait for locks by itself.
            Err(Refusal::Sqlite(error)) if is_busy(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Refusal::Sqlite(error)) => return Err(error.to_string()),
            Err(Refusal::Foreign(reason)) => return Err(reason),
        }
    }
}

enum Refusal {
    Sqlite(rusqlite::Error),
    Foreign(String),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

thread_local! {
    /// How long the connection that this thread uses waits for others' locks.
    static PATIENT_UNTIL: Cell<Instant> = Cell::new(Instant::now());
}

/// Has a connection wait for locks until `deadline`, whenever it is used from now on by this thread.
///
/// SQLite's own waiting sleeps longer and longer, up to 100 ms: of many writers those that came first are overtaken by
/// those that come now, and may wait in vain.
fn wait_for_locks(connection: &mut Connection, deadline: Instant) -> rusqlite::Result<()> {
    PATIENT_UNTIL.set(deadline.max(Instant::now() + Duration::from_millis(1)));
    connection.busy_handler(Some(|_| {
        let patient = Instant::now() < PATIENT_UNTIL.get();
        if patient {
            std::thread::sleep(Duration::from_millis(1));
        }
        patient
    }))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn try_open(path: &Path, deadline: Instant) -> Result<Connection, Refusal> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    wait_for_locks(&mut connection, deadline)?;
    connection.set_prepared_statement_cache_capacity(16);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL: no order of writes is broken by a power cut; that none is lost of which its writer has heard is `sync.rs`' part.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    // The log is folded into the file when nothing else is to be done; this is for a thread that never has nothing to do.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "cache_size", -512)?;
    let version =
        |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    if version(&connection)? != log::VERSION {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        match version(&tx)? {
            log::VERSION => {}
            0 => {
                let objects: i64 = tx.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))?;
                if objects > 0 {
                    return Err(Refusal::Foreign("the file is an SQLite database of something else".to_owned()));
                }
                tx.execute_batch(log::SCHEMA)?;
                log::start_at(&tx, first_revision())?;
                tx.pragma_update(None, "user_version", log::VERSION)?;
            }
            newer => {
                return Err(Refusal::Foreign(format!(
                    "the file has layout {newer}, this program knows {}; use the program that wrote it",
                    log::VERSION
                )));
            }
        }
        tx.commit()?;
    }
    Ok(connection)
}

/// Revisions of a new store start at the time in microseconds, so that none of an earlier store under the
/// same path is among them: a watch or an update that still has one is refused, not misled.
fn first_revision() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(1)
}
