//! What was the speaker told on its command line and in its environment, and what does it mean?

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use calico_daemon::LogFormat;
use clap::Parser;

use crate::router_id::RouterIdChoice;

/// Ocicat's BGP speaker: the node's BGP sessions, and the kernel routes learned from them.
///
/// Sessions follow from the datastore's Node, BGPConfiguration and BGPPeer resources, without restart: a full mesh of
/// all nodes unless nodeToNodeMeshEnabled is false, and the peers that BGPPeers name. The node's IPAM blocks are
/// advertised; learned routes are programmed into the main table with protocol 12 and left there when the
/// speaker stops, so that a restart costs no packet.
///
/// The datastore is chosen as by calicoctl: DATASTORE_TYPE (kubernetes, etcdv3 or sqlite) with its variables
/// (KUBECONFIG, ETCD_ENDPOINTS, SQLITE_PATH, ...), or a calicoctl.cfg given by --config.
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

    /// BGP identifier: an IPv4 address, or "hash" for one made from the node's name
    /// [default: the node's IPv4 address, or the hash where it has none]
    #[arg(long, env = "CALICO_ROUTER_ID", value_name = "ID", default_value = "", hide_default_value = true)]
    pub router_id: RouterIdChoice,

    /// Where /liveness, /readiness and /metrics are served
    #[arg(long, env = "BGP_HEALTH_ADDRESS", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:9098")]
    pub http: SocketAddr,

    /// Unix socket that answers {"show":"status"}, {"show":"sessions"} and {"show":"routes"} with JSON
    #[arg(long, value_name = "PATH", default_value = "/run/ocicat/bgp.sock")]
    pub status_socket: PathBuf,

    /// Folder of the sockets bird.ctl and bird6.ctl, which answer like BIRD 1.6 (read-only)
    #[arg(long, value_name = "FOLDER", default_value = "/var/run/calico")]
    pub bird_socket_dir: PathBuf,

    /// Logs for people (text) or for collectors (json)
    #[arg(long, env = "BGP_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// trace, debug, info, warning, error, fatal, or a filter such as info,bgp_speaker=debug
    #[arg(long, env = "BGP_LOGSEVERITYSCREEN", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
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
        for word in
            ["NODENAME", "CALICO_ROUTER_ID", "DATASTORE_TYPE", "bird6.ctl", "/readiness", "BGP_LOGSEVERITYSCREEN"]
        {
            assert!(help.contains(word), "{word} in\n{help}");
        }
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
