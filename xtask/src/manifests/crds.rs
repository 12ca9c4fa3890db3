//! The custom resource definitions: what `calico-api` knows, as the API server and users of kubectl see it.

use std::collections::BTreeMap;

use calico_api::{Kind, Scope};
use serde_json::{Value, json};

use super::schema;

/// The two API groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// `crd.projectcalico.org/v1`.
    Classic,
    /// `projectcalico.org/v3`.
    Native,
}

impl Group {
    /// The folder of its manifests.
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Native => "native",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Classic => "crd.projectcalico.org",
            Self::Native => "projectcalico.org",
        }
    }

    const fn version(self) -> &'static str {
        match self {
            Self::Classic => "v1",
            Self::Native => "v3",
        }
    }
}

/// Kinds that are views of core objects.
fn has_no_object(kind: Kind) -> bool {
    matches!(kind, Kind::Node | Kind::Profile | Kind::WorkloadEndpoint)
}

/// Other names in `kubectl get`; only the native group has them.
fn short_names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::BGPConfiguration => &["bgpconfig", "bgpconfigs"],
        Kind::BlockAffinity => &["affinity", "affinities"],
        Kind::ClusterInformation => &["clusterinfo", "clusterinfos"],
        Kind::GlobalNetworkPolicy => &["gnp", "cgnp"],
        Kind::GlobalNetworkSet => &["gns"],
        Kind::HostEndpoint => &["hep", "heps"],
        Kind::IPAMConfiguration => &["ipamconfig", "ipamconfigs"],
        Kind::KubeControllersConfiguration => &["kcc", "kccs"],
        Kind::NetworkPolicy => &["cnp", "caliconetworkpolicy"],
        Kind::StagedGlobalNetworkPolicy => &["sgnp"],
        Kind::StagedKubernetesNetworkPolicy => &["sknp"],
        Kind::StagedNetworkPolicy => &["scnp", "snp"],
        _ => &[],
    }
}

fn has_tier(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::GlobalNetworkPolicy | Kind::NetworkPolicy | Kind::StagedGlobalNetworkPolicy | Kind::StagedNetworkPolicy
    )
}

/// What `kubectl get` prints beside the name.
fn columns(kind: Kind) -> Vec<Value> {
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let mut columns = match kind {
        Kind::IPPool => vec![
            column("CIDR", "string", ".spec.cidr"),
            column("VXLAN", "string", ".spec.vxlanMode"),
            column("IPIP", "string", ".spec.ipipMode"),
            column("NAT", "boolean", ".spec.natOutgoing"),
            column("Allocatable", "string", ".status.conditions[?(@.type==\"Allocatable\")].status"),
        ],
        Kind::BGPPeer => vec![
            column("Node Selector", "string", ".spec.nodeSelector"),
            column("Node", "string", ".spec.node"),
            column("Local ASN", "string", ".spec.localASNumber"),
            column("Peer Selector", "string", ".spec.peerSelector"),
            column("Peer IP", "string", ".spec.peerIP"),
            column("Peer ASN", "string", ".spec.asNumber"),
        ],
        Kind::Tier => {
            vec![
                column("Order", "number", ".spec.order"),
                column("DefaultAction", "string", ".spec.defaultAction"),
                column("Status", "string", ".status.conditions[?(@.type==\"Ready\")].status"),
            ]
        }
        Kind::BlockAffinity => vec![
            column("Node", "string", ".spec.node"),
            column("CIDR", "string", ".spec.cidr"),
            column("State", "string", ".spec.state"),
        ],
        Kind::IPAMBlock => vec![column("CIDR", "string", ".spec.cidr"), column("Affinity", "string", ".spec.affinity")],
        kind if has_tier(kind) => {
            vec![column("Tier", "string", ".spec.tier"), column("Order", "number", ".spec.order")]
        }
        _ => Vec::new(),
    };
    columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    columns
}

fn definition(group: Group, kind: Kind) -> Value {
    let (name, plural) = match (group, kind) {
        (Group::Classic, Kind::IPAMConfiguration) => ("IPAMConfig", "ipamconfigs"),
        _ => (kind.as_str(), kind.plural()),
    };
    let mut names =
        json!({"kind": name, "listKind": format!("{name}List"), "plural": plural, "singular": name.to_lowercase()});
    let mut properties = json!({
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": schema::spec(kind, group == Group::Native),
    });
    if kind.has_status() {
        properties["status"] = schema::status(kind);
    }
    let mut whole = json!({"type": "object", "description": schema::about(kind), "properties": properties});
    if group == Group::Native {
        whole = schema::whole(kind, whole);
    }
    let mut version = json!({
        "name": group.version(),
        "served": true,
        "storage": true,
        "schema": {"openAPIV3Schema": whole},
    });
    if kind.has_status() {
        version["subresources"] = json!({"status": {}});
    }
    if group == Group::Native {
        version["additionalPrinterColumns"] = json!(columns(kind));
        if !short_names(kind).is_empty() {
            names["shortNames"] = json!(short_names(kind));
        }
        if has_tier(kind) {
            version["selectableFields"] = json!([{"jsonPath": ".spec.tier"}]);
        }
    }
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{}", group.name())},
        "spec": {
            "group": group.name(),
            "names": names,
            "scope": match kind.scope() { Scope::Cluster => "Cluster", Scope::Namespaced => "Namespaced" },
            "preserveUnknownFields": false,
            "versions": [version],
        },
    })
}

/// File name to content, of a group.
pub(super) fn files(group: Group) -> BTreeMap<String, String> {
    let kinds = Kind::ALL.iter().copied().filter(|kind| !has_no_object(*kind));
    let files = kinds.map(|kind| {
        let definition = definition(group, kind);
        let name = definition["metadata"]["name"].as_str().expect("it was just set").to_owned();
        let text = calico_api::to_yaml(&definition);
        let head = "# Generated from the kinds of calico-api by `cargo xtask manifests`.\n";
        (format!("{name}.yaml"), format!("{head}{text}\n"))
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_with_an_object_has_a_manifest_in_both_groups() {
        for group in [Group::Classic, Group::Native] {
            let files = files(group);
            assert_eq!(files.len(), 22);
            assert!(files.contains_key(&format!("ippools.{}.yaml", group.name())));
        }
        assert!(files(Group::Classic).contains_key("ipamconfigs.crd.projectcalico.org.yaml"));
        assert!(files(Group::Native).contains_key("ipamconfigurations.projectcalico.org.yaml"));
    }
}
