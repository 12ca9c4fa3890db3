//! A valid value of every kind, and a second one to update it to.

use calico_api::{Key, Kind, Owner};
use ipnet::IpNet;
use serde_json::{Value, json};

/// The namespace of namespaced samples; every cluster has it.
pub const NAMESPACE: &str = "default";

/// A key, a value to create under it, and one to update to.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Where it belongs.
    pub key: Key,
    /// The first value.
    pub first: Value,
    /// The second; it differs in its spec only.
    pub second: Value,
}

/// A sample of a kind. `tag` makes it another than those of other checks; `number`, below 200, than others of this check.
pub fn sample(kind: Kind, tag: &str, number: u8) -> Sample {
    let name = match kind {
        // Kinds that have one object only.
        Kind::ClusterInformation | Kind::IPAMConfiguration | Kind::KubeControllersConfiguration => "default".to_owned(),
        Kind::WorkloadEndpoint => {
            calico_api::workload_endpoint_name("node-1", "k8s", &format!("{tag}-{number}"), "eth0")
        }
        _ => format!("{tag}-{number}"),
    };
    let key = match kind {
        Kind::IPAMBlock => Key::Block(cidr(tag, number)),
        Kind::BlockAffinity => Key::Affinity { owner: Owner::Host(format!("{tag}-node")), cidr: cidr(tag, number) },
        Kind::IPAMHandle => Key::Handle(format!("{tag}.Handle-{number}")),
        kind if kind.namespaced() => Key::namespaced(kind, NAMESPACE, name),
        kind => Key::named(kind, name),
    };
    let (first, second) = specs(kind, &key, cidr(tag, number));
    Sample { first: value(&key, first), second: value(&key, second), key }
}

/// The value of a block affinity of any owner.
pub fn affinity(owner: Owner, cidr: IpNet, state: &str) -> (Key, Value) {
    let spec = affinity_spec(&owner, &cidr, state);
    let key = Key::Affinity { owner, cidr };
    let value = value(&key, spec);
    (key, value)
}

fn affinity_spec(owner: &Owner, cidr: &IpNet, state: &str) -> Value {
    json!({"state": state, "node": owner.name(), "type": owner.type_str(), "cidr": cidr.to_string(), "deleted": false})
}

/// A /26 that no other check has.
pub fn cidr(tag: &str, number: u8) -> IpNet {
    let sum = tag.bytes().fold(7_u32, |sum, octet| sum.wrapping_mul(31).wrapping_add(u32::from(octet))) % 0x3fff;
    let network = (10 << 24) | (u32::from(number) << 20 & 0x00f0_0000) | (sum << 6);
    IpNet::new(std::net::Ipv4Addr::from(network).into(), 26).expect("26 is a prefix length").trunc()
}

/// A value with this spec, which may stand beside the metadata.
fn value(key: &Key, spec: Value) -> Value {
    let mut metadata = json!({"name": key.name()});
    if let Some(namespace) = key.namespace() {
        metadata["namespace"] = json!(namespace);
    }
    let kind = key.kind();
    let mut value = json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": metadata});
    match (kind, spec) {
        (Kind::EndpointSlice | Kind::Secret, Value::Object(fields)) => {
            value.as_object_mut().expect("it was just made as one").extend(fields);
        }
        (_, spec) => value["spec"] = spec,
    }
    value
}

/// The first spec, and the second.
fn specs(kind: Kind, key: &Key, cidr: IpNet) -> (Value, Value) {
    let policy = |order: u32| json!({"tier": "default", "order": order, "selector": "all()", "types": ["Ingress"]});
    let staged = |order: u32| {
        let mut spec = policy(order);
        spec["stagedAction"] = json!("Set");
        spec
    };
    let block = |affinity: Value, sequence: u64| {
        json!({"cidr": cidr.to_string(), "affinity": affinity,
            "allocations": vec![Value::Null; 64], "unallocated": (0..64).collect::<Vec<u32>>(), "attributes": [],
            "sequenceNumber": sequence, "sequenceNumberForAllocation": {}, "deleted": false, "strictAffinity": false})
    };
    match kind {
        // What only the cluster's own, `default`, may say is refused in any other.
        Kind::BGPConfiguration => (json!({"logSeverityScreen": "Info"}), json!({"logSeverityScreen": "Debug"})),
        Kind::BGPFilter => {
            let rule =
                |action: &str| json!({"exportV4": [{"action": action, "matchOperator": "In", "cidr": "10.0.0.0/8"}]});
            (rule("Accept"), rule("Reject"))
        }
        Kind::BGPPeer => {
            (json!({"peerIP": "192.0.2.1", "asNumber": 64512}), json!({"peerIP": "192.0.2.1", "asNumber": 64513}))
        }
        Kind::BlockAffinity => match key {
            Key::Affinity { owner, cidr } => {
                (affinity_spec(owner, cidr, "pending"), affinity_spec(owner, cidr, "confirmed"))
            }
            other => unreachable!("an affinity's key is no {other}"),
        },
        Kind::CalicoNodeStatus => {
            let spec = |period: u32| json!({"node": "node-1", "classes": ["BGP"], "updatePeriodSeconds": period});
            (spec(10), spec(20))
        }
        Kind::ClusterInformation => {
            let spec = |words: &str| json!({"clusterGUID": "0123456789abcdef0123456789abcdef", "clusterType": words, "datastoreReady": true});
            (spec("k8s"), spec("k8s,bgp"))
        }
        Kind::FelixConfiguration => (json!({"logSeverityScreen": "Info"}), json!({"logSeverityScreen": "Debug"})),
        Kind::GlobalNetworkPolicy | Kind::NetworkPolicy => (policy(100), policy(200)),
        Kind::StagedGlobalNetworkPolicy | Kind::StagedNetworkPolicy => (staged(100), staged(200)),
        Kind::GlobalNetworkSet | Kind::NetworkSet => {
            (json!({"nets": ["192.0.2.0/24"]}), json!({"nets": ["198.51.100.0/24"]}))
        }
        Kind::HostEndpoint => {
            (json!({"node": "node-1", "interfaceName": "eth0"}), json!({"node": "node-1", "interfaceName": "eth1"}))
        }
        Kind::IPAMBlock => (block(json!("host:node-1"), 1), block(json!("host:node-2"), 2)),
        Kind::IPAMConfiguration => {
            let spec =
                |most: u32| json!({"strictAffinity": true, "autoAllocateBlocks": true, "maxBlocksPerHost": most});
            (spec(4), spec(5))
        }
        Kind::IPAMHandle => {
            let Key::Handle(id) = key else { unreachable!("a handle's key is its id") };
            let spec = |count: u32| json!({"handleID": id, "block": {"10.244.0.0/26": count}, "deleted": false});
            (spec(1), spec(2))
        }
        Kind::IPPool => {
            let spec = |nat: bool| {
                json!({"cidr": cidr.to_string(), "blockSize": 28, "ipipMode": "Never", "vxlanMode": "Never",
                "natOutgoing": nat, "nodeSelector": "all()"})
            };
            (spec(true), spec(false))
        }
        Kind::IPReservation => {
            (json!({"reservedCIDRs": ["192.0.2.0/28"]}), json!({"reservedCIDRs": ["192.0.2.0/28", "192.0.2.64/28"]}))
        }
        Kind::KubeControllersConfiguration => {
            let spec = |period: &str| json!({"controllers": {"node": {"reconcilerPeriod": period}}});
            (spec("5m0s"), spec("6m0s"))
        }
        Kind::Node => {
            (json!({"bgp": {"ipv4Address": "192.0.2.1/24"}}), json!({"bgp": {"ipv4Address": "192.0.2.2/24"}}))
        }
        Kind::Profile => (json!({"labelsToApply": {"a": "b"}}), json!({"labelsToApply": {"a": "c"}})),
        Kind::StagedKubernetesNetworkPolicy => {
            let spec = |kind: &str| json!({"stagedAction": "Set", "podSelector": {}, "policyTypes": [kind]});
            (spec("Ingress"), spec("Egress"))
        }
        Kind::Tier => {
            (json!({"order": 500.0, "defaultAction": "Deny"}), json!({"order": 600.0, "defaultAction": "Deny"}))
        }
        Kind::WorkloadEndpoint => {
            let spec = |address: &str| {
                json!({"orchestrator": "k8s", "node": "node-1", "pod": "web-0", "endpoint": "eth0",
                "ipNetworks": [address], "interfaceName": "cali0123456789a"})
            };
            (spec("10.244.0.1/32"), spec("10.244.0.2/32"))
        }
        Kind::EndpointSlice => {
            let spec = |ready: bool| {
                json!({"addressType": "IPv4", "endpoints":
                [{"addresses": ["10.244.0.1"], "conditions": {"ready": ready}, "nodeName": "node-1"}]})
            };
            (spec(true), spec(false))
        }
        Kind::Secret => (json!({"data": {"rack": "aHVudGVyMg=="}}), json!({"data": {"rack": "aHVudGVyMw=="}})),
        Kind::Service => {
            let spec = |policy: &str| json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "externalTrafficPolicy": policy});
            (spec("Cluster"), spec("Local"))
        }
    }
}
