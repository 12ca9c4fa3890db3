//! Whether an address is in use.
//!
//! The same function judges by the image, again and again, and by what the store says at the moment of the release.

use crate::allocation::{Allocation, Holder};
use crate::pods::{Pod, Pods};

/// What is to be said of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody has it, or may be about to.
    InUse,
    /// It is not for us to say; so it is never released.
    Unknowable,
    /// Not an allocation in earnest: it cools down, or Windows keeps it.
    Ignored,
    /// A tunnel's: in use as long as its node is there.
    OfNode,
    /// Nobody has it.
    Leak(Why),
}

/// Why nobody has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is no pod of this name.
    PodGone,
    /// The pod has run to its end.
    PodFinished,
    /// The pod has other addresses, and another container.
    OtherAddress,
    /// The node whose tunnel it is of is gone.
    NodeGone,
}

impl Why {
    /// For logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PodGone => "its pod is gone",
            Self::PodFinished => "its pod has finished",
            Self::OtherAddress => "its pod has another address",
            Self::NodeGone => "its node is gone",
        }
    }
}

/// Judges one allocation by the pods there are.
///
/// Departs from Calico: an address that any pod has is in use, even where the allocation names another node or another pod
/// (Calico releases it when the nodes differ); and so is one of the pod's present container, which the pod's status may
/// not show yet. Virtual machines are not looked at: what is theirs is never released.
pub fn judge(allocation: &Allocation, pods: &Pods) -> Verdict {
    let (namespace, name) = match &allocation.holder {
        Holder::Cooling | Holder::Windows => return Verdict::Ignored,
        Holder::Tunnel => return Verdict::OfNode,
        Holder::Service | Holder::Machine | Holder::Unknown => return Verdict::Unknowable,
        Holder::Pod { namespace, name } => (namespace, name),
    };
    if pods.with_address(&allocation.assignment.address).is_some() || pods.may_be_torn(name) {
        return Verdict::InUse;
    }
    let mut namesakes = pods.named(namespace, name).peekable();
    if namesakes.peek().is_none() {
        return Verdict::Leak(Why::PodGone);
    }
    let mut live = namesakes.filter(|pod| !pod.finished).peekable();
    if live.peek().is_none() {
        return Verdict::Leak(Why::PodFinished);
    }
    if live.any(|pod| may_use(pod, allocation)) { Verdict::InUse } else { Verdict::Leak(Why::OtherAddress) }
}

/// Whether a living pod of the right name may be about to use the address: it has none yet, or it is of its container.
fn may_use(pod: &Pod, allocation: &Allocation) -> bool {
    pod.addresses.is_empty() || (!pod.container.is_empty() && allocation.container() == Some(&*pod.container))
}

/// The node on which a pod uses the address, if that is not the one `named`, which the allocation names, or none.
pub fn other_node<'a>(allocation: &Allocation, named: &str, pods: &'a Pods) -> Option<&'a str> {
    let pod = pods.with_address(&allocation.assignment.address)?;
    (!named.is_empty() && named != pod.node).then_some(&*pod.node)
}
