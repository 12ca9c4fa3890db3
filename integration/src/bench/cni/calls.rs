//! What the server behind a store is asked for a pod: its own count.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::caller::{Caller, Contender};
use crate::net::Net;

/// Counts requests by what they are.
type Count = BTreeMap<String, f64>;

/// What ADDs and then DELs, one after the other, ask of the server; nothing where there is none.
pub(super) fn measure(net: &Net, caller: &Caller<'_, '_>, contender: &Contender, count: u32) -> Result<String> {
    let Some(server) = net.server() else { return Ok(String::new()) };
    let names: Vec<String> = (0..count).map(|number| format!("calls-{number}")).collect();
    names.iter().try_for_each(|name| caller.prepare(contender, name))?;
    let mut text = String::new();
    for verb in ["ADD", "DEL"] {
        let before = read(&server.metrics(net)?);
        names.iter().try_for_each(|name| caller.exec(contender, verb, name).map(drop))?;
        if verb == "DEL" {
            super::gone(caller, contender, 0)?;
        }
        let after = read(&server.metrics(net)?);
        writeln!(text, "requests of the store for one {verb}, of {count}:")?;
        for (what, number) in &after {
            let more = number - before.get(what).copied().unwrap_or_default();
            if more > 0.0 {
                writeln!(text, "    {:>6.2}  {what}", more / f64::from(count))?;
            }
        }
    }
    names.iter().try_for_each(|name| caller.clear(contender, name))?;
    Ok(text)
}

/// The counts in a server's metrics that concern a pod.
fn read(metrics: &str) -> Count {
    let mut counts = Count::new();
    for line in metrics.lines() {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((labels, number)) = rest.rsplit_once("} ") else { continue };
        let label = |wanted: &str| {
            let found = labels.split("\",").find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix("=\""));
            found.map(|text| text.trim_end_matches('"').to_owned()).unwrap_or_default()
        };
        let what = match name {
            "grpc_server_handled_total" if label("grpc_service") == "etcdserverpb.KV" => label("grpc_method"),
            "apiserver_request_total" if is_ours(&label("resource")) && label("verb") != "WATCH" => {
                let sub = label("subresource");
                let sub = if sub.is_empty() { sub } else { format!("/{sub}") };
                format!("{} {}{sub} {}", label("verb"), label("resource"), label("code"))
            }
            _ => continue,
        };
        *counts.entry(what).or_default() += number.parse::<f64>().unwrap_or_default();
    }
    counts
}

/// Whether Felix has to do with the resource; leases and the like are the API server's own.
fn is_ours(resource: &str) -> bool {
    matches!(resource, "pods" | "nodes" | "namespaces" | "serviceaccounts")
        || resource.starts_with("ip")
        || resource.starts_with("blockaffinit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_by_what_they_are() {
        let metrics = "\
# HELP apiserver_request_total x
apiserver_request_total{code=\"201\",component=\"apiserver\",resource=\"ipamhandles\",subresource=\"\",verb=\"POST\"} 7
apiserver_request_total{code=\"200\",component=\"apiserver\",resource=\"pods\",subresource=\"status\",verb=\"PATCH\"} 3
apiserver_request_total{code=\"200\",resource=\"leases\",subresource=\"\",verb=\"PUT\"} 9
apiserver_request_total{code=\"0\",resource=\"pods\",subresource=\"\",verb=\"WATCH\"} 9
grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 5
";
        let expected = [("PATCH pods/status 200", 3.0), ("POST ipamhandles 201", 7.0), ("Txn", 5.0)];
        assert_eq!(read(metrics), expected.map(|(what, number)| (what.to_owned(), number)).into());
    }
}
