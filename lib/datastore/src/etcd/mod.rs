//! Calico's etcd v3 mode: the same keys, the same JSON, the same transactions, so that both may use one etcd.

mod codec;
mod connect;
mod discovery;
mod key;
mod record;
mod watch;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use calico_api::{Key, Kind};
use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use futures::StreamExt as _;
use futures::stream;
use serde_json::Value;

use self::connect::{PATIENCE, explain, is_compacted, refused, silent};
use self::key::Place;
use crate::{
    Backend, Changes, Entry, Error, EtcdConfig, Fault, Filter, Listing, Parts, Result, Revision, Write, value,
};

/// How many keys one request of a listing asks for.
const PAGE: i64 = 1000;

/// The largest answer that is accepted, in octets: a page of large values, or a burst of changes.
const MESSAGE_LIMIT: usize = 256 << 20;

/// How often a listing begins anew because etcd compacted while it was read.
const TRIES: usize = 3;

/// An etcd v3 cluster.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    name: Arc<str>,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.name).finish()
    }
}

/// Reads a key and its octets as every kind that they can be, each with what would be written for it: for those who throw
/// anything at the reader.
#[doc(hidden)]
pub fn read_anything(path: &str, octets: &[u8]) -> Vec<(Entry, Result<Vec<u8>>)> {
    let mut read = Vec::new();
    for kind in Kind::ALL {
        if let Place::Key(key) = key::parse(*kind, path)
            && let Ok(entry) = codec::decode(key, path, octets, revision(1))
        {
            let written = codec::encode(&entry.key, &entry.value);
            read.push((entry, written));
        }
    }
    read
}

fn revision(number: i64) -> Revision {
    Revision(number.to_string())
}

impl Etcd {
    /// Connects to a cluster and sees whether it answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] within some seconds, [`Error::Unauthorized`]; both name the members.
    pub async fn connect(config: &EtcdConfig) -> Result<Self> {
        let endpoints = match &config.discovery_srv {
            Some(domain) if config.endpoints.is_empty() => discovery::endpoints(domain)
                .await
                .map_err(|reason| Error::Unavailable { store: format!("etcd of the domain {domain}"), reason })?,
            _ => config.endpoints.clone(),
        };
        let name: Arc<str> = format!("etcd {}", endpoints.join(",")).into();
        let client = connect::client(config, &endpoints, &name).await?;
        let etcd = Self { client, name };
        let key = Key::named(Kind::ClusterInformation, "default");
        let path = etcd.path(&key)?;
        etcd.get_kv(path, Some(GetOptions::new().with_keys_only())).await?;
        Ok(etcd)
    }

    fn client(&self) -> &Client {
        &self.client
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, key: &Key) -> Result<String> {
        key::path(key).map_err(|reason| Error::Encode { key: key.clone(), reason: reason.to_owned() })
    }

    /// Awaits an answer, but not for ever.
    async fn answer<T>(&self, call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, Trouble> {
        match tokio::time::timeout(PATIENCE, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Trouble::Etcd(error)),
            Err(_) => Err(Trouble::Silent),
        }
    }

    fn explain(&self, trouble: &Trouble) -> Error {
        match trouble {
            Trouble::Etcd(error) => explain(&self.name, error),
            Trouble::Silent => silent(&self.name),
        }
    }

    async fn try_get(&self, path: String, options: Option<GetOptions>) -> Result<GetResponse, Trouble> {
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
        self.answer(async { client.get(path, options).await }).await
    }

    async fn get_kv(&self, path: String, options: Option<GetOptions>) -> Result<GetResponse> {
        self.try_get(path, options).await.map_err(|trouble| self.explain(&trouble))
    }

    async fn transact(&self, key: &Key, txn: Txn) -> Result<TxnResponse> {
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
        self.answer(async { client.txn(txn).await }).await.map_err(|trouble| match &trouble {
            Trouble::Etcd(error) => match (self.explain(&trouble), refused(error)) {
                (Error::Unavailable { .. }, Some(reason)) => Error::Rejected { key: key.clone(), reason },
                (error, _) => error,
            },
            Trouble::Silent => self.explain(&trouble),
        })
    }

    /// A page of a range, the revision of the whole, and whether more follow.
    async fn page(&self, place: &Progress) -> Result<(Vec<KeyValue>, i64, bool), Trouble> {
        // Revision 0 is the present one.
        let options = GetOptions::new().with_range(&*place.end).with_limit(PAGE).with_revision(place.at);
        let mut client = self.client.kv_client().max_decoding_message_size(MESSAGE_LIMIT);
        let mut page = self.answer(async { client.get(place.from.clone(), Some(options)).await }).await?;
        let at = match place.at {
            0 => page.header().map_or(0, etcd_client::ResponseHeader::revision),
            at => at,
        };
        let more = page.more();
        Ok((page.take_kvs(), at, more))
    }

    /// One listing of a range at one revision, page by page.
    async fn read_range(&self, mut place: Progress) -> Result<(Vec<KeyValue>, i64), Trouble> {
        let mut all = Vec::new();
        loop {
            let (mut page, at, more) = self.page(&place).await?;
            let next = page.last().filter(|_| more).map(|last| place.after(last, at));
            all.append(&mut page);
            match next {
                Some(next) => place = next,
                None => return Ok((all, at)),
            }
        }
    }

    /// Who a resource is stays, where an update does not say it.
    async fn keep_identity(&self, key: &Key, value: &mut Value) -> Result<()> {
        if value::knows_identity(key.kind(), value) {
            return Ok(());
        }
        match self.get(key).await {
            Ok(present) => value::keep_identity(value, &present.value),
            Err(Error::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Why a transaction that wanted `key` at a revision did nothing.
    fn missed(key: &Key, response: &TxnResponse) -> Error {
        let there = response
            .op_responses()
            .into_iter()
            .any(|op| matches!(op, TxnOpResponse::Get(got) if !got.kvs().is_empty()));
        if there { Error::Conflict(key.clone()) } else { Error::NotFound(key.clone()) }
    }
}

/// Why there is no answer.
enum Trouble {
    Etcd(etcd_client::Error),
    Silent,
}

/// The revision of a transaction that wrote.
fn written(response: &TxnResponse) -> Revision {
    revision(response.header().map_or(0, etcd_client::ResponseHeader::revision))
}

/// How far a listing has come.
struct Progress {
    from: Vec<u8>,
    end: String,
    /// The revision of the whole; 0 before the first page.
    at: i64,
}

impl Progress {
    fn first(kind: Kind, filter: &Filter) -> Self {
        let (first, end) = key::range(kind, filter);
        Self { from: first.into_bytes(), end, at: 0 }
    }

    /// Behind that key.
    fn after(&self, last: &KeyValue, at: i64) -> Self {
        let mut from = last.key().to_vec();
        from.push(0);
        Self { from, end: self.end.clone(), at }
    }
}

/// Stored pairs as a listing or a part of one.
fn listing(kind: Kind, filter: &Filter, kvs: &[KeyValue], at: i64) -> Listing {
    let mut listing = Listing { revision: revision(at), ..Listing::default() };
    for found in kvs.iter().filter_map(|kv| entry(kind, filter, kv)) {
        match found {
            Ok(entry) => listing.entries.push(entry),
            Err(fault) => listing.faults.push(fault),
        }
    }
    listing
}

/// A stored pair as an entry or a fault; `None` if it is something that does not concern us.
fn entry(kind: Kind, filter: &Filter, kv: &KeyValue) -> Option<std::result::Result<Entry, Fault>> {
    let path = String::from_utf8_lossy(kv.key());
    match key::parse(kind, &path) {
        Place::Key(key) => {
            filter.admits(&key).then(|| codec::decode(key, &path, kv.value(), revision(kv.mod_revision())))
        }
        Place::Strange => Some(Err(watch::strange(kind, &path))),
        Place::Other => None,
    }
}

#[async_trait]
impl Backend for Etcd {
    fn describe(&self) -> String {
        self.name.to_string()
    }

    async fn get(&self, key: &Key) -> Result<Entry> {
        let path = self.path(key)?;
        let response = self.get_kv(path.clone(), None).await?;
        let kv = response.kvs().first().ok_or_else(|| Error::NotFound(key.clone()))?;
        codec::decode(key.clone(), &path, kv.value(), revision(kv.mod_revision())).map_err(Error::Corrupt)
    }

    async fn list(&self, kind: Kind, filter: &Filter) -> Result<Listing> {
        filter.check(kind, "list")?;
        let mut tries = 0;
        let (kvs, at) = loop {
            match self.read_range(Progress::first(kind, filter)).await {
                Ok(all) => break all,
                Err(Trouble::Etcd(error)) if is_compacted(&error) && tries < TRIES => tries += 1,
                Err(trouble) => return Err(self.explain(&trouble)),
            }
        };
        Ok(listing(kind, filter, &kvs, at))
    }

    async fn parts(&self, kind: Kind, filter: &Filter) -> Result<Parts> {
        filter.check(kind, "list")?;
        let (etcd, wanted) = (self.clone(), filter.clone());
        let parts = stream::unfold(Some(Progress::first(kind, filter)), move |place| {
            let (etcd, wanted) = (etcd.clone(), wanted.clone());
            async move {
                let place = place?;
                let (page, at, more) = match etcd.page(&place).await {
                    Ok(page) => page,
                    Err(Trouble::Etcd(error)) if is_compacted(&error) => {
                        return Some((Err(Error::Compacted(place.at.to_string())), None));
                    }
                    Err(trouble) => return Some((Err(etcd.explain(&trouble)), None)),
                };
                let next = page.last().filter(|_| more).map(|last| place.after(last, at));
                Some((Ok(listing(kind, &wanted, &page, at)), next))
            }
        });
        Ok(parts.boxed())
    }

    async fn create(&self, key: &Key, mut value: Value) -> Result<Entry> {
        let path = self.path(key)?;
        value::strip(&mut value);
        value::check_write(key, &value)?;
        value::give_identity(key.kind(), &mut value);
        let stored = codec::encode(key, &value)?;
        let txn = Txn::new().when([Compare::version(path.clone(), CompareOp::Equal, 0)]).and_then([TxnOp::put(
            path.clone(),
            stored.clone(),
            None,
        )]);
        let response = self.transact(key, txn).await?;
        if !response.succeeded() {
            return Err(Error::AlreadyExists(key.clone()));
        }
        codec::decode(key.clone(), &path, &stored, written(&response)).map_err(Error::Corrupt)
    }

    async fn update(&self, key: &Key, mut value: Value, expected: &Revision) -> Result<Entry> {
        let path = self.path(key)?;
        value::strip(&mut value);
        value::check_write(key, &value)?;
        let expected: i64 = expected.0.parse().map_err(|_| Error::Conflict(key.clone()))?;
        self.keep_identity(key, &mut value).await?;
        let stored = codec::encode(key, &value)?;
        let txn = Txn::new()
            .when([Compare::mod_revision(path.clone(), CompareOp::Equal, expected)])
            .and_then([TxnOp::put(path.clone(), stored.clone(), None)])
            .or_else([TxnOp::get(path.clone(), Some(GetOptions::new().with_keys_only()))]);
        let response = self.transact(key, txn).await?;
        if !response.succeeded() {
            return Err(Self::missed(key, &response));
        }
        codec::decode(key.clone(), &path, &stored, written(&response)).map_err(Error::Corrupt)
    }

    async fn delete(&self, key: &Key, expected: Option<&Revision>) -> Result<Entry> {
        let path = self.path(key)?;
        let compare = match expected {
            Some(expected) => {
                let expected: i64 = expected.0.parse().map_err(|_| Error::Conflict(key.clone()))?;
                Compare::mod_revision(path.clone(), CompareOp::Equal, expected)
            }
            None => Compare::version(path.clone(), CompareOp::Greater, 0),
        };
        let txn = Txn::new()
            .when([compare])
            .and_then([TxnOp::delete(path.clone(), Some(DeleteOptions::new().with_prev_key()))])
            .or_else([TxnOp::get(path.clone(), Some(GetOptions::new().with_keys_only()))]);
        let response = self.transact(key, txn).await?;
        if !response.succeeded() {
            return Err(Self::missed(key, &response));
        }
        let deleted = response.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Delete(mut deleted) => deleted.take_prev_kvs().pop(),
            _ => None,
        });
        let kv = deleted.ok_or_else(|| Error::NotFound(key.clone()))?;
        let at = revision(kv.mod_revision());
        // What cannot be read can still be deleted.
        Ok(codec::decode(key.clone(), &path, kv.value(), at.clone()).unwrap_or_else(|_| Entry {
            key: key.clone(),
            value: Value::Null,
            revision: at,
        }))
    }

    fn is_atomic(&self) -> bool {
        true
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Revision>> {
        let Some(first) = writes.first().map(|write| write.key().clone()) else { return Ok(Vec::new()) };
        let (mut compares, mut operations, mut looks) = (Vec::new(), Vec::new(), Vec::new());
        let (mut expectations, mut revisions) = (Vec::new(), Vec::new());
        for write in writes {
            let path = self.path(write.key())?;
            let (key, value, expected) = match write {
                Write::Create { key, mut value } => {
                    value::strip(&mut value);
                    value::check_write(&key, &value)?;
                    value::give_identity(key.kind(), &mut value);
                    (key, Some(value), None)
                }
                Write::Update { key, mut value, revision } => {
                    value::strip(&mut value);
                    value::check_write(&key, &value)?;
                    self.keep_identity(&key, &mut value).await?;
                    (key, Some(value), Some(revision))
                }
                Write::Delete { key, revision } => (key, None, Some(revision)),
            };
            compares.push(match &expected {
                Some(expected) => {
                    let expected: i64 = expected.0.parse().map_err(|_| Error::Conflict(key.clone()))?;
                    Compare::mod_revision(path.clone(), CompareOp::Equal, expected)
                }
                None => Compare::version(path.clone(), CompareOp::Equal, 0),
            });
            operations.push(match &value {
                Some(value) => TxnOp::put(path.clone(), codec::encode(&key, value)?, None),
                None => TxnOp::delete(path.clone(), None),
            });
            looks.push(TxnOp::get(path, Some(GetOptions::new().with_keys_only())));
            revisions.push(expected.clone().filter(|_| value.is_none()));
            expectations.push((key, expected));
        }
        let response = self.transact(&first, Txn::new().when(compares).and_then(operations).or_else(looks)).await?;
        if response.succeeded() {
            let now = written(&response);
            return Ok(revisions.into_iter().map(|deleted| deleted.unwrap_or_else(|| now.clone())).collect());
        }
        let found = response.op_responses().into_iter().zip(expectations);
        let missed = found.filter_map(|(look, (key, expected))| {
            let TxnOpResponse::Get(got) = look else { return None };
            let at = got.kvs().first().map(|kv| revision(kv.mod_revision()));
            match (at, expected) {
                (Some(_), None) => Some(Error::AlreadyExists(key)),
                (None, Some(_)) => Some(Error::NotFound(key)),
                (Some(at), Some(expected)) if at != expected => Some(Error::Conflict(key)),
                _ => None,
            }
        });
        Err(missed.into_iter().next().unwrap_or(Error::Conflict(first)))
    }

    async fn watch(&self, kind: Kind, filter: &Filter, from: &Revision) -> Result<Changes> {
        filter.check(kind, "watch")?;
        watch::watch(self, kind, filter, from).await
    }
}
