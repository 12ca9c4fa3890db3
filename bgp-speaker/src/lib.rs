//! The BGP speaker of a node: from the datastore's resources to sessions, from sessions to kernel routes.
//!
//! What follows from the resources is [`bgp_plan`]'s, the protocol [`bgp_proto`]'s. Pure, too, and here: [`router_id`], [`fib`]
//! (what becomes of a learned prefix), [`bird`] and [`words`] (what people read). The shell around them: [`speaker`] (the one task that owns sessions and RIB),
//! [`transport`] (TCP), [`kernel`] (netlink, in a thread of its own; [`bystander`] where it has no part), [`watched`] and
//! [`endpoints`] (datastore and felix's files), [`secrets`] (passwords), [`sockets`] and [`node_status`] (status), [`last_good`], [`metrics`].

pub mod bird;
pub mod bystander;
pub mod endpoints;
pub mod fib;
pub mod kernel;
pub mod last_good;
pub mod metrics;
pub mod node_status;
pub mod options;
pub mod peer;
pub mod router_id;
pub mod routing;
pub mod secrets;
pub mod sockets;
pub mod speaker;
pub mod status;
pub mod transport;
pub mod watched;
pub mod words;
