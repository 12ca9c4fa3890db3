//! What does a BGPFilter say of a path? (`bgp.md` §2.7)
//!
//! Rules are tried in order; the first whose conditions all hold decides, for the whole session. Without one the next
//! filter is asked, and at last the usual policy ([`policies`](crate::policies)).

mod compile;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bgp_proto::{Asn, Attributes, Candidate, Family, Prefix, Source, Verdict};

use crate::communities::Mark;

/// A BGPFilter, ready to be asked. Clones share their rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpFilter {
    import: Rules,
    export: Rules,
    warnings: Vec<String>,
}

/// Which way a path goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the peer to us.
    Import,
    /// From us to the peer.
    Export,
}

/// The rules of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    v4: Arc<[Rule]>,
    v6: Arc<[Rule]>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// Whether the prefix lies in `net` with a length from `shortest` to `longest` is `expected`.
    Destination { net: Prefix, shortest: u8, longest: u8, expected: bool },
    /// It was learned by BGP.
    Learned,
    /// Its outgoing interface matches.
    Interface(String),
    /// The session is external, or is not.
    External(bool),
    /// It carries the community.
    Community(Mark),
    /// Its path begins so.
    AsPath(Vec<Asn>),
    /// It has this LOCAL_PREF.
    LocalPref(u32),
    /// Holds for nothing.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Accept(Vec<Operation>),
    Reject,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    Add(Mark),
    Prepend(Vec<Asn>),
    SetLocalPref(u32),
}

impl BgpFilter {
    /// A filter that rejects everything both ways: what stands for one that exists and was never understood, so that
    /// a mistake opens nothing.
    pub fn reject_all() -> Self {
        let reject = || Arc::from([Rule { conditions: Vec::new(), outcome: Outcome::Reject }]);
        let rules = Rules { v4: reject(), v6: reject() };
        Self { import: rules.clone(), export: rules, warnings: Vec::new() }
    }

    /// What is understood but likely not meant: list, number of the rule, field.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What it says of a path: an explicit acceptance, a rejection, or nothing.
    pub fn judge(&self, direction: Direction, candidate: &Candidate<'_>) -> Option<Verdict> {
        self.rules(direction).judge(candidate)
    }

    pub(crate) fn rules(&self, direction: Direction) -> &Rules {
        match direction {
            Direction::Import => &self.import,
            Direction::Export => &self.export,
        }
    }
}

impl Rules {
    /// Whether there is no rule.
    pub(crate) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether those for a family are the same.
    pub(crate) fn agree(&self, other: &Self, family: Family) -> bool {
        self.of(family) == other.of(family)
    }

    fn of(&self, family: Family) -> &[Rule] {
        match family {
            Family::Ipv4Unicast => &self.v4,
            Family::Ipv6Unicast => &self.v6,
        }
    }

    /// What the first rule that matches says.
    pub(crate) fn judge(&self, candidate: &Candidate<'_>) -> Option<Verdict> {
        let rules = self.of(candidate.prefix.family());
        let matches = |rule: &&Rule| rule.conditions.iter().all(|condition| condition.holds(candidate));
        Some(match &rules.iter().find(matches)?.outcome {
            Outcome::Reject => Verdict::Reject,
            Outcome::Accept(operations) if operations.is_empty() => Verdict::AcceptExplicitly(None),
            Outcome::Accept(operations) => {
                let mut attributes = Attributes::clone(candidate.attributes);
                operations.iter().for_each(|operation| operation.change(&mut attributes));
                Verdict::AcceptExplicitly(Some(Box::new(attributes)))
            }
        })
    }
}

impl Condition {
    fn holds(&self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::Destination { net, shortest, longest, expected } => {
                let length = candidate.prefix.length();
                let inside = (*shortest..=*longest).contains(&length) && net.contains(&candidate.prefix);
                inside == *expected
            }
            Self::Learned => matches!(candidate.source, Source::Peer { .. }),
            Self::Interface(glob) => candidate.interface.is_some_and(|name| matches_glob(glob, name)),
            Self::External(external) => (candidate.peer_as != candidate.local_as) == *external,
            Self::Community(mark) => mark.is_on(candidate.attributes),
            Self::AsPath(start) => candidate.attributes.as_path.begins_with(start),
            Self::LocalPref(value) => candidate.attributes.effective_local_pref() == *value,
            Self::Never => false,
        }
    }
}

impl Operation {
    fn change(&self, attributes: &mut Attributes) {
        match self {
            Self::Add(mark) => mark.put_on(attributes),
            Self::Prepend(asns) => attributes.as_path.prepend_all(asns),
            Self::SetLocalPref(value) => attributes.local_pref = Some(*value),
        }
    }
}

/// Whether a name matches a pattern in which `*` is any characters and `?` is one.
fn matches_glob(glob: &str, name: &str) -> bool {
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    let (mut at, mut read) = (0, 0);
    // Where to go back to: behind the last `*`, and one character further than it took before.
    let mut back: Option<(usize, usize)> = None;
    loop {
        match (glob.get(at), name.get(read)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                at += 1;
                back = Some((at, read));
            }
            (Some(b'?'), Some(_)) => (at, read) = (at + 1, read + 1),
            (Some(a), Some(b)) if a == b => (at, read) = (at + 1, read + 1),
            _ => match back {
                Some((star, taken)) if taken < name.len() => {
                    (at, read) = (star, taken + 1);
                    back = Some((star, taken + 1));
                }
                _ => return false,
            },
        }
    }
}
