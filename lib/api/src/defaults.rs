//! What Calico's clients fill in before they store a resource.

use crate::{
    Action, AnyResource, AssignmentMode, EncapMode, IPPoolSpec, PolicyType, PoolUse, Rule, StagedAction, TierSpec,
    policy_types,
};

/// Fills in what a user may leave out, as it is stored. What is there stays, and doing it twice is doing it once.
pub fn default_on_write(resource: &mut AnyResource) {
    /// The fields that all kinds of policy have.
    macro_rules! policy {
        ($spec:expr) => {
            policy(&mut $spec.tier, &mut $spec.types, $spec.ingress.as_deref(), $spec.egress.as_deref())
        };
    }
    match resource {
        AnyResource::BGPConfiguration(it) => {
            fill(&mut it.spec.log_severity_screen, "Info");
            fill(&mut it.spec.service_load_balancer_aggregation, "Enabled");
        }
        AnyResource::FelixConfiguration(it) => {
            fill(&mut it.spec.nftables_mode, "Auto");
            fill(&mut it.spec.nftables_flow_table_offload, "Disabled");
        }
        AnyResource::GlobalNetworkPolicy(it) => policy!(it.spec),
        AnyResource::IPPool(it) => pool(&mut it.spec),
        AnyResource::KubeControllersConfiguration(it) => {
            fill(&mut it.spec.health_checks, "Enabled");
            if let Some(load_balancer) = &mut it.spec.controllers.load_balancer {
                fill(&mut load_balancer.assign_ips, "AllServices");
            }
            if let Some(migration) = &mut it.spec.controllers.migration {
                fill(&mut migration.policy_name_migrator, "Enabled");
            }
        }
        AnyResource::NetworkPolicy(it) => policy!(it.spec),
        AnyResource::StagedGlobalNetworkPolicy(it) => {
            it.spec.staged_action.get_or_insert_default();
            match it.spec.staged_action {
                Some(StagedAction::Delete) => fill(&mut it.spec.tier, TierSpec::DEFAULT),
                _ => policy!(it.spec),
            }
        }
        AnyResource::StagedKubernetesNetworkPolicy(it) => {
            it.spec.staged_action.get_or_insert_default();
        }
        AnyResource::StagedNetworkPolicy(it) => {
            it.spec.staged_action.get_or_insert_default();
            match it.spec.staged_action {
                Some(StagedAction::Delete) => fill(&mut it.spec.tier, TierSpec::DEFAULT),
                _ => policy!(it.spec),
            }
        }
        AnyResource::Tier(it) => {
            it.spec.default_action.get_or_insert(match it.metadata.name() {
                "kube-admin" | "kube-baseline" => Action::Pass,
                _ => Action::Deny,
            });
            if it.metadata.name() == TierSpec::DEFAULT {
                it.spec.order.get_or_insert(TierSpec::DEFAULT_ORDER);
            }
        }
        AnyResource::BGPFilter(_)
        | AnyResource::BGPPeer(_)
        | AnyResource::BlockAffinity(_)
        | AnyResource::CalicoNodeStatus(_)
        | AnyResource::ClusterInformation(_)
        | AnyResource::GlobalNetworkSet(_)
        | AnyResource::HostEndpoint(_)
        | AnyResource::IPAMBlock(_)
        | AnyResource::IPAMConfiguration(_)
        | AnyResource::IPAMHandle(_)
        | AnyResource::IPReservation(_)
        | AnyResource::NetworkSet(_)
        | AnyResource::Node(_)
        | AnyResource::Profile(_)
        | AnyResource::WorkloadEndpoint(_)
        | AnyResource::EndpointSlice(_)
        | AnyResource::Secret(_)
        | AnyResource::Service(_) => {}
    }
}

/// Sets a text that is absent or empty.
fn fill(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

fn pool(spec: &mut IPPoolSpec) {
    if let Some(cidr) = spec.cidr() {
        spec.block_size = Some(spec.block_size_for(&cidr));
        // One spelling for one network. Host bits stay, for validation to find.
        spec.cidr = cidr.to_string();
    }
    spec.ipip_mode.get_or_insert(EncapMode::Never);
    spec.vxlan_mode.get_or_insert(EncapMode::Never);
    fill(&mut spec.node_selector, "all()");
    let of_namespaces = spec.namespace_selector.as_deref().is_some_and(|text| !text.is_empty());
    // Departs from Calico, which writes both uses here too, although the one for tunnels is refused beside a
    // namespaceSelector.
    if spec.allowed_uses.as_deref().unwrap_or_default().is_empty() && !of_namespaces {
        spec.allowed_uses = Some(vec![PoolUse::Workload, PoolUse::Tunnel]);
    }
    spec.assignment_mode.get_or_insert(AssignmentMode::Automatic);
}

fn policy(
    tier: &mut Option<String>,
    types: &mut Option<Vec<PolicyType>>,
    ingress: Option<&[Rule]>,
    egress: Option<&[Rule]>,
) {
    fill(tier, TierSpec::DEFAULT);
    if types.as_deref().unwrap_or_default().is_empty() {
        *types = Some(policy_types(ingress, egress));
    }
}
