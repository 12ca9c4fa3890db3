//! The verbs of the plugin `calico`.

use std::panic::resume_unwind;
use std::thread;

use calico_agent::{Add, Assigned, Attached, Request};
use calico_netlink::Mac;
use ipnet::IpNet;
use serde_json::Value;

use crate::environment::{Environment, Verb};
use crate::error::{Code, Error};
use crate::netconf::{Ipam, Netconf};
use crate::plugin::Plugin;
use crate::pod::{self, Made, Namespace, Node, Wanted};
use crate::result::{Interface, Outcome, Received};
use crate::{check, conversation, delegate, gate};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "calico",
    about: "CNI plugin: gives a pod its interface and addresses, through the agent on its node",
    add,
    del,
    check,
    gc,
    status,
};

/// How often an ADD begins anew because others were given its addresses.
const TRIES: usize = 5;

/// Addresses from the agent, or from another IPAM plugin, the interface, the agent's work on the node's side; then the
/// result.
fn add(netconf: &Netconf, environment: &Environment) -> Result<Value, Error> {
    let ipam = netconf.ipam.as_ref().map_err(Clone::clone)?;
    gate::wait(netconf)?;
    let path = environment.namespace.as_deref().unwrap_or("".as_ref());
    let namespace = Namespace::require(path)?;
    let Some(program) = &ipam.program else { return connect(netconf, environment, ipam, &namespace, None) };
    let received = delegate::add(program, netconf)?;
    let added = apart(|| connect(netconf, environment, ipam, &namespace, Some(&received)));
    added.map_err(|error| error.and_then(delegate::del(program, netconf)))
}

/// Does work that enters a pod's namespace on a thread of its own: this one stays on the node, where other plugins run.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// All of ADD but what another IPAM plugin has `received`.
fn connect(
    netconf: &Netconf,
    environment: &Environment,
    ipam: &Ipam,
    namespace: &Namespace,
    received: Option<&Received>,
) -> Result<Value, Error> {
    let mut request = conversation::add(netconf, ipam, environment);
    if let Some(received) = received {
        request.given = received.addresses.iter().map(|(network, _)| network.addr()).collect();
        (request.ipv4, request.ipv6, request.addresses) = (false, false, Vec::new());
    }
    let mut node = None;
    for _ in 0..TRIES {
        if let Some((assigned, made, mtu)) = attempt(&mut node, netconf, environment, namespace, &request)? {
            gate::await_policy(netconf, environment);
            let dns = received.and_then(|received| received.dns.clone());
            return Ok(Outcome { dns, ..outcome(environment, &assigned, made, mtu) }.to_json(netconf.version));
        }
    }
    let details = format!("{TRIES} times in a row; try again, and look for a second agent of this node's name");
    Err(Error::new(Code::TryAgain, "others were given the addresses that were chosen", details))
}

/// Addresses, the interface, the agent's work; `None` if others were given the addresses meanwhile: then nothing is left.
fn attempt(
    node: &mut Option<Node>,
    netconf: &Netconf,
    environment: &Environment,
    namespace: &Namespace,
    request: &Add,
) -> Result<Option<(Assigned, Made, Option<u32>)>, Error> {
    let (mut client, assigned) = conversation::assign(netconf, environment, request, Request::Add, Request::Del)?;

    // From here on there is something to undo.
    let attached = make(node, netconf, environment, namespace, &assigned).and_then(|(made, mtu)| {
        let attached = Attached { mac: made.mac.to_string(), host_index: made.host_index };
        Ok((made, mtu, conversation::attached(&mut client, attached)?))
    });
    // Hang up: the agent need not wait for us any more.
    drop(client);
    match attached {
        Ok((made, mtu, true)) => Ok(Some((assigned, made, mtu))),
        Ok((.., false)) => {
            node.as_mut().map_or(Ok(()), |node| pod::remove(node, &assigned.host_interface))?;
            Ok(None)
        }
        Err(error) => Err(undo(error, node.as_mut(), netconf, environment, &assigned)),
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
    if mtu.is_none() && netconf.require_mtu {
        let details = "require_mtu_file is set, and felix has not found out the MTU of this node's pods; set mtu";
        return Err(Error::new(Code::TryAgain, "the MTU of the pod's interface is not known", details));
    }
    let mac = match assigned.mac.as_deref().map(str::parse::<Mac>) {
        None => None,
        Some(Ok(mac)) => Some(mac),
        Some(Err(error)) => {
            let details = format!("it wants the Ethernet address {:?}: {error}", assigned.mac);
            return Err(Error::new(Code::Other, "the agent's answer makes no sense", details));
        }
    };
    let routes = netconf.ipam.as_ref().map(|ipam| ipam.routes.clone()).unwrap_or_default();
    let wanted = Wanted {
        host_name: name,
        name: &environment.interface,
        mtu,
        queues: netconf.queues,
        addresses: assigned.addresses.iter().map(|assigned| assigned.address).collect(),
        forwarding: netconf.forwarding,
        mac,
        routes,
    };
    // The thread may be in the pod's namespace already, from an attempt before this one.
    let node = match node {
        Some(node) => node,
        None => node.insert(Node::open()?),
    };
    Ok((pod::attach(node, namespace, &wanted)?, mtu))
}

/// Removes what was made and gives the addresses back; what fails of it is told too.
fn undo(
    error: Error,
    node: Option<&mut Node>,
    netconf: &Netconf,
    environment: &Environment,
    assigned: &Assigned,
) -> Error {
    let removed = node.map_or(Ok(()), |node| pod::remove(node, &assigned.host_interface));
    // Addresses are given back only when nobody can use them any more.
    error.and_then(removed.and_then(|()| conversation::release(netconf, environment, Request::Del)))
}

fn outcome(environment: &Environment, assigned: &Assigned, made: Made, mtu: Option<u32>) -> Outcome {
    let sandbox = environment.namespace.as_ref().map(|path| path.to_string_lossy().into_owned());
    let host = Interface { name: assigned.host_interface.clone(), ..Interface::default() };
    let inside = Interface { name: environment.interface.clone(), mac: Some(made.mac), mtu, sandbox };
    let addresses = assigned.addresses.iter().map(|assigned| IpNet::from(assigned.address)).collect();
    Outcome { interfaces: vec![host, inside], addresses, ..Outcome::default() }
}

/// The agent removes the interface it knows. Otherwise we do it first, so that its addresses are in nobody's hands when they
/// are released; those of another IPAM plugin last, when the agent has forgotten them.
fn del(netconf: &Netconf, environment: &Environment) -> Result<(), Error> {
    let program = other_ipam(netconf);
    let namespace = match environment.namespace.as_deref() {
        Some(path) => Namespace::open(path)?,
        None => None,
    };
    // Another IPAM plugin would give the addresses to others at once: nothing may be left for later.
    if program.is_none() && conversation::part(netconf, environment)? {
        return Ok(());
    }
    if let Some(namespace) = namespace {
        let detach = || pod::detach(&namespace, &environment.interface);
        if program.is_some() { apart(detach) } else { detach() }?;
    }
    conversation::release(netconf, environment, Request::Del)?;
    program.map_or(Ok(()), |program| delegate::del(program, netconf))
}

/// What another IPAM plugin holds is for it to check.
fn check(netconf: &Netconf, environment: &Environment) -> Result<(), Error> {
    let program = other_ipam(netconf);
    if let Some(program) = program {
        check::previous(netconf)?;
        delegate::check(program, netconf)?;
    }
    check::interface(netconf, environment, program.is_none())
}

fn gc(netconf: &Netconf) -> Result<(), Error> {
    conversation::collect(netconf, true)?;
    other_ipam(netconf).map_or(Ok(()), |program| delegate::tell(program, Verb::Gc, netconf))
}

fn status(netconf: &Netconf) -> Result<(), Error> {
    conversation::status(netconf)?;
    other_ipam(netconf).map_or(Ok(()), |program| delegate::tell(program, Verb::Status, netconf))
}

fn other_ipam(netconf: &Netconf) -> Option<&str> {
    netconf.ipam.as_ref().ok()?.program.as_deref()
}
