//! What does the thread wait for, and what does it do then?

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bgp_proto::{Families, Family};
use calico_netlink::{Event, Monitor, NextHop, Route, RouteFilter, RouteTable, Socket, TABLE_MAIN};
use ipnet::IpNet;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::dependents::Dependents;
use super::report::Counts;
use super::told::Told;
use super::write::{RETRY, Refused, Statics};
use super::{Command, KernelRoutes, Outlets, PROTOCOL};
use crate::fib::Fib;

/// Felix's protocol number: its routes show that this is no boot.
const FELIX: u8 = 80;
/// How often everything is looked at though nothing was told.
const AUDIT: Duration = Duration::from_secs(90);

pub(super) struct Kernel {
    pub(super) socket: Socket,
    monitor: Option<AsyncFd<Monitor>>,
    pub(super) table: RouteTable,
    /// The links that are tunnels.
    pub(super) tunnels: Arc<RwLock<BTreeSet<u32>>>,
    pub(super) fib: Fib,
    pub(super) dependents: Dependents,
    pub(super) statics: Statics,
    /// What peers have withdrawn, until the changes that follow from it are told.
    withdrawn: BTreeSet<IpNet>,
    /// Everything is to be read and judged again.
    pub(super) stale: bool,
    retry: Option<Instant>,
    pause: Duration,
    pub(super) error: Option<String>,
    pub(super) counts: Counts,
    pub(super) refused: Refused,
    pub(super) told: Told,
    /// What waits for the speaker to listen.
    outgoing: Option<KernelRoutes>,
    preserved: Families,
    pub(super) outlets: Outlets,
}

impl Kernel {
    pub(super) fn open(outlets: Outlets) -> anyhow::Result<Self> {
        let filter = RouteFilter { ipv4: None, table: Some(TABLE_MAIN), protocol: Some(PROTOCOL) };
        let tunnels = Arc::new(RwLock::new(BTreeSet::new()));
        let claimable = tunnels.clone();
        let mut kernel = Self {
            socket: Socket::open()?,
            monitor: Some(open_monitor()?),
            table: RouteTable::new(is_ours)
                .with_filter(filter)
                .claiming_places_of(move |route| takes(route, &claimable)),
            tunnels,
            fib: Fib::default(),
            dependents: Dependents::default(),
            statics: Statics::default(),
            withdrawn: BTreeSet::new(),
            stale: true,
            retry: None,
            pause: RETRY.0,
            error: None,
            counts: Counts::default(),
            refused: Refused::default(),
            told: Told::default(),
            outgoing: None,
            preserved: Families::NONE,
            outlets,
        };
        let of_cluster = |route: &&Route| [PROTOCOL, FELIX].contains(&route.protocol);
        let routes = kernel.read_all()?;
        kernel.preserved = routes.iter().filter(of_cluster).map(|route| Family::of(route.destination.addr())).collect();
        info!(adopted = kernel.table.actual().count(), "kernel routes of protocol 12 found");
        Ok(kernel)
    }

    pub(super) fn preserved(&self) -> Families {
        self.preserved
    }

    pub(super) async fn run(&mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut audit = Instant::now() + AUDIT;
        let mut commands = Vec::new();
        let routes = self.outlets.routes.clone();
        loop {
            self.pass();
            if self.outgoing.is_none() {
                self.outgoing = self.told.take(self.fib.image());
            }
            let again = self.retry.or_else(|| self.refused.next());
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
                permit = routes.reserve(), if self.outgoing.is_some() => {
                    let Ok(permit) = permit else { return };
                    permit.send(self.outgoing.take().unwrap_or_default());
                    Vec::new()
                }
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
            Command::Learned(changes) => {
                for (prefix, learned) in changes {
                    let new = learned.as_ref().map(|learned| learned.depends_on(&prefix)).unwrap_or_default();
                    let gone = learned.is_none();
                    let old = self.fib.learn(prefix, learned);
                    let before = old.as_ref().map(|entry| entry.learned.depends_on(&prefix)).unwrap_or_default();
                    self.dependents.exchange(prefix, &before, &new);
                    self.dependents.touch(&prefix);
                    if gone {
                        self.table.cease_to_leave(&prefix);
                    }
                    if let Some(old) = old.filter(|_| gone) {
                        self.withdraw(&prefix, old.verdict.as_ref());
                        if self.withdrawn.contains(&prefix) {
                            self.release(&prefix, old.verdict.as_ref());
                        }
                    }
                }
                self.withdrawn.clear();
            }
            Command::Withdrawn(prefixes) => self.withdrawn.extend(prefixes),
            Command::NextHops(changes) => {
                changes.into_iter().for_each(|(next_hop, used)| self.dependents.watch(next_hop, used));
            }
            Command::Ownership(ownership) if ownership != *self.fib.ownership() => {
                let ignored = ownership.ignored_interfaces != self.fib.ownership().ignored_interfaces;
                match self.fib.set_ownership(ownership) {
                    Some(changed) => changed.iter().for_each(|prefix| self.dependents.touch(prefix)),
                    None => self.dependents.touch_all(self.fib.learned().keys()),
                }
                if ignored {
                    self.told.mark_all(self.fib.image());
                    self.statics.look_again();
                }
            }
            Command::Ownership(_) => {}
            Command::Statics(statics) => {
                self.fib.set_statics(statics).iter().for_each(|prefix| self.dependents.touch(prefix));
                self.statics.look_again();
            }
            Command::Interest(interest) => self.told.set_interest(interest, self.fib.image()),
            Command::Sweep => self.table.set_sweep(true),
            Command::Complete(mut report, answer) => {
                self.complete(&mut report);
                let _ = answer.send(*report); // the client may be gone
            }
        }
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

/// Whether a route is one that felix leaves to us: to another node. To a workload there is no gateway and no tunnel.
fn takes(route: &Route, tunnels: &RwLock<BTreeSet<u32>>) -> bool {
    let tunnels = tunnels.read().unwrap_or_else(PoisonError::into_inner);
    let leads_away = |hop: &NextHop| hop.gateway.is_some() || hop.interface.is_some_and(|link| tunnels.contains(&link));
    route.protocol == FELIX && !route.next_hops.is_empty() && route.next_hops.iter().all(leads_away)
}

pub(super) fn is_ours(route: &Route) -> bool {
    route.table == TABLE_MAIN && route.protocol == PROTOCOL
}
