//! bgp sessions: what follows from resources, and what changed files would do.

mod support;

use support::{Cluster, Ran};

/// Documents of one kind, one for each name and spec (or labels and spec).
fn documents(kind: &str, objects: &[(&str, &str)]) -> String {
    let document = |(name, rest): &(&str, &str)| {
        format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {rest}\n---\n")
    };
    objects.iter().map(document).collect()
}

fn node(name: &str, labels: &str, bgp: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{bgp: {{{bgp}}}}}\n---\n"
    )
}

fn mesh_off() -> String {
    documents("BGPConfiguration", &[("default", "{nodeToNodeMeshEnabled: false}")])
}

/// Three nodes and the full mesh; the addresses are ordered as text otherwise than as numbers.
fn mesh() -> String {
    node("a", "", "ipv4Address: 10.0.0.1/24, ipv6Address: 'fd00::1/64'")
        + &node("b", "", "ipv4Address: 10.0.0.2/24")
        + &node("c", "", "ipv4Address: 10.0.0.10/24, ipv6Address: 'fd00::a/64'")
}

/// Two reflectors of one cluster, and a client.
fn reflectors() -> String {
    let reflector = |address| format!("ipv4Address: {address}/24, routeReflectorClusterID: 244.0.0.1");
    mesh_off()
        + &node("r1", "rr: ''", &reflector("10.0.0.1"))
        + &node("r2", "rr: ''", &reflector("10.0.0.2"))
        + &node("w", "", "ipv4Address: 10.0.0.10/24")
        + &documents("BGPPeer", &[("rr", "{nodeSelector: all(), peerSelector: has(rr)}")])
}

/// Two racks, each with its AS and its router.
fn racks() -> String {
    mesh_off()
        + &node("one", "rack: '1'", "ipv4Address: 10.1.0.11/24, asNumber: 65101")
        + &node("two", "rack: '2'", "ipv4Address: 10.2.0.11/24, asNumber: 65102")
        + &documents(
            "BGPFilter",
            &[("pools", "{exportV4: [{action: Accept, cidr: 10.244.0.0/16, matchOperator: In}]}")],
        )
        + &documents(
            "BGPPeer",
            &[
                ("tor1", "{nodeSelector: \"rack == '1'\", peerIP: 10.1.0.1, asNumber: 65001, filters: [pools]}"),
                ("tor2", "{nodeSelector: \"rack == '2'\", peerIP: '10.2.0.1:1790', asNumber: 65002}"),
            ],
        )
}

/// Runs it where no speaker answers.
fn sessions(cluster: &Cluster, words: &str) -> Ran {
    cluster.run(&format!("bgp sessions --socket /nonexistent {words}"))
}

fn change(cluster: &Cluster, document: &str, words: &str) -> Ran {
    cluster.feed(&format!("bgp sessions --socket /nonexistent {words} -f -"), document)
}

#[test]
fn a_mesh_is_dialled_from_the_greater_text() {
    let cluster = Cluster::with(&mesh());
    sessions(&cluster, "").prints(
        "\
NODE   PEER        PEERNODE   TYPE                LOCALAS   PEERAS   DIALS     CLIENT   FILTERS   
a      10.0.0.10   c          node-to-node mesh   64512     64512    passive   no       -         
a      10.0.0.2    b          node-to-node mesh   64512     64512    passive   no       -         
a      fd00::a     c          node-to-node mesh   64512     64512    passive   no       -         
b      10.0.0.1    a          node-to-node mesh   64512     64512    active    no       -         
b      10.0.0.10   c          node-to-node mesh   64512     64512    active    no       -         
c      10.0.0.1    a          node-to-node mesh   64512     64512    active    no       -         
c      10.0.0.2    b          node-to-node mesh   64512     64512    passive   no       -         
c      fd00::1     a          node-to-node mesh   64512     64512    active    no       -         

",
    );
    let json: serde_json::Value = serde_json::from_str(&sessions(&cluster, "--node c -o json").out).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 1);
    assert_eq!((&json[0]["node"], &json[0]["warnings"]), (&"c".into(), &serde_json::json!([])));
    let v6 = &json[0]["sessions"][2];
    for (field, value) in [
        ("name", serde_json::json!("Mesh_fd00__1")),
        ("peer", "[fd00::1]:179".into()),
        ("type", "node-to-node mesh".into()),
        ("remote", "a".into()),
        ("localAS", 64512.into()),
        ("peerAS", 64512.into()),
        ("passive", false.into()),
        ("dials", "active".into()),
        ("client", false.into()),
        ("source", "fd00::a".into()),
        ("filters", serde_json::json!([])),
    ] {
        assert_eq!(v6[field], value, "{field}");
    }
    sessions(&cluster, "--node d").fails("there is no node d in the datastore: see calicoctl get nodes\n");
}

#[test]
fn reflectors_of_one_cluster_are_no_clients_of_each_other() {
    let cluster = Cluster::with(&reflectors());
    sessions(&cluster, "").prints(
        "\
NODE   PEER        PEERNODE   TYPE            LOCALAS   PEERAS   DIALS   CLIENT   FILTERS   
r1     10.0.0.10   w          node specific   64512     64512    both    yes      -         
r1     10.0.0.2    r2         node specific   64512     64512    both    no       -         
r2     10.0.0.1    r1         node specific   64512     64512    both    no       -         
r2     10.0.0.10   w          node specific   64512     64512    both    yes      -         
w      10.0.0.1    r1         node specific   64512     64512    both    no       -         
w      10.0.0.2    r2         node specific   64512     64512    both    no       -         

",
    );
    // The same from a file alone.
    let file = cluster.file("all.yaml", &reflectors());
    let alone = sessions(&Cluster::new(), &format!("--resources {file} -o yaml"));
    assert_eq!(alone, sessions(&cluster, "-o yaml"));
}

#[test]
fn racks_peer_with_their_routers_only() {
    let cluster = Cluster::with(&racks());
    sessions(&cluster, "").prints(
        "\
NODE   PEER            PEERNODE   TYPE            LOCALAS   PEERAS   DIALS   CLIENT   FILTERS   
one    10.1.0.1        -          node specific   65101     65001    both    no       pools     
two    10.2.0.1:1790   -          node specific   65102     65002    both    no       -         

",
    );
    sessions(&cluster, "-o wide --node two").prints(
        "\
NODE   PEER            PEERNODE   TYPE            LOCALAS   PEERAS   DIALS   CLIENT   FILTERS   NAME                      BGPPEER   SOURCE      PASSWORD   TTLSECURITY   NEXTHOP   KEEPALIVE   RESTARTTIME   ALLOWEDLOCALAS   REACHABLEBY   
two    10.2.0.1:1790   -          node specific   65102     65002    both    no       -         Node_10_2_0_1_port_1790   tor2      10.2.0.11   -          -             Auto      -           120s          0                -             

",
    );
}

#[test]
fn who_waits_makes_the_other_end_dial_alone() {
    let cluster = Cluster::with(&(mesh_off() + &mesh()));
    cluster.feed("apply -f -", &documents("BGPPeer", &[("all", "{peerIP: 10.0.0.2, asNumber: 64512}")]));
    let out = sessions(&cluster, "").out;
    let rows: Vec<Vec<&str>> = out
        .lines()
        .skip(1)
        .map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .filter(|row: &Vec<&str>| row.len() > 6)
        .collect();
    let dials: Vec<_> = rows.iter().map(|row| (row[0], row[2], row[3], row[6])).collect();
    assert_eq!(
        dials,
        [
            ("a", "b", "global", "passive"),
            ("b", "a", "node specific", "active"),
            ("b", "c", "node specific", "active"),
            ("c", "b", "global", "passive"),
        ]
    );
}

#[test]
fn a_changed_file_shows_what_it_would_add_keep_change_reset_and_remove_and_writes_nothing() {
    let cluster = Cluster::with(&racks());
    let revision = |cluster: &Cluster| cluster.run("get bgppeers -o json").out;
    let before = revision(&cluster);
    let changed = documents(
        "BGPPeer",
        &[
            ("tor1", "{nodeSelector: \"rack == '1'\", peerIP: 10.1.0.1, asNumber: 65009}"),
            (
                "tor2",
                "{nodeSelector: \"rack == '2'\", peerIP: '10.2.0.1:1790', asNumber: 65002, filters: [pools], ttlSecurity: 1}",
            ),
            ("spare", "{node: two, peerIP: 10.2.0.2, asNumber: 65002}"),
        ],
    );
    change(&cluster, &changed, "").prints(
        "\
node one
  ! Node_10_1_0_1 reset (asNumber: 65001 → 65009; filters: [pools] → [])
node two
  ~ Node_10_2_0_1_port_1790 stays up (ttlSecurity: off → 1; filters: [] → [pools])
  + Node_10_2_0_2, AS 65102 to AS 65002

Sessions: 1 added, 0 kept, 1 changed live, 1 reset, 0 removed
Topology after:
  no node is left without a path to another
",
    );
    let json: serde_json::Value = serde_json::from_str(&change(&cluster, &changed, "--node one -o json").out).unwrap();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(json["nodes"][0]["reset"][0]["was"], "Node_10_1_0_1");
    assert_eq!(json["nodes"][0]["reset"][0]["now"]["peerAS"], 65009);
    assert_eq!(json["nodes"][0]["reset"][0]["fields"][0]["field"], "asNumber");
    assert_eq!(json["topology"]["after"], serde_json::json!([]));

    let nothing = change(&cluster, &racks(), "");
    assert!(nothing.out.starts_with("Nothing changes.\n\nSessions: 0 added, 2 kept,"), "{nothing:?}");
    // Several files at once, one of them a folder.
    cluster.file("more/a.yaml", &documents("BGPPeer", &[("a", "{node: one, peerIP: 10.1.0.3, asNumber: 65003}")]));
    let one =
        cluster.file("one.yaml", &documents("BGPPeer", &[("b", "{node: two, peerIP: 10.2.0.3, asNumber: 65003}")]));
    let both = sessions(&cluster, &format!("-f {} -f {one}", cluster.path("more").display()));
    assert!(both.out.contains("+ Node_10_1_0_3") && both.out.contains("+ Node_10_2_0_3"), "{both:?}");
    assert_eq!(revision(&cluster), before);
}

#[test]
fn a_node_that_a_change_would_cut_off_is_named() {
    let cluster = Cluster::with(&reflectors());
    let peering = documents("BGPPeer", &[("rr", "{nodeSelector: all(), peerSelector: has(rr)}")]);
    change(&cluster, &peering, "--delete --node w").prints(
        "\
node w
  - Node_10_0_0_1 with node r1, AS 64512 to AS 64512
  - Node_10_0_0_2 with node r2, AS 64512 to AS 64512
isolated: nodes r1, r2, w have no IPv4 session

Sessions: 0 added, 0 kept, 0 changed live, 0 reset, 2 removed
Topology after:
  nodes r1, r2, w have no IPv4 session
",
    );
    // Each client with one reflector only, and the reflectors of one cluster: what one client tells the other never hears.
    let split = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: v}\nspec: {bgp: {ipv4Address: 10.0.0.11/24}}\n---\n"
        .to_owned()
        + &documents(
            "BGPPeer",
            &[
                ("rr", "{nodeSelector: has(rr), peerSelector: has(rr)}"),
                ("v", "{node: v, peerIP: 10.0.0.1, asNumber: 64512}"),
                ("w", "{node: w, peerIP: 10.0.0.2, asNumber: 64512}"),
            ],
        );
    let ran = change(&cluster, &split, "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for said in ["nodes r1, v have no IPv4 path to w", "nodes r2, w have no IPv4 path to v"] {
        assert!(ran.out.contains(said), "{}", ran.out);
    }
    // And once it is so, sessions say it too.
    cluster.feed("apply -f -", &split).prints("Successfully applied 4 resource(s)\n");
    let now = sessions(&cluster, "");
    assert!(now.out.contains("Topology:\n  nodes r1, v have no IPv4 path to w\n"), "{}", now.out);
    let json: serde_json::Value = serde_json::from_str(&sessions(&cluster, "--node v -o json").out).unwrap();
    assert!(json[0]["warnings"][0].as_str().unwrap().contains("no IPv4 path to w"), "{json}");
}

#[test]
fn a_file_with_errors_is_named_and_nothing_is_shown() {
    let cluster = Cluster::with(&racks());
    let both = documents("BGPPeer", &[("tor9", "{node: one, nodeSelector: all(), peerIP: 10.1.0.9, asNumber: 65001}")]);
    change(&cluster, &both, "").fails(
        "BGPPeer(tor9), standard input (document 1, from line 1): error with field Node = 'one' (node and nodeSelector cannot both be set)\n",
    );
    let missing = documents("BGPPeer", &[("tor9", "{peerIP: 10.1.0.9, asNumber: 0, filters: [nothing]}")]);
    change(&cluster, &(racks() + &missing), "")
        .fails_with(&["BGPPeer(tor9), standard input (document 7", "ASNumber = '0'"]);
    let missing = missing.replace("asNumber: 0", "asNumber: 65001");
    change(&cluster, &missing, "").fails_with(&["BGPPeer(tor9)", "BGPFilter(s) not found: nothing"]);
    change(&cluster, &missing, "--delete").fails_with(&["BGPPeer(tor9)", "does not exist"]);
    change(&cluster, "", "").fails("no resources specified in the files\n");
    sessions(&cluster, "--delete").fails_with(&["--filename"]);
}

#[test]
fn what_is_bad_in_the_store_is_a_warning_and_the_rest_goes_on() {
    let cluster = Cluster::with(
        &(racks() + &documents("BGPPeer", &[("unused", "{node: three, peerIP: 10.9.0.1, asNumber: 1}")])),
    );
    cluster.store(async |store| {
        let key = calico_api::Key::named(calico_api::Kind::BGPPeer, "tor1");
        let mut entry = store.backend().get(&key).await.unwrap();
        entry.value["spec"]["asNumber"] = 0.into();
        store.backend().update(&key, entry.value, &entry.revision).await.unwrap();
        let key = calico_api::Key::named(calico_api::Kind::BGPFilter, "pools");
        store.backend().delete(&key, None).await.unwrap();
    });
    let ran = sessions(&cluster, "");
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("two    10.2.0.1:1790"), "{}", ran.out);
    assert!(!ran.out.contains("10.1.0.1 "), "{}", ran.out);
    let warnings = ran.out.split_once("Warnings:\n").unwrap().1;
    assert!(
        warnings
            .contains("  BGPPeer tor1: asNumber is missing or 0; it is the AS number of the peer; it is not in force"),
        "{warnings}"
    );
    assert!(warnings.contains("  BGPPeer unused is for no node: there is no node three"), "{warnings}");
    let json: serde_json::Value = serde_json::from_str(&sessions(&cluster, "--node one -o json").out).unwrap();
    assert!(json[0]["warnings"].to_string().contains("tor1"), "{json}");
}

#[test]
fn two_peers_for_one_address_are_one_session_and_the_loser_is_named() {
    let peers = documents(
        "BGPPeer",
        &[("b", "{peerIP: 10.0.9.1, asNumber: 65001}"), ("a", "{node: a, peerIP: 10.0.9.1, asNumber: 65002}")],
    );
    let cluster = Cluster::with(&(mesh() + &peers));
    let out = sessions(&cluster, "--node a").out;
    assert!(out.contains("10.0.9.1    -          global"), "{out}");
    assert!(
        out.contains("BGPPeer a is not used for 10.0.9.1: BGPPeer b configures the same peer, with another"),
        "{out}"
    );
}

#[test]
fn workloads_that_are_peers_are_sessions_of_their_node() {
    let endpoint = |name: &str, node: &str, label: &str, network: &str| {
        let id = format!("{node}-k8s-{name}-eth0");
        format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{name: {id}, namespace: shop, labels: {{app: {label}, projectcalico.org/namespace: shop, projectcalico.org/orchestrator: k8s}}}}\nspec: {{orchestrator: k8s, node: {node}, pod: {name}, endpoint: eth0, interfaceName: cali{name}, ipNetworks: [{network}]}}\n---\n"
        )
    };
    let resources = mesh_off()
        + &mesh()
        + &documents(
            "BGPPeer",
            &[("lw", "{localWorkloadSelector: \"app == 'r'\", asNumber: 65100, localASNumber: 65200}")],
        )
        + &endpoint("router", "a", "r", "192.168.1.5/32")
        + &endpoint("web", "b", "web", "192.168.2.5/32");
    let cluster = Cluster::with(&resources);
    sessions(&cluster, "").prints(
        "\
NODE   PEER          PEERNODE   TYPE             LOCALAS   PEERAS   DIALS     CLIENT   FILTERS   
a      192.168.1.5   -          local workload   65200     65100    passive   no       -         

Topology:
  nodes a, b, c have no IPv4 session
  nodes a, c have no IPv6 session
",
    );
    // The other pod is a router, too, from the moment that it is labelled so.
    let ran = change(&cluster, &endpoint("web", "b", "r", "192.168.2.5/32"), "");
    assert!(ran.out.contains("node b\n  + Local_Workload_192_168_2_5, AS 65200 to AS 65100\n"), "{ran:?}");
}
