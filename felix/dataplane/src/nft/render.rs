//! Which packet rules does this node want?
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `nat-POSTROUTING` | postrouting, 110: after kube-proxy's, which must have consumed its mark first | jumps to `nat-cali-POSTROUTING` |
//! | `nat-cali-nat-outgoing` | | pods' packets to the outside get the node's address |
//! | `nat-cali-POSTROUTING` | | the same, then what the node itself sends into a tunnel with the wrong source |
//! | `filter-FORWARD` | forward, 0 | jumps to `filter-cali-from-pods` |
//! | `filter-cali-from-pods` | | drops tunnelled packets that pods send: with the node's address, other nodes would believe them |
//! | `filter-INPUT`, `filter-cali-INPUT` | input, 0 | the same, then drops tunnelled packets that no node sent |
//! | `raw-PREROUTING`, `raw-OUTPUT`, … | prerouting, output, −300 | the tunnels' outer packets are not tracked |
//!
//! A chain is there only while it has rules: with neither tunnels nor `natOutgoing`, no packet meets one, and none is
//! tracked for our sake.
//!
//! With either, the kernel tracks the connections of all packets of the family, for translation needs it and hangs into the
//! whole namespace, packets between pods included. They cannot be exempted: where a Service's address was translated
//! (kube-proxy, or whoever comes later and whom we do not see), the answer is a packet from pod to pod that only tracking
//! leads back. What the node itself sends into a tunnel with another address cannot be put right without it either: the answer
//! must become one to the address that the process is bound to. So only the tunnels' outer packets are not tracked.
//!
//! Departs from Calico: nothing is accepted here. Accepting ends a base chain only, so that it decides nothing that the
//! end of the chain does not; and a drop by whoever comes later is none of our business.

use std::collections::BTreeMap;

use calico_netlink::nftables::{
    Base, ChainKind, Comparison, Expression, Family, Fib, FibResult, Header, Hook, Meta, Register, Rule, Verdict,
};
use data_encoding::BASE64URL_NOPAD;
use felix_calc::Set;
use sha2::{Digest, Sha224};

use super::Settings;
use super::table::Chain;

/// Numbers of transport protocols.
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// The source ports that address translation should choose from.
const ANY_PORT: (u16, u16) = (1024, u16::MAX);

/// The chain that drops what comes out of a tunnel without having come from a node.
pub(super) const INPUT: &str = "filter-cali-INPUT";
/// The chain that drops what pods would send into other nodes' tunnels.
const FROM_PODS: &str = "filter-cali-from-pods";

/// Values of four octets; three of them for address translation.
const A: Register = Register::word(0);
const B: Register = Register::word(4);
const C: Register = Register::word(8);

/// What of the cluster's state decides which rules there are, in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Some pool's packets to the outside get another source.
    pub(super) masquerade: bool,
    /// `tunl0` may take packets.
    pub(super) ipip: bool,
    /// `vxlan.calico`, or `vxlan-v6.calico`, may.
    pub(super) vxlan: bool,
    /// The kernel can translate addresses.
    pub(super) translates: bool,
}

/// The name of a set in the kernel, which is Calico's.
pub(super) fn set_name(set: Set, family: Family) -> String {
    let id = match set {
        Set::Pools => "network-ip-pools",
        Set::MasqueradedPools => "masq-ipam-pools",
        Set::Hosts => "all-hosts-net",
        Set::VxlanHosts => "all-vxlan-net",
    };
    let family = match family {
        Family::Ip => "cali40",
        Family::Ip6 => "cali60",
    };
    format!("{family}{id}")
}

/// All chains with their rules.
pub(super) fn chains(family: Family, facts: Facts, settings: &Settings) -> BTreeMap<String, Chain> {
    let render = Render { family, facts, settings };
    let mut chains = Chains::default();
    let base = |kind, hook, priority| Base { kind, hook, priority, drop: false };

    chains.add("nat-cali-nat-outgoing", render.nat_outgoing());
    let mut postrouting = chains.jump_to("nat-cali-nat-outgoing");
    postrouting.extend(render.tunnel_sources());
    chains.add("nat-cali-POSTROUTING", postrouting);
    chains.hang("nat-POSTROUTING", "nat-cali-POSTROUTING", base(ChainKind::Nat, Hook::Postrouting, 110));

    chains.add(FROM_PODS, render.sent_by_pods());
    chains.hang("filter-FORWARD", FROM_PODS, base(ChainKind::Filter, Hook::Forward, 0));
    let mut input = chains.jump_to(FROM_PODS);
    input.extend(render.input());
    chains.add(INPUT, input);
    chains.hang("filter-INPUT", INPUT, base(ChainKind::Filter, Hook::Input, 0));

    chains.add("raw-cali-PREROUTING", render.untracked(true));
    chains.hang("raw-PREROUTING", "raw-cali-PREROUTING", base(ChainKind::Filter, Hook::Prerouting, -300));
    chains.add("raw-cali-OUTPUT", render.untracked(false));
    chains.hang("raw-OUTPUT", "raw-cali-OUTPUT", base(ChainKind::Filter, Hook::Output, -300));
    chains.0
}

/// Chains that have rules.
#[derive(Default)]
struct Chains(BTreeMap<String, Chain>);

impl Chains {
    fn add(&mut self, name: &str, rules: Vec<Vec<Expression>>) {
        self.put(name, None, rules);
    }

    /// A base chain that only jumps to a chain, if that one is there.
    fn hang(&mut self, name: &str, target: &str, base: Base) {
        let jump = self.jump_to(target);
        self.put(name, Some(base), jump);
    }

    fn jump_to(&self, target: &str) -> Vec<Vec<Expression>> {
        let jump = || vec![Expression::Verdict(Verdict::Jump(target.to_owned()))];
        self.0.get(target).map(|_| jump()).into_iter().collect()
    }

    fn put(&mut self, name: &str, base: Option<Base>, rules: Vec<Vec<Expression>>) {
        if rules.is_empty() {
            return;
        }
        let identify = |expressions| {
            let mut rule = Rule { expressions, comment: String::new() };
            let mut hash = Sha224::new();
            hash.update(name.as_bytes());
            hash.update([0]);
            hash.update(rule.encoded());
            let hash = BASE64URL_NOPAD.encode(&hash.finalize());
            // 96 bits, as many as Calico's.
            rule.comment = format!("cali:{}", hash.get(..16).unwrap_or_default());
            rule
        };
        let rules = rules.into_iter().map(identify).collect();
        self.0.insert(name.to_owned(), Chain { base, rules });
    }
}

struct Render<'a> {
    family: Family,
    facts: Facts,
    settings: &'a Settings,
}

impl Render<'_> {
    /// Packets of pods to what is not a pod: pools decide by their `natOutgoing`.
    fn nat_outgoing(&self) -> Vec<Vec<Expression>> {
        if !(self.facts.masquerade && self.facts.translates) {
            return Vec::new();
        }
        let mut matches = self.source(Set::MasqueradedPools, true);
        matches.extend(self.destination(Set::Pools, false));
        if self.settings.exclude_hosts {
            matches.extend(self.destination(Set::Hosts, false));
        }
        if let Some(filter) = &self.settings.interface_filter {
            matches.extend(is_named(Meta::OutputName, filter));
        }
        let rule = |protocol: Option<u8>, ports: Option<(u16, u16)>| {
            let mut rule = matches.clone();
            rule.extend(protocol.map(is_protocol).into_iter().flatten());
            rule.push(Expression::Counter);
            rule.extend(self.translate(ports));
            rule
        };
        let mut rules = Vec::new();
        // Departs from Calico: the answer to a packet whose source port became VXLAN's would not be tracked, here as little as
        // in a tunnel.
        if let Some(range) = self.settings.nat_port_range {
            let of_udp = if self.facts.vxlan { self.beside_vxlan(range) } else { range };
            rules.extend([(TCP, range), (UDP, of_udp)].map(|(protocol, range)| rule(Some(protocol), Some(range))));
        } else if self.facts.vxlan {
            rules.push(rule(Some(UDP), Some(self.beside_vxlan(ANY_PORT))));
        }
        rules.push(rule(None, None));
        rules
    }

    /// What this node sends into a tunnel with an address of another interface: a process that is bound to the wrong
    /// one, or a service's client. The answer would come back outside of the tunnel.
    fn tunnel_sources(&self) -> Vec<Vec<Expression>> {
        let vxlan = match self.family {
            Family::Ip => "vxlan.calico",
            Family::Ip6 => "vxlan-v6.calico",
        };
        let devices = [("tunl0", self.facts.ipip), (vxlan, self.facts.vxlan)];
        let mut rules = Vec::new();
        for (device, _) in devices.into_iter().filter(|(_, on)| *on && self.facts.translates) {
            let source = |output: bool, comparison| {
                let fib = Fib { source: true, mark: false, input: false, output, result: FibResult::AddressType };
                [Expression::Fib(fib, A), Expression::Compare(A, comparison, LOCAL.to_ne_bytes().to_vec())]
            };
            let mut matches = is_named(Meta::OutputName, device);
            matches.extend(source(true, Comparison::Unequal));
            matches.extend(source(false, Comparison::Equal));
            if self.facts.vxlan {
                let mut rule = matches.clone();
                rule.extend(is_protocol(UDP));
                rule.push(Expression::Counter);
                rule.extend(masquerade(Some(self.beside_vxlan(ANY_PORT))));
                rules.push(rule);
            }
            matches.push(Expression::Counter);
            matches.extend(masquerade(None));
            rules.push(matches);
        }
        rules
    }

    /// Tunnelled packets of pods: translation would give them the node's address, under which other nodes take them for the
    /// node's. By the interface, since a pod can write any source, and after a service's address became that of a node.
    fn sent_by_pods(&self) -> Vec<Vec<Expression>> {
        let mut rules = Vec::new();
        // A beginning that all names have would be the nodes' own interfaces, too.
        for prefix in self.settings.prefixes.iter().filter(|prefix| !prefix.is_empty()) {
            let mut drop = |mut rule: Vec<Expression>| {
                rule.extend(is_named(Meta::InputName, &format!("{prefix}+")));
                rule.extend([Expression::Counter, Expression::Verdict(Verdict::Drop)]);
                rules.push(rule);
            };
            if self.facts.ipip && !self.settings.ipip_from_pods {
                drop(is_protocol(IPIP).to_vec());
            }
            if self.facts.vxlan && !self.settings.vxlan_from_pods {
                drop(self.is_vxlan());
            }
        }
        rules
    }

    /// Tunnelled packets that come from no node: they would be taken out of the tunnel and believed.
    fn input(&self) -> Vec<Vec<Expression>> {
        let mut rules = Vec::new();
        let drop = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
        if self.facts.ipip {
            let mut rule = is_protocol(IPIP).to_vec();
            rule.extend(self.source(Set::Hosts, false));
            rule.extend(drop.clone());
            rules.push(rule);
        }
        if self.facts.vxlan {
            let mut rule = self.is_vxlan();
            rule.extend(self.source(Set::VxlanHosts, false));
            rule.extend(to_local());
            rule.extend(drop);
            rules.push(rule);
        }
        rules
    }

    /// The tunnels' outer packets: tracking them tells nothing, and costs an entry for each flow in VXLAN, whose source ports
    /// they are, and a look-up for each packet in IPIP.
    ///
    /// Departs from Calico, which tracks IPIP. A firewall of the node's own has to accept protocol 4 by itself, as it has to
    /// accept VXLAN's port, and not because it answers something.
    fn untracked(&self, received: bool) -> Vec<Vec<Expression>> {
        let mut rules = Vec::new();
        let mut add = |mut rule: Vec<Expression>| {
            if received {
                // Departs from Calico: what a pod sends to the outside is tracked, if it may send such packets at all, and
                // so gets the node's address.
                rule.extend(to_local());
            }
            rule.push(Expression::NoTrack);
            rules.push(rule);
        };
        if self.facts.ipip {
            let mut rule = is_protocol(IPIP).to_vec();
            if !received {
                // Tunnels of others, to what is no node, are none of our business.
                rule.extend(self.destination(Set::Hosts, true));
            }
            add(rule);
        }
        if self.facts.vxlan {
            add(self.is_vxlan());
        }
        rules
    }

    fn is_vxlan(&self) -> Vec<Expression> {
        let mut matches = is_protocol(UDP).to_vec();
        matches.push(Expression::Payload { header: Header::Transport, offset: 2, length: 2, to: A });
        matches.push(Expression::Compare(A, Comparison::Equal, self.settings.vxlan_port.to_be_bytes().to_vec()));
        matches
    }

    /// The source is in a set, or is not.
    fn source(&self, set: Set, contained: bool) -> Vec<Expression> {
        let (offset, length) = match self.family {
            Family::Ip => (12, 4),
            Family::Ip6 => (8, 16),
        };
        self.lookup(offset, length, set, contained)
    }

    /// The destination is in a set, or is not.
    fn destination(&self, set: Set, contained: bool) -> Vec<Expression> {
        let (offset, length) = match self.family {
            Family::Ip => (16, 4),
            Family::Ip6 => (24, 16),
        };
        self.lookup(offset, length, set, contained)
    }

    fn lookup(&self, offset: u32, length: u32, set: Set, contained: bool) -> Vec<Expression> {
        vec![
            Expression::Payload { header: Header::Network, offset, length, to: A },
            Expression::Lookup { set: set_name(set, self.family), key: A, inverted: !contained },
        ]
    }

    /// What pods' packets to the outside become.
    fn translate(&self, ports: Option<(u16, u16)>) -> Vec<Expression> {
        let address = self.settings.nat_outgoing_address.filter(|_| self.family == Family::Ip);
        let Some(address) = address else { return masquerade(ports) };
        let mut expressions = vec![Expression::Immediate(A, address.octets().to_vec())];
        let ports = ports.map(|range| load(range, &mut expressions));
        expressions.push(Expression::SourceNat { family: Family::Ip, address: A, ports, random: true });
        expressions
    }

    /// The wider part of a range on either side of VXLAN's port; of a range that has no other port, what any may be.
    fn beside_vxlan(&self, (first, last): (u16, u16)) -> (u16, u16) {
        let port = self.settings.vxlan_port;
        if !(first..=last).contains(&port) {
            return (first, last);
        }
        match (port - first, last - port) {
            (0, 0) => self.beside_vxlan(ANY_PORT),
            (below, above) if above >= below => (port + 1, last),
            _ => (first, port - 1),
        }
    }
}

fn masquerade(ports: Option<(u16, u16)>) -> Vec<Expression> {
    let mut expressions = Vec::new();
    let ports = ports.map(|range| load(range, &mut expressions));
    expressions.push(Expression::Masquerade { ports, random: true });
    expressions
}

fn load((first, last): (u16, u16), expressions: &mut Vec<Expression>) -> (Register, Register) {
    expressions.push(Expression::Immediate(B, first.to_be_bytes().to_vec()));
    expressions.push(Expression::Immediate(C, last.to_be_bytes().to_vec()));
    (B, C)
}

fn is_protocol(protocol: u8) -> [Expression; 2] {
    [Expression::Meta(Meta::Protocol, A), Expression::Compare(A, Comparison::Equal, vec![protocol])]
}

/// Comes or leaves by an interface of this name; or of a name that begins so, if it ends with `+` or `*`.
fn is_named(which: Meta, name: &str) -> Vec<Expression> {
    let octets = match name.strip_suffix(['+', '*']) {
        // Any name: the kernel does not compare nothing.
        Some("") => return Vec::new(),
        Some(beginning) => beginning.as_bytes().to_vec(),
        None => {
            let mut whole = name.as_bytes().to_vec();
            whole.resize(16, 0);
            whole
        }
    };
    vec![Expression::Meta(which, A), Expression::Compare(A, Comparison::Equal, octets)]
}

/// Goes to an address of this node.
fn to_local() -> [Expression; 2] {
    let fib = Fib { source: false, mark: false, input: false, output: false, result: FibResult::AddressType };
    [Expression::Fib(fib, A), Expression::Compare(A, Comparison::Equal, LOCAL.to_ne_bytes().to_vec())]
}
