//! Every kind with every field: what is read is what is written, and what is unknown is named by its path.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use calico_api::{
    AnyResource, DocumentFault, FelixConfigurationSpec, IPPoolSpec, Kind, ResourceError, default_on_write, documents,
    strict::StrictError, to_json, to_yaml, validate, yaml,
};
use serde_json::{Value, json};

/// The samples, one a kind, as text and as values.
fn samples() -> Vec<(Kind, String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let read = |kind: &Kind| {
        let text = fs::read_to_string(folder.join(format!("{kind}.yaml"))).unwrap();
        let value = yaml::parse(&text).unwrap();
        (*kind, text, value)
    };
    Kind::ALL.iter().map(read).collect()
}

/// The places of all values within a value, as JSON pointers, and the paths that people read.
fn places(value: &Value, pointer: &str, path: &str, found: &mut Vec<(String, String)>) {
    found.push((pointer.to_owned(), path.to_owned()));
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                places(inner, &format!("{pointer}/{escaped}"), &path, found);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                places(inner, &format!("{pointer}/{index}"), &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn all_places(value: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    places(value, "", "", &mut found);
    found
}

/// Maps whose keys are the user's.
const FREE: [&str; 11] = [
    "labels",
    "annotations",
    "labelsToApply",
    "matchLabels",
    "bpfLogFilters",
    "environmentVars",
    "secondary",
    "alternateOwnerAttrs",
    "block",
    "sequenceNumberForAllocation",
    "qosControls",
];

fn is_free(path: &str) -> bool {
    path.split(['.', '[']).any(|part| FREE.contains(&part))
}

#[test]
fn what_is_read_is_what_is_written() {
    for (kind, text, value) in samples() {
        let read = documents(&text).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let [resource] = read.as_slice() else { panic!("{kind}: {} resources", read.len()) };
        assert_eq!(resource.kind(), kind);
        assert_eq!(resource.to_value(), value, "{kind}");
        assert_eq!(AnyResource::from_value(value.clone()).unwrap(), *resource, "{kind}");
        // What is printed is read again.
        assert_eq!(documents(&to_yaml(&value)).unwrap(), read, "{kind}");
        assert_eq!(documents(&to_json(&value)).unwrap(), read, "{kind}");
        let list = json!({"apiVersion": "projectcalico.org/v3", "kind": format!("{kind}List"), "items": [value]});
        assert_eq!(documents(&to_json(&list)).unwrap(), read, "{kind}");
    }
}

#[test]
fn the_sample_of_felix_has_every_field() {
    let (_, _, value) = samples().into_iter().find(|(kind, ..)| *kind == Kind::FelixConfiguration).unwrap();
    let written: BTreeSet<&str> = value["spec"].as_object().unwrap().keys().map(String::as_str).collect();
    let known: BTreeSet<&str> = FelixConfigurationSpec::FIELDS.iter().map(|(field, _)| *field).collect();
    assert_eq!(written, known);
    assert_eq!(known.len(), FelixConfigurationSpec::FIELDS.len());
}

#[test]
fn an_unknown_field_is_named_by_its_path_wherever_it_stands() {
    for (kind, _, value) in samples() {
        let resource = AnyResource::from_value(value.clone()).unwrap();
        for (pointer, path) in all_places(&value) {
            let mut changed = value.clone();
            let Some(map) = changed.pointer_mut(&pointer).and_then(Value::as_object_mut) else { continue };
            if is_free(&path) {
                continue;
            }
            map.insert("cider".to_owned(), json!({"a": 1}));
            let expected = if path.is_empty() { "cider".to_owned() } else { format!("{path}.cider") };
            match AnyResource::strict_from_value(changed.clone()) {
                Err(ResourceError::Decode(StrictError::UnknownField(found))) => assert_eq!(found, expected, "{kind}"),
                other => panic!("{kind}: {expected} gave {other:?}"),
            }
            // A newer release may write it: then it is let pass.
            assert_eq!(AnyResource::from_value(changed).unwrap(), resource, "{kind}: {expected}");
        }
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named_by_its_path() {
    for (kind, _, value) in samples() {
        for (pointer, path) in all_places(&value) {
            let mut changed = value.clone();
            match changed.pointer_mut(&pointer) {
                Some(place) if !place.is_array() && !path.is_empty() && !is_free(&path) => *place = json!([]),
                _ => continue,
            }
            if matches!(path.as_str(), "kind" | "apiVersion") {
                continue;
            }
            let error = AnyResource::strict_from_value(changed).expect_err(&path).to_string();
            // Within a value that was tried as several types only the outermost place is known.
            assert!(error.starts_with(&format!("{path}: ")) || path.contains("istioDSCPMark"), "{kind}: {error}");
        }
    }
}

#[test]
fn null_is_absent_and_absent_is_not_empty() {
    for (kind, _, value) in samples() {
        for (pointer, path) in all_places(&value) {
            let within_spec = path.starts_with("spec.") && !is_free(&path);
            let is_list = value.pointer(&pointer).is_some_and(Value::is_array);
            if !is_list || !within_spec {
                continue;
            }
            let set = |to: Value| {
                let mut changed = value.clone();
                *changed.pointer_mut(&pointer).unwrap() = to;
                AnyResource::strict_from_value(changed)
            };
            // Lists that the resource cannot do without.
            if path.ends_with(".values") || path.ends_with(".prefix") || path.ends_with("communities") {
                continue;
            }
            let null = set(Value::Null).unwrap_or_else(|error| panic!("{kind}: {error}"));
            // IPAM's own records, nodes and workload endpoints are written by programs, which do not tell the two apart.
            if matches!(kind, Kind::IPAMBlock | Kind::Node | Kind::WorkloadEndpoint) {
                continue;
            }
            assert_eq!(null.to_value().pointer(&pointer), None, "{kind}: {path}");
            let empty = set(json!([])).unwrap();
            assert_eq!(empty.to_value().pointer(&pointer), Some(&json!([])), "{kind}: {path}");
            assert_ne!(null, empty, "{kind}: {path}");
        }
        for place in
            ["/metadata/labels", "/metadata/annotations", "/metadata/finalizers", "/metadata/creationTimestamp"]
        {
            let mut changed = value.clone();
            if let Some(place) = changed.pointer_mut(place) {
                *place = Value::Null;
                assert!(AnyResource::strict_from_value(changed).is_ok(), "{kind}");
            }
        }
    }
}

#[test]
fn samples_are_valid_but_for_what_excludes_each_other() {
    for (kind, text, _) in samples() {
        let mut resource = documents(&text).unwrap().remove(0);
        default_on_write(&mut resource);
        let fields: BTreeSet<_> = validate(&resource).into_iter().map(|fault| fault.field).collect();
        let expected: &[&str] = match kind {
            // It has every field, and some go only without others.
            Kind::BGPPeer => &["ASNumber", "KeepOriginalNextHop", "Node", "PeerIP", "PeerSelector"],
            Kind::FelixConfiguration => continue,
            _ => &[],
        };
        assert_eq!(fields.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{kind}");
    }
}

#[test]
fn defaults_fill_what_is_absent_and_nothing_else() {
    for (kind, text, _) in samples() {
        let mut resource = documents(&text).unwrap().remove(0);
        let before = resource.clone();
        default_on_write(&mut resource);
        assert_eq!(resource, before, "{kind}: every field is there already");
    }
    let written = |text: &str| {
        let mut resource = documents(&format!("apiVersion: projectcalico.org/v3\n{text}")).unwrap().remove(0);
        default_on_write(&mut resource);
        let once = resource.clone();
        default_on_write(&mut resource);
        assert_eq!(resource, once);
        resource.to_value()["spec"].clone()
    };
    assert_eq!(
        written("kind: IPPool\nmetadata: {name: a}\nspec: {cidr: 'FD00:0::/48', nodeSelector: ''}"),
        json!({"cidr": "fd00::/48", "blockSize": 122, "ipipMode": "Never", "vxlanMode": "Never",
            "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic"}),
    );
    let of_namespaces =
        written("kind: IPPool\nmetadata: {name: a}\nspec: {cidr: 10.0.0.0/16, namespaceSelector: has(a)}");
    assert_eq!(of_namespaces["blockSize"], 26);
    assert_eq!(of_namespaces.get("allowedUses"), None);
    for (rules, types) in [
        ("{}", json!(["Ingress"])),
        ("{egress: [], ingress: []}", json!(["Ingress"])),
        ("{egress: [{action: Deny}]}", json!(["Egress"])),
        ("{egress: [{action: Deny}], ingress: [{action: Deny}]}", json!(["Ingress", "Egress"])),
        ("{ingress: [{action: Deny}], types: [Egress]}", json!(["Egress"])),
    ] {
        let spec = written(&format!("kind: NetworkPolicy\nmetadata: {{name: a, namespace: b}}\nspec: {rules}"));
        assert_eq!(spec["types"], types, "{rules}");
        assert_eq!(spec["tier"], "default");
    }
    let built_in = written("kind: Tier\nmetadata: {name: default}");
    assert_eq!(built_in, json!({"order": 1_000_000, "defaultAction": "Deny"}));
}

#[test]
fn the_typed_resource_is_reached_by_its_spec() {
    let (_, text, _) = samples().into_iter().find(|(kind, ..)| *kind == Kind::IPPool).unwrap();
    let mut resource = documents(&text).unwrap().remove(0);
    assert!(resource.get::<FelixConfigurationSpec>().is_none());
    resource.get_mut::<IPPoolSpec>().unwrap().spec.disabled = Some(true);
    resource.metadata_mut().name = Some("b".to_owned());
    let resource = resource.into_typed::<FelixConfigurationSpec>().expect_err("it is a pool");
    let pool = resource.into_typed::<IPPoolSpec>().unwrap();
    assert_eq!((pool.name(), pool.spec.disabled), ("b", Some(true)));
    assert_eq!(AnyResource::from(pool).key().to_string(), "IPPool(b)");
}

#[test]
fn what_is_no_kind_of_ours_is_refused() {
    for text in
        ["apiVersion: projectcalico.org/v3\nkind: Secret", "apiVersion: crd.projectcalico.org/v1\nkind: IPPool", "a: 1"]
    {
        let error = documents(text).expect_err(text);
        assert!(matches!(error.fault, DocumentFault::UnknownType { .. }), "{error}");
    }
    for text in ["5", "text", "[1]", "[[true]]"] {
        let error = documents(text).expect_err(text);
        assert!(matches!(error.fault, DocumentFault::NotAResource(_)), "{error}");
    }
}
