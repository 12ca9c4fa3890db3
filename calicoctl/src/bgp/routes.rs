//! `calicoctl bgp routes`: which paths does this node's speaker know, and why is each used or not?

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};
use ipnet::IpNet;
use serde_json::Value;

use super::{document, words};
use crate::arguments::{Form, Routes};
use crate::output;
use crate::speaker::{self, Route, ServiceAddress};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Prefix(IpNet),
    Address(IpAddr),
}

/// Runs it.
pub(super) fn run(flags: &Routes) -> Result<ExitCode> {
    let wanted = wanted(flags.prefix.as_deref())?;
    let question = match wanted {
        Wanted::All => None,
        Wanted::Prefix(prefix) => Some(prefix.to_string()),
        Wanted::Address(address) => Some(address.to_string()),
    };
    let answer = speaker::routes(&flags.socket.socket, question.as_deref())?;
    let routes: Vec<Route> = speaker::typed(&answer.routes)?;
    let mut kept: Vec<(Route, Value)> = routes.into_iter().zip(answer.routes).collect();
    if matches!(wanted, Wanted::Address(_)) {
        longest(&mut kept);
    }
    if let Some(peer) = &flags.peer {
        kept.retain(|(route, _)| is_from(route, peer));
    }
    let (routes, values): (Vec<Route>, Vec<Value>) = kept.into_iter().unzip();
    let text = match document(flags.output, &Value::Array(values)) {
        Some(text) => text,
        None if routes.is_empty() => none(wanted, flags.peer.as_deref()) + &services(&answer.services),
        None if wanted != Wanted::All && flags.output == Form::Ps => blocks(&routes) + &services(&answer.services),
        None => table(&routes, flags.output == Form::Wide),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn wanted(text: Option<&str>) -> Result<Wanted> {
    let Some(text) = text else { return Ok(Wanted::All) };
    match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => Ok(Wanted::Address(address)),
        (_, Ok(prefix)) if prefix.prefix_len() == prefix.max_prefix_len() => Ok(Wanted::Address(prefix.addr())),
        (_, Ok(prefix)) => Ok(Wanted::Prefix(prefix.trunc())),
        _ => bail!("\"{text}\" is neither a prefix such as 10.244.0.0/26 nor an address"),
    }
}

/// Keeps the paths of the longest prefix.
fn longest(kept: &mut Vec<(Route, Value)>) {
    let length = |route: &Route| route.prefix.parse::<IpNet>().map_or(0, |prefix| prefix.prefix_len());
    let longest = kept.iter().map(|(route, _)| length(route)).max();
    kept.retain(|(route, _)| Some(length(route)) == longest);
}

fn is_from(route: &Route, peer: &str) -> bool {
    let same_address = || match (&route.peer, peer.parse::<IpAddr>()) {
        (Some(address), Ok(wanted)) => address.parse() == Ok(wanted),
        _ => false,
    };
    route.source == peer || same_address()
}

fn none(wanted: Wanted, peer: Option<&str>) -> String {
    let from = peer.map(|peer| format!(" from {peer}")).unwrap_or_default();
    match wanted {
        Wanted::All => format!("There are no paths{from}.\n"),
        Wanted::Prefix(prefix) => format!("There is no path{from} to {prefix} or into it.\n"),
        Wanted::Address(address) => format!("There is no path{from} to {address}.\n"),
    }
}

/// Where the path is from.
fn from(route: &Route) -> String {
    match (&route.peer, &route.kind) {
        (Some(peer), _) => peer.clone(),
        (None, Some(kind)) => format!("own {kind}"),
        (None, None) => route.source.clone(),
    }
}

/// What the kernel holds of it.
fn kernel(route: &Route) -> String {
    let via = route.via.as_ref().map(|via| format!("via {} dev {}", via.gateway, via.interface));
    match (&route.not_installed, route.installed, via, &route.peer) {
        (Some(reason), ..) => reason.clone(),
        (None, true, Some(via), _) => via,
        (None, true, None, _) => "installed".to_owned(),
        // What is ours, somebody else has put into the kernel or nobody needs there.
        (None, false, _, None) => route.interface.as_ref().map_or_else(|| "-".to_owned(), |name| format!("dev {name}")),
        (None, false, ..) => "-".to_owned(),
    }
}

fn table(routes: &[Route], wide: bool) -> String {
    let mut header = vec!["PREFIX", "FROM", "NEXTHOP", "ASPATH", "DECISION", "KERNEL"];
    if wide {
        header.extend(["LOCALPREF", "MED", "ORIGIN", "COMMUNITIES", "ORIGINATOR", "CLUSTERLIST", "ADVERTISEDTO"]);
    }
    let mut previous = "";
    let mut rows = Vec::with_capacity(routes.len());
    for route in routes {
        // A prefix stands before its first path only.
        let prefix = if previous == route.prefix { "" } else { &route.prefix };
        previous = &route.prefix;
        let mut row = vec![
            prefix.to_owned(),
            from(route),
            words::or_dash(route.next_hop.as_ref()),
            if route.as_path.is_empty() { "-".to_owned() } else { route.as_path.clone() },
            route.standing.clone() + if route.stale { " (stale)" } else { "" },
            kernel(route),
        ];
        if wide {
            row.extend([
                words::or_dash(route.local_pref),
                words::or_dash(route.med),
                route.origin.clone(),
                words::list(&route.communities),
                words::or_dash(route.originator.as_ref()),
                words::list(&route.cluster_list),
                words::list(&route.advertised_to),
            ]);
        }
        rows.push(row);
    }
    output::columns(&header, &rows)
}

/// Every path in full, by prefix.
fn blocks(routes: &[Route]) -> String {
    let mut text = String::new();
    for paths in routes.chunk_by(|a, b| a.prefix == b.prefix) {
        let Some(first) = paths.first() else { continue };
        let count = if paths.len() == 1 { "1 path".to_owned() } else { format!("{} paths", paths.len()) };
        text += &format!("{}: {count}\n", first.prefix);
        for path in paths {
            text += &block(path);
        }
    }
    text
}

fn block(route: &Route) -> String {
    let sign = if route.best { '*' } else { ' ' };
    let source = match &route.peer {
        Some(peer) => format!("{peer} ({})", route.source),
        None => from(route),
    };
    let commas = |items: &[String]| items.join(", ");
    let not_told = route.not_advertised_to.iter().map(|(name, reason)| format!("{name}: {reason}"));
    let facts = [
        ("decision", route.standing.clone() + if route.stale { "; stale: the peer restarts" } else { "" }),
        ("kernel", kernel_in_full(route)),
        ("next hop", route.next_hop.clone().unwrap_or_default()),
        ("AS path", if route.as_path.is_empty() { "empty".to_owned() } else { route.as_path.clone() }),
        ("LOCAL_PREF", route.local_pref.map(|it| it.to_string()).unwrap_or_default()),
        ("MED", route.med.map(|it| it.to_string()).unwrap_or_default()),
        ("ORIGIN", route.origin.clone()),
        ("communities", commas(&route.communities)),
        ("originator", route.originator.clone().unwrap_or_default()),
        ("cluster list", commas(&route.cluster_list)),
        ("path ID", if route.path_id == 0 { String::new() } else { route.path_id.to_string() }),
        (
            "advertised to",
            if route.best { words::list(&route.advertised_to).replace(',', ", ") } else { String::new() },
        ),
        ("not advertised", not_told.collect::<Vec<_>>().join("; ")),
    ];
    format!("{sign} from {source}\n{}", words::facts(4, &facts))
}

fn kernel_in_full(route: &Route) -> String {
    match (kernel(route), &route.not_installed) {
        (text, _) if text == "-" => String::new(),
        (text, None) if route.installed && text != "installed" => format!("installed {text}"),
        (text, _) => text,
    }
}

/// Why an address of a Service is or is not originated here.
fn services(services: &[ServiceAddress]) -> String {
    let line = |it: &ServiceAddress| {
        let word = if it.advertised { "advertised" } else { "not advertised" };
        format!("{} of Service {}: {word}: {}\n", it.address, it.service, it.reason)
    };
    services.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn routes() -> Vec<Route> {
        let own = json!({
            "prefix": "10.244.0.0/26", "source": "static1", "kind": "block", "peer": null, "best": true,
            "standing": "best", "next_hop": null, "installed": false, "local_pref": 2147482623u32, "as_path": "",
            "origin": "IGP", "advertised_to": ["Mesh_10_0_0_2", "Mesh_10_0_0_3"],
            "not_advertised_to": {"Global_10_0_9_1": "the session is not established (start)"},
        });
        let path = |peer: &str, best: bool, standing: &str, more: Value| {
            let mut path = json!({
                "prefix": "10.244.1.0/26", "source": format!("Mesh_{}", peer.replace('.', "_")), "peer": peer,
                "path_id": 0, "best": best, "standing": standing, "next_hop": peer, "as_path": "65001 65002",
                "via": {"gateway": peer, "interface": "eth0"}, "installed": best, "local_pref": 100, "med": 5,
                "origin": "INCOMPLETE", "communities": ["65001:1", "65001:2:3"], "cluster_list": ["244.0.0.1"],
                "originator": "10.0.0.7", "advertised_to": [],
            });
            path.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            path
        };
        let best = path("10.0.0.2", true, "best", json!({}));
        let lost = path("10.0.0.3", false, "lost: router ID", json!({"path_id": 7, "stale": true}));
        let reason = "held back: next hop 10.9.9.9 is not reachable";
        let held = json!({"prefix": "10.244.2.0/26", "installed": false, "not_installed": reason});
        speaker::typed(&[own, best, lost, path("10.0.0.2", true, "best", held)]).unwrap()
    }

    #[test]
    fn the_table_has_every_path_its_decision_and_the_kernel() {
        let expected = "\
PREFIX          FROM        NEXTHOP    ASPATH        DECISION                  KERNEL                                          
10.244.0.0/26   own block   -          -             best                      -                                               
10.244.1.0/26   10.0.0.2    10.0.0.2   65001 65002   best                      via 10.0.0.2 dev eth0                           
                10.0.0.3    10.0.0.3   65001 65002   lost: router ID (stale)   -                                               
10.244.2.0/26   10.0.0.2    10.0.0.2   65001 65002   best                      held back: next hop 10.9.9.9 is not reachable   

";
        assert_eq!(table(&routes(), false), expected);
        let wide = table(&routes(), true);
        assert!(wide.contains("100          5     INCOMPLETE   65001:1,65001:2:3   10.0.0.7     244.0.0.1"), "{wide}");
        assert!(wide.contains("Mesh_10_0_0_2,Mesh_10_0_0_3"), "{wide}");
    }

    #[test]
    fn a_prefix_is_shown_in_full() {
        assert_eq!(
            blocks(&routes()[..3]),
            "\
10.244.0.0/26: 1 path
* from own block
    decision:       best
    AS path:        empty
    LOCAL_PREF:     2147482623
    ORIGIN:         IGP
    advertised to:  Mesh_10_0_0_2, Mesh_10_0_0_3
    not advertised: Global_10_0_9_1: the session is not established (start)
10.244.1.0/26: 2 paths
* from 10.0.0.2 (Mesh_10_0_0_2)
    decision:       best
    kernel:         installed via 10.0.0.2 dev eth0
    next hop:       10.0.0.2
    AS path:        65001 65002
    LOCAL_PREF:     100
    MED:            5
    ORIGIN:         INCOMPLETE
    communities:    65001:1, 65001:2:3
    originator:     10.0.0.7
    cluster list:   244.0.0.1
    advertised to:  -
  from 10.0.0.3 (Mesh_10_0_0_3)
    decision:       lost: router ID; stale: the peer restarts
    next hop:       10.0.0.3
    AS path:        65001 65002
    LOCAL_PREF:     100
    MED:            5
    ORIGIN:         INCOMPLETE
    communities:    65001:1, 65001:2:3
    originator:     10.0.0.7
    cluster list:   244.0.0.1
    path ID:        7
"
        );
    }

    #[test]
    fn an_address_finds_its_longest_prefix_and_a_peer_its_paths() {
        assert_eq!(wanted(Some("10.244.0.5/26")).unwrap(), Wanted::Prefix("10.244.0.0/26".parse().unwrap()));
        assert_eq!(wanted(Some("fd00::5/128")).unwrap(), Wanted::Address("fd00::5".parse().unwrap()));
        assert!(wanted(Some("all")).unwrap_err().to_string().contains("\"all\" is neither"));
        let around = |prefix: &str| (Route { prefix: prefix.to_owned(), ..Route::default() }, Value::Null);
        let mut kept =
            vec![around("0.0.0.0/0"), around("10.244.0.0/26"), around("10.244.0.0/16"), around("10.244.0.0/26")];
        longest(&mut kept);
        assert_eq!(kept.iter().map(|(route, _)| route.prefix.as_str()).collect::<Vec<_>>(), ["10.244.0.0/26"; 2]);
        let from = |peer| routes().iter().filter(|route| is_from(route, peer)).count();
        assert_eq!((from("10.0.0.2"), from("Mesh_10_0_0_3"), from("static1"), from("10.0.0.9")), (2, 1, 1, 0));
    }
}
