//! RFC 4456: who learns what of whom, and what a reflector adds.

use super::*;

/// RFC 4271 §9.2, RFC 4456 §6: who learns a path of whom. 2 and 3 are clients, 4 and 5 ordinary internal peers, 6 and
/// 7 external ones.
#[test]
fn reflection_follows_the_rules_of_rfc_4456() {
    #[track_caller]
    fn check(from: u32, expect: &[u32]) {
        let mut rib = rib();
        for (id, config) in [
            (2, client(2)),
            (3, client(3)),
            (4, peer(4, 64512)),
            (5, peer(5, 64512)),
            (6, peer(6, 65006)),
            (7, peer(7, 65007)),
        ] {
            rib.peer_up(PeerId(id), config);
        }
        rib.update(PeerId(from), &advertise(&["10.65.0.0/26"], via(99)));
        let learned: Vec<_> = (2..8).filter(|id| !told(&mut rib, *id).paths.is_empty()).collect();
        assert_eq!(learned, expect, "of {from}");
    }
    check(2, &[3, 4, 5, 6, 7]);
    check(4, &[2, 3, 6, 7]);
    check(6, &[2, 3, 4, 5, 7]);
}

#[test]
fn a_reflector_adds_originator_and_cluster_and_changes_nothing_else() {
    let mut rib = rib();
    rib.peer_up(PeerId(2), client(2));
    rib.peer_up(PeerId(3), client(3));
    rib.peer_up(PeerId(6), peer(6, 65006));
    rib.update(
        PeerId(2),
        &advertise(&["10.65.0.0/26"], |attributes| {
            attributes.next_hop = address(2).into();
            attributes.local_pref = Some(7);
            attributes.med = Some(9);
            attributes.extended_communities = vec![ExtendedCommunity(0x4000_0000_0000_0001), ExtendedCommunity(1)];
            attributes.extended_communities.sort();
        }),
    );
    let reflected = told(&mut rib, 3).paths.pop_first().unwrap().1;
    assert_eq!(reflected.originator_id, Some(router_id(2)));
    assert_eq!(reflected.cluster_list, [ClusterId(Ipv4Addr::new(244, 0, 0, 1))]);
    assert_eq!((reflected.next_hop, reflected.local_pref, reflected.med), (address(2).into(), Some(7), Some(9)));
    assert_eq!(reflected.extended_communities.len(), 2);
    let external = told(&mut rib, 6).paths.pop_first().unwrap().1;
    assert_eq!((external.originator_id, external.cluster_list.len(), external.local_pref), (None, 0, None));
    assert_eq!((external.med, external.next_hop), (Some(0), address(1).into()));
    assert_eq!(external.extended_communities, [ExtendedCommunity(1)], "the non-transitive one stays in the AS");
    // A second reflector adds itself in front and leaves the originator.
    rib.update(
        PeerId(2),
        &advertise(&["10.65.1.0/26"], |attributes| {
            attributes.originator_id = Some(router_id(50));
            attributes.cluster_list = vec![ClusterId(address(60))];
        }),
    );
    let twice = told(&mut rib, 3).paths[&prefix("10.65.1.0/26").into()].clone();
    assert_eq!(twice.originator_id, Some(router_id(50)));
    assert_eq!(twice.cluster_list, [ClusterId(Ipv4Addr::new(244, 0, 0, 1)), ClusterId(address(60))]);
}

#[test]
fn loops_are_received_counted_and_never_used() {
    let mut rib = rib();
    rib.peer_up(PeerId(2), client(2));
    rib.peer_up(PeerId(6), peer(6, 65006));
    rib.update(PeerId(6), &advertise(&["10.1.0.0/16"], |a| a.as_path = AsPath::sequence([Asn(65006), Asn(64512)])));
    rib.update(PeerId(2), &advertise(&["10.2.0.0/16"], |a| a.originator_id = Some(router_id(1))));
    let own = ClusterId(Ipv4Addr::new(244, 0, 0, 1));
    rib.update(PeerId(2), &advertise(&["10.3.0.0/16"], |a| a.cluster_list = vec![ClusterId(address(9)), own]));
    // Not only of clients: two reflectors of one cluster drop what each has reflected (RFC 4456 §8).
    rib.peer_up(PeerId(4), PeerConfig { cluster_id: Some(own), ..peer(4, 64512) });
    rib.update(PeerId(4), &advertise(&["10.5.0.0/16"], |a| a.cluster_list = vec![own]));
    rib.update(PeerId(4), &advertise(&["10.6.0.0/16"], |a| a.originator_id = Some(router_id(1))));
    // From an external peer, reflection's attributes mean nothing, nor does LOCAL_PREF.
    rib.update(
        PeerId(6),
        &advertise(&["10.4.0.0/16"], |a| {
            (a.originator_id, a.cluster_list, a.local_pref) = (Some(router_id(1)), vec![own], Some(5000));
        }),
    );
    for (text, exclusion) in [
        ("10.1.0.0/16", Exclusion::AsLoop),
        ("10.2.0.0/16", Exclusion::OwnOriginator),
        ("10.3.0.0/16", Exclusion::ClusterLoop),
        ("10.5.0.0/16", Exclusion::ClusterLoop),
        ("10.6.0.0/16", Exclusion::OwnOriginator),
    ] {
        assert_eq!(rib.paths(prefix(text))[0].standing, Standing::Excluded(exclusion));
        assert_eq!(rib.best(prefix(text)), None);
    }
    assert_eq!(rib.best(prefix("10.4.0.0/16")).unwrap().attributes.local_pref, None);
    let counts = rib.counts(PeerId(6), V4);
    assert_eq!((counts.received, counts.accepted, counts.advertised), (2, 1, 0));
    // One occurrence may be allowed.
    rib.set_peer_config(PeerId(6), PeerConfig { allowed_local_as: 1, ..peer(6, 65006) });
    assert_eq!(rib.counts(PeerId(6), V4).accepted, 2);
}

/// Reflectors of different clusters are each other's clients; each adds its own cluster, and so ends the loop.
#[test]
fn two_clusters_pass_paths_on_to_each_other_and_no_path_comes_back() {
    let cluster = |last: u8| Some(ClusterId(Ipv4Addr::new(244, 0, 0, last)));
    let reflector = |id: u8, other: u8| {
        let mut rib = Rib::new(RibConfig { resolve_next_hops: false, ..RibConfig::new(router_id(id)) });
        rib.peer_up(PeerId(other.into()), PeerConfig { cluster_id: cluster(id), ..client(other) });
        rib.peer_up(PeerId(9), PeerConfig { cluster_id: cluster(id), ..client(9 + id) });
        rib
    };
    let (mut one, mut two) = (reflector(1, 2), reflector(2, 1));
    one.update(PeerId(9), &advertise(&["10.65.0.0/26"], via(10)));
    let tell = |rib: &mut Rib, to: u32| -> Vec<Attributes> { told(rib, to).paths.into_values().collect() };
    let pass = |rib: &mut Rib, from: u32, attributes: &Attributes| {
        let nlri = vec![prefix("10.65.0.0/26").into()];
        let advertised = vec![Advertisement { attributes: Arc::new(attributes.clone()), nlri }];
        rib.update(PeerId(from), &Update { withdrawn: vec![], advertised });
    };
    let at_two = tell(&mut one, 2);
    pass(&mut two, 1, &at_two[0]);
    let at_client = tell(&mut two, 9);
    assert_eq!(at_client[0].cluster_list, [cluster(2).unwrap(), cluster(1).unwrap()]);
    assert_eq!(at_client[0].originator_id, Some(router_id(10)));
    assert_eq!(at_client[0].next_hop, IpAddr::from(address(10)));
    // By a detour over that client, a third reflector say, it is known for what it is.
    pass(&mut one, 2, &at_client[0]);
    let standings: Vec<_> = one.paths(prefix("10.65.0.0/26")).iter().map(|path| path.standing.to_string()).collect();
    assert_eq!(standings, ["best", "excluded: our cluster is in its CLUSTER_LIST"]);
}
