//! A report for the tests of everything that shows one.

use bgp_plan::sessions::Origin;
use jiff::Timestamp;

use crate::status::{
    Agreement, KernelStatus, Messages, Overview, PathStatus, Prefixes, Report, SessionStatus, State, Tally, Via,
};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn session(name: &str, peer: &str, state: State, fsm: &'static str, since: &str) -> SessionStatus {
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
        last_error_code: None,
        source: None,
        ttl_security: None,
        filters: Vec::new(),
        password: None,
        tally: Tally::default(),
        stale: false,
    }
}

pub(crate) fn report() -> Report {
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
        kind: None,
        path_id: 0,
        interface: None,
        not_installed: None,
        cluster_list: Vec::new(),
        advertised_to: Vec::new(),
        not_advertised_to: std::collections::BTreeMap::new(),
    };
    let own = PathStatus {
        prefix: "10.244.0.0/26".parse().unwrap(),
        kind: Some("block"),
        source: "static1".to_owned(),
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
            services: Vec::new(),
            policy_exchanges: 0,
            warnings: Vec::new(),
        },
        sessions: vec![
            down,
            up,
            refused,
            session("Mesh_fd00__a", "[fd00::a]:179", State::Start, "Passive", "2026-03-02T07:59:00Z"),
        ],
        paths: vec![own, path],
        services: Vec::new(),
    }
}
