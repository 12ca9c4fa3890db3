//! Ocicat on a real cluster: kubelets start pods through our plugin, the DaemonSet is rolled under load, everything goes.

#[path = "../crash_walk/steps.rs"]
#[expect(dead_code, reason = "its own test uses the rest")]
mod steps;
mod walk;

use integration::cluster::{Cluster, Options, image, ping_all};
use integration::lab::{Progress, Show};

/// The end-to-end tests that need no kube-proxy and no DNS: pods reach pods, and nodes pods, by HTTP and UDP.
const PODS: &str = r"Networking Granular Checks: Pods.*\[Conformance\]";

#[test]
fn from_the_manifests_to_their_removal() {
    // A second cluster on this machine would be refused: everything that needs one is here.
    let options = Options { nodes: 2, ..Options::default() };
    let mut progress = Progress::quiet();
    let cluster = Cluster::start(&options).unwrap();
    let mut show = Show::begin(&cluster, &options).unwrap();
    cluster.install_ocicat(&image().unwrap()).unwrap();
    let pods = show.pods(12, &mut progress).unwrap();
    show.bad_input(&mut progress).unwrap();
    show.state(&mut progress).unwrap();

    // A power loss, and whatever else may end at any time.
    let node = cluster.node("node2").unwrap();
    node.reboot().unwrap();
    cluster.restart_apiserver().unwrap();
    node.kill("kubelet").unwrap();
    node.kill("containerd").unwrap();
    let again = cluster.deployed("lab", pods.len()).unwrap();
    assert_eq!(ping_all(&again).unwrap().lost, Vec::<String>::new(), "after a reboot");
    cluster.rolled_out("daemonset/calico-node").unwrap();
    cluster.rolled_out("deployment/ipam-controller").unwrap();

    let (at_add, at_del) = walk::walk(&cluster, &show, node).unwrap();
    assert!(at_add >= 9 && at_del >= 2, "containerd was killed at {at_add} steps of ADD and {at_del} of DEL only");

    let pods = cluster.deployed("lab", pods.len()).unwrap();
    show.roll(&pods, &mut progress).unwrap();
    show.e2e(PODS, Some(4), &mut progress).unwrap();
    show.remove(&mut progress).unwrap();
    cluster.check().unwrap();
    let report = show.end(&progress);
    assert!(report.good(), "{report}");
}
