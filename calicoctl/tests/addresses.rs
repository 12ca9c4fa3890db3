//! ipam show, of addresses that the allocator gave.

mod support;

use ipam::{Allocator, AssignRequest};
use support::Cluster;

const POOLS: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.20.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: small}
spec: {cidr: 10.30.0.0/24, blockSize: 28, nodeSelector: nowhere == \"true\"}
---
apiVersion: projectcalico.org/v3
kind: IPReservation
metadata: {name: printers}
spec: {reservedCIDRs: [10.30.0.0/29]}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: worker-1}
spec: {}
";

/// A cluster in which pods of worker-1 hold addresses; returns these.
fn with_pods(count: u32) -> (Cluster, Vec<String>) {
    let cluster = Cluster::with(POOLS);
    let addresses = cluster.store(async |store| {
        let mut allocator = Allocator::new(store, "worker-1".to_owned());
        allocator.load().await.unwrap();
        let mut addresses = Vec::new();
        for number in 0..count {
            let mut request = AssignRequest::ipv4(format!("k8s-pod-network.c{number}"));
            for (key, value) in
                [("namespace", "shop"), ("node", "worker-1"), ("timestamp", "2026-08-20 09:12:44.1 +0000 UTC")]
            {
                request.attributes.insert(key.to_owned(), value.to_owned());
            }
            request.attributes.insert("pod".to_owned(), format!("cart-{number}"));
            let assigned = allocator.assign(&request, jiff::Timestamp::now()).await.unwrap();
            addresses.extend(assigned.iter().map(|it| it.address.to_string()));
        }
        addresses
    });
    (cluster, addresses)
}

/// The network of 64 addresses that an address is in.
fn block_of(address: &str) -> String {
    let octets = address.parse::<std::net::Ipv4Addr>().unwrap().octets();
    format!("{}.{}.{}.{}/26", octets[0], octets[1], octets[2], octets[3] & !63)
}

#[test]
fn pools_and_blocks_are_counted() {
    let (cluster, addresses) = with_pods(12);
    cluster.run("ipam show").prints(
        "\
+----------+--------------+-----------+------------+--------------+--------------+
| GROUPING | CIDR         | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE     |
+----------+--------------+-----------+------------+--------------+--------------+
| IP Pool  | 10.20.0.0/16 |     65536 |    12 (0%) |       0 (0%) | 65524 (100%) |
| IP Pool  | 10.30.0.0/24 |       256 |     0 (0%) |       8 (3%) |    248 (97%) |
+----------+--------------+-----------+------------+--------------+--------------+
",
    );
    let block = block_of(&addresses[0]);
    let blocks = cluster.run("ipam show --show-blocks");
    assert_eq!(blocks.code, Some(0), "{blocks:?}");
    let row: Vec<&str> = blocks.out.lines().nth(4).unwrap().split('|').map(str::trim).collect();
    assert_eq!(row, ["", "Block", &block, "64", "12 (19%)", "0 (0%)", "52 (81%)", ""]);
    assert_eq!(blocks.out.lines().count(), 7, "{}", blocks.out);
}

#[test]
fn an_address_tells_who_holds_it() {
    let (cluster, addresses) = with_pods(1);
    let show = |address: &str| cluster.run(&format!("ipam show --ip {address}"));
    show(&addresses[0]).prints(&format!(
        "\
IP {} is in use
Handle ID: k8s-pod-network.c0
Active Owner Attributes:
  namespace: shop
  node: worker-1
  pod: cart-0
  timestamp: 2026-08-20 09:12:44.1 +0000 UTC
",
        addresses[0]
    ));
    show("10.20.255.255").prints("10.20.255.255 is not assigned\n");
    let bad = show("10.20.0");
    assert_eq!(
        (bad.code, bad.out.as_str()),
        (Some(1), "Error executing command: invalid IP address specified: 10.20.0\n")
    );

    // An address that is released is free again.
    cluster.store(async |store| {
        let mut allocator = Allocator::new(store, "worker-1".to_owned());
        allocator.load().await.unwrap();
        allocator.release_by_handle("k8s-pod-network.c0", jiff::Timestamp::now()).await.unwrap();
    });
    show(&addresses[0]).prints(&format!("{} is not assigned\n", addresses[0]));
}

#[test]
fn a_deleted_pool_leaves_addresses_and_a_deleted_node_none() {
    let (cluster, addresses) = with_pods(2);
    cluster.run("delete ippool pods").prints("Successfully deleted 1 'IPPool' resource(s)\n");
    let orphans = cluster.run("ipam show --show-blocks").out;
    assert!(orphans.contains(&format!("| Block    | {}", block_of(&addresses[0]))), "{orphans}");
    assert!(!orphans.contains("0.0.0.0/0") && !orphans.contains("10.20.0.0/16"), "{orphans}");

    let endpoint = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: worker--1-k8s-cart--0-eth0, namespace: shop}\nspec: {orchestrator: k8s, node: worker-1, pod: cart-0, endpoint: eth0, containerID: c0, interfaceName: cali0d7763386da, ipNetworks: [10.20.0.1/32]}\n";
    cluster.feed("apply -f -", endpoint).prints("Successfully applied 1 'WorkloadEndpoint' resource(s)\n");
    cluster.run("get wep -n shop").prints(
        "NAMESPACE   WORKLOAD   NODE       NETWORKS       INTERFACE         \nshop        cart-0     worker-1   10.20.0.1/32   cali0d7763386da   \n\n",
    );
    cluster.run("delete node worker-1").prints("Successfully deleted 1 'Node' resource(s)\n");
    cluster.run(&format!("ipam show --ip {}", addresses[0])).prints(&format!("{} is not assigned\n", addresses[0]));
    cluster.run("get wep -n shop").prints("NAMESPACE   WORKLOAD   NODE   NETWORKS   INTERFACE   \n\n");
}

#[test]
fn settings_are_shown_with_their_values() {
    let cluster = Cluster::new();
    let expected = |strict: &str, blocks: &str| {
        format!(
            "\
+------------------------------+---------+
| PROPERTY                     | VALUE   |
+------------------------------+---------+
| StrictAffinity               | {strict:7} |
| AutoAllocateBlocks           | true    |
| MaxBlocksPerHost             | {blocks:7} |
| KubeVirtVMAddressPersistence | Enabled |
| IPCooldownSeconds            | 0       |
+------------------------------+---------+
"
        )
    };
    cluster.run("ipam show --show-configuration").prints(&expected("false", "0"));
    let settings = "apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: {name: default}\nspec: {strictAffinity: true, maxBlocksPerHost: 4, autoAllocateBlocks: true}\n";
    cluster.feed("apply -f -", settings).prints("Successfully applied 1 'IPAMConfiguration' resource(s)\n");
    cluster.run("ipam show --show-configuration").prints(&expected("true", "4"));
}
