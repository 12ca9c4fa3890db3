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
    actual_chains: BTreeMap<String, Vec<Known>>,
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
        // A base chain cannot become another one in its place.
        let other_base = |(name, old): (&String, &Chain)| chains.get(name).is_some_and(|new| new.base != old.base);
        self.rebuild |= self.chains.iter().any(other_base);
        self.chains = chains;
        self.compare_chains();
    }

    fn compare_chains(&mut self) {
        let differs = |(name, chain): (&String, &Chain)| {
            let same = self.actual_chains.get(name).is_some_and(|actual| is_same(&chain.rules, actual));
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
            self.rebuild |= self.chains.get(&name).is_some_and(|wanted| chain.strange || wanted.base != chain.base);
            let rules = chain.rules.into_iter().map(|rule| (rule.comment, Some(rule.handle)));
            if !is_anonymous(&name) {
                self.actual_chains.insert(name, rules.collect());
            }
        }
        self.compare_chains();
    }

    /// Lets the next plan make the table anew, in one step.
    pub(super) fn rebuild(&mut self) {
        self.rebuild = true;
    }

    /// What must change, in an order in which nothing is used before it is there or deleted while it is used. Empty if
    /// nothing must.
    pub(super) fn plan(&self) -> Vec<Operation> {
        let mut plan = Vec::new();
        if self.rebuild {
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
                let actual = self.actual_chains.get(name).map(Vec::as_slice).unwrap_or_default();
                plan_rules(name, &chain.rules, actual, plan);
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
            let before = self.actual_chains.remove(&name).unwrap_or_default();
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
            let known = known.collect();
            self.actual_chains.insert(name, known);
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
mod tests {
    use std::collections::BTreeSet;

    use calico_netlink::nftables::{ChainKind, Contents, Expression, Family, Hook, RuleEntry, SetContents, Verdict};
    use proptest::prelude::*;

    use super::*;

    /// Rules, each with the chains that it leads to.
    type Rules = Vec<(RuleEntry, Vec<String>)>;

    /// A kernel as far as the order of a transaction matters to it.
    #[derive(Clone, Debug, Default)]
    struct Kernel {
        exists: bool,
        others: bool,
        handles: u64,
        chains: BTreeMap<String, (Option<Base>, Rules)>,
        sets: BTreeMap<String, (Set, BTreeSet<Element>)>,
    }

    /// The chains that a rule leads to.
    fn targets(rule: &Rule) -> Vec<String> {
        let target = |expression: &Expression| match expression {
            Expression::Verdict(Verdict::Jump(chain)) => Some(chain.clone()),
            _ => None,
        };
        rule.expressions.iter().filter_map(target).collect()
    }

    impl Kernel {
        fn make(&mut self, operation: &Operation) {
            assert!(self.exists || matches!(operation, Operation::AddTable), "{operation:?} of no table");
            match operation.clone() {
                Operation::DeleteTable => *self = Self { handles: self.handles, ..Self::default() },
                Operation::AddTable => self.exists = true,
                Operation::AddSet(set) => assert!(self.sets.insert(set.name.clone(), (set, BTreeSet::new())).is_none()),
                Operation::DeleteSet(name) => assert!(self.sets.remove(&name).is_some()),
                Operation::AddChain(name, base) => assert!(self.chains.insert(name, (base, Vec::new())).is_none()),
                Operation::FlushChain(name) => self.chains.get_mut(&name).unwrap().1.clear(),
                Operation::DeleteChain(name) => {
                    let used = self.chains.values().flat_map(|chain| &chain.1).any(|(_, to)| to.contains(&name));
                    assert!(!used && self.chains.remove(&name).unwrap().1.is_empty(), "{name} is in use");
                }
                Operation::DeleteRule { chain, handle } => {
                    let rules = &mut self.chains.get_mut(&chain).unwrap().1;
                    let place = rules.iter().position(|(rule, _)| rule.handle == handle).unwrap();
                    rules.remove(place);
                }
                Operation::AddRule { chain, rule, before } => {
                    let to = targets(&rule);
                    assert!(to.iter().all(|target| self.chains.contains_key(target)), "to a chain that is not there");
                    self.handles += 1;
                    let entry = RuleEntry { handle: self.handles, comment: rule.comment };
                    let rules = &mut self.chains.get_mut(&chain).unwrap().1;
                    let is_next = |(rule, _): &(RuleEntry, _)| Some(rule.handle) == before;
                    let place = before.map_or(rules.len(), |_| rules.iter().position(is_next).unwrap());
                    rules.insert(place, (entry, to));
                }
                Operation::DeleteElements { set, elements } => {
                    let there = &mut self.sets.get_mut(&set.name).unwrap().1;
                    assert!(elements.iter().all(|element| there.remove(element)));
                }
                Operation::AddElements { set, elements } => {
                    let there = &mut self.sets.get_mut(&set.name).unwrap().1;
                    assert!(elements.into_iter().all(|element| there.insert(element)));
                }
            }
        }

        fn contents(&self) -> Option<Contents> {
            let chain = |(base, rules): &(Option<Base>, Rules)| {
                let rules = rules.iter().map(|(rule, _)| rule.clone()).collect();
                calico_netlink::nftables::Chain { base: *base, strange: false, rules }
            };
            let set = |(set, elements): &(Set, BTreeSet<Element>)| SetContents {
                shape: set.shape(),
                elements: elements.iter().cloned().collect(),
                strange: false,
            };
            self.exists.then(|| Contents {
                chains: self.chains.iter().map(|(name, found)| (name.clone(), chain(found))).collect(),
                sets: self.sets.iter().map(|(name, found)| (name.clone(), set(found))).collect(),
                others: self.others,
            })
        }
    }

    /// What is wanted at one time: rules by number in each of three chains, of which the third may be one of two base
    /// chains, and members by number in each of two sets.
    type Wish = (Vec<Option<Vec<u8>>>, bool, Vec<BTreeSet<u8>>);

    fn wish() -> impl Strategy<Value = Wish> {
        let rules = prop::collection::vec(0_u8..6, 0..6);
        let chains = prop::collection::vec(prop::option::of(rules), 3);
        let members = prop::collection::vec(prop::collection::btree_set(0_u8..8, 0..6), 2);
        (chains, any::<bool>(), members)
    }

    fn set(number: usize) -> Set {
        Set::of_networks(format!("set{number}"), Family::Ip)
    }

    fn element(number: u8) -> Element {
        Element::key([10, 0, 0, number])
    }

    fn wanted_chains((chains, filter, _): &Wish) -> BTreeMap<String, Chain> {
        let name = |index: usize| format!("chain{index}");
        let kind = if *filter { ChainKind::Filter } else { ChainKind::Nat };
        let base = Base { kind, hook: Hook::Postrouting, priority: 0, drop: false };
        let there = |index: usize| chains.get(index).is_some_and(Option::is_some);
        let rule = |index: usize, number: u8| {
            // Only to later ones, so that nothing goes in circles.
            let target = usize::from(number) % 2 + 1 + index;
            let jump = there(target).then(|| Expression::Verdict(Verdict::Jump(name(target))));
            let comment = format!("{number} {}", jump.is_some());
            Rule { expressions: jump.into_iter().collect(), comment }
        };
        let chain = |(index, rules): (usize, &Option<Vec<u8>>)| {
            let rules = rules.as_ref()?.iter().map(|number| rule(index, *number)).collect();
            Some((name(index), Chain { base: (index == 2).then_some(base), rules }))
        };
        chains.iter().enumerate().filter_map(chain).collect()
    }

    fn want(state: &mut TableState, wish: &Wish) {
        state.want_chains(wanted_chains(wish));
        for (number, members) in wish.2.iter().enumerate() {
            for member in 0..8 {
                state.want_element(&set(number).name, element(member), members.contains(&member));
            }
        }
    }

    fn state() -> TableState {
        let mut state = TableState::new(Table::new(Family::Ip, "calico"));
        (0..2).for_each(|number| state.want_set(set(number)));
        state
    }

    fn make(state: &mut TableState, kernel: &mut Kernel) -> Vec<Operation> {
        let plan = state.plan();
        plan.iter().for_each(|operation| kernel.make(operation));
        state.made(&plan);
        plan
    }

    /// What somebody else does to a table.
    #[derive(Clone, Debug)]
    enum Foul {
        Flush,
        LoseRules(usize),
        LoseRule(usize),
        LoseMember(usize, u8),
        Member(usize, u8),
        Rule(usize),
        Set,
        Chain,
        Other,
    }

    fn foul() -> impl Strategy<Value = Foul> {
        prop_oneof![
            Just(Foul::Flush),
            (0_usize..3).prop_map(Foul::LoseRules),
            (0_usize..3).prop_map(Foul::LoseRule),
            (0_usize..2, 0_u8..8).prop_map(|(set, member)| Foul::LoseMember(set, member)),
            (0_usize..2, 8_u8..9).prop_map(|(set, member)| Foul::Member(set, member)),
            (0_usize..3).prop_map(Foul::Rule),
            Just(Foul::Set),
            Just(Foul::Chain),
            Just(Foul::Other),
        ]
    }

    fn play(kernel: &mut Kernel, foul: &Foul) {
        let rules = |kernel: &mut Kernel, number: usize, change: &dyn Fn(&mut Rules)| {
            if let Some(chain) = kernel.chains.get_mut(&format!("chain{number}")) {
                change(&mut chain.1);
            }
        };
        match foul {
            Foul::Flush => *kernel = Kernel { handles: kernel.handles, ..Kernel::default() },
            Foul::LoseRules(number) => rules(kernel, *number, &|rules| rules.clear()),
            Foul::LoseRule(number) => {
                rules(kernel, *number, &|rules| drop((!rules.is_empty()).then(|| rules.remove(0))))
            }
            Foul::Rule(number) => {
                let entry = RuleEntry { handle: 1_000_000, comment: String::new() };
                rules(kernel, *number, &|rules| rules.insert(rules.len() / 2, (entry.clone(), Vec::new())));
            }
            Foul::LoseMember(number, member) => {
                if let Some(set) = kernel.sets.get_mut(&format!("set{number}")) {
                    set.1.remove(&element(*member));
                }
            }
            Foul::Member(number, member) => {
                if let Some(set) = kernel.sets.get_mut(&format!("set{number}")) {
                    set.1.insert(element(*member));
                }
            }
            Foul::Set if kernel.exists => drop(kernel.sets.insert("theirs".into(), (set(9), BTreeSet::new()))),
            Foul::Chain if kernel.exists => {
                let jump = (RuleEntry { handle: 2_000_000, comment: String::new() }, vec!["theirs-2".to_owned()]);
                kernel.chains.insert("theirs-2".into(), (None, Vec::new()));
                kernel.chains.insert("theirs".into(), (None, vec![jump]));
            }
            Foul::Other => kernel.others = kernel.exists,
            Foul::Set | Foul::Chain => {}
        }
    }

    proptest! {
        #[test]
        fn a_plan_makes_of_any_table_the_desired_one_and_then_nothing_is_to_be_done(
            wishes in prop::collection::vec((wish(), prop::option::of(foul())), 1..5),
        ) {
            let (mut state, mut kernel) = (state(), Kernel::default());
            for (wish, foul) in wishes {
                want(&mut state, &wish);
                if let Some(foul) = foul {
                    play(&mut kernel, &foul);
                    state.read(kernel.contents());
                }
                make(&mut state, &mut kernel);
                prop_assert_eq!(state.plan(), []);
                // The same as who knows nothing of how it came to be would say.
                let mut witness = self::state();
                want(&mut witness, &wish);
                witness.read(kernel.contents());
                prop_assert_eq!(witness.plan(), []);
                prop_assert!(!kernel.others);
                let names: Vec<_> = kernel.sets.keys().cloned().collect();
                prop_assert_eq!(names, ["set0", "set1"]);
            }
        }
    }

    #[test]
    fn members_touch_elements_alone_and_a_rule_in_the_middle_leaves_its_neighbours() {
        let (mut state, mut kernel) = (state(), Kernel::default());
        let mut wish: Wish =
            (vec![Some(vec![0, 1, 2]), None, None], false, vec![BTreeSet::from([1, 2]), BTreeSet::new()]);
        want(&mut state, &wish);
        make(&mut state, &mut kernel);
        wish.2[0] = BTreeSet::from([2, 3]);
        want(&mut state, &wish);
        let plan = make(&mut state, &mut kernel);
        assert!(plan.len() == 2 && plan.iter().all(Operation::is_of_elements), "{plan:?}");

        state.read(kernel.contents());
        wish.0[0] = Some(vec![0, 4, 2]);
        want(&mut state, &wish);
        let plan = make(&mut state, &mut kernel);
        let expected = matches!(
            plan.as_slice(),
            [Operation::DeleteRule { handle: 2, .. }, Operation::AddRule { before: Some(3), rule, .. }] if rule.comment == "4 false"
        );
        assert!(expected, "{plan:?}");
    }
}
