//! Calico's JSON in etcd to the canonical one, and back.
//!
//! Resources are the same but for the revision; IPAM's records have no metadata there and spell some fields otherwise.

use calico_api::{API_VERSION, Key, Kind};
use serde_json::{Map, Value, json};

use crate::value;
use crate::{Entry, Error, Fault, Result, Revision};

/// The annotation by which Calico keeps a policy's name.
const METADATA: &str = "projectcalico.org/metadata";

/// IPAM's configuration: canonical, etcd's spelling, and what an absent field means in etcd.
const CONFIG: &[(&str, &str)] = &[
    ("strictAffinity", "strict_affinity"),
    ("autoAllocateBlocks", "auto_allocate_blocks"),
    ("maxBlocksPerHost", "maxBlocksPerHost"),
    ("ipCooldownSeconds", "ipCooldownSeconds"),
    ("kubeVirtVMAddressPersistence", "kubeVirtVMAddressPersistence"),
];

/// Whether Calico notes the name in an annotation.
fn notes_name(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::GlobalNetworkPolicy | Kind::NetworkPolicy | Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy
    )
}

/// What is stored for a canonical value.
///
/// # Errors
/// [`Error::Encode`] if the value cannot be under `key`.
pub(super) fn encode(key: &Key, value: &Value) -> Result<Vec<u8>> {
    let spec = || value.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
    let stored = match key {
        Key::Block(_) => {
            let mut block = spec();
            let claimed = block.remove("affinityClaimTime");
            block.extend(claimed.map(|time| ("affinity_claim_time".to_owned(), time)));
            block.remove("strictAffinity");
            for (field, absent) in [
                ("affinity", Value::Null),
                ("deleted", json!(false)),
                ("sequenceNumberForAllocation", json!({})),
                ("allocations", json!([])),
                ("unallocated", json!([])),
                ("attributes", Value::Null),
            ] {
                block.entry(field).or_insert(absent);
            }
            // As Calico writes a list that was never appended to.
            if block.get("attributes") == Some(&json!([])) {
                block.insert("attributes".to_owned(), Value::Null);
            }
            Value::Object(block)
        }
        Key::Affinity { .. } => {
            let spec = spec();
            json!({
                "state": spec.get("state").cloned().unwrap_or_else(|| json!("confirmed")),
                "deleted": spec.get("deleted").cloned().unwrap_or(Value::Bool(false)),
            })
        }
        Key::Handle(_) => {
            let spec = spec();
            json!({
                "block": spec.get("block").cloned().unwrap_or_else(|| json!({})),
                "deleted": spec.get("deleted").cloned().unwrap_or(Value::Bool(false)),
            })
        }
        Key::Named { kind: Kind::IPAMConfiguration, .. } => {
            let mut spec = spec();
            // Absent means true in canonical values, false in etcd.
            spec.entry("autoAllocateBlocks").or_insert(json!(true));
            let said = |value: &Value| *value != json!(false) && *value != json!(0) && *value != json!("");
            CONFIG
                .iter()
                .filter_map(|(ours, theirs)| Some(((*theirs).to_owned(), spec.remove(*ours).filter(said)?)))
                .collect::<Map<_, _>>()
                .into()
        }
        Key::Named { kind, name, .. } => {
            let mut value = value.clone();
            if notes_name(*kind)
                && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut)
                && let Some(notes) = metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
            {
                notes.insert(METADATA.to_owned(), json!(json!({ "name": name }).to_string()));
            }
            value
        }
    };
    serde_json::to_vec(&stored).map_err(|error| Error::Encode { key: key.clone(), reason: error.to_string() })
}

/// The canonical value of what is stored under `key`, at `path`.
///
/// # Errors
/// A fault if it is not what it should be.
pub(super) fn decode(key: Key, path: &str, stored: &[u8], revision: Revision) -> std::result::Result<Entry, Fault> {
    match canonical(&key, stored).and_then(|value| value::check_stored(&key, &value).map(|()| value)) {
        Ok(mut value) => {
            value::stamp(&mut value, &revision);
            Ok(Entry { key, value, revision })
        }
        Err(reason) => Err(Fault { kind: key.kind(), name: path.to_owned(), key: Some(key), reason }),
    }
}

fn canonical(key: &Key, stored: &[u8]) -> std::result::Result<Value, String> {
    let affinity = matches!(key, Key::Affinity { .. });
    let stored = match stored.trim_ascii() {
        // Calico of old wrote nothing.
        [] if affinity => json!({}),
        stored => serde_json::from_slice(stored).map_err(|error| format!("it is not JSON: {error}"))?,
    };
    let Value::Object(mut stored) = stored else { return Err("it is not an object".to_owned()) };
    let spec = match key {
        Key::Block(_) => {
            let claimed = stored.remove("affinity_claim_time");
            stored.extend(claimed.map(|time| ("affinityClaimTime".to_owned(), time)));
            if let Some(Value::String(node)) = stored.remove("hostAffinity")
                && stored.get("affinity").is_none_or(Value::is_null)
            {
                stored.insert("affinity".to_owned(), json!(format!("host:{node}")));
            }
            stored.retain(|_, value| !value.is_null());
            for (field, absent) in [
                ("deleted", json!(false)),
                ("strictAffinity", json!(false)),
                ("attributes", json!([])),
                ("allocations", json!([])),
                ("unallocated", json!([])),
                ("sequenceNumberForAllocation", json!({})),
            ] {
                stored.entry(field).or_insert(absent);
            }
            stored
        }
        Key::Affinity { owner, cidr } => {
            let state = match stored.remove("state") {
                None | Some(Value::Null) => json!("confirmed"),
                Some(Value::String(state)) if state.is_empty() => json!("confirmed"),
                Some(state) => state,
            };
            let mut spec = stored;
            spec.insert("state".to_owned(), state);
            spec.insert("node".to_owned(), json!(owner.name()));
            spec.insert("type".to_owned(), json!(owner.type_str()));
            spec.insert("cidr".to_owned(), json!(cidr.to_string()));
            spec
        }
        Key::Handle(id) => {
            let mut spec = stored;
            spec.insert("handleID".to_owned(), json!(id));
            spec.retain(|_, value| !value.is_null());
            spec
        }
        Key::Named { kind: Kind::IPAMConfiguration, .. } => {
            let mut spec: Map<String, Value> = CONFIG
                .iter()
                .filter_map(|(ours, theirs)| Some(((*ours).to_owned(), stored.remove(*theirs)?)))
                .collect();
            for absent in ["strictAffinity", "autoAllocateBlocks"] {
                spec.entry(absent).or_insert(json!(false));
            }
            spec
        }
        Key::Named { kind, .. } => {
            if notes_name(*kind)
                && let Some(metadata) = stored.get_mut("metadata").and_then(Value::as_object_mut)
                && let Some(notes) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
            {
                notes.remove(METADATA);
                if notes.is_empty() {
                    metadata.remove("annotations");
                }
            }
            return Ok(Value::Object(stored));
        }
    };
    Ok(json!({
        "apiVersion": API_VERSION,
        "kind": key.kind().as_str(),
        "metadata": { "name": key.name() },
        "spec": spec,
    }))
}

#[cfg(test)]
mod tests {
    use calico_api::{BlockAffinity, IPAMBlock, IPAMBlockSpec, IPAMConfiguration, IPAMHandle, Owner, Spec};

    use super::*;

    fn read<S: Spec>(key: &Key, stored: &str) -> calico_api::Resource<S> {
        let entry = decode(key.clone(), "path", stored.as_bytes(), Revision("7".into())).unwrap();
        assert_eq!(entry.value["metadata"]["resourceVersion"], json!("7"));
        crate::decode(entry).unwrap()
    }

    /// What the stored text becomes when it is read and written by the types.
    #[track_caller]
    fn check_round_trip<S: Spec>(key: &Key, stored: &str) -> calico_api::Resource<S> {
        let resource = read::<S>(key, stored);
        let mut value = serde_json::to_value(&resource).unwrap();
        value::strip(&mut value);
        let written: Value = serde_json::from_slice(&encode(key, &value).unwrap()).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(stored).unwrap());
        resource
    }

    fn block() -> Key {
        Key::Block("10.244.0.0/26".parse().unwrap())
    }

    #[test]
    fn a_block_keeps_calicos_spelling_both_ways() {
        let stored = r#"{"cidr":"10.244.0.0/26","affinity":"host:node-1","affinity_claim_time":"2026-08-22T13:00:00Z",
            "allocations":[0,null,1],"unallocated":[1],
            "attributes":[{"handle_id":"vxlan-tunnel-addr-node-1","secondary":{"node":"node-1","type":"vxlanTunnelAddress"}},
                {"releasedAt":"2026-08-22T13:40:00Z"}],
            "sequenceNumber":1787403600000000007,"sequenceNumberForAllocation":{"0":1787403600000000000},"deleted":false}"#;
        let block: IPAMBlock = check_round_trip::<IPAMBlockSpec>(&block(), stored);
        assert_eq!(block.spec.affinity_claim_time.as_deref(), Some("2026-08-22T13:00:00Z"));
        assert_eq!(block.spec.sequence_number, 1_787_403_600_000_000_007);
    }

    #[test]
    fn a_fresh_block_has_null_for_attributes_and_for_no_owner() {
        let stored = r#"{"cidr":"10.244.0.0/26","affinity":null,"allocations":[null],"unallocated":[0],"attributes":null,
            "sequenceNumber":1,"sequenceNumberForAllocation":{},"deleted":false}"#;
        let fresh: IPAMBlock = check_round_trip::<IPAMBlockSpec>(&block(), stored);
        assert_eq!((fresh.spec.affinity, fresh.spec.attributes), (None, vec![]));
        let old: IPAMBlock = read(&block(), r#"{"cidr":"10.244.0.0/26","affinity":null,"hostAffinity":"node-1"}"#);
        assert_eq!(old.spec.owner(), Some(Owner::Host("node-1".into())));
    }

    #[test]
    fn an_affinity_without_a_state_is_confirmed() {
        let key = Key::Affinity { owner: Owner::Host("node-1".into()), cidr: "10.244.0.0/26".parse().unwrap() };
        let confirmed: BlockAffinity = check_round_trip(&key, r#"{"state":"confirmed","deleted":false}"#);
        assert_eq!(confirmed.key(), key);
        for old in ["", "{}", r#"{"state":""}"#] {
            assert_eq!(read::<calico_api::BlockAffinitySpec>(&key, old).spec, confirmed.spec, "{old}");
        }
        check_round_trip::<calico_api::BlockAffinitySpec>(&key, r#"{"state":"pendingDeletion","deleted":false}"#);
    }

    #[test]
    fn a_handle_has_its_id_from_the_key() {
        let key = Key::Handle("k8s-pod-network.4F1c".into());
        let handle: IPAMHandle = check_round_trip(&key, r#"{"block":{"10.244.0.0/26":1},"deleted":false}"#);
        assert_eq!(handle.spec.handle_id, "k8s-pod-network.4F1c");
    }

    #[test]
    fn a_configuration_that_omits_automatic_blocks_forbids_them() {
        let key = Key::named(Kind::IPAMConfiguration, "default");
        let config: IPAMConfiguration = check_round_trip(&key, r#"{"strict_affinity":true}"#);
        assert!(config.spec.strict_affinity && !config.spec.auto_allocate_blocks);
        check_round_trip::<calico_api::IPAMConfigurationSpec>(
            &key,
            r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4,"ipCooldownSeconds":30}"#,
        );
        let defaults = json!({"spec": {}});
        assert_eq!(encode(&key, &defaults).unwrap(), br#"{"auto_allocate_blocks":true}"#);
    }

    #[test]
    fn a_policy_carries_its_name_in_an_annotation_that_nobody_sees() {
        let key = Key::namespaced(Kind::NetworkPolicy, "shop", "web");
        let value = json!({"apiVersion": API_VERSION, "kind": "NetworkPolicy",
            "metadata": {"name": "web", "namespace": "shop"}, "spec": {}});
        let stored = encode(&key, &value).unwrap();
        let text = String::from_utf8(stored.clone()).unwrap();
        assert!(text.contains(r#""projectcalico.org/metadata":"{\"name\":\"web\"}""#), "{text}");
        let read = decode(key, "path", &stored, Revision("1".into())).unwrap().value;
        assert_eq!(
            read["metadata"],
            json!({"name": "web", "namespace": "shop", "resourceVersion": "1", "annotations": {}})
                .as_object()
                .map(|m| {
                    let mut m = m.clone();
                    m.remove("annotations");
                    Value::Object(m)
                })
                .unwrap()
        );
    }

    #[test]
    fn what_is_stored_under_a_foreign_key_is_a_fault() {
        for stored in ["", "[]", "{", r#"{"cidr":"10.244.0.64/26"}"#, r#"{"cidr":7}"#, "\u{0}"] {
            let fault = decode(block(), "path", stored.as_bytes(), Revision::default()).unwrap_err();
            assert_eq!((fault.key, fault.name.as_str()), (Some(block()), "path"), "{stored}");
        }
    }
}
