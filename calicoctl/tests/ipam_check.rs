//! ipam check, release and configure, on planted faults.

mod support;

use calico_api::{
    ClusterInformationSpec, IPAMHandle, IPAMHandleSpec, Key, Kind, ObjectMeta, WorkloadEndpoint, WorkloadEndpointSpec,
    workload_endpoint_name,
};
use calico_datastore::Filter;
use ipam::{Allocator, AssignRequest};
use support::Cluster;

const POOL: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.20.0.0/16}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: worker-1}
spec: {}
";

/// One pod in use, one leaked address, one handle without addresses, one address that two use, one in no pool.
fn planted() -> (Cluster, String) {
    let cluster = Cluster::with(POOL);
    let leaked = cluster.store(async |store| {
        let mut allocator = Allocator::new(store.clone(), "worker-1".to_owned());
        let mut given = Vec::new();
        for (pod, container) in [("cart", "c1"), ("gone", "c2")] {
            let mut request = AssignRequest::ipv4(format!("k8s-pod-network.{container}"));
            for (key, value) in [("namespace", "shop"), ("node", "worker-1"), ("pod", pod)] {
                request.attributes.insert(key.to_owned(), value.to_owned());
            }
            given.push(allocator.assign(&request, jiff::Timestamp::now()).await.unwrap()[0].address);
        }
        let endpoints =
            [("cart", given[0].to_string()), ("twin", given[0].to_string()), ("far", "192.0.2.7".to_owned())];
        for (pod, address) in endpoints {
            let spec = WorkloadEndpointSpec {
                orchestrator: "k8s".into(),
                node: "worker-1".into(),
                pod: pod.into(),
                endpoint: "eth0".into(),
                ip_networks: vec![format!("{address}/32")],
                ..WorkloadEndpointSpec::default()
            };
            let name = workload_endpoint_name("worker-1", "k8s", pod, "eth0");
            let metadata = ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::named(name) };
            store.create(&WorkloadEndpoint::new(metadata, spec)).await.unwrap();
        }
        let mut orphan = ipam::handle::new("k8s-pod-network.c0");
        ipam::handle::add(&mut orphan, &"10.20.0.0/26".parse().unwrap(), 1);
        store.create(&IPAMHandle::new(ObjectMeta::named("k8s-pod-network.c0"), orphan)).await.unwrap();
        calico_datastore::ensure_initialized(&store).await.unwrap();
        given[1].to_string()
    });
    (cluster, leaked)
}

fn lock(cluster: &Cluster, locked: bool) {
    cluster.store(async |store| {
        let key = Key::named(Kind::ClusterInformation, "default");
        let mut information = store.get::<ClusterInformationSpec>(&key).await.unwrap();
        information.spec.datastore_ready = Some(!locked);
        store.update(&information).await.unwrap();
    });
}

#[test]
fn planted_faults_are_found_counted_and_shown_on_request() {
    let (cluster, leaked) = planted();
    let ran = cluster.run("ipam check");
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for line in [
        "Found 1 IPAM blocks.",
        "IPAM blocks record 2 allocations.",
        "Found 1 active IP pools.",
        "Found 3 workload IPs.",
        "Workloads and nodes are using 2 IPs.",
        "Found 1 IPs that are allocated in IPAM but not actually in use.",
        "Found 1 in-use IPs that are not in active IP pools.",
        "Found 0 in-use IPs that are in active IP pools but have no corresponding IPAM allocation.",
        "Found 1 IPs with more than one user.",
        "Found 1 handles with no matching IPs (and 2 handles with matches).",
        "Found 0 invalid IPAMBlocks.",
        "Check complete; found 4 problems.",
    ] {
        assert!(ran.out.lines().any(|it| it == line), "{line}\n{}", ran.out);
    }
    assert!(!ran.out.contains(&format!("  {leaked} leaked")));
    let ran = cluster.run("ipam check --show-problem-ips --exit-code");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.contains(&format!("  {leaked} leaked; attrs map[handle:k8s-pod-network.c2 namespace:shop")),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("  k8s-pod-network.c0\n"), "{}", ran.out);
}

#[test]
fn a_report_is_only_released_from_in_a_locked_store_of_the_same_cluster() {
    let (cluster, leaked) = planted();
    lock(&cluster, true);
    let report = cluster.path("report.json").display().to_string();
    assert_eq!(cluster.run(&format!("ipam check -o {report}")).code, Some(0));
    let text = std::fs::read_to_string(&report).unwrap();
    let foreign = cluster.file("foreign.json", &text.replacen("\"clusterGUID\": \"", "\"clusterGUID\": \"0", 1));
    let ran = cluster.run(&format!("ipam release --from-report {foreign} --force"));
    assert!(ran.code == Some(1) && ran.err.contains("another cluster"), "{ran:?}");

    lock(&cluster, false);
    let ran = cluster.run(&format!("ipam release --from-report {report}"));
    assert!(ran.code == Some(1) && ran.err.contains("not locked") && ran.err.contains("--force"), "{ran:?}");
    let ran = cluster.run(&format!("ipam release --force --from-report {report} --from-report {report}"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.err.contains("WARNING: the datastore is not locked"), "{ran:?}");
    assert!(
        ran.out.contains("Released 1 addresses; 0 skipped; 0 errors.\n.\nReleased 1 handles; 0 skipped; 0 errors.\n"),
        "{ran:?}"
    );
    assert!(ran.out.ends_with("You may now unlock the data store.\n"));
    assert_eq!(cluster.run(&format!("ipam show --ip {leaked}")).out, format!("{leaked} is not assigned\n"));
    let handles = cluster.store(async |store| store.list::<IPAMHandleSpec>(&Filter::All).await.unwrap().items.len());
    assert_eq!(handles, 1);
    assert!(cluster.run("ipam check").out.ends_with("found 2 problems.\n"));
    // What has been released since is passed over.
    let ran = cluster.run(&format!("ipam release --force --from-report {report}"));
    assert!(ran.out.contains("Released 0 addresses; 1 skipped; 0 errors."), "{ran:?}");
}

#[test]
fn an_address_is_released_once() {
    let (cluster, leaked) = planted();
    let ran = cluster.run(&format!("ipam release --ip {leaked}"));
    assert_eq!((ran.code, ran.out), (Some(0), format!("Successfully released IP address {leaked}\n")));
    let ran = cluster.run(&format!("ipam release --ip {leaked}"));
    assert!(ran.code == Some(1) && ran.err.contains(&format!("IP address {leaked} is not assigned")), "{ran:?}");
    assert_eq!(cluster.run("ipam release").code, Some(1));
}

#[test]
fn settings_are_changed_unless_nodes_could_not_work_with_them() {
    let cluster = Cluster::with(POOL);
    let ran = cluster.run("ipam configure --max-blocks-per-host 4");
    assert!(ran.code == Some(1) && ran.err.contains("StrictAffinity"), "{ran:?}");
    let ran = cluster.run("ipam configure --strictaffinity=true --max-blocks-per-host 4 --ip-cooldown-seconds=30");
    let told = "Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\nSuccessfully set IPCooldownSeconds to: 30\n";
    assert_eq!((ran.code, &*ran.out), (Some(0), told), "{}", ran.err);
    let shown = cluster.run("ipam show --show-configuration").out;
    assert!(shown.contains("| StrictAffinity               | true    |") && shown.contains("| 30"), "{shown}");
    assert_eq!(cluster.run("ipam configure --strictaffinity=false").code, Some(1), "MaxBlocksPerHost is still 4");
    assert_eq!(cluster.run("ipam configure").code, Some(1));
    assert_eq!(cluster.run("ipam configure --ip-cooldown-seconds=1201").code, Some(1));
}
