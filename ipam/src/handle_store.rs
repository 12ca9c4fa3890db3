//! Counting in a stored handle: by compare-and-swap, exactly, and without a read where there is nothing to read yet.

use std::collections::BTreeMap;

use calico_api::{IPAMHandle, Key, ObjectMeta};
use calico_datastore::{Error, Store, Write};
use ipnet::IpNet;

use crate::{TRIES, handle};

/// Changes of counts: block to how many more (or, negative, fewer).
pub(crate) type Counts = BTreeMap<IpNet, i64>;

/// Why a handle could not be written.
#[derive(Debug)]
pub(crate) enum HandleError {
    /// Others wrote first, every time.
    Contended,
    /// The store refused or did not answer.
    Datastore(Error),
}

/// The handle with these changes, and the write that makes it so; `known` is the handle as it is stored, if it is.
pub(crate) fn counted(id: &str, known: Option<IPAMHandle>, changes: &Counts) -> (IPAMHandle, Result<Write, Error>) {
    let exists = known.is_some();
    let name = || Key::Handle(id.to_owned()).name();
    let mut handle = known.unwrap_or_else(|| IPAMHandle::new(ObjectMeta::named(name()), handle::new(id)));
    count(&mut handle, changes);
    let write = match (exists, handle::is_empty(&handle.spec)) {
        (true, true) => Write::delete(&handle),
        (true, false) => Write::update(&handle),
        (false, _) => Write::create(&handle),
    };
    (handle, write)
}

fn count(handle: &mut IPAMHandle, changes: &Counts) {
    for (block, change) in changes {
        match u64::try_from(*change) {
            Ok(more) => handle::add(&mut handle.spec, block, more),
            Err(_) => drop(handle::remove(&mut handle.spec, block, change.unsigned_abs())),
        }
    }
}

/// Applies changes to a handle: makes it when it is missing, deletes it when it counts nothing any more.
///
/// `known` is the handle as last read, if it was. Returns it as it is stored now, if it is.
pub(crate) async fn adjust(
    store: &Store,
    id: &str,
    changes: &Counts,
    mut known: Option<IPAMHandle>,
) -> Result<Option<IPAMHandle>, HandleError> {
    if changes.values().all(|change| *change == 0) {
        return Ok(known);
    }
    let key = Key::Handle(id.to_owned());
    // A handle nearly always is new when something is added to it.
    let mut probably_new = known.is_none() && changes.values().all(|change| *change >= 0);
    for _ in 0..TRIES {
        let stored = match known.take() {
            Some(handle) => Some(handle),
            None if probably_new => None,
            None => match store.get::<calico_api::IPAMHandleSpec>(&key).await {
                Ok(handle) => Some(handle),
                Err(Error::NotFound(_)) => None,
                Err(error) => return Err(HandleError::Datastore(error)),
            },
        };
        probably_new = false;
        let exists = stored.is_some();
        let mut handle = stored.unwrap_or_else(|| IPAMHandle::new(ObjectMeta::named(key.name()), handle::new(id)));
        count(&mut handle, changes);
        let result = match (exists, handle::is_empty(&handle.spec)) {
            (true, true) => store.delete(&handle).await.map(|()| None),
            (true, false) => store.update(&handle).await.map(Some),
            (false, true) => Ok(None),
            (false, false) => store.create(&handle).await.map(Some),
        };
        match result {
            Ok(stored) => return Ok(stored),
            Err(Error::AlreadyExists(_) | Error::Conflict(_) | Error::NotFound(_)) => {}
            Err(error) => return Err(HandleError::Datastore(error)),
        }
    }
    Err(HandleError::Contended)
}
