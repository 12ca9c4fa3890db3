//! This node's packet rules: the nf_tables tables `ip calico` and `ip6 calico`.
//!
//! [`PacketRules`] keeps what is desired, and what the kernel is known to hold, and writes the difference in one
//! transaction. `render.rs` says which rules there are, `table.rs` what must change (both without a kernel),
//! `packet_rules.rs` talks to it.
//!
//! A restarted process knows a table as ours by its name, as Calico's felix does, a chain and a set by theirs, and a rule
//! by the hash of its encoded form, which is its comment. Other tables are neither read nor written.

mod networks;
mod packet_rules;
mod render;
mod table;

use std::net::Ipv4Addr;

pub use packet_rules::PacketRules;

/// The name of our tables, which is Calico's.
pub const TABLE: &str = "calico";

/// What the packet rules depend on beside the datastore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What pods' packets to the outside have as their source, instead of the address of the interface by which they
    /// leave (`NATOutgoingAddress`). IPv4 only, as in Calico.
    pub nat_outgoing_address: Option<Ipv4Addr>,
    /// The first and the last source port of such packets, for TCP and UDP (`NATPortRange`).
    pub nat_port_range: Option<(u16, u16)>,
    /// Pods' packets to nodes keep their source (`NATOutgoingExclusions: IPPoolsAndHostIPs`).
    pub exclude_hosts: bool,
    /// Only packets that leave by this interface get another source; a final `+` or `*` stands for anything
    /// (`IptablesNATOutgoingInterfaceFilter`).
    pub interface_filter: Option<String>,
    /// The UDP port of VXLAN (`VXLANPort`).
    pub vxlan_port: u16,
    /// With what the names of pods' interfaces begin (`InterfacePrefix`).
    pub prefixes: Vec<String>,
    /// Pods may send VXLAN (`AllowVXLANPacketsFromWorkloads`), which another node takes for its peer's if the pod's pool has
    /// `natOutgoing`.
    pub vxlan_from_pods: bool,
    /// Pods may send IPIP (`AllowIPIPPacketsFromWorkloads`), likewise.
    pub ipip_from_pods: bool,
    /// Whether there are rules for IPv6 (`Ipv6Support`).
    pub ipv6: bool,
}

impl Default for Settings {
    /// Calico's defaults.
    fn default() -> Self {
        Self {
            nat_outgoing_address: None,
            nat_port_range: None,
            exclude_hosts: false,
            interface_filter: None,
            vxlan_port: 4789,
            prefixes: vec!["cali".to_owned()],
            vxlan_from_pods: false,
            ipip_from_pods: false,
            ipv6: true,
        }
    }
}
