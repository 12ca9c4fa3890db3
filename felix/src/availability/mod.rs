//! Whether Kubernetes may put pods on this node: its condition NetworkUnavailable (reference bgp.md §3.8).
//!
//! True while Felix is down on purpose, False once Felix and bgp-speaker are ready. Kubernetes makes of True a taint of effect
//! NoSchedule (its node-lifecycle controller, `nodeConditionToTaintKeyStatusMap`): nothing that runs is evicted, so a roll of
//! the DaemonSet moves no pod.

mod bird;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use calico_daemon::Health;
use calico_datastore::{Error, NodeCondition, Store};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::bring_up::Site;
use crate::config::Backend;
use bird::Answer;

/// After this the node is told to be available in any case.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// For how long all peers are waited for; later one is enough. Departs from Calico, which gives all of [`LIMIT`] to this: one dead
/// peer would keep pods off a node for five minutes.
const WINDOW: Duration = Duration::from_secs(30);
/// How often readiness is looked at.
const STEP: Duration = Duration::from_secs(1);
/// The first and the longest wait after a write that failed.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// How long stopping may be held up by all of this.
const FAREWELL: Duration = Duration::from_secs(2);

/// Writes the condition; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Availability {
    kubernetes: Option<Store>,
    node: String,
    shutdown_file: PathBuf,
    sockets: PathBuf,
    backend: Backend,
}

/// Whether the node is available.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Available,
    /// Not yet, because of this.
    Not(String),
}

impl Availability {
    /// For the node of `site`.
    pub(crate) fn new(site: &Site) -> Self {
        Self {
            kubernetes: site.kubernetes.clone(),
            node: site.kubernetes_node().to_owned(),
            shutdown_file: site.config.node.shutdown_file.clone(),
            sockets: site.config.bird_sockets.clone(),
            backend: site.config.node.backend,
        }
    }

    /// Waits until the node is available and says so; again whenever `made_anew` tells that its Node is another one.
    pub(crate) async fn run(self, health: Health, mut made_anew: watch::Receiver<u64>) {
        if self.backend == Backend::None {
            return;
        }
        self.wait(&health).await;
        loop {
            made_anew.mark_unchanged();
            self.write_until_done(false).await;
            match std::fs::remove_file(&self.shutdown_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!(file = %self.shutdown_file.display(), %error, "the time of the last shutdown is not removed");
                }
                _ => {}
            }
            if made_anew.changed().await.is_err() {
                return;
            }
        }
    }

    async fn wait(&self, health: &Health) {
        let start = Instant::now();
        let mut said = None;
        loop {
            let felix = health.ready(std::time::Instant::now()).good;
            let mut answers = Vec::new();
            // Of the IPv6 socket only what it says counts: a speaker before ours may have none.
            if self.backend == Backend::Bird {
                answers.push(bird::ask(&self.sockets.join("bird.ctl")).await);
                let second = self.sockets.join("bird6.ctl");
                if second.exists() {
                    answers.push(bird::ask(&second).await);
                }
            }
            match verdict(felix, &answers, start.elapsed()) {
                Verdict::Available => return info!(after = ?start.elapsed(), "the node is available"),
                Verdict::Not(reason) => {
                    if said.as_ref() != Some(&reason) {
                        info!(reason, "the node is not available yet");
                        said = Some(reason);
                    }
                }
            }
            sleep(STEP).await;
        }
    }

    /// Says that Felix stops. Returns within two seconds, whatever happens.
    pub(crate) async fn down(self) {
        if self.backend == Backend::None {
            return;
        }
        let now = now();
        if let Err(error) = crate::bring_up::write_whole(&self.shutdown_file, &now) {
            warn!(file = %self.shutdown_file.display(), %error, "the time of this shutdown is not kept");
        }
        if self.kubernetes.is_some() && timeout(FAREWELL, self.write_until_done(true)).await.is_err() {
            warn!("Kubernetes was not told in time that this node's network goes down");
        }
    }

    async fn write_until_done(&self, unavailable: bool) {
        let Some(kubernetes) = &self.kubernetes else { return };
        let mut wait = FIRST;
        let mut said = None;
        loop {
            let condition = condition(unavailable, now());
            match kubernetes.backend().set_node_condition(&self.node, &condition).await {
                Ok(true) => return info!(unavailable, "condition NetworkUnavailable written"),
                Ok(false) => return debug!(unavailable, "condition NetworkUnavailable is so already"),
                Err(error) => {
                    // The Node may come back, and a right may be granted; both are told once.
                    let error = match error {
                        Error::NotFound(_) => format!("there is no Kubernetes node {}", self.node),
                        other => other.to_string(),
                    };
                    if said.as_ref() != Some(&error) {
                        warn!(error, again_in = ?wait, "condition NetworkUnavailable is not written");
                        said = Some(error);
                    }
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST);
        }
    }
}

fn now() -> String {
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default().to_string()
}

/// Calico's words, which operators look for.
fn condition(unavailable: bool, now: String) -> NodeCondition {
    let (reason, message) = match unavailable {
        true => ("CalicoIsDown", "Calico is shutting down on this node"),
        false => ("CalicoIsUp", "Calico is running on this node"),
    };
    NodeCondition {
        condition_type: "NetworkUnavailable".to_owned(),
        status: unavailable,
        reason: reason.to_owned(),
        message: message.to_owned(),
        now,
    }
}

/// What Felix' readiness and the answers of the speaker's sockets amount to, so long after the start (reference bgp.md §3.7).
fn verdict(felix: bool, answers: &[Result<Answer, String>], elapsed: Duration) -> Verdict {
    if elapsed >= LIMIT {
        return Verdict::Available;
    }
    if !felix {
        return Verdict::Not("Felix is not ready".to_owned());
    }
    for answer in answers {
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => return Verdict::Not(reason.clone()),
        };
        let down: Vec<&str> = answer.peers.iter().filter(|(_, up)| !up).map(|(peer, _)| peer.as_str()).collect();
        let enough = if elapsed < WINDOW { down.is_empty() } else { down.len() < answer.peers.len() };
        if !answer.peers.is_empty() && !enough {
            return Verdict::Not(format!("BGP not established with {}", down.join(",")));
        }
        if !answer.peers.is_empty() && elapsed < WINDOW && answer.recovering {
            return Verdict::Not("graceful restart in progress".to_owned());
        }
    }
    Verdict::Available
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(peers: &[(&str, bool)], recovering: bool) -> Result<Answer, String> {
        Ok(Answer { peers: peers.iter().map(|(peer, up)| (peer.to_string(), *up)).collect(), recovering })
    }

    #[track_caller]
    fn check(felix: bool, answers: &[&Result<Answer, String>], seconds: u64, expected: &str) {
        let answers: Vec<_> = answers.iter().map(|answer| (*answer).clone()).collect();
        let found = match verdict(felix, &answers, Duration::from_secs(seconds)) {
            Verdict::Available => "available".to_owned(),
            Verdict::Not(reason) => reason,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_node_is_available_when_both_are_ready_or_five_minutes_have_passed() {
        let none = answer(&[], true);
        let all = answer(&[("192.0.2.2", true), ("192.0.2.3", true)], false);
        let some = answer(&[("192.0.2.2", true), ("192.0.2.3", false)], false);
        let nobody = answer(&[("192.0.2.2", false), ("192.0.2.3", false)], false);
        let recovering = answer(&[("192.0.2.2", true)], true);
        let silent = Err("bgp-speaker on bird.ctl: Connection refused".to_owned());
        check(true, &[&none], 0, "available");
        check(true, &[&all, &all], 0, "available");
        check(true, &[&all, &some], 0, "BGP not established with 192.0.2.3");
        check(true, &[&some], 29, "BGP not established with 192.0.2.3");
        check(true, &[&some], 30, "available");
        check(true, &[&nobody], 299, "BGP not established with 192.0.2.2,192.0.2.3");
        check(true, &[&nobody], 300, "available");
        check(true, &[&recovering], 29, "graceful restart in progress");
        check(true, &[&recovering], 30, "available");
        check(true, &[&silent], 299, "bgp-speaker on bird.ctl: Connection refused");
        check(true, &[&silent], 300, "available");
        check(false, &[&all], 299, "Felix is not ready");
        check(false, &[&none], 300, "available");
        check(true, &[], 0, "available");
    }

    #[test]
    fn conditions_are_in_calicos_words() {
        let up = condition(false, "t".to_owned());
        assert_eq!((up.status, &*up.reason, &*up.message), (false, "CalicoIsUp", "Calico is running on this node"));
        let down = condition(true, "t".to_owned());
        assert_eq!((down.status, &*down.reason), (true, "CalicoIsDown"));
        assert!(now().ends_with('Z') && now().len() == 20, "{}", now());
    }
}
