//! `cargo xtask lab`.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::image;
use crate::scratch;
use crate::setup::{self, Purpose};
use crate::shell::{cargo, option, privileged, run, say, target};

/// What the scenario `modes` needs besides: a router, and a kernel with ipip.
const MODES: &[&str] = &["bird2", "user-mode-linux", "kmod"];

/// Installs and builds what is missing, then plays.
pub(crate) fn play(arguments: &[String]) -> Result<()> {
    if arguments.iter().any(|word| word == "--cluster") {
        return cluster(arguments);
    }
    // Changes of mode are played on SQLite; any other store is refused by the lab itself.
    let modes = option(arguments, "--scenario") == Some("modes");
    let server = option(arguments, "--datastore").filter(|store| *store != "sqlite" && !modes);
    let purpose = if server.is_some() { Purpose::Servers } else { Purpose::Lab };
    setup::install_with(purpose, if modes { MODES } else { &[] })?;
    say("building in release");
    build::programs(Profile::Release)?;
    let programs = target().join("release");
    if server == Some("kubernetes") {
        run(std::process::Command::new(programs.join("lab-servers")).arg("build"))?;
    }
    let mut lab = privileged(programs.join("lab"));
    scratch::use_memory(&mut lab);
    run(lab.args(arguments))
}

/// The lab on a real cluster: what runs there is the image.
fn cluster(arguments: &[String]) -> Result<()> {
    setup::install(Purpose::Cluster)?;
    say("building in release");
    run(cargo().args(["build", "--release", "--package=integration", "--bin=lab"]))?;
    let other = ["--down", "--help", "--image", "--cni"];
    if !arguments.iter().any(|word| other.iter().any(|option| word.starts_with(option))) {
        image::build(&image::Options::usual(image::Profile::Release))?;
    }
    run(privileged(target().join("release/lab")).args(arguments))
}
