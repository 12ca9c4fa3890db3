//! What a peer is told of a path, and who is not told.

use super::*;

#[test]
fn own_blocks_reach_every_peer_with_us_as_next_hop_and_end_of_rib_follows() {
    let mut rib = rib();
    rib.originate(prefix("10.65.0.0/26"), LocalRoute::default());
    rib.peer_up(PeerId(2), peer(2, 64512));
    rib.peer_up(PeerId(3), peer(3, 65000));
    let mut internal = told(&mut rib, 2);
    assert_eq!(internal.log(), ["+10.65.0.0/26", "end IPv4 unicast", "end IPv6 unicast"]);
    let sent = &internal.paths[&prefix("10.65.0.0/26").into()];
    assert_eq!((sent.next_hop, sent.as_path.length()), (address(1).into(), 0));
    assert_eq!(sent.local_pref, Some(2_147_482_623));
    let external = told(&mut rib, 3);
    let sent = &external.paths[&prefix("10.65.0.0/26").into()];
    assert_eq!((sent.next_hop, sent.as_path.to_string()), (address(1).into(), "64512".to_owned()));
    assert_eq!(sent.local_pref, None);
    rib.originate(prefix("10.65.1.0/26"), LocalRoute::default());
    rib.withdraw_local(prefix("10.65.0.0/26"));
    drain(&mut rib, 2, &mut internal);
    assert_eq!(internal.log(), ["-10.65.0.0/26", "+10.65.1.0/26"]);
    assert!(rib.peers_with_output().contains(&PeerId(3)) && !rib.peers_with_output().contains(&PeerId(2)));
}

#[test]
fn well_known_communities_keep_a_path_where_it_belongs() {
    #[track_caller]
    fn check(community: Community, expect: &[u32]) {
        let mut rib = rib();
        rib.peer_up(PeerId(6), peer(6, 65006));
        rib.peer_up(PeerId(2), peer(2, 64512));
        rib.peer_up(PeerId(7), peer(7, 65007));
        rib.update(PeerId(6), &advertise(&["10.0.0.0/8"], |attributes| attributes.communities.push(community)));
        let learned: Vec<_> = [2, 7].into_iter().filter(|id| !told(&mut rib, *id).paths.is_empty()).collect();
        assert_eq!(learned, expect);
    }
    check(Community::new(1, 1), &[2, 7]);
    check(Community::NO_EXPORT, &[2]);
    check(Community::NO_EXPORT_SUBCONFED, &[2]);
    check(Community::NO_ADVERTISE, &[]);
}

#[test]
fn the_next_hop_follows_mode_and_origin() {
    // Own route without and with a gateway, one of an external peer; to an internal and an external peer.
    #[track_caller]
    fn check(mode: NextHopMode, internal: [u8; 3], external: [u8; 3]) {
        let mut rib = rib();
        rib.peer_up(PeerId(2), PeerConfig { next_hop: mode, ..peer(2, 64512) });
        rib.peer_up(PeerId(6), PeerConfig { next_hop: mode, ..peer(6, 65006) });
        rib.peer_up(PeerId(7), peer(7, 65007));
        rib.originate(prefix("10.1.0.0/16"), LocalRoute::default());
        rib.originate(prefix("10.2.0.0/16"), LocalRoute { gateway: Some(address(20).into()), ..LocalRoute::default() });
        rib.update(PeerId(7), &advertise(&["10.3.0.0/16"], via(30)));
        for (id, expect) in [(2, internal), (6, external)] {
            let hops: Vec<_> = told(&mut rib, id).paths.values().map(|attributes| attributes.next_hop).collect();
            assert_eq!(hops, expect.map(|last| IpAddr::from(address(last))), "{mode:?} to {id}");
        }
    }
    check(NextHopMode::Auto, [1, 20, 30], [1, 1, 1]);
    check(NextHopMode::Own, [1, 1, 1], [1, 1, 1]);
    check(NextHopMode::Keep, [1, 20, 30], [1, 20, 30]);
}

#[test]
fn a_path_is_never_sent_to_its_sender_nor_to_its_next_hop() {
    let mut rib = rib();
    for last in 2..5 {
        rib.peer_up(PeerId(last), client(last as u8));
    }
    let mut mirrors = [2, 3, 4].map(|id| (id, told(&mut rib, id)));
    let mut expect = |rib: &mut Rib, expect: [&[&str]; 3]| {
        for ((id, mirror), expect) in mirrors.iter_mut().zip(expect) {
            mirror.log();
            drain(rib, *id, mirror);
            assert_eq!(mirror.log(), expect, "to {id}");
        }
    };
    rib.update(PeerId(2), &advertise(&["10.0.0.0/8"], via(4)));
    expect(&mut rib, [&[], &["+10.0.0.0/8"], &[]]);
    // A better path of another client takes over: 3 must forget what it was told, 2 and 4 learn it.
    rib.update(PeerId(3), &advertise(&["10.0.0.0/8"], |attributes| attributes.local_pref = Some(200)));
    expect(&mut rib, [&["+10.0.0.0/8"], &["-10.0.0.0/8"], &["+10.0.0.0/8"]]);
    rib.update(PeerId(3), &withdraw(&["10.0.0.0/8"]));
    expect(&mut rib, [&["-10.0.0.0/8"], &["+10.0.0.0/8"], &["-10.0.0.0/8"]]);
    assert_eq!([2, 3, 4].map(|id| rib.counts(PeerId(id), V4).advertised), [0, 1, 0]);
}

/// RFC 9494 §4.3: who does not know what long-lived stale means would take such a path for a good one.
#[test]
fn a_long_lived_stale_path_is_told_only_to_those_who_understand_it() {
    let mut rib = rib();
    rib.peer_up(PeerId(6), peer(6, 65006));
    rib.peer_up(PeerId(2), peer(2, 64512));
    rib.peer_up(PeerId(3), PeerConfig { long_lived_aware: false, ..peer(3, 64512) });
    let stale = |attributes: &mut Attributes| attributes.communities.push(Community::LLGR_STALE);
    rib.update(PeerId(6), &advertise(&["10.0.0.0/8"], stale));
    // An own route may carry any community: E0 is about what was learned.
    let communities = vec![Community::LLGR_STALE, Community::NO_EXPORT];
    rib.originate(prefix("10.65.0.0/26"), LocalRoute { communities, ..LocalRoute::default() });
    assert_eq!(told(&mut rib, 2).prefixes(), ["10.0.0.0/8", "10.65.0.0/26"]);
    assert_eq!(told(&mut rib, 3).prefixes(), ["10.65.0.0/26"]);
}

/// A gateway is told in place of us where the peer could use it: to internal peers, of the same family, not link-local.
#[test]
fn a_gateway_or_next_hop_that_means_nothing_to_the_peer_is_replaced_by_ourselves() {
    let own_v6: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let mut rib = rib();
    rib.peer_up(PeerId(2), PeerConfig { next_hop_v6: Some(own_v6), ..peer(2, 64512) });
    rib.peer_up(PeerId(3), PeerConfig { next_hop: NextHopMode::Keep, next_hop_v6: Some(own_v6), ..peer(3, 65003) });
    rib.peer_up(PeerId(6), peer(6, 65006));
    let gateways = ["169.254.1.1", "192.0.2.20", "fe80::1", "2001:db8::20", "2001:db8::20"];
    let prefixes = ["10.1.0.0/16", "10.2.0.0/16", "2001:db8:1::/48", "2001:db8:2::/48", "10.3.0.0/16"];
    for (text, gateway) in prefixes.iter().zip(gateways) {
        let gateway = Some(gateway.parse().unwrap());
        rib.originate(prefix(text), LocalRoute { kind: LocalKind::Kernel, gateway, ..LocalRoute::default() });
    }
    let v6 = Attributes {
        link_local: Some("fe80::99".parse().unwrap()),
        ..Attributes::new("2001:db8::99".parse().unwrap())
    };
    let link_only = Attributes::new("fe80::99".parse().unwrap());
    for (text, attributes) in [("2001:db8:8::/48", v6), ("2001:db8:9::/48", link_only)] {
        let nlri = vec![prefix(text).into()];
        let advertised = vec![Advertisement { attributes: Arc::new(attributes), nlri }];
        rib.update(PeerId(6), &Update { withdrawn: vec![], advertised });
    }
    for id in [2, 3] {
        let paths = told(&mut rib, id).paths;
        let hops: Vec<_> = paths.values().map(|attributes| attributes.next_hop.to_string()).collect();
        let v6 = ["2001:db8::1", "2001:db8::20", "2001:db8::99", "2001:db8::1"];
        assert_eq!(hops[..3], ["192.0.2.1", "192.0.2.20", "192.0.2.1"], "to {id}");
        assert_eq!(hops[3..], v6, "to {id}");
        assert!(paths.values().all(|attributes| attributes.link_local.is_none()), "sixteen octets");
    }
}

/// What a filter does to a path is what the peer sees: it judges the path as it will be sent, and has the last word.
#[test]
fn what_export_policy_sets_survives() {
    let policy = Policy::new(|candidate| {
        let mut attributes = candidate.attributes.clone();
        if !candidate.attributes.as_path.begins_with(&[Asn(64512)]) && candidate.peer_as != candidate.local_as {
            return Verdict::Reject;
        }
        attributes.as_path.prepend_all(&[Asn(65010), Asn(65011)]);
        attributes.local_pref = Some(LocalRoute::local_pref(10));
        attributes.med = Some(4);
        Verdict::AcceptExplicitly(Some(Box::new(attributes)))
    });
    let mut rib = rib();
    rib.peer_up(PeerId(2), PeerConfig { export: Some(policy.clone()), ..peer(2, 64512) });
    rib.peer_up(PeerId(6), PeerConfig { export: Some(policy), ..peer(6, 65006) });
    rib.peer_up(PeerId(7), peer(7, 65007));
    rib.originate(prefix("10.65.0.0/26"), LocalRoute { med: Some(3), ..LocalRoute::default() });
    let learned = |attributes: &mut Attributes| {
        (attributes.as_path, attributes.med) = (AsPath::sequence([Asn(65007)]), Some(9));
    };
    rib.update(PeerId(7), &advertise(&["10.66.0.0/26"], learned));
    let see = |mirror: Mirror| -> Vec<_> {
        let see = |a: &Attributes| (a.as_path.to_string(), a.local_pref, a.med, a.origin);
        mirror.paths.values().map(see).collect()
    };
    let igp = crate::Origin::Igp;
    let local_pref = Some(LocalRoute::local_pref(10));
    assert_eq!(
        see(told(&mut rib, 2)),
        [
            ("65010 65011".to_owned(), local_pref, Some(4), igp),
            ("65010 65011 65007".to_owned(), local_pref, Some(4), igp),
        ]
    );
    assert_eq!(
        see(told(&mut rib, 6)),
        [
            ("65010 65011 64512".to_owned(), None, Some(4), igp),
            ("65010 65011 64512 65007".to_owned(), None, Some(4), igp),
        ]
    );
    // Without policy: MED and LOCAL_PREF end at the border of the AS, an own MED does not.
    assert_eq!(see(told(&mut rib, 7)), [("64512".to_owned(), None, Some(3), igp)]);
}
