//! Whatever happened in whatever order, what was decided is what would be decided now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_plan::inputs::{Encap, Pool};
use calico_netlink::NextHop;
use ipnet::IpNet;
use proptest::prelude::*;

use super::dependents::Dependents;
use super::write::Statics;
use crate::fib::{Fib, Foreign, Hop, Learned, LinkFacts, Ownership, Unreachable};

/// So few prefixes and addresses that they cover each other in all ways.
const PREFIXES: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/16",
    "10.0.0.0/24",
    "10.0.0.4/32",
    "10.0.1.0/24",
    "10.0.1.4/32",
    "10.0.2.0/24",
    "10.0.2.4/32",
];
const ADDRESSES: [&str; 6] = ["10.0.0.4", "10.0.0.5", "10.0.1.4", "10.0.1.5", "10.0.2.4", "10.0.2.5"];
const ETH0: u32 = 2;
const TUNL0: u32 = 4;

#[derive(Clone, Debug)]
enum Op {
    /// Another's route comes or goes: prefix, metric, by whom, gateway (an address, the link or none).
    Foreign(usize, u32, u8, Option<usize>, bool),
    /// Paths of a prefix with these next hops, a LOCAL_PREF and from a peer.
    Learn(usize, Vec<usize>, Option<u32>, usize),
    Forget(usize),
    Statics(BTreeMap<usize, usize>),
    Address(usize, bool),
    Tunnel(bool),
    /// These addresses do not take IPIP yet.
    Awaited(BTreeSet<usize>),
}

fn op() -> impl Strategy<Value = Op> {
    let (prefix, address) = (0..PREFIXES.len(), 0..ADDRESSES.len());
    let protocol = prop::sample::select(vec![2u8, 4, 80]);
    let metric = prop::sample::select(vec![0u32, 512, 1024]);
    let gateway = prop_oneof![Just(None), (0..=ADDRESSES.len()).prop_map(Some)];
    let local_pref = prop_oneof![2 => Just(None), 1 => Just(Some(2_147_483_135))];
    let hops = prop::collection::vec(address.clone(), 1..3);
    prop_oneof![
        4 => (prefix.clone(), metric, protocol, gateway, any::<bool>()).prop_map(|(p, m, by, g, on)| Op::Foreign(p, m, by, g, on)),
        6 => (prefix.clone(), hops, local_pref, address.clone()).prop_map(|(p, h, l, from)| Op::Learn(p, h, l, from)),
        2 => prefix.prop_map(Op::Forget),
        1 => prop::collection::btree_map(address.clone(), address.clone(), 0..3).prop_map(Op::Statics),
        1 => (address, any::<bool>()).prop_map(|(a, on)| Op::Address(a, on)),
        1 => any::<bool>().prop_map(Op::Tunnel),
        2 => prop::collection::btree_set(0..ADDRESSES.len(), 0..4).prop_map(Op::Awaited),
    ]
}

fn prefix(index: usize) -> IpNet {
    PREFIXES[index].parse().unwrap()
}

fn address(index: usize) -> IpAddr {
    ADDRESSES[index].parse().unwrap()
}

/// What the thread keeps, without the kernel.
#[derive(Default)]
struct Model {
    fib: Fib,
    dependents: Dependents,
    statics: Statics,
    reach: BTreeMap<IpAddr, Result<Hop, Unreachable>>,
    /// What is needed to make another such FIB.
    foreign: BTreeSet<(IpNet, Foreign)>,
    own: BTreeSet<IpAddr>,
    tunnel: bool,
}

impl Model {
    fn new() -> Self {
        let mut model = Self { fib: empty(false), ..Self::default() };
        (0..ADDRESSES.len()).for_each(|index| model.dependents.watch(address(index), true));
        model
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Foreign(index, metric, protocol, gateway, present) => {
                let prefix = prefix(index);
                let hops = match gateway {
                    None => vec![],
                    Some(index) if index == ADDRESSES.len() => vec![NextHop::dev(ETH0)],
                    Some(index) => vec![NextHop::via(address(index)).on(ETH0)],
                };
                let route = Foreign { metric, protocol, hops };
                if present {
                    self.foreign.insert((prefix, route.clone()));
                } else {
                    self.foreign.remove(&(prefix, route.clone()));
                }
                if self.fib.image_of(&prefix).route(prefix, route, present) {
                    self.dependents.touch(&prefix);
                    self.statics.look_again();
                }
            }
            Op::Learn(index, next_hops, local_pref, peer) => {
                let next_hops = next_hops.into_iter().map(address).collect::<BTreeSet<_>>().into_iter().collect();
                self.learn(prefix(index), Some(Learned { next_hops, local_pref, peer: Some(address(peer)) }));
            }
            Op::Forget(index) => self.learn(prefix(index), None),
            Op::Statics(pairs) => {
                let statics = pairs.into_iter().map(|(peer, gateway)| (address(peer), address(gateway)));
                self.fib.set_statics(statics.collect()).iter().for_each(|prefix| self.dependents.touch(prefix));
                self.statics.look_again();
            }
            Op::Address(index, present) => {
                let own = address(index);
                if present {
                    self.own.insert(own)
                } else {
                    self.own.remove(&own)
                };
                if self.fib.image_of(&IpNet::from(own)).address(own, ETH0, present) {
                    self.dependents.touch(&IpNet::from(own));
                    self.statics.look_again();
                }
            }
            Op::Tunnel(up) => {
                self.tunnel = up;
                self.fib.whole_image().link(TUNL0, Some(facts("tunl0", up)));
                self.dependents.touch_all(self.fib.learned().keys());
            }
            Op::Awaited(indices) => {
                let awaited = indices.into_iter().map(address).collect();
                match self.fib.set_ownership(Ownership { awaited, ..self.fib.ownership().clone() }) {
                    Some(changed) => changed.iter().for_each(|prefix| self.dependents.touch(prefix)),
                    None => panic!("nothing else is different"),
                }
            }
        }
        self.statics.changed(&self.fib, &mut self.dependents);
        for prefix in self.dependents.take_dirty() {
            self.fib.decide(&prefix);
        }
        for (hop, _) in self.dependents.take_hops() {
            self.reach.insert(hop, self.fib.resolve(hop));
        }
    }

    fn learn(&mut self, prefix: IpNet, learned: Option<Learned>) {
        let new = learned.as_ref().map(|learned| learned.depends_on(&prefix)).unwrap_or_default();
        let old = self.fib.learn(prefix, learned);
        let before = old.map(|entry| entry.learned.depends_on(&prefix)).unwrap_or_default();
        self.dependents.exchange(prefix, &before, &new);
        self.dependents.touch(&prefix);
    }

    /// A FIB that is told everything at once.
    fn anew(&self) -> Fib {
        let mut fib = empty(self.tunnel);
        fib.set_ownership(self.fib.ownership().clone());
        for (prefix, route) in &self.foreign {
            fib.whole_image().route(*prefix, route.clone(), true);
        }
        for own in &self.own {
            fib.whole_image().address(*own, ETH0, true);
        }
        fib.set_statics(self.fib.statics().clone());
        for (prefix, entry) in self.fib.learned() {
            fib.learn(*prefix, Some(entry.learned.clone()));
        }
        fib
    }
}

fn facts(name: &str, up: bool) -> LinkFacts {
    LinkFacts { name: name.to_owned(), kind: None, up }
}

fn empty(tunnel: bool) -> Fib {
    let mut fib = Fib::default();
    fib.whole_image().link(ETH0, Some(facts("eth0", true)));
    fib.whole_image().link(TUNL0, Some(facts("tunl0", tunnel)));
    let ipip = Pool {
        cidr: "10.0.2.0/24".parse().unwrap(),
        encap: Encap::Ipip { cross_subnet: true },
        disable_bgp_export: false,
    };
    let address_v4 = Some("10.0.0.1/24".parse().unwrap());
    fib.set_ownership(Ownership { pools: vec![ipip], ipip: true, address_v4, ..Ownership::default() });
    fib
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, ..ProptestConfig::default() })]
    #[test]
    fn what_is_decided_step_by_step_is_what_would_be_decided_at_once(ops in prop::collection::vec(op(), 1..24)) {
        let mut model = Model::new();
        for op in ops {
            model.apply(op);
            let anew = model.anew();
            for (prefix, entry) in model.fib.learned() {
                let expected = anew.judge(prefix, &entry.learned);
                prop_assert_eq!(entry.verdict.as_ref(), Some(&expected), "{}", prefix);
            }
            for (hop, reach) in &model.reach {
                prop_assert_eq!(reach, &anew.resolve(*hop), "{}", hop);
            }
        }
    }

    #[test]
    fn no_learned_route_takes_away_what_is_reachable_without_it(ops in prop::collection::vec(op(), 1..40)) {
        let mut model = Model::new();
        ops.into_iter().for_each(|op| model.apply(op));
        let mut without = model.anew();
        for prefix in model.fib.learned().keys() {
            without.learn(*prefix, None);
        }
        for (hop, reach) in &model.reach {
            prop_assert!(reach.is_ok() || without.resolve(*hop).is_err(), "{hop}");
        }
    }
}
