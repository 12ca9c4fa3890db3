//! Which Secrets are known, and what became of those that are not?
//!
//! What a Secret holds is never part of a text: what is wrong with one is said without its words.

use std::collections::{BTreeMap, BTreeSet};

use bgp_plan::passwords::{Password, Secret};
use calico_api::{Resource, SecretSpec};
use calico_datastore::watch::Update;

/// The Secrets that are watched, as far as they were heard of.
#[derive(Debug, Default)]
pub struct Secrets {
    known: BTreeMap<String, Secret>,
    /// Those that are in the datastore, whether they can be read or not.
    present: BTreeSet<String>,
}

impl Secrets {
    /// All that is known, by name.
    pub fn known(&self) -> &BTreeMap<String, Secret> {
        &self.known
    }

    /// Forgets one that is no longer watched.
    pub fn forget(&mut self, name: &str) {
        self.known.remove(name);
        self.present.remove(name);
    }

    /// Takes an update of one; says whether it is another thing now.
    pub fn hear(&mut self, name: &str, update: Update) -> bool {
        let known = self.known.entry(name.to_owned()).or_insert(Secret::Awaited);
        match &update {
            Update::Put(_) | Update::Fault(_) => drop(self.present.insert(name.to_owned())),
            Update::Delete(_) => drop(self.present.remove(name)),
            Update::InSync | Update::Trouble(_) => {}
        }
        let present = self.present.contains(name);
        let now = match update {
            Update::Put(entry) => read(entry.value),
            Update::Delete(_) => Secret::Missing,
            // The snapshot is complete, and it was not in it; nor was there trouble that would not be over.
            Update::InSync if !present => Secret::Missing,
            // As with everything, the last good version stays.
            Update::Fault(_) if matches!(known, Secret::Known(_)) => return false,
            Update::Fault(fault) => Secret::Unreadable(fault.reason),
            Update::Trouble(Some(reason)) if !present && matches!(known, Secret::Awaited | Secret::Unreadable(_)) => {
                Secret::Unreadable(reason)
            }
            Update::InSync | Update::Trouble(_) => return false,
        };
        let changed = now != *known;
        *known = now;
        changed
    }
}

fn read(value: serde_json::Value) -> Secret {
    // The error would quote what it stumbled over.
    let Ok(secret) = serde_json::from_value::<Resource<SecretSpec>>(value) else {
        return Secret::Unreadable("it is no Secret: its data must be a map of texts".to_owned());
    };
    let spec = secret.spec;
    let mut keys = BTreeMap::new();
    for key in spec.data.keys().chain(spec.string_data.keys()) {
        match spec.value(key) {
            Ok(Some(octets)) => drop(keys.insert(key.clone(), Password::from(octets))),
            Ok(None) => {}
            Err(error) => return Secret::Unreadable(error.to_string()),
        }
    }
    Secret::Known(keys)
}

#[cfg(test)]
mod tests {
    use calico_api::{Key, Kind};
    use calico_datastore::{Entry, Fault, Revision};
    use serde_json::json;

    use super::*;

    fn put(data: &serde_json::Value) -> Update {
        let value = json!({"metadata": {"name": "bgp", "namespace": "kube-system"}, "data": data});
        let key = Key::of_value(Kind::Secret, &value).unwrap();
        Update::Put(Entry { key, value, revision: Revision("1".to_owned()) })
    }

    fn trouble(reason: &str) -> Update {
        Update::Trouble(Some(reason.to_owned()))
    }

    fn fault(reason: &str) -> Update {
        Update::Fault(Fault { kind: Kind::Secret, key: None, name: "bgp".to_owned(), reason: reason.to_owned() })
    }

    fn unreadable(reason: &str) -> Secret {
        Secret::Unreadable(reason.to_owned())
    }

    #[test]
    fn a_secret_is_missing_only_when_the_snapshot_says_so_and_its_last_good_value_stays() {
        let mut secrets = Secrets::default();
        assert!(secrets.hear("bgp", trouble("forbidden")));
        assert_eq!(secrets.known()["bgp"], unreadable("forbidden"));
        assert!(secrets.hear("bgp", Update::InSync), "it is allowed now, and there is none");
        assert_eq!(secrets.known()["bgp"], Secret::Missing);
        assert!(!secrets.hear("bgp", trouble("away")), "that it does not exist is still the last that is known");
        assert!(secrets.hear("bgp", put(&json!({"rr": "c2VzYW1l"}))));
        let Secret::Known(keys) = &secrets.known()["bgp"] else { panic!("{secrets:?}") };
        assert_eq!(keys["rr"].octets(), b"sesame");
        for nothing in [Update::InSync, trouble("away"), fault("torn"), Update::Trouble(None)] {
            assert!(!secrets.hear("bgp", nothing));
        }
        assert!(secrets.hear("bgp", put(&json!({"rr": "*"}))));
        let key = Key::of_value(Kind::Secret, &json!({"metadata": {"name": "bgp", "namespace": "kube-system"}}));
        assert!(secrets.hear("bgp", Update::Delete(key.unwrap())));
        assert_eq!(secrets.known()["bgp"], Secret::Missing);

        assert!(secrets.hear("torn", fault("torn")));
        assert!(!secrets.hear("torn", Update::InSync), "it is there, and cannot be read");
        assert_eq!(secrets.known()["torn"], unreadable("torn"));
        secrets.forget("torn");
        assert!(!secrets.known().contains_key("torn"));
    }

    #[test]
    fn what_is_wrong_with_a_secret_is_said_without_its_words() {
        for data in [json!("hunter2"), json!(["hunter2"]), json!({"rr": {"hunter2": 1}}), json!({"rr": "hunter2!"})] {
            let mut secrets = Secrets::default();
            assert!(secrets.hear("bgp", put(&data)));
            let Secret::Unreadable(reason) = &secrets.known()["bgp"] else { panic!("{data} is read") };
            assert!(!reason.contains("hunter2"), "{reason}");
            assert!(!format!("{secrets:?}").contains("hunter2"));
        }
    }
}
