//! What this node's kernel should hold, calculated from the cluster's resources.
//!
//! [`Calc`] is fed with resources one [`Update`] at a time, in any order, and answers each with the
//! [`Change`]s of this node's desired state. It reads no clock, no kernel and no datastore.
//!
//! Two parties say what an endpoint is: the datastore's watch, and the agent, which knows of its own
//! ADDs and DELs before the watch does. The agent's word ([`Claim`]) holds until the watch confirms
//! it; see [`Calc::claim`].
//!
//! How other nodes' pods are reached follows from nodes, blocks and pools (`cluster.rs`); whose a class of routes is and
//! which subnet a node is in, the BGP speaker asks in the same place (`bgp_plan`). A route that is another's is
//! [`Remote::Leave`]: nothing is taken away before the next owner has replaced it. A node that is not ready for what its
//! pool wants ([`Calc::awaited`]) is sent to as before, or by what both ends understand; only there does the past count.

mod block;
mod calc;
mod changes;
mod cluster;
mod endpoint;
mod inputs;
mod notice;
mod peering;

pub use calico_api::Key;

pub use calc::Calc;
pub use changes::Change;
pub use cluster::{Ipip, Path, Remote, Set, Tunnels, Vtep, Vxlan, mac_of};
pub use endpoint::{EndpointId, Interface, Unusable};
pub use inputs::{Claim, Routing, Settings, Update};
pub use notice::Notice;
