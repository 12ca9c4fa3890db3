//! The control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::API;
use super::inhabitant::{Inhabitant, text};
use super::programs::Paths;
use crate::process;
use crate::wait;

/// Within what the API server must be ready; it takes some three seconds on a machine that does nothing else.
const READY: Duration = Duration::from_secs(120);

/// The running control plane.
#[derive(Debug)]
pub(super) struct ControlPlane {
    init: u32,
    paths: Paths,
    state: PathBuf,
    logs: PathBuf,
    audit: bool,
    etcd: Inhabitant,
    apiserver: Inhabitant,
    /// Absent only while the control plane is being started.
    others: Vec<Inhabitant>,
}

impl ControlPlane {
    /// Starts it in the cluster's namespaces; returns when the API is ready and the others are started.
    pub(super) fn start(init: u32, paths: &Paths, state: &Path, logs: &Path, audit: bool) -> Result<Self> {
        let inside = |name: &str, command: &mut Command| {
            Inhabitant::start(name, init, NAMESPACES, command, logs.join(format!("{name}.log")))
        };
        let etcd = inside("etcd", &mut etcd(paths, state))?;
        let apiserver = inside("kube-apiserver", &mut apiserver(paths, state, logs, audit))?;
        let mut plane = Self {
            init,
            paths: paths.clone(),
            state: state.to_owned(),
            logs: logs.to_owned(),
            audit,
            etcd,
            apiserver,
            others: Vec::new(),
        };
        plane.wait()?;
        let file = |name: &str| text(&state.join("pki").join(name));
        let kubeconfig = file("controller-manager.kubeconfig");
        let mut manager = Command::new(&paths.controller_manager);
        manager.args(["--kubeconfig", &kubeconfig, "--use-service-account-credentials"]);
        manager.args(["--authentication-kubeconfig", &kubeconfig, "--authorization-kubeconfig", &kubeconfig]);
        manager.args(["--service-account-private-key-file", &file("service-account.key")]);
        manager.args(["--root-ca-file", &file("ca.crt"), "--cluster-signing-cert-file", &file("ca.crt")]);
        manager.args(["--cluster-signing-key-file", &file("ca.key"), "--leader-elect=false"]);
        // By default it makes twenty pods a second, whatever the network could do.
        manager.args(["--kube-api-qps=500", "--kube-api-burst=1000", "--bind-address=127.0.0.1", "--v=1"]);
        let kubeconfig = file("scheduler.kubeconfig");
        let mut scheduler = Command::new(&paths.scheduler);
        scheduler.args(["--kubeconfig", &kubeconfig, "--leader-elect=false"]);
        scheduler.args(["--authentication-kubeconfig", &kubeconfig, "--authorization-kubeconfig", &kubeconfig]);
        scheduler.args(["--kube-api-qps=500", "--kube-api-burst=1000", "--bind-address=127.0.0.1", "--v=1"]);
        plane.others.push(inside("kube-controller-manager", &mut manager)?);
        plane.others.push(inside("kube-scheduler", &mut scheduler)?);
        Ok(plane)
    }

    /// Kills the API server; its etcd stays.
    pub(super) fn stop_apiserver(&mut self) -> Result<()> {
        self.apiserver.kill(0)
    }

    /// Starts it again; returns when it is ready.
    pub(super) fn start_apiserver(&mut self) -> Result<()> {
        let mut command = apiserver(&self.paths, &self.state, &self.logs, self.audit);
        let log = self.logs.join("kube-apiserver.log");
        self.apiserver = Inhabitant::start("kube-apiserver", self.init, NAMESPACES, &mut command, log)?;
        self.wait()
    }

    /// Fails if one of them has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.etcd.check()?;
        self.apiserver.check()?;
        self.others.iter_mut().try_for_each(Inhabitant::check)
    }

    fn wait(&mut self) -> Result<()> {
        let mut ended = None;
        let ready = wait::becomes(READY, "the API server is ready", || {
            if let Err(error) = self.etcd.check().and_then(|()| self.apiserver.check()) {
                ended = Some(error);
                return Ok(true);
            }
            let mut kubectl = Command::new("nsenter");
            kubectl.args(["--target", &self.init.to_string(), "--net", "--"]).arg(&self.paths.kubectl);
            kubectl.args(["--kubeconfig", &text(&self.state.join("pki/admin.kubeconfig")), "get", "--raw"]);
            process::run(kubectl.arg("/readyz"))?;
            Ok(true)
        });
        if let Some(error) = ended {
            return Err(error);
        }
        ready.with_context(|| self.apiserver.words())
    }
}

/// What of the cluster the control plane lives in.
const NAMESPACES: &[&str] = &["--net", "--mount", "--pid"];

fn etcd(paths: &Paths, state: &Path) -> Command {
    let mut command = Command::new(&paths.etcd);
    command.args(["--name", "lab", "--data-dir", &text(&state.join("etcd")), "--unsafe-no-fsync"]);
    command.args(["--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"]);
    command.args(["--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"]);
    command.args(["--initial-cluster=lab=http://127.0.0.1:2380", "--snapshot-count=10000"]);
    // As kubeadm has it: without, watches of what never changes get no bookmark, by which clients know that all is well.
    command.arg("--experimental-watch-progress-notify-interval=5s");
    command
}

fn apiserver(paths: &Paths, state: &Path, logs: &Path, audit: bool) -> Command {
    let file = |name: &str| text(&state.join("pki").join(name));
    let mut command = Command::new(&paths.apiserver);
    command.args(["--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--secure-port=6443"]);
    command.args(["--advertise-address", &API.to_string(), "--service-cluster-ip-range=10.96.0.0/16"]);
    command.args(["--tls-cert-file", &file("apiserver.crt"), "--tls-private-key-file", &file("apiserver.key")]);
    command.args(["--client-ca-file", &file("ca.crt"), "--authorization-mode=Node,RBAC"]);
    command.args(["--enable-admission-plugins=NodeRestriction", "--allow-privileged=true"]);
    command.args(["--kubelet-client-certificate", &file("apiserver-kubelet.crt")]);
    command.args(["--kubelet-client-key", &file("apiserver-kubelet.key")]);
    command.args(["--kubelet-certificate-authority", &file("ca.crt")]);
    command.args(["--kubelet-preferred-address-types=InternalIP"]);
    command.args(["--service-account-issuer=https://kubernetes.default.svc.cluster.local"]);
    command.args(["--service-account-key-file", &file("service-account.pub")]);
    command.args(["--service-account-signing-key-file", &file("service-account.key")]);
    command.args(["--requestheader-client-ca-file", &file("front-proxy-ca.crt")]);
    command
        .args(["--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User"]);
    command.args(["--requestheader-extra-headers-prefix=X-Remote-Extra-"]);
    command.args(["--requestheader-group-headers=X-Remote-Group"]);
    command.args(["--proxy-client-cert-file", &file("front-proxy-client.crt")]);
    command.args(["--proxy-client-key-file", &file("front-proxy-client.key")]);
    // No kube-proxy runs beside it: it reaches webhooks and aggregated APIs at their pods' addresses.
    command.args(["--enable-aggregator-routing=true", "--v=1"]);
    if audit {
        command.args(["--audit-policy-file", &text(&state.join("audit.yaml"))]);
        command.args(["--audit-log-path", &text(&logs.join("audit.log")), "--audit-log-maxsize=2000"]);
    }
    command
}
