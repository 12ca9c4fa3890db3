//! The kubelet's probes, with the real felix and the real speakers: what they say, and that they always end.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::{Net, Node, PATIENCE, StoreKind, wait};

/// A probe must have ended by then, whatever it asks: the kubelet waits for ten seconds.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the program under test is: beside felix.
fn program(node: &Node<'_>) -> Result<PathBuf> {
    let felix = node.run("readlink", &["-f", "/usr/local/bin/felix"])?;
    let program = PathBuf::from(felix.trim()).with_file_name("calico-node");
    ensure!(program.is_file(), "{} is not built", program.display());
    Ok(program)
}

/// Runs probes; returns whether all is well, and what was said.
fn probe(node: &Node<'_>, switches: &[&str]) -> Result<(bool, String)> {
    let start = Instant::now();
    let mut command = node.command(&program(node)?.display().to_string());
    let output = command.args(switches).stdin(Stdio::null()).output()?;
    ensure!(start.elapsed() < LIMIT, "{switches:?} took {} ms", start.elapsed().as_millis());
    ensure!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).trim_end().to_owned()))
}

fn is_well(node: &Node<'_>, switches: &[&str]) -> Result<()> {
    match probe(node, switches)? {
        (true, said) if said.is_empty() => Ok(()),
        (_, said) => anyhow::bail!("{switches:?}: {said}"),
    }
}

fn becomes_well(node: &Node<'_>, switches: &[&str]) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{switches:?} of {} succeeds", node.name()), || {
        is_well(node, switches).map(|()| true)
    })
}

#[track_caller]
fn says(node: &Node<'_>, switches: &[&str], text: &str) -> Result<()> {
    let (well, said) = probe(node, switches)?;
    ensure!(!well && said.contains(text), "{switches:?} of {}: {said:?} lacks {text:?}", node.name());
    Ok(())
}

#[test]
fn probes_follow_the_daemons_from_before_their_start_to_their_end() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let (east, west) = (net.node("east")?, net.node("west")?);
    // Nothing runs.
    says(
        &east,
        &["-felix-live"],
        "calico/node is not ready: Felix is not live: localhost:9099 cannot be connected to",
    )?;
    says(&east, &["-felix-ready"], "calico/node is not ready: felix is not ready: ")?;
    says(
        &east,
        &["-bird-live"],
        "calico/node is not ready: bird/confd is not live: unable to query /var/run/calico/bird.ctl",
    )?;
    says(&east, &["-bird-ready", "-bird6-ready"], "calico/node is not ready: BIRD6 is not ready: ")?;

    east.start_felix()?;
    is_well(&east, &["-felix-live", "-felix-ready"])?;
    is_well(&east, &["component", "node", "health", "--felix-live", "--felix-ready"])?;
    // A speaker that waits for its first node's resource is live, and not ready before its work is done.
    east.start_speaker()?;
    becomes_well(&east, &["-bird-live", "-bird6-live"])?;
    // Alone in its cluster it has no peers: ready.
    becomes_well(&east, &["-felix-ready", "-bird-ready", "-bird6-ready"])?;

    // The other node's resource is there and its speaker is not: inside the window that is not ready ...
    west.start_felix()?;
    let west_address = west.address().to_string();
    let unready = format!("calico/node is not ready: BIRD is not ready: BGP not established with {west_address}");
    wait::becomes(PATIENCE, "the missing session is told", || {
        Ok(probe(&east, &["-bird-ready", "-threshold-time=1h"])?.1 == unready)
    })?;
    // ... nor behind it, as no session at all is up; IPv6 has none that could be.
    says(&east, &["-bird-ready", "-threshold-time=0s"], &unready)?;
    is_well(&east, &["-bird6-ready", "-bird-live", "-bird6-live", "-felix-ready"])?;
    west.start_speaker()?;
    for node in [&east, &west] {
        becomes_well(node, &["-bird-ready", "-threshold-time=1h"])?;
    }

    // A peer that dies without a word: first the session stands, then it is told; the speaker stays live.
    west.kill("bgp-speaker")?;
    wait::becomes(PATIENCE, "the lost session is told", || {
        Ok(!probe(&east, &["-bird-ready", "-threshold-time=1h"])?.0)
    })?;
    is_well(&east, &["-bird-live", "-bird6-live", "-felix-live"])?;

    east.kill("bgp-speaker")?;
    says(&east, &["-bird-live"], "is bgp-speaker running?")?;
    east.terminate("felix")?;
    says(&east, &["-felix-live", "-felix-ready"], "Felix is not live")
}

#[test]
fn daemons_that_hang_are_failed_probes_and_never_hanging_ones() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    // One that accepts and says nothing, one whose queue is full, and one that never stops talking.
    let folder = node.holder().inside("/run/calico");
    let silent = UnixListener::bind(folder.join("bird.ctl"))?;
    let talker = UnixListener::bind(folder.join("bird6.ctl"))?;
    thread::spawn(move || {
        use std::io::Write as _;
        while let Ok((mut stream, _)) = talker.accept() {
            thread::spawn(move || {
                let _ = stream.write_all(b"0001 BIRD v0.3.3+birdv1.6.8 ready.\n");
                while stream.write_all(b"1002-Mesh_10_0_0_2 BGP master up x Established\n").is_ok() {}
            });
        }
    });
    let network = node.holder().network()?;
    let felix = calico_sys::namespace::inside(&network, || TcpListener::bind("127.0.0.1:9099"))??;
    let switches = ["-felix-live", "-felix-ready", "-bird-live", "-bird-ready", "-bird6-live", "-bird6-ready"];
    let (well, said) = probe(&node, &switches)?;
    ensure!(!well && said.lines().count() == 6, "{said}");
    for line in said.lines() {
        ensure!(line.starts_with("calico/node is not ready: ") && !line.contains("panicked"), "{said}");
    }
    // The silent one's queue is full of those that gave up: connecting itself hangs then.
    let mut waiting = Vec::new();
    while let Ok(stream) = calico_sys::socket::connect_unix(&folder.join("bird.ctl"), Duration::from_millis(200)) {
        waiting.push(stream);
        ensure!(waiting.len() < 10_000, "the queue does not fill");
    }
    says(&node, &["-bird-live"], "bird/confd is not live: ")?;
    drop((silent, felix));
    says(&node, &["-bird-live", "-felix-live"], "Felix is not live")
}

#[test]
fn a_speaker_without_its_datastore_is_live_and_not_ready() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("east")?;
    // The environment decides only where there is no configuration file.
    node.run("rm", &["/etc/calico/calicoctl.cfg"])?;
    node.start("bgp-speaker", &[("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", "http://127.0.0.1:1")])?;
    becomes_well(&node, &["-bird-live", "-bird6-live"])?;
    says(&node, &["-bird-ready"], "BIRD is not ready: readiness probe reporting 503 (BGP waiting for the datastore")?;
    says(&node, &["health"], "must specify at least one of")
}
