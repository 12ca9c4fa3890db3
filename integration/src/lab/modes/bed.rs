//! Six nodes in two subnets with a router between, who learns the pods' blocks by BGP.
//!
//! ```text
//!    10.0.0.0/16             10.1.0.0/24
//!   node1 node2 node3       node4 node5 node6
//!      └─────┴─────┴─ router ─┴─────┴─────┘
//!                .201   BIRD   .254
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::super::resources::{apply, node_with, resource};
use super::super::routers::Daemon;
use super::Mode;
use super::mode::overhead;
use crate::net::{Net, Segment};
use crate::node::Node;
use crate::pod::Pod;
use crate::router::Router;
use crate::wait;

/// How long a change may take until every node has made it.
const SWITCH: Duration = Duration::from_secs(60);
/// The packets that every link of the underlay carries.
const UNDERLAY_MTU: u32 = 1500;

/// The host number of the router on the first segment, and on the second.
const SPINE: u8 = 201;
const GATEWAY: u32 = 254;

fn second() -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 0, 0), 24)
}

/// The second subnet, and the router to it.
#[derive(Debug)]
pub(super) struct Behind {
    segment: Segment,
    router: Router,
}

impl Behind {
    /// Cables it and starts the router.
    ///
    /// # Errors
    /// If a step fails.
    pub(super) fn new(net: &Net) -> Result<Self> {
        let segment = net.segment("behind", second())?;
        let mut router = net.router("router", SPINE, &[(&segment, GATEWAY)])?;
        let configuration = format!(
            "router id 10.0.0.{SPINE};
             protocol device {{ }}
             protocol direct {{ ipv4; }}
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
             template bgp nodes {{ ipv4 {{ import all; export none; }}; }}
             protocol bgp west from nodes {{
                 local 10.0.0.{SPINE} as 64512; neighbor range 10.0.0.0/16 as 64512; dynamic name \"west\";
             }}
             protocol bgp east from nodes {{
                 local 10.1.0.{GATEWAY} as 64512; neighbor range {} as 64512; dynamic name \"east\";
             }}\n",
            second()
        );
        Daemon::Bird.start(net, &mut router, &configuration)?;
        Ok(Self { segment, router })
    }

    /// A node there.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn node<'net>(&self, net: &'net Net, name: &str, host: u32) -> Result<Node<'net>> {
        net.node_on(name, &self.segment, host, Ipv4Addr::new(10, 1, 0, 254))
    }

    /// Tells a node of the first segment the way.
    ///
    /// # Errors
    /// If `ip` fails.
    pub(super) fn show_way(&self, node: &Node<'_>) -> Result<()> {
        let via = format!("10.0.0.{SPINE}");
        node.run("ip", &["route", "add", &second().to_string(), "via", &via]).map(drop)
    }

    /// Fails if the router's daemon has ended.
    ///
    /// # Errors
    /// With its last words.
    pub(super) fn check(&mut self) -> Result<()> {
        self.router.check()
    }

    /// The router's routes.
    pub(super) fn routes(&self) -> String {
        self.router.run("ip", &["route"]).unwrap_or_else(|error| format!("{error:#}"))
    }
}

/// Whether a node is behind the router, as seen from the first segment.
pub(super) fn is_behind(node: &Node<'_>) -> bool {
    second().contains(&node.address())
}

/// Labels for the nodes and the router as a peer of each, through `calicoctl`.
///
/// # Errors
/// If `calicoctl` fails.
pub(super) fn peer_with_router(nodes: &[&Node<'_>]) -> Result<()> {
    let first = nodes.first().context("a lab needs a node")?;
    let mut resources = Vec::new();
    for (subnet, address) in [("first", format!("10.0.0.{SPINE}")), ("second", format!("10.1.0.{GATEWAY}"))] {
        let spec = json!({"nodeSelector": format!("subnet == '{subnet}'"), "peerIP": address, "asNumber": 64512});
        resources.push(resource("BGPPeer", &format!("router-{subnet}"), spec));
    }
    for node in nodes {
        let subnet = if is_behind(node) { "second" } else { "first" };
        resources.push(node_with(node, &[("subnet", subnet)], &Value::Null));
    }
    apply(first, &resources)
}

/// The device by which each of these addresses is reached from a node; those without a route are missing.
///
/// # Errors
/// If `ip` cannot be run.
fn devices(node: &Node<'_>, addresses: &[IpAddr]) -> Result<BTreeMap<IpAddr, String>> {
    let lines: String = addresses.iter().map(|address| format!("route get {address}\\n")).collect();
    // One without a route makes `ip` fail, but not for the others.
    let text = node.run("sh", &["-c", &format!("printf '{lines}' | ip -force -o -batch - 2>/dev/null || true")])?;
    Ok(text.lines().filter_map(device_of).collect())
}

/// Reads a line of `ip -o route get`.
fn device_of(line: &str) -> Option<(IpAddr, String)> {
    let mut words = line.split_whitespace();
    let address = words.next()?.parse().ok()?;
    let device = words.skip_while(|word| *word != "dev").nth(1)?;
    Some((address, device.to_owned()))
}

/// Waits until every node reaches every pod of another by the mode's way.
///
/// # Errors
/// If one does not in time; with what it does instead.
pub(super) fn taken(mode: Mode, pods: &[&Pod<'_, '_>]) -> Result<()> {
    let mut late: Vec<&Pod<'_, '_>> = pods.to_vec();
    let mut wrong = String::new();
    let done = wait::becomes(SWITCH, &format!("every node's way is that of {}", mode.name()), || {
        let mut still = Vec::new();
        for from in &late {
            let others: Vec<_> = pods.iter().filter(|to| to.node().name() != from.node().name()).collect();
            let addresses = others.iter().map(|to| to.address()).collect::<Result<Vec<_>>>()?;
            let devices = devices(from.node(), &addresses)?;
            let bad = others.iter().zip(&addresses).find(|(to, address)| {
                let wanted = mode.device(is_behind(from.node()) != is_behind(to.node()));
                devices.get(*address).is_none_or(|device| device != wanted)
            });
            if let Some((to, address)) = bad {
                wrong = format!("{} reaches {} by {:?}", from.node().name(), to.name(), devices.get(address));
                still.push(*from);
            }
        }
        late = still;
        Ok(late.is_empty())
    });
    done.with_context(|| {
        let routes = late.first().map(|pod| pod.node().run("ip", &["route"]).unwrap_or_default()).unwrap_or_default();
        let log = late.first().map(|pod| pod.node().last_lines("felix")).unwrap_or_default();
        format!("{wrong}; its routes:\n{routes}\nlast lines of its felix:\n{log}")
    })
}

/// How many packets each device of a node has sent.
///
/// # Errors
/// If `ip` fails.
pub(super) fn sent(node: &Node<'_>) -> Result<BTreeMap<String, u64>> {
    let links: Value = serde_json::from_str(&node.run("ip", &["-json", "-statistics", "link"])?)?;
    let links = links.as_array().context("ip -json link")?.iter();
    let count = |link: &Value| {
        let packets = link["stats64"]["tx"]["packets"].as_u64()?;
        Some((link["ifname"].as_str()?.to_owned(), packets))
    };
    Ok(links.filter_map(count).collect())
}

/// The largest packet that passes unfragmented from one pod to another, in octets; and what it should be.
///
/// # Errors
/// If none does.
pub(super) fn largest(mode: Mode, from: &Pod<'_, '_>, to: &Pod<'_, '_>) -> Result<(u32, u32)> {
    let links: Value = serde_json::from_str(&from.run("ip", &["-json", "link", "show", "eth0"])?)?;
    let own = links[0]["mtu"].as_u64().and_then(|mtu| u32::try_from(mtu).ok()).context("the pod's MTU")?;
    let crosses = is_behind(from.node()) != is_behind(to.node());
    let path = own.min(UNDERLAY_MTU - overhead(mode.device(crosses)));
    // What it was told in an earlier mode it would believe for ten minutes.
    from.run("ip", &["route", "flush", "cache"])?;
    let mut size = own;
    // The pod sends what its interface carries; the way tells it once if that is too much.
    for _ in 0..3 {
        let payload = size.saturating_sub(28).to_string();
        let address = to.address()?.to_string();
        let answer = from.run("ping", &["-n", "-M", "do", "-c", "1", "-W", "1", "-s", &payload, &address]);
        match answer {
            Ok(_) => return Ok((size, path)),
            Err(error) => {
                let text = format!("{error:#}");
                let told = told_mtu(&text).filter(|told| *told < size);
                size = told.with_context(|| format!("{size} octets from {} to {}: {text}", from.name(), to.name()))?;
            }
        }
    }
    anyhow::bail!("{} is told ever smaller MTUs on its way to {}", from.name(), to.name())
}

/// The MTU in what `ping` says of a packet that is too long.
fn told_mtu(text: &str) -> Option<u32> {
    let at = text.rfind("mtu")?;
    let digits = text.get(at..)?.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_tells_the_mtu_in_two_ways() {
        assert_eq!(told_mtu("From 10.0.0.1 icmp_seq=1 Frag needed and DF set (mtu = 1450)"), Some(1450));
        assert_eq!(told_mtu("ping: local error: message too long, mtu=1480\n"), Some(1480));
        assert_eq!(told_mtu("1 packets transmitted, 0 received"), None);
    }

    #[test]
    fn the_device_is_read_from_every_form_of_a_route() {
        let device = |line: &str| device_of(line).map(|(_, device)| device);
        assert_eq!(device("10.244.1.2 via 10.0.0.12 dev tunl0 src 10.244.0.1 uid 0 \\    cache"), Some("tunl0".into()));
        assert_eq!(device("10.244.1.2 dev eth0 src 10.0.0.1 uid 0"), Some("eth0".into()));
        assert_eq!(device("RTNETLINK answers: Network is unreachable"), None);
    }
}
