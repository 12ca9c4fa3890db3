//! What felix says of the node's dataplane: the tunnels, and what was found that is not as it should be.

use std::path::Path;
use std::time::Duration;

use calico_agent::client::Client;
use calico_agent::{NodeStatus, Reply, Request, SOCKET};
use serde_json::{Value, json};

use crate::output::{Align, boxed};

/// How long felix may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the felix of this node; `None` if none answers, or one that is too old to be asked.
pub(super) fn ask() -> Option<NodeStatus> {
    let answer = Client::connect(Path::new(SOCKET), PATIENCE).ok()?.call(&Request::NodeStatus).ok()?;
    match answer {
        Reply::NodeStatus(status) => Some(status),
        _ => None,
    }
}

/// As text, below what Calico's own program says.
pub(super) fn text(status: &NodeStatus) -> String {
    let mut text = format!("\nDataplane status\nIn sync: {}\n", if status.in_sync { "yes" } else { "not yet" });
    if !status.tunnels.is_empty() {
        let header = ["TUNNEL", "STATE", "WANTED", "ADDRESS", "MTU"].map(|name| (name, Align::Left));
        let rows = status.tunnels.iter().map(|tunnel| {
            let state = if tunnel.up { "up" } else { "down" };
            let wanted = if tunnel.wanted { "yes" } else { "no, it lingers for other nodes" };
            let address = tunnel.address.map(|address| address.to_string()).unwrap_or_default();
            vec![tunnel.device.clone(), state.into(), wanted.into(), address, tunnel.mtu.to_string()]
        });
        text += &boxed(&header, &rows.collect::<Vec<_>>());
    }
    if status.findings.is_empty() {
        return text + "Nothing was found that is not as it should be.\n";
    }
    text += "Found:\n";
    for finding in &status.findings {
        text += &format!("  {}: {}\n", finding.object, finding.text);
    }
    text
}

/// As JSON.
pub(super) fn json(status: Option<&NodeStatus>) -> Value {
    status.map_or(Value::Null, |status| json!(status))
}

#[cfg(test)]
mod tests {
    use calico_agent::{Finding, Tunnel};

    use super::*;

    #[test]
    fn tunnels_and_findings_are_told_in_full() {
        let status = NodeStatus {
            in_sync: true,
            findings: vec![Finding { object: "flannel.1".into(), text: "it is of flannel; run x".into() }],
            tunnels: vec![Tunnel {
                device: "tunl0".into(),
                up: true,
                wanted: false,
                address: Some([10, 244, 0, 1].into()),
                mtu: 1480,
            }],
        };
        let expected = "
Dataplane status
In sync: yes
+--------+-------+--------------------------------+------------+------+
| TUNNEL | STATE | WANTED                         | ADDRESS    | MTU  |
+--------+-------+--------------------------------+------------+------+
| tunl0  | up    | no, it lingers for other nodes | 10.244.0.1 | 1480 |
+--------+-------+--------------------------------+------------+------+
Found:
  flannel.1: it is of flannel; run x
";
        assert_eq!(text(&status), expected);
        assert_eq!(json(Some(&status))["tunnels"][0]["device"], "tunl0");
    }

    #[test]
    fn a_node_without_tunnels_and_findings_is_told_shortly() {
        let text = text(&NodeStatus::default());
        assert_eq!(text, "\nDataplane status\nIn sync: not yet\nNothing was found that is not as it should be.\n");
        assert_eq!(json(None), Value::Null);
    }
}
