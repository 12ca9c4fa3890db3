//! The loop: the watch is taken in, passes are made when they are due, and what they want is done while this replica leads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use calico_api::{
    IPAMHandleSpec, Key, Kind, KubeControllersConfiguration, KubeControllersConfigurationSpec,
    KubeControllersConfigurationStatus, ObjectMeta,
};
use calico_daemon::{
    Health, LogLevel, LogOptions, Reporter, give_back_idle_memory, init_adjustable_logs, serve_http, terminated,
};
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Config, Error, Filter, Store, connect, connect_core, decode};
use ipam_controller::live::Stores;
use ipam_controller::metrics::Metrics;
use ipam_controller::perform::perform;
use ipam_controller::seat::Seat;
use ipam_controller::settings::Settings;
use ipam_controller::{Collector, Image, Mode, Moment, Oddity, Source};
use jiff::Timestamp;
use prometheus::Registry;
use tokio::sync::{mpsc, watch as cell};
use tracing::{debug, error, info, warn};

use crate::arguments::Arguments;

/// The pauses between attempts to reach the datastore: from the first, doubling, to the second.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How often the loop reports, idle or at work.
const ALIVE: Duration = Duration::from_secs(15);

/// Silent for so long, it hangs.
const SILENCE: Duration = Duration::from_secs(120);

/// Where health is served unless an argument says otherwise.
const HEALTH_PORT: u16 = 9094;

/// After a change that calls for a pass, others of its kind are waited for.
const GATHER: Duration = Duration::from_millis(200);

/// The name of the one KubeControllersConfiguration.
const DEFAULT: &str = "default";

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs until a signal.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = Settings::new(None, variable);
    let options = LogOptions { level: settings.log_level.clone(), format: arguments.log_format };
    let level = init_adjustable_logs(&options).context("LOG_LEVEL")?;
    let config = Config::load(arguments.config.as_deref(), variable);
    let config = config.context("the datastore's configuration cannot be used")?;
    anyhow::ensure!(
        !matches!(config, Config::Resources { .. }),
        "a file of resources has no leftovers to collect; name a datastore"
    );
    info!(version = calico_version::LONG, "starting");

    let (health, registry) = (Health::default(), Registry::new());
    let metrics = Metrics::new(&registry)?;
    let reporter = health.reporter("IPAMController", Some(SILENCE));
    let mut stop = std::pin::pin!(terminated());
    let opened = tokio::select! {
        opened = open(&config, &arguments, &reporter) => opened,
        signal = &mut stop => {
            info!(signal, "stopping");
            return Ok(());
        }
    };
    let (stores, seat) = opened;
    let settings = Settings::new(first_settings(&stores.store).await.as_ref(), variable);
    match arguments.listen {
        Some(address) => {
            let address = serve_http(address, health, registry).await?;
            info!(%address, "health and metrics are served");
        }
        // The probes of the manifests ask one port, wherever metrics are wanted, if at all.
        None if settings.metrics_port == Some(HEALTH_PORT) => serve_everywhere(HEALTH_PORT, &health, &registry).await?,
        None => {
            serve_everywhere(HEALTH_PORT, &health, &Registry::new()).await?;
            if let Some(port) = settings.metrics_port {
                serve_everywhere(port, &health, &registry).await?;
            }
        }
    }
    tokio::spawn(give_back_idle_memory());
    let controller = Controller::new(stores, settings, level, metrics, reporter);
    let (leads, leadership) = cell::channel(false);
    tokio::select! {
        () = tend(seat, leads, &mut stop) => Ok(()),
        result = controller.run(leadership) => result,
    }
}

/// Serves on all addresses of the host.
async fn serve_everywhere(port: u16, health: &Health, registry: &Registry) -> anyhow::Result<()> {
    let serve = |address: IpAddr| serve_http(SocketAddr::from((address, port)), health.clone(), registry.clone());
    let address = match serve(Ipv6Addr::UNSPECIFIED.into()).await {
        Ok(address) => address,
        // Where there is no IPv6 at all.
        Err(_) => serve(Ipv4Addr::UNSPECIFIED.into()).await?,
    };
    info!(%address, "health and metrics are served");
    Ok(())
}

/// Opens the stores and a candidacy, however long that takes.
async fn open(config: &Config, arguments: &Arguments, reporter: &Reporter) -> (Stores, Seat) {
    let host = variable("POD_NAME").or_else(|| variable("HOSTNAME")).unwrap_or_else(|| "ipam-controller".to_owned());
    let identity = format!("{host}_{}_{}", std::process::id(), Timestamp::now().as_nanosecond());
    let mut pause = RECONNECT.0;
    let mut told = String::new();
    loop {
        let opened = async {
            let store = connect(config).await?;
            let kubernetes = connect_core(config, variable).await?;
            let mode = match (config, &kubernetes) {
                (Config::Kubernetes(_), _) => Mode::Kubernetes,
                (_, Some(_)) => Mode::Beside,
                (_, None) => Mode::Alone,
            };
            let seat = Seat::at(config, &arguments.namespace, identity.clone()).await?;
            Ok::<_, Error>((Stores { store, kubernetes, mode }, seat))
        };
        match opened.await {
            Ok(opened) => return opened,
            Err(error) => {
                let reason = error.to_string();
                reporter.report(true, false, format!("waiting for the datastore: {reason}"));
                if told != reason {
                    warn!(error = reason, "datastore cannot be reached; trying again");
                    told = reason;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

async fn first_settings(store: &Store) -> Option<KubeControllersConfigurationSpec> {
    let key = Key::named(Kind::KubeControllersConfiguration, DEFAULT);
    store.get::<KubeControllersConfigurationSpec>(&key).await.ok().map(|found| found.spec)
}

/// Keeps the candidacy up until a signal, then gives up the seat.
async fn tend(mut seat: Seat, leads: cell::Sender<bool>, stop: &mut (impl Future<Output = &'static str> + Unpin)) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            signal = &mut *stop => {
                info!(signal, "stopping");
                leads.send_replace(false);
                seat.step_down().await;
                return;
            }
        }
        // While a renewal is under way the time of the last one may run out.
        let remaining = seat.remaining();
        {
            let mut tending = std::pin::pin!(seat.tend());
            tokio::select! {
                () = &mut tending => {}
                () = tokio::time::sleep(remaining.unwrap_or_default()), if remaining.is_some() => {
                    leads.send_replace(false);
                    tending.await;
                }
            }
        }
        pause = seat.pause();
        let now = seat.leads();
        leads.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

struct Controller {
    stores: Stores,
    settings: Settings,
    level: LogLevel,
    metrics: Metrics,
    reporter: Reporter,
    image: Image,
    collector: Collector,
    start: Instant,
    in_sync: [bool; 2],
    trouble: [Option<String>; 2],
    told: std::collections::HashSet<Oddity>,
    /// When the next pass is due, and the next full one.
    next: Instant,
    next_full: Instant,
    /// The settings' resource as last seen, to write its status.
    resource: Option<KubeControllersConfiguration>,
    status_due: bool,
}

impl Controller {
    fn new(stores: Stores, settings: Settings, level: LogLevel, metrics: Metrics, reporter: Reporter) -> Self {
        let now = Instant::now();
        Self {
            image: Image::new(stores.mode),
            stores,
            settings,
            level,
            metrics,
            reporter,
            collector: Collector::new(),
            start: now,
            in_sync: [false, false],
            trouble: [None, None],
            told: Default::default(),
            next: now,
            next_full: now,
            resource: None,
            status_due: true,
        }
    }

    async fn run(mut self, mut leadership: cell::Receiver<bool>) -> anyhow::Result<()> {
        self.set_level();
        for remark in &self.settings.remarks {
            warn!(remark, "settings");
        }
        let mut kinds: Vec<_> = Image::kinds().into_iter().map(|kind| (kind, Filter::All)).collect();
        let settings_filter = Filter::Named { namespace: None, name: DEFAULT.to_owned() };
        kinds.push((Kind::KubeControllersConfiguration, settings_filter));
        let mut updates = watch(&self.stores.store, kinds);
        let mut kubernetes = match &self.stores.kubernetes {
            Some(store) => watch(store, vec![(Kind::Node, Filter::All), (Kind::WorkloadEndpoint, Filter::All)]),
            None => {
                self.in_sync[1] = true;
                mpsc::channel(1).1
            }
        };
        let mut beside = self.stores.kubernetes.is_some();
        loop {
            let leads = *leadership.borrow_and_update();
            self.metrics.leads(leads);
            self.report(leads);
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { anyhow::bail!("the watch ended; this is a defect") };
                    self.take(Source::Store, update);
                }
                update = kubernetes.recv(), if beside => match update {
                    Some(update) => self.take(Source::Kubernetes, update),
                    None => beside = false,
                },
                changed = leadership.changed() => {
                    changed.context("leadership is no longer asked for; this is a defect")?;
                    self.next = Instant::now();
                    self.next_full = self.next;
                    // What seems left over has been watched here all the time, too: the next leader need not begin anew.
                }
                () = tokio::time::sleep_until(self.next.into()), if self.may_pass() => {
                    self.pass(leads, &mut leadership).await;
                }
                () = tokio::time::sleep(ALIVE) => {} // to report
            }
        }
    }

    /// Whether the image can be believed.
    fn may_pass(&self) -> bool {
        self.in_sync == [true, true] && self.trouble == [None, None]
    }

    fn report(&self, leads: bool) {
        let detail = match (&self.trouble, self.in_sync) {
            ([Some(reason), _] | [_, Some(reason)], _) => format!("the datastore does not answer: {reason}"),
            (_, [true, true]) if leads => "leads".to_owned(),
            (_, [true, true]) => "in sync; another replica leads".to_owned(),
            _ => "reading the datastore".to_owned(),
        };
        self.reporter.report(true, self.may_pass(), detail);
    }

    fn take(&mut self, source: Source, update: Update) {
        let place = match source {
            Source::Store => 0,
            Source::Kubernetes => 1,
        };
        match &update {
            Update::InSync => self.in_sync[place] = true,
            Update::Trouble(reason) => self.trouble[place].clone_from(reason),
            Update::Fault(fault) => {
                error!(kind = %fault.kind, name = fault.name, reason = fault.reason, "something in the store cannot be read");
            }
            Update::Put(entry) if entry.key.kind() == Kind::KubeControllersConfiguration => {
                match decode::<KubeControllersConfigurationSpec>(entry.clone()) {
                    Ok(found) => self.configure(Some(found)),
                    Err(error) => warn!(%error, "the settings stay as they were"),
                }
                return;
            }
            Update::Delete(key) if key.kind() == Kind::KubeControllersConfiguration => return self.configure(None),
            _ => {}
        }
        if self.image.observe(source, &update) {
            self.next = self.next.min(Instant::now() + GATHER);
        }
    }

    /// Takes over settings; Calico restarts for this.
    fn configure(&mut self, found: Option<KubeControllersConfiguration>) {
        let settings = Settings::new(found.as_ref().map(|found| &found.spec), variable);
        let changed = settings != self.settings;
        self.status_due |= found.as_ref().is_some_and(|found| {
            found.status.as_ref().and_then(|status| status.running_config.as_ref()) != Some(&settings.running)
        });
        self.resource = found;
        if changed {
            info!(grace = ?settings.patience.grace, period = ?settings.period, "settings have changed");
            for remark in &settings.remarks {
                warn!(remark, "settings");
            }
            self.settings = settings;
            self.set_level();
            self.next = Instant::now();
            self.next_full = self.next;
        }
    }

    fn set_level(&self) {
        if let Err(error) = self.level.set(&self.settings.log_level) {
            warn!(%error, "the log level stays as it was");
        }
    }

    /// One pass, and what it wants if this replica leads; given up when it no longer does.
    async fn pass(&mut self, leads: bool, leadership: &mut cell::Receiver<bool>) {
        let started = Instant::now();
        let full = started >= self.next_full;
        if full {
            self.next_full = started + self.settings.period;
        }
        self.next = self.next_full;
        if leads && full {
            match self.stores.store.list::<IPAMHandleSpec>(&Filter::All).await {
                Ok(list) => self.image.set_handles(list.items),
                Err(error) => warn!(%error, "handles cannot be listed; those without addresses stay for now"),
            }
        }
        let now = Moment { elapsed: self.start.elapsed(), wall: Timestamp::now() };
        let mut pass = self.collector.pass(&mut self.image, self.settings.patience, now);
        self.metrics.counted(&self.image, &pass);
        for oddity in &pass.oddities {
            if leads && self.told.insert(oddity.clone()) {
                tell(oddity);
            }
        }
        self.told.retain(|oddity| pass.oddities.contains(oddity));
        if !leads || !self.settings.collects {
            return;
        }
        if !self.settings.sync_labels {
            pass.actions.retain(|action| !matches!(action, ipam_controller::Action::WriteNode(_)));
        }
        debug!(candidates = pass.candidates.len(), actions = pass.actions.len(), full, "pass");
        if let Some(again) = pass.again {
            self.next = self.next.min(started + again);
        }
        let lost = async {
            // Only `false` can come: it leads now.
            let _ = leadership.wait_for(|leads| !leads).await;
        };
        let work = async {
            if self.status_due {
                write_status(&self.stores.store, self.resource.as_ref(), &self.settings).await;
            }
            perform(&self.stores, self.image.config(), &pass).await
        };
        let reporter = self.reporter.clone();
        let alive = async move {
            loop {
                reporter.report(true, true, "leads, and is at work");
                tokio::time::sleep(ALIVE).await;
            }
        };
        tokio::select! {
            biased;
            () = alive => {}
            () = lost => warn!("leadership is lost; what is not done yet is the next leader's"),
            done = work => {
                self.status_due = false;
                self.metrics.performed(&self.image, &done);
                if done.effective + done.refuted + done.failed > 0 {
                    info!(done = done.effective, refuted = done.refuted, failed = done.failed, "pass ended");
                }
            }
        }
    }
}

/// Says what the settings in force are. It is for people; that it fails is no reason to do anything.
async fn write_status(store: &Store, found: Option<&KubeControllersConfiguration>, settings: &Settings) {
    let fresh = KubeControllersConfiguration::new(
        ObjectMeta::named(DEFAULT),
        KubeControllersConfigurationSpec {
            controllers: settings.running.controllers.clone(),
            ..KubeControllersConfigurationSpec::default()
        },
    );
    let present = match found {
        Some(found) => Ok(found.clone()),
        None => store.create(&fresh).await,
    };
    let written = match present {
        Ok(mut present) => {
            present.status = Some(KubeControllersConfigurationStatus {
                running_config: Some(settings.running.clone()),
                environment_vars: (!settings.variables.is_empty()).then(|| settings.variables.clone()),
            });
            store.update_status(&present).await.map(drop)
        }
        Err(error) => Err(error),
    };
    match written {
        Ok(()) => debug!("running configuration written"),
        Err(Error::Conflict(_) | Error::AlreadyExists(_) | Error::NotFound(_)) => {
            debug!("settings have changed meanwhile")
        }
        Err(error) => warn!(%error, "the running configuration cannot be shown in KubeControllersConfiguration"),
    }
}

fn tell(oddity: &Oddity) {
    match oddity {
        Oddity::OtherNode { address, named, actual } => warn!(
            %address,
            named,
            actual,
            "an address in use names another node than its pod's; check the node name that felix runs with"
        ),
        Oddity::TornBlock(block) => {
            error!(block = ?block, "a block cannot be read; nothing that may have to do with it is collected")
        }
        Oddity::OccupiedNode(node) => {
            warn!(node, "a deleted node still has addresses in use, or such as nobody can judge; its blocks stay")
        }
    }
}
