//! `cargo xtask test`.

use std::process::Command;

use anyhow::Result;

use crate::build::{self, Profile};
use crate::image;
use crate::scratch;
use crate::setup::{self, Purpose};
use crate::shell::{cargo, is_root, run, say, target};

/// Installs and builds what is missing, then runs every test.
pub(crate) fn all(arguments: &[String]) -> Result<()> {
    setup::install(Purpose::Everything)?;
    say("building the programs under test");
    build::programs(Profile::Debug)?;
    image::build(&image::Options::usual(image::Profile::Dev))?;
    run(Command::new(target().join("debug/lab-servers")).args(["build", "--cluster"]))?;

    // Namespaces need root, compiling does not; and a test that needs what this kernel lacks gets another kernel.
    let machine = target().join("debug/machine");
    let sudo = if is_root() { "" } else { "sudo --preserve-env " };
    let runner = format!("{sudo}{} --test --", machine.display());
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]);
    tests.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", runner);
    let mut build = cargo();
    run(build.args(["test", "--workspace", "--no-run"]).args(arguments))?;
    // Gigabytes were written: a test that syncs its files would wait for all of that.
    say("writing what was built to the disk");
    run(Command::new("sync").arg("--file-system").arg(target()))?;
    scratch::use_memory(&mut tests);
    run(tests.args(arguments))
}
