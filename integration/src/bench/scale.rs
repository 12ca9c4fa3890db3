//! felix on a node of a cluster of thousands, whose other nodes exist in the store alone.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::Ipv4Net;
use rusqlite::Connection;

use super::sample::Sample;
use crate::net::{Net, StoreKind};
use crate::node::Node;
use crate::wait;

/// The size of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct ScalePlan {
    /// How many other nodes.
    pub nodes: u32,
    /// How many blocks they have together.
    pub blocks: u32,
    /// How many single changes are measured.
    pub changes: u32,
}

/// Room for 65,536 blocks.
const POOL: &str = "100.64.0.0/10";
/// How long the first sync may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures.
///
/// # Errors
/// If a step fails.
pub fn scale(plan: ScalePlan) -> Result<String> {
    ensure!(plan.nodes > 0 && plan.nodes <= 60_000, "from 1 to 60000 nodes fit the underlay");
    ensure!(plan.blocks + 2 * plan.changes + 64 <= 65_536, "65,536 blocks fit {POOL}");
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("one")?;
    node.apply(&format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: pods}}\nspec: {{cidr: {POOL}, blockSize: 26, vxlanMode: Always}}\n"
    ))?;
    let environment = [("CALICO_NETWORKING_BACKEND", "vxlan")];
    node.start("felix", &environment)?;
    node.ready("felix", 9099)?;
    // One pod: its block and affinity are what the others' are made of.
    let _pod = node.pod("a")?;
    let mut store = Connection::open(net.directory().join("ocicat.db"))?;
    let model = Model::of(&store, &node)?;
    node.terminate("felix")?;

    eprintln!("  {} nodes with {} blocks are written into the store …", plan.nodes, plan.blocks);
    let tx = store.transaction()?;
    for number in 0..plan.nodes {
        insert(&tx, "Node", &model.node(number, number.min(plan.blocks.saturating_sub(1)))?)?;
    }
    for number in 0..plan.blocks {
        model.insert_block(&tx, number, number % plan.nodes)?;
    }
    tx.commit()?;

    eprintln!("  felix starts …");
    let start = Instant::now();
    node.start("felix", &environment)?;
    node.ready_within("felix", 9099, PATIENCE)?;
    let ready = start.elapsed();
    let wanted = [plan.blocks, plan.nodes, plan.nodes];
    let mut held = [0; 3];
    wait::becomes(PATIENCE, "the kernel holds every route, neighbour and forwarding entry", || {
        held = count(&node)?;
        Ok(held.iter().zip(&wanted).all(|(held, wanted)| held >= wanted))
    })
    .with_context(|| format!("{held:?} of {wanted:?}\n{}", node.last_lines("felix")))?;
    let all = start.elapsed();
    let (rss, peak) = (memory(&node, "VmRSS:")?, memory(&node, "VmHWM:")?);

    let seen = watch(&node)?;
    let mut change = |number: u32, what: &dyn Fn(&Connection, u32) -> Result<String>| -> Result<Duration> {
        let tx = store.transaction()?;
        let words = what(&tx, number)?;
        let start = Instant::now();
        tx.commit()?;
        // As every writer of this store does, so that the others need not wait for their next look.
        fs::write(net.directory().join("ocicat.db-notify"), "\n")?;
        let deadline = start + Duration::from_secs(30);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = seen.recv_timeout(left).with_context(|| format!("no route \"{words}\" within 30 s"))?;
            if line.contains(&words) {
                return Ok(start.elapsed());
            }
        }
    };
    let (mut blocks, mut tunnels) = (Sample::default(), Sample::default());
    eprintln!("  {} new blocks, and as many tunnels that move …", plan.changes);
    for number in 0..plan.changes {
        blocks.add(change(number, &|tx, number| model.insert_block(tx, plan.blocks + number, number % plan.nodes))?);
    }
    for number in 0..plan.changes {
        tunnels.add(change(number, &|tx, number| model.move_tunnel(tx, number % plan.nodes, plan, number))?);
    }
    let row = |what: &str, times: &Sample| {
        let (median, p99, worst) = (times.quantile(0.5), times.quantile(0.99), times.quantile(1.0));
        format!("  {what:<39} {median:>9.2} ms median, {p99:.2} ms p99, {worst:.2} ms worst of {}\n", times.len())
    };
    Ok(format!(
        "\n{} nodes, {} blocks, SQLite\n  ready (in sync and applied)             {:>9.2} s\n  \
         routes, neighbours, FDB seen in kernel  {:>9.2} s   {held:?}\n  memory of felix (RSS)                   {rss:>9.1} MB, at most {peak:.1} MB; \
         {:.1} MB after the changes, at most {:.1} MB\n{}{}",
        plan.nodes,
        plan.blocks,
        ready.as_secs_f64(),
        all.as_secs_f64(),
        memory(&node, "VmRSS:")?,
        memory(&node, "VmHWM:")?,
        row("a block comes: until its route is there", &blocks),
        row("a VTEP moves: until a route follows", &tunnels),
    ))
}

/// What stands in the store for the node that really is there.
struct Model {
    name: String,
    block: Ipv4Net,
    node: [String; 2],
    rows: Vec<[String; 3]>,
}

impl Model {
    fn of(store: &Connection, node: &Node<'_>) -> Result<Self> {
        let find = "SELECT key, value FROM log WHERE kind = 'Node' AND key = ?1 AND current = 1";
        let own = store.query_row(find, [node.name()], |row| Ok([row.get(0)?, row.get(1)?]))?;
        let mut statement = store.prepare(
            "SELECT kind, key, value FROM log WHERE kind IN ('IPAMBlock', 'BlockAffinity') AND current = 1 AND deleted = 0",
        )?;
        let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?;
        let rows: Vec<[String; 3]> = rows.collect::<Result<_, _>>()?;
        let of_block = rows.iter().find(|row| row[0] == "IPAMBlock").context("no block in the store")?;
        let value: serde_json::Value = serde_json::from_str(&of_block[2])?;
        let block = value["spec"]["cidr"].as_str().context("a block has a CIDR")?.parse()?;
        Ok(Self { name: node.name().to_owned(), block, node: own, rows })
    }

    /// A block that is not the real node's.
    fn block(&self, number: u32) -> Result<Ipv4Net> {
        let pool: Ipv4Net = POOL.parse()?;
        let own = (u32::from(self.block.addr()) - u32::from(pool.addr())) / 64;
        let number = if number >= own { number + 1 } else { number };
        Ok(Ipv4Net::new((u32::from(pool.addr()) + number * 64).into(), 26)?)
    }

    /// A Node whose tunnel has an address of this block.
    fn node(&self, number: u32, block: u32) -> Result<[String; 2]> {
        let name = format!("sim{number}");
        let mut value: serde_json::Value = serde_json::from_str(&self.node[1])?;
        let host = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 0, 16, 0)) + number);
        value["metadata"]["name"] = name.as_str().into();
        value["spec"]["bgp"]["ipv4Address"] = format!("{host}/16").into();
        value["spec"]["ipv4VXLANTunnelAddr"] = self.block(block)?.addr().to_string().into();
        if let Some(spec) = value["spec"].as_object_mut() {
            spec.remove("interfaces");
            spec.remove("addresses");
        }
        Ok([self.node[0].replace(&self.name, &name), value.to_string()])
    }

    /// Gives a simulated node's tunnel another address; returns what a route by it says.
    fn move_tunnel(&self, store: &Connection, node: u32, plan: ScalePlan, number: u32) -> Result<String> {
        let block = plan.blocks + plan.changes + number;
        let row = self.node(node, block)?;
        store.execute("UPDATE log SET current = 0 WHERE kind = 'Node' AND key = ?1 AND current = 1", [&row[0]])?;
        insert(store, "Node", &row)?;
        Ok(format!(" via {} dev", self.block(block)?.addr()))
    }
    /// Writes a block of a simulated node, with its affinity; returns its CIDR.
    fn insert_block(&self, store: &Connection, number: u32, node: u32) -> Result<String> {
        let (old, new) = (self.block.to_string(), self.block(number)?.to_string());
        let dashed = |cidr: &str| cidr.replace(['.', '/'], "-");
        let name = format!("sim{node}");
        for [kind, key, value] in &self.rows {
            let change = |text: &str| {
                let text = text.replace(&old, &new).replace(&dashed(&old), &dashed(&new));
                // As it stands in a key (`one-100-64…`), an affinity (`host:one`) and a field (`"one"`).
                let text =
                    text.replace(&format!("{}-{}", self.name, dashed(&new)), &format!("{name}-{}", dashed(&new)));
                let text = text.replace(&format!("host:{}\"", self.name), &format!("host:{name}\""));
                let text = text.replace(&format!("host:{}/", self.name), &format!("host:{name}/"));
                text.replace(&format!("\"node\":\"{}\"", self.name), &format!("\"node\":\"{name}\""))
            };
            insert(store, kind, &[change(key), change(value)])?;
        }
        Ok(new)
    }
}

fn insert(store: &Connection, kind: &str, [key, value]: &[String; 2]) -> Result<()> {
    store.execute(
        "INSERT INTO log (kind, key, previous, deleted, current, value) VALUES (?1, ?2, 0, 0, 1, ?3)",
        (kind, key, value),
    )?;
    Ok(())
}

/// Routes, neighbours and forwarding entries of the tunnel.
fn count(node: &Node<'_>) -> Result<[u32; 3]> {
    let lines = |script: &str| -> Result<u32> { Ok(node.run("sh", &["-c", script])?.trim().parse()?) };
    Ok([
        lines("ip route show dev vxlan.calico | wc -l")?,
        lines("ip neigh show dev vxlan.calico nud permanent | wc -l")?,
        lines("bridge fdb show dev vxlan.calico | grep -c permanent || true")?,
    ])
}

/// Megabytes that felix occupies, by a field of its status.
fn memory(node: &Node<'_>, field: &str) -> Result<f64> {
    let pid = node.daemon("felix", |process| Ok(process.pid()))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1024.0)
}

/// What `ip monitor route` says on the node, line by line. It ends with us.
fn watch(node: &Node<'_>) -> Result<mpsc::Receiver<String>> {
    let mut child = node.command("ip").args(["-o", "monitor", "route"]).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("its output was to be read")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        // It ends with the node's namespaces at the latest.
        let _ = child.kill();
        let _ = child.wait();
    });
    // What it prints before it listens would be missed: a route of our own tells that it does.
    wait::becomes(Duration::from_secs(10), "ip monitor listens", || {
        node.run("ip", &["route", "replace", "192.0.2.77/32", "dev", "eth0"])?;
        node.run("ip", &["route", "del", "192.0.2.77/32"])?;
        Ok(receiver.recv_timeout(Duration::from_millis(200)).is_ok())
    })?;
    Ok(receiver)
}
