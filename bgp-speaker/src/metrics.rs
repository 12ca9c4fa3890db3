//! Which numbers does the speaker publish?

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::status::{KernelStatus, SessionStatus, State};

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    peers: IntGaugeVec,
    session_up: IntGaugeVec,
    session_since: IntGaugeVec,
    prefixes: IntGaugeVec,
    messages: IntGaugeVec,
    flaps: IntGaugeVec,
    refused: IntCounterVec,
    changes: IntGaugeVec,
    error_code: IntGaugeVec,
    error_subcode: IntGaugeVec,
    rib_prefixes: IntGaugeVec,
    installed: IntGauge,
    held_back: IntGauge,
    elsewhere: IntGauge,
    kernel_refused: IntGauge,
    kernel_in_sync: IntGauge,
    /// 1 once the datastore's snapshot is complete.
    pub datastore_in_sync: IntGauge,
    /// 1 while the datastore answers.
    pub datastore_answers: IntGauge,
    /// 1 while start-up's recovery lasts.
    pub recovering: IntGauge,
    /// Blocks that this node advertises.
    pub blocks: IntGauge,
    /// Service prefixes that this node originates.
    pub services: IntGauge,
    /// Exchanges of policies while sessions stayed.
    pub policy_exchanges: IntCounter,
    warnings: IntGaugeVec,
}

/// The kinds of warnings, for gauges that show zeroes too.
const WARNINGS: [&str; 6] = ["session", "resource", "policy", "ownership", "services", "password"];

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// If one of the names is taken.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let session = ["session", "peer"];
        let directed = ["session", "peer", "direction"];
        let refused = IntCounterVec::new(
            Opts::new("bgp_connections_refused_total", "Incoming connections closed at once, by reason"),
            &["reason"],
        )?;
        registry.register(Box::new(refused.clone()))?;
        let policy_exchanges =
            IntCounter::new("bgp_policy_exchanges_total", "Exchanges of policies while sessions stayed up")?;
        registry.register(Box::new(policy_exchanges.clone()))?;
        let changes = ["session", "peer", "kind"];
        Ok(Self {
            peers: gauges("bgp_peers", "Sessions by state", &["state"])?,
            session_up: gauges("bgp_session_up", "1 while the session is established", &session)?,
            session_since: gauges("bgp_session_since_seconds", "Unix time of the last change of state", &session)?,
            prefixes: gauges("bgp_session_prefixes", "Prefixes received, accepted, stale, advertised", &directed)?,
            messages: gauges("bgp_session_messages", "Messages received and sent since start", &directed)?,
            flaps: gauges("bgp_session_flaps", "Times the session was lost since start", &session)?,
            refused,
            changes: gauges("bgp_session_changes", "Resets and live changes by configuration since start", &changes)?,
            error_code: gauges(
                "bgp_session_last_error_code",
                "Code of the last NOTIFICATION while the session is not up, or 0",
                &session,
            )?,
            error_subcode: gauges("bgp_session_last_error_subcode", "Its subcode", &session)?,
            rib_prefixes: gauges("bgp_rib_prefixes", "Prefixes in the RIB", &["family"])?,
            installed: gauge("bgp_routes_installed", "Kernel routes that this speaker holds")?,
            held_back: gauge("bgp_routes_held_back", "Prefixes whose next hop cannot be reached")?,
            elsewhere: gauge("bgp_routes_elsewhere", "Learned prefixes that another program routes")?,
            kernel_refused: gauge("bgp_routes_refused", "Routes that the kernel refuses")?,
            kernel_in_sync: gauge("bgp_kernel_in_sync", "1 while the kernel holds what it should")?,
            datastore_in_sync: gauge("bgp_datastore_in_sync", "1 once the datastore's snapshot is complete")?,
            datastore_answers: gauge("bgp_datastore_answers", "1 while the datastore answers")?,
            recovering: gauge("bgp_recovering", "1 while recovery after the start lasts")?,
            blocks: gauge("bgp_blocks_advertised", "Blocks of this node that are advertised")?,
            services: gauge("bgp_services_advertised", "Service prefixes that this node originates")?,
            policy_exchanges,
            warnings: gauges("bgp_warnings", "Conditions that an operator should look at, by kind", &["kind"])?,
        })
    }

    /// An incoming connection was closed at once.
    pub fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[reason]).inc();
    }

    /// Whether one session is up. Its prefixes and messages are not looked at.
    pub fn condition(&self, status: &SessionStatus) {
        let peer = status.peer.ip().to_string();
        let labels = [status.name.as_str(), peer.as_str()];
        let established = matches!(status.state, State::Up | State::Wait);
        let code = status.last_error_code.as_deref().filter(|_| !established);
        let (code, subcode) = code.and_then(|text| text.split_once('.')).unwrap_or(("0", "0"));
        self.error_code.with_label_values(&labels).set(code.parse().unwrap_or(0));
        self.error_subcode.with_label_values(&labels).set(subcode.parse().unwrap_or(0));
        self.session_up.with_label_values(&labels).set(established.into());
        self.session_since.with_label_values(&labels).set(status.since.as_second());
        self.flaps.with_label_values(&labels).set(i64::try_from(status.tally.flaps).unwrap_or(i64::MAX));
    }

    /// How one session is now, with its numbers.
    pub fn session(&self, status: &SessionStatus) {
        self.condition(status);
        let peer = status.peer.ip().to_string();
        let labels = [status.name.as_str(), peer.as_str()];
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for (direction, value) in [
            ("received", status.prefixes.received),
            ("accepted", status.prefixes.accepted),
            ("stale", status.prefixes.stale),
            ("advertised", status.prefixes.advertised),
        ] {
            self.prefixes.with_label_values(&[labels[0], labels[1], direction]).set(number(value));
        }
        for (kind, value) in [("reset", status.tally.resets), ("live", status.tally.live_changes)] {
            self.changes.with_label_values(&[labels[0], labels[1], kind]).set(number(value));
        }
        for (direction, value) in [("received", status.messages.received), ("sent", status.messages.sent)] {
            self.messages.with_label_values(&[labels[0], labels[1], direction]).set(number(value));
        }
    }

    /// How many conditions of which kind there are.
    pub fn warnings(&self, kinds: impl Iterator<Item = &'static str>) {
        WARNINGS.iter().for_each(|kind| self.warnings.with_label_values(&[*kind]).set(0));
        kinds.for_each(|kind| self.warnings.with_label_values(&[kind]).inc());
    }

    /// How many prefixes there are, IPv4 and IPv6.
    pub fn rib(&self, (v4, v6): (usize, usize)) {
        for (family, size) in [("ipv4", v4), ("ipv6", v6)] {
            self.rib_prefixes.with_label_values(&[family]).set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }

    /// A session is no longer configured.
    pub fn forget(&self, name: &str, peer: std::net::IpAddr) {
        let peer = peer.to_string();
        for kind in ["reset", "live"] {
            let _ = self.changes.remove_label_values(&[name, &peer, kind]);
        }
        for gauges in [&self.session_up, &self.session_since, &self.flaps, &self.error_code, &self.error_subcode] {
            let _ = gauges.remove_label_values(&[name, &peer]);
        }
        for direction in ["received", "accepted", "stale", "advertised", "sent"] {
            let _ = self.prefixes.remove_label_values(&[name, &peer, direction]);
            let _ = self.messages.remove_label_values(&[name, &peer, direction]);
        }
    }

    /// How many sessions are in which state.
    pub fn states(&self, states: impl Iterator<Item = State>) {
        let mut counts = [0; State::ALL.len()];
        for state in states {
            let place = State::ALL.iter().position(|other| *other == state);
            if let Some(count) = place.and_then(|place| counts.get_mut(place)) {
                *count += 1;
            }
        }
        for (state, count) in State::ALL.iter().zip(counts) {
            self.peers.with_label_values(&[state.word()]).set(count);
        }
    }

    /// How the kernel's side is.
    pub fn kernel(&self, status: &KernelStatus) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.installed.set(number(status.installed));
        self.held_back.set(number(status.held_back));
        self.elsewhere.set(number(status.elsewhere));
        self.kernel_refused.set(number(status.refused));
        self.kernel_in_sync.set(status.in_sync.into());
    }
}
