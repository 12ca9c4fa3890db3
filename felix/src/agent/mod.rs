//! The agent's end of the socket on which the CNI plugins ask.
//!
//! One task a connection, one conversation a connection (the protocol is in [`calico_agent`]); what they do to the
//! world is in [`work`], how a conversation goes in [`conversation`], where they come from in [`listener`].

mod annotations;
mod check;
mod conversation;
mod departure;
mod endpoint;
mod garbage;
mod listener;
mod spool;
mod turns;
mod wire;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use calico_agent::{Failure, NodeStatus};
use calico_datastore::Store;
use tokio::sync::{mpsc, watch};

use crate::allocator::Addresses;
use crate::config::Mtus;
use crate::findings::Findings;
use crate::kernel::Order;
use crate::known::Known;
use crate::metrics::Metrics;
use crate::state::State;
use crate::tunnels::{Devices, Tunnel};

pub(crate) use departure::{Leaving, see_off};
pub(crate) use listener::Listener;
pub(crate) use spool::work_off;
pub(crate) use turns::Turns;

/// How long the store may take for one step of a conversation.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// CNI's error codes.
pub(crate) mod code {
    /// The network configuration is invalid.
    pub(crate) const INVALID: u32 = 7;
    /// Try again later.
    pub(crate) const LATER: u32 = 11;
    /// STATUS: the plugin cannot serve.
    pub(crate) const UNAVAILABLE: u32 = 50;
    /// STATUS: it cannot, and the pods that are there may be badly connected.
    pub(crate) const LIMITED: u32 = 51;
    /// Anything else.
    pub(crate) const OTHER: u32 = 999;
}

/// Everything a conversation needs.
#[derive(Debug)]
pub(crate) struct Agent {
    /// This node's name.
    pub(crate) node: String,
    /// With what the names of new interfaces begin.
    pub(crate) prefix: String,
    /// Whether pods may have IPv6 addresses.
    pub(crate) ipv6: bool,
    /// Where releases wait.
    pub(crate) spool: PathBuf,
    /// Which endpoints are being worked on.
    pub(crate) turns: Turns,
    /// Whether the store shows an orchestrator's pods, which must be there before they are connected.
    pub(crate) has_pods: bool,
    /// Where endpoints are stored.
    pub(crate) store: Store,
    /// What the watches tell of pods and namespaces.
    pub(crate) known: Known,
    /// Where addresses come from.
    pub(crate) addresses: Addresses,
    /// Who does what is left of a DEL.
    pub(crate) departures: mpsc::Sender<Leaving>,
    /// Who programs the kernel.
    pub(crate) kernel: mpsc::Sender<Order>,
    /// How the whole is doing.
    pub(crate) state: watch::Receiver<State>,
    /// What is found that is not as it should be.
    pub(crate) findings: Findings,
    /// How the tunnel devices are.
    pub(crate) devices: watch::Receiver<Devices>,
    /// The MTUs of the node and of its tunnels.
    pub(crate) mtus: Mtus,
    /// What is counted.
    pub(crate) metrics: Metrics,
}

impl Agent {
    /// The state, once Felix can serve.
    ///
    /// # Errors
    /// Code 11 if it cannot within [`PATIENCE`], saying what it waits for.
    async fn ready(&self) -> Result<State, Failure> {
        let mut state = self.state.clone();
        let wait = state.wait_for(|state| state.in_sync && state.datastore_ready == Some(true));
        if let Ok(Ok(state)) = tokio::time::timeout(PATIENCE, wait).await {
            return Ok(state.clone());
        }
        let state = self.state.borrow().clone();
        Err(self.unready(&state))
    }

    /// Whether Felix can serve, at once (CNI's STATUS).
    ///
    /// # Errors
    /// Code 50; 51 if it has not yet seen to the pods that are there.
    fn status(&self) -> Result<(), Failure> {
        let state = self.state.borrow().clone();
        if state.in_sync && state.datastore_ready == Some(true) && state.trouble.is_none() {
            return Ok(());
        }
        let code = if state.in_sync { code::UNAVAILABLE } else { code::LIMITED };
        Err(Failure { code, ..self.unready(&state) })
    }

    /// How the dataplane is.
    fn node_status(&self) -> NodeStatus {
        let devices = self.devices.borrow().clone();
        let mtus = [self.mtus.ipip, self.mtus.vxlan, self.mtus.vxlan_v6];
        let each = Tunnel::ALL.into_iter().zip(devices.wanted).zip(devices.up).zip(devices.addresses).zip(mtus);
        let tunnels = each
            .filter(|((((_, wanted), up), _), _)| *wanted || *up)
            .map(|((((tunnel, wanted), up), address), mtu)| calico_agent::Tunnel {
                device: tunnel.device().to_owned(),
                up,
                wanted,
                address,
                mtu,
            })
            .collect();
        NodeStatus { in_sync: self.state.borrow().in_sync, findings: self.findings.all(), tunnels }
    }

    /// Why Felix cannot serve in this state.
    fn unready(&self, state: &State) -> Failure {
        let store = self.store.backend().describe();
        let (message, details) = match state {
            State { trouble: Some(trouble), .. } => {
                (format!("{store} does not answer"), format!("{trouble}; check the datastore, it is tried again"))
            }
            State { in_sync: false, .. } => (
                "Felix is starting".to_owned(),
                format!(
                    "it has not read everything from {store} yet, or not brought the kernel up to it; its log tells"
                ),
            ),
            State { datastore_ready: Some(false), .. } => (
                "Calico is currently not ready to process requests".to_owned(),
                "datastoreReady of the ClusterInformation default is false: the datastore is locked, \
                 probably for a migration"
                    .to_owned(),
            ),
            State { .. } => (
                "Calico is currently not ready to process requests".to_owned(),
                format!("there is no ClusterInformation default in {store}; restart Felix, it makes one"),
            ),
        };
        Failure { code: code::LATER, message, details }
    }
}
