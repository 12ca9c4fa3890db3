//! Which local workloads are BGP peers, and of which BGPPeer? (reference bgp.md §1.9)
//!
//! Felix decides it ([`choose`]) for the node's own endpoints and writes the outcome to one file per endpoint
//! ([`EndpointStatus`]), as Calico's Felix does; the speaker reads the files ([`LocalWorkload`]). `calicoctl` decides it for
//! any node.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use calico_api::{AsNumber, BGPPeerSpec};
use calico_selector::{Labels, Selector, SelectorError};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// A workload of this node that is a peer, as felix writes it to the endpoint status files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalWorkload {
    /// Its first IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its first IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The BGPPeer that selects it.
    pub peer: String,
}

/// What an endpoint status file holds, as JSON; fields that are empty are absent (`libcalico-go/lib/epstatusfile`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointStatus {
    /// The node's side of the endpoint's interface.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub iface_name: String,
    /// The workload's MAC, where the endpoint resource has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its IPv4 addresses, `10.244.0.2/32`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv4_nets: Vec<Ipv4Net>,
    /// Its IPv6 addresses, `fd00::2/128`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ipv6_nets: Vec<Ipv6Net>,
    /// The BGPPeer that selects it; empty for an endpoint that is no peer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bgp_peer_name: String,
}

impl EndpointStatus {
    /// The folder of the files below the prefix (`CALICO_ENDPOINT_STATUS_PATH_PREFIX`).
    pub const FOLDER: &str = "endpoint-status";
    /// The prefix, where none is configured.
    pub const PREFIX: &str = "/var/run/calico";

    /// The peer that the file speaks of; `None` if the endpoint is none, or has no address to peer with.
    pub fn peer(&self) -> Option<LocalWorkload> {
        // Whoever could write a file there must not make a session with everybody or nobody of it.
        let ipv4 = self.ipv4_nets.first().map(Ipv4Net::addr);
        let ipv4 =
            ipv4.filter(|address| !(address.is_unspecified() || address.is_multicast() || address.is_broadcast()));
        let ipv6 = self.ipv6_nets.first().map(Ipv6Net::addr);
        let ipv6 = ipv6.filter(|address| !(address.is_unspecified() || address.is_multicast()));
        let is_peer = !self.bgp_peer_name.is_empty() && (ipv4.is_some() || ipv6.is_some());
        is_peer.then(|| LocalWorkload { ipv4, ipv6, peer: self.bgp_peer_name.clone() })
    }
}

/// A BGPPeer as far as it selects local workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selecting {
    node: Option<String>,
    nodes: Selector,
    workloads: Selector,
}

/// Why a BGPPeer's choice of local workloads is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSelecting {
    /// Both ways to name the nodes.
    #[error("node and nodeSelector are both set; keep one")]
    TwoNodes,
    /// A field that does not go with `localWorkloadSelector`.
    #[error("localWorkloadSelector and {0} are both set; keep one")]
    TwoPeers(&'static str),
    /// No AS number of the workload.
    #[error("localWorkloadSelector needs asNumber, the workloads' AS number")]
    NoAsNumber,
    /// A selector that cannot be parsed.
    #[error("{field} is not a selector: {error}")]
    Selector {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        error: SelectorError,
    },
}

impl Selecting {
    /// What the BGPPeer selects; `None` if it is not about local workloads.
    ///
    /// # Errors
    /// If it is, but cannot be understood: the last good version should stay in force.
    pub fn parse(spec: &BGPPeerSpec) -> Result<Option<Self>, BadSelecting> {
        let Some(workloads) = filled(&spec.local_workload_selector) else { return Ok(None) };
        let node = filled(&spec.node);
        let nodes = filled(&spec.node_selector);
        if node.is_some() && nodes.is_some() {
            return Err(BadSelecting::TwoNodes);
        }
        for (field, value) in [("peerIP", &spec.peer_ip), ("peerSelector", &spec.peer_selector)] {
            if filled(value).is_some() {
                return Err(BadSelecting::TwoPeers(field));
            }
        }
        if spec.as_number.is_none_or(|number| number == AsNumber(0)) {
            return Err(BadSelecting::NoAsNumber);
        }
        let selector = |field, text: &str| match Selector::parse(text) {
            Ok(selector) => Ok(selector),
            Err(error) => Err(BadSelecting::Selector { field, error }),
        };
        Ok(Some(Self {
            node: node.map(str::to_owned),
            nodes: selector("nodeSelector", nodes.unwrap_or_default())?,
            workloads: selector("localWorkloadSelector", workloads)?,
        }))
    }

    /// Whether it is about the workloads of this node.
    pub fn is_for(&self, node: &str, labels: &impl Labels) -> bool {
        match &self.node {
            Some(only) => only == node,
            None => self.nodes.matches(labels),
        }
    }
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// The labels of an endpoint: its own, and those it has not itself from its profiles, of which the first that has
/// one counts.
#[derive(Clone, Debug)]
pub struct EndpointLabels<'a> {
    own: &'a BTreeMap<String, String>,
    inherited: Vec<&'a BTreeMap<String, String>>,
}

impl<'a> EndpointLabels<'a> {
    /// The labels of an endpoint with labels of its `own` and these `profiles`; `labels_to_apply` are those of all profiles,
    /// by name.
    pub fn new(
        own: &'a BTreeMap<String, String>,
        profiles: &[String],
        labels_to_apply: &'a BTreeMap<String, BTreeMap<String, String>>,
    ) -> Self {
        Self { own, inherited: profiles.iter().filter_map(|profile| labels_to_apply.get(profile)).collect() }
    }
}

impl Labels for EndpointLabels<'_> {
    fn get(&self, label: &str) -> Option<&str> {
        let inherited = || self.inherited.iter().find_map(|labels| labels.get(label));
        self.own.get(label).map(String::as_str).or_else(inherited)
    }
}

/// Whose peer an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The BGPPeer; of several that select the endpoint the one whose name is lexically first.
    pub peer: String,
    /// The others that select it, of no effect for this endpoint.
    pub suppressed: Vec<String>,
}

/// Which of the `endpoints` of `node` are peers, and of which BGPPeer. Endpoints that none selects are not in the answer.
///
/// `peers` are BGPPeers by name, `endpoints` the node's own by id, each with its labels ([`EndpointLabels`]).
pub fn choose<'p, L: Labels>(
    node: &str,
    node_labels: &impl Labels,
    peers: impl IntoIterator<Item = (&'p str, &'p Selecting)>,
    endpoints: impl IntoIterator<Item = (String, L)>,
) -> BTreeMap<String, Chosen> {
    let here: BTreeMap<&str, &Selecting> =
        peers.into_iter().filter(|(_, peer)| peer.is_for(node, node_labels)).collect();
    if here.is_empty() {
        return BTreeMap::new();
    }
    let chosen = endpoints.into_iter().filter_map(|(id, labels)| {
        let mut names = here.iter().filter(|(_, peer)| peer.workloads.matches(&labels)).map(|(name, _)| *name);
        let peer = names.next()?.to_owned();
        Some((id, Chosen { peer, suppressed: names.map(str::to_owned).collect() }))
    });
    chosen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn labels(pairs: Pairs<'_>) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn spec(text: &str) -> BGPPeerSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_an_address_that_one_workload_can_have_is_peered_with() {
        let peer = |ipv4: &str, ipv6: &str| {
            let text = format!(r#"{{"ipv4Nets":["{ipv4}"],"ipv6Nets":["{ipv6}"],"bgpPeerName":"lw"}}"#);
            serde_json::from_str::<EndpointStatus>(&text).unwrap().peer()
        };
        assert_eq!(peer("0.0.0.0/0", "::/128"), None);
        assert_eq!(peer("224.0.0.5/32", "ff02::1/128"), None);
        let both = peer("10.244.1.2/32", "fd00::2/128").unwrap();
        assert_eq!((both.ipv4, both.ipv6), (Some([10, 244, 1, 2].into()), "fd00::2".parse().ok()));
        assert_eq!(peer("255.255.255.255/32", "fd00::2/128").unwrap().ipv4, None);
    }

    /// What is chosen for endpoints `id`, own labels, profiles, as `id=peer[-suppressed…]`.
    fn chosen(
        node: &str,
        node_labels: Pairs<'_>,
        peers: Pairs<'_>,
        endpoints: &[(&str, Pairs<'_>, &[&str])],
    ) -> String {
        let peers: Vec<_> =
            peers.iter().map(|(name, text)| (*name, Selecting::parse(&spec(text)).unwrap().unwrap())).collect();
        let profiles = BTreeMap::from([
            ("kns.shop".to_owned(), labels(&[("pcns.tier", "gold"), ("role", "inherited")])),
            ("ksa.shop.router".to_owned(), labels(&[("pcns.tier", "lead"), ("pcsa.bgp", "yes")])),
        ]);
        let own: Vec<_> = endpoints.iter().map(|(_, own, _)| labels(own)).collect();
        let names: Vec<Vec<String>> =
            endpoints.iter().map(|(.., names)| names.iter().map(ToString::to_string).collect()).collect();
        let endpoints = endpoints
            .iter()
            .zip(own.iter().zip(&names))
            .map(|((id, ..), (own, names))| ((*id).to_owned(), EndpointLabels::new(own, names, &profiles)));
        let chosen = choose(node, &labels(node_labels), peers.iter().map(|(name, peer)| (*name, peer)), endpoints);
        let line = |(id, chosen): (String, Chosen)| {
            let suppressed: String = chosen.suppressed.iter().map(|name| format!("-{name}")).collect();
            format!("{id}={}{suppressed}", chosen.peer)
        };
        chosen.into_iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_peer_selects_workloads_of_the_nodes_that_it_selects() {
        let pods: &[(&str, Pairs<'_>, &[&str])] = &[("r1", &[("app", "r")], &[]), ("web", &[("app", "web")], &[])];
        // S16: every node, here a and one that has no match of its own.
        let lw = r#"{"localWorkloadSelector": "app=='r'", "asNumber": 65100, "localASNumber": 65200}"#;
        assert_eq!(chosen("a", &[], &[("lw", lw)], pods), "r1=lw");
        assert_eq!(chosen("b", &[], &[("lw", lw)], &pods[1..]), "");
        for (node, node_labels, of_node, expected) in [
            ("a", &[][..], r#""node": "a""#, "r1=lw"),
            ("b", &[], r#""node": "a""#, ""),
            ("b", &[("rack", "1")], r#""nodeSelector": "rack == '1'""#, "r1=lw"),
            ("b", &[("rack", "2")], r#""nodeSelector": "rack == '1'""#, ""),
            ("b", &[], r#""nodeSelector": "has(rack)""#, ""),
            ("b", &[], r#""nodeSelector": """#, "r1=lw"),
            ("b", &[], r#""node": "", "nodeSelector": "all()""#, "r1=lw"),
        ] {
            let lw = format!(r#"{{"localWorkloadSelector": "app=='r'", "asNumber": 65100, {of_node}}}"#);
            assert_eq!(chosen(node, node_labels, &[("lw", &lw)], pods), expected, "{node} {of_node}");
        }
    }

    #[test]
    fn of_several_peers_the_lexically_first_has_the_workload_and_the_others_are_told() {
        let all = r#"{"localWorkloadSelector": "all()", "asNumber": 1}"#;
        let web = r#"{"localWorkloadSelector": "app == 'web'", "asNumber": 2}"#;
        let elsewhere = r#"{"localWorkloadSelector": "all()", "asNumber": 3, "node": "z"}"#;
        // "peer10" before "peer9": text, not numbers.
        let peers = [("peer9", web), ("peer10", all), ("a-first", elsewhere), ("zz", web)];
        let pods: &[(&str, Pairs<'_>, &[&str])] = &[("x", &[], &[]), ("y", &[("app", "web")], &[])];
        assert_eq!(chosen("a", &[], &peers, pods), "x=peer10 y=peer10-peer9-zz");
    }

    #[test]
    fn labels_of_profiles_are_inherited_behind_the_endpoints_own() {
        let pod: &[&str] = &["kns.shop", "ksa.shop.router", "kns.unknown"];
        for (selector, expected) in [
            ("pcsa.bgp == 'yes'", "p=lw"),
            ("pcns.tier == 'gold'", "p=lw"), // the first profile's
            ("pcns.tier == 'lead'", ""),
            ("role == 'own'", "p=lw"),
            ("role == 'inherited'", ""),
            ("!has(other)", "p=lw"),
        ] {
            let lw = format!(r#"{{"localWorkloadSelector": "{selector}", "asNumber": 1}}"#);
            let found = chosen("a", &[], &[("lw", &lw)], &[("p", &[("role", "own")], pod)]);
            assert_eq!(found, expected, "{selector}");
        }
    }

    #[test]
    fn a_peer_that_contradicts_itself_is_refused_with_the_reason() {
        let with = |more: &str| spec(&format!(r#"{{"localWorkloadSelector": "all()"{more}}}"#));
        for (more, reason) in [
            (
                r#", "asNumber": 1, "node": "a", "nodeSelector": "all()""#,
                "node and nodeSelector are both set; keep one",
            ),
            (r#", "asNumber": 1, "peerIP": "192.0.2.1""#, "localWorkloadSelector and peerIP are both set; keep one"),
            (
                r#", "asNumber": 1, "peerSelector": "all()""#,
                "localWorkloadSelector and peerSelector are both set; keep one",
            ),
            ("", "localWorkloadSelector needs asNumber, the workloads' AS number"),
            (r#", "asNumber": 0"#, "localWorkloadSelector needs asNumber, the workloads' AS number"),
        ] {
            assert_eq!(Selecting::parse(&with(more)).unwrap_err().to_string(), reason);
        }
        let error = Selecting::parse(&with(r#", "asNumber": 1, "nodeSelector": "has(""#)).unwrap_err();
        assert!(error.to_string().starts_with("nodeSelector is not a selector: "), "{error}");
        // Not about workloads, and so nothing here is wrong with it.
        for other in [r#"{"peerIP": "192.0.2.1"}"#, r#"{"localWorkloadSelector": "", "nodeSelector": "has("}"#] {
            assert_eq!(Selecting::parse(&spec(other)), Ok(None));
        }
    }

    #[test]
    fn a_status_file_is_written_as_calico_writes_it_and_names_the_peer() {
        let status = EndpointStatus {
            iface_name: "cali0d7763386da".to_owned(),
            mac: "02:00:00:00:00:01".to_owned(),
            ipv4_nets: vec!["192.168.1.5/32".parse().unwrap()],
            ipv6_nets: vec!["fd01::5/128".parse().unwrap()],
            bgp_peer_name: "lw".to_owned(),
        };
        let text = r#"{"ifaceName":"cali0d7763386da","mac":"02:00:00:00:00:01","ipv4Nets":["192.168.1.5/32"],"ipv6Nets":["fd01::5/128"],"bgpPeerName":"lw"}"#;
        assert_eq!(serde_json::to_string(&status).unwrap(), text);
        assert_eq!(serde_json::from_str::<EndpointStatus>(text).unwrap(), status);
        let peer = status.peer().unwrap();
        assert_eq!((peer.peer.as_str(), peer.ipv4, peer.ipv6.is_some()), ("lw", "192.168.1.5".parse().ok(), true));
        // S16: a node without an IPv6 address leaves that family out; here the workload has none itself.
        let plain: EndpointStatus =
            serde_json::from_str(r#"{"ifaceName":"cali1","ipv4Nets":["10.0.0.1/32"]}"#).unwrap();
        assert_eq!(plain.peer(), None);
        assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"ifaceName":"cali1","ipv4Nets":["10.0.0.1/32"]}"#);
        let homeless = EndpointStatus { bgp_peer_name: "lw".to_owned(), ..EndpointStatus::default() };
        assert_eq!(homeless.peer(), None);
    }
}
