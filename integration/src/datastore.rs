//! Which store the nodes of a topology share, and how they are told.

use std::path::PathBuf;

use calico_datastore::Store;

use anyhow::{Context, Result};

/// How nodes reach the store.
#[derive(Clone, Debug)]
pub enum Datastore {
    /// One file that all nodes see.
    Sqlite(PathBuf),
    /// An etcd that the nodes reach over the underlay.
    Etcd {
        /// URLs, comma-separated.
        endpoints: String,
    },
    /// A Kubernetes API server that the nodes reach over the underlay.
    Kubernetes {
        /// Path of a kubeconfig.
        kubeconfig: PathBuf,
    },
}

impl Datastore {
    /// What it is called on the command line and in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Etcd { .. } => "etcd",
            Self::Kubernetes { .. } => "kubernetes",
        }
    }

    /// The variables that daemons are started with.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Sqlite(path) => {
                vec![("DATASTORE_TYPE", "sqlite".into()), ("SQLITE_PATH", path.display().to_string())]
            }
            Self::Etcd { endpoints } => {
                vec![("DATASTORE_TYPE", "etcdv3".into()), ("ETCD_ENDPOINTS", endpoints.clone())]
            }
            Self::Kubernetes { kubeconfig } => {
                vec![("DATASTORE_TYPE", "kubernetes".into()), ("KUBECONFIG", kubeconfig.display().to_string())]
            }
        }
    }

    /// The node's `/etc/calico/calicoctl.cfg`.
    pub fn calicoctl_cfg(&self) -> String {
        let spec = match self {
            Self::Sqlite(path) => format!("  datastoreType: sqlite\n  sqlitePath: {}\n", path.display()),
            Self::Etcd { endpoints } => format!("  datastoreType: etcdv3\n  etcdEndpoints: {endpoints}\n"),
            Self::Kubernetes { kubeconfig } => {
                format!("  datastoreType: kubernetes\n  kubeconfig: {}\n", kubeconfig.display())
            }
        };
        format!("apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n{spec}")
    }

    /// Opens the store from where we are (for SQLite everywhere, for the others only on the underlay).
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn open(&self) -> Result<Store> {
        let variables = self.environment();
        let get = |key: &str| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
        let config = calico_datastore::Config::from_environment(get).context("the lab's own configuration")?;
        Ok(calico_datastore::connect(&config).await?)
    }
}
