//! How many addresses of which block a handle has; counted exactly.
//!
//! A count that is too high makes an orphan of the handle, one that is too low an address that
//! nobody can release by handle.

use calico_api::IPAMHandleSpec;
use ipnet::IpNet;

/// A handle without addresses.
pub fn new(handle: &str) -> IPAMHandleSpec {
    IPAMHandleSpec { handle_id: handle.to_owned(), block: Default::default(), deleted: false }
}

/// Counts `count` more addresses of a block.
pub fn add(handle: &mut IPAMHandleSpec, block: &IpNet, count: u64) {
    if count > 0 {
        let entry = handle.block.entry(block.to_string()).or_default();
        *entry = entry.saturating_add(count);
    }
}

/// Counts up to `count` addresses of a block less; returns by how many.
pub fn remove(handle: &mut IPAMHandleSpec, block: &IpNet, count: u64) -> u64 {
    let key = block.to_string();
    let Some(entry) = handle.block.get_mut(&key) else { return 0 };
    let removed = count.min(*entry);
    *entry -= removed;
    if *entry == 0 {
        handle.block.remove(&key);
    }
    removed
}

/// Whether it counts nothing any more.
pub fn is_empty(handle: &IPAMHandleSpec) -> bool {
    handle.block.values().all(|count| *count == 0)
}

/// The count for a block.
pub fn count(handle: &IPAMHandleSpec, block: &IpNet) -> u64 {
    handle.block.get(&block.to_string()).copied().unwrap_or_default()
}

/// The blocks it counts addresses of, and their counts; keys that are no CIDR are left out.
pub fn blocks(handle: &IPAMHandleSpec) -> impl Iterator<Item = (IpNet, u64)> + '_ {
    handle.block.iter().filter_map(|(key, count)| Some((key.parse().ok()?, *count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_up_and_down_exactly_and_end_with_nothing() {
        let (a, b) = ("10.0.0.0/26".parse().unwrap(), "fd00::/122".parse().unwrap());
        let mut spec = new("h");
        add(&mut spec, &a, 2);
        add(&mut spec, &b, 1);
        add(&mut spec, &a, 1);
        add(&mut spec, &b, 0);
        assert_eq!((count(&spec, &a), count(&spec, &b)), (3, 1));
        assert_eq!(remove(&mut spec, &a, 2), 2);
        assert!(!is_empty(&spec));
        assert_eq!(remove(&mut spec, &b, 5), 1, "never below nothing");
        assert_eq!(remove(&mut spec, &b, 5), 0);
        assert_eq!(remove(&mut spec, &a, 1), 1);
        assert!(is_empty(&spec) && spec.block.is_empty());
    }
}
