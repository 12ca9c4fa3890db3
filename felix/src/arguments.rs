//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::config::PARAMETERS;

/// Where parameters are read from unless another file is named; it need not exist.
pub(crate) const DEFAULT_FILE: &str = "/etc/calico/felix.cfg";

/// The agent of a node: brings it up, serves the CNI plugins, keeps the kernel's routes as the datastore wants them.
#[derive(Debug, Parser)]
#[command(name = "felix", version = calico_version::LONG, after_help = parameters())]
pub(crate) struct Arguments {
    /// A file of parameters, lines of NAME = VALUE
    #[arg(
        long,
        value_name = "FILE",
        help = "A file of parameters, lines of NAME = VALUE [default: /etc/calico/felix.cfg, if it is there]"
    )]
    pub(crate) config_file: Option<PathBuf>,
    /// A parameter; stronger than the environment, which is stronger than the file
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
}

/// The table of parameters and variables under the options.
fn parameters() -> String {
    let mut text = String::from(
        "Parameters, as --set NAME=VALUE, as variable FELIX_NAME, as NAME = VALUE in the file, or as field of a\n\
         FelixConfiguration (node.NODE, one with a nodeSelector, default); the first of these is the strongest:\n",
    );
    for (name, default, effect) in PARAMETERS {
        text.push_str(&format!("  {name} [{default}]\n      {effect}\n"));
    }
    text.push_str(
        "\nThe node, by variables:\n  \
         NODENAME, CALICO_NODENAME_FILE\n      its name; else that file's content, HOSTNAME, the host name\n  \
         IP, IP6\n      its addresses: ADDRESS, ADDRESS/LENGTH, autodetect or none\n  \
         IP_AUTODETECTION_METHOD, IP6_AUTODETECTION_METHOD\n      \
         first-found, interface=REGEX, skip-interface=REGEX, cidr=CIDR, can-reach=ADDRESS, kubernetes-internal-ip\n  \
         AUTODETECT_POLL_INTERVAL\n      how often addresses are detected again; 60s\n  \
         AS\n      its AS number, if it has one of its own\n  \
         CALICO_K8S_NODE_REF\n      what Kubernetes calls it, if that is not its name\n  \
         CALICO_SHUTDOWN_TIMESTAMP_FILE\n      where the time of a stop on purpose is kept; /var/lib/calico/shutdownTS\n  \
         CLUSTER_TYPE\n      comma list of words for ClusterInformation\n  \
         USE_POD_CIDR\n      pods have addresses of their node's pod CIDR, by host-local\n  \
         UPGRADE_HOST_LOCAL\n      true: addresses that host-local gave become addresses of IPAM, before the first pod is served\n  \
         CALICO_NETWORKING_BACKEND\n      bird, vxlan or none\n  \
         DISABLE_NODE_IP_CHECK\n      do not look for other nodes with its addresses\n  \
         NO_DEFAULT_POOLS, CALICO_IPV4POOL_CIDR, CALICO_IPV6POOL_CIDR, …_BLOCK_SIZE, …_IPIP, …_VXLAN, …_NAT_OUTGOING,\n  \
         …_NODE_SELECTOR, …_DISABLE_BGP_EXPORT\n      pools that are made when there are none\n\n\
         The datastore, by variables: DATASTORE_TYPE is sqlite (SQLITE_PATH), etcdv3 (ETCD_ENDPOINTS, …) or\n\
         kubernetes (KUBECONFIG, K8S_…).\n",
    );
    text
}
