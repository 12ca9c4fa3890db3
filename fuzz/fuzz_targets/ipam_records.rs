//! A stored block, handle or affinity in the custom resources' spelling: it is refused, or all of IPAM's arithmetic
//! works on it, never gives an address twice, and leaves a block that is as sound as it was.
#![no_main]

use std::collections::BTreeSet;

use calico_api::{BlockAffinitySpec, IPAMBlockSpec, IPAMHandleSpec, ObjectMeta, Spec};
use ipam::{Reservations, block, handle};
use jiff::{SignedDuration, Timestamp};
use libfuzzer_sys::fuzz_target;

/// The largest block that is worth its time here.
const LARGEST: usize = 4096;

fn check_block(mut spec: IPAMBlockSpec) {
    let _ = (spec.owner(), spec.key(&ObjectMeta::default()));
    if spec.allocations.len() > LARGEST || block::check_usable(&spec).is_err() {
        return;
    }
    let _ = (block::free(&spec, &Reservations::default()), block::is_empty(&spec), block::family(&spec));
    let now = Timestamp::UNIX_EPOCH;
    let before: Vec<_> = spec.allocations.clone();
    let holder = block::holder("fuzz.handle", []);
    let taken = block::assign(&mut spec, &holder, 3, &Reservations::default());
    let different: BTreeSet<_> = taken.iter().collect();
    assert_eq!(different.len(), taken.len(), "an address twice: {taken:?}");
    let held: BTreeSet<_> = block::addresses_of(&spec, "fuzz.handle").collect();
    for address in &taken {
        assert!(held.contains(address) && spec.cidr.contains(address), "{address} is not held");
        let ordinal = ipam::network::ordinal_of(&spec.cidr, *address).expect("it is in the block");
        assert_eq!(before.get(ordinal as usize), Some(&None), "{address} was taken already");
        assert!(block::assign_address(&mut spec, &holder, *address).is_err(), "{address} is given twice");
    }
    assert_eq!(block::check_usable(&spec), Ok(()), "after assigning");
    if let Some(first) = taken.first() {
        assert!(block::release_address(&mut spec, *first, Some("fuzz.handle"), None, now).is_ok());
    }
    block::release_handle(&mut spec, "fuzz.handle", now);
    block::collect_cold(&mut spec, SignedDuration::ZERO, now);
    block::tidy(&mut spec);
    block::advance(&mut spec);
    assert_eq!(block::check_usable(&spec), Ok(()), "after releasing");
}

fuzz_target!(|octets: &[u8]| {
    if let Ok(spec) = serde_json::from_slice::<IPAMBlockSpec>(octets) {
        check_block(spec);
    }
    if let Ok(mut spec) = serde_json::from_slice::<IPAMHandleSpec>(octets) {
        let blocks: Vec<_> = handle::blocks(&spec).collect();
        for (net, _) in blocks {
            let count = handle::count(&spec, &net);
            handle::add(&mut spec, &net, u64::MAX);
            assert!(handle::count(&spec, &net) >= count);
            handle::remove(&mut spec, &net, u64::MAX);
            assert_eq!(handle::count(&spec, &net), 0);
        }
        let _ = handle::is_empty(&spec);
    }
    if let Ok(spec) = serde_json::from_slice::<BlockAffinitySpec>(octets) {
        let key = spec.key(&ObjectMeta::default());
        assert!(!key.name().is_empty(), "{key:?}");
    }
});
