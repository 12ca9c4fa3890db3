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
//!
//! | file | question |
//! |---|---|
//! | `listener.rs` | who may connect to us? |
//! | `dial.rs` | how do we connect? |
//! | `connection.rs` | what becomes of the octets of a connection? |
//! | `packets.rs` | what is special about a session's packets (precedence, TTL)? |
//! | `keys.rs` | which TCP MD5 keys does a socket get? |

mod connection;
mod dial;
mod keys;
mod listener;
mod packets;

use std::io;
#[cfg(test)]
use std::net::SocketAddr;

use bgp_proto::ConnectionId;
use bytes::Bytes;
use tokio::net::TcpStream;

pub use connection::{Connection, WRITER_QUEUE};
pub use dial::dial;
pub use keys::{KeyError, Keys, Md5Key};
pub use listener::{Incoming, Listener, NotAdmitted, listen};
pub use packets::Packets;

/// An attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// What the tasks tell the speaker.
#[derive(Debug)]
pub enum Event {
    /// Somebody connected to us.
    Accepted(Incoming),
    /// An attempt ended.
    Dialled(DialId, io::Result<TcpStream>),
    /// Octets, cut wherever they were.
    Received(ConnectionId, Bytes),
    /// The peer closed the connection (`None`), or it broke.
    Lost(ConnectionId, Option<io::Error>),
    /// The writer has room again, after [`Connection::send`] said it had none.
    Drained(ConnectionId),
}

/// A free port of an address, found by the kernel and taken again at once.
#[cfg(test)]
fn free_port(address: &str) -> SocketAddr {
    std::net::TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}
