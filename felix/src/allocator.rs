//! The task that owns the node's [`ipam::Allocator`]: requests that arrive together cost one write of their block.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::watch::Update;
use ipam::pool::Labels;
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
    /// Know the labels of a namespace.
    Namespace(String, Labels),
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

    /// Tells the labels of a namespace, to be known to the requests that follow.
    pub(crate) async fn tell_namespace(&self, name: String, labels: Labels) {
        // An allocator that is stopping refuses those requests, too.
        let _ = timeout(PATIENCE, self.jobs.send(Job::Namespace(name, labels))).await;
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
                sort(job, &mut allocator, &mut assigns, &mut releases);
                while assigns.len() < BATCH
                    && let Ok(job) = jobs.try_recv()
                {
                    sort(job, &mut allocator, &mut assigns, &mut releases);
                }
            }
            () = std::future::ready(()), if !releases.is_empty() => {}
        }
        // Pods that start do not wait for those that go.
        if !assigns.is_empty() {
            let mut exhausted = assign(&mut allocator, assigns, !releases.is_empty()).await;
            if !exhausted.is_empty() {
                // Unless those that go have what they need.
                for (handles, reply) in releases.drain(..) {
                    let _ = reply.send(release(&mut allocator, handles).await);
                }
                exhausted.retain(|(_, reply)| !reply.is_closed());
                assign(&mut allocator, exhausted, false).await;
            }
        } else if let Some((handles, reply)) = releases.pop_front() {
            let _ = reply.send(release(&mut allocator, handles).await);
        }
    }
}

type Assign = (Box<AssignRequest>, oneshot::Sender<Result<Vec<Assigned>, IpamError>>);
type Release = (Vec<String>, oneshot::Sender<Result<Vec<IpAddr>, IpamError>>);

fn sort(job: Job, allocator: &mut Allocator, assigns: &mut Vec<Assign>, releases: &mut VecDeque<Release>) {
    match job {
        // Who has stopped waiting must not be given anything.
        Job::Assign(_, reply) if reply.is_closed() => {}
        Job::Assign(request, reply) => assigns.push((request, reply)),
        Job::Release(handles, reply) => releases.push_back((handles, reply)),
        Job::Namespace(name, labels) => allocator.observe_namespace(&name, Some(labels)),
    }
}

/// Serves requests; if `again`, those for which no address is left are not answered but returned.
async fn assign(allocator: &mut Allocator, assigns: Vec<Assign>, again: bool) -> Vec<Assign> {
    let (requests, replies): (Vec<_>, Vec<_>) = assigns.into_iter().map(|(request, reply)| (*request, reply)).unzip();
    debug!(requests = requests.len(), "assigning");
    let Ok(results) = timeout(PATIENCE, allocator.assign_many(&requests, Timestamp::now())).await else {
        for reply in replies {
            let _ = reply.send(Err(IpamError::Silent));
        }
        return Vec::new();
    };
    let mut exhausted = Vec::new();
    for ((request, reply), result) in requests.into_iter().zip(replies).zip(results) {
        if again && matches!(result, Err(AssignError::Exhausted { .. })) {
            exhausted.push((Box::new(request), reply));
            continue;
        }
        if let Err(Ok(unused)) = reply.send(result.map_err(IpamError::from)) {
            // The asker gave up in the meantime, and gave back what it could not know of.
            warn!(handle = request.handle, "addresses were assigned too late and are released");
            let handles = vec![request.handle.clone()];
            if let Err(error) = release(allocator, handles).await {
                warn!(handle = request.handle, addresses = ?unused, %error, "addresses stay assigned to nobody");
            }
        }
    }
    exhausted
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

#[cfg(test)]
mod tests {
    use calico_api::{IPPool, IPPoolSpec, ObjectMeta};
    use calico_datastore::{Config, connect};

    use super::*;

    #[tokio::test]
    async fn the_last_address_goes_from_a_pod_that_goes_to_one_that_comes_with_it() {
        let store = connect(&Config::Sqlite { path: ":memory:".to_owned() }).await.unwrap();
        let spec = IPPoolSpec { block_size: Some(32), ..IPPoolSpec::new("10.65.0.0/32") };
        store.create(&IPPool::new(ObjectMeta::named("one"), spec)).await.unwrap();
        let mut allocator = Allocator::new(store, "east".to_owned());
        allocator.load().await.unwrap();
        let (updates, watched) = mpsc::channel(1);
        updates.send(Update::InSync).await.unwrap();
        let (addresses, jobs) = Addresses::channel();
        tokio::spawn(run(allocator, watched, jobs));

        let take = |handle: &str| addresses.assign(AssignRequest::ipv4(handle));
        take("old").await.unwrap();
        let refused = take("new").await.unwrap_err();
        assert!(matches!(refused, IpamError::Assign(AssignError::Exhausted { .. })), "{refused}");
        let (released, taken) = tokio::join!(addresses.release(vec!["old".to_owned()]), take("new"));
        assert_eq!(released.unwrap().len(), 1);
        assert_eq!(taken.unwrap().len(), 1);
    }
}
