//! Packets from pods to the outside carry their node's address if the pool says so.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{Net, PATIENCE, Pod, StoreKind, wait};

use crate::bed::{POOL, pool};

/// Whose address somebody outside sees when a pod writes to him.
fn seen_by(outside: &UdpSocket, pod: &Pod<'_, '_>) -> Result<Ipv4Addr> {
    let to = outside.local_addr()?;
    let from = SocketAddr::new(pod.address()?, 0);
    let socket = calico_sys::namespace::inside(pod.network()?, || UdpSocket::bind(from))??;
    socket.send_to(b"whose?", to)?;
    let mut octets = [0; 16];
    let (_, seen) = outside.recv_from(&mut octets)?;
    // And what he answers arrives.
    outside.send_to(b"yours", seen)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (length, _) = socket.recv_from(&mut octets).context("the answer")?;
    ensure!(octets.get(..length) == Some(b"yours"), "another answer");
    match seen {
        SocketAddr::V4(seen) => Ok(*seen.ip()),
        SocketAddr::V6(_) => unreachable!("the socket is of IPv4"),
    }
}

#[test]
fn pods_speak_to_the_outside_with_their_nodes_address_and_to_pods_with_their_own() -> Result<()> {
    let net = Net::new(StoreKind::Sqlite)?;
    let nodes = [net.node("one")?, net.node("two")?];
    nodes[0].apply(&pool("pods", POOL, "natOutgoing: true"))?;
    for node in &nodes {
        node.start_felix()?;
        node.start_speaker()?;
    }
    let pods = [nodes[0].pod("a")?, nodes[1].pod("b")?];
    // Somebody on the segment who knows no pod: without translation he could not even answer.
    let outside = calico_sys::namespace::inside(net.network()?, || UdpSocket::bind("10.0.0.1:7070"))??;
    outside.set_read_timeout(Some(Duration::from_millis(500)))?;
    let becomes =
        |pod: &Pod<'_, '_>, wanted: Ipv4Addr| {
            wait::becomes(PATIENCE, &format!("{} is seen as {wanted}", pod.name()), || {
                Ok(seen_by(&outside, pod)? == wanted)
            })
        };
    becomes(&pods[0], nodes[0].address())?;
    becomes(&pods[1], nodes[1].address())?;

    // From pod to pod nothing is translated.
    let inside = SocketAddr::new(pods[1].address()?, 7071);
    let inside = calico_sys::namespace::inside(pods[1].network()?, || UdpSocket::bind(inside))??;
    inside.set_read_timeout(Some(Duration::from_millis(500)))?;
    let own = pods[0].address()?;
    wait::becomes(PATIENCE, "a pod sees another pod's own address", || Ok(seen_by(&inside, &pods[0])? == own))?;

    // Switched off again, the outside sees the pod; he is told the way, or nothing would come back.
    for (node, pod) in nodes.iter().zip(&pods) {
        let (to, via) = (format!("{}/32", pod.address()?), node.address().to_string());
        integration::process::run(net.command("ip").args(["route", "add", &to, "via", &via]))?;
    }
    nodes[0].apply(&pool("pods", POOL, "natOutgoing: false"))?;
    let own = match own {
        std::net::IpAddr::V4(own) => own,
        std::net::IpAddr::V6(_) => anyhow::bail!("the pod's address is of IPv6"),
    };
    becomes(&pods[0], own)
}
