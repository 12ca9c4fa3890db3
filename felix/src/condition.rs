//! Kubernetes' Node says whether the node's dataplane is as it should be: its condition OcicatDataplane.
//!
//! Unlike NetworkUnavailable it keeps no pod away: what is found is a tunnel or a rule, not the node's network.

use std::time::Duration;

use calico_agent::Finding;
use calico_datastore::{Error, NodeCondition, Store};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::bring_up::Site;
use crate::findings::Findings;
use crate::state::State;

/// The condition's type.
const TYPE: &str = "OcicatDataplane";
/// Findings come in groups: so long is waited for more.
const SETTLE: Duration = Duration::from_secs(2);
/// The first and the longest wait after a write that failed.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest message, in octets: etcd's and kubectl's users are spared a novel.
const LONG: usize = 2048;

/// Keeps the condition up to date, once Felix is in sync; `made_anew` tells of a Node that is another one. Does nothing
/// without Kubernetes.
pub(crate) async fn run(
    site: Site,
    findings: Findings,
    mut state: watch::Receiver<State>,
    mut made_anew: watch::Receiver<u64>,
) {
    let Some(kubernetes) = &site.kubernetes else { return std::future::pending().await };
    if state.wait_for(|state| state.in_sync).await.is_err() {
        return;
    }
    let mut changes = findings.subscribe();
    loop {
        sleep(SETTLE).await;
        changes.mark_unchanged();
        made_anew.mark_unchanged();
        write(kubernetes, site.kubernetes_node(), &findings).await;
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = made_anew.changed() => if changed.is_err() { return },
        }
    }
}

/// Writes what is found now, unless the Node says so already.
async fn write(kubernetes: &Store, node: &str, findings: &Findings) {
    let mut wait = FIRST;
    let mut said = None;
    loop {
        let now = jiff::Timestamp::now().as_second();
        let now = jiff::Timestamp::from_second(now).unwrap_or_default().to_string();
        let condition = condition(&findings.all(), now);
        let error = match timeout(PATIENCE, kubernetes.backend().set_node_condition(node, &condition)).await {
            Ok(Ok(true)) => return info!(status = condition.status, "condition OcicatDataplane written"),
            Ok(Ok(false)) => return debug!("condition OcicatDataplane is so already"),
            Ok(Err(Error::NotFound(_))) => format!("there is no Kubernetes node {node}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "Kubernetes does not answer".to_owned(),
        };
        if said.as_ref() != Some(&error) {
            warn!(error, again_in = ?wait, "condition OcicatDataplane is not written");
            said = Some(error);
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
    }
}

fn condition(findings: &[Finding], now: String) -> NodeCondition {
    let (reason, mut message) = match findings {
        [] => ("AsDesired", "Devices, routes and packet rules are as desired".to_owned()),
        some => {
            let mut message = String::new();
            for Finding { object, text } in some {
                let separator = if message.is_empty() { "" } else { "; " };
                message.push_str(&format!("{separator}{object}: {text}"));
                // There may be thousands, of which nobody reads more here.
                if message.len() > LONG {
                    break;
                }
            }
            ("Findings", message)
        }
    };
    if message.len() > LONG {
        let end = (0..=LONG).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
        message.truncate(end);
        message.push_str("… (calicoctl node status has all)");
    }
    NodeCondition {
        condition_type: TYPE.to_owned(),
        status: findings.is_empty(),
        reason: reason.to_owned(),
        message,
        now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_holds_while_nothing_is_found_and_names_what_is() {
        let none = condition(&[], String::new());
        assert_eq!((none.status, none.reason.as_str()), (true, "AsDesired"));
        let finding = |text: &str| Finding { object: "tunl0".to_owned(), text: text.to_owned() };
        let some = condition(&[finding("x"), finding("y")], String::new());
        assert_eq!(
            (some.status, some.reason.as_str(), some.message.as_str()),
            (false, "Findings", "tunl0: x; tunl0: y")
        );
        let long = condition(&[finding(&"ü".repeat(LONG))], String::new());
        assert!(long.message.len() < LONG + 50 && long.message.ends_with("has all)"), "{}", long.message.len());
        let many: Vec<Finding> = (0..5000).map(|number| finding(&number.to_string())).collect();
        let many = condition(&many, String::new()).message;
        assert!(many.starts_with("tunl0: 0; tunl0: 1; ") && many.ends_with("has all)"), "{many}");
    }
}
