//! Resources that a scenario changes while its lab runs, all of them through `calicoctl`.

use std::mem;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::node::Node;

/// The version of Calico's API.
const CALICO: &str = "projectcalico.org/v3";

/// What is to change of a Node: these labels, and this part of `spec.bgp`. [`apply`] patches it, for felix writes Nodes too, and
/// what was read a moment ago may be of yesterday.
pub(super) fn node_with(node: &Node<'_>, labels: &[(&str, &str)], bgp: &Value) -> Value {
    let labels: Map<String, Value> = labels.iter().map(|(label, value)| ((*label).to_owned(), json!(value))).collect();
    let mut resource = resource("Node", node.name(), json!({}));
    resource["metadata"]["labels"] = Value::Object(labels);
    if !bgp.is_null() {
        resource["spec"]["bgp"] = bgp.clone();
    }
    resource
}

/// A resource of Calico's API.
pub(super) fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": CALICO, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// `calicoctl apply -f -` of these, in this order, and `calicoctl patch` of Nodes; where there is an API server, Services and
/// their endpoints go there, as by kubectl.
///
/// # Errors
/// If it fails, with what it said.
pub(super) fn apply(node: &Node<'_>, resources: &[Value]) -> Result<()> {
    let mut documents = Vec::new();
    for resource in resources {
        let of_calico = resource["apiVersion"] == CALICO;
        if of_calico && resource["kind"] == "Node" {
            apply_all(node, &mut documents)?;
            patch(node, resource)?;
            continue;
        }
        let kept = match node.net().server() {
            Some(server) if !of_calico => server.apply(resource)?,
            _ => false,
        };
        if !kept {
            documents.push(format!("{resource:#}\n"));
        }
    }
    apply_all(node, &mut documents)
}

fn apply_all(node: &Node<'_>, documents: &mut Vec<String>) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    node.apply(&mem::take(documents).join("---\n")).map(drop)
}

fn patch(node: &Node<'_>, resource: &Value) -> Result<()> {
    let name = resource["metadata"]["name"].as_str().context("a Node to be patched has a name")?;
    node.calicoctl(&["patch", "node", name, "--patch", &resource.to_string()]).map(drop)
}
