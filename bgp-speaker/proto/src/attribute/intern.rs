//! How equal attributes become one: thousands of paths share a value, compare by address and weigh a pointer.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Attributes;

/// Keeps one shared value for all equal attributes in use.
#[derive(Debug, Default)]
pub struct Interner {
    hasher: DefaultHashBuilder,
    table: HashTable<Arc<Attributes>>,
    sweep_at: usize,
}

impl Interner {
    /// The shared value that equals `attributes`.
    ///
    /// Two results are equal if and only if they are the same allocation ([`Arc::ptr_eq`]) while both are alive.
    pub fn intern(&mut self, attributes: Attributes) -> Arc<Attributes> {
        let hash = self.hash(&attributes);
        match self.table.find(hash, |other| **other == attributes) {
            Some(shared) => Arc::clone(shared),
            None => self.insert(hash, Arc::new(attributes)),
        }
    }

    /// As [`intern`](Self::intern), for attributes that are shared already.
    pub fn intern_shared(&mut self, attributes: &Arc<Attributes>) -> Arc<Attributes> {
        let hash = self.hash(attributes);
        match self.table.find(hash, |other| Arc::ptr_eq(other, attributes) || *other == *attributes) {
            Some(shared) => Arc::clone(shared),
            None => self.insert(hash, Arc::clone(attributes)),
        }
    }

    /// How many distinct attributes are kept, some perhaps no longer in use.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none are kept.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    fn insert(&mut self, hash: u64, attributes: Arc<Attributes>) -> Arc<Attributes> {
        // Sweeping whenever the table has doubled costs a constant per insertion.
        if self.table.len() >= self.sweep_at.max(1024) {
            self.table.retain(|attributes| Arc::strong_count(attributes) > 1);
            self.sweep_at = self.table.len() * 2;
        }
        let hasher = self.hasher.clone();
        let rehash = |attributes: &Arc<Attributes>| Self::hash_with(&hasher, attributes);
        self.table.insert_unique(hash, Arc::clone(&attributes), rehash);
        attributes
    }

    fn hash(&self, attributes: &Attributes) -> u64 {
        Self::hash_with(&self.hasher, attributes)
    }

    fn hash_with(hasher: &DefaultHashBuilder, attributes: &Attributes) -> u64 {
        hasher.hash_one(attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_attributes_share_one_value_and_unused_ones_are_forgotten() {
        let mut interner = Interner::default();
        let with = |med| Attributes { med: Some(med), ..Attributes::new([192, 0, 2, 1].into()) };
        let first = interner.intern(with(1));
        assert!(Arc::ptr_eq(&first, &interner.intern(with(1))));
        assert!(Arc::ptr_eq(&first, &interner.intern_shared(&Arc::new(with(1)))));
        assert!(!Arc::ptr_eq(&first, &interner.intern(with(2))));
        (0..100_000).for_each(|med| drop(interner.intern(with(med))));
        assert!(interner.len() <= 1025, "{} kept though one is in use", interner.len());
        assert!(Arc::ptr_eq(&first, &interner.intern(with(1))));
    }
}
