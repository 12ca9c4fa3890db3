//! Any table becomes the desired one, in an order that the kernel takes.

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
        Foul::LoseRule(number) => rules(kernel, *number, &|rules| drop((!rules.is_empty()).then(|| rules.remove(0)))),
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
        wishes in prop::collection::vec((wish(), prop::option::of(foul()), any::<bool>()), 1..5),
    ) {
        let (mut state, mut kernel) = (state(), Kernel::default());
        for (wish, foul, forgets) in wishes {
            if forgets {
                // Another process, which reads before it knows what it wants.
                state = self::state();
                state.read(kernel.contents());
            }
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
    let mut wish: Wish = (vec![Some(vec![0, 1, 2]), None, None], false, vec![BTreeSet::from([1, 2]), BTreeSet::new()]);
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
