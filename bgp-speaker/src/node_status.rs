//! Who wants this node's status in the datastore, and what is written there? (`bgp.md` §4.3)
//!
//! A status client like any other: it asks the speaker as the sockets do, and writes what differs into the
//! CalicoNodeStatus objects that name this node. The speaker does not know of it, and does not wait for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bgp_plan::sessions::Origin;
use calico_api::{
    BGPDaemonStatus, CalicoNodeBGPStatus, CalicoNodeCondition, CalicoNodePeer, CalicoNodeRoute,
    CalicoNodeRouteLearnedFrom, CalicoNodeStatus, CalicoNodeStatusSpec, CalicoNodeStatusStatus, Kind,
};
use calico_datastore::watch::{Update, watch};
use calico_datastore::{Error, Filter, Store, decode};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::bird::{Clock, VERSION};
use crate::sockets::Query;
use crate::status::{PathStatus, Question, Report, Selection, SessionStatus, State};

/// The period where none is written.
const PERIOD: u32 = 10;
/// The longest period, in seconds.
const PERIOD_LIMIT: u32 = 86_400;
/// How often a write that lost against another is tried again.
const ATTEMPTS: u32 = 5;
/// Other failures are tried again, three times, only if the next turn is farther off than this.
const LONG_PERIOD: u32 = 30;
/// The longest message of a condition, in characters.
const MESSAGE_LIMIT: usize = 8 * 1024;

/// One object that wants to be filled.
#[derive(Debug)]
struct Request {
    object: CalicoNodeStatus,
    /// When it is due again; `None` is never, until its spec changes.
    due: Option<Instant>,
    /// Why it could not be written, if it could not: said once.
    complaint: Option<String>,
}

impl Request {
    fn new(object: CalicoNodeStatus, due: Option<Instant>) -> Self {
        Self { object, due, complaint: None }
    }
}

/// Fills the CalicoNodeStatus objects of `node`, for ever.
pub async fn write(store: Store, node: String, queries: mpsc::Sender<Query>) {
    let mut updates = watch(&store, vec![(Kind::CalicoNodeStatus, Filter::All)]);
    let mut requests: BTreeMap<String, Request> = BTreeMap::new();
    loop {
        let due = requests.values().filter_map(|request| request.due).min();
        let sleep = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            update = updates.recv() => match update {
                Some(update) => take(&mut requests, update, &node),
                None => return,
            },
            () = sleep => {
                let now = Instant::now();
                for request in requests.values_mut().filter(|request| request.due.is_some_and(|due| due <= now)) {
                    let period = period(&request.object.spec);
                    let done = fill(&store, request, &queries, period).await;
                    // A status that is wanted once is tried until it is there.
                    let pause = if period == 0 && !done { PERIOD } else { period };
                    request.due = (pause > 0).then(|| now + Duration::from_secs(pause.into()));
                }
            }
        }
    }
}

fn period(spec: &CalicoNodeStatusSpec) -> u32 {
    spec.update_period_seconds.unwrap_or(PERIOD).min(PERIOD_LIMIT)
}

/// Takes an update of the watch.
fn take(requests: &mut BTreeMap<String, Request>, update: Update, node: &str) {
    match update {
        Update::Put(entry) => {
            let name = entry.key.name();
            match decode::<CalicoNodeStatusSpec>(entry) {
                Ok(object) if object.spec.node.as_deref() == Some(node) => {
                    let known = requests.remove(&name).filter(|request| request.object.spec == object.spec);
                    // Our own write comes back, too: it changes no spec, and nothing is due for it.
                    let request = match known {
                        Some(known) => Request { object, ..known },
                        None => Request::new(object, Some(Instant::now())),
                    };
                    requests.insert(name, request);
                }
                Ok(_) => drop(requests.remove(&name)),
                Err(error) => warn!(name, %error, "CalicoNodeStatus is not understood; correct its spec"),
            }
        }
        Update::Delete(key) => drop(requests.remove(&key.name())),
        Update::Fault(fault) => warn!(name = fault.name, reason = fault.reason, "CalicoNodeStatus is not understood"),
        Update::Trouble(Some(reason)) => debug!(reason, "CalicoNodeStatus objects cannot be watched"),
        Update::Trouble(None) | Update::InSync => {}
    }
}

/// Asks the speaker, and writes the answer if it differs from what is there; says whether that is done, or not to be done.
async fn fill(store: &Store, request: &mut Request, queries: &mpsc::Sender<Query>, period: u32) -> bool {
    let classes = Classes::of(&request.object.spec);
    let (sender, receiver) = oneshot::channel();
    if queries.send((classes.question(), sender)).await.is_err() {
        return true; // the process ends
    }
    let Ok(report) = receiver.await else { return false };
    let (mut lost, mut failed) = (0, 0);
    loop {
        let now = Timestamp::now();
        let mut status = status(&report, classes, &TimeZone::system());
        let old = request.object.status.clone().unwrap_or_default();
        keep_transitions(&mut status.conditions, &old.conditions, now);
        status.last_updated.clone_from(&old.last_updated);
        if status == old && old.last_updated.is_some() {
            return true;
        }
        status.last_updated = Some(seconds(now));
        let object = CalicoNodeStatus { status: Some(status), ..request.object.clone() };
        match store.update_status(&object).await {
            Ok(written) => {
                request.object = written;
                request.complaint = None;
                return true;
            }
            Err(Error::NotFound { .. }) => return true, // its deletion will be heard of
            Err(Error::Conflict { .. }) if lost < ATTEMPTS => {
                lost += 1;
                match store.get::<CalicoNodeStatusSpec>(&request.object.key()).await {
                    Ok(object) if object.spec == request.object.spec => request.object = object,
                    // It may be another node's by now; its change will be heard of.
                    Ok(_) | Err(Error::NotFound { .. }) => return true,
                    Err(error) => {
                        debug!(%error, "CalicoNodeStatus cannot be read again");
                        return false;
                    }
                }
            }
            Err(error) if period > LONG_PERIOD && failed < 3 => {
                failed += 1;
                debug!(%error, "CalicoNodeStatus is not written; trying again");
            }
            Err(error) => {
                let (name, complaint) = (&request.object.metadata.name, Some(error.to_string()));
                if request.complaint == complaint {
                    debug!(name, %error, "CalicoNodeStatus is still not written");
                } else {
                    warn!(name, %error, "CalicoNodeStatus is not written; tried again after its period");
                    request.complaint = complaint;
                }
                return false;
            }
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Classes {
    agent: bool,
    bgp: bool,
    routes: bool,
}

impl Classes {
    fn of(spec: &CalicoNodeStatusSpec) -> Self {
        let has = |class: &str| spec.classes.iter().flatten().any(|other| other == class);
        Self { agent: has("Agent"), bgp: has("BGP"), routes: has("Routes") }
    }

    fn question(self) -> Question {
        if self.routes { Question::Routes(Selection::ALL) } else { Question::Sessions }
    }
}

/// The status that the report gives. IPv4 and IPv6 do not depend on each other, and no session spoils the whole.
fn status(report: &Report, classes: Classes, zone: &TimeZone) -> CalicoNodeStatusStatus {
    let clock = Clock { now: report.overview.now, zone };
    let mut status = CalicoNodeStatusStatus { conditions: conditions(report), ..CalicoNodeStatusStatus::default() };
    if classes.agent {
        // One process speaks both families; each is ready as far as its own listener goes.
        let daemon = |ipv4: bool| daemon(report, ipv4, &clock);
        (status.agent.bird_v4, status.agent.bird_v6) = (daemon(true), daemon(false));
    }
    if classes.bgp {
        status.bgp = bgp(report, &clock);
    }
    if classes.routes {
        let routes = |ipv4: bool| {
            let of_family = report.paths.iter().filter(|path| path.prefix.addr().is_ipv4() == ipv4);
            of_family.map(|path| route(path, &report.sessions)).collect()
        };
        (status.routes.routes_v4, status.routes.routes_v6) = (routes(true), routes(false));
    }
    status
}

fn daemon(report: &Report, ipv4: bool, clock: &Clock<'_>) -> BGPDaemonStatus {
    let overview = &report.overview;
    let listens = overview.listening.iter().any(|address| address.is_ipv4() == ipv4);
    let has_sessions = report.sessions.iter().any(|session| session.peer.is_ipv4() == ipv4);
    // A family without address has nothing to do, and that is done.
    let ready = overview.datastore_in_sync && (listens || !has_sessions);
    BGPDaemonStatus {
        state: if ready { "Ready" } else { "NotReady" }.to_owned(),
        version: VERSION.to_owned(),
        router_id: overview.router_id.map(|id| id.to_string()).unwrap_or_default(),
        last_boot_time: clock.full(overview.started),
        last_reconfiguration_time: clock.full(overview.reconfigured),
    }
}

fn bgp(report: &Report, clock: &Clock<'_>) -> CalicoNodeBGPStatus {
    let of_family = |ipv4: bool| report.sessions.iter().filter(move |session| session.peer.is_ipv4() == ipv4);
    let count = |ipv4: bool, up: bool| {
        let number = of_family(ipv4).filter(|session| (session.state == State::Up) == up).count();
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    let peers = |ipv4: bool| of_family(ipv4).map(|session| peer(session, clock)).collect();
    CalicoNodeBGPStatus {
        number_established_v4: count(true, true),
        number_not_established_v4: count(true, false),
        number_established_v6: count(false, true),
        number_not_established_v6: count(false, false),
        peers_v4: peers(true),
        peers_v6: peers(false),
    }
}

fn peer(session: &SessionStatus, clock: &Clock<'_>) -> CalicoNodePeer {
    let state = match (session.state, session.fsm) {
        (State::Down, _) | (_, "Passive") => "",
        (_, fsm) => fsm,
    };
    CalicoNodePeer {
        peer_ip: session.peer.ip().to_string(),
        peer_type: match session.origin {
            Origin::Mesh => "NodeMesh",
            Origin::Global => "GlobalPeer",
            Origin::Node => "NodePeer",
            // Calico's writer gives up the whole status on such a session; ours says what it is.
            Origin::LocalWorkload => "LocalWorkload",
        }
        .to_owned(),
        state: state.to_owned(),
        since: clock.short(session.since),
    }
}

fn route(path: &PathStatus, sessions: &[SessionStatus]) -> CalicoNodeRoute {
    let gateway: Option<IpAddr> = path.via.as_ref().map(|via| via.gateway).or(path.next_hop);
    let interface = match (&path.via, &path.interface, path.next_hop) {
        (Some(via), ..) => via.interface.as_str(),
        (None, Some(interface), _) => interface.as_str(),
        (None, None, Some(_)) => "unreachable",
        (None, None, None) => "blackhole",
    };
    let mesh = |name: &str| {
        sessions.iter().find(|session| session.name == name).is_some_and(|session| session.origin == Origin::Mesh)
    };
    let source_type = match (path.peer, path.kind) {
        (Some(_), _) if mesh(&path.source) => "NodeMesh",
        (Some(_), _) => "BGPPeer",
        (None, Some("direct")) => "Direct",
        (None, Some("workload" | "remote" | "kernel")) => "Kernel",
        (None, _) => "Static",
    };
    CalicoNodeRoute {
        route_type: if path.best { "FIB" } else { "RIB" }.to_owned(),
        destination: path.prefix.to_string(),
        gateway: gateway.filter(|_| interface != "unreachable").map_or_else(|| "N/A".to_owned(), |ip| ip.to_string()),
        interface: interface.to_owned(),
        learned_from: CalicoNodeRouteLearnedFrom {
            source_type: source_type.to_owned(),
            peer_ip: path.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        },
    }
}

/// What an operator must know beyond Calico's fields.
fn conditions(report: &Report) -> Vec<CalicoNodeCondition> {
    let overview = &report.overview;
    let condition = |kind: &str, good: bool, reasons: (&str, &str), message: String| CalicoNodeCondition {
        condition_type: kind.to_owned(),
        status: if good { "True" } else { "False" }.to_owned(),
        reason: if good { reasons.0 } else { reasons.1 }.to_owned(),
        message: message.chars().take(MESSAGE_LIMIT).collect(),
        last_transition_time: None,
    };
    let kernel = &overview.kernel;
    vec![
        condition(
            "ResourcesValid",
            overview.warnings.is_empty(),
            ("NoWarnings", "Warnings"),
            overview.warnings.join("; "),
        ),
        condition(
            "DatastoreAnswers",
            overview.datastore_trouble.is_none(),
            ("Answers", "Unreachable"),
            overview.datastore_trouble.clone().unwrap_or_default(),
        ),
        condition(
            "RoutesProgrammed",
            kernel.in_sync,
            ("InSync", "KernelRefuses"),
            kernel.error.clone().unwrap_or_default(),
        ),
    ]
}

/// A condition whose status is what it was has been so since then.
fn keep_transitions(new: &mut [CalicoNodeCondition], old: &[CalicoNodeCondition], now: Timestamp) {
    for condition in new {
        let before = old.iter().find(|other| other.condition_type == condition.condition_type);
        let since = before.filter(|other| other.status == condition.status);
        condition.last_transition_time = match since.and_then(|other| other.last_transition_time.clone()) {
            Some(since) => Some(since),
            None => Some(seconds(now)),
        };
    }
}

/// RFC 3339, in whole seconds, as Kubernetes has its times.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use calico_api::{ObjectMeta, Resource};
    use calico_datastore::Config;

    use super::*;
    use crate::bird::samples;

    #[test]
    fn each_class_fills_its_part_and_families_do_not_depend_on_each_other() {
        let report = samples::report();
        let all = Classes { agent: true, bgp: true, routes: true };
        let status = status(&report, all, &TimeZone::UTC);
        assert_eq!((status.bgp.number_established_v4, status.bgp.number_not_established_v4), (1, 2));
        assert_eq!((status.bgp.number_established_v6, status.bgp.number_not_established_v6), (0, 1));
        let states: Vec<_> = status.bgp.peers_v4.iter().map(|peer| peer.state.as_str()).collect();
        assert_eq!(states, ["", "Established", "Active"], "a session that is down has no state of the FSM");
        assert_eq!(status.bgp.peers_v6[0].state, "", "passive");
        let [own, learned] = status.routes.routes_v4.as_slice() else { panic!("{:?}", status.routes) };
        assert_eq!((own.gateway.as_str(), own.interface.as_str()), ("N/A", "blackhole"));
        assert_eq!(own.learned_from.source_type, "Static");
        assert_eq!((learned.gateway.as_str(), learned.interface.as_str()), ("10.0.0.2", "eth0"));
        assert_eq!((learned.route_type.as_str(), learned.learned_from.source_type.as_str()), ("FIB", "NodeMesh"));
        assert_eq!(status.agent.bird_v4.router_id, "10.0.0.1");
        let only = super::status(&report, Classes { agent: true, ..Classes::default() }, &TimeZone::UTC);
        assert_eq!((&only.bgp, &only.routes), (&CalicoNodeBGPStatus::default(), &Default::default()));
    }

    #[tokio::test]
    async fn a_status_is_written_when_it_changes_and_only_then() {
        let store = calico_datastore::connect(&Config::Sqlite { path: ":memory:".to_owned() }).await.unwrap();
        let spec = CalicoNodeStatusSpec {
            node: Some("a".to_owned()),
            classes: Some(vec!["BGP".to_owned()]),
            update_period_seconds: Some(0),
        };
        let object = store.create(&Resource::new(ObjectMeta::named("s"), spec)).await.unwrap();
        let (asked, mut queries) = mpsc::channel::<Query>(1);
        let answer = tokio::spawn(async move {
            for up in [true, true, false, true, true] {
                let (_, answer) = queries.recv().await.unwrap();
                let mut report = samples::report();
                if !up {
                    report.sessions.retain(|session| session.state != State::Up);
                }
                answer.send(report).unwrap();
            }
        });
        let mut request = Request::new(object.clone(), None);
        fill(&store, &mut request, &asked, 0).await;
        let first = store.get::<CalicoNodeStatusSpec>(&object.key()).await.unwrap();
        assert_eq!(first.status.as_ref().unwrap().bgp.number_established_v4, 1);
        fill(&store, &mut request, &asked, 0).await;
        let second = store.get::<CalicoNodeStatusSpec>(&object.key()).await.unwrap();
        assert_eq!(first.metadata.resource_version, second.metadata.resource_version, "nothing changed");
        // Somebody else's write came between: it is read again and not overwritten blindly.
        let mut request = Request::new(object, None);
        fill(&store, &mut request, &asked, 0).await;
        let third = store.get::<CalicoNodeStatusSpec>(&request.object.key()).await.unwrap();
        assert_eq!(third.status.as_ref().unwrap().bgp.number_established_v4, 0);
        // Somebody gave it to another node, and that is not heard of yet: it is not ours to write.
        let mut theirs = third.clone();
        theirs.spec.node = Some("b".to_owned());
        let theirs = store.update(&theirs).await.unwrap();
        assert!(fill(&store, &mut request, &asked, 0).await);
        let fourth = store.get::<CalicoNodeStatusSpec>(&theirs.key()).await.unwrap();
        assert_eq!(fourth.metadata.resource_version, theirs.metadata.resource_version, "untouched");
        store.delete_key(&theirs.key()).await.unwrap();
        assert!(fill(&store, &mut request, &asked, 0).await, "what is deleted wants nothing");
        answer.await.unwrap();
    }
}
