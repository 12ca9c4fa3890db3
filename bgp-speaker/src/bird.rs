//! The control dialect of BIRD 1.6: what is asked, and how is it answered?
//!
//! A line of a reply is a code of four digits, `-` if more follows or a blank if it is the last, and text; a line with
//! the code of the one before begins with one blank instead. `calicoctl` and exporters compare some texts exactly.

use std::fmt::Write as _;

use ipnet::IpNet;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::status::{PathStatus, Question, Report, SessionStatus, State};

/// The version that we claim; clients look for its beginning.
pub const VERSION: &str = "v0.3.3+birdv1.6.8";

/// Until this age a time is shown as a time of day, then as a date, in seconds.
const TIME_OF_DAY_LIMIT: i64 = 20 * 3600;

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
            Self::Route { .. } => Question::Routes,
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
                        details(&mut reply, session, &report.overview);
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
fn matches(pattern: &str, name: &str) -> bool {
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

fn status(reply: &mut Reply, report: &Report, clock: &Clock<'_>) {
    let overview = &report.overview;
    reply.line(1000, &format!("BIRD {VERSION}"));
    let router_id = overview.router_id.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
    reply.line(1011, &format!("Router ID is {router_id}"));
    reply.line(1011, &format!("Current server time is {}", clock.full(overview.now)));
    reply.line(1011, &format!("Last reboot on {}", clock.full(overview.started)));
    reply.line(1011, &format!("Last reconfiguration on {}", clock.full(overview.reconfigured)));
    if let Some(recovery) = &overview.recovery {
        reply.line(24, "Graceful restart recovery in progress");
        reply.line(24, &format!("  Waiting for {} protocols to recover", recovery.waiting_for.len()));
        reply.line(24, &format!("  Wait timer is {}/{}", recovery.remaining_seconds, recovery.limit_seconds));
    }
    reply.last(13, "Daemon is up and running");
}

fn protocol(reply: &mut Reply, session: &SessionStatus, clock: &Clock<'_>) {
    let (name, state, since) = (&session.name, session.state.word(), clock.short(session.since));
    let row = format!("{name:<8} {:<8} {:<8} {state:<5}  {since:<10}  {}", "BGP", "master", session.info());
    reply.line(1002, &row);
}

fn details(reply: &mut Reply, session: &SessionStatus, overview: &crate::status::Overview) {
    let mut line = |text: String| reply.line(1006, &text);
    let prefixes = session.prefixes;
    line(format!("  Description:    {}", session.origin.words()));
    line("  Preference:     100".to_owned());
    line("  Input filter:   ACCEPT".to_owned());
    line("  Output filter:  calico_export".to_owned());
    if session.state != State::Down {
        let (imported, exported) = (prefixes.accepted, prefixes.advertised);
        line(format!("  Routes:         {imported} imported, {exported} exported"));
    }
    line(format!("  BGP state:          {}", session.fsm));
    line(format!("    Neighbor address: {}", session.peer.ip()));
    line(format!("    Neighbor AS:      {}", session.peer_as));
    if session.stale {
        line("    Neighbor graceful restart active".to_owned());
    }
    if let Some(agreement) = &session.agreement {
        line(format!("    Neighbor ID:      {}", agreement.router_id));
        line(format!("    Neighbor caps:    {}", agreement.capabilities.join(" ")));
        let kind = if session.local_as == session.peer_as { "internal" } else { "external" };
        let client = if session.client { " route-reflector" } else { "" };
        line(format!("    Session:          {kind} multihop{client} AS4"));
        if let Some(address) = agreement.local_address {
            line(format!("    Source address:   {address}"));
        }
        line(format!("    Hold timer:       {0}/{0}", agreement.hold_time));
        line(format!("    Keepalive timer:  {0}/{0}", agreement.keepalive));
    } else if let Some(error) = &session.last_error {
        line(format!("    Last error:       {error}"));
    }
    let _ = overview;
    line(String::new());
}

fn route(reply: &mut Reply, path: &PathStatus, same: bool, clock: &Clock<'_>, report: &Report) {
    let network = if same { String::new() } else { path.prefix.to_string() };
    let via = match (&path.via, path.next_hop) {
        (Some(via), _) => format!("via {} on {}", via.gateway, via.interface),
        (None, Some(_)) => "unreachable".to_owned(),
        (None, None) => "blackhole".to_owned(),
    };
    let session = report.sessions.iter().find(|session| session.name == path.source);
    let since = clock.short(session.map_or(report.overview.started, |session| session.since));
    let gateway = path.via.as_ref().map(|via| via.gateway);
    let from = match path.peer {
        Some(peer) if gateway != Some(peer) => format!(" from {peer}"),
        _ => String::new(),
    };
    let star = if path.best { " *" } else { "" };
    let info = match path.peer {
        None => " (200)".to_owned(),
        Some(_) => {
            let metric = if path.via.is_some() { "0" } else { "?" };
            let last_as = path.as_path.split_whitespace().last().map(|asn| format!("AS{asn}")).unwrap_or_default();
            let origin = match path.origin {
                "IGP" => "i",
                "EGP" => "e",
                _ => "?",
            };
            let stale = if path.stale { "s" } else { "" };
            format!(" (100{stale}/{metric}) [{last_as}{origin}]")
        }
    };
    reply.line(1007, &format!("{network:<18} {via} [{} {since}{from}]{star}{info}", path.source));
}

fn attributes(reply: &mut Reply, path: &PathStatus) {
    let kind = if path.peer.is_some() { "BGP unicast univ" } else { "static unicast univ" };
    reply.line(1008, &format!("\tType: {kind}"));
    if path.peer.is_none() {
        return;
    }
    let mut line = |name: &str, value: String| reply.line(1012, &format!("\tBGP.{name}: {value}"));
    line("origin", path.origin.to_owned());
    line("as_path", path.as_path.clone());
    if let Some(next_hop) = path.next_hop {
        line("next_hop", next_hop.to_string());
    }
    if let Some(med) = path.med {
        line("med", med.to_string());
    }
    if let Some(local_pref) = path.local_pref {
        line("local_pref", local_pref.to_string());
    }
    if !path.communities.is_empty() {
        line("community", path.communities.join(" "));
    }
    if let Some(originator) = path.originator {
        line("originator_id", originator.to_string());
    }
}

/// A reply under construction.
#[derive(Default)]
struct Reply(String, Option<u16>);

impl Reply {
    /// A line after which more follows.
    fn line(&mut self, code: u16, text: &str) {
        if self.1 == Some(code) {
            let _ = writeln!(self.0, " {text}");
        } else {
            let _ = writeln!(self.0, "{code:04}-{text}");
        }
        self.1 = Some(code);
    }

    /// The last line.
    fn last(&mut self, code: u16, text: &str) {
        let _ = writeln!(self.0, "{code:04} {text}");
    }
}

struct Clock<'a> {
    now: Timestamp,
    zone: &'a TimeZone,
}

impl Clock<'_> {
    fn full(&self, time: Timestamp) -> String {
        time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    }

    fn short(&self, time: Timestamp) -> String {
        let young = self.now.as_second() - time.as_second() < TIME_OF_DAY_LIMIT;
        time.to_zoned(self.zone.clone()).strftime(if young { "%H:%M:%S" } else { "%Y-%m-%d" }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Agreement, KernelStatus, Messages, Overview, Prefixes, Recovery, Via};
    use bgp_plan::sessions::Origin;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn session(name: &str, peer: &str, state: State, fsm: &'static str, since: &str) -> SessionStatus {
        SessionStatus {
            name: name.to_owned(),
            peer: peer.parse().unwrap(),
            origin: Origin::Mesh,
            state,
            fsm,
            since: time(since),
            uptime_seconds: None,
            last_error: None,
            remedy: None,
            local_as: 64512,
            peer_as: 64512,
            passive: false,
            client: false,
            agreement: None,
            prefixes: Prefixes { received: 2, accepted: 2, stale: 0, advertised: 3 },
            messages: Messages::default(),
            flaps: 0,
            stale: false,
        }
    }

    fn report() -> Report {
        let refused = SessionStatus {
            last_error: Some("Socket: Connection refused".to_owned()),
            ..session("Mesh_10_0_0_3", "10.0.0.3:179", State::Start, "Active", "2026-03-02T07:31:09Z")
        };
        let down = SessionStatus {
            last_error: Some("Error: No listening socket".to_owned()),
            ..session("Global_10_0_9_1", "10.0.9.1:179", State::Down, "Idle", "2026-03-02T07:31:09Z")
        };
        let agreement = Agreement {
            router_id: [10, 0, 0, 2].into(),
            local_address: Some([10, 0, 0, 1].into()),
            hold_time: 240,
            keepalive: 80,
            capabilities: vec!["refresh".to_owned(), "restart-able".to_owned(), "AS4".to_owned()],
            peer_restart_time: Some(120),
        };
        let up = SessionStatus {
            agreement: Some(agreement),
            ..session("Mesh_10_0_0_2", "10.0.0.2:179", State::Up, "Established", "2026-03-01T08:00:00Z")
        };
        let path = PathStatus {
            prefix: "10.244.1.0/26".parse().unwrap(),
            source: "Mesh_10_0_0_2".to_owned(),
            peer: Some([10, 0, 0, 2].into()),
            best: true,
            standing: "best".to_owned(),
            next_hop: Some([10, 0, 0, 2].into()),
            via: Some(Via { gateway: [10, 0, 0, 2].into(), interface: "eth0".to_owned() }),
            installed: true,
            stale: false,
            local_pref: Some(100),
            med: None,
            as_path: String::new(),
            origin: "IGP",
            communities: Vec::new(),
            originator: None,
        };
        let own = PathStatus {
            prefix: "10.244.0.0/26".parse().unwrap(),
            source: "static".to_owned(),
            peer: None,
            next_hop: None,
            via: None,
            ..path.clone()
        };
        Report {
            overview: Overview {
                node: "a".to_owned(),
                version: "0",
                router_id: Some([10, 0, 0, 1].into()),
                local_as: 64512,
                now: time("2026-03-02T08:00:00Z"),
                started: time("2026-03-01T07:59:00Z"),
                reconfigured: time("2026-03-02T07:00:00Z"),
                datastore_in_sync: true,
                datastore_trouble: None,
                listening: Vec::new(),
                recovery: None,
                kernel: KernelStatus::default(),
                blocks: Vec::new(),
                warnings: Vec::new(),
            },
            sessions: vec![
                down,
                up,
                refused,
                session("Mesh_fd00__a", "[fd00::a]:179", State::Start, "Passive", "2026-03-02T07:59:00Z"),
            ],
            paths: vec![own, path],
        }
    }

    #[track_caller]
    fn check(line: &str, family: Family, expected: &str) {
        let reply = match parse(line) {
            Ok(command) => command.answer(&report(), family, &TimeZone::UTC),
            Err(refusal) => refusal,
        };
        assert_eq!(reply, expected, "reply to {line:?}");
    }

    #[test]
    fn protocols_are_listed_exactly_as_bird_does_it() {
        check(
            "show protocols\n",
            Family::V4,
            "2002-name     proto    table    state  since       info\n\
             1002-Global_10_0_9_1 BGP      master   down   07:31:09    Error: No listening socket\n\
             \x20Mesh_10_0_0_2 BGP      master   up     2026-03-01  Established   \n\
             \x20Mesh_10_0_0_3 BGP      master   start  07:31:09    Active        Socket: Connection refused\n\
             0000 \n",
        );
        check(
            "show protocols",
            Family::V6,
            "2002-name     proto    table    state  since       info\n\
             1002-Mesh_fd00__a BGP      master   start  07:59:00    Passive       \n\
             0000 \n",
        );
        check("show protocols \"Node_*\"", Family::V4, "8003 No protocols match\n");
    }

    #[test]
    fn details_of_one_protocol_name_its_state_and_neighbor() {
        let reply = parse("show protocols all Mesh_10_0_0_2").unwrap().answer(&report(), Family::V4, &TimeZone::UTC);
        for line in [
            "1006-  Description:    node-to-node mesh\n",
            " BGP state:          Established\n",
            "     Neighbor address: 10.0.0.2\n",
            "     Neighbor AS:      64512\n",
            "   Routes:         2 imported, 3 exported\n",
            "     Hold timer:       240/240\n",
        ] {
            assert!(reply.contains(line), "{line:?} in\n{reply}");
        }
        assert!(!reply.contains("Mesh_10_0_0_3"));
        let pattern = parse("show protocols all \"Mesh_10_0_?_3\"").unwrap();
        assert!(
            pattern
                .answer(&report(), Family::V4, &TimeZone::UTC)
                .contains("Last error:       Socket: Connection refused")
        );
    }

    #[test]
    fn status_tells_identity_times_and_recovery() {
        check(
            "show status",
            Family::V4,
            "1000-BIRD v0.3.3+birdv1.6.8\n\
             1011-Router ID is 10.0.0.1\n\
             \x20Current server time is 2026-03-02 08:00:00\n\
             \x20Last reboot on 2026-03-01 07:59:00\n\
             \x20Last reconfiguration on 2026-03-02 07:00:00\n\
             0013 Daemon is up and running\n",
        );
        let mut recovering = report();
        recovering.overview.recovery =
            Some(Recovery { waiting_for: vec!["Mesh_10_0_0_3".to_owned()], remaining_seconds: 51, limit_seconds: 60 });
        let reply = Command::Status.answer(&recovering, Family::V4, &TimeZone::UTC);
        assert!(reply.contains("0024-Graceful restart recovery in progress\n   Waiting for 1 protocols to recover\n"));
    }

    #[test]
    fn routes_are_listed_with_gateway_and_source() {
        check(
            "show route",
            Family::V4,
            "1007-10.244.0.0/26      blackhole [static 2026-03-01] * (200)\n\
             \x2010.244.1.0/26      via 10.0.0.2 on eth0 [Mesh_10_0_0_2 2026-03-01] * (100/0) [i]\n\
             0000 \n",
        );
        check("show route count", Family::V4, "0014 2 of 2 routes for 2 networks\n");
        check("show route 10.9.0.0/24", Family::V4, "8001 Network not in table\n");
        check("show route 10.244.1.9", Family::V4, "8001 Network not in table\n");
        check("show route for 192.0.2.1", Family::V4, "8001 Network not in table\n");
        check("show route for 10.244.1.9 count", Family::V4, "0014 1 of 1 routes for 1 networks\n");
        check("show route for 10.244.1.0/28 count", Family::V4, "0014 1 of 1 routes for 1 networks\n");
        check("show route", Family::V6, "0000 \n");
    }

    #[test]
    fn what_is_not_understood_is_a_syntax_error_and_nothing_is_written() {
        for line in ["", "configure", "down", "show", "show protocols all a b", "show route all for", "show memory"] {
            check(line, Family::V4, "9001 syntax error\n");
        }
        check("restrict", Family::V4, "0016 Access restricted\n");
        assert_eq!(greeting(), "0001 BIRD v0.3.3+birdv1.6.8 ready.\n");
    }

    #[test]
    fn a_pattern_of_many_stars_is_matched_in_no_time() {
        let name = "a".repeat(200);
        assert!(!matches(&("*a".repeat(100) + "b"), &name), "exponential for who tries every star");
        assert!(matches(&("*a".repeat(100) + "*"), &name));
        for (pattern, name, fits) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("?", "", false),
            ("Mesh_*_2", "Mesh_10_2_0_2", true),
            ("Mesh_*_2", "Mesh_10_2_0_3", false),
            ("*é?", "née", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
