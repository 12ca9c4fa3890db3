//! Building what the lab, the tests and the benches run.

use anyhow::Result;

use crate::setup::STATIC_TARGET;
use crate::shell::{cargo, run};

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly.
    Debug,
    /// As it is shipped.
    Release,
}

/// Builds the daemons, the command line and the lab, and the static plugins.
pub(crate) fn programs(profile: Profile) -> Result<()> {
    let flags: &[&str] = if profile == Profile::Release { &["--release"] } else { &[] };
    run(cargo()
        .args([
            "build",
            "--package=felix",
            "--package=bgp-speaker",
            "--package=calicoctl",
            "--package=integration",
            "--bins",
        ])
        .args(flags))?;
    run(cargo().args(["build", "--package=cni", "--target", STATIC_TARGET]).args(flags))
}
