//! The conversation between the CNI plugins and the agent on a node.
//!
//! A plugin connects to a Unix stream socket and sends a [`Request`] as one line of JSON; the agent
//! answers with a [`Reply`], one line of JSON. All but ADD are one line each way. ADD has two rounds:
//!
//! ```text
//! plugin                                   agent
//!   Request::Add        ──────────────────►  takes addresses
//!                       ◄──────────────────  Reply::Assigned
//!   makes the interface
//!   Request::Attached   ──────────────────►  host side: sysctls, up, routes; endpoint stored
//!                       ◄──────────────────  Reply::Done
//! ```
//!
//! If the plugin hangs up before `Attached`, the agent gives the addresses back. The addresses in `Assigned` are the pod's only
//! with `Done`: the agent may still be writing them down while the plugin makes the interface.
//! Paths are as the host sees them. A line is at most [`MAX_LINE`] octets.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub mod client;
pub mod spool;

/// Where the agent listens.
pub const SOCKET: &str = "/run/ocicat/agent.sock";

/// Where releases wait that could not be done at once.
pub const SPOOL: &str = "/var/lib/calico/pending-releases";

/// The longest line either side accepts, in octets: room for the attachments of thousands of pods.
pub const MAX_LINE: usize = 1 << 20;

/// What a plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// A pod's interface is to be made: first round.
    Add(Add),
    /// The interface is there: second round of an `Add` on the same connection.
    Attached(Attached),
    /// A pod goes: remove its interface, release its addresses, forget its endpoint. Unknown ones are a success.
    Del(Del),
    /// Only take addresses (the stand-alone `calico-ipam`).
    Assign(Add),
    /// Only release them.
    Release(Del),
    /// Are a sandbox's addresses and its endpoint still as `Add` made them? (CNI's CHECK.)
    Check(Check),
    /// Forget what belongs to no attachment of a network any more. (CNI's GC.)
    Gc(Gc),
    /// Is the agent there, and does it serve? (CNI's STATUS.)
    Status,
    /// Which networks did the orchestrator give the node for its pods?
    PodNetworks,
    /// How is the node's dataplane, and what was found that is not as it should be? (`calicoctl node status`.)
    NodeStatus,
}

/// The sandbox that a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `name` of the network configuration; with the container's id it makes the IPAM handle.
    pub network: String,
    /// The pod, if an orchestrator's runtime asks; otherwise the container stands for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

impl Sandbox {
    /// The id under which the sandbox's addresses are taken: `<network>.<container>`.
    pub fn handle(&self) -> String {
        format!("{}.{}", self.network, self.container_id)
    }
}

/// A Kubernetes pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
}

/// What an `Add` or `Assign` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// Whose interface.
    pub sandbox: Sandbox,
    /// The node's name as the network configuration has it; the agent refuses another than its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether an IPv4 address is wanted.
    pub ipv4: bool,
    /// Whether an IPv6 address is wanted.
    pub ipv6: bool,
    /// Names or CIDRs of the pools to take the IPv4 address from; empty means any that selects the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipv6_pools: Vec<String>,
    /// Exactly these addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Addresses that another IPAM plugin gave; if there are any, none is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<IpAddr>,
    /// Whether the pod may have addresses that no IPAM knows of (`feature_control.ip_addrs_no_ipam`).
    #[serde(default)]
    pub allow_without_ipam: bool,
    /// The pod's uid (`K8S_POD_UID`), by which the agent sees whether what it knows of a pod is about this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// What the plugin made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// MAC of the interface inside, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Index of the node's side in the node's namespace.
    pub host_index: u32,
}

/// What a `Del` or `Release` is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Del {
    /// Whose interface.
    pub sandbox: Sandbox,
    /// Whether the interface is gone already, as far as there was one.
    #[serde(default)]
    pub gone: bool,
}

/// What a `Check` is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Whose interface.
    pub sandbox: Sandbox,
    /// The addresses that `Add` or `Assign` gave.
    pub addresses: Vec<IpAddr>,
    /// Whether they are of Calico's IPAM, which must hold them for the sandbox.
    pub assigned: bool,
    /// Name of the node's side, which the endpoint must have; `None` if there is to be no endpoint (`Assign`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_interface: Option<String>,
}

/// What a `Gc` is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// `name` of the network configuration.
    pub network: String,
    /// The attachments that the runtime knows of; all else of this network on this node is left over.
    pub valid: Vec<Attachment>,
    /// Whether endpoints are looked for, too, and not only addresses.
    pub endpoints: bool,
}

/// A container's interface in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// To `Add` and `Assign`.
    Assigned(Assigned),
    /// To `PodNetworks`.
    PodNetworks(PodNetworks),
    /// To `NodeStatus`.
    NodeStatus(NodeStatus),
    /// To `Del`: the agent knows of no interface of that sandbox, and has done nothing. The plugin is to remove what it finds,
    /// and to say then that it is gone.
    Detach,
    /// To `Attached`: others were given the addresses of `Assigned` before they were written down. Nothing is left of them here;
    /// the plugin is to remove the interface and to begin anew.
    Again,
    /// To everything else: it is done, or will be whatever happens.
    Done,
    /// It is not done.
    Error(Failure),
}

/// The addresses of a pod and the facts its interface is made with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// One of each family asked for.
    pub addresses: Vec<AssignedAddress>,
    /// Name of the node's side, `cali…`; empty for `Assign`.
    pub host_interface: String,
    /// MTU for the interface, unless the network configuration says another.
    pub mtu: u32,
    /// Ethernet address for the interface inside, `aa:bb:cc:dd:ee:ff`; any if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// An address and the block it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedAddress {
    /// The address.
    pub address: IpAddr,
    /// Prefix length of its block.
    pub block_length: u8,
}

/// The networks that the orchestrator gave a node for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetworks {
    /// In the orchestrator's order, with their masks; none where there is no orchestrator.
    pub networks: Vec<String>,
}

/// How a node's dataplane is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Whether everything in the datastore is known and the kernel was once made so.
    pub in_sync: bool,
    /// What is not as it should be; empty if all is.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// The tunnel devices that the node has or should have.
    #[serde(default)]
    pub tunnels: Vec<Tunnel>,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about: a device, a resource.
    pub object: String,
    /// Cause and next step, in a sentence.
    pub text: String,
}

/// A tunnel device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its name: `tunl0`, `vxlan.calico`, `vxlan-v6.calico`.
    pub device: String,
    /// Whether packets of other nodes are unwrapped.
    pub up: bool,
    /// Whether the pools ask for it; if not, it is there for nodes that do not know that yet.
    pub wanted: bool,
    /// Its address, which tells other nodes that they may use it; `None` until it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Its MTU, in octets.
    pub mtu: u32,
}

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The CNI error code: 7 invalid configuration, 11 try again later, 50 and 51 for `Status`, 999 anything else.
    pub code: u32,
    /// What failed, in a sentence.
    pub message: String,
    /// Cause and next step.
    #[serde(default)]
    pub details: String,
}
