//! What did an apply come to, and what should the operator know?

use std::fmt;

use calico_netlink::Error;

/// Something that is not as desired; it is tried again with the next [`Dataplane::apply`](crate::Dataplane::apply).
#[derive(Debug)]
pub struct Failure {
    /// A route's destination or an interface's name.
    pub what: String,
    /// What the kernel says.
    pub error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.error)
    }
}

/// What an [`Dataplane::apply`](crate::Dataplane::apply) came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// What is not as desired.
    pub failures: Vec<Failure>,
}

impl Applied {
    pub(crate) fn fail(&mut self, what: &str, error: Error) {
        self.failures.push(Failure { what: what.to_owned(), error });
    }
}

/// Something about this node that only the operator can put right, or should know of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What it is about, as `Interface/tunl0`.
    pub object: String,
    /// The cause and the next step.
    pub text: String,
}

impl Finding {
    /// About an interface.
    pub(crate) fn interface(name: &str, text: impl Into<String>) -> Self {
        Self { object: format!("Interface/{name}"), text: text.into() }
    }
}

/// Which tunnels can take packets: they are up, or were and are kept up. Such a one may be announced to other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelState {
    /// `tunl0`.
    pub ipip: bool,
    /// `vxlan.calico`.
    pub vxlan: bool,
    /// `vxlan-v6.calico`.
    pub vxlan_v6: bool,
}

/// Why a workload's interface is not connected.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// It is not there.
    #[error(
        "interface {name} (number {index}) is not in the node's network namespace; the plugin must run on the node whose agent it asks"
    )]
    NotThere {
        /// Its name.
        name: String,
        /// Its number as the plugin saw it.
        index: u32,
    },
    /// Another endpoint has the interface.
    #[error("interface {name} belongs to {holder}, whose id is smaller; delete that endpoint if it is stale")]
    Taken {
        /// Its name.
        name: String,
        /// Who has it.
        holder: String,
    },
    /// The kernel refused.
    #[error("interface {name} could not be set up: {error}")]
    Kernel {
        /// Its name.
        name: String,
        /// What it says.
        error: Error,
    },
}
