//! Conditions on labels: what they mean, and their canonical form.

use std::collections::BTreeSet;
use std::fmt;

use crate::Labels;

/// A condition on labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expression {
    /// `all()`: always true.
    All,
    /// `global()`: always true; it means something only to whoever looks for it.
    Global,
    /// `has(label)`.
    Has(String),
    /// `label == "value"`.
    Equal(String, String),
    /// `label != "value"`; true also without the label.
    NotEqual(String, String),
    /// `label contains "value"`.
    Contains(String, String),
    /// `label starts with "value"`.
    StartsWith(String, String),
    /// `label ends with "value"`.
    EndsWith(String, String),
    /// `label in {"a", "b"}`.
    In(String, BTreeSet<String>),
    /// `label not in {"a", "b"}`; true also without the label.
    NotIn(String, BTreeSet<String>),
    /// `!x`, where `x` is not itself a negation.
    Not(Box<Self>),
    /// `(x && y)`, two or more.
    And(Vec<Self>),
    /// `(x || y)`, two or more.
    Or(Vec<Self>),
}

impl Expression {
    /// Whether the condition holds for these labels.
    pub fn matches<L: Labels + ?Sized>(&self, labels: &L) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => labels.get(label).is_some(),
            Self::Equal(label, value) => labels.get(label) == Some(value),
            Self::NotEqual(label, value) => labels.get(label) != Some(value),
            Self::Contains(label, part) => labels.get(label).is_some_and(|value| value.contains(part)),
            Self::StartsWith(label, part) => labels.get(label).is_some_and(|value| value.starts_with(part)),
            Self::EndsWith(label, part) => labels.get(label).is_some_and(|value| value.ends_with(part)),
            Self::In(label, values) => labels.get(label).is_some_and(|value| values.contains(value)),
            Self::NotIn(label, values) => labels.get(label).is_none_or(|value| !values.contains(value)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }

    /// Whether `global()` occurs anywhere in it.
    pub(crate) fn mentions_global(&self) -> bool {
        match self {
            Self::Global => true,
            Self::Not(inner) => inner.mentions_global(),
            Self::And(parts) | Self::Or(parts) => parts.iter().any(Self::mentions_global),
            _ => false,
        }
    }
}

/// A value in quotes that it does not contain itself; the grammar lets no value contain both kinds.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

fn set(f: &mut fmt::Formatter<'_>, label: &str, operator: &str, values: &BTreeSet<String>) -> fmt::Result {
    write!(f, "{label} {operator} {{")?;
    for (index, value) in values.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(f, "{comma}{}", Quoted(value))?;
    }
    f.write_str("}")
}

fn joined(f: &mut fmt::Formatter<'_>, operator: &str, parts: &[Expression]) -> fmt::Result {
    f.write_str("(")?;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            write!(f, " {operator} ")?;
        }
        write!(f, "{part}")?;
    }
    f.write_str(")")
}

impl fmt::Display for Expression {
    /// One blank around operators, sets in order, parentheses around every `&&` and `||`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(label) => write!(f, "has({label})"),
            Self::Equal(label, value) => write!(f, "{label} == {}", Quoted(value)),
            Self::NotEqual(label, value) => write!(f, "{label} != {}", Quoted(value)),
            Self::Contains(label, value) => write!(f, "{label} contains {}", Quoted(value)),
            Self::StartsWith(label, value) => write!(f, "{label} starts with {}", Quoted(value)),
            Self::EndsWith(label, value) => write!(f, "{label} ends with {}", Quoted(value)),
            Self::In(label, values) => set(f, label, "in", values),
            Self::NotIn(label, values) => set(f, label, "not in", values),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(parts) => joined(f, "&&", parts),
            Self::Or(parts) => joined(f, "||", parts),
        }
    }
}
