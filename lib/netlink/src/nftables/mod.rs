//! Packet rules: nf_tables over netlink.
//!
//! [`Socket`] reads a table and makes a [`Batch`] of changes in one step, [`Monitor`] tells what others changed. What we
//! write is encoded, what we read is decoded here, attribute by attribute and only those that are used. Rules are
//! written and never read back: they are known by their comment.

mod batch;
mod expression;
mod monitor;
mod object;
mod read;
mod socket;
mod wire;

pub use batch::Batch;
pub use expression::{Comparison, Expression, Fib, FibResult, Header, Meta, Ports, Register, Track, Verdict};
pub use monitor::{Event, Monitor};
pub use object::{Base, ChainKind, Element, Hook, KeyType, Rule, Set, Shape, Table};
#[doc(hidden)]
pub use read::read_anything;
pub use read::{Chain, Contents, RuleEntry, SetContents};
pub use socket::{Commit, Socket};

use wire::{SUBSYSTEM, TABLE as TABLE_NAME};

use crate::error::Result;

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// `ip`.
    Ip,
    /// `ip6`.
    Ip6,
}

impl Family {
    /// As `nft` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// `NFPROTO_…`.
    const fn number(self) -> u8 {
        match self {
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// What a kernel says that has no nftables, or not of this family.
const fn is_unknown(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EINVAL))
}

/// Whether there is a table of this name in the thread's network namespace; a kernel without nftables has none.
///
/// # Errors
/// The kernel's.
pub fn has_table(family: Family, name: &str) -> Result<bool> {
    let table = Table::new(family, name);
    let exists = Socket::open().and_then(|mut socket| socket.exists(&table));
    match exists {
        Err(error) if is_unknown(error.errno()) => Ok(false),
        other => other,
    }
}

/// Deletes a table with everything in it; says whether it was there.
///
/// # Errors
/// The kernel's.
pub fn delete_table(family: Family, name: &str) -> Result<bool> {
    if !has_table(family, name)? {
        return Ok(false);
    }
    let mut batch = Batch::new();
    batch.delete_table(&Table::new(family, name));
    match Socket::open()?.commit(batch, None) {
        // Somebody was faster.
        Err(error) if error.is_not_found() => Ok(false),
        other => other.map(|_| true),
    }
}

/// `struct nfgenmsg`: family, version, and a number that only batches use.
const fn header(family: Family) -> [u8; 4] {
    [family.number(), 0, 0, 0]
}

/// `struct nfgenmsg` around a batch: whose changes they are, in the network's order.
const BORDER: [u8; 4] = [0, 0, 0, SUBSYSTEM as u8];
