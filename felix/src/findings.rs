//! What is not as it should be and does not mend itself: collected from all parts, told once, and shown to whoever asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use calico_agent::Finding;
use tokio::sync::watch;
use tracing::{info, warn};

/// The part that found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// What is configured.
    Configuration,
    /// What has been configured since, and is not taken.
    Settings,
    /// What is in the store.
    Datastore,
    /// What the calculation makes of it.
    Calculation,
    /// Devices, addresses, routes.
    Dataplane,
    /// Packet rules.
    Rules,
    /// Tunnels' addresses.
    Tunnels,
}

/// All findings; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Findings(Arc<watch::Sender<BTreeMap<Source, Vec<Finding>>>>);

impl Findings {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::channel(BTreeMap::new()).0))
    }

    /// Says all that a part finds now, in place of what it found before. What is new is logged, and what is gone.
    pub(crate) fn tell(&self, source: Source, mut now: Vec<Finding>) {
        now.sort();
        now.dedup();
        self.0.send_if_modified(|all| {
            let before = all.entry(source).or_default();
            if *before == now {
                return false;
            }
            // Both are sorted, and there may be many.
            for Finding { object, text } in now.iter().filter(|finding| before.binary_search(finding).is_err()) {
                warn!(object, finding = text, "something is not as it should be");
            }
            for Finding { object, text } in before.iter().filter(|finding| now.binary_search(finding).is_err()) {
                info!(object, finding = text, "that is as it should be again");
            }
            *before = now;
            true
        });
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Finding> {
        self.0.borrow().values().flatten().cloned().collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.borrow().values().map(Vec::len).sum()
    }

    /// Tells of changes; [`Self::all`] has them.
    pub(crate) fn subscribe(&self) -> watch::Receiver<BTreeMap<Source, Vec<Finding>>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_replaces_its_own_and_only_a_difference_is_told() {
        let finding = |object: &str| Finding { object: object.to_owned(), text: "x".to_owned() };
        let findings = Findings::new();
        let mut changes = findings.subscribe();
        findings.tell(Source::Rules, vec![finding("b"), finding("a"), finding("b")]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        findings.tell(Source::Rules, vec![finding("a"), finding("b")]);
        assert!(!changes.has_changed().unwrap());
        findings.tell(Source::Tunnels, vec![finding("c")]);
        assert_eq!((findings.all(), findings.count()), (vec![finding("a"), finding("b"), finding("c")], 3));
        findings.tell(Source::Rules, Vec::new());
        assert_eq!(findings.all(), [finding("c")]);
    }
}
