//! Which variables and parameters there are: those that Felix uses, those of others, those of Calico that have no effect
//! here and why, and what a name that is none of them was probably meant to be.

use calico_api::FelixConfigurationSpec;

use super::PARAMETERS;

/// What becomes of a variable or parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Felix or another of our programs reads it.
    Read,
    /// It has no effect, for this reason. With one of these values it asks for what is so anyway.
    None(&'static str, &'static [&'static str]),
}

/// Something that is written and does nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Calico knows it.
    WithoutEffect {
        /// Its name, as written.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// Nobody knows it.
    Unknown {
        /// Its name, as written.
        name: String,
        /// The nearest name that is known, if one is near.
        meant: Option<String>,
    },
}

impl Idle {
    /// The same, called by its place.
    pub(super) fn at(self, place: &str) -> Self {
        let name = place.to_owned();
        match self {
            Self::WithoutEffect { reason, .. } => Self::WithoutEffect { name, reason },
            Self::Unknown { meant, .. } => Self::Unknown { name, meant },
        }
    }
}

const ALWAYS: &[&str] = &["true", "1", "yes", "y", "t"];
const TYPHA: &str = "there is no Typha: Felix and bgp-speaker read the datastore themselves";

/// Variables that do not begin with `FELIX_`.
const VARIABLES: &[(&str, Use)] = &[
    ("NODENAME", Use::Read),
    ("HOSTNAME", Use::Read),
    ("CALICO_NODENAME_FILE", Use::Read),
    ("CALICO_K8S_NODE_REF", Use::Read),
    ("IP", Use::Read),
    ("IP6", Use::Read),
    ("IP_AUTODETECTION_METHOD", Use::Read),
    ("IP6_AUTODETECTION_METHOD", Use::Read),
    ("AUTODETECT_POLL_INTERVAL", Use::Read),
    ("DISABLE_NODE_IP_CHECK", Use::Read),
    ("AS", Use::Read),
    ("CALICO_NETWORKING_BACKEND", Use::Read),
    ("CALICO_NETWORKING", Use::Read),
    ("CALICO_IPV4POOL_CIDR", Use::Read),
    ("CALICO_IPV4POOL_BLOCK_SIZE", Use::Read),
    ("CALICO_IPV4POOL_IPIP", Use::Read),
    ("CALICO_IPV4POOL_VXLAN", Use::Read),
    ("CALICO_IPV4POOL_NAT_OUTGOING", Use::Read),
    ("CALICO_IPV4POOL_NODE_SELECTOR", Use::Read),
    ("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", Use::Read),
    ("CALICO_IPV6POOL_CIDR", Use::Read),
    ("CALICO_IPV6POOL_BLOCK_SIZE", Use::Read),
    ("CALICO_IPV6POOL_VXLAN", Use::Read),
    ("CALICO_IPV6POOL_NAT_OUTGOING", Use::Read),
    ("CALICO_IPV6POOL_NODE_SELECTOR", Use::Read),
    ("CALICO_IPV6POOL_DISABLE_BGP_EXPORT", Use::Read),
    ("NO_DEFAULT_POOLS", Use::Read),
    ("CLUSTER_TYPE", Use::Read),
    ("CALICO_ENDPOINT_STATUS_PATH_PREFIX", Use::Read),
    ("CALICO_SHUTDOWN_TIMESTAMP_FILE", Use::Read),
    // Of the datastore.
    ("DATASTORE_TYPE", Use::Read),
    ("SQLITE_PATH", Use::Read),
    ("ETCD_ENDPOINTS", Use::Read),
    ("ETCD_DISCOVERY_SRV", Use::Read),
    ("ETCD_USERNAME", Use::Read),
    ("ETCD_PASSWORD", Use::Read),
    ("ETCD_KEY_FILE", Use::Read),
    ("ETCD_CERT_FILE", Use::Read),
    ("ETCD_CA_CERT_FILE", Use::Read),
    ("KUBECONFIG", Use::Read),
    ("K8S_API_ENDPOINT", Use::Read),
    ("K8S_KEY_FILE", Use::Read),
    ("K8S_CERT_FILE", Use::Read),
    ("K8S_CA_FILE", Use::Read),
    ("K8S_API_TOKEN", Use::Read),
    ("K8S_INSECURE_SKIP_TLS_VERIFY", Use::Read),
    ("K8S_DISABLE_NODE_POLL", Use::Read),
    ("K8S_CLIENT_QPS", Use::Read),
    ("K8S_CLIENT_BURST", Use::Read),
    ("K8S_CURRENT_CONTEXT", Use::Read),
    ("CALICO_API_GROUP", Use::Read),
    ("USE_POD_CIDR", Use::Read),
    ("UPGRADE_HOST_LOCAL", Use::Read),
    // Of bgp-speaker, which is often given the same.
    ("CALICO_ROUTER_ID", Use::Read),
    ("CALICO_ADVERTISE_CLUSTER_IPS", Use::Read),
    ("BGP_LOGSEVERITYSCREEN", Use::Read),
    // Of Calico alone.
    ("WAIT_FOR_DATASTORE", Use::None("Felix always waits for the datastore", ALWAYS)),
    ("CALICO_DISABLE_FILE_LOGGING", Use::None("logs go to standard error, never to a file", ALWAYS)),
    ("CALICO_STARTUP_LOGLEVEL", Use::None("bring-up is a part of Felix; its level is FELIX_LOGSEVERITYSCREEN", &[])),
    ("CALICO_DISABLE_FELIX", Use::None("this container is Felix; leave it out of the DaemonSet", &[])),
    ("CALICO_MANAGE_CNI", Use::None("the CNI plugins hold no credential that could be managed", &[])),
    ("CALICO_CNI_SERVICE_ACCOUNT", Use::None("the CNI plugins hold no credential", &[])),
    ("CALICO_TYPHA_ADDR", Use::None(TYPHA, &[])),
    ("CALICO_TYPHAK8SSERVICENAME", Use::None(TYPHA, &["", "none"])),
    ("CALICO_TYPHAK8SNAMESPACE", Use::None(TYPHA, &["", "none"])),
    ("CALICO_TYPHACAFILE", Use::None(TYPHA, &[])),
    ("CALICO_TYPHACERTFILE", Use::None(TYPHA, &[])),
    ("CALICO_TYPHAKEYFILE", Use::None(TYPHA, &[])),
    ("CALICO_TYPHACN", Use::None(TYPHA, &[])),
    ("CALICO_TYPHAURISAN", Use::None(TYPHA, &[])),
    ("CALICO_GIT_VERSION", Use::None("it is a mark of Calico's image", &[])),
];

/// Parameters whose name as a variable is not that of their field in FelixConfiguration.
const OTHER_PARAMETERS: &[&str] = &[
    "DatastoreType",
    "EtcdAddr",
    "EtcdScheme",
    "EtcdKeyFile",
    "EtcdCertFile",
    "EtcdCaFile",
    "EtcdEndpoints",
    "FelixHostname",
    "TyphaAddr",
    "TyphaK8sServiceName",
    "TyphaK8sNamespace",
    "TyphaReadTimeout",
    "TyphaWriteTimeout",
    "TyphaCAFile",
    "TyphaCertFile",
    "TyphaKeyFile",
    "TyphaCN",
    "TyphaURISAN",
    "IptablesPostWriteCheckIntervalSecs",
    "IptablesLockProbeIntervalMillis",
    "IptablesLockTimeoutSecs",
    "NetlinkTimeoutSecs",
    "ReportingIntervalSecs",
    "ReportingTTLSecs",
    "EndpointReportingDelaySecs",
    "IpInIpEnabled",
    "IpInIpMtu",
    "IpInIpTunnelAddr",
    "ExternalNodesCIDRList",
    "WireguardPersistentKeepAlive",
    "UsageReportingInitialDelaySecs",
    "UsageReportingIntervalSecs",
    "ClusterType",
    "ClusterGUID",
    "CalicoVersion",
    "LoadBalancerType",
    "ServiceExternalNodeLocal",
];

/// Why parameters that begin so (in lower case) have no effect, and the values with which they ask for what is so.
/// The first that fits counts.
const REASONS: &[(&str, &str, &[&str])] = &[
    ("typha", TYPHA, &["", "none"]),
    ("bpf", "there is no eBPF data plane", &["false", "disabled"]),
    ("xdp", "there is no eBPF data plane", &["false"]),
    ("genericxdp", "there is no eBPF data plane", &["false"]),
    ("sidecaracceleration", "there is no eBPF data plane", &["false"]),
    ("cgroupv2path", "there is no eBPF data plane", &[]),
    ("wireguard", "there is no encryption between nodes yet", &["false", "0"]),
    ("routesource", "routes to other nodes follow from IPAM's blocks", &["calicoipam"]),
    ("ipiniptunneladdr", "the address of tunl0 is IPAM's to give", &["", "none"]),
    ("defaultendpointtohostaction", "Felix programs no policy yet: pods reach their node", &["accept", "return"]),
    ("go", "there is no Go runtime", &[]),
    ("prometheusgo", "there is no Go runtime", &["false"]),
    ("usagereporting", "nothing is reported to anybody", &["false"]),
    ("flowlogs", "there are no flow logs", &[]),
    ("aws", "clouds are not talked to", &["donothing"]),
    ("metadata", "OpenStack is not supported", &["none"]),
    ("openstack", "OpenStack is not supported", &[]),
    ("windows", "Windows is not supported", &[]),
    ("istio", "Istio's ambient mode is not supported", &["disabled"]),
    ("reporting", "nothing reads Felix' own reports; ask its health port", &["0", "0s"]),
    ("endpointreporting", "nothing reads endpoints' reports in the datastore", &["false"]),
    ("logfilepath", "logs go to standard error, never to a file", &["", "none"]),
    ("logseverityfile", "logs go to standard error, never to a file", &["", "none"]),
    ("logseveritysys", "logs go to standard error, never to syslog", &["", "none"]),
    ("logdebugfilename", "logs are filtered by LogSeverityScreen", &[]),
    ("debug", "it is a switch of Calico's own tests", &[]),
    ("datastoretype", "the variable is DATASTORE_TYPE", &["kubernetes", "etcdv3"]),
    ("etcd", "the variables are ETCD_ENDPOINTS, ETCD_KEY_FILE, ETCD_CERT_FILE and ETCD_CA_CERT_FILE", &[]),
    ("felixhostname", "the variable is NODENAME", &[]),
    ("prometheusmetrics", "metrics are served without TLS", &[]),
    ("prometheusprocess", "metrics of the process are not served", &["false"]),
    ("prometheuswireguard", "there is no encryption between nodes yet", &["false"]),
    ("removeexternalroutes", "routes of others on pods' interfaces stay", &["false"]),
    ("interfacerefresh", "interfaces are followed by notification; audits are every RouteRefreshInterval", &[]),
    ("netlinktimeout", "answers of the kernel are waited for a fixed time", &[]),
    ("usageinternal", "Felix' data plane is its own", &["true"]),
    ("useinternal", "Felix' data plane is its own", &["true"]),
    ("dataplanedriver", "Felix' data plane is its own", &[]),
    ("clustertype", "it is kept in ClusterInformation; the variable is CLUSTER_TYPE", &[]),
    ("cluster", "it is kept in ClusterInformation", &[]),
    ("calicoversion", "it is kept in ClusterInformation", &[]),
    ("requiremtufile", "pods always wait until the MTU is known", &["true"]),
];

/// For those that are Felix' and have no reason of their own.
const NOT_YET: &str = "Felix has no use for it yet";
/// For those that shape packet rules.
const NO_RULES: &str = "Felix programs packet rules for natOutgoing and tunnels alone yet, with nftables";
const RULES: &[&str] =
    &["iptables", "nftables", "ipset", "maxipset", "failsafe", "chain", "log", "disableconntrack", "policysync"];

/// What a Felix parameter (in lower case, without `FELIX_`) is for; `None` if there is none of that name.
fn parameter(lower: &str) -> Option<Use> {
    if PARAMETERS.iter().any(|(name, ..)| name.eq_ignore_ascii_case(lower)) {
        return Some(Use::Read);
    }
    let field = || FelixConfigurationSpec::FIELDS.iter().any(|(name, _)| name.eq_ignore_ascii_case(lower));
    let other = || OTHER_PARAMETERS.iter().any(|name| name.eq_ignore_ascii_case(lower));
    if !field() && !other() {
        return None;
    }
    let reason = REASONS.iter().find(|(prefix, ..)| lower.starts_with(prefix));
    let rules = || RULES.iter().any(|prefix| lower.starts_with(prefix));
    Some(match reason {
        Some((_, reason, agreeing)) => Use::None(reason, agreeing),
        None if rules() => Use::None(NO_RULES, &[]),
        None => Use::None(NOT_YET, &[]),
    })
}

fn idle(name: &str, value: &str, known: Option<Use>, candidates: impl Iterator<Item = String>) -> Option<Idle> {
    match known {
        Some(Use::Read) => None,
        Some(Use::None(_, agreeing)) if agreeing.contains(&value.trim().to_lowercase().as_str()) => None,
        Some(Use::None(reason, _)) => Some(Idle::WithoutEffect { name: name.to_owned(), reason }),
        None => Some(Idle::Unknown { name: name.to_owned(), meant: nearest(name, candidates) }),
    }
}

/// A parameter of a file, a resource or the command line that does nothing.
pub(super) fn idle_parameter(name: &str, value: &str) -> Option<Idle> {
    let fields = FelixConfigurationSpec::FIELDS.iter().map(|(name, _)| (*name).to_owned());
    let candidates = PARAMETERS.iter().map(|(name, ..)| (*name).to_owned()).chain(fields);
    idle(name, value, parameter(&name.to_lowercase()), candidates)
}

/// A variable of Calico's family that does nothing. `is_set` tells whether another variable is there.
pub(super) fn idle_variable(name: &str, value: &str, is_set: &dyn Fn(&str) -> bool) -> Option<Idle> {
    if is_service_link(name) {
        return None;
    }
    let lower = name.to_lowercase();
    if let Some(rest) = lower.strip_prefix("felix_") {
        let fields = FelixConfigurationSpec::FIELDS.iter().map(|(name, _)| format!("FELIX_{}", name.to_uppercase()));
        let candidates = PARAMETERS.iter().map(|(name, ..)| format!("FELIX_{}", name.to_uppercase())).chain(fields);
        return idle(name, value, parameter(rest), candidates);
    }
    let find = |name: &str| VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, known)| *known);
    // The datastore's variables may be written with CALICO_ before them.
    let known = find(name).or_else(|| name.strip_prefix("CALICO_").and_then(find));
    let names = || VARIABLES.iter().map(|(name, _)| (*name).to_owned());
    if known.is_some() || ["CALICO_", "ETCD_", "IP_AUTO", "IP6_"].iter().any(|prefix| name.starts_with(prefix)) {
        return idle(name, value, known, names());
    }
    // Anything else is somebody else's, unless it is all but one of ours, which is not there.
    let near = |known: &String| known.len() > 5 && distance(known, name) == 1 && !is_set(known);
    let meant = names().find(near)?;
    Some(Idle::Unknown { name: name.to_owned(), meant: Some(meant) })
}

/// Whether Kubernetes made it for a Service: `CALICO_TYPHA_PORT_5473_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") {
        return true;
    }
    match name.split_once("_PORT_") {
        Some((_, port)) => port.split('_').next().is_some_and(digits),
        None => name.ends_with("_PORT"),
    }
}

/// The candidate that takes the fewest changes, if that is few enough for a slip.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let upper = name.to_uppercase();
    let limit = (name.len() / 5).clamp(1, 4);
    let scored = candidates.map(|candidate| (distance(&candidate.to_uppercase(), &upper), candidate));
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, deleted or replaced (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut next = vec![line + 1];
        for ((above, left_above), theirs) in row.iter().skip(1).zip(&row).zip(&other) {
            let left = next.last().copied().unwrap_or_default();
            next.push((left + 1).min(above + 1).min(left_above + usize::from(letter != *theirs)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: &str) {
        let shown = match idle_variable(name, value, &|_| false) {
            None => String::new(),
            Some(Idle::WithoutEffect { reason, .. }) => reason.to_owned(),
            Some(Idle::Unknown { meant, .. }) => format!("? {}", meant.unwrap_or_default()),
        };
        assert_eq!(shown, expected, "{name}");
    }

    #[test]
    fn every_variable_of_calicos_manifests_is_known() {
        for (name, value) in [
            ("DATASTORE_TYPE", "kubernetes"),
            ("WAIT_FOR_DATASTORE", "true"),
            ("NODENAME", "a"),
            ("CALICO_NETWORKING_BACKEND", "bird"),
            ("CLUSTER_TYPE", "k8s,bgp"),
            ("IP", "autodetect"),
            ("CALICO_IPV4POOL_IPIP", "Always"),
            ("CALICO_IPV6POOL_VXLAN", "Never"),
            ("FELIX_IPINIPMTU", "0"),
            ("FELIX_VXLANMTU", "0"),
            ("FELIX_WIREGUARDMTU", "0"),
            ("CALICO_DISABLE_FILE_LOGGING", "true"),
            ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
            ("FELIX_IPV6SUPPORT", "false"),
            ("FELIX_HEALTHENABLED", "true"),
            ("FELIX_TYPHAK8SSERVICENAME", "none"),
            ("ETCD_CA_CERT_FILE", "/calico-secrets/etcd-ca"),
            ("CALICO_ETCD_ENDPOINTS", "http://10.0.0.1:2379"),
            ("CALICO_TYPHA_PORT_5473_TCP_ADDR", "10.96.0.1"),
            ("CALICO_TYPHA_PORT", "tcp://10.96.0.1:5473"),
            ("FELIX_METRICS_SERVICE_HOST", "10.96.0.2"),
            ("PATH", "/usr/bin"),
        ] {
            check(name, value, "");
        }
    }

    #[test]
    fn what_has_no_effect_is_told_with_the_reason() {
        check("FELIX_BPFENABLED", "true", "there is no eBPF data plane");
        check("FELIX_BPFENABLED", "false", "");
        check("FELIX_IPTABLESBACKEND", "NFT", NO_RULES);
        check("FELIX_IPINIPMTU", "1440", "");
        check("FELIX_NATPORTRANGE", "1:2", "");
        check("FELIX_ROUTESOURCE", "WorkloadIPs", "routes to other nodes follow from IPAM's blocks");
        check("FELIX_TYPHAADDR", "10.0.0.1:5473", TYPHA);
        check("CALICO_DISABLE_FELIX", "true", "this container is Felix; leave it out of the DaemonSet");
        check("WAIT_FOR_DATASTORE", "false", "Felix always waits for the datastore");
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest_one() {
        check("FELIX_HEALTPORT", "1", "? FELIX_HEALTHPORT");
        check("CALICO_IPV4POOL_CDIR", "10.0.0.0/16", "? CALICO_IPV4POOL_CIDR");
        check("IP_AUTODETECTON_METHOD", "first-found", "? IP_AUTODETECTION_METHOD");
        check("NODE_NAME", "a", "? NODENAME");
        check("CALICO_COLOUR", "red", "? ");
        check("FELIX_COLOUR", "red", "? ");
        assert_eq!(idle_variable("NODE_NAME", "a", &|name| name == "NODENAME"), None, "it is there");
        assert_eq!(idle_parameter("routeRefreshIntervall", "90s"), {
            let meant = Some("RouteRefreshInterval".to_owned());
            Some(Idle::Unknown { name: "routeRefreshIntervall".to_owned(), meant })
        });
    }
}
