//! How a conversation with a plugin goes, from its first line to its last.

use std::net::IpAddr;
use std::time::Duration;

use calico_agent::{Add, Assigned, AssignedAddress, Attached, Del, Failure, PodNetworks, Reply, Request, Sandbox};
use calico_api::{Key, Kind, NodeSpec, WorkloadEndpoint};
use calico_datastore::Write;
use ipam::AssignError;
use ipnet::IpNet;
use tokio::net::UnixStream;
use tracing::{Instrument, debug, info, info_span, warn};

use super::annotations::Wishes;
use super::endpoint::Identity;
use super::wire::{Silence, Wire};
use super::work::Parting;
use super::{Agent, code};
use crate::allocator::{Accompany, Assigning, IpamError};

/// How long a plugin may take to say what it wants.
const FIRST: Duration = Duration::from_secs(10);

/// How long a plugin may take to make an interface.
const SECOND: Duration = Duration::from_secs(60);

/// How a conversation ended that did not fail.
enum End {
    /// What was asked for is done, which is still to be said.
    Done,
    /// The plugin has its last answer.
    Answered,
    /// The plugin hung up; nothing of what was done for it is left.
    HungUp,
}

/// Holds one conversation.
pub(crate) async fn hold(agent: &Agent, stream: UnixStream) {
    let mut wire = Wire::new(stream);
    let request = match wire.request(FIRST).await {
        Ok(request) => request,
        Err(Silence::HungUp | Silence::TimedOut) => return debug!("a connection said nothing"),
        Err(Silence::Nonsense(failure)) => {
            warn!(details = failure.details, "a request was not understood");
            wire.answer(&Reply::Error(failure)).await;
            return;
        }
    };
    let (command, container) = match &request {
        Request::Add(add) => ("ADD", add.sandbox.container_id.as_str()),
        Request::Assign(add) => ("ASSIGN", add.sandbox.container_id.as_str()),
        Request::Del(del) => ("DEL", del.sandbox.container_id.as_str()),
        Request::Release(del) => ("RELEASE", del.sandbox.container_id.as_str()),
        Request::Check(check) => ("CHECK", check.sandbox.container_id.as_str()),
        Request::Gc(_) => ("GC", ""),
        Request::Attached(_) => ("ATTACHED", ""),
        Request::Status => ("STATUS", ""),
        Request::PodNetworks => ("POD-NETWORKS", ""),
        Request::NodeStatus => ("NODE-STATUS", ""),
    };
    let span = info_span!("cni", container, command);
    async {
        let result = match request {
            Request::Add(add) => add_interface(agent, &mut wire, &add).await,
            Request::Assign(add) => assign(agent, &mut wire, &add).await,
            Request::Del(del) => delete(agent, &mut wire, &del).await,
            Request::Release(del) => release(agent, &del).await.map(|()| End::Done),
            Request::Attached(_) => Err(Failure {
                code: code::INVALID,
                message: "Attached was said before Add".to_owned(),
                details: "plugin and agent must be of one release".to_owned(),
            }),
            Request::Check(check) => agent.check(&check).await.map(|()| End::Done),
            Request::Gc(gc) => agent.collect(&gc).await.map(|()| End::Done),
            Request::Status => agent.status().map(|()| End::Done),
            Request::PodNetworks => pod_networks(agent, &mut wire).await,
            Request::NodeStatus => {
                wire.answer(&Reply::NodeStatus(agent.node_status())).await;
                Ok(End::Answered)
            }
        };
        let outcome = match &result {
            Ok(End::Done | End::Answered) => "done",
            Ok(End::HungUp) => "hung up",
            Err(_) => "failed",
        };
        agent.metrics.requests.with_label_values(&[command, outcome]).inc();
        let reply = match result {
            Ok(End::Done) => Reply::Done,
            Ok(End::Answered | End::HungUp) => return,
            Err(failure) => {
                warn!(code = failure.code, message = failure.message, details = failure.details, "request failed");
                Reply::Error(failure)
            }
        };
        if !wire.answer(&reply).await {
            debug!("the plugin did not wait for the answer");
        }
    }
    .instrument(span)
    .await;
}

/// ADD: addresses; then, while the plugin makes the interface, they are written down with the endpoint; then the node's side.
/// What is done is undone if any of it fails or the plugin hangs up, even if it does so before it hears that all is done.
async fn add_interface(agent: &Agent, wire: &mut Wire, add: &Add) -> Result<End, Failure> {
    let identity = identity(agent, &add.sandbox)?;
    check_node(agent, add)?;
    let state = agent.ready().await?;
    let _turn = agent.turns.wait(&identity.key).await;
    agent.settle(&identity, &add.sandbox).await?;
    let wishes = agent.wishes(&identity, add).await?;
    let wanted = wishes.apply(add)?;
    let (mut assigned, assigning) = if wanted.given.is_empty() {
        let (addresses, assigning) = addresses(agent, &identity, &wanted, Some(&wishes)).await?;
        (addresses, Some(assigning))
    } else {
        (given(agent, &wanted)?, None)
    };
    assigned.mac = wishes.mac.map(|mac| mac.to_string());
    assigned.host_interface.clone_from(&identity.interface);
    assigned.mtu = state.pod_mtu;
    let addresses: Vec<_> = assigned.addresses.iter().map(|assigned| assigned.address).collect();
    let endpoint = wishes.onto(identity.endpoint(&add.sandbox, &agent.node, &addresses));
    for doubt in &wishes.doubts {
        warn!(doubt, "a limit of the pod's traffic cannot be taken as it is written");
    }
    let heard = wire.answer(&Reply::Assigned(assigned)).await;
    // All to their ends, so that what must be undone is known: a write that is broken off may still be made.
    let (stored, attached) = tokio::join!(store(agent, &wanted, assigning, &endpoint), async {
        if !heard {
            info!("the plugin hung up before it was given its addresses");
            return Ok(None);
        }
        attached(wire).await
    });
    let attached = match (&stored, attached) {
        (Ok(()), Ok(Some(attached))) => agent.attach(&endpoint, attached).await.map(Some),
        (_, attached) => attached.map(|attached| attached.map(drop)),
    };
    if let (Ok(()), Ok(Some(()))) = (&stored, &attached) {
        if wire.answer(&Reply::Done).await {
            info!(?addresses, interface = identity.interface, "workload connected");
            return Ok(End::Answered);
        }
        info!("the plugin hung up before it was told that its workload is connected");
    }
    info!(?addresses, "the workload is not connected, its addresses are released");
    let silent = match &stored {
        Err(Unstored::Failed(failure)) => Some(failure.details.as_str()),
        Err(Unstored::Lost) | Ok(()) => None,
    };
    agent.forget(&identity, &add.sandbox, silent).await?;
    match (stored, attached) {
        (_, Ok(None)) | (Ok(()), Ok(Some(()))) => Ok(End::HungUp),
        (Err(Unstored::Lost), Ok(Some(()))) => {
            info!(?addresses, "others have the addresses, the plugin asks again");
            wire.answer(&Reply::Again).await;
            Ok(End::Answered)
        }
        (Err(Unstored::Failed(failure)), _) | (_, Err(failure)) => Err(failure),
    }
}

/// Why what an ADD needs is not stored.
enum Unstored {
    /// Others were given the addresses.
    Lost,
    /// The store refused or did not answer.
    Failed(Failure),
}

impl From<Failure> for Unstored {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Asks for addresses and waits until it is known which they will be. With `wishes` there will be an endpoint, which is written
/// together with them where the store can. If those that are just leaving may have the last ones,
/// they are waited for.
async fn addresses(
    agent: &Agent,
    identity: &Identity,
    add: &Add,
    wishes: Option<&Wishes>,
) -> Result<(Assigned, Assigning), Failure> {
    let mut flushed = false;
    loop {
        let accompany = |wishes: &Wishes| -> Accompany {
            let (identity, sandbox, node) = (identity.clone(), add.sandbox.clone(), agent.node.clone());
            let wishes = wishes.clone();
            Box::new(move |assigned| {
                let addresses: Vec<_> = assigned.iter().map(|assigned| assigned.address).collect();
                let endpoint = wishes.onto(identity.endpoint(&sandbox, &node, &addresses));
                Write::create(&endpoint).into_iter().collect()
            })
        };
        let also = wishes.filter(|_| agent.store.backend().is_atomic()).map(accompany);
        let mut assigning = agent.ask_addresses(identity, add, also).await?;
        match assigning.told().await {
            Ok(assigned) => {
                let whole = |one: ipam::Assigned| AssignedAddress {
                    address: one.address,
                    block_length: one.block.prefix_len(),
                };
                let addresses = assigned.into_iter().map(whole).collect();
                return Ok((Assigned { addresses, ..Assigned::default() }, assigning));
            }
            Err(IpamError::Assign(AssignError::Exhausted { .. })) if !flushed => {
                agent.flush().await;
                flushed = true;
            }
            Err(error) => return Err(agent.not_assigned(add, error).await),
        }
    }
}

/// Sees that addresses and endpoint are stored.
async fn store(
    agent: &Agent,
    add: &Add,
    assigning: Option<Assigning>,
    endpoint: &WorkloadEndpoint,
) -> Result<(), Unstored> {
    let Some(mut assigning) = assigning else { return Ok(agent.store_endpoint(endpoint).await?) };
    let settled = async {
        match assigning.settled().await {
            Ok(settled) => Ok(settled.accompanied),
            Err(IpamError::Assign(AssignError::Contended { .. })) => Err(Unstored::Lost),
            Err(error) => Err(Unstored::Failed(agent.not_assigned(add, error).await)),
        }
    };
    if agent.store.backend().is_atomic() {
        return if settled.await? { Ok(()) } else { Ok(agent.store_endpoint(endpoint).await?) };
    }
    // The endpoint says only which addresses the pod will have; it has them when both are written.
    let (settled, stored) = tokio::join!(settled, agent.store_endpoint(endpoint));
    settled?;
    Ok(stored?)
}

/// The addresses that another IPAM plugin gave, as if they had been taken here.
fn given(agent: &Agent, add: &Add) -> Result<Assigned, Failure> {
    if add.given.iter().any(IpAddr::is_ipv6) {
        agent.needs_ipv6()?;
    }
    let whole =
        |address: &IpAddr| AssignedAddress { address: *address, block_length: IpNet::from(*address).prefix_len() };
    Ok(Assigned { addresses: add.given.iter().map(whole).collect(), ..Assigned::default() })
}

/// What the plugin made; `None` if it hung up before.
async fn attached(wire: &mut Wire) -> Result<Option<Attached>, Failure> {
    let failure = |code, message: &str| Failure { code, message: message.to_owned(), details: String::new() };
    match wire.request(SECOND).await {
        Ok(Request::Attached(attached)) => Ok(Some(attached)),
        Ok(_) => Err(failure(code::INVALID, "another request than Attached came in the second round of Add")),
        Err(Silence::Nonsense(failure)) => Err(failure),
        Err(Silence::TimedOut) => Err(failure(code::LATER, "the plugin made no interface in time")),
        Err(Silence::HungUp) => {
            info!("the plugin hung up before it made an interface");
            Ok(None)
        }
    }
}

/// Addresses only, for `calico-ipam` on its own.
async fn assign(agent: &Agent, wire: &mut Wire, add: &Add) -> Result<End, Failure> {
    let identity = identity(agent, &add.sandbox)?;
    check_node(agent, add)?;
    let state = agent.ready().await?;
    let _turn = agent.turns.wait(&identity.key).await;
    agent.settle(&identity, &add.sandbox).await?;
    let (mut assigned, mut assigning) = addresses(agent, &identity, add, None).await?;
    if let Err(error) = assigning.settled().await {
        return Err(agent.not_assigned(add, error).await);
    }
    assigned.mtu = state.pod_mtu;
    if wire.answer(&Reply::Assigned(assigned)).await {
        return Ok(End::Answered);
    }
    info!("the plugin hung up before it was given its addresses");
    agent.give_back(&identity, &add.sandbox).await?;
    Ok(End::HungUp)
}

/// DEL: the interface is switched off, the rest is done later together with others. Of a sandbox whose interface is not known
/// the plugin removes what it finds first; then routes, endpoint and addresses, in this order, so that an address is
/// not given out again before it is gone.
async fn delete(agent: &Agent, wire: &mut Wire, del: &Del) -> Result<End, Failure> {
    let identity = identity(agent, &del.sandbox)?;
    let turn = agent.turns.wait(&identity.key).await;
    if del.gone {
        return agent.forget(&identity, &del.sandbox, None).await.map(|()| End::Done);
    }
    match agent.part(&identity, &del.sandbox, turn).await {
        Parting::Done => Ok(End::Done),
        Parting::Unknown(turn) => {
            drop(turn);
            wire.answer(&Reply::Detach).await;
            Ok(End::Answered)
        }
    }
}

async fn release(agent: &Agent, del: &Del) -> Result<(), Failure> {
    let identity = identity(agent, &del.sandbox)?;
    let _turn = agent.turns.wait(&identity.key).await;
    agent.give_back(&identity, &del.sandbox).await
}

/// The networks that the orchestrator gave this node, for IPAM plugins that take addresses of them.
async fn pod_networks(agent: &Agent, wire: &mut Wire) -> Result<End, Failure> {
    let key = Key::named(Kind::Node, agent.node.clone());
    let node = agent.bounded(agent.store.get::<NodeSpec>(&key)).await.map_err(|reason| Failure {
        code: code::LATER,
        message: format!("the pod networks of node {} could not be read", agent.node),
        details: format!("{reason}; check the datastore, then try again"),
    })?;
    let networks = node.status.unwrap_or_default().pod_cidrs;
    wire.answer(&Reply::PodNetworks(PodNetworks { networks })).await;
    Ok(End::Answered)
}

pub(super) fn identity(agent: &Agent, sandbox: &Sandbox) -> Result<Identity, Failure> {
    Identity::of(sandbox, &agent.node, &agent.prefix)
}

/// A network configuration that names another node would put its addresses on that node's account.
fn check_node(agent: &Agent, add: &Add) -> Result<(), Failure> {
    match &add.node {
        Some(other) if *other != agent.node => Err(Failure {
            code: code::INVALID,
            message: format!("the network configuration is for node {other}, but this is {}", agent.node),
            details: "correct nodename in the network configuration, or NODENAME of the agent".to_owned(),
        }),
        _ => Ok(()),
    }
}
