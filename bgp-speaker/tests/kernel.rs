//! The kernel's thread against a real kernel, in a network namespace of its own. Needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bgp_plan::inputs::{Encap, Pool};
use bgp_speaker::fib::{Learned, Ownership};
use bgp_speaker::kernel::{self, Command as Order, Handle, Interest};
use calico_netlink::{Event, Monitor};
use ipnet::IpNet;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `probe` finds nothing wrong.
#[track_caller]
fn eventually(mut probe: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + PATIENCE;
    while let Err(last) = probe() {
        assert!(Instant::now() < end, "{last}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What `ip route show` prints, one route a line: the next hops of several are joined to theirs.
fn routes(selection: &str) -> Vec<String> {
    let text = ip(selection).replace("\n\tnexthop", " nexthop");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Waits until our IPv4 routes are these.
#[track_caller]
fn become_routes(expected: &[&str]) {
    selection_becomes("route show proto bird", expected);
}

#[track_caller]
fn selection_becomes(selection: &str, expected: &[&str]) {
    eventually(|| {
        let now = routes(selection);
        if now == expected { Ok(()) } else { Err(format!("expected {expected:#?}, got {now:#?}")) }
    });
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn learned(prefix: &str, next_hops: &[&str]) -> (IpNet, Option<Learned>) {
    let next_hops: Vec<IpAddr> = next_hops.iter().map(|text| text.parse().unwrap()).collect();
    (net(prefix), Some(Learned { next_hops, local_pref: Some(100), peer: None }))
}

fn tell(handle: &Handle, order: Order) {
    handle.commands.blocking_send(order).unwrap();
}

/// Waits until a next hop is as far away as expected.
#[track_caller]
fn becomes_reachable(handle: &Handle, next_hop: &str, expected: Option<(u32, &str)>) {
    let address: IpAddr = next_hop.parse().unwrap();
    eventually(|| {
        let known = handle.reachable.borrow().get(&address).cloned();
        let reach = known
            .as_ref()
            .map(|known| known.as_ref().map(|reach| (reach.metric, reach.interface.as_deref().unwrap_or_default())));
        if reach == Some(expected) { Ok(()) } else { Err(format!("{next_hop}: expected {expected:?}, got {known:?}")) }
    });
}

fn watch(handle: &Handle, next_hops: &[&str]) {
    tell(handle, Order::NextHops(next_hops.iter().map(|text| (text.parse().unwrap(), true)).collect()));
}

fn pool(cidr: &str, encap: Encap) -> Pool {
    Pool { cidr: net(cidr), encap, disable_bgp_export: false }
}

/// What of others' routes was told, as it is now.
#[derive(Default)]
struct Heard(BTreeMap<String, String>, usize);

impl Heard {
    /// Takes what was told until there is nothing more.
    fn listen(&mut self, handle: &mut Handle) {
        while let Ok(changes) = handle.routes.try_recv() {
            self.1 += usize::from(changes.is_empty());
            for (prefix, route) in changes {
                let words = route.map(|route| {
                    let (gateway, interface) = (route.gateway, route.interface.unwrap_or_default());
                    let gateway = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                    format!("{:?}{gateway} dev {interface} metric {}", route.kind, route.metric)
                });
                match words {
                    Some(words) => drop(self.0.insert(prefix.to_string(), words)),
                    None => drop(self.0.remove(&prefix.to_string())),
                }
            }
        }
    }

    /// Waits until it was said so often that this is all.
    #[track_caller]
    fn ends(&mut self, handle: &mut Handle, times: usize) {
        eventually(|| {
            self.listen(handle);
            if self.1 == times { Ok(()) } else { Err(format!("{} ends told", self.1)) }
        });
    }

    /// Waits until exactly these are told.
    #[track_caller]
    fn becomes(&mut self, handle: &mut Handle, expected: &[(&str, &str)]) {
        let expected: BTreeMap<_, _> = expected.iter().map(|(p, r)| ((*p).to_owned(), (*r).to_owned())).collect();
        eventually(|| {
            self.listen(handle);
            if self.0 == expected { Ok(()) } else { Err(format!("expected {expected:#?}, got {:#?}", self.0)) }
        });
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
        let pools = vec![pool("10.244.0.0/16", Encap::None), pool("10.245.0.0/16", Encap::Vxlan)];
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

/// A second network on `eth1`, IPv6 on `eth0`, a pod's interface and a device that stands for the IPIP tunnel: the kernel
/// may lack the module, and routes do not ask what kind of device they lead to.
fn with_more_links() {
    for name in ["eth1", "cali1"] {
        ip(&format!("link add {name} type veth peer name {name}-far"));
        ip(&format!("link set {name}-far up"));
        ip(&format!("link set {name} up"));
    }
    ip("addr add 10.0.1.1/24 dev eth1");
    ip("addr add fd00::1/64 dev eth0 nodad");
    eventually(|| match ip("-6 route show default").is_empty() && ip("-6 route show fd00::/64").contains("eth0") {
        true => Ok(()),
        false => Err(ip("-6 route show")),
    });
}

fn add_tunnel() {
    ip("link add tunl0 type veth peer name tunl-far");
    ip("link set tunl-far up");
    ip("link set tunl0 up");
}

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
            subnet_v4: Some("10.0.0.1/24".parse().unwrap()),
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
        // A node address without its mask: nothing is known to be near (R10).
        let lone = Ownership { subnet_v4: Some("10.0.0.1/32".parse().unwrap()), ..ownership.clone() };
        tell(&handle, Order::Ownership(lone));
        become_routes(&[
            always,
            "10.246.1.0/26 via 10.0.0.2 dev tunl0 metric 1024 onlink",
            far,
            "10.246.3.0/26 metric 1024 nexthop via 10.0.0.2 dev tunl0 weight 1 onlink \
             nexthop via 10.0.1.2 dev tunl0 weight 1 onlink",
        ]);
        tell(&handle, Order::Ownership(ownership.clone()));
        become_routes(&[always, near, far, mixed]);
        ip("link set tunl0 down");
        become_routes(&[near, "10.246.3.0/26 via 10.0.0.2 dev eth0 metric 1024"]);
        ip("link set tunl0 up");
        become_routes(&[always, near, far, mixed]);
        // The class goes to felix.
        tell(&handle, Order::Ownership(Ownership { ipip: false, ..ownership }));
        become_routes(&[]);
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

#[test]
fn others_routes_are_told_by_difference_and_only_where_they_matter() {
    in_namespace(|| {
        with_more_links();
        ip("route add 10.244.0.5 dev cali1 proto 80");
        ip("route add 198.51.100.0/24 via 10.0.1.9 proto static");
        ip("route add blackhole 10.244.0.0/26 proto 80");
        let mut handle = kernel::start().unwrap();
        let mut heard = Heard::default();
        let connected = [
            ("10.0.0.0/24", "Direct dev eth0 metric 0"),
            ("10.0.1.0/24", "Direct dev eth1 metric 0"),
            ("fd00::/64", "Direct dev eth0 metric 256"),
        ];
        tell(&handle, Order::Interest(Interest::Inside(vec![net("10.244.0.0/16")])));
        let pod = [("10.244.0.5/32", "Workload dev cali1 metric 0")];
        heard.becomes(&mut handle, &[&connected[..], &pod].concat());
        heard.ends(&mut handle, 1);

        // Our own routes are not told, and another's better one takes the place of what was told.
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.2"])]));
        ip("route add 10.244.2.0/26 via 10.0.0.3 dev eth0 proto 80 metric 7");
        ip("route add 10.244.2.0/26 via 10.0.0.4 dev eth0 proto static metric 5");
        let other = [("10.244.2.0/26", "Kernel via 10.0.0.4 dev eth0 metric 5")];
        heard.becomes(&mut handle, &[&connected[..], &pod, &other].concat());
        ip("route del 10.244.2.0/26 metric 5");
        let other = [("10.244.2.0/26", "Remote via 10.0.0.3 dev eth0 metric 7")];
        heard.becomes(&mut handle, &[&connected[..], &pod, &other].concat());

        // A tunnel's address is told though it has no route; a network on an ignored interface is not.
        add_tunnel();
        ip("addr add 10.244.0.1/32 dev tunl0");
        let tunnel = [("10.244.0.1/32", "Direct dev tunl0 metric 0")];
        heard.becomes(&mut handle, &[&connected[..], &pod, &other, &tunnel].concat());
        let ignored_interfaces = vec!["eth1".to_owned()];
        tell(&handle, Order::Ownership(Ownership { ignored_interfaces, ..Ownership::default() }));
        let rest = [connected[0], connected[2]];
        heard.becomes(&mut handle, &[&rest[..], &pod, &other, &tunnel].concat());

        tell(&handle, Order::Interest(Interest::All));
        let host = [("198.51.100.0/24", "Kernel via 10.0.1.9 dev eth1 metric 0")];
        heard.becomes(&mut handle, &[&rest[..], &pod, &other, &tunnel, &host].concat());
        // The kernel says nothing of what goes with a link.
        ip("link del cali1");
        ip("link set eth1 down");
        heard.becomes(&mut handle, &[&rest[..], &other, &tunnel].concat());
        heard.ends(&mut handle, 2);
    });
}

/// Has `ip` do many things at once.
fn batch(lines: impl Iterator<Item = String>) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let text: Vec<String> = lines.collect();
    child.stdin.take().unwrap().write_all(text.join("\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_full_table_of_others_neither_floods_the_speaker_nor_holds_our_routes_up() {
    in_namespace(|| {
        let name = |n: u32| format!("100.{}.{}.{}/30", n >> 14, (n >> 6) & 255, (n << 2) & 255);
        batch((0..100_000).map(|n| format!("route add {} via 10.0.0.9 proto 186", name(n))));
        let mut handle = kernel::start().unwrap();
        let mut heard = Heard::default();
        tell(&handle, Order::Interest(Interest::Inside(vec![net("10.244.0.0/16")])));
        heard.becomes(&mut handle, &[("10.0.0.0/24", "Direct dev eth0 metric 0")]);
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.2"])]));
        become_routes(&["10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024"]);
        // It goes as fast as it came, and our route stays through all of it.
        batch((0..100_000).map(|n| format!("route del {} via 10.0.0.9 proto 186", name(n))));
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.3"])]));
        become_routes(&["10.244.1.0/26 via 10.0.0.3 dev eth0 metric 1024"]);
        heard.ends(&mut handle, 1);
        assert_eq!(heard.0.len(), 1);
        // The speaker that does not listen at all holds nothing up either.
        tell(&handle, Order::Interest(Interest::All));
        batch((0..20_000).map(|n| format!("route add {} via 10.0.0.9 proto 186", name(n))));
        tell(&handle, Order::Learned(vec![learned("10.244.1.0/26", &["10.0.0.2"])]));
        become_routes(&["10.244.1.0/26 via 10.0.0.2 dev eth0 metric 1024"]);
        eventually(|| {
            heard.listen(&mut handle);
            if heard.0.len() == 20_001 { Ok(()) } else { Err(format!("{} told", heard.0.len())) }
        });
    });
}

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
