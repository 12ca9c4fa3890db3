//! create, apply, replace, delete: exit codes, and the texts that scripts match.

mod support;

use support::Cluster;

/// A BGPPeer document.
fn peer(name: &str, more: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: {name}{more}}}\nspec: {{peerIP: 10.0.9.1, asNumber: 65001}}\n---\n"
    )
}

/// An IPPool document; `more` goes into the spec.
fn pool(name: &str, cidr: &str, more: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}{more}}}\n---\n"
    )
}

#[test]
fn what_exists_is_not_created_again_unless_that_is_skipped() {
    let cluster = Cluster::new();
    let one = cluster.file("one.yaml", &peer("tor-1", ""));
    let two = cluster.file("two.yaml", &(peer("tor-1", "") + &peer("tor-2", "")));
    let create = |file: &str| cluster.run(&format!("create -f {file}"));
    let exists =
        |name| format!("resource already exists: BGPPeer({name}) with error: the key is taken in the datastore");

    create(&one).prints("Successfully created 1 'BGPPeer' resource(s)\n");
    create(&one).fails(&format!("failed to create 'BGPPeer' resource: [{}]\n", exists("tor-1")));
    // The second is created all the same.
    create(&two).fails(&format!("hit error: [{}]\n", exists("tor-1")));
    create(&two).fails(&format!(
        "failed to create any 'BGPPeer' resources: [{} {}]\n",
        exists("tor-1"),
        exists("tor-2")
    ));
    cluster.run(&format!("create --skip-exists -f {two}")).prints("Successfully created 2 'BGPPeer' resource(s)\n");

    let many = peer("tor-3", "") + &peer("tor-1", "") + &peer("tor-4", "");
    let ran = cluster.feed("create -f -", &many);
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "Partial success: created the first 2 out of 3 'BGPPeer' resources:\n");
    assert_eq!(ran.err, format!("hit error: [{}]\n", exists("tor-1")));

    let mixed = peer("tor-1", "") + &pool("a", "10.20.0.0/16", "");
    cluster.feed("apply -f -", &mixed).prints("Successfully applied 2 resource(s)\n");
    cluster.feed("create -f -", &mixed).fails(&format!(
        "failed to create any resources: [{} resource already exists: IPPool(a) with error: the key is taken in the datastore]\n",
        exists("tor-1")
    ));
}

#[test]
fn files_are_read_from_standard_input_and_folders() {
    let cluster = Cluster::new();
    cluster.file("in/a.yaml", &peer("a", ""));
    cluster.file("in/b.YML", &peer("b", ""));
    cluster.file("in/notes.txt", "no resource");
    cluster.file(
        "in/deep/c.json",
        r#"{"apiVersion":"projectcalico.org/v3","kind":"BGPPeerList","items":[{"apiVersion":"projectcalico.org/v3","kind":"BGPPeer","metadata":{"name":"c"},"spec":{"peerIP":"10.0.9.3","asNumber":1}}]}"#,
    );
    let folder = cluster.path("in").display().to_string();
    cluster.run(&format!("apply -f {folder}")).prints("Successfully applied 2 'BGPPeer' resource(s)\n");
    cluster.run(&format!("apply -R -f {folder}")).prints("Successfully applied 3 'BGPPeer' resource(s)\n");

    let empty = cluster.file("empty.yaml", "---\n# nothing\n");
    cluster.run(&format!("apply -f {empty}")).fails(&format!("no resources specified in file {empty}\n"));
    cluster.run(&format!("apply --skip-empty -f {empty}")).prints("No resources specified\n");
    std::fs::create_dir(cluster.path("void")).unwrap();
    let void = cluster.path("void").display().to_string();
    cluster.run(&format!("create -f {void}")).fails(&format!("no resources specified in directory {void}\n"));
    cluster
        .run("replace -f /nonexistent.yaml")
        .fails("failed to execute command: /nonexistent.yaml: No such file or directory (os error 2)\n");
    cluster.run("create").fails("no file is named: use -f FILE, or -f - for standard input\n");
}

#[test]
fn documents_that_cannot_be_read_are_refused_whole() {
    let cluster = Cluster::new();
    let good = peer("tor-1", "");
    for (bad, said) in [
        (
            good.replace("peerIP", "peerIPP"),
            "failed to execute command: standard input: field in document is not recognized or is in the wrong location: peerIPP, at spec.peerIPP (document 2, from line 5)",
        ),
        (
            good.replace("BGPPeer", "BGPPear"),
            "failed to execute command: standard input: unknown resource type (BGPPear) and/or version (projectcalico.org/v3) (document 2, from line 5)",
        ),
        (
            good.replace("projectcalico.org/v3", "crd.projectcalico.org/v1"),
            "failed to execute command: standard input: unknown resource type (BGPPeer) and/or version (crd.projectcalico.org/v1) (document 2, from line 5)",
        ),
    ] {
        cluster.feed("apply -f -", &(good.clone() + &bad)).fails(&format!("{said}\n"));
    }
    cluster.feed("apply -f -", &good.replace("asNumber: 65001", "asNumber: many")).fails_with(&["spec.asNumber"]);
    cluster.feed("apply -f -", &good.replace("{peerIP", "{peerIP: a, peerIP")).fails_with(&["peerIP"]);
    cluster.feed("apply -f -", "{").fails_with(&["failed to execute command: standard input: ", "line 1"]);
    cluster.run("get bgppeer").prints("NAME   PEERIP   NODE   ASN   \n\n");
}

#[test]
fn a_stale_revision_is_an_update_conflict() {
    let cluster = Cluster::with(&peer("tor-1", ", labels: {rack: a}"));
    let version = |cluster: &Cluster| {
        let json = cluster.run("get bgppeer tor-1 -o json").out;
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        value["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
    };
    let old = version(&cluster);
    let of = |revision: &str| peer("tor-1", &format!(", resourceVersion: \"{revision}\""));
    cluster.feed("apply -f -", &of(&old)).prints("Successfully applied 1 'BGPPeer' resource(s)\n");
    let new = version(&cluster);
    assert_ne!(old, new);
    // Labels that are not in the file are gone.
    assert!(!cluster.run("get bgppeer tor-1 -o yaml").out.contains("rack"));

    let conflict = format!(
        "update conflict: BGPPeer(tor-1): resourceVersion {old} is out of date, the latest is {new}; get it again and redo the change"
    );
    cluster.feed("apply -f -", &of(&old)).fails(&format!("failed to apply 'BGPPeer' resource: [{conflict}]\n"));
    let replaced = cluster.feed("replace -f -", &of(&old));
    assert_eq!(replaced.out, "Partial success: replaced the first 1 out of 1 'BGPPeer' resources:\n");
    assert_eq!((replaced.code, replaced.err), (Some(1), format!("hit error: {conflict}\n")));
    cluster
        .feed("delete -f -", &of(&old))
        .fails("Failed to delete 'BGPPeer' resource: [update conflict: BGPPeer(tor-1)]\n");
    assert_eq!(version(&cluster), new);
    cluster
        .feed("create -f -", &of(&new))
        .fails_with(&["failed to create 'BGPPeer' resource: [error with field Metadata.ResourceVersion"]);

    cluster.feed("replace -f -", &of(&new)).prints("Successfully replaced 1 'BGPPeer' resource(s)\n");
    cluster.feed("delete -f -", &of(&version(&cluster))).prints("Successfully deleted 1 'BGPPeer' resource(s)\n");
}

#[test]
fn what_is_missing_is_neither_replaced_nor_deleted() {
    let cluster = Cluster::with(&(peer("tor-1", "") + &peer("tor-2", "")));
    let missing = "resource does not exist: BGPPeer(tor-9) with error: not found in the datastore";
    let ran = cluster.feed("replace -f -", &peer("tor-9", ""));
    assert_eq!((ran.code, ran.err), (Some(1), format!("hit error: {missing}\n")));

    let ran = cluster.run("delete bgppeer tor-9 tor-1");
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "Successfully deleted 1 'BGPPeer' resource(s)\n");
    assert_eq!(ran.err, format!("Failed to delete 'BGPPeer' resource: [{missing}]\n"));
    cluster.run("delete bgppeer tor-9").fails(&format!("Failed to delete 'BGPPeer' resource: [{missing}]\n"));
    cluster
        .run("delete bgppeer tor-9 tor-2 --skip-not-exists")
        .prints("Successfully deleted 2 'BGPPeer' resource(s)\n");
    cluster.feed("delete -s -f -", &peer("tor-9", "")).prints("Successfully deleted 1 'BGPPeer' resource(s)\n");

    cluster.run("delete bgppeer").fails_with(&["resource name may not be empty"]);
    cluster.run("delete bgppeer ''").fails_with(&["resource name may not be empty"]);
    cluster.run("delete").fails_with(&["name a kind", "-f"]);
    cluster.run("delete bgppear a").fails_with(&["resource type 'bgppear' is not supported"]);
}

#[test]
fn a_pool_keeps_what_cannot_change_and_overlaps_no_other() {
    let cluster = Cluster::with(&pool("pods-a", "10.20.0.0/16", ""));
    let apply = |document: &str| cluster.feed("apply -f -", document);
    let create = |document: &str| cluster.feed("create -f -", document);
    create(&pool("b", "10.30.0.1/16", ""))
        .fails_with(&["failed to create 'IPPool' resource: [error with field ", "CIDR = '10.30.0.1/16'"]);
    create(&pool("b", "10.20.128.0/17", "")).fails_with(&["10.20.128.0/17", "pods-a", "overlap"]);
    create(&pool("b", "10.30.0.0/16", ", blockSize: 12")).fails_with(&["lockSize = '12'"]);
    create(&pool("b", "10.30.0.0/16", ", ipipMode: Always, vxlanMode: Always")).fails_with(&["error with field"]);
    apply(&pool("pods-a", "10.21.0.0/16", ""))
        .fails_with(&["failed to apply 'IPPool' resource: [error with", "CIDR = '10.21.0.0/16'"]);
    apply(&pool("pods-a", "10.20.0.0/16", ", blockSize: 28")).fails_with(&["lockSize = '28'"]);
    apply(&pool("pods-a", "10.20.0.0/16", ", natOutgoing: true"))
        .prints("Successfully applied 1 'IPPool' resource(s)\n");
    assert!(cluster.run("get ippool pods-a -o yaml").out.contains("blockSize: 26"), "the default is written down");
    cluster.run("delete pool pods-a").prints("Successfully deleted 1 'IPPool' resource(s)\n");
    create(&pool("b", "10.20.128.0/17", "")).prints("Successfully created 1 'IPPool' resource(s)\n");
}

#[test]
fn peers_and_configurations_are_checked_before_they_are_written() {
    let cluster = Cluster::new();
    let apply = |document: &str| cluster.feed("apply -f -", document);
    apply(&peer("tor-1", "").replace("10.0.9.1", "badpeerIP")).fails_with(&["PeerIP = 'badpeerIP'"]);
    apply(&peer("tor-1", "").replace("peerIP", "filters: [only-pools], peerIP")).fails(
        "failed to apply 'BGPPeer' resource: [BGPFilter(s) not found: only-pools; create them before the BGPPeer that names them]\n",
    );
    let filter = "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: only-pools}\nspec: {}\n---\n";
    apply(&(filter.to_owned() + &peer("tor-1", "").replace("peerIP", "filters: [only-pools], peerIP")))
        .prints("Successfully applied 2 resource(s)\n");

    let configuration = |name: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: {name}}}\nspec: {{asNumber: 65000}}\n"
        )
    };
    apply(&configuration("default")).prints("Successfully applied 1 'BGPConfiguration' resource(s)\n");
    apply(&configuration("node.a")).fails_with(&["Cannot set"]);
}

#[test]
fn read_only_things_are_left_alone() {
    let cluster = Cluster::with(&peer("tor-1", ""));
    let information = "apiVersion: projectcalico.org/v3\nkind: ClusterInformation\nmetadata: {name: default}\nspec: {clusterType: mine}\n";
    cluster.feed("apply -f -", information).fails(
        "failed to apply 'ClusterInformation' resource: [operation Apply is not supported on ClusterInformation(default): it is read-only]\n",
    );
    for verb in ["create", "replace"] {
        let ran = cluster.feed(&format!("{verb} -f -"), information);
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("is not supported on ClusterInformation(default)"), "{}", ran.err);
    }
    cluster.run("delete clusterinformation default").fails(
        "Failed to delete 'ClusterInformation' resource: [operation Delete is not supported on ClusterInformation(default)]\n",
    );
    cluster.run("delete tier default").fails_with(&["is not supported on Tier(default)"]);
    cluster.run("delete networkpolicy knp.default.web").fails_with(&["through the kubernetes API"]);

    let tier = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: security}\nspec: {order: 10}\n---\n";
    let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: web}\nspec: {tier: security, types: [Ingress]}\n";
    cluster.feed("apply -f -", &(tier.to_owned() + policy)).prints("Successfully applied 2 resource(s)\n");
    cluster.run("delete tier security").fails_with(&["Cannot delete a non-empty tier"]);
    cluster.run("delete gnp web").prints("Successfully deleted 1 'GlobalNetworkPolicy' resource(s)\n");
    cluster.run("delete tier security").prints("Successfully deleted 1 'Tier' resource(s)\n");
}

#[test]
fn namespaces_are_those_of_the_file_or_of_the_flag() {
    let cluster = Cluster::new();
    let set = |more: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: NetworkSet\nmetadata: {{name: office{more}}}\nspec: {{nets: [192.0.2.0/24]}}\n"
        )
    };
    for (document, words) in [
        (set(""), "apply -f -"),
        (set(""), "apply -n shop -f -"),
        (set(", namespace: shop"), "apply -n shop -f -"),
        (set(", namespace: bank"), "apply -f -"),
    ] {
        cluster.feed(words, &document).prints("Successfully applied 1 'NetworkSet' resource(s)\n");
    }
    cluster.feed("apply -n shop -f -", &set(", namespace: bank")).fails(
        "failed to apply 'NetworkSet' resource: [resource namespace does not match client namespace. bank != shop]\n",
    );
    cluster
        .run("get networkset -A")
        .prints("NAMESPACE   NAME     \nbank        office   \ndefault     office   \nshop        office   \n\n");
    cluster.run("get netsets -n shop").prints("NAMESPACE   NAME     \nshop        office   \n\n");
    cluster.run("get netsets -a").prints(&cluster.run("get netsets --all-namespaces").out);
    cluster.run("get networkset").prints("NAME     \noffice   \n\n");
    cluster.run("get networkset -A -n shop").fails_with(&["namespace"]);
    cluster.run("get networkset office -A").fails_with(&["all-namespaces"]);
    cluster.run("delete networkset office -n bank").prints("Successfully deleted 1 'NetworkSet' resource(s)\n");
    cluster
        .run("get networkset office -n bank")
        .fails("resource does not exist: NetworkSet(bank/office) with error: not found in the datastore\n");

    for words in ["get nodes -n shop", "get ippool -A", "delete bgppeer a -n shop"] {
        cluster.run(words).fails_with(&["is not namespaced"]);
    }
    cluster
        .feed("apply -n shop -f -", &peer("a", ""))
        .fails("failed to apply 'BGPPeer' resource: [BGPPeer is not namespaced]\n");
    cluster.feed("apply -f -", &peer("a", ", namespace: shop")).fails_with(&["non-namespaced"]);
}

#[test]
fn a_filter_may_stand_behind_the_peer_that_names_it() {
    let cluster = Cluster::new();
    let filter = "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: only-pools}\nspec: {}\n---\n";
    let named = peer("tor-1", "").replace("peerIP", "filters: [only-pools], peerIP");
    cluster.feed("create -f -", &(named.clone() + filter)).prints("Successfully created 2 resource(s)\n");
    let others = named.replace("only-pools", "others");
    cluster.feed("apply -f -", &others).fails_with(&["BGPFilter(s) not found: others"]);
    // A filter that is refused does not leave the peer behind without it.
    let wrong = filter.replace("only-pools", "others").replace("{}", "{exportV4: [{action: Maybe}]}");
    cluster.feed("apply -f -", &(others + &wrong)).says_and_fails(&["others", "exportV4", "Maybe"]);
    assert!(!cluster.run("get bgppeer tor-1 -o yaml").out.contains("others"));
}

#[test]
fn bad_bgp_input_is_refused_with_file_document_kind_name_and_field() {
    let cluster = Cluster::new();
    let document = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    let good = peer("tor-1", "");
    for (bad, said) in [
        (
            document("BGPPeer", "tor-2", "{node: a, nodeSelector: all(), peerIP: 10.0.9.2, asNumber: 65001}"),
            "error with field Node = 'a' (node and nodeSelector cannot both be set) in BGPPeer(tor-2)",
        ),
        (
            document("BGPPeer", "tor-2", "{peerIP: 10.0.9.2, asNumber: 0}"),
            "error with field ASNumber = '0' (must be given when peerIP is set, from 1 to 4294967295) in BGPPeer(tor-2)",
        ),
        (
            document(
                "BGPConfiguration",
                "default",
                "{prefixAdvertisements: [{cidr: 10.244.0.0/16, communities: ['65001:70000']}]}",
            ),
            "error with field Spec.PrefixAdvertisement[].Communities[] = '65001:70000' (community used is invalid or not defined) in BGPConfiguration(default)",
        ),
    ] {
        let file = cluster.file("in/all.yaml", &(good.clone() + &bad));
        let ran = cluster.run(&format!("apply -f {file}"));
        ran.says_and_fails(&[&format!("{said}, {file} (document 2, from line 5)")]);
        assert!(cluster.run("get bgppeer tor-2").code == Some(1), "it was not written");
    }
    // What is no word of the field at all is refused before anything is written.
    let filter =
        document("BGPFilter", "within", "{exportV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: Within}]}");
    let cluster = Cluster::new();
    let file = cluster.file("in/all.yaml", &(good + &filter));
    cluster.run(&format!("apply -f {file}")).fails_with(&[
        &file,
        "BGPFilter(within): spec.exportV4[0].matchOperator: unknown variant `Within`",
        "`Equal`, `NotEqual`, `In`, `NotIn`",
        "(document 2, from line 5)",
    ]);
    assert_eq!(cluster.run("get bgppeer tor-1").code, Some(1));
    // Several faults have a line each.
    let many = document("BGPPeer", "tor-2", "{peerIP: nowhere, asNumber: 1, localASNumber: 0}");
    cluster.feed("apply -f -", &many).fails_with(&[
        "error with the following fields:\n-  ",
        "\n-  PeerIP = 'nowhere'",
        "\nin BGPPeer(tor-2), standard input (document 1, from line 1)",
    ]);
}
