//! What does the speaker make of what it hears from datastore, Secrets and felix's files?

use std::time::{Duration, Instant};

use bgp_plan::inputs::{Change, Touched};
use bgp_plan::passwords::secret_name;
use bgp_plan::policies::Settings;
use bgp_plan::services::ServiceSettings;
use calico_datastore::watch::Update;
use tracing::{debug, info, warn};

use super::Speaker;
use crate::last_good::{self, Remembered};
use crate::watched::{self, Heard};

/// How long the first snapshot of Services is awaited before anything is told without them.
const SERVICES: Duration = Duration::from_secs(10);

impl Speaker {
    /// Takes what was heard, and draws the consequences of all of it at once.
    pub(super) fn hear(&mut self, changes: impl Iterator<Item = Heard>) {
        for heard in changes {
            match heard {
                Heard::Main(update) => self.hear_main(update),
                Heard::Services(number, update) if self.sources.is_services(number) => self.hear_services(update),
                Heard::Secret(name, number, update) if self.sources.is_present(&name, number) => {
                    if self.secrets.hear(&name, update) {
                        debug!(secret = name, "Secret is another");
                        self.touched.sessions = true;
                    }
                }
                Heard::Services(..) | Heard::Secret(..) => {} // of a watch that was given up
                Heard::Workloads(workloads) => {
                    if self.inputs.local_workloads != workloads {
                        info!(peers = workloads.len(), "local workloads that are peers");
                        self.inputs.local_workloads = workloads;
                        self.touched.sessions = true;
                    }
                }
                Heard::Ended => {} // the process ends
            }
        }
        self.metrics.datastore_in_sync.set(self.datastore.in_sync.into());
        self.metrics.datastore_answers.set(self.datastore.trouble.is_none().into());
        self.draw_conclusions();
    }

    fn hear_main(&mut self, update: Update) {
        match update {
            Update::InSync => {
                info!(nodes = self.inputs.nodes.len(), "datastore is in sync");
                self.datastore.in_sync = true;
                self.inputs.in_sync();
                self.touched = Touched {
                    sessions: true,
                    blocks: true,
                    pools: true,
                    filters: true,
                    services: true,
                    surroundings: true,
                    log: true,
                };
            }
            Update::Trouble(Some(reason)) => {
                warn!(%reason, "datastore does not answer; sessions and routes go on as they are");
                self.datastore.trouble = Some(reason);
            }
            Update::Trouble(None) => {
                info!("datastore answers again");
                self.datastore.trouble = None;
            }
            update => self.change(watched::change(update)),
        }
    }

    fn hear_services(&mut self, update: Update) {
        match update {
            Update::InSync => {
                info!("services are in sync");
                self.datastore.services_until = None;
                self.datastore.services_trouble = None;
                self.touched.services = true;
            }
            Update::Trouble(trouble) => {
                if let Some(reason) = &trouble {
                    warn!(%reason, "Services cannot be watched; their addresses are advertised as before");
                }
                self.datastore.services_trouble = trouble;
                self.touched.surroundings = true; // its warning
            }
            update => self.change(watched::change(update)),
        }
    }

    fn change(&mut self, change: Option<Change>) {
        let Some(change) = change else { return };
        let faults = self.inputs.faults.len();
        match self.inputs.apply(&self.node, change) {
            Ok(touched) => self.touched |= touched,
            Err(bad) => {
                warn!(kind = %bad.kind, name = bad.name, reason = bad.reason, "resource not understood");
                self.touched |= bad.touched;
                self.warnings_stale = true;
            }
        }
        self.warnings_stale |= self.inputs.faults.len() != faults;
    }

    /// Makes anew what was touched, once there is a whole picture to make it of.
    pub(super) fn draw_conclusions(&mut self) {
        self.keep_last_good();
        if !self.datastore.in_sync {
            return; // nothing dials, listens or is advertised before the snapshot is complete
        }
        if !self.touched.any() {
            if self.warnings_stale {
                self.look_at_warnings();
            }
            return;
        }
        if std::mem::take(&mut self.touched.log) {
            self.apply_log_level();
        }
        if self.touched.surroundings || self.touched.services {
            self.watch_services();
        }
        self.ask_for_kernel_routes();
        if self.datastore.services_until.is_some() || !self.kernel_told {
            return; // what is ours is not known yet, and an End-of-RIB without it would withdraw it
        }
        let touched = std::mem::take(&mut self.touched);
        if touched.blocks || touched.pools || touched.filters || touched.services || touched.surroundings {
            self.apply_surroundings();
        }
        if touched.sessions {
            self.apply_plan();
        }
        self.look_at_warnings();
    }

    /// Watches Services if and only if any of their addresses are advertised.
    fn watch_services(&mut self) {
        let wanted = service_settings(&self.settings, &self.inputs.global).is_on();
        let first = self.plan.local.is_none();
        if !self.sources.want_services(wanted) {
            return;
        }
        info!(wanted, "advertisement of service addresses");
        self.inputs.forget_services();
        self.datastore.services_trouble = None;
        self.datastore.services_until = (wanted && first).then(|| Instant::now() + SERVICES);
    }

    /// Watches exactly the Secrets that passwords refer to.
    pub(super) fn watch_secrets(&mut self) {
        let passwords = self.plan.sessions.iter().filter_map(|session| session.password.as_ref());
        let names = passwords.filter_map(secret_name).map(str::to_owned).collect();
        for name in self.sources.want_secrets(&names) {
            self.secrets.forget(&name);
        }
    }

    fn apply_log_level(&mut self) {
        let Some(log_level) = &self.log_level else { return };
        let own = self.inputs.per_node.get(&self.node).and_then(|own| own.log_severity_screen.as_deref());
        let level = own.or(self.inputs.global.log_severity_screen.as_deref()).unwrap_or("info");
        if self.logged_level.as_deref() == Some(level) {
            return;
        }
        match log_level.set(level) {
            Ok(()) => info!(level, "log level"),
            Err(error) => warn!(%error, "logSeverityScreen is not a level; logs stay as they are"),
        }
        self.logged_level = Some(level.to_owned());
    }

    /// Gives the inputs what an earlier life of this process left of objects in fault.
    pub(super) fn remember(&mut self) {
        match last_good::read(&self.last_good) {
            Ok(Remembered { objects, faults }) => {
                if !objects.is_empty() {
                    info!(objects = objects.len(), "last good versions of an earlier life are at hand");
                }
                for fault in faults {
                    warn!(fault, "last good versions: left out");
                }
                objects.into_iter().for_each(|(key, value)| self.inputs.preload(key, value));
            }
            Err(error) => {
                warn!(file = %self.last_good.display(), %error, "last good versions cannot be read; going on without");
            }
        }
    }

    /// Writes the last good versions of objects in fault, if they are others than those in the file.
    fn keep_last_good(&mut self) {
        if !self.datastore.in_sync {
            return; // until then the file may know what we do not
        }
        let ids: Vec<String> = self.inputs.faults.values().map(ToString::to_string).collect();
        let ids = ids.join("\n");
        if self.last_good_written.as_ref() == Some(&ids)
            || (ids.is_empty() && self.last_good_written.is_none() && !self.last_good.exists())
        {
            return;
        }
        if let Err(error) = last_good::write(&self.last_good, self.inputs.last_good()) {
            warn!(file = %self.last_good.display(), %error, "last good versions are not written; a restart would lose them");
        }
        self.last_good_written = Some(ids);
    }
}

/// What is said of services.
pub(super) fn service_settings(settings: &Settings, global: &calico_api::BGPConfigurationSpec) -> ServiceSettings {
    ServiceSettings::new(global, settings.cluster_ips.as_deref())
}
