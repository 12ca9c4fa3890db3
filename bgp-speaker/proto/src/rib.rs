//! Which paths there are, which is best, and what each peer is told: Adj-RIB-In, Loc-RIB, Adj-RIB-Out (RFC 4271 §3.2).
//!
//! The Adj-RIBs-In of all peers and the Loc-RIB are one table: a prefix has its paths, the chosen ones first. Adj-RIBs-Out
//! are kept once for all peers with the same view (see `group`), not once for each.

mod books;
mod config;
mod decision;
mod export;
mod group;
mod import;
mod log;
#[cfg(test)]
mod model;
mod output;
mod path_ids;
mod policies;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::net::IpAddr;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};

use self::books::{Books, Peer, Stage};
pub use self::config::{
    Candidate, LocalKind, LocalRoute, NextHopMode, PeerConfig, PeerId, Policy, Reachability, RibConfig, Source, Verdict,
};
pub use self::decision::Step;
use self::export::View;
use self::group::Group;
use self::path_ids::PathIds;
use self::table::{Entry, LOCAL, Path};
pub use self::view::{Best, BestChange, Exclusion, PathView, PeerCounts, Standing};
use crate::{Attributes, Families, Family, Interner, Nlri, Prefix, Update};

/// All RIBs of a speaker.
#[derive(Debug)]
pub struct Rib {
    config: RibConfig,
    interner: Interner,
    table: HashMap<Prefix, Entry>,
    books: Books,
    groups: Vec<Option<Group>>,
    /// Prefixes of which the kernel has not been told.
    changed: HashSet<Prefix>,
    deferred: bool,
    /// Prefixes of which no peer is told while selection is deferred.
    held: HashSet<Prefix>,
    path_ids: PathIds,
}

impl Rib {
    /// An empty RIB.
    pub fn new(config: RibConfig) -> Self {
        Self {
            interner: Interner::default(),
            table: HashMap::new(),
            books: Books::new(config.resolve_next_hops),
            groups: Vec::new(),
            changed: HashSet::new(),
            deferred: false,
            held: HashSet::new(),
            path_ids: PathIds::default(),
            config,
        }
    }

    // --- peers ---

    /// A session is up: the peer is sent everything that is for it, then End-of-RIB of each family. Stale paths stay.
    pub fn peer_up(&mut self, id: PeerId, config: PeerConfig) {
        let families = config.families();
        let owes_end_of_rib = if config.sends_end_of_rib { families } else { Families::NONE };
        let old = self.books.peer(id).map(|peer| (peer.output.is_some(), peer.config.router_id, peer.counts));
        if old.is_some_and(|(up, ..)| up) {
            self.leave(id);
        }
        let counts = old.map(|(.., counts)| counts).unwrap_or_default();
        let router_id = config.router_id;
        let view = View::new(&config, self.config.router_id);
        self.books.remove(id);
        self.books.insert(id, Peer { config, output: None, counts, owes_end_of_rib });
        if old.is_some_and(|(_, before, _)| before != router_id) {
            self.touch_paths_of(id, Families::ALL, |_, _| true);
        }
        let mut output = self.join(view);
        output.stages.push_back(Stage::Initial);
        if !self.deferred {
            output.stages.push_back(Stage::EndOfRib(families));
        }
        if let Some(peer) = self.books.peer_mut(id) {
            peer.output = Some(output);
        }
    }

    /// A session is down: paths of families in `keep` become stale (those stale already go), others go.
    pub fn peer_down(&mut self, id: PeerId, keep: Families) {
        self.leave(id);
        if let Some(peer) = self.books.peer_mut(id) {
            peer.owes_end_of_rib = Families::NONE;
        }
        for family in Family::ALL {
            // The first generation of stale paths does not survive a second failure (RFC 4724 §4.2).
            self.remove_paths(id, family, |path| path.stale || !keep.contains(family));
            if keep.contains(family) {
                self.mark_stale(id, family);
            }
        }
    }

    /// The peer is no longer configured: everything of it goes.
    pub fn remove_peer(&mut self, id: PeerId) {
        self.peer_down(id, Families::NONE);
        self.books.remove(id);
        self.path_ids.forget(id);
    }

    // --- what peers send ---

    /// Takes what a peer advertises and withdraws.
    pub fn update(&mut self, id: PeerId, update: &Update) {
        for nlri in &update.withdrawn {
            self.remove_path(id, *nlri);
        }
        for entry in &update.advertised {
            let Some(peer) = self.books.peer(id) else { return };
            let judged = import::admit(&peer.config, self.config.router_id, &entry.attributes, &mut self.interner);
            for nlri in &entry.nlri {
                let Some(peer) = self.books.peer(id) else { return };
                let interface = self.books.interface_to(judged.attributes.next_hop);
                let admission = judged.judge(id, &peer.config, nlri.prefix, interface, &mut self.interner);
                self.insert_path(nlri.prefix, Path::new(id, nlri.path_id, admission));
            }
        }
    }

    /// The peer has told all its paths of `family`; matters while selection is deferred.
    pub fn end_of_rib(&mut self, id: PeerId, family: Family) {
        if let Some(peer) = self.books.peer_mut(id) {
            peer.owes_end_of_rib.remove(family);
        }
    }

    /// Marks all paths of the peer and family stale (RFC 7313 §4).
    pub fn mark_stale(&mut self, id: PeerId, family: Family) {
        self.touch_paths_of(id, family.into(), |path, counts| {
            counts.stale += usize::from(!path.stale);
            path.stale = true;
            false
        });
    }

    /// Removes the paths of the peer and family that are still stale.
    pub fn sweep_stale(&mut self, id: PeerId, family: Family) {
        self.remove_paths(id, family, |path| path.stale);
    }

    /// Sends the peer everything of `family` again (RFC 2918), marked off if that was negotiated (RFC 7313).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        if let Some(output) = self.books.peer_mut(id).and_then(|peer| peer.output.as_mut()) {
            let planned = |stage: &Stage| matches!(stage, Stage::Refresh(other) if *other == family);
            if !output.stages.iter().any(planned) {
                output.stages.push_back(Stage::Refresh(family));
            }
        }
    }

    // --- own routes ---

    /// Advertises an own route; replaces one of the same prefix.
    pub fn originate(&mut self, prefix: Prefix, route: LocalRoute) {
        let next_hop = route.gateway.unwrap_or_else(|| export::unspecified(&prefix));
        let mut attributes = Attributes::new(next_hop);
        attributes.local_pref = Some(route.local_pref);
        attributes.med = route.med;
        attributes.communities.clone_from(&route.communities);
        attributes.large_communities.clone_from(&route.large_communities);
        attributes.communities.sort_unstable();
        attributes.large_communities.sort_unstable();
        let attributes = self.interner.intern(attributes);
        let admission = import::Admission { attributes, received: None, excluded: None, explicit: false };
        let path = Path::new(LOCAL, 0, admission);
        let before = self.books.local.insert(prefix, route.clone());
        self.insert_path(prefix, path);
        if before.is_some_and(|before| (before.kind, before.interface) != (route.kind, route.interface)) {
            self.mark(prefix); // policies see these
            self.changed.insert(prefix); // as does who asks for the best path
        }
    }

    /// Withdraws an own route; whether there was one.
    pub fn withdraw_local(&mut self, prefix: Prefix) -> bool {
        let was = self.books.local.remove(&prefix).is_some();
        self.remove_path(LOCAL, prefix.into());
        was
    }

    /// Every own route.
    pub fn local_routes(&self) -> impl Iterator<Item = (Prefix, &LocalRoute)> {
        self.books.local.iter().map(|(prefix, route)| (*prefix, route))
    }

    // --- next hops ---

    /// Tells how a next hop can be reached now.
    pub fn set_next_hop(&mut self, next_hop: IpAddr, reachability: Reachability) {
        self.set_next_hops([(next_hop, reachability)]);
    }

    /// Tells how next hops can be reached now. Many at once cost hardly more than one.
    pub fn set_next_hops(&mut self, changes: impl IntoIterator<Item = (IpAddr, Reachability)>) {
        let mut prefixes = HashSet::new();
        let mut known = HashSet::new();
        let mut moved = HashSet::new();
        for (address, reachability) in changes {
            let Some(hop) = self.books.next_hops.0.get_mut(&address) else { continue };
            if hop.reachability.as_ref() == Some(&reachability) {
                continue;
            }
            let before = hop.reachability.replace(reachability);
            if before.as_ref().and_then(Reachability::interface) != hop.interface() {
                moved.insert(address);
            }
            match before {
                None => prefixes.extend(std::mem::take(&mut hop.waiting)),
                Some(_) => {
                    known.insert(address);
                }
            }
        }
        if !known.is_empty() {
            let by = |entry: &Entry| entry.paths.iter().any(|path| known.contains(&path.attributes.next_hop));
            prefixes.extend(self.table.iter().filter(|(_, entry)| by(entry)).map(|(prefix, _)| *prefix));
        }
        if !moved.is_empty() {
            let by = |path: &Path| moved.contains(&path.as_received().next_hop);
            self.readmit(prefixes.iter().copied(), |peer, path| peer.config.import.is_some() && by(path));
        }
        for prefix in prefixes {
            // A path may have become usable or not without having changed itself.
            self.edit(prefix, |_, _| true);
        }
    }

    /// Next hops that paths began (`true`) or ceased (`false`) to use since last asked, in order: the shell watches these.
    pub fn take_next_hops(&mut self) -> Vec<(IpAddr, bool)> {
        std::mem::take(&mut self.books.news)
    }

    // --- deferral ---

    /// Defers (RFC 4724 §4.1) or resumes advertisement: while deferred, peers are told own routes only, and no
    /// End-of-RIB; on resuming, all at once. The kernel is told of every change: what is learned may be used at once.
    pub fn set_deferral(&mut self, deferred: bool) {
        if std::mem::replace(&mut self.deferred, deferred) == deferred || deferred {
            return;
        }
        // Those that are gone meanwhile are in `held` only.
        let mut prefixes = std::mem::take(&mut self.held);
        prefixes.extend(self.table.keys());
        for group in self.groups.iter_mut().flatten() {
            group.dirty.extend(&prefixes);
        }
        let up: Vec<_> = self.books.peers().filter(|(_, peer)| peer.output.is_some()).map(|(id, _)| id).collect();
        for id in up {
            let Some(peer) = self.books.peer_mut(id) else { continue };
            let families = peer.config.families();
            if let Some(output) = &mut peer.output {
                output.stages.push_back(Stage::EndOfRib(families));
            }
        }
    }

    /// Whether selection is deferred.
    pub fn is_deferred(&self) -> bool {
        self.deferred
    }

    /// Peers that are up, restart gracefully, have not themselves just restarted, and still owe an End-of-RIB.
    pub fn awaited(&self) -> Vec<PeerId> {
        self.books.peers().map(|(id, _)| id).filter(|id| self.is_awaited(*id)).collect()
    }

    /// Whether a peer is among those [`awaited`](Self::awaited).
    pub fn is_awaited(&self, id: PeerId) -> bool {
        let owes = |peer: &Peer| peer.output.is_some() && !peer.config.restarting && !peer.owes_end_of_rib.is_empty();
        self.books.peer(id).is_some_and(owes)
    }

    // --- what changed ---

    /// What changed for the kernel since last asked: each prefix once, as it is now.
    pub fn take_best_changes(&mut self) -> Vec<BestChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|prefix| BestChange { prefix, best: self.best(prefix) }).collect()
    }

    /// Peers for which there may be output.
    pub fn peers_with_output(&self) -> Vec<PeerId> {
        let waits = |peer: &Peer| {
            let output = peer.output.as_ref()?;
            let group = self.groups.get(output.group)?.as_ref()?;
            let behind = output.chunk < group.end() || !group.dirty.is_empty();
            (behind || output.aside.is_some() || !output.stages.is_empty()).then_some(())
        };
        self.books.peers().filter(|(_, peer)| waits(peer).is_some()).map(|(id, _)| id).collect()
    }

    /// The next octets for a peer: whole messages, about `limit` octets of them unless a piece that belongs together
    /// is longer. `None` if all is said.
    pub fn poll_output(&mut self, id: PeerId, limit: usize) -> Option<Bytes> {
        let number = self.books.peer(id)?.output.as_ref()?.group;
        let mut group = self.groups.get_mut(number)?.take()?;
        let octets = self.poll_group(&mut group, id, limit);
        if let Some(slot) = self.groups.get_mut(number) {
            *slot = Some(group);
        }
        octets
    }

    // --- the table ---

    fn insert_path(&mut self, prefix: Prefix, path: Path) {
        self.edit(prefix, |paths, books| {
            books.add(prefix, &path);
            let same = |other: &&mut Path| (other.peer, other.path_id) == (path.peer, path.path_id);
            match paths.iter_mut().find(same) {
                Some(slot) => {
                    let old = std::mem::replace(slot, path);
                    books.take(prefix, &old);
                }
                None => paths.push(path),
            }
            false
        });
    }

    fn remove_path(&mut self, peer: PeerId, nlri: Nlri) {
        let Some(entry) = self.table.get(&nlri.prefix) else { return };
        let is = |path: &Path| (path.peer, path.path_id) == (peer, nlri.path_id);
        let Some(at) = entry.paths.iter().position(is) else { return };
        self.edit(nlri.prefix, |paths, books| {
            let path = paths.swap_remove(at);
            books.take(nlri.prefix, &path);
            false
        });
    }

    /// Removes the paths of a peer and family that are `gone`.
    fn remove_paths(&mut self, id: PeerId, family: Family, gone: impl Fn(&Path) -> bool) {
        // There is no index by peer: a scan costs less than such an index would weigh, and ends with the last path.
        let Some(mut left) = self.books.counts(id, family).map(|counts| counts.received) else { return };
        let mut found = Vec::new();
        for (prefix, entry) in self.table.iter().filter(|(prefix, _)| prefix.family() == family) {
            if left == 0 {
                break;
            }
            for path in entry.paths.iter().filter(|path| path.peer == id) {
                left -= 1;
                if gone(path) {
                    found.push(Nlri { prefix: *prefix, path_id: path.path_id });
                }
            }
        }
        for nlri in found {
            self.remove_path(id, nlri);
        }
    }

    /// Changes all paths of a peer in place; `change` says whether prefixes must be decided anew.
    fn touch_paths_of(
        &mut self,
        id: PeerId,
        families: Families,
        mut change: impl FnMut(&mut Path, &mut PeerCounts) -> bool,
    ) {
        let mut changed = Vec::new();
        for family in families.iter() {
            let Some(counts) = self.books.counts(id, family) else { return };
            let mut left = counts.received;
            for (prefix, entry) in self.table.iter_mut().filter(|(prefix, _)| prefix.family() == family) {
                if left == 0 {
                    break;
                }
                for path in entry.paths.iter_mut().filter(|path| path.peer == id) {
                    left -= 1;
                    if change(path, counts) {
                        changed.push(*prefix);
                    }
                }
            }
        }
        for prefix in changed {
            self.edit(prefix, |_, _| true);
        }
    }

    /// Changes the paths of a prefix, decides, and marks what follows. `change` says whether more may have changed
    /// than the paths themselves show.
    fn edit(&mut self, prefix: Prefix, change: impl FnOnce(&mut Vec<Path>, &mut Books) -> bool) {
        let entry = self.table.entry(prefix).or_default();
        let best = entry.best().cloned();
        let next_hops = (entry.chosen > 1).then(|| entry.next_hops());
        let more = change(&mut entry.paths, &mut self.books);
        entry.decide(prefix, &self.books, &self.config);
        let same_best = match (&best, entry.best()) {
            (Some(before), Some(after)) => before.same(after),
            (None, None) => true,
            _ => false,
        };
        let several = next_hops.is_some() || entry.chosen > 1;
        let same_hops = !several || next_hops.is_some_and(|before| before == entry.next_hops());
        let own = [best.as_ref(), entry.best()].into_iter().flatten().any(|path| path.peer == LOCAL);
        if entry.paths.is_empty() {
            self.table.remove(&prefix);
        }
        if !(same_best && same_hops) {
            self.changed.insert(prefix);
        }
        if self.deferred && !own {
            self.held.insert(prefix);
            return;
        }
        for group in self.groups.iter_mut().flatten() {
            if !same_best || more || group.adds_paths(prefix.family()) {
                group.dirty.insert(prefix);
            }
        }
    }

    fn mark(&mut self, prefix: Prefix) {
        for group in self.groups.iter_mut().flatten() {
            group.dirty.insert(prefix);
        }
    }
}
