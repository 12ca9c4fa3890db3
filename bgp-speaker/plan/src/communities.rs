//! Which communities does a prefix get when it leaves? (`bgp.md` §2.6)

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

use bgp_proto::{Attributes, Community, LargeCommunity};
use calico_api::BGPConfigurationSpec;
use ipnet::IpNet;

/// A community of either kind, as resources write them: `a:b` or `a:b:c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// Two numbers below 65536 (RFC 1997).
    Standard(Community),
    /// Three numbers below 4294967296 (RFC 8092).
    Large(LargeCommunity),
}

impl Mark {
    /// Whether a path carries it.
    pub fn is_on(self, attributes: &Attributes) -> bool {
        match self {
            Self::Standard(community) => attributes.communities.contains(&community),
            Self::Large(community) => attributes.large_communities.contains(&community),
        }
    }

    /// Puts it on a path; the path's communities stay sorted, each once.
    pub fn put_on(self, attributes: &mut Attributes) {
        match self {
            Self::Standard(community) => insert(&mut attributes.communities, community),
            Self::Large(community) => insert(&mut attributes.large_communities, community),
        }
    }
}

fn insert<T: Ord>(sorted: &mut Vec<T>, new: T) {
    if let Err(at) = sorted.binary_search(&new) {
        sorted.insert(at, new);
    }
}

/// A text that is no community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a community: expected a:b with numbers below 65536, or a:b:c with numbers below 4294967296")]
pub struct NoMark(String);

impl FromStr for Mark {
    type Err = NoMark;

    fn from_str(text: &str) -> Result<Self, NoMark> {
        let digits = text.bytes().all(|octet| octet.is_ascii_digit() || octet == b':');
        let standard = text.parse().ok().map(Self::Standard);
        let mark = standard.or_else(|| text.parse().ok().map(Self::Large));
        mark.filter(|_| digits).ok_or_else(|| NoMark(text.to_owned()))
    }
}

/// Communities by the range in which prefixes get them. Ranges may overlap; a prefix gets those of all it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Communities(BTreeMap<IpNet, BTreeSet<Mark>>);

impl Communities {
    /// Those of `prefixAdvertisements`. What the node's own resource has for a family takes the place of what the
    /// global one has for it; beside them, what is wrong with an entry, which then has no effect.
    ///
    /// Departs from Calico: a resource of the node without entries of a family leaves that family to the global one,
    /// where Calico then has none at all.
    pub fn of(global: &BGPConfigurationSpec, node: Option<&BGPConfigurationSpec>) -> (Self, Vec<String>) {
        let mut warnings = Vec::new();
        let global = entries("BGPConfiguration default", global, &mut warnings);
        let node = node.map(|node| entries("this node's BGPConfiguration", node, &mut warnings)).unwrap_or_default();
        let mut all = BTreeMap::<_, BTreeSet<Mark>>::new();
        for is_v4 in [true, false] {
            let of_family = |entry: &&(IpNet, Vec<Mark>)| entry.0.addr().is_ipv4() == is_v4;
            let list = if node.iter().any(|entry| of_family(&entry)) { &node } else { &global };
            for (cidr, marks) in list.iter().filter(of_family) {
                all.entry(*cidr).or_default().extend(marks);
            }
        }
        (Self(all), warnings)
    }

    /// What a prefix gets, sorted, each once.
    pub fn for_prefix(&self, prefix: &IpNet) -> BTreeSet<Mark> {
        let inside = self.0.iter().filter(|(cidr, _)| cidr.contains(prefix));
        inside.flat_map(|(_, marks)| marks).copied().collect()
    }

    /// The ranges in which prefixes get other communities by `other`.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = IpNet> + 'a {
        let ranges: BTreeSet<_> = self.0.keys().chain(other.0.keys()).copied().collect();
        ranges.into_iter().filter(|cidr| self.0.get(cidr) != other.0.get(cidr))
    }
}

/// The entries of one resource, whose `communities` alone give names.
fn entries(resource: &str, spec: &BGPConfigurationSpec, warnings: &mut Vec<String>) -> Vec<(IpNet, Vec<Mark>)> {
    let named = spec.communities.as_deref().unwrap_or_default();
    let mut entries = Vec::new();
    for (index, entry) in spec.prefix_advertisements.iter().flatten().enumerate() {
        let place = format!("{resource}: prefixAdvertisements[{index}]");
        let Some(cidr) = network(&entry.cidr) else {
            warnings.push(format!("{place}.cidr is \"{}\", expected a range such as 10.0.0.0/8", entry.cidr));
            continue;
        };
        let mut marks = Vec::new();
        for text in &entry.communities {
            // A name cannot look like a value: it would have to be one.
            let value = match named.iter().find(|community| community.name == *text) {
                Some(community) => &community.value,
                None if text.contains(':') => text,
                None => {
                    warnings.push(format!("{place} names community \"{text}\", which communities[] does not define"));
                    continue;
                }
            };
            match value.parse() {
                Ok(mark) => marks.push(mark),
                Err(error) => warnings.push(format!("{place}: {error}")),
            }
        }
        entries.push((cidr, marks));
    }
    entries
}

/// A network without host bits, or an address as a network of one.
pub(crate) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> BGPConfigurationSpec {
        serde_json::from_value(value).unwrap()
    }

    fn texts(communities: &Communities, prefix: &str) -> Vec<String> {
        let marks = communities.for_prefix(&prefix.parse().unwrap());
        let text = |mark: &Mark| match mark {
            Mark::Standard(community) => community.to_string(),
            Mark::Large(community) => community.to_string(),
        };
        marks.iter().map(text).collect()
    }

    #[test]
    fn entries_accumulate_and_names_are_those_of_their_own_resource() {
        let global = spec(json!({
            "communities": [{"name": "rack", "value": "65000:7"}, {"name": "bad", "value": "65536:1"}],
            "prefixAdvertisements": [
                {"cidr": "10.244.0.0/16", "communities": ["65000:100", "65000:1:2", "65000:100"]},
                {"cidr": "10.244.5.0/24", "communities": ["rack", "nobody", "bad"]},
                {"cidr": "ten", "communities": ["65000:100"]},
                {"cidr": "fd00::/64", "communities": ["65000:6"]},
            ],
        }));
        let (all, warnings) = Communities::of(&global, None);
        assert_eq!(texts(&all, "10.244.5.0/26"), ["65000:7", "65000:100", "65000:1:2"]);
        assert_eq!(texts(&all, "10.244.0.0/16"), ["65000:100", "65000:1:2"]);
        assert_eq!(texts(&all, "10.0.0.0/8"), Vec::<String>::new());
        assert_eq!(texts(&all, "fd00::7/128"), ["65000:6"]);
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].contains("prefixAdvertisements[1] names community \"nobody\""), "{warnings:?}");
        assert!(warnings[1].contains("\"65536:1\" is not a community"), "{warnings:?}");
        assert!(warnings[2].contains("prefixAdvertisements[2].cidr is \"ten\""), "{warnings:?}");
    }

    #[test]
    fn a_nodes_own_entries_replace_the_global_ones_of_their_family_only() {
        let global = spec(json!({
            "communities": [{"name": "rack", "value": "65000:7"}],
            "prefixAdvertisements": [
                {"cidr": "10.0.0.0/8", "communities": ["65000:1"]}, {"cidr": "fd00::/8", "communities": ["65000:2"]},
            ],
        }));
        let node = spec(json!({"prefixAdvertisements": [{"cidr": "fd00::/16", "communities": ["65000:3", "rack"]}]}));
        let (all, warnings) = Communities::of(&global, Some(&node));
        assert_eq!(texts(&all, "10.1.0.0/16"), ["65000:1"]);
        assert_eq!(texts(&all, "fd00::/64"), ["65000:3"]);
        assert_eq!(texts(&all, "fd01::/64"), Vec::<String>::new());
        assert_eq!(warnings.len(), 1, "the global resource's names are not the node's: {warnings:?}");
        let (same, _) = Communities::of(&global, Some(&spec(json!({"listenPort": 1790}))));
        let (before, _) = Communities::of(&global, None);
        assert_eq!(same, before);
        let differ: Vec<_> = all.difference(&before).map(|net| net.to_string()).collect();
        assert_eq!(differ, ["fd00::/8", "fd00::/16"]);
    }

    #[test]
    fn marks_are_numbers_within_their_size() {
        for bad in ["", "1", "65536:1", "1:2:4294967296", "+1:2", "1:2:3:4", "rack", "1: 2"] {
            assert!(bad.parse::<Mark>().is_err(), "{bad}");
        }
        let mut attributes = Attributes::new([10, 0, 0, 1].into());
        for text in ["7:7", "1:1", "7:7", "1:2:3"] {
            let mark: Mark = text.parse().unwrap();
            mark.put_on(&mut attributes);
            assert!(mark.is_on(&attributes));
        }
        assert_eq!(attributes.communities, [Community::new(1, 1), Community::new(7, 7)]);
        assert_eq!(attributes.large_communities.len(), 1);
    }
}
