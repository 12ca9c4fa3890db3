//! What is wanted for the sake of other nodes, as nodes, blocks, pools and configurations come and go in any order.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use calico_api::{EncapMode, Kind};
use felix_calc::{Change, Notice, Routing, Set, Unusable, Update};
use proptest::prelude::*;

use self::world::*;

const ALWAYS: EncapMode = EncapMode::Always;
const CROSS: EncapMode = EncapMode::CrossSubnet;

/// This node and two others, of which `near` is in its subnet and `far` is not, each with a block.
fn cluster() -> Vec<Update> {
    vec![
        node(Some("10.0.0.1/24"), "east").update(),
        node(Some("10.0.0.2/24"), "near").ready("10.244.2").update(),
        node(Some("10.0.9.3/24"), "far").ready("10.244.3").update(),
        block("10.244.1.0/26", "host:east", &[]),
        block("10.244.2.0/26", "host:near", &[]),
        block("10.244.3.0/26", "host:far", &[]),
    ]
}

fn with(pools: Vec<Update>) -> World {
    let mut world = World::new(Routing::Bgp, None);
    world.take_all(cluster());
    world.take_all(pools);
    world.take(Update::InSync);
    world
}

#[track_caller]
fn check_modes(pool: Update, routing: Routing, programs: (Option<&str>, Option<&str>), near: &str, far: &str) {
    let mut world = World::new(routing, programs.1);
    world.take_all(cluster());
    world.take_all([pool, configuration(programs.0), Update::InSync]);
    let lines = [("10.244.2.0/26", near), ("10.244.3.0/26", far)];
    let expected = lines.into_iter().filter(|(_, path)| !path.is_empty());
    let expected: Vec<_> = expected.map(|(to, path)| (to.to_owned(), path.to_owned())).collect();
    assert_eq!(world.routes(), expected);
}

#[test]
fn a_pools_mode_and_who_programs_which_class_decide_the_path() {
    let default = (None, None);
    let felixs = (Some("Disabled"), Some("Enabled"));
    let speakers = (Some("Enabled"), Some("Disabled"));
    let swapped = (Some("EnabledIPIPOnly"), Some("EnabledNoEncapOnly"));
    let plain = || pool("p", "10.244.0.0/16", None, None);
    let ipip = |mode| pool("p", "10.244.0.0/16", Some(mode), None);
    let vxlan = |mode| pool("p", "10.244.0.0/16", None, Some(mode));
    let (bgp, alone) = (Routing::Bgp, Routing::WithoutBgp);
    let (direct, by_ipip) = ("plain 10.0.0.2", ["ipip 10.0.0.2", "ipip 10.0.9.3"]);
    let by_vxlan = ["vxlan 10.244.2.62", "vxlan 10.244.3.62"];

    check_modes(plain(), bgp, default, "leave", "leave");
    check_modes(plain(), bgp, speakers, "leave", "leave");
    check_modes(plain(), bgp, felixs, direct, "");
    check_modes(plain(), bgp, swapped, direct, "");
    check_modes(plain(), alone, default, direct, "");
    check_modes(ipip(ALWAYS), bgp, default, by_ipip[0], by_ipip[1]);
    check_modes(ipip(ALWAYS), bgp, felixs, by_ipip[0], by_ipip[1]);
    check_modes(ipip(ALWAYS), bgp, speakers, "leave", "leave");
    check_modes(ipip(ALWAYS), bgp, swapped, "leave", "leave");
    check_modes(ipip(ALWAYS), alone, speakers, by_ipip[0], by_ipip[1]);
    check_modes(ipip(CROSS), bgp, default, direct, by_ipip[1]);
    check_modes(ipip(CROSS), bgp, speakers, "leave", "leave");
    for programs in [default, felixs, speakers, swapped, (Some("Enabled"), Some("Enabled"))] {
        check_modes(vxlan(ALWAYS), bgp, programs, by_vxlan[0], by_vxlan[1]);
        check_modes(vxlan(CROSS), bgp, programs, direct, by_vxlan[1]);
    }
    check_modes(vxlan(CROSS), alone, default, direct, by_vxlan[1]);
    for pool in [plain(), ipip(ALWAYS), vxlan(ALWAYS)] {
        check_modes(pool, Routing::Off, default, "", "");
    }
    // What is in no pool, BGP routes, if there is BGP.
    check_modes(pool("p", "10.9.0.0/16", None, None), bgp, default, "leave", "leave");
    check_modes(pool("p", "10.9.0.0/16", None, None), alone, default, "", "");
    // A pool that gives out no more addresses still has pods, and one for load balancers has none.
    check_modes(disabled(ipip(ALWAYS)), bgp, default, by_ipip[0], by_ipip[1]);
    check_modes(for_balancers(ipip(ALWAYS)), bgp, default, "", "");
}

#[test]
fn the_smallest_pool_decides_and_a_change_of_one_touches_its_blocks_alone() {
    let mut world = with(vec![pool("wide", "10.0.0.0/8", Some(ALWAYS), None)]);
    world.check(&["10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 ipip 10.0.9.3"]);
    let changes = world.take(pool("narrow", "10.244.3.0/24", None, Some(ALWAYS)));
    let routed = changes.iter().filter(|change| matches!(change, Change::Remote { .. }));
    assert_eq!(routed.count(), 1, "{changes:?}");
    world.check(&["10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 vxlan 10.244.3.62"]);
    world.take(gone(Kind::IPPool, "narrow"));
    world.check(&["10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 ipip 10.0.9.3"]);
    world.take(gone(Kind::IPPool, "wide"));
    world.check(&["10.244.2.0/26 leave", "10.244.3.0/26 leave"]);
    assert!(world.take(pool("other", "10.9.0.0/16", None, None)).iter().all(|c| matches!(c, Change::Member { .. })));
}

#[test]
fn borrowed_addresses_lead_to_the_node_that_has_them() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", Some(ALWAYS), None)]);
    world.take_all([
        // Of ours, one is near's; of near's, one is far's and one is ours; and nobody's has one of far's.
        block("10.244.1.0/26", "host:east", &[(5, "near"), (6, "east")]),
        block("10.244.2.0/26", "host:near", &[(5, "far"), (6, "east"), (7, "near")]),
        block("10.244.7.0/26", "", &[(1, "far")]),
        block("10.244.8.0/26", "virtual:load-balancer", &[(1, "")]),
    ]);
    let blocks = ["10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 ipip 10.0.9.3"];
    let lent = ["10.244.1.5/32 ipip 10.0.0.2", "10.244.2.5/32 ipip 10.0.9.3", "10.244.7.1/32 ipip 10.0.9.3"];
    world.check(&[lent[0], blocks[0], lent[1], blocks[1], lent[2]]);
    assert_eq!(world.holes(), ["10.244.1.0/26"]);
    // Given back, released, and the block handed over to who had borrowed of it.
    world.take_all([
        block("10.244.1.0/26", "host:east", &[]),
        block("10.244.2.0/26", "host:far", &[(5, "far")]),
        Update::Deleted(calico_api::Key::Block("10.244.7.0/26".parse().unwrap())),
    ]);
    let tunnels = ["10.244.2.1/32 ipip 10.0.0.2", "10.244.2.62/32 ipip 10.0.0.2"];
    world.check(&["10.244.2.0/26 ipip 10.0.9.3", tunnels[0], tunnels[1], blocks[1]]);
}

#[test]
fn a_tunnels_address_has_a_route_of_its_own_only_outside_of_its_nodes_blocks() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", None, Some(ALWAYS))]);
    let blocks = ["10.244.2.0/26 vxlan 10.244.2.62", "10.244.3.0/26 vxlan 10.244.3.62"];
    world.check(&blocks);
    world.take(node(Some("10.0.0.2/24"), "near").vxlan("10.244.5.1").update());
    world.check(&["10.244.2.0/26 vxlan 10.244.5.1", blocks[1], "10.244.5.1/32 link"]);
    world.take(block("10.244.5.0/26", "host:near", &[]));
    world.check(&["10.244.2.0/26 vxlan 10.244.5.1", blocks[1], "10.244.5.0/26 vxlan 10.244.5.1"]);
    // Borrowed from another's block it is on the link as well.
    world.take(block("10.244.5.0/26", "host:far", &[(1, "near")]));
    let lent = "10.244.5.1/32 link";
    world.check(&["10.244.2.0/26 vxlan 10.244.5.1", blocks[1], "10.244.5.0/26 vxlan 10.244.3.62", lent]);
    // And in no pool at all.
    world.take(Update::Deleted(calico_api::Key::Block("10.244.5.0/26".parse().unwrap())));
    world.take(node(Some("10.0.0.2/24"), "near").vxlan("192.168.7.1").update());
    world.check(&["10.244.2.0/26 vxlan 192.168.7.1", blocks[1], "192.168.7.1/32 link"]);
}

#[test]
fn a_node_is_sent_to_as_before_until_it_says_that_it_is_ready_for_the_new_way() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", Some(ALWAYS), None)]);
    let (near, far) = ("10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 ipip 10.0.9.3");
    // Far has no VXLAN device yet.
    world.take(node(Some("10.0.9.3/24"), "far").ipip("10.244.3.1").update());
    world.take(pool("p", "10.244.0.0/16", None, Some(ALWAYS)));
    world.check(&["10.244.2.0/26 vxlan 10.244.2.62", far]);
    assert!(world.tunnels().ipip.is_some(), "the old tunnel stays as long as a route needs it");
    world.take(node(Some("10.0.9.3/24"), "far").ready("10.244.3").update());
    world.check(&["10.244.2.0/26 vxlan 10.244.2.62", "10.244.3.0/26 vxlan 10.244.3.62"]);
    assert!(world.tunnels().ipip.is_none());
    // The way back, with near being late: its VTEP stays as long as its route does.
    world.take(node(Some("10.0.0.2/24"), "near").vxlan("10.244.2.62").update());
    world.take(pool("p", "10.244.0.0/16", Some(ALWAYS), None));
    world.check(&["10.244.2.0/26 vxlan 10.244.2.62", far]);
    assert_eq!(world.vteps(), ["near 10.244.2.62 at 10.0.0.2"]);
    assert!(world.tunnels().vxlan.is_some());
    world.take(node(Some("10.0.0.2/24"), "near").ready("10.244.2").update());
    world.check(&[near, far]);
    assert!(world.vteps().is_empty() && world.tunnels().vxlan.is_none());
    // Who is sent to as before is so at the address that it has now.
    world.take(pool("p", "10.244.0.0/16", None, Some(ALWAYS)));
    world.take(node(Some("10.0.0.2/24"), "near").vxlan("10.244.2.9").update());
    world.take(pool("p", "10.244.0.0/16", Some(ALWAYS), None));
    world.take(node(Some("10.0.0.22/24"), "near").vxlan("10.244.2.10").update());
    world.check(&["10.244.2.0/26 vxlan 10.244.2.10", far]);
    assert_eq!(world.vteps(), ["near 10.244.2.10 at 10.0.0.22"]);
    world.take(node(Some("10.0.0.2/24"), "near").ready("10.244.2").update());
    world.check(&[near, far]);
    // A new one on our link that is not ready is sent to plainly, one without an address is left alone, and one that has lost
    // its address keeps its path.
    world.take_all([node(Some("10.0.0.4/24"), "new").update(), block("10.244.4.0/26", "host:new", &[])]);
    world.take_all([node(None, "bare").ready("10.244.6").update(), block("10.244.6.0/26", "host:bare", &[])]);
    world.take(node(None, "near").ready("10.244.2").update());
    world.check(&[near, far, "10.244.4.0/26 plain 10.0.0.4", "10.244.6.0/26 leave"]);
    // The class goes to the speaker: the path is left, not taken away. The block goes: so does the route.
    world.take_all([configuration(Some("Enabled"))]);
    assert!(world.notices().iter().any(|notice| matches!(notice, Notice::Owners { .. })), "both claim IPIP");
    world.check(&[near, far, "10.244.4.0/26 plain 10.0.0.4", "10.244.6.0/26 leave"]);
    // (Its tunnels' addresses lie in no block then, and are destinations of their own.)
    world.take(Update::Deleted(calico_api::Key::Block("10.244.2.0/26".parse().unwrap())));
    let tunnels = ["10.244.2.1/32 leave", "10.244.2.62/32 leave"];
    world.check(&[tunnels[0], tunnels[1], far, "10.244.4.0/26 plain 10.0.0.4", "10.244.6.0/26 leave"]);
}

#[test]
fn who_is_not_ready_is_sent_to_by_what_both_ends_understand_so_that_a_restart_does_not_matter() {
    let far = || node(Some("10.0.9.3/24"), "far").vxlan("10.244.3.62").update();
    let east = || node(Some("10.0.0.1/24"), "east");
    let ipip = || pool("p", "10.244.0.0/16", Some(ALWAYS), None);
    let (near, as_before) = ("10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 vxlan 10.244.3.62");
    // In the middle of a switch from VXLAN to IPIP, which far has not made.
    let mut world = with(vec![pool("p", "10.244.0.0/16", None, Some(ALWAYS))]);
    world.take_all([east().ready("10.244.1").update(), far(), ipip()]);
    world.check(&[near, as_before]);
    let restarted = |own: TestNode| {
        let mut world = World::new(Routing::Bgp, None);
        world.take_all(cluster());
        world.take_all([own.update(), far(), ipip(), Update::InSync]);
        world
    };
    let mut world = restarted(east().ready("10.244.1"));
    world.check(&[near, as_before]);
    assert!(world.tunnels().vxlan.is_some(), "the device is wanted as before, so it does not go");
    assert_eq!(world.awaited(), ["10.244.3.0/26"]);
    world.take(node(Some("10.0.9.3/24"), "far").ready("10.244.3").update());
    world.check(&[near, "10.244.3.0/26 ipip 10.0.9.3"]);
    assert!(world.tunnels().vxlan.is_none() && world.awaited().is_empty());
    // Far takes VXLAN from those only that announce it, too.
    let mut world = restarted(east());
    world.check(&[near, "10.244.3.0/26 leave"]);
    assert!(world.tunnels().vxlan.is_none());
    world.take(east().vxlan("10.244.1.62").update());
    world.check(&[near, as_before]);
    // Without any of it there is only the way that was; on our link there always is one.
    world.take(node(Some("10.0.9.3/24"), "far").update());
    world.check(&[near, as_before]);
    world.take(node(Some("10.0.0.3/24"), "far").update());
    world.check(&[near, "10.244.3.0/26 plain 10.0.0.3"]);
    assert_eq!(world.awaited(), ["10.244.3.0/26"]);
}

#[test]
fn blocks_in_no_pool_are_left_to_bgp_and_single_addresses_of_which_it_tells_nobody_are_not() {
    let mut world =
        with(vec![pool("p", "10.244.0.0/16", None, Some(ALWAYS)), pool("q", "10.9.0.0/16", None, Some(ALWAYS))]);
    world.take_all([
        node(Some("10.0.0.1/24"), "east").ready("10.244.1").update(),
        block("10.244.1.0/26", "host:east", &[(5, "near")]),
        block("10.244.3.0/26", "host:far", &[(7, "near"), (8, "far")]),
    ]);
    let blocks = ["10.244.2.0/26 vxlan 10.244.2.62", "10.244.3.0/26 vxlan 10.244.3.62"];
    world.check(&["10.244.1.5/32 vxlan 10.244.2.62", blocks[0], blocks[1], "10.244.3.7/32 vxlan 10.244.2.62"]);
    world.take(gone(Kind::IPPool, "p"));
    let blocks = ["10.244.2.0/26 leave", "10.244.3.0/26 leave"];
    world.check(&["10.244.1.5/32 vxlan 10.244.2.62", blocks[0], blocks[1], "10.244.3.7/32 vxlan 10.244.2.62"]);
    // The tunnels get addresses of the other pool: what felix still routes follows.
    world.take(node(Some("10.0.0.2/24"), "near").vxlan("10.9.0.2").update());
    let lent = ["10.244.1.5/32 vxlan 10.9.0.2", "10.244.3.7/32 vxlan 10.9.0.2"];
    world.check(&["10.9.0.2/32 link", lent[0], blocks[0], blocks[1], lent[1]]);
    // Nobody wants VXLAN any more: as long as both have it, and then plainly, if they can.
    world.take(gone(Kind::IPPool, "q"));
    world.check(&[lent[0], blocks[0], blocks[1], lent[1]]);
    world.take(node(Some("10.0.0.2/24"), "near").update());
    world.check(&["10.244.1.5/32 plain 10.0.0.2", blocks[0], blocks[1], "10.244.3.7/32 plain 10.0.0.2"]);
    world.take(node(Some("10.0.9.2/24"), "near").update());
    world.check(&blocks);
    assert!(world.tunnels().vxlan.is_none() && world.vteps().is_empty());
}

#[test]
fn a_way_that_leads_astray_is_taken_away_though_no_other_takes_its_place() {
    // The node has left our link, and the class is felix's.
    let mut world = World::new(Routing::WithoutBgp, None);
    world.take_all(cluster());
    let moved = |host| node(Some(host), "far").update();
    world.take_all([moved("10.0.0.3/24"), pool("p", "10.244.0.0/16", None, None), Update::InSync]);
    let near = "10.244.2.0/26 plain 10.0.0.2";
    world.check(&[near, "10.244.3.0/26 plain 10.0.0.3"]);
    world.take(moved("10.0.9.3/24"));
    world.check(&[near]);
    world.take(moved("10.0.0.4/24"));
    world.check(&[near, "10.244.3.0/26 plain 10.0.0.4"]);
    // The block is another's, which cannot be sent to yet.
    let mut world = with(vec![pool("p", "10.244.0.0/16", Some(ALWAYS), None)]);
    world.take_all([node(Some("10.0.9.4/24"), "new").update(), block("10.244.3.0/26", "host:new", &[])]);
    let near = "10.244.2.0/26 ipip 10.0.0.2";
    let tunnels = ["10.244.3.1/32 ipip 10.0.9.3", "10.244.3.62/32 ipip 10.0.9.3"];
    world.check(&[near, tunnels[0], tunnels[1]]);
    assert_eq!(world.awaited(), ["10.244.3.0/26"]);
    world.take(node(Some("10.0.9.4/24"), "new").ipip("10.244.4.1").update());
    world.check(&[near, "10.244.3.0/26 ipip 10.0.9.4", tunnels[0], tunnels[1], "10.244.4.1/32 ipip 10.0.9.4"]);
}

#[test]
fn far_ends_are_told_with_macs_and_only_while_vxlan_is_wanted() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", None, Some(CROSS))]);
    assert_eq!(world.vteps(), ["far 10.244.3.62 at 10.0.9.3", "near 10.244.2.62 at 10.0.0.2"]);
    let macs: Vec<_> = world.vtep_macs();
    assert_eq!(macs, [felix_calc::mac_of("far", false), felix_calc::mac_of("near", false)]);
    let mut stated = node(Some("10.0.0.2/24"), "near").ready("10.244.2");
    stated.0.spec.vxlan_tunnel_mac_addr = Some("66:00:00:00:0A:1".to_owned());
    world.take(stated.update());
    assert_eq!(world.vtep_macs()[1], [0x66, 0, 0, 0, 0x0a, 1]);
    world.take(gone(Kind::Node, "near"));
    assert_eq!(world.vteps(), ["far 10.244.3.62 at 10.0.9.3"]);
    world.take(pool("p", "10.244.0.0/16", None, None));
    assert!(world.vteps().is_empty());
}

#[test]
fn ipv6_has_its_own_tunnel_and_no_ipip() {
    let mut world = World::new(Routing::Bgp, None);
    let six = |name: &str, host: &str, tunnel: &str| {
        let mut node = node(None, name);
        node.0.spec.bgp.get_or_insert_default().ipv6_address = Some(host.to_owned());
        node.0.spec.ipv6_vxlan_tunnel_addr = Some(tunnel.to_owned());
        node.update()
    };
    world.take_all([
        six("east", "fd00::1/64", "fd00:10::100"),
        six("near", "fd00::2/64", "fd00:10::200"),
        six("far", "fd00:0:0:9::3/64", "fd00:10::300"),
        block("fd00:10::/122", "host:east", &[]),
        block("fd00:10::200/122", "host:near", &[]),
        block("fd00:10::300/122", "host:far", &[]),
        pool("six", "fd00:10::/64", None, Some(CROSS)),
        Update::InSync,
    ]);
    world.check(&["fd00:10::200/122 plain fd00::2", "fd00:10::300/122 vxlan fd00:10::300"]);
    assert_eq!(world.vteps(), ["far fd00:10::300 at fd00:0:0:9::3", "near fd00:10::200 at fd00::2"]);
    assert_eq!(world.vtep_macs()[0], felix_calc::mac_of("far", true));
    let tunnels = world.tunnels();
    let v6 = tunnels.vxlan_v6.as_ref().unwrap();
    assert_eq!((v6.local.to_string(), v6.mac), ("fd00::1".to_owned(), felix_calc::mac_of("east", true)));
    assert!(tunnels.vxlan.is_none() && tunnels.ipip.is_none());
    // IPIP there cannot be, and the last good version stays.
    world.take(pool("six", "fd00:10::/64", Some(ALWAYS), None));
    world.check(&["fd00:10::200/122 plain fd00::2", "fd00:10::300/122 vxlan fd00:10::300"]);
    assert!(matches!(world.notices()[..], [Notice::BadPool { ref pool, .. }] if pool == "six"));
}

#[test]
fn an_address_without_a_length_is_in_the_subnet_of_the_interface_that_holds_it() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", Some(CROSS), None)]);
    let (direct, far) = ("10.244.2.0/26 plain 10.0.0.2", "10.244.3.0/26 ipip 10.0.9.3");
    for bare in ["10.0.0.1", "10.0.0.1/32"] {
        world.take(node(Some(bare), "east").update());
        world.check(&["10.244.2.0/26 ipip 10.0.0.2", far]);
        let notices: Vec<_> = world.calc.notices().collect();
        assert!(matches!(notices[..], [Notice::NoSubnet { .. }]), "{notices:?}");
        world.take(subnets(&["192.0.2.1/16", "10.0.0.1/24"]));
        world.check(&[direct, far]);
        assert!(world.calc.notices().next().is_none());
        world.take(subnets(&["10.0.0.1/16"]));
        world.check(&[direct, "10.244.3.0/26 plain 10.0.9.3"]);
        world.take(subnets(&[]));
    }
    // Without an address in BGP, those that the orchestrator knows count.
    let mut east = node(None, "east");
    east.0.spec.addresses = vec![address("ExternalIP", "10.0.9.1/24"), address("InternalIP", "10.0.0.1/24")];
    world.take(east.update());
    world.check(&[direct, far]);
}

#[test]
fn gateways_beyond_the_link_are_named_in_one_notice_and_again_when_they_come_back() {
    let mut world = World::new(Routing::WithoutBgp, None);
    world.take_all(cluster());
    world.take_all([block("10.244.4.0/26", "host:far", &[]), pool("p", "10.244.0.0/16", None, None), Update::InSync]);
    let beyond = |count: usize, first: &[(&str, &str)]| {
        let first = first.iter().map(|(node, gateway)| ((*node).to_owned(), gateway.parse().unwrap())).collect();
        Notice::NotOnLink { node: "east".to_owned(), count, first }
    };
    let expected = beyond(1, &[("far", "10.0.9.3")]);
    assert_eq!(world.notices(), std::slice::from_ref(&expected));
    assert!(expected.to_string().contains("in no subnet of this node is far (10.0.9.3); no route"), "{expected}");
    assert_eq!(expected.object(), "Node/east");
    world.take(block("10.244.5.0/26", "host:far", &[]));
    assert_eq!(world.notices().len(), 1, "once, however many blocks it has");
    world.take(node(Some("10.0.0.3/24"), "far").update());
    assert_eq!(world.calc.notices().count(), 0);
    world.take(node(Some("10.0.9.3/24"), "far").update());
    assert_eq!(world.notices().len(), 2);
    // One notice, however many nodes there are.
    for n in 4..8 {
        world.take(node(Some(&format!("10.0.9.{n}/24")), &format!("b{n}")).update());
        world.take(block(&format!("10.244.1{n}.0/26"), &format!("host:b{n}"), &[]));
    }
    let expected = beyond(5, &[("b4", "10.0.9.4"), ("b5", "10.0.9.5"), ("b6", "10.0.9.6")]);
    assert_eq!(world.calc.notices().collect::<Vec<_>>(), [&expected]);
    assert!(expected.to_string().contains("b4 (10.0.9.4), b5 (10.0.9.5), b6 (10.0.9.6) and 2 more"), "{expected}");
}

#[test]
fn of_two_nodes_with_one_address_the_first_by_name_has_it_and_this_node_before_all() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", Some(ALWAYS), None)]);
    world.take_all([node(Some("10.0.9.3/24"), "alike").ready("10.244.9").update()]);
    world.take(block("10.244.9.0/26", "host:alike", &[]));
    // Far loses it, and keeps the path it had.
    let blocks = ["10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 ipip 10.0.9.3", "10.244.9.0/26 ipip 10.0.9.3"];
    world.check(&blocks);
    let told = |winner: &str, other: &str, address: &str| Notice::SameAddress {
        address: address.parse().unwrap(),
        node: winner.to_owned(),
        other: other.to_owned(),
    };
    assert_eq!(world.notices(), [told("alike", "far", "10.0.9.3")]);
    world.take(gone(Kind::Node, "alike"));
    assert_eq!(world.calc.notices().count(), 0);
    // Who says to be us is not sent to, and what led to the block's last holder goes.
    world.take(node(Some("10.0.0.1/24"), "also-east").ready("10.244.9").update());
    world.take(block("10.244.9.0/26", "host:also-east", &[]));
    world.check(&blocks[..2]);
    assert_eq!(world.calc.notices().cloned().collect::<Vec<_>>(), [told("east", "also-east", "10.0.0.1")]);
}

#[test]
fn what_cannot_be_keeps_its_last_good_version() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", Some(ALWAYS), None)]);
    let good = ["10.244.2.0/26 ipip 10.0.0.2", "10.244.3.0/26 ipip 10.0.9.3"];
    world.take(pool("p", "10.244.0.0/16", Some(ALWAYS), Some(ALWAYS)));
    world.check(&good);
    assert!(world.tunnels().vxlan.is_none());
    let [notice @ Notice::BadPool { .. }] = world.notices() else { panic!("{:?}", world.notices()) };
    assert!(notice.to_string().contains("both in use"));
    world.take(node(Some("10.0.0.300/24"), "near").update());
    let [Unusable::Node { field: "bgp.ipv4Address", .. }] = &world.ignored[..] else { panic!("{:?}", world.ignored) };
    world.take(Update::Fault { key: Some(calico_api::Key::named(Kind::Node, "far")), reason: "no JSON".to_owned() });
    world.check(&good);
    world.take(pool("p", "10.244.0.0/16", None, None));
    world.check(&["10.244.2.0/26 leave", "10.244.3.0/26 leave"]);
    assert_eq!(world.calc.notices().count(), 0);
    // One that never was good is routed by nobody anew, and the devices that routes may lead to stay.
    let world = with(vec![pool("p", "10.244.0.0/16", Some(ALWAYS), Some(ALWAYS))]);
    world.check(&["10.244.2.0/26 leave", "10.244.3.0/26 leave"]);
    assert!(world.tunnels().ipip.is_some() && world.tunnels().vxlan.is_some());
}

#[test]
fn tunnels_are_told_with_the_addresses_of_this_node() {
    let mut world = with(vec![pool("p", "10.244.0.0/16", Some(CROSS), None)]);
    let ipip = world.tunnels().ipip.clone().unwrap();
    assert_eq!((ipip.address, ipip.local), (None, Some("10.0.0.1".parse().unwrap())));
    world.take(node(Some("10.0.0.1/24"), "east").ready("10.244.1").update());
    assert_eq!(world.tunnels().ipip.as_ref().unwrap().address, Some("10.244.1.1".parse().unwrap()));
    assert!(world.tunnels().vxlan.is_none());
    world.take(pool("q", "10.9.0.0/16", None, Some(ALWAYS)));
    let vxlan = world.tunnels().vxlan.clone().unwrap();
    assert_eq!(vxlan.address, Some("10.244.1.62".parse().unwrap()));
    assert_eq!(vxlan.mac, felix_calc::mac_of("east", false));
    // Who programs its routes does not matter: the device is felix's.
    world.take(configuration(Some("EnabledIPIPOnly")));
    assert!(world.tunnels().ipip.is_some());
}

#[test]
fn sets_hold_pools_and_nodes() {
    let mut world = World::new(Routing::Bgp, None);
    world.take_all(cluster());
    let masqueraded = with_nat(pool("p", "10.244.0.0/16", Some(ALWAYS), None));
    let services = for_balancers(pool("lb", "192.0.2.0/24", None, None));
    world.take_all([masqueraded, services, pool("q", "10.9.0.0/16", None, None), Update::InSync]);
    assert_eq!(world.members(Set::Pools), ["10.9.0.0/16", "10.244.0.0/16"]);
    assert_eq!(world.members(Set::MasqueradedPools), ["10.244.0.0/16"]);
    let hosts = ["10.0.0.1/32", "10.0.0.2/32", "10.0.9.3/32", "198.51.100.0/24"];
    assert_eq!(world.members(Set::Hosts), hosts);
    assert_eq!(world.members(Set::VxlanHosts), hosts[1..], "who has a device may still send");
    world.take(node(Some("10.0.0.2/24"), "near").ipip("10.244.2.1").update());
    assert_eq!(world.members(Set::VxlanHosts), hosts[2..]);
    world.take(pool("q", "10.9.0.0/16", None, Some(ALWAYS)));
    assert_eq!(world.members(Set::VxlanHosts), hosts[1..], "who will have one may send before we know");
    world.take_all([gone(Kind::IPPool, "q"), gone(Kind::IPPool, "p"), gone(Kind::Node, "near")]);
    assert!(world.members(Set::MasqueradedPools).is_empty() && world.members(Set::Pools).is_empty());
    assert_eq!(world.members(Set::Hosts), [hosts[0], hosts[2], hosts[3]]);
}

/// One of few things, in one of few versions.
#[derive(Clone, Debug)]
enum Op {
    Pool(usize, usize),
    Node(usize, usize),
    Block(usize, usize),
    Programs(usize),
    Subnets(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..3usize, 0..6usize).prop_map(|(which, version)| Op::Pool(which, version)),
        4 => (0..4usize, 0..5usize).prop_map(|(which, version)| Op::Node(which, version)),
        4 => (0..5usize, 0..6usize).prop_map(|(which, version)| Op::Block(which, version)),
        1 => (0..4usize).prop_map(Op::Programs),
        1 => (0..3usize).prop_map(Op::Subnets),
    ]
}

const NODES: [&str; 4] = ["east", "a", "b", "c"];
const BLOCKS: [&str; 5] = ["10.244.1.0/30", "10.244.2.0/30", "10.244.2.4/30", "10.245.0.0/30", "10.246.0.1/32"];
const POOLS: [(&str, &str); 3] = [("wide", "10.244.0.0/15"), ("narrow", "10.244.2.0/24"), ("twin", "10.244.0.0/15")];

fn update(op: &Op) -> Update {
    match *op {
        Op::Pool(which, 0) => gone(Kind::IPPool, POOLS[which].0),
        Op::Pool(which, version) => {
            let (ipip, vxlan) =
                [(None, None), (Some(ALWAYS), None), (Some(CROSS), None), (None, Some(ALWAYS)), (None, Some(CROSS))]
                    [version - 1];
            pool(POOLS[which].0, POOLS[which].1, ipip, vxlan)
        }
        Op::Node(which, 0) => gone(Kind::Node, NODES[which]),
        // Each has a tunnel address in a block that may be its own, or another's, or in no pool.
        Op::Node(which, version) => {
            let host = ["10.0.0.1/24", "10.0.0.2/24", "10.0.9.3/24", "10.0.0.2/32"][(which + version) % 4];
            let tunnels = ["10.244.2", "10.245.0", "10.247.0", "10.246.0"][(which * version) % 4];
            node(Some(host), NODES[which]).ready_at(tunnels, which + 1).update()
        }
        Op::Block(which, 0) => Update::Deleted(calico_api::Key::Block(BLOCKS[which].parse().unwrap())),
        Op::Block(which, version) => {
            let owner = ["host:east", "host:a", "host:b", "host:c", ""][version - 1];
            let lent: &[(usize, &str)] = [&[][..], &[(0, "a")], &[(0, "c"), (1, "east")]][(which + version) % 3];
            block(BLOCKS[which], owner, lent)
        }
        Op::Programs(version) => {
            configuration([None, Some("Enabled"), Some("EnabledIPIPOnly"), Some("Disabled")][version])
        }
        Op::Subnets(version) => subnets([&[][..], &["10.0.0.2/24"], &["10.0.0.2/16"]][version]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_updates_ends_where_a_start_from_scratch_does(
        ops in prop::collection::vec(op(), 1..40), sync_at in 0..40usize, felix in 0..3usize, alone in any::<bool>(),
    ) {
        let routing = if alone { Routing::WithoutBgp } else { Routing::Bgp };
        let programs = [None, Some("Enabled"), Some("EnabledNoEncapOnly")][felix];
        let mut world = World::new(routing, programs);
        let mut last: BTreeMap<(u8, usize), Update> = BTreeMap::new();
        let mut synced = false;
        for (index, op) in ops.iter().enumerate() {
            if index == sync_at {
                world.take(Update::InSync);
                synced = true;
            }
            let key = match op {
                Op::Pool(which, _) => (0, *which),
                Op::Node(which, _) => (1, *which),
                Op::Block(which, _) => (2, *which),
                Op::Programs(_) => (3, 0),
                Op::Subnets(_) => (4, 0),
            };
            let before = world.route_map();
            last.insert(key, update(op));
            world.take(update(op));
            if synced {
                is_as_from_scratch(&world, &before, &last, (routing, programs))?;
            }
        }
        world.take(Update::InSync);
        let before = world.route_map();
        is_as_from_scratch(&world, &before, &last, (routing, programs))?;
    }
}

/// After each step everything is as a start from scratch would have it; only where a node is not ready for what its pool
/// wants may it also be as it was `before` that step.
fn is_as_from_scratch(
    world: &World,
    before: &BTreeMap<String, String>,
    last: &BTreeMap<(u8, usize), Update>,
    (routing, programs): (Routing, Option<&str>),
) -> Result<(), TestCaseError> {
    let mut anew = World::new(routing, programs);
    anew.take_all(last.values().rev().cloned().chain([Update::InSync]));
    prop_assert_eq!(world.awaited(), anew.awaited());
    let (now, scratch) = (world.route_map(), anew.route_map());
    let all: BTreeSet<&String> = now.keys().chain(scratch.keys()).collect();
    let different: Vec<_> = all.into_iter().filter(|to| now.get(*to) != scratch.get(*to)).collect();
    for to in &different {
        prop_assert!(world.awaited().contains(to), "{} {:?} {:?}", to, now, scratch);
        match now.get(*to) {
            // Its holder is another than before, and nothing leads there.
            None => prop_assert_eq!(&scratch[*to], "leave"),
            Some(path) => {
                prop_assert_eq!(Some(way(path)), before.get(*to).map(|path| way(path)), "{} {:?}", to, scratch)
            }
        }
    }
    prop_assert_eq!(world.calc.notices().collect::<Vec<_>>(), anew.calc.notices().collect::<Vec<_>>());
    prop_assert_eq!(world.all_members(), anew.all_members());
    if different.is_empty() {
        prop_assert_eq!(world.vteps(), anew.vteps());
        let has = |world: &World| {
            let tunnels = world.tunnels();
            (tunnels.ipip.clone(), tunnels.vxlan.clone().filter(|_| world.knows_own()))
        };
        prop_assert!(!world.knows_own() || has(world) == has(&anew));
    }
    Ok(())
}

/// What sort of path it is, whatever the addresses: a tunnel's own address is on its link.
fn way(path: &str) -> &str {
    match path.split(' ').next() {
        Some("link") => "vxlan",
        word => word.unwrap_or_default(),
    }
}
