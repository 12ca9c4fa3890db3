//! Next hops, verdicts, and the vectors of `bgp.md` §2.14 that are about the kernel.

use std::collections::BTreeSet;

use bgp_plan::inputs::{Encap, Pool};
use calico_netlink::NextHop;

use super::*;

const ETH0: u32 = 2;
const TUNL0: u32 = 4;
const CALI: u32 = 9;
const BY_KERNEL: u8 = 2;
const STATIC: u8 = 4;
const FELIX: u8 = 80;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn foreign(metric: u32, protocol: u8, hops: &[NextHop]) -> Foreign {
    Foreign { metric, protocol, hops: hops.to_vec() }
}

impl Fib {
    fn with_link(mut self, index: u32, name: &str, up: bool) -> Self {
        self.whole_image().link(index, Some(LinkFacts { name: name.to_owned(), kind: None, up }));
        self
    }

    fn with(mut self, prefix: &str, route: Foreign) -> Self {
        self.image_of(&net(prefix)).route(net(prefix), route, true);
        self
    }

    fn without(mut self, prefix: &str, route: Foreign) -> Self {
        self.image_of(&net(prefix)).route(net(prefix), route, false);
        self
    }

    fn owning(mut self, ownership: Ownership) -> Self {
        self.set_ownership(ownership);
        self
    }

    /// Takes a path from a peer.
    fn learning(mut self, prefix: &str, next_hops: &[&str]) -> Self {
        self.learn(net(prefix), Some(learned(next_hops, None)));
        self
    }

    #[track_caller]
    fn check(&self, prefix: &str, next_hops: &[&str], local_pref: Option<u32>, expected: Verdict) {
        let verdict = self.judge(&net(prefix), &learned(next_hops, local_pref));
        assert_eq!(verdict, expected, "{prefix} via {next_hops:?}");
    }
}

fn learned(next_hops: &[&str], local_pref: Option<u32>) -> Learned {
    Learned { next_hops: next_hops.iter().map(|text| ip(text)).collect(), local_pref, peer: None }
}

fn default_route() -> Foreign {
    foreign(100, 16, &[NextHop::via(ip("10.0.0.254")).on(ETH0)])
}

/// A node 10.0.0.1/24 on `eth0` with a default route via 10.0.0.254, a pod's interface and the IPIP tunnel.
fn fib() -> Fib {
    let mut fib = Fib::default()
        .with_link(ETH0, "eth0", true)
        .with_link(CALI, "cali1", true)
        .with_link(TUNL0, "tunl0", true)
        .with("10.0.0.0/24", foreign(0, BY_KERNEL, &[NextHop::dev(ETH0)]))
        .with("0.0.0.0/0", default_route())
        .owning(ownership());
    fib.image_of(&net("10.0.0.1/32")).address(ip("10.0.0.1"), ETH0, true);
    fib
}

fn pool(cidr: &str, encap: Encap) -> Pool {
    Pool { cidr: net(cidr), encap, disable_bgp_export: false }
}

fn ownership() -> Ownership {
    Ownership {
        pools: vec![
            pool("10.244.0.0/16", Encap::None),
            pool("10.244.128.0/24", Encap::Vxlan { cross_subnet: false }),
            pool("10.245.0.0/16", Encap::Ipip { cross_subnet: false }),
            pool("10.246.0.0/16", Encap::Ipip { cross_subnet: true }),
        ],
        blocks: BTreeSet::from([net("10.244.0.0/26")]),
        services: vec![net("10.96.0.0/12"), net("198.51.100.0/24")],
        ipip: true,
        address_v4: Some("10.0.0.1/24".parse().unwrap()),
        ..Ownership::default()
    }
}

fn install(gateways: &[&str], metric: u32) -> Verdict {
    let hops = gateways.iter().map(|text| Hop { gateway: ip(text), interface: ETH0, onlink: false }).collect();
    Verdict::Install { hops, metric }
}

fn tunnel(gateways: &[&str]) -> Verdict {
    let hops = gateways.iter().map(|text| Hop { gateway: ip(text), interface: TUNL0, onlink: true }).collect();
    Verdict::Install { hops, metric: 1024 }
}

fn elsewhere(who: Elsewhere) -> Verdict {
    Verdict::Elsewhere(who)
}

fn held_back(reason: Unreachable) -> Verdict {
    Verdict::HeldBack(reason)
}

#[test]
fn next_hops_resolve_on_the_link_or_through_others_routes() {
    let hop = |gateway| Ok(Hop { gateway: ip(gateway), interface: ETH0, onlink: false });
    let fib = fib();
    assert_eq!(fib.resolve(ip("10.0.0.2")), hop("10.0.0.2"));
    assert_eq!(fib.resolve(ip("192.0.2.1")), hop("10.0.0.254"));
    assert_eq!(fib.resolve(ip("10.0.0.1")), Err(Unreachable::Own));
    assert_eq!(fib.resolve(ip("fd00::1")), Err(Unreachable::NoRoute));
    let hole = foreign(0, STATIC, &[]);
    let fib = fib.with("192.0.2.0/24", hole.clone());
    assert_eq!(fib.resolve(ip("192.0.2.1")), Err(Unreachable::BlackHole));
    let mut fib = fib.without("192.0.2.0/24", hole);
    assert_eq!(fib.resolve(ip("192.0.2.1")), hop("10.0.0.254"));
    assert_eq!(fib.whole_image().link_down(ETH0), [net("0.0.0.0/0"), net("10.0.0.0/24")]);
    assert_eq!(fib.resolve(ip("192.0.2.1")), Err(Unreachable::NoRoute));
    // A lower metric wins for one prefix.
    let other = foreign(50, STATIC, &[NextHop::via(ip("10.0.0.253")).on(ETH0)]);
    assert_eq!(self::fib().with("0.0.0.0/0", other).resolve(ip("192.0.2.1")), hop("10.0.0.253"));
}

#[test]
fn next_hops_resolve_through_learned_routes_over_some_steps_and_never_in_a_circle() {
    let hop = |gateway| Ok(Hop { gateway: ip(gateway), interface: ETH0, onlink: false });
    let fib = fib()
        .learning("192.0.2.0/24", &["10.0.0.2"])
        .learning("203.0.113.0/24", &["192.0.2.1"])
        .learning("100.64.1.0/24", &["100.64.2.1"])
        .learning("100.64.2.0/24", &["100.64.1.1"]);
    assert_eq!(fib.resolve(ip("203.0.113.1")), hop("10.0.0.2"));
    // In a circle the next shorter route takes over, as it was before either was learned.
    assert_eq!(fib.resolve(ip("100.64.1.1")), hop("10.0.0.254"));
    fib.check("100.64.1.0/24", &["100.64.2.1"], None, install(&["10.0.0.254"], 1024));
    let mut fib = fib.without("0.0.0.0/0", default_route());
    assert_eq!(fib.resolve(ip("100.64.1.1")), Err(Unreachable::NoRoute), "two that hold each other up hold nothing");
    fib.check("100.64.2.0/24", &["100.64.1.1"], None, held_back(Unreachable::NoRoute));
    assert_eq!(fib.resolve(ip("203.0.113.1")), hop("10.0.0.2"));
    // What is looked up once is looked up again when a learned route changes.
    fib.learn(net("192.0.2.0/24"), None);
    assert_eq!(fib.resolve(ip("203.0.113.1")), Err(Unreachable::NoRoute));
    fib.learn(net("192.0.2.0/24"), Some(learned(&["10.0.0.3"], None)));
    assert_eq!(fib.resolve(ip("203.0.113.1")), hop("10.0.0.3"));
    // Deeper than any sane network, and not for ever.
    for n in 0..100u8 {
        fib.learn(net(&format!("100.65.{n}.0/24")), Some(learned(&[&format!("100.65.{}.1", n + 1)], None)));
    }
    assert_eq!(fib.resolve(ip("100.65.0.1")), Err(Unreachable::NoRoute));
}

#[test]
fn who_is_on_the_link_is_reached_on_the_link_whatever_is_learned() {
    let fib = fib().learning("10.0.0.0/25", &["10.0.0.200"]).learning("10.0.0.2/32", &["10.0.0.200"]);
    assert_eq!(fib.resolve(ip("10.0.0.2")), Ok(Hop { gateway: ip("10.0.0.2"), interface: ETH0, onlink: false }));
}

#[test]
fn a_route_never_leads_to_its_own_next_hop() {
    let fib = fib();
    for (prefix, next_hop) in [("192.0.2.0/24", "192.0.2.1"), ("10.0.0.2/32", "10.0.0.2"), ("0.0.0.0/0", "192.0.2.1")] {
        fib.check(prefix, &[next_hop], None, held_back(Unreachable::CoversNextHop));
    }
    // But where something longer leads to the next hop, it may.
    fib.check("0.0.0.0/0", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    fib.check("10.0.0.0/8", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    fib.check("192.0.2.0/24", &["192.0.2.1", "10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    fib.learning("192.0.2.0/28", &["10.0.0.3"]).check(
        "192.0.2.0/24",
        &["192.0.2.1"],
        None,
        install(&["10.0.0.3"], 1024),
    );
}

#[test]
fn a_route_never_takes_the_packets_of_the_session_that_it_was_learned_by() {
    let of = |peer: &str| Learned { peer: Some(ip(peer)), ..learned(&["10.0.0.3"], None) };
    let fib = fib();
    let check =
        |fib: &Fib, prefix: &str, peer: &str, expected| assert_eq!(fib.judge(&net(prefix), &of(peer)), expected);
    let installed = install(&["10.0.0.3"], 1024);
    // A loopback that another peer, the rack's router, tells the way to is what such routes are for.
    check(&fib, "192.0.2.1/32", "10.0.0.254", installed.clone());
    check(&fib, "192.0.2.1/32", "192.0.2.1", held_back(Unreachable::CoversPeer));
    check(&fib, "10.0.0.2/32", "10.0.0.2", held_back(Unreachable::CoversPeer));
    check(&fib, "0.0.0.0/0", "10.0.0.2", installed.clone());
    assert_eq!(of("192.0.2.1").depends_on(&net("192.0.2.0/24")), [ip("10.0.0.3"), ip("192.0.2.1")]);
    let fib = fib.with("192.0.2.1/32", foreign(0, STATIC, &[NextHop::via(ip("10.0.0.9")).on(ETH0)]));
    check(&fib, "192.0.2.0/24", "192.0.2.1", installed);
}

#[test]
fn a_static_route_to_a_peer_counts_while_its_gateway_is_on_a_link() {
    let mut fib = fib();
    fib.set_statics(BTreeMap::from([(ip("192.0.2.1"), ip("10.0.0.7"))]));
    let hop = |gateway| Ok(Hop { gateway: ip(gateway), interface: ETH0, onlink: false });
    assert_eq!(fib.resolve(ip("192.0.2.1")), hop("10.0.0.7"));
    fib.check("10.244.1.0/26", &["192.0.2.1"], None, install(&["10.0.0.7"], 1024));
    fib.check("192.0.2.1/32", &["10.0.0.2"], None, elsewhere(Elsewhere::Static));
    fib.check("192.0.2.0/24", &["192.0.2.1"], None, install(&["10.0.0.7"], 1024));
    let peer = BTreeSet::from([net("192.0.2.1/32")]);
    assert_eq!(fib.set_statics(BTreeMap::from([(ip("192.0.2.1"), ip("172.16.0.1"))])), peer);
    assert_eq!(fib.resolve(ip("192.0.2.1")), hop("10.0.0.254"));
    assert_eq!(fib.resolve_on_link(ip("172.16.0.1")), Err(Unreachable::NoRoute));
    assert_eq!(fib.set_statics(BTreeMap::new()), peer);
    fib.check("192.0.2.1/32", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
}

#[test]
fn networks_of_ignored_interfaces_are_neither_connected_nor_lead_anywhere() {
    let docker = |ignored: &[&str]| {
        let ownership =
            Ownership { ignored_interfaces: ignored.iter().map(|text| (*text).to_owned()).collect(), ..ownership() };
        fib()
            .with_link(7, "docker0", true)
            .with("172.17.0.0/16", foreign(0, BY_KERNEL, &[NextHop::dev(7)]))
            .with_link(8, "kube-ipvs0", true)
            .with("172.18.0.0/16", foreign(0, BY_KERNEL, &[NextHop::dev(8)]))
            .owning(ownership)
    };
    let hop = |gateway, interface| Ok(Hop { gateway: ip(gateway), interface, onlink: false });
    assert_eq!(docker(&[]).resolve(ip("172.17.0.2")), hop("172.17.0.2", 7));
    assert_eq!(docker(&["docker*"]).resolve(ip("172.17.0.2")), hop("10.0.0.254", ETH0));
    assert_eq!(docker(&[]).resolve(ip("172.18.0.2")), hop("10.0.0.254", ETH0));
    assert!(docker(&[]).image().told(&net("172.17.0.0/16")).is_some());
    assert!(docker(&["docker?"]).image().told(&net("172.17.0.0/16")).is_none());
    docker(&[]).check("172.17.0.0/16", &["10.0.0.2"], None, elsewhere(Elsewhere::Taken));
    docker(&["docker0"]).check("172.17.0.0/16", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
}

#[test]
fn only_a_local_pref_near_the_top_is_a_metric() {
    let fib = fib();
    for (local_pref, metric) in [
        (Some(2_147_482_623), 1024),
        (Some(2_147_483_135), 512),
        (Some(2_147_483_647), 0),
        (Some(100), 1024),
        (Some(0), 1024),
        (None, 1024),
        (Some(u32::MAX), 1024),
    ] {
        fib.check("10.244.1.0/26", &["10.0.0.2"], local_pref, install(&["10.0.0.2"], metric));
    }
    assert_eq!(ownership().local_pref(&net("10.244.0.0/26")), 2_147_482_623);
}

#[test]
fn r1_r4_a_block_is_routed_at_the_normal_metric_whether_its_pool_is_exported_or_not() {
    let mut fib = fib();
    let first_hop = "10.0.0.9";
    fib.check("10.244.5.0/26", &[first_hop], Some(2_147_482_623), install(&[first_hop], 1024));
    let hidden = Pool { disable_bgp_export: true, ..pool("10.244.0.0/16", Encap::None) };
    fib.set_ownership(Ownership { pools: vec![hidden], ..ownership() });
    fib.check("10.244.5.0/26", &[first_hop], Some(2_147_482_623), install(&[first_hop], 1024));
    fib.set_ownership(Ownership { plain: false, ..ownership() });
    fib.check("10.244.5.0/26", &[first_hop], None, elsewhere(Elsewhere::Felix));
    fib.check("203.0.113.0/24", &[first_hop], None, install(&[first_hop], 1024));
}

#[test]
fn r2_a_lent_address_beats_the_block_it_is_in_also_on_the_lender() {
    let fib = fib().with("10.244.0.0/26", foreign(0, FELIX, &[]));
    fib.check("10.244.9.7/32", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    fib.check("10.244.0.6/32", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    fib.check("10.244.0.0/26", &["10.0.0.2"], None, elsewhere(Elsewhere::OwnBlock));
}

#[test]
fn r3_a_migrated_pods_elevated_route_goes_beside_the_old_one_and_an_equal_one_does_not() {
    let pod = |metric| foreign(metric, FELIX, &[NextHop::dev(CALI)]);
    let fib = fib().with("10.244.0.5/32", pod(1024)).with("10.244.7.5/32", pod(1024));
    for address in ["10.244.0.5/32", "10.244.7.5/32"] {
        fib.check(address, &["10.0.0.2"], Some(2_147_483_135), install(&["10.0.0.2"], 512));
        for local_pref in [Some(2_147_482_623), Some(100), Some(2_147_482_000), None] {
            fib.check(address, &["10.0.0.2"], local_pref, elsewhere(Elsewhere::Taken));
        }
    }
    // On the node that it came to, the elevated route is felix's.
    let fib = fib.without("10.244.0.5/32", pod(1024)).with("10.244.0.5/32", pod(512));
    fib.check("10.244.0.5/32", &["10.0.0.2"], Some(2_147_483_135), elsewhere(Elsewhere::Taken));
    // Metric 0, as felix's routes had it, is beaten by nothing.
    let fib = fib.without("10.244.0.5/32", pod(512)).with("10.244.0.5/32", pod(0));
    fib.check("10.244.0.5/32", &["10.0.0.2"], Some(2_147_483_135), elsewhere(Elsewhere::Taken));
}

#[test]
fn r3_a_next_hop_that_migrated_is_followed_to_where_it_went() {
    let pod = foreign(1024, FELIX, &[NextHop::dev(CALI)]);
    let mut fib = fib().with("10.244.0.5/32", pod);
    let hop = |gateway, interface| Ok(Hop { gateway: ip(gateway), interface, onlink: false });
    assert_eq!(fib.resolve(ip("10.244.0.5")), hop("10.244.0.5", CALI));
    fib.learn(net("10.244.0.5/32"), Some(learned(&["10.0.0.2"], Some(2_147_483_135))));
    assert_eq!(fib.resolve(ip("10.244.0.5")), hop("10.0.0.2", ETH0));
    fib.learn(net("10.244.0.5/32"), Some(learned(&["10.0.0.2"], None)));
    assert_eq!(fib.resolve(ip("10.244.0.5")), hop("10.244.0.5", CALI));
}

#[test]
fn r5_vxlan_is_felixs_and_ipip_is_whose_the_class_is() {
    let mut fib = fib();
    fib.check("10.244.128.0/26", &["10.0.0.2"], None, elsewhere(Elsewhere::Encapsulated));
    fib.check("10.245.0.0/26", &["10.0.0.2"], None, tunnel(&["10.0.0.2"]));
    fib.set_ownership(Ownership { ipip: false, ..ownership() });
    for prefix in ["10.244.128.0/26", "10.245.0.0/26", "10.246.0.0/26"] {
        fib.check(prefix, &["10.0.0.2"], None, elsewhere(Elsewhere::Encapsulated));
    }
    // Of two pools with one range the first counts, as for felix.
    let twin = pool("10.245.0.0/16", Encap::None);
    let pools = ownership().pools.into_iter().chain([twin]).collect();
    fib.set_ownership(Ownership { pools, ipip: false, ..ownership() });
    fib.check("10.245.0.0/26", &["10.0.0.2"], None, elsewhere(Elsewhere::Encapsulated));
}

#[test]
fn r8_r9_r10_the_tunnel_is_taken_where_the_next_hop_is_outside_of_the_nodes_subnet() {
    let mut fib = fib();
    fib.check("10.246.5.0/26", &["10.0.0.9"], None, install(&["10.0.0.9"], 1024));
    fib.check("10.246.5.0/26", &["10.0.1.9"], None, tunnel(&["10.0.1.9"]));
    for subnet in [Some("10.0.0.1/32"), None] {
        let address_v4 = subnet.map(|text| text.parse().unwrap());
        fib.set_ownership(Ownership { address_v4, ..ownership() });
        fib.check("10.246.5.0/26", &["10.0.0.9"], None, tunnel(&["10.0.0.9"]));
    }
    // An address without a length is in the subnet of the interface that holds it, as felix sees it.
    fib.set_ownership(Ownership { address_v4: Some("10.0.0.1/32".parse().unwrap()), ..ownership() });
    fib.whole_image().network(net("10.0.0.1/24"), ETH0, true);
    fib.check("10.246.5.0/26", &["10.0.0.9"], None, install(&["10.0.0.9"], 1024));
    fib.check("10.246.5.0/26", &["10.0.1.9"], None, tunnel(&["10.0.1.9"]));
    fib.whole_image().network(net("10.0.0.1/24"), ETH0, false);
    fib.check("10.246.5.0/26", &["10.0.0.9"], None, tunnel(&["10.0.0.9"]));
}

#[test]
fn a_node_that_does_not_take_ipip_yet_is_reached_on_the_link_or_as_before() {
    let awaited = BTreeSet::from([ip("10.0.0.9"), ip("10.0.1.9")]);
    let fib = fib().owning(Ownership { awaited, ..ownership() });
    for pool in ["10.245.5.0/26", "10.246.5.0/26"] {
        fib.check(pool, &["10.0.0.9"], None, install(&["10.0.0.9"], 1024));
        fib.check(pool, &["10.0.1.9"], None, held_back(Unreachable::NotReady));
        fib.check(pool, &["10.0.1.9", "192.0.2.1"], None, tunnel(&["192.0.2.1"]));
    }
    // What is not reachable at all does not hide that the other is only late.
    let fib = fib.without("0.0.0.0/0", default_route()).with("10.0.1.0/24", default_route());
    fib.check("10.245.5.0/26", &["10.0.1.9", "192.0.2.1"], None, held_back(Unreachable::NotReady));
}

#[test]
fn a_node_that_becomes_ready_matters_to_what_leads_to_it_alone() {
    let mut fib = fib();
    let awaited = |nodes: &[&str]| nodes.iter().map(|text| ip(text)).collect();
    let of = |nodes: &[&str]| Ownership { awaited: awaited(nodes), ..ownership() };
    let touched = |hosts: &[&str]| Some(hosts.iter().map(|text| net(text)).collect());
    assert_eq!(fib.set_ownership(of(&["10.0.1.8", "10.0.1.9"])), touched(&["10.0.1.8/32", "10.0.1.9/32"]));
    assert_eq!(fib.set_ownership(of(&["10.0.1.7", "10.0.1.9"])), touched(&["10.0.1.7/32", "10.0.1.8/32"]));
    fib.check("10.245.5.0/26", &["10.0.1.9"], None, held_back(Unreachable::NotReady));
    fib.check("10.245.5.0/26", &["10.0.1.8"], None, tunnel(&["10.0.1.8"]));
    assert_eq!(fib.set_ownership(Ownership { normal_v4: 512, ..of(&["10.0.1.7"]) }), None, "anything may be another");
    assert_eq!(fib.ownership().awaited, awaited(&["10.0.1.7"]));
}

#[test]
fn a_route_is_left_where_it_is_for_felix_and_while_a_tunnel_is_awaited_and_for_no_other_reason() {
    for verdict in [
        elsewhere(Elsewhere::Encapsulated),
        elsewhere(Elsewhere::Felix),
        held_back(Unreachable::NoTunnel),
        held_back(Unreachable::NotReady),
    ] {
        assert!(verdict.leaves(), "{verdict:?}");
    }
    for verdict in [
        install(&["10.0.0.2"], 1024),
        elsewhere(Elsewhere::Service),
        elsewhere(Elsewhere::WireGuard),
        elsewhere(Elsewhere::OwnBlock),
        elsewhere(Elsewhere::Static),
        elsewhere(Elsewhere::Taken),
        held_back(Unreachable::Own),
        held_back(Unreachable::NoRoute),
        held_back(Unreachable::BlackHole),
        held_back(Unreachable::CoversNextHop),
        held_back(Unreachable::CoversPeer),
    ] {
        assert!(!verdict.leaves(), "{verdict:?}");
    }
}

#[test]
fn what_felix_left_to_us_is_replaced_and_its_routes_to_workloads_and_black_holes_are_not() {
    const VXLAN: u32 = 6;
    let fib = || fib().with_link(VXLAN, "vxlan.calico", true);
    let via = |gateway, link| NextHop::via(ip(gateway)).on(link);
    for hop in [via("10.0.0.7", ETH0), via("10.0.0.7", TUNL0).onlink(), via("10.244.9.9", VXLAN).onlink()] {
        let left = fib().with("10.244.5.0/26", foreign(1024, FELIX, &[hop]));
        left.check("10.244.5.0/26", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    }
    let host = "10.244.5.9/32";
    let on_link = |link| fib().with(host, foreign(1024, FELIX, &[NextHop::dev(link)]));
    on_link(VXLAN).check(host, &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    on_link(CALI).check(host, &["10.0.0.2"], None, elsewhere(Elsewhere::Taken));
    // An address of our own block that another node has borrowed.
    let lent = fib().with("10.244.0.9/32", foreign(1024, FELIX, &[via("10.0.0.7", TUNL0).onlink()]));
    lent.check("10.244.0.9/32", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    // A block whose pool was deleted, too; but not while there is a pool that only felix may know.
    let mut deleted = fib().with("10.50.5.0/26", foreign(1024, FELIX, &[via("10.244.9.9", VXLAN).onlink()]));
    deleted.check("10.50.5.0/26", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    deleted.set_ownership(Ownership { pool_unknown: true, ..ownership() });
    deleted.check("10.50.5.0/26", &["10.0.0.2"], None, elsewhere(Elsewhere::Taken));
    // Single addresses in no pool, of tunnels and borrowed ones, felix routes by itself.
    let single = fib().with("10.50.5.9/32", foreign(1024, FELIX, &[via("10.244.9.9", VXLAN).onlink()]));
    single.check("10.50.5.9/32", &["10.0.0.2"], None, elsewhere(Elsewhere::Taken));
    let hole = fib().with("10.244.5.0/26", foreign(1024, FELIX, &[]));
    hole.check("10.244.5.0/26", &["10.0.0.2"], None, elsewhere(Elsewhere::Taken));
    // Once ours stands in its place it is forgotten; one beside it is not.
    let mut fib = fib()
        .with("10.244.5.0/26", foreign(1024, FELIX, &[via("10.0.0.7", ETH0)]))
        .with("10.244.5.0/26", foreign(1024, STATIC, &[via("10.0.0.7", ETH0)]))
        .with("10.244.5.0/26", foreign(7, FELIX, &[via("10.0.0.7", ETH0)]));
    let net = net("10.244.5.0/26");
    assert!(fib.image_of(&net).replaced(&net, 1024) && !fib.image_of(&net).replaced(&net, 1024));
    assert_eq!(
        fib.image().exact(&net).iter().map(|route| (route.metric, route.protocol)).collect::<Vec<_>>(),
        [(7, FELIX), (1024, STATIC)]
    );
}

#[test]
fn each_of_several_next_hops_has_its_own_device() {
    let fib = fib();
    fib.check("10.245.5.0/26", &["10.0.0.9", "10.0.1.9"], None, tunnel(&["10.0.0.9", "10.0.1.9"]));
    let plain = Hop { gateway: ip("10.0.0.9"), interface: ETH0, onlink: false };
    let tunnelled = Hop { gateway: ip("10.0.1.9"), interface: TUNL0, onlink: true };
    let both = Verdict::Install { hops: vec![plain, tunnelled], metric: 1024 };
    fib.check("10.246.5.0/26", &["10.0.1.9", "10.0.0.9"], None, both);
}

#[test]
fn without_a_tunnel_or_a_way_to_its_other_end_nothing_is_sent_into_it() {
    let mut fib = fib();
    fib.whole_image().link(TUNL0, Some(LinkFacts { name: "tunl0".to_owned(), kind: None, up: false }));
    fib.check("10.245.5.0/26", &["10.0.0.9"], None, held_back(Unreachable::NoTunnel));
    fib.check("10.246.5.0/26", &["10.0.0.9"], None, install(&["10.0.0.9"], 1024));
    fib.whole_image().link(TUNL0, None);
    fib.check("10.245.5.0/26", &["10.0.0.9"], None, held_back(Unreachable::NoTunnel));
    let fib = self::fib().without("0.0.0.0/0", default_route());
    fib.check("10.245.5.0/26", &["10.0.1.9"], None, held_back(Unreachable::NoRoute));
    // Nor what is already inside: a next hop that is itself a pod of an IPIP pool.
    let fib = fib.learning("10.245.5.0/26", &["10.0.0.9"]);
    fib.check("10.245.6.0/26", &["10.245.5.1"], None, held_back(Unreachable::CoversNextHop));
    // A plain route to a network behind such a pod goes through the tunnel (R18 as other nodes see it).
    fib.check("203.0.113.0/24", &["10.245.5.1"], None, tunnel(&["10.0.0.9"]));
}

#[test]
fn r11_r13_service_addresses_are_never_routed_on_nodes() {
    let fib = fib();
    for prefix in ["10.96.0.0/12", "10.96.7.7/32", "198.51.100.0/24", "198.51.100.9/32"] {
        fib.check(prefix, &["10.0.0.2"], None, elsewhere(Elsewhere::Service));
    }
    fib.check("10.0.0.0/8", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
}

#[test]
fn r16_what_is_outside_of_pools_is_installed_a_default_route_too() {
    let fib = fib();
    fib.check("203.0.113.0/24", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    fib.check("0.0.0.0/0", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
}

#[test]
fn r18_what_a_local_workload_advertises_leads_through_its_interface() {
    let fib = fib().with("10.244.0.7/32", foreign(1024, FELIX, &[NextHop::dev(CALI)]));
    let hop = Hop { gateway: ip("10.244.0.7"), interface: CALI, onlink: false };
    fib.check("203.0.113.0/24", &["10.244.0.7"], None, Verdict::Install { hops: vec![hop], metric: 1024 });
    // And on the other nodes through the block that the workload is in.
    let fib = self::fib().owning(Ownership { blocks: BTreeSet::new(), ..ownership() });
    let fib = fib.learning("10.244.0.0/26", &["10.0.0.2"]);
    fib.check("203.0.113.0/24", &["10.244.0.7"], None, install(&["10.0.0.2"], 1024));
}

#[test]
fn next_hops_of_wireguard_are_felixs() {
    let wireguard = BTreeSet::from([ip("10.0.0.2")]);
    let fib = fib().owning(Ownership { wireguard, ..ownership() });
    fib.check("10.244.5.0/26", &["10.0.0.2"], None, elsewhere(Elsewhere::WireGuard));
    fib.check("10.244.5.0/26", &["10.0.0.2", "10.0.0.3"], None, install(&["10.0.0.3"], 1024));
}

#[test]
fn a_route_of_another_program_with_our_key_stays_and_so_does_a_connected_network() {
    let other = foreign(1024, STATIC, &[NextHop::via(ip("10.0.0.7")).on(ETH0)]);
    let fib = fib().with("203.0.113.0/24", other);
    fib.check("203.0.113.0/24", &["10.0.0.2"], None, elsewhere(Elsewhere::Taken));
    fib.check("203.0.113.0/24", &["10.0.0.2"], Some(2_147_483_135), install(&["10.0.0.2"], 512));
    fib.check("10.0.0.0/24", &["10.0.0.2"], None, elsewhere(Elsewhere::Taken));
}

#[test]
fn an_unreachable_next_hop_holds_the_route_back_unless_another_is_reachable() {
    let fib = fib().without("0.0.0.0/0", default_route());
    fib.check("10.244.1.0/26", &["192.0.2.1"], None, held_back(Unreachable::NoRoute));
    fib.check("10.244.1.0/26", &["10.0.0.1"], None, held_back(Unreachable::Own));
    let both = install(&["10.0.0.2", "10.0.0.3"], 1024);
    fib.check("10.244.1.0/26", &["10.0.0.3", "192.0.2.1", "10.0.0.2", "10.0.0.3"], None, both);
    let twenty: Vec<String> = (10..30).map(|n| format!("10.0.0.{n}")).collect();
    let twenty: Vec<&str> = twenty.iter().map(String::as_str).collect();
    fib.check("10.244.1.0/26", &twenty, None, install(&twenty[..MAX_PATHS], 1024));
}
