//! Who decides? One task that owns every session and the RIB, so that nothing in it needs a lock.
//!
//! ```text
//!  datastore watch ──Update──┐
//!  sockets (transport.rs) ───┼──▶ Speaker: Inputs → Plan → Peers (sessions) → Routing (RIB) ──┬──▶ writers
//!  status sockets ──Query────┤                                                                └──▶ kernel thread
//!  kernel thread ──next hops─┘
//! ```
//! A change of the datastore makes a new [`Plan`]; only its difference to the old one is applied.

mod apply;
mod report;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bgp_proto::{ConnectionId, Families, RouterId, StopReason};
use calico_daemon::Reporter;
use calico_datastore::watch::Update;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::fib::Ownership;
use crate::kernel::{self, Command};
use crate::metrics::Metrics;
use crate::peer::{Identity, Peer};
use crate::router_id::RouterIdChoice;
use crate::routing::Routing;
use crate::sockets::Query;
use crate::transport::{self, DialId};
use crate::watched;
use bgp_plan::inputs::Inputs;
use bgp_plan::sessions::{Plan, Warning};

/// The longest that start-up's recovery lasts.
const RECOVERY: Duration = Duration::from_secs(60);
/// From then on recovery no longer waits for peers that are down, or that never say that they have told all.
const RECOVERY_WITHOUT_DOWN: Duration = Duration::from_secs(20);
/// How soon recovery's end is tried again if the kernel's thread was busy.
const RECOVERY_RETRY: Duration = Duration::from_millis(100);
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
    /// The datastore's changes.
    pub updates: mpsc::Receiver<Update>,
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
}

/// The time after the start in which routes that are in the kernel already are kept, wanted or not.
#[derive(Debug)]
enum Recovery {
    /// No session was started yet.
    Waiting,
    /// Peers are given time to tell their routes.
    Running { since: Instant },
    /// Over.
    Done,
}

/// The speaker.
#[derive(Debug)]
pub struct Speaker {
    node: String,
    router_id_choice: RouterIdChoice,
    identity: Option<Identity>,
    preserved: Families,
    inputs: Inputs,
    datastore: Datastore,
    plan: Plan,
    /// Sessions are numbered as densely as may be: the RIB's tables are indexed by these numbers.
    peers: BTreeMap<u32, Peer>,
    by_name: BTreeMap<String, u32>,
    by_address: HashMap<IpAddr, u32>,
    owners: HashMap<ConnectionId, u32>,
    dials: HashMap<DialId, u32>,
    deadlines: BTreeSet<(Instant, u32)>,
    next_connection: u64,
    listeners: BTreeMap<SocketAddr, Option<JoinHandle<()>>>,
    listen_again: Option<Instant>,
    routing: Routing,
    recovery: Recovery,
    /// When recovery that could not end is to be tried again.
    recover_again: Option<Instant>,
    /// What the kernel's thread has still to be told about pools and blocks.
    pending_ownership: Option<Ownership>,
    /// Next hops that the kernel's thread has still to watch, or not to.
    pending_next_hops: Vec<(IpAddr, bool)>,
    /// What was last said of our health.
    said: Option<(bool, String)>,
    strangers: HashMap<IpAddr, Instant>,
    warned: BTreeSet<String>,
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
        router_id_choice: parts.router_id,
        identity: None,
        preserved: parts.kernel.preserved,
        inputs: Inputs::default(),
        datastore: Datastore::default(),
        plan: Plan::default(),
        peers: BTreeMap::new(),
        by_name: BTreeMap::new(),
        by_address: HashMap::new(),
        owners: HashMap::new(),
        dials: HashMap::new(),
        deadlines: BTreeSet::new(),
        next_connection: 0,
        listeners: BTreeMap::new(),
        listen_again: None,
        routing: Routing::default(),
        recovery: Recovery::Waiting,
        recover_again: None,
        pending_ownership: None,
        pending_next_hops: Vec::new(),
        said: None,
        strangers: HashMap::new(),
        warned: BTreeSet::new(),
        kernel: parts.kernel,
        metrics: parts.metrics,
        health: parts.health,
        events,
        started: clock,
        reconfigured: clock,
    };
    speaker.drive(parts.updates, parts.queries, happened, stop).await
}

impl Speaker {
    async fn drive(
        &mut self,
        mut updates: mpsc::Receiver<Update>,
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
                count = updates.recv_many(&mut changes, BATCH) => {
                    if count == 0 {
                        anyhow::bail!("the watch of the datastore has ended");
                    }
                    self.changed(changes.drain(..));
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
        let recovery = match self.recovery {
            Recovery::Running { since } => next_bound(since, now),
            Recovery::Waiting | Recovery::Done => None,
        };
        [session, recovery, self.recover_again, self.listen_again].into_iter().flatten().min()
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
    }

    fn changed(&mut self, changes: impl Iterator<Item = Update>) {
        let (mut sessions, mut ownership) = (false, false);
        for change in changes {
            match change {
                Update::InSync => {
                    info!(nodes = self.inputs.nodes.len(), "datastore is in sync");
                    self.datastore.in_sync = true;
                    (sessions, ownership) = (true, true);
                }
                Update::Trouble(Some(reason)) => {
                    warn!(%reason, "datastore does not answer; sessions and routes go on as they are");
                    self.datastore.trouble = Some(reason);
                }
                Update::Trouble(None) => {
                    info!("datastore answers again");
                    self.datastore.trouble = None;
                }
                update => {
                    let Some(change) = watched::change(update) else { continue };
                    match self.inputs.apply(&self.node, change) {
                        Ok(touched) => {
                            sessions |= touched.sessions;
                            ownership |= touched.blocks || touched.pools || touched.sessions;
                        }
                        Err(bad) => {
                            warn!(kind = %bad.kind, name = bad.name, reason = bad.reason, "resource not understood")
                        }
                    }
                }
            }
        }
        self.metrics.datastore_in_sync.set(self.datastore.in_sync.into());
        self.metrics.datastore_answers.set(self.datastore.trouble.is_none().into());
        if !self.datastore.in_sync {
            return; // nothing dials, listens or is advertised before the snapshot is complete
        }
        if ownership {
            self.apply_ownership();
        }
        if sessions {
            self.apply_plan();
        }
    }

    /// Whether the kernel's thread has something to hear.
    fn has_commands(&mut self) -> bool {
        self.pending_next_hops.extend(self.routing.take_next_hops());
        self.pending_ownership.is_some() || !self.pending_next_hops.is_empty() || self.routing.collect()
    }

    /// What the kernel's thread hears next: who owns what, before any learned route.
    fn next_command(&mut self) -> Option<Command> {
        if let Some(ownership) = self.pending_ownership.take() {
            return Some(Command::Ownership(ownership));
        }
        if !self.pending_next_hops.is_empty() {
            return Some(Command::NextHops(std::mem::take(&mut self.pending_next_hops)));
        }
        self.routing.collect().then(|| Command::Learned(self.routing.take_changes()))
    }

    /// Whether recovery waits for this peer: what is left in the kernel may be its. This goes beyond RFC 4724 §4.1, but
    /// all that it delays is the removal of leftovers.
    fn is_awaited(&self, peer: &Peer, now: Instant) -> bool {
        let Recovery::Running { since } = self.recovery else { return false };
        let early = now.saturating_duration_since(since) < RECOVERY_WITHOUT_DOWN;
        match peer.is_up() {
            true => !peer.is_complete() && (early || peer.sends_end_of_rib()),
            false => early && peer.refused.is_none(),
        }
    }

    /// Whether learned routes are not advertised before this peer has told its own (RFC 4724 §4.1). One that has just
    /// restarted itself waits for us, and one without graceful restart says nothing that could be waited for.
    fn holds_selection(&self, id: u32, peer: &Peer, now: Instant) -> bool {
        self.is_awaited(peer, now) && (!peer.is_up() || self.routing.is_awaited(id))
    }

    /// Ends recovery when every peer has told its routes, or has had its time.
    fn recover(&mut self, now: Instant) {
        self.recover_again = None;
        let Recovery::Running { since } = self.recovery else { return };
        let age = now.saturating_duration_since(since);
        if age >= RECOVERY || !self.peers.iter().any(|(id, peer)| self.holds_selection(*id, peer, now)) {
            self.routing.defer(false);
        }
        if age < RECOVERY && self.peers.values().any(|peer| self.is_awaited(peer, now)) {
            return;
        }
        // What the last End-of-RIB completed goes to the kernel first, and for that its next hops must be looked up.
        let busy = self.has_commands() || self.routing.awaits_next_hops() || self.kernel.unresolved();
        if busy || self.kernel.commands.try_send(Command::Sweep).is_err() {
            self.recover_again = Some(now + RECOVERY_RETRY);
            return;
        }
        info!(seconds = age.as_secs_f32(), "recovery is over; routes that no peer advertises are removed");
        self.recovery = Recovery::Done;
        self.metrics.recovering.set(0);
        if let Some(identity) = &mut self.identity {
            identity.recovering = false;
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.session(id, bgp_proto::Event::Recovered);
        }
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
        let recovering = !matches!(self.recovery, Recovery::Done);
        self.identity = Some(Identity { router_id: id, recovering, preserved: self.preserved });
        self.identity
    }

    /// Warnings of the plan are logged when they are new.
    fn warn_once(&mut self) {
        let now: BTreeSet<String> = self.plan.warnings.iter().map(Warning::to_string).collect();
        for warning in now.difference(&self.warned) {
            warn!(%warning, "configuration");
        }
        self.warned = now;
    }

    /// Something that must not happen did; said once and survived.
    fn odd(what: &'static str, id: u32) {
        error!(what, peer = id, "internal inconsistency");
    }
}

/// When recovery's patience with some peers ends next, if that is still to come.
fn next_bound(since: Instant, now: Instant) -> Option<Instant> {
    [since + RECOVERY_WITHOUT_DOWN, since + RECOVERY].into_iter().find(|bound| *bound > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_never_wakes_for_a_bound_that_is_past() {
        let since = Instant::now();
        let seconds = |n| Duration::from_secs(n);
        assert_eq!(next_bound(since, since), Some(since + seconds(20)));
        assert_eq!(next_bound(since, since + seconds(20)), Some(since + seconds(60)));
        assert_eq!(next_bound(since, since + seconds(60)), None);
    }
}
