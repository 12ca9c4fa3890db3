//! The BGP speaker's process: options in, parts wired, the speaker run until it is told to stop.

use anyhow::Context as _;
use bgp_speaker::bird::Family;
use bgp_speaker::kernel;
use bgp_speaker::metrics::Metrics;
use bgp_speaker::options::{self, Options};
use bgp_speaker::sockets::{self, Dialect};
use bgp_speaker::speaker::{self, Parts};
use bgp_speaker::status::Overview;
use bgp_speaker::watched::watched;
use calico_daemon::{Health, LogOptions, Reporter, init_logs, serve_http, terminated};
use calico_datastore::{Config, Store, connect};
use clap::Parser as _;
use prometheus::Registry;
use std::cell::RefCell;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

/// The pauses between attempts to reach the datastore: from the first, doubling, to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The speaker reports every 15 s; silent for so long, it hangs.
const SILENCE: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    let options = Options::parse();
    if let Err(error) = init_logs(&LogOptions { level: options.log_level.clone(), format: options.log_format }) {
        eprintln!("bgp-speaker: {error}");
        return ExitCode::FAILURE;
    }
    // One thread for sessions and RIB: they share everything and wait for nothing. The kernel's has its own runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.context("cannot start the runtime").and_then(|runtime| {
        let result = runtime.block_on(run(options));
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

async fn run(options: Options) -> anyhow::Result<()> {
    let stop = terminated();
    tokio::pin!(stop);
    let node = options::node_name(options.nodename.as_deref(), &options.nodename_file, options::hostname)?;
    let config = Config::load(options.config.as_deref(), |name| std::env::var(name).ok())
        .context("the datastore's configuration cannot be used")?;
    info!(node, version = calico_version::LONG, "starting");

    let (health, registry) = (Health::default(), Registry::new());
    let metrics = Metrics::new(&registry)?;
    let reporter = health.reporter("BGP", Some(SILENCE));
    let address = serve_http(options.http, health, registry).await?;
    info!(%address, "health and metrics are served");

    let kernel =
        kernel::start().context("cannot work with the kernel's routes; is this process root (CAP_NET_ADMIN)?")?;
    let (asked, mut queries) = mpsc::channel(16);
    sockets::serve(&options.status_socket, Dialect::Json, asked.clone())?;
    for (name, family) in [("bird.ctl", Family::V4), ("bird6.ctl", Family::V6)] {
        sockets::serve(&options.bird_socket_dir.join(name), Dialect::Bird(family), asked.clone())?;
    }

    let trouble = RefCell::new(None);
    let overview = || Overview::without_datastore(&node, trouble.borrow().clone());
    let store = tokio::select! {
        store = reach(&config, &reporter, &trouble) => store,
        never = sockets::answer_meanwhile(&mut queries, overview) => match never {},
        signal = &mut stop => {
            info!(signal, "stopping");
            return Ok(());
        }
    };
    let updates = calico_datastore::watch::watch(&store, watched(&node));
    let router_id = options.router_id;
    let parts = Parts { node, router_id, updates, queries, kernel, metrics, health: reporter };
    speaker::run(parts, stop).await
}

/// Opens the datastore, however long that takes; `trouble` is why it takes so long.
async fn reach(config: &Config, health: &Reporter, trouble: &RefCell<Option<String>>) -> Store {
    let mut pause = RECONNECT.0;
    loop {
        match connect(config).await {
            Ok(store) => return store,
            Err(error) => {
                warn!(%error, "datastore cannot be reached; trying again");
                health.report(true, false, format!("waiting for the datastore: {error}"));
                trouble.replace(Some(error.to_string()));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}
