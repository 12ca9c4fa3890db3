//! What the figures are to be, and whether they are.

use std::fmt;

use crate::net::StoreKind;

/// The columns of a row of figures.
const ADD_P50: usize = 0;
const ADD_P99: usize = 1;
const ADD_RATE: usize = 2;
const DEL_P50: usize = 3;

/// The median of Calico's own ADD in milliseconds, on Kubernetes and on etcd.
const CALICO: (f64, f64) = (150.0, 105.0);

/// What part of the reference's time all DELs may take until nothing is left.
const LEAVING: f64 = 1.0 / 20.0;

/// A figure and its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Aim {
    what: &'static str,
    found: f64,
    limit: f64,
    /// Whether the limit is the least and not the most.
    least: bool,
}

impl Aim {
    fn most(what: &'static str, found: f64, limit: f64) -> Self {
        Self { what, found, limit, least: false }
    }

    /// For the time until many pods have left.
    pub(super) fn leaving(ratio: f64) -> Self {
        Self::most("ratio", ratio, LEAVING)
    }

    /// Whether it is reached.
    pub(super) fn is_met(&self) -> bool {
        if self.least { self.found >= self.limit } else { self.found <= self.limit }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, found, limit, least } = self;
        let (bound, met) = (if *least { "at least" } else { "at most" }, if self.is_met() { "met" } else { "MISSED" });
        write!(f, "{what} {found:.3}, {bound} {limit:.3}: {met}")
    }
}

/// The aims at a setting, for our row of figures and its ratio to the reference's.
pub(super) fn aims(store: StoreKind, at_once: u32, ours: &[f64; 7], ratio: &[f64; 7]) -> Vec<Aim> {
    let alone = at_once == 1;
    let part = |what, column: usize, limit| Aim::most(what, ratio[column], limit);
    let calico = |median: f64| Aim::most("ADD p50 in ms", ours[ADD_P50], median / 15.0);
    match (store, alone) {
        (StoreKind::Sqlite, true) => vec![
            part("ADD p50 ratio", ADD_P50, 0.2),
            part("ADD p99 ratio", ADD_P99, 0.2),
            part("DEL p50 ratio", DEL_P50, 0.1),
        ],
        (StoreKind::Sqlite, false) => vec![part("ADD p99 ratio", ADD_P99, 0.2)],
        (StoreKind::Kubernetes, true) => vec![calico(CALICO.0)],
        // Twenty times Calico's ten.
        (StoreKind::Kubernetes, false) => {
            vec![Aim { what: "ADD/s", found: ours[ADD_RATE], limit: 200.0, least: true }]
        }
        (StoreKind::Etcd, true) => vec![calico(CALICO.1)],
        (StoreKind::Etcd, false) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_on_its_side_of_the_limit() {
        let ours = [9.9, 20.0, 199.0, 1.0, 1.0, 1.0, 1.0];
        let ratio = [0.19, 0.21, 2.0, 0.1, 0.5, 0.5, 0.5];
        let met =
            |store, at_once| -> Vec<bool> { aims(store, at_once, &ours, &ratio).iter().map(Aim::is_met).collect() };
        assert_eq!(met(StoreKind::Sqlite, 1), [true, false, true]);
        assert_eq!(met(StoreKind::Sqlite, 8), [false]);
        assert_eq!(met(StoreKind::Kubernetes, 1), [true]);
        assert_eq!(met(StoreKind::Kubernetes, 32), [false]);
        assert_eq!(met(StoreKind::Etcd, 1), [false]);
        let shown = aims(StoreKind::Kubernetes, 8, &ours, &ratio)[0].to_string();
        assert_eq!(shown, "ADD/s 199.000, at least 200.000: MISSED");
    }
}
