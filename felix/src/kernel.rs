//! The task that owns the calculation and the kernel: takes updates, orders and notifications, and applies.

use std::os::fd::OwnedFd;
use std::time::Duration;

use calico_agent::Attached;
use calico_api::{Key, WorkloadEndpoint};
use calico_daemon::Reporter;
use felix_calc::{Calc, Change, Claim, Notice, Update};
use felix_dataplane::Dataplane;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::{error, info, info_span, warn};

use crate::metrics::Metrics;
use crate::state::State;
use crate::status_files::{self, StatusFiles};

/// The most updates taken in before the kernel is looked after again.
const BATCH: usize = 100;

/// How often health is reported; well within what the probes allow.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long after a failed apply the next one comes.
const RETRY: Duration = Duration::from_secs(1);

/// What the agent wants done at once.
pub(crate) enum Order {
    /// Connect a workload whose interface was just made.
    Attach {
        /// It.
        endpoint: Box<WorkloadEndpoint>,
        /// What the plugin made.
        attached: Attached,
        /// Told when packets flow, or why they do not.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Disconnect a workload.
    Detach {
        /// Its endpoint.
        key: Key,
        /// The container that is gone; the endpoint of another is left alone.
        container: String,
        /// Told when its routes are gone.
        done: oneshot::Sender<()>,
    },
    /// Disconnect a workload and switch its interface off for good, for it to be removed later.
    Dismiss {
        /// Its endpoint.
        key: Key,
        /// The container that goes; the interface of another is left alone.
        container: String,
        /// Told when nothing of it reaches the node any more; false if no interface is known to be the container's.
        done: oneshot::Sender<bool>,
    },
}

/// Who hears how it is going.
pub(crate) struct Reporters {
    /// Whether the store's contents are known.
    pub(crate) calculation: Reporter,
    /// Whether the kernel is as it should be.
    pub(crate) dataplane: Reporter,
}

/// The task's state.
pub(crate) struct Kernel {
    calc: Calc,
    dataplane: Dataplane,
    notifications: AsyncFd<OwnedFd>,
    /// Which of the dataplane's descriptors that is.
    generation: u64,
    state: watch::Sender<State>,
    metrics: Metrics,
    reporters: Reporters,
    files: StatusFiles,
    /// The workloads that are connected may be others than the files say.
    files_due: bool,
    throttle: Throttle,
    /// Since when something failed, and what.
    failing: Option<String>,
    /// Not before then: the kernel refused something, or others rewrite what we write.
    not_before: Option<Instant>,
    started: Instant,
}

impl Kernel {
    /// A task's state around a calculation and a dataplane.
    ///
    /// # Errors
    /// If the kernel's notifications cannot be waited for.
    pub(crate) fn new(
        calc: Calc,
        dataplane: Dataplane,
        state: watch::Sender<State>,
        metrics: Metrics,
        reporters: Reporters,
        files: StatusFiles,
    ) -> std::io::Result<Self> {
        metrics.resync_state.set(2);
        Ok(Self {
            calc,
            notifications: watched(&dataplane)?,
            generation: dataplane.generation(),
            dataplane,
            state,
            metrics,
            reporters,
            files,
            files_due: false,
            throttle: Throttle::new(Instant::now()),
            failing: None,
            not_before: None,
            started: Instant::now(),
        })
    }

    /// Serves until a channel closes. `audit` is how often everything is looked at, in case a notification was missed.
    pub(crate) async fn run(
        mut self,
        mut updates: mpsc::Receiver<Update>,
        mut orders: mpsc::Receiver<Order>,
        audit: Option<Duration>,
    ) {
        let mut heartbeat = interval_at(Instant::now(), HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let never = Duration::from_secs(u32::MAX.into());
        let period = audit.unwrap_or(never);
        let mut audits = interval_at(Instant::now() + period, period);
        audits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let later = self.not_before.unwrap_or_else(|| Instant::now() + never);
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => {
                        self.obey(order);
                        // Who ordered it hears of it first.
                        tokio::task::yield_now().await;
                    }
                    None => return,
                },
                update = updates.recv() => match update {
                    Some(update) => {
                        self.learn(update);
                        for _ in 1..BATCH {
                            let Ok(update) = updates.try_recv() else { break };
                            self.learn(update);
                        }
                    }
                    None => return,
                },
                ready = self.notifications.readable() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                    self.notice();
                }
                _ = audits.tick() => {
                    self.dataplane.resync();
                    self.files.reread();
                    // Only a watch that works can have confirmed what the agent said.
                    if self.state.borrow().trouble.is_none() {
                        let changes = self.calc.age();
                        self.desire(changes);
                    }
                }
                _ = heartbeat.tick() => {
                    self.files_due |= self.files.is_failing();
                    self.report();
                }
                () = sleep_until(later), if self.not_before.is_some() => self.not_before = None,
            }
            self.apply();
            self.follow();
            self.write_files();
        }
    }

    fn learn(&mut self, update: Update) {
        let kind = match &update {
            Update::Endpoint(_) => "WorkloadEndpoint",
            Update::Block(_) => "IPAMBlock",
            Update::Peer(_) => "BGPPeer",
            Update::Configuration(_) => "BGPConfiguration",
            Update::Node(_) => "Node",
            Update::Pool(_) => "IPPool",
            Update::Subnets(_) => "subnets",
            Update::Profile(_) => "Profile",
            Update::ProfilesInSync => "profiles in sync",
            Update::ProfilesUnwatched => "profiles unwatched",
            Update::Deleted(_) => "deletion",
            Update::Fault { .. } => "fault",
            Update::InSync => "in sync",
        };
        self.metrics.calc_updates.with_label_values(&[kind]).inc();
        let changes = self.calc.update(update);
        self.desire(changes);
        let needed = self.calc.needs_profiles();
        self.state.send_if_modified(|state| std::mem::replace(&mut state.needs_profiles, needed) != needed);
    }

    fn desire(&mut self, changes: Vec<Change>) {
        for change in changes {
            match &change {
                Change::Ignored { key, reason } => {
                    let name = key.as_ref().map(ToString::to_string);
                    error!(name, %reason, "resource is not used, its last good version stays in force");
                }
                Change::Notice(notice) => tell(notice),
                _ => {}
            }
            self.dataplane.change(change);
        }
        self.metrics.active_local_endpoints.set(self.calc.local_endpoints().try_into().unwrap_or(i64::MAX));
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Attach { endpoint, attached, done } => {
                let key = endpoint.key();
                let interface = endpoint.spec.interface_name.clone();
                // A plugin that is late must not claim the interface that its successor made.
                let outcome = self.dataplane.find(&interface, attached.host_index).and_then(|link| {
                    let changes = self.calc.claim(&key, Claim::Present(endpoint));
                    self.desire(changes);
                    self.notice(); // what the plugin just made
                    self.files_due = true;
                    self.dataplane.attach_found(&key, &link)
                });
                let _ = done.send(outcome.map_err(|error| error.to_string()));
            }
            Order::Dismiss { key, container, done } => {
                let _ = done.send(self.dismiss(&key, container));
            }
            Order::Detach { key, container, done } => {
                let changes = self.calc.claim(&key, Claim::Gone { container });
                self.desire(changes);
                self.write();
                self.write_files();
                let _ = done.send(());
            }
        }
    }

    fn dismiss(&mut self, key: &Key, container: String) -> bool {
        let Some(name) = self.calc.interface_of(key, &container).map(str::to_owned) else { return false };
        if let Err(error) = self.dataplane.dismiss(&name) {
            warn!(interface = name, %error, "an interface cannot be switched off, the plugin has to remove it");
            return false;
        }
        let changes = self.calc.claim(key, Claim::Gone { container });
        self.desire(changes);
        self.write();
        self.write_files();
        true
    }

    fn notice(&mut self) {
        if let Err(error) = self.dataplane.notice() {
            warn!(%error, "notifications of the kernel were lost, everything is looked at");
        }
    }

    /// Waits for the notifications of another descriptor if the dataplane has replaced it.
    fn follow(&mut self) {
        let generation = self.dataplane.generation();
        if std::mem::replace(&mut self.generation, generation) == generation {
            return;
        }
        match watched(&self.dataplane) {
            Ok(notifications) => self.notifications = notifications,
            Err(error) => error!(%error, "notifications of the kernel cannot be waited for, only audits are left"),
        }
    }

    /// Applies if something is due, unless it was just tried in vain or is tried too often.
    fn apply(&mut self) {
        if !self.dataplane.is_due() || self.not_before.is_some() {
            return;
        }
        match self.throttle.take(Instant::now()) {
            Ok(()) => self.write(),
            Err(later) => self.not_before = Some(later),
        }
    }

    fn write(&mut self) {
        let _span = info_span!("reconcile").entered();
        let start = Instant::now();
        let mut readable = true;
        self.files_due = true;
        let failure = match self.dataplane.apply() {
            Ok(applied) => {
                let text = applied.failures.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("; ");
                (!applied.failures.is_empty()).then(|| match applied.failures.len() {
                    count @ 4.. => format!("{text}; and {} more", count - 3),
                    _ => text,
                })
            }
            Err(error) => {
                readable = false;
                Some(error.to_string())
            }
        };
        self.metrics.apply_time.observe(start.elapsed().as_secs_f64());
        self.metrics.routes.set(self.dataplane.route_count().try_into().unwrap_or(i64::MAX));
        self.metrics.interfaces.set(self.dataplane.interface_count().try_into().unwrap_or(i64::MAX));
        if let Some(failures) = &failure {
            self.metrics.apply_failures.inc();
            self.not_before = Some(Instant::now() + RETRY);
            if self.failing.as_ref() != Some(failures) {
                warn!(failures, again_in = ?RETRY, "the kernel is not as desired");
            }
        } else if self.failing.is_some() {
            info!("the kernel is as desired again");
        }
        self.failing = failure;
        // Departs from Calico, which waits for an apply without any failure: one object that the kernel refuses must
        // not keep all other pods waiting.
        if readable && self.calc.is_in_sync() && !self.state.borrow().in_sync {
            let seconds = self.started.elapsed().as_secs_f64();
            self.metrics.initial_resync_time.set(seconds);
            self.metrics.resync_state.set(3);
            info!(
                endpoints = self.calc.local_endpoints(),
                routes = self.dataplane.route_count(),
                seconds,
                "in sync, pods are served"
            );
            self.state.send_modify(|state| state.in_sync = true);
            self.report();
        }
    }

    /// Makes the endpoint status files those of the workloads that are connected, if these may have changed.
    fn write_files(&mut self) {
        if !self.files_due || !self.calc.are_peers_known() {
            return;
        }
        self.files_due = false;
        let connected = self.dataplane.connected().map(|(name, interface)| status_files::of(name, interface));
        self.files.make(connected.collect());
    }

    fn report(&self) {
        let state = self.state.borrow();
        let known = self.calc.is_in_sync();
        self.reporters.calculation.report(
            true,
            known,
            match (&state.trouble, known) {
                (Some(trouble), true) => format!("in sync, but the datastore does not answer: {trouble}"),
                (Some(trouble), false) => format!("the datastore does not answer: {trouble}"),
                (None, true) => "in sync".to_owned(),
                (None, false) => "reading the datastore".to_owned(),
            },
        );
        // Ready is that everything was tried once: what cannot be programmed must not take the whole node out of service.
        self.reporters.dataplane.report(
            true,
            state.in_sync,
            match &self.failing {
                Some(failures) => failures.clone(),
                None if state.in_sync => "as desired".to_owned(),
                None => "waiting to be in sync".to_owned(),
            },
        );
    }
}

/// Tells the operator.
fn tell(notice: &Notice) {
    match notice {
        Notice::NoPeeringAddress { peer, field } => warn!(
            bgp_peer = peer,
            lacks = field,
            "localWorkloadSelector selects workloads of this node, but there is no address of the node for them to dial; \
             set it in BGPConfiguration default"
        ),
        Notice::Overlap { endpoint, peer, suppressed } => warn!(
            %endpoint,
            bgp_peer = peer,
            not_used = ?suppressed,
            "several BGPPeers select one workload, the lexically first is used; narrow a localWorkloadSelector"
        ),
        other => warn!(object = other.object(), notice = %other, "the cluster's network is not configured as it should be"),
    }
}

/// A descriptor of the kernel's notifications, to be waited for; closed with the value, and never before.
#[expect(
    deprecated,
    reason = "the constructor that replaces it is unsafe, for types that do not own their descriptor; OwnedFd does"
)]
fn watched(dataplane: &Dataplane) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(dataplane.notifications().try_clone_to_owned()?)
}

/// Ten applies at once, then ten a second (reference felix.md §1.5): somebody who undoes each of our writes at once
/// must not keep a processor busy.
#[derive(Debug)]
struct Throttle {
    tokens: u32,
    last: Instant,
}

impl Throttle {
    const BURST: u32 = 10;
    const PERIOD: Duration = Duration::from_millis(100);

    fn new(now: Instant) -> Self {
        Self { tokens: Self::BURST, last: now }
    }

    /// Takes a token, or says when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.tokens < Self::BURST && self.last + Self::PERIOD <= now {
            self.last += Self::PERIOD;
            self.tokens += 1;
        }
        if self.tokens == Self::BURST {
            self.last = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(self.last + Self::PERIOD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_throttle_lets_a_burst_through_and_then_ten_a_second() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        for _ in 0..Throttle::BURST {
            assert_eq!(throttle.take(start), Ok(()));
        }
        let next = start + Throttle::PERIOD;
        assert_eq!(throttle.take(start), Err(next));
        assert_eq!(throttle.take(next), Ok(()));
        assert_eq!(throttle.take(next), Err(next + Throttle::PERIOD));
        let much_later = next + Duration::from_secs(3600);
        let taken = (0..100).filter(|_| throttle.take(much_later).is_ok()).count();
        assert_eq!(taken, Throttle::BURST as usize);
    }
}
