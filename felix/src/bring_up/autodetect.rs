//! Which address of this node is the one that others should use (reference bgp.md §3.2).

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::Method;

/// Beginnings of the names of interfaces that are not the node's uplink.
const SKIPPED: &[&str] = &[
    "docker",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "br-",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
];

/// An interface as far as detection looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its index.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Whether it is up.
    pub(crate) up: bool,
    /// Its MTU in octets.
    pub(crate) mtu: u32,
    /// Its addresses in the kernel's order, each with the length of its subnet.
    pub(crate) addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// With the length of its subnet.
    pub(crate) network: IpNet,
    /// Whether the kernel calls it secondary: another of the same subnet was there first.
    pub(crate) secondary: bool,
}

/// An address that was found, and what else could have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The address with the length of its subnet.
    pub(crate) network: IpNet,
    /// On which interface.
    pub(crate) interface: String,
    /// All that the method let through, the chosen one first: for the log.
    pub(crate) candidates: Vec<String>,
}

/// Why no address was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DetectError {
    /// Nothing fits.
    #[error("no interface that is up has a global address that {0} lets through")]
    Nothing(String),
    /// The destination of can-reach is out of reach.
    #[error("can-reach={destination}: {reason}")]
    Unreachable {
        /// The destination.
        destination: String,
        /// The kernel's or the resolver's words.
        reason: String,
    },
    /// Kubernetes has not said yet.
    #[error("the Kubernetes node has no InternalIP of this family yet; kubelet or the cloud provider sets it")]
    Later,
    /// The address is not on any interface.
    #[error("{0} is on no interface of this node that is up")]
    NotLocal(IpAddr),
}

/// Where the two methods that look beyond the interfaces get their answer from.
pub(crate) struct Outside<'a> {
    /// The local address from which a destination is reached.
    pub(crate) reach: &'a dyn Fn(&str) -> Result<IpAddr, String>,
    /// The addresses of type InternalIP on the Node.
    pub(crate) internal: &'a [IpAddr],
}

/// Chooses an address of the family by `method`.
///
/// Interfaces are examined from the highest index to the lowest, as Calico does.
/// Departs from Calico: interfaces that are down are passed over, and of one interface a primary address
/// comes before a secondary, which is more often a virtual address that will move away.
///
/// # Errors
/// If there is none; [`DetectError::Later`] if asking again may help.
pub(crate) fn detect(
    method: &Method,
    ipv4: bool,
    interfaces: &[Interface],
    outside: &Outside<'_>,
) -> Result<Found, DetectError> {
    let any = |_: &IpNet| true;
    let skipped = |name: &str| SKIPPED.iter().any(|prefix| name.starts_with(prefix));
    match method {
        Method::FirstFound => first(interfaces, ipv4, "first-found", |name| !skipped(name), any),
        Method::Interface(patterns) => {
            let wanted = |name: &str| patterns.iter().any(|pattern| pattern.is_match(name));
            first(interfaces, ipv4, "interface=", wanted, any)
        }
        Method::SkipInterface(patterns) => {
            let wanted = |name: &str| !skipped(name) && !patterns.iter().any(|pattern| pattern.is_match(name));
            first(interfaces, ipv4, "skip-interface=", wanted, any)
        }
        Method::Cidr(networks) => {
            let inside = |network: &IpNet| networks.iter().any(|wanted| wanted.contains(&network.addr()));
            first(interfaces, ipv4, "cidr=", |_| true, inside)
        }
        Method::CanReach(destination) => {
            let unreachable = |reason| DetectError::Unreachable { destination: destination.clone(), reason };
            let local = (outside.reach)(destination).map_err(unreachable)?;
            holding(interfaces, local).ok_or(DetectError::NotLocal(local))
        }
        Method::KubernetesInternalIp => {
            let internal = outside.internal.iter().find(|address| address.is_ipv4() == ipv4);
            let internal = *internal.ok_or(DetectError::Later)?;
            holding(interfaces, internal).ok_or(DetectError::NotLocal(internal))
        }
    }
}

/// The interface that holds `address`, and its subnet's length there.
pub(crate) fn holding(interfaces: &[Interface], address: IpAddr) -> Option<Found> {
    let up = interfaces.iter().filter(|interface| interface.up);
    let mut all = up.flat_map(|interface| interface.addresses.iter().map(move |held| (interface, held.network)));
    let (interface, network) = all.find(|(_, network)| network.addr() == address)?;
    let candidates = vec![format!("{network} on {}", interface.name)];
    Some(Found { network, interface: interface.name.clone(), candidates })
}

/// The interfaces that `spec.interfaces` of the Node lists.
pub(crate) fn listed(interfaces: &[Interface]) -> impl Iterator<Item = &Interface> {
    let skipped = |name: &str| SKIPPED.iter().any(|prefix| name.starts_with(prefix));
    interfaces.iter().filter(move |interface| !skipped(&interface.name) && !interface.addresses.is_empty())
}

fn first(
    interfaces: &[Interface],
    ipv4: bool,
    method: &str,
    name: impl Fn(&str) -> bool,
    address: impl Fn(&IpNet) -> bool,
) -> Result<Found, DetectError> {
    let mut ordered: Vec<&Interface> = interfaces.iter().filter(|interface| interface.up).collect();
    ordered.sort_by_key(|interface| std::cmp::Reverse(interface.index));
    let mut candidates = Vec::new();
    for interface in ordered.into_iter().filter(|interface| name(&interface.name)) {
        let usable = |held: &&Address| held.network.addr().is_ipv4() == ipv4 && is_global(held.network.addr());
        let mut held: Vec<&Address> = interface.addresses.iter().filter(usable).collect();
        held.retain(|held| address(&held.network));
        held.sort_by_key(|held| held.secondary); // stable: the kernel's order within each half
        candidates.extend(held.into_iter().map(|held| (held.network, &interface.name)));
    }
    let Some((network, interface)) = candidates.first().map(|(network, name)| (*network, (*name).clone())) else {
        return Err(DetectError::Nothing(method.to_owned()));
    };
    let candidates = candidates.into_iter().map(|(network, name)| format!("{network} on {name}")).collect();
    Ok(Found { network, interface, candidates })
}

/// Whether others could reach a node by it: private and unique-local addresses are fine.
pub(crate) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_unspecified()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || address.is_unspecified())
        }
    }
}

/// The local address of a socket connected to `destination`, port 80; nothing is sent.
pub(crate) fn reach(destination: &str, ipv4: bool) -> Result<IpAddr, String> {
    use std::net::{Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};
    let resolved = (destination, 80).to_socket_addrs().map_err(|error| error.to_string())?;
    let of_family = resolved.into_iter().find(|address| address.is_ipv4() == ipv4);
    let target = of_family.ok_or_else(|| "it has no address of this family".to_owned())?;
    let any: IpAddr = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let local = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(target)?;
        socket.local_addr()
    });
    local.map(|local| local.ip()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, up: bool, addresses: &[&str]) -> Interface {
        // A leading ! marks a secondary address.
        let address = |text: &&str| Address {
            network: text.trim_start_matches('!').parse().unwrap(),
            secondary: text.starts_with('!'),
        };
        Interface { index, name: name.to_owned(), up, mtu: 1500, addresses: addresses.iter().map(address).collect() }
    }

    fn machine() -> Vec<Interface> {
        vec![
            interface(1, "lo", true, &["127.0.0.1/8", "10.9.9.9/32", "::1/128"]),
            interface(2, "eth0", true, &["!192.0.2.9/24", "192.0.2.1/24", "fe80::1/64", "2001:db8::1/64"]),
            interface(3, "eth1", true, &["169.254.7.7/16", "198.51.100.1/25"]),
            interface(4, "eth2", false, &["203.0.113.1/24"]),
            interface(7, "docker0", true, &["172.17.0.1/16"]),
            interface(8, "cali0d7763386da", true, &["169.254.1.1/32"]),
            interface(9, "br0", true, &["224.0.0.5/32"]),
        ]
    }

    fn run(method: &str, ipv4: bool, internal: &[&str]) -> Result<Found, DetectError> {
        let (key, value) = (if ipv4 { "IP_AUTODETECTION_METHOD" } else { "IP6_AUTODETECTION_METHOD" }, method);
        let get = |name: &str| (name == key).then(|| value.to_owned());
        let settings = crate::config::NodeSettings::parse(&get).unwrap();
        let method = if ipv4 { settings.ipv4.method } else { settings.ipv6.method };
        let internal: Vec<IpAddr> = internal.iter().map(|text| text.parse().unwrap()).collect();
        let reach = |destination: &str| match destination {
            "192.0.2.254" => Ok("192.0.2.1".parse().unwrap()),
            "8.8.8.8" => Ok("10.0.0.1".parse().unwrap()),
            _ => Err("Network is unreachable".to_owned()),
        };
        detect(&method, ipv4, &machine(), &Outside { reach: &reach, internal: &internal })
    }

    #[track_caller]
    fn check(method: &str, ipv4: bool, internal: &[&str], expected: &str) {
        let found = match run(method, ipv4, internal) {
            Ok(found) => found.network.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{method}");
    }

    #[test]
    fn each_method_finds_its_address() {
        check("first-found", true, &[], "198.51.100.1/25");
        check("first-found", false, &[], "2001:db8::1/64");
        check("interface=eth0", true, &[], "192.0.2.1/24");
        check("interface=nothing,docker", true, &[], "172.17.0.1/16");
        check("interface=h0,h1", true, &[], "198.51.100.1/25");
        check("skip-interface=eth1", true, &[], "192.0.2.1/24");
        check("cidr=10.0.0.0/8,192.0.2.8/29", true, &[], "192.0.2.9/24");
        check("cidr=10.9.0.0/16", true, &[], "10.9.9.9/32");
        check("can-reach=192.0.2.254", true, &[], "192.0.2.1/24");
        check("kubernetes-internal-ip", true, &["2001:db8::1", "192.0.2.9"], "192.0.2.9/24");
        check("kubernetes-internal-ip", false, &["192.0.2.9", "2001:db8::1"], "2001:db8::1/64");
    }

    #[test]
    fn each_failure_says_what_is_missing() {
        let none = |method: &str| format!("no interface that is up has a global address that {method} lets through");
        check("interface=eth2", true, &[], &none("interface="));
        check("skip-interface=eth", true, &[], &none("skip-interface="));
        check("interface=eth1", false, &[], &none("interface="));
        check("can-reach=nowhere", true, &[], "can-reach=nowhere: Network is unreachable");
        check("can-reach=8.8.8.8", true, &[], "10.0.0.1 is on no interface of this node that is up");
        check(
            "kubernetes-internal-ip",
            true,
            &["203.0.113.1"],
            "203.0.113.1 is on no interface of this node that is up",
        );
        assert_eq!(run("kubernetes-internal-ip", true, &[]), Err(DetectError::Later));
    }

    #[test]
    fn the_log_gets_all_candidates_in_order() {
        let found = run("first-found", true, &[]).unwrap();
        assert_eq!(found.interface, "eth1");
        assert_eq!(found.candidates, ["198.51.100.1/25 on eth1", "192.0.2.1/24 on eth0", "192.0.2.9/24 on eth0"]);
    }
}
