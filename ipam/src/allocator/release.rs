//! Releasing: first the blocks, concurrently, then the handle, once.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_api::{IPAMHandle, Key};
use calico_datastore::Error;
use futures::future::join_all;
use ipnet::IpNet;
use jiff::Timestamp;

use super::Allocator;
use crate::claim::found;
use crate::handle_store::{Counts, adjust};
use crate::plan::cooldown;
use crate::release::{Failure, Which, release_in_block};
use crate::{ReleaseAffinityError, ReleaseError, TRIES, block, handle, release_affinity};

impl Allocator {
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
