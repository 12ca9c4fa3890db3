//! A workload that is a BGP peer of its node: BIRD in a pod, selected by a BGPPeer. Needs Debian's `bird2`.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use calico_sys::namespace;
use integration::process::Process;
use integration::{Net, Node, PATIENCE, Pod, StoreKind, wait};
use serde_json::{Value, json};

/// Where the pod dials its node.
const PEERING: &str = "169.254.0.179";

/// Advertised by the pod, outside of every pool.
const OUTSIDE: &str = "203.0.113.0/24";

/// The same, inside of one.
const INSIDE: &str = "10.245.7.0/24";

const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.244.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: nested}
spec: {cidr: 10.245.0.0/16, nodeSelector: '!all()'}
";

/// The BGPPeer, and what else it needs.
const PEER: &str = "\
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: routers}
spec: {localWorkloadSelector: \"app == 'router'\", asNumber: 65100, localASNumber: 65200}
";

/// The endpoint status file of a pod, if there is one.
fn status_file(node: &Node<'_>, pod: &str) -> Result<Option<Value>> {
    let path = node.holder().inside(&format!("/run/calico/endpoint-status/k8s default%2F{pod} eth0"));
    match fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Writes a label of a pod's endpoint.
fn label(node: &Node<'_>, pod: &str, value: &str) -> Result<()> {
    let name = calico_api::workload_endpoint_name(node.name(), "k8s", pod, "eth0");
    let text = node.calicoctl(&["get", "workloadendpoint", &name, "--namespace", "default", "--output", "json"])?;
    let mut endpoint: Value = serde_json::from_str(&text)?;
    endpoint["metadata"]["labels"]["app"] = value.into();
    node.apply(&endpoint.to_string())?;
    Ok(())
}

/// The node's side of a pod's interface, and its IPv4 addresses.
fn host_side(node: &Node<'_>, pod: &Pod<'_, '_>) -> Result<(String, Vec<String>)> {
    let to: Vec<Value> =
        serde_json::from_str(&node.run("ip", &["-json", "route", "get", &pod.address()?.to_string()])?)?;
    let interface = to.first().and_then(|route| route["dev"].as_str()).context("the pod is not routed")?.to_owned();
    let shown: Vec<Value> =
        serde_json::from_str(&node.run("ip", &["-json", "-4", "addr", "show", "dev", &interface])?)?;
    let addresses = shown.iter().flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
    let text = |address: &Value| Some(format!("{}/{}", address["local"].as_str()?, address["prefixlen"]));
    Ok((interface, addresses.filter_map(text).collect()))
}

/// What the speaker says of the session with a pod, if it has one.
fn session(node: &Node<'_>, pod: &Pod<'_, '_>) -> Result<Option<Value>> {
    let mut stream = UnixStream::connect(node.holder().inside("/run/ocicat/bgp.sock"))?;
    writeln!(stream, "{{\"show\":\"sessions\"}}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line)?;
    let name = format!("Local_Workload_{}", pod.address()?.to_string().replace('.', "_"));
    Ok(answer["sessions"].as_array().context("no list of sessions")?.iter().find(|one| one["name"] == *name).cloned())
}

/// Starts BIRD in a pod. It dials the node and advertises both prefixes.
fn start_bird(node: &Node<'_>, pod: &Pod<'_, '_>) -> Result<Process> {
    let own = pod.address()?;
    let text = format!(
        "log stderr all;
         router id {own};
         protocol device {{ }}
         protocol static {{ ipv4; route {OUTSIDE} blackhole; route {INSIDE} blackhole; }}
         protocol bgp node {{
             debug {{ states, events }};
             local {own} as 65100;
             neighbor {PEERING} as 65200;
             multihop;
             connect delay time 1; connect retry time 1; error wait time 1, 2;
             ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
         }}\n"
    );
    fs::write(node.holder().inside("/run/bird-in-pod.conf"), text)?;
    let mut command = node.command("ip");
    command.args(["netns", "exec", &format!("cni-{}", pod.name()), "bird", "-f", "-c", "/run/bird-in-pod.conf"]);
    command.args(["-s", "/run/bird-in-pod.ctl", "-P", "/run/bird-in-pod.pid"]);
    Process::start("bird in a pod", &mut command, node.net().log("bird-in-pod"))
}

/// The route of the kernel of a node to a prefix, of protocol 12.
fn learned(node: &Node<'_>, prefix: &str) -> Result<Option<Value>> {
    Ok(node.routes()?.into_iter().find(|route| route["dst"] == prefix && route["protocol"] == "bird"))
}

/// Whether a TCP connection from the pod reaches a listener of the node at the peering address.
fn dials(node: &Node<'_>, pod: &Pod<'_, '_>) -> Result<()> {
    let to: SocketAddr = format!("{PEERING}:179").parse()?;
    let listener = namespace::inside(&node.holder().network()?, || TcpListener::bind(to))??;
    let connect = || TcpStream::connect_timeout(&to, PATIENCE);
    let mut near = namespace::inside(&pod.network()?, connect)?.context("the pod does not reach its node")?;
    let (mut far, from) = listener.accept()?;
    ensure!(from.ip() == pod.address()?, "the pod came as {from}");
    near.write_all(b"x")?;
    far.read_exact(&mut [0])?;
    Ok(())
}

#[test]
fn a_pod_that_a_bgp_peer_selects_peers_with_its_node_and_its_prefixes_are_routed_to_it() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let [east, west] = [net.node("east")?, net.node("west")?];
    east.apply(RESOURCES)?;
    for node in [&east, &west] {
        node.start_felix()?;
    }
    let [router, other] = [east.pod("router")?, east.pod("other")?];
    let plain = |file: &Value| file["bgpPeerName"].is_null() && file["ipv4Nets"].is_array();
    wait::becomes(PATIENCE, "both pods have a status file", || {
        Ok(status_file(&east, "router")?.is_some_and(|file| plain(&file)) && status_file(&east, "other")?.is_some())
    })?;
    label(&east, "router", "router")?;
    east.apply(PEER)?;
    wait::becomes(PATIENCE, "felix names what is missing", || {
        let log = fs::read_to_string(net.log("east-felix"))?;
        Ok(log.contains("localWorkloadPeeringIPV4") && log.contains("routers"))
    })?;
    east.calicoctl(&["get", "bgpconfiguration", "default"])?;
    east.apply(&format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{localWorkloadPeeringIPV4: {PEERING}}}\n"
    ))?;
    wait::becomes(PATIENCE, "the node has the peering address on the pod's interface", || {
        Ok(host_side(&east, &router)?.1 == [format!("{PEERING}/32")])
    })?;
    let (interface, _) = host_side(&east, &router)?;
    let expected =
        json!({"ifaceName": interface, "ipv4Nets": [format!("{}/32", router.address()?)], "bgpPeerName": "routers"});
    ensure!(status_file(&east, "router")? == Some(expected.clone()), "{:?}", status_file(&east, "router")?);
    ensure!(host_side(&east, &other)?.1.is_empty() && status_file(&east, "other")?.is_some_and(|file| plain(&file)));
    dials(&east, &router)?;

    // The session, and R18: what the pod advertises.
    for node in [&east, &west] {
        node.start_speaker()?;
    }
    let mut bird = start_bird(&east, &router)?;
    let mut seen = None;
    wait::becomes(PATIENCE, "the session with the pod is established", || {
        bird.check()?;
        east.check()?;
        seen = session(&east, &router)?;
        Ok(seen.as_ref().is_some_and(|session| session["fsm"] == "Established"))
    })
    .with_context(|| {
        format!("{seen:?}\n{}\nBIRD:\n{}", east.last_lines("bgp-speaker"), bird.output().unwrap_or_default())
    })?;
    let seen = seen.context("there was one a moment ago")?;
    ensure!(seen["passive"] == true && seen["source"].is_null(), "{seen}");
    ensure!(seen["local_as"] == 65200 && seen["peer_as"] == 65100, "{seen}");
    for prefix in [OUTSIDE, INSIDE] {
        wait::becomes(PATIENCE, &format!("{prefix} is routed to the pod"), || {
            let via = router.address()?.to_string();
            Ok(learned(&east, prefix)?.is_some_and(|route| route["dev"] == *interface && route["gateway"] == *via))
        })
        .with_context(|| east.run("ip", &["route"]).unwrap_or_default())?;
    }
    // Another node hears of what is in a pool, and of nothing else.
    wait::becomes(PATIENCE, "the other node routes the prefix of the pool to the pod's node", || {
        Ok(learned(&west, INSIDE)?.is_some_and(|route| route["gateway"] == *east.address().to_string()))
    })
    .with_context(|| west.run("ip", &["route"]).unwrap_or_default())?;
    ensure!(learned(&west, OUTSIDE)?.is_none(), "{OUTSIDE} is in no pool");
    ensure!(session(&west, &router)?.is_none(), "the session is only on the pod's own node");

    // Felix leaves BGP's routes on the pod's interface alone, also when it starts.
    east.kill("felix")?;
    east.start_felix()?;
    for prefix in [OUTSIDE, INSIDE] {
        ensure!(learned(&east, prefix)?.is_some(), "{prefix} is gone after a restart of felix");
    }
    ensure!(status_file(&east, "router")? == Some(expected), "{:?}", status_file(&east, "router")?);

    // No peer any more: session, routes and address go, the pod stays.
    east.calicoctl(&["delete", "bgppeer", "routers"])?;
    wait::becomes(PATIENCE, "session, routes and address are gone", || {
        let routes = learned(&east, OUTSIDE)?.is_some() || learned(&west, INSIDE)?.is_some();
        Ok(session(&east, &router)?.is_none() && !routes && host_side(&east, &router)?.1.is_empty())
    })
    .with_context(|| east.last_lines("bgp-speaker"))?;
    ensure!(status_file(&east, "router")?.is_some_and(|file| plain(&file)));
    router.ping(east.address().into())?;

    // A peer again, and then the pod is deleted.
    east.apply(PEER)?;
    wait::becomes(PATIENCE, "the prefix is routed to the pod again", || Ok(learned(&east, OUTSIDE)?.is_some()))?;
    let address = router.address()?;
    bird.kill()?;
    router.remove()?;
    ensure!(status_file(&east, "router")?.is_none(), "DEL returned, and the file is there");
    wait::becomes(PATIENCE, "nothing is left of the pod", || {
        let routes = east.run("ip", &["route"])?;
        Ok(!routes.contains(OUTSIDE) && !routes.contains(&format!("{address} ")))
    })?;
    [&east, &west].into_iter().try_for_each(Node::check)
}
