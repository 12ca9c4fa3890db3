//! A watch of one range, as changes.

use std::collections::VecDeque;

use calico_api::Kind;
use etcd_client::{Event, EventType, WatchOptions, WatchStream};
use futures::StreamExt;

use super::connect::{PATIENCE, explain, is_compacted, silent};
use super::key::{self, Place};
use super::{Etcd, MESSAGE_LIMIT, codec, revision};
use crate::{Change, Changes, Error, Fault, Filter, Result, Revision};

struct Watch {
    etcd: Etcd,
    kind: Kind,
    filter: Filter,
    from: Revision,
    stream: WatchStream,
    ready: VecDeque<Change>,
    ended: bool,
}

/// The changes after `from`.
pub(super) async fn watch(etcd: &Etcd, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
    let compacted = || Error::Compacted(from.0.clone());
    let at: i64 = from.0.parse().map_err(|_| compacted())?;
    let (first, end) = key::range(kind, filter);
    let options = WatchOptions::new()
        .with_range(end)
        .with_start_revision(at.checked_add(1).ok_or_else(compacted)?)
        .with_progress_notify();
    let open = async {
        let mut client = etcd.client().watch_client().max_decoding_message_size(MESSAGE_LIMIT);
        let mut stream = client.watch(first, Some(options)).await?;
        let created = stream.message().await?;
        Ok::<_, etcd_client::Error>((stream, created))
    };
    let (stream, created) = match tokio::time::timeout(PATIENCE, open).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) if is_compacted(&error) => return Err(compacted()),
        Ok(Err(error)) => return Err(explain(etcd.name(), &error)),
        Err(_) => return Err(silent(etcd.name())),
    };
    let created = created.ok_or_else(|| ended(etcd))?;
    // A cluster that was made anew counts from the beginning, and would be silent until it gets to `from`.
    if created.compact_revision() > 0 || created.header().is_some_and(|header| header.revision() < at) {
        return Err(compacted());
    }
    if created.canceled() {
        return Err(Error::Unavailable { store: etcd.name().to_owned(), reason: created.cancel_reason().to_owned() });
    }
    let watch = Watch {
        etcd: etcd.clone(),
        kind,
        filter: filter.clone(),
        from: from.clone(),
        stream,
        ready: VecDeque::new(),
        ended: false,
    };
    Ok(futures::stream::unfold(watch, |mut watch| async {
        let change = watch.next().await?;
        Some((change, watch))
    })
    .boxed())
}

fn ended(etcd: &Etcd) -> Error {
    Error::Unavailable { store: etcd.name().to_owned(), reason: "it ended the watch".to_owned() }
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Change>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.read().await {
                self.ended = true;
                return Some(Err(error));
            }
        }
    }

    /// Reads one message.
    async fn read(&mut self) -> Result<()> {
        let message = match self.stream.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(ended(&self.etcd)),
            Err(error) if is_compacted(&error) => return Err(Error::Compacted(self.from.0.clone())),
            Err(error) => return Err(explain(self.etcd.name(), &error)),
        };
        if message.compact_revision() > 0 {
            return Err(Error::Compacted(self.from.0.clone()));
        }
        if message.canceled() {
            let reason = message.cancel_reason().to_owned();
            return Err(Error::Unavailable { store: self.etcd.name().to_owned(), reason });
        }
        let changes: Vec<_> = message.events().iter().filter_map(|event| self.change(event)).collect();
        self.ready.extend(changes);
        // The header is ahead of the events while a watch catches up; only an empty message says that all came.
        let upto = match message.events().last().and_then(Event::kv) {
            Some(last) => Some(last.mod_revision()),
            None => message.header().map(etcd_client::ResponseHeader::revision),
        };
        if let Some(upto) = upto.filter(|_| self.ready.is_empty()) {
            self.ready.push_back(Change::Bookmark(revision(upto)));
        }
        Ok(())
    }

    fn change(&self, event: &Event) -> Option<Change> {
        let kv = event.kv()?;
        let revision = revision(kv.mod_revision());
        let path = String::from_utf8_lossy(kv.key());
        let deleted = event.event_type() == EventType::Delete;
        match key::parse(self.kind, &path) {
            Place::Key(key) if !self.filter.admits(&key) => None,
            Place::Key(key) if deleted => Some(Change::Delete { key, revision }),
            Place::Key(key) => Some(match codec::decode(key, &path, kv.value(), revision) {
                Ok(entry) => Change::Put(entry),
                Err(fault) => Change::Fault(fault),
            }),
            Place::Strange if !deleted => Some(Change::Fault(strange(self.kind, &path))),
            Place::Strange | Place::Other => None,
        }
    }
}

/// Something that has no business where it is.
pub(super) fn strange(kind: Kind, path: &str) -> Fault {
    Fault { kind, key: None, name: path.to_owned(), reason: format!("its key is not that of a {kind}") }
}
