//! Condition by condition, operation by operation, and every mistake by its place.

use std::net::Ipv4Addr;

use bgp_proto::{AsPath, Community, LargeCommunity, LocalKind, LocalRoute, PeerId};
use serde_json::{Value, json};

use super::*;

const LOCAL: Source = Source::Local(LocalKind::Kernel);
const LEARNED: Source = Source::Peer { peer: PeerId(7), external: true };

/// A path to a peer in AS 64512, which is ours, that changes may make another.
struct Asked {
    prefix: &'static str,
    attributes: Attributes,
    source: Source,
    peer_as: u32,
    interface: Option<&'static str>,
}

impl Default for Asked {
    fn default() -> Self {
        let attributes = Attributes::new(Ipv4Addr::new(192, 0, 2, 1).into());
        Self { prefix: "10.1.2.0/24", attributes, source: LOCAL, peer_as: 64512, interface: None }
    }
}

impl Asked {
    fn judge(&self, filter: &BgpFilter, direction: Direction) -> Option<Verdict> {
        filter.judge(
            direction,
            &Candidate {
                prefix: self.prefix.parse().unwrap(),
                attributes: &self.attributes,
                source: self.source,
                peer_as: Asn(self.peer_as),
                local_as: Asn(64512),
                interface: self.interface,
            },
        )
    }
}

fn compile(spec: Value) -> Result<BgpFilter, String> {
    BgpFilter::compile(&serde_json::from_value(spec).unwrap())
}

fn prefix(prefix: &'static str) -> Asked {
    Asked { prefix, ..Asked::default() }
}

fn with(change: impl FnOnce(&mut Attributes)) -> Asked {
    let mut asked = Asked::default();
    change(&mut asked.attributes);
    asked
}

/// Whether a rule of these fields, in both directions and families, matches.
#[track_caller]
fn check(fields: Value, asked: Asked, expect: bool) {
    let mut rule = json!({"action": "Reject"});
    rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let family = if asked.prefix.contains(':') { "V6" } else { "V4" };
    let filter = compile(json!({ format!("import{family}"): [rule], format!("export{family}"): [rule] })).unwrap();
    for direction in [Direction::Import, Direction::Export] {
        let verdict = asked.judge(&filter, direction);
        assert_eq!(verdict, expect.then_some(Verdict::Reject), "{fields} on {}", asked.prefix);
    }
}

#[test]
fn destinations_are_compared_as_their_operator_says() {
    for (operator, length, inside, shorter, outside) in [
        // A /24 that is the network, a /26 inside, the /16 around it, and another.
        ("Equal", true, false, false, false),
        ("NotEqual", false, true, true, true),
        ("In", true, true, false, false),
        ("NotIn", false, false, true, true),
    ] {
        let rule = json!({"cidr": "10.1.2.0/24", "matchOperator": operator});
        check(rule.clone(), prefix("10.1.2.0/24"), length);
        check(rule.clone(), prefix("10.1.2.64/26"), inside);
        check(rule.clone(), prefix("10.1.0.0/16"), shorter);
        check(rule, prefix("10.9.0.0/24"), outside);
    }
    check(json!({"cidr": "fd00:1::/32", "matchOperator": "In"}), prefix("fd00:1:2::/48"), true);
    check(json!({"cidr": "0.0.0.0/0", "matchOperator": "Equal"}), prefix("0.0.0.0/0"), true);
    check(json!({"cidr": "0.0.0.0/0", "matchOperator": "In"}), prefix("10.0.0.0/8"), true);
    check(json!({"cidr": "10.1.2.3", "matchOperator": "Equal"}), prefix("10.1.2.3/32"), true);
    check(json!({}), prefix("10.9.0.0/24"), true);
}

#[test]
fn lengths_are_bounded_by_the_network_and_the_family() {
    let rule = |operator: &str, lengths: Value| json!({"cidr": "10.1.0.0/16", "matchOperator": operator, "prefixLength": lengths});
    for (text, lengths, inside) in [
        ("10.1.0.0/16", json!({}), true),
        ("10.1.2.0/24", json!({"min": 24, "max": 26}), true),
        ("10.1.2.0/26", json!({"min": 24, "max": 26}), true),
        ("10.1.2.0/27", json!({"min": 24, "max": 26}), false),
        ("10.1.2.0/23", json!({"min": 24, "max": 26}), false),
        // Not below the network's own length.
        ("10.0.0.0/8", json!({"min": 8}), false),
        ("10.1.2.3/32", json!({"min": 32}), true),
        ("10.9.0.0/24", json!({"min": 24, "max": 26}), false),
    ] {
        check(rule("In", lengths.clone()), prefix(text), inside);
        check(rule("NotIn", lengths), prefix(text), !inside);
    }
    check(rule("Equal", json!({"min": 16})), prefix("10.1.0.0/16"), false);
    check(rule("NotEqual", json!({"min": 16})), prefix("10.1.0.0/16"), true);
    let odd = compile(json!({"importV4": [
        {"action": "Accept", "cidr": "10.1.0.0/16", "matchOperator": "In"},
        {"action": "Accept", "cidr": "10.1.0.0/16", "matchOperator": "Equal", "prefixLength": {"min": 16}},
        {"action": "Accept", "cidr": "10.1.0.0/16", "matchOperator": "NotEqual", "prefixLength": {"min": 16}},
        {"action": "Accept", "cidr": "10.1.0.0/16", "matchOperator": "In", "prefixLength": {"max": 8}},
    ]}));
    let odd = odd.unwrap();
    assert_eq!(odd.warnings().len(), 3);
    for (warning, start) in odd.warnings().iter().zip(["spec.importV4[1]", "spec.importV4[2]", "spec.importV4[3]"]) {
        assert!(warning.starts_with(start), "{warning}");
    }
}

#[test]
fn source_interface_and_kind_of_session() {
    check(json!({"source": "RemotePeers"}), Asked { source: LEARNED, ..Asked::default() }, true);
    check(json!({"source": "RemotePeers"}), Asked { source: LOCAL, ..Asked::default() }, false);
    for (glob, name, expect) in [
        ("eth0", Some("eth0"), true),
        ("eth0", Some("eth01"), false),
        ("eth*", Some("eth"), true),
        ("*.calico", Some("vxlan.calico"), true),
        ("*.calico", Some("vxlan.calico2"), false),
        ("c*i*1", Some("cali7c1d1"), true),
        ("c*i*1", Some("cali7c1d2"), false),
        ("*", Some("lo"), true),
        ("*", None, false),
        ("et?0", Some("eth0"), true),
        ("et?0", Some("et0"), false),
        ("a*b*c", Some("abcabd"), false),
    ] {
        check(json!({"interface": glob}), Asked { interface: name, ..Asked::default() }, expect);
    }
    for (kind, peer_as, expect) in
        [("eBGP", 65000, true), ("eBGP", 64512, false), ("iBGP", 64512, true), ("iBGP", 65000, false)]
    {
        check(json!({"peerType": kind}), Asked { peer_as, ..Asked::default() }, expect);
    }
}

#[test]
fn communities_path_and_priority() {
    let marked = || {
        with(|attributes| {
            attributes.communities = vec![Community::new(65000, 1), Community::new(65000, 2)];
            attributes.large_communities = vec![LargeCommunity { global: 65000, local_1: 1, local_2: 2 }];
        })
    };
    for (value, expect) in [("65000:2", true), ("65000:3", false), ("65000:1:2", true), ("65000:2:1", false)] {
        check(json!({"communities": {"values": [value]}}), marked(), expect);
    }
    for (start, expect) in
        [(json!([64512]), true), (json!([64512, 65001]), true), (json!([65001]), false), (json!([64512, 65002]), false)]
    {
        let path = with(|attributes| attributes.as_path = AsPath::sequence([64512, 65001].map(Asn)));
        check(json!({"asPathPrefix": start}), path, expect);
    }
    check(json!({"asPathPrefix": [64512]}), Asked::default(), false);
    let elevated = || with(|attributes| attributes.local_pref = Some(LocalRoute::local_pref(512)));
    check(json!({"priority": 512}), elevated(), true);
    check(json!({"priority": 1024}), elevated(), false);
    check(json!({"priority": 2_147_483_547_u32}), Asked::default(), true);
}

#[test]
fn all_conditions_must_hold_and_the_first_rule_that_matches_decides() {
    let filter = compile(json!({"exportV4": [
        {"action": "Reject", "cidr": "10.1.0.0/16", "matchOperator": "In", "peerType": "eBGP"},
        {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"},
        {"action": "Reject", "cidr": "10.1.2.0/24", "matchOperator": "Equal"},
    ]}));
    let filter = filter.unwrap();
    let accept = Some(Verdict::AcceptExplicitly(None));
    let external = Asked { peer_as: 65000, ..Asked::default() };
    assert_eq!(external.judge(&filter, Direction::Export), Some(Verdict::Reject));
    assert_eq!(Asked::default().judge(&filter, Direction::Export), accept);
    assert_eq!(prefix("192.0.2.0/24").judge(&filter, Direction::Export), None, "left to who comes after");
    assert_eq!(prefix("fd00::/64").judge(&filter, Direction::Export), None, "the other family's rules are not asked");
    assert_eq!(Asked::default().judge(&filter, Direction::Import), None);
    for asked in [Asked::default(), prefix("fd00::/64")] {
        assert_eq!(asked.judge(&BgpFilter::reject_all(), Direction::Import), Some(Verdict::Reject));
        assert_eq!(asked.judge(&BgpFilter::reject_all(), Direction::Export), Some(Verdict::Reject));
    }
}

#[test]
fn operations_change_the_path_in_their_order() {
    let filter = compile(json!({"importV4": [{"action": "Accept", "operations": [
        {"addCommunity": {"value": "65000:9"}},
        {"addCommunity": {"value": "65000:1"}},
        {"addCommunity": {"value": "65000:1:2"}},
        {"prependASPath": {"prefix": [65001, 65002]}},
        {"prependASPath": {"prefix": [65003]}},
        {"setPriority": {"value": 512}},
    ]}]}));
    let asked = with(|attributes| {
        attributes.as_path = AsPath::sequence([Asn(64999)]);
        attributes.communities = vec![Community::new(65000, 1)];
    });
    let verdict = asked.judge(&filter.unwrap(), Direction::Import);
    let Some(Verdict::AcceptExplicitly(Some(changed))) = verdict else { panic!("{verdict:?}") };
    assert_eq!(changed.communities, [Community::new(65000, 1), Community::new(65000, 9)]);
    assert_eq!(changed.large_communities.len(), 1);
    assert_eq!(changed.as_path.to_string(), "65003 65001 65002 64999");
    assert_eq!(changed.local_pref, Some(LocalRoute::local_pref(512)));
}

#[test]
fn what_is_wrong_is_named_by_list_rule_and_field() {
    let accept = |fields: Value| {
        let mut rule = json!({"action": "Accept"});
        rule.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        rule
    };
    let operation = |operation: Value| accept(json!({ "operations": [operation] }));
    for (rule, expect) in [
        (json!({"cidr": "ten", "matchOperator": "In"}), ".cidr is \"ten\", expected an IPv4 network"),
        (json!({"cidr": "fd00::/8", "matchOperator": "In"}), ".cidr is \"fd00::/8\", expected an IPv4 network"),
        (json!({"cidr": "10.0.0.0/8"}), ".cidr is \"10.0.0.0/8\", needs matchOperator"),
        (json!({"matchOperator": "In"}), ".matchOperator is \"In\", needs cidr"),
        (json!({"prefixLength": {"min": 3}}), ".prefixLength needs cidr"),
        (
            json!({"cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 33}}),
            ".prefixLength.max is \"33\", expected 0 to 32",
        ),
        (json!({"source": "Local"}), ".source is \"Local\", expected RemotePeers"),
        (json!({"interface": "eth0/1"}), ".interface is \"eth0/1\""),
        (json!({"interface": "sixteencharacter"}), ".interface is"),
        (json!({"communities": {"values": []}}), ".communities.values is \"\", expected exactly one"),
        (json!({"communities": {"values": ["65536:1"]}}), ".communities.values: \"65536:1\" is not a community"),
        (json!({"priority": 0}), ".priority is \"0\", expected 1 to 2147483646"),
        (json!({"priority": 2_147_483_647_u32}), ".priority is"),
        (operation(json!({})), ".operations[0] is exactly one of"),
        (operation(json!({"addCommunity": {"value": "1"}})), ".operations[0].addCommunity.value: \"1\" is not"),
        (operation(json!({"prependASPath": {"prefix": []}})), ".operations[0].prependASPath.prefix is \"0\""),
        (operation(json!({"prependASPath": {"prefix": [0]}})), "expected an AS number from 1"),
        (operation(json!({"setPriority": {"value": -1}})), ".operations[0].setPriority.value is \"-1\""),
        (json!({"operations": [{"setPriority": {"value": 1}}]}), ".operations go only with action Accept"),
    ] {
        let mut full = json!({"action": "Reject"});
        full.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
        let error = compile(json!({"exportV4": [{"action": "Accept"}, full]})).unwrap_err();
        assert!(error.starts_with("spec.exportV4[1]") && error.contains(expect), "{error}");
    }
}
