//! A node: a process tree with namespaces of its own, in which containerd and kubelet sit on their standard paths.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::inhabitant::{Inhabitant, text};
use super::programs::Paths;
use super::{API, Options, Proxy};
use crate::{process, wait};

/// Within what a node's own programs must answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node of the cluster.
#[derive(Debug)]
pub struct Node {
    name: String,
    address: Ipv4Addr,
    cluster: u32,
    state: PathBuf,
    logs: PathBuf,
    environment: Vec<(&'static str, String)>,
    runtime: Option<PathBuf>,
    running: Mutex<Option<(Inhabitant, u32)>>,
}

impl Node {
    /// Node number `number`, not yet booted. Its folder has the certificates already.
    pub(super) fn new(
        number: u8,
        cluster: u32,
        state: &Path,
        logs: &Path,
        paths: &Paths,
        options: &Options,
    ) -> Result<Self> {
        let name = format!("node{number}");
        let address = address(number);
        let folder = state.join("nodes").join(&name);
        let fill = |template: &str| {
            let text = template.replace("@NAME@", &name).replace("@ADDRESS@", &address.to_string());
            text.replace("@NODE@", &folder.display().to_string()).replace("@MODE@", options.proxy.mode())
        };
        fs::write(folder.join("kubelet.yaml"), fill(include_str!("../../cluster/kubelet.yaml")))?;
        fs::write(folder.join("proxy.yaml"), fill(include_str!("../../cluster/proxy.yaml")))?;
        let environment = vec![
            ("NAME", name.clone()),
            ("ADDRESS", address.to_string()),
            ("CGROUP", format!("ocicat-lab-{name}")),
            ("STATE", text(state)),
            ("LOGS", text(logs)),
            ("PROGRAMS", text(&crate::programs::cache())),
            ("KUBELET", text(&paths.kubelet)),
            ("KUBE_PROXY", text(&paths.proxy)),
            ("PROXY", if options.proxy == Proxy::None { "no" } else { "yes" }.to_owned()),
            ("RUNTIME", paths.runtime.as_deref().map(text).unwrap_or_default()),
        ];
        Ok(Self {
            name,
            address,
            cluster,
            state: state.to_owned(),
            logs: logs.to_owned(),
            environment,
            runtime: paths.runtime.clone(),
            running: Mutex::new(None),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the underlay.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its folder: `upper` and `disk` hold every file that it wrote outside of /run and /tmp.
    pub fn folder(&self) -> PathBuf {
        self.state.join("nodes").join(&self.name)
    }

    /// Switches it on, with the disk it had; returns when its containerd answers.
    ///
    /// # Errors
    /// If it does not come up, with its last lines.
    pub fn boot(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            bail!("{} is up already", self.name);
        }
        let mut command = Command::new("bash");
        command.arg(self.state.join("node.sh"));
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        let log = self.logs.join(format!("{}-init.log", self.name));
        let tree = Inhabitant::start(&self.name, self.cluster, &["--mount", "--pid"], &mut command, log)?;
        // Before it becomes the parent of the node's first process, the script has other children.
        let ours = fs::read_link("/proc/self/ns/net")?;
        let pid = wait::until(PATIENCE, &format!("{} has namespaces", self.name), || {
            let pid = tree.pid(1)?;
            let its = fs::read_link(format!("/proc/{pid}/ns/net"))?;
            Ok((its != ours).then_some(pid))
        })
        .with_context(|| tree.words())?;
        let (name, address) = (&self.name, self.address);
        let script = format!(
            "set -e\n\
             ip link delete {name} 2>/dev/null || true\n\
             ip link add {name} type veth peer name eth0 netns {pid}\n\
             ip link set {name} master br0 up\n\
             nsenter --target {pid} --net sh -ec '\n\
               ip link set lo up; ip address add {address}/24 dev eth0; ip link set eth0 up\n\
               ip route add default via {API}'\n"
        );
        let mut network = Command::new("nsenter");
        network.args(["--target", &self.cluster.to_string(), "--net", "sh", "-c", &script]);
        process::run(&mut network).with_context(|| format!("the network of {name}: {}", tree.words()))?;
        *running = Some((tree, pid));
        drop(running);
        wait::becomes(PATIENCE, &format!("containerd of {name} answers"), || {
            self.check()?;
            self.ctr(&["version"]).map(|_| true)
        })
        .with_context(|| format!("{}\n{}", self.words(), self.log("containerd")))
    }

    /// Switches it off as a power loss would: every process of it is gone, and its network; its disk stays.
    ///
    /// # Errors
    /// If it is not up.
    pub fn power_off(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((mut tree, _)) = running.take() else { bail!("{} is not up", self.name) };
        tree.kill(1)?;
        let clean = format!(
            "rm -rf {folder}/pid {folder}/stopped; ls -d /sys/fs/cgroup/ocicat-lab-{name} /sys/fs/cgroup/*/ocicat-lab-{name} \
             2>/dev/null | while read -r top; do find \"$top\" -depth -type d -exec rmdir {{}} + ; done; true",
            folder = self.folder().display(),
            name = self.name
        );
        process::run(Command::new("sh").args(["-c", &clean])).map(drop)
    }

    /// Power loss, and on again; returns when its containerd answers.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub fn reboot(&self) -> Result<()> {
        self.power_off()?;
        self.boot()
    }

    /// A command that will run on it, in its namespaces.
    ///
    /// # Errors
    /// If it is switched off.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid()?.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", program]);
        Ok(command)
    }

    /// How a person gets inside.
    ///
    /// # Errors
    /// If it is switched off.
    pub fn door(&self) -> Result<String> {
        Ok(format!("nsenter --target {} --all", self.pid()?))
    }

    /// Runs a command on it to its end; returns what it printed.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no command was given")?;
        process::run(self.command(program)?.args(arguments)).with_context(|| format!("on {}", self.name))
    }

    /// The path by which this machine sees `path` of the node.
    ///
    /// # Errors
    /// If it is switched off.
    pub fn path(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.pid()?)))
    }

    /// Runs a script of bash on it.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn script(&self, script: &str) -> Result<String> {
        self.run(&["bash", "-c", script])
    }

    /// containerd's command line, in the kubelet's namespace.
    ///
    /// # Errors
    /// If it fails, with what it said.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let program = match &self.runtime {
            Some(folder) => text(&folder.join("ctr")),
            None => "ctr".to_owned(),
        };
        let mut words = vec![program.as_str(), "-n", "k8s.io"];
        words.extend(arguments);
        self.run(&words)
    }

    /// Loads an archive of an image, as `docker save` or an OCI builder writes it.
    ///
    /// # Errors
    /// If containerd refuses it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        // Read here and piped, since the node does not see every file of the machine.
        let mut command = self.command(&match &self.runtime {
            Some(folder) => text(&folder.join("ctr")),
            None => "ctr".to_owned(),
        })?;
        let file = fs::File::open(archive).with_context(|| archive.display().to_string())?;
        command.args(["-n", "k8s.io", "image", "import", "-"]);
        let output = command.stdin(file).stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("{} does not take {}: {}", self.name, archive.display(), said.trim());
        }
        Ok(())
    }

    /// The process of a service (`containerd`, `kubelet`, `kube-proxy`), as the node counts processes.
    ///
    /// # Errors
    /// If it does not run.
    pub fn service(&self, name: &str) -> Result<u32> {
        let path = self.folder().join("pid").join(name);
        let pid = fs::read_to_string(&path).with_context(|| format!("{name} does not run on {}", self.name))?;
        Ok(pid.trim().parse()?)
    }

    /// `kill -9` of a service, which starts again within moments; returns when it has.
    ///
    /// # Errors
    /// If it does not.
    pub fn kill(&self, service: &str) -> Result<()> {
        let old = self.service(service)?;
        self.run(&["kill", "-9", &old.to_string()])?;
        wait::becomes(PATIENCE, &format!("{service} of {} runs again", self.name), || Ok(self.service(service)? != old))
    }

    /// Stops a service until [`Self::start`].
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop(&self, service: &str) -> Result<()> {
        fs::write(self.folder().join("stopped").join(service), "")?;
        let pid = self.service(service)?.to_string();
        self.run(&["kill", &pid])?;
        wait::becomes(PATIENCE, &format!("{service} of {} has stopped", self.name), || {
            Ok(self.run(&["kill", "-0", &pid]).is_err())
        })
    }

    /// Starts a service that was stopped.
    ///
    /// # Errors
    /// If it was not, or does not start.
    pub fn start(&self, service: &str) -> Result<()> {
        fs::remove_file(self.folder().join("stopped").join(service))
            .with_context(|| format!("{service} of {} was not stopped", self.name))?;
        wait::becomes(PATIENCE, &format!("{service} of {} runs", self.name), || Ok(self.service(service).is_ok()))
    }

    /// The first process of the node, as this machine counts processes.
    ///
    /// # Errors
    /// If it is switched off.
    pub fn pid(&self) -> Result<u32> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|(_, pid)| *pid).with_context(|| format!("{} is switched off", self.name))
    }

    /// Fails if its first process has ended.
    pub(super) fn check(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_mut().with_context(|| format!("{} is switched off", self.name))?.0.check()
    }

    /// The last lines of one of its services.
    pub fn log(&self, service: &str) -> String {
        let path = self.logs.join(format!("{}-{service}.log", self.name));
        format!("last lines of {service} on {}:\n{}", self.name, process::last_lines(&path, 20))
    }

    fn words(&self) -> String {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|(tree, _)| tree.words()).unwrap_or_default()
    }
}

/// The address of node number `number`.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 20, 0, 10u8.saturating_add(number))
}
