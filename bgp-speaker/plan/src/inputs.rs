//! What does the datastore say, as far as BGP cares? A small typed image of it, kept up to date by changes.
//!
//! A value that cannot be understood keeps its last good version here; the fault is remembered until a good version
//! comes. Of BGPConfiguration `default`, without which a node would do the opposite of what is asked for, counts what can
//! be understood if there is no good version. What Calico tolerates is tolerated, and becomes a [`Warning`](crate::sessions::Warning) of the plan.

mod last_good;
mod node;
mod pool;
#[cfg(test)]
mod tests;
mod touched;

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{
    AffinityState, AnyResource, AsNumber, BGPConfiguration, BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec,
    BlockAffinitySpec, FieldError, IPPoolSpec, Key, Kind, NodeSpec, Owner, Resource, Spec,
};
use ipnet::IpNet;
use serde_json::Value;

pub use self::last_good::{Id, id};
pub use self::node::{NodeFacts, NodeLabels};
pub use self::pool::{Encap, Pool, advertised};
pub use self::touched::Touched;
use crate::filter::BgpFilter;
use crate::owners::{self, Classes};
use crate::services::Services;
use crate::sessions::Peering;
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
        /// Its name, with the namespace before it if it has one: the second half of [`id`].
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A value of the datastore that BGP does not understand; its last good version, if there is one, stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {reason}; its last good version, if there is one, stays in force until it is corrected")]
pub struct BadInput {
    /// The kind of resource.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// What it touches nevertheless: a version of an earlier life may have come into force, and a BGPFilter that never
    /// was understood lets nothing pass.
    pub touched: Touched,
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
    /// Names of BGPConfigurations that nothing reads.
    pub unread: BTreeSet<String>,
    /// BGPPeers by name.
    pub peers: BTreeMap<String, Peering>,
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
    /// BGPConfiguration `default`'s, the other half. Both are as they stand in the newest version, even if that is not
    /// understood otherwise and [`Inputs::global`] is older: felix reads them so, too.
    pub bgp_programs: Option<String>,
    /// Values whose newest version is not understood.
    pub faults: BTreeMap<Id, BadInput>,
    last_good: last_good::LastGood,
    interner: node::Interner,
}

impl Inputs {
    /// Takes a change, seen from `node`.
    ///
    /// # Errors
    /// [`BadInput`] if the value is not understood; its last good version stays.
    pub fn apply(&mut self, node: &str, change: Change) -> Result<Touched, BadInput> {
        match change {
            Change::Put { key, value } => {
                let id = id(&key);
                let whole_cluster = id.0 == Kind::BGPConfiguration && id.1 == DEFAULT;
                let spare = whole_cluster.then(|| value.clone());
                let owners = match &spare {
                    Some(value) => self.set_bgp_programs(owners::written(value)),
                    None => Touched::default(),
                };
                match self.put_kept(node, &id, key, value) {
                    Ok(touched) => Ok(touched | owners),
                    Err(reason) => {
                        let bad = self.fault(node, id, reason, spare);
                        Err(BadInput { touched: bad.touched | owners, ..bad })
                    }
                }
            }
            Change::Delete(key) => {
                let id = id(&key);
                let was_fault = self.faults.remove(&id).is_some();
                self.last_good.remove(&id);
                let mut touched = self.delete(node, &key);
                touched.filters |= was_fault && id.0 == Kind::BGPFilter;
                touched.sessions |= was_fault && id.0 == Kind::BGPFilter;
                touched.pools |= was_fault && id.0 == Kind::IPPool;
                Ok(touched)
            }
            Change::Fault { kind, name, reason } => Err(self.fault(node, (kind, name), reason, None)),
        }
    }

    /// The datastore's first snapshot is complete: what it does not have does not exist, and if it is made later, it is
    /// another object than that of an earlier life.
    pub fn in_sync(&mut self) {
        self.last_good.forget_preloaded();
    }

    /// Forgets Services and EndpointSlices, which nobody watches any more, and what is wrong with them.
    pub fn forget_services(&mut self) {
        self.services = Services::default();
        self.faults.retain(|(kind, _), _| !is_service(*kind));
    }

    /// The AS number of a node: its own, else the global one.
    pub fn as_number(&self, facts: &NodeFacts) -> u32 {
        facts.as_number.or(self.global.as_number).unwrap_or(BGPConfigurationSpec::DEFAULT_AS).0
    }

    /// The port that a node listens on.
    pub fn listen_port(&self, node: &str) -> u16 {
        self.configured_port(node).unwrap_or(BGPConfigurationSpec::DEFAULT_PORT)
    }

    /// The port that a node listens on, if one is configured.
    pub(crate) fn configured_port(&self, node: &str) -> Option<u16> {
        let own = self.per_node.get(node).and_then(|configuration| configuration.listen_port);
        own.or(self.global.listen_port)
    }

    /// Whether this BGPFilter exists, but no version of it was ever understood.
    pub fn filter_unknown(&self, name: &str) -> bool {
        !self.filters.contains_key(name) && self.faults.contains_key(&(Kind::BGPFilter, name.to_owned()))
    }

    /// Whether there is a pool of which no version was ever understood: then nobody knows what is in no pool.
    pub fn pool_unknown(&self) -> bool {
        let mut faulty = self.faults.keys().filter(|(kind, _)| *kind == Kind::IPPool);
        faulty.any(|(_, name)| !self.pools.contains_key(name))
    }

    /// Which classes of routes to other nodes are the BGP speaker's, and what is wrong with how that is configured.
    pub fn classes(&self) -> (Classes, Option<String>) {
        owners::classes(self.bgp_programs.as_deref(), self.felix_programs.as_deref())
    }

    fn set_bgp_programs(&mut self, written: Option<&str>) -> Touched {
        if self.bgp_programs.as_deref() == written {
            return Touched::default();
        }
        self.bgp_programs = written.map(str::to_owned);
        // A word that nobody knows is a warning of the plan.
        Touched { sessions: true, surroundings: true, ..Touched::default() }
    }

    /// Remembers a fault. `global` is the faulty version of BGPConfiguration `default`, if it is that.
    fn fault(&mut self, node: &str, id: Id, reason: String, global: Option<Value>) -> BadInput {
        let mut touched = Touched::default();
        if let Some((key, value)) = self.last_good.take_preloaded(&id) {
            // Of an earlier life, and perhaps of an earlier release that understood more: then there is none.
            touched = self.put_kept(node, &id, key, value).unwrap_or_default();
        }
        if let Some(Ok(new)) = global.filter(|_| !self.last_good.has(&id)).map(typed::<BGPConfigurationSpec>) {
            // Without it the mesh would be on, and without its password: what of it has a meaning counts.
            let new = understood(new.spec);
            touched |= touched::by_global(&self.global, &new);
            self.global = new;
        }
        let first = !self.faults.contains_key(&id);
        if first && id.0 == Kind::BGPFilter {
            touched.filters = true;
            touched.sessions = true;
        }
        touched.pools |= first && id.0 == Kind::IPPool && !self.pools.contains_key(&id.1);
        let bad = BadInput { kind: id.0, name: id.1.clone(), reason, touched };
        self.faults.insert(id, bad.clone());
        bad
    }

    fn put_kept(&mut self, node: &str, id: &Id, key: Key, value: Value) -> Result<Touched, String> {
        let text = last_good::LastGood::text(&key, &value);
        let mut touched = self.put(node, &key, value)?;
        let was_fault = self.faults.remove(id).is_some();
        // That it can be understood again is news to who warned that it cannot.
        touched.sessions |= was_fault && id.0 == Kind::BGPFilter;
        self.last_good.put(id, key, text);
        Ok(touched)
    }

    fn put(&mut self, node: &str, key: &Key, value: Value) -> Result<Touched, String> {
        let name = key.name();
        match key.kind() {
            Kind::Node => {
                let facts = node::facts(&typed::<NodeSpec>(value)?, &mut self.interner)?;
                let touched = touched::by_node(self, node, &name, self.nodes.get(&name), Some(&facts));
                self.nodes.insert(name, facts);
                Ok(touched)
            }
            Kind::BGPConfiguration => self.put_configuration(node, name, typed::<BGPConfigurationSpec>(value)?),
            Kind::BGPPeer => {
                let peering = Peering::understand(&typed::<BGPPeerSpec>(value)?.spec)?;
                let sessions = self.peers.get(&name) != Some(&peering);
                self.peers.insert(name, peering);
                Ok(Touched { sessions, ..Touched::default() })
            }
            Kind::BGPFilter => {
                let filter = BgpFilter::compile(&typed::<BGPFilterSpec>(value)?.spec)?;
                let old = self.filters.get(&name);
                let touched = Touched { filters: old != Some(&filter), sessions: old.is_none(), ..Touched::default() };
                self.filters.insert(name, filter);
                Ok(touched)
            }
            Kind::IPPool => {
                let pool = Pool::understand(&typed::<IPPoolSpec>(value)?.spec)?;
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
            Kind::FelixConfiguration if name == DEFAULT => {
                // The one field that concerns us; that felix may not understand another is not our fault.
                let programs = owners::written(&value).map(str::to_owned);
                let surroundings = self.felix_programs != programs;
                self.felix_programs = programs;
                Ok(Touched { surroundings, ..Touched::default() })
            }
            kind if is_service(kind) => {
                let services = self.services.put(key, &value)?;
                Ok(Touched { services, ..Touched::default() })
            }
            _ => Ok(Touched::default()),
        }
    }

    fn put_configuration(&mut self, node: &str, name: String, new: BGPConfiguration) -> Result<Touched, String> {
        let of_node = name.strip_prefix("node.").map(str::to_owned);
        if name != DEFAULT && of_node.is_none() {
            let sessions = self.unread.insert(name);
            return Ok(Touched { sessions, ..Touched::default() }); // a warning of the plan
        }
        let Some(of_node) = of_node else {
            let new = checked(new)?;
            let touched = touched::by_global(&self.global, &new);
            self.global = new;
            return Ok(touched);
        };
        let new = checked(only_of_a_node(new))?;
        let nothing = BGPConfigurationSpec::default();
        let old = self.per_node.get(&of_node).unwrap_or(&nothing);
        let touched = touched::by_per_node(of_node == node, old, &new);
        self.per_node.insert(of_node, new);
        Ok(touched)
    }

    fn delete(&mut self, node: &str, key: &Key) -> Touched {
        let name = key.name();
        let mut touched = Touched::default();
        let nothing = BGPConfigurationSpec::default();
        match key.kind() {
            Kind::Node => {
                let old = self.nodes.remove(&name);
                touched = touched::by_node(self, node, &name, old.as_ref(), None);
            }
            Kind::BGPConfiguration if name == DEFAULT => {
                touched = touched::by_global(&self.global, &nothing) | self.set_bgp_programs(None);
                self.global = nothing;
            }
            Kind::BGPConfiguration => {
                touched.sessions = self.unread.remove(&name);
                let of_node = name.strip_prefix("node.").unwrap_or_default();
                if let Some(old) = self.per_node.remove(of_node) {
                    touched |= touched::by_per_node(of_node == node, &old, &nothing);
                }
            }
            Kind::BGPPeer => touched.sessions = self.peers.remove(&name).is_some(),
            Kind::BGPFilter => {
                touched.filters = self.filters.remove(&name).is_some();
                touched.sessions = touched.filters;
            }
            Kind::IPPool => touched.pools = self.pools.remove(&name).is_some(),
            Kind::FelixConfiguration if name == DEFAULT => touched.surroundings = self.felix_programs.take().is_some(),
            kind if is_service(kind) => touched.services = self.services.delete(key),
            _ => {
                if let Key::Affinity { owner: Owner::Host(owner), cidr } = key
                    && owner == node
                {
                    touched.blocks = self.blocks.remove(&cidr.trunc()).is_some();
                }
            }
        }
        touched
    }
}

fn is_service(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::EndpointSlice)
}

fn typed<S: Spec>(value: Value) -> Result<Resource<S>, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// A BGPConfiguration without the numbers that have no meaning; of lists, who reads them leaves out what has none.
fn understood(mut spec: BGPConfigurationSpec) -> BGPConfigurationSpec {
    spec.listen_port = spec.listen_port.filter(|port| *port != 0);
    spec.as_number = spec.as_number.filter(|number| *number != AsNumber(0));
    spec
}

/// A BGPConfiguration of one node without the fields that mean the whole cluster. What only `default` can say has no
/// effect here, and so nothing can be wrong with it.
fn only_of_a_node(resource: BGPConfiguration) -> BGPConfiguration {
    let BGPConfigurationSpec { listen_port, log_severity_screen, communities, prefix_advertisements, .. } =
        resource.spec;
    let spec = BGPConfigurationSpec {
        listen_port,
        log_severity_screen,
        communities,
        prefix_advertisements,
        ..BGPConfigurationSpec::default()
    };
    BGPConfiguration { spec, ..resource }
}

/// A BGPConfiguration in which everything that BGP takes from it has a meaning.
fn checked(resource: BGPConfiguration) -> Result<BGPConfigurationSpec, String> {
    /// Fields that mean nothing if they are not valid. (Where Calico falls back to a default, so do we.)
    const NEEDED: [&str; 6] = [
        "ServiceLoadBalancerIPs",
        "ServiceExternalIPs",
        "ServiceClusterIPs",
        "Spec.Communities[].Value",
        "Spec.PrefixAdvertisement[].CIDR",
        COMMUNITY_USED,
    ];
    const COMMUNITY_USED: &str = "Spec.PrefixAdvertisement[].Communities[]";
    if resource.spec.listen_port == Some(0) {
        return Err("listenPort is 0, expected 1 to 65535".to_owned());
    }
    if resource.spec.as_number == Some(AsNumber(0)) {
        return Err("asNumber is 0, which no AS has (RFC 7607)".to_owned());
    }
    let resource = AnyResource::BGPConfiguration(Box::new(resource));
    // As in Calico, the name of a community that is not defined adds none; it becomes a warning.
    let is_name = |fault: &FieldError| fault.field == COMMUNITY_USED && !fault.value.contains(':');
    let needed = |fault: &FieldError| NEEDED.contains(&fault.field.as_str()) && !is_name(fault);
    let fault = calico_api::validate(&resource).into_iter().find(needed);
    match (fault, resource) {
        (Some(fault), _) => Err(fault.to_string()),
        (None, AnyResource::BGPConfiguration(resource)) => Ok(resource.spec),
        (None, _) => Err("it is no BGPConfiguration".to_owned()),
    }
}
