use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_787_403_600 + second).unwrap()
}

fn fresh(cidr: &str) -> IPAMBlockSpec {
    new(cidr.parse().unwrap(), &Owner::Host("node-1".to_owned()), at(0)).unwrap()
}

fn of(handle: &str) -> AllocationAttribute {
    holder(handle, &BTreeMap::from([("pod".to_owned(), format!("pod-{handle}"))]))
}

fn take(block: &mut IPAMBlockSpec, handle: &str, count: usize) -> Vec<String> {
    let addresses = assign(block, &of(handle), count, &Reservations::default());
    advance(block);
    addresses.into_iter().map(|address| address.to_string()).collect()
}

/// The example of the format reference: a tunnel, a pod, and an address that cools down.
fn example() -> IPAMBlockSpec {
    let mut json = serde_json::json!({
        "cidr": "10.244.0.0/30", "affinity": "host:node-1", "affinityClaimTime": "2026-08-22T13:00:00Z",
        "allocations": [0, null, 1, 2], "unallocated": [1],
        "attributes": [
            {"handle_id": "vxlan-tunnel-addr-node-1", "secondary": {"node": "node-1", "type": "vxlanTunnelAddress"}},
            {"handle_id": "k8s-pod-network.4f1c0e", "secondary": {"namespace": "default", "node": "node-1", "pod": "web-0",
                "timestamp": "2026-08-22 13:33:20.123456789 +0000 UTC"}},
            {"releasedAt": "2026-08-22T13:40:00Z"}],
        "sequenceNumber": 1_787_403_600_000_000_007_u64,
        "sequenceNumberForAllocation":
            {"0": 1_787_403_600_000_000_000_u64, "2": 1_787_403_600_000_000_003_u64, "3": 1_787_403_600_000_000_006_u64},
        "strictAffinity": false, "deleted": false});
    let spec: IPAMBlockSpec = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(serde_json::to_value(&spec).unwrap(), json.take(), "written as it was read");
    spec
}

#[test]
fn a_new_block_is_as_calico_writes_one() {
    let spec = fresh("10.244.0.0/30");
    let json = serde_json::to_value(&spec).unwrap();
    let expected = serde_json::json!({
        "cidr": "10.244.0.0/30", "affinity": "host:node-1", "affinityClaimTime": "2026-08-22T13:00:00Z",
        "allocations": [null, null, null, null], "unallocated": [0, 1, 2, 3], "attributes": [],
        "sequenceNumber": 1_787_403_600_000_000_000_u64, "sequenceNumberForAllocation": {},
        "deleted": false, "strictAffinity": false});
    assert_eq!(json, expected);
    assert_eq!(check(&spec), Ok(()));
    assert_eq!(attribute_time("2026-08-22T13:33:20.1234Z".parse().unwrap()), "2026-08-22 13:33:20.1234 +0000 UTC");
    assert_eq!(whole_seconds("2026-08-22T13:33:20.9Z".parse().unwrap()), "2026-08-22T13:33:20Z");
    let owner = Owner::Host("n".to_owned());
    assert!(matches!(new("10.0.0.1/26".parse().unwrap(), &owner, at(0)), Err(BlockFault::HostBits(_))));
    assert!(matches!(new("::/0".parse().unwrap(), &owner, at(0)), Err(BlockFault::TooLarge(_))));
}

#[test]
fn addresses_are_taken_from_the_head_and_return_to_the_end() {
    let mut block = fresh("10.244.0.0/29");
    assert_eq!(take(&mut block, "a", 2), ["10.244.0.0", "10.244.0.1"]);
    assert_eq!(take(&mut block, "b", 1), ["10.244.0.2"]);
    assert_eq!(block.attributes.len(), 2, "one holder, one attribute");
    assert_eq!(block.sequence_number_for_allocation["2"], 1_787_403_600_000_000_001, "the number before the write");
    assert_eq!(release_handle(&mut block, "a", at(1)).len(), 2);
    assert_eq!(collect_cold(&mut block, SignedDuration::ZERO, at(1)), 2);
    advance(&mut block);
    assert_eq!(block.unallocated, [3, 4, 5, 6, 7, 0, 1]);
    assert_eq!((block.attributes.len(), block.allocations[2]), (1, Some(0)), "attributes are numbered anew");
    assert_eq!(block.sequence_number_for_allocation.len(), 1);
    assert_eq!(take(&mut block, "c", 9).len(), 7, "as many as there are");
    assert_eq!(check(&block), Ok(()));
}

#[test]
fn reserved_addresses_are_passed_over_and_keep_their_place() {
    let mut block = fresh("10.244.0.0/29");
    let reserved: Reservations = ["10.244.0.0/31", "10.244.0.3/32"].iter().map(|n| n.parse().unwrap()).collect();
    assert_eq!(free(&block, &reserved), 5);
    let taken = assign(&mut block, &of("a"), 2, &reserved);
    assert_eq!(taken, ["10.244.0.2".parse::<IpAddr>().unwrap(), "10.244.0.4".parse().unwrap()]);
    assert_eq!(block.unallocated, [0, 1, 3, 5, 6, 7]);
    let wanted: IpAddr = "10.244.0.3".parse().unwrap();
    assert_eq!(assign_address(&mut block, &of("b"), wanted), Ok(()), "but not when asked for");
    assert_eq!(assign_address(&mut block, &of("c"), wanted), Err(Unavailable::Held(of("b"))));
    assert_eq!(assign_address(&mut block, &of("c"), "10.0.0.1".parse().unwrap()), Err(Unavailable::NotInBlock));
}

#[test]
fn a_released_address_cools_down_and_is_nobodys_but_used() {
    let mut block = fresh("10.244.0.0/31");
    take(&mut block, "a", 1);
    take(&mut block, "b", 1);
    release_handle(&mut block, "a\rjunk", at(10));
    let minute = SignedDuration::from_secs(60);
    assert_eq!(collect_cold(&mut block, minute, at(69)), 0);
    advance(&mut block);
    let address: IpAddr = "10.244.0.0".parse().unwrap();
    let (attribute, sequence) = who_has(&block, address).unwrap();
    assert_eq!((&attribute.handle_id, attribute.released_at.as_deref()), (&None, Some("2026-08-22T13:00:10Z")));
    assert_eq!(sequence, 1_787_403_600_000_000_000, "as it was assigned");
    assert_eq!(release_address(&mut block, address, Some("a"), None, at(11)), Ok(false), "no longer held");
    assert!(take(&mut block, "c", 1).is_empty() && !is_empty(&block));
    assert_eq!(check(&block), Ok(()));
    assert_eq!(collect_cold(&mut block, minute, at(70)), 1);
    assert_eq!(take(&mut block, "c", 1), ["10.244.0.0"]);
}

#[test]
fn a_release_by_address_is_held_to_handle_and_sequence_number() {
    let mut block = example();
    let address: IpAddr = "10.244.0.2".parse().unwrap();
    let number = 1_787_403_600_000_000_003;
    let error = release_address(&mut block, address, Some("other"), Some(number), at(0)).unwrap_err();
    assert!(error.to_string().contains("held under handle k8s-pod-network.4f1c0e, not other"), "{error}");
    let error = release_address(&mut block, address, None, Some(number + 1), at(0)).unwrap_err();
    assert!(matches!(error, ReleaseFault::BadSequence { found, .. } if found == number));
    assert_eq!(block, example(), "unchanged");
    assert_eq!(release_address(&mut block, address, Some("k8s-pod-network.4f1c0e"), Some(number), at(0)), Ok(true));
    assert_eq!(block.sequence_number_for_allocation["2"], 1_787_403_600_000_000_007);
    assert_eq!(release_address(&mut block, "10.244.0.1".parse().unwrap(), None, None, at(0)), Ok(false));
}

#[test]
fn every_kind_of_damage_is_named() {
    #[track_caller]
    fn fault(damage: impl FnOnce(&mut IPAMBlockSpec), text: &str, harmless: bool) {
        let mut block = example();
        assert_eq!(check(&block), Ok(()));
        damage(&mut block);
        let fault = check(&block).unwrap_err();
        assert!(fault.to_string().contains(text), "{fault}");
        assert_eq!((fault.is_harmless(), check_usable(&block).is_ok()), (harmless, harmless));
    }
    fault(|b| b.cidr = "10.244.0.1/30".parse().unwrap(), "host bits", false);
    fault(|b| b.cidr = "10.0.0.0/8".parse().unwrap(), "larger than a block", false);
    fault(|b| b.cidr = "::/0".parse().unwrap(), "larger than a block", false);
    fault(|b| b.affinity = Some("node-1".to_owned()), "\"node-1\"", false);
    fault(|b| b.allocations.truncate(3), "3 allocations for 4", false);
    fault(|b| b.allocations[0] = Some(3), "ordinal 0 has attribute 3, of which there are 3", false);
    fault(|b| b.unallocated.push(4), "ordinal 4", false);
    fault(|b| b.unallocated.push(1), "ordinal 1 twice", false);
    fault(|b| b.unallocated.push(2), "ordinal 2 is both", false);
    fault(|b| b.unallocated.clear(), "ordinal 1 is neither", false);
    fault(|b| b.attributes.push(of("x")), "nothing refers to attribute 3", true);
    fault(|b| b.sequence_number_for_allocation.extend([("1".to_owned(), 0)]), "\"1\"", true);
    fault(|b| b.sequence_number_for_allocation.extend([("x".to_owned(), 0)]), "\"x\"", true);
    fault(|b| b.sequence_number = 5, "the block is at 5", true);
}

#[test]
fn what_others_wrote_is_carried_through() {
    let mut block = example();
    block.attributes[1].alternate_owner_attrs = Some(BTreeMap::from([("pod".to_owned(), Some("next".to_owned()))]));
    let before = block.clone();
    take(&mut block, "new", 1);
    release_handle(&mut block, "new", at(0));
    collect_cold(&mut block, SignedDuration::ZERO, at(0));
    assert_eq!(block.attributes, before.attributes[..2], "what cooled down is gone, the rest is as it was");
    assert_eq!(block.unallocated, [1, 3], "and what was released last comes last, by ordinal");
}

#[derive(Clone, Debug)]
enum Op {
    Assign(u8, usize),
    Address(u8, u8),
    ReleaseHandle(u8),
    ReleaseAddress(u8),
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..6_u8, 1..4_usize).prop_map(|(handle, count)| Op::Assign(handle, count)),
        (0..6_u8, 0..20_u8).prop_map(|(handle, ordinal)| Op::Address(handle, ordinal)),
        (0..6_u8).prop_map(Op::ReleaseHandle),
        (0..20_u8).prop_map(Op::ReleaseAddress),
        (1..40_i64).prop_map(Op::Wait),
    ]
}

proptest! {
    /// Against a model that knows nothing but who holds what and since when it cools.
    #[test]
    fn a_block_does_what_a_table_of_addresses_would(ops in prop::collection::vec(op(), 1..60), v6 in any::<bool>()) {
        #[derive(Clone, Debug, PartialEq)]
        enum Cell { Free, Held(u8), Cooling(i64) }
        let cidr = if v6 { "fd00::40/124" } else { "10.0.0.16/28" };
        let (mut block, mut table, mut time) = (fresh(cidr), vec![Cell::Free; 16], 0);
        let cooldown = SignedDuration::from_secs(30);
        for op in ops {
            let place = |address: IpAddr| usize::try_from(ordinal_of(&cidr.parse().unwrap(), address).unwrap()).unwrap();
            match op {
                Op::Assign(handle, count) => {
                    let expected = count.min(table.iter().filter(|cell| **cell == Cell::Free).count());
                    let got = assign(&mut block, &of(&handle.to_string()), count, &Reservations::default());
                    prop_assert_eq!(got.len(), expected);
                    for address in got {
                        prop_assert_eq!(&table[place(address)], &Cell::Free, "{} was not free", address);
                        table[place(address)] = Cell::Held(handle);
                    }
                }
                Op::Address(handle, ordinal) => {
                    if let Some(address) = address_at(&block.cidr, ordinal.into()) {
                        let got = assign_address(&mut block, &of(&handle.to_string()), address).is_ok();
                        prop_assert_eq!(got, table[usize::from(ordinal)] == Cell::Free);
                        if got { table[usize::from(ordinal)] = Cell::Held(handle); }
                    }
                }
                Op::ReleaseHandle(handle) => {
                    for address in release_handle(&mut block, &handle.to_string(), at(time)) {
                        prop_assert_eq!(&table[place(address)], &Cell::Held(handle));
                        table[place(address)] = Cell::Cooling(time);
                    }
                    prop_assert!(!table.contains(&Cell::Held(handle)));
                }
                Op::ReleaseAddress(ordinal) => {
                    if let Some(address) = address_at(&block.cidr, ordinal.into()) {
                        let released = release_address(&mut block, address, None, None, at(time)).unwrap();
                        let cell = &mut table[usize::from(ordinal)];
                        prop_assert_eq!(released, matches!(cell, Cell::Held(_)));
                        if released { *cell = Cell::Cooling(time); }
                    }
                }
                Op::Wait(seconds) => time += seconds,
            }
            collect_cold(&mut block, cooldown, at(time));
            for cell in &mut table {
                if matches!(cell, Cell::Cooling(since) if time - *since >= 30) { *cell = Cell::Free; }
            }
            advance(&mut block);
            prop_assert_eq!(check(&block), Ok(()));
            for (ordinal, cell) in (0..).zip(&table) {
                let found = who_has(&block, address_at(&block.cidr, ordinal).unwrap()).map(|(attribute, _)| attribute);
                let found = match found {
                    None => Cell::Free,
                    Some(AllocationAttribute { released_at: Some(_), .. }) => Cell::Cooling(0),
                    Some(attribute) => Cell::Held(attribute.handle_id.as_ref().unwrap().parse().unwrap()),
                };
                prop_assert!(std::mem::discriminant(&found) == std::mem::discriminant(cell) && (found == *cell || matches!(cell, Cell::Cooling(_))));
            }
            prop_assert_eq!(is_empty(&block), table.iter().all(|cell| *cell == Cell::Free));
        }
    }
}
