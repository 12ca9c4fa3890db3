//! A real cluster on one machine: the control plane in one network namespace, each node a process tree of its own, with
//! real kubelets and containerds.
//!
//! Everything lives in one PID namespace whose first process reads from a pipe that only its maker holds: when the maker
//! ends, however it ends, the kernel kills all of it, and a keeper outside removes the files and cgroups. There is one
//! cluster at a time on a machine (see [`STATE`]).

mod archive;
mod control;
mod e2e;
mod images;
mod inhabitant;
mod keeper;
mod node;
mod ocicat;
mod pki;
mod pods;
mod programs;
pub mod rights;
mod traces;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use self::e2e::{CONFORMANCE, CONFORMANCE_SPECS, Failure, Outcome};
pub use self::images::{Images, PAUSE, agnhost_tag};
pub use self::keeper::{STATE, down};
pub use self::node::Node;
pub use self::ocicat::{IMAGE, image};
pub use self::pods::{Pings, Pod, ping_all};
pub use self::traces::Traces;

use self::control::ControlPlane;
use self::keeper::Keeper;
use self::programs::Paths;
use crate::{process, wait};

/// The address of the API server and of the nodes' gateway.
pub const API: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);

/// Within what nodes become ready and pods run, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// What gives pods their network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cni {
    /// The plugins `ptp` and `host-local`, with routes made by hand.
    Ptp,
    /// Nothing: nodes are not ready until something is installed.
    None,
}

/// What makes Services work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// kube-proxy with nftables.
    Nftables,
    /// kube-proxy with iptables.
    Iptables,
    /// Nothing.
    None,
}

impl Proxy {
    fn mode(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables | Self::None => "nftables",
        }
    }
}

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Containerd {
    /// The distribution's: 1.6.
    Debian,
    /// 2, built from its Go module.
    V2,
}

/// What kind of cluster is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many nodes; twelve at most, unless the machine's `fs.inotify.max_user_instances` is raised.
    pub nodes: u8,
    /// What gives pods their network.
    pub cni: Cni,
    /// What makes Services work.
    pub proxy: Proxy,
    /// What runs containers.
    pub containerd: Containerd,
    /// Whether the API server writes [`Cluster::audit_log`].
    pub audit: bool,
    /// What pods can run.
    pub images: Images,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            cni: Cni::None,
            proxy: Proxy::Nftables,
            containerd: Containerd::Debian,
            audit: false,
            images: Images::Small,
        }
    }
}

/// A running cluster; gone when dropped, unless [kept](Self::keep).
#[derive(Debug)]
pub struct Cluster {
    control: Mutex<ControlPlane>,
    nodes: Vec<Node>,
    kubectl: PathBuf,
    logs: PathBuf,
    // Last: its end is everything's end.
    keeper: Keeper,
}

/// Builds what a cluster of this kind needs, where it is missing: the first time this takes minutes, and says so on
/// standard error. [`Cluster::start`] would do it as well.
///
/// # Errors
/// If something cannot be built here; the text says what to install.
pub fn prepare(options: &Options) -> Result<()> {
    Paths::ensure(options)?;
    images::ensure(options.images)?;
    if options.images != Images::Small {
        crate::programs::ensure_built(crate::programs::END_TO_END)?;
    }
    Ok(())
}

impl Cluster {
    /// Builds what is not built, removes what an earlier cluster left, and starts one; returns when the API is ready
    /// and the nodes have their images. With [`Cni::Ptp`] the nodes are ready as well.
    ///
    /// # Errors
    /// If there is a cluster already, or something does not start; the text has the last lines of what failed.
    pub fn start(options: &Options) -> Result<Self> {
        let paths = Paths::ensure(options)?;
        let archives = images::ensure(options.images)?;
        let logs = logs();
        // An earlier one's are overwritten only when this one has the lock.
        let early = tempfile::NamedTempFile::new().context("no temporary file")?;
        let keeper = Keeper::start(early.path())?;
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        let state = Path::new(STATE);
        for (name, content) in [
            ("node.sh", include_str!("../../cluster/node.sh")),
            ("node-init.sh", include_str!("../../cluster/node-init.sh")),
            ("containerd.toml", include_str!("../../cluster/containerd.toml")),
            ("audit.yaml", include_str!("../../cluster/audit.yaml")),
        ] {
            fs::write(state.join(name), content).with_context(|| state.join(name).display().to_string())?;
        }
        let init = keeper.init();
        let network = format!(
            "set -e; ip link add br0 type bridge; ip address add {API}/24 dev br0; ip link set br0 up; \
             echo 1 > /proc/sys/net/ipv4/ip_forward"
        );
        process::run(Command::new("nsenter").args([
            "--target",
            &init.to_string(),
            "--net",
            "--mount",
            "sh",
            "-c",
            &network,
        ]))?;
        let pki = pki::Pki::write(&state.join("pki"))?;
        let nodes = (1..=options.nodes)
            .map(|number| {
                let folder = state.join("nodes").join(format!("node{number}"));
                fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
                let node = Node::new(number, init, state, &logs, &paths, options)?;
                pki.node(node.name(), node.address(), &folder)?;
                Ok(node)
            })
            .collect::<Result<Vec<_>>>()?;
        let control = std::thread::scope(|scope| {
            let booting: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let archives = &archives;
                    scope.spawn(move || {
                        node.boot()?;
                        archives.iter().try_for_each(|archive| node.import(archive))
                    })
                })
                .collect();
            let control = ControlPlane::start(init, &paths, state, &logs, options.audit);
            for thread in booting {
                thread.join().map_err(|_| anyhow::anyhow!("the thread panicked")).flatten()?;
            }
            control
        })?;
        let cluster = Self { control: Mutex::new(control), nodes, kubectl: paths.kubectl, logs, keeper };
        let kubectl = format!("#!/bin/sh\nexec {} \"$@\"\n", cluster.kubectl_door());
        fs::write(self::kubectl(), kubectl)?;
        process::run(Command::new("chmod").arg("755").arg(self::kubectl()))?;
        if options.cni == Cni::Ptp {
            cluster.ptp()?;
            cluster.ready()?;
        }
        Ok(cluster)
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node: `node1` and so on.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("there is no node {name}"))
    }

    /// A command that will run in the network of the control plane, seeing the files of the machine.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.init().to_string(), "--net", "--"]).arg(program.as_ref());
        command
    }

    /// kubectl as the administrator, to its end; returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        process::run(self.command(&self.kubectl).arg("--kubeconfig").arg(kubeconfig()).args(arguments))
    }

    /// What `kubectl … --output=json` prints.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut words = vec!["get", "--output=json"];
        words.extend(arguments);
        serde_json::from_str(&self.kubectl(&words)?).context("kubectl's answer is not JSON")
    }

    /// `kubectl apply` of documents.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn apply(&self, documents: &str) -> Result<String> {
        use std::io::Write as _;
        let mut command = self.command(&self.kubectl);
        command.arg("--kubeconfig").arg(kubeconfig()).args(["apply", "--filename=-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // Of one that ends before it has read, the output says why.
        let _ = child.stdin.take().context("its input was to be written")?.write_all(documents.as_bytes());
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("kubectl apply: {}{said}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    /// Loads an archive of an image into every node.
    ///
    /// # Errors
    /// If a node's containerd refuses it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| node.import(archive))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow::anyhow!("the thread panicked")).flatten())
        })
    }

    /// Waits until every node is Ready.
    ///
    /// # Errors
    /// If one is not in time, with what it says and the end of its kubelet's log.
    pub fn ready(&self) -> Result<()> {
        for node in &self.nodes {
            wait::becomes(PATIENCE, &format!("{} is Ready", node.name()), || {
                let object = self.get(&["node", node.name()])?;
                let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
                match ready {
                    Some(ready) if ready["status"] == "True" => Ok(true),
                    Some(ready) => bail!("{}", ready["message"].as_str().unwrap_or_default()),
                    None => Ok(false),
                }
            })
            .with_context(|| node.log("kubelet"))?;
        }
        Ok(())
    }

    /// Kills the API server; its etcd stays.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stop_apiserver(&self) -> Result<()> {
        self.control().stop_apiserver()
    }

    /// Starts the API server again, after [`Self::stop_apiserver`]; returns when it is ready.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn start_apiserver(&self) -> Result<()> {
        self.control().start_apiserver()
    }

    /// `kill -9` of the API server, and a new one.
    ///
    /// # Errors
    /// If it does not become ready.
    pub fn restart_apiserver(&self) -> Result<()> {
        self.stop_apiserver()?;
        self.start_apiserver()
    }

    /// Fails if a program of the control plane or a node's first process has ended.
    ///
    /// # Errors
    /// With its last words.
    pub fn check(&self) -> Result<()> {
        self.control().check()?;
        self.nodes.iter().try_for_each(Node::check)
    }

    /// Where the logs of all programs are. They stay until the next cluster.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The API server's audit log: one JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.logs.join("audit.log")
    }

    /// What a person types before the arguments of kubectl.
    pub fn kubectl_door(&self) -> String {
        format!(
            "nsenter --target {} --net {} --kubeconfig {}",
            self.keeper.init(),
            self.kubectl.display(),
            kubeconfig().display()
        )
    }

    /// Lets it outlive this process; [`down`] takes it down.
    ///
    /// # Errors
    /// If its keeper is gone.
    pub fn keep(self) -> Result<()> {
        self.keeper.keep()
    }

    /// The first process of its namespaces, as this machine counts processes.
    pub fn pid(&self) -> u32 {
        self.keeper.init()
    }

    fn control(&self) -> std::sync::MutexGuard<'_, ControlPlane> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives every node ptp and host-local on a range of its own, and the control plane the routes to them, over which
    /// the nodes reach each other too.
    fn ptp(&self) -> Result<()> {
        for (number, node) in (1u8..).zip(&self.nodes) {
            let list = serde_json::json!({
                "cniVersion": "1.0.0",
                "name": "lab",
                "plugins": [
                    {"type": "ptp", "ipam": {
                        "type": "host-local", "subnet": format!("10.244.{number}.0/24"), "routes": [{"dst": "0.0.0.0/0"}],
                    }},
                    {"type": "portmap", "capabilities": {"portMappings": true}},
                ],
            });
            fs::write(node.path("/etc/cni/net.d/10-lab.conflist")?, list.to_string())?;
            let (range, via) = (format!("10.244.{number}.0/24"), node.address().to_string());
            process::run(self.command("ip").args(["route", "replace", &range, "via", &via]))?;
        }
        Ok(())
    }
}

/// The kubeconfig of an administrator. The address in it exists in the cluster's network only.
pub fn kubeconfig() -> PathBuf {
    Path::new(STATE).join("pki/admin.kubeconfig")
}

/// A script that is kubectl in the cluster's network, with that kubeconfig.
pub fn kubectl() -> PathBuf {
    Path::new(STATE).join("kubectl")
}

/// Where the logs of the last cluster are.
fn logs() -> PathBuf {
    crate::programs::workspace().join("target/lab/cluster-logs")
}
