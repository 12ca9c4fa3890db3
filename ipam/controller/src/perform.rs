//! Doing what a pass wants: after another look at the store, by compare-and-swap, one after the other.

use std::collections::BTreeSet;

use calico_api::{BlockAffinitySpec, IPAMBlockSpec, IPAMConfigurationSpec, Key, Owner, WorkloadEndpointSpec};
use calico_datastore::{Error, Store};
use ipam::block;
use ipam::{ReleaseAffinityError, delete_orphan_handle, release_affinity, release_assignments};
use ipnet::IpNet;
use jiff::Timestamp;
use tracing::{debug, info, warn};

use crate::live::{Look, Stores};
use crate::pass::{Action, Pass};

/// After how many handles the store is asked anew: what it said must not grow old while it is acted upon.
const FRESH: usize = 50;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Addresses that were released, by pool's block and node; for the metrics.
    pub reclaimed: Vec<(IpNet, Option<String>)>,
    /// Actions that changed something.
    pub effective: usize,
    /// Actions that were not done because the store said otherwise.
    pub refuted: usize,
    /// Actions that failed; the next pass wants them again.
    pub failed: usize,
}

/// How one action ended.
enum Outcome {
    Effective,
    Refuted,
    Failed,
}

/// Does what a pass wants. It may be dropped between any two writes, when leadership ends: nothing is half done that the
/// next leader would not find.
pub async fn perform(stores: &Stores, config: &IPAMConfigurationSpec, pass: &Pass) -> Done {
    let mut done = Done::default();
    let mut look = Look::new(stores);
    for (number, action) in pass.actions.iter().enumerate() {
        if number % FRESH == FRESH - 1 {
            look = Look::new(stores);
        }
        let outcome = match action {
            Action::Release { .. } => release(stores, config, &mut look, &pass.gone, action, &mut done).await,
            other => one(stores, config, &mut look, other).await,
        };
        match outcome {
            Outcome::Effective => done.effective += 1,
            Outcome::Refuted => done.refuted += 1,
            Outcome::Failed => done.failed += 1,
        }
    }
    done
}

async fn release(
    stores: &Stores,
    config: &IPAMConfigurationSpec,
    look: &mut Look<'_>,
    gone: &BTreeSet<String>,
    action: &Action,
    done: &mut Done,
) -> Outcome {
    let Action::Release { handle, leaks } = action else { return Outcome::Refuted };
    if !look.confirms(leaks, gone).await {
        debug!(handle, "seemed leaked, but the store says that it is in use");
        return Outcome::Refuted;
    }
    let assignments: Vec<_> = leaks.iter().map(|(leak, _)| leak.assignment.clone()).collect();
    let cooldown = ipam::plan::cooldown(config);
    match release_assignments(&stores.store, Some(handle), &assignments, cooldown, Timestamp::now()).await {
        Ok(released) => {
            for (leak, why) in leaks.iter().filter(|(leak, _)| released.contains(&leak.assignment.address)) {
                let (address, node) = (leak.assignment.address, leak.node.as_deref().unwrap_or_default());
                info!(%address, handle, node, reason = why.as_str(), "leaked address released");
                done.reclaimed.push((leak.assignment.block, leak.node.clone()));
            }
            if released.is_empty() { Outcome::Refuted } else { Outcome::Effective }
        }
        Err(error) => {
            warn!(handle, error = chain(&error), "leaked addresses not released; trying again");
            Outcome::Failed
        }
    }
}

async fn one(stores: &Stores, config: &IPAMConfigurationSpec, look: &mut Look<'_>, action: &Action) -> Outcome {
    let store = &stores.store;
    match action {
        Action::Release { .. } => Outcome::Refuted,
        Action::GiveUpBlock { owner, cidr, gone } => {
            if *gone && !look.is_node_gone(owner.name()).await {
                return Outcome::Refuted;
            }
            match release_affinity(store, owner, *cidr, true).await {
                Ok(()) => {
                    info!(block = %cidr, %owner, "empty block taken back");
                    Outcome::Effective
                }
                Err(ReleaseAffinityError::NotEmpty(_) | ReleaseAffinityError::BeingClaimed(_)) => Outcome::Refuted,
                Err(error @ ReleaseAffinityError::NotOwner { .. }) => {
                    info!(%error, "affinity removed");
                    Outcome::Effective
                }
                Err(error) => failed("empty block not taken back", &error),
            }
        }
        Action::DeleteBlock { cidr, owner } => {
            if let Some(owner) = owner
                && !matches!(affinity(store, owner, *cidr).await, Err(Error::NotFound(_)))
            {
                return Outcome::Refuted;
            }
            with_block(store, *cidr, |spec| (spec.owner() == *owner && block::is_empty(spec)).then_some(Change::Delete))
                .await
        }
        Action::DeleteAffinity { owner, cidr, revision } => delete_affinity(store, owner, *cidr, revision).await,
        Action::DeleteHandle { id, revision } => match delete_orphan_handle(store, id, revision).await {
            Ok(true) => {
                info!(handle = id, "handle without addresses deleted");
                Outcome::Effective
            }
            Ok(false) => Outcome::Refuted,
            Err(error) => failed("handle without addresses not deleted", &error),
        },
        Action::CollectCold { cidr } => {
            let cooldown = ipam::plan::cooldown(config);
            with_block(store, *cidr, |spec| {
                let freed = block::collect_cold(spec, cooldown, Timestamp::now());
                (freed > 0).then_some(Change::Write)
            })
            .await
        }
        Action::DeleteEndpoint { key, node, revision } => {
            if stores.mode != crate::Mode::Beside && !look.is_node_gone(node).await {
                return Outcome::Refuted;
            }
            match store.get::<WorkloadEndpointSpec>(key).await {
                Ok(found) if found.metadata.resource_version.as_deref() == Some(revision) => {
                    if stores.mode == crate::Mode::Beside && !look.is_pod_gone(&found, node).await {
                        return Outcome::Refuted;
                    }
                    wrote(store.delete(&found).await, "endpoint of what is gone deleted", key)
                }
                Ok(_) | Err(Error::NotFound(_)) => Outcome::Refuted,
                Err(error) => failed("endpoint of what is gone not deleted", &error),
            }
        }
        Action::DeleteNode { name, kube_name } => {
            if !stores.is_kube_node_gone(name, kube_name).await {
                return Outcome::Refuted;
            }
            let key = Key::named(calico_api::Kind::Node, name);
            wrote(store.delete_key(&key).await, "node deleted, since Kubernetes has it no more", &key)
        }
        Action::WriteNode(node) => {
            wrote(store.update(node.as_ref()).await.map(drop), "labels of Kubernetes' node copied", &node.key())
        }
    }
}

async fn affinity(store: &Store, owner: &Owner, cidr: IpNet) -> Result<calico_api::BlockAffinity, Error> {
    store.get::<BlockAffinitySpec>(&Key::Affinity { owner: owner.clone(), cidr }).await
}

/// Deletes an affinity if its block, as it is now, is not its owner's.
async fn delete_affinity(store: &Store, owner: &Owner, cidr: IpNet, revision: &str) -> Outcome {
    // The affinity first: whoever goes on with the claim after this writes to it or to the block.
    let found = match affinity(store, owner, cidr).await {
        Ok(found) if found.metadata.resource_version.as_deref() == Some(revision) => found,
        Ok(_) | Err(Error::NotFound(_)) => return Outcome::Refuted,
        Err(error) => return failed("affinity that leads nowhere not deleted", &error),
    };
    match store.get::<IPAMBlockSpec>(&Key::Block(cidr)).await {
        Ok(block) if block.spec.owner().as_ref() == Some(owner) => return Outcome::Refuted,
        Ok(_) | Err(Error::NotFound(_)) => {}
        Err(error) => return failed("affinity that leads nowhere not deleted", &error),
    }
    wrote(store.delete(&found).await, "affinity that leads nowhere deleted", &found.key())
}

/// What is to become of a block.
enum Change {
    Write,
    Delete,
}

/// Reads a block, and writes or deletes exactly what was read if `decide` says so.
async fn with_block(store: &Store, cidr: IpNet, decide: impl Fn(&mut IPAMBlockSpec) -> Option<Change>) -> Outcome {
    let mut found = match store.get::<IPAMBlockSpec>(&Key::Block(cidr)).await {
        Ok(found) => found,
        Err(Error::NotFound(_)) => return Outcome::Refuted,
        Err(error) => return failed("block not brought into order", &error),
    };
    if block::check_usable(&found.spec).is_err() {
        return Outcome::Refuted;
    }
    let key = found.key();
    match decide(&mut found.spec) {
        None => Outcome::Refuted,
        Some(Change::Delete) => wrote(store.delete(&found).await, "block of nobody deleted", &key),
        Some(Change::Write) if found.spec.affinity.is_none() && block::is_empty(&found.spec) => {
            wrote(store.delete(&found).await, "block of nobody deleted", &key)
        }
        Some(Change::Write) => {
            block::advance(&mut found.spec);
            wrote(store.update(&found).await.map(drop), "addresses that cooled down are free", &key)
        }
    }
}

/// How a write ended; somebody else's in between is as good a reason not to act as any.
fn wrote(result: Result<(), Error>, what: &'static str, key: &Key) -> Outcome {
    match result {
        Ok(()) => {
            info!(%key, what, "brought into order");
            Outcome::Effective
        }
        Err(Error::NotFound(_) | Error::Conflict(_) | Error::AlreadyExists(_)) => Outcome::Refuted,
        Err(error) => failed(what, &error),
    }
}

fn failed(what: &'static str, error: &dyn std::error::Error) -> Outcome {
    warn!(what, error = chain(error), "not done; trying again");
    Outcome::Failed
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
