//! What every store must do, as checks that run on any: the same for SQLite, etcd and Kubernetes.
//!
//! A check looks only at what it made itself, so several may share a store; what a store cannot do by its
//! nature, its [`Subject`] says. [`conformance!`](crate::conformance!) makes a test of each.

mod crud;
mod faults;
pub mod samples;
mod watches;

use std::time::Duration;

use anyhow::Result;
use calico_api::{Key, Kind};
use calico_datastore::Store;

pub use self::crud::*;
pub use self::faults::*;
pub use self::samples::{NAMESPACE, Sample, affinity, cidr, sample};
pub use self::watches::*;

/// Within what a change must be seen; far more than any store needs, for the sake of machines with much to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A store to be checked, and the ways around it.
pub trait Subject: Send + Sync {
    /// The store.
    fn store(&self) -> &Store;

    /// Whether resources of the kind can be made and removed through this store. Those of Kubernetes' own cannot.
    fn makes(&self, kind: Kind) -> bool {
        let _ = kind;
        true
    }

    /// Whether the kind can be watched.
    fn watches(&self, kind: Kind) -> bool {
        let _ = kind;
        true
    }

    /// Makes the value of an existing block unreadable, behind the store's back but as a writer would.
    fn spoil(&self, block: &Key) -> impl Future<Output = Result<()>> + Send;

    /// Makes the store forget its history, so that no watch can continue from before.
    fn compact(&self) -> impl Future<Output = Result<()>> + Send;

    /// Takes the store away: stops its server, moves its file.
    fn take_away(&self) -> impl Future<Output = Result<()>> + Send;

    /// Gives it back with what it held, after [`Self::take_away`].
    fn give_back(&self) -> impl Future<Output = Result<()>> + Send;
}

/// Makes a test of each check. The argument is evaluated in each: an expression for a future of a [`Subject`].
///
/// ```ignore
/// integration::conformance!(EtcdSubject::start());
/// ```
#[macro_export]
macro_rules! conformance {
    ($subject:expr) => {
        $crate::conformance! { $subject =>
            every_kind_is_created_read_listed_updated_and_deleted
            what_exists_is_not_created_again
            a_commit_makes_its_writes_and_names_the_one_that_fails
            what_is_absent_is_neither_read_updated_nor_deleted
            of_several_writers_of_one_revision_one_wins
            a_delete_of_an_old_revision_deletes_nothing
            a_status_is_written_beside_the_spec
            typed_resources_come_back_as_they_were
            lists_are_filtered_by_node_and_by_namespace
            a_list_of_one_name_has_no_other
            an_initialized_store_stays_as_it_is
            a_watch_shows_creation_update_and_deletion_in_order
            a_watch_continues_from_the_revision_of_any_change
            a_watch_is_filtered_as_a_list_is
            a_watch_of_one_name_sees_no_other
            a_watcher_is_in_sync_once_and_then_sees_changes
            a_watch_from_before_a_compaction_is_refused
            a_watcher_whose_store_was_away_sees_only_what_changed
            an_unreadable_value_is_reported_and_its_neighbours_work
            a_watcher_keeps_what_became_unreadable
        }
    };
    ($subject:expr => $($check:ident)*) => {
        $(
            #[tokio::test]
            async fn $check() {
                let subject = $subject.await;
                $crate::conformance::$check(&subject).await;
            }
        )*
    };
}
