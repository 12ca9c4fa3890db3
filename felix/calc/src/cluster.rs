//! What of other nodes this node must know to reach their pods: routes, far ends of VXLAN, tunnels, sets of packet rules.
//!
//! | file | question |
//! |---|---|
//! | `wanted.rs` | what can be wanted of the kernel? |

mod wanted;

pub use wanted::{Ipip, Path, Remote, Set, Tunnels, Vtep, Vxlan, mac_of};
