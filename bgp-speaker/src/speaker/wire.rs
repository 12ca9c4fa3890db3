//! What happens on the wire, and what the sessions want done about it.

use std::net::IpAddr;
use std::time::Instant;

use bgp_proto::{Action, ConnectionId, Direction, Event, Negotiated, Reason};
use ipnet::IpNet;
use jiff::Timestamp;
use tokio::net::TcpStream;
use tracing::{debug, info, warn};

use super::recovery::Recovery;
use super::{STRANGER, STRANGERS, Speaker};
use crate::routing::messages_in;
use crate::transport::{self, Connection, DialId, Incoming, NotAdmitted};
use crate::words;

impl Speaker {
    pub(super) fn happened(&mut self, event: transport::Event) {
        match event {
            transport::Event::Accepted(incoming) => self.accepted(incoming),
            transport::Event::Dialled(dial, result) => {
                // A dial that was given up has no owner any more; its stream is closed by being dropped.
                let Some(id) = self.dials.remove(&dial) else { return };
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.dialling = None;
                }
                match result {
                    Ok(stream) => self.connected(id, stream, Direction::Outgoing),
                    Err(error) => self.session(id, Event::ConnectFailed(words::socket(&error))),
                }
            }
            transport::Event::Received(connection, octets) => {
                if let Some(id) = self.owners.get(&connection) {
                    self.session(*id, Event::Received { connection, octets });
                }
            }
            transport::Event::Lost(connection, error) => {
                if let Some(id) = self.owners.remove(&connection) {
                    if let Some(peer) = self.peers.get_mut(&id) {
                        peer.connections.remove(&connection);
                    }
                    let error = error.as_ref().map(words::socket);
                    self.session(id, Event::Closed { connection, error });
                }
            }
            transport::Event::Drained(_) => {} // whoever has output is served after each batch
        }
    }

    fn accepted(&mut self, incoming: Incoming) {
        let address = incoming.peer().ip().to_canonical();
        if !self.by_address.contains_key(&address) {
            self.metrics.refused("unknown");
            if self.is_news_of(address) {
                warn!(peer = %address, "connection from an address that no Node or BGPPeer has; closed");
            } else {
                debug!(peer = %address, "connection from an unknown address; closed");
            }
            return;
        }
        let acceptor = self.acceptor(address);
        let found = acceptor.and_then(|id| Some((id, self.peers.get(&id).filter(|peer| peer.started)?)));
        let Some((id, peer)) = found else {
            self.metrics.refused("not started");
            debug!(peer = %address, "connection for a session that is not started; closed");
            return;
        };
        let session = peer.config.name.clone();
        match incoming.admit(peer.packets(), peer.md5_key().as_ref()) {
            Ok(stream) => self.connected(id, stream, Direction::Incoming),
            Err(NotAdmitted::Unsigned) => {
                self.metrics.refused("unsigned");
                if self.is_news_of(address) {
                    warn!(session, peer = %address, "connection without the session's password; closed");
                }
            }
            Err(NotAdmitted::Key(error)) => {
                self.metrics.refused("key");
                if self.is_news_of(address) {
                    warn!(session, peer = %address, %error, "connection cannot be signed; closed");
                }
            }
            Err(error @ NotAdmitted::Socket(_)) => debug!(session, %error, "accepted connection is gone already"),
        }
    }

    /// Whether nothing was said for a while of connections from this address that are not used: whoever tries again and
    /// again, from however many addresses, does not fill the log.
    fn is_news_of(&mut self, address: IpAddr) -> bool {
        let now = Instant::now();
        if self.strangers.len() >= STRANGERS {
            self.strangers.retain(|_, last| now.saturating_duration_since(*last) < STRANGER);
        }
        let known = self.strangers.get(&address).is_some_and(|last| now.saturating_duration_since(*last) < STRANGER);
        let news = !known && self.strangers.len() < STRANGERS;
        if news {
            self.strangers.insert(address, now);
        }
        news
    }

    fn connected(&mut self, id: u32, stream: TcpStream, direction: Direction) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let address = peer.config.peer;
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let started = Connection::start(connection, stream, address, self.events.clone());
        match started {
            Ok(started) => {
                // What is configured may have changed while it was dialled.
                if let Err(error) = started.set_packets(peer.packets()) {
                    warn!(session = peer.config.name, %error, "packets of a new connection are not as configured");
                }
                let local = started.local.ip();
                peer.connections.insert(connection, started);
                self.owners.insert(connection, id);
                self.session(id, Event::Connected { connection, direction, local });
            }
            Err(error) if direction == Direction::Outgoing => {
                self.session(id, Event::ConnectFailed(words::socket(&error)));
            }
            Err(error) => debug!(session = peer.config.name, %error, "accepted connection is gone already"),
        }
    }

    /// Gives a session an event and does what it wants done.
    pub(super) fn session(&mut self, id: u32, event: Event) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.session.handle(event, now);
        while let Some(action) = self.peers.get_mut(&id).and_then(|peer| peer.session.poll()) {
            self.act(id, action);
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let deadline = peer.session.deadline();
        if deadline != peer.deadline {
            if let Some(old) = peer.deadline {
                self.deadlines.remove(&(old, id));
            }
            if let Some(new) = deadline {
                self.deadlines.insert((new, id));
            }
            peer.deadline = deadline;
        }
    }

    fn act(&mut self, id: u32, action: Action) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match action {
            Action::Connect => {
                let dial = DialId(self.next_connection);
                self.next_connection += 1;
                let packets = peer.packets();
                let (to, source, key) = (peer.config.peer, peer.config.source, peer.md5_key());
                let task = transport::dial(dial, to, source, packets, key, self.events.clone());
                peer.dialling = Some((dial, task));
                self.dials.insert(dial, id);
            }
            Action::Abandon => {
                if let Some((dial, task)) = peer.dialling.take() {
                    self.dials.remove(&dial);
                    task.abort();
                }
            }
            Action::Send(connection, octets) => {
                let sent = peer.connections.get(&connection).map(|connection| connection.send_always(octets));
                if sent == Some(false) {
                    debug!(session = peer.config.name, "writer is far behind; the hold timer decides");
                }
            }
            Action::Close(connection) => {
                self.owners.remove(&connection);
                peer.connections.remove(&connection); // dropping it closes it, once what was sent is written
            }
            Action::Up { negotiated, .. } => self.up(id, &negotiated),
            Action::Down { keep, reason } => {
                self.routing.peer_down(id, keep);
                self.down(id, !keep.is_empty(), &reason);
            }
            Action::Update(update) => {
                if !matches!(self.recovery, Recovery::Done) {
                    self.withdrawn.extend(update.withdrawn.iter().map(|nlri| IpNet::from(nlri.prefix)));
                }
                self.routing.update(id, &update);
            }
            Action::Faults(faults) => {
                for fault in &faults {
                    if peer.may_complain(Instant::now()) {
                        let peer_address = peer.config.peer;
                        warn!(session = peer.config.name, peer = %peer_address, %fault, "faulty path attribute (RFC 7606)");
                    } else {
                        debug!(session = peer.config.name, %fault, "faulty path attribute (RFC 7606)");
                    }
                }
            }
            Action::EndOfRib(family) => {
                peer.complete.insert(family);
                debug!(session = peer.config.name, %family, "peer has told all its routes");
                self.routing.end_of_rib(id, family);
            }
            Action::RefreshRequested(family) => {
                peer.was_asked_to_refresh();
                self.routing.refresh(id, family);
            }
            Action::RefreshBegins(family) => self.routing.mark_stale(id, family),
            Action::Sweep(family) => self.routing.sweep(id, family),
            Action::Transition { from, to, reason } => {
                debug!(session = peer.config.name, %from, %to, reason = reason.as_ref().map(Reason::to_string), "state");
                if let Some(reason) = reason.filter(|_| !peer.is_up()) {
                    let cause = reason.to_string();
                    if peer.is_news(&cause) {
                        let remedy = words::remedy(&cause, peer.md5_key().is_some());
                        info!(session = peer.config.name, peer = %peer.config.peer, cause, remedy, "session is not up");
                    }
                }
            }
        }
    }

    fn up(&mut self, id: u32, negotiated: &Negotiated) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.came_up(Timestamp::now());
        info!(
            session = peer.config.name,
            peer = %peer.config.peer,
            asn = peer.config.peer_as,
            router_id = %negotiated.router_id,
            hold_time = negotiated.hold_time.seconds(),
            graceful_restart = negotiated.graceful_restart.is_some(),
            "session is up"
        );
        let config = peer.config.clone();
        let policies = self.policies_of(&config);
        self.routing.peer_up(id, &config, negotiated, policies);
        self.publish_session(id);
    }

    fn down(&mut self, id: u32, kept: bool, reason: &Reason) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.went_down(Timestamp::now());
        let cause = reason.to_string();
        peer.is_news(&cause);
        let remedy = words::remedy(&cause, peer.md5_key().is_some());
        info!(session = peer.config.name, peer = %peer.config.peer, cause, remedy, routes_kept = kept, "session is down");
        self.publish_session(id);
    }

    /// Sends what the RIB has for the peers, as far as their writers take it.
    pub(super) fn transmit(&mut self) {
        for id in self.routing.peers_with_output() {
            let Some(peer) = self.peers.get_mut(&id) else {
                Self::odd("output for a session that is not there", id);
                self.routing.remove(id);
                continue;
            };
            let in_use = peer.session.connection().and_then(|connection| peer.connections.get(&connection));
            let Some(connection) = in_use else { continue }; // lost; the session will say so
            loop {
                if connection.room() == 0 {
                    connection.tell_when_drained();
                    break;
                }
                let Some(octets) = self.routing.next_output(id) else { break };
                peer.updates_sent += messages_in(&octets);
                if connection.send(octets).is_err() {
                    Self::odd("a writer that had room has none", id);
                    break;
                }
            }
        }
    }
}
