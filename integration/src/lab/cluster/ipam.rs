//! Whether pools, blocks and affinities in the API are what the cluster's pods must have led to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;

use super::report::Check;
use crate::cluster::Cluster;

/// The range that the lab's DaemonSet is told.
pub(super) const POOL: &str = "10.244.0.0/16";

/// A block as it is stored.
struct Block {
    range: IpNet,
    node: String,
    taken: BTreeSet<IpAddr>,
}

/// Compares what is stored with the cluster's pods.
pub(super) fn check(cluster: &Cluster) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    let pools = items(cluster.get(&["ippools"])?);
    let ranges: Vec<&str> = pools.iter().filter_map(|pool| pool["spec"]["cidr"].as_str()).collect();
    checks.push(Check::new(format!("the one pool is {POOL}"), ranges == [POOL], ranges.join(", ")));

    let blocks = items(cluster.get(&["ipamblocks"])?).iter().map(block).collect::<Result<Vec<_>>>()?;
    let pool: IpNet = POOL.parse()?;
    let outside: Vec<String> =
        blocks.iter().filter(|block| !pool.contains(&block.range)).map(|block| block.range.to_string()).collect();
    checks.push(Check::new(
        "every block is of the pool",
        outside.is_empty() && !blocks.is_empty(),
        if outside.is_empty() { format!("{} blocks", blocks.len()) } else { outside.join(", ") },
    ));

    let affinities: BTreeMap<String, String> = items(cluster.get(&["blockaffinities"])?)
        .iter()
        .filter(|affinity| affinity["spec"]["state"] == "confirmed")
        .filter_map(|affinity| {
            let spec = &affinity["spec"];
            Some((spec["cidr"].as_str()?.to_owned(), spec["node"].as_str()?.to_owned()))
        })
        .collect();
    let of_blocks: BTreeMap<String, String> =
        blocks.iter().map(|block| (block.range.to_string(), block.node.clone())).collect();
    let names: BTreeSet<&str> = cluster.nodes().iter().map(|node| node.name()).collect();
    let strange = affinities.values().filter(|node| !names.contains(node.as_str())).count();
    checks.push(Check::new(
        "every block has a confirmed affinity with a node of the cluster",
        affinities == of_blocks && strange == 0,
        format!("{} affinities of {} nodes", affinities.len(), affinities.values().collect::<BTreeSet<_>>().len()),
    ));

    let mut pods = BTreeMap::new();
    for pod in items(cluster.get(&["pods", "--all-namespaces", "--field-selector=status.phase=Running"])?) {
        if pod["spec"]["hostNetwork"] == true {
            continue;
        }
        let name = pod["metadata"]["name"].as_str().context("a pod has no name")?.to_owned();
        let address: IpAddr =
            pod["status"]["podIP"].as_str().with_context(|| format!("{name} has no address"))?.parse()?;
        pods.insert(address, (name, pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()));
    }
    let taken: BTreeSet<IpAddr> = blocks.iter().flat_map(|block| block.taken.iter().copied()).collect();
    let known: BTreeSet<IpAddr> = pods.keys().copied().collect();
    let leaked = taken.difference(&known).map(ToString::to_string);
    let missing = known.difference(&taken).map(ToString::to_string);
    let wrong: Vec<String> =
        leaked.map(|ip| format!("{ip} leaked")).chain(missing.map(|ip| format!("{ip} free"))).collect();
    checks.push(Check::new(
        "the addresses taken in blocks are those of the running pods",
        wrong.is_empty() && !known.is_empty(),
        if wrong.is_empty() { format!("{} addresses", known.len()) } else { wrong.join(", ") },
    ));

    let foreign: Vec<String> = pods
        .iter()
        .filter(|(address, (_, node))| {
            !blocks.iter().any(|block| block.range.contains(*address) && block.node == *node)
        })
        .map(|(address, (name, node))| format!("{name} on {node} has {address}"))
        .collect();
    checks.push(Check::new(
        "every pod's address is of a block of its node",
        foreign.is_empty(),
        if foreign.is_empty() { format!("{} pods", pods.len()) } else { foreign.join(", ") },
    ));
    Ok(checks)
}

fn items(list: Value) -> Vec<Value> {
    list["items"].as_array().cloned().unwrap_or_default()
}

fn block(object: &Value) -> Result<Block> {
    let spec = &object["spec"];
    let range: IpNet = spec["cidr"].as_str().context("a block has no range")?.parse()?;
    let affinity = spec["affinity"].as_str().unwrap_or_default();
    let slots = spec["allocations"].as_array().cloned().unwrap_or_default();
    let taken = range.subnets(range.max_prefix_len())?.zip(&slots);
    let taken = taken.filter(|(_, slot)| !slot.is_null()).map(|(address, _)| address.addr()).collect();
    Ok(Block { range, node: affinity.strip_prefix("host:").unwrap_or(affinity).to_owned(), taken })
}
