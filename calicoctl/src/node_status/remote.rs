//! How is another node? It is asked by a CalicoNodeStatus, which its agent fills in and we delete again.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use calico_api::{
    BGPDaemonStatus, CalicoNodeCondition, CalicoNodePeer, CalicoNodeRoute, CalicoNodeStatus, CalicoNodeStatusSpec,
    CalicoNodeStatusStatus, Key, Kind, ObjectMeta, Resource, to_json,
};
use calico_datastore::{Error, Filter, Store};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::families;
use crate::arguments::{Globals, NodeStatus, StatusForm};
use crate::bird::Peer;
use crate::output::{Align, boxed};
use crate::{client, output};

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often we look for the answer.
const STEP: Duration = Duration::from_millis(200);

/// What a role needs for this.
const RIGHTS: &str = "create, get and delete of caliconodestatuses, in the API group of Calico's resources";

/// Runs it.
pub(super) async fn run(node: &str, flags: &NodeStatus, globals: &Globals) -> Result<ExitCode> {
    let store = client::open_gated(globals).await?;
    match store.backend().get(&Key::named(Kind::Node, node)).await {
        Ok(_) | Err(Error::Corrupt(_)) => {}
        Err(Error::NotFound(_)) => bail!("there is no node {node} in the datastore: see calicoctl get nodes"),
        // The right to read nodes is not needed for what follows.
        Err(Error::Unauthorized(_)) => {}
        Err(error) => return Err(error).context(format!("cannot look for node {node}")),
    }
    let status = ask(&store, node, flags.routes, PATIENCE).await?;
    let age = age(&status);
    output::print(&match flags.output {
        StatusForm::Ps => text(node, &status, age),
        StatusForm::Json => to_json(&document(node, &status, age)) + "\n",
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Asks by an object of our own; where we may not make one, by what others have asked.
async fn ask(store: &Store, node: &str, routes: bool, patience: Duration) -> Result<CalicoNodeStatusStatus> {
    let mut classes = vec!["Agent".to_owned(), "BGP".to_owned()];
    if routes {
        classes.push("Routes".to_owned());
    }
    let spec = CalicoNodeStatusSpec {
        node: Some(node.to_owned()),
        classes: Some(classes.clone()),
        update_period_seconds: Some(0),
    };
    let mut object: CalicoNodeStatus = Resource::new(ObjectMeta::named(name(node)), spec);
    object.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
    object.metadata.creation_timestamp = Some(ipam::block::whole_seconds(Timestamp::now()));
    match store.create(&object).await {
        Ok(_) => {}
        Err(Error::Unauthorized(reason)) => {
            let there = asked_by_others(store, node, &classes).await;
            return there.ok_or_else(|| {
                anyhow!("connection is unauthorized: {reason}; to ask a node, the role needs {RIGHTS}")
            });
        }
        Err(error) => return Err(error).context("cannot make a CalicoNodeStatus to ask the node with"),
    }
    let key = object.key();
    let answer = tokio::select! {
        answer = wait(store, &key, node, patience) => answer,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    match store.delete_key(&key).await {
        Ok(()) | Err(Error::NotFound(_)) => {}
        Err(error) => output::errors(&format!("cannot delete {key}: {error}; delete it by hand\n"))?,
    }
    answer
}

/// A name that no other run has, and that people understand who find it.
fn name(node: &str) -> String {
    let number = uuid::Uuid::new_v4().simple().to_string();
    let short: String = number.chars().take(8).collect();
    let node: String = node.chars().take(200).collect();
    format!("calicoctl-{}-{short}", node.trim_end_matches(['.', '-']))
}

async fn wait(store: &Store, key: &Key, node: &str, patience: Duration) -> Result<CalicoNodeStatusStatus> {
    let deadline = Instant::now() + patience;
    loop {
        let object = match store.get::<CalicoNodeStatusSpec>(key).await {
            Ok(object) => object,
            Err(Error::Unauthorized(reason)) => {
                bail!("connection is unauthorized: {reason}; to ask a node, the role needs {RIGHTS}")
            }
            Err(error) => return Err(error).context("cannot read the answer"),
        };
        match object.status {
            Some(status) if status.last_updated.is_some() => return Ok(status),
            _ if Instant::now() >= deadline => bail!(
                "node {node} did not answer within {} s: does bgp-speaker run there, and does it reach the datastore?",
                patience.as_secs()
            ),
            _ => sleep(STEP).await,
        }
    }
}

/// The newest answer to somebody else's question of these classes.
async fn asked_by_others(store: &Store, node: &str, classes: &[String]) -> Option<CalicoNodeStatusStatus> {
    let objects = store.list::<CalicoNodeStatusSpec>(&Filter::All).await.ok()?;
    let is_wanted = |object: &CalicoNodeStatus| {
        let has = |class: &String| object.spec.classes.iter().flatten().any(|other| other == class);
        object.spec.node.as_deref() == Some(node) && classes.iter().all(has)
    };
    let answers = objects.items.into_iter().filter(is_wanted).filter_map(|object| object.status);
    answers.filter(|status| status.last_updated.is_some()).max_by_key(|status| status.last_updated.clone())
}

/// How old an answer is, in seconds.
fn age(status: &CalicoNodeStatusStatus) -> i64 {
    let made = status.last_updated.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    made.map_or(0, |made| (Timestamp::now().as_second() - made.as_second()).max(0))
}

fn peers(peers: &[CalicoNodePeer]) -> families::Answer {
    let peer = |peer: &CalicoNodePeer| Peer {
        address: peer.peer_ip.clone(),
        peer_type: match peer.peer_type.as_str() {
            "NodeMesh" => "node-to-node mesh",
            "NodePeer" => "node specific",
            "GlobalPeer" => "global",
            "LocalWorkload" => "local workload",
            _ => "unknown",
        },
        state: if peer.state == "Established" { "up" } else { "start" }.to_owned(),
        since: peer.since.clone(),
        info: if peer.state.is_empty() { "Passive" } else { &peer.state }.to_owned(),
    };
    Ok(peers.iter().map(peer).collect())
}

fn text(node: &str, status: &CalicoNodeStatusStatus, age: i64) -> String {
    let mut text = format!("Calico process is running on {node}. AGE: {age}s\n");
    let daemons = [("IPv4", &status.agent.bird_v4), ("IPv6", &status.agent.bird_v6)];
    if daemons.iter().any(|(_, daemon)| !daemon.state.is_empty()) {
        let header =
            ["BGP", "STATE", "VERSION", "ROUTER ID", "STARTED", "RECONFIGURED"].map(|name| (name, Align::Left));
        let row = |(family, daemon): &(&str, &BGPDaemonStatus)| {
            let texts = [&daemon.state, &daemon.version, &daemon.router_id, &daemon.last_boot_time];
            let mut row = vec![(*family).to_owned()];
            row.extend(texts.into_iter().cloned());
            row.push(daemon.last_reconfiguration_time.clone());
            row
        };
        text += &format!("\n{}", boxed(&header, &daemons.iter().map(row).collect::<Vec<_>>()));
    }
    text += &families::text(&peers(&status.bgp.peers_v4), &peers(&status.bgp.peers_v6));
    for (family, routes) in [("IPv4", &status.routes.routes_v4), ("IPv6", &status.routes.routes_v6)] {
        if !routes.is_empty() {
            text += &format!("\n{family} routes\n{}", route_table(routes));
        }
    }
    let bad = |condition: &&CalicoNodeCondition| condition.status == "False";
    for condition in status.conditions.iter().filter(bad) {
        text += &format!("\nWARNING: {} is not so: {}", condition.condition_type, condition.message);
    }
    text + "\n"
}

fn route_table(routes: &[CalicoNodeRoute]) -> String {
    let header =
        ["DESTINATION", "GATEWAY", "INTERFACE", "LEARNED FROM", "PEER IP", "TABLE"].map(|name| (name, Align::Left));
    let row = |route: &CalicoNodeRoute| {
        let from = &route.learned_from;
        let texts =
            [&route.destination, &route.gateway, &route.interface, &from.source_type, &from.peer_ip, &route.route_type];
        texts.into_iter().cloned().collect::<Vec<_>>()
    };
    boxed(&header, &routes.iter().map(row).collect::<Vec<_>>())
}

fn document(node: &str, status: &CalicoNodeStatusStatus, age: i64) -> Value {
    json!({
        "node": node,
        "lastUpdated": status.last_updated,
        "ageSeconds": age,
        "agent": {"running": true, "ipv4": status.agent.bird_v4, "ipv6": status.agent.bird_v6},
        "ipv4": families::json(&peers(&status.bgp.peers_v4)),
        "ipv6": families::json(&peers(&status.bgp.peers_v6)),
        "routes": status.routes,
        "conditions": status.conditions,
    })
}

#[cfg(test)]
mod tests {
    use calico_datastore::Config;

    use super::*;

    async fn store() -> Store {
        let store = calico_datastore::connect(&Config::Sqlite { path: ":memory:".to_owned() }).await.unwrap();
        let node: calico_api::Node = Resource::new(ObjectMeta::named("b"), calico_api::NodeSpec::default());
        store.create(&node).await.unwrap();
        store
    }

    fn answered(peer: &str) -> CalicoNodeStatusStatus {
        let mut status =
            CalicoNodeStatusStatus { last_updated: Some("2026-03-02T08:00:00Z".to_owned()), ..Default::default() };
        status.bgp.peers_v4.push(CalicoNodePeer {
            peer_ip: peer.to_owned(),
            peer_type: "NodePeer".to_owned(),
            state: "Established".to_owned(),
            since: "08:00:00".to_owned(),
        });
        status.bgp.peers_v4.push(CalicoNodePeer { peer_ip: "10.0.0.9".to_owned(), ..CalicoNodePeer::default() });
        status
    }

    #[tokio::test]
    async fn what_a_node_answers_is_shown_and_the_question_removed() {
        let store = store().await;
        let node = tokio::spawn({
            let store = store.clone();
            async move {
                loop {
                    let objects = store.list::<CalicoNodeStatusSpec>(&Filter::All).await.unwrap();
                    if let Some(object) = objects.items.into_iter().next() {
                        assert_eq!(object.spec.classes.as_deref(), Some(&["Agent".to_owned(), "BGP".to_owned()][..]));
                        let object = CalicoNodeStatus { status: Some(answered("10.0.0.1")), ..object };
                        return store.update_status(&object).await.unwrap();
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
        let status = ask(&store, "b", false, PATIENCE).await.unwrap();
        node.await.unwrap();
        let shown = text("b", &status, 3);
        assert!(shown.starts_with("Calico process is running on b. AGE: 3s\n"), "{shown}");
        assert!(shown.contains("| 10.0.0.1     | node specific | up    | 08:00:00 | Established |"), "{shown}");
        assert!(shown.contains("| 10.0.0.9     | unknown       | start |          | Passive     |"), "{shown}");
        assert!(shown.contains("No IPv6 peers found."), "{shown}");
        let left = store.list::<CalicoNodeStatusSpec>(&Filter::All).await.unwrap();
        assert!(left.items.is_empty());
        let named = CalicoNodeStatus::new(ObjectMeta::named(name("node-1.")), CalicoNodeStatusSpec::default());
        let faults = calico_api::validate(&named.into());
        assert!(faults.iter().all(|fault| !fault.field.contains("Name")), "{faults:?}");
    }

    #[tokio::test]
    async fn a_node_that_does_not_answer_is_named_and_the_question_removed() {
        let store = store().await;
        let error = ask(&store, "b", true, Duration::ZERO).await.unwrap_err().to_string();
        assert!(error.contains("node b did not answer within 0 s"), "{error}");
        assert!(store.list::<CalicoNodeStatusSpec>(&Filter::All).await.unwrap().items.is_empty());
    }

    #[tokio::test]
    async fn others_questions_are_used_where_they_ask_for_as_much() {
        let store = store().await;
        let mut number = 0;
        for (node, classes, time, peer) in [
            ("b", vec!["Agent", "BGP"], "2026-03-02T08:00:00Z", "10.0.0.1"),
            ("b", vec!["Agent", "BGP", "Routes"], "2026-03-02T08:00:05Z", "10.0.0.2"),
            ("b", vec!["BGP"], "2026-03-02T08:00:09Z", "10.0.0.3"),
            ("c", vec!["Agent", "BGP"], "2026-03-02T08:00:09Z", "10.0.0.4"),
        ] {
            number += 1;
            let spec = CalicoNodeStatusSpec {
                node: Some(node.to_owned()),
                classes: Some(classes.into_iter().map(str::to_owned).collect()),
                update_period_seconds: None,
            };
            let mut object: CalicoNodeStatus = Resource::new(ObjectMeta::named(format!("o{number}")), spec);
            object.status = Some(CalicoNodeStatusStatus { last_updated: Some(time.to_owned()), ..answered(peer) });
            store.create(&object).await.unwrap();
        }
        let found = asked_by_others(&store, "b", &["Agent".to_owned(), "BGP".to_owned()]).await.unwrap();
        assert_eq!(found.bgp.peers_v4[0].peer_ip, "10.0.0.2");
    }
}
