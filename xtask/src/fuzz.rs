//! `cargo xtask fuzz`.

use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::{output, root, run, say};

/// Fuzzes one target, or lists them.
pub(crate) fn fuzz(target: Option<&str>, seconds: u32) -> Result<()> {
    if output(Command::new("cargo-fuzz").arg("--version")).is_err() {
        say("installing cargo-fuzz");
        run(Command::new("cargo").args(["install", "--quiet", "--locked", "cargo-fuzz"]))?;
    }
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(["+nightly", "fuzz"]);
    match target {
        None => run(command.arg("list")),
        Some(target) => {
            // What is found goes into the corpus; the seeds are only read.
            let corpus = root().join("fuzz/corpus").join(target);
            std::fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
            command.args(["run", target]).arg(corpus).arg(root().join("fuzz/seeds").join(target));
            run(command.args(["--", &format!("-max_total_time={seconds}")]))
        }
    }
    .context("fuzzing needs a nightly toolchain: rustup toolchain install nightly")
}
