//! What was the last good version of an object whose newest is not understood? Kept so that it outlives a restart.
//!
//! The shell writes what [`Inputs::last_good`] yields to a file whenever the faults change, and gives it back with
//! [`Inputs::preload`] before the datastore's first snapshot. Nodes are many, so of them only the facts are kept and a
//! Node is made of these; Services and EndpointSlices are checked by the API server that they come from, and not kept.

use std::collections::BTreeMap;

use calico_api::{Key, Kind};
use serde_json::Value;

use super::Inputs;

/// What an object is called in faults: its kind and its name, with its namespace if it has one.
pub type Id = (Kind, String);

/// The [`Id`] of an object.
pub fn id(key: &Key) -> Id {
    let name = match key.namespace() {
        Some(namespace) => format!("{namespace}/{}", key.name()),
        None => key.name(),
    };
    (key.kind(), name)
}

/// Last good versions.
#[derive(Clone, Debug, Default)]
pub(super) struct LastGood {
    /// Those in force, as JSON text, which takes less room than a tree.
    in_force: BTreeMap<Id, (Key, Box<str>)>,
    /// Those of an earlier life, of which nobody knows yet whether they are needed.
    preloaded: BTreeMap<Id, (Key, Value)>,
}

/// Two images of the datastore are equal whatever they remember beside it.
impl PartialEq for LastGood {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl LastGood {
    /// The text to keep of a value that will be [`put`](Self::put) if it is understood.
    pub(super) fn text(key: &Key, value: &Value) -> Option<Box<str>> {
        let kept = matches!(
            key.kind(),
            Kind::BGPConfiguration | Kind::BGPFilter | Kind::BGPPeer | Kind::IPPool | Kind::BlockAffinity
        );
        kept.then(|| value.to_string().into())
    }

    pub(super) fn put(&mut self, id: &Id, key: Key, text: Option<Box<str>>) {
        self.preloaded.remove(id);
        if let Some(text) = text {
            self.in_force.insert(id.clone(), (key, text));
        }
    }

    pub(super) fn remove(&mut self, id: &Id) {
        self.preloaded.remove(id);
        self.in_force.remove(id);
    }

    pub(super) fn take_preloaded(&mut self, id: &Id) -> Option<(Key, Value)> {
        self.preloaded.remove(id)
    }

    pub(super) fn has(&self, id: &Id) -> bool {
        self.in_force.contains_key(id)
    }

    pub(super) fn forget_preloaded(&mut self) {
        self.preloaded.clear();
    }
}

impl Inputs {
    /// The last good versions of the objects that are in fault, as far as there are any.
    pub fn last_good(&self) -> impl Iterator<Item = (Key, Value)> + '_ {
        self.faults.keys().filter_map(|id| {
            if id.0 == Kind::Node {
                let facts = self.nodes.get(&id.1)?;
                return Some((Key::named(Kind::Node, id.1.clone()), facts.to_value(&id.1)));
            }
            let (key, text) = self.last_good.in_force.get(id)?;
            Some((key.clone(), serde_json::from_str(text).ok()?))
        })
    }

    /// Gives a last good version of an earlier life back. It comes into force if the datastore's own version turns out
    /// not to be understood, and is forgotten if that is understood or the object does not exist
    /// ([`Inputs::in_sync`]).
    pub fn preload(&mut self, key: Key, value: Value) {
        self.last_good.preloaded.insert(id(&key), (key, value));
    }
}
