//! The controller on every store: what leaked goes, what is in use stays, one of two replicas acts and the other takes over.

mod bed;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use calico_api::{
    Key, Kind, KubeControllersConfigurationSpec, Node, NodeSpec, ObjectMeta, OrchRef, PoolUse, WorkloadEndpointSpec,
};
use integration::datastore::Datastore;
use integration::servers::etcd::Etcd;
use integration::servers::kubernetes::{ApiServer, Group, Listen};
use integration::wait;
use serde_json::{Value, json};

use bed::{Bed, GRACE, Replica};

/// How long a leader may be dead before another acts.
const SUCCESSION: Duration = Duration::from_secs(20);

/// What the role in the controller's DESIGN.md says, and nothing more.
fn rules(group: &str) -> Value {
    let config = if group == Group::Classic.api_version() { "ipamconfigs" } else { "ipamconfigurations" };
    let group = group.split('/').next().unwrap_or_default();
    json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [group], "resources": ["ipamblocks", "blockaffinities"],
         "verbs": ["get", "list", "watch", "update", "delete"]},
        {"apiGroups": [group], "resources": ["ipamhandles"], "verbs": ["get", "list", "update", "delete"]},
        {"apiGroups": [group], "resources": ["ippools", "ipreservations", config, "clusterinformations"],
         "verbs": ["list", "watch"]},
        {"apiGroups": [group], "resources": ["kubecontrollersconfigurations"],
         "verbs": ["get", "list", "watch", "create"]},
        {"apiGroups": [group], "resources": ["kubecontrollersconfigurations/status"], "verbs": ["update"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["ipam-controller"],
         "verbs": ["get", "update"]},
    ])
}

/// A kubeconfig of a service account that has the controller's rights; returns its text.
fn account(server: &ApiServer, group: Group) -> Result<String> {
    let rbac = "rbac.authorization.k8s.io";
    server.create_namespace("kube-system")?;
    let accounts = "/api/v1/namespaces/kube-system/serviceaccounts";
    server.request("POST", accounts, &json!({"metadata": {"name": "ipam-controller"}}))?;
    server.request(
        "POST",
        &format!("/apis/{rbac}/v1/clusterroles"),
        &json!({"metadata": {"name": "ipam-controller"}, "rules": rules(group.api_version())}),
    )?;
    server.request(
        "POST",
        &format!("/apis/{rbac}/v1/clusterrolebindings"),
        &json!({
        "metadata": {"name": "ipam-controller"},
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "ipam-controller"},
        "subjects": [{"kind": "ServiceAccount", "name": "ipam-controller", "namespace": "kube-system"}]}),
    )?;
    let issued = server.request(
        "POST",
        &format!("{accounts}/ipam-controller/token"),
        &json!({"spec": {"expirationSeconds": 3600}}),
    )?;
    let token = issued["status"]["token"].as_str().context("no token was issued")?;
    let admin = std::fs::read_to_string(server.kubeconfig())?;
    let mut config: Value = calico_api::yaml::parse(&admin)?;
    config["users"][0]["user"] = json!({"token": token});
    Ok(config.to_string())
}

/// Says what kubelet says of a pod.
fn patch_status(server: &ApiServer, pod: &str, status: &Value) -> Result<()> {
    let path = format!("/api/v1/namespaces/default/pods/{pod}/status");
    let mut object = server.request("GET", &format!("/api/v1/namespaces/default/pods/{pod}"), &Value::Null)?;
    object["status"] = status.clone();
    server.request("PUT", &path, &object).map(drop)
}

/// Which of two leads, by the Lease.
fn leader<'a>(server: &ApiServer, replicas: &'a [Replica]) -> Result<Option<&'a Replica>> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/ipam-controller";
    let Ok(lease) = server.request("GET", path, &Value::Null) else { return Ok(None) };
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
    Ok(replicas.iter().find(|it| holder.contains(&format!("_{}_", it.process.pid()))))
}

fn on_kubernetes(group: Group) -> Result<()> {
    let server = ApiServer::start(Listen::LOOPBACK, None, None)?;
    server.apply_crds(group)?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("controller.kubeconfig");
    std::fs::write(&kubeconfig, account(&server, group)?)?;
    let mut bed = Bed::new(&Datastore::Kubernetes { kubeconfig: server.kubeconfig() }, folder)?;
    bed.set("KUBECONFIG", kubeconfig.display().to_string());
    for node in ["east", "west"] {
        server.create_node(node)?;
    }

    // A pod that stays; one that went while its node's agent was dead; one that has finished; one whose sandbox was made
    // anew and whose kubelet still shows the old address; one that begins; a tunnel; a handle of a failed ADD.
    for (pod, node) in
        [("stays", "east"), ("leaks", "east"), ("job", "west"), ("anew", "east"), ("begins", "west"), ("last", "west")]
    {
        server.create_pod("default", pod, node)?;
    }
    let stays = bed.take("east", "stays", "c1")?;
    bed.show("east", "stays", "c1", &stays)?;
    let leaks = bed.take("east", "leaks", "c2")?;
    bed.show("east", "leaks", "c2", &leaks)?;
    let job = bed.take("west", "job", "c3")?;
    bed.show("west", "job", "c3", &job)?;
    let old = bed.take("east", "anew", "c4")?;
    let ips: Vec<Value> = old.iter().map(|address| json!({"ip": address.to_string()})).collect();
    patch_status(&server, "anew", &json!({"phase": "Running", "podIP": old[0].to_string(), "podIPs": ips}))?;
    let new = bed.take("east", "anew", "c5")?;
    bed.show("east", "anew", "c5", &new)?;
    let begins = bed.take("west", "begins", "c6")?;
    let last = bed.take("west", "last", "c7")?;
    bed.show("west", "last", "c7", &last)?;
    let tunnel = bed.assign(
        "west",
        "vxlan-tunnel-addr-west",
        PoolUse::Tunnel,
        &[("node", "west"), ("type", "vxlanTunnelAddress")],
    )?;
    let unknown = bed.assign("east", "somebody-elses", PoolUse::Workload, &[("node", "east"), ("owner", "unknown")])?;
    let mut orphan =
        calico_api::IPAMHandle::new(ObjectMeta::named("k8s-pod-network.c0"), ipam::handle::new("k8s-pod-network.c0"));
    ipam::handle::add(&mut orphan.spec, &bed.blocks()?[0].spec.cidr, 1);
    bed.block_on(bed.store.create(&orphan))?;
    let in_use = [&stays, &new, &begins, &tunnel, &unknown];
    let used = || in_use.iter().flat_map(|it| it.iter()).copied();
    let nothing_lost =
        || -> Result<bool> { used().try_fold(true, |all, address| Ok(all && bed.holder(address)?.is_some())) };

    let mut replicas = vec![bed.start()?, bed.start()?];
    let all: Vec<&Replica> = replicas.iter().collect();
    bed.becomes("one leads", &all, || Ok(leader(&server, &replicas)?.is_some()))?;
    server.delete_pod("default", "leaks")?;
    patch_status(&server, "job", &json!({"phase": "Succeeded"}))?;
    bed.released("the address of the pod that went", &leaks, &all)?;
    bed.released("the address of the pod that finished", &job, &all)?;
    bed.becomes("the handles are gone", &all, || {
        let handles = bed.handles()?;
        Ok(["c0", "c2", "c3"].iter().all(|container| !handles.iter().any(|it| it.ends_with(&format!(".{container}")))))
    })?;
    // The old sandbox's address is the pod's as long as kubelet says so, and no longer.
    ensure!(bed.holder(old[0])?.is_some() && nothing_lost()?, "an address in use was released");
    let ips: Vec<Value> = new.iter().map(|address| json!({"ip": address.to_string()})).collect();
    patch_status(&server, "anew", &json!({"phase": "Running", "podIP": new[0].to_string(), "podIPs": ips}))?;
    bed.released("the address of the old sandbox", &old, &all)?;

    // One acted, and the other did not.
    let holder = leader(&server, &replicas)?.context("nobody leads")?.process.pid();
    for replica in &replicas {
        let acts = replica.process.pid() == holder;
        ensure!(replica.has_said("leaked address released")? == acts, "{}", replica.process.last_lines(20));
        ensure!(
            !replica.has_said("refuses")? && !replica.has_said("unauthorized")?,
            "{}",
            replica.process.last_lines(40)
        );
    }
    let settings = bed.block_on(
        bed.store.get::<KubeControllersConfigurationSpec>(&Key::named(Kind::KubeControllersConfiguration, "default")),
    )?;
    let running =
        settings.status.and_then(|status| status.running_config).context("no running configuration is shown")?;
    ensure!(running.controllers.node.and_then(|node| node.leak_grace_period).as_deref() == Some("3s"));

    // The leader dies.
    let position = replicas.iter().position(|it| it.process.pid() == holder).context("it is one of them")?;
    let mut dead = replicas.remove(position);
    dead.process.kill()?;
    let died = Instant::now();
    wait::becomes(SUCCESSION, "the other leads", || Ok(leader(&server, &replicas)?.is_some()))
        .context(replicas[0].process.last_lines(20))?;
    let took = died.elapsed();
    server.delete_pod("default", "last")?;
    let all: Vec<&Replica> = replicas.iter().collect();
    bed.released("a leak after the succession", &last, &all)?;
    ensure!(nothing_lost()?, "an address in use was released");

    // A node is deleted, and its pods with it, as Kubernetes' own collector does.
    server.delete_node("west")?;
    wait::stays(GRACE, "the pod of the deleted node keeps its address", || Ok(bed.holder(begins[0])?.is_some()))?;
    server.delete_pod("default", "begins")?;
    server.delete_pod("default", "job")?;
    bed.released("what the node's pod had", &begins, &all)?;
    bed.released("the node's tunnel", &tunnel, &all)?;
    bed.becomes("the node's blocks are gone", &all, || Ok(bed.claims("west")? == (0, 0)))?;
    for address in stays.iter().chain(&new).chain(&unknown) {
        ensure!(bed.holder(*address)?.is_some(), "{address} was in use");
    }
    eprintln!("the other led after {took:?}");

    // A leader that stops is followed at once.
    let third = bed.start()?;
    bed.becomes("the third is in sync", &[&third], || third.has_said("health and metrics"))?;
    let stopped = Instant::now();
    replicas[0].process.terminate()?;
    let third = [third];
    wait::becomes(Duration::from_secs(10), "the third leads", || Ok(leader(&server, &third)?.is_some()))?;
    eprintln!("after a stop: {:?}", stopped.elapsed());
    Ok(())
}

#[test]
fn on_kubernetes_in_the_classic_group() -> Result<()> {
    on_kubernetes(Group::Classic)
}

#[test]
fn on_kubernetes_in_the_native_group() -> Result<()> {
    on_kubernetes(Group::Native)
}

/// Where there is no Kubernetes: endpoints and nodes of the store are all there is.
fn alone(datastore: &Datastore, folder: tempfile::TempDir) -> Result<()> {
    let bed = Bed::new(datastore, folder)?;
    for node in ["east", "west"] {
        bed.create_node(node)?;
    }
    let stays = bed.take("east", "stays", "c1")?;
    bed.show("east", "stays", "c1", &stays)?;
    let leaks = bed.take("east", "leaks", "c2")?;
    let endpoint = bed.show("east", "leaks", "c2", &leaks)?;
    let west = bed.take("west", "web", "c3")?;
    bed.show("west", "web", "c3", &west)?;
    let first = bed.start()?;
    bed.becomes("it leads", &[&first], || first.has_said("this replica leads"))?;
    let second = bed.start()?;
    bed.becomes("the second waits", &[&second], || second.has_said("health and metrics"))?;
    bed.block_on(bed.store.delete_key(&endpoint))?;
    bed.released("the address without an endpoint", &leaks, &[&first])?;
    ensure!(bed.holder(stays[0])?.is_some() && bed.holder(west[0])?.is_some());
    ensure!(!second.has_said("this replica leads")?, "two lead");

    let mut first = first;
    first.process.kill()?;
    wait::becomes(SUCCESSION, "the second leads", || second.has_said("this replica leads"))
        .with_context(|| second.process.last_lines(20))?;
    bed.delete_node("west")?;
    bed.released("what a deleted node's endpoint had", &west, &[&second])?;
    bed.becomes("nothing is left of the node", &[&second], || {
        let endpoints = bed.block_on(bed.store.list::<WorkloadEndpointSpec>(&calico_datastore::Filter::All))?.items;
        Ok(bed.claims("west")? == (0, 0) && endpoints.iter().all(|it| it.spec.node != "west"))
    })?;
    ensure!(bed.holder(stays[0])?.is_some(), "an address in use was released");
    Ok(())
}

#[test]
fn on_sqlite() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let datastore = Datastore::Sqlite(folder.path().join("ocicat.db"));
    alone(&datastore, folder)
}

#[test]
fn on_etcd() -> Result<()> {
    let etcd = Etcd::local()?;
    alone(&Datastore::Etcd { endpoints: etcd.url() }, tempfile::tempdir()?)
}

#[test]
fn on_etcd_with_kubernetes_beside_it() -> Result<()> {
    let etcd = Etcd::local()?;
    let server = ApiServer::start(Listen::LOOPBACK, None, None)?;
    let mut bed = Bed::new(&Datastore::Etcd { endpoints: etcd.url() }, tempfile::tempdir()?)?;
    bed.set("KUBECONFIG", server.kubeconfig().display().to_string());
    for node in ["east", "west"] {
        server.create_node(node)?;
        let spec = NodeSpec {
            orch_refs: vec![OrchRef { node_name: Some(node.into()), orchestrator: "k8s".into() }],
            ..NodeSpec::default()
        };
        bed.block_on(bed.store.create(&Node::new(ObjectMeta::named(format!("{node}-calico")), spec)))?;
    }
    // Of this one Kubernetes knows nothing.
    bed.create_node("router")?;
    let mut have = Vec::new();
    for (pod, node, container) in [("stays", "east", "c1"), ("leaks", "east", "c2"), ("web", "west", "c3")] {
        server.create_pod("default", pod, node)?;
        let node = format!("{node}-calico");
        let addresses = bed.take(&node, pod, container)?;
        bed.show(&node, pod, container, &addresses)?;
        let ips: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
        patch_status(&server, pod, &json!({"phase": "Running", "podIP": addresses[0].to_string(), "podIPs": ips}))?;
        have.push(addresses);
    }
    let controller = bed.start()?;
    let label = |name: &str| -> Result<Option<String>> {
        let node = bed.block_on(bed.store.get::<NodeSpec>(&Key::named(Kind::Node, name)))?;
        Ok(node.metadata.labels.get("kubernetes.io/hostname").cloned())
    };
    bed.becomes("labels are copied", &[&controller], || Ok(label("east-calico")?.as_deref() == Some("east")))?;
    server.delete_pod("default", "leaks")?;
    bed.released("the address of the pod that went", &have[1], &[&controller])?;
    server.delete_node("west")?;
    server.delete_pod("default", "web")?;
    bed.becomes("Calico's node is gone, and what it had", &[&controller], || {
        let nodes = bed.block_on(bed.store.list::<NodeSpec>(&calico_datastore::Filter::All))?.items;
        let mut names: Vec<&str> = nodes.iter().map(Node::name).collect();
        names.sort_unstable();
        let endpoints = bed.block_on(bed.store.list::<WorkloadEndpointSpec>(&calico_datastore::Filter::All))?.items;
        Ok(names == ["east-calico", "router"] && bed.claims("west-calico")? == (0, 0) && endpoints.len() == 1)
    })?;
    ensure!(bed.holder(have[0][0])?.is_some(), "an address in use was released");
    ensure!(bed.path().exists());
    Ok(())
}
