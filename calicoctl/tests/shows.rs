//! get: tables, YAML, JSON, and that what comes out goes in again.

mod support;

use support::{Cluster, Ran, run, samples, scrubbed};

const RESOURCES: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods-b}
spec: {cidr: 10.30.0.0/16, ipipMode: Always, natOutgoing: true, nodeSelector: zone == \"b\"}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods-a}
spec: {cidr: 10.20.0.0/16, vxlanMode: CrossSubnet}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: worker-1, labels: {rack: a}}
spec: {bgp: {ipv4Address: 10.0.0.11/24}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: worker-2}
spec: {bgp: {asNumber: 65010, ipv4Address: 10.0.0.12/24, ipv6Address: \"fd00::12/64\"}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: worker-3}
spec: {}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.9.1, asNumber: 65001, nodeSelector: rack == \"a\"}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: everywhere}
spec: {peerIP: 10.0.9.2, asNumber: 65002}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: single}
spec: {peerIP: 10.0.9.3, asNumber: 65003, node: worker-1}
";

fn cluster() -> Cluster {
    Cluster::with(RESOURCES)
}

#[test]
fn tables_are_padded_as_gos_tabwriter_pads_them() {
    let cluster = cluster();
    cluster.run("get nodes").prints("NAME       \nworker-1   \nworker-2   \nworker-3   \n\n");
    cluster.run("get nodes -o wide").prints(
        "\
NAME       ASN       IPV4           IPV6          \n\
worker-1   (64512)   10.0.0.11/24                 \n\
worker-2   65010     10.0.0.12/24   fd00::12/64   \n\
worker-3                                          \n\
\n",
    );
    cluster.run("get ippool").prints(
        "\
NAME     CIDR           SELECTOR      \n\
pods-a   10.20.0.0/16   all()         \n\
pods-b   10.30.0.0/16   zone == \"b\"   \n\
\n",
    );
    cluster.run("get pools -o wide").prints(
        "\
NAME     CIDR           NAT     IPIPMODE   VXLANMODE     DISABLED   DISABLEBGPEXPORT   SELECTOR      ASSIGNMENTMODE   \n\
pods-a   10.20.0.0/16   false   Never      CrossSubnet   false      false              all()         Automatic        \n\
pods-b   10.30.0.0/16   true    Always     Never         false      false              zone == \"b\"   Automatic        \n\
\n",
    );
    cluster.run("get bgppeers").prints(
        "\
NAME         PEERIP     NODE          ASN     \n\
everywhere   10.0.9.2   (global)      65002   \n\
single       10.0.9.3   worker-1      65003   \n\
tor          10.0.9.1   rack == \"a\"   65001   \n\
\n",
    );
    // Nothing is there: the header alone.
    cluster.run("get bgpconfig").prints("NAME   LOGSEVERITY   MESHENABLED   ASNUMBER   \n\n");
    let configuration = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {asNumber: 65000, nodeToNodeMeshEnabled: false}\n";
    cluster.feed("create -f -", configuration).prints("Successfully created 1 'BGPConfiguration' resource(s)\n");
    cluster.run("get bgpconfig -o wide").prints(
        "NAME      LOGSEVERITY   MESHENABLED   ASNUMBER   \ndefault   Info          false         65000      \n\n",
    );
    cluster
        .run("get no worker-1 -o wide")
        .prints("NAME       ASN       IPV4           IPV6   \nworker-1   (65000)   10.0.0.11/24          \n\n");
    cluster.run("get tiers").prints(
        "NAME            ORDER   \nkube-admin      1000    \ndefault         1e+06   \nkube-baseline   1e+07   \n\n",
    );
}

#[test]
fn every_name_has_its_own_table_and_what_is_missing_is_told_after() {
    let ran = cluster().run("get node worker-2 missing worker-1");
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.out, "NAME       \nworker-2   \n\nNAME       \nworker-1   \n\n");
    assert_eq!(ran.err, "resource does not exist: Node(missing) with error: not found in the datastore\n");
}

#[test]
fn columns_are_chosen_by_their_headings() {
    let cluster = cluster();
    cluster
        .run("get ippool -o custom-columns=cidr,NAME")
        .prints("CIDR           NAME     \n10.20.0.0/16   pods-a   \n10.30.0.0/16   pods-b   \n\n");
    cluster.run("get ippool -o custom-columns=NAME,COLOUR").fails(
        "unknown heading COLOUR, valid values are: ASSIGNMENTMODE, CIDR, DISABLEBGPEXPORT, DISABLED, IPIPMODE, NAME, NAT, SELECTOR, VXLANMODE\n",
    );
    cluster.run("get ippool -o custom-columns=").fails_with(&["custom-columns"]);
    cluster.run("get ippool -o xml").fails("unrecognized output format 'xml'\n");
    cluster.run("get pear").fails("failed to get resources: resource type 'pear' is not supported\n");
    cluster.run("get ippool ''").fails("resource name may not be empty\n");
    cluster.run("get").fails_with(&["name a kind", "-f"]);
}

#[test]
fn long_lists_are_cut_at_eighty_characters() {
    let nets: Vec<String> = (0..10).map(|number| format!("192.0.2.{number}/32")).collect();
    let set = format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: long}}\nspec: {{nets: [{}]}}\n",
        nets.join(", ")
    );
    let table = Cluster::with(&set).run("get gnetsets -o wide").out;
    let row = table.lines().nth(1).unwrap();
    assert_eq!(row, format!("long   {}...   ", &nets.join(",")[..77]));
}

#[test]
fn yaml_and_json_are_whole_resources() {
    let cluster = cluster();
    let yaml = cluster.run("get ippool pods-b -o yaml").out;
    assert_eq!(
        scrubbed(&yaml),
        "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: pods-b
spec:
  allowedUses:
  - Workload
  - Tunnel
  assignmentMode: Automatic
  blockSize: 26
  cidr: 10.30.0.0/16
  ipipMode: Always
  natOutgoing: true
  nodeSelector: zone == \"b\"
  vxlanMode: Never
"
    );
    for field in ["\n  uid: ", "\n  resourceVersion: \"", "\n  creationTimestamp: \"20"] {
        assert!(yaml.contains(field), "{field} is not in {yaml}");
    }
    let json = cluster.run("get node worker-1 -o json --export").out;
    assert_eq!(
        json,
        "\
{
  \"apiVersion\": \"projectcalico.org/v3\",
  \"kind\": \"Node\",
  \"metadata\": {
    \"labels\": {
      \"rack\": \"a\"
    },
    \"name\": \"worker-1\"
  },
  \"spec\": {
    \"bgp\": {
      \"ipv4Address\": \"10.0.0.11/24\"
    }
  }
}"
    );
    let two: serde_json::Value = serde_json::from_str(&cluster.run("get node worker-1 worker-2 -o json").out).unwrap();
    assert_eq!(two.as_array().map(Vec::len), Some(2));
    let list: serde_json::Value = serde_json::from_str(&cluster.run("get nodes -o json").out).unwrap();
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&"NodeList".into(), Some(3)));
    // What is asked for by a file is what the file names.
    let named = cluster.feed("get -f - -o custom-columns=NAME", RESOURCES.split("---").next().unwrap());
    named.prints("NAME     \npods-b   \n\n");
}

/// What an export holds, apart from who made it when.
fn exported(cluster: &Cluster, kind: &str, name: &str, namespace: &str) -> Ran {
    cluster.run(&format!("get {kind} {name} {namespace} -o yaml --export"))
}

#[test]
fn whatever_is_exported_can_be_applied_elsewhere() {
    let mut seen = 0;
    for entry in std::fs::read_dir(samples()).unwrap() {
        let path = entry.unwrap().path();
        let kind = path.file_stem().unwrap().to_string_lossy().into_owned();
        // IPAM's own records are not for users, and the cluster's information is not theirs to write.
        if matches!(kind.as_str(), "IPAMBlock" | "IPAMHandle" | "BlockAffinity" | "ClusterInformation") {
            continue;
        }
        let mut text = std::fs::read_to_string(&path).unwrap();
        if kind == "BGPPeer" {
            // Its sample has fields that exclude each other.
            text = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: tor, labels: {a: b}}\nspec: {peerIP: \"10.0.9.1:1179\", asNumber: 4200000000, ttlSecurity: 1, keepaliveTime: 20s, sourceAddress: UseNodeIP}\n".to_owned();
        }
        if kind == "FelixConfiguration" {
            text = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {routeRefreshInterval: 1m30s, interfacePrefix: cali, ipv6Support: false}\n".to_owned();
        }
        let value = &calico_api::documents(&text).unwrap()[0];
        let name = value.name().to_owned();
        let namespace = value.metadata().namespace.as_ref().map(|it| format!("-n {it}")).unwrap_or_default();

        let (here, there) = (Cluster::new(), Cluster::new());
        // The revision and the times of the sample are somebody else's.
        let text: String =
            text.lines().filter(|line| !line.contains("resourceVersion:")).map(|line| format!("{line}\n")).collect();
        let done = here.feed("apply -f -", &text);
        done.prints(&format!("Successfully applied 1 '{kind}' resource(s)\n"));
        let first = exported(&here, &kind, &name, &namespace);
        assert_eq!((first.code, first.err.as_str()), (Some(0), ""), "{kind}");
        for volatile in ["uid", "resourceVersion", "creationTimestamp", "namespace"] {
            assert!(!first.out.contains(&format!("\n  {volatile}:")), "{}", first.out);
        }
        there
            .feed(&format!("apply {namespace} -f -"), &first.out)
            .prints(&format!("Successfully applied 1 '{kind}' resource(s)\n"));
        assert_eq!(exported(&there, &kind, &name, &namespace), first, "{kind}");
        // And on itself it changes nothing.
        here.feed(&format!("apply {namespace} -f -"), &first.out)
            .prints(&format!("Successfully applied 1 '{kind}' resource(s)\n"));
        assert_eq!(exported(&here, &kind, &name, &namespace), first, "{kind}");
        let table = here.run(&format!("get {kind} {namespace} -o wide"));
        assert!(table.code == Some(0) && table.out.contains(&name), "{table:?}");
        seen += 1;
    }
    assert_eq!(seen, 21, "kinds that users see");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let cluster = cluster();
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(format!(
        "{{ {} get nodes -o yaml --config {}; echo $? >&2; }} | true",
        env!("CARGO_BIN_EXE_calicoctl"),
        cluster.path("calicoctl.cfg").display()
    ));
    assert_eq!(run(&mut shell, "").err, "0\n");
}
