//! `cargo xtask lab`: the main job and other scenarios on this machine, without anything of a cluster installed.

mod cluster;
mod modes;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use integration::interrupt::Interrupt;
use integration::lab::{Lab, Options, Progress, Racks, reflectors};
use integration::{Net, Node, Pod, StoreKind};

/// Makes nodes and pods on this machine, lets them find each other over BGP, and shows what the programs say of it.
#[derive(Debug, Parser)]
#[command(name = "lab", version = calico_version::LONG)]
struct Arguments {
    /// What is played.
    #[arg(long, value_enum, default_value_t = Scenario::Main)]
    scenario: Scenario,
    /// How many nodes. [default: 3; reflectors and modes: 6; rack: 4]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=240))]
    nodes: Option<u8>,
    /// How many pods on each node. [default: 2; in other scenarios 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=500))]
    pods: Option<u16>,
    /// Which store the nodes share.
    #[arg(long, value_enum, default_value_t = Datastore::Sqlite)]
    datastore: Datastore,
    /// Stay up until Ctrl-C, and say how to get inside.
    #[arg(long)]
    keep: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    modes: modes::ModesArguments,
    #[command(flatten)]
    cluster: cluster::ClusterArguments,
}

impl Arguments {
    /// What is to be played, with a scenario's own numbers where none are given.
    fn options(&self, nodes: u8, pods: u16) -> Options {
        let (nodes, pods) = (self.nodes.unwrap_or(nodes), self.pods.unwrap_or(pods));
        Options { nodes, pods, store: self.datastore.kind() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Nodes in a full mesh, and pods that ping each other.
    Main,
    /// The main job's mesh becomes two route reflectors while packets flow.
    Reflectors,
    /// Two racks with AS numbers of their own, BIRD and FRR as their routers, filters, and a Service.
    Rack,
    /// Every change of a pool's mode (Never, IPIP, VXLAN, CrossSubnet) under packets between all nodes of two subnets.
    Modes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Datastore {
    /// One SQLite file.
    Sqlite,
    /// An etcd.
    Etcd,
    /// A kube-apiserver.
    Kubernetes,
}

impl Datastore {
    fn kind(self) -> StoreKind {
        match self {
            Self::Sqlite => StoreKind::Sqlite,
            Self::Etcd => StoreKind::Etcd,
            Self::Kubernetes => StoreKind::Kubernetes,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let interrupt = Interrupt::catch();
    match play(&arguments, &interrupt) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\n{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments, interrupt: &Interrupt) -> Result<bool> {
    if arguments.cluster.wanted() {
        return cluster::play(&arguments.cluster, arguments.nodes, arguments.pods, arguments.keep, arguments.json);
    }
    check(arguments)?;
    let announce = |folder: &Path| interrupt.clean_up(folder.to_owned());
    let keep = |net: &Net, nodes: &[Node<'_>], pods: &[Pod<'_, '_>]| {
        if arguments.keep {
            eprintln!("{}", doors(net, nodes, pods));
            interrupt.wait();
            eprintln!("taking everything down");
        }
    };
    match arguments.scenario {
        Scenario::Modes => modes::play(&arguments.modes, arguments.nodes, arguments.json, &announce),
        Scenario::Main => {
            let (options, mut progress) = (arguments.options(3, 2), Progress::default());
            let net = ground(arguments, &announce, &mut progress)?;
            let nodes = Lab::nodes(&net, options, &mut progress)?;
            let lab = Lab::start(&nodes, options, &mut progress)?;
            let report = lab.report(&net, &mut progress)?;
            print(&report, arguments.json)?;
            keep(&net, &nodes, lab.pods());
            Ok(report.good())
        }
        Scenario::Reflectors => {
            let (options, mut progress) = (arguments.options(6, 1), Progress::default());
            let net = ground(arguments, &announce, &mut progress)?;
            let nodes = Lab::nodes(&net, options, &mut progress)?;
            let lab = Lab::start(&nodes, options, &mut progress)?;
            let report = reflectors(&nodes, &lab, &mut progress)?;
            print(&report, arguments.json)?;
            keep(&net, &nodes, lab.pods());
            Ok(report.good())
        }
        Scenario::Rack => {
            let (options, mut progress) = (arguments.options(4, 1), Progress::default());
            let net = ground(arguments, &announce, &mut progress)?;
            let each = (options.nodes / 2).max(1);
            let racks = Racks::new(&net, each, &mut progress)?;
            let (report, pods) = racks.play(options.pods, &mut progress)?;
            print(&report, arguments.json)?;
            keep(&net, racks.nodes(), &pods);
            Ok(report.good())
        }
    }
}

/// Refuses what would not be heeded.
fn check(arguments: &Arguments) -> Result<()> {
    if arguments.scenario != Scenario::Modes {
        ensure!(!arguments.modes.given(), "--modes, --rate and --no-sequence are of --scenario modes");
        return Ok(());
    }
    let sqlite = arguments.datastore == Datastore::Sqlite;
    ensure!(
        !arguments.keep && sqlite && arguments.pods.is_none(),
        "--scenario modes plays on SQLite with a pod a node and takes everything down: it has no --datastore, --pods or --keep"
    );
    Ok(())
}

/// The topology's ground: a segment and a store.
fn ground(arguments: &Arguments, announce: &dyn Fn(&Path), progress: &mut Progress) -> Result<Net> {
    progress.step(&format!("a segment and the {:?} store", arguments.datastore), || {
        Net::announced(arguments.datastore.kind(), announce)
    })
}

fn print(report: &(impl serde::Serialize + std::fmt::Display), json: bool) -> Result<()> {
    use std::io::Write as _;
    let text = if json { serde_json::to_string_pretty(report)? } else { format!("\n{report}") };
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever read us has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot print the report"),
    }
}

/// How a person gets inside.
fn doors(net: &Net, nodes: &[Node<'_>], pods: &[Pod<'_, '_>]) -> String {
    let mut text =
        "\nThe lab stays up until Ctrl-C. Inside a node `calicoctl` works without further settings.\n".to_owned();
    for node in nodes {
        text += &format!("  {}: {} bash\n", node.name(), node.holder().door());
    }
    if let Some(pod) = pods.first() {
        let inside = format!("ip netns exec cni-{} bash", pod.name());
        text += &format!("  a pod: {} {inside}\n", pod.node().holder().door());
    }
    text + &format!("  logs: {}", net.directory().join("logs").display())
}
