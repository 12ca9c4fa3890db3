//! Which rights a service account is granted, by roles and bindings, and which of them it used, as the API server's audit
//! log has it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// The namespace of Ocicat's accounts.
const NAMESPACE: &str = "kube-system";

/// One right: API group (empty is the core), resource with its subresource, verb.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The API group, without a version.
    pub group: String,
    /// The resource in the plural, with `/` and its part where the right is of a part.
    pub resource: String,
    /// What may be done with it.
    pub verb: String,
}

impl Right {
    /// As `verb resource.group`.
    ///
    /// # Errors
    /// If the text is not that.
    pub fn parse(text: &str) -> Result<Self> {
        let (verb, rest) = text.split_once(' ').with_context(|| format!("{text} is no right"))?;
        let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
        Ok(Self { group: group.to_owned(), resource: resource.to_owned(), verb: verb.to_owned() })
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = if self.group.is_empty() { "" } else { "." };
        write!(f, "{} {}{dot}{}", self.verb, self.resource, self.group)
    }
}

/// All rights that these objects, among them roles and bindings, grant to an account of kube-system by its name.
///
/// # Errors
/// If a binding to it has no role.
pub fn granted<'a>(objects: impl IntoIterator<Item = &'a Value>, account: &str) -> Result<BTreeSet<Right>> {
    let objects: Vec<&Value> = objects.into_iter().collect();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let mut rights = BTreeSet::new();
    for binding in objects.iter().filter(|object| text(&object["kind"]).ends_with("RoleBinding")) {
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        let ours = |subject: &Value| {
            subject["kind"] == "ServiceAccount" && subject["name"] == account && subject["namespace"] == NAMESPACE
        };
        if !subjects.into_iter().any(ours) {
            continue;
        }
        let (kind, name) = (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]);
        let role = objects.iter().find(|role| {
            let here = *kind == "ClusterRole" || role["metadata"]["namespace"] == binding["metadata"]["namespace"];
            role["kind"] == *kind && role["metadata"]["name"] == *name && here
        });
        let role = role.with_context(|| format!("there is no {} {}", text(kind), text(name)))?;
        for rule in role["rules"].as_array().into_iter().flatten() {
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

/// What an account did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Rights that it used.
    pub used: BTreeSet<Right>,
    /// What it was refused for want of a right.
    pub refused: BTreeSet<String>,
}

impl Deeds {
    /// Which of these rights it did not use.
    pub fn unused<'a>(&'a self, granted: &'a BTreeSet<Right>) -> impl Iterator<Item = &'a Right> {
        granted.difference(&self.used)
    }

    fn record(&mut self, event: &Value) {
        let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        if code == 401 || code == 403 {
            self.refused.insert(format!("{} {} ({code})", of(&event["verb"]), of(&event["requestURI"])));
            return;
        }
        let object = &event["objectRef"];
        let mut resource = of(&object["resource"]);
        if resource.is_empty() {
            return; // discovery, which everybody may
        }
        if let Some(part) = object["subresource"].as_str() {
            resource = format!("{resource}/{part}");
        }
        self.used.insert(Right { group: of(&object["apiGroup"]), resource, verb: of(&event["verb"]) });
    }
}

/// All that an account of kube-system did, as an audit log (one JSON object a line) has it up to now.
///
/// # Errors
/// If the log cannot be read.
pub fn deeds(log: &Path, account: &str) -> Result<Deeds> {
    let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
    let mut deeds = Deeds::default();
    for line in BufReader::new(File::open(log).with_context(|| log.display().to_string())?).lines() {
        let line = line.with_context(|| log.display().to_string())?;
        // Most are others'. The last may be half written.
        if line.contains(&user)
            && let Ok(event) = serde_json::from_str::<Value>(&line)
            && event["user"]["username"] == *user
        {
            deeds.record(&event);
        }
    }
    Ok(deeds)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(user: &str, verb: &str, object: Value, code: u16) -> String {
        let user = format!("system:serviceaccount:kube-system:{user}");
        json!({"user": {"username": user}, "verb": verb, "requestURI": "/there", "objectRef": object,
            "responseStatus": {"code": code}})
        .to_string()
    }

    #[test]
    fn what_an_account_used_is_told_from_what_it_was_refused_and_from_others_deeds() -> Result<()> {
        let pods = json!({"resource": "pods"});
        let log = tempfile::NamedTempFile::new()?;
        let lines = [
            event("calico-node", "get", pods.clone(), 404),
            event(
                "calico-node",
                "update",
                json!({"resource": "blocks", "apiGroup": "g", "subresource": "status"}),
                200,
            ),
            event("calico-node", "delete", pods.clone(), 403),
            event("calico-nodes", "watch", pods.clone(), 200),
            event("calico-node", "list", pods, 200)[..40].to_owned(),
        ];
        std::fs::write(log.path(), lines.join("\n"))?;
        let deeds = deeds(log.path(), "calico-node")?;
        let shown: Vec<_> = deeds.used.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["get pods", "update blocks/status.g"]);
        assert_eq!(deeds.refused, BTreeSet::from(["delete /there (403)".to_owned()]));
        let granted = ["get pods", "watch pods"].into_iter().map(Right::parse).collect::<Result<_>>()?;
        assert_eq!(deeds.unused(&granted).map(ToString::to_string).collect::<Vec<_>>(), ["watch pods"]);
        Ok(())
    }

    #[test]
    fn a_role_is_that_of_its_bindings_namespace() -> Result<()> {
        let role = |kind: &str, namespace: &str, verb: &str| {
            json!({"kind": kind, "metadata": {"name": "r", "namespace": namespace},
                "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]})
        };
        let binding = |kind: &str, role: &str, of: &str| {
            json!({"kind": kind, "metadata": {"name": "b", "namespace": "here"}, "roleRef": {"kind": role, "name": "r"},
                "subjects": [{"kind": "ServiceAccount", "name": "calico-node", "namespace": of}]})
        };
        let objects = [
            role("Role", "there", "delete"),
            role("Role", "here", "get"),
            role("ClusterRole", "", "list"),
            binding("RoleBinding", "Role", "kube-system"),
            binding("ClusterRoleBinding", "ClusterRole", "elsewhere"),
        ];
        let rights = granted(&objects, "calico-node")?;
        assert_eq!(rights.iter().map(ToString::to_string).collect::<Vec<_>>(), ["get pods"]);
        assert!(granted(&objects[3..], "calico-node").unwrap_err().to_string().contains("there is no Role r"));
        Ok(())
    }
}
