//! Which blocks get a black hole on this node.

use calico_api::{IPAMBlock, Owner};
use ipnet::IpNet;

/// The network to black-hole for `block` on `node`: the block's own if the node owns it.
///
/// A packet to an address of an own block that no pod holds must end here; without the black hole it
/// would follow the default route and come back. A block of a single address has none: it
/// would be the pod's own route (reference §9, trap 15).
pub(crate) fn black_hole(block: &IPAMBlock, node: &str) -> Option<IpNet> {
    let spec = &block.spec;
    let network = spec.cidr.trunc();
    let ours = !spec.deleted && matches!(spec.owner(), Some(Owner::Host(owner)) if owner == node);
    (ours && network.prefix_len() < network.max_prefix_len()).then_some(network)
}
