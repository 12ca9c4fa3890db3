//! The schemas of the custom resources: typed where a wrong value would break the network, open elsewhere.

use calico_api::Kind;
use serde_json::{Value, json};

/// A duration as Go prints it.
const DURATION: &str = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))*$";

/// One sentence about a kind.
pub(crate) fn about(kind: Kind) -> &'static str {
    match kind {
        Kind::BGPConfiguration => "BGP for the whole cluster (default) or for one node (node.<name>).",
        Kind::BGPFilter => "Which routes a BGP peer may send and is sent.",
        Kind::BGPPeer => "A BGP peering of one, some or all nodes.",
        Kind::BlockAffinity => "The claim of a node to a block of addresses.",
        Kind::CalicoNodeStatus => "What a node says of its agent, its BGP sessions and its routes.",
        Kind::ClusterInformation => "Identity, version and readiness of the cluster.",
        Kind::FelixConfiguration => "Settings of the agent, for the cluster (default) or for one node (node.<name>).",
        Kind::GlobalNetworkPolicy => "A policy for endpoints of the whole cluster.",
        Kind::GlobalNetworkSet => "Named networks outside the cluster, for policies of every namespace.",
        Kind::HostEndpoint => "An interface of a node that policies apply to.",
        Kind::IPAMBlock => "A block of addresses and who holds each.",
        Kind::IPAMConfiguration => "Settings of IPAM.",
        Kind::IPAMHandle => "All addresses that were taken under one id.",
        Kind::IPPool => "A range of addresses for workloads, tunnels or load balancers.",
        Kind::IPReservation => "Addresses that are never handed out unless asked for.",
        Kind::KubeControllersConfiguration => "Settings of the cluster's controllers.",
        Kind::NetworkPolicy => "A policy for endpoints of one namespace.",
        Kind::NetworkSet => "Named networks outside the cluster, for policies of one namespace.",
        Kind::StagedGlobalNetworkPolicy => "A GlobalNetworkPolicy that is only reported on.",
        Kind::StagedKubernetesNetworkPolicy => "A Kubernetes NetworkPolicy that is only reported on.",
        Kind::StagedNetworkPolicy => "A NetworkPolicy that is only reported on.",
        Kind::Tier => "Policies that are looked at together.",
        Kind::Node | Kind::Profile | Kind::WorkloadEndpoint => "A view of a core object.",
        Kind::EndpointSlice | Kind::Secret | Kind::Service => "One of Kubernetes' own.",
    }
}

fn string() -> Value {
    json!({"type": "string"})
}

fn text(longest: u32) -> Value {
    json!({"type": "string", "maxLength": longest})
}

fn boolean() -> Value {
    json!({"type": "boolean"})
}

fn integer(least: i64, most: i64) -> Value {
    json!({"type": "integer", "format": "int64", "minimum": least, "maximum": most})
}

fn one_of(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

fn list(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

fn set(items: Value) -> Value {
    json!({"type": "array", "items": items, "x-kubernetes-list-type": "set"})
}

fn map(values: Value) -> Value {
    json!({"type": "object", "additionalProperties": values})
}

fn object(required: &[&str], properties: Value) -> Value {
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// Fields that are named here are typed, others are kept as they are.
fn open(required: &[&str], properties: Value) -> Value {
    let mut schema = object(required, properties);
    schema["x-kubernetes-preserve-unknown-fields"] = json!(true);
    schema
}

fn anything() -> Value {
    json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

fn with(mut schema: Value, field: &str, value: Value) -> Value {
    schema[field] = value;
    schema
}

fn duration() -> Value {
    json!({"type": "string", "pattern": DURATION})
}

/// A number, or a text: of an AS number the dotted spelling, of a port or protocol the name.
fn number_or_text() -> Value {
    // The API server takes `anyOf` with types only in exactly this form.
    json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})
}

fn secret() -> Value {
    let reference = object(&["key"], json!({"name": string(), "key": string(), "optional": boolean()}));
    object(&[], json!({"secretKeyRef": reference}))
}

/// A field that may not be changed once it is set.
fn immutable(schema: Value) -> Value {
    ruled(
        schema,
        &[("self == oldSelf", "it cannot be changed: make another, and delete this one when it is not used any more")],
    )
}

/// With rules over several fields: expressions of CEL that must be true, and what to say if they are not.
fn ruled(schema: Value, rules: &[(&str, &str)]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect();
    with(schema, "x-kubernetes-validations", json!(rules))
}

/// Rules over a whole object of the native group, which no server of Calico's stands before: its name may be used.
pub(crate) fn whole(kind: Kind, schema: Value) -> Value {
    match kind {
        Kind::ClusterInformation | Kind::IPAMConfiguration | Kind::KubeControllersConfiguration => {
            ruled(schema, &[("self.metadata.name == 'default'", "there is one, and it is called default")])
        }
        Kind::BGPConfiguration => ruled(
            schema,
            &[(
                "self.metadata.name == 'default' || !has(self.spec) || !(has(self.spec.nodeToNodeMeshEnabled) || \
                 has(self.spec.asNumber) || has(self.spec.serviceLoadBalancerIPs) || has(self.spec.serviceClusterIPs) || \
                 has(self.spec.serviceExternalIPs) || has(self.spec.nodeMeshPassword) || has(self.spec.nodeMeshMaxRestartTime))",
                "mesh, AS number and service addresses are of the whole cluster: set them in BGPConfiguration default",
            )],
        ),
        Kind::Tier => {
            let built_in = |name: &str, action: &str, order: &str| {
                format!(
                    "self.metadata.name != '{name}' || (has(self.spec) && has(self.spec.defaultAction) && \
                     self.spec.defaultAction == '{action}' && has(self.spec.order) && self.spec.order == {order})"
                )
            };
            let rules = [
                built_in("default", "Deny", "1000000.0"),
                built_in("kube-admin", "Pass", "1000.0"),
                built_in("kube-baseline", "Pass", "10000000.0"),
            ];
            let rules: Vec<_> =
                rules.iter().map(|rule| (&**rule, "order and default action of a built-in tier are fixed")).collect();
            ruled(schema, &rules)
        }
        _ => schema,
    }
}

/// The schema of a kind's `spec`.
pub(crate) fn spec(kind: Kind, native: bool) -> Value {
    match kind {
        Kind::IPAMBlock => block(),
        Kind::BlockAffinity => affinity(native),
        Kind::IPAMHandle => object(
            &["block", "handleID"],
            json!({"handleID": string(), "block": map(json!({"type": "integer"})), "deleted": boolean()}),
        ),
        Kind::IPAMConfiguration => ipam_configuration(native),
        Kind::IPPool => pool(),
        Kind::IPReservation => object(&[], json!({"reservedCIDRs": set(string())})),
        Kind::BGPConfiguration => bgp_configuration(),
        Kind::BGPPeer => bgp_peer(),
        Kind::BGPFilter => bgp_filter(),
        Kind::ClusterInformation => object(
            &[],
            json!({
                "calicoVersion": string(), "clusterGUID": string(), "clusterType": string(),
                "datastoreReady": boolean(), "variant": string(),
            }),
        ),
        Kind::CalicoNodeStatus => object(
            &[],
            json!({
                "node": string(), "classes": list(one_of(&["Agent", "BGP", "Routes"])),
                "updatePeriodSeconds": integer(0, 86_400),
            }),
        ),
        Kind::Tier => {
            object(&[], json!({"order": {"type": "number"}, "defaultAction": one_of(&["Allow", "Deny", "Pass"])}))
        }
        Kind::HostEndpoint => host_endpoint(),
        Kind::NetworkSet | Kind::GlobalNetworkSet => object(&[], json!({"nets": set(string())})),
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => policy(),
        _ => anything(),
    }
}

/// The schema of a kind's `status`.
pub(crate) fn status(kind: Kind) -> Value {
    match kind {
        Kind::IPPool | Kind::Tier => {
            let condition = object(
                &["type", "status", "lastTransitionTime", "reason", "message"],
                json!({
                    "type": text(316), "status": one_of(&["True", "False", "Unknown"]), "reason": text(1024),
                    "message": text(32_768), "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "observedGeneration": integer(0, i64::MAX),
                }),
            );
            let mut conditions = list(condition);
            conditions["x-kubernetes-list-type"] = json!("map");
            conditions["x-kubernetes-list-map-keys"] = json!(["type"]);
            object(&[], json!({"conditions": conditions}))
        }
        _ => anything(),
    }
}

fn block() -> Value {
    let attribute = object(
        &[],
        json!({
            "handle_id": with(string(), "nullable", json!(true)),
            "secondary": with(map(string()), "nullable", json!(true)),
            "alternateOwnerAttrs": with(map(string()), "nullable", json!(true)),
            "releasedAt": {"type": "string", "format": "date-time", "nullable": true},
        }),
    );
    object(
        &["allocations", "attributes", "cidr", "strictAffinity", "unallocated"],
        json!({
            "cidr": string(),
            "affinity": with(string(), "nullable", json!(true)),
            "affinityClaimTime": {"type": "string", "format": "date-time", "nullable": true},
            "allocations": list(json!({"type": "integer", "nullable": true})),
            "unallocated": list(json!({"type": "integer"})),
            "attributes": list(attribute),
            "sequenceNumber": {"type": "integer", "format": "int64", "default": 0},
            "sequenceNumberForAllocation": map(json!({"type": "integer", "format": "int64"})),
            "deleted": boolean(),
            "strictAffinity": boolean(),
        }),
    )
}

fn affinity(native: bool) -> Value {
    let deleted = if native { with(boolean(), "default", json!(false)) } else { string() };
    let required: &[&str] = if native { &["cidr", "node", "state"] } else { &["cidr", "deleted", "node", "state"] };
    object(
        required,
        json!({"cidr": string(), "node": string(), "state": string(), "type": string(), "deleted": deleted}),
    )
}

fn ipam_configuration(native: bool) -> Value {
    let mut properties = json!({
        "strictAffinity": boolean(),
        "autoAllocateBlocks": boolean(),
        "maxBlocksPerHost": integer(0, if native { 1_000_000 } else { i64::from(i32::MAX) }),
        "kubeVirtVMAddressPersistence": one_of(&["Enabled", "Disabled"]),
        "ipCooldownSeconds": integer(0, 1200),
    });
    if !native {
        return object(&["autoAllocateBlocks", "strictAffinity"], properties);
    }
    for (field, default) in
        [("strictAffinity", json!(false)), ("autoAllocateBlocks", json!(true)), ("maxBlocksPerHost", json!(0))]
    {
        properties[field]["default"] = default;
    }
    object(&[], properties)
}

fn pool() -> Value {
    let mut modes = json!({});
    for field in ["ipipMode", "vxlanMode"] {
        modes[field] = one_of(&["Never", "Always", "CrossSubnet"]);
    }
    let uses = with(set(one_of(&["Workload", "Tunnel", "LoadBalancer"])), "maxItems", json!(10));
    let pool = object(
        &["cidr"],
        json!({
            "cidr": immutable(with(text(48), "format", json!("cidr"))),
            "blockSize": immutable(integer(0, 128)),
            "ipipMode": modes["ipipMode"],
            "vxlanMode": modes["vxlanMode"],
            "natOutgoing": boolean(),
            "disabled": boolean(),
            "disableBGPExport": boolean(),
            "nodeSelector": text(1024),
            "namespaceSelector": text(1024),
            "allowedUses": uses,
            "assignmentMode": one_of(&["Automatic", "Manual"]),
        }),
    );
    let balancer = |what: &str| format!("!has(self.allowedUses) || !('LoadBalancer' in self.allowedUses) || ({what})");
    let plain =
        "(!has(self.ipipMode) || self.ipipMode == 'Never') && (!has(self.vxlanMode) || self.vxlanMode == 'Never')";
    ruled(
        pool,
        &[
            (
                "!has(self.ipipMode) || self.ipipMode == 'Never' || !has(self.vxlanMode) || self.vxlanMode == 'Never'",
                "ipipMode and vxlanMode cannot both be on",
            ),
            (
                "!has(self.ipipMode) || self.ipipMode == 'Never' || !self.cidr.contains(':')",
                "IPIP carries IPv4 alone: leave ipipMode out, or Never",
            ),
            (
                "!has(self.blockSize) || self.blockSize == 0 || (self.cidr.contains(':') ? (self.blockSize >= 116 && \
                 self.blockSize <= 128) : (self.blockSize >= 20 && self.blockSize <= 32))",
                "blockSize is 20 to 32 for IPv4, 116 to 128 for IPv6",
            ),
            (
                "(has(self.disabled) && self.disabled) || !has(self.blockSize) || self.blockSize == 0 || \
                 int(self.cidr.split('/')[1]) <= self.blockSize",
                "the pool is smaller than one of its blocks",
            ),
            (&balancer("self.allowedUses.size() == 1"), "the use LoadBalancer goes with no other"),
            (
                &balancer(plain),
                "addresses of load balancers are not encapsulated: ipipMode and vxlanMode must be Never",
            ),
            (
                &balancer("!has(self.disableBGPExport) || !self.disableBGPExport"),
                "addresses of load balancers are exported: disableBGPExport must be false",
            ),
            (
                &balancer("!has(self.nodeSelector) || self.nodeSelector == '' || self.nodeSelector == 'all()'"),
                "addresses of load balancers are of no node: nodeSelector must be all()",
            ),
            (
                "!has(oldSelf.allowedUses) || !('LoadBalancer' in oldSelf.allowedUses) || (has(self.allowedUses) && \
                 'LoadBalancer' in self.allowedUses)",
                "a pool of load balancers stays one",
            ),
        ],
    )
}

fn bgp_configuration() -> Value {
    let services = || list(object(&[], json!({"cidr": string()})));
    let community = object(
        &[],
        json!({"name": string(), "value": {"type": "string", "pattern": r"^(\d+):(\d+)$|^(\d+):(\d+):(\d+)$"}}),
    );
    let advertisement =
        object(&[], json!({"cidr": string(), "communities": with(list(string()), "maxItems", json!(50))}));
    object(
        &[],
        json!({
            "logSeverityScreen": {"type": "string", "pattern": "^(?i)(Trace|Debug|Info|Warning|Error|Fatal)?$"},
            "nodeToNodeMeshEnabled": boolean(),
            "asNumber": number_or_text(),
            "serviceLoadBalancerIPs": services(),
            "serviceExternalIPs": services(),
            "serviceClusterIPs": services(),
            "serviceLoadBalancerAggregation": one_of(&["Enabled", "Disabled"]),
            "communities": with(list(community), "maxItems", json!(500)),
            "prefixAdvertisements": with(list(advertisement), "maxItems", json!(500)),
            "listenPort": integer(1, 65_535),
            "nodeMeshPassword": secret(),
            "nodeMeshMaxRestartTime": duration(),
            "bindMode": one_of(&["None", "NodeIP"]),
            "ignoredInterfaces": set(string()),
            "localWorkloadPeeringIPV4": string(),
            "localWorkloadPeeringIPV6": string(),
            "programClusterRoutes": one_of(&["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"]),
            "ipv4NormalRoutePriority": integer(1, 2_147_483_646),
            "ipv6NormalRoutePriority": integer(1, 2_147_483_646),
        }),
    )
}

fn bgp_peer() -> Value {
    let peer = object(
        &[],
        json!({
            "node": text(253),
            "nodeSelector": text(1024),
            "peerIP": text(64),
            "peerSelector": text(1024),
            "localWorkloadSelector": text(1024),
            "asNumber": number_or_text(),
            "localASNumber": number_or_text(),
            "keepOriginalNextHop": boolean(),
            "nextHopMode": one_of(&["Auto", "Self", "Keep"]),
            "password": secret(),
            "sourceAddress": one_of(&["UseNodeIP", "None"]),
            "maxRestartTime": duration(),
            "keepaliveTime": duration(),
            "numAllowedLocalASNumbers": integer(0, i64::from(i32::MAX)),
            "ttlSecurity": integer(0, 255),
            "reachableBy": text(64),
            "filters": list(string()),
            "reversePeering": one_of(&["Auto", "Manual"]),
        }),
    );
    let set = |field: &str| format!("(has(self.{field}) && self.{field} != '')");
    let both = |one: &str, other: &str| format!("!{} || !{}", set(one), set(other));
    // 0, which old clients write, is none.
    let as_number = "has(self.asNumber) && self.asNumber != 0";
    ruled(
        peer,
        &[
            (&both("node", "nodeSelector"), "node and nodeSelector exclude each other"),
            (&both("peerIP", "peerSelector"), "peerIP and peerSelector exclude each other"),
            (
                &format!("!{} || !({as_number})", set("peerSelector")),
                "the AS numbers of peers that are nodes are those of the nodes: leave asNumber out",
            ),
            (&both("localWorkloadSelector", "peerIP"), "localWorkloadSelector and peerIP exclude each other"),
            (
                &both("localWorkloadSelector", "peerSelector"),
                "localWorkloadSelector and peerSelector exclude each other",
            ),
            (&format!("!{} || ({as_number})", set("localWorkloadSelector")), "localWorkloadSelector needs asNumber"),
            (&format!("!{} || {}", set("reachableBy"), set("peerIP")), "reachableBy needs peerIP"),
            (
                "!has(self.keepOriginalNextHop) || !self.keepOriginalNextHop || !has(self.nextHopMode)",
                "nextHopMode says what keepOriginalNextHop said: leave the latter out",
            ),
        ],
    )
}

fn bgp_filter() -> Value {
    let rules = |longest: i64| {
        let operation = object(
            &[],
            json!({
                "addCommunity": object(&["value"], json!({"value": string()})),
                "prependASPath": object(&["prefix"], json!({"prefix": with(list(number_or_text()), "maxItems", json!(10))})),
                "setPriority": object(&["value"], json!({"value": integer(1, 2_147_483_646)})),
            }),
        );
        let length = object(&[], json!({"min": integer(0, longest), "max": integer(0, longest)}));
        let rule = object(
            &["action"],
            json!({
                "action": one_of(&["Accept", "Reject"]),
                "cidr": string(),
                "matchOperator": one_of(&["Equal", "NotEqual", "In", "NotIn"]),
                "prefixLength": length,
                "source": one_of(&["RemotePeers"]),
                "interface": text(15),
                "peerType": one_of(&["eBGP", "iBGP"]),
                "communities": object(&[], json!({"values": with(list(string()), "maxItems", json!(1))})),
                "asPathPrefix": list(number_or_text()),
                "priority": integer(1, 2_147_483_646),
                "operations": with(list(operation), "maxItems", json!(10)),
            }),
        );
        list(ruled(
            rule,
            &[
                ("has(self.cidr) == has(self.matchOperator)", "cidr and matchOperator go together"),
                ("!has(self.prefixLength) || has(self.cidr)", "prefixLength needs cidr"),
                (
                    "!has(self.operations) || self.action == 'Accept'",
                    "what is rejected is not changed: operations need Accept",
                ),
            ],
        ))
    };
    object(&[], json!({"exportV4": rules(32), "importV4": rules(32), "exportV6": rules(128), "importV6": rules(128)}))
}

fn host_endpoint() -> Value {
    let port = object(
        &["name", "port", "protocol"],
        json!({"name": string(), "port": integer(0, 65_535), "protocol": number_or_text()}),
    );
    object(
        &[],
        json!({
            "node": text(253), "interfaceName": text(15), "expectedIPs": list(string()),
            "profiles": list(string()), "ports": list(port),
        }),
    )
}

/// Policies: what orders and selects them is typed; their rules are kept as they are.
fn policy() -> Value {
    let types = with(set(one_of(&["Ingress", "Egress"])), "maxItems", json!(2));
    open(
        &[],
        json!({
            "tier": string(), "order": {"type": "number", "nullable": true}, "selector": text(1024), "types": types,
            "ingress": with(list(anything()), "maxItems", json!(1024)),
            "egress": with(list(anything()), "maxItems", json!(1024)),
        }),
    )
}
