//! Bad input of every kind gets a clear error that names the thing, and the rest goes on.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Net, Node, PATIENCE, Pod, StoreKind, wait};

const POOL: &str = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: pool}\nspec: {cidr: 10.244.0.0/16, blockSize: 26}\n";

/// What `calicoctl apply` says on standard error, and how it ends.
fn refused(node: &Node<'_>, text: &str) -> Result<String> {
    let error = node.apply(text).err().context("it was applied")?;
    Ok(format!("{error:#}"))
}

#[test]
fn calicoctl_names_what_is_wrong_in_a_file() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("node1")?;
    let error = refused(&node, &POOL.replace("blockSize", "blocSize"))?;
    ensure!(error.contains("blocSize") && error.contains("not recognized"), "{error}");
    let error = refused(&node, &POOL.replace("10.244.0.0/16", "10.244.0.1/16"))?;
    ensure!(error.contains("10.244.0.1/16") && error.contains("CIDR"), "{error}");
    let error = refused(&node, "kind: IPPool\nspec: [\n")?;
    ensure!(error.contains("line"), "{error}");
    let error = refused(&node, &POOL.replace("IPPool", "IPPuddle"))?;
    ensure!(error.contains("unknown resource type (IPPuddle)"), "{error}");
    // Nothing of it was stored, and what is right still can be.
    node.apply(POOL)?;
    let pools = node.calicoctl(&["get", "ippool", "-o", "yaml"])?;
    ensure!(pools.contains("cidr: 10.244.0.0/16"), "{pools}");
    Ok(())
}

#[test]
fn a_network_configuration_that_is_not_json_is_a_decoding_error() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("node1")?;
    let pod = Pod::sandbox(&node, "pod")?;
    let output = pod.exec_raw("calico", "ADD", b"{ not json")?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.code() == Some(1) && answer["code"] == 6, "{answer}");
    let output = pod.exec_raw("calico", "ADD", br#"{"cniVersion":"1.0.0","name":"a/b","type":"calico"}"#)?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(output.status.code() == Some(1) && answer["code"] == 7, "{answer}");
    Ok(())
}

#[test]
fn without_an_agent_a_pod_is_told_to_come_again_within_a_second() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("node1")?;
    let pod = Pod::sandbox(&node, "pod")?;
    let start = Instant::now();
    let error = format!("{:#}", pod.add().err().context("ADD succeeded without an agent")?);
    ensure!(start.elapsed() < Duration::from_secs(1), "it took {:?}", start.elapsed());
    let answer: serde_json::Value = serde_json::from_str(error.split_once("failed: ").context("no JSON")?.1)?;
    ensure!(answer["code"] == 11, "{error}");
    ensure!(error.contains("felix") && error.contains("agent.sock"), "it does not say what to check: {error}");
    // DEL succeeds all the same, in any order and as often as one likes; the releases are done when felix comes.
    pod.del()?;
    pod.del()?;
    node.apply(POOL)?;
    node.start_felix()?;
    wait::becomes(PATIENCE, "the remembered releases are done", || {
        Ok(node.run("ls", &["/var/lib/calico/pending-releases"])?.trim().is_empty())
    })?;
    pod.add().map(drop)
}

#[test]
fn a_store_that_is_down_is_named() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("node1")?;
    let output = node
        .command("/usr/local/bin/calicoctl")
        .args(["--config", "/nowhere.cfg", "get", "nodes"])
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(1) && said.contains("/nowhere.cfg"), "{said}");
    let output = node
        .command("/usr/bin/env")
        .args(["DATASTORE_TYPE=etcdv3", "ETCD_ENDPOINTS=http://10.0.0.1:2379", "rm", "/etc/calico/calicoctl.cfg"])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let output = node
        .command("/usr/bin/env")
        .args([
            "DATASTORE_TYPE=etcdv3",
            "ETCD_ENDPOINTS=http://10.0.0.1:2379",
            "/usr/local/bin/calicoctl",
            "get",
            "nodes",
        ])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("10.0.0.1:2379"), "{said}");
    Ok(())
}

#[test]
fn a_corrupt_block_is_reported_and_the_next_one_is_used() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("node1")?;
    node.apply(POOL)?;
    node.start_felix()?;
    let first = node.pod("first")?;
    let database = net.directory().join("ocicat.db");
    let mut connection = rusqlite::Connection::open(&database)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    let blocks = integration::sqlite::keys(&connection, "IPAMBlock")?;
    let [block] = blocks.as_slice() else { anyhow::bail!("one block was expected: {blocks:?}") };
    integration::sqlite::spoil(&mut connection, "IPAMBlock", block, "{\"this is\": \"no block\"")?;
    drop(connection);

    let shown = node.command("/usr/local/bin/calicoctl").args(["ipam", "show", "--show-blocks"]).output()?;
    let said = String::from_utf8_lossy(&shown.stderr);
    ensure!(shown.status.code() == Some(1) && said.contains("corrupt") && said.contains("10.244."), "{said}");
    // Whose ADD crosses the bad news is told to come again (code 11), as a runtime does; whoever comes after it is served at once.
    wait::becomes(PATIENCE, "felix reports the block", || {
        Ok(node.last_lines("felix").contains("a block is corrupt and is not used"))
    })?;
    let second = Pod::sandbox(&node, "second")?;
    second.add().with_context(|| node.last_lines("felix"))?;
    second.ping(first.address()?)?;
    node.check()
}
