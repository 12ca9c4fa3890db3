//! The pools that a cluster without any gets (reference bgp.md §3.5), and what the pools make of the MTU.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_api::{EncapMode, IPPool, IPPoolSpec, ObjectMeta};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{DefaultPool, IPV4_MTU, Mtus, PoolChoice};

/// Why there is no default pool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PoolError {
    /// It would hold no block.
    #[error(
        "kubeadm's podSubnet {subnet} is smaller than a block of /{block_size}: set CALICO_IPV{family}POOL_BLOCK_SIZE to at \
         least {}, or CALICO_IPV{family}POOL_CIDR to another network or to none",
        .subnet.prefix_len()
    )]
    Small {
        /// The network.
        subnet: IpNet,
        /// 4 or 6.
        family: u8,
        /// `…_BLOCK_SIZE`.
        block_size: u8,
    },
    /// The kernel's words.
    #[error("no random range: {0}")]
    Random(#[from] io::Error),
}

/// The pool to make for a family that has none, if one is wanted.
///
/// `pod_subnets` are what the cluster's installer says. `locals` are the node's own addresses: a range that holds one of
/// them is not chosen.
///
/// # Errors
/// If the installer's network is smaller than a block, or the kernel has no random octets for an IPv6 range.
pub(crate) fn default_pool(
    choice: &DefaultPool,
    ipv4: bool,
    pod_subnets: &[IpNet],
    locals: &[IpAddr],
) -> Result<Option<IPPool>, PoolError> {
    let installed = pod_subnets.iter().find(|subnet| subnet.addr().is_ipv4() == ipv4);
    if let (PoolChoice::Free, Some(subnet)) = (&choice.cidr, installed)
        && subnet.prefix_len() > choice.block_size
    {
        let family = if ipv4 { 4 } else { 6 };
        return Err(PoolError::Small { subnet: *subnet, family, block_size: choice.block_size });
    }
    let cidr = match &choice.cidr {
        PoolChoice::None => return Ok(None),
        PoolChoice::Cidr(cidr) => *cidr,
        PoolChoice::Free if installed.is_some() => installed.copied().expect("the guard has seen it"),
        PoolChoice::Free if ipv4 => IpNet::V4(free_range(locals)),
        PoolChoice::Free => IpNet::V6(unique_local()?),
    };
    let spec = IPPoolSpec {
        block_size: Some(choice.block_size),
        ipip_mode: Some(choice.ipip),
        vxlan_mode: Some(choice.vxlan),
        nat_outgoing: Some(choice.nat_outgoing),
        disable_bgp_export: choice.disable_bgp_export.then_some(true),
        node_selector: Some(choice.node_selector.clone()),
        ..IPPoolSpec::new(cidr.to_string())
    };
    let name = if ipv4 { "default-ipv4-ippool" } else { "default-ipv6-ippool" };
    Ok(Some(IPPool::new(ObjectMeta::named(name), spec)))
}

/// 192.168.0.0/16, or the first of 172.16.0.0/16 to 172.31.0.0/16 in which the node has no address.
fn free_range(locals: &[IpAddr]) -> Ipv4Net {
    let range = |a: u8, b: u8| Ipv4Net::new_assert(Ipv4Addr::new(a, b, 0, 0), 16);
    let preferred = range(192, 168);
    let free = |candidate: &Ipv4Net| !locals.iter().any(|local| IpNet::V4(*candidate).contains(local));
    let mut candidates = std::iter::once(preferred).chain((16..=31).map(|second| range(172, second)));
    candidates.find(free).unwrap_or(preferred)
}

/// A /48 of RFC 4193 §3.1.
fn unique_local() -> io::Result<Ipv6Net> {
    let mut random = [0; 5];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let [a, b, c, d, e] = random;
    let address = Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    Ok(Ipv6Net::new_assert(address, 48))
}

/// What is left for a pod when the pools' packets are wrapped: the smallest MTU of the devices that they go through
/// (reference felix.md §2.8).
pub(crate) fn pod_mtu<'a>(mtus: &Mtus, pools: impl Iterator<Item = &'a IPPoolSpec>) -> u32 {
    let wraps = |mode: Option<EncapMode>| mode.is_some_and(|mode| mode != EncapMode::Never);
    let devices = pools.map(|pool| {
        let ipv6 = matches!(pool.cidr(), Some(IpNet::V6(_)));
        match (wraps(pool.vxlan_mode), wraps(pool.ipip_mode)) {
            (true, _) if ipv6 => mtus.vxlan_v6,
            (true, _) => mtus.vxlan,
            (false, true) => mtus.ipip,
            (false, false) => mtus.node,
        }
    });
    devices.fold(mtus.node, u32::min).max(IPV4_MTU)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeSettings;

    fn choices(variables: &[(&str, &str)]) -> [DefaultPool; 2] {
        let get = |key: &str| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        NodeSettings::parse(&get).unwrap().pools.unwrap()
    }

    #[track_caller]
    fn check_range(locals: &[&str], expected: &str) {
        let locals: Vec<IpAddr> = locals.iter().map(|text| text.parse().unwrap()).collect();
        let pool = default_pool(&choices(&[])[0], true, &[], &locals).unwrap().unwrap();
        assert_eq!(pool.spec.cidr, expected);
    }

    #[test]
    fn the_range_is_one_in_which_the_node_has_no_address() {
        check_range(&["10.0.0.1", "fd00::1"], "192.168.0.0/16");
        check_range(&["192.168.3.4"], "172.16.0.0/16");
        check_range(&["192.168.3.4", "172.16.0.1", "172.17.0.1"], "172.18.0.0/16");
    }

    #[test]
    fn variables_shape_the_pool() {
        let [ipv4, ipv6] = choices(&[
            ("CALICO_IPV4POOL_CIDR", "10.244.0.0/16"),
            ("CALICO_IPV4POOL_IPIP", "Cross-Subnet"),
            ("CALICO_IPV4POOL_BLOCK_SIZE", "28"),
            ("CALICO_IPV4POOL_NAT_OUTGOING", "no"),
            ("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", ""),
            ("CALICO_IPV6POOL_CIDR", "none"),
        ]);
        let pool = default_pool(&ipv4, true, &[], &[]).unwrap().unwrap();
        assert_eq!(pool.name(), "default-ipv4-ippool");
        let expected = IPPoolSpec {
            block_size: Some(28),
            ipip_mode: Some(EncapMode::CrossSubnet),
            vxlan_mode: Some(EncapMode::Never),
            nat_outgoing: Some(false),
            disable_bgp_export: Some(true),
            node_selector: Some("all()".to_owned()),
            ..IPPoolSpec::new("10.244.0.0/16")
        };
        assert_eq!(pool.spec, expected);
        assert_eq!(default_pool(&ipv6, false, &[], &[]).unwrap(), None);
        let random = default_pool(&choices(&[])[1], false, &[], &[]).unwrap().unwrap();
        let cidr = random.spec.cidr().unwrap();
        assert!(cidr.prefix_len() == 48 && cidr.trunc() == cidr && random.spec.cidr.starts_with("fd"), "{cidr}");
    }

    #[test]
    fn kubeadms_networks_come_before_a_free_one_and_after_the_variable() {
        let subnets: Vec<IpNet> = ["fd00:10::/64", "10.244.0.0/16", "10.245.0.0/16"].map(|t| t.parse().unwrap()).into();
        let range = |variables: &[(&str, &str)], subnets: &[IpNet], family: usize| {
            let pool = default_pool(&choices(variables)[family], family == 0, subnets, &[]);
            pool.map_or_else(|error| error.to_string(), |pool| pool.map_or(String::new(), |pool| pool.spec.cidr))
        };
        assert_eq!(range(&[], &subnets, 0), "10.244.0.0/16");
        assert_eq!(range(&[], &subnets, 1), "fd00:10::/64");
        assert_eq!(range(&[("CALICO_IPV4POOL_CIDR", "10.1.0.0/16")], &subnets, 0), "10.1.0.0/16");
        assert_eq!(range(&[("CALICO_IPV4POOL_CIDR", "none")], &subnets, 0), "");
        assert_eq!(range(&[], &subnets[..1], 0), "192.168.0.0/16", "none of this family");
        let small = ["10.244.0.0/28".parse().unwrap()];
        let text = range(&[], &small, 0);
        assert!(text.starts_with("kubeadm's podSubnet 10.244.0.0/28 is smaller than a block of /26: set"), "{text}");
        assert_eq!(range(&[("CALICO_IPV4POOL_BLOCK_SIZE", "29")], &small, 0), "10.244.0.0/28");
    }

    #[test]
    fn the_mtu_is_what_the_widest_wrapping_leaves() {
        let mut pools = [IPPoolSpec::new("10.244.0.0/16"), IPPoolSpec::new("fd00::/48")];
        let mtus = Mtus { node: 1500, ipip: 1480, vxlan: 1450, vxlan_v6: 1430 };
        assert_eq!(pod_mtu(&mtus, pools.iter()), 1500);
        pools[0].ipip_mode = Some(EncapMode::Always);
        assert_eq!(pod_mtu(&mtus, pools.iter()), 1480);
        assert_eq!(pod_mtu(&Mtus { ipip: 1400, ..mtus }, pools.iter()), 1400, "configured");
        assert_eq!(pod_mtu(&Mtus { ipip: 1600, ..mtus }, pools.iter()), 1500, "no more than the node has");
        pools[1].vxlan_mode = Some(EncapMode::CrossSubnet);
        assert_eq!(pod_mtu(&mtus, pools.iter()), 1430);
    }
}
