//! The speaker under test, on a node of both families: what it is told, and what it says and does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use calico_api::{AffinityState, BlockAffinity, BlockAffinitySpec, ObjectMeta, Resource, Spec as _};
use ipnet::IpNet;
use serde_json::Value;

use crate::net::{Net, SEGMENT_LENGTH};
use crate::node::{Node, PATIENCE};
use crate::wait;

/// A node whose bgp-speaker is tested. Felix does not run there: what it would write, the test writes.
#[derive(Debug)]
pub struct Subject<'net> {
    node: Node<'net>,
    ipv6: Ipv6Addr,
}

impl<'net> Subject<'net> {
    /// A node with an IPv4 and an IPv6 address, on which nothing runs; `host` is the last part of the latter.
    ///
    /// # Errors
    /// If its namespaces cannot be made.
    pub fn new(net: &'net Net, name: &str, host: u16) -> Result<Self> {
        let node = net.node(name)?;
        let ipv6 = dual(&node, host)?;
        Ok(Self { node, ipv6 })
    }

    /// Its node.
    pub fn node(&self) -> &Node<'net> {
        &self.node
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.node.address()
    }

    /// Its address of the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.ipv4().into() } else { self.ipv6.into() }
    }

    /// Writes its Node resource; `bgp` is further fields of `spec.bgp`, as YAML in braces without them.
    ///
    /// # Errors
    /// calicoctl's.
    pub fn register(&self, bgp: &str) -> Result<()> {
        self.node.apply(&node_resource(&self.node, self.ipv6, bgp)).map(drop)
    }

    /// Makes a block its own, as IPAM does.
    ///
    /// # Errors
    /// The store's.
    pub fn claim(&self, block: IpNet) -> Result<()> {
        let affinity = self.affinity(block);
        blocking(async { self.node.net().datastore().open().await?.create(&affinity).await.map_err(Into::into) })
            .map(drop)
    }

    /// Gives a block up.
    ///
    /// # Errors
    /// The store's.
    pub fn release(&self, block: IpNet) -> Result<()> {
        let affinity = self.affinity(block);
        let key = affinity.spec.key(&affinity.metadata);
        blocking(async { self.node.net().datastore().open().await?.delete_key(&key).await.map_err(Into::into) })
    }

    fn affinity(&self, block: IpNet) -> BlockAffinity {
        let node = self.node.name().to_owned();
        let spec = BlockAffinitySpec {
            state: AffinityState::Confirmed,
            node: node.clone(),
            owner_type: Some("host".to_owned()),
            cidr: block,
            deleted: false,
        };
        let name = format!("{node}-{}", block.to_string().replace(['.', ':', '/'], "-"));
        Resource::new(ObjectMeta { name: Some(name), ..ObjectMeta::default() }, spec)
    }

    /// Starts the speaker.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self) -> Result<()> {
        self.node.start_speaker()
    }

    /// `kill -9` of the speaker.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&self) -> Result<()> {
        self.node.kill("bgp-speaker")
    }

    /// Asks its status socket: `status`, `sessions` or `routes`.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&self, what: &str) -> Result<Value> {
        self.node.daemon("bgp-speaker", |process| process.check())?;
        let mut stream = UnixStream::connect(self.node.holder().inside("/run/ocicat/bgp.sock"))?;
        writeln!(stream, "{{\"show\":\"{what}\"}}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Its session with a peer, as its status has it.
    ///
    /// # Errors
    /// If it has none.
    pub fn session(&self, peer: IpAddr) -> Result<Value> {
        let answer = self.ask("sessions")?;
        let is_it = |session: &&Value| session["peer"].as_str().is_some_and(|at| at.contains(&at_start(peer)));
        let found = super::list(&answer, "/sessions").iter().find(is_it);
        found.cloned().with_context(|| format!("no session with {peer} in {answer}"))
    }

    /// Whether its session with a peer is Established now.
    ///
    /// # Errors
    /// If it has none.
    pub fn is_established(&self, peer: IpAddr) -> Result<bool> {
        Ok(self.session(peer)?["fsm"] == "Established")
    }

    /// Waits until its session with a peer is Established, by its status and by its BIRD dialect, which `birdc` speaks.
    ///
    /// # Errors
    /// If it is not in time; with the session's status and the speaker's last words.
    pub fn established(&self, peer: IpAddr) -> Result<()> {
        let mut session = Value::Null;
        wait::becomes(PATIENCE, &format!("{} is Established with {peer}", self.node.name()), || {
            session = self.session(peer)?;
            Ok(session["fsm"] == "Established")
        })
        .with_context(|| format!("{session:#}\n{}", self.words()))?;
        let socket = if peer.is_ipv4() { "/run/calico/bird.ctl" } else { "/run/calico/bird6.ctl" };
        let name = super::text(&session, "/name")?;
        let protocols = self.node.run("birdc", &["-s", socket, "show", "protocols", name])?;
        let row = protocols.lines().find(|line| line.starts_with(name));
        ensure!(row.is_some_and(|row| row.trim_end().ends_with("Established")), "our bird.ctl:\n{protocols}");
        Ok(())
    }

    /// The routes of the kernel's main table to exactly this prefix that the speaker has put there.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn kernel_routes(&self, prefix: IpNet) -> Result<Vec<Value>> {
        let family = if prefix.addr().is_ipv4() { "-4" } else { "-6" };
        let words = [family, "-json", "route", "show", "exact", &prefix.to_string(), "proto", "12"];
        Ok(serde_json::from_str(&self.node.run("ip", &words)?)?)
    }

    /// Whether the kernel routes a prefix to a gateway, by one route of the speaker's with the metric of nodes.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn routes_now(&self, prefix: IpNet, via: IpAddr) -> Result<bool> {
        let routes = self.kernel_routes(prefix)?;
        Ok(
            matches!(routes.as_slice(), [route] if route["gateway"] == via.to_string().as_str() && route["metric"] == 1024),
        )
    }

    /// Waits until it does.
    ///
    /// # Errors
    /// If it does not in time; with what the speaker knows.
    pub fn routes(&self, prefix: IpNet, via: IpAddr) -> Result<()> {
        wait::becomes(PATIENCE, &format!("{}'s kernel routes {prefix} to {via}", self.node.name()), || {
            self.routes_now(prefix, via)
        })
        .with_context(|| format!("{:?} {:#}\n{}", self.kernel_routes(prefix), self.knowledge(), self.words()))
    }

    /// Waits until the kernel has no route of the speaker's to a prefix.
    ///
    /// # Errors
    /// If it does in the end.
    pub fn lacks(&self, prefix: IpNet) -> Result<()> {
        wait::becomes(PATIENCE, &format!("{}'s kernel has no route to {prefix}", self.node.name()), || {
            Ok(self.kernel_routes(prefix)?.is_empty())
        })
        .with_context(|| format!("{:?} {:#}", self.kernel_routes(prefix), self.knowledge()))
    }

    /// The paths that the speaker holds for exactly this prefix.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn paths(&self, prefix: IpNet) -> Result<Vec<Value>> {
        let answer = self.ask("routes")?;
        let paths = super::list(&answer, "/routes").iter();
        Ok(paths.filter(|path| path["prefix"] == prefix.to_string().as_str()).cloned().collect())
    }

    /// Waits until the speaker holds exactly one learned path for a prefix, which passes a test.
    ///
    /// # Errors
    /// If it does not in time; with what it holds.
    pub fn holds(&self, prefix: IpNet, what: &str, test: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(PATIENCE, &format!("{} holds one path for {prefix}: {what}", self.node.name()), || {
            let paths = self.paths(prefix)?;
            Ok(paths.first().filter(|path| paths.len() == 1 && test(path)).cloned())
        })
        .with_context(|| format!("{:#}\n{}", self.knowledge(), self.words()))
    }

    fn knowledge(&self) -> Value {
        self.ask("routes").map(|answer| answer["routes"].clone()).unwrap_or_default()
    }

    /// The end of the speaker's log.
    pub fn words(&self) -> String {
        format!("last lines of {}'s speaker:\n{}", self.node.name(), self.node.last_lines("bgp-speaker"))
    }
}

/// How an address with a port begins.
fn at_start(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:"),
        IpAddr::V6(address) => format!("[{address}]:"),
    }
}

/// Gives a node a second address: `fd00::host` on the segment.
///
/// # Errors
/// The kernel's.
pub fn dual(node: &Node<'_>, host: u16) -> Result<Ipv6Addr> {
    let address = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host);
    // Nobody else has these addresses; the link's own is looked for before it may be used, for which FRR waits.
    let script = format!(
        "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
         for link in $(ip -6 -oneline addr show dev eth0 scope link | grep -o 'fe80[^ ]*'); do
             ip -6 addr del $link dev eth0
             ip -6 addr add $link dev eth0 nodad
         done
         ip -6 addr add {address}/64 dev eth0 nodad"
    );
    node.run("sh", &["-ec", &script])?;
    Ok(address)
}

/// The Node resource of a node of both families; `bgp` is further fields of `spec.bgp`.
pub fn node_resource(node: &Node<'_>, ipv6: impl std::fmt::Display, bgp: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {}}}\n\
         spec: {{bgp: {{ipv4Address: {}/{SEGMENT_LENGTH}, ipv6Address: '{ipv6}/64', {bgp}}}}}\n",
        node.name(),
        node.address()
    )
}

/// A counter of the kernel's TCP on a node, such as `TCPMD5Failure` or `TCPMinTTLDrop`.
///
/// # Errors
/// If this kernel does not count it.
pub fn tcp_counter(node: &Node<'_>, name: &str) -> Result<u64> {
    let text = node.run("cat", &["/proc/net/netstat"])?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
    let found = names.split(' ').zip(values.split(' ')).find(|(candidate, _)| *candidate == name);
    found.and_then(|(_, value)| value.parse().ok()).with_context(|| format!("no {name} among {names}"))
}

fn blocking<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
