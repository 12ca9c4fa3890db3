//! Builds and names the servers that the tests and the lab run against.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use integration::servers::kubernetes;

/// The servers that the tests and the lab run against.
#[derive(Debug, Parser)]
#[command(name = "lab-servers", version = calico_version::LONG)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Action {
    /// Build what is missing (kube-apiserver: some minutes, once), and print where everything is.
    Build,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<()> {
    match action {
        Action::Build => {
            let paths = kubernetes::ensure_built()?;
            let text = format!("kube-apiserver {}\netcd {}\n", paths.apiserver.display(), paths.etcd.display());
            std::io::stdout().write_all(text.as_bytes()).context("cannot print the paths")
        }
    }
}
