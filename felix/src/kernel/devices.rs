//! Which tunnel devices is the dataplane told of, and with which addresses? Those of the calculation, but for two things: what
//! the node's configuration forbids, and an address that is about to be announced.

use std::net::IpAddr;

use felix_calc::{Ipip, Tunnels, Vxlan};

use crate::tunnels::Tunnel;

/// Tunnels that the configuration does not allow, whatever the pools ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Forbidden {
    /// `IpInIpEnabled` is false.
    pub(crate) ipip: bool,
    /// `VXLANEnabled` is false.
    pub(crate) vxlan: bool,
}

/// What is wanted of tunnel devices.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    forbidden: Forbidden,
    /// What the calculation said, without what is forbidden.
    said: Tunnels,
    /// Addresses that devices have before the Node says so, in the order of [`Tunnel::ALL`].
    ahead: [Option<IpAddr>; 3],
}

impl Wanted {
    /// Nothing yet.
    pub(super) fn new(forbidden: Forbidden) -> Self {
        Self { forbidden, ..Self::default() }
    }

    /// Takes what the calculation says.
    pub(super) fn say(&mut self, tunnels: Tunnels) {
        let before = self.addresses();
        self.said = Tunnels {
            ipip: tunnels.ipip.filter(|_| !self.forbidden.ipip),
            vxlan: tunnels.vxlan.filter(|_| !self.forbidden.vxlan),
            vxlan_v6: tunnels.vxlan_v6.filter(|_| !self.forbidden.vxlan),
        };
        let (devices, now) = (self.devices(), self.addresses());
        for (((ahead, before), now), wanted) in self.ahead.iter_mut().zip(before).zip(now).zip(devices) {
            // Whatever the Node says now is newer than what was to be written there.
            if before != now || !wanted {
                *ahead = None;
            }
        }
    }

    /// Lets a device have an address that the Node does not say yet; false if the device is not wanted.
    pub(super) fn set_ahead(&mut self, tunnel: Tunnel, address: IpAddr) -> bool {
        let place = Tunnel::ALL.iter().position(|one| *one == tunnel).unwrap_or_default();
        let wanted = self.devices().get(place).copied().unwrap_or_default();
        if let Some(ahead) = self.ahead.get_mut(place).filter(|_| wanted) {
            *ahead = Some(address);
        }
        wanted
    }

    /// Which devices are wanted, in the order of [`Tunnel::ALL`].
    pub(super) fn devices(&self) -> [bool; 3] {
        let Tunnels { ipip, vxlan, vxlan_v6 } = &self.said;
        [ipip.is_some(), vxlan.is_some(), vxlan_v6.is_some()]
    }

    /// The addresses that the Node says, in the same order.
    pub(super) fn addresses(&self) -> [Option<IpAddr>; 3] {
        let Tunnels { ipip, vxlan, vxlan_v6 } = &self.said;
        let of = |vxlan: &Option<Vxlan>| vxlan.as_ref().and_then(|vxlan| vxlan.address);
        [ipip.as_ref().and_then(|ipip| ipip.address).map(IpAddr::V4), of(vxlan), of(vxlan_v6)]
    }

    /// What the dataplane is told.
    pub(super) fn told(&self) -> Tunnels {
        let [ipip, vxlan, vxlan_v6] = self.ahead;
        let early =
            |wanted: &Vxlan, ahead: Option<IpAddr>| Vxlan { address: ahead.or(wanted.address), ..wanted.clone() };
        let ipip = match ipip {
            Some(IpAddr::V4(ahead)) => self.said.ipip.clone().map(|wanted| Ipip { address: Some(ahead), ..wanted }),
            _ => self.said.ipip.clone(),
        };
        Tunnels {
            ipip,
            vxlan: self.said.vxlan.as_ref().map(|wanted| early(wanted, vxlan)),
            vxlan_v6: self.said.vxlan_v6.as_ref().map(|wanted| early(wanted, vxlan_v6)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const OLD: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 1);
    const NEW: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 2);

    fn both(ipip: Option<Ipv4Addr>, vxlan: Option<Ipv4Addr>) -> Tunnels {
        let local = Ipv4Addr::new(192, 0, 2, 1);
        Tunnels {
            ipip: Some(Ipip { address: ipip, local: Some(local) }),
            vxlan: Some(Vxlan { local: local.into(), mac: [2; 6], address: vxlan.map(IpAddr::V4) }),
            vxlan_v6: None,
        }
    }

    #[test]
    fn a_device_has_an_address_before_the_node_says_so_until_it_says_anything_new() {
        let mut wanted = Wanted::default();
        assert!(!wanted.set_ahead(Tunnel::Ipip, NEW.into()), "there is no device");
        wanted.say(both(None, Some(OLD)));
        assert!(wanted.set_ahead(Tunnel::Ipip, NEW.into()) && wanted.set_ahead(Tunnel::Vxlan, NEW.into()));
        assert!(!wanted.set_ahead(Tunnel::VxlanV6, NEW.into()));
        assert_eq!(wanted.told(), both(Some(NEW), Some(NEW)));
        assert_eq!(wanted.addresses(), [None, Some(OLD.into()), None], "that is still what the Node says");
        // Something else about the devices changes.
        wanted.say(both(None, Some(OLD)));
        assert_eq!(wanted.told(), both(Some(NEW), Some(NEW)));
        // It says one, and takes back the other.
        wanted.say(both(Some(NEW), None));
        assert_eq!(wanted.told(), both(Some(NEW), None));
        wanted.say(both(Some(OLD), None));
        assert_eq!(wanted.told(), both(Some(OLD), None), "what was ahead is forgotten");
        assert!(wanted.set_ahead(Tunnel::Ipip, NEW.into()));
        wanted.say(Tunnels::default());
        wanted.say(both(Some(OLD), None));
        assert_eq!(wanted.told(), both(Some(OLD), None), "it is another device");
    }

    #[test]
    fn what_is_forbidden_is_not_wanted_whatever_the_pools_ask_for() {
        let mut wanted = Wanted::new(Forbidden { ipip: true, vxlan: false });
        wanted.say(both(Some(OLD), Some(OLD)));
        assert_eq!(wanted.told(), Tunnels { ipip: None, ..both(None, Some(OLD)) });
        assert_eq!((wanted.devices(), wanted.addresses()[0]), ([false, true, false], None));
        assert!(!wanted.set_ahead(Tunnel::Ipip, NEW.into()));
    }
}
