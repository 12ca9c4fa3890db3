//! Where the record of the leader is kept: a Lease, a key of etcd, or a lock on a file.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use calico_datastore::etcd::Etcd;
use calico_datastore::kubernetes::Kubernetes;
use calico_datastore::{Config, Error, Revision};
use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use crate::election::{Election, Record};

/// The Lease's name; the namespace is an option.
pub const LEASE: &str = "ipam-controller";

/// The key in etcd; under the prefix for which Calico's users have their rights.
pub const KEY: &str = "/calico/ocicat/v1/ipam-controller/leader";

/// What is appended to the path of an SQLite store.
const SUFFIX: &str = "-ipam-controller";

/// Where the record is.
enum Place {
    Lease {
        kubernetes: Box<Kubernetes>,
        namespace: String,
    },
    Etcd(Box<Etcd>),
    /// The lock, when it is held.
    File {
        path: PathBuf,
        held: Option<Flock<File>>,
    },
    /// A store that only this process sees.
    Alone,
}

/// A record as read, with what it takes to replace it.
struct Found {
    record: Record,
    /// The Lease as it is, or the revision.
    version: Version,
}

enum Version {
    Lease(Value),
    Etcd(Revision),
}

/// This replica's candidacy.
pub struct Seat {
    place: Place,
    election: Election,
    start: Instant,
    told: Option<String>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat").field("election", &self.election).finish_non_exhaustive()
    }
}

impl Seat {
    /// A candidacy where the store is.
    ///
    /// # Errors
    /// If the store cannot be reached.
    pub async fn at(config: &Config, namespace: &str, identity: String) -> Result<Self, Error> {
        let place = match config {
            Config::Kubernetes(config) => Place::Lease {
                kubernetes: Box::new(Kubernetes::connect(config).await?),
                namespace: namespace.to_owned(),
            },
            Config::Etcd(config) => Place::Etcd(Box::new(Etcd::connect(config).await?)),
            Config::Sqlite { path } if path != ":memory:" => {
                Place::File { path: PathBuf::from(format!("{path}{SUFFIX}")), held: None }
            }
            Config::Sqlite { .. } | Config::Resources { .. } => Place::Alone,
        };
        Ok(Self { place, election: Election::new(identity), start: Instant::now(), told: None })
    }

    /// Whether this replica may act now.
    pub fn leads(&self) -> bool {
        match &self.place {
            Place::File { held, .. } => held.is_some(),
            Place::Alone => true,
            Place::Lease { .. } | Place::Etcd(_) => self.election.leads(self.start.elapsed()),
        }
    }

    /// For how long it may act without another [`Self::tend`]; `None` if that does not end, or it may not act at all.
    pub fn remaining(&self) -> Option<Duration> {
        match &self.place {
            Place::File { .. } | Place::Alone => None,
            Place::Lease { .. } | Place::Etcd(_) => self.election.remaining(self.start.elapsed()),
        }
    }

    /// After what time [`Self::tend`] is to be called again.
    pub fn pause(&self) -> Duration {
        self.election.pause(self.start.elapsed())
    }

    /// Takes the seat, or keeps it.
    pub async fn tend(&mut self) {
        let before = self.leads();
        let result = self.try_tend().await;
        let reason = result.err();
        if reason.is_some() && reason != self.told {
            warn!(error = reason, "leadership cannot be asked for or kept; trying again");
        }
        self.told = reason;
        match (before, self.leads()) {
            (false, true) => info!(identity = self.election.identity(), "this replica leads"),
            (true, false) => warn!(identity = self.election.identity(), "this replica no longer leads"),
            _ => {}
        }
    }

    async fn try_tend(&mut self) -> Result<(), String> {
        if let Place::File { path, held } = &mut self.place {
            if held.is_none() {
                *held = lock(path)?;
            }
            return Ok(());
        }
        if matches!(self.place, Place::Alone) {
            return Ok(());
        }
        let begun = self.start.elapsed();
        let found = self.read().await?;
        let now = self.start.elapsed();
        let record = found.as_ref().map(|found| &found.record);
        let Some(wanted) = self.election.consider(record, now, Timestamp::now()) else { return Ok(()) };
        if self.write(&wanted, found.map(|found| found.version)).await? {
            self.election.written(wanted, begun);
        } else {
            debug!("another replica was faster");
        }
        Ok(())
    }

    /// Gives up the seat, so that another replica need not wait.
    pub async fn step_down(&mut self) {
        if let Place::File { held, .. } = &mut self.place {
            *held = None;
            return;
        }
        if !self.leads() {
            return;
        }
        let Some(record) = self.election.step_down(Timestamp::now()) else { return };
        let written = async {
            let found = self.read().await?;
            // Another's by now, perhaps.
            let ours = found.filter(|found| found.record.holder_identity == self.election.identity());
            match ours {
                Some(found) => self.write(&record, Some(found.version)).await,
                None => Ok(false),
            }
        };
        if let Err(error) = written.await {
            debug!(error, "the seat could not be given up; it is free when its time is over");
        }
    }

    async fn read(&self) -> Result<Option<Found>, String> {
        match &self.place {
            Place::Lease { kubernetes, namespace } => {
                let (code, lease) =
                    kubernetes.object("GET", &path(namespace, Some(LEASE)), &Value::Null).await.map_err(text)?;
                match code {
                    200 => {
                        let record = serde_json::from_value(lease["spec"].clone()).unwrap_or_default();
                        Ok(Some(Found { record, version: Version::Lease(lease) }))
                    }
                    404 => Ok(None),
                    _ => Err(refused("read", namespace, code, &lease)),
                }
            }
            Place::Etcd(etcd) => {
                let found = etcd.record(KEY).await.map_err(text)?;
                Ok(found.map(|(text, revision)| Found {
                    record: serde_json::from_str(&text).unwrap_or_default(),
                    version: Version::Etcd(revision),
                }))
            }
            Place::File { .. } | Place::Alone => Ok(None),
        }
    }

    /// Writes the record in place of what was read; whether it was written.
    async fn write(&self, record: &Record, version: Option<Version>) -> Result<bool, String> {
        match (&self.place, version) {
            (Place::Lease { kubernetes, namespace }, Some(Version::Lease(mut lease))) => {
                lease["spec"] = spec(record, &lease["spec"]);
                let (code, answer) =
                    kubernetes.object("PUT", &path(namespace, Some(LEASE)), &lease).await.map_err(text)?;
                match code {
                    200 => Ok(true),
                    404 | 409 => Ok(false),
                    _ => Err(refused("write", namespace, code, &answer)),
                }
            }
            (Place::Lease { kubernetes, namespace }, _) => {
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": LEASE, "namespace": namespace}, "spec": spec(record, &Value::Null)});
                let (code, answer) = kubernetes.object("POST", &path(namespace, None), &lease).await.map_err(text)?;
                match code {
                    200 => Ok(true),
                    409 => Ok(false),
                    _ => Err(refused("create", namespace, code, &answer)),
                }
            }
            (Place::Etcd(etcd), version) => {
                let expected = match &version {
                    Some(Version::Etcd(revision)) => Some(revision),
                    _ => None,
                };
                let record = serde_json::to_string(record).map_err(text)?;
                etcd.put_record(KEY, &record, expected).await.map_err(text)
            }
            (Place::File { .. } | Place::Alone, _) => Ok(false),
        }
    }
}

fn path(namespace: &str, name: Option<&str>) -> String {
    let all = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    name.map_or(all.clone(), |name| format!("{all}/{name}"))
}

/// A Lease's spec with our fields; what others wrote beside them stays.
fn spec(record: &Record, before: &Value) -> Value {
    let mut spec = before.as_object().cloned().unwrap_or_default();
    if let Ok(Value::Object(ours)) = serde_json::to_value(record) {
        spec.extend(ours);
    }
    if record.holder_identity.is_empty() {
        // An empty name is not valid in a Lease; none is.
        spec.insert("holderIdentity".to_owned(), Value::Null);
    }
    Value::Object(spec)
}

fn refused(what: &str, namespace: &str, code: u16, answer: &Value) -> String {
    let words = answer["message"].as_str().unwrap_or_default();
    format!(
        "the API server refuses to let us {what} the Lease {namespace}/{LEASE} ({code}): {words}; \
         the role needs get, create and update on leases of coordination.k8s.io"
    )
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The lock, unless another process holds it.
fn lock(path: &PathBuf) -> Result<Option<Flock<File>>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("{} cannot be locked: {error}", path.display());
    let mut options = File::options();
    let file =
        options.create(true).truncate(false).write(true).mode(0o600).open(path).map_err(|error| cannot(&error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(cannot(&error)),
    }
}
