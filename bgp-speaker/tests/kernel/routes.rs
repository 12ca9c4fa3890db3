//! Which routes are there, and when they go.

use std::collections::BTreeSet;

use bgp_plan::inputs::Encap;
use bgp_speaker::fib::Ownership;
use bgp_speaker::kernel::{self, Command as Order};

use crate::bed::*;

#[test]
fn routes_follow_next_hops_links_and_ownership_and_leave_others_alone() {
    in_namespace(|| {
        let handle = kernel::start().unwrap();
        let pools =
            vec![pool("10.244.0.0/16", Encap::None), pool("10.245.0.0/16", Encap::Vxlan { cross_subnet: false })];
        let blocks = BTreeSet::from([net("10.244.0.0/26")]);
        let services = vec![net("10.96.0.0/12")];
        tell(&handle, Order::Ownership(Ownership { pools, blocks, services, ..Ownership::default() }));
        watch(&handle, &["10.0.0.2", "192.0.2.9"]);
        becomes_reachable(&handle, "10.0.0.2", Some((0, "eth0")));
        becomes_reachable(&handle, "192.0.2.9", None);

        tell(
            &handle,
            Order::Learned(vec![
                learned("10.244.0.0/26", &["10.0.0.2"]), // our own block
                learned("10.244.1.0/26", &["10.0.0.2"]),
                learned("10.244.2.0/26", &["192.0.2.9"]), // unreachable
                learned("10.245.1.0/26", &["10.0.0.2"]),  // felix's
                learned("10.96.7.7/32", &["10.0.0.2"]),   // a service's
            ]),
        );
        let first = "10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024";
        become_routes(&[first]);

        // A way to the next hop appears and goes.
        ip("route add 192.0.2.0/24 via 10.0.0.3");
        becomes_reachable(&handle, "192.0.2.9", Some((1, "eth0")));
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
        let several = "10.244.1.0/26 metric 1024 nexthop via 10.0.0.2 dev eth0 weight 1 \
                       nexthop via 10.0.0.3 dev eth0 weight 1";
        become_routes(&[several, outside]);
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
            eventually(|| {
                let status = handle.status.borrow().clone();
                if status.refused == expected { Ok(()) } else { Err(format!("{status:?}")) }
            });
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
fn what_a_peer_withdraws_after_a_restart_goes_at_once_and_leftovers_wait() {
    in_namespace(|| {
        ip("route add 10.244.1.0/26 via 10.0.0.2 metric 1024 proto bird");
        ip("route add 10.244.9.0/26 via 10.0.0.9 metric 1024 proto bird");
        let handle = kernel::start().unwrap();
        let [first, second, third] = ["10.244.1.0/26", "10.244.2.0/26", "10.244.3.0/26"];
        let via = |prefix: &str| format!("{prefix} via 10.0.0.2 dev eth0 metric 1024");
        let leftover = "10.244.9.0/26 via 10.0.0.9 dev eth0 metric 1024".to_owned();
        let all = [first, second, third].map(|prefix| learned(prefix, &["10.0.0.2"]));
        tell(&handle, Order::Learned(all.to_vec()));
        become_routes(&[&via(first), &via(second), &via(third), &leftover]);

        // Withdrawn in words; withdrawn without having been learned; and lost with its session.
        tell(&handle, Order::Withdrawn(vec![net(first), net("10.244.9.0/26")]));
        tell(&handle, Order::Learned(vec![(net(first), None), (net(second), None)]));
        tell(&handle, Order::Learned(vec![learned("10.244.4.0/26", &["10.0.0.2"])]));
        become_routes(&[&via(second), &via(third), &via("10.244.4.0/26"), &leftover]);

        tell(&handle, Order::Sweep);
        become_routes(&[&via(third), &via("10.244.4.0/26")]);
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
