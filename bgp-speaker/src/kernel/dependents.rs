//! Which prefixes and next hops may a change matter to?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// Who depends on next hops, and what is to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Dependents {
    /// Next hop to the learned prefixes that have it.
    users: BTreeMap<IpAddr, BTreeSet<IpNet>>,
    /// Next hops that the RIB has paths of.
    watched: BTreeSet<IpAddr>,
    /// Prefixes to be judged again.
    dirty: BTreeSet<IpNet>,
    /// Next hops whose reachability is to be told again.
    hops: BTreeSet<IpAddr>,
}

impl Dependents {
    /// A prefix has these next hops now, instead of those.
    pub(super) fn exchange(&mut self, prefix: IpNet, old: &[IpAddr], new: &[IpAddr]) {
        for hop in new {
            self.users.entry(*hop).or_default().insert(prefix);
        }
        for hop in old.iter().filter(|hop| !new.contains(hop)) {
            if let Some(users) = self.users.get_mut(hop) {
                users.remove(&prefix);
                if users.is_empty() {
                    self.users.remove(hop);
                }
            }
        }
    }

    /// The RIB begins or ceases to have paths of a next hop.
    pub(super) fn watch(&mut self, next_hop: IpAddr, used: bool) {
        if used {
            self.watched.insert(next_hop)
        } else {
            self.watched.remove(&next_hop)
        };
        self.hops.insert(next_hop);
    }

    /// Something changed about the routes for `prefix`: it may matter to the prefix itself, to next hops inside, to
    /// the prefixes that have those, and so on.
    pub(super) fn touch(&mut self, prefix: &IpNet) {
        self.dirty.insert(*prefix);
        let mut touched = vec![*prefix];
        while let Some(prefix) = touched.pop() {
            let inside = prefix.network()..=prefix.broadcast();
            for users in self.users.range(inside.clone()).map(|(_, users)| users) {
                touched.extend(users.iter().filter(|user| self.dirty.insert(**user)));
            }
            self.hops.extend(self.watched.range(inside));
        }
    }

    /// Everything may have changed.
    pub(super) fn touch_all<'a>(&mut self, learned: impl Iterator<Item = &'a IpNet>) {
        self.dirty.extend(learned);
        self.hops.extend(&self.watched);
    }

    pub(super) fn take_dirty(&mut self) -> BTreeSet<IpNet> {
        std::mem::take(&mut self.dirty)
    }

    /// The next hops to be told of, and whether each is still watched.
    pub(super) fn take_hops(&mut self) -> Vec<(IpAddr, bool)> {
        let hops = std::mem::take(&mut self.hops).into_iter();
        hops.map(|hop| (hop, self.watched.contains(&hop))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_change_reaches_what_depends_on_it_over_any_number_of_steps_and_nothing_else() {
        let mut dependents = Dependents::default();
        dependents.exchange(net("203.0.113.0/24"), &[], &[ip("10.244.5.7")]);
        dependents.exchange(net("10.244.5.0/26"), &[], &[ip("192.0.2.1")]);
        dependents.exchange(net("192.0.2.0/24"), &[], &[ip("10.0.0.2")]);
        dependents.exchange(net("198.51.100.0/24"), &[], &[ip("10.0.0.3")]);
        for hop in ["10.244.5.7", "192.0.2.1", "10.0.0.3", "fd00::1"] {
            dependents.watch(ip(hop), true);
        }
        dependents.take_hops();
        dependents.touch(&net("10.0.0.2/32"));
        let dirty: Vec<_> = dependents.take_dirty().into_iter().collect();
        let expected = ["10.0.0.2/32", "10.244.5.0/26", "192.0.2.0/24", "203.0.113.0/24"].map(net);
        assert_eq!(dirty, expected);
        assert_eq!(dependents.take_hops(), [(ip("10.244.5.7"), true), (ip("192.0.2.1"), true)]);
        dependents.exchange(net("203.0.113.0/24"), &[ip("10.244.5.7")], &[]);
        dependents.touch(&net("10.244.5.0/26"));
        assert_eq!(dependents.take_dirty().into_iter().collect::<Vec<_>>(), [net("10.244.5.0/26")]);
    }
}
