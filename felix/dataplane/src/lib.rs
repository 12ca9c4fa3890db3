//! This node's desired state, made true in the kernel.
//!
//! [`Dataplane`] takes [`felix_calc::Change`]s and the kernel's own notifications and, on [`Dataplane::apply`], writes the
//! difference: pods' routes, black holes of own blocks, parameters and addresses of pods' interfaces, tunnel devices with
//! what lies behind them, routes to other nodes. A restarted process knows its own again by marks in the kernel (route
//! protocol, interface name), reads what is there and writes nothing where nothing differs.
//!
//! [`nft::PacketRules`] does the same with the node's packet rules.
//!
//! The crate is synchronous: a netlink call takes microseconds, and one task makes them all, in order.

mod addresses;
mod applied;
mod dataplane;
mod interface;
pub mod nft;
mod ownership;
mod remotes;
mod routes;
mod routing;
mod tunnels;
mod underlay;
mod workloads;

pub use applied::{Applied, AttachError, Failure, Finding, TunnelState};
pub use calico_netlink::{Error, Mac};
pub use dataplane::Dataplane;
pub use interface::{HOST_MAC, remove_leaving};
pub use tunnels::LINGER;

/// What the dataplane must know beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// With what the names of workloads' interfaces begin (`InterfacePrefix`).
    pub prefixes: Vec<String>,
    /// Protocol number of pods' routes (`DeviceRouteProtocol`); black holes are always of [`PROTOCOL`].
    pub protocol: u8,
    /// Metric of pods' IPv4 routes (`IPv4NormalRoutePriority`).
    pub metric_ipv4: u32,
    /// Metric of pods' IPv6 routes (`IPv6NormalRoutePriority`).
    pub metric_ipv6: u32,
    /// Whether IPv6 is programmed at all (`Ipv6Support`).
    pub ipv6: bool,
    /// UDP port of VXLAN (`VXLANPort`).
    pub vxlan_port: u16,
    /// VXLAN network identifier (`VXLANVNI`).
    pub vxlan_vni: u32,
    /// MTU of the VXLAN device of IPv4, in octets (`VXLANMTU`); 0: what the interface below leaves, which is the most in
    /// any case.
    pub vxlan_mtu: u32,
    /// The same for IPv6 (`VXLANMTUV6`).
    pub vxlan_mtu_v6: u32,
    /// The same for IPIP (`IPIPMTU`).
    pub ipip_mtu: u32,
    /// Whether checksums that VXLAN devices are left to compute come out wrong (`ChecksumOffloadBroken`); `None`: as is known
    /// of the kernel's version.
    pub checksum_offload_broken: Option<bool>,
    /// Whether BGP's routes into pools are leftovers, since nobody on this node speaks it.
    pub sweep_bird: bool,
}

/// Felix' own protocol number in the kernel's tables: a route that carries it is ours, whatever else it says.
pub const PROTOCOL: u8 = 80;

impl Default for Settings {
    /// Calico's defaults, but for the protocol number, which is our own.
    fn default() -> Self {
        Self {
            prefixes: vec!["cali".to_owned()],
            protocol: PROTOCOL,
            metric_ipv4: 1024,
            metric_ipv6: 1024,
            ipv6: true,
            vxlan_port: 4789,
            vxlan_vni: 4096,
            vxlan_mtu: 0,
            vxlan_mtu_v6: 0,
            ipip_mtu: 0,
            checksum_offload_broken: None,
            sweep_bird: false,
        }
    }
}
