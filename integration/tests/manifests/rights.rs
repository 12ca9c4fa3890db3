//! Rights: which are granted to a service account, and which were used.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::objects::Objects;

/// One right: API group (empty is the core), resource with its subresource, verb.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) verb: String,
}

impl Right {
    /// As `verb resource.group`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (verb, rest) = text.split_once(' ').with_context(|| format!("{text} is no right"))?;
        let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
        Ok(Self { group: group.to_owned(), resource: resource.to_owned(), verb: verb.to_owned() })
    }
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}

/// All rights that an installation grants to an account: by bindings, of whatever scope.
pub(crate) fn granted(objects: &Objects, account: &str) -> Result<BTreeSet<Right>> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut rights = BTreeSet::new();
    for binding in
        objects.values().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")))
    {
        let subjects = binding["subjects"].as_array().context("a binding without subjects")?;
        if !subjects.iter().any(|subject| subject["kind"] == "ServiceAccount" && subject["name"] == account) {
            continue;
        }
        let text = |field: &str| binding["roleRef"][field].as_str().unwrap_or_default();
        let role = format!("{} {}", text("kind"), text("name"));
        let rules = objects.get(&role).with_context(|| format!("there is no {role}"))?["rules"]
            .as_array()
            .context("no rules")?;
        for rule in rules {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.insert(Right { group: group.clone(), resource: resource.clone(), verb });
                    }
                }
            }
        }
    }
    Ok(rights)
}

#[test]
fn every_right_is_of_both_groups_or_of_none_and_nothing_is_a_star() -> Result<()> {
    let objects = crate::mesh()?;
    for account in ["calico-node", "ipam-controller"] {
        let rights = granted(&objects, account)?;
        anyhow::ensure!(rights.len() > 20, "{account} has {} rights", rights.len());
        for right in &rights {
            anyhow::ensure!(!format!("{right}").contains('*'), "{account}: {right}");
            let other = match &*right.group {
                "crd.projectcalico.org" => "projectcalico.org",
                "projectcalico.org" => "crd.projectcalico.org",
                _ => continue,
            };
            let resource = match &*right.resource {
                "ipamconfigs" => "ipamconfigurations",
                "ipamconfigurations" => "ipamconfigs",
                resource => resource,
            };
            let other = Right { group: other.to_owned(), resource: resource.to_owned(), verb: right.verb.clone() };
            anyhow::ensure!(rights.contains(&other), "{account}: {right}, but not {other}");
        }
    }
    Ok(())
}
