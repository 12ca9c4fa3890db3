//! The namespace that the tests run in, and how they ask the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use bgp_plan::inputs::{Encap, Pool};
use bgp_speaker::fib::Learned;
use bgp_speaker::kernel::{Command as Order, Handle};
use ipnet::IpNet;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

#[track_caller]
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `probe` finds nothing wrong.
#[track_caller]
pub(crate) fn eventually(mut probe: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + PATIENCE;
    while let Err(last) = probe() {
        assert!(Instant::now() < end, "{last}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What `ip route show` prints, one route a line: the next hops of several are joined to theirs.
pub(crate) fn routes(selection: &str) -> Vec<String> {
    let text = ip(selection).replace("\n\tnexthop", " nexthop");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Waits until our IPv4 routes are these.
#[track_caller]
pub(crate) fn become_routes(expected: &[&str]) {
    selection_becomes("route show proto bird", expected);
}

#[track_caller]
pub(crate) fn selection_becomes(selection: &str, expected: &[&str]) {
    eventually(|| {
        let now = routes(selection);
        if now == expected { Ok(()) } else { Err(format!("expected {expected:#?}, got {now:#?}")) }
    });
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn learned(prefix: &str, next_hops: &[&str]) -> (IpNet, Option<Learned>) {
    let next_hops: Vec<IpAddr> = next_hops.iter().map(|text| text.parse().unwrap()).collect();
    (net(prefix), Some(Learned { next_hops, local_pref: Some(100), peer: None }))
}

pub(crate) fn tell(handle: &Handle, order: Order) {
    handle.commands.blocking_send(order).unwrap();
}

/// Waits until a next hop is as far away as expected.
#[track_caller]
pub(crate) fn becomes_reachable(handle: &Handle, next_hop: &str, expected: Option<(u32, &str)>) {
    let address: IpAddr = next_hop.parse().unwrap();
    eventually(|| {
        let known = handle.reachable.borrow().get(&address).cloned();
        let reach = known
            .as_ref()
            .map(|known| known.as_ref().map(|reach| (reach.metric, reach.interface.as_deref().unwrap_or_default())));
        if reach == Some(expected) { Ok(()) } else { Err(format!("{next_hop}: expected {expected:?}, got {known:?}")) }
    });
}

pub(crate) fn watch(handle: &Handle, next_hops: &[&str]) {
    tell(handle, Order::NextHops(next_hops.iter().map(|text| (text.parse().unwrap(), true)).collect()));
}

pub(crate) fn pool(cidr: &str, encap: Encap) -> Pool {
    Pool { cidr: net(cidr), encap, disable_bgp_export: false }
}

/// What of others' routes was told, as it is now.
#[derive(Default)]
pub(crate) struct Heard(pub(crate) BTreeMap<String, String>, pub(crate) usize);

impl Heard {
    /// Takes what was told until there is nothing more.
    pub(crate) fn listen(&mut self, handle: &mut Handle) {
        while let Ok(changes) = handle.routes.try_recv() {
            self.1 += usize::from(changes.is_empty());
            for (prefix, route) in changes {
                let words = route.map(|route| {
                    let (gateway, interface) = (route.gateway, route.interface.unwrap_or_default());
                    let gateway = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                    format!("{:?}{gateway} dev {interface} metric {}", route.kind, route.metric)
                });
                match words {
                    Some(words) => drop(self.0.insert(prefix.to_string(), words)),
                    None => drop(self.0.remove(&prefix.to_string())),
                }
            }
        }
    }

    /// Waits until it was said so often that this is all.
    #[track_caller]
    pub(crate) fn ends(&mut self, handle: &mut Handle, times: usize) {
        eventually(|| {
            self.listen(handle);
            if self.1 == times { Ok(()) } else { Err(format!("{} ends told", self.1)) }
        });
    }

    /// Waits until exactly these are told.
    #[track_caller]
    pub(crate) fn becomes(&mut self, handle: &mut Handle, expected: &[(&str, &str)]) {
        let expected: BTreeMap<_, _> = expected.iter().map(|(p, r)| ((*p).to_owned(), (*r).to_owned())).collect();
        eventually(|| {
            self.listen(handle);
            if self.0 == expected { Ok(()) } else { Err(format!("expected {expected:#?}, got {:#?}", self.0)) }
        });
    }
}

/// Runs in a namespace with 10.0.0.1/24 on `eth0`, whose other end is up as well.
pub(crate) fn in_namespace(work: impl FnOnce() + Send) {
    let namespace = calico_sys::namespace::create().unwrap();
    calico_sys::namespace::inside(namespace, || {
        ip("link set lo up");
        ip("link add eth0 type veth peer name far");
        ip("addr add 10.0.0.1/24 dev eth0");
        ip("link set far up");
        ip("link set eth0 up");
        work();
    })
    .unwrap();
}

/// A second network on `eth1`, IPv6 on `eth0`, a pod's interface and a device that stands for the IPIP tunnel: the kernel
/// may lack the module, and routes do not ask what kind of device they lead to.
pub(crate) fn with_more_links() {
    for name in ["eth1", "cali1"] {
        ip(&format!("link add {name} type veth peer name {name}-far"));
        ip(&format!("link set {name}-far up"));
        ip(&format!("link set {name} up"));
    }
    ip("addr add 10.0.1.1/24 dev eth1");
    ip("addr add fd00::1/64 dev eth0 nodad");
    eventually(|| match ip("-6 route show default").is_empty() && ip("-6 route show fd00::/64").contains("eth0") {
        true => Ok(()),
        false => Err(ip("-6 route show")),
    });
}

pub(crate) fn add_tunnel() {
    ip("link add tunl0 type veth peer name tunl-far");
    ip("link set tunl-far up");
    ip("link set tunl0 up");
}
