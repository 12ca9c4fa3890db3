//! How does a thread get into another network namespace?
//!
//! A namespace belongs to a thread, not to the process: [`enter`] changes the calling thread only and for ever;
//! [`inside`] lends a fresh thread for the time of a closure.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

/// Opens a network namespace by its path (`/run/netns/x`, `/proc/1/ns/net`).
///
/// # Errors
/// The file system's. Whether it is a network namespace shows when it is entered.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// Opens the calling thread's network namespace.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn current() -> io::Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// Moves the calling thread into a network namespace. There is no way back but another `enter`.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` if it is not a network namespace.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes two integers and touches no memory of ours; the descriptor is borrowed, so it is open.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Moves the calling thread into a new, empty network namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`, `ENOSPC` when the limit of namespaces is reached.
pub fn unshare() -> io::Result<()> {
    // SAFETY: unshare takes an integer; CLONE_NEWNET changes nothing that Rust's library relies on.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Makes a network namespace that lives as long as the descriptor (or something in it) does.
///
/// # Errors
/// As [`unshare`].
pub fn create() -> io::Result<OwnedFd> {
    on_fresh_thread(|| {
        unshare()?;
        current()
    })?
}

/// Runs `work` on a fresh thread inside a network namespace and returns what it returns.
///
/// # Errors
/// As [`enter`]; then `work` was not run.
///
/// # Panics
/// If `work` panics, with its panic.
pub fn inside<T: Send>(namespace: impl AsFd, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = namespace.as_fd();
    on_fresh_thread(move || {
        enter(namespace)?;
        Ok(work())
    })?
}

/// [`inside`], of the namespace that `path` names.
///
/// # Errors
/// As [`open`] and [`enter`].
///
/// # Panics
/// If `work` panics, with its panic.
pub fn inside_path<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    inside(open(path)?, work)
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".into()).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn interfaces() -> String {
        fs::read_to_string("/proc/thread-self/net/dev").unwrap()
    }

    #[test]
    fn work_inside_a_namespace_leaves_the_caller_where_it_was() {
        let before = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let namespace = create().unwrap();
        let (within, devices) =
            inside(&namespace, || (fs::read_link("/proc/thread-self/ns/net").unwrap(), interfaces())).unwrap();
        assert_ne!(within, before);
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
        // Two lines of heading and the loopback.
        assert_eq!(devices.lines().count(), 3, "{devices}");
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        let error = inside_path(Path::new("/dev/null"), || ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let error = inside_path(Path::new("/nowhere/at/all"), || ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
