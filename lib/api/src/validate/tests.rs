mod bgp;

use super::*;
use crate::{IPPool, documents};

fn resource(kind: &str, metadata: &str, spec: &str) -> AnyResource {
    let text = format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n");
    documents(&text).unwrap_or_else(|error| panic!("{text}: {error}")).remove(0)
}

/// The fields that are wrong with the reasons' beginnings, `Field: reason`.
#[track_caller]
fn check(resource: &AnyResource, expected: &[&str]) {
    let found = validate(resource);
    let matches = found.len() == expected.len()
        && found.iter().zip(expected).all(|(fault, expected)| {
            let (field, reason) = expected.split_once(": ").unwrap_or((expected, ""));
            fault.field == field && fault.reason.contains(reason)
        });
    assert!(matches, "found {found:#?}, expected {expected:#?}");
}

#[track_caller]
fn check_spec(kind: &str, spec: &str, expected: &[&str]) {
    let metadata =
        if crate::Kind::from_name(kind).unwrap().namespaced() { "{name: a, namespace: b}" } else { "{name: a}" };
    check(&resource(kind, metadata, spec), expected);
}

#[test]
fn names_labels_and_annotations_are_those_of_kubernetes() {
    let check_name = |kind: &str, name: &str, sound: bool| {
        let namespace = if crate::Kind::from_name(kind).unwrap().namespaced() { ", namespace: b" } else { "" };
        let spec = if kind == "BGPPeer" { "{peerSelector: all()}" } else { "{}" };
        let found = validate(&resource(kind, &format!("{{name: '{name}'{namespace}}}"), spec));
        assert_eq!(found.is_empty(), sound, "{kind} {name}: {found:?}");
    };
    check_name("BGPPeer", "rack-a.1", true);
    check_name("BGPPeer", &["a"; 126].join("."), true);
    check_name("BGPPeer", &["a"; 128].join("."), false);
    for wrong in ["", "A", "a_b", "-a", "a-", "a..b", ".a", "ä"] {
        check_name("BGPPeer", wrong, false);
    }
    check_name("Tier", &"a".repeat(63), true);
    check_name("Tier", &"a".repeat(64), false);
    check_name("Tier", "a.b", false);
    check_name("GlobalNetworkPolicy", "a.b", true);
    check_name("GlobalNetworkPolicy", "a.b.c", false);
    check_name("NetworkPolicy", "a.b", true);
    check_name("NetworkPolicy", "knp.default.a.b.c", true);
    check_name("NetworkPolicy", "ossg.default.a.b.c", true);
    check_name("NetworkPolicy", "knp.other.c", false);
    check(&resource("NetworkSet", "{name: a}", "{}"), &["Metadata.Namespace: must be given"]);
    check(&resource("Tier", "{name: a, namespace: b}", "{}"), &["Metadata.Namespace: must not be given"]);
    let labels = "{name: a, labels: {'a.b/C_d.e': 'x_Y.z', ok: ''}, annotations: {'A.b/c': 'any thing'}}";
    check(&resource("BGPPeer", labels, "{peerSelector: all()}"), &[]);
    for wrong in ["'/a': b", "'a/': b", "'a b': c", "'a/b/c': d", "'A/b': c"] {
        check(&resource("BGPFilter", &format!("{{name: a, labels: {{{wrong}}}}}"), "{}"), &["Metadata.Labels (label)"]);
    }
    let long = format!("{{name: a, labels: {{a: {}, b: -c}}, annotations: {{'a b': c}}}}", "x".repeat(64));
    check(
        &resource("BGPFilter", &long, "{}"),
        &["Metadata.Labels (value)", "Metadata.Labels (value)", "Metadata.Annotations (key)"],
    );
    let large = format!("{{name: a, annotations: {{a: {}}}}}", "x".repeat(256 << 10));
    check(&resource("BGPFilter", &large, "{}"), &["Metadata.Annotations: too large by 1 bytes"]);
}

#[test]
fn creating_and_updating_need_other_metadata() {
    let names = |faults: Vec<FieldError>| faults.into_iter().map(|fault| fault.field).collect::<Vec<_>>();
    let mut metadata = crate::ObjectMeta::named("a");
    assert_eq!(names(validate_metadata_for_create(&metadata)), [""; 0]);
    assert_eq!(validate_metadata_for_update(&metadata).len(), 3);
    metadata.resource_version = Some("7".into());
    metadata.uid = Some("u".into());
    metadata.creation_timestamp = Some("2026-08-22T13:00:00Z".into());
    assert_eq!(names(validate_metadata_for_create(&metadata)), ["Metadata.ResourceVersion"]);
    assert_eq!(names(validate_metadata_for_update(&metadata)), [""; 0]);
}

#[test]
fn errors_read_as_those_of_calico() {
    let faults = validate(&resource("BGPPeer", "{name: a}", "{peerIP: badpeerIP}"));
    let error = ValidationError::check(faults).unwrap_err();
    assert_eq!(
        error.to_string(),
        "error with field PeerIP = 'badpeerIP' (must be an address, IPv4:port or [IPv6]:port, with a port from 1 to 65535)",
    );
    let faults = validate(&resource("BGPPeer", "{name: a}", "{peerIP: x, sourceAddress: y, asNumber: 1}"));
    let lines: Vec<String> =
        ValidationError::check(faults).unwrap_err().to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], "error with the following fields:");
    assert!(lines[1].starts_with("-  SourceAddress = 'y' ("), "{lines:?}");
    assert!(ValidationError::check(Vec::new()).is_ok());
}

#[test]
fn pools_are_checked_alone() {
    for (spec, expected) in [
        ("{cidr: 10.0.0.0/16}", [].as_slice()),
        ("{cidr: 'fd00::/48', blockSize: 122, vxlanMode: Always, nodeSelector: '', namespaceSelector: has(a)}", &[]),
        ("{cidr: ''}", &["IPpool.CIDR: must be specified"]),
        ("{natOutgoing: true}", &["IPpool.CIDR: must be specified"]),
        ("{cidr: 10.0.0.0}", &["IPpool.CIDR: must be a valid subnet"]),
        ("{cidr: 10.0.0.1/16}", &["IPpool.CIDR: not strictly masked: write 10.0.0.0/16"]),
        ("{cidr: 169.254.7.0/24}", &["IPpool.CIDR: link-local range 169.254.0.0/16"]),
        ("{cidr: 169.0.0.0/8}", &["IPpool.CIDR: link-local"]),
        ("{cidr: 'fe80:1::/64'}", &["IPpool.CIDR: link-local range fe80::/10"]),
        ("{cidr: 10.0.0.0/16, blockSize: 0}", &[]),
        ("{cidr: 10.0.0.0/8, blockSize: 20}", &[]),
        ("{cidr: 10.0.0.0/16, blockSize: 19}", &["IPpool.BlockSize: from 20 to 32"]),
        ("{cidr: 10.0.0.0/16, blockSize: 33}", &["IPpool.BlockSize"]),
        ("{cidr: 'fd00::/48', blockSize: 115}", &["IPpool.BlockSize: from 116 to 128"]),
        ("{cidr: 10.0.0.0/27}", &["IPpool.CIDR: too small"]),
        ("{cidr: 10.0.0.0/27, disabled: true}", &[]),
        ("{cidr: 10.0.0.0/27, blockSize: 27}", &[]),
        ("{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: Never}", &[]),
        ("{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet}", &["IPpool.IPIPMode: cannot both"]),
        ("{cidr: 'fd00::/48', ipipMode: CrossSubnet}", &["IPpool.IPIPMode: not supported on an IPv6"]),
        ("{cidr: 10.0.0.0/16, nodeSelector: 'a ='}", &["IPpool.NodeSelector: is not a selector"]),
        ("{cidr: 10.0.0.0/16, nodeSelector: global()}", &["IPpool.NodeSelector: global()"]),
        ("{cidr: 10.0.0.0/16, namespaceSelector: 'has(a) && global()'}", &["IPpool.NamespaceSelector: global()"]),
        ("{cidr: 10.0.0.0/16, allowedUses: [Tunnel], namespaceSelector: has(a)}", &["IPpool.AllowedUses: Tunnel"]),
        ("{cidr: 10.0.0.0/16, allowedUses: [Tunnel, Tunnel]}", &["IPpool.AllowedUses: more than once"]),
        ("{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: ' all( )'}", &[]),
        ("{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer, Workload]}", &["IPpool.AllowedUses: combined"]),
        (
            "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], vxlanMode: Always, disableBGPExport: true, nodeSelector: has(a)}",
            &["IPpool.AllowedUses: IPIP or VXLAN", "IPpool.DisableBGPExport", "IPpool.NodeSelector: all()"],
        ),
    ] {
        check_spec("IPPool", spec, expected);
    }
    let long = format!("{{cidr: 10.0.0.0/16, nodeSelector: \"a == '{}'\"}}", "x".repeat(1024));
    check_spec("IPPool", &long, &["IPpool.NodeSelector: 1024 characters"]);
}

fn pool(name: &str, spec: &str) -> IPPool {
    resource("IPPool", &format!("{{name: {name}}}"), spec).into_typed().unwrap()
}

#[test]
fn pools_are_checked_among_others_and_against_what_they_were() {
    let reasons = |faults: Vec<FieldError>| {
        faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.reason)).collect::<Vec<_>>()
    };
    let a = pool("a", "{cidr: 10.0.0.0/16}");
    let inside = pool("b", "{cidr: 10.0.8.0/24}");
    let beside = pool("c", "{cidr: 10.1.0.0/16}");
    assert_eq!(reasons(validate_pool_among(&a, [&a, &beside])), [""; 0]);
    assert_eq!(
        reasons(validate_pool_among(&a, [&inside, &beside])),
        ["IPPool.Spec.CIDR: IPPool(a) CIDR overlaps with IPPool(b) CIDR 10.0.8.0/24"],
    );
    let block = |text: &str| text.parse::<IpNet>().unwrap();
    assert!(validate_pool_blocks(&a, [block("10.0.1.0/26"), block("10.1.0.0/28")]).is_empty());
    let clash = reasons(validate_pool_blocks(&a, [block("10.0.1.0/26"), block("10.0.2.0/28")]));
    assert!(clash[0].starts_with("IPPool.Spec.BlockSize: ") && clash[0].ends_with("10.0.2.0/28"), "{clash:?}");

    let check_update = |stored: &str, new: &str, expected: &[&str]| {
        let faults = validate_pool_update(&pool("a", new), &pool("a", stored));
        assert_eq!(faults.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(), expected, "{stored} to {new}");
    };
    check_update("{cidr: 10.0.0.0/16}", "{cidr: 10.0.0.0/16, blockSize: 26, natOutgoing: true}", &[]);
    check_update("{cidr: 'FD00:0::/48'}", "{cidr: 'fd00::/48'}", &[]);
    check_update("{cidr: 'fd00::/48'}", "{cidr: 'FD00:0::/48'}", &["IPPool.Spec.CIDR"]);
    check_update("{cidr: 10.0.0.0/16}", "{cidr: 10.0.0.0/15}", &["IPPool.Spec.CIDR"]);
    check_update("{cidr: 10.0.0.0/16}", "{cidr: 10.0.0.0/16, blockSize: 27}", &["IPPool.Spec.BlockSize"]);
    let balancer = "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer]}";
    check_update(balancer, balancer, &[]);
    check_update(balancer, "{cidr: 10.0.0.0/16}", &["IPPool.Spec.AllowedUses"]);
    check_update(balancer, "{cidr: 10.0.0.0/16, allowedUses: [Workload]}", &["IPPool.Spec.AllowedUses"]);
}

#[test]
fn nodes_and_kinds_of_few_fields_are_checked() {
    check_spec("Node", "{bgp: {asNumber: 0, routeReflectorClusterID: 244.0.0.1}}", &["ASNumber: 0 is no AS"]);
    check_spec("Node", "{bgp: {routeReflectorClusterID: 'fd00::1'}}", &["RouteReflectorClusterID: IPv4"]);
    check_spec("Node", "{bgp: {}}", &["BGP: must not be empty"]);
    check_spec("Node", "{bgp: {ipv4Address: 10.0.0.1, ipv6Address: 'fd00::1/64'}}", &[]);
    check_spec(
        "Node",
        "{bgp: {ipv4Address: 'fd00::1', ipv6Address: 10.0.0.1/24, routeReflectorClusterID: x}, vxlanTunnelMACAddr: 1:2, ipv6VXLANTunnelAddr: 10.0.0.1}",
        &["IPv4Address", "IPv6Address", "RouteReflectorClusterID", "IPv6VXLANTunnelAddr", "VXLANTunnelMACAddr"],
    );
    check_spec("Node", "{addresses: [{address: 10.0.0.1, type: Home}, {address: there}]}", &["Type", "Address"]);
    check_spec(
        "IPReservation",
        "{reservedCIDRs: [10.0.0.0/24, 10.0.0.7, 10.0.0.7/24, x]}",
        &["ReservedCIDRs", "ReservedCIDRs"],
    );
    check_spec("ClusterInformation", "{clusterGUID: 'x y'}", &["Metadata.Name: must be default", "ClusterGUID"]);
    check(
        &resource(
            "IPAMConfiguration",
            "{name: default}",
            "{ipCooldownSeconds: 1201, kubeVirtVMAddressPersistence: Yes, maxBlocksPerHost: 4294967295}",
        ),
        &["MaxBlocksPerHost", "IPCooldownSeconds", "KubeVirtVMAddressPersistence"],
    );
    check(&resource("Tier", "{name: kube-admin}", "{order: 1000, defaultAction: Pass}"), &[]);
    check(
        &resource("Tier", "{name: default}", "{order: 5, defaultAction: Log}"),
        &["DefaultAction", "Order", "DefaultAction"],
    );
    check_spec("HostEndpoint", "{node: a}", &["InterfaceName: must be given"]);
    check_spec(
        "HostEndpoint",
        "{interfaceName: '*', ports: [{name: a, protocol: ICMP, port: 0}]}",
        &["Node", "Port", "EndpointPort.Protocol"],
    );
    check_spec(
        "CalicoNodeStatus",
        "{node: a, classes: [BGP, Weather], updatePeriodSeconds: 86401}",
        &["Classes", "UpdatePeriodSeconds"],
    );
    check(
        &resource("GlobalNetworkSet", "{name: a, labels: {projectcalico.org/namespace: b}}", "{nets: [10.0.0.1/8]}"),
        &["Nets", "Metadata.Labels (label)"],
    );
    check(
        &resource(
            "FelixConfiguration",
            "{name: default}",
            "{nodeSelector: has(a), chainInsertMode: INSERT, ipForwarding: x, routeTableRanges: [{min: 250, max: 260}, {min: 5, max: 1}]}",
        ),
        &["NodeSelector", "IPForwarding", "RouteTableRanges: kernel's own", "RouteTableRanges: upwards"],
    );
    let endpoint = "{orchestrator: k8s, node: n-1, pod: web-0, endpoint: eth0, ipNetworks: [10.0.0.1/32, 10.0.0.0/24], ipNATs: [{internalIP: 10.0.0.9, externalIP: 'fd00::1'}]}";
    check(
        &resource("WorkloadEndpoint", "{name: n--1-k8s-web--0-eth0, namespace: a}", endpoint),
        &["IPNetworks", "ExternalIP"],
    );
}

#[test]
fn tunnels_numbers_are_checked() {
    for (spec, expected) in [
        ("{vxlanPort: 4789, vxlanVNI: 16777215, vxlanMTU: 1450, vxlanMTUV6: 1430, ipipMTU: 1480}", [].as_slice()),
        ("{vxlanMTU: 0, vxlanMTUV6: 0, ipipMTU: 0}", &[]),
        ("{vxlanPort: 0, vxlanVNI: 0}", &["VXLANPort: from 1 to 65535", "VXLANVNI: from 1 to 16777215"]),
        ("{vxlanPort: 65536, vxlanVNI: 16777216}", &["VXLANPort", "VXLANVNI"]),
        (
            "{vxlanMTU: 1279, vxlanMTUV6: 1279, ipipMTU: 1279}",
            &["IPIPMTU: 1280, the least for IPv6 (ipv6Support", "VXLANMTU: 1280", "VXLANMTUV6: 1280"],
        ),
        ("{vxlanMTU: 1279, ipipMTU: 576, ipv6Support: false}", &[]),
        (
            "{vxlanMTU: 575, vxlanMTUV6: 65536, ipipMTU: -1, ipv6Support: false}",
            &["IPIPMTU: 576", "VXLANMTU: 576", "VXLANMTUV6: 65535"],
        ),
        ("{wireguardEnabled: true, vxlanPort: 51820}", &["VXLANPort: wireguardListeningPort too"]),
        ("{wireguardEnabledV6: true, wireguardListeningPortV6: 4789}", &["VXLANPort: wireguardListeningPortV6 too"]),
        ("{wireguardEnabled: false, vxlanPort: 51820}", &[]),
        ("{natPortRange: '1000:2000', natOutgoingAddress: 192.0.2.1, iptablesNATOutgoingInterfaceFilter: eth+}", &[]),
        (
            "{natPortRange: http, natOutgoingAddress: 'fd00::1', iptablesNATOutgoingInterfaceFilter: 'eth0 or so'}",
            &["NATOutgoingAddress", "IptablesNATOutgoingInterfaceFilter: name", "NATPortRange: a number or a range"],
        ),
        ("{externalNodesList: [198.51.100.0/24, x]}", &["ExternalNodesCIDRList: IPv4 network"]),
        ("{programClusterRoutes: EnabledIPIPOnly}", &[]),
        ("{programClusterRoutes: Maybe}", &["ProgramClusterRoutes: EnabledNoEncapOnly"]),
    ] {
        check(&resource("FelixConfiguration", "{name: default}", spec), expected);
    }
}

#[test]
fn policies_are_checked() {
    for (kind, spec, expected) in [
        ("NetworkPolicy", "{types: [Egress, Egress]}", ["NetworkPolicySpec.Types"].as_slice()),
        ("NetworkPolicy", "{selector: global()}", &["Selector: global()"]),
        ("NetworkPolicy", "{performanceHints: [Hurry]}", &["PerformanceHints"]),
        (
            "GlobalNetworkPolicy",
            "{doNotTrack: true, preDNAT: true, applyOnForward: true}",
            &["DoNotTrack: cannot both"],
        ),
        (
            "GlobalNetworkPolicy",
            "{preDNAT: true, egress: [{action: Deny}]}",
            &["PreDNAT: egress", "PreDNAT: needs applyOnForward"],
        ),
        ("StagedNetworkPolicy", "{stagedAction: Delete, tier: a, types: [Ingress]}", &[]),
        ("StagedNetworkPolicy", "{stagedAction: Delete, selector: all()}", &["StagedNetworkPolicySpec: must be empty"]),
        ("StagedGlobalNetworkPolicy", "{stagedAction: Delete, order: 1}", &["StagedGlobalNetworkPolicySpec"]),
        ("StagedKubernetesNetworkPolicy", "{ingress: [{from: [{ipBlock: {cidr: x}}]}]}", &["IPBlock.CIDR"]),
    ] {
        check_spec(kind, spec, expected);
    }
    for (rule, expected) in [
        ("{action: Allow, destination: {ports: [http]}}", [].as_slice()),
        ("{action: Allow, protocol: tcp, destination: {ports: [1, '2:3', http]}}", &[]),
        ("{action: Allow, destination: {ports: [80]}}", &["Destination.Ports: needs a protocol"]),
        ("{action: Allow, protocol: ICMP, source: {notPorts: [80]}}", &["Source.NotPorts: goes only with"]),
        ("{action: Allow, protocol: TCP, source: {ports: [0]}}", &["Source.Ports: from 1 to 65535"]),
        ("{action: Allow, protocol: QUIC}", &["Protocol"]),
        ("{action: Allow, protocol: 0}", &["Protocol"]),
        ("{action: Allow, icmp: {type: 8}}", &["ICMP: needs the protocol"]),
        ("{action: Allow, protocol: ICMP, icmp: {type: 255, code: 256}}", &["ICMP.Type", "ICMP.Code"]),
        ("{action: Allow, protocol: ICMP, icmp: {code: 0}}", &["ICMP.Code: needs a type"]),
        ("{action: Allow, protocol: ICMP, ipVersion: 6}", &["IPVersion"]),
        ("{action: Allow, protocol: ICMPv6, ipVersion: 4}", &["IPVersion"]),
        ("{action: Allow, ipVersion: 5}", &["IPVersion"]),
        ("{action: Allow, source: {nets: [10.0.0.1/8, x]}}", &["Source.Nets", "Source.Nets"]),
        (
            "{action: Allow, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}}",
            &["Destination.Nets: mixes"],
        ),
        ("{action: Allow, ipVersion: 6, source: {nets: [10.0.0.0/8]}}", &["Source.Nets: ipVersion"]),
        ("{action: Allow, source: {notNets: [0.0.0.0/0]}}", &["Source.NotNets: match nothing"]),
        ("{action: Allow, source: {namespaceSelector: 'global()'}}", &[]),
        ("{action: Allow, source: {namespaceSelector: 'global() || has(a)'}}", &["Source.NamespaceSelector: global()"]),
        ("{action: Allow, source: {selector: global()}}", &["Source.Selector: global()"]),
        (
            "{action: Deny, http: {methods: [GET, GET], paths: [{exact: a}, {exact: /a, prefix: /b}]}}",
            &["HTTP", "Methods", "Paths", "Paths"],
        ),
        ("{action: Allow, protocol: UDP, http: {paths: [{prefix: '/a?b'}]}}", &["HTTP", "Paths"]),
        ("{action: Allow, source: {services: {name: a}}}", &[]),
        ("{action: Allow, source: {services: {namespace: b}}}", &["Source.Services.Name"]),
        ("{action: Allow, destination: {services: {name: a}}}", &["Destination.Services: egress"]),
        (
            "{action: Allow, source: {services: {name: a}, nets: [10.0.0.0/8], selector: has(b)}}",
            &["Source.Services: beside nets", "Source.Services: beside selector"],
        ),
    ] {
        check_spec("NetworkPolicy", &format!("{{ingress: [{rule}]}}"), expected);
    }
    check_spec(
        "GlobalNetworkPolicy",
        "{egress: [{action: Allow, destination: {services: {name: a}}}]}",
        &["Destination.Services.Namespace"],
    );
    check_spec("NetworkPolicy", "{egress: [{action: Allow, http: {}}]}", &["HTTP: egress"]);
    let rules = vec!["{action: Deny}"; 1025].join(",");
    check_spec("NetworkPolicy", &format!("{{egress: [{rules}]}}"), &["Egress: 1024"]);
}
