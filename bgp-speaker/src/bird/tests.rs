//! Replies as clients compare them.

use super::samples::report;
use super::*;
use crate::status::Recovery;

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
    let mut filtered = report();
    filtered.sessions.iter_mut().for_each(|session| session.filters = vec!["tor".to_owned(), "lan".to_owned()]);
    let command = parse("show protocols all Mesh_10_0_0_2").unwrap();
    let reply = command.answer(&filtered, Family::V4, &TimeZone::UTC);
    assert!(
        reply.contains("   Input filter:   (unnamed) tor, lan\n   Output filter:  (unnamed) tor, lan\n"),
        "{reply}"
    );
    let pattern = parse("show protocols all \"Mesh_10_0_?_3\"").unwrap();
    assert!(
        pattern.answer(&report(), Family::V4, &TimeZone::UTC).contains("Last error:       Socket: Connection refused")
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
        "1007-10.244.0.0/26      blackhole [static1 2026-03-01] * (200)\n\
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

#[test]
fn own_routes_are_shown_by_the_protocol_that_bird_would_have_them_from() {
    let mut report = report();
    let mut pod = report.paths[0].clone();
    (pod.prefix, pod.kind, pod.source) = ("10.244.9.7/32".parse().unwrap(), Some("workload"), "kernel1".to_owned());
    (pod.interface, pod.local_pref) = (Some("cali7".to_owned()), Some(2_147_482_623));
    let remote = crate::status::PathStatus {
        prefix: "10.244.9.8/32".parse().unwrap(),
        next_hop: Some([10, 0, 0, 7].into()),
        communities: vec!["65000:100".to_owned(), "65000:1:2".to_owned()],
        ..pod.clone()
    };
    report.paths = vec![pod, remote];
    let reply = parse("show route all").unwrap().answer(&report, Family::V4, &TimeZone::UTC);
    assert_eq!(
        reply,
        "1007-10.244.9.7/32      dev cali7 [kernel1 2026-03-01] * (10)\n\
         1008-\tType: inherit unicast univ\n\
         1012-\tKernel.metric: 1024\n\
         1007-10.244.9.8/32      via 10.0.0.7 on cali7 [kernel1 2026-03-01] * (10)\n\
         1008-\tType: inherit unicast univ\n\
         1012-\tKernel.metric: 1024\n\
         0000 \n"
    );
    report.paths[1].peer = Some([10, 0, 0, 7].into());
    let reply = parse("show route all 10.244.9.8").unwrap().answer(&report, Family::V4, &TimeZone::UTC);
    assert!(reply.contains("BGP.community: (65000,100)\n \tBGP.large_community: (65000, 1, 2)\n"), "{reply}");
}
