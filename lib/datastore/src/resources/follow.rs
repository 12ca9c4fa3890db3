//! When the file is read: at the start, and whenever it may have become another.
//!
//! The directory is watched rather than the file, so that an editor that renames a new file over the old one is seen,
//! and the swap of the symbolic links through which Kubernetes mounts a ConfigMap; where the path leads elsewhere by
//! links, the directory at their end too. Only a file that was closed by its writer counts, so none is read half
//! written. A slow look at the file's identity, size and times catches what all that missed.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;
use tokio::sync::watch;
use tracing::{info, warn};

use super::State;
use super::content;

/// How often the file is looked at although nothing was heard of it.
const POLL: Duration = Duration::from_secs(2);

/// How long it must be quiet after an event, since a file is often changed in several steps.
const QUIET: Duration = Duration::from_millis(20);

/// How many quiet times are waited for at most.
const STEPS: u32 = 50;

/// The largest file, in octets.
const MAX_FILE: u64 = 64 << 20;

/// Reads the file in a thread of its own, until it is dropped.
pub(super) struct Follower {
    bell: Arc<OwnedFd>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Full means that it rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Follower {
    /// Reads the file once, and then whenever it changes.
    pub(super) fn start(path: PathBuf) -> Result<(Self, watch::Receiver<State>), String> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| format!("cannot make an eventfd: {error}"))?;
        let bell = Arc::new(bell);
        let inotify = match inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC) {
            Ok(fd) => Some(fd),
            Err(error) => {
                warn!(path = %path.display(), %error, "no inotify instance, the file is polled; raise fs.inotify.max_user_instances");
                None
            }
        };
        let (out, state) = watch::channel(State::default());
        let mut reader = Reader { path, inotify, out, read: Fingerprint::Unknown };
        // Before the first look, so that nothing falls between the two.
        reader.listen();
        reader.read();
        let their_bell = bell.clone();
        std::thread::Builder::new()
            .name("resources".to_owned())
            .spawn(move || reader.run(&their_bell))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok((Self { bell }, state))
    }
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fingerprint {
    Unknown,
    Missing,
    File { device: u64, inode: u64, size: u64, changed: (i64, i64) },
}

impl Fingerprint {
    /// Whether a change would show. Two changes within one tick of the kernel's clock would not.
    fn is_settled(self) -> bool {
        let Self::File { changed: (seconds, _), .. } = self else { return self == Self::Missing };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        i64::try_from(now).is_ok_and(|now| now > seconds + 1)
    }
}

fn fingerprint(path: &Path) -> Fingerprint {
    match std::fs::metadata(path) {
        Ok(file) => Fingerprint::File {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.ctime(), file.ctime_nsec()),
        },
        Err(_) => Fingerprint::Missing,
    }
}

struct Reader {
    path: PathBuf,
    inotify: Option<OwnedFd>,
    out: watch::Sender<State>,
    /// How the file was when it was read.
    read: Fingerprint,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    Stop,
    Event,
    Time,
}

impl Reader {
    fn run(mut self, bell: &OwnedFd) {
        let mut seen = self.read;
        loop {
            match self.wait(bell, POLL) {
                Woken::Stop => return,
                Woken::Event => {
                    for _ in 0..STEPS {
                        match self.wait(bell, QUIET) {
                            Woken::Stop => return,
                            Woken::Event => {}
                            Woken::Time => break,
                        }
                    }
                }
                Woken::Time => {
                    // Somebody may be writing at this moment: what was not heard of must stand still for one round.
                    let before = std::mem::replace(&mut seen, fingerprint(&self.path));
                    if seen == self.read || seen != before {
                        continue;
                    }
                }
            }
            self.listen();
            self.read();
            seen = self.read;
        }
    }

    /// Watches the directories through which the path leads. For those that are watched already it changes nothing.
    fn listen(&self) {
        let Some(inotify) = &self.inotify else { return };
        use inotify::WatchFlags as Flags;
        let flags = Flags::CLOSE_WRITE | Flags::CREATE | Flags::MOVED_TO | Flags::MOVED_FROM | Flags::DELETE;
        let real = std::fs::canonicalize(&self.path).ok();
        for file in std::iter::once(&self.path).chain(&real) {
            let directory = match file.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            // What this cannot do, the slow look does.
            let _ = inotify::add_watch(inotify.as_fd(), directory, flags | Flags::ONLYDIR);
        }
    }

    fn wait(&self, bell: &OwnedFd, time: Duration) -> Woken {
        let mut fds = vec![PollFd::new(bell, PollFlags::IN)];
        fds.extend(self.inotify.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec::try_from(time).ok();
        let _ = poll(&mut fds, timeout.as_ref());
        let mut rang = fds.iter().map(|fd| !fd.revents().is_empty());
        let (stop, event) = (rang.next().unwrap_or(false), rang.next().unwrap_or(false));
        if event && let Some(inotify) = &self.inotify {
            // What the events say does not matter, only that there were some.
            let mut buffer = [0_u8; 4096];
            while rustix::io::read(inotify, &mut buffer).is_ok_and(|octets| octets > 0) {}
        }
        match (stop, event) {
            (true, _) => Woken::Stop,
            (false, true) => Woken::Event,
            (false, false) => Woken::Time,
        }
    }

    /// Reads the file, and tells those who follow it if that makes a difference.
    fn read(&mut self) {
        let before = fingerprint(&self.path);
        if before == self.read && before.is_settled() {
            return;
        }
        let text = self.text();
        // If it changed meanwhile, the next look sees a difference.
        self.read = if fingerprint(&self.path) == before { before } else { Fingerprint::Unknown };
        let path = self.path.display().to_string();
        match text.and_then(|text| content::read(&text)) {
            Ok(resources) => {
                let count = resources.len();
                self.out.send_if_modified(|state| {
                    let old = state.content.take().unwrap_or_default();
                    let new = old.become_(resources);
                    let changed = old.revision() != new.revision();
                    if changed {
                        info!(path, resources = count, revision = new.revision(), "resources read");
                    }
                    state.content = Some(new);
                    state.trouble.take().is_some() || changed
                });
            }
            Err(reason) => {
                self.out.send_if_modified(|state| {
                    let kept = if state.content.is_some() { "; what it said before stays in force" } else { "" };
                    let reason = Some(format!("{reason}{kept}"));
                    let changed = state.trouble != reason;
                    state.trouble = reason;
                    changed
                });
            }
        }
    }

    fn text(&self) -> Result<String, String> {
        let cannot = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => "it is not there; it is waited for".to_owned(),
            std::io::ErrorKind::InvalidData => "it is not UTF-8".to_owned(),
            _ => format!("it cannot be read: {error}"),
        };
        let mut text = String::new();
        let file = std::fs::File::open(&self.path).map_err(cannot)?;
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(cannot)?;
        if text.len() as u64 > MAX_FILE {
            return Err(format!("it has more than {MAX_FILE} octets"));
        }
        Ok(text)
    }
}
