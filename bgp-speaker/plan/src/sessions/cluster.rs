//! The inputs, indexed: every selector is asked once per node, so that the plans of all nodes are made fast, and for
//! the plan of one node mostly about that one alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::OnceLock;

use calico_selector::Selector;

use super::{LocalSide, Peering, Plan, RemoteSide, Warning};
use crate::inputs::{Inputs, NodeFacts};

/// A node with what sessions need of it.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub(super) name: &'a str,
    pub(super) facts: &'a NodeFacts,
    /// Its own AS number, else the global one.
    pub(super) as_number: u32,
    /// The port it listens on, if one is configured.
    pub(super) port: Option<u16>,
    /// Its addresses, IPv4 first, with their texts.
    pub(super) addresses: Vec<(IpAddr, String)>,
}

/// Members of one side of a BGPPeer.
#[derive(Debug)]
pub(super) enum Side {
    All,
    /// Indices, ascending.
    Some(Vec<usize>),
}

impl Side {
    pub(super) fn contains(&self, index: usize) -> bool {
        match self {
            Self::All => true,
            Self::Some(members) => members.binary_search(&index).is_ok(),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Some(members) if members.is_empty())
    }
}

/// A BGPPeer with the nodes on both its sides, which are found once somebody asks for all of them.
#[derive(Debug)]
pub(super) struct Between<'a> {
    pub(super) name: &'a str,
    pub(super) peering: &'a Peering,
    local: OnceLock<Side>,
    remote: OnceLock<Vec<usize>>,
}

/// An index of the inputs.
#[derive(Debug)]
pub struct Cluster<'a> {
    pub(super) inputs: &'a Inputs,
    /// By name.
    pub(super) members: Vec<Member<'a>>,
    /// Who has an address: mostly one.
    by_address: HashMap<IpAddr, Vec<usize>>,
    /// Whether any address is that of several.
    pub(super) shares_addresses: bool,
    /// By name.
    pub(super) peerings: Vec<Between<'a>>,
    /// Those that are route reflectors and have an address.
    pub(super) reflectors: Vec<usize>,
}

impl<'a> Cluster<'a> {
    /// Indexes `inputs`.
    pub fn new(inputs: &'a Inputs) -> Self {
        let members: Vec<_> = inputs
            .nodes
            .iter()
            .map(|(name, facts)| Member {
                name,
                facts,
                as_number: inputs.as_number(facts),
                port: inputs.configured_port(name),
                addresses: facts.addresses().map(|address| (address, address.to_string())).collect(),
            })
            .collect();
        let mut by_address: HashMap<IpAddr, Vec<usize>> = HashMap::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            for (address, _) in &member.addresses {
                by_address.entry(*address).or_default().push(index);
            }
        }
        let reflecting = |member: &Member<'_>| member.facts.cluster_id.is_some() && !member.addresses.is_empty();
        let reflectors = (0..).zip(&members).filter(|(_, member)| reflecting(member)).map(|(index, _)| index).collect();
        let shares_addresses = by_address.values().any(|members| members.len() > 1);
        let between = |(name, peering)| Between { name, peering, local: OnceLock::new(), remote: OnceLock::new() };
        let peerings = inputs.peers.iter().map(|(name, peering): (&String, _)| between((name.as_str(), peering)));
        Self { inputs, members, by_address, shares_addresses, peerings: peerings.collect(), reflectors }
    }

    /// The plan of a node.
    pub fn plan(&self, node: &str) -> Plan {
        super::plan::of(self, node)
    }

    /// The plans of all nodes, by name.
    pub fn plans(&self) -> impl Iterator<Item = (&'a str, Plan)> {
        for between in &self.peerings {
            self.local(between);
            self.remote(between);
        }
        self.members.iter().map(|member| (member.name, self.plan(member.name)))
    }

    /// What concerns no node, so that no node's plan says it: BGPPeers whose local side is empty.
    pub fn warnings(&self) -> Vec<Warning> {
        let empty = self.peerings.iter().filter(|between| self.local(between).is_empty());
        let reason = |between: &Between<'_>| match &between.peering.local {
            LocalSide::All => "there are no nodes".to_owned(),
            LocalSide::Node(name) => format!("there is no node {name}"),
            LocalSide::Selected(selector) => format!("nodeSelector matches none: {selector}"),
        };
        empty.map(|between| Warning::NoLocal { peer: between.name.to_owned(), reason: reason(between) }).collect()
    }

    pub(super) fn find(&self, node: &str) -> Option<usize> {
        self.members.binary_search_by(|member| member.name.cmp(node)).ok()
    }

    /// All who have an address.
    pub(super) fn at(&self, address: IpAddr) -> &[usize] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The nodes that a BGPPeer is for.
    pub(super) fn local<'b>(&self, between: &'b Between<'_>) -> &'b Side {
        between.local.get_or_init(|| match &between.peering.local {
            LocalSide::All => Side::All,
            LocalSide::Node(node) => Side::Some(self.find(node).into_iter().collect()),
            LocalSide::Selected(selector) if selector.is_all() => Side::Some((0..self.members.len()).collect()),
            LocalSide::Selected(selector) => Side::Some(self.selected(selector)),
        })
    }

    /// The nodes that `peerSelector` selects, or that have the address `peerIP` and the port.
    pub(super) fn remote<'b>(&self, between: &'b Between<'_>) -> &'b [usize] {
        between.remote.get_or_init(|| match &between.peering.remote {
            RemoteSide::Nodes(selector) => self.selected(selector),
            RemoteSide::Address { address, port, .. } => {
                let listens = |index: &&usize| {
                    // Departs from Calico, which compares with the global port too, if there is one.
                    let used = self.members.get(**index).map(|member| self.inputs.listen_port(member.name));
                    port.is_none() || *port == used
                };
                self.at(*address).iter().filter(listens).copied().collect()
            }
            RemoteSide::Workloads { .. } | RemoteSide::Nobody(_) => Vec::new(),
        })
    }

    /// Whether a BGPPeer is for this node.
    pub(super) fn is_local(&self, between: &Between<'_>, index: usize) -> bool {
        match (between.local.get(), &between.peering.local) {
            (None, LocalSide::Selected(selector)) => self.selects(selector, index),
            _ => self.local(between).contains(index),
        }
    }

    /// Whether this node is a peer of those that a BGPPeer is for.
    pub(super) fn is_remote(&self, between: &Between<'_>, index: usize) -> bool {
        match (between.remote.get(), &between.peering.remote) {
            (None, RemoteSide::Nodes(selector)) => self.selects(selector, index),
            _ => self.remote(between).binary_search(&index).is_ok(),
        }
    }

    fn selects(&self, selector: &Selector, index: usize) -> bool {
        self.members.get(index).is_some_and(|member| selector.matches(&member.facts.labels))
    }

    fn selected(&self, selector: &Selector) -> Vec<usize> {
        (0..self.members.len()).filter(|index| self.selects(selector, *index)).collect()
    }
}
