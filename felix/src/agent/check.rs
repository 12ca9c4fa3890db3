//! CHECK: is what is stored of a sandbox still what ADD stored?
//!
//! The kernel's part of the question the plugin answers itself; here it is the endpoint and the addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_agent::{Check, Failure};
use calico_api::{IPAMBlockSpec, IPAMHandleSpec, Key, WorkloadEndpointSpec};
use calico_datastore::Error;
use ipnet::IpNet;

use super::conversation::identity;
use super::{Agent, code};

impl Agent {
    /// Compares what is stored of a sandbox with what ADD answered.
    ///
    /// # Errors
    /// Code 999 naming the difference, 11 if the store does not say.
    pub(crate) async fn check(&self, check: &Check) -> Result<(), Failure> {
        let identity = identity(self, &check.sandbox)?;
        self.ready().await?;
        // What is half done for the same pod is not looked at.
        let _turn = self.turns.wait(&identity.key).await;
        let later = |reason: super::work::StepError| Failure {
            code: code::LATER,
            message: "the sandbox could not be compared with the datastore".to_owned(),
            details: format!("{reason}; check the datastore, then try again"),
        };
        if check.assigned {
            let held = self.bounded(self.held(&identity.handle)).await.map_err(later)?;
            let lost = check.addresses.iter().find(|address| !held.contains(address));
            if let Some(lost) = lost {
                let details = format!("IPAM does not hold {lost} for {} any more", identity.handle);
                return Err(different(details));
            }
            if held.is_empty() {
                return Err(different(format!("IPAM holds no address for {}", identity.handle)));
            }
        }
        let Some(interface) = &check.host_interface else { return Ok(()) };
        let stored = async {
            match self.store.get::<WorkloadEndpointSpec>(&identity.key).await {
                Ok(stored) => Ok(Some(stored.spec)),
                Err(Error::NotFound(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(stored) = self.bounded(stored).await.map_err(later)? else {
            return Err(different(format!("its endpoint {} is not stored", identity.key)));
        };
        if stored.container_id != check.sandbox.container_id {
            let owner = if stored.container_id.is_empty() { "none" } else { &stored.container_id };
            return Err(different(format!("its endpoint {} belongs to another container: {owner}", identity.key)));
        }
        if stored.interface_name != *interface {
            let name = &stored.interface_name;
            return Err(different(format!("its endpoint {} has the interface {name}, not {interface}", identity.key)));
        }
        let networks: Vec<IpNet> = stored.ip_networks.iter().filter_map(|text| text.parse().ok()).collect();
        match check.addresses.iter().find(|address| !networks.contains(&IpNet::from(**address))) {
            Some(lost) => Err(different(format!("its endpoint {} lacks the address {lost}", identity.key))),
            None => Ok(()),
        }
    }

    /// The addresses that a handle holds.
    async fn held(&self, handle: &str) -> Result<BTreeSet<IpAddr>, Error> {
        let stored = match self.store.get::<IPAMHandleSpec>(&Key::Handle(handle.to_owned())).await {
            Ok(stored) => stored,
            Err(Error::NotFound(_)) => return Ok(BTreeSet::new()),
            Err(error) => return Err(error),
        };
        let mut held = BTreeSet::new();
        for cidr in stored.spec.block.keys().filter_map(|text| text.parse().ok()) {
            match self.store.get::<IPAMBlockSpec>(&Key::Block(cidr)).await {
                Ok(block) => held.extend(ipam::block::addresses_of(&block.spec, handle)),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(held)
    }
}

fn different(details: String) -> Failure {
    Failure {
        code: code::OTHER,
        message: "the sandbox is not as it was made".to_owned(),
        details: format!("{details}; have the runtime make the sandbox anew"),
    }
}
