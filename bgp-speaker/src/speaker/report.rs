//! What does the speaker say when it is asked?

use std::collections::{BTreeMap, BTreeSet};

use bgp_plan::services::{EXCLUDED, Services};
use jiff::Timestamp;
use tokio::sync::oneshot;

use super::Speaker;
use super::hear::service_settings;
use crate::kernel::Command;
use crate::routing::{REJECTED, SessionView};
use crate::status::{Overview, PathStatus, Prefixes, Question, Report, Selection, ServiceStatus, SessionStatus, State};

impl Speaker {
    /// Answers a status client; what only the kernel's thread knows is filled in there.
    pub(super) fn answer(&mut self, question: Question, answer: oneshot::Sender<Report>) {
        let clock = Timestamp::now();
        let sessions = match question {
            Question::Status => Vec::new(),
            Question::Sessions | Question::Routes(_) => self.session_statuses(clock),
        };
        let paths = match question {
            Question::Status | Question::Sessions => Vec::new(),
            Question::Routes(selection) => {
                let mut paths = self.routing.paths(&selection, &self.session_views());
                paths.iter_mut().for_each(|path| self.explain(path));
                paths
            }
        };
        let services = match question {
            Question::Status | Question::Sessions => Vec::new(),
            Question::Routes(selection) => self.service_statuses(&selection),
        };
        let report = Report { overview: self.overview(clock), sessions, paths, services };
        if report.paths.is_empty() {
            let _ = answer.send(report); // the client may be gone
            return;
        }
        let commands = self.kernel.commands.clone();
        tokio::spawn(async move {
            // If the thread has ended, so has the speaker, and with it the client's wait.
            let _ = commands.send(Command::Complete(Box::new(report), answer)).await;
        });
    }

    fn session_statuses(&self, clock: Timestamp) -> Vec<SessionStatus> {
        let status = |id: &u32| {
            let peer = self.peers.get(id)?;
            let mut status = peer.status(clock, self.routing.prefixes(*id, peer.family()));
            if status.state == State::Up && self.routing.is_deferred() {
                status.state = State::Wait;
            }
            if let Some(error) = self.key_error(peer).filter(|_| !peer.is_up()) {
                status.last_error = Some(format!("Error: {error}"));
            }
            Some(status)
        };
        self.by_name.values().filter_map(status).collect()
    }

    /// Says in words which rule of export keeps an own route from a session (`bgp.md` §2.3, in its order).
    fn explain(&self, path: &mut PathStatus) {
        let prefix = path.prefix;
        let interface = path.interface.clone().unwrap_or_default();
        let hidden = self.inputs.pools.iter().find(|(_, pool)| pool.disable_bgp_export && pool.cidr.contains(&prefix));
        let originated = self.routing.originated();
        let around = originated.blocks.iter().find(|block| block.contains(&prefix) && **block != prefix);
        let in_pool = self.inputs.pools.values().any(|pool| pool.cidr.contains(&prefix));
        let in_service = originated.services.iter().any(|service| service.contains(&prefix));
        for (session, reason) in path.not_advertised_to.iter_mut().filter(|(_, reason)| *reason == REJECTED) {
            let id = self.by_name.get(session);
            let Some(config) = id.and_then(|id| self.peers.get(id)).map(|peer| &peer.config) else { continue };
            let rule = match (hidden, around) {
                (Some((name, _)), _) => format!("IPPool {name} has disableBGPExport"),
                (None, Some(block)) if path.kind != Some("service") => {
                    format!("it is inside this node's block {block}, which is advertised as a whole")
                }
                _ if !in_pool && !in_service && path.kind != Some("block") => {
                    "it is outside of all pools and service ranges".to_owned()
                }
                _ if config.is_internal() && path.kind == Some("remote") => {
                    format!("it leads to another node by {interface}: internal peers have it from that node")
                }
                _ => "the rules of export reject it".to_owned(),
            };
            *reason = match config.filters.is_empty() {
                true => rule,
                // Filters come first, and which of their rules it was is not known here.
                false => format!("filters [{}] reject it, or {rule}", config.filters.join(", ")),
            };
        }
    }

    /// What becomes of the services that have the selected address, if that is a single one.
    fn service_statuses(&self, selection: &Selection) -> Vec<ServiceStatus> {
        let single = selection.prefix.filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
        let Some(address) = single else { return Vec::new() };
        let settings = service_settings(&self.settings, &self.inputs.global);
        let node = self.settings.kubernetes_node.as_deref().unwrap_or(&self.node);
        let excluded =
            self.inputs.nodes.get(&self.node).is_some_and(|facts| Services::excludes(facts.labels.get(EXCLUDED)));
        let mut statuses = Vec::new();
        for (namespace, name) in self.inputs.services.with_address(address.addr()) {
            let standings = self.inputs.services.advertised_from((namespace, name), &settings, node, excluded);
            for standing in standings.into_iter().flatten().filter(|standing| standing.address == address) {
                statuses.push(ServiceStatus {
                    service: format!("{namespace}/{name}"),
                    address,
                    advertised: standing.step.advertises(),
                    reason: standing.step.to_string(),
                });
            }
        }
        statuses
    }

    /// The sessions as the view of routes needs them.
    fn session_views(&self) -> BTreeMap<u32, SessionView> {
        let view = |peer: &crate::peer::Peer| SessionView {
            name: peer.config.name.clone(),
            address: peer.config.peer.ip(),
            silent: match peer.state() {
                State::Up => None,
                state => Some(format!("the session is not established ({})", state.word())),
            },
        };
        self.peers.iter().map(|(id, peer)| (*id, view(peer))).collect()
    }

    fn overview(&self, clock: Timestamp) -> Overview {
        let originated = self.routing.originated();
        let mut warnings: BTreeSet<String> = self.conditions.iter().map(|(_, text)| text.clone()).collect();
        warnings.extend(self.deaf().iter().map(|address| format!("cannot listen on {address}")));
        if let Some(reason) = &self.datastore.trouble {
            warnings.insert(format!("datastore does not answer: {reason}"));
        }
        Overview {
            node: self.node.clone(),
            version: calico_version::LONG,
            router_id: self.identity.map(|identity| identity.router_id.address()),
            local_as: self.plan.local_as,
            now: clock,
            started: self.started,
            reconfigured: self.reconfigured,
            datastore_in_sync: self.datastore.in_sync,
            datastore_trouble: self.datastore.trouble.clone(),
            listening: self.listeners.iter().filter(|(_, task)| task.is_some()).map(|(address, _)| *address).collect(),
            recovery: self.recovery_status(),
            kernel: self.kernel.status.borrow().clone(),
            blocks: originated.blocks.iter().copied().collect(),
            services: originated.services.iter().copied().collect(),
            policy_exchanges: self.routing.exchanges(),
            warnings: warnings.into_iter().collect(),
        }
    }

    /// Publishes whether one session is up. What it was told is not counted: that means a walk of its Adj-RIB-Out.
    pub(super) fn publish_session(&self, id: u32) {
        if let Some(peer) = self.peers.get(&id) {
            self.metrics.condition(&peer.status(Timestamp::now(), Prefixes::default()));
        }
        self.metrics.states(self.peers.values().map(crate::peer::Peer::state));
    }

    /// Publishes the numbers of everything.
    pub(super) fn publish_counters(&self) {
        let clock = Timestamp::now();
        for (id, peer) in &self.peers {
            self.metrics.session(&peer.status(clock, self.routing.prefixes(*id, peer.family())));
        }
        self.metrics.states(self.peers.values().map(crate::peer::Peer::state));
        self.metrics.rib(self.routing.sizes());
    }

    /// Says how we are: ready when our own work is done. A peer that is down makes nobody unready.
    pub(super) fn report_health(&mut self) {
        let kernel = self.kernel.status.borrow();
        let deaf = self.deaf();
        let (ready, detail) = match (&self.datastore.trouble, self.datastore.in_sync) {
            (Some(reason), false) => (false, format!("waiting for the datastore: {reason}")),
            (None, false) => (false, "waiting for the datastore's snapshot".to_owned()),
            _ if self.datastore.services_until.is_some() => (false, "waiting for Services".to_owned()),
            _ if !self.kernel_told => (false, "waiting for the kernel's routes".to_owned()),
            _ if self.plan.local.is_none() => (false, "this node has no BGP address in the datastore yet".to_owned()),
            _ if !deaf.is_empty() => (false, format!("cannot listen on {deaf:?}: is another BGP speaker running?")),
            _ if !kernel.in_sync => {
                (false, format!("routes are not in the kernel: {}", kernel.error.as_deref().unwrap_or("working on it")))
            }
            _ => {
                let up = self.peers.values().filter(|peer| peer.is_up()).count();
                (true, format!("{up} of {} sessions established", self.peers.len()))
            }
        };
        drop(kernel);
        if self.said.as_ref() != Some(&(ready, detail.clone())) {
            self.health.report(true, ready, detail.clone());
            self.said = Some((ready, detail));
        }
    }
}
