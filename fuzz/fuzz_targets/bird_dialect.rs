//! Lines that a client of bird.ctl sends: each is understood or refused, and every answer is one that BIRD's clients can read.
#![no_main]

use std::net::IpAddr;
use std::sync::LazyLock;

use bgp_plan::sessions::Origin;
use bgp_speaker::bird::{Family, parse};
use bgp_speaker::status::{Messages, Overview, PathStatus, Prefixes, Report, SessionStatus, State, Tally};
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

fn session(name: &str, peer: &str, state: State, last_error: Option<&str>) -> SessionStatus {
    SessionStatus {
        name: name.to_owned(),
        peer: peer.parse().expect("a socket address is written here"),
        origin: Origin::Mesh,
        state,
        fsm: "Established",
        since: "2026-03-02T07:31:09Z".parse().expect("a time is written here"),
        uptime_seconds: None,
        last_error: last_error.map(str::to_owned),
        remedy: None,
        last_error_code: None,
        local_as: 64512,
        peer_as: 64512,
        passive: false,
        client: false,
        agreement: None,
        prefixes: Prefixes::default(),
        messages: Messages::default(),
        source: None,
        ttl_security: None,
        filters: Vec::new(),
        password: None,
        tally: Tally::default(),
        stale: false,
    }
}

fn path(prefix: &str, source: &str) -> PathStatus {
    PathStatus {
        prefix: prefix.parse().expect("a prefix is written here"),
        source: source.to_owned(),
        kind: None,
        peer: Some(IpAddr::from([10, 0, 0, 2])),
        path_id: 0,
        best: true,
        standing: "best".to_owned(),
        next_hop: Some(IpAddr::from([10, 0, 0, 2])),
        via: None,
        interface: None,
        installed: false,
        not_installed: None,
        stale: false,
        local_pref: Some(100),
        med: None,
        as_path: "65001 {1 2}".to_owned(),
        origin: "IGP",
        communities: vec!["65000:7".to_owned(), "1:2:3".to_owned()],
        originator: None,
        cluster_list: Vec::new(),
        advertised_to: Vec::new(),
        not_advertised_to: Default::default(),
    }
}

static REPORT: LazyLock<Report> = LazyLock::new(|| Report {
    overview: Overview::without_datastore("node", None),
    sessions: vec![
        session("Mesh_10_0_0_2", "10.0.0.2:179", State::Up, None),
        session("Global_10_0_9_1_port_1790", "10.0.9.1:1790", State::Down, Some("Error: no key")),
        session("Mesh_fd00__2", "[fd00::2]:179", State::Start, Some("Socket: Connection refused")),
    ],
    paths: vec![
        path("10.244.0.0/26", "Mesh_10_0_0_2"),
        path("10.244.0.0/26", "static1"),
        path("0.0.0.0/0", "kernel1"),
        path("fd00:244::/122", "Mesh_fd00__2"),
    ],
    services: Vec::new(),
});

/// Every line has a code, or a blank that stands for the one before; only the last says that it is the last.
fn check(reply: &str) {
    assert!(reply.ends_with('\n'), "{reply:?}");
    let lines: Vec<&str> = reply.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let last = number + 1 == lines.len();
        let code = line.get(..4).is_some_and(|code| code.bytes().all(|digit| digit.is_ascii_digit()));
        let mark = line.as_bytes().get(4);
        assert!(
            if last { code && mark == Some(&b' ') } else { line.starts_with(' ') || code && mark == Some(&b'-') },
            "{reply:?}"
        );
    }
}

fuzz_target!(|octets: &[u8]| {
    for line in String::from_utf8_lossy(octets).split_inclusive('\n') {
        match parse(line) {
            Err(refusal) => check(&refusal),
            Ok(command) => {
                for family in [Family::V4, Family::V6] {
                    check(&command.answer(&REPORT, family, &TimeZone::UTC));
                }
            }
        }
    }
});
