//! A write is on the disk before its writer hears of it, and nobody waits for the disk with a lock in hand.
//!
//! SQLite could do that by itself (`synchronous = FULL`), but within the transaction: on a slow disk all processes' writes
//! would stand in one line, each as long as a sync. Here a commit only reaches the kernel, and so every other process;
//! then a thread syncs the write-ahead log, once for all commits that wait for it. The log is only appended to, so a sync
//! takes what came before along: whoever has built on another's write and hears that his own is safe knows the same of that one.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// Enough for a call of the kernel and an answer.
const STACK: usize = 128 * 1024;

/// What is done when the disk has it, or has refused it.
type Told = Box<dyn FnOnce(Result<(), String>) + Send>;

/// The handle on the thread; when it is dropped, the thread answers what waits and ends.
pub(super) struct Syncer(mpsc::Sender<Told>);

impl Syncer {
    /// Starts the thread for the write-ahead log at `wal`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(wal: PathBuf) -> io::Result<Self> {
        Self::with(move || sync(&wal))
    }

    fn with(mut sync: impl FnMut() -> Result<(), String> + Send + 'static) -> io::Result<Self> {
        let (sender, waiting) = mpsc::channel::<Told>();
        std::thread::Builder::new().name("sqlite-sync".to_owned()).stack_size(STACK).spawn(move || {
            while let Ok(first) = waiting.recv() {
                // Taken before the sync: what is committed while it runs may not be part of it.
                let all: Vec<Told> = std::iter::once(first).chain(waiting.try_iter()).collect();
                let outcome = sync();
                all.into_iter().for_each(|told| told(outcome.clone()));
            }
        })?;
        Ok(Self(sender))
    }

    /// Has `told` called when everything that is committed by now is on the disk.
    pub(super) fn after(&self, told: impl FnOnce(Result<(), String>) + Send + 'static) {
        if let Err(mpsc::SendError(told)) = self.0.send(Box::new(told)) {
            told(Err("the thread that writes to the disk has ended".to_owned()));
        }
    }
}

/// Opened each time: the log may be another file by now. Closing it drops no lock, SQLite has none on this file.
fn sync(wal: &Path) -> Result<(), String> {
    match File::open(wal).and_then(|file| file.sync_data()) {
        // The last who used it has folded it into the file, and synced that.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!(
            "it was written, but may be lost in a power cut, since {} cannot be synced: {error}",
            wal.display()
        )),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn one_sync_serves_all_that_waited_when_it_began_and_none_that_came_later() {
        let (go, gate) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        let (said, hear) = mpsc::channel();
        let syncs = Arc::new(AtomicU32::new(0));
        let syncer = {
            let syncs = syncs.clone();
            Syncer::with(move || {
                let number = syncs.fetch_add(1, Ordering::Relaxed) + 1;
                began.send(()).unwrap();
                gate.recv().unwrap();
                if number == 2 { Err("the disk is gone".to_owned()) } else { Ok(()) }
            })
            .unwrap()
        };
        let ask = |name: &'static str| {
            let said = said.clone();
            syncer.after(move |outcome| said.send((name, outcome)).unwrap());
        };
        ask("first");
        begins.recv_timeout(LIMIT).unwrap();
        ask("second");
        ask("third");
        go.send(()).unwrap();
        assert_eq!(hear.recv_timeout(LIMIT).unwrap(), ("first", Ok(())));
        begins.recv_timeout(LIMIT).unwrap();
        assert!(hear.try_recv().is_err(), "they came after the first sync had begun");
        go.send(()).unwrap();
        let refused = Err("the disk is gone".to_owned());
        assert_eq!(hear.recv_timeout(LIMIT).unwrap(), ("second", refused.clone()));
        assert_eq!(hear.recv_timeout(LIMIT).unwrap(), ("third", refused));
        assert_eq!(syncs.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_log_that_is_gone_is_in_the_file_and_one_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let outcome = |name: &str| {
            let (said, hear) = mpsc::channel();
            let syncer = Syncer::start(dir.path().join(name)).unwrap();
            syncer.after(move |outcome| said.send(outcome).unwrap());
            hear.recv_timeout(LIMIT).unwrap()
        };
        assert_eq!(outcome("gone-wal"), Ok(()));
        assert!(outcome("file/wal").unwrap_err().contains("file/wal cannot be synced"));
    }
}
