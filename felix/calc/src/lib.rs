//! What this node's kernel should hold, calculated from the cluster's resources.
//!
//! [`Calc`] is fed with resources one [`Update`] at a time, in any order, and answers each with the
//! [`Change`]s of this node's desired state. It reads no clock, no kernel and no datastore.
//!
//! Two parties say what an endpoint is: the datastore's watch, and the agent, which knows of its own
//! ADDs and DELs before the watch does. The agent's word ([`Claim`]) holds until the watch confirms
//! it; see [`Calc::claim`].

mod block;
mod calc;
mod cluster;
mod endpoint;
mod notice;
mod peering;

pub use calico_api::Key;

pub use calc::{Calc, Change, Claim, Routing, Settings, Update};
pub use cluster::{Ipip, Path, Remote, Set, Tunnels, Vtep, Vxlan, mac_of};
pub use endpoint::{EndpointId, Interface, Unusable};
pub use notice::Notice;
