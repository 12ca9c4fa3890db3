//! Which pools a request may take addresses from, and in which order.

use std::collections::BTreeMap;

use calico_api::{AssignmentMode, IPPool, PoolUse};
use calico_selector::Selector;
use ipnet::IpNet;

use crate::block::MAX_HOST_BITS;
use crate::network::Family;

/// Labels of a node or a namespace.
pub type Labels = BTreeMap<String, String>;

/// As much of a pool as assignment needs, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its range.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    pub block_size: u8,
}

impl Pool {
    /// The pool, if its range and block size can be used; otherwise what is wrong with them.
    ///
    /// # Errors
    /// A sentence that names the pool and the field.
    pub fn of(pool: &IPPool) -> Result<Self, String> {
        let name = pool.name().to_owned();
        let Some(cidr) = pool.spec.cidr().filter(|cidr| *cidr == cidr.trunc()) else {
            return Err(format!("pool {name} has the CIDR \"{}\", which is not a network", pool.spec.cidr));
        };
        let block_size = pool.spec.block_size_for(&cidr);
        let bits = Family::of_net(&cidr).bits();
        if block_size < cidr.prefix_len() || block_size > bits || block_size < bits - MAX_HOST_BITS {
            return Err(format!("pool {name} ({cidr}) has the blockSize {block_size}, which does not fit"));
        }
        Ok(Self { name, cidr, block_size })
    }
}

/// Whether new addresses may be taken from the pool at all.
pub fn is_enabled(pool: &IPPool) -> bool {
    let refused = |status: &calico_api::IPPoolStatus| {
        status.conditions.iter().any(|c| c.condition_type == "Allocatable" && c.status == "False")
    };
    pool.spec.disabled != Some(true)
        && pool.metadata.deletion_timestamp.is_none()
        && !pool.status.as_ref().is_some_and(refused)
}

/// What a request wants of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The family of the addresses.
    pub family: Family,
    /// What they are for.
    pub pool_use: PoolUse,
    /// Names or CIDRs of pools, in the order in which they are to be used; empty lets the pools' selectors decide.
    pub requested: &'a [String],
    /// The node.
    pub node: &'a str,
    /// The node's labels, if the node is known.
    pub node_labels: Option<&'a Labels>,
    /// The labels of the workload's namespace; none if it is unknown or there is none.
    pub namespace_labels: &'a Labels,
}

/// Why no pool may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// There is no usable pool of the family.
    #[error("cannot find a qualified ippool: no {family} pool is enabled{}; create or enable one (`calicoctl get ippool -o wide` shows them)", and_also(.faults))]
    NoneEnabled {
        /// The family that was asked for.
        family: Family,
        /// Pools that cannot be used, and why.
        faults: Vec<String>,
    },
    /// A requested pool cannot be used.
    #[error("the given pool ({0}) does not exist, or is not enabled")]
    NotEnabled(String),
    /// No pool's selectors match.
    #[error("no configured Calico pools for node {node}: none of {} selects it and the workload's namespace; check nodeSelector, namespaceSelector and assignmentMode", .pools.join(", "))]
    NoneSelects {
        /// The node.
        node: String,
        /// The pools that were looked at.
        pools: Vec<String>,
    },
    /// No pool is for this use.
    #[error("cannot find a qualified ippool, no pools match the required use ({wanted:?}); check allowedUses of {}", .pools.join(", "))]
    WrongUse {
        /// What the address is for.
        wanted: PoolUse,
        /// The pools that were looked at.
        pools: Vec<String>,
    },
    /// A selector cannot be evaluated.
    #[error("{field} of pool {pool} cannot be evaluated: {reason}; correct \"{selector}\"")]
    Selector {
        /// The pool.
        pool: String,
        /// `nodeSelector` or `namespaceSelector`.
        field: &'static str,
        /// The selector.
        selector: String,
        /// What is wrong.
        reason: String,
    },
    /// A selector asks for labels of a node that is not known.
    #[error(
        "pool {pool} has a nodeSelector, but node {node} is not in the datastore; start felix on it, or correct its name"
    )]
    UnknownNode {
        /// The pool.
        pool: String,
        /// The node.
        node: String,
    },
}

fn and_also(faults: &[String]) -> String {
    faults.iter().map(|fault| format!("; {fault}")).collect()
}

/// The pools a request may use, in the order in which they are to be exhausted: by name, or as requested.
///
/// Requested pools are used whatever their selectors and assignment mode say, but not for another use.
///
/// # Errors
/// A [`SelectError`] if there is none.
pub fn select<'a>(pools: impl IntoIterator<Item = &'a IPPool>, wanted: &Wanted<'_>) -> Result<Vec<Pool>, SelectError> {
    let mut enabled = Vec::new();
    let mut faults = Vec::new();
    for pool in pools.into_iter().filter(|pool| is_enabled(pool)) {
        match Pool::of(pool) {
            Ok(parsed) if Family::of_net(&parsed.cidr) == wanted.family => enabled.push((parsed, pool)),
            Ok(_) => {}
            Err(fault) => faults.push(fault),
        }
    }
    enabled.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    if enabled.is_empty() {
        return Err(SelectError::NoneEnabled { family: wanted.family, faults });
    }
    let names = |pools: &[(Pool, &IPPool)]| pools.iter().map(|(pool, _)| pool.name.clone()).collect::<Vec<_>>();
    let chosen = if wanted.requested.is_empty() {
        let mut chosen = Vec::new();
        for (parsed, pool) in &enabled {
            if selects(pool, wanted)? {
                chosen.push((parsed.clone(), *pool));
            }
        }
        if chosen.is_empty() {
            return Err(SelectError::NoneSelects { node: wanted.node.to_owned(), pools: names(&enabled) });
        }
        chosen
    } else {
        let mut chosen = Vec::new();
        for request in wanted.requested {
            let cidr: Option<IpNet> = request.parse().ok().map(|cidr: IpNet| cidr.trunc());
            let found = enabled.iter().find(|(pool, _)| pool.name == *request || Some(pool.cidr) == cidr);
            chosen.push(found.cloned().ok_or_else(|| SelectError::NotEnabled(request.clone()))?);
        }
        chosen
    };
    let usable: Vec<Pool> =
        chosen.iter().filter(|(_, pool)| pool.spec.allows(wanted.pool_use)).map(|(parsed, _)| parsed.clone()).collect();
    match usable.is_empty() {
        true => Err(SelectError::WrongUse { wanted: wanted.pool_use, pools: names(&chosen) }),
        false => Ok(usable),
    }
}

/// Whether a pool is used for this node and namespace without being asked for.
fn selects(pool: &IPPool, wanted: &Wanted<'_>) -> Result<bool, SelectError> {
    if pool.spec.assignment_mode == Some(AssignmentMode::Manual) {
        return Ok(false);
    }
    let evaluate = |field, selector: &str, labels: &Labels| {
        let parsed = Selector::parse(selector).map_err(|error| SelectError::Selector {
            pool: pool.name().to_owned(),
            field,
            selector: selector.to_owned(),
            reason: error.to_string(),
        });
        parsed.map(|selector| selector.matches(labels))
    };
    if let Some(selector) = meant(pool.spec.node_selector.as_deref()) {
        let Some(labels) = wanted.node_labels else {
            return Err(SelectError::UnknownNode { pool: pool.name().to_owned(), node: wanted.node.to_owned() });
        };
        if !evaluate("nodeSelector", selector, labels)? {
            return Ok(false);
        }
    }
    match meant(pool.spec.namespace_selector.as_deref()) {
        Some(selector) => evaluate("namespaceSelector", selector, wanted.namespace_labels),
        None => Ok(true),
    }
}

/// The selector, unless it is one that matches everything.
fn meant(selector: Option<&str>) -> Option<&str> {
    selector.map(str::trim).filter(|selector| !selector.is_empty() && *selector != "all()")
}

#[cfg(test)]
mod tests {
    use calico_api::{Condition, IPPoolSpec, IPPoolStatus, ObjectMeta};

    use super::*;

    fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IPPool)) -> IPPool {
        let mut pool = IPPool::new(ObjectMeta::named(name), IPPoolSpec::new(cidr));
        change(&mut pool);
        pool
    }

    fn chosen(pools: &[IPPool], requested: &[&str], pool_use: PoolUse) -> Result<Vec<String>, SelectError> {
        let requested: Vec<String> = requested.iter().map(|text| (*text).to_owned()).collect();
        let labels = Labels::from([("rack".to_owned(), "a".to_owned())]);
        let wanted = Wanted {
            family: Family::V4,
            pool_use,
            requested: &requested,
            node: "node-1",
            node_labels: Some(&labels),
            namespace_labels: &Labels::new(),
        };
        select(pools, &wanted).map(|pools| pools.into_iter().map(|pool| pool.name).collect())
    }

    #[test]
    fn pools_are_used_by_name_as_far_as_they_are_enabled_and_select_the_workload() {
        let pools = [
            pool("z-all", "10.1.0.0/16", |_| {}),
            pool("a-rack", "10.2.0.0/16", |p| p.spec.node_selector = Some("rack == 'a'".to_owned())),
            pool("b-other-rack", "10.3.0.0/16", |p| p.spec.node_selector = Some("rack == 'b'".to_owned())),
            pool("c-manual", "10.4.0.0/16", |p| p.spec.assignment_mode = Some(AssignmentMode::Manual)),
            pool("d-off", "10.5.0.0/16", |p| p.spec.disabled = Some(true)),
            pool("e-v6", "fd00::/64", |_| {}),
            pool("f-namespace", "10.6.0.0/16", |p| p.spec.namespace_selector = Some("tenant == 'x'".to_owned())),
            pool("g-everybody", "10.7.0.0/16", |p| p.spec.node_selector = Some("all()".to_owned())),
            pool("h-tunnel", "10.8.0.0/16", |p| p.spec.allowed_uses = Some(vec![PoolUse::Tunnel])),
            pool("i-going", "10.9.0.0/16", |p| p.metadata.deletion_timestamp = Some("now".to_owned())),
            pool("j-overlap", "10.1.0.0/17", |p| {
                let condition = Condition {
                    condition_type: "Allocatable".to_owned(),
                    status: "False".to_owned(),
                    ..Condition::default()
                };
                p.status = Some(IPPoolStatus { conditions: vec![condition] });
            }),
            pool("k-bad", "10.10.0.1/16", |_| {}),
            pool("l-bad", "10.11.0.0/16", |p| p.spec.block_size = Some(19)),
        ];
        let workload = PoolUse::Workload;
        assert_eq!(chosen(&pools, &[], workload).unwrap(), ["a-rack", "g-everybody", "z-all"]);
        assert_eq!(chosen(&pools, &["c-manual", "10.3.0.0/16"], workload).unwrap(), ["c-manual", "b-other-rack"]);
        let error = |requested: &[&str], pool_use| chosen(&pools, requested, pool_use).unwrap_err().to_string();
        assert_eq!(error(&["d-off"], workload), "the given pool (d-off) does not exist, or is not enabled");
        assert_eq!(error(&["e-v6"], workload), "the given pool (e-v6) does not exist, or is not enabled");
        assert!(error(&["h-tunnel"], workload).contains("no pools match the required use (Workload)"));
        assert!(error(&[], PoolUse::LoadBalancer).contains("no pools match the required use (LoadBalancer)"));
        let error = chosen(&pools[2..4], &[], workload).unwrap_err().to_string();
        assert!(error.starts_with("no configured Calico pools for node node-1"), "{error}");
        let error = chosen(&pools[11..], &[], workload).unwrap_err().to_string();
        assert!(error.contains("k-bad") && error.contains("blockSize 19"), "{error}");
        let broken = [pool("p", "10.0.0.0/16", |p| p.spec.node_selector = Some("rack ~ a".to_owned()))];
        assert!(matches!(chosen(&broken, &[], workload), Err(SelectError::Selector { .. })), "never silently");
    }
}
