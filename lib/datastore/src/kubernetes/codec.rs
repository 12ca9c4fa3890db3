//! Canonical values to stored objects and back.

use std::str::FromStr;

use calico_api::{BlockAffinitySpec, Key, Kind, Owner, hostname_hash};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::group::ApiGroup;
use super::metadata::{from_custom_resource, to_custom_resource};
use crate::{Entry, Error, Fault, Result, Revision};

/// The label by which a node's affinities are found.
pub(super) const HOSTNAME_HASH: &str = "projectcalico.org/hostname-hash";
const AFFINITY_TYPE: &str = "projectcalico.org/affinity-type";
const IP_VERSION: &str = "projectcalico.org/ip-version";

/// What an object of the API server is to us.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// A resource.
    Entry(Entry),
    /// Not a resource any more, though an object: a tombstone.
    Tombstone(Key),
    /// Not one of ours: a pod that is no endpoint.
    Nothing,
    /// Unreadable.
    Fault(Fault),
}

/// Kinds that are deleted only at a known version, for which they are marked first.
pub(super) const fn has_tombstones(kind: Kind) -> bool {
    matches!(kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle)
}

/// Kinds of IPAM, whose metadata is ours alone: no user ever wrote it, so none has to be kept.
const fn is_ipam(kind: Kind) -> bool {
    has_tombstones(kind) || matches!(kind, Kind::IPAMConfiguration)
}

/// The object to store for a value; `revision` is what it replaces.
///
/// # Errors
/// [`Error::Encode`] if the value is not an object with metadata.
pub(super) fn encode(group: ApiGroup, key: &Key, value: Value, revision: Option<&Revision>) -> Result<Value> {
    let kind = key.kind();
    let bad = |reason: String| Error::Encode { key: key.clone(), reason };
    if !value.is_object() {
        return Err(bad("it is not an object".to_owned()));
    }
    let mut value = if group == ApiGroup::Classic && !is_ipam(kind) { to_custom_resource(kind, value) } else { value };
    let Some(object) = value.as_object_mut() else { return Err(bad("it is not an object".to_owned())) };
    object.insert("apiVersion".to_owned(), json!(group.api_version()));
    object.insert("kind".to_owned(), json!(group.kind_name(kind)));

    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return Err(bad("its metadata is not an object".to_owned())) };
    // The server sets these. A UID would be a precondition, and say "gone" where the truth is "changed".
    for field in
        ["uid", "resourceVersion", "generation", "managedFields", "selfLink", "creationTimestamp", "deletionTimestamp"]
    {
        metadata.remove(field);
    }
    metadata.insert("name".to_owned(), json!(key.name()));
    if let Some(namespace) = key.namespace() {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    if let Some(revision) = revision {
        metadata.insert("resourceVersion".to_owned(), json!(revision.0));
    }
    if let Key::Affinity { owner, cidr } = key {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(HOSTNAME_HASH.to_owned(), json!(hostname_hash(owner.name())));
            labels.insert(AFFINITY_TYPE.to_owned(), json!(owner.type_str()));
            labels.insert(IP_VERSION.to_owned(), json!(if cidr.addr().is_ipv4() { "4" } else { "6" }));
        }
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        encode_spec(group, key, spec);
    }
    Ok(value)
}

fn encode_spec(group: ApiGroup, key: &Key, spec: &mut Map<String, Value>) {
    match key {
        Key::Affinity { owner, .. } => {
            spec.entry("type").or_insert_with(|| json!(owner.type_str()));
            mark(group, Kind::BlockAffinity, spec, is_marked(spec));
        }
        Key::Block(_) => {
            // A null has no place in the schema's maps of strings.
            for attribute in spec.get_mut("attributes").and_then(Value::as_array_mut).into_iter().flatten() {
                for map in ["secondary", "alternateOwnerAttrs"] {
                    if let Some(map) = attribute.get_mut(map).and_then(Value::as_object_mut) {
                        map.retain(|_, value| !value.is_null());
                    }
                }
            }
        }
        _ => {}
    }
}

/// Whether a spec is that of a tombstone; one API group spells it as a text.
fn is_marked(spec: &Map<String, Value>) -> bool {
    match spec.get("deleted") {
        Some(Value::Bool(deleted)) => *deleted,
        Some(Value::String(deleted)) => deleted.eq_ignore_ascii_case("true"),
        _ => false,
    }
}

/// Spells `deleted` as the group does.
pub(super) fn mark(group: ApiGroup, kind: Kind, spec: &mut Map<String, Value>, deleted: bool) {
    let deleted = match (group, kind) {
        (ApiGroup::Classic, Kind::BlockAffinity) => json!(deleted.to_string()),
        _ => json!(deleted),
    };
    spec.insert("deleted".to_owned(), deleted);
}

/// Whether a stored object is a tombstone.
pub(super) fn is_tombstone(kind: Kind, object: &Value) -> bool {
    has_tombstones(kind) && object.get("spec").and_then(Value::as_object).is_some_and(is_marked)
}

/// The version of an object, or of a list.
pub(super) fn revision_of(object: &Value) -> Revision {
    Revision(metadata_of(object, "resourceVersion").to_owned())
}

/// A text of the object's metadata; empty if absent.
pub(super) fn metadata_of<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// What a stored custom resource is to us.
pub(super) fn decode(group: ApiGroup, kind: Kind, mut object: Value) -> Seen {
    let revision = revision_of(&object);
    let stored_name = metadata_of(&object, "name").to_owned();
    let guess = if has_tombstones(kind) { guess_key(kind, &stored_name, &object) } else { None };
    let tombstone = is_tombstone(kind, &object);
    if tombstone && let Some(key) = guess {
        return Seen::Tombstone(key);
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if kind == Kind::BlockAffinity
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        let deleted = is_marked(spec);
        spec.insert("deleted".to_owned(), json!(deleted));
    }
    let guess = if has_tombstones(kind) { guess } else { named_key(kind, &object) };
    let fault = |key: Option<Key>, reason: String| Seen::Fault(Fault { kind, key, name: stored_name.clone(), reason });
    let mut value = match group {
        ApiGroup::Classic => match from_custom_resource(kind, object) {
            Ok(value) => value,
            Err(reason) => return fault(guess, reason),
        },
        ApiGroup::Native => object,
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".to_owned(), json!(calico_api::API_VERSION));
        object.insert("kind".to_owned(), json!(kind.as_str()));
    }
    match Key::of_value(kind, &value) {
        // Under a wrong name it could be read, but never written back.
        Ok(key @ (Key::Block(_) | Key::Handle(_))) if key.name() != stored_name => {
            fault(guess, format!("its content is that of {key}, which must be named {}", key.name()))
        }
        Ok(_) if tombstone => Seen::Nothing,
        Ok(key) => Seen::Entry(Entry { key, value, revision }),
        Err(error) => fault(guess, error.to_string()),
    }
}

fn named_key(kind: Kind, object: &Value) -> Option<Key> {
    let name = metadata_of(object, "name");
    let namespace = object.get("metadata").and_then(|metadata| metadata.get("namespace")).and_then(Value::as_str);
    (!name.is_empty()).then(|| match namespace {
        Some(namespace) => Key::namespaced(kind, namespace, name),
        None => Key::named(kind, name),
    })
}

/// The key of an IPAM record whose content may be unreadable: from what of it can be read, else from its name.
fn guess_key(kind: Kind, name: &str, object: &Value) -> Option<Key> {
    let field = |field: &str| object.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_str);
    let cidr = field("cidr").and_then(|cidr| IpNet::from_str(cidr).ok()).map(|cidr| cidr.trunc());
    match kind {
        Kind::IPAMBlock => cidr.or_else(|| parse_cidr_name(name)).map(Key::Block),
        Kind::IPAMHandle => Some(Key::Handle(field("handleID").unwrap_or(name).to_owned())),
        Kind::BlockAffinity => {
            let spec = BlockAffinitySpec {
                state: Default::default(),
                node: field("node")?.to_owned(),
                owner_type: field("type").map(str::to_owned),
                cidr: cidr?,
                deleted: false,
            };
            let owner: Owner = spec.owner();
            Some(Key::Affinity { owner, cidr: spec.cidr })
        }
        _ => None,
    }
}

/// The network that a name of the form `10-244-0-0-26` stands for.
fn parse_cidr_name(name: &str) -> Option<IpNet> {
    let (address, length) = name.rsplit_once('-')?;
    let length: u8 = length.parse().ok()?;
    let v4 = address.replace('-', ".").parse().map(std::net::IpAddr::V4);
    let address = v4.or_else(|_| address.replace('-', ":").parse().map(std::net::IpAddr::V6)).ok()?;
    IpNet::new(address, length).ok()
}

#[cfg(test)]
mod tests {
    use calico_api::IPAMBlockSpec;

    use super::*;
    use crate::kubernetes::metadata::convert_uid;

    const CIDR: &str = "10.244.0.0/26";

    fn affinity_key() -> Key {
        Key::Affinity { owner: Owner::Host("node-1".to_owned()), cidr: CIDR.parse().unwrap() }
    }

    fn affinity(deleted: Value) -> Value {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "BlockAffinity", "metadata": {"name": "node-1-10-244-0-0-26"},
            "spec": {"state": "confirmed", "node": "node-1", "type": "host", "cidr": CIDR, "deleted": deleted},
        })
    }

    #[test]
    fn the_two_groups_spell_deleted_differently_and_label_affinities_alike() {
        for (group, deleted) in [(ApiGroup::Classic, json!("false")), (ApiGroup::Native, json!(false))] {
            let stored = encode(group, &affinity_key(), affinity(json!(false)), None).unwrap();
            assert_eq!(stored["spec"]["deleted"], deleted);
            assert_eq!(
                stored["metadata"]["labels"][HOSTNAME_HASH],
                "A3XPYDATRKB7Q4SM2O5FN4RXIHBFIL2PITFX26BAIP5XAB2X74CA"
            );
            assert_eq!(stored["metadata"]["labels"][AFFINITY_TYPE], "host");
            assert_eq!(stored["metadata"]["labels"][IP_VERSION], "4");
            match decode(group, Kind::BlockAffinity, stored) {
                Seen::Entry(entry) => {
                    assert_eq!((entry.key, &entry.value["spec"]["deleted"]), (affinity_key(), &json!(false)))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_tombstone_is_known_in_either_spelling() {
        for deleted in [json!("true"), json!("True"), json!(true)] {
            for group in [ApiGroup::Classic, ApiGroup::Native] {
                let seen = decode(group, Kind::BlockAffinity, affinity(deleted.clone()));
                assert_eq!(seen, Seen::Tombstone(affinity_key()));
            }
        }
    }

    #[test]
    fn a_block_of_calico_is_read_and_a_spoilt_one_keeps_its_key() {
        let mut stored = json!({
            "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
            "metadata": {"name": "10-244-0-0-26", "resourceVersion": "7",
                "uid": "8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17",
                "annotations": {"projectcalico.org/metadata": "{\"creationTimestamp\":null}"}},
            "spec": {"cidr": CIDR, "affinity": "host:node-1", "allocations": [0, null], "unallocated": [1],
                "attributes": [{"handle_id": "vxlan-tunnel-addr-node-1", "secondary": {"node": "node-1"}}],
                "sequenceNumber": 1_787_403_600_000_000_007_u64,
                "sequenceNumberForAllocation": {"0": 1_787_403_600_000_000_000_u64},
                "strictAffinity": false, "deleted": false},
        });
        let Seen::Entry(entry) = decode(ApiGroup::Classic, Kind::IPAMBlock, stored.clone()) else { panic!("no entry") };
        assert_eq!(entry.key, Key::Block(CIDR.parse().unwrap()));
        assert_eq!(entry.value["metadata"]["uid"], convert_uid("8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17"));
        assert_eq!(entry.value["metadata"].get("annotations"), None);
        let spec: IPAMBlockSpec = serde_json::from_value(entry.value["spec"].clone()).unwrap();
        assert_eq!(spec.sequence_number, 1_787_403_600_000_000_007);

        stored["spec"]["allocations"] = json!("none");
        let Seen::Fault(fault) = decode(ApiGroup::Classic, Kind::IPAMBlock, stored.clone()) else { panic!("no fault") };
        assert_eq!((fault.key, &*fault.name), (Some(Key::Block(CIDR.parse().unwrap())), "10-244-0-0-26"));

        stored["spec"] = json!({"cidr": "10.244.0.64/26"});
        let Seen::Fault(fault) = decode(ApiGroup::Classic, Kind::IPAMBlock, stored.clone()) else { panic!("no fault") };
        assert!(fault.reason.contains("10-244-0-64-26"), "{}", fault.reason);
    }

    #[test]
    fn a_name_gives_back_its_network() {
        for cidr in [CIDR, "fd00:10:244::40/122", "fd80::/122", "0.0.0.0/0"] {
            let cidr: IpNet = cidr.parse().unwrap();
            assert_eq!(parse_cidr_name(&calico_api::cidr_name(&cidr)), Some(cidr));
        }
        assert_eq!(parse_cidr_name("node-1-26"), None);
    }

    #[test]
    fn a_users_labels_survive_the_classic_group() {
        let key = Key::named(Kind::IPPool, "pool-1");
        let pool = json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": {"name": "pool-1", "resourceVersion": "3", "uid": "8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17",
                "labels": {"rack": "a", "projectcalico.org/tier": "x"}, "annotations": {"note": "b"},
                "creationTimestamp": "2026-08-22T13:00:00Z",
                "ownerReferences": [{"apiVersion": "projectcalico.org/v3", "kind": "Tier", "name": "t",
                    "uid": "8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17"}]},
            "spec": {"cidr": "10.0.0.0/16"},
        });
        let stored = encode(ApiGroup::Classic, &key, pool.clone(), Some(&Revision("3".to_owned()))).unwrap();
        assert_eq!(stored["metadata"]["labels"], json!({"projectcalico.org/tier": "x"}));
        let inner: Value =
            serde_json::from_str(stored["metadata"]["annotations"]["projectcalico.org/metadata"].as_str().unwrap())
                .unwrap();
        assert_eq!(inner["labels"]["rack"], "a");
        assert_eq!(inner["ownerReferences"][0]["apiVersion"], "crd.projectcalico.org/v1");
        assert_eq!(inner["ownerReferences"][0]["uid"], "f13cb84a-5e26-4ed0-9c84-f0d6b47a59e8");
        assert_eq!(inner.get("name"), None);
        let Seen::Entry(entry) = decode(ApiGroup::Classic, Kind::IPPool, stored) else { panic!("no entry") };
        let mut expected = pool;
        expected["metadata"].as_object_mut().unwrap().remove("uid");
        assert_eq!(entry.value, expected);
    }

    #[test]
    fn a_policy_of_old_is_presented_without_its_prefix() {
        let stored = |annotations: Value| {
            json!({
                "metadata": {"name": "default.web", "annotations": annotations}, "spec": {"tier": "default"},
            })
        };
        let name = |annotations: Value| match decode(ApiGroup::Classic, Kind::GlobalNetworkPolicy, stored(annotations))
        {
            Seen::Entry(entry) => entry.key.name(),
            other => panic!("{other:?}"),
        };
        assert_eq!(name(json!({})), "web");
        assert_eq!(name(json!({"projectcalico.org/metadata": "{\"name\":\"default.web\"}"})), "default.web");
    }
}
