//! The servers behind a topology's store.

pub mod etcd;
pub mod kubernetes;

use std::path::Path;

use anyhow::{Result, bail};

use crate::datastore::Datastore;
use crate::holder::Holder;
use crate::net::StoreKind;

/// A running server.
#[derive(Debug)]
pub enum Server {}

impl Server {
    /// Makes the node's object, where the store is an orchestrator's.
    ///
    /// # Errors
    /// The server's.
    pub fn create_node(&self, _name: &str) -> Result<()> {
        match *self {}
    }

    /// Makes the pod's object, where the store is an orchestrator's.
    ///
    /// # Errors
    /// The server's.
    pub fn create_pod(&self, _namespace: &str, _name: &str, _node: &str) -> Result<()> {
        match *self {}
    }

    /// Removes the pod's object.
    ///
    /// # Errors
    /// The server's.
    pub fn delete_pod(&self, _namespace: &str, _name: &str) -> Result<()> {
        match *self {}
    }
}

/// Starts what a store of this kind needs.
///
/// # Errors
/// If it does not start.
pub fn start(kind: StoreKind, _segment: &Holder, directory: &Path) -> Result<(Datastore, Option<Server>)> {
    match kind {
        StoreKind::Sqlite => Ok((Datastore::Sqlite(directory.join("ocicat.db")), None)),
        StoreKind::Etcd | StoreKind::Kubernetes => bail!("not yet"),
    }
}
