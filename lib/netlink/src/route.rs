//! Routes: what they are, and how they are written and read on netlink.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::message::{Message, Request, attributes, family, field, ip, ip_octets, number};

/// The main routing table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = libc::RT_TABLE_MAIN as u32;

/// The metric of an IPv6 route made without one (`IP6_RT_PRIO_USER`).
const IPV6_METRIC: u32 = 1024;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
/// `RTA_VIA`: a gateway of the other family.
const RTA_VIA: u16 = 18;
/// `RTAX_MTU`.
const RTAX_MTU: u16 = 2;
/// `RTM_F_CLONED`: an exception the kernel keeps (path MTU), no route.
const CLONED: u32 = 0x200;

/// What happens to a packet to a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// It goes to a next hop.
    #[default]
    Unicast,
    /// It is for the node itself.
    Local,
    /// It is dropped.
    Blackhole,
    /// It is refused with "host unreachable".
    Unreachable,
    /// It is refused with "administratively prohibited".
    Prohibit,
    /// The next routing rule decides.
    Throw,
    /// Another `RTN_…`.
    Other(u8),
}

impl RouteKind {
    /// Whether there is no next hop: the kernel shows the loopback or nothing.
    fn is_without_next_hop(self) -> bool {
        matches!(self, Self::Blackhole | Self::Unreachable | Self::Prohibit | Self::Throw)
    }
}

impl From<u8> for RouteKind {
    fn from(number: u8) -> Self {
        match number {
            libc::RTN_UNICAST => Self::Unicast,
            libc::RTN_LOCAL => Self::Local,
            libc::RTN_BLACKHOLE => Self::Blackhole,
            libc::RTN_UNREACHABLE => Self::Unreachable,
            libc::RTN_PROHIBIT => Self::Prohibit,
            libc::RTN_THROW => Self::Throw,
            other => Self::Other(other),
        }
    }
}

impl From<RouteKind> for u8 {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Unicast => libc::RTN_UNICAST,
            RouteKind::Local => libc::RTN_LOCAL,
            RouteKind::Blackhole => libc::RTN_BLACKHOLE,
            RouteKind::Unreachable => libc::RTN_UNREACHABLE,
            RouteKind::Prohibit => libc::RTN_PROHIBIT,
            RouteKind::Throw => libc::RTN_THROW,
            RouteKind::Other(other) => other,
        }
    }
}

/// A way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The router; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface's number; `None` lets the kernel find it from the gateway.
    pub interface: Option<u32>,
    /// Whether the gateway counts as on the link though no address says so.
    pub onlink: bool,
    /// Its share among several, 1 to 255; 1 if it is alone.
    pub weight: u8,
}

impl NextHop {
    /// Through a router.
    pub fn via(gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), interface: None, onlink: false, weight: 1 }
    }

    /// On a link.
    pub fn dev(interface: u32) -> Self {
        Self { gateway: None, interface: Some(interface), onlink: false, weight: 1 }
    }

    /// The same through this interface.
    pub fn on(mut self, interface: u32) -> Self {
        self.interface = Some(interface);
        self
    }

    /// The same, with the gateway taken to be on the link.
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// Whether `actual` is this one, where it says so.
    fn is_met_by(&self, actual: &Self) -> bool {
        Self { interface: self.interface.or(actual.interface), ..*self } == *actual
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Which packets.
    pub destination: IpNet,
    /// What happens to them.
    pub kind: RouteKind,
    /// The routing table; [`TABLE_MAIN`] is 254.
    pub table: u32,
    /// Who made it (`RTPROT_…`): 2 kernel, 3 boot, 4 static, 12 BIRD, 80 Felix.
    pub protocol: u8,
    /// How far the destination is (IPv4 only): 0 beyond a router or nowhere, 253 on the link, 254 here.
    pub scope: u8,
    /// Among routes to one destination the smallest wins. IPv6 knows no 0: the kernel makes 1024 of it.
    pub metric: u32,
    /// The source address that the node's own packets get.
    pub source: Option<IpAddr>,
    /// The largest packet that goes this way, in octets (`RTAX_MTU`); `None`: what the interface takes.
    pub mtu: Option<u32>,
    /// Where they go; none for a black hole and its like, several for equal-cost multipath.
    pub next_hops: Vec<NextHop>,
}

/// What distinguishes routes: of those that agree in it, packets see one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// Which packets.
    pub destination: IpNet,
    /// The routing table.
    pub table: u32,
    /// The metric as the kernel shows it: never 0 for IPv6.
    pub metric: u32,
}

impl Route {
    /// A route of the main table through next hops; scope and kind follow from them.
    pub fn unicast(destination: IpNet, next_hops: impl Into<Vec<NextHop>>, protocol: u8) -> Self {
        let next_hops = next_hops.into();
        let on_link = destination.addr().is_ipv4() && next_hops.iter().all(|hop| hop.gateway.is_none());
        let scope = if on_link { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
        Self {
            destination: destination.trunc(),
            kind: RouteKind::Unicast,
            table: TABLE_MAIN,
            protocol,
            scope,
            metric: 0,
            source: None,
            mtu: None,
            next_hops,
        }
    }

    /// A route of the main table that drops packets.
    pub fn blackhole(destination: IpNet, protocol: u8) -> Self {
        let scope = libc::RT_SCOPE_UNIVERSE;
        Self { kind: RouteKind::Blackhole, scope, ..Self::unicast(destination, [], protocol) }
    }

    /// The same with another metric.
    pub fn with_metric(mut self, metric: u32) -> Self {
        self.metric = metric;
        self
    }

    /// The same for packets of at most `mtu` octets.
    pub fn with_mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// What distinguishes it.
    pub fn key(&self) -> RouteKey {
        let metric = if self.destination.addr().is_ipv6() && self.metric == 0 { IPV6_METRIC } else { self.metric };
        let table = if self.table == 0 { TABLE_MAIN } else { self.table };
        RouteKey { destination: self.destination.trunc(), table, metric }
    }

    /// The same route as the kernel shows it: host bits cleared, IPv6 metric 0 as 1024, next hops in one order,
    /// without what has no meaning for its family or kind.
    pub fn normalized(mut self) -> Self {
        let RouteKey { destination, table, metric } = self.key();
        (self.destination, self.table, self.metric) = (destination, table, metric);
        if destination.addr().is_ipv6() {
            self.scope = libc::RT_SCOPE_UNIVERSE;
        }
        if self.kind.is_without_next_hop() {
            self.next_hops.clear();
        }
        if let [only] = self.next_hops.as_mut_slice() {
            only.weight = 1;
        }
        for hop in &mut self.next_hops {
            hop.weight = hop.weight.max(1);
        }
        self.next_hops.sort_unstable();
        self
    }

    /// Whether `actual` is this route, where it says so; both normalized.
    pub(crate) fn is_met_by(&self, actual: &Self) -> bool {
        let hops = |route: &Self| route.next_hops.len();
        self.key() == actual.key()
            && (self.kind, self.protocol, self.scope, self.source, self.mtu)
                == (actual.kind, actual.protocol, actual.scope, actual.source, actual.mtu)
            && hops(self) == hops(actual)
            && self.next_hops.iter().zip(&actual.next_hops).all(|(desired, actual)| desired.is_met_by(actual))
    }

    /// Reads `RTM_NEWROUTE` or `RTM_DELROUTE`. `None` for what is no route of this kind: exceptions the kernel keeps,
    /// other families, routes chosen by source or type of service.
    pub(crate) fn parse(message: Message<'_>) -> Option<Self> {
        let [family, length, source_length, tos, table, protocol, scope, kind] = field(message.body, 0)?;
        let flags = u32::from_ne_bytes(field(message.body, 8)?);
        let unspecified: IpAddr = match i32::from(family) {
            libc::AF_INET => [0; 4].into(),
            libc::AF_INET6 => [0; 16].into(),
            _ => return None,
        };
        if source_length != 0 || tos != 0 || flags & CLONED != 0 {
            return None;
        }
        let mut destination = unspecified;
        let mut only = NextHop { gateway: None, interface: None, onlink: flags & ONLINK != 0, weight: 1 };
        let mut route = Self {
            destination: IpNet::new(unspecified, 0).ok()?,
            kind: kind.into(),
            table: table.into(),
            protocol,
            scope,
            metric: 0,
            source: None,
            mtu: None,
            next_hops: Vec::new(),
        };
        for (kind, value) in attributes(message.body.get(12..)?) {
            match kind {
                libc::RTA_DST => destination = ip(value)?,
                libc::RTA_GATEWAY => only.gateway = ip(value),
                RTA_VIA => only.gateway = via(value),
                libc::RTA_OIF => only.interface = number(value),
                libc::RTA_PRIORITY => route.metric = number(value)?,
                libc::RTA_PREFSRC => route.source = ip(value),
                libc::RTA_TABLE => route.table = number(value)?,
                libc::RTA_METRICS => {
                    let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU);
                    route.mtu = mtu.and_then(|(_, value)| number(value)).filter(|mtu| *mtu != 0);
                }
                libc::RTA_MULTIPATH => route.next_hops = next_hops(value),
                _ => {}
            }
        }
        if destination.is_ipv4() != unspecified.is_ipv4() {
            return None;
        }
        route.destination = IpNet::new(destination, length).ok()?;
        if route.next_hops.is_empty() && (only.gateway.is_some() || only.interface.is_some()) {
            route.next_hops.push(only);
        }
        Some(route.normalized())
    }

    fn request(&self, kind: u16, flags: i32) -> Request {
        let removal = kind == libc::RTM_DELROUTE;
        // "Nowhere" matches every scope in a removal.
        let scope = if removal { libc::RT_SCOPE_NOWHERE } else { self.scope };
        let onlink = if matches!(self.next_hops.as_slice(), [only] if only.onlink) { ONLINK } else { 0 };
        let mut request = Request::new(kind, flags, &self.header(scope, onlink));
        request.attribute(libc::RTA_DST, &ip_octets(self.destination.network()));
        request.number(libc::RTA_TABLE, self.key().table);
        if self.key().metric != 0 {
            request.number(libc::RTA_PRIORITY, self.key().metric);
        }
        if let Some(source) = self.source {
            request.attribute(libc::RTA_PREFSRC, &ip_octets(source));
        }
        if let Some(mtu) = self.mtu.filter(|_| !removal) {
            request.nested(libc::RTA_METRICS, |metrics| metrics.number(RTAX_MTU, mtu));
        }
        match self.next_hops.as_slice() {
            [] => {}
            [only] => {
                self.gateway(&mut request, only);
                if let Some(interface) = only.interface {
                    request.number(libc::RTA_OIF, interface);
                }
            }
            several => request.nested(libc::RTA_MULTIPATH, |multipath| {
                for hop in several {
                    let flags = if hop.onlink { ONLINK as u8 } else { 0 };
                    let mut rest = [flags, hop.weight.saturating_sub(1), 0, 0, 0, 0];
                    rest[2..].copy_from_slice(&hop.interface.unwrap_or(0).to_ne_bytes());
                    multipath.sized(&rest, |attributes| self.gateway(attributes, hop));
                }
            }),
        }
        request
    }

    /// Appends the gateway of a next hop; one of the other family (RFC 8950) has its own attribute.
    fn gateway(&self, request: &mut Request, hop: &NextHop) {
        let Some(gateway) = hop.gateway else { return };
        if gateway.is_ipv4() == self.destination.addr().is_ipv4() {
            request.attribute(libc::RTA_GATEWAY, &ip_octets(gateway));
        } else {
            request.nested(RTA_VIA, |via| {
                via.raw(&u16::from(family(gateway)).to_ne_bytes());
                via.raw(&ip_octets(gateway));
            });
        }
    }

    /// `struct rtmsg`.
    fn header(&self, scope: u8, flags: u32) -> [u8; 12] {
        let mut octets = [0; 12];
        octets[0] = family(self.destination.addr());
        octets[1] = self.destination.prefix_len();
        octets[4] = libc::RT_TABLE_UNSPEC;
        octets[5] = self.protocol;
        octets[6] = scope;
        octets[7] = self.kind.into();
        octets[8..].copy_from_slice(&flags.to_ne_bytes());
        octets
    }

    pub(crate) fn add(&self) -> Request {
        self.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
    }

    pub(crate) fn replace(&self) -> Request {
        self.request(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
    }

    pub(crate) fn delete(&self) -> Request {
        self.request(libc::RTM_DELROUTE, 0)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Local => f.write_str("local ")?,
            RouteKind::Blackhole => f.write_str("blackhole ")?,
            RouteKind::Unreachable => f.write_str("unreachable ")?,
            RouteKind::Prohibit => f.write_str("prohibit ")?,
            RouteKind::Throw => f.write_str("throw ")?,
            RouteKind::Other(kind) => write!(f, "type {kind} ")?,
        }
        write!(f, "{}", self.destination)?;
        for hop in &self.next_hops {
            if let Some(gateway) = hop.gateway {
                write!(f, " via {gateway}")?;
            }
            if let Some(interface) = hop.interface {
                write!(f, " on interface {interface}")?;
            }
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {} table {}", self.destination, self.metric, self.table)
    }
}

/// The next hops of `RTA_MULTIPATH`: `struct rtnexthop`, each followed by its attributes.
fn next_hops(octets: &[u8]) -> Vec<NextHop> {
    let mut rest = octets;
    std::iter::from_fn(|| {
        let length = usize::from(u16::from_ne_bytes(field(rest, 0)?));
        let [flags, hops] = field(rest, 2)?;
        let interface = number(rest.get(4..)?).filter(|index| *index != 0);
        let onlink = u32::from(flags) & ONLINK != 0;
        let mut hop = NextHop { gateway: None, interface, onlink, weight: hops.saturating_add(1) };
        for (kind, value) in attributes(rest.get(8..length)?) {
            match kind {
                libc::RTA_GATEWAY => hop.gateway = ip(value),
                RTA_VIA => hop.gateway = via(value),
                _ => {}
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(hop)
    })
    .collect()
}

/// The address of `RTA_VIA`: after its family, 16 bits.
fn via(value: &[u8]) -> Option<IpAddr> {
    ip(value.get(2..)?)
}
