//! Under which path identifiers paths are told (RFC 7911 §3): one for each source, the same towards all peers.

use hashbrown::{HashMap, HashSet};

use super::PeerId;

/// The identifiers given out. A source keeps its own for as long as anybody is told of it.
#[derive(Debug, Default)]
pub(super) struct PathIds {
    by_source: HashMap<(PeerId, u32), u32>,
    last: u32,
    sweep_at: usize,
}

impl PathIds {
    /// The identifier of a peer's path, which the peer told under `path_id`; never zero.
    pub(super) fn of(&mut self, peer: PeerId, path_id: u32) -> u32 {
        if let Some(id) = self.by_source.get(&(peer, path_id)) {
            return *id;
        }
        // Numbers are not given out again before all of four billion were.
        let mut next = self.last.checked_add(1).unwrap_or(1);
        if next <= self.last {
            let taken: HashSet<u32> = self.by_source.values().copied().collect();
            next = (1..).find(|id| !taken.contains(id)).unwrap_or(1);
        }
        self.last = next;
        self.by_source.insert((peer, path_id), next);
        next
    }

    /// The identifier given out, if one was.
    #[cfg(test)]
    pub(super) fn get(&self, peer: PeerId, path_id: u32) -> Option<u32> {
        self.by_source.get(&(peer, path_id)).copied()
    }

    /// Whether so many are kept that it is time to [`retain`](Self::retain): a peer may use ever new identifiers.
    pub(super) fn is_due(&self) -> bool {
        self.by_source.len() >= self.sweep_at.max(1024)
    }

    /// Forgets those that nobody is told of.
    pub(super) fn retain(&mut self, told: &HashSet<u32>) {
        self.by_source.retain(|_, id| told.contains(id));
        self.sweep_at = self.by_source.len() * 2;
    }

    /// Forgets those of a peer.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.by_source.retain(|(other, _), _| *other != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_keeps_its_number_and_no_other_gets_it_while_it_does() {
        let mut ids = PathIds::default();
        let first = [1, 2, 3].map(|peer| ids.of(PeerId(peer), 0));
        assert_eq!(first, [1, 2, 3]);
        ids.forget(PeerId(1));
        assert_eq!([2, 3].map(|peer| ids.of(PeerId(peer), 0)), [2, 3]);
        assert_eq!(ids.of(PeerId(4), 7), 4, "not one that is in use");
        ids.last = u32::MAX;
        assert_eq!(ids.of(PeerId(5), 0), 1, "beyond the last, what is free");
        assert_eq!(ids.get(PeerId(5), 0), Some(1));
    }
}
