//! The control dialect of BIRD 1.6: what is asked, and how is it answered?
//!
//! A line of a reply is a code of four digits, `-` if more follows or a blank if it is the last, and text; a line with
//! the code of the one before begins with one blank instead. `calicoctl` and exporters compare some texts exactly.

mod protocols;
mod reply;
mod routes;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use jiff::tz::TimeZone;

use self::protocols::{details, protocol, status};
pub(crate) use self::reply::Clock;
use self::reply::Reply;
use self::routes::{attributes, route};
use crate::status::{Question, Report, Selection, SessionStatus};

/// The version that we claim; clients look for its beginning.
pub const VERSION: &str = "v0.3.3+birdv1.6.8";

/// Which sessions and routes a socket shows: BIRD has a daemon, and a socket, for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `bird.ctl`.
    V4,
    /// `bird6.ctl`.
    V6,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `show status`
    Status,
    /// `show protocols [all] [NAME | "PATTERN"]`
    Protocols {
        /// With details.
        all: bool,
        /// Only these.
        name: Option<String>,
    },
    /// `show route [all] [for X | X] [protocol NAME] [count]`
    Route {
        /// With attributes.
        all: bool,
        /// Only the number of routes.
        count: bool,
        /// Only this prefix.
        prefix: Option<IpNet>,
        /// Whether the longest one around `prefix` is meant (`for`).
        longest: bool,
        /// Only of this session.
        protocol: Option<String>,
    },
    /// `restrict`: we are read-only anyway.
    Restrict,
}

/// The first line of a connection.
pub fn greeting() -> String {
    format!("0001 BIRD {VERSION} ready.\n")
}

/// Reads a request.
///
/// # Errors
/// The reply to send instead.
pub fn parse(line: &str) -> Result<Command, String> {
    let syntax_error = || "9001 syntax error\n".to_owned();
    let mut words = line.trim().trim_end_matches(';').split_whitespace();
    match (words.next(), words.next()) {
        (Some("restrict"), None) => Ok(Command::Restrict),
        (Some("show"), Some("status")) if words.next().is_none() => Ok(Command::Status),
        (Some("show"), Some("protocols")) => {
            let mut rest = words.peekable();
            let all = rest.next_if_eq(&"all").is_some();
            let name = rest.next().map(|name| name.trim_matches('"').to_owned());
            if rest.next().is_some() { Err(syntax_error()) } else { Ok(Command::Protocols { all, name }) }
        }
        (Some("show"), Some("route")) => {
            let (mut all, mut count, mut longest, mut prefix, mut protocol) = (false, false, false, None, None);
            while let Some(word) = words.next() {
                match word {
                    "all" => all = true,
                    "count" => count = true,
                    "primary" => {}
                    "table" if words.next() == Some("master") => {}
                    "protocol" => protocol = Some(words.next().ok_or_else(syntax_error)?.to_owned()),
                    "for" => {
                        longest = true;
                        prefix = Some(words.next().and_then(network).ok_or_else(syntax_error)?);
                    }
                    word => prefix = Some(network(word).ok_or_else(syntax_error)?),
                }
            }
            Ok(Command::Route { all, count, prefix, longest, protocol })
        }
        _ => Err(syntax_error()),
    }
}

impl Command {
    /// What must be known to answer.
    pub fn question(&self) -> Question {
        match self {
            Self::Status | Self::Restrict => Question::Status,
            Self::Protocols { .. } => Question::Sessions,
            Self::Route { .. } => Question::Routes(Selection::ALL),
        }
    }

    /// The reply, in the time zone that BIRD would use.
    pub fn answer(&self, report: &Report, family: Family, zone: &TimeZone) -> String {
        let mut reply = Reply::default();
        let clock = Clock { now: report.overview.now, zone };
        let mut sessions = report.sessions.iter().filter(|session| session.peer.is_ipv4() == (family == Family::V4));
        match self {
            Self::Restrict => reply.last(16, "Access restricted"),
            Self::Status => status(&mut reply, report, &clock),
            Self::Protocols { all, name } => {
                let wanted = |session: &&SessionStatus| name.as_deref().is_none_or(|name| matches(name, &session.name));
                let shown: Vec<_> = sessions.by_ref().filter(wanted).collect();
                if shown.is_empty() && name.is_some() {
                    reply.last(8003, "No protocols match");
                    return reply.0;
                }
                reply.line(2002, "name     proto    table    state  since       info");
                for session in shown {
                    protocol(&mut reply, session, &clock);
                    if *all {
                        details(&mut reply, session);
                    }
                }
                reply.last(0, "");
            }
            Self::Route { all, count, prefix, longest, protocol } => {
                let around = |prefix: &IpNet| {
                    let prefixes = report.paths.iter().map(|path| path.prefix);
                    let around =
                        prefixes.filter(|other| if *longest { other.contains(prefix) } else { other == prefix });
                    around.max_by_key(IpNet::prefix_len)
                };
                let place = prefix.as_ref().map(around);
                let mut shown: Vec<_> = report
                    .paths
                    .iter()
                    .filter(|path| path.prefix.addr().is_ipv4() == (family == Family::V4))
                    .filter(|path| place.is_none_or(|place| Some(path.prefix) == place))
                    .filter(|path| protocol.as_deref().is_none_or(|name| path.source == name))
                    .collect();
                if *count {
                    let mut prefixes: Vec<_> = shown.iter().map(|path| path.prefix).collect();
                    prefixes.dedup();
                    let (paths, networks) = (shown.len(), prefixes.len());
                    reply.last(14, &format!("{paths} of {paths} routes for {networks} networks"));
                    return reply.0;
                }
                if shown.is_empty() && prefix.is_some() {
                    reply.last(8001, "Network not in table");
                    return reply.0;
                }
                let mut previous = None;
                for path in shown.drain(..) {
                    route(&mut reply, path, previous == Some(path.prefix), &clock, report);
                    previous = Some(path.prefix);
                    if *all {
                        attributes(&mut reply, path);
                    }
                }
                reply.last(0, "");
            }
        }
        reply.0
    }
}

/// A network, or an address as a network of one.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

/// Whether a session's name is the asked one, or fits the pattern with `*` and `?`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    // Behind the last star, and how much of the name it leaves: what an earlier star took need not be tried again.
    let mut star = None;
    loop {
        let rest = name.clone();
        match (pattern.next(), name.next()) {
            (Some('*'), _) => {
                star = Some((pattern.clone(), rest.clone()));
                name = rest;
            }
            (None, None) => return true,
            (Some(head), Some(c)) if head == '?' || head == c => {}
            _ => {
                let Some((behind, left)) = &mut star else { return false };
                if left.next().is_none() {
                    return false;
                }
                (pattern, name) = (behind.clone(), left.clone());
            }
        }
    }
}
