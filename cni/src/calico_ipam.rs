//! The verbs of the plugin `calico-ipam`: addresses alone, for a main plugin that makes the interface.

use calico_agent::{Check, Request};
use ipnet::IpNet;
use serde_json::Value;

use crate::environment::Environment;
use crate::error::{Code, Error};
use crate::netconf::Netconf;
use crate::plugin::Plugin;
use crate::result::Outcome;
use crate::{check, conversation};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "calico-ipam",
    about: "CNI plugin: takes addresses for a pod from the agent on its node, for another plugin to use",
    add,
    del,
    check,
    gc: |netconf| conversation::collect(netconf, false),
    status: conversation::status,
};

/// Addresses with the masks of their blocks, and for each a route: main plugins make the node's route of it.
fn add(netconf: &Netconf, environment: &Environment) -> Result<Value, Error> {
    let ipam = netconf.ipam.as_ref().map_err(Clone::clone)?;
    if let Some(other) = &ipam.program {
        let details = format!("ipam.type is {other:?}; this is \"calico-ipam\"");
        return Err(Error::configuration("the network configuration is for another IPAM plugin", details));
    }
    if netconf.raw.get("type").is_some_and(|kind| kind == "ptp") {
        // It would fail with the words of the kernel: "failed to add IP addr … to veth: invalid argument".
        let details = "ptp needs a gateway in the result of IPAM, and calico-ipam gives none, as Calico's gives none: pods reach \
                       their node by a link-local address; use \"type\": \"calico\", or host-local as ipam.type";
        return Err(Error::configuration("calico-ipam cannot serve the plugin ptp", details));
    }
    let request = conversation::add(netconf, ipam, environment);
    let (_, assigned) = conversation::assign(netconf, environment, &request, Request::Assign, Request::Release)?;
    let network = |assigned: &calico_agent::AssignedAddress| {
        // An address that was asked for by name is told alone, not as one of its block.
        let fixed = request.addresses.contains(&assigned.address);
        let whole = IpNet::from(assigned.address);
        let length = if fixed { whole.prefix_len() } else { assigned.block_length };
        IpNet::new(assigned.address, length).unwrap_or(whole)
    };
    let addresses: Vec<IpNet> = assigned.addresses.iter().map(network).collect();
    if addresses.iter().any(|network| network.prefix_len() == 0) {
        return Err(Error::new(Code::Other, "the agent's answer makes no sense", "a block has no prefix length"));
    }
    // Departs from Calico, whose destinations have the address's own bits: the kernel refuses such a route, and with it
    // main plugins that make it.
    let routes = addresses.iter().map(IpNet::trunc).collect();
    Ok(Outcome { routes, addresses, ..Outcome::default() }.to_json(netconf.version))
}

fn del(netconf: &Netconf, environment: &Environment) -> Result<(), Error> {
    conversation::release(netconf, environment, Request::Release)
}

/// IPAM holds what the main plugin's result says; the interface is for that plugin to check.
fn check(netconf: &Netconf, environment: &Environment) -> Result<(), Error> {
    let addresses = check::previous(netconf)?.addresses.into_iter().map(|(network, _)| network.addr()).collect();
    let sandbox = environment.sandbox(&netconf.name);
    conversation::check(netconf, Check { sandbox, addresses, assigned: true, host_interface: None })
}
