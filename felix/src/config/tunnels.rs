//! What is said of tunnels between nodes, and of packets that leave the pools.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::parse::{Bad, Reader, boolean};
use super::{ConfigError, Raw};

/// What IPIP adds to a packet, in octets: an IPv4 header.
pub(crate) const IPIP_OVERHEAD: u32 = 20;
/// What VXLAN adds: outer IPv4, UDP, VXLAN and inner Ethernet.
pub(crate) const VXLAN_OVERHEAD: u32 = 50;
/// The same with an outer IPv6 header.
pub(crate) const VXLAN_V6_OVERHEAD: u32 = 70;

/// The least MTU that every IPv4 host takes (RFC 791 §3.1).
pub(crate) const IPV4_MTU: u32 = 576;
/// The least MTU over which IPv6 works (RFC 8200 §5).
const IPV6_MTU: u32 = 1280;
/// The largest MTU of a tunnel device.
const LAST_MTU: u32 = 65_535;
/// The largest VXLAN network identifier (RFC 7348 §5).
const LAST_VNI: u32 = 0xff_ffff;

/// The settings of tunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelSettings {
    /// `VXLANPort`.
    pub(crate) vxlan_port: u16,
    /// `VXLANVNI`.
    pub(crate) vxlan_vni: u32,
    /// `IpInIpMtu`, `VXLANMTU`, `VXLANMTUV6`; `None`: the node's less the overhead.
    mtus: [Option<u32>; 3],
    /// `IpInIpEnabled`; `None`: as the pools need.
    pub(crate) ipip: Option<bool>,
    /// `VXLANEnabled`; `None`: as the pools need.
    pub(crate) vxlan: Option<bool>,
    /// `ExternalNodesCIDRList`.
    pub(crate) external_nodes: Vec<IpNet>,
    /// `ChecksumOffloadBroken` of `FeatureDetectOverride`; `None`: by the kernel's version.
    pub(crate) checksum_offload_broken: Option<bool>,
}

/// MTUs, in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mtus {
    /// The node's own, before anything is wrapped.
    pub(crate) node: u32,
    /// Of `tunl0`.
    pub(crate) ipip: u32,
    /// Of `vxlan.calico`.
    pub(crate) vxlan: u32,
    /// Of `vxlan-v6.calico`.
    pub(crate) vxlan_v6: u32,
}

impl TunnelSettings {
    /// The MTUs of the devices of a node with this MTU.
    pub(crate) fn mtus(&self, node: u32) -> Mtus {
        let [ipip, vxlan, vxlan_v6] = self.mtus;
        let left = |configured: Option<u32>, overhead: u32, least: u32| {
            let most = node.saturating_sub(overhead).clamp(least, LAST_MTU);
            // The device cannot have more, whatever is configured, and so a pod must not.
            configured.map_or(most, |configured| configured.min(most))
        };
        Mtus {
            node,
            ipip: left(ipip, IPIP_OVERHEAD, IPV4_MTU),
            vxlan: left(vxlan, VXLAN_OVERHEAD, IPV4_MTU),
            vxlan_v6: left(vxlan_v6, VXLAN_V6_OVERHEAD, IPV6_MTU),
        }
    }

    /// The MTUs that are configured, of IPIP, VXLAN and VXLAN over IPv6; 0 where none is.
    pub(crate) fn configured_mtus(&self) -> [u32; 3] {
        self.mtus.map(Option::unwrap_or_default)
    }

    /// `ipv6`: whether pods have IPv6, whose packets need 1,280 octets on every way.
    pub(super) fn parse(reader: &mut Reader<'_>, ipv6: bool) -> Result<Self, ConfigError> {
        let least = if ipv6 { IPV6_MTU } else { IPV4_MTU };
        let switch = "true or false; without it, as the pools need";
        let mut enabled = |name| reader.read(name, Bad::FallsBack, switch, None, |text| boolean(text).map(Some));
        let (ipip, vxlan) = (enabled("IpInIpEnabled")?, enabled("VXLANEnabled")?);
        let ipip_mtu = reader.mtu("IpInIpMtu", least)?;
        let vxlan_mtu = reader.mtu("VXLANMTU", least)?;
        let vxlan_mtu_v6 = reader.mtu("VXLANMTUV6", IPV6_MTU)?;
        reader.check_cluster_routes();
        Ok(Self {
            vxlan_port: reader.read("VXLANPort", Bad::FallsBack, "1 to 65535", 4789, |text| {
                text.parse().ok().filter(|port| *port != 0)
            })?,
            vxlan_vni: reader.read("VXLANVNI", Bad::FallsBack, "1 to 16777215", 4096, |text| {
                text.parse().ok().filter(|vni| (1..=LAST_VNI).contains(vni))
            })?,
            mtus: [ipip_mtu, vxlan_mtu, vxlan_mtu_v6],
            ipip,
            vxlan,
            external_nodes: reader.read(
                "ExternalNodesCIDRList",
                Bad::FallsBack,
                "a comma list of addresses and networks",
                Vec::new(),
                |text| text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(network).collect(),
            )?,
            checksum_offload_broken: reader.read(
                "FeatureDetectOverride",
                Bad::FallsBack,
                "a comma list of FEATURE=true or FEATURE=false, such as ChecksumOffloadBroken=true",
                None,
                checksum_offload,
            )?,
        })
    }
}

/// What packets from pools to elsewhere look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NatSettings {
    /// `NATOutgoingAddress`; `None`: the address of the interface that they leave by.
    pub(crate) address: Option<Ipv4Addr>,
    /// `NATPortRange`; `None`: the kernel's choice.
    pub(crate) ports: Option<(u16, u16)>,
    /// `NATOutgoingExclusions=IPPoolsAndHostIPs`: nodes see pods' own addresses.
    pub(crate) exclude_hosts: bool,
    /// `IptablesNATOutgoingInterfaceFilter`.
    pub(crate) interface: Option<String>,
    /// `AllowVXLANPacketsFromWorkloads`.
    pub(crate) vxlan_from_pods: bool,
    /// `AllowIPIPPacketsFromWorkloads`.
    pub(crate) ipip_from_pods: bool,
}

impl NatSettings {
    pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            address: reader.read("NATOutgoingAddress", Bad::FallsBack, "an IPv4 address", None, |text| match text {
                "" => Some(None),
                text => text.parse().ok().map(Some),
            })?,
            ports: reader.read("NATPortRange", Bad::FallsBack, "FIRST:LAST, or 0 for any", None, ports)?,
            exclude_hosts: reader.read(
                "NATOutgoingExclusions",
                Bad::FallsBack,
                "IPPoolsOnly or IPPoolsAndHostIPs",
                false,
                |text| match text.to_lowercase().as_str() {
                    "ippoolsonly" => Some(false),
                    "ippoolsandhostips" => Some(true),
                    _ => None,
                },
            )?,
            interface: reader.read(
                "IptablesNATOutgoingInterfaceFilter",
                Bad::FallsBack,
                "an interface's name of at most 15 characters, or the beginning of some and a +",
                None,
                |text| match text {
                    "" => Some(None),
                    text => (text.len() <= 15 && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'/'))
                        .then(|| Some(text.to_owned())),
                },
            )?,
            vxlan_from_pods: reader.flag("AllowVXLANPacketsFromWorkloads", false)?,
            ipip_from_pods: reader.flag("AllowIPIPPacketsFromWorkloads", false)?,
        })
    }
}

impl Reader<'_> {
    /// An MTU; 0 is none. One that cannot be becomes the nearest that can.
    fn mtu(&mut self, name: &str, least: u32) -> Result<Option<u32>, ConfigError> {
        let allowed = "0 for automatic, or octets";
        let mtu = self.read(name, Bad::FallsBack, allowed, 0, |text| text.parse::<i64>().ok())?;
        if mtu == 0 {
            return Ok(None);
        }
        let clamped = mtu.clamp(least.into(), LAST_MTU.into());
        if clamped != mtu {
            let place = self.raw.get(name).map_or(name, |written| written.place.as_str());
            self.bad(format!("{place} is {mtu}; a device can have {least} to {LAST_MTU}; {clamped} is used"));
        }
        Ok(u32::try_from(clamped).ok())
    }

    /// Who programs which routes is decided alike by Felix and bgp-speaker, from what both can see: FelixConfiguration
    /// `default`. Departs from Calico, where each daemon looks at its own configuration alone, wherever that is written.
    fn check_cluster_routes(&mut self) {
        let value = self.raw.common(CLUSTER_ROUTES).map(|written| &written.value);
        if let Some(written) = self.raw.get(CLUSTER_ROUTES).filter(|written| Some(&written.value) != value) {
            let (place, value) = (&written.place, &written.value);
            self.problems.push(format!(
                "{place} is \"{value}\" and counts for nothing there, for bgp-speaker does not see it; write it into \
                 FelixConfiguration default"
            ));
        }
    }
}

/// The parameter that two daemons must see alike.
pub(super) const CLUSTER_ROUTES: &str = "ProgramClusterRoutes";

impl Raw {
    /// What Felix goes by for a parameter, if it is written anywhere.
    pub(super) fn effective(&self, name: &str) -> Option<&str> {
        let written = if name == CLUSTER_ROUTES { self.common(name) } else { self.get(name) };
        written.map(|written| written.value.as_str())
    }
}

/// An address, or a network.
fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>()
        .map(|network| network.trunc())
        .ok()
        .or_else(|| Some(IpNet::from(text.parse::<std::net::IpAddr>().ok()?)))
}

/// `1024:2048`, `1024-2048`, one port, or 0 for any.
fn ports(text: &str) -> Option<Option<(u16, u16)>> {
    let (first, last) = match text.split_once([':', '-']) {
        Some((first, last)) => (first.trim().parse().ok()?, last.trim().parse().ok()?),
        None => (text.parse::<u16>().ok()?, text.parse().ok()?),
    };
    match (first, last) {
        (0, 0) => Some(None),
        (first, last) if first != 0 && first <= last => Some(Some((first, last))),
        _ => None,
    }
}

/// What a list of features says of checksums; other features are those of other dataplanes.
fn checksum_offload(text: &str) -> Option<Option<bool>> {
    let mut broken = None;
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (feature, value) = part.split_once('=')?;
        let value = boolean(value.trim())?;
        if feature.trim().eq_ignore_ascii_case("ChecksumOffloadBroken") {
            broken = Some(value);
        }
    }
    Some(broken)
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn read(environment: &[(&str, &str)]) -> Config {
        let variables = environment.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        let raw = Raw::read(&[], variables, None).unwrap();
        Config::parse(&raw, &|_| None).unwrap()
    }

    #[test]
    fn mtus_are_the_nodes_less_the_overhead_unless_they_are_configured() {
        let mtus = |environment: &[(&str, &str)], node| {
            let Mtus { node: _, ipip, vxlan, vxlan_v6 } = read(environment).tunnels.mtus(node);
            [ipip, vxlan, vxlan_v6]
        };
        assert_eq!(mtus(&[], 1500), [1480, 1450, 1430]);
        assert_eq!(mtus(&[], 9000), [8980, 8950, 8930]);
        assert_eq!(mtus(&[], 1300), [1280, 1250, 1280]);
        let configured = [("FELIX_IPINIPMTU", "1440"), ("FELIX_VXLANMTU", "0"), ("FELIX_VXLANMTUV6", "1400")];
        assert_eq!(mtus(&configured, 1500), [1440, 1450, 1400]);
        assert_eq!(mtus(&configured, 1420), [1400, 1370, 1350], "more than the underlay carries no device has");
    }

    #[test]
    fn an_mtu_that_cannot_be_becomes_the_nearest_that_can_and_is_named() {
        let bad = [("FELIX_IPINIPMTU", "1000"), ("FELIX_VXLANMTU", "70000"), ("FELIX_VXLANMTUV6", "1279")];
        let config = read(&bad);
        let mtus = config.tunnels.mtus(1500);
        assert_eq!([mtus.ipip, mtus.vxlan, mtus.vxlan_v6], [1280, 1450, 1280]);
        assert_eq!(
            config.problems,
            [
                "environment variable FELIX_IPINIPMTU is 1000; a device can have 1280 to 65535; 1280 is used",
                "environment variable FELIX_VXLANMTU is 70000; a device can have 1280 to 65535; 65535 is used",
                "environment variable FELIX_VXLANMTUV6 is 1279; a device can have 1280 to 65535; 1280 is used",
            ]
        );
        assert_eq!(config.tunnels.configured_mtus(), [1280, 65_535, 1280]);
        let without_ipv6 = [bad[0], bad[1], ("FELIX_IPV6SUPPORT", "false")];
        assert_eq!(read(&without_ipv6).tunnels.configured_mtus(), [1000, 65_535, 0]);
    }

    #[test]
    fn numbers_out_of_range_fall_back_and_are_named() {
        let config = read(&[("FELIX_VXLANPORT", "0"), ("FELIX_VXLANVNI", "16777216"), ("FELIX_NATPORTRANGE", "9:8")]);
        assert_eq!((config.tunnels.vxlan_port, config.tunnels.vxlan_vni, config.nat.ports), (4789, 4096, None));
        assert_eq!(config.problems.len(), 3, "{:?}", config.problems);
    }

    #[test]
    fn nat_is_as_the_parameters_say() {
        let config = read(&[
            ("FELIX_NATPORTRANGE", "32768:65535"),
            ("FELIX_NATOUTGOINGADDRESS", "192.0.2.7"),
            ("FELIX_NATOUTGOINGEXCLUSIONS", "IPPoolsAndHostIPs"),
            ("FELIX_IPTABLESNATOUTGOINGINTERFACEFILTER", "eth+"),
            ("FELIX_ALLOWIPIPPACKETSFROMWORKLOADS", "true"),
        ]);
        let expected = NatSettings {
            address: Some(Ipv4Addr::new(192, 0, 2, 7)),
            ports: Some((32768, 65535)),
            exclude_hosts: true,
            interface: Some("eth+".to_owned()),
            vxlan_from_pods: false,
            ipip_from_pods: true,
        };
        assert_eq!((config.nat, config.problems), (expected, Vec::<String>::new()));
        assert_eq!(ports("0"), Some(None));
        assert_eq!(ports("80"), Some(Some((80, 80))));
    }

    #[test]
    fn switches_and_lists_are_read() {
        let config = read(&[
            ("FELIX_VXLANENABLED", "false"),
            ("FELIX_EXTERNALNODESCIDRLIST", "198.51.100.0/24, 192.0.2.9"),
            ("FELIX_FEATUREDETECTOVERRIDE", "SNATFullyRandom=true, ChecksumOffloadBroken=false"),
            ("FELIX_PROGRAMCLUSTERROUTES", "Enabled"),
        ]);
        assert_eq!((config.tunnels.ipip, config.tunnels.vxlan), (None, Some(false)));
        let external: Vec<String> = config.tunnels.external_nodes.iter().map(ToString::to_string).collect();
        assert_eq!(external, ["198.51.100.0/24", "192.0.2.9/32"]);
        assert_eq!(config.tunnels.checksum_offload_broken, Some(false));
        assert!(config.problems[0].ends_with("write it into FelixConfiguration default"), "{:?}", config.problems);
    }
}
