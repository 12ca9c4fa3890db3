//! Policies, and what it costs to replace them.

use super::*;

#[test]
fn policies_accept_replace_and_reject_and_a_new_one_costs_only_the_difference() {
    let reject = |text: &str| {
        let rejected = prefix(text);
        Policy::new(move |candidate| if candidate.prefix == rejected { Verdict::Reject } else { Verdict::Accept })
    };
    let mark = Policy::new(|candidate| {
        assert!(candidate.attributes.as_path.begins_with(&[Asn(64512)]), "as it will be sent");
        let mut attributes = candidate.attributes.clone();
        attributes.communities.push(Community::new(64512, u16::try_from(candidate.peer_as.0 - 65000).unwrap()));
        Verdict::Replace(Box::new(attributes))
    });
    let mut rib = rib();
    rib.peer_up(PeerId(2), PeerConfig { import: Some(reject("10.2.0.0/16")), ..peer(2, 64512) });
    rib.peer_up(PeerId(6), PeerConfig { export: Some(reject("10.1.0.0/16")), ..peer(6, 65006) });
    rib.update(PeerId(2), &advertise(&["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"], via(2)));
    let mut external = told(&mut rib, 6);
    assert_eq!(external.prefixes(), ["10.3.0.0/16"]);
    assert_eq!(rib.paths(prefix("10.2.0.0/16"))[0].standing, Standing::Excluded(Exclusion::Policy));
    assert_eq!((rib.counts(PeerId(2), V4).received, rib.counts(PeerId(2), V4).accepted), (3, 2));
    external.log();
    rib.set_policies(PeerId(2), None, None);
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.log(), ["+10.2.0.0/16"], "accepted now, without asking the peer again");
    rib.set_policies(PeerId(6), None, Some(reject("10.2.0.0/16")));
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.log(), ["-10.2.0.0/16", "+10.1.0.0/16"]);
    rib.set_policies(PeerId(6), None, Some(mark));
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.prefixes().len(), 3);
    assert!(external.paths.values().all(|attributes| attributes.communities == [Community::new(64512, 6)]));
}

/// Rejects what equals or lies in any of these.
fn reject_within(texts: &[&str]) -> Policy {
    let areas: Vec<_> = texts.iter().map(|text| prefix(text)).collect();
    Policy::new(move |candidate| match areas.iter().any(|area| area.contains(&candidate.prefix)) {
        true => Verdict::Reject,
        false => Verdict::Accept,
    })
}

#[test]
fn an_exchange_judges_only_what_lies_within_and_reaches_every_peer_with_the_policy() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let judged = Arc::new(AtomicUsize::new(0));
    let counting = |areas: &'static [&'static str]| {
        let (judged, policy) = (Arc::clone(&judged), reject_within(areas));
        Policy::new(move |candidate| {
            judged.fetch_add(1, Ordering::Relaxed);
            policy.judge(candidate)
        })
    };
    let (old, new) = (counting(&[]), counting(&["10.1.0.0/16"]));
    let mut rib = rib();
    let config = |id: u32| PeerConfig { export: Some(old.clone()), ..peer(id as u8, 65000 + id) };
    rib.peer_up(PeerId(2), peer(2, 64512));
    [6, 7].into_iter().for_each(|id| rib.peer_up(PeerId(id), PeerConfig { peer_as: Asn(65006), ..config(id) }));
    rib.peer_up(PeerId(8), config(8));
    let blocks: Vec<String> = (0..8).flat_map(|a| (0..32).map(move |b| format!("10.{a}.{b}.0/24"))).collect();
    let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
    rib.update(PeerId(2), &advertise(&blocks, via(2)));
    let mut mirrors = [6, 7, 8].map(|id| (id, told(&mut rib, id)));
    assert_eq!(judged.swap(0, Ordering::Relaxed), 2 * 256, "once for each group");
    assert_eq!(rib.groups.iter().flatten().count(), 3);

    let mut exchange = |rib: &mut Rib, pairs: &[(Policy, Policy)], within: &[&str], told: usize| {
        let within: Vec<_> = within.iter().map(|text| prefix(text)).collect();
        rib.exchange_policies(pairs, Some(&within));
        for (id, mirror) in &mut mirrors {
            mirror.log();
            drain(rib, *id, mirror);
            assert_eq!(mirror.log().len(), told, "to {id}");
        }
        assert!(rib.peers_with_output().iter().all(|peer| [2, 9].contains(&peer.0)), "who has read has read all");
        judged.swap(0, Ordering::Relaxed)
    };
    assert_eq!(exchange(&mut rib, &[(old.clone(), new.clone())], &["10.1.0.0/16", "192.0.2.0/24"], 32), 2 * 32);
    assert_eq!(exchange(&mut rib, &[(old.clone(), new.clone())], &["0.0.0.0/0"], 0), 0, "nobody has the old one");
    // A peer that comes up with the new policy shares what the others are told.
    let same = PeerConfig { export: Some(new.clone()), ..peer(9, 65006) };
    rib.peer_up(PeerId(9), same);
    assert_eq!(told(&mut rib, 9).paths.len(), 256 - 32);
    assert_eq!(rib.groups.iter().flatten().count(), 3);
    // Two swap, at once: nothing is exchanged twice. Only addresses given exactly are looked at.
    let pairs = [(new.clone(), old.clone()), (old, new)];
    assert_eq!(exchange(&mut rib, &pairs, &["10.1.3.0/32", "10.1.3.0/24"], 1), 2);
}

#[test]
fn peers_whose_policies_become_one_share_their_updates_again() {
    let (one, other, both) =
        (reject_within(&["10.1.0.0/16"]), reject_within(&["10.2.0.0/16"]), reject_within(&["10.3.0.0/16"]));
    let mut rib = rib();
    let config = |id: u32, policy: &Policy| PeerConfig { export: Some(policy.clone()), ..peer(id as u8, 65006) };
    for (id, policy) in [(5, &one), (6, &one), (7, &other), (8, &other)] {
        rib.peer_up(PeerId(id), config(id, policy));
    }
    rib.peer_up(PeerId(2), peer(2, 64512));
    let paths = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"];
    rib.update(PeerId(2), &advertise(&paths[..3], via(2)));
    let mut mirrors = [5, 6, 7].map(|id| (id, told(&mut rib, id)));
    rib.update(PeerId(2), &advertise(&paths[3..], via(2)));
    rib.exchange_policies(&[(one, both.clone()), (other, both)], None);
    for (id, mirror) in &mut mirrors {
        drain(&mut rib, *id, mirror);
        assert_eq!(mirror.prefixes(), ["10.1.0.0/16", "10.2.0.0/16", "10.4.0.0/16"], "to {id}");
    }
    assert_eq!(told(&mut rib, 8).prefixes(), ["10.1.0.0/16", "10.2.0.0/16", "10.4.0.0/16"], "8 has not read before");
    assert_eq!(rib.groups.iter().flatten().map(|group| group.members).collect::<BTreeSet<_>>(), [1, 4].into());
}

#[test]
fn an_exchanged_import_policy_judges_what_was_received_not_what_was_made_of_it() {
    let prefer = |local_pref: u32| {
        Policy::new(move |candidate| {
            assert_eq!(candidate.attributes.local_pref, Some(7), "as received");
            let attributes = Attributes { local_pref: Some(local_pref), ..candidate.attributes.clone() };
            Verdict::AcceptExplicitly(Some(Box::new(attributes)))
        })
    };
    let (first, second) = (prefer(200), prefer(300));
    let mut rib = rib();
    rib.peer_up(PeerId(2), PeerConfig { import: Some(first.clone()), ..peer(2, 64512) });
    rib.peer_up(PeerId(3), PeerConfig { import: Some(first.clone()), ..peer(3, 64512) });
    for id in [2, 3] {
        rib.update(
            PeerId(id),
            &advertise(&["10.1.0.0/16", "10.2.0.0/16"], |attributes| attributes.local_pref = Some(7)),
        );
    }
    rib.mark_stale(PeerId(3), V4);
    rib.take_best_changes();
    rib.exchange_policies(&[(first, second)], Some(&[prefix("10.2.0.0/16")]));
    let prefs = |text: &str| -> Vec<_> {
        rib.paths(prefix(text)).iter().map(|path| (path.attributes.local_pref.unwrap(), path.stale)).collect()
    };
    assert_eq!(prefs("10.1.0.0/16"), [(200, false), (200, true)], "not within: as the old one said");
    assert_eq!(prefs("10.2.0.0/16"), [(300, false), (300, true)], "and as stale as before");
    assert_eq!(rib.take_best_changes().len(), 1);
}

#[test]
fn a_next_hop_that_moves_to_another_interface_is_judged_anew_both_ways() {
    let by_eth0 = Policy::new(|candidate| match candidate.interface {
        Some("eth0") => Verdict::Accept,
        _ => Verdict::Reject,
    });
    let mut rib = Rib::new(RibConfig::new(router_id(1)));
    rib.peer_up(PeerId(2), peer(2, 64512));
    rib.peer_up(PeerId(3), PeerConfig { import: Some(by_eth0.clone()), ..peer(3, 64512) });
    rib.peer_up(PeerId(6), PeerConfig { export: Some(by_eth0), ..peer(6, 65006) });
    rib.update(PeerId(2), &advertise(&["10.2.0.0/16"], via(2)));
    rib.update(PeerId(3), &advertise(&["10.3.0.0/16"], via(2)));
    let mut mirror = Mirror::default();
    let reached = |rib: &mut Rib, interface: Option<&str>| {
        let interface = interface.map(Arc::from);
        rib.set_next_hop(address(2).into(), Reachability::Reachable { metric: 0, interface });
    };
    for (interface, told, best) in [
        (None, &[][..], false),
        (Some("eth0"), &["10.2.0.0/16", "10.3.0.0/16"], true),
        (Some("eth1"), &[], false),
        (Some("eth0"), &["10.2.0.0/16", "10.3.0.0/16"], true),
    ] {
        reached(&mut rib, interface);
        drain(&mut rib, 6, &mut mirror);
        assert_eq!(mirror.prefixes(), told, "by {interface:?}");
        assert_eq!(rib.best(prefix("10.3.0.0/16")).is_some(), best, "by {interface:?}");
    }
    mirror.log();
    reached(&mut rib, Some("eth0"));
    assert!(!rib.peers_with_output().contains(&PeerId(6)), "the same answer again costs nothing");
    // Of an own route, it is the route's own.
    let own = |interface: &str| LocalRoute {
        kind: LocalKind::Workload,
        interface: Some(interface.into()),
        ..LocalRoute::default()
    };
    for (interface, told) in [("cali1", false), ("eth0", true), ("cali1", false)] {
        rib.originate(prefix("10.9.0.1/32"), own(interface));
        drain(&mut rib, 6, &mut mirror);
        assert_eq!(mirror.paths.contains_key(&prefix("10.9.0.1/32").into()), told, "by {interface}");
    }
}
