//! Which TCP MD5 keys (RFC 2385) does a socket get?
//!
//! Each key of a listener takes of its option memory (`net.core.optmem_max`), which on many systems is enough for some
//! hundred. So where many peers share one, as a mesh does, a key of a whole prefix stands for them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use calico_sys::socket::{MAX_MD5_KEY, set_tcp_md5, set_tcp_md5_prefix};
use ipnet::IpNet;

/// From so many peers of a family with keys on, prefixes are looked for that share one.
const SHARED_FROM: usize = 64;

/// A TCP MD5 key. It never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Key(Arc<[u8]>);

/// All peers that may connect, and their keys; `None` is a peer without one.
pub type Keys = BTreeMap<IpAddr, Option<Md5Key>>;

/// Why a socket did not take a key; the session stays down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is empty or too long.
    #[error("Kernel MD5 auth failed: a key has 1 to {MAX_MD5_KEY} octets, and this one has {0}")]
    Length(usize),
    /// The socket's option memory is full.
    #[error("Kernel MD5 auth failed: no memory for another key; raise the sysctl net.core.optmem_max")]
    NoMemory,
    /// The kernel lacks it.
    #[error("Kernel MD5 auth failed: this kernel was built without CONFIG_TCP_MD5SIG")]
    Unsupported,
    /// Anything else.
    #[error("Kernel MD5 auth failed: {0}")]
    Kernel(String),
}

impl From<io::Error> for KeyError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::ENOBUFS) => Self::NoMemory,
            Some(libc::ENOPROTOOPT) => Self::Unsupported,
            _ => Self::Kernel(error.to_string()),
        }
    }
}

impl Md5Key {
    /// A key of these octets. Whether they can be one is found out when it is used.
    pub fn new(octets: &[u8]) -> Self {
        Self(octets.into())
    }

    fn octets(&self) -> Result<&[u8], KeyError> {
        match self.0.len() {
            1..=MAX_MD5_KEY => Ok(&self.0),
            length => Err(KeyError::Length(length)),
        }
    }

    /// Signs the packets to and from a peer.
    pub(super) fn set(&self, socket: impl AsFd, peer: IpAddr) -> Result<(), KeyError> {
        set_tcp_md5(socket, peer, self.octets()?)?;
        Ok(())
    }

    /// Signs the packets to and from the peers in a network, on a listener.
    pub(super) fn set_for(&self, socket: impl AsFd, peers: &IpNet) -> Result<(), KeyError> {
        let octets = self.octets()?;
        match peers.prefix_len() == peers.max_prefix_len() {
            true => set_tcp_md5(socket, peers.addr(), octets)?,
            false => set_tcp_md5_prefix(socket, peers.addr(), peers.prefix_len(), octets)?,
        }
        Ok(())
    }
}

impl fmt::Debug for Md5Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Key(…)")
    }
}

/// Ceases to sign for the peers in a network; `ENOENT` if that was not done.
pub(super) fn unset_for(socket: impl AsFd, peers: &IpNet) -> io::Result<()> {
    match peers.prefix_len() == peers.max_prefix_len() {
        true => set_tcp_md5(socket, peers.addr(), &[]),
        false => set_tcp_md5_prefix(socket, peers.addr(), peers.prefix_len(), &[]),
    }
}

/// The keys that a listener of a family gets for its peers.
pub(super) fn for_listener(peers: &Keys, ipv4: bool) -> BTreeMap<IpNet, Md5Key> {
    let of_family: Vec<(IpAddr, Option<&Md5Key>)> =
        peers.iter().filter(|(peer, _)| peer.is_ipv4() == ipv4).map(|(peer, key)| (*peer, key.as_ref())).collect();
    let mut keys = BTreeMap::new();
    if of_family.iter().filter(|(_, key)| key.is_some()).count() < SHARED_FROM {
        keys.extend(of_family.into_iter().filter_map(|(peer, key)| Some((IpNet::from(peer), key?.clone()))));
    } else {
        share(&of_family, &mut keys);
    }
    keys
}

/// Gives the peers, sorted by address, the fewest keys of which none reaches a peer that has another or none.
fn share(peers: &[(IpAddr, Option<&Md5Key>)], keys: &mut BTreeMap<IpNet, Md5Key>) {
    let (Some((first, key)), Some((last, _))) = (peers.first(), peers.last()) else { return };
    let common = common(*first, *last);
    if peers.iter().all(|(_, other)| other == key) {
        if let Some(key) = key {
            keys.insert(common, (*key).clone());
        }
        return;
    }
    // The first address of the upper half has the bit behind the common ones set, and all below do not.
    let upper = common.subnets(common.prefix_len() + 1).ok().and_then(|mut halves| halves.nth(1));
    let middle = upper.map_or(0, |upper| peers.partition_point(|(peer, _)| *peer < upper.network()));
    let (below, above) = peers.split_at(middle);
    if !below.is_empty() && !above.is_empty() {
        share(below, keys);
        share(above, keys);
    }
}

/// The longest prefix with both addresses, which are of one family.
fn common(first: IpAddr, last: IpAddr) -> IpNet {
    let length = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => 0,
    };
    IpNet::new(first, u8::try_from(length).unwrap_or(0)).map_or(IpNet::from(first), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Md5Key> {
        Some(Md5Key::new(text.as_bytes()))
    }

    #[track_caller]
    fn check(peers: &Keys, ipv4: bool, expected: &[(&str, &str)]) {
        let keys: Vec<_> = for_listener(peers, ipv4)
            .into_iter()
            .map(|(net, key)| (net.to_string(), String::from_utf8(key.0.to_vec()).unwrap()))
            .collect();
        let keys: Vec<_> = keys.iter().map(|(net, key)| (net.as_str(), key.as_str())).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn few_peers_have_keys_of_their_own_and_many_share_those_that_reach_no_other() {
        let mut peers = Keys::new();
        for (peer, key) in [("10.0.0.2", key("a")), ("10.0.0.3", key("a")), ("10.0.0.4", None), ("fd00::2", key("b"))] {
            peers.insert(peer.parse().unwrap(), key);
        }
        check(&peers, true, &[("10.0.0.2/32", "a"), ("10.0.0.3/32", "a")]);
        check(&peers, false, &[("fd00::2/128", "b")]);

        let mut mesh: Keys = (0..=255).map(|n| (IpAddr::from([10, 0, 1, n]), key("mesh"))).collect();
        check(&mesh, true, &[("10.0.1.0/24", "mesh")]);
        mesh.insert("10.0.1.9".parse().unwrap(), None);
        mesh.insert("192.0.2.1".parse().unwrap(), key("tor"));
        let expected = [
            ("10.0.1.0/29", "mesh"),
            ("10.0.1.8/32", "mesh"),
            ("10.0.1.10/31", "mesh"),
            ("10.0.1.12/30", "mesh"),
            ("10.0.1.16/28", "mesh"),
            ("10.0.1.32/27", "mesh"),
            ("10.0.1.64/26", "mesh"),
            ("10.0.1.128/25", "mesh"),
            ("192.0.2.1/32", "tor"),
        ];
        check(&mesh, true, &expected);
        check(&mesh, false, &[]);
    }

    #[test]
    fn a_key_that_cannot_be_one_is_refused_in_words_and_never_shown() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for octets in [&[][..], &[7; MAX_MD5_KEY + 1]] {
            let error = Md5Key::new(octets).set(&listener, [127, 0, 0, 1].into()).unwrap_err();
            assert_eq!(error, KeyError::Length(octets.len()));
            assert!(error.to_string().starts_with("Kernel MD5 auth failed: "));
        }
        assert_eq!(format!("{:?}", Md5Key::new(b"secret")), "Md5Key(…)");
    }
}
