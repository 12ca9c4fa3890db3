//! Ocicat on a cluster: installed from its image and manifests as a user would, rolled, taken away.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::inhabitant::{Inhabitant, text};
use super::{API, Cluster, PATIENCE, STATE};
use crate::programs::workspace;
use crate::wait;

/// The image's name in the manifests, without its tag.
pub const IMAGE: &str = "docker.io/ocicat/ocicat";

/// The AS number of the router in the control plane's network: the nodes' own, so that each tells it only its own blocks.
const RACK: u32 = 64512;

/// The archive that `cargo xtask image` made with the profile that the running program was built with.
///
/// # Errors
/// If there is none; the text has the command that makes it.
pub fn image() -> Result<PathBuf> {
    let exe = env::current_exe().context("where am I?")?;
    // target/debug/lab, or target/debug/deps/cluster-0123 for a test.
    let mut profile = exe.parent().context("the program has no folder")?;
    if profile.file_name().is_some_and(|name| name == "deps") {
        profile = profile.parent().context("the folder deps has no parent")?;
    }
    let target = profile.parent().context("the build folder has no parent")?;
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        other => other.unwrap_or("release"),
    };
    let archive = target.join(format!("image/ocicat-{name}.tar"));
    ensure!(archive.is_file(), "{} is missing: cargo xtask image --profile {name}", archive.display());
    Ok(archive)
}

impl Cluster {
    /// Loads the image, starts a router in the control plane's network and installs Ocicat; returns when every part of
    /// it and every node is ready.
    ///
    /// # Errors
    /// If something does not become ready, with what it says.
    pub fn install_ocicat(&self, archive: &Path) -> Result<()> {
        self.import(archive)?;
        self.start_router()?;
        let folder = workspace().join("integration/cluster/ocicat");
        self.kubectl(&["apply", "--kustomize", &text(&folder)])?;
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        self.kubectl(&["apply", "--filename", &text(&folder.join("rack.yaml"))])?;
        self.rolled_out("daemonset/calico-node")?;
        self.ready()?;
        self.rolled_out("deployment/ipam-controller")
    }

    /// Replaces the image of the DaemonSet and its `ipam-controller` by the same octets under another name, which
    /// replaces their pods one after the other; returns when that is done.
    ///
    /// # Errors
    /// If the new pods do not become ready.
    pub fn roll_ocicat(&self, tag: &str) -> Result<()> {
        let object = self.get(&["--namespace=kube-system", "daemonset/calico-node"])?;
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        let old = container["image"].as_str().context("the DaemonSet has no image")?;
        let new = format!("{IMAGE}:{tag}");
        for node in self.nodes() {
            node.ctr(&["image", "tag", old, &new])?;
        }
        let all = format!("*={new}");
        for what in ["daemonset/calico-node", "deployment/ipam-controller"] {
            self.kubectl(&["--namespace=kube-system", "set", "image", what, &all])?;
        }
        self.rolled_out("daemonset/calico-node")?;
        self.rolled_out("deployment/ipam-controller")
    }

    /// Waits until what is in kube-system is as its newest template says, and ready.
    ///
    /// # Errors
    /// If it is not in time, with the state of its pods, their events and last lines.
    pub fn rolled_out(&self, what: &str) -> Result<()> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        let done = self.kubectl(&["--namespace=kube-system", "rollout", "status", what, &limit]);
        done.map(drop).with_context(|| self.diagnosis(what))
    }

    /// What a person would look at when something in kube-system does not become ready.
    pub fn diagnosis(&self, what: &str) -> String {
        let look = |words: &[&str]| self.kubectl(words).unwrap_or_else(|error| format!("{error:#}\n"));
        let name = what.rsplit('/').next().unwrap_or_default();
        let label = format!("--selector=k8s-app={name}");
        let mut text = look(&["--namespace=kube-system", "get", "pods", "--output=wide"]);
        text += &look(&["--namespace=kube-system", "get", "events", "--sort-by=.lastTimestamp"]);
        text += &look(&[
            "--namespace=kube-system",
            "logs",
            &label,
            "--all-containers",
            "--prefix",
            "--tail=15",
            "--max-log-requests=30",
        ]);
        text
    }

    /// Takes Ocicat away, step by step as docs/install.md says: definitions and all resources go with it. What has
    /// addresses should be gone before. Returns what the clean-up said on each node.
    ///
    /// # Errors
    /// If a step fails.
    pub fn uninstall_ocicat(&self) -> Result<String> {
        let system = "--namespace=kube-system";
        let folder = text(&workspace().join("integration/cluster/ocicat"));
        let uninstall = text(&workspace().join("manifests/ocicat-uninstall.yaml"));
        self.kubectl(&[system, "delete", "daemonset/calico-node", "deployment/ipam-controller"])?;
        for name in ["calico-node", "ipam-controller"] {
            let label = format!("--selector=k8s-app={name}");
            self.kubectl(&[system, "wait", "--for=delete", "pod", &label, "--timeout=2m"])
                .with_context(|| self.diagnosis(name))?;
        }
        self.kubectl(&["apply", "--filename", &uninstall])?;
        self.rolled_out("daemonset/ocicat-uninstall")?;
        let label = "--selector=k8s-app=ocicat-uninstall";
        let said = self.kubectl(&[system, "logs", label, "--container=cleanup", "--prefix", "--tail=-1"])?;
        self.kubectl(&["delete", "--cascade=foreground", "--timeout=2m", "--filename", &uninstall])?;
        self.kubectl(&["delete", "--ignore-not-found", "--timeout=2m", "--kustomize", &folder])?;
        self.kubectl(&[system, "delete", "--ignore-not-found", "lease/ipam-controller"])?;
        for node in self.nodes() {
            let object = self.get(&["node", node.name()])?;
            let annotations = object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
            let ours = annotations.keys().filter(|key| key.starts_with("projectcalico.org/"));
            let gone: Vec<String> = ours.map(|key| format!("{key}-")).collect();
            let mut words = vec!["annotate", "node", node.name()];
            words.extend(gone.iter().map(String::as_str));
            self.kubectl(&words)?;
            let patch = r#"{"status":{"conditions":[{"type":"NetworkUnavailable","$patch":"delete"}]}}"#;
            self.kubectl(&[
                "patch",
                "node",
                node.name(),
                "--subresource=status",
                "--type=strategic",
                "--patch",
                patch,
            ])?;
        }
        Ok(said)
    }

    /// BIRD as the rack's router: it learns every node's blocks, so that the API server reaches the pods behind an
    /// aggregated API or a webhook.
    fn start_router(&self) -> Result<()> {
        let state = Path::new(STATE);
        let mut config = format!(
            "log stderr all;\nrouter id {API};\nprotocol device {{ scan time 5; }}\n\
             protocol direct {{ ipv4; interface \"br0\"; }}\n\
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n"
        );
        for node in self.nodes() {
            writeln!(
                config,
                "protocol bgp {} {{\n  local {API} as {RACK};\n  neighbor {} as {RACK};\n  passive on;\n  \
                 graceful restart aware;\n  ipv4 {{ import all; export none; }};\n}}",
                node.name(),
                node.address()
            )?;
        }
        let path = state.join("bird.conf");
        fs::write(&path, config).with_context(|| path.display().to_string())?;
        let mut bird = Command::new("bird");
        bird.args([
            "-f",
            "-c",
            &text(&path),
            "-s",
            &text(&state.join("bird.ctl")),
            "-P",
            &text(&state.join("bird.pid")),
        ]);
        let namespaces = ["--net", "--mount", "--pid"];
        let mut router = Inhabitant::start("bird", self.pid(), &namespaces, &mut bird, self.logs().join("bird.log"))?;
        wait::becomes(PATIENCE, "the router answers", || {
            router.check()?;
            self.router(&["show", "status"]).map(|_| true)
        })
    }

    /// What `birdc` of the rack's router says.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn router(&self, question: &[&str]) -> Result<String> {
        crate::process::run(
            self.command("birdc").args(["-s", &text(&Path::new(STATE).join("bird.ctl"))]).args(question),
        )
    }
}
