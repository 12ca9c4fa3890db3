//! Which path is best, which are used beside it, and next hops.

use super::*;

#[test]
fn an_external_path_that_is_about_to_go_is_the_last_choice() {
    let mut rib = rib();
    rib.peer_up(PeerId(6), peer(6, 65006));
    rib.peer_up(PeerId(7), peer(7, 65007));
    rib.update(PeerId(6), &advertise(&["10.0.0.0/8"], |a| a.communities.push(Community::GRACEFUL_SHUTDOWN)));
    assert_eq!(best(&rib, "10.0.0.0/8").unwrap().0, Source::Peer { peer: PeerId(6), external: true });
    rib.update(PeerId(7), &advertise(&["10.0.0.0/8"], |a| a.as_path = AsPath::sequence((1..9).map(Asn))));
    assert_eq!(best(&rib, "10.0.0.0/8").unwrap().0, Source::Peer { peer: PeerId(7), external: true });
}

#[test]
fn paths_as_good_as_the_best_are_used_together_up_to_the_limit() {
    let mut rib = Rib::new(RibConfig { multipath: 3, resolve_next_hops: false, ..RibConfig::new(router_id(1)) });
    for last in (2..8).rev() {
        rib.peer_up(PeerId(last), peer(last as u8, 64512));
        rib.update(PeerId(last), &advertise(&["10.0.0.0/8"], via(last as u8 * 10)));
    }
    let (source, hops) = best(&rib, "10.0.0.0/8").unwrap();
    assert_eq!(source, Source::Peer { peer: PeerId(2), external: false });
    assert_eq!(hops, ["192.0.2.20", "192.0.2.30", "192.0.2.40"]);
    let standings: Vec<_> = rib.paths(prefix("10.0.0.0/8")).iter().map(|path| path.standing).collect();
    let lost = Standing::Lost(Step::RouterId);
    assert_eq!(lost.to_string(), "lost: router ID");
    assert_eq!(standings, [Standing::Best, Standing::Multipath, Standing::Multipath, lost, lost, lost]);
    rib.take_best_changes();
    rib.update(PeerId(3), &withdraw(&["10.0.0.0/8"]));
    let changes = rib.take_best_changes();
    assert_eq!(changes.len(), 1, "a change beside the best is one for the kernel");
    assert_eq!(changes[0].best.as_ref().unwrap().next_hops.len(), 3);
    // An own route is for ourselves alone.
    rib.originate(prefix("10.0.0.0/8"), LocalRoute::default());
    assert_eq!(best(&rib, "10.0.0.0/8"), Some((Source::Local(LocalKind::Block), vec![])));
}

#[test]
fn a_path_waits_for_its_next_hop_and_is_held_back_when_that_goes() {
    let mut rib = Rib::new(RibConfig::new(router_id(1)));
    rib.peer_up(PeerId(2), peer(2, 64512));
    rib.peer_up(PeerId(6), peer(6, 65006));
    let mut external = told(&mut rib, 6);
    external.log();
    rib.update(PeerId(2), &advertise(&["10.0.0.0/8", "10.1.0.0/16"], via(2)));
    assert_eq!(rib.take_next_hops(), [(address(2).into(), true)]);
    assert_eq!((rib.take_best_changes(), rib.best(prefix("10.0.0.0/8"))), (vec![], None));
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.log(), [""; 0], "what is not used is not advertised");
    rib.set_next_hop(address(2).into(), Reachability::Reachable { metric: 0, interface: None });
    assert_eq!(rib.take_best_changes().len(), 2);
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.prefixes(), ["10.0.0.0/8", "10.1.0.0/16"]);
    rib.set_next_hop(address(2).into(), Reachability::Unreachable);
    assert!(rib.take_best_changes().iter().all(|change| change.best.is_none()));
    assert_eq!(rib.paths(prefix("10.0.0.0/8"))[0].standing, Standing::Excluded(Exclusion::NextHop));
    drain(&mut rib, 6, &mut external);
    assert_eq!(external.prefixes(), [""; 0]);
    // A nearer next hop wins; the same answer again changes nothing.
    rib.set_next_hop(address(2).into(), Reachability::Reachable { metric: 10, interface: None });
    rib.peer_up(PeerId(3), peer(3, 64512));
    rib.update(PeerId(3), &advertise(&["10.0.0.0/8"], via(3)));
    rib.set_next_hop(address(3).into(), Reachability::Reachable { metric: 5, interface: None });
    assert_eq!(best(&rib, "10.0.0.0/8").unwrap().1, ["192.0.2.3"]);
    rib.take_best_changes();
    rib.set_next_hop(address(3).into(), Reachability::Reachable { metric: 5, interface: None });
    assert_eq!(rib.take_best_changes(), []);
    rib.take_next_hops();
    rib.remove_peer(PeerId(3));
    assert_eq!(rib.take_next_hops(), [(address(3).into(), false)]);
}

/// Before any attribute: what is connected, what runs here, what was made here, what peers tell, what the kernel knows.
#[test]
fn preference_decides_between_own_and_learned_paths() {
    const NORMAL: u32 = 1024;
    /// Whether the own route is best, against a learned path of this LOCAL_PREF.
    #[track_caller]
    fn check(kind: LocalKind, metric: u32, learned: u32, own_is_best: bool) {
        let mut rib = rib();
        rib.peer_up(PeerId(2), peer(2, 64512));
        rib.update(PeerId(2), &advertise(&["10.65.0.2/32"], |attributes| attributes.local_pref = Some(learned)));
        let local_pref = LocalRoute::local_pref(metric);
        rib.originate(prefix("10.65.0.2/32"), LocalRoute { kind, local_pref, ..LocalRoute::default() });
        let best = rib.best(prefix("10.65.0.2/32")).unwrap();
        assert_eq!(best.source == Source::Local(kind), own_is_best, "{kind:?} {metric} against {learned}");
        let paths = rib.paths(prefix("10.65.0.2/32"));
        let standings: Vec<_> = paths.iter().map(|path| path.standing.to_string()).collect();
        assert_eq!(standings, ["best", "lost: preference"], "both are shown");
    }
    let (normal, raised) = (LocalRoute::local_pref(NORMAL), LocalRoute::local_pref(512));
    for learned in [0, 100, normal] {
        check(LocalKind::Direct, NORMAL, learned, true);
        check(LocalKind::Block, NORMAL, learned, true);
        check(LocalKind::Service, NORMAL, learned, true);
        // A pod that runs here is here, whatever a stale path says.
        check(LocalKind::Workload, NORMAL, learned, true);
        check(LocalKind::Remote, NORMAL, learned, false);
        check(LocalKind::Kernel, 0, learned, false);
    }
    check(LocalKind::Direct, NORMAL, raised, true);
    check(LocalKind::Block, NORMAL, raised, true);
    // Live migration: it is where the raised path leads (vector R3), unless it is raised here, too; 0 is raised.
    check(LocalKind::Workload, NORMAL, raised, false);
    check(LocalKind::Workload, 512, raised, true);
    check(LocalKind::Workload, 0, LocalRoute::local_pref(1), true);
    check(LocalKind::Kernel, 0, raised, false);
}

#[test]
fn what_is_raised_follows_the_normal_metric_and_yields_to_a_rule_that_accepts_by_name() {
    let mut rib = rib();
    let host = prefix("10.65.0.2/32");
    let workload = LocalRoute { kind: LocalKind::Workload, ..LocalRoute::default() };
    rib.originate(host, workload);
    rib.peer_up(PeerId(2), peer(2, 64512));
    let raised = |attributes: &mut Attributes| attributes.local_pref = Some(LocalRoute::local_pref(512));
    rib.update(PeerId(2), &advertise(&["10.65.0.2/32"], raised));
    let learned = Source::Peer { peer: PeerId(2), external: false };
    assert_eq!(rib.best(host).unwrap().source, learned);
    let by_name = Policy::new(|_| Verdict::AcceptExplicitly(None));
    rib.set_policies(PeerId(2), Some(by_name), None);
    assert_eq!(rib.best(host).unwrap().source, Source::Local(LocalKind::Workload));
    rib.set_policies(PeerId(2), None, None);
    assert_eq!(rib.best(host).unwrap().source, learned);
    rib.take_best_changes();
    rib.set_normal_metrics(512, 1024);
    assert_eq!(rib.take_best_changes().len(), 1);
    assert_eq!(rib.best(host).unwrap().source, Source::Local(LocalKind::Workload), "512 is normal now");
    // However large the normal metric is, a LOCAL_PREF of other speakers is none of ours.
    rib.set_normal_metrics(0x7fff_fff0, 1024);
    rib.update(PeerId(2), &advertise(&["10.65.0.2/32"], |attributes| attributes.local_pref = Some(100)));
    assert_eq!(rib.best(host).unwrap().source, Source::Local(LocalKind::Workload));
}

#[test]
fn the_limit_of_multipath_counts_next_hops_not_reflectors() {
    let mut rib = Rib::new(RibConfig { multipath: 2, resolve_next_hops: false, ..RibConfig::new(router_id(1)) });
    for last in 2..8 {
        rib.peer_up(PeerId(last), peer(last as u8, 64512));
        rib.update(PeerId(last), &advertise(&["10.0.0.0/8"], via(last as u8 / 2 * 10)));
    }
    assert_eq!(best(&rib, "10.0.0.0/8").unwrap().1, ["192.0.2.10", "192.0.2.20"]);
    let chosen = rib.paths(prefix("10.0.0.0/8"));
    assert_eq!(chosen.iter().filter(|path| path.standing == Standing::Multipath).count(), 3);
}
