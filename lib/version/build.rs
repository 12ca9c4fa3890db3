//! Finds out which commit is being built.

use std::path::Path;
use std::process::Command;

// A build script talks to cargo by lines; a closed pipe means that cargo is gone.
#[expect(clippy::disallowed_macros, reason = "cargo reads every line")]
fn main() {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // A build from an archive has no repository: whoever packs it says the commit.
    println!("cargo::rerun-if-env-changed=OCICAT_COMMIT");
    let commit = std::env::var("OCICAT_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=10", "HEAD"]));
    println!("cargo::rustc-env=OCICAT_COMMIT={}", commit.as_deref().unwrap_or("unknown"));

    // HEAD's log grows by a line with each commit, checkout and reset, so it tells when to look again.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
