//! How do learned prefixes become kernel routes? A thread that alone talks netlink.
//!
//! Ours are the routes of the main table with protocol 12. The thread keeps an image of everybody else's routes, links
//! and addresses ([`Fib`]), judges each learned prefix by it again when something changes that may matter, and lets
//! [`RouteTable`] write the difference. Nothing is removed before [`Command::Sweep`]; at the end everything stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bgp_proto::{Families, Family};
use calico_netlink::{
    Event, Monitor, NextHop, Route, RouteFilter, RouteKey, RouteKind, RouteTable, Socket, TABLE_MAIN,
};
use ipnet::IpNet;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::fib::{Fib, Foreign, Hop, Learned, Ownership, Verdict};
use crate::status::{KernelStatus, Report, Via};

/// The protocol number of BIRD, which marks routes learned by BGP.
pub const PROTOCOL: u8 = 12;
/// Felix's protocol number: its routes show that this is no boot.
const FELIX: u8 = 80;
/// How often everything is looked at though nothing was told.
const AUDIT: Duration = Duration::from_secs(90);
/// The pauses after failures: from the first, doubling, to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Most repeated warnings about single routes in one pass.
const WARNINGS: usize = 5;

/// What the speaker tells the kernel's thread.
#[derive(Debug)]
pub enum Command {
    /// The best paths of these prefixes changed; `None` is none.
    Learned(Vec<(IpNet, Option<Learned>)>),
    /// These next hops are to be looked up and watched (`true`), or no longer.
    NextHops(Vec<(IpAddr, bool)>),
    /// Pools, blocks or priorities changed.
    Ownership(Ownership),
    /// From now on routes that nobody wants may be removed: datastore and peers have spoken.
    Sweep,
    /// Fill in how the kernel sees the paths, and answer.
    Complete(Box<Report>, oneshot::Sender<Report>),
}

/// The watched next hops and how far they are: 0 on a connected link, 1 beyond a router, `None` unreachable.
pub type Reachable = BTreeMap<IpAddr, Option<u32>>;

/// The speaker's end.
#[derive(Debug)]
pub struct Handle {
    /// Commands, in order.
    pub commands: mpsc::Sender<Command>,
    /// How the kernel's side is.
    pub status: watch::Receiver<KernelStatus>,
    /// Which next hops lead anywhere.
    pub reachable: watch::Receiver<Reachable>,
    /// Families whose cluster routes were in the kernel at the start: this is no boot, so forwarding has gone on.
    pub preserved: Families,
}

impl Handle {
    /// Whether the thread has found out something about next hops that was not taken yet.
    pub fn unresolved(&self) -> bool {
        self.reachable.has_changed().unwrap_or(false)
    }
}

/// Starts the thread.
///
/// # Errors
/// If netlink cannot be opened or read, or there is no thread to be had.
pub fn start() -> io::Result<Handle> {
    let (commands, inbox) = mpsc::channel(16);
    let (status_sender, status) = watch::channel(KernelStatus::default());
    let (reachable_sender, reachable) = watch::channel(Reachable::default());
    let (ready, opened) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("kernel".to_owned()).stack_size(512 * 1024).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async move {
            let mut kernel = match Kernel::open(status_sender, reachable_sender) {
                Ok(kernel) => kernel,
                Err(error) => return drop(ready.send(Err(io::Error::other(format!("{error:#}"))))),
            };
            let _ = ready.send(Ok(kernel.preserved));
            kernel.run(inbox).await;
        });
    })?;
    let opened = opened.recv().unwrap_or_else(|_| Err(io::Error::other("the kernel's thread ended at its start")));
    opened.map(|preserved| Handle { commands, status, reachable, preserved })
}

struct Kernel {
    socket: Socket,
    monitor: Option<AsyncFd<Monitor>>,
    table: RouteTable,
    fib: Fib,
    ownership: Ownership,
    learned: BTreeMap<IpNet, Entry>,
    /// Next hop to the installed or held back prefixes that have it.
    users: HashMap<IpAddr, BTreeSet<IpNet>>,
    /// Next hops that the RIB has paths of.
    watched: BTreeSet<IpAddr>,
    /// Prefixes to be judged again.
    dirty: BTreeSet<IpNet>,
    /// Next hops whose reachability is to be told again.
    hops: BTreeSet<IpAddr>,
    /// Everything is to be read and judged again.
    stale: bool,
    retry: Option<Instant>,
    pause: Duration,
    error: Option<String>,
    counts: Counts,
    /// Routes that the kernel refused: each waits for its own time, and no other waits for it.
    refused: BTreeMap<RouteKey, Refusal>,
    preserved: Families,
    status: watch::Sender<KernelStatus>,
    reachable: watch::Sender<Reachable>,
}

#[derive(Debug)]
struct Entry {
    learned: Learned,
    verdict: Option<Verdict>,
}

/// What the kernel said against a route.
#[derive(Debug)]
struct Refusal {
    error: String,
    again: Instant,
    pause: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    installed: usize,
    held_back: usize,
    elsewhere: usize,
}

impl Counts {
    fn of(&mut self, verdict: Option<&Verdict>) -> Option<&mut usize> {
        match verdict? {
            Verdict::Install { .. } => Some(&mut self.installed),
            Verdict::HeldBack(_) => Some(&mut self.held_back),
            Verdict::Elsewhere(_) => Some(&mut self.elsewhere),
        }
    }
}

impl Kernel {
    fn open(status: watch::Sender<KernelStatus>, reachable: watch::Sender<Reachable>) -> anyhow::Result<Self> {
        let filter = RouteFilter { ipv4: None, table: Some(TABLE_MAIN), protocol: Some(PROTOCOL) };
        let mut kernel = Self {
            socket: Socket::open()?,
            monitor: Some(open_monitor()?),
            table: RouteTable::new(is_ours).with_filter(filter),
            fib: Fib::default(),
            ownership: Ownership { pools: Vec::new(), blocks: BTreeSet::new(), normal_v4: 1024, normal_v6: 1024 },
            learned: BTreeMap::new(),
            users: HashMap::new(),
            watched: BTreeSet::new(),
            preserved: Families::NONE,
            dirty: BTreeSet::new(),
            hops: BTreeSet::new(),
            stale: true,
            retry: None,
            pause: RETRY.0,
            error: None,
            counts: Counts::default(),
            refused: BTreeMap::new(),
            status,
            reachable,
        };
        kernel.read_all()?;
        let filter = RouteFilter { ipv4: None, table: Some(TABLE_MAIN), protocol: None };
        let routes = kernel.socket.routes(&filter)?;
        let of_cluster = routes.iter().filter(|route| [PROTOCOL, FELIX].contains(&route.protocol));
        kernel.preserved = of_cluster.map(|route| Family::of(route.destination.addr())).collect();
        info!(adopted = kernel.table.actual().count(), "kernel routes of protocol 12 found");
        Ok(kernel)
    }

    async fn run(&mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut audit = Instant::now() + AUDIT;
        let mut commands = Vec::new();
        loop {
            self.pass();
            let again = self.retry.or_else(|| self.refused.values().map(|refusal| refusal.again).min());
            let wake = again.map_or(audit, |again| again.min(audit));
            commands.clear();
            let events = tokio::select! {
                received = inbox.recv_many(&mut commands, 16) => {
                    if received == 0 {
                        return; // the speaker is gone; its routes stay
                    }
                    Vec::new()
                }
                events = notified(self.monitor.as_mut()) => events,
                () = sleep_until(wake) => Vec::new(),
            };
            commands.drain(..).for_each(|command| self.command(command));
            self.events(events);
            if Instant::now() >= audit {
                audit = Instant::now() + AUDIT;
                self.stale = true;
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Learned(changes) => changes.into_iter().for_each(|(prefix, learned)| self.learn(prefix, learned)),
            Command::NextHops(changes) => {
                for (next_hop, used) in changes {
                    if used {
                        self.watched.insert(next_hop)
                    } else {
                        self.watched.remove(&next_hop)
                    };
                    self.hops.insert(next_hop);
                }
            }
            Command::Ownership(ownership) if ownership != self.ownership => {
                self.ownership = ownership;
                self.dirty.extend(self.learned.keys());
            }
            Command::Ownership(_) => {}
            Command::Sweep => self.table.set_sweep(true),
            Command::Complete(mut report, answer) => {
                self.complete(&mut report);
                let _ = answer.send(*report); // the client may be gone
            }
        }
    }

    fn learn(&mut self, prefix: IpNet, learned: Option<Learned>) {
        self.dirty.insert(prefix);
        let before = match learned {
            Some(learned) => {
                for hop in &learned.next_hops {
                    self.users.entry(*hop).or_default().insert(prefix);
                }
                let verdict = self.learned.get_mut(&prefix).and_then(|entry| entry.verdict.take());
                let hops = learned.next_hops.clone();
                let before = self.learned.insert(prefix, Entry { learned, verdict });
                before.map(|entry| (entry.learned.next_hops, hops))
            }
            None => self.learned.remove(&prefix).map(|entry| {
                self.withdraw(&prefix, entry.verdict.as_ref());
                (entry.learned.next_hops, Vec::new())
            }),
        };
        let Some((before, after)) = before else { return };
        for hop in before.into_iter().filter(|hop| !after.contains(hop)) {
            if let Some(users) = self.users.get_mut(&hop) {
                users.remove(&prefix);
                if users.is_empty() {
                    self.users.remove(&hop);
                }
            }
        }
    }

    /// Forgets a verdict and the route that it stood for.
    fn withdraw(&mut self, prefix: &IpNet, verdict: Option<&Verdict>) {
        if let Some(Verdict::Install { metric, .. }) = verdict {
            let key = key(prefix, *metric);
            self.table.unwant(&key);
            self.refused.remove(&key);
        }
        if let Some(count) = self.counts.of(verdict) {
            *count = count.saturating_sub(1);
        }
    }

    fn events(&mut self, events: Vec<Event>) {
        for event in events {
            self.table.notice(&event);
            match event {
                Event::Link(link) => {
                    if !link.up {
                        self.link_down(link.index);
                    }
                    self.fib.link(link.index, Some(link.name));
                }
                Event::LinkGone(link) => {
                    self.link_down(link.index);
                    self.fib.link(link.index, None);
                }
                Event::Address(address) => {
                    let own = address.network.addr();
                    if self.fib.address(own, address.index, true) {
                        self.touch(&IpNet::from(own));
                    }
                }
                Event::AddressGone(address) => {
                    let own = address.network.addr();
                    if self.fib.address(own, address.index, false) {
                        self.touch(&IpNet::from(own));
                        // The kernel drops the IPv4 routes that had it as their source without a word.
                        self.stale |= own.is_ipv4();
                    }
                }
                Event::Route(route) => {
                    let Some(foreign) = foreign(&route) else { continue };
                    let metric = foreign.metric;
                    if self.fib.route(route.destination, foreign, true) {
                        // Whether it took the place of the other of its key or stands beside it, only the kernel knows.
                        let same = |other: &&Foreign| other.metric == metric;
                        self.stale |= self.fib.exact(&route.destination).iter().filter(same).count() > 1;
                        self.touch(&route.destination);
                    }
                }
                Event::RouteGone(route) => {
                    if let Some(foreign) = foreign(&route)
                        && self.fib.route(route.destination, foreign, false)
                    {
                        self.touch(&route.destination);
                    }
                }
                Event::Overrun => self.stale = true,
            }
        }
    }

    /// The kernel drops the IPv4 routes of a link that is switched off or removed without a word.
    fn link_down(&mut self, index: u32) {
        for prefix in self.fib.link_down(index) {
            self.touch(&prefix);
        }
    }

    /// Judges again what a change of a route for `prefix` may matter to.
    fn touch(&mut self, prefix: &IpNet) {
        if self.learned.contains_key(prefix) {
            self.dirty.insert(*prefix);
        }
        for (_, users) in self.users.iter().filter(|(hop, _)| prefix.contains(*hop)) {
            self.dirty.extend(users);
        }
        self.hops.extend(self.watched.iter().filter(|hop| prefix.contains(*hop)));
    }

    /// Reads everything anew.
    fn read_all(&mut self) -> calico_netlink::Result<()> {
        let mut fib = Fib::default();
        for link in self.socket.links()? {
            fib.link(link.index, Some(link.name));
        }
        for address in self.socket.addresses()? {
            fib.address(address.network.addr(), address.index, true);
        }
        let filter = RouteFilter { ipv4: None, table: Some(TABLE_MAIN), protocol: None };
        for route in self.socket.routes(&filter)? {
            if let Some(foreign) = foreign(&route) {
                fib.route(route.destination, foreign, true);
            }
        }
        self.table.resync(&mut self.socket)?;
        self.fib = fib;
        self.stale = false;
        self.dirty.extend(self.learned.keys());
        self.hops.extend(&self.watched);
        Ok(())
    }

    /// Brings the kernel to what is desired, as far as it lets us.
    fn pass(&mut self) {
        let mut failure = None;
        if self.monitor.is_none() {
            match open_monitor() {
                Ok(monitor) => (self.monitor, self.stale) = (Some(monitor), true),
                Err(error) => failure = Some(format!("cannot watch the kernel: {error}")),
            }
        }
        if (self.stale || self.table.needs_resync())
            && let Err(error) = self.read_all()
        {
            failure = Some(format!("cannot read the kernel's routes: {error}"));
        }
        self.judge();
        if failure.is_none() {
            self.write();
        }
        match &failure {
            None => (self.retry, self.pause) = (None, RETRY.0),
            Some(_) if self.retry.is_some_and(|retry| retry > Instant::now()) => {}
            Some(error) => {
                if self.error.as_ref() != Some(error) {
                    warn!(%error, "kernel is not as it should be");
                }
                self.retry = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(RETRY.1);
            }
        }
        self.error = failure;
        self.publish();
    }

    /// Writes what differs, but for what the kernel refused a short while ago.
    fn write(&mut self) {
        let now = Instant::now();
        let refused = std::mem::take(&mut self.refused).into_iter();
        let (mut due, held): (BTreeMap<_, _>, _) = refused.partition(|(_, refusal)| refusal.again <= now);
        self.refused = held;
        self.table.set_held(self.refused.keys().copied().collect());
        if self.table.in_sync() {
            return;
        }
        for (key, error) in self.table.apply(&mut self.socket) {
            let before = due.remove(&key);
            if before.is_none() && self.refused.len() < WARNINGS {
                warn!(prefix = %key.destination, %error, "kernel refuses a route; it is tried again");
            }
            let pause = before.map_or(RETRY.0, |refusal| (refusal.pause * 2).min(RETRY.1));
            self.refused.insert(key, Refusal { error: error.to_string(), again: now + pause, pause });
        }
        self.table.set_held(self.refused.keys().copied().collect());
    }

    fn judge(&mut self) {
        for prefix in std::mem::take(&mut self.dirty) {
            let Some(entry) = self.learned.get_mut(&prefix) else { continue };
            let verdict = self.fib.judge(&prefix, &entry.learned, &self.ownership);
            let before = entry.verdict.replace(verdict.clone());
            if before.as_ref() == Some(&verdict) {
                continue;
            }
            if let Verdict::Install { hops, metric } = &verdict {
                let route = route(&prefix, hops, *metric);
                self.refused.remove(&route.key()); // another route may be accepted
                self.table.want(route);
            }
            if let Verdict::HeldBack(reason) = &verdict {
                debug!(%prefix, next_hops = ?entry.learned.next_hops, %reason, "route held back");
            }
            if let Some(count) = self.counts.of(Some(&verdict)) {
                *count += 1;
            }
            let same_key = |verdict: &Verdict| match (&before, verdict) {
                (Some(Verdict::Install { metric, .. }), Verdict::Install { metric: new, .. }) => metric == new,
                _ => false,
            };
            if same_key(&verdict) {
                self.counts.installed = self.counts.installed.saturating_sub(1); // it was counted already
            } else {
                self.withdraw(&prefix, before.as_ref());
            }
        }
    }

    fn publish(&mut self) {
        // One route that is refused is that route's trouble; that none is accepted is ours.
        let none_accepted = self.refused.len() > 1 && self.refused.len() >= self.counts.installed;
        let refusal = self.refused.values().next().map(|refusal| refusal.error.clone());
        let status = KernelStatus {
            installed: self.counts.installed,
            held_back: self.counts.held_back,
            elsewhere: self.counts.elsewhere,
            refused: self.refused.len(),
            in_sync: self.error.is_none() && self.table.in_sync() && !none_accepted,
            error: self.error.clone().or(refusal),
        };
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
        let hops = std::mem::take(&mut self.hops);
        if hops.is_empty() {
            return;
        }
        let (fib, watched) = (&self.fib, &self.watched);
        let distance = |hop: IpAddr| fib.resolve(hop).ok().map(|via| u32::from(via.gateway != hop));
        self.reachable.send_if_modified(|known| {
            let mut changed = false;
            for hop in hops {
                let now = watched.contains(&hop).then(|| distance(hop));
                changed |= match now {
                    Some(now) => known.insert(hop, now) != Some(now),
                    None => known.remove(&hop).is_some(),
                };
            }
            changed
        });
    }

    fn complete(&self, report: &mut Report) {
        for path in &mut report.paths {
            let Some(next_hop) = path.next_hop else { continue };
            path.via = self
                .fib
                .resolve(next_hop)
                .ok()
                .map(|hop| Via { gateway: hop.gateway, interface: self.fib.link_name(hop.interface) });
            let verdict = self.learned.get(&path.prefix).and_then(|entry| entry.verdict.as_ref());
            path.installed = path.best && matches!(verdict, Some(Verdict::Install { .. }));
        }
    }
}

#[expect(deprecated, reason = "its successor is unsafe; a Monitor owns its descriptor for as long as it lives")]
fn open_monitor() -> io::Result<AsyncFd<Monitor>> {
    AsyncFd::new(Monitor::open().map_err(io::Error::other)?)
}

/// Waits for changes in the kernel; for ever, if nobody watches.
async fn notified(monitor: Option<&mut AsyncFd<Monitor>>) -> Vec<Event> {
    let Some(monitor) = monitor else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = monitor.readable_mut().await else { return vec![Event::Overrun] };
        let events = ready.get_inner_mut().receive();
        ready.clear_ready();
        match events {
            Ok(events) if events.is_empty() => {}
            Ok(events) => return events,
            Err(error) => {
                warn!(%error, "kernel's changes were lost");
                return vec![Event::Overrun];
            }
        }
    }
}

fn is_ours(route: &Route) -> bool {
    route.table == TABLE_MAIN && route.protocol == PROTOCOL
}

fn is_foreign(route: &Route) -> bool {
    route.table == TABLE_MAIN && !is_ours(route)
}

/// What others' route tells the FIB; `None` for ours and for those of other tables.
fn foreign(route: &Route) -> Option<Foreign> {
    // Link-local networks are on every interface alike, and no route resolves through them.
    let link_local = matches!(route.destination, IpNet::V6(net) if net.addr().is_unicast_link_local());
    if !is_foreign(route) || link_local {
        return None;
    }
    let hop = |hop: &NextHop| NextHop { weight: 1, ..*hop };
    let hops = match route.kind {
        RouteKind::Unicast => route.next_hops.iter().map(hop).collect(),
        _ => Vec::new(),
    };
    Some(Foreign { metric: route.key().metric, hops })
}

fn key(prefix: &IpNet, metric: u32) -> RouteKey {
    Route::unicast(*prefix, [], PROTOCOL).with_metric(metric).key()
}

fn route(prefix: &IpNet, hops: &[Hop], metric: u32) -> Route {
    let next_hop = |hop: &Hop| NextHop { onlink: hop.onlink, ..NextHop::via(hop.gateway).on(hop.interface) };
    let hops: Vec<_> = hops.iter().map(next_hop).collect();
    Route::unicast(*prefix, hops, PROTOCOL).with_metric(metric)
}
