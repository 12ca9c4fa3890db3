//! FelixConfiguration resources: read before the node is brought up, followed afterwards.
//!
//! What can be changed in a running Felix is changed: the level of the logs. Everything else shapes sockets, routes or
//! interfaces from their beginning; for that Felix ends, with the code by which Calico's asks to be started again, and kubelet
//! starts it: state is in the store and in the kernel, and no pod notices.

use std::collections::BTreeMap;

use calico_api::{FelixConfiguration, FelixConfigurationSpec, Key, Kind, Node, NodeSpec, ObjectMeta};
use calico_daemon::LogLevel;
use calico_datastore::watch::{self, Update};
use calico_datastore::{Entry, Error, Filter, Store, decode};
use tokio::sync::watch as state_channel;
use tracing::{error, info, warn};

use crate::bring_up::Patience;
use crate::config::{Config, ConfigError, Idle, Raw, for_node};

/// The exit code that asks for a restart (Calico).
pub(crate) const RESTART: u8 = 129;

/// Reads a variable.
pub(crate) type Variable = dyn Fn(&str) -> Option<String> + Send + Sync;

/// What was written in this process's own places, and what follows from it together with the store's.
pub(crate) struct Settings {
    local: Raw,
    variable: Box<Variable>,
    /// With the store's layers.
    raw: Raw,
    /// What it means.
    pub(crate) config: Config,
}

impl Settings {
    /// What the command line, the environment and the file say.
    ///
    /// # Errors
    /// What Felix does not start with.
    pub(crate) fn local(local: Raw, variable: Box<Variable>) -> Result<Self, ConfigError> {
        let config = Config::parse(&local, &variable)?;
        Ok(Self { raw: local.clone(), local, variable, config })
    }

    /// Takes the store's layers as they are now; tells which parameters have changed.
    ///
    /// # Errors
    /// A value that Felix does not start with; everything stays as it was.
    fn take(&mut self, layers: Vec<crate::config::Layer>) -> Result<Vec<&'static str>, ConfigError> {
        let raw = self.local.over(layers);
        let config = Config::parse(&raw, &self.variable)?;
        let changed = self.raw.differences(&raw);
        for problem in config.problems.iter().filter(|problem| !self.config.problems.contains(problem)) {
            error!(problem, "configuration");
        }
        tell_idle(config.idle.iter().filter(|idle| !self.config.idle.contains(idle)));
        (self.raw, self.config) = (raw, config);
        Ok(changed)
    }

    /// Reads the resources that are there for the node of this name.
    ///
    /// # Errors
    /// A value that Felix does not start with, or a store that refuses.
    pub(crate) async fn read(&mut self, store: &Store, node: &str, patience: &mut Patience<'_>) -> anyhow::Result<()> {
        patience.progress("reading FelixConfiguration");
        let list = || store.list::<FelixConfigurationSpec>(&Filter::All);
        let listed = patience.until_answered("read FelixConfiguration", list).await?;
        for fault in &listed.faults {
            error!(name = fault.name, reason = fault.reason, "FelixConfiguration cannot be read and is passed over");
        }
        let key = Key::named(Kind::Node, node);
        let labels = match patience.until_answered("read the node", || store.get::<NodeSpec>(&key)).await {
            Ok(node) => node.metadata.labels,
            Err(Error::NotFound(_) | Error::Corrupt(_)) => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        let (layers, problems) = for_node(node, &labels, &listed.items);
        for problem in problems {
            warn!(problem, "configuration");
        }
        self.take(layers)?;
        Ok(())
    }

    /// Follows the resources, and the labels of the Node as it is stored. Returns when Felix has to be started again, with
    /// the parameters that have changed.
    pub(crate) async fn follow(
        mut self,
        store: Store,
        name: String,
        level: LogLevel,
        mut node: state_channel::Receiver<Option<Entry>>,
    ) -> Vec<&'static str> {
        let mut updates = watch::watch(&store, vec![(Kind::FelixConfiguration, Filter::All)]);
        let mut resources: BTreeMap<Key, FelixConfiguration> = BTreeMap::new();
        let mut labels: Option<BTreeMap<String, String>> = None;
        let (mut in_sync, mut said) = (false, Vec::new());
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    None => return std::future::pending().await, // the runtime is being shut down
                    Some(Update::Put(entry)) => {
                        let key = entry.key.clone();
                        match decode::<FelixConfigurationSpec>(entry) {
                            Ok(resource) => drop(resources.insert(key, resource)),
                            Err(error) => error!(%error, "FelixConfiguration cannot be read, its last good version stays in force"),
                        }
                    }
                    Some(Update::Delete(key)) => drop(resources.remove(&key)),
                    Some(Update::Fault(fault)) => {
                        error!(name = fault.name, reason = fault.reason, "FelixConfiguration cannot be read, its last good version stays in force");
                    }
                    Some(Update::InSync) => in_sync = true,
                    Some(Update::Trouble(_)) => continue, // told of the watch that everything else depends on
                },
                changed = node.changed() => {
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                    let Some(entry) = node.borrow_and_update().clone() else { continue };
                    let Ok(now) = decode::<NodeSpec>(entry).map(|node: Node| node.metadata.labels) else { continue };
                    if labels.replace(now.clone()) == Some(now) {
                        continue;
                    }
                }
            }
            // Labels decide which resources count, so nothing is decided without them.
            let (true, Some(labels)) = (in_sync, &labels) else { continue };
            let (layers, problems) = for_node(&name, labels, resources.values());
            if problems != said {
                problems.iter().for_each(|problem| warn!(problem, "configuration"));
                said = problems;
            }
            let before = self.config.logs.level.clone();
            match self.take(layers) {
                Err(error) => error!(%error, "FelixConfiguration is not taken, the last good one stays in force"),
                Ok(changed) => {
                    if self.config.logs.level != before {
                        match level.set(&self.config.logs.level) {
                            Ok(()) => info!(level = self.config.logs.level, "LogSeverityScreen changed"),
                            Err(error) => error!(%error, "the level of the logs stays"),
                        }
                    }
                    let others: Vec<_> = changed.into_iter().filter(|name| *name != "LogSeverityScreen").collect();
                    if !others.is_empty() {
                        return others;
                    }
                }
            }
        }
    }
}

/// Tells what is written and does nothing.
pub(crate) fn tell_idle<'a>(idle: impl Iterator<Item = &'a Idle>) {
    for one in idle {
        match one {
            Idle::WithoutEffect { name, reason } => info!(name, reason, "it is set and has no effect"),
            Idle::Unknown { name, meant: Some(meant) } => {
                warn!(name, did_you_mean = meant, "it is set, and nobody knows it")
            }
            Idle::Unknown { name, meant: None } => warn!(name, "it is set, and nobody knows it"),
        }
    }
}

/// The default resource, as bring-up makes it.
pub(crate) fn default_resource() -> FelixConfiguration {
    let spec = FelixConfigurationSpec {
        log_severity_screen: Some("Info".to_owned()),
        reporting_interval: Some("0s".to_owned()),
        ..FelixConfigurationSpec::default()
    };
    FelixConfiguration::new(ObjectMeta::named("default"), spec)
}
