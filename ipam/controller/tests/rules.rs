//! The rules one by one, on images made by hand. No store.

use std::net::IpAddr;
use std::time::Duration;

use calico_api::{
    AffinityState, BlockAffinity, BlockAffinitySpec, ClusterInformation, ClusterInformationSpec, IPAMBlock,
    IPAMBlockSpec, IPAMHandle, IPPool, IPPoolSpec, Key, Kind, Node, NodeSpec, ObjectMeta, Owner, Resource, Spec,
    WorkloadEndpoint, WorkloadEndpointSpec, workload_endpoint_name,
};
use calico_datastore::watch::Update;
use calico_datastore::{Entry, Fault, Revision};
use ipam::{Reservations, block};
use ipam_controller::{Action, Collector, Image, Mode, Moment, Oddity, Pass, Patience, Source};
use ipnet::IpNet;
use jiff::Timestamp;

const GRACE: u64 = 900;

/// An image, a collector and a clock.
struct World {
    image: Image,
    collector: Collector,
    clock: u64,
    revision: u64,
    patience: Patience,
}

impl World {
    /// With the nodes a and b, and a pool.
    fn new() -> Self {
        let patience = Patience::new(Duration::from_secs(GRACE));
        let mut world =
            Self { image: Image::new(Mode::Kubernetes), collector: Collector::new(), clock: 0, revision: 0, patience };
        for node in ["a", "b"] {
            world.put(&Node::new(ObjectMeta::named(node), NodeSpec::default()));
        }
        world.put(&IPPool::new(ObjectMeta::named("pods"), IPPoolSpec::new("10.0.0.0/16")));
        world.put(&IPPool::new(ObjectMeta::named("six"), IPPoolSpec::new("fd00::/64")));
        world
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_second(1_787_403_600 + i64::try_from(self.clock).unwrap()).unwrap()
    }

    fn put<S: Spec>(&mut self, resource: &Resource<S>) {
        self.revision += 1;
        let entry = Entry {
            key: resource.key(),
            value: serde_json::to_value(resource).unwrap(),
            revision: Revision(self.revision.to_string()),
        };
        self.image.observe(Source::Store, &Update::Put(entry));
    }

    fn delete(&mut self, key: Key) {
        self.image.observe(Source::Store, &Update::Delete(key));
    }

    fn delete_node(&mut self, name: &str) {
        self.delete(Key::named(Kind::Node, name));
    }

    fn affinity(&mut self, node: &str, cidr: &str, state: AffinityState) {
        let spec = BlockAffinitySpec {
            state,
            node: node.into(),
            owner_type: Some("host".into()),
            cidr: cidr.parse().unwrap(),
            deleted: false,
        };
        self.put(&BlockAffinity::new(ObjectMeta::named(format!("{node}-{cidr}")), spec));
    }

    /// A block of a node, with an affinity to it; holders are handle and attributes, one address each.
    fn block(&mut self, node: &str, cidr: &str, holders: &[(&str, &[(&str, &str)])]) -> IPAMBlockSpec {
        self.affinity(node, cidr, AffinityState::Confirmed);
        self.bare_block(Some(Owner::Host(node.into())), cidr, holders)
    }

    fn bare_block(&mut self, owner: Option<Owner>, cidr: &str, holders: &[(&str, &[(&str, &str)])]) -> IPAMBlockSpec {
        let made_by = owner.clone().unwrap_or(Owner::Host("x".into()));
        let mut spec = block::new(cidr.parse().unwrap(), &made_by, self.wall()).unwrap();
        if owner.is_none() {
            spec.affinity = None;
        }
        for (handle, attributes) in holders {
            let attributes: Vec<(String, String)> =
                attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let holder = block::holder(handle, attributes.iter().map(|(key, value)| (key, value)));
            assert_eq!(block::assign(&mut spec, &holder, 1, &Reservations::default()).len(), 1);
            block::advance(&mut spec);
        }
        self.put_block(&spec);
        spec
    }

    fn put_block(&mut self, spec: &IPAMBlockSpec) {
        self.put(&IPAMBlock::new(ObjectMeta::named(Key::Block(spec.cidr).name()), spec.clone()));
    }

    fn endpoint(node: &str, pod: &str, container: &str, addresses: &[&str]) -> WorkloadEndpoint {
        let spec = WorkloadEndpointSpec {
            orchestrator: "k8s".into(),
            node: node.into(),
            pod: pod.into(),
            endpoint: "eth0".into(),
            container_id: container.into(),
            ip_networks: addresses.iter().map(|text| IpNet::from(ip(text)).to_string()).collect(),
            ..WorkloadEndpointSpec::default()
        };
        let name = workload_endpoint_name(node, "k8s", pod, "eth0");
        let metadata = ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::named(name) };
        WorkloadEndpoint::new(metadata, spec)
    }

    fn pass(&mut self) -> Pass {
        let now = Moment { elapsed: Duration::from_secs(self.clock), wall: self.wall() };
        self.collector.pass(&mut self.image, self.patience, now)
    }

    fn after(&mut self, seconds: u64) -> Vec<Action> {
        self.clock += seconds;
        self.pass().actions
    }

    /// What is wanted after the grace period; on first sight nothing is.
    fn in_the_end(&mut self) -> Vec<Action> {
        assert_eq!(self.after(0), [], "nothing is done on first sight");
        assert_eq!(self.after(GRACE - 1), [], "nothing is done within the grace period");
        self.after(1)
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pod_on<'a>(node: &'a str, pod: &'a str) -> [(&'a str, &'a str); 3] {
    [("namespace", "shop"), ("node", node), ("pod", pod)]
}

/// The addresses that actions release.
fn released(actions: &[Action]) -> Vec<String> {
    let leaks = actions.iter().filter_map(|action| match action {
        Action::Release { leaks, .. } => Some(leaks),
        _ => None,
    });
    let mut addresses: Vec<String> = leaks.flatten().map(|(leak, _)| leak.assignment.address.to_string()).collect();
    addresses.sort();
    addresses
}

#[test]
fn the_address_of_a_pod_that_is_gone_is_released_after_the_grace_period() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "gone")), ("n.2", &pod_on("a", "web"))]);
    world.put(&World::endpoint("a", "web", "2", &["10.0.0.1"]));
    assert_eq!(released(&world.in_the_end()), ["10.0.0.0"]);
}

#[test]
fn a_suspect_that_is_cleared_once_begins_anew() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web"))]);
    assert_eq!(world.after(0), []);
    let back = World::endpoint("a", "web", "1", &["10.0.0.0"]);
    world.put(&back);
    assert_eq!(world.after(GRACE), []);
    world.delete(back.key());
    assert_eq!(released(&world.in_the_end()), ["10.0.0.0"]);
}

#[test]
fn an_address_that_any_pod_has_is_in_use_whatever_its_allocation_says() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web")), ("n.2", &pod_on("a", "other"))]);
    // On another node, and as another pod.
    world.put(&World::endpoint("b", "web", "7", &["10.0.0.0", "10.0.0.1"]));
    assert_eq!(released(&world.in_the_end()), [""; 0]);
    let odd = Oddity::OtherNode { address: ip("10.0.0.0"), named: "a".into(), actual: "b".into() };
    assert!(world.pass().oddities.contains(&odd));
}

#[test]
fn a_pod_that_begins_or_whose_present_container_it_is_keeps_an_address_that_is_not_shown() {
    let mut world = World::new();
    let holders = [("n.1", pod_on("a", "begins")), ("n.2", pod_on("a", "anew")), ("n.3", pod_on("a", "anew"))];
    world.block(
        "a",
        "10.0.0.0/29",
        &[(holders[0].0, &holders[0].1), (holders[1].0, &holders[1].1), (holders[2].0, &holders[2].1)],
    );
    world.put(&World::endpoint("a", "begins", "", &[]));
    // Container 3 is the present one; what is shown is still another's.
    world.put(&World::endpoint("a", "anew", "3", &["10.0.9.9"]));
    assert_eq!(released(&world.in_the_end()), ["10.0.0.1"]);
}

#[test]
fn a_finished_pod_has_no_address_any_more() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "job"))]);
    let mut job = World::endpoint("a", "job", "1", &[]);
    job.metadata.annotations.insert(WorkloadEndpointSpec::FINISHED.into(), "true".into());
    world.put(&job);
    assert_eq!(released(&world.in_the_end()), ["10.0.0.0"]);
}

#[test]
fn all_addresses_of_a_handle_go_or_none() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web"))]);
    world.block("a", "fd00::/126", &[("n.1", &pod_on("a", "web"))]);
    // It has the one address, under another container; the other is nobody's.
    let half = World::endpoint("a", "web", "2", &["10.0.0.0"]);
    world.put(&half);
    assert_eq!(released(&world.in_the_end()), [""; 0]);
    assert_eq!(world.pass().candidates.len(), 1);
    world.delete(half.key());
    world.after(0);
    assert_eq!(released(&world.after(GRACE)), ["10.0.0.0", "fd00::"]);
}

#[test]
fn what_nobody_can_judge_is_never_released() {
    let mut world = World::new();
    let none: &[(&str, &str)] = &[];
    let vm = [("namespace", "shop"), ("node", "a"), ("pod", "vm-1"), ("vmi-name", "vm")];
    world.block(
        "a",
        "10.0.0.0/29",
        &[
            ("n.1", &[("node", "a"), ("timestamp", "t")]),
            ("n.vmi.shop.vm", &vm),
            ("lb-x", &[("service", "web"), ("namespace", "shop"), ("type", "LoadBalancer")]),
            ("windows-reserved-ipam-handle", &[("note", "reserved")]),
            ("mystery", none),
        ],
    );
    assert_eq!(world.in_the_end(), []);
    // Not even with their node gone; and as long as they are there its blocks stay.
    world.block("a", "10.0.1.0/30", &[]);
    world.delete_node("a");
    assert_eq!(world.after(0), []);
    assert_eq!(world.after(GRACE), []);
    assert!(world.pass().oddities.contains(&Oddity::OccupiedNode("a".into())));
}

#[test]
fn an_endpoint_that_cannot_be_read_keeps_the_address_of_its_pod() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web-0"))]);
    let fault =
        Fault { kind: Kind::WorkloadEndpoint, key: None, name: "shop/web-0".into(), reason: "it is torn".into() };
    world.image.observe(Source::Store, &Update::Fault(fault));
    assert_eq!(world.in_the_end(), []);
}

#[test]
fn what_a_deleted_node_had_goes_as_soon_as_it_has_been_gone_in_two_passes() {
    let mut world = World::new();
    let tunnel = [("node", "a"), ("type", "vxlanTunnelAddress")];
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web")), ("vxlan-tunnel-addr-a", &tunnel)]);
    world.block("a", "10.0.1.0/30", &[]);
    let web = World::endpoint("a", "web", "1", &["10.0.0.0"]);
    world.put(&web);
    world.delete_node("a");
    assert_eq!(world.after(0), []);
    assert_eq!(world.after(60), [], "its pod is still there: neither the tunnel nor the empty block goes");
    world.delete(web.key());
    assert_eq!(released(&world.after(1)), [""; 0], "leaks are seen twice, too");
    let actions = world.after(1);
    assert_eq!(released(&actions), ["10.0.0.0", "10.0.0.1"]);
    let block =
        Action::GiveUpBlock { owner: Owner::Host("a".into()), cidr: "10.0.1.0/30".parse().unwrap(), gone: true };
    assert!(actions.contains(&block), "{actions:?}");
    // Here again before anything was done.
    world.put(&Node::new(ObjectMeta::named("a"), NodeSpec::default()));
    world.put(&web);
    assert_eq!(world.after(1), []);
    assert_eq!(world.pass().again, None);
}

#[test]
fn a_pod_that_outlives_its_node_may_get_a_new_sandbox_there() {
    let mut world = World::new();
    let web = World::endpoint("a", "web", "1", &["10.0.0.0"]);
    world.put(&web);
    world.delete_node("a");
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web")), ("n.2", &pod_on("a", "web"))]);
    assert_eq!([world.after(0), world.after(5), world.after(60)], [const { Vec::new() }; 3]);
    world.delete(web.key());
    world.after(1);
    assert_eq!(released(&world.after(1)), ["10.0.0.0", "10.0.0.1"]);
}

#[test]
fn while_a_node_cannot_be_read_it_is_there() {
    let mut world = World::new();
    world.block("c", "10.0.0.0/30", &[]);
    let fault =
        Fault { kind: Kind::Node, key: Some(Key::named(Kind::Node, "c")), name: "c".into(), reason: "torn".into() };
    world.image.observe(Source::Store, &Update::Fault(fault));
    assert_eq!((world.after(0), world.after(60)), (vec![], vec![]));
    world.delete_node("c");
    world.after(1);
    assert_eq!(world.after(60).len(), 1);
}

#[test]
fn a_node_keeps_its_last_block_of_a_family_unless_it_is_in_no_pool() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[]);
    world.block("a", "10.0.1.0/30", &[]);
    world.block("a", "fd00::/126", &[]);
    world.block("b", "10.0.9.0/30", &[]);
    world.block("b", "172.16.0.0/30", &[]);
    let cidrs: Vec<String> = world
        .in_the_end()
        .iter()
        .map(|action| match action {
            Action::GiveUpBlock { cidr, gone: false, .. } => cidr.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(cidrs, ["10.0.1.0/30", "172.16.0.0/30"]);
}

#[test]
fn a_block_that_was_used_in_between_begins_anew() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("windows-reserved-ipam-handle", &[("note", "x")])]);
    let mut spec = world.block("a", "10.0.1.0/30", &[]);
    assert_eq!(world.after(0), []);
    block::advance(&mut spec);
    world.put_block(&spec);
    assert_eq!(world.after(GRACE), []);
    assert_eq!(world.after(GRACE).len(), 1);
}

#[test]
fn claims_that_lead_nowhere_and_blocks_of_nobody_go() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web"))]);
    world.put(&World::endpoint("a", "web", "1", &["10.0.0.0"]));
    world.affinity("b", "10.0.0.0/30", AffinityState::Pending); // another's block
    world.affinity("a", "10.0.2.0/30", AffinityState::Pending); // no block
    world.affinity("a", "10.0.3.0/30", AffinityState::Confirmed); // no block, but its node makes it when it needs it
    world.bare_block(None, "10.0.4.0/30", &[]);
    let actions = world.in_the_end();
    let mut told: Vec<String> = actions
        .iter()
        .map(|action| match action {
            Action::DeleteAffinity { owner, cidr, .. } => format!("affinity {owner} {cidr}"),
            Action::DeleteBlock { cidr, owner: None } => format!("block {cidr}"),
            other => panic!("{other:?}"),
        })
        .collect();
    told.sort();
    assert_eq!(told, ["affinity host:a 10.0.2.0/30", "affinity host:b 10.0.0.0/30", "block 10.0.4.0/30"]);
    // A claim that has gone on meanwhile is another suspect.
    world.affinity("a", "10.0.2.0/30", AffinityState::Pending);
    assert!(
        !world
            .after(0)
            .iter()
            .any(|action| matches!(action, Action::DeleteAffinity { cidr, .. } if cidr.to_string() == "10.0.2.0/30"))
    );
}

fn handle(id: &str, cidr: &str, revision: &str) -> IPAMHandle {
    let mut spec = ipam::handle::new(id);
    ipam::handle::add(&mut spec, &cidr.parse().unwrap(), 1);
    let mut handle = IPAMHandle::new(ObjectMeta::named(id), spec);
    handle.metadata.resource_version = Some(revision.into());
    handle
}

#[test]
fn a_handle_without_addresses_goes_if_nobody_writes_it_and_its_blocks_can_be_read() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "web"))]);
    world.put(&World::endpoint("a", "web", "1", &["10.0.0.0"]));
    let torn = Fault {
        kind: Kind::IPAMBlock,
        key: Some(Key::Block("10.0.7.0/30".parse().unwrap())),
        name: "10-0-7-0-30".into(),
        reason: "torn".into(),
    };
    world.image.observe(Source::Store, &Update::Fault(torn));
    let list = |revision: &str| {
        vec![
            handle("n.1", "10.0.0.0/30", "1"),
            handle("N.2", "10.0.0.0/30", "1"),
            handle("n.3", "10.0.7.0/30", "1"),
            handle("n.4", "10.0.0.0/30", revision),
        ]
    };
    world.image.set_handles(list("1"));
    assert_eq!(world.after(0), []);
    // A pass without a listing forgets nothing.
    assert_eq!(world.after(10), []);
    world.image.set_handles(list("2"));
    assert_eq!(world.after(GRACE), [Action::DeleteHandle { id: "N.2".into(), revision: "1".into() }]);
}

#[test]
fn a_grace_period_of_zero_reports_and_leaves_all_that_is_on_nodes() {
    let mut world = World::new();
    world.patience = Patience::new(Duration::ZERO);
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "gone"))]);
    world.block("a", "10.0.1.0/30", &[]);
    assert_eq!((world.after(0), world.after(100_000)), (vec![], vec![]));
    assert_eq!(world.pass().candidates.len(), 1);
    world.delete_node("a");
    world.after(1);
    assert_eq!(released(&world.after(60)), ["10.0.0.0"]);
}

#[test]
fn while_the_store_is_locked_nothing_is_done() {
    let mut world = World::new();
    world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "gone"))]);
    let mut information = ClusterInformation::new(ObjectMeta::named("default"), ClusterInformationSpec::default());
    information.spec.datastore_ready = Some(false);
    world.put(&information);
    assert_eq!((world.after(0), world.after(GRACE)), (vec![], vec![]));
    information.spec.datastore_ready = Some(true);
    world.put(&information);
    assert_eq!(released(&world.in_the_end()), ["10.0.0.0"]);
}

#[test]
fn addresses_that_have_cooled_down_in_a_quiet_block_are_freed() {
    let mut world = World::new();
    world.put(&calico_api::IPAMConfiguration::new(
        ObjectMeta::named("default"),
        calico_api::IPAMConfigurationSpec { ip_cooldown_seconds: Some(60), ..Default::default() },
    ));
    let mut spec = world.block("a", "10.0.0.0/30", &[("n.1", &pod_on("a", "gone"))]);
    block::release_handle(&mut spec, "n.1", world.wall());
    block::advance(&mut spec);
    world.put_block(&spec);
    assert_eq!(world.after(59), []);
    assert_eq!(world.after(1), [Action::CollectCold { cidr: spec.cidr }]);
}

#[test]
fn addresses_of_load_balancers_belong_to_no_node() {
    let mut world = World::new();
    world.bare_block(Some(Owner::Virtual("load-balancer".into())), "10.0.0.0/30", &[]);
    let spec = BlockAffinitySpec {
        state: AffinityState::Pending,
        node: "load-balancer".into(),
        owner_type: Some("virtual".into()),
        cidr: "10.0.5.0/30".parse().unwrap(),
        deleted: false,
    };
    world.put(&BlockAffinity::new(ObjectMeta::named("load-balancer"), spec));
    assert_eq!(world.in_the_end(), []);
    assert!(world.pass().gone.is_empty());
}
