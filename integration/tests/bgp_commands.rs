//! `calicoctl bgp` and `node status` with real speakers: what follows from the resources is what runs, and what runs is
//! shown with its reasons.

use std::collections::BTreeMap;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use integration::lab::{Lab, Options, Progress, planned, running};
use integration::{Net, Node, PATIENCE, StoreKind, wait};
use serde_json::Value;

const OPTIONS: Options = Options { nodes: 2, pods: 1, store: StoreKind::Sqlite };

/// A peer that nobody is, one without its Secret, and a filter.
const PEERS: &str = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: nobody}
spec: {node: node1, peerIP: '10.0.0.1:1790', asNumber: 65001, filters: [nothing]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: secretive}
spec: {node: node1, peerIP: 10.0.0.77, asNumber: 65002, password: {secretKeyRef: {name: bgp-secrets, key: tor}}}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: nothing}
spec: {exportV4: [{action: Reject}], importV4: [{action: Reject}]}
";

/// What `calicoctl … -o json` prints.
fn json(node: &Node<'_>, arguments: &[&str]) -> Result<Value> {
    let text = node.calicoctl(&[arguments, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).with_context(|| text)
}

/// The value at a pointer, as text.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Addresses, types and states in `node status -o json`.
fn sessions_of(status: &Value) -> BTreeMap<String, (String, String)> {
    let peers = ["/ipv4/peers", "/ipv6/peers"].into_iter().filter_map(|family| status.pointer(family)?.as_array());
    let session = |peer: &Value| {
        (text(peer, "/address").to_owned(), (text(peer, "/type").to_owned(), text(peer, "/state").to_owned()))
    };
    peers.flatten().map(session).collect()
}

#[test]
fn what_follows_from_the_resources_is_what_runs_and_other_nodes_tell_theirs() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let nodes = Lab::nodes(&net, OPTIONS, &mut Progress::quiet())?;
    let _lab = Lab::start(&nodes, OPTIONS, &mut Progress::quiet())?;
    let [first, second] = nodes.as_slice() else { anyhow::bail!("two nodes were asked for") };
    for node in &nodes {
        ensure!(running(node)? == planned(node)?, "{:?} is not {:?}", running(node)?, planned(node)?);
        let status = sessions_of(&json(node, &["node", "status"])?);
        let up = status.iter().filter(|(_, (_, state))| state == "up");
        let up: BTreeMap<_, _> = up.map(|(peer, (kind, _))| (peer.clone(), kind.clone())).collect();
        ensure!(up == running(node)?, "{status:?}");
        let view = json(node, &["bgp", "sessions", "--node", node.name()])?;
        ensure!(view[0]["running"] == serde_json::json!([]), "it differs from the running speaker: {view}");
    }

    // The same of the other node, by its own words.
    let own = json(second, &["node", "status"])?;
    let told = json(first, &["node", "status", "--node", "node2", "--routes"])?;
    ensure!(sessions_of(&told) == sessions_of(&own), "{told} is not {own}");
    ensure!(text(&told, "/node") == "node2" && !told["routes"]["routesV4"].as_array().context("routes")?.is_empty());
    ensure!(text(&told, "/agent/ipv4/routerID") == second.address().to_string(), "{told}");
    let table = first.calicoctl(&["node", "status", "--node", "node2"])?;
    ensure!(table.starts_with("Calico process is running on node2. AGE: "), "{table}");
    let row = format!("| {} ", first.address());
    ensure!(table.lines().any(|line| line.starts_with(&row) && line.contains("Established")), "{table}");
    let left = json(first, &["get", "caliconodestatus"])?;
    ensure!(left["items"] == serde_json::json!([]), "the questions are still there: {left}");
    let error = format!("{:#}", first.calicoctl(&["node", "status", "--node", "node9"]).err().context("no such node")?);
    ensure!(error.contains("there is no node node9"), "{error}");
    nodes.iter().try_for_each(Node::check)
}

#[test]
fn paths_and_peers_are_shown_with_their_reasons() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let nodes = Lab::nodes(&net, OPTIONS, &mut Progress::quiet())?;
    let lab = Lab::start(&nodes, OPTIONS, &mut Progress::quiet())?;
    let [first, second] = nodes.as_slice() else { anyhow::bail!("two nodes were asked for") };
    let (peer, session) = (second.address().to_string(), format!("Mesh_{}", second.address()).replace('.', "_"));
    let pod = lab.pods().iter().find(|pod| pod.node().name() == "node2").context("a pod on node2")?.address()?;

    // The longest prefix around the other node's pod is that node's block.
    let routes = json(first, &["bgp", "routes", &pod.to_string()])?;
    let [path] = routes.as_array().context("a list")?.as_slice() else { anyhow::bail!("one path: {routes}") };
    ensure!(text(path, "/peer") == peer && text(path, "/standing") == "best" && path["installed"] == true, "{path}");
    let block = text(path, "/prefix").to_owned();
    let shown = first.calicoctl(&["bgp", "routes", &block])?;
    for line in [
        format!("{block}: 1 path"),
        format!("* from {peer} ({session})"),
        format!("    kernel:         installed via {peer} dev eth0"),
        "    AS path:        empty".to_owned(),
    ] {
        ensure!(shown.lines().any(|shown| shown.trim_end() == line), "{line:?} is not in:\n{shown}");
    }
    let all = first.calicoctl(&["bgp", "routes"])?;
    ensure!(all.contains("own block") && all.contains(&block), "{all}");
    let only = first.calicoctl(&["bgp", "routes", "--peer", &session])?;
    ensure!(only.contains(&block) && !only.contains("own block"), "{only}");
    let own = json(second, &["bgp", "routes", &block])?;
    let own = own.as_array().and_then(|paths| paths.iter().find(|path| text(path, "/kind") == "block"));
    let back = format!("Mesh_{}", first.address()).replace('.', "_");
    ensure!(own.context("its own block")?["advertised_to"] == serde_json::json!([back]), "{own:?}");

    let neighbors = json(first, &["bgp", "neighbors", &peer])?;
    let neighbor = &neighbors[0];
    ensure!(text(neighbor, "/state") == "up" && text(neighbor, "/agreement/router_id") == peer, "{neighbor}");
    ensure!(neighbor["prefixes"]["received"].as_u64() >= Some(1), "{neighbor}");
    ensure!(neighbor["prefixes"]["advertised"].as_u64() >= Some(1), "{neighbor}");
    let details = first.calicoctl(&["bgp", "neighbors", &session])?;
    ensure!(details.contains("hold time:        240s") && details.contains("restart-able"), "{details}");

    // What a file would do is what it does.
    let preview = first.command("/usr/local/bin/calicoctl");
    let preview = fed(preview, &["bgp", "sessions", "--node", "node1", "-f", "-"], PEERS)?;
    ensure!(preview.contains("+ Node_10_0_0_1_port_1790, AS 64512 to AS 65001"), "{preview}");
    ensure!(preview.contains("= 1 session as it is"), "{preview}");
    first.apply(PEERS)?;
    let mut table = String::new();
    wait::becomes(PATIENCE, "the new peers are refused and without password", || {
        table = first.calicoctl(&["bgp", "neighbors"])?;
        let down = |line: &str| line.starts_with("10.0.0.77 ") && line.split_whitespace().any(|word| word == "down");
        Ok(table.contains("Connection refused") && table.lines().any(down))
    })
    .with_context(|| table.clone())?;
    ensure!(table.contains("no BGP speaker listens on the peer's port"), "no remedy:\n{table}");
    let details = first.calicoctl(&["bgp", "neighbors", "10.0.0.77"])?;
    ensure!(details.contains("password:         missing: Secret kube-system/bgp-secrets"), "{details}");
    let details = first.calicoctl(&["bgp", "neighbors", "[10.0.0.1]:1790"]).err().context("no such session")?;
    ensure!(format!("{details:#}").contains("there is no session with [10.0.0.1]:1790"), "{details:#}");
    ensure!(first.calicoctl(&["bgp", "neighbors", "10.0.0.1:1790"])?.contains("filters:          nothing"));
    let plan = first.calicoctl(&["bgp", "sessions", "--node", "node1"])?;
    ensure!(
        plan.contains("10.0.0.1:1790") && plan.contains("Node_10_0_0_77: password missing, so it is down"),
        "{plan}"
    );
    let status = first.calicoctl(&["node", "status"])?;
    ensure!(status.contains("| 10.0.0.1:1790 | node specific"), "{status}");

    // Whoever has no speaker is told so.
    first.terminate("bgp-speaker")?;
    let error = format!("{:#}", first.calicoctl(&["bgp", "routes"]).err().context("there is no speaker")?);
    ensure!(error.contains("/run/ocicat/bgp.sock") && error.contains("does bgp-speaker run on this node?"), "{error}");
    second.check()
}

/// Runs a command with this on its standard input; returns what it printed.
fn fed(mut command: std::process::Command, arguments: &[&str], input: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child =
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Of one that ends before it has read, the output says why.
    let _ = child.stdin.take().context("its input was to be written")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
