//! Builds and names the servers that the tests and the lab run against.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use integration::programs;
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
    Build {
        /// What a real cluster and Kubernetes' end-to-end tests need as well: some minutes more.
        #[arg(long)]
        cluster: bool,
    },
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
        Action::Build { cluster } => {
            let paths = kubernetes::ensure_built()?;
            let mut text = format!("kube-apiserver {}\netcd {}\n", paths.apiserver.display(), paths.etcd.display());
            if cluster {
                for programs in [programs::CLUSTER, programs::END_TO_END] {
                    for (program, path) in programs.iter().zip(programs::ensure_built(programs)?) {
                        text += &format!("{} {}\n", program.name, path.display());
                    }
                }
            }
            std::io::stdout().write_all(text.as_bytes()).context("cannot print the paths")
        }
    }
}
