//! What a watcher of one kind has been told, and what it must be told next.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::mem;

use calico_api::Key;
use ipnet::IpNet;

use super::Update;
use crate::{Change, Fault, Listing, Revision};

/// What the watcher knows of one kind.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The last good version of each key.
    good: Versions,
    /// What is unreadable at present, by the store's name for it.
    faults: BTreeMap<String, Fault>,
    /// From where a watch continues; `None` before the first listing, and after a compaction.
    at: Option<Revision>,
    /// What has come of the present listing.
    listed: Listed,
}

/// The last good version of each key, in little room: of blocks there may be sixty thousand. Of a revision only its hash is kept,
/// which serves to see whether a version is another one.
#[derive(Debug, Default)]
struct Versions {
    blocks: BTreeMap<IpNet, u64>,
    others: HashMap<Key, u64>,
}

impl Versions {
    fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.others.is_empty()
    }

    fn contains(&self, key: &Key) -> bool {
        match key {
            Key::Block(network) => self.blocks.contains_key(network),
            other => self.others.contains_key(other),
        }
    }

    /// Notes a version; whether it is another one than before.
    fn note(&mut self, key: &Key, revision: &Revision) -> bool {
        let mut hash = DefaultHasher::new();
        revision.hash(&mut hash);
        let version = hash.finish();
        let before = match key {
            Key::Block(network) => self.blocks.insert(*network, version),
            other => match self.others.get_mut(other) {
                Some(there) => Some(mem::replace(there, version)),
                None => self.others.insert(other.clone(), version),
            },
        };
        before != Some(version)
    }

    /// Forgets a key; whether it was there.
    fn forget(&mut self, key: &Key) -> bool {
        match key {
            Key::Block(network) => self.blocks.remove(network).is_some(),
            other => self.others.remove(other).is_some(),
        }
    }

    fn keys(&self) -> impl Iterator<Item = Key> {
        self.blocks.keys().map(|network| Key::Block(*network)).chain(self.others.keys().cloned())
    }
}

/// What has come of a listing, apart from what is in the snapshot by now.
#[derive(Debug, Default)]
struct Listed {
    /// The names of what could not be read.
    faults: HashSet<String>,
    /// The keys that could not be read before, and have not been found readable.
    torn: HashSet<Key>,
    /// All keys that came, if anything may be missing among them.
    present: Option<HashSet<Key>>,
}

impl Snapshot {
    /// From where a watch continues, or that a listing is needed.
    pub(super) fn at(&self) -> Option<&Revision> {
        self.at.as_ref()
    }

    /// Makes a listing necessary, whose differences to what is known are then told.
    pub(super) fn lose(&mut self) {
        self.at = None;
    }

    /// A listing begins, of which nothing has come yet.
    pub(super) fn begin(&mut self) {
        self.listed = Listed {
            faults: HashSet::new(),
            // A key whose fault has gone is good again or gone itself; either is told, also of an unchanged revision.
            torn: self.faults.values().filter_map(|fault| fault.key.clone()).collect(),
            // Where nothing was known, nothing can be missing.
            present: (!self.good.is_empty() || !self.faults.is_empty()).then(HashSet::new),
        };
    }

    /// The differences between what is known and a part of what is there.
    pub(super) fn part(&mut self, part: Listing) -> Vec<Update> {
        let mut updates = Vec::new();
        let torn: HashSet<Key> = part.faults.iter().filter_map(|fault| fault.key.clone()).collect();
        for entry in part.entries {
            if let Some(present) = &mut self.listed.present {
                present.insert(entry.key.clone());
            }
            let recovered = self.listed.torn.remove(&entry.key) && !torn.contains(&entry.key);
            if self.good.note(&entry.key, &entry.revision) || recovered {
                updates.push(Update::Put(entry));
            }
        }
        if let Some(present) = &mut self.listed.present {
            present.extend(torn);
        }
        for fault in part.faults {
            self.listed.faults.insert(fault.name.clone());
            updates.extend(self.fault(fault));
        }
        updates
    }

    /// What is known and was in no part is gone; a watch continues from `revision`.
    pub(super) fn end(&mut self, revision: Revision) -> Vec<Update> {
        let listed = mem::take(&mut self.listed);
        self.faults.retain(|name, _| listed.faults.contains(name));
        self.at = Some(revision);
        let Some(present) = listed.present else { return Vec::new() };
        let mut gone: Vec<Key> = self.good.keys().filter(|key| !present.contains(key)).collect();
        gone.extend(listed.torn.into_iter().filter(|key| !present.contains(key) && !self.good.contains(key)));
        for key in &gone {
            self.good.forget(key);
        }
        gone.into_iter().map(Update::Delete).collect()
    }

    /// What a change means to the watcher, if anything.
    pub(super) fn change(&mut self, change: Change) -> Option<Update> {
        match change {
            Change::Put(entry) => {
                self.at = Some(entry.revision.clone());
                let recovered = self.recover(&entry.key);
                let news = self.good.note(&entry.key, &entry.revision) || recovered;
                news.then_some(Update::Put(entry))
            }
            Change::Delete { key, revision } => {
                self.at = Some(revision);
                let recovered = self.recover(&key);
                (self.good.forget(&key) || recovered).then_some(Update::Delete(key))
            }
            Change::Fault(fault) => self.fault(fault),
            Change::Bookmark(revision) => {
                self.at = Some(revision);
                None
            }
        }
    }

    /// Notes a fault; tells it unless the same was told already.
    fn fault(&mut self, fault: Fault) -> Option<Update> {
        let told = self.faults.insert(fault.name.clone(), fault.clone());
        (told.as_ref() != Some(&fault)).then_some(Update::Fault(fault))
    }

    /// Forgets the faults of a key; whether there was one.
    fn recover(&mut self, key: &Key) -> bool {
        let before = self.faults.len();
        self.faults.retain(|_, fault| fault.key.as_ref() != Some(key));
        self.faults.len() != before
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use calico_api::Kind;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::Entry;

    fn key(name: &str) -> Key {
        Key::named(Kind::IPPool, name)
    }

    fn entry(name: &str, revision: u32) -> Entry {
        Entry { key: key(name), value: Value::Null, revision: Revision(revision.to_string()) }
    }

    fn fault(name: &str) -> Fault {
        Fault { kind: Kind::IPPool, key: Some(key(name)), name: name.to_owned(), reason: "torn".to_owned() }
    }

    impl Snapshot {
        /// A listing, each resource in a part of its own.
        fn list(&mut self, listing: Listing) -> Vec<Update> {
            let part = |entries, faults| Listing { entries, faults, revision: Revision::default() };
            self.begin();
            let mut updates = Vec::new();
            for entry in listing.entries {
                updates.extend(self.part(part(vec![entry], Vec::new())));
            }
            for fault in listing.faults {
                updates.extend(self.part(part(Vec::new(), vec![fault])));
            }
            updates.extend(self.end(listing.revision));
            updates
        }
    }

    fn listing(entries: Vec<Entry>, faults: Vec<Fault>, revision: u32) -> Listing {
        Listing { entries, faults, revision: Revision(revision.to_string()) }
    }

    #[test]
    fn a_second_listing_yields_only_what_differs() {
        let mut snapshot = Snapshot::default();
        snapshot.list(listing(vec![entry("a", 1), entry("b", 2), entry("c", 3)], vec![], 3));
        snapshot.lose();
        assert_eq!(snapshot.at(), None);
        let updates = snapshot.list(listing(vec![entry("a", 1), entry("b", 5), entry("d", 6)], vec![], 6));
        let expected = [Update::Put(entry("b", 5)), Update::Put(entry("d", 6)), Update::Delete(key("c"))];
        assert_eq!(updates, expected);
        assert_eq!(snapshot.at(), Some(&Revision("6".to_owned())));
    }

    #[test]
    fn a_key_that_becomes_unreadable_is_reported_once_and_not_deleted() {
        let mut snapshot = Snapshot::default();
        snapshot.list(listing(vec![entry("a", 1), entry("b", 2)], vec![], 2));
        assert_eq!(snapshot.change(Change::Fault(fault("a"))), Some(Update::Fault(fault("a"))));
        assert_eq!(snapshot.change(Change::Fault(fault("a"))), None);
        assert_eq!(snapshot.list(listing(vec![entry("b", 2)], vec![fault("a")], 4)), []);
        assert_eq!(snapshot.list(listing(vec![entry("a", 1), entry("b", 2)], vec![], 5)), [Update::Put(entry("a", 1))]);
    }

    #[test]
    fn a_fault_that_was_never_good_is_deleted_when_it_vanishes() {
        let mut snapshot = Snapshot::default();
        let nameless = Fault { key: None, name: "?".to_owned(), ..fault("a") };
        let faults = vec![fault("a"), fault("b"), nameless.clone()];
        let told: Vec<_> = faults.iter().cloned().map(Update::Fault).collect();
        assert_eq!(snapshot.list(listing(vec![], faults, 1)), told);
        let gone = Change::Delete { key: key("a"), revision: Revision("2".to_owned()) };
        assert_eq!(snapshot.change(gone.clone()), Some(Update::Delete(key("a"))));
        assert_eq!(snapshot.change(gone), None);
        assert_eq!(snapshot.list(listing(vec![], vec![nameless], 3)), [Update::Delete(key("b"))]);
    }

    #[test]
    fn a_replayed_change_is_not_told_again() {
        let mut snapshot = Snapshot::default();
        snapshot.list(listing(vec![entry("a", 1)], vec![], 1));
        assert_eq!(snapshot.change(Change::Put(entry("a", 1))), None);
        assert_eq!(snapshot.change(Change::Put(entry("a", 2))), Some(Update::Put(entry("a", 2))));
        assert_eq!(snapshot.change(Change::Bookmark(Revision("9".to_owned()))), None);
        assert_eq!(snapshot.at(), Some(&Revision("9".to_owned())));
    }

    /// What happens to the store between two looks at it.
    #[derive(Clone, Debug)]
    enum Event {
        Put(u8),
        Delete(u8),
        Tear(u8),
        /// The watch misses what follows, until a listing.
        Lose,
        Relist,
    }

    fn event() -> impl Strategy<Value = Event> {
        let name = 0_u8..4;
        prop_oneof![
            name.clone().prop_map(Event::Put),
            name.clone().prop_map(Event::Delete),
            name.prop_map(Event::Tear),
            Just(Event::Lose),
            Just(Event::Relist),
        ]
    }

    proptest! {
        #[test]
        fn a_watcher_that_applies_the_updates_holds_what_the_store_holds(events in prop::collection::vec(event(), 0..60)) {
            // None is a torn value.
            let mut store: BTreeMap<u8, Option<u32>> = BTreeMap::new();
            let mut held: HashMap<Key, Revision> = HashMap::new();
            let mut torn: BTreeSet<Key> = BTreeSet::new();
            let mut snapshot = Snapshot::default();
            let mut lost = false;
            let events = std::iter::once(Event::Relist).chain(events).chain([Event::Relist]);
            for (event, revision) in events.zip(1_u32..) {
                let at = Revision(revision.to_string());
                let change = match event {
                    Event::Put(name) => {
                        store.insert(name, Some(revision));
                        Some(Change::Put(entry(&name.to_string(), revision)))
                    }
                    Event::Delete(name) => store
                        .remove(&name)
                        .map(|_| Change::Delete { key: key(&name.to_string()), revision: at.clone() }),
                    Event::Tear(name) => {
                        store.insert(name, None);
                        Some(Change::Fault(fault(&name.to_string())))
                    }
                    Event::Lose => { lost = true; None }
                    Event::Relist => { lost = false; None }
                };
                let updates = if matches!(event, Event::Relist) {
                    let mut all = listing(vec![], vec![], revision);
                    for (name, state) in &store {
                        match state {
                            Some(revision) => all.entries.push(entry(&name.to_string(), *revision)),
                            None => all.faults.push(fault(&name.to_string())),
                        }
                    }
                    snapshot.list(all)
                } else {
                    change.filter(|_| !lost).and_then(|change| snapshot.change(change)).into_iter().collect()
                };
                for update in updates {
                    match update {
                        Update::Put(entry) => {
                            let cured = torn.remove(&entry.key);
                            prop_assert!(held.insert(entry.key, entry.revision.clone()) != Some(entry.revision) || cured);
                        }
                        Update::Delete(key) => {
                            let (had, tore) = (held.remove(&key).is_some(), torn.remove(&key));
                            prop_assert!(had || tore);
                        }
                        Update::Fault(fault) => prop_assert!(torn.insert(fault.key.unwrap())),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
            }
            for (name, state) in &store {
                let key = key(&name.to_string());
                match state {
                    Some(revision) => prop_assert_eq!(held.get(&key), Some(&Revision(revision.to_string()))),
                    None => prop_assert!(torn.contains(&key)),
                }
            }
            prop_assert_eq!(torn.len(), store.values().filter(|state| state.is_none()).count());
            prop_assert!(held.keys().all(|held| store.keys().any(|name| key(&name.to_string()) == *held)));
        }
    }
}
