//! Others' routes: told where they matter, and never in the way.

use std::io::Write as _;
use std::process::{Command, Stdio};

use bgp_speaker::fib::Ownership;
use bgp_speaker::kernel::{self, Command as Order, Interest};

use crate::bed::*;

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
    // Of one that ends before it has read, the output says why.
    let _ = child.stdin.take().unwrap().write_all(text.join("\n").as_bytes());
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
