//! FelixConfiguration resources: read before the node is brought up, followed afterwards.
//!
//! What can be changed in a running Felix is changed: the level of the logs. Everything else shapes sockets, routes or
//! interfaces from their beginning; for that Felix ends, with the code by which Calico's asks to be started again, and kubelet
//! starts it: state is in the store and in the kernel, and no pod notices.
//!
//! What cannot be read or used is not taken: Felix goes on with what it has, and says so. As a restart would forget that, other
//! changes wait until it is corrected; but not who programs which routes, for the BGP speaker does not wait either.

use std::collections::BTreeMap;

use bgp_plan::owners;
use calico_agent::Finding;
use calico_api::{FelixConfiguration, FelixConfigurationSpec, Key, Kind, Node, NodeSpec, ObjectMeta};
use calico_daemon::LogLevel;
use calico_datastore::watch::{self, Update};
use calico_datastore::{Entry, Error, Filter, Store, decode};
use tokio::sync::{mpsc, watch as state_channel};
use tracing::{error, info, warn};

use crate::bring_up::Patience;
use crate::config::{Config, ConfigError, Idle, Layer, Raw, for_node};
use crate::findings::{Findings, Source};

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
    /// `programClusterRoutes` of FelixConfiguration `default`, as it is written there, whatever else is wrong with it: the
    /// BGP speaker reads the same.
    pub(crate) programs: Option<String>,
}

/// FelixConfiguration `default`.
fn common() -> Key {
    Key::named(Kind::FelixConfiguration, "default")
}

/// Who hears of what is configured while Felix runs.
pub(crate) struct Listeners {
    /// The level of the logs.
    pub(crate) level: LogLevel,
    /// The operator.
    pub(crate) findings: Findings,
    /// The calculation.
    pub(crate) calc: mpsc::Sender<felix_calc::Update>,
}

/// What came of another configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Taken {
    /// It is in force but for these parameters, which differ.
    Differs(Vec<&'static str>),
    /// Nothing of it is, for these reasons.
    Refused(Vec<String>),
}

/// The resources, each in its last version that can be read.
#[derive(Debug, Default)]
struct Resources {
    good: BTreeMap<Key, FelixConfiguration>,
    /// Those whose newest version cannot be read, and why.
    unreadable: BTreeMap<String, String>,
}

impl Resources {
    fn put(&mut self, entry: Entry) {
        let (key, name) = (entry.key.clone(), entry.key.name());
        match decode::<FelixConfigurationSpec>(entry) {
            Ok(resource) => {
                self.good.insert(key, resource);
                self.unreadable.remove(&name);
            }
            Err(Error::Corrupt(fault)) => self.spoil(name, fault.reason),
            Err(error) => self.spoil(name, error.to_string()),
        }
    }

    fn spoil(&mut self, name: String, reason: String) {
        error!(name, reason, "FelixConfiguration cannot be read, its last good version stays in force");
        self.unreadable.insert(name, reason);
    }

    fn delete(&mut self, key: &Key) {
        self.good.remove(key);
        self.unreadable.remove(&key.name());
    }

    /// The layers for a node, what is wrong with them, and whether any of them is of a version that is not in the store any
    /// more: Felix would not find it again.
    fn layers(&self, node: &str, labels: &BTreeMap<String, String>) -> (Vec<Layer>, Vec<String>, bool) {
        let (layers, problems) = for_node(node, labels, self.good.values());
        let readable = self.good.values().filter(|resource| !self.unreadable.contains_key(resource.name()));
        let depends = !self.unreadable.is_empty() && for_node(node, labels, readable).0 != layers;
        (layers, problems, depends)
    }

    /// What the operator should know of those that cannot be read.
    fn findings(&self) -> impl Iterator<Item = Finding> {
        self.unreadable.iter().map(|(name, reason)| Finding {
            object: format!("FelixConfiguration/{name}"),
            text: format!(
                "it cannot be read, its last good version, if there is one, stays in force: {reason}; correct it"
            ),
        })
    }
}

impl Settings {
    /// What the command line, the environment and the file say.
    ///
    /// # Errors
    /// What Felix does not start with.
    pub(crate) fn local(local: Raw, variable: Box<Variable>) -> Result<Self, ConfigError> {
        let config = Config::parse(&local, &variable)?;
        Ok(Self { raw: local.clone(), local, variable, config, programs: None })
    }

    /// Takes the store's layers as they are now; tells which parameters have changed.
    ///
    /// # Errors
    /// A value that Felix does not start with; everything stays as it was.
    fn take(&mut self, layers: Vec<Layer>) -> Result<Vec<&'static str>, ConfigError> {
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

    /// The same while Felix runs: a configuration with a value that cannot be used is not taken, unless that was so before.
    fn take_over(&mut self, layers: Vec<Layer>) -> Taken {
        let bad: Vec<String> = match Config::parse(&self.local.over(layers.clone()), &self.variable) {
            Ok(config) => config.bad.into_iter().filter(|one| !self.config.bad.contains(one)).collect(),
            Err(error) => vec![error.to_string()],
        };
        if !bad.is_empty() {
            return Taken::Refused(bad);
        }
        match self.take(layers) {
            Ok(changed) => Taken::Differs(changed),
            Err(error) => Taken::Refused(vec![error.to_string()]),
        }
    }

    /// Reads the resources that are there for the node of this name.
    ///
    /// # Errors
    /// A value that Felix does not start with, or a store that refuses.
    pub(crate) async fn read(&mut self, store: &Store, node: &str, patience: &mut Patience<'_>) -> anyhow::Result<()> {
        patience.progress("reading FelixConfiguration");
        let list = || store.backend().list(Kind::FelixConfiguration, &Filter::All);
        let listed = patience.until_answered("read FelixConfiguration", list).await?;
        let default = listed.entries.iter().find(|entry| entry.key == common());
        self.programs = default.and_then(|entry| owners::written(&entry.value)).map(str::to_owned);
        let mut resources = Resources::default();
        listed.entries.into_iter().for_each(|entry| resources.put(entry));
        listed.faults.into_iter().for_each(|fault| resources.spoil(fault.name, fault.reason));
        let key = Key::named(Kind::Node, node);
        let labels = match patience.until_answered("read the node", || store.get::<NodeSpec>(&key)).await {
            Ok(node) => node.metadata.labels,
            Err(Error::NotFound(_) | Error::Corrupt(_)) => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        let (layers, problems, _) = resources.layers(node, &labels);
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
        listeners: Listeners,
        mut node: state_channel::Receiver<Option<Entry>>,
    ) -> Vec<&'static str> {
        let Listeners { level, findings, calc } = listeners;
        let mut updates = watch::watch(&store, vec![(Kind::FelixConfiguration, Filter::All)]);
        let mut resources = Resources::default();
        let mut programs = None;
        let mut labels: Option<BTreeMap<String, String>> = None;
        let (mut in_sync, mut said, mut refused) = (false, Vec::new(), Vec::new());
        loop {
            tokio::select! {
                update = updates.recv() => match update {
                    None => return std::future::pending().await, // the runtime is being shut down
                    Some(Update::Put(entry)) => {
                        if entry.key == common() {
                            programs = owners::written(&entry.value).map(str::to_owned);
                        }
                        resources.put(entry);
                    }
                    Some(Update::Delete(key)) => {
                        if key == common() {
                            programs = None;
                        }
                        resources.delete(&key);
                    }
                    Some(Update::Fault(fault)) => resources.spoil(fault.name, fault.reason),
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
            let (layers, problems, depends) = resources.layers(&name, labels);
            if problems != said {
                problems.iter().for_each(|problem| warn!(problem, "configuration"));
                said = problems;
            }
            let before = self.config.logs.level.clone();
            let taken = match depends {
                true => Taken::Refused(Vec::new()),
                false => self.take_over(layers),
            };
            let now = match taken {
                Taken::Refused(reasons) => reasons,
                Taken::Differs(changed) => {
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
                    Vec::new()
                }
            };
            if now != refused {
                now.iter().for_each(|reason| {
                    error!(reason, "FelixConfiguration is not taken, the last good one stays in force")
                });
                refused = now;
            }
            let not_taken = refused.iter().map(|reason| Finding {
                object: "configuration".to_owned(),
                text: format!("it is not taken, the last good one stays in force: {reason}; correct it"),
            });
            findings.tell(Source::Settings, not_taken.chain(resources.findings()).collect());
            if programs != self.programs {
                self.programs.clone_from(&programs);
                if calc.send(felix_calc::Update::FelixPrograms(programs.clone())).await.is_err() {
                    return std::future::pending().await;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    fn entry(name: &str, spec: Value) -> Entry {
        let value = json!({"metadata": {"name": name}, "spec": spec});
        Entry {
            key: Key::named(Kind::FelixConfiguration, name),
            value,
            revision: calico_datastore::Revision("1".to_owned()),
        }
    }

    /// What comes of a version of `default` after another.
    fn after(first: Value, second: Value) -> (Settings, Taken) {
        let mut settings = Settings::local(Raw::default(), Box::new(|_| None)).unwrap();
        let take = |settings: &mut Settings, spec: Value| {
            let mut resources = Resources::default();
            resources.put(entry("default", spec));
            settings.take_over(resources.layers("east", &BTreeMap::new()).0)
        };
        let taken = take(&mut settings, first);
        assert!(matches!(taken, Taken::Differs(_)), "{taken:?}");
        let taken = take(&mut settings, second);
        (settings, taken)
    }

    #[test]
    fn a_value_that_cannot_be_used_leaves_the_last_good_configuration_in_force_and_is_named() {
        let good = json!({"vxlanVNI": 5000, "vxlanPort": 4790, "vxlanMTU": 1400, "ipipMTU": 1400});
        for (field, bad) in [
            ("vxlanVNI", 16_777_216),
            ("vxlanVNI", -1),
            ("vxlanPort", 0),
            ("vxlanPort", 65_536),
            ("vxlanMTU", 1279),
            ("ipipMTU", 70_000),
            ("vxlanMTUV6", 500),
        ] {
            let mut second = good.clone();
            second[field] = json!(bad);
            second["healthPort"] = json!(9199); // what is good beside it waits
            let (settings, taken) = after(good.clone(), second);
            let named = format!("{field} of FelixConfiguration default is");
            match taken {
                Taken::Refused(reasons) => assert!(reasons.len() == 1 && reasons[0].starts_with(&named), "{reasons:?}"),
                other => panic!("{field} {bad}: {other:?}"),
            }
            let tunnels = &settings.config.tunnels;
            assert_eq!((tunnels.vxlan_vni, tunnels.vxlan_port), (5000, 4790), "{field} {bad}");
            assert_eq!(tunnels.configured_mtus(), [1400, 1400, 0], "{field} {bad}");
        }
        let (_, taken) =
            after(good.clone(), json!({"vxlanVNI": 5001, "vxlanPort": 4790, "vxlanMTU": 1400, "ipipMTU": 1400}));
        assert_eq!(taken, Taken::Differs(vec!["VXLANVNI"]));
    }

    #[test]
    fn what_is_bad_from_the_start_does_not_hold_up_what_is_good() {
        let mut settings = Settings::local(Raw::default(), Box::new(|_| None)).unwrap();
        let mut resources = Resources::default();
        resources.put(entry("default", json!({"vxlanVNI": -1})));
        settings.take(resources.layers("east", &BTreeMap::new()).0).unwrap();
        resources.put(entry("default", json!({"vxlanVNI": -1, "vxlanPort": 4790})));
        let taken = settings.take_over(resources.layers("east", &BTreeMap::new()).0);
        assert_eq!(taken, Taken::Differs(vec!["VXLANPort"]));
    }

    #[test]
    fn of_a_resource_that_cannot_be_read_the_last_good_version_counts_and_nothing_is_begun_that_would_lose_it() {
        let labels = BTreeMap::from([("rack".to_owned(), "a".to_owned())]);
        let mut resources = Resources::default();
        resources.put(entry("default", json!({"vxlanVNI": 5000})));
        resources.put(entry("node.west", json!({"vxlanVNI": 5001})));
        let (good, _, depends) = resources.layers("east", &labels);
        assert!(!depends && good.len() == 1);
        // Another node's is nothing to us, and neither is one that never could be read.
        resources.put(entry("node.west", json!({"vxlanVNI": "many"})));
        resources.put(entry("node.east", json!({"vxlanVNI": "many"})));
        assert_eq!(resources.layers("east", &labels), (good.clone(), Vec::new(), false));
        resources.put(entry("default", json!({"vxlanVNI": "many"})));
        assert_eq!(resources.layers("east", &labels), (good.clone(), Vec::new(), true));
        let objects: BTreeSet<String> = resources.findings().map(|finding| finding.object).collect();
        let expected = ["default", "node.east", "node.west"].map(|name| format!("FelixConfiguration/{name}"));
        assert_eq!(objects, BTreeSet::from(expected));
        resources.put(entry("default", json!({"vxlanVNI": 5000})));
        assert_eq!(resources.layers("east", &labels), (good, Vec::new(), false));
    }
}
