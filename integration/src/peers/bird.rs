//! BIRD 2 and `birdc`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::{Daemon, Network, Path, PeerSpec, numbers};
use crate::node::Node;
use crate::process::Process;

/// Debian's `bird2`.
#[derive(Clone, Copy, Debug)]
pub struct Bird;

const CONFIG: &str = "/run/bird.conf";
const SOCKET: &str = "/run/bird.ctl";

/// The configuration; sessions are n0, n1, …
fn config(spec: &PeerSpec) -> Result<String> {
    let mut text = format!(
        "log stderr all;\nrouter id {};\nprotocol device {{ scan time 2; }}\n\
         protocol direct {{ ipv4; ipv6; interface \"eth0\"; }}\n",
        spec.router_id
    );
    for family in ["ipv4", "ipv6"] {
        writeln!(text, "protocol static own_{family} {{\n  {family};")?;
        for network in spec.networks.iter().filter(|network| family_of(network.prefix.addr()) == family) {
            writeln!(text, "  route {} blackhole;", network.prefix)?;
        }
        writeln!(text, "}}")?;
    }
    writeln!(text, "filter announced {{\n  if source = RTS_DEVICE then reject;")?;
    for network in &spec.networks {
        writeln!(text, "  if net = {} then {{", network.prefix)?;
        if let Some(next_hop) = network.next_hop {
            writeln!(text, "    bgp_next_hop = {next_hop};")?;
        }
        for community in network.communities(false) {
            writeln!(text, "    bgp_community.add(({}));", community.replace(':', ","))?;
        }
        for community in network.communities(true) {
            writeln!(text, "    bgp_large_community.add(({}));", community.replace(':', ","))?;
        }
        writeln!(text, "  }}")?;
    }
    writeln!(text, "  accept;\n}}")?;
    for (number, neighbour) in spec.neighbours.iter().enumerate() {
        let family = family_of(neighbour.address);
        writeln!(
            text,
            "protocol bgp n{number} {{
  debug {{ states, events }};
  local {} as {};
  neighbor {} as {};
  connect delay time 1; connect retry time 1; error wait time 1, 2;
  graceful restart aware;
  {family} {{ import all; export filter announced; }};",
            neighbour.local, spec.asn, neighbour.address, neighbour.asn
        )?;
        if !neighbour.dials {
            writeln!(text, "  passive on;")?;
        }
        if let Some(password) = &neighbour.password {
            writeln!(text, "  password \"{password}\";")?;
        }
        if let Some(hops) = neighbour.gtsm {
            writeln!(text, "  multihop {hops}; ttl security on;")?;
        }
        if neighbour.client {
            writeln!(text, "  rr client;")?;
        }
        if let Some(cluster) = spec.cluster_id.filter(|_| neighbour.asn == spec.asn) {
            writeln!(text, "  rr cluster id {cluster};")?;
        }
        writeln!(text, "}}")?;
    }
    Ok(text)
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

fn write_config(node: &Node<'_>, spec: &PeerSpec) -> Result<()> {
    Ok(fs::write(node.holder().inside(CONFIG), config(spec)?)?)
}

fn ask(node: &Node<'_>, question: &str) -> Result<String> {
    let mut words = vec!["-s", SOCKET];
    words.extend(question.split(' '));
    node.run("birdc", &words)
}

fn reconfigure(node: &Node<'_>, spec: &PeerSpec) -> Result<()> {
    write_config(node, spec)?;
    ask(node, "configure").map(drop)
}

/// The paths in the answer to `show route all`. Each begins with a line that names its session in brackets.
fn paths(answer: &str) -> Result<Vec<Path>> {
    let mut paths: Vec<Option<Path>> = Vec::new();
    for line in answer.lines() {
        if !line.starts_with('\t') {
            if line.contains(" [") {
                paths.push(None);
            }
            continue;
        }
        let Some((name, value)) = line.trim_start().split_once(':') else { continue };
        let (Some(slot), value) = (paths.last_mut(), value.trim()) else { continue };
        let path = slot.get_or_insert_with(|| Path {
            next_hop: [0; 4].into(),
            as_path: Vec::new(),
            local_pref: None,
            communities: BTreeSet::new(),
            originator: None,
            clusters: Vec::new(),
        });
        // "(1, 2, 3) (4, 5, 6)" is "1:2:3" and "4:5:6".
        let communities = || {
            let texts = value.split(')').map(|part| part.replace(['(', ' '], "").replace(',', ":"));
            texts.filter(|text| !text.is_empty())
        };
        match name {
            // Over a link two are shown, the global address first.
            "BGP.next_hop" => path.next_hop = value.split(' ').next().unwrap_or_default().parse()?,
            "BGP.as_path" => path.as_path = numbers(value)?,
            "BGP.local_pref" => path.local_pref = Some(value.parse()?),
            "BGP.community" | "BGP.large_community" => path.communities.extend(communities()),
            "BGP.originator_id" => path.originator = Some(value.parse()?),
            "BGP.cluster_list" => path.clusters = numbers(value)?,
            _ => {}
        }
    }
    // BIRD's own routes have no attributes of BGP.
    Ok(paths.into_iter().flatten().filter(|path| !path.next_hop.is_unspecified()).collect())
}

impl Daemon for Bird {
    fn name(&self) -> &'static str {
        "BIRD"
    }

    fn start(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<Vec<Process>> {
        write_config(node, spec)?;
        let mut command = node.command("bird");
        command.args(["-f", "-c", CONFIG, "-s", SOCKET, "-P", "/run/bird.pid"]);
        let log = node.net().log(&format!("{}-bird", node.name()));
        Ok(vec![Process::start(format!("BIRD on {}", node.name()), &mut command, log)?])
    }

    fn complete(&self, node: &Node<'_>, _spec: &PeerSpec) -> Result<()> {
        ask(node, "show status").map(drop)
    }

    fn state(&self, node: &Node<'_>, spec: &PeerSpec, neighbour: IpAddr) -> Result<String> {
        let answer = ask(node, &format!("show protocols all n{}", spec.number(neighbour)?))?;
        let state = answer.lines().find_map(|line| line.trim_start().strip_prefix("BGP state:"));
        Ok(state.with_context(|| format!("no state in {answer}"))?.trim().to_ascii_lowercase())
    }

    fn paths(&self, node: &Node<'_>, prefix: IpNet) -> Result<Vec<Path>> {
        // It exits with an error where it has none.
        match ask(node, &format!("show route all {prefix}")) {
            Ok(answer) => paths(&answer),
            Err(error) if format!("{error:#}").contains("Network not found") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn prefixes(&self, node: &Node<'_>, ipv6: bool) -> Result<BTreeSet<IpNet>> {
        let answer = ask(node, &format!("show route table {}", if ipv6 { "master6" } else { "master4" }))?;
        let of_link = |line: &&str| line.contains("[direct");
        let first = |line: &str| line.split(' ').next().and_then(|word| word.parse().ok());
        Ok(answer.lines().filter(|line| !of_link(line)).filter_map(first).collect())
    }

    fn announce(&self, node: &Node<'_>, spec: &PeerSpec, _network: &Network) -> Result<()> {
        reconfigure(node, spec)
    }

    fn withdraw(&self, node: &Node<'_>, spec: &PeerSpec, _network: &Network) -> Result<()> {
        reconfigure(node, spec)
    }

    fn refresh(&self, node: &Node<'_>, spec: &PeerSpec, neighbour: IpAddr) -> Result<bool> {
        ask(node, &format!("reload in n{}", spec.number(neighbour)?))?;
        Ok(true)
    }

    fn updates(&self, node: &Node<'_>, spec: &PeerSpec, neighbour: IpAddr) -> Result<u64> {
        let answer = ask(node, &format!("show protocols all n{}", spec.number(neighbour)?))?;
        let line = answer.lines().find_map(|line| line.trim_start().strip_prefix("Import updates:"));
        let first = line.and_then(|line| line.split_whitespace().next());
        first.and_then(|word| word.parse().ok()).with_context(|| format!("no import updates in {answer}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_route_are_read_from_what_birdc_prints() {
        let answer = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.244.0.0/26        unicast [n0 12:00:00.000] * (100) [AS64512i]\n\tvia 10.0.0.11 on eth0\n\tType: BGP univ\n\
            \tBGP.origin: IGP\n\tBGP.as_path: 64512 65001\n\tBGP.next_hop: 10.0.0.11 fe80::1\n\tBGP.local_pref: 100\n\
            \tBGP.community: (65000,1) (65000,2)\n\tBGP.large_community: (1, 2, 3)\n\
            \x20                    unicast [n1 12:00:00.000] (100) [i]\n\tvia 10.0.0.12 on eth0\n\tBGP.as_path: \n\
            \tBGP.next_hop: 10.0.0.12\n\tBGP.originator_id: 10.0.0.13\n\tBGP.cluster_list: 244.0.0.1 244.0.0.2\n";
        let [first, second] = paths(answer).unwrap().try_into().unwrap();
        assert_eq!(first.next_hop, IpAddr::from([10, 0, 0, 11]));
        assert_eq!(first.as_path, [64512, 65001]);
        assert_eq!(first.communities, ["1:2:3", "65000:1", "65000:2"].map(str::to_owned).into());
        assert!(second.as_path.is_empty() && second.local_pref.is_none());
        assert_eq!(second.originator, Some([10, 0, 0, 13].into()));
        assert_eq!(second.clusters.len(), 2);
    }
}
