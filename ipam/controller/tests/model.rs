//! Nodes, pods and a controller on one real store, in random histories: pods start, move, finish and go with or without the
//! release of their addresses; nodes go and come again; the controller sees everything late, acts on what it saw long ago,
//! and is killed between two writes.
//!
//! Whatever the order: an address that a pod has stays its own. And when all is quiet, after the grace period and two
//! passes nothing is held that nobody uses; a little later no handle, block or affinity is left over either.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use calico_api::{
    BlockAffinitySpec, IPAMBlockSpec, IPAMHandleSpec, Key, Kind, Node, NodeSpec, ObjectMeta, Owner, WorkloadEndpoint,
    WorkloadEndpointSpec, workload_endpoint_name,
};
use calico_datastore::{Filter, Store};
use ipam::{Allocator, AssignRequest, block};
use ipam_controller::allocation::{Holder, allocations};
use ipam_controller::live::Stores;
use ipam_controller::perform::{Done, perform};
use ipam_controller::{Action, Collector, Image, Mode, Moment, Pass, Patience, Source};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::Config;
use support::{Gate, Verdict, Way, add_pool, at, memory, typed};

const NODES: usize = 3;
const PODS: usize = 5;
const GRACE: Duration = Duration::from_secs(900);
/// The controller's number at the gate.
const CONTROLLER: usize = 99;

#[derive(Clone, Copy, Debug)]
enum Act {
    /// A pod is made and bound to a node, unless there is one of its name.
    Create { pod: usize, node: usize },
    /// Its node begins an ADD: it takes addresses. It may have some already, of a sandbox that died.
    Take { pod: usize, dual: bool },
    /// The ADD goes on: the endpoint shows the addresses.
    Show { pod: usize },
    /// A sandbox is made anew, and the controller sees that addresses were taken, but not for whom: not even long after.
    Recreate { pod: usize, late: bool },
    /// The ADD fails, with or without the runtime's DEL.
    Abort { pod: usize, released: bool },
    /// The pod runs to its end; nothing is released.
    Finish { pod: usize },
    /// The pod goes, with or without a release of all that it ever took.
    Delete { pod: usize, released: bool },
    /// A node's object goes, with the objects of its pods or without.
    DeleteNode { node: usize, pods: bool },
    /// It comes back.
    CreateNode { node: usize },
    /// Some seconds pass. No ADD takes longer than ten of these.
    Wait { seconds: u64 },
    /// So many updates reach the controller.
    Deliver { count: usize },
    /// It looks, and will act on what it sees now later.
    Look,
    /// It acts on what it saw, and is killed before its write of this number, if there is one.
    Perform { killed_before: Option<usize> },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let (pod, node) = (0..PODS, 0..NODES);
    let act = prop_oneof![
        4 => (pod.clone(), node.clone()).prop_map(|(pod, node)| Act::Create { pod, node }),
        6 => (pod.clone(), any::<bool>()).prop_map(|(pod, dual)| Act::Take { pod, dual }),
        5 => pod.clone().prop_map(|pod| Act::Show { pod }),
        3 => (pod.clone(), any::<bool>()).prop_map(|(pod, late)| Act::Recreate { pod, late }),
        1 => (pod.clone(), any::<bool>()).prop_map(|(pod, released)| Act::Abort { pod, released }),
        1 => pod.clone().prop_map(|pod| Act::Finish { pod }),
        3 => (pod, any::<bool>()).prop_map(|(pod, released)| Act::Delete { pod, released }),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, pods)| Act::DeleteNode { node, pods }),
        1 => node.prop_map(|node| Act::CreateNode { node }),
        6 => prop_oneof![1..30_u64, Just(200), Just(1000), Just(1000)].prop_map(|seconds| Act::Wait { seconds }),
        6 => (1..25_usize).prop_map(|count| Act::Deliver { count }),
        6 => Just(Act::Look),
        6 => prop::option::weighted(0.3, 0..5_usize).prop_map(|killed_before| Act::Perform { killed_before }),
    ];
    prop::collection::vec(act, 20..110)
}

/// What a container of a pod has.
#[derive(Clone, Debug)]
struct Sandbox {
    handle: String,
    container: String,
    addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
struct Pod {
    node: usize,
    /// Its present sandbox, whose addresses are shown.
    shown: Option<Sandbox>,
    /// An ADD under way, and when it began.
    taking: Option<(Sandbox, u64)>,
    finished: bool,
    handles: Vec<String>,
}

struct World {
    /// Writes at once.
    store: Store,
    gate: Arc<Gate>,
    stores: Stores,
    pods: BTreeMap<usize, Pod>,
    clock: u64,
    containers: usize,
    image: Image,
    collector: Collector,
    delivered: usize,
    seen: Option<Pass>,
    log: Vec<String>,
}

fn node_name(node: usize) -> String {
    format!("node-{node}")
}

impl World {
    async fn new() -> Self {
        let inner = memory().await;
        let gate = Arc::new(Gate::default());
        let way = |node, gated| Way { inner: inner.clone(), gate: gate.clone(), node, gated, atomic: false };
        let store = typed(&way(0, false));
        add_pool(&store, "four", "10.0.0.0/26", 30).await;
        add_pool(&store, "six", "fd00::/122", 126).await;
        for node in 0..NODES {
            store.create(&Node::new(ObjectMeta::named(node_name(node)), NodeSpec::default())).await.unwrap();
        }
        let stores = Stores { store: typed(&way(CONTROLLER, true)), kubernetes: None, mode: Mode::Kubernetes };
        Self {
            store,
            gate,
            stores,
            pods: BTreeMap::new(),
            clock: 0,
            containers: 0,
            image: Image::new(Mode::Kubernetes),
            collector: Collector::new(),
            delivered: 0,
            seen: None,
            log: Vec::new(),
        }
    }

    fn key(pod: usize, node: usize) -> Key {
        let name = workload_endpoint_name(&node_name(node), "k8s", &format!("pod-{pod}"), "eth0");
        Key::namespaced(Kind::WorkloadEndpoint, "shop", name)
    }

    /// Writes the pod's endpoint as Kubernetes' view would show it.
    async fn publish(&self, number: usize) {
        let pod = &self.pods[&number];
        let key = Self::key(number, pod.node);
        let spec = WorkloadEndpointSpec {
            orchestrator: "k8s".into(),
            node: node_name(pod.node),
            pod: format!("pod-{number}"),
            endpoint: "eth0".into(),
            container_id: pod.shown.as_ref().map(|it| it.container.clone()).unwrap_or_default(),
            ip_networks: pod
                .shown
                .iter()
                .filter(|_| !pod.finished)
                .flat_map(|it| &it.addresses)
                .map(|address| IpNet::from(*address).to_string())
                .collect(),
            ..WorkloadEndpointSpec::default()
        };
        let mut metadata = ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::named(key.name()) };
        if pod.finished {
            metadata.annotations.insert(WorkloadEndpointSpec::FINISHED.into(), "true".into());
        }
        let mut endpoint = WorkloadEndpoint::new(metadata, spec);
        match self.store.get::<WorkloadEndpointSpec>(&key).await {
            Ok(found) => {
                endpoint.metadata.resource_version = found.metadata.resource_version;
                self.store.update(&endpoint).await.unwrap();
            }
            Err(_) => drop(self.store.create(&endpoint).await.unwrap()),
        }
    }

    async fn release(&self, pod: &Pod) {
        let mut allocator = Allocator::new(self.store.clone(), node_name(pod.node));
        for handle in &pod.handles {
            allocator.release_by_handle(handle, self.wall()).await.unwrap();
        }
    }

    async fn delete(&mut self, number: usize, released: bool) {
        let Some(pod) = self.pods.remove(&number) else { return };
        if released {
            self.release(&pod).await;
        }
        self.store.delete_key(&Self::key(number, pod.node)).await.unwrap();
    }

    fn wall(&self) -> jiff::Timestamp {
        at(i64::try_from(self.clock).unwrap() * 1000)
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Create { pod, node } => {
                let fresh = Pod { node, shown: None, taking: None, finished: false, handles: Vec::new() };
                if let Entry::Vacant(place) = self.pods.entry(pod) {
                    place.insert(fresh);
                    self.publish(pod).await;
                }
            }
            Act::Take { pod: number, dual } => {
                let Some(pod) = self.pods.get(&number).filter(|pod| !pod.finished && pod.taking.is_none()) else {
                    return;
                };
                self.containers += 1;
                let container = format!("c{}", self.containers);
                let handle = format!("k8s-pod-network.{container}");
                let attributes =
                    [("node", node_name(pod.node)), ("pod", format!("pod-{number}")), ("namespace", "shop".into())];
                let request = AssignRequest {
                    ipv6: dual,
                    attributes: attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
                    ..AssignRequest::ipv4(handle.clone())
                };
                let mut allocator = Allocator::new(self.store.clone(), node_name(pod.node));
                let given = allocator.assign(&request, self.wall()).await;
                let pod = self.pods.get_mut(&number).unwrap();
                pod.handles.push(handle.clone());
                if let Ok(given) = given {
                    let addresses = given.iter().map(|it| it.address).collect();
                    pod.taking = Some((Sandbox { handle, container, addresses }, self.clock));
                }
            }
            Act::Show { pod: number } => {
                let Some(pod) = self.pods.get_mut(&number) else { return };
                if let Some((sandbox, _)) = pod.taking.take() {
                    pod.shown = Some(sandbox);
                    self.publish(number).await;
                }
            }
            Act::Recreate { pod, late } => {
                Box::pin(self.act(Act::Take { pod, dual: false })).await;
                self.deliver(usize::MAX);
                self.look().await;
                Box::pin(self.act(Act::Show { pod })).await;
                if late {
                    Box::pin(self.act(Act::Wait { seconds: 1000 })).await;
                    self.look().await;
                }
            }
            Act::Abort { pod: number, released } => {
                let Some(pod) = self.pods.get_mut(&number) else { return };
                if let Some((sandbox, _)) = pod.taking.take().filter(|_| released) {
                    let mut allocator = Allocator::new(self.store.clone(), node_name(pod.node));
                    allocator.release_by_handle(&sandbox.handle, self.wall()).await.unwrap();
                }
            }
            Act::Finish { pod: number } => {
                let Some(pod) = self.pods.get_mut(&number) else { return };
                (pod.finished, pod.taking) = (true, None);
                self.publish(number).await;
            }
            Act::Delete { pod, released } => self.delete(pod, released).await,
            Act::DeleteNode { node, pods } => {
                if pods {
                    for number in 0..PODS {
                        if self.pods.get(&number).is_some_and(|pod| pod.node == node) {
                            self.delete(number, false).await;
                        }
                    }
                }
                let _ = self.store.delete_key(&Key::named(Kind::Node, node_name(node))).await;
            }
            Act::CreateNode { node } => {
                let _ = self.store.create(&Node::new(ObjectMeta::named(node_name(node)), NodeSpec::default())).await;
            }
            Act::Wait { seconds } => {
                self.clock += seconds;
                for pod in self.pods.values_mut() {
                    // The runtime has given up by then.
                    pod.taking.take_if(|(_, began)| self.clock - *began > 300);
                }
            }
            Act::Deliver { count } => self.deliver(count),
            Act::Look => self.look().await,
            Act::Perform { killed_before } => drop(self.perform(killed_before).await),
        }
    }

    fn deliver(&mut self, count: usize) {
        for update in self.gate.events_from(self.delivered).iter().take(count) {
            self.image.observe(Source::Store, update);
            self.delivered += 1;
        }
    }

    async fn look(&mut self) {
        let handles = self.store.list::<IPAMHandleSpec>(&Filter::All).await.unwrap().items;
        self.image.set_handles(handles);
        let now = Moment { elapsed: Duration::from_secs(self.clock), wall: self.wall() };
        self.seen = Some(self.collector.pass(&mut self.image, Patience::new(GRACE), now));
    }

    /// Acts on what was seen last; one write passes at a time.
    async fn perform(&mut self, killed_before: Option<usize>) -> Done {
        let Some(pass) = self.seen.take() else { return Done::default() };
        let (stores, config) = (self.stores.clone(), self.image.config().clone());
        let task = tokio::spawn(async move { perform(&stores, &config, &pass).await });
        let mut writes = 0;
        loop {
            if task.is_finished() {
                return task.await.unwrap();
            }
            if self.gate.is_held(CONTROLLER) {
                if killed_before == Some(writes) {
                    task.abort();
                    let _ = task.await;
                    self.gate.forget(CONTROLLER);
                    return Done::default();
                }
                writes += 1;
                let what = self.gate.decide(CONTROLLER, 0, Verdict::Pass);
                self.log.extend(what);
            }
            tokio::task::yield_now().await;
        }
    }

    async fn held(&self) -> Vec<ipam_controller::allocation::Allocation> {
        let blocks = self.store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap().items;
        for stored in &blocks {
            block::check(&stored.spec).unwrap();
        }
        blocks.iter().flat_map(|stored| allocations(&stored.spec).collect::<Vec<_>>()).collect()
    }

    /// Every address that a pod has is held under its handle, and no pod shares it.
    async fn check(&self) {
        let held = self.held().await;
        let mut users: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| !pod.finished) {
            for sandbox in pod.shown.iter().chain(pod.taking.as_ref().map(|(sandbox, _)| sandbox)) {
                for address in &sandbox.addresses {
                    let holder = held.iter().find(|it| it.assignment.address == *address);
                    let handle = holder.and_then(|it| it.handle.as_deref());
                    assert_eq!(handle, Some(&*sandbox.handle), "{address} of a pod was taken from it");
                    assert_eq!(users.insert(*address, &sandbox.handle), None, "{address} has two users");
                }
            }
        }
    }

    /// All is quiet: passes at the moments at which they come at the latest.
    async fn settle(&mut self, passes: usize) {
        for pass in 0..passes {
            self.deliver(usize::MAX);
            self.look().await;
            self.perform(None).await;
            if pass + 1 < passes {
                self.clock += GRACE.as_secs();
            }
        }
        self.deliver(usize::MAX);
    }

    async fn check_quiet(&mut self) {
        for pod in self.pods.values_mut() {
            pod.taking = None;
        }
        // Seen in the first, released in the second.
        self.settle(2).await;
        self.check().await;
        for allocation in self.held().await {
            let Holder::Pod { name, .. } = &allocation.holder else { panic!("{allocation:?}") };
            let number: usize = name.trim_start_matches("pod-").parse().unwrap();
            let pod = self.pods.get(&number).filter(|pod| !pod.finished);
            let Some(pod) = pod else { panic!("leaked for longer than may be: {allocation:?}\n{:#?}", self.log) };
            // A pod without an address may have any that was taken for it, and by its handle it keeps all or none.
            let Some(shown) = &pod.shown else { continue };
            assert_eq!(allocation.handle.as_deref(), Some(&*shown.handle), "leaked for longer than may be");
        }

        self.settle(6).await;
        self.check().await;
        let held = self.held().await;
        let handles: BTreeSet<String> = held.iter().filter_map(|it| it.handle.clone()).collect();
        for handle in self.store.list::<IPAMHandleSpec>(&Filter::All).await.unwrap().items {
            assert!(handles.contains(&handle.spec.handle_id), "handle {} is left over", handle.spec.handle_id);
        }
        let blocks = self.store.list::<IPAMBlockSpec>(&Filter::All).await.unwrap().items;
        let affinities = self.store.list::<BlockAffinitySpec>(&Filter::All).await.unwrap().items;
        let nodes = self.store.list::<NodeSpec>(&Filter::All).await.unwrap().items;
        let nodes: BTreeSet<&str> = nodes.iter().map(Node::name).collect();
        let occupied: BTreeSet<&str> = held.iter().filter_map(|it| it.node.as_deref()).collect();
        for affinity in &affinities {
            let owner = affinity.spec.owner();
            assert!(
                nodes.contains(owner.name()) || occupied.contains(owner.name()),
                "an affinity of {owner} is left over"
            );
            let block = blocks.iter().find(|it| it.spec.cidr == affinity.spec.cidr);
            assert_eq!(block.and_then(|it| it.spec.owner()), Some(owner), "an affinity leads nowhere");
        }
        let mut empty: BTreeSet<(Owner, bool)> = BTreeSet::new();
        for stored in blocks.iter().filter(|stored| block::is_empty(&stored.spec)) {
            let owner = stored.spec.owner().expect("an empty block of nobody is deleted");
            let family = stored.spec.cidr.addr().is_ipv4();
            let gone = !nodes.contains(owner.name()); // then it is occupied, or its affinity would be left over
            assert!(gone || empty.insert((owner, family)), "two empty blocks of one node");
        }
        self.look().await;
        assert_eq!(self.seen.take().map(|pass| pass.actions), Some(Vec::<Action>::new()), "it comes to rest");
    }
}

proptest! {
    #![proptest_config(Config { cases: 128, max_shrink_iters: 400, ..Config::default() })]
    #[test]
    fn nothing_in_use_is_released_and_everything_else_is(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for act in acts {
                world.act(act).await;
                world.check().await;
            }
            world.check_quiet().await;
        });
    }
}
