//! What the allocator asks of the store, to the letter: Calico's order of writes, and no read on a pod's path.

mod support;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use calico_api::{IPAMBlockSpec, IPAMConfigurationSpec, IPAMHandleSpec, Key, Kind, ObjectMeta, Owner, Resource};
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Backend, Entry, Filter, Store, Write};
use ipam::{Allocator, AssignError, AssignRequest, Assigned, Release, ReleaseError, block};
use support::{Gate, Way, add_pool, at, memory, typed};

struct Lab {
    inner: Arc<dyn Backend>,
    gate: Arc<Gate>,
    /// To the store, past the gate.
    store: Store,
}

impl Lab {
    async fn new(pools: &[(&str, &str, u8)]) -> Self {
        let inner = memory().await;
        let gate = Arc::new(Gate::default());
        let lab = Self { store: typed(&Self::way(&inner, &Arc::default())), inner, gate };
        for (name, cidr, block_size) in pools {
            add_pool(&lab.store, name, cidr, *block_size).await;
        }
        lab
    }

    fn way(inner: &Arc<dyn Backend>, gate: &Arc<Gate>) -> Way {
        Way { inner: inner.clone(), gate: gate.clone(), node: 0, gated: false, atomic: false }
    }

    /// An allocator that was served by a watch until now.
    async fn watched(&self, node: &str) -> Allocator {
        self.watched_through(&Self::way(&self.inner, &self.gate), node).await
    }

    /// The same on a store that has transactions.
    async fn transacting(&self, node: &str) -> Allocator {
        self.watched_through(&Way { atomic: true, ..Self::way(&self.inner, &self.gate) }, node).await
    }

    async fn watched_through(&self, way: &Way, node: &str) -> Allocator {
        let mut allocator = Allocator::new(typed(way), node.to_owned());
        let kinds = [
            (Kind::IPPool, Filter::All),
            (Kind::IPAMBlock, Filter::All),
            (Kind::BlockAffinity, Filter::Node(node.to_owned())),
            (Kind::IPAMConfiguration, Filter::All),
            (Kind::IPReservation, Filter::All),
        ];
        let mut updates = watch(&self.store, kinds.to_vec());
        loop {
            let update = updates.recv().await.expect("a watch lives as long as its receiver");
            allocator.observe(&update);
            if update == Update::InSync {
                return allocator;
            }
        }
    }

    #[track_caller]
    fn asked(&self, expected: &[&str]) {
        assert_eq!(self.gate.take_log(), expected);
    }

    async fn block(&self, cidr: &str) -> IPAMBlockSpec {
        self.store.get::<IPAMBlockSpec>(&Key::Block(cidr.parse().unwrap())).await.unwrap().spec
    }

    async fn count(&self, handle: &str) -> BTreeMap<String, u64> {
        match self.store.get::<IPAMHandleSpec>(&Key::Handle(handle.to_owned())).await {
            Ok(handle) => handle.spec.block,
            Err(_) => BTreeMap::new(),
        }
    }
}

fn request(handle: &str) -> AssignRequest {
    let attributes = BTreeMap::from([("pod".to_owned(), handle.to_owned()), ("node".to_owned(), "node-1".to_owned())]);
    AssignRequest { attributes, ..AssignRequest::ipv4(handle) }
}

fn both(handle: &str) -> AssignRequest {
    AssignRequest { ipv6: true, ..request(handle) }
}

fn addresses(assigned: &[Assigned]) -> Vec<String> {
    assigned.iter().map(|assigned| assigned.address.to_string()).collect()
}

#[tokio::test]
async fn first_and_second_pod_write_what_calico_writes_and_read_nothing() {
    let lab = Lab::new(&[("pool", "10.244.0.0/26", 26)]).await;
    let mut node = lab.watched("node-1").await;
    let assigned = node.assign(&request("k8s-pod-network.a"), at(1)).await.unwrap();
    assert_eq!(assigned[0].block.to_string(), "10.244.0.0/26");
    lab.asked(&[
        "POST BlockAffinity(host:node-1, 10.244.0.0/26) pending",
        "POST IPAMBlock(10.244.0.0/26)",
        "PUT BlockAffinity(host:node-1, 10.244.0.0/26) confirmed",
        "POST IPAMHandle(k8s-pod-network.a)",
        "PUT IPAMBlock(10.244.0.0/26)",
    ]);
    let second = node.assign(&request("k8s-pod-network.b"), at(2)).await.unwrap();
    assert_eq!(
        (addresses(&assigned), addresses(&second)),
        (vec!["10.244.0.0".to_owned()], vec!["10.244.0.1".to_owned()])
    );
    lab.asked(&["POST IPAMHandle(k8s-pod-network.b)", "PUT IPAMBlock(10.244.0.0/26)"]);
    let stored = lab.block("10.244.0.0/26").await;
    assert_eq!(
        (stored.allocations[0], stored.allocations[1], stored.unallocated.first()),
        (Some(0), Some(1), Some(&2))
    );
    assert_eq!(stored.sequence_number_for_allocation["0"] + 1, stored.sequence_number_for_allocation["1"]);
    assert_eq!(stored.sequence_number_for_allocation["1"] + 1, stored.sequence_number);

    assert_eq!(node.release_by_handle("k8s-pod-network.a", at(3)).await.unwrap(), [assigned[0].address]);
    lab.asked(&[
        "GET IPAMHandle(k8s-pod-network.a)",
        "PUT IPAMBlock(10.244.0.0/26)",
        "DELETE IPAMHandle(k8s-pod-network.a)",
    ]);
    assert_eq!(node.release_by_handle("k8s-pod-network.a", at(4)).await.unwrap(), [] as [IpAddr; 0]);
    lab.asked(&["GET IPAMHandle(k8s-pod-network.a)"]);
    assert_eq!(lab.block("10.244.0.0/26").await.unallocated.last(), Some(&0), "at the end of the queue");
}

#[tokio::test]
async fn a_burst_of_dual_stack_pods_costs_one_write_of_each_block_and_one_of_each_handle() {
    let lab = Lab::new(&[("four", "10.244.0.0/24", 28), ("six", "fd00::/120", 124)]).await;
    let mut node = lab.watched("node-1").await;
    node.assign(&both("first"), at(1)).await.unwrap();
    lab.gate.take_log();
    let burst: Vec<_> = (0..10).map(|n| both(&format!("pod-{n}"))).collect();
    let results = node.assign_many(&burst, at(2)).await;
    let log = lab.gate.take_log();
    let count = |start: &str| log.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!((log.len(), count("POST IPAMHandle"), count("PUT IPAMBlock")), (12, 10, 2), "{log:?}");
    let all: std::collections::BTreeSet<_> =
        results.iter().flat_map(|result| addresses(result.as_ref().unwrap())).collect();
    assert_eq!(all.len(), 20);
    assert_eq!(lab.count("pod-3").await.values().copied().collect::<Vec<_>>(), [1, 1]);
    // More than the block has left: a second one is claimed, and all are served.
    let burst: Vec<_> = (0..30).map(|n| request(&format!("more-{n}"))).collect();
    assert!(node.assign_many(&burst, at(3)).await.iter().all(Result::is_ok));
    assert_eq!(node.own_blocks().filter(|block| block.spec.cidr.prefix_len() == 28).count(), 3);
    for stored in node.own_blocks() {
        assert_eq!(block::check(&stored.spec), Ok(()));
        assert_eq!(lab.block(&stored.spec.cidr.to_string()).await, stored.spec, "the cache is what is stored");
    }
}

#[tokio::test]
async fn half_a_dual_stack_success_is_no_success() {
    let lab = Lab::new(&[("four", "10.244.0.0/24", 26), ("six", "fd00::/126", 126)]).await;
    let mut node = lab.watched("node-1").await;
    let burst: Vec<_> = (0..6).map(|n| both(&format!("pod-{n}"))).collect();
    let results = node.assign_many(&burst, at(1)).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 4, "the others are served nevertheless");
    let text = results[5].as_ref().unwrap_err().to_string();
    assert!(
        text.starts_with("Assigned 0 out of 1 requested IPv6 addresses; No IPs available in pools: [fd00::/126]; "),
        "{text}"
    );
    assert!(lab.count("pod-5").await.is_empty());
    let four = node.own_blocks().find(|block| block.spec.cidr.prefix_len() == 26).unwrap();
    assert_eq!(four.spec.unallocated.len(), 60);
}

#[tokio::test]
async fn a_lost_race_for_the_block_costs_a_read_and_not_a_handle() {
    let lab = Lab::new(&[("pool", "10.244.0.0/26", 26)]).await;
    let (mut one, mut two) = (lab.watched("node-1").await, lab.watched("node-1").await);
    one.assign(&request("a"), at(1)).await.unwrap();
    // The second allocator of the same node knows nothing of that.
    lab.gate.take_log();
    assert_eq!(addresses(&two.assign(&request("b"), at(2)).await.unwrap()), ["10.244.0.1"]);
    assert_eq!(lab.gate.take_log().last().unwrap(), "PUT IPAMBlock(10.244.0.0/26)");
    assert_eq!(addresses(&one.assign(&request("c"), at(3)).await.unwrap()), ["10.244.0.2"]);
    lab.asked(&["POST IPAMHandle(c)", "GET IPAMBlock(10.244.0.0/26)", "PUT IPAMBlock(10.244.0.0/26)"]);
    assert_eq!(lab.count("c").await, BTreeMap::from([("10.244.0.0/26".to_owned(), 1)]));
    // Nor does the second know of "c", whose address it is asked to release.
    assert_eq!(two.release_by_handle("c", at(4)).await.unwrap(), ["10.244.0.2".parse::<IpAddr>().unwrap()]);
    assert!(lab.count("c").await.is_empty());
}

#[tokio::test]
async fn a_late_event_does_not_undo_an_own_write() {
    let lab = Lab::new(&[("pool", "10.244.0.0/26", 26)]).await;
    let mut node = lab.watched("node-1").await;
    node.assign(&request("a"), at(1)).await.unwrap();
    let after_first = lab.gate.events();
    node.assign(&request("b"), at(2)).await.unwrap();
    lab.gate.take_log();
    lab.gate.events_from(0).iter().take(after_first).for_each(|event| node.observe(event));
    node.assign(&request("c"), at(3)).await.unwrap();
    lab.asked(&["POST IPAMHandle(c)", "PUT IPAMBlock(10.244.0.0/26)"]);
    // An event that may be older or newer is looked into.
    node.observe(&Update::Delete(Key::Block("10.244.0.0/26".parse().unwrap())));
    node.assign(&request("d"), at(4)).await.unwrap();
    lab.asked(&["GET IPAMBlock(10.244.0.0/26)", "POST IPAMHandle(d)", "PUT IPAMBlock(10.244.0.0/26)"]);
}

#[tokio::test]
async fn a_given_address_is_claimed_with_its_block_and_given_again_only_to_its_handle() {
    let lab = Lab::new(&[("pool", "10.244.0.0/24", 26)]).await;
    let mut node = lab.watched("node-1").await;
    let wanted =
        |handle: &str, address: &str| AssignRequest { addresses: vec![address.parse().unwrap()], ..request(handle) };
    assert_eq!(addresses(&node.assign(&wanted("a", "10.244.0.70"), at(1)).await.unwrap()), ["10.244.0.70"]);
    assert_eq!(lab.gate.take_log().len(), 5);
    assert_eq!(addresses(&node.assign(&wanted("a", "10.244.0.70"), at(2)).await.unwrap()), ["10.244.0.70"]);
    lab.asked(&[]);
    let text = node.assign(&wanted("b", "10.244.0.70"), at(3)).await.unwrap_err().to_string();
    assert!(text.contains("Address already assigned in block: 10.244.0.70 is held under handle a"), "{text}");
    let text = node.assign(&wanted("b", "10.9.0.1"), at(3)).await.unwrap_err().to_string();
    assert!(text.starts_with("The provided IP address 10.9.0.1 is not in a configured pool"), "{text}");
    let mut other = lab.watched("node-2").await;
    let text = other.assign(&wanted("c", "10.244.0.71"), at(4)).await.unwrap_err().to_string();
    assert!(text.starts_with("Block host affinity does not match: 10.244.0.71 is in block 10.244.0.64/26"), "{text}");
    assert!(lab.count("b").await.is_empty() && lab.count("c").await.is_empty());
}

#[tokio::test]
async fn a_corrupt_block_is_named_and_the_rest_goes_on() {
    let lab = Lab::new(&[("pool", "10.244.0.0/27", 28)]).await;
    let mut node = lab.watched("node-1").await;
    let first = node.assign(&request("a"), at(1)).await.unwrap()[0];
    let key = Key::Block(first.block);
    let Entry { mut value, revision, .. } = lab.inner.get(&key).await.unwrap();
    value["spec"]["allocations"][5] = 77.into();
    lab.inner.update(&key, value, &revision).await.unwrap();
    // Found out by the failing write, and by a listing.
    for mut node in [node, lab.watched("node-1").await] {
        let handle = format!("b{}", lab.gate.events());
        let second = node.assign(&request(&handle), at(2)).await.unwrap()[0];
        assert_ne!(second.block, first.block);
        assert_eq!(lab.count(&handle).await, BTreeMap::from([(second.block.to_string(), 1)]), "and nothing else");
        let all: Vec<_> = (0..16).map(|n| request(&format!("{handle}-{n}"))).collect();
        let results = node.assign_many(&all, at(3)).await;
        let error = results.iter().find_map(|result| result.as_ref().err()).unwrap().to_string();
        assert!(
            error.contains(&format!("block {} is not used: it is corrupt: ordinal 5 has attribute 77", first.block)),
            "{error}"
        );
        for (index, _) in results.iter().enumerate() {
            node.release_by_handle(&format!("{handle}-{index}"), at(4)).await.unwrap();
        }
        let error = node.release_by_handle("a", at(5)).await.unwrap_err();
        assert!(matches!(&error, ReleaseError::Corrupt { block, .. } if *block == first.block), "{error}");
    }
}

#[tokio::test]
async fn limits_and_settings_are_kept_and_named() {
    let lab = Lab::new(&[("pool", "10.244.0.0/28", 30)]).await;
    let set = async |change: fn(&mut IPAMConfigurationSpec)| {
        let _ = lab.store.delete_key(&Key::named(Kind::IPAMConfiguration, "default")).await;
        let mut config = Resource::new(ObjectMeta::named("default"), IPAMConfigurationSpec::default());
        change(&mut config.spec);
        lab.store.create(&config).await.unwrap();
    };
    set(|config| config.max_blocks_per_host = Some(1)).await;
    let mut node = lab.watched("node-1").await;
    for n in 0..4 {
        node.assign(&request(&format!("a{n}")), at(n)).await.unwrap();
    }
    let error = node.assign(&request("b"), at(5)).await.unwrap_err();
    assert!(matches!(error, AssignError::BlockLimit { limit: 1, .. }), "{error}");
    set(|config| config.auto_allocate_blocks = false).await;
    let error = lab.watched("node-1").await.assign(&request("b"), at(5)).await.unwrap_err();
    assert!(matches!(error, AssignError::NoAutoAllocate { .. }), "{error}");
    // What cools down is not handed out, and not free for others either.
    set(|config| (config.ip_cooldown_seconds, config.max_blocks_per_host) = (Some(60), Some(1))).await;
    let mut node = lab.watched("node-1").await;
    node.release_by_handle("a0", at(10_000)).await.unwrap();
    assert!(node.assign(&request("b"), at(69_000)).await.is_err());
    for n in 1..4 {
        node.release_by_handle(&format!("a{n}"), at(10_000)).await.unwrap();
    }
    let own = node.own_blocks().next().unwrap().spec.cidr;
    let error = node.release_block(own, true).await.unwrap_err().to_string();
    assert!(error.contains("in use or cool down"), "{error}");
    assert_eq!(node.assign(&request("b"), at(70_000)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_block_is_given_up_by_calicos_order_and_a_half_given_up_one_is_taken_back() {
    let lab = Lab::new(&[("pool", "10.244.0.0/26", 26)]).await;
    let cidr = "10.244.0.0/26".parse().unwrap();
    let mut node = lab.watched("node-1").await;
    node.assign(&request("a"), at(1)).await.unwrap();
    assert!(node.release_block(cidr, true).await.unwrap_err().to_string().contains("are in use"));
    lab.gate.take_log();
    node.release_block(cidr, false).await.unwrap();
    lab.asked(&[
        "GET BlockAffinity(host:node-1, 10.244.0.0/26)",
        "GET IPAMBlock(10.244.0.0/26)",
        "PUT BlockAffinity(host:node-1, 10.244.0.0/26) pendingDeletion",
        "PUT IPAMBlock(10.244.0.0/26)",
        "DELETE BlockAffinity(host:node-1, 10.244.0.0/26)",
    ]);
    assert_eq!(lab.block("10.244.0.0/26").await.affinity, None);
    node.release_by_handle("a", at(2)).await.unwrap();
    lab.asked(&[
        "GET IPAMHandle(a)",
        "GET IPAMBlock(10.244.0.0/26)",
        "DELETE IPAMBlock(10.244.0.0/26)",
        "DELETE IPAMHandle(a)",
    ]);
    let mut node = lab.watched("node-1").await;
    node.assign(&request("b"), at(3)).await.unwrap();
    let owner = Owner::Host("node-1".to_owned());
    let key = Key::Affinity { owner, cidr };
    let Entry { mut value, revision, .. } = lab.inner.get(&key).await.unwrap();
    value["spec"]["state"] = "pendingDeletion".into();
    lab.inner.update(&key, value, &revision).await.unwrap();
    let mut node = lab.watched("node-1").await;
    lab.gate.take_log();
    node.assign(&request("c"), at(4)).await.unwrap();
    lab.asked(&[
        "GET BlockAffinity(host:node-1, 10.244.0.0/26)",
        "GET IPAMBlock(10.244.0.0/26)",
        "PUT BlockAffinity(host:node-1, 10.244.0.0/26) pending",
        "PUT IPAMBlock(10.244.0.0/26)",
        "PUT BlockAffinity(host:node-1, 10.244.0.0/26) confirmed",
        "POST IPAMHandle(c)",
        "PUT IPAMBlock(10.244.0.0/26)",
    ]);
}

#[tokio::test]
async fn a_store_with_transactions_is_asked_once_for_everything() {
    let lab = Lab::new(&[("pool", "10.244.0.0/26", 26)]).await;
    let mut node = lab.transacting("node-1").await;
    node.assign(&request("net.first"), at(1)).await.unwrap();
    lab.gate.take_log();
    let accompany = |name: &str| {
        let pool = calico_api::IPPool::new(ObjectMeta::named(name), calico_api::IPPoolSpec::new("10.9.0.0/24"));
        vec![Write::create(&pool).unwrap()]
    };
    let mut told = Vec::new();
    let requests = [request("net.a"), both("net.b"), request("net.c")];
    let settled = node
        .assign_telling(&requests, at(2), &mut |index, assigned| {
            told.push((index, addresses(assigned)));
            accompany(&format!("with-{index}"))
        })
        .await;
    // There is no pool for IPv6: that request fails alone.
    assert!(matches!(settled[1], Err(AssignError::Select(_))), "{settled:?}");
    assert_eq!(told, [(0, vec!["10.244.0.1".to_owned()]), (2, vec!["10.244.0.2".to_owned()])]);
    assert!([0, 2].iter().all(|index| settled[*index].as_ref().is_ok_and(|settled| settled.accompanied)));
    lab.asked(&[
        "POST IPAMHandle(net.a), POST IPAMHandle(net.c), PUT IPAMBlock(10.244.0.0/26), POST IPPool(with-0), POST IPPool(with-2)",
    ]);

    // What goes with it is there already: it is left to the caller, and the pod has its address all the same.
    let settled = node.assign_telling(&[request("net.d")], at(3), &mut |_, _| accompany("with-0")).await;
    assert!(settled[0].as_ref().is_ok_and(|settled| !settled.accompanied), "{settled:?}");
    lab.asked(&["POST IPAMHandle(net.d), PUT IPAMBlock(10.244.0.0/26)"]);

    // Handles that it wrote itself are not read again.
    let release =
        |handle: &str| Release { handle: handle.to_owned(), older: Some(format!("old.{handle}")), also: Vec::new() };
    let released = node.release_together(&[release("net.a"), release("net.d")], at(4)).await.unwrap();
    assert_eq!(released.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
    lab.asked(&["PUT IPAMBlock(10.244.0.0/26), DELETE IPAMHandle(net.a), DELETE IPAMHandle(net.d)"]);
    assert_eq!(lab.count("net.a").await, BTreeMap::new());
    let again = node.release_together(&[release("net.c"), release("net.nobody")], at(5)).await.unwrap();
    assert_eq!(again.iter().map(Vec::len).collect::<Vec<_>>(), [1, 0]);
}

#[tokio::test]
async fn an_address_that_was_told_is_given_or_none() {
    let lab = Lab::new(&[("pool", "10.244.0.0/29", 29)]).await;
    let mut node = lab.transacting("node-1").await;
    node.assign(&request("net.first"), at(1)).await.unwrap();
    let key = Key::Block("10.244.0.0/29".parse().unwrap());
    // Others take an address of the block behind the node's back: the one it has told, and then another.
    for (taken, expected) in [(1, None), (4, Some("10.244.0.2".to_owned()))] {
        let mut block = lab.store.get::<IPAMBlockSpec>(&key).await.unwrap();
        let address = IpAddr::from([10, 244, 0, taken]);
        block::assign_address(&mut block.spec, &block::holder("net.other", &BTreeMap::new()), address).unwrap();
        block::advance(&mut block.spec);
        lab.store.update(&block).await.unwrap();
        let mut told = Vec::new();
        let settled = node
            .assign_telling(&[request(&format!("net.{taken}"))], at(2), &mut |_, assigned| {
                told.extend(addresses(assigned));
                Vec::new()
            })
            .await;
        assert_eq!(told.len(), 1, "it is told once");
        match (&settled[0], expected) {
            (Ok(settled), Some(expected)) => {
                assert_eq!((addresses(&settled.assigned), told), (vec![expected.clone()], vec![expected]))
            }
            (Err(AssignError::Contended { .. }), None) => {}
            other => panic!("{other:?}"),
        }
    }
    let stored = lab.block("10.244.0.0/29").await;
    for (handle, count) in [("net.1", 0), ("net.4", 1)] {
        assert_eq!(block::addresses_of(&stored, handle).count(), count);
        assert_eq!(lab.count(handle).await.len(), count, "{handle}");
    }
}
