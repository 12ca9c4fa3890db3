//! Which endpoints are BGP peers, as BGPPeers, labels, profiles and addresses come and go in any order.

use std::collections::BTreeMap;

use calico_api::{
    AsNumber, BGPConfiguration, BGPConfigurationSpec, BGPPeer, BGPPeerSpec, Key, Kind, Node, NodeSpec, ObjectMeta,
    Profile, ProfileSpec, WorkloadEndpoint, WorkloadEndpointSpec,
};
use felix_calc::{Calc, Change, Claim, Notice, Routing, Settings, Unusable, Update};
use proptest::prelude::*;

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn labels(pairs: Pairs<'_>) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn endpoint(name: &str, pairs: Pairs<'_>, networks: &[&str]) -> WorkloadEndpoint {
    let metadata = ObjectMeta { namespace: Some("shop".to_owned()), labels: labels(pairs), ..ObjectMeta::named(name) };
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: "east".to_owned(),
        pod: name.to_owned(),
        endpoint: "eth0".to_owned(),
        interface_name: format!("cali-{name}"),
        container_id: format!("c-{name}"),
        ip_networks: networks.iter().map(ToString::to_string).collect(),
        profiles: vec!["kns.shop".to_owned()],
        ..WorkloadEndpointSpec::default()
    };
    WorkloadEndpoint::new(metadata, spec)
}

fn put(endpoint: WorkloadEndpoint) -> Update {
    Update::Endpoint(Box::new(endpoint))
}

fn peer_of(name: &str, spec: BGPPeerSpec) -> Update {
    Update::Peer(Box::new(BGPPeer::new(ObjectMeta::named(name), spec)))
}

/// A BGPPeer for workloads that `workloads` selects on nodes that `nodes` selects.
fn peer(name: &str, workloads: &str, nodes: &str) -> Update {
    let spec = BGPPeerSpec {
        local_workload_selector: Some(workloads.to_owned()),
        node_selector: Some(nodes.to_owned()),
        as_number: Some(AsNumber(65_100)),
        ..BGPPeerSpec::default()
    };
    peer_of(name, spec)
}

fn configuration(ipv4: Option<&str>, ipv6: Option<&str>) -> Update {
    let spec = BGPConfigurationSpec {
        local_workload_peering_ipv4: ipv4.map(str::to_owned),
        local_workload_peering_ipv6: ipv6.map(str::to_owned),
        ..BGPConfigurationSpec::default()
    };
    Update::Configuration(Box::new(BGPConfiguration::new(ObjectMeta::named("default"), spec)))
}

fn node(name: &str, pairs: Pairs<'_>) -> Update {
    let metadata = ObjectMeta { labels: labels(pairs), ..ObjectMeta::named(name) };
    Update::Node(Box::new(Node::new(metadata, NodeSpec::default())))
}

fn profile(name: &str, pairs: Pairs<'_>) -> Update {
    let spec = ProfileSpec { labels_to_apply: Some(labels(pairs)), ..ProfileSpec::default() };
    Update::Profile(Box::new(Profile::new(ObjectMeta::named(name), spec)))
}

fn gone(kind: Kind, name: &str) -> Update {
    Update::Deleted(Key::named(kind, name))
}

/// A calculation, and what a receiver of its changes knows.
struct World {
    calc: Calc,
    /// Peers, as `interface peer addresses…`.
    peers: BTreeMap<String, String>,
    notices: Vec<Notice>,
    known: bool,
}

impl World {
    fn new() -> Self {
        let calc = Calc::new(Settings {
            node: "east".to_owned(),
            prefixes: vec!["cali".to_owned()],
            routing: Routing::Bgp,
            felix_programs: None,
            external_nodes: Vec::new(),
        });
        Self { calc, peers: BTreeMap::new(), notices: Vec::new(), known: false }
    }

    fn take(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Interface { name, wanted } => {
                    let peer = wanted.and_then(|wanted| {
                        let addresses = wanted.node_addresses.iter().map(|address| format!(" {address}"));
                        Some(wanted.peer? + &addresses.collect::<String>())
                    });
                    match peer {
                        Some(peer) => self.peers.insert(name, peer),
                        None => self.peers.remove(&name),
                    };
                }
                Change::Notice(notice) => self.notices.push(notice),
                Change::PeersKnown => assert!(!std::mem::replace(&mut self.known, true)),
                Change::InSync => {}
                Change::Member { .. } => {} // of the cluster, which is not the matter here
                other => panic!("unexpected: {other:?}"),
            }
        }
    }

    fn update(&mut self, updates: impl IntoIterator<Item = Update>) -> &mut Self {
        for update in updates {
            let changes = self.calc.update(update);
            self.take(changes);
        }
        self
    }

    #[track_caller]
    fn has(&mut self, expected: Pairs<'_>) -> &mut Self {
        assert_eq!(self.peers, labels(expected));
        self
    }
}

/// Two endpoints, one BGPPeer by own labels and one by inherited ones.
fn cluster() -> Vec<Update> {
    vec![
        node("east", &[("rack", "1")]),
        configuration(Some("169.254.0.179"), Some("fd12::179")),
        peer("by-app", "app == 'r'", "rack == '1'"),
        peer("by-namespace", "pcns.bgp == 'yes' && has(bgp)", "all()"),
        profile("kns.shop", &[("pcns.bgp", "yes")]),
        put(endpoint("a", &[("app", "r")], &["10.0.0.1/32", "fd00::1/128"])),
        put(endpoint("b", &[("bgp", "")], &["10.0.0.2/32"])),
        put(endpoint("c", &[], &["10.0.0.3/32"])),
    ]
}

const PEERS: Pairs<'_> = &[("cali-a", "by-app 169.254.0.179 fd12::179"), ("cali-b", "by-namespace 169.254.0.179")];

proptest! {
    #[test]
    fn the_peers_are_the_same_in_whatever_order_their_inputs_come(
        order in Just(cluster()).prop_shuffle(),
        sync in 0..=8_usize,
        profiles in 0..=8_usize,
    ) {
        let mut world = World::new();
        let mut order = order.into_iter();
        // In sync may come at any moment: what was in the store before it is nothing special here.
        let mut rest = Vec::new();
        for (position, update) in order.by_ref().enumerate() {
            if position == sync { rest.push(Update::InSync); }
            if position == profiles { rest.push(Update::ProfilesInSync); }
            rest.push(update);
        }
        rest.extend([Update::InSync, Update::ProfilesInSync]);
        world.update(rest);
        prop_assert_eq!(&world.peers, &labels(PEERS));
        prop_assert!(world.known && world.calc.needs_profiles());
    }
}

#[test]
fn nothing_is_said_of_peers_before_everything_that_they_follow_from_is_known() {
    let mut world = World::new();
    world.update(cluster()).has(&[]);
    assert!(!world.calc.needs_profiles(), "not before it is known which BGPPeers there are");
    world.update([Update::InSync]).has(&[]);
    assert!(world.calc.needs_profiles() && !world.known);
    world.update([Update::ProfilesInSync]).has(PEERS);
    assert!(world.known);

    // Without a BGPPeer for this node profiles are of no interest.
    let mut world = World::new();
    let none = [peer("elsewhere", "all()", "rack == '2'"), Update::InSync];
    world.update(cluster().into_iter().filter(|update| !matches!(update, Update::Peer(_)))).update(none).has(&[]);
    assert!(world.known && !world.calc.needs_profiles());
}

#[test]
fn peers_follow_every_change_of_what_they_follow_from() {
    let mut world = World::new();
    world.update(cluster()).update([Update::InSync, Update::ProfilesInSync]).has(PEERS);
    // Labels of the endpoint, the node, the profile.
    let other = put(endpoint("a", &[("app", "web")], &["10.0.0.1/32", "fd00::1/128"]));
    world.update([other]).has(&PEERS[1..]);
    world.update([put(endpoint("a", &[("app", "r")], &["10.0.0.1/32", "fd00::1/128"]))]).has(PEERS);
    world.update([node("east", &[("rack", "2")])]).has(&PEERS[1..]);
    world.update([node("west", &[("rack", "1")])]).has(&PEERS[1..]);
    world.update([node("east", &[("rack", "1")])]).has(PEERS);
    world.update([gone(Kind::Profile, "kns.shop")]).has(&PEERS[..1]);
    world.update([profile("kns.shop", &[("pcns.bgp", "yes")])]).has(PEERS);
    // The addresses.
    let one = ("cali-a", "by-app fd12::180");
    world.update([configuration(None, Some("fd12::180"))]).has(&[one, ("cali-b", "by-namespace")]);
    world.update([gone(Kind::BGPConfiguration, "default")]).has(&[("cali-a", "by-app"), ("cali-b", "by-namespace")]);
    world.update([configuration(Some("169.254.0.179"), Some("fd12::179"))]).has(PEERS);
    // The BGPPeers: gone, no more about workloads, another of a smaller name.
    world.update([gone(Kind::BGPPeer, "by-namespace")]).has(&PEERS[..1]);
    let all =
        [("cali-a", "all 169.254.0.179 fd12::179"), ("cali-b", "all 169.254.0.179"), ("cali-c", "all 169.254.0.179")];
    world.update([peer("all", "all()", "")]).has(&all);
    world.update([peer_of("all", BGPPeerSpec { peer_ip: Some("192.0.2.1".to_owned()), ..BGPPeerSpec::default() })]);
    world.has(&PEERS[..1]);
    // The endpoint.
    let key = endpoint("a", &[], &[]).key();
    world.update([Update::Deleted(key)]).has(&[]);
    world.update([gone(Kind::BGPPeer, "by-app")]);
    assert!(!world.calc.needs_profiles());
    world.update([Update::ProfilesUnwatched]).has(&[]);
}

#[test]
fn while_profiles_are_read_again_peers_stay_as_they_are() {
    let mut world = World::new();
    world.update(cluster()).update([Update::InSync, Update::ProfilesInSync]).has(PEERS);
    world.update([Update::ProfilesUnwatched, peer("by-app", "none == 'x'", "")]).has(PEERS);
    world.update([put(endpoint("b", &[("bgp", "still")], &["10.0.0.2/32"]))]).has(PEERS);
    world.update([profile("kns.shop", &[("pcns.bgp", "yes")]), Update::ProfilesInSync]).has(&PEERS[1..]);
}

#[test]
fn a_pod_that_is_just_attached_becomes_a_peer_when_its_labels_are_known() {
    let mut world = World::new();
    world.update(cluster()).update([Update::InSync, Update::ProfilesInSync]);
    let claimed = endpoint("new", &[], &["10.0.0.9/32"]);
    let changes = world.calc.claim(&claimed.key(), Claim::Present(Box::new(claimed.clone())));
    world.take(changes);
    world.has(PEERS);
    world.update([put(endpoint("new", &[("app", "r")], &["10.0.0.9/32"]))]);
    world.has(&[PEERS[0], PEERS[1], ("cali-new", "by-app 169.254.0.179")]);
    let changes = world.calc.claim(&claimed.key(), Claim::Gone { container: "c-new".to_owned() });
    world.take(changes);
    world.has(PEERS);
}

#[test]
fn the_operator_is_told_once_of_addresses_that_lack_and_of_peers_that_overlap() {
    let mut world = World::new();
    let selects = peer("lw", "app == 'r'", "all()");
    let pods = [
        put(endpoint("a", &[("app", "r")], &["10.0.0.1/32"])),
        put(endpoint("b", &[("app", "r")], &["10.0.0.2/32", "fd00::2/128"])),
    ];
    world.update(pods).update([configuration(None, None), selects.clone()]);
    world.update([Update::InSync, Update::ProfilesInSync]);
    let lacks = |field| Notice::NoPeeringAddress { peer: "lw".to_owned(), field };
    assert_eq!(world.notices, [lacks("localWorkloadPeeringIPV4"), lacks("localWorkloadPeeringIPV6")]);
    world.update([put(endpoint("c", &[("app", "r")], &["10.0.0.3/32"]))]);
    world.update([configuration(Some("169.254.0.179"), Some("fd12::179"))]);
    assert_eq!(world.notices.len(), 2);
    world.update([configuration(Some("169.254.0.179"), None)]);
    assert_eq!(world.notices.split_off(2), [lacks("localWorkloadPeeringIPV6")], "again, since it was well between");

    world.update([peer("zz", "has(app)", "all()"), peer("away", "all()", "has(away)")]);
    let overlap = |name: &str| Notice::Overlap {
        endpoint: endpoint(name, &[], &[]).key(),
        peer: "lw".to_owned(),
        suppressed: vec!["zz".to_owned()],
    };
    assert_eq!(world.notices.split_off(2), ["a", "b", "c"].map(overlap));
}

#[test]
fn what_is_not_understood_keeps_its_last_good_version() {
    let mut world = World::new();
    world.update(cluster()).update([Update::InSync, Update::ProfilesInSync]);
    for bad in
        [peer("by-app", "has(", "all()"), peer("by-app", "all()", "rack ="), configuration(Some("169.254"), None)]
    {
        let changes = world.calc.update(bad);
        let [Change::Ignored { key: Some(_), reason }] = &changes[..] else { panic!("{changes:?}") };
        assert!(matches!(reason, Unusable::Peer(_) | Unusable::PeeringAddress { .. }), "{reason}");
    }
    let error = Unusable::PeeringAddress { field: "localWorkloadPeeringIPV4", value: "fd00::1".to_owned() };
    let changes = world.calc.update(configuration(Some("fd00::1"), None));
    assert_eq!(changes, [Change::Ignored { key: Some(Key::named(Kind::BGPConfiguration, "default")), reason: error }]);
    world.has(PEERS);
}
