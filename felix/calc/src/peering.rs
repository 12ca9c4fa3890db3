//! Which of this node's endpoints are BGP peers, and by which address of the node they reach it (reference bgp.md §1.9).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_plan::workloads::{BadSelecting, Chosen, EndpointLabels, Selecting, choose};
use calico_api::{BGPConfiguration, BGPPeer, Key, Kind, Profile};
use ipnet::IpNet;

use crate::endpoint::{Interface, Local, Unusable};
use crate::notice::Notice;

/// The name of the BGPConfiguration whose peering addresses count.
pub(crate) const DEFAULT: &str = "default";

/// What the choice follows from, besides the endpoints.
#[derive(Debug, Default)]
pub(crate) struct Peering {
    node_labels: BTreeMap<String, String>,
    /// The BGPPeers that are about local workloads, by name.
    peers: BTreeMap<String, Selecting>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
    /// Labels that profiles apply, by the profile's name; only of those that apply any.
    profiles: BTreeMap<String, BTreeMap<String, String>>,
    profiles_in_sync: bool,
}

impl Peering {
    /// Takes a BGPPeer; returns whether that may change the choice.
    ///
    /// # Errors
    /// If what it says of workloads is not understood; its last good version stays.
    pub(crate) fn put_peer(&mut self, peer: &BGPPeer) -> Result<bool, BadSelecting> {
        let name = peer.metadata.name();
        Ok(match Selecting::parse(&peer.spec)? {
            Some(selecting) => {
                let before = self.peers.insert(name.to_owned(), selecting);
                before.as_ref() != self.peers.get(name)
            }
            None => self.peers.remove(name).is_some(),
        })
    }

    /// Takes a BGPConfiguration; returns whether the addresses are others now.
    ///
    /// # Errors
    /// If one of them is not an address of its family; the last good ones stay.
    pub(crate) fn put_configuration(&mut self, configuration: &BGPConfiguration) -> Result<bool, Unusable> {
        fn address<A: std::str::FromStr>(field: &'static str, text: Option<&String>) -> Result<Option<A>, Unusable> {
            let text = text.filter(|text| !text.is_empty());
            let bad = |text: &String| Unusable::PeeringAddress { field, value: text.clone() };
            text.map(|text| text.parse().map_err(|_| bad(text))).transpose()
        }
        if configuration.metadata.name() != DEFAULT {
            return Ok(false);
        }
        let spec = &configuration.spec;
        let ipv4 = address("localWorkloadPeeringIPV4", spec.local_workload_peering_ipv4.as_ref())?;
        let ipv6 = address("localWorkloadPeeringIPV6", spec.local_workload_peering_ipv6.as_ref())?;
        Ok(self.set_addresses(ipv4, ipv6))
    }

    fn set_addresses(&mut self, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> bool {
        let before = (self.ipv4, self.ipv6);
        (self.ipv4, self.ipv6) = (ipv4, ipv6);
        before != (ipv4, ipv6)
    }

    /// Takes the labels of this node; returns whether they are others now.
    pub(crate) fn set_node_labels(&mut self, labels: BTreeMap<String, String>) -> bool {
        let before = std::mem::replace(&mut self.node_labels, labels);
        before != self.node_labels
    }

    /// Takes a profile; returns whether its labels are others now.
    pub(crate) fn put_profile(&mut self, profile: Profile) -> bool {
        let name = profile.metadata.name().to_owned();
        match profile.spec.labels_to_apply.filter(|labels| !labels.is_empty()) {
            Some(labels) => {
                let before = self.profiles.get(&name) == Some(&labels);
                self.profiles.insert(name, labels);
                !before
            }
            None => self.profiles.remove(&name).is_some(),
        }
    }

    /// Takes that all profiles have been told; returns whether that is news.
    pub(crate) fn profiles_in_sync(&mut self) -> bool {
        !std::mem::replace(&mut self.profiles_in_sync, true)
    }

    /// Forgets the profiles.
    pub(crate) fn forget_profiles(&mut self) {
        self.profiles = BTreeMap::new();
        self.profiles_in_sync = false;
    }

    /// Takes that something is gone, seen from `node`; returns whether that may change the choice.
    pub(crate) fn delete(&mut self, key: &Key, node: &str) -> bool {
        match key.kind() {
            Kind::BGPPeer => self.peers.remove(&key.name()).is_some(),
            Kind::BGPConfiguration if key.name() == DEFAULT => self.set_addresses(None, None),
            Kind::Node if key.name() == node => self.set_node_labels(BTreeMap::new()),
            Kind::Profile => self.profiles.remove(&key.name()).is_some(),
            _ => false,
        }
    }

    /// Whether a BGPPeer is about workloads of `node`.
    pub(crate) fn concerns(&self, node: &str) -> bool {
        self.peers.values().any(|peer| peer.is_for(node, &self.node_labels))
    }

    /// Whether enough is known to choose.
    pub(crate) fn is_known(&self, node: &str) -> bool {
        self.profiles_in_sync || !self.concerns(node)
    }

    /// The peers among these endpoints of `node`.
    pub(crate) fn choose<'a>(
        &self,
        node: &str,
        endpoints: impl IntoIterator<Item = (&'a Key, &'a Local)>,
    ) -> BTreeMap<Key, Chosen> {
        if self.peers.is_empty() {
            return BTreeMap::new();
        }
        let mut keys: BTreeMap<String, &Key> = BTreeMap::new();
        let mut labelled = Vec::new();
        for (key, local) in endpoints {
            keys.insert(key.to_string(), key);
            labelled.push((key.to_string(), EndpointLabels::new(&local.labels, &local.profiles, &self.profiles)));
        }
        let peers = self.peers.iter().map(|(name, peer)| (name.as_str(), peer));
        let chosen = choose(node, &self.node_labels, peers, labelled);
        chosen.into_iter().filter_map(|(id, chosen)| Some(((*keys.get(&id)?).clone(), chosen))).collect()
    }

    /// The node's addresses for a peer with these addresses: of the families that it has.
    pub(crate) fn node_addresses(&self, peer: &[IpNet]) -> BTreeSet<IpAddr> {
        let own = [self.ipv4.map(IpAddr::V4), self.ipv6.map(IpAddr::V6)];
        let has = |family: &IpAddr| peer.iter().any(|address| address.addr().is_ipv4() == family.is_ipv4());
        own.into_iter().flatten().filter(has).collect()
    }

    /// What the operator should know of these peers.
    pub(crate) fn notices<'a>(&self, peers: impl IntoIterator<Item = (&'a Interface, &'a Chosen)>) -> BTreeSet<Notice> {
        let mut notices = BTreeSet::new();
        for (interface, chosen) in peers {
            let has = |ipv4: bool| interface.addresses.iter().any(|address| address.addr().is_ipv4() == ipv4);
            for (missing, field) in [
                (has(true) && self.ipv4.is_none(), "localWorkloadPeeringIPV4"),
                (has(false) && self.ipv6.is_none(), "localWorkloadPeeringIPV6"),
            ] {
                if missing {
                    notices.insert(Notice::NoPeeringAddress { peer: chosen.peer.clone(), field });
                }
            }
            if !chosen.suppressed.is_empty() {
                notices.insert(Notice::Overlap {
                    endpoint: interface.endpoint.key.clone(),
                    peer: chosen.peer.clone(),
                    suppressed: chosen.suppressed.clone(),
                });
            }
        }
        notices
    }
}
