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
