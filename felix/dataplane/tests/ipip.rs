//! IPIP between nodes built by nothing but the dataplane. Needs a kernel with `ipip`: where there is none, the program is run in
//! a machine that has one.

mod net;

use std::time::Instant;

use calico_netlink::{Event, LinkChange};
use felix_calc::{Change, Path, Remote, Tunnels};
use felix_dataplane::{LINGER, Settings, TunnelState};
use net::{Net, Node, Segment, block, remote, run, settle, via_vxlan};

fn via_ipip(node: &Node) -> Option<Remote> {
    Some(Remote::By(Path::Ipip { gateway: node.local }))
}

/// Two nodes, the second on this segment.
fn two(second: Segment) -> [Node; 2] {
    let net = Net::new();
    let [mut one, mut two] =
        [(1, Segment::A), (2, second)].map(|(number, segment)| net.node(number, segment, Settings::default()));
    let (own, other) = (one.only_ipip(), two.only_ipip());
    one.want([own, remote(2, false, via_ipip(&two)), Change::InSync]);
    two.want([other, remote(1, false, via_ipip(&one)), Change::InSync]);
    [one, two]
}

#[test]
fn pods_reach_each_other_through_ipip_with_the_largest_packet_that_fits_and_a_restart_writes_nothing() {
    let [mut one, two] = two(Segment::B);
    one.passes_exactly(2, false, 1480);
    assert_eq!(one.way_to(2, false), Some(("tunl0".to_owned(), 80, Some(1480))));
    assert_eq!(one.dataplane.tunnel_state(), TunnelState { ipip: true, ..TunnelState::default() });
    assert_eq!(one.findings(), [].into());

    let mut witness = one.witness();
    settle(&mut witness);
    one.restart();
    let own = one.only_ipip();
    one.want([own, remote(2, false, via_ipip(&two)), Change::InSync]);
    one.dataplane.resync();
    one.apply();
    assert_eq!(witness.receive().unwrap(), Vec::<Event>::new());
    assert!(!one.dataplane.is_due() && one.dataplane.tunnel_state().ipip);
}

#[test]
fn what_others_do_to_the_tunnel_is_undone_within_a_second() {
    let [mut one, _two] = two(Segment::B);
    let sorted = |report: &str| {
        let mut lines: Vec<String> = report.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let right = sorted(&one.report());
    for line in [
        "ip link set tunl0 down",
        "ip link set tunl0 mtu 1000",
        "ip address delete 10.65.1.63/32 dev tunl0",
        "ip address flush dev tunl0",
        "ip address add 10.99.0.1/24 dev tunl0",
        "ip route delete 10.65.2.0/26 metric 1024",
        "ip route replace 10.65.2.0/26 via 192.0.2.140 dev tunl0 onlink proto 12 metric 1024",
    ] {
        one.enter();
        run(line);
        one.becomes(line, |node| sorted(&node.report()) == right);
        assert!(one.reaches(2, false), "after {line}\n{}", one.report());
    }
    let found = one.findings();
    assert!(found.iter().any(|text| text.starts_with("Interface/tunl0: the address 10.99.0.1/24")), "{found:?}");
}

#[test]
fn no_packet_is_lost_between_ipip_and_vxlan_when_decapsulation_comes_before_routes() {
    let [mut one, mut two] = two(Segment::B);
    let all =
        [&one, &two].map(|node| (node.vtep(false), Change::Tunnels(Tunnels { vxlan_v6: None, ..node.tunnels() })));
    let [(vtep_one, both_one), (vtep_two, both_two)] = all;
    assert!(one.reaches(2, false));
    let flood = one.flood(2, false);
    // First both understand VXLAN, then one after the other sends it, and then IPIP goes; and back.
    one.want([both_one.clone(), vtep_two]);
    two.want([both_two.clone(), vtep_one]);
    one.want([remote(2, false, via_vxlan(2, false))]);
    assert_eq!(one.way_to(2, false), Some(("vxlan.calico".to_owned(), 80, Some(1450))));
    two.want([remote(1, false, via_vxlan(1, false))]);
    let start = Instant::now();
    for node in [&mut one, &mut two] {
        let own = node.only_vxlan();
        node.dataplane.at(start);
        node.want([own]);
        node.dataplane.at(start + LINGER);
        node.apply();
        assert!(!node.link("tunl0").up);
    }
    one.want([both_one]);
    two.want([both_two]);
    one.want([remote(2, false, via_ipip(&two))]);
    two.want([remote(1, false, via_ipip(&one))]);
    assert_eq!(flood.end(), (2000, 2000));
    assert_eq!(one.way_to(2, false), Some(("tunl0".to_owned(), 80, Some(1480))));
}

#[test]
fn a_tunnel_that_no_pool_wants_lingers_and_is_then_switched_off_though_the_process_be_another() {
    let [mut one, two] = two(Segment::A);
    let start = Instant::now();
    one.restart();
    one.dataplane.at(start);
    let plain = Some(Remote::By(Path::Plain { gateway: two.local.into() }));
    one.want([Change::Tunnels(Tunnels::default()), remote(2, false, plain), Change::InSync]);
    assert!(two.reaches(1, false) && one.dataplane.tunnel_state().ipip);
    assert_eq!(one.dataplane.next_deadline(), Some(start + LINGER));
    one.dataplane.at(start + LINGER);
    one.apply();
    assert_eq!(one.dataplane.tunnel_state(), TunnelState::default());
    let device = one.link("tunl0");
    assert!(!device.up && device.alias.is_none());
    assert!(!one.socket.addresses().unwrap().iter().any(|address| address.index == device.index));
    one.dataplane.notice().unwrap();
    one.apply();
    assert!(!one.dataplane.is_due());

    // Somebody else uses it: that is theirs.
    run("ip link set tunl0 up");
    run("ip address add 10.99.0.1/32 dev tunl0");
    one.becomes("it is named", |node| !node.findings().is_empty());
    let found = one.findings();
    assert!(found.iter().any(|text| text.starts_with("Interface/tunl0: it is up with 10.99.0.1/32")), "{found:?}");
    one.dataplane.at(start + 3 * LINGER);
    one.apply();
    assert!(one.link("tunl0").up);
}

#[test]
fn a_tunnel_that_calico_made_is_taken_over_as_it_is_with_routes_of_bird() {
    let net = Net::new();
    let mut one = net.node(1, Segment::A, Settings { ipip_mtu: 1400, ..Settings::default() });
    let two = net.node(2, Segment::B, Settings::default());
    one.enter();
    // Loads the module, if that was not done.
    let _ = std::process::Command::new("ip").args(["link", "add", "tunl0", "type", "ipip"]).output();
    run("ip link set tunl0 up");
    run("ip address add 10.65.1.63/32 dev tunl0");
    run(&format!("ip route add {} via {} dev tunl0 onlink proto bird metric 1024", block(2, false), two.local));
    one.becomes("rest", |node| !node.dataplane.is_due());
    let mut witness = one.witness();
    let own = one.only_ipip();
    one.want([own, remote(2, false, via_ipip(&two)), Change::InSync]);
    assert_eq!(one.way_to(2, false), Some(("tunl0".to_owned(), 80, Some(1400))));
    let told = witness.receive().unwrap();
    let gone = |event: &Event| matches!(event, Event::RouteGone(_) | Event::AddressGone(_) | Event::LinkGone(_));
    assert!(!told.iter().any(gone), "{told:?}");
    // An interface below that carries less.
    one.change_link("eth0", &LinkChange { mtu: Some(1300), ..LinkChange::default() });
    one.becomes("the MTU follows", |node| node.way_to(2, false).is_some_and(|(_, _, mtu)| mtu == Some(1280)));
    let found = one.findings();
    assert!(found.iter().any(|text| text.contains("the configured MTU 1400 is more than eth0 can carry")), "{found:?}");
}
