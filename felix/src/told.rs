//! Which updates say nothing new to the calculation? They are most of them: a block changes with every pod, a Node with every
//! heartbeat, and of either hardly anything concerns routes.
//!
//! What concerns them is reduced to a number, which costs a look at the JSON instead of its decoding, and eight octets an object.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use calico_api::{IPAMBlock, IPAMBlockSpec, Key, Kind, ObjectMeta};
use calico_datastore::watch::Update;
use ipnet::IpNet;
use serde_json::Value;

/// What the calculation was told of blocks and of other nodes.
#[derive(Debug)]
pub(crate) struct Told {
    node: String,
    /// Sixty thousand, perhaps: in a hash table they would take twice the room.
    blocks: BTreeMap<IpNet, u64>,
    nodes: HashMap<Box<str>, u64>,
}

impl Told {
    /// Nothing yet; for the node of this name.
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.to_owned(), blocks: BTreeMap::new(), nodes: HashMap::new() }
    }

    /// Whether the calculation knows already all that concerns it. If not, it is about to be told.
    pub(crate) fn is_told(&mut self, update: &Update) -> bool {
        match update {
            Update::Put(entry) => match &entry.key {
                Key::Block(network) => {
                    let facts = facts_of_block(&entry.value);
                    self.blocks.insert(*network, facts) == Some(facts)
                }
                // Of this node labels count, too.
                key if key.kind() == Kind::Node && key.name() != self.node => {
                    let facts = facts_of_node(&entry.value);
                    match self.nodes.get_mut(key.name().as_str()) {
                        Some(before) => std::mem::replace(before, facts) == facts,
                        None => {
                            self.nodes.insert(key.name().into(), facts);
                            false
                        }
                    }
                }
                _ => false,
            },
            Update::Delete(key) => {
                self.forget(key);
                false
            }
            Update::Fault(fault) => {
                if let Some(key) = &fault.key {
                    self.forget(key);
                }
                false
            }
            Update::InSync | Update::Trouble(_) => false,
        }
    }

    /// What was told of an object is not in force.
    pub(crate) fn forget(&mut self, key: &Key) {
        match key {
            Key::Block(network) => drop(self.blocks.remove(network)),
            key if key.kind() == Kind::Node => drop(self.nodes.remove(key.name().as_str())),
            _ => {}
        }
    }
}

/// Whose the block is, and which of its addresses are another node's.
fn facts_of_block(value: &Value) -> u64 {
    let mut hash = DefaultHasher::new();
    let spec = value.get("spec");
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    let affinity = field("affinity").and_then(Value::as_str);
    affinity.hash(&mut hash);
    field("deleted").and_then(Value::as_bool).unwrap_or(false).hash(&mut hash);
    let borrowers = spec.map(|spec| borrowers(spec, affinity)).unwrap_or_default();
    if borrowers.iter().any(Option::is_some) {
        let allocations = field("allocations").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for (ordinal, allocation) in allocations.iter().enumerate() {
            let index = allocation.as_u64().and_then(|index| usize::try_from(index).ok());
            if let Some(Some(borrower)) = index.and_then(|index| borrowers.get(index)) {
                (ordinal, borrower).hash(&mut hash);
            }
        }
    }
    hash.finish()
}

/// Whose a block is, without its addresses, if all of these are its owner's: then nothing else of it concerns routes.
pub(crate) fn owner_alone(value: &Value) -> Option<IPAMBlock> {
    let spec = value.get("spec")?;
    let affinity = spec.get("affinity").and_then(Value::as_str);
    if borrowers(spec, affinity).iter().any(Option::is_some) {
        return None;
    }
    let spec = IPAMBlockSpec {
        cidr: spec.get("cidr")?.as_str()?.parse().ok()?,
        affinity: affinity.map(str::to_owned),
        affinity_claim_time: None,
        allocations: Vec::new(),
        unallocated: Vec::new(),
        attributes: Vec::new(),
        sequence_number: 0,
        sequence_number_for_allocation: BTreeMap::new(),
        deleted: spec.get("deleted").and_then(Value::as_bool).unwrap_or(false),
        strict_affinity: false,
    };
    Some(IPAMBlock::new(ObjectMeta::default(), spec))
}

/// For each attribute of a block the node that it names, if that is not the block's.
fn borrowers<'a>(spec: &'a Value, affinity: Option<&str>) -> Vec<Option<&'a str>> {
    let owner = affinity.and_then(|affinity| affinity.strip_prefix("host:"));
    let attributes = spec.get("attributes").and_then(Value::as_array).into_iter().flatten();
    let node = |attribute: &'a Value| attribute.pointer("/secondary/node").and_then(Value::as_str);
    attributes.map(|attribute| node(attribute).filter(|node| Some(*node) != owner)).collect()
}

/// All that a Node says of itself but its interfaces and who else knows it: where it is, and where its tunnels end. Kubernetes'
/// addresses count where BGP has none.
fn facts_of_node(value: &Value) -> u64 {
    let mut hash = DefaultHasher::new();
    let spec = value.get("spec").and_then(Value::as_object);
    for (name, field) in spec.into_iter().flatten() {
        if !matches!(name.as_str(), "interfaces" | "orchRefs") {
            (name, field.to_string()).hash(&mut hash);
        }
    }
    value.pointer("/status/podCIDRs").map(Value::to_string).hash(&mut hash);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use calico_datastore::{Entry, Revision};
    use serde_json::json;

    use super::*;

    fn put(key: &Key, value: Value) -> Update {
        Update::Put(Entry { key: key.clone(), value, revision: Revision("1".to_owned()) })
    }

    #[test]
    fn of_a_block_only_its_owner_and_borrowed_addresses_are_news() {
        let key = Key::Block("10.0.0.0/30".parse().unwrap());
        let block = |affinity: &str, allocations: Value| {
            let attributes = json!([
                {"handle_id": "a", "secondary": {"node": "west"}},
                {"handle_id": "b", "secondary": {"node": "east"}},
            ]);
            let spec = json!({"cidr": "10.0.0.0/30", "affinity": affinity, "allocations": allocations,
                "attributes": attributes});
            put(&key, json!({"spec": spec}))
        };
        let mut told = Told::new("east");
        for (step, (update, expected)) in [
            (block("host:west", json!([0, null, null, null])), false),
            (block("host:west", json!([0, 0, null, null])), true),
            (block("host:west", json!([0, 0, 1, null])), false),
            (block("host:west", json!([null, 0, 1, null])), true),
            (block("host:west", json!([null, 0, null, 1])), false),
            (block("host:east", json!([null, 0, null, 1])), false),
            (block("host:east", json!([null, 0, 1, 1])), true),
            (Update::Delete(key.clone()), false),
            (block("host:east", json!([null, 0, 1, 1])), false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(told.is_told(&update), expected, "step {step}");
        }
    }

    #[test]
    fn of_a_block_without_borrowed_addresses_only_the_owner_is_decoded() {
        let block = |node: &str| {
            json!({"spec": {"cidr": "10.0.0.0/30", "affinity": "host:west", "deleted": true,
                "allocations": [0, null, null, null], "attributes": [{"secondary": {"node": node}}]}})
        };
        let spec = owner_alone(&block("west")).unwrap().spec;
        assert_eq!((spec.cidr.to_string().as_str(), spec.affinity.as_deref()), ("10.0.0.0/30", Some("host:west")));
        assert!(spec.deleted && spec.allocations.is_empty());
        assert_eq!(owner_alone(&block("east")), None);
    }

    #[test]
    fn a_heartbeat_of_another_node_is_no_news_and_its_tunnel_address_is() {
        let node_at = |name: &str, revision: &str, tunnel: &str, address: &str| {
            let key = Key::named(Kind::Node, name);
            let metadata = json!({"name": name, "resourceVersion": revision, "annotations": {"heartbeat": revision}});
            let bgp = json!({"ipv4Address": "192.0.2.1/24", "ipv4IPIPTunnelAddr": tunnel});
            let addresses = json!([{"address": address, "type": "InternalIP"}]);
            let spec = json!({"bgp": bgp, "addresses": addresses, "orchRefs": [{"nodeName": revision}]});
            put(&key, json!({"metadata": metadata, "spec": spec}))
        };
        let node = |name: &str, revision: &str, tunnel: &str| node_at(name, revision, tunnel, "192.0.2.1");
        let mut told = Told::new("east");
        assert!(!told.is_told(&node("west", "1", "10.0.0.1")));
        assert!(told.is_told(&node("west", "2", "10.0.0.1")));
        assert!(!told.is_told(&node("west", "3", "10.0.0.2")));
        assert!(
            !told.is_told(&node_at("west", "4", "10.0.0.2", "192.0.2.9")),
            "where BGP has no address this is its own"
        );
        assert!(told.is_told(&node_at("west", "5", "10.0.0.2", "192.0.2.9")));
        assert!(!told.is_told(&Update::Delete(Key::named(Kind::Node, "west"))));
        assert!(!told.is_told(&node("west", "4", "10.0.0.2")));
        assert!(!told.is_told(&node("east", "1", "10.0.0.3")));
        assert!(!told.is_told(&node("east", "2", "10.0.0.3")), "of its own node it wants to know all");
    }
}
