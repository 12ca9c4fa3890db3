//! How is a parameter of a network card read and set? (`SIOCETHTOOL`)

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `ETHTOOL_GTXCSUM` and `ETHTOOL_STXCSUM` of `linux/ethtool.h`.
const GET_TRANSMIT_CHECKSUM: u32 = 0x16;
const SET_TRANSMIT_CHECKSUM: u32 = 0x17;

/// `struct ethtool_value` of `linux/ethtool.h`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether the checksums of what an interface sends are left to it. `socket` is any socket of the interface's network
/// namespace.
///
/// # Errors
/// `ENODEV` if there is no such interface, `EOPNOTSUPP` if it knows nothing of checksums.
pub fn transmit_checksum_offload(socket: impl AsFd, interface: &str) -> io::Result<bool> {
    ask(&socket, interface, Value { command: GET_TRANSMIT_CHECKSUM, data: 0 }).map(|data| data != 0)
}

/// Leaves the checksums of what an interface sends to it, or has the kernel compute them before.
///
/// # Errors
/// As [`transmit_checksum_offload`], and `EPERM` without `CAP_NET_ADMIN`.
pub fn set_transmit_checksum_offload(socket: impl AsFd, interface: &str, on: bool) -> io::Result<()> {
    ask(&socket, interface, Value { command: SET_TRANSMIT_CHECKSUM, data: on.into() }).map(|_| ())
}

fn ask(socket: &impl AsFd, interface: &str, mut value: Value) -> io::Result<u32> {
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last octet stays zero.
    if interface.is_empty() || interface.len() >= request.ifr_name.len() || interface.bytes().any(|octet| octet == 0) {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, octet) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *place = octet as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the kernel reads and writes `request` and, at its pointer, an ethtool_value, as these commands say; both
    // live until the call returns, and it keeps no pointer.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if result == 0 { Ok(value.data) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace;
    use std::net::UdpSocket;
    use std::process::Command;

    #[test]
    fn the_offload_of_checksums_is_switched_off_and_on_and_read_back() {
        namespace::inside(namespace::create().unwrap(), || {
            let arguments = ["link", "add", "here", "type", "veth", "peer", "name", "there"];
            assert!(Command::new("ip").args(arguments).status().unwrap().success());
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for on in [false, true, false] {
                set_transmit_checksum_offload(&socket, "here", on).unwrap();
                assert_eq!(transmit_checksum_offload(&socket, "here").unwrap(), on);
            }
            for name in ["nobody", "", "much-too-long-a-name", "a\0b"] {
                let error = transmit_checksum_offload(&socket, name).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}");
            }
        })
        .unwrap();
    }
}
