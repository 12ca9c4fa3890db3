//! What is kept about peers and next hops, with its counts.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::decision::Neighbor;
use super::export::Origination;
use super::log::{Chunk, Reader};
use super::table::{LOCAL, NextHop, NextHops, Path};
use super::{LocalRoute, PeerConfig, PeerCounts, PeerId, RibConfig, Source, decision};
use crate::{Families, Family, Nlri, Prefix};

/// Peers, own routes and next hops.
#[derive(Debug, Default)]
pub(super) struct Books {
    peers: Vec<Option<Peer>>,
    pub(super) local: HashMap<Prefix, LocalRoute>,
    pub(super) next_hops: NextHops,
    /// Next hops that came into or went out of use.
    pub(super) news: Vec<(IpAddr, bool)>,
    resolve: bool,
}

/// A peer that is up, or whose paths are kept.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) config: PeerConfig,
    /// Where it is in what it is to be told, while up.
    pub(super) output: Option<Output>,
    /// Counts by family; those advertised are counted when asked for.
    pub(super) counts: [PeerCounts; 2],
    /// Families of which it has not yet told all.
    pub(super) owes_end_of_rib: Families,
}

impl Peer {
    /// Who it is when it reads what it is told.
    pub(super) fn reader(&self, id: PeerId) -> Reader {
        Reader { id, address: self.config.address }
    }
}

/// Where a peer is in what it is to be told.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) group: usize,
    /// The chunk of the group's log that it reads, and the part in it.
    pub(super) chunk: u64,
    pub(super) part: usize,
    /// What it reads before the log goes on.
    pub(super) aside: Option<(Arc<Chunk>, usize)>,
    /// What comes when it has read all of the log.
    pub(super) stages: VecDeque<Stage>,
}

/// Something for one peer only.
#[derive(Debug)]
pub(super) enum Stage {
    /// The whole Adj-RIB-Out, at the beginning.
    Initial,
    /// All of a family again.
    Refresh(Family),
    /// How these prefixes stand now.
    Restate(HashSet<Nlri>),
    /// End-of-RIB.
    EndOfRib(Families),
}

impl Books {
    /// Empty; `resolve` is whether next hops matter.
    pub(super) fn new(resolve: bool) -> Self {
        Self { resolve, ..Self::default() }
    }

    pub(super) fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn peer_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        (0_u32..).zip(&self.peers).filter_map(|(id, peer)| Some((PeerId(id), peer.as_ref()?)))
    }

    pub(super) fn peers_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut Peer)> {
        (0_u32..).zip(&mut self.peers).filter_map(|(id, peer)| Some((PeerId(id), peer.as_mut()?)))
    }

    pub(super) fn insert(&mut self, id: PeerId, peer: Peer) {
        let index = id.0 as usize;
        if self.peers.len() <= index {
            self.peers.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.peers.get_mut(index) {
            *slot = Some(peer);
        }
    }

    pub(super) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        self.peers.get_mut(id.0 as usize)?.take()
    }

    /// What export must know of a peer; `None` for ourselves.
    pub(super) fn origination(&self, id: PeerId) -> Option<Origination> {
        let config = &self.peer(id)?.config;
        let external = !config.context.internal;
        Some(Origination { external, client: config.client && !external, router_id: config.router_id })
    }

    pub(super) fn source(&self, prefix: Prefix, path: &Path) -> Source {
        let kind = self.local.get(&prefix).map(|route| route.kind).unwrap_or_default();
        path.source(kind, self.peer(path.peer).is_some_and(|peer| !peer.config.context.internal))
    }

    /// The interface by which a next hop is reached, as far as it is known.
    pub(super) fn interface_to(&self, next_hop: IpAddr) -> Option<&str> {
        self.next_hops.0.get(&next_hop)?.reachability.as_ref()?.interface().map(|name| &**name)
    }

    /// The outgoing interface of a path.
    pub(super) fn interface(&self, prefix: Prefix, path: &Path) -> Option<&str> {
        if path.peer == LOCAL {
            return self.local.get(&prefix)?.interface.as_deref();
        }
        self.interface_to(path.attributes.next_hop)
    }

    /// How a path stands to others before any attribute counts.
    pub(super) fn preference(&self, prefix: Prefix, path: &Path, config: &RibConfig) -> u8 {
        let normal = config.normal_metric(prefix.family());
        if path.peer == LOCAL {
            return self.local.get(&prefix).map_or(0, |route| route.preference(normal));
        }
        decision::learned_preference(&path.attributes, path.explicit, normal)
    }

    /// Counts a path in.
    pub(super) fn add(&mut self, prefix: Prefix, path: &Path) {
        if path.peer == LOCAL {
            return;
        }
        if self.resolve {
            let address = path.attributes.next_hop;
            let hop = self.next_hops.0.entry(address).or_insert_with(|| {
                self.news.push((address, true));
                NextHop::default()
            });
            hop.paths += 1;
            if hop.reachability.is_none() {
                hop.waiting.insert(prefix);
            }
        }
        if let Some(counts) = self.counts(path.peer, prefix.family()) {
            counts.received += 1;
            counts.accepted += usize::from(path.excluded.is_none());
            counts.stale += usize::from(path.stale);
        }
    }

    /// Counts a path out.
    pub(super) fn take(&mut self, prefix: Prefix, path: &Path) {
        if path.peer == LOCAL {
            return;
        }
        if let Some(hop) = self.next_hops.0.get_mut(&path.attributes.next_hop) {
            hop.paths -= 1;
            if hop.paths == 0 {
                self.next_hops.0.remove(&path.attributes.next_hop);
                self.news.push((path.attributes.next_hop, false));
            }
        }
        if let Some(counts) = self.counts(path.peer, prefix.family()) {
            counts.received -= 1;
            counts.accepted -= usize::from(path.excluded.is_none());
            counts.stale -= usize::from(path.stale);
        }
    }

    pub(super) fn counts(&mut self, peer: PeerId, family: Family) -> Option<&mut PeerCounts> {
        self.peer_mut(peer)?.counts.get_mut(family.index())
    }
}

impl Books {
    /// What counts of a peer in a decision.
    pub(super) fn neighbor(&self, id: PeerId) -> Option<Neighbor> {
        let config = &self.peer(id)?.config;
        Some(Neighbor { external: !config.context.internal, router_id: config.router_id, address: config.address })
    }
}
