//! IP pools: alone, among the other pools, over the blocks that exist, and against what they were.

use calico_selector::Selector;
use ipnet::IpNet;

use super::{Faults, FieldError, filled};
use crate::{EncapMode, IPPool, IPPoolSpec, PoolUse};

/// The longest CIDR, in characters.
const MAX_CIDR: usize = 48;

/// How many uses a pool may list.
const MAX_USES: usize = 10;

pub(super) fn pool(spec: &IPPoolSpec, faults: &mut Faults) {
    selectors(spec, faults);
    uses(spec, faults);
    let (ipip, vxlan) = (encapsulates(spec.ipip_mode), encapsulates(spec.vxlan_mode));
    if ipip && vxlan {
        let value = spec.ipip_mode.map(|mode| format!("{mode:?}")).unwrap_or_default();
        faults.add("IPpool.IPIPMode", value, "ipipMode and vxlanMode cannot both be enabled");
    }
    if spec.cidr.is_empty() {
        return faults.add("IPpool.CIDR", "", "must be specified");
    }
    let Some(cidr) = spec.cidr().filter(|_| spec.cidr.len() <= MAX_CIDR) else {
        return faults.add("IPpool.CIDR", &spec.cidr, "must be a valid subnet");
    };
    range(spec, &cidr, faults);
    if ipip && matches!(cidr, IpNet::V6(_)) {
        faults.add("IPpool.IPIPMode", &spec.cidr, "IPIP is not supported on an IPv6 pool: use vxlanMode");
    }
}

fn range(spec: &IPPoolSpec, cidr: &IpNet, faults: &mut Faults) {
    if cidr.trunc() != *cidr {
        let reason = format!("is not strictly masked: write {}", cidr.trunc());
        faults.add("IPpool.CIDR", &spec.cidr, reason);
    }
    for link_local in ["169.254.0.0/16", "fe80::/10"] {
        let link_local: IpNet = link_local.parse().expect("a network written out");
        if overlap(cidr, &link_local) {
            faults.add("IPpool.CIDR", &spec.cidr, format!("overlaps with the link-local range {link_local}"));
        }
    }
    let size = spec.block_size_for(cidr);
    let (least, most) = match cidr {
        IpNet::V4(_) => (20, 32),
        IpNet::V6(_) => (116, 128),
    };
    if !(least..=most).contains(&size) {
        let reason = format!("must be from {least} to {most} for a pool of this family, or 0 for the default");
        faults.add("IPpool.BlockSize", size, reason);
    } else if cidr.prefix_len() > size && spec.disabled != Some(true) {
        faults.add("IPpool.CIDR", &spec.cidr, format!("is too small: it has no room for a block of size {size}"));
    }
}

fn selectors(spec: &IPPoolSpec, faults: &mut Faults) {
    faults.selector("IPpool.NodeSelector", spec.node_selector.as_ref());
    faults.selector("IPpool.NamespaceSelector", spec.namespace_selector.as_ref());
}

fn uses(spec: &IPPoolSpec, faults: &mut Faults) {
    let uses = spec.allowed_uses.as_deref().unwrap_or_default();
    let value = || uses.iter().map(|used| format!("{used:?}")).collect::<Vec<_>>().join(",");
    faults.at_most("IPpool.AllowedUses", Some(uses), MAX_USES);
    let repeated = uses.iter().enumerate().any(|(index, used)| uses.iter().skip(index + 1).any(|other| other == used));
    if repeated {
        faults.add("IPpool.AllowedUses", value(), "names a use more than once");
    }
    if uses.contains(&PoolUse::Tunnel) && filled(spec.namespace_selector.as_ref()).is_some() {
        faults.add("IPpool.AllowedUses", value(), "Tunnel cannot be used with a namespaceSelector");
    }
    if !uses.contains(&PoolUse::LoadBalancer) {
        return;
    }
    if uses.iter().any(|used| *used != PoolUse::LoadBalancer) {
        faults.add("IPpool.AllowedUses", value(), "LoadBalancer cannot be combined with other uses");
    }
    if encapsulates(spec.ipip_mode) || encapsulates(spec.vxlan_mode) {
        faults.add("IPpool.AllowedUses", value(), "a LoadBalancer pool cannot have IPIP or VXLAN enabled");
    }
    if spec.disable_bgp_export == Some(true) {
        faults.add("IPpool.DisableBGPExport", true, "a LoadBalancer pool cannot disable BGP export");
    }
    let selector = filled(spec.node_selector.as_ref());
    if !selector.is_none_or(|text| Selector::parse(text).is_ok_and(|selector| selector.is_all())) {
        let value = selector.unwrap_or_default();
        faults.add("IPpool.NodeSelector", value, "a LoadBalancer pool must have the nodeSelector all()");
    }
}

fn encapsulates(mode: Option<EncapMode>) -> bool {
    mode.is_some_and(|mode| mode != EncapMode::Never)
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// What is wrong with a pool among the other pools: it must share no address with any.
pub fn validate_pool_among<'a>(pool: &IPPool, others: impl IntoIterator<Item = &'a IPPool>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let Some(cidr) = pool.spec.cidr() else { return faults.0 };
    for other in others.into_iter().filter(|other| other.name() != pool.name()) {
        if other.spec.cidr().is_some_and(|taken| overlap(&cidr, &taken)) {
            let (name, other_name) = (pool.name(), other.name());
            let reason = format!("IPPool({name}) CIDR overlaps with IPPool({other_name}) CIDR {}", other.spec.cidr);
            faults.add("IPPool.Spec.CIDR", &pool.spec.cidr, reason);
        }
    }
    faults.0
}

/// What is wrong with a pool over the blocks that exist already: those inside it must be of its block size.
pub fn validate_pool_blocks(pool: &IPPool, blocks: impl IntoIterator<Item = IpNet>) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let Some(cidr) = pool.spec.cidr() else { return faults.0 };
    let size = pool.spec.block_size_for(&cidr);
    let clash = blocks.into_iter().find(|block| cidr.contains(block) && block.prefix_len() != size);
    if let Some(block) = clash {
        let reason = format!("conflicts with existing allocations that use a different block size, such as {block}");
        faults.add("IPPool.Spec.BlockSize", size, reason);
    }
    faults.0
}

/// What is wrong with a pool as the successor of what is stored: range and block size stay, and so does the use of
/// load balancers. The range may be spelled anew.
pub fn validate_pool_update(new: &IPPool, stored: &IPPool) -> Vec<FieldError> {
    let mut faults = Faults::default();
    let (cidr, stored_cidr) = (new.spec.cidr(), stored.spec.cidr());
    let same = new.spec.cidr == stored.spec.cidr
        || (cidr.is_some()
            && cidr.map(|cidr| cidr.trunc()) == stored_cidr.map(|cidr| cidr.trunc())
            && cidr.is_some_and(|cidr| cidr.trunc().to_string() == new.spec.cidr));
    if !same {
        let reason = "IPPool CIDR cannot be modified: make a new pool, disable this one and move the workloads";
        faults.add("IPPool.Spec.CIDR", &new.spec.cidr, reason);
    }
    if let (Some(cidr), Some(stored_cidr)) = (cidr, stored_cidr) {
        let (size, stored_size) = (new.spec.block_size_for(&cidr), stored.spec.block_size_for(&stored_cidr));
        let reason = format!("IPPool BlockSize cannot be modified: it is {stored_size}");
        faults.unless(size == stored_size, "IPPool.Spec.BlockSize", size, &reason);
    }
    let uses = new.spec.allowed_uses.as_deref().unwrap_or_default();
    let other_use = uses.is_empty() || uses.iter().any(|used| *used != PoolUse::LoadBalancer);
    if stored.spec.allows(PoolUse::LoadBalancer) && other_use {
        let value = uses.iter().map(|used| format!("{used:?}")).collect::<Vec<_>>().join(",");
        let reason = "IPPool allowed use cannot be changed from LoadBalancer to another";
        faults.add("IPPool.Spec.AllowedUses", value, reason);
    }
    faults.0
}
