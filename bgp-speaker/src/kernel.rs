//! How do learned prefixes become kernel routes? A thread that alone talks netlink.
//!
//! Ours are the routes of the main table with protocol 12, those that a BIRD left behind included, black holes and
//! tunnels' too. The thread keeps an image of everybody else's routes, links and addresses ([`Fib`]), judges each
//! learned prefix by it again when something changes that may matter, and lets [`RouteTable`](calico_netlink::RouteTable)
//! write the difference. Nothing is removed before [`Command::Sweep`]; at the end everything stays.
//!
//! | file | question |
//! |---|---|
//! | `thread.rs` | what does the thread wait for, and what does it do then? |
//! | `changes.rs` | what does a change in the kernel mean to us? |
//! | `dependents.rs` | which prefixes and next hops may a change matter to? |
//! | `write.rs` | how do decisions become routes, and what if the kernel refuses? |
//! | `report.rs` | what is the speaker told? |
//! | `told.rs` | which of others' routes was the speaker told of, and which is it still to hear of? |
//!
//! [`Fib`]: crate::fib::Fib

mod changes;
mod dependents;
#[cfg(test)]
mod model;
mod report;
mod thread;
mod told;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::Families;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};

use crate::fib::{Learned, Ownership};
use crate::status::{KernelStatus, Report};

pub use crate::fib::KernelRoute;

/// The protocol number of BIRD, which marks routes learned by BGP.
pub const PROTOCOL: u8 = 12;

/// What the speaker tells the kernel's thread.
#[derive(Debug)]
pub enum Command {
    /// The best paths of these prefixes changed; `None` is none.
    Learned(Vec<(IpNet, Option<Learned>)>),
    /// What the next [`Command::Learned`] ends for these prefixes, their peers have withdrawn: such routes, if they were learned
    /// since the start, need not wait for [`Command::Sweep`].
    Withdrawn(Vec<IpNet>),
    /// These next hops are to be looked up and watched (`true`), or no longer.
    NextHops(Vec<(IpAddr, bool)>),
    /// Pools, blocks or priorities changed.
    Ownership(Ownership),
    /// Exactly these peers are reached by host routes through these gateways (`reachableBy`).
    Statics(BTreeMap<IpAddr, IpAddr>),
    /// Which of others' routes the speaker wants to hear of; before the first of these it hears of none.
    Interest(Interest),
    /// From now on routes that nobody wants may be removed: datastore and peers have spoken.
    Sweep,
    /// Fill in how the kernel sees the paths, and answer.
    Complete(Box<Report>, oneshot::Sender<Report>),
}

/// Which of others' routes the speaker wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// All.
    All,
    /// Those for prefixes inside one of these, and those to connected networks and tunnels' addresses.
    Inside(Vec<IpNet>),
}

/// How a watched next hop is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// How far it is: 0 on a connected link, 1 beyond a router.
    pub metric: u32,
    /// The interface by which packets leave.
    pub interface: Option<Arc<str>>,
}

/// The watched next hops and how they are reached; `None` is not at all.
pub type Reachable = BTreeMap<IpAddr, Option<Reach>>;

/// Others' routes that changed, each prefix with its route of the lowest metric, or none any more.
pub type KernelRoutes = Vec<(IpNet, Option<KernelRoute>)>;

/// The speaker's end.
#[derive(Debug)]
pub struct Handle {
    /// Commands, in order.
    pub commands: mpsc::Sender<Command>,
    /// How the kernel's side is.
    pub status: watch::Receiver<KernelStatus>,
    /// Which next hops lead anywhere.
    pub reachable: watch::Receiver<Reachable>,
    /// Others' routes, by difference to what was told before. After all that is known when an [`Interest`] arrives, an
    /// empty message says that this was all.
    pub routes: mpsc::Receiver<KernelRoutes>,
    /// Families whose cluster routes were in the kernel at the start: this is no boot, so forwarding has gone on.
    pub preserved: Families,
}

impl Handle {
    /// Whether the thread has found out something about next hops that was not taken yet.
    pub fn unresolved(&self) -> bool {
        self.reachable.has_changed().unwrap_or(false)
    }
}

/// The thread's end.
#[derive(Debug)]
struct Outlets {
    status: watch::Sender<KernelStatus>,
    reachable: watch::Sender<Reachable>,
    routes: mpsc::Sender<KernelRoutes>,
}

/// Starts the thread.
///
/// # Errors
/// If netlink cannot be opened or read, or there is no thread to be had.
pub fn start() -> io::Result<Handle> {
    let (commands, inbox) = mpsc::channel(16);
    let (status_sender, status) = watch::channel(KernelStatus::default());
    let (reachable_sender, reachable) = watch::channel(Reachable::default());
    let (route_sender, routes) = mpsc::channel(1);
    let outlets = Outlets { status: status_sender, reachable: reachable_sender, routes: route_sender };
    let (ready, opened) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new().name("kernel".to_owned()).stack_size(512 * 1024).spawn(move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        runtime.block_on(async move {
            let mut kernel = match thread::Kernel::open(outlets) {
                Ok(kernel) => kernel,
                Err(error) => return drop(ready.send(Err(io::Error::other(format!("{error:#}"))))),
            };
            let _ = ready.send(Ok(kernel.preserved()));
            kernel.run(inbox).await;
        });
    })?;
    let opened = opened.recv().unwrap_or_else(|_| Err(io::Error::other("the kernel's thread ended at its start")));
    opened.map(|preserved| Handle { commands, status, reachable, routes, preserved })
}
