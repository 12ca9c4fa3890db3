//! `cargo xtask bench cni` and `cargo xtask bench idle`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use integration::bench;

/// Measures the programs in a lab, against peers in the same run.
#[derive(Debug, Parser)]
#[command(name = "bench", version = calico_version::LONG)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Bench {
    /// ADD and DEL of the calico plugin against `ptp` with `host-local`, from exec to exit.
    Cni {
        /// How many pods are measured, at 0 and at 100 pods kept.
        #[arg(long, default_value_t = 100)]
        count: u32,
    },
    /// The memory of both daemons on an idle node (PSS).
    Idle {
        /// How many nodes.
        #[arg(long, default_value_t = 3)]
        nodes: u8,
    },
}

fn main() -> ExitCode {
    let done: Result<String> = match Arguments::parse().bench {
        Bench::Cni { count } => bench::cni(count),
        Bench::Idle { nodes } => bench::idle(nodes),
    };
    let (text, code) = match done {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (format!("{error:#}"), ExitCode::FAILURE),
    };
    eprintln!("{text}");
    code
}
