//! The BGP speaker's process: options in, parts wired, the speaker run until it is told to stop.

use std::cell::RefCell;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bgp_plan::workloads::EndpointStatus;
use bgp_speaker::bird::Family;
use bgp_speaker::metrics::Metrics;
use bgp_speaker::options::{self, KernelMode, Options};
use bgp_speaker::sockets::{self, Dialect};
use bgp_speaker::speaker::{self, Parts};
use bgp_speaker::status::Overview;
use bgp_speaker::watched::Sources;
use bgp_speaker::{bystander, kernel, node_status};
use calico_daemon::{
    Health, LogLevel, LogOptions, Reporter, give_back_idle_memory, init_adjustable_logs, serve_http, terminated,
};
use calico_datastore::config::connect_core;
use calico_datastore::{Config, Store, connect};
use clap::Parser as _;
use prometheus::Registry;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

/// The pauses between attempts to reach the datastore: from the first, doubling, to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The speaker reports every 15 s; silent for so long, it hangs.
const SILENCE: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    let options = Options::parse();
    let level = options.log_level.clone().unwrap_or_else(|| "info".to_owned());
    let log_level = match init_adjustable_logs(&LogOptions { level, format: options.log_format }) {
        Ok(log_level) => log_level,
        Err(error) => {
            eprintln!("bgp-speaker: {error}");
            return ExitCode::FAILURE;
        }
    };
    // One thread for sessions and RIB: they share everything and wait for nothing. The kernel's has its own runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("cannot start the runtime").and_then(|runtime| {
        let result = runtime.block_on(run(options, log_level));
        // Lookups of names and files may be stuck in threads of their own; nobody waits for them.
        runtime.shutdown_timeout(Duration::from_millis(200));
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!(error = format!("{failure:#}"), "cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options, log_level: LogLevel) -> anyhow::Result<()> {
    let stop = terminated();
    tokio::pin!(stop);
    let node = options::node_name(options.nodename.as_deref(), &options.nodename_file, options::hostname)?;
    let settings = options.settings()?;
    let config = datastore(&options)?;
    info!(node, version = calico_version::LONG, "starting");

    let (health, registry) = (Health::default(), Registry::new());
    let metrics = Metrics::new(&registry)?;
    let reporter = health.reporter("BGP", Some(SILENCE));
    let address = serve_http(options.http, health, registry).await?;
    info!(%address, "health and metrics are served");
    tokio::spawn(give_back_idle_memory());

    let kernel = match options.kernel {
        KernelMode::Main => {
            kernel::start().context("cannot work with the kernel's routes; is this process root (CAP_NET_ADMIN)?")?
        }
        KernelMode::None => bystander::start(),
    };
    let (asked, mut queries) = mpsc::channel(16);
    sockets::serve(&options.status_socket, Dialect::Json, asked.clone())?;
    for (name, family) in [("bird.ctl", Family::V4), ("bird6.ctl", Family::V6)] {
        sockets::serve(&options.bird_socket_dir.join(name), Dialect::Bird(family), asked.clone())?;
    }

    let trouble = RefCell::new(None);
    let overview = || Overview::without_datastore(&node, trouble.borrow().clone());
    let (store, core) = tokio::select! {
        stores = reach(&config, &reporter, &trouble) => stores,
        never = sockets::answer_meanwhile(&mut queries, overview) => match never {},
        signal = &mut stop => {
            info!(signal, "stopping");
            return Ok(());
        }
    };
    if !matches!(config, Config::Resources { .. }) {
        tokio::spawn(node_status::write(store.clone(), node.clone(), asked));
    }
    let endpoints = options.endpoint_status_prefix.join(EndpointStatus::FOLDER);
    let core = core.unwrap_or_else(|| store.clone());
    let (sources, heard) = Sources::start(&store, core, &node, options.namespace.clone(), Some(endpoints));
    let parts = Parts {
        node,
        router_id: options.router_id,
        sources,
        heard,
        settings,
        // What the environment says overrides BGPConfiguration, as with Calico.
        log_level: options.log_level.is_none().then_some(log_level),
        last_good: options.last_good,
        unresolved: options.kernel == KernelMode::None,
        queries,
        kernel,
        metrics,
        health: reporter,
    };
    speaker::run(parts, stop).await
}

/// Which datastore the options name.
fn datastore(options: &Options) -> anyhow::Result<Config> {
    if let Some(path) = &options.resources {
        return Ok(Config::Resources { path: path.clone() });
    }
    let variable = |name: &str| {
        let short = options.datastore.as_ref().and_then(|datastore| datastore.variable(name));
        short.or_else(|| std::env::var(name).ok())
    };
    let config = match &options.datastore {
        // What is said in short is meant: no calicoctl.cfg that happens to be there changes it.
        Some(_) => Config::from_environment(variable),
        None => Config::load(options.config.as_deref(), variable),
    };
    config.context("the datastore's configuration cannot be used")
}

/// Opens the datastore, and the cluster's API where Services and Secrets are elsewhere, however long that takes;
/// `trouble` is why it takes so long.
async fn reach(config: &Config, health: &Reporter, trouble: &RefCell<Option<String>>) -> (Store, Option<Store>) {
    let mut pause = RECONNECT.0;
    loop {
        let stores = async {
            let store = connect(config).await?;
            let core = match config {
                Config::Resources { .. } => None, // everything is in the file
                _ => connect_core(config, |name| std::env::var(name).ok()).await?,
            };
            Ok::<_, calico_datastore::Error>((store, core))
        };
        match stores.await {
            Ok(stores) => return stores,
            Err(error) => {
                let reason = Some(error.to_string());
                if *trouble.borrow() == reason {
                    debug!(%error, "datastore still cannot be reached");
                } else {
                    warn!(%error, "datastore cannot be reached; trying again");
                }
                health.report(true, false, format!("waiting for the datastore: {error}"));
                trouble.replace(reason);
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}
