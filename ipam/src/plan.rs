//! What to do next for a request: take an address of an own block, claim a block, or give up.
//!
//! Decided from what is cached, without a store. The decision may be outdated; then the store
//! refuses the write, the cache is corrected, and the question is asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_api::{AffinityState, AllocationAttribute, IPAMBlock, IPAMBlockSpec, IPAMConfigurationSpec};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::block::{self, Unavailable};
use crate::candidate::candidates;
use crate::network::{NetSet, containing};
use crate::pool::Pool;
use crate::reservation::Reservations;

/// How many blocks a node may own where nothing else is configured.
pub const DEFAULT_BLOCK_LIMIT: u32 = 20;

/// What a node knows.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The node.
    pub node: &'a str,
    /// The blocks that are its own.
    pub own: &'a BTreeMap<IpNet, IPAMBlock>,
    /// Its affinities.
    pub affinities: &'a BTreeMap<IpNet, AffinityState>,
    /// All blocks of the cluster.
    pub taken: &'a NetSet,
    /// Addresses not to be handed out unasked.
    pub reservations: &'a Reservations,
    /// The settings.
    pub config: &'a IPAMConfigurationSpec,
    /// The time.
    pub now: Timestamp,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub enum Want {
    /// Any address of these pools, in their order.
    Any(Vec<Pool>),
    /// This address, which is in this pool.
    Exactly(IpAddr, Pool),
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The address is taken in the draft of this block; write it.
    Take {
        /// The block.
        block: IpNet,
        /// The address.
        address: IpAddr,
    },
    /// The handle holds this address already; nothing is to be written.
    Held {
        /// The block.
        block: IpNet,
        /// The address.
        address: IpAddr,
    },
    /// Claim this block, or finish its claim, and ask again.
    Claim(IpNet),
    /// There is none.
    GiveUp(Refusal),
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node owns as many blocks of these pools as it may, and they are full.
    BlockLimit(u32),
    /// Nodes may not claim blocks by themselves, and the own ones are full.
    NoAutoAllocate,
    /// Own blocks are full, and all other blocks are taken.
    Exhausted,
    /// Somebody else holds the address, or it cools down.
    Held(AllocationAttribute),
    /// The address is in a block that is not the node's.
    Foreign(IpNet),
}

/// Own blocks as they are to be written: what was planned for several requests together.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// The changed blocks, not yet [advanced](block::advance).
    pub blocks: BTreeMap<IpNet, IPAMBlockSpec>,
    /// Blocks in which something was taken.
    pub changed: BTreeSet<IpNet>,
}

impl Draft {
    /// The next step towards `want`; an address is taken in the draft at once. `refused` blocks are left out.
    pub fn next_step(
        &mut self,
        view: &View<'_>,
        want: &Want,
        holder: &AllocationAttribute,
        refused: &BTreeSet<IpNet>,
    ) -> Step {
        match want {
            Want::Any(pools) => self.any(view, pools, holder, refused),
            Want::Exactly(address, pool) => self.exactly(view, *address, pool, holder, refused),
        }
    }

    fn any(
        &mut self,
        view: &View<'_>,
        pools: &[Pool],
        holder: &AllocationAttribute,
        refused: &BTreeSet<IpNet>,
    ) -> Step {
        let in_pools = |net: &IpNet| pools.iter().any(|pool| pool.cidr.contains(net));
        for pool in pools {
            for cidr in view.own.keys().filter(|cidr| pool.cidr.contains(*cidr) && !refused.contains(cidr)) {
                if !view.is_settled(cidr) {
                    continue;
                }
                let Some(draft) = self.block(view, cidr) else { continue };
                if let Some(address) = block::assign(draft, holder, 1, view.reservations).first().copied() {
                    self.changed.insert(*cidr);
                    return Step::Take { block: *cidr, address };
                }
            }
        }
        let claimed: BTreeSet<&IpNet> =
            view.own.keys().chain(view.affinities.keys()).filter(|net| in_pools(net)).collect();
        if let Some(unsettled) = claimed.iter().find(|net| !view.is_settled(net) && !refused.contains(**net)) {
            return Step::Claim(**unsettled);
        }
        let limit = view.config.max_blocks_per_host.filter(|limit| *limit > 0).unwrap_or(DEFAULT_BLOCK_LIMIT);
        if claimed.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Step::GiveUp(Refusal::BlockLimit(limit));
        }
        if !view.config.auto_allocate_blocks {
            return Step::GiveUp(Refusal::NoAutoAllocate);
        }
        let free = |pool: &Pool| {
            candidates(pool.cidr, pool.block_size, view.node, view.taken, view.reservations)
                .find(|candidate| !refused.contains(candidate))
        };
        match pools.iter().find_map(free) {
            Some(candidate) => Step::Claim(candidate),
            None => Step::GiveUp(Refusal::Exhausted),
        }
    }

    fn exactly(
        &mut self,
        view: &View<'_>,
        address: IpAddr,
        pool: &Pool,
        holder: &AllocationAttribute,
        refused: &BTreeSet<IpNet>,
    ) -> Step {
        let Some(wanted) = containing(address, pool.block_size) else { return Step::GiveUp(Refusal::Exhausted) };
        let own = view.own.keys().find(|cidr| cidr.contains(&address)).copied();
        let Some(cidr) = own else {
            return match view.taken.meeting(&wanted) {
                Some(foreign) => Step::GiveUp(Refusal::Foreign(foreign)),
                None if refused.contains(&wanted) => Step::GiveUp(Refusal::Foreign(wanted)),
                None => Step::Claim(wanted),
            };
        };
        if refused.contains(&cidr) {
            return Step::GiveUp(Refusal::Foreign(cidr));
        }
        if !view.is_settled(&cidr) {
            return Step::Claim(cidr);
        }
        let Some(draft) = self.block(view, &cidr) else { return Step::GiveUp(Refusal::Foreign(cidr)) };
        match block::assign_address(draft, holder, address) {
            Ok(()) => {
                self.changed.insert(cidr);
                Step::Take { block: cidr, address }
            }
            // Departs from Calico, which refuses: the same request again, after an answer was lost, gets the same address.
            Err(Unavailable::Held(other)) if block::is_of(&other, holder.handle_id.as_deref().unwrap_or_default()) => {
                Step::Held { block: cidr, address }
            }
            Err(Unavailable::Held(other)) => Step::GiveUp(Refusal::Held(other)),
            Err(Unavailable::NotInBlock) => Step::GiveUp(Refusal::Foreign(cidr)),
        }
    }

    fn block(&mut self, view: &View<'_>, cidr: &IpNet) -> Option<&mut IPAMBlockSpec> {
        if !self.blocks.contains_key(cidr) {
            let mut spec = view.own.get(cidr)?.spec.clone();
            block::collect_cold(&mut spec, cooldown(view.config), view.now);
            self.blocks.insert(*cidr, spec);
        }
        self.blocks.get_mut(cidr)
    }
}

impl View<'_> {
    /// Whether block and affinity both say that it is ours.
    fn is_settled(&self, cidr: &IpNet) -> bool {
        self.own.contains_key(cidr) && self.affinities.get(cidr) == Some(&AffinityState::Confirmed)
    }
}

/// For how long a released address is not handed out again.
pub fn cooldown(config: &IPAMConfigurationSpec) -> SignedDuration {
    SignedDuration::from_secs(config.ip_cooldown_seconds.unwrap_or_default().into())
}
