//! Sockets with keys and with TTL security against a real kernel, in a network namespace of its own. Needs root.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use bgp_speaker::transport::{
    DialId, Event, Incoming, KeyError, Keys, Listener, Md5Key, NotAdmitted, Packets, dial, listen,
};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const PLAIN: Packets = Packets { ttl_security: None };

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs in a namespace whose loopback has 127.0.0.0/8 and fd00::1 to fd00::4.
fn in_namespace(work: impl AsyncFnOnce() + Send) {
    let namespace = calico_sys::namespace::create().unwrap();
    calico_sys::namespace::inside(namespace, || {
        ip("link set lo up");
        let addresses: Vec<String> = (1..5).map(|n| format!("fd00::{n}")).collect();
        addresses.iter().for_each(|address| drop(ip(&format!("addr add {address}/128 dev lo nodad"))));
        // The kernel makes them its own a little later.
        let end = Instant::now() + PATIENCE;
        while !addresses.iter().all(|address| ip("-6 route show table local").contains(&format!("local {address} "))) {
            assert!(Instant::now() < end, "{}", ip("-6 route show table local"));
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
    })
    .unwrap();
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(text: &str) -> Md5Key {
    Md5Key::new(text.as_bytes())
}

fn keys(peers: &[(&str, Option<&str>)]) -> Keys {
    peers.iter().map(|(peer, text)| (address(peer), text.map(key))).collect()
}

/// A listener, and whom it hears of.
struct Side {
    listener: Listener,
    events: mpsc::Sender<Event>,
    happened: mpsc::Receiver<Event>,
    dials: u64,
    /// Who was accepted while something else was waited for.
    accepted: Vec<Incoming>,
}

impl Side {
    fn new(own: &str, peers: &Keys) -> Self {
        let (events, happened) = mpsc::channel(64);
        let listener = listen(SocketAddr::new(address(own), 179), peers, events.clone()).unwrap();
        Self { listener, events, happened, dials: 0, accepted: Vec::new() }
    }

    /// Begins to connect to the listener.
    fn dial(&mut self, from: &str, packets: Packets, key: Option<Md5Key>) -> DialId {
        self.dials += 1;
        let id = DialId(self.dials);
        dial(id, self.listener.address(), Some(address(from)), packets, key, self.events.clone());
        id
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.happened.recv()).await.expect("something happens").unwrap()
    }

    /// Connects from an address: both ends.
    async fn connect(&mut self, from: &str, packets: Packets, key: Option<Md5Key>) -> (TcpStream, Incoming) {
        let id = self.dial(from, packets, key);
        let mut dialled = None;
        loop {
            let of_it = self.accepted.iter().position(|incoming| incoming.peer().ip() == address(from));
            if let (Some(_), Some(place)) = (&dialled, of_it) {
                return (dialled.unwrap(), self.accepted.swap_remove(place));
            }
            match self.next().await {
                Event::Accepted(incoming) => self.accepted.push(incoming),
                Event::Dialled(this, result) if this == id => dialled = Some(result.unwrap()),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Octets go both ways.
async fn speak(one: &mut TcpStream, other: &mut TcpStream) {
    let exchange = async {
        for _ in 0..2 {
            let mut octet = [0];
            one.write_all(b"1").await.unwrap();
            other.read_exact(&mut octet).await.unwrap();
            other.write_all(b"2").await.unwrap();
            one.read_exact(&mut octet).await.unwrap();
            assert_eq!(&octet, b"2");
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("octets arrive");
}

/// What one end sends does not arrive, while on another connection something does.
async fn is_mute(one: &mut TcpStream, other: &mut TcpStream, witnesses: &mut (TcpStream, TcpStream)) {
    one.write_all(b"1").await.unwrap();
    speak(&mut witnesses.0, &mut witnesses.1).await;
    let error = other.try_read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn only_who_has_the_sessions_key_connects_and_a_changed_key_counts_at_once() {
    in_namespace(async || {
        for [own, keyed, other] in [["127.0.0.1", "127.0.0.2", "127.0.0.3"], ["fd00::1", "fd00::2", "fd00::3"]] {
            let mut side = Side::new(own, &keys(&[(keyed, Some("secret")), (other, None)]));
            // Attempts that must come to nothing, each while others succeed.
            side.dial(keyed, PLAIN, Some(key("Secret")));
            side.dial(keyed, PLAIN, None);
            side.dial(other, PLAIN, Some(key("secret")));
            let (mut dialled, incoming) = side.connect(keyed, PLAIN, Some(key("secret"))).await;
            let mut accepted = incoming.admit(PLAIN, Some(&key("secret"))).unwrap();
            speak(&mut dialled, &mut accepted).await;
            let (mut dialled, incoming) = side.connect(other, PLAIN, None).await;
            speak(&mut dialled, &mut incoming.admit(PLAIN, None).unwrap()).await;
            assert!(side.accepted.is_empty(), "{:?}", side.accepted);

            // The key changes, and who had none gets one.
            side.listener.set_keys(&keys(&[(keyed, Some("new")), (other, Some("secret"))]));
            assert!(!side.listener.has_key_errors());
            side.dial(keyed, PLAIN, Some(key("secret")));
            side.dial(other, PLAIN, None);
            let (_dialled, incoming) = side.connect(keyed, PLAIN, Some(key("new"))).await;
            incoming.admit(PLAIN, Some(&key("new"))).unwrap();
            let (_dialled, incoming) = side.connect(other, PLAIN, Some(key("secret"))).await;
            incoming.admit(PLAIN, Some(&key("secret"))).unwrap();
            assert!(side.accepted.is_empty(), "{:?}", side.accepted);

            // And is removed.
            side.listener.set_keys(&keys(&[(keyed, None), (other, None)]));
            let (mut dialled, incoming) = side.connect(keyed, PLAIN, None).await;
            speak(&mut dialled, &mut incoming.admit(PLAIN, None).unwrap()).await;
        }
    });
}

#[test]
fn a_connection_from_before_the_key_is_not_admitted_and_one_of_the_old_key_is_mute() {
    in_namespace(async || {
        let mut side = Side::new("127.0.0.1", &keys(&[("127.0.0.2", None), ("127.0.0.3", Some("old"))]));
        let (unsigned, from_before) = side.connect("127.0.0.2", PLAIN, None).await;
        let (mut of_old, incoming) = side.connect("127.0.0.3", PLAIN, Some(key("old"))).await;
        let peers = keys(&[("127.0.0.2", Some("key")), ("127.0.0.3", Some("new")), ("127.0.0.4", None)]);
        side.listener.set_keys(&peers);
        let error = from_before.admit(PLAIN, Some(&key("key"))).unwrap_err();
        assert!(matches!(error, NotAdmitted::Unsigned), "{error:?}");
        let end = tokio::time::timeout(PATIENCE, async { unsigned.readable().await.and(unsigned.try_read(&mut [0])) });
        assert_eq!(end.await.expect("the connection is closed").unwrap_or(0), 0);

        let mut accepted = incoming.admit(PLAIN, Some(&key("new"))).unwrap();
        let (dialled, witness) = side.connect("127.0.0.4", PLAIN, None).await;
        let mut witnesses = (dialled, witness.admit(PLAIN, None).unwrap());
        is_mute(&mut of_old, &mut accepted, &mut witnesses).await;
    });
}

#[test]
fn many_peers_of_one_key_need_no_more_of_the_kernels_memory_than_one() {
    in_namespace(async || {
        // Room for a few keys.
        std::fs::write("/proc/sys/net/core/optmem_max", "1024").unwrap_or_default();
        let mut mesh: Keys = (0..=255).map(|n| (IpAddr::from([127, 0, 1, n]), Some(key("mesh")))).collect();
        mesh.insert(address("127.0.0.9"), None);
        let mut side = Side::new("127.0.0.1", &mesh);
        assert!(!side.listener.has_key_errors());
        side.dial("127.0.1.7", PLAIN, None);
        for peer in ["127.0.1.7", "127.0.1.200"] {
            let (mut dialled, incoming) = side.connect(peer, PLAIN, Some(key("mesh"))).await;
            speak(&mut dialled, &mut incoming.admit(PLAIN, Some(&key("mesh"))).unwrap()).await;
        }
        let (mut dialled, incoming) = side.connect("127.0.0.9", PLAIN, None).await;
        speak(&mut dialled, &mut incoming.admit(PLAIN, None).unwrap()).await;
        assert!(side.accepted.is_empty(), "{:?}", side.accepted);

        // Each its own key is more than there is room for: some fail by name, are not served, and others are.
        let own = |n: u8| Some(key(&format!("key {n}")));
        let many: Keys = (0..=255).map(|n| (IpAddr::from([127, 0, 1, n]), own(n))).collect();
        side.listener.set_keys(&many);
        let failed: Vec<u8> =
            (0..=255).filter(|n| side.listener.key_error(IpAddr::from([127, 0, 1, *n])).is_some()).collect();
        if failed.is_empty() {
            eprintln!(
                "this kernel has one limit for all namespaces, too high for this test: running out is not tested"
            );
            return;
        }
        let error = side.listener.key_error(IpAddr::from([127, 0, 1, failed[0]])).unwrap();
        assert_eq!(error, &KeyError::NoMemory);
        let good = (0..=255).find(|n| !failed.contains(n)).expect("there is room for one at least");
        let (_dialled, incoming) = side.connect(&format!("127.0.1.{good}"), PLAIN, own(good)).await;
        incoming.admit(PLAIN, own(good).as_ref()).unwrap();
        let bad = failed[0];
        let (_dialled, incoming) = side.connect(&format!("127.0.1.{bad}"), PLAIN, None).await;
        assert!(matches!(incoming.admit(PLAIN, own(bad).as_ref()), Err(NotAdmitted::Unsigned)));
        // When there is room again, it is used.
        side.listener.set_keys(&keys(&[(&format!("127.0.1.{bad}"), Some("again"))]));
        assert!(!side.listener.has_key_errors());
    });
}

/// A connection of somebody whose packets have come from some hops away: they leave with less than 255.
async fn connect_from_afar(to: SocketAddr, from: &str, ttl: u32) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None).unwrap();
    match to.is_ipv4() {
        true => socket.set_ttl_v4(ttl).unwrap(),
        false => socket.set_unicast_hops_v6(ttl).unwrap(),
    }
    socket.bind(&SocketAddr::new(address(from), 0).into()).unwrap();
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    tokio::time::timeout(PATIENCE, socket.connect(to)).await.expect("the listener answers").unwrap()
}

#[test]
fn ttl_security_lets_the_farthest_allowed_peer_through_and_none_beyond_whoever_connects() {
    in_namespace(async || {
        for [own, peer, other] in [["127.0.0.1", "127.0.0.2", "127.0.0.3"], ["fd00::1", "fd00::2", "fd00::3"]] {
            let mut side = Side::new(own, &keys(&[(peer, None), (other, None)]));
            let (dialled, witness) = side.connect(other, PLAIN, None).await;
            let mut witnesses = (dialled, witness.admit(PLAIN, None).unwrap());
            let security = |hops| Packets { ttl_security: Some(hops) };

            // They connect. One hop away leaves 255 here, two hops 254.
            for (ttl, hops, through) in [(255, 1, true), (254, 1, false), (254, 2, true), (253, 2, false)] {
                let mut stream = connect_from_afar(side.listener.address(), peer, ttl).await;
                let Event::Accepted(incoming) = side.next().await else { panic!("it is accepted") };
                let mut accepted = incoming.admit(security(hops), None).unwrap();
                match through {
                    true => speak(&mut stream, &mut accepted).await,
                    false => is_mute(&mut stream, &mut accepted, &mut witnesses).await,
                }
            }

            // We connect, and they have TTL security too: even the first answer of a listener passes it.
            let (mut dialled, incoming) = side.connect(peer, security(1), None).await;
            speak(&mut dialled, &mut incoming.admit(security(1), None).unwrap()).await;
            // Whoever answers from farther away is not heard.
            let far = Socket::new(Domain::for_address(side.listener.address()), Type::STREAM, None).unwrap();
            match address(own).is_ipv4() {
                true => far.set_ttl_v4(254).unwrap(),
                false => far.set_unicast_hops_v6(254).unwrap(),
            }
            far.bind(&SocketAddr::new(address(own), 1179).into()).unwrap();
            far.listen(5).unwrap();
            let near = SocketAddr::new(address(own), 1179);
            dial(DialId(101), near, Some(address(peer)), security(1), None, side.events.clone());
            dial(DialId(102), near, Some(address(peer)), security(2), None, side.events.clone());
            let Event::Dialled(id, result) = side.next().await else { panic!("a dial ends") };
            assert_eq!(id, DialId(102), "{result:?}");
            result.unwrap();
            speak(&mut witnesses.0, &mut witnesses.1).await;
            assert!(side.happened.try_recv().is_err(), "the other is still unanswered");
        }
    });
}

#[test]
fn ipv4_and_ipv6_have_a_port_each() {
    in_namespace(async || {
        let (events, mut happened) = mpsc::channel(64);
        let any: [SocketAddr; 2] = ["0.0.0.0:179".parse().unwrap(), "[::]:179".parse().unwrap()];
        let peers = keys(&[("127.0.0.2", Some("four")), ("fd00::2", Some("six"))]);
        let _listeners = any.map(|address| listen(address, &peers, events.clone()).unwrap());
        for (own, peer, text) in [("127.0.0.1", "127.0.0.2", "four"), ("fd00::1", "fd00::2", "six")] {
            let to = SocketAddr::new(address(own), 179);
            dial(DialId(1), to, Some(address(peer)), PLAIN, Some(key(text)), events.clone());
            let (mut dialled, mut accepted) = (None, None);
            while dialled.is_none() || accepted.is_none() {
                match tokio::time::timeout(PATIENCE, happened.recv()).await.unwrap().unwrap() {
                    Event::Dialled(_, stream) => dialled = Some(stream.unwrap()),
                    Event::Accepted(incoming) => {
                        assert_eq!(incoming.peer().ip(), address(peer));
                        accepted = Some(incoming.admit(PLAIN, Some(&key(text))).unwrap());
                    }
                    other => panic!("{other:?}"),
                }
            }
            speak(&mut dialled.unwrap(), &mut accepted.unwrap()).await;
        }
        // A key that the kernel does not take is the reason of a failed attempt.
        let too_long = Md5Key::new(&[7; 81]);
        dial(DialId(2), SocketAddr::new(address("127.0.0.1"), 179), None, PLAIN, Some(too_long), events.clone());
        let Some(Event::Dialled(DialId(2), Err(error))) = happened.recv().await else { panic!("it connected") };
        assert!(error.to_string().starts_with("Kernel MD5 auth failed: "), "{error}");
    });
}
