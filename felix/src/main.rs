//! The agent of a node: brings it up, serves the CNI plugins, keeps the kernel's routes as the datastore wants them.
//!
//! This file only wires. `DESIGN.md` beside the crate says what is promised; the tasks are:
//!
//! ```text
//!  datastore ──watch──► feed ──► kernel    owns felix-calc and felix-dataplane     ◄── kernel notifications
//!                         │        ▲
//!                         └──► allocator   owns ipam::Allocator
//!                                  ▲
//!  CNI plugins ──socket──► agent ──┘  one task a conversation; one more removes what is gone, one works off the spool
//! ```
//! Beside them: `tunnels` gives tunnel devices their addresses when `kernel` says that they are up, `condition` tells Kubernetes
//! what is not as it should be (`findings`), `redetect` looks at the node's addresses again, `settings` follows FelixConfiguration, `availability` tells
//! Kubernetes whether pods may come.

mod agent;
mod allocator;
mod arguments;
mod availability;
mod bring_up;
mod condition;
mod config;
mod feed;
mod findings;
mod kernel;
mod known;
mod metrics;
mod redetect;
mod settings;
mod state;
mod status_files;
mod takeover;
mod told;
mod tunnels;

use std::collections::{BTreeMap, btree_map};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use calico_agent::Finding;
use calico_daemon::{Health, HttpServer, LogLevel, give_back_idle_memory, init_adjustable_logs, terminated};
use calico_datastore::connect_core;
use clap::Parser;
use felix_calc::{Calc, Routing};
use felix_dataplane::Dataplane;
use felix_dataplane::nft::{self, PacketRules};
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tracing::{error, info};

use agent::{Agent, Listener, see_off, work_off};
use allocator::Addresses;
use arguments::Arguments;
use availability::Availability;
use bring_up::{Patience, Site, bring_up, find_parameters, name};
use config::{Backend, Config, Raw};
use feed::{Feed, Pools};
use findings::{Findings, Source};
use kernel::{Forbidden, Kernel, Reporters, Rules, Surroundings};
use known::Known;
use metrics::Metrics;
use settings::{Listeners, Settings, tell_idle};
use state::State;
use status_files::StatusFiles;
use tunnels::{Devices, Giver};

/// How much may queue between two tasks before the sender waits.
const QUEUE: usize = 1024;

/// How Felix ends when nothing is wrong.
enum Ending {
    /// Somebody asked for it.
    Stopped,
    /// To be started again with another configuration.
    Restart,
}

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
        Ok(Ending::Stopped) => ExitCode::SUCCESS,
        Ok(Ending::Restart) => ExitCode::from(settings::RESTART),
        Err(error) => {
            error!(error = format!("{error:#}"), "Felix stops");
            eprintln!("felix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What serves before there is a store, and until the end.
struct Daemon {
    health: Health,
    registry: Registry,
    metrics: Metrics,
    /// The servers of health and metrics, by their addresses.
    servers: BTreeMap<SocketAddr, HttpServer>,
    level: LogLevel,
}

impl Daemon {
    /// Serves health and metrics where the configuration says, and nowhere else.
    async fn listen(&mut self, config: &Config) -> anyhow::Result<()> {
        let wanted: BTreeMap<SocketAddr, &str> = [
            (config.metrics, "PrometheusMetricsHost, PrometheusMetricsPort"),
            (config.health, "HealthHost, HealthPort"),
        ]
        .into_iter()
        .filter_map(|(address, parameters)| Some((address?, parameters)))
        .collect();
        self.servers.retain(|address, _| wanted.contains_key(address));
        for (address, parameters) in wanted {
            if let btree_map::Entry::Vacant(vacant) = self.servers.entry(address) {
                let server = HttpServer::start(address, self.health.clone(), self.registry.clone()).await;
                vacant.insert(server.context(parameters)?);
            }
        }
        Ok(())
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<Ending> {
    let mut settings = configuration(arguments)?;
    let level = init_adjustable_logs(&settings.config.logs).context("logs cannot be started")?;
    tokio::spawn(give_back_idle_memory());
    for problem in &settings.config.problems {
        error!(problem, "configuration");
    }
    tell_idle(settings.config.idle.iter());
    let variable = |key: &str| std::env::var(key).ok();
    let mut datastore = calico_datastore::Config::from_environment(variable)?;
    let node = name::determine(&settings.config.node)?;
    info!(version = calico_version::LONG, node, "Felix starts");
    let parameters = find_parameters(settings.config.proc_sys_net.as_deref())?;
    info!(folder = %parameters.display(), "kernel parameters");

    let (health, registry) = (Health::default(), Registry::new());
    let startup = health.reporter("FelixStartup", None);
    let metrics = Metrics::register(&registry)?;
    metrics.resync_state.set(1);
    let mut daemon = Daemon { health, registry, metrics, servers: BTreeMap::new(), level };
    daemon.listen(&settings.config).await?;

    // Bring-up waits for the store as long as it takes; a signal ends that, too.
    let start = async {
        let mut patience = Patience::new(&startup);
        let connect = "connect to the datastore";
        patience.progress(connect);
        let mut store = patience.until_answered(connect, || calico_datastore::connect(&datastore)).await?;
        let prefix = settings.config.interface_prefixes.clone();
        settings.read(&store, &node, &mut patience).await?;
        daemon.level.set(&settings.config.logs.level).context("LogSeverityScreen")?;
        daemon.listen(&settings.config).await?;
        // Endpoints in Kubernetes are called by their interfaces, and the store was told of another prefix.
        if let calico_datastore::Config::Kubernetes(kubernetes) = &mut datastore
            && settings.config.interface_prefixes != prefix
        {
            kubernetes.interface_prefix = settings.config.interface_prefixes.first().cloned();
            store = patience.until_answered(connect, || calico_datastore::connect(&datastore)).await?;
        }
        let beside = patience.until_answered("connect to Kubernetes", || connect_core(&datastore, variable)).await?;
        let is_kubernetes = matches!(datastore, calico_datastore::Config::Kubernetes(_));
        let kubernetes = beside.or_else(|| is_kubernetes.then(|| store.clone()));
        let use_pod_cidr = matches!(&datastore, calico_datastore::Config::Kubernetes(found) if found.use_pod_cidr);
        let config = Arc::new(settings.config.clone());
        let site = Site { config, name: node, store, use_pod_cidr, kubernetes };
        let brought_up = bring_up(&site, &mut patience).await?;
        anyhow::Ok((site, brought_up))
    };
    let stopped = tokio::select! {
        signal = terminated() => Err(signal),
        started = start => Ok(started?),
    };
    let (site, brought_up) = match stopped {
        Ok(started) => started,
        Err(signal) => {
            info!(signal, "Felix stops");
            return Ok(Ending::Stopped);
        }
    };
    startup.report(true, true, "node is up");
    let has_pods = matches!(datastore, calico_datastore::Config::Kubernetes(_));
    serve(site, settings, has_pods, brought_up.node_mtu, daemon).await
}

/// Command line, environment and file.
fn configuration(arguments: &Arguments) -> anyhow::Result<Settings> {
    let path = arguments.config_file.as_deref().unwrap_or(Path::new(arguments::DEFAULT_FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && arguments.config_file.is_none() => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let environment =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let raw = Raw::read(&arguments.set, environment, text.as_deref().map(|text| (path, text)))?;
    Ok(Settings::local(raw, Box::new(|key| std::env::var(key).ok()))?)
}

/// The packet rules; without them everything else goes on.
///
/// # Errors
/// What the operator should know.
fn packet_rules(config: &Config) -> Result<Rules, Finding> {
    let opened = PacketRules::open(nft::Settings {
        nat_outgoing_address: config.nat.address,
        nat_port_range: config.nat.ports,
        exclude_hosts: config.nat.exclude_hosts,
        interface_filter: config.nat.interface.clone(),
        vxlan_port: config.tunnels.vxlan_port,
        prefixes: config.interface_prefixes.clone(),
        vxlan_from_pods: config.nat.vxlan_from_pods,
        ipip_from_pods: config.nat.ipip_from_pods,
        ipv6: config.ipv6,
    });
    let rules = opened.map_err(|error| error.to_string()).and_then(|rules| {
        Rules::new(rules).map_err(|error| format!("their notifications cannot be waited for: {error}"))
    });
    rules.map_err(|reason| {
        let text = format!("packet rules are not programmed, pools' natOutgoing does nothing: {reason}; restart Felix");
        Finding { object: "nftables".to_owned(), text }
    })
}

/// Starts the tasks and serves until a signal, until another configuration needs a restart, or until a task ends.
async fn serve(
    site: Site,
    settings: Settings,
    has_pods: bool,
    node_mtu: u32,
    daemon: Daemon,
) -> anyhow::Result<Ending> {
    let Daemon { health, registry: _registry, metrics, servers: _servers, level } = daemon;
    let (config, node, store) = (site.config.clone(), site.name.clone(), site.store.clone());
    let (state, state_reader) = watch::channel(State { pod_mtu: node_mtu, ..State::default() });
    let (to_calc, calc_updates) = mpsc::channel(QUEUE);
    let (to_allocator, allocator_updates) = mpsc::channel(4 * QUEUE);
    let (orders, kernel_orders) = mpsc::channel(QUEUE);
    let (addresses, jobs) = Addresses::channel();
    let (departures, leaving) = mpsc::channel(QUEUE);

    let findings = Findings::new();
    let (devices, devices_seen) = watch::channel(Devices::default());
    let calc = Calc::new(felix_calc::Settings {
        node: node.clone(),
        prefixes: config.interface_prefixes.clone(),
        routing: match config.node.backend {
            Backend::Bird => Routing::Bgp,
            Backend::Vxlan => Routing::WithoutBgp,
            Backend::None => Routing::Off,
        },
        felix_programs: settings.programs.clone(),
        external_nodes: config.tunnels.external_nodes.clone(),
    });
    let [ipip_mtu, vxlan_mtu, vxlan_mtu_v6] = config.tunnels.configured_mtus();
    let dataplane = Dataplane::open(felix_dataplane::Settings {
        prefixes: config.interface_prefixes.clone(),
        protocol: config.route_protocol,
        metric_ipv4: config.route_metric_ipv4,
        metric_ipv6: config.route_metric_ipv6,
        ipv6: config.ipv6,
        vxlan_port: config.tunnels.vxlan_port,
        vxlan_vni: config.tunnels.vxlan_vni,
        vxlan_mtu,
        vxlan_mtu_v6,
        ipip_mtu,
        checksum_offload_broken: config.tunnels.checksum_offload_broken,
        // With backend none the routes are those of another network, which may well speak BGP by BIRD.
        sweep_bird: config.node.backend == Backend::Vxlan,
    })
    .context("the kernel's netlink sockets cannot be opened; Felix needs root and its node's network namespace")?;
    let silence =
        |name: &str, seconds| Some(config.health_timeouts.get(name).copied().unwrap_or(Duration::from_secs(seconds)));
    let reporters = Reporters {
        calculation: health.reporter("CalculationGraph", silence("CalculationGraph", 30)),
        dataplane: health.reporter("InternalDataplaneMainLoop", silence("InternalDataplaneMainLoop", 90)),
    };
    let files = StatusFiles::new(config.endpoint_status.as_deref());
    let rules = packet_rules(&config);
    let problem = |text: &String| Finding { object: "configuration".to_owned(), text: text.clone() };
    let configured = config.problems.iter().map(problem).chain(rules.as_ref().err().cloned());
    findings.tell(Source::Configuration, configured.collect());
    let rules = rules.ok();
    let forbidden = Forbidden {
        ipip: config.tunnels.ipip == Some(false) && config.node.backend != Backend::None,
        vxlan: config.tunnels.vxlan == Some(false) && config.node.backend != Backend::None,
    };
    let surroundings = Surroundings { state: state.clone(), devices, findings: findings.clone(), forbidden };
    let kernel = Kernel::new(calc, dataplane, rules, surroundings, metrics.clone(), reporters, files)
        .context("the kernel's notifications cannot be waited for")?;
    let mtus = config.tunnels.mtus(node_mtu);
    let (pools, pools_seen) = watch::channel(Pools::default());
    let (node_stored, node_seen) = watch::channel(None);
    let (made_anew, is_made_anew) = watch::channel(0);
    let known = Known::default();
    let feed = Feed {
        use_pod_cidr: site.use_pod_cidr,
        node: node_stored,
        known: has_pods.then(|| known.clone()),
        calc: to_calc.clone(),
        allocator: to_allocator,
        state,
        mtus,
        forbidden,
        mtu_file: config.mtu_file.clone(),
        pools,
        prefixes: config.interface_prefixes.clone(),
        findings: findings.clone(),
        faults: BTreeMap::new(),
    };
    let giver = Giver {
        site: site.clone(),
        addresses: addresses.clone(),
        pools: pools_seen,
        node: node_seen.clone(),
        devices: devices_seen.clone(),
        kernel: orders.clone(),
        findings: findings.clone(),
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
        known,
        addresses,
        departures,
        kernel: orders,
        state: state_reader.clone(),
        findings: findings.clone(),
        devices: devices_seen,
        mtus,
        metrics,
    });
    let listener = Listener::bind(&config.socket).await?;

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(kernel.run(calc_updates, kernel_orders, config.route_refresh));
    tasks.spawn(allocator::run(allocator, allocator_updates, jobs));
    tasks.spawn(feed.run(store.clone(), node.clone()));
    tasks.spawn(work_off(agent.clone()));
    tasks.spawn(see_off(agent.clone(), leaving));
    tasks.spawn(redetect::run(site.clone(), node_seen.clone(), made_anew, to_calc.clone()));
    tasks.spawn(giver.run());
    tasks.spawn(condition::run(site.clone(), findings.clone(), state_reader, is_made_anew.clone()));
    // These two may end, and have an end of their own.
    let availability = Availability::new(&site);
    let up = tokio::spawn(availability.clone().run(health, is_made_anew)).abort_handle();
    let listeners = Listeners { level, findings, calc: to_calc };
    let mut follow = tokio::spawn(settings.follow(store, node, listeners, node_seen));

    let mut ended = None;
    let mut restart = false;
    let mut farewell = None;
    let stop = async {
        tokio::select! {
            signal = terminated() => {
                info!(signal, "Felix stops, the kernel stays as it is");
                up.abort();
                farewell = Some(tokio::spawn(availability.down()));
            }
            changed = &mut follow => {
                info!(parameters = ?changed.unwrap_or_default(), "configuration changed, Felix has to be started again");
                restart = true;
            }
            // A task ends only by a defect; everything is recovered by a restart.
            task = tasks.join_next() => ended = Some(task),
        }
    };
    // Nobody is served before the addresses that another plugin gave are known.
    if takeover::is_wanted(|key| std::env::var(key).ok()) {
        tokio::select! {
            () = takeover::run(&agent, Path::new(takeover::FOLDER)) => {}
            signal = terminated() => {
                info!(signal, "Felix stops");
                return Ok(Ending::Stopped);
            }
        }
    }
    listener.serve(agent, stop).await;
    follow.abort();
    if let Some(farewell) = farewell {
        // It takes two seconds at most.
        let _ = farewell.await;
    }
    match ended {
        None if restart => Ok(Ending::Restart),
        None => Ok(Ending::Stopped),
        Some(Some(Err(error))) => Err(error).context("a task of Felix failed; this is a defect"),
        Some(_) => anyhow::bail!("a task of Felix ended; this is a defect"),
    }
}
