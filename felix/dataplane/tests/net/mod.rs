//! Nodes on two segments with a router between, each a network namespace with a dataplane in it.
//!
//! The test's thread walks between them: whatever a node does, it does after [`Node::enter`].
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use calico_netlink::{Address, Link, LinkChange, Monitor, Route, RouteFilter, Socket, Veth, namespace, sysctl};
use felix_calc::{Change, Ipip, Path, Remote, Tunnels, Vtep, Vxlan, mac_of};
use felix_dataplane::{Dataplane, Settings};

/// Which segment a node is on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Segment {
    /// 192.0.2.0/25 and fd00:a::/64.
    A,
    /// 192.0.2.128/25 and fd00:b::/64.
    B,
}

/// Two bridges and a router.
pub(crate) struct Net {
    router: OwnedFd,
}

/// A node and what runs on it.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) local: Ipv4Addr,
    pub(crate) local_v6: Ipv6Addr,
    namespace: OwnedFd,
    /// The network lives as long as a node does.
    _router: OwnedFd,
    pub(crate) socket: Socket,
    pub(crate) dataplane: Dataplane,
    settings: Settings,
}

/// Runs `ip` or another command, which must succeed.
#[track_caller]
pub(crate) fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Net {
    pub(crate) fn new() -> Self {
        let router = namespace::create().unwrap();
        namespace::enter(router.as_fd()).unwrap();
        sysctl::write(&["net", "ipv4", "ip_forward"], "1").unwrap();
        sysctl::write(&["net", "ipv6", "conf", "all", "forwarding"], "1").unwrap();
        for (bridge, v4, v6) in [("seg-a", "192.0.2.1/25", "fd00:a::1/64"), ("seg-b", "192.0.2.129/25", "fd00:b::1/64")]
        {
            run(&format!("ip link add {bridge} type bridge"));
            run(&format!("ip link set {bridge} up"));
            run(&format!("ip address add {v4} dev {bridge}"));
            run(&format!("ip address add {v6} dev {bridge} nodad"));
        }
        Self { router }
    }

    /// A node with `eth0` and a pod's address on its loopback.
    pub(crate) fn node(&self, number: u8, segment: Segment, settings: Settings) -> Node {
        let (bridge, base, v6) = match segment {
            Segment::A => ("seg-a", 0, "fd00:a::"),
            Segment::B => ("seg-b", 128, "fd00:b::"),
        };
        let namespace = namespace::create().unwrap();
        namespace::enter(self.router.as_fd()).unwrap();
        let mut socket = Socket::open().unwrap();
        let name = format!("n{number}");
        let peer_netns = Some(namespace.as_fd());
        socket.add_veth(&Veth { name: &name, peer_name: "eth0", peer_netns, ..Veth::default() }).unwrap();
        run(&format!("ip link set {name} master {bridge} up"));

        namespace::enter(namespace.as_fd()).unwrap();
        sysctl::write(&["net", "ipv4", "ip_forward"], "1").unwrap();
        sysctl::write(&["net", "ipv6", "conf", "all", "forwarding"], "1").unwrap();
        for filtered in ["all", "default", "eth0"] {
            sysctl::write(&["net", "ipv4", "conf", filtered, "rp_filter"], "0").unwrap();
        }
        let local = Ipv4Addr::new(192, 0, 2, base + 10 + number);
        let local_v6: Ipv6Addr = format!("{v6}1{number}").parse().unwrap();
        run("ip link set lo up");
        run("ip link set eth0 up");
        run(&format!("ip address add {local}/25 dev eth0"));
        run(&format!("ip address add {local_v6}/64 dev eth0 nodad"));
        run(&format!("ip route add default via 192.0.2.{}", base + 1));
        run(&format!("ip route add default via {v6}1"));
        run(&format!("ip address add {}/32 dev lo", pod(number, false)));
        run(&format!("ip address add {}/128 dev lo nodad", pod(number, true)));
        let dataplane = Dataplane::open(settings.clone()).unwrap();
        let (socket, router) = (Socket::open().unwrap(), self.router.try_clone().unwrap());
        Node { number, local, local_v6, namespace, _router: router, socket, dataplane, settings }
    }
}

/// The address of a node's pod.
pub(crate) fn pod(number: u8, ipv6: bool) -> IpAddr {
    if ipv6 { format!("fd65:{number}::1") } else { format!("10.65.{number}.1") }.parse().unwrap()
}

/// The block of a node's pod.
pub(crate) fn block(number: u8, ipv6: bool) -> ipnet::IpNet {
    if ipv6 { format!("fd65:{number}::/122") } else { format!("10.65.{number}.0/26") }.parse().unwrap()
}

/// The address of a node's tunnels.
pub(crate) fn tunnel(number: u8, ipv6: bool) -> IpAddr {
    if ipv6 { format!("fd65:{number}::3f") } else { format!("10.65.{number}.63") }.parse().unwrap()
}

pub(crate) fn via_vxlan(number: u8, ipv6: bool) -> Option<Remote> {
    Some(Remote::By(Path::Vxlan { gateway: tunnel(number, ipv6) }))
}

/// What is wanted of a block of another node.
pub(crate) fn remote(number: u8, ipv6: bool, wanted: Option<Remote>) -> Change {
    Change::Remote { destination: block(number, ipv6), wanted }
}

impl Node {
    /// Moves the calling thread to the node.
    pub(crate) fn enter(&self) -> &Self {
        namespace::enter(self.namespace.as_fd()).unwrap();
        self
    }

    /// The node as others see it behind VXLAN.
    pub(crate) fn vtep(&self, ipv6: bool) -> Change {
        let host: IpAddr = if ipv6 { self.local_v6.into() } else { self.local.into() };
        let vtep = Vtep { tunnel: tunnel(self.number, ipv6), mac: self.mac(ipv6), host };
        Change::Vtep { node: format!("node{}", self.number), ipv6, wanted: Some(vtep) }
    }

    pub(crate) fn mac(&self, ipv6: bool) -> [u8; 6] {
        mac_of(&format!("node{}", self.number), ipv6)
    }

    /// All three tunnels.
    pub(crate) fn tunnels(&self) -> Tunnels {
        let IpAddr::V4(address) = tunnel(self.number, false) else { unreachable!() };
        let vxlan = |ipv6, local| Vxlan { local, mac: self.mac(ipv6), address: Some(tunnel(self.number, ipv6)) };
        Tunnels {
            ipip: Some(Ipip { address: Some(address), local: Some(self.local) }),
            vxlan: Some(vxlan(false, self.local.into())),
            vxlan_v6: Some(vxlan(true, self.local_v6.into())),
        }
    }

    pub(crate) fn only_vxlan(&self) -> Change {
        Change::Tunnels(Tunnels { ipip: None, ..self.tunnels() })
    }

    pub(crate) fn only_ipip(&self) -> Change {
        Change::Tunnels(Tunnels { ipip: self.tunnels().ipip, ..Tunnels::default() })
    }

    pub(crate) fn take(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.dataplane.change(change));
    }

    #[track_caller]
    pub(crate) fn apply(&mut self) {
        self.enter();
        let failures = self.dataplane.apply().unwrap().failures;
        assert!(failures.is_empty(), "{failures:?}");
    }

    #[track_caller]
    pub(crate) fn want(&mut self, changes: impl IntoIterator<Item = Change>) {
        self.take(changes);
        self.apply();
    }

    /// A new process instead of the old; what is wanted is not known yet.
    pub(crate) fn restart(&mut self) {
        self.enter();
        self.dataplane = Dataplane::open(self.settings.clone()).unwrap();
    }

    /// Serves notifications until it is so, no longer than the second in which everything is to be repaired.
    #[track_caller]
    pub(crate) fn becomes(&mut self, what: &str, so: impl Fn(&mut Self) -> bool) {
        self.enter();
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            self.dataplane.notice().unwrap();
            if self.dataplane.is_due() {
                self.dataplane.apply().unwrap();
            }
            if so(self) {
                return;
            }
            assert!(Instant::now() < deadline, "not within a second: {what}\n{}", self.report());
            std::thread::yield_now();
        }
    }

    /// Everything that a dataplane makes for the sake of other nodes, in `ip`'s words, without numbers that change by themselves.
    pub(crate) fn report(&self) -> String {
        self.enter();
        let mut all = String::new();
        for line in [
            "ip -d link show vxlan.calico",
            "ip -d link show vxlan-v6.calico",
            "ip -d link show tunl0",
            "ip address show scope global",
            "bridge fdb show dev vxlan.calico",
            "bridge fdb show dev vxlan-v6.calico",
            "ip neighbour show nud permanent",
            "ip route show table main",
            "ip -6 route show table main",
            "sysctl -n net.ipv4.conf.vxlan/calico.rp_filter",
        ] {
            let mut words = line.split(' ');
            let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
            all.push_str(&String::from_utf8_lossy(&output.stdout));
        }
        all
    }

    #[track_caller]
    pub(crate) fn link(&mut self, name: &str) -> Link {
        self.enter();
        self.socket.link(name).unwrap().unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub(crate) fn change_link(&mut self, name: &str, change: &LinkChange<'_>) {
        let index = self.link(name).index;
        self.socket.change_link(index, change).unwrap();
    }

    /// The routes to a block.
    pub(crate) fn routes(&mut self, number: u8, ipv6: bool) -> Vec<Route> {
        self.enter();
        let filter = RouteFilter { table: Some(254), ..RouteFilter::default() };
        let all = self.socket.routes(&filter).unwrap();
        all.into_iter().filter(|route| route.destination == block(number, ipv6)).collect()
    }

    /// By which interface and with which protocol and MTU a block is reached, if by one route.
    pub(crate) fn way_to(&mut self, number: u8, ipv6: bool) -> Option<(String, u8, Option<u32>)> {
        let routes = self.routes(number, ipv6);
        let [route] = routes.as_slice() else { return None };
        let index = route.next_hops.first()?.interface?;
        let name = self.socket.link_by_index(index).unwrap()?.name;
        Some((name, route.protocol, route.mtu))
    }

    /// Pings a pod of another node from the own one's address.
    pub(crate) fn reaches(&self, number: u8, ipv6: bool) -> bool {
        self.pings(number, ipv6, "-c 1 -W 1")
    }

    /// Whether the largest packet passes whole, and a larger one does not.
    #[track_caller]
    pub(crate) fn passes_exactly(&self, number: u8, ipv6: bool, mtu: u32) {
        let headers = if ipv6 { 48 } else { 28 };
        let sized = |size| self.pings(number, ipv6, &format!("-c 1 -W 1 -M do -s {size}"));
        assert!(sized(mtu - headers), "a packet of {mtu} octets does not pass\n{}", self.report());
        assert!(!sized(mtu - headers + 1), "a packet of {mtu} and one octets passes");
    }

    fn pings(&self, number: u8, ipv6: bool, options: &str) -> bool {
        self.enter();
        let (from, to) = (pod(self.number, ipv6).to_string(), pod(number, ipv6).to_string());
        let output = Command::new("ping").args(options.split(' ')).args(["-I", &from, &to]).output().unwrap();
        output.status.success()
    }

    /// Sends a packet each millisecond for two seconds.
    pub(crate) fn flood(&self, number: u8, ipv6: bool) -> Flood {
        self.enter();
        let (from, to) = (pod(self.number, ipv6).to_string(), pod(number, ipv6).to_string());
        let arguments = ["-q", "-c", "2000", "-i", "0.001", "-W", "2", "-I", &from, &to];
        Flood(Command::new("ping").args(arguments).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// A monitor of everything that is told, of tunnels' neighbours too.
    pub(crate) fn witness(&mut self) -> Monitor {
        self.enter();
        let mut witness = Monitor::open().unwrap();
        let names = ["vxlan.calico", "vxlan-v6.calico"];
        let indexes = names.iter().filter_map(|name| self.socket.link(name).unwrap()).map(|link| link.index);
        witness.watch_neighbours(&indexes.collect::<Vec<_>>()).unwrap();
        witness
    }

    pub(crate) fn findings(&self) -> BTreeSet<String> {
        self.dataplane.findings().into_iter().map(|finding| format!("{}: {}", finding.object, finding.text)).collect()
    }
}

/// A running ping.
pub(crate) struct Flood(Child);

impl Flood {
    /// Waits until it is over; returns what it says it sent and got back.
    pub(crate) fn end(self) -> (u32, u32) {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary =
            text.lines().find(|line| line.contains("packets transmitted")).unwrap_or_else(|| panic!("{text}"));
        let numbers: Vec<u32> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
        (numbers[0], numbers[1])
    }
}

/// Waits until the kernel has finished what follows from interfaces that came up; of an address that it still looks for
/// duplicates of it will tell once more.
pub(crate) fn settle(witness: &mut Monitor) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut socket = Socket::open().unwrap();
    let mut quiet = Instant::now();
    let mut usable = false;
    while !usable || quiet.elapsed() < Duration::from_millis(500) {
        if !witness.receive().unwrap().is_empty() {
            quiet = Instant::now();
        }
        usable = usable || socket.addresses().unwrap().iter().all(Address::is_usable);
        assert!(Instant::now() < deadline, "the namespace does not come to rest");
        std::thread::yield_now();
    }
}
