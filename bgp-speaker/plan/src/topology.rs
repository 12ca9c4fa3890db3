//! Can every node learn every other's routes by the sessions there are?
//!
//! A route is followed from each node over the sessions that exist on both ends, by the rules of BGP: what is learned
//! by iBGP is told to external peers only, unless who learned it reflects it (RFC 4456), and who finds its own AS number
//! or cluster ID in a path drops it. All that is outside the cluster counts as one network that passes everything on:
//! whether it does is not ours to know. Filters are not looked at, nor which path is the best, so what is reported is
//! certain, and what is not reported may still go wrong.

mod spread;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use self::spread::{Link, Seen, Vertex};
use crate::listing::Listing;
use crate::sessions::{Origin, Plan, SessionConfig};

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Family {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

impl Family {
    fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::IPv4)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        })
    }
}

/// What is wrong with the sessions of a cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "problem", rename_all = "camelCase")]
pub enum Isolation {
    /// Nodes that have no session with anybody, or none that the other end has too.
    NoSession {
        /// The family.
        family: Family,
        /// The nodes, by name.
        nodes: Vec<String>,
    },
    /// Nodes that do not learn the routes of others. (Nodes without any session are not among these others.)
    NoPath {
        /// The family.
        family: Family,
        /// Who does not learn them, by name.
        nodes: Vec<String>,
        /// Whose routes they are, by name.
        missing: Vec<String>,
        /// With whom the nodes have sessions; empty if that is not the same for all of them.
        sessions: Vec<String>,
    },
    /// A node has a session with another that has none with it.
    OneSided {
        /// The node.
        node: String,
        /// Its session.
        session: String,
        /// The other.
        peer: String,
    },
    /// Both ends have the session, but not the same one.
    Disagreement {
        /// One node.
        node: String,
        /// Its session.
        session: String,
        /// The other.
        peer: String,
        /// In what they differ.
        reason: String,
    },
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = |nodes: &[String]| match nodes {
            [node] => format!("node {node} has"),
            nodes => format!("nodes {} have", Listing(nodes)),
        };
        match self {
            Self::NoSession { family, nodes } => write!(f, "{} no {family} session", subject(nodes)),
            Self::NoPath { family, nodes, missing, sessions } => {
                write!(f, "{} no {family} path to ", subject(nodes))?;
                match missing.as_slice() {
                    [other] => write!(f, "{other}")?,
                    others => write!(f, "{} others: {}", others.len(), Listing(others))?,
                }
                match sessions.as_slice() {
                    [] => Ok(()),
                    [session] => write!(f, "; the only session is with {session}"),
                    sessions => write!(f, "; the only sessions are with {}", Listing(sessions)),
                }
            }
            Self::OneSided { node, session, peer } => {
                write!(f, "{node} has a session with {peer} ({session}), {peer} has none with {node}")
            }
            Self::Disagreement { node, session, peer, reason } => {
                write!(f, "the session of {node} with {peer} ({session}) cannot be established: {reason}")
            }
        }
    }
}

/// What is wrong with the sessions of a cluster whose nodes have these plans.
pub fn check(plans: &BTreeMap<String, Plan>) -> Vec<Isolation> {
    let mut network = Network::default();
    for (node, plan) in plans {
        network.add(node, plan);
    }
    network.check()
}

/// One end of a session, as far as this module looks at it.
#[derive(Debug)]
struct End {
    name: Box<str>,
    peer: IpAddr,
    /// The node that the peer is; `None` is outside of the cluster.
    remote: Option<Box<str>>,
    local_as: u32,
    peer_as: u32,
    client: bool,
    has_password: bool,
    allowed_local_as: u32,
}

/// What is needed of a node's plan, so that the plan need not be kept.
#[derive(Debug)]
struct Member {
    name: String,
    ipv4: Option<IpAddr>,
    ipv6: Option<IpAddr>,
    cluster_id: Option<Ipv4Addr>,
    ends: Vec<End>,
}

impl Member {
    fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::IPv4 => self.ipv4,
            Family::IPv6 => self.ipv6,
        }
    }
}

/// The sessions of all nodes, gathered from plan after plan.
#[derive(Debug, Default)]
pub struct Network {
    /// By name.
    members: BTreeMap<String, Member>,
}

impl Network {
    /// Takes what is needed of a node's plan.
    pub fn add(&mut self, node: &str, plan: &Plan) {
        let Some(local) = &plan.local else { return };
        let end = |session: &SessionConfig| End {
            name: session.name.as_str().into(),
            peer: session.peer.ip(),
            remote: session.remote.as_deref().map(Box::from),
            local_as: session.local_as,
            peer_as: session.peer_as,
            client: session.client,
            has_password: session.password.is_some(),
            allowed_local_as: session.allowed_local_as,
        };
        // What a workload tells is no part of how the cluster hangs together.
        let sessions = plan.sessions.iter().filter(|session| session.origin != Origin::LocalWorkload);
        let member = Member {
            name: node.to_owned(),
            ipv4: local.ipv4.map(|net| net.addr().into()),
            ipv6: local.ipv6.map(|net| net.addr().into()),
            cluster_id: local.cluster_id,
            ends: sessions.map(end).collect(),
        };
        self.members.insert(node.to_owned(), member);
    }

    /// What is wrong with the sessions.
    pub fn check(&self) -> Vec<Isolation> {
        let mut found = Vec::new();
        for family in [Family::IPv4, Family::IPv6] {
            self.check_family(family, &mut found);
        }
        found
    }

    fn check_family(&self, family: Family, found: &mut Vec<Isolation>) {
        let members: Vec<&Member> = self.members.values().filter(|member| member.address(family).is_some()).collect();
        if members.len() < 2 {
            return;
        }
        let vertices = link(&members, family, found);
        let names = |indices: &[usize]| -> Vec<String> {
            indices.iter().filter_map(|index| members.get(*index)).map(|member| member.name.clone()).collect()
        };
        let (lonely, linked): (Vec<usize>, Vec<usize>) =
            (0..vertices.len()).partition(|index| vertices.get(*index).is_none_or(|vertex| vertex.links.is_empty()));
        if !lonely.is_empty() {
            found.push(Isolation::NoSession { family, nodes: names(&lonely) });
        }
        // By who is missing, so that one cause is one entry however many nodes it hits.
        let mut by_missing: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        let mut missing: Vec<Vec<usize>> = vec![Vec::new(); vertices.len()];
        let mut spread = spread::Spread::new(&vertices, linked.len());
        for origin in &linked {
            if let Seen::By(seen) = spread.from(*origin) {
                let unseen = linked.iter().filter(|index| seen.get(**index) == Some(&false));
                unseen.for_each(|index| missing.get_mut(*index).into_iter().for_each(|missing| missing.push(*origin)));
            }
        }
        for (index, missing) in missing.into_iter().enumerate().filter(|(_, missing)| !missing.is_empty()) {
            by_missing.entry(missing).or_default().push(index);
        }
        for (missing, nodes) in by_missing {
            let mut peers = nodes.iter().filter_map(|index| members.get(*index)).map(|member| peers(member, family));
            let first = peers.next().unwrap_or_default();
            let sessions = if peers.all(|other| other == first) { first } else { Vec::new() };
            found.push(Isolation::NoPath { family, nodes: names(&nodes), missing: names(&missing), sessions });
        }
    }
}

/// With whom a node has sessions of a family.
fn peers(member: &Member, family: Family) -> Vec<String> {
    let ends = member.ends.iter().filter(|end| family.has(end.peer));
    let mut peers: Vec<String> =
        ends.map(|end| end.remote.as_deref().map_or_else(|| end.peer.to_string(), str::to_owned)).collect();
    peers.sort();
    peers.dedup();
    peers
}

/// The sessions that exist on both ends, and those with the outside.
fn link(members: &[&Member], family: Family, found: &mut Vec<Isolation>) -> Vec<Vertex> {
    let index: HashMap<&str, usize> = (0..).zip(members).map(|(index, member)| (member.name.as_str(), index)).collect();
    // A node's ends by the peer's address, to find the other end of a session.
    let by_peer: Vec<HashMap<IpAddr, Vec<&End>>> = members
        .iter()
        .map(|member| {
            let mut ends: HashMap<IpAddr, Vec<&End>> = HashMap::with_capacity(member.ends.len());
            member.ends.iter().for_each(|end| ends.entry(end.peer).or_default().push(end));
            ends
        })
        .collect();
    let mut vertices = Vec::with_capacity(members.len());
    for (own_index, member) in members.iter().enumerate() {
        let mut links = Vec::new();
        for end in member.ends.iter().filter(|end| family.has(end.peer)) {
            let outside = Link {
                to: None,
                local_as: end.local_as,
                external: end.local_as != end.peer_as,
                client: end.client,
                far_client: false,
                far_as: end.peer_as,
                far_allowed: true,
            };
            let Some(remote) = end.remote.as_deref() else {
                links.push(outside);
                continue;
            };
            let there = index.get(remote).copied();
            let ends = there.and_then(|there| by_peer.get(there)).zip(member.address(family));
            let others: &[&End] = ends.and_then(|(ends, own)| ends.get(&own)).map_or(&[], Vec::as_slice);
            let report = |session: &End| (member.name.clone(), session.name.to_string(), remote.to_owned());
            match (others.iter().find(|other| disagreement(end, other).is_none()), others.first()) {
                (Some(far), _) => links.push(Link {
                    to: there,
                    far_client: far.client,
                    far_as: far.local_as,
                    far_allowed: far.allowed_local_as > 0,
                    ..outside
                }),
                (None, None) => {
                    let (node, session, peer) = report(end);
                    found.push(Isolation::OneSided { node, session, peer });
                }
                // Said once for both ends.
                (None, Some(far)) if there.is_some_and(|there| own_index < there) => {
                    let (node, session, peer) = report(end);
                    let reason = disagreement(end, far).unwrap_or_default();
                    found.push(Isolation::Disagreement { node, session, peer, reason });
                }
                (None, Some(_)) => {}
            }
        }
        vertices.push(Vertex::new(member.cluster_id, links));
    }
    vertices
}

/// Why two ends cannot be those of one session.
fn disagreement(end: &End, far: &End) -> Option<String> {
    let numbers = (end.local_as, end.peer_as) == (far.peer_as, far.local_as);
    if !numbers {
        return Some(format!(
            "one end is AS {} and expects AS {}, the other is AS {} and expects AS {}",
            end.local_as, end.peer_as, far.local_as, far.peer_as
        ));
    }
    (end.has_password != far.has_password).then(|| "only one end has a password".to_owned())
}
