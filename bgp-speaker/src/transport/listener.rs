//! Who may connect to us?
//!
//! A listener knows the peers' keys: the kernel does not even answer who lacks his. But between a peer's getting a key
//! and the listener's there may be connections under way, and the listener may refuse a key. So whether a connection was
//! made with its key is looked at once more when it is admitted, and there is no other way to its stream.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::keys::{for_listener, unset_for};
use super::packets::apply_to_listener;
use super::{Event, KeyError, Keys, Md5Key, Packets};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 512;
/// The pause after a connection that could not be accepted (no descriptors are left, mostly).
const PAUSE: Duration = Duration::from_secs(1);

/// A socket that listens, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    socket: Arc<TcpListener>,
    task: JoinHandle<()>,
    /// What the socket holds.
    keys: BTreeMap<IpNet, Md5Key>,
    failed: BTreeMap<IpNet, KeyError>,
}

/// A connection that somebody made to us.
#[derive(Debug)]
pub struct Incoming {
    stream: TcpStream,
    peer: SocketAddr,
}

/// Why an incoming connection is not used; it is closed.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// The session has a password, and the connection was made before the listener knew it.
    #[error("the connection is not signed with the session's password")]
    Unsigned,
    /// The kernel does not take the key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The connection is gone already, mostly.
    #[error("the connection cannot be set up")]
    Socket(#[source] io::Error),
}

/// Listens on an address; IPv6 is only IPv6. The peers' keys are set before the first of them can connect, and
/// [`Listener::key_error`] tells of those that were refused.
///
/// # Errors
/// If the address cannot be had.
pub fn listen(address: SocketAddr, peers: &Keys, events: mpsc::Sender<Event>) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    apply_to_listener(&socket, address.ip())?;
    socket.bind(&address.into())?;
    let (mut keys, mut failed) = (BTreeMap::new(), BTreeMap::new());
    exchange(&socket, &mut keys, &mut failed, for_listener(peers, address.is_ipv4()));
    socket.listen(BACKLOG)?;
    let socket = Arc::new(TcpListener::from_std(socket.into())?);
    let task = tokio::spawn(accept(socket.clone(), events));
    Ok(Listener { address, socket, task, keys, failed })
}

async fn accept(listener: Arc<TcpListener>, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if events.send(Event::Accepted(Incoming { stream, peer })).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a BGP connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Listener {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes over the keys of all peers, by difference; those of the other family are not looked at. A peer whose key is
    /// not known is left out: it is not answered, or not admitted. Keys that were refused are tried again.
    pub fn set_keys(&mut self, peers: &Keys) {
        let desired = for_listener(peers, self.address.is_ipv4());
        exchange(&*self.socket, &mut self.keys, &mut self.failed, desired);
    }

    /// Why this listener has no key for a peer that should have one: call [`Listener::set_keys`] again later.
    pub fn key_error(&self, peer: IpAddr) -> Option<&KeyError> {
        self.failed.iter().find(|(peers, _)| peers.contains(&peer)).map(|(_, error)| error)
    }

    /// Whether any key was refused.
    pub fn has_key_errors(&self) -> bool {
        !self.failed.is_empty()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// New keys first: in between, the longest prefix decides, and nobody is without a key who had one and keeps it.
fn exchange(
    socket: &impl std::os::fd::AsFd,
    keys: &mut BTreeMap<IpNet, Md5Key>,
    failed: &mut BTreeMap<IpNet, KeyError>,
    desired: BTreeMap<IpNet, Md5Key>,
) {
    failed.clear();
    for (peers, key) in &desired {
        if keys.get(peers) == Some(key) {
            continue;
        }
        match key.set_for(socket, peers) {
            Ok(()) => drop(keys.insert(*peers, key.clone())),
            Err(error) => drop(failed.insert(*peers, error)),
        }
    }
    let surplus: Vec<_> = keys.keys().filter(|peers| !desired.contains_key(peers)).copied().collect();
    for peers in surplus {
        // Should that fail, the peer is not answered for want of the old key, which is the safe side.
        match unset_for(socket, &peers) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => {
                tracing::warn!(%peers, %error, "cannot remove a TCP MD5 key; it is tried again");
            }
            _ => drop(keys.remove(&peers)),
        }
    }
}

impl Incoming {
    /// Who it is.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Takes the connection for a session. With a key, from now on every packet must be signed by it, and those until
    /// now must have been by the one that the listener had: a connection that has none was made without.
    ///
    /// # Errors
    /// [`NotAdmitted`]; the connection is closed.
    pub fn admit(self, packets: Packets, key: Option<&Md5Key>) -> Result<TcpStream, NotAdmitted> {
        let peer = self.peer.ip().to_canonical();
        packets.apply_to(&self.stream, peer).map_err(NotAdmitted::Socket)?;
        if let Some(key) = key {
            // There is no asking for a key, but removing one tells whether it was there. A packet that comes just now
            // is dropped by the kernel, and sent again by the peer.
            match unset_for(&self.stream, &IpNet::from(peer)) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Err(NotAdmitted::Unsigned),
                Err(error) => return Err(KeyError::from(error).into()),
            }
            key.set(&self.stream, peer)?;
        }
        Ok(self.stream)
    }
}
