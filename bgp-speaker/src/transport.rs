//! How do octets get to a peer and back? Sockets, and tasks that know nothing of BGP.
//!
//! ```text
//!  listener (one per family) ──Accepted──┐
//!  dial     (one per attempt) ──Dialled──┼─▶ the speaker's task ──Bytes──▶ writer (one per connection)
//!  reader   (one per connection) ─Received, Lost─┘        ▲                      │
//!                                                         └───────Drained────────┘
//! ```
//! All channels are bounded: a reader waits when the speaker is behind, and the speaker stops making updates for a
//! peer whose writer is behind.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bgp_proto::ConnectionId;
use bytes::{Bytes, BytesMut};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Internetwork control, as BGP's packets are marked (RFC 4271 Appendix E).
const PRECEDENCE: u32 = 0xC0;
/// TTL of our packets where TTL security does not ask for 255.
const TTL: u32 = 64;
/// How much is read at once, in octets.
const READ_SIZE: usize = 16 * 1024;
/// How many pieces wait for a writer.
pub const WRITER_QUEUE: usize = 64;
/// How many of these only the session's own messages may take: keepalives, and the last NOTIFICATION.
const RESERVED: usize = 16;
/// How long a closed connection is still written to and drained.
const LINGER: Duration = Duration::from_secs(5);
/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long unacknowledged data may stay so until the connection is lost: as long as the hold time.
const USER_TIMEOUT: Duration = Duration::from_secs(240);

/// An attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// What the tasks tell the speaker.
#[derive(Debug)]
pub enum Event {
    /// Somebody connected to us.
    Accepted(TcpStream, SocketAddr),
    /// An attempt ended.
    Dialled(DialId, io::Result<TcpStream>),
    /// Octets, cut wherever they were.
    Received(ConnectionId, Bytes),
    /// The peer closed the connection (`None`), or it broke.
    Lost(ConnectionId, Option<io::Error>),
    /// The writer has room again, after [`Connection::send`] said it had none.
    Drained(ConnectionId),
}

/// Our end of a connection. Dropping it closes the connection when what was sent is written.
#[derive(Debug)]
pub struct Connection {
    /// Its identity.
    pub id: ConnectionId,
    /// Our address.
    pub local: SocketAddr,
    /// The peer's.
    pub peer: SocketAddr,
    writer: mpsc::Sender<Bytes>,
    behind: Arc<AtomicBool>,
    _open: oneshot::Sender<()>,
}

impl Connection {
    /// Starts the tasks of a connection.
    pub fn start(
        id: ConnectionId,
        stream: TcpStream,
        peer: SocketAddr,
        events: mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?; // batches are made by us
        let local = stream.local_addr()?;
        let (read, write) = stream.into_split();
        let (writer, queue) = mpsc::channel(WRITER_QUEUE);
        let (open, closed) = oneshot::channel();
        let behind = Arc::new(AtomicBool::new(false));
        tokio::spawn(read_octets(id, read, events.clone(), closed));
        tokio::spawn(write_octets(id, write, queue, behind.clone(), events));
        Ok(Self { id, local, peer, writer, behind, _open: open })
    }

    /// How many pieces [`Self::send`] takes now.
    pub fn room(&self) -> usize {
        self.writer.capacity().saturating_sub(RESERVED)
    }

    /// Asks for [`Event::Drained`] when the writer has caught up.
    pub fn tell_when_drained(&self) {
        self.behind.store(true, Ordering::Release);
        if self.writer.capacity() == WRITER_QUEUE {
            // The writer may have emptied the queue just before it could see the wish; an empty piece wakes it.
            let _ = self.writer.try_send(Bytes::new());
        }
    }

    /// Sends a message of the session itself, for which there is always room: what [`Self::send`] may fill ends earlier.
    /// Says whether there was.
    pub fn send_always(&self, octets: Bytes) -> bool {
        self.writer.try_send(octets).is_ok()
    }

    /// Sends whole messages.
    ///
    /// # Errors
    /// The octets, if there is no room for them.
    pub fn send(&self, octets: Bytes) -> Result<(), Bytes> {
        if self.room() == 0 && !self.writer.is_closed() {
            return Err(octets);
        }
        match self.writer.try_send(octets) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(octets)) => Err(octets),
            // The reader reports the loss.
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

async fn read_octets(
    id: ConnectionId,
    mut stream: OwnedReadHalf,
    events: mpsc::Sender<Event>,
    mut closed: oneshot::Receiver<()>,
) {
    let mut buffer = BytesMut::new();
    let error = loop {
        buffer.reserve(READ_SIZE);
        let read = tokio::select! {
            read = stream.read_buf(&mut buffer) => read,
            _ = &mut closed => {
                // Read on for a while: closing a socket with unread octets would reset it and lose our last message.
                let mut rest = [0; 1024];
                let drain = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
                let _ = tokio::time::timeout(LINGER, drain).await;
                return;
            }
        };
        match read {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) => break Some(error),
        }
        if events.send(Event::Received(id, buffer.split().freeze())).await.is_err() {
            return;
        }
    };
    let _ = events.send(Event::Lost(id, error)).await;
}

async fn write_octets(
    id: ConnectionId,
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Bytes>,
    behind: Arc<AtomicBool>,
    events: mpsc::Sender<Event>,
) {
    let mut pieces = Vec::new();
    while queue.recv_many(&mut pieces, WRITER_QUEUE).await > 0 {
        let written = match pieces.as_mut_slice() {
            [piece] => stream.write_all_buf(piece).await,
            pieces => write_together(&mut stream, pieces).await,
        };
        pieces.clear();
        if written.is_err() {
            // The reader sees the same and reports it. What comes is thrown away until the speaker has heard of it.
            queue.close();
            return;
        }
        if queue.is_empty() && behind.swap(false, Ordering::AcqRel) && events.send(Event::Drained(id)).await.is_err() {
            return;
        }
    }
    let _ = tokio::time::timeout(LINGER, stream.shutdown()).await;
}

async fn write_together(stream: &mut OwnedWriteHalf, pieces: &[Bytes]) -> io::Result<()> {
    let mut together = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| together.extend_from_slice(piece));
    stream.write_all_buf(&mut together).await
}

/// What is special about the packets of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// Hops that the peer may be away; `None` is unchecked.
    pub ttl_security: Option<u8>,
}

impl Packets {
    fn apply(self, socket: &Socket, peer: IpAddr) -> io::Result<()> {
        let ttl = if self.ttl_security.is_some() { 255 } else { TTL };
        if peer.is_ipv4() {
            socket.set_ttl_v4(ttl)?;
            socket.set_tos_v4(PRECEDENCE)?;
        } else {
            socket.set_unicast_hops_v6(ttl)?;
            socket.set_tclass_v6(PRECEDENCE)?;
        }
        if let Some(hops) = self.ttl_security {
            calico_sys::socket::set_minimum_ttl(socket, peer, (256 - u16::from(hops)).min(255) as u8)?;
        }
        Ok(())
    }

    /// The same on a connection that was accepted.
    pub fn apply_to(self, stream: &TcpStream, peer: IpAddr) -> io::Result<()> {
        let socket = socket2::SockRef::from(stream);
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        self.apply(&socket, peer)
    }
}

/// Connects in a task of its own, which answers with [`Event::Dialled`].
pub fn dial(
    id: DialId,
    peer: SocketAddr,
    source: Option<IpAddr>,
    packets: Packets,
    events: mpsc::Sender<Event>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let attempt = async { connector(peer, source, packets)?.connect(peer).await };
        let result = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let _ = events.send(Event::Dialled(id, result)).await;
    })
}

fn connector(peer: SocketAddr, source: Option<IpAddr>, packets: Packets) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    packets.apply(&socket, peer.ip())?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Listens on an address in a task of its own, until the handle is aborted.
///
/// # Errors
/// If the address cannot be had.
pub fn listen(address: SocketAddr, events: mpsc::Sender<Event>) -> io::Result<JoinHandle<()>> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Packets { ttl_security: None }.apply(&socket, address.ip())?;
    socket.bind(&address.into())?;
    socket.listen(512)?;
    let listener = TcpListener::from_std(socket.into())?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if events.send(Event::Accepted(stream, peer)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a BGP connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPALIVE: [u8; 19] =
        [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 19, 4];

    /// A listener on the loopback, a dialled connection, and both ends of it.
    async fn pair() -> (Connection, Connection, mpsc::Receiver<Event>) {
        let (events, mut happened) = mpsc::channel(64);
        // A free port, found by the kernel and taken again at once.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        listen(address, events.clone()).unwrap();
        let source = Some([127, 0, 0, 1].into());
        dial(DialId(1), address, source, Packets { ttl_security: None }, events.clone());
        let (mut dialled, mut accepted) = (None, None);
        while dialled.is_none() || accepted.is_none() {
            match happened.recv().await.unwrap() {
                Event::Dialled(DialId(1), stream) => {
                    dialled =
                        Some(Connection::start(ConnectionId(1), stream.unwrap(), address, events.clone()).unwrap());
                }
                Event::Accepted(stream, peer) => {
                    Packets { ttl_security: None }.apply_to(&stream, peer.ip()).unwrap();
                    accepted = Some(Connection::start(ConnectionId(2), stream, peer, events.clone()).unwrap());
                }
                other => panic!("{other:?}"),
            }
        }
        (dialled.unwrap(), accepted.unwrap(), happened)
    }

    #[tokio::test]
    async fn what_is_sent_before_a_close_arrives_before_the_loss() {
        let (dialled, accepted, mut happened) = pair().await;
        assert_eq!(dialled.local.ip(), IpAddr::from([127, 0, 0, 1]));
        accepted.send(Bytes::from_static(&KEEPALIVE)).unwrap(); // unread by the time of the close
        dialled.send(Bytes::from_static(&KEEPALIVE)).unwrap();
        drop(dialled);
        let mut received = 0;
        loop {
            match happened.recv().await.unwrap() {
                Event::Received(_, octets) => received += octets.len(),
                Event::Lost(ConnectionId(2), error) => {
                    assert!(error.is_none(), "closed, not reset: {error:?}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(received >= 19, "{received}");
    }

    #[tokio::test]
    async fn a_writer_that_was_full_says_when_it_has_room() {
        let (dialled, _accepted, mut happened) = pair().await;
        let piece = Bytes::from(KEEPALIVE.repeat(100));
        while dialled.send(piece.clone()).is_ok() {}
        assert_eq!(dialled.room(), 0);
        dialled.tell_when_drained();
        loop {
            match happened.recv().await.unwrap() {
                Event::Drained(ConnectionId(1)) => break,
                Event::Received(ConnectionId(2), _) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(dialled.room() > 0);
        dialled.tell_when_drained();
        while !matches!(happened.recv().await.unwrap(), Event::Drained(ConnectionId(1))) {}
    }

    #[tokio::test]
    async fn a_refused_connection_is_refused_in_words() {
        let (events, mut happened) = mpsc::channel(4);
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        dial(DialId(7), SocketAddr::from(([127, 0, 0, 1], port)), None, Packets { ttl_security: None }, events.clone());
        let Some(Event::Dialled(DialId(7), Err(error))) = happened.recv().await else { panic!("it connected") };
        assert_eq!(crate::words::socket(&error), "Connection refused");
        // An address that is not ours: the documentation network.
        let source = Some([192, 0, 2, 1].into());
        dial(DialId(8), SocketAddr::from(([127, 0, 0, 1], port)), source, Packets { ttl_security: None }, events);
        let Some(Event::Dialled(DialId(8), Err(error))) = happened.recv().await else { panic!("it connected") };
        assert_eq!(crate::words::socket(&error), "Cannot assign requested address");
    }
}
