//! What becomes of the octets of a connection? A task reads them, and another writes them.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bgp_proto::ConnectionId;
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::{Event, Packets};

/// How much is read at once, in octets.
const READ_SIZE: usize = 16 * 1024;
/// How many pieces wait for a writer.
pub const WRITER_QUEUE: usize = 64;
/// How many of these only the session's own messages may take: keepalives, and the last NOTIFICATION.
const RESERVED: usize = 16;
/// How long a closed connection is still written to and drained.
const LINGER: Duration = Duration::from_secs(5);

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
    stream: Weak<TcpStream>,
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
        let stream = Arc::new(stream);
        let (writer, queue) = mpsc::channel(WRITER_QUEUE);
        let (open, closed) = oneshot::channel();
        let behind = Arc::new(AtomicBool::new(false));
        let weak = Arc::downgrade(&stream);
        tokio::spawn(read_octets(id, stream.clone(), events.clone(), closed));
        tokio::spawn(write_octets(id, stream, queue, behind.clone(), events));
        Ok(Self { id, local, peer, writer, behind, stream: weak, _open: open })
    }

    /// Sends and takes packets in another way from now on.
    ///
    /// # Errors
    /// The kernel's; then some packets are as before.
    pub fn set_packets(&self, packets: Packets) -> io::Result<()> {
        match self.stream.upgrade() {
            Some(stream) => packets.apply_to(&stream, self.peer.ip()),
            None => Ok(()), // it is closed already
        }
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
    stream: Arc<TcpStream>,
    events: mpsc::Sender<Event>,
    mut closed: oneshot::Receiver<()>,
) {
    let mut buffer = BytesMut::new();
    let error = loop {
        buffer.reserve(READ_SIZE);
        let read = tokio::select! {
            read = read_some(&stream, &mut buffer) => read,
            _ = &mut closed => {
                // Read on for a while: closing a socket with unread octets would reset it and lose our last message.
                let drain = async {
                    while matches!(read_some(&stream, &mut buffer).await, Ok(1..)) {
                        buffer.clear();
                        buffer.reserve(READ_SIZE);
                    }
                };
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

/// Reads what is there, and waits until something is; 0 is the end.
async fn read_some(stream: &TcpStream, buffer: &mut BytesMut) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

async fn write_octets(
    id: ConnectionId,
    stream: Arc<TcpStream>,
    mut queue: mpsc::Receiver<Bytes>,
    behind: Arc<AtomicBool>,
    events: mpsc::Sender<Event>,
) {
    let mut pieces = Vec::new();
    while queue.recv_many(&mut pieces, WRITER_QUEUE).await > 0 {
        let written = match pieces.as_mut_slice() {
            [piece] => write_all(&stream, piece).await,
            pieces => write_all(&stream, &mut together(pieces)).await,
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
    // Everything is with the kernel; the peer learns that nothing follows. It may have gone before.
    let _ = socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Write);
}

fn together(pieces: &[Bytes]) -> Bytes {
    let mut together = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| together.extend_from_slice(piece));
    together.freeze()
}

async fn write_all(stream: &TcpStream, octets: &mut Bytes) -> io::Result<()> {
    while octets.has_remaining() {
        stream.writable().await?;
        match stream.try_write(octets) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => octets.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{DialId, Keys, dial, free_port, listen};
    use super::*;

    const KEEPALIVE: [u8; 19] =
        [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 19, 4];

    /// A listener on the loopback, a dialled connection, and both ends of it.
    async fn pair() -> (Connection, Connection, mpsc::Receiver<Event>) {
        let (events, mut happened) = mpsc::channel(64);
        let address = free_port("127.0.0.1");
        let _listener = listen(address, &Keys::new(), events.clone()).unwrap();
        let source = Some([127, 0, 0, 1].into());
        dial(DialId(1), address, source, Packets { ttl_security: None }, None, events.clone());
        let (mut dialled, mut accepted) = (None, None);
        while dialled.is_none() || accepted.is_none() {
            match happened.recv().await.unwrap() {
                Event::Dialled(DialId(1), stream) => {
                    dialled =
                        Some(Connection::start(ConnectionId(1), stream.unwrap(), address, events.clone()).unwrap());
                }
                Event::Accepted(incoming) => {
                    let peer = incoming.peer();
                    let stream = incoming.admit(Packets { ttl_security: None }, None).unwrap();
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
}
