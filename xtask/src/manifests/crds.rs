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

    /// Learns which fields a type reads, and reads none.
    struct Fields(&'static [&'static str]);

    impl<'de> serde::Deserializer<'de> for &mut Fields {
        type Error = serde::de::value::Error;

        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            self.0 = fields;
            Err(serde::de::Error::custom("only the fields were asked for"))
        }

        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(serde::de::Error::custom("not a struct"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    #[track_caller]
    fn has_the_fields_of<S: calico_api::Spec>() {
        let mut fields = Fields(&[]);
        drop(S::deserialize(&mut fields));
        let read: std::collections::BTreeSet<&str> = fields.0.iter().copied().collect();
        assert!(!read.is_empty(), "{}: no fields", S::KIND);
        for native in [false, true] {
            let schema = schema::spec(S::KIND, native);
            let known: std::collections::BTreeSet<&str> =
                schema["properties"].as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
            if schema["x-kubernetes-preserve-unknown-fields"] == true {
                assert!(known.is_subset(&read), "{}: {:?} are read by nobody", S::KIND, known.difference(&read));
            } else {
                assert_eq!(known, read, "{}", S::KIND);
            }
        }
    }

    #[test]
    fn a_definition_has_the_fields_that_are_read_and_no_others() {
        use calico_api::*;
        has_the_fields_of::<BGPConfigurationSpec>();
        has_the_fields_of::<BGPFilterSpec>();
        has_the_fields_of::<BGPPeerSpec>();
        has_the_fields_of::<BlockAffinitySpec>();
        has_the_fields_of::<CalicoNodeStatusSpec>();
        has_the_fields_of::<ClusterInformationSpec>();
        has_the_fields_of::<GlobalNetworkPolicySpec>();
        has_the_fields_of::<HostEndpointSpec>();
        has_the_fields_of::<IPAMBlockSpec>();
        has_the_fields_of::<IPAMConfigurationSpec>();
        has_the_fields_of::<IPAMHandleSpec>();
        has_the_fields_of::<IPPoolSpec>();
        has_the_fields_of::<IPReservationSpec>();
        has_the_fields_of::<NetworkPolicySpec>();
        has_the_fields_of::<NetworkSetSpec>();
        has_the_fields_of::<StagedGlobalNetworkPolicySpec>();
        has_the_fields_of::<StagedNetworkPolicySpec>();
        has_the_fields_of::<TierSpec>();
    }
}
