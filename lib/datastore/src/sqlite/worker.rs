//! The one thread that owns the connection.
//!
//! Jobs come by a channel and a bell (an eventfd); other processes' writes come by inotify on the
//! `-notify` file, which every writer touches after its commit; a slow poll catches what both missed.
//! So no call of SQLite blocks the runtime, and the runtime needs no pool of blocking threads.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use calico_api::Kind;
use rusqlite::{Connection, ErrorCode};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;
use tokio::sync::{oneshot, watch};

use super::file::{File, MEMORY};
use super::log;
use super::sync::Syncer;
use crate::{Error, Result};

/// How long an operation may wait for its turn and for locks.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// How much later the caller gives up by itself, should the file system hang: a disk that is busy with others answers after
/// a second or two. Together as long as the other stores have, so that trouble is named within five seconds.
pub(super) const GRACE: Duration = Duration::from_secs(3);

/// How often the log is looked at although nobody has rung.
const POLL: Duration = Duration::from_secs(1);

/// The same, when the kernel refuses us an inotify instance.
const POLL_WITHOUT_INOTIFY: Duration = Duration::from_millis(100);

/// After so many writes SQLite's log is folded into the file, as soon as there was nothing to do for a while: it is some
/// milliseconds' work, which no writer should have to wait for.
const FOLD: u32 = 64;

/// That while.
const LULL: Duration = Duration::from_millis(50);

/// Enough for SQLite, whose deepest call chains take a few dozen KiB.
pub(super) const STACK: usize = 512 * 1024;

type Job = Box<dyn FnOnce(&mut Shop) + Send>;

/// Why a job failed.
pub(super) enum Failure {
    /// With something to tell the caller.
    Told(Error),
    /// In SQLite.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

/// The handle on the thread; when it is dropped, the thread ends.
pub(super) struct Worker {
    name: String,
    path: PathBuf,
    jobs: Option<mpsc::Sender<Job>>,
    bell: Arc<OwnedFd>,
    signals: Arc<Signals>,
}

/// One signal a kind: raised when it was written, or when nothing can be read any more.
struct Signals(Vec<watch::Sender<u64>>);

impl Signals {
    fn raise(&self, kind: Kind) {
        if let Some(signal) = self.0.get(kind as usize) {
            signal.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn raise_all(&self) {
        Kind::every().for_each(|kind| self.raise(kind));
    }
}

/// What the thread works with.
struct Shop {
    file: File,
    /// A store in memory has none.
    syncer: Option<Syncer>,
    signals: Arc<Signals>,
    follower: Option<Follower>,
    /// Writes since the log was folded.
    writes: u32,
}

/// What the thread knows while somebody watches.
struct Follower {
    /// The newest revision that was signalled.
    seen: i64,
    replaced: u64,
    /// Whether the last look at the log failed; the watchers have been told.
    failing: bool,
    inotify: Option<OwnedFd>,
}

impl Worker {
    /// Opens the file in a new thread.
    pub(super) async fn start(name: String, path: String) -> Result<Self> {
        let unavailable = |reason: String| Error::Unavailable { store: name.clone(), reason };
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| unavailable(format!("cannot make an eventfd: {error}")))?;
        let bell = Arc::new(bell);
        let signals = Arc::new(Signals(Kind::every().map(|_| watch::Sender::new(0)).collect()));
        let (jobs, inbox) = mpsc::channel();
        let (opened, answer) = oneshot::channel();
        let of_file = PathBuf::from(&path);
        let (their_bell, their_signals) = (bell.clone(), signals.clone());
        std::thread::Builder::new()
            .name("sqlite".to_owned())
            .stack_size(STACK)
            .spawn(move || match Shop::open(&path, their_signals) {
                Ok(shop) => {
                    let _ = opened.send(Ok(()));
                    shop.serve(&inbox, &their_bell);
                }
                Err(reason) => {
                    let _ = opened.send(Err(reason));
                }
            })
            .map_err(|error| unavailable(format!("cannot start a thread: {error}")))?;
        match tokio::time::timeout(PATIENCE + GRACE, answer).await {
            Ok(Ok(Ok(()))) => Ok(Self { name, path: of_file, jobs: Some(jobs), bell, signals }),
            Ok(Ok(Err(reason))) => Err(unavailable(reason)),
            Ok(Err(_)) => Err(unavailable("its thread has ended".to_owned())),
            Err(_) => Err(unavailable("the file system does not answer".to_owned())),
        }
    }

    /// What it is and where.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is no file at all.
    pub(super) fn in_memory(&self) -> bool {
        self.path.as_os_str() == MEMORY
    }

    /// That the store does not answer, and why.
    pub(super) fn unavailable(&self, reason: impl Into<String>) -> Error {
        Error::Unavailable { store: self.name.clone(), reason: reason.into() }
    }

    /// What a failed job means.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        match failure {
            Failure::Told(error) => error,
            Failure::Sqlite(error) => self.unavailable(explain(&error)),
        }
    }

    fn send(&self, job: Job) -> Result<()> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Err(self.unavailable("its thread has ended"));
        }
        ring(&self.bell);
        Ok(())
    }

    /// Does `work` on the connection; `wrote` says that something may have been written.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        wrote: bool,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + PATIENCE;
        self.send(Box::new(move |shop| {
            let result = shop.attempt(deadline, work);
            if !wrote || result.is_err() {
                let _ = reply.send(result);
            } else {
                shop.when_safe(move |safe| {
                    let _ = reply.send(safe.and(result));
                });
                shop.writes += 1;
                shop.file.ring();
                shop.follow(deadline);
            }
        }))?;
        match tokio::time::timeout(PATIENCE + GRACE, answer).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(failure))) => Err(self.explain(failure)),
            Ok(Err(_)) => Err(self.unavailable("its thread has ended")),
            Err(_) => Err(self.unavailable("the file system does not answer")),
        }
    }

    /// The signal of a kind; from now on it is raised for other processes' writes too.
    pub(super) async fn signal(&self, kind: Kind) -> Result<watch::Receiver<u64>> {
        let (ready, answer) = oneshot::channel();
        self.send(Box::new(move |shop| {
            shop.start_following();
            let _ = ready.send(());
        }))?;
        let signal = self.signals.0.get(kind as usize).map(watch::Sender::subscribe);
        match (tokio::time::timeout(PATIENCE + GRACE, answer).await, signal) {
            (Ok(Ok(())), Some(signal)) => Ok(signal),
            _ => Err(self.unavailable("the file system does not answer")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.jobs = None;
        ring(&self.bell);
    }
}

fn ring(bell: &OwnedFd) {
    // Full means that it rings already.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// SQLite's words, and what to do about them.
fn explain(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            format!("{error}; another process holds the lock for too long")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            format!("{error}; check that the file and its directory are there and writable")
        }
        Some(ErrorCode::DiskFull) => format!("{error}; make room on its file system"),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("{error}; restore the file from a backup")
        }
        _ => error.to_string(),
    }
}

impl Shop {
    fn open(path: &str, signals: Arc<Signals>) -> Result<Self, String> {
        let file = File::create(path, Instant::now() + PATIENCE)?;
        let syncer = if file.in_memory() {
            None
        } else {
            let started = Syncer::start(file.wal_path());
            Some(started.map_err(|error| format!("cannot start a thread: {error}"))?)
        };
        Ok(Self { file, syncer, signals, follower: None, writes: 0 })
    }

    /// Has `told` called when what is committed by now is on the disk.
    fn when_safe(&self, told: impl FnOnce(Result<(), Failure>) + Send + 'static) {
        let Some(syncer) = &self.syncer else { return told(Ok(())) };
        let store = describe(&self.file.path().to_string_lossy());
        syncer.after(move |synced| {
            told(synced.map_err(|reason| Failure::Told(Error::Unavailable { store, reason })));
        });
    }

    fn serve(mut self, inbox: &mpsc::Receiver<Job>, bell: &OwnedFd) {
        loop {
            loop {
                match inbox.try_recv() {
                    Ok(job) => job(&mut self),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            }
            if self.wait(bell) {
                self.follow(Instant::now() + PATIENCE);
            }
        }
    }

    /// Waits for the bell, or for a reason to look at the log, which it returns.
    fn wait(&mut self, bell: &OwnedFd) -> bool {
        let inotify = self.follower.as_ref().and_then(|follower| follower.inotify.as_ref());
        let timeout = match (&self.follower, inotify) {
            // A store in memory has no other writers.
            _ if self.file.in_memory() => None,
            (None, _) => None,
            (Some(_), Some(_)) => Some(POLL),
            (Some(_), None) => Some(POLL_WITHOUT_INOTIFY),
        };
        let full = self.writes >= FOLD && !self.file.in_memory();
        let timeout = if full { Some(timeout.unwrap_or(LULL).min(LULL)) } else { timeout };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
        fds.extend(inotify.map(|fd| PollFd::new(fd, PollFlags::IN)));
        let ready = poll(&mut fds, timeout.as_ref());
        let mut rang = fds.iter().map(|fd| !fd.revents().is_empty());
        let (bell_rang, file_rang) = (rang.next().unwrap_or(false), rang.next().unwrap_or(false));
        if bell_rang {
            let _ = rustix::io::read(bell, &mut [0_u8; 8]);
        }
        if file_rang && let Some(inotify) = inotify {
            // What the events say does not matter, only that there were some.
            let mut buffer = [0_u8; 1024];
            while rustix::io::read(inotify, &mut buffer).is_ok_and(|octets| octets > 0) {}
        }
        let lull = matches!(ready, Ok(0));
        if lull && full {
            self.writes = 0;
            self.file.fold();
        }
        file_rang || lull
    }

    fn attempt<T>(
        &mut self,
        deadline: Instant,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let store = describe(&self.file.path().to_string_lossy());
        let unavailable = |reason: String| Failure::Told(Error::Unavailable { store, reason });
        if Instant::now() >= deadline {
            return Err(unavailable("earlier operations still wait for the file".to_owned()));
        }
        let connection = self.file.connection(deadline).map_err(unavailable)?;
        let result = work(connection);
        if let Err(Failure::Sqlite(error)) = &result
            && !matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
        {
            self.file.close();
        }
        result
    }

    fn start_following(&mut self) {
        if self.follower.is_some() {
            return;
        }
        let inotify = if self.file.in_memory() {
            None
        } else {
            match inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC) {
                Ok(fd) => Some(fd),
                Err(error) => {
                    tracing::warn!(%error, "no inotify instance, other processes' writes are polled for; raise fs.inotify.max_user_instances");
                    None
                }
            }
        };
        // Before the first look, so that nothing falls between the two.
        self.follower = Some(Follower { seen: 0, replaced: self.file.replaced(), failing: false, inotify });
        self.file.ring();
        self.follow(Instant::now() + PATIENCE);
    }

    /// Raises the signals of what was written since the last look.
    fn follow(&mut self, deadline: Instant) {
        let Some(mut follower) = self.follower.take() else { return };
        if let Some(fd) = &follower.inotify {
            // Again and again, since the file may be another by now; for the same file it changes nothing.
            let flags = inotify::WatchFlags::MODIFY | inotify::WatchFlags::ATTRIB;
            let _ = inotify::add_watch(fd.as_fd(), self.file.notify_path(), flags);
        }
        let seen = follower.seen;
        match self.attempt(deadline, |connection| Ok(log::touched(connection, seen)?)) {
            Ok((kinds, newest)) => {
                if follower.failing || follower.replaced != self.file.replaced() || newest < seen {
                    self.signals.raise_all();
                } else {
                    kinds.iter().filter_map(|kind| Kind::from_name(kind)).for_each(|kind| self.signals.raise(kind));
                }
                follower.seen = newest;
                follower.replaced = self.file.replaced();
                follower.failing = false;
            }
            Err(_) => {
                if !follower.failing {
                    self.signals.raise_all();
                }
                follower.failing = true;
            }
        }
        self.follower = Some(follower);
    }
}

/// What a store is called to people.
pub(super) fn describe(path: &str) -> String {
    format!("sqlite {path}")
}
