//! How do the RIB's paths look to an operator?

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bgp_proto::{Candidate, LocalKind, PathView, PeerId, Prefix, RouterId, Source, Standing};
use ipnet::IpNet;

use super::Routing;
use crate::status::{PathStatus, Selection};

/// Beyond so many prefixes on sessions, the audience of paths is told only where a prefix is asked for.
const AUDIENCE_LIMIT: usize = 1 << 20;

/// What is said of an own route that export policy rejects, where nothing better is known.
pub const REJECTED: &str = "filters or the rules of export reject it";

/// A session, as far as the view of routes needs it.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// Its name.
    pub name: String,
    /// The peer's address.
    pub address: IpAddr,
    /// The path's prefix is not told on it for this reason, whatever the policy says; `None` if it is established.
    pub silent: Option<String>,
}

impl Routing {
    /// The selected paths, by prefix, the best first; `sessions` are all there are, by number.
    pub fn paths(&self, selection: &Selection, sessions: &BTreeMap<u32, SessionView>) -> Vec<PathStatus> {
        let Some(rib) = &self.rib else { return Vec::new() };
        let mut prefixes: Vec<Prefix> =
            rib.prefixes().filter(|prefix| selection.admits(&IpNet::from(*prefix))).collect();
        prefixes.sort_unstable();
        let affordable = selection.prefix.is_some() || prefixes.len().saturating_mul(self.up.len()) <= AUDIENCE_LIMIT;
        let audience = (selection.audience && affordable).then(|| self.audience(selection));
        let mut paths = Vec::new();
        for prefix in prefixes {
            for view in rib.paths(prefix) {
                let mut status = path_status(prefix, &view, sessions);
                if status.peer.is_none() {
                    let route = self.own.route(&status.prefix);
                    status.interface = route.and_then(|route| route.interface).map(|name| name.to_string());
                }
                if let Some(audience) = &audience {
                    self.tell_audience(&mut status, prefix, &view, sessions, audience);
                }
                paths.push(status);
            }
        }
        paths
    }

    /// The prefixes that each session is told, with the next hop and origin of what it is told.
    fn audience(&self, selection: &Selection) -> HashMap<Prefix, Vec<(PeerId, u32)>> {
        let mut audience: HashMap<Prefix, Vec<(PeerId, u32)>> = HashMap::new();
        for peer in &self.up {
            for (nlri, _) in self.rib.iter().flat_map(|rib| rib.advertised(*peer)) {
                if selection.admits(&IpNet::from(nlri.prefix)) {
                    audience.entry(nlri.prefix).or_default().push((*peer, nlri.path_id));
                }
            }
        }
        audience
    }

    fn tell_audience(
        &self,
        status: &mut PathStatus,
        prefix: Prefix,
        view: &PathView,
        sessions: &BTreeMap<u32, SessionView>,
        audience: &HashMap<Prefix, Vec<(PeerId, u32)>>,
    ) {
        let own = matches!(view.source, Source::Local(_));
        let from = match view.source {
            Source::Peer { peer, .. } => Some(peer),
            Source::Local(_) => None,
        };
        let best = matches!(view.standing, Standing::Best);
        for (id, session) in
            sessions.iter().filter(|(_, session)| session.address.is_ipv4() == prefix.address().is_ipv4())
        {
            let peer = PeerId(*id);
            let told = audience.get(&prefix).is_some_and(|told| told.iter().any(|(other, _)| *other == peer));
            // Who is told several paths is told all that count; who is told one, the best.
            if told && best && from != Some(peer) {
                status.advertised_to.push(session.name.clone());
            } else if own && !told {
                let reason = session.silent.clone().unwrap_or_else(|| match best {
                    false => format!("a better path is advertised: this one is {}", status.standing),
                    true => self.refusal(prefix, view, peer),
                });
                status.not_advertised_to.insert(session.name.clone(), reason);
            }
        }
    }

    /// Why the best path, our own, is not told to a peer that is up.
    fn refusal(&self, prefix: Prefix, view: &PathView, peer: PeerId) -> String {
        let config = self.rib.as_ref().and_then(|rib| rib.peer_config(peer));
        let Some(config) = config else { return "the session is not established".to_owned() };
        let interface = self.own.route(&IpNet::from(prefix)).and_then(|route| route.interface);
        let candidate = Candidate {
            prefix,
            attributes: &view.attributes,
            source: view.source,
            peer_as: config.peer_as,
            local_as: config.local_as,
            interface: interface.as_deref(),
        };
        let judged = config.export.as_ref().map(|policy| policy.judge(&candidate));
        match judged {
            Some(bgp_proto::Verdict::Reject) => REJECTED.to_owned(),
            _ => "it is waiting to be sent, or its next hop is the peer itself".to_owned(),
        }
    }
}

/// BIRD's name of the protocol that an own route would come from.
fn own_source(kind: LocalKind) -> &'static str {
    match kind {
        LocalKind::Block | LocalKind::Service => "static1",
        LocalKind::Workload | LocalKind::Remote | LocalKind::Kernel => "kernel1",
        LocalKind::Direct => "direct1",
    }
}

fn kind_word(kind: LocalKind) -> &'static str {
    match kind {
        LocalKind::Block => "block",
        LocalKind::Service => "service",
        LocalKind::Workload => "workload",
        LocalKind::Remote => "remote",
        LocalKind::Kernel => "kernel",
        LocalKind::Direct => "direct",
    }
}

fn path_status(prefix: Prefix, view: &PathView, sessions: &BTreeMap<u32, SessionView>) -> PathStatus {
    let attributes = &view.attributes;
    let (source, peer, kind) = match view.source {
        Source::Local(kind) => (own_source(kind).to_owned(), None, Some(kind_word(kind))),
        Source::Peer { peer, .. } => match sessions.get(&peer.0) {
            Some(session) => (session.name.clone(), Some(session.address), None),
            None => (format!("peer {peer}"), Some(attributes.next_hop), None),
        },
    };
    let communities = attributes.communities.iter().map(ToString::to_string);
    let gateway = !attributes.next_hop.is_unspecified();
    PathStatus {
        prefix: IpNet::from(prefix),
        source,
        kind,
        peer,
        path_id: view.path_id,
        best: matches!(view.standing, Standing::Best | Standing::Multipath),
        standing: view.standing.to_string(),
        next_hop: (peer.is_some() || gateway).then_some(attributes.next_hop),
        via: None,
        interface: None,
        installed: false,
        not_installed: None,
        stale: view.stale,
        local_pref: attributes.local_pref,
        med: attributes.med,
        as_path: attributes.as_path.to_string(),
        origin: match attributes.origin {
            bgp_proto::Origin::Igp => "IGP",
            bgp_proto::Origin::Egp => "EGP",
            bgp_proto::Origin::Incomplete => "INCOMPLETE",
        },
        communities: communities.chain(attributes.large_communities.iter().map(ToString::to_string)).collect(),
        originator: attributes.originator_id.map(RouterId::address),
        cluster_list: attributes.cluster_list.iter().map(|id| id.0).collect(),
        advertised_to: Vec::new(),
        not_advertised_to: BTreeMap::new(),
    }
}
