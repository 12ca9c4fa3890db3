//! Which path is best (RFC 4271 §9.1.2.2, RFC 4456 §9): by elimination, so that the order of arrival does not matter.

use std::fmt;
use std::net::IpAddr;

use crate::{Attributes, Community, LocalRoute, RouterId};

/// A step of the decision process; a path falls at the first at which another is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Higher preference, which comes before any attribute; own before learned among equals.
    ///
    /// | preference | |
    /// |---|---|
    /// | 240 | connected subnets |
    /// | 210 | own workload endpoints with a metric below the normal one (a live migration that arrives here) |
    /// | 200 | own blocks and services; learned paths whose LOCAL_PREF says a metric below the normal one |
    /// | 150 | own workload endpoints |
    /// | 100 | learned paths |
    /// | 10 | routes of the kernel to elsewhere |
    ///
    /// Departs from Calico: there, felix's routes to workload endpoints are the kernel's like any other and rank 10, so
    /// that a stale path of a peer takes a pod from the node on which it runs. Here they stand above learned paths, except
    /// those raised by their metric: a pod that was migrated away lives where the raised path leads.
    Preference,
    /// Not long-lived stale before long-lived stale (RFC 9494 §4.3).
    LongLivedStale,
    /// Higher LOCAL_PREF (RFC 4271 §9.1.1).
    LocalPref,
    /// Shorter AS_PATH (a).
    AsPath,
    /// Lower ORIGIN (b).
    Origin,
    /// Lower MULTI_EXIT_DISC among paths of one neighbouring AS (c).
    Med,
    /// External before internal (d).
    External,
    /// Nearer next hop (e).
    NextHopMetric,
    /// Lower ORIGINATOR_ID or, without one, BGP identifier of the peer (f, RFC 4456 §9).
    RouterId,
    /// Shorter CLUSTER_LIST (RFC 4456 §9).
    ClusterList,
    /// Lower address of the peer (g).
    PeerAddress,
    /// Lower path identifier (RFC 7911 leaves it open).
    PathId,
}

impl Step {
    /// The steps in order. Paths that are equal up to [`Step::NextHopMetric`] may be used together.
    const ORDER: [Self; 12] = [
        Self::Preference,
        Self::LongLivedStale,
        Self::LocalPref,
        Self::AsPath,
        Self::Origin,
        Self::Med,
        Self::External,
        Self::NextHopMetric,
        Self::RouterId,
        Self::ClusterList,
        Self::PeerAddress,
        Self::PathId,
    ];
}

/// The name of what is compared, as operators know it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preference => "preference",
            Self::LongLivedStale => "long-lived stale",
            Self::LocalPref => "LOCAL_PREF",
            Self::AsPath => "AS_PATH length",
            Self::Origin => "ORIGIN",
            Self::Med => "MED",
            Self::External => "internal",
            Self::NextHopMetric => "metric of next hop",
            Self::RouterId => "router ID",
            Self::ClusterList => "CLUSTER_LIST length",
            Self::PeerAddress => "peer address",
            Self::PathId => "path ID",
        })
    }
}

/// A path as the decision process sees it: it may be used, and this is all that counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contender<'a> {
    /// Which path it is, for whoever asked.
    pub(super) index: usize,
    pub(super) attributes: &'a Attributes,
    /// Before all attributes.
    pub(super) preference: u8,
    /// The peer; `None` for a route of our own.
    pub(super) peer: Option<Neighbor>,
    /// Distance of the next hop.
    pub(super) metric: u32,
    pub(super) path_id: u32,
}

/// What counts of the peer that a path is from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neighbor {
    pub(super) external: bool,
    pub(super) router_id: RouterId,
    pub(super) address: IpAddr,
}

impl Contender<'_> {
    /// The rank at a step that compares each with each; the lowest stays.
    fn rank(&self, step: Step) -> u128 {
        let attributes = self.attributes;
        match step {
            Step::Preference => u128::from(u8::MAX - self.preference) * 2 + u128::from(self.peer.is_some()),
            Step::LongLivedStale => attributes.communities.contains(&Community::LLGR_STALE).into(),
            Step::LocalPref => u128::from(u32::MAX - attributes.effective_local_pref()),
            Step::AsPath => attributes.as_path.length() as u128,
            Step::Origin => attributes.origin as u128,
            Step::Med => 0,
            Step::External => self.peer.is_some_and(|peer| !peer.external).into(),
            Step::NextHopMetric => self.metric.into(),
            Step::RouterId => {
                let id = attributes.originator_id.or(self.peer.map(|peer| peer.router_id));
                id.map_or(0, |id| id.number().into())
            }
            Step::ClusterList => attributes.cluster_list.len() as u128,
            Step::PeerAddress => match self.peer.map(|peer| peer.address) {
                None => 0,
                Some(IpAddr::V4(address)) => u32::from(address).into(),
                Some(IpAddr::V6(address)) => address.into(),
            },
            Step::PathId => self.path_id.into(),
        }
    }

    /// Whether `other` makes this one fall at [`Step::Med`]: comparable, and lower.
    fn falls_by_med(&self, other: &Self) -> bool {
        let med = |contender: &Self| contender.attributes.med.unwrap_or(0);
        other.attributes.as_path.neighbor() == self.attributes.as_path.neighbor() && med(other) < med(self)
    }
}

/// The least LOCAL_PREF that says a metric: one of 2^24 (see `bgp.md` §2.8; other speakers use the range below as they like).
const LEAST_RAISING: u32 = LOCAL_PREF_OF_ZERO - (1 << 24);

/// The LOCAL_PREF of metric 0.
const LOCAL_PREF_OF_ZERO: u32 = 0x7fff_ffff;

/// Preference of a learned path: raised if its LOCAL_PREF says a metric below `normal`, unless an import rule accepted
/// it by name (`explicit`), which is how an operator takes LOCAL_PREF for what it is elsewhere.
pub(super) fn learned_preference(attributes: &Attributes, explicit: bool, normal: u32) -> u8 {
    let local_pref = attributes.effective_local_pref();
    let raised = local_pref > LocalRoute::local_pref(normal) && local_pref >= LEAST_RAISING;
    if raised && !explicit { 200 } else { 100 }
}

/// Outcome of a decision, as the indices of contenders.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// The best.
    pub(super) best: Option<usize>,
    /// As good as the best before the tie-breakers, the best not among them.
    pub(super) equal: Vec<usize>,
    /// The others, and those in `equal`, with the step at which each fell.
    pub(super) fell: Vec<(usize, Step)>,
}

/// The decision process: each step removes those that are not among its best.
pub(super) fn decide(mut left: Vec<Contender<'_>>) -> Decision {
    let mut decision = Decision::default();
    for step in Step::ORDER {
        if step == Step::RouterId {
            decision.equal = left.iter().map(|contender| contender.index).collect();
        }
        if left.len() < 2 {
            continue;
        }
        let fell = &mut decision.fell;
        let mut stays = |contender: &Contender<'_>, stays: bool| {
            if !stays {
                fell.push((contender.index, step));
            }
            stays
        };
        if step == Step::Med {
            let beaten: Vec<bool> = left.iter().map(|one| left.iter().any(|other| one.falls_by_med(other))).collect();
            let mut beaten = beaten.into_iter();
            left.retain(|contender| stays(contender, !beaten.next().unwrap_or(false)));
        } else {
            let lowest = left.iter().map(|contender| contender.rank(step)).min();
            left.retain(|contender| stays(contender, Some(contender.rank(step)) == lowest));
        }
    }
    decision.best = left.first().map(|contender| contender.index);
    decision.equal.retain(|index| Some(*index) != decision.best);
    decision
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::{AsPath, Asn, ClusterId, Origin};

    #[derive(Clone, Debug)]
    struct Path {
        attributes: Attributes,
        peer: Option<Neighbor>,
        metric: u32,
        path_id: u32,
    }

    fn id(last: u8) -> RouterId {
        Ipv4Addr::new(192, 0, 2, last).try_into().unwrap()
    }

    /// An external path of AS 65001 by peer 192.0.2.`last`.
    fn path(last: u8) -> Path {
        let mut attributes = Attributes::new(Ipv4Addr::new(192, 0, 2, last).into());
        attributes.as_path = AsPath::sequence([Asn(65001)]);
        let address = Ipv4Addr::new(192, 0, 2, last).into();
        Path {
            attributes,
            peer: Some(Neighbor { external: true, router_id: id(last), address }),
            metric: 0,
            path_id: 0,
        }
    }

    impl Path {
        fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
            change(&mut self);
            self
        }
        fn preference(&self) -> u8 {
            let own = LocalRoute::default().preference(LocalRoute::NORMAL_METRIC);
            self.peer.map_or(own, |_| learned_preference(&self.attributes, false, LocalRoute::NORMAL_METRIC))
        }
        fn internal(self) -> Self {
            self.with(|path| path.peer.as_mut().unwrap().external = false)
        }
    }

    fn decide_paths(paths: &[Path]) -> Decision {
        let contender = |(index, path): (usize, &Path)| Contender {
            index,
            attributes: unsafe_free_leak(&path.attributes),
            preference: path.preference(),
            peer: path.peer,
            metric: path.metric,
            path_id: path.path_id,
        };
        decide(paths.iter().enumerate().map(contender).collect())
    }

    /// Lifetimes of closures are easier with a copy that lives on; tests may leak.
    fn unsafe_free_leak(attributes: &Attributes) -> &'static Attributes {
        Box::leak(Box::new(attributes.clone()))
    }

    #[test]
    fn each_step_decides_when_all_before_tie() {
        #[track_caller]
        fn check(better: Path, worse: Path, step: Step) {
            for (paths, best) in [([better.clone(), worse.clone()], 0), ([worse, better], 1)] {
                let decision = decide_paths(&paths);
                assert_eq!((decision.best, decision.fell), (Some(best), vec![(1 - best, step)]));
                assert_eq!(decision.equal.is_empty(), step <= Step::NextHopMetric);
            }
        }
        let local_pref = |value| move |path: &mut Path| path.attributes.local_pref = Some(value);
        check(path(9).with(|path| path.peer = None), path(1).with(local_pref(2_147_482_623)), Step::Preference);
        let own = path(9).with(|path| path.peer = None).with(local_pref(2_147_482_623));
        check(own, path(1).internal().with(local_pref(2_147_483_135)), Step::Preference); // both 200: own first
        let stale = |path: &mut Path| path.attributes.communities.push(Community::LLGR_STALE);
        check(path(9), path(1).with(stale).with(local_pref(200)), Step::LongLivedStale);
        check(path(9), path(1).with(local_pref(99)), Step::LocalPref); // none is 100
        let longer = |path: &mut Path| path.attributes.as_path.prepend(Asn(65001));
        check(path(9), path(1).with(longer), Step::AsPath);
        check(path(9), path(1).with(|path| path.attributes.origin = Origin::Incomplete), Step::Origin);
        check(path(9), path(1).with(|path| path.attributes.med = Some(1)), Step::Med); // none is 0
        check(path(9), path(1).internal(), Step::External);
        check(path(9), path(1).with(|path| path.metric = 1), Step::NextHopMetric);
        check(path(1), path(9), Step::RouterId);
        let originator = |last| move |path: &mut Path| path.attributes.originator_id = Some(id(last));
        check(path(9).with(originator(1)), path(2), Step::RouterId);
        let cluster = |path: &mut Path| path.attributes.cluster_list.push(ClusterId(Ipv4Addr::LOCALHOST));
        check(path(9).with(originator(1)), path(1).with(cluster), Step::ClusterList);
        let same_router = |path: &mut Path| path.peer.as_mut().unwrap().router_id = id(1);
        check(path(1), path(9).with(same_router), Step::PeerAddress);
        check(path(1), path(1).with(|path| path.path_id = 1), Step::PathId);
    }

    /// The classic case in which comparing in pairs depends on the order: MED counts within AS 65001 only.
    #[test]
    fn med_is_compared_within_one_neighboring_as_only() {
        let med = |value| move |path: &mut Path| path.attributes.med = Some(value);
        let other_as = |path: &mut Path| path.attributes.as_path = AsPath::sequence([Asn(65002)]);
        let a = path(3).with(med(10));
        let b = path(2).with(other_as).with(med(100));
        let c = path(1).with(med(20));
        for order in [[&a, &b, &c], [&c, &b, &a], [&b, &c, &a]] {
            let paths = order.map(Clone::clone);
            let decision = decide_paths(&paths);
            let best = &paths[decision.best.unwrap()];
            assert_eq!(best.peer.unwrap().router_id, id(2), "c falls by a's MED, then b has the lower identifier");
        }
    }

    fn any_path() -> impl Strategy<Value = Path> {
        let numbers = (0..4_u8, 0..3_u32, 0..3_u32, 0..2_u32, 0..2_u32);
        (numbers, any::<bool>(), 0..3_u32, 0..2_usize).prop_map(
            |((last, asn, med, metric, path_id), external, pref, cluster)| {
                path(last).with(|path| {
                    path.attributes.as_path = AsPath::sequence((0..1 + asn % 2).map(|hop| Asn(65000 + asn + hop)));
                    path.attributes.med = med.checked_sub(1);
                    path.attributes.local_pref = pref.checked_sub(1).map(|pref| 100 + pref);
                    path.attributes.cluster_list = vec![ClusterId(Ipv4Addr::LOCALHOST); cluster];
                    path.peer.as_mut().unwrap().external = external;
                    path.metric = metric;
                    path.path_id = path_id;
                })
            },
        )
    }

    proptest! {
        #[test]
        fn the_outcome_does_not_depend_on_the_order_of_arrival(
            paths in prop::collection::vec(any_path(), 1..7),
            shuffle in any::<prop::sample::Index>(),
        ) {
            let outcome = |paths: &[Path]| {
                let decision = decide_paths(paths);
                let name = |index: usize| format!("{:?}", paths[index]);
                let mut equal: Vec<_> = decision.equal.into_iter().map(name).collect();
                let mut fell: Vec<_> = decision.fell.into_iter().map(|(index, step)| (name(index), step)).collect();
                equal.sort();
                fell.sort();
                (decision.best.map(name), equal, fell)
            };
            // A peer has one path under one identifier: another would replace it.
            let mut paths = paths;
            let mut seen = std::collections::HashSet::new();
            paths.retain(|path| seen.insert((path.peer.map(|peer| peer.address), path.path_id)));
            let before = outcome(&paths);
            let mut shuffled = paths.clone();
            shuffled.rotate_left(shuffle.index(paths.len()));
            shuffled.reverse();
            prop_assert_eq!(before, outcome(&shuffled));
        }
    }
}
