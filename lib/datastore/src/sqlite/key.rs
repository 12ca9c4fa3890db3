//! The text under which the SQLite store keeps a key.
//!
//! `<name>`, `<namespace>/<name>`, a block's CIDR, `host:<node>/<cidr>` for an affinity, a handle's id.

use calico_api::{Key, Kind, Owner};

use crate::Filter;

/// A key's text.
pub(super) fn text(key: &Key) -> String {
    match key {
        Key::Named { namespace: Some(namespace), name, .. } => format!("{namespace}/{name}"),
        Key::Named { namespace: None, name, .. } => name.clone(),
        Key::Block(cidr) => cidr.to_string(),
        Key::Affinity { owner, cidr } => format!("{owner}/{cidr}"),
        Key::Handle(id) => id.clone(),
    }
}

/// The key with this text, if there is one.
pub(super) fn parse(kind: Kind, text: &str) -> Option<Key> {
    Some(match kind {
        Kind::IPAMBlock => Key::Block(text.parse().ok()?),
        Kind::BlockAffinity => {
            let (owner, cidr) = text.split_once('/')?;
            Key::Affinity { owner: owner.parse::<Owner>().ok()?, cidr: cidr.parse().ok()? }
        }
        Kind::IPAMHandle => Key::Handle(text.to_owned()),
        kind if kind.namespaced() => {
            let (namespace, name) = text.split_once('/')?;
            Key::namespaced(kind, namespace, name)
        }
        kind => Key::named(kind, text),
    })
}

/// What the text of every key begins with that the filter lets through; the filter may be stricter yet.
pub(super) fn prefix(kind: Kind, filter: &Filter) -> String {
    match filter {
        Filter::Namespace(namespace) if kind.namespaced() => format!("{namespace}/"),
        Filter::Node(node) if kind == Kind::BlockAffinity => format!("{}/", Owner::Host(node.clone())),
        Filter::Named { namespace: Some(namespace), name } => format!("{namespace}/{name}"),
        Filter::Named { namespace: None, name } => name.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_again_from_its_text() {
        let keys = [
            Key::named(Kind::IPPool, "pods-a"),
            Key::namespaced(Kind::NetworkPolicy, "shop", "web"),
            Key::Block("fd00:10:244::40/122".parse().unwrap()),
            Key::Affinity { owner: Owner::Host("node-1".into()), cidr: "10.244.0.0/26".parse().unwrap() },
            Key::Affinity { owner: Owner::Virtual("load-balancer".into()), cidr: "fd00::/122".parse().unwrap() },
            Key::Handle("k8s-pod-network.4F1c/eth0".into()),
        ];
        for key in keys {
            assert_eq!(parse(key.kind(), &text(&key)).as_ref(), Some(&key));
        }
        for (kind, text) in [(Kind::IPAMBlock, "10.0.0.0"), (Kind::BlockAffinity, "node-1"), (Kind::NetworkSet, "a")] {
            assert_eq!(parse(kind, text), None, "{text}");
        }
    }
}
