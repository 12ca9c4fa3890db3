//! What can go wrong with a store. The texts begin as Calico's do, since scripts match them.

use calico_api::{Key, Kind};

use crate::Fault;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is stored there.
    #[error("resource does not exist: {0} with error: not found in the datastore")]
    NotFound(Key),
    /// Something is stored there already.
    #[error("resource already exists: {0} with error: the key is taken in the datastore")]
    AlreadyExists(Key),
    /// Somebody else wrote first.
    #[error("update conflict: {0}")]
    Conflict(Key),
    /// The store knows us and refuses, or does not know us.
    #[error("connection is unauthorized: {0}")]
    Unauthorized(String),
    /// The store did not answer.
    #[error("{store} did not answer: {reason}")]
    Unavailable {
        /// What [`Backend::describe`](crate::Backend::describe) says.
        store: String,
        /// What happened, and what to check.
        reason: String,
    },
    /// The store has no such kind, though it has others: so there are no objects of it, unless there once were.
    #[error("{store}: {reason}")]
    NotServed {
        /// What [`Backend::describe`](crate::Backend::describe) says.
        store: String,
        /// What is missing, and what to do.
        reason: String,
    },
    /// A file of resources cannot be understood as it is, or is not there.
    #[error("{store}: {reason}")]
    Unreadable {
        /// What [`Backend::describe`](crate::Backend::describe) says.
        store: String,
        /// What is wrong, and where in the file.
        reason: String,
    },
    /// The store refuses the value, in its own words.
    #[error("{key}: {reason}")]
    Rejected {
        /// What was to be written.
        key: Key,
        /// The store's words.
        reason: String,
    },
    /// The stored value cannot be read.
    #[error("{} {} in the datastore is corrupt: {}; correct or delete it", .0.kind, .0.name, .0.reason)]
    Corrupt(Fault),
    /// The store has forgotten the revision from which a watch was to continue.
    #[error("the datastore no longer holds the changes since revision {0}")]
    Compacted(String),
    /// The store cannot do this with this kind.
    #[error("operation {operation} is not supported on {kind}: {reason}")]
    NotSupported {
        /// `create`, `watch`, …
        operation: &'static str,
        /// The kind.
        kind: Kind,
        /// Why.
        reason: String,
    },
    /// What was given to us cannot be stored: a caller's mistake.
    #[error("{key} cannot be stored: {reason}")]
    Encode {
        /// What was to be written.
        key: Key,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether a daemon should go on asking: the same call may succeed later, if only because somebody does what the text
    /// says (grants a right, replaces a token).
    pub fn may_pass(&self) -> bool {
        self.is_temporary() || matches!(self, Self::Unauthorized(_))
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NotServed { .. } | Self::Unreadable { .. })
    }
}
