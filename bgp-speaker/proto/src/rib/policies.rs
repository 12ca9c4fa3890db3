//! How policies are replaced while sessions stay: what was received is judged anew, and peers are told the difference.

use hashbrown::HashSet;

use super::books::Peer;
use super::table::Path;
use super::{PeerConfig, PeerId, Policy, Rib, import};
use crate::Prefix;

/// A set of prefixes, and all that lies in them.
#[derive(Debug)]
struct Area {
    prefixes: HashSet<Prefix>,
    /// Lengths that occur, whatever the family.
    lengths: Vec<u8>,
}

impl Area {
    fn new(prefixes: &[Prefix]) -> Self {
        let mut lengths: Vec<_> = prefixes.iter().map(Prefix::length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Self { prefixes: prefixes.iter().copied().collect(), lengths }
    }

    /// At most one look-up for each length, however many prefixes there are.
    fn contains(&self, prefix: &Prefix) -> bool {
        let shortened = self.lengths.iter().map_while(|length| prefix.shortened(*length));
        shortened.into_iter().any(|outer| self.prefixes.contains(&outer))
    }
}

impl Rib {
    /// Replaces a peer's policies: its paths are judged anew, and it is told the difference.
    pub fn set_policies(&mut self, id: PeerId, import: Option<Policy>, export: Option<Policy>) {
        let Some(peer) = self.books.peer_mut(id) else { return };
        let reimport = peer.config.import != import;
        peer.config.import = import;
        peer.config.export = export;
        if reimport {
            self.reimport(id);
        }
        self.regroup(id);
    }

    /// Replaces everything that is configured of a peer whose session stays: what it sends is judged anew, and it is
    /// told the difference. Families and coding must be those of its session.
    pub fn set_peer_config(&mut self, id: PeerId, config: PeerConfig) {
        let Some(peer) = self.books.peer_mut(id) else { return };
        let reclassed = peer.config.client != config.client;
        peer.config = PeerConfig { context: peer.config.context, address: peer.config.address, ..config };
        self.reimport(id);
        if reclassed {
            // Whom its paths are reflected to is another question now, though the paths are the same.
            let from = |(_, entry): &(_, &super::table::Entry)| entry.paths.iter().any(|path| path.peer == id);
            let theirs: Vec<Prefix> = self.table.iter().filter(from).map(|(prefix, _)| *prefix).collect();
            self.groups.iter_mut().flatten().for_each(|group| group.dirty.extend(&theirs));
        }
        self.regroup(id);
    }

    /// Replaces policies wherever they are in use: each peer's import and export policy that equals the left of a pair
    /// becomes the right one, all at once.
    ///
    /// The caller knows that the new policies differ from the old ones only for prefixes that equal, or lie in, one of
    /// `within`; `None` is everywhere. Only these are judged anew, from what was received: no peer is asked to tell
    /// anything again, and peers are told what changed for them. Peers whose policies become one share their updates from
    /// then on.
    pub fn exchange_policies(&mut self, exchanges: &[(Policy, Policy)], within: Option<&[Prefix]>) {
        let new = |policy: &Option<Policy>| {
            let policy = policy.as_ref()?;
            exchanges.iter().find(|(old, new)| old == policy && old != new).map(|(_, new)| new.clone())
        };
        let mut imports = HashSet::new();
        for (id, peer) in self.books.peers_mut() {
            if let Some(import) = new(&peer.config.import) {
                peer.config.import = Some(import);
                imports.insert(id);
            }
            if let Some(export) = new(&peer.config.export) {
                peer.config.export = Some(export);
            }
        }
        let mut exports = Vec::new();
        for (number, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            if let Some(policy) = new(&group.view.policy) {
                group.view.policy = Some(policy);
                exports.push(number);
            }
        }
        if imports.is_empty() && exports.is_empty() {
            return;
        }
        let affected = self.prefixes_within(within);
        for number in exports {
            if let Some(group) = self.groups.get_mut(number).and_then(Option::as_mut) {
                group.dirty.extend(&affected);
            }
        }
        if !imports.is_empty() {
            self.readmit(affected.into_iter(), |_, path| imports.contains(&path.peer));
        }
        self.merge_groups();
    }

    /// Changes the metrics of normal routes ([`RibConfig`](super::RibConfig)): everything is decided anew.
    pub fn set_normal_metrics(&mut self, v4: u32, v6: u32) {
        if (self.config.normal_metric_v4, self.config.normal_metric_v6) == (v4, v6) {
            return;
        }
        (self.config.normal_metric_v4, self.config.normal_metric_v6) = (v4, v6);
        for prefix in self.prefixes_within(None) {
            self.edit(prefix, |_, _| false);
        }
    }

    /// The prefixes of the table that equal or lie in one of `within`.
    fn prefixes_within(&self, within: Option<&[Prefix]>) -> Vec<Prefix> {
        let Some(within) = within else { return self.table.keys().copied().collect() };
        let present = |prefix: &&Prefix| self.table.contains_key(*prefix);
        if within.iter().all(Prefix::is_host) {
            return within.iter().filter(present).copied().collect();
        }
        let area = Area::new(within);
        self.table.keys().filter(|prefix| area.contains(prefix)).copied().collect()
    }

    /// Judges everything that a peer has sent anew.
    fn reimport(&mut self, id: PeerId) {
        let all: Vec<_> = self.table.keys().copied().collect();
        self.readmit(all.into_iter(), |_, path| path.peer == id);
    }

    /// Judges received paths of these prefixes anew, of those `which` says.
    pub(super) fn readmit(&mut self, prefixes: impl Iterator<Item = Prefix>, which: impl Fn(&Peer, &Path) -> bool) {
        let mut found = Vec::new();
        for prefix in prefixes {
            let Some(entry) = self.table.get(&prefix) else { continue };
            let wanted = |path: &&Path| self.books.peer(path.peer).is_some_and(|peer| which(peer, path));
            found.extend(entry.paths.iter().filter(wanted).map(|path| (prefix, path.clone())));
        }
        for (prefix, path) in found {
            let Some(peer) = self.books.peer(path.peer) else { continue };
            let judged = import::admit(&peer.config, self.config.router_id, path.as_received(), &mut self.interner);
            let interface = self.books.interface_to(judged.attributes.next_hop);
            let admission = judged.judge(path.peer, &peer.config, prefix, interface, &mut self.interner);
            let stale = path.stale;
            self.insert_path(prefix, Path { stale, ..Path::new(path.peer, path.path_id, admission) });
        }
    }

    /// Moves the members of groups whose views have become equal into the first of these.
    fn merge_groups(&mut self) {
        let mut moving = Vec::new();
        for (id, peer) in self.books.peers() {
            let Some(number) = peer.output.as_ref().map(|output| output.group) else { continue };
            let view = |number: usize| self.groups.get(number).and_then(Option::as_ref).map(|group| &group.view);
            if (0..number).any(|other| view(other).is_some() && view(other) == view(number)) {
                moving.push(id);
            }
        }
        for id in moving {
            self.rehome(id);
        }
    }
}
