//! The servers behind a topology's store.

pub mod etcd;
pub mod kubernetes;

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::datastore::Datastore;
use crate::holder::Holder;
use crate::net::{Net, SEGMENT, StoreKind};

use etcd::Etcd;
use kubernetes::{ApiServer, Group, Listen};

/// A running server.
#[derive(Debug)]
pub enum Server {
    /// Debian's etcd.
    Etcd(Mutex<Etcd>),
    /// A kube-apiserver, with our custom resource definitions.
    Kubernetes(Mutex<ApiServer>),
}

impl Server {
    /// Makes the node's object, where the store is an orchestrator's.
    ///
    /// # Errors
    /// The server's.
    pub fn create_node(&self, name: &str) -> Result<()> {
        match self {
            Self::Etcd(_) => Ok(()),
            Self::Kubernetes(server) => lock(server).create_node(name),
        }
    }

    /// Makes the pod's object, where the store is an orchestrator's.
    ///
    /// # Errors
    /// The server's.
    pub fn create_pod(&self, namespace: &str, name: &str, node: &str) -> Result<()> {
        match self {
            Self::Etcd(_) => Ok(()),
            Self::Kubernetes(server) => lock(server).create_pod(namespace, name, node),
        }
    }

    /// The uid of the pod's object, where there is one.
    ///
    /// # Errors
    /// The server's.
    pub fn pod_uid(&self, namespace: &str, name: &str) -> Result<Option<String>> {
        let Self::Kubernetes(server) = self else { return Ok(None) };
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let pod = lock(server).request("GET", &path, &serde_json::Value::Null)?;
        Ok(pod["metadata"]["uid"].as_str().map(str::to_owned))
    }

    /// Removes the pod's object.
    ///
    /// # Errors
    /// The server's.
    pub fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        match self {
            Self::Etcd(_) => Ok(()),
            Self::Kubernetes(server) => lock(server).delete_pod(namespace, name),
        }
    }

    /// Makes or changes an object that is Kubernetes' own; says whether it is kept there, and not in the store.
    ///
    /// # Errors
    /// The server's.
    pub fn apply(&self, resource: &serde_json::Value) -> Result<bool> {
        match self {
            Self::Etcd(_) => Ok(false),
            Self::Kubernetes(server) => lock(server).apply(resource).map(|()| true),
        }
    }

    /// What it counts, as Prometheus reads it.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn metrics(&self, net: &Net) -> Result<String> {
        match self {
            Self::Etcd(server) => {
                let url = format!("{}/metrics", lock(server).url());
                crate::process::run(net.command("curl").args(["-sS", "--fail", &url]))
            }
            Self::Kubernetes(server) => lock(server).text("/metrics"),
        }
    }

    /// Kills it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop(&self) -> Result<()> {
        match self {
            Self::Etcd(server) => lock(server).kill(),
            Self::Kubernetes(server) => lock(server).kill(),
        }
    }

    /// Starts it again with what it held.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_again(&self) -> Result<()> {
        match self {
            Self::Etcd(server) => lock(server).restart(),
            Self::Kubernetes(server) => lock(server).restart(),
        }
    }
}

fn lock<T>(server: &Mutex<T>) -> MutexGuard<'_, T> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts what a store of this kind needs.
///
/// # Errors
/// If it does not start.
pub fn start(kind: StoreKind, segment: &Holder, directory: &Path) -> Result<(Datastore, Option<Server>)> {
    let address = IpAddr::V4(SEGMENT);
    match kind {
        StoreKind::Sqlite => Ok((Datastore::Sqlite(directory.join("ocicat.db")), None)),
        StoreKind::Etcd => {
            let server = Etcd::start(address, Some(segment), Some(directory), None)?;
            Ok((Datastore::Etcd { endpoints: server.url() }, Some(Server::Etcd(Mutex::new(server)))))
        }
        StoreKind::Kubernetes => {
            let server = ApiServer::start(Listen { address, port: Some(6443) }, Some(segment), Some(directory))?;
            server.apply_crds(Group::Classic)?;
            let datastore = Datastore::Kubernetes { kubeconfig: server.kubeconfig() };
            Ok((datastore, Some(Server::Kubernetes(Mutex::new(server)))))
        }
    }
}
