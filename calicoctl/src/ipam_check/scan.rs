//! What follows from what was read. No store, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_api::{IPAMBlock, IPAMHandle, IPPool, Node, WorkloadEndpoint};
use calico_datastore::Fault;
use ipam::block::{self, BlockFault, WINDOWS_HANDLE, clean_handle};
use ipam::network::address_at;
use ipnet::IpNet;
use jiff::Timestamp;

use super::report::{Allocation, LeakedHandle};

/// How many nodes are listed.
const TOP: usize = 20;

/// What was read.
pub(super) struct Facts {
    pub(super) blocks: Vec<IPAMBlock>,
    pub(super) pools: Vec<IPPool>,
    pub(super) nodes: Vec<Node>,
    pub(super) services: Option<Vec<(IpAddr, String)>>,
    pub(super) endpoints: Vec<WorkloadEndpoint>,
    pub(super) handles: Vec<IPAMHandle>,
    pub(super) unreadable: Vec<Fault>,
}

/// What follows.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    pub(crate) leaked_handles: Vec<LeakedHandle>,
    pub(super) active_pools: Vec<IpNet>,
    pub(super) tunnels: usize,
    pub(super) workloads: usize,
    /// Addresses in use, and by whom.
    pub(super) in_use: BTreeMap<IpAddr, Vec<String>>,
    pub(super) top: Vec<(String, usize)>,
    pub(super) most: usize,
    pub(super) median: usize,
    pub(super) leaked: usize,
    pub(super) outside: Vec<String>,
    pub(super) unallocated: Vec<String>,
    pub(super) shared: Vec<String>,
    pub(super) missing_handles: Vec<String>,
    pub(super) invalid: Vec<String>,
    unreadable: usize,
}

impl Findings {
    pub(super) fn problems(&self) -> usize {
        self.leaked
            + self.outside.len()
            + self.unallocated.len()
            + self.shared.len()
            + self.leaked_handles.len()
            + self.missing_handles.len()
            + self.invalid.len()
            + self.unreadable
    }

    pub(super) fn leaked_lines(&self) -> Vec<String> {
        let leaked = self.allocations.values().flatten().filter(|it| it.is_leaked());
        leaked.map(|it| format!("{} leaked; {}", it.ip, it.attributes())).collect()
    }
}

/// Compares.
pub(super) fn scan(facts: &Facts, now: Timestamp) -> Findings {
    let mut found = Findings { unreadable: facts.unreadable.len(), ..Findings::default() };
    for pool in facts.pools.iter().filter(|pool| pool.spec.disabled != Some(true)) {
        found.active_pools.extend(pool.spec.cidr().map(|cidr| cidr.trunc()));
    }
    users(facts, &mut found);
    let mut held_handles: BTreeSet<String> = BTreeSet::new();
    let mut of_nodes: BTreeMap<String, usize> = facts.nodes.iter().map(|node| (node.name().to_owned(), 0)).collect();
    for stored in &facts.blocks {
        found.invalid.extend(faults(stored, now));
        for (ordinal, index) in (0_u32..).zip(&stored.spec.allocations) {
            let Some(address) = address_at(&stored.spec.cidr, ordinal) else { continue };
            let Some(attribute) = index.and_then(|index| stored.spec.attributes.get(usize::try_from(index).ok()?))
            else {
                continue;
            };
            let text =
                |key: &str| attribute.secondary.as_ref().and_then(|map| map.get(key)?.clone()).unwrap_or_default();
            let node = text("node");
            let handle = attribute.handle_id.as_deref().map(|id| clean_handle(id).to_owned());
            held_handles.extend(handle.as_deref().map(str::to_lowercase));
            *of_nodes.entry(node.clone()).or_default() += 1;
            let owners = found.in_use.get(&address).cloned().unwrap_or_default();
            let windows = handle.as_deref() == Some(WINDOWS_HANDLE);
            let allocation = Allocation {
                ip: address,
                sequence_number: stored.spec.sequence_number_for_allocation.get(&ordinal.to_string()).copied(),
                pod: text("pod"),
                namespace: text("namespace"),
                borrowed: !node.is_empty()
                    && stored.spec.owner().is_none_or(|owner| owner.type_str() == "host" && owner.name() != node),
                node,
                kind: if windows { "windows".to_owned() } else { text("type") },
                creation_timestamp: text("timestamp"),
                in_use: !owners.is_empty() || windows,
                cooling_down: attribute.released_at.is_some(),
                owners,
                handle,
            };
            found.leaked += usize::from(allocation.is_leaked());
            found.allocations.entry(address).or_default().push(allocation);
        }
    }
    of_nodes.remove("");
    statistics(of_nodes, &mut found);
    for (address, owners) in &found.in_use {
        let line = format!("{address} used by {}", owners.join(", "));
        if owners.len() > 1 {
            found.shared.push(line.clone());
        }
        if found.allocations.contains_key(address) {
            continue;
        }
        match found.active_pools.iter().any(|pool| pool.contains(address)) {
            true => found.unallocated.push(line),
            false => found.outside.push(line),
        }
    }
    let stored: BTreeSet<String> = facts.handles.iter().map(|handle| handle.spec.handle_id.to_lowercase()).collect();
    for handle in &facts.handles {
        if !held_handles.contains(&clean_handle(&handle.spec.handle_id).to_lowercase()) {
            found.leaked_handles.push(LeakedHandle {
                id: handle.spec.handle_id.clone(),
                uid: handle.metadata.uid.clone(),
                revision: handle.metadata.resource_version.clone().unwrap_or_default(),
            });
        }
    }
    found.missing_handles =
        held_handles.into_iter().filter(|id| id != WINDOWS_HANDLE && !stored.contains(id)).collect();
    found
}

/// Who uses which address.
fn users(facts: &Facts, found: &mut Findings) {
    for node in &facts.nodes {
        let (spec, bgp) = (&node.spec, node.spec.bgp.as_ref());
        let wireguard = spec.wireguard.as_ref();
        let tunnels = [
            bgp.and_then(|bgp| bgp.ipv4_ipip_tunnel_addr.as_ref()),
            spec.ipv4_vxlan_tunnel_addr.as_ref(),
            spec.ipv6_vxlan_tunnel_addr.as_ref(),
            wireguard.and_then(|it| it.interface_ipv4_address.as_ref()),
            wireguard.and_then(|it| it.interface_ipv6_address.as_ref()),
        ];
        for address in tunnels.into_iter().flatten().filter_map(|text| text.parse().ok()) {
            found.tunnels += 1;
            found.in_use.entry(address).or_default().push(format!("Node({})", node.name()));
        }
    }
    for endpoint in &facts.endpoints {
        let namespace = endpoint.metadata.namespace.as_deref().unwrap_or_default();
        for text in &endpoint.spec.ip_networks {
            let Some(address) = text.parse::<IpNet>().ok().map(|net| net.addr()).or_else(|| text.parse().ok()) else {
                continue;
            };
            found.workloads += 1;
            found.in_use.entry(address).or_default().push(format!("Workload({namespace}/{})", endpoint.name()));
        }
    }
    for (address, name) in facts.services.iter().flatten() {
        found.in_use.entry(*address).or_default().push(format!("Service({name})"));
    }
    for owners in found.in_use.values_mut() {
        owners.sort();
        owners.dedup();
    }
}

fn statistics(of_nodes: BTreeMap<String, usize>, found: &mut Findings) {
    let mut counts: Vec<(String, usize)> = of_nodes.into_iter().collect();
    counts.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
    found.most = counts.first().map_or(0, |(_, count)| *count);
    found.median = counts.get(counts.len() / 2).map_or(0, |(_, count)| *count);
    counts.truncate(TOP);
    found.top = counts;
}

/// What is wrong with a block, in a line.
fn faults(stored: &IPAMBlock, now: Timestamp) -> Option<String> {
    let fault = match block::check(&stored.spec) {
        Err(fault) if !matches!(fault, BlockFault::StraySequence(_) | BlockFault::FutureSequence { .. }) => {
            Some(fault.to_string())
        }
        _ => {
            let future = stored
                .spec
                .attributes
                .iter()
                .filter_map(|attribute| attribute.released_at.as_deref())
                .find(|text| text.parse::<Timestamp>().is_ok_and(|released| released > now));
            future.map(|text| format!("an address was released in the future, at {text}"))
        }
    };
    fault.map(|fault| format!("block {}: {fault}", stored.spec.cidr))
}
