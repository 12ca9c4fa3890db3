//! BGP settings, peers and filters.

use super::*;

#[test]
fn peers_are_checked() {
    for (spec, expected) in [
        ("{peerIP: 192.0.2.1, asNumber: 65000, node: worker-1}", [].as_slice()),
        ("{peerIP: '192.0.2.1:1179', asNumber: 1, reachableBy: 192.0.2.9}", &[]),
        ("{peerIP: '[2001:db8::1]:65535', asNumber: '1.10'}", &[]),
        ("{peerIP: 'fe80::1', asNumber: 1}", &[]),
        ("{peerSelector: has(reflector), nodeSelector: all()}", &[]),
        ("{peerSelector: all(), asNumber: 0}", &[]),
        ("{localWorkloadSelector: has(a), asNumber: 1}", &[]),
        ("{node: a, nodeSelector: all(), peerSelector: all()}", &["Node: cannot both"]),
        // Exactly one way to say who the peer is.
        ("{}", &["PeerIP: or peerSelector, or localWorkloadSelector"]),
        ("{node: a, asNumber: 1, peerIP: ''}", &["PeerIP: or peerSelector"]),
        ("{peerIP: 192.0.2.1, peerSelector: all()}", &["PeerIP: cannot both", "ASNumber: when peerIP is set"]),
        (
            "{localWorkloadSelector: has(a), peerIP: 192.0.2.1, asNumber: 1}",
            &["PeerIP: must be empty when localWorkloadSelector"],
        ),
        ("{localWorkloadSelector: has(a), peerSelector: has(b)}", &["PeerSelector", "LocalWorkloadSelector"]),
        // Its address.
        ("{peerIP: '192.0.2.1:0', asNumber: 1}", &["PeerIP: port from 1 to 65535"]),
        ("{peerIP: '192.0.2.1:65536', asNumber: 1}", &["PeerIP"]),
        ("{peerIP: '[fe80::1%7]:179', asNumber: 1}", &["PeerIP"]),
        ("{peerIP: '2001:db8::1:bgp', asNumber: 1}", &["PeerIP"]),
        ("{peerIP: 192.0.2.0/24, asNumber: 1}", &["PeerIP"]),
        ("{peerIP: 0.0.0.0, asNumber: 1}", &["PeerIP: address of one peer"]),
        ("{peerIP: 'ff02::1', asNumber: 1}", &["PeerIP: address of one peer"]),
        // AS numbers.
        ("{peerIP: 192.0.2.1}", &["ASNumber: must be given"]),
        ("{peerIP: 192.0.2.1, asNumber: 0}", &["ASNumber: must be given"]),
        ("{peerSelector: all(), asNumber: 1}", &["ASNumber: must be empty"]),
        ("{localWorkloadSelector: has(a)}", &["LocalWorkloadSelector: needs asNumber"]),
        ("{localWorkloadSelector: has(a), asNumber: 0}", &["LocalWorkloadSelector: needs asNumber"]),
        ("{peerIP: 192.0.2.1, asNumber: 1, localASNumber: 0}", &["LocalASNumber: 0 is no AS"]),
        ("{peerIP: 192.0.2.1, asNumber: 1, numAllowedLocalASNumbers: -1}", &["NumAllowedLocalASNumbers"]),
        // The way to it.
        ("{reachableBy: 192.0.2.9, peerSelector: all()}", &["ReachableBy: must be empty when peerIP is empty"]),
        ("{peerIP: '2001:db8::1', asNumber: 1, reachableBy: 192.0.2.9}", &["ReachableBy: address family"]),
        ("{peerIP: 192.0.2.1, asNumber: 1, reachableBy: gateway}", &["ReachableBy: IP address"]),
        ("{peerSelector: all(), sourceAddress: Any}", &["SourceAddress: UseNodeIP, None"]),
        ("{peerSelector: all(), keepOriginalNextHop: true, nextHopMode: Auto}", &["KeepOriginalNextHop"]),
        ("{peerSelector: all(), keepOriginalNextHop: false, nextHopMode: Auto}", &[]),
        ("{peerSelector: all(), nextHopMode: auto}", &["NextHopMode: must be one of Auto, Self, Keep"]),
        ("{peerSelector: all(), reversePeering: Never}", &["ReversePeering: Auto, Manual"]),
        // Times.
        ("{peerSelector: all(), maxRestartTime: 4095s, keepaliveTime: 20s, ttlSecurity: 255}", &[]),
        (
            "{peerSelector: all(), maxRestartTime: 2 minutes, keepaliveTime: 0s}",
            &["MaxRestartTime: length of time", "KeepaliveTime: from 1s"],
        ),
        (
            "{peerSelector: all(), maxRestartTime: 2h, keepaliveTime: 24h}",
            &["MaxRestartTime: to 4095s", "KeepaliveTime: to 65535s"],
        ),
        // What it names.
        ("{peerSelector: all(), password: {secretKeyRef: {name: a, key: b}}}", &[]),
        ("{peerSelector: all(), password: {secretKeyRef: {name: a, key: ''}}}", &["Password.SecretKeyRef.Key"]),
        ("{peerSelector: all(), password: {secretKeyRef: {name: A, key: b}}}", &["Password.SecretKeyRef.Name"]),
        (
            "{peerSelector: all(), password: {secretKeyRef: {}}}",
            &["Password.SecretKeyRef.Name", "Password.SecretKeyRef.Key"],
        ),
        ("{peerSelector: all(), password: {}}", &["Password.SecretKeyRef: must be given"]),
        ("{peerSelector: all(), filters: [a, B]}", &["Filters"]),
        ("{peerSelector: all(), filters: [a, '']}", &["Filters: must be the name"]),
        ("{peerSelector: all(), filters: [a, b, a]}", &["Filters: more than once"]),
        // Selectors.
        ("{nodeSelector: 'has(a', peerSelector: all()}", &["NodeSelector: is not a selector"]),
        ("{peerSelector: 'a = b'}", &["PeerSelector: is not a selector"]),
        ("{localWorkloadSelector: 'a ==', asNumber: 1}", &["LocalWorkloadSelector: is not a selector"]),
    ] {
        check_spec("BGPPeer", spec, expected);
    }
    // Beyond what its field can hold: found when it is read.
    let text = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: a}\nspec: {ttlSecurity: 256}\n";
    let error = documents(text).unwrap_err().to_string();
    assert!(error.starts_with("BGPPeer(a): spec.ttlSecurity: invalid value: integer `256`"), "{error}");
}

#[test]
fn bgp_settings_are_checked() {
    let check_default = |spec: &str, expected: &[&str]| {
        check(&resource("BGPConfiguration", "{name: default}", spec), expected);
    };
    for (spec, expected) in [
        ("{}", [].as_slice()),
        ("{logSeverityScreen: info, asNumber: 64512, listenPort: 179, serviceClusterIPs: [{cidr: ''}]}", &[]),
        ("{logSeverityScreen: Loud}", &["LogSeverityScreen"]),
        ("{bindMode: All}", &["BindMode"]),
        ("{asNumber: 0}", &["ASNumber: 0 is no AS"]),
        ("{listenPort: 0}", &["ListenPort: from 1 to 65535"]),
        ("{serviceLoadBalancerAggregation: On}", &["ServiceLoadBalancerAggregation"]),
        (
            "{localWorkloadPeeringIPV4: 'fd00::1', localWorkloadPeeringIPV6: 10.0.0.1}",
            &["LocalWorkloadPeeringIPV4: IPv4", "LocalWorkloadPeeringIPV6: IPv6"],
        ),
        (
            "{localWorkloadPeeringIPV4: 169.254.1.1, localWorkloadPeeringIPV6: 'fe80::1', programClusterRoutes: Disabled}",
            &[],
        ),
        ("{nodeMeshMaxRestartTime: 2h}", &["NodeMeshMaxRestartTime: to 4095s"]),
        ("{nodeMeshPassword: {secretKeyRef: {key: b}}}", &["NodeMeshPassword.SecretKeyRef.Name"]),
        (
            "{communities: [{name: a, value: '1:2'}, {name: a, value: 1:2:3}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [a]}]}",
            &["Spec.Communities[].Name: more than once"],
        ),
        ("{ignoredInterfaces: [eth*, '*', abcdefghijklmnop]}", &["IgnoredInterfaces", "IgnoredInterfaces"]),
        ("{programClusterRoutes: Yes}", &["ProgramClusterRoutes"]),
        (
            "{ipv4NormalRoutePriority: 0, ipv6NormalRoutePriority: 2147483647}",
            &["IPv4NormalRoutePriority", "IPv6NormalRoutePriority"],
        ),
        ("{nodeToNodeMeshEnabled: false, nodeMeshMaxRestartTime: 2m}", &["NodeMeshMaxRestartTime"]),
        ("{nodeToNodeMeshEnabled: false, nodeMeshPassword: {secretKeyRef: {name: a, key: b}}}", &["NodeMeshPassword"]),
        ("{communities: [{name: a, value: '1:2'}]}", &["Spec.Communities: not used"]),
        (
            "{communities: [{name: a, value: '65536:2'}, {name: b, value: '4294967295:1:2'}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [a, b, '1:2']}]}",
            &["Spec.Communities[].Value"],
        ),
        (
            "{prefixAdvertisements: [{cidr: 10.0.0.1/8, communities: [c, '1:2:3:4']}]}",
            &[
                "Spec.PrefixAdvertisement[].CIDR",
                "Spec.PrefixAdvertisement[].Communities[]",
                "Spec.PrefixAdvertisement[].Communities[]",
            ],
        ),
        ("{serviceExternalIPs: [{cidr: nowhere}]}", &["ServiceExternalIPs"]),
    ] {
        check_default(spec, expected);
    }
    let everything = "{nodeToNodeMeshEnabled: true, asNumber: 1, serviceLoadBalancerIPs: [], serviceExternalIPs: [], \
                      serviceClusterIPs: [], nodeMeshPassword: {secretKeyRef: {name: a, key: b}}, nodeMeshMaxRestartTime: 2m, listenPort: 179}";
    let found = validate(&resource("BGPConfiguration", "{name: node.worker-1}", everything));
    let reasons: Vec<_> = found.iter().map(|fault| fault.reason.as_str()).collect();
    assert_eq!(reasons.len(), 7);
    assert!(reasons.iter().all(|reason| reason.starts_with("Cannot set ")), "{reasons:?}");
}

#[test]
fn filters_are_checked() {
    for (rule, expected) in [
        ("{action: Accept}", [].as_slice()),
        ("{action: Accept, cidr: 10.0.0.0/8}", &["ExportV4[0].CIDR: both"]),
        ("{action: Accept, matchOperator: In}", &["ExportV4[0].CIDR: both"]),
        ("{action: Accept, matchOperator: In, cidr: 'fd00::/8'}", &["ExportV4[0].CIDR: IPv4"]),
        ("{action: Accept, matchOperator: In, cidr: 10.0.0.1/8}", &["ExportV4[0].CIDR: beyond its prefix"]),
        ("{action: Accept, prefixLength: {min: 8}}", &["ExportV4[0].PrefixLength: needs cidr"]),
        (
            "{action: Accept, matchOperator: In, cidr: 10.0.0.0/8, prefixLength: {min: -1, max: 33}}",
            &["ExportV4[0].PrefixLength.Min", "ExportV4[0].PrefixLength.Max"],
        ),
        (
            "{action: Accept, matchOperator: In, cidr: 10.0.0.0/8, prefixLength: {min: 26, max: 24}}",
            &["ExportV4[0].PrefixLength.Min: greater than max, 24"],
        ),
        ("{action: Accept, matchOperator: In, cidr: 10.0.0.0/8, prefixLength: {min: 24, max: 24}}", &[]),
        ("{action: Accept, source: Everyone}", &["ExportV4[0].Source"]),
        ("{action: Accept, asPathPrefix: [64512, 0]}", &["ExportV4[0].ASPathPrefix: 0 is no AS"]),
        ("{action: Accept, communities: {values: ['1:2', '3:4']}}", &["ExportV4[0].Communities.Values: exactly one"]),
        ("{action: Accept, communities: {values: ['65536:1']}}", &["ExportV4[0].Communities.Values: 65535"]),
        ("{action: Accept, communities: {values: ['4294967295:1:0']}}", &[]),
        ("{action: Accept, interface: abcdefghijklmnop}", &["ExportV4[0].Interface"]),
        ("{action: Accept, interface: '*'}", &[]),
        ("{action: Accept, communities: {values: []}}", &["ExportV4[0].Communities.Values"]),
        ("{action: Accept, communities: {values: [x]}}", &["ExportV4[0].Communities.Values"]),
        ("{action: Accept, priority: 0}", &["ExportV4[0].Priority"]),
        (
            "{action: Reject, operations: [{setPriority: {value: 1}}]}",
            &["ExportV4[0].Operations: only with action Accept"],
        ),
        ("{action: Accept, operations: []}", &["ExportV4[0].Operations"]),
        ("{action: Accept, operations: [{}]}", &["ExportV4[0].Operations[0]: exactly one"]),
        (
            "{action: Accept, operations: [{setPriority: {value: 0}, addCommunity: {value: '1'}}]}",
            &[
                "ExportV4[0].Operations[0]",
                "ExportV4[0].Operations[0].AddCommunity.Value",
                "ExportV4[0].Operations[0].SetPriority.Value",
            ],
        ),
        (
            "{action: Accept, operations: [{prependASPath: {prefix: []}}]}",
            &["ExportV4[0].Operations[0].PrependASPath.Prefix"],
        ),
    ] {
        check_spec("BGPFilter", &format!("{{exportV4: [{rule}]}}"), expected);
    }
    let eleven = |one: &str| [one; 11].join(", ");
    let many = format!("{{exportV4: [{{action: Accept, operations: [{}]}}]}}", eleven("{setPriority: {value: 1}}"));
    check_spec("BGPFilter", &many, &["ExportV4[0].Operations: 10 entries"]);
    let long = format!(
        "{{importV4: [{{action: Reject}}, {{action: Accept, operations: [{{prependASPath: {{prefix: [{}]}}}}]}}]}}",
        eleven("7")
    );
    check_spec("BGPFilter", &long, &["ImportV4[1].Operations[0].PrependASPath.Prefix: from 1 to 10"]);
    let zero = "{exportV6: [{action: Accept, operations: [{prependASPath: {prefix: [0]}}]}]}";
    check_spec("BGPFilter", zero, &["ExportV6[0].Operations[0].PrependASPath.Prefix: 0 is no AS"]);
    check_spec(
        "BGPFilter",
        "{importV6: [{action: Accept, matchOperator: In, cidr: 10.0.0.0/8}]}",
        &["ImportV6[0].CIDR: IPv6"],
    );
    for (field, words) in [
        ("matchOperator: Within", "`Equal`, `NotEqual`, `In`, `NotIn`"),
        ("peerType: EBGP", "`eBGP` or `iBGP`"),
        ("action: Allow", "`Accept` or `Reject`"),
    ] {
        let rule = if field.starts_with("action") { field.to_owned() } else { format!("action: Accept, {field}") };
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{name: f}}\nspec: {{importV6: [{{action: Reject}}, {{{rule}}}]}}\n"
        );
        let error = documents(&text).unwrap_err().to_string();
        let place = format!("BGPFilter(f): spec.importV6[1].{}: ", field.split(':').next().unwrap());
        assert!(error.starts_with(&place) && error.contains(words), "{error}");
    }
    let v6 = "{importV6: [{action: Accept, matchOperator: In, cidr: 'fd00::/8', prefixLength: {max: 128}}]}";
    check_spec("BGPFilter", v6, &[]);
}
