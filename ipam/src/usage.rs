//! How full pools and blocks are, and who holds an address: what `calicoctl ipam show` prints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_api::{IPAMBlock, IPPool, Owner};
use ipnet::IpNet;

use crate::block;
use crate::network::size;
use crate::reservation::Reservations;

/// What Calico calls blocks that are in no pool.
pub const ORPHANED: &str = "orphaned allocation blocks";

/// How full a pool is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// Its name; [`ORPHANED`] for the blocks that are in no pool.
    pub name: String,
    /// Its range; `0.0.0.0/0` for the blocks that are in no pool, of both families.
    pub cidr: IpNet,
    /// Addresses it has.
    pub total: u128,
    /// Addresses that somebody holds, or that cool down.
    pub in_use: u128,
    /// Addresses that an IPReservation has, held or not.
    pub reserved: u128,
    /// Addresses that are neither held nor reserved.
    pub free: u128,
    /// Its blocks, by address.
    pub blocks: Vec<BlockUsage>,
}

/// How full a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockUsage {
    /// Its range.
    pub cidr: IpNet,
    /// Who owns it.
    pub owner: Option<Owner>,
    /// Addresses it has.
    pub total: u128,
    /// Addresses that somebody holds, or that cool down.
    pub in_use: u128,
    /// Addresses that an IPReservation has, held or not.
    pub reserved: u128,
    /// Addresses that are neither held nor reserved.
    pub free: u128,
}

/// How full each pool is, by name; last, if there are any, the blocks that are in no pool.
///
/// Pools with an unreadable range and blocks that are [corrupt](block::check) are left out: report them yourself.
pub fn usage<'a>(
    pools: impl IntoIterator<Item = &'a IPPool>,
    blocks: impl IntoIterator<Item = &'a IPAMBlock>,
    reservations: &Reservations,
) -> Vec<PoolUsage> {
    let mut pools: Vec<(&str, IpNet)> =
        pools.into_iter().filter_map(|pool| Some((pool.name(), pool.spec.cidr()?.trunc()))).collect();
    pools.sort();
    let mut of_pool: BTreeMap<Option<usize>, Vec<BlockUsage>> = BTreeMap::new();
    for block in blocks.into_iter().filter(|block| block::check_usable(&block.spec).is_ok()) {
        let pool = pools.iter().position(|(_, cidr)| cidr.contains(&block.spec.cidr));
        of_pool.entry(pool).or_default().push(of_block(block, reservations));
    }
    for blocks in of_pool.values_mut() {
        blocks.sort_by_key(|block| block.cidr);
    }
    let orphans = of_pool.remove(&None);
    let mut usages: Vec<PoolUsage> = Vec::new();
    for (index, (name, cidr)) in pools.into_iter().enumerate() {
        let blocks = of_pool.remove(&Some(index)).unwrap_or_default();
        // What is free inside blocks, and what is in no block and not reserved.
        let total = size(&cidr);
        let in_use = blocks.iter().map(|block| block.in_use).sum();
        let reserved = reserved_in(&cidr, reservations);
        let both: u128 = blocks.iter().map(|block| (block.in_use + block.reserved + block.free) - block.total).sum();
        let free = total.saturating_add(both).saturating_sub(in_use).saturating_sub(reserved);
        usages.push(PoolUsage { name: name.to_owned(), cidr, total, in_use, reserved, free, blocks });
    }
    if let Some(blocks) = orphans {
        let sum = |part: fn(&BlockUsage) -> u128| blocks.iter().map(part).sum();
        usages.push(PoolUsage {
            name: ORPHANED.to_owned(),
            cidr: IpNet::V4(ipnet::Ipv4Net::default()),
            total: sum(|block| block.total),
            in_use: sum(|block| block.in_use),
            reserved: sum(|block| block.reserved),
            free: sum(|block| block.free),
            blocks,
        });
    }
    usages
}

fn of_block(block: &IPAMBlock, reservations: &Reservations) -> BlockUsage {
    let (spec, total) = (&block.spec, size(&block.spec.cidr));
    BlockUsage {
        cidr: spec.cidr,
        owner: spec.owner(),
        total,
        in_use: total - count(spec.unallocated.len()),
        reserved: reserved_in(&spec.cidr, reservations),
        free: count(block::free(spec, reservations)),
    }
}

fn count(number: usize) -> u128 {
    u128::try_from(number).unwrap_or(u128::MAX)
}

/// How many addresses of a network are reserved.
fn reserved_in(net: &IpNet, reservations: &Reservations) -> u128 {
    reservations
        .meeting(net)
        .iter()
        .map(|reserved| if reserved.contains(net) { size(net) } else { size(reserved) })
        .sum()
}

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The block it is in.
    pub block: IpNet,
    /// The handle; absent on very old allocations and while it cools down.
    pub handle: Option<String>,
    /// Pod, namespace, node, timestamp and the like.
    pub attributes: BTreeMap<String, String>,
    /// The other owner during a live migration.
    pub alternate_attributes: BTreeMap<String, String>,
    /// When it was released, while it cools down.
    pub released_at: Option<String>,
    /// The number to release it by, so that a later assignment is not released by mistake.
    pub sequence_number: u64,
}

/// Who holds an address; none, if it is free or in no block.
pub fn who_has<'a>(blocks: impl IntoIterator<Item = &'a IPAMBlock>, address: IpAddr) -> Option<Holder> {
    let text = |map: &Option<BTreeMap<String, Option<String>>>| {
        map.iter().flatten().map(|(key, value)| (key.clone(), value.clone().unwrap_or_default())).collect()
    };
    blocks.into_iter().find_map(|block| {
        let (attribute, sequence_number) = block::who_has(&block.spec, address)?;
        Some(Holder {
            block: block.spec.cidr,
            handle: attribute.handle_id.clone(),
            attributes: text(&attribute.secondary),
            alternate_attributes: text(&attribute.alternate_owner_attrs),
            released_at: attribute.released_at.clone(),
            sequence_number,
        })
    })
}

#[cfg(test)]
mod tests {
    use calico_api::{IPPoolSpec, ObjectMeta, Resource};
    use jiff::Timestamp;

    use super::*;

    fn block(cidr: &str, handles: &[&str]) -> IPAMBlock {
        let owner = Owner::Host("node-1".to_owned());
        let mut spec = block::new(cidr.parse().unwrap(), &owner, Timestamp::UNIX_EPOCH).unwrap();
        for handle in handles {
            let attributes = BTreeMap::from([("pod".to_owned(), format!("of-{handle}"))]);
            block::assign(&mut spec, &block::holder(handle, &attributes), 1, &Reservations::default());
        }
        block::advance(&mut spec);
        Resource::new(ObjectMeta::default(), spec)
    }

    #[test]
    fn usage_adds_up_also_for_huge_pools_reservations_and_blocks_without_a_pool() {
        let pools = [("b", "fd00::/48"), ("a", "10.0.0.0/24"), ("all", "::/0")]
            .map(|(name, cidr)| IPPool::new(ObjectMeta::named(name), IPPoolSpec::new(cidr)));
        let blocks =
            [block("10.0.0.0/26", &["x", "y"]), block("10.9.0.0/30", &["z"]), block("fd00::/122", &["x", "y", "z"])];
        // One reserved address is held, one is not, 16 are in no block, and one range is given twice.
        let reserved = ["10.0.0.1/32", "10.0.0.5/32", "10.0.0.128/28", "10.0.0.130/32"];
        let reservations = reserved.iter().map(|text| text.parse::<IpNet>().unwrap()).collect();
        let usages = usage(&pools, &blocks, &reservations);
        let numbers = |usage: &PoolUsage| (usage.total, usage.in_use, usage.reserved, usage.free);
        assert_eq!(usages.iter().map(|usage| usage.name.as_str()).collect::<Vec<_>>(), ["a", "all", "b", ORPHANED]);
        assert_eq!(numbers(&usages[0]), (256, 2, 18, 237));
        assert_eq!(usages[0].blocks.len(), 1);
        assert_eq!((usages[0].blocks[0].in_use, usages[0].blocks[0].reserved, usages[0].blocks[0].free), (2, 2, 61));
        assert_eq!(numbers(&usages[1]), (u128::MAX, 3, 0, u128::MAX - 3));
        assert_eq!(numbers(&usages[2]), (1 << 80, 0, 0, 1 << 80), "a block counts in one pool only");
        assert_eq!(numbers(&usages[3]), (4, 1, 0, 3));
        assert_eq!(usages[3].blocks[0].owner, Some(Owner::Host("node-1".to_owned())));
        let holder = who_has(&blocks, "10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!((holder.handle.as_deref(), holder.attributes["pod"].as_str()), (Some("y"), "of-y"));
        assert_eq!(who_has(&blocks, "10.0.0.2".parse().unwrap()), None);
        assert_eq!(who_has(&blocks, "10.0.1.2".parse().unwrap()), None);
    }
}
