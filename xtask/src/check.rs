//! `cargo xtask check`: what a reviewer should not have to look at.

use std::process::Command;

use anyhow::{Context, Result};

use crate::directions;
use crate::setup::{self, Purpose};
use crate::shell::{cargo, output, run, say};

/// All of it; the first failure ends it.
pub(crate) fn all() -> Result<()> {
    setup::install(Purpose::Build)?;
    say("format");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    say("directions between crates");
    directions::check()?;
    say("lints");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    say("documentation");
    run(cargo().args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    say("licences and sources of dependencies");
    deny()
}

fn deny() -> Result<()> {
    if output(Command::new("cargo-deny").arg("--version")).is_err() {
        say("installing cargo-deny");
        run(cargo().args(["install", "--quiet", "--locked", "cargo-deny"])).context("cargo-deny is needed")?;
    }
    run(cargo().args(["deny", "--log-level=error", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"]))
}
