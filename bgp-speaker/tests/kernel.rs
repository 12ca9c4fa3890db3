//! The kernel's thread against a real kernel, in a network namespace of its own. Needs root.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use bgp_plan::inputs::{Encap, Pool};
use bgp_speaker::fib::{Learned, Ownership};
use bgp_speaker::kernel::{self, Command as Order, Handle};
use ipnet::IpNet;

#[track_caller]
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ours() -> Vec<String> {
    ip("route show proto bird").lines().map(|line| line.trim().to_owned()).collect()
}

/// Waits until our routes are these.
#[track_caller]
fn become_routes(expected: &[&str]) {
    let end = Instant::now() + Duration::from_secs(30);
    while ours() != expected {
        assert!(Instant::now() < end, "expected {expected:?}, got {:?}", ours());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn learned(prefix: &str, next_hops: &[&str]) -> (IpNet, Option<Learned>) {
    let next_hops: Vec<IpAddr> = next_hops.iter().map(|text| text.parse().unwrap()).collect();
    (net(prefix), Some(Learned { next_hops, local_pref: Some(100) }))
}

fn tell(handle: &Handle, order: Order) {
    handle.commands.blocking_send(order).unwrap();
}

/// Waits until a next hop is as far away as expected.
#[track_caller]
fn becomes_reachable(handle: &Handle, next_hop: &str, expected: Option<u32>) {
    let end = Instant::now() + Duration::from_secs(30);
    let next_hop: IpAddr = next_hop.parse().unwrap();
    loop {
        let known = handle.reachable.borrow().get(&next_hop).copied();
        if known == Some(expected) {
            return;
        }
        assert!(Instant::now() < end, "{next_hop}: expected {expected:?}, got {known:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs in a namespace with 10.0.0.1/24 on `eth0`, whose other end is up as well.
fn in_namespace(work: impl FnOnce() + Send) {
    let namespace = calico_sys::namespace::create().unwrap();
    calico_sys::namespace::inside(namespace, || {
        ip("link set lo up");
        ip("link add eth0 type veth peer name far");
        ip("addr add 10.0.0.1/24 dev eth0");
        ip("link set far up");
        ip("link set eth0 up");
        work();
    })
    .unwrap();
}

#[test]
fn routes_follow_next_hops_links_and_ownership_and_leave_others_alone() {
    in_namespace(|| {
        let handle = kernel::start().unwrap();
        let pool = Pool { cidr: net("10.244.0.0/16"), encap: Encap::None, disable_bgp_export: false };
        let vxlan = Pool { cidr: net("10.245.0.0/16"), encap: Encap::Vxlan, disable_bgp_export: false };
        let blocks = BTreeSet::from([net("10.244.0.0/26")]);
        let ownership = Ownership { pools: vec![pool, vxlan], blocks, normal_v4: 1024, normal_v6: 1024 };
        tell(&handle, Order::Ownership(ownership.clone()));
        tell(&handle, Order::NextHops(vec![("10.0.0.2".parse().unwrap(), true), ("192.0.2.9".parse().unwrap(), true)]));
        becomes_reachable(&handle, "10.0.0.2", Some(0));
        becomes_reachable(&handle, "192.0.2.9", None);

        tell(
            &handle,
            Order::Learned(vec![
                learned("10.244.0.0/26", &["10.0.0.2"]), // our own block
                learned("10.244.1.0/26", &["10.0.0.2"]),
                learned("10.244.2.0/26", &["192.0.2.9"]), // unreachable
                learned("10.245.1.0/26", &["10.0.0.2"]),  // felix's
            ]),
        );
        let first = "10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024";
        become_routes(&[first]);

        // A way to the next hop appears and goes.
        ip("route add 192.0.2.0/24 via 10.0.0.3");
        becomes_reachable(&handle, "192.0.2.9", Some(1));
        become_routes(&[first, "10.244.2.0/26 via 10.0.0.3 dev eth0 metric 1024"]);
        tell(&handle, Order::Sweep);
        ip("route del 192.0.2.0/24");
        becomes_reachable(&handle, "192.0.2.9", None);
        become_routes(&[first]);

        // Another's route in our place stays until it goes by itself, and then we take the place.
        tell(&handle, Order::Learned(vec![(net("10.244.1.0/26"), None)]));
        become_routes(&[]);
        ip("route add 10.244.1.0/26 via 10.0.0.7 metric 1024 proto static");
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.2"])]));
        tell(&handle, Order::Learned(vec![learned("198.51.100.0/24", &["10.0.0.2"])]));
        let outside = "198.51.100.0/24 via 10.0.0.2 dev eth0 metric 1024";
        become_routes(&[outside]);
        ip("route del 10.244.1.0/26");
        become_routes(&[first, outside]);

        // The kernel drops routes of a link that goes down; they are back with it.
        ip("link set eth0 down");
        become_routes(&[]);
        becomes_reachable(&handle, "10.0.0.2", None);
        ip("link set eth0 up");
        become_routes(&[first, outside]);

        // A router that only its route's word puts on the link.
        ip("route add 203.0.113.0/24 via 172.16.0.1 dev eth0 onlink");
        tell(&handle, Order::Learned(vec![learned("10.244.4.0/26", &["203.0.113.9"])]));
        let onlink = "10.244.4.0/26 via 172.16.0.1 dev eth0 metric 1024 onlink";
        become_routes(&[first, onlink, outside]);
        tell(&handle, Order::Learned(vec![(net("10.244.4.0/26"), None)]));
        become_routes(&[first, outside]);

        // Several next hops are one route.
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.2", "10.0.0.3"])]));
        let end = Instant::now() + Duration::from_secs(30);
        while !ip("route show proto bird").contains("nexthop via 10.0.0.3 dev eth0 weight 1") {
            assert!(Instant::now() < end, "{}", ip("route show proto bird"));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(handle.status.borrow().error, None);

        // The end of the speaker removes nothing.
        drop(handle);
        assert!(ip("route show proto bird").contains(outside));
    });
}

#[test]
fn a_route_that_the_kernel_refuses_holds_no_other_up_and_leaves_the_rest_in_sync() {
    in_namespace(|| {
        let handle = kernel::start().unwrap();
        // The link's broadcast address is no gateway.
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.255"])]));
        let refused = |expected: usize| {
            let end = Instant::now() + Duration::from_secs(30);
            while handle.status.borrow().refused != expected {
                assert!(Instant::now() < end, "{:?}", handle.status.borrow());
                std::thread::sleep(Duration::from_millis(10));
            }
            handle.status.borrow().clone()
        };
        let status = refused(1);
        assert!(status.in_sync && status.error.is_some(), "{status:?}");
        tell(&handle, Order::Learned(vec![learned("10.244.2.0/26", &["10.0.0.2"])]));
        let second = "10.244.2.0/26 via 10.0.0.2 dev eth0 metric 1024";
        become_routes(&[second]);
        let status = refused(1);
        assert!(status.in_sync && status.error.is_some(), "{status:?}");
        // Another gateway is tried at once, and a withdrawal is the end of it.
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.2"])]));
        become_routes(&["10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024", second]);
        assert_eq!(refused(0).error, None);
        tell(&handle, Order::Learned(vec![learned("10.244.3.0/26", &["10.0.0.255"])]));
        refused(1);
        tell(&handle, Order::Learned(vec![(net("10.244.3.0/26"), None)]));
        refused(0);
    });
}

#[test]
fn a_restarted_thread_adopts_routes_and_removes_the_rest_only_when_told() {
    in_namespace(|| {
        ip("route add 10.244.1.0/26 via 10.0.0.2 metric 1024 proto bird");
        ip("route add 10.244.2.0/26 via 10.0.0.2 metric 1024 proto bird");
        let handle = kernel::start().unwrap();
        assert!(handle.preserved.contains(bgp_proto::Family::Ipv4Unicast), "no boot: the routes are there");
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.2"])]));
        tell(&handle, Order::Learned(vec![learned("10.244.3.0/26", &["10.0.0.2"])]));
        become_routes(&[
            "10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024",
            "10.244.2.0/26 via 10.0.0.2 dev eth0 metric 1024",
            "10.244.3.0/26 via 10.0.0.2 dev eth0 metric 1024",
        ]);
        tell(&handle, Order::Sweep);
        become_routes(&[
            "10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024",
            "10.244.3.0/26 via 10.0.0.2 dev eth0 metric 1024",
        ]);
    });
}
