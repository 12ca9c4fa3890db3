//! What does a JSON patch (RFC 6902) make of a value?

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

/// Applies the operations in order; after an error the value is of no use.
///
/// # Errors
/// If the patch is none, or an operation cannot be done; its number is told, from 1.
pub(super) fn apply(value: &mut Value, patch: &Value) -> Result<()> {
    let Some(operations) = patch.as_array() else {
        bail!("a JSON patch is a list of operations, such as [{{\"op\": \"remove\", \"path\": \"/spec/password\"}}]")
    };
    for (index, operation) in operations.iter().enumerate() {
        one(value, operation).with_context(|| format!("operation {} of the patch", index + 1))?;
    }
    Ok(())
}

fn one(value: &mut Value, operation: &Value) -> Result<()> {
    let text = |field: &str| {
        let text = operation.get(field).and_then(Value::as_str);
        text.ok_or_else(|| anyhow!("it has no \"{field}\""))
    };
    let given = || operation.get("value").cloned().ok_or_else(|| anyhow!("it has no \"value\""));
    let path = text("path")?;
    match text("op")? {
        "add" => add(value, path, given()?),
        "remove" => remove(value, path).map(drop),
        "replace" => {
            *at(value, path)? = given()?;
            Ok(())
        }
        "copy" => {
            let copied = at(value, text("from")?)?.clone();
            add(value, path, copied)
        }
        "move" => {
            let from = text("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                bail!("{from} cannot be moved into itself");
            }
            let moved = remove(value, from)?;
            add(value, path, moved)
        }
        "test" => {
            let expected = given()?;
            let found = at(value, path)?;
            if *found != expected {
                bail!("{path} is {found}, not {expected}");
            }
            Ok(())
        }
        other => bail!("\"{other}\" is none of add, remove, replace, move, copy and test"),
    }
}

fn at<'a>(value: &'a mut Value, path: &str) -> Result<&'a mut Value> {
    value.pointer_mut(path).ok_or_else(|| anyhow!("there is no {path}"))
}

/// The path of what holds the place, and the place's name in it.
fn split(path: &str) -> Result<(&str, String)> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| anyhow!("{path:?} does not begin with /"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(value: &mut Value, path: &str, new: Value) -> Result<()> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    let (parent, name) = split(path)?;
    match at(value, parent)? {
        Value::Object(fields) => {
            fields.insert(name, new);
        }
        Value::Array(list) => {
            let index = if name == "-" { list.len() } else { index(&name)? };
            if index > list.len() {
                bail!("{parent} has only {} elements", list.len());
            }
            list.insert(index, new);
        }
        _ => bail!("{parent} is neither an object nor a list"),
    }
    Ok(())
}

fn remove(value: &mut Value, path: &str) -> Result<Value> {
    let missing = || anyhow!("there is no {path}");
    let (parent, name) = split(path)?;
    match at(value, parent)? {
        Value::Object(fields) => fields.remove(&name).ok_or_else(missing),
        Value::Array(list) => {
            let index = index(&name)?;
            if index < list.len() { Ok(list.remove(index)) } else { Err(missing()) }
        }
        _ => Err(missing()),
    }
}

fn index(name: &str) -> Result<usize> {
    let canonical = name == "0" || !name.starts_with(['0', '+']);
    name.parse().ok().filter(|_| canonical).ok_or_else(|| anyhow!("{name:?} is not the index of an element"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(operations: Value, expect: Result<Value, &str>) {
        let mut value = json!({"a": {"b": [1, 2], "c/d": 3}});
        match (apply(&mut value, &operations), expect) {
            (Ok(()), Ok(expect)) => assert_eq!(value, expect),
            (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{error:#}"),
            (got, expect) => panic!("{got:?}, expected {expect:?}, value {value}"),
        }
    }

    #[test]
    fn every_operation_does_what_the_rfc_says() {
        check(
            json!([
                {"op": "test", "path": "/a/b/0", "value": 1},
                {"op": "add", "path": "/a/b/1", "value": 9},
                {"op": "add", "path": "/a/b/-", "value": 8},
                {"op": "remove", "path": "/a/b/0"},
                {"op": "replace", "path": "/a/c~1d", "value": {"x": 1}},
                {"op": "copy", "from": "/a/b", "path": "/e"},
                {"op": "move", "from": "/a/c~1d/x", "path": "/a/y"},
            ]),
            Ok(json!({"a": {"b": [9, 2, 8], "c/d": {}, "y": 1}, "e": [9, 2, 8]})),
        );
    }

    #[test]
    fn what_cannot_be_done_is_named_with_its_number() {
        let fine = json!({"op": "add", "path": "/x", "value": 1});
        for (operation, said) in [
            (json!({"op": "remove", "path": "/a/x"}), "operation 2 of the patch: there is no /a/x"),
            (json!({"op": "test", "path": "/a/b/0", "value": 2}), "/a/b/0 is 1, not 2"),
            (json!({"op": "add", "path": "/a/b/7", "value": 2}), "/a/b has only 2 elements"),
            (json!({"op": "add", "path": "/a/b/01", "value": 2}), "\"01\" is not the index"),
            (json!({"op": "move", "from": "/a", "path": "/a/z"}), "cannot be moved into itself"),
            (json!({"op": "grow", "path": "/a"}), "\"grow\" is none of"),
            (json!({"op": "add", "path": "/a"}), "no \"value\""),
            (json!({"op": "remove", "path": "a"}), "does not begin with /"),
        ] {
            check(json!([fine, operation]), Err(said));
        }
        check(json!({"spec": {}}), Err("a JSON patch is a list"));
    }
}
