//! Members by DNS: SRV records of the service `etcd-client` (RFC 2782), asked of the machine's name servers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const SRV: u16 = 33;
const IN: u16 = 1;
/// Ask the name server to ask others.
const RECURSION_DESIRED: u16 = 0x0100;
const RESPONSE: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;

/// How long one name server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many pointers of compression are followed in one name.
const POINTERS: usize = 16;

/// The URLs of the members of a domain: those with TLS; only if it has none of them, those without.
pub(super) async fn endpoints(domain: &str) -> Result<Vec<String>, String> {
    let servers = name_servers(&tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default());
    endpoints_by(&servers, domain).await
}

async fn endpoints_by(servers: &[SocketAddr], domain: &str) -> Result<Vec<String>, String> {
    for (service, scheme) in [("etcd-client-ssl", "https"), ("etcd-client", "http")] {
        let found = lookup(servers, &format!("_{service}._tcp.{}", domain.trim_end_matches('.'))).await?;
        if !found.is_empty() {
            return Ok(found.into_iter().map(|(target, port)| format!("{scheme}://{target}:{port}")).collect());
        }
    }
    Err(format!("{domain} has no SRV records of _etcd-client-ssl._tcp or _etcd-client._tcp"))
}

/// The `nameserver` lines of resolv.conf(5); the local one if there are none.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect();
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
    }
    servers
}

/// Targets and ports, in the order in which they are to be tried; none if the name does not exist.
async fn lookup(servers: &[SocketAddr], name: &str) -> Result<Vec<(String, u16)>, String> {
    let id = u16::try_from(uuid::Uuid::new_v4().as_u128() & 0xffff).unwrap_or_default();
    let query = query(id, name).ok_or_else(|| format!("{name} is not a domain name"))?;
    let mut failure = String::new();
    for server in servers {
        match tokio::time::timeout(PATIENCE, ask(*server, id, &query)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(reason)) => failure = format!("name server {}: {reason}", server.ip()),
            Err(_) => failure = format!("name server {} did not answer", server.ip()),
        }
    }
    Err(failure)
}

/// Asks by UDP, and by TCP if the answer does not fit.
async fn ask(server: SocketAddr, id: u16, query: &[u8]) -> Result<Vec<(String, u16)>, String> {
    let text = |error: std::io::Error| error.to_string();
    let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(local).await.map_err(text)?;
    socket.connect(server).await.map_err(text)?;
    socket.send(query).await.map_err(text)?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(text)?;
        match answer(id, buffer.get(..length).unwrap_or_default()) {
            Answer::Records(records) => return Ok(records),
            Answer::Refused(code) => return Err(format!("it refuses, with code {code}")),
            Answer::Truncated => break,
            // Somebody else's, or nonsense: the right one may yet come.
            Answer::Foreign => {}
        }
    }
    let mut stream = TcpStream::connect(server).await.map_err(text)?;
    stream.write_u16(u16::try_from(query.len()).unwrap_or_default()).await.map_err(text)?;
    stream.write_all(query).await.map_err(text)?;
    let length = stream.read_u16().await.map_err(text)?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await.map_err(text)?;
    match answer(id, &message) {
        Answer::Records(records) => Ok(records),
        Answer::Refused(code) => Err(format!("it refuses, with code {code}")),
        Answer::Truncated | Answer::Foreign => Err("its answer cannot be read".to_owned()),
    }
}

/// A question (RFC 1035 §4.1), or `None` if the name cannot be one.
fn query(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut message = Vec::new();
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        message.push(length);
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(SRV.to_be_bytes());
    message.extend(IN.to_be_bytes());
    // 12 octets of header, 4 of type and class.
    (message.len() - 16 <= 255).then_some(message)
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Records(Vec<(String, u16)>),
    Refused(u16),
    Truncated,
    Foreign,
}

/// Reads the answer to the question with this id.
fn answer(id: u16, message: &[u8]) -> Answer {
    let mut reader = Reader { message, at: 0 };
    let mut words = [0_u16; 6];
    for word in &mut words {
        match reader.u16() {
            Some(read) => *word = read,
            None => return Answer::Foreign,
        }
    }
    let [found, flags, questions, answers, ..] = words;
    if found != id || flags & RESPONSE == 0 {
        return Answer::Foreign;
    }
    match flags & 0x000f {
        // No error; and no such name, which is an answer too.
        0 => {}
        3 => return Answer::Records(Vec::new()),
        code => return Answer::Refused(code),
    }
    if flags & TRUNCATED != 0 {
        return Answer::Truncated;
    }
    match records(&mut reader, questions, answers) {
        Some(records) => Answer::Records(records),
        None => Answer::Foreign,
    }
}

fn records(reader: &mut Reader<'_>, questions: u16, answers: u16) -> Option<Vec<(String, u16)>> {
    for _ in 0..questions {
        reader.name()?;
        reader.skip(4)?;
    }
    let mut found = Vec::new();
    for _ in 0..answers {
        reader.name()?;
        let (kind, class) = (reader.u16()?, reader.u16()?);
        reader.skip(4)?;
        let length = usize::from(reader.u16()?);
        let end = reader.at.checked_add(length)?;
        if (kind, class) == (SRV, IN) {
            let (priority, weight, port) = (reader.u16()?, reader.u16()?, reader.u16()?);
            let target = reader.name()?;
            // A root target means that the service is decidedly not there.
            if !target.is_empty() {
                found.push((priority, std::cmp::Reverse(weight), target, port));
            }
        }
        reader.at = end;
    }
    found.sort();
    Some(found.into_iter().map(|(_, _, target, port)| (target, port)).collect())
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        let octet = *self.message.get(self.at)?;
        self.at += 1;
        Some(octet)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    fn skip(&mut self, octets: usize) -> Option<()> {
        self.at = self.at.checked_add(octets).filter(|at| *at <= self.message.len())?;
        Some(())
    }

    /// A name, which may go on elsewhere in the message (RFC 1035 §4.1.4).
    fn name(&mut self) -> Option<String> {
        let mut labels: Vec<String> = Vec::new();
        let mut after = None;
        let mut jumps = 0;
        loop {
            let length = self.u8()?;
            match length {
                0 => break,
                1..=63 => {
                    let end = self.at.checked_add(usize::from(length))?;
                    let label = self.message.get(self.at..end)?;
                    labels.push(std::str::from_utf8(label).ok()?.to_owned());
                    self.at = end;
                }
                192..=255 => {
                    let low = self.u8()?;
                    after.get_or_insert(self.at);
                    jumps += 1;
                    if jumps > POINTERS {
                        return None;
                    }
                    self.at = usize::from(u16::from_be_bytes([length & 0x3f, low]));
                }
                _ => return None,
            }
        }
        if let Some(after) = after {
            self.at = after;
        }
        let name = labels.join(".");
        (name.len() <= 255).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with two records: `b` (priority 10) before `a` (priority 20), names compressed.
    fn message(id: u16) -> Vec<u8> {
        let mut message = query(id, "_etcd-client._tcp.example.net").unwrap();
        message[2..4].copy_from_slice(&0x8180_u16.to_be_bytes());
        message[6..8].copy_from_slice(&2_u16.to_be_bytes());
        // "example" of the question: 12 of header, 13 of `_etcd-client`, 5 of `_tcp`.
        let example = [0xc0, 12 + 13 + 5];
        for (label, priority, port) in [(b'a', 20_u16, 2379_u16), (b'b', 10, 2380)] {
            message.extend([0xc0, 12]);
            message.extend([0, 33, 0, 1, 0, 0, 0, 60, 0, 10]);
            message.extend(priority.to_be_bytes());
            message.extend([0, 0]);
            message.extend(port.to_be_bytes());
            message.extend([1, label]);
            message.extend(example);
        }
        message
    }

    #[test]
    fn records_are_read_in_the_order_of_their_priorities() {
        let expected = vec![("b.example.net".to_owned(), 2380), ("a.example.net".to_owned(), 2379)];
        assert_eq!(answer(7, &message(7)), Answer::Records(expected));
        assert_eq!(answer(8, &message(7)), Answer::Foreign);
    }

    #[test]
    fn no_torn_or_spoilt_answer_is_believed_or_panics() {
        let whole = message(7);
        for length in 0..whole.len() {
            assert_eq!(answer(7, &whole[..length]), Answer::Foreign, "{length}");
        }
        for index in 12..whole.len() {
            for octet in [0, 0x3f, 0xc0, 0xff] {
                let mut spoilt = whole.clone();
                spoilt[index] = octet;
                let _ = answer(7, &spoilt);
            }
        }
        assert_eq!(query(1, "a..b"), None);
        assert_eq!(query(1, &"a.".repeat(200)), None);
    }

    #[test]
    fn name_servers_come_from_resolv_conf() {
        let text = "# comment\nsearch a.b\nnameserver 192.0.2.1\n nameserver fd00::1\nnameserver x\n";
        assert_eq!(name_servers(text), ["192.0.2.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
        assert_eq!(name_servers(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_domain_without_members_with_tls_is_asked_for_others() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serve = async {
            for _ in 0..2 {
                let mut buffer = [0; 512];
                let (length, from) = server.recv_from(&mut buffer).await.unwrap();
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                let reply = if buffer[..length].windows(8).any(|octets| octets == b"ent-ssl\x04") {
                    // No such name.
                    let mut reply = buffer[..length].to_vec();
                    reply[2..4].copy_from_slice(&0x8183_u16.to_be_bytes());
                    reply
                } else {
                    message(id)
                };
                server.send_to(&[0, 1, 2], from).await.unwrap();
                server.send_to(&reply, from).await.unwrap();
            }
        };
        let servers = [address];
        let (found, ()) = tokio::join!(endpoints_by(&servers, "example.net."), serve);
        assert_eq!(found, Ok(vec!["http://b.example.net:2380".to_owned(), "http://a.example.net:2379".to_owned()]));
    }
}
