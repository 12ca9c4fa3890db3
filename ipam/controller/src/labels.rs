//! Kubernetes' labels on Calico's nodes, where these are objects of their own (etcd).

use std::collections::BTreeMap;

use calico_api::Node;

/// The annotation that remembers which labels were copied, so that they can be removed when Kubernetes removes them.
const COPIED: &str = "projectcalico.org/kube-labels";

/// The node with Kubernetes' labels in place of those copied before; `None` if it has them already. Labels that somebody
/// else gave it stay, unless Kubernetes says otherwise.
pub(crate) fn copied(node: &Node, labels: &BTreeMap<String, String>) -> Option<Node> {
    let before: BTreeMap<String, String> =
        node.metadata.annotations.get(COPIED).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let mut wanted = node.clone();
    wanted.metadata.labels.retain(|key, value| before.get(key) != Some(value));
    wanted.metadata.labels.extend(labels.clone());
    let text = serde_json::to_string(labels).ok()?;
    wanted.metadata.annotations.insert(COPIED.to_owned(), text);
    (wanted != *node).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use calico_api::{NodeSpec, ObjectMeta};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn labels_come_and_go_with_kubernetes_and_others_stay() {
        let mut node = Node::new(ObjectMeta::named("a"), NodeSpec::default());
        node.metadata.labels = map(&[("rack", "r1")]);
        let first = copied(&node, &map(&[("zone", "x"), ("os", "linux")])).unwrap();
        assert_eq!(first.metadata.labels, map(&[("rack", "r1"), ("zone", "x"), ("os", "linux")]));
        assert_eq!(copied(&first, &map(&[("zone", "x"), ("os", "linux")])), None);
        let second = copied(&first, &map(&[("zone", "y")])).unwrap();
        assert_eq!(second.metadata.labels, map(&[("rack", "r1"), ("zone", "y")]));
    }
}
