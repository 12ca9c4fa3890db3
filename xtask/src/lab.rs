//! `cargo xtask lab`.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::setup::{self, Purpose};
use crate::shell::{privileged, run, say, target};

/// Installs and builds what is missing, then plays.
pub(crate) fn play(arguments: &[String]) -> Result<()> {
    let value = |option: &str| {
        let at = arguments.iter().position(|word| word.starts_with(option))?;
        arguments.get(at)?.split_once('=').map(|(_, value)| value).or(arguments.get(at + 1).map(String::as_str))
    };
    let server = value("--datastore").filter(|store| *store != "sqlite");
    setup::install(if server.is_some() { Purpose::Servers } else { Purpose::Lab })?;
    say("building in release");
    build::programs(Profile::Release)?;
    let programs = target().join("release");
    if server == Some("kubernetes") {
        run(std::process::Command::new(programs.join("lab-servers")).arg("build"))?;
    }
    run(privileged(programs.join("lab")).args(arguments))
}
