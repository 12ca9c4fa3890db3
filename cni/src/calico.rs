//! The verbs of the plugin `calico`.

use std::net::IpAddr;

use calico_agent::{Assigned, Attached, Request};
use calico_netlink::Socket;
use ipnet::IpNet;
use serde_json::Value;

use crate::conversation;
use crate::environment::Environment;
use crate::error::{Code, Error};
use crate::netconf::Netconf;
use crate::plugin::Plugin;
use crate::pod::{self, Made, Namespace, Node, Wanted};
use crate::result::{Interface, Outcome};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "calico",
    about: "CNI plugin: gives a pod its interface and addresses, through the agent on its node",
    add,
    del,
    check,
};

/// Addresses from the agent, the interface, the agent's work on the node's side; then the result.
fn add(netconf: &Netconf, environment: &Environment) -> Result<Value, Error> {
    let ipam = netconf.ipam.as_ref().map_err(Clone::clone)?;
    let path = environment.namespace.as_deref().unwrap_or("".as_ref());
    let namespace = Namespace::require(path)?;
    let request = conversation::add(netconf, ipam, environment);
    let (mut client, assigned) = conversation::assign(netconf, environment, &request, Request::Add, Request::Del)?;

    // From here on there is something to undo.
    let mut node = None;
    let attached = make(&mut node, netconf, environment, &namespace, &assigned).and_then(|(made, mtu)| {
        let attached = Attached { mac: made.mac.to_string(), host_index: made.host_index };
        conversation::confirm(&mut client, &Request::Attached(attached))?;
        Ok((made, mtu))
    });
    // Hang up: the agent need not wait for us any more.
    drop(client);
    match attached {
        Ok((made, mtu)) => {
            let sandbox = path.to_string_lossy().into_owned();
            Ok(outcome(environment, &assigned, made, mtu, sandbox).to_json(netconf.version))
        }
        Err(error) => Err(undo(error, node, netconf, environment, &assigned)),
    }
}

fn make(
    node: &mut Option<Node>,
    netconf: &Netconf,
    environment: &Environment,
    namespace: &Namespace,
    assigned: &Assigned,
) -> Result<(Made, Option<u32>), Error> {
    let name = assigned.host_interface.as_str();
    if name.is_empty() || name.len() > 15 {
        let details = format!("it names the node's side {name:?}; plugin and agent must be of one release");
        return Err(Error::new(Code::Other, "the agent's answer makes no sense", details));
    }
    let mtu = netconf.mtu.or(Some(assigned.mtu).filter(|mtu| *mtu != 0));
    let wanted = Wanted {
        host_name: name,
        name: &environment.interface,
        mtu,
        queues: netconf.queues,
        addresses: assigned.addresses.iter().map(|assigned| assigned.address).collect(),
        forwarding: netconf.forwarding,
    };
    let node = node.insert(Node::open()?);
    Ok((pod::attach(node, namespace, &wanted)?, mtu))
}

/// Removes what was made and gives the addresses back; what fails of it is told too.
fn undo(error: Error, node: Option<Node>, netconf: &Netconf, environment: &Environment, assigned: &Assigned) -> Error {
    let removed = node.map_or(Ok(()), |mut node| pod::remove(&mut node, &assigned.host_interface));
    // Addresses are given back only when nobody can use them any more.
    error.and_then(removed.and_then(|()| conversation::release(netconf, environment, Request::Del)))
}

fn outcome(environment: &Environment, assigned: &Assigned, made: Made, mtu: Option<u32>, sandbox: String) -> Outcome {
    let host = Interface { name: assigned.host_interface.clone(), ..Interface::default() };
    let inside = Interface { name: environment.interface.clone(), mac: Some(made.mac), mtu, sandbox: Some(sandbox) };
    let addresses = assigned.addresses.iter().map(|assigned| IpNet::from(assigned.address)).collect();
    Outcome { interfaces: vec![host, inside], addresses, routes: Vec::new() }
}

/// The interface goes first, so that its addresses are in nobody's hands when they are released.
fn del(netconf: &Netconf, environment: &Environment) -> Result<(), Error> {
    if let Some(path) = environment.namespace.as_deref()
        && let Some(namespace) = Namespace::open(path)?
    {
        pod::detach(&namespace, &environment.interface)?;
    }
    conversation::release(netconf, environment, Request::Del)
}

/// The interface and the addresses of `prevResult` are there, on both sides.
fn check(netconf: &Netconf, environment: &Environment) -> Result<(), Error> {
    let previous = netconf.previous.as_ref().ok_or_else(|| {
        Error::configuration("CHECK needs the result of ADD", "prevResult is missing in the network configuration")
    })?;
    let list = |name: &str| previous.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_inside = |interface: &&Value| !text(interface, "sandbox").is_empty();
    let interfaces = list("interfaces");
    let mac = interfaces
        .iter()
        .find(|interface| is_inside(interface) && text(interface, "name") == environment.interface)
        .and_then(|interface| text(interface, "mac").parse().ok());
    let host = interfaces.iter().find(|interface| !is_inside(interface)).map(|interface| text(interface, "name"));
    // Only our own addresses: a chained plugin may have added others to other interfaces.
    let ours = |ip: &&Value| match ip.get("interface").and_then(Value::as_u64) {
        Some(index) => {
            let interface = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
            interface.is_some_and(|interface| text(interface, "name") == environment.interface)
        }
        None => true,
    };
    let address = |ip: &Value| -> Result<IpAddr, Error> {
        let written = text(ip, "address");
        let wrong = || Error::configuration("prevResult holds no result of ADD", format!("{written:?} is no address"));
        written.parse::<IpNet>().map(|network| network.addr()).map_err(|_| wrong())
    };
    let addresses: Vec<IpAddr> = list("ips").iter().filter(ours).map(address).collect::<Result<_, _>>()?;

    let namespace = Namespace::require(environment.namespace.as_deref().unwrap_or("".as_ref()))?;
    if let Some(host) = host {
        let found = Socket::open().and_then(|mut node| node.link(&host));
        let found =
            found.map_err(|error| Error::new(Code::Other, "could not talk to the kernel", error.to_string()))?;
        if found.is_none() {
            let details = format!("{host}, the node's side of it, is not there");
            return Err(Error::new(Code::Other, "the pod's interface is not as it was made", details));
        }
    }
    pod::check(&namespace, &environment.interface, mac, &addresses)
}
