//! User-mode Linux: a kernel as a process.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Machine, Shared, need};

/// Lets it run on CPUs with more state than it knows of.
const XSTATE: &str = include_str!("xstate.c");
/// Where Debian has its modules, in a folder of the kernel's release.
const MODULES: &str = "/usr/lib/uml/modules";

/// How it is started.
///
/// # Errors
/// If a package is missing, or the preload library cannot be compiled.
pub(super) fn command(machine: &Machine, shared: &Shared) -> Result<Command> {
    need(&[
        ("linux.uml", "user-mode-linux"),
        ("gcc", "gcc libc6-dev"),
        ("modprobe", "kmod"),
        ("ip", "iproute2"),
        ("setpriv", "util-linux"),
    ])?;
    let library = preload(shared)?;
    let folder = shared.path().display();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "linux.uml"]).env("LD_PRELOAD", library).env("TMPDIR", shared.path());
    command.args([
        format!("mem={}M", machine.memory),
        "root=/dev/root".into(),
        "rootfstype=hostfs".into(),
        "ro".into(),
        format!("init={folder}/init"),
        format!("SHARE=hostfs:{folder}"),
        format!("MODULES={}", modules()?.display()),
        format!("uml_dir={folder}/"),
        "umid=machine".into(),
        "con=null".into(),
        "con0=null,fd:1".into(),
    ]);
    Ok(command)
}

fn modules() -> Result<PathBuf> {
    let folders = fs::read_dir(MODULES).with_context(|| format!("{MODULES}: the package user-mode-linux has none"))?;
    let newest = folders.flatten().map(|entry| entry.path()).max();
    newest.with_context(|| format!("{MODULES} is empty"))
}

fn preload(shared: &Shared) -> Result<PathBuf> {
    let (source, library) = (shared.path().join("xstate.c"), shared.path().join("xstate.so"));
    fs::write(&source, XSTATE)?;
    let output = Command::new("gcc")
        .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .context("cannot start gcc")?;
    ensure!(
        output.status.success(),
        "gcc of xstate.c (is libc6-dev installed?): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(library)
}
