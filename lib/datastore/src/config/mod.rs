//! Which store, and how it is reached: from `calicoctl.cfg` or from the environment.
//!
//! The file wins entirely, the two are never merged. Each variable of the environment is looked up with the
//! prefix `CALICO_` first, then without.

mod meaning;
mod raw;

use std::path::{Path, PathBuf};

use crate::{Result, Store};

/// The file that is read if none is named.
pub const DEFAULT_FILE: &str = "/etc/calico/calicoctl.cfg";

/// Where the SQLite store is unless `SQLITE_PATH` or `sqlitePath` says otherwise.
pub const DEFAULT_SQLITE_PATH: &str = "/var/lib/calico/ocicat.db";

/// Which store, and how it is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// A Kubernetes API server.
    Kubernetes(KubernetesConfig),
    /// An etcd v3 cluster.
    Etcd(EtcdConfig),
    /// One file, or `:memory:`.
    Sqlite {
        /// Path of the file.
        path: String,
    },
    /// A file of resources that is only read. No setting chooses it: a daemon does, by an option of its own.
    Resources {
        /// Path of the file.
        path: PathBuf,
    },
}

/// How a Kubernetes API server is reached. What is absent here comes from the kubeconfig, or from the pod's service account.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KubernetesConfig {
    /// Path of a kubeconfig, or several joined by `:`. Absent: `$HOME/.kube/config` if that exists and nothing else
    /// here says how to reach a server, else the pod's service account.
    pub kubeconfig: Option<String>,
    /// A kubeconfig's text; wins over `kubeconfig`.
    pub kubeconfig_inline: Option<String>,
    /// URL of the API server.
    pub api_endpoint: Option<String>,
    /// Path of the client's key, PEM.
    pub key_file: Option<String>,
    /// Path of the client's certificate, PEM.
    pub cert_file: Option<String>,
    /// Path of the certificates that sign the server's, PEM.
    pub ca_file: Option<String>,
    /// Bearer token.
    pub api_token: Option<String>,
    /// Whether any certificate of the server is good enough.
    pub insecure_skip_tls_verify: bool,
    /// Without effect; accepted because old configurations have it.
    pub disable_node_poll: bool,
    /// Whether pods have addresses of their node's pod CIDR (host-local IPAM), and Calico's IPAM is not used.
    pub use_pod_cidr: bool,
    /// Requests per second; the library's default if absent.
    pub client_qps: Option<f32>,
    /// Requests that may go out at once before the rate holds.
    pub client_burst: Option<u32>,
    /// The context of the kubeconfig; its `current-context` if absent.
    pub current_context: Option<String>,
    /// `crd.projectcalico.org/v1` or `projectcalico.org/v3`; found by discovery if absent.
    pub calico_api_group: Option<String>,
    /// What the names of pods' interfaces begin with, or a list of such whose first counts; `FELIX_INTERFACEPREFIX` if absent.
    pub interface_prefix: Option<String>,
}

/// How an etcd v3 cluster is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EtcdConfig {
    /// URLs of its members; empty if `discovery_srv` says where they are.
    pub endpoints: Vec<String>,
    /// A domain whose SRV records of the service `etcd-client` name the members.
    pub discovery_srv: Option<String>,
    /// User and password.
    pub credentials: Option<(String, String)>,
    /// The client's certificate and key.
    pub identity: Option<(Pem, Pem)>,
    /// The certificates that sign the servers'; the system's if absent.
    pub ca: Option<Pem>,
}

/// A certificate or key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The path of a file.
    File(String),
    /// The text itself.
    Inline(String),
}

impl std::fmt::Debug for Pem {
    /// Does not show a key's text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Inline(_) => f.write_str("Inline(..)"),
        }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The file is not YAML, or not a `CalicoAPIConfig`.
    #[error("invalid config file {place}: {reason}")]
    File {
        /// The file.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A value is wrong, missing, or contradicts another.
    #[error("{place}: {key}: {reason}")]
    Value {
        /// The file, or `environment`.
        place: String,
        /// The field or the variable.
        key: String,
        /// The value, and what is wrong with it.
        reason: String,
    },
}

impl Config {
    /// The configuration in a file's text; `path` is named in errors.
    ///
    /// # Errors
    /// [`ConfigError`] names file, key and value.
    pub fn from_file_text(text: &str, path: &Path) -> Result<Self, ConfigError> {
        meaning::config(&raw::from_file_text(text, path)?)
    }

    /// The configuration in the environment that `get` looks into.
    ///
    /// # Errors
    /// [`ConfigError`] names variable and value.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        meaning::config(&raw::from_environment(get))
    }

    /// The configuration in the file that is named, or else in the default file if it exists, or else in the environment.
    ///
    /// # Errors
    /// [`ConfigError::Read`] also if the named file does not exist.
    pub fn load(file: Option<&Path>, get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::from_file_text(&text, path),
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => Self::from_environment(get),
            Err(error) => Err(ConfigError::Read { path: path.to_owned(), reason: error.to_string() }),
        }
    }
}

/// Opens the store.
///
/// # Errors
/// If it cannot be reached; the text names it.
pub async fn connect(config: &Config) -> Result<Store> {
    match config {
        Config::Sqlite { path } => {
            // A machine's first use; any other directory is the operator's to make.
            if path == DEFAULT_SQLITE_PATH
                && let Some(directory) = Path::new(path).parent()
            {
                // What this cannot do, opening the file will say.
                let _ = std::fs::create_dir_all(directory);
            }
            Ok(Store::new(crate::sqlite::Sqlite::open(path).await?))
        }
        Config::Etcd(config) => Ok(Store::new(crate::etcd::Etcd::connect(config).await?)),
        Config::Kubernetes(config) => Ok(Store::new(crate::kubernetes::Kubernetes::connect(config).await?)),
        Config::Resources { path } => crate::resources::open(path),
    }
}

/// Opens the cluster's API for Kubernetes' own kinds (Secret, Service, EndpointSlice), where the main store is another:
/// in Calico's etcd mode services are read from there. `None` if the main store has these kinds itself, being
/// Kubernetes, or if the environment that `get` looks into names no API server: neither `KUBECONFIG` nor
/// `K8S_API_ENDPOINT` (or the same with `CALICO_` before it), nor what a pod finds, `KUBERNETES_SERVICE_HOST`.
///
/// # Errors
/// If what the environment names cannot be used. That the server does not answer is told by the store's operations.
pub async fn connect_core(main: &Config, get: impl Fn(&str) -> Option<String>) -> Result<Option<Store>> {
    let raw = raw::from_environment(&get);
    let named = raw.get("kubeconfig").is_some() || raw.get("k8sAPIEndpoint").is_some();
    let in_pod = get("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty());
    if matches!(main, Config::Kubernetes(_)) || !(named || in_pod) {
        return Ok(None);
    }
    let unusable =
        |error: ConfigError| crate::Error::Unavailable { store: "kubernetes".to_owned(), reason: error.to_string() };
    let mut config = meaning::kubernetes(&raw).map_err(unusable)?;
    // Calico's resources are elsewhere: there is no group of them to look for.
    config.calico_api_group.get_or_insert_with(|| crate::kubernetes::ApiGroup::Classic.api_version().to_owned());
    Ok(Some(Store::new(crate::kubernetes::Kubernetes::connect(&config).await?)))
}

#[cfg(test)]
mod tests;
