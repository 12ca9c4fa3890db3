//! Which routes are wanted, given what is wanted of interfaces and which of them are there.

use std::collections::{BTreeMap, BTreeSet};

use calico_netlink::{NextHop, Route};
use felix_calc::Interface;
use ipnet::IpNet;

use crate::{PROTOCOL, Settings};

/// The desired routes: each address to the interface that has it, each own block into a black hole.
///
/// `ready` are the interfaces that are up and configured, by name, with their index. Two that have one address
/// (a pod's address is given out again while its last holder is still about): the newer interface
/// wins, that is the one of the higher index (reference felix.md §2.3).
pub(crate) fn desired(
    settings: &Settings,
    wanted: &BTreeMap<String, Interface>,
    ready: &BTreeMap<String, u32>,
    black_holes: &BTreeSet<IpNet>,
) -> Vec<Route> {
    let mut holders: BTreeMap<IpNet, u32> = BTreeMap::new();
    for (name, interface) in wanted {
        let Some(index) = ready.get(name) else { continue };
        for address in &interface.addresses {
            let holder = holders.entry(*address).or_insert(*index);
            *holder = (*holder).max(*index);
        }
    }
    let supported = |network: &IpNet| settings.ipv6 || network.addr().is_ipv4();
    let pods = holders.into_iter().map(|(address, index)| {
        let metric = if address.addr().is_ipv4() { settings.metric_ipv4 } else { settings.metric_ipv6 };
        Route::unicast(address, [NextHop::dev(index)], settings.protocol).with_metric(metric)
    });
    let holes = black_holes.iter().map(|network| Route::blackhole(*network, PROTOCOL));
    pods.chain(holes).filter(|route| supported(&route.destination)).collect()
}

#[cfg(test)]
mod tests {
    use calico_netlink::RouteKind;
    use felix_calc::EndpointId;

    use super::*;

    fn interface(addresses: &[&str]) -> Interface {
        let key = felix_calc::Key::Handle("x".to_owned());
        let [orchestrator, workload, endpoint] = [const { String::new() }; 3];
        Interface {
            endpoint: EndpointId { orchestrator, workload, endpoint, key },
            container: String::new(),
            mac: String::new(),
            peer: None,
            node_addresses: BTreeSet::new(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn addresses_go_to_interfaces_that_are_ready_and_of_two_holders_to_the_newer() {
        let wanted = BTreeMap::from([
            ("cali-a".to_owned(), interface(&["10.0.0.1/32", "fd00::1/128"])),
            ("cali-b".to_owned(), interface(&["10.0.0.1/32", "10.0.0.2/32"])),
            ("cali-gone".to_owned(), interface(&["10.0.0.3/32"])),
        ]);
        let ready = BTreeMap::from([("cali-a".to_owned(), 9), ("cali-b".to_owned(), 8), ("eth0".to_owned(), 2)]);
        let holes = BTreeSet::from(["10.0.0.0/26".parse().unwrap(), "fd00::/122".parse().unwrap()]);
        let settings = Settings::default();
        let all: Vec<_> = desired(&settings, &wanted, &ready, &holes)
            .into_iter()
            .map(|route| {
                let link = route.next_hops.first().and_then(|hop| hop.interface);
                (route.destination.to_string(), link, route.metric, route.kind == RouteKind::Blackhole, route.scope)
            })
            .collect();
        let expected = [
            ("10.0.0.1/32", Some(9), 1024, false, 253),
            ("10.0.0.2/32", Some(8), 1024, false, 253),
            ("fd00::1/128", Some(9), 1024, false, 0),
            ("10.0.0.0/26", None, 0, true, 0),
            ("fd00::/122", None, 0, true, 0),
        ];
        assert_eq!(all, expected.map(|(d, l, m, b, s)| (d.to_owned(), l, m, b, s)));
        let without = Settings { ipv6: false, ..settings };
        let routes = desired(&without, &wanted, &ready, &holes);
        assert!(routes.iter().all(|route| route.destination.addr().is_ipv4()) && routes.len() == 3);
    }
}
