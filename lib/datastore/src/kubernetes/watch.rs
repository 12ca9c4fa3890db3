//! Lists and watches: of one collection of the API, or of two that make one kind.
//!
//! Two collections make one where profiles come from namespaces and service accounts, and where a node's affinities
//! are found by a label that old ones lack. Their revision is that of both, `12/34`.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use calico_api::{Kind, hostname_hash};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use serde_json::Value;

use super::client::{Event, Failure};
use super::codec::{self, HOSTNAME_HASH, Seen, revision_of};
use super::group::{ApiGroup, is_segment};
use super::metadata::legacy_name;
use super::{Kubernetes, core, node, pod, profile};
use crate::{Change, Changes, Error, Filter, Listing, Parts, Result, Revision};

/// Objects in one answer of a list.
const PAGE: usize = 500;
/// Between the revisions of two collections.
const BOTH: char = '/';

/// Objects of one path of the API.
#[derive(Clone, Debug)]
struct Collection {
    path: String,
    /// Selectors, as query parameters.
    query: String,
    translate: Translate,
}

/// How an object becomes a resource.
#[derive(Clone, Debug)]
enum Translate {
    Custom(ApiGroup, Kind),
    Node { use_pod_cidr: bool },
    Pod { interface_prefix: String },
    Namespace,
    ServiceAccount,
    Core(Kind),
}

impl Translate {
    fn apply(&self, object: Value) -> Seen {
        match self {
            Self::Custom(group, kind) => codec::decode(*group, *kind, object),
            Self::Node { use_pod_cidr } => node::decode(object, *use_pod_cidr),
            Self::Pod { interface_prefix } => pod::decode(object, interface_prefix),
            Self::Namespace => profile::of_namespace(&object),
            Self::ServiceAccount => profile::of_service_account(&object),
            Self::Core(kind) => core::decode(*kind, object),
        }
    }
}

/// Whether the store forgot the revision of a list between two pages.
fn is_expired(failure: &Failure, proceed: &str) -> bool {
    matches!(failure, Failure::Refused(status) if status.code == 410) && !proceed.is_empty()
}

/// Text as part of a query.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for octet in text.bytes() {
        match octet {
            octet if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => escaped.push(char::from(octet)),
            octet => escaped.push_str(&format!("%{octet:02X}")),
        }
    }
    escaped
}

impl Kubernetes {
    /// Where the resources of a kind are: one collection, or two.
    fn collections(&self, kind: Kind, filter: &Filter) -> (Collection, Option<Collection>) {
        let namespace = match filter {
            Filter::Namespace(namespace) | Filter::Named { namespace: Some(namespace), .. }
                if kind.namespaced() && is_segment(namespace) =>
            {
                Some(&**namespace)
            }
            _ => None,
        };
        let query = match filter {
            Filter::Named { name, .. } => self.name_query(kind, name),
            _ => String::new(),
        };
        let one = |path: String, query: String, translate| Collection { path, query, translate };
        match (kind, filter) {
            (Kind::Node, _) => {
                (one("/api/v1/nodes".to_owned(), query, Translate::Node { use_pod_cidr: self.use_pod_cidr }), None)
            }
            (Kind::WorkloadEndpoint, filter) => {
                let path =
                    namespace.map_or("/api/v1/pods".to_owned(), |name| format!("/api/v1/namespaces/{name}/pods"));
                let query = match filter {
                    Filter::Node(node) => format!("&fieldSelector={}", escape(&format!("spec.nodeName={node}"))),
                    _ => query,
                };
                (one(path, query, Translate::Pod { interface_prefix: self.interface_prefix.clone() }), None)
            }
            (Kind::Profile, Filter::Namespaces) => {
                (one("/api/v1/namespaces".to_owned(), String::new(), Translate::Namespace), None)
            }
            (Kind::Profile, _) => (
                one("/api/v1/namespaces".to_owned(), String::new(), Translate::Namespace),
                Some(one("/api/v1/serviceaccounts".to_owned(), String::new(), Translate::ServiceAccount)),
            ),
            (Kind::BlockAffinity, Filter::Node(node)) => {
                let labelled =
                    format!("&labelSelector={}", escape(&format!("{HOSTNAME_HASH}={}", hostname_hash(node))));
                let unlabelled = format!("&labelSelector={}", escape(&format!("!{HOSTNAME_HASH}")));
                let path = self.group.collection(kind, None);
                let translate = Translate::Custom(self.group, kind);
                (one(path.clone(), labelled, translate.clone()), Some(one(path, unlabelled, translate)))
            }
            (kind, _) if kind.is_core() => (one(core::collection(kind, namespace), query, Translate::Core(kind)), None),
            _ => (one(self.group.collection(kind, namespace), query, Translate::Custom(self.group, kind)), None),
        }
    }

    /// The selector of the one object that can be the resource of this name; none where there may be several.
    fn name_query(&self, kind: Kind, name: &str) -> String {
        let object = match kind {
            Kind::WorkloadEndpoint => pod::parse_name(name).map(|(_, pod)| pod),
            // Namespaces and service accounts; and an old policy may be stored under another name.
            Kind::Profile => None,
            kind if self.group == ApiGroup::Classic && legacy_name(kind, name).is_some() => None,
            _ => Some(name.to_owned()),
        };
        object.map_or_else(String::new, |name| format!("&fieldSelector={}", escape(&format!("metadata.name={name}"))))
    }

    pub(super) async fn list_any(&self, kind: Kind, filter: &Filter) -> Result<Listing> {
        let (first, second) = self.collections(kind, filter);
        let mut listing = Listing::default();
        if kind == Kind::Profile {
            listing.entries.extend(Some(profile::built_in()).filter(|entry| filter.admits(&entry.key)));
        }
        let revision = self.list_one(kind, filter, &first, &mut listing).await?;
        listing.revision = match second {
            None => revision,
            Some(second) => {
                let other = self.list_one(kind, filter, &second, &mut listing).await?;
                // An affinity that was labelled in between is in both lists: the later one tells how it is now.
                let entries = mem::take(&mut listing.entries);
                let mut seen = std::collections::HashSet::new();
                listing.entries = entries.into_iter().rev().filter(|entry| seen.insert(entry.key.clone())).collect();
                listing.entries.reverse();
                Revision(format!("{revision}{BOTH}{other}"))
            }
        };
        Ok(listing)
    }

    /// As [`Self::list_any`], page by page where a kind is one collection.
    pub(super) async fn parts_any(&self, kind: Kind, filter: &Filter) -> Result<Parts> {
        let ((from, None), false) = (self.collections(kind, filter), kind == Kind::Profile) else {
            let whole = self.list_any(kind, filter).await?;
            return Ok(stream::iter([Ok(whole)]).boxed());
        };
        let (server, filter) = (self.clone(), filter.clone());
        let parts = stream::unfold(Some(String::new()), move |proceed| {
            let (server, filter, from) = (server.clone(), filter.clone(), from.clone());
            async move {
                let proceed = proceed?;
                Some(match server.page(&filter, &from, &proceed).await {
                    Ok((part, next)) => (Ok(part), next),
                    Err(failure) if is_expired(&failure, &proceed) => (Err(Error::Compacted(proceed)), None),
                    Err(failure) => (Err(server.list_failure(kind, None, failure).await), None),
                })
            }
        });
        Ok(parts.boxed())
    }

    async fn list_one(&self, kind: Kind, filter: &Filter, from: &Collection, into: &mut Listing) -> Result<Revision> {
        let restart = into.clone();
        let mut proceed = String::new();
        let mut expired = false;
        loop {
            let (mut page, next) = match self.page(filter, from, &proceed).await {
                Ok(page) => page,
                Err(failure) if is_expired(&failure, &proceed) && !expired => {
                    // Once more from the start.
                    expired = true;
                    proceed.clear();
                    *into = restart.clone();
                    continue;
                }
                Err(failure) => return Err(self.list_failure(kind, None, failure).await),
            };
            into.entries.append(&mut page.entries);
            into.faults.append(&mut page.faults);
            match next {
                Some(next) => proceed = next,
                None => return Ok(page.revision),
            }
        }
    }

    /// A page of a collection, and what to ask for the next with, if there is one.
    async fn page(
        &self,
        filter: &Filter,
        from: &Collection,
        proceed: &str,
    ) -> Result<(Listing, Option<String>), Failure> {
        let path = match proceed {
            "" => format!("{}?limit={PAGE}{}", from.path, from.query),
            token => format!("{}?limit={PAGE}{}&continue={}", from.path, from.query, escape(token)),
        };
        let mut page = self.client.get(&path).await?;
        let mut listing = Listing { revision: revision_of(&page), ..Listing::default() };
        let next = codec::metadata_of(&page, "continue").to_owned();
        let items = page.get_mut("items").and_then(Value::as_array_mut).map(mem::take).unwrap_or_default();
        for item in items {
            match from.translate.apply(item) {
                Seen::Entry(entry) if filter.admits(&entry.key) => listing.entries.push(entry),
                Seen::Fault(fault) if fault.key.as_ref().is_none_or(|key| filter.admits(key)) => {
                    listing.faults.push(fault);
                }
                _ => {}
            }
        }
        Ok((listing, (!next.is_empty()).then_some(next)))
    }

    /// What a failed list or watch means. That a kind is not served may be because the cluster changed its API group.
    async fn list_failure(&self, kind: Kind, from: Option<&Revision>, failure: Failure) -> Error {
        if matches!(&failure, Failure::Refused(status) if status.code == 404) {
            if let Err(changed) = self.migration.check().await {
                return changed;
            }
            if self.migration.lacks(kind).await {
                return Error::NotServed { store: crate::Backend::describe(self), reason: self.not_served(kind) };
            }
        }
        self.failed_list(kind, from, failure)
    }

    pub(super) async fn watch_any(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        if !Self::is_watchable(kind) {
            let reason = "there are as many as pods; read the one you need".to_owned();
            return Err(Error::NotSupported { operation: "watch", kind, reason });
        }
        let (first, second) = self.collections(kind, filter);
        let Some(second) = second else {
            let changes = self.watch_one(kind, filter, first, from).await?;
            return Ok(changes);
        };
        let Some((revision, other)) = from.0.split_once(BOTH) else { return Err(Error::Compacted(from.0.clone())) };
        let (revision, other) = (Revision(revision.to_owned()), Revision(other.to_owned()));
        let first = self.watch_one(kind, filter, first, &revision).await?;
        let mut second = self.watch_one(kind, filter, second, &other).await?;
        if kind == Kind::BlockAffinity {
            second = self.verify_deletions(second);
        }
        Ok(Both { streams: [first, second], revisions: [revision.0, other.0], bookmark: None, ended: false }.boxed())
    }

    async fn watch_one(&self, kind: Kind, filter: &Filter, from: Collection, revision: &Revision) -> Result<Changes> {
        // Not all processes of a cluster shall come back in the same second.
        let seconds = 480 + std::process::id() % 120;
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}{}",
            from.path,
            escape(&revision.0),
            from.query
        );
        let events = match self.client.events(&path).await {
            Ok(events) => events,
            Err(failure) => return Err(self.list_failure(kind, Some(revision), failure).await),
        };
        let describe = crate::Backend::describe(self);
        let (filter, start) = (filter.clone(), revision.clone());
        let changes = events.flat_map(move |event| {
            let changes = match event {
                Ok(event) => changes_of(&from.translate, &filter, event).into_iter().map(Ok).collect(),
                Err(failure) => vec![Err(broken(&describe, &start, failure))],
            };
            stream::iter(changes)
        });
        let migration = self.migration.clone();
        let checked = changes.then(move |change| {
            let migration = migration.clone();
            async move {
                if let Ok(Change::Delete { key, .. }) = &change {
                    migration.check_deletion(key).await?;
                }
                change
            }
        });
        Ok(checked.boxed())
    }
}

impl Kubernetes {
    /// Looks up what a watch of unlabelled affinities says is gone: it may only have got its labels.
    fn verify_deletions(&self, changes: Changes) -> Changes {
        let (client, group, store) = (self.client.clone(), self.group, crate::Backend::describe(self));
        changes
            .then(move |change| {
                let (client, store) = (client.clone(), store.clone());
                async move {
                    let Ok(Change::Delete { key, revision }) = change else { return change };
                    let Some(path) = group.object(&key, &key.name()) else {
                        return Ok(Change::Delete { key, revision });
                    };
                    match client.get(&path).await {
                        Ok(object) => match codec::decode(group, key.kind(), object) {
                            Seen::Entry(entry) => Ok(Change::Put(entry)),
                            _ => Ok(Change::Delete { key, revision }),
                        },
                        Err(Failure::Refused(_)) => Ok(Change::Delete { key, revision }),
                        Err(failure) => Err(broken(&store, &revision, failure)),
                    }
                }
            })
            .boxed()
    }
}

/// Why a watch broke that had begun.
fn broken(store: &str, start: &Revision, failure: Failure) -> Error {
    match failure {
        Failure::Refused(status) if status.code == 410 => Error::Compacted(start.0.clone()),
        Failure::Refused(status) => Error::Unavailable {
            store: store.to_owned(),
            reason: format!("it ended a watch: {} ({})", status.message, status.code),
        },
        Failure::Unreachable(reason) => {
            Error::Unavailable { store: store.to_owned(), reason: format!("a watch was lost: {reason}") }
        }
    }
}

/// What an event of the API means.
fn changes_of(translate: &Translate, filter: &Filter, event: Event) -> Vec<Change> {
    let revision = revision_of(&event.object);
    let gone = event.kind == "DELETED";
    if event.kind == "BOOKMARK" {
        return vec![Change::Bookmark(revision)];
    }
    let change = match translate.apply(event.object) {
        Seen::Entry(entry) if !filter.admits(&entry.key) => Change::Bookmark(revision),
        Seen::Entry(entry) if gone => Change::Delete { key: entry.key, revision },
        Seen::Entry(entry) => Change::Put(entry),
        // It was reported as deleted when it became a tombstone.
        Seen::Tombstone(key) if !gone && filter.admits(&key) => Change::Delete { key, revision },
        Seen::Tombstone(_) | Seen::Nothing => Change::Bookmark(revision),
        Seen::Fault(fault) => match (&fault.key, gone) {
            (Some(key), _) if !filter.admits(key) => Change::Bookmark(revision),
            (Some(key), true) => Change::Delete { key: key.clone(), revision },
            (None, true) => Change::Bookmark(revision),
            (_, false) => return vec![Change::Fault(fault), Change::Bookmark(revision)],
        },
    };
    vec![change]
}

/// Two watches as one. After each change comes a bookmark with the revision of both, from which the two continue.
struct Both {
    streams: [BoxStream<'static, Result<Change>>; 2],
    revisions: [String; 2],
    bookmark: Option<Revision>,
    ended: bool,
}

impl Stream for Both {
    type Item = Result<Change>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(bookmark) = self.bookmark.take() {
            return Poll::Ready(Some(Ok(Change::Bookmark(bookmark))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let Self { streams, revisions, .. } = &mut *self;
        for (stream, revision) in streams.iter_mut().zip(revisions.iter_mut()) {
            match stream.poll_next_unpin(context) {
                Poll::Pending => {}
                Poll::Ready(Some(Ok(change))) => {
                    let at = match &change {
                        Change::Put(entry) => Some(entry.revision.clone()),
                        Change::Delete { revision, .. } | Change::Bookmark(revision) => Some(revision.clone()),
                        Change::Fault(_) => None,
                    };
                    if let Some(at) = at {
                        *revision = at.0;
                    }
                    let both = Revision(self.revisions.join(&BOTH.to_string()));
                    if matches!(change, Change::Bookmark(_)) {
                        return Poll::Ready(Some(Ok(Change::Bookmark(both))));
                    }
                    self.bookmark = Some(both);
                    return Poll::Ready(Some(Ok(change)));
                }
                // One without the other would be half a watch.
                Poll::Ready(end) => {
                    self.ended = true;
                    return Poll::Ready(end);
                }
            }
        }
        Poll::Pending
    }
}
