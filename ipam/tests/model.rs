//! Several nodes, one real store, and a gate before it that lets one write through at a time.
//!
//! Between any two writes a node may crash (with or without its last write having reached the store), the
//! store may not answer (likewise), and events reach the nodes late. Whatever the order: no address has two holders,
//! none is without a handle that counts it, every block is sound, and everything can be released and used again.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use calico_api::{AffinityState, BlockAffinitySpec, IPAMBlockSpec, IPAMHandleSpec, Kind, Owner};
use calico_datastore::watch::Update;
use calico_datastore::{Backend, Filter, Store};
use ipam::network::overlap;
use ipam::{
    Allocator, Apart, AssignError, AssignRequest, Assigned, Release, ReleaseAffinityError, ReleaseError, block, handle,
};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::Config;
use support::{Gate, Verdict, Way, add_pool, at, memory, typed};
use tokio::task::JoinHandle;

const NODES: usize = 3;

/// What a step does to its node.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// If it is idle: so many pods at once, with addresses of these families.
    Assign { pods: u8, ipv4: bool, ipv6: bool },
    /// If it is idle: this pod is asked for again under its handle, by address.
    Again(u8),
    /// If it is idle: a pod goes.
    Release(u8),
    /// If it is idle: so many pods go together.
    Leave(u8),
    /// If it is idle: an own block is given up.
    GiveUpBlock { which: u8, require_empty: bool },
    /// One of its waiting writes.
    Write(u8, Verdict),
    /// It crashes, its waiting write lost or made.
    Crash { made: bool },
    /// So many events reach it before its next operation.
    Events(u8),
}

#[derive(Clone, Copy, Debug)]
struct Step {
    node: usize,
    act: Act,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let act = prop_oneof![
        6 => (1..4_u8, prop_oneof![Just((true, false)), Just((true, true)), Just((false, true))])
            .prop_map(|(pods, (ipv4, ipv6))| Act::Assign { pods, ipv4, ipv6 }),
        1 => any::<u8>().prop_map(Act::Again),
        3 => any::<u8>().prop_map(Act::Release),
        2 => (2..5_u8).prop_map(Act::Leave),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(which, require_empty)| Act::GiveUpBlock { which, require_empty }),
        30 => any::<u8>().prop_map(|choice| Act::Write(choice, Verdict::Pass)),
        2 => any::<u8>().prop_map(|choice| Act::Write(choice, Verdict::PassUnsaid)),
        2 => any::<u8>().prop_map(|choice| Act::Write(choice, Verdict::Lose)),
        2 => any::<bool>().prop_map(|made| Act::Crash { made }),
        4 => (1..20_u8).prop_map(Act::Events),
    ];
    prop::collection::vec((0..NODES, act).prop_map(|(node, act)| Step { node, act }), 40..120)
}

/// How an operation ended.
#[derive(Debug)]
enum Done {
    Assigned(Vec<(String, Result<Vec<Assigned>, AssignError>)>),
    Again(String, IpAddr, Result<Vec<Assigned>, AssignError>),
    Released(String, Result<Vec<IpAddr>, ReleaseError>),
    GaveUp(Option<Result<(), ReleaseAffinityError>>),
}

#[derive(Default)]
struct Node {
    /// Absent after a crash, and while an operation has it.
    allocator: Option<Allocator>,
    running: Option<JoinHandle<(Allocator, Done)>>,
    /// Handles whose addresses were given to pods that still run.
    pods: BTreeMap<String, Vec<IpAddr>>,
    /// Every handle it ever used.
    handles: BTreeSet<String>,
    /// Whether the running operation was told that the store does not answer.
    troubled: bool,
    /// Whether it ever was, or crashed: then the store may hold what it left half done.
    scarred: bool,
    /// Up to which event it is served.
    seen: usize,
    /// How many more it is to see before its next operation.
    to_see: usize,
}

struct World {
    store: Store,
    inner: Arc<dyn Backend>,
    gate: Arc<Gate>,
    nodes: Vec<Node>,
    clock: i64,
    pods: usize,
    history: Vec<String>,
    /// Whether the store has transactions.
    atomic: bool,
}

impl World {
    async fn new(atomic: bool) -> Self {
        let inner = memory().await;
        let gate = Arc::new(Gate::default());
        let store = typed(&Way { inner: inner.clone(), gate: gate.clone(), node: usize::MAX, gated: false, atomic });
        add_pool(&store, "four", "10.0.0.0/28", 30).await;
        add_pool(&store, "six", "fd00::/125", 126).await;
        let nodes = (0..NODES).map(|_| Node::default()).collect();
        Self { store, inner, gate, nodes, clock: 0, pods: 0, history: Vec::new(), atomic }
    }

    fn way(&self, node: usize, gated: bool) -> Way {
        Way { inner: self.inner.clone(), gate: self.gate.clone(), node, gated, atomic: self.atomic }
    }

    fn name(node: usize) -> String {
        format!("node-{node}")
    }

    /// Starts an operation of an idle node, on its allocator or, after a crash, on a new one.
    fn start<F>(&mut self, node: usize, operation: impl FnOnce(Allocator) -> F + Send + 'static)
    where
        F: Future<Output = (Allocator, Done)> + Send,
    {
        let store = typed(&self.way(node, true));
        let (gate, end) = (self.gate.clone(), self.gate.events());
        let this = &mut self.nodes[node];
        this.troubled = false;
        let mut allocator = this.allocator.take();
        if let Some(allocator) = &mut allocator {
            let events = gate.events_from(this.seen);
            for event in events.iter().take(this.to_see) {
                allocator.observe(event);
                this.seen += 1;
            }
            this.to_see = 0;
        } else {
            this.seen = end;
        }
        this.running = Some(tokio::spawn(async move {
            let allocator = match allocator {
                Some(allocator) => allocator,
                None => {
                    let mut new = Allocator::new(store, Self::name(node));
                    new.load().await.unwrap();
                    new.observe(&Update::InSync);
                    new
                }
            };
            let result = operation(allocator).await;
            gate.touch();
            result
        }));
    }

    /// Waits until every node is idle or held at the gate, and takes in what ended.
    async fn settle(&mut self) {
        for node in 0..NODES {
            while let Some(running) = &self.nodes[node].running {
                if running.is_finished() {
                    let (allocator, done) = self.nodes[node].running.take().unwrap().await.unwrap();
                    self.nodes[node].allocator = Some(allocator);
                    self.history.push(format!("{node}: {done:?}"));
                    self.ended(node, done);
                } else if self.gate.is_held(node) {
                    break;
                } else {
                    // The task ends just after it has touched the gate.
                    tokio::select! { () = self.gate.changed() => {}, () = tokio::task::yield_now() => {} }
                }
            }
        }
    }

    fn ended(&mut self, node: usize, done: Done) {
        let troubled = self.nodes[node].troubled;
        let expected = |error: &AssignError| match error {
            AssignError::Exhausted { .. } => true,
            AssignError::Datastore { .. } => troubled,
            _ => false,
        };
        match done {
            Done::Assigned(results) => {
                for (handle, result) in results {
                    match result {
                        Ok(assigned) => self.hand_out(node, handle, assigned.iter().map(|a| a.address).collect()),
                        Err(error) => assert!(expected(&error), "{error}"),
                    }
                }
            }
            Done::Again(handle, address, result) => match result {
                Ok(assigned) => {
                    assert_eq!(assigned.iter().map(|a| a.address).collect::<Vec<_>>(), [address], "{handle}");
                }
                // Its block was given up with the address in use, and is nobody's.
                Err(AssignError::Foreign { .. }) => {}
                Err(error) => assert!(expected(&error), "{error}"),
            },
            Done::Released(handle, result) => match result {
                Ok(_) => {}
                Err(error) => assert!(troubled, "{handle}: {error}"),
            },
            Done::GaveUp(None | Some(Ok(()) | Err(ReleaseAffinityError::NotEmpty(_)))) => {}
            // The affinity was what an earlier giving up had left; it is gone now.
            Done::GaveUp(Some(Err(ReleaseAffinityError::NotOwner { .. }))) if self.nodes[node].scarred => {}
            Done::GaveUp(Some(Err(error))) => assert!(troubled, "{error}"),
        }
    }

    fn hand_out(&mut self, node: usize, handle: String, addresses: Vec<IpAddr>) {
        for pod in self.nodes.iter().flat_map(|node| &node.pods) {
            assert!(
                !addresses.iter().any(|address| pod.1.contains(address)),
                "{handle} and {} share {addresses:?}",
                pod.0
            );
        }
        self.nodes[node].pods.insert(handle, addresses);
    }

    async fn step(&mut self, step: Step) {
        self.clock += 1;
        let (node, now) = (step.node, at(self.clock));
        let idle = self.nodes[node].running.is_none();
        let pod = |choice: u8, pods: &BTreeMap<String, Vec<IpAddr>>| {
            let place = usize::from(choice).checked_rem(pods.len())?;
            pods.iter().nth(place).map(|(handle, addresses)| (handle.clone(), addresses.clone()))
        };
        match step.act {
            Act::Assign { pods, ipv4, ipv6 } if idle => {
                let mut requests = Vec::new();
                for _ in 0..pods {
                    self.pods += 1;
                    let handle = format!("pod-{}", self.pods);
                    let attributes = BTreeMap::from([("pod".to_owned(), handle.clone())]);
                    self.nodes[node].handles.insert(handle.clone());
                    requests.push(AssignRequest { ipv4, ipv6, attributes, ..AssignRequest::ipv4(handle) });
                }
                self.start(node, async move |mut allocator| {
                    let results = allocator.assign_many(&requests, now).await;
                    (allocator, Done::Assigned(requests.into_iter().map(|r| r.handle).zip(results).collect()))
                });
            }
            Act::Again(choice) if idle => {
                let Some((handle, addresses)) = pod(choice, &self.nodes[node].pods) else { return };
                let address = addresses[0];
                let attributes = BTreeMap::from([("again".to_owned(), handle.clone())]);
                let request =
                    AssignRequest { ipv4: false, addresses: vec![address], attributes, ..AssignRequest::ipv4(handle) };
                self.start(node, async move |mut allocator| {
                    let result = allocator.assign(&request, now).await;
                    (allocator, Done::Again(request.handle, address, result))
                });
            }
            Act::Release(choice) if idle => {
                let Some((handle, _)) = pod(choice, &self.nodes[node].pods) else { return };
                self.nodes[node].pods.remove(&handle);
                self.start(node, async move |mut allocator| {
                    let result = allocator.release_by_handle(&handle, now).await;
                    (allocator, Done::Released(handle, result))
                });
            }
            Act::Leave(count) if idle => {
                let pods = &mut self.nodes[node].pods;
                let handles: Vec<String> = pods.keys().take(count.into()).cloned().collect();
                handles.iter().for_each(|handle| drop(pods.remove(handle)));
                let release = |handle: &String| Release { handle: handle.clone(), older: None, also: Vec::new() };
                let releases: Vec<Release> = handles.iter().map(release).collect();
                self.start(node, async move |mut allocator| {
                    let mut result = Ok(Vec::new());
                    match allocator.release_together(&releases, now).await {
                        Ok(_) => {}
                        Err(Apart::Needed) => {
                            for handle in &handles {
                                let released = allocator.release_by_handle(handle, now).await;
                                result = result.and(released);
                            }
                        }
                        Err(Apart::Datastore(error)) => {
                            let (action, source) = ("release together".to_owned(), Arc::new(error));
                            result = Err(ReleaseError::Datastore { action, source });
                        }
                    }
                    (allocator, Done::Released(handles.join(" "), result))
                });
            }
            Act::GiveUpBlock { which, require_empty } if idle => self.start(node, async move |mut allocator| {
                let own: Vec<IpNet> = allocator.own_blocks().map(|block| block.spec.cidr).collect();
                let result = match usize::from(which).checked_rem(own.len()) {
                    Some(place) => Some(allocator.release_block(own[place], require_empty).await),
                    None => None,
                };
                (allocator, Done::GaveUp(result))
            }),
            Act::Write(choice, verdict) if !idle => {
                self.nodes[node].troubled |= verdict != Verdict::Pass;
                self.nodes[node].scarred |= verdict != Verdict::Pass;
                if let Some(what) = self.gate.decide(node, choice.into(), verdict) {
                    self.history.push(format!("{node}: {verdict:?} {what}"));
                }
            }
            Act::Crash { made } if !idle => {
                if made && let Some(what) = self.gate.decide(node, 0, Verdict::PassUnheard) {
                    self.history.push(format!("{node}: last words: {what}"));
                    while self.gate.is_busy(node) {
                        self.gate.changed().await;
                    }
                }
                self.nodes[node].scarred = true;
                let running = self.nodes[node].running.take().unwrap();
                running.abort();
                let _ = running.await;
                self.gate.forget(node);
                self.nodes[node].allocator = None;
                self.history.push(format!("{node}: crashed"));
            }
            Act::Events(count) => self.nodes[node].to_see += usize::from(count),
            _ => return,
        }
        self.settle().await;
        self.check().await;
    }

    /// What holds at every moment.
    async fn check(&self) {
        let blocks = self.store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap().items;
        let handles = self.store.list::<IPAMHandleSpec>(&Filter::All).await.unwrap().items;
        let affinities = self.store.list::<BlockAffinitySpec>(&Filter::All).await.unwrap().items;
        for (place, one) in blocks.iter().enumerate() {
            let spec = &one.spec;
            assert_eq!(block::check(spec), Ok(()), "{spec:?}");
            let meets = blocks[..place].iter().find(|other| overlap(&other.spec.cidr, &spec.cidr));
            assert!(meets.is_none(), "{} overlaps {:?}", spec.cidr, meets.map(|other| other.spec.cidr));
            let mut held: BTreeMap<&str, u64> = BTreeMap::new();
            for index in spec.allocations.iter().flatten() {
                *held.entry(spec.attributes[*index as usize].handle_id.as_deref().unwrap()).or_default() += 1;
            }
            for (id, count) in held {
                let counted = handles.iter().find(|handle| handle.spec.handle_id == id);
                let counted = counted.map_or(0, |found| handle::count(&found.spec, &spec.cidr));
                assert!(counted >= count, "{count} addresses of {} are {id}'s, which counts {counted}", spec.cidr);
            }
            if let Some(owner) = spec.owner() {
                let known = affinities.iter().any(|a| a.spec.owner() == owner && a.spec.cidr == spec.cidr);
                assert!(known, "{} is {owner}'s, who has no affinity to it", spec.cidr);
            }
        }
        for affinity in affinities.iter().filter(|a| a.spec.state == AffinityState::Confirmed) {
            let block = blocks.iter().find(|block| block.spec.cidr == affinity.spec.cidr);
            assert_eq!(block.and_then(|block| block.spec.owner()), Some(affinity.spec.owner()), "{:?}", affinity.spec);
        }
        for (handle, addresses) in self.nodes.iter().flat_map(|node| &node.pods) {
            for address in addresses {
                let holder = blocks.iter().find_map(|one| block::who_has(&one.spec, *address));
                let holder = holder.and_then(|(attribute, _)| attribute.handle_id.as_deref());
                assert_eq!(holder, Some(handle.as_str()), "{address} of a running pod");
            }
        }
    }

    /// Everything ends, everything is released, and a newcomer finds an empty store that it can use.
    async fn finish(&mut self) {
        for node in 0..NODES {
            while self.nodes[node].running.is_some() {
                self.step(Step { node, act: Act::Write(0, Verdict::Pass) }).await;
            }
        }
        for node in 0..NODES {
            let store = typed(&self.way(node, false));
            let mut allocator = Allocator::new(store, Self::name(node));
            // A fresh allocator makes use of whatever the last one left, unless all is taken.
            self.pods += 1;
            let handle = format!("pod-{}", self.pods);
            self.clock += 1;
            match allocator.assign(&AssignRequest::ipv4(&handle), at(self.clock)).await {
                Ok(assigned) => self.hand_out(node, handle.clone(), assigned.iter().map(|a| a.address).collect()),
                Err(error) => {
                    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
                    let blocks = self.store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap().items;
                    let own = Owner::Host(Self::name(node));
                    let of_family = || blocks.iter().filter(|block| matches!(block.spec.cidr, IpNet::V4(_)));
                    assert_eq!(of_family().count(), 4, "a block is free, and yet: {error}");
                    let mine = of_family().filter(|block| block.spec.owner().as_ref() == Some(&own));
                    assert!(
                        mine.clone().all(|block| block.spec.unallocated.is_empty()),
                        "there is room, and yet: {error}"
                    );
                }
            }
            self.nodes[node].handles.insert(handle);
            self.check().await;
        }
        for node in 0..NODES {
            let mut allocator = Allocator::new(typed(&self.way(node, false)), Self::name(node));
            for handle in std::mem::take(&mut self.nodes[node].handles) {
                self.nodes[node].pods.remove(&handle);
                self.clock += 1;
                let released = allocator.release_by_handle(&handle, at(self.clock)).await.unwrap();
                assert_eq!(
                    allocator.release_by_handle(&handle, at(self.clock)).await.unwrap(),
                    [] as [IpAddr; 0],
                    "{released:?}"
                );
            }
            self.check().await;
        }
        let blocks = self.store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap().items;
        assert!(blocks.iter().all(|block| block::is_empty(&block.spec)), "something leaked: {blocks:?}");
        for affinity in self.store.list::<BlockAffinitySpec>(&Filter::All).await.unwrap().items {
            match ipam::release_affinity(&self.store, &affinity.spec.owner(), affinity.spec.cidr, false).await {
                // What a claim left that broke off, before another node claimed the block.
                Ok(()) | Err(ReleaseAffinityError::NotOwner { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for kind in [Kind::IPAMHandle, Kind::IPAMBlock, Kind::BlockAffinity] {
            let left = self.inner.list(kind, &Filter::All).await.unwrap().entries;
            assert!(left.is_empty(), "left over: {left:?}");
        }
        let mut newcomer = Allocator::new(self.store.clone(), "newcomer".to_owned());
        let requests: Vec<_> = (0..16).map(|n| AssignRequest::ipv4(format!("new-{n}"))).collect();
        let all: BTreeSet<_> = newcomer
            .assign_many(&requests, at(self.clock + 1))
            .await
            .into_iter()
            .map(|r| r.unwrap()[0].address)
            .collect();
        assert_eq!(all.len(), 16, "the whole pool");
    }
}

/// Sixty, unless the environment says otherwise, as it can to any test of this kind.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn nodes_that_race_and_crash_never_share_or_lose_an_address(steps in steps(), atomic: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let history = runtime.block_on(async {
            let mut world = World::new(atomic).await;
            let ran = async {
                for step in steps {
                    world.step(step).await;
                }
                world.finish().await;
            };
            match futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(ran)).await {
                Ok(()) => None,
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned()
                        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    Some(format!("{}\n{}", world.history.join("\n"), text.unwrap_or_default()))
                }
            }
        });
        prop_assert!(history.is_none(), "{}", history.unwrap_or_default());
    }
}
