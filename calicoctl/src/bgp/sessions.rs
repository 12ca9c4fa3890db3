//! `calicoctl bgp sessions`: which sessions follow from the resources?

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use bgp_plan::sessions::{Cluster, Plan, SessionConfig};
use bgp_plan::topology::{Isolation, Network};
use calico_datastore::Config;
use serde_json::{Value, json};

use super::cluster::{Meaning, Snapshot};
use super::dials::Waiting;
use super::running::Running;
use super::{difference, document, preview, session_json, words};
use crate::arguments::{Form, Globals, Sessions};
use crate::{client, files, output};

/// Runs it.
pub(super) async fn run(flags: &Sessions, globals: &Globals) -> Result<ExitCode> {
    let mut written = Vec::new();
    for path in &flags.filename {
        written.extend(files::read_path(path, flags.recursive)?);
    }
    let store = match &flags.resources {
        Some(path) => client::open(&Config::Resources { path: path.clone() }).await?,
        None => client::open_gated(globals).await?,
    };
    let resources: Vec<_> = written.iter().map(|written| written.resource.clone()).collect();
    let snapshot = Snapshot::read(&store, &resources).await?;
    let meaning = snapshot.meaning();
    let text = if flags.filename.is_empty() {
        check_node(flags.node.as_deref(), &[&meaning])?;
        View::of(&meaning, flags).text(flags.output)
    } else {
        if written.is_empty() {
            bail!("no resources specified in the files");
        }
        let after = preview::preview(&snapshot, written, flags.delete)?.meaning();
        check_node(flags.node.as_deref(), &[&meaning, &after])?;
        difference::text(&meaning, &after, flags.node.as_deref(), flags.output)
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn check_node(node: Option<&str>, meanings: &[&Meaning]) -> Result<()> {
    match node {
        Some(node) if !meanings.iter().any(|meaning| meaning.has(node)) => {
            bail!("there is no node {node} in the datastore: see calicoctl get nodes")
        }
        _ => Ok(()),
    }
}

/// What is shown of a cluster.
struct View {
    nodes: BTreeMap<String, Plan>,
    /// What concerns no single node.
    common: Vec<String>,
    topology: Vec<Isolation>,
    waiting: Waiting,
    /// In what this node's speaker differs from its plan.
    running: BTreeMap<String, Vec<String>>,
    /// Whether it is one node's.
    of_one: bool,
}

impl View {
    fn of(meaning: &Meaning, flags: &Sessions) -> Self {
        let cluster = Cluster::new(&meaning.inputs);
        let (mut network, mut waiting) = (Network::default(), Waiting::default());
        let mut nodes = BTreeMap::new();
        for name in meaning.inputs.nodes.keys() {
            let plan = meaning.plan(&cluster, name);
            network.add(name, &plan);
            waiting.add(name, &plan);
            if flags.node.as_ref().is_none_or(|node| node == name) {
                nodes.insert(name.clone(), plan);
            }
        }
        let mut common = meaning.faults();
        common.extend(cluster.warnings().iter().map(ToString::to_string));
        let mut running = BTreeMap::new();
        if let Some(here) = Running::here(&flags.socket.socket)
            && let Some(plan) = nodes.get(&here.node)
        {
            running.insert(here.node.clone(), here.differences(plan));
        }
        let mut topology = network.check();
        topology.sort();
        if let Some(node) = &flags.node {
            topology.retain(|isolation| concerns(isolation, node));
        }
        Self { nodes, common, topology, waiting, running, of_one: flags.node.is_some() }
    }

    fn text(&self, form: Form) -> String {
        match document(form, &self.json()) {
            Some(text) => text,
            None => self.table(form == Form::Wide) + &self.remarks(),
        }
    }

    /// One element a node; what concerns several stands in each of them.
    fn json(&self) -> Value {
        let node = |(name, plan): (&String, &Plan)| {
            let session = |session: &SessionConfig| {
                let mut value = session_json::session(session);
                value["dials"] = json!(self.waiting.word(plan, session));
                value
            };
            let mut warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
            warnings.extend(self.topology.iter().filter(|it| concerns(it, name)).map(ToString::to_string));
            warnings.extend(self.common.iter().cloned());
            let sessions: Vec<Value> = plan.sessions.iter().map(session).collect();
            let mut value = json!({"node": name, "sessions": sessions, "warnings": warnings});
            if let Some(running) = self.running.get(name) {
                value["running"] = json!(running);
            }
            value
        };
        self.nodes.iter().map(node).collect()
    }

    fn table(&self, wide: bool) -> String {
        let mut header = vec!["NODE", "PEER", "PEERNODE", "TYPE", "LOCALAS", "PEERAS", "DIALS", "CLIENT", "FILTERS"];
        if wide {
            header.extend(["NAME", "BGPPEER", "SOURCE", "PASSWORD", "TTLSECURITY", "NEXTHOP", "KEEPALIVE"]);
            header.extend(["RESTARTTIME", "ALLOWEDLOCALAS", "REACHABLEBY"]);
        }
        let mut rows = Vec::new();
        for (node, plan) in &self.nodes {
            rows.extend(plan.sessions.iter().map(|session| self.row(node, plan, session, wide)));
        }
        if rows.is_empty() {
            return "There are no sessions.\n\n".to_owned();
        }
        output::columns(&header, &rows)
    }

    fn row(&self, node: &str, plan: &Plan, session: &SessionConfig, wide: bool) -> Vec<String> {
        let mut row = vec![
            node.to_owned(),
            words::peer(session.peer),
            words::or_dash(session.remote.as_ref()),
            session.origin.words().to_owned(),
            session.local_as.to_string(),
            session.peer_as.to_string(),
            self.waiting.word(plan, session).to_owned(),
            words::yes(session.client),
            words::list(&session.filters),
        ];
        if wide {
            let json = session_json::session(session);
            let text = |field: &str| json.get(field).and_then(Value::as_str).map(str::to_owned);
            row.extend([
                session.name.clone(),
                words::or_dash(session.resource.as_ref()),
                words::or_dash(session.source),
                words::or_dash(text("password")),
                words::or_dash(session.ttl_security),
                words::or_dash(text("nextHopMode")),
                words::or_dash(session.keepalive.map(|seconds| format!("{seconds}s"))),
                format!("{}s", session.restart_time),
                session.allowed_local_as.to_string(),
                words::or_dash(session.reachable_by),
            ]);
        }
        row
    }

    fn remarks(&self) -> String {
        let mut text = String::new();
        let mut section = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                text += &format!("{title}:\n{}", lines.iter().map(|line| format!("  {line}\n")).collect::<String>());
            }
        };
        section("Topology", self.topology.iter().map(ToString::to_string).collect());
        let mut warnings = self.common.clone();
        warnings.extend(self.warnings());
        section("Warnings", warnings);
        for (node, differences) in &self.running {
            section(&format!("The running speaker of {node}"), differences.clone());
        }
        text
    }

    /// What is said of nodes, once for all of whom the same is said.
    fn warnings(&self) -> Vec<String> {
        let mut nodes_of: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (node, plan) in &self.nodes {
            for warning in &plan.warnings {
                nodes_of.entry(warning.to_string()).or_default().push(node);
            }
        }
        let all = |nodes: &[&str]| nodes.len() == self.nodes.len() && nodes.len() > 1;
        let line = |(warning, nodes): (String, Vec<&str>)| match nodes.as_slice() {
            _ if self.of_one => warning,
            nodes if all(nodes) => format!("all nodes: {warning}"),
            [first, second, third, rest @ ..] if rest.len() > 1 => {
                format!("{first}, {second}, {third} and {} others: {warning}", rest.len())
            }
            nodes => format!("{}: {warning}", nodes.join(", ")),
        };
        nodes_of.into_iter().map(line).collect()
    }
}

/// Whether it is about this node.
fn concerns(isolation: &Isolation, name: &str) -> bool {
    match isolation {
        Isolation::NoSession { nodes, .. } | Isolation::NoPath { nodes, .. } => nodes.iter().any(|node| node == name),
        Isolation::OneSided { node, peer, .. } | Isolation::Disagreement { node, peer, .. } => {
            node == name || peer == name
        }
    }
}
