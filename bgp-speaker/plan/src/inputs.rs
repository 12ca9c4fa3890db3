//! What does the datastore say, as far as BGP cares? A small typed image of it, kept up to date by changes.
//!
//! A value that cannot be read keeps its last good version here; the fault is remembered until a good version comes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use calico_api::{
    AffinityState, AsNumber, BGPConfigurationSpec, BGPPeerSpec, BlockAffinitySpec, EncapMode, IPPoolSpec, Key, Kind,
    NodeSpec, Owner, Resource, Spec,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::filter::BgpFilter;
use crate::services::Services;
use crate::workloads::LocalWorkload;

/// The name of the BGPConfiguration of the whole cluster.
const DEFAULT: &str = "default";

/// A change of the datastore, as the shell or a file brings it.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Created or updated.
    Put {
        /// What it is stored under.
        key: Key,
        /// The resource as JSON.
        value: Value,
    },
    /// Gone.
    Delete(Key),
    /// Updated to something that the store itself cannot read.
    Fault {
        /// The kind it is stored as.
        kind: Kind,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

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
    pub labels: BTreeMap<String, String>,
    /// Its podCIDRs: with host-local IPAM they take the place of blocks.
    pub pod_cidrs: Vec<IpNet>,
    /// Its WireGuard public keys are known: traffic to it may be encrypted.
    pub wireguard: bool,
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
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.ipv4.map(|net| IpAddr::V4(net.addr()));
        v4.into_iter().chain(self.ipv6.map(|net| IpAddr::V6(net.addr())))
    }
}

/// What BGP knows of one pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The range.
    pub cidr: IpNet,
    /// How its packets travel between nodes.
    pub encap: Encap,
    /// Whether nothing of it is advertised.
    pub disable_bgp_export: bool,
}

/// How packets of a pool travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encap {
    /// As they are.
    None,
    /// In IPIP.
    Ipip {
        /// Only where the next hop is outside the node's subnet.
        cross_subnet: bool,
    },
    /// In VXLAN, always or between subnets.
    Vxlan,
}

/// Whether a block in this state is advertised: one that is given back may still hold pods.
pub fn advertised(state: AffinityState) -> bool {
    state != AffinityState::Pending
}

/// Which parts of the plan a change may have touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The sessions may be others now.
    pub sessions: bool,
    /// The node's own blocks may be others now.
    pub blocks: bool,
    /// The pools may be others now.
    pub pools: bool,
    /// A BGPFilter may be another now.
    pub filters: bool,
    /// Services, their endpoints, or whether this node takes part, may be others now.
    pub services: bool,
    /// Anything else that export, import or the kernel's routes depend on: advertised communities, priorities, ranges.
    pub surroundings: bool,
}

/// A value of the datastore that BGP does not understand; its last good version stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {reason}; its last good version stays in force until it is corrected")]
pub struct BadInput {
    /// The kind of resource.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The image of the datastore.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// All nodes by name.
    pub nodes: BTreeMap<String, NodeFacts>,
    /// BGPConfiguration `default`.
    pub global: BGPConfigurationSpec,
    /// BGPConfiguration `node.<name>` by the node's name.
    pub per_node: BTreeMap<String, BGPConfigurationSpec>,
    /// BGPPeers by name.
    pub peers: BTreeMap<String, BGPPeerSpec>,
    /// Pools by name.
    pub pools: BTreeMap<String, Pool>,
    /// This node's blocks.
    pub blocks: BTreeMap<IpNet, AffinityState>,
    /// BGPFilters by name.
    pub filters: BTreeMap<String, BgpFilter>,
    /// Services and where their endpoints are.
    pub services: Services,
    /// Workloads of this node that are peers, by endpoint; the shell sets them from felix's files.
    pub local_workloads: BTreeMap<String, LocalWorkload>,
    /// FelixConfiguration `default`'s `programClusterRoutes`: one half of who programs which routes.
    pub felix_programs: Option<String>,
    /// Values whose newest version is not understood.
    pub faults: BTreeMap<(Kind, String), BadInput>,
}

impl Inputs {
    /// Takes a change, seen from `node`.
    ///
    /// # Errors
    /// [`BadInput`] if the value is not understood; its last good version stays.
    pub fn apply(&mut self, node: &str, change: Change) -> Result<Touched, BadInput> {
        match change {
            Change::Put { key, value } => {
                let id = (key.kind(), key.name());
                match self.put(node, key, value) {
                    Ok(touched) => {
                        self.faults.remove(&id);
                        Ok(touched)
                    }
                    Err(reason) => Err(self.fault(id.0, id.1, reason)),
                }
            }
            Change::Delete(key) => {
                self.faults.remove(&(key.kind(), key.name()));
                Ok(self.delete(&key))
            }
            Change::Fault { kind, name, reason } => Err(self.fault(kind, name, reason)),
        }
    }

    /// The AS number of a node: its own, else the global one.
    pub fn as_number(&self, facts: &NodeFacts) -> u32 {
        facts.as_number.or(self.global.as_number).unwrap_or(BGPConfigurationSpec::DEFAULT_AS).0
    }

    /// The port that a node listens on.
    pub fn listen_port(&self, node: &str) -> u16 {
        let own = self.per_node.get(node).and_then(|configuration| configuration.listen_port);
        own.or(self.global.listen_port).unwrap_or(BGPConfigurationSpec::DEFAULT_PORT)
    }

    fn fault(&mut self, kind: Kind, name: String, reason: String) -> BadInput {
        let bad = BadInput { kind, name: name.clone(), reason };
        self.faults.insert((kind, name), bad.clone());
        bad
    }

    fn put(&mut self, node: &str, key: Key, value: Value) -> Result<Touched, String> {
        let name = key.name();
        match key.kind() {
            Kind::Node => {
                let resource = typed::<NodeSpec>(value)?;
                let facts = node_facts(&resource)?;
                let sessions = self.nodes.insert(name, facts.clone()) != Some(facts);
                Ok(Touched { sessions, ..Touched::default() })
            }
            Kind::BGPConfiguration => {
                let spec = typed::<BGPConfigurationSpec>(value)?.spec;
                if spec.listen_port == Some(0) {
                    return Err("listenPort is 0, expected 1 to 65535".to_owned());
                }
                if name == DEFAULT {
                    self.global = spec;
                } else if let Some(node) = name.strip_prefix("node.") {
                    self.per_node.insert(node.to_owned(), spec);
                } else {
                    return Err(format!("the name is neither \"{DEFAULT}\" nor \"node.<name>\", so nothing reads it"));
                }
                Ok(Touched { sessions: true, ..Touched::default() })
            }
            Kind::BGPPeer => {
                let spec = typed::<BGPPeerSpec>(value)?.spec;
                let sessions = self.peers.insert(name, spec.clone()) != Some(spec);
                Ok(Touched { sessions, ..Touched::default() })
            }
            Kind::IPPool => {
                let pool = pool(&typed::<IPPoolSpec>(value)?.spec)?;
                let pools = self.pools.insert(name, pool) != Some(pool);
                Ok(Touched { pools, ..Touched::default() })
            }
            Kind::BlockAffinity => {
                let spec = typed::<BlockAffinitySpec>(value)?.spec;
                if spec.owner() != Owner::Host(node.to_owned()) {
                    return Ok(Touched::default()); // a virtual owner's block is nobody's route
                }
                let cidr = spec.cidr.trunc();
                let blocks = match spec.deleted {
                    true => self.blocks.remove(&cidr).is_some(),
                    false => self.blocks.insert(cidr, spec.state) != Some(spec.state),
                };
                Ok(Touched { blocks, ..Touched::default() })
            }
            _ => Ok(Touched::default()),
        }
    }

    fn delete(&mut self, key: &Key) -> Touched {
        let name = key.name();
        let mut touched = Touched::default();
        match key.kind() {
            Kind::Node => touched.sessions = self.nodes.remove(&name).is_some(),
            Kind::BGPConfiguration if name == DEFAULT => {
                self.global = BGPConfigurationSpec::default();
                touched.sessions = true;
            }
            Kind::BGPConfiguration => {
                let node = name.strip_prefix("node.").unwrap_or_default();
                touched.sessions = self.per_node.remove(node).is_some();
            }
            Kind::BGPPeer => touched.sessions = self.peers.remove(&name).is_some(),
            Kind::IPPool => touched.pools = self.pools.remove(&name).is_some(),
            _ => {
                if let Key::Affinity { owner: Owner::Host(_), cidr } = key {
                    touched.blocks = self.blocks.remove(&cidr.trunc()).is_some();
                }
            }
        }
        touched
    }
}

fn typed<S: Spec>(value: Value) -> Result<Resource<S>, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn node_facts(node: &Resource<NodeSpec>) -> Result<NodeFacts, String> {
    let labels = node.metadata.labels.clone();
    let Some(bgp) = &node.spec.bgp else {
        return Ok(NodeFacts { labels, ..NodeFacts::default() });
    };
    let ipv4 = match bgp.ipv4_address.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match net(text) {
            Some(IpNet::V4(net)) => Some(net),
            _ => return Err(format!("spec.bgp.ipv4Address is \"{text}\", expected an address such as 10.0.0.1/24")),
        },
    };
    let ipv6 = match bgp.ipv6_address.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match net(text) {
            Some(IpNet::V6(net)) => Some(net),
            _ => return Err(format!("spec.bgp.ipv6Address is \"{text}\", expected an address such as fd00::1/64")),
        },
    };
    let cluster_id = match bgp.route_reflector_cluster_id.as_deref().filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            format!("spec.bgp.routeReflectorClusterID is \"{text}\", expected the form of an IPv4 address, 244.0.0.1")
        })?),
    };
    Ok(NodeFacts { ipv4, ipv6, as_number: bgp.as_number, cluster_id, labels, ..NodeFacts::default() })
}

/// A network with its host bits, or an address as a network of one.
fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn pool(spec: &IPPoolSpec) -> Result<Pool, String> {
    let Some(cidr) = spec.cidr() else {
        return Err(format!("spec.cidr is \"{}\", expected a range such as 10.244.0.0/16", spec.cidr));
    };
    let on = |mode: Option<EncapMode>| mode.unwrap_or_default() != EncapMode::Never;
    let encap = match (on(spec.vxlan_mode), on(spec.ipip_mode)) {
        (true, _) => Encap::Vxlan,
        (false, true) => Encap::Ipip { cross_subnet: spec.ipip_mode == Some(EncapMode::CrossSubnet) },
        (false, false) => Encap::None,
    };
    Ok(Pool { cidr: cidr.trunc(), encap, disable_bgp_export: spec.disable_bgp_export.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(inputs: &mut Inputs, kind: Kind, value: serde_json::Value) -> Result<Touched, BadInput> {
        let key = Key::of_value(kind, &value).unwrap();
        inputs.apply("a", Change::Put { key, value })
    }

    #[test]
    fn a_bad_node_keeps_its_last_good_version_and_is_remembered_until_corrected() {
        let mut inputs = Inputs::default();
        let node = |address: &str| json!({"metadata": {"name": "b"}, "spec": {"bgp": {"ipv4Address": address}}});
        assert!(put(&mut inputs, Kind::Node, node("10.0.0.2/24")).unwrap().sessions);
        assert!(!put(&mut inputs, Kind::Node, node("10.0.0.2/24")).unwrap().sessions, "nothing changed");

        let error = put(&mut inputs, Kind::Node, node("ten")).unwrap_err();
        assert!(error.to_string().contains("Node b: spec.bgp.ipv4Address is \"ten\""), "{error}");
        assert_eq!(inputs.nodes["b"].ipv4, Some("10.0.0.2/24".parse().unwrap()));
        assert_eq!(inputs.faults.len(), 1);

        assert!(put(&mut inputs, Kind::Node, node("10.0.0.3")).unwrap().sessions);
        assert!(inputs.faults.is_empty());
        let gone = inputs.apply("a", Change::Delete(Key::named(Kind::Node, "b"))).unwrap();
        assert!(gone.sessions && inputs.nodes.is_empty());
    }

    #[test]
    fn blocks_are_advertised_while_confirmed_or_pending_deletion_and_only_if_a_node_owns_them() {
        let mut inputs = Inputs::default();
        let affinity = |cidr: &str, spec: serde_json::Value| {
            let mut value = json!({"metadata": {"name": "x"}, "spec": {"cidr": cidr, "node": "a"}});
            value["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            value
        };
        for (cidr, spec, advertised) in [
            ("10.244.0.0/26", json!({"state": "confirmed"}), true),
            ("10.244.0.64/26", json!({"state": "pending"}), false),
            ("10.244.0.128/26", json!({"state": "pendingDeletion"}), true),
        ] {
            put(&mut inputs, Kind::BlockAffinity, affinity(cidr, spec)).unwrap();
            assert_eq!(super::advertised(inputs.blocks[&cidr.parse().unwrap()]), advertised, "{cidr}");
        }
        put(
            &mut inputs,
            Kind::BlockAffinity,
            affinity("10.9.0.0/26", json!({"state": "confirmed", "type": "virtual"})),
        )
        .unwrap();
        assert!(!inputs.blocks.contains_key(&"10.9.0.0/26".parse().unwrap()));

        let key = Key::Affinity { owner: Owner::Host("a".to_owned()), cidr: "10.244.0.0/26".parse().unwrap() };
        assert!(inputs.apply("a", Change::Delete(key)).unwrap().blocks);
        assert_eq!(inputs.blocks.len(), 2);
    }

    #[test]
    fn pools_tell_how_their_packets_travel() {
        let mut inputs = Inputs::default();
        for (name, spec, encap) in [
            ("plain", json!({"cidr": "10.1.0.0/16"}), Encap::None),
            ("ipip", json!({"cidr": "10.2.0.0/16", "ipipMode": "CrossSubnet"}), Encap::Ipip { cross_subnet: true }),
            ("vxlan", json!({"cidr": "10.3.0.0/16", "vxlanMode": "Always"}), Encap::Vxlan),
        ] {
            put(&mut inputs, Kind::IPPool, json!({"metadata": {"name": name}, "spec": spec})).unwrap();
            assert_eq!(inputs.pools[name].encap, encap);
        }
        let error = put(&mut inputs, Kind::IPPool, json!({"metadata": {"name": "plain"}, "spec": {"cidr": "10"}}));
        assert!(error.unwrap_err().to_string().contains("IPPool plain: spec.cidr is \"10\""));
        assert_eq!(inputs.pools.len(), 3);
    }

    #[test]
    fn labels_of_a_node_are_nothing_to_the_plan() {
        let mut inputs = Inputs::default();
        let node = |zone: &str| {
            let bgp = json!({"ipv4Address": "10.0.0.1/24"});
            json!({"metadata": {"name": "a", "labels": {"zone": zone}}, "spec": {"bgp": bgp}})
        };
        assert!(put(&mut inputs, Kind::Node, node("east")).unwrap().sessions);
        assert!(!put(&mut inputs, Kind::Node, node("west")).unwrap().sessions);
    }
}
