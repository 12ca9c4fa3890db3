//! What can go wrong, in words for the operator. Each text says what to do next; the source says what the store said.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::block::BlockFault;
use crate::network::Family;
use crate::pool::SelectError;

/// Why no address was assigned. Nothing of the request is held then, unless the store fell silent in between:
/// what it then holds is found and released by its handle.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AssignError {
    /// No pool may be used.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// All pools are full.
    #[error("Assigned 0 out of 1 requested {family} addresses; No IPs available in pools: [{}]; {advice}{}", join(.pools), and_also(.notes))]
    Exhausted {
        /// The family that ran out.
        family: Family,
        /// The ranges of the pools that were tried.
        pools: Vec<IpNet>,
        /// What to do.
        advice: &'static str,
        /// Corrupt blocks, and the like.
        notes: Vec<String>,
    },
    /// The node may own no more blocks.
    #[error("Assigned 0 out of 1 requested {family} addresses; cannot allocate new block due to per host block limit: Need to allocate an IPAM block but could not - limit of {limit} blocks reached for this node; raise maxBlocksPerHost of the IPAMConfiguration{}", and_also(.notes))]
    BlockLimit {
        /// The family that ran out.
        family: Family,
        /// The limit.
        limit: u32,
        /// Corrupt blocks, and the like.
        notes: Vec<String>,
    },
    /// Nodes may not claim blocks by themselves.
    #[error("Assigned 0 out of 1 requested {family} addresses; failed to find or claim a block: the node's blocks are full and autoAllocateBlocks of the IPAMConfiguration is false; give the node a block, or set it{}", and_also(.notes))]
    NoAutoAllocate {
        /// The family that ran out.
        family: Family,
        /// Corrupt blocks, and the like.
        notes: Vec<String>,
    },
    /// The requested address is in no pool.
    #[error("The provided IP address {0} is not in a configured pool that is enabled; correct it, or add a pool")]
    NotInPool(IpAddr),
    /// The requested address is somebody else's.
    #[error("Address already assigned in block: {address} {holder}; release that first, or ask for another")]
    Held {
        /// The address.
        address: IpAddr,
        /// Who has it, or that it cools down.
        holder: String,
    },
    /// The requested address is in a block of another node.
    #[error(
        "Block host affinity does not match: {address} is in block {block}, which is not this node's; ask for an address of an own block, or run the workload on the block's node"
    )]
    Foreign {
        /// The address.
        address: IpAddr,
        /// The block.
        block: IpNet,
    },
    /// Others wrote first, every time.
    #[error(
        "others changed {what} first, {tries} times in a row; try again, and look for a second allocator of this node's name"
    )]
    Contended {
        /// What was to be written.
        what: String,
        /// How often.
        tries: u32,
    },
    /// The store refused or did not answer.
    #[error("could not {action}; check the datastore, then try again")]
    Datastore {
        /// What was being done.
        action: String,
        /// What it said.
        #[source]
        source: std::sync::Arc<calico_datastore::Error>,
    },
}

/// Why addresses were not released. All that could be are released nevertheless; the same call may be repeated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A block cannot be read.
    #[error(
        "addresses of handle {handle} in block {block} are not released: the block is corrupt: {fault}; correct or delete it"
    )]
    Corrupt {
        /// The handle.
        handle: String,
        /// The block.
        block: IpNet,
        /// What is wrong with it.
        fault: String,
    },
    /// Others wrote first, every time.
    #[error("others changed {what} first, {tries} times in a row; try again")]
    Contended {
        /// What was to be written.
        what: String,
        /// How often.
        tries: u32,
    },
    /// The store refused or did not answer.
    #[error("could not {action}; check the datastore, then try again")]
    Datastore {
        /// What was being done.
        action: String,
        /// What it said.
        #[source]
        source: std::sync::Arc<calico_datastore::Error>,
    },
}

/// Why a block is still somebody's.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseAffinityError {
    /// It has addresses in use.
    #[error("block {0} is not released: addresses of it are in use or cool down")]
    NotEmpty(IpNet),
    /// It is another's; the affinity that said otherwise is deleted.
    #[error("block {block} belongs to {}, not to {expected}; the affinity that said otherwise is removed", found.as_deref().unwrap_or("nobody"))]
    NotOwner {
        /// The block.
        block: IpNet,
        /// Whose it should have been.
        expected: String,
        /// Whose it is.
        found: Option<String>,
    },
    /// A block cannot be read.
    #[error("block {0} is not released: it is corrupt: {1}; correct or delete it")]
    Corrupt(IpNet, BlockFault),
    /// It is being claimed at this moment.
    #[error("block {0} is being claimed at this moment; try again")]
    BeingClaimed(IpNet),
    /// Others wrote first, every time.
    #[error("others changed block {block} or its affinity first, {tries} times in a row; try again")]
    Contended {
        /// The block.
        block: IpNet,
        /// How often.
        tries: u32,
    },
    /// The store refused or did not answer.
    #[error("could not release the affinity of block {block}; check the datastore, then try again")]
    Datastore {
        /// The block.
        block: IpNet,
        /// What it said.
        #[source]
        source: calico_datastore::Error,
    },
}

fn join(pools: &[IpNet]) -> String {
    pools.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ")
}

fn and_also(notes: &[String]) -> String {
    notes.iter().map(|note| format!("; {note}")).collect()
}
