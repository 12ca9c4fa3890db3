//! Kinds of few fields.

use super::{Faults, filled, metadata};
use crate::{
    Action, ClusterInformation, IPAMConfiguration, IPReservationSpec, KubeControllersConfigurationSpec, ObjectMeta,
    Tier, TierSpec,
};

/// The longest time for which a released address is kept back, in seconds.
const MAX_COOLDOWN: u32 = 1200;

/// The label that Calico itself gives to what is in a namespace.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

pub(super) fn cluster_information(resource: &ClusterInformation, faults: &mut Faults) {
    only_default(resource.name(), faults);
    if let Some(guid) = filled(resource.spec.cluster_guid.as_ref()) {
        let sound = guid.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
        faults.unless(sound, "ClusterGUID", guid, "must be hexadecimal digits");
    }
}

pub(super) fn ipam_configuration(resource: &IPAMConfiguration, faults: &mut Faults) {
    only_default(resource.name(), faults);
    let spec = &resource.spec;
    faults.range("MaxBlocksPerHost", spec.max_blocks_per_host, 0, i32::MAX.unsigned_abs());
    faults.range("IPCooldownSeconds", spec.ip_cooldown_seconds, 0, MAX_COOLDOWN);
    let persistence = spec.kube_virt_vm_address_persistence.as_ref();
    faults.one_of("KubeVirtVMAddressPersistence", persistence, &["Enabled", "Disabled"]);
}

fn only_default(name: &str, faults: &mut Faults) {
    faults.unless(name == "default", "Metadata.Name", name, "must be default: there is only one of this kind");
}

pub(super) fn ip_reservation(spec: &IPReservationSpec, faults: &mut Faults) {
    for cidr in spec.reserved_cidrs.iter().flatten() {
        faults.network("ReservedCIDRs", cidr);
    }
}

pub(super) fn network_set(metadata: &ObjectMeta, nets: Option<&[String]>, faults: &mut Faults) {
    for net in nets.unwrap_or_default() {
        faults.network("Nets", net);
    }
    if metadata.labels.contains_key(NAMESPACE_LABEL) {
        faults.add("Metadata.Labels (label)", NAMESPACE_LABEL, "is set by Calico itself");
    }
}

pub(super) fn tier(resource: &Tier, faults: &mut Faults) {
    let spec = &resource.spec;
    let action = spec.default_action.unwrap_or(Action::Deny);
    let decides = matches!(action, Action::Deny | Action::Pass);
    faults.unless(decides, "DefaultAction", action.as_str(), "must be Deny or Pass");
    let built_in = TierSpec::BUILT_IN.iter().find(|(name, ..)| *name == resource.name());
    if let Some((name, order, built_in_action)) = built_in {
        let has = spec.order.unwrap_or(TierSpec::DEFAULT_ORDER);
        let reason = format!("must be {order} for the tier {name}");
        // Both come from the same literals or the same text.
        faults.unless(has.to_bits() == order.to_bits(), "Order", has, &reason);
        let reason = format!("must be {} for the tier {name}", built_in_action.as_str());
        faults.unless(action == *built_in_action, "DefaultAction", action.as_str(), &reason);
    }
}

pub(super) fn kube_controllers(spec: &KubeControllersConfigurationSpec, faults: &mut Faults) {
    let levels = ["Trace", "Debug", "Info", "Warning", "Error", "Fatal"];
    let on_off = ["Enabled", "Disabled"];
    faults.one_of_words("LogSeverityScreen", spec.log_severity_screen.as_ref(), &levels);
    faults.one_of("HealthChecks", spec.health_checks.as_ref(), &on_off);
    faults.duration("EtcdV3CompactionPeriod", spec.etcd_v3_compaction_period.as_ref());
    faults.range("PrometheusMetricsPort", spec.prometheus_metrics_port, 0, 65535);
    let controllers = &spec.controllers;
    for reconciler in
        [&controllers.policy, &controllers.workload_endpoint, &controllers.service_account, &controllers.namespace]
    {
        let period = reconciler.as_ref().and_then(|reconciler| reconciler.reconciler_period.as_ref());
        faults.duration("ReconcilerPeriod", period);
    }
    if let Some(load_balancer) = &controllers.load_balancer {
        faults.one_of("AssignIPs", load_balancer.assign_ips.as_ref(), &["AllServices", "RequestedServicesOnly"]);
    }
    if let Some(migration) = &controllers.migration {
        faults.one_of("PolicyNameMigrator", migration.policy_name_migrator.as_ref(), &on_off);
    }
    let Some(node) = &controllers.node else { return };
    faults.duration("ReconcilerPeriod", node.reconciler_period.as_ref());
    faults.duration("LeakGracePeriod", node.leak_grace_period.as_ref());
    faults.one_of("SyncLabels", node.sync_labels.as_ref(), &on_off);
    let Some(host_endpoint) = &node.host_endpoint else { return };
    faults.one_of("AutoCreate", host_endpoint.auto_create.as_ref(), &on_off);
    faults.one_of("CreateDefaultHostEndpoint", host_endpoint.create_default_host_endpoint.as_ref(), &on_off);
    let templates = host_endpoint.templates.as_deref().unwrap_or_default();
    for (index, template) in templates.iter().enumerate() {
        let name = filled(template.generate_name.as_ref()).unwrap_or_default();
        let sound = name.len() < 253 && metadata::is_subdomain(name);
        faults.unless(sound, "GenerateName", name, "must be part of a name, shorter than 253 characters");
        let others = templates.iter().skip(index + 1);
        let unique = others.filter_map(|other| other.generate_name.as_deref()).all(|other| other != name);
        faults.unless(unique, "GenerateName", name, "is there more than once");
        let cidrs = template.interface_cidrs.as_deref().unwrap_or_default();
        for cidr in cidrs {
            faults.network("InterfaceCIDRs", cidr);
        }
        let finds = !cidrs.is_empty() || filled(template.interface_pattern.as_ref()).is_some();
        faults.unless(finds, "InterfaceCIDRs", "", "must be given, or else interfacePattern");
        faults.selector("NodeSelector", template.node_selector.as_ref());
    }
}
