//! Releasing addresses of one block: by compare-and-swap, whoever owns the block.

use std::net::IpAddr;

use calico_api::{IPAMBlock, IPAMBlockSpec, Key};
use calico_datastore::{Error, Store};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::claim::{fault_of, found, is_race};
use crate::{TRIES, block};

/// Which addresses of a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    /// Every one.
    All,
    /// These, as far as the handle still holds them.
    These(&'a [IpAddr]),
}

/// How the block is afterwards, as far as that is known.
#[derive(Debug)]
pub(crate) enum After {
    /// As this.
    Is(Box<IPAMBlock>),
    /// It does not exist.
    Gone,
    /// The store did not say.
    Unknown,
}

/// Why nothing was released.
#[derive(Debug)]
pub(crate) enum Failure {
    Corrupt(String),
    Contended,
    Datastore(Error),
}

/// Releases addresses of `handle` in a block, starting from `cached`, which may be outdated.
///
/// That there is none to release is only believed of a block just read.
pub(crate) async fn release_in_block(
    store: &Store,
    cidr: IpNet,
    cached: Option<IPAMBlock>,
    handle: &str,
    which: Which<'_>,
    cooldown: SignedDuration,
    now: Timestamp,
) -> (Result<Vec<IpAddr>, Failure>, After) {
    let mut known = cached;
    for _ in 0..TRIES {
        let fresh = known.is_none();
        let stored = match known.take() {
            Some(block) => block,
            None => match found(store.get::<IPAMBlockSpec>(&Key::Block(cidr)).await) {
                Ok(Some(block)) => block,
                Ok(None) => return (Ok(Vec::new()), After::Gone),
                Err(Error::Corrupt(fault)) => return (Err(Failure::Corrupt(fault.reason)), After::Unknown),
                Err(error) => return (Err(Failure::Datastore(error)), After::Unknown),
            },
        };
        if let Some(fault) = fault_of(&stored) {
            return (Err(Failure::Corrupt(fault)), After::Unknown);
        }
        let mut changed = stored.clone();
        let released = match which {
            Which::All => block::release_handle(&mut changed.spec, handle, now),
            Which::These(addresses) => {
                let release = |address: &&IpAddr| {
                    block::release_address(&mut changed.spec, **address, Some(handle), None, now) == Ok(true)
                };
                addresses.iter().filter(release).copied().collect()
            }
        };
        if released.is_empty() {
            if fresh {
                return (Ok(released), After::Is(Box::new(stored)));
            }
            continue;
        }
        block::collect_cold(&mut changed.spec, cooldown, now);
        let written = if changed.spec.affinity.is_none() && block::is_empty(&changed.spec) {
            store.delete(&changed).await.map(|()| After::Gone)
        } else {
            block::advance(&mut changed.spec);
            store.update(&changed).await.map(|block| After::Is(Box::new(block)))
        };
        match written {
            Ok(after) => return (Ok(released), after),
            Err(error) if is_race(&error) => {}
            Err(error) => return (Err(Failure::Datastore(error)), After::Unknown),
        }
    }
    (Err(Failure::Contended), After::Unknown)
}
