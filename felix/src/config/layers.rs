//! Which FelixConfigurations are for a node, and what they say, as layers of parameters (reference felix.md §1.9).

use std::collections::BTreeMap;

use calico_api::FelixConfiguration;
use calico_selector::Selector;
use serde_json::Value;

use super::raw::{Layer, Written};

/// The layers for the node of this name and these labels, the strongest first, and what is wrong with those that are not used.
///
/// `node.<name>`, then one of those whose `nodeSelector` matches (the oldest, then the first by name; they are not merged),
/// then `default`.
pub(crate) fn for_node<'a>(
    node: &str,
    labels: &BTreeMap<String, String>,
    all: impl IntoIterator<Item = &'a FelixConfiguration>,
) -> (Vec<Layer>, Vec<String>) {
    let own_name = format!("node.{node}");
    let (mut own, mut default, mut selected, mut problems) = (None, None, Vec::new(), Vec::new());
    for resource in all {
        let name = resource.name();
        let selector = resource.spec.node_selector.as_deref().filter(|text| !text.trim().is_empty());
        let by_name = name == "default" || name.starts_with("node.");
        match selector {
            Some(_) if by_name => {
                problems.push(format!(
                    "FelixConfiguration {name} is for its node by its name; its nodeSelector counts for nothing"
                ));
            }
            Some(text) => match Selector::parse(text) {
                Ok(selector) if selector.matches(labels) => selected.push(resource),
                Ok(_) => {}
                Err(error) => problems.push(format!("FelixConfiguration {name} is for no node: nodeSelector: {error}")),
            },
            None if !by_name => problems.push(format!(
                "FelixConfiguration {name} is for no node: call it default or node.<name>, or give it a nodeSelector"
            )),
            None => {}
        }
        if name == own_name {
            own = Some(resource);
        } else if name == "default" {
            default = Some(resource);
        }
    }
    // RFC 3339 in UTC sorts by time; one without a time is as new as can be.
    let age = |resource: &&FelixConfiguration| {
        let created = resource.metadata.creation_timestamp.clone();
        (created.is_none(), created, resource.name().to_owned())
    };
    let selected = selected.into_iter().min_by_key(age);
    (own.into_iter().chain(selected).chain(default).map(layer).collect(), problems)
}

/// Fields whose parameter has another name.
const OTHER_NAMES: &[(&str, &str)] =
    &[("ipipMTU", "IpInIpMtu"), ("ipipEnabled", "IpInIpEnabled"), ("externalNodesList", "ExternalNodesCIDRList")];

/// What one resource says, each value as the environment would have it.
fn layer(resource: &FelixConfiguration) -> Layer {
    let Ok(Value::Object(fields)) = serde_json::to_value(&resource.spec) else { return Layer::new() };
    let fields = fields.into_iter().filter(|(field, _)| field != "nodeSelector");
    let written = fields.map(|(field, value)| {
        let place = format!("{field} of FelixConfiguration {}", resource.name());
        let name = OTHER_NAMES.iter().find(|(known, _)| *known == field).map_or(field.as_str(), |(_, name)| name);
        (name.to_lowercase(), Written { place, value: text(&value) })
    });
    written.collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
        }
        // Time-outs by reporter.
        Value::Array(items) if items.iter().all(|item| item.get("timeout").is_some()) => {
            let word = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
            let all: Vec<String> =
                items.iter().map(|item| format!("{}={}", word(item, "name"), word(item, "timeout"))).collect();
            all.join(",")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::{Config, Raw};
    use super::*;

    fn resource(name: &str, created: &str, spec: Value) -> FelixConfiguration {
        let value = json!({"metadata": {"name": name, "creationTimestamp": created}, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_nodes_own_is_stronger_than_a_selected_one_and_that_than_the_default() {
        let all = [
            resource(
                "default",
                "2026-01-01T00:00:00Z",
                json!({"healthPort": 1, "routeRefreshInterval": "1m30s", "ipv6Support": false, "logSeverityScreen": "Debug"}),
            ),
            resource(
                "racks",
                "2026-01-03T00:00:00Z",
                json!({"nodeSelector": "rack == 'a'", "healthPort": 2, "logSeverityScreen": "Warning"}),
            ),
            resource(
                "older",
                "2026-01-02T00:00:00Z",
                json!({"nodeSelector": "has(rack)", "healthPort": 3, "routeRefreshInterval": "10s"}),
            ),
            resource("others", "2026-01-01T00:00:00Z", json!({"nodeSelector": "!has(rack)", "healthPort": 4})),
            resource("node.east", "2026-01-09T00:00:00Z", json!({"healthPort": 5})),
            resource("node.west", "2026-01-09T00:00:00Z", json!({"healthPort": 6})),
        ];
        let labels = [("rack".to_owned(), "a".to_owned())].into();
        let (layers, problems) = for_node("east", &labels, &all);
        assert_eq!((layers.len(), problems), (3, vec![]));
        let raw = Raw::read(&[], [("FELIX_IPV6SUPPORT".to_owned(), "true".to_owned())].into_iter(), None).unwrap();
        let config = Config::parse(&raw.over(layers), &|_| None).unwrap();
        assert_eq!(config.health.unwrap().port(), 5);
        assert_eq!(config.route_refresh, Some(Duration::from_secs(10)), "the oldest of those that select it");
        assert_eq!(config.logs.level, "debug", "selected ones are not merged with each other");
        assert!(config.ipv6, "the environment is stronger than all");
        let (layers, _) = for_node("north", &BTreeMap::new(), &all);
        let config = Config::parse(&raw.over(layers), &|_| None).unwrap();
        assert_eq!((config.health.unwrap().port(), config.route_refresh), (4, Some(Duration::from_secs(90))));
    }

    #[test]
    fn a_resource_that_is_for_nobody_and_a_bad_value_are_named() {
        let all = [
            resource(
                "default",
                "",
                json!({"nodeSelector": "all()", "ipForwarding": "maybe", "bpfEnabled": true,
                "healthTimeoutOverrides": [{"name": "CalculationGraph", "timeout": "5m"}]}),
            ),
            resource("lost", "", json!({"healthPort": 7})),
            resource("bad", "", json!({"nodeSelector": "rack ==", "healthPort": 7})),
        ];
        let (layers, problems) = for_node("east", &BTreeMap::new(), &all);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[1].contains("FelixConfiguration lost is for no node: call it default"), "{problems:?}");
        let raw = Raw::default().over(layers);
        let config = Config::parse(&raw, &|_| None).unwrap();
        let expected = "ipForwarding of FelixConfiguration default is \"maybe\"; allowed is Enabled or Disabled; the default is used";
        assert_eq!(config.problems, [expected]);
        assert_eq!(config.health_timeouts["CalculationGraph"], Duration::from_secs(300));
        assert_eq!(config.idle.len(), 1, "bpfEnabled: {:?}", config.idle);
        assert_eq!(raw.differences(&Raw::default()), ["IPForwarding", "HealthTimeoutOverrides"]);
    }
}
