//! `cargo xtask`: the one entry to everything about this project that is not a plain `cargo build`.
//!
//! This crate builds before anything is installed, so it uses nothing that needs a C library or a code generator.

mod bench;
mod build;
mod check;
mod directions;
mod fuzz;
mod image;
mod lab;
mod manifests;
mod scratch;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Everything about Ocicat that is not a plain `cargo build`.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Play the main job: nodes, pods, BGP and pings on this machine. `cargo xtask lab --help` lists its options.
    #[command(disable_help_flag = true)]
    Lab {
        /// What the lab itself is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run every test, with real kernels, peers and stores; installs what is missing.
    Test {
        /// What `cargo test` is told, such as the name of a test.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Format, lints, documentation, licences, and which crate may use which.
    Check,
    /// Measure against peers in the same run. Without a name, every bench.
    Bench {
        /// `cni`, `idle`, `dataplane`, `felix-scale` or `functions`.
        name: Option<String>,
        /// What the bench is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the image of everything, as an archive for `ctr image import` and `docker load`, with its bill of materials.
    Image(image::Options),
    /// Make what users apply (`manifests/`) from its one source: Kustomize bases, Helm chart, flat files, definitions.
    Manifests {
        /// Only say whether what is there is out of date.
        #[arg(long)]
        check: bool,
    },
    /// Install what building, the lab and the tests need, saying what.
    Setup,
    /// Throw random octets at the parsers of foreign input.
    Fuzz {
        /// Which target; without one they are listed.
        target: Option<String>,
        /// For how long.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only run all targets on their seeds; needs no nightly toolchain.
        #[arg(long, conflicts_with_all = ["target", "seconds"])]
        seeds: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        None => {
            // Nobody can do anything about a closed standard output here.
            let _ = Arguments::command().print_help();
            Ok(())
        }
        Some(Task::Lab { arguments }) => lab::play(&arguments),
        Some(Task::Test { arguments }) => test::all(&arguments),
        Some(Task::Check) => check::all(),
        Some(Task::Bench { name, arguments }) => bench::all(name.as_deref(), &arguments),
        Some(Task::Image(options)) => image::build(&options).map(drop),
        Some(Task::Manifests { check }) => manifests::make(check),
        Some(Task::Setup) => setup::install(setup::Purpose::Everything),
        Some(Task::Fuzz { seeds: true, .. }) => fuzz::seeds(),
        Some(Task::Fuzz { target, seconds, .. }) => fuzz::fuzz(target.as_deref(), seconds),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
