//! The agent of a node: brings it up, serves the CNI plugins, keeps the kernel's routes as the datastore wants them.
//!
//! This file only wires. `DESIGN.md` beside the crate says what is promised; the tasks are:
//!
//! ```text
//!  datastore ──watch──► feed ──► kernel    owns felix-calc and felix-dataplane     ◄── kernel notifications
//!                         │        ▲
//!                         └──► allocator   owns ipam::Allocator
//!                                  ▲
//!  CNI plugins ──socket──► agent ──┘  one task a conversation; one more works off the spool
//! ```

mod agent;
mod allocator;
mod arguments;
mod bring_up;
mod config;
mod feed;
mod kernel;
mod metrics;
mod state;
mod status_files;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use calico_daemon::{Health, init_logs, serve_http, terminated};
use calico_datastore::Store;
use clap::Parser;
use felix_calc::Calc;
use felix_dataplane::Dataplane;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use agent::{Agent, Listener, work_off};
use allocator::Addresses;
use arguments::Arguments;
use bring_up::{bring_up, name, patiently};
use config::{Config, Raw};
use feed::Feed;
use kernel::{Kernel, Reporters};
use metrics::Metrics;
use state::State;
use status_files::StatusFiles;

/// How much may queue between two tasks before the sender waits.
const QUEUE: usize = 1024;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One thread: all work is short, and a second one's memory would be the larger part of a second Felix.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("felix: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(&arguments));
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "Felix stops");
            eprintln!("felix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let variable = |key: &str| std::env::var(key).ok();
    let config = configuration(arguments, &variable)?;
    init_logs(&config.logs).context("logs cannot be started")?;
    for problem in &config.problems {
        error!(problem, "configuration");
    }
    if !config.unknown.is_empty() {
        info!(parameters = ?config.unknown, "parameters are set that have no effect here");
    }
    let datastore = calico_datastore::Config::from_environment(variable)?;
    let node = name::determine(&config.node)?;
    info!(version = calico_version::LONG, node, "Felix starts");

    let (health, registry) = (Health::default(), Registry::new());
    let startup = health.reporter("FelixStartup", None);
    let metrics = Metrics::register(&registry)?;
    metrics.resync_state.set(1);
    if let Some(address) = config.health {
        serve_http(address, health.clone(), registry.clone()).await.context("HealthHost, HealthPort")?;
    }
    if let Some(address) = config.metrics.filter(|address| Some(*address) != config.health) {
        serve_http(address, health.clone(), registry).await.context("PrometheusMetricsHost, PrometheusMetricsPort")?;
    }

    // Bring-up waits for the store as long as it takes; a signal ends that, too.
    let start = async {
        startup.report(true, false, "connecting to the datastore");
        let store = patiently("connect to the datastore", || calico_datastore::connect(&datastore)).await?;
        let brought_up = bring_up(&config, &node, &store, &startup).await?;
        anyhow::Ok((store, brought_up))
    };
    let stopped = tokio::select! {
        signal = terminated() => Err(signal),
        started = start => Ok(started?),
    };
    let (store, brought_up) = match stopped {
        Ok(started) => started,
        Err(signal) => {
            info!(signal, "Felix stops");
            return Ok(());
        }
    };
    startup.report(true, true, "node is up");
    let has_pods = matches!(datastore, calico_datastore::Config::Kubernetes(_));
    serve(&config, node, (store, has_pods), brought_up.node_mtu, &health, metrics).await
}

/// Command line, environment and file, as one configuration.
fn configuration(arguments: &Arguments, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Config> {
    let path = arguments.config_file.as_deref().unwrap_or(Path::new(arguments::DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && arguments.config_file.is_none() => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let environment =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let raw = Raw::read(&arguments.set, environment, text.as_deref().map(|text| (path, text)))?;
    Ok(Config::parse(&raw, variable)?)
}

/// Starts the tasks and serves until a signal or until one of them ends.
async fn serve(
    config: &Config,
    node: String,
    (store, has_pods): (Store, bool),
    node_mtu: u32,
    health: &Health,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let (state, state_reader) = watch::channel(State { pod_mtu: node_mtu, ..State::default() });
    let (to_calc, calc_updates) = mpsc::channel(QUEUE);
    let (to_allocator, allocator_updates) = mpsc::channel(4 * QUEUE);
    let (orders, kernel_orders) = mpsc::channel(QUEUE);
    let (addresses, jobs) = Addresses::channel();

    let calc = Calc::new(felix_calc::Settings { node: node.clone(), prefixes: config.interface_prefixes.clone() });
    let dataplane = Dataplane::open(felix_dataplane::Settings {
        prefixes: config.interface_prefixes.clone(),
        protocol: config.route_protocol,
        metric_ipv4: config.route_metric_ipv4,
        metric_ipv6: config.route_metric_ipv6,
        ipv6: config.ipv6,
    })
    .context("the kernel's netlink sockets cannot be opened; Felix needs root and its node's network namespace")?;
    let reporters = Reporters {
        calculation: health.reporter("CalculationGraph", Some(Duration::from_secs(30))),
        dataplane: health.reporter("InternalDataplaneMainLoop", Some(Duration::from_secs(90))),
    };
    let files = StatusFiles::new(config.endpoint_status.as_deref());
    let kernel = Kernel::new(calc, dataplane, state.clone(), metrics.clone(), reporters, files)
        .context("the kernel's notifications cannot be waited for")?;
    let feed = Feed {
        calc: to_calc,
        allocator: to_allocator,
        state,
        node_mtu,
        mtu_file: config.mtu_file.clone(),
        pools: Default::default(),
    };
    let allocator = ipam::Allocator::new(store.clone(), node.clone());
    let agent = Arc::new(Agent {
        node: node.clone(),
        prefix: config.interface_prefixes.first().cloned().unwrap_or_default(),
        ipv6: config.ipv6,
        spool: config.spool.clone(),
        turns: agent::Turns::default(),
        has_pods,
        store: store.clone(),
        addresses,
        kernel: orders,
        state: state_reader,
        metrics,
    });
    let listener = Listener::bind(&config.socket).await?;

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(kernel.run(calc_updates, kernel_orders, config.route_refresh));
    tasks.spawn(allocator::run(allocator, allocator_updates, jobs));
    tasks.spawn(feed.run(store, node));
    tasks.spawn(work_off(agent.clone()));
    let mut ended = None;
    let stop = async {
        tokio::select! {
            signal = terminated() => info!(signal, "Felix stops, the kernel stays as it is"),
            // A task ends only by a defect; everything is recovered by a restart.
            task = tasks.join_next() => ended = Some(task),
        }
    };
    listener.serve(agent, stop).await;
    match ended {
        None => Ok(()),
        Some(Some(Err(error))) => Err(error).context("a task of Felix failed; this is a defect"),
        Some(_) => anyhow::bail!("a task of Felix ended; this is a defect"),
    }
}
