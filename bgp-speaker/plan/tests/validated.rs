//! What may be written is understood: nothing that `calicoctl apply` takes is a fault here.

use bgp_plan::inputs::{Change, Inputs};
use calico_api::{AnyResource, Key, Kind, Resource, Spec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// An object with some of these fields, each with one of its values.
fn object(fields: &'static [(&'static str, &'static [&'static str])]) -> impl Strategy<Value = Value> {
    let chosen: Vec<_> = fields
        .iter()
        .map(|(name, values)| {
            let value = prop::option::of(prop::sample::select(*values));
            value.prop_map(|text| Some((name.to_string(), serde_json::from_str::<Value>(text?).unwrap())))
        })
        .collect();
    chosen.prop_map(|fields| Value::from(fields.into_iter().flatten().collect::<Map<_, _>>()))
}

fn peer() -> impl Strategy<Value = Value> {
    object(&[
        ("node", &[r#""a""#, r#""""#]),
        ("nodeSelector", &[r#""projectcalico.org/rack == 'r1'""#, r#""rack ==""#, r#""""#]),
        (
            "peerIP",
            &[
                r#""10.0.0.9:1790""#,
                r#""[fd00::9]:179""#,
                r#""fd00::9""#,
                r#""10.0.0.9:0""#,
                r#""0.0.0.0""#,
                r#""ff02::1""#,
            ],
        ),
        ("peerSelector", &[r#""all()""#, r#""has(""#]),
        ("localWorkloadSelector", &[r#""app == 'r'""#, r#""""#]),
        ("asNumber", &["0", "65000", r#""1.10""#, r#""4294967295""#]),
        ("localASNumber", &["0", "65000"]),
        ("reachableBy", &[r#""10.0.0.254""#, r#""fd00::fe""#, r#""ten""#]),
        ("maxRestartTime", &[r#""90s""#, r#""soon""#]),
        ("ttlSecurity", &["0", "255"]),
        ("numAllowedLocalASNumbers", &["0", "-1", "3"]),
    ])
}

fn rule() -> impl Strategy<Value = Value> {
    object(&[
        ("cidr", &[r#""10.0.0.0/8""#, r#""10.0.0.1""#, r#""10.0.0.1/8""#, r#""fd00::/8""#, r#""0.0.0.0/0""#, r#""""#]),
        ("matchOperator", &[r#""In""#, r#""NotIn""#, r#""Equal""#, r#""NotEqual""#]),
        ("prefixLength", &["{}", r#"{"min": 24}"#, r#"{"max": 33}"#, r#"{"min": 9, "max": 8}"#, r#"{"min": -1}"#]),
        ("source", &[r#""RemotePeers""#, r#""Local""#, r#""""#]),
        ("interface", &[r#""cali*""#, r#""et?0""#, r#""*""#, r#""sixteencharacter""#]),
        ("peerType", &[r#""eBGP""#, r#""iBGP""#]),
        (
            "communities",
            &[
                r#"{"values": ["65535:1"]}"#,
                r#"{"values": ["1:2:4294967295"]}"#,
                r#"{"values": ["1:65536"]}"#,
                r#"{"values": ["007:1"]}"#,
                r#"{"values": [":1"]}"#,
                r#"{"values": ["+1:2"]}"#,
                r#"{"values": []}"#,
            ],
        ),
        ("asPathPrefix", &["[]", "[65000, 1]", "[0]"]),
        ("priority", &["0", "1", "2147483646", "2147483647"]),
        (
            "operations",
            &[
                "[]",
                "[{}]",
                r#"[{"addCommunity": {"value": "1:2:3"}}, {"setPriority": {"value": 512}}]"#,
                r#"[{"prependASPath": {"prefix": [65000, 65001]}}]"#,
                r#"[{"prependASPath": {"prefix": []}}]"#,
                r#"[{"prependASPath": {"prefix": [0]}}]"#,
                r#"[{"setPriority": {"value": 2147483647}}]"#,
                r#"[{"addCommunity": {"value": "1"}}]"#,
            ],
        ),
    ])
}

fn filter() -> impl Strategy<Value = Value> {
    let list = prop::sample::select(vec!["importV4", "exportV4", "importV6", "exportV6"]);
    let action = prop::sample::select(vec!["Accept", "Accept", "Reject"]);
    (list, action, rule()).prop_map(|(list, action, mut rule)| {
        rule["action"] = json!(action);
        json!({ list: [rule] })
    })
}

fn configuration() -> impl Strategy<Value = Value> {
    object(&[
        ("asNumber", &["0", "65000", r#""1.1""#]),
        ("listenPort", &["0", "1790"]),
        ("bindMode", &[r#""NodeIP""#, r#""Odd""#]),
        (
            "communities",
            &[
                r#"[{"name": "x", "value": "1:2"}]"#,
                r#"[{"name": "x", "value": "1:70000"}]"#,
                r#"[{"name": "", "value": "1:2"}]"#,
            ],
        ),
        (
            "prefixAdvertisements",
            &[
                r#"[{"cidr": "10.0.0.0/8", "communities": ["x", "1:2:3"]}]"#,
                r#"[{"cidr": "ten", "communities": []}]"#,
                r#"[{"cidr": "10.0.0.0/8", "communities": ["1:70000"]}]"#,
            ],
        ),
        (
            "serviceClusterIPs",
            &[r#"[{"cidr": "10.96.0.0/12"}, {"cidr": ""}]"#, r#"[{"cidr": "ten"}]"#, r#"[{"cidr": "10.96.0.1"}]"#],
        ),
        ("ipv4NormalRoutePriority", &["0", "1024", "2147483647"]),
        ("nodeMeshMaxRestartTime", &[r#""90s""#, r#""soon""#]),
    ])
}

fn pool() -> impl Strategy<Value = Value> {
    const MODES: &[&str] = &[r#""Never""#, r#""Always""#, r#""CrossSubnet""#, r#""""#];
    object(&[
        ("cidr", &[r#""10.244.0.0/16""#, r#""10.244.0.0/28""#, r#""fd00:10::/64""#, r#""fd00::/124""#, r#""ten""#]),
        ("ipipMode", MODES),
        ("vxlanMode", MODES),
        ("blockSize", &["0", "26", "28", "122", "124"]),
        ("disabled", &["true", "false"]),
        ("allowedUses", &[r#"["LoadBalancer"]"#, r#"["Workload", "Tunnel"]"#]),
    ])
}

/// Whether a resource may be written.
fn may_be_written<S: Spec>(value: &Value, any: fn(Box<Resource<S>>) -> AnyResource) -> bool {
    let typed = serde_json::from_value::<Resource<S>>(value.clone());
    typed.is_ok_and(|resource| calico_api::validate(&any(Box::new(resource))).is_empty())
}

/// Whether it is understood.
fn is_understood(kind: Kind, value: Value) -> bool {
    let key = Key::of_value(kind, &value).unwrap();
    Inputs::default().apply("a", Change::Put { key, value }).is_ok()
}

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn peers_that_may_be_written_are_understood(spec in peer()) {
        let value = named("p", spec);
        let written = may_be_written(&value, AnyResource::BGPPeer);
        prop_assert!(!written || is_understood(Kind::BGPPeer, value));
    }

    #[test]
    fn pools_that_may_be_written_are_understood_and_with_both_modes_none_is(spec in pool()) {
        let mode = |field: &str| !matches!(spec[field].as_str(), None | Some("" | "Never"));
        let both = mode("ipipMode") && mode("vxlanMode");
        let value = named("p", spec);
        let written = may_be_written(&value, AnyResource::IPPool);
        let understood = is_understood(Kind::IPPool, value);
        prop_assert!(!written || understood);
        prop_assert!(!(both && (written || understood)));
    }

    #[test]
    fn filters_that_may_be_written_are_understood(spec in filter()) {
        let value = named("f", spec);
        let written = may_be_written(&value, AnyResource::BGPFilter);
        prop_assert!(!written || is_understood(Kind::BGPFilter, value));
    }

    #[test]
    fn settings_that_may_be_written_are_understood(spec in configuration(), of_node in any::<bool>()) {
        let value = named(if of_node { "node.a" } else { "default" }, spec);
        let written = may_be_written(&value, AnyResource::BGPConfiguration);
        prop_assert!(!written || is_understood(Kind::BGPConfiguration, value));
    }
}
