//! How is an HTTP server asked whether it is well? One GET, read to its end or to the deadline, without a runtime.
//!
//! For programs that live for milliseconds: the kubelet's probes and the CNI plugins' readiness gates. What is asked is on
//! this very node and speaks plain HTTP.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// More of an answer than this is not read, in octets.
const MAX_ANSWER: u64 = 64 << 10;
/// How long each attempt to connect may take: it is this very node.
const CONNECT: Duration = Duration::from_secs(2);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody listens there, or the name has no address.
    #[error("{host}:{port} cannot be connected to: {source}")]
    Connect {
        /// Whom.
        host: String,
        /// Where.
        port: u16,
        /// The system's words.
        source: io::Error,
    },
    /// It took too long.
    #[error("{host}:{port} did not answer in time")]
    Silent {
        /// Whom.
        host: String,
        /// Where.
        port: u16,
    },
    /// It hung up.
    #[error("{host}:{port} broke off: {source}")]
    Broken {
        /// Whom.
        host: String,
        /// Where.
        port: u16,
        /// The system's words.
        source: io::Error,
    },
    /// It speaks something else.
    #[error("{host}:{port} does not answer in HTTP")]
    Language {
        /// Whom.
        host: String,
        /// Where.
        port: u16,
    },
}

impl ProbeError {
    /// Whether nobody listens there.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub code: u16,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// Good as the kubelet's own probes have it: 200 to 399.
    pub fn is_good(&self) -> bool {
        (200..400).contains(&self.code)
    }
}

impl Target {
    /// An empty host is every address, as felix has it.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port }
    }

    /// From `host:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self::new(host, port.parse().ok()?))
    }

    /// Whom to ask; only a name that is neither an address nor `localhost` is looked up.
    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let localhost = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let of = |addresses: &[IpAddr]| addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect();
        match self.host.as_str() {
            "localhost" | "" => Ok(of(&localhost)),
            host => match host.parse::<IpAddr>() {
                Ok(address) => Ok(of(&[address])),
                Err(_) => Ok((host, self.port).to_socket_addrs()?.collect()),
            },
        }
    }
}

/// Asks once for `path`; the whole takes until `deadline` at most, but for the look-up of a name.
///
/// # Errors
/// If there is no answer.
pub fn get(target: &Target, path: &str, deadline: Instant) -> Result<Answer, ProbeError> {
    let (host, port) = (target.host.clone(), target.port);
    let mut stream = match connect(target, deadline) {
        Ok(stream) => stream,
        Err(source) => return Err(ProbeError::Connect { host, port, source }),
    };
    let answer = ask(&mut stream, path, deadline).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ProbeError::Silent { host: host.clone(), port },
        _ => ProbeError::Broken { host: host.clone(), port, source },
    })?;
    read(&answer).ok_or(ProbeError::Language { host, port })
}

fn connect(target: &Target, deadline: Instant) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in target.addresses()? {
        match TcpStream::connect_timeout(&address, left(deadline)?.min(CONNECT)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn ask(stream: &mut TcpStream, path: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    // A server that sends an octet now and then must not get more time by it.
    while (answer.len() as u64) < MAX_ANSWER {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut part)? {
            0 => break,
            count => answer.extend(part.iter().take(count)),
        }
    }
    Ok(answer)
}

/// What is left of the time.
///
/// # Errors
/// `TimedOut` if nothing is: no socket takes a limit of zero.
pub fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The answer's status and body.
fn read(octets: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(octets);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut words = head.lines().next()?.split(' ');
    if !words.next()?.starts_with("HTTP/") {
        return None;
    }
    Some(Answer { code: words.next()?.parse().ok()?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_has_a_status_line_or_is_none() {
        let code = |text: &str| read(text.as_bytes()).map(|answer| (answer.code, answer.is_good(), answer.body));
        assert_eq!(code("HTTP/1.1 200 OK\r\nx: y\r\n\r\nCalc ok\n"), Some((200, true, "Calc ok\n".to_owned())));
        assert_eq!(code("HTTP/1.0 302 Found\r\n\r\n"), Some((302, true, String::new())));
        assert_eq!(code("HTTP/1.1 503 Service Unavailable"), Some((503, false, String::new())));
        for nonsense in ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 many\r\n\r\n"] {
            assert_eq!(code(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_target_is_an_address_a_name_or_everything() {
        let of = |text: &str| Target::parse(text).unwrap().addresses().unwrap();
        assert_eq!(of("[::1]:9098"), ["[::1]:9098".parse().unwrap()]);
        assert_eq!(of("0.0.0.0:1"), ["0.0.0.0:1".parse().unwrap()]);
        assert_eq!(of("localhost:5"), ["127.0.0.1:5".parse().unwrap(), "[::1]:5".parse().unwrap()]);
        assert_eq!(Target::parse("127.0.0.1"), None);
        assert_eq!(Target::parse("127.0.0.1:http"), None);
    }

    /// A server that does this with its first connection, and how long it took to be done with it.
    fn asked(serve: impl FnOnce(TcpStream) + Send + 'static) -> (Result<Answer, ProbeError>, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        let server = thread::spawn(move || serve(listener.accept().unwrap().0));
        let start = Instant::now();
        let answer = get(&target, "/readiness", start + Duration::from_millis(300));
        let took = start.elapsed();
        server.join().unwrap();
        (answer, took)
    }

    #[test]
    fn a_server_that_says_nothing_or_ever_more_costs_no_more_than_the_time_allowed() {
        let (answer, took) = asked(|mut stream| {
            // Until the other side hangs up.
            let mut octets = Vec::new();
            let _ = stream.read_to_end(&mut octets);
            assert!(octets.starts_with(b"GET /readiness HTTP/1.1\r\n"));
        });
        assert!(
            matches!(answer, Err(ProbeError::Silent { .. })) && took < Duration::from_secs(3),
            "{answer:?} {took:?}"
        );
        let (answer, took) = asked(|mut stream| while stream.write_all(b"x").is_ok() {});
        assert!(answer.is_err() && took < Duration::from_secs(3), "{answer:?} {took:?}");
        let (answer, _) = asked(drop);
        assert!(matches!(answer, Err(ProbeError::Broken { .. } | ProbeError::Language { .. })), "{answer:?}");
        let nobody = Target::new("127.0.0.1", 1);
        assert!(get(&nobody, "/", Instant::now() + Duration::from_secs(1)).unwrap_err().is_refusal());
    }
}
