//! What must be installed before anything works, and installing it.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::shell::{output, privileged, run, say};

/// What it is to be installed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Compiling.
    Build,
    /// The lab on SQLite.
    Lab,
    /// The lab on etcd or Kubernetes too.
    Servers,
    /// The tests and benches with other people's programs.
    Everything,
}

/// Debian's packages, by what needs them first.
const PACKAGES: &[(Purpose, &str, &str)] = &[
    (Purpose::Build, "gcc", "links, and compiles SQLite and ring"),
    (Purpose::Build, "libc6-dev", "the C library's headers"),
    (Purpose::Build, "protobuf-compiler", "etcd's messages"),
    (Purpose::Build, "libprotobuf-dev", "the messages that etcd's include"),
    (Purpose::Lab, "iproute2", "ip"),
    (Purpose::Lab, "iputils-ping", "ping"),
    (Purpose::Lab, "util-linux", "unshare, nsenter, setpriv"),
    (Purpose::Lab, "containernetworking-plugins", "portmap, and the peers of the bench"),
    (Purpose::Lab, "iptables", "what portmap uses"),
    (Purpose::Servers, "etcd-server", "etcd"),
    (Purpose::Servers, "openssl", "the API server's certificates"),
    (Purpose::Everything, "bird2", "a BGP peer"),
    (Purpose::Everything, "frr", "a BGP peer"),
    (Purpose::Everything, "gobgpd", "a BGP peer"),
    (Purpose::Everything, "openbgpd", "a BGP peer"),
];

/// Rust's name for a program that runs anywhere: the plugins are such.
pub(crate) const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// Installs what is missing for a purpose, saying what.
pub(crate) fn install(purpose: Purpose) -> Result<()> {
    run_packages(purpose)?;
    rust_target()
}

fn run_packages(purpose: Purpose) -> Result<()> {
    let wanted = PACKAGES.iter().filter(|(needed, ..)| *needed <= purpose);
    let missing: Vec<_> = wanted.filter(|(_, package, _)| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (_, package, why) in &missing {
        say(&format!("installing {package} ({why})"));
    }
    run(privileged("apt-get").args(["update", "--quiet"]).stdout(Stdio::null()))
        .context("apt-get cannot read its sources; install the packages above by hand on a system without apt")?;
    let mut install = privileged("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]);
    install.args(missing.iter().map(|(_, package, _)| package));
    run(install.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null()))
}

fn installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

fn rust_target() -> Result<()> {
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(crate::shell::root()))?;
    if std::path::Path::new(sysroot.trim()).join("lib/rustlib").join(STATIC_TARGET).join("lib").is_dir() {
        return Ok(());
    }
    say(&format!("installing Rust's standard library for {STATIC_TARGET} (the plugins are static)"));
    run(Command::new("rustup").args(["target", "add", STATIC_TARGET]).current_dir(crate::shell::root()))
        .context("without rustup, install the toolchain's standard library for that target")
}
