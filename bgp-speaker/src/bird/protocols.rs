//! How does BIRD show itself and its sessions?

use super::VERSION;
use super::reply::{Clock, Reply};
use crate::status::{Report, SessionStatus, State};

pub(super) fn status(reply: &mut Reply, report: &Report, clock: &Clock<'_>) {
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

pub(super) fn protocol(reply: &mut Reply, session: &SessionStatus, clock: &Clock<'_>) {
    let (name, state, since) = (&session.name, session.state.word(), clock.short(session.since));
    let row = format!("{name:<8} {:<8} {:<8} {state:<5}  {since:<10}  {}", "BGP", "master", session.info());
    reply.line(1002, &row);
}

pub(super) fn details(reply: &mut Reply, session: &SessionStatus) {
    let mut line = |text: String| reply.line(1006, &text);
    let prefixes = session.prefixes;
    line(format!("  Description:    {}", session.origin.words()));
    line("  Preference:     100".to_owned());
    // BIRD's words for filters without a name of their own; the BGPFilters that they are made of go beside them.
    let filters = session.filters.join(", ");
    match filters.is_empty() {
        true => line("  Input filter:   ACCEPT".to_owned()),
        false => line(format!("  Input filter:   (unnamed) {filters}")),
    }
    line(format!("  Output filter:  (unnamed) {filters}").trim_end().to_owned());
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
        let also = |word: &str| match agreement.capabilities.iter().any(|capability| capability == word) {
            true => format!(" {word}"),
            false => String::new(),
        };
        let (rx, tx) = (also("add-path-rx"), also("add-path-tx"));
        line(format!("    Session:          {kind} multihop{client} AS4{rx}{tx}"));
        if let Some(address) = agreement.local_address {
            line(format!("    Source address:   {address}"));
        }
        line(format!("    Hold timer:       {0}/{0}", agreement.hold_time));
        line(format!("    Keepalive timer:  {0}/{0}", agreement.keepalive));
    } else if let Some(error) = &session.last_error {
        line(format!("    Last error:       {error}"));
    }
    line(String::new());
}
