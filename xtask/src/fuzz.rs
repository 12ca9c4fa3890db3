//! `cargo xtask fuzz`.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell::{cargo, output, root, run, say, target};

/// The names of all targets: those of the files.
fn targets() -> Result<Vec<String>> {
    let mut names: Vec<String> = files("fuzz/fuzz_targets")?
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// The files of a folder of the workspace.
fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let path = root().join(folder);
    let entries = fs::read_dir(&path).with_context(|| path.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// Fuzzes one target, or lists them.
pub(crate) fn fuzz(name: Option<&str>, seconds: u32) -> Result<()> {
    let names = targets()?;
    let Some(name) = name else {
        let list: String = names.iter().map(|name| format!("{name}\n")).collect();
        return Ok(io::stdout().write_all(list.as_bytes())?);
    };
    ensure!(names.iter().any(|known| known == name), "there is no target {name}, but {}", names.join(", "));
    if output(Command::new("cargo-fuzz").arg("--version")).is_err() {
        say("installing cargo-fuzz");
        run(Command::new("cargo").args(["install", "--quiet", "--locked", "cargo-fuzz"]))?;
    }
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(["+nightly", "fuzz", "run", name]);
    // What is found goes into the corpus; the seeds are only read.
    let corpus = root().join("fuzz/corpus").join(name);
    fs::create_dir_all(&corpus).with_context(|| corpus.display().to_string())?;
    command.arg(corpus).arg(root().join("fuzz/seeds").join(name));
    run(command.args(["--", &format!("-max_total_time={seconds}")]))
        .context("fuzzing needs a nightly toolchain: rustup toolchain install nightly")
}

/// Runs every target on its seeds alone, built by the usual toolchain without a sanitizer: what was found once is not
/// found again, and no target rots.
pub(crate) fn seeds() -> Result<()> {
    let table = fs::read_to_string(root().join("docs/FUZZING.md"))?;
    say("building the fuzz targets");
    run(cargo()
        .args(["build", "--quiet", "--locked", "--bins", "--manifest-path", "fuzz/Cargo.toml"])
        .arg("--target-dir")
        .arg(target()))?;
    for name in targets()? {
        ensure!(table.contains(&format!("| `{name}` |")), "docs/FUZZING.md has no row for {name}");
        let seeds = files(&format!("fuzz/seeds/{name}"))?;
        ensure!(!seeds.is_empty(), "fuzz/seeds/{name} is empty");
        say(&format!("{name} on {} seeds", seeds.len()));
        // Its word on every seed goes nowhere but into the error.
        output(Command::new(target().join("debug").join(&name)).args(seeds))?;
    }
    Ok(())
}
