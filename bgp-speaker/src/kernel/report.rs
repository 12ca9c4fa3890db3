//! What is the speaker told?

use super::Reach;
use super::thread::Kernel;
use crate::fib::Verdict;
use crate::status::{KernelStatus, Report, Via};

/// How many learned prefixes became what.
#[derive(Debug, Default)]
pub(super) struct Counts {
    installed: usize,
    held_back: usize,
    elsewhere: usize,
}

impl Counts {
    fn of(&mut self, verdict: &Verdict) -> &mut usize {
        match verdict {
            Verdict::Install { .. } => &mut self.installed,
            Verdict::HeldBack(_) => &mut self.held_back,
            Verdict::Elsewhere(_) => &mut self.elsewhere,
        }
    }

    pub(super) fn add(&mut self, verdict: &Verdict) {
        *self.of(verdict) += 1;
    }

    pub(super) fn remove(&mut self, verdict: &Verdict) {
        let count = self.of(verdict);
        *count = count.saturating_sub(1);
    }
}

impl Kernel {
    /// Tells how the kernel is, and how next hops are reached now.
    pub(super) fn publish(&mut self) {
        let installed = self.counts.installed + self.statics.installed();
        // One route that is refused is that route's trouble; that none is accepted is ours.
        let none_accepted = self.refused.len() > 1 && self.refused.len() >= installed;
        let status = KernelStatus {
            installed,
            held_back: self.counts.held_back + self.statics.held_back(),
            elsewhere: self.counts.elsewhere,
            refused: self.refused.len(),
            in_sync: self.error.is_none() && self.table.in_sync() && !none_accepted,
            error: self.error.clone().or_else(|| self.refused.error().cloned()),
        };
        self.outlets.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
        let hops = self.dependents.take_hops();
        if hops.is_empty() {
            return;
        }
        let fib = &self.fib;
        self.outlets.reachable.send_if_modified(|known| {
            let mut changed = false;
            for (hop, watched) in hops {
                if !watched {
                    changed |= known.remove(&hop).is_some();
                    continue;
                }
                let now = fib.resolve(hop).ok().map(|via| Reach {
                    metric: u32::from(via.gateway != hop),
                    interface: fib.image().link_name(via.interface).cloned(),
                });
                if known.get(&hop) != Some(&now) {
                    known.insert(hop, now);
                    changed = true;
                }
            }
            changed
        });
    }

    /// Fills in how the kernel sees paths.
    pub(super) fn complete(&self, report: &mut Report) {
        let name = |index: u32| match self.fib.image().link_name(index) {
            Some(name) => name.to_string(),
            None => format!("if{index}"),
        };
        for path in report.paths.iter_mut().filter(|path| path.peer.is_some()) {
            let Some(next_hop) = path.next_hop else { continue };
            let via = self.fib.resolve(next_hop).ok();
            path.via = via.map(|hop| Via { gateway: hop.gateway, interface: name(hop.interface) });
            let verdict = self.fib.learned().get(&path.prefix).and_then(|entry| entry.verdict.as_ref());
            let refusal =
                || self.refused.error_for(&path.prefix).map(|error| format!("the kernel refuses it: {error}"));
            let reason = match verdict {
                Some(Verdict::Install { .. }) => refusal(),
                Some(Verdict::HeldBack(reason)) => Some(reason.to_string()),
                Some(Verdict::Elsewhere(reason)) => Some(reason.to_string()),
                None => Some("it is not looked at yet".to_owned()),
            };
            path.not_installed = reason.filter(|_| path.best);
            path.installed = path.best && path.not_installed.is_none();
        }
    }
}
