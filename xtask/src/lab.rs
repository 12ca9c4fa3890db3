//! `cargo xtask lab`.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::image;
use crate::setup::{self, Purpose};
use crate::shell::{cargo, privileged, run, say, target};

/// What the scenario `modes` needs besides: a router, and a kernel with ipip.
const MODES: &[&str] = &["bird2", "user-mode-linux", "kmod"];

/// Installs and builds what is missing, then plays.
pub(crate) fn play(arguments: &[String]) -> Result<()> {
    let value = |option: &str| {
        let at = arguments.iter().position(|word| word.starts_with(option))?;
        arguments.get(at)?.split_once('=').map(|(_, value)| value).or(arguments.get(at + 1).map(String::as_str))
    };
    if arguments.iter().any(|word| word == "--cluster") {
        return cluster(arguments);
    }
    let server = value("--datastore").filter(|store| *store != "sqlite");
    let purpose = if server.is_some() { Purpose::Servers } else { Purpose::Lab };
    match value("--scenario") {
        Some("modes") => setup::install_with(purpose, MODES)?,
        _ => setup::install(purpose)?,
    }
    say("building in release");
    build::programs(Profile::Release)?;
    let programs = target().join("release");
    if server == Some("kubernetes") {
        run(std::process::Command::new(programs.join("lab-servers")).arg("build"))?;
    }
    run(privileged(programs.join("lab")).args(arguments))
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
