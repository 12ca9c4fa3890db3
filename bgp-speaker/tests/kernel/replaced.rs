//! Routes that take the place of others, in one step.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use bgp_plan::inputs::Encap;
use bgp_speaker::fib::Ownership;
use bgp_speaker::kernel::{self, Command as Order};
use calico_netlink::{Event, Monitor};

use crate::bed::*;

#[test]
fn what_a_bird_left_behind_is_replaced_in_one_step_where_it_is_wanted_and_swept_where_not() {
    in_namespace(|| {
        with_more_links();
        add_tunnel();
        for route in [
            "blackhole 10.244.0.0/26",
            "blackhole 10.244.9.0/26 metric 1024",
            "10.244.1.0/26 via 10.0.0.2 dev tunl0 onlink metric 1024",
            "10.244.2.0/26 via 10.0.0.2 dev tunl0 onlink metric 1024",
            "10.244.3.0/26 via 10.0.0.2 dev tunl0 onlink", // from before v3.32
            "10.244.4.0/26 via 10.0.0.2 metric 2147483547",
            "10.244.5.0/26 via 10.0.0.2 metric 1024",
        ] {
            ip(&format!("route add {route} proto bird"));
        }
        ip("-6 route add blackhole fd00:10::/122 proto bird metric 1024");
        let mut monitor = Monitor::open().unwrap();
        let handle = kernel::start().unwrap();
        let pools = vec![pool("10.244.0.0/16", Encap::None)];
        let blocks = BTreeSet::from([net("10.244.0.0/26")]);
        tell(&handle, Order::Ownership(Ownership { pools, blocks, ..Ownership::default() }));
        let wanted = ["10.244.1.0/26", "10.244.3.0/26", "10.244.4.0/26", "10.244.5.0/26", "10.244.9.0/26"];
        let learned_again = wanted.map(|prefix| learned(prefix, &["10.0.0.2"]));
        tell(&handle, Order::Learned(learned_again.to_vec()));
        tell(&handle, Order::Learned(vec![learned("fd00:10::/122", &["fd00::2"])]));
        let plain = wanted.map(|prefix| format!("{prefix} via 10.0.0.2 dev eth0 metric 1024"));
        // Beside what is wanted everything stays until the peers have spoken.
        become_routes(&[
            "blackhole 10.244.0.0/26",
            &plain[0],
            "10.244.2.0/26 via 10.0.0.2 dev tunl0 metric 1024 onlink",
            "10.244.3.0/26 via 10.0.0.2 dev tunl0 onlink",
            &plain[1],
            &plain[2],
            "10.244.4.0/26 via 10.0.0.2 dev eth0 metric 2147483547",
            &plain[3],
            &plain[4],
        ]);
        let six = "fd00:10::/122 via fd00::2 dev eth0 metric 1024 pref medium";
        selection_becomes("-6 route show proto bird", &[six]);
        let removed = |monitor: &mut Monitor| -> Vec<String> {
            let events = monitor.receive().unwrap().into_iter();
            let gone = events.filter_map(|event| match event {
                Event::RouteGone(route) if route.table == calico_netlink::TABLE_MAIN => Some(route.to_string()),
                _ => None,
            });
            gone.collect()
        };
        assert_eq!(removed(&mut monitor), Vec::<String>::new());
        tell(&handle, Order::Sweep);
        become_routes(&plain.each_ref().map(String::as_str));
        selection_becomes("-6 route show proto bird", &[six]);
        assert_eq!(removed(&mut monitor).len(), 4);
    });
}

/// Sends packets for an address all the time; returns how many were sent, and each failure.
fn bombard(target: SocketAddr, stop: &AtomicBool) -> (usize, Vec<String>) {
    let any: SocketAddr = if target.is_ipv4() { "0.0.0.0:0".parse().unwrap() } else { "[::]:0".parse().unwrap() };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_nonblocking(true).unwrap();
    let (mut sent, mut failures) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        match socket.send_to(b"x", target) {
            Ok(_) => sent += 1,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => failures.push(error.to_string()),
        }
    }
    (sent, failures)
}

#[test]
fn a_route_that_changes_is_never_away_for_a_single_packet() {
    in_namespace(|| {
        with_more_links();
        // Nobody answers; with these the packets leave at once all the same.
        for n in 2..6 {
            ip(&format!("neigh add 10.0.0.{n} lladdr 02:00:00:00:00:0{n} dev eth0 nud permanent"));
            ip(&format!("neigh add fd00::{n} lladdr 02:00:00:00:00:0{n} dev eth0 nud permanent"));
        }
        let handle = kernel::start().unwrap();
        let (four, six) = ("10.244.1.0/26", "fd00:10::/122");
        let hops =
            |family: &str, list: &[u32]| -> Vec<String> { list.iter().map(|n| format!("{family}{n}")).collect() };
        let become_hops = |list: &[u32]| {
            let change = |prefix: &str, family: &str| {
                let names = hops(family, list);
                learned(prefix, &names.iter().map(String::as_str).collect::<Vec<_>>())
            };
            tell(&handle, Order::Learned(vec![change(four, "10.0.0."), change(six, "fd00::")]));
            for (flag, prefix, family) in [("-4", four, "10.0.0."), ("-6", six, "fd00::")] {
                eventually(|| {
                    let shown = ip(&format!("{flag} route show {prefix}"));
                    let of = |word: &&str| word.starts_with(family) && !word.contains('/');
                    let mut now: Vec<&str> = shown.split_whitespace().filter(of).collect();
                    now.sort_unstable();
                    if now == hops(family, list) { Ok(()) } else { Err(shown) }
                });
            }
        };
        become_hops(&[2]);
        let stop = AtomicBool::new(false);
        let namespace = calico_sys::namespace::current().unwrap();
        let bombard_inside = |target: &'static str| {
            let (namespace, stop) = (&namespace, &stop);
            move || calico_sys::namespace::inside(namespace, || bombard(target.parse().unwrap(), stop)).unwrap()
        };
        std::thread::scope(|scope| {
            let senders = ["10.244.1.1:9", "[fd00:10::1]:9"].map(|target| scope.spawn(bombard_inside(target)));
            for list in [&[2, 3][..], &[3, 4], &[2, 3, 4, 5], &[5], &[4], &[2, 3, 4], &[4, 5], &[2]].repeat(4) {
                become_hops(list);
            }
            stop.store(true, Ordering::Relaxed);
            for sender in senders {
                let (sent, failures) = sender.join().unwrap();
                assert!(sent > 1000, "{sent}");
                assert_eq!(failures, Vec::<String>::new());
            }
        });
    });
}
