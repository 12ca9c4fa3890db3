//! From the full mesh to two route reflectors, on a lab that runs.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::resources::{apply, node_with, resource};
use super::sessions::{Sessions, become_exactly, planned, running};
use super::{Lab, Matrix, Progress, routed};
use crate::node::{Node, PATIENCE};
use crate::stream::Stream;
use crate::wait;

/// The reflectors' cluster ID, as Calico's documentation has it.
const CLUSTER: &str = "244.0.0.1";
/// How many of the nodes reflect.
const REFLECTORS: usize = 2;
/// Packets a second between two pods while everything changes.
const RATE: u32 = 500;

/// What became of a node's sessions.
#[derive(Clone, Debug, Serialize)]
pub struct NodeSessions {
    /// The node.
    pub node: String,
    /// Whether it reflects.
    pub reflector: bool,
    /// What `calicoctl node status` shows: peers and their kinds.
    pub sessions: Sessions,
    /// Whether `calicoctl bgp sessions` says the same.
    pub agrees: bool,
}

/// What became of packets while the sessions changed.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    /// From this pod.
    pub from: String,
    /// To this one.
    pub to: String,
    /// How many packets were sent.
    pub sent: u64,
    /// How many did not arrive.
    pub lost: u64,
}

/// What the scenario saw.
#[derive(Clone, Debug, Serialize)]
pub struct ReflectorsReport {
    /// The file that was applied.
    pub applied: Vec<Value>,
    /// `calicoctl bgp sessions`, on one node.
    pub plan: String,
    /// `calicoctl node status` on a node that is none.
    pub status: String,
    /// Each node's sessions.
    pub nodes: Vec<NodeSessions>,
    /// Packets on their way meanwhile.
    pub losses: Vec<Loss>,
    /// All to all, afterwards.
    pub pings: Matrix,
}

impl ReflectorsReport {
    /// Whether all is as it should be.
    pub fn good(&self) -> bool {
        self.pings.failures() == 0 && self.nodes.iter().all(|node| node.agrees)
    }
}

/// Turns the running lab's mesh into two reflectors.
///
/// # Errors
/// If a step fails, or the sessions do not become what they should.
pub fn reflectors(nodes: &[Node<'_>], lab: &Lab<'_>, progress: &mut Progress) -> Result<ReflectorsReport> {
    let workers = nodes.len().checked_sub(REFLECTORS).filter(|workers| *workers > 0);
    let workers = workers.context("two reflectors need at least three nodes: --nodes 6")?;
    let first = nodes.first().context("a lab needs a node")?;
    let (clients, reflectors) = nodes.split_at(workers);

    let streams = progress.step("packets between pods of neighbouring nodes", || {
        let pods = lab.pods();
        let pairs = pods.iter().zip(pods.iter().cycle().skip(1)).filter(|(a, b)| a.node().name() != b.node().name());
        pairs.map(|(from, to)| Ok((from, to, Stream::start(from, to, RATE)?))).collect::<Result<Vec<_>>>()
    })?;
    let applied = progress.step("calicoctl apply: reflectors, their peers, the mesh off", || {
        let label = [("route-reflector", "true")];
        // The peers come first and the mesh goes last, so that no node is ever without a session.
        let peers = json!({"nodeSelector": "all()", "peerSelector": "route-reflector == 'true'"});
        let mut resources = vec![resource("BGPPeer", "peer-with-route-reflectors", peers)];
        for node in reflectors {
            resources.push(node_with(node, &label, &json!({"routeReflectorClusterID": CLUSTER})));
        }
        let off = json!({"nodeToNodeMeshEnabled": false, "asNumber": 64512});
        resources.push(resource("BGPConfiguration", "default", off));
        apply(first, &resources)?;
        Ok(resources)
    })?;
    progress.step("the sessions become exactly those", || {
        for node in nodes {
            let reflects = reflectors.iter().any(|reflector| reflector.name() == node.name());
            let peers = if reflects { nodes } else { reflectors };
            let others = peers.iter().filter(|peer| peer.name() != node.name());
            let expected = others.map(|peer| (peer.address().to_string(), "node specific".to_owned())).collect();
            become_exactly(node, &expected)?;
        }
        Ok(())
    })?;
    progress.step("routes to the other nodes' blocks, reflected", || {
        nodes.iter().try_for_each(|node| routed(node, nodes.len() - 1))
    })?;
    let losses = progress.step("packets for three seconds more", || {
        // What was withdrawn too early would be missed soon, if not at once.
        let enough = u64::from(RATE) * 3;
        let before: Vec<u64> = streams.iter().map(|(_, _, stream)| stream.sent()).collect();
        wait::becomes(PATIENCE, "the packets were sent", || {
            Ok(streams.iter().zip(&before).all(|((_, _, stream), before)| stream.sent() >= before + enough))
        })?;
        let count = streams.into_iter().map(|(from, to, stream)| {
            let count = stream.stop()?;
            let (from, to) = (from.name().to_owned(), to.name().to_owned());
            Ok(Loss { from, to, sent: count.sent, lost: count.lost })
        });
        count.collect::<Result<Vec<_>>>()
    })?;
    let sessions = progress.step("what calicoctl bgp sessions makes of the resources", || {
        let compare = |node: &Node<'_>| {
            let (running, planned) = (running(node)?, planned(node)?);
            ensure!(!planned.is_empty(), "calicoctl bgp sessions shows no session of {}", node.name());
            let reflector = reflectors.iter().any(|reflector| reflector.name() == node.name());
            Ok(NodeSessions { node: node.name().to_owned(), reflector, agrees: running == planned, sessions: running })
        };
        nodes.iter().map(compare).collect::<Result<Vec<_>>>()
    })?;
    let pings = progress.step("every pod still pings every other", || Ok(Matrix::of(lab.pods())))?;
    progress.step("all daemons still run", || nodes.iter().try_for_each(Node::check))?;
    let client = clients.first().unwrap_or(first);
    Ok(ReflectorsReport {
        applied,
        plan: client.calicoctl(&["bgp", "sessions"])?,
        status: client.calicoctl(&["node", "status"])?,
        nodes: sessions,
        losses,
        pings,
    })
}

impl fmt::Display for ReflectorsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n$ calicoctl apply -f -")?;
        for resource in &self.applied {
            let of = |path: &str| resource.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            writeln!(f, "  {} {}", of("/kind"), of("/metadata/name"))?;
        }
        writeln!(f, "\n$ calicoctl bgp sessions\n{}", self.plan.trim_end())?;
        writeln!(f, "\n$ calicoctl node status\n{}\n", self.status.trim_end())?;
        for node in &self.nodes {
            let kind = if node.reflector { "reflector" } else { "client" };
            let peers: Vec<&str> = node.sessions.keys().map(String::as_str).collect();
            let agrees = if node.agrees { "as planned" } else { "NOT AS calicoctl bgp sessions SAYS" };
            writeln!(f, "  {:<8} {kind:<9} {agrees}: {}", node.node, peers.join(", "))?;
        }
        writeln!(f, "\nPackets while the mesh became reflectors:")?;
        for loss in &self.losses {
            writeln!(f, "  {:<12} to {:<12} {:>5} lost of {}", loss.from, loss.to, loss.lost, loss.sent)?;
        }
        writeln!(f, "\nPings in milliseconds, from the left to the top:\n{}", self.pings.table())?;
        let all = self.pings.pings.len();
        writeln!(f, "\n{} of {all} pings answered after the change.", all - self.pings.failures())
    }
}
