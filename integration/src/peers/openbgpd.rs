//! OpenBGPD's bgpd, and `bgpctl`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;

use super::{Daemon, Network, Path, PeerSpec, list, number, numbers, text};
use crate::node::Node;
use crate::process::Process;

/// Debian's `openbgpd`. Graceful restart it knows as a helper; GTSM on external sessions only.
#[derive(Clone, Copy, Debug)]
pub struct OpenBgpd;

const CONFIG: &str = "/run/bgpd.conf";
const SOCKET: &str = "/run/openbgpd/control";

/// What is special about a network, as words of its configuration and of `bgpctl` alike.
fn attributes(network: &Network) -> Vec<String> {
    let next_hop = network.next_hop.map(|next_hop| format!("nexthop {next_hop}"));
    let communities = network.communities(false).map(|text| format!("community {text}"));
    let large = network.communities(true).map(|text| format!("large-community {text}"));
    next_hop.into_iter().chain(communities).chain(large).collect()
}

fn config(spec: &PeerSpec) -> Result<String> {
    let mut text =
        format!("AS {}\nrouter-id {}\nfib-update no\nconnect-retry 1\nsocket \"{SOCKET}\"\n", spec.asn, spec.router_id);
    for network in &spec.networks {
        let attributes = attributes(network);
        let set = if attributes.is_empty() { String::new() } else { format!(" set {{ {} }}", attributes.join(" ")) };
        writeln!(text, "network {}{set}", network.prefix)?;
    }
    for neighbour in &spec.neighbours {
        let (with, without) = if neighbour.address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        writeln!(
            text,
            "neighbor {} {{\n  remote-as {}\n  local-address {}\n  announce {with} unicast\n  announce {without} none",
            neighbour.address, neighbour.asn, neighbour.local
        )?;
        if !neighbour.dials {
            writeln!(text, "  passive")?;
        }
        if let Some(password) = &neighbour.password {
            writeln!(text, "  tcp md5sig password {password}")?;
        }
        if let Some(hops) = neighbour.gtsm {
            ensure!(neighbour.asn != spec.asn, "OpenBGPD has ttl-security on external sessions only");
            if hops > 1 {
                writeln!(text, "  multihop {hops}")?;
            }
            writeln!(text, "  ttl-security yes")?;
        }
        if neighbour.client {
            let cluster = spec.cluster_id.map(|cluster| format!(" {cluster}")).unwrap_or_default();
            writeln!(text, "  route-reflector{cluster}")?;
        }
        writeln!(text, "}}")?;
    }
    writeln!(text, "allow from any\nallow to any")?;
    Ok(text)
}

fn bgpctl(node: &Node<'_>, words: &[&str]) -> Result<String> {
    node.run("bgpctl", &[&["-s", SOCKET], words].concat())
}

fn ask(node: &Node<'_>, words: &[&str]) -> Result<Value> {
    let answer = bgpctl(node, &[&["-j"], words].concat())?;
    serde_json::from_str(&answer).with_context(|| format!("bgpctl's answer to {words:?}: {answer}"))
}

/// The document about a neighbour.
fn about(node: &Node<'_>, neighbour: IpAddr) -> Result<Value> {
    let answer = ask(node, &["show", "neighbor", &neighbour.to_string()])?;
    answer.pointer("/neighbors/0").cloned().with_context(|| format!("no {neighbour} in {answer}"))
}

fn path(value: &Value) -> Result<Path> {
    let mut communities = BTreeSet::new();
    for kind in ["/communities", "/large_communities"] {
        communities.extend(list(value, kind).iter().filter_map(Value::as_str).map(str::to_owned));
    }
    // Its own list of the attributes that have no field of the path.
    let attributes = list(value, "/attributes").iter();
    let originator = attributes.clone().find_map(|attribute| attribute.get("originator").and_then(Value::as_str));
    let clusters = attributes.flat_map(|attribute| list(attribute, "/cluster_list"));
    let clusters = clusters.filter_map(Value::as_str).map(str::parse);
    Ok(Path {
        next_hop: text(value, "/exit_nexthop")?.parse()?,
        as_path: numbers(text(value, "/aspath")?)?,
        local_pref: number(value, "/localpref"),
        communities,
        originator: originator.map(str::parse).transpose()?,
        clusters: clusters.collect::<Result<_, _>>()?,
    })
}

impl Daemon for OpenBgpd {
    fn name(&self) -> &'static str {
        "OpenBGPD"
    }

    fn start(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<Vec<Process>> {
        // Its package leaves the user to systemd; the node's /etc is its own.
        let user = "id -u _openbgpd >/dev/null 2>&1 || {
                        echo '_openbgpd:x:990:990::/run/openbgpd:/usr/sbin/nologin' >> /etc/passwd
                        echo '_openbgpd:x:990:' >> /etc/group
                    }
                    mkdir -p /run/openbgpd";
        node.run("sh", &["-ec", user])?;
        fs::write(node.holder().inside(CONFIG), config(spec)?)?;
        // It refuses a file that others could read, for the passwords.
        node.run("chmod", &["600", CONFIG])?;
        let mut command = node.command("/usr/sbin/bgpd");
        command.args(["-d", "-v", "-f", CONFIG]);
        let log = node.net().log(&format!("{}-openbgpd", node.name()));
        Ok(vec![Process::start(format!("OpenBGPD on {}", node.name()), &mut command, log)?])
    }

    fn complete(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<()> {
        let known = list(&ask(node, &["show", "neighbor"])?, "/neighbors").len();
        ensure!(known == spec.neighbours.len(), "it has {known} of {} neighbours", spec.neighbours.len());
        Ok(())
    }

    fn state(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<String> {
        Ok(text(&about(node, neighbour)?, "/state")?.to_ascii_lowercase())
    }

    fn paths(&self, node: &Node<'_>, prefix: IpNet) -> Result<Vec<Path>> {
        let answer = ask(node, &["show", "rib", "detail", &prefix.to_string()])?;
        let learned = |value: &&Value| value.pointer("/neighbor/description") != Some(&Value::from("LOCAL"));
        let paths = list(&answer, "/rib").iter().filter(learned);
        paths.filter(|value| value["prefix"] == prefix.to_string().as_str()).map(path).collect()
    }

    fn prefixes(&self, node: &Node<'_>, ipv6: bool) -> Result<BTreeSet<IpNet>> {
        let answer = ask(node, &["show", "rib", if ipv6 { "inet6" } else { "inet" }])?;
        list(&answer, "/rib").iter().map(|value| Ok(text(value, "/prefix")?.parse()?)).collect()
    }

    fn announce(&self, node: &Node<'_>, _spec: &PeerSpec, network: &Network) -> Result<()> {
        let prefix = network.prefix.to_string();
        let attributes = attributes(network).join(" ");
        let mut words = vec!["network", "add", &prefix];
        words.extend(attributes.split_whitespace());
        bgpctl(node, &words).map(drop)
    }

    fn withdraw(&self, node: &Node<'_>, _spec: &PeerSpec, network: &Network) -> Result<()> {
        bgpctl(node, &["network", "delete", &network.prefix.to_string()]).map(drop)
    }

    fn refresh(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<bool> {
        bgpctl(node, &["neighbor", &neighbour.to_string(), "refresh"])?;
        Ok(true)
    }

    fn updates(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<u64> {
        number(&about(node, neighbour)?, "/stats/message/received/updates").context("it counts no updates")
    }
}
