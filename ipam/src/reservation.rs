//! Which addresses are never handed out unasked.

use ipnet::IpNet;

use crate::network::overlap;

/// The ranges of all IPReservations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    nets: Vec<IpNet>,
}

impl Reservations {
    /// The ranges that meet `net`.
    pub fn meeting(&self, net: &IpNet) -> Vec<IpNet> {
        self.nets.iter().copied().filter(|reserved| overlap(reserved, net)).collect()
    }

    /// A range that has all of `net`, if there is one.
    pub fn covering(&self, net: &IpNet) -> Option<IpNet> {
        self.nets.iter().copied().find(|reserved| reserved.contains(net))
    }
}

impl FromIterator<IpNet> for Reservations {
    /// Ranges inside others are dropped, so that what is left has no address twice.
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().map(|net| net.trunc()).collect();
        nets.sort_by_key(|net| (net.prefix_len(), *net));
        let mut kept: Vec<IpNet> = Vec::new();
        for net in nets {
            if !kept.iter().any(|wider| wider.contains(&net)) {
                kept.push(net);
            }
        }
        kept.sort();
        Self { nets: kept }
    }
}
