//! The main job, with the real programs in namespaces: pods of several nodes reach each other over our own BGP.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use integration::lab::{Lab, Matrix, Options, Progress};
use integration::{Net, Node, PATIENCE, Pod, StoreKind, Stream, wait};

/// Nodes that serve, each with this many pods.
fn options(store: StoreKind, nodes: u8, pods: u16) -> Options {
    Options { nodes, pods, store }
}

/// Plays the whole lab on a store.
fn everybody_pings_everybody(store: StoreKind) -> Result<()> {
    let net = Net::new(store)?;
    let options = options(store, 3, 2);
    let nodes = Lab::nodes(&net, options, &mut Progress::quiet())?;
    let lab = Lab::start(&nodes, options, &mut Progress::quiet())?;
    let report = lab.report(&net, &mut Progress::quiet())?;
    anyhow::ensure!(report.good(), "{report}");
    anyhow::ensure!(report.pings.pings.len() == 30, "{report}");
    for node in &report.nodes {
        anyhow::ensure!(node.established == 2, "{report}");
        anyhow::ensure!(node.routes.contains("blackhole 10.244."), "{}", node.routes);
        anyhow::ensure!(node.routes.matches("proto bird").count() == 2, "{}", node.routes);
        anyhow::ensure!(node.routes.matches("dev cali").count() == 2, "{}", node.routes);
    }
    Ok(())
}

#[test]
fn pods_of_three_nodes_ping_each_other_on_sqlite() -> Result<()> {
    everybody_pings_everybody(StoreKind::Sqlite)
}

#[test]
fn pods_of_three_nodes_ping_each_other_on_etcd() -> Result<()> {
    everybody_pings_everybody(StoreKind::Etcd)
}

#[test]
fn pods_of_three_nodes_ping_each_other_on_kubernetes() -> Result<()> {
    everybody_pings_everybody(StoreKind::Kubernetes)
}

/// Starts nodes and pods on SQLite and hands them over.
fn with_lab(nodes: u8, pods: u16, test: impl FnOnce(&Net, &[Node<'_>], &Lab<'_>) -> Result<()>) -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let options = options(StoreKind::Sqlite, nodes, pods);
    let nodes = Lab::nodes(&net, options, &mut Progress::quiet())?;
    let lab = Lab::start(&nodes, options, &mut Progress::quiet())?;
    test(&net, &nodes, &lab)
}

/// Waits until one pod reaches the other.
fn reaches(from: &Pod<'_, '_>, to: &Pod<'_, '_>) -> Result<()> {
    let address = to.address()?;
    wait::becomes(PATIENCE, &format!("{} reaches {}", from.name(), to.name()), || Ok(from.ping(address).is_ok()))
}

#[test]
fn a_node_that_comes_later_is_reached_without_a_restart() -> Result<()> {
    with_lab(2, 1, |net, _, lab| {
        let late = net.node("late")?;
        late.start_felix()?;
        late.start_speaker()?;
        let pod = late.pod("late-pod")?;
        for other in lab.pods() {
            reaches(other, &pod)?;
            reaches(&pod, other)?;
        }
        Ok(())
    })
}

#[test]
fn a_node_that_is_removed_loses_its_sessions_and_its_routes() -> Result<()> {
    with_lab(3, 1, |_, nodes, lab| {
        let [first, .., last] = nodes else { anyhow::bail!("three nodes were asked for") };
        last.terminate("bgp-speaker")?;
        last.terminate("felix")?;
        first.calicoctl(&["delete", "node", last.name()])?;
        wait::becomes(PATIENCE, "the removed node's session is gone", || {
            Ok(!first.calicoctl(&["node", "status"])?.contains(&last.address().to_string()))
        })?;
        wait::becomes(PATIENCE, "the removed node's routes are gone", || {
            let via = last.address().to_string();
            Ok(first.routes()?.iter().all(|route| route["gateway"] != via.as_str()))
        })?;
        let [a, b, ..] = lab.pods() else { anyhow::bail!("three pods were asked for") };
        reaches(a, b)
    })
}

#[test]
fn an_address_is_reused_only_after_it_is_gone() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let node = net.node("node1")?;
    // Four addresses in all, so that they come round soon.
    node.apply(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: tiny}\nspec: {cidr: 10.244.0.0/30, blockSize: 30}\n",
    )?;
    node.start_felix()?;
    let watcher = node.pod("watcher")?;
    for round in 0..6 {
        let pod = node.pod(&format!("pod{round}"))?;
        let address = pod.address()?;
        watcher.ping(address).with_context(|| format!("round {round}"))?;
        pod.remove()?;
        let routes = node.run("ip", &["route"])?;
        let gone = !routes.lines().any(|line| line.starts_with(&format!("{address} ")));
        anyhow::ensure!(gone, "DEL returned, and {address} is still routed:\n{routes}");
        // DEL is answered when nothing reaches the pod any more; the address is free when its interface is deleted.
        wait::becomes(PATIENCE, &format!("{address} is free"), || {
            Ok(node.calicoctl(&["ipam", "show", "--ip", &address.to_string()])?.contains("is not assigned"))
        })?;
    }
    Ok(())
}

/// Kills a daemon on each node in turn under a stream between pods, and counts what is lost.
fn a_kill_costs_no_packet(program: &str) -> Result<()> {
    with_lab(3, 1, |_, nodes, lab| {
        let [a, b, c] = lab.pods() else { anyhow::bail!("three pods were asked for") };
        let streams = [Stream::start(a, b, 1000)?, Stream::start(b, c, 1000)?, Stream::start(c, a, 1000)?];
        for node in nodes {
            let before = streams[0].sent();
            node.kill(program)?;
            wait::becomes(PATIENCE, "half a second of packets", || Ok(streams[0].sent() > before + 500))?;
            if program == "felix" {
                node.start_felix()?;
            } else {
                node.start_speaker()?;
                integration::lab::established(node, 2)?;
            }
        }
        let before = streams[0].sent();
        wait::becomes(PATIENCE, "another second of packets", || Ok(streams[0].sent() > before + 1000))?;
        for stream in streams {
            let count = stream.stop()?;
            anyhow::ensure!(count.lost == 0, "{count:?} while {program} was killed on each node");
            anyhow::ensure!(count.sent > 2000, "{count:?} is too few to tell anything");
        }
        anyhow::ensure!(Matrix::of(lab.pods()).failures() == 0, "pings after the kills");
        Ok(())
    })
}

#[test]
fn felix_killed_on_each_node_costs_no_packet() -> Result<()> {
    a_kill_costs_no_packet("felix")
}

#[test]
fn the_speaker_killed_on_each_node_costs_no_packet() -> Result<()> {
    a_kill_costs_no_packet("bgp-speaker")
}

#[test]
fn felix_started_again_changes_nothing_and_serves_the_next_pod() -> Result<()> {
    with_lab(1, 2, |_, nodes, _| {
        let node = &nodes[0];
        let look = || -> Result<String> {
            let routes = node.run("ip", &["route", "show", "table", "all"])?;
            // The counters of a link change by themselves; what it is set to does not.
            let links = node.run("ip", &["-brief", "link"])?;
            Ok(routes + &links)
        };
        let mut monitor = integration::process::Process::start(
            "ip monitor",
            node.command("ip").args(["monitor", "route", "link", "address"]),
            node.net().log("monitor"),
        )?;
        // The kernel goes on for a while with what follows from new interfaces, such as link-local addresses.
        let mut seen = (usize::MAX, Instant::now());
        wait::becomes(PATIENCE, "the node has come to rest", || {
            let length = monitor.output()?.len();
            if length != seen.0 {
                seen = (length, Instant::now());
            }
            // An address in IPv6 is announced once more when the kernel has seen that nobody else has it.
            if !node.run("ip", &["-6", "address", "show", "tentative"])?.is_empty() {
                seen.1 = Instant::now();
            }
            Ok(seen.1.elapsed() > Duration::from_secs(2))
        })?;
        let (before, quiet) = (look()?, seen.0);
        node.kill("felix")?;
        node.start_felix()?;
        node.run("ip", &["route", "add", "192.0.2.1/32", "dev", "lo"])?;
        wait::becomes(PATIENCE, "the monitor has seen the mark", || Ok(monitor.output()?.contains("192.0.2.1")))?;
        node.run("ip", &["route", "del", "192.0.2.1/32", "dev", "lo"])?;
        monitor.kill()?;
        let events = monitor.output()?.split_off(quiet);
        let ours: Vec<&str> = events.lines().filter(|line| !line.contains("192.0.2.1")).collect();
        anyhow::ensure!(ours.is_empty(), "felix changed the kernel when it was started again:\n{events}");
        anyhow::ensure!(look()? == before, "before:\n{before}\nafter:\n{}", look()?);
        node.pod("next").map(drop)
    })
}

#[test]
fn what_others_delete_comes_back_by_notification() -> Result<()> {
    with_lab(2, 1, |_, nodes, lab| {
        let node = &nodes[0];
        let pod = lab.pods()[0].address()?.to_string();
        let routes = node.routes()?;
        let find = |test: &dyn Fn(&serde_json::Value) -> bool| {
            let route = routes.iter().find(|route| test(route));
            Ok::<_, anyhow::Error>(
                route.and_then(|route| route["dst"].as_str()).context("a route is missing")?.to_owned(),
            )
        };
        let blackhole = find(&|route| route["type"] == "blackhole")?;
        let learned = find(&|route| route["protocol"] == "bird")?;
        for (what, words) in [
            (&pod, vec!["route", "del", &pod]),
            (&blackhole, vec!["route", "del", "blackhole", &blackhole]),
            (&learned, vec!["route", "del", &learned]),
        ] {
            node.run("ip", &words)?;
            // Long before the slow audit, which comes every ninety seconds.
            wait::becomes(PATIENCE, &format!("{what} is back"), || {
                Ok(node.routes()?.iter().any(|route| route["dst"] == what.as_str()))
            })?;
        }
        Ok(())
    })
}
