//! Where Calico keeps what in etcd.
//!
//! | | |
//! |---|---|
//! | a resource | `/calico/resources/v3/projectcalico.org/<plural>/[<namespace>/]<name>` |
//! | a block | `/calico/ipam/v2/assignment/ipv4/block/10.244.0.0-26` |
//! | an affinity | `/calico/ipam/v2/host/<node>/ipv4/block/10.244.0.0-26`, `…/virtual/<name>/…` |
//! | a handle | `/calico/ipam/v2/handle/<id>` |
//! | IPAM's configuration | `/calico/ipam/v2/config` |
//!
//! Kubernetes' own kinds (Secret, Service, EndpointSlice) have no place in Calico's layout. Where there is no Kubernetes
//! they are kept in a key space of ours, which no tool of Calico's lists or removes:
//! `/ocicat/core/v1/<plural>/<namespace>/<name>`.

use calico_api::{Key, Kind, Owner};
use ipnet::IpNet;

use crate::Filter;

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
const CORE: &str = "/ocicat/core/v1/";
const IPAM: &str = "/calico/ipam/v2/";
const CONFIG: &str = "/calico/ipam/v2/config";

/// The name of the only `IPAMConfiguration`.
const DEFAULT: &str = "default";

/// The path of a key, or why it has none.
pub(super) fn path(key: &Key) -> Result<String, &'static str> {
    Ok(match key {
        Key::Named { kind: Kind::IPAMConfiguration, name, .. } if name == DEFAULT => CONFIG.to_owned(),
        Key::Named { kind: Kind::IPAMConfiguration, .. } => return Err("its only name is \"default\""),
        Key::Named { kind, namespace: Some(namespace), name } => {
            format!("{}{}/{namespace}/{name}", root(*kind), kind.plural())
        }
        Key::Named { kind, namespace: None, name } => format!("{}{}/{name}", root(*kind), kind.plural()),
        Key::Block(cidr) => format!("{IPAM}assignment/{}", block(cidr)),
        Key::Affinity { owner, cidr } => format!("{IPAM}{}/{}/{}", owner.type_str(), owner.name(), block(cidr)),
        Key::Handle(id) => format!("{IPAM}handle/{id}"),
    })
}

/// Under what the resources of kinds are that have no place of their own.
fn root(kind: Kind) -> &'static str {
    if kind.is_core() { CORE } else { RESOURCES }
}

/// `ipv4/block/10.244.0.0-26`.
fn block(cidr: &IpNet) -> String {
    let version = if cidr.addr().is_ipv4() { 4 } else { 6 };
    format!("ipv{version}/block/{}-{}", cidr.addr(), cidr.prefix_len())
}

fn parse_block(text: &str) -> Option<IpNet> {
    let (version, block) = text.split_once("/block/")?;
    let (addr, len) = block.rsplit_once('-')?;
    let cidr = IpNet::new(addr.parse().ok()?, len.parse().ok()?).ok()?;
    let expected = if cidr.addr().is_ipv4() { "ipv4" } else { "ipv6" };
    (version == expected && cidr == cidr.trunc()).then_some(cidr)
}

/// What a path stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A resource of the kind that was asked for.
    Key(Key),
    /// Something else that is kept among them.
    Other,
    /// Nothing that could be the kind's.
    Strange,
}

/// What is at a path within the range of `kind`.
pub(super) fn parse(kind: Kind, path: &str) -> Place {
    let key = match kind {
        Kind::IPAMConfiguration => (path == CONFIG).then(|| Key::named(kind, DEFAULT)),
        Kind::IPAMBlock => {
            path.strip_prefix(IPAM).and_then(|p| p.strip_prefix("assignment/")).and_then(parse_block).map(Key::Block)
        }
        Kind::IPAMHandle => path
            .strip_prefix(IPAM)
            .and_then(|path| path.strip_prefix("handle/"))
            .filter(|id| !id.is_empty())
            .map(|id| Key::Handle(id.to_owned())),
        Kind::BlockAffinity => {
            let mut parts = path.strip_prefix(IPAM).unwrap_or_default().splitn(3, '/');
            let owner = match (parts.next(), parts.next().map(str::to_owned)) {
                (Some("host"), Some(name)) => Owner::Host(name),
                (Some("virtual"), Some(name)) => Owner::Virtual(name),
                // The range has nothing else of ours.
                _ => return Place::Other,
            };
            match parts.next() {
                Some(rest) if rest.contains("/block/") => parse_block(rest).map(|cidr| Key::Affinity { owner, cidr }),
                // Old Calico kept a root of each node's settings here.
                _ => return Place::Other,
            }
        }
        kind => path
            .strip_prefix(root(kind))
            .and_then(|path| path.strip_prefix(kind.plural()))
            .and_then(|path| path.strip_prefix('/'))
            .and_then(|path| match (kind.namespaced(), path.split_once('/')) {
                (true, Some((namespace, name))) => Some(Key::namespaced(kind, namespace, name)),
                (false, None) => Some(Key::named(kind, path)),
                _ => None,
            }),
    };
    key.map_or(Place::Strange, Place::Key)
}

/// The first path, and the path after the last, of all that a filter of a kind may let through.
pub(super) fn range(kind: Kind, filter: &Filter) -> (String, String) {
    let prefix = match (kind, filter) {
        (Kind::IPAMConfiguration, _) => return (CONFIG.to_owned(), format!("{CONFIG}\0")),
        (Kind::IPAMBlock, _) => format!("{IPAM}assignment/"),
        (Kind::IPAMHandle, _) => format!("{IPAM}handle/"),
        (Kind::BlockAffinity, Filter::Node(node)) => format!("{IPAM}host/{node}/"),
        // From all hosts to all virtual owners; nothing of ours lies between.
        (Kind::BlockAffinity, _) => return (format!("{IPAM}host/"), after(&format!("{IPAM}virtual/"))),
        (kind, Filter::Namespace(namespace)) if kind.namespaced() => {
            format!("{}{}/{namespace}/", root(kind), kind.plural())
        }
        (kind, Filter::Named { namespace, name }) => {
            let namespace = namespace.iter().map(|namespace| format!("{namespace}/")).collect::<String>();
            let path = format!("{}{}/{namespace}{name}", root(kind), kind.plural());
            return (path.clone(), format!("{path}\0"));
        }
        (kind, _) => format!("{}{}/", root(kind), kind.plural()),
    };
    let end = after(&prefix);
    (prefix, end)
}

/// The first path that does not begin with a prefix that ends in a slash.
fn after(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').unwrap_or(prefix);
    // The character after the slash.
    format!("{stem}0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(node: &str, cidr: &str) -> Key {
        Key::Affinity { owner: Owner::Host(node.into()), cidr: cidr.parse().unwrap() }
    }

    #[test]
    fn keys_are_where_calico_has_them() {
        let virtual_owner =
            Key::Affinity { owner: Owner::Virtual("load-balancer".into()), cidr: "10.1.0.0/26".parse().unwrap() };
        let cases = [
            (Key::named(Kind::IPPool, "pods"), "/calico/resources/v3/projectcalico.org/ippools/pods"),
            (
                Key::namespaced(Kind::NetworkPolicy, "shop", "web"),
                "/calico/resources/v3/projectcalico.org/networkpolicies/shop/web",
            ),
            (Key::named(Kind::Node, "node-1"), "/calico/resources/v3/projectcalico.org/nodes/node-1"),
            (Key::Block("10.244.0.0/26".parse().unwrap()), "/calico/ipam/v2/assignment/ipv4/block/10.244.0.0-26"),
            (
                Key::Block("fd00:10:244::40/122".parse().unwrap()),
                "/calico/ipam/v2/assignment/ipv6/block/fd00:10:244::40-122",
            ),
            (host("node-1", "10.244.0.0/26"), "/calico/ipam/v2/host/node-1/ipv4/block/10.244.0.0-26"),
            (virtual_owner, "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.1.0.0-26"),
            (Key::Handle("k8s-pod-network.4F1c".into()), "/calico/ipam/v2/handle/k8s-pod-network.4F1c"),
            (Key::named(Kind::IPAMConfiguration, "default"), "/calico/ipam/v2/config"),
            (Key::namespaced(Kind::Secret, "kube-system", "bgp"), "/ocicat/core/v1/secrets/kube-system/bgp"),
        ];
        for (key, expected) in cases {
            assert_eq!(path(&key).as_deref(), Ok(expected));
            assert_eq!(parse(key.kind(), expected), Place::Key(key.clone()));
            let (first, end) = range(key.kind(), &Filter::All);
            assert!(first.as_str() <= expected && expected < end.as_str(), "{expected} in {first} to {end}");
            if matches!(key, Key::Named { .. }) {
                let (first, end) = range(key.kind(), &Filter::named(&key));
                assert_eq!((first.as_str(), end), (expected, format!("{expected}\0")), "no other is asked for");
            }
        }
    }

    #[test]
    fn what_is_not_an_affinity_among_affinities_is_passed_over() {
        assert_eq!(parse(Kind::BlockAffinity, "/calico/ipam/v2/host/node-1"), Place::Other);
        assert_eq!(parse(Kind::BlockAffinity, "/calico/ipam/v2/tmp/x"), Place::Other);
        for strange in ["10.244.0.1-26", "10.244.0.0", "10.244.0.0-33", "fd00::-122"] {
            let path = format!("/calico/ipam/v2/host/node-1/ipv4/block/{strange}");
            assert_eq!(parse(Kind::BlockAffinity, &path), Place::Strange, "{path}");
        }
        let node = Filter::Node("node".into());
        let (first, end) = range(Kind::BlockAffinity, &node);
        let other = path(&host("node-1", "10.0.0.0/26")).unwrap();
        assert!(!(first <= other && other < end), "another node whose name begins alike is outside");
    }
}
