//! BGP filters.

use super::bgp::{COMMUNITY, MAX_PRIORITY, is_community, is_interface_pattern};
use super::{Faults, filled};
use crate::{AsNumber, BGPFilterAction, BGPFilterOperation, BGPFilterRule, BGPFilterSpec};

/// How many operations a rule, and how many numbers a prepended path, may have.
const MAX_OPERATIONS: usize = 10;

pub(super) fn filter(spec: &BGPFilterSpec, faults: &mut Faults) {
    for (list, rules, is_ipv4) in [
        ("ExportV4", &spec.export_v4, true),
        ("ImportV4", &spec.import_v4, true),
        ("ExportV6", &spec.export_v6, false),
        ("ImportV6", &spec.import_v6, false),
    ] {
        for (index, rule) in rules.iter().flatten().enumerate() {
            check(&format!("{list}[{index}]"), rule, is_ipv4, faults);
        }
    }
}

fn check(place: &str, rule: &BGPFilterRule, is_ipv4: bool, faults: &mut Faults) {
    let field = |name: &str| format!("{place}.{name}");
    let cidr = filled(rule.cidr.as_ref());
    if cidr.is_some() != rule.match_operator.is_some() {
        let value = cidr.unwrap_or_default();
        faults.add(field("CIDR"), value, "cidr and matchOperator must both be set or both be empty");
    }
    if let Some(text) = cidr
        && let Some(network) = faults.network(&field("CIDR"), text)
    {
        let family = if is_ipv4 { "must be an IPv4 network" } else { "must be an IPv6 network" };
        faults.unless(network.addr().is_ipv4() == is_ipv4, &field("CIDR"), text, family);
    }
    if let Some(length) = rule.prefix_length {
        let most = if is_ipv4 { 32 } else { 128 };
        faults.range(&field("PrefixLength.Min"), length.min, 0, most);
        faults.range(&field("PrefixLength.Max"), length.max, 0, most);
        if cidr.is_none() {
            faults.add(field("PrefixLength"), "", "needs cidr");
        }
        if let (Some(min), Some(max)) = (length.min, length.max)
            && min > max
        {
            faults.add(field("PrefixLength.Min"), min, format!("must not be greater than max, {max}"));
        }
    }
    faults.one_of(&field("Source"), rule.source.as_ref(), &["RemotePeers"]);
    if let Some(interface) = filled(rule.interface.as_ref()) {
        let reason = "must be the name of an interface, up to 15 characters with * for any";
        faults.unless(is_interface_pattern(interface), &field("Interface"), interface, reason);
    }
    if let Some(communities) = &rule.communities {
        let values = &communities.values;
        faults.unless(values.len() == 1, &field("Communities.Values"), values.join(","), "must be exactly one");
        for value in values {
            faults.unless(is_community(value), &field("Communities.Values"), value, COMMUNITY);
        }
    }
    numbers(&field("ASPathPrefix"), rule.as_path_prefix.as_deref().unwrap_or_default(), faults);
    faults.range(&field("Priority"), rule.priority, 1, MAX_PRIORITY);
    let Some(operations) = &rule.operations else { return };
    faults.at_most(&field("Operations"), Some(operations), MAX_OPERATIONS);
    if operations.is_empty() {
        faults.add(field("Operations"), "", "must be left out, or have one entry at least");
    } else if rule.action != BGPFilterAction::Accept {
        faults.add(field("Operations"), format!("{:?}", rule.action), "go only with action Accept");
    }
    for (index, operation) in operations.iter().enumerate() {
        check_operation(&format!("{place}.Operations[{index}]"), operation, faults);
    }
}

/// Numbers of an AS path.
fn numbers(field: &str, numbers: &[AsNumber], faults: &mut Faults) {
    if numbers.contains(&AsNumber(0)) {
        faults.add(field, 0, "must be from 1 to 4294967295: 0 is no AS (RFC 7607)");
    }
}

fn check_operation(place: &str, operation: &BGPFilterOperation, faults: &mut Faults) {
    let parts =
        [operation.add_community.is_some(), operation.prepend_as_path.is_some(), operation.set_priority.is_some()];
    if parts.iter().filter(|set| **set).count() != 1 {
        faults.add(place, "", "must be exactly one of addCommunity, prependASPath and setPriority");
    }
    if let Some(add) = &operation.add_community {
        faults.unless(is_community(&add.value), &format!("{place}.AddCommunity.Value"), &add.value, COMMUNITY);
    }
    if let Some(prepend) = &operation.prepend_as_path {
        let field = format!("{place}.PrependASPath.Prefix");
        faults.range(&field, Some(prepend.prefix.len()), 1, MAX_OPERATIONS);
        numbers(&field, &prepend.prefix, faults);
    }
    if let Some(set) = &operation.set_priority {
        faults.range(&format!("{place}.SetPriority.Value"), Some(set.value), 1, MAX_PRIORITY);
    }
}
