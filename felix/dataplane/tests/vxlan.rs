//! VXLAN between nodes built by nothing but the dataplane.

mod net;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use calico_netlink::{Event, LinkChange, Mac, NextHop, Route, Vxlan, namespace, sysctl};
use felix_calc::{Change, Path, Remote, Set, Tunnels, Vtep};
use felix_dataplane::{LINGER, Settings, TunnelState};
use ipnet::IpNet;
use net::{Net, Node, Segment, block, pod, remote, run, settle, tunnel, via_vxlan};

/// Makes nodes reach each other's blocks through VXLAN.
fn connect(nodes: &mut [Node]) {
    let all: Vec<(u8, Vec<Change>)> = nodes.iter().map(|node| (node.number, far_end(node))).collect();
    for node in nodes {
        let own = node.only_vxlan();
        let number = node.number;
        let others = all.iter().filter(|(other, _)| *other != number).flat_map(|(_, changes)| changes.clone());
        node.want(others.chain([own, Change::InSync]));
    }
}

/// What others want of a node.
fn far_end(node: &Node) -> Vec<Change> {
    let number = node.number;
    let routes = [false, true].map(|ipv6| remote(number, ipv6, via_vxlan(number, ipv6)));
    [node.vtep(false), node.vtep(true)].into_iter().chain(routes).collect()
}

fn two() -> [Node; 2] {
    let net = Net::new();
    let mut nodes = [1, 2].map(|number| net.node(number, Segment::A, Settings::default()));
    connect(&mut nodes);
    nodes
}

#[test]
fn pods_reach_each_other_through_vxlan_of_both_families_with_the_largest_packet_that_fits() {
    let mut nodes = two();
    let [one, two] = &mut nodes;
    for (ipv6, mtu) in [(false, 1450), (true, 1430)] {
        one.passes_exactly(2, ipv6, mtu);
        let name = if ipv6 { "vxlan-v6.calico" } else { "vxlan.calico" };
        assert_eq!(one.way_to(2, ipv6), Some((name.to_owned(), 80, Some(mtu))));
    }
    let local = two.local;
    let device = two.link("vxlan.calico");
    let parent = two.link("eth0").index;
    let expected = Vxlan { vni: 4096, port: 4789, local: Some(local.into()), parent: Some(parent), ..Vxlan::default() };
    assert_eq!(device.vxlan, Some(expected));
    assert_eq!((device.mac, device.mtu, device.up), (Some(Mac(two.mac(false))), 1450, true));
    assert_eq!(sysctl::read(&["net", "ipv4", "conf", "vxlan.calico", "rp_filter"]).unwrap(), "2");
    assert_eq!(two.dataplane.tunnel_state(), TunnelState { ipip: false, vxlan: true, vxlan_v6: true });
    assert_eq!(two.findings(), [].into());
    // A peer's device answers by its own address, too.
    one.enter();
    run(&format!("ping -c 1 -W 1 {}", tunnel(2, false)));
}

#[test]
fn a_restarted_dataplane_finds_tunnels_far_ends_and_routes_and_writes_nothing() {
    let mut nodes = two();
    let [one, two] = &mut nodes;
    assert!(one.reaches(2, false) && one.reaches(2, true));
    let mut witness = one.witness();
    settle(&mut witness);
    let before = one.report();
    one.restart();
    one.apply(); // before it knows what is wanted
    let own = one.only_vxlan();
    one.take(far_end(two));
    one.want([own, Change::InSync]);
    one.dataplane.resync();
    one.apply();
    assert_eq!(witness.receive().unwrap(), Vec::<Event>::new());
    assert_eq!(one.report(), before);
    assert!(!one.dataplane.is_due());
    assert!(one.dataplane.tunnel_state().vxlan);
}

#[test]
fn what_others_do_to_tunnels_is_undone_within_a_second() {
    let mut nodes = two();
    let [one, _] = &mut nodes;
    let right = one.report();
    // The number of an interface that is made again is another.
    let without_numbers = |report: &str| {
        let words = |line: &str| {
            let own = !line.contains(": vxlan");
            let line = if own { line } else { line.split_once(": ").map_or(line, |(_, rest)| rest) };
            line.split(" ageing").next().unwrap_or_default().to_owned()
        };
        let mut lines: Vec<String> = report.lines().map(words).collect();
        lines.sort_unstable();
        lines
    };
    let expected = without_numbers(&right);
    for (line, ping) in [
        ("ip link delete vxlan.calico", false),
        ("ip link delete vxlan-v6.calico", true),
        ("ip link set vxlan.calico down", false),
        ("ip link set vxlan-v6.calico down", true),
        ("ip link set vxlan.calico mtu 1200", false),
        ("ip link set vxlan.calico address 02:00:00:00:00:01", false),
        ("bridge fdb flush dev vxlan.calico", false),
        ("ip neighbour flush dev vxlan.calico nud permanent", false),
        ("ip -6 neighbour flush dev vxlan-v6.calico nud permanent", true),
        ("ip address delete 10.65.1.63/32 dev vxlan.calico", false),
        ("ip -6 address flush dev vxlan-v6.calico scope global", true),
        ("ip address add 10.99.0.1/24 dev vxlan.calico", false),
        ("ip route delete 10.65.2.0/26 metric 1024", false),
        ("ip route replace 10.65.2.0/26 via 192.0.2.1 proto 12 metric 1024", false),
        ("ip -6 route delete fd65:2::/122", true),
        ("ip neighbour add 10.9.9.9 lladdr 02:00:00:00:00:02 nud permanent dev vxlan.calico", false),
    ] {
        one.enter();
        run(line);
        one.becomes(line, |node| without_numbers(&node.report()) == expected);
        assert!(one.reaches(2, ping), "after {line}\n{}", one.report());
    }
    let foreign = |text: &String| text.starts_with("Interface/vxlan.calico: the address 10.99.0.1/24");
    assert!(one.findings().iter().any(foreign), "{:?}", one.findings());
    one.dataplane.resync();
    one.apply();
    assert_eq!(one.findings(), [].into());
}

#[test]
fn a_device_made_with_other_parameters_or_another_parent_is_made_anew_and_follows_the_nodes_address() {
    let mut nodes = two();
    let [one, _] = &mut nodes;
    one.enter();
    let right = one.link("vxlan.calico").vxlan;
    for other in [
        "id 77 dstport 4789 local 192.0.2.11 dev eth0 nolearning",
        "id 4096 dstport 8472 local 192.0.2.11 dev eth0 nolearning",
        "id 4096 dstport 4789 local 192.0.2.11 dev eth0 learning",
        "id 4096 dstport 4789 local 192.0.2.11 nolearning",
        "id 4096 dstport 4789 local 192.0.2.11 dev eth0 nolearning remote 192.0.2.12",
        "external dstport 4789 nolearning",
    ] {
        run("ip link delete vxlan.calico");
        run(&format!("ip link add vxlan.calico type vxlan {other}"));
        one.becomes(other, |node| node.socket.link("vxlan.calico").unwrap().is_some_and(|link| link.vxlan == right));
        assert!(one.reaches(2, false), "{other}\n{}", one.report());
    }
    // A bridge takes over the address of the interface, as when one configures a machine for virtual ones.
    for line in [
        "ip link add br-ex type bridge",
        "ip link set br-ex up",
        "ip link set eth0 master br-ex",
        "ip address add 192.0.2.11/25 dev br-ex",
        "ip address delete 192.0.2.11/25 dev eth0",
    ] {
        run(line);
    }
    let bridge = one.link("br-ex").index;
    one.becomes("the device is on the bridge", |node| {
        node.socket.link("vxlan.calico").unwrap().and_then(|link| link.vxlan?.parent) == Some(bridge)
    });
    one.becomes("the other node is reached", |node| node.reaches(2, false));
    let subnets: Vec<IpNet> = one.dataplane.subnets();
    assert!(subnets.contains(&"192.0.2.11/25".parse().unwrap()), "{subnets:?}");
}

#[test]
fn a_tunnel_that_no_pool_wants_lingers_and_then_goes_and_a_restart_does_not_forget_it() {
    let mut nodes = two();
    let start = Instant::now();
    let [one, two] = &mut nodes;
    one.dataplane.at(start);
    one.want([Change::Tunnels(Tunnels::default()), remote(2, false, None), remote(2, true, None)]);
    assert_eq!(one.dataplane.next_deadline(), Some(start + LINGER));
    // What the other still sends through it is understood, and answered by the way that is there.
    one.take([remote(2, false, Some(Remote::By(Path::Plain { gateway: two.local.into() })))]);
    one.apply();
    assert!(two.reaches(1, false));
    assert!(one.dataplane.tunnel_state().vxlan);

    one.restart();
    one.dataplane.at(start);
    let plain = remote(2, false, Some(Remote::By(Path::Plain { gateway: two.local.into() })));
    one.want([Change::Tunnels(Tunnels::default()), plain, Change::InSync]);
    assert!(one.dataplane.tunnel_state().vxlan && two.reaches(1, false));
    one.dataplane.at(start + LINGER / 2);
    assert!(!one.dataplane.is_due());
    let own = one.only_vxlan();
    one.want([own]); // changed their mind
    assert_eq!(one.dataplane.next_deadline(), None);
    one.want([Change::Tunnels(Tunnels::default())]);
    one.dataplane.at(start + LINGER);
    assert!(!one.dataplane.is_due());
    one.dataplane.at(start + LINGER + LINGER / 2);
    assert!(one.dataplane.is_due());
    one.apply();
    assert_eq!(one.dataplane.tunnel_state(), TunnelState::default());
    assert_eq!(one.socket.link("vxlan.calico").unwrap(), None);
    assert_eq!(one.socket.link("vxlan-v6.calico").unwrap(), None);
    one.dataplane.notice().unwrap();
    one.apply();
    assert!(!one.dataplane.is_due() && one.dataplane.next_deadline().is_none());
}

#[test]
fn nodes_of_ones_own_subnet_are_reached_plainly_and_others_through_the_tunnel() {
    let net = Net::new();
    let node = |number, segment| net.node(number, segment, Settings::default());
    let mut nodes = [node(1, Segment::A), node(2, Segment::A), node(3, Segment::B)];
    connect(&mut nodes);
    let [one, two, three] = &mut nodes;
    one.want([remote(2, false, Some(Remote::By(Path::Plain { gateway: two.local.into() })))]);
    two.want([remote(1, false, Some(Remote::By(Path::Plain { gateway: one.local.into() })))]);
    assert_eq!(one.way_to(2, false), Some(("eth0".to_owned(), 80, None)));
    assert_eq!(one.way_to(3, false), Some(("vxlan.calico".to_owned(), 80, Some(1450))));
    one.passes_exactly(2, false, 1500);
    one.passes_exactly(3, false, 1450);
    assert!(two.reaches(3, false) && three.reaches(1, false) && three.reaches(2, true));
    // A single address that node 2 took from node 3's block, by node 2's way.
    two.enter();
    run("ip address add 10.65.3.9/32 dev lo");
    let borrowed = "10.65.3.9/32".parse().unwrap();
    let wanted = Some(Remote::By(Path::Plain { gateway: two.local.into() }));
    one.want([Change::Remote { destination: borrowed, wanted }]);
    run(&format!("ping -c 1 -W 1 -I {} 10.65.3.9", pod(1, false)));
}

#[test]
fn no_packet_is_lost_when_a_path_is_replaced_on_one_node_after_the_other() {
    let mut nodes = two();
    let [one, two] = &mut nodes;
    let plain = |node: &Node| Some(Remote::By(Path::Plain { gateway: node.local.into() }));
    assert!(one.reaches(2, false));
    let flood = one.flood(2, false);
    for _ in 0..5 {
        one.want([remote(2, false, plain(two))]);
        two.want([remote(1, false, plain(one))]);
        one.want([remote(2, false, via_vxlan(2, false))]);
        two.want([remote(1, false, via_vxlan(1, false))]);
    }
    one.want([remote(2, false, plain(two))]);
    assert_eq!(flood.end(), (2000, 2000));
    assert_eq!(one.way_to(2, false), Some(("eth0".to_owned(), 80, None)));
}

#[test]
fn what_is_to_be_left_is_neither_written_nor_removed_and_what_is_taken_over_is_replaced_in_one_step() {
    let mut nodes = two();
    let [one, two] = &mut nodes;
    one.want([remote(2, false, Some(Remote::Leave)), remote(2, true, Some(Remote::Leave))]);
    assert!(one.way_to(2, false).is_some() && one.way_to(2, true).is_some());
    one.restart();
    let own = one.only_vxlan();
    one.take([two.vtep(false), two.vtep(true), own]);
    one.want([remote(2, false, Some(Remote::Leave)), remote(2, true, Some(Remote::Leave)), Change::InSync]);
    assert_eq!(one.way_to(2, false).unwrap().1, 80);
    assert!(one.reaches(2, false) && one.reaches(2, true) && !one.dataplane.is_due());

    // BGP takes it over, and is left alone.
    let index = one.link("eth0").index;
    let by_bgp = Route::unicast(block(2, false), [NextHop::via(two.local.into()).on(index).onlink()], 12);
    one.socket.replace_route(&by_bgp.with_metric(1024)).unwrap();
    one.becomes("nothing to do", |node| !node.dataplane.is_due());
    assert_eq!(one.way_to(2, false).unwrap().1, 12);
    // It comes back to us: one step, no removal.
    let mut witness = one.witness();
    one.want([remote(2, false, via_vxlan(2, false))]);
    assert_eq!(one.way_to(2, false).unwrap().1, 80);
    let told = witness.receive().unwrap();
    assert!(!told.iter().any(|event| matches!(event, Event::RouteGone(_))), "{told:?}");

    // To BGP again, and then the block is gone: what is not ours stays.
    one.want([remote(2, false, Some(Remote::Leave))]);
    one.enter();
    run(&format!("ip route replace {} via {} proto 12 metric 1024", block(2, false), two.local));
    one.want([remote(2, false, None), remote(2, true, None)]);
    assert_eq!(one.way_to(2, false).unwrap().1, 12);
    assert_eq!(one.way_to(2, true), None);
    // A black hole of a block that we lost is no way to leave.
    let network = block(7, false);
    one.want([Change::BlackHole { network, wanted: true }]);
    assert_eq!(one.routes(7, false).len(), 1);
    one.want([Change::BlackHole { network, wanted: false }, remote(7, false, Some(Remote::Leave))]);
    assert_eq!(one.routes(7, false), []);
}

#[test]
fn without_bgp_its_routes_into_pools_are_swept_and_no_others() {
    let net = Net::new();
    let mut one = net.node(1, Segment::A, Settings { sweep_bird: true, ..Settings::default() });
    for line in [
        "ip route add 10.65.2.0/26 via 192.0.2.12 proto 12",
        "ip route add 10.65.3.0/26 via 192.0.2.13 proto 12 metric 1024",
        "ip route add blackhole 10.65.1.0/26 proto 12",
        "ip route add 10.65.4.0/26 via 192.0.2.14 proto 4",
        "ip route add 10.66.0.0/26 via 192.0.2.14 proto 12",
    ] {
        run(line);
    }
    let pool = Change::Member { set: Set::Pools, member: "10.65.0.0/16".parse().unwrap(), wanted: true };
    let plain = Some(Remote::By(Path::Plain { gateway: "192.0.2.12".parse().unwrap() }));
    one.take([pool, remote(2, false, plain)]);
    assert_eq!(one.routes(3, false).len(), 1);
    one.want([Change::InSync]);
    let ways: Vec<Option<u8>> = (1..=4).map(|number| one.way_to(number, false).map(|(_, by, _)| by)).collect();
    assert_eq!(ways, [None, Some(80), None, Some(4)]);
    run("ip route get 10.66.0.1");
    let main = one.report();
    assert!(main.contains("10.66.0.0/26 via 192.0.2.14 dev eth0 proto bird"), "{main}");
}

#[test]
fn what_only_the_operator_can_put_right_is_named_and_taken_up_when_it_is() {
    let net = Net::new();
    let settings = Settings { vxlan_mtu: 1500, ..Settings::default() };
    let mut one = net.node(1, Segment::A, settings);
    let start = Instant::now();
    one.dataplane.at(start);
    let holder = UdpSocket::bind("0.0.0.0:4789").unwrap();
    for line in [
        "ip link add flannel.1 type vxlan id 1 dstport 8472",
        "ip link set flannel.1 up",
        "ip address add 10.244.1.0/32 dev flannel.1",
        "ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
        "ip link add other type vxlan id 4096 dstport 4789 local fd00:a::1",
    ] {
        run(line);
    }
    sysctl::write(&["net", "ipv4", "conf", "eth0", "rp_filter"], "1").unwrap();
    let own = one.only_vxlan();
    one.want([own, Change::InSync]);
    let found = one.findings();
    let text = |part: &str| assert!(found.iter().any(|text| text.contains(part)), "{part} is not in {found:#?}");
    text("Interface/vxlan.calico: UDP port 4789 is used by process");
    text("Interface/vxlan.calico: the configured MTU 1500 is more than eth0 can carry, whose own is 1500");
    text("Interface/vxlan-v6.calico: other has VNI 4096 on UDP port 4789 already");
    text("Interface/flannel.1: left by flannel with a route");
    text("calicoctl node cleanup --flannel");
    text("Interface/eth0: its reverse path filter is strict");
    assert_eq!(one.dataplane.tunnel_state(), TunnelState::default());

    drop(holder);
    run("ip link delete other");
    run("ip link delete flannel.1");
    sysctl::write(&["net", "ipv4", "conf", "eth0", "rp_filter"], "2").unwrap();
    one.dataplane.notice().unwrap();
    one.dataplane.at(one.dataplane.next_deadline().unwrap());
    assert!(one.dataplane.is_due());
    one.apply();
    assert_eq!(one.findings().len(), 1, "{:?}", one.findings());
    assert!(one.dataplane.tunnel_state().vxlan && one.dataplane.tunnel_state().vxlan_v6);
    assert_eq!(one.link("vxlan.calico").mtu, 1450);

    // Nobody holds the address that the Node gives.
    let mut tunnels = one.tunnels();
    (tunnels.vxlan_v6, tunnels.ipip) = (None, None);
    tunnels.vxlan.as_mut().unwrap().local = "192.0.2.77".parse().unwrap();
    one.want([Change::Tunnels(tunnels)]);
    let found = one.findings();
    assert!(found.iter().any(|text| text.contains("no interface of this node holds 192.0.2.77")), "{found:?}");
    run("ip address add 192.0.2.77/25 dev eth0");
    let local = "192.0.2.77".parse().ok();
    one.becomes("the device has the address", |node| {
        node.socket.link("vxlan.calico").unwrap().and_then(|link| link.vxlan?.local) == local
    });
}

#[test]
fn a_tunnel_lingers_as_long_as_the_one_that_is_wanted_instead_does_not_come() {
    let [mut one, two] = two();
    let start = Instant::now();
    one.dataplane.at(start);
    one.apply();
    // Its kernel lacks what is wanted, its port is taken or, as here, its name: it cannot come.
    run("ip link add tunl0 type bridge");
    run("ip link set tunl0 up");
    one.becomes("the other device is known", |node| !node.dataplane.is_due());
    let own = one.only_ipip();
    one.want([own, remote(2, false, Some(Remote::Leave)), remote(2, true, Some(Remote::Leave))]);
    for seconds in [121, 241, 3_601] {
        one.dataplane.at(start + Duration::from_secs(seconds));
        one.apply();
        assert!(one.link("vxlan.calico").up && one.reaches(2, false), "after {seconds} s");
        // No other is wanted for IPv6.
        assert!(one.socket.link("vxlan-v6.calico").unwrap().is_none());
        assert!(one.dataplane.next_deadline() > Some(start + Duration::from_secs(seconds)));
    }
    // The time begins when it has come, or is not wanted either.
    let later = start + Duration::from_secs(4_000);
    one.dataplane.at(later);
    one.apply();
    one.want([Change::Tunnels(Tunnels::default())]);
    assert_eq!(one.dataplane.next_deadline(), Some(later + LINGER));
    one.dataplane.at(later + LINGER);
    one.apply();
    assert!(one.socket.link("vxlan.calico").unwrap().is_none());
    one.dataplane.at(later + 3 * LINGER);
    one.apply();
    assert!(one.link("tunl0").up, "what only has the name stays as it is");
    drop(two);
}

#[test]
fn ipip_comes_up_or_it_is_said_why_not() {
    let net = Net::new();
    let mut one = net.node(1, Segment::A, Settings::default());
    let own = one.only_ipip();
    let plain = Some(Remote::By(Path::Ipip { gateway: "192.0.2.12".parse().unwrap() }));
    one.want([own, remote(2, false, plain), Change::InSync]);
    let scratch = namespace::create().unwrap();
    let has = namespace::inside(&scratch, || {
        std::process::Command::new("ip").args(["link", "add", "x", "type", "ipip"]).output()
    });
    let has = has.unwrap().unwrap().status.success();
    assert_eq!(one.dataplane.tunnel_state().ipip, has);
    let found = one.findings();
    let said = found
        .iter()
        .any(|text| text.starts_with("Interface/tunl0: the kernel has no IPIP") && text.contains("modprobe ipip"));
    assert_eq!(said, !has, "{found:?}");
    assert_eq!(one.way_to(2, false).is_some(), has);
}

#[test]
fn checksums_are_computed_by_the_kernel_where_that_is_configured() {
    let net = Net::new();
    let mut one = net.node(1, Segment::A, Settings { checksum_offload_broken: Some(true), ..Settings::default() });
    let own = one.only_vxlan();
    one.want([own, Change::InSync]);
    for name in ["vxlan.calico", "vxlan-v6.calico"] {
        assert!(!one.socket.checksum_offload(name).unwrap());
    }
    one.socket.set_checksum_offload("vxlan.calico", true).unwrap();
    one.dataplane.resync();
    one.apply();
    assert!(!one.socket.checksum_offload("vxlan.calico").unwrap());
}

/// Timed by hand: `cargo test --release -p felix-dataplane --test vxlan -- --ignored --nocapture`.
#[test]
#[ignore = "prints how long it takes to program five thousand nodes"]
fn five_thousand_nodes_with_sixty_thousand_blocks() {
    let net = Net::new();
    let mut one = net.node(1, Segment::A, Settings::default());
    let state = |one: &Node| {
        let far = (0..5000_u32).map(|n| {
            let [_, _, high, low] = n.to_be_bytes();
            let tunnel = [10, 100, high, low].into();
            let vtep = Vtep { tunnel, mac: [0x66, 0, 0, 0, high, low], host: [172, 16, high, low].into() };
            Change::Vtep { node: format!("node{n}"), ipv6: false, wanted: Some(vtep) }
        });
        let routes = (0..60_000_u32).map(|n| {
            let destination = IpNet::new(std::net::Ipv4Addr::from(0x1400_0000 + n * 64).into(), 26).unwrap();
            let [_, _, high, low] = (n % 5000).to_be_bytes();
            let wanted = Some(Remote::By(Path::Vxlan { gateway: [10, 100, high, low].into() }));
            Change::Remote { destination, wanted }
        });
        far.chain(routes).chain([one.only_vxlan(), Change::InSync]).collect::<Vec<_>>()
    };
    let timed = |what: &str, one: &mut Node, work: &mut dyn FnMut(&mut Node)| {
        let start = Instant::now();
        work(one);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let of =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
        eprintln!("{what}: {:?}, memory {}, at most {}", start.elapsed(), of("VmRSS:"), of("VmHWM:"));
    };
    let changes = state(&one);
    one.take(changes);
    timed("first apply", &mut one, &mut |one| one.apply());
    timed("our own notifications", &mut one, &mut |one| drop(one.dataplane.notice()));
    timed("apply after them", &mut one, &mut |one| one.apply());
    assert_eq!(one.dataplane.route_count(), 60_000);
    timed("a change of one route", &mut one, &mut |one| {
        one.want([remote(2, false, via_vxlan(2, false))]);
    });
    timed("a change of one far end", &mut one, &mut |one| {
        let vtep = Vtep { tunnel: [10, 99, 0, 1].into(), mac: [6; 6], host: [172, 31, 0, 1].into() };
        one.want([Change::Vtep { node: "new".to_owned(), ipv6: false, wanted: Some(vtep) }]);
    });
    let plain = |n: u32| {
        let destination = IpNet::new(std::net::Ipv4Addr::from(0x1400_0000 + n * 64).into(), 26).unwrap();
        let gateway = std::net::Ipv4Addr::new(192, 0, 2, 20 + (n % 100) as u8).into();
        Change::Remote { destination, wanted: Some(Remote::By(Path::Plain { gateway })) }
    };
    timed("all routes become plain", &mut one, &mut |one| one.want((0..60_000).map(plain)));
    let back = state(&one);
    timed("and go through the tunnel again", &mut one, &mut |one| one.want(back.iter().cloned()));
    timed("audit", &mut one, &mut |one| {
        one.dataplane.resync();
        one.apply();
    });
    let changes = state(&one);
    timed("restart", &mut one, &mut |one| {
        one.restart();
        one.take(changes.clone());
        one.apply();
    });
    timed("the device is set down and comes back", &mut one, &mut |one| {
        one.change_link("vxlan.calico", &LinkChange { up: Some(false), ..LinkChange::default() });
        one.dataplane.notice().unwrap();
        assert!(one.dataplane.is_due());
        one.apply();
    });
}
