//! Several speakers' RIBs in one process, and what each tells the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::*;
use crate::{Advertisement, AsPath, Asn, ClusterId, Community, Context, ExtendedCommunity, Message, RouterId, message};

pub(super) const V4: Family = Family::Ipv4Unicast;

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(super) fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

pub(super) fn router_id(last: u8) -> RouterId {
    address(last).try_into().unwrap()
}

pub(super) fn context(internal: bool) -> Context {
    Context { four_octet_as: true, internal, families: Families::ALL, ..Context::default() }
}

/// A peer 192.0.2.`last` of 192.0.2.1, in AS 64512 as we are, or another.
pub(super) fn peer(last: u8, asn: u32) -> PeerConfig {
    PeerConfig {
        address: address(last).into(),
        router_id: router_id(last),
        peer_as: Asn(asn),
        local_as: Asn(64512),
        context: context(asn == 64512),
        client: false,
        cluster_id: None,
        next_hop: NextHopMode::Auto,
        next_hop_v4: Some(address(1)),
        next_hop_v6: None,
        restarting: false,
        sends_end_of_rib: true,
        allowed_local_as: 0,
        long_lived_aware: true,
        paths_limit: PeerConfig::PATHS_LIMIT,
        import: None,
        export: None,
    }
}

pub(super) fn client(last: u8) -> PeerConfig {
    PeerConfig { client: true, cluster_id: Some(ClusterId(Ipv4Addr::new(244, 0, 0, 1))), ..peer(last, 64512) }
}

/// A RIB at 192.0.2.1 that needs no next hops resolved.
fn rib() -> Rib {
    Rib::new(RibConfig { resolve_next_hops: false, ..RibConfig::new(router_id(1)) })
}

pub(super) fn advertise(prefixes: &[&str], change: impl FnOnce(&mut Attributes)) -> Update {
    let mut attributes = Attributes::new(address(99).into());
    change(&mut attributes);
    let nlri = prefixes.iter().map(|text| prefix(text).into()).collect();
    Update { withdrawn: vec![], advertised: vec![Advertisement { attributes: Arc::new(attributes), nlri }] }
}

pub(super) fn withdraw(prefixes: &[&str]) -> Update {
    Update { withdrawn: prefixes.iter().map(|text| prefix(text).into()).collect(), advertised: vec![] }
}

fn via(last: u8) -> impl FnOnce(&mut Attributes) {
    move |attributes| attributes.next_hop = address(last).into()
}

/// What the other end of a session holds, from the octets that it was sent.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    pub(super) paths: BTreeMap<Nlri, Attributes>,
    log: Vec<String>,
}

impl Mirror {
    pub(super) fn take(&mut self, mut octets: &[u8], cx: &Context) {
        let cx = Context { add_path_receive: cx.add_path_send, ..*cx };
        while !octets.is_empty() {
            let length = message::frame(octets, cx.maximum()).unwrap().unwrap();
            let (message, faults) = Message::decode(&octets[..length], &cx).unwrap();
            assert_eq!(faults, []);
            match message {
                Message::Update(update) => {
                    for nlri in update.withdrawn {
                        self.log.push(format!("-{nlri}"));
                        self.paths.remove(&nlri);
                    }
                    for entry in update.advertised {
                        for nlri in entry.nlri {
                            self.log.push(format!("+{nlri}"));
                            self.paths.insert(nlri, (*entry.attributes).clone());
                        }
                    }
                }
                Message::EndOfRib(family) => self.log.push(format!("end {family}")),
                Message::RouteRefresh(refresh) => self.log.push(format!("{:?}", refresh.kind)),
                other => panic!("{other:?}"),
            }
            octets = &octets[length..];
        }
    }

    fn prefixes(&self) -> Vec<String> {
        self.paths.keys().map(ToString::to_string).collect()
    }

    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

/// Everything that there is to say to a peer.
pub(super) fn drain(rib: &mut Rib, id: u32, mirror: &mut Mirror) {
    let cx = rib.books.peer(PeerId(id)).map(|peer| peer.config.context).unwrap_or_default();
    while let Some(octets) = rib.poll_output(PeerId(id), 16_384) {
        mirror.take(&octets, &cx);
    }
}

fn told(rib: &mut Rib, id: u32) -> Mirror {
    let mut mirror = Mirror::default();
    drain(rib, id, &mut mirror);
    mirror
}

fn best(rib: &Rib, text: &str) -> Option<(Source, Vec<String>)> {
    let best = rib.best(prefix(text))?;
    Some((best.source, best.next_hops.iter().map(ToString::to_string).collect()))
}

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
