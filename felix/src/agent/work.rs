//! What conversations do to the world: addresses, endpoints, the kernel; and how they undo it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use calico_agent::spool::Pending;
use calico_agent::{Add, Attached, Del, Failure, Sandbox};
use calico_api::{Key, Kind, PoolUse, ProfileSpec, WorkloadEndpoint, WorkloadEndpointSpec};
use calico_datastore::Error;
use ipam::{AssignError, AssignRequest, ReleaseError};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::annotations::Wishes;
use super::departure::{Departure, Leaving};
use super::endpoint::{Identity, over};
use super::{Agent, PATIENCE, code};
use crate::allocator::{Accompany, Assigning, IpamError};
use crate::kernel::Order;
use crate::known::Namespace;

/// How often an endpoint is read anew because somebody else wrote it in between.
const TRIES: usize = 6;

/// How long a release may take while a watch on the store fails.
const BRIEFLY: Duration = Duration::from_millis(500);

/// Why something could not be undone now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UndoError {
    /// The endpoint is still stored.
    #[error("the endpoint is not deleted: {0}")]
    Endpoint(#[source] StepError),
    /// The interface may still be there.
    #[error("the interface is not removed: {0}")]
    Interface(String),
    /// The addresses are still taken.
    #[error("the addresses are not released: {}", chain(.0))]
    Addresses(#[from] IpamError),
}

impl UndoError {
    /// Whether the store did not answer: then it will not answer for another sandbox either.
    pub(crate) fn is_silence(&self) -> bool {
        match self {
            Self::Endpoint(StepError::Silent { .. }) | Self::Addresses(IpamError::Silent | IpamError::Stopping) => true,
            Self::Endpoint(StepError::Store(error)) => error.is_temporary(),
            Self::Addresses(IpamError::Release(ReleaseError::Datastore { source, .. })) => source.is_temporary(),
            Self::Interface(_) | Self::Addresses(IpamError::Release(_) | IpamError::Assign(_)) => false,
        }
    }
}

/// Why a step with the store came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// It took too long.
    #[error("{store} did not answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// Which store.
        store: String,
    },
    /// The store says why.
    #[error("{}", chain(.0))]
    Store(Error),
}

/// What became of a DEL.
pub(crate) enum Parting {
    /// Nothing of the sandbox reaches the node any more, and the rest will be done.
    Done,
    /// The plugin has to remove the interface.
    Unknown(OwnedMutexGuard<()>),
}

impl Agent {
    /// That pods may have IPv6 addresses.
    ///
    /// # Errors
    /// What the plugin is told if not.
    pub(crate) fn needs_ipv6(&self) -> Result<(), Failure> {
        if self.ipv6 {
            return Ok(());
        }
        Err(Failure {
            code: code::INVALID,
            message: "an IPv6 address is asked for, but IPv6 is off on this node".to_owned(),
            details: "set FELIX_IPV6SUPPORT=true, or ask for IPv4 only (assign_ipv6)".to_owned(),
        })
    }

    /// What the annotations of a pod and its namespace ask for; nothing where the store shows no pods.
    ///
    /// The allocator learns the namespace's labels, for pools that select by them. Addresses that the pod must have and
    /// that a sandbox before this one still holds are released: both cannot have them, and this one is newer.
    ///
    /// # Errors
    /// Code 11 if the pod is not there, 999 if an annotation cannot be understood.
    pub(crate) async fn wishes(&self, identity: &Identity, add: &Add) -> Result<Wishes, Failure> {
        let sandbox = &add.sandbox;
        let Some(pod) = sandbox.pod.as_ref().filter(|_| self.has_pods) else { return Ok(Wishes::default()) };
        let failed = |reason: StepError| Failure {
            code: code::LATER,
            message: format!("the annotations of {} could not be read", name(sandbox)),
            details: match reason {
                StepError::Store(Error::NotFound(_)) => {
                    format!(
                        "there is no such pod on node {}: it was deleted meanwhile, or nodename is wrong",
                        self.node
                    )
                }
                reason => format!("{reason}; check the datastore, then try again"),
            },
        };
        let seen = add.pod_uid.as_deref().and_then(|uid| self.known.pod(&identity.key, uid));
        if let (Some(annotations), Some(namespace)) = (seen, self.known.namespace(&pod.namespace)) {
            let wishes = Wishes::read(&annotations, &namespace.annotations)?;
            // Who has such an address at the moment must be asked.
            if wishes.addresses.is_empty() {
                self.addresses.tell_namespace(pod.namespace.clone(), namespace.labels).await;
                return Ok(wishes);
            }
        }
        let key = Key::named(Kind::Profile, format!("kns.{}", pod.namespace));
        let (endpoint, namespace) = tokio::join!(
            self.bounded(self.store.get::<WorkloadEndpointSpec>(&identity.key)),
            self.bounded(self.store.get::<ProfileSpec>(&key)),
        );
        let (endpoint, namespace) = (endpoint.map_err(failed)?, namespace.map_err(failed)?);
        let namespace = Namespace::of(namespace.metadata, namespace.spec);
        self.addresses.tell_namespace(pod.namespace.clone(), namespace.labels).await;
        let wishes = Wishes::read(&endpoint.metadata.annotations, &namespace.annotations)?;
        let before = &endpoint.spec.container_id;
        let holds = |address: &IpAddr| endpoint.spec.ip_networks.contains(&IpNet::from(*address).to_string());
        if !before.is_empty() && *before != sandbox.container_id && wishes.addresses.iter().any(holds) {
            let old = Sandbox { container_id: before.clone(), ..sandbox.clone() };
            info!(container = before, "addresses of the sandbox before this one are released for it");
            self.addresses.release(vec![old.handle()]).await.map_err(|error| Failure {
                code: code::LATER,
                message: format!("the addresses of {} are still held by its sandbox before this one", name(sandbox)),
                details: format!("{}; try again", chain(&error)),
            })?;
        }
        Ok(wishes)
    }

    /// Asks for the addresses that `add` wants. `also` makes of them what is to be written together with them.
    ///
    /// # Errors
    /// What the plugin is told. Nothing is taken then.
    pub(crate) async fn ask_addresses(
        &self,
        identity: &Identity,
        add: &Add,
        also: Option<Accompany>,
    ) -> Result<Assigning, Failure> {
        if add.ipv6 {
            self.needs_ipv6()?;
        }
        let request = AssignRequest {
            ipv4: add.ipv4,
            ipv6: add.ipv6,
            ipv4_pools: add.ipv4_pools.clone(),
            ipv6_pools: add.ipv6_pools.clone(),
            addresses: add.addresses.clone(),
            pool_use: PoolUse::Workload,
            attributes: self.attributes(&add.sandbox),
            ..AssignRequest::ipv4(identity.handle.clone())
        };
        match self.addresses.assign(request, also).await {
            Ok(assigning) => Ok(assigning),
            Err(error) => Err(self.not_assigned(add, error).await),
        }
    }

    /// What the plugin is told if it gets no addresses. None are taken, or they will be released.
    pub(crate) async fn not_assigned(&self, add: &Add, error: IpamError) -> Failure {
        if matches!(error, IpamError::Silent | IpamError::Assign(AssignError::Datastore { .. })) {
            // Something may have been written before the store fell silent; the plugin is not kept waiting for it.
            if let Err(failure) = self.remember(&add.sandbox, &error.to_string()).await {
                return failure;
            }
        }
        let code = match &error {
            IpamError::Silent | IpamError::Stopping | IpamError::Release(_) => code::LATER,
            IpamError::Assign(error) => match error {
                AssignError::Datastore { .. } | AssignError::Contended { .. } | AssignError::Exhausted { .. } => {
                    code::LATER
                }
                _ => code::OTHER,
            },
        };
        let store = self.store.backend().describe();
        let details = match &error {
            IpamError::Silent => format!("{store}: {error}; check the datastore, then try again"),
            error => chain(error),
        };
        Failure { code, message: format!("no address for {}", name(&add.sandbox)), details }
    }

    /// Stores the endpoint, over what is stored of it.
    ///
    /// # Errors
    /// What the plugin is told; whether it is stored then is not known.
    pub(crate) async fn store_endpoint(&self, wanted: &WorkloadEndpoint) -> Result<(), Failure> {
        let key = wanted.key();
        let store = async {
            let mut last = None;
            for _ in 0..TRIES {
                let taken = match self.store.create(wanted).await {
                    Ok(_) => return Ok(()),
                    Err(error @ (Error::AlreadyExists(_) | Error::NotSupported { .. })) => error,
                    Err(error) => return Err(error),
                };
                let stored = match self.store.get::<WorkloadEndpointSpec>(&key).await {
                    Ok(stored) => stored,
                    // The endpoint is part of a pod that was deleted.
                    Err(error @ Error::NotFound(_)) if matches!(taken, Error::NotSupported { .. }) => {
                        return Err(error);
                    }
                    // Deleted since: it can be created now.
                    Err(Error::NotFound(_)) => {
                        last = Some(taken);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                match self.store.update(&over(stored, wanted)).await {
                    Ok(_) => return Ok(()),
                    Err(error @ (Error::Conflict(_) | Error::NotFound(_))) => last = Some(error),
                    Err(error) => return Err(error),
                }
            }
            Err(last.unwrap_or(Error::Conflict(key.clone())))
        };
        self.bounded(store).await.map_err(|reason| Failure {
            code: code::LATER,
            message: format!("the endpoint {key} could not be stored"),
            details: match reason {
                StepError::Store(Error::NotFound(_)) => "the pod is gone: it was deleted meanwhile".to_owned(),
                reason => format!("{reason}; check the datastore, then try again"),
            },
        })
    }

    /// Has the node's side programmed.
    ///
    /// # Errors
    /// What the plugin is told.
    pub(crate) async fn attach(&self, endpoint: &WorkloadEndpoint, attached: Attached) -> Result<(), Failure> {
        debug!(mac = attached.mac, host_index = attached.host_index, "attached");
        let (done, answer) = oneshot::channel();
        let order = Order::Attach { endpoint: Box::new(endpoint.clone()), attached, done };
        let ask = async {
            self.kernel.send(order).await.ok()?;
            answer.await.ok()
        };
        let interface = &endpoint.spec.interface_name;
        match timeout(PATIENCE, ask).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(reason))) => Err(Failure {
                code: code::LATER,
                message: format!("the node's side {interface} could not be programmed"),
                details: reason,
            }),
            Ok(None) | Err(_) => Err(Failure {
                code: code::LATER,
                message: format!("the node's side {interface} was not programmed in time"),
                details: "Felix is stopping or overloaded; its log and its liveness tell".to_owned(),
            }),
        }
    }

    /// Takes back everything of a sandbox, or remembers to do so: at once if `silent` says that the store did not answer
    /// just now, or if it is known not to.
    ///
    /// # Errors
    /// Only if it cannot even be remembered.
    pub(crate) async fn forget(
        &self,
        identity: &Identity,
        sandbox: &Sandbox,
        silent: Option<&str>,
    ) -> Result<(), Failure> {
        self.detach(identity, sandbox).await;
        match silent {
            Some(reason) => self.remember(sandbox, reason).await,
            None => self.or_remember(sandbox, self.undo(identity, sandbox)).await,
        }
    }

    /// Releases the addresses of a sandbox, or remembers to do so.
    ///
    /// # Errors
    /// Only if it cannot even be remembered.
    pub(crate) async fn give_back(&self, identity: &Identity, sandbox: &Sandbox) -> Result<(), Failure> {
        self.or_remember(sandbox, self.release(identity)).await
    }

    /// Does what is remembered for this very sandbox, before anything new is done for it: otherwise its new
    /// addresses would be released in place of the old.
    ///
    /// # Errors
    /// Code 11 if it cannot be done now.
    pub(crate) async fn settle(&self, identity: &Identity, sandbox: &Sandbox) -> Result<(), Failure> {
        let later = |details: String| Failure {
            code: code::LATER,
            message: format!("an earlier release for {} is not done yet", name(sandbox)),
            details,
        };
        let found = calico_agent::spool::of(&self.spool, sandbox);
        let found = found.map_err(|error| later(format!("{}: {error}", self.spool.display())))?;
        if let Some(one) = found {
            self.work_off(&one, identity, sandbox).await.map_err(|error| later(error.to_string()))?;
        }
        Ok(())
    }

    /// Does a remembered release, unless somebody else has just done it. It must be the caller's turn at the endpoint.
    ///
    /// # Errors
    /// If it is not done; it stays remembered.
    pub(crate) async fn work_off(
        &self,
        one: &Pending,
        identity: &Identity,
        sandbox: &Sandbox,
    ) -> Result<(), UndoError> {
        if !one.path.exists() {
            return Ok(());
        }
        // It may have been switched off for good and not be removed yet.
        self.remove_leaving().await.map_err(UndoError::Interface)?;
        self.detach(identity, sandbox).await;
        self.undo(identity, sandbox).await?;
        info!(container = sandbox.container_id, "a remembered release is done");
        if let Err(error) = std::fs::remove_file(&one.path) {
            warn!(file = %one.path.display(), %error, "a release that is done is still remembered");
        }
        Ok(())
    }

    /// Deletes the endpoint and only then releases the addresses, so that nobody gets one that is still somebody's.
    ///
    /// # Errors
    /// If either is not done; the whole may be repeated.
    pub(crate) async fn undo(&self, identity: &Identity, sandbox: &Sandbox) -> Result<(), UndoError> {
        self.bounded(self.delete_endpoint(identity, sandbox)).await.map_err(UndoError::Endpoint)?;
        self.release(identity).await
    }

    /// Has the routes of a sandbox removed.
    pub(crate) async fn detach(&self, identity: &Identity, sandbox: &Sandbox) {
        let (done, answer) = oneshot::channel();
        let order = Order::Detach { key: identity.key.clone(), container: sandbox.container_id.clone(), done };
        let ask = async {
            if self.kernel.send(order).await.is_ok() {
                let _ = answer.await;
            }
        };
        if timeout(PATIENCE, ask).await.is_err() {
            warn!(interface = identity.interface, "routes are not removed in time");
        }
    }

    /// Deletes the endpoint of a sandbox, if it is still its own.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn delete_endpoint(&self, identity: &Identity, sandbox: &Sandbox) -> Result<(), Error> {
        for _ in 0..TRIES {
            let stored = match self.store.get::<WorkloadEndpointSpec>(&identity.key).await {
                Ok(stored) => stored,
                Err(Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            };
            if stored.spec.container_id != sandbox.container_id {
                info!(endpoint = %identity.key, container = stored.spec.container_id, "endpoint belongs to another container and stays");
                return Ok(());
            }
            match self.store.delete(&stored).await {
                Err(Error::Conflict(_)) => {}
                Ok(()) | Err(Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Conflict(identity.key.clone()))
    }

    pub(crate) async fn release(&self, identity: &Identity) -> Result<(), UndoError> {
        let handles = [Some(identity.handle.clone()), identity.legacy_handle.clone()].into_iter().flatten().collect();
        let released = self.addresses.release(handles).await?;
        debug!(?released, "addresses released");
        Ok(())
    }

    async fn or_remember(
        &self,
        sandbox: &Sandbox,
        work: impl Future<Output = Result<(), UndoError>>,
    ) -> Result<(), Failure> {
        // A store that did not answer a watch is not waited for long. But it is asked: one watch may fail for ever.
        let trouble = self.state.borrow().trouble.clone();
        let done = match trouble {
            Some(trouble) => timeout(BRIEFLY, work).await.map_err(|_| trouble),
            None => Ok(work.await),
        };
        let reason = match done {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(trouble) => trouble,
        };
        self.remember(sandbox, &reason).await
    }

    /// Switches off the interface of a sandbox and notes that the rest is to be done, by [`super::see_off`]; false if no
    /// interface is known to be the sandbox's, or it cannot be noted: then nothing is done.
    pub(crate) async fn part(&self, identity: &Identity, sandbox: &Sandbox, turn: OwnedMutexGuard<()>) -> Parting {
        let (done, answer) = oneshot::channel();
        let order = Order::Dismiss { key: identity.key.clone(), container: sandbox.container_id.clone(), done };
        let ask = async {
            self.kernel.send(order).await.ok()?;
            answer.await.ok()
        };
        let dismissed = timeout(PATIENCE, ask).await.ok().flatten().unwrap_or(false);
        if !dismissed {
            return Parting::Unknown(turn);
        }
        let del = Del { sandbox: sandbox.clone(), gone: true };
        let note = match calico_agent::spool::note(&self.spool, &del) {
            Ok(note) => note,
            Err(error) => {
                warn!(%error, "a release cannot be noted, it is done at once");
                return Parting::Unknown(turn);
            }
        };
        let departure = Departure { identity: identity.clone(), sandbox: sandbox.clone(), note, _turn: turn };
        match self.departures.send(Leaving::One(Box::new(departure))).await {
            Ok(()) => Parting::Done,
            // Felix stops; the next one finds the note.
            Err(_) => Parting::Done,
        }
    }

    async fn remember(&self, sandbox: &Sandbox, reason: &str) -> Result<(), Failure> {
        warn!(reason, "the release is remembered and done later");
        let (spool, del) = (self.spool.clone(), Del { sandbox: sandbox.clone(), gone: true });
        let remembered = tokio::task::spawn_blocking(move || calico_agent::spool::remember(&spool, &del)).await;
        let error = match remembered {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(Failure {
            code: code::LATER,
            message: format!("{} could not be released, nor could that be remembered", name(sandbox)),
            details: format!("{reason}; {error}"),
        })
    }

    /// What a step with the store came to, or that it took too long.
    pub(crate) async fn bounded<T>(&self, step: impl Future<Output = Result<T, Error>>) -> Result<T, StepError> {
        match timeout(PATIENCE, step).await {
            Ok(result) => result.map_err(StepError::Store),
            Err(_) => Err(StepError::Silent { store: self.store.backend().describe() }),
        }
    }

    /// What IPAM keeps of the holder of an address (reference ipam-cni-datastore.md §4.11).
    fn attributes(&self, sandbox: &Sandbox) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::from([
            ("node".to_owned(), self.node.clone()),
            ("timestamp".to_owned(), ipam::block::attribute_time(Timestamp::now())),
        ]);
        if let Some(pod) = &sandbox.pod {
            attributes.insert("pod".to_owned(), pod.name.clone());
            attributes.insert("namespace".to_owned(), pod.namespace.clone());
        }
        attributes
    }
}

fn name(sandbox: &Sandbox) -> String {
    match &sandbox.pod {
        Some(pod) => format!("pod {}/{}", pod.namespace, pod.name),
        None => format!("container {}", sandbox.container_id),
    }
}

/// An error with its causes.
fn chain(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        append(&mut text, error);
        cause = error.source();
    }
    text
}

/// Appends a cause, unless the text ends with it already (a transparent error repeats its source).
fn append(text: &mut String, cause: &dyn Display) {
    let cause = cause.to_string();
    if !text.ends_with(&cause) {
        text.push_str(": ");
        text.push_str(&cause);
    }
}
