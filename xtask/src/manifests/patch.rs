//! A strategic merge patch: what makes one variant of some objects of another.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

/// By which field the elements of a list are told apart; other lists are replaced whole.
const KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
];

/// The patch as YAML documents; none if the two are the same.
pub(super) fn between(before: &str, after: &str) -> Result<Option<String>> {
    let (before, after) = (objects(before)?, objects(after)?);
    ensure!(after.keys().all(|name| before.contains_key(name)), "a variant may not add objects to a file");
    let mut text = String::new();
    for (name, was) in &before {
        let patch = match after.get(name) {
            None => Some(json!({"$patch": "delete"})),
            Some(is) => difference(was, is, ""),
        };
        let Some(mut patch) = patch else { continue };
        for field in ["apiVersion", "kind"] {
            patch[field] = was[field].clone();
        }
        for field in ["name", "namespace"] {
            if let Some(value) = was["metadata"].get(field) {
                patch["metadata"][field] = value.clone();
            }
        }
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&calico_api::to_yaml(&patch));
        text.push('\n');
    }
    Ok((!text.is_empty()).then_some(text))
}

fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let documents = format!("\n{text}");
    let values = documents.split("\n---").map(|document| Ok(calico_api::yaml::parse(document)?));
    let values: Vec<Value> = values.collect::<Result<_>>()?;
    let name = |value: &Value| {
        let of = |field: &Value| field.as_str().map(str::to_owned);
        Some(format!("{} {}", of(&value["kind"])?, of(&value["metadata"]["name"])?))
    };
    values.into_iter().map(|value| Ok((name(&value).context("a document without a kind or a name")?, value))).collect()
}

/// What turns `was` into `is`; `field` is the name under which they stand.
fn difference(was: &Value, is: &Value, field: &str) -> Option<Value> {
    match (was, is) {
        _ if was == is => None,
        (Value::Object(was), Value::Object(is)) => {
            let mut patch = Map::new();
            for (name, value) in is {
                match was.get(name) {
                    None => drop(patch.insert(name.clone(), value.clone())),
                    Some(old) => {
                        if let Some(change) = difference(old, value, name) {
                            patch.insert(name.clone(), change);
                        }
                    }
                }
            }
            patch.extend(was.keys().filter(|name| !is.contains_key(*name)).map(|name| (name.clone(), Value::Null)));
            Some(Value::Object(patch))
        }
        (Value::Array(was), Value::Array(is)) => {
            let Some((_, key)) = KEYS.iter().find(|(name, _)| *name == field) else { return Some(json!(is)) };
            let find = |list: &[Value], value: &Value| list.iter().find(|other| other[key] == value[key]).cloned();
            let mut patch = Vec::new();
            for value in is {
                match find(was, value) {
                    None => patch.push(value.clone()),
                    Some(old) => {
                        if let Some(mut change) = difference(&old, value, "") {
                            change[key] = value[key].clone();
                            patch.push(change);
                        }
                    }
                }
            }
            let gone = was.iter().filter(|value| find(is, value).is_none());
            patch.extend(gone.map(|value| json!({"$patch": "delete", *key: value[key]})));
            Some(Value::Array(patch))
        }
        _ => Some(is.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_only_what_differs() {
        let was = json!({"a": 1, "gone": 2, "env": [{"name": "x", "value": "1"}, {"name": "y", "value": "2"}], "rules": [1, 2]});
        let is = json!({"a": 1, "new": 3, "env": [{"name": "x", "valueFrom": {"k": "v"}}, {"name": "z", "value": "3"}], "rules": [2]});
        let patch = json!({
            "gone": null, "new": 3, "rules": [2],
            "env": [{"name": "x", "value": null, "valueFrom": {"k": "v"}}, {"name": "z", "value": "3"}, {"name": "y", "$patch": "delete"}],
        });
        assert_eq!(difference(&was, &is, ""), Some(patch));
        assert_eq!(difference(&was, &was, ""), None);
    }

    #[test]
    fn objects_are_found_by_kind_and_name() {
        let was = "kind: A\nmetadata: {name: x}\n---\nkind: B\nmetadata: {name: x, namespace: there}\nspec: {a: 1}\n";
        let patch = between(was, &was.replace("a: 1", "a: 2")).unwrap().unwrap();
        assert!(
            patch.contains("kind: B") && patch.contains("namespace: there") && !patch.contains("kind: A"),
            "{patch}"
        );
        assert_eq!(between(was, was).unwrap(), None);
        let patch = between(was, "kind: A\nmetadata: {name: x}\n").unwrap().unwrap();
        assert!(patch.contains("$patch: delete") && patch.contains("kind: B"), "{patch}");
        assert!(between("kind: A\nmetadata: {name: x}\n", was).is_err());
    }
}
