//! `cargo xtask bench cni`, `idle`, `dataplane` and `felix-scale`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use integration::bench;
use integration::lab::Mode;
use integration::net::StoreKind;

/// Measures the programs in a lab, against peers in the same run.
#[derive(Debug, Parser)]
#[command(name = "bench", version = calico_version::LONG)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Clone, Debug, Subcommand)]
enum Bench {
    /// ADD and DEL of the calico plugin against `ptp` with `host-local`, from exec to exit.
    Cni {
        /// Where our agent keeps its records.
        #[arg(long, value_enum, default_value_t = Datastore::Sqlite)]
        store: Datastore,
        /// How many pods are measured at each setting.
        #[arg(long, default_value_t = 100)]
        count: u32,
        /// In how many turns.
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// How many pods are there already; may be given several times.
        #[arg(long, default_values_t = [0, 110])]
        kept: Vec<u32>,
        /// How many callers there are at once; may be given several times.
        #[arg(long, default_values_t = [1, 8, 32], value_parser = clap::value_parser!(u32).range(1..))]
        at_once: Vec<u32>,
    },
    /// The memory of both daemons on an idle node (PSS).
    Idle {
        /// How many nodes.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..))]
        nodes: u8,
        /// How many pods the first of them has.
        #[arg(long, default_value_t = 110)]
        pods: u16,
        /// How many routes it learns by BGP, beside those of the other pods.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(..=2048))]
        routes: u32,
        /// How many seconds nothing happens before it is looked for the first time.
        #[arg(long, default_value_t = 60)]
        rest: u32,
        /// For how many seconds it is looked, every ten; the median counts. What daemons do now and then is part of it.
        #[arg(long, default_value_t = 180)]
        watch: u32,
    },
    /// Packets and octets a second from pod to pod over two nodes, against the same path built by hand with `ip`.
    Dataplane {
        /// In which modes.
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Never, Mode::Vxlan, Mode::Ipip])]
        modes: Vec<Mode>,
        /// How often each path is measured, in turns; the median counts.
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Seconds of each measurement.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
    },
    /// felix on a node of a cluster whose other nodes exist in the store alone: first sync, memory, one change.
    FelixScale {
        /// How many other nodes.
        #[arg(long, default_value_t = 5000)]
        nodes: u32,
        /// How many blocks they have together.
        #[arg(long, default_value_t = 60_000)]
        blocks: u32,
        /// How many single changes are measured.
        #[arg(long, default_value_t = 500)]
        changes: u32,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Datastore {
    /// One SQLite file.
    Sqlite,
    /// An etcd.
    Etcd,
    /// A kube-apiserver.
    Kubernetes,
}

fn main() -> ExitCode {
    let done: Result<String> = match Arguments::parse().bench {
        Bench::Cni { store, count, rounds, kept, at_once } => {
            let store = match store {
                Datastore::Sqlite => StoreKind::Sqlite,
                Datastore::Etcd => StoreKind::Etcd,
                Datastore::Kubernetes => StoreKind::Kubernetes,
            };
            bench::cni(&bench::Plan { store, count, rounds: rounds.max(1), kept, at_once })
        }
        Bench::Idle { nodes, pods, routes, rest, watch } => {
            bench::idle(bench::IdlePlan { nodes, pods, routes, rest, watch })
        }
        Bench::Dataplane { modes, rounds, seconds } => {
            bench::dataplane(&bench::DataplanePlan { modes, rounds, seconds })
        }
        Bench::FelixScale { nodes, blocks, changes } => bench::scale(bench::ScalePlan { nodes, blocks, changes }),
    };
    let (text, code) = match done {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (format!("{error:#}"), ExitCode::FAILURE),
    };
    eprintln!("{text}");
    code
}
