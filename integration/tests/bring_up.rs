//! A node is brought up against a real API server: what felix waits for, what it leaves, and what Kubernetes is told.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::binaries::Binaries;
use integration::holder::Holder;
use integration::process::Process;
use integration::servers::kubernetes::{ApiServer, Group, Listen};
use integration::{PATIENCE, wait};
use serde_json::{Value, json};

/// A machine with one uplink; its own /run and /var/lib/calico.
struct Machine {
    holder: Holder,
    binaries: Binaries,
    logs: tempfile::TempDir,
}

impl Machine {
    fn new(name: &str) -> Result<Self> {
        let script = format!(
            "mount --make-rprivate /
             hostname {name}
             mount -t tmpfs -o mode=755 ocicat-run /run
             mkdir -p /run/calico /run/ocicat /var/lib/calico
             mount -t tmpfs ocicat-lib /var/lib/calico
             ip link add eth0 type veth peer name wire
             ip link set wire up
             echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
             ip addr add 192.0.2.1/24 dev eth0
             ip addr add 192.0.2.9/25 dev eth0
             ip link set eth0 up
             ip route add default via 192.0.2.254"
        );
        Ok(Self { holder: Holder::new(name, &script)?, binaries: Binaries::find()?, logs: tempfile::tempdir()? })
    }

    fn server(&self) -> Result<ApiServer> {
        ApiServer::start(Listen::LOOPBACK, Some(&self.holder), None)
    }

    fn start(&self, program: &str, variables: &[(&str, &str)]) -> Result<Process> {
        let mut command: Command = self.holder.command(&self.binaries.daemons().join(program).display().to_string());
        command.env_remove("RUST_BACKTRACE").envs(variables.iter().copied());
        Process::start(program, &mut command, self.log(program))
    }

    fn log(&self, program: &str) -> PathBuf {
        self.logs.path().join(format!("{program}.log"))
    }

    fn probe(&self, path: &str) -> Result<(u16, String)> {
        calico_sys::namespace::inside(&self.holder.network()?, || integration::http::get(9099, path))?
    }

    /// Waits until `/readiness` answers with this status and a text that holds all of these.
    fn says(&self, felix: &mut Process, status: u16, parts: &[&str]) -> Result<()> {
        let mut last = String::new();
        wait::becomes(PATIENCE, &format!("/readiness is {status} with {parts:?}"), || {
            felix.check()?;
            let (found, text) = self.probe("/readiness")?;
            let good = found == status && parts.iter().all(|part| text.contains(part));
            last = text;
            Ok(good)
        })
        .with_context(|| format!("it says:\n{last}\n{}", felix.last_lines(15)))?;
        // Whatever it waits for, it is alive.
        ensure!(self.probe("/liveness")?.0 == 200, "it is not live");
        Ok(())
    }
}

fn condition(server: &ApiServer, node: &str) -> Result<Option<Value>> {
    let node = server.request("GET", &format!("/api/v1/nodes/{node}"), &Value::Null)?;
    let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().find(|one| one["type"] == "NetworkUnavailable"))
}

fn becomes_condition(server: &ApiServer, node: &str, status: &str, reason: &str) -> Result<Value> {
    wait::until(PATIENCE, &format!("NetworkUnavailable of {node} is {status} ({reason})"), || {
        Ok(condition(server, node)?.filter(|found| found["status"] == status && found["reason"] == reason))
    })
}

/// What a kubelet or a cloud says of a node's addresses.
fn set_internal_ip(server: &ApiServer, node: &str, address: &str) -> Result<()> {
    let path = format!("/api/v1/nodes/{node}");
    // Read again when felix wrote the Node in between, as a kubelet does.
    wait::until(PATIENCE, "the node's addresses are written", || {
        let mut object = server.request("GET", &path, &Value::Null)?;
        object["status"]["addresses"] =
            json!([{"type": "Hostname", "address": node}, {"type": "InternalIP", "address": address}]);
        match server.request("PUT", &format!("{path}/status"), &object) {
            Ok(_) => Ok(Some(())),
            Err(error) if format!("{error:#}").contains("has been modified") => Ok(None),
            Err(error) => Err(error),
        }
    })
}

fn ipv4_address(server: &ApiServer, node: &str) -> Result<Option<String>> {
    let node = server.request("GET", &format!("/api/v1/nodes/{node}"), &Value::Null)?;
    Ok(node["metadata"]["annotations"]["projectcalico.org/IPv4Address"].as_str().map(str::to_owned))
}

fn resource(server: &ApiServer, plural: &str, name: &str) -> Result<Value> {
    server.request("GET", &format!("/apis/crd.projectcalico.org/v1/{plural}/{name}"), &Value::Null)
}

#[test]
fn a_node_waits_for_what_is_missing_comes_up_and_kubernetes_knows_when_its_network_is_there() -> Result<()> {
    let machine = Machine::new("worker")?;
    let mut server = machine.server()?;
    let kubeconfig = server.kubeconfig().display().to_string();
    let mut variables = vec![
        ("DATASTORE_TYPE", "kubernetes"),
        ("KUBECONFIG", &kubeconfig),
        ("NODENAME", "worker"),
        ("IP", "autodetect"),
        ("IP_AUTODETECTION_METHOD", "kubernetes-internal-ip"),
        ("CLUSTER_TYPE", "k8s,bgp"),
    ];

    // Nothing is prepared: no definitions.
    let mut felix = machine.start("felix", &variables)?;
    machine.says(&mut felix, 503, &["apply the custom resource definitions", "manifests/crds"])?;
    server.create_namespace("kube-system")?;
    let kubeadm = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kubeadm-config"},
        "data": {"ClusterConfiguration": "kind: ClusterConfiguration\nnetworking:\n  podSubnet: 10.80.0.0/16\n"}});
    server.request("POST", "/api/v1/namespaces/kube-system/configmaps", &kubeadm)?;
    server.apply_crds(Group::Classic)?;
    // No such node; then one without an address; then all is there, and the same process goes on.
    machine.says(&mut felix, 503, &["no node worker", "kubectl get nodes"])?;
    server.create_node("worker")?;
    machine.says(&mut felix, 503, &["no InternalIP"])?;
    set_internal_ip(&server, "worker", "192.0.2.9")?;
    machine.says(&mut felix, 200, &["FelixStartup"])?;

    // What it leaves: the second address of its interface, since Kubernetes says so; and kubeadm's network.
    ensure!(ipv4_address(&server, "worker")?.as_deref() == Some("192.0.2.9/25"));
    ensure!(resource(&server, "ippools", "default-ipv4-ippool")?["spec"]["cidr"] == "10.80.0.0/16");
    let cluster = resource(&server, "clusterinformations", "default")?;
    ensure!(cluster["spec"]["clusterType"] == "k8s,bgp,kubeadm,kdd", "{cluster}");
    for plural in ["felixconfigurations", "bgpconfigurations", "ipamconfigs"] {
        resource(&server, plural, "default").context(plural)?;
    }
    let file = |path: &str| fs::read_to_string(machine.holder.inside(path)).ok();
    ensure!(file("/var/lib/calico/nodename").as_deref() == Some("worker"));

    // Without a speaker pods may not come yet; with one they may.
    wait::becomes(PATIENCE, "felix tells what it waits for", || {
        Ok(felix.output()?.contains("the node is not available yet") && felix.output()?.contains("bird.ctl"))
    })?;
    ensure!(condition(&server, "worker")?.is_none());
    let _speaker = machine.start("bgp-speaker", &variables)?;
    let up = becomes_condition(&server, "worker", "False", "CalicoIsUp")?;
    ensure!(up["message"] == "Calico is running on this node", "{up}");

    // Killed and started again: what is so already is not written.
    felix.kill()?;
    felix = machine.start("felix", &variables)?;
    wait::becomes(PATIENCE, "it is available again", || {
        Ok(felix.output()?.matches("the node is available").count() == 2)
    })?;
    ensure!(condition(&server, "worker")? == Some(up));

    // Stopped on purpose: Kubernetes and the file know.
    let start = Instant::now();
    ensure!(felix.terminate()?.success());
    ensure!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
    let down = condition(&server, "worker")?.context("the condition is gone")?;
    ensure!(down["status"] == "True" && down["reason"] == "CalicoIsDown", "{down}");
    ensure!(file("/var/lib/calico/shutdownTS").is_some_and(|time| time.ends_with('Z')));
    felix = machine.start("felix", &variables)?;
    becomes_condition(&server, "worker", "False", "CalicoIsUp")?;
    wait::becomes(PATIENCE, "the file is removed", || Ok(file("/var/lib/calico/shutdownTS").is_none()))?;

    // The node is deleted and made again: all that was written to it is written again.
    server.delete_node("worker")?;
    server.create_node("worker")?;
    set_internal_ip(&server, "worker", "192.0.2.9")?;
    wait::becomes(PATIENCE, "the address is written again", || {
        Ok(ipv4_address(&server, "worker")?.as_deref() == Some("192.0.2.9/25"))
    })
    .with_context(|| felix.last_lines(15))?;
    becomes_condition(&server, "worker", "False", "CalicoIsUp")?;

    // The server is gone: felix lives, and stops in time when it is told to.
    server.kill()?;
    wait::becomes(PATIENCE, "felix notices", || Ok(felix.output()?.contains("the datastore does not answer")))?;
    ensure!(machine.probe("/liveness")?.0 == 200);
    let start = Instant::now();
    ensure!(felix.terminate()?.success());
    ensure!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
    server.restart()?;

    // Pods of the node's own pod CIDR: IPAM's records are not there, and nobody waits for them.
    variables.push(("USE_POD_CIDR", "true"));
    felix = machine.start("felix", &variables)?;
    machine.says(&mut felix, 200, &["in sync"])
}

#[test]
fn a_server_that_answers_500_is_named_and_waited_for() -> Result<()> {
    let machine = Machine::new("worker")?;
    let listener = calico_sys::namespace::inside(&machine.holder.network()?, || TcpListener::bind("127.0.0.1:0"))??;
    let address: SocketAddr = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let body = "etcdserver: no leader";
            let _ = write!(
                stream,
                "HTTP/1.1 500 Internal Server Error\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    let endpoint = format!("http://{address}");
    let variables = [("DATASTORE_TYPE", "kubernetes"), ("K8S_API_ENDPOINT", &*endpoint), ("NODENAME", "worker")];
    let mut felix = machine.start("felix", &variables)?;
    machine.says(&mut felix, 503, &["connect to the datastore", "no leader", "500"])
}
