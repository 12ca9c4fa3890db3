//! What was the speaker told on its command line and in its environment, and what does it mean?

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use bgp_plan::policies::Settings;
use calico_daemon::LogFormat;
use clap::{Parser, ValueEnum};
use ipnet::IpNet;

use crate::router_id::RouterIdChoice;

/// Ocicat's BGP speaker: the node's BGP sessions, and the kernel routes learned from them.
///
/// Sessions follow from the datastore's Node, BGPConfiguration, BGPPeer and BGPFilter resources, without restart: a full
/// mesh of all nodes unless nodeToNodeMeshEnabled is false, and the peers that BGPPeers name. The node's IPAM blocks,
/// borrowed addresses and service addresses are advertised; learned routes are programmed into the main table with
/// protocol 12 and left there when the speaker stops, so that a restart costs no packet.
///
/// The datastore is chosen as by calicoctl: DATASTORE_TYPE (kubernetes, etcdv3 or sqlite) with its variables
/// (KUBECONFIG, ETCD_ENDPOINTS, SQLITE_PATH, ...), or a calicoctl.cfg given by --config, or in short by --datastore.
///
/// A route reflector on a machine outside any cluster: bgp-speaker --resources FILE.yaml --kernel none
#[derive(Clone, Debug, Parser)]
#[command(name = "bgp-speaker", version = calico_version::LONG, max_term_width = 110)]
pub struct Options {
    /// Name of this node; without it the file, and then the host name in lower case, are asked
    #[arg(long, env = "NODENAME", value_name = "NAME")]
    pub nodename: Option<String>,

    /// File in which felix leaves the node's name
    #[arg(long, env = "CALICO_NODENAME_FILE", value_name = "FILE", default_value = "/var/lib/calico/nodename")]
    pub nodename_file: PathBuf,

    /// A calicoctl.cfg that tells how the datastore is reached; the environment decides without it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The datastore in short: sqlite:FILE, etcd:URL[,URL...], kubernetes, or kubernetes:KUBECONFIG
    #[arg(long, value_name = "STORE", conflicts_with_all = ["config", "resources"])]
    pub datastore: Option<Datastore>,

    /// A YAML file of Node, BGPConfiguration, BGPPeer, BGPFilter and other documents in place of a datastore; it is read
    /// again when it changes, and if it cannot be understood, what it said last goes on
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    pub resources: Option<PathBuf>,

    /// Whether the kernel's routes are looked at and learned routes go there (main table), or not at all (none): then
    /// every next hop counts as reachable, and no right over the network is needed
    #[arg(long, env = "BGP_KERNEL", value_name = "WHICH", default_value = "main")]
    pub kernel: KernelMode,

    /// Whether all nodes tell external peers what they have learned of other nodes, as Calico does, or only reflectors
    #[arg(long, env = "BGP_EXPORT_LEARNED", value_name = "WHO", default_value = "all")]
    pub export_learned: ExportLearned,

    /// Namespace of the Secrets that hold BGP passwords
    #[arg(long, env = "NAMESPACE", value_name = "NAME", default_value = "kube-system")]
    pub namespace: String,

    /// This node's name in Kubernetes, by which endpoints of Services name it [default: the node's name]
    #[arg(long, env = "CALICO_K8S_NODE_REF", value_name = "NAME")]
    pub kubernetes_node: Option<String>,

    /// Ranges that take the place of BGPConfiguration's serviceClusterIPs
    #[arg(long, env = "CALICO_ADVERTISE_CLUSTER_IPS", value_name = "CIDR[,CIDR...]")]
    pub advertise_cluster_ips: Option<String>,

    /// Host-local IPAM: the node's podCIDRs are its blocks (true or false)
    #[arg(long, env = "USE_POD_CIDR", value_name = "BOOL")]
    pub use_pod_cidr: Option<String>,

    /// Folder in whose endpoint-status/ felix tells which local workloads are peers
    #[arg(long, env = "CALICO_ENDPOINT_STATUS_PATH_PREFIX", value_name = "FOLDER", default_value = "/var/run/calico")]
    pub endpoint_status_prefix: PathBuf,

    /// File in which the last good version of resources that are not understood now outlives a restart
    #[arg(long, value_name = "FILE", default_value = "/var/lib/calico/bgp-last-good.json")]
    pub last_good: PathBuf,

    /// BGP identifier: an IPv4 address, or "hash" for one made from the node's name
    /// [default: the node's IPv4 address, or the hash where it has none]
    #[arg(long, env = "CALICO_ROUTER_ID", value_name = "ID", default_value = "", hide_default_value = true)]
    pub router_id: RouterIdChoice,

    /// Where /liveness, /readiness and /metrics are served
    #[arg(long, env = "BGP_HEALTH_ADDRESS", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9098")]
    pub http: SocketAddr,

    /// Unix socket that answers {"show":"status"}, "sessions", "neighbors" and "routes" with JSON; routes may be
    /// selected: {"show":"routes","prefix":"10.244.0.0/26"}
    #[arg(long, value_name = "PATH", default_value = "/run/ocicat/bgp.sock")]
    pub status_socket: PathBuf,

    /// Folder of the sockets bird.ctl and bird6.ctl, which answer like BIRD 1.6 (read-only)
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/calico")]
    pub bird_socket_dir: PathBuf,

    /// Logs for people (text) or for collectors (json)
    #[arg(long, env = "BGP_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// trace, debug, info, warning, error, fatal, or a filter such as info,bgp_speaker=debug
    /// [default: logSeverityScreen of BGPConfiguration, the node's own before the cluster's]
    #[arg(long, env = "BGP_LOGSEVERITYSCREEN", value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Whether the kernel has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KernelMode {
    /// Its main table.
    Main,
    /// No.
    None,
}

/// Who tells external peers what was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportLearned {
    /// Every node.
    All,
    /// Route reflectors.
    Reflectors,
}

/// A datastore in short: variables that take the place of the environment's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datastore(Vec<(&'static str, String)>);

/// The text names no datastore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no datastore: write sqlite:FILE, etcd:URL[,URL...], kubernetes or kubernetes:KUBECONFIG")]
pub struct DatastoreError(String);

impl std::str::FromStr for Datastore {
    type Err = DatastoreError;

    fn from_str(text: &str) -> Result<Self, DatastoreError> {
        let (kind, place) = text.split_once(':').map_or((text, None), |(kind, place)| (kind, Some(place)));
        let place = place.filter(|place| !place.is_empty());
        let variables = match (kind, place) {
            ("sqlite", Some(file)) => vec![("DATASTORE_TYPE", "sqlite".to_owned()), ("SQLITE_PATH", file.to_owned())],
            ("etcd" | "etcdv3", place) => {
                let mut variables = vec![("DATASTORE_TYPE", "etcdv3".to_owned())];
                variables.extend(place.map(|urls| ("ETCD_ENDPOINTS", urls.to_owned())));
                variables
            }
            ("kubernetes" | "kdd", place) => {
                let mut variables = vec![("DATASTORE_TYPE", "kubernetes".to_owned())];
                variables.extend(place.map(|file| ("KUBECONFIG", file.to_owned())));
                variables
            }
            _ => return Err(DatastoreError(text.to_owned())),
        };
        Ok(Self(variables))
    }
}

impl Datastore {
    /// The variable of this name, with or without the prefix `CALICO_`, if the text says anything about it.
    pub fn variable(&self, name: &str) -> Option<String> {
        let name = name.strip_prefix("CALICO_").unwrap_or(name);
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone())
    }
}

/// A variable cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CALICO_ADVERTISE_CLUSTER_IPS has \"{0}\", expected ranges such as 10.96.0.0/12, with commas between them")]
pub struct SettingsError(String);

impl Options {
    /// What policies and plan depend on.
    ///
    /// # Errors
    /// If a range cannot be read.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let ranges = |text: &str| -> Result<Vec<IpNet>, SettingsError> {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            let range = |part: &str| {
                let address = || part.parse::<IpAddr>().ok().map(IpNet::from);
                part.parse::<IpNet>().ok().or_else(address).map(|net| net.trunc())
            };
            parts.map(|part| range(part).ok_or_else(|| SettingsError(part.to_owned()))).collect()
        };
        Ok(Settings {
            cluster_ips: self
                .advertise_cluster_ips
                .as_deref()
                .filter(|text| !text.trim().is_empty())
                .map(ranges)
                .transpose()?,
            use_pod_cidr: self.use_pod_cidr.as_deref().is_some_and(is_true),
            only_reflectors_export_learned: self.export_learned == ExportLearned::Reflectors,
            kubernetes_node: self.kubernetes_node.clone().filter(|name| !name.is_empty()),
        })
    }
}

/// A boolean as Calico reads it from the environment: set and not one of these is true.
fn is_true(text: &str) -> bool {
    !matches!(text.trim().to_ascii_lowercase().as_str(), "false" | "0" | "no" | "n" | "f")
}

/// The node's name could not be found.
#[derive(Debug, thiserror::Error)]
pub enum NodeNameError {
    /// The file is there and cannot be used.
    #[error(
        "cannot read the node's name from {path} (CALICO_NODENAME_FILE): {reason}; set NODENAME, or correct the file"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The name is not one that a node can have.
    #[error("node name \"{name}\" from {from} is not a node name: 1 to 253 of a-z, 0-9, '-', '.', '_'; set NODENAME")]
    Invalid {
        /// What was found.
        name: String,
        /// Where.
        from: String,
    },
}

/// The node's name: given, else from the file, else the host's in lower case.
///
/// # Errors
/// If a name was found and cannot be one, or the file cannot be read.
pub fn node_name(given: Option<&str>, file: &Path, hostname: impl FnOnce() -> String) -> Result<String, NodeNameError> {
    let (name, from) = match given.map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) => (name.to_owned(), "NODENAME".to_owned()),
        None => match std::fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => (text.trim().to_owned(), file.display().to_string()),
            Ok(_) => (hostname().trim().to_ascii_lowercase(), "the host name".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (hostname().trim().to_ascii_lowercase(), "the host name".to_owned())
            }
            Err(error) => return Err(NodeNameError::File { path: file.to_owned(), reason: error.to_string() }),
        },
    };
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 253 || !name.chars().all(good) {
        return Err(NodeNameError::Invalid { name, from });
    }
    Ok(name)
}

/// The host's name: `HOSTNAME`, else the kernel's.
pub fn hostname() -> String {
    let kernel = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(kernel)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_explains_itself() {
        Options::command().debug_assert();
        let help = Options::command().render_long_help().to_string();
        for word in [
            "NODENAME",
            "CALICO_ROUTER_ID",
            "DATASTORE_TYPE",
            "bird6.ctl",
            "/readiness",
            "BGP_LOGSEVERITYSCREEN",
            "--kernel",
        ] {
            assert!(help.contains(word), "{word} in\n{help}");
        }
    }

    #[test]
    fn a_datastore_in_short_is_what_the_variables_say_at_length() {
        let variable = |text: &str, name: &str| text.parse::<Datastore>().unwrap().variable(name);
        assert_eq!(variable("sqlite:/x/y.db", "SQLITE_PATH").as_deref(), Some("/x/y.db"));
        assert_eq!(variable("sqlite:/x/y.db", "CALICO_DATASTORE_TYPE").as_deref(), Some("sqlite"));
        assert_eq!(
            variable("etcd:http://a:2379,http://b:2379", "ETCD_ENDPOINTS").as_deref(),
            Some("http://a:2379,http://b:2379")
        );
        assert_eq!(variable("kubernetes", "KUBECONFIG"), None);
        for bad in ["", "sqlite", "sqlite:", "consul:x"] {
            assert!(bad.parse::<Datastore>().is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_become_settings() {
        let options = |arguments: &[&str]| Options::parse_from([&["bgp-speaker"], arguments].concat());
        let settings =
            options(&["--advertise-cluster-ips", "10.96.1.0/12, fd00::1", "--use-pod-cidr", ""]).settings().unwrap();
        assert_eq!(settings.cluster_ips, Some(vec!["10.96.0.0/12".parse().unwrap(), "fd00::1/128".parse().unwrap()]));
        assert!(settings.use_pod_cidr, "as Calico reads it, what is set and empty is true");
        let settings = options(&["--use-pod-cidr", "No", "--export-learned", "reflectors"]).settings().unwrap();
        assert!(!settings.use_pod_cidr && settings.only_reflectors_export_learned);
        let error = options(&["--advertise-cluster-ips", "ten"]).settings().unwrap_err();
        assert!(error.to_string().contains("\"ten\""), "{error}");
    }

    #[test]
    fn a_node_name_is_given_or_in_the_file_or_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nodename");
        let host = || "Worker-1\n".to_owned();
        assert_eq!(node_name(Some("given"), &file, host).unwrap(), "given");
        assert_eq!(node_name(Some(""), &file, host).unwrap(), "worker-1");
        std::fs::write(&file, "from-file\n").unwrap();
        assert_eq!(node_name(None, &file, host).unwrap(), "from-file");
        let error = node_name(Some("Node A"), &file, host).unwrap_err().to_string();
        assert!(error.contains("\"Node A\" from NODENAME"), "{error}");
        let error = node_name(None, folder.path(), host).unwrap_err().to_string();
        assert!(error.contains("CALICO_NODENAME_FILE"), "{error}");
    }
}
