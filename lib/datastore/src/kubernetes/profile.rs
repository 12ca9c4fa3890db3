//! Profiles, which are views of namespaces and service accounts; nobody writes them.

use std::collections::BTreeMap;

use calico_api::{API_VERSION, Key, Kind};
use serde_json::{Value, json};

use super::codec::{Seen, metadata_of, revision_of};
use super::metadata::convert_uid;
use super::pod::OF_THE_PLUGIN;
use crate::{Entry, Revision};

/// The profile that lets everything pass; it belongs to no namespace.
pub(super) const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// Which object a profile's name speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The built-in one.
    BuiltIn,
    /// A namespace.
    Namespace(String),
    /// A service account of a namespace.
    ServiceAccount(String, String),
}

impl Source {
    /// What a name speaks of; `None` if no profile has such a name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        if name == DEFAULT_ALLOW {
            return Some(Self::BuiltIn);
        }
        if let Some(namespace) = name.strip_prefix("kns.") {
            return Some(Self::Namespace(namespace.to_owned()));
        }
        let (namespace, account) = name.strip_prefix("ksa.")?.split_once('.')?; // a namespace's name has no dot
        Some(Self::ServiceAccount(namespace.to_owned(), account.to_owned()))
    }
}

/// The profile of a namespace: what its pods may do where no policy says otherwise, and its labels.
pub(super) fn of_namespace(object: &Value) -> Seen {
    let name = metadata_of(object, "name");
    let mut labels = prefixed(object, "pcns.");
    labels.insert("pcns.projectcalico.org/name".to_owned(), name.to_owned());
    profile(format!("kns.{name}"), object, allow_all(labels))
}

/// The profile of a service account: its labels.
pub(super) fn of_service_account(object: &Value) -> Seen {
    let name = metadata_of(object, "name");
    let mut labels = prefixed(object, "pcsa.");
    labels.insert("pcsa.projectcalico.org/name".to_owned(), name.to_owned());
    profile(format!("ksa.{}.{name}", metadata_of(object, "namespace")), object, json!({"labelsToApply": labels}))
}

/// The profile that is always there.
pub(super) fn built_in() -> Entry {
    let metadata = json!({"name": DEFAULT_ALLOW, "resourceVersion": "0"});
    Entry {
        key: Key::named(Kind::Profile, DEFAULT_ALLOW),
        value: json!({"apiVersion": API_VERSION, "kind": "Profile", "metadata": metadata, "spec": allow_all(BTreeMap::new())}),
        revision: Revision("0".to_owned()),
    }
}

fn allow_all(labels: BTreeMap<String, String>) -> Value {
    let rule = json!([{"action": "Allow", "source": {}, "destination": {}}]);
    let mut spec = json!({"ingress": rule, "egress": rule});
    if !labels.is_empty() {
        spec["labelsToApply"] = json!(labels);
    }
    spec
}

fn prefixed(object: &Value, prefix: &str) -> BTreeMap<String, String> {
    let labels = object.get("metadata").and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
    let pairs = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((format!("{prefix}{key}"), value.as_str()?.to_owned())));
    pairs.collect()
}

fn profile(name: String, object: &Value, spec: Value) -> Seen {
    let revision = revision_of(object);
    let mut metadata = json!({
        "name": name,
        "uid": convert_uid(metadata_of(object, "uid")),
        "resourceVersion": revision.0,
    });
    let created = metadata_of(object, "creationTimestamp");
    if !created.is_empty() {
        metadata["creationTimestamp"] = json!(created);
    }
    // What its pods ask of their network.
    let annotations =
        object.get("metadata").and_then(|metadata| metadata.get("annotations")).and_then(Value::as_object);
    let wishes = annotations.into_iter().flatten().filter(|(name, _)| name.starts_with(OF_THE_PLUGIN));
    let wishes: serde_json::Map<String, Value> = wishes.map(|(name, text)| (name.clone(), text.clone())).collect();
    if !wishes.is_empty() {
        metadata["annotations"] = Value::Object(wishes);
    }
    let value = json!({"apiVersion": API_VERSION, "kind": "Profile", "metadata": metadata, "spec": spec});
    Seen::Entry(Entry { key: Key::named(Kind::Profile, name), value, revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_and_a_service_account_are_profiles() {
        let object = json!({"metadata": {"name": "shop", "namespace": "prod", "resourceVersion": "4",
            "uid": "8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17", "labels": {"team": "a"},
            "annotations": {"cni.projectcalico.org/ipv4pools": "[\"a\"]", "other": "b"}}});
        let Seen::Entry(namespace) = of_namespace(&object) else { panic!("no profile") };
        assert_eq!(namespace.key, Key::named(Kind::Profile, "kns.shop"));
        assert_eq!(namespace.value["metadata"]["annotations"], json!({"cni.projectcalico.org/ipv4pools": "[\"a\"]"}));
        assert_eq!(
            namespace.value["spec"]["labelsToApply"],
            json!({"pcns.team": "a", "pcns.projectcalico.org/name": "shop"})
        );
        assert_eq!(namespace.value["spec"]["ingress"][0]["action"], "Allow");
        assert_eq!(namespace.value["metadata"]["uid"], "f13cb84a-5e26-4ed0-9c84-f0d6b47a59e8");
        let Seen::Entry(account) = of_service_account(&object) else { panic!("no profile") };
        assert_eq!(account.key, Key::named(Kind::Profile, "ksa.prod.shop"));
        assert_eq!(
            account.value["spec"],
            json!({"labelsToApply": {"pcsa.team": "a", "pcsa.projectcalico.org/name": "shop"}})
        );
    }

    #[test]
    fn names_say_what_a_profile_belongs_to() {
        assert_eq!(Source::parse("kns.shop"), Some(Source::Namespace("shop".to_owned())));
        assert_eq!(Source::parse("ksa.prod.a.b"), Some(Source::ServiceAccount("prod".to_owned(), "a.b".to_owned())));
        assert_eq!(Source::parse(DEFAULT_ALLOW), Some(Source::BuiltIn));
        assert_eq!(Source::parse("mine"), None);
    }
}
