//! Which addresses of Services does this node originate, and which never go to the kernel? (`bgp.md` §2.5)
//!
//! An image of Services and EndpointSlices. What follows from it is kept by service, so that a changed slice costs one
//! service ([`Services::refresh`]); the rules for one service are in `verdict`.

mod facts;
#[cfg(test)]
mod tests;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_api::{BGPConfigurationSpec, Key, Kind, ServiceBlock};
use ipnet::IpNet;
use serde_json::Value;

use self::facts::{Endpoints, ServiceFacts, SliceFacts};
pub use self::verdict::{Standing, Step};
use crate::communities::network;
use crate::nets::Nets;

/// The label of nodes that take no traffic from outside.
pub const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Namespace and name.
type Id = (String, String);

/// What BGPConfiguration `default` says of Services.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceSettings {
    /// `serviceClusterIPs`.
    pub cluster: Vec<IpNet>,
    /// `serviceExternalIPs`.
    pub external: Vec<IpNet>,
    /// `serviceLoadBalancerIPs`.
    pub load_balancer: Vec<IpNet>,
    /// `serviceLoadBalancerAggregation`: ranges go out as a whole.
    pub aggregate: bool,
}

impl ServiceSettings {
    /// From the resource; `cluster` replaces `serviceClusterIPs` (`CALICO_ADVERTISE_CLUSTER_IPS`). Entries that are no
    /// network are left out: see [`Self::faults`].
    pub fn new(global: &BGPConfigurationSpec, cluster: Option<&[IpNet]>) -> Self {
        let nets = |blocks: &Option<Vec<ServiceBlock>>| {
            blocks.iter().flatten().filter_map(|block| network(&block.cidr)).collect::<Vec<_>>()
        };
        let trunc = |nets: &[IpNet]| nets.iter().map(IpNet::trunc).collect();
        Self {
            cluster: cluster.map_or_else(|| nets(&global.service_cluster_ips), trunc),
            external: nets(&global.service_external_ips),
            load_balancer: nets(&global.service_load_balancer_ips),
            aggregate: global.service_load_balancer_aggregation.as_deref() != Some("Disabled"),
        }
    }

    /// What [`Self::new`] leaves out, and why.
    pub fn faults(global: &BGPConfigurationSpec) -> Vec<String> {
        let lists = [
            ("serviceClusterIPs", &global.service_cluster_ips),
            ("serviceExternalIPs", &global.service_external_ips),
            ("serviceLoadBalancerIPs", &global.service_load_balancer_ips),
        ];
        let entries = lists.into_iter().flat_map(|(list, blocks)| {
            blocks.iter().flatten().enumerate().map(move |(index, block)| (list, index, &block.cidr))
        });
        let bad = entries.filter(|(_, _, cidr)| !cidr.is_empty() && network(cidr).is_none());
        let text = |(list, index, cidr)| {
            format!(
                "BGPConfiguration default: {list}[{index}].cidr is \"{cidr}\", expected a range such as 10.96.0.0/12"
            )
        };
        bad.map(text).collect()
    }

    /// Whether Services are advertised at all.
    pub fn is_on(&self) -> bool {
        !(self.cluster.is_empty() && self.external.is_empty() && self.load_balancer.is_empty())
    }

    /// Learned prefixes inside these never go to the kernel.
    ///
    /// Departs from Calico, which installs routes to single addresses, and to all load-balancer addresses without
    /// aggregation, so that the node itself cannot reach them.
    pub fn kernel_ranges(&self) -> Vec<IpNet> {
        [&self.cluster, &self.external, &self.load_balancer].into_iter().flatten().copied().collect()
    }

    /// Ranges that each node originates as a whole.
    fn aggregates(&self) -> impl Iterator<Item = IpNet> {
        let ranges = self.load_balancer.iter().filter(|_| self.aggregate).chain(&self.external);
        let ranges = ranges.filter(|net| net.prefix_len() < net.max_prefix_len());
        ranges.chain(&self.cluster).copied()
    }
}

/// The ranges of [`ServiceSettings`], ready to be asked.
#[derive(Clone, Debug, Default)]
struct Ranges {
    cluster: Nets,
    external: Nets,
    load_balancer: Nets,
    aggregate: bool,
}

impl Ranges {
    fn new(settings: &ServiceSettings) -> Self {
        let nets = |list: &[IpNet]| list.iter().copied().collect();
        Self {
            cluster: nets(&settings.cluster),
            external: nets(&settings.external),
            load_balancer: nets(&settings.load_balancer),
            aggregate: settings.aggregate,
        }
    }
}

/// Services and where their endpoints are.
#[derive(Clone, Debug, Default)]
pub struct Services {
    services: BTreeMap<Id, ServiceFacts>,
    slices: BTreeMap<Id, SliceFacts>,
    /// Names of slices by their service.
    slices_of: BTreeMap<Id, BTreeSet<String>>,
    /// What followed when last asked, and of which services it may be another by now.
    view: Option<Box<View>>,
    dirty: BTreeSet<Id>,
}

/// The image counts; how far conclusions were drawn from it does not.
impl PartialEq for Services {
    fn eq(&self, other: &Self) -> bool {
        (&self.services, &self.slices) == (&other.services, &other.slices)
    }
}

impl Services {
    /// Takes a Service or an EndpointSlice; says whether anything that matters changed.
    ///
    /// # Errors
    /// What is wrong with it; what was known of it stays.
    pub fn put(&mut self, key: &Key, value: &Value) -> Result<bool, String> {
        let id = id(key);
        match key.kind() {
            Kind::Service => {
                let facts = ServiceFacts::read(value)?;
                if self.services.get(&id) == Some(&facts) {
                    return Ok(false);
                }
                self.services.insert(id.clone(), facts);
                self.dirty.insert(id);
            }
            Kind::EndpointSlice => {
                let facts = SliceFacts::read(value)?;
                if self.slices.get(&id) == Some(&facts) {
                    return Ok(false);
                }
                self.forget_slice(&id);
                if let Some(service) = &facts.service {
                    let service = (id.0.clone(), service.clone());
                    self.slices_of.entry(service.clone()).or_default().insert(id.1.clone());
                    self.dirty.insert(service);
                }
                self.slices.insert(id, facts);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Forgets a Service or an EndpointSlice; says whether anything that matters changed.
    pub fn delete(&mut self, key: &Key) -> bool {
        let id = id(key);
        match key.kind() {
            Kind::Service => {
                let known = self.services.remove(&id).is_some();
                self.dirty.insert(id);
                known
            }
            Kind::EndpointSlice => self.forget_slice(&id),
            _ => false,
        }
    }

    fn forget_slice(&mut self, id: &Id) -> bool {
        let Some(facts) = self.slices.remove(id) else { return false };
        if let Some(service) = facts.service {
            let service = (id.0.clone(), service);
            if let Some(names) = self.slices_of.get_mut(&service) {
                names.remove(&id.1);
                if names.is_empty() {
                    self.slices_of.remove(&service);
                }
            }
            self.dirty.insert(service);
        }
        true
    }

    /// Brings what [`originated`](Self::originated) and [`strays`](Self::strays) say up to date, so that they answer at
    /// once: looks only at services that changed, unless the other arguments changed. Says whether the answers did.
    pub fn refresh(&mut self, settings: &ServiceSettings, node: &str, excluded: bool) -> bool {
        let dirty = std::mem::take(&mut self.dirty);
        if let Some(mut view) = self.view.take_if(|view| view.is_for(settings, node, excluded)) {
            let changed = dirty.into_iter().fold(false, |changed, id| view.update(self, id) | changed);
            self.view = Some(view);
            return changed;
        }
        let before = self.view.take();
        let view = View::new(self, settings, node, excluded);
        let same = |before: Box<View>| before.routes == view.routes && before.strays == view.strays;
        let changed = !before.is_some_and(same);
        self.view = Some(Box::new(view));
        changed
    }

    /// What `node` originates now; `excluded` by its label `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub fn originated(&self, settings: &ServiceSettings, node: &str, excluded: bool) -> BTreeSet<IpNet> {
        self.with_view(settings, node, excluded, |view| view.routes.keys().copied().collect())
    }

    /// Cluster addresses outside the configured ranges. Some node may originate them, and they belong in no kernel.
    pub fn strays(&self, settings: &ServiceSettings, node: &str, excluded: bool) -> Vec<IpNet> {
        self.with_view(settings, node, excluded, |view| view.strays.keys().copied().collect())
    }

    /// Whether and why the addresses of a service are advertised from `node`; `None` if there is no such service.
    pub fn advertised_from(
        &self,
        (namespace, name): (&str, &str),
        settings: &ServiceSettings,
        node: &str,
        excluded: bool,
    ) -> Option<Vec<Standing>> {
        let id = (namespace.to_owned(), name.to_owned());
        let service = self.services.get(&id)?;
        Some(verdict::standings(service, &self.endpoints(&id, node), &Ranges::new(settings), excluded))
    }

    /// Namespaces and names of the services that have this address.
    pub fn with_address(&self, address: IpAddr) -> impl Iterator<Item = (&str, &str)> {
        let has = move |service: &ServiceFacts| service.addresses().any(|own| own == address);
        let services = self.services.iter().filter(move |(_, service)| has(service));
        services.map(|((namespace, name), _)| (namespace.as_str(), name.as_str()))
    }

    /// Whether a node whose label [`EXCLUDED`] has this value originates nothing: any value but `false` does that.
    ///
    /// Departs from Calico, which asks for the value `true`, where Kubernetes asks only whether the label is there.
    pub fn excludes(label: Option<&str>) -> bool {
        label.is_some_and(|value| value != "false")
    }

    /// All slices of a service together: none of them alone says anything.
    fn endpoints(&self, id: &Id, node: &str) -> Endpoints {
        let names = self.slices_of.get(id).into_iter().flatten();
        let slices = names.filter_map(|name| self.slices.get(&(id.0.clone(), name.clone())));
        slices.fold(Endpoints::default(), |endpoints, slice| endpoints.with(slice, node))
    }

    fn with_view<T>(&self, settings: &ServiceSettings, node: &str, excluded: bool, ask: impl Fn(&View) -> T) -> T {
        let current = self.view.as_ref().filter(|view| self.dirty.is_empty() && view.is_for(settings, node, excluded));
        match current {
            Some(view) => ask(view),
            None => ask(&View::new(self, settings, node, excluded)),
        }
    }
}

fn id(key: &Key) -> Id {
    (key.namespace().unwrap_or_default().to_owned(), key.name())
}

/// What follows from the image, for one node and some settings.
#[derive(Clone, Debug)]
struct View {
    settings: ServiceSettings,
    ranges: Ranges,
    node: String,
    excluded: bool,
    by_service: BTreeMap<Id, Share>,
    /// By how many services, and once for being an aggregate: services may share addresses.
    routes: BTreeMap<IpNet, usize>,
    strays: BTreeMap<IpNet, usize>,
}

/// What one service adds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Share {
    routes: Vec<IpNet>,
    strays: Vec<IpNet>,
}

impl View {
    fn new(services: &Services, settings: &ServiceSettings, node: &str, excluded: bool) -> Self {
        let mut view = Self {
            settings: settings.clone(),
            ranges: Ranges::new(settings),
            node: node.to_owned(),
            excluded,
            by_service: BTreeMap::new(),
            routes: BTreeMap::new(),
            strays: BTreeMap::new(),
        };
        for aggregate in settings.aggregates().filter(|_| !excluded) {
            count(&mut view.routes, aggregate);
        }
        for id in services.services.keys() {
            view.update(services, id.clone());
        }
        view
    }

    fn is_for(&self, settings: &ServiceSettings, node: &str, excluded: bool) -> bool {
        self.settings == *settings && self.node == node && self.excluded == excluded
    }

    /// Draws the conclusions of one service anew; says whether anything but counts changed.
    fn update(&mut self, services: &Services, id: Id) -> bool {
        let share = services.services.get(&id).map(|service| self.share(service, &services.endpoints(&id, &self.node)));
        let share = share.unwrap_or_default();
        let before = self.by_service.remove(&id).unwrap_or_default();
        if share == before {
            if share != Share::default() {
                self.by_service.insert(id, share);
            }
            return false;
        }
        // New ones first: what stays is then never at zero.
        let mut changed = false;
        share.routes.iter().for_each(|net| changed |= count(&mut self.routes, *net));
        share.strays.iter().for_each(|net| changed |= count(&mut self.strays, *net));
        before.routes.iter().for_each(|net| changed |= discount(&mut self.routes, *net));
        before.strays.iter().for_each(|net| changed |= discount(&mut self.strays, *net));
        if share != Share::default() {
            self.by_service.insert(id, share);
        }
        changed
    }

    fn share(&self, service: &ServiceFacts, endpoints: &Endpoints) -> Share {
        let standings = verdict::standings(service, endpoints, &self.ranges, self.excluded);
        let routes = standings.iter().filter(|standing| standing.step.advertises()).map(|standing| standing.address);
        let ranges = &self.ranges.cluster;
        let cluster = service.cluster.iter().filter(|_| !ranges.is_empty()).map(|address| IpNet::from(*address));
        Share { routes: routes.collect(), strays: cluster.filter(|net| !ranges.cover(net)).collect() }
    }
}

/// Counts one more; whether it is the first.
fn count(counts: &mut BTreeMap<IpNet, usize>, net: IpNet) -> bool {
    let count = counts.entry(net).or_default();
    *count += 1;
    *count == 1
}

/// Counts one less; whether it was the last.
fn discount(counts: &mut BTreeMap<IpNet, usize>, net: IpNet) -> bool {
    let Some(count) = counts.get_mut(&net) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(&net);
    }
    last
}
