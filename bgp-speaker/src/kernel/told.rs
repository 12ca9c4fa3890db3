//! Which of others' routes was the speaker told of, and which is it still to hear of?

use std::collections::{BTreeMap, BTreeSet};

use bgp_proto::LocalKind;
use ipnet::IpNet;

use super::{Interest, KernelRoute, KernelRoutes};
use crate::fib::Image;

/// How many changes are told at once: the speaker has other work.
const AT_ONCE: usize = 1024;

/// What was told, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Told {
    interest: Option<Interest>,
    told: BTreeMap<IpNet, KernelRoute>,
    /// Prefixes whose routes may be others than was told. Values are looked up when they are told, so a prefix that
    /// changes a hundred times before the speaker listens is told once, or not at all.
    untold: BTreeSet<IpNet>,
    /// It is to be said when nothing is left.
    end: bool,
}

impl Told {
    /// Takes over what the speaker wants to hear of.
    pub(super) fn set_interest(&mut self, interest: Interest, image: &Image) {
        self.end = true;
        if self.interest.as_ref() != Some(&interest) {
            self.interest = Some(interest);
            self.mark_all(image);
        }
    }

    /// A route for a prefix changed.
    pub(super) fn mark(&mut self, prefix: &IpNet, image: &Image) {
        // What does not differ is not remembered: others may have a full table that nobody here wants to hear of.
        if self.interest.is_some() && self.wanted(prefix, image).as_ref() != self.told.get(prefix) {
            self.untold.insert(*prefix);
        }
    }

    /// Any route may have changed.
    pub(super) fn mark_all(&mut self, image: &Image) {
        if self.interest.is_none() {
            return;
        }
        image.prefixes().for_each(|prefix| self.mark(&prefix, image));
        let told: Vec<_> = self.told.keys().copied().collect();
        told.iter().for_each(|prefix| self.mark(prefix, image));
    }

    /// What the speaker is to hear next, if anything; it counts as told.
    pub(super) fn take(&mut self, image: &Image) -> Option<KernelRoutes> {
        let mut changes = Vec::new();
        while changes.len() < AT_ONCE
            && let Some(prefix) = self.untold.pop_first()
        {
            let now = self.wanted(&prefix, image);
            if now.as_ref() == self.told.get(&prefix) {
                continue;
            }
            match &now {
                Some(route) => drop(self.told.insert(prefix, route.clone())),
                None => drop(self.told.remove(&prefix)),
            }
            changes.push((prefix, now));
        }
        if changes.is_empty() && !std::mem::take(&mut self.end) {
            return None;
        }
        Some(changes)
    }

    /// What the speaker should know of a prefix.
    fn wanted(&self, prefix: &IpNet, image: &Image) -> Option<KernelRoute> {
        let inside = match self.interest.as_ref()? {
            Interest::All => true,
            Interest::Inside(ranges) => ranges.iter().any(|range| range.contains(prefix)),
        };
        image.told(prefix).filter(|route| inside || route.kind == LocalKind::Direct)
    }
}

#[cfg(test)]
mod tests {
    use calico_netlink::NextHop;

    use super::*;
    use crate::fib::{Foreign, LinkFacts};

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn image() -> Image {
        let mut image = Image::default();
        image.link(2, Some(LinkFacts { name: "eth0".to_owned(), kind: None, up: true }));
        image
    }

    fn route(metric: u32, protocol: u8) -> Foreign {
        Foreign { metric, protocol, hops: vec![NextHop::dev(2)] }
    }

    /// All that is told now: prefix and metric.
    fn heard(told: &mut Told, image: &Image) -> Vec<(String, Option<u32>)> {
        let batches = std::iter::from_fn(|| told.take(image));
        batches.flatten().map(|(prefix, route)| (prefix.to_string(), route.map(|route| route.metric))).collect()
    }

    #[test]
    fn only_what_matters_is_told_and_each_prefix_once_as_it_is() {
        let (mut told, mut image) = (Told::default(), image());
        image.route(net("10.0.0.0/24"), route(0, 2), true);
        image.route(net("10.244.1.1/32"), route(5, 80), true);
        image.route(net("198.51.100.0/24"), route(0, 4), true);
        told.mark(&net("10.0.0.0/24"), &image);
        assert_eq!(told.take(&image), None, "nobody asked");

        let pool = net("10.244.0.0/16");
        told.set_interest(Interest::Inside(vec![pool]), &image);
        let named = |prefix: &str, metric| (prefix.to_owned(), metric);
        let first = heard(&mut told, &image);
        assert_eq!(first, [named("10.0.0.0/24", Some(0)), named("10.244.1.1/32", Some(5))]);

        // There and gone again before anybody listens, and a lower metric beside the other.
        image.route(net("10.244.1.2/32"), route(5, 80), true);
        told.mark(&net("10.244.1.2/32"), &image);
        image.route(net("10.244.1.2/32"), route(5, 80), false);
        image.route(net("10.244.1.1/32"), route(3, 80), true);
        told.mark(&net("10.244.1.1/32"), &image);
        assert_eq!(heard(&mut told, &image), [named("10.244.1.1/32", Some(3))]);
        image.route(net("10.244.1.1/32"), route(5, 80), false);
        told.mark(&net("10.244.1.1/32"), &image);
        assert_eq!(told.take(&image), None, "the better one is as it was");

        told.set_interest(Interest::All, &image);
        assert_eq!(heard(&mut told, &image), [named("198.51.100.0/24", Some(0))]);
        told.set_interest(Interest::Inside(vec![]), &image);
        assert_eq!(heard(&mut told, &image), [named("10.244.1.1/32", None), named("198.51.100.0/24", None)]);
    }

    #[test]
    fn a_full_table_is_told_in_pieces_with_an_end_and_is_not_remembered_if_nobody_wants_it() {
        let (mut told, mut image) = (Told::default(), image());
        for n in 0..5000u16 {
            let [a, b] = n.to_be_bytes();
            image.route(net(&format!("100.{a}.{b}.0/24")), route(0, 186), true);
        }
        told.set_interest(Interest::Inside(vec![net("10.244.0.0/16")]), &image);
        assert!(told.untold.is_empty());
        assert_eq!(told.take(&image), Some(vec![]));
        told.set_interest(Interest::All, &image);
        let sizes: Vec<_> = std::iter::from_fn(|| told.take(&image)).map(|changes| changes.len()).collect();
        assert_eq!(sizes, [1024, 1024, 1024, 1024, 904, 0]);
    }
}
