//! The smallest speaker: one session over a blocking socket, one own prefix, and what the peer tells on standard output.
//!
//! `speaker LOCAL_AS ROUTER_ID PEER_AS PEER_ADDRESS:PORT PREFIX SECONDS [NEXT_HOP]...` dials, runs for so long, and ends
//! with Cease. With next hops, the prefix is not our own: as many clients tell us of it, each with one of these, and the
//! peer, if it takes several paths, is told them all (RFC 7911); halfway, the first client withdraws its path.
//! Exit status 1 if the session is not up in the end.

use std::io::{ErrorKind, Read, Write, stdout};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::*;
use bytes::Bytes;

const PEER: PeerId = PeerId(0);

/// The one connection that there is at a time.
struct Socket {
    id: ConnectionId,
    stream: TcpStream,
}

struct Speaker {
    peer: SocketAddr,
    session: Session,
    rib: Rib,
    socket: Option<Socket>,
    connections: u64,
}

fn say(text: &str) {
    // A broken pipe only means that nobody listens any more.
    let _ = writeln!(stdout(), "{text}");
}

impl Speaker {
    /// Does what the session wants, and what follows from that.
    fn perform(&mut self, now: Instant) {
        while let Some(action) = self.session.poll() {
            match action {
                Action::Connect => {
                    let event = match TcpStream::connect_timeout(&self.peer, Duration::from_secs(3)) {
                        Ok(stream) => self.connected(stream),
                        Err(error) => Event::ConnectFailed(error.to_string()),
                    };
                    self.session.handle(event, now);
                }
                Action::Send(_, octets) => self.write(&octets),
                Action::Close(id) => drop(self.socket.take_if(|socket| socket.id == id)),
                Action::Up { negotiated, .. } => {
                    say(&format!("families {:?}, hold time {}", negotiated.families(), negotiated.hold_time));
                    let config = self.session.config();
                    let peer =
                        PeerConfig::new(config.peer_address, negotiated.local_address, config.local_as, &negotiated);
                    self.rib.peer_up(PEER, peer);
                }
                Action::Down { keep, reason } => {
                    say(&format!("down: {reason}"));
                    self.rib.peer_down(PEER, keep);
                }
                Action::Update(update) => self.rib.update(PEER, &update),
                Action::EndOfRib(family) => {
                    say(&format!("end of {family}"));
                    self.rib.end_of_rib(PEER, family);
                }
                Action::RefreshRequested(family) => self.rib.refresh(PEER, family),
                Action::RefreshBegins(family) => self.rib.mark_stale(PEER, family),
                Action::Sweep(family) => self.rib.sweep_stale(PEER, family),
                Action::Faults(faults) => faults.iter().for_each(|fault| say(&fault.to_string())),
                Action::Transition { from, to, .. } => say(&format!("{from} -> {to}")),
                Action::Abandon => {}
            }
        }
        for change in self.rib.take_best_changes() {
            match change.best {
                Some(best) if !best.next_hops.is_empty() => {
                    let (hops, path) = (&best.next_hops, &best.attributes.as_path);
                    let ids: Vec<_> = self.rib.paths(change.prefix).iter().map(|path| path.path_id).collect();
                    say(&format!("{} via {hops:?} path [{path}] path IDs {ids:?}", change.prefix));
                }
                Some(_) => say(&format!("{} is ours", change.prefix)),
                None => say(&format!("{} is gone", change.prefix)),
            }
        }
        while let Some(octets) = self.rib.poll_output(PEER, 65_536) {
            self.write(&octets);
        }
    }

    /// Takes a path of a client that is not there.
    fn learn(&mut self, id: PeerId, prefix: Prefix, next_hop: IpAddr, local_as: Asn) {
        let config = self.session.config();
        let context = Context { internal: true, families: Families::ALL, ..Context::default() };
        self.rib.peer_up(
            id,
            PeerConfig {
                address: next_hop,
                router_id: config.router_id,
                peer_as: local_as,
                local_as,
                context,
                client: true,
                cluster_id: None,
                next_hop: NextHopMode::Auto,
                next_hop_v4: None,
                next_hop_v6: None,
                restarting: false,
                sends_end_of_rib: false,
                allowed_local_as: 0,
                long_lived_aware: true,
                paths_limit: PeerConfig::PATHS_LIMIT,
                import: None,
                export: None,
            },
        );
        let advertised =
            vec![Advertisement { attributes: Arc::new(Attributes::new(next_hop)), nlri: vec![prefix.into()] }];
        self.rib.update(id, &Update { withdrawn: vec![], advertised });
    }

    fn connected(&mut self, stream: TcpStream) -> Event {
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        let local = stream.local_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
        self.socket = Some(Socket { id: connection, stream });
        Event::Connected { connection, direction: Direction::Outgoing, local }
    }

    fn write(&mut self, octets: &[u8]) {
        if let Some(socket) = &mut self.socket {
            // A failure shows in the next read.
            let _ = socket.stream.write_all(octets);
        }
    }

    /// Waits for octets, but not beyond `until`.
    fn wait(&mut self, until: Instant, now: Instant) -> Event {
        let patience = until.saturating_duration_since(now).max(Duration::from_millis(1));
        let Some(socket) = &mut self.socket else {
            std::thread::park_timeout(patience);
            return Event::Timeout;
        };
        let connection = socket.id;
        let mut buffer = vec![0; 65_536];
        let read = socket.stream.set_read_timeout(Some(patience)).and_then(|()| socket.stream.read(&mut buffer));
        match read {
            Ok(0) => {
                self.socket = None;
                Event::Closed { connection, error: None }
            }
            Ok(length) => {
                buffer.truncate(length);
                Event::Received { connection, octets: Bytes::from(buffer) }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Event::Timeout,
            Err(error) => {
                self.socket = None;
                Event::Closed { connection, error: Some(error.to_string()) }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads a clock, as in any shell")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [local_as, router_id, peer_as, peer, prefix, seconds, next_hops @ ..] = arguments.as_slice() else {
        return Err("usage: speaker LOCAL_AS ROUTER_ID PEER_AS PEER_ADDRESS:PORT PREFIX SECONDS [NEXT_HOP]...".into());
    };
    let router_id: RouterId = router_id.parse::<Ipv4Addr>()?.try_into()?;
    let peer: SocketAddr = peer.parse()?;
    let local_as = Asn(local_as.parse()?);
    let config = SessionConfig {
        connect_delay: Duration::ZERO,
        add_path_receive: Families::ALL,
        add_path_send: Families::ALL,
        ..SessionConfig::new(local_as, router_id, peer.ip(), Asn(peer_as.parse()?))
    };
    let rib = Rib::new(RibConfig { resolve_next_hops: false, ..RibConfig::new(router_id) });
    let mut speaker = Speaker { peer, session: Session::new(config, now()), rib, socket: None, connections: 0 };
    let prefix: Prefix = prefix.parse()?;
    if next_hops.is_empty() {
        speaker.rib.originate(prefix, LocalRoute::default());
    }
    for (id, next_hop) in (1..).zip(next_hops) {
        speaker.learn(PeerId(id), prefix, next_hop.parse()?, local_as);
    }

    let length = Duration::from_secs(seconds.parse()?);
    let (half, end) = (now() + length / 2, now() + length);
    speaker.session.handle(Event::Start, now());
    while now() < end {
        if now() >= half {
            speaker.rib.update(PeerId(1), &Update { withdrawn: vec![prefix.into()], advertised: vec![] });
        }
        speaker.perform(now());
        let next = if now() < half { half } else { end };
        let until = speaker.session.deadline().map_or(next, |deadline| deadline.min(next));
        let event = speaker.wait(until, now());
        speaker.session.handle(event, now());
    }
    speaker.perform(now());
    let up = speaker.session.state() == State::Established;
    say(&speaker.session.info());
    speaker.session.handle(Event::Stop(StopReason::Shutdown(Some("the example is over".into()))), now());
    speaker.perform(now());
    if up { Ok(()) } else { Err("the session is not up".into()) }
}
