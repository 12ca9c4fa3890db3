//! How is the speaker asked in BIRD's dialect, and what does its answer say?

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use calico_probe::left;

/// More of an answer than this is not read, in octets: tens of thousands of sessions.
const MAX_ANSWER: usize = 16 << 20;

/// What `show status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Whether the graceful restart's recovery is still going on.
    pub(crate) recovering: bool,
    /// How long the speaker runs; `None` if it does not say.
    pub(crate) age: Option<Duration>,
}

/// A session with another node or router, by its name in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: String,
    pub(crate) established: bool,
}

/// Whether a speaker answers, and what it says of itself.
pub(crate) fn ask_status(folder: &Path, ipv6: bool, deadline: Instant) -> Result<Status, String> {
    converse(folder, ipv6, deadline, |conversation| Ok(read_status(&conversation.ask("show status")?)))
}

/// What it says of itself, and its peers.
pub(crate) fn ask_peers(folder: &Path, ipv6: bool, deadline: Instant) -> Result<(Status, Vec<Peer>), String> {
    converse(folder, ipv6, deadline, |conversation| {
        let status = read_status(&conversation.ask("show status")?);
        Ok((status, read_peers(&conversation.ask("show protocols")?, ipv6)))
    })
}

fn converse<T>(
    folder: &Path,
    ipv6: bool,
    deadline: Instant,
    talk: impl FnOnce(&mut Conversation) -> io::Result<T>,
) -> Result<T, String> {
    let socket = folder.join(if ipv6 { "bird6.ctl" } else { "bird.ctl" });
    let outcome = UnixStream::connect(&socket).and_then(|stream| {
        let mut conversation = Conversation { stream, left: Vec::new(), deadline };
        let greeting = conversation.reply()?;
        // `0001 BIRD v0.3.3+birdv1.6.8 ready.`
        if !greeting.iter().any(|line| line.get(5..).is_some_and(|text| text.starts_with("BIRD"))) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not greet as BIRD does"));
        }
        talk(&mut conversation)
    });
    outcome.map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it did not answer in time".to_owned(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!("{error}; is bgp-speaker running?"),
            _ => error.to_string(),
        };
        format!("unable to query {}: {reason}", socket.display())
    })
}

/// A connection to a control socket.
struct Conversation {
    stream: UnixStream,
    /// Octets behind the last reply.
    left: Vec<u8>,
    deadline: Instant,
}

impl Conversation {
    fn ask(&mut self, question: &str) -> io::Result<Vec<String>> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write_all(format!("{question}\n").as_bytes())?;
        self.reply()
    }

    /// All lines of a reply: the last has a blank behind its code.
    fn reply(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut octets = 0;
        loop {
            while let Some(end) = self.left.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.left.drain(..=end).collect();
                octets += line.len();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                let ends = is_last(&line);
                lines.push(line);
                if ends {
                    return Ok(lines);
                }
            }
            if octets + self.left.len() > MAX_ANSWER {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer does not end"));
            }
            self.stream.set_read_timeout(Some(left(self.deadline)?))?;
            let mut part = [0; 16 << 10];
            match self.stream.read(&mut part)? {
                0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")),
                count => self.left.extend(part.iter().take(count)),
            }
        }
    }
}

/// `0013 Daemon is up and running`, or a bare `0000`: [`Conversation::reply`] has cut the blank off that one.
fn is_last(line: &str) -> bool {
    let (code, rest) = line.split_at_checked(4).unwrap_or_default();
    code.len() == 4 && code.bytes().all(|octet| octet.is_ascii_digit()) && !rest.starts_with('-')
}

/// A line without its code; one that goes on with the code of the line before begins with a blank.
fn text(line: &str) -> &str {
    let coded = line.starts_with(|c: char| c.is_ascii_digit());
    line.get(if coded { 5 } else { 1 }..).unwrap_or_default()
}

fn read_status(lines: &[String]) -> Status {
    let mut status = Status::default();
    let (mut now, mut boot) = (None, None);
    for line in lines.iter().map(|line| text(line)) {
        status.recovering |= line.starts_with("Graceful restart recovery in progress");
        now = line.strip_prefix("Current server time is ").and_then(seconds).or(now);
        boot = line.strip_prefix("Last reboot on ").and_then(seconds).or(boot);
    }
    // Both are in one zone, whichever; only across a change of summer time is the difference an hour wrong.
    status.age = now.zip(boot).and_then(|(now, boot)| now.checked_sub(boot)).map(Duration::from_secs);
    status
}

/// `2026-03-02 07:31:09` in seconds since some day long ago; parts of a second are passed over.
fn seconds(text: &str) -> Option<u64> {
    let (date, time) = text.trim().split_once(' ')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number < 10_000);
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split('.').next()?.splitn(3, ':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Months counted from March, so that a leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The rows of sessions that count for readiness: with other nodes, and with the peers that BGPPeers name. Workloads of
/// this node that speak BGP may be up or down as they like.
fn read_peers(lines: &[String], ipv6: bool) -> Vec<Peer> {
    let row = |line: &String| {
        let mut columns = text(line).split_whitespace();
        let name = columns.next()?;
        let prefixes = ["Mesh_", "Global_", "Node_"];
        let address = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))?;
        let address = address.split("_port_").next().unwrap_or(address);
        // name, proto, table, state, since, info
        let established = columns.nth(4).is_some_and(|info| info == "Established");
        Some(Peer { address: address.replace('_', if ipv6 { ":" } else { "." }), established })
    };
    lines.iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    #[test]
    fn the_status_tells_the_age_and_whether_recovery_goes_on() {
        let status = "1000-BIRD v0.3.3+birdv1.6.8\n1011-Router ID is 10.0.0.1\n Current server time is 2026-03-01 00:00:05\n \
                      Last reboot on 2026-02-28 23:59:50\n Last reconfiguration on 2026-02-28 23:59:55\n\
                      0024-Graceful restart recovery in progress\n   Waiting for 3 protocols to recover\n0013 Daemon is up and running\n";
        assert_eq!(read_status(&lines(status)), Status { recovering: true, age: Some(Duration::from_secs(15)) });
        // BIRD 2 writes parts of seconds; and the clock may have been set back.
        let status = "1000-BIRD 2.0.12\n1011-Current server time is 2024-03-01 00:00:01.250\n Last reboot on 2024-02-29 00:00:00.999\n0013 up\n";
        assert_eq!(read_status(&lines(status)).age, Some(Duration::from_secs(86_401)));
        let status = "1011-Current server time is 2024-03-01 00:00:01\n Last reboot on 2024-03-01 00:00:02\n";
        assert_eq!(read_status(&lines(status)).age, None);
        for nonsense in ["", "1011-Current server time is soon\n", "1011-Last reboot on 0000-00-00 00:00:00\n"] {
            assert_eq!(read_status(&lines(nonsense)), Status::default(), "{nonsense:?}");
        }
    }

    #[test]
    fn rows_of_nodes_and_peers_count_and_those_of_workloads_do_not() {
        let table = "2002-name     proto    table    state  since       info\n\
                     1002-Mesh_10_0_0_2 BGP      master   up     08:00:00    Established   \n \
                     Global_10_0_9_1_port_1790 BGP      master   start  2026-03-02  Active        Socket: Connection refused\n \
                     Node_10_0_9_2 BGP      master   down   07:31:09    Error: No listening socket\n \
                     Local_Workload_10_0_0_9 BGP      master   start  07:31:09    Passive       \n \
                     kernel1  Kernel   master   up     07:31:09    \n0000 \n";
        let peer = |address: &str, established| Peer { address: address.to_owned(), established };
        let expected = vec![peer("10.0.0.2", true), peer("10.0.9.1", false), peer("10.0.9.2", false)];
        assert_eq!(read_peers(&lines(table), false), expected);
        let table = "1002-Mesh_fd00__a BGP      master   up     08:00:00    Established   \n0000 \n";
        assert_eq!(read_peers(&lines(table), true), [peer("fd00::a", true)]);
    }

    #[test]
    fn a_reply_ends_with_the_line_that_has_no_dash() {
        for (line, ends) in [
            ("0000", true),
            ("0013 Daemon is up", true),
            ("1002-Mesh", false),
            (" goes on", false),
            ("x", false),
            ("äöüß", false),
        ] {
            assert_eq!(is_last(line), ends, "{line}");
        }
    }
}
