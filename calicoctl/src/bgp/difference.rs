//! What would changed resources do to the sessions, in words and in JSON?

use bgp_plan::difference::{ChangedSession, Difference, NodeDifference};
use bgp_plan::sessions::{Cluster, SessionConfig};
use serde_json::{Value, json};

use super::cluster::Meaning;
use super::{document, session_json};
use crate::arguments::Form;

/// The difference as a table of signs, or as a document.
pub(super) fn text(before: &Meaning, after: &Meaning, node: Option<&str>, form: Form) -> String {
    let difference = difference(before, after, node);
    match document(form, &json(&difference)) {
        Some(text) => text,
        None => words(&difference),
    }
}

fn difference(before: &Meaning, after: &Meaning, node: Option<&str>) -> Difference {
    let mut difference = Difference::new(&before.inputs, &after.inputs, node);
    let (old, new) = (Cluster::new(&before.inputs), Cluster::new(&after.inputs));
    for (name, of_node) in &mut difference.nodes {
        // Which workloads are peers is not part of the inputs.
        if before.has_workloads(name) || after.has_workloads(name) {
            *of_node = NodeDifference::new(&before.plan(&old, name), &after.plan(&new, name));
        }
    }
    let known = before.faults();
    difference.new_warnings.extend(after.faults().into_iter().filter(|fault| !known.contains(fault)));
    difference
}

fn words(difference: &Difference) -> String {
    let mut text = difference.to_string();
    let sessions = |count: fn(&NodeDifference) -> usize| difference.nodes.values().map(count).sum::<usize>();
    if text.is_empty() {
        text = "Nothing changes.\n".to_owned();
    }
    text += &format!(
        "\nSessions: {} added, {} kept, {} changed live, {} reset, {} removed\n",
        sessions(|node| node.added.len()),
        sessions(|node| node.kept.len()),
        sessions(|node| node.changed.len()),
        sessions(|node| node.reset.len()),
        sessions(|node| node.removed.len()),
    );
    text += "Topology after:\n";
    if difference.isolated_after.is_empty() {
        text += "  no node is left without a path to another\n";
    }
    for isolation in &difference.isolated_after {
        text += &format!("  {isolation}\n");
    }
    text
}

fn json(difference: &Difference) -> Value {
    let sessions = |sessions: &[SessionConfig]| sessions.iter().map(session_json::session).collect::<Vec<_>>();
    let changed = |sessions: &[ChangedSession]| -> Vec<Value> {
        let one =
            |it: &ChangedSession| json!({"was": it.was, "now": session_json::session(&it.now), "fields": it.fields});
        sessions.iter().map(one).collect()
    };
    let node = |(name, it): (&String, &NodeDifference)| {
        json!({
            "node": name,
            "added": sessions(&it.added),
            "kept": sessions(&it.kept),
            "changed": changed(&it.changed),
            "reset": changed(&it.reset),
            "removed": sessions(&it.removed),
            "newWarnings": it.new_warnings,
            "goneWarnings": it.gone_warnings,
        })
    };
    let texts = |isolations: &mut dyn Iterator<Item = &bgp_plan::topology::Isolation>| -> Vec<String> {
        isolations.map(ToString::to_string).collect()
    };
    json!({
        "nodes": difference.nodes.iter().map(node).collect::<Vec<_>>(),
        "newWarnings": difference.new_warnings,
        "topology": {
            "before": texts(&mut difference.isolated_before.iter()),
            "after": texts(&mut difference.isolated_after.iter()),
        },
    })
}
