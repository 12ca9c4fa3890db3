//! What is desired against what is there, and what must change.
//!
//! One [`Delta`] holds one kind of object (routes, addresses, set members) under its key. It is told what is wanted
//! and what was seen, in any order, and keeps the keys that may differ, so that [`Delta::plan`] costs what changed and
//! not what exists. A change counts as made only when it was seen: whoever applies a plan calls [`Delta::seen`] or
//! [`Delta::gone`] for what succeeded, and what failed stays in the next plan by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

/// Desired and actual objects of one kind.
#[derive(Clone, Debug)]
pub struct Delta<K, V> {
    desired: BTreeMap<K, V>,
    actual: BTreeMap<K, V>,
    /// Every key whose desired and actual values differ, and no other.
    dirty: BTreeSet<K>,
    meets: fn(desired: &V, actual: &V) -> bool,
}

/// What must change for the actual to be as desired, in the order of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<K, V> {
    /// To be made, or replaced if [`Delta::actual`] has the key.
    pub upserts: Vec<(K, V)>,
    /// To be removed.
    pub deletes: Vec<K>,
}

impl<K, V> Plan<K, V> {
    /// Whether nothing must change.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.deletes.is_empty()
    }
}

impl<K: Ord + Clone, V: PartialEq> Default for Delta<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone, V: PartialEq> Delta<K, V> {
    /// Nothing desired, nothing there; an object is as desired when the values are equal.
    pub fn new() -> Self {
        Self::with_comparison(V::eq)
    }
}

impl<K: Ord + Clone, V> Delta<K, V> {
    /// Nothing desired, nothing there; `meets` says whether an actual value is good enough for a desired one
    /// (the kernel fills in what was left open).
    pub fn with_comparison(meets: fn(desired: &V, actual: &V) -> bool) -> Self {
        Self { desired: BTreeMap::new(), actual: BTreeMap::new(), dirty: BTreeSet::new(), meets }
    }

    /// Desires `value` under `key`, instead of what was desired before.
    pub fn want(&mut self, key: K, value: V) {
        self.desired.insert(key.clone(), value);
        self.compare(key);
    }

    /// Desires nothing under `key`; returns what was desired.
    pub fn unwant(&mut self, key: &K) -> Option<V> {
        let before = self.desired.remove(key);
        self.compare(key.clone());
        before
    }

    /// `value` is there now.
    pub fn seen(&mut self, key: K, value: V) {
        self.actual.insert(key.clone(), value);
        self.compare(key);
    }

    /// Nothing is there under `key` any more; returns what was.
    pub fn gone(&mut self, key: &K) -> Option<V> {
        let before = self.actual.remove(key);
        self.compare(key.clone());
        before
    }

    /// Exactly `actual` is there: the result of a complete look.
    pub fn resync(&mut self, actual: impl IntoIterator<Item = (K, V)>) {
        self.actual = actual.into_iter().collect();
        let keys: BTreeSet<K> = self.desired.keys().chain(self.actual.keys()).cloned().collect();
        self.dirty = keys.into_iter().filter(|key| self.differs(key)).collect();
    }

    /// Takes as little room as it can, after much came in the order of the keys, which leaves a map's nodes half empty.
    pub fn pack(&mut self) {
        pack(&mut self.desired);
        pack(&mut self.actual);
    }

    /// What must change; empty when in sync.
    pub fn plan(&self) -> Plan<K, V>
    where
        V: Clone,
    {
        let mut plan = Plan { upserts: Vec::new(), deletes: Vec::new() };
        for key in &self.dirty {
            match self.desired.get(key) {
                Some(value) => plan.upserts.push((key.clone(), value.clone())),
                None => plan.deletes.push(key.clone()),
            }
        }
        plan
    }

    /// The keys that [`Delta::plan`] is about, without the values.
    pub fn dirty(&self) -> impl Iterator<Item = &K> {
        self.dirty.iter()
    }

    /// Whether everything is as desired.
    pub fn in_sync(&self) -> bool {
        self.dirty.is_empty()
    }

    /// What is desired.
    pub fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// What is there, as far as it was seen.
    pub fn actual(&self) -> &BTreeMap<K, V> {
        &self.actual
    }

    fn compare(&mut self, key: K) {
        if self.differs(&key) {
            self.dirty.insert(key);
        } else {
            self.dirty.remove(&key);
        }
    }

    fn differs(&self, key: &K) -> bool {
        match (self.desired.get(key), self.actual.get(key)) {
            (Some(desired), Some(actual)) => !(self.meets)(desired, actual),
            (None, None) => false,
            _ => true,
        }
    }
}

/// Has a map take as little room as it can; see [`Delta::pack`].
pub fn pack<K: Ord, V>(map: &mut BTreeMap<K, V>) {
    // A map that is made of what is sorted already has full nodes.
    *map = mem::take(map).into_iter().collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Op {
        Want(u8, u8),
        Unwant(u8),
        Seen(u8, u8),
        Gone(u8),
        Resync(Vec<(u8, u8)>),
        Pack,
        /// Applies the plan, except for the keys of which this is a divisor.
        Apply {
            failing: u8,
        },
    }

    fn op() -> impl Strategy<Value = Op> {
        let (key, value) = (0..12_u8, 0..3_u8);
        prop_oneof![
            4 => (key.clone(), value.clone()).prop_map(|(k, v)| Op::Want(k, v)),
            2 => key.clone().prop_map(Op::Unwant),
            3 => (key.clone(), value.clone()).prop_map(|(k, v)| Op::Seen(k, v)),
            2 => key.clone().prop_map(Op::Gone),
            1 => prop::collection::vec((key, value), 0..8).prop_map(Op::Resync),
            1 => Just(Op::Pack),
            2 => (2..5_u8).prop_map(|failing| Op::Apply { failing }),
        ]
    }

    /// Applies the plan to what is there, as a kernel would that refuses some keys.
    fn apply(delta: &mut Delta<u8, u8>, refuses: impl Fn(u8) -> bool) {
        let plan = delta.plan();
        for (key, value) in plan.upserts.into_iter().filter(|(key, _)| !refuses(*key)) {
            delta.seen(key, value);
        }
        for key in plan.deletes.into_iter().filter(|key| !refuses(*key)) {
            delta.gone(&key);
        }
    }

    proptest! {
        #[test]
        fn applying_the_plan_gives_the_desired(ops in prop::collection::vec(op(), 0..60)) {
            let mut delta = Delta::new();
            let (mut desired, mut actual) = (BTreeMap::new(), BTreeMap::new());
            for op in ops {
                match op {
                    Op::Want(k, v) => { desired.insert(k, v); delta.want(k, v); }
                    Op::Unwant(k) => { prop_assert_eq!(delta.unwant(&k), desired.remove(&k)); }
                    Op::Seen(k, v) => { actual.insert(k, v); delta.seen(k, v); }
                    Op::Gone(k) => { prop_assert_eq!(delta.gone(&k), actual.remove(&k)); }
                    Op::Pack => delta.pack(),
                    Op::Resync(all) => { actual = all.iter().copied().collect(); delta.resync(all); }
                    Op::Apply { failing } => {
                        let refused = |key: u8| key.is_multiple_of(failing);
                        apply(&mut delta, refused);
                        actual = delta.actual().clone();
                        // What failed is planned again, and nothing else.
                        prop_assert!(delta.dirty().all(|key| refused(*key)));
                    }
                }
                prop_assert_eq!(delta.desired(), &desired);
                prop_assert_eq!(delta.actual(), &actual);
                prop_assert_eq!(delta.in_sync(), desired == actual);
                prop_assert_eq!(delta.plan().is_empty(), delta.in_sync());
            }
            apply(&mut delta, |_| false);
            prop_assert_eq!(delta.actual(), &desired);
            prop_assert!(delta.in_sync());
        }
    }

    #[test]
    fn a_plan_holds_only_differences_in_the_order_of_keys() {
        let mut delta = Delta::new();
        for (key, value) in [("c", 1), ("a", 1), ("b", 1)] {
            delta.want(key, value);
        }
        delta.seen("b", 1);
        delta.seen("c", 2);
        delta.seen("d", 1);
        assert_eq!(delta.plan(), Plan { upserts: vec![("a", 1), ("c", 1)], deletes: vec!["d"] });
    }

    #[test]
    fn what_was_left_open_is_met_by_anything() {
        let mut delta = Delta::with_comparison(|desired: &Option<u8>, actual| desired.is_none() || desired == actual);
        delta.want("open", None);
        delta.want("firm", Some(1));
        delta.resync([("open", Some(7)), ("firm", Some(7))]);
        assert_eq!(delta.plan().upserts, [("firm", Some(1))]);
    }
}
