//! What does the kernel say is in a table?

use std::collections::BTreeMap;

use super::expression::Verdict;
use super::object::{Base, ChainKind, Element, Hook, Shape, predecessor};
use super::wire::{body, chain, expression, find, find_user_data, handle, rule, set, wide};
use super::{TABLE_NAME, Table};
use crate::message::{Message, attributes, string};

/// What is in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Its chains.
    pub chains: BTreeMap<String, Chain>,
    /// Its sets and maps, also those without a name of their own that rules brought along.
    pub sets: BTreeMap<String, SetContents>,
    /// There is something else in it: counters, limits, flow tables, …
    pub others: bool,
}

/// A chain as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// What makes it a base chain.
    pub base: Option<Base>,
    /// It hangs where no chain of ours could.
    pub strange: bool,
    /// Its rules, in order.
    pub rules: Vec<RuleEntry>,
}

/// A rule as it is. What it does is not read: it is known by its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    /// The kernel's number of it.
    pub handle: u64,
    /// Its comment, empty if it has none.
    pub comment: String,
}

/// A set as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetContents {
    /// Of what kind.
    pub shape: Shape,
    /// Its elements, by their first key.
    pub elements: Vec<Element>,
    /// Something in it is not what we could have written.
    pub strange: bool,
}

/// The body of a message that is of this table.
fn of_table<'a>(message: &Message<'a>, table: &Table) -> Option<&'a [u8]> {
    let (family, attributes) = body(message.body)?;
    let name = find(attributes, TABLE_NAME)?;
    (family == table.family.number() && string(name) == table.name).then_some(attributes)
}

/// Whether the message is of this table.
pub(super) fn is_of_table(message: &Message<'_>, table: &Table) -> bool {
    of_table(message, table).is_some()
}

pub(super) fn parse_chain(message: &Message<'_>, table: &Table) -> Option<(String, Chain)> {
    let attributes = of_table(message, table)?;
    let name = string(find(attributes, chain::NAME)?);
    let Some(hook) = find(attributes, chain::HOOK) else { return Some((name, Chain::default())) };
    let base = parse_base(attributes, hook);
    Some((name, Chain { strange: base.is_none(), base, rules: Vec::new() }))
}

fn parse_base(attributes: &[u8], hook: &[u8]) -> Option<Base> {
    Some(Base {
        kind: match string(find(attributes, chain::TYPE)?).as_str() {
            "filter" => ChainKind::Filter,
            "nat" => ChainKind::Nat,
            "route" => ChainKind::Route,
            _ => return None,
        },
        hook: match wide(find(hook, chain::HOOK_NUMBER)?)? {
            0 => Hook::Prerouting,
            1 => Hook::Input,
            2 => Hook::Forward,
            3 => Hook::Output,
            4 => Hook::Postrouting,
            _ => return None,
        },
        priority: wide(find(hook, chain::HOOK_PRIORITY)?)? as i32,
        drop: wide(find(attributes, chain::POLICY)?)? == 0,
    })
}

/// The name of a rule's chain, and the rule.
pub(super) fn parse_rule(message: &Message<'_>, table: &Table) -> Option<(String, RuleEntry)> {
    let attributes = of_table(message, table)?;
    let comment = find(attributes, rule::USER_DATA).and_then(|data| find_user_data(data, rule::COMMENT));
    Some((
        string(find(attributes, rule::CHAIN)?),
        RuleEntry {
            handle: handle(find(attributes, rule::HANDLE)?)?,
            comment: comment.map(string).unwrap_or_default(),
        },
    ))
}

pub(super) fn parse_set(message: &Message<'_>, table: &Table) -> Option<(String, Shape)> {
    let attributes = of_table(message, table)?;
    let number = |kind| find(attributes, kind).and_then(wide);
    let shape = Shape {
        flags: number(set::FLAGS).unwrap_or(0),
        key_type: number(set::KEY_TYPE)?,
        key_length: number(set::KEY_LENGTH)?,
        data_type: number(set::DATA_TYPE).unwrap_or(0),
    };
    Some((string(find(attributes, set::NAME)?), shape))
}

/// An element as it is told.
#[derive(Debug)]
pub(super) struct Told {
    key: Vec<u8>,
    end: bool,
    key_end: Option<Vec<u8>>,
    verdict: Option<Verdict>,
    /// It has data that is no verdict of ours, or no key.
    strange: bool,
}

pub(super) fn parse_elements(message: &Message<'_>, table: &Table) -> Option<Vec<Told>> {
    let list = find(of_table(message, table)?, set::ELEMENTS)?;
    Some(attributes(list).map(|(_, element)| parse_element(element)).collect())
}

fn parse_element(element: &[u8]) -> Told {
    let key = |kind| find(element, kind).and_then(|data| find(data, expression::VALUE)).map(<[u8]>::to_vec);
    let data = find(element, set::ELEMENT_DATA);
    let verdict = data.and_then(Verdict::parse);
    let first = key(set::ELEMENT_KEY);
    Told {
        strange: first.is_none() || data.is_some() != verdict.is_some(),
        key: first.unwrap_or_default(),
        end: find(element, set::ELEMENT_FLAGS).and_then(wide).unwrap_or(0) & set::INTERVAL_END != 0,
        key_end: key(set::ELEMENT_KEY_END),
        verdict,
    }
}

/// Makes of what was told of a set's elements what they are.
pub(super) fn assemble(shape: Shape, mut told: Vec<Told>) -> SetContents {
    let length = shape.key_length as usize;
    let mut strange = told.iter().any(|told| told.strange || told.key.len() != length);
    let mut elements: Vec<Element> = Vec::with_capacity(told.len() / 2);
    if !shape.has_ends() {
        elements.extend(told.into_iter().map(|told| Element {
            first: told.key,
            last: told.key_end,
            verdict: told.verdict,
        }));
        elements.sort();
        return SetContents { shape, elements, strange };
    }
    // An end comes before what begins at the same key.
    told.sort_by(|one, other| (&one.key, !one.end).cmp(&(&other.key, !other.end)));
    let mut open: Option<Element> = None;
    for told in told {
        if !told.end {
            strange |= open.is_some();
            open = Some(Element { first: told.key, last: None, verdict: told.verdict });
        } else if let Some(begun) = open.take() {
            elements.push(Element { last: predecessor(&told.key), ..begun });
        }
        // Else it is the end of nothing that `nft` writes at the first key.
    }
    if let Some(begun) = open {
        elements.push(Element { last: Some(vec![0xff; begun.first.len()]), ..begun });
    }
    SetContents { shape, elements, strange }
}

/// Reads octets as everything that the kernel could mean by them: what fuzzing calls.
#[doc(hidden)]
pub fn read_anything(octets: &[u8]) {
    let whole = Message { kind: 0, flags: 0, sequence: 0, body: octets };
    for message in crate::message::messages(octets).chain([whole]) {
        let Some((family, attributes)) = body(message.body) else { continue };
        let family = if family == super::Family::Ip6.number() { super::Family::Ip6 } else { super::Family::Ip };
        let name = find(attributes, TABLE_NAME).map(string).unwrap_or_default();
        let table = Table::new(family, name);
        let _ = (parse_chain(&message, &table), parse_rule(&message, &table), message.error());
        let shape = parse_set(&message, &table).map(|(_, shape)| shape);
        super::monitor::event(&message, 0, std::slice::from_ref(&table));
        for shape in [shape.unwrap_or_default(), Shape { flags: set::INTERVAL, ..Shape::default() }] {
            let told = parse_elements(&message, &table).unwrap_or_default();
            let count = told.len();
            assert!(assemble(shape, told).elements.len() <= count, "elements are not made of nothing");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Request;
    use crate::nftables::wire::kind;
    use crate::nftables::{Batch, Family, Set};

    /// A tree of attributes, of kinds that mean something.
    fn attributes() -> impl Strategy<Value = Vec<u8>> {
        let text = prop_oneof![Just(b"t\0".to_vec()), prop::collection::vec(any::<u8>(), 0..20)];
        let leaf = (0_u16..14, text).prop_map(|(kind, value)| attribute(kind, &value));
        leaf.prop_recursive(5, 40, 5, |inner| {
            (1_u16..14, prop::collection::vec(inner, 0..5)).prop_map(|(kind, all)| attribute(kind, &all.concat()))
        })
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut request = Request::new(0, 0, &[]);
        request.attribute(kind, value);
        request.octets().to_vec()
    }

    proptest! {
        #[test]
        fn reading_octets_never_panics_and_ends(
            trees in prop::collection::vec(attributes(), 0..6),
            junk in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let body = [&[2, 0, 0, 0][..], &attribute(TABLE_NAME, b"t\0"), &trees.concat(), &junk].concat();
            read_anything(&body);
            read_anything(&junk);
        }
    }

    /// Elements as the kernel tells them are those that a batch writes.
    #[test]
    fn elements_are_read_as_they_are_written() {
        let table = Table::new(Family::Ip6, "calico");
        let set = Set::of_networks("nodes", Family::Ip6);
        let elements: Vec<Element> = ["::/128", "fd00::/8", "fe00::/8", "ff00::/8"]
            .iter()
            .map(|text| Element::network(text.parse().unwrap()))
            .collect();
        let mut batch = Batch::new();
        batch.add_elements(&table, &set, &elements);
        let told = batch.requests.iter().flat_map(|(request, _)| {
            let message = Message { kind: kind::NEW_ELEMENTS, flags: 0, sequence: 0, body: request.octets() };
            parse_elements(&message, &table).unwrap()
        });
        let mut told: Vec<Told> = told.collect();
        assert_eq!(told.len(), 7, "the last interval has no end");
        told.reverse();
        let contents = assemble(set.shape(), told);
        assert_eq!((contents.elements, contents.strange), (elements, false));
    }
}
