//! `cargo xtask lab`: the main job and other scenarios on this machine, without anything of a cluster installed.

mod cluster;
mod modes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use integration::lab::{Lab, Options, Progress, Racks, reflectors};
use integration::{Net, Node, Pod, StoreKind};
use nix::sys::signal::{SigSet, Signal};

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
    if arguments.scenario == Scenario::Modes {
        return modes::play(&arguments.modes, arguments.nodes, arguments.json);
    }
    let store = match arguments.datastore {
        Datastore::Sqlite => StoreKind::Sqlite,
        Datastore::Etcd => StoreKind::Etcd,
        Datastore::Kubernetes => StoreKind::Kubernetes,
    };
    let (nodes, pods) = match arguments.scenario {
        Scenario::Main => (3, 2),
        Scenario::Reflectors => (6, 1),
        Scenario::Rack | Scenario::Modes => (4, 1),
    };
    let options = Options { nodes: arguments.nodes.unwrap_or(nodes), pods: arguments.pods.unwrap_or(pods), store };
    let mut progress = Progress::default();
    let net = progress.step(&format!("a segment and the {:?} store", arguments.datastore), || {
        Net::announced(store, |folder| interrupt.clean_up(folder.to_owned()))
    })?;
    let keep = |nodes: &[Node<'_>], pods: &[Pod<'_, '_>]| {
        if arguments.keep {
            eprintln!("{}", doors(&net, nodes, pods));
            interrupt.wait();
            eprintln!("taking everything down");
        }
    };
    match arguments.scenario {
        Scenario::Main => {
            let nodes = Lab::nodes(&net, options, &mut progress)?;
            let lab = Lab::start(&nodes, options, &mut progress)?;
            let report = lab.report(&net, &mut progress)?;
            print(&report, arguments.json)?;
            keep(&nodes, lab.pods());
            Ok(report.good())
        }
        Scenario::Reflectors => {
            let nodes = Lab::nodes(&net, options, &mut progress)?;
            let lab = Lab::start(&nodes, options, &mut progress)?;
            let report = reflectors(&nodes, &lab, &mut progress)?;
            print(&report, arguments.json)?;
            keep(&nodes, lab.pods());
            Ok(report.good())
        }
        // Played above.
        Scenario::Modes => Ok(false),
        Scenario::Rack => {
            let each = (options.nodes / 2).max(1);
            let racks = Racks::new(&net, each, &mut progress)?;
            let (report, pods) = racks.play(options.pods, &mut progress)?;
            print(&report, arguments.json)?;
            keep(racks.nodes(), &pods);
            Ok(report.good())
        }
    }
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

/// What happens on Ctrl-C and SIGTERM: the namespaces go with us, the folder must be removed.
struct Interrupt {
    folder: Arc<Mutex<Option<PathBuf>>>,
    waiting: Arc<Mutex<Option<mpsc::Sender<()>>>>,
}

impl Interrupt {
    fn catch() -> Self {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        // Blocked here, before there are threads, so that only the one below takes them.
        if let Err(error) = signals.thread_block() {
            eprintln!("Ctrl-C will leave a temporary folder behind: {error}");
        }
        let (folder, waiting) =
            (Arc::<Mutex<Option<PathBuf>>>::default(), Arc::<Mutex<Option<mpsc::Sender<()>>>>::default());
        std::thread::spawn({
            let (folder, waiting) = (folder.clone(), waiting.clone());
            move || {
                while signals.wait().is_ok() {
                    if let Ok(Some(sender)) = waiting.lock().map(|mut waiting| waiting.take()) {
                        let _ = sender.send(());
                        continue;
                    }
                    if let Ok(Some(folder)) = folder.lock().map(|mut folder| folder.take()) {
                        let _ = std::fs::remove_dir_all(folder);
                    }
                    eprintln!("\ninterrupted");
                    std::process::exit(130);
                }
            }
        });
        Self { folder, waiting }
    }

    fn clean_up(&self, path: PathBuf) {
        if let Ok(mut folder) = self.folder.lock() {
            *folder = Some(path);
        }
    }

    fn wait(&self) {
        let (sender, receiver) = mpsc::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            *waiting = Some(sender);
        }
        let _ = receiver.recv();
    }
}
