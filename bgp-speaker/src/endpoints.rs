//! Which local workloads does felix say are peers? It leaves a file for each endpoint in a folder, which is followed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bgp_plan::workloads::{EndpointStatus, LocalWorkload};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// How often the folder is read though nothing was heard: for folders that come later, and watches that fail.
const RESCAN: Duration = Duration::from_secs(30);
/// The largest file that is read, in octets.
const SIZE_LIMIT: u64 = 64 * 1024;
/// Most files of one folder.
const FILES: usize = 16 * 1024;

/// Follows the folder for as long as the receiver is there; what is sent is always everything, by endpoint.
pub fn follow(folder: PathBuf) -> mpsc::Receiver<BTreeMap<String, LocalWorkload>> {
    let (out, workloads) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut known = None;
        let mut told = false;
        loop {
            // The watch comes before the reading, so that nothing falls between the two.
            let watch = watch(&folder);
            if let Err(error) = &watch
                && error.kind() != io::ErrorKind::NotFound
                && !std::mem::replace(&mut told, true)
            {
                warn!(folder = %folder.display(), %error, "endpoint status folder cannot be watched; it is read every 30 s");
            }
            loop {
                let now = read(&folder);
                if known.as_ref() != Some(&now) {
                    if out.send(now.clone()).await.is_err() {
                        return;
                    }
                    known = Some(now);
                }
                let rescan = tokio::time::sleep(RESCAN);
                let again = tokio::select! {
                    () = out.closed() => return,
                    changed = changed(watch.as_ref().ok()) => changed,
                    () = rescan => false,
                };
                if !again {
                    break; // the folder may be another by now
                }
            }
        }
    });
    workloads
}

#[expect(deprecated, reason = "its successor is unsafe; a descriptor owns itself for as long as it lives")]
fn watch(folder: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
    let flags = inotify::WatchFlags::CLOSE_WRITE
        | inotify::WatchFlags::MOVED_FROM
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::DELETE;
    if let Err(error) = inotify::add_watch(fd.as_fd(), folder, flags | inotify::WatchFlags::DELETE_SELF) {
        // Until there is the folder, its parent tells when it comes.
        let Some(parent) = folder.parent().filter(|_| error == rustix::io::Errno::NOENT) else {
            return Err(error.into());
        };
        inotify::add_watch(fd.as_fd(), parent, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
    }
    AsyncFd::new(fd)
}

/// Waits until something happened; whether the same watch goes on to be good. Without a watch it waits for ever.
async fn changed(watch: Option<&AsyncFd<OwnedFd>>) -> bool {
    let Some(watch) = watch else { return std::future::pending().await };
    let Ok(mut ready) = watch.readable().await else { return false };
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch.get_ref(), &mut buffer);
    let mut good = true;
    while let Ok(event) = reader.next() {
        let gone = inotify::ReadFlags::IGNORED | inotify::ReadFlags::DELETE_SELF | inotify::ReadFlags::ISDIR;
        good &= !event.events().intersects(gone);
    }
    ready.clear_ready();
    good
}

/// What the folder says now. A file that is not understood says nothing: felix writes whole files and renames them.
fn read(folder: &Path) -> BTreeMap<String, LocalWorkload> {
    let mut workloads = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return workloads };
    for entry in entries.take(FILES).flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let regular = entry.metadata().is_ok_and(|data| data.is_file() && data.len() <= SIZE_LIMIT);
        if name.starts_with('.') || name.ends_with(".tmp") || !regular {
            continue;
        }
        let Ok(text) = fs::read(entry.path()) else { continue }; // gone meanwhile
        match serde_json::from_slice::<EndpointStatus>(&text) {
            Ok(status) => {
                if let Some(workload) = status.peer() {
                    workloads.insert(name, workload);
                }
            }
            Err(error) => debug!(file = name, %error, "endpoint status file is not understood"),
        }
    }
    workloads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_that_come_change_and_go_are_followed_also_in_a_folder_that_comes_later() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("endpoint-status");
        let mut workloads = follow(folder.clone());
        assert!(workloads.recv().await.unwrap().is_empty());
        fs::create_dir(&folder).unwrap();
        let write = |name: &str, text: &str| {
            fs::write(folder.join(".new"), text).unwrap();
            fs::rename(folder.join(".new"), folder.join(name)).unwrap();
        };
        write("pod-a", r#"{"ifaceName":"cali1","ipv4Nets":["10.244.1.2/32"],"bgpPeerName":"lw"}"#);
        write("pod-b", r#"{"ifaceName":"cali2","ipv4Nets":["10.244.1.3/32"]}"#);
        let expected = LocalWorkload { ipv4: Some([10, 244, 1, 2].into()), ipv6: None, peer: "lw".to_owned() };
        assert_eq!(workloads.recv().await.unwrap(), BTreeMap::from([("pod-a".to_owned(), expected)]));
        write("pod-a", r#"{"ifaceName":"cali1","ipv4Nets":["10.244.1.9/32"],"bgpPeerName":"lw"}"#);
        assert_eq!(workloads.recv().await.unwrap()["pod-a"].ipv4, Some([10, 244, 1, 9].into()));
        write("pod-b", "{");
        fs::remove_file(folder.join("pod-a")).unwrap();
        assert!(workloads.recv().await.unwrap().is_empty());
    }
}
