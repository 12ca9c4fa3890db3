//! How peers come into groups, read what is for them, fall behind, and move when their view changes.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;

use super::PeerId;
use super::Rib;
use super::books::{Output, Peer, Stage};
use super::export::View;
use super::group::{Group, Sources};
use super::log::Batch;
use crate::{Families, Message, Nlri, RefreshKind};

impl Rib {
    pub(super) fn poll_group(&mut self, group: &mut Group, id: PeerId, limit: usize) -> Option<Bytes> {
        let reader = self.books.peer(id)?.reader(id);
        loop {
            let output = self.books.peer_mut(id)?.output.as_mut()?;
            if let Some((chunk, part)) = &mut output.aside {
                let octets = chunk.read(part, reader, limit);
                if octets.is_some() {
                    return octets;
                }
                output.aside = None;
                group.release(0..0); // a dump that nobody reads any more goes
            }
            let begins = matches!(output.stages.front(), Some(Stage::Initial));
            let chunk = if begins { None } else { group.chunk(output.chunk) };
            if let Some(chunk) = chunk {
                let octets = chunk.read(&mut output.part, reader, limit);
                if octets.is_some() {
                    return octets;
                }
                let read = output.chunk;
                (output.chunk, output.part) = (read + 1, 0);
                group.release(read..read + 1);
                continue;
            }
            if !group.dirty.is_empty() {
                self.flush(group);
                continue;
            }
            let context = group.view.context;
            let output = self.books.peer_mut(id)?.output.as_mut()?;
            let chunk = match output.stages.pop_front()? {
                Stage::Initial => {
                    let (from, dump) = group.dump(output.chunk);
                    group.release(output.chunk..from);
                    (output.chunk, output.part) = (from, 0);
                    dump
                }
                Stage::Refresh(family) => {
                    let mut batch = Batch::default();
                    if context.enhanced_refresh {
                        batch.begin(&Message::refresh(family, RefreshKind::Begin), &context);
                        batch.end(&Message::refresh(family, RefreshKind::End), &context);
                    }
                    group.sent(family.into()).for_each(|(nlri, sent)| batch.advertise(nlri, sent, None));
                    Arc::new(batch.encode(&context))
                }
                Stage::Restate(prefixes) => Arc::new(group.restate(prefixes, reader)),
                Stage::EndOfRib(families) => {
                    let mut batch = Batch::default();
                    families.iter().for_each(|family| batch.end(&Message::EndOfRib(family), &context));
                    Arc::new(batch.encode(&context))
                }
            };
            output.aside = Some((chunk, 0));
        }
    }

    /// Makes messages of what is marked, and lets go of members that are too far behind to be told the history.
    fn flush(&mut self, group: &mut Group) {
        if self.path_ids.is_due() {
            let mut told = HashSet::new();
            group.path_ids(&mut told);
            self.groups.iter().flatten().for_each(|group| group.path_ids(&mut told));
            self.path_ids.retain(&told);
        }
        group.flush(&mut Sources {
            table: &self.table,
            books: &self.books,
            next_hops_resolved: &self.config,
            path_ids: &mut self.path_ids,
            interner: &mut self.interner,
            deferred: self.deferred,
        });
        while group.holds() > self.config.log_limit && group.end() > group.first() + 1 {
            let (first, end) = (group.first(), group.end());
            let reads_first = |peer: &Peer| peer.output.as_ref().is_some_and(|output| output.chunk == first);
            let members = self.books.peers().filter(|(_, peer)| reads_first(peer));
            let behind: Vec<PeerId> = members.map(|(id, _)| id).collect();
            for id in behind {
                let Some(output) = self.books.peer_mut(id).and_then(|peer| peer.output.as_mut()) else { continue };
                if self.groups.get(output.group).is_some_and(Option::is_some) {
                    continue; // a member of another group, whose log has a chunk of this number as well
                }
                if !matches!(output.stages.front(), Some(Stage::Initial)) {
                    let missed = undelivered(group, output.chunk);
                    output.stages.push_front(Stage::Restate(missed));
                }
                (output.chunk, output.part) = (end, 0);
                group.release(first..end);
            }
            if group.first() == first {
                break; // nobody to let go of: the chunk is being counted by a member that is leaving
            }
        }
    }

    /// Adds a member to the group with this view, made if there is none. It has nothing to read before the log's end.
    pub(super) fn join(&mut self, view: View) -> Output {
        let is = |group: &Option<Group>| group.as_ref().is_some_and(|group| group.view == view);
        let found = self.groups.iter().position(is);
        let number = found.or_else(|| self.groups.iter().position(Option::is_none)).unwrap_or(self.groups.len());
        if found.is_none() {
            if number == self.groups.len() {
                self.groups.push(None);
            }
            if let Some(slot) = self.groups.get_mut(number) {
                *slot = Some(Group::new(view, self.table.keys().copied()));
            }
        }
        let group = self.groups.get_mut(number).and_then(Option::as_mut).expect("it was found or made above");
        group.members += 1;
        Output { group: number, chunk: group.end(), part: 0, aside: None, stages: Default::default() }
    }

    /// Takes a peer out of its group, which ends with its last member.
    pub(super) fn leave(&mut self, id: PeerId) -> Option<Output> {
        let output = self.books.peer_mut(id)?.output.take()?;
        if let Some(slot) = self.groups.get_mut(output.group) {
            if let Some(group) = slot {
                group.members -= 1;
                let end = group.end();
                group.release(output.chunk..end);
            }
            if slot.as_ref().is_some_and(|group| group.members == 0) {
                *slot = None;
            }
        }
        Some(output)
    }

    /// Moves a peer whose view has changed, and plans to tell it what is different.
    pub(super) fn regroup(&mut self, id: PeerId) {
        let Some(peer) = self.books.peer(id) else { return };
        let Some(output) = &peer.output else { return };
        let view = View::new(&peer.config, self.config.router_id);
        let old = self.groups.get(output.group).and_then(Option::as_ref);
        if old.is_some_and(|old| old.view != view) {
            self.rehome(id);
        }
    }

    /// Moves a peer to the first group with its view, and plans to tell it what is different.
    pub(super) fn rehome(&mut self, id: PeerId) {
        let Some(peer) = self.books.peer(id) else { return };
        let Some(output) = &peer.output else { return };
        let view = View::new(&peer.config, self.config.router_id);
        let Some(old) = self.groups.get(output.group).and_then(Option::as_ref) else { return };
        // It was told what its old group has told, but for what it has not read: look at that, and at what differs.
        let mut differing = undelivered(old, output.chunk);
        let mut moved = self.join(view);
        let number = moved.group;
        if let Some(mut group) = self.groups.get_mut(number).and_then(Option::take) {
            self.flush(&mut group);
            let unread = moved.chunk..group.end();
            moved.chunk = group.end();
            group.release(unread);
            let old = self.books.peer(id).and_then(|peer| peer.output.as_ref());
            if let Some(old) = old.and_then(|output| self.groups.get(output.group)?.as_ref()) {
                let gone = old.sent(Families::ALL).filter(|(nlri, sent)| group.get(*nlri) != Some(*sent));
                let new = group.sent(Families::ALL).filter(|(nlri, sent)| old.get(*nlri) != Some(*sent));
                differing.extend(gone.chain(new).map(|(nlri, _)| nlri));
            }
            if let Some(slot) = self.groups.get_mut(number) {
                *slot = Some(group);
            }
        }
        let Some(output) = self.leave(id) else { return };
        moved.stages = output.stages;
        moved.aside = output.aside; // what was begun is read to its end, then set right
        if !matches!(moved.stages.front(), Some(Stage::Initial)) {
            moved.stages.push_front(Stage::Restate(differing));
        }
        if let Some(peer) = self.books.peer_mut(id) {
            peer.output = Some(moved);
        }
    }
}

/// The prefixes of which a member reading at `chunk` has not been told.
fn undelivered(group: &Group, chunk: u64) -> HashSet<Nlri> {
    let mut prefixes = HashSet::new();
    for number in chunk..group.end() {
        if let Some(chunk) = group.chunk(number) {
            chunk.prefixes(&group.view.context, &mut prefixes);
        }
    }
    prefixes
}
