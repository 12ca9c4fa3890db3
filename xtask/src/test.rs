//! `cargo xtask test`.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::image;
use crate::setup::{self, Purpose};
use crate::shell::{cargo, is_root, run, say, target};

/// Installs and builds what is missing, then runs every test.
pub(crate) fn all(arguments: &[String]) -> Result<()> {
    setup::install(Purpose::Everything)?;
    say("building the programs under test");
    build::programs(Profile::Debug)?;
    image::build(&image::Options::usual(image::Profile::Dev))?;
    run(std::process::Command::new(target().join("debug/lab-servers")).args(["build", "--cluster"]))?;

    // Namespaces need root, compiling does not; and a test that needs what this kernel lacks gets another kernel.
    let machine = target().join("debug/machine");
    let sudo = if is_root() { "" } else { "sudo --preserve-env " };
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]).args(arguments);
    tests.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", format!("{sudo}{} --test --", machine.display()));
    run(&mut tests)
}
