//! The task that owns the node's [`ipam::Allocator`]: requests that arrive together cost one write of their block.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::watch::Update;
use ipam::{Allocator, AssignError, AssignRequest, Assigned, ReleaseError};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long the store may take for a batch before its requests fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The most requests in one batch.
const BATCH: usize = 64;

/// Why an address was not assigned or not released.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IpamError {
    /// IPAM says why.
    #[error(transparent)]
    Assign(#[from] AssignError),
    /// IPAM says why.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// The store did not answer.
    #[error("the datastore did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// Felix is stopping.
    #[error("Felix is stopping")]
    Stopping,
}

/// A request to the allocator.
pub(crate) enum Job {
    /// Take addresses.
    Assign(Box<AssignRequest>, oneshot::Sender<Result<Vec<Assigned>, IpamError>>),
    /// Release all addresses of these handles.
    Release(Vec<String>, oneshot::Sender<Result<Vec<IpAddr>, IpamError>>),
}

/// The allocator, to those that need addresses; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    jobs: mpsc::Sender<Job>,
}

impl Addresses {
    /// A way to send jobs, and their other end.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel(4 * BATCH);
        (Self { jobs }, receiver)
    }

    /// Takes addresses, all or none.
    ///
    /// # Errors
    /// [`IpamError`]; after [`IpamError::Silent`] some may be taken, to be found by the handle.
    pub(crate) async fn assign(&self, request: AssignRequest) -> Result<Vec<Assigned>, IpamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::Assign(Box::new(request), reply), answer).await
    }

    /// Releases all addresses of some handles and returns them.
    ///
    /// # Errors
    /// [`IpamError`]; may be repeated.
    pub(crate) async fn release(&self, handles: Vec<String>) -> Result<Vec<IpAddr>, IpamError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Job::Release(handles, reply), answer).await
    }

    async fn ask<T>(&self, job: Job, answer: oneshot::Receiver<Result<T, IpamError>>) -> Result<T, IpamError> {
        let ask = async {
            self.jobs.send(job).await.map_err(|_| IpamError::Stopping)?;
            answer.await.map_err(|_| IpamError::Stopping)?
        };
        // The job may also wait behind others.
        timeout(2 * PATIENCE, ask).await.unwrap_or(Err(IpamError::Silent))
    }
}

/// Serves jobs, and takes in the watch, until either channel closes. Jobs wait until the watch is in sync.
pub(crate) async fn run(mut allocator: Allocator, mut updates: mpsc::Receiver<Update>, mut jobs: mpsc::Receiver<Job>) {
    let mut in_sync = false;
    let mut releases = VecDeque::new();
    loop {
        let mut assigns = Vec::new();
        tokio::select! {
            biased;
            update = updates.recv() => {
                let Some(update) = update else { return };
                in_sync |= update == Update::InSync;
                allocator.observe(&update);
                continue;
            }
            job = jobs.recv(), if in_sync => {
                let Some(job) = job else { return };
                sort(job, &mut assigns, &mut releases);
                while assigns.len() < BATCH
                    && let Ok(job) = jobs.try_recv()
                {
                    sort(job, &mut assigns, &mut releases);
                }
            }
            () = std::future::ready(()), if !releases.is_empty() => {}
        }
        // Pods that start do not wait for those that go.
        if !assigns.is_empty() {
            assign(&mut allocator, assigns).await;
        } else if let Some((handles, reply)) = releases.pop_front() {
            let _ = reply.send(release(&mut allocator, handles).await);
        }
    }
}

type Assign = (Box<AssignRequest>, oneshot::Sender<Result<Vec<Assigned>, IpamError>>);
type Release = (Vec<String>, oneshot::Sender<Result<Vec<IpAddr>, IpamError>>);

fn sort(job: Job, assigns: &mut Vec<Assign>, releases: &mut VecDeque<Release>) {
    match job {
        // Who has stopped waiting must not be given anything.
        Job::Assign(_, reply) if reply.is_closed() => {}
        Job::Assign(request, reply) => assigns.push((request, reply)),
        Job::Release(handles, reply) => releases.push_back((handles, reply)),
    }
}

async fn assign(allocator: &mut Allocator, assigns: Vec<Assign>) {
    let (requests, replies): (Vec<_>, Vec<_>) = assigns.into_iter().map(|(request, reply)| (*request, reply)).unzip();
    debug!(requests = requests.len(), "assigning");
    let Ok(results) = timeout(PATIENCE, allocator.assign_many(&requests, Timestamp::now())).await else {
        for reply in replies {
            let _ = reply.send(Err(IpamError::Silent));
        }
        return;
    };
    for ((request, reply), result) in requests.iter().zip(replies).zip(results) {
        if let Err(Ok(unused)) = reply.send(result.map_err(IpamError::from)) {
            // The asker gave up in the meantime, and gave back what it could not know of.
            warn!(handle = request.handle, "addresses were assigned too late and are released");
            let handles = vec![request.handle.clone()];
            if let Err(error) = release(allocator, handles).await {
                warn!(handle = request.handle, addresses = ?unused, %error, "addresses stay assigned to nobody");
            }
        }
    }
}

async fn release(allocator: &mut Allocator, handles: Vec<String>) -> Result<Vec<IpAddr>, IpamError> {
    let mut released = Vec::new();
    for handle in handles {
        match timeout(PATIENCE, allocator.release_by_handle(&handle, Timestamp::now())).await {
            Ok(result) => released.extend(result?),
            Err(_) => return Err(IpamError::Silent),
        }
    }
    Ok(released)
}
