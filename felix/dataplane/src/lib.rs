//! This node's desired state, made true in the kernel.
//!
//! [`Dataplane`] takes [`felix_calc::Change`]s and the kernel's own notifications and, on [`Dataplane::apply`], writes the
//! difference: pods' routes, black holes of own blocks, parameters and addresses of pods' interfaces. A restarted process
//! knows its own again by marks in the kernel (route protocol, interface name), reads what is there
//! and writes nothing where nothing differs.
//!
//! The crate is synchronous: a netlink call takes microseconds, and one task makes them all, in order.

mod addresses;
mod dataplane;
mod interface;
mod ownership;
mod routes;

pub use calico_netlink::{Error, Mac};
pub use dataplane::{Applied, AttachError, Dataplane, Failure};
pub use interface::{HOST_MAC, remove_leaving};

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
}

/// Felix' own protocol number in the kernel's tables: a route that carries it is ours, whatever else it says.
pub const PROTOCOL: u8 = 80;

impl Default for Settings {
    /// Calico's defaults, but for the protocol number, which is our own.
    fn default() -> Self {
        Self { prefixes: vec!["cali".to_owned()], protocol: PROTOCOL, metric_ipv4: 1024, metric_ipv6: 1024, ipv6: true }
    }
}
