//! How a block becomes a node's, and how it is given up.
//!
//! Claim: affinity `pending`, then the block, then affinity `confirmed`. Release: affinity
//! `pendingDeletion`, then the block deleted or made ownerless, then the affinity deleted. A crash between any two
//! writes leaves an affinity that is not confirmed, from which [`claim`] goes on and [`release_affinity`] too.

use calico_api::{AffinityState, BlockAffinity, BlockAffinitySpec, IPAMBlock, IPAMBlockSpec, Key, ObjectMeta, Owner};
use calico_datastore::{Error, Store};
use ipnet::IpNet;
use jiff::Timestamp;

use crate::block::{self, BlockFault};
use crate::{ReleaseAffinityError, TRIES};

/// Why a block did not become the owner's.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It is another's, or nobody's but in use; our affinity to it, if there was one, is gone.
    #[error("block {0} is not this node's")]
    Taken(IpNet),
    /// It is in the store, but not sound.
    #[error("block {0} is corrupt: {1}; correct or delete it")]
    Corrupt(IpNet, String),
    /// Others wrote first, every time.
    #[error("others changed block {0} or its affinity first, {TRIES} times in a row; try again")]
    Contended(IpNet),
    /// The store refused or did not answer.
    #[error("could not claim block {0}")]
    Datastore(IpNet, #[source] Error),
}

/// Makes `cidr` the owner's block, or finishes a claim that was begun, and returns the block.
///
/// `begun` says that the owner has an affinity to it already, as far as the caller knows: then it is read first instead
/// of being created. The caller has made sure that no block of another size overlaps `cidr`.
///
/// # Errors
/// A [`ClaimError`]. Whatever was written by then is completed by the next claim or release.
pub async fn claim(
    store: &Store,
    owner: &Owner,
    cidr: IpNet,
    begun: bool,
    now: Timestamp,
) -> Result<IPAMBlock, ClaimError> {
    let failed = |error| ClaimError::Datastore(cidr, error);
    let mut read_first = begun;
    for _ in 0..TRIES {
        // The affinity, not yet confirmed unless it was before.
        let stored = if read_first { found(affinity(store, owner, cidr).await).map_err(failed)? } else { None };
        let mut claimed = match stored {
            Some(affinity) => affinity,
            None => match store.create(&new_affinity(owner, cidr)).await {
                Ok(affinity) => affinity,
                Err(error) if is_race(&error) => {
                    read_first = true;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            },
        };
        // The block. A confirmed affinity without a block starts again at pending.
        let existing = if read_first { read_block(store, cidr).await? } else { None };
        let confirmed_before = claimed.spec.state == AffinityState::Confirmed;
        let is_ours = |block: &IPAMBlock| block.spec.owner().as_ref() == Some(owner);
        if let Some(block) = existing.as_ref().filter(|block| confirmed_before && is_ours(block)) {
            return Ok(block.clone());
        }
        let begins_again = claimed.spec.state == AffinityState::PendingDeletion
            || (read_first && claimed.spec.state != AffinityState::Pending);
        if begins_again && existing.as_ref().is_none_or(is_ours) {
            claimed.spec.state = AffinityState::Pending;
            match store.update(&claimed).await {
                Ok(updated) => claimed = updated,
                Err(error) if is_race(&error) => continue,
                Err(error) => return Err(failed(error)),
            }
        }
        let written = match existing {
            None => {
                let spec = block::new(cidr, owner, now).map_err(|f| ClaimError::Corrupt(cidr, f.to_string()))?;
                let new = IPAMBlock::new(ObjectMeta::named(Key::Block(cidr).name()), spec);
                store.create(&new).await
            }
            // Written as it is, so that a release that has read it before does not go on.
            Some(mut block) if is_ours(&block) => {
                block::advance(&mut block.spec);
                store.update(&block).await
            }
            Some(_) => {
                match store.delete(&claimed).await {
                    Ok(()) => {}
                    Err(error) if is_race(&error) => {}
                    Err(error) => return Err(failed(error)),
                }
                return Err(ClaimError::Taken(cidr));
            }
        };
        let block = match written {
            Ok(block) => block,
            Err(error) if is_race(&error) => {
                read_first = true;
                continue;
            }
            Err(error) => return Err(failed(error)),
        };
        claimed.spec.state = AffinityState::Confirmed;
        match store.update(&claimed).await {
            Ok(_) => return Ok(block),
            // Perhaps by another claim for the same owner, perhaps by a release: the next round sees.
            Err(error) if is_race(&error) => read_first = true,
            Err(error) => return Err(failed(error)),
        }
    }
    Err(ClaimError::Contended(cidr))
}

/// Gives up a block: deletes it, or, if addresses are in use and `require_empty` is false, leaves it to nobody.
///
/// A missing affinity or block is no error; what is left of either is removed.
///
/// # Errors
/// A [`ReleaseAffinityError`]; after [`ReleaseAffinityError::NotEmpty`] nothing is changed.
pub async fn release_affinity(
    store: &Store,
    owner: &Owner,
    cidr: IpNet,
    require_empty: bool,
) -> Result<(), ReleaseAffinityError> {
    let failed = |source| ReleaseAffinityError::Datastore { block: cidr, source };
    for _ in 0..TRIES {
        let affinity = found(affinity(store, owner, cidr).await).map_err(failed)?;
        let block = match found(store.get::<IPAMBlockSpec>(&Key::Block(cidr)).await).map_err(failed)? {
            Some(block) => match block::check_usable(&block.spec) {
                Ok(()) => Some(block),
                Err(fault) => return Err(ReleaseAffinityError::Corrupt(cidr, fault)),
            },
            None => None,
        };
        let Some(mut affinity) = affinity else { return Ok(()) };
        let Some(mut block) = block else {
            // A crash between the last two writes of a release, or a claim that has only begun.
            if require_empty && affinity.spec.state == AffinityState::Pending {
                return Err(ReleaseAffinityError::BeingClaimed(cidr));
            }
            match store.delete(&affinity).await {
                Err(error) if is_race(&error) => continue,
                result => return result.map_err(failed),
            }
        };
        if block.spec.owner().as_ref() != Some(owner) {
            match store.delete(&affinity).await {
                Err(error) if is_race(&error) => continue,
                Err(error) => return Err(failed(error)),
                Ok(()) => {
                    let (expected, found) = (owner.to_string(), block.spec.affinity);
                    return Err(ReleaseAffinityError::NotOwner { block: cidr, expected, found });
                }
            }
        }
        let empty = block::is_empty(&block.spec);
        if require_empty && !empty {
            return Err(ReleaseAffinityError::NotEmpty(cidr));
        }
        if affinity.spec.state != AffinityState::PendingDeletion {
            affinity.spec.state = AffinityState::PendingDeletion;
            match store.update(&affinity).await {
                Ok(updated) => affinity = updated,
                Err(error) if is_race(&error) => continue,
                Err(error) => return Err(failed(error)),
            }
        }
        let written = if empty {
            store.delete(&block).await
        } else {
            block.spec.affinity = None;
            block.spec.affinity_claim_time = None;
            block::advance(&mut block.spec);
            store.update(&block).await.map(drop)
        };
        match written {
            Ok(()) => {}
            Err(error) if is_race(&error) => continue,
            Err(error) => return Err(failed(error)),
        }
        match store.delete(&affinity).await {
            Ok(()) => return Ok(()),
            Err(error) if is_race(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(ReleaseAffinityError::Contended { block: cidr, tries: TRIES })
}

/// Whether somebody else wrote first.
pub(crate) fn is_race(error: &Error) -> bool {
    matches!(error, Error::NotFound(_) | Error::AlreadyExists(_) | Error::Conflict(_))
}

/// A missing object is none.
pub(crate) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn new_affinity(owner: &Owner, cidr: IpNet) -> BlockAffinity {
    let spec = BlockAffinitySpec {
        state: AffinityState::Pending,
        node: owner.name().to_owned(),
        owner_type: Some(owner.type_str().to_owned()),
        cidr,
        deleted: false,
    };
    let name = Key::Affinity { owner: owner.clone(), cidr }.name();
    BlockAffinity::new(ObjectMeta::named(name), spec)
}

async fn affinity(store: &Store, owner: &Owner, cidr: IpNet) -> Result<BlockAffinity, Error> {
    store.get(&Key::Affinity { owner: owner.clone(), cidr }).await
}

async fn read_block(store: &Store, cidr: IpNet) -> Result<Option<IPAMBlock>, ClaimError> {
    match found(store.get::<IPAMBlockSpec>(&Key::Block(cidr)).await) {
        Ok(Some(block)) => match block::check_usable(&block.spec) {
            Ok(()) => Ok(Some(block)),
            Err(fault) => Err(ClaimError::Corrupt(cidr, fault.to_string())),
        },
        Ok(None) => Ok(None),
        Err(Error::Corrupt(fault)) => Err(ClaimError::Corrupt(cidr, fault.reason)),
        Err(error) => Err(ClaimError::Datastore(cidr, error)),
    }
}

/// The fault that makes a block unusable, as text; for blocks that came from a store.
pub(crate) fn fault_of(block: &IPAMBlock) -> Option<String> {
    block::check_usable(&block.spec).err().map(|fault: BlockFault| fault.to_string())
}
