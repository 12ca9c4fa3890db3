//! The main operations on two nodes with the variables and the rights of the manifests, in both API groups: nothing that
//! the programs ask for is refused, and nothing is granted that they do not ask for.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use integration::cluster::rights::{Right, granted};
use integration::process::Process;
use integration::servers::Server;
use integration::servers::kubernetes::{ApiServer, Group};
use integration::{Net, Node, PATIENCE, Pod, StoreKind, wait};
use serde_json::{Value, json};

use crate::audit::{self, deeds};
use crate::objects::{self, Objects, kustomize, programs};

/// Where the API server is.
const SERVER: (&str, &str) = ("10.0.0.1", "6443");

/// A calicoctl.cfg of an administrator.
const ADMIN: &str = "/etc/calico/admin.cfg";

/// Rights of which this run makes no use, in the words of [`Right::parse`] with `GROUP` for Calico's; and why.
const NODE_NOT_HERE: &[(&str, &str)] = &[];

/// The same of ipam-controller.
const CONTROLLER_NOT_HERE: &[(&str, &str)] = &[];

/// What an administrator applies, so that every part of the daemons has something to do.
const RESOURCES: &str = "
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/16}]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: rack}
spec: {peerIP: 10.0.0.250, asNumber: 64600, password: {secretKeyRef: {name: bgp-secrets, key: rack}}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: speakers}
spec: {localWorkloadSelector: \"speaks == 'bgp'\", asNumber: 64601}
---
apiVersion: projectcalico.org/v3
kind: CalicoNodeStatus
metadata: {name: east}
spec: {node: east, classes: [Agent, BGP, Routes], updatePeriodSeconds: 1}
";

/// What leaks is collected at once.
const IMPATIENT: &str = "
apiVersion: projectcalico.org/v3
kind: KubeControllersConfiguration
metadata: {name: default}
spec: {controllers: {node: {leakGracePeriod: 1s}}}
";

fn server(net: &Net) -> MutexGuard<'_, ApiServer> {
    match net.server() {
        Some(Server::Kubernetes(server)) => server.lock().unwrap_or_else(PoisonError::into_inner),
        _ => unreachable!("these topologies have an API server"),
    }
}

/// Runs kubectl as an administrator.
fn kubectl(net: &Net, arguments: &[&str], input: Option<&str>) -> Result<String> {
    let mut command = net.command(&programs()?.0.display().to_string());
    command.arg("--kubeconfig").arg(server(net).kubeconfig()).args(arguments);
    objects::output(command, input)
}

/// The variables of a container of an object, as the kubelet fills them in.
fn variables(objects: &Objects, of: &str, container: &str, node: &str) -> Result<Vec<(String, String)>> {
    let containers = &objects[of]["spec"]["template"]["spec"]["containers"];
    let container = containers.as_array().into_iter().flatten().find(|one| one["name"] == container);
    let container = container.with_context(|| format!("there is no container {container:?}"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"));
    let variables = container["env"].as_array().context("no variables")?.iter().map(|variable| {
        let from = &variable["valueFrom"];
        let value = match (variable.get("value"), from.get("configMapKeyRef"), from.pointer("/fieldRef/fieldPath")) {
            (Some(value), ..) => text(value)?,
            (None, Some(key), _) => {
                text(&objects[&format!("ConfigMap {}", text(&key["name"])?)]["data"][text(&key["key"])?])?
            }
            (None, None, Some(path)) if path == "spec.nodeName" => node.to_owned(),
            (None, None, Some(path)) if path == "metadata.namespace" => "kube-system".to_owned(),
            other => anyhow::bail!("where does {variable} come from? {other:?}"),
        };
        Ok((text(&variable["name"])?, value))
    });
    variables.collect()
}

/// Puts an account's token where the kubelet does.
fn credentials(net: &Net, node: &Node<'_>, account: &str) -> Result<()> {
    // What is there has an administrator's rights, and would be found before the variables.
    node.run("mv", &["/etc/calico/calicoctl.cfg", ADMIN])?;
    let path = format!("/api/v1/namespaces/kube-system/serviceaccounts/{account}/token");
    let issued = server(net).request("POST", &path, &json!({"spec": {"expirationSeconds": 3600}}))?;
    let token = issued["status"]["token"].as_str().context("no token was issued")?.to_owned();
    let folder = node.holder().inside("/run/secrets/kubernetes.io/serviceaccount");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("token"), token)?;
    fs::write(folder.join("namespace"), "kube-system")?;
    fs::copy(net.directory().join("kubernetes/ca.crt"), folder.join("ca.crt"))?;
    Ok(())
}

/// Starts a container of the DaemonSet.
fn start(objects: &Objects, node: &Node<'_>, container: &str) -> Result<()> {
    let mut variables = variables(objects, "DaemonSet calico-node", container, node.name())?;
    for (name, value) in [
        ("KUBECONFIG", ""),
        ("KUBERNETES_SERVICE_HOST", SERVER.0),
        ("KUBERNETES_SERVICE_PORT", SERVER.1),
        ("NO_DEFAULT_POOLS", "false"),
        // Small blocks, so that some become full and some are given back.
        ("CALICO_IPV4POOL_CIDR", "10.244.0.0/24"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "30"),
    ] {
        variables.push((name.to_owned(), value.to_owned()));
    }
    let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    node.start(container, &variables)
}

/// Applies resources as an administrator.
fn calicoctl(node: &Node<'_>, resources: &str) -> Result<()> {
    let mut command = node.command("/usr/local/bin/calicoctl");
    command.args(["apply", "--config", ADMIN, "-f", "-"]);
    objects::output(command, Some(resources)).map(drop)
}

/// A claim of east that was begun for a block that another has got meanwhile.
fn begun(net: &Net, group: Group) -> Result<()> {
    let version = group.api_version();
    let deleted = if group == Group::Classic { json!("false") } else { json!(false) };
    let affinity = json!({"apiVersion": version, "kind": "BlockAffinity", "metadata": {"name": "east-10-244-0-0-30"},
        "spec": {"state": "pending", "node": "east", "type": "host", "cidr": "10.244.0.0/30", "deleted": deleted}});
    let block = json!({"apiVersion": version, "kind": "IPAMBlock", "metadata": {"name": "10-244-0-0-30"},
        "spec": {"cidr": "10.244.0.0/30", "affinity": "host:gone", "allocations": [null, null, null, null],
            "unallocated": [0, 1, 2, 3], "attributes": [], "strictAffinity": false, "deleted": false}});
    for (plural, object) in [("blockaffinities", affinity), ("ipamblocks", block)] {
        server(net).request("POST", &format!("/apis/{version}/{plural}"), &object)?;
    }
    Ok(())
}

/// Takes a block with addresses away from east, as an administrator who removes a node's affinities does.
fn abandon(net: &Net, group: Group) -> Result<()> {
    let base = format!("/apis/{}", group.api_version());
    let blocks = server(net).request("GET", &format!("{base}/ipamblocks"), &Value::Null)?;
    let ours = blocks["items"].as_array().into_iter().flatten().find(|block| block["spec"]["affinity"] == "host:east");
    let mut block = ours.context("east has no block")?.clone();
    let name = block["metadata"]["name"].as_str().context("a block without a name")?.to_owned();
    block["apiVersion"] = json!(group.api_version());
    block["kind"] = json!("IPAMBlock");
    block["spec"].as_object_mut().context("a block without a spec")?.remove("affinity");
    server(net).request("PUT", &format!("{base}/ipamblocks/{name}"), &block)?;
    server(net).request("DELETE", &format!("{base}/blockaffinities/east-{name}"), &Value::Null).map(drop)
}

/// Starts the Deployment's container, on a machine that is no node of the cluster's network.
fn start_controller(net: &Net, objects: &Objects, node: &Node<'_>) -> Result<Process> {
    let mut command = node.command(&net.binaries().daemons().join("ipam-controller").display().to_string());
    command.envs(variables(objects, "Deployment ipam-controller", "ipam-controller", node.name())?);
    command.env("KUBERNETES_SERVICE_HOST", SERVER.0).env("KUBERNETES_SERVICE_PORT", SERVER.1);
    // Every minute would be a long time here.
    command.env("RECONCILER_PERIOD", "1s").env_remove("KUBECONFIG").env_remove("RUST_BACKTRACE");
    Process::start("ipam-controller", &mut command, net.log("ipam-controller"))
}

/// A topology of which an API server with the manifests of a group is part.
struct Installed {
    net: Net,
    objects: Objects,
    /// The name of the group that is not there.
    other: &'static str,
    group: Group,
}

impl Installed {
    fn new(group: Group) -> Result<Self> {
        let mut enabled = Ok(());
        let net = Net::announced(StoreKind::Kubernetes, |directory| enabled = audit::enable(directory))?;
        enabled?;
        let (overlay, other) = match group {
            Group::Classic => ("mesh", "projectcalico.org"),
            Group::Native => ("native-crds", "crd.projectcalico.org"),
        };
        if group == Group::Native {
            kubectl(&net, &["delete", "--wait=true", "-k", &format!("{}/crds/classic", objects::folder())], None)?;
        }
        let place = format!("{}/kustomize/overlays/{overlay}", objects::folder());
        kubectl(&net, &["apply", "--server-side", "--force-conflicts", "-k", &place], None)?;
        let passwords = format!("{}/kustomize/components/passwords/passwords-rbac.yaml", objects::folder());
        kubectl(&net, &["apply", "-f", &passwords], None)?;
        kubectl(&net, &["wait", "--for=condition=Established", "crd", "--all"], None)?;
        let mut objects = kustomize(&format!("kustomize/overlays/{overlay}"))?;
        objects.extend(objects::parse(&fs::read_to_string(&passwords)?)?);
        Ok(Self { net, objects, other, group })
    }

    /// Waits until an account has used all of its rights but those that are excused, and was refused nothing.
    fn all_is_used(&self, account: &str, excuses: &[(&str, &str)]) -> Result<()> {
        let granted = granted(self.objects.values(), account)?;
        let wanted: BTreeSet<Right> = granted.into_iter().filter(|right| right.group != self.other).collect();
        let group = self.group.api_version().split('/').next().unwrap_or_default();
        let excused = excuses.iter().map(|(right, _)| Right::parse(&right.replace("GROUP", group)));
        let excused: BTreeSet<Right> = excused.collect::<Result<_>>()?;
        let mut missing = String::new();
        let all = wait::becomes(PATIENCE, "every right is used", || {
            let deeds = deeds(self.net.directory(), account)?;
            let unused = deeds.unused(&wanted).filter(|right| !excused.contains(right));
            missing = unused.map(|right| format!("\n  {right}")).collect();
            Ok(missing.is_empty())
        });
        let deeds = deeds(self.net.directory(), account)?;
        ensure!(deeds.refused.is_empty(), "{account} was refused: {:#?}", deeds.refused);
        all.with_context(|| format!("granted to {account} and not used, and no reason is given:{missing}"))?;
        let stale: Vec<_> =
            excused.iter().filter(|right| deeds.used.contains(right)).map(ToString::to_string).collect();
        ensure!(stale.is_empty(), "used by {account} after all: {stale:?}");
        Ok(())
    }
}

fn play(group: Group) -> Result<()> {
    let installed = Installed::new(group)?;
    let Installed { net, objects, .. } = &installed;
    let nodes = [net.node("east")?, net.node("west")?];
    // Now, since the segment may get another hardware address with each machine, which others notice late.
    let machine = net.node("controller")?;
    begun(net, group)?;
    for node in &nodes {
        credentials(net, node, "calico-node")?;
        start(objects, node, "felix")?;
        start(objects, node, "bgp-speaker")?;
    }
    for node in &nodes {
        node.ready("felix", 9099)?;
        node.ready("bgp-speaker", 9097)?;
    }
    let [east, west] = &nodes;
    kubectl(
        net,
        &["create", "secret", "generic", "bgp-secrets", "-n", "kube-system", "--from-literal=rack=sesame"],
        None,
    )?;
    kubectl(net, &["create", "service", "clusterip", "web", "--tcp=80"], None)?;
    calicoctl(east, RESOURCES)?;

    // Pods come and go; more than a block has addresses for.
    let pods = (0..6).map(|number| east.pod(&format!("east-{number}"))).collect::<Result<Vec<_>>>()?;
    let far = Pod::sandbox(west, "west-0")?;
    let result = far.add()?;
    let network = json!({"name": "k8s-pod-network", "cniVersion": "1.0.0"});
    far.exec("CHECK", &network, &json!({"type": "calico", "ipam": {"type": "calico-ipam"}}), Some(&result))?;
    let first = pods.first().context("six pods were asked for")?;
    wait::becomes(PATIENCE, "pods of two nodes reach each other", || {
        Ok(first.ping(far.address()?).is_ok() && far.ping(first.address()?).is_ok())
    })?;
    abandon(net, group)?;
    for pod in pods {
        pod.remove()?;
    }

    // The cluster's type is written anew by the next who starts.
    let information = match group {
        Group::Classic => "clusterinformations.crd.projectcalico.org",
        Group::Native => "clusterinformations.projectcalico.org",
    };
    kubectl(net, &["patch", information, "default", "--type=merge", "-p", "{\"spec\":{\"clusterType\":null}}"], None)?;
    east.terminate("felix")?;
    start(objects, east, "felix")?;
    east.ready("felix", 9099)?;
    installed.all_is_used("calico-node", NODE_NOT_HERE)?;
    for node in &nodes {
        node.check()?;
    }

    // A pod that goes without a word leaves an address; its node, empty blocks.
    credentials(net, &machine, "ipam-controller")?;
    let mut controller = start_controller(net, objects, &machine)?;
    let led = wait::becomes(PATIENCE, "the controller has written its settings", || {
        controller.check()?;
        Ok(deeds(net.directory(), "ipam-controller")?.used.iter().any(|right| right.resource.ends_with("/status")))
    });
    led.with_context(|| controller.last_lines(30))?;
    calicoctl(east, IMPATIENT)?;
    server(net).delete_pod("default", far.name())?;
    for node in &nodes {
        node.terminate("felix")?;
        node.terminate("bgp-speaker")?;
    }
    server(net).delete_node("west")?;
    let used = installed.all_is_used("ipam-controller", CONTROLLER_NOT_HERE);
    controller.check()?;
    used.with_context(|| controller.last_lines(30))
}

#[test]
fn with_the_rights_of_the_manifests_nothing_is_refused_and_nothing_is_left_over() -> Result<()> {
    play(Group::Classic)
}

#[test]
fn in_the_native_group_too() -> Result<()> {
    play(Group::Native)
}
