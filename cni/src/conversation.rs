//! How does a plugin talk with the agent, and what if there is none?

use std::time::Duration;

use calico_agent::client::{Client, ClientError};
use calico_agent::{Add, Assigned, Attached, Check, Del, Gc, Reply, Request, spool};

use crate::environment::Environment;
use crate::error::{Code, Error};
use crate::log::{Level, Log};
use crate::netconf::{Ipam, Netconf};

/// How long an agent may take to notice that we are there.
const CONNECT: Duration = Duration::from_millis(900);
/// How long an answer to ADD may take: the datastore may have to be asked many times.
const ADD: Duration = Duration::from_secs(60);
/// How long an answer to GC may take: all blocks are read, and many sandboxes may be left over.
const COLLECT: Duration = Duration::from_secs(60);
/// How long an answer to anything else may take.
const OTHER: Duration = Duration::from_secs(10);

/// Connects to the agent.
///
/// # Errors
/// [`ClientError::NotThere`], within a second.
pub fn connect(netconf: &Netconf, patience: Duration) -> Result<Client, ClientError> {
    let socket = &netconf.agent_socket;
    let stream = calico_sys::socket::connect_unix(socket, CONNECT)
        .map_err(|source| ClientError::NotThere { socket: socket.clone(), source })?;
    Client::over(stream, socket, patience)
}

/// What an ADD asks for.
pub fn add(netconf: &Netconf, ipam: &Ipam, environment: &Environment) -> Add {
    let address = environment.address;
    Add {
        sandbox: environment.sandbox(&netconf.name),
        node: netconf.node.clone(),
        // A fixed address is asked for instead of any.
        ipv4: address.map_or(ipam.ipv4, |address| address.is_ipv4()),
        ipv6: address.map_or(ipam.ipv6, |address| address.is_ipv6()),
        ipv4_pools: ipam.ipv4_pools.clone(),
        ipv6_pools: ipam.ipv6_pools.clone(),
        addresses: address.into_iter().collect(),
        given: Vec::new(),
        allow_without_ipam: netconf.allow_without_ipam,
        pod_uid: environment.pod_uid.clone(),
    }
}

/// Connects, asks for addresses and sees that the answer holds what was asked for. `request` makes the request, `undo`
/// that which undoes it: an agent that was killed, or is slow, may have taken addresses before it could say so.
///
/// # Errors
/// The agent's, and code 999 for an answer that is none. Nothing is left behind then, or it is remembered.
pub fn assign(
    netconf: &Netconf,
    environment: &Environment,
    wanted: &Add,
    request: fn(Add) -> Request,
    undo: fn(Del) -> Request,
) -> Result<(Client, Assigned), Error> {
    let mut client = connect(netconf, ADD)?;
    let answer = match client.call(&request(wanted.clone())) {
        // It has undone everything itself.
        Ok(Reply::Error(failure)) => return Err(failure.into()),
        answer => answer.map_err(Error::from).and_then(addresses),
    };
    match answer {
        Ok(assigned) => Ok((client, assigned)),
        Err(error) => {
            // Hang up: the agent does not begin with the release before it has let go of this.
            drop(client);
            Err(error.and_then(release(netconf, environment, undo)))
        }
    }
}

/// Of which families the addresses must be the pod's annotations may say: the agent knows them.
fn addresses(reply: Reply) -> Result<Assigned, Error> {
    match reply {
        Reply::Assigned(assigned) if assigned.addresses.is_empty() => Err(surprise("it gave no address")),
        Reply::Assigned(assigned) => Ok(assigned),
        Reply::Error(failure) => Err(failure.into()),
        Reply::Done | Reply::Again | Reply::Detach | Reply::PodNetworks(_) | Reply::NodeStatus(_) => {
            Err(surprise("it said something else than an address"))
        }
    }
}

/// Tells of the interface that was made; false if others have the addresses by now, and all has to be done anew.
///
/// # Errors
/// The agent's.
pub fn attached(client: &mut Client, attached: Attached) -> Result<bool, Error> {
    match client.call(&Request::Attached(attached))? {
        Reply::Done => Ok(true),
        Reply::Again => Ok(false),
        Reply::Error(failure) => Err(failure.into()),
        Reply::Assigned(_) | Reply::Detach | Reply::PodNetworks(_) | Reply::NodeStatus(_) => {
            Err(surprise("it said something else than that it is done"))
        }
    }
}

/// Asks for something that is answered with "done".
///
/// # Errors
/// The agent's.
pub fn confirm(client: &mut Client, request: &Request) -> Result<(), Error> {
    match client.call(request)? {
        Reply::Done => Ok(()),
        Reply::Error(failure) => Err(failure.into()),
        Reply::Assigned(_) | Reply::Again | Reply::Detach | Reply::PodNetworks(_) | Reply::NodeStatus(_) => {
            Err(surprise("it said something else than that it is done"))
        }
    }
}

/// Asks the agent to remove a sandbox's interface and to give back its addresses; false if we have to remove the interface,
/// because the agent does not know it or is not there, and then to [`release`] the addresses.
///
/// # Errors
/// What the agent refuses with.
pub fn part(netconf: &Netconf, environment: &Environment) -> Result<bool, Error> {
    let del = Del { sandbox: environment.sandbox(&netconf.name), gone: false };
    match connect(netconf, OTHER).and_then(|mut client| client.call(&Request::Del(del))) {
        Ok(Reply::Done) => Ok(true),
        Ok(Reply::Detach) | Err(_) => Ok(false),
        Ok(Reply::Error(failure)) => Err(failure.into()),
        Ok(Reply::Assigned(_) | Reply::Again | Reply::PodNetworks(_) | Reply::NodeStatus(_)) => {
            Err(surprise("it said something else than that it is done"))
        }
    }
}

/// Releases a sandbox's addresses, whose interface is gone, or remembers on disk that they are to be released. `request` makes the request of
/// what is to be released.
///
/// # Errors
/// What the agent refuses with; and what the disk refuses with when there is no agent.
pub fn release(netconf: &Netconf, environment: &Environment, request: fn(Del) -> Request) -> Result<(), Error> {
    let del = Del { sandbox: environment.sandbox(&netconf.name), gone: true };
    let asked = connect(netconf, OTHER).and_then(|mut client| client.call(&request(del.clone())));
    let error = match asked {
        Ok(Reply::Done) => return Ok(()),
        Ok(Reply::Error(failure)) => return Err(failure.into()),
        Ok(Reply::Assigned(_) | Reply::Again | Reply::Detach | Reply::PodNetworks(_) | Reply::NodeStatus(_)) => {
            return Err(surprise("it said something else than that it is done"));
        }
        Err(error) => error,
    };
    spool::remember(&netconf.agent_spool, &del).map_err(|disk| {
        let message = "could not release the pod's addresses, nor remember to do so";
        Error::new(Code::TryAgain, message, format!("{error}; {disk}"))
    })
}

/// Whether what is stored of a sandbox is as ADD made it.
///
/// # Errors
/// The agent's, naming the difference.
pub fn check(netconf: &Netconf, check: Check) -> Result<(), Error> {
    let mut client = connect(netconf, OTHER)?;
    confirm(&mut client, &Request::Check(check))
}

/// Has everything of the network given back that belongs to none of the attachments that the runtime lists. `endpoints`
/// says whether we make interfaces, too.
///
/// A runtime that gives no list (`cnitool gc`) has sent a DEL for each attachment that it knew; what others have attached to
/// the network is not for it to remove, so nothing more is done.
///
/// # Errors
/// Code 7 for a list that is none, otherwise the agent's.
pub fn collect(netconf: &Netconf, endpoints: bool) -> Result<(), Error> {
    let Some(valid) = netconf.attachments.clone()? else {
        Log::of(&netconf.raw).write(Level::Warning, "GC without cni.dev/valid-attachments collects nothing");
        return Ok(());
    };
    let mut client = connect(netconf, COLLECT)?;
    confirm(&mut client, &Request::Gc(Gc { network: netconf.name.clone(), valid, endpoints }))
}

/// The networks that the orchestrator gave this node for its pods.
///
/// # Errors
/// The agent's.
pub fn pod_networks(netconf: &Netconf) -> Result<Vec<String>, Error> {
    match connect(netconf, OTHER)?.call(&Request::PodNetworks)? {
        Reply::PodNetworks(answer) => Ok(answer.networks),
        Reply::Error(failure) => Err(failure.into()),
        Reply::Assigned(_) | Reply::Again | Reply::Detach | Reply::Done | Reply::NodeStatus(_) => {
            Err(surprise("it does not tell the node's pod networks"))
        }
    }
}

/// Whether the agent serves.
///
/// # Errors
/// Code 50, or 51 if the agent has not seen to the pods that are there.
pub fn status(netconf: &Netconf) -> Result<(), Error> {
    serves(netconf, OTHER).map_err(|error| match error.code {
        Code::Limited => error,
        _ => Error { code: Code::NotAvailable, ..error },
    })
}

/// Asks the agent whether it serves; its answer may take `patience`.
///
/// # Errors
/// The agent's.
pub fn serves(netconf: &Netconf, patience: Duration) -> Result<(), Error> {
    confirm(&mut connect(netconf, patience)?, &Request::Status)
}

fn surprise(what: &str) -> Error {
    let details = format!("{what}; plugin and agent must be of one release");
    Error::new(Code::Other, "the agent's answer makes no sense", details)
}
