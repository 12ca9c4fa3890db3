//! Workloads' interfaces: how are they connected and kept as they must be?

use std::net::IpAddr;

use calico_netlink::{Error, Link, LinkChange};
use felix_calc::{Interface, Key};
use ipnet::IpNet;
use tracing::debug;

use crate::interface::{LEAVING, ensure_link_local, set_parameters, switch_on};
use crate::{Applied, AttachError, Dataplane, Failure, Settings};

impl Dataplane {
    /// The workloads that are connected as of the last [`Self::apply`], by interface: it is there, up and set up, and the
    /// kernel refused nothing of what is wanted of it.
    pub fn connected(&self) -> impl Iterator<Item = (&str, &Interface)> {
        let up = self.links.values().filter(|link| link.up && self.configured.contains(&link.index));
        up.filter_map(|link| {
            let interface = self.wanted.get(&link.name)?;
            let refused = !self.failed.is_empty()
                && (self.failed.contains(&link.name)
                    || interface.addresses.iter().any(|address| self.failed.contains(&address.to_string())));
            (!refused).then_some((link.name.as_str(), interface))
        })
    }

    /// The interface of that name and number; number 0 is any.
    ///
    /// # Errors
    /// If it is not there, or another now has the name.
    pub fn find(&mut self, name: &str, index: u32) -> Result<Link, AttachError> {
        let found = self.socket.link(name);
        let found = found.map_err(|error| AttachError::Kernel { name: name.to_owned(), error })?;
        found
            .filter(|link| index == 0 || link.index == index)
            .ok_or_else(|| AttachError::NotThere { name: name.to_owned(), index })
    }

    /// Connects a workload whose interface was just made: parameters, MAC, up, routes. On return packets flow.
    ///
    /// What is wanted of the interface must have come by [`Self::change`] before.
    ///
    /// # Errors
    /// If the interface is not there or cannot be set up; then [`Self::apply`] goes on trying.
    pub fn attach(&mut self, endpoint: &Key, name: &str, index: u32) -> Result<(), AttachError> {
        let link = self.find(name, index)?;
        self.attach_found(endpoint, &link)
    }

    /// As [`Self::attach`], of an interface as [`Self::find`] has just found it.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_found(&mut self, endpoint: &Key, link: &Link) -> Result<(), AttachError> {
        let name = link.name.as_str();
        let kernel = |error| AttachError::Kernel { name: name.to_owned(), error };
        let wanted = match self.wanted.get(name) {
            Some(wanted) if wanted.endpoint.key == *endpoint => wanted,
            other => {
                let holder = other.map_or("nobody".to_owned(), |other| other.endpoint.key.to_string());
                return Err(AttachError::Taken { name: name.to_owned(), holder });
            }
        };
        let ipv6 = self.settings.ipv6 && needs_ipv6(wanted);
        let addresses = wanted.addresses.clone();
        set_parameters(name, ipv6, !link.up).map_err(kernel)?;
        switch_on(&mut self.socket, link).map_err(kernel)?;
        if ipv6 {
            ensure_link_local(&mut self.socket, link.index).map_err(kernel)?;
        }
        debug!(interface = name, index = link.index, "workload's interface is set up");
        // Our own changes of it, before they are taken for somebody's.
        self.notice().map_err(kernel)?;
        self.notice_workload(&Link { up: true, ..link.clone() });
        self.configured.insert(link.index);
        self.recheck.remove(&link.index);
        let applied = self.apply().map_err(kernel)?;
        let ours = |failure: &Failure| {
            failure.what == name || addresses.iter().any(|address| failure.what == address.to_string())
        };
        match applied.failures.into_iter().find(ours) {
            Some(failure) => Err(kernel(failure.error)),
            None => Ok(()),
        }
    }

    /// Switches a workload's interface off for good and puts it into the group of those that [`remove_leaving`] removes: with
    /// it go its routes, and nothing of the workload reaches the node any more. One that is not there is gone already.
    ///
    /// [`remove_leaving`]: crate::remove_leaving
    ///
    /// # Errors
    /// The kernel's.
    pub fn dismiss(&mut self, name: &str) -> Result<(), Error> {
        let Some(link) = self.socket.link(name)? else { return Ok(()) };
        let change = LinkChange { up: Some(false), group: Some(LEAVING), ..LinkChange::default() };
        match self.socket.change_link(link.index, &change) {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        self.notice_workload(&Link { up: false, ..link });
        Ok(())
    }

    /// How many workloads' interfaces are there.
    pub fn interface_count(&self) -> usize {
        self.links.len()
    }

    pub(crate) fn notice_workload(&mut self, link: &Link) {
        let before = self.links.insert(link.index, link.clone());
        if !link.up {
            self.configured.remove(&link.index);
        }
        let same = before.as_ref().is_some_and(|before| before.name == link.name && before.up == link.up);
        if !same {
            debug!(interface = link.name, index = link.index, up = link.up, "workload interface");
            self.changed = true;
            self.ownership.set_workload_links(self.links.keys().copied().collect());
        }
    }

    pub(crate) fn forget_workload(&mut self, index: u32) {
        self.configured.remove(&index);
        self.addresses.forget(index);
        if let Some(link) = self.links.remove(&index) {
            debug!(interface = link.name, index, "workload interface gone");
            self.changed = true;
            self.ownership.set_workload_links(self.links.keys().copied().collect());
        }
    }

    /// Sets the parameters of wanted interfaces that came up.
    pub(crate) fn configure(&mut self, applied: &mut Applied) {
        for (index, link) in &self.links {
            let Some(wanted) = self.wanted.get(&link.name) else { continue };
            if !link.up || (self.configured.contains(index) && !self.recheck.contains(index)) {
                continue;
            }
            let ipv6 = self.settings.ipv6 && needs_ipv6(wanted);
            let set = set_parameters(&link.name, ipv6, false).and_then(|()| match ipv6 {
                true => ensure_link_local(&mut self.socket, *index),
                false => Ok(()),
            });
            match set {
                Ok(()) => {
                    self.configured.insert(*index);
                    self.recheck.remove(index);
                }
                Err(error) if error.is_not_found() => {} // gone meanwhile: the notification is under way
                Err(error) => applied.failures.push(Failure { what: link.name.clone(), error }),
            }
        }
    }

    /// Gives interfaces that are set up the addresses that BGP peers behind them dial, and takes away those that nobody
    /// dials any more.
    pub(crate) fn address(&mut self, applied: &mut Applied) {
        if !self.peers_known {
            return;
        }
        let mut removed = Vec::new();
        for link in self.links.values().filter(|link| link.up && self.configured.contains(&link.index)) {
            let Some(interface) = self.wanted.get(&link.name) else { continue };
            let supported = |address: &&IpAddr| self.settings.ipv6 || address.is_ipv4();
            let desired = interface.node_addresses.iter().filter(supported).copied().map(IpNet::from).collect();
            match self.addresses.make(&mut self.socket, link, &desired) {
                Ok(networks) => removed.extend(networks.into_iter().map(|network| (link.index, network))),
                Err(error) if error.is_not_found() => {} // gone meanwhile: the notification is under way
                Err(error) => applied.failures.push(Failure { what: link.name.clone(), error }),
            }
        }
        for (index, network) in removed {
            self.suspect_routes(index, &network);
        }
    }
}

pub(crate) fn needs_ipv6(interface: &Interface) -> bool {
    interface.addresses.iter().any(|address| address.addr().is_ipv6())
}

/// Whether an interface of this name is a workload's.
pub(crate) fn is_workload(settings: &Settings, name: &str) -> bool {
    settings.prefixes.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix.as_str()))
}
