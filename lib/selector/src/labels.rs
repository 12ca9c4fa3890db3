//! Where labels come from.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

/// A source of labels.
pub trait Labels {
    /// The value of a label, if there is such a label; it may be empty.
    fn get(&self, label: &str) -> Option<&str>;
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get(&self, label: &str) -> Option<&str> {
        (**self).get(label)
    }
}

impl<V: AsRef<str>> Labels for BTreeMap<String, V> {
    fn get(&self, label: &str) -> Option<&str> {
        Self::get(self, label).map(AsRef::as_ref)
    }
}

impl<V: AsRef<str>, S: BuildHasher> Labels for HashMap<String, V, S> {
    fn get(&self, label: &str) -> Option<&str> {
        Self::get(self, label).map(AsRef::as_ref)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn get(&self, label: &str) -> Option<&str> {
        self.iter().find(|(name, _)| name.as_ref() == label).map(|(_, value)| value.as_ref())
    }
}

/// The labels of the first, and beside them those of the second that the first does not have: what an endpoint has
/// itself, and what it inherits.
impl<A: Labels, B: Labels> Labels for (A, B) {
    fn get(&self, label: &str) -> Option<&str> {
        self.0.get(label).or_else(|| self.1.get(label))
    }
}

impl<L: Labels> Labels for Option<L> {
    fn get(&self, label: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.get(label))
    }
}
