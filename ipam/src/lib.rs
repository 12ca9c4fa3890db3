//! Addresses for workloads, in Calico's formats: blocks, affinities, handles, pools.
//!
//! The pure half is the arithmetic: what a block is and how it changes ([`block`]), what a handle counts
//! ([`handle`]), which pools a request may use ([`pool`]), which blocks a node tries ([`candidate`]), what to do next
//! ([`plan`]), how full everything is ([`mod@usage`]). The other half writes it by compare-and-swap: [`Allocator`] for a
//! node that serves its pods, [`claim`] and [`release_affinity`] for one block.
//!
//! `DESIGN.md` beside this crate says what is promised, in which order things are written, and what a crash leaves.

mod allocator;
pub mod block;
pub mod candidate;
mod claim;
mod error;
pub mod handle;
mod handle_store;
pub mod host_local;
pub mod network;
pub mod plan;
pub mod pool;
mod release;
mod release_exact;
pub mod reservation;
pub mod usage;

pub use allocator::{Allocator, Apart, AssignRequest, Assigned, Release, Settled, Tell};
pub use block::BlockFault;
pub use claim::{ClaimError, claim, release_affinity};
pub use error::{AssignError, ReleaseAffinityError, ReleaseError};
pub use network::Family;
pub use release_exact::{Assignment, delete_orphan_handle, release_assignments};
pub use reservation::Reservations;
pub use usage::{BlockUsage, Holder, PoolUsage, usage, who_has};

/// How often an object is read anew and written again, because others wrote it in between, before giving up.
const TRIES: u32 = 100;
