//! What may be done to a block, and whether one is sound.
//!
//! Everything here changes a block in memory. [`advance`] is called once before the block is written:
//! what was assigned or released since the last write then carries the number before that write.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_api::{AllocationAttribute, IPAMBlockSpec, Owner};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::network::{Family, address_at, ordinal_of, size};
use crate::reservation::Reservations;

/// A block has at most `2^12` addresses: /20 for IPv4, /116 for IPv6.
pub const MAX_HOST_BITS: u8 = 12;

/// The handle of addresses that Windows nodes keep for themselves; they do not make a block used.
pub const WINDOWS_HANDLE: &str = "windows-reserved-ipam-handle";

/// Why a block is not sound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// Host bits are set.
    #[error("its CIDR {0} has host bits set")]
    HostBits(IpNet),
    /// More addresses than a block may have.
    #[error("{0} is larger than a block may be (/20 for IPv4, /116 for IPv6)")]
    TooLarge(IpNet),
    /// Neither `host:<node>` nor `virtual:<name>`.
    #[error("its affinity \"{0}\" is not host:<node> or virtual:<name>")]
    Owner(String),
    /// Not one allocation for each address.
    #[error("it has {found} allocations for {expected} addresses")]
    Length {
        /// Elements of `allocations`.
        found: usize,
        /// Addresses of the CIDR.
        expected: u128,
    },
    /// An allocation without its attribute.
    #[error("ordinal {ordinal} has attribute {index}, of which there are {attributes}")]
    Index {
        /// Which address.
        ordinal: usize,
        /// What it refers to.
        index: u32,
        /// Elements of `attributes`.
        attributes: usize,
    },
    /// An ordinal in the queue that the block does not have.
    #[error("unallocated lists ordinal {0}, which the block does not have")]
    UnknownOrdinal(u32),
    /// An ordinal more than once in the queue.
    #[error("unallocated lists ordinal {0} twice")]
    Twice(u32),
    /// An ordinal in the queue that is allocated.
    #[error("ordinal {0} is both allocated and unallocated")]
    Both(u32),
    /// An ordinal that is in neither list.
    #[error("ordinal {0} is neither allocated nor unallocated")]
    Neither(usize),
    /// An attribute that no allocation refers to. Harmless: our next write of the block drops it.
    #[error("nothing refers to attribute {0}")]
    Unreferenced(usize),
    /// A sequence number of a free or unknown ordinal. Harmless: our next write of the block drops it.
    #[error("sequenceNumberForAllocation has \"{0}\", which is not allocated")]
    StraySequence(String),
    /// A sequence number that no write of the block had. Harmless: a release by sequence number fails.
    #[error("ordinal {ordinal} has sequence number {found}, the block is at {block}")]
    FutureSequence {
        /// Which address.
        ordinal: String,
        /// Its number.
        found: u64,
        /// The block's.
        block: u64,
    },
}

impl BlockFault {
    /// Whether addresses may be taken and released in spite of it.
    pub fn is_harmless(&self) -> bool {
        matches!(self, Self::Unreferenced(_) | Self::StraySequence(_) | Self::FutureSequence { .. })
    }
}

/// A new block: everything free, nothing known of anybody.
///
/// # Errors
/// [`BlockFault::HostBits`], [`BlockFault::TooLarge`].
pub fn new(cidr: IpNet, owner: &Owner, now: Timestamp) -> Result<IPAMBlockSpec, BlockFault> {
    let count = check_cidr(&cidr)?;
    Ok(IPAMBlockSpec {
        cidr,
        affinity: Some(owner.to_string()),
        affinity_claim_time: Some(whole_seconds(now)),
        allocations: (0..count).map(|_| None).collect(),
        unallocated: (0..count).collect(),
        attributes: Vec::new(),
        // Not 0: a block that is deleted and made again must not repeat the numbers of the first.
        sequence_number: u64::try_from(now.as_nanosecond()).unwrap_or_default(),
        sequence_number_for_allocation: Default::default(),
        deleted: false,
        strict_affinity: false,
    })
}

fn check_cidr(cidr: &IpNet) -> Result<u32, BlockFault> {
    if *cidr != cidr.trunc() {
        return Err(BlockFault::HostBits(*cidr));
    }
    match u32::try_from(size(cidr)) {
        Ok(count) if count <= 1 << MAX_HOST_BITS => Ok(count),
        _ => Err(BlockFault::TooLarge(*cidr)),
    }
}

/// Whether the block is sound; the first fault otherwise, harmful ones before harmless ones.
///
/// # Errors
/// A [`BlockFault`]. Unless it [is harmless](BlockFault::is_harmless), nothing else here may be done with the block.
pub fn check(block: &IPAMBlockSpec) -> Result<(), BlockFault> {
    let count = check_cidr(&block.cidr)?;
    if let Some(affinity) = &block.affinity
        && block.owner().is_none()
    {
        return Err(BlockFault::Owner(affinity.clone()));
    }
    if block.allocations.len() != usize::try_from(count).unwrap_or(usize::MAX) {
        return Err(BlockFault::Length { found: block.allocations.len(), expected: count.into() });
    }
    let attributes = block.attributes.len();
    let mut referenced = vec![false; attributes];
    for (ordinal, index) in block.allocations.iter().enumerate() {
        let Some(index) = *index else { continue };
        match referenced.get_mut(as_index(index)) {
            Some(flag) => *flag = true,
            None => return Err(BlockFault::Index { ordinal, index, attributes }),
        }
    }
    let mut queued = vec![false; block.allocations.len()];
    for &ordinal in &block.unallocated {
        match queued.get_mut(as_index(ordinal)) {
            None => return Err(BlockFault::UnknownOrdinal(ordinal)),
            Some(true) => return Err(BlockFault::Twice(ordinal)),
            Some(flag) => *flag = true,
        }
        if allocation(block, ordinal).is_some() {
            return Err(BlockFault::Both(ordinal));
        }
    }
    let free_and_lost = block.allocations.iter().zip(&queued).position(|(index, queued)| index.is_none() && !queued);
    if let Some(ordinal) = free_and_lost {
        return Err(BlockFault::Neither(ordinal));
    }
    if let Some(index) = referenced.iter().position(|referenced| !referenced) {
        return Err(BlockFault::Unreferenced(index));
    }
    for (ordinal, &found) in &block.sequence_number_for_allocation {
        if ordinal.parse().ok().and_then(|ordinal| allocation(block, ordinal)).is_none() {
            return Err(BlockFault::StraySequence(ordinal.clone()));
        }
        if found >= block.sequence_number {
            return Err(BlockFault::FutureSequence { ordinal: ordinal.clone(), found, block: block.sequence_number });
        }
    }
    Ok(())
}

/// As [`check`], but harmless faults pass.
///
/// # Errors
/// A [`BlockFault`] that is not harmless.
pub fn check_usable(block: &IPAMBlockSpec) -> Result<(), BlockFault> {
    match check(block) {
        Err(fault) if !fault.is_harmless() => Err(fault),
        _ => Ok(()),
    }
}

/// What a block keeps of the holder of an address.
pub fn holder<'a>(handle: &str, attributes: impl IntoIterator<Item = (&'a String, &'a String)>) -> AllocationAttribute {
    let secondary: std::collections::BTreeMap<_, _> =
        attributes.into_iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    AllocationAttribute {
        handle_id: Some(handle.to_owned()),
        secondary: (!secondary.is_empty()).then_some(secondary),
        alternate_owner_attrs: None,
        released_at: None,
    }
}

/// Takes up to `count` addresses from the head of the queue; reserved ones are passed over and keep their place.
pub fn assign(
    block: &mut IPAMBlockSpec,
    holder: &AllocationAttribute,
    count: usize,
    reservations: &Reservations,
) -> Vec<IpAddr> {
    let cidr = block.cidr;
    let relevant = reservations.meeting(&cidr);
    let mut taken = Vec::new();
    let mut addresses = Vec::new();
    for &ordinal in &block.unallocated {
        if addresses.len() == count {
            break;
        }
        if let Some(address) = address_at(&cidr, ordinal)
            && !relevant.iter().any(|net| net.contains(&address))
        {
            taken.push(ordinal);
            addresses.push(address);
        }
    }
    // The taken ones are nearly always the head of the queue.
    let mut rest = taken.iter().peekable();
    block.unallocated.retain(|ordinal| rest.next_if_eq(&ordinal).is_none());
    for ordinal in taken {
        hold(block, ordinal, holder);
    }
    addresses
}

/// Why a given address could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It is not of this block.
    NotInBlock,
    /// Somebody holds it; here is what is known of them.
    Held(AllocationAttribute),
}

/// Takes exactly this address, reserved or not.
///
/// # Errors
/// If it is held (also while it cools down) or not in the block.
pub fn assign_address(
    block: &mut IPAMBlockSpec,
    holder: &AllocationAttribute,
    address: IpAddr,
) -> Result<(), Unavailable> {
    let ordinal = ordinal_of(&block.cidr, address).ok_or(Unavailable::NotInBlock)?;
    if let Some(attribute) = attribute(block, ordinal) {
        return Err(Unavailable::Held(attribute.clone()));
    }
    let place = block.unallocated.iter().position(|queued| *queued == ordinal).ok_or(Unavailable::NotInBlock)?;
    block.unallocated.remove(place);
    hold(block, ordinal, holder);
    Ok(())
}

fn hold(block: &mut IPAMBlockSpec, ordinal: u32, holder: &AllocationAttribute) {
    let index = intern(block, holder);
    if let Some(allocation) = block.allocations.get_mut(as_index(ordinal)) {
        *allocation = Some(index);
        block.sequence_number_for_allocation.insert(ordinal.to_string(), block.sequence_number);
    }
}

fn intern(block: &mut IPAMBlockSpec, wanted: &AllocationAttribute) -> u32 {
    let index = block.attributes.iter().position(|attribute| attribute == wanted).unwrap_or_else(|| {
        block.attributes.push(wanted.clone());
        block.attributes.len() - 1
    });
    u32::try_from(index).expect("attributes are pruned, so there are never more than addresses in a block")
}

/// Who holds an address of the block, with the sequence number of the assignment (0 if none was recorded).
/// An address that cools down has an attribute with `released_at` and no handle.
pub fn who_has(block: &IPAMBlockSpec, address: IpAddr) -> Option<(&AllocationAttribute, u64)> {
    let ordinal = ordinal_of(&block.cidr, address)?;
    let attribute = attribute(block, ordinal)?;
    Some((attribute, block.sequence_number_for_allocation.get(&ordinal.to_string()).copied().unwrap_or_default()))
}

/// The addresses that are held under a handle.
pub fn addresses_of<'a>(block: &'a IPAMBlockSpec, handle: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    (0..)
        .zip(&block.allocations)
        .filter(move |(ordinal, _)| attribute(block, *ordinal).is_some_and(|attribute| is_of(attribute, handle)))
        .filter_map(|(ordinal, _)| address_at(&block.cidr, ordinal))
}

/// Releases all addresses of a handle, which begin to cool down; see [`collect_cold`]. Their sequence numbers stay.
pub fn release_handle(block: &mut IPAMBlockSpec, handle: &str, now: Timestamp) -> Vec<IpAddr> {
    let addresses: Vec<_> = addresses_of(block, handle).collect();
    for ordinal in addresses.iter().filter_map(|address| ordinal_of(&block.cidr, *address)).collect::<Vec<_>>() {
        cool(block, ordinal, now);
    }
    addresses
}

/// Why an address was not released, though it is held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseFault {
    /// Another handle holds it by now.
    #[error("{address} is held under handle {}, not {expected}", found.as_deref().unwrap_or("(none)"))]
    BadHandle {
        /// Which address.
        address: IpAddr,
        /// The handle that was given.
        expected: String,
        /// The handle that holds it.
        found: Option<String>,
    },
    /// It was released and assigned again since.
    #[error("{address} was assigned at sequence number {found}, not {expected}")]
    BadSequence {
        /// Which address.
        address: IpAddr,
        /// The number that was given.
        expected: u64,
        /// The number of its assignment.
        found: u64,
    },
}

/// Releases one address, which begins to cool down; false if it was free or cooling already.
/// It is held to `handle` and `sequence_number` where they are given.
///
/// # Errors
/// [`ReleaseFault`]; nothing is changed then.
pub fn release_address(
    block: &mut IPAMBlockSpec,
    address: IpAddr,
    handle: Option<&str>,
    sequence_number: Option<u64>,
    now: Timestamp,
) -> Result<bool, ReleaseFault> {
    let (Some((attribute, found)), Some(ordinal)) = (who_has(block, address), ordinal_of(&block.cidr, address)) else {
        return Ok(false);
    };
    if let Some(expected) = sequence_number
        && expected != found
    {
        return Err(ReleaseFault::BadSequence { address, expected, found });
    }
    if attribute.released_at.is_some() {
        return Ok(false);
    }
    if let Some(expected) = handle
        && !is_of(attribute, expected)
    {
        let found = attribute.handle_id.clone();
        return Err(ReleaseFault::BadHandle { address, expected: expected.to_owned(), found });
    }
    cool(block, ordinal, now);
    block.sequence_number_for_allocation.insert(ordinal.to_string(), block.sequence_number);
    Ok(true)
}

fn cool(block: &mut IPAMBlockSpec, ordinal: u32, now: Timestamp) {
    let cooling = AllocationAttribute { released_at: Some(whole_seconds(now)), ..Default::default() };
    let index = intern(block, &cooling);
    if let Some(allocation) = block.allocations.get_mut(as_index(ordinal)) {
        *allocation = Some(index);
    }
}

/// Frees the addresses that were released `cooldown` ago or earlier, to the end of the queue, and tidies the block.
///
/// A release time that cannot be read counts as long ago; so does any, when `cooldown` is zero.
pub fn collect_cold(block: &mut IPAMBlockSpec, cooldown: SignedDuration, now: Timestamp) -> usize {
    let is_cold = |attribute: &AllocationAttribute| {
        attribute.released_at.as_deref().is_some_and(|text| {
            let released: Option<Timestamp> = text.parse().ok();
            released.is_none_or(|released| cooldown.is_zero() || now.duration_since(released) >= cooldown)
        })
    };
    let cold: Vec<bool> = block.attributes.iter().map(is_cold).collect();
    let mut freed = 0;
    if cold.contains(&true) {
        for (ordinal, allocation) in (0_u32..).zip(&mut block.allocations) {
            if allocation.is_some_and(|index| cold.get(as_index(index)) == Some(&true)) {
                *allocation = None;
                block.unallocated.push(ordinal);
                freed += 1;
            }
        }
    }
    tidy(block);
    freed
}

/// Drops attributes that nothing refers to, numbering the rest anew in their order, and sequence numbers of free ordinals.
pub fn tidy(block: &mut IPAMBlockSpec) {
    let used: BTreeSet<u32> = block.allocations.iter().copied().flatten().collect();
    if used.len() < block.attributes.len() {
        let mut renumbered = vec![0; block.attributes.len()];
        for (new, old) in (0_u32..).zip(&used) {
            if let Some(place) = renumbered.get_mut(as_index(*old)) {
                *place = new;
            }
        }
        let mut index = 0_u32..;
        block.attributes.retain(|_| index.next().is_some_and(|index| used.contains(&index)));
        for allocation in block.allocations.iter_mut().flatten() {
            if let Some(new) = renumbered.get(as_index(*allocation)) {
                *allocation = *new;
            }
        }
    }
    let allocations = &block.allocations;
    block.sequence_number_for_allocation.retain(|ordinal, _| {
        ordinal.parse::<usize>().is_ok_and(|ordinal| allocations.get(ordinal).is_some_and(Option::is_some))
    });
}

/// Counts the write that is about to be made.
pub fn advance(block: &mut IPAMBlockSpec) {
    block.sequence_number = block.sequence_number.saturating_add(1);
}

/// How many addresses could be assigned now: free and not reserved.
pub fn free(block: &IPAMBlockSpec, reservations: &Reservations) -> usize {
    let relevant = reservations.meeting(&block.cidr);
    if relevant.is_empty() {
        return block.unallocated.len();
    }
    let is_reserved = |address| relevant.iter().any(|net| net.contains(&address));
    block.unallocated.iter().filter_map(|o| address_at(&block.cidr, *o)).filter(|a| !is_reserved(*a)).count()
}

/// Whether nobody holds an address, apart from Windows' own. Addresses that cool down are held.
pub fn is_empty(block: &IPAMBlockSpec) -> bool {
    block.allocations.iter().flatten().all(|index| {
        block
            .attributes
            .get(as_index(*index))
            .is_some_and(|attribute| attribute.released_at.is_none() && is_of(attribute, WINDOWS_HANDLE))
    })
}

/// Whether an attribute names this handle. What follows a `\r` in a handle is an accident of an old migration.
pub fn is_of(attribute: &AllocationAttribute, handle: &str) -> bool {
    attribute.handle_id.as_deref().is_some_and(|id| clean_handle(id) == clean_handle(handle))
}

/// A handle without what follows a `\r`.
pub fn clean_handle(handle: &str) -> &str {
    handle.split('\r').next().unwrap_or(handle)
}

/// A time as blocks hold it: RFC 3339, UTC, whole seconds.
pub fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// A time as it stands in the attribute `timestamp`: as Go prints one in UTC.
pub fn attribute_time(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{} +0000 UTC", text.trim_end_matches('Z').replacen('T', " ", 1))
}

fn allocation(block: &IPAMBlockSpec, ordinal: u32) -> Option<u32> {
    block.allocations.get(as_index(ordinal)).copied().flatten()
}

fn attribute(block: &IPAMBlockSpec, ordinal: u32) -> Option<&AllocationAttribute> {
    block.attributes.get(as_index(allocation(block, ordinal)?))
}

fn as_index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The family of the block's addresses.
pub fn family(block: &IPAMBlockSpec) -> Family {
    Family::of_net(&block.cidr)
}

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
