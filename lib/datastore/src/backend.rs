//! What a back end must do.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use calico_api::{Key, Kind, Owner};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde_json::Value;

use crate::{Error, Result};

/// A store's name for one version of a value (or, of a listing, of everything); opaque, compared for equality only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Revision(pub String);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stored value in canonical JSON; its `metadata.resourceVersion` is its revision. `Debug` does not show a Secret's.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// What it is stored under.
    pub key: Key,
    /// `apiVersion`, `kind`, `metadata`, `spec` and perhaps `status`.
    pub value: Value,
    /// The version of this value.
    pub revision: Revision,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = Value::from("(secret)");
        let value = if self.key.kind() == Kind::Secret { &hidden } else { &self.value };
        f.debug_struct("Entry").field("key", &self.key).field("value", value).field("revision", &self.revision).finish()
    }
}

/// Something in the store that cannot be read. It is reported, and it does not hide its neighbours.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// The kind it was stored as.
    pub kind: Kind,
    /// Its key, if that much could be read.
    pub key: Option<Key>,
    /// The store's own name for it: an etcd key, an object's name.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// Which resources of a kind a list or watch is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Filter {
    /// All of them, in every namespace.
    #[default]
    All,
    /// Those in a namespace.
    Namespace(String),
    /// Those that belong to a node: affinities of the owner `host:<node>`, workload endpoints on it, the node itself.
    Node(String),
    /// Of profiles those that stand for namespaces, and not those of service accounts, which are many more.
    Namespaces,
    /// The one of this name. Kubernetes is asked for no other, so that a role with `resourceNames` is enough.
    Named {
        /// Its namespace, for namespaced kinds.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
}

impl Filter {
    /// The one of this key; its kind must be one whose resources have names.
    pub fn named(key: &Key) -> Self {
        Self::Named { namespace: key.namespace().map(str::to_owned), name: key.name() }
    }

    /// Whether it lets through what is stored under `key`.
    ///
    /// A key is enough: the name of a workload endpoint begins with its node's.
    pub fn admits(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::All, _) => true,
            (Self::Namespace(namespace), key) => key.namespace() == Some(namespace),
            (Self::Node(node), Key::Affinity { owner: Owner::Host(owner), .. }) => owner == node,
            (Self::Node(node), Key::Named { kind: Kind::WorkloadEndpoint, name, .. }) => name
                .strip_prefix(&node.replace('-', "--"))
                .and_then(|rest| rest.strip_prefix('-'))
                // A second dash is one inside the name of another node.
                .is_some_and(|rest| !rest.starts_with('-')),
            (Self::Node(node), Key::Named { kind: Kind::Node, name, .. }) => name == node,
            (Self::Namespaces, Key::Named { kind: Kind::Profile, name, .. }) => name.starts_with("kns."),
            (Self::Named { namespace, name }, Key::Named { namespace: its, name: called, .. }) => {
                called == name && its == namespace
            }
            (Self::Node(_) | Self::Namespaces | Self::Named { .. }, _) => false,
        }
    }

    /// Whether it has a meaning for the kind.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if resources of the kind belong to no node, stand for no namespace, or have no namespace or need one, or no name.
    pub fn check(&self, kind: Kind, operation: &'static str) -> Result<()> {
        let reason = match self {
            Self::Namespace(_) if !kind.namespaced() => "it has no namespaces",
            Self::Node(_) if !matches!(kind, Kind::BlockAffinity | Kind::WorkloadEndpoint | Kind::Node) => {
                "it belongs to no node"
            }
            Self::Namespaces if kind != Kind::Profile => "it does not stand for a namespace",
            Self::Named { .. } if matches!(kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle) => {
                "its key is more than a name"
            }
            Self::Named { namespace, .. } if namespace.is_some() != kind.namespaced() => {
                if kind.namespaced() {
                    "it needs a namespace"
                } else {
                    "it has no namespaces"
                }
            }
            _ => return Ok(()),
        };
        Err(Error::NotSupported { operation, kind, reason: reason.to_owned() })
    }
}

/// A condition of a Kubernetes Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCondition {
    /// `NetworkUnavailable` and the like.
    pub condition_type: String,
    /// Whether it holds.
    pub status: bool,
    /// One word, for programs.
    pub reason: String,
    /// A sentence, for people.
    pub message: String,
    /// The present time (RFC 3339).
    pub now: String,
}

/// One of several writes that belong together.
#[derive(Clone, PartialEq)]
pub enum Write {
    /// Stores a value where there is none.
    Create {
        /// Where.
        key: Key,
        /// What.
        value: Value,
    },
    /// Replaces the value that has this revision.
    Update {
        /// Where.
        key: Key,
        /// By what.
        value: Value,
        /// What is replaced.
        revision: Revision,
    },
    /// Deletes the value that has this revision.
    Delete {
        /// Where.
        key: Key,
        /// What is deleted.
        revision: Revision,
    },
}

impl Write {
    /// What it writes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Create { key, .. } | Self::Update { key, .. } | Self::Delete { key, .. } => key,
        }
    }
}

impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secret, and are long.
        match self {
            Self::Create { key, .. } => write!(f, "create {key}"),
            Self::Update { key, revision, .. } => write!(f, "update {key} at {revision}"),
            Self::Delete { key, revision } => write!(f, "delete {key} at {revision}"),
        }
    }
}

/// The most writes that [`Backend::commit`] takes: an etcd as it is installed allows 128 operations in a transaction.
pub const COMMIT_LIMIT: usize = 128;

/// All resources of a kind at one revision.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Those that could be read.
    pub entries: Vec<Entry>,
    /// Those that could not.
    pub faults: Vec<Fault>,
    /// From where a watch continues.
    pub revision: Revision,
}

/// One listing in parts, so that of a large one nobody needs to hold more than a part; the last has the revision of them all.
/// After an error nothing follows, and the listing is to begin anew.
pub type Parts = BoxStream<'static, Result<Listing>>;

/// One step of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Created or updated.
    Put(Entry),
    /// Gone, at this revision.
    Delete {
        /// What was stored there.
        key: Key,
        /// From where a watch continues.
        revision: Revision,
    },
    /// Updated to something unreadable.
    Fault(Fault),
    /// Nothing changed, but a watch may continue from here.
    Bookmark(Revision),
}

/// A raw watch. It ends, or yields an error and then ends, when the connection is lost or the revision was compacted.
pub type Changes = BoxStream<'static, Result<Change>>;

/// A store. Values are canonical JSON; a back end translates to its own format and back.
///
/// Tombstones (`spec.deleted: true` of IPAM's records) are a matter of the Kubernetes back end: it writes
/// them, finishes those it finds, and never returns one.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// What it is and where, for people: `sqlite /var/lib/calico/calico.db`.
    fn describe(&self) -> String;

    /// The word that a store of this sort adds to `clusterType` in `ClusterInformation`: `kdd` for Kubernetes.
    fn cluster_type(&self) -> &'static str {
        ""
    }

    /// The present value.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound); [`Error::Corrupt`](crate::Error::Corrupt) if it cannot be read.
    async fn get(&self, key: &Key) -> Result<Entry>;

    /// All values of a kind that the filter lets through, at one revision.
    async fn list(&self, kind: Kind, filter: &Filter) -> Result<Listing>;

    /// The same in parts, of which there is at least one; a store that reads large listings piece by piece passes them on so.
    ///
    /// # Errors
    /// As [`Self::list`], here or as an item.
    async fn parts(&self, kind: Kind, filter: &Filter) -> Result<Parts> {
        let whole = self.list(kind, filter).await?;
        Ok(stream::iter([Ok(whole)]).boxed())
    }

    /// Stores a value where there is none.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`](crate::Error::AlreadyExists).
    async fn create(&self, key: &Key, value: Value) -> Result<Entry>;

    /// Replaces the value that has this revision.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) if it has another by now, [`Error::NotFound`](crate::Error::NotFound) if it is gone.
    async fn update(&self, key: &Key, value: Value, revision: &Revision) -> Result<Entry>;

    /// Replaces only the status of the value that has this revision; where a store knows no difference, all of it.
    async fn update_status(&self, key: &Key, value: Value, revision: &Revision) -> Result<Entry> {
        self.update(key, value, revision).await
    }

    /// Deletes a value, only at this revision if one is given; returns what was deleted
    /// (`null` for the value if it could not be read).
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict), [`Error::NotFound`](crate::Error::NotFound).
    async fn delete(&self, key: &Key, revision: Option<&Revision>) -> Result<Entry>;

    /// The texts of a ConfigMap of Kubernetes; `None` if there is none of that name, or the store has no such thing.
    ///
    /// # Errors
    /// [`Error::Unauthorized`](crate::Error::Unauthorized) if it may not be read.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>> {
        let _ = (namespace, name);
        Ok(None)
    }

    /// Makes a condition of a Kubernetes Node so; returns whether anything had to be written. Elsewhere nothing is done.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound) if there is no such node.
    async fn set_node_condition(&self, node: &str, condition: &NodeCondition) -> Result<bool> {
        let _ = (node, condition);
        Ok(false)
    }

    /// Whether [`Self::commit`] makes all of its writes or none.
    fn is_atomic(&self) -> bool {
        false
    }

    /// Makes several writes, of different keys and at most [`COMMIT_LIMIT`], and returns the revisions of what was written
    /// (of a deletion: what was deleted). All or none where [`Self::is_atomic`]; elsewhere one after the other, as far as the
    /// first that fails.
    ///
    /// # Errors
    /// As of the single writes; the error has the key of the one that failed.
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Revision>> {
        let mut revisions = Vec::with_capacity(writes.len());
        for write in writes {
            let entry = match write {
                Write::Create { key, value } => self.create(&key, value).await?,
                Write::Update { key, value, revision } => self.update(&key, value, &revision).await?,
                Write::Delete { key, revision } => self.delete(&key, Some(&revision)).await?,
            };
            revisions.push(entry.revision);
        }
        Ok(revisions)
    }

    /// Resolves when a failure of this store may have passed, so that it is asked again at once; it is made before the
    /// operation that may fail. A store that cannot know never says so, and is asked again after a while anyway.
    fn stirred(&self) -> BoxFuture<'static, ()> {
        Box::pin(futures::future::pending())
    }

    /// What happens to the values of a kind after `from`.
    ///
    /// # Errors
    /// [`Error::Compacted`](crate::Error::Compacted), here or as an item, if the store has forgotten what came after `from`.
    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes>;
}
