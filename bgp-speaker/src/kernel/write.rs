//! How do decisions become routes, and what if the kernel refuses?

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use calico_netlink::{Error, NextHop, Route, RouteKey};
use ipnet::IpNet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::PROTOCOL;
use super::dependents::Dependents;
use super::thread::Kernel;
use crate::fib::{Fib, Hop, Unreachable, Verdict};

/// The pauses after failures: from the first, doubling, to the second.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Most repeated warnings about single routes in one pass.
const WARNINGS: usize = 5;

/// Routes that the kernel refused: each waits for its own time, and no other waits for it.
#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<RouteKey, Refusal>);

#[derive(Debug)]
struct Refusal {
    error: String,
    again: Instant,
    pause: Duration,
}

impl Refused {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the kernel said against one of them.
    pub(super) fn error(&self) -> Option<&String> {
        self.0.values().next().map(|refusal| &refusal.error)
    }

    /// What the kernel said against a route for this prefix.
    pub(super) fn error_for(&self, prefix: &IpNet) -> Option<&String> {
        let of_prefix = self.0.iter().find(|(key, _)| key.destination == *prefix);
        of_prefix.map(|(_, refusal)| &refusal.error)
    }

    /// When one is to be tried again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().map(|refusal| refusal.again).min()
    }
}

/// The host routes to peers that are reached through a gateway of their own.
#[derive(Debug, Default)]
pub(super) struct Statics {
    /// Where each leads, or why it leads nowhere; then it is held back.
    routes: BTreeMap<IpAddr, Result<Hop, Unreachable>>,
    stale: bool,
}

impl Statics {
    /// Something changed that may matter to them.
    pub(super) fn look_again(&mut self) {
        self.stale = true;
    }

    /// Those that lead elsewhere than before, or nowhere any more.
    pub(super) fn changed(
        &mut self,
        fib: &Fib,
        dependents: &mut Dependents,
    ) -> Vec<(IpAddr, Option<Result<Hop, Unreachable>>)> {
        if !std::mem::take(&mut self.stale) {
            return Vec::new();
        }
        let now: BTreeMap<_, _> =
            fib.statics().iter().map(|(peer, gateway)| (*peer, fib.resolve_on_link(*gateway))).collect();
        let old = std::mem::replace(&mut self.routes, now);
        let now = &self.routes;
        let gone = old.keys().filter(|peer| !now.contains_key(peer)).map(|peer| (*peer, None));
        let changed = now.iter().filter(|(peer, way)| old.get(peer) != Some(way));
        let changes: Vec<_> = changed.map(|(peer, way)| (*peer, Some(*way))).chain(gone).collect();
        for (peer, way) in &changes {
            if let Some(Err(reason)) = way {
                let gateway = fib.statics().get(peer);
                warn!(%peer, ?gateway, %reason, "reachableBy's gateway is on no link of this node; the route waits for it");
            }
            dependents.touch(&IpNet::from(*peer));
        }
        changes
    }

    /// How many are held back.
    pub(super) fn held_back(&self) -> usize {
        self.routes.values().filter(|route| route.is_err()).count()
    }

    /// How many lead somewhere.
    pub(super) fn installed(&self) -> usize {
        self.routes.len() - self.held_back()
    }
}

impl Kernel {
    /// Decides again about prefixes that something may have changed for, and wants what follows.
    pub(super) fn judge(&mut self) {
        let statics = self.statics.changed(&self.fib, &mut self.dependents);
        for (peer, _) in &statics {
            self.table.unwant(&static_key(*peer));
        }
        for prefix in self.dependents.take_dirty() {
            let Some((before, verdict)) = self.fib.decide(&prefix) else { continue };
            if let Verdict::HeldBack(reason) = &verdict {
                let next_hops = self.fib.learned().get(&prefix).map(|entry| &entry.learned.next_hops);
                debug!(%prefix, ?next_hops, %reason, "route held back");
            }
            let old_metric = match &before {
                Some(Verdict::Install { metric, .. }) => Some(*metric),
                _ => None,
            };
            self.counts.add(&verdict);
            match verdict.leaves() {
                true => self.table.leave(prefix),
                false => self.table.cease_to_leave(&prefix),
            }
            match &verdict {
                Verdict::Install { hops, metric } => {
                    let route = route(&prefix, hops, *metric);
                    self.refused.0.remove(&route.key()); // another route may be accepted
                    self.table.want(route);
                    if old_metric == Some(*metric) {
                        self.counts.remove(&verdict); // it was counted already
                    } else {
                        self.withdraw(&prefix, before.as_ref());
                    }
                }
                _ => self.withdraw(&prefix, before.as_ref()),
            }
        }
        // After learned routes of the same key were given up.
        for (peer, way) in statics {
            self.refused.0.remove(&static_key(peer));
            if let Some(Ok(hop)) = way {
                self.table.want(static_route(peer, &hop));
            }
        }
    }

    /// Forgets a verdict and the route that it stood for.
    pub(super) fn withdraw(&mut self, prefix: &IpNet, verdict: Option<&Verdict>) {
        if let Some(Verdict::Install { metric, .. }) = verdict {
            let key = key(prefix, *metric);
            self.table.unwant(&key);
            self.refused.0.remove(&key);
        }
        if let Some(verdict) = verdict {
            self.counts.remove(verdict);
        }
    }

    /// Lets the route go that a verdict stood for, even before the sweep.
    pub(super) fn release(&mut self, prefix: &IpNet, verdict: Option<&Verdict>) {
        if let Some(Verdict::Install { metric, .. }) = verdict {
            self.table.release(&key(prefix, *metric));
        }
        if verdict.is_some_and(Verdict::leaves) {
            self.table.release_at(prefix);
        }
    }

    /// Writes what differs, but for what the kernel refused a short while ago.
    pub(super) fn write(&mut self) {
        let now = Instant::now();
        let refused = std::mem::take(&mut self.refused.0).into_iter();
        let (mut due, held): (BTreeMap<_, _>, _) = refused.partition(|(_, refusal)| refusal.again <= now);
        self.refused.0 = held;
        self.table.set_held(self.refused.0.keys().copied().collect());
        if self.table.in_sync() {
            return;
        }
        for (key, error) in self.table.apply(&mut self.socket) {
            let before = due.remove(&key);
            self.refuse(key, &error, before.map(|refusal| refusal.pause), now);
        }
        self.table.set_held(self.refused.0.keys().copied().collect());
    }

    fn refuse(&mut self, key: RouteKey, error: &Error, pause: Option<Duration>, now: Instant) {
        if pause.is_none() && self.refused.len() < WARNINGS {
            warn!(prefix = %key.destination, %error, "kernel refuses a route; it is tried again");
        }
        let pause = pause.map_or(RETRY.0, |pause| (pause * 2).min(RETRY.1));
        self.refused.0.insert(key, Refusal { error: error.to_string(), again: now + pause, pause });
    }
}

fn key(prefix: &IpNet, metric: u32) -> RouteKey {
    Route::unicast(*prefix, [], PROTOCOL).with_metric(metric).key()
}

fn route(prefix: &IpNet, hops: &[Hop], metric: u32) -> Route {
    let hops: Vec<_> = hops.iter().map(next_hop).collect();
    Route::unicast(*prefix, hops, PROTOCOL).with_metric(metric)
}

fn static_key(peer: IpAddr) -> RouteKey {
    key(&IpNet::from(peer), 0)
}

fn static_route(peer: IpAddr, hop: &Hop) -> Route {
    Route::unicast(IpNet::from(peer), [next_hop(hop)], PROTOCOL)
}

fn next_hop(hop: &Hop) -> NextHop {
    NextHop { onlink: hop.onlink, ..NextHop::via(hop.gateway).on(hop.interface) }
}
