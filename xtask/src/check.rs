//! `cargo xtask check`: what a reviewer should not have to look at.

use anyhow::{Context, Result};

use crate::setup::{self, Purpose};
use crate::shell::{cargo, output, run, say};
use crate::{directions, manifests};

/// The release of cargo-deny whose rules `deny.toml` is written in.
const CARGO_DENY: &str = "0.20.2";

/// All of it; the first failure ends it.
pub(crate) fn all() -> Result<()> {
    setup::install(Purpose::Build)?;
    say("format");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    say("directions between crates");
    directions::check()?;
    say("manifests");
    manifests::make(true)?;
    say("lints");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    say("documentation");
    run(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    say("licences and sources of dependencies");
    deny()
}

fn deny() -> Result<()> {
    if output(cargo().args(["deny", "--version"])).is_err() {
        say(&format!("installing cargo-deny {CARGO_DENY}"));
        run(cargo().args(["install", "--quiet", "--locked", "--version", CARGO_DENY, "cargo-deny"]))
            .context("cargo-deny is needed")?;
    }
    run(cargo().args(["deny", "--log-level=error", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))
}
