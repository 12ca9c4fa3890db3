//! A real kube-apiserver with its etcd: built once, started in seconds, gone with its owner.
//!
//! There is no kubelet and no controller behind it. Whoever starts it plays them: makes nodes, binds pods, deletes them.

mod admin;
mod build;
mod objects;
mod pki;
mod starter;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use self::admin::Admin;
pub use self::build::{Paths, ensure_built};
pub use self::objects::Group;
use self::starter::Starter;
use crate::holder::Holder;
use crate::process::Process;
use crate::wait;

/// Within what the API server must be ready; it takes some three seconds on a machine that does nothing else.
const READY: Duration = Duration::from_secs(90);

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// The address.
    pub address: IpAddr,
    /// The port of the API; a free one if absent.
    pub port: Option<u16>,
}

impl Listen {
    /// Any free port of the loopback interface.
    pub const LOOPBACK: Self = Self { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: None };
}

/// A running kube-apiserver and its etcd.
#[derive(Debug)]
pub struct ApiServer {
    // In this order: the clients go first, the folder last.
    admin: Admin,
    apiserver: Process,
    etcd: Process,
    launch: Arc<Launch>,
    starter: Starter,
    _broom: Option<Broom>,
    _own: Option<TempDir>,
}

/// What it takes to start the two, and to start them again.
#[derive(Debug)]
struct Launch {
    paths: Paths,
    directory: PathBuf,
    api: SocketAddr,
    etcd: u16,
    /// The process in whose network namespace they run.
    inside: Option<u32>,
}

impl ApiServer {
    /// Builds what is not built, and starts both: in the network namespace of `inside` if given, with their files in
    /// `directory` or else in a temporary one. Returns when the API is ready.
    ///
    /// # Errors
    /// If something cannot be built or started; the text has the last lines of what failed.
    pub fn start(listen: Listen, inside: Option<&Holder>, directory: Option<&Path>) -> Result<Self> {
        let paths = ensure_built()?;
        let own = match directory {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("ocicat-kube-").tempdir().context("no temporary folder")?),
        };
        let broom = own.as_ref().map(|own| Broom::new(own.path())).transpose()?;
        let directory = match (directory, &own) {
            (Some(directory), _) => directory.join("kubernetes"),
            (None, Some(own)) => own.path().to_owned(),
            (None, None) => unreachable!("one of the two was just made"),
        };
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let ports = match inside {
            None => free_ports(listen.address)?,
            Some(holder) => calico_sys::namespace::inside(holder.network()?, || free_ports(listen.address))??,
        };
        let api = SocketAddr::new(listen.address, listen.port.unwrap_or(ports.0));
        let launch = Arc::new(Launch { paths, directory, api, etcd: ports.1, inside: inside.map(Holder::pid) });

        let identity = pki::write(&launch.directory, api.ip())?;
        let kubeconfig = launch.directory.join("admin.kubeconfig");
        std::fs::write(&kubeconfig, identity.kubeconfig(api)).with_context(|| kubeconfig.display().to_string())?;
        let starter = Starter::new()?;
        let etcd = starter.run(&launch, Launch::start_etcd)?;
        let apiserver = starter.run(&launch, Launch::start_apiserver)?;
        let network = inside.map(Holder::network).transpose()?;
        let admin = Admin::new(&kubeconfig, network)?;
        let mut server = Self { admin, apiserver, etcd, launch, starter, _broom: broom, _own: own };
        server.wait()?;
        Ok(server)
    }

    /// The kubeconfig of an administrator; it holds its certificates, and can be read anywhere.
    pub fn kubeconfig(&self) -> PathBuf {
        self.launch.directory.join("admin.kubeconfig")
    }

    /// Where the API is.
    pub fn url(&self) -> String {
        format!("https://{}", self.launch.api)
    }

    /// One request as an administrator: `body` is sent if it is not null. Returns the answer's object.
    ///
    /// # Errors
    /// If the server does not answer, or refuses; the text has its words.
    pub fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.admin.request(method, path, "application/json", body)
    }

    /// What a path answers with that is not JSON.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn text(&self, path: &str) -> Result<String> {
        self.admin.text(path)
    }

    /// Kills the API server; its etcd stays.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<()> {
        self.apiserver.kill()
    }

    /// Starts the API server again, after [`Self::kill`], where it was; returns when it is ready.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.apiserver = self.starter.run(&self.launch, Launch::start_apiserver)?;
        self.wait()
    }

    /// Waits for the API, and for the namespaces that every cluster has.
    fn wait(&mut self) -> Result<()> {
        let Self { admin, apiserver, etcd, .. } = self;
        let mut ended = None;
        let ready = wait::becomes(READY, "the API server is ready", || {
            if let Err(error) = etcd.check().and_then(|()| apiserver.check()) {
                ended = Some(error);
                return Ok(true);
            }
            admin.text("/readyz")?;
            admin.text("/api/v1/namespaces/default")?;
            Ok(true)
        });
        if let Some(error) = ended {
            return Err(error);
        }
        ready.with_context(|| format!("kube-apiserver's last lines:\n{}", apiserver.last_lines(15)))
    }
}

impl Launch {
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(pid) = self.inside {
            command.args(["nsenter", &format!("--net=/proc/{pid}/ns/net")]);
        }
        command.arg("--").arg(program);
        command
    }

    fn start_etcd(&self) -> Result<Process> {
        let client = format!("http://127.0.0.1:{}", self.etcd);
        let mut command = self.command(&self.paths.etcd);
        command.current_dir(&self.directory); // where it makes the socket that it would talk to other members by
        command.arg("--data-dir").arg(self.directory.join("etcd"));
        command.args(["--name", "lab", "--unsafe-no-fsync", "--snapshot-count=10000"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", "unix://peer:1", "--initial-advertise-peer-urls", "http://localhost:2380"]);
        command.args(["--initial-cluster", "lab=http://localhost:2380"]);
        Process::start("etcd (of kube-apiserver)", &mut command, self.directory.join("etcd.log"))
    }

    fn start_apiserver(&self) -> Result<Process> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut command = self.command(&self.paths.apiserver);
        command.args(["--etcd-servers", &format!("http://127.0.0.1:{}", self.etcd)]);
        command.args(["--bind-address", &self.api.ip().to_string(), "--secure-port", &self.api.port().to_string()]);
        command.args(["--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16"]);
        command.args(["--tls-cert-file", &file("apiserver.crt"), "--tls-private-key-file", &file("apiserver.key")]);
        command.args(["--client-ca-file", &file("ca.crt"), "--authorization-mode=Node,RBAC"]);
        command.args(["--service-account-issuer=https://kubernetes.default.svc.cluster.local"]);
        command.args(["--service-account-key-file", &file("service-account.pub")]);
        command.args(["--service-account-signing-key-file", &file("service-account.key")]);
        // Nobody is here to make service accounts and their tokens, without which no pod would be admitted.
        command.args([
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
            "--profiling=false",
            "--v=1",
        ]);
        // Whoever put a policy there wants to know who asks for what.
        if self.directory.join("audit-policy.yaml").exists() {
            command.args(["--audit-policy-file", &file("audit-policy.yaml"), "--audit-log-path", &file("audit.log")]);
        }
        Process::start("kube-apiserver", &mut command, self.directory.join("kube-apiserver.log"))
    }
}

/// Two ports of an address that nobody listens on: one of the address, one of the loopback interface.
fn free_ports(address: IpAddr) -> Result<(u16, u16)> {
    let first =
        TcpListener::bind((address, 0)).with_context(|| format!("{address} is none of this network's addresses"))?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}

/// Removes a folder when we die however we die: it reads from a pipe that only we hold.
#[derive(Debug)]
struct Broom(Child);

impl Broom {
    fn new(path: &Path) -> Result<Self> {
        // Servers killed at the same moment may still be writing when the first attempt runs.
        let script = "cat; rm -rf -- \"$1\" || { sleep 1; rm -rf -- \"$1\"; }";
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", script, "broom"]).arg(path);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.context("cannot start setsid (package util-linux)")?))
    }
}

impl Drop for Broom {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
