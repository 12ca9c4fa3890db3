//! The socket: made, kept to a bounded number of conversations, and closed without cutting one off.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Agent, conversation};

/// The most conversations at once; more wait in the socket's queue.
const CONVERSATIONS: u32 = 256;

/// How long conversations may take to end when Felix stops.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why Felix does not listen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    /// Somebody else does.
    #[error("another agent listens on {}: one Felix a node; stop it, or set AgentSocket", .0.display())]
    Taken(PathBuf),
    /// Something is in the way.
    #[error("{} is there and is no socket; remove it, or set AgentSocket", .0.display())]
    NoSocket(PathBuf),
    /// The file system refuses.
    #[error("cannot listen on {}: {error}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The kernel's words.
        error: io::Error,
    },
}

/// A socket that is listened on.
#[derive(Debug)]
pub(crate) struct Listener {
    inner: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens on `path`, for root only. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub(crate) async fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |error| ListenError::Io { path: path.to_owned(), error };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NoSocket(path.to_owned())),
            Ok(_) if tokio::net::UnixStream::connect(path).await.is_ok() => {
                return Err(ListenError::Taken(path.to_owned()));
            }
            Ok(_) | Err(_) => {}
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(failed)?;
        // Under another name until its mode is set: nobody connects to it before.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = directory.join(format!(".{name}.{}", std::process::id()));
        let _ = fs::remove_file(&draft);
        let inner = UnixListener::bind(&draft).map_err(failed)?;
        fs::set_permissions(&draft, Permissions::from_mode(0o600)).map_err(failed)?;
        fs::rename(&draft, path).map_err(failed)?;
        info!(socket = %path.display(), "agent listens");
        Ok(Self { inner, path: path.to_owned() })
    }

    /// Serves until `stop`, then waits for the conversations that are under way, though not for ever.
    pub(crate) async fn serve(self, agent: Arc<Agent>, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(CONVERSATIONS as usize));
        tokio::pin!(stop);
        loop {
            let place = places.clone().acquire_owned();
            let accepted = async {
                let place = place.await.expect("the semaphore is never closed");
                (self.inner.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = &mut stop => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let agent = agent.clone();
                    tokio::spawn(async move {
                        conversation::hold(&agent, stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: at once it would fail again.
                    warn!(%error, "a plugin's connection was not accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // Who comes now is told at once that nobody is here, and asks the next agent.
        let _ = fs::remove_file(&self.path);
        drop(self.inner);
        if timeout(FAREWELL, places.acquire_many(CONVERSATIONS)).await.is_err() {
            warn!(waited = ?FAREWELL, "conversations are cut off");
        }
    }
}
