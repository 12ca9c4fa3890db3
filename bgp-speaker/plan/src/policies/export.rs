//! The steps E3 to E12 of `bgp.md` §2.3, the first that decides winning. Steps before are the RIB's.

use std::sync::Arc;

use bgp_proto::{Attributes, Candidate, LocalKind, LocalRoute, Source, Verdict};
use ipnet::IpNet;

use super::Surroundings;
use crate::communities::Communities;
use crate::filter::Rules;
use crate::nets::Nets;

/// What exports depend on of the [`Surroundings`], ready to be asked. Equal ones judge equally.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scene {
    pools: Nets,
    /// Pools of which nothing is advertised.
    hidden: Nets,
    blocks: Nets,
    services: Nets,
    /// Service ranges that a reflector passes on; empty on others.
    reflected: Nets,
    communities: Communities,
    normal_v4: u32,
    normal_v6: u32,
    /// Routes through `tunl0` are others' too.
    felix_owns_ipip: bool,
    /// External peers are not told what was learned.
    keeps_learned: bool,
}

impl Scene {
    pub(super) fn new(from: &Surroundings) -> Self {
        let hidden = from.pools.iter().filter(|pool| pool.disable_bgp_export);
        let reflected = from.reflected_services.iter().filter(|_| from.reflector);
        Self {
            pools: from.pools.iter().map(|pool| pool.cidr).collect(),
            hidden: hidden.map(|pool| pool.cidr).collect(),
            blocks: from.blocks.iter().copied().collect(),
            services: from.services.iter().copied().collect(),
            reflected: reflected.copied().collect(),
            communities: from.communities.clone(),
            normal_v4: from.normal_v4,
            normal_v6: from.normal_v6,
            felix_owns_ipip: from.felix_owns_ipip,
            keeps_learned: from.only_reflectors_export_learned && !from.reflector,
        }
    }

    /// Where the two judge differently: only for prefixes that equal, or lie in, one of these. `None` is everywhere.
    pub(super) fn difference(&self, other: &Self) -> Option<Nets> {
        if (self.felix_owns_ipip, self.keeps_learned) != (other.felix_owns_ipip, other.keeps_learned) {
            return None;
        }
        let mut within: Nets = self.pools.difference(&other.pools).collect();
        within.extend(self.hidden.difference(&other.hidden));
        within.extend(self.blocks.difference(&other.blocks));
        within.extend(self.services.difference(&other.services));
        within.extend(self.reflected.difference(&other.reflected));
        within.extend(self.communities.difference(&other.communities));
        // What is elevated matters inside own blocks only.
        let of_family = |v4: bool| self.blocks.iter().filter(move |block| block.addr().is_ipv4() == v4);
        if self.normal_v4 != other.normal_v4 {
            within.extend(of_family(true));
        }
        if self.normal_v6 != other.normal_v6 {
            within.extend(of_family(false));
        }
        Some(within)
    }

    fn is_elevated(&self, candidate: &Candidate<'_>) -> bool {
        let normal = if candidate.prefix.address().is_ipv4() { self.normal_v4 } else { self.normal_v6 };
        // Also what has metric 0, which is a real metric here.
        candidate.attributes.effective_local_pref() > LocalRoute::local_pref(normal)
    }
}

/// An export policy: filters in order, then the scene.
#[derive(Clone, Debug)]
pub(super) struct Export {
    pub(super) chain: Vec<Rules>,
    pub(super) scene: Arc<Scene>,
}

impl Export {
    pub(super) fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let internal = candidate.peer_as == candidate.local_as;
        // Departs from Calico, which takes felix's routes to other nodes for this node's own where no tunnel gives them
        // away: as routes of our AS they are not for internal peers, whatever a filter says of the prefix.
        if internal && candidate.source == Source::Local(LocalKind::Remote) {
            return Verdict::Reject;
        }
        // E3
        if let Some(verdict) = self.chain.iter().find_map(|rules| rules.judge(candidate)) {
            return verdict;
        }
        let prefix = IpNet::from(candidate.prefix);
        match self.scene.exports(candidate, &prefix, internal) {
            true => self.scene.mark(candidate.attributes, &prefix),
            false => Verdict::Reject,
        }
    }
}

impl Scene {
    fn exports(&self, candidate: &Candidate<'_>, prefix: &IpNet, internal: bool) -> bool {
        // E4, before the own blocks: nothing of such a pool leaves.
        if self.hidden.cover(prefix) {
            return false;
        }
        // E5 and E6: what goes into a tunnel is another node's, or is this node's tunnel address.
        if let Some(interface) = candidate.interface {
            let tunnel = interface.ends_with(".cali") || interface.ends_with(".calico");
            let ipip = interface == "tunl0" && self.felix_owns_ipip;
            let bpf = interface.starts_with("bpf") && interface.ends_with(".cali");
            if internal && (tunnel || ipip) || bpf {
                return false;
            }
        }
        let learned = matches!(candidate.source, Source::Peer { .. } | Source::Local(LocalKind::Remote));
        if learned && !internal && self.keeps_learned {
            return false;
        }
        // E8
        if self.blocks.has(prefix) {
            return true;
        }
        if self.blocks.cover(prefix) {
            return self.is_elevated(candidate);
        }
        // E9 and E10. Departs from Calico: an address that the node itself has in a service range, as a DNS cache's, is
        // no service route.
        let of_node = matches!(candidate.source, Source::Local(LocalKind::Kernel | LocalKind::Direct));
        if !of_node && (self.services.cover(prefix) || self.reflected.cover(prefix)) {
            return true;
        }
        // E11 and E12
        self.pools.cover(prefix)
    }

    /// E7.
    fn mark(&self, attributes: &Attributes, prefix: &IpNet) -> Verdict {
        let marks = self.communities.for_prefix(prefix);
        if marks.iter().all(|mark| mark.is_on(attributes)) {
            return Verdict::Accept;
        }
        let mut attributes = attributes.clone();
        marks.into_iter().for_each(|mark| mark.put_on(&mut attributes));
        Verdict::Replace(Box::new(attributes))
    }
}
