//! Where resources are kept: one typed [`Store`] over three back ends (Kubernetes, etcd v3, SQLite), and a file that is
//! only read ([`resources`]).
//!
//! [`Backend`] is what a back end implements, on JSON in the canonical spelling (that of
//! `projectcalico.org/v3`, and for IPAM's records that of the custom resources); each translates to
//! and from its own format at its border. [`Store`] adds types. [`watch`] turns a back end's raw
//! watch into a snapshot, *in sync*, and then only differences, across lost connections.

mod backend;
pub mod config;
mod error;
pub mod etcd;
mod initialize;
pub mod kubernetes;
pub mod resources;
pub mod sqlite;
mod store;
mod value;
pub mod watch;

pub use backend::{
    Backend, COMMIT_LIMIT, Change, Changes, Entry, Fault, Filter, Listing, NodeCondition, Parts, Revision, Write,
};
pub use config::{Config, ConfigError, EtcdConfig, KubernetesConfig, Pem, connect, connect_core};
pub use error::Error;
pub use initialize::{ensure_initialized, ensure_initialized_as};
pub use store::{List, Store, decode};

/// What every operation of a store returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
