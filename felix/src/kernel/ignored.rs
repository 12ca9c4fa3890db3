//! What stands in the store and is not in force, because the calculation cannot use it?

use std::collections::BTreeMap;

use calico_agent::Finding;
use calico_api::Key;
use felix_calc::{Change, Update};

/// Resources whose newest version is not used, and why.
#[derive(Debug, Default)]
pub(super) struct Ignored(BTreeMap<Key, String>);

/// What an update is about, if that is a resource.
pub(super) fn key_of(update: &Update) -> Option<Key> {
    match update {
        Update::Endpoint(resource) => Some(resource.key()),
        Update::Block(resource) => Some(resource.key()),
        Update::Peer(resource) => Some(resource.key()),
        Update::Configuration(resource) => Some(resource.key()),
        Update::Node(resource) => Some(resource.key()),
        Update::Pool(resource) => Some(resource.key()),
        Update::Profile(resource) => Some(resource.key()),
        Update::Deleted(key) => Some(key.clone()),
        Update::Fault { key, .. } => key.clone(),
        _ => None,
    }
}

impl Ignored {
    /// Takes what came of an update about this resource.
    pub(super) fn learn(&mut self, key: Key, changes: &[Change]) {
        let reason = changes.iter().find_map(|change| match change {
            Change::Ignored { key: Some(ignored), reason } if *ignored == key => Some(reason.to_string()),
            _ => None,
        });
        match reason {
            Some(reason) => drop(self.0.insert(key, reason)),
            None => drop(self.0.remove(&key)),
        }
    }

    /// What the operator should know of them.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.0.iter().map(|(key, reason)| Finding {
            object: format!("{}/{}", key.kind(), key.name()),
            text: format!(
                "it is not used, its last good version, if there is one, stays in force: {reason}; correct it"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use calico_api::{Kind, Node, NodeBGPSpec, NodeSpec, ObjectMeta};
    use felix_calc::{Calc, Routing, Settings};

    use super::*;

    #[test]
    fn what_is_not_used_is_told_until_it_is_corrected_or_gone() {
        let settings = Settings {
            node: "east".to_owned(),
            prefixes: vec!["cali".to_owned()],
            routing: Routing::Bgp,
            felix_programs: None,
            external_nodes: Vec::new(),
        };
        let (mut calc, mut ignored) = (Calc::new(settings), Ignored::default());
        let mut learn = |update: Update| {
            let key = key_of(&update).unwrap();
            ignored.learn(key, &calc.update(update));
            ignored.findings().collect::<Vec<_>>()
        };
        let node = |name: &str, address: &str| {
            let bgp = NodeBGPSpec { ipv4_address: Some(address.to_owned()), ..NodeBGPSpec::default() };
            let spec = NodeSpec { bgp: Some(bgp), ..NodeSpec::default() };
            Update::Node(Box::new(Node::new(ObjectMeta::named(name), spec)))
        };
        assert_eq!(learn(node("west", "10.0.0.2/24")), []);
        let found = learn(node("west", "10.0.0.300/24"));
        assert_eq!((found.len(), found[0].object.as_str()), (1, "Node/west"));
        assert!(found[0].text.contains("10.0.0.300/24") && found[0].text.contains("last good version"), "{found:?}");
        let pool = Key::named(Kind::IPPool, "p");
        let fault = Update::Fault { key: Some(pool.clone()), reason: "spec.ipipMode: unknown variant".to_owned() };
        let found = learn(fault);
        assert!(found.len() == 2 && found[0].text.contains("ipipMode"), "{found:?}");
        assert_eq!(learn(node("south", "10.0.0.3/24")).len(), 2, "another's good version says nothing of them");
        assert_eq!(learn(node("west", "10.0.0.2/24")).len(), 1);
        assert_eq!(learn(Update::Deleted(pool)), []);
    }
}
