//! How the controller runs: what KubeControllersConfiguration says, and what the environment says instead.

use std::collections::BTreeMap;
use std::time::Duration;

use calico_api::{KubeControllersConfigurationSpec, parse_duration};

use crate::collector::Patience;

/// The variables that override the resource, as Calico has them.
const VARIABLES: [&str; 7] = [
    "LOG_LEVEL",
    "RECONCILER_PERIOD",
    "ENABLED_CONTROLLERS",
    "COMPACTION_PERIOD",
    "HEALTH_ENABLED",
    "SYNC_NODE_LABELS",
    "AUTO_HOST_ENDPOINTS",
];

/// The controllers of Calico's that are not here, and why that is no loss.
const NOT_HERE: [(&str, &str); 8] = [
    ("policy", "policies are read from Kubernetes by each node"),
    ("namespace", "profiles follow from namespaces in the store"),
    ("serviceaccount", "profiles follow from service accounts in the store"),
    ("workloadendpoint", "endpoints follow from pods in the store"),
    ("loadbalancer", "addresses of Services are given by another load balancer"),
    ("flannelmigration", "it is not supported"),
    ("migration", "policies are read under their old names, too"),
    ("ippool", "pools have no controller"),
];

/// How the controller runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether leftovers are collected at all.
    pub collects: bool,
    /// How long to wait before believing.
    pub patience: Patience,
    /// How often everything is looked at.
    pub period: Duration,
    /// One of Calico's words.
    pub log_level: String,
    /// Whether Kubernetes' labels are copied to nodes (etcd).
    pub sync_labels: bool,
    /// Where metrics are served; `None` nowhere.
    pub metrics_port: Option<u16>,
    /// The same as a resource says it, for its status.
    pub running: KubeControllersConfigurationSpec,
    /// The variables that were used.
    pub variables: BTreeMap<String, String>,
    /// What was set and has no effect, or cannot be read.
    pub remarks: Vec<String>,
}

impl Settings {
    /// From the resource, if there is one, and the environment.
    pub fn new(spec: Option<&KubeControllersConfigurationSpec>, get: impl Fn(&str) -> Option<String>) -> Self {
        let mut remarks = Vec::new();
        let mut running = spec.cloned().unwrap_or_default();
        let variables: BTreeMap<String, String> = VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), get(name).filter(|value| !value.trim().is_empty())?)))
            .collect();
        let variable = |name: &str| variables.get(name).map(|value| value.trim().to_owned());

        if let Some(level) = variable("LOG_LEVEL") {
            running.log_severity_screen = Some(level);
        }
        if let Some(enabled) = variable("HEALTH_ENABLED") {
            running.health_checks = Some(switch(&enabled));
            if !is_on(&enabled) {
                remarks.push("HEALTH_ENABLED=false has no effect: health is always served, for the probes".to_owned());
            }
        }
        if let Some(period) = variable("COMPACTION_PERIOD") {
            remarks
                .push("COMPACTION_PERIOD has no effect: etcd compacts itself (--auto-compaction-retention)".to_owned());
            running.etcd_v3_compaction_period = Some(period);
        }
        let mut collects = spec.is_none_or(|spec| spec.controllers.node.is_some() || !any(spec));
        if let Some(names) = variable("ENABLED_CONTROLLERS") {
            let names: Vec<String> = names.split(',').map(|name| name.trim().to_lowercase()).collect();
            collects = names.iter().any(|name| name == "node");
            for name in names.iter().filter(|name| !name.is_empty() && *name != "node") {
                remarks.push(match NOT_HERE.iter().find(|(known, _)| known == name) {
                    Some((_, why)) => format!("ENABLED_CONTROLLERS: there is no controller {name} here: {why}"),
                    None => format!("ENABLED_CONTROLLERS: \"{name}\" is no controller; node is"),
                });
            }
        }
        let node = running.controllers.node.get_or_insert_default();
        if let Some(period) = variable("RECONCILER_PERIOD") {
            node.reconciler_period = Some(period);
        }
        if let Some(enabled) = variable("SYNC_NODE_LABELS") {
            node.sync_labels = Some(switch(&enabled));
        }
        if variable("AUTO_HOST_ENDPOINTS").is_some_and(|value| is_on(&value))
            || node.host_endpoint.as_ref().is_some_and(|it| it.auto_create.as_deref() == Some("Enabled"))
        {
            remarks.push("host endpoints are not made automatically here".to_owned());
        }

        let mut duration = |text: &mut Option<String>, name: &str, default: Duration| {
            let Some(written) = text.as_deref() else {
                *text = Some(go_text(default));
                return default;
            };
            if let Some(time) = parse_duration(written) {
                return time;
            }
            remarks.push(format!("{name}: \"{written}\" is no length of time such as 15m; {} it is", go_text(default)));
            *text = Some(go_text(default));
            default
        };
        let grace = duration(&mut node.leak_grace_period, "leakGracePeriod", Patience::DEFAULT_GRACE);
        let reconciler = duration(&mut node.reconciler_period, "reconcilerPeriod", Duration::from_secs(300));
        let period = if grace.is_zero() { Duration::from_secs(300) } else { grace / 2 };
        // Set on purpose it is the shorter of the two that counts, so that tests need not wait.
        let period = if variable("RECONCILER_PERIOD").is_some() { period.min(reconciler) } else { period };
        let sync_labels = node.sync_labels.get_or_insert_with(|| "Enabled".to_owned()) != "Disabled";
        if !collects {
            running.controllers.node = None;
        }
        let log_level = running.log_severity_screen.get_or_insert_with(|| "Info".to_owned()).clone();
        running.health_checks.get_or_insert_with(|| "Enabled".to_owned());
        let port = *running.prometheus_metrics_port.get_or_insert(9094);
        Self {
            collects,
            patience: Patience::new(grace),
            period: period.max(Duration::from_millis(100)),
            log_level,
            sync_labels,
            metrics_port: u16::try_from(port).ok().filter(|port| *port != 0),
            running,
            variables,
            remarks,
        }
    }
}

/// Whether the resource names any controller. One that names none is as good as none.
fn any(spec: &KubeControllersConfigurationSpec) -> bool {
    let it = &spec.controllers;
    it.node.is_some()
        || it.policy.is_some()
        || it.workload_endpoint.is_some()
        || it.service_account.is_some()
        || it.namespace.is_some()
        || it.load_balancer.is_some()
}

fn is_on(text: &str) -> bool {
    matches!(text.trim().to_lowercase().as_str(), "true" | "1" | "enabled" | "yes" | "on" | "t")
}

fn switch(text: &str) -> String {
    if is_on(text) { "Enabled" } else { "Disabled" }.to_owned()
}

/// A length of time as Go writes it.
fn go_text(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_api::{ControllersConfig, LoadBalancerControllerConfig, NodeControllerConfig};

    fn node(grace: &str) -> KubeControllersConfigurationSpec {
        let node = NodeControllerConfig { leak_grace_period: Some(grace.into()), ..NodeControllerConfig::default() };
        let controllers = ControllersConfig { node: Some(node), ..ControllersConfig::default() };
        KubeControllersConfigurationSpec { controllers, ..KubeControllersConfigurationSpec::default() }
    }

    #[test]
    fn without_anything_it_runs_as_calico_does() {
        let settings = Settings::new(None, |_| None);
        assert!(settings.collects && settings.sync_labels && settings.remarks.is_empty());
        assert_eq!(settings.patience.grace, Some(Duration::from_secs(900)));
        assert_eq!(settings.period, Duration::from_secs(450));
        assert_eq!(settings.metrics_port, Some(9094));
        let node = settings.running.controllers.node.unwrap();
        assert_eq!(node.leak_grace_period.as_deref(), Some("15m0s"));
    }

    #[test]
    fn the_environment_wins_and_is_told() {
        let get = |name: &str| match name {
            "LOG_LEVEL" => Some("debug".to_owned()),
            "ENABLED_CONTROLLERS" => Some("policy, loadbalancer,nonsense".to_owned()),
            "RECONCILER_PERIOD" => Some("1s".to_owned()),
            _ => None,
        };
        let settings = Settings::new(Some(&node("4s")), get);
        assert_eq!((settings.log_level.as_str(), settings.collects), ("debug", false));
        assert_eq!(settings.period, Duration::from_secs(1));
        assert_eq!(settings.remarks.len(), 3);
        assert_eq!(settings.running.log_severity_screen.as_deref(), Some("debug"));
        assert_eq!(settings.variables["ENABLED_CONTROLLERS"], "policy, loadbalancer,nonsense");
    }

    #[test]
    fn a_grace_period_of_zero_only_reports_and_one_that_cannot_be_read_is_the_usual_one() {
        assert_eq!(Settings::new(Some(&node("0")), |_| None).patience.grace, None);
        let settings = Settings::new(Some(&node("soon")), |_| None);
        assert_eq!(settings.patience.grace, Some(Patience::DEFAULT_GRACE));
        assert!(settings.remarks[0].contains("\"soon\""), "{:?}", settings.remarks);
        let mut only_balancer = node("1m");
        only_balancer.controllers.node = None;
        only_balancer.controllers.load_balancer = Some(LoadBalancerControllerConfig::default());
        assert!(!Settings::new(Some(&only_balancer), |_| None).collects);
    }
}
