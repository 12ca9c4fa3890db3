//! What users may call each kind, and how it is shown in tables.

use std::collections::BTreeSet;

use calico_api::Kind;
use serde_json::Value;

/// A column: its heading, and what stands in it.
pub(crate) struct Column {
    pub(crate) heading: &'static str,
    pub(crate) cell: Cell,
}

/// What stands in a column.
#[derive(Clone, Copy)]
pub(crate) enum Cell {
    /// The value at this pointer, or a word if there is none.
    At(&'static str, &'static str),
    /// How many there are in the list at this pointer.
    Count(&'static str),
    /// The list at this pointer, joined.
    Joined(&'static str),
    /// The list at this pointer, joined and cut at eighty characters.
    Cut(&'static str),
    /// The map at this pointer, as `k=v`.
    Map(&'static str),
    /// A number that Go prints as `<nil>` when absent.
    Order(&'static str),
    /// The node's AS number, or the cluster's in parentheses.
    NodeAs,
    /// The keys of a Secret; never its values.
    SecretKeys,
    /// Where a peer is local.
    PeerNode,
    /// What a workload endpoint belongs to.
    Workload,
}

/// A kind as users handle it.
pub(crate) struct ResourceType {
    pub(crate) kind: Kind,
    /// Beside the kind and its plural; all in any case.
    aliases: &'static [&'static str],
    ps: &'static [&'static str],
    wide: &'static [&'static str],
    columns: &'static [Column],
}

const fn at(heading: &'static str, pointer: &'static str) -> Column {
    Column { heading, cell: Cell::At(pointer, "") }
}

const fn or(heading: &'static str, pointer: &'static str, default: &'static str) -> Column {
    Column { heading, cell: Cell::At(pointer, default) }
}

const fn column(heading: &'static str, cell: Cell) -> Column {
    Column { heading, cell }
}

const NAME: Column = at("NAME", "/metadata/name");
const NAMESPACE: Column = at("NAMESPACE", "/metadata/namespace");
const TIER: Column = or("TIER", "/spec/tier", "default");
const ORDER: Column = column("ORDER", Cell::Order("/spec/order"));
const SELECTOR: Column = at("SELECTOR", "/spec/selector");
const NETS: Column = column("NETS", Cell::Cut("/spec/nets"));

/// Every kind that users see.
const TYPES: &[ResourceType] = &[
    ResourceType {
        kind: Kind::BGPConfiguration,
        aliases: &["bgpconfig", "bgpconfigs"],
        ps: &["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        wide: &["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        columns: &[
            NAME,
            at("LOGSEVERITY", "/spec/logSeverityScreen"),
            or("MESHENABLED", "/spec/nodeToNodeMeshEnabled", "-"),
            or("ASNUMBER", "/spec/asNumber", "-"),
        ],
    },
    ResourceType {
        kind: Kind::BGPFilter,
        aliases: &["bgpf", "bgpfs", "bf", "bfs"],
        ps: &["NAME", "NUMEXPORTV4", "NUMIMPORTV4", "NUMEXPORTV6", "NUMIMPORTV6"],
        wide: &["NAME", "NUMEXPORTV4", "NUMIMPORTV4", "NUMEXPORTV6", "NUMIMPORTV6"],
        columns: &[
            NAME,
            column("NUMEXPORTV4", Cell::Count("/spec/exportV4")),
            column("NUMIMPORTV4", Cell::Count("/spec/importV4")),
            column("NUMEXPORTV6", Cell::Count("/spec/exportV6")),
            column("NUMIMPORTV6", Cell::Count("/spec/importV6")),
        ],
    },
    ResourceType {
        kind: Kind::BGPPeer,
        aliases: &["bgpp", "bgpps", "bp", "bps"],
        ps: &["NAME", "PEERIP", "NODE", "ASN"],
        wide: &["NAME", "PEERIP", "NODE", "ASN"],
        columns: &[
            NAME,
            at("PEERIP", "/spec/peerIP"),
            column("NODE", Cell::PeerNode),
            or("ASN", "/spec/asNumber", "0"),
        ],
    },
    ResourceType {
        kind: Kind::CalicoNodeStatus,
        aliases: &["nodestatus", "nodestatuses"],
        ps: &["NAME", "NODE"],
        wide: &["NAME", "NODE", "CLASSES"],
        columns: &[NAME, at("NODE", "/spec/node"), column("CLASSES", Cell::Joined("/spec/classes"))],
    },
    ResourceType {
        kind: Kind::ClusterInformation,
        aliases: &["clusterinfo", "clusterinfos"],
        ps: &["NAME", "CLUSTERGUID", "CLUSTERTYPE", "CALICOVERSION", "DATASTOREREADY"],
        wide: &["NAME", "CLUSTERGUID", "CLUSTERTYPE", "CALICOVERSION", "DATASTOREREADY"],
        columns: &[
            NAME,
            at("CLUSTERGUID", "/spec/clusterGUID"),
            at("CLUSTERTYPE", "/spec/clusterType"),
            at("CALICOVERSION", "/spec/calicoVersion"),
            at("DATASTOREREADY", "/spec/datastoreReady"),
        ],
    },
    ResourceType {
        kind: Kind::FelixConfiguration,
        aliases: &["felixconfig", "felixconfigs"],
        ps: &["NAME"],
        wide: &["NAME"],
        columns: &[NAME],
    },
    ResourceType {
        kind: Kind::GlobalNetworkPolicy,
        aliases: &["gnp", "gnps"],
        ps: &["NAME", "TIER"],
        wide: &["NAME", "TIER", "ORDER", "SELECTOR"],
        columns: &[NAME, TIER, ORDER, SELECTOR],
    },
    ResourceType {
        kind: Kind::GlobalNetworkSet,
        aliases: &["gnetset", "gnetsets"],
        ps: &["NAME"],
        wide: &["NAME", "NETS"],
        columns: &[NAME, NETS],
    },
    ResourceType {
        kind: Kind::HostEndpoint,
        aliases: &["hep", "heps"],
        ps: &["NAME", "NODE"],
        wide: &["NAME", "NODE", "INTERFACE", "IPS", "PROFILES"],
        columns: &[
            NAME,
            at("NODE", "/spec/node"),
            at("INTERFACE", "/spec/interfaceName"),
            column("IPS", Cell::Joined("/spec/expectedIPs")),
            column("PROFILES", Cell::Joined("/spec/profiles")),
        ],
    },
    ResourceType {
        kind: Kind::IPAMConfiguration,
        aliases: &["ipamconfig", "ipamconfigs"],
        ps: &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"],
        wide: &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"],
        columns: &[
            NAME,
            or("STRICTAFFINITY", "/spec/strictAffinity", "false"),
            or("AUTOALLOCATEBLOCKS", "/spec/autoAllocateBlocks", "false"),
            or("MAXBLOCKSPERHOST", "/spec/maxBlocksPerHost", "0"),
        ],
    },
    ResourceType {
        kind: Kind::IPPool,
        aliases: &["ipp", "ipps", "pool", "pools"],
        ps: &["NAME", "CIDR", "SELECTOR"],
        wide: &[
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
            "ASSIGNMENTMODE",
        ],
        columns: &[
            NAME,
            at("CIDR", "/spec/cidr"),
            or("NAT", "/spec/natOutgoing", "false"),
            or("IPIPMODE", "/spec/ipipMode", "Never"),
            or("VXLANMODE", "/spec/vxlanMode", "Never"),
            or("DISABLED", "/spec/disabled", "false"),
            or("DISABLEBGPEXPORT", "/spec/disableBGPExport", "false"),
            at("SELECTOR", "/spec/nodeSelector"),
            or("ASSIGNMENTMODE", "/spec/assignmentMode", "Automatic"),
        ],
    },
    ResourceType {
        kind: Kind::IPReservation,
        aliases: &["reservation", "reservations"],
        ps: &["NAME"],
        wide: &["NAME", "CIDRS"],
        columns: &[NAME, column("CIDRS", Cell::Cut("/spec/reservedCIDRs"))],
    },
    ResourceType {
        kind: Kind::KubeControllersConfiguration,
        aliases: &["kubecontrollersconfig", "kubecontrollersconfigs"],
        ps: &["NAME"],
        wide: &["NAME"],
        columns: &[NAME],
    },
    ResourceType {
        kind: Kind::NetworkPolicy,
        aliases: &["policy", "policies", "np", "pol", "pols"],
        ps: &["NAME", "TIER"],
        wide: &["NAME", "TIER", "ORDER", "SELECTOR"],
        columns: &[NAMESPACE, NAME, TIER, ORDER, SELECTOR],
    },
    ResourceType {
        kind: Kind::NetworkSet,
        aliases: &["netset", "netsets"],
        ps: &["NAME"],
        wide: &["NAME", "NETS"],
        columns: &[NAMESPACE, NAME, NETS],
    },
    ResourceType {
        kind: Kind::Node,
        aliases: &["no", "nos"],
        ps: &["NAME"],
        wide: &["NAME", "ASN", "IPV4", "IPV6"],
        columns: &[
            NAME,
            column("ASN", Cell::NodeAs),
            at("IPV4", "/spec/bgp/ipv4Address"),
            at("IPV6", "/spec/bgp/ipv6Address"),
        ],
    },
    ResourceType {
        kind: Kind::Profile,
        aliases: &["pro", "pros"],
        ps: &["NAME"],
        wide: &["NAME", "LABELS"],
        columns: &[NAME, column("LABELS", Cell::Map("/spec/labelsToApply"))],
    },
    ResourceType {
        kind: Kind::StagedGlobalNetworkPolicy,
        aliases: &["sgnp", "sgnps"],
        ps: &["NAME", "TIER"],
        wide: &["NAME", "TIER", "ORDER", "SELECTOR"],
        columns: &[NAME, TIER, ORDER, SELECTOR],
    },
    ResourceType {
        kind: Kind::StagedKubernetesNetworkPolicy,
        aliases: &["stagedkubernetespolicy", "stagedkubernetespolicies", "sknp", "skpol", "skpols"],
        ps: &["NAME"],
        wide: &["NAME", "PODSELECTOR"],
        columns: &[NAMESPACE, NAME, column("PODSELECTOR", Cell::Map("/spec/podSelector/matchLabels"))],
    },
    ResourceType {
        kind: Kind::StagedNetworkPolicy,
        aliases: &["stagedpolicy", "stagedpolicies", "snp", "spol", "spols"],
        ps: &["NAME", "TIER"],
        wide: &["NAME", "TIER", "ORDER", "SELECTOR"],
        columns: &[NAMESPACE, NAME, TIER, ORDER, SELECTOR],
    },
    ResourceType {
        kind: Kind::Tier,
        aliases: &[],
        ps: &["NAME", "ORDER"],
        wide: &["NAME", "ORDER"],
        columns: &[NAME, ORDER],
    },
    ResourceType {
        kind: Kind::WorkloadEndpoint,
        aliases: &["wep", "weps"],
        ps: &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"],
        wide: &["NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"],
        columns: &[
            NAMESPACE,
            NAME,
            column("WORKLOAD", Cell::Workload),
            at("ORCHESTRATOR", "/spec/orchestrator"),
            at("NODE", "/spec/node"),
            column("NETWORKS", Cell::Joined("/spec/ipNetworks")),
            at("INTERFACE", "/spec/interfaceName"),
            column("PROFILES", Cell::Joined("/spec/profiles")),
            column("NATS", Cell::Joined("/spec/ipNATs")),
        ],
    },
    // Kubernetes' own kinds, where no Kubernetes keeps them.
    ResourceType {
        kind: Kind::EndpointSlice,
        aliases: &[],
        ps: &["NAME", "SERVICE"],
        wide: &["NAME", "SERVICE", "ADDRESSTYPE", "ENDPOINTS"],
        columns: &[
            NAMESPACE,
            NAME,
            at("SERVICE", "/metadata/labels/kubernetes.io~1service-name"),
            at("ADDRESSTYPE", "/addressType"),
            column("ENDPOINTS", Cell::Count("/endpoints")),
        ],
    },
    ResourceType {
        kind: Kind::Secret,
        aliases: &[],
        ps: &["NAME", "KEYS"],
        wide: &["NAME", "TYPE", "KEYS"],
        columns: &[NAMESPACE, NAME, at("TYPE", "/type"), column("KEYS", Cell::SecretKeys)],
    },
    ResourceType {
        kind: Kind::Service,
        aliases: &["svc"],
        ps: &["NAME", "TYPE", "CLUSTERIP"],
        wide: &["NAME", "TYPE", "CLUSTERIP", "EXTERNALIPS", "TRAFFICPOLICY"],
        columns: &[
            NAMESPACE,
            NAME,
            or("TYPE", "/spec/type", "ClusterIP"),
            at("CLUSTERIP", "/spec/clusterIP"),
            column("EXTERNALIPS", Cell::Joined("/spec/externalIPs")),
            or("TRAFFICPOLICY", "/spec/externalTrafficPolicy", "Cluster"),
        ],
    },
];

impl ResourceType {
    /// The kind that a user calls so.
    pub(crate) fn called(name: &str) -> Option<&'static Self> {
        let name = name.to_lowercase();
        TYPES.iter().find(|it| {
            it.kind.as_str().to_lowercase() == name || it.kind.plural() == name || it.aliases.contains(&name.as_str())
        })
    }

    /// The type of a kind, unless users do not see it.
    pub(crate) fn of(kind: Kind) -> Option<&'static Self> {
        TYPES.iter().find(|it| it.kind == kind)
    }

    /// The headings of a short or a wide table; the namespace comes first where it is asked for and there is one.
    pub(crate) fn headings(&self, wide: bool, namespace: bool) -> Vec<&'static str> {
        let own = if wide { self.wide } else { self.ps };
        let first =
            self.columns.iter().map(|column| column.heading).find(|heading| namespace && *heading == "NAMESPACE");
        first.into_iter().chain(own.iter().copied()).collect()
    }

    /// The column with a heading, in any case.
    ///
    /// # Errors
    /// With the headings that there are.
    pub(crate) fn column(&self, heading: &str) -> Result<&'static Column, String> {
        let wanted = heading.to_uppercase();
        self.columns.iter().find(|column| column.heading == wanted).ok_or_else(|| {
            let mut valid: Vec<_> = self.columns.iter().map(|column| column.heading).collect();
            valid.sort_unstable();
            format!("unknown heading {heading}, valid values are: {}", valid.join(", "))
        })
    }
}

impl Cell {
    /// What stands in the cell for a resource. `global_as` is the cluster's AS number, or a word if it cannot be read.
    pub(crate) fn text(self, resource: &Value, global_as: &str) -> String {
        match self {
            Self::At(pointer, default) => scalar(resource.pointer(pointer)).unwrap_or_else(|| default.to_owned()),
            Self::Count(pointer) => list(resource, pointer).len().to_string(),
            Self::Joined(pointer) => list(resource, pointer).join(","),
            Self::Cut(pointer) => cut(&list(resource, pointer).join(",")),
            Self::Map(pointer) => map(resource.pointer(pointer)),
            Self::Order(pointer) => match resource.pointer(pointer).and_then(Value::as_f64) {
                Some(order) => go_float(order),
                None => "<nil>".to_owned(),
            },
            Self::NodeAs => match (resource.pointer("/spec/bgp"), resource.pointer("/spec/bgp/asNumber")) {
                (None, _) => String::new(),
                (_, own @ Some(_)) => scalar(own).unwrap_or_default(),
                (_, None) if global_as == "unknown" => "unknown".to_owned(),
                (_, None) => format!("({global_as})"),
            },
            Self::SecretKeys => {
                let keys =
                    ["/data", "/stringData"].into_iter().filter_map(|pointer| resource.pointer(pointer)?.as_object());
                let keys: BTreeSet<&str> = keys.flat_map(|map| map.keys().map(String::as_str)).collect();
                keys.into_iter().collect::<Vec<_>>().join(",")
            }
            Self::PeerNode => scalar(resource.pointer("/spec/node"))
                .or_else(|| scalar(resource.pointer("/spec/nodeSelector")))
                .unwrap_or_else(|| "(global)".to_owned()),
            Self::Workload => scalar(resource.pointer("/spec/workload"))
                .or_else(|| scalar(resource.pointer("/spec/pod")))
                .unwrap_or_default(),
        }
    }
}

fn scalar(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn list(resource: &Value, pointer: &str) -> Vec<String> {
    let items = resource.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| scalar(Some(item))).collect()
}

fn map(value: Option<&Value>) -> String {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    let mut entries: Vec<_> =
        entries.map(|(key, value)| format!("{key}={}", scalar(Some(value)).unwrap_or_default())).collect();
    entries.sort();
    entries.join(",")
}

/// At most eighty characters, the last three dots if there were more.
fn cut(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(77).collect::<String>() + "..." }
}

/// As Go prints a float in a template: with an exponent of at least two digits from a million on.
fn go_float(number: f64) -> String {
    if number.abs() < 1e6 {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{digits}e+{exponent:0>2}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_have_many_names() {
        for (name, kind) in [
            ("nodes", Kind::Node),
            ("NO", Kind::Node),
            ("ippool", Kind::IPPool),
            ("pools", Kind::IPPool),
            ("bgpconfig", Kind::BGPConfiguration),
            ("BGPPeers", Kind::BGPPeer),
            ("clusterinfos", Kind::ClusterInformation),
            ("networkpolicies", Kind::NetworkPolicy),
            ("wep", Kind::WorkloadEndpoint),
        ] {
            assert_eq!(ResourceType::called(name).map(|it| it.kind), Some(kind), "{name}");
        }
        assert!(ResourceType::called("ipamblock").is_none(), "an internal kind");
    }

    #[test]
    fn every_heading_of_a_table_has_a_column() {
        for it in TYPES {
            for heading in it.ps.iter().chain(it.wide) {
                assert!(it.column(heading).is_ok(), "{} {heading}", it.kind);
            }
        }
    }

    #[test]
    fn cells_are_spelled_as_scripts_know_them() {
        let node = json!({"spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}});
        assert_eq!(Cell::NodeAs.text(&node, "64512"), "(64512)");
        assert_eq!(Cell::NodeAs.text(&json!({"spec": {"bgp": {"asNumber": 65010}}}), "64512"), "65010");
        assert_eq!(Cell::NodeAs.text(&json!({"spec": {}}), "64512"), "");
        assert_eq!(Cell::PeerNode.text(&json!({"spec": {}}), ""), "(global)");
        assert_eq!(Cell::Order("/o").text(&json!({"o": 1000}), ""), "1000");
        assert_eq!(Cell::Order("/o").text(&json!({"o": 1_000_000}), ""), "1e+06");
        assert_eq!(Cell::Order("/o").text(&json!({"o": 100.5}), ""), "100.5");
        assert_eq!(Cell::Order("/o").text(&json!({}), ""), "<nil>");
        assert_eq!(cut(&"x".repeat(100)).len(), 80);
    }

    #[test]
    fn an_unknown_heading_lists_those_there_are() {
        let error = ResourceType::called("tier").unwrap().column("AGE").err().unwrap();
        assert_eq!(error, "unknown heading AGE, valid values are: NAME, ORDER");
    }
}
