//! What does BGP know of a node? Little of what is stored, so that thousands of nodes cost little.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use calico_api::{AsNumber, NodeSpec, Resource};
use calico_selector::Labels;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};

/// What BGP knows of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// IPv4 address with the length of its subnet.
    pub ipv4: Option<Ipv4Net>,
    /// IPv6 address with the length of its subnet.
    pub ipv6: Option<Ipv6Net>,
    /// Its own AS number, if it has one.
    pub as_number: Option<AsNumber>,
    /// Makes it a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// Its labels, for selectors.
    pub labels: NodeLabels,
    /// Its podCIDRs: with host-local IPAM they take the place of blocks.
    pub pod_cidrs: Vec<IpNet>,
    /// Its WireGuard public key for IPv4 is known: IPv4 traffic to it may be encrypted.
    pub wireguard: bool,
    /// The same for IPv6.
    pub wireguard_v6: bool,
    /// Its IPIP tunnel has an address, which is written when packets in IPIP are understood there.
    pub ipip: bool,
}

impl NodeFacts {
    /// Its address of the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> Option<IpAddr> {
        match like {
            IpAddr::V4(_) => self.ipv4.map(|net| IpAddr::V4(net.addr())),
            IpAddr::V6(_) => self.ipv6.map(|net| IpAddr::V6(net.addr())),
        }
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.ipv4.map(|net| IpAddr::V4(net.addr()));
        v4.into_iter().chain(self.ipv6.map(|net| IpAddr::V6(net.addr())))
    }

    /// Whether the two differ in what sessions are made of, labels aside.
    pub(super) fn peers_as(&self, other: &Self) -> bool {
        self.ipv4.map(|net| net.addr()) == other.ipv4.map(|net| net.addr())
            && self.ipv6.map(|net| net.addr()) == other.ipv6.map(|net| net.addr())
            && self.as_number == other.as_number
            && self.cluster_id == other.cluster_id
    }

    /// A Node from which the same facts follow.
    pub(super) fn to_value(&self, name: &str) -> Value {
        // Which key it is does not matter here, so none is kept; this is 32 octets of zero in base64.
        const SOME_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let labels: BTreeMap<&str, &str> = self.labels.iter().collect();
        let mut bgp = json!({});
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                bgp[field] = value;
            }
        };
        set("asNumber", self.as_number.map(|number| json!(number.0)));
        set("ipv4Address", self.ipv4.map(|net| json!(net.to_string())));
        set("ipv6Address", self.ipv6.map(|net| json!(net.to_string())));
        // Which address it is does not matter here either.
        set("ipv4IPIPTunnelAddr", self.ipip.then(|| json!(Ipv4Addr::UNSPECIFIED.to_string())));
        set("routeReflectorClusterID", self.cluster_id.map(|id| json!(id.to_string())));
        let mut status = json!({ "podCIDRs": self.pod_cidrs });
        if self.wireguard {
            status["wireguardPublicKey"] = json!(SOME_KEY);
        }
        if self.wireguard_v6 {
            status["wireguardPublicKeyV6"] = json!(SOME_KEY);
        }
        json!({ "metadata": { "name": name, "labels": labels }, "spec": { "bgp": bgp }, "status": status })
    }
}

/// Labels whose texts are shared with all other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLabels(Box<[(Arc<str>, Arc<str>)]>);

impl NodeLabels {
    /// The value of a label.
    pub fn get(&self, label: &str) -> Option<&str> {
        let index = self.0.binary_search_by(|(name, _)| (**name).cmp(label)).ok()?;
        self.0.get(index).map(|(_, value)| &**value)
    }

    /// All labels, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl Labels for NodeLabels {
    fn get(&self, label: &str) -> Option<&str> {
        Self::get(self, label)
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for NodeLabels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let sorted: BTreeMap<Arc<str>, Arc<str>> =
            labels.into_iter().map(|(name, value)| (name.as_ref().into(), value.as_ref().into())).collect();
        Self(sorted.into_iter().collect())
    }
}

/// Texts that many nodes have alike, each kept once.
#[derive(Clone, Debug, Default)]
pub(super) struct Interner {
    texts: HashSet<Arc<str>>,
    /// At this size, texts that nobody has any more are dropped.
    sweep_at: usize,
}

/// Two images of the datastore are equal whatever they remember beside it.
impl PartialEq for Interner {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Interner {
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.texts.insert(new.clone());
        new
    }

    pub(super) fn labels(&mut self, labels: &BTreeMap<String, String>) -> NodeLabels {
        let shared = labels.iter().map(|(name, value)| (self.intern(name), self.intern(value))).collect();
        if self.texts.len() > self.sweep_at {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = 2 * self.texts.len() + 1024;
        }
        NodeLabels(shared)
    }
}

pub(super) fn facts(node: &Resource<NodeSpec>, interner: &mut Interner) -> Result<NodeFacts, String> {
    let mut facts = NodeFacts { labels: interner.labels(&node.metadata.labels), ..NodeFacts::default() };
    if let Some(status) = &node.status {
        for text in &status.pod_cidrs {
            let cidr: IpNet = text
                .parse()
                .map_err(|_| format!("status.podCIDRs has \"{text}\", expected a range such as 10.244.1.0/24"))?;
            facts.pod_cidrs.push(cidr.trunc());
        }
        let known = |key: &Option<String>| key.as_deref().is_some_and(|key| !key.is_empty());
        facts.wireguard = known(&status.wireguard_public_key);
        facts.wireguard_v6 = known(&status.wireguard_public_key_v6);
    }
    let Some(bgp) = &node.spec.bgp else { return Ok(facts) };
    facts.as_number = bgp.as_number;
    if bgp.as_number == Some(AsNumber(0)) {
        return Err("spec.bgp.asNumber is 0, which no AS has (RFC 7607)".to_owned());
    }
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(text) = filled(&bgp.ipv4_address) {
        let Some(IpNet::V4(net)) = net(&text) else {
            return Err(format!("spec.bgp.ipv4Address is \"{text}\", expected an address such as 10.0.0.1/24"));
        };
        facts.ipv4 = Some(net);
    }
    if let Some(text) = filled(&bgp.ipv6_address) {
        let Some(IpNet::V6(net)) = net(&text) else {
            return Err(format!("spec.bgp.ipv6Address is \"{text}\", expected an address such as fd00::1/64"));
        };
        facts.ipv6 = Some(net);
    }
    facts.ipip = filled(&bgp.ipv4_ipip_tunnel_addr).is_some();
    if let Some(text) = filled(&bgp.route_reflector_cluster_id) {
        let id: Ipv4Addr = text.parse().map_err(|_| {
            format!("spec.bgp.routeReflectorClusterID is \"{text}\", expected the form of an IPv4 address, 244.0.0.1")
        })?;
        facts.cluster_id = Some(id);
    }
    Ok(facts)
}

/// A network with its host bits, or an address as a network of one.
fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}
