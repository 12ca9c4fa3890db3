//! What a RIB and what is told to it come to.

use bgp_proto::{Attributes, LocalKind};

use super::*;
use crate::kernel::KernelRoute;
use crate::status::Selection;

#[test]
fn a_next_hop_that_is_dropped_and_used_again_is_still_reachable() {
    let (router_id, peer) = (std::net::Ipv4Addr::new(10, 0, 0, 1), IpAddr::from([10, 0, 0, 2]));
    let mut rib = Rib::new(RibConfig::new(RouterId::try_from(router_id).unwrap()));
    let config = PeerConfig {
        address: peer,
        router_id: RouterId::try_from(std::net::Ipv4Addr::new(10, 0, 0, 2)).unwrap(),
        peer_as: Asn(64512),
        local_as: Asn(64512),
        context: bgp_proto::Context { families: Family::Ipv4Unicast.into(), internal: true, ..Default::default() },
        client: false,
        cluster_id: None,
        next_hop: bgp_proto::NextHopMode::Auto,
        next_hop_v4: Some(router_id),
        next_hop_v6: None,
        allowed_local_as: 0,
        long_lived_aware: true,
        paths_limit: PeerConfig::PATHS_LIMIT,
        import: None,
        export: None,
        restarting: false,
        sends_end_of_rib: true,
    };
    rib.peer_up(PeerId(0), config);
    let mut routing = Routing { rib: Some(rib), ..Routing::default() };
    let (old, new): (Prefix, Prefix) = ("10.244.1.0/26".parse().unwrap(), "10.244.2.0/26".parse().unwrap());
    let advertise = |prefix: Prefix| {
        let attributes = std::sync::Arc::new(Attributes::new(peer));
        Update {
            advertised: vec![bgp_proto::Advertisement { attributes, nlri: vec![prefix.into()] }],
            ..Update::default()
        }
    };
    routing.update(0, &advertise(old));
    assert_eq!(routing.take_next_hops(), [(peer, true)]);
    assert!(routing.awaits_next_hops());
    routing.reachable(&Reachable::from([(peer, Some(Reach { metric: 0, interface: None }))]));
    assert!(!routing.awaits_next_hops() && routing.collect());

    // Within one batch, so that the kernel's thread sees no difference.
    routing.update(0, &Update { withdrawn: vec![old.into()], ..Update::default() });
    routing.update(0, &advertise(new));
    routing.take_next_hops();
    routing.collect();
    let learned: Vec<_> = routing.take_changes().into_iter().filter(|(_, learned)| learned.is_some()).collect();
    assert_eq!(learned.len(), 1, "{learned:?}");
    assert_eq!(learned[0].0, IpNet::from(new));
}

#[test]
fn own_blocks_are_nothing_to_the_kernel_and_survive_a_new_identity() {
    let mut routing = Routing::default();
    let block: IpNet = "10.244.1.0/26".parse().unwrap();
    let originated =
        |blocks: &[IpNet]| Originated { blocks: blocks.iter().copied().collect(), ..Originated::default() };
    routing.originate(originated(&[block]));
    for id in [[10, 0, 0, 1], [10, 0, 0, 9]] {
        routing.identify(RouterId::try_from(std::net::Ipv4Addr::from(id)).unwrap());
        routing.collect();
        assert!(routing.take_changes().iter().all(|(prefix, learned)| *prefix == block && learned.is_none()));
        let paths = routing.paths(&Selection::ALL, &BTreeMap::new());
        assert_eq!((paths.len(), paths[0].source.as_str(), paths[0].best), (1, "static1", true));
    }
    routing.originate(originated(&[]));
    assert!(routing.paths(&Selection::ALL, &BTreeMap::new()).is_empty());
}

#[test]
fn a_route_of_the_kernel_is_an_own_route_and_says_why_a_peer_is_not_told() {
    let mut routing = Routing::default();
    routing.identify(RouterId::try_from(std::net::Ipv4Addr::new(10, 0, 0, 1)).unwrap());
    let pod: IpNet = "10.244.9.7/32".parse().unwrap();
    let route = KernelRoute { kind: LocalKind::Workload, gateway: None, interface: Some("cali7".into()), metric: 1024 };
    routing.kernel_routes(vec![(pod, Some(route))]);
    let silent = Some("the session is not established (start)".to_owned());
    let address = [10, 0, 0, 2].into();
    let sessions = BTreeMap::from([(0, SessionView { name: "Mesh_10_0_0_2".to_owned(), address, silent })]);
    let selection = Selection { prefix: Some(pod), around: false, audience: true };
    let [path] = routing.paths(&selection, &sessions).try_into().unwrap();
    assert_eq!((path.kind, path.source.as_str(), path.local_pref), (Some("workload"), "kernel1", Some(2_147_482_623)));
    assert_eq!(path.interface.as_deref(), Some("cali7"));
    assert_eq!(path.not_advertised_to["Mesh_10_0_0_2"], "the session is not established (start)");
    routing.kernel_routes(vec![(pod, None)]);
    assert!(routing.paths(&selection, &sessions).is_empty());
}

/// An internal peer, with what was agreed with it.
fn internal(last: u8) -> (SessionConfig, Negotiated) {
    use bgp_proto::{Context, Direction, HoldTime};
    let peer = std::net::Ipv4Addr::new(10, 0, 0, last);
    let config = SessionConfig::new(bgp_plan::sessions::Origin::Node, (peer, 179).into(), 64512, 64512);
    let families = Family::Ipv4Unicast.into();
    let negotiated = Negotiated {
        peer_as: Asn(64512),
        router_id: RouterId::try_from(peer).unwrap(),
        hold_time: HoldTime::try_from(240).unwrap(),
        context: Context { families, internal: true, four_octet_as: true, ..Context::default() },
        route_refresh: true,
        graceful_restart: None,
        notification_restart: false,
        long_lived_aware: false,
        local_address: [10, 0, 0, 1].into(),
        direction: Direction::Outgoing,
        sent: Vec::new(),
        received: Vec::new(),
    };
    (config, negotiated)
}

#[test]
fn client_cluster_and_next_hop_change_what_a_peer_is_told_while_it_is_up() {
    let mut routing = Routing::new(true);
    routing.identify(RouterId::try_from(std::net::Ipv4Addr::new(10, 0, 0, 1)).unwrap());
    let (mut from, from_agreed) = internal(2);
    let (mut to, to_agreed) = internal(3);
    routing.peer_up(0, &from, &from_agreed, Policies::default());
    routing.peer_up(1, &to, &to_agreed, Policies::default());
    let prefix: Prefix = "10.244.7.0/26".parse().unwrap();
    let attributes = std::sync::Arc::new(Attributes::new([10, 0, 0, 2].into()));
    let advertised = vec![bgp_proto::Advertisement { attributes, nlri: vec![prefix.into()] }];
    routing.update(0, &Update { advertised, ..Update::default() });
    let told = |routing: &mut Routing| -> Vec<u8> {
        std::iter::from_fn(|| routing.next_output(1)).flat_map(|octets| octets.to_vec()).collect()
    };
    let has = |octets: &[u8], part: &[u8]| octets.windows(part.len()).any(|window| window == part);
    let announced = [26, 10, 244, 7, 0];
    assert!(!has(&told(&mut routing), &announced), "one internal peer's routes are not for another");

    from.client = true;
    to.cluster_id = Some([244, 0, 0, 1].into());
    from.cluster_id = to.cluster_id;
    routing.peer_changed(0, &from, &from_agreed, Policies::default());
    routing.peer_changed(1, &to, &to_agreed, Policies::default());
    let update = told(&mut routing);
    assert!(has(&update, &announced) && has(&update, &[10, 4, 244, 0, 0, 1]), "reflected with the cluster: {update:?}");
    assert!(has(&update, &[3, 4, 10, 0, 0, 2]), "and the next hop of the client: {update:?}");

    to.next_hop = NextHopMode::Own;
    routing.peer_changed(1, &to, &to_agreed, Policies::default());
    let update = told(&mut routing);
    assert!(has(&update, &announced) && has(&update, &[3, 4, 10, 0, 0, 1]), "{update:?}");

    to.cluster_id = Some([244, 0, 0, 2].into());
    routing.peer_changed(1, &to, &to_agreed, Policies::default());
    let update = told(&mut routing);
    assert!(has(&update, &announced) && has(&update, &[10, 4, 244, 0, 0, 2]), "{update:?}");
    routing.peer_changed(1, &to, &to_agreed, Policies::default());
    assert_eq!(told(&mut routing), [0; 0], "no change, no word");

    from.client = false;
    routing.peer_changed(0, &from, &from_agreed, Policies::default());
    let update = told(&mut routing);
    assert!(has(&update, &[0, 5, 26, 10, 244, 7, 0]), "withdrawn: {update:?}");
}
