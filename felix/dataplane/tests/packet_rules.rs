//! The packet rules against a real kernel: packets really change and vanish, and the real `nft` reads and spoils our tables.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use calico_netlink::nftables::{self, Commit, Family, Table};
use calico_netlink::{Socket, Veth, namespace};
use felix_calc::{Change, Ipip, Set, Tunnels, Vxlan};
use felix_dataplane::TunnelState;
use felix_dataplane::nft::{PacketRules, Settings};
use socket2::{Domain, Protocol, Type};

const NODE: &str = "192.0.2.1";
const PEER: &str = "192.0.2.9";

#[track_caller]
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn nft(script: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    // Of one that ends before it has read, the output says why.
    let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
    assert!(child.wait().unwrap().success(), "nft: {script}");
}

fn member(set: Set, network: &str, wanted: bool) -> Change {
    Change::Member { set, member: network.parse().unwrap(), wanted }
}

fn tunnels(ipip: bool, vxlan: bool) -> Change {
    let device = Vxlan { local: NODE.parse().unwrap(), mac: [2; 6], address: None };
    Change::Tunnels(Tunnels {
        ipip: ipip.then_some(Ipip { address: None, local: None }),
        vxlan: vxlan.then_some(device),
        vxlan_v6: None,
    })
}

/// A pool of pods whose packets to the outside get the node's address, another whose do not, and both nodes.
fn cluster() -> Vec<Change> {
    vec![
        member(Set::Pools, "10.65.0.0/16", true),
        member(Set::Pools, "10.66.0.0/16", true),
        member(Set::Pools, "fd65::/64", true),
        member(Set::MasqueradedPools, "10.65.0.0/16", true),
        member(Set::MasqueradedPools, "fd65::/64", true),
        member(Set::Hosts, "192.0.2.1/32", true),
        member(Set::Hosts, "192.0.2.9/32", true),
        Change::InSync,
    ]
}

fn take(rules: &mut PacketRules, changes: impl IntoIterator<Item = Change>) {
    changes.into_iter().for_each(|change| rules.change(&change));
    apply(rules);
}

fn apply(rules: &mut PacketRules) {
    let applied = rules.apply().unwrap();
    assert!(applied.failures.is_empty(), "{:?}", applied.failures);
    assert!(!rules.is_due());
}

fn opened(settings: Settings, changes: impl IntoIterator<Item = Change>) -> PacketRules {
    let mut rules = PacketRules::open(settings).unwrap();
    assert!(rules.supported(), "{:?}", rules.findings());
    take(&mut rules, changes);
    rules
}

fn generation() -> u32 {
    nftables::Socket::open().unwrap().generation().unwrap()
}

/// Runs in a node's namespace, without anything else there.
fn on_node(work: impl FnOnce() + Send) {
    namespace::inside(namespace::create().unwrap(), work).unwrap();
}

/// Two pods at a node, and a peer outside.
struct World {
    pods: [OwnedFd; 2],
    peer: OwnedFd,
}

/// Runs in the node's namespace. Pod 0 is 10.65.0.2, pod 1 is 10.66.0.2.
fn with_world(work: impl FnOnce(World) + Send) {
    on_node(|| {
        let world = World { pods: [(); 2].map(|()| namespace::create().unwrap()), peer: namespace::create().unwrap() };
        let mut socket = Socket::open().unwrap();
        run("ip link set lo up");
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            run(&format!("sysctl -q {key}=1"));
        }
        let mut join = |name: &str, namespace: &OwnedFd, near: [&str; 2], far: [&str; 2], gateways: [&str; 2]| {
            use std::os::fd::AsFd;
            let veth = Veth {
                name,
                peer_name: "eth0",
                peer_netns: Some(namespace.as_fd()),
                queues: Some(1),
                ..Veth::default()
            };
            socket.add_veth(&veth).unwrap();
            run(&format!("ip link set {name} up"));
            for address in near {
                run(&format!("ip address add {address} dev {name} nodad"));
            }
            namespace::inside(namespace, || {
                run("ip link set lo up");
                run("ip link set eth0 up");
                for (address, gateway) in far.iter().zip(gateways) {
                    run(&format!("ip address add {address} dev eth0 nodad"));
                    run(&format!("ip route add default via {gateway}"));
                }
            })
            .unwrap();
        };
        join(
            "cali0",
            &world.pods[0],
            ["10.65.0.1/24", "fd65::1/96"],
            ["10.65.0.2/24", "fd65::2/96"],
            ["10.65.0.1", "fd65::1"],
        );
        join(
            "cali1",
            &world.pods[1],
            ["10.66.0.1/24", "fd66::1/96"],
            ["10.66.0.2/24", "fd66::2/96"],
            ["10.66.0.1", "fd66::1"],
        );
        let outside = ["192.0.2.1/24", "2001:db8::1/64"];
        join("eth0", &world.peer, outside, ["192.0.2.9/24", "2001:db8::9/64"], ["192.0.2.1", "2001:db8::1"]);
        work(world);
    });
}

fn udp(namespace: &OwnedFd, address: &str) -> UdpSocket {
    let socket =
        namespace::inside(namespace, || UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// From where a new flow between two sockets seems to come; the answer must find its way back.
#[track_caller]
fn seen(from: &OwnedFd, source: &str, to: &UdpSocket) -> SocketAddr {
    let client = udp(from, source);
    client.send_to(b"?", to.local_addr().unwrap()).unwrap();
    let (_, seen) = to.recv_from(&mut [0; 8]).unwrap();
    to.send_to(b"!", seen).unwrap();
    client.recv_from(&mut [0; 8]).unwrap();
    seen
}

#[test]
fn packets_to_the_outside_have_the_nodes_address_and_those_between_pods_their_own() {
    with_world(|world| {
        let [pod, other] = &world.pods;
        let (peer, peer6, neighbour) =
            (udp(&world.peer, PEER), udp(&world.peer, "2001:db8::9"), udp(other, "10.66.0.2"));
        let from_pod = |to: &UdpSocket| seen(pod, "10.65.0.2", to);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(from_pod(&peer).ip(), ip("10.65.0.2"));

        let rules = opened(Settings::default(), cluster());
        assert_eq!(from_pod(&peer).ip(), ip(NODE));
        assert_eq!(seen(pod, "fd65::2", &peer6).ip(), ip("2001:db8::1"));
        assert_eq!(from_pod(&neighbour).ip(), ip("10.65.0.2"));
        assert_eq!(seen(other, "10.66.0.2", &peer).ip(), ip("10.66.0.2"), "a pool without natOutgoing");
        drop(rules);

        // Each is a restart with another configuration, which changes rules in place.
        let settings = Settings {
            nat_outgoing_address: Some(Ipv4Addr::new(192, 0, 2, 77)),
            nat_port_range: Some((40_000, 40_010)),
            ..Settings::default()
        };
        namespace::inside(&world.peer, || run("ip route add 192.0.2.77/32 via 192.0.2.1")).unwrap();
        opened(settings, cluster());
        let translated = from_pod(&peer);
        assert_eq!(translated.ip(), ip("192.0.2.77"));
        assert!((40_000..=40_010).contains(&translated.port()), "{translated}");

        opened(Settings { exclude_hosts: true, ..Settings::default() }, cluster());
        assert_eq!(from_pod(&peer).ip(), ip("10.65.0.2"));
        opened(Settings { interface_filter: Some("wlan+".into()), ..Settings::default() }, cluster());
        assert_eq!(from_pod(&peer).ip(), ip("10.65.0.2"));
        let mut rules = opened(Settings { interface_filter: Some("eth+".into()), ..Settings::default() }, cluster());
        assert_eq!(from_pod(&peer).ip(), ip(NODE));

        opened(Settings { interface_filter: Some("+".into()), ..Settings::default() }, cluster());
        assert_eq!(from_pod(&peer).ip(), ip(NODE));

        // The last pool with natOutgoing goes, and with it the rules.
        take(&mut rules, [member(Set::MasqueradedPools, "10.65.0.0/16", false)]);
        assert_eq!(from_pod(&peer).ip(), ip("10.65.0.2"));
        assert!(!run("nft list table ip calico").contains("masquerade"));
    });
}

/// An Ethernet frame with a UDP datagram to 10.66.99.1:7000 in it, behind a VXLAN header.
fn tunnelled(mac: [u8; 6], text: &[u8]) -> Vec<u8> {
    let udp_length = (8 + text.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 66, 7, 7, 10, 66, 99, 1];
    ip[2..4].copy_from_slice(&(20 + udp_length).to_be_bytes());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![8, 0, 0, 0, 0, 0x10, 0, 0];
    packet.extend(mac);
    packet.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    packet.extend(ip);
    for number in [6000, 7000, udp_length, 0] {
        packet.extend(number.to_be_bytes());
    }
    packet.extend(text);
    packet
}

fn received(socket: &mut impl Read) -> Vec<u8> {
    let mut octets = [0; 2048];
    let length = socket.read(&mut octets).unwrap();
    octets[..length].to_vec()
}

#[test]
fn only_nodes_packets_come_out_of_a_tunnel() {
    with_world(|world| {
        run("ip link add vxlan.calico type vxlan id 4096 dstport 4789 local 192.0.2.1 nolearning");
        run("ip link set vxlan.calico address 02:00:00:00:00:01 up");
        run("ip address add 10.66.99.1/32 dev vxlan.calico");
        run("ip route add 10.66.7.0/24 dev vxlan.calico");
        let inner = UdpSocket::bind("10.66.99.1:7000").unwrap();
        inner.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = udp(&world.peer, PEER);
        let send_vxlan = |text: &[u8]| {
            sender.send_to(&tunnelled([2, 0, 0, 0, 0, 1], text), (NODE, 4789)).unwrap();
        };
        // Protocol 4 without a device: a raw socket sees what passes the same hook.
        let raw = |namespace: &OwnedFd| {
            let open = || socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4))).unwrap();
            namespace::inside(namespace, open).unwrap()
        };
        let mut outer = raw(&namespace::current().unwrap());
        outer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ipip = raw(&world.peer);
        let send_ipip = |text: &[u8]| {
            ipip.send_to(text, &SocketAddr::new(NODE.parse().unwrap(), 0).into()).unwrap();
        };
        let next_vxlan = || {
            let mut octets = [0; 64];
            let (length, _) = inner.recv_from(&mut octets).unwrap();
            octets[..length].to_vec()
        };
        // What the socket gives begins with the outer header.
        let mut next_ipip = || received(&mut outer)[20..].to_vec();

        let mut changes = cluster();
        changes.retain(|change| *change != member(Set::Hosts, "192.0.2.9/32", true));
        let mut rules = opened(Settings::default(), changes.clone());
        send_vxlan(b"no tunnels");
        send_ipip(b"no tunnels");
        assert_eq!(
            (next_vxlan(), next_ipip()),
            (b"no tunnels".to_vec(), b"no tunnels".to_vec()),
            "nothing is ours yet"
        );

        take(&mut rules, [tunnels(true, true)]);
        send_vxlan(b"forged");
        send_ipip(b"forged");
        let nodes = [member(Set::Hosts, "192.0.2.9/32", true), member(Set::VxlanHosts, "192.0.2.9/32", true)];
        take(&mut rules, nodes);
        send_vxlan(b"a node's");
        send_ipip(b"a node's");
        assert_eq!((next_vxlan(), next_ipip()), (b"a node's".to_vec(), b"a node's".to_vec()));
        let printed = run("nft list chain ip calico filter-cali-INPUT");
        assert_eq!(printed.matches("counter packets 1 bytes").count(), 2, "{printed}");

        // Desired no more, but the devices take packets still, also when a process begins that has not looked at them.
        take(&mut rules, [tunnels(false, false)]);
        take(&mut rules, [member(Set::Hosts, "192.0.2.9/32", false), member(Set::VxlanHosts, "192.0.2.9/32", false)]);
        let before = generation();
        let mut rules = opened(Settings::default(), changes.into_iter().chain([tunnels(false, false)]));
        assert_eq!(generation(), before);
        send_vxlan(b"forged");
        send_ipip(b"forged");
        rules.tunnels(TunnelState { vxlan: true, ..TunnelState::default() });
        apply(&mut rules);
        send_vxlan(b"forged");
        send_ipip(b"not ours any more");
        rules.tunnels(TunnelState::default());
        apply(&mut rules);
        send_vxlan(b"not ours any more");
        assert_eq!((next_vxlan(), next_ipip()), (b"not ours any more".to_vec(), b"not ours any more".to_vec()));
    });
}

/// A pod whose packets get the node's address must not speak as the node to other nodes' tunnels, nor to its own node's by
/// writing another node's address.
#[test]
fn a_pods_tunnelled_packets_reach_no_node_unless_they_may() {
    with_world(|world| {
        let [pod, other] = &world.pods;
        let raw = |namespace: &OwnedFd| {
            let open = || socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(4))).unwrap();
            namespace::inside(namespace, open).unwrap()
        };
        let bound = |namespace: &OwnedFd, address: &str| {
            let socket = namespace::inside(namespace, || UdpSocket::bind(address).unwrap()).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        let vxlan = bound(&world.peer, "192.0.2.9:4789");
        let mut ipip = raw(&world.peer);
        ipip.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let here = bound(&namespace::current().unwrap(), "0.0.0.0:4789");
        // The second pod takes a node's address.
        namespace::inside(other, || run("ip address add 192.0.2.200/32 dev eth0")).unwrap();
        for filter in ["all", "cali1"] {
            run(&format!("sysctl -q net.ipv4.conf.{filter}.rp_filter=0"));
        }
        let (sender, forger) = (udp(pod, "10.65.0.2"), udp(other, "192.0.2.200"));
        let (plain, protocol) = (udp(&world.peer, PEER), raw(pod));
        let send = |text: &[u8]| {
            sender.send_to(text, (PEER, 4789)).unwrap();
            forger.send_to(text, (NODE, 4789)).unwrap();
            protocol.send_to(text, &SocketAddr::new(PEER.parse().unwrap(), 0).into()).unwrap();
        };
        let mut next = || {
            let mut octets = [[0; 32]; 2];
            let [far, near] = &mut octets;
            let lengths = [vxlan.recv_from(far).unwrap().0, here.recv_from(near).unwrap().0];
            let texts = octets.iter().zip(lengths).map(|(octets, length)| octets[..length].to_vec());
            texts.chain([received(&mut ipip)[20..].to_vec()]).collect::<Vec<_>>()
        };
        let nodes = ["192.0.2.9/32", "192.0.2.200/32"].map(|node| member(Set::VxlanHosts, node, true));
        let mut changes = cluster();
        changes.extend(nodes);
        changes.push(tunnels(true, true));
        let rules = opened(Settings::default(), changes.clone());
        send(b"as a node");
        // What else a pod sends is not concerned.
        assert_eq!(seen(pod, "10.65.0.2", &plain).ip(), NODE.parse::<IpAddr>().unwrap());
        drop(rules);
        opened(Settings { vxlan_from_pods: true, ipip_from_pods: true, ..Settings::default() }, changes);
        send(b"allowed");
        assert_eq!(next(), [b"allowed"; 3], "the first were dropped");
    });
}

#[test]
fn only_nodes_packets_come_out_of_a_tunnel_over_ipv6() {
    with_world(|world| {
        // Whoever listens behind the filter does as a device.
        let device = UdpSocket::bind("[2001:db8::1]:4789").unwrap();
        device.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sender = udp(&world.peer, "2001:db8::9");
        let local = "2001:db8::1".parse().unwrap();
        let vxlan_v6 = Some(Vxlan { local, mac: [2; 6], address: None });
        let wanted = Change::Tunnels(Tunnels { vxlan_v6, ..Tunnels::default() });
        let mut rules = opened(Settings::default(), cluster().into_iter().chain([wanted]));
        sender.send_to(b"forged", (local, 4789)).unwrap();
        take(&mut rules, [member(Set::VxlanHosts, "2001:db8::9/128", true)]);
        sender.send_to(b"a node's", (local, 4789)).unwrap();
        let mut octets = [0; 16];
        let (length, _) = device.recv_from(&mut octets).unwrap();
        assert_eq!(&octets[..length], b"a node's");
        let ipv4 = run("nft list table ip calico");
        assert!(!ipv4.contains("4789"), "the other family has nothing of it: {ipv4}");
    });
}

#[test]
fn what_the_node_sends_into_a_tunnel_has_the_tunnels_address() {
    with_world(|world| {
        // Any interface of this name does.
        run("ip link set eth0 down");
        run("ip link set eth0 name tunl0");
        run("ip link set tunl0 up");
        run("ip address add 172.31.0.1/32 dev lo");
        namespace::inside(&world.peer, || run("ip route add 172.31.0.1/32 via 192.0.2.1")).unwrap();
        let peer = udp(&world.peer, PEER);
        let node = namespace::current().unwrap();
        let mut rules = opened(Settings::default(), cluster());
        assert_eq!(seen(&node, "172.31.0.1", &peer).ip().to_string(), "172.31.0.1");
        take(&mut rules, [tunnels(true, true)]);
        let fixed = seen(&node, "172.31.0.1", &peer);
        assert_eq!(fixed.ip().to_string(), NODE);
        assert!(fixed.port() > 4789, "VXLAN's port is not chosen: {fixed}");
        let pod = &world.pods[1];
        assert_eq!(seen(pod, "10.66.0.2", &peer).ip().to_string(), "10.66.0.2", "a pod's packets are not the node's");
    });
}

/// Everything in our tables, without what the kernel numbers and counts, and without the order of chains.
fn state() -> String {
    let both = ["nft list table ip calico", "nft list table ip6 calico"].map(run).concat();
    let mut objects: Vec<String> = both
        .split("\n\t}\n")
        .map(|object| object.split_inclusive(' ').filter(|word| word.trim().parse::<u64>().is_err()).collect())
        .map(|object: String| object.trim().to_owned())
        .collect();
    objects.sort();
    objects.join("\n")
}

/// What `nft` makes of our rules: the whole of them, with everything that can be configured.
#[test]
fn the_rules_are_these() {
    on_node(|| {
        let settings = Settings {
            nat_outgoing_address: Some(Ipv4Addr::new(192, 0, 2, 77)),
            nat_port_range: Some((32_768, 65_535)),
            exclude_hosts: true,
            interface_filter: Some("eth+".into()),
            vxlan_port: 61_000,
            prefixes: vec!["cali".into(), "tap".into()],
            vxlan_from_pods: false,
            ipip_from_pods: false,
            ipv6: false,
        };
        opened(settings, cluster().into_iter().chain([tunnels(true, true)]));
        let printed = run("nft -s list table ip calico");
        let without_comment = |line: &str| line.split(" comment ").next().unwrap().trim().to_owned();
        let chains = printed.lines().skip_while(|line| !line.contains("chain")).map(without_comment);
        let printed = chains.filter(|line| !["", "}"].contains(&line.as_str())).collect::<Vec<_>>().join("\n");
        assert_eq!(printed, GOLDEN.trim());
        assert!(!run("nft list tables").contains("ip6"));
    });
}

const GOLDEN: &str = r#"
chain filter-FORWARD {
type filter hook forward priority filter; policy accept;
jump filter-cali-from-pods
chain filter-INPUT {
type filter hook input priority filter; policy accept;
jump filter-cali-INPUT
chain filter-cali-INPUT {
jump filter-cali-from-pods
meta l4proto ipencap ip saddr != @cali40all-hosts-net counter drop
udp dport 61000 ip saddr != @cali40all-vxlan-net fib daddr type local counter drop
chain filter-cali-from-pods {
meta l4proto ipencap iifname "cali*" counter drop
udp dport 61000 iifname "cali*" counter drop
meta l4proto ipencap iifname "tap*" counter drop
udp dport 61000 iifname "tap*" counter drop
chain nat-POSTROUTING {
type nat hook postrouting priority srcnat + 10; policy accept;
jump nat-cali-POSTROUTING
chain nat-cali-POSTROUTING {
jump nat-cali-nat-outgoing
oifname "tunl0" fib saddr . oif type != local fib saddr type local meta l4proto udp counter masquerade to :1024-60999 fully-random
oifname "tunl0" fib saddr . oif type != local fib saddr type local counter masquerade fully-random
oifname "vxlan.calico" fib saddr . oif type != local fib saddr type local meta l4proto udp counter masquerade to :1024-60999 fully-random
oifname "vxlan.calico" fib saddr . oif type != local fib saddr type local counter masquerade fully-random
chain nat-cali-nat-outgoing {
ip saddr @cali40masq-ipam-pools ip daddr != @cali40network-ip-pools ip daddr != @cali40all-hosts-net oifname "eth*" meta l4proto tcp counter snat to 192.0.2.77:32768-65535 fully-random
ip saddr @cali40masq-ipam-pools ip daddr != @cali40network-ip-pools ip daddr != @cali40all-hosts-net oifname "eth*" meta l4proto udp counter snat to 192.0.2.77:32768-60999 fully-random
ip saddr @cali40masq-ipam-pools ip daddr != @cali40network-ip-pools ip daddr != @cali40all-hosts-net oifname "eth*" counter snat to 192.0.2.77 fully-random
chain raw-OUTPUT {
type filter hook output priority raw; policy accept;
jump raw-cali-OUTPUT
chain raw-PREROUTING {
type filter hook prerouting priority raw; policy accept;
jump raw-cali-PREROUTING
chain raw-cali-OUTPUT {
meta l4proto ipencap ip daddr @cali40all-hosts-net notrack
udp dport 61000 notrack
chain raw-cali-PREROUTING {
meta l4proto ipencap fib daddr type local notrack
udp dport 61000 fib daddr type local notrack
"#;

/// Serves notifications until something is written.
#[track_caller]
fn repaired(rules: &mut PacketRules) -> Duration {
    let start = Instant::now();
    while !rules.notice().unwrap() {
        assert!(start.elapsed() < Duration::from_secs(5), "nothing is told");
        let mut poll = [rustix::event::PollFd::from_borrowed_fd(rules.notifications(), rustix::event::PollFlags::IN)];
        let second = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
        rustix::event::poll(&mut poll, Some(&second)).unwrap();
    }
    apply(rules);
    start.elapsed()
}

#[test]
fn what_others_spoil_is_repaired_at_once_and_what_is_theirs_left_alone() {
    on_node(|| {
        nft("table ip theirs { chain in { type filter hook input priority 5; counter comment \"theirs\"; }; }");
        let theirs = run("nft -a list table ip theirs");
        let mut rules = opened(Settings::default(), cluster());
        take(&mut rules, [tunnels(true, true), member(Set::VxlanHosts, "192.0.2.9/32", true)]);
        let expected = state();
        let handle = {
            let printed = run("nft -a list chain ip calico nat-cali-nat-outgoing");
            let line = printed.lines().find(|line| line.contains("masquerade")).unwrap();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        for spoil in [
            "delete element ip calico cali40network-ip-pools { 10.66.0.0/16 }".to_owned(),
            "add element ip calico cali40all-vxlan-net { 198.51.100.0/24 }".to_owned(),
            "flush set ip calico cali40all-hosts-net".to_owned(),
            format!("delete rule ip calico nat-cali-nat-outgoing handle {handle}"),
            "insert rule ip calico filter-cali-INPUT accept".to_owned(),
            "flush chain ip calico nat-POSTROUTING; delete chain ip calico nat-POSTROUTING".to_owned(),
            "table ip calico { map m { type ifname : verdict; elements = { a : jump x }; }; chain x { iifname vmap @m; }; }"
                .to_owned(),
            "add counter ip calico counted".to_owned(),
            "delete table ip6 calico".to_owned(),
        ] {
            nft(&spoil);
            let elapsed = repaired(&mut rules);
            assert_eq!(state(), expected, "after: {spoil}");
            assert!(elapsed < Duration::from_secs(1), "{spoil}: {elapsed:?}");
        }
        assert_eq!(run("nft -a list table ip theirs"), theirs);
        nft("flush ruleset");
        assert!(repaired(&mut rules) < Duration::from_secs(1));
        assert_eq!(state(), expected);
        let json = run("nft -j list table ip calico");
        assert!(json.contains(r#""name": "cali40masq-ipam-pools", "table": "calico", "type": "ipv4_addr""#), "{json}");

        let before = generation();
        let mut restarted = PacketRules::open(Settings::default()).unwrap();
        let changes = [tunnels(true, true), member(Set::VxlanHosts, "192.0.2.9/32", true)];
        take(&mut restarted, changes.into_iter().chain(cluster()));
        restarted.resync();
        apply(&mut restarted);
        assert_eq!(generation(), before, "nothing differs and something was written");
    });
}

#[test]
fn calicos_table_is_taken_over_in_one_step_when_everything_is_known() {
    on_node(|| {
        nft(r#"
            table ip calico {
                set cali40masq-ipam-pools { type ipv4_addr; flags interval; elements = { 10.9.0.0/16 }; }
                set cali40all-hosts-net { type ipv4_addr; elements = { 10.9.0.1 }; }
                map dispatch { type ifname : verdict; elements = { "cali1" : goto filter-cali-fw-cali1 }; }
                counter flows { }
                chain filter-cali-fw-cali1 { ip saddr { 10.0.0.1, 10.0.0.2 } accept comment "cali:AAAAAAAAAAAAAAAA"; }
                chain filter-FORWARD { type filter hook forward priority 0; iifname vmap @dispatch; counter name flows; }
                chain nat-POSTROUTING { type nat hook postrouting priority 100; jump nat-cali-POSTROUTING; }
                chain nat-cali-POSTROUTING { ip saddr @cali40masq-ipam-pools masquerade; }
            }
        "#);
        let calicos = run("nft -a list table ip calico");
        let (last, early): (Vec<_>, Vec<_>) = cluster().into_iter().partition(|change| *change == Change::InSync);
        let mut rules = PacketRules::open(Settings::default()).unwrap();
        early.iter().for_each(|change| rules.change(change));
        assert!(!rules.is_due());
        apply(&mut rules);
        assert_eq!(run("nft -a list table ip calico"), calicos);
        let before = generation();
        take(&mut rules, last);
        assert_eq!(generation(), before + 1);
        let ours = state();
        for gone in ["10.9.0", "filter-FORWARD", "flows", "dispatch", "AAAA"] {
            assert!(!ours.contains(gone), "{gone} is left in\n{ours}");
        }
        run("nft flush ruleset");
        repaired(&mut rules);
        assert_eq!(state(), ours, "as if it had been made anew");
    });
}

#[test]
fn thousands_of_members_go_in_one_transaction_and_one_more_touches_nothing_else() {
    on_node(|| {
        let node = |number: u32| {
            let address = Ipv4Addr::from(0xac10_0000 + 2 * number);
            [Set::Hosts, Set::VxlanHosts].map(|set| member(set, &format!("{address}/32"), true))
        };
        let mut rules = PacketRules::open(Settings::default()).unwrap();
        (0..5_000).flat_map(node).for_each(|change| rules.change(&change));
        let before = generation();
        take(&mut rules, cluster().into_iter().chain([tunnels(true, true)]));
        assert_eq!(generation(), before + 1);
        let content = |name: &str| {
            let (_, contents) = nftables::Socket::open().unwrap().read(&Table::new(Family::Ip, "calico")).unwrap();
            contents.unwrap().sets[name].elements.len()
        };
        assert_eq!((content("cali40all-hosts-net"), content("cali40all-vxlan-net")), (5_002, 5_000));

        let listed =
            || run("nft -a list table ip calico").lines().filter(|line| line.contains('#')).collect::<String>();
        let handles = listed();
        take(&mut rules, node(5_000));
        assert_eq!((content("cali40all-vxlan-net"), generation(), listed()), (5_001, before + 2, handles));

        // A pool in a pool, and one that is everything: intervals never overlap.
        take(&mut rules, [member(Set::Pools, "10.65.3.0/24", true)]);
        assert_eq!((generation(), content("cali40network-ip-pools")), (before + 2, 2));
        take(&mut rules, [member(Set::Pools, "0.0.0.0/0", true)]);
        assert_eq!(content("cali40network-ip-pools"), 1);
        take(&mut rules, ["0.0.0.0/0", "10.65.0.0/16"].map(|outer| member(Set::Pools, outer, false)));
        let printed = run("nft list set ip calico cali40network-ip-pools");
        assert!(printed.contains("elements = { 10.65.3.0/24, 10.66.0.0/16 }"), "{printed}");
        assert!(!rules.notice().unwrap(), "our own changes are none of others'");
    });
}

#[test]
fn a_writer_that_never_rests_does_not_keep_us_from_writing() {
    on_node(|| {
        let mut rules = opened(Settings::default(), cluster());
        let namespace = namespace::current().unwrap();
        let (done, others) = (AtomicBool::new(false), Table::new(Family::Ip, "theirs"));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                namespace::enter(std::os::fd::AsFd::as_fd(&namespace)).unwrap();
                let mut socket = nftables::Socket::open().unwrap();
                let mut made = 0;
                while !done.load(Ordering::Relaxed) {
                    let mut batch = nftables::Batch::new();
                    batch.add_table(&others);
                    made += u32::from(socket.commit(batch, None).unwrap() == Commit::Made);
                }
                made
            });
            for number in 0..200_u8 {
                take(&mut rules, [member(Set::Hosts, &format!("198.51.100.{number}/32"), true)]);
            }
            done.store(true, Ordering::Relaxed);
            assert!(writer.join().unwrap() > 0);
        });
        let (_, contents) = nftables::Socket::open().unwrap().read(&Table::new(Family::Ip, "calico")).unwrap();
        assert_eq!(contents.unwrap().sets["cali40all-hosts-net"].elements.len(), 202);
    });
}

#[test]
fn a_kernel_that_cannot_is_no_error_but_a_finding() {
    on_node(|| {
        let mut rules = PacketRules::open(Settings::default()).unwrap();
        cluster().iter().for_each(|change| rules.change(change));
        rules.resync();
        assert!(rules.apply().unwrap().failures.is_empty());
        assert!(!rules.notice().unwrap() && !rules.is_due());
        let named: Vec<&str> = rules.findings().iter().map(|finding| finding.object.as_str()).collect();
        // Which of both it is depends on the kernel that this runs on.
        match rules.supported() {
            true => assert_eq!(named, [""; 0]),
            false => assert_eq!(named, ["Table/ip calico", "Table/ip6 calico"]),
        }
    });
}

#[test]
fn what_a_process_with_ipv6_left_goes_when_ipv6_is_switched_off() {
    on_node(|| {
        opened(Settings::default(), cluster());
        assert!(run("nft list tables").contains("table ip6 calico"));
        let mut rules = PacketRules::open(Settings { ipv6: false, ..Settings::default() }).unwrap();
        assert!(run("nft list tables").contains("table ip6 calico"), "nothing is removed before everything is known");
        take(&mut rules, cluster());
        assert_eq!(run("nft list tables").trim(), "table ip calico");
        assert_eq!(rules.findings(), []);
    });
}
