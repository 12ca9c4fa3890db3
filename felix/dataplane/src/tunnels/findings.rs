//! What about this node hinders its tunnels, and can only the operator put right?

use std::collections::BTreeSet;
use std::fs;

use calico_netlink::{RouteFilter, TABLE_MAIN, sysctl};

use super::Context;
use crate::Finding;
use crate::underlay::Underlay;

/// What flannel leaves behind: its VXLAN devices, and the bridge of its usual CNI plugin.
const FLANNEL: [&str; 4] = ["flannel.1", "flannel-v6.1", "flannel.4096", "cni0"];

/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;

/// What flannel left, as of when that was looked at.
#[derive(Debug, Default)]
pub(super) struct Flannel {
    links: Vec<(String, u32)>,
    findings: Vec<Finding>,
}

impl Flannel {
    /// Looks at it again the next time.
    pub(super) fn forget(&mut self) {
        self.links.clear();
    }

    /// Looks at it if something of it came or went.
    fn look(&mut self, context: &mut Context<'_>) -> &[Finding] {
        let left = context.underlay.links().filter(|link| FLANNEL.contains(&link.name.as_str()));
        let left: Vec<(String, u32)> = left.map(|link| (link.name.clone(), link.index)).collect();
        if left != self.links || left.is_empty() {
            self.findings = left.iter().map(|(name, index)| flannel(context, name, *index)).collect();
            self.links = left;
        }
        &self.findings
    }
}

/// `parents` are the numbers of interfaces that outer packets leave by.
pub(super) fn of_node(context: &mut Context<'_>, parents: [Option<u32>; 3], before: &mut Flannel) -> Vec<Finding> {
    let mut findings = strict_filters(context.underlay, parents);
    findings.extend_from_slice(before.look(context));
    findings
}

/// A strict reverse path filter drops what comes by another way than the answer goes: while nodes change encapsulation one after
/// the other, that is everything.
fn strict_filters(underlay: &Underlay, parents: [Option<u32>; 3]) -> Vec<Finding> {
    let filter = |name: &str| {
        let value = sysctl::read(&["net", "ipv4", "conf", name, "rp_filter"]).unwrap_or_default();
        value.parse::<u8>().unwrap_or(0)
    };
    let parents: BTreeSet<u32> = parents.into_iter().flatten().collect();
    let strict = parents.into_iter().filter_map(|index| underlay.link(index)).filter(|link| {
        // The stricter of the two holds, where 2 is the looser.
        filter("all").max(filter(&link.name)) == 1
    });
    let finding = |name: &str| {
        let text = format!(
            "its reverse path filter is strict: packets are lost while nodes change between encapsulated and plain routes; \
             sysctl -w net.ipv4.conf.{name}.rp_filter=2 makes it loose"
        );
        Finding::interface(name, text)
    };
    strict.map(|link| finding(&link.name)).collect()
}

fn flannel(context: &mut Context<'_>, name: &str, index: u32) -> Finding {
    let filter = RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() };
    let routes = context.socket.routes_through(index, &filter).unwrap_or_default();
    let routes = match routes.iter().filter(|route| route.protocol != KERNEL).count() {
        0 => String::new(),
        1 => " with a route".to_owned(),
        count => format!(" with {count} routes"),
    };
    let text = format!(
        "left by flannel{routes}, which may lead packets of pods astray; when no pod of flannel is left on this node, \
         calicoctl node cleanup --flannel removes it"
    );
    Finding::interface(name, text)
}

/// Who receives on a UDP port, as well as can be said.
pub(super) fn port_holder(port: u16, underlay: &Underlay, except: &str) -> String {
    let inodes: Vec<String> = ["udp", "udp6"].into_iter().flat_map(|table| inodes(table, port)).collect();
    if let Some(process) = inodes.iter().find_map(|inode| process(inode)) {
        return process;
    }
    let same = |link: &&calico_netlink::Link| link.name != except && link.vxlan.is_some_and(|vxlan| vxlan.port == port);
    let link = underlay.links().find(same);
    link.map_or_else(|| "somebody else".to_owned(), |link| format!("the VXLAN interface {}", link.name))
}

/// The inodes of the sockets that are bound to a port, by a table of `/proc/net`.
fn inodes(table: &str, port: u16) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    let bound = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let (_, hexadecimal) = local.rsplit_once(':')?;
        (u16::from_str_radix(hexadecimal, 16).ok()? == port).then(|| fields.nth(7).map(str::to_owned))?
    };
    text.lines().filter_map(bound).filter(|inode| inode != "0").collect()
}

/// The process that has a socket open, if it can be seen from here.
fn process(inode: &str) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbered = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let holder = numbered.find(|entry| {
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        open.into_iter().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.to_string_lossy() == wanted))
    })?;
    let name = fs::read_to_string(holder.path().join("comm")).unwrap_or_default();
    Some(format!("process {} ({})", holder.file_name().to_string_lossy(), name.trim_end()))
}
