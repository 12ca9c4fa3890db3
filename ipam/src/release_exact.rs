//! Releasing addresses that somebody has judged to be nobody's: each only if it is still the very assignment that was judged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_api::{IPAMBlockSpec, IPAMHandleSpec, Key};
use calico_datastore::{Error, Store};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::claim::{fault_of, found, is_race};
use crate::handle_store::{Counts, adjust};
use crate::{ReleaseError, TRIES, block};

/// One assignment of an address, as a block recorded it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Assignment {
    /// The block.
    pub block: IpNet,
    /// The address.
    pub address: IpAddr,
    /// The sequence number of the assignment; 0 if none was recorded.
    pub sequence_number: u64,
}

/// Releases assignments of one handle, and returns the addresses that were. What has been released or assigned anew since
/// it was judged is passed over. An address without a handle is released by its sequence number alone.
///
/// Blocks are written before the handle; of an ownerless block that is empty afterwards nothing is left.
///
/// # Errors
/// A [`ReleaseError`] for the first block that failed; the others are done, and the handle counts what is left.
pub async fn release_assignments(
    store: &Store,
    handle: Option<&str>,
    assignments: &[Assignment],
    cooldown: SignedDuration,
    now: Timestamp,
) -> Result<Vec<IpAddr>, ReleaseError> {
    let mut blocks: BTreeMap<IpNet, Vec<&Assignment>> = BTreeMap::new();
    for assignment in assignments {
        blocks.entry(assignment.block).or_default().push(assignment);
    }
    let (mut released, mut changes, mut first) = (Vec::new(), Counts::new(), None);
    for (cidr, wanted) in blocks {
        match release_in(store, cidr, handle, &wanted, cooldown, now).await {
            Ok(addresses) => {
                changes.insert(cidr, -i64::try_from(addresses.len()).unwrap_or(i64::MAX));
                released.extend(addresses);
            }
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    if let Some(handle) = handle.map(block::clean_handle)
        && let Err(error) = adjust(store, handle, &changes, None).await
    {
        // The addresses are free, and a handle that counts too much is harmless.
        tracing::warn!(handle, ?error, "a handle could not be brought up to date after its addresses were released");
    }
    first.map_or(Ok(released), Err)
}

async fn release_in(
    store: &Store,
    cidr: IpNet,
    handle: Option<&str>,
    wanted: &[&Assignment],
    cooldown: SignedDuration,
    now: Timestamp,
) -> Result<Vec<IpAddr>, ReleaseError> {
    let failed = |action: &str, error| ReleaseError::Datastore {
        action: format!("{action} block {cidr}"),
        source: Arc::new(error),
    };
    let corrupt = |fault| ReleaseError::Corrupt { handle: handle.unwrap_or("(none)").to_owned(), block: cidr, fault };
    for _ in 0..TRIES {
        let mut stored = match found(store.get::<IPAMBlockSpec>(&Key::Block(cidr)).await) {
            Ok(Some(block)) => block,
            Ok(None) => return Ok(Vec::new()),
            Err(Error::Corrupt(fault)) => return Err(corrupt(fault.reason)),
            Err(error) => return Err(failed("read", error)),
        };
        if let Some(fault) = fault_of(&stored) {
            return Err(corrupt(fault));
        }
        let mut released = Vec::new();
        for assignment in wanted {
            let held_by_handle = block::who_has(&stored.spec, assignment.address)
                .is_some_and(|(holder, _)| handle.is_some() || holder.handle_id.is_none());
            let (address, number) = (assignment.address, Some(assignment.sequence_number));
            match held_by_handle.then(|| block::release_address(&mut stored.spec, address, handle, number, now)) {
                Some(Ok(true)) => released.push(address),
                None | Some(Ok(false)) => {}
                Some(Err(fault)) => tracing::debug!(%fault, "not released: it is another assignment by now"),
            }
        }
        if released.is_empty() {
            return Ok(released);
        }
        block::collect_cold(&mut stored.spec, cooldown, now);
        let written = if stored.spec.affinity.is_none() && block::is_empty(&stored.spec) {
            store.delete(&stored).await
        } else {
            block::advance(&mut stored.spec);
            store.update(&stored).await.map(drop)
        };
        match written {
            Ok(()) => return Ok(released),
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(failed("write", error)),
        }
    }
    Err(ReleaseError::Contended { what: format!("block {cidr}"), tries: TRIES })
}

/// Deletes a handle that has no address, if it is still the version `revision`; whether it did.
///
/// The blocks that it counts are read for this: they are what decides. A handle that is about to get its address was
/// written a moment ago; the caller has made sure that this version is older than any request may take.
///
/// # Errors
/// The store's, and [`Error::Corrupt`] if one of the blocks cannot be read: then nothing is deleted.
pub async fn delete_orphan_handle(store: &Store, id: &str, revision: &str) -> Result<bool, Error> {
    let Some(stored) = found(store.get::<IPAMHandleSpec>(&Key::Handle(id.to_owned())).await)? else { return Ok(false) };
    if stored.metadata.resource_version.as_deref() != Some(revision) {
        return Ok(false);
    }
    for cidr in stored.spec.block.keys().filter_map(|text| text.parse::<IpNet>().ok()) {
        let key = Key::Block(cidr.trunc());
        let Some(held) = found(store.get::<IPAMBlockSpec>(&key).await)? else { continue };
        if let Some(reason) = fault_of(&held) {
            let fault = calico_datastore::Fault { kind: key.kind(), name: key.name(), key: Some(key), reason };
            return Err(Error::Corrupt(fault));
        }
        if block::addresses_of(&held.spec, id).next().is_some() {
            return Ok(false);
        }
    }
    match store.delete(&stored).await {
        Ok(()) => Ok(true),
        Err(error) if is_race(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
