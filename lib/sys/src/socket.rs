//! Which options and calls of sockets do we need that the safe crates lack?

use std::io;
use std::mem::{offset_of, size_of};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest TCP MD5 key, in octets (`TCP_MD5SIG_MAXKEYLEN`).
pub const MAX_MD5_KEY: usize = 80;

/// `TCP_MD5SIG_FLAG_PREFIX` of `linux/tcp.h`.
const MD5_FLAG_PREFIX: u8 = 1;
/// `IP_MINTTL` of `linux/in.h`.
const IP_MINTTL: libc::c_int = 21;
/// `IPV6_MINHOPCOUNT` of `linux/in6.h`.
const IPV6_MINHOPCOUNT: libc::c_int = 73;
/// `TCP_MD5SIG_EXT` of `linux/tcp.h`.
const TCP_MD5SIG_EXT: libc::c_int = 32;

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MAX_MD5_KEY],
}

/// Signs the segments to and from `peer` with a key (RFC 2385); an empty key stops signing. On a listening socket it
/// holds for the connections that `peer` opens.
///
/// # Errors
/// `EINVAL` for a key of more than [`MAX_MD5_KEY`] octets, `ENOPROTOOPT` if the kernel was built without,
/// `ENOENT` for an empty key where there was none.
pub fn set_tcp_md5(socket: impl AsFd, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    md5(&socket, libc::TCP_MD5SIG, peer, None, key)
}

/// As [`set_tcp_md5`] for all peers in the prefix of `length` bits: for sessions accepted from a whole network.
///
/// # Errors
/// As [`set_tcp_md5`], and `EINVAL` for a length that the family does not have.
pub fn set_tcp_md5_prefix(socket: impl AsFd, network: IpAddr, length: u8, key: &[u8]) -> io::Result<()> {
    md5(&socket, TCP_MD5SIG_EXT, network, Some(length), key)
}

fn md5(socket: &impl AsFd, option: libc::c_int, peer: IpAddr, length: Option<u8>, key: &[u8]) -> io::Result<()> {
    let mut octets = [0; MAX_MD5_KEY];
    octets.get_mut(..key.len()).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?.copy_from_slice(key);
    let signature = TcpMd5Sig {
        address: address(peer),
        flags: if length.is_some() { MD5_FLAG_PREFIX } else { 0 },
        prefix_length: length.unwrap_or(0),
        // At most 80, as the line above proved.
        key_length: key.len() as u16,
        interface: 0,
        key: octets,
    };
    set(socket, libc::IPPROTO_TCP, option, &signature)
}

/// Drops segments that arrive with a smaller TTL or hop limit (RFC 5082). `peer` says which family is meant; an IPv4
/// peer on an IPv6 socket (a mapped address) is IPv4. Zero drops none.
///
/// # Errors
/// The kernel's.
pub fn set_minimum_ttl(socket: impl AsFd, peer: IpAddr, ttl: u8) -> io::Result<()> {
    let value = libc::c_int::from(ttl);
    match peer {
        IpAddr::V4(_) => set(&socket, libc::IPPROTO_IP, IP_MINTTL, &value),
        IpAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &value),
    }
}

/// Sets the size of the receive buffer in octets, beyond `net.core.rmem_max` too.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn set_receive_buffer(socket: impl AsFd, octets: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(octets).unwrap_or(libc::c_int::MAX);
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &value)
}

/// An instruction of a socket's filter (classic BPF, `struct sock_filter` of `linux/filter.h`): operation, how many
/// instructions to leap if it holds and if not, value.
pub type Instruction = (u16, u8, u8, u32);

/// Gives a socket a filter, in the place of the one that it had: what the filter returns 0 for never reaches the socket,
/// nor wakes who waits for it.
///
/// # Errors
/// `EINVAL` if the kernel does not like the program, or it has more than 65535 instructions.
pub fn set_filter(socket: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> =
        program.iter().map(|(code, jt, jf, k)| libc::sock_filter { code: *code, jt: *jt, jf: *jf, k: *k }).collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // The kernel copies the program before the call returns; `filter` lives longer.
    let value = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &value)
}

/// Sets the size of a socket's send buffer, beyond the system's limit if need be: a netlink request must fit it whole.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn set_send_buffer(socket: impl AsFd, octets: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(octets).unwrap_or(libc::c_int::MAX);
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &value)
}

/// Connects to a Unix stream socket, waiting no longer than `patience` (and no less than a microsecond) for a listener
/// whose queue is full. The standard library's `connect` would wait for ever.
///
/// # Errors
/// `ENOENT` and `ECONNREFUSED` if nobody listens, `EAGAIN` when the patience is over, `ENAMETOOLONG`.
pub fn connect_unix(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    // SAFETY: sockaddr_un is plain old data; all zeroes is a valid value.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let name = path.as_os_str().as_bytes();
    // The last octet stays zero.
    if name.len() >= address.sun_path.len() || name.contains(&0) {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (place, octet) in address.sun_path.iter_mut().zip(name) {
        *place = *octet as libc::c_char;
    }
    // SAFETY: socket takes integers only.
    let socket = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, so it is open and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let patience = patience.max(Duration::from_micros(1));
    let limit = libc::timeval {
        tv_sec: i32::try_from(patience.as_secs()).unwrap_or(i32::MAX).into(),
        tv_usec: i32::try_from(patience.subsec_micros()).expect("less than a million").into(),
    };
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &limit)?;
    let length = offset_of!(libc::sockaddr_un, sun_path) + name.len() + 1;
    // SAFETY: the kernel reads `length` octets of the structure, which is at least that long, and keeps no pointer.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length as libc::socklen_t) };
    if result == 0 { Ok(socket.into()) } else { Err(io::Error::last_os_error()) }
}

/// The address as a socket address with port 0.
fn address(address: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage is plain old data; all zeroes is a valid value (family AF_UNSPEC).
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let place = &raw mut storage;
    match address {
        IpAddr::V4(address) => {
            let value = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: a sockaddr_storage is large enough and aligned for every socket address, by its definition.
            unsafe { place.cast::<libc::sockaddr_in>().write(value) };
        }
        IpAddr::V6(address) => {
            let value = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: 0,
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.octets() },
                sin6_scope_id: 0,
            };
            // SAFETY: as above.
            unsafe { place.cast::<libc::sockaddr_in6>().write(value) };
        }
    }
    storage
}

/// Sets an option whose value is the plain old data `T`.
fn set<T>(socket: &impl AsFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let socket = socket.as_fd().as_raw_fd();
    let length = libc::socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the kernel reads `length` octets from `value`, which is borrowed and that long, and keeps no pointer.
    let result = unsafe { libc::setsockopt(socket, level, option, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    /// Runs in an own namespace with the loopback up.
    fn with_loopback<T: Send>(work: impl FnOnce() -> T + Send) -> T {
        namespace::inside(namespace::create().unwrap(), || {
            assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            work()
        })
        .unwrap()
    }

    #[test]
    fn the_structure_is_as_large_as_the_kernels() {
        // sockaddr_storage 128, flags, prefix length, key length 4, interface 4, key 80.
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
    }

    #[test]
    fn only_who_has_the_key_gets_through() {
        with_loopback(|| {
            for host in ["127.0.0.1", "::1"] {
                let peer: IpAddr = host.parse().unwrap();
                let listener = TcpListener::bind((peer, 0)).unwrap();
                set_tcp_md5(&listener, peer, b"secret").unwrap();
                let address = listener.local_addr().unwrap();

                let patience = Duration::from_millis(200);
                assert!(TcpStream::connect_timeout(&address, patience).is_err(), "{host} connects without a key");

                let kind = if peer.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
                let client = stream_socket(kind);
                set_tcp_md5(&client, peer, b"secret").unwrap();
                let mut client = connect(client, address);
                let mut server = listener.accept().unwrap().0;
                client.write_all(b"x").unwrap();
                let mut octet = [0];
                server.read_exact(&mut octet).unwrap();
                assert_eq!(&octet, b"x");
            }
        });
    }

    /// A TCP socket that is not connected: the key must be set before.
    fn stream_socket(family: libc::c_int) -> OwnedFd {
        // SAFETY: socket takes integers only.
        let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0);
        // SAFETY: it was just opened, so it is ours alone.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }

    fn connect(socket: OwnedFd, to: std::net::SocketAddr) -> TcpStream {
        let mut storage = address(to.ip());
        let length = match to {
            std::net::SocketAddr::V4(_) => {
                // SAFETY: `address` wrote a sockaddr_in there.
                unsafe { (*(&raw mut storage).cast::<libc::sockaddr_in>()).sin_port = to.port().to_be() };
                size_of::<libc::sockaddr_in>()
            }
            std::net::SocketAddr::V6(_) => {
                // SAFETY: `address` wrote a sockaddr_in6 there.
                unsafe { (*(&raw mut storage).cast::<libc::sockaddr_in6>()).sin6_port = to.port().to_be() };
                size_of::<libc::sockaddr_in6>()
            }
        };
        // SAFETY: the kernel reads `length` octets of a larger structure.
        let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const storage).cast(), length as u32) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        socket.into()
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = set_tcp_md5(&listener, IpAddr::from([127, 0, 0, 1]), &[1; MAX_MD5_KEY + 1]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        set_tcp_md5(&listener, IpAddr::from([127, 0, 0, 1]), &[1; MAX_MD5_KEY]).unwrap();
    }

    #[test]
    fn a_distant_peer_does_not_get_through() {
        with_loopback(|| {
            for host in ["127.0.0.1", "::1"] {
                let peer: IpAddr = host.parse().unwrap();
                let listener = TcpListener::bind((peer, 0)).unwrap();
                set_minimum_ttl(&listener, peer, 255).unwrap();
                // Ours leaves with 64, so the loopback looks 191 hops long.
                let patience = Duration::from_millis(200);
                assert!(TcpStream::connect_timeout(&listener.local_addr().unwrap(), patience).is_err());
                set_minimum_ttl(&listener, peer, 64).unwrap();
                TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
            }
        });
    }

    #[test]
    fn a_receive_buffer_may_exceed_the_systems_limit() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        set_receive_buffer(&socket, 4 << 20).unwrap();
    }

    #[test]
    fn what_a_filter_refuses_does_not_arrive() {
        // The first octet of the payload, after 8 of the header of UDP.
        const FILTER: [Instruction; 4] = [(0x30, 0, 0, 8), (0x15, 0, 1, 7), (0x06, 0, 0, u32::MAX), (0x06, 0, 0, 0)];
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        set_filter(&socket, &FILTER).unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        for octet in [1, 7] {
            socket.send(&[octet]).unwrap();
        }
        let mut octet = [0];
        socket.recv(&mut octet).unwrap();
        assert_eq!(octet, [7]);
        assert_eq!(set_filter(&socket, &[(0, 0, 0, 0)]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("ocicat-sys-{}.sock", std::process::id()));
        let _listener = UnixListener::bind(&path).unwrap();
        let patience = Duration::from_millis(5);
        let attempts: Vec<_> = (0..10_000).map_while(|_| connect_unix(&path, patience).ok()).collect();
        assert!(!attempts.is_empty());
        let error = connect_unix(&path, patience).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(connect_unix(&path, patience).unwrap_err().kind(), io::ErrorKind::NotFound);
        let long = "x".repeat(200);
        assert_eq!(connect_unix(Path::new(&long), patience).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    }
}
