//! How does the speaker get from the old plan to the new one?

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bgp_plan::passwords::{self, NoPassword};
use bgp_plan::sessions::{self, Change, Pairs, SessionConfig};
use bgp_proto::{Event, StopReason};
use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::recovery::Recovery;
use super::{LISTEN_RETRY, Speaker};
use crate::peer::{Key, Peer};
use crate::status::Prefixes;
use crate::transport::{self, Keys};

impl Speaker {
    /// Makes the plan anew and applies what differs.
    pub(super) fn apply_plan(&mut self) {
        let old_id = self.identity.map(|identity| identity.router_id);
        self.plan = sessions::plan(&self.inputs, &self.node);
        self.watch_secrets();
        self.apply_statics();
        let identity = self.identity(); // none without an address, and then there is no session in the plan either
        let new_identity = identity.is_some_and(|new| old_id.is_some_and(|old| old != new.router_id));

        let old: Vec<SessionConfig> = self.peers.values().map(|peer| peer.config.clone()).collect();
        let new = self.plan.sessions.clone();
        let pairs = Pairs::new(&old, &new);
        for config in pairs.removed {
            self.remove(&config.name, StopReason::Deconfigured);
        }
        let mut added: Vec<SessionConfig> = pairs.added.into_iter().cloned().collect();
        let mut live = Vec::new();
        for (old, new) in pairs.kept {
            let Some(peer) = self.by_name.get(&old.name).and_then(|id| self.peers.get(id)) else { continue };
            let another_key = self.key_of(new).is_another(&peer.key);
            match old.change_to(new) {
                Change::Reset => self.reset(old, new, &mut added),
                _ if new_identity || another_key => self.reset(old, new, &mut added),
                Change::Live => live.push((old, new)),
                Change::None => {}
            }
        }
        let Some(identity) = identity else { return self.listen() };
        self.routing.identify(identity.router_id);
        if let Recovery::Waiting = self.recovery {
            // Who passes learned routes on must not say End-of-RIB before it has learned them anew (RFC 4724 §4.1);
            // a plain node has only its own routes to tell, and they are known.
            let passes_on = |session: &SessionConfig| session.cluster_id.is_some() || !session.is_internal();
            self.routing.defer(self.plan.sessions.iter().any(passes_on));
        }
        // Names may be exchanged among sessions: all old ones are given up before any new one is taken.
        let renamed: Vec<_> = live.iter().map(|(old, _)| self.by_name.remove(&old.name)).collect();
        for (id, (old, new)) in renamed.into_iter().zip(live) {
            if let Some(id) = id {
                self.by_name.insert(new.name.clone(), id);
                self.change_live(id, old, new.clone());
            }
        }
        for config in added {
            self.add(config);
        }
        self.listen(); // with the keys of all peers: none of them connects before its own is set
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.start(id);
        }
        self.metrics.states(self.peers.values().map(Peer::state));
        if let Recovery::Waiting = self.recovery {
            self.recovery = Recovery::Running { since: Instant::now() };
            self.metrics.recovering.set(1);
        }
    }

    /// The password of a session, or why there is none.
    fn key_of(&self, config: &SessionConfig) -> Key {
        match &config.password {
            None => Key::None,
            Some(password) => match passwords::resolve(password, self.sources.namespace(), self.secrets.known()) {
                Ok(password) => Key::Set(password),
                Err(reason) => Key::Missing(reason),
            },
        }
    }

    /// Ends a session that is to be made anew.
    fn reset(&mut self, old: &SessionConfig, new: &SessionConfig, added: &mut Vec<SessionConfig>) {
        let started = self.by_name.get(&old.name).and_then(|id| self.peers.get(id)).is_some_and(|peer| peer.started);
        if started {
            let mut changes: Vec<String> = old.changes_to(new).iter().map(ToString::to_string).collect();
            if changes.is_empty() {
                changes.push("its password, or our BGP identifier, is another".to_owned());
            }
            info!(session = old.name, changes = changes.join("; "), "session is reset");
        }
        if let Some(mut tally) = self.remove(&old.name, StopReason::ConfigurationChange) {
            tally.resets += u64::from(started);
            self.tallies.insert(new.name.clone(), tally);
        }
        added.push(new.clone());
    }

    /// Applies a change that needs no new session.
    fn change_live(&mut self, id: u32, old: &SessionConfig, new: SessionConfig) {
        let (Some(identity), now) = (self.identity, Instant::now()) else { return };
        let changes: Vec<String> = old.changes_to(&new).iter().map(ToString::to_string).collect();
        info!(session = new.name, changes = changes.join("; "), "session is changed while it stays");
        self.reconfigured = Timestamp::now();
        if old.name != new.name {
            self.metrics.forget(&old.name, old.peer.ip());
        }
        let policies = self.policies_of(&new);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.change(new, identity, now);
        let packets = peer.packets();
        for connection in peer.connections.values() {
            if let Err(error) = connection.set_packets(packets) {
                warn!(session = peer.config.name, %error, "packets of an open connection stay as they were");
            }
        }
        if let Some(negotiated) = peer.session.negotiated().cloned() {
            let config = peer.config.clone();
            self.routing.peer_changed(id, &config, &negotiated, policies);
        } else {
            self.routing.set_policies(id, policies); // of paths that are stale
        }
        self.session(id, Event::Timeout); // what the change of who dials wants done
        self.publish_session(id);
    }

    fn add(&mut self, config: SessionConfig) {
        let Some(identity) = self.identity else { return };
        let (now, clock) = (Instant::now(), Timestamp::now());
        // The lowest number that is free: the RIB's tables are indexed by them.
        let taken = self.peers.keys().zip(0..).take_while(|(id, number)| **id == *number).count();
        let id = u32::try_from(taken).expect("there are fewer peers than numbers");
        self.reconfigured = clock;
        info!(session = config.name, peer = %config.peer, asn = config.peer_as, passive = config.passive, "session added");
        self.by_name.insert(config.name.clone(), id);
        self.by_address.entry(config.peer.ip()).or_default().insert(id);
        let key = self.key_of(&config);
        let tally = self.tallies.remove(&config.name).unwrap_or_default();
        let peer = Peer::new(config, identity, key, tally, now, clock);
        match peer.refused() {
            None => {}
            Some(NoPassword::Awaited { .. }) => debug!(session = peer.config.name, "session waits for its password"),
            Some(reason) => warn!(session = peer.config.name, %reason, "session is not started"),
        }
        self.metrics.condition(&peer.status(clock, Prefixes::default()));
        self.peers.insert(id, peer);
    }

    /// Starts a session that is not, unless something is missing.
    fn start(&mut self, id: u32) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.refused().is_none() && !std::mem::replace(&mut peer.started, true) {
            self.session(id, Event::Start);
        }
    }

    /// Ends a session; returns what happened to it.
    fn remove(&mut self, name: &str, reason: StopReason) -> Option<crate::status::Tally> {
        let id = *self.by_name.get(name)?;
        self.reconfigured = Timestamp::now();
        self.session(id, Event::Stop(reason.clone()));
        let peer = self.peers.remove(&id)?;
        info!(session = peer.config.name, peer = %peer.config.peer, ?reason, "session removed");
        self.routing.remove(id);
        if let Some(at) = peer.deadline {
            self.deadlines.remove(&(at, id));
        }
        self.by_name.remove(&peer.config.name);
        let address = peer.config.peer.ip();
        if let Some(ids) = self.by_address.get_mut(&address) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_address.remove(&address);
            }
        }
        self.metrics.forget(&peer.config.name, address);
        for connection in peer.connections.keys() {
            self.owners.remove(connection);
        }
        let tally = peer.tally();
        if let Some((dial, task)) = peer.dialling {
            self.dials.remove(&dial);
            task.abort();
        }
        Some(tally)
    }

    /// Listens where the plan says, and no longer elsewhere; each listener knows the keys of all peers.
    pub(super) fn listen(&mut self) {
        let listen = self.plan.listen;
        let desired: BTreeSet<SocketAddr> = [listen.ipv4, listen.ipv6].into_iter().flatten().collect();
        self.listeners.retain(|address, listener| {
            let keep = desired.contains(address);
            if !keep && listener.is_some() {
                info!(%address, "no longer listening");
            }
            keep
        });
        let keys = self.keys();
        self.listen_again = None;
        for address in desired {
            let listener = self.listeners.entry(address).or_default();
            match listener {
                Some(listener) => listener.set_keys(&keys),
                None => match transport::listen(address, &keys, self.events.clone()) {
                    Ok(new) => {
                        info!(%address, "listening");
                        *listener = Some(new);
                    }
                    Err(error) => {
                        let warning = format!("cannot listen on {address}: {error}; is another BGP speaker running?");
                        if self.deaf_warned.insert(warning) {
                            warn!(%address, %error, "cannot listen; is another BGP speaker running? trying again");
                        } else {
                            debug!(%address, %error, "still cannot listen");
                        }
                    }
                },
            }
        }
        let lacks_keys = self.listeners.values().flatten().any(transport::Listener::has_key_errors);
        if lacks_keys || !self.deaf().is_empty() {
            self.listen_again = Some(Instant::now() + LISTEN_RETRY);
        }
        if self.deaf().is_empty() {
            self.deaf_warned.clear();
        }
    }

    /// The session that connections from this address are for. Of several, which differ by the port that we dial, it is
    /// one that does not dial, if there is such: the others come up without. One without its password has none.
    pub(super) fn acceptor(&self, address: IpAddr) -> Option<u32> {
        let peers = self.by_address.get(&address)?.iter().filter_map(|id| Some((*id, self.peers.get(id)?)));
        let able = peers.filter(|(_, peer)| peer.refused().is_none());
        able.min_by_key(|(id, peer)| (!peer.config.passive, *id)).map(|(id, _)| id)
    }

    /// The keys of all peers that may connect. One whose password is not known is left out, and is not admitted.
    fn keys(&self) -> Keys {
        let acceptor = |address: &IpAddr| self.peers.get(&self.acceptor(*address)?);
        self.by_address.keys().filter_map(|address| Some((*address, acceptor(address)?.md5_key()))).collect()
    }

    /// Which listeners could not be had.
    pub(super) fn deaf(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter(|(_, listener)| listener.is_none()).map(|(address, _)| *address).collect()
    }

    /// Why no listener takes the key of a peer, if none does.
    pub(super) fn key_error(&self, peer: &Peer) -> Option<String> {
        let errors = self.listeners.values().flatten().filter_map(|listener| listener.key_error(peer.config.peer.ip()));
        errors.map(ToString::to_string).next()
    }
}
