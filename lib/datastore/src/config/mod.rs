//! Which store, and how it is reached: from `calicoctl.cfg` or from the environment.

use crate::{Result, Store};

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
}

/// How an etcd v3 cluster is reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EtcdConfig {
    /// URLs of its members.
    pub endpoints: Vec<String>,
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

/// Opens the store.
///
/// # Errors
/// If it cannot be reached; the text names it.
pub async fn connect(config: &Config) -> Result<Store> {
    match config {
        Config::Sqlite { path } => Ok(Store::new(crate::sqlite::Sqlite::open(path).await?)),
        Config::Etcd(_) | Config::Kubernetes(_) => {
            Err(crate::Error::Unavailable { store: format!("{config:?}"), reason: String::new() })
        }
    }
}
