//! FRR's bgpd and zebra, and `vtysh`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use super::{Daemon, Network, Path, PeerSpec, list, number, numbers, text};
use crate::node::Node;
use crate::process::Process;

/// Debian's `frr`. Its zebra runs for the reachability of next hops.
#[derive(Clone, Copy, Debug)]
pub struct Frr;

/// Where everything of it is.
const FOLDER: &str = "/run/frr";

/// The route map that sets what is special about a network; empty where nothing is.
fn route_map(network: &Network) -> Result<String> {
    let mut sets = String::new();
    if let Some(next_hop) = network.next_hop {
        let what = if next_hop.is_ipv4() { "ip next-hop" } else { "ipv6 next-hop global" };
        writeln!(sets, " set {what} {next_hop}")?;
    }
    for (large, what) in [(false, "community"), (true, "large-community")] {
        let communities: Vec<_> = network.communities(large).collect();
        if !communities.is_empty() {
            writeln!(sets, " set {what} {}", communities.join(" "))?;
        }
    }
    Ok(if sets.is_empty() { sets } else { format!("route-map {} permit 10\n{sets}exit\n", map_name(network)) })
}

fn map_name(network: &Network) -> String {
    format!("for_{}", network.prefix.to_string().replace([':', '.', '/'], "_"))
}

/// The statement that announces a network.
fn statement(network: &Network) -> Result<String> {
    let map = if route_map(network)?.is_empty() { String::new() } else { format!(" route-map {}", map_name(network)) };
    Ok(format!("network {}{map}", network.prefix))
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn config(spec: &PeerSpec) -> Result<String> {
    let mut text = String::from("hostname frr\nbgp route-map delay-timer 0\n");
    for network in &spec.networks {
        text += &route_map(network)?;
    }
    write!(
        text,
        "router bgp {}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
         no bgp network import-check\n bgp graceful-restart\n",
        spec.asn, spec.router_id
    )?;
    if let Some(cluster) = spec.cluster_id {
        writeln!(text, " bgp cluster-id {cluster}")?;
    }
    for neighbour in &spec.neighbours {
        let address = neighbour.address;
        writeln!(text, " neighbor {address} remote-as {}", neighbour.asn)?;
        writeln!(text, " neighbor {address} update-source {}", neighbour.local)?;
        writeln!(text, " neighbor {address} advertisement-interval 0")?;
        writeln!(text, " neighbor {address} timers connect 1")?;
        if let Some(password) = &neighbour.password {
            writeln!(text, " neighbor {address} password {password}")?;
        }
        if let Some(hops) = neighbour.gtsm {
            writeln!(text, " neighbor {address} ttl-security hops {hops}")?;
        }
        if !neighbour.dials {
            writeln!(text, " neighbor {address} passive")?;
        }
    }
    for family in ["ipv4", "ipv6"] {
        writeln!(text, " address-family {family} unicast")?;
        for neighbour in spec.neighbours.iter().filter(|neighbour| family_of(neighbour.address) == family) {
            writeln!(text, "  neighbor {} activate", neighbour.address)?;
            if neighbour.client {
                writeln!(text, "  neighbor {} route-reflector-client", neighbour.address)?;
            }
        }
        for network in spec.networks.iter().filter(|network| family_of(network.prefix.addr()) == family) {
            writeln!(text, "  {}", statement(network)?)?;
        }
        writeln!(text, " exit-address-family")?;
    }
    Ok(text)
}

fn vtysh(node: &Node<'_>, commands: &[&str]) -> Result<String> {
    let mut words = vec!["--vty_socket", FOLDER];
    words.extend(commands.iter().flat_map(|command| ["-c", command]));
    node.run("vtysh", &words)
}

fn ask(node: &Node<'_>, question: &str) -> Result<Value> {
    let answer = vtysh(node, &[question])?;
    serde_json::from_str(&answer).with_context(|| format!("vtysh's answer to {question:?}: {answer}"))
}

/// The document about a neighbour.
fn about(node: &Node<'_>, neighbour: IpAddr) -> Result<Value> {
    let mut answer = ask(node, &format!("show bgp neighbors {neighbour} json"))?;
    answer.get_mut(neighbour.to_string()).map(Value::take).with_context(|| format!("no {neighbour} in {answer}"))
}

fn configure(node: &Node<'_>, spec: &PeerSpec, prefix: IpNet, statement: &str, before: &str) -> Result<()> {
    let router = format!("router bgp {}", spec.asn);
    let family = format!("address-family {} unicast", family_of(prefix.addr()));
    let mut commands = vec!["configure terminal"];
    commands.extend(before.lines());
    commands.extend([router.as_str(), family.as_str(), statement]);
    let answer = vtysh(node, &commands)?;
    if answer.contains('%') {
        bail!("vtysh refuses {commands:?}: {answer}");
    }
    Ok(())
}

fn path(value: &Value) -> Result<Option<Path>> {
    let hops = list(value, "/nexthops");
    let global = hops.iter().find(|hop| hop["scope"] != "link-local");
    let next_hop: IpAddr = text(global.with_context(|| format!("no next hop in {value}"))?, "/ip")?.parse()?;
    if next_hop.is_unspecified() {
        // Its own.
        return Ok(None);
    }
    let mut communities = BTreeSet::new();
    for kind in ["/community/list", "/largeCommunity/list"] {
        communities.extend(list(value, kind).iter().filter_map(Value::as_str).map(str::to_owned));
    }
    let clusters = list(value, "/clusterList/list").iter().filter_map(Value::as_str);
    Ok(Some(Path {
        next_hop,
        as_path: match text(value, "/aspath/string")? {
            "Local" => Vec::new(),
            path => numbers(path)?,
        },
        local_pref: number(value, "/locPrf"),
        communities,
        originator: value.get("originatorId").and_then(Value::as_str).map(str::parse).transpose()?,
        clusters: clusters.map(str::parse).collect::<Result<_, _>>()?,
    }))
}

impl Daemon for Frr {
    fn name(&self) -> &'static str {
        "FRR"
    }

    fn start(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<Vec<Process>> {
        node.run("install", &["-d", "-o", "frr", "-g", "frr", FOLDER])?;
        fs::write(node.holder().inside("/run/frr/bgpd.conf"), config(spec)?)?;
        fs::write(node.holder().inside("/run/frr/zebra.conf"), "hostname frr\n")?;
        node.run("chown", &["frr:frr", "/run/frr/bgpd.conf", "/run/frr/zebra.conf"])?;
        let mut processes = Vec::new();
        for program in ["zebra", "bgpd"] {
            let (config, pid) = (format!("{FOLDER}/{program}.conf"), format!("{FOLDER}/{program}.pid"));
            let mut command = node.command(&format!("/usr/lib/frr/{program}"));
            // No telnet, and everything in the private folder.
            command.args(["-f", &config, "-i", &pid, "--vty_socket", FOLDER, "-z", "/run/frr/zserv.api"]);
            command.args(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
            let log = node.net().log(&format!("{}-{program}", node.name()));
            processes.push(Process::start(format!("FRR's {program} on {}", node.name()), &mut command, log)?);
        }
        Ok(processes)
    }

    fn complete(&self, node: &Node<'_>, _spec: &PeerSpec) -> Result<()> {
        // It answers only when both can be asked.
        vtysh(node, &["show zebra", "show bgp summary"]).map(drop)
    }

    fn state(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<String> {
        Ok(text(&about(node, neighbour)?, "/bgpState")?.to_ascii_lowercase())
    }

    fn paths(&self, node: &Node<'_>, prefix: IpNet) -> Result<Vec<Path>> {
        let answer = ask(node, &format!("show bgp {} unicast {prefix} json", family_of(prefix.addr())))?;
        if answer.get("prefix").and_then(Value::as_str) != Some(&prefix.to_string()) {
            return Ok(Vec::new());
        }
        list(&answer, "/paths").iter().filter_map(|value| path(value).transpose()).collect()
    }

    fn prefixes(&self, node: &Node<'_>, ipv6: bool) -> Result<BTreeSet<IpNet>> {
        let answer = ask(node, &format!("show bgp {} unicast json", if ipv6 { "ipv6" } else { "ipv4" }))?;
        let routes = answer.get("routes").and_then(Value::as_object);
        Ok(routes.into_iter().flatten().filter_map(|(prefix, _)| prefix.parse().ok()).collect())
    }

    fn announce(&self, node: &Node<'_>, spec: &PeerSpec, network: &Network) -> Result<()> {
        configure(node, spec, network.prefix, &statement(network)?, &route_map(network)?)
    }

    fn withdraw(&self, node: &Node<'_>, spec: &PeerSpec, network: &Network) -> Result<()> {
        configure(node, spec, network.prefix, &format!("no network {}", network.prefix), "")
    }

    fn refresh(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<bool> {
        vtysh(node, &[&format!("clear bgp {} unicast {neighbour} soft in", family_of(neighbour))])?;
        Ok(true)
    }

    fn updates(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<u64> {
        number(&about(node, neighbour)?, "/messageStats/updatesRecv").context("it counts no updates")
    }
}
