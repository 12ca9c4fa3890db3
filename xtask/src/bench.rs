//! `cargo xtask bench`.

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::setup::{self, Purpose};
use crate::shell::{cargo, option, privileged, run, say, target};

/// Builds, then measures.
pub(crate) fn all(name: Option<&str>, arguments: &[String]) -> Result<()> {
    if !matches!(name, None | Some("cni" | "idle" | "dataplane" | "felix-scale" | "functions")) {
        bail!(
            "there is no bench {}; there are cni, idle, dataplane, felix-scale and functions",
            name.unwrap_or_default()
        );
    }
    let store = option(arguments, "--store").filter(|store| *store != "sqlite");
    let purpose = if store.is_some() { Purpose::Servers } else { Purpose::Lab };
    // Another kernel, for what IPIP costs where this one has none.
    let machine: &[&str] = if name.is_none_or(|name| name == "dataplane") { &["user-mode-linux", "kmod"] } else { &[] };
    setup::install_with(purpose, machine)?;
    if name != Some("functions") {
        say("building in release");
        build::programs(Profile::Release)?;
    }
    if store == Some("kubernetes") {
        run(std::process::Command::new(target().join("release/lab-servers")).arg("build"))?;
    }
    for bench in ["cni", "idle", "dataplane", "felix-scale"] {
        if name.is_none_or(|name| name == bench) {
            run(privileged(target().join("release/bench")).arg(bench).args(arguments))?;
        }
    }
    if name.is_none_or(|name| name == "functions") {
        run(cargo().args(["bench", "--workspace", "--bench=*"]))?;
    }
    Ok(())
}
