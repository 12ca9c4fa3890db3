//! How is a health server asked? One GET, read to its end or to the deadline.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// More of an answer than this is not read, in octets.
const MAX_ANSWER: u64 = 64 << 10;
/// How long each attempt to connect may take: it is this very node.
const CONNECT: Duration = Duration::from_secs(2);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("{host}:{port} cannot be connected to: {source}")]
    Connect { host: String, port: u16, source: io::Error },
    #[error("{host}:{port} did not answer in time")]
    Silent { host: String, port: u16 },
    #[error("{host}:{port} broke off: {source}")]
    Broken { host: String, port: u16, source: io::Error },
    #[error("{host}:{port} does not answer in HTTP")]
    Language { host: String, port: u16 },
}

impl HttpError {
    /// Whether nobody listens there.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// A server's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    code: u16,
    body: String,
}

impl Target {
    /// An empty host is every address, as felix has it.
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port }
    }

    /// From `host:port`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
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

/// Asks once.
pub(crate) fn get(target: &Target, path: &str, deadline: Instant) -> Result<Answer, HttpError> {
    let (host, port) = (target.host.clone(), target.port);
    let mut stream = match connect(target, deadline) {
        Ok(stream) => stream,
        Err(source) => return Err(HttpError::Connect { host, port, source }),
    };
    let answer = ask(&mut stream, path, deadline).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => HttpError::Silent { host: host.clone(), port },
        _ => HttpError::Broken { host: host.clone(), port, source },
    })?;
    read(&answer).ok_or(HttpError::Language { host, port })
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

/// What is left of the time; an error instead of none.
pub(crate) fn left(deadline: Instant) -> io::Result<Duration> {
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

impl Answer {
    /// Good as a kubelet's own probe has it: 200 to 399. Otherwise the code, and those parts that are not well.
    pub(crate) fn verdict(&self, what: &str) -> Result<(), String> {
        if (200..400).contains(&self.code) {
            return Ok(());
        }
        let parts: Vec<String> = self
            .body
            .lines()
            .filter(|line| line.contains(" NOT "))
            .map(|line| line.split_whitespace().filter(|word| *word != "NOT").collect::<Vec<_>>().join(" "))
            .collect();
        let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join("; ")) };
        Err(format!("{what} probe reporting {}{parts}", self.code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_good_or_names_what_is_not_well() {
        let verdict = |text: &str| read(text.as_bytes()).map(|answer| answer.verdict("readiness"));
        assert_eq!(verdict("HTTP/1.1 200 OK\r\n\r\nCalc ok\n"), Some(Ok(())));
        assert_eq!(verdict("HTTP/1.1 302 Found\r\n\r\n"), Some(Ok(())));
        let body =
            "CalculationGraph             ok  in sync\nInternalDataplaneMainLoop    NOT has not reported in time\n";
        let said = verdict(&format!("HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\n{body}"));
        let expected = "readiness probe reporting 503 (InternalDataplaneMainLoop has not reported in time)";
        assert_eq!(said, Some(Err(expected.to_owned())));
        for nonsense in ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 many\r\n\r\n"] {
            assert_eq!(verdict(nonsense), None, "{nonsense:?}");
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
}
