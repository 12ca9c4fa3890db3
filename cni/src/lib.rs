//! The CNI plugins `calico` and `calico-ipam`: from the runtime's call to the answer on standard output.
//!
//! A plugin is a short-lived process that holds no credential and knows no datastore. It reads the network
//! configuration ([`netconf`]) and the environment ([`environment`]), asks the agent on its node for addresses, does
//! the work inside the pod's network namespace ([`pod`]) and writes a result in the asked version's shape
//! ([`result`]) or an error with a code ([`error`]). What must not be forgotten when there is no agent goes to the
//! spool of `calico-agent`.
//!
//! The process enters the pod's namespace and never comes back: sockets that were opened before stay on the node.

pub mod calico;
pub mod calico_ipam;
pub mod check;
pub mod conversation;
pub mod delegate;
pub mod environment;
pub mod error;
pub mod gate;
pub mod known;
pub mod log;
pub mod netconf;
pub mod plugin;
pub mod pod;
pub mod result;
pub mod version;

pub use error::Error;
