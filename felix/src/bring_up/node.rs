//! What the Node resource should say of this node.

use std::net::IpAddr;

use calico_api::{Node, NodeInterface, NodeSpec, ObjectMeta, OrchRef};
use ipnet::IpNet;
use tracing::{info, warn};

use super::autodetect::{DetectError, Found, Interface, Outside, detect, holding, listed};
use crate::config::{AddressSetting, Backend, FamilySetting, NodeSettings};

/// Why the node cannot say where it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum AddressError {
    /// Detection failed, and nothing is stored.
    #[error("no {family} address was detected: {cause}; set {variable} or {variable}_AUTODETECTION_METHOD")]
    Undetected {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// `IP` or `IP6`.
        variable: &'static str,
        /// What detection says.
        cause: DetectError,
    },
    /// Neither family has an address.
    #[error("the node has neither an IPv4 nor an IPv6 address: set IP or IP6, to autodetect if in doubt")]
    None,
}

/// The node's addresses, each with the length of its subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The IPv4 address.
    pub(crate) ipv4: Option<IpNet>,
    /// The IPv6 address.
    pub(crate) ipv6: Option<IpNet>,
}

/// What the operator may want to know of how an address came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// It was detected.
    Detected(Found),
    /// It was not, and the stored one is kept.
    Kept {
        /// What is stored.
        stored: IpNet,
        /// Why it was not.
        cause: DetectError,
    },
    /// It was not, and none is stored.
    Undetected(String),
    /// It is on no interface.
    NotLocal(IpAddr),
}

/// When addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Before the node serves: an address that should be there is waited for.
    Start,
    /// While it serves: what is there is told.
    Again,
}

impl Note {
    /// Tells it.
    pub(crate) fn log(&self) {
        match self {
            Self::Detected(found) => {
                info!(address = %found.network, interface = found.interface, candidates = ?found.candidates, "address detected");
            }
            Self::Kept { stored, cause } => warn!(%stored, %cause, "address not detected, the stored one is kept"),
            Self::Undetected(reason) => warn!(reason, "an address is missing"),
            Self::NotLocal(address) => warn!(%address, "the node's address is on no interface that is up"),
        }
    }
}

/// What Kubernetes has as the InternalIPs of a node.
pub(crate) fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let internal = node.spec.addresses.iter().filter(|address| address.address_type.as_deref() == Some("InternalIP"));
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

/// The node's addresses by its settings, its interfaces, what is stored of it and what Kubernetes calls its internal ones.
///
/// # Errors
/// If there is none at all, or one that should be detected is not and was never stored.
pub(crate) fn addresses(
    settings: &NodeSettings,
    interfaces: &[Interface],
    stored: Option<&Node>,
    internal: &[IpAddr],
    reach: &dyn Fn(&str, bool) -> Result<IpAddr, String>,
    occasion: Occasion,
) -> Result<(Addresses, Vec<Note>), AddressError> {
    let bgp = stored.and_then(|node| node.spec.bgp.as_ref());
    let before = |text: Option<&String>| -> Option<IpNet> {
        let text = text?;
        // A bare address, as others may have written it, gets the length of its subnet.
        let bare = || text.parse::<IpAddr>().ok().map(|address| complete(interfaces, address));
        text.parse().ok().or_else(bare)
    };
    let mut notes = Vec::new();
    let mut family = |setting, ipv4, stored| {
        let reach = |destination: &str| reach(destination, ipv4);
        let outside = Outside { reach: &reach, internal };
        match address(setting, ipv4, interfaces, stored, &outside, &mut notes) {
            // One family that is out of sight must not hold up what is to be said of the other.
            Err(error @ AddressError::Undetected { .. }) if occasion == Occasion::Again => {
                notes.push(Note::Undetected(error.to_string()));
                Ok(None)
            }
            other => other,
        }
    };
    let found = Addresses {
        ipv4: family(&settings.ipv4, true, before(bgp.and_then(|bgp| bgp.ipv4_address.as_ref())))?,
        ipv6: family(&settings.ipv6, false, before(bgp.and_then(|bgp| bgp.ipv6_address.as_ref())))?,
    };
    if found == Addresses::default() && settings.backend != Backend::None {
        return Err(AddressError::None);
    }
    Ok((found, notes))
}

/// A bare IPv4 address takes the length of its subnet from the interface; a bare IPv6 address does not (Calico).
fn complete(interfaces: &[Interface], address: IpAddr) -> IpNet {
    let held = holding(interfaces, address).map(|found| found.network).filter(|_| address.is_ipv4());
    held.unwrap_or(IpNet::from(address))
}

fn address(
    setting: &FamilySetting,
    ipv4: bool,
    interfaces: &[Interface],
    stored: Option<IpNet>,
    outside: &Outside<'_>,
    notes: &mut Vec<Note>,
) -> Result<Option<IpNet>, AddressError> {
    let detected = |notes: &mut Vec<Note>| match detect(&setting.method, ipv4, interfaces, outside) {
        Ok(found) => {
            let network = found.network;
            notes.push(Note::Detected(found));
            Ok(Some(network))
        }
        Err(cause) => match stored {
            // An address that is out of sight for a moment must not take the node out of everybody's mesh.
            // Departs from Calico, whose re-detection clears it.
            Some(stored) => {
                notes.push(Note::Kept { stored, cause });
                Ok(Some(stored))
            }
            None => {
                let (family, variable) = if ipv4 { ("IPv4", "IP") } else { ("IPv6", "IP6") };
                Err(AddressError::Undetected { family, variable, cause })
            }
        },
    };
    let given = match (&setting.address, stored) {
        (AddressSetting::Autodetect, _) => return detected(notes),
        (AddressSetting::Unset, None) if ipv4 => return detected(notes),
        (AddressSetting::None, stored) => return Ok(stored),
        (AddressSetting::Unset, stored) => stored,
        (AddressSetting::Network(network), _) => Some(*network),
        (AddressSetting::Address(address), _) => Some(complete(interfaces, *address)),
    };
    if let Some(given) = given.filter(|given| holding(interfaces, given.addr()).is_none()) {
        notes.push(Note::NotLocal(given.addr()));
    }
    Ok(given)
}

/// What a Node says beside addresses follows from this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    /// The node's interfaces.
    pub(crate) interfaces: &'a [Interface],
    /// With what the names of workloads' interfaces begin; they are not listed.
    pub(crate) prefixes: &'a [String],
    /// Whether the Node is Kubernetes' own, which says by itself what it is there.
    pub(crate) in_kubernetes: bool,
}

/// The Node as it should be stored; equal to `stored` if nothing is to be written.
pub(crate) fn merged(
    name: &str,
    stored: Option<&Node>,
    settings: &NodeSettings,
    addresses: &Addresses,
    surroundings: &Surroundings<'_>,
) -> Node {
    let mut node = stored.cloned().unwrap_or_else(|| Node::new(ObjectMeta::named(name), NodeSpec::default()));
    if settings.backend != Backend::None {
        let mut bgp = node.spec.bgp.take().unwrap_or_default();
        // Compared as addresses, so that another spelling of the same is no change.
        let keep = |before: Option<String>, now: Option<IpNet>| match now {
            Some(now) if before.as_deref().and_then(|text| text.parse().ok()) == Some(now) => before,
            Some(now) => Some(now.to_string()),
            None => before,
        };
        bgp.ipv4_address = keep(bgp.ipv4_address.take(), addresses.ipv4);
        bgp.ipv6_address = keep(bgp.ipv6_address.take(), addresses.ipv6);
        bgp.as_number = settings.as_number.or(bgp.as_number);
        node.spec.bgp = Some(bgp);
    }
    if let Some(reference) = settings.kubernetes_node.as_ref().filter(|_| !surroundings.in_kubernetes) {
        let wanted = OrchRef { node_name: Some(reference.clone()), orchestrator: "k8s".to_owned() };
        if !node.spec.orch_refs.contains(&wanted) {
            node.spec.orch_refs.retain(|known| known.orchestrator != "k8s");
            node.spec.orch_refs.push(wanted);
        }
    }
    let wanted = |setting: &FamilySetting| !matches!(setting.address, AddressSetting::None | AddressSetting::Unset);
    if wanted(&settings.ipv4) || wanted(&settings.ipv6) {
        let workload = |name: &str| surroundings.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let listed = listed(surroundings.interfaces).filter(|interface| !workload(&interface.name));
        let listed = listed.map(|interface| NodeInterface {
            name: interface.name.clone(),
            addresses: interface.addresses.iter().map(|held| held.network.addr().to_string()).collect(),
        });
        node.spec.interfaces = listed.collect();
    }
    node
}

/// Another node that has one of these addresses: its name and the address.
pub(crate) fn conflict(name: &str, addresses: &Addresses, nodes: &[Node]) -> Option<(String, IpAddr)> {
    let ours: Vec<IpAddr> =
        [addresses.ipv4, addresses.ipv6].into_iter().flatten().map(|network| network.addr()).collect();
    nodes.iter().filter(|node| node.name() != name).find_map(|node| {
        let bgp = node.spec.bgp.as_ref()?;
        let theirs = [&bgp.ipv4_address, &bgp.ipv6_address].into_iter().flatten();
        let parsed =
            theirs.filter_map(|text| text.parse().map(|network: IpNet| network.addr()).or_else(|_| text.parse()).ok());
        parsed
            .into_iter()
            .find(|address: &IpAddr| ours.contains(address))
            .map(|address| (node.name().to_owned(), address))
    })
}

#[cfg(test)]
mod tests {
    use calico_api::{AsNumber, NodeBGPSpec};

    use super::super::autodetect::Address;
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> NodeSettings {
        let get = |key: &str| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        NodeSettings::parse(&get).unwrap()
    }

    fn machine() -> Vec<Interface> {
        let address = |text: &str| Address { network: text.parse().unwrap(), secondary: false };
        let addresses = vec![address("192.0.2.1/24"), address("2001:db8::1/64")];
        vec![Interface { index: 2, name: "eth0".to_owned(), up: true, mtu: 1500, addresses }]
    }

    fn node(name: &str, ipv4: Option<&str>, ipv6: Option<&str>) -> Node {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let bgp = NodeBGPSpec { ipv4_address: text(ipv4), ipv6_address: text(ipv6), ..NodeBGPSpec::default() };
        Node::new(ObjectMeta::named(name), NodeSpec { bgp: Some(bgp), ..NodeSpec::default() })
    }

    #[track_caller]
    fn check(variables: &[(&str, &str)], machine: &[Interface], stored: Option<&Node>, expected: &str) {
        let unreachable = |_: &str, _| Err("unreachable".to_owned());
        let text = |network: Option<IpNet>| network.map_or("-".to_owned(), |network| network.to_string());
        let found = match addresses(&settings(variables), machine, stored, &[], &unreachable, Occasion::Start) {
            Ok((found, _)) => format!("{} {}", text(found.ipv4), text(found.ipv6)),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{variables:?}");
    }

    #[test]
    fn each_setting_of_an_address_does_what_the_table_says() {
        let stored = node("a", Some("203.0.113.9/24"), Some("2001:db8::9/64"));
        check(&[], &machine(), None, "192.0.2.1/24 -");
        check(&[], &machine(), Some(&stored), "203.0.113.9/24 2001:db8::9/64");
        check(&[("IP", "autodetect"), ("IP6", "autodetect")], &machine(), Some(&stored), "192.0.2.1/24 2001:db8::1/64");
        check(&[("IP", "autodetect")], &[], Some(&stored), "203.0.113.9/24 2001:db8::9/64");
        check(&[("IP", "none"), ("IP6", "2001:db8::1")], &machine(), None, "- 2001:db8::1/128");
        check(&[("IP", "192.0.2.1")], &machine(), None, "192.0.2.1/24 -");
        check(&[("IP", "192.0.2.7")], &machine(), None, "192.0.2.7/32 -");
        check(
            &[("IP", "198.51.100.1/25"), ("IP6", "2001:db8::1/48")],
            &machine(),
            None,
            "198.51.100.1/25 2001:db8::1/48",
        );
        check(&[("IP", "none"), ("CALICO_NETWORKING_BACKEND", "none")], &machine(), None, "- -");
        // A bare address in the store gets the length of its subnet, where that can be known.
        check(&[], &machine(), Some(&node("a", Some("192.0.2.1"), None)), "192.0.2.1/24 -");
        check(&[("IP", "none")], &machine(), Some(&node("a", Some("192.0.2.7"), None)), "192.0.2.7/32 -");
    }

    #[test]
    fn what_is_not_detected_or_not_local_is_noted() {
        let stored = node("a", Some("203.0.113.9/24"), None);
        let unreachable = |_: &str, _| Err("unreachable".to_owned());
        let notes = |variables: &[(&str, &str)], machine: &[Interface]| {
            addresses(&settings(variables), machine, Some(&stored), &[], &unreachable, Occasion::Start).unwrap().1
        };
        let far = "203.0.113.9".parse().unwrap();
        assert_eq!(notes(&[], &machine()), [Note::NotLocal(far)]);
        assert_eq!(notes(&[("IP", "none")], &machine()), []);
        let [Note::Kept { stored, .. }] = notes(&[("IP", "autodetect")], &[])[..] else { panic!("not kept") };
        assert_eq!(stored.addr(), far);
    }

    #[test]
    fn a_node_without_an_address_is_told_what_to_set() {
        check(&[("IP", "none")], &machine(), None, &AddressError::None.to_string());
        check(
            &[("IP6", "autodetect"), ("IP", "none")],
            &[],
            None,
            "no IPv6 address was detected: no interface that is up has a global address that first-found lets through; \
             set IP6 or IP6_AUTODETECTION_METHOD",
        );
    }

    #[test]
    fn merging_twice_changes_nothing_the_second_time_and_keeps_what_others_wrote() {
        let settings = settings(&[("IP", "autodetect"), ("AS", "64513"), ("CALICO_K8S_NODE_REF", "a.example")]);
        let mut stored = node("a", Some("192.0.2.9/24"), Some("2001:DB8:0::9/64"));
        stored.metadata.labels.insert("zone".to_owned(), "z1".to_owned());
        stored.spec.bgp.as_mut().unwrap().route_reflector_cluster_id = Some("1.0.0.1".to_owned());
        let ipv4 = Some("192.0.2.1/24".parse().unwrap());
        let addresses = Addresses { ipv4, ipv6: Some("2001:db8::9/64".parse().unwrap()) };
        let mut machine = machine();
        let pod = Interface { name: "tap1".to_owned(), index: 3, ..machine[0].clone() };
        machine.push(pod);
        let prefixes = ["cali".to_owned(), "tap".to_owned()];
        let surroundings = Surroundings { interfaces: &machine, prefixes: &prefixes, in_kubernetes: false };
        let once = merged("a", Some(&stored), &settings, &addresses, &surroundings);
        let bgp = once.spec.bgp.as_ref().unwrap();
        assert_eq!(bgp.ipv4_address.as_deref(), Some("192.0.2.1/24"));
        assert_eq!(bgp.ipv6_address.as_deref(), Some("2001:DB8:0::9/64"));
        assert_eq!(bgp.as_number, Some(AsNumber(64513)));
        assert_eq!(bgp.route_reflector_cluster_id.as_deref(), Some("1.0.0.1"));
        assert_eq!(once.metadata, stored.metadata);
        assert_eq!(once.spec.orch_refs[0].node_name.as_deref(), Some("a.example"));
        assert_eq!(once.spec.interfaces[0].addresses, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(once.spec.interfaces.len(), 1, "workloads' are not listed");
        assert_eq!(merged("a", Some(&once), &settings, &addresses, &surroundings), once);
        // Kubernetes says itself which of its nodes it is: writing that would be undone, and written for ever.
        let surroundings = Surroundings { in_kubernetes: true, ..surroundings };
        assert_eq!(merged("a", Some(&stored), &settings, &addresses, &surroundings).spec.orch_refs, []);
    }

    #[test]
    fn an_address_of_another_node_is_a_conflict() {
        let ipv4 = Some("192.0.2.1/24".parse().unwrap());
        let ours = Addresses { ipv4, ipv6: Some("2001:db8::1/64".parse().unwrap()) };
        let nodes = [node("a", Some("192.0.2.1/24"), None), node("b", Some("192.0.2.2/24"), None)];
        assert_eq!(conflict("a", &ours, &nodes), None);
        let nodes = [node("c", Some("bad"), Some("2001:db8::1"))];
        assert_eq!(conflict("a", &ours, &nodes), Some(("c".to_owned(), "2001:db8::1".parse().unwrap())));
    }
}
