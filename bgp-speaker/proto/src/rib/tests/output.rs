//! ADD-PATH, and members that are behind.

use super::*;

#[test]
fn with_add_path_every_path_is_told_under_its_own_number() {
    let mut rib = rib();
    let context = Context { add_path_send: Families::ALL, ..context(true) };
    rib.peer_up(PeerId(2), client(2));
    rib.peer_up(PeerId(3), client(3));
    rib.peer_up(PeerId(4), PeerConfig { context, ..client(4) });
    rib.update(PeerId(2), &advertise(&["10.0.0.0/8"], via(2)));
    rib.update(PeerId(3), &advertise(&["10.0.0.0/8"], via(3)));
    let mut mirror = told(&mut rib, 4);
    let hops = |mirror: &Mirror| mirror.paths.values().map(|a| a.next_hop.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(hops(&mirror), ["192.0.2.2", "192.0.2.3"].map(String::from).into());
    assert_eq!(rib.counts(PeerId(4), V4).advertised, 2);
    mirror.log();
    rib.update(PeerId(2), &withdraw(&["10.0.0.0/8"]));
    drain(&mut rib, 4, &mut mirror);
    assert_eq!((hops(&mirror), mirror.log().len()), (["192.0.2.3".to_owned()].into(), 1));
}

#[test]
fn members_that_come_together_share_a_dump_and_one_that_stays_behind_gets_the_present_state() {
    const LIMIT: usize = 256 << 10;
    let config = RibConfig { resolve_next_hops: false, log_limit: LIMIT, ..RibConfig::new(router_id(1)) };
    let mut rib = Rib::new(config);
    rib.peer_up(PeerId(6), peer(6, 65006));
    let block = |n: u32| Prefix::new(Ipv4Addr::from(0x0a00_0000 + n * 64).into(), 26).unwrap();
    let nlri = (0..5_000).map(|n| block(n).into()).collect();
    let attributes = Arc::new(Attributes::new(address(6).into()));
    rib.update(PeerId(6), &Update { withdrawn: vec![], advertised: vec![Advertisement { attributes, nlri }] });
    for id in 2..5 {
        rib.peer_up(PeerId(id), peer(id as u8, 64512));
    }
    let first = [2, 3].map(|id| rib.poll_output(PeerId(id), 65_536).unwrap());
    assert_eq!(first[0].as_ptr(), first[1].as_ptr(), "the same octets, not a copy");
    let mut mirrors = [2, 3, 4].map(|_| Mirror::default());
    let cx = context(true);
    mirrors[0].take(&first[0], &cx);
    mirrors[1].take(&first[1], &cx);
    // 2 reads everything at once, 3 and 4 nothing while the table changes more often than the log may hold.
    let mut round = 0;
    while round < 40 {
        round += 1;
        let attributes = Attributes { med: Some(round), ..Attributes::new(address(6).into()) };
        let nlri = (0..5_000).filter(|n| n % 7 != round % 7).map(|n| block(n).into()).collect();
        let withdrawn = (0..5_000).filter(|n| n % 7 == round % 7).map(|n| block(n).into()).collect();
        let advertised = vec![Advertisement { attributes: Arc::new(attributes), nlri }];
        rib.update(PeerId(6), &Update { withdrawn, advertised });
        drain(&mut rib, 2, &mut mirrors[0]);
        let group = rib.groups.iter().flatten().find(|group| group.members == 3).unwrap();
        assert!(group.holds() <= LIMIT + (64 << 10), "{} octets held", group.holds());
    }
    drain(&mut rib, 3, &mut mirrors[1]);
    drain(&mut rib, 4, &mut mirrors[2]);
    let expect = mirrors[0].paths.len();
    assert_eq!(expect, (0..5_000).filter(|n| n % 7 != round % 7).count());
    for mirror in &mirrors[1..] {
        assert!(mirror.paths == mirrors[0].paths);
    }
    assert!(rib.peers_with_output().iter().all(|id| *id == PeerId(6)));
}
