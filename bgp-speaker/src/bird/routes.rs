//! How does BIRD show routes?

use super::reply::{Clock, Reply};
use crate::status::{PathStatus, Report};

/// LOCAL_PREF of metric 0.
const METRIC_BASE: u32 = 2_147_483_647;

pub(super) fn route(reply: &mut Reply, path: &PathStatus, same: bool, clock: &Clock<'_>, report: &Report) {
    let network = if same { String::new() } else { path.prefix.to_string() };
    let via = match (&path.via, path.next_hop, &path.interface) {
        (Some(via), ..) => format!("via {} on {}", via.gateway, via.interface),
        (None, Some(gateway), Some(interface)) => format!("via {gateway} on {interface}"),
        (None, None, Some(interface)) => format!("dev {interface}"),
        (None, Some(_), None) => "unreachable".to_owned(),
        (None, None, None) => "blackhole".to_owned(),
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
        None => format!(" ({})", preference(path)),
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

pub(super) fn attributes(reply: &mut Reply, path: &PathStatus) {
    let kind = match (path.peer, path.kind) {
        (Some(_), _) => "BGP",
        (None, Some("direct")) => "device",
        (None, Some("workload" | "remote" | "kernel")) => "inherit",
        (None, _) => "static",
    };
    reply.line(1008, &format!("\tType: {kind} unicast univ"));
    if path.peer.is_none() {
        if let Some(metric) =
            path.local_pref.and_then(|pref| METRIC_BASE.checked_sub(pref)).filter(|_| kind == "inherit")
        {
            reply.line(1012, &format!("\tKernel.metric: {metric}"));
        }
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
        let of_parts = |parts: usize, between: &str| -> Vec<String> {
            let fitting = path.communities.iter().filter(|text| text.split(':').count() == parts);
            fitting.map(|community| format!("({})", community.replace(':', between))).collect()
        };
        for (name, parts, between) in [("community", 2, ","), ("large_community", 3, ", ")] {
            let texts = of_parts(parts, between);
            if !texts.is_empty() {
                line(name, texts.join(" "));
            }
        }
    }
    if let Some(originator) = path.originator {
        line("originator_id", originator.to_string());
    }
    if !path.cluster_list.is_empty() {
        let list: Vec<_> = path.cluster_list.iter().map(ToString::to_string).collect();
        line("cluster_list", list.join(" "));
    }
}

/// BIRD's preference of our own route.
fn preference(path: &PathStatus) -> u8 {
    match path.kind {
        Some("direct") => 240,
        Some("workload" | "remote" | "kernel") => 10,
        _ => 200,
    }
}
