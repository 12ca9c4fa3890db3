//! Who decides? One task that owns every session and the RIB, so that nothing in it needs a lock.
//!
//! ```text
//!  sources (watched.rs) ──Heard──┐
//!  sockets (transport.rs) ──Event┼─▶ Speaker: Inputs → Plan → Peers (sessions) → Routing (RIB) ──┬──▶ writers
//!  status sockets ─────────Query─┤             └────▶ PolicyBook ────────────────────┘           └──▶ kernel thread
//!  kernel thread ─next hops, routes
//! ```
//! What is heard changes the inputs, and only what that touches is made anew: the plan of sessions, of which only the
//! difference to the old one is applied; and the surroundings, from which policies, own routes and ownership follow.

mod apply;
mod hear;
mod recovery;
mod report;
mod surroundings;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bgp_plan::inputs::{Inputs, Touched};
use bgp_plan::policies::{PolicyBook, Settings};
use bgp_plan::sessions::Plan;
use bgp_proto::{ConnectionId, Families, RouterId, StopReason};
use calico_daemon::{LogLevel, Reporter};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::{error, info};

use self::recovery::Recovery;
use crate::fib::Ownership;
use crate::kernel::{self, Command, Interest};
use crate::metrics::Metrics;
use crate::peer::{Identity, Peer};
use crate::router_id::RouterIdChoice;
use crate::routing::Routing;
use crate::secrets::Secrets;
use crate::sockets::Query;
use crate::status::Tally;
use crate::transport::{self, DialId};
use crate::watched::{Heard, Sources};

/// How often a listener that could not be had is tried again.
const LISTEN_RETRY: Duration = Duration::from_secs(5);
/// Most changes and events that are taken before the consequences are drawn.
const BATCH: usize = 256;
/// How long an unknown peer is not warned of again.
const STRANGER: Duration = Duration::from_secs(60);
/// How many unknown peers are remembered.
const STRANGERS: usize = 256;
/// How often counters are published though nothing happened.
const COUNTERS: Duration = Duration::from_secs(15);

/// What the speaker is made of.
#[derive(Debug)]
pub struct Parts {
    /// The node's name.
    pub node: String,
    /// Which router ID was asked for.
    pub router_id: RouterIdChoice,
    /// What tells us of the world.
    pub sources: Sources,
    /// What they tell.
    pub heard: mpsc::Receiver<Heard>,
    /// What the command line and the environment say.
    pub settings: Settings,
    /// The level of logs, if BGPConfiguration may change it.
    pub log_level: Option<LogLevel>,
    /// Where last good versions outlive a restart.
    pub last_good: PathBuf,
    /// Whether the kernel has no part: every next hop counts as reachable.
    pub unresolved: bool,
    /// Questions of status clients.
    pub queries: mpsc::Receiver<Query>,
    /// The kernel's thread.
    pub kernel: kernel::Handle,
    /// Numbers to publish.
    pub metrics: Metrics,
    /// Where we say how we are.
    pub health: Reporter,
}

/// How far the datastore's snapshot has come.
#[derive(Debug, Default)]
struct Datastore {
    in_sync: bool,
    trouble: Option<String>,
    /// The first snapshot of Services is awaited until then, so that what they say is not withdrawn at a restart.
    services_until: Option<Instant>,
    services_trouble: Option<String>,
}

/// The speaker.
#[derive(Debug)]
pub struct Speaker {
    node: String,
    settings: Settings,
    router_id_choice: RouterIdChoice,
    identity: Option<Identity>,
    preserved: Families,
    sources: Sources,
    inputs: Inputs,
    /// What changed while the datastore was not in sync, or since the consequences were drawn.
    touched: Touched,
    datastore: Datastore,
    secrets: Secrets,
    book: PolicyBook,
    plan: Plan,
    /// Sessions are numbered as densely as may be: the RIB's tables are indexed by these numbers.
    peers: BTreeMap<u32, Peer>,
    by_name: BTreeMap<String, u32>,
    /// All sessions with an address: they have different ports.
    by_address: HashMap<IpAddr, BTreeSet<u32>>,
    owners: HashMap<ConnectionId, u32>,
    dials: HashMap<DialId, u32>,
    deadlines: BTreeSet<(Instant, u32)>,
    next_connection: u64,
    /// What happened to sessions that were reset, for those that take their place.
    tallies: HashMap<String, Tally>,
    listeners: BTreeMap<SocketAddr, Option<transport::Listener>>,
    listen_again: Option<Instant>,
    /// What was said about listeners that cannot be had.
    deaf_warned: BTreeSet<String>,
    routing: Routing,
    recovery: Recovery,
    /// When recovery that could not end is to be tried again.
    recover_again: Option<Instant>,
    /// What the kernel's thread has still to be told about pools and blocks.
    pending_ownership: Option<Ownership>,
    /// What it was last told of that.
    ownership: Option<Ownership>,
    /// The routes to peers that it has still to be told, and those it was told last.
    pending_statics: Option<BTreeMap<IpAddr, IpAddr>>,
    /// During recovery: prefixes that peers have withdrawn, of which the kernel's thread has still to be told.
    withdrawn: Vec<IpNet>,
    statics: BTreeMap<IpAddr, IpAddr>,
    /// Which of others' routes are to be told, and were asked for last.
    pending_interest: Option<Interest>,
    interest: Option<Interest>,
    /// Whether the kernel's thread has told all routes that it had at the start.
    kernel_told: bool,
    /// Next hops that the kernel's thread has still to watch, or not to.
    pending_next_hops: Vec<(IpAddr, bool)>,
    /// What was last said of our health.
    said: Option<(bool, String)>,
    strangers: HashMap<IpAddr, Instant>,
    /// Warnings of policies, services and ownership, by kind.
    conditions: BTreeSet<(&'static str, String)>,
    warned: BTreeSet<String>,
    /// Whether something happened that only warnings tell of.
    warnings_stale: bool,
    log_level: Option<LogLevel>,
    logged_level: Option<String>,
    last_good: PathBuf,
    last_good_written: Option<String>,
    kernel: kernel::Handle,
    metrics: Metrics,
    health: Reporter,
    events: mpsc::Sender<transport::Event>,
    started: Timestamp,
    reconfigured: Timestamp,
}

/// Runs the speaker until `stop` is done, then leaves: connections are closed without a word and routes stay.
///
/// # Errors
/// If the kernel's thread or the datastore's watch is lost: the process must be started anew.
pub async fn run(parts: Parts, stop: impl Future<Output = &'static str>) -> anyhow::Result<()> {
    let (events, happened) = mpsc::channel(BATCH);
    let clock = Timestamp::now();
    let mut speaker = Speaker {
        node: parts.node,
        settings: parts.settings,
        router_id_choice: parts.router_id,
        identity: None,
        preserved: parts.kernel.preserved,
        sources: parts.sources,
        inputs: Inputs::default(),
        touched: Touched::default(),
        datastore: Datastore::default(),
        secrets: Secrets::default(),
        book: PolicyBook::default(),
        plan: Plan::default(),
        peers: BTreeMap::new(),
        by_name: BTreeMap::new(),
        by_address: HashMap::new(),
        owners: HashMap::new(),
        dials: HashMap::new(),
        deadlines: BTreeSet::new(),
        next_connection: 0,
        tallies: HashMap::new(),
        listeners: BTreeMap::new(),
        listen_again: None,
        deaf_warned: BTreeSet::new(),
        routing: Routing::new(parts.unresolved),
        recovery: Recovery::Waiting,
        recover_again: None,
        pending_ownership: None,
        ownership: None,
        pending_statics: None,
        withdrawn: Vec::new(),
        statics: BTreeMap::new(),
        pending_interest: None,
        interest: None,
        kernel_told: false,
        pending_next_hops: Vec::new(),
        said: None,
        strangers: HashMap::new(),
        conditions: BTreeSet::new(),
        warned: BTreeSet::new(),
        warnings_stale: false,
        log_level: parts.log_level,
        logged_level: None,
        last_good: parts.last_good,
        last_good_written: None,
        kernel: parts.kernel,
        metrics: parts.metrics,
        health: parts.health,
        events,
        started: clock,
        reconfigured: clock,
    };
    speaker.remember();
    speaker.drive(parts.heard, parts.queries, happened, stop).await
}

impl Speaker {
    async fn drive(
        &mut self,
        mut heard: mpsc::Receiver<Heard>,
        mut queries: mpsc::Receiver<Query>,
        mut happened: mpsc::Receiver<transport::Event>,
        stop: impl Future<Output = &'static str>,
    ) -> anyhow::Result<()> {
        tokio::pin!(stop);
        let commands = self.kernel.commands.clone();
        let mut changes = Vec::new();
        let mut arrived = Vec::new();
        let mut counters = tokio::time::interval(COUNTERS);
        counters.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            self.settle(now);
            let deadline = self.deadline(now).map(tokio::time::Instant::from_std);
            let sleep = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                signal = &mut stop => {
                    info!(signal, "stopping; routes stay, and peers keep ours until we are back");
                    self.leave();
                    return Ok(());
                }
                _ = heard.recv_many(&mut changes, BATCH) => {
                    if changes.contains(&Heard::Ended) {
                        anyhow::bail!("the watch of the datastore has ended");
                    }
                    self.hear(changes.drain(..));
                }
                count = happened.recv_many(&mut arrived, BATCH) => {
                    debug_assert!(count > 0, "we hold a sender ourselves");
                    arrived.drain(..).for_each(|event| self.happened(event));
                }
                Some((question, answer)) = queries.recv() => self.answer(question, answer),
                permit = commands.reserve(), if self.has_commands() => {
                    let Ok(permit) = permit else { anyhow::bail!("the kernel's thread has ended") };
                    if let Some(command) = self.next_command() {
                        permit.send(command);
                    }
                }
                changed = self.kernel.reachable.changed() => {
                    if changed.is_err() {
                        anyhow::bail!("the kernel's thread has ended");
                    }
                    let reachable = self.kernel.reachable.borrow_and_update().clone();
                    self.routing.reachable(&reachable);
                }
                Some(changes) = self.kernel.routes.recv() => {
                    self.kernel_told |= changes.is_empty();
                    self.routing.kernel_routes(changes);
                    self.draw_conclusions();
                }
                changed = self.kernel.status.changed() => {
                    if changed.is_err() {
                        anyhow::bail!("the kernel's thread has ended");
                    }
                    let status = self.kernel.status.borrow_and_update().clone();
                    self.metrics.kernel(&status);
                }
                _ = counters.tick() => {
                    self.publish_counters();
                    self.said = None; // say it again: silence counts as death
                }
                () = sleep => self.woken(Instant::now()),
            }
        }
    }

    /// Draws the consequences of what happened: messages to peers, recovery, health.
    fn settle(&mut self, now: Instant) {
        self.transmit();
        self.recover(now);
        self.report_health();
    }

    /// When something is due, as of `now`, for which everything is settled.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        let session = self.deadlines.first().map(|(at, _)| *at);
        let recovery = self.recovery_deadline(now);
        let services = self.datastore.services_until;
        [session, recovery, services, self.recover_again, self.listen_again].into_iter().flatten().min()
    }

    fn woken(&mut self, now: Instant) {
        while let Some((at, id)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, id));
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.deadline = None;
            }
            self.session(id, bgp_proto::Event::Timeout);
        }
        if self.listen_again.is_some_and(|at| at <= now) {
            self.listen();
        }
        if self.datastore.services_until.is_some_and(|at| at <= now) {
            self.datastore.services_until = None; // whatever Services say later is a change like any other
            self.draw_conclusions();
        }
    }

    /// Whether the kernel's thread has something to hear.
    fn has_commands(&mut self) -> bool {
        self.pending_next_hops.extend(self.routing.take_next_hops());
        let learned = self.routing.collect();
        if !learned {
            // Nobody's best path was among them: that such a path is lost later, otherwise, is no withdrawal.
            self.withdrawn.clear();
        }
        learned
            || self.pending_ownership.is_some()
            || self.pending_statics.is_some()
            || self.pending_interest.is_some()
            || !self.pending_next_hops.is_empty()
    }

    /// What the kernel's thread hears next: who owns what, before any learned route.
    fn next_command(&mut self) -> Option<Command> {
        if let Some(ownership) = self.pending_ownership.take() {
            return Some(Command::Ownership(ownership));
        }
        if let Some(interest) = self.pending_interest.take() {
            return Some(Command::Interest(interest));
        }
        if let Some(statics) = self.pending_statics.take() {
            return Some(Command::Statics(statics));
        }
        if !self.pending_next_hops.is_empty() {
            return Some(Command::NextHops(std::mem::take(&mut self.pending_next_hops)));
        }
        if !self.routing.collect() {
            return None;
        }
        if !self.withdrawn.is_empty() {
            return Some(Command::Withdrawn(std::mem::take(&mut self.withdrawn)));
        }
        Some(Command::Learned(self.routing.take_changes()))
    }

    fn leave(&mut self) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.session(id, bgp_proto::Event::Stop(StopReason::Restart));
        }
    }

    /// Our BGP identifier. It follows the node's IPv4 address, whose change resets the sessions anyway, but not its
    /// disappearance.
    fn identity(&mut self) -> Option<Identity> {
        let local = self.plan.local.as_ref()?;
        let ipv4 = local.ipv4.map(|net| net.addr());
        let id = match (&self.identity, ipv4) {
            (Some(identity), None) => identity.router_id,
            _ => {
                let id = self.router_id_choice.resolve(&self.node, ipv4);
                RouterId::try_from(id).unwrap_or_else(|_| {
                    let hashed = RouterIdChoice::Hash.resolve(&self.node, None);
                    RouterId::try_from(hashed)
                        .or(RouterId::try_from(Ipv4Addr::new(1, 1, 1, 1)))
                        .expect("1.1.1.1 is not zero")
                })
            }
        };
        if let Some(identity) = self.identity.filter(|identity| identity.router_id == id) {
            return Some(identity);
        }
        info!(router_id = %id, "this node's BGP identifier");
        let recovering = self.recovery.restarting();
        self.identity = Some(Identity { router_id: id, recovering, preserved: self.preserved });
        self.identity
    }

    /// Something that must not happen did; said once and survived.
    fn odd(what: &'static str, id: u32) {
        error!(what, peer = id, "internal inconsistency");
    }
}
