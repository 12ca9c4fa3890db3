//! Prefixes that go from us to felix and from felix to us, without a moment in which nobody has them.

use std::collections::BTreeSet;

use bgp_plan::inputs::Encap;
use bgp_speaker::fib::Ownership;
use bgp_speaker::kernel::{self, Command as Order, Handle};
use calico_netlink::{Event, Monitor};

use crate::bed::*;

const PREFIX: &str = "10.244.1.0/26";
const OURS: &str = "10.244.1.0/26 via 10.0.0.2 dev eth0 proto bird metric 1024";
const FELIXS: &str = "10.244.1.0/26 via 10.0.0.2 dev tunl0 proto 80 metric 1024 onlink";

fn owning(handle: &Handle, encap: Encap) {
    let pools = vec![pool("10.244.0.0/16", encap), pool("fd00:10::/64", encap)];
    let address_v4 = Some("10.0.0.1/24".parse().unwrap());
    tell(handle, Order::Ownership(Ownership { pools, address_v4, ..Ownership::default() }));
}

fn learn(handle: &Handle, prefix: &str, next_hop: &str) {
    tell(handle, Order::Learned(vec![learned(prefix, &[next_hop])]));
}

/// Waits until everything told before has been done: another prefix comes and goes after it.
fn settle(handle: &Handle) {
    learn(handle, "203.0.113.0/24", "10.0.0.9");
    selection_becomes("route show 203.0.113.0/24", &["203.0.113.0/24 via 10.0.0.9 dev eth0 proto bird metric 1024"]);
    tell(handle, Order::Learned(vec![(net("203.0.113.0/24"), None)]));
    selection_becomes("route show 203.0.113.0/24", &[]);
}

fn is_now(expected: &[&str]) {
    assert_eq!(routes(&format!("route show {PREFIX}")), expected);
}

/// The main table's routes for the prefix, and for its IPv6 sibling, that the kernel says to be gone.
fn removals(monitor: &mut Monitor) -> usize {
    let of_prefixes = [net(PREFIX), net("fd00:10::40/122")];
    let mut count = 0;
    loop {
        let events = monitor.receive().unwrap();
        if events.is_empty() {
            return count;
        }
        count += events
            .iter()
            .filter(|event| matches!(event, Event::RouteGone(route) if of_prefixes.contains(&route.destination)))
            .count();
    }
}

#[test]
fn a_prefix_that_becomes_felixs_keeps_our_route_until_felix_replaces_it_or_its_path_goes() {
    in_namespace(|| {
        with_more_links();
        add_tunnel();
        let handle = kernel::start().unwrap();
        owning(&handle, Encap::None);
        tell(&handle, Order::Sweep);
        learn(&handle, PREFIX, "10.0.0.2");
        selection_becomes("route show 10.244.1.0/26", &[OURS]);
        for encap in [Encap::Ipip { cross_subnet: false }, Encap::Vxlan { cross_subnet: true }] {
            let mut monitor = Monitor::open().unwrap();
            owning(&handle, encap);
            settle(&handle);
            is_now(&[OURS]);
            ip(&format!("route replace {FELIXS}"));
            settle(&handle);
            is_now(&[FELIXS]);
            // And back, in one step.
            owning(&handle, Encap::None);
            selection_becomes("route show 10.244.1.0/26", &[OURS]);
            assert_eq!(removals(&mut monitor), 0, "it was never away");
        }
        // While it is felix's and felix has not come, it goes with the path.
        owning(&handle, Encap::Vxlan { cross_subnet: false });
        settle(&handle);
        is_now(&[OURS]);
        tell(&handle, Order::Learned(vec![(net(PREFIX), None)]));
        selection_becomes("route show 10.244.1.0/26", &[]);
        // What felix has put there by then does not.
        owning(&handle, Encap::None);
        learn(&handle, PREFIX, "10.0.0.2");
        selection_becomes("route show 10.244.1.0/26", &[OURS]);
        owning(&handle, Encap::Vxlan { cross_subnet: false });
        settle(&handle);
        ip(&format!("route replace {FELIXS}"));
        tell(&handle, Order::Learned(vec![(net(PREFIX), None)]));
        settle(&handle);
        is_now(&[FELIXS]);
    });
}

#[test]
fn a_block_whose_pool_is_deleted_is_taken_over_in_one_step_unless_there_is_a_pool_that_is_unknown() {
    in_namespace(|| {
        with_more_links();
        add_tunnel();
        let handle = kernel::start().unwrap();
        owning(&handle, Encap::Vxlan { cross_subnet: false });
        tell(&handle, Order::Sweep);
        learn(&handle, PREFIX, "10.0.0.2");
        settle(&handle);
        ip(&format!("route add {FELIXS}"));
        let mut monitor = Monitor::open().unwrap();
        let without_pools = |pool_unknown| {
            let address_v4 = Some("10.0.0.1/24".parse().unwrap());
            tell(&handle, Order::Ownership(Ownership { pool_unknown, address_v4, ..Ownership::default() }));
        };
        without_pools(true);
        settle(&handle);
        is_now(&[FELIXS]);
        without_pools(false);
        selection_becomes("route show 10.244.1.0/26", &[OURS]);
        // The pool is made anew: ours stands until felix replaces it.
        owning(&handle, Encap::Vxlan { cross_subnet: false });
        settle(&handle);
        is_now(&[OURS]);
        assert_eq!(removals(&mut monitor), 0, "it was never away");
    });
}

#[test]
fn a_restarted_speaker_leaves_what_it_finds_of_felixs_prefixes_and_takes_over_what_felix_left() {
    in_namespace(|| {
        with_more_links();
        add_tunnel();
        ip(&format!("route add {OURS}"));
        ip("route add 10.244.2.0/26 via 10.0.0.2 proto bird metric 1024"); // nobody has a path to it any more
        ip("route add blackhole 10.244.3.0/26 proto bird"); // as BIRD's own blocks were
        ip("-6 route add fd00:10::40/122 via fd00::2 proto bird metric 1024");
        let handle = kernel::start().unwrap();
        owning(&handle, Encap::Vxlan { cross_subnet: false });
        for (prefix, next_hop) in [(PREFIX, "10.0.0.2"), ("10.244.3.0/26", "10.0.0.2"), ("fd00:10::40/122", "fd00::2")]
        {
            learn(&handle, prefix, next_hop);
        }
        tell(&handle, Order::Sweep);
        become_routes(&["10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024"]);
        settle(&handle);
        is_now(&[OURS]);
        let six = ["fd00:10::40/122 via fd00::2 dev eth0 metric 1024 pref medium"];
        selection_becomes("-6 route show proto bird", &six);
        // Withdrawn before anybody took it over.
        tell(&handle, Order::Learned(vec![(net("fd00:10::40/122"), None)]));
        selection_becomes("-6 route show proto bird", &[]);

        // Felix's, of both families, found at the start.
        ip(&format!("route replace {FELIXS}"));
        ip("-6 route add fd00:10::40/122 via fd00::9 dev eth0 proto 80 metric 1024");
        ip("route add 10.244.7.7/32 dev tunl0 proto 80 metric 1024");
        ip("route add 10.244.7.8/32 dev cali1 proto 80 metric 1024");
        drop(handle);
        let mut monitor = Monitor::open().unwrap();
        let handle = kernel::start().unwrap();
        owning(&handle, Encap::None);
        let both = [(PREFIX, "10.0.0.2"), ("fd00:10::40/122", "fd00::2")];
        let hosts = [("10.244.7.7/32", "10.0.0.2"), ("10.244.7.8/32", "10.0.0.2")];
        both.iter().chain(&hosts).for_each(|(prefix, next_hop)| learn(&handle, prefix, next_hop));
        selection_becomes("route show 10.244.1.0/26", &[OURS]);
        selection_becomes(
            "-6 route show fd00:10::40/122",
            &["fd00:10::40/122 via fd00::2 dev eth0 proto bird metric 1024 pref medium"],
        );
        selection_becomes("route show 10.244.7.7", &["10.244.7.7 via 10.0.0.2 dev eth0 proto bird metric 1024"]);
        tell(&handle, Order::Sweep);
        settle(&handle);
        assert_eq!(routes("route show 10.244.7.8"), ["10.244.7.8 dev cali1 proto 80 scope link metric 1024"]);
        assert_eq!(removals(&mut monitor), 0);
    });
}

#[test]
fn a_path_into_a_tunnel_that_is_not_ready_leaves_the_plain_one_where_it_is() {
    in_namespace(|| {
        with_more_links();
        let handle = kernel::start().unwrap();
        tell(&handle, Order::Sweep);
        let far = "10.0.1.2";
        let owning = |encap: Encap, awaited: &[&str]| {
            let awaited: BTreeSet<_> = awaited.iter().map(|text| text.parse().unwrap()).collect();
            let address_v4 = Some("10.0.0.1/24".parse().unwrap());
            let pools = vec![pool("10.244.0.0/16", encap)];
            tell(
                &handle,
                Order::Ownership(Ownership { pools, ipip: true, address_v4, awaited, ..Ownership::default() }),
            );
        };
        owning(Encap::None, &[far]);
        learn(&handle, PREFIX, far);
        let plain = "10.244.1.0/26 via 10.0.1.2 dev eth1 proto bird metric 1024";
        selection_becomes("route show 10.244.1.0/26", &[plain]);
        // First neither end is ready, then ours is.
        let always = Encap::Ipip { cross_subnet: false };
        owning(always, &[far]);
        settle(&handle);
        is_now(&[plain]);
        add_tunnel();
        settle(&handle);
        is_now(&[plain]);
        let mut monitor = Monitor::open().unwrap();
        owning(always, &[]);
        let tunnelled = "10.244.1.0/26 via 10.0.1.2 dev tunl0 proto bird metric 1024 onlink";
        selection_becomes("route show 10.244.1.0/26", &[tunnelled]);
        // Its end goes away again: what stands is left.
        owning(always, &[far]);
        settle(&handle);
        is_now(&[tunnelled]);
        owning(Encap::None, &[far]);
        selection_becomes("route show 10.244.1.0/26", &[plain]);
        assert_eq!(removals(&mut monitor), 0, "it was never away");
        // One on our own link needs no tunnel to wait for.
        learn(&handle, PREFIX, "10.0.0.2");
        owning(always, &["10.0.0.2"]);
        selection_becomes("route show 10.244.1.0/26", &[OURS]);
    });
}
