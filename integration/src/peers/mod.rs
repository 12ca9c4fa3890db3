//! Other vendors' BGP daemons in a node's namespaces: configured, started and asked alike.
//!
//! ```text
//!  PeerSpec ──▶ Daemon (Bird, Frr, GoBgp, OpenBgpd) ──▶ its configuration file, its processes
//!  Peer::paths, established, … ◀── its own command line (birdc, vtysh, gobgp, bgpctl)
//! ```
//! Nothing of the machine's own is touched: files and sockets are under the node's private `/run`, users that a package
//! would make are added to the node's private `/etc`. Debian's packages are meant: bird2, frr, gobgpd, openbgpd.

mod bird;
mod frr;
mod gobgp;
mod openbgpd;
mod place;
mod subject;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

pub use self::bird::Bird;
pub use self::frr::Frr;
pub use self::gobgp::GoBgp;
pub use self::openbgpd::OpenBgpd;
pub use self::place::{LOCAL_PREF, NO_MESH, OUR_AS, POOLS, Place, bgp_peer, block};
pub use self::subject::{Subject, dual, node_resource, tcp_counter};
use crate::node::{Node, PATIENCE};
use crate::process::Process;
use crate::wait;

/// What a daemon is to be. Every daemon understands all of it, unless said otherwise.
#[derive(Clone, Debug)]
pub struct PeerSpec {
    /// Its AS number.
    pub asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// Its cluster ID, if it is a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Its sessions.
    pub neighbours: Vec<Neighbour>,
    /// What it announces at its start.
    pub networks: Vec<Network>,
}

impl PeerSpec {
    /// A daemon without sessions.
    pub fn new(asn: u32, router_id: Ipv4Addr) -> Self {
        Self { asn, router_id, cluster_id: None, neighbours: Vec::new(), networks: Vec::new() }
    }

    /// With a further session.
    #[must_use]
    pub fn neighbour(mut self, neighbour: Neighbour) -> Self {
        self.neighbours.push(neighbour);
        self
    }

    /// With a further network.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.networks.push(network);
        self
    }

    fn number(&self, neighbour: IpAddr) -> Result<usize> {
        let found = self.neighbours.iter().position(|candidate| candidate.address == neighbour);
        found.with_context(|| format!("{neighbour} is none of its neighbours"))
    }
}

/// One session of a daemon. It carries the routes of its addresses' family alone, as Calico's sessions do.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// The other side's address.
    pub address: IpAddr,
    /// The daemon's own address on the session.
    pub local: IpAddr,
    /// The other side's AS number.
    pub asn: u32,
    /// The key of TCP MD5 (RFC 2385).
    pub password: Option<String>,
    /// How many hops away the other side may be, by GTSM (RFC 5082). OpenBGPD has it on external sessions only.
    pub gtsm: Option<u8>,
    /// Whether the daemon dials. If not it waits to be dialled.
    pub dials: bool,
    /// Whether the other side is a client of the daemon as a route reflector.
    pub client: bool,
}

impl Neighbour {
    /// A session that both sides may dial, without extras.
    pub fn new(local: IpAddr, address: IpAddr, asn: u32) -> Self {
        Self { address, local, asn, password: None, gtsm: None, dials: true, client: false }
    }
}

/// A network that a daemon announces.
#[derive(Clone, Debug)]
pub struct Network {
    /// The network.
    pub prefix: IpNet,
    /// Its next hop, if that is not the daemon.
    pub next_hop: Option<IpAddr>,
    /// Communities: `a:b`, or `a:b:c` for a large one.
    pub communities: Vec<String>,
}

impl Network {
    /// A network behind the daemon itself.
    pub fn new(prefix: IpNet) -> Self {
        Self { prefix, next_hop: None, communities: Vec::new() }
    }

    fn communities(&self, large: bool) -> impl Iterator<Item = &str> {
        let is_large = |text: &&str| text.split(':').count() == 3;
        self.communities.iter().map(String::as_str).filter(move |text| is_large(text) == large)
    }
}

/// A path that a daemon holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// NEXT_HOP, as received.
    pub next_hop: IpAddr,
    /// AS_PATH.
    pub as_path: Vec<u32>,
    /// LOCAL_PREF; daemons show their default, 100, on what came without.
    pub local_pref: Option<u32>,
    /// COMMUNITIES as `a:b` and LARGE_COMMUNITY as `a:b:c`, in text order.
    pub communities: BTreeSet<String>,
    /// ORIGINATOR_ID.
    pub originator: Option<Ipv4Addr>,
    /// CLUSTER_LIST.
    pub clusters: Vec<Ipv4Addr>,
}

/// What the kinds of daemons have in common.
pub trait Daemon: std::fmt::Debug + Sync {
    /// What it is called.
    fn name(&self) -> &'static str;

    /// Writes its configuration and starts it.
    ///
    /// # Errors
    /// If a file cannot be written or a program not be started.
    fn start(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<Vec<Process>>;

    /// Does what its configuration file cannot say, once it answers; fails as long as it does not.
    ///
    /// # Errors
    /// If it does not answer.
    fn complete(&self, node: &Node<'_>, spec: &PeerSpec) -> Result<()>;

    /// The state of a session in the daemon's own word, lower-case.
    ///
    /// # Errors
    /// If it does not answer, or not as expected.
    fn state(&self, node: &Node<'_>, spec: &PeerSpec, neighbour: IpAddr) -> Result<String>;

    /// The paths that it holds for exactly this prefix.
    ///
    /// # Errors
    /// If it does not answer, or not as expected.
    fn paths(&self, node: &Node<'_>, prefix: IpNet) -> Result<Vec<Path>>;

    /// All prefixes of a family that it holds, its own among them.
    ///
    /// # Errors
    /// If it does not answer, or not as expected.
    fn prefixes(&self, node: &Node<'_>, ipv6: bool) -> Result<BTreeSet<IpNet>>;

    /// Announces a network of `spec`, which is not announced yet.
    ///
    /// # Errors
    /// If it refuses.
    fn announce(&self, node: &Node<'_>, spec: &PeerSpec, network: &Network) -> Result<()>;

    /// Withdraws a network, which `spec` has no longer.
    ///
    /// # Errors
    /// If it refuses.
    fn withdraw(&self, node: &Node<'_>, spec: &PeerSpec, network: &Network) -> Result<()>;

    /// Asks the neighbour for its routes (RFC 2918), where the daemon has a command for that; says whether it has.
    ///
    /// # Errors
    /// If it refuses.
    fn refresh(&self, node: &Node<'_>, spec: &PeerSpec, neighbour: IpAddr) -> Result<bool>;

    /// How many UPDATEs, or prefixes in them, came from the neighbour in this session.
    ///
    /// # Errors
    /// If it does not answer, or not as expected.
    fn updates(&self, node: &Node<'_>, spec: &PeerSpec, neighbour: IpAddr) -> Result<u64>;
}

/// A daemon on a node. It is killed when this is dropped.
#[derive(Debug)]
pub struct Peer<'node, 'net> {
    daemon: &'static dyn Daemon,
    node: &'node Node<'net>,
    spec: PeerSpec,
    processes: Vec<Process>,
}

impl<'node, 'net> Peer<'node, 'net> {
    /// Starts a daemon and waits until it answers.
    ///
    /// # Errors
    /// If it does not; with its last words.
    pub fn start(daemon: &'static dyn Daemon, node: &'node Node<'net>, spec: PeerSpec) -> Result<Self> {
        let mut peer = Self { daemon, node, spec, processes: Vec::new() };
        peer.run()?;
        Ok(peer)
    }

    /// `kill -9`, and a start with another description.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self, spec: PeerSpec) -> Result<()> {
        self.kill()?;
        self.spec = spec;
        self.run()
    }

    /// `kill -9` of all its processes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<()> {
        self.processes.drain(..).try_for_each(|mut process| process.kill())
    }

    fn run(&mut self) -> Result<()> {
        self.processes = self.daemon.start(self.node, &self.spec)?;
        wait::until(PATIENCE, &format!("{self} answers"), || {
            self.processes.iter_mut().try_for_each(Process::check)?;
            self.daemon.complete(self.node, &self.spec).map(Some)
        })
        .with_context(|| self.words())
    }

    /// What it is.
    pub fn spec(&self) -> &PeerSpec {
        &self.spec
    }

    /// Where it runs.
    pub fn node(&self) -> &'node Node<'net> {
        self.node
    }

    /// The end of its log.
    pub fn words(&self) -> String {
        let last = |process: &Process| format!("last lines of {}:\n{}", process.name(), process.last_lines(25));
        self.processes.iter().map(last).collect::<Vec<_>>().join("\n")
    }

    /// Whether a session is Established now.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn is_established(&self, neighbour: IpAddr) -> Result<bool> {
        Ok(self.daemon.state(self.node, &self.spec, neighbour)? == "established")
    }

    /// Waits until a session is Established.
    ///
    /// # Errors
    /// If it is not in time; with the daemon's last words.
    pub fn established(&self, neighbour: IpAddr) -> Result<()> {
        let mut state = String::new();
        wait::becomes(PATIENCE, &format!("{self} is Established with {neighbour}"), || {
            state = self.daemon.state(self.node, &self.spec, neighbour)?;
            Ok(state == "established")
        })
        .with_context(|| format!("it is in state {state}; {}", self.words()))
    }

    /// The paths that it holds for exactly this prefix.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn paths(&self, prefix: IpNet) -> Result<Vec<Path>> {
        self.daemon.paths(self.node, prefix)
    }

    /// Waits until it holds exactly one path for a prefix, which passes a test.
    ///
    /// # Errors
    /// If it does not in time; with what it holds.
    pub fn holds(&self, prefix: IpNet, what: &str, test: impl Fn(&Path) -> bool) -> Result<Path> {
        let mut last = Vec::new();
        wait::until(PATIENCE, &format!("{self} has one path for {prefix}: {what}"), || {
            last = self.paths(prefix)?;
            Ok(match last.as_slice() {
                [path] if test(path) => Some(path.clone()),
                _ => None,
            })
        })
        .with_context(|| format!("it holds {last:#?}; {}", self.words()))
    }

    /// Waits until it holds no path for a prefix.
    ///
    /// # Errors
    /// If it does in the end; with what it holds.
    pub fn lacks(&self, prefix: IpNet) -> Result<()> {
        let mut last = Vec::new();
        wait::becomes(PATIENCE, &format!("{self} has no path for {prefix}"), || {
            last = self.paths(prefix)?;
            Ok(last.is_empty())
        })
        .with_context(|| format!("it holds {last:#?}"))
    }

    /// All prefixes of a family that it holds, its own among them.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn prefixes(&self, ipv6: bool) -> Result<BTreeSet<IpNet>> {
        self.daemon.prefixes(self.node, ipv6)
    }

    /// Waits until these are all prefixes of a family that it holds, its own among them.
    ///
    /// # Errors
    /// If they are not in time; with what it holds.
    pub fn holds_exactly(&self, ipv6: bool, expected: &[IpNet]) -> Result<()> {
        let expected: BTreeSet<IpNet> = expected.iter().copied().collect();
        let mut last = BTreeSet::new();
        wait::becomes(PATIENCE, &format!("{self} holds exactly {expected:?}"), || {
            last = self.prefixes(ipv6)?;
            Ok(last == expected)
        })
        .with_context(|| format!("it holds {last:?}"))
    }

    /// Announces a further network.
    ///
    /// # Errors
    /// If the daemon refuses, or announces that prefix already.
    pub fn announce(&mut self, network: Network) -> Result<()> {
        let known = self.spec.networks.iter().any(|other| other.prefix == network.prefix);
        ensure!(!known, "{self} announces {} already", network.prefix);
        self.spec.networks.push(network.clone());
        self.daemon.announce(self.node, &self.spec, &network)
    }

    /// Withdraws a network that it announces; returns it.
    ///
    /// # Errors
    /// If the daemon refuses, or does not announce it.
    pub fn withdraw(&mut self, prefix: IpNet) -> Result<Network> {
        let at = self.spec.networks.iter().position(|network| network.prefix == prefix);
        let network = self.spec.networks.remove(at.with_context(|| format!("{self} does not announce {prefix}"))?);
        self.daemon.withdraw(self.node, &self.spec, &network)?;
        Ok(network)
    }

    /// Asks a neighbour for its routes anew and waits until they come. Does nothing where the daemon cannot ask.
    ///
    /// # Errors
    /// If none come.
    pub fn refreshed(&self, neighbour: IpAddr) -> Result<()> {
        let updates = || self.daemon.updates(self.node, &self.spec, neighbour);
        let before = updates()?;
        if !self.daemon.refresh(self.node, &self.spec, neighbour)? {
            return Ok(());
        }
        let what = format!("{self} gets more than {before} updates from {neighbour}, having asked for a refresh");
        wait::becomes(PATIENCE, &what, || Ok(updates()? > before))
    }
}

impl std::fmt::Display for Peer<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.daemon.name(), self.node.name())
    }
}

/// The whitespace-separated numbers of a text.
fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>> {
    text.split_whitespace().map(|word| word.parse().ok().with_context(|| format!("{word:?} in {text:?}"))).collect()
}

/// The text at a place in a document.
fn text<'a>(value: &'a serde_json::Value, at: &str) -> Result<&'a str> {
    value.pointer(at).and_then(serde_json::Value::as_str).with_context(|| format!("no text at {at} in {value}"))
}

/// The list at a place in a document; where there is none, it is empty.
fn list<'a>(value: &'a serde_json::Value, at: &str) -> &'a [serde_json::Value] {
    value.pointer(at).and_then(serde_json::Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The number at a place in a document, if there is one.
fn number<T: TryFrom<u64>>(value: &serde_json::Value, at: &str) -> Option<T> {
    value.pointer(at).and_then(serde_json::Value::as_u64).and_then(|number| T::try_from(number).ok())
}
