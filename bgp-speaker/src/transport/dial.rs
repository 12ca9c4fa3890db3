//! How do we connect? From an address, with a key, and within a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{DialId, Event, Md5Key, Packets};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Connects in a task of its own, which answers with [`Event::Dialled`]. With a key, already the first packet is signed
/// by it, and the peer's must be; a key that the kernel does not take is a [`KeyError`](super::KeyError) inside of the
/// answer's error, and nothing is sent.
pub fn dial(
    id: DialId,
    peer: SocketAddr,
    source: Option<IpAddr>,
    packets: Packets,
    key: Option<Md5Key>,
    events: mpsc::Sender<Event>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let attempt = async { connector(peer, source, packets, key.as_ref())?.connect(peer).await };
        let result = match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let _ = events.send(Event::Dialled(id, result)).await;
    })
}

fn connector(
    peer: SocketAddr,
    source: Option<IpAddr>,
    packets: Packets,
    key: Option<&Md5Key>,
) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    packets.apply(&socket, peer.ip())?;
    if let Some(key) = key {
        key.set(&socket, peer.ip()).map_err(io::Error::other)?;
    }
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::super::free_port;
    use super::*;

    #[tokio::test]
    async fn a_refused_connection_is_refused_in_words() {
        let (events, mut happened) = mpsc::channel(4);
        let (address, packets) = (free_port("127.0.0.1"), Packets { ttl_security: None });
        dial(DialId(7), address, None, packets, None, events.clone());
        let Some(Event::Dialled(DialId(7), Err(error))) = happened.recv().await else { panic!("it connected") };
        assert_eq!(crate::words::socket(&error), "Connection refused");
        // An address that is not ours: the documentation network.
        let source = Some([192, 0, 2, 1].into());
        dial(DialId(8), address, source, packets, None, events);
        let Some(Event::Dialled(DialId(8), Err(error))) = happened.recv().await else { panic!("it connected") };
        assert_eq!(crate::words::socket(&error), "Cannot assign requested address");
    }
}
