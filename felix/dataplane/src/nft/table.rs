//! What must change in a table for it to be as desired? No kernel is asked here.

use std::collections::BTreeMap;

use calico_delta::Delta;
use calico_netlink::nftables::{Base, Batch, Contents, Element, Rule, Set, Table};

/// A chain as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    DeleteTable,
    AddTable,
    AddSet(Set),
    DeleteSet(String),
    AddChain(String, Option<Base>),
    FlushChain(String),
    DeleteChain(String),
    DeleteRule { chain: String, handle: u64 },
    AddRule { chain: String, rule: Rule, before: Option<u64> },
    DeleteElements { set: Set, elements: Vec<Element> },
    AddElements { set: Set, elements: Vec<Element> },
}

impl Operation {
    /// Whether only members of sets change by it.
    pub(super) fn is_of_elements(&self) -> bool {
        matches!(self, Self::DeleteElements { .. } | Self::AddElements { .. })
    }

    pub(super) fn encode(&self, table: &Table, batch: &mut Batch) {
        match self {
            Self::DeleteTable => batch.delete_table(table),
            Self::AddTable => batch.add_table(table),
            Self::AddSet(set) => batch.add_set(table, set),
            Self::DeleteSet(name) => batch.delete_set(table, name),
            Self::AddChain(name, base) => batch.add_chain(table, name, *base),
            Self::FlushChain(name) => batch.flush_chain(table, name),
            Self::DeleteChain(name) => batch.delete_chain(table, name),
            Self::DeleteRule { chain, handle } => batch.delete_rule(table, chain, *handle),
            Self::AddRule { chain, rule, before } => batch.add_rule(table, chain, rule, *before),
            Self::DeleteElements { set, elements } => batch.delete_elements(table, set, elements),
            Self::AddElements { set, elements } => batch.add_elements(table, set, elements),
        }
    }
}

/// A rule that is there: its identity, and its number, which is not known of what we wrote since we read.
type Known = (String, Option<u64>);

/// A chain that is there.
#[derive(Debug, Default)]
struct ActualChain {
    base: Option<Base>,
    /// It hangs where no chain of ours could.
    strange: bool,
    rules: Vec<Known>,
}

#[derive(Debug)]
struct SetState {
    set: Set,
    exists: bool,
    elements: Delta<Element, ()>,
}

/// A table as it should be, and as it is.
#[derive(Debug)]
pub(super) struct TableState {
    pub(super) table: Table,
    exists: bool,
    chains: BTreeMap<String, Chain>,
    /// Chains that are there, ours and others'.
    actual_chains: BTreeMap<String, ActualChain>,
    /// Chains of which something must change.
    dirty_chains: Vec<String>,
    sets: BTreeMap<String, SetState>,
    /// Sets that are there and are not desired.
    other_sets: Vec<String>,
    /// Something is there that cannot be made right piece by piece.
    rebuild: bool,
}

impl TableState {
    pub(super) fn new(table: Table) -> Self {
        Self {
            table,
            exists: false,
            chains: BTreeMap::new(),
            actual_chains: BTreeMap::new(),
            dirty_chains: Vec::new(),
            sets: BTreeMap::new(),
            other_sets: Vec::new(),
            rebuild: false,
        }
    }

    /// Desires a set, at first without elements.
    pub(super) fn want_set(&mut self, set: Set) {
        self.sets.insert(set.name.clone(), SetState { set, exists: false, elements: Delta::new() });
    }

    /// Desires an element of a set that is desired, or does not desire it any more.
    pub(super) fn want_element(&mut self, set: &str, element: Element, wanted: bool) {
        let state = self.sets.get_mut(set).expect("elements are desired of desired sets");
        if wanted {
            state.elements.want(element, ());
        } else {
            state.elements.unwant(&element);
        }
    }

    /// Desires these chains and no others.
    pub(super) fn want_chains(&mut self, chains: BTreeMap<String, Chain>) {
        self.chains = chains;
        self.compare_chains();
    }

    fn compare_chains(&mut self) {
        let differs = |(name, chain): (&String, &Chain)| {
            let same = self.actual_chains.get(name).is_some_and(|actual| is_same(&chain.rules, &actual.rules));
            (!same).then(|| name.clone())
        };
        self.dirty_chains = self.chains.iter().filter_map(differs).collect();
    }

    /// Takes note of what is there.
    pub(super) fn read(&mut self, contents: Option<Contents>) {
        self.exists = contents.is_some();
        let Contents { chains, mut sets, others } = contents.unwrap_or_default();
        self.rebuild = others;
        for state in self.sets.values_mut() {
            let found = sets.remove(&state.set.name);
            state.exists = found.is_some();
            let found = found.unwrap_or_default();
            self.rebuild |= state.exists && (found.strange || found.shape != state.set.shape());
            state.elements.resync(found.elements.into_iter().map(|element| (element, ())));
        }
        // Sets of a rule's own go with it.
        self.other_sets = sets.into_keys().filter(|name| !is_anonymous(name)).collect();
        self.actual_chains.clear();
        for (name, chain) in chains {
            let rules = chain.rules.into_iter().map(|rule| (rule.comment, Some(rule.handle))).collect();
            if !is_anonymous(&name) {
                self.actual_chains.insert(name, ActualChain { base: chain.base, strange: chain.strange, rules });
            }
        }
        self.compare_chains();
    }

    fn actual_rules(&self, name: &str) -> &[Known] {
        self.actual_chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default()
    }

    /// Whether a chain of ours hangs elsewhere: in its place it cannot become another.
    fn is_misplaced(&self) -> bool {
        let other = |(name, chain): (&String, &Chain)| {
            self.actual_chains.get(name).is_some_and(|actual| actual.strange || actual.base != chain.base)
        };
        self.chains.iter().any(other)
    }

    /// Whether all rules that `chains` has in a chain are there, and it has some.
    pub(super) fn holds(&self, name: &str, chains: &BTreeMap<String, Chain>) -> bool {
        let actual = self.actual_rules(name);
        let is_there = |rule: &Rule| actual.iter().any(|(comment, _)| *comment == rule.comment);
        chains.get(name).is_some_and(|chain| chain.rules.iter().all(is_there))
    }

    /// Lets the next plan make the table anew, in one step.
    pub(super) fn rebuild(&mut self) {
        self.rebuild = true;
    }

    /// What must change, in an order in which nothing is used before it is there or deleted while it is used. Empty if
    /// nothing must.
    pub(super) fn plan(&self) -> Vec<Operation> {
        let mut plan = Vec::new();
        if self.rebuild || self.is_misplaced() {
            if self.exists {
                plan.push(Operation::DeleteTable);
            }
            self.plan_all(&mut plan);
        } else if !self.exists {
            self.plan_all(&mut plan);
        } else {
            self.plan_difference(&mut plan);
        }
        plan
    }

    fn plan_all(&self, plan: &mut Vec<Operation>) {
        plan.push(Operation::AddTable);
        for state in self.sets.values() {
            plan.push(Operation::AddSet(state.set.clone()));
            let elements: Vec<Element> = state.elements.desired().keys().cloned().collect();
            if !elements.is_empty() {
                plan.push(Operation::AddElements { set: state.set.clone(), elements });
            }
        }
        for (name, chain) in &self.chains {
            plan.push(Operation::AddChain(name.clone(), chain.base));
        }
        for (name, chain) in &self.chains {
            plan.extend(chain.rules.iter().map(|rule| append(name, rule)));
        }
    }

    fn plan_difference(&self, plan: &mut Vec<Operation>) {
        for state in self.sets.values() {
            if !state.exists {
                plan.push(Operation::AddSet(state.set.clone()));
            }
            let difference = state.elements.plan();
            if state.exists && !difference.deletes.is_empty() {
                plan.push(Operation::DeleteElements { set: state.set.clone(), elements: difference.deletes });
            }
            // Nothing is in a set that is not there, whatever was once seen in it.
            let elements: Vec<Element> = match state.exists {
                true => difference.upserts.into_iter().map(|(element, ())| element).collect(),
                false => state.elements.desired().keys().cloned().collect(),
            };
            if !elements.is_empty() {
                plan.push(Operation::AddElements { set: state.set.clone(), elements });
            }
        }
        for name in &self.dirty_chains {
            if !self.actual_chains.contains_key(name) {
                let base = self.chains.get(name).and_then(|chain| chain.base);
                plan.push(Operation::AddChain(name.clone(), base));
            }
        }
        let extra: Vec<&String> = self.actual_chains.keys().filter(|name| !self.chains.contains_key(*name)).collect();
        plan.extend(extra.iter().map(|name| Operation::FlushChain((*name).clone())));
        for name in &self.dirty_chains {
            if let Some(chain) = self.chains.get(name) {
                plan_rules(name, &chain.rules, self.actual_rules(name), plan);
            }
        }
        plan.extend(self.other_sets.iter().cloned().map(Operation::DeleteSet));
        plan.extend(extra.iter().map(|name| Operation::DeleteChain((*name).clone())));
    }

    /// Takes note of what was made: all of what [`Self::plan`] said.
    pub(super) fn made(&mut self, plan: &[Operation]) {
        let all = plan.iter().any(|operation| matches!(operation, Operation::AddTable));
        if all {
            self.actual_chains.clear();
        }
        self.exists = true;
        self.rebuild = false;
        self.other_sets.clear();
        for state in self.sets.values_mut() {
            if all || !state.exists {
                let there: Vec<_> = state.elements.desired().keys().map(|element| (element.clone(), ())).collect();
                state.elements.resync(there);
            } else {
                let difference = state.elements.plan();
                for element in difference.deletes {
                    state.elements.gone(&element);
                }
                for (element, ()) in difference.upserts {
                    state.elements.seen(element, ());
                }
            }
            state.exists = true;
        }
        self.actual_chains.retain(|name, _| self.chains.contains_key(name));
        let dirty = std::mem::take(&mut self.dirty_chains);
        let names: Vec<String> = if all { self.chains.keys().cloned().collect() } else { dirty };
        for name in names {
            let Some(chain) = self.chains.get(&name) else { continue };
            let before = self.actual_chains.remove(&name).unwrap_or_default().rules;
            let (head, tail) = common(&chain.rules, &before);
            let handle = |index: usize| match index {
                _ if index < head => before.get(index),
                _ if index >= chain.rules.len() - tail => before.get(before.len() + index - chain.rules.len()),
                _ => None,
            };
            let flushed = plan.contains(&Operation::FlushChain(name.clone()));
            let known = chain.rules.iter().enumerate().map(|(index, rule)| {
                let handle = handle(index).and_then(|(_, handle)| *handle).filter(|_| !flushed);
                (rule.comment.clone(), handle)
            });
            let rules = known.collect();
            self.actual_chains.insert(name, ActualChain { base: chain.base, strange: false, rules });
        }
    }
}

/// Sets and chains that the kernel made for a rule alone.
fn is_anonymous(name: &str) -> bool {
    name.starts_with("__")
}

fn is_same(desired: &[Rule], actual: &[Known]) -> bool {
    desired.len() == actual.len() && desired.iter().zip(actual).all(|(rule, (comment, _))| rule.comment == *comment)
}

fn append(chain: &str, rule: &Rule) -> Operation {
    Operation::AddRule { chain: chain.to_owned(), rule: rule.clone(), before: None }
}

/// How many rules are right at the beginning, and how many of the others at the end.
fn common(desired: &[Rule], actual: &[Known]) -> (usize, usize) {
    let is_same = |(rule, known): &(&Rule, &Known)| rule.comment == known.0;
    let head = desired.iter().zip(actual).take_while(is_same).count();
    let most = desired.len().min(actual.len()) - head;
    let tail = desired.iter().rev().zip(actual.iter().rev()).take(most).take_while(is_same).count();
    (head, tail)
}

/// Exchanges the rules in the middle, so that the others go on counting.
fn plan_rules(name: &str, desired: &[Rule], actual: &[Known], plan: &mut Vec<Operation>) {
    let (head, tail) = common(desired, actual);
    let old = actual.get(head..actual.len() - tail).unwrap_or_default();
    let new = desired.get(head..desired.len() - tail).unwrap_or_default();
    let next = actual.get(actual.len() - tail).map(|(_, handle)| *handle);
    let handles: Option<Vec<u64>> = old.iter().map(|(_, handle)| *handle).collect();
    match (handles, next) {
        // Of what we wrote ourselves since we last read, the numbers are not known.
        (None, _) | (_, Some(None)) => {
            plan.push(Operation::FlushChain(name.to_owned()));
            plan.extend(desired.iter().map(|rule| append(name, rule)));
        }
        (Some(handles), next) => {
            let delete = |handle| Operation::DeleteRule { chain: name.to_owned(), handle };
            plan.extend(handles.into_iter().map(delete));
            let add =
                |rule: &Rule| Operation::AddRule { chain: name.to_owned(), rule: rule.clone(), before: next.flatten() };
            plan.extend(new.iter().map(add));
        }
    }
}

#[cfg(test)]
mod tests;
