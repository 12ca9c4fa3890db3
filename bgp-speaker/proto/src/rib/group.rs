//! What peers with the same view are told: one Adj-RIB-Out and one log of encoded changes for all of them.
//!
//! A change of a best path only marks its prefix. Marks become messages when some member has nothing else to send, so
//! while sockets are behind, changes of one prefix collapse into the last. Each member reads the log at its own place; a new one
//! first reads a dump of the Adj-RIB-Out, which members that come together share.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::books::Books;
use super::export::View;
use super::log::{Batch, Chunk, Except, Reader, Sent};
use super::path_ids::PathIds;
use super::table::{Entry, LOCAL, Path};
use super::{Candidate, PeerId, Verdict};
use crate::{Attributes, Families, Family, Interner, Nlri, Prefix};

/// Peers with one view.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) view: View,
    pub(super) members: usize,
    /// Adj-RIB-Out, of families with one path for each prefix.
    single: HashMap<Prefix, Sent>,
    /// Adj-RIB-Out, of families with ADD-PATH.
    several: HashMap<Prefix, Vec<(u32, Sent)>>,
    /// Prefixes to look at before anything is sent.
    pub(super) dirty: HashSet<Prefix>,
    log: VecDeque<Chunk>,
    /// Number of the log's first chunk.
    first: u64,
    octets: usize,
    /// A dump and the number of the chunk that continues it.
    dump: Option<(u64, Arc<Chunk>)>,
}

/// What the Adj-RIB-Out is made of.
pub(super) struct Sources<'a> {
    pub(super) table: &'a HashMap<Prefix, Entry>,
    pub(super) books: &'a Books,
    pub(super) next_hops_resolved: &'a super::RibConfig,
    pub(super) path_ids: &'a mut PathIds,
    pub(super) interner: &'a mut Interner,
    pub(super) deferred: bool,
}

/// Attributes as rewritten for a view: for policy, and as sent without one.
type Rewritten = Option<(Attributes, Arc<Attributes>)>;

/// By the attributes in the table and the peer they are from.
type Memo = HashMap<(*const Attributes, PeerId, Family), Rewritten>;

impl Group {
    /// A group that has told nothing yet, and must look at every prefix.
    pub(super) fn new(view: View, prefixes: impl Iterator<Item = Prefix>) -> Self {
        Self {
            view,
            members: 0,
            single: HashMap::new(),
            several: HashMap::new(),
            dirty: prefixes.collect(),
            log: VecDeque::new(),
            first: 0,
            octets: 0,
            dump: None,
        }
    }

    /// Adds the path identifiers that the members were told.
    pub(super) fn path_ids(&self, into: &mut HashSet<u32>) {
        into.extend(self.several.values().flatten().map(|(id, _)| *id));
    }

    /// Whether every path of a prefix is told, not only the best.
    pub(super) fn adds_paths(&self, family: Family) -> bool {
        self.view.context.add_path_send.contains(family)
    }

    /// Number of the chunk that will be next in the log.
    pub(super) fn end(&self) -> u64 {
        self.first + self.log.len() as u64
    }

    pub(super) fn chunk(&self, number: u64) -> Option<&Chunk> {
        self.log.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// A member has read, or skips, these chunks.
    pub(super) fn release(&mut self, chunks: std::ops::Range<u64>) {
        for number in chunks {
            let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
            if let Some(chunk) = index.and_then(|index| self.log.get_mut(index)) {
                chunk.unread = chunk.unread.saturating_sub(1);
            }
        }
        while let Some(read) = self.log.front().filter(|chunk| chunk.unread == 0) {
            self.octets -= read.octets.len();
            self.log.pop_front();
            self.first += 1;
        }
        if self.dump.as_ref().is_some_and(|(from, dump)| *from < self.first || Arc::strong_count(dump) == 1) {
            self.dump = None;
        }
    }

    /// Octets that the log holds for members that have not read them.
    pub(super) fn holds(&self) -> usize {
        self.octets
    }

    /// Number of the oldest chunk that some member has not read.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Turns what is marked into messages at the end of the log.
    pub(super) fn flush(&mut self, sources: &mut Sources<'_>) {
        if self.dirty.is_empty() {
            return;
        }
        let mut memo = Memo::new();
        let mut batch = Batch::default();
        for prefix in std::mem::take(&mut self.dirty) {
            let entry = sources.table.get(&prefix);
            if self.adds_paths(prefix.family()) {
                self.refresh_several(prefix, entry, sources, &mut memo, &mut batch);
            } else {
                let best = entry.and_then(Entry::best).and_then(|path| self.export(prefix, path, sources, &mut memo));
                self.refresh_single(prefix, best, &mut batch);
            }
        }
        let mut chunk = batch.encode(&self.view.context);
        if !chunk.is_empty() && self.members > 0 {
            chunk.unread = self.members;
            self.octets += chunk.octets.len();
            self.log.push_back(chunk);
        }
    }

    fn refresh_single(&mut self, prefix: Prefix, now: Option<Sent>, batch: &mut Batch) {
        match now {
            None => {
                if self.single.remove(&prefix).is_some() {
                    batch.withdraw(prefix.into());
                }
            }
            Some(sent) => {
                let before = self.single.insert(prefix, sent.clone());
                if before.as_ref() != Some(&sent) {
                    batch.advertise(prefix.into(), &sent, before.as_ref());
                }
            }
        }
    }

    fn refresh_several(
        &mut self,
        prefix: Prefix,
        entry: Option<&Entry>,
        sources: &mut Sources<'_>,
        memo: &mut Memo,
        batch: &mut Batch,
    ) {
        let mut now = Vec::new();
        for path in entry.map(|entry| entry.paths.as_slice()).unwrap_or_default() {
            if path.usable(&sources.books.next_hops, sources.next_hops_resolved).is_none() {
                continue;
            }
            if now.len() >= self.view.paths_limit {
                break;
            }
            if let Some(sent) = self.export(prefix, path, sources, memo) {
                now.push((sources.path_ids.of(path.peer, path.path_id), sent));
            }
        }
        let before = self.several.remove(&prefix).unwrap_or_default();
        let find =
            |list: &[(u32, Sent)], id: u32| list.iter().find(|(other, _)| *other == id).map(|(_, sent)| sent.clone());
        for (id, _) in &before {
            if find(&now, *id).is_none() {
                batch.withdraw(Nlri { prefix, path_id: *id });
            }
        }
        for (id, sent) in &now {
            let old = find(&before, *id);
            if old.as_ref() != Some(sent) {
                batch.advertise(Nlri { prefix, path_id: *id }, sent, old.as_ref());
            }
        }
        if !now.is_empty() {
            self.several.insert(prefix, now);
        }
    }

    /// What of a path the members are told.
    fn export(&self, prefix: Prefix, path: &Path, sources: &mut Sources<'_>, memo: &mut Memo) -> Option<Sent> {
        if sources.deferred && path.peer != LOCAL {
            return None;
        }
        let from = sources.books.origination(path.peer);
        if from.is_none() && path.peer != LOCAL {
            return None;
        }
        let key = (Arc::as_ptr(&path.attributes), path.peer, prefix.family());
        let rewritten = memo.entry(key).or_insert_with(|| {
            let attributes = self.view.rewrite(prefix.family(), path, from)?;
            let sent = sources.interner.intern(self.view.strip(attributes.clone()));
            Some((attributes, sent))
        });
        let (attributes, sent) = rewritten.as_ref()?;
        let attributes = match &self.view.policy {
            None => Arc::clone(sent),
            Some(policy) => {
                let source = sources.books.source(prefix, path);
                let (peer_as, local_as) = (self.view.peer_as, self.view.local_as);
                let interface = sources.books.interface(prefix, path);
                match policy.judge(&Candidate { prefix, attributes, source, peer_as, local_as, interface }) {
                    Verdict::Accept | Verdict::AcceptExplicitly(None) => Arc::clone(sent),
                    Verdict::Replace(attributes) | Verdict::AcceptExplicitly(Some(attributes)) => {
                        sources.interner.intern(self.view.strip(*attributes))
                    }
                    Verdict::Reject => return None,
                }
            }
        };
        let except = Except { source: path.peer, next_hop: Some(attributes.next_hop) };
        Some(Sent { attributes, except })
    }

    /// Everything that the members were told, as one chunk, and the number of the chunk that continues it.
    ///
    /// A dump made for others is as good if the log has all that came after, and counts this reader, which joined at
    /// the chunk `joined`, among those that have not read it.
    pub(super) fn dump(&mut self, joined: u64) -> (u64, Arc<Chunk>) {
        if let Some((from, dump)) = self.dump.as_ref().filter(|(from, _)| *from >= self.first.max(joined)) {
            return (*from, Arc::clone(dump));
        }
        let mut batch = Batch::default();
        self.sent(Families::ALL).for_each(|(nlri, sent)| batch.advertise(nlri, sent, None));
        let dump = Arc::new(batch.encode(&self.view.context));
        self.dump = Some((self.end(), Arc::clone(&dump)));
        (self.end(), dump)
    }

    /// The present state of these prefixes: advertised or, if not, withdrawn.
    pub(super) fn restate(&self, prefixes: impl IntoIterator<Item = Nlri>, reader: Reader) -> Chunk {
        let mut batch = Batch::default();
        for nlri in prefixes {
            match self.get(nlri) {
                Some(sent) if sent.is_for(reader) => batch.advertise(nlri, sent, None),
                _ => batch.withdraw(nlri),
            }
        }
        batch.encode(&self.view.context)
    }

    /// What the members were told of this path.
    pub(super) fn get(&self, nlri: Nlri) -> Option<&Sent> {
        if self.adds_paths(nlri.prefix.family()) {
            let several = self.several.get(&nlri.prefix)?;
            several.iter().find(|(id, _)| *id == nlri.path_id).map(|(_, sent)| sent)
        } else {
            self.single.get(&nlri.prefix)
        }
    }

    /// The Adj-RIB-Out of these families.
    pub(super) fn sent(&self, families: Families) -> impl Iterator<Item = (Nlri, &Sent)> {
        let single = self.single.iter().map(|(prefix, sent)| (Nlri::from(*prefix), sent));
        let several = self.several.iter().flat_map(|(prefix, list)| {
            list.iter().map(|(path_id, sent)| (Nlri { prefix: *prefix, path_id: *path_id }, sent))
        });
        single.chain(several).filter(move |(nlri, _)| families.contains(nlri.prefix.family()))
    }
}
