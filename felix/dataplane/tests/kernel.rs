//! The dataplane against a real kernel, each test in a network namespace of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use calico_netlink::{
    Address, Event, Link, LinkChange, Monitor, NextHop, Route, RouteFilter, RouteKind, Socket, Veth, namespace, sysctl,
};
use felix_calc::{Change, EndpointId, Interface, Key};
use felix_dataplane::{AttachError, Dataplane, HOST_MAC, Settings};

/// A namespace of its own, a socket of ours in it, and the dataplane under test.
struct World {
    socket: Socket,
    dataplane: Dataplane,
}

fn world(test: impl FnOnce(World) + Send) {
    namespace::inside(namespace::create().unwrap(), || {
        sysctl::write(&["net", "ipv4", "ip_forward"], "1").unwrap();
        sysctl::write(&["net", "ipv6", "conf", "all", "forwarding"], "1").unwrap();
        let mut socket = Socket::open().unwrap();
        let lo = socket.link("lo").unwrap().unwrap();
        socket.change_link(lo.index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        test(World { socket, dataplane: Dataplane::open(Settings::default()).unwrap() });
    })
    .unwrap();
}

fn endpoint(name: &str) -> Key {
    Key::Handle(name.to_owned())
}

fn wanted(name: &str, addresses: &[&str]) -> Change {
    let [orchestrator, workload] = [const { String::new() }; 2];
    let id = EndpointId { orchestrator, workload, endpoint: "eth0".to_owned(), key: endpoint(name) };
    let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
    let interface = Interface {
        endpoint: id,
        container: "c".to_owned(),
        mac: String::new(),
        addresses,
        peer: None,
        node_addresses: BTreeSet::new(),
    };
    Change::Interface { name: name.to_owned(), wanted: Some(Box::new(interface)) }
}

fn hole(network: &str, wanted: bool) -> Change {
    Change::BlackHole { network: network.parse().unwrap(), wanted }
}

/// Waits until the kernel has finished what follows from an interface that came up: carrier, link-local addresses, routes.
fn settle(witness: &mut Monitor) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(500) {
        if !witness.receive().unwrap().is_empty() {
            quiet = Instant::now();
        }
        assert!(Instant::now() < deadline, "the namespace does not come to rest");
        std::thread::yield_now();
    }
}

impl World {
    /// A workload's interface as the plugin makes it: down, with another MAC. The other end is up.
    fn veth(&mut self, name: &str) -> Link {
        let peer_name = format!("p{name}");
        let veth = Veth { name, peer_name: &peer_name, ..Veth::default() };
        self.socket.add_veth(&veth).unwrap();
        let peer = self.socket.link(&peer_name).unwrap().unwrap();
        self.socket.change_link(peer.index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        self.socket.link(name).unwrap().unwrap()
    }

    fn take(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.dataplane.change(change));
    }

    fn apply(&mut self) {
        let failures = self.dataplane.apply().unwrap().failures;
        assert!(failures.is_empty(), "{failures:?}");
    }

    /// Routes of the main table, as `destination[ blackhole] interface protocol metric`, without those of protocol kernel.
    fn routes(&mut self) -> BTreeSet<String> {
        let filter = RouteFilter { table: Some(254), ..RouteFilter::default() };
        let links = self.socket.links().unwrap();
        let describe = |route: Route| {
            let name = |hop: &NextHop| {
                let link = links.iter().find(|link| Some(link.index) == hop.interface);
                link.map_or("?".to_owned(), |link| link.name.clone())
            };
            let to = match route.kind {
                RouteKind::Blackhole => "blackhole".to_owned(),
                _ => route.next_hops.iter().map(name).collect::<Vec<_>>().join("+"),
            };
            format!("{} {to} {} {}", route.destination, route.protocol, route.metric)
        };
        let all = self.socket.routes(&filter).unwrap();
        all.into_iter().filter(|route| route.protocol != 2).map(describe).collect()
    }

    /// The addresses of full length of an interface.
    fn addresses(&mut self, link: &Link) -> BTreeSet<String> {
        let all = self.socket.addresses().unwrap();
        let full = all.into_iter().filter(|address| {
            address.index == link.index && address.network.prefix_len() == address.network.max_prefix_len()
        });
        full.map(|address| address.network.addr().to_string()).collect()
    }

    /// Serves notifications until an interface has these addresses of full length.
    #[track_caller]
    fn becomes_addressed(&mut self, link: &Link, expected: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(5);
        let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
        loop {
            self.dataplane.notice().unwrap();
            if self.dataplane.is_due() {
                self.apply();
            }
            let addresses = self.addresses(link);
            if addresses == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{addresses:?} did not become {expected:?}");
            std::thread::yield_now();
        }
    }

    /// Serves notifications until the routes are these.
    #[track_caller]
    fn becomes(&mut self, expected: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            self.dataplane.notice().unwrap();
            if self.dataplane.is_due() {
                self.apply();
            }
            let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
            let routes = self.routes();
            if routes == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{routes:?} did not become {expected:?}");
            std::thread::yield_now();
        }
    }

    fn attach(&mut self, name: &str, addresses: &[&str]) -> Link {
        let link = self.veth(name);
        self.take([wanted(name, addresses)]);
        self.dataplane.attach(&endpoint(name), name, link.index).unwrap();
        self.socket.link(name).unwrap().unwrap()
    }
}

#[test]
fn an_attached_workload_has_its_routes_parameters_and_gateway_address() {
    world(|mut world| {
        world.take([Change::InSync, hole("10.244.0.0/26", true), hole("fd00::/122", true)]);
        world.apply();
        let link = world.attach("cali-a", &["10.244.0.1/32", "fd00::1/128"]);
        assert!(link.up && link.mac == Some(HOST_MAC));
        world.becomes(&[
            "10.244.0.0/26 blackhole 80 0",
            "10.244.0.1/32 cali-a 80 1024",
            "fd00::/122 blackhole 80 1024",
            "fd00::1/128 cali-a 80 1024",
        ]);
        for (family, parameter, value) in [
            ("ipv4", "proxy_arp", "1"),
            ("ipv4", "route_localnet", "1"),
            ("ipv4", "forwarding", "1"),
            ("ipv6", "proxy_ndp", "1"),
            ("ipv6", "forwarding", "1"),
            ("ipv6", "accept_ra", "0"),
            ("ipv6", "accept_dad", "0"),
        ] {
            assert_eq!(sysctl::read(&["net", family, "conf", "cali-a", parameter]).unwrap(), value, "{parameter}");
        }
        assert_eq!(sysctl::read(&["net", "ipv4", "neigh", "cali-a", "proxy_delay"]).unwrap(), "0");
        let gateway = "fe80::ecee:eeff:feee:eeee".parse::<std::net::IpAddr>().unwrap();
        let held = |address: &calico_netlink::Address| address.index == link.index && address.network.addr() == gateway;
        let addresses = world.socket.addresses().unwrap();
        assert!(addresses.iter().any(|address| held(address) && address.is_usable()), "{addresses:?}");
    });
}

#[test]
fn what_others_delete_or_replace_comes_back_by_notification() {
    world(|mut world| {
        world.take([Change::InSync, hole("10.244.0.0/26", true)]);
        world.attach("cali-a", &["10.244.0.1/32", "fd00::1/128"]);
        let all = ["10.244.0.0/26 blackhole 80 0", "10.244.0.1/32 cali-a 80 1024", "fd00::1/128 cali-a 80 1024"];
        world.becomes(&all);

        let filter = RouteFilter { protocol: Some(80), ..RouteFilter::default() };
        let ours = world.socket.routes(&filter).unwrap();
        assert_eq!(ours.len(), 3);
        for route in &ours {
            world.socket.delete_route(route).unwrap();
            world.becomes(&all);
        }
        for route in &ours {
            world.socket.delete_route(route).unwrap();
        }
        world.becomes(&all);

        // Somebody leads the pod's address elsewhere.
        let lo = world.socket.link("lo").unwrap().unwrap().index;
        for protocol in [3, 12] {
            let stolen = Route::unicast("10.244.0.1/32".parse().unwrap(), [NextHop::dev(lo)], protocol);
            world.socket.replace_route(&stolen.with_metric(1024)).unwrap();
            world.becomes(&all);
        }
    });
}

#[test]
fn a_restarted_dataplane_finds_everything_as_it_should_be_and_writes_nothing() {
    world(|mut world| {
        let state = || [wanted("cali-a", &["10.244.0.1/32", "fd00::1/128"]), hole("10.244.0.0/26", true)];
        world.attach("cali-a", &["10.244.0.1/32", "fd00::1/128"]);
        world.take(state());
        world.take([Change::InSync]);
        world.becomes(&["10.244.0.0/26 blackhole 80 0", "10.244.0.1/32 cali-a 80 1024", "fd00::1/128 cali-a 80 1024"]);

        let mut witness = Monitor::open().unwrap();
        settle(&mut witness);
        world.dataplane = Dataplane::open(Settings::default()).unwrap();
        world.apply(); // before it knows what is desired
        world.take(state());
        world.take([Change::InSync]);
        world.apply();
        world.dataplane.resync();
        world.apply();
        let events: Vec<Event> = witness.receive().unwrap();
        assert_eq!(events, []);
        assert_eq!(world.dataplane.route_count(), 3);
        assert!(!world.dataplane.is_due());
    });
}

#[test]
fn nothing_is_removed_before_in_sync_and_then_only_what_is_ours() {
    world(|mut world| {
        let link = world.veth("cali-a");
        world.socket.change_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        let lo = world.socket.link("lo").unwrap().unwrap().index;
        let pod = |text: &str, protocol| Route::unicast(text.parse().unwrap(), [NextHop::dev(link.index)], protocol);
        for route in [
            pod("10.244.0.1/32", 3).with_metric(1024), // Calico's, wanted: adopted
            pod("10.244.0.2/32", 3),                   // Calico's of an older release, of a pod that is gone
            pod("10.244.0.3/32", 12),                  // BGP's
            pod("10.244.0.4/32", 80),
            Route::blackhole("10.244.9.0/26".parse().unwrap(), 80),
            Route::unicast("10.244.8.0/26".parse().unwrap(), [NextHop::dev(lo)], 3),
        ] {
            world.socket.add_route(&route).unwrap();
        }
        let before = world.routes();
        world.take([wanted("cali-a", &["10.244.0.1/32"])]);
        world.apply();
        assert_eq!(world.routes(), before);
        world.take([Change::InSync]);
        world.apply();
        world.becomes(&["10.244.0.1/32 cali-a 80 1024", "10.244.0.3/32 cali-a 12 0", "10.244.8.0/26 lo 3 0"]);
    });
}

#[test]
fn routes_follow_an_interface_that_is_made_again_goes_down_or_loses_its_address_to_a_newer_one() {
    world(|mut world| {
        world.take([Change::InSync]);
        let first = world.attach("cali-a", &["10.244.0.1/32"]);
        world.becomes(&["10.244.0.1/32 cali-a 80 1024"]);

        world.socket.delete_link(first.index).unwrap();
        world.becomes(&[]);
        let second = world.veth("cali-a");
        assert_ne!(second.index, first.index);
        world.becomes(&[]);
        let switch = |up| LinkChange { up: Some(up), ..LinkChange::default() };
        world.socket.change_link(second.index, &switch(true)).unwrap();
        world.becomes(&["10.244.0.1/32 cali-a 80 1024"]);
        world.socket.change_link(second.index, &switch(false)).unwrap();
        world.becomes(&[]);
        world.socket.change_link(second.index, &switch(true)).unwrap();
        world.becomes(&["10.244.0.1/32 cali-a 80 1024"]);

        // The address is given out again before its last holder's interface is gone.
        world.attach("cali-b", &["10.244.0.1/32"]);
        world.becomes(&["10.244.0.1/32 cali-b 80 1024"]);
        world.take([Change::Interface { name: "cali-a".to_owned(), wanted: None }]);
        world.becomes(&["10.244.0.1/32 cali-b 80 1024"]);
    });
}

#[test]
fn an_audit_that_finds_an_interface_spoilt_does_not_disconnect_its_workload() {
    world(|mut world| {
        world.take([Change::InSync]);
        let link = world.attach("cali-a", &["10.244.0.1/32", "fd00::1/128"]);
        // Below IPv6's least MTU the kernel has no IPv6 on the interface, nor its parameters.
        let mtu = |mtu| LinkChange { mtu: Some(mtu), ..LinkChange::default() };
        world.socket.change_link(link.index, &mtu(1000)).unwrap();
        world.dataplane.notice().unwrap();
        world.dataplane.resync();
        world.dataplane.apply().unwrap();
        assert!(world.routes().contains("10.244.0.1/32 cali-a 80 1024"));
        world.socket.change_link(link.index, &mtu(1500)).unwrap();
        world.becomes(&["10.244.0.1/32 cali-a 80 1024", "fd00::1/128 cali-a 80 1024"]);
    });
}

#[test]
fn attaching_what_is_not_there_or_anothers_is_refused() {
    world(|mut world| {
        world.take([Change::InSync, wanted("cali-a", &["10.244.0.1/32"])]);
        let refused = world.dataplane.attach(&endpoint("cali-a"), "cali-a", 7).unwrap_err();
        assert!(matches!(refused, AttachError::NotThere { index: 7, .. }), "{refused}");
        let link = world.veth("cali-a");
        let refused = world.dataplane.attach(&endpoint("cali-a"), "cali-a", link.index + 1).unwrap_err();
        assert!(matches!(refused, AttachError::NotThere { .. }), "{refused}");
        let refused = world.dataplane.attach(&endpoint("other"), "cali-a", link.index).unwrap_err();
        assert!(matches!(refused, AttachError::Taken { .. }), "{refused}");
        world.becomes(&[]);
    });
}

/// What is wanted of the interface of a BGP peer, which dials these addresses of the node.
fn peering(name: &str, addresses: &[&str], dialled: &[&str]) -> Change {
    let Change::Interface { name, wanted: Some(mut interface) } = wanted(name, addresses) else { unreachable!() };
    interface.peer = Some("lw".to_owned());
    interface.node_addresses = dialled.iter().map(|text| text.parse().unwrap()).collect();
    Change::Interface { name, wanted: Some(interface) }
}

#[test]
fn a_peers_interface_has_the_address_that_it_dials_as_long_as_it_is_a_peer() {
    world(|mut world| {
        world.take([Change::InSync, Change::PeersKnown]);
        let pod = ["10.244.0.1/32", "fd00::1/128"];
        let (first, second) = (world.attach("cali-a", &pod), world.attach("cali-b", &["10.244.0.2/32"]));
        world.becomes_addressed(&first, &[]);
        let routes = world.routes();
        for dialled in [&["169.254.0.179"][..], &["169.254.0.179", "fd12::179"], &["169.254.0.180", "fe80::179"]] {
            world.take([peering("cali-a", &pod, dialled), peering("cali-b", &["10.244.0.2/32"], &dialled[..1])]);
            world.becomes_addressed(&first, dialled);
            world.becomes_addressed(&second, &dialled[..1]);
            assert_eq!(world.routes(), routes);
        }
        // Somebody takes it away, adds one, brings the interface down, which takes the IPv6 one.
        let dialled = ["169.254.0.180", "fe80::179"];
        for network in ["169.254.0.180/32", "fe80::179/128"] {
            world.socket.delete_address(&Address::new(first.index, network.parse().unwrap())).unwrap();
            world.becomes_addressed(&first, &dialled);
            assert_eq!(world.routes(), routes, "the kernel removes an interface's routes with its last IPv4 address");
        }
        world.socket.add_address(&Address::new(first.index, "192.0.2.9/32".parse().unwrap())).unwrap();
        world.becomes_addressed(&first, &dialled);
        for up in [false, true] {
            world.socket.change_link(first.index, &LinkChange { up: Some(up), ..LinkChange::default() }).unwrap();
            world.dataplane.notice().unwrap();
            world.apply();
        }
        world.becomes_addressed(&first, &dialled);

        // A network of another length there is not ours.
        world.socket.add_address(&Address::new(second.index, "192.0.2.33/27".parse().unwrap())).unwrap();
        world.take([wanted("cali-a", &pod), wanted("cali-b", &["10.244.0.2/32"])]);
        world.becomes_addressed(&first, &[]);
        world.becomes_addressed(&second, &[]);
        assert_eq!(world.routes(), routes);
        let left = world.socket.addresses().unwrap();
        assert!(left.iter().any(|address| address.index == second.index && address.network.prefix_len() == 27));
        world.socket.delete_address(&Address::new(second.index, "192.0.2.33/27".parse().unwrap())).unwrap();
        assert_ne!(world.routes(), routes);
        let routes: Vec<String> = routes.into_iter().collect();
        world.becomes(&routes.iter().map(String::as_str).collect::<Vec<_>>());
    });
}

#[test]
fn a_restarted_dataplane_keeps_the_addresses_and_removes_none_before_it_knows_the_peers() {
    world(|mut world| {
        let pods = ["10.244.0.1/32", "fd00::1/128"];
        world.take([Change::InSync, Change::PeersKnown]);
        let (first, second) = (world.attach("cali-a", &pods), world.attach("cali-b", &["10.244.0.2/32"]));
        let dialled = ["169.254.0.179", "fd12::179"];
        world.take([peering("cali-a", &pods, &dialled), peering("cali-b", &["10.244.0.2/32"], &dialled[..1])]);
        world.becomes_addressed(&first, &dialled);
        world.becomes_addressed(&second, &dialled[..1]);
        let connected: Vec<_> =
            world.dataplane.connected().map(|(name, of)| (name.to_owned(), of.peer.clone())).collect();
        let lw = Some("lw".to_owned());
        assert_eq!(connected, [("cali-a".to_owned(), lw.clone()), ("cali-b".to_owned(), lw)]);

        let mut witness = Monitor::open().unwrap();
        settle(&mut witness);
        world.dataplane = Dataplane::open(Settings::default()).unwrap();
        world.take([wanted("cali-a", &pods), wanted("cali-b", &["10.244.0.2/32"]), Change::InSync]);
        world.apply();
        world.take([peering("cali-a", &pods, &dialled), peering("cali-b", &["10.244.0.2/32"], &dialled[..1])]);
        world.take([Change::PeersKnown]);
        world.apply();
        assert_eq!(witness.receive().unwrap(), []);

        // A BGPPeer that went while nobody looked.
        world.dataplane = Dataplane::open(Settings::default()).unwrap();
        world.take([peering("cali-a", &pods, &dialled), wanted("cali-b", &["10.244.0.2/32"])]);
        world.take([Change::InSync, Change::PeersKnown]);
        world.apply();
        assert_eq!(world.addresses(&second), BTreeSet::new());
        assert_eq!(world.addresses(&first).len(), 2);
    });
}

#[test]
fn a_workload_is_connected_when_its_interface_is_up_and_the_kernel_took_everything() {
    world(|mut world| {
        world.take([Change::InSync, Change::PeersKnown, wanted("cali-a", &["10.244.0.1/32"])]);
        world.apply();
        let connected =
            |world: &World| world.dataplane.connected().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
        assert!(connected(&world).is_empty());
        let link = world.attach("cali-a", &["10.244.0.1/32"]);
        assert_eq!(connected(&world), ["cali-a"]);
        world.attach("cali-b", &["10.244.0.2/32"]);
        assert_eq!(connected(&world), ["cali-a", "cali-b"]);
        world.socket.change_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
        world.becomes(&["10.244.0.2/32 cali-b 80 1024"]);
        assert_eq!(connected(&world), ["cali-b"]);
        // An IPv6 address to dial cannot be had where the workload has no IPv6, and the kernel none on the interface.
        sysctl::write(&["net", "ipv6", "conf", "cali-b", "disable_ipv6"], "1").unwrap();
        world.take([peering("cali-b", &["10.244.0.2/32"], &["fd12::179"])]);
        world.dataplane.notice().unwrap();
        let applied = world.dataplane.apply().unwrap();
        assert_eq!(applied.failures.iter().map(|failure| failure.what.as_str()).collect::<Vec<_>>(), ["cali-b"]);
        assert!(connected(&world).is_empty() && world.dataplane.is_due());
    });
}
