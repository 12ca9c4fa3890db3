//! What of a peer's paths may take part (RFC 4271 §9.1.2, RFC 4456 §8).

use std::sync::Arc;

use super::{Candidate, Exclusion, PeerConfig, PeerId, Source, Verdict};
use crate::{Attributes, Community, Interner, Prefix, RouterId};

/// Attributes of a peer with the verdict that does not depend on the prefix.
pub(super) struct Judged {
    pub(super) attributes: Arc<Attributes>,
    pub(super) excluded: Option<Exclusion>,
}

/// Takes attributes as a peer sent them: without what it has no say in, and checked for loops.
pub(super) fn admit(
    config: &PeerConfig,
    own_id: RouterId,
    attributes: &Arc<Attributes>,
    interner: &mut Interner,
) -> Judged {
    let external = !config.context.internal;
    let leaving = attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN);
    let meddles =
        attributes.local_pref.is_some() || attributes.originator_id.is_some() || !attributes.cluster_list.is_empty();
    let attributes = if external && (meddles || leaving) {
        // RFC 8326 §4.2: what is about to go away is the last choice.
        let local_pref = leaving.then_some(0);
        let attributes = Attributes::clone(attributes);
        interner.intern(Attributes { local_pref, originator_id: None, cluster_list: Vec::new(), ..attributes })
    } else {
        interner.intern_shared(attributes)
    };
    let cluster = config.cluster_id.map_or(own_id.address(), |cluster| cluster.0);
    let excluded = if attributes.as_path.count(config.local_as) > config.allowed_local_as.into() {
        Some(Exclusion::AsLoop)
    } else if attributes.originator_id == Some(own_id) {
        Some(Exclusion::OwnOriginator)
    } else if attributes.cluster_list.iter().any(|id| id.0 == cluster) {
        Some(Exclusion::ClusterLoop)
    } else {
        None
    };
    Judged { attributes, excluded }
}

/// What import makes of one path.
pub(super) struct Admission {
    /// The attributes that count.
    pub(super) attributes: Arc<Attributes>,
    /// Those received, if others.
    pub(super) received: Option<Arc<Attributes>>,
    pub(super) excluded: Option<Exclusion>,
    /// A rule accepted it by name.
    pub(super) explicit: bool,
}

impl Judged {
    /// The outcome for one prefix; `interface` is where the next hop leads, as far as it is known.
    pub(super) fn judge(
        &self,
        id: PeerId,
        config: &PeerConfig,
        prefix: Prefix,
        interface: Option<&str>,
        interner: &mut Interner,
    ) -> Admission {
        let received = || Arc::clone(&self.attributes);
        let as_received = |excluded| Admission { attributes: received(), received: None, excluded, explicit: false };
        let Some(policy) = config.import.as_ref().filter(|_| self.excluded.is_none()) else {
            return as_received(self.excluded);
        };
        let source = Source::Peer { peer: id, external: !config.context.internal };
        let (attributes, peer_as, local_as) = (&*self.attributes, config.peer_as, config.local_as);
        let candidate = Candidate { prefix, attributes, source, peer_as, local_as, interface };
        let (attributes, explicit) = match policy.judge(&candidate) {
            Verdict::Reject => return as_received(Some(Exclusion::Policy)),
            Verdict::Accept => (None, false),
            Verdict::Replace(attributes) => (Some(attributes), false),
            Verdict::AcceptExplicitly(attributes) => (attributes, true),
        };
        match attributes {
            None => Admission { explicit, ..as_received(None) },
            Some(attributes) => {
                let attributes = interner.intern(*attributes);
                Admission { attributes, received: Some(received()), excluded: None, explicit }
            }
        }
    }
}
