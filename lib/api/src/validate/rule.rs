//! The rules of policies and profiles.

use calico_selector::Selector;
use ipnet::IpNet;

use super::{Faults, filled, metadata, network};
use crate::{Action, EntityRule, HTTPMatch, ICMPFields, PolicyType, Port, Protocol, Rule};

/// How many rules a direction may have.
const MAX_RULES: usize = 1024;

/// How many networks one side of a rule may have.
const MAX_NETS: usize = 256;

/// How many ports one side of a rule may have.
const MAX_PORTS: usize = 50;

/// How many methods, and how many paths, a rule for HTTP may have.
const MAX_HTTP: usize = 20;

/// Where rules stand, as far as that decides what they may say.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The direction.
    pub(super) direction: PolicyType,
    /// Whether services need a namespace, since the policy has none.
    pub(super) of_the_cluster: bool,
}

pub(super) fn rules(place: Place, rules: Option<&[Rule]>, faults: &mut Faults) {
    faults.at_most(place.direction.as_str(), rules, MAX_RULES);
    for rule in rules.unwrap_or_default() {
        check(place, rule, faults);
    }
}

fn check(place: Place, rule: &Rule, faults: &mut Faults) {
    if let Some(version) = rule.ip_version {
        faults.unless(matches!(version, 4 | 6), "IPVersion", version, "must be 4 or 6");
    }
    protocol("Protocol", rule.protocol.as_ref(), faults);
    protocol("NotProtocol", rule.not_protocol.as_ref(), faults);
    icmp(rule, faults);
    let sides = [("Source", &rule.source), ("Destination", &rule.destination)];
    for (side, entity) in sides {
        if let Some(entity) = entity {
            entity_rule(side, entity, rule, faults);
        }
    }
    services(place, rule, faults);
    families(rule, faults);
    if let Some(http) = &rule.http {
        http_match(place, rule, http, faults);
    }
    if let Some(annotations) = rule.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref()) {
        metadata::annotations(annotations, faults);
    }
}

pub(super) fn protocol(field: &str, protocol: Option<&Protocol>, faults: &mut Faults) {
    match protocol {
        Some(Protocol::Number(0)) => faults.add(field, 0, "must be a number from 1 to 255, or a name"),
        Some(name) if name.number().is_none() => {
            faults.add(field, name, "must be TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or a number from 1 to 255");
        }
        _ => {}
    }
}

fn icmp(rule: &Rule, faults: &mut Faults) {
    let number = rule.protocol.as_ref().and_then(Protocol::number);
    for (field, fields) in [("ICMP", &rule.icmp), ("NotICMP", &rule.not_icmp)] {
        let Some(ICMPFields { icmp_type, code }) = fields else { continue };
        if !matches!(number, Some(1 | 58)) {
            let value = rule.protocol.as_ref().map(ToString::to_string).unwrap_or_default();
            faults.add(field, value, "needs the protocol ICMP or ICMPv6");
        }
        faults.range(&format!("{field}.Type"), *icmp_type, 0, 254);
        faults.range(&format!("{field}.Code"), *code, 0, 255);
        if let (None, Some(code)) = (icmp_type, code) {
            faults.add(format!("{field}.Code"), code, "needs a type");
        }
    }
    match (number, rule.ip_version) {
        (Some(1), Some(6)) => faults.add("IPVersion", 6, "does not go with the protocol ICMP: use ICMPv6"),
        (Some(58), Some(4)) => faults.add("IPVersion", 4, "does not go with the protocol ICMPv6: use ICMP"),
        _ => {}
    }
}

fn entity_rule(side: &str, entity: &EntityRule, rule: &Rule, faults: &mut Faults) {
    let field = |name: &str| format!("{side}.{name}");
    for (name, nets, negated) in [("Nets", &entity.nets, false), ("NotNets", &entity.not_nets, true)] {
        faults.at_most(&field(name), nets.as_deref(), MAX_NETS);
        for text in nets.iter().flatten() {
            let read = faults.network(&field(name), text);
            if negated && read.is_some_and(|network| network.prefix_len() == 0) {
                faults.add(field(name), text, "is every address, so the rule would match nothing");
            }
        }
    }
    for (name, list) in [("Ports", &entity.ports), ("NotPorts", &entity.not_ports)] {
        faults.at_most(&field(name), list.as_deref(), MAX_PORTS);
        ports(&field(name), list.as_deref().unwrap_or_default(), rule.protocol.as_ref(), faults);
    }
    faults.selector(&field("Selector"), entity.selector.as_ref());
    faults.selector(&field("NotSelector"), entity.not_selector.as_ref());
    namespace_selector(&field("NamespaceSelector"), entity.namespace_selector.as_ref(), faults);
    if let Some(accounts) = &entity.service_accounts {
        faults.selector(&field("ServiceAccounts.Selector"), accounts.selector.as_ref());
        for name in accounts.names.iter().flatten() {
            faults.name(&field("ServiceAccounts.Names"), Some(name));
        }
    }
}

/// A selector that may also be `global()`, but not contain it.
fn namespace_selector(field: &str, value: Option<&String>, faults: &mut Faults) {
    let is_global = filled(value).and_then(|text| Selector::parse(text).ok()).is_some_and(|read| read.is_global());
    if !is_global {
        faults.selector(field, value);
    }
}

fn ports(field: &str, ports: &[Port], protocol: Option<&Protocol>, faults: &mut Faults) {
    for port in ports {
        if matches!(port, Port::Number(0) | Port::Range(0, _)) {
            faults.add(field, port, "must be from 1 to 65535");
        }
        let reason = match (protocol, port) {
            (Some(protocol), _) if protocol.has_ports() => continue,
            (None, Port::Name(_)) => continue,
            (None, _) => "needs a protocol: ports with numbers are those of TCP, UDP or SCTP",
            (Some(_), _) => "goes only with the protocols TCP, UDP and SCTP",
        };
        faults.add(field, port, reason);
    }
}

/// One family for all networks of a rule, and that of its `ipVersion`.
fn families(rule: &Rule, faults: &mut Faults) {
    let mut seen = None;
    for (side, entity) in [("Source", &rule.source), ("Destination", &rule.destination)] {
        let Some(entity) = entity else { continue };
        for (name, nets) in [("Nets", &entity.nets), ("NotNets", &entity.not_nets)] {
            for text in nets.iter().flatten() {
                let version = match network(text) {
                    Some(IpNet::V4(_)) => 4,
                    Some(IpNet::V6(_)) => 6,
                    None => continue,
                };
                if rule.ip_version.is_some_and(|wanted| wanted != version) {
                    faults.add(format!("{side}.{name}"), text, "is not of the rule's ipVersion");
                } else if seen.is_some_and(|seen| seen != version) {
                    faults.add(format!("{side}.{name}"), text, "mixes IPv4 and IPv6 in one rule: write two rules");
                }
                seen = seen.or(Some(version));
            }
        }
    }
}

fn services(place: Place, rule: &Rule, faults: &mut Faults) {
    let sides = [
        ("Source", &rule.source, PolicyType::Ingress, "goes only with the source of ingress rules"),
        ("Destination", &rule.destination, PolicyType::Egress, "goes only with the destination of egress rules"),
    ];
    for (side, entity, direction, reason) in sides {
        let Some((entity, services)) = entity.as_ref().and_then(|entity| Some((entity, entity.services.as_ref()?)))
        else {
            continue;
        };
        let field = format!("{side}.Services");
        let name = filled(services.name.as_ref()).unwrap_or_default();
        faults.unless(place.direction == direction, &field, name, reason);
        faults.unless(!name.is_empty(), &format!("{field}.Name"), name, "must be given");
        if place.of_the_cluster && filled(services.namespace.as_ref()).is_none() {
            faults.add(format!("{field}.Namespace"), "", "must be given: the policy is of no namespace");
        }
        let has = |list: bool, name: &'static str| list.then_some(name);
        let others = [
            has(entity.ports.as_ref().is_some_and(|list| !list.is_empty()), "ports"),
            has(entity.not_ports.as_ref().is_some_and(|list| !list.is_empty()), "notPorts"),
            has(entity.nets.as_ref().is_some_and(|list| !list.is_empty()), "nets"),
            has(entity.not_nets.as_ref().is_some_and(|list| !list.is_empty()), "notNets"),
            has(filled(entity.selector.as_ref()).is_some(), "selector"),
            has(filled(entity.not_selector.as_ref()).is_some(), "notSelector"),
            has(filled(entity.namespace_selector.as_ref()).is_some(), "namespaceSelector"),
            has(entity.service_accounts.is_some(), "serviceAccounts"),
        ];
        for other in others.into_iter().flatten() {
            faults.add(&field, name, format!("cannot be set beside {other}"));
        }
    }
}

fn http_match(place: Place, rule: &Rule, http: &HTTPMatch, faults: &mut Faults) {
    let is_tcp = rule.protocol.as_ref().is_none_or(|protocol| protocol.number() == Some(6));
    if place.direction != PolicyType::Ingress {
        faults.add("HTTP", "", "not allowed in egress rules");
    }
    faults.unless(rule.action == Action::Allow, "HTTP", rule.action.as_str(), "goes only with the action Allow");
    faults.unless(is_tcp, "HTTP", "", "goes only with the protocol TCP, or with none");
    let methods = http.methods.as_deref().unwrap_or_default();
    let paths = http.paths.as_deref().unwrap_or_default();
    faults.at_most("Methods", Some(methods), MAX_HTTP);
    faults.at_most("Paths", Some(paths), MAX_HTTP);
    for (index, method) in methods.iter().enumerate() {
        if methods.iter().skip(index + 1).any(|other| other == method) {
            faults.add("Methods", method, "is there more than once");
        }
    }
    for path in paths {
        let given = (filled(path.exact.as_ref()), filled(path.prefix.as_ref()));
        let ((Some(text), None) | (None, Some(text))) = given else {
            faults.add("Paths", "", "must have either exact or prefix");
            continue;
        };
        let sound = text.starts_with('/') && !text.contains(['?', '#']);
        faults.unless(sound, "Paths", text, "must start with '/' and have neither '?' nor '#'");
    }
}
