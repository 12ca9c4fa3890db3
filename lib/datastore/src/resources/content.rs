//! What a text of resources says, and how that differs from what it said before.

use std::collections::BTreeMap;
use std::collections::btree_map;

use calico_api::{Key, Placed, default_on_write, placed_documents, validate};
use serde_json::{Value, json};

use crate::{Entry, Revision, value};

/// All resources of a file, each with the revision in which it came to be as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    revision: u64,
    pub(super) items: BTreeMap<Key, Item>,
}

/// What is, or was, under a key.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// A resource.
    There(Entry),
    /// Nothing any more, since this revision.
    Gone(u64),
}

impl Item {
    /// Since when it is so.
    pub(super) fn revision(&self) -> u64 {
        match self {
            // We wrote it ourselves.
            Self::There(entry) => entry.revision.0.parse().unwrap_or_default(),
            Self::Gone(revision) => *revision,
        }
    }
}

impl Content {
    /// Counted up with each reading that found something else, from 1.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The content after the resources have become these.
    pub(super) fn become_(&self, mut resources: BTreeMap<Key, Value>) -> Self {
        let revision = self.revision + 1;
        let stamped = |key: Key, mut value: Value| {
            let revision = Revision(revision.to_string());
            value::stamp(&mut value, &revision);
            Item::There(Entry { key, value, revision })
        };
        let mut items = BTreeMap::new();
        let mut changed = self.revision == 0;
        for (key, old) in &self.items {
            let item = match (old, resources.remove(key)) {
                (Item::There(old), Some(new)) if same(&old.value, &new) => Item::There(old.clone()),
                (Item::Gone(since), None) => Item::Gone(*since),
                (_, Some(new)) => {
                    changed = true;
                    stamped(key.clone(), new)
                }
                (Item::There(_), None) => {
                    changed = true;
                    Item::Gone(revision)
                }
            };
            items.insert(key.clone(), item);
        }
        for (key, value) in resources {
            changed = true;
            items.insert(key.clone(), stamped(key, value));
        }
        Self { revision: if changed { revision } else { self.revision }, items }
    }
}

/// Whether a stored value is this one but for its revision.
fn same(stored: &Value, new: &Value) -> bool {
    let mut stored = stored.clone();
    value::strip(&mut stored);
    stored == *new
}

/// The resources of a text, or what is wrong with it: line, document, reason.
pub(super) fn read(text: &str) -> Result<BTreeMap<Key, Value>, String> {
    let placed = placed_documents(text).map_err(|error| error.to_string())?;
    if placed.is_empty() {
        return Err("it has no resources; write some, such as a BGPPeer".to_owned());
    }
    let mut resources = BTreeMap::new();
    let mut places: BTreeMap<Key, usize> = BTreeMap::new();
    for Placed { mut resource, document, line } in placed {
        let key = resource.key();
        let at = format!("(document {document}, from line {line})");
        default_on_write(&mut resource);
        let faults = validate(&resource);
        if !faults.is_empty() {
            // On one line, since it goes into logs and conditions.
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            return Err(format!("{key}: error with field {} {at}", faults.join("; ")));
        }
        if let btree_map::Entry::Occupied(first) = places.entry(key.clone()) {
            return Err(format!("{key} is there twice, first in document {} {at}", first.get()));
        }
        places.insert(key.clone(), document);
        let mut value = resource.to_value();
        value::strip(&mut value);
        // IPAM's records follow from their specs, whatever they are called in the file.
        value["metadata"]["name"] = json!(key.name());
        resources.insert(key, value);
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        assert_eq!(read(text).unwrap_err(), expected);
    }

    const PEER: &str = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\nspec: {peerIP: 192.0.2.1, asNumber: 1}\n";

    #[test]
    fn an_error_names_document_line_and_reason() {
        check_error("", "it has no resources; write some, such as a BGPPeer");
        check_error(
            &format!("{PEER}---\n# none\n---\n{PEER}"),
            "BGPPeer(p) is there twice, first in document 1 (document 2, from line 7)",
        );
        check_error(
            &format!("{PEER}---\n{}", PEER.replace("192.0.2.1", "gateway")),
            "BGPPeer(p): error with field PeerIP = 'gateway' (must be an address, IPv4:port or [IPv6]:port, with a port \
             from 1 to 65535) (document 2, from line 5)",
        );
        check_error(
            &PEER.replace("peerIP", "peerIp"),
            "field in document is not recognized or is in the wrong location: peerIp, at spec.peerIp (document 1, from line 1)",
        );
        let both = PEER.replace("asNumber: 1", "asNumber: 0, localASNumber: 0");
        let told = read(&both).unwrap_err();
        assert!(
            told.contains("LocalASNumber = '0'") && told.contains("; ASNumber = '0'") && !told.contains('\n'),
            "{told}"
        );
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: n}\nstringData: {k: [hunter2]}\n";
        assert!(!read(secret).unwrap_err().contains("hunter2"));
    }

    #[test]
    fn the_example_of_the_documents_is_in_order() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/route-reflector/reflectors.yaml");
        assert!(read(&std::fs::read_to_string(path).unwrap()).unwrap().len() > 2);
    }

    #[test]
    fn only_what_differs_gets_a_new_revision() {
        let text = |names: &[(&str, u32)]| -> String {
            names
                .iter()
                .map(|(name, number)| {
                    format!(
                        "---\n{}",
                        PEER.replace("{name: p}", &format!("{{name: {name}}}"))
                            .replace("asNumber: 1", &format!("asNumber: {number}"))
                    )
                })
                .collect()
        };
        let states = |content: &Content| -> Vec<(String, bool, u64)> {
            content
                .items
                .iter()
                .map(|(key, item)| (key.name(), matches!(item, Item::There(_)), item.revision()))
                .collect()
        };
        let first = Content::default().become_(read(&text(&[("a", 1), ("b", 1), ("c", 1)])).unwrap());
        let second = first.become_(read(&text(&[("c", 1), ("b", 2), ("d", 1)])).unwrap());
        let expected = [("a", false, 2), ("b", true, 2), ("c", true, 1), ("d", true, 2)];
        assert_eq!(states(&second), expected.map(|(name, there, revision)| (name.to_owned(), there, revision)));
        // Comments and order are no difference.
        let third = second.become_(read(&format!("# new\n{}", text(&[("b", 2), ("d", 1), ("c", 1)]))).unwrap());
        assert_eq!((third.revision(), states(&third)), (2, states(&second)));
        let fourth = third.become_(read(&text(&[("a", 1)])).unwrap());
        assert_eq!(states(&fourth)[0], ("a".to_owned(), true, 3), "what comes back is there again");
    }
}
