//! `cargo xtask bench`.

use anyhow::{Result, bail};

use crate::build::{self, Profile};
use crate::setup::{self, Purpose};
use crate::shell::{cargo, privileged, run, say, target};

/// Builds, then measures.
pub(crate) fn all(name: Option<&str>, arguments: &[String]) -> Result<()> {
    if !matches!(name, None | Some("cni" | "idle" | "dataplane" | "felix-scale" | "functions")) {
        bail!(
            "there is no bench {}; there are cni, idle, dataplane, felix-scale and functions",
            name.unwrap_or_default()
        );
    }
    setup::install_with(Purpose::Lab, &["user-mode-linux", "kmod"])?;
    if name != Some("functions") {
        say("building in release");
        build::programs(Profile::Release)?;
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
