//! Resources that a scenario changes while its lab runs, all of them through `calicoctl`.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::node::Node;

/// The version of Calico's API.
const CALICO: &str = "projectcalico.org/v3";

/// A Node as it is in the store, with these labels and this part of `spec.bgp` besides.
///
/// # Errors
/// If `calicoctl` fails.
pub(super) fn node_with(node: &Node<'_>, labels: &[(&str, &str)], bgp: &Value) -> Result<Value> {
    let text = node.calicoctl(&["get", "node", node.name(), "-o", "json"])?;
    let mut resource: Value = serde_json::from_str(&text).context("calicoctl get node -o json")?;
    let mut all = resource["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    for (label, value) in labels {
        all.insert((*label).to_owned(), json!(value));
    }
    resource["metadata"]["labels"] = Value::Object(all);
    for (field, value) in bgp.as_object().into_iter().flatten() {
        resource["spec"]["bgp"][field] = value.clone();
    }
    Ok(resource)
}

/// A resource of Calico's API.
pub(super) fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": CALICO, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// `calicoctl apply -f -` of these, in this order; where there is an API server, Services and their endpoints go there, as by
/// kubectl.
///
/// # Errors
/// If it fails, with what it said.
pub(super) fn apply(node: &Node<'_>, resources: &[Value]) -> Result<()> {
    let mut documents = Vec::new();
    for resource in resources {
        let of_calico = resource["apiVersion"] == CALICO;
        let kept = match node.net().server() {
            Some(server) if !of_calico => server.apply(resource)?,
            _ => false,
        };
        if !kept {
            documents.push(format!("{resource:#}\n"));
        }
    }
    if documents.is_empty() {
        return Ok(());
    }
    node.apply(&documents.join("---\n")).map(drop)
}
