//! The task that owns the node's [`ipam::Allocator`]: requests that arrive together cost one write of their block.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use calico_datastore::Write;
use calico_datastore::watch::Update;
use ipam::pool::Labels;
use ipam::{Allocator, Apart, AssignError, AssignRequest, Assigned, Release, ReleaseError, Settled};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

/// How long the store may take for a batch before its requests fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The most requests in one batch: with a handle and an endpoint each they fit in one transaction of an etcd
/// ([`calico_datastore::COMMIT_LIMIT`]), with some blocks.
const BATCH: usize = 48;

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
    Assign(Box<Asked>),
    /// Release all addresses of these handles.
    Release(Vec<String>, oneshot::Sender<Result<Vec<IpAddr>, IpamError>>),
    /// Release several handles by one write.
    Together(Vec<Release>, oneshot::Sender<Result<(), Apart>>),
    /// Know the labels of a namespace.
    Namespace(String, Labels),
}

/// Makes of a request's addresses what is to be written together with them.
pub(crate) type Accompany = Box<dyn FnOnce(&[Assigned]) -> Vec<Write> + Send>;

/// A request for addresses, and those who wait for them.
pub(crate) struct Asked {
    request: AssignRequest,
    also: Option<Accompany>,
    told: Option<oneshot::Sender<Vec<Assigned>>>,
    reply: oneshot::Sender<Result<Settled, IpamError>>,
}

/// The answers to a request for addresses.
pub(crate) struct Assigning {
    /// The addresses, as soon as it is known which they will be; they are nobody's yet.
    told: oneshot::Receiver<Vec<Assigned>>,
    /// The addresses, when they are written.
    reply: oneshot::Receiver<Result<Settled, IpamError>>,
    /// What came there already.
    settled: Option<Settled>,
}

impl Assigning {
    /// Which addresses it will be.
    ///
    /// # Errors
    /// [`IpamError`] if it will be none.
    pub(crate) async fn told(&mut self) -> Result<Vec<Assigned>, IpamError> {
        if let Ok(told) = timeout(2 * PATIENCE, &mut self.told).await.map_err(|_| IpamError::Silent)? {
            return Ok(told);
        }
        // They were its own before, or there are none.
        let settled = self.settled().await?;
        let assigned = settled.assigned.clone();
        self.settled = Some(settled);
        Ok(assigned)
    }

    /// Waits until they are written.
    ///
    /// # Errors
    /// [`IpamError`]; after [`IpamError::Silent`] some may be taken, to be found by the handle.
    pub(crate) async fn settled(&mut self) -> Result<Settled, IpamError> {
        if let Some(settled) = self.settled.take() {
            return Ok(settled);
        }
        match timeout(2 * PATIENCE, &mut self.reply).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(IpamError::Stopping),
            Err(_) => Err(IpamError::Silent),
        }
    }
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

    /// Takes addresses, all or none. What `also` makes of them is written in the same transaction, if the store has such.
    ///
    /// # Errors
    /// If nobody serves.
    pub(crate) async fn assign(&self, request: AssignRequest, also: Option<Accompany>) -> Result<Assigning, IpamError> {
        let ((tell, told), (answer, reply)) = (oneshot::channel(), oneshot::channel());
        let asked = Asked { request, also, told: Some(tell), reply: answer };
        match timeout(2 * PATIENCE, self.jobs.send(Job::Assign(Box::new(asked)))).await {
            Ok(Ok(())) => Ok(Assigning { told, reply, settled: None }),
            Ok(Err(_)) => Err(IpamError::Stopping),
            Err(_) => Err(IpamError::Silent),
        }
    }

    /// Releases several handles with what goes with them, all or none where the store can.
    ///
    /// # Errors
    /// [`Apart`]; they are then to be released one by one, or later.
    pub(crate) async fn release_together(&self, releases: Vec<Release>) -> Result<(), Apart> {
        let (reply, answer) = oneshot::channel();
        let ask = async {
            self.jobs.send(Job::Together(releases, reply)).await.ok()?;
            answer.await.ok()
        };
        timeout(2 * PATIENCE, ask).await.ok().flatten().unwrap_or(Err(Apart::Needed))
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
            let exhausted = assign(&mut allocator, assigns, !releases.is_empty()).await;
            if !exhausted.is_empty() {
                // Unless those that go have what they need.
                for leaving in releases.drain(..) {
                    leave(&mut allocator, leaving).await;
                }
                assign(&mut allocator, exhausted, false).await;
            }
        } else if let Some(leaving) = releases.pop_front() {
            leave(&mut allocator, leaving).await;
        }
    }
}

/// What is released, and who waits for that.
enum Leaving {
    Handles(Vec<String>, oneshot::Sender<Result<Vec<IpAddr>, IpamError>>),
    Together(Vec<Release>, oneshot::Sender<Result<(), Apart>>),
}

fn sort(job: Job, allocator: &mut Allocator, assigns: &mut Vec<Asked>, releases: &mut VecDeque<Leaving>) {
    match job {
        // Who has stopped waiting must not be given anything.
        Job::Assign(asked) if asked.reply.is_closed() => {}
        Job::Assign(asked) => assigns.push(*asked),
        Job::Release(handles, reply) => releases.push_back(Leaving::Handles(handles, reply)),
        Job::Together(all, reply) => releases.push_back(Leaving::Together(all, reply)),
        Job::Namespace(name, labels) => allocator.observe_namespace(&name, Some(labels)),
    }
}

/// Serves requests; if `again`, those for which no address is left are not answered but returned.
async fn assign(allocator: &mut Allocator, assigns: Vec<Asked>, again: bool) -> Vec<Asked> {
    let mut requests = Vec::with_capacity(assigns.len());
    let mut waiting: Vec<Asked> = assigns.into_iter().filter(|asked| !asked.reply.is_closed()).collect();
    requests.extend(waiting.iter().map(|asked| asked.request.clone()));
    debug!(requests = requests.len(), "assigning");
    let mut tell = |index: usize, assigned: &[Assigned]| -> Vec<Write> {
        let Some(asked) = waiting.get_mut(index) else { return Vec::new() };
        if let Some(told) = asked.told.take() {
            let _ = told.send(assigned.to_vec());
        }
        asked.also.take().map(|also| also(assigned)).unwrap_or_default()
    };
    let results = timeout(PATIENCE, allocator.assign_telling(&requests, Timestamp::now(), &mut tell)).await;
    let Ok(results) = results else {
        for asked in waiting {
            let _ = asked.reply.send(Err(IpamError::Silent));
        }
        return Vec::new();
    };
    let mut exhausted = Vec::new();
    for (asked, result) in waiting.into_iter().zip(results) {
        if again && matches!(result, Err(AssignError::Exhausted { .. })) {
            exhausted.push(asked);
            continue;
        }
        if let Err(Ok(unused)) = asked.reply.send(result.map_err(IpamError::from)) {
            // The asker gave up in the meantime, and gave back what it could not know of.
            let handle = asked.request.handle;
            warn!(handle, "addresses were assigned too late and are released");
            if let Err(error) = release(allocator, vec![handle.clone()]).await {
                warn!(handle, addresses = ?unused.assigned, %error, "addresses stay assigned to nobody");
            }
        }
    }
    exhausted
}

async fn leave(allocator: &mut Allocator, leaving: Leaving) {
    match leaving {
        Leaving::Handles(handles, reply) => {
            let _ = reply.send(release(allocator, handles).await);
        }
        Leaving::Together(all, reply) => {
            let released = timeout(PATIENCE, allocator.release_together(&all, Timestamp::now())).await;
            // After a silence nobody knows what is written; one by one it is seen.
            let _ = reply
                .send(released.unwrap_or(Err(Apart::Needed)).map(|released| debug!(?released, "released together")));
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

        let take = async |handle: &str| addresses.assign(AssignRequest::ipv4(handle), None).await?.settled().await;
        take("old").await.unwrap();
        let refused = take("new").await.unwrap_err();
        assert!(matches!(refused, IpamError::Assign(AssignError::Exhausted { .. })), "{refused}");
        let (released, taken) = tokio::join!(addresses.release(vec!["old".to_owned()]), take("new"));
        assert_eq!(released.unwrap().len(), 1);
        assert_eq!(taken.unwrap().assigned.len(), 1);

        // Asked for again, it is told and settled at once.
        let again = AssignRequest { addresses: vec![[10, 65, 0, 0].into()], ..AssignRequest::ipv4("new") };
        let mut again = addresses.assign(again, None).await.unwrap();
        assert_eq!(again.told().await.unwrap(), again.settled().await.unwrap().assigned);
    }
}
