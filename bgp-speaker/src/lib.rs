//! The BGP speaker of a node: from the datastore's resources to sessions, from sessions to kernel routes.
//!
//! Pure, and most of what can go wrong: [`inputs`] (an image of the datastore), [`sessions`] (which sessions follow from
//! it), [`router_id`], [`fib`] (what becomes of a learned prefix), [`bird`] and [`words`] (what people read).
//! [`bgp_proto`] has the protocol. The shell around them: [`speaker`] (the one task that owns sessions and RIB),
//! [`transport`] (TCP), [`kernel`] (netlink, in a thread of its own), [`sockets`] (status), [`metrics`].

pub mod bird;
pub mod fib;
pub mod inputs;
pub mod kernel;
pub mod metrics;
pub mod options;
pub mod peer;
pub mod router_id;
pub mod routing;
pub mod sessions;
pub mod sockets;
pub mod speaker;
pub mod status;
pub mod transport;
pub mod words;
