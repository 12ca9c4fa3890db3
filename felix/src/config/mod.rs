//! What was meant: Felix' configuration, validated and typed.

mod known;
mod layers;
mod node;
mod parse;
mod raw;
mod tunnels;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use calico_daemon::LogOptions;
use regex::Regex;

pub(crate) use known::Idle;
pub(crate) use layers::for_node;
pub(crate) use node::{AddressSetting, Backend, DefaultPool, FamilySetting, Method, NodeSettings, PoolChoice};
pub(crate) use raw::{Layer, Raw};
pub(crate) use tunnels::{IPV4_MTU, Mtus, NatSettings, TunnelSettings};

/// Felix' parameters. Their names outside are Calico's; see [`PARAMETERS`].
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// `InterfacePrefix`, at least one; the first names new interfaces.
    pub(crate) interface_prefixes: Vec<String>,
    /// `DeviceRouteProtocol`.
    pub(crate) route_protocol: u8,
    /// `IPv4NormalRoutePriority`.
    pub(crate) route_metric_ipv4: u32,
    /// `IPv6NormalRoutePriority`.
    pub(crate) route_metric_ipv6: u32,
    /// `Ipv6Support`.
    pub(crate) ipv6: bool,
    /// `IPForwarding`: whether Felix turns forwarding on.
    pub(crate) forwarding: bool,
    /// `LogSeverityScreen` and `LogFormat`.
    pub(crate) logs: LogOptions,
    /// `HealthEnabled`, `HealthHost`, `HealthPort`.
    pub(crate) health: Option<SocketAddr>,
    /// `PrometheusMetricsEnabled`, `…Host`, `…Port`.
    pub(crate) metrics: Option<SocketAddr>,
    /// `HealthTimeoutOverrides`, by reporter.
    pub(crate) health_timeouts: BTreeMap<String, Duration>,
    /// `RouteRefreshInterval`; `None`: never.
    pub(crate) route_refresh: Option<Duration>,
    /// `MtuIfacePattern`.
    pub(crate) mtu_interfaces: Regex,
    /// `MtuFile`.
    pub(crate) mtu_file: PathBuf,
    /// `AgentSocket`.
    pub(crate) socket: PathBuf,
    /// `AgentSpool`.
    pub(crate) spool: PathBuf,
    /// `EndpointStatusPathPrefix`; `None`: no status files.
    pub(crate) endpoint_status: Option<PathBuf>,
    /// `ProcSysNet`; `None`: where it is found.
    pub(crate) proc_sys_net: Option<PathBuf>,
    /// `BirdSocketFolder`.
    pub(crate) bird_sockets: PathBuf,
    /// What is said of tunnels to other nodes.
    pub(crate) tunnels: TunnelSettings,
    /// What is said of packets that leave the pools.
    pub(crate) nat: NatSettings,
    /// What is said of the node itself.
    pub(crate) node: NodeSettings,
    /// Values that were not understood and what is used instead: to be logged as errors.
    pub(crate) problems: Vec<String>,
    /// Of these, values that cannot be used: while Felix runs, a configuration with new ones is not taken.
    pub(crate) bad: Vec<String>,
    /// What is written and has no effect here: to be logged once.
    pub(crate) idle: Vec<Idle>,
}

/// A configuration with which Felix does not start.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ConfigError {
    /// The file is not lines of `name = value`.
    #[error("line {number} of {} is \"{line}\", which is not name = value", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        number: usize,
        /// The line.
        line: String,
    },
    /// A `--set` without an equals sign.
    #[error("--set {0} is not NAME=VALUE")]
    Set(String),
    /// A value without which it makes no sense to go on.
    #[error("{place} is \"{value}\"; allowed is {allowed}")]
    Value {
        /// Where it is written.
        place: String,
        /// What is written there.
        value: String,
        /// What may be.
        allowed: String,
    },
    /// Two settings that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// More than one of these.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Self>),
}

impl ConfigError {
    /// All of them as one, if there are any.
    fn all(mut errors: Vec<Self>) -> Option<Self> {
        match errors.len() {
            0 | 1 => errors.pop(),
            _ => Some(Self::Several(errors)),
        }
    }
}

/// Name, default and effect of each parameter, as `--help` prints them.
pub(crate) const PARAMETERS: &[(&str, &str, &str)] = &[
    ("InterfacePrefix", "cali", "comma list; names of workload interfaces begin so"),
    ("DeviceRouteProtocol", "80", "protocol number of the node's own routes, 1 to 255"),
    ("IPv4NormalRoutePriority", "1024", "metric of pod routes"),
    ("IPv6NormalRoutePriority", "1024", "metric of pod routes"),
    ("Ipv6Support", "true", "IPv6 at all"),
    ("IPForwarding", "Enabled", "turn the kernel's forwarding on: Enabled or Disabled"),
    ("LogSeverityScreen", "Info", "Trace, Debug, Info, Warning, Error or Fatal"),
    ("LogFormat", "text", "text or json"),
    ("HealthEnabled", "true", "serve /liveness and /readiness"),
    ("HealthHost", "localhost", "address to serve them on"),
    ("HealthPort", "9099", "port to serve them on"),
    ("HealthTimeoutOverrides", "", "comma list of REPORTER=DURATION: how long a part may be silent"),
    ("PrometheusMetricsEnabled", "false", "serve /metrics"),
    ("PrometheusMetricsHost", "every address", "address to serve them on"),
    ("PrometheusMetricsPort", "9091", "port to serve them on"),
    ("RouteRefreshInterval", "90", "seconds between audits of the kernel's routes; 0: none"),
    (
        "MtuIfacePattern",
        "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)",
        "interfaces whose smallest MTU is the node's",
    ),
    ("MtuFile", "/var/lib/calico/mtu", "where the pods' MTU is written"),
    ("AgentSocket", calico_agent::SOCKET, "where the CNI plugins find Felix"),
    ("AgentSpool", calico_agent::SPOOL, "where releases wait that could not be done at once"),
    (
        "EndpointStatusPathPrefix",
        "CALICO_ENDPOINT_STATUS_PATH_PREFIX, /var/run/calico",
        "where the folder endpoint-status is; empty: no status files",
    ),
    (
        "ProcSysNet",
        "/host/proc/sys/net if it is there, else /proc/sys/net",
        "where the kernel's network parameters are written",
    ),
    ("VXLANPort", "4789", "UDP port of VXLAN; all nodes must agree"),
    ("VXLANVNI", "4096", "network identifier of VXLAN; all nodes must agree"),
    ("VXLANMTU", "0", "MTU of vxlan.calico, at most the node's less 50; 0: that"),
    ("VXLANMTUV6", "0", "MTU of vxlan-v6.calico, at most the node's less 70; 0: that"),
    ("VXLANEnabled", "as the pools need", "false: no VXLAN, whatever the pools ask for"),
    ("IpInIpMtu", "0", "MTU of tunl0, at most the node's less 20; 0: that"),
    ("IpInIpEnabled", "as the pools need", "false: no IPIP, whatever the pools ask for"),
    (
        "ProgramClusterRoutes",
        "EnabledIPIPOnly",
        "which routes to other nodes are Felix's; counts only in FelixConfiguration default",
    ),
    ("ExternalNodesCIDRList", "", "comma list: who may send tunnel packets beside the nodes"),
    ("FeatureDetectOverride", "", "ChecksumOffloadBroken=true or false: what is believed of the kernel"),
    ("NATOutgoingAddress", "", "source of packets that leave the pools; empty: that of their interface"),
    ("NATPortRange", "0", "their source ports, FIRST:LAST; 0: the kernel's choice"),
    ("AllowVXLANPacketsFromWorkloads", "false", "whether pods may send VXLAN; other nodes take it for this node's"),
    ("AllowIPIPPacketsFromWorkloads", "false", "whether pods may send IPIP; other nodes take it for this node's"),
    ("NATOutgoingExclusions", "IPPoolsOnly", "who sees pods' own addresses: IPPoolsOnly or IPPoolsAndHostIPs"),
    ("IptablesNATOutgoingInterfaceFilter", "", "only packets that leave by this interface; NAME or NAME+"),
    ("BirdSocketFolder", "/var/run/calico", "where bgp-speaker's sockets bird.ctl and bird6.ctl are"),
];
