//! What is special about a session's packets?

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

/// Internetwork control, as BGP's packets are marked (RFC 4271 Appendix E).
const PRECEDENCE: u32 = 0xC0;
/// TTL of our packets where TTL security does not ask for 255.
const TTL: u32 = 64;
/// How long unacknowledged data may stay so until the connection is lost: as long as the hold time.
const USER_TIMEOUT: Duration = Duration::from_secs(240);

/// What is special about the packets of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packets {
    /// How many hops the peer may be away at most (RFC 5082): then ours leave with a TTL of 255, and those that arrive
    /// with less than 256 minus this are dropped. `None` is unchecked.
    pub ttl_security: Option<u8>,
}

impl Packets {
    /// Sets it on a socket, connected or not.
    pub(super) fn apply(self, socket: &Socket, peer: IpAddr) -> io::Result<()> {
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        set_outgoing(socket, peer, if self.ttl_security.is_some() { 255 } else { TTL })?;
        let hops = |hops: u8| u8::try_from(256 - u16::from(hops)).unwrap_or(u8::MAX);
        calico_sys::socket::set_minimum_ttl(socket, peer, self.ttl_security.map_or(0, hops))
    }

    /// Sets it on a connection.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply_to(self, stream: &TcpStream, peer: IpAddr) -> io::Result<()> {
        self.apply(&SockRef::from(stream), peer)
    }
}

/// Marks what a listener sends. It answers before it is known who asks, and a peer with TTL security drops an answer
/// that leaves with less than 255. What arrives is not checked before the connection is accepted.
pub(super) fn apply_to_listener(socket: &Socket, own: IpAddr) -> io::Result<()> {
    set_outgoing(socket, own, 255)
}

fn set_outgoing(socket: &Socket, like: IpAddr, ttl: u32) -> io::Result<()> {
    if like.is_ipv4() {
        socket.set_ttl_v4(ttl)?;
        socket.set_tos_v4(PRECEDENCE)
    } else {
        socket.set_unicast_hops_v6(ttl)?;
        socket.set_tclass_v6(PRECEDENCE)
    }
}
