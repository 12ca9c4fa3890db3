//! Building what the lab, the tests and the benches run.

use anyhow::Result;

use crate::image;
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
            "--package=calico-node",
            "--package=ipam-controller",
            "--package=integration",
            "--bins",
        ])
        .args(flags))?;
    let environment = image::environment(profile == Profile::Release)?;
    run(cargo().args(["build", "--package=cni", "--bins", "--target", STATIC_TARGET]).args(flags).envs(environment))
}
