//! Graceful restart, deferral and refresh.

use super::*;

#[test]
fn a_graceful_restart_changes_nothing_for_anyone() {
    let mut rib = rib();
    rib.peer_up(PeerId(2), client(2));
    rib.peer_up(PeerId(3), client(3));
    let paths = ["10.65.0.0/26", "10.65.1.0/26"];
    rib.update(PeerId(2), &advertise(&paths, via(2)));
    let mut other = told(&mut rib, 3);
    other.log();
    rib.take_best_changes();
    rib.peer_down(PeerId(2), Families::ALL);
    assert_eq!(rib.counts(PeerId(2), V4).stale, 2);
    rib.peer_up(PeerId(2), client(2));
    rib.update(PeerId(2), &advertise(&paths, via(2)));
    rib.end_of_rib(PeerId(2), V4);
    rib.sweep_stale(PeerId(2), V4);
    assert_eq!(rib.take_best_changes(), []);
    drain(&mut rib, 3, &mut other);
    assert_eq!(other.log(), [""; 0], "not one message");
    // What is not told again goes with the sweep; a second failure takes the first generation at once.
    rib.peer_down(PeerId(2), Families::ALL);
    rib.peer_up(PeerId(2), client(2));
    rib.update(PeerId(2), &advertise(&paths[..1], via(2)));
    rib.peer_down(PeerId(2), Families::ALL);
    drain(&mut rib, 3, &mut other);
    assert_eq!(other.log(), ["-10.65.1.0/26"]);
    rib.sweep_stale(PeerId(2), V4);
    drain(&mut rib, 3, &mut other);
    assert_eq!(other.log(), ["-10.65.0.0/26"]);
    assert_eq!(rib.prefixes().count(), 0);
}

#[test]
fn while_selection_is_deferred_only_own_routes_go_out_but_the_kernel_learns_all() {
    let mut rib = rib();
    rib.set_deferral(true);
    rib.originate(prefix("10.65.0.0/26"), LocalRoute::default());
    rib.peer_up(PeerId(2), client(2));
    rib.peer_up(PeerId(3), PeerConfig { restarting: true, ..client(3) });
    rib.peer_up(PeerId(4), PeerConfig { sends_end_of_rib: false, ..client(4) });
    rib.take_best_changes();
    rib.update(PeerId(2), &advertise(&["10.65.1.0/26"], via(2)));
    let mut mirror = told(&mut rib, 3);
    assert_eq!(mirror.log(), ["+10.65.0.0/26"]);
    let changed = |rib: &mut Rib| -> BTreeSet<_> {
        rib.take_best_changes().into_iter().map(|change| change.prefix.to_string()).collect()
    };
    assert_eq!(changed(&mut rib), BTreeSet::from(["10.65.1.0/26".to_owned()]));
    assert_eq!(rib.awaited(), [PeerId(2)], "neither one that restarts itself nor one that has no End-of-RIB");
    rib.end_of_rib(PeerId(2), V4);
    rib.end_of_rib(PeerId(2), Family::Ipv6Unicast);
    assert_eq!(rib.awaited(), []);
    rib.set_deferral(false);
    assert_eq!(changed(&mut rib), BTreeSet::new(), "the kernel knows already");
    drain(&mut rib, 3, &mut mirror);
    assert_eq!(mirror.log(), ["+10.65.1.0/26", "end IPv4 unicast", "end IPv6 unicast"]);
}

#[test]
fn a_refresh_tells_all_again_between_its_marks() {
    let mut rib = rib();
    rib.originate(prefix("10.65.0.0/26"), LocalRoute::default());
    let context = Context { enhanced_refresh: true, ..context(true) };
    rib.peer_up(PeerId(2), PeerConfig { context, ..peer(2, 64512) });
    rib.peer_up(PeerId(3), peer(3, 64512));
    let (mut marked, mut plain) = (told(&mut rib, 2), told(&mut rib, 3));
    marked.log();
    plain.log();
    rib.refresh(PeerId(2), V4);
    rib.refresh(PeerId(2), V4); // one answer is enough
    rib.refresh(PeerId(3), V4);
    drain(&mut rib, 2, &mut marked);
    drain(&mut rib, 3, &mut plain);
    assert_eq!(marked.log(), ["Begin", "+10.65.0.0/26", "End"]);
    assert_eq!(plain.log(), ["+10.65.0.0/26"]);
    // The other way: what a peer does not send again between its marks goes.
    rib.update(PeerId(2), &advertise(&["10.1.0.0/16", "10.2.0.0/16"], via(2)));
    rib.mark_stale(PeerId(2), V4);
    rib.update(PeerId(2), &advertise(&["10.1.0.0/16"], via(2)));
    rib.sweep_stale(PeerId(2), V4);
    let counts = rib.counts(PeerId(2), V4);
    assert_eq!((counts.received, counts.stale), (1, 0));
}
