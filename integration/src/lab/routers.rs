//! Other people's routers, and what they hold.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::net::Net;
use crate::router::Router;

/// A routing table: prefixes and from which next hops they were heard. Own ones have none.
pub type Table = BTreeMap<String, BTreeSet<String>>;

/// Which daemon a router runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// BIRD 2.
    Bird,
    /// FRR.
    Frr,
}

/// Where FRR's programs are.
const FRR: &str = "/usr/lib/frr";

impl Daemon {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
        }
    }

    /// Starts it with this configuration.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(self, net: &Net, router: &mut Router, configuration: &str) -> Result<()> {
        let name = router.name().to_owned();
        let log = |program: &str| net.log(&format!("{name}-{program}"));
        match self {
            Self::Bird => {
                router.write("/run/bird/bird.conf", configuration)?;
                router.start(
                    "/usr/sbin/bird",
                    &["-f", "-c", "/run/bird/bird.conf", "-s", "/run/bird/bird.ctl", "-P", "/run/bird/bird.pid"],
                    &log("bird"),
                )
            }
            Self::Frr => {
                // Each program has a file of its own: zebra would refuse bgpd's lines.
                for (program, lines) in [("zebra", ""), ("bgpd", configuration)] {
                    router.write(&format!("/etc/frr/{program}.conf"), lines)?;
                }
                router.run("sh", &["-c", "mkdir -p /run/frr && chown -R frr:frr /run/frr /etc/frr"])?;
                for program in ["zebra", "bgpd"] {
                    let (path, file) = (format!("{FRR}/{program}"), format!("/etc/frr/{program}.conf"));
                    router.start(&path, &["-f", &file, "--log", "stdout"], &log(program))?;
                }
                Ok(())
            }
        }
    }

    /// The IPv4 paths that it holds, best or not.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub fn table(self, router: &Router) -> Result<Table> {
        match self {
            Self::Bird => {
                bird_table(&router.run("/usr/sbin/birdc", &["-s", "/run/bird/bird.ctl", "-r", "show", "route", "all"])?)
            }
            Self::Frr => frr_table(&router.run("/usr/bin/vtysh", &["-c", "show bgp ipv4 unicast json"])?),
        }
    }
}

/// Reads `show route all` of BIRD 2.
fn bird_table(text: &str) -> Result<Table> {
    let mut table = Table::new();
    let mut prefix: Option<String> = None;
    for line in text.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with(|c: char| c.is_ascii_digit()) && word.contains('/') {
            table.entry(word.to_owned()).or_default();
            prefix = Some(word.to_owned());
        } else if let (Some(hop), Some(prefix)) = (line.trim_start().strip_prefix("via "), &prefix) {
            let hop = hop.split_whitespace().next().unwrap_or_default();
            table.entry(prefix.clone()).or_default().insert(hop.to_owned());
        }
    }
    if table.is_empty() && !text.contains("BIRD") {
        bail!("not an answer of birdc: {text}");
    }
    Ok(table)
}

/// Reads `show bgp ipv4 unicast json` of FRR.
fn frr_table(text: &str) -> Result<Table> {
    let answer: Value = serde_json::from_str(text).context("vtysh -c 'show bgp ipv4 unicast json'")?;
    let mut table = Table::new();
    for (prefix, paths) in answer["routes"].as_object().into_iter().flatten() {
        let hops = paths.as_array().into_iter().flatten().flat_map(|path| path["nexthops"].as_array()).flatten();
        let hops = hops.filter_map(|hop| hop["ip"].as_str()).filter(|hop| *hop != "0.0.0.0");
        table.insert(prefix.clone(), hops.map(str::to_owned).collect());
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_daemons_tables_are_read_alike() {
        let bird = "BIRD 2.0.12 ready.\nTable master4:\n10.244.1.0/26        unicast [n11 17:20:01.123] * (100) [AS65101i]\n\
                    \tvia 10.1.0.11 on eth1\n\tType: BGP univ\n                     unicast [spine 17:20:02.5] (100) [AS65101i]\n\
                    \tvia 10.0.0.202 on eth0\n192.0.2.0/24         blackhole [static1 17:20:00.1] * (200)\n\tType: static univ\n";
        let expected = Table::from([
            ("10.244.1.0/26".to_owned(), ["10.1.0.11", "10.0.0.202"].map(str::to_owned).into()),
            ("192.0.2.0/24".to_owned(), BTreeSet::new()),
        ]);
        assert_eq!(bird_table(bird).unwrap(), expected);
        let frr = r#"{"routes": {"10.244.1.0/26": [{"nexthops": [{"ip": "10.1.0.11"}]}, {"nexthops": [{"ip": "10.0.0.202"}]}],
                      "192.0.2.0/24": [{"nexthops": [{"ip": "0.0.0.0"}]}]}}"#;
        assert_eq!(frr_table(frr).unwrap(), expected);
    }
}
