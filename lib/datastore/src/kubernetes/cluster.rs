//! What a node's bring-up asks of Kubernetes itself: the texts of one ConfigMap, and one condition of its Node.

use std::collections::BTreeMap;

use calico_api::{Key, Kind};
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};

use super::Kubernetes;
use super::client::{Failure, STRATEGIC_PATCH};
use super::group::is_segment;
use crate::{Error, NodeCondition, Result};

impl Kubernetes {
    pub(super) async fn get_config_map(&self, namespace: &str, name: &str) -> Result<Option<BTreeMap<String, String>>> {
        if !is_segment(namespace) || !is_segment(name) {
            return Ok(None);
        }
        match self.client.get(&format!("/api/v1/namespaces/{namespace}/configmaps/{name}")).await {
            Ok(object) => serde_json::from_value::<ConfigMap>(object)
                .map(|found| Some(found.data.unwrap_or_default()))
                .map_err(|error| self.unavailable(format!("its ConfigMap {namespace}/{name} is not one: {error}"))),
            Err(Failure::Refused(status)) if status.code == 404 => Ok(None),
            Err(Failure::Refused(status)) if matches!(status.code, 401 | 403) => Err(self.unauthorized(&status)),
            Err(Failure::Refused(status)) => Err(self.unavailable(format!("{} ({})", status.message, status.code))),
            Err(Failure::Unreachable(reason)) => Err(self.unavailable(reason)),
        }
    }

    pub(super) async fn write_node_condition(&self, node: &str, condition: &NodeCondition) -> Result<bool> {
        let key = Key::named(Kind::Node, node);
        if !is_segment(node) {
            return Err(Error::NotFound(key));
        }
        let path = format!("/api/v1/nodes/{node}");
        let object = self.client.get(&path).await.map_err(|failure| self.failed(&key, failure))?;
        let Some(patch) = patch(&object, condition) else { return Ok(false) };
        // The server merges conditions by their type: those of others stay, whoever writes at the same time.
        let patched = self.client.send(Method::PATCH, &format!("{path}/status"), STRATEGIC_PATCH, &patch).await;
        patched.map(|_| true).map_err(|failure| self.failed(&key, failure))
    }
}

/// What makes the condition of a Node so; `None` if it is.
fn patch(node: &Value, condition: &NodeCondition) -> Option<Value> {
    let status = if condition.status { "True" } else { "False" };
    let present = node.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    let mut present = present.filter(|present| present["type"] == *condition.condition_type);
    let is_so = |present: &Value| {
        present["status"] == status
            && present["reason"] == *condition.reason
            && present["message"] == *condition.message
    };
    let before = present.next();
    if before.is_some_and(is_so) {
        return None;
    }
    let mut wanted = json!({
        "type": condition.condition_type, "status": status, "reason": condition.reason, "message": condition.message,
        "lastHeartbeatTime": condition.now,
    });
    if before.is_none_or(|before| before["status"] != status) {
        wanted["lastTransitionTime"] = json!(condition.now);
    }
    Some(json!({"status": {"conditions": [wanted]}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_only_if_it_is_not_so_and_keeps_its_time_while_its_status_stays() {
        let down = NodeCondition {
            condition_type: "NetworkUnavailable".to_owned(),
            status: true,
            reason: "CalicoIsDown".to_owned(),
            message: "m".to_owned(),
            now: "2026-11-21T20:00:00Z".to_owned(),
        };
        let node = |conditions: Value| json!({"status": {"conditions": conditions}});
        let of_others = json!({"type": "Ready", "status": "True"});
        let written = |present: Value| patch(&present, &down).map(|patch| patch["status"]["conditions"][0].clone());
        let fresh = written(node(json!([of_others]))).unwrap();
        assert_eq!((&fresh["status"], &fresh["lastTransitionTime"]), (&json!("True"), &json!(down.now)));
        assert_eq!(written(json!({})).unwrap(), fresh);
        let mut there = fresh.clone();
        assert_eq!(written(node(json!([of_others, there]))), None);
        there["reason"] = json!("NoRouteCreated");
        let again = written(node(json!([there]))).unwrap();
        assert_eq!(again.get("lastTransitionTime"), None, "it was true before");
        there["status"] = json!("False");
        assert_eq!(written(node(json!([there]))).unwrap(), fresh);
    }
}
