//! Topologies of nodes and pods on one machine, for the tests, the benches and `cargo xtask lab`.
//!
//! A node is a network, a mount and a host-name namespace with the real programs at their real paths;
//! a pod is a network namespace that the real plugins fill. Nothing has a name outside of them: several
//! topologies run side by side, and all of one vanishes with the process that made it.

pub mod bench;
pub mod binaries;
pub mod cluster;
pub mod conformance;
pub mod datastore;
pub mod holder;
pub mod http;
pub mod interrupt;
pub mod lab;
pub mod machine;
pub mod net;
pub mod node;
pub mod peers;
pub mod pod;
pub mod process;
pub mod programs;
pub mod router;
pub mod servers;
pub mod speaker;
pub mod sqlite;
pub mod stream;
pub mod traffic;
pub mod wait;

pub use net::{Net, Segment, StoreKind};
pub use node::{Node, PATIENCE};
pub use pod::Pod;
pub use router::Router;
pub use stream::Stream;
pub use traffic::Traffic;
