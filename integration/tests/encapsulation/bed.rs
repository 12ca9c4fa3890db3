//! Four nodes in two subnets whose router knows the nodes and no pod.
//!
//! ```text
//!   10.0.0.0/16            10.1.0.0/24
//!   one, two ── router ── three, four
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Net, Node, PATIENCE, Pod, Router, StoreKind, Traffic, wait};
use ipnet::Ipv4Net;

pub(crate) const POOL: &str = "10.244.0.0/16";

/// A pool with these further lines.
pub(crate) fn pool(name: &str, cidr: &str, more: &str) -> String {
    let size = if cidr.contains(':') { 122 } else { 26 };
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: \"{cidr}\", blockSize: {size}, {more}}}\n"
    )
}

/// The pool of most tests in a mode of IPIP and one of VXLAN.
pub(crate) fn pods_in(ipip: &str, vxlan: &str) -> String {
    pool("pods", POOL, &format!("ipipMode: {ipip}, vxlanMode: {vxlan}"))
}

/// A configuration of felix with these fields.
pub(crate) fn felix_configuration(fields: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: default}}\nspec: {{{fields}}}\n"
    )
}

/// What is cabled.
pub(crate) struct Bed<'net> {
    pub(crate) nodes: Vec<Node<'net>>,
    _router: Router,
}

impl<'net> Bed<'net> {
    /// Cables it.
    pub(crate) fn new(net: &'net Net) -> Result<Self> {
        let segment = net.segment("behind", Ipv4Net::new_assert(Ipv4Addr::new(10, 1, 0, 0), 24))?;
        let router = net.router("router", 201, &[(&segment, 254)])?;
        let mut nodes = Vec::new();
        for name in ["one", "two"] {
            let node = net.node(name)?;
            node.run("ip", &["route", "add", "10.1.0.0/24", "via", "10.0.0.201"])?;
            nodes.push(node);
        }
        for (name, host) in [("three", 13), ("four", 14)] {
            nodes.push(net.node_on(name, &segment, host, Ipv4Addr::new(10, 1, 0, 254))?);
        }
        Ok(Self { nodes, _router: router })
    }

    /// The same, with these resources in the store and our daemons on all nodes.
    pub(crate) fn playing(net: &'net Net, resources: &str) -> Result<Self> {
        let bed = Self::new(net)?;
        bed.nodes[0].apply(resources)?;
        bed.felix(&[])?;
        bed.nodes.iter().try_for_each(Node::start_speaker)?;
        Ok(bed)
    }

    /// Starts felix on all, with these variables.
    pub(crate) fn felix(&self, environment: &[(&str, &str)]) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.start("felix", environment))?;
        self.nodes.iter().try_for_each(|node| node.ready("felix", 9099))
    }

    /// A pod a node.
    pub(crate) fn pods(&self) -> Result<Vec<Pod<'_, 'net>>> {
        self.nodes.iter().map(|node| node.pod(&format!("pod-{}", node.name()))).collect()
    }

    /// The same, when all reach each other by these devices: within the subnet, and across the router.
    pub(crate) fn pods_by(&self, within: &str, across: &str) -> Result<Vec<Pod<'_, 'net>>> {
        let pods = self.pods()?;
        all_go_by(&pods, within, across)?;
        all_reach_all(&pods)?;
        Ok(pods)
    }
}

/// A topology on SQLite.
pub(crate) fn net() -> Result<Net> {
    Net::new(StoreKind::Sqlite)
}

/// Waits until every pod reaches every other.
pub(crate) fn all_reach_all(pods: &[Pod<'_, '_>]) -> Result<()> {
    for from in pods {
        for to in pods.iter().filter(|to| to.name() != from.name()) {
            reaches(from, to.address()?)?;
        }
    }
    Ok(())
}

/// Waits until a pod reaches an address.
pub(crate) fn reaches(from: &Pod<'_, '_>, address: IpAddr) -> Result<()> {
    wait::becomes(PATIENCE, &format!("{} reaches {address}", from.name()), || from.ping(address).map(|_| true))
        .with_context(|| state(from.node()))
}

/// What a person would look at first.
pub(crate) fn state(node: &Node<'_>) -> String {
    let script = "ip -d link show type vxlan; ip addr show tunl0; ip route; ip -6 route; bridge fdb show dev vxlan.calico; ip neigh";
    let state = node.run("sh", &["-c", &format!("({script}) 2>&1 || true")]).unwrap_or_default();
    format!("{}:\n{state}\nlast lines of its felix:\n{}", node.name(), node.last_lines("felix"))
}

/// The device by which a node reaches a pod.
pub(crate) fn device(from: &Node<'_>, to: &Pod<'_, '_>) -> Result<String> {
    let text = from.run("ip", &["-o", "route", "get", &to.address()?.to_string()])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "dev");
    Ok(words.nth(1).with_context(|| text.clone())?.to_owned())
}

/// Waits until a node's way to a pod is by this device.
pub(crate) fn goes_by(from: &Node<'_>, to: &Pod<'_, '_>, wanted: &str) -> Result<()> {
    let mut last = String::new();
    wait::becomes(PATIENCE, &format!("{} reaches {} by {wanted}", from.name(), to.name()), || {
        last = device(from, to)?;
        Ok(last == wanted)
    })
    .with_context(|| format!("it is by {last}\n{}", state(from)))
}

/// Waits until all ways are by these devices: within the subnet, and across the router.
pub(crate) fn all_go_by(pods: &[Pod<'_, '_>], within: &str, across: &str) -> Result<()> {
    for from in pods {
        for to in pods.iter().filter(|to| to.name() != from.name()) {
            let same = from.node().address().octets()[1] == to.node().address().octets()[1];
            goes_by(from.node(), to, if same { within } else { across })?;
        }
    }
    Ok(())
}

/// Packets between all pods while something is done, and for a while after; all of them must arrive.
pub(crate) fn without_loss(pods: &[Pod<'_, '_>], rate: u32, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let traffic = Traffic::start(&pods.iter().collect::<Vec<_>>(), rate)?;
    traffic.flow(Duration::from_millis(500))?;
    let begin = traffic.moment();
    let start = Instant::now();
    work()?;
    let (done, took) = (traffic.moment(), start.elapsed());
    traffic.flow(Duration::from_secs(1))?;
    let loss = traffic.loss(begin, traffic.moment())?;
    ensure!(loss.lost == 0, "{loss:?}");
    // What was sent while it was done is what tells; in the shortest time nothing need have been.
    let rounds = traffic.rounds(begin, done);
    let few = took > Duration::from_millis(100) && Duration::from_secs(rounds) * 2 < took * rate;
    ensure!(!few && loss.sent > 0, "only {rounds} rounds of packets were sent in {took:?}: too few to tell anything");
    Ok(())
}
