//! Two racks with AS numbers of their own, whose routers are BIRD and FRR.
//!
//! ```text
//!            spine 10.0.0.0/16
//!      .201 |                 | .202
//!   tor1 BIRD, AS 65001   tor2 FRR, AS 65002
//!      .254 |                 | .254
//!   10.1.0.0/24           10.2.0.0/24
//!   nodes AS 65101        nodes AS 65102
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;
use serde_json::{Value, json};

use super::resources::{apply, node_with, resource};
use super::routers::{Daemon, Table};
use super::scenario::{POOL, start_pods};
use super::{Matrix, Progress};
use crate::net::{Net, Segment};
use crate::node::{Node, PATIENCE};
use crate::pod::Pod;
use crate::router::Router;
use crate::wait;

/// The ranges of Services, and what of them the filter keeps from the routers.
const CLUSTER_IPS: &str = "10.96.0.0/12";
const LOAD_BALANCER_IPS: &str = "198.51.100.0/24";
/// The Service that is advertised where its endpoints are.
const SERVICE: [&str; 2] = ["10.96.7.7", "198.51.100.9"];
/// What the routers tell and no node is to believe.
const ELSEWHERE: &str = "192.0.2.0/24";

/// A rack.
#[derive(Clone, Copy, Debug)]
struct Rack {
    number: u8,
    daemon: Daemon,
}

const RACKS: [Rack; 2] = [Rack { number: 1, daemon: Daemon::Bird }, Rack { number: 2, daemon: Daemon::Frr }];

impl Rack {
    fn subnet(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, self.number, 0, 0), 24)
    }

    fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number, 0, 254)
    }

    fn spine(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, 200 + self.number)
    }

    /// The AS of its nodes.
    fn nodes_as(self) -> u32 {
        65100 + u32::from(self.number)
    }

    /// The AS of its router.
    fn router_as(self) -> u32 {
        65000 + u32::from(self.number)
    }

    fn other(self) -> Self {
        RACKS[usize::from(self.number == 1)]
    }

    fn configuration(self) -> String {
        let (own, spine, gateway, subnet) = (self.router_as(), self.spine(), self.gateway(), self.subnet());
        let (nodes, other, other_as) = (self.nodes_as(), self.other().spine(), self.other().router_as());
        match self.daemon {
            Daemon::Bird => format!(
                "router id {gateway};
                 protocol device {{ }}
                 protocol direct {{ ipv4; interface \"eth1\"; }}
                 protocol kernel {{ ipv4 {{ import none; export all; }}; merge paths on; }}
                 protocol static {{ ipv4; route {ELSEWHERE} blackhole; }}
                 protocol bgp rack {{
                     local {gateway} as {own}; neighbor range {subnet} as {nodes}; dynamic name \"n\";
                     ipv4 {{ import all; export all; }};
                 }}
                 protocol bgp spine {{
                     local {spine} as {own}; neighbor {other} as {other_as}; connect retry time 1; connect delay time 1;
                     ipv4 {{ import all; export all; next hop self; }};
                 }}\n"
            ),
            Daemon::Frr => format!(
                "frr defaults traditional\nhostname tor{}\n!\nrouter bgp {own}\n bgp router-id {gateway}\n \
                 no bgp ebgp-requires-policy\n no bgp network import-check\n timers bgp 3 9\n neighbor rack peer-group\n neighbor rack remote-as {nodes}\n \
                 bgp listen range {subnet} peer-group rack\n neighbor {other} remote-as {other_as}\n neighbor {other} timers connect 1\n \
                 address-family ipv4 unicast\n  network {subnet}\n  network {ELSEWHERE}\n  neighbor rack activate\n  \
                 neighbor {other} activate\n  neighbor {other} next-hop-self\n  maximum-paths 16\n exit-address-family\n!\n",
                self.number
            ),
        }
    }
}

/// What is there before anything runs.
#[derive(Debug)]
pub struct Racks<'net> {
    nodes: Vec<Node<'net>>,
    routers: Vec<Router>,
}

/// A router's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouterTable {
    /// The router.
    pub name: String,
    /// Its daemon.
    pub daemon: String,
    /// Prefixes and the next hops from which they were heard.
    pub held: Table,
    /// What should have been there.
    pub expected: Table,
}

/// What the scenario saw.
#[derive(Clone, Debug, Serialize)]
pub struct RackReport {
    /// The resources that were applied.
    pub applied: Vec<Value>,
    /// `calicoctl bgp sessions`.
    pub plan: String,
    /// `calicoctl bgp routes` on one node.
    pub routes: String,
    /// The routers, with the Service's endpoint in the first rack.
    pub before: Vec<RouterTable>,
    /// The routers, after it moved to the second.
    pub after: Vec<RouterTable>,
    /// Nodes that believed what the filter rejects.
    pub believed: Vec<String>,
    /// All to all.
    pub pings: Matrix,
}

impl RackReport {
    /// Whether all is as it should be.
    pub fn good(&self) -> bool {
        let exact = self.before.iter().chain(&self.after).all(|table| table.held == table.expected);
        exact && self.believed.is_empty() && self.pings.failures() == 0
    }
}

impl<'net> Racks<'net> {
    /// Cables the racks and starts the routers; `each` nodes a rack.
    ///
    /// # Errors
    /// If a step fails.
    pub fn new(net: &'net Net, each: u8, progress: &mut Progress) -> Result<Self> {
        let mut racks = Self { nodes: Vec::new(), routers: Vec::new() };
        progress.step("two racks, their routers BIRD and FRR, a spine", || {
            for rack in RACKS {
                let segment: Segment = net.segment(&format!("rack{}", rack.number), rack.subnet())?;
                let name = format!("tor{}", rack.number);
                let mut router = net.router(&name, 200 + rack.number, &[(&segment, 254)])?;
                rack.daemon.start(net, &mut router, &rack.configuration())?;
                racks.routers.push(router);
                for number in 1..=each {
                    let name = format!("rack{}-node{number}", rack.number);
                    racks.nodes.push(net.node_on(&name, &segment, 10 + u32::from(number), rack.gateway())?);
                }
            }
            Ok(())
        })?;
        Ok(racks)
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node<'net>] {
        &self.nodes
    }

    fn rack_of(&self, node: &Node<'_>) -> Rack {
        RACKS[usize::from(node.address().octets()[1] == 2)]
    }

    /// Plays it.
    ///
    /// # Errors
    /// If a step fails. A table that is not as it should be is not a failure here, but in the report.
    pub fn play(&'net self, pods: u16, progress: &mut Progress) -> Result<(RackReport, Vec<Pod<'net, 'net>>)> {
        let first = self.nodes.first().context("a lab needs a node")?;
        progress.step("felix on every node, with its rack's AS", || {
            first.apply(POOL)?;
            for node in &self.nodes {
                node.start("felix", &[("AS", &self.rack_of(node).nodes_as().to_string())])?;
            }
            self.nodes.iter().try_for_each(|node| node.ready("felix", 9099))
        })?;
        let applied = progress.step("calicoctl apply: peers by label, a filter each way, a Service", || {
            let mut resources = self.resources();
            resources.extend(service(first));
            apply(first, &resources)?;
            Ok(resources)
        })?;
        progress.step("bgp-speaker on every node", || self.nodes.iter().try_for_each(Node::start_speaker))?;
        let pods = progress.step(&format!("{pods} pods a node"), || start_pods(&self.nodes, pods))?;
        let blocks = blocks(&pods)?;
        let before = progress.step("the routers hold exactly the expected routes", || self.tables(&blocks, first))?;
        let last = self.nodes.last().context("a lab needs a node")?;
        let after = progress.step("the Service's endpoint moves to the other rack, and its routes with it", || {
            apply(last, &[slice(last)])?;
            self.tables(&blocks, last)
        })?;
        let pings = progress.step("every pod pings every other", || {
            // The last table may be complete a moment before the last kernel route is.
            let mut pings = Matrix::default();
            let _ = wait::becomes(PATIENCE, "all pings are answered", || {
                pings = Matrix::of(&pods);
                Ok(pings.failures() == 0)
            });
            Ok(pings)
        })?;
        let believed = progress.step("no node believes what the filter rejects", || {
            let believes = |node: &&Node<'_>| match node.routes() {
                Ok(routes) => routes.iter().any(|route| route["dst"] == ELSEWHERE),
                Err(_) => true,
            };
            Ok(self.nodes.iter().filter(believes).map(|node| node.name().to_owned()).collect())
        })?;
        progress.step("all daemons still run", || self.nodes.iter().try_for_each(Node::check))?;
        let report = RackReport {
            applied,
            plan: first.calicoctl(&["bgp", "sessions"])?,
            routes: first.calicoctl(&["bgp", "routes"])?,
            before,
            after,
            believed,
            pings,
        };
        Ok((report, pods))
    }

    fn resources(&self) -> Vec<Value> {
        let range = |cidr: &str| json!([{"cidr": cidr}]);
        let configuration = json!({
            "nodeToNodeMeshEnabled": false,
            "serviceClusterIPs": range(CLUSTER_IPS),
            "serviceLoadBalancerIPs": range(LOAD_BALANCER_IPS),
        });
        let filter = json!({
            "importV4": [
                {"action": "Accept", "matchOperator": "In", "cidr": "10.244.0.0/16"},
                {"action": "Reject"},
            ],
            // The whole range stays inside; single Services go out.
            "exportV4": [{"action": "Reject", "matchOperator": "Equal", "cidr": CLUSTER_IPS}],
        });
        let mut resources =
            vec![resource("BGPConfiguration", "default", configuration), resource("BGPFilter", "racks", filter)];
        for rack in RACKS {
            let peer = json!({
                "nodeSelector": format!("rack == '{}'", rack.number),
                "peerIP": rack.gateway(),
                "asNumber": rack.router_as(),
                "filters": ["racks"],
                // The nodes of a rack share an AS, and hear of each other through its router.
                "numAllowedLocalASNumbers": 1,
            });
            resources.push(resource("BGPPeer", &format!("tor{}", rack.number), peer));
        }
        for node in &self.nodes {
            let number = self.rack_of(node).number.to_string();
            resources.push(node_with(node, &[("rack", &number)], &Value::Null));
        }
        resources
    }

    /// Waits until both routers hold what they should with the Service's endpoint on `serving`; what they hold in the end.
    fn tables(&self, blocks: &BTreeMap<String, BTreeSet<IpNet>>, serving: &Node<'_>) -> Result<Vec<RouterTable>> {
        let mut tables = Vec::new();
        for (rack, router) in RACKS.into_iter().zip(&self.routers) {
            let expected = self.expected(rack, blocks, serving);
            let mut held = Table::new();
            // A table that stays another is shown in the report, which then is not good.
            let _ = wait::becomes(PATIENCE, "the router's table is as expected", || {
                held = rack.daemon.table(router)?;
                Ok(held == expected)
            });
            let (name, daemon) = (router.name().to_owned(), rack.daemon.name().to_owned());
            tables.push(RouterTable { name, daemon, held, expected });
        }
        Ok(tables)
    }

    fn expected(&self, rack: Rack, blocks: &BTreeMap<String, BTreeSet<IpNet>>, serving: &Node<'_>) -> Table {
        let spine = rack.other().spine().to_string();
        let mut table = Table::new();
        let mut hears = |prefix: String, from: String| {
            table.entry(prefix).or_default().insert(from);
        };
        for node in &self.nodes {
            let from = |node: &Node<'_>| match self.rack_of(node).number == rack.number {
                true => node.address().to_string(),
                false => spine.clone(),
            };
            for block in blocks.get(node.name()).into_iter().flatten() {
                hears(block.to_string(), from(node));
            }
            hears(LOAD_BALANCER_IPS.to_owned(), from(node));
            if node.name() == serving.name() {
                SERVICE.iter().for_each(|address| hears(format!("{address}/32"), from(node)));
            }
        }
        hears(rack.other().subnet().to_string(), spine.clone());
        hears(ELSEWHERE.to_owned(), spine.clone());
        table.entry(rack.subnet().to_string()).or_default();
        table
    }
}

/// The blocks of each node, by the addresses of its pods.
fn blocks(pods: &[Pod<'_, '_>]) -> Result<BTreeMap<String, BTreeSet<IpNet>>> {
    let mut blocks: BTreeMap<String, BTreeSet<IpNet>> = BTreeMap::new();
    for pod in pods {
        if let IpAddr::V4(address) = pod.address()? {
            let block = IpNet::V4(Ipv4Net::new(address, 26)?.trunc());
            blocks.entry(pod.node().name().to_owned()).or_default().insert(block);
        }
    }
    Ok(blocks)
}

fn service(serving: &Node<'_>) -> Vec<Value> {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "clusterIP": SERVICE[0],
            "clusterIPs": [SERVICE[0]],
            "ipFamilies": ["IPv4"],
            "ports": [{"port": 80}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": SERVICE[1]}]}},
    });
    vec![service, slice(serving)]
}

fn slice(serving: &Node<'_>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["10.244.0.1"], "conditions": {"ready": true}, "nodeName": serving.name()}],
    })
}

impl fmt::Display for RackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n$ calicoctl apply -f -")?;
        for resource in &self.applied {
            let of = |path: &str| resource.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            writeln!(f, "  {} {}", of("/kind"), of("/metadata/name"))?;
        }
        writeln!(f, "\n$ calicoctl bgp sessions\n{}", self.plan.trim_end())?;
        writeln!(f, "\n$ calicoctl bgp routes\n{}\n", self.routes.trim_end())?;
        for (when, tables) in [("rack 1", &self.before), ("rack 2", &self.after)] {
            for table in tables {
                writeln!(f, "{} ({}), the Service's endpoint in {when}:", table.name, table.daemon)?;
                let prefixes: BTreeSet<&String> = table.held.keys().chain(table.expected.keys()).collect();
                for prefix in prefixes {
                    let hops = |table: &Table| {
                        table.get(prefix).map(|hops| hops.iter().cloned().collect::<Vec<_>>().join(", "))
                    };
                    let (held, expected) = (hops(&table.held), hops(&table.expected));
                    let verdict = match (&held, &expected) {
                        (held, expected) if held == expected => String::new(),
                        (None, _) => "   MISSING".to_owned(),
                        (_, None) => "   NOT EXPECTED".to_owned(),
                        (_, Some(expected)) => format!("   EXPECTED {expected}"),
                    };
                    writeln!(f, "  {prefix:<18} {}{verdict}", held.unwrap_or_default())?;
                }
            }
        }
        for node in &self.believed {
            writeln!(f, "{node} BELIEVES {ELSEWHERE}, which its filter rejects")?;
        }
        writeln!(f, "\nPings in milliseconds, from the left to the top:\n{}", self.pings.table())?;
        let all = self.pings.pings.len();
        writeln!(f, "\n{} of {all} pings answered.", all - self.pings.failures())
    }
}
