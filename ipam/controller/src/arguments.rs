//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use calico_daemon::LogFormat;
use clap::Parser;

/// Collects what is left over in IPAM: leaked addresses, handles without addresses, blocks and affinities of deleted nodes.
///
/// Several replicas may run; one of them acts. The datastore is chosen as by calicoctl: DATASTORE_TYPE (kubernetes, etcdv3
/// or sqlite) with its variables, or a calicoctl.cfg given by --config. Beside etcd or SQLite, Kubernetes is asked for pods
/// and nodes if KUBECONFIG names it or a pod's service account is there. The resource KubeControllersConfiguration
/// `default` holds the settings (leakGracePeriod and others); these variables override it, as Calico's: LOG_LEVEL,
/// RECONCILER_PERIOD, ENABLED_CONTROLLERS, HEALTH_ENABLED, SYNC_NODE_LABELS.
#[derive(Clone, Debug, Parser)]
#[command(name = "ipam-controller", version = calico_version::LONG, max_term_width = 110)]
pub(crate) struct Arguments {
    /// A calicoctl.cfg that tells how the datastore is reached; the environment decides without it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Where health and metrics are served; without it on all addresses: health at port 9094, metrics at that of the settings
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Namespace of the Lease by which replicas agree who acts
    #[arg(long, env = "NAMESPACE", value_name = "NAME", default_value = "kube-system")]
    pub(crate) namespace: String,

    /// What log lines look like: text or json
    #[arg(long, env = "LOG_FORMAT", value_name = "FORM", default_value = "text")]
    pub(crate) log_format: LogFormat,
}
