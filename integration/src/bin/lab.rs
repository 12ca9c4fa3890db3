//! `cargo xtask lab`: the main job on this machine, without anything of a cluster installed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, mpsc};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use integration::lab::{Lab, Options, Progress, Report};
use integration::{Net, Node, StoreKind};
use nix::sys::signal::{SigSet, Signal};

/// Makes nodes and pods on this machine, lets them find each other over BGP, and shows what the programs say of it.
#[derive(Debug, Parser)]
#[command(name = "lab", version = calico_version::LONG)]
struct Arguments {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=240))]
    nodes: u8,
    /// How many pods on each node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=500))]
    pods: u16,
    /// Which store the nodes share.
    #[arg(long, value_enum, default_value_t = Datastore::Sqlite)]
    datastore: Datastore,
    /// Stay up until Ctrl-C, and say how to get inside.
    #[arg(long)]
    keep: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
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
    let store = match arguments.datastore {
        Datastore::Sqlite => StoreKind::Sqlite,
        Datastore::Etcd => StoreKind::Etcd,
        Datastore::Kubernetes => StoreKind::Kubernetes,
    };
    let options = Options { nodes: arguments.nodes, pods: arguments.pods, store };
    let mut progress = Progress::default();
    let net = progress.step(&format!("a segment and the {:?} store", arguments.datastore), || {
        Net::announced(store, |folder| interrupt.clean_up(folder.to_owned()))
    })?;

    let nodes = Lab::nodes(&net, options, &mut progress)?;
    let lab = Lab::start(&nodes, options, &mut progress)?;
    let report = lab.report(&net, &mut progress)?;
    print(&report, arguments.json)?;
    if arguments.keep {
        eprintln!("{}", doors(&net, &nodes, &lab));
        interrupt.wait();
        eprintln!("taking everything down");
    }
    Ok(report.good())
}

fn print(report: &Report, json: bool) -> Result<()> {
    use std::io::Write as _;
    let text = if json { serde_json::to_string_pretty(report)? } else { format!("\n{report}") };
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever read us has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot print the report"),
    }
}

/// How a person gets inside.
fn doors(net: &Net, nodes: &[Node<'_>], lab: &Lab<'_>) -> String {
    let mut text =
        "\nThe lab stays up until Ctrl-C. Inside a node `calicoctl` works without further settings.\n".to_owned();
    for node in nodes {
        text += &format!("  {}: {} bash\n", node.name(), node.holder().door());
    }
    if let Some(pod) = lab.pods().first() {
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
