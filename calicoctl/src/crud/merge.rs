//! What does a merge patch make of a value? RFC 7386, and Kubernetes' directives on top of it.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// A JSON merge patch (RFC 7386): objects are merged, everything else is replaced, `null` removes.
pub(super) fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        value.clone_from(patch);
        return;
    };
    let fields = object(value);
    for (name, patch) in patch {
        match patch {
            Value::Null => drop(fields.remove(name)),
            patch => merge(fields.entry(name).or_insert(Value::Null), patch),
        }
    }
}

/// A strategic merge patch of resources without merge keys: a merge patch that knows `$patch: replace | delete | merge`
/// and `$retainKeys`.
///
/// # Errors
/// If there is another directive.
pub(super) fn strategic(value: &mut Value, patch: &Value) -> Result<()> {
    let Value::Object(patch) = patch else {
        value.clone_from(patch);
        return Ok(());
    };
    match patch.get("$patch").map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => *value = Value::Object(Map::new()),
        Some(Some("delete")) => {
            *value = Value::Null;
            return Ok(());
        }
        Some(_) => bail!("$patch must be replace, delete or merge"),
    }
    let fields = object(value);
    if let Some(keys) = patch.get("$retainKeys") {
        let Some(keys) = keys.as_array() else { bail!("$retainKeys must be a list of fields") };
        fields.retain(|name, _| keys.iter().any(|key| key.as_str() == Some(name)));
    }
    for (name, patch) in patch {
        match (name.as_str(), patch) {
            ("$patch" | "$retainKeys", _) => {}
            (name, _) if name.starts_with('$') => {
                bail!("{name} is for lists that are merged, and no resource of Calico's has one")
            }
            (name, Value::Null) => drop(fields.remove(name)),
            (name, patch) => {
                let field = fields.entry(name).or_insert(Value::Null);
                strategic(field, patch)?;
                if field.is_null() {
                    fields.remove(name);
                }
            }
        }
    }
    Ok(())
}

/// The fields of a value; what is no object becomes an empty one.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it was just made an object")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(before: Value, patch: Value, merged: &Value, strategic: &Result<Value, &str>) {
        let mut value = before.clone();
        merge(&mut value, &patch);
        assert_eq!(&value, merged);
        let mut value = before;
        match (super::strategic(&mut value, &patch), strategic) {
            (Ok(()), Ok(expect)) => assert_eq!(&value, expect),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn objects_are_merged_lists_replaced_and_null_removes() {
        let before = json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"});
        let after = json!({"a": {"b": 1, "c": [3], "e": {"f": 2}}});
        let patch = json!({"a": {"c": [3], "e": {"f": 2, "g": null}}, "d": null});
        check(before, patch, &after, &Ok(after.clone()));
    }

    #[test]
    fn directives_are_only_the_strategic_ones() {
        let before = || json!({"a": {"b": 1, "c": 2}});
        let patch = json!({"a": {"$patch": "replace", "d": 3}});
        check(
            before(),
            patch,
            &json!({"a": {"b": 1, "c": 2, "$patch": "replace", "d": 3}}),
            &Ok(json!({"a": {"d": 3}})),
        );
        let patch = json!({"a": {"$patch": "delete"}});
        check(before(), patch, &json!({"a": {"b": 1, "c": 2, "$patch": "delete"}}), &Ok(json!({})));
        let patch = json!({"a": {"$retainKeys": ["b", "d"], "d": 4}});
        let merged = json!({"a": {"b": 1, "c": 2, "d": 4, "$retainKeys": ["b", "d"]}});
        check(before(), patch, &merged, &Ok(json!({"a": {"b": 1, "d": 4}})));
        let patch = json!({"a": {"$setElementOrder/b": []}});
        let merged = json!({"a": {"b": 1, "c": 2, "$setElementOrder/b": []}});
        check(before(), patch, &merged, &Err("$setElementOrder/b"));
    }
}
