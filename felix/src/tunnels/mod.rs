//! Tunnel devices get their addresses, and the Node says them to the others.
//!
//! Others send through a tunnel as soon as they see its address on the Node. So an address is written there when the device
//! unwraps packets, and taken away when the device is gone, which is a while after no pool wants it any more. A node without
//! such an address is reached as before, so a pool that is full takes down nothing but its tunnel.

mod decision;
mod kind;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use calico_agent::Finding;
use calico_api::{IPAMBlockSpec, IPAMHandleSpec, Key, Kind, Node, NodeSpec, PoolUse};
use calico_datastore::{Entry, Error, decode};
use ipam::{AssignRequest, Assignment, block, handle};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

use crate::allocator::{Addresses, IpamError, PATIENCE};
use crate::bring_up::Site;
use crate::feed::Pools;
use crate::findings::{Findings, Source};
use decision::{Device, Facts, Holder, Step, decide};
pub(crate) use kind::Tunnel;

/// How long a device may take to come up before its address is withdrawn.
const COMING: Duration = Duration::from_secs(10);
/// The first and the longest wait after something failed.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// How often others may write the Node between our reading and our writing.
const TRIES: usize = 5;

/// What the kernel's side says of the tunnel devices, in the order of [`Tunnel::ALL`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Devices {
    /// Whether the rest is known yet.
    pub(crate) in_sync: bool,
    /// Which the pools want.
    pub(crate) wanted: [bool; 3],
    /// Which unwrap packets.
    pub(crate) up: [bool; 3],
    /// The addresses that the Node says.
    pub(crate) addresses: [Option<IpAddr>; 3],
}

/// The task that gives addresses.
pub(crate) struct Giver {
    /// The node.
    pub(crate) site: Site,
    /// Where addresses come from.
    pub(crate) addresses: Addresses,
    /// The pools in force.
    pub(crate) pools: watch::Receiver<Pools>,
    /// The Node as it is stored.
    pub(crate) node: watch::Receiver<Option<Entry>>,
    /// The devices.
    pub(crate) devices: watch::Receiver<Devices>,
    /// Where to say what is wrong.
    pub(crate) findings: Findings,
}

/// All that a decision follows from, apart from IPAM.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Inputs {
    device: Device,
    stored: Option<String>,
    uid: Option<String>,
    /// Names and networks of the pools that the address may be of.
    pools: BTreeSet<(String, String)>,
}

/// What is remembered of one tunnel.
#[derive(Debug, Default)]
struct Progress {
    /// For these everything is done.
    done: Option<Inputs>,
    /// Since when the device is wanted and not up.
    coming: Option<Instant>,
    /// When to try again, and how long that was waited for.
    retry: Option<(Instant, Duration)>,
    finding: Option<Finding>,
}

impl Giver {
    /// Looks after the addresses until a channel closes.
    pub(crate) async fn run(mut self) {
        let mut progress: [Progress; 3] = Default::default();
        loop {
            // All marked as seen before anything is asked of the store: what comes meanwhile wakes us again.
            self.pools.mark_unchanged();
            let devices = self.devices.borrow_and_update().clone();
            let node = self.node.borrow_and_update().clone();
            // Without a Node there is nobody to tell; when it is there again this is looked at again.
            let node: Option<Node> = node.and_then(|entry| decode::<NodeSpec>(entry).ok());
            let mut next: Option<Instant> = None;
            for (index, (tunnel, progress)) in Tunnel::ALL.into_iter().zip(&mut progress).enumerate() {
                if let Some(node) = &node
                    && let Some(at) = self.look(index, tunnel, progress, &devices, node).await
                {
                    next = Some(next.map_or(at, |next| next.min(at)));
                }
            }
            self.findings.tell(Source::Tunnels, progress.iter().filter_map(|one| one.finding.clone()).collect());
            let later = next.unwrap_or_else(|| Instant::now() + LONGEST);
            let changed = tokio::select! {
                changed = self.pools.changed() => changed,
                changed = self.node.changed() => changed,
                changed = self.devices.changed() => changed,
                () = sleep_until(later), if next.is_some() => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Sees to one tunnel; says when to look again though nothing has changed.
    async fn look(
        &self,
        index: usize,
        tunnel: Tunnel,
        progress: &mut Progress,
        devices: &Devices,
        node: &Node,
    ) -> Option<Instant> {
        let now = Instant::now();
        let flag = |flags: [bool; 3]| flags.get(index).copied().unwrap_or_default();
        let (wanted, up) = (flag(devices.wanted), flag(devices.up));
        if !wanted || up {
            progress.coming = None;
        }
        let device = match (devices.in_sync, wanted, up) {
            (false, ..) => return None,
            (true, true, true) => Device::Up,
            (true, false, true) => Device::Lingering,
            (true, false, false) => Device::Gone,
            (true, true, false) => {
                let since = *progress.coming.get_or_insert(now);
                if now < since + COMING {
                    return Some(since + COMING);
                }
                Device::Failing
            }
        };
        let inputs = self.inputs(tunnel, device, node);
        if progress.done.as_ref() == Some(&inputs) {
            return None;
        }
        if self.site.use_pod_cidr {
            // The datastore shows an IPIP address that follows from the pod CIDR; there is no IPAM to give others.
            progress.finding = (device == Device::Up && tunnel != Tunnel::Ipip).then(|| Finding {
                object: tunnel.object(),
                text:
                    "VXLAN needs an address of Calico's IPAM, which is not in use (USE_POD_CIDR): nobody sends through \
                       it; use ipipMode, or Calico's IPAM"
                        .to_owned(),
            });
            progress.done = Some(inputs);
            return None;
        }
        if let Some((at, _)) = progress.retry.filter(|(at, _)| now < *at) {
            return Some(at);
        }
        match self.settle(tunnel, device).await {
            Ok(finding) => {
                progress.retry = None;
                progress.finding = finding;
                progress.done = Some(inputs);
                None
            }
            Err(reason) => {
                let wait = progress.retry.map_or(FIRST, |(_, before)| (before * 2).min(LONGEST));
                progress.retry = Some((now + wait, wait));
                progress.finding = Some(Finding { object: tunnel.object(), text: reason });
                progress.done = None;
                Some(now + wait)
            }
        }
    }

    fn inputs(&self, tunnel: Tunnel, device: Device, node: &Node) -> Inputs {
        let pools = self.pools.borrow();
        let usable = pools.values().filter(|pool| tunnel.may_use(pool, &node.metadata.labels));
        Inputs {
            device,
            stored: tunnel.of(&node.spec).map(str::to_owned),
            uid: node.metadata.uid.clone(),
            pools: usable.map(|pool| (pool.name().to_owned(), pool.spec.cidr.clone())).collect(),
        }
    }

    /// Asks the store, decides and acts. Returns what the operator should know though nothing failed.
    ///
    /// # Errors
    /// What failed, with the next step; it is tried again.
    async fn settle(&self, tunnel: Tunnel, device: Device) -> Result<Option<Finding>, String> {
        let name = &self.site.name;
        let key = Key::named(Kind::Node, name);
        let node: Node = self.bounded("read the Node", self.site.store.get::<NodeSpec>(&key)).await?;
        let inputs = self.inputs(tunnel, device, &node);
        let networks: Vec<IpNet> = inputs.pools.iter().filter_map(|(_, cidr)| cidr.parse().ok()).collect();
        let is_inside = |address: &IpAddr| networks.iter().any(|network| network.contains(address));
        let stored: Option<IpAddr> = inputs.stored.as_ref().and_then(|text| text.parse().ok());
        let handle = tunnel.handle(name);
        let (holder, held) = match device {
            Device::Up | Device::Gone => {
                let holder = match stored {
                    Some(stored) => self.holder(tunnel, stored).await?,
                    None => Holder::Nobody,
                };
                let held = if device == Device::Up { self.held(&handle).await? } else { Vec::new() };
                (holder, held)
            }
            _ => (Holder::Nobody, Vec::new()),
        };
        let spare = match held[..] {
            [only] if is_inside(&only) && Some(only) != stored => Some(only),
            _ => None,
        };
        let facts = Facts {
            device,
            stored,
            holder,
            has_pool: !networks.is_empty(),
            inside: stored.as_ref().is_some_and(is_inside),
            spare,
        };
        let step = decide(&facts);
        debug!(device = tunnel.device(), ?facts, ?step, "address of a tunnel");
        match step {
            Step::Keep => {}
            Step::NoPool => {
                self.write(tunnel, None).await?;
                return Ok(Some(self.without(
                    tunnel,
                    "no enabled pool for tunnels selects this node; check nodeSelector, \
                     disabled and allowedUses of the pools that are encapsulated so",
                )));
            }
            Step::Announce(address) => self.write(tunnel, Some(address)).await?,
            Step::Assign { release } => {
                if release {
                    self.release(&handle).await?;
                }
                let address = self.assign(tunnel, &inputs, Vec::new()).await?;
                self.write(tunnel, Some(address)).await?;
            }
            Step::Adopt(address) => {
                self.release_unmarked(address).await?;
                let address = match self.assign(tunnel, &inputs, vec![address]).await {
                    Ok(address) => address,
                    // Somebody was faster.
                    Err(_) => self.assign(tunnel, &inputs, Vec::new()).await?,
                };
                self.write(tunnel, Some(address)).await?;
            }
            Step::Withdraw => self.write(tunnel, None).await?,
            Step::Clear { also } => {
                self.write(tunnel, None).await?;
                self.release(&handle).await?;
                if let Some(address) = also {
                    self.release_unmarked(address).await?;
                }
            }
        }
        Ok(None)
    }

    fn without(&self, tunnel: Tunnel, reason: &str) -> Finding {
        Finding { object: tunnel.object(), text: consequence(tunnel, reason) }
    }

    /// Who has an address.
    async fn holder(&self, tunnel: Tunnel, address: IpAddr) -> Result<Holder, String> {
        let Some(network) = self.block_of(address) else { return Ok(Holder::Nobody) };
        let Some(found) = self.block(network).await? else { return Ok(Holder::Nobody) };
        let Some((attribute, _)) = block::who_has(&found, address) else { return Ok(Holder::Nobody) };
        let node = &self.site.name;
        let secondary = attribute.secondary.clone().unwrap_or_default();
        let wanted = tunnel.attributes(node);
        let says = |key: &str| secondary.get(key).and_then(Option::as_ref) == wanted.get(key);
        Ok(match &attribute.handle_id {
            _ if attribute.released_at.is_some() => Holder::CoolingDown,
            Some(_) if block::is_of(attribute, &tunnel.handle(node)) && (says("type") || secondary.is_empty()) => {
                Holder::Ours
            }
            None if secondary.is_empty() => Holder::Unmarked,
            _ if says("node") && says("type") => Holder::Ours,
            _ => Holder::Others,
        })
    }

    /// The addresses that IPAM has under a handle.
    async fn held(&self, handle: &str) -> Result<Vec<IpAddr>, String> {
        let found = timeout(PATIENCE, self.site.store.get::<IPAMHandleSpec>(&Key::Handle(handle.to_owned()))).await;
        let counted = match found {
            Ok(Ok(found)) => found.spec,
            Ok(Err(Error::NotFound(_))) => return Ok(Vec::new()),
            Ok(Err(error)) => return Err(failed(&format!("read handle {handle}"), &error.to_string())),
            Err(_) => return Err(failed(&format!("read handle {handle}"), SILENT)),
        };
        let mut addresses = Vec::new();
        for (network, _) in handle::blocks(&counted) {
            if let Some(found) = self.block(network).await? {
                addresses.extend(block::addresses_of(&found, handle));
            }
        }
        Ok(addresses)
    }

    /// The block that an address would be in.
    fn block_of(&self, address: IpAddr) -> Option<IpNet> {
        let pools = self.pools.borrow();
        let pool = pools.values().find(|pool| pool.spec.cidr().is_some_and(|cidr| cidr.contains(&address)))?;
        let size = pool.spec.block_size_for(&pool.spec.cidr()?);
        Some(IpNet::new(address, size).ok()?.trunc())
    }

    async fn block(&self, network: IpNet) -> Result<Option<IPAMBlockSpec>, String> {
        match timeout(PATIENCE, self.site.store.get::<IPAMBlockSpec>(&Key::Block(network))).await {
            Ok(Ok(found)) => Ok(Some(found.spec)),
            Ok(Err(Error::NotFound(_))) => Ok(None),
            Ok(Err(error)) => Err(failed(&format!("read block {network}"), &error.to_string())),
            Err(_) => Err(failed(&format!("read block {network}"), SILENT)),
        }
    }

    async fn assign(&self, tunnel: Tunnel, inputs: &Inputs, exactly: Vec<IpAddr>) -> Result<IpAddr, String> {
        let pools: Vec<String> = inputs.pools.iter().map(|(name, _)| name.clone()).collect();
        let (ipv4_pools, ipv6_pools) = if tunnel.is_ipv6() { (Vec::new(), pools) } else { (pools, Vec::new()) };
        let request = AssignRequest {
            handle: tunnel.handle(&self.site.name),
            ipv4: !tunnel.is_ipv6(),
            ipv6: tunnel.is_ipv6(),
            ipv4_pools,
            ipv6_pools,
            addresses: exactly,
            pool_use: PoolUse::Tunnel,
            attributes: tunnel.attributes(&self.site.name),
        };
        let refused =
            |error: IpamError| consequence(tunnel, &format!("IPAM gives it no address ({error}); it is asked again"));
        let mut assigning = self.addresses.assign(request, None).await.map_err(refused)?;
        let settled = assigning.settled().await.map_err(refused)?;
        let address = settled.assigned.first().map(|assigned| assigned.address);
        address.ok_or_else(|| consequence(tunnel, "IPAM gave it no address; it is asked again"))
    }

    async fn release(&self, handle: &str) -> Result<(), String> {
        let released = self.addresses.release(vec![handle.to_owned()]).await;
        released.map(drop).map_err(|error| failed(&format!("release handle {handle}"), &error.to_string()))
    }

    /// Releases an address that is under no handle.
    async fn release_unmarked(&self, address: IpAddr) -> Result<(), String> {
        let Some(network) = self.block_of(address) else { return Ok(()) };
        let Some(found) = self.block(network).await? else { return Ok(()) };
        let Some((_, sequence_number)) = block::who_has(&found, address) else { return Ok(()) };
        let assignment = [Assignment { block: network, address, sequence_number }];
        let none = SignedDuration::ZERO;
        let store = &self.site.store;
        let released = ipam::release_assignments(store, None, &assignment, none, Timestamp::now());
        match timeout(PATIENCE, released).await {
            Ok(result) => result.map(drop).map_err(|error| failed(&format!("release {address}"), &error.to_string())),
            Err(_) => Err(failed(&format!("release {address}"), SILENT)),
        }
    }

    /// Writes the address onto the Node, if it does not say so already.
    async fn write(&self, tunnel: Tunnel, address: Option<IpAddr>) -> Result<(), String> {
        let (store, key) = (&self.site.store, Key::named(Kind::Node, &self.site.name));
        for _ in 0..TRIES {
            let mut node: Node = self.bounded("read the Node", store.get::<NodeSpec>(&key)).await?;
            if tunnel.of(&node.spec).map(str::to_owned) == address.map(|address| address.to_string()) {
                return Ok(());
            }
            tunnel.set(&mut node.spec, address);
            match timeout(PATIENCE, store.update(&node)).await {
                Ok(Ok(_)) => {
                    let address = address.map(|address| address.to_string());
                    info!(device = tunnel.device(), address, field = tunnel.field(), "address of a tunnel written");
                    return Ok(());
                }
                Ok(Err(Error::Conflict(_))) => {} // somebody was faster: look again
                Ok(Err(error)) => return Err(failed("write the Node", &error.to_string())),
                Err(_) => return Err(failed("write the Node", SILENT)),
            }
        }
        Err(failed("write the Node", "others kept writing it"))
    }

    async fn bounded<T>(&self, what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
        match timeout(PATIENCE, work).await {
            Ok(result) => result.map_err(|error| failed(what, &error.to_string())),
            Err(_) => Err(failed(what, SILENT)),
        }
    }
}

const SILENT: &str = "the datastore does not answer";

fn failed(what: &str, why: &str) -> String {
    format!("its address is not settled, could not {what}: {why}; it is tried again")
}

/// What it means for the network that a tunnel has no address.
fn consequence(tunnel: Tunnel, reason: &str) -> String {
    let field = tunnel.field();
    format!(
        "without an address in {field} of the Node nobody sends through it to this node, packets go as before: {reason}"
    )
}
