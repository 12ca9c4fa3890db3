//! The route vectors of `bgp.md` §2.14 as far as they are about what is told and believed, on a real RIB.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bgp_proto::{
    Advertisement, AsPath, Asn, Attributes, Context, Families, HoldTime, LocalKind, LocalRoute, Message, Negotiated,
    NextHopMode, PeerConfig, PeerId, Prefix, Rib, RibConfig, Source, Update, message,
};
use calico_api::{BGPConfigurationSpec, Key};
use serde_json::{Value, json};

use super::*;
use crate::inputs::{Change, Encap};
use crate::sessions::Origin;

/// Our AS, and the identifiers of an internal and an external peer.
pub(super) const OWN_AS: u32 = 64512;
const INTERNAL: u32 = 2;
const EXTERNAL: u32 = 3;

/// A node n = 10.0.0.1 with its RIB, and what its peers were told.
pub(super) struct World {
    pub(super) rib: Rib,
    pub(super) book: PolicyBook,
    pub(super) sessions: BTreeMap<u32, SessionConfig>,
    told: BTreeMap<u32, BTreeMap<Prefix, Attributes>>,
}

fn address(last: u32) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(last).unwrap()).into()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn context(peer_as: u32) -> Context {
    Context { four_octet_as: true, internal: peer_as == OWN_AS, families: Families::ALL, ..Context::default() }
}

impl World {
    pub(super) fn new() -> Self {
        let own = Ipv4Addr::new(10, 0, 0, 1).try_into().unwrap();
        let rib = Rib::new(RibConfig { resolve_next_hops: false, ..RibConfig::new(own) });
        Self { rib, book: PolicyBook::default(), sessions: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// A node with an internal and an external peer, both with these filters.
    fn of(inputs: &Inputs, filters: &[&str]) -> Self {
        let mut world = Self::new();
        world.set(Surroundings::of(inputs, "n", &Settings::default()), &inputs.filters);
        world.peer(INTERNAL, OWN_AS, filters, |_| {});
        world.peer(EXTERNAL, 65000, filters, |_| {});
        world
    }

    pub(super) fn peer(&mut self, id: u32, peer_as: u32, filters: &[&str], change: impl FnOnce(&mut PeerConfig)) {
        let session = SessionConfig {
            filters: filters.iter().map(|name| (*name).to_owned()).collect(),
            ..SessionConfig::new(Origin::Global, (address(id), 179).into(), OWN_AS, peer_as)
        };
        let IpAddr::V4(v4) = address(id) else { unreachable!() };
        let negotiated = Negotiated {
            peer_as: Asn(peer_as),
            router_id: v4.try_into().unwrap(),
            hold_time: HoldTime::try_from(90).unwrap(),
            context: context(peer_as),
            route_refresh: true,
            graceful_restart: None,
            notification_restart: false,
            long_lived_aware: false,
            local_address: address(1),
            direction: bgp_proto::Direction::Outgoing,
            sent: vec![],
            received: vec![],
        };
        let mut config = PeerConfig {
            import: self.book.import(&session),
            export: Some(self.book.export(&session)),
            next_hop_v6: Some("fd00::1".parse().unwrap()),
            ..PeerConfig::new(address(id), address(1), Asn(OWN_AS), &negotiated)
        };
        change(&mut config);
        self.sessions.insert(id, session);
        self.rib.peer_up(PeerId(id), config);
    }

    /// What the shell does when anything changed.
    pub(super) fn set(&mut self, surroundings: Surroundings, filters: &BTreeMap<String, BgpFilter>) -> Exchange {
        let exchange = self.book.set(surroundings, filters);
        let within = exchange.within.as_ref().map(|nets| nets.iter().map(|net| Prefix::from(*net)).collect::<Vec<_>>());
        self.rib.exchange_policies(&exchange.policies, within.as_deref());
        if exchange.split {
            for (id, session) in &self.sessions {
                let (import, export) = (self.book.import(session), self.book.export(session));
                self.rib.set_policies(PeerId(*id), import, Some(export));
            }
        }
        exchange
    }

    pub(super) fn own(&mut self, text: &str, kind: LocalKind, metric: u32, interface: Option<&str>) {
        let local_pref = LocalRoute::local_pref(metric);
        let interface = interface.map(Into::into);
        self.rib.originate(prefix(text), LocalRoute { kind, local_pref, interface, ..LocalRoute::default() });
    }

    pub(super) fn learn(&mut self, from: u32, text: &str, change: impl FnOnce(&mut Attributes)) {
        let mut attributes =
            Attributes::new(if text.contains(':') { "fd00::9".parse().unwrap() } else { address(from) });
        let internal = self.sessions[&from].is_internal();
        attributes.local_pref = internal.then_some(LocalRoute::local_pref(1024));
        attributes.as_path = AsPath::sequence((!internal).then_some(Asn(65000)));
        change(&mut attributes);
        let nlri = vec![prefix(text).into()];
        let advertised = vec![Advertisement { attributes: attributes.into(), nlri }];
        self.rib.update(PeerId(from), &Update { withdrawn: vec![], advertised });
    }

    /// What a peer holds of what it was told, once it has read everything.
    pub(super) fn told(&mut self, id: u32) -> &BTreeMap<Prefix, Attributes> {
        let told = self.told.entry(id).or_default();
        let cx = context(self.sessions[&id].peer_as);
        while let Some(octets) = self.rib.poll_output(PeerId(id), 65_536) {
            let mut rest = &octets[..];
            while let Some(length) = message::frame(rest, message::MAXIMUM_EXTENDED).unwrap() {
                let (message, faults) = Message::decode(&rest[..length], &cx).unwrap();
                assert_eq!(faults, []);
                rest = &rest[length..];
                let Message::Update(update) = message else { continue };
                update.withdrawn.iter().for_each(|nlri| drop(told.remove(&nlri.prefix)));
                for entry in update.advertised {
                    told.extend(entry.nlri.iter().map(|nlri| (nlri.prefix, (*entry.attributes).clone())));
                }
            }
        }
        told
    }

    #[track_caller]
    fn expect(&mut self, id: u32, expect: &[&str]) {
        let told: Vec<_> = self.told(id).keys().map(ToString::to_string).collect();
        assert_eq!(told, expect, "to {id}");
    }

    #[track_caller]
    fn expect_both(&mut self, expect: &[&str]) {
        self.expect(INTERNAL, expect);
        self.expect(EXTERNAL, expect);
    }
}

pub(super) fn pool(cidr: &str, disable_bgp_export: bool) -> Pool {
    Pool { cidr: cidr.parse().unwrap(), encap: Encap::None, disable_bgp_export }
}

/// Node n, pool P = 10.244.0.0/16, block B = 10.244.5.0/26 in this state.
fn inputs(state: AffinityState) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.nodes.insert("n".to_owned(), NodeFacts::default());
    inputs.pools.insert("p".to_owned(), pool("10.244.0.0/16", false));
    inputs.blocks.insert("10.244.5.0/26".parse().unwrap(), state);
    inputs
}

fn configured(mut inputs: Inputs, global: Value) -> Inputs {
    inputs.global = serde_json::from_value::<BGPConfigurationSpec>(global).unwrap();
    inputs
}

fn filtered(mut inputs: Inputs, filter: Value) -> Inputs {
    let filter = BgpFilter::compile(&serde_json::from_value(filter).unwrap()).unwrap();
    inputs.filters.insert("f".to_owned(), filter);
    inputs
}

/// The block and two pods in it.
fn pods(world: &mut World) {
    world.own("10.244.5.0/26", LocalKind::Block, 1024, None);
    world.own("10.244.5.1/32", LocalKind::Workload, 1024, Some("cali1"));
    world.own("10.244.5.2/32", LocalKind::Workload, 1024, Some("cali2"));
}

#[test]
fn r1_a_block_goes_out_and_covers_its_pods() {
    let mut world = World::of(&inputs(AffinityState::Confirmed), &[]);
    pods(&mut world);
    world.expect_both(&["10.244.5.0/26"]);
    let block = world.told(INTERNAL).values().next().unwrap();
    assert_eq!((block.next_hop, block.local_pref), (address(1), Some(2_147_482_623)));
}

#[test]
fn r2_r3_borrowed_and_elevated_addresses_go_out_beside_the_block() {
    let mut world = World::of(&inputs(AffinityState::Confirmed), &[]);
    pods(&mut world);
    world.own("10.244.9.7/32", LocalKind::Workload, 1024, Some("cali3"));
    world.expect_both(&["10.244.5.0/26", "10.244.9.7/32"]);
    world.own("10.244.5.2/32", LocalKind::Workload, 512, Some("cali2"));
    world.own("10.244.5.1/32", LocalKind::Workload, 0, Some("cali1"));
    world.expect_both(&["10.244.5.0/26", "10.244.5.1/32", "10.244.5.2/32", "10.244.9.7/32"]);
    let told = world.told(INTERNAL);
    assert_eq!(told[&prefix("10.244.5.2/32")].local_pref, Some(2_147_483_135));
    assert_eq!(told[&prefix("10.244.5.1/32")].local_pref, Some(2_147_483_647), "metric 0 is a metric");
}

#[test]
fn r4_a_pool_that_is_not_exported_hides_everything_in_it_but_is_learned() {
    let mut hidden = inputs(AffinityState::Confirmed);
    hidden.pools.insert("p".to_owned(), pool("10.244.0.0/16", true));
    let hidden = configured(hidden, json!({"serviceClusterIPs": [{"cidr": "10.244.128.0/24"}]}));
    let mut world = World::of(&hidden, &[]);
    pods(&mut world);
    world.own("10.244.128.0/24", LocalKind::Service, 1024, None);
    world.learn(INTERNAL, "10.244.7.0/26", |_| {});
    world.expect_both(&[]);
    assert!(world.rib.best(prefix("10.244.7.0/26")).is_some());
}

#[test]
fn r5_felix_routes_to_other_nodes_are_for_external_peers_only() {
    let filter = json!({"exportV4": [{"action": "Accept", "cidr": "10.244.0.0/16", "matchOperator": "In"}]});
    for (interface, filters) in [("vxlan.calico", [].as_slice()), ("eth0", &[]), ("eth0", &["f"])] {
        let mut world = World::of(&filtered(inputs(AffinityState::Confirmed), filter.clone()), filters);
        world.own("10.244.5.0/26", LocalKind::Block, 1024, None);
        world.own("10.244.7.0/26", LocalKind::Remote, 1024, Some(interface));
        world.expect(INTERNAL, &["10.244.5.0/26"]);
        world.expect(EXTERNAL, &["10.244.5.0/26", "10.244.7.0/26"]);
    }
}

#[test]
fn e5_e6_tunnel_addresses_stay_from_internal_peers_and_the_dataplanes_own_from_all() {
    let owned_by = |speaker: &str, felix: &str| {
        let mut inputs = inputs(AffinityState::Confirmed);
        (inputs.bgp_programs, inputs.felix_programs) = (Some(speaker.to_owned()), Some(felix.to_owned()));
        let mut world = World::of(&inputs, &[]);
        for (last, interface) in ["tunl0", "vxlan.calico", "wireguard.cali", "bpfin.cali", "eth0"].iter().enumerate() {
            world.own(&format!("10.244.9.{last}/32"), LocalKind::Direct, 1024, Some(interface));
        }
        world.own("192.0.2.0/24", LocalKind::Direct, 1024, Some("eth0"));
        world
    };
    let mut felix = owned_by("EnabledNoEncapOnly", "EnabledIPIPOnly");
    felix.expect(INTERNAL, &["10.244.9.4/32"]);
    felix.expect(EXTERNAL, &["10.244.9.0/32", "10.244.9.1/32", "10.244.9.2/32", "10.244.9.4/32"]);
    owned_by("Enabled", "Disabled").expect(INTERNAL, &["10.244.9.0/32", "10.244.9.4/32"]);
    // Nobody claims them, or both: they are felix's.
    owned_by("Disabled", "Disabled").expect(INTERNAL, &["10.244.9.4/32"]);
    owned_by("Enabled", "Enabled").expect(INTERNAL, &["10.244.9.4/32"]);
}

#[test]
fn r6_r7_a_learned_block_goes_to_external_peers_unless_only_reflectors_tell_them() {
    let mut inputs = inputs(AffinityState::Confirmed);
    let mut world = World::of(&inputs, &[]);
    world.peer(4, 65004, &[], |peer| peer.next_hop = NextHopMode::Keep);
    world.learn(INTERNAL, "10.244.7.0/26", |_| {});
    world.own("10.244.5.0/26", LocalKind::Block, 1024, None);
    world.own("10.244.8.0/26", LocalKind::Remote, 1024, Some("eth0"));
    world.expect(INTERNAL, &["10.244.5.0/26"]);
    world.expect(EXTERNAL, &["10.244.5.0/26", "10.244.7.0/26", "10.244.8.0/26"]);
    let block = prefix("10.244.7.0/26");
    let told = &world.told(EXTERNAL)[&block];
    assert_eq!((told.next_hop, told.as_path.to_string()), (address(1), "64512".to_owned()));
    assert_eq!(world.told(4)[&block].next_hop, address(INTERNAL));

    let settings = Settings { only_reflectors_export_learned: true, ..Settings::default() };
    world.set(Surroundings::of(&inputs, "n", &settings), &inputs.filters);
    world.expect(EXTERNAL, &["10.244.5.0/26"]);
    let reflector = NodeFacts { cluster_id: Some(Ipv4Addr::new(244, 0, 0, 1)), ..NodeFacts::default() };
    inputs.nodes.insert("n".to_owned(), reflector);
    world.set(Surroundings::of(&inputs, "n", &settings), &inputs.filters);
    world.expect(EXTERNAL, &["10.244.5.0/26", "10.244.7.0/26", "10.244.8.0/26"]);
}

/// Resources of a Service of this traffic policy whose endpoint on this node is ready or not; the routes follow.
fn serve(mut inputs: Inputs, policy: &str, ready: bool) -> World {
    let service = json!({
        "metadata": {"namespace": "shop", "name": "s"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": "10.96.7.7", "ipFamilies": ["IPv4"], "externalTrafficPolicy": policy,
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}},
    });
    let slice = json!({
        "metadata": {"namespace": "shop", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "endpoints": [{"nodeName": "n", "conditions": {"ready": ready}}],
    });
    inputs.services.put(&Key::namespaced(Kind::Service, "shop", "s"), &service).unwrap();
    inputs.services.put(&Key::namespaced(Kind::EndpointSlice, "shop", "s-1"), &slice).unwrap();
    let mut world = World::of(&inputs, &[]);
    for net in Surroundings::of(&inputs, "n", &Settings::default()).services {
        world.own(&net.to_string(), LocalKind::Service, 1024, None);
    }
    // Another node serves it too.
    world.learn(INTERNAL, "10.96.7.7/32", |_| {});
    world
}

#[test]
fn r11_r12_r13_service_addresses_follow_their_endpoints() {
    let cluster =
        || configured(inputs(AffinityState::Confirmed), json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}));
    serve(cluster(), "Local", true).expect_both(&["10.96.0.0/12", "10.96.7.7/32"]);
    let mut silent = serve(cluster(), "Local", false);
    silent.expect(INTERNAL, &["10.96.0.0/12"]);
    silent.expect(EXTERNAL, &["10.96.0.0/12", "10.96.7.7/32"]); // the other node's, inside what this one originates

    let balanced = json!({
        "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}], "serviceLoadBalancerAggregation": "Disabled",
    });
    let balanced = configured(inputs(AffinityState::Confirmed), balanced);
    let ranges = Surroundings::of(&balanced, "n", &Settings::default()).kernel_ranges;
    assert_eq!(ranges, ["198.51.100.0/24".parse::<IpNet>().unwrap()]);
    serve(balanced, "Cluster", true).expect_both(&["198.51.100.9/32"]);
}

#[test]
fn r14_a_node_that_is_left_out_tells_nothing_of_services_and_a_reflector_passes_ranges_on() {
    let ranges = json!({
        "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}], "serviceLoadBalancerIPs": [{"cidr": "198.51.100.0/24"}],
    });
    let excluded = |cluster_id| {
        let mut inputs = configured(inputs(AffinityState::Confirmed), ranges.clone());
        let labels = [(EXCLUDED.to_owned(), "true".to_owned())].into_iter().collect();
        inputs.nodes.insert("n".to_owned(), NodeFacts { labels, cluster_id, ..NodeFacts::default() });
        let mut world = serve(inputs, "Local", true);
        world.learn(INTERNAL, "198.51.100.9/32", |_| {});
        world
    };
    excluded(None).expect_both(&[]);
    excluded(Some(Ipv4Addr::new(244, 0, 0, 1))).expect(EXTERNAL, &["198.51.100.9/32"]);
    let mut host = World::of(&configured(inputs(AffinityState::Confirmed), ranges), &[]);
    host.own("10.96.0.10/32", LocalKind::Direct, 1024, Some("nodelocaldns"));
    host.expect_both(&[]);
}

#[test]
fn r15_an_accepting_filter_overrides_what_follows_and_a_rejecting_one_too() {
    let accept = json!({"exportV4": [{"action": "Accept", "cidr": "192.0.2.0/24", "matchOperator": "In"}]});
    let mut world = World::of(&filtered(inputs(AffinityState::Confirmed), accept), &["missing", "f"]);
    pods(&mut world);
    world.own("192.0.2.0/24", LocalKind::Kernel, 0, Some("eth1"));
    world.own("0.0.0.0/0", LocalKind::Kernel, 0, Some("eth1"));
    world.expect_both(&["10.244.5.0/26", "192.0.2.0/24"]);

    let mut hidden = inputs(AffinityState::Confirmed);
    hidden.pools.insert("p".to_owned(), pool("10.244.0.0/16", true));
    let accept = json!({"exportV4": [
        {"action": "Reject", "cidr": "10.244.5.0/26", "matchOperator": "Equal"},
        {"action": "Accept", "peerType": "eBGP", "operations": [
            {"addCommunity": {"value": "65000:1"}}, {"prependASPath": {"prefix": [64512, 64512]}},
        ]},
    ]});
    let mut world = World::of(&filtered(hidden, accept), &["f"]);
    pods(&mut world);
    world.expect(INTERNAL, &[]);
    world.expect(EXTERNAL, &["10.244.5.1/32", "10.244.5.2/32"]);
    let told = world.told(EXTERNAL).values().next().unwrap();
    assert_eq!(told.as_path.to_string(), "64512 64512 64512");
    assert_eq!(told.communities.len(), 1);
}

#[test]
fn r16_an_import_filter_rejects_what_it_names_and_a_filter_that_is_not_understood_everything() {
    let reject = json!({"importV4": [
        {"action": "Reject", "cidr": "0.0.0.0/0", "matchOperator": "Equal"},
        {"action": "Accept", "cidr": "192.0.2.0/24", "matchOperator": "In", "operations": [{"setPriority": {"value": 9}}]},
    ]});
    let inputs = filtered(inputs(AffinityState::Confirmed), reject);
    let mut world = World::of(&inputs, &["f"]);
    for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/25"] {
        world.learn(EXTERNAL, text, |_| {});
    }
    let local_pref = |world: &World, text: &str| world.rib.best(prefix(text)).map(|best| best.attributes.local_pref);
    assert_eq!(local_pref(&world, "0.0.0.0/0"), None);
    assert_eq!(local_pref(&world, "10.0.0.0/8"), Some(None));
    assert_eq!(local_pref(&world, "192.0.2.0/25"), Some(Some(2_147_483_638)));

    world.own("10.244.5.0/26", LocalKind::Block, 1024, None);
    // It exists, but no version of it was ever understood.
    let mut faulty = Inputs::default();
    let (kind, name) = (Kind::BGPFilter, "f".to_owned());
    let fault = Change::Fault { kind, name, reason: "matchOperator is Near".to_owned() };
    faulty.apply("n", fault).unwrap_err();
    world.set(Surroundings::of(&faulty, "n", &Settings::default()), &faulty.filters);
    assert_eq!(local_pref(&world, "10.0.0.0/8"), None);
    world.expect_both(&[]);
}

/// §2.7: what a filter accepts by name does not beat own routes, what is believed by default does if it is elevated.
#[test]
fn an_elevated_path_beats_an_own_one_unless_a_filter_accepted_it() {
    let accept = json!({"importV4": [{"action": "Accept"}]});
    for (filters, learned) in [([].as_slice(), true), (&["f"], false)] {
        let mut world = World::of(&filtered(inputs(AffinityState::Confirmed), accept.clone()), filters);
        world.own("10.244.9.7/32", LocalKind::Workload, 1024, Some("cali1"));
        world.learn(INTERNAL, "10.244.9.7/32", |attributes| attributes.local_pref = Some(LocalRoute::local_pref(512)));
        let best = world.rib.best(prefix("10.244.9.7/32")).unwrap();
        assert_eq!(matches!(best.source, Source::Peer { .. }), learned, "{filters:?}");
    }
}

#[test]
fn r17_everything_that_leaves_inside_a_range_carries_its_communities() {
    let ranges = json!({"prefixAdvertisements": [
        {"cidr": "10.244.0.0/16", "communities": ["65000:100", "65000:1:2"]},
        {"cidr": "10.244.5.0/26", "communities": ["65535:65281"]},
    ]});
    let mut world = World::of(&configured(inputs(AffinityState::Confirmed), ranges), &[]);
    pods(&mut world);
    world.own("10.244.9.7/32", LocalKind::Workload, 1024, Some("cali3"));
    for (text, communities) in [("10.244.5.0/26", "65000:100 65535:65281"), ("10.244.9.7/32", "65000:100")] {
        for peer in [INTERNAL, EXTERNAL] {
            let told = &world.told(peer)[&prefix(text)];
            let texts: Vec<_> = told.communities.iter().map(ToString::to_string).collect();
            assert_eq!((texts.join(" ").as_str(), told.large_communities.len()), (communities, 1), "{text} to {peer}");
        }
    }
}

#[test]
fn r18_what_a_workload_advertises_leaves_only_inside_a_pool_a_service_range_or_by_filter() {
    let mut world = World::of(&inputs(AffinityState::Confirmed), &[]);
    world.peer(9, 65009, &[], |_| {});
    world.learn(9, "203.0.113.0/24", |_| {});
    world.learn(9, "10.244.33.0/24", |_| {});
    world.expect_both(&["10.244.33.0/24"]);
    assert!(world.rib.best(prefix("203.0.113.0/24")).is_some());
}

#[test]
fn r19_a_block_that_is_given_up_leaves_with_each_of_its_addresses_and_a_pending_one_is_none() {
    let mut world = World::of(&inputs(AffinityState::PendingDeletion), &[]);
    pods(&mut world);
    world.expect_both(&["10.244.5.0/26", "10.244.5.1/32", "10.244.5.2/32"]);
    // A confirmed block leaves though its pool is gone; one that is given up does not.
    for (state, expect) in
        [(AffinityState::Confirmed, ["10.244.5.0/26"].as_slice()), (AffinityState::PendingDeletion, &[])]
    {
        let mut inputs = inputs(state);
        inputs.pools.clear();
        let mut world = World::of(&inputs, &[]);
        pods(&mut world);
        world.expect_both(expect);
    }
    let facts = NodeFacts { pod_cidrs: vec!["10.244.5.0/24".parse().unwrap()], ..NodeFacts::default() };
    let mut inputs = inputs(AffinityState::PendingDeletion);
    inputs.nodes.insert("n".to_owned(), facts);
    let settings = Settings { use_pod_cidr: true, ..Settings::default() };
    let blocks = Surroundings::of(&inputs, "n", &settings).blocks;
    assert_eq!(blocks, BTreeSet::from(["10.244.5.0/24".parse().unwrap()]));
}

#[test]
fn what_is_odd_about_filters_communities_and_ranges_is_said() {
    let odd = json!({"importV4": [
        {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Equal", "prefixLength": {"min": 9}},
    ]});
    let global = json!({
        "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["nobody"]}],
        "serviceExternalIPs": [{"cidr": "ten"}],
    });
    let inputs = filtered(configured(inputs(AffinityState::Confirmed), global), odd);
    let world = World::of(&inputs, &["f"]);
    let sessions: Vec<_> = world.sessions.into_values().collect();
    let texts = warnings(&inputs, "n", &sessions);
    assert_eq!(texts.len(), 3, "{texts:?}");
    assert!(texts[2].starts_with("BGPFilter f: spec.importV4[0]: Equal with prefixLength never"), "{texts:?}");
    assert_eq!(warnings(&inputs, "n", &[]).len(), 2, "a filter that no session names is nobody's concern");
}
