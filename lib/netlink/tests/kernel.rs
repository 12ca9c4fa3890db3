//! What the kernel makes of our requests, in network namespaces of our own.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use calico_netlink::{
    Address, Batch, Event, Forwarding, LinkChange, Mac, Monitor, Neighbour, NextHop, Route, RouteFilter, RouteKey,
    RouteKind, RouteTable, Socket, Veth, Vxlan, namespace,
};

const OURS: u8 = 80;

/// Runs in a fresh namespace with the interfaces `east` (192.0.2.1/24, fd00:1::1/64) and `west`, both up.
fn with_links<T: Send>(work: impl FnOnce(&mut Socket, u32) -> T + Send) -> T {
    namespace::inside(namespace::create().unwrap(), || {
        let mut socket = Socket::open().unwrap();
        let veth = Veth { name: "east", peer_name: "west", queues: Some(1), ..Veth::default() };
        socket.add_veth(&veth).unwrap();
        let index = |socket: &mut Socket, name| socket.link(name).unwrap().unwrap().index;
        let (east, west) = (index(&mut socket, "east"), index(&mut socket, "west"));
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        let mut batch = Batch::new();
        batch.change_link(east, &up);
        batch.change_link(west, &up);
        batch.add_address(&Address::new(east, "192.0.2.1/24".parse().unwrap()));
        batch.add_address(&Address::new(east, "fd00:1::1/64".parse().unwrap()).without_duplicate_detection());
        socket.execute(batch).unwrap();
        work(&mut socket, east)
    })
    .unwrap()
}

fn via(destination: &str, gateways: &[&str]) -> Route {
    let hops: Vec<NextHop> = gateways.iter().map(|gateway| NextHop::via(gateway.parse().unwrap())).collect();
    Route::unicast(destination.parse().unwrap(), hops, OURS)
}

fn ours(socket: &mut Socket) -> Vec<Route> {
    socket.routes(&RouteFilter { protocol: Some(OURS), ..RouteFilter::default() }).unwrap()
}

fn table() -> RouteTable {
    RouteTable::new(|route| route.protocol == OURS)
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Reads events until one is as asked.
fn wait_for(monitor: &mut Monitor, what: impl Fn(&Event) -> bool) -> Vec<Event> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut all = Vec::new();
    while !all.iter().any(&what) {
        assert!(Instant::now() < deadline, "not told; only {all:?}");
        all.extend(monitor.receive().unwrap());
        std::thread::yield_now();
    }
    all
}

#[test]
fn a_veth_pair_is_born_in_two_namespaces() {
    let pod: OwnedFd = namespace::create().unwrap();
    with_links(|socket, _| {
        let (mac, peer_mac): (Mac, Mac) = ("ee:ee:ee:ee:ee:ee".parse().unwrap(), "0a:58:0a:00:00:01".parse().unwrap());
        let veth = Veth {
            name: "cali0",
            peer_name: "eth0",
            peer_netns: Some(pod.as_fd()),
            mtu: Some(1440),
            mac: Some(mac),
            peer_mac: Some(peer_mac),
            queues: Some(1),
        };
        socket.add_veth(&veth).unwrap();
        let host = socket.link("cali0").unwrap().unwrap();
        assert_eq!((host.mac, host.mtu, host.up, host.kind.as_deref()), (Some(mac), 1440, false, Some("veth")));
        assert_eq!(socket.link_by_index(host.index).unwrap(), Some(host.clone()));
        assert!(socket.links().unwrap().contains(&host));

        let inner = namespace::inside(&pod, || Socket::open().unwrap().link("eth0").unwrap().unwrap()).unwrap();
        assert_eq!((inner.mac, inner.mtu, Some(inner.index)), (Some(peer_mac), 1440, host.peer));

        let error = socket.add_veth(&veth).unwrap_err();
        assert!(error.is_exists(), "{error}");
        assert_eq!(error.to_string(), "add veth pair cali0 and eth0: File exists (os error 17)");

        let change = LinkChange { up: Some(true), mtu: Some(1400), name: Some("cali1"), ..LinkChange::default() };
        socket.change_link(host.index, &change).unwrap();
        let changed = socket.link("cali1").unwrap().unwrap();
        assert_eq!((changed.up, changed.mtu, changed.index), (true, 1400, host.index));

        socket.delete_link_by_name("cali1").unwrap();
        assert!(socket.delete_link_by_name("cali1").unwrap_err().is_not_found());
        assert!(socket.delete_link(host.index).unwrap_err().is_not_found());
        assert_eq!(socket.link("cali1").unwrap(), None);
        assert_eq!(namespace::inside(&pod, || Socket::open().unwrap().link("eth0").unwrap()).unwrap(), None);
    });
}

#[test]
fn addresses_and_neighbours_come_and_go() {
    with_links(|socket, east| {
        for network in ["10.1.2.3/32", "10.1.9.3/24", "fd00:2::3/128"] {
            let address = Address::new(east, network.parse().unwrap()).without_duplicate_detection();
            let has = |socket: &mut Socket| {
                let all = socket.addresses().unwrap();
                all.iter().any(|found| found.index == east && found.network == address.network && found.is_usable())
            };
            socket.add_address(&address).unwrap();
            assert!(has(socket), "{network}");
            assert!(socket.add_address(&address).unwrap_err().is_exists());
            socket.delete_address(&address).unwrap();
            assert!(!has(socket), "{network}");
            assert!(socket.delete_address(&address).unwrap_err().is_not_found());
        }
        for address in ["192.0.2.9", "fd00:1::9"] {
            let mac = Mac([2, 0, 0, 0, 0, 9]);
            let neighbour = Neighbour::permanent(east, address.parse().unwrap(), mac);
            socket.replace_neighbour(&Neighbour { mac: Some(Mac([2; 6])), ..neighbour.clone() }).unwrap();
            socket.replace_neighbour(&neighbour).unwrap();
            let found = |socket: &mut Socket| {
                let all = socket.neighbours().unwrap();
                all.into_iter().find(|found| found.address == neighbour.address && found.index == east)
            };
            assert_eq!(found(socket), Some(neighbour.clone()));
            socket.delete_neighbour(&neighbour).unwrap();
            assert_ne!(found(socket).map(|found| found.state), Some(neighbour.state));
        }
    });
}

#[test]
fn every_kind_of_route_is_read_as_it_was_written() {
    with_links(|socket, east| {
        let with = |route: Route, change: &dyn Fn(&mut Route)| {
            let mut route = route;
            change(&mut route);
            route
        };
        let gateways: Vec<String> = (2..18).map(|host| format!("192.0.2.{host}")).collect();
        let gateways: Vec<&str> = gateways.iter().map(String::as_str).collect();
        let routes = [
            via("10.0.0.0/26", &["192.0.2.2"]),
            with(via("10.0.0.64/26", &["192.0.2.2"]), &|route| route.source = "192.0.2.1".parse().ok()),
            with(via("10.0.0.128/26", &["198.51.100.7"]), &|route| {
                route.next_hops = vec![NextHop::via("198.51.100.7".parse().unwrap()).on(east).onlink()];
            }),
            via("10.0.1.0/24", &gateways),
            with(via("10.0.2.0/24", &["192.0.2.2", "192.0.2.3"]), &|route| route.next_hops[1].weight = 7),
            via("10.0.3.0/24", &["fd00:1::2"]),
            Route::unicast("10.0.4.1/32".parse().unwrap(), [NextHop::dev(east)], OURS).with_metric(1024),
            Route::blackhole("10.0.5.0/26".parse().unwrap(), OURS),
            with(via("10.0.6.0/24", &[]), &|route| (route.kind, route.scope) = (RouteKind::Unreachable, 0)),
            with(via("10.0.7.0/24", &[]), &|route| (route.kind, route.scope) = (RouteKind::Prohibit, 0)),
            with(via("10.0.8.0/24", &[]), &|route| {
                (route.kind, route.scope, route.table) = (RouteKind::Throw, 0, 1000);
            }),
            via("fd00:a::/64", &["fd00:1::2"]),
            with(via("fd00:b::/64", &["fd00:1::3", "fd00:1::2", "fd00:1::4"]), &|route| route.next_hops[0].weight = 3),
            Route::unicast("fd00:c::1/128".parse().unwrap(), [NextHop::dev(east)], OURS),
            Route::blackhole("fd00:d::/122".parse().unwrap(), OURS),
            Route::blackhole("fd00:e::/122".parse().unwrap(), OURS).with_metric(77),
        ];
        for route in &routes {
            socket.add_route(route).unwrap();
            let found = ours(socket);
            let [found] = found.as_slice() else { panic!("{route}: {found:?}") };
            // The kernel tells the interface that we left open.
            let mut expected = route.clone().normalized();
            for hop in &mut expected.next_hops {
                hop.interface = Some(east);
            }
            assert_eq!(*found, expected);

            let error = socket.add_route(route).unwrap_err();
            assert!(error.is_exists(), "{error}");
            socket.replace_route(route).unwrap();
            assert_eq!(ours(socket), [expected]);
            socket.delete_route(route).unwrap();
            assert!(socket.delete_route(route).unwrap_err().is_not_found());
            assert_eq!(ours(socket), []);
        }
        let nowhere = RouteFilter { table: Some(4711), ..RouteFilter::default() };
        assert_eq!(socket.routes(&nowhere).unwrap(), []);
    });
}

#[test]
fn a_refusal_says_what_was_asked_and_why() {
    with_links(|socket, _| {
        let error = socket.add_route(&via("10.0.0.0/26", &["203.0.113.9"])).unwrap_err();
        let text = "add route 10.0.0.0/26 via 203.0.113.9: Nexthop has invalid gateway: \
                    Network is unreachable (os error 101)";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.errno(), Some(101));
    });
}

#[test]
fn of_a_batch_only_what_the_kernel_refuses_fails() {
    with_links(|socket, _| {
        let mut routes = table();
        for number in 0..1000_u32 {
            let [_, _, third, fourth] = number.to_be_bytes();
            let gateway = if number % 100 == 50 { "203.0.113.9" } else { "192.0.2.2" };
            routes.want(via(&format!("10.{third}.{fourth}.0/24"), &[gateway]));
        }
        routes.resync(socket).unwrap();
        let failures = routes.apply(socket);
        assert_eq!(failures.len(), 10, "{failures:?}");
        for (key, error) in &failures {
            assert!(error.to_string().starts_with(&format!("add route {} via 203.0.113.9: ", key.destination)));
        }
        assert_eq!(ours(socket).len(), 990);
        assert!(!routes.in_sync());
        assert_eq!(routes.apply(socket).len(), 10);
    });
}

#[test]
fn a_foreign_deletion_is_noticed_and_repaired() {
    with_links(|socket, east| {
        let mut monitor = Monitor::open().unwrap();
        let mut routes = table();
        let wanted = [
            via("10.0.0.0/26", &["192.0.2.2"]),
            via("10.0.1.0/26", &["192.0.2.2", "192.0.2.3"]),
            Route::blackhole("10.0.2.0/26".parse().unwrap(), OURS),
            via("fd00:a::/64", &["fd00:1::2", "fd00:1::3"]),
            Route::blackhole("fd00:b::/64".parse().unwrap(), OURS),
        ];
        wanted.iter().for_each(|route| routes.want(route.clone()));
        routes.resync(socket).unwrap();
        assert!(routes.apply(socket).is_empty());
        assert!(routes.in_sync());
        let before = ours(socket);
        assert_eq!(before.len(), wanted.len());

        for deletion in [
            "route del 10.0.0.0/26",
            "route del 10.0.1.0/26",
            "route del blackhole 10.0.2.0/26",
            "-6 route del fd00:a::/64 via fd00:1::2",
            "-6 route del fd00:a::/64",
            "-6 route del blackhole fd00:b::/64",
        ] {
            monitor.receive().unwrap();
            ip(deletion);
            let events = wait_for(&mut monitor, |event| matches!(event, Event::RouteGone(_)));
            events.iter().for_each(|event| routes.notice(event));
            assert!(!routes.in_sync(), "{deletion}: {events:?}");
            assert!(routes.apply(socket).is_empty(), "{deletion}");
            assert!(routes.in_sync());
            assert_eq!(ours(socket), before, "{deletion}");
        }

        // The kernel removes these without a word when their interface goes down.
        monitor.receive().unwrap();
        for up in [false, true] {
            socket.change_link(east, &LinkChange { up: Some(up), ..LinkChange::default() }).unwrap();
        }
        socket.add_address(&Address::new(east, "fd00:1::1/64".parse().unwrap()).without_duplicate_detection()).unwrap();
        let events = wait_for(&mut monitor, |event| matches!(event, Event::Address(a) if a.network.addr().is_ipv6()));
        events.iter().for_each(|event| routes.notice(event));
        assert!(!routes.in_sync());
        if routes.needs_resync() {
            routes.resync(socket).unwrap();
        }
        let failures = routes.apply(socket);
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(ours(socket), before);
    });
}

#[test]
fn routes_that_vanish_silently_with_their_last_interface_are_missed() {
    with_links(|socket, east| {
        let west = socket.link("west").unwrap().unwrap().index;
        socket.add_address(&Address::new(west, "198.51.100.1/24".parse().unwrap())).unwrap();
        let mut monitor = Monitor::open().unwrap();
        let mut routes = table();
        routes.want(via("10.0.0.0/26", &["192.0.2.2", "198.51.100.2"]));
        routes.resync(socket).unwrap();
        assert!(routes.apply(socket).is_empty());
        // Each is switched off while the other is on, then both are off.
        for (index, up) in [(east, false), (east, true), (west, false), (east, false)] {
            socket.change_link(index, &LinkChange { up: Some(up), ..LinkChange::default() }).unwrap();
            let told = |event: &Event| matches!(event, Event::Link(link) if link.index == index && link.up == up);
            wait_for(&mut monitor, told).iter().for_each(|event| routes.notice(event));
            assert_eq!(routes.in_sync(), ours(socket).len() == 1);
        }
        assert_eq!(ours(socket), []);
    });
}

#[test]
fn a_restarted_owner_adopts_its_routes_and_writes_only_the_difference() {
    with_links(|socket, _| {
        let wanted = [
            via("10.0.0.0/26", &["192.0.2.2"]),
            via("10.0.1.0/26", &["192.0.2.3", "192.0.2.2"]),
            Route::blackhole("10.0.2.0/26".parse().unwrap(), OURS),
            via("fd00:a::/64", &["fd00:1::3", "fd00:1::2"]),
            Route::blackhole("fd00:b::/64".parse().unwrap(), OURS),
        ];
        let leftover = via("10.9.0.0/26", &["192.0.2.2"]);
        for route in wanted.iter().chain([&leftover]) {
            socket.add_route(route).unwrap();
        }
        let mut monitor = Monitor::open().unwrap();
        let mut routes = table();
        wanted.iter().for_each(|route| routes.want(route.clone()));
        assert!(!routes.in_sync());
        routes.resync(socket).unwrap();
        assert!(routes.in_sync(), "{:?}", routes.actual().collect::<Vec<_>>());
        assert!(routes.apply(socket).is_empty());
        assert_eq!(monitor.receive().unwrap(), [], "something was written");
        assert_eq!(ours(socket).len(), wanted.len() + 1);

        routes.set_sweep(true);
        assert!(!routes.in_sync());
        assert!(routes.apply(socket).is_empty());
        assert!(routes.in_sync());
        let events = monitor.receive().unwrap();
        let [Event::RouteGone(gone)] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(gone.key(), leftover.key());
    });
}

#[test]
fn a_route_is_replaced_in_one_step() {
    with_links(|socket, east| {
        let west = socket.link("west").unwrap().unwrap().index;
        let on = |index| {
            ["10.0.0.0/26", "fd00:a::/64"].map(|to| Route::unicast(to.parse().unwrap(), [NextHop::dev(index)], OURS))
        };
        let mut routes = table();
        routes.resync(socket).unwrap();
        routes.set_sweep(true);
        let mut monitor = Monitor::open().unwrap();
        let steps = [
            on(east),
            on(west),
            [via("10.0.0.0/26", &["192.0.2.2"]), via("fd00:a::/64", &["fd00:1::2"])],
            [via("10.0.0.0/26", &["192.0.2.3"]), via("fd00:a::/64", &["fd00:1::3"])],
            [via("10.0.0.0/26", &["192.0.2.2", "192.0.2.3"]), via("fd00:a::/64", &["fd00:1::2", "fd00:1::3"])],
            [via("10.0.0.0/26", &["192.0.2.4", "192.0.2.5"]), via("fd00:a::/64", &["fd00:1::4", "fd00:1::5"])],
            [
                Route::blackhole("10.0.0.0/26".parse().unwrap(), OURS),
                Route::blackhole("fd00:a::/64".parse().unwrap(), OURS),
            ],
            [via("10.0.0.0/26", &["192.0.2.2"]), via("fd00:a::/64", &["fd00:1::2"])],
        ];
        for step in steps {
            step.iter().for_each(|route| routes.want(route.clone()));
            let failures = routes.apply(socket);
            assert!(failures.is_empty(), "{failures:?}");
            let found: Vec<RouteKey> = ours(socket).iter().map(Route::key).collect();
            assert_eq!(found, step.each_ref().map(Route::key));
            for event in monitor.receive().unwrap() {
                let gone = matches!(&event, Event::RouteGone(route) if route.destination.addr().is_ipv4());
                assert!(!gone, "{event:?}");
                routes.notice(&event);
            }
            assert!(routes.in_sync(), "{step:?} {:?}", routes.actual().collect::<Vec<_>>());
            let mut again = table();
            step.iter().for_each(|route| again.want(route.clone()));
            again.resync(socket).unwrap();
            assert!(again.in_sync(), "{step:?} {:?}", again.actual().collect::<Vec<_>>());
        }
    });
}

#[test]
fn an_old_metric_goes_after_the_new_one_came_and_only_once() {
    with_links(|socket, east| {
        let route =
            |metric| Route::unicast("10.0.0.1/32".parse().unwrap(), [NextHop::dev(east)], OURS).with_metric(metric);
        let mut routes = table();
        routes.set_sweep(true);
        for already_gone in [false, true] {
            socket.replace_route(&route(0)).unwrap();
            socket.replace_route(&route(1024)).unwrap();
            routes.want(route(1024));
            routes.resync(socket).unwrap();
            if already_gone {
                socket.delete_route(&route(0)).unwrap();
            }
            assert!(routes.apply(socket).is_empty());
            assert_eq!(ours(socket), [route(1024)]);
            assert!(routes.in_sync());
        }
    });
}

#[test]
fn a_foreign_route_is_never_touched() {
    with_links(|socket, _| {
        let mut monitor = Monitor::open().unwrap();
        let mut routes = table();
        routes.resync(socket).unwrap();
        routes.set_sweep(true);
        let foreign = |route: Route| Route { protocol: 4, ..route };
        let destinations = [("10.0.0.0/26", "192.0.2.7", "192.0.2.2"), ("fd00:a::/64", "fd00:1::7", "fd00:1::2")];
        let held: Vec<Route> = destinations.iter().map(|(to, theirs, _)| foreign(via(to, &[theirs]))).collect();
        let theirs = |socket: &mut Socket| {
            let filter = RouteFilter { protocol: Some(4), ..RouteFilter::default() };
            socket.routes(&filter).unwrap()
        };

        // It was there first.
        held.iter().for_each(|route| socket.add_route(route).unwrap());
        let before = theirs(socket);
        destinations.iter().for_each(|(to, _, ours)| routes.want(via(to, &[ours])));
        for _ in 0..2 {
            let failures = routes.apply(socket);
            assert_eq!(failures.len(), 2);
            let text = "add route 10.0.0.0/26 via 192.0.2.2: its place is held by a route of protocol 4, \
                        which is left alone";
            assert_eq!(failures[0].1.to_string(), text);
            assert_eq!(theirs(socket), before);
        }

        // It goes: ours comes. It takes our place: ours waits, also for what we do not know yet.
        held.iter().for_each(|route| socket.delete_route(route).unwrap());
        assert!(routes.apply(socket).is_empty());
        assert_eq!(ours(socket).len(), 2);
        held.iter().for_each(|route| socket.replace_route(route).unwrap());
        destinations
            .iter()
            .for_each(|(to, _, _)| routes.want(via(to, &[if to.contains(':') { "fd00:1::3" } else { "192.0.2.3" }])));
        assert_eq!(routes.apply(socket).len(), 2);
        assert_eq!(theirs(socket), before);
        for event in monitor.receive().unwrap() {
            routes.notice(&event);
        }
        destinations.iter().for_each(|(to, _, ours)| routes.unwant(&via(to, &[ours]).key()));
        assert!(routes.apply(socket).is_empty());
        assert_eq!(theirs(socket), before);
        assert!(routes.in_sync());
    });
}

#[test]
fn after_an_overrun_a_resync_finds_what_was_missed() {
    with_links(|socket, _| {
        let mut monitor = Monitor::open().unwrap();
        let mut routes = table();
        let mut maker = table();
        for number in 0..40_000_u32 {
            let [_, second, third, fourth] = number.to_be_bytes();
            let route = via(&format!("10.{second}.{third}.{fourth}/32"), &["192.0.2.2"]);
            routes.want(route.clone());
            maker.want(route);
        }
        routes.resync(socket).unwrap();
        maker.resync(socket).unwrap();
        assert!(maker.apply(socket).is_empty());
        let events = monitor.receive().unwrap();
        assert!(events.contains(&Event::Overrun));
        events.iter().for_each(|event| routes.notice(event));
        assert!(routes.needs_resync());
        routes.resync(socket).unwrap();
        assert!(routes.in_sync());
        assert_eq!(ours(socket).len(), 40_000);
    });
}

#[test]
fn a_monitor_tells_links_and_addresses_of_its_own_namespace_only() {
    with_links(|socket, east| {
        let mut monitor = Monitor::open().unwrap();
        with_links(|other, _| other.add_link("stranger", "bridge").unwrap());
        socket.add_link("marker", "bridge").unwrap();
        let named = |name: &'static str| move |event: &Event| matches!(event, Event::Link(link) if link.name == name);
        assert!(!wait_for(&mut monitor, named("marker")).iter().any(named("stranger")));
        let address = Address::new(east, "10.1.2.3/32".parse().unwrap());
        socket.add_address(&address).unwrap();
        let same = |found: &Address| found.network == address.network && found.index == east;
        wait_for(&mut monitor, |event| matches!(event, Event::Address(found) if same(found)));
        socket.delete_address(&address).unwrap();
        wait_for(&mut monitor, |event| matches!(event, Event::AddressGone(found) if same(found)));
        socket.delete_link(east).unwrap();
        wait_for(&mut monitor, |event| matches!(event, Event::LinkGone(link) if link.name == "east"));
    });
}

#[test]
fn a_list_is_whole_while_others_change_what_it_lists() {
    with_links(|socket, east| {
        let mut batch = Batch::new();
        for host in 1..=200_u8 {
            batch.add_address(&Address::new(east, format!("10.0.0.{host}/32").parse().unwrap()));
        }
        socket.execute(batch).unwrap();
        let here = namespace::current().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                namespace::enter(here.as_fd()).unwrap();
                let mut other = Socket::open().unwrap();
                let address = Address::new(east, "10.9.9.9/32".parse().unwrap());
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    other.add_address(&address).unwrap();
                    other.delete_address(&address).unwrap();
                }
            });
            for _ in 0..50 {
                // Told to be interrupted too often is honest; a part as the whole is not.
                let Ok(found) = socket.addresses() else { continue };
                let networks = found.iter().map(|address| address.network.to_string());
                assert_eq!(networks.filter(|network| network.starts_with("10.0.0.")).count(), 200);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(socket.addresses().is_ok());
    });
}

#[test]
fn a_vxlan_interface_its_far_ends_and_a_routes_mtu_are_read_back_as_they_were_written() {
    with_links(|socket, east| {
        let local = Some("192.0.2.1".parse().unwrap());
        let vxlan = Vxlan { vni: 4096, port: 4789, local, parent: Some(east), ..Vxlan::default() };
        let mac: Mac = "66:f9:37:c3:7e:94".parse().unwrap();
        socket.add_vxlan("tunnel", &vxlan, 1450, mac).unwrap();
        assert!(socket.add_vxlan("second", &vxlan, 1450, mac).unwrap_err().is_exists());
        let found = socket.link("tunnel").unwrap().unwrap();
        assert_eq!((found.vxlan, found.mtu, found.mac, found.up), (Some(vxlan), 1450, Some(mac), false));
        assert_eq!(socket.link("east").unwrap().unwrap().vxlan, None);
        let index = found.index;
        let change = LinkChange { up: Some(true), alias: Some("ours"), ..LinkChange::default() };
        socket.change_link(index, &change).unwrap();
        assert_eq!(socket.link("tunnel").unwrap().unwrap().alias.as_deref(), Some("ours"));
        socket.change_link(index, &LinkChange { alias: Some(""), ..LinkChange::default() }).unwrap();
        assert_eq!(socket.link("tunnel").unwrap().unwrap().alias, None);

        // Only the neighbours of the tunnel are told of.
        let mut monitor = Monitor::open().unwrap();
        monitor.watch_neighbours(&[index]).unwrap();
        let far: IpAddr = "192.0.2.9".parse().unwrap();
        let entry = Forwarding::permanent(index, mac, "192.0.2.8".parse().unwrap());
        let moved = Forwarding { destination: far, ..entry.clone() };
        let neighbour = Neighbour::permanent(index, "10.65.0.1".parse().unwrap(), mac);
        let elsewhere = Neighbour::permanent(east, far, mac);
        let mut batch = Batch::new();
        batch.replace_neighbour(&elsewhere);
        batch.replace_forwarding(&entry);
        batch.replace_forwarding(&moved);
        batch.replace_neighbour(&neighbour);
        assert!(socket.execute_all(batch).is_empty());
        let told = wait_for(&mut monitor, |event| *event == Event::Neighbour(neighbour.clone()));
        let expected =
            [Event::Forwarding(entry), Event::Forwarding(moved.clone()), Event::Neighbour(neighbour.clone())];
        assert_eq!(told, expected);
        assert_eq!(socket.forwarding(index).unwrap(), std::slice::from_ref(&moved));
        let permanent = |found: &Neighbour| found.state & 0x80 != 0;
        let on = socket.neighbours_on(index).unwrap();
        assert_eq!(on.into_iter().filter(permanent).collect::<Vec<_>>(), std::slice::from_ref(&neighbour));
        let mut batch = Batch::new();
        batch.delete_forwarding(&moved);
        batch.delete_forwarding(&moved);
        batch.delete_neighbour(&neighbour);
        let failures = socket.execute_all(batch);
        assert!(matches!(failures.as_slice(), [(1, error)] if error.is_not_found()), "{failures:?}");
        assert_eq!(socket.forwarding(index).unwrap(), []);

        for (destination, gateway) in [("10.65.0.0/26", "10.65.0.1"), ("fd65::/122", "fd65::1")] {
            let hop = NextHop::via(gateway.parse().unwrap()).on(index).onlink();
            let route = Route::unicast(destination.parse().unwrap(), [hop], OURS).with_metric(1024).with_mtu(1450);
            let mut table = table();
            table.want(route.clone());
            table.resync(socket).unwrap();
            assert!(table.apply(socket).is_empty());
            assert!(ours(socket).contains(&route));
            table.want(Route { mtu: Some(1400), ..route.clone() });
            assert!(!table.in_sync() && table.apply(socket).is_empty());
            table.resync(socket).unwrap();
            assert!(table.in_sync() && ours(socket).contains(&Route { mtu: Some(1400), ..route }));
        }
    });
}

#[test]
fn a_route_that_is_left_stays_and_a_place_that_is_claimed_is_taken_from_whoever_holds_it() {
    with_links(|socket, _| {
        let [left, foreign] = ["10.65.1.0/26", "10.65.2.0/26"].map(|to| via(to, &["192.0.2.2"]).with_metric(7));
        socket.add_route(&left).unwrap();
        socket.add_route(&Route { protocol: 12, ..foreign.clone() }).unwrap();
        let mut table = RouteTable::new(|route| route.protocol == OURS).claiming_places();
        table.set_sweep(true);
        table.leave(left.destination);
        table.resync(socket).unwrap();
        assert!(table.in_sync() && table.apply(socket).is_empty());
        assert_eq!(ours(socket).len(), 1);
        table.want(foreign.clone());
        assert!(table.apply(socket).is_empty());
        assert_eq!(ours(socket).len(), 2);
        // Somebody took it back: while it is wanted that is put right, and when it is not, it is theirs.
        let theirs = Route { protocol: 12, ..foreign.clone() };
        socket.replace_route(&theirs).unwrap();
        table.notice(&Event::Route(theirs.normalized()));
        assert!(!table.in_sync());
        table.unwant(&foreign.key());
        assert!(table.in_sync() && table.apply(socket).is_empty());
        let all = socket.routes(&RouteFilter { protocol: Some(12), ..RouteFilter::default() }).unwrap();
        assert_eq!(all.len(), 1);
        table.cease_to_leave(&left.destination);
        assert!(!table.in_sync() && table.apply(socket).is_empty());
        assert_eq!(ours(socket), []);
    });
}

#[test]
fn a_second_route_of_ours_in_one_place_is_not_forgotten_while_nothing_may_be_removed() {
    with_links(|socket, _| {
        for last in [2, 3] {
            ip(&format!("route append 10.65.1.0/26 via 192.0.2.{last} metric 7 proto {OURS}"));
        }
        assert_eq!(ours(socket).len(), 2);
        let mut table = table();
        table.resync(socket).unwrap();
        let first = ours(socket)[0].clone();
        table.want(first.clone());
        assert!(table.apply(socket).is_empty());
        assert_eq!(ours(socket).len(), 2);
        table.set_sweep(true);
        assert!(!table.in_sync() && table.apply(socket).is_empty());
        assert_eq!((ours(socket), table.in_sync()), (vec![first], true));
    });
}

#[test]
fn the_routes_through_one_interface_are_listed_alone() {
    with_links(|socket, east| {
        ip("address add 198.51.100.1/24 dev west");
        for line in ["10.65.1.0/26 via 192.0.2.2", "10.65.2.0/26 via 198.51.100.2", "fd65::/122 via fd00:1::2"] {
            ip(&format!("route add {line} proto {OURS}"));
        }
        let filter = RouteFilter { protocol: Some(OURS), ..RouteFilter::default() };
        let found = socket.routes_through(east, &filter).unwrap();
        let found: Vec<String> = found.iter().map(|route| route.destination.to_string()).collect();
        assert_eq!(found, ["10.65.1.0/26", "fd65::/122"]);
    });
}
