//! How messages encoded once reach many peers: chunks of octets, each peer reading at its own place.

use bytes::{Bytes, BytesMut};
use hashbrown::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::PeerId;
use super::table::LOCAL;
use crate::message::{self, Message};
use crate::{Attributes, Context, Nlri, update};

/// Prefixes in one part at most, so that a part stays a piece that a socket takes.
const PART: usize = 4096;

/// Messages in the order in which they are to be sent.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) octets: Bytes,
    parts: Vec<Part>,
    /// Members that have not read it to the end; only counted in a group's log.
    pub(super) unread: usize,
}

/// Messages that are for all peers but a few.
#[derive(Debug)]
struct Part {
    /// Where it ends in the chunk's octets.
    end: usize,
    /// Peers that must not get it: the one that the path is from, and the one that is its next hop.
    except: Except,
    /// What those get in its place: they knew another path before.
    instead: Bytes,
}

/// Who must not be told of a path: whoever told us, and whoever is its next hop.
///
/// The latter is an address, not a peer: a peer with that address may come up later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Except {
    pub(super) source: PeerId,
    pub(super) next_hop: Option<IpAddr>,
}

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    pub(super) id: PeerId,
    pub(super) address: IpAddr,
}

impl Except {
    /// Nobody.
    const NONE: Self = Self { source: LOCAL, next_hop: None };

    fn concerns(&self, reader: Reader) -> bool {
        self.source == reader.id || self.next_hop == Some(reader.address)
    }
}

/// An advertisement as it went out.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) attributes: Arc<Attributes>,
    pub(super) except: Except,
}

impl PartialEq for Sent {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.attributes, &other.attributes) && self.except == other.except
    }
}

impl Sent {
    /// Whether a peer gets it.
    pub(super) fn is_for(&self, reader: Reader) -> bool {
        !self.except.concerns(reader)
    }
}

impl Chunk {
    /// The next octets for `reader` from `part` on, which moves; `None` at the end.
    pub(super) fn read(&self, part: &mut usize, reader: Reader, limit: usize) -> Option<Bytes> {
        loop {
            let start = part.checked_sub(1).and_then(|last| self.parts.get(last)).map_or(0, |last| last.end);
            let first = self.parts.get(*part)?;
            *part += 1;
            if first.except.concerns(reader) {
                if !first.instead.is_empty() {
                    return Some(first.instead.clone());
                }
                continue;
            }
            let mut end = first.end;
            while let Some(next) = self.parts.get(*part) {
                if next.except.concerns(reader) || next.end - start > limit {
                    break;
                }
                end = next.end;
                *part += 1;
            }
            return Some(self.octets.slice(start..end));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Every prefix that it speaks of.
    pub(super) fn prefixes(&self, cx: &Context, into: &mut HashSet<Nlri>) {
        // What we send is what the other end receives.
        let cx = Context { add_path_receive: cx.add_path_send, ..*cx };
        let mut octets = self.octets.as_ref();
        while let Ok(Some(length)) = message::frame(octets, cx.maximum()) {
            let Some((message, rest)) = octets.split_at_checked(length) else { break };
            if let Ok((Message::Update(update), _)) = Message::decode(message, &cx) {
                into.extend(update.withdrawn);
                into.extend(update.advertised.into_iter().flat_map(|entry| entry.nlri));
            }
            octets = rest;
        }
    }
}

/// What is to be said, before it is encoded: gathered by attributes, so that a message carries as much as it can.
#[derive(Debug, Default)]
pub(super) struct Batch {
    withdrawn: Vec<Nlri>,
    advertised: Vec<Packed>,
    index: HashMap<(*const Attributes, Except), usize>,
    before: BytesMut,
    after: BytesMut,
}

#[derive(Debug)]
struct Packed {
    sent: Sent,
    nlri: Vec<Nlri>,
    /// Of these, what the peers excepted must forget.
    instead: Vec<Nlri>,
}

impl Batch {
    pub(super) fn withdraw(&mut self, nlri: Nlri) {
        self.withdrawn.push(nlri);
    }

    /// `replaces` is what was sent before, of which peers excepted now may know.
    pub(super) fn advertise(&mut self, nlri: Nlri, sent: &Sent, replaces: Option<&Sent>) {
        let key = (Arc::as_ptr(&sent.attributes), sent.except);
        let at = *self.index.entry(key).or_insert(self.advertised.len());
        if at == self.advertised.len() {
            self.advertised.push(Packed { sent: sent.clone(), nlri: Vec::new(), instead: Vec::new() });
        }
        let Some(packed) = self.advertised.get_mut(at) else { return };
        packed.nlri.push(nlri);
        // To those excepted before as well, the withdrawal says nothing new, and does no harm.
        if replaces.is_some_and(|old| old.except != sent.except) {
            packed.instead.push(nlri);
        }
    }

    /// A message before everything else.
    pub(super) fn begin(&mut self, message: &Message, cx: &Context) {
        message.encode(cx, &mut self.before).expect("only an UPDATE can be too long");
    }

    /// A message after everything else.
    pub(super) fn end(&mut self, message: &Message, cx: &Context) {
        message.encode(cx, &mut self.after).expect("only an UPDATE can be too long");
    }

    pub(super) fn encode(mut self, cx: &Context) -> Chunk {
        let mut octets = std::mem::take(&mut self.before);
        let mut parts = Vec::new();
        let mut close = |octets: &BytesMut, except: Except, instead: Bytes| {
            let end = octets.len();
            if parts.last().map_or(0, |last: &Part| last.end) < end {
                parts.push(Part { end, except, instead });
            }
        };
        close(&octets, Except::NONE, Bytes::new());
        for packed in &self.advertised {
            let mut probe = BytesMut::new();
            let first = packed.nlri.get(..1).unwrap_or_default();
            if update::encode_advertisement(&packed.sent.attributes, first, cx, &mut probe).is_err() {
                // What does not fit a message cannot be told; what was told before must not be believed any more.
                self.withdrawn.extend(&packed.nlri);
            }
        }
        for nlri in self.withdrawn.chunks(PART) {
            update::encode_withdrawals(nlri, cx, &mut octets);
            close(&octets, Except::NONE, Bytes::new());
        }
        for packed in &self.advertised {
            for nlri in packed.nlri.chunks(PART) {
                if update::encode_advertisement(&packed.sent.attributes, nlri, cx, &mut octets).is_err() {
                    break;
                }
                let mut instead = BytesMut::new();
                if !packed.instead.is_empty() {
                    let told: HashSet<&Nlri> = nlri.iter().collect();
                    let forget: Vec<_> = packed.instead.iter().filter(|nlri| told.contains(nlri)).copied().collect();
                    update::encode_withdrawals(&forget, cx, &mut instead);
                }
                close(&octets, packed.sent.except, instead.freeze());
            }
        }
        octets.extend_from_slice(&self.after);
        close(&octets, Except::NONE, Bytes::new());
        Chunk { octets: octets.freeze(), parts, unread: 0 }
    }
}
