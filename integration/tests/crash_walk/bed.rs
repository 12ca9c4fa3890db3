//! A node with one pod that nothing may touch, and the question what is left of all others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail, ensure};
use calico_api::{
    AffinityState, BlockAffinitySpec, IPAMBlockSpec, IPAMHandleSpec, IPPool, IPPoolSpec, ObjectMeta,
    WorkloadEndpointSpec,
};
use calico_datastore::{Filter, Store};
use calico_netlink::{RouteFilter, RouteKind, Socket};
use integration::{Net, Node, PATIENCE, wait};
use tokio::runtime::Runtime;

use crate::sandbox::Sandbox;

/// What all interfaces of pods are called.
const PREFIX: &str = "cali";

/// More than any walk has steps.
const POOLS: u16 = 300;

/// A node, its store, and a pod that lives all the time.
pub(crate) struct Bed<'net> {
    pub(crate) node: Node<'net>,
    runtime: Runtime,
    store: Store,
    network: OwnedFd,
    keeper: Option<Sandbox>,
    /// What felix is started with, beside the topology's own.
    environment: Vec<(&'static str, &'static str)>,
}

impl<'net> Bed<'net> {
    /// Brings a node up and its first pod.
    pub(crate) fn new(net: &'net Net) -> Result<Self> {
        Self::with(net, net.node("east")?, &[])
    }

    /// The same, with a node and more for felix' environment. It logs nothing, so that its log is no step.
    pub(crate) fn with(net: &'net Net, node: Node<'net>, more: &[(&'static str, &'static str)]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let underlay = net.network()?;
        // Where the store is a server's, it is reached from the segment alone.
        calico_sys::namespace::enter(std::os::fd::AsFd::as_fd(&underlay))?;
        let store = runtime.block_on(net.datastore().open())?;
        let network = node.holder().network()?;
        // Each step of a walk has a pool of its own, so that ADD must claim a block in it.
        let pools = if net.server().is_some() { POOLS / 10 } else { POOLS };
        for number in 0..pools {
            let spec = IPPoolSpec { block_size: Some(30), ..IPPoolSpec::new(pool(number)) };
            runtime.block_on(store.create(&IPPool::new(ObjectMeta::named(format!("pool-{number}")), spec)))?;
        }
        let environment = [&[("FELIX_LOGSEVERITYSCREEN", "fatal")], more].concat();
        let mut bed = Self { node, runtime, store, network, keeper: None, environment };
        bed.start_felix()?;
        let mut keeper = Sandbox::new(&bed.node, "keeper", "keeper", 0)?;
        keeper.add(&bed.node)?;
        bed.keeper = Some(keeper);
        bed.settles("the first pod is connected", &[])?;
        Ok(bed)
    }

    /// Starts felix and waits until it serves.
    pub(crate) fn start_felix(&self) -> Result<()> {
        self.node.start("felix", &self.environment)?;
        self.node.ready("felix", 9099)
    }

    /// Waits until nothing is there but what belongs to the first pod and to these.
    pub(crate) fn settles(&self, what: &str, live: &[&Sandbox]) -> Result<()> {
        let live: Vec<&Sandbox> = self.keeper.iter().chain(live.iter().copied()).collect();
        wait::becomes(PATIENCE, &format!("{what}, and all else is gone"), || {
            let wrong = self.differences(&live)?;
            ensure!(wrong.is_empty(), "{}", wrong.join("; "));
            Ok(true)
        })?;
        live.iter().try_for_each(|sandbox| sandbox.ping(&self.node))
    }

    /// Whether nothing is there but what belongs to the first pod and to these.
    pub(crate) fn is_settled(&self, live: &[&Sandbox]) -> Result<bool> {
        let live: Vec<&Sandbox> = self.keeper.iter().chain(live.iter().copied()).collect();
        Ok(self.differences(&live)?.is_empty())
    }

    /// How the store, the kernel and the disk differ from what these sandboxes should have.
    fn differences(&self, live: &[&Sandbox]) -> Result<Vec<String>> {
        let wanted: BTreeMap<String, BTreeSet<IpAddr>> =
            live.iter().map(|sandbox| (sandbox.handle(), sandbox.addresses.iter().copied().collect())).collect();
        let addresses: BTreeSet<IpAddr> = wanted.values().flatten().copied().collect();
        ensure!(addresses.len() == live.len(), "an address is two pods': {wanted:?}");
        let mut wrong = Vec::new();
        let mut compare = |what: &str, found: BTreeSet<String>, wanted: BTreeSet<String>| {
            let names = |set: Vec<&String>| set.into_iter().cloned().collect::<Vec<_>>().join(", ");
            let (more, less) =
                (found.difference(&wanted).collect::<Vec<_>>(), wanted.difference(&found).collect::<Vec<_>>());
            if !more.is_empty() {
                wrong.push(format!("{what} left over: {}", names(more)));
            }
            if !less.is_empty() {
                wrong.push(format!("{what} missing: {}", names(less)));
            }
        };
        let text = |set: &BTreeSet<IpAddr>| set.iter().map(ToString::to_string).collect::<BTreeSet<_>>();

        let (blocks, handles, affinities, endpoints) = self.runtime.block_on(async {
            let all = Filter::All;
            anyhow::Ok((
                self.store.list::<IPAMBlockSpec>(&all).await?.items,
                self.store.list::<IPAMHandleSpec>(&all).await?.items,
                self.store.list::<BlockAffinitySpec>(&all).await?.items,
                self.store.list::<WorkloadEndpointSpec>(&all).await?.items,
            ))
        })?;
        let held = |handle: &str, set: &BTreeSet<IpAddr>| {
            set.iter().map(|address| format!("{address} of {handle}")).collect::<Vec<_>>()
        };
        let mut found = BTreeSet::new();
        for block in blocks.iter().map(|block| &block.spec) {
            for (ordinal, index) in block.allocations.iter().enumerate() {
                let Some(attribute) = index.and_then(|index| block.attributes.get(index as usize)) else { continue };
                if attribute.released_at.is_some() {
                    continue; // it cools down, and is nobody's
                }
                let address = block.cidr.hosts_and_more().nth(ordinal).context("more allocations than addresses")?;
                found.insert(format!("{address} of {}", attribute.handle_id.clone().unwrap_or_default()));
            }
        }
        compare("addresses", found, wanted.iter().flat_map(|(handle, set)| held(handle, set)).collect());
        let counts = |spec: &IPAMHandleSpec| format!("{} for {}", spec.handle_id, spec.block.values().sum::<u64>());
        compare(
            "handles",
            handles.iter().map(|handle| counts(&handle.spec)).collect(),
            wanted.iter().map(|(handle, set)| format!("{handle} for {}", set.len())).collect(),
        );
        let confirmed = affinities.iter().filter(|affinity| affinity.spec.state == AffinityState::Confirmed);
        compare(
            "confirmed affinities, compared with blocks,",
            confirmed.map(|affinity| affinity.spec.cidr.to_string()).collect(),
            blocks
                .iter()
                .filter(|block| block.spec.affinity.is_some())
                .map(|block| block.spec.cidr.to_string())
                .collect(),
        );
        let networks = endpoints.iter().flat_map(|endpoint| {
            endpoint.spec.ip_networks.iter().map(|network| format!("{network} of {}", endpoint.spec.container_id))
        });
        compare(
            "endpoints",
            networks.collect(),
            live.iter()
                .flat_map(|one| one.addresses.iter().map(|address| format!("{address}/32 of {}", one.container)))
                .collect(),
        );

        let (links, routes, neighbours) = calico_sys::namespace::inside(&self.network, || {
            let mut socket = Socket::open()?;
            anyhow::Ok((socket.links()?, socket.routes(&RouteFilter::default())?, socket.neighbours()?))
        })??;
        compare(
            "interfaces",
            links.iter().filter(|link| link.name.starts_with(PREFIX)).map(|link| link.name.clone()).collect(),
            live.iter().map(|sandbox| sandbox.interface.clone()).collect(),
        );
        let ours = |address: &IpAddr| matches!(address, IpAddr::V4(address) if address.octets()[0] == 10 && address.octets()[1] >= 128);
        let single = routes.iter().filter(|route| route.kind == RouteKind::Unicast && ours(&route.destination.addr()));
        compare("routes", single.map(|route| route.destination.addr().to_string()).collect(), text(&addresses));
        let known = neighbours.iter().map(|neighbour| neighbour.address).filter(ours);
        compare(
            "neighbours",
            known.filter(|address| !addresses.contains(address)).map(|one| one.to_string()).collect(),
            BTreeSet::new(),
        );

        let spool = self.node.holder().inside("/var/lib/calico/pending-releases");
        let files = match std::fs::read_dir(&spool) {
            Ok(files) => {
                files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?
            }
            Err(_) => BTreeSet::new(),
        };
        compare("remembered releases", files, BTreeSet::new());
        Ok(wrong)
    }

    /// Felix as a process: its id, and its threads of a name.
    pub(crate) fn thread(&self, name: &str) -> Result<u32> {
        let pid = self.node.daemon("felix", |process| Ok(process.pid()))?;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            if std::fs::read_to_string(task.path().join("comm"))?.trim() == name {
                return Ok(task.file_name().to_string_lossy().parse()?);
            }
        }
        bail!("felix has no thread {name}")
    }

    /// Whether felix has been killed.
    pub(crate) fn felix_died(&self) -> Result<bool> {
        let network = self.node.holder().network()?;
        wait::until(PATIENCE, "felix is dead or answers", || {
            if self.node.daemon("felix", |process| process.ended())?.is_some() {
                return Ok(Some(true));
            }
            let answer = calico_sys::namespace::inside(&network, || integration::http::get(9099, "/liveness"))?;
            Ok(answer.is_ok().then_some(false))
        })
    }

    /// Starts it again after that.
    pub(crate) fn revive_felix(&self) -> Result<()> {
        self.node.kill("felix")?;
        self.start_felix()
    }
}

/// The network of a pool.
pub(crate) fn pool(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("10.{}.{low}.0/24", 128 + high)
}

/// All addresses of a network, in order.
trait Addresses {
    fn hosts_and_more(&self) -> impl Iterator<Item = IpAddr>;
}

impl Addresses for ipnet::IpNet {
    fn hosts_and_more(&self) -> impl Iterator<Item = IpAddr> {
        let first = match self.network() {
            IpAddr::V4(first) => u32::from(first),
            IpAddr::V6(_) => unreachable!("these pools are of IPv4"),
        };
        (first..).map(|number| IpAddr::V4(number.into()))
    }
}
