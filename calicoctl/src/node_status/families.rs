//! What is said of the sessions of both families, in Calico's words or in JSON?

use std::io;

use serde_json::{Value, json};

use crate::bird::Peer;
use crate::output::{Align, boxed};

/// The sessions of one family, or why they are not known.
pub(super) type Answer = io::Result<Vec<Peer>>;

/// Whether there is no daemon that could be asked.
fn absent(peers: &Answer) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    peers.as_ref().is_err_and(|error| matches!(error.kind(), NotFound | ConnectionRefused))
}

/// As text; scripts match it.
pub(super) fn text(v4: &Answer, v6: &Answer) -> String {
    if absent(v4) && absent(v6) {
        return "\nThe BGP backend process (BIRD) is not running.\n".to_owned();
    }
    let family = |number, suffix, peers: &Answer| match peers {
        peers if absent(peers) => format!("\nINFO: BIRDv{number} process: 'bird{suffix}' is not running.\n"),
        Err(error) => format!(
            "\nIPv{number} BGP status\nError querying BIRD: unable to connect to BIRDv{number} socket: {error}\n"
        ),
        Ok(peers) if peers.is_empty() => format!("\nIPv{number} BGP status\nNo IPv{number} peers found.\n"),
        Ok(peers) => format!("\nIPv{number} BGP status\n{}", table(peers)),
    };
    family(4, "", v4) + &family(6, "6", v6)
}

/// As JSON: `{"running": true, "peers": […]}`, with an `error` where there is one.
pub(super) fn json(peers: &Answer) -> Value {
    let peer = |peer: &Peer| {
        json!({
            "address": peer.address,
            "type": peer.peer_type,
            "state": peer.state,
            "since": peer.since,
            "info": peer.info,
        })
    };
    match peers {
        Ok(peers) => json!({"running": true, "peers": peers.iter().map(peer).collect::<Vec<_>>()}),
        Err(error) if absent(peers) => json!({"running": false, "peers": [], "error": error.to_string()}),
        Err(error) => json!({"running": true, "peers": [], "error": error.to_string()}),
    }
}

fn table(peers: &[Peer]) -> String {
    let header = ["PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO"].map(|name| (name, Align::Left));
    let row = |peer: &Peer| {
        vec![peer.address.clone(), peer.peer_type.to_owned(), peer.state.clone(), peer.since.clone(), peer.info.clone()]
    };
    boxed(&header, &peers.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            address: "10.0.0.12".into(),
            peer_type: "node-to-node mesh",
            state: "up".into(),
            since: "2026-08-20".into(),
            info: "Established".into(),
        }
    }

    #[test]
    fn one_family_without_a_daemon_is_said_so() {
        let expected = "
IPv4 BGP status
+--------------+-------------------+-------+------------+-------------+
| PEER ADDRESS | PEER TYPE         | STATE | SINCE      | INFO        |
+--------------+-------------------+-------+------------+-------------+
| 10.0.0.12    | node-to-node mesh | up    | 2026-08-20 | Established |
+--------------+-------------------+-------+------------+-------------+

INFO: BIRDv6 process: 'bird6' is not running.
";
        let v6 = Err(io::ErrorKind::NotFound.into());
        assert_eq!(text(&Ok(vec![peer()]), &v6), expected);
        assert_eq!(json(&v6)["running"], false);
        let value = json(&Ok(vec![peer()]));
        assert_eq!((&value["peers"][0]["type"], &value["running"]), (&json!("node-to-node mesh"), &json!(true)));
    }

    #[test]
    fn no_daemon_at_all_is_said_once() {
        let text = text(&Err(io::ErrorKind::NotFound.into()), &Err(io::ErrorKind::ConnectionRefused.into()));
        assert_eq!(text, "\nThe BGP backend process (BIRD) is not running.\n");
        assert!(super::text(&Ok(vec![]), &Ok(vec![])).contains("No IPv6 peers found."));
    }
}
