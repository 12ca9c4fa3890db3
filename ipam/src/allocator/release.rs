//! Releasing: first the blocks, concurrently, then the handle, once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_api::{IPAMBlock, IPAMHandle, IPAMHandleSpec, Key};
use calico_datastore::{COMMIT_LIMIT, Error, Revision, Write};
use futures::future::join_all;
use ipnet::IpNet;
use jiff::Timestamp;

use super::Allocator;
use crate::claim::{found, is_race};
use crate::handle_store::{Counts, adjust, counted};
use crate::plan::cooldown;
use crate::release::{Failure, Which, release_in_block};
use crate::{ReleaseAffinityError, ReleaseError, TRIES, block, handle, release_affinity};

/// What is released together with others.
#[derive(Clone, Debug)]
pub struct Release {
    /// The handle, all of whose addresses go.
    pub handle: String,
    /// Another handle of the same holder that is looked for, though it most probably does not exist.
    pub older: Option<String>,
    /// What is to be written with it.
    pub also: Vec<Write>,
}

/// Why several releases were not made together.
#[derive(Debug, thiserror::Error)]
pub enum Apart {
    /// One of them is not simple, or others wrote first: do them one by one.
    #[error("others wrote first, or what is to be released is not as it is known")]
    Needed,
    /// The store refused or did not answer.
    #[error("could not write blocks and handles")]
    Datastore(#[source] Error),
}

impl Allocator {
    /// Releases all addresses of several handles by writing each block once; in one transaction, with what goes with them,
    /// where the store can, elsewhere blocks first and without it. Returns the addresses of each.
    ///
    /// That succeeds if all addresses are in own blocks as they are known and nobody else writes to them meanwhile.
    ///
    /// # Errors
    /// [`Apart`]; then nothing is written, or it may be repeated.
    pub async fn release_together(&mut self, releases: &[Release], now: Timestamp) -> Result<Vec<Vec<IpAddr>>, Apart> {
        let atomic = self.store.backend().is_atomic();
        let reads = releases.iter().map(async |release| {
            let id = block::clean_handle(&release.handle);
            match self.cache.handles.get(id) {
                Some(known) => Ok(Some(known.clone())),
                None => found(self.store.get::<IPAMHandleSpec>(&Key::Handle(id.to_owned())).await),
            }
        });
        let stored: Vec<Option<IPAMHandle>> =
            join_all(reads).await.into_iter().collect::<Result<_, _>>().map_err(Apart::Datastore)?;
        let mut drafts: BTreeMap<IpNet, IPAMBlock> = BTreeMap::new();
        let (mut released, mut handles, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        for (release, stored) in releases.iter().zip(stored) {
            let id = block::clean_handle(&release.handle);
            let holds = |own: &&IPAMBlock, id: &str| block::addresses_of(&own.spec, id).next().is_some();
            let older = release.older.as_deref().map(block::clean_handle);
            if older.is_some_and(|older| self.cache.own.values().any(|own| holds(&own, older))) {
                return Err(Apart::Needed);
            }
            let counted = stored.as_ref().map(|stored| stored.spec.clone()).unwrap_or_else(|| handle::new(id));
            let mut blocks: BTreeMap<IpNet, u64> = handle::blocks(&counted).collect();
            for (cidr, _) in self.cache.own.iter().filter(|(_, own)| holds(own, id)) {
                blocks.entry(*cidr).or_default();
            }
            let mut addresses = Vec::new();
            for cidr in blocks.keys() {
                let draft = match drafts.get_mut(cidr) {
                    Some(draft) => draft,
                    None if self.cache.doubtful.contains(cidr) => return Err(Apart::Needed),
                    None => {
                        let own = self.cache.own.get(cidr).cloned().ok_or(Apart::Needed)?;
                        drafts.entry(*cidr).or_insert(own)
                    }
                };
                let found = block::release_handle(&mut draft.spec, id, now);
                if found.is_empty() {
                    return Err(Apart::Needed);
                }
                addresses.extend(found);
            }
            let changes: Counts =
                blocks.iter().map(|(cidr, count)| (*cidr, -i64::try_from(*count).unwrap_or(i64::MAX))).collect();
            if let Some(stored) = stored {
                handles.push((id, changes, stored));
            }
            writes.extend(release.also.iter().cloned().map(Ok));
            released.push(addresses);
        }
        for draft in drafts.values_mut() {
            block::collect_cold(&mut draft.spec, cooldown(&self.cache.config), now);
            block::advance(&mut draft.spec);
        }
        let outcome = if atomic {
            let counts = handles.iter().map(|(id, changes, stored)| counted(id, Some(stored.clone()), changes).1);
            let blocks = drafts.values().map(Write::update);
            let writes: Result<Vec<Write>, Error> = blocks.chain(counts).chain(writes).collect();
            match writes {
                Ok(writes) if writes.is_empty() => Ok(Vec::new()),
                Ok(writes) if writes.len() > COMMIT_LIMIT => return Err(Apart::Needed),
                Ok(writes) => self.store.backend().commit(writes).await,
                Err(error) => Err(error),
            }
        } else {
            let stored = join_all(drafts.values().map(|draft| self.store.update(draft))).await;
            stored.into_iter().map(|block| Ok(Revision(block?.metadata.resource_version.unwrap_or_default()))).collect()
        };
        handles.iter().for_each(|(id, ..)| drop(self.cache.handles.remove(*id)));
        let revisions = match outcome {
            Ok(revisions) => revisions,
            Err(error) => {
                self.cache.doubtful.extend(drafts.keys());
                return Err(if is_race(&error) { Apart::Needed } else { Apart::Datastore(error) });
            }
        };
        for (mut block, revision) in drafts.into_values().zip(revisions) {
            block.metadata.resource_version = Some(revision.0);
            self.cache.block(&self.owner, block, true);
        }
        if !atomic {
            let adjusts = handles.into_iter().map(async |(id, changes, stored)| {
                if let Err(error) = adjust(&self.store, id, &changes, Some(stored)).await {
                    // The addresses are free, and a handle that counts too much is harmless.
                    tracing::warn!(handle = id, ?error, "a handle could not be brought up to date after its release");
                }
            });
            join_all(adjusts).await;
        }
        Ok(released)
    }

    /// Releases all addresses of a handle, and returns them. A handle that holds nothing, or does not exist, is no error.
    ///
    /// Addresses that an own block has under this handle are found even where the handle does not count them. The caller
    /// knows that nobody is assigning under this handle meanwhile: what it counts in excess is dropped.
    ///
    /// # Errors
    /// A [`ReleaseError`] for the first block that failed; the others are released, and the handle counts what is left.
    pub async fn release_by_handle(&mut self, handle: &str, now: Timestamp) -> Result<Vec<IpAddr>, ReleaseError> {
        let id = block::clean_handle(handle);
        let failed = |action: String, error| ReleaseError::Datastore { action, source: Arc::new(error) };
        if !self.watched {
            self.load().await.map_err(|error| failed("read pools and blocks".to_owned(), error))?;
        }
        self.cache.handles.remove(id);
        let stored: Option<IPAMHandle> = match found(self.store.get(&Key::Handle(id.to_owned())).await) {
            Ok(stored) => stored,
            Err(Error::Corrupt(fault)) => {
                tracing::error!(
                    handle,
                    reason = fault.reason,
                    "a handle is corrupt; only own blocks are searched for it"
                );
                None
            }
            Err(error) => return Err(failed(format!("read handle {id}"), error)),
        };
        let counted = stored.as_ref().map(|stored| stored.spec.clone()).unwrap_or_else(|| handle::new(id));
        let mut blocks: BTreeMap<IpNet, u64> = handle::blocks(&counted).collect();
        for (cidr, own) in &self.cache.own {
            if block::addresses_of(&own.spec, id).next().is_some() {
                blocks.entry(*cidr).or_default();
            }
        }
        let releases = blocks.keys().map(|cidr| {
            let cached = self.cache.own.get(cidr).filter(|_| !self.cache.doubtful.contains(cidr)).cloned();
            release_in_block(&self.store, *cidr, cached, id, Which::All, cooldown(&self.cache.config), now)
        });
        let results = join_all(releases).await;
        let (mut released, mut changes, mut first) = (Vec::new(), Counts::new(), None);
        for ((cidr, count), (result, after)) in blocks.iter().zip(results) {
            self.cache.after(&self.owner, cidr, after);
            match result {
                Ok(addresses) => {
                    released.extend(addresses);
                    changes.insert(*cidr, -i64::try_from(*count).unwrap_or(i64::MAX));
                }
                Err(failure) => drop(first.get_or_insert(match failure {
                    Failure::Corrupt(fault) => ReleaseError::Corrupt { handle: id.to_owned(), block: *cidr, fault },
                    Failure::Contended => ReleaseError::Contended { what: format!("block {cidr}"), tries: TRIES },
                    Failure::Datastore(error) => failed(format!("write block {cidr}"), error),
                })),
            }
        }
        if stored.is_some()
            && let Err(error) = adjust(&self.store, id, &changes, stored).await
        {
            // The addresses are free, and a handle that counts too much is harmless.
            tracing::warn!(
                handle,
                ?error,
                "a handle could not be brought up to date after its addresses were released"
            );
        }
        match first {
            Some(error) => Err(error),
            None => Ok(released),
        }
    }

    /// Gives up an own block; see [`release_affinity`].
    ///
    /// # Errors
    /// A [`ReleaseAffinityError`].
    pub async fn release_block(&mut self, cidr: IpNet, require_empty: bool) -> Result<(), ReleaseAffinityError> {
        let result = release_affinity(&self.store, &self.owner, cidr, require_empty).await;
        match &result {
            Ok(()) | Err(ReleaseAffinityError::NotOwner { .. }) => {
                // Whether the block still exists, as nobody's, is for the watch to say; until then it counts as taken.
                self.cache.own.remove(&cidr);
                self.cache.doubtful.remove(&cidr);
                self.cache.affinities.remove(&cidr);
            }
            Err(_) if self.cache.own.contains_key(&cidr) => drop(self.cache.doubtful.insert(cidr)),
            Err(_) => {}
        }
        result
    }
}
