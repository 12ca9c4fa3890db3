//! Is there an nftables table, and how is it deleted with all that is in it?
//!
//! No more of nftables is spoken here: this is what is left to do when a node is left.

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::error::{Cause, Error, Result};
use crate::message::{Request, messages};

/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
const SUBSYSTEM: u16 = 10;
/// `NFT_MSG_GETTABLE` and `NFT_MSG_DELTABLE`.
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`: changes are only taken between them.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// `NFTA_TABLE_NAME`.
const NAME: u16 = 1;
/// The sequence number of the message whose answer counts.
const ASKED: u32 = 2;

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `ip`.
    Ip,
    /// `ip6`.
    Ip6,
}

impl Family {
    /// As `nft` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// `NFPROTO_…`.
    const fn number(self) -> u8 {
        match self {
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// Whether there is a table of this name in the thread's network namespace; a kernel without nftables has none.
///
/// # Errors
/// The kernel's.
pub fn has_table(family: Family, name: &str) -> Result<bool> {
    let mut request = Request::new(GET_TABLE, 0, &header(family, 0));
    request.text(NAME, name);
    ask(&mut [(request, ASKED)])
        .map_err(|cause| Error::new(format!("look for table {} {name}", family.as_str()), cause))
}

/// Deletes a table with everything in it; says whether it was there.
///
/// # Errors
/// The kernel's.
pub fn delete_table(family: Family, name: &str) -> Result<bool> {
    let border = |kind| Request::new(kind, 0, &[0, 0, 0, SUBSYSTEM as u8]);
    let mut request = Request::new(DELETE_TABLE, libc::NLM_F_ACK, &header(family, 0));
    request.text(NAME, name);
    ask(&mut [(border(BATCH_BEGIN), ASKED - 1), (request, ASKED), (border(BATCH_END), ASKED + 1)])
        .map_err(|cause| Error::new(format!("delete table {} {name}", family.as_str()), cause))
}

/// `struct nfgenmsg`: family, version, and a number in the network's order.
fn header(family: Family, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [family.number(), 0, high, low]
}

/// Sends the requests in one datagram; whether the one that is asked for was not refused for want of its object.
fn ask(requests: &mut [(Request, u32)]) -> std::result::Result<bool, Cause> {
    let socket = match netlink_sys::Socket::new(NETLINK_NETFILTER) {
        Ok(socket) => socket,
        // The kernel has no netfilter at all.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(false),
        Err(error) => return Err(Cause::Io(error)),
    };
    let mut octets = Vec::new();
    for (request, sequence) in requests {
        octets.extend_from_slice(request.finish(*sequence, 0)?);
    }
    let kernel = netlink_sys::SocketAddr::new(0, 0);
    socket.send_to(&octets, &kernel, 0).map_err(Cause::Io)?;
    loop {
        let (answer, _) = socket.recv_from_full().map_err(Cause::Io)?;
        for message in messages(&answer) {
            if i32::from(message.kind) != libc::NLMSG_ERROR {
                if message.sequence == ASKED {
                    return Ok(true);
                }
                continue;
            }
            match message.error() {
                (0, _) if message.sequence == ASKED => return Ok(true),
                (0, _) => {}
                // No such table, or no nftables in this kernel.
                (libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EINVAL, _) => return Ok(false),
                (errno, text) => return Err(Cause::Refused { errno, text }),
            }
        }
    }
}
