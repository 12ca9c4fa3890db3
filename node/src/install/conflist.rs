//! How does a template become a network configuration, and is that one?

use std::collections::BTreeMap;

use serde_json::Value;

/// The plugin that must be in it.
const OURS: &str = "calico";

/// What was made of a template is no configuration for our plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConflistError {
    /// It is not JSON.
    #[error("the network configuration is not JSON, {reason}: {line}; correct CNI_NETWORK_CONFIG")]
    Json {
        /// What and where.
        reason: String,
        /// The line in question, in part.
        line: String,
    },
    /// It is JSON, but the runtime or our plugin will not take it.
    #[error("the network configuration {0}; correct CNI_NETWORK_CONFIG")]
    Shape(&'static str),
}

/// A network configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflist {
    /// As it is written.
    pub text: String,
    /// Programs that it names, but for ours.
    pub others: Vec<String>,
    /// Placeholders that nobody knows.
    pub unknown: Vec<String>,
}

/// Puts the values in the places of `__NAME__` and looks at the result. `is_list` says whether the file's name promises a
/// list of plugins (`.conflist`) or one plugin.
///
/// # Errors
/// If it is not JSON, or not a configuration with our plugin.
pub fn make(template: &str, values: &BTreeMap<&'static str, String>, is_list: bool) -> Result<Conflist, ConflistError> {
    let (mut text, unknown) = substitute(template, values);
    let value: Value = serde_json::from_str(&text).map_err(|error| {
        let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        ConflistError::Json { reason: error.to_string(), line: line.trim().chars().take(120).collect() }
    })?;
    let programs = programs(&value, is_list)?;
    if !programs.iter().any(|program| program == OURS) {
        return Err(ConflistError::Shape("names no plugin of the type \"calico\""));
    }
    let mut others: Vec<String> =
        programs.into_iter().filter(|program| program != OURS && program != "calico-ipam").collect();
    others.sort();
    others.dedup();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(Conflist { text, others, unknown })
}

/// In one pass: a value that looks like a placeholder stays as it is. Values are written as within a JSON text, so that a
/// quotation mark in one breaks nothing.
fn substitute(template: &str, values: &BTreeMap<&'static str, String>) -> (String, Vec<String>) {
    let (mut text, mut unknown) = (String::with_capacity(template.len()), Vec::new());
    let mut rest = template;
    while let Some(at) = rest.find("__") {
        let (before, from) = rest.split_at(at);
        text.push_str(before);
        let name = from.get(2..).and_then(|behind| behind.split_once("__")).map(|(name, _)| name);
        let name = name.filter(|name| {
            let plain = name.bytes().all(|octet| octet.is_ascii_uppercase() || octet == b'_');
            plain && name.starts_with(|c: char| c.is_ascii_uppercase())
        });
        let value = name.and_then(|name| Some((name, values.get(name)?)));
        let taken = match (value, name) {
            (Some((name, value)), _) => {
                let written = Value::from(value.as_str()).to_string();
                text.push_str(written.trim_start_matches('"').strip_suffix('"').unwrap_or_default());
                name.len() + 4
            }
            (None, Some(name)) => {
                unknown.push(format!("__{name}__"));
                text.extend(["__", name, "__"]);
                name.len() + 4
            }
            (None, None) => {
                text.push('_');
                1
            }
        };
        rest = from.get(taken..).unwrap_or_default();
    }
    text.push_str(rest);
    (text, unknown)
}

/// The programs that a configuration names, those of IPAM with them.
fn programs(value: &Value, is_list: bool) -> Result<Vec<String>, ConflistError> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !value.is_object() {
        return Err(ConflistError::Shape("is no JSON object"));
    }
    if !text(value, "name").is_some_and(|name| !name.is_empty() && name.chars().all(plain)) {
        return Err(ConflistError::Shape("has no \"name\" of letters, digits, '_', '.' and '-'"));
    }
    let single = std::slice::from_ref(value);
    let plugins = match (value.get("plugins").and_then(Value::as_array), is_list) {
        (Some(plugins), true) => plugins.as_slice(),
        (None, true) => return Err(ConflistError::Shape("has no list \"plugins\", which a .conflist must have")),
        (Some(_), false) => {
            return Err(ConflistError::Shape("is a list of plugins; CNI_CONF_NAME must end in .conflist"));
        }
        (None, false) => single,
    };
    let mut programs = Vec::new();
    for plugin in plugins {
        programs.push(text(plugin, "type").ok_or(ConflistError::Shape("has a plugin without a \"type\""))?);
        programs.extend(plugin.get("ipam").and_then(|ipam| text(ipam, "type")));
    }
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::settings::TEMPLATE;
    use proptest::prelude::*;

    fn values() -> BTreeMap<&'static str, String> {
        let pairs = [
            ("KUBERNETES_NODE_NAME", "node-1"),
            ("CNI_MTU", "1440"),
            ("LOG_LEVEL", "info"),
            ("LOG_FILE_PATH", "/var/log/x"),
            ("DATASTORE_TYPE", "kubernetes"),
            ("ETCD_KEY_FILE", ""),
        ];
        pairs.into_iter().map(|(name, value)| (name, value.to_owned())).collect()
    }

    #[test]
    fn our_own_template_becomes_a_configuration() {
        let made = make(TEMPLATE, &values(), true).unwrap();
        let value: Value = serde_json::from_str(&made.text).unwrap();
        assert_eq!(value["plugins"][0]["nodename"], "node-1");
        assert_eq!(value["plugins"][0]["mtu"], 1440);
        assert_eq!((made.others, made.unknown), (vec!["portmap".to_owned()], vec![]));
    }

    #[test]
    fn placeholders_are_replaced_once_and_what_is_none_stays() {
        #[track_caller]
        fn check(template: &str, expected: &str, unknown: &[&str]) {
            let (text, names) = substitute(template, &values());
            assert_eq!((text.as_str(), names), (expected, unknown.iter().map(|name| (*name).to_owned()).collect()));
        }
        check("__CNI_MTU__", "1440", &[]);
        check("a__CNI_MTU____LOG_LEVEL__b", "a1440infob", &[]);
        check("___CNI_MTU__", "_1440", &[]);
        check("x__y__ __ __CNI_MTU", "x__y__ __ __CNI_MTU", &[]);
        check("__COLOUR__ __CNI_MTU__", "__COLOUR__ 1440", &["__COLOUR__"]);
        check("[__ETCD_KEY_FILE__]", "[]", &[]);
        let values = BTreeMap::from([("A", "__B__\"\\".to_owned()), ("B", "b".to_owned())]);
        assert_eq!(substitute("\"__A__\"", &values), ("\"__B__\\\"\\\\\"".to_owned(), vec![]));
    }

    #[test]
    fn what_the_runtime_would_not_take_is_refused_with_its_place() {
        #[track_caller]
        fn check(template: &str, is_list: bool, text: &str) {
            let error = make(template, &values(), is_list).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("CNI_NETWORK_CONFIG"), "{error}");
        }
        check("{\n  \"name\": \"x\",\n  \"mtu\": __MTU__,\n}", true, "line 3 column 10: \"mtu\": __MTU__,");
        check("", true, "EOF");
        check("[]", true, "no JSON object");
        check(r#"{"plugins": [{"type": "calico"}]}"#, true, "no \"name\"");
        check(r#"{"name": "a b", "plugins": [{"type": "calico"}]}"#, true, "no \"name\"");
        check(r#"{"name": "a", "type": "calico"}"#, true, "no list \"plugins\"");
        check(r#"{"name": "a", "plugins": [{"type": "calico"}]}"#, false, "must end in .conflist");
        check(r#"{"name": "a", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}"#, true, "\"calico\"");
        check(r#"{"name": "a", "plugins": [{}]}"#, true, "without a \"type\"");
        assert!(make(r#"{"name": "a", "type": "calico", "ipam": {"type": "host-local"}}"#, &values(), false).is_ok());
    }

    proptest! {
        #[test]
        fn any_value_comes_out_as_it_went_in(value in any::<String>(), other in "[^_]*") {
            let values = BTreeMap::from([("LOG_LEVEL", value.clone())]);
            let (text, unknown) = substitute("{\"a\": \"__LOG_LEVEL__\"}", &values);
            prop_assert!(unknown.is_empty());
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read["a"].as_str(), Some(value.as_str()));
            prop_assert_eq!(substitute(&other, &values).0, other);
        }
    }
}
