//! `calicoctl bgp neighbors`: how are the sessions of this node's speaker?

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{document, words};
use crate::arguments::{Form, Neighbors};
use crate::output;
use crate::speaker::{self, Overview, Password, Session};

/// Runs it.
pub(super) fn run(flags: &Neighbors) -> Result<ExitCode> {
    let answer = speaker::neighbors(&flags.socket.socket)?;
    let mut values = answer.neighbors;
    let mut sessions: Vec<Session> = speaker::typed(&values)?;
    if let Some(wanted) = &flags.peer {
        let all: Vec<String> = sessions.iter().map(|session| session.name.clone()).collect();
        let mut meant = sessions.iter().map(|session| words::is_meant(wanted, &session.name, &session.peer));
        values.retain(|_| meant.next().unwrap_or(false));
        sessions.retain(|session| words::is_meant(wanted, &session.name, &session.peer));
        if sessions.is_empty() {
            bail!("there is no session with {wanted}; there are: {}", words::list(&all));
        }
    }
    let text = match document(flags.output, &Value::Array(values)) {
        Some(text) => text,
        None if flags.peer.is_some() => sessions.iter().map(details).collect::<Vec<_>>().join("\n"),
        None => table(&sessions, flags.output == Form::Wide) + &remarks(&sessions, &answer.status),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The FSM's word and the last error.
fn info(session: &Session) -> String {
    match (session.state.as_str(), session.last_error.as_deref()) {
        ("down", Some(error)) => error.to_owned(),
        (_, Some(error)) => format!("{} {error}", session.fsm),
        (_, None) => session.fsm.clone(),
    }
}

fn password(session: &Session) -> String {
    match &session.password {
        None => "no".to_owned(),
        Some(Password::Set) => "yes".to_owned(),
        Some(Password::Missing(_)) => "missing".to_owned(),
    }
}

fn table(sessions: &[Session], wide: bool) -> String {
    if sessions.is_empty() {
        return "There are no sessions.\n".to_owned();
    }
    let mut header = vec!["PEER", "ASN", "TYPE", "STATE", "UPTIME", "RECEIVED", "ACCEPTED", "ADVERTISED"];
    if wide {
        header.extend(["NAME", "LOCALAS", "ROUTERID", "HOLD", "KEEPALIVE", "PASSWORD", "CLIENT", "FILTERS"]);
        header.extend(["FLAPS", "MSGSIN", "MSGSOUT", "CAPABILITIES"]);
    }
    header.push("INFO");
    let row = |session: &Session| {
        let mut row = vec![
            words::peer_text(&session.peer),
            session.peer_as.to_string(),
            session.origin.clone(),
            session.state.clone(),
            session.uptime_seconds.map_or_else(|| "-".to_owned(), words::age),
            session.prefixes.received.to_string(),
            session.prefixes.accepted.to_string(),
            session.prefixes.advertised.to_string(),
        ];
        if wide {
            let agreed = session.agreement.as_ref();
            row.extend([
                session.name.clone(),
                session.local_as.to_string(),
                words::or_dash(agreed.map(|it| &it.router_id)),
                words::or_dash(agreed.map(|it| it.hold_time)),
                words::or_dash(agreed.map(|it| it.keepalive)),
                password(session),
                words::yes(session.client),
                words::list(&session.filters),
                session.flaps.to_string(),
                session.messages.received.to_string(),
                session.messages.sent.to_string(),
                agreed.map_or_else(|| "-".to_owned(), |it| words::list(&it.capabilities)),
            ]);
        }
        row.push(info(session));
        row
    };
    output::columns(&header, &sessions.iter().map(row).collect::<Vec<_>>())
}

/// What an operator can do about sessions that are not up, and what the speaker warns of.
fn remarks(sessions: &[Session], status: &Overview) -> String {
    let mut text = String::new();
    for session in sessions {
        if let (Some(error), Some(remedy)) = (&session.last_error, &session.remedy) {
            text += &format!("{}: {error}: {remedy}\n", words::peer_text(&session.peer));
        }
    }
    for warning in &status.warnings {
        text += &format!("Warning: {warning}\n");
    }
    text
}

/// Everything about one session.
fn details(session: &Session) -> String {
    let agreed = session.agreement.clone().unwrap_or_default();
    let up = session.agreement.is_some();
    let when = |is: bool, text: String| if is { text } else { String::new() };
    let seconds = |seconds: u16| if seconds == 0 { "never".to_owned() } else { format!("{seconds}s") };
    let who_dials = match session.passive {
        true => "only the peer",
        false => "this node",
    };
    let since = match session.uptime_seconds {
        Some(seconds) => format!(", up for {}", words::age(seconds)),
        None => format!(", since {}", session.since),
    };
    let code = session.last_error_code.as_ref().map(|code| format!(" (NOTIFICATION {code})")).unwrap_or_default();
    let error = session.last_error.as_ref().map(|error| error.clone() + &code).unwrap_or_default();
    let prefixes = &session.prefixes;
    let stale = when(prefixes.stale > 0, format!(", of which {} stale", prefixes.stale));
    let restarting = when(session.stale, " (the peer restarts; its paths are kept)".to_owned());
    let facts = [
        ("state", format!("{} {}{since}{restarting}", session.state, session.fsm)),
        ("last error", error),
        ("remedy", session.remedy.clone().unwrap_or_default()),
        ("type", session.origin.clone()),
        ("AS numbers", format!("{} here, {} there", session.local_as, session.peer_as)),
        ("reflector client", words::yes(session.client)),
        ("dials", who_dials.to_owned()),
        ("local address", agreed.local_address.clone().or(session.source.clone()).unwrap_or_default()),
        ("router ID", agreed.router_id.clone()),
        ("hold time", when(up, seconds(agreed.hold_time))),
        ("keepalive", when(up, seconds(agreed.keepalive))),
        ("capabilities", when(up, words::list(&agreed.capabilities).replace(',', ", "))),
        ("restart time", agreed.peer_restart_time.map(seconds).unwrap_or_default()),
        (
            "password",
            match &session.password {
                Some(Password::Missing(reason)) => format!("missing: {reason}"),
                _ => password(session),
            },
        ),
        ("TTL security", session.ttl_security.map(|hops| format!("{hops} hops")).unwrap_or_default()),
        ("filters", words::list(&session.filters).replace(',', ", ")),
        (
            "prefixes",
            format!(
                "{} received, {} accepted{stale}, {} advertised",
                prefixes.received, prefixes.accepted, prefixes.advertised
            ),
        ),
        ("messages", format!("{} received, {} sent", session.messages.received, session.messages.sent)),
        (
            "since the start",
            format!(
                "lost {} times, reset by configuration {}, changed while up {}, refreshes {}, faulty attributes {}",
                session.flaps, session.resets, session.live_changes, session.refreshes, session.faults
            ),
        ),
    ];
    format!("{} ({})\n{}", words::peer_text(&session.peer), session.name, words::facts(2, &facts))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sessions() -> Vec<Session> {
        let up = json!({
            "name": "Node_10_0_0_2", "peer": "10.0.0.2:179", "type": "node specific", "state": "up",
            "fsm": "Established", "since": "2026-03-01T08:00:00Z", "uptime_seconds": 3725, "last_error": null,
            "local_as": 64512, "peer_as": 64512, "client": true, "filters": ["a", "b"], "password": "set",
            "agreement": {"router_id": "10.0.0.2", "local_address": "10.0.0.1", "hold_time": 240, "keepalive": 80,
                          "capabilities": ["refresh", "AS4"], "peer_restart_time": 120},
            "prefixes": {"received": 4, "accepted": 3, "stale": 1, "advertised": 2},
            "messages": {"received": 9, "sent": 8}, "flaps": 1, "established": 2, "a field of tomorrow": [1],
        });
        let refused = json!({
            "name": "Global_fd00__9_port_1790", "peer": "[fd00::9]:1790", "type": "global", "state": "start",
            "fsm": "Active", "since": "2026-03-01T08:00:00Z", "last_error": "Socket: Connection refused",
            "remedy": "is it running?", "peer_as": 65001,
        });
        let down = json!({
            "name": "Global_10_0_0_9", "peer": "10.0.0.9:179", "type": "global", "state": "down", "fsm": "Idle",
            "last_error": "Error: Secret kube-system/bgp does not exist", "peer_as": 65001,
            "password": {"missing": "Secret kube-system/bgp does not exist"},
        });
        speaker::typed(&[up, refused, down]).unwrap()
    }

    #[test]
    fn the_table_shows_states_and_counts_and_the_wide_one_what_is_agreed() {
        let expected = "\
PEER             ASN     TYPE            STATE   UPTIME   RECEIVED   ACCEPTED   ADVERTISED   INFO                                           
10.0.0.2         64512   node specific   up      1h2m     4          3          2            Established                                    
[fd00::9]:1790   65001   global          start   -        0          0          0            Active Socket: Connection refused              
10.0.0.9         65001   global          down    -        0          0          0            Error: Secret kube-system/bgp does not exist   

";
        assert_eq!(table(&sessions(), false), expected);
        let wide = table(&sessions(), true);
        let row: Vec<&str> =
            wide.lines().nth(1).unwrap().split("   ").map(str::trim).filter(|it| !it.is_empty()).collect();
        assert_eq!(
            row[8..],
            [
                "Node_10_0_0_2",
                "64512",
                "10.0.0.2",
                "240",
                "80",
                "yes",
                "yes",
                "a,b",
                "1",
                "9",
                "8",
                "refresh,AS4",
                "Established"
            ]
        );
        assert!(wide.contains("missing"), "{wide}");
    }

    #[test]
    fn what_can_be_done_is_said_below_the_table() {
        let status = Overview { warnings: vec!["two nodes have one address".to_owned()], ..Overview::default() };
        assert_eq!(
            remarks(&sessions(), &status),
            "[fd00::9]:1790: Socket: Connection refused: is it running?\nWarning: two nodes have one address\n"
        );
    }

    #[test]
    fn one_session_is_shown_in_full() {
        let [up, refused, down] = sessions().try_into().unwrap();
        assert_eq!(
            details(&up),
            "\
10.0.0.2 (Node_10_0_0_2)
  state:            up Established, up for 1h2m
  type:             node specific
  AS numbers:       64512 here, 64512 there
  reflector client: yes
  dials:            this node
  local address:    10.0.0.1
  router ID:        10.0.0.2
  hold time:        240s
  keepalive:        80s
  capabilities:     refresh, AS4
  restart time:     120s
  password:         yes
  filters:          a, b
  prefixes:         4 received, 3 accepted, of which 1 stale, 2 advertised
  messages:         9 received, 8 sent
  since the start:  lost 1 times, reset by configuration 0, changed while up 0, refreshes 0, faulty attributes 0
"
        );
        assert!(details(&refused).contains("  remedy:           is it running?\n"), "{}", details(&refused));
        assert!(details(&down).contains("  password:         missing: Secret kube-system/bgp does not exist\n"));
    }
}
