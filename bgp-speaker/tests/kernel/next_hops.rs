//! Where next hops lead: tunnels, other learned routes, gateways.

use std::collections::BTreeSet;

use bgp_plan::inputs::Encap;
use bgp_speaker::fib::{Learned, Ownership};
use bgp_speaker::kernel::{self, Command as Order};

use crate::bed::*;

#[test]
fn ipip_routes_go_through_the_tunnel_outside_of_the_nodes_subnet_and_wait_for_it() {
    in_namespace(|| {
        with_more_links();
        let handle = kernel::start().unwrap();
        let ownership = Ownership {
            pools: vec![
                pool("10.245.0.0/16", Encap::Ipip { cross_subnet: false }),
                pool("10.246.0.0/16", Encap::Ipip { cross_subnet: true }),
            ],
            ipip: true,
            address_v4: Some("10.0.0.1/24".parse().unwrap()),
            ..Ownership::default()
        };
        tell(&handle, Order::Ownership(ownership.clone()));
        tell(
            &handle,
            Order::Learned(vec![
                learned("10.245.1.0/26", &["10.0.0.2", "10.0.1.2"]),
                learned("10.246.1.0/26", &["10.0.0.2"]),
                learned("10.246.2.0/26", &["10.0.1.2"]),
                learned("10.246.3.0/26", &["10.0.0.2", "10.0.1.2"]),
            ]),
        );
        tell(&handle, Order::Sweep);
        let near = "10.246.1.0/26 via 10.0.0.2 dev eth0 metric 1024";
        become_routes(&[near, "10.246.3.0/26 via 10.0.0.2 dev eth0 metric 1024"]);
        assert_eq!(handle.status.borrow().held_back, 2);
        add_tunnel();
        let always = "10.245.1.0/26 metric 1024 nexthop via 10.0.0.2 dev tunl0 weight 1 onlink \
                      nexthop via 10.0.1.2 dev tunl0 weight 1 onlink";
        let far = "10.246.2.0/26 via 10.0.1.2 dev tunl0 metric 1024 onlink";
        let mixed = "10.246.3.0/26 metric 1024 nexthop via 10.0.0.2 dev eth0 weight 1 \
                     nexthop via 10.0.1.2 dev tunl0 weight 1 onlink";
        become_routes(&[always, near, far, mixed]);
        // A node address without its mask is in the subnet of its interface; of one that nobody holds, nothing is known to
        // be near (R10).
        let lone = |address: &str| Ownership { address_v4: Some(address.parse().unwrap()), ..ownership.clone() };
        tell(&handle, Order::Ownership(lone("10.0.0.77/32")));
        let elsewhere = ownership.clone();
        let ownership = lone("10.0.0.1/32");
        become_routes(&[
            always,
            "10.246.1.0/26 via 10.0.0.2 dev tunl0 metric 1024 onlink",
            far,
            "10.246.3.0/26 metric 1024 nexthop via 10.0.0.2 dev tunl0 weight 1 onlink \
             nexthop via 10.0.1.2 dev tunl0 weight 1 onlink",
        ]);
        tell(&handle, Order::Ownership(ownership.clone()));
        become_routes(&[always, near, far, mixed]);
        ip("addr add 10.0.0.1/16 dev eth0");
        ip("addr del 10.0.0.1/24 dev eth0");
        let wide = "10.246.2.0/26 via 10.0.1.2 dev eth1 proto bird metric 1024";
        selection_becomes("route show 10.246.2.0/26", &[wide]);
        ip("addr add 10.0.0.1/24 dev eth0");
        ip("addr del 10.0.0.1/16 dev eth0");
        become_routes(&[always, near, far, mixed]);
        tell(&handle, Order::Ownership(elsewhere));
        become_routes(&[always, near, far, mixed]);
        ip("link set tunl0 down");
        become_routes(&[near, "10.246.3.0/26 via 10.0.0.2 dev eth0 metric 1024"]);
        ip("link set tunl0 up");
        become_routes(&[always, near, far, mixed]);
        // The class goes to felix: what stands is left for it to replace, and goes with its path.
        tell(&handle, Order::Ownership(Ownership { ipip: false, ..ownership }));
        tell(&handle, Order::Learned(vec![(net("10.246.1.0/26"), None)]));
        become_routes(&[always, far, mixed]);
    });
}

#[test]
fn next_hops_resolve_through_other_learned_routes_and_follow_them() {
    in_namespace(|| {
        with_more_links();
        let handle = kernel::start().unwrap();
        tell(&handle, Order::Sweep);
        watch(&handle, &["10.244.5.7"]);
        // A network behind a pod of another node (R18): only that node's block tells where the pod is.
        tell(&handle, Order::Learned(vec![learned("203.0.113.0/24", &["10.244.5.7"])]));
        becomes_reachable(&handle, "10.244.5.7", None);
        become_routes(&[]);
        tell(&handle, Order::Learned(vec![learned("10.244.5.0/26", &["10.0.0.2"])]));
        becomes_reachable(&handle, "10.244.5.7", Some((1, "eth0")));
        become_routes(&[
            "10.244.5.0/26 via 10.0.0.2 dev eth0 metric 1024",
            "203.0.113.0/24 via 10.0.0.2 dev eth0 metric 1024",
        ]);
        tell(&handle, Order::Learned(vec![learned("10.244.5.0/26", &["10.0.1.2"])]));
        becomes_reachable(&handle, "10.244.5.7", Some((1, "eth1")));
        become_routes(&[
            "10.244.5.0/26 via 10.0.1.2 dev eth1 metric 1024",
            "203.0.113.0/24 via 10.0.1.2 dev eth1 metric 1024",
        ]);
        ip("link set eth1 down");
        becomes_reachable(&handle, "10.244.5.7", None);
        become_routes(&[]);
        assert_eq!(handle.status.borrow().held_back, 2);
    });
}

#[test]
fn a_migrated_pods_route_stands_beside_the_old_one_and_goes_with_its_path() {
    in_namespace(|| {
        with_more_links();
        ip("route add blackhole 10.244.0.0/26 proto 80");
        ip("route add 10.244.0.5 dev cali1 proto 80 metric 1024");
        let handle = kernel::start().unwrap();
        let blocks = BTreeSet::from([net("10.244.0.0/26")]);
        let pools = vec![pool("10.244.0.0/16", Encap::None)];
        tell(&handle, Order::Ownership(Ownership { pools, blocks, ..Ownership::default() }));
        tell(&handle, Order::Sweep);
        let with = |local_pref| {
            let (prefix, learned) = learned("10.244.0.5/32", &["10.0.0.2"]);
            vec![(prefix, learned.map(|learned| Learned { local_pref: Some(local_pref), ..learned }))]
        };
        let pods = [
            "10.244.0.5 via 10.0.0.2 dev eth0 proto bird metric 512",
            "10.244.0.5 dev cali1 proto 80 scope link metric 1024",
        ];
        tell(&handle, Order::Learned(with(2_147_483_135)));
        selection_becomes("route show 10.244.0.5", &pods);
        tell(&handle, Order::Learned(with(2_147_482_623)));
        selection_becomes("route show 10.244.0.5", &pods[1..]);
        assert_eq!(handle.status.borrow().elsewhere, 1);
        // A lent address inside our block is its borrower's (R2).
        tell(&handle, Order::Learned(vec![learned("10.244.0.6/32", &["10.0.0.2"])]));
        become_routes(&["10.244.0.6 via 10.0.0.2 dev eth0 metric 1024"]);
    });
}

#[test]
fn peers_beyond_a_gateway_have_host_routes_that_count_for_next_hops() {
    in_namespace(|| {
        with_more_links();
        ip("route add 192.0.2.9 via 10.0.0.9 proto bird"); // of an earlier run
        let handle = kernel::start().unwrap();
        watch(&handle, &["192.0.2.1", "2001:db8::1"]);
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["192.0.2.1"])]));
        becomes_reachable(&handle, "192.0.2.1", None);
        let statics = |pairs: &[(&str, &str)]| {
            let parsed = pairs.iter().map(|(peer, gateway)| (peer.parse().unwrap(), gateway.parse().unwrap()));
            tell(&handle, Order::Statics(parsed.collect()));
        };
        statics(&[("192.0.2.1", "10.0.0.7"), ("192.0.2.2", "10.0.2.7"), ("2001:db8::1", "fd00::7")]);
        let (block, earlier) = ("10.244.1.0/26 via 10.0.0.7 dev eth0 metric 1024", "192.0.2.9 via 10.0.0.9 dev eth0");
        become_routes(&[block, "192.0.2.1 via 10.0.0.7 dev eth0", earlier]);
        selection_becomes("-6 route show proto bird", &["2001:db8::1 via fd00::7 dev eth0 metric 1024 pref medium"]);
        becomes_reachable(&handle, "192.0.2.1", Some((1, "eth0")));
        becomes_reachable(&handle, "2001:db8::1", Some((1, "eth0")));
        tell(&handle, Order::Sweep);
        become_routes(&[block, "192.0.2.1 via 10.0.0.7 dev eth0"]);

        // The other's gateway comes onto a link; a path for the peer itself changes nothing, of the same key least of all.
        let own_path = vec![learned("192.0.2.1/32", &["10.0.1.2"]), learned("2001:db8::1/128", &["fd00::2"])];
        tell(&handle, Order::Learned(own_path));
        ip("addr add 10.0.2.1/24 dev eth1");
        become_routes(&[block, "192.0.2.1 via 10.0.0.7 dev eth0", "192.0.2.2 via 10.0.2.7 dev eth1"]);
        selection_becomes("-6 route show proto bird", &["2001:db8::1 via fd00::7 dev eth0 metric 1024 pref medium"]);
        // It is put back if somebody removes it.
        ip("route del 192.0.2.1");
        become_routes(&[block, "192.0.2.1 via 10.0.0.7 dev eth0", "192.0.2.2 via 10.0.2.7 dev eth1"]);
        statics(&[("192.0.2.1", "10.0.1.7")]);
        become_routes(&["10.244.1.0/26 via 10.0.1.7 dev eth1 metric 1024", "192.0.2.1 via 10.0.1.7 dev eth1"]);
        // Without it the path for the peer counts.
        selection_becomes("-6 route show proto bird", &["2001:db8::1 via fd00::2 dev eth0 metric 1024 pref medium"]);
        statics(&[]);
        become_routes(&[
            "10.244.1.0/26 via 10.0.1.2 dev eth1 metric 1024",
            "192.0.2.1 via 10.0.1.2 dev eth1 metric 1024",
        ]);
    });
}
