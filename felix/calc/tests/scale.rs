//! Thousands of nodes: what one change costs must not depend on how many there are.

#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "how long it takes is the question")]

mod world;

use std::time::{Duration, Instant};

use calico_api::EncapMode;
use felix_calc::{Calc, Change, Routing, Settings, Update};

use self::world::*;

const NODES: u32 = 5_000;
const BLOCKS_EACH: u32 = 12;

fn host(n: u32) -> String {
    format!("10.{}.{}.{}/16", n >> 16, (n >> 8) & 255, n & 255)
}

fn network(n: u32) -> String {
    let address = std::net::Ipv4Addr::from((100 << 24) | (n << 6));
    format!("{address}/26")
}

#[test]
fn five_thousand_nodes_are_calculated_soon_and_one_change_touches_only_its_own() {
    let mut calc = Calc::new(Settings {
        node: "node-1".to_owned(),
        prefixes: vec!["cali".to_owned()],
        routing: Routing::Bgp,
        felix_programs: None,
        external_nodes: Vec::new(),
    });
    let name = |n: u32| format!("node-{n}");
    let tunnel = |n: u32| std::net::Ipv4Addr::from((100 << 24) | ((n * BLOCKS_EACH) << 6) | 1).to_string();
    let nodes = (1..=NODES).map(|n| node(Some(&host(n)), &name(n)).vxlan(&tunnel(n)).update());
    let blocks = (NODES..).take(0).chain(BLOCKS_EACH..(NODES + 1) * BLOCKS_EACH);
    let blocks = blocks.map(|n| block(&network(n), &format!("host:{}", name(n / BLOCKS_EACH)), &[]));
    let mut updates: Vec<Update> = nodes.chain(blocks).collect();
    updates.push(pool("p", "100.0.0.0/8", None, Some(EncapMode::Always)));
    updates.push(Update::InSync);
    let start = Instant::now();
    let changes: usize = updates.into_iter().map(|update| calc.update(update).len()).sum();
    let sync = start.elapsed();
    let routes = (NODES - 1) * BLOCKS_EACH;
    assert!(changes >= usize::try_from(routes + NODES).unwrap(), "{changes}");

    // A node that moves, and one that comes back: its twelve routes, its far end, and its places in two sets.
    let mut slowest = Duration::ZERO;
    for n in (2..1000).step_by(7) {
        for address in [host(n + 20_000), host(n)] {
            let update = node(Some(&address), &name(n)).vxlan(&tunnel(n)).update();
            let start = Instant::now();
            let changes = calc.update(update);
            slowest = slowest.max(start.elapsed());
            assert_eq!(changes.iter().filter(|change| matches!(change, Change::Vtep { .. })).count(), 1);
            assert!(changes.len() <= 5, "{changes:?}");
        }
        let update = block(&network(n * BLOCKS_EACH + 3), "host:node-4000", &[]);
        let start = Instant::now();
        let changes = calc.update(update);
        slowest = slowest.max(start.elapsed());
        assert_eq!(changes.len(), 1, "{changes:?}");
    }
    println!("sync {sync:?}, slowest change {slowest:?}, a change takes {} octets", size_of::<Change>());
    // Without optimisation, and on a machine that does other work, too.
    assert!(sync < Duration::from_secs(20), "{sync:?}");
    assert!(slowest < Duration::from_millis(100), "{slowest:?}");
}
