//! What holds for the sessions of any cluster.

use std::collections::BTreeMap;

use bgp_plan::inputs::{Change, Inputs};
use bgp_plan::sessions::{Cluster, Origin, Pairs, Plan};
use bgp_plan::topology;
use calico_api::{Key, Kind};
use proptest::prelude::*;
use serde_json::{Value, json};

type Resource = (Kind, Value);

fn image(resources: &[Resource]) -> Inputs {
    let mut inputs = Inputs::default();
    for (kind, value) in resources {
        let key = Key::of_value(*kind, value).unwrap();
        // What is not understood is a fault, which is as good as any other answer here.
        let _ = inputs.apply("n0", Change::Put { key, value: value.clone() });
    }
    inputs
}

fn plans(inputs: &Inputs) -> BTreeMap<String, Plan> {
    Cluster::new(inputs).plans().map(|(node, plan)| (node.to_owned(), plan)).collect()
}

/// Something of a few, so that things meet.
fn few(of: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(of))
}

fn spec(fields: Vec<(&str, Option<Value>)>) -> Value {
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn text(text: Option<&str>) -> Option<Value> {
    text.map(|text| json!(text))
}

fn node(index: usize) -> impl Strategy<Value = Resource> {
    let v4 = prop::option::weighted(0.9, 1..30u8);
    let v6 = prop::option::weighted(0.4, 1..30u8);
    let number = prop::option::weighted(0.2, 64500..64504u32);
    (v4, v6, number, few(&["244.0.0.1", "244.0.0.2", ""]), few(&["r1", "r2"])).prop_map(
        move |(v4, v6, number, id, rack)| {
            let bgp = spec(vec![
                ("ipv4Address", v4.map(|last| json!(format!("10.0.0.{last}/24")))),
                ("ipv6Address", v6.map(|last| json!(format!("fd00::{last:x}/64")))),
                ("asNumber", number.map(Value::from)),
                // Not too many reflectors.
                ("routeReflectorClusterID", text(id.filter(|_| index.is_multiple_of(3)))),
            ]);
            let labels = spec(vec![("rack", text(rack))]);
            (Kind::Node, json!({"metadata": {"name": format!("n{index}"), "labels": labels}, "spec": {"bgp": bgp}}))
        },
    )
}

fn peer(index: usize) -> impl Strategy<Value = Resource> {
    let selectors = &["all()", "rack == 'r1'", "!has(rack)", "rack ==", ""];
    let addresses = &["10.0.0.1", "10.0.0.2:179", "10.0.0.3:1790", "10.9.9.9", "[fd00::1]:179", "fd00::2", "ten"];
    let sides = (few(&["n0", "n1", "x"]), few(selectors), few(addresses), few(selectors), few(&["all()"]));
    let numbers =
        (prop::option::of(64500..64503u32), prop::option::weighted(0.2, 64500..64503u32), any::<Option<u8>>());
    let words =
        (few(&["Auto", "Manual"]), few(&["None", "UseNodeIP"]), few(&["Self", "Keep", "Odd"]), few(&["1s", "-"]));
    (sides, numbers, words).prop_map(move |(sides, numbers, words)| {
        let one = !index.is_multiple_of(4); // most say one thing only
        let remote = [sides.2, sides.3, sides.4].iter().position(Option::is_some);
        let only = |at: usize, value: Option<&str>| text(value.filter(|_| !one || remote == Some(at)));
        let spec = spec(vec![
            ("node", text(sides.0.filter(|_| !one || sides.1.is_none()))),
            ("nodeSelector", text(sides.1)),
            ("peerIP", only(0, sides.2)),
            ("peerSelector", only(1, sides.3)),
            ("localWorkloadSelector", only(2, sides.4)),
            ("asNumber", numbers.0.map(Value::from)),
            ("localASNumber", numbers.1.map(Value::from)),
            ("ttlSecurity", numbers.2.map(Value::from)),
            ("reversePeering", text(words.0)),
            ("sourceAddress", text(words.1)),
            ("nextHopMode", text(words.2)),
            ("keepaliveTime", text(words.3)),
        ]);
        (Kind::BGPPeer, json!({"metadata": {"name": format!("p{index}")}, "spec": spec}))
    })
}

fn configuration() -> impl Strategy<Value = Resource> {
    let name = prop::sample::select(vec!["default", "default", "node.n0", "node.n1", "other"]);
    let fields =
        (any::<Option<bool>>(), prop::option::of(64500..64503u32), prop::option::of(178..181u16), few(&["5s", "-"]));
    (name, fields).prop_map(|(name, (mesh, number, port, time))| {
        let spec = spec(vec![
            ("nodeToNodeMeshEnabled", mesh.map(Value::from)),
            ("asNumber", number.map(Value::from)),
            ("listenPort", port.map(Value::from)),
            ("nodeMeshMaxRestartTime", text(time)),
        ]);
        (Kind::BGPConfiguration, json!({"metadata": {"name": name}, "spec": spec}))
    })
}

/// Resources of different names, in any order.
fn resources() -> impl Strategy<Value = Vec<Resource>> {
    let nodes = (2..9usize).prop_flat_map(|count| (0..count).map(node).collect::<Vec<_>>());
    let peers = (0..6usize).prop_flat_map(|count| (0..count).map(peer).collect::<Vec<_>>());
    (nodes, peers, prop::collection::vec(configuration(), 0..3)).prop_map(|(nodes, peers, mut configurations)| {
        configurations.sort_by_key(|(_, value)| value["metadata"]["name"].to_string());
        configurations.dedup_by_key(|(_, value)| value["metadata"]["name"].clone());
        nodes.into_iter().chain(peers).chain(configurations).collect()
    })
}

/// Addresses that more than one node has.
fn shared(inputs: &Inputs) -> Vec<std::net::IpAddr> {
    let mut addresses: Vec<_> = inputs.nodes.values().flat_map(|facts| facts.addresses()).collect();
    addresses.sort();
    addresses.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

/// Any JSON, of the words that resources are made of.
fn anything() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "",
        "a",
        "0",
        "10.0.0.1",
        "10.0.0.0/8",
        "fd00::1/64",
        "[fd00::1]:0",
        "all()",
        "has(",
        "5s",
        "-1",
        "65000:1",
        "None",
    ]);
    let leaf = prop_oneof![
        words.prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    let fields = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "name",
        "namespace",
        "labels",
        "bgp",
        "ipv4Address",
        "ipv6Address",
        "asNumber",
        "routeReflectorClusterID",
        "podCIDRs",
        "peerIP",
        "node",
        "nodeSelector",
        "peerSelector",
        "reachableBy",
        "password",
        "secretKeyRef",
        "filters",
        "communities",
        "prefixAdvertisements",
        "cidr",
        "state",
        "listenPort",
        "exportV4",
        "action",
        "ports",
        "endpoints",
        "addresses",
        "clusterIPs",
        "serviceClusterIPs",
        "ttlSecurity",
        "keepaliveTime",
        "ipipMode",
    ]);
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(fields.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn plans_do_not_depend_on_the_order_in_which_resources_arrive(
        (first, second) in resources().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
    ) {
        let (first, second) = (image(&first), image(&second));
        prop_assert_eq!(plans(&first), plans(&second));
    }

    #[test]
    fn a_mesh_session_has_two_ends_of_which_one_dials(resources in resources()) {
        let inputs = image(&resources);
        let shared = shared(&inputs);
        let plans = plans(&inputs);
        for (node, plan) in &plans {
            let own: Vec<_> = inputs.nodes[node].addresses().collect();
            for session in plan.sessions.iter().filter(|session| session.origin == Origin::Mesh) {
                let source = session.source.unwrap();
                prop_assert!(own.contains(&source));
                if shared.contains(&source) || shared.contains(&session.peer.ip()) {
                    continue;
                }
                let there = &plans[session.remote.as_deref().unwrap()];
                let with = |plan: &Plan, address| plan.sessions.iter().filter(|back| back.peer.ip() == address).count();
                // An explicit session may be in its place there, but there is one.
                prop_assert!(with(there, source) > 0, "{node}: {session:?}");
                let mut back = there.sessions.iter().filter(|back| back.peer.ip() == source);
                if let Some(far) = back.find(|far| far.origin == Origin::Mesh) {
                    // Both dial where another speaker has the address of one of them.
                    let crowded = with(plan, session.peer.ip()) > 1 || with(there, source) > 1;
                    prop_assert!(!(far.passive && session.passive) && (crowded || far.passive != session.passive));
                    prop_assert_eq!((far.local_as, far.peer_as), (session.peer_as, session.local_as));
                    prop_assert_eq!(far.remote.as_deref(), Some(node.as_str()));
                }
            }
        }
    }

    #[test]
    fn sessions_are_sound_whatever_the_resources(resources in resources()) {
        let inputs = image(&resources);
        let plans = plans(&inputs);
        for (node, plan) in &plans {
            prop_assert_eq!(plan, &bgp_plan::sessions::plan(&inputs, node));
            let mut names: Vec<_> = plan.sessions.iter().map(|session| &session.name).collect();
            let mut keys: Vec<_> = plan.sessions.iter().map(|session| session.key()).collect();
            prop_assert!(names.is_sorted());
            names.dedup();
            keys.sort();
            keys.dedup();
            prop_assert_eq!(names.len(), plan.sessions.len(), "names are unique");
            prop_assert_eq!(keys.len(), plan.sessions.len(), "peers are unique");
            for session in &plan.sessions {
                let own = inputs.nodes[node].address_like(session.peer.ip());
                prop_assert!(own.is_some() && own != Some(session.peer.ip()));
                prop_assert!(session.local_as != 0 && session.peer_as != 0 && session.peer.port() != 0);
                prop_assert!(!session.client || session.is_internal() && session.cluster_id.is_some());
            }
            let pairs = Pairs::new(&plan.sessions, &plan.sessions);
            prop_assert!(pairs.added.is_empty() && pairs.removed.is_empty());
            prop_assert!(pairs.kept.iter().all(|(old, new)| old == new));
        }
        topology::check(&plans);
    }

    #[test]
    fn what_touches_nothing_changes_no_plan(resources in resources(), changed in node(1), peer in peer(1)) {
        let mut inputs = image(&resources);
        for (kind, value) in [changed, peer] {
            let before = plans(&inputs);
            let key = Key::of_value(kind, &value).unwrap();
            let touched = match inputs.apply("n0", Change::Put { key, value }) {
                Ok(touched) => touched,
                Err(bad) => bad.touched,
            };
            if !touched.sessions {
                let sessions = |plans: BTreeMap<String, Plan>| -> Vec<_> {
                    plans.into_values().map(|plan| (plan.local_as, plan.listen, plan.sessions, plan.warnings)).collect()
                };
                prop_assert_eq!(sessions(plans(&inputs)), sessions(before));
            }
        }
    }

    #[test]
    fn nothing_in_the_datastore_makes_it_panic(
        resources in resources(),
        objects in prop::collection::vec((prop::sample::select(Kind::ALL.to_vec()), anything(), anything()), 1..8),
    ) {
        let mut inputs = image(&resources);
        for (kind, spec, status) in objects {
            let named = json!({"metadata": {"name": "n1", "namespace": "d"}, "spec": spec, "status": status});
            for value in [named, spec] {
                let key = Key::of_value(kind, &value).unwrap_or_else(|_| Key::named(kind, "default"));
                let _ = inputs.apply("n0", Change::Put { key, value });
            }
        }
        prop_assert!(inputs.last_good().count() <= inputs.faults.len());
        let plans = plans(&inputs);
        prop_assert_eq!(plans.len(), inputs.nodes.len());
        topology::check(&plans);
    }
}
