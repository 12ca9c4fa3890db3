//! Policies, their staged twins, and profiles.

use super::rule::{Place, rules};
use super::{Faults, filled};
use crate::{
    GlobalNetworkPolicySpec, NetworkPolicySpec, PolicyType, ProfileSpec, Rule, StagedAction,
    StagedGlobalNetworkPolicySpec, StagedKubernetesNetworkPolicySpec, StagedNetworkPolicySpec,
};

/// What all policies have, of whichever kind.
struct Common<'a> {
    /// The Go structure, as it stands in the names of fields.
    name: &'a str,
    tier: Option<&'a String>,
    selector: Option<&'a String>,
    service_account_selector: Option<&'a String>,
    types: Option<&'a [PolicyType]>,
    ingress: Option<&'a [Rule]>,
    egress: Option<&'a [Rule]>,
    performance_hints: Option<&'a [String]>,
    of_the_cluster: bool,
}

/// The common fields of a spec of any of the four kinds.
macro_rules! common {
    ($spec:expr, $name:literal, $of_the_cluster:literal) => {
        Common {
            name: $name,
            tier: $spec.tier.as_ref(),
            selector: $spec.selector.as_ref(),
            service_account_selector: $spec.service_account_selector.as_ref(),
            types: $spec.types.as_deref(),
            ingress: $spec.ingress.as_deref(),
            egress: $spec.egress.as_deref(),
            performance_hints: $spec.performance_hints.as_deref(),
            of_the_cluster: $of_the_cluster,
        }
    };
}

/// What only policies of the cluster have.
struct Global<'a> {
    do_not_track: bool,
    pre_dnat: bool,
    apply_on_forward: bool,
    namespace_selector: Option<&'a String>,
}

macro_rules! of_the_cluster {
    ($spec:expr) => {
        Global {
            do_not_track: $spec.do_not_track.unwrap_or_default(),
            pre_dnat: $spec.pre_dnat.unwrap_or_default(),
            apply_on_forward: $spec.apply_on_forward.unwrap_or_default(),
            namespace_selector: $spec.namespace_selector.as_ref(),
        }
    };
}

pub(super) fn namespaced(spec: &NetworkPolicySpec, faults: &mut Faults) {
    check(&common!(spec, "NetworkPolicySpec", false), faults);
}

pub(super) fn global(spec: &GlobalNetworkPolicySpec, faults: &mut Faults) {
    check(&common!(spec, "GlobalNetworkPolicySpec", true), faults);
    check_global(&of_the_cluster!(spec), spec.egress.as_deref(), faults);
}

pub(super) fn staged(spec: &StagedNetworkPolicySpec, faults: &mut Faults) {
    if spec.staged_action == Some(StagedAction::Delete) {
        let kept = StagedNetworkPolicySpec {
            staged_action: spec.staged_action,
            tier: spec.tier.clone(),
            types: spec.types.clone().filter(|types| !types.is_empty()),
            ..Default::default()
        };
        return deleting("StagedNetworkPolicySpec", *spec == kept, faults);
    }
    check(&common!(spec, "StagedNetworkPolicySpec", false), faults);
}

pub(super) fn staged_global(spec: &StagedGlobalNetworkPolicySpec, faults: &mut Faults) {
    if spec.staged_action == Some(StagedAction::Delete) {
        let kept = StagedGlobalNetworkPolicySpec {
            staged_action: spec.staged_action,
            tier: spec.tier.clone(),
            types: spec.types.clone().filter(|types| !types.is_empty()),
            ..Default::default()
        };
        return deleting("StagedGlobalNetworkPolicySpec", *spec == kept, faults);
    }
    check(&common!(spec, "StagedGlobalNetworkPolicySpec", true), faults);
    check_global(&of_the_cluster!(spec), spec.egress.as_deref(), faults);
}

pub(super) fn staged_kubernetes(spec: &StagedKubernetesNetworkPolicySpec, faults: &mut Faults) {
    if spec.staged_action == Some(StagedAction::Delete) {
        let kept = StagedKubernetesNetworkPolicySpec { staged_action: spec.staged_action, ..Default::default() };
        return deleting("StagedKubernetesNetworkPolicySpec", *spec == kept, faults);
    }
    repeated("StagedKubernetesNetworkPolicySpec.PolicyTypes", spec.policy_types.as_deref(), faults);
    let peers = spec.ingress.iter().flatten().flat_map(|rule| rule.from.iter().flatten());
    let peers = peers.chain(spec.egress.iter().flatten().flat_map(|rule| rule.to.iter().flatten()));
    for block in peers.filter_map(|peer| peer.ip_block.as_ref()) {
        faults.network("IPBlock.CIDR", &block.cidr);
        for except in block.except.iter().flatten() {
            faults.network("IPBlock.Except", except);
        }
    }
}

/// Types are let pass, since they are filled in when a policy is written, even one that says nothing else.
fn deleting(name: &str, says_nothing_else: bool, faults: &mut Faults) {
    faults.unless(says_nothing_else, name, "", "must be empty but for the tier when stagedAction is Delete");
}

pub(super) fn profile(spec: &ProfileSpec, faults: &mut Faults) {
    let place = |direction| Place { direction, of_the_cluster: true };
    rules(place(PolicyType::Ingress), spec.ingress.as_deref(), faults);
    rules(place(PolicyType::Egress), spec.egress.as_deref(), faults);
}

fn check(policy: &Common<'_>, faults: &mut Faults) {
    faults.name("Tier", policy.tier);
    faults.selector("Selector", policy.selector);
    faults.selector("ServiceAccountSelector", policy.service_account_selector);
    repeated(&format!("{}.Types", policy.name), policy.types, faults);
    for hint in policy.performance_hints.unwrap_or_default() {
        faults.unless(hint == "AssumeNeededOnEveryNode", "PerformanceHints", hint, "must be AssumeNeededOnEveryNode");
    }
    let place = |direction| Place { direction, of_the_cluster: policy.of_the_cluster };
    rules(place(PolicyType::Ingress), policy.ingress, faults);
    rules(place(PolicyType::Egress), policy.egress, faults);
}

fn repeated(field: &str, types: Option<&[PolicyType]>, faults: &mut Faults) {
    for wanted in [PolicyType::Ingress, PolicyType::Egress] {
        if types.unwrap_or_default().iter().filter(|given| **given == wanted).count() > 1 {
            faults.add(field, wanted.as_str(), "is there more than once");
        }
    }
}

fn check_global(policy: &Global<'_>, egress: Option<&[Rule]>, faults: &mut Faults) {
    if filled(policy.namespace_selector).is_some() {
        faults.selector("NamespaceSelector", policy.namespace_selector);
    }
    if policy.do_not_track && policy.pre_dnat {
        faults.add("DoNotTrack", true, "doNotTrack and preDNAT cannot both be set");
    }
    if policy.pre_dnat && egress.is_some_and(|rules| !rules.is_empty()) {
        faults.add("PreDNAT", true, "a policy before DNAT cannot have egress rules");
    }
    for (field, set) in [("DoNotTrack", policy.do_not_track), ("PreDNAT", policy.pre_dnat)] {
        if set && !policy.apply_on_forward {
            faults.add(field, true, "needs applyOnForward");
        }
    }
}
