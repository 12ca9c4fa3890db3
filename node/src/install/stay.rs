//! What does an installer that stays do? It waits, and puts back what somebody removes.
//!
//! A configuration that was edited is left alone, as Calico leaves it: somebody meant it. A missing file is what a
//! clean-up script or another network's installer leaves behind, and without it no pod starts.

use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tracing::{info, warn};

use super::settings::Settings;
use super::survey::OURS;
use super::{Places, once};

/// How often the folders are looked at although the kernel told nothing: not every file system tells.
const SLOWLY: Duration = Duration::from_secs(30);

/// Stays until SIGTERM or SIGINT.
///
/// # Errors
/// If the signals cannot be waited for.
pub(super) fn keep(settings: &Settings, places: &Places) -> Result<(), String> {
    let failed = |error: nix::Error| format!("cannot wait for signals: {error}");
    // As a container's first process it must take them itself: the kernel does nothing for it.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(failed)?;
    let told = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(failed)?;
    let changes = watch(places);
    info!("staying, to put back what is removed");
    loop {
        if is_missing(settings, places)
            && let Err(reason) = once(settings, places)
        {
            warn!(%reason, "what was removed could not be put back; trying again");
        }
        let mut waiting = vec![PollFd::new(&told, PollFlags::IN)];
        waiting.extend(changes.as_ref().map(|changes| PollFd::new(changes, PollFlags::IN)));
        let limit = Timespec { tv_sec: SLOWLY.as_secs() as i64, tv_nsec: 0 };
        // An interruption is as good as a reason to look.
        let _ = poll(&mut waiting, Some(&limit));
        if waiting.first().is_some_and(|signal| !signal.revents().is_empty()) {
            info!("stopping");
            return Ok(());
        }
        if let Some(changes) = &changes {
            let mut octets = [const { std::mem::MaybeUninit::uninit() }; 4096];
            let mut reader = inotify::Reader::new(changes.as_fd(), &mut octets);
            while reader.next().is_ok() {}
        }
    }
}

/// The kernel's word when something goes from a folder; none where it gives none.
fn watch(places: &Places) -> Option<std::os::fd::OwnedFd> {
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
    let what = inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_FROM;
    for folder in places.binaries.iter().chain([&places.configurations]) {
        let _ = inotify::add_watch(&changes, folder, what);
    }
    Some(changes)
}

fn is_missing(settings: &Settings, places: &Places) -> bool {
    let configuration = places.configurations.join(&settings.name);
    let programs = places.binaries.iter().filter(|folder| folder.is_dir());
    let mut programs = programs.flat_map(|folder| OURS.map(|name| folder.join(name)));
    !configuration.exists() || programs.any(|program| !program.exists())
}
