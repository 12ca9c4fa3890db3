//! Tunnel devices get their addresses, and the Node says them to the others.
//!
//! Others send through a tunnel as soon as they see its address on the Node. So an address is written there when the device
//! unwraps packets and has it itself (without one the kernel drops what it would answer by another device, where
//! `conf.all.rp_filter` is on), and taken away when the device is gone, which is a while after no pool wants it any more. A node
//! without such an address is reached as before, so a pool that is full takes down nothing but its tunnel.
//!
//! An address that the Node says is released only after it says another: until then others send to it.

mod decision;
mod kind;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use calico_agent::Finding;
use calico_api::{
    AllocationAttribute, IPAMBlockSpec, IPAMConfigurationSpec, IPAMHandleSpec, Key, Kind, Node, NodeSpec, PoolUse,
};
use calico_datastore::{Entry, Error, decode};
use ipam::{AssignRequest, Assignment, block, handle, plan};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

use crate::allocator::{Addresses, IpamError, PATIENCE};
use crate::bring_up::Site;
use crate::feed::Pools;
use crate::findings::{Findings, Source};
use crate::kernel::Order;
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
    /// Who puts addresses on devices.
    pub(crate) kernel: mpsc::Sender<Order>,
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
    /// What failed last.
    failed: Option<Failed>,
    finding: Option<Finding>,
}

/// A try that failed.
#[derive(Debug)]
struct Failed {
    /// With these; with others it is tried at once.
    inputs: Inputs,
    /// When it is tried again, and how long that was waited for.
    again: (Instant, Duration),
}

impl Progress {
    /// How long it is still to be waited, if it failed with the same inputs.
    fn waits(&mut self, inputs: &Inputs, now: Instant) -> Option<Instant> {
        self.failed.take_if(|failed| failed.inputs != *inputs);
        self.failed.as_ref().map(|failed| failed.again.0).filter(|at| now < *at)
    }

    /// It failed; returns when it is tried again.
    fn fail(&mut self, inputs: Inputs, now: Instant) -> Instant {
        let wait = self.failed.as_ref().map_or(FIRST, |failed| (failed.again.1 * 2).min(LONGEST));
        self.failed = Some(Failed { inputs, again: (now + wait, wait) });
        self.done = None;
        now + wait
    }
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
        if let Some(at) = progress.waits(&inputs, now) {
            return Some(at);
        }
        match self.settle(tunnel, device).await {
            Ok(finding) => {
                progress.failed = None;
                progress.finding = finding;
                progress.done = Some(inputs);
                None
            }
            Err(reason) => {
                progress.finding = Some(Finding { object: tunnel.object(), text: reason });
                Some(progress.fail(inputs, now))
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
        let held = if device == Device::Up { self.held(tunnel, &handle).await? } else { Vec::new() };
        let has = |address: IpAddr| held.iter().any(|held| held.address == address);
        let holder = match stored.filter(|_| matches!(device, Device::Up | Device::Gone)) {
            // Its pool may be gone, or say what cannot be; the handle knows.
            Some(stored) if has(stored) => Holder::Ours,
            Some(stored) => self.holder(tunnel, stored).await?,
            None => Holder::Nobody,
        };
        let others = || held.iter().map(|held| held.address).filter(|address| Some(*address) != stored);
        let facts = Facts {
            device,
            stored,
            holder,
            has_pool: !networks.is_empty(),
            inside: stored.as_ref().is_some_and(is_inside),
            spare: others().find(is_inside),
            surplus: others().next().is_some(),
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
            Step::Announce(address) => self.announce(tunnel, address, &held).await?,
            Step::Assign { tidy } => {
                if tidy && held.is_empty() {
                    self.release(&handle).await?;
                }
                let assigned = self.assign(tunnel, &inputs, Vec::new()).await;
                let address = assigned.map_err(|reason| match stored.filter(|_| holder == Holder::Ours) {
                    Some(stored) => keeps(stored, &reason),
                    None => consequence(tunnel, &reason),
                })?;
                self.announce(tunnel, address, &held).await?;
            }
            Step::Adopt(address) => {
                self.release_unmarked(address).await?;
                let address = match self.assign(tunnel, &inputs, vec![address]).await {
                    Ok(address) => address,
                    // Somebody was faster.
                    Err(_) => {
                        let other = self.assign(tunnel, &inputs, Vec::new()).await;
                        other.map_err(|reason| consequence(tunnel, &reason))?
                    }
                };
                self.announce(tunnel, address, &held).await?;
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

    /// Has an address on the device, then on the Node; whatever else the handle holds is released then.
    async fn announce(&self, tunnel: Tunnel, address: IpAddr, held: &[Assignment]) -> Result<(), String> {
        self.put_on_device(tunnel, address).await?;
        self.write(tunnel, Some(address)).await?;
        let others: Vec<Assignment> = held.iter().filter(|held| held.address != address).cloned().collect();
        if others.is_empty() {
            return Ok(());
        }
        let key = Key::named(Kind::IPAMConfiguration, "default");
        let cooldown = match timeout(PATIENCE, self.site.store.get::<IPAMConfigurationSpec>(&key)).await {
            Ok(Ok(found)) => plan::cooldown(&found.spec),
            Ok(Err(Error::NotFound(_) | Error::Corrupt(_))) => SignedDuration::ZERO,
            Ok(Err(error)) => return Err(failed("read IPAMConfiguration", &error.to_string())),
            Err(_) => return Err(failed("read IPAMConfiguration", SILENT)),
        };
        let handle = tunnel.handle(&self.site.name);
        self.release_exactly(Some(&handle), &others, cooldown).await
    }

    /// Has the kernel's task put an address on the device, beside what the Node says.
    async fn put_on_device(&self, tunnel: Tunnel, address: IpAddr) -> Result<(), String> {
        let (done, reply) = oneshot::channel();
        let asked = async {
            self.kernel.send(Order::Address { tunnel, address, done }).await.ok()?;
            reply.await.ok()
        };
        let what = format!("put {address} on {}", tunnel.device());
        match timeout(PATIENCE, asked).await {
            Ok(Some(result)) => result.map_err(|reason| failed(&what, &reason)),
            Ok(None) => Err(failed(&what, "Felix is stopping")),
            Err(_) => Err(failed(&what, "the kernel takes too long")),
        }
    }

    /// Who has an address.
    async fn holder(&self, tunnel: Tunnel, address: IpAddr) -> Result<Holder, String> {
        let Some(network) = self.block_of(address) else { return Ok(Holder::Nobody) };
        let Some(found) = self.block(network).await? else { return Ok(Holder::Nobody) };
        let Some((attribute, _)) = block::who_has(&found, address) else { return Ok(Holder::Nobody) };
        Ok(self.judge(tunnel, attribute))
    }

    /// What a block says of the holder of an address.
    fn judge(&self, tunnel: Tunnel, attribute: &AllocationAttribute) -> Holder {
        let node = &self.site.name;
        let secondary = attribute.secondary.clone().unwrap_or_default();
        let wanted = tunnel.attributes(node);
        let says = |key: &str| secondary.get(key).and_then(Option::as_ref) == wanted.get(key);
        match &attribute.handle_id {
            _ if attribute.released_at.is_some() => Holder::CoolingDown,
            Some(_) if block::is_of(attribute, &tunnel.handle(node)) && (says("type") || secondary.is_empty()) => {
                Holder::Ours
            }
            None if secondary.is_empty() => Holder::Unmarked,
            _ if says("node") && says("type") => Holder::Ours,
            _ => Holder::Others,
        }
    }

    /// The addresses that IPAM has under a tunnel's handle, as the tunnel's.
    async fn held(&self, tunnel: Tunnel, handle: &str) -> Result<Vec<Assignment>, String> {
        let found = timeout(PATIENCE, self.site.store.get::<IPAMHandleSpec>(&Key::Handle(handle.to_owned()))).await;
        let counted = match found {
            Ok(Ok(found)) => found.spec,
            Ok(Err(Error::NotFound(_))) => return Ok(Vec::new()),
            Ok(Err(error)) => return Err(failed(&format!("read handle {handle}"), &error.to_string())),
            Err(_) => return Err(failed(&format!("read handle {handle}"), SILENT)),
        };
        let mut addresses = Vec::new();
        for (network, _) in handle::blocks(&counted) {
            let Some(found) = self.block(network).await? else { continue };
            for address in block::addresses_of(&found, handle) {
                if let Some((attribute, sequence_number)) = block::who_has(&found, address)
                    && self.judge(tunnel, attribute) == Holder::Ours
                {
                    addresses.push(Assignment { block: network, address, sequence_number });
                }
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
        let refused = |error: IpamError| format!("IPAM gives it no address ({error}); it is asked again");
        let mut assigning = self.addresses.assign(request, None).await.map_err(refused)?;
        let settled = assigning.settled().await.map_err(refused)?;
        let address = settled.assigned.first().map(|assigned| assigned.address);
        address.ok_or_else(|| "IPAM gave it no address; it is asked again".to_owned())
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
        self.release_exactly(None, &assignment, SignedDuration::ZERO).await
    }

    async fn release_exactly(
        &self,
        handle: Option<&str>,
        assignments: &[Assignment],
        cooldown: SignedDuration,
    ) -> Result<(), String> {
        let all: Vec<String> = assignments.iter().map(|assignment| assignment.address.to_string()).collect();
        let what = format!("release {}", all.join(", "));
        let store = &self.site.store;
        let released = ipam::release_assignments(store, handle, assignments, cooldown, Timestamp::now());
        match timeout(PATIENCE, released).await {
            Ok(result) => result.map(drop).map_err(|error| failed(&what, &error.to_string())),
            Err(_) => Err(failed(&what, SILENT)),
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

/// What it means that a tunnel gets no other address.
fn keeps(address: IpAddr, reason: &str) -> String {
    format!(
        "its address {address} is of no enabled pool for such tunnels of this node any more; it keeps it until it has another: \
         {reason}"
    )
}

/// What it means for the network that a tunnel has no address.
fn consequence(tunnel: Tunnel, reason: &str) -> String {
    let field = tunnel.field();
    format!(
        "without an address in {field} of the Node nobody sends through it to this node, packets go as before: {reason}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_waits_twice_as_long_each_time_unless_something_has_changed() {
        let inputs = |stored: Option<&str>| Inputs {
            device: Device::Up,
            stored: stored.map(str::to_owned),
            uid: None,
            pools: BTreeSet::new(),
        };
        let start = Instant::now();
        let mut progress = Progress::default();
        assert_eq!(progress.waits(&inputs(None), start), None);
        let again = progress.fail(inputs(None), start);
        assert_eq!((again, progress.waits(&inputs(None), start)), (start + FIRST, Some(again)));
        assert_eq!(progress.waits(&inputs(None), again), None);
        assert_eq!(progress.fail(inputs(None), start), start + 2 * FIRST);
        assert_eq!(progress.waits(&inputs(Some("10.0.0.1")), start), None, "others are tried at once");
        assert_eq!(progress.fail(inputs(Some("10.0.0.1")), start), start + FIRST);
        let longest = (0..10).map(|_| progress.fail(inputs(None), start)).last();
        assert_eq!(longest, Some(start + LONGEST));
    }
}
