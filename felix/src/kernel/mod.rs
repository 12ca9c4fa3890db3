//! The task that owns the calculation and the kernel: takes updates, orders and notifications, and applies.

mod devices;
mod ignored;
mod pace;
mod rules;

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use calico_agent::{Attached, Finding};
use calico_api::{Key, WorkloadEndpoint};
use calico_daemon::Reporter;
use felix_calc::{Calc, Change, Claim, Update};
use felix_dataplane::Dataplane;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::{error, info, info_span, warn};

use crate::bring_up::holds;
use crate::findings::{Findings, Source};
use crate::metrics::Metrics;
use crate::state::State;
use crate::status_files::{self, StatusFiles};
use crate::tunnels::{Devices, Tunnel};
pub(crate) use devices::Forbidden;
use devices::Wanted;
use ignored::Ignored;
use pace::Pace;
pub(crate) use rules::Rules;

/// The most updates taken in before the kernel is looked after again.
const BATCH: usize = 100;

/// How often health is reported; well within what the probes allow.
const HEARTBEAT: Duration = Duration::from_secs(5);

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
    /// Have an address on a tunnel device that is about to be announced.
    Address {
        /// The device.
        tunnel: Tunnel,
        /// The address.
        address: IpAddr,
        /// Told when the device has it, or why it has not.
        done: oneshot::Sender<Result<(), String>>,
    },
}

/// Who hears how it is going.
pub(crate) struct Reporters {
    /// Whether the store's contents are known.
    pub(crate) calculation: Reporter,
    /// Whether the kernel is as it should be.
    pub(crate) dataplane: Reporter,
}

/// Whom the task tells of what it does.
pub(crate) struct Surroundings {
    /// All.
    pub(crate) state: watch::Sender<State>,
    /// Who gives tunnel devices their addresses.
    pub(crate) devices: watch::Sender<Devices>,
    /// The operator.
    pub(crate) findings: Findings,
    /// The tunnels that there must not be.
    pub(crate) forbidden: Forbidden,
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
    /// Of the dataplane.
    pace: Pace,
    /// Packet rules, if the kernel has such.
    rules: Option<Rules>,
    /// Who gives tunnel devices their addresses.
    devices: watch::Sender<Devices>,
    /// What is found that is not as it should be.
    findings: Findings,
    /// Perhaps there are others than were told.
    findings_due: bool,
    /// What the calculation did not take.
    ignored: Ignored,
    /// The tunnel devices that are wanted.
    tunnels: Wanted,
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
        rules: Option<Rules>,
        surroundings: Surroundings,
        metrics: Metrics,
        reporters: Reporters,
        files: StatusFiles,
    ) -> std::io::Result<Self> {
        let Surroundings { state, devices, findings, forbidden } = surroundings;
        metrics.resync_state.set(2);
        Ok(Self {
            calc,
            notifications: watched(dataplane.notifications())?,
            generation: dataplane.generation(),
            dataplane,
            state,
            metrics,
            reporters,
            files,
            files_due: false,
            pace: Pace::new("the kernel is"),
            rules,
            devices,
            findings,
            findings_due: true,
            ignored: Ignored::default(),
            tunnels: Wanted::new(forbidden),
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
            let due = self.due();
            let later = due.unwrap_or_else(|| Instant::now() + never);
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
                () = readable(self.rules.as_ref()) => self.rules.iter_mut().for_each(Rules::notice),
                _ = audits.tick() => {
                    self.dataplane.resync();
                    self.rules.iter_mut().for_each(Rules::resync);
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
                () = sleep_until(later), if due.is_some() => self.pace.rested(Instant::now()),
            }
            self.apply();
            self.follow();
            self.rules.iter_mut().for_each(Rules::follow);
            self.publish();
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
            Update::Programs(_) | Update::FelixPrograms(_) => "programClusterRoutes",
            Update::Profile(_) => "Profile",
            Update::ProfilesInSync => "profiles in sync",
            Update::ProfilesUnwatched => "profiles unwatched",
            Update::Deleted(_) => "deletion",
            Update::Fault { .. } => "fault",
            Update::InSync => "in sync",
        };
        self.metrics.calc_updates.with_label_values(&[kind]).inc();
        let key = ignored::key_of(&update);
        let changes = self.calc.update(update);
        if let Some(key) = key {
            self.ignored.learn(key, &changes);
        }
        self.desire(changes);
        let needed = self.calc.needs_profiles();
        self.state.send_if_modified(|state| std::mem::replace(&mut state.needs_profiles, needed) != needed);
    }

    fn desire(&mut self, changes: Vec<Change>) {
        // That a notice holds no more is no change.
        self.findings_due = true;
        for change in changes {
            let change = match change {
                Change::Ignored { key, reason } => {
                    let name = key.as_ref().map(ToString::to_string);
                    error!(name, %reason, "resource is not used, its last good version stays in force");
                    continue;
                }
                Change::Tunnels(tunnels) => {
                    self.tunnels.say(tunnels);
                    Change::Tunnels(self.tunnels.told())
                }
                other => other,
            };
            self.pass_on(change);
        }
        self.metrics.active_local_endpoints.set(self.calc.local_endpoints().try_into().unwrap_or(i64::MAX));
    }

    /// Tells those who write to the kernel.
    fn pass_on(&mut self, change: Change) {
        self.rules.iter_mut().for_each(|rules| rules.change(&change));
        self.dataplane.change(change);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Address { tunnel, address, done } => {
                let _ = done.send(self.set_address(tunnel, address));
            }
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

    /// Has a tunnel device have an address, and looks whether it does.
    fn set_address(&mut self, tunnel: Tunnel, address: IpAddr) -> Result<(), String> {
        if !self.tunnels.set_ahead(tunnel, address) {
            return Err("no pool wants the device any more".to_owned());
        }
        self.pass_on(Change::Tunnels(self.tunnels.told()));
        self.write();
        match holds(tunnel.device(), address) {
            Ok(true) => Ok(()),
            Ok(false) => Err("the device is not there, or the kernel did not take it".to_owned()),
            Err(error) => Err(error.to_string()),
        }
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
        match watched(self.dataplane.notifications()) {
            Ok(notifications) => self.notifications = notifications,
            Err(error) => error!(%error, "notifications of the kernel cannot be waited for, only audits are left"),
        }
    }

    /// When something is to be done though nothing happens.
    fn due(&self) -> Option<Instant> {
        let deadline = self.dataplane.next_deadline().map(Instant::from_std);
        earliest(self.pace.later(), deadline, self.rules.as_ref().and_then(Rules::later))
    }

    /// Applies if something is due, unless it was just tried in vain or is tried too often.
    fn apply(&mut self) {
        let now = Instant::now();
        // Rules come first: with them a device accepts only what comes from nodes.
        if let Some(rules) = &mut self.rules {
            self.findings_due |= rules.apply(now);
        }
        self.dataplane.at(now.into_std());
        if self.dataplane.is_due() && self.pace.may(now) {
            self.write();
        }
    }

    fn write(&mut self) {
        let _span = info_span!("reconcile").entered();
        let start = Instant::now();
        let mut readable = true;
        (self.files_due, self.findings_due) = (true, true);
        self.dataplane.at(start.into_std());
        let failure = match self.dataplane.apply() {
            Ok(applied) => described(&applied.failures),
            Err(error) => {
                readable = false;
                Some(error.to_string())
            }
        };
        self.metrics.apply_time.observe(start.elapsed().as_secs_f64());
        self.metrics.routes.set(self.dataplane.route_count().try_into().unwrap_or(i64::MAX));
        self.metrics.interfaces.set(self.dataplane.interface_count().try_into().unwrap_or(i64::MAX));
        if failure.is_some() {
            self.metrics.apply_failures.inc();
        }
        self.pace.ended(failure);
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
            self.calc.pack();
            self.dataplane.pack();
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
            match (self.pace.failing(), self.rules.as_ref().and_then(Rules::failing), state.in_sync) {
                (Some(failures), Some(rules), _) => format!("{failures}; packet rules: {rules}"),
                (Some(failures), None, _) => failures.to_owned(),
                (None, Some(rules), _) => format!("packet rules: {rules}"),
                (None, None, true) => match self.findings.count() {
                    0 => "as desired".to_owned(),
                    count => format!("as desired, but calicoctl node status names {count} finding(s)"),
                },
                (None, None, false) => "waiting to be in sync".to_owned(),
            },
        );
    }

    /// Tells the others what came of it: which tunnel devices are up, and what is not as it should be.
    fn publish(&mut self) {
        // Before the kernel was read there is no state: the rules believe the first that they hear, and with none at all they
        // would drop the filter of a tunnel that an earlier Felix has left.
        if !self.state.borrow().in_sync {
            return;
        }
        let state = self.dataplane.tunnel_state();
        self.rules.iter_mut().for_each(|rules| rules.tunnels(state));
        let devices = Devices {
            in_sync: true,
            wanted: self.tunnels.devices(),
            up: [state.ipip, state.vxlan, state.vxlan_v6],
            addresses: self.tunnels.addresses(),
        };
        self.devices.send_if_modified(|before| {
            let changed = *before != devices;
            *before = devices;
            changed
        });
        // These may be many, and most passes are about something else.
        if !std::mem::take(&mut self.findings_due) {
            return;
        }
        let notices = self.calc.notices().map(|notice| Finding { object: notice.object(), text: notice.to_string() });
        self.findings.tell(Source::Calculation, notices.chain(self.ignored.findings()).collect());
        let found = self.dataplane.findings().into_iter();
        let found = found.map(|found| Finding { object: found.object, text: found.text });
        self.findings.tell(Source::Dataplane, found.collect());
        self.findings.tell(Source::Rules, self.rules.iter().flat_map(Rules::findings).collect());
        self.metrics.findings.set(self.findings.count().try_into().unwrap_or(i64::MAX));
    }
}

/// The earliest time at which there is something to do: what was put off, of the dataplane's and the rules' writes, and the
/// dataplane's own `deadline`. While the dataplane must wait, a deadline that has passed must wait, too.
fn earliest(dataplane: Option<Instant>, deadline: Option<Instant>, rules: Option<Instant>) -> Option<Instant> {
    [dataplane.or(deadline), rules].into_iter().flatten().min()
}

/// The first of some failures.
fn described(failures: &[impl ToString]) -> Option<String> {
    let text = failures.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match failures.len() {
        0 => None,
        count @ 4.. => Some(format!("{text}; and {} more", count - 3)),
        _ => Some(text),
    }
}

/// Resolves when there are notifications about packet rules.
async fn readable(rules: Option<&Rules>) {
    match rules {
        Some(rules) => rules.readable().await,
        None => std::future::pending().await,
    }
}

/// A descriptor of the kernel's notifications, to be waited for; closed with the value, and never before.
#[expect(
    deprecated,
    reason = "the constructor that replaces it is unsafe, for types that do not own their descriptor; OwnedFd does"
)]
fn watched(notifications: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(notifications.try_clone_to_owned()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_has_passed_waits_as_long_as_the_dataplane_must() {
        let now = Instant::now();
        let (passed, put_off) = (Some(now), Some(now + Duration::from_secs(1)));
        assert_eq!(earliest(put_off, passed, None), put_off, "nothing is done before, so a loop would not rest");
        assert_eq!(earliest(None, passed, None), passed);
        assert_eq!(earliest(put_off, passed, Some(now)), passed, "the rules need not wait for the dataplane");
        assert_eq!(earliest(None, None, None), None);
    }
}
