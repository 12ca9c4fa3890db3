//! Controllers beside a store; the test plays kubelets, scheduler and felix.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_api::{
    BlockAffinitySpec, ControllersConfig, IPAMBlock, IPAMBlockSpec, IPAMHandleSpec, IPPool, IPPoolSpec, Key, Kind,
    KubeControllersConfiguration, KubeControllersConfigurationSpec, Node, NodeControllerConfig, NodeSpec, ObjectMeta,
    PoolUse, WorkloadEndpoint, WorkloadEndpointSpec, workload_endpoint_name,
};
use calico_datastore::{Filter, Store};
use integration::datastore::Datastore;
use integration::process::Process;
use integration::wait;
use ipam::{Allocator, AssignRequest};
use ipnet::IpNet;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Within what anything must have happened on a busy machine; grace and period are far shorter.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The grace period that the tests set.
pub(crate) const GRACE: Duration = Duration::from_secs(3);

/// One controller process.
pub(crate) struct Replica {
    pub(crate) process: Process,
}

impl Replica {
    /// Whether it has ever acted or led, by its own words.
    pub(crate) fn has_said(&self, words: &str) -> Result<bool> {
        Ok(self.process.output()?.contains(words))
    }
}

/// A store, and where files go.
pub(crate) struct Bed {
    runtime: Runtime,
    pub(crate) store: Store,
    environment: Vec<(&'static str, String)>,
    folder: TempDir,
    started: std::cell::Cell<usize>,
}

impl Bed {
    /// Opens the store and puts pools and settings there.
    pub(crate) fn new(datastore: &Datastore, folder: TempDir) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let store = runtime.block_on(datastore.open())?;
        let bed =
            Self { runtime, store, environment: datastore.environment(), folder, started: std::cell::Cell::new(0) };
        let pool = |name: &str, cidr: &str, size, uses| {
            let spec = IPPoolSpec { block_size: Some(size), allowed_uses: Some(uses), ..IPPoolSpec::new(cidr) };
            IPPool::new(ObjectMeta::named(name), spec)
        };
        let uses = vec![PoolUse::Workload, PoolUse::Tunnel];
        bed.block_on(bed.store.create(&pool("four", "10.244.0.0/20", 30, uses.clone())))?;
        bed.block_on(bed.store.create(&pool("six", "fd00:10:244::/112", 126, uses)))?;
        let grace = format!("{}s", GRACE.as_secs());
        let node = NodeControllerConfig { leak_grace_period: Some(grace), ..NodeControllerConfig::default() };
        let controllers = ControllersConfig { node: Some(node), ..ControllersConfig::default() };
        let spec = KubeControllersConfigurationSpec { controllers, ..KubeControllersConfigurationSpec::default() };
        bed.block_on(bed.store.create(&KubeControllersConfiguration::new(ObjectMeta::named("default"), spec)))?;
        Ok(bed)
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A variable for the controllers that are started from now on.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.environment.retain(|(key, _)| *key != name);
        self.environment.push((name, value.into()));
    }

    /// Starts a controller.
    pub(crate) fn start(&self) -> Result<Replica> {
        let number = self.started.get();
        self.started.set(number + 1);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program()?).args(["--listen", "127.0.0.1:0"]);
        command.env_clear().env("LOG_LEVEL", "debug").env("HOSTNAME", format!("replica-{number}"));
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        let log = self.folder.path().join(format!("controller-{number}.log"));
        Ok(Replica { process: Process::start(format!("ipam-controller {number}"), &mut command, log)? })
    }

    /// Makes Calico's node.
    pub(crate) fn create_node(&self, name: &str) -> Result<()> {
        let node = Node::new(ObjectMeta::named(name), NodeSpec::default());
        self.block_on(self.store.create(&node)).map(drop).map_err(Into::into)
    }

    /// Takes addresses of both families for a container of a pod, as its node's felix does.
    pub(crate) fn take(&self, node: &str, pod: &str, container: &str) -> Result<Vec<IpAddr>> {
        self.assign(
            node,
            &format!("k8s-pod-network.{container}"),
            PoolUse::Workload,
            &[("node", node), ("namespace", "default"), ("pod", pod)],
        )
    }

    /// Takes addresses under a handle.
    pub(crate) fn assign(
        &self,
        node: &str,
        handle: &str,
        pool_use: PoolUse,
        attributes: &[(&str, &str)],
    ) -> Result<Vec<IpAddr>> {
        let mut allocator = Allocator::new(self.store.clone(), node.to_owned());
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request = AssignRequest { ipv6: true, pool_use, attributes, ..AssignRequest::ipv4(handle) };
        let given = self.block_on(allocator.assign(&request, jiff::Timestamp::now()))?;
        Ok(given.iter().map(|it| it.address).collect())
    }

    /// Says in the endpoint which addresses a pod has, as felix does before ADD ends.
    pub(crate) fn show(&self, node: &str, pod: &str, container: &str, addresses: &[IpAddr]) -> Result<Key> {
        let name = workload_endpoint_name(node, "k8s", pod, "eth0");
        let spec = WorkloadEndpointSpec {
            orchestrator: "k8s".into(),
            node: node.into(),
            pod: pod.into(),
            endpoint: "eth0".into(),
            container_id: container.into(),
            ip_networks: addresses.iter().map(|address| IpNet::from(*address).to_string()).collect(),
            ..WorkloadEndpointSpec::default()
        };
        let metadata = ObjectMeta { namespace: Some("default".into()), ..ObjectMeta::named(name) };
        let endpoint = WorkloadEndpoint::new(metadata, spec);
        self.block_on(self.store.create(&endpoint))?;
        Ok(endpoint.key())
    }

    pub(crate) fn blocks(&self) -> Result<Vec<IPAMBlock>> {
        let list = self.block_on(self.store.list::<IPAMBlockSpec>(&Filter::All))?;
        ensure!(list.faults.is_empty(), "{:?}", list.faults);
        Ok(list.items)
    }

    /// The handle that holds an address.
    pub(crate) fn holder(&self, address: IpAddr) -> Result<Option<String>> {
        Ok(ipam::who_has(&self.blocks()?, address).and_then(|holder| holder.handle))
    }

    pub(crate) fn handles(&self) -> Result<Vec<String>> {
        let list = self.block_on(self.store.list::<IPAMHandleSpec>(&Filter::All))?;
        Ok(list.items.into_iter().map(|handle| handle.spec.handle_id).collect())
    }

    /// How many affinities and blocks a node has.
    pub(crate) fn claims(&self, node: &str) -> Result<(usize, usize)> {
        let affinities = self.block_on(self.store.list::<BlockAffinitySpec>(&Filter::All))?.items;
        let affinities = affinities.iter().filter(|it| it.spec.node == node).count();
        let owner = format!("host:{node}");
        let blocks = self.blocks()?.iter().filter(|it| it.spec.affinity.as_deref() == Some(&*owner)).count();
        Ok((affinities, blocks))
    }

    /// Waits until nobody holds these addresses.
    pub(crate) fn released(&self, what: &str, addresses: &[IpAddr], replicas: &[&Replica]) -> Result<()> {
        self.becomes(&format!("{what} is released"), replicas, || {
            addresses.iter().try_fold(true, |all, address| Ok(all && self.holder(*address)?.is_none()))
        })
    }

    /// Waits, and if it is in vain shows what the controllers say.
    pub(crate) fn becomes(
        &self,
        what: &str,
        replicas: &[&Replica],
        condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        wait::becomes(PATIENCE, what, condition).with_context(|| {
            replicas
                .iter()
                .map(|it| format!("{}:\n{}\n", it.process.name(), it.process.last_lines(25)))
                .collect::<String>()
        })
    }

    pub(crate) fn delete_node(&self, name: &str) -> Result<()> {
        self.block_on(self.store.delete_key(&Key::named(Kind::Node, name))).map_err(Into::into)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// The program, built beside the test.
fn program() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.parent().and_then(Path::parent).context("the test has no folder")?;
    let program = folder.join("ipam-controller");
    ensure!(program.is_file(), "{} is not built; `cargo xtask test` builds it", program.display());
    Ok(program)
}
