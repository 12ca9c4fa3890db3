//! GoBGP's gobgpd, and `gobgp`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;

use super::{Daemon, Network, Path, PeerSpec, list, number, text};
use crate::node::Node;
use crate::process::Process;

/// Debian's `gobgpd`. Its API's port is open in the node's namespace alone. It has no command that asks for a refresh.
#[derive(Clone, Copy, Debug)]
pub struct GoBgp;

const CONFIG: &str = "/run/gobgpd.toml";

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn config(spec: &PeerSpec) -> Result<String> {
    let mut text = format!("[global.config]\nas = {}\nrouter-id = \"{}\"\n", spec.asn, spec.router_id);
    for neighbour in &spec.neighbours {
        let password = neighbour.password.as_deref().unwrap_or_default();
        write!(
            text,
            "[[neighbors]]
[neighbors.config]
neighbor-address = \"{}\"
peer-as = {}
auth-password = \"{password}\"
[neighbors.transport.config]
local-address = \"{}\"
passive-mode = {}
[neighbors.timers.config]
connect-retry = 1
idle-hold-time-after-reset = 1
[neighbors.graceful-restart.config]
enabled = true
restart-time = 120
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = \"{}-unicast\"
[neighbors.afi-safis.mp-graceful-restart.config]
enabled = true
",
            neighbour.address,
            neighbour.asn,
            neighbour.local,
            !neighbour.dials,
            family_of(neighbour.address)
        )?;
        if let Some(hops) = neighbour.gtsm {
            let least = 256 - u16::from(hops);
            writeln!(text, "[neighbors.ttl-security.config]\nenabled = true\nttl-min = {least}")?;
        }
        if neighbour.client {
            writeln!(text, "[neighbors.route-reflector.config]\nroute-reflector-client = true")?;
            if let Some(cluster) = spec.cluster_id {
                writeln!(text, "route-reflector-cluster-id = \"{cluster}\"")?;
            }
        }
    }
    Ok(text)
}

fn gobgp(node: &Node<'_>, words: &[&str]) -> Result<String> {
    node.run("gobgp", words)
}

fn ask(node: &Node<'_>, words: &[&str]) -> Result<Value> {
    let answer = gobgp(node, &[words, &["-j"]].concat())?;
    serde_json::from_str(&answer).with_context(|| format!("gobgp's answer to {words:?}: {answer}"))
}

fn path(value: &Value) -> Result<Option<Path>> {
    let (mut next_hop, mut path) = (None, None);
    let found = path.get_or_insert(Path {
        next_hop: [0; 4].into(),
        as_path: Vec::new(),
        local_pref: None,
        communities: BTreeSet::new(),
        originator: None,
        clusters: Vec::new(),
    });
    let number_of = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    for attribute in list(value, "/attrs") {
        // By the attribute's type code.
        match attribute["type"].as_u64() {
            Some(2) => {
                let segments = list(attribute, "/as_paths").iter();
                found.as_path = segments.flat_map(|segment| list(segment, "/asns")).filter_map(number_of).collect();
            }
            Some(3 | 14) => next_hop = Some(text(attribute, "/nexthop")?.parse()?),
            Some(5) => found.local_pref = number(attribute, "/value"),
            Some(8) => {
                let communities = list(attribute, "/communities").iter().filter_map(number_of);
                found.communities.extend(communities.map(|value| format!("{}:{}", value >> 16, value & 0xffff)));
            }
            Some(9) => found.originator = Some(text(attribute, "/value")?.parse()?),
            Some(10) => {
                let texts = list(attribute, "/value").iter().filter_map(Value::as_str);
                found.clusters = texts.map(str::parse).collect::<Result<_, _>>()?;
            }
            Some(32) => found.communities.extend(
                list(attribute, "/value")
                    .iter()
                    .map(|large| format!("{}:{}:{}", large["ASN"], large["LocalData1"], large["LocalData2"])),
            ),
            _ => {}
        }
    }
    found.next_hop = next_hop.with_context(|| format!("no next hop in {value}"))?;
    // Its own have none but itself.
    Ok(path.filter(|path| !path.next_hop.is_unspecified()))
}

impl Daemon for GoBgp {
    fn name(&self) -> &'static str {
        "GoBGP"
    }

    fn start(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<Vec<Process>> {
        fs::write(node.holder().inside(CONFIG), config(spec)?)?;
        let mut command = node.command("gobgpd");
        command.args(["-f", CONFIG, "--log-plain", "--pprof-disable", "--api-hosts=127.0.0.1:50051"]);
        let log = node.net().log(&format!("{}-gobgpd", node.name()));
        Ok(vec![Process::start(format!("GoBGP on {}", node.name()), &mut command, log)?])
    }

    fn complete(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<()> {
        let known = list(&ask(node, &["neighbor"])?, "").len();
        anyhow::ensure!(known == spec.neighbours.len(), "it has {known} of {} neighbours", spec.neighbours.len());
        spec.networks.iter().try_for_each(|network| self.announce(node, spec, network))
    }

    fn state(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<String> {
        let answer = ask(node, &["neighbor", &neighbour.to_string()])?;
        let words = ["unknown", "idle", "connect", "active", "opensent", "openconfirm", "established"];
        let code: usize = number(&answer, "/state/session_state").unwrap_or(0);
        Ok((*words.get(code).with_context(|| format!("state {code}"))?).to_owned())
    }

    fn paths(&self, node: &Node<'_>, prefix: IpNet) -> Result<Vec<Path>> {
        let text = prefix.to_string();
        match ask(node, &["global", "rib", &text, "-a", family_of(prefix.addr())]) {
            Ok(answer) => {
                let paths = answer.get(&text).and_then(Value::as_array);
                paths.into_iter().flatten().filter_map(|value| path(value).transpose()).collect()
            }
            Err(error) if format!("{error:#}").contains("not in table") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn prefixes(&self, node: &Node<'_>, ipv6: bool) -> Result<BTreeSet<IpNet>> {
        let answer = ask(node, &["global", "rib", "-a", if ipv6 { "ipv6" } else { "ipv4" }])?;
        let routes = answer.as_object();
        Ok(routes.into_iter().flatten().filter_map(|(prefix, _)| prefix.parse().ok()).collect())
    }

    fn announce(&self, node: &Node<'_>, _spec: &PeerSpec, network: &Network) -> Result<()> {
        let (prefix, next_hop) = (network.prefix.to_string(), network.next_hop.map(|next_hop| next_hop.to_string()));
        let mut words = vec!["global", "rib", "add", &prefix, "-a", family_of(network.prefix.addr()), "origin", "igp"];
        if let Some(next_hop) = &next_hop {
            words.extend(["nexthop", next_hop]);
        }
        let lists = [false, true].map(|large| network.communities(large).collect::<Vec<_>>().join(","));
        for (name, list) in ["community", "large-community"].into_iter().zip(&lists) {
            if !list.is_empty() {
                words.extend([name, list]);
            }
        }
        gobgp(node, &words).map(drop)
    }

    fn withdraw(&self, node: &Node<'_>, _spec: &PeerSpec, network: &Network) -> Result<()> {
        let prefix = network.prefix.to_string();
        gobgp(node, &["global", "rib", "del", &prefix, "-a", family_of(network.prefix.addr())]).map(drop)
    }

    fn refresh(&self, _node: &Node<'_>, _spec: &PeerSpec, _neighbour: IpAddr) -> Result<bool> {
        // Its softresetin only looks at what it has received anew.
        Ok(false)
    }

    fn updates(&self, node: &Node<'_>, _spec: &PeerSpec, neighbour: IpAddr) -> Result<u64> {
        let answer = ask(node, &["neighbor", &neighbour.to_string()])?;
        Ok(number(&answer, "/state/messages/received/update").unwrap_or(0))
    }
}
