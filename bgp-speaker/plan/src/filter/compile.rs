//! How does a BGPFilter resource become rules? Everything that it may get wrong is refused here, by place and field.

use std::sync::Arc;

use bgp_proto::{Asn, Prefix};
use calico_api::{AsNumber, BGPFilterAction, BGPFilterMatchOperator, BGPFilterOperation, BGPFilterRule, BGPFilterSpec};

use super::{BgpFilter, Condition, Operation, Outcome, Rule, Rules};
use crate::communities::network;

/// LOCAL_PREF is this minus a priority (Calico since 3.32).
const PRIORITY_BASE: u32 = 2_147_483_647;
/// The longest name of an interface.
const INTERFACE_LIMIT: usize = 15;
/// Most operations of a rule, and most numbers of a prepended path.
const OPERATIONS_LIMIT: usize = 10;

impl BgpFilter {
    /// Understands a resource.
    ///
    /// # Errors
    /// What is wrong with it: list, number of the rule from 0, field.
    pub fn compile(spec: &BGPFilterSpec) -> Result<Self, String> {
        let mut warnings = Vec::new();
        let mut list = |name: &str, rules: &Option<Vec<BGPFilterRule>>, is_v4: bool| {
            let rules = rules.iter().flatten().enumerate();
            let rules = rules.map(|(index, rule)| {
                let place = format!("spec.{name}[{index}]");
                Compiler { place, is_v4, warnings: &mut warnings }.rule(rule)
            });
            rules.collect::<Result<Arc<[Rule]>, String>>()
        };
        let import =
            Rules { v4: list("importV4", &spec.import_v4, true)?, v6: list("importV6", &spec.import_v6, false)? };
        let export =
            Rules { v4: list("exportV4", &spec.export_v4, true)?, v6: list("exportV6", &spec.export_v6, false)? };
        Ok(Self { import, export, warnings })
    }
}

struct Compiler<'a> {
    place: String,
    is_v4: bool,
    warnings: &'a mut Vec<String>,
}

impl Compiler<'_> {
    fn rule(&mut self, rule: &BGPFilterRule) -> Result<Rule, String> {
        let mut conditions = Vec::new();
        self.destination(rule, &mut conditions)?;
        match filled(&rule.source) {
            None => {}
            Some("RemotePeers") => conditions.push(Condition::Learned),
            Some(other) => return Err(self.fault("source", other, "expected RemotePeers")),
        }
        if let Some(glob) = filled(&rule.interface) {
            let known = |octet: u8| octet.is_ascii_alphanumeric() || b"_.*?-".contains(&octet);
            if glob.len() > INTERFACE_LIMIT || !glob.bytes().all(known) {
                let expected = "expected the name of an interface, up to 15 characters, * for any";
                return Err(self.fault("interface", glob, expected));
            }
            conditions.push(Condition::Interface(glob.to_owned()));
        }
        if let Some(peer_type) = rule.peer_type {
            conditions.push(Condition::External(peer_type == calico_api::BGPFilterPeerType::External));
        }
        if let Some(communities) = &rule.communities {
            let [value] = communities.values.as_slice() else {
                return Err(self.fault("communities.values", &communities.values.join(", "), "expected exactly one"));
            };
            let mark = value.parse().map_err(|error| format!("{}.communities.values: {error}", self.place))?;
            conditions.push(Condition::Community(mark));
        }
        if let Some(start) = rule.as_path_prefix.as_ref().filter(|start| !start.is_empty()) {
            conditions.push(Condition::AsPath(asns(start)));
        }
        if let Some(priority) = rule.priority {
            conditions.push(Condition::LocalPref(self.local_pref("priority", priority)?));
        }
        Ok(Rule { conditions, outcome: self.outcome(rule)? })
    }

    fn destination(&mut self, rule: &BGPFilterRule, conditions: &mut Vec<Condition>) -> Result<(), String> {
        let (text, operator) = match (filled(&rule.cidr), rule.match_operator) {
            (Some(text), Some(operator)) => (text, operator),
            (Some(text), None) => return Err(self.fault("cidr", text, "needs matchOperator")),
            (None, Some(operator)) => {
                return Err(self.fault("matchOperator", &format!("{operator:?}"), "needs cidr"));
            }
            (None, None) if rule.prefix_length.is_some() => {
                return Err(format!("{}.prefixLength needs cidr and matchOperator", self.place));
            }
            (None, None) => return Ok(()),
        };
        let (family, most) = if self.is_v4 { ("IPv4", 32) } else { ("IPv6", 128) };
        let Some(net) = network(text).filter(|net| net.addr().is_ipv4() == self.is_v4) else {
            return Err(self.fault("cidr", text, &format!("expected an {family} network")));
        };
        let limit = |field: &str, value: Option<i32>, default: u8| match value {
            None => Ok(default),
            Some(value) => u8::try_from(value).ok().filter(|value| *value <= most).ok_or_else(|| {
                self.fault(&format!("prefixLength.{field}"), &value.to_string(), &format!("expected 0 to {most}"))
            }),
        };
        let length = net.prefix_len();
        let bounds = match rule.prefix_length {
            None => None,
            Some(bounds) => Some((limit("min", bounds.min, length)?.max(length), limit("max", bounds.max, most)?)),
        };
        let (shortest, longest) = bounds.unwrap_or((length, most));
        if shortest > longest {
            self.warnings.push(format!("{}.prefixLength allows no length that {text} has inside", self.place));
        }
        use BGPFilterMatchOperator::{Equal, In, NotEqual, NotIn};
        conditions.extend(match (operator, bounds) {
            // BIRD compares a network with a set of networks here, which are never equal.
            (Equal, Some(_)) => {
                self.warnings.push(format!("{}: Equal with prefixLength never matches; use In", self.place));
                Some(Condition::Never)
            }
            (NotEqual, Some(_)) => {
                self.warnings.push(format!("{}: NotEqual with prefixLength always matches; use NotIn", self.place));
                None
            }
            (Equal | NotEqual, None) => {
                let expected = operator == Equal;
                Some(Condition::Destination { net: Prefix::from(net), shortest: length, longest: length, expected })
            }
            (In | NotIn, _) => {
                Some(Condition::Destination { net: Prefix::from(net), shortest, longest, expected: operator == In })
            }
        });
        Ok(())
    }

    fn outcome(&self, rule: &BGPFilterRule) -> Result<Outcome, String> {
        let operations = rule.operations.as_deref().unwrap_or_default();
        if rule.action == BGPFilterAction::Reject {
            return match operations {
                [] => Ok(Outcome::Reject),
                _ => Err(format!("{}.operations go only with action Accept", self.place)),
            };
        }
        if operations.len() > OPERATIONS_LIMIT {
            return Err(self.fault("operations", &operations.len().to_string(), "expected at most ten"));
        }
        let operations = operations.iter().enumerate();
        let operations = operations.map(|(index, operation)| self.operation(index, operation));
        operations.collect::<Result<_, _>>().map(Outcome::Accept)
    }

    fn operation(&self, index: usize, operation: &BGPFilterOperation) -> Result<Operation, String> {
        let field = |name: &str| format!("operations[{index}].{name}");
        match (&operation.add_community, &operation.prepend_as_path, &operation.set_priority) {
            (Some(add), None, None) => {
                let place = format!("{}.{}", self.place, field("addCommunity.value"));
                add.value.parse().map(Operation::Add).map_err(|error| format!("{place}: {error}"))
            }
            (None, Some(prepend), None) => {
                let count = prepend.prefix.len();
                if !(1..=OPERATIONS_LIMIT).contains(&count) {
                    let expected = "expected one to ten numbers";
                    return Err(self.fault(&field("prependASPath.prefix"), &count.to_string(), expected));
                }
                if prepend.prefix.iter().any(|asn| asn.0 == 0) {
                    // RFC 7607: nobody may send it, and peers would drop the route.
                    return Err(self.fault(&field("prependASPath.prefix"), "0", "expected an AS number from 1"));
                }
                Ok(Operation::Prepend(asns(&prepend.prefix)))
            }
            (None, None, Some(set)) => {
                self.local_pref(&field("setPriority.value"), set.value).map(Operation::SetLocalPref)
            }
            _ => {
                let expected = "is exactly one of addCommunity, prependASPath and setPriority";
                Err(format!("{}.operations[{index}] {expected}", self.place))
            }
        }
    }

    fn local_pref(&self, field: &str, priority: i64) -> Result<u32, String> {
        let number = u32::try_from(priority).ok().filter(|priority| (1..PRIORITY_BASE).contains(priority));
        number
            .map(|number| PRIORITY_BASE - number)
            .ok_or_else(|| self.fault(field, &priority.to_string(), &format!("expected 1 to {}", PRIORITY_BASE - 1)))
    }

    fn fault(&self, field: &str, value: &str, expected: &str) -> String {
        format!("{}.{field} is \"{value}\", {expected}", self.place)
    }
}

fn asns(numbers: &[AsNumber]) -> Vec<Asn> {
    numbers.iter().map(|number| Asn(number.0)).collect()
}

fn filled(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|text| !text.is_empty())
}
