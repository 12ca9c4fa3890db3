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

/// RFC 7911 leaves open which paths are told where not all are: the sixteen that come nearest to being the best.
#[test]
fn with_add_path_no_more_than_the_limit_is_told_the_best_first_under_numbers_that_stay() {
    let mut rib = rib();
    let context = Context { add_path_send: Families::ALL, ..context(true) };
    rib.peer_up(PeerId(2), PeerConfig { context, ..peer(2, 64512) });
    let told_by = |rib: &mut Rib, id: u32, path_ids: std::ops::Range<u32>, length: usize| {
        for path_id in path_ids {
            let mut attributes = Attributes::new(address(100 + path_id as u8).into());
            attributes.as_path = AsPath::sequence((0..length).map(|_| Asn(65000 + id)));
            let nlri = vec![Nlri { prefix: prefix("10.0.0.0/8"), path_id }];
            let advertised = vec![Advertisement { attributes: Arc::new(attributes), nlri }];
            rib.update(PeerId(id), &Update { withdrawn: vec![], advertised });
        }
    };
    rib.peer_up(PeerId(6), peer(6, 65006));
    rib.peer_up(PeerId(7), peer(7, 65007));
    told_by(&mut rib, 6, 0..10, 2);
    let mut mirror = told(&mut rib, 2);
    let numbers = |mirror: &Mirror, asn: u32| -> BTreeSet<_> {
        let of = |a: &Attributes| a.as_path.neighbor() == Some(Asn(asn));
        mirror.paths.iter().filter(|(_, attributes)| of(attributes)).map(|(nlri, _)| nlri.path_id).collect()
    };
    let before = numbers(&mirror, 65006);
    assert_eq!(before.len(), 10);
    told_by(&mut rib, 7, 0..12, 1);
    drain(&mut rib, 2, &mut mirror);
    assert_eq!((mirror.paths.len(), numbers(&mirror, 65007).len()), (16, 12), "the shorter ones first");
    assert!(numbers(&mirror, 65006).is_subset(&before));
    let withdrawn = (0..12).map(|path_id| Nlri { prefix: prefix("10.0.0.0/8"), path_id }).collect();
    rib.update(PeerId(7), &Update { withdrawn, advertised: vec![] });
    drain(&mut rib, 2, &mut mirror);
    assert_eq!(numbers(&mirror, 65006), before, "each under the number that it had");
    assert_eq!(mirror.paths.len(), 10);
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
