//! How does the speaker get from the old plan to the new one?

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use bgp_proto::{Event, StopReason};
use ipnet::IpNet;
use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{LISTEN_RETRY, Recovery, Speaker};
use crate::fib::Ownership;
use crate::peer::Peer;
use crate::status::Prefixes;
use crate::transport;
use bgp_plan::inputs::advertised;
use bgp_plan::sessions::{self, SessionConfig};

/// Kernel metric of a normal route where none is configured.
const NORMAL_PRIORITY: u32 = 1024;
/// The largest one.
const PRIORITY_LIMIT: u32 = 2_147_483_646;

impl Speaker {
    /// Makes the plan anew and applies what differs.
    pub(super) fn apply_plan(&mut self) {
        let plan = sessions::plan(&self.inputs, &self.node);
        let old_id = self.identity.map(|identity| identity.router_id);
        self.plan = plan;
        self.warn_once();
        self.metrics.warnings.set(i64::try_from(self.plan.warnings.len()).unwrap_or(i64::MAX));
        let identity = self.identity(); // none without an address, and then there is no session in the plan either
        let new_identity = identity.is_some_and(|new| old_id.is_some_and(|old| old != new.router_id));
        self.listen();

        let desired: BTreeMap<String, SessionConfig> =
            self.plan.sessions.iter().map(|session| (session.name.clone(), session.clone())).collect();
        let present: Vec<(String, u32)> = self.by_name.iter().map(|(name, id)| (name.clone(), *id)).collect();
        for (name, id) in present {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let reason = match desired.get(&name) {
                None => StopReason::Deconfigured,
                Some(config) if new_identity || peer.config.resets_to(config) => StopReason::ConfigurationChange,
                Some(config) => {
                    peer.config.filters.clone_from(&config.filters);
                    continue;
                }
            };
            self.remove(id, reason);
        }
        let Some(identity) = identity else { return };
        self.routing.identify(identity.router_id);
        if let Recovery::Waiting = self.recovery {
            // Who passes learned routes on must not say End-of-RIB before it has learned them anew (RFC 4724 §4.1);
            // a plain node has only its blocks to tell, and they are known.
            let passes_on = |session: &SessionConfig| session.cluster_id.is_some() || !session.is_internal();
            self.routing.defer(self.plan.sessions.iter().any(passes_on));
        }
        for (name, config) in desired {
            if !self.by_name.contains_key(&name) {
                self.add(config);
            }
        }
        self.metrics.states(self.peers.values().map(Peer::state));
        if let Recovery::Waiting = self.recovery {
            self.recovery = Recovery::Running { since: Instant::now() };
            self.metrics.recovering.set(1);
        }
    }

    fn add(&mut self, config: SessionConfig) {
        let Some(identity) = self.identity else { return };
        let (now, clock) = (Instant::now(), Timestamp::now());
        let id = (0..).find(|id| !self.peers.contains_key(id)).expect("there are fewer peers than numbers");
        self.reconfigured = clock;
        info!(session = config.name, peer = %config.peer, asn = config.peer_as, passive = config.passive, "session added");
        self.by_name.insert(config.name.clone(), id);
        self.by_address.entry(config.peer.ip()).or_insert(id);
        let peer = Peer::new(config, identity, now, clock);
        let start = match &peer.refused {
            None => true,
            Some(reason) => {
                warn!(session = peer.config.name, reason, "session is not started");
                false
            }
        };
        self.metrics.condition(&peer.status(clock, Prefixes::default()));
        self.peers.insert(id, peer);
        if start {
            self.session(id, Event::Start);
        }
    }

    fn remove(&mut self, id: u32, reason: StopReason) {
        self.reconfigured = Timestamp::now();
        self.session(id, Event::Stop(reason.clone()));
        let Some(peer) = self.peers.remove(&id) else { return };
        info!(session = peer.config.name, peer = %peer.config.peer, ?reason, "session removed");
        self.routing.remove(id);
        if let Some(at) = peer.deadline {
            self.deadlines.remove(&(at, id));
        }
        self.by_name.remove(&peer.config.name);
        let address = peer.config.peer.ip();
        if self.by_address.get(&address) == Some(&id) {
            self.by_address.remove(&address);
            // Another session with the same address, but another port, takes what comes from it now.
            let other = self.peers.iter().find(|(_, other)| other.config.peer.ip() == address);
            if let Some((other, _)) = other {
                self.by_address.insert(address, *other);
            }
        }
        self.metrics.forget(&peer.config.name, address);
        for connection in peer.connections.keys() {
            self.owners.remove(connection);
        }
        if let Some((dial, task)) = peer.dialling {
            self.dials.remove(&dial);
            task.abort();
        }
    }

    /// Listens where the plan says, and no longer elsewhere.
    pub(super) fn listen(&mut self) {
        let listen = self.plan.listen;
        let desired: BTreeSet<SocketAddr> = [listen.ipv4, listen.ipv6].into_iter().flatten().collect();
        self.listeners.retain(|address, task| {
            let keep = desired.contains(address);
            if !keep && let Some(task) = task {
                info!(%address, "no longer listening");
                task.abort();
            }
            keep
        });
        self.listen_again = None;
        for address in desired {
            let listener = self.listeners.entry(address).or_default();
            if listener.is_some() {
                continue;
            }
            match transport::listen(address, self.events.clone()) {
                Ok(task) => {
                    info!(%address, "listening");
                    *listener = Some(task);
                }
                Err(error) => {
                    let warning = format!("cannot listen on {address}: {error}; is another BGP speaker running?");
                    if self.warned.insert(warning.clone()) {
                        warn!(%address, %error, "cannot listen; is another BGP speaker running? trying again");
                    } else {
                        debug!(%address, %error, "still cannot listen");
                    }
                    self.listen_again = Some(Instant::now() + LISTEN_RETRY);
                }
            }
        }
    }

    /// Which listeners could not be had.
    pub(super) fn deaf(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter(|(_, task)| task.is_none()).map(|(address, _)| *address).collect()
    }

    /// Takes over pools, blocks and priorities: what is advertised, and which learned routes are ours to install.
    pub(super) fn apply_ownership(&mut self) {
        let normal = |configured: Option<u32>| {
            configured.filter(|priority| (1..=PRIORITY_LIMIT).contains(priority)).unwrap_or(NORMAL_PRIORITY)
        };
        let global = &self.inputs.global;
        let ownership = Ownership {
            pools: self.inputs.pools.values().copied().collect(),
            blocks: self
                .inputs
                .blocks
                .iter()
                .filter(|(_, state)| advertised(**state))
                .map(|(block, _)| *block)
                .collect(),
            normal_v4: normal(global.ipv4_normal_route_priority),
            normal_v6: normal(global.ipv6_normal_route_priority),
        };
        let originated: BTreeMap<IpNet, u32> =
            ownership.blocks.iter().map(|block| (*block, ownership.local_pref(block))).collect();
        self.metrics.blocks.set(i64::try_from(originated.len()).unwrap_or(i64::MAX));
        self.routing.originate(originated);
        self.routing.set_pools(&ownership.pools);
        self.pending_ownership = Some(ownership);
    }
}
