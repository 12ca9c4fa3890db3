//! What the kernel alone costs, without any program's own work: the least that a plugin could take.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use calico_netlink::{Address, Batch, LinkChange, Mac, Neighbour, NextHop, Route, Socket, Veth, sysctl};
use ipnet::IpNet;

use super::caller::{Caller, remove_namespace};
use crate::bench::sample::Sample;

/// The protocol of the routes; nobody looks at them.
const PROTOCOL: u8 = 3;

/// Times the exec of a program that does nothing, the plain calls of a pod's connection, and its removal.
pub(super) fn measure(caller: &Caller<'_, '_>, count: u32) -> Result<String> {
    let (mut spawn, mut add, mut del) = (Sample::default(), Sample::default(), Sample::default());
    for number in 0..count {
        let mut command = Command::new("/opt/cni/bin/calico");
        command.env_clear().arg("--version").stdin(Stdio::null()).stdout(Stdio::null());
        let start = Instant::now();
        command.spawn()?.wait()?;
        spawn.add(start.elapsed());

        let path = format!("/run/netns/floor-{number}");
        caller.make_namespace(&path)?;
        let namespace = calico_sys::namespace::open(path.as_ref())?;
        let start = Instant::now();
        let mut node = Socket::open()?;
        let mut inside = calico_sys::namespace::inside(&namespace, Socket::open)??;
        let index = connect(&mut node, &mut inside, &namespace, number)?;
        add.add(start.elapsed());
        drop((inside, namespace));
        let start = Instant::now();
        node.delete_link(index)?;
        del.add(start.elapsed());
        remove_namespace(&path)?;
    }
    let mut text = format!("\n{:<40} {:>8} {:>8}\n", "floor", "p50", "p99");
    for (name, sample) in [
        ("exec to exit of the plugin without a verb", spawn),
        ("what an ADD asks of the kernel", add),
        ("removal of one interface by the kernel", del),
    ] {
        writeln!(text, "{name:<40} {:>8.2} {:>8.2}", sample.quantile(0.5), sample.quantile(0.99))?;
    }
    Ok(text)
}

fn connect(node: &mut Socket, inside: &mut Socket, namespace: &impl AsFd, number: u32) -> Result<u32> {
    let name = format!("floor{number}");
    let veth = Veth {
        name: &name,
        peer_name: "eth0",
        peer_netns: Some(namespace.as_fd()),
        mac: Some(Mac([0xee; 6])),
        ..Veth::default()
    };
    node.add_veth(&veth)?;
    let link = node.link(&name)?.context("it was just made")?;
    let peer = link.peer.context("it has two ends")?;
    let address = IpAddr::from(Ipv4Addr::from(0x0a46_0000 + number));
    let gateway = IpAddr::from([169, 254, 1, 1]);
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let mut batch = Batch::new();
    batch.add_address(&Address::new(peer, IpNet::from(address)).without_duplicate_detection());
    batch.change_link(peer, &up);
    batch.replace_neighbour(&Neighbour::permanent(peer, gateway, Mac([0xee; 6])));
    batch.add_route(&Route::unicast(IpNet::from(gateway), [NextHop::dev(peer)], PROTOCOL));
    batch.add_route(&Route::unicast("0.0.0.0/0".parse()?, [NextHop::via(gateway).on(peer)], PROTOCOL));
    inside.execute(batch)?;
    for parameter in ["proxy_arp", "route_localnet", "forwarding"] {
        sysctl::write(&["net", "ipv4", "conf", &name, parameter], "1")?;
    }
    sysctl::write(&["net", "ipv4", "neigh", &name, "proxy_delay"], "0")?;
    node.change_link(link.index, &up)?;
    let mut batch = Batch::new();
    batch.add_route(&Route::unicast(IpNet::from(address), [NextHop::dev(link.index)], PROTOCOL));
    node.execute(batch)?;
    Ok(link.index)
}
